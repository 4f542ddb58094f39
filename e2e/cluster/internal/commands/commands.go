// Package commands is the command line of mas-cluster, but for the components' own.
package commands

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"mas-cluster/internal/cluster"
	"mas-cluster/internal/node"
	"mas-cluster/internal/pki"
	"mas-cluster/internal/process"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// Environment is what the command line needs to know from outside.
type Environment struct {
	Program string // what a person calls this program by
	Version string // of Kubernetes
}

// Run runs a command with its arguments; the exit code.
func (e Environment) Run(name string, args []string) int {
	commands := map[string]func([]string) (int, error){
		"up":         e.up,
		"down":       down,
		"status":     status,
		"kubeconfig": kubeconfig,
		"stop":       func(args []string) (int, error) { return change(newFlags("stop"), "stopped", cluster.Stop, args) },
		"load":       func(args []string) (int, error) { return change(newFlags("load"), "on all nodes", cluster.Load, args) },
		"cut":        cut,
		"missing":    missing, // for tools/cluster, which installs them
		"heal":       func(args []string) (int, error) { return change(newFlags("heal"), "connected", cluster.Heal, args) },
		"start":      func(args []string) (int, error) { return change(newFlags("start"), "ready", cluster.Start, args) },
	}
	run, ok := commands[name]
	if !ok {
		run = func([]string) (int, error) {
			return exitUsage, fmt.Errorf("reading the arguments: no such command: %s; try --help", name)
		}
	}
	if name == "help" || name == "--help" || name == "-h" {
		run = func([]string) (int, error) { return 0, errHelp }
	}
	code, err := run(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Print(help)
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", e.Program, err)
	}
	return code
}

var errHelp = errors.New("help was asked for")

// flags are a command's; the two that every command takes are there.
type flags struct {
	*flag.FlagSet
	name, dir *string
	plain     []string // the arguments that are no flags
}

func newFlags(command string) *flags {
	set := flag.NewFlagSet(command, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return &flags{FlagSet: set, name: set.String("name", "dev", ""), dir: set.String("dir", "", "")}
}

// read reads the arguments, of which as many as said are no flags, before or after these, and finds the cluster's folder.
func (f *flags) read(args []string, plain int) (dir string, err error) {
	for done := false; !done; {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return "", errHelp
			}
			return "", fmt.Errorf("reading the arguments of %s: %w; try --help", f.Name(), err)
		}
		if done = f.NArg() == 0; !done {
			f.plain, args = append(f.plain, f.Arg(0)), f.Args()[1:]
		}
	}
	if len(f.plain) != plain {
		return "", fmt.Errorf("reading the arguments of %s: %d without a flag instead of %d: %q; try --help", f.Name(), len(f.plain), plain, f.plain)
	}
	return cluster.Find(*f.dir, *f.name)
}

