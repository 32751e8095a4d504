package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const (
	// mostJobs is how many writes share a transaction at most.
	mostJobs = 512
	// mostInterned is how many ids of texts a writer remembers.
	mostInterned = 100_000
)

// hashQueue holds the writes that wait. While there are any, one goroutine takes all that are there into one transaction, and again.
type hashQueue struct {
	conn    *prepared      // the only one that writes
	running sync.WaitGroup // of that goroutine
	texts   interned       // its own

	mu      sync.Mutex // guards what follows
	waiting []*hashJob
	busy    bool
}

// hashJob is one write.
type hashJob struct {
	do   func(context.Context, *hashWrite) error
	done chan error
	gone atomic.Bool // whoever wanted it has left
}

// write runs do in a transaction that others may share, and returns when it is on the disk and in memory, or not done at all. Two exceptions: an error
// of the refresh that follows the commit, and the end of ctx while it is under way. An error of do undoes it, alone. It may run more than once.
func (h *Hashes) write(ctx context.Context, do func(context.Context, *hashWrite) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	job := &hashJob{do: do, done: make(chan error, 1)}
	q := &h.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, job)
	if !q.busy {
		q.busy = true
		q.running.Go(h.drain)
	}
	q.mu.Unlock()
	select {
	case err := <-job.done:
		return err
	case <-ctx.Done():
		job.gone.Store(true)
		return ctx.Err()
	}
}

// drain commits what waits until nothing does.
func (h *Hashes) drain() {
	for {
		// Whoever was just answered may have the next at once, which then shares the transaction.
		runtime.Gosched()
		jobs := h.queue.take()
		if len(jobs) == 0 {
			return
		}
		h.commitJobs(jobs)
	}
}

// take returns the next writes, none when the goroutine is to end.
func (q *hashQueue) take() (jobs []*hashJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && len(jobs) < mostJobs {
		if job := q.waiting[0]; !job.gone.Load() {
			jobs = append(jobs, job)
		}
		q.waiting = q.waiting[1:]
	}
	if len(jobs) == 0 {
		q.waiting, q.busy = nil, false
	}
	return jobs
}

// commitJobs commits all jobs together. When one of them fails each goes alone, so that it fails alone.
func (h *Hashes) commitJobs(jobs []*hashJob) {
	ctx := context.Background() // whoever asked may leave; what is shared goes on
	err := h.commitOnce(ctx, jobs)
	for tries := 1; errors.Is(err, ErrBusy) && tries < writeTries; tries++ {
		err = h.commitOnce(ctx, jobs)
	}
	if err != nil && len(jobs) > 1 && !errors.Is(err, ErrBusy) {
		for _, job := range jobs {
			h.commitJobs([]*hashJob{job})
		}
		return
	}
	if err == nil {
		err = h.refresh(ctx)
	}
	for _, job := range jobs {
		job.done <- err
	}
}

func (h *Hashes) commitOnce(ctx context.Context, jobs []*hashJob) (err error) {
	conn := h.queue.conn
	if _, err := conn.exec(ctx, beginWrite); err != nil {
		return fmt.Errorf("begin: %w", classify(err))
	}
	w := &hashWrite{prepared: conn, texts: &h.queue.texts, bases: &h.bases}
	defer func() {
		if err != nil {
			w.texts.forget() // their ids may be undone
			// SQLite may have rolled back already, which is then the error here.
			conn.exec(ctx, rollback)
		}
	}()
	for _, job := range jobs {
		if err := job.do(ctx, w); err != nil {
			return classify(err)
		}
	}
	if _, err := conn.exec(ctx, commit); err != nil {
		return fmt.Errorf("commit: %w", classify(err))
	}
	return nil
}

// hashWrite is a transaction under way.
type hashWrite struct {
	*prepared
	texts *interned
	bases *textBases
}

// interned remembers the ids of texts.
type interned struct {
	ids map[string]map[string]int64 // by the statement that looks them up
}

