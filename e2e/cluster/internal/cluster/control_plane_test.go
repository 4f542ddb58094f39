package cluster

import (
	"slices"
	"strings"
	"testing"
)

var (
	somewhere = NewLayout("/c", "")
	somePorts = Ports{Host: "127.0.0.1", Etcd: 1, EtcdPeer: 2, APIServer: 3, Controllers: 4, Scheduler: 5}
)

func TestComponentsAreOnLoopbackAndShareTheirReservedPorts(t *testing.T) {
	components := ControlPlane(somewhere, somePorts, Options{})
	var names []string
	for _, component := range components {
		names = append(names, component.Name)
		args := strings.Join(component.Args, " ")
		if !strings.Contains(args, "--permit-port-sharing=true") && !strings.Contains(args, "--socket-reuse-port=true") {
			t.Errorf("%s cannot bind its port, which the supervisor holds", component.Name)
		}
		if !strings.Contains(args, "--bind-address=127.0.0.1 ") && !strings.Contains(args, "--listen-client-urls=https://127.0.0.1:1 ") {
			t.Errorf("%s listens for others than this machine", component.Name)
		}
		if !strings.HasPrefix(component.Ready, "https://127.0.0.1:") {
			t.Errorf("%s is asked at %s", component.Name, component.Ready)
		}
		flags := map[string]bool{}
		for _, arg := range component.Args {
			flag, _, _ := strings.Cut(arg, "=")
			if flags[flag] {
				t.Errorf("%s has %s twice", component.Name, flag)
			}
			flags[flag] = true
		}
	}
	if want := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}; !slices.Equal(names, want) {
		t.Errorf("started in the order %v", names)
	}
}

func TestArgumentsThatWereAskedForComeLastAndAuditOnlyIfAskedFor(t *testing.T) {
	plain := ControlPlane(somewhere, somePorts, Options{})[1].Args
	if slices.ContainsFunc(plain, func(arg string) bool { return strings.HasPrefix(arg, "--audit") }) {
		t.Error("requests are recorded although nobody asked")
	}
	asked := ControlPlane(somewhere, somePorts, Options{Audit: true, APIServerArgs: []string{"--v=4"}})[1].Args
	if !slices.Contains(asked, "--audit-log-path=/c/logs/audit.log") || asked[len(asked)-1] != "--v=4" {
		t.Errorf("got %v", asked)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Name: "dev", Timeout: 1, APIServerArgs: []string{"--v=4"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Options){
		"--name":          func(o *Options) { o.Name = "../dev" },
		"--timeout":       func(o *Options) { o.Timeout = 0 },
		"--lifetime":      func(o *Options) { o.Lifetime = -1 },
		"--apiserver-arg": func(o *Options) { o.APIServerArgs = []string{"v=4"} },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
