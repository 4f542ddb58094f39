package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
)

// Sandbox is the image of pods' sandboxes, which is made here since there is no registry to get it from.
const Sandbox = "localhost/mas-pause:1"

// containerdConfig: this machine may lack CAP_SYS_RESOURCE, without which oom scores cannot be lowered.
func containerdConfig(folder string) string {
	return fmt.Sprintf(`version = 2
root = "%s/containerd"
state = "/run/containerd/state"
[grpc]
  address = "%s"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "%s"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%s"
    conf_dir = "%s/cni"
`, folder, containerdSocket, Sandbox, cniPrograms, folder)
}

func cniConfig(podRange string) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods", "isGateway": true,
 "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "/run/pods", "ranges": [[{"subnet": "%s"}]],
 "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, podRange)
}

// nameServer answers from what it has seen of Services and their endpoints: a node that is cut off goes on resolving names.
// Names outside the cluster do not exist, since nothing outside this machine is reached.
func nameServer(kubeconfig string) string {
	return fmt.Sprintf(`%s in-addr.arpa ip6.arpa {
	errors
	ready %s
	kubernetes {
		kubeconfig %q
		pods insecure
		ttl 5
	}
}
. {
	errors
	template ANY ANY {
		rcode NXDOMAIN
	}
}
`, domain, namesReady, kubeconfig)
}

func kubeletConfig(cgroup, authority, dns string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: %q
failSwapOn: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: "unix://%s"
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
clusterDNS: [%q]
clusterDomain: %s
# The disk is this machine's own: nobody's pods go because somebody else has filled it.
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
`, cgroup, containerdSocket, authority, dns, domain)
}

// Image is an image with one program in it, as `docker save` would write it.
func Image(name string, program []byte) ([]byte, error) {
	layer, err := archive(map[string][]byte{"program": program}, 0o755)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/program"}, "User": "65535:65535"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return archive(map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer}, 0o644)
}

func archive(files map[string][]byte, mode int64) ([]byte, error) {
	var all bytes.Buffer
	writer := tar.NewWriter(&all)
	for name, content := range files {
		if err := writer.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return all.Bytes(), err
}
