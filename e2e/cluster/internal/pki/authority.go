// Package pki makes the certificates of a cluster and the kubeconfigs that hold them. Keys are ECDSA P-256: they take no time.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// validity is longer than any test cluster lives; backdated, because clocks of containers and hosts differ a little.
const (
	validity  = 365 * 24 * time.Hour
	backdated = time.Hour
)

// Pair is a certificate and its key, as PEM.
type Pair struct{ Cert, Key []byte }

// Subject is whom a certificate names. To Kubernetes, Name is the user and Groups are the user's groups; servers are known by
// their addresses and host names.
type Subject struct {
	Name   string
	Groups []string
	IPs    []net.IP
	DNS    []string
}

// Authority signs certificates.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority of its own.
func NewAuthority(name string) (*Authority, error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(Subject{Name: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the authority %s: %w", name, err)
	}
	return &Authority{Pair: Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, cert: cert, key: key}, nil
}

// LoadAuthority reads an authority from its two files.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's key: %w", err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("reading the authority: %s or %s is not PEM", certFile, keyFile)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the authority %s: %w", certFile, err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's key %s: %w", keyFile, err)
	}
	return &Authority{Pair: Pair{Cert: certPEM, Key: keyPEM}, cert: cert, key: key}, nil
}

// Issue signs a certificate for a subject, which is a client, and a server too if it has addresses or host names.
func (a *Authority) Issue(subject Subject) (Pair, error) {
	if subject.Name == "" {
		return Pair{}, errors.New("issuing a certificate: the subject has no name")
	}
	key, keyPEM, err := NewKey()
	if err != nil {
		return Pair{}, err
	}
	template, err := newTemplate(subject)
	if err != nil {
		return Pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(subject.IPs)+len(subject.DNS) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("signing a certificate for %s: %w", subject.Name, err)
	}
	return Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// NewKey is a new key, and the same as PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("writing a key: %w", err)
	}
	return key, encode("EC PRIVATE KEY", der), nil
}

// PublicKey is the public half of a key, as PEM.
func PublicKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("writing a public key: %w", err)
	}
	return encode("PUBLIC KEY", der), nil
}

func newTemplate(subject Subject) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: subject.Name, Organization: subject.Groups},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(validity),
		BasicConstraintsValid: true,
		IPAddresses:           subject.IPs,
		DNSNames:              subject.DNS,
	}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
