package sqldb

import (
	"context"
	"database/sql"
	"errors"
)

// prepared is a connection that prepares each statement once. It is for one goroutine at a time.
type prepared struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// prepare takes a connection out of a pool.
func prepare(ctx context.Context, pool *sql.DB) (*prepared, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &prepared{conn, make(map[string]*sql.Stmt)}, nil
}

func (p *prepared) close() error {
	var all []error
	for _, s := range p.stmts {
		all = append(all, s.Close())
	}
	return errors.Join(append(all, p.conn.Close())...)
}

func (p *prepared) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := p.stmts[query]; s != nil {
		return s, nil
	}
	s, err := p.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.stmts[query] = s
	return s, nil
}

// QueryContext runs a query for rows.
func (p *prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := p.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

// exec runs a statement and returns how many rows it changed.
func (p *prepared) exec(ctx context.Context, query string, args ...any) (int64, error) {
	s, err := p.stmt(ctx, query)
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
func (p *prepared) one(ctx context.Context, query string, args ...any) (n int64, err error) {
	s, err := p.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	err = s.QueryRowContext(ctx, args...).Scan(&n)
	return n, err
}

// two runs a query for one row of two integers.
func (p *prepared) two(ctx context.Context, query string, args ...any) (a, b int64, err error) {
	s, err := p.stmt(ctx, query)
	if err != nil {
		return 0, 0, err
	}
	err = s.QueryRowContext(ctx, args...).Scan(&a, &b)
	return a, b, err
}
