// Package process names processes so that no other is ever meant. A process id alone is not enough: it is given anew when its
// process has ended. Nothing here looks for processes by name.
package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Identity is a process id together with the time at which its process started, in clock ticks since the machine did.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// Self is this process.
func Self() (Identity, error) { return Of(os.Getpid()) }

// Of is the process that has this id now.
func Of(pid int) (Identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, fmt.Errorf("looking up process %d: %w", pid, err)
	}
	state, start, err := parseStat(string(stat))
	if err != nil {
		return Identity{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	if state == "Z" || state == "X" {
		return Identity{}, fmt.Errorf("looking up process %d: it has ended", pid)
	}
	return Identity{PID: pid, Start: start}, nil
}

// Alive says whether this very process still runs. One that has ended and was not waited for yet is not alive.
func (id Identity) Alive() bool {
	now, err := Of(id.PID)
	return err == nil && now == id
}

// Signal sends a signal to this very process. It is no error when that has ended.
func (id Identity) Signal(signal syscall.Signal) error {
	// The handle stays with the process that it was opened for, so what is verified after opening is what gets the signal.
	handle, err := os.FindProcess(id.PID)
	if err != nil {
		return fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	defer func() { _ = handle.Release() }()
	if !id.Alive() {
		return nil
	}
	if err := handle.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to process %d: %w", signal, id.PID, err)
	}
	return nil
}

// ResidentKB is how much memory the process holds, 0 if that cannot be told.
func (id Identity) ResidentKB() int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id.PID))
	if err != nil || !id.Alive() {
		return 0
	}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(rest, "kB")))
			return kb
		}
	}
	return 0
}

// parseStat reads the state and the start time of a line of /proc/PID/stat. The second field is the program's name in
// parentheses, which may itself contain blanks and parentheses.
func parseStat(line string) (state string, start uint64, err error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return "", 0, errors.New("no name in parentheses")
	}
	fields := strings.Fields(line[end+1:])
	// The first of these is the third of the line, and the start time is the 22nd of the line.
	if len(fields) < 20 {
		return "", 0, errors.New("too few fields")
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}
