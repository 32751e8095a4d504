package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// writeTries is how often a write is begun while another process holds the lock; each try waits for busyTimeout.
const writeTries = 3

// batch is a write under way, on the one connection that writes.
type batch struct {
	tx    *sql.Tx
	stmts map[string]*sql.Stmt
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
	if err := do(&batch{tx, make(map[string]*sql.Stmt)}); err != nil {
		return classify(err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", classify(err))
	}
	return nil
}

// stmt prepares a statement once in a batch. The end of the transaction closes it.
func (b *batch) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := b.stmts[query]; s != nil {
		return s, nil
	}
	s, err := b.tx.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	b.stmts[query] = s
	return s, nil
}

// exec runs a statement and returns how many rows it changed.
func (b *batch) exec(ctx context.Context, query string, args ...any) (int64, error) {
	s, err := b.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// one runs a query for one row of one integer.
func (b *batch) one(ctx context.Context, query string, args ...any) (n int64, err error) {
	s, err := b.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	err = s.QueryRowContext(ctx, args...).Scan(&n)
	return n, err
}
