package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"mas-cluster/internal/node"
	"mas-cluster/internal/process"
)

// ErrInterrupted says that `up` was interrupted, and that nothing is left of what it had started.
var ErrInterrupted = errors.New("interrupted: the cluster is ended and removed")

// SuperviseCommand is what `up` starts this program with.
const SuperviseCommand = "supervise"

// Up starts a cluster, or finds that it runs, and returns when it is ready. In the foreground it returns when the cluster has
// ended. It calls ready once, with what runs and whether it ran before; what goes on is written to out.
func Up(options Options, foreground bool, out io.Writer, ready func(record Record, before bool)) error {
	if err := options.Validate(); err != nil {
		return err
	}
	if options.Nodes > 0 {
		if err := node.Check(); err != nil {
			return err
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	layout := NewLayout(options.Dir, options.Logs)
	lock, running, err := lockOrFind(layout, options.Timeout, signals, out)
	if err != nil {
		return err
	}
	if running != nil {
		ready(*running, true)
		return nil
	}
	defer lock.Release()
	if old, _, err := Look(layout); err == nil {
		if old.Failure != "" {
			fmt.Fprintf(out, "   the cluster that was here had ended by itself; a new one is made\n")
		}
		if err := old.Nodes.Clean(); err != nil {
			return err
		}
	}
	if err := errors.Join(layout.RemoveOld(), layout.MakeFolders()); err != nil {
		return errors.Join(err, layout.RemoveAll())
	}
	supervisor, err := launch(layout, options, lock)
	if err != nil {
		return errors.Join(err, layout.RemoveAll())
	}
	return supervisor.follow(layout, foreground, signals, out, ready)
}

// lockOrFind takes the cluster's lock, or returns what runs already. If another `up` is starting it, it waits for that.
func lockOrFind(layout Layout, timeout time.Duration, signals <-chan os.Signal, out io.Writer) (*process.Lock, *Record, error) {
	deadline, told := time.Now().Add(timeout), false
	for {
		if err := layout.Prepare(); err != nil {
			return nil, nil, err
		}
		lock, err := process.TakeLock(layout.Lock())
		if err == nil {
			return lock, nil, nil
		}
		if !errors.Is(err, process.ErrHeld) && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		if record, running, err := Look(layout); err == nil && running && record.Ready {
			return nil, &record, nil
		}
		if !told {
			fmt.Fprintf(out, "   it is being started or ended elsewhere: waiting for that\n")
			told = true
		}
		select {
		case <-signals:
			return nil, nil, errors.New("interrupted while waiting: nothing was started here")
		case <-time.After(4 * probeEvery):
		}
		if time.Now().After(deadline) {
			return nil, nil, fmt.Errorf("waiting for the cluster that is started or ended elsewhere: not done after %s: end it with `down`", timeout)
		}
	}
}

// supervisorProcess is the supervisor as seen by the `up` that started it.
type supervisorProcess struct {
	command *exec.Cmd
	orders  *os.File
	reports chan Report // closed when the supervisor has ended
}

// launch starts the supervisor in a session of its own: a Ctrl-C at the terminal is for `up` alone.
func launch(layout Layout, options Options, lock *process.Lock) (*supervisorProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the supervisor: finding this program: %w", err)
	}
	log, err := os.Create(layout.Log("supervisor"))
	if err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer func() { _ = log.Close() }()
	ordersRead, orders, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer func() { _ = ordersRead.Close() }()
	reports, reportsWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer func() { _ = reportsWrite.Close() }()
	command := &exec.Cmd{
		Path: program, Args: []string{"mas-cluster", SuperviseCommand}, Dir: layout.Dir, Env: environment(),
		Stdout: log, Stderr: log, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		// In the order of lockFD, ordersFD, reportsFD.
		ExtraFiles: []*os.File{lock.File, ordersRead, reportsWrite},
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	s := &supervisorProcess{command: command, orders: orders, reports: make(chan Report)}
	if err := json.NewEncoder(orders).Encode(options); err != nil {
		_ = orders.Close()
		_ = command.Wait()
		return nil, fmt.Errorf("starting the supervisor: handing it the options: %w", err)
	}
	go func() {
		decoder := json.NewDecoder(reports)
		for {
			var report Report
			if decoder.Decode(&report) != nil {
				break
			}
			s.reports <- report
		}
		_ = reports.Close()
		_ = command.Wait()
		close(s.reports)
	}()
	return s, nil
}

// follow shows the supervisor's progress, and leaves when the cluster is ready or, in the foreground, has ended.
func (s *supervisorProcess) follow(layout Layout, foreground bool, signals <-chan os.Signal, out io.Writer, ready func(Record, bool)) error {
	interrupted, wasReady := false, false
	for {
		select {
		case <-signals:
			// The end of its orders is the supervisor's sign to end everything.
			interrupted = true
			_ = s.orders.Close()
		case report, ok := <-s.reports:
			switch {
			case !ok:
				err := fmt.Errorf("supervising the cluster: the supervisor was killed (%s); its components ended with it", s.command.ProcessState)
				return errors.Join(err, layout.RemoveAll())
			case report.Progress != "":
				fmt.Fprintln(out, "   "+report.Progress)
			case report.Ready != nil && !interrupted:
				if !foreground {
					if err := json.NewEncoder(s.orders).Encode(true); err != nil {
						return fmt.Errorf("leaving the cluster to its supervisor: %w", err)
					}
					ready(*report.Ready, false)
					return nil
				}
				wasReady = true
				ready(*report.Ready, false)
			case report.Ended != "":
				for range s.reports {
				}
				switch {
				case interrupted && !wasReady:
					return ErrInterrupted
				case interrupted:
					return nil
				case wasReady:
					return fmt.Errorf("the cluster ended: %s", report.Ended)
				}
				return fmt.Errorf("starting the cluster: %s", report.Ended)
			}
		}
	}
}
