package pki

import (
	"encoding/base64"
	"fmt"
)

// Kubeconfig is what a client needs to reach a cluster as one user. Certificates are inside, so the file can be moved.
type Kubeconfig struct {
	Cluster   string
	Server    string
	CA        []byte
	User      string
	Client    Pair
	Namespace string
}

// YAML is the file's text.
func (k Kubeconfig) YAML() []byte {
	namespace := ""
	if k.Namespace != "" {
		namespace = fmt.Sprintf("    namespace: %q\n", k.Namespace)
	}
	base64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: %[1]q
clusters:
- name: %[1]q
  cluster:
    server: %[2]q
    certificate-authority-data: %[3]s
users:
- name: %[4]q
  user:
    client-certificate-data: %[5]s
    client-key-data: %[6]s
contexts:
- name: %[1]q
  context:
    cluster: %[1]q
    user: %[4]q
%[7]s`, k.Cluster, k.Server, base64(k.CA), k.User, base64(k.Client.Cert), base64(k.Client.Key), namespace)
}
