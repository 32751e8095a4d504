package sqldb

import (
	"errors"
	"fmt"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrFull is wrapped by every error that a full disk causes. It wraps syscall.ENOSPC. Nothing is half written, and
	// writes succeed again as soon as there is room.
	ErrFull = fmt.Errorf("the disk of the database is full: %w", syscall.ENOSPC)
	// ErrCorrupt is wrapped when the file is damaged, or is not a database of lychgate's.
	ErrCorrupt = errors.New("the database file is damaged or is not lychgate's: restore it from a backup, or move it away to start empty")
	// ErrNewer is wrapped when a newer lychgate has changed the schema.
	ErrNewer = errors.New("the database was written by a newer lychgate: start that one, or restore the backup made before the upgrade")
	// ErrBusy is wrapped when another process held the write lock for longer than a writer waits.
	ErrBusy = errors.New("the database is locked by another process: end it, or try again")
)

// classify puts the sentinel that err deserves before it.
func classify(err error) error {
	switch resultCode(err) {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w (%w)", ErrCorrupt, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return err
}

// resultCode returns SQLite's primary result code, or 0 when err is not SQLite's.
func resultCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}
