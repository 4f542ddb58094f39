package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"mas-cluster/internal/node"
	"mas-cluster/internal/process"
)

// Report is what the supervisor tells the `up` that started it: one of these.
type Report struct {
	Progress string  `json:"progress,omitempty"`
	Ready    *Record `json:"ready,omitempty"`
	Ended    string  `json:"ended,omitempty"`
}

// The files that `up` hands to the supervisor: see Supervise.
const (
	lockFD = 3 + iota
	ordersFD
	reportsFD
)

const (
	probeEvery = 50 * time.Millisecond
	ownerEvery = 500 * time.Millisecond
)

// errAsked ends a cluster that somebody wanted to end.
type errAsked string

func (e errAsked) Error() string { return string(e) }

type supervisor struct {
	layout   Layout
	options  Options
	record   Record
	children []*child
	exits    chan *child
	changes  chan os.Signal // SIGHUP: what is stopped has changed
	prober   *Prober
	began    time.Time
	reports  *json.Encoder
}

// Supervise is the process that all components are children of. It holds the lock of the cluster's folder (its file 3), reads
// the options from its file 4 and reports to its file 5. When file 4 ends before it held a second value, the `up` that waits for
// the cluster is gone, and so is the cluster. Whatever the reason of its end, it ends the components and removes the files first.
func Supervise() int {
	// The kernel ends the components with this thread: see child.start.
	runtime.LockOSThread()
	// They were handed over by inheritance, which they must not go on with: a component that had the lock would hold it.
	for _, file := range []int{lockFD, ordersFD, reportsFD} {
		syscall.CloseOnExec(file)
	}
	orders := json.NewDecoder(os.NewFile(ordersFD, "orders"))
	s := &supervisor{
		// Nobody reads it while components are stopped and started: there is room for what they tell meanwhile.
		exits:   make(chan *child, 64),
		changes: make(chan os.Signal, 1),
		began:   time.Now(),
		reports: json.NewEncoder(os.NewFile(reportsFD, "reports")),
	}
	if err := orders.Decode(&s.options); err != nil {
		fmt.Fprintf(os.Stderr, "supervising: reading the options: %v\n", err)
		return 2
	}
	s.layout = NewLayout(s.options.Dir, s.options.Logs)

	signal.Notify(s.changes, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	go s.heedOrders(orders, cancel)
	go s.heedSignals(cancel)
	go s.heedOwner(ctx, cancel)
	if s.options.Lifetime > 0 {
		time.AfterFunc(s.options.Lifetime, func() { cancel(errAsked("its --lifetime is over")) })
	}

	err := s.start(ctx)
	wasReady := err == nil
	if wasReady {
		err = s.watch(ctx)
	}
	return s.end(err, wasReady)
}

func (s *supervisor) heedOrders(orders *json.Decoder, cancel context.CancelCauseFunc) {
	var keep bool
	if err := orders.Decode(&keep); err != nil {
		cancel(errAsked("the `up` that it belongs to has ended"))
	}
}

func (s *supervisor) heedSignals(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	cancel(errAsked("it was asked to, by `down` or a signal"))
}

func (s *supervisor) heedOwner(ctx context.Context, cancel context.CancelCauseFunc) {
	for s.options.Owner != nil && ctx.Err() == nil {
		if !s.options.Owner.Alive() {
			cancel(errAsked(fmt.Sprintf("its owner, process %d, has ended", s.options.Owner.PID)))
			return
		}
		time.Sleep(ownerEvery)
	}
}

// start starts the components one after the other; each needs the one before it.
func (s *supervisor) start(ctx context.Context) error {
	self, err := process.Self()
	if err != nil {
		return err
	}
	s.record = Record{
		Name: s.options.Name, Version: s.options.Version, Supervisor: self,
		Kubeconfig: s.layout.Kubeconfig(), Logs: s.layout.Logs, Started: s.began, Owner: s.options.Owner,
	}
	if s.options.Lifetime > 0 {
		ends := s.began.Add(s.options.Lifetime)
		s.record.Ends = &ends
	}
	if s.options.Audit {
		s.record.Audit = s.layout.Audit()
	}
	if s.options.Nodes > 0 {
		s.record.Nodes = node.NewPlan(s.layout.Dir, s.options.Nodes, s.options.Regions)
		taken, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("choosing the nodes' addresses: %w", err)
		}
		s.record.Nodes.Avoid(taken)
	}
	// First of all: `down` and other `up`s read it.
	if err := s.writeRecord(); err != nil {
		return err
	}
	host := "127.0.0.1"
	if s.options.Nodes > 0 {
		if err := s.record.Nodes.Connect(); err != nil {
			return err
		}
		host = s.record.Nodes.Host()
	}
	ports, err := reservePorts(host)
	if err != nil {
		return err
	}
	specs, err := s.specs()
	if err != nil {
		return err
	}
	if err := WriteMaterial(s.layout, ports, s.options, specs); err != nil {
		return err
	}
	if s.prober, err = NewProber(s.layout); err != nil {
		return err
	}
	s.record.Server = ports.Server()
	for _, component := range ControlPlane(s.layout, ports, s.options) {
		s.children = append(s.children, &child{Component: component})
	}

	ctx, stop := context.WithTimeoutCause(ctx, s.options.Timeout, errTimeout)
	defer stop()
	// Those after the API server need it and not each other.
	for _, together := range [][]*child{s.children[:1], s.children[1:2], s.children[2:]} {
		for _, c := range together {
			if err := s.startChild(c); err != nil {
				return err
			}
			if err := s.writeRecord(); err != nil {
				return err
			}
		}
		for _, c := range together {
			if err := s.waitFor(ctx, c, c.Ready); err != nil {
				return err
			}
			s.say("%-24s ready after %4.1f s", c.Name, time.Since(s.began).Seconds())
		}
	}
	// Without it no pod can be made: it comes a moment after the controllers say that they are ready.
	account := ports.Server() + "/api/v1/namespaces/default/serviceaccounts/default"
	if err := s.waitFor(ctx, s.children[2], account); err != nil {
		return err
	}
	if err := s.startNodes(ctx, ports, specs); err != nil {
		return err
	}
	s.record.Ready = true
	return s.writeRecord()
}

