package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// writeTries is how often a write is begun while another process holds the lock; each try waits for busyTimeout.
const writeTries = 3

// batch is a write under way, on the one connection that writes. The end of the transaction closes its statements.
type batch struct {
	statements
	tx *sql.Tx
}

// write runs do in one transaction and returns when it is on the disk and in memory, or not done at all. The one exception
// is an error of the refresh that follows the commit: then it is done, and doing it again is harmless.
// do may run more than once.
func (db *DB) write(ctx context.Context, do func(*batch) error) error {
	var err error
	for range writeTries {
		if err = db.writeOnce(ctx, do); !errors.Is(err, ErrBusy) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return db.refresh(ctx)
}

func (db *DB) writeOnce(ctx context.Context, do func(*batch) error) error {
	// The pool's _txlock makes this BEGIN IMMEDIATE: a transaction that will write says so at once, and cannot find halfway
	// that another was faster.
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", classify(err))
	}
	defer tx.Rollback() // does nothing after a commit
	if err := do(&batch{statements{on: tx}, tx}); err != nil {
		return classify(err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", classify(err))
	}
	return nil
}
