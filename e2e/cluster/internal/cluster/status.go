package cluster

import (
	"fmt"
	"io"
	"time"
)

// Status writes what runs, component by component, and says whether all of it is ready.
func Status(dir string, out io.Writer) (ready bool, err error) {
	layout := NewLayout(dir, "")
	record, running, err := Look(layout)
	if err != nil {
		return false, err
	}
	switch {
	case record.Failure != "":
		fmt.Fprintf(out, "the cluster in %s ended by itself: %s\n", dir, record.Failure)
		return false, nil
	case !running && record.Ready:
		fmt.Fprintf(out, "no cluster runs in %s: its supervisor was killed, and its components with it; `down` removes the files\n", dir)
		return false, nil
	case !running:
		fmt.Fprintf(out, "no cluster runs in %s\n", dir)
		return false, nil
	case !record.Ready:
		fmt.Fprintf(out, "cluster %s is being started\n", record.Name)
		return false, nil
	}
	fmt.Fprintf(out, "cluster %s: Kubernetes %s at %s, up for %s\n", record.Name, record.Version, record.Server,
		time.Since(record.Started).Round(time.Second))
	prober, err := NewProber(layout)
	if err != nil {
		return false, err
	}
	ready, total := true, record.Supervisor.ResidentKB()
	for _, c := range record.Components {
		if c.Process == nil {
			fmt.Fprintf(out, "   %-24s stopped\n", c.Name)
			ready = false
			continue
		}
		state := "ready"
		if err := prober.Get(c.Ready); err != nil {
			state, ready = fmt.Sprintf("not ready: %v", err), false
		}
		memory := c.Process.ResidentKB()
		total += memory
		fmt.Fprintf(out, "   %-24s pid %-8d %4d MB  %s\n", c.Name, c.Process.PID, memory>>10, state)
	}
	fmt.Fprintf(out, "   %-24s pid %-8d %4d MB  all together %d MB\n", "supervisor", record.Supervisor.PID,
		record.Supervisor.ResidentKB()>>10, total>>10)
	if record.Owner != nil {
		fmt.Fprintf(out, "   ends with process %d\n", record.Owner.PID)
	}
	if record.Ends != nil {
		fmt.Fprintf(out, "   ends in %s\n", time.Until(*record.Ends).Round(time.Second))
	}
	fmt.Fprintf(out, "   kubeconfig %s\n   logs       %s\n", record.Kubeconfig, record.Logs)
	if record.Audit != "" {
		fmt.Fprintf(out, "   audit log  %s\n", record.Audit)
	}
	return ready, nil
}
