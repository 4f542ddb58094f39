package node

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// InitCommand is what a node's first process is started with; its arguments are those of Spec.Args.
const InitCommand = "run-node"

const (
	containerdSocket = "/run/containerd/containerd.sock"
	cable            = "eth0"
	startTimeout     = 60 * time.Second
	namesTimeout     = 10 * time.Second
	namesReady       = "127.0.0.1:8181" // answers 200 at /ready when names are resolved
	domain           = "cluster.local"
)

// Spec is one node: all that its first process has to know.
type Spec struct {
	Plan   Plan
	Number int
	Folder string // its own, for what takes space
	Logs   string
	CA     string
	Pause  string // the program of sandboxes
}

// Name is the node's name.
func (s Spec) Name() string { return s.Plan.Names[s.Number] }

// Kubeconfig is where a kubeconfig is expected.
func (s Spec) Kubeconfig(program string) string {
	return filepath.Join(s.Folder, program+".kubeconfig")
}

// Namespaces are those that a node's first process is started in.
const Namespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS

// Init is a node's first process: it starts the others and ends, and with it the node, when one of them ends.
func Init(s Spec) error {
	if os.Getpid() != 1 {
		return errors.New("running a node: this is for `up` to start, in namespaces of its own")
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := s.network(); err != nil {
		return err
	}
	if err := s.cgroups(); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	running := map[int]string{}
	start := func(name, program string, args ...string) error {
		pid, err := s.start(name, program, args...)
		running[pid] = name
		return err
	}
	if err := start("coredns", "/proc/self/exe", "-conf", filepath.Join(s.Folder, "Corefile")); err != nil {
		return err
	}
	if err := start("containerd", "containerd", "--config", filepath.Join(s.Folder, "containerd.toml")); err != nil {
		return err
	}
	if err := s.importSandbox(); err != nil {
		return err
	}
	awaitNames()
	address := s.Plan.Address(s.Number)
	if err := start("kubelet", "/proc/self/exe", "--config="+filepath.Join(s.Folder, "kubelet.yaml"),
		"--kubeconfig="+s.Kubeconfig("kubelet"), "--hostname-override="+s.Name(), "--node-ip="+address,
		"--cert-dir=/run/kubelet-certificates", "--node-labels=topology.kubernetes.io/region="+s.Plan.Regions[s.Number]); err != nil {
		return err
	}
	if err := start("kube-proxy", "/proc/self/exe", "--kubeconfig="+s.Kubeconfig("kube-proxy"),
		"--hostname-override="+s.Name(), "--proxy-mode=iptables", "--cluster-cidr="+s.Plan.AllPods(),
		// The number of connections is the whole machine's to set.
		"--conntrack-max-per-core=0"); err != nil {
		return err
	}
	return reap(running)
}

// mount gives the node its own places for what containerd, kubelet and CNI write at fixed paths. Below this process mounts are
// shared: kubelet and containerd must see each other's.
func (s Spec) mount() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the node's mounts: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the node's mounts: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting the node's /proc: %w", err)
	}
	for _, folder := range Hidden {
		if err := syscall.Mount("node", folder, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mounting the node's %s: %w", folder, err)
		}
	}
	return syscall.Sethostname([]byte(s.Name()))
}

// Hidden are the folders that a node has of its own.
var Hidden = []string{"/run", "/var/lib", "/var/log"}

func (s Spec) network() error {
	for deadline := time.Now().Add(startTimeout); exec.Command("ip", "link", "show", cable).Run() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("connecting the node: its cable did not come")
		}
	}
	plan := s.Plan
	steps := [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", plan.Address(s.Number) + "/24", "dev", cable},
		{"link", "set", cable, "up"},
		{"route", "add", "default", "via", plan.Host()},
	}
	for i := range plan.Names {
		if i != s.Number {
			steps = append(steps, []string{"route", "add", plan.PodRange(i), "via", plan.Address(i)})
		}
	}
	if err := runIP(steps); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("letting the node forward packets: %w", err)
	}
	return nil
}

// cgroups makes the node's group in every hierarchy. In that of processors a new group has none until it is told. What pods of an
// earlier start left goes first: kubelet would look for each of them for some seconds.
func (s Spec) cgroups() error {
	if err := removeCgroups(s.Plan.Cgroup(s.Number)); err != nil {
		return err
	}
	hierarchies, err := filepath.Glob(filepath.Join(cgroups, "*", "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, procs := range hierarchies {
		root := filepath.Dir(procs)
		path := root
		for _, part := range strings.Split(strings.Trim(s.Plan.Cgroup(s.Number), "/"), "/") {
			path = filepath.Join(path, part)
			if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("making the node's cgroup: %w", err)
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				all, err := os.ReadFile(filepath.Join(root, file))
				if err != nil {
					continue
				}
				if err := os.WriteFile(filepath.Join(path, file), all, 0o644); err != nil {
					return fmt.Errorf("giving the node's cgroup its processors: %w", err)
				}
			}
		}
	}
	return nil
}

func (s Spec) configure() error {
	if err := os.MkdirAll(filepath.Join(s.Folder, "cni"), 0o755); err != nil {
		return fmt.Errorf("configuring the node: %w", err)
	}
	for name, text := range map[string]string{
		"containerd.toml":     containerdConfig(s.Folder),
		"cni/10-net.conflist": cniConfig(s.Plan.PodRange(s.Number)),
		"kubelet.yaml":        kubeletConfig(s.Plan.Cgroup(s.Number), s.CA, s.Plan.Address(s.Number)),
		"Corefile":            nameServer(s.Kubeconfig("coredns")),
	} {
		if err := os.WriteFile(filepath.Join(s.Folder, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configuring the node: %w", err)
		}
	}
	return nil
}

// start starts a program without waiting for it: reap does that for all of the node's processes.
func (s Spec) start(name, program string, args ...string) (int, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	log, err := os.OpenFile(filepath.Join(s.Logs, s.Name()+"-"+name+".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = log.Close() }()
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = nothing.Close() }()
	process, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{
		Dir: s.Folder, Env: os.Environ(), Files: []*os.File{nothing, log, log},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	return process.Pid, nil
}

func (s Spec) importSandbox() error {
	pause, err := os.ReadFile(s.Pause)
	if err != nil {
		return fmt.Errorf("making the sandbox image: %w", err)
	}
	image, err := Image(Sandbox, pause)
	if err != nil {
		return fmt.Errorf("making the sandbox image: %w", err)
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(100 * time.Millisecond) {
		command := exec.Command("ctr", "--namespace", "k8s.io", "images", "import", "-")
		command.Stdin = bytes.NewReader(image)
		output, err := command.CombinedOutput()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("importing the sandbox image: %w: %s", err, output)
		}
	}
}

// awaitNames waits until names are resolved: pods of a node that is ready can rely on it. If the API server does not answer, there
// is nothing to resolve yet, and the node starts as it is.
func awaitNames() {
	for deadline := time.Now().Add(namesTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		response, err := http.Get("http://" + namesReady + "/ready")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return
		}
	}
}

// reap waits for all processes of the node, whose parent this is, until one of those that make the node has ended.
func reap(running map[int]string) error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for the node's processes: %w", err)
		}
		if name, ok := running[pid]; ok {
			return fmt.Errorf("running the node: %s ended (exit code %d)", name, status.ExitStatus())
		}
	}
}
