package process

import (
	"os/exec"
	"syscall"
	"testing"
)

func TestStatOfAProgramWithAnOddName(t *testing.T) {
	line := "42 (a ) S (b) R 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1"
	state, start, err := parseStat(line)
	if err != nil || state != "R" || start != 987654 {
		t.Fatalf("got %q, %d, %v", state, start, err)
	}
	for _, bad := range []string{"", "42 (a", "42 (a) R 1 2"} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestAProcessIsKnownByItsStartTime(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Of(child.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("%+v is not alive: %v", id, err)
	}
	if id.ResidentKB() == 0 {
		t.Error("it holds no memory")
	}
	other := Identity{PID: id.PID, Start: id.Start + 1}
	if other.Alive() {
		t.Error("an earlier process of the same id is taken for alive")
	}
	if err := other.Signal(syscall.SIGKILL); err != nil || !id.Alive() {
		t.Errorf("a signal for an earlier process of the same id was delivered, or failed: %v", err)
	}
	if err := id.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if id.Alive() {
		t.Error("it is alive after its end")
	}
	if err := id.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("a signal for a process that has ended: %v", err)
	}
}
