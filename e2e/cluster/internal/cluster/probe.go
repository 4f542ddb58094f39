package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Prober asks components as the administrator.
type Prober struct {
	client *http.Client
	// Since is when a node was started: what it said of itself before that does not count.
	Since time.Time
}

// NewProber reads the certificates of a cluster.
func NewProber(layout Layout) (*Prober, error) {
	authority, err := os.ReadFile(layout.Cert("ca"))
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(layout.Cert("admin"), layout.Key("admin"))
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{
		// No Proxy: all of it is on this machine, whatever the environment says.
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	return &Prober{client: &http.Client{Transport: transport, Timeout: 3 * time.Second}}, nil
}

// Get is nil if a URL answers 200, and does not answer with a node that is not ready; otherwise it is what it answers.
func (p *Prober) Get(url string) error {
	response, err := p.client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusOK {
		return p.nodeProblem(text)
	}
	var bad []string
	for _, line := range strings.Split(string(text), "\n") {
		// Of a list of checks, those that fail.
		if strings.HasPrefix(line, "[-]") {
			bad = append(bad, strings.TrimSuffix(strings.TrimPrefix(line, "[-]"), " failed: reason withheld"))
		}
	}
	if len(bad) == 0 {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return fmt.Errorf("%s answers %s, not ready: %s", url, response.Status, strings.Join(bad, ", "))
}

// nodeProblem says what a node says of itself, if this is a node and not ready.
func (p *Prober) nodeProblem(answer []byte) error {
	var node struct {
		Kind   string
		Status struct {
			Conditions []struct {
				Type, Status, Message string
				LastHeartbeatTime     time.Time
			}
		}
	}
	if json.Unmarshal(answer, &node) != nil || node.Kind != "Node" {
		return nil
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != "Ready" || condition.LastHeartbeatTime.Before(p.Since) {
			continue
		}
		if condition.Status == "True" {
			return nil
		}
		return errors.New(condition.Message)
	}
	return errors.New("the node has not said how it is")
}