func (s *supervisor) specs() (specs []node.Spec, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	for i, name := range s.record.Nodes.Names {
		specs = append(specs, node.Spec{
			Plan: s.record.Nodes, Number: i, Folder: s.layout.Node(name), Logs: s.layout.Logs,
			CA: s.layout.Cert("ca"), Pause: filepath.Join(filepath.Dir(program), "pause"),
		})
	}
	return specs, nil
}

// startNodes starts all nodes and then waits for them.
func (s *supervisor) startNodes(ctx context.Context, ports Ports, specs []node.Spec) error {
	first := len(s.children)
	for _, spec := range specs {
		c := &child{Component: Component{
			Name: spec.Name(), Args: []string{node.InitCommand, s.layout.Config(spec.Name() + ".json")},
			Ready: ports.Server() + "/api/v1/nodes/" + spec.Name(), Namespaces: node.Namespaces,
		}}
		s.children = append(s.children, c)
		if err := s.startChild(c); err != nil {
			return err
		}
	}
	if err := s.writeRecord(); err != nil {
		return err
	}
	for _, c := range s.children[first:] {
		if err := s.waitFor(ctx, c, c.Ready); err != nil {
			return err
		}
		s.say("%-24s ready after %4.1f s", c.Name, time.Since(s.began).Seconds())
	}
	return nil
}

// startChild starts a component; a node gets its cable too.
func (s *supervisor) startChild(c *child) error {
	if err := c.start(s.layout, s.exits); err != nil {
		return err
	}
	if i := slices.Index(s.record.Nodes.Names, c.Name); i >= 0 {
		return s.record.Nodes.Plug(i, c.id.PID)
	}
	return nil
}

var errTimeout = errors.New("the time is over")

// waitFor waits until a URL answers 200, or a component has ended, or the cluster is to end.
func (s *supervisor) waitFor(ctx context.Context, waited *child, url string) error {
	for {
		err := s.prober.Get(url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) != errTimeout {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%s was not ready after %s: %w; %s\n  give it more time with --timeout SECONDS if this machine is busy",
				waited.Name, s.options.Timeout, err, QuoteLog(s.layout.Log(waited.Name)))
		case ended := <-s.exits:
			return ended.failure(s.layout)
		case <-time.After(probeEvery):
		}
	}
}

// watch goes on until the cluster is to end or a component ends by itself. At SIGHUP components are stopped and started as
// the files in the folder `stopped` say.
func (s *supervisor) watch(ctx context.Context) error {
	record := s.record
	_ = s.reports.Encode(Report{Ready: &record})
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ended := <-s.exits:
			if ended.hasEnded() {
				return ended.failure(s.layout)
			}
		case <-s.changes:
			if err := s.stopAndStart(); err != nil {
				return err
			}
		}
	}
}

func (s *supervisor) stopAndStart() error {
	for _, c := range s.children {
		_, err := os.Stat(s.layout.Stopped(c.Name))
		switch stopped := err == nil; {
		case stopped:
			c.kill()
		case c.id == nil:
			if err := s.startChild(c); err != nil {
				return err
			}
		}
	}
	return s.writeRecord()
}

// end ends the components, the last first, and removes the cluster's files. Of a cluster that was ready and then failed, what
// tells why is kept until the next `up` or `down`.
func (s *supervisor) end(cause error, wasReady bool) int {
	for i := len(s.children) - 1; i >= 0; i-- {
		s.children[i].kill()
	}
	cleaned := s.record.Nodes.Clean()
	var asked errAsked
	failed := !errors.As(cause, &asked)
	var err error
	if failed && wasReady {
		s.record.Failure, s.record.Ready, s.record.Components = cause.Error(), false, nil
		err = errors.Join(s.record.Write(s.layout), s.layout.RemoveData())
	} else {
		if failed && s.options.Logs == "" {
			cause = fmt.Errorf("%w\n  everything is removed again; --logs DIR would have kept the logs", cause)
		}
		err = s.layout.RemoveAll()
	}
	err = errors.Join(cleaned, err)
	cause = errors.Join(cause, err)
	fmt.Fprintf(os.Stderr, "%s ended: %v\n", time.Now().Format(time.RFC3339), cause)
	// Nobody may be listening any more.
	_ = s.reports.Encode(Report{Ended: cause.Error()})
	if failed || err != nil {
		return 1
	}
	return 0
}

func (s *supervisor) writeRecord() error {
	s.record.Components = nil
	for _, c := range s.children {
		s.record.Components = append(s.record.Components, ComponentRecord{Name: c.Name, Process: c.id, Ready: c.Ready})
	}
	return s.record.Write(s.layout)
}

func (s *supervisor) say(format string, values ...any) {
	_ = s.reports.Encode(Report{Progress: fmt.Sprintf(format, values...)})
}

// reservePorts reserves every component's port for as long as this process lives.
func reservePorts(host string) (ports Ports, err error) {
	ports.Host = host
	for _, port := range []*int{&ports.Etcd, &ports.EtcdPeer, &ports.APIServer, &ports.Controllers, &ports.Scheduler} {
		address := "127.0.0.1"
		if port == &ports.APIServer {
			address = host
		}
		reserved, err := process.ReservePort(address)
		if err != nil {
			return Ports{}, err
		}
		*port = reserved.Number
	}
	return ports, nil
}
