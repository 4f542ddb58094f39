package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrHeld says that another process holds the lock.
var ErrHeld = errors.New("the lock is held by another process")

// Lock is an exclusive lock on a file. It can be handed to a child with the file; it is free when all who have it have
// ended, however they ended.
type Lock struct{ File *os.File }

// TakeLock takes the lock on the file at path, which it creates, or returns ErrHeld at once.
func TakeLock(path string) (*Lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the lock: %w", err)
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrHeld
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// Who had it may have removed the file in between; then this lock is on a file that nobody else sees.
		mine, err := file.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(path); err == nil && os.SameFile(mine, there) {
				return &Lock{file}, nil
			}
		}
		_ = file.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("looking at the lock: %w", err)
		}
	}
}

// Release gives this process's share of the lock back.
func (l *Lock) Release() { _ = l.File.Close() }
