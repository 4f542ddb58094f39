package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOfALogTheLinesThatTellOfErrorsAreShown(t *testing.T) {
	for name, log := range map[string]struct{ text, want string }{
		"a flag":      {"I1122 15:54:42.1 1 a.go:1] on\nError: unknown flag: --x\nUsage:\n  --y\n", "Error: unknown flag: --x"},
		"kubernetes":  {"I1122 15:54:42.1 1 a.go:1] on\nE1122 15:54:42.2 1 b.go:1] no\nI1122 15:54:42.3 1 a.go:1] on\n", "E1122 15:54:42.2 1 b.go:1] no"},
		"etcd":        {`{"level":"warn","msg":"a"}` + "\n" + `{"level":"fatal","msg":"b"}` + "\n", `{"level":"fatal","msg":"b"}`},
		"no error":    {"one\n\ntwo\n", "one|two"},
		"Every start": {"Every word\nFirst word\n", "Every word|First word"},
		"nothing":     {"", ""},
	} {
		if got := strings.Join(telling(log.text), "|"); got != log.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestOfALongLogOnlyTheEndIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "long.log")
	lines := slices.Repeat([]string{strings.Repeat("x", 99)}, 2000)
	if err := os.WriteFile(path, []byte(strings.Join(append(lines, "the end"), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := readTail(path)
	if err != nil || len(text) > tailBytes || text[0] != 'x' || len(strings.SplitN(string(text), "\n", 2)[0]) != 99 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if quote := QuoteLog(path); !strings.HasSuffix(quote, "the end") || strings.Count(quote, "\n") != quoted {
		t.Errorf("got %s", quote)
	}
}
