package tests

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mas-cluster/internal/node"
)

// pod is a pod in one region that runs kubectl, which is in the program that all of this is about.
func pod(name, region, policy string, args ...string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  nodeSelector: {topology.kubernetes.io/region: %s}
  restartPolicy: %s
  containers:
  - name: main
    image: localhost/program:1
    command: [/program, kubectl, "%s"]
    env: [{name: HOME, value: /tmp}, {name: KUBECONFIG, value: /none}]
---
`, name, region, policy, strings.Join(args, `", "`))
}

const service = `apiVersion: v1
kind: Service
metadata: {name: server}
spec: {clusterIP: 10.96.7.7, selector: {app: server}, ports: [{port: 80, targetPort: 8001}]}
`

// Three nodes, with real pods that talk to each other and to the API server.
func TestThreeNodesRunPods(t *testing.T) {
	if err := node.Check(); err != nil {
		t.Skip(err)
	}
	p := newPlace(t)
	p.up("--nodes=3")

	if regions := p.must("kubectl", "get", "nodes", "-L", "topology.kubernetes.io/region"); strings.Count(regions, " Ready ") != 3 ||
		!strings.Contains(regions, "region-3") {
		t.Errorf("the nodes: %s", regions)
	}
	p.load()
	p.apply(service+"---\n"+
		pod("server", "region-2", "Always", "proxy", "--address=0.0.0.0", "--port=8001", "--accept-hosts=.*")+
		pod("client", "region-1", "OnFailure", "--server=http://10.96.7.7", "version")+
		pod("whoami", "region-3", "OnFailure", "--kubeconfig=", "auth", "whoami"), "kubectl", "apply", "-f", "-")
	p.must("kubectl", "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	p.must("kubectl", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "pod/whoami", "--timeout=60s")
	if said := p.must("kubectl", "logs", "client"); !strings.Contains(said, "Server Version: v1.34.") {
		t.Errorf("one pod asked another in another region through a Service: %s", said)
	}
	if said := p.must("kubectl", "logs", "whoami"); !strings.Contains(said, "system:serviceaccount:default:default") {
		t.Errorf("a pod asked the API server who it is: %s", said)
	}
	p.must("kubectl", "exec", "server", "--", "/program", "--help")

	server := p.must("kubectl", "get", "pod", "server", "-o", "jsonpath={.status.podIP}") + ":8001"
	reached := func() bool {
		connection, err := net.DialTimeout("tcp", server, 500*time.Millisecond)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	}
	p.wait("the pod is reached from here", reached)
	p.must("cut", "node-2", "--dir", p.dir)
	if reached() {
		t.Error("a pod on a node that is cut off is reached")
	}
	p.must("heal", "node-2", "--dir", p.dir)
	p.wait("the pod is reached again", reached)

	p.namesAndVolumes()
	p.remember()
	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
}

func TestAKilledSupervisorTakesTheNodesAlong(t *testing.T) {
	if err := node.Check(); err != nil {
		t.Skip(err)
	}
	p := newPlace(t)
	p.up("--nodes=1")
	p.load()
	p.apply(pod("server", "region-1", "Always", "proxy"), "kubectl", "apply", "-f", "-")
	p.must("kubectl", "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	if err := p.remember().Supervisor.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.noProcessIsLeft()
	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
}

// load gives the nodes images with this program in it, and with the tests in it: see look.
func (p *place) load() {
	p.Helper()
	path := os.Getenv("MAS_CLUSTER")
	if path == "" {
		p.Skip("the program's path is not known: run this with tools/cluster test")
	}
	tests, err := os.Executable()
	if err != nil {
		p.Fatal(err)
	}
	for name, path := range map[string]string{"program": path, "look": tests} {
		program, err := os.ReadFile(path)
		if err != nil {
			p.Fatal(err)
		}
		image, err := node.Image("localhost/"+name+":1", program)
		if err != nil {
			p.Fatal(err)
		}
		file := filepath.Join(p.TempDir(), name+".tar")
		if err := os.WriteFile(file, image, 0o600); err != nil {
			p.Fatal(err)
		}
		p.must("load", file, "--dir", p.dir)
	}
}
