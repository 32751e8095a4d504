// Package sqldb keeps records, source sets, envelopes and tokens in a database: SQLite today, in one file.
//
// What the gate asks on every request is answered from memory: the records by an index of about a hundred bytes each, the
// tokens by a map. Both follow the tables. A write is committed to the disk first and enters memory by the same way as
// a write of another process, so that there is one way to be wrong.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
)

const (
	// pollEvery is how often Run looks for writes of other processes.
	pollEvery = 500 * time.Millisecond
	// freshFor is how long memory may go unchecked before a token look-up checks for itself.
	freshFor = time.Second
	// busyTimeout is how long one attempt waits for another process's lock.
	busyTimeout = 5 * time.Second
	// readers is how many reads of the file run at once.
	readers = 4
	// openTries is how often an open is tried while others open the same new file: switching to WAL does not wait for locks.
	openTries = 20
)

// Config is what [Open] needs.
type Config struct {
	Path   string           // of the database file; made, with mode 0600, when it is absent
	Now    func() time.Time // nil is time.Now
	Logger *slog.Logger     // nil discards
}

// DB is an open database. It is safe for concurrent use, also by several processes on one file.
type DB struct {
	now    func() time.Time
	log    *slog.Logger
	writer *sql.DB // one connection: SQLite has one writer
	reader *sql.DB
	follow follower
	index  *index
	tokens tokenIndex
	sets   setCache
}

var (
	_ provenance.Store = (*DB)(nil)
	_ authn.TokenStore = (*DB)(nil)
)

// Open opens or makes the database, brings its schema up to date and loads what is answered from memory. It returns an
// error that wraps [ErrNewer], [ErrCorrupt], [ErrFull] or [ErrBusy] where one applies. The caller closes the DB.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	db, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database %q: %w", cfg.Path, classify(err))
	}
	return db, nil
}

func open(ctx context.Context, cfg Config) (_ *DB, err error) {
	db := &DB{now: cfg.Now, log: cfg.Logger, index: newIndex()}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.follow.start = db.now()
	if db.writer, db.reader, err = openFile(cfg.Path); err != nil {
		return nil, err
	}
	if err := db.load(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openFile opens the connections to a database file, and makes it when it is absent.
func openFile(name string) (writer, reader *sql.DB, err error) {
	if name == "" {
		return nil, nil, errors.New("no path is configured")
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, nil, err
	}
	if err := createFile(path); err != nil {
		return nil, nil, err
	}
	if writer, err = openPool(path, 1, url.Values{
		"_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_foreign_keys": {"1"}, "_txlock": {"immediate"},
		"_pragma": {"journal_size_limit(67108864)"},
	}); err != nil {
		return nil, nil, err
	}
	if reader, err = openPool(path, readers+1, url.Values{"_query_only": {"1"}}); err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	return writer, reader, nil
}

// createFile makes an absent file with a mode that keeps others out, which SQLite gives to its companions too, and
// makes its name as durable as what will be in it.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func openPool(path string, size int, query url.Values) (*sql.DB, error) {
	query.Set("_busy_timeout", fmt.Sprint(busyTimeout.Milliseconds()))
	query.Add("_pragma", "trusted_schema(0)")
	query.Add("_pragma", "cell_size_check(1)")
	// The URI form escapes whatever the path holds.
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}

// load brings the schema up to date and reads the tables into memory.
func (db *DB) load(ctx context.Context) (err error) {
	if err := upgrade(ctx, db.writer, applicationID, migrationFiles, "migrations", db.now()); err != nil {
		return err
	}
	if db.follow.conn, err = db.reader.Conn(ctx); err != nil {
		return err
	}
	return db.catchUp(ctx)
}

// Close closes the files. Nothing else may be called during or after it.
func (db *DB) Close() error {
	var err error
	if db.follow.conn != nil {
		err = db.follow.conn.Close()
	}
	// The writer goes last: the last connection to close folds the write-ahead log into the file.
	return errors.Join(err, db.reader.Close(), db.writer.Close())
}

// Run brings what other processes write into memory, within a second, and forgets tokens that have expired. It returns
// nil when ctx is done. While the file cannot be read, it logs that once and goes on: records in memory stay true, for
// they never change, and token look-ups fail.
func (db *DB) Run(ctx context.Context) error {
	return poll(ctx, db.logTurn, func(ctx context.Context) error {
		db.tokens.expire(db.now())
		return db.refresh(ctx)
	})
}

// poll looks every pollEvery until ctx is done, and tells turn when that begins to fail and when it succeeds again. It returns nil.
func poll(ctx context.Context, turn func(context.Context, error), look func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if (err != nil) != failing {
			failing = err != nil
			turn(ctx, err)
		}
	}
}

func (db *DB) logTurn(ctx context.Context, err error) {
	if err != nil {
		db.log.ErrorContext(ctx, "database cannot be read: tokens are refused until it can", "error", err)
		return
	}
	db.log.InfoContext(ctx, "database can be read again")
}

// Check runs SQLite's own integrity check, which reads the whole file. Its error wraps [ErrCorrupt].
func (db *DB) Check(ctx context.Context) error { return checkIntegrity(ctx, db.reader) }

func checkIntegrity(ctx context.Context, reader *sql.DB) error {
	for _, pragma := range []string{"PRAGMA integrity_check(20)", "PRAGMA foreign_key_check"} {
		if err := checkBy(ctx, reader, pragma); err != nil {
			return fmt.Errorf("check database: %w", classify(err))
		}
	}
	return nil
}

func checkBy(ctx context.Context, reader *sql.DB, pragma string) error {
	rows, err := reader.QueryContext(ctx, pragma)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var finding string // the first column: "ok", a sentence, or a table's name
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		values[0] = &finding
		if err := rows.Scan(values...); err != nil {
			return err
		}
		if finding != "ok" {
			return fmt.Errorf("%s: %s: %w", pragma, finding, ErrCorrupt)
		}
	}
	return rows.Err()
}
