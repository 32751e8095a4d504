package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// pageSize is how many names Records reads at a time. No read stays open longer than a page, so none keeps the
// write-ahead log from being folded in.
const pageSize = 1000

// Lookup implements [provenance.Store]. It answers from memory, does not allocate, and never fails otherwise than with
// [provenance.ErrNoRecord].
func (db *DB) Lookup(_ context.Context, ref artifact.Ref) (provenance.Record, error) {
	r, ok := db.index.lookup(keyOf(ref))
	if !ok {
		return provenance.Record{}, provenance.ErrNoRecord
	}
	r.Ref = ref
	return r, nil
}

// Len returns the number of records in memory.
func (db *DB) Len() int { return db.index.len() }

// setCache holds the sets last used. Sets are many when revisions move fast, so it is bounded.
type setCache struct {
	mu   sync.RWMutex // guards sets
	sets map[source.SetID]*source.Set
}

const maxSets = 8192

func (c *setCache) get(id source.SetID) *source.Set {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sets[id]
}

// put returns the set that is cached under the id of set, so that all callers share one.
func (c *setCache) put(set *source.Set) *source.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := c.sets[set.ID()]; held != nil {
		return held
	}
	if c.sets == nil {
		c.sets = make(map[source.SetID]*source.Set)
	}
	for id := range c.sets {
		if len(c.sets) < maxSets {
			break
		}
		delete(c.sets, id) // any: the order of a map is random
	}
	c.sets[set.ID()] = set
	return set
}

// Set implements [provenance.Store]. The error for a missing set wraps [provenance.ErrNoRecord], that for one
// whose text does not have its id [ErrCorrupt].
func (db *DB) Set(ctx context.Context, id source.SetID) (*source.Set, error) {
	if set := db.sets.get(id); set != nil {
		return set, nil
	}
	text, err := db.blob(ctx, selectSet, id[:])
	if err != nil {
		return nil, fmt.Errorf("source set %x: %w", id, err)
	}
	set, err := source.UnmarshalSet(text)
	if err != nil {
		return nil, fmt.Errorf("source set %x: %w: %w", id, ErrCorrupt, err)
	}
	if set == nil || set.ID() != id {
		return nil, fmt.Errorf("source set %x has another id: %w", id, ErrCorrupt)
	}
	return db.sets.put(set), nil
}

// blob reads one value, or returns an error that wraps ErrNoRecord.
func (db *DB) blob(ctx context.Context, query string, key []byte) (value []byte, err error) {
	err = db.reader.QueryRowContext(ctx, query, key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, provenance.ErrNoRecord
	}
	if err != nil {
		return nil, classify(err)
	}
	return value, nil
}

// InputSets implements [provenance.Store].
func (db *DB) InputSets(ctx context.Context, zone string, digests []artifact.Digest) ([]source.SetID, error) {
	word, ok := db.word(zone)
	if !ok {
		return nil, nil
	}
	var ids []source.SetID
	var id sql.RawBytes
	for _, d := range digests {
		err := each(ctx, db.reader, func(rows *sql.Rows) error {
			if err := rows.Scan(&id); err != nil {
				return err
			}
			if len(id) != len(source.SetID{}) {
				return fmt.Errorf("set id of %d bytes: %w", len(id), ErrCorrupt)
			}
			ids = append(ids, source.SetID(id))
			return nil
		}, selectInputs, d[:], word)
		if err != nil {
			return nil, fmt.Errorf("input sets of %v: %w", d, classify(err))
		}
	}
	slices.SortFunc(ids, func(a, b source.SetID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids), nil
}

// word returns the id of an interned text. Zones are among the first words, so the search is short.
func (db *DB) word(text string) (id int, ok bool) {
	id = slices.Index(*db.index.words.Load(), text)
	return id, id > 0
}

// Chunks implements [provenance.Store].
func (db *DB) Chunks(ctx context.Context, d artifact.Digest) ([]artifact.Digest, error) {
	body, err := db.blob(ctx, selectChunks, d[:])
	if errors.Is(err, provenance.ErrNoRecord) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("chunks of %v: %w", d, err)
	}
	chunks := make([]artifact.Digest, 0, len(body)/len(d))
	for chunk := range slices.Chunk(body, len(d)) {
		if len(chunk) != len(d) {
			return nil, fmt.Errorf("chunks of %v are cut short: %w", d, ErrCorrupt)
		}
		chunks = append(chunks, artifact.Digest(chunk))
	}
	return chunks, nil
}

