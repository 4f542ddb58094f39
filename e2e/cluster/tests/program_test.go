// Package tests starts whole clusters with the program, as a person does, and looks at what they do and at what they leave.
// The program is $MAS_CLUSTER, or what tools/cluster builds.
package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mas-cluster/internal/cluster"
	"mas-cluster/internal/node"
	"mas-cluster/internal/process"
)

func program() string {
	if path := os.Getenv("MAS_CLUSTER"); path != "" {
		return path
	}
	return "../../../tools/cluster"
}

// place is a cluster's folder, and what ran there.
type place struct {
	*testing.T
	dir   string
	ran   []process.Identity
	nodes node.Plan
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{T: t, dir: filepath.Join(t.TempDir(), "cluster")}
	t.Cleanup(func() { _, _ = p.run("down", "--dir", p.dir) })
	return p
}

// run runs the program; its output and errors together.
func (p *place) run(args ...string) (string, error) { return p.feed("", args...) }

func (p *place) feed(input string, args ...string) (string, error) {
	command := exec.Command(program(), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(p.dir, "kubeconfig"))
	command.Stdin = strings.NewReader(input)
	output, err := command.CombinedOutput()
	return string(output), err
}

// must runs a command that must succeed.
func (p *place) must(args ...string) string {
	p.Helper()
	return p.apply("", args...)
}

func (p *place) apply(input string, args ...string) string {
	p.Helper()
	output, err := p.feed(input, args...)
	if err != nil {
		p.Fatalf("%s: %v: %s", strings.Join(args, " "), err, output)
	}
	return output
}

// refused runs a command that must be refused with these words.
func (p *place) refused(input, words string, args ...string) {
	p.Helper()
	if output, err := p.feed(input, args...); err == nil || !strings.Contains(output, words) {
		p.Errorf("%s: %v, without the words %q: %s", strings.Join(args, " "), err, words, output)
	}
}

// up starts the cluster. However this test ends, the cluster ends with it.
func (p *place) up(args ...string) {
	p.Helper()
	owner := fmt.Sprintf("--owner-pid=%d", os.Getpid())
	p.Log(p.must(append([]string{"up", "--dir", p.dir, owner, "--lifetime=600"}, args...)...))
	p.remember()
}

// remember reads which processes run.
func (p *place) remember() cluster.Record {
	p.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "cluster.json"))
	if err != nil {
		p.Fatal(err)
	}
	var record cluster.Record
	if err := json.Unmarshal(text, &record); err != nil {
		p.Fatal(err)
	}
	p.ran = append(p.ran, record.Supervisor)
	p.nodes = record.Nodes
	for _, component := range record.Components {
		if component.Process != nil {
			p.ran = append(p.ran, *component.Process)
		}
	}
	return record
}

// nothingIsLeft waits until no process of the cluster and no file of it is there.
func (p *place) nothingIsLeft() {
	p.Helper()
	p.noProcessIsLeft()
	p.wait("the folder is removed", func() bool {
		_, err := os.Stat(p.dir)
		return errors.Is(err, os.ErrNotExist)
	})
	if p.nodes.ID == "" {
		return
	}
	for _, pattern := range []string{"/sys/class/net/", "/sys/fs/cgroup/*/"} {
		p.wait("no network device and no cgroup is left", func() bool {
			left, _ := filepath.Glob(pattern + p.nodes.ID + "*")
			return len(left) == 0
		})
	}
}

func (p *place) noProcessIsLeft() {
	p.Helper()
	for _, id := range p.ran {
		p.wait(fmt.Sprintf("process %d ends", id.PID), func() bool { return !id.Alive() })
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), p.dir) {
		p.Errorf("something is mounted in %s: %v", p.dir, err)
	}
	// Also those that were never on record: all of them run in the cluster's folder.
	p.wait("no process runs in the folder", func() bool {
		folders, _ := filepath.Glob("/proc/[0-9]*/cwd")
		for _, folder := range folders {
			if where, err := os.Readlink(folder); err == nil && strings.HasPrefix(where, p.dir) {
				return false
			}
		}
		return true
	})
}

func (p *place) wait(what string, done func() bool) {
	p.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("waited 30 s in vain: %s", what)
		}
	}
}

// begin starts the program and lets it run.
func (p *place) begin(args ...string) (*exec.Cmd, *output) {
	p.Helper()
	said := &output{}
	command := exec.Command(program(), args...)
	command.Stdout, command.Stderr = said, said
	if err := command.Start(); err != nil {
		p.Fatal(err)
	}
	return command, said
}

func (p *place) signal(command *exec.Cmd, signal syscall.Signal) {
	p.Helper()
	if err := command.Process.Signal(signal); err != nil {
		p.Fatal(err)
	}
}

// output is what a program that still runs has said so far.
type output struct {
	guard sync.Mutex
	text  bytes.Buffer
}

func (o *output) Write(more []byte) (int, error) {
	o.guard.Lock()
	defer o.guard.Unlock()
	return o.text.Write(more)
}

func (o *output) String() string {
	o.guard.Lock()
	defer o.guard.Unlock()
	return o.text.String()
}