func (t *interned) forget() { t.ids = nil }

// mapping runs a query for a unihash and an author.
func (w *hashWrite) mapping(ctx context.Context, query string, args ...any) (hashserv.Mapping, error) {
	s, err := w.stmt(ctx, query)
	if err != nil {
		return hashserv.Mapping{}, err
	}
	return scanMapping(s.QueryRowContext(ctx, args...))
}

// intern returns the id of a text, which it inserts if need be.
func (w *hashWrite) intern(ctx context.Context, lookup, insert, text string) (int64, error) {
	ids := w.texts.ids[lookup]
	if id, ok := ids[text]; ok {
		return id, nil
	}
	id, err := w.one(ctx, lookup, text)
	if errors.Is(err, sql.ErrNoRows) {
		id, err = w.one(ctx, insert, text)
	}
	if err != nil {
		return 0, err
	}
	if ids == nil || len(ids) >= mostInterned {
		if w.texts.ids == nil {
			w.texts.ids = make(map[string]map[string]int64)
		}
		ids = make(map[string]int64)
		w.texts.ids[lookup] = ids
	}
	ids[text] = id
	return id, nil
}

// taskIDs is a task as the tables hold it.
type taskIDs struct {
	taskhash     any
	method, zone int64
}

func (w *hashWrite) task(ctx context.Context, zone string, t hashserv.Task) (ids taskIDs, err error) {
	ids.taskhash = hashText(t.Taskhash)
	if ids.zone, err = w.intern(ctx, selectHashName, insertHashName, zone); err != nil {
		return ids, fmt.Errorf("intern zone: %w", err)
	}
	if ids.method, err = w.intern(ctx, selectHashName, insertHashName, t.Method); err != nil {
		return ids, fmt.Errorf("intern method: %w", err)
	}
	return ids, nil
}

// Report implements [hashserv.Store]. Its error wraps [ErrFull] when the disk is full, [ErrBusy] when another process does not let it write, and
// hashserv.ErrUnavailable in both cases.
func (z *HashZone) Report(ctx context.Context, r hashserv.Report) (hashserv.Mapping, error) {
	if r.Unihash == (hashserv.Unihash{}) {
		return hashserv.Mapping{}, hashserv.ErrInvalidUnihash
	}
	m, err := z.reported(ctx, r)
	if err != nil || m != (hashserv.Mapping{}) {
		return m, err
	}
	text, err := z.h.compress(ctx, z.name, r.Details)
	if err != nil {
		return hashserv.Mapping{}, fmt.Errorf("report a task: %w", unavailable(err))
	}
	created := z.h.now()
	err = z.h.write(ctx, func(ctx context.Context, w *hashWrite) (err error) {
		m, err = w.report(ctx, z.name, r, text, created.UnixMicro())
		return err
	})
	if err != nil {
		return hashserv.Mapping{}, fmt.Errorf("report a task: %w", unavailable(err))
	}
	return m, nil
}

// reported returns what a task is mapped to if its row is there already, and so there is nothing to write. It asks the file when memory
// suggests that there may be one.
func (z *HashZone) reported(ctx context.Context, r hashserv.Report) (hashserv.Mapping, error) {
	if z.h.memory.Load().get(keyOfTask(z.name, r.Method, r.Taskhash)) == (hashserv.Mapping{}) {
		return hashserv.Mapping{}, nil
	}
	m, err := scanMapping(z.h.reads[reported].QueryRowContext(ctx, z.name, r.Method, hashText(r.Taskhash), hashText(r.Outhash)))
	if err != nil {
		return m, fmt.Errorf("look for a report: %w", unavailable(err))
	}
	return m, nil
}

