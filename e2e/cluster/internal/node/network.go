package node

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// needs are the programs that nodes are made of, with the Debian packages that have them.
var needs = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables", "conntrack": "conntrack",
	"ip": "iproute2", "nsenter": "util-linux", cniPrograms + "/bridge": "containernetworking-plugins",
}

const (
	cniPrograms = "/usr/lib/cni"
	cgroups     = "/sys/fs/cgroup"
)

// Check says what is missing on this machine for nodes.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("checking for nodes: nodes need root; without --nodes the control plane alone needs none")
	}
	if missing := Missing(); len(missing) > 0 {
		return fmt.Errorf("checking for nodes: missing programs: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	if _, err := os.Stat(filepath.Join(cgroups, "memory")); err != nil {
		return errors.New("checking for nodes: this machine has cgroups of version 2 only, which was not tried: nodes need version 1")
	}
	return nil
}

// Missing are the Debian packages that nodes need and this machine does not have.
func Missing() []string {
	missing := map[string]bool{}
	for program, debian := range needs {
		if _, err := exec.LookPath(program); err != nil {
			missing[debian] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// Connect makes the network that the nodes will be connected to.
func (p Plan) Connect() error {
	steps := [][]string{
		{"link", "add", p.Bridge(), "type", "bridge"},
		{"address", "add", p.Host() + "/24", "dev", p.Bridge()},
		{"link", "set", p.Bridge(), "up"},
	}
	for i := range p.Names {
		steps = append(steps, []string{"route", "add", p.PodRange(i), "via", p.Address(i)})
	}
	return runIP(steps)
}

// Plug gives the node whose first process is pid a cable to the bridge.
func (p Plan) Plug(i, pid int) error {
	// A node that is started again may be faster than the end of its old network.
	if err := removeLink(p.Veth(i)); err != nil {
		return err
	}
	return runIP([][]string{
		{"link", "add", p.Veth(i), "type", "veth", "peer", "name", cable, "netns", strconv.Itoa(pid)},
		{"link", "set", p.Veth(i), "master", p.Bridge(), "up"},
	})
}

// Switch connects a node's cable, or cuts it.
func (p Plan) Switch(i int, connected bool) error {
	state := map[bool]string{true: "up", false: "down"}[connected]
	return runIP([][]string{{"link", "set", p.Veth(i), state}})
}

// SwitchPeers connects the node whose first process is pid with the other nodes, or cuts it off from them: of what comes and goes by
// its cable, only what is from or for this machine then passes.
func (p Plan) SwitchPeers(pid int, connected bool) error {
	for _, rule := range [][]string{
		{"raw", "PREROUTING", "--in-interface", cable, "!", "--source", p.Host(), "--jump", "DROP"},
		{"mangle", "POSTROUTING", "--out-interface", cable, "!", "--destination", p.Host(), "--jump", "DROP"},
	} {
		iptables := func(action string) error {
			return run("nsenter", append([]string{"--target", strconv.Itoa(pid), "--mount", "--net", "--",
				"iptables", "--wait", "--table", rule[0], action}, rule[1:]...)...)
		}
		action := map[bool]string{true: "--delete", false: "--insert"}[connected]
		if there := iptables("--check") == nil; there != connected {
			continue
		}
		if err := iptables(action); err != nil {
			return err
		}
	}
	return nil
}

// Clean removes what the kernel does not remove with the nodes' processes. It is no error if nothing is there.
func (p Plan) Clean() error {
	if len(p.Names) == 0 {
		return nil
	}
	var problems []error
	for i := range p.Names {
		problems = append(problems, removeLink(p.Veth(i)))
	}
	return errors.Join(append(problems, removeLink(p.Bridge()), removeCgroups(p.ID))...)
}

func removeLink(name string) error {
	if _, err := os.Stat("/sys/class/net/" + name); err != nil {
		return nil
	}
	if err := runIP([][]string{{"link", "delete", name}}); err != nil {
		// A veth goes with its node's network, which may just have happened.
		if _, gone := os.Stat("/sys/class/net/" + name); gone != nil {
			return nil
		}
		return err
	}
	return nil
}

// removeCgroups removes a group of every hierarchy with all below it. A group is busy for a moment after its last process ended.
func removeCgroups(name string) error {
	roots, err := filepath.Glob(filepath.Join(cgroups, "*", name))
	if err != nil {
		return err
	}
	for _, root := range roots {
		var below []string
		if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				below = append(below, path)
			}
			return nil
		}); err != nil {
			return err
		}
		for i := len(below) - 1; i >= 0; i-- {
			if err := removeBusy(below[i]); err != nil {
				return fmt.Errorf("removing a node's cgroup: %w", err)
			}
		}
	}
	return nil
}

func removeBusy(path string) error {
	for tries := 0; ; tries++ {
		err := syscall.Rmdir(path)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if tries == 100 {
			return fmt.Errorf("%s: %w", path, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func runIP(steps [][]string) error {
	for _, args := range steps {
		if err := run("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func run(program string, args ...string) error {
	output, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
