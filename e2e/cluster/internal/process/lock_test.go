package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestALockIsHeldOnceAndSurvivesTheRemovalOfItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := TakeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(path); !errors.Is(err, ErrHeld) {
		t.Fatalf("taken twice: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := TakeLock(path)
	if err != nil {
		t.Fatalf("a removed lock is still in the way: %v", err)
	}
	first.Release()
	if _, err := TakeLock(path); !errors.Is(err, ErrHeld) {
		t.Fatalf("releasing a removed lock released the new one: %v", err)
	}
	second.Release()
	third, err := TakeLock(path)
	if err != nil {
		t.Fatalf("not free after its release: %v", err)
	}
	third.Release()
}
