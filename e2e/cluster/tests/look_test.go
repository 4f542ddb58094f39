package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test program is also what pods of the tests run: see look.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "look" {
		look(os.Args[2:])
	}
	os.Exit(m.Run())
}

// answer is what a pod found under a name (its addresses), under an address (its names), or by a call to a name with a port.
type answer struct {
	Found []string
	None  bool // for sure: somebody said so
	Took  time.Duration
}

// look finds out about names, again and again, and writes the answers into the volume of its pod. There is also a file that tells
// who was the first to write into that volume. Its port can be called.
func look(names []string) {
	listener, err := net.Listen("tcp", ":8001")
	check(err)
	go func() {
		for connection, err := listener.Accept(); err == nil; connection, err = listener.Accept() {
			_ = connection.Close()
		}
	}()
	if file, err := os.OpenFile("/data/first", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
		_, err = fmt.Fprintln(file, os.Getenv("POD"))
		check(errors.Join(err, file.Close()))
	}
	for ; ; time.Sleep(100 * time.Millisecond) {
		answers := map[string]answer{}
		for _, name := range names {
			answers[name] = ask(name)
		}
		text, err := json.Marshal(answers)
		check(err)
		check(os.WriteFile("/data/next", text, 0o600))
		check(os.Rename("/data/next", "/data/answers"))
	}
}

func ask(name string) answer {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var found []string
	var err error
	switch {
	case strings.Contains(name, ":"):
		var connection net.Conn
		if connection, err = new(net.Dialer).DialContext(ctx, "tcp", name); err == nil {
			found = []string{connection.RemoteAddr().String()}
			_ = connection.Close()
		}
	case net.ParseIP(name) != nil:
		found, err = net.DefaultResolver.LookupAddr(ctx, name)
	default:
		found, err = net.DefaultResolver.LookupHost(ctx, name)
	}
	var unknown *net.DNSError
	return answer{Found: found, None: errors.As(err, &unknown) && unknown.IsNotFound, Took: time.Since(began)}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// volume is the folder of the volume of a claim, as this machine sees it.
func (p *place) volume(claim string) string {
	p.Helper()
	volume := p.must("kubectl", "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	path := p.must("kubectl", "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
	if !strings.HasPrefix(path, p.dir) {
		p.Fatalf("the volume is in %s", path)
	}
	return path
}

// answers waits for what a pod found out from now on, until it is as expected.
func (p *place) answers(volume, what string, expected func(map[string]answer) bool) {
	p.Helper()
	file := filepath.Join(volume, "answers")
	began := time.Now()
	var text []byte
	// Those that are written now may have been asked for before.
	fresh := func() bool {
		info, err := os.Stat(file)
		return err == nil && info.ModTime().After(began)
	}
	p.wait("a pod writes "+file, fresh)
	began = time.Now()
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("%s: %s", what, text)
		}
	})
	p.wait(what, func() bool {
		if !fresh() {
			return false
		}
		var answers map[string]answer
		var err error
		if text, err = os.ReadFile(file); err != nil || json.Unmarshal(text, &answers) != nil {
			return false
		}
		return expected(answers)
	})
}
