package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Whatever way a cluster ends, no process of it is left, and no file unless it tells why.

func TestAFailedUpTellsWhyAndLeavesNothingButTheLogsThatWereAskedFor(t *testing.T) {
	p := newPlace(t)
	logs := filepath.Join(t.TempDir(), "logs")
	p.refused("", "unknown flag: --nonsense", "up", "--dir", p.dir, "--apiserver-arg=--nonsense=1", "--logs", logs)
	p.nothingIsLeft()
	if text, err := os.ReadFile(filepath.Join(logs, "kube-apiserver.log")); err != nil || !strings.Contains(string(text), "nonsense") {
		t.Errorf("the log is not there: %v", err)
	}
}

func TestAnInterruptedUpLeavesNothing(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		p := newPlace(t)
		up, said := p.begin("up", "--dir", p.dir)
		p.wait("etcd is ready", func() bool { return strings.Contains(said.String(), "etcd") })
		p.remember()
		p.signal(up, signal)
		if err := up.Wait(); err == nil {
			t.Errorf("%s: exit code 0", signal)
		}
		p.nothingIsLeft()
	}
}

func TestInTheForegroundAnInterruptEndsTheCluster(t *testing.T) {
	p := newPlace(t)
	up, said := p.begin("up", "--dir", p.dir, "--foreground")
	p.wait("the cluster is ready", func() bool { return strings.Contains(said.String(), "Ctrl-C") })
	p.remember()
	p.signal(up, syscall.SIGINT)
	if err := up.Wait(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	p.nothingIsLeft()
}

func TestAClusterEndsWithItsOwner(t *testing.T) {
	p := newPlace(t)
	owner := exec.Command("sleep", "600")
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	p.must("up", "--dir", p.dir, "--owner-pid", strconv.Itoa(owner.Process.Pid))
	p.remember()
	p.signal(owner, syscall.SIGKILL)
	p.nothingIsLeft()
	_ = owner.Wait()
}

func TestAKilledSupervisorTakesTheComponentsAlong(t *testing.T) {
	p := newPlace(t)
	p.up()
	if err := p.remember().Supervisor.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.noProcessIsLeft()
	p.refused("", "its supervisor was killed", "status", "--dir", p.dir)
	// What it left are files, which the next `up` does away with.
	p.up()
	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
}

func TestAComponentThatDiesEndsTheClusterAndStatusTellsWhy(t *testing.T) {
	p := newPlace(t)
	p.up()
	for _, component := range p.remember().Components {
		if component.Name == "kube-scheduler" {
			if err := component.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.noProcessIsLeft()
	p.refused("", "kube-scheduler ended (signal: killed)", "status", "--dir", p.dir)
	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
}

func TestOfManyAtTheSameTimeOneStartsTheCluster(t *testing.T) {
	p := newPlace(t)
	type ended struct {
		said string
		err  error
	}
	all := make(chan ended)
	for range 3 {
		go func() {
			said, err := p.run("up", "--dir", p.dir, "--owner-pid", strconv.Itoa(os.Getpid()))
			all <- ended{said, err}
		}()
	}
	before := 0
	for range 3 {
		one := <-all
		if one.err != nil {
			t.Errorf("%v: %s", one.err, one.said)
		}
		if strings.Contains(one.said, "runs already") {
			before++
		}
	}
	if before != 2 {
		t.Errorf("%d of 3 found it running", before)
	}
	p.remember()
	p.must("down", "--dir", p.dir)
	p.nothingIsLeft()
}
