package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/provenance"
)

// parallelFrom is from how many new records on several connections read them.
const parallelFrom = 10_000

// collectEvery is after how many rows a long read collects its garbage. Left alone the collector would wait until there is as much
// garbage as there are tables; they hold no pointers, so that looking for it takes no time.
const collectEvery = 100_000

// follower knows how far memory has followed the tables.
type follower struct {
	start time.Time    // of the DB
	fresh atomic.Int64 // nanoseconds from start to when memory was last known to be up to date

	asking sync.Mutex // held while one of those who wait for the same news fetches it

	mu         sync.Mutex // serialises pulls, and guards what follows
	conn       *sql.Conn  // data_version compares only within one connection
	version    int64      // of the data that memory holds; 0 is none
	records    int64      // the last id of each table that memory holds
	amendments int64
	tokens     int64
}

// refresh brings memory up to date when anything was committed since. Once begun it is not interrupted: it is short, many
// may be waiting for it, and what a write has committed is to be seen.
func (db *DB) refresh(ctx context.Context) error { return db.catchUp(context.WithoutCancel(ctx)) }

// catchUp is refresh that can be interrupted, for the long one at the start.
func (db *DB) catchUp(ctx context.Context) error {
	f := &db.follow
	f.mu.Lock()
	defer f.mu.Unlock()
	now := db.now().Sub(f.start)
	var version int64
	if err := f.conn.QueryRowContext(ctx, dataVersion).Scan(&version); err != nil {
		return fmt.Errorf("read data version: %w", classify(err))
	}
	if version != f.version {
		if err := db.pull(ctx); err != nil {
			return fmt.Errorf("follow database: %w", classify(err))
		}
		// What was committed between the two reads is read twice, which changes nothing.
		f.version = version
	}
	f.fresh.Store(int64(now))
	return nil
}

// ensureFresh refreshes memory that nobody has checked for that long. A clock that jumped counts as that.
func (db *DB) ensureFresh(ctx context.Context, limit time.Duration) error {
	age := db.now().Sub(db.follow.start) - time.Duration(db.follow.fresh.Load())
	if age < 0 || age > limit {
		return db.refresh(ctx)
	}
	return nil
}

// pull reads what is new, all of it at one moment of the database's life. The caller holds follow.mu.
func (db *DB) pull(ctx context.Context) error {
	tx, err := db.follow.conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// Words before claims before records before amendments: each points to those before it.
	for _, step := range []func(context.Context, *sql.Tx) error{
		db.pullWords, db.pullClaims, db.pullRecords, db.pullAmendments, db.pullTokens,
	} {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// querier is a connection, a pool or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each calls row for every row of a query.
func each(ctx context.Context, q querier, row func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (db *DB) pullWords(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, func(rows *sql.Rows) error {
		var id int
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		if id != len(*db.index.words.Load()) {
			return fmt.Errorf("word %d is out of order: %w", id, ErrCorrupt)
		}
		db.index.addWord(text)
		return nil
	}, newWords, len(*db.index.words.Load())-1)
}

func (db *DB) pullClaims(ctx context.Context, tx *sql.Tx) error {
	words := *db.index.words.Load()
	var statement, sources, inputs sql.RawBytes
	return each(ctx, tx, func(rows *sql.Rows) error {
		var id, signer int
		if err := rows.Scan(&id, &statement, &sources, &inputs, &signer); err != nil {
			return err
		}
		if id != len(*db.index.claims.Load()) || signer < 1 || signer >= len(words) {
			return fmt.Errorf("claim %d is out of order: %w", id, ErrCorrupt)
		}
		c := provenance.Claim{Signer: words[signer]}
		if copy(c.Statement[:], statement)+copy(c.Sources[:], sources)+copy(c.Inputs[:], inputs) != 3*32 {
			return fmt.Errorf("claim %d is cut short: %w", id, ErrCorrupt)
		}
		db.index.addClaim(c)
		return nil
	}, newClaims, len(*db.index.claims.Load())-1)
}

func (db *DB) pullRecords(ctx context.Context, tx *sql.Tx) error {
	var last int64
	if err := tx.QueryRowContext(ctx, lastRecord).Scan(&last); err != nil {
		return err
	}
	first := db.follow.records
	if last-first < parallelFrom {
		if err := db.pullRange(ctx, tx, first, last); err != nil {
			return err
		}
		db.follow.records = last
		return nil
	}
	if first == 0 {
		if err := db.reserve(ctx, tx, int(last)); err != nil {
			return err
		}
	}
	// Other connections see at least what this transaction sees, and records up to last never change.
	group, ctx := errgroup.WithContext(ctx)
	parts := int64(min(readers, runtime.GOMAXPROCS(0)))
	for i := range parts {
		from, to := first+(last-first)*i/parts, first+(last-first)*(i+1)/parts
		group.Go(func() error { return db.pullRange(ctx, db.reader, from, to) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	db.follow.records = last
	return nil
}

// pullRange reads the records with ids above from, up to to.
func (db *DB) pullRange(ctx context.Context, q querier, from, to int64) error {
	claims, words := uint32(len(*db.index.claims.Load())), uint32(len(*db.index.words.Load()))
	var key, digest, hash sql.RawBytes
	read := 0
	return each(ctx, q, func(rows *sql.Rows) error {
		if read++; read%collectEvery == 0 {
			runtime.GC()
		}
		var e entry
		var id, size int64
		var zone uint32
		var place provenance.Place
		if err := rows.Scan(&id, &key, &digest, &size, &place, &e.claim, &e.writer, &e.time, &zone, &hash); err != nil {
			return err
		}
		whole := copy(e.key[:], key) == len(e.key) && copy(e.digest[:], digest) == len(e.digest)
		h, sound := zoneHash(e.key, hash, zone, words)
		if !whole || !sound || size < 0 || size > sizeMask || e.claim == 0 || e.claim >= claims || e.writer == 0 || e.writer >= words {
			return fmt.Errorf("record %d does not make sense: %w", id, ErrCorrupt)
		}
		e.size = uint64(size)
		if place == provenance.Mirror {
			e.size |= mirrorFlag
		}
		db.index.add(e, h)
		return nil
	}, rangeRecords, from, to)
}

func (db *DB) pullAmendments(ctx context.Context, tx *sql.Tx) error {
	claims := *db.index.claims.Load()
	var key sql.RawBytes
	return each(ctx, tx, func(rows *sql.Rows) error {
		var id int64
		var claim, place int
		if err := rows.Scan(&id, &key, &claim, &place); err != nil {
			return err
		}
		if len(key) != len(recordKey{}) || claim < 0 || claim >= len(claims) {
			return fmt.Errorf("amendment %d does not make sense: %w", id, ErrCorrupt)
		}
		var added *provenance.Claim
		if claim != 0 {
			added = &claims[claim]
		}
		if !db.index.amend(recordKey(key), added, place == int(provenance.Blob)) {
			return fmt.Errorf("amendment %d is of no record: %w", id, ErrCorrupt)
		}
		db.follow.amendments = id
		return nil
	}, newAmendments, db.follow.amendments)
}

func (db *DB) pullTokens(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, func(rows *sql.Rows) error {
		row, err := scanToken(rows)
		if err != nil {
			return err
		}
		db.tokens.apply(row)
		db.follow.tokens = row.change
		return nil
	}, newTokens, db.follow.tokens)
}
