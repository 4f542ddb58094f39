package cluster

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// Ports are where the components listen: the API server at an address that nodes reach too, the others on loopback.
type Ports struct {
	Host                                              string
	Etcd, EtcdPeer, APIServer, Controllers, Scheduler int
}

// Component is one program of the cluster, as it is started.
type Component struct {
	Name  string
	Args  []string
	Ready string // answers 200 when the component is ready
	// Namespaces are those that it has of its own, as flags of clone(2): nodes have some.
	Namespaces uintptr
}

// The service addresses; the first is the API server's.
const (
	serviceRange     = "10.96.0.0/16"
	apiServerService = "10.96.0.1"
)

// frontProxy is whom API servers behind this one believe when it says who a user is.
const frontProxy = "front-proxy"

// Server is the API server's address.
func (p Ports) Server() string { return fmt.Sprintf("https://%s:%d", p.Host, p.APIServer) }

// ControlPlane is the control plane's components in the order in which they are started. It only says how; nothing is started.
func ControlPlane(layout Layout, ports Ports, options Options) []Component {
	components := []Component{etcd(layout, ports), apiServer(layout, ports, options), controllers(layout, ports), scheduler(layout, ports)}
	if options.Nodes > 0 {
		components = append(components, provisioner(layout, ports))
	}
	return components
}

func etcd(layout Layout, ports Ports) Component {
	peer := local(ports.EtcdPeer)
	return Component{Name: "etcd", Ready: local(ports.Etcd) + "/readyz", Args: []string{
		"--name=etcd",
		"--data-dir=" + layout.Etcd(),
		// The data ends with the cluster: nothing is gained by waiting for the disk, and much is lost on a slow one.
		"--unsafe-no-fsync=true",
		"--listen-client-urls=" + local(ports.Etcd),
		"--advertise-client-urls=" + local(ports.Etcd),
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=etcd=" + peer,
		"--socket-reuse-port=true",
		// Other users of this machine can reach the port too; only who has a certificate is let in.
		"--client-cert-auth=true",
		"--trusted-ca-file=" + layout.Cert("ca"),
		"--cert-file=" + layout.Cert("etcd"),
		"--key-file=" + layout.Key("etcd"),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + layout.Cert("ca"),
		"--peer-cert-file=" + layout.Cert("etcd"),
		"--peer-key-file=" + layout.Key("etcd"),
		"--log-level=warn",
	}}
}

func apiServer(layout Layout, ports Ports, options Options) Component {
	args := []string{
		"--etcd-servers=" + local(ports.Etcd),
		"--etcd-cafile=" + layout.Cert("ca"),
		"--etcd-certfile=" + layout.Cert("kube-apiserver"),
		"--etcd-keyfile=" + layout.Key("kube-apiserver"),
		"--bind-address=" + ports.Host,
		// Without it the server looks for a default route, which a machine without a network does not have.
		"--advertise-address=" + ports.Host,
		"--secure-port=" + strconv.Itoa(ports.APIServer),
		"--permit-port-sharing=true",
		"--tls-cert-file=" + layout.Cert("kube-apiserver"),
		"--tls-private-key-file=" + layout.Key("kube-apiserver"),
		"--client-ca-file=" + layout.Cert("ca"),
		// For API servers behind this one; without them the other components log errors for ever.
		"--requestheader-client-ca-file=" + layout.Cert("front-proxy-ca"),
		"--requestheader-allowed-names=" + frontProxy,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + layout.Cert(frontProxy),
		"--proxy-client-key-file=" + layout.Key(frontProxy),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + serviceRange,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + layout.Public("service-accounts"),
		"--service-account-signing-key-file=" + layout.Key("service-accounts"),
	}
	if options.Nodes > 0 {
		args = append(args,
			"--kubelet-preferred-address-types=InternalIP",
			"--kubelet-client-certificate="+layout.Cert("admin"),
			"--kubelet-client-key="+layout.Key("admin"))
	} else {
		// Endpoints may not have loopback addresses, and trying to write one anyway would fill the log.
		args = append(args, "--endpoint-reconciler-type=none")
	}
	if options.Audit {
		args = append(args,
			"--audit-policy-file="+layout.Config("audit-policy.yaml"),
			"--audit-log-path="+layout.Audit(),
			// In MB. The default of 100 would start a second file in the middle of a test that counts lines.
			"--audit-log-maxsize=100000")
	}
	// Last, so that they win over those above.
	return Component{Name: "kube-apiserver", Ready: ports.Server() + "/readyz", Args: append(args, options.APIServerArgs...)}
}

func controllers(layout Layout, ports Ports) Component {
	args := []string{
		"--root-ca-file=" + layout.Cert("ca"),
		"--service-account-private-key-file=" + layout.Key("service-accounts"),
		"--use-service-account-credentials=true",
		"--cluster-signing-cert-file=" + layout.Cert("ca"),
		"--cluster-signing-key-file=" + layout.Key("ca"),
		// The default of 20 requests a second is for sharing a server; here it would only make tests wait.
		"--kube-api-qps=300",
		"--kube-api-burst=600",
	}
	return Component{Name: "kube-controller-manager", Ready: local(ports.Controllers) + "/healthz",
		Args: append(args, clientArgs(layout, "kube-controller-manager", ports.Controllers)...)}
}

func scheduler(layout Layout, ports Ports) Component {
	args := []string{"--kube-api-qps=300", "--kube-api-burst=600"}
	return Component{Name: "kube-scheduler", Ready: local(ports.Scheduler) + "/readyz",
		Args: append(args, clientArgs(layout, "kube-scheduler", ports.Scheduler)...)}
}

// provisioner makes its StorageClass when it is ready.
func provisioner(layout Layout, ports Ports) Component {
	return Component{Name: "volume-provisioner", Ready: ports.Server() + "/apis/storage.k8s.io/v1/storageclasses/standard", Args: []string{
		"--kubeconfig=" + layout.Config("volume-provisioner.kubeconfig"),
		"--nodes=" + filepath.Dir(layout.Node("any")),
	}}
}

// clientArgs are those that the two clients of the API server have in common.
func clientArgs(layout Layout, name string, port int) []string {
	kubeconfig := layout.Config(name + ".kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--client-ca-file=" + layout.Cert("ca"),
		// There is one of each: an election would only cost time after a restart.
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--permit-port-sharing=true",
		"--tls-cert-file=" + layout.Cert(name),
		"--tls-private-key-file=" + layout.Key(name),
	}
}

func local(port int) string { return fmt.Sprintf("https://127.0.0.1:%d", port) }
