package forge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// recollectionLimit bounds how many answers a [recollection] holds.
const recollectionLimit = 20_000

// errOvertaken says that events came faster than a forge's answers.
var errOvertaken = errors.New("permissions changed while they were read")

// recollection remembers answers of a forge, each with the time before it was asked for, and asks once for all who want the
// same at the same time. Whoever asks says how old an answer may be. It is safe for concurrent use.
type recollection[V any] struct {
	now      func() time.Time
	patience time.Duration // of one question, which goes on when those who wait for it have left

	mu      sync.Mutex // guards what follows, and what the entries hold
	entries map[string]*recalled[V]
}

// recalled is what is remembered under one key.
type recalled[V any] struct {
	value V         // the last answer, a base for a conditional question also when it is forgotten
	at    time.Time // zero when there is none, or it is forgotten
	query *query[V] // under way; nil when none is that counts
}

// query is a question under way. What follows done is written before it is closed, forgotten under the mutex.
type query[V any] struct {
	at         time.Time
	background bool
	forgotten  bool
	done       chan struct{}
	value      V
	err        error
}

// asker asks a forge. last is the last answer there was, or the zero value: a base for a conditional question.
type asker[V any] func(ctx context.Context, last V) (V, error)

func newRecollection[V any](now func() time.Time) *recollection[V] {
	return &recollection[V]{now: now, patience: flightLimit, entries: make(map[string]*recalled[V])}
}

// get returns what ask says of key, now or at oldest or later, and when. Errors are not remembered. ctx bounds the waiting, not the question.
func (r *recollection[V]) get(ctx context.Context, key string, oldest time.Time, ask asker[V]) (V, time.Time, error) {
	var none V
	for range attempts {
		value, at, q := r.begin(ctx, key, oldest, ask)
		if q == nil {
			return value, at, nil
		}
		select {
		case <-q.done:
		case <-ctx.Done():
			return none, time.Time{}, context.Cause(ctx)
		}
		if q.err != nil {
			return none, time.Time{}, q.err
		}
		if !r.isForgotten(q) {
			return q.value, q.at, nil
		}
	}
	return none, time.Time{}, errOvertaken
}

// begin returns what is remembered, or the question to wait for.
func (r *recollection[V]) begin(ctx context.Context, key string, oldest time.Time, ask asker[V]) (V, time.Time, *query[V]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(key)
	if !e.at.IsZero() && !e.at.Before(oldest) {
		return e.value, e.at, nil
	}
	// Somebody who waits does not join a question that a forge's limits serve last.
	background := isBackground(ctx)
	if q := e.query; q != nil && !q.at.Before(oldest) && (background || !q.background) {
		return e.value, time.Time{}, q
	}
	q := &query[V]{at: r.now(), background: background, done: make(chan struct{})}
	e.query = q
	go r.put(context.WithoutCancel(ctx), q, e, ask, e.value)
	return e.value, time.Time{}, q
}

// entry returns the place of key, and makes room for it. The caller holds the mutex.
func (r *recollection[V]) entry(key string) *recalled[V] {
	if e := r.entries[key]; e != nil {
		return e
	}
	for other, e := range r.entries {
		if len(r.entries) < recollectionLimit {
			break
		}
		if e.query == nil {
			delete(r.entries, other)
		}
	}
	e := &recalled[V]{}
	r.entries[key] = e
	return e
}

// put puts a question and remembers the answer, unless it was overtaken: by an event, or by a later question.
func (r *recollection[V]) put(ctx context.Context, q *query[V], e *recalled[V], ask asker[V], last V) {
	defer close(q.done)
	ctx, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	q.value, q.err = guarded(ctx, ask, last)
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.query != q {
		return
	}
	e.query = nil
	if q.err == nil {
		e.value, e.at = q.value, q.at
	}
}

// guarded turns a panic into an error: the goroutine is nobody's but ours.
func guarded[V any](ctx context.Context, ask asker[V], last V) (value V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return ask(ctx, last)
}

func (r *recollection[V]) isForgotten(q *query[V]) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return q.forgotten
}

// forget makes sure that nothing that was learnt before, or is being asked, is an answer any more: of key, or of all when
// it is "".
func (r *recollection[V]) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key != "" {
		r.entries[key].forget()
		return
	}
	for _, e := range r.entries {
		e.forget()
	}
}

// forget does it for one entry, or none. The caller holds the mutex.
func (e *recalled[V]) forget() {
	if e == nil {
		return
	}
	e.at = time.Time{}
	if e.query != nil {
		e.query.forgotten = true
		e.query = nil
	}
}
