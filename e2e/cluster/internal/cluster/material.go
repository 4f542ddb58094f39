package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"mas-cluster/internal/node"
	"mas-cluster/internal/pki"
)

// One line for every request: a watch is recorded when it starts, since it may never end, and anything else when it ends.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  verbs: ["watch"]
  omitStages: ["RequestReceived", "ResponseComplete"]
- level: Metadata
  omitStages: ["RequestReceived", "ResponseStarted"]
`

// The user names and groups are those that the roles that Kubernetes brings along are bound to.
var (
	admin           = pki.Subject{Name: "admin", Groups: []string{"system:masters"}}
	controllersUser = pki.Subject{Name: "system:kube-controller-manager"}
	schedulerUser   = pki.Subject{Name: "system:kube-scheduler"}
)

// WriteMaterial writes the certificates, kubeconfigs and configuration files of a new cluster.
func WriteMaterial(layout Layout, ports Ports, options Options, specs []node.Spec) error {
	authority, err := pki.NewAuthority("mas-cluster " + options.Name)
	if err != nil {
		return err
	}
	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	localhost := []string{"localhost"}
	certs := map[string]pki.Subject{
		"etcd": {Name: "etcd", IPs: loopback, DNS: localhost},
		"kube-apiserver": {
			Name: "kube-apiserver",
			IPs:  append([]net.IP{net.ParseIP(apiServerService), net.ParseIP(ports.Host)}, loopback...),
			DNS: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local"},
		},
		"kube-controller-manager": {Name: "kube-controller-manager", IPs: loopback, DNS: localhost},
		"kube-scheduler":          {Name: "kube-scheduler", IPs: loopback, DNS: localhost},
		"admin":                   admin,
	}
	files := map[string][]byte{
		layout.Cert("ca"):                  authority.Cert,
		layout.Key("ca"):                   authority.Key,
		layout.Config("audit-policy.yaml"): []byte(auditPolicy),
	}
	for name, subject := range certs {
		pair, err := authority.Issue(subject)
		if err != nil {
			return err
		}
		files[layout.Cert(name)], files[layout.Key(name)] = pair.Cert, pair.Key
	}
	// An authority of its own: what the cluster's authority signs for a user must not speak for other users.
	proxies, err := pki.NewAuthority(frontProxy + "-ca")
	if err != nil {
		return err
	}
	proxy, err := proxies.Issue(pki.Subject{Name: frontProxy})
	if err != nil {
		return err
	}
	files[layout.Cert(frontProxy+"-ca")] = proxies.Cert
	files[layout.Cert(frontProxy)], files[layout.Key(frontProxy)] = proxy.Cert, proxy.Key
	accounts, accountsPEM, err := pki.NewKey()
	if err != nil {
		return err
	}
	files[layout.Key("service-accounts")] = accountsPEM
	if files[layout.Public("service-accounts")], err = pki.PublicKey(accounts); err != nil {
		return err
	}
	users := map[string]pki.Subject{
		layout.Kubeconfig(): admin,
		layout.Config("kube-controller-manager.kubeconfig"): controllersUser,
		layout.Config("kube-scheduler.kubeconfig"):          schedulerUser,
		layout.Config("volume-provisioner.kubeconfig"):      {Name: "system:volume-provisioner", Groups: admin.Groups},
	}
	for _, spec := range specs {
		users[spec.Kubeconfig("kubelet")] = pki.Subject{Name: "system:node:" + spec.Name(), Groups: []string{"system:nodes"}}
		users[spec.Kubeconfig("coredns")] = pki.Subject{Name: "system:coredns", Groups: admin.Groups}
		users[spec.Kubeconfig("kube-proxy")] = pki.Subject{Name: "system:kube-proxy"}
		if files[layout.Config(spec.Name()+".json")], err = json.Marshal(spec); err != nil {
			return fmt.Errorf("writing a node's specification: %w", err)
		}
		if err := os.MkdirAll(spec.Folder, 0o700); err != nil {
			return fmt.Errorf("writing the cluster's files: %w", err)
		}
	}
	for file, user := range users {
		if files[file], err = kubeconfig(authority, options.Name, ports.Server(), user, ""); err != nil {
			return err
		}
	}
	for file, content := range files {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return fmt.Errorf("writing the cluster's files: %w", err)
		}
	}
	return nil
}

// IssueKubeconfig is a kubeconfig for another user of a cluster that runs.
func IssueKubeconfig(dir string, user pki.Subject, namespace string) ([]byte, error) {
	layout := NewLayout(dir, "")
	record, running, err := Look(layout)
	if err != nil {
		return nil, err
	}
	if !running || record.Server == "" {
		return nil, fmt.Errorf("issuing a kubeconfig: no cluster runs in %s: start it with `up` first", dir)
	}
	authority, err := pki.LoadAuthority(layout.Cert("ca"), layout.Key("ca"))
	if err != nil {
		return nil, err
	}
	return kubeconfig(authority, record.Name, record.Server, user, namespace)
}

func kubeconfig(authority *pki.Authority, cluster, server string, user pki.Subject, namespace string) ([]byte, error) {
	client, err := authority.Issue(user)
	if err != nil {
		return nil, err
	}
	config := pki.Kubeconfig{
		Cluster: "mas-" + cluster, Server: server, CA: authority.Cert,
		User: user.Name, Client: client, Namespace: namespace,
	}
	return config.YAML(), nil
}
