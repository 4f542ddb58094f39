package pki

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func parse(t *testing.T, pair Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestWhatAnAuthorityIssuesIsTrustedAfterItWasLoadedAgain(t *testing.T) {
	made, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	certFile, keyFile := filepath.Join(folder, "ca.crt"), filepath.Join(folder, "ca.key")
	for file, content := range map[string][]byte{certFile: made.Cert, keyFile: made.Key} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	authority, err := LoadAuthority(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.Cert)

	server, err := authority.Issue(Subject{Name: "api", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, DNS: []string{"kubernetes"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "kubernetes"} {
		if _, err := parse(t, server).Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s is not trusted: %v", host, err)
		}
	}
	client, err := authority.Issue(Subject{Name: "alice", Groups: []string{"one", "two"}})
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, client)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usage}); err != nil {
		t.Errorf("a client is not trusted: %v", err)
	}
	if cert.Subject.CommonName != "alice" || !slices.Equal(cert.Subject.Organization, []string{"one", "two"}) {
		t.Errorf("the subject is %s", cert.Subject)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("a client's certificate serves")
	}
	if _, err := authority.Issue(Subject{}); err == nil {
		t.Error("a certificate was issued for nobody")
	}
}

func TestKubeconfig(t *testing.T) {
	config := Kubeconfig{
		Cluster: "mas-dev", Server: "https://127.0.0.1:6443", CA: []byte("ca"), User: `odd "name"`,
		Client: Pair{Cert: []byte("cert"), Key: []byte("key")}, Namespace: "here",
	}
	want := `apiVersion: v1
kind: Config
current-context: "mas-dev"
clusters:
- name: "mas-dev"
  cluster:
    server: "https://127.0.0.1:6443"
    certificate-authority-data: Y2E=
users:
- name: "odd \"name\""
  user:
    client-certificate-data: Y2VydA==
    client-key-data: a2V5
contexts:
- name: "mas-dev"
  context:
    cluster: "mas-dev"
    user: "odd \"name\""
    namespace: "here"
`
	if got := string(config.YAML()); got != want {
		t.Errorf("got:\n%s", got)
	}
	config.Namespace = ""
	if strings.Contains(string(config.YAML()), "namespace") {
		t.Error("a namespace that was not asked for")
	}
}