func (w *hashWrite) report(ctx context.Context, zone string, r hashserv.Report, text siginfoText, created int64) (hashserv.Mapping, error) {
	m := hashserv.Mapping{Unihash: r.Unihash, Author: r.Author}
	t, err := w.task(ctx, zone, r.Task)
	if err != nil {
		return m, err
	}
	added, err := w.row(ctx, t, r, text, created)
	if err != nil {
		return m, err
	}
	held, err := w.mapping(ctx, mappingByIDs, t.taskhash, t.method, t.zone)
	if err != nil || held != (hashserv.Mapping{}) {
		return held, err
	}
	if !added {
		return m, nil // its mapping was removed, and a row that is there already maps nothing
	}
	equal, err := w.mapping(ctx, equalOutput, t.taskhash, t.method, t.zone, hashText(r.Outhash))
	if err != nil {
		return m, err
	}
	if equal != (hashserv.Mapping{}) {
		m = equal
	}
	return m, w.mapTo(ctx, t, m)
}

// row records a report, and reports false if it is there already.
func (w *hashWrite) row(ctx context.Context, t taskIDs, r hashserv.Report, text siginfoText, created int64) (bool, error) {
	outhash := hashText(r.Outhash)
	if n, err := w.one(ctx, hasOuthash, t.taskhash, t.method, t.zone, outhash); err != nil || n != 0 {
		return false, err
	}
	args := []any{t.taskhash, t.method, t.zone, outhash, created}
	for _, text := range []string{r.Owner, r.PN, r.PV, r.PR, r.Details.Task} {
		id, err := w.intern(ctx, selectDetail, insertDetail, text)
		if err != nil {
			return false, fmt.Errorf("intern a detail: %w", err)
		}
		args = append(args, id)
	}
	siginfo, err := w.siginfo(ctx, text)
	if err != nil {
		return false, fmt.Errorf("keep siginfo: %w", err)
	}
	_, err = w.exec(ctx, insertOuthash, append(args, siginfo)...)
	return err == nil, err
}

func (w *hashWrite) mapTo(ctx context.Context, t taskIDs, m hashserv.Mapping) error {
	_, err := w.exec(ctx, insertMapping, t.taskhash, t.method, t.zone, m.Unihash[:], int64(m.Author))
	return err
}

// Equivalent implements [hashserv.Equivalents]. Its errors are those of Report.
func (z *HashZone) Equivalent(ctx context.Context, t hashserv.Task, m hashserv.Mapping) (hashserv.Mapping, error) {
	if m.Unihash == (hashserv.Unihash{}) {
		return hashserv.Mapping{}, hashserv.ErrInvalidUnihash
	}
	var now hashserv.Mapping
	err := z.h.write(ctx, func(ctx context.Context, w *hashWrite) (err error) {
		now, err = w.mapOnce(ctx, z.name, t, m)
		return err
	})
	if err != nil {
		return hashserv.Mapping{}, fmt.Errorf("map a task: %w", unavailable(err))
	}
	return now, nil
}

// mapOnce maps a task unless it is mapped, and returns what it is mapped to.
func (w *hashWrite) mapOnce(ctx context.Context, zone string, t hashserv.Task, m hashserv.Mapping) (hashserv.Mapping, error) {
	ids, err := w.task(ctx, zone, t)
	if err != nil {
		return hashserv.Mapping{}, err
	}
	held, err := w.mapping(ctx, mappingByIDs, ids.taskhash, ids.method, ids.zone)
	if err != nil || held != (hashserv.Mapping{}) {
		return held, err
	}
	return m, w.mapTo(ctx, ids, m)
}

// Learn implements [hashserv.Learner]: all in one transaction.
func (z *HashZone) Learn(ctx context.Context, tasks []hashserv.Task, mappings []hashserv.Mapping) error {
	err := z.h.write(ctx, func(ctx context.Context, w *hashWrite) error {
		for i, t := range tasks {
			if mappings[i].Unihash == (hashserv.Unihash{}) {
				return hashserv.ErrInvalidUnihash
			}
			if _, err := w.mapOnce(ctx, z.name, t, mappings[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("map tasks: %w", unavailable(err))
	}
	return nil
}
