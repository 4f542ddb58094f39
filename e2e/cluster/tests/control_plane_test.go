package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const widgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {least: {type: integer}, most: {type: integer}}
            x-kubernetes-validations:
            - rule: self.least <= self.most
              message: least must not be greater than most
`

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
`

const privileged = `apiVersion: v1
kind: Pod
metadata: {name: root}
spec: {containers: [{name: root, image: root, securityContext: {privileged: true}}]}
`

func widget(least, most string) string {
	return "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {least: " + least + ", most: " + most + "}\n"
}

// The control plane alone: etcd, API server, controllers and scheduler, without any node.
func TestControlPlaneWithoutNodes(t *testing.T) {
	p := newPlace(t)
	p.up("--audit")

	if version := p.must("kubectl", "version"); strings.Count(version, "Version: v1.34.") != 2 {
		t.Errorf("client and server do not say their version: %s", version)
	}
	p.must("kubectl", "create", "namespace", "here")
	p.must("kubectl", "-n", "here", "create", "configmap", "colours", "--from-literal=sky=blue")
	if sky := p.must("kubectl", "-n", "here", "get", "configmap", "colours", "-o", "jsonpath={.data.sky}"); sky != "blue" {
		t.Errorf("the sky is %s", sky)
	}

	p.apply(widgets, "kubectl", "apply", "-f", "-")
	p.must("kubectl", "wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s")
	p.apply(widget("1", "2"), "kubectl", "-n", "here", "apply", "-f", "-")
	p.refused(widget("3", "2"), "least must not be greater than most", "kubectl", "-n", "here", "apply", "-f", "-")

	p.apply(deployment, "kubectl", "-n", "here", "apply", "-f", "-")
	p.wait("the deployment has its pods", func() bool {
		return p.must("kubectl", "-n", "here", "get", "pods", "-o", "jsonpath={.items[*].status.phase}") == "Pending Pending"
	})
	if sets := p.must("kubectl", "-n", "here", "get", "replicasets", "-o", "name"); strings.Count(sets, "replicaset") != 1 {
		t.Errorf("the deployment's replica sets: %s", sets)
	}

	p.must("kubectl", "create", "namespace", "strict")
	p.must("kubectl", "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
	p.refused(privileged, `violates PodSecurity "restricted`, "kubectl", "-n", "strict", "apply", "-f", "-")

	p.anotherUserHasItsOwnRights()
	p.requestsAreRecorded()

	if again := p.must("up", "--dir", p.dir); !strings.Contains(again, "runs already") {
		t.Errorf("a second up: %s", again)
	}
	p.must("stop", "kube-apiserver", "--dir", p.dir)
	if status, err := p.run("status", "--dir", p.dir); err == nil || !strings.Contains(status, "stopped") {
		t.Errorf("status without an API server: %v, %s", err, status)
	}
	p.refused("", "", "kubectl", "get", "namespaces")
	p.must("start", "kube-apiserver", "--dir", p.dir)
	p.must("kubectl", "get", "namespace", "here")
	p.must("status", "--dir", p.dir)
	p.componentsHoldNothingOfTheSupervisor()

	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
	if again := p.must("down", "--dir", p.dir); !strings.Contains(again, "no cluster") {
		t.Errorf("a second down: %s", again)
	}
}

// The supervisor's lock, above all: it must be free when the supervisor has ended, however that ended.
func (p *place) componentsHoldNothingOfTheSupervisor() {
	p.Helper()
	for _, component := range p.remember().Components {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", component.Process.PID))
		if len(files) == 0 {
			p.Errorf("%s has no open files", component.Name)
		}
		for _, file := range files {
			if open, _ := os.Readlink(file); strings.HasSuffix(open, ".lock") {
				p.Errorf("%s has %s open", component.Name, open)
			}
		}
	}
}

func (p *place) anotherUserHasItsOwnRights() {
	p.Helper()
	file := filepath.Join(p.TempDir(), "alice.kubeconfig")
	config := p.must("kubeconfig", "--dir", p.dir, "--user", "alice", "--group", "readers", "--namespace", "here")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		p.Fatal(err)
	}
	p.refused("", `User "alice" cannot list`, "kubectl", "--kubeconfig", file, "get", "configmaps")
	p.must("kubectl", "-n", "here", "create", "rolebinding", "readers", "--clusterrole=view", "--group=readers")
	p.wait("the group may read", func() bool {
		_, err := p.run("kubectl", "--kubeconfig", file, "get", "configmap", "colours")
		return err == nil
	})
	p.refused("", "forbidden", "kubectl", "--kubeconfig", file, "delete", "configmap", "colours")
}

func (p *place) requestsAreRecorded() {
	p.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "logs", "audit.log"))
	if err != nil {
		p.Fatal(err)
	}
	lines := map[string]int{}
	deleted := ""
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var event struct {
			AuditID, Stage, Verb string
			User                 struct{ Username string }
			Annotations          map[string]string
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			p.Fatalf("%v: %s", err, line)
		}
		if lines[event.AuditID]++; lines[event.AuditID] > 1 {
			p.Errorf("a request has more than one line: %s", line)
		}
		if event.Verb == "delete" && event.User.Username == "alice" {
			deleted = event.Annotations["authorization.k8s.io/decision"]
		}
	}
	if deleted != "forbid" {
		p.Errorf("alice's attempt to delete: %q", deleted)
	}
}
