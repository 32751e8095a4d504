package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// FS is what a [Journal] asks of the file system. Tests inject one that fails; names are those of files in the
// journal's directory.
type FS interface {
	// Create opens a new file for appending; an existing one is an error.
	Create(name string) (File, error)
	// Append opens an existing file for appending.
	Append(name string) (File, error)
	Rename(from, to string) error
	// SyncDir makes what Create and Rename did durable.
	SyncDir() error
}

// File is a segment that is being written.
type File interface {
	io.WriteCloser
	Truncate(size int64) error
	Sync() error
}

// osFS is the FS of a real directory.
type osFS struct{ dir string }

var _ FS = osFS{}

func (f osFS) Create(name string) (File, error) {
	return os.OpenFile(filepath.Join(f.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
}

func (f osFS) Append(name string) (File, error) {
	return os.OpenFile(filepath.Join(f.dir, name), os.O_WRONLY|os.O_APPEND, 0)
}

func (f osFS) Rename(from, to string) error {
	return os.Rename(filepath.Join(f.dir, from), filepath.Join(f.dir, to))
}

func (f osFS) SyncDir() error {
	d, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockDir takes the directory for one journal. Closing the file gives it back.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock audit directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("audit directory %q belongs to another gate that is running: stop it, or give this one its own directory", dir)
	}
	return nil, fmt.Errorf("lock audit directory %q: %w", dir, err)
}

// freeSpace returns the octets that an unprivileged writer can still use in dir's file system.
func freeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for the free space of %q: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil // its type differs between systems
}
