package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAFolderWithOtherFilesIsNotTaken(t *testing.T) {
	layout := NewLayout(t.TempDir(), "")
	if err := layout.Prepare(); err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	mine := filepath.Join(layout.Dir, "thesis.tex")
	touch(t, mine)
	if err := layout.Prepare(); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Fatalf("somebody's folder: %v", err)
	}
	touch(t, layout.Lock())
	if err := layout.Prepare(); err != nil {
		t.Fatalf("an earlier cluster's folder: %v", err)
	}
}

func TestWhatSomebodyElsePutIntoTheFolderIsKept(t *testing.T) {
	layout := NewLayout(filepath.Join(t.TempDir(), "deep", "er"), "")
	if err := errors.Join(layout.Prepare(), layout.MakeFolders()); err != nil {
		t.Fatal(err)
	}
	touch(t, layout.Lock())
	touch(t, layout.Record())
	mine := filepath.Join(layout.Dir, "alice.kubeconfig")
	touch(t, mine)
	if err := layout.RemoveAll(); err == nil || !strings.Contains(err.Error(), "alice.kubeconfig") {
		t.Errorf("it is not told: %v", err)
	}
	if found, _ := os.ReadDir(layout.Dir); len(found) != 1 {
		t.Errorf("%v is left", found)
	}
	if err := errors.Join(os.Remove(mine), layout.RemoveAll(), layout.RemoveAll()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(layout.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestLogsElsewhereAreKeptUntilTheNextClusterWritesItsOwn(t *testing.T) {
	logs := filepath.Join(t.TempDir(), "logs")
	layout := NewLayout(filepath.Join(t.TempDir(), "c"), logs)
	if err := errors.Join(layout.Prepare(), layout.MakeFolders()); err != nil {
		t.Fatal(err)
	}
	touch(t, layout.Log("etcd"))
	if err := layout.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(logs, "etcd.log")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(layout.Prepare(), layout.MakeFolders()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(logs, "etcd.log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an earlier cluster's log is taken for this one's: %v", err)
	}
}

func TestTheDataOfAFailedClusterGoesAndWhatTellsWhyStays(t *testing.T) {
	layout := NewLayout(filepath.Join(t.TempDir(), "c"), "")
	if err := errors.Join(layout.Prepare(), layout.MakeFolders(), Record{Name: "dev"}.Write(layout)); err != nil {
		t.Fatal(err)
	}
	touch(t, layout.Lock())
	touch(t, layout.Kubeconfig())
	if err := layout.RemoveData(); err != nil {
		t.Fatal(err)
	}
	var left []string
	found, _ := os.ReadDir(layout.Dir)
	for _, file := range found {
		left = append(left, file.Name())
	}
	if got := strings.Join(left, " "); got != "cluster.json logs mas-cluster.lock" {
		t.Errorf("left: %s", got)
	}
}
