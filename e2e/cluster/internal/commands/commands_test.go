package commands

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestACommandAndWhatItPrintsMeanTheSameCluster(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	here, _ := filepath.Abs("here")
	for _, c := range []struct{ args, dir, again string }{
		{"", "/state/multiactive-clusters/dev", ""},
		{"--name other", "/state/multiactive-clusters/other", " --name other"},
		{"--dir here", here, " --dir " + here},
		{"--dir=/there --name other", "/there", " --dir /there"},
	} {
		set := newFlags("up")
		dir, err := set.read(strings.Fields(c.args), 0)
		if err != nil || dir != c.dir || set.again(dir) != c.again {
			t.Errorf("%q: %q, %q, %v", c.args, dir, set.again(dir), err)
		}
	}
}

func TestFlagsAreBeforeOrAfterWhatACommandIsAbout(t *testing.T) {
	for _, args := range []string{"node-2 --peers --dir /c", "--peers node-2 --dir /c", "--peers --dir /c node-2"} {
		set := newFlags("cut")
		peers := set.Bool("peers", false, "")
		dir, err := set.read(strings.Fields(args), 1)
		if err != nil || dir != "/c" || !*peers || set.plain[0] != "node-2" {
			t.Errorf("%q: %q, %v, %q, %v", args, dir, *peers, set.plain, err)
		}
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, args := range []string{"--nonsense", "dev", "--name"} {
		if _, err := newFlags("down").read(strings.Fields(args), 0); err == nil || !strings.Contains(err.Error(), "--help") {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := newFlags("down").read([]string{"--help"}, 0); !errors.Is(err, errHelp) {
		t.Errorf("--help: %v", err)
	}
	if code := (Environment{}).Run("upp", nil); code != exitUsage {
		t.Errorf("an unknown command: exit code %d", code)
	}
}

func TestTheHelpFitsATerminalAndNamesEveryCommand(t *testing.T) {
	for _, line := range strings.Split(help, "\n") {
		if len(line) > 120 {
			t.Errorf("%d characters: %s", len(line), line)
		}
	}
	for _, command := range []string{"up", "status", "down", "kubectl", "kubeconfig", "stop, start"} {
		if !regexp.MustCompile(`(?m)^  ` + command + ` `).MatchString(help) {
			t.Errorf("%s is missing", command)
		}
	}
}
