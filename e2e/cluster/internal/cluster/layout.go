package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Layout is where a cluster's files are.
type Layout struct {
	Dir  string
	Logs string
}

// NewLayout is the layout of a cluster in dir, with its logs there too if no other folder is given.
func NewLayout(dir, logs string) Layout {
	if logs == "" {
		logs = filepath.Join(dir, "logs")
	}
	return Layout{Dir: dir, Logs: logs}
}

// Everything that a cluster makes in its folder; the lock goes last, since it is what keeps others out.
var entries = []string{"kubeconfig", "pki", "config", "etcd", "nodes", "stopped", recordNext, "logs", recordName, lockName}

const (
	lockName   = "mas-cluster.lock"
	recordName = "cluster.json"
	recordNext = recordName + ".next"
)

// Lock is the file whose lock the supervisor holds for as long as it lives.
func (l Layout) Lock() string { return filepath.Join(l.Dir, lockName) }

// Record is the file that says what runs.
func (l Layout) Record() string { return filepath.Join(l.Dir, recordName) }

// Kubeconfig is the administrator's.
func (l Layout) Kubeconfig() string { return filepath.Join(l.Dir, "kubeconfig") }

// Etcd is the data folder of etcd.
func (l Layout) Etcd() string { return filepath.Join(l.Dir, "etcd") }

// Cert is a certificate.
func (l Layout) Cert(name string) string { return filepath.Join(l.Dir, "pki", name+".crt") }

// Key is the key of a certificate.
func (l Layout) Key(name string) string { return filepath.Join(l.Dir, "pki", name+".key") }

// Node is the folder of a node.
func (l Layout) Node(name string) string { return filepath.Join(l.Dir, "nodes", name) }

// Public is a public key that needs no certificate.
func (l Layout) Public(name string) string { return filepath.Join(l.Dir, "pki", name+".pub") }

// Config is a component's configuration file.
func (l Layout) Config(name string) string { return filepath.Join(l.Dir, "config", name) }

// Stopped is the file that is there when a component is to be stopped.
func (l Layout) Stopped(component string) string { return filepath.Join(l.Dir, "stopped", component) }

// Log is what a component says.
func (l Layout) Log(component string) string { return filepath.Join(l.Logs, component+".log") }

// Audit has one line for every request to the API server.
func (l Layout) Audit() string { return l.Log("audit") }

// Prepare makes the folder. It must be new or empty or an earlier cluster's, since all of it ends with the cluster.
func (l Layout) Prepare() error {
	found, err := os.ReadDir(l.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("preparing the cluster's folder: %w", err)
	}
	if len(found) > 0 {
		if _, err := os.Stat(l.Lock()); err != nil {
			return fmt.Errorf("preparing the cluster's folder: %s has other files in it: name a new or empty folder with --dir", l.Dir)
		}
		return nil
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fmt.Errorf("preparing the cluster's folder: %w", err)
	}
	return nil
}

// MakeFolders makes the folders inside.
func (l Layout) MakeFolders() error {
	for _, folder := range []string{"pki", "config", "etcd", "stopped"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, folder), 0o700); err != nil {
			return fmt.Errorf("preparing the cluster's folder: %w", err)
		}
	}
	if err := os.MkdirAll(l.Logs, 0o755); err != nil {
		return fmt.Errorf("preparing the folder of logs: %w", err)
	}
	// Those of an earlier cluster, in a folder that is kept: who counts the lines of a log means this cluster's.
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "volume-provisioner", "audit"} {
		if err := os.Remove(l.Log(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("preparing the folder of logs: %w", err)
		}
	}
	return nil
}

// RemoveOld removes what an earlier cluster left, and keeps the lock.
func (l Layout) RemoveOld() error { return l.remove(entries[:len(entries)-1]) }

// RemoveData removes what an ended cluster is not looked at for: all but the logs and the record of why it ended.
func (l Layout) RemoveData() error { return l.remove(entries[:len(entries)-3]) }

// RemoveAll removes everything that the cluster made, and the folder. What somebody else put there is kept, and told.
func (l Layout) RemoveAll() error {
	if err := l.RemoveOld(); err != nil {
		return err
	}
	found, err := os.ReadDir(l.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the cluster's folder: %w", err)
	}
	var others []string
	for _, file := range found {
		if file.Name() != lockName {
			others = append(others, file.Name())
		}
	}
	// From here on the next `up` may have the folder.
	if err := l.remove([]string{lockName}); err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("removing %s: it has files that are not the cluster's, which are kept: %s", l.Dir, strings.Join(others, ", "))
	}
	if err := os.Remove(l.Dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("removing the cluster's folder: %w", err)
	}
	return nil
}

func (l Layout) remove(names []string) error {
	mounted, err := mountedBelow(l.Dir)
	if err != nil {
		return err
	}
	if mounted != "" {
		return fmt.Errorf("removing the cluster's files: %s is still mounted: unmount it first", mounted)
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(l.Dir, name)); err != nil {
			return fmt.Errorf("removing the cluster's files: %w", err)
		}
	}
	return nil
}

// mountedBelow is a place below a folder where something is mounted. With the nodes' processes all of it should have gone.
func mountedBelow(folder string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("reading the mounts: %w", err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], folder+"/") {
			return fields[4], nil
		}
	}
	return "", nil
}
