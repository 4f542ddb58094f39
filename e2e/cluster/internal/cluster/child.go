package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"mas-cluster/internal/process"
)

// child is a component and its process, if it has one.
type child struct {
	Component
	id      *process.Identity
	command *exec.Cmd
	ended   chan struct{} // closed when the process has ended and was waited for
}

// start starts the component. It must be called on the supervisor's main thread: the kernel kills the component when the
// thread that started it ends, which is what leaves nothing behind if the supervisor itself is killed.
func (c *child) start(layout Layout, exits chan<- *child) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting %s: finding this program: %w", c.Name, err)
	}
	log, err := os.OpenFile(layout.Log(c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.Name, err)
	}
	defer func() { _ = log.Close() }()
	command := &exec.Cmd{
		Path:        program,
		Args:        append([]string{c.Name}, c.Args...),
		Dir:         layout.Dir,
		Env:         environment(),
		Stdout:      log,
		Stderr:      log,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: c.Namespaces},
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", c.Name, err)
	}
	id, err := process.Of(command.Process.Pid)
	if err != nil {
		// It has ended already: its end is told below like any other.
		id = process.Identity{PID: command.Process.Pid}
	}
	ended := make(chan struct{})
	c.command, c.id, c.ended = command, &id, ended
	go func() {
		_ = command.Wait()
		close(ended)
		exits <- c
	}()
	return nil
}

// kill ends the process, and returns when it has ended. No component of a cluster whose data is thrown away needs time to
// say goodbye.
func (c *child) kill() {
	if c.id == nil {
		return
	}
	_ = c.command.Process.Kill()
	<-c.ended
	c.id = nil
}

// hasEnded says whether the process has ended although nobody wanted it to.
func (c *child) hasEnded() bool {
	if c.id == nil {
		return false
	}
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// failure says how the process ended and what it said.
func (c *child) failure(layout Layout) error {
	return fmt.Errorf("%s ended (%s); %s", c.Name, c.command.ProcessState, QuoteLog(layout.Log(c.Name)))
}

// environment is what components see of the environment: etcd takes any ETCD_ variable for a flag.
func environment() []string {
	var kept []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			kept = append(kept, name+"="+value)
		}
	}
	return kept
}
