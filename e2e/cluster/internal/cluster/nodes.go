package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"mas-cluster/internal/node"
)

// Load gives every running node an image, from a file as `docker save` or `buildah push docker-archive:` writes it.
func Load(dir, file string) error {
	record, err := withNodes(dir, "loading "+file)
	if err != nil {
		return err
	}
	for _, c := range record.Components {
		if c.Process == nil || !slices.Contains(record.Nodes.Names, c.Name) {
			continue
		}
		image, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("loading %s: %w", file, err)
		}
		// Through standard input: the node does not see all of this machine's folders.
		command := exec.Command("nsenter", "--target", strconv.Itoa(c.Process.PID), "--mount", "--",
			"ctr", "--namespace", "k8s.io", "images", "import", "-")
		command.Stdin = image
		output, err := command.CombinedOutput()
		_ = image.Close()
		if err != nil {
			return fmt.Errorf("loading %s into %s: %w: %s", file, c.Name, err, strings.TrimSpace(string(output)))
		}
	}
	return nil
}

// Cut pulls a node's cable: nobody reaches the node or its pods, and they reach nobody.
func Cut(dir, name string) error {
	return connect(dir, name, "cutting off", func(plan node.Plan, i, _ int) error { return plan.Switch(i, false) })
}

// CutPeers cuts a node and its pods off from the other nodes and theirs. This machine, with the API server, is still connected.
func CutPeers(dir, name string) error {
	return connect(dir, name, "cutting off", func(plan node.Plan, _, pid int) error { return plan.SwitchPeers(pid, false) })
}

// Heal undoes both.
func Heal(dir, name string) error {
	return connect(dir, name, "connecting", func(plan node.Plan, i, pid int) error {
		return errors.Join(plan.SwitchPeers(pid, true), plan.Switch(i, true))
	})
}

func connect(dir, name, verb string, change func(plan node.Plan, i, pid int) error) error {
	record, err := withNodes(dir, verb+" "+name)
	if err != nil {
		return err
	}
	i := slices.Index(record.Nodes.Names, name)
	if i < 0 {
		return fmt.Errorf("%s %s: no such node: name one of %s", verb, name, strings.Join(record.Nodes.Names, ", "))
	}
	for _, c := range record.Components {
		if c.Name == name && c.Process != nil {
			if err := change(record.Nodes, i, c.Process.PID); err != nil {
				return fmt.Errorf("%s %s: %w", verb, name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%s %s: it is stopped", verb, name)
}

func withNodes(dir, action string) (Record, error) {
	record, running, err := Look(NewLayout(dir, ""))
	if err == nil && (!running || !record.Ready || len(record.Nodes.Names) == 0) {
		err = errors.New("no cluster with nodes runs in " + dir + ": start it with `up --nodes 3` first")
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", action, err)
	}
	return record, nil
}
