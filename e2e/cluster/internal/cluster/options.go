// Package cluster starts, watches and ends a Kubernetes cluster whose components are all in this program: `up` starts a
// supervisor, the supervisor starts the components as its children, and `down` ends the supervisor.
package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"mas-cluster/internal/node"
	"mas-cluster/internal/process"
)

// Options are what a cluster is started with.
type Options struct {
	Dir           string
	Name          string
	Version       string
	Logs          string            // a folder that is kept; "" puts the logs into Dir, where they end with the cluster
	Audit         bool              // record every request
	Nodes         int               // how many nodes; 0 is the control plane alone
	Regions       []string          // names of the nodes' regions, in their order; region-N where there is none
	APIServerArgs []string          // further arguments of kube-apiserver
	Owner         *process.Identity // the cluster ends when this process has ended
	Lifetime      time.Duration     // the cluster ends after this time, if it is not 0
	Timeout       time.Duration     // how long it may take until everything is ready
}

// cluster names are parts of file names and of kubeconfig contexts.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate refuses what cannot work, before anything is started.
func (o Options) Validate() error {
	if !validName.MatchString(o.Name) {
		return fmt.Errorf("checking --name: %q is no name: use small letters, digits and '-', at most 63", o.Name)
	}
	if o.Timeout <= 0 {
		return errors.New("checking --timeout: give a number of seconds greater than 0")
	}
	if o.Lifetime < 0 {
		return errors.New("checking --lifetime: give a number of seconds, or 0 for no end")
	}
	if o.Nodes < 0 || o.Nodes > 9 {
		return fmt.Errorf("checking --nodes: %d: give a number from 0 to 9", o.Nodes)
	}
	for _, hidden := range node.Hidden {
		if o.Nodes > 0 && strings.HasPrefix(o.Dir+"/", hidden+"/") {
			return fmt.Errorf("checking --dir: nodes do not see %s: name a folder elsewhere", hidden)
		}
	}
	for _, arg := range o.APIServerArgs {
		if len(arg) < 3 || arg[:2] != "--" {
			return fmt.Errorf("checking --apiserver-arg: %q is no argument of kube-apiserver: write --apiserver-arg=--flag=value", arg)
		}
	}
	return nil
}

// Find is the folder of the cluster that is meant by --dir and --name, as an absolute path.
func Find(dir, name string) (string, error) {
	if dir == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if state == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", errors.New("finding the cluster's folder: neither XDG_STATE_HOME nor HOME is set: name a folder with --dir")
			}
			state = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(state, "multiactive-clusters", name)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the cluster's folder: %w", err)
	}
	return absolute, nil
}
