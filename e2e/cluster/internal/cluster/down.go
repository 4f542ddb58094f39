package cluster

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"mas-cluster/internal/process"
)

// How long the supervisor may take to end what it started, before it is killed. What it started ends with it.
const downTimeout = 30 * time.Second

// Down ends a cluster and removes its files; it says whether there was one.
func Down(dir string) (found bool, err error) {
	layout := NewLayout(dir, "")
	if _, err := os.Stat(layout.Lock()); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	deadline := time.Now().Add(downTimeout)
	asked := process.Identity{}
	for {
		lock, err := process.TakeLock(layout.Lock())
		switch {
		case err == nil:
			// No supervisor, so no component either. What is left of it are files.
			defer lock.Release()
			record, _, err := Look(layout)
			if err != nil {
				return true, err
			}
			return true, errors.Join(record.Nodes.Clean(), layout.RemoveAll())
		case errors.Is(err, os.ErrNotExist):
			return true, nil
		case !errors.Is(err, process.ErrHeld):
			return true, err
		}
		// The record is there a moment after the lock is taken.
		record, running, err := Look(layout)
		late := time.Now().After(deadline)
		switch {
		case late && (err != nil || !running):
			return true, fmt.Errorf("ending the cluster in %s: its lock is held, but no supervisor is on record (%w): "+
				"another `up` or `down` may be at work; try again", dir, errors.Join(errors.New("no live process"), err))
		case late:
			if err := record.Supervisor.Signal(syscall.SIGKILL); err != nil {
				return true, err
			}
		case err == nil && running && record.Supervisor != asked:
			if err := record.Supervisor.Signal(syscall.SIGTERM); err != nil {
				return true, err
			}
			asked = record.Supervisor
		}
		time.Sleep(probeEvery / 2)
	}
}

// Stop ends one component, and Start starts it again: the rest of the cluster goes on without it.
func Stop(dir, component string) error { return change(dir, component, true) }

// Start starts a component that was stopped and returns when it is ready.
func Start(dir, component string) error { return change(dir, component, false) }

func change(dir, component string, stop bool) error {
	verb := map[bool]string{true: "stopping", false: "starting"}[stop]
	layout := NewLayout(dir, "")
	record, running, err := Look(layout)
	if err != nil {
		return err
	}
	if !running || !record.Ready {
		return fmt.Errorf("%s %s: no cluster runs in %s: start it with `up` first", verb, component, dir)
	}
	find := func(c ComponentRecord) bool { return c.Name == component }
	i := slices.IndexFunc(record.Components, find)
	if i < 0 {
		var names []string
		for _, c := range record.Components {
			names = append(names, c.Name)
		}
		return fmt.Errorf("%s %s: no such component: name one of %s", verb, component, strings.Join(names, ", "))
	}
	if stop {
		err = os.WriteFile(layout.Stopped(component), nil, 0o600)
	} else if err = os.Remove(layout.Stopped(component)); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, component, err)
	}
	if err := record.Supervisor.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	prober, err := NewProber(layout)
	if err != nil {
		return err
	}
	if record.Components[i].Process == nil {
		// Kubernetes counts in seconds.
		prober.Since = time.Now().Truncate(time.Second)
	}
	for deadline := time.Now().Add(downTimeout); ; time.Sleep(probeEvery) {
		record, running, err := Look(layout)
		if err != nil {
			return err
		}
		if !running || !record.Ready {
			return fmt.Errorf("%s %s: the cluster has ended: %s", verb, component, record.Failure)
		}
		now := record.Components[slices.IndexFunc(record.Components, find)]
		problem := errors.New("it still runs")
		if now.Process == nil {
			problem = errors.New("it does not run yet")
		}
		if stop && now.Process == nil {
			return nil
		}
		if !stop && now.Process != nil {
			if problem = prober.Get(now.Ready); problem == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s: not done after %s: %w; %s", verb, component, downTimeout, problem,
				QuoteLog(NewLayout(dir, record.Logs).Log(component)))
		}
	}
}