// Envelope implements [provenance.Store].
func (db *DB) Envelope(ctx context.Context, d artifact.Digest) ([]byte, error) {
	body, err := db.blob(ctx, selectEnvelope, d[:])
	if err != nil {
		return nil, fmt.Errorf("envelope %v: %w", d, err)
	}
	return body, nil
}

// name is where Records has come to.
type name struct {
	zone       int
	path       string
	part, kind int
}

// Records yields every record, zone by zone and sorted by path and part within. It reads a page at a time: a record published
// meanwhile may or may not be among them, none comes twice. An error ends it.
func (db *DB) Records(ctx context.Context) iter.Seq2[provenance.Record, error] {
	return func(yield func(provenance.Record, error) bool) {
		var last name
		for {
			records, to, err := db.page(ctx, pageNames, last.zone, last.path, last.part, last.kind, pageSize)
			if err != nil {
				yield(provenance.Record{}, fmt.Errorf("list records: %w", err))
				return
			}
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
			if len(records) < pageSize {
				return
			}
			last = to
		}
	}
}

// List returns at most limit records of a zone, sorted by path and part, from the path from on and before the path to; "" is no
// bound.
func (db *DB) List(ctx context.Context, zone, from, to string, limit int) ([]provenance.Record, error) {
	word, ok := db.word(zone)
	if !ok || limit <= 0 {
		return nil, nil
	}
	records, _, err := db.page(ctx, rangeNames, word, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("list zone %q: %w", zone, err)
	}
	return records, nil
}

// page reads names, and says which was the last. The records themselves are in memory.
func (db *DB) page(ctx context.Context, query string, args ...any) (records []provenance.Record, last name, err error) {
	var names []name
	err = each(ctx, db.reader, func(rows *sql.Rows) error {
		if err := rows.Scan(&last.zone, &last.path, &last.part, &last.kind); err != nil {
			return err
		}
		names = append(names, last)
		return nil
	}, query, args...)
	if err != nil {
		return nil, last, classify(err)
	}
	for _, n := range names {
		r, err := db.named(ctx, n)
		if err != nil {
			return nil, last, err
		}
		records = append(records, r)
	}
	return records, last, nil
}

// named returns the record of a name that was read from the file.
func (db *DB) named(ctx context.Context, n name) (provenance.Record, error) {
	ref, err := db.ref(n)
	if err == nil {
		r, ok := db.index.lookup(keyOf(ref))
		r.Ref = ref
		if ok {
			return r, nil
		}
	}
	// Another process may have written it, and its zone, a moment ago.
	if err := db.refresh(ctx); err != nil {
		return provenance.Record{}, err
	}
	if ref, err = db.ref(n); err != nil {
		return provenance.Record{}, err
	}
	return db.Lookup(ctx, ref)
}

func (db *DB) ref(n name) (artifact.Ref, error) {
	words := *db.index.words.Load()
	if n.zone < 1 || n.zone >= len(words) {
		return artifact.Ref{}, fmt.Errorf("name %q is in no zone: %w", n.path, ErrCorrupt)
	}
	ref, err := artifact.ParseName(artifact.Zone{Name: words[n.zone]}, n.path)
	if err != nil {
		return artifact.Ref{}, fmt.Errorf("name %q: %w: %w", n.path, ErrCorrupt, err)
	}
	ref = ref.WithPart(artifact.Part(n.part))
	if ref.Path != n.path || int(ref.Kind) != n.kind {
		return artifact.Ref{}, fmt.Errorf("name %q is not canonical: %w", n.path, ErrCorrupt)
	}
	return ref, nil
}
