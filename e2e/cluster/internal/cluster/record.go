package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mas-cluster/internal/node"
	"mas-cluster/internal/process"
)

// Record says what runs, for those who look at a cluster from outside. Only the supervisor writes it.
type Record struct {
	Name       string            `json:"name"`
	Version    string            `json:"version"`
	Supervisor process.Identity  `json:"supervisor"`
	Components []ComponentRecord `json:"components"`
	Server     string            `json:"server"`
	Kubeconfig string            `json:"kubeconfig"`
	Logs       string            `json:"logs"`
	Audit      string            `json:"audit,omitempty"`
	Started    time.Time         `json:"started"`
	Ready      bool              `json:"ready"`
	Owner      *process.Identity `json:"owner,omitempty"`
	Ends       *time.Time        `json:"ends,omitempty"`
	Nodes      node.Plan         `json:"nodes"`
	Failure    string            `json:"failure,omitempty"` // why it ended, when nobody wanted it to
}

// ComponentRecord is one component: its process is nil while it is stopped.
type ComponentRecord struct {
	Name    string            `json:"name"`
	Process *process.Identity `json:"process"`
	Ready   string            `json:"ready"` // answers 200 when the component is ready
}

// Write replaces the record as a whole, so that nobody reads half of it.
func (r Record) Write(layout Layout) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	next := filepath.Join(layout.Dir, recordNext)
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	if err := os.Rename(next, layout.Record()); err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	return nil
}

// Look reads the record of a cluster, and says whether its supervisor lives. No record is an empty one.
func Look(layout Layout) (record Record, running bool, err error) {
	text, err := os.ReadFile(layout.Record())
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("reading the cluster's record: %w", err)
	}
	if err := json.Unmarshal(text, &record); err != nil {
		return Record{}, false, fmt.Errorf("reading the cluster's record %s: %w", layout.Record(), err)
	}
	return record, record.Supervisor.Alive(), nil
}
