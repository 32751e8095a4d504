package sqldb

import (
	"context"
	"database/sql"
	"errors"
)

// statements prepares each query once, on a connection or in a transaction. It is for one goroutine at a time.
type statements struct {
	on interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}
	ready map[string]*sql.Stmt
}

func (s *statements) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := s.ready[query]; st != nil {
		return st, nil
	}
	st, err := s.on.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if s.ready == nil {
		s.ready = make(map[string]*sql.Stmt)
	}
	s.ready[query] = st
	return st, nil
}

// QueryContext runs a query for rows.
func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := s.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// exec runs a statement and returns how many rows it changed.
func (s *statements) exec(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := s.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// one runs a query for one row of one integer.
func (s *statements) one(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.scan(ctx, query, args, &n)
	return n, err
}

// two runs a query for one row of two integers.
func (s *statements) two(ctx context.Context, query string, args ...any) (a, b int64, err error) {
	err = s.scan(ctx, query, args, &a, &b)
	return a, b, err
}

func (s *statements) scan(ctx context.Context, query string, args []any, into ...any) error {
	st, err := s.stmt(ctx, query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(ctx, args...).Scan(into...)
}

// prepared is a connection of its own with its statements.
type prepared struct {
	statements
	conn *sql.Conn
}

// prepare takes a connection out of a pool.
func prepare(ctx context.Context, pool *sql.DB) (*prepared, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &prepared{statements{on: conn}, conn}, nil
}

func (p *prepared) close() error {
	var all []error
	for _, s := range p.ready {
		all = append(all, s.Close())
	}
	return errors.Join(append(all, p.conn.Close())...)
}
