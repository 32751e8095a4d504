package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const (
	// keepRemovals is how many removals stay listed. A process that falls further behind reads everything anew.
	keepRemovals = 100_000
	// trimAtOnce is how many removals one write takes off the list.
	trimAtOnce = 10_000
)

// hashFollower knows how far memory has followed the tables.
type hashFollower struct {
	surplus atomic.Bool // whether the list of removals is longer than it need be

	mu       sync.Mutex // serialises pulls, and guards what follows
	conn     *prepared  // data_version compares only within one connection
	version  int64      // of the data that memory holds; 0 is none
	mappings int64      // the last id of each table that memory holds
	removals int64
	names    []string // zones and methods by id
}

func (f *hashFollower) excess() bool { return f.surplus.Load() }

// refresh brings memory up to date when anything was committed since. Once begun it is not interrupted.
func (h *Hashes) refresh(ctx context.Context) error { return h.catchUp(context.WithoutCancel(ctx)) }

// catchUp is refresh that can be interrupted, for the long one at the start.
func (h *Hashes) catchUp(ctx context.Context) error {
	f := &h.follow
	f.mu.Lock()
	defer f.mu.Unlock()
	version, err := f.conn.one(ctx, dataVersion)
	if err != nil {
		return fmt.Errorf("read data version: %w", classify(err))
	}
	if version == f.version {
		return nil
	}
	if err := h.pull(ctx); err != nil {
		return fmt.Errorf("follow hash equivalence database: %w", classify(err))
	}
	// What was committed between the two reads is read twice, which changes nothing.
	f.version = version
	return nil
}

// pull reads what is new, all of it at one moment of the database's life. The caller holds follow.mu.
func (h *Hashes) pull(ctx context.Context) error {
	tx := h.follow.conn
	if _, err := tx.exec(ctx, beginRead); err != nil {
		return err
	}
	// What was only read is undone by nothing, and a context that ended must not leave the transaction open.
	defer tx.exec(context.WithoutCancel(ctx), rollback)
	if err := h.pullNames(ctx, tx); err != nil {
		return err
	}
	first, last, err := tx.two(ctx, removalsLeft)
	if err != nil {
		return err
	}
	h.follow.surplus.Store(first != 0 && last-first > h.keepRemovals+trimAtOnce)
	seen := h.follow.removals
	if h.memory.Load() == nil || seen > last || seen < last && (first == 0 || first > seen+1) {
		return h.reload(ctx, tx, last)
	}
	// Removals before mappings: what was mapped anew after its removal has a new id.
	if seen < last {
		if err := h.pullRemovals(ctx, tx); err != nil {
			return err
		}
	}
	return h.pullMappings(ctx, tx)
}

func (h *Hashes) pullNames(ctx context.Context, tx *prepared) error {
	if h.follow.names == nil {
		h.follow.names = []string{""}
	}
	return each(ctx, tx, func(rows *sql.Rows) error {
		var id int
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		if id != len(h.follow.names) {
			return fmt.Errorf("name %d is out of order: %w", id, ErrCorrupt)
		}
		h.follow.names = append(h.follow.names, text)
		return nil
	}, newNames, len(h.follow.names)-1)
}

// key returns the zone and the key of a task whose columns were read.
func (f *hashFollower) key(zone, method int64, taskhash any) (string, hashKey, error) {
	text, ok := textOfHash(taskhash)
	if n := int64(len(f.names)); !ok || zone < 1 || zone >= n || method < 1 || method >= n {
		return "", hashKey{}, fmt.Errorf("a task does not make sense: %w", ErrCorrupt)
	}
	return f.names[zone], keyOfTask(f.names[zone], f.names[method], text), nil
}

func (h *Hashes) pullRemovals(ctx context.Context, tx *prepared) error {
	memory := h.memory.Load()
	memory.erasing()
	return each(ctx, tx, func(rows *sql.Rows) error {
		var id, zone, method int64
		var taskhash any
		if err := rows.Scan(&id, &zone, &method, &taskhash); err != nil {
			return err
		}
		name, key, err := h.follow.key(zone, method, taskhash)
		if err != nil {
			return fmt.Errorf("removal %d: %w", id, err)
		}
		memory.erase(name, key)
		h.follow.removals = id
		return nil
	}, newRemovals, h.follow.removals)
}

func (h *Hashes) pullMappings(ctx context.Context, tx *prepared) error {
	last, err := tx.one(ctx, lastMapping)
	if err != nil {
		return err
	}
	if last <= h.follow.mappings {
		return nil
	}
	if err := h.pullSpan(ctx, tx, h.memory.Load(), h.follow.mappings, last); err != nil {
		return err
	}
	h.follow.mappings = last
	return nil
}

// pullSpan reads the mappings with ids above from, up to to.
func (h *Hashes) pullSpan(ctx context.Context, q querier, memory *hashMemory, from, to int64) error {
	var unihash sql.RawBytes
	read := 0
	return each(ctx, q, func(rows *sql.Rows) error {
		if read++; read%collectEvery == 0 {
			runtime.GC()
		}
		var id, zone, method, author int64
		var taskhash any
		if err := rows.Scan(&id, &zone, &method, &taskhash, &unihash, &author); err != nil {
			return err
		}
		name, key, err := h.follow.key(zone, method, taskhash)
		if err != nil || len(unihash) != len(hashserv.Unihash{}) {
			return fmt.Errorf("mapping %d does not make sense: %w", id, ErrCorrupt)
		}
		memory.put(name, key, hashserv.Mapping{Unihash: hashserv.Unihash(unihash), Author: hashserv.Author(author)})
		return nil
	}, rangeMappings, from, to)
}

// reload fills a new memory with all mappings, or with the newest that fit, and then puts it in the place of the old one. Until then look-ups go on
// with that.
func (h *Hashes) reload(ctx context.Context, tx *prepared, removals int64) error {
	first, last, err := tx.two(ctx, spanMappings)
	if err != nil {
		return err
	}
	count, err := tx.one(ctx, countMappings)
	if err != nil {
		return err
	}
	memory := newHashMemory(h.limit)
	from := max(first-1, 0)
	if !memory.reserve(int(count)) {
		memory.forget()
		if from, err = tx.one(ctx, newestMappings, max(h.limit, 0)/taskCell/5*4); err != nil {
			return err
		}
	}
	// Other connections see at least what this transaction sees. What was removed since is erased by the next pull, and so is not missed.
	group, ctx := errgroup.WithContext(ctx)
	parts := int64(min(readers, runtime.GOMAXPROCS(0)))
	for i := range parts {
		begin, end := from+(last-from)*i/parts, from+(last-from)*(i+1)/parts
		group.Go(func() error { return h.pullSpan(ctx, h.reader, memory, begin, end) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	h.follow.mappings, h.follow.removals = last, removals
	h.memory.Store(memory)
	return nil
}

// trim takes the oldest off the list of removals, if it is longer than it need be.
func (h *Hashes) trim(ctx context.Context, w *hashWrite) error {
	_, err := w.exec(ctx, trimRemovals, h.keepRemovals, trimAtOnce)
	return err
}