// again are the flags with which another command means the same cluster, whose folder is dir.
func (f *flags) again(dir string) string {
	switch {
	case *f.dir != "":
		return " --dir " + dir
	case *f.name != "dev":
		return " --name " + *f.name
	}
	return ""
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string         { return strings.Join(*l, " ") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

func (e Environment) up(args []string) (int, error) {
	set := newFlags("up")
	var apiServerArgs list
	set.Var(&apiServerArgs, "apiserver-arg", "")
	foreground := set.Bool("foreground", false, "")
	owner := set.Int("owner-pid", 0, "")
	lifetime := set.Int("lifetime", 0, "")
	nodes := set.Int("nodes", 0, "")
	regions := set.String("regions", "", "")
	audit := set.Bool("audit", false, "")
	logs := set.String("logs", "", "")
	timeout := set.Int("timeout", 120, "")
	dir, err := set.read(args, 0)
	if err != nil {
		return exitUsage, err
	}
	options := cluster.Options{
		Dir: dir, Name: *set.name, Version: e.Version, Audit: *audit, Nodes: *nodes, APIServerArgs: apiServerArgs,
		Regions:  strings.FieldsFunc(*regions, func(r rune) bool { return r == ',' }),
		Lifetime: time.Duration(*lifetime) * time.Second, Timeout: time.Duration(*timeout) * time.Second,
	}
	if *logs != "" {
		if options.Logs, err = cluster.Find(*logs, ""); err != nil {
			return exitUsage, err
		}
	}
	if *owner != 0 {
		identity, err := process.Of(*owner)
		if err != nil {
			return exitUsage, fmt.Errorf("checking --owner-pid: %w", err)
		}
		options.Owner = &identity
	}
	began := time.Now()
	fmt.Printf("== cluster %s: Kubernetes %s in %s\n", options.Name, options.Version, dir)
	err = cluster.Up(options, *foreground, os.Stdout, func(record cluster.Record, before bool) {
		if before {
			fmt.Printf("== it runs already, at %s\n", record.Server)
			if *audit && record.Audit == "" {
				fmt.Printf("   note: it was started without --audit, and goes on without: end it first (%s down%s)\n", e.Program, set.again(dir))
			}
		} else {
			fmt.Printf("== ready after %.1f s, at %s\n", time.Since(began).Seconds(), record.Server)
		}
		fmt.Printf("   export KUBECONFIG=%s\n   %s kubectl get namespaces\n", record.Kubeconfig, e.Program)
		if record.Audit != "" {
			fmt.Printf("   requests: %s\n", record.Audit)
		}
		if *foreground && !before {
			fmt.Println("   Ctrl-C ends it")
		} else {
			fmt.Printf("   end it: %s down%s\n", e.Program, set.again(dir))
		}
	})
	switch {
	case errors.Is(err, cluster.ErrInterrupted):
		return exitInterrupted, err
	case err != nil:
		return exitFailed, err
	case *foreground:
		fmt.Printf("== cluster %s is not there any more\n", options.Name)
	}
	return 0, nil
}

func down(args []string) (int, error) {
	set := newFlags("down")
	dir, err := set.read(args, 0)
	if err != nil {
		return exitUsage, err
	}
	found, err := cluster.Down(dir)
	if err != nil {
		return exitFailed, err
	}
	if !found {
		fmt.Printf("== there is no cluster in %s\n", dir)
		return 0, nil
	}
	fmt.Printf("== cluster %s is ended, and %s removed\n", *set.name, dir)
	return 0, nil
}

func status(args []string) (int, error) {
	dir, err := newFlags("status").read(args, 0)
	if err != nil {
		return exitUsage, err
	}
	ready, err := cluster.Status(dir, os.Stdout)
	if err != nil || !ready {
		return exitFailed, err
	}
	return 0, nil
}

func kubeconfig(args []string) (int, error) {
	set := newFlags("kubeconfig")
	var groups list
	set.Var(&groups, "group", "")
	user := set.String("user", "", "")
	namespace := set.String("namespace", "", "")
	dir, err := set.read(args, 0)
	if err != nil {
		return exitUsage, err
	}
	if *user == "" {
		return exitUsage, errors.New("reading the arguments of kubeconfig: say which user with --user NAME")
	}
	text, err := cluster.IssueKubeconfig(dir, pki.Subject{Name: *user, Groups: groups}, *namespace)
	if err != nil {
		return exitFailed, err
	}
	_, err = os.Stdout.Write(text)
	return 0, err
}

func missing([]string) (int, error) {
	for _, name := range node.Missing() {
		fmt.Println(name)
	}
	return 0, nil
}

func cut(args []string) (int, error) {
	set := newFlags("cut")
	peers := set.Bool("peers", false, "")
	return change(set, "cut off", func(dir, name string) error {
		if *peers {
			return cluster.CutPeers(dir, name)
		}
		return cluster.Cut(dir, name)
	}, args)
}

func change(set *flags, done string, run func(dir, what string) error, args []string) (int, error) {
	dir, err := set.read(args, 1)
	if err != nil {
		return exitUsage, err
	}
	what := set.plain[0]
	if err := run(dir, what); err != nil {
		return exitFailed, err
	}
	fmt.Printf("== %s is %s\n", what, done)
	return 0, nil
}

// ChooseCluster makes kubectl mean the cluster "dev" and nothing else when no other was chosen: ~/.kube/config may well be
// somebody's production.
func (e Environment) ChooseCluster() {
	if os.Getenv("KUBECONFIG") != "" {
		return
	}
	dir, err := cluster.Find("", "dev")
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", e.Program, err)
		os.Exit(exitUsage)
	}
	kubeconfig := cluster.NewLayout(dir, "").Kubeconfig()
	if _, err := os.Stat(kubeconfig); err != nil {
		// Some of its commands need no cluster.
		fmt.Fprintf(os.Stderr, "%s: the cluster dev does not run: start it with `%[1]s up`, or set KUBECONFIG for another one\n", e.Program)
	}
	_ = os.Setenv("KUBECONFIG", kubeconfig)
}
