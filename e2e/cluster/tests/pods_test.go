package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// looker is a pod that looks (see look) for names, as a user that is not root. Its volume is a claim's.
func looker(name, region, claim string, names ...string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  nodeSelector: {topology.kubernetes.io/region: %s}
  terminationGracePeriodSeconds: 0
  hostname: %[1]s
  subdomain: lookers
  securityContext: {runAsUser: 10001, runAsGroup: 10001, runAsNonRoot: true}
  volumes: [{name: data, persistentVolumeClaim: {claimName: %[3]s}}]
  containers:
  - name: main
    image: localhost/look:1
    command: [/program, look, "%[4]s"]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
    volumeMounts: [{name: data, mountPath: /data}]
    readinessProbe: {periodSeconds: 1, tcpSocket: {port: 9}}
---
`, name, region, claim, strings.Join(names, `", "`))
}

func claim(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
`, name)
}

// Of pods that are never ready.
const headless = `apiVersion: v1
kind: Service
metadata: {name: lookers}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: other}, ports: [{port: 8001}]}
---
`

// namesAndVolumes is about a pod in region-2, whose name server and volume are on its node, and another one in region-1.
func (p *place) namesAndVolumes() {
	p.Helper()
	one := looker("one", "region-2", "one", "other.lookers", "other.lookers.default.svc", "lookers.default.svc.cluster.local", "server",
		"kubernetes.default.svc.cluster.local", "nobody", "nobody.lookers.default.svc.cluster.local", "example.com",
		"10.96.7.7", "other.lookers:8001", "kubernetes.default:443")
	p.apply(claim("one")+claim("other")+headless+looker("other", "region-1", "other")+one, "kubectl", "apply", "-f", "-")
	p.must("kubectl", "wait", "--for=jsonpath={.status.phase}=Running", "pod/one", "pod/other", "--timeout=60s")
	other := p.must("kubectl", "get", "pod", "other", "-o", "jsonpath={.status.podIP}")
	volume := p.volume("one")

	names := func(found map[string]answer) bool {
		for name, expected := range map[string]string{
			"other.lookers": other, "other.lookers.default.svc": other, "lookers.default.svc.cluster.local": other,
			"server": "10.96.7.7", "kubernetes.default.svc.cluster.local": "10.96.0.1", "10.96.7.7": "server.default.svc.cluster.local.",
			"nobody": "", "nobody.lookers.default.svc.cluster.local": "", "example.com": "",
		} {
			switch answer := found[name]; {
			case expected != "" && !slices.Equal(answer.Found, []string{expected}), expected == "" && !answer.None, answer.Took > 500*time.Millisecond:
				return false
			}
		}
		return true
	}
	reaches := func(found map[string]answer) (peers, server bool) {
		return found["other.lookers:8001"].Found != nil, found["kubernetes.default:443"].Found != nil
	}
	p.answers(volume, "names are resolved, also of a pod that is not ready, and those that are not there are not", names)

	p.must("cut", "node-2", "--dir", p.dir)
	p.answers(volume, "a node that is cut off reaches nobody, and its pods resolve names", func(found map[string]answer) bool {
		peers, server := reaches(found)
		return names(found) && !peers && !server
	})
	p.must("heal", "node-2", "--dir", p.dir)
	p.must("cut", "--peers", "node-2", "--dir", p.dir)
	p.answers(volume, "a node that is cut off from its peers reaches the API server", func(found map[string]answer) bool {
		peers, server := reaches(found)
		return names(found) && !peers && server
	})
	p.must("heal", "node-2", "--dir", p.dir)
	p.answers(volume, "all is connected", func(found map[string]answer) bool {
		peers, server := reaches(found)
		return peers && server
	})

	p.must("kubectl", "patch", "pvc", "one", "--patch", `{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}`)
	p.must("kubectl", "wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/one", "--timeout=30s")
	p.must("kubectl", "wait", "--for=jsonpath={.spec.capacity.storage}=2Gi", "pv/"+filepath.Base(volume), "--timeout=30s")
	p.wait("the claim does not grow any more", func() bool {
		return p.must("kubectl", "get", "pvc", "one", "-o", "jsonpath={.status.conditions}{.status.allocatedResourceStatuses}") == ""
	})

	// The data outlives its pod and an outage of its node.
	first := func() string {
		text, err := os.ReadFile(filepath.Join(volume, "first"))
		if err != nil {
			p.Error(err)
		}
		return string(text)
	}
	written := first()
	p.must("kubectl", "delete", "pod", "one")
	p.apply(one, "kubectl", "apply", "-f", "-")
	p.answers(volume, "the pod is there again", names)
	p.must("stop", "node-2", "--dir", p.dir)
	p.must("start", "node-2", "--dir", p.dir)
	p.answers(volume, "the pod is there again", names)
	if now := first(); written == "" || now != written {
		p.Errorf("the volume had %q in it, and now %q", written, now)
	}

	p.must("kubectl", "delete", "pod/one", "pvc/one")
	p.wait("the volume and its folder are removed", func() bool {
		_, err := os.Stat(volume)
		return os.IsNotExist(err) && !strings.Contains(p.must("kubectl", "get", "pv", "-o", "name"), filepath.Base(volume))
	})
}
