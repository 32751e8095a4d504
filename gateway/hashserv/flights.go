package hashserv

import (
	"context"
	"sync"
	"time"
)

// flights asks the upstream of a proxy for each key once at a time, whoever wants it, and remembers for a while the answers that may change.
type flights[K comparable, V any] struct {
	proxy    *Proxy
	ask      func(ctx context.Context, keys []K, answers []V) error
	remember func(K, V) bool

	mu    sync.Mutex // guards what follows
	under map[K]*flight[K, V]
	known recent[K, V]
}

// flight is a question under way. Its answer may be read when done is closed.
type flight[K comparable, V any] struct {
	key    K
	done   chan struct{}
	answer V
	ok     bool // there is one
}

func newFlights[K comparable, V any](p *Proxy, ask func(context.Context, []K, []V) error, remember func(K, V) bool) *flights[K, V] {
	f := &flights[K, V]{proxy: p, ask: ask, remember: remember, under: map[K]*flight[K, V]{}}
	f.known.most = p.conf.Remembered
	return f
}

// get calls answer, in this goroutine, for each key that there is an answer to. That the upstream gave none is no error.
func (f *flights[K, V]) get(ctx context.Context, keys []K, answer func(i int, v V)) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	waits, asked := f.join(keys, answer)
	if len(asked) > 0 {
		f.start(ctx, asked)
	}
	for i, w := range waits {
		if w == nil {
			continue
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if w.ok {
			answer(i, w.answer)
		}
	}
	return ctx.Err()
}

// join answers what is known, and returns what is to be waited for, and of that what is to be asked.
func (f *flights[K, V]) join(keys []K, answer func(int, V)) (waits, ask []*flight[K, V]) {
	now := f.proxy.conf.Now()
	waits = make([]*flight[K, V], len(keys))
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, k := range keys {
		if v, ok := f.known.get(k, now); ok {
			answer(i, v)
			continue
		}
		if f.under[k] == nil {
			f.under[k] = &flight[K, V]{key: k, done: make(chan struct{})}
			ask = append(ask, f.under[k])
		}
		waits[i] = f.under[k]
	}
	return waits, ask
}

// start asks the upstream. Whoever wanted it first may leave: others wait for it too.
func (f *flights[K, V]) start(ctx context.Context, asked []*flight[K, V]) {
	p := f.proxy
	if p.health.ready() != nil {
		f.land(asked)
		return
	}
	epoch := p.learns.epoch()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.conf.Wait)
	go func() {
		defer cancel()
		keys, answers := make([]K, len(asked)), make([]V, len(asked))
		for i, w := range asked {
			keys[i] = w.key
		}
		err := f.ask(ctx, keys, answers)
		if p.judge(context.WithoutCancel(ctx), err) == nil { // that it was too slow is a failure like others
			for i, w := range asked {
				w.answer, w.ok = answers[i], true
			}
			f.keep(epoch, asked)
		}
		f.land(asked)
	}()
}

// keep remembers the answers that may change, unless something was written meanwhile that may have changed them.
func (f *flights[K, V]) keep(epoch uint64, asked []*flight[K, V]) {
	until := f.proxy.conf.Now().Add(f.proxy.conf.Forget)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.proxy.conf.Forget < 0 || f.proxy.learns.epoch() != epoch {
		return
	}
	for _, w := range asked {
		if f.under[w.key] == w && f.remember(w.key, w.answer) {
			f.known.put(w.key, w.answer, until)
		}
	}
}

// land hands out the answers.
func (f *flights[K, V]) land(asked []*flight[K, V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range asked {
		if f.under[w.key] == w {
			delete(f.under, w.key)
		}
		close(w.done)
	}
}

// forget forgets what is known. What is under way is neither remembered nor given to those who ask later.
func (f *flights[K, V]) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known.clear()
	f.under = map[K]*flight[K, V]{}
}

// recent holds at most so many values, each for a time. What is too much is thrown away in two halves, the older first.
type recent[K comparable, V any] struct {
	most       int
	young, old map[K]timed[V]
}

type timed[V any] struct {
	value V
	until time.Time
}

func (r *recent[K, V]) get(k K, now time.Time) (v V, ok bool) {
	t, ok := r.young[k]
	if !ok {
		t, ok = r.old[k]
	}
	if !ok || !now.Before(t.until) {
		return v, false
	}
	return t.value, true
}

func (r *recent[K, V]) put(k K, v V, until time.Time) {
	if len(r.young) >= max(1, r.most/2) {
		r.young, r.old = nil, r.young
	}
	if r.young == nil {
		r.young = map[K]timed[V]{}
	}
	r.young[k] = timed[V]{v, until}
}

func (r *recent[K, V]) clear() { r.young, r.old = nil, nil }
