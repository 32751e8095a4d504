package hashserv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Held is what a [Proxy] keeps what it learnt in: a [Memory], or a database.
type Held interface {
	Store
	Equivalents
	Keeper
}

// Upstream is the server that a [Proxy] stands in front of: a [Client].
type Upstream interface {
	Store
	Equivalents
	Keeper
}

// Learner is a Held that takes many mappings at once. Without it each is an Equivalent.
type Learner interface {
	// Learn maps each task to the mapping of the same index, unless it is mapped. It need not be durable when it returns.
	Learn(ctx context.Context, tasks []Task, mappings []Mapping) error
}

// ThroughConfig says how a [Proxy] behaves. The zero value is usable.
type ThroughConfig struct {
	// Forget is how long an answer that may change is given again without asking: that a task is mapped to nothing, whether a unihash
	// exists, that there is no row; 0 means 5 s. Nothing is remembered when it is negative.
	Forget time.Duration
	// Remembered is how many such answers of each kind are kept at most; 0 means 100,000.
	Remembered int
	// Wait is how long a lookup waits for the upstream before it is answered neutrally, and a report before it fails; 0 means 5 s. It
	// is to be shorter than the patience of BitBake, which is 30 s.
	Wait time.Duration
	// Pause is how long the upstream is not asked after it failed, doubled with each further failure up to LongestPause; 0 means 1 s
	// and 15 s. Lookups are answered at once meanwhile, but for one at the end of each pause.
	Pause, LongestPause time.Duration
	// State, when it is given, is told when the upstream is lost, with the reason, and when it is back, with nil. It must be quick.
	State func(lost error)
	// Now is the clock of what is forgotten and of pauses; nil means time.Now.
	Now func() time.Time
}

// Proxy is a store in front of another server. It answers what it holds and asks the upstream for the rest. A mapping is held for good: it is
// written once, and what was answered is answered again though the upstream is lost, or has changed its mind. It is held in the background: what a
// crash, or a flood of answers, keeps from being held is asked for again.
//
// When the upstream is lost, lookups are answered with what is held, and otherwise as if there were nothing; what writes or maintains is an
// error that wraps [ErrUnavailable]. It recovers by itself. What the upstream refuses to look up or to record is treated as its loss: the
// refusal is about our account there, not about who asks here.
type Proxy struct {
	held     Held
	upstream Upstream
	conf     ThroughConfig
	health   health

	tasks  *flights[Task, Unihash]
	exist  *flights[Unihash, bool]
	rows   *flights[Query, *Row]
	learns learning
}

var (
	_ Store       = (*Proxy)(nil)
	_ Equivalents = (*Proxy)(nil)
	_ Keeper      = (*Proxy)(nil)
	_ Backfills   = (*Proxy)(nil)
)

// Through makes a proxy. It asks nothing yet.
func Through(held Held, upstream Upstream, conf ThroughConfig) *Proxy {
	conf.Forget = cmp.Or(conf.Forget, 5*time.Second)
	conf.Wait = cmp.Or(conf.Wait, 5*time.Second)
	conf.Pause = cmp.Or(conf.Pause, time.Second)
	conf.LongestPause = cmp.Or(conf.LongestPause, 15*time.Second)
	if conf.Remembered <= 0 {
		conf.Remembered = 100_000
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	if conf.State == nil {
		conf.State = func(error) {}
	}
	p := &Proxy{held: held, upstream: upstream, conf: conf, health: health{conf: conf}}
	p.tasks = newFlights(p, p.askTasks, func(_ Task, u Unihash) bool { return u == Unihash{} })
	p.exist = newFlights(p, p.askExist, func(Unihash, bool) bool { return true })
	p.rows = newFlights(p, p.askRows, func(_ Query, r *Row) bool { return r == nil })
	return p
}

// Unihash implements [Store].
func (p *Proxy) Unihash(ctx context.Context, tasks []Task, answers []Mapping) error {
	if err := p.held.Unihash(ctx, tasks, answers); err != nil {
		return err
	}
	var missed []Task
	var at []int
	for i, a := range answers {
		if a == (Mapping{}) {
			missed, at = append(missed, tasks[i]), append(at, i)
		}
	}
	return p.tasks.get(ctx, missed, func(i int, u Unihash) { answers[at[i]] = Mapping{Unihash: u} })
}

// Exists implements [Store].
func (p *Proxy) Exists(ctx context.Context, unihashes []Unihash, answers []bool) error {
	if err := p.held.Exists(ctx, unihashes, answers); err != nil {
		return err
	}
	var missed []Unihash
	var at []int
	for i, there := range answers {
		if !there && unihashes[i] != (Unihash{}) {
			missed, at = append(missed, unihashes[i]), append(at, i)
		}
	}
	return p.exist.get(ctx, missed, func(i int, there bool) { answers[at[i]] = there })
}

// Outhash implements [Store]. Rows are not held: the upstream is asked, and what is held is asked when it is lost.
func (p *Proxy) Outhash(ctx context.Context, q Query) (*Row, error) {
	var row *Row
	answered := false
	err := p.rows.get(ctx, []Query{q}, func(_ int, r *Row) { row, answered = r, true })
	if err != nil {
		return nil, err
	}
	if !answered {
		return p.held.Outhash(ctx, q)
	}
	return p.withHeld(ctx, row)
}

// withHeld returns a copy of a row with what its task is mapped to here, if it is mapped to anything.
func (p *Proxy) withHeld(ctx context.Context, row *Row) (*Row, error) {
	if row == nil {
		return nil, nil
	}
	out := *row // others have it too
	out.Author = 0
	if row.Unihash == (Unihash{}) {
		return &out, nil
	}
	own := make([]Mapping, 1)
	if err := p.held.Unihash(ctx, []Task{row.Task}, own); err != nil {
		return nil, err
	}
	if own[0] != (Mapping{}) {
		out.Unihash, out.Author = own[0].Unihash, own[0].Author
	}
	return &out, nil
}

// Report implements [Store]. The upstream records it. The author is held when the mapping is the one that was reported: another is
// somebody else's, and who that is the upstream does not tell.
func (p *Proxy) Report(ctx context.Context, r Report) (Mapping, error) {
	if r.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	return p.write(ctx, r.Task, Mapping{Unihash: r.Unihash, Author: r.Author}, func(ctx context.Context) (Mapping, error) { return p.upstream.Report(ctx, r) })
}

// Equivalent implements [Equivalents].
func (p *Proxy) Equivalent(ctx context.Context, t Task, m Mapping) (Mapping, error) {
	if m.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	return p.write(ctx, t, m, func(ctx context.Context) (Mapping, error) { return p.upstream.Equivalent(ctx, t, m) })
}

// write has the upstream map t, and holds what it says. What was held before stays, and is the answer.
func (p *Proxy) write(ctx context.Context, t Task, mine Mapping, do func(context.Context) (Mapping, error)) (Mapping, error) {
	if err := p.health.ready(); err != nil {
		return Mapping{}, err
	}
	epoch := p.learns.epoch()
	hasty, cancel := context.WithTimeout(ctx, p.conf.Wait)
	defer cancel()
	told, err := do(hasty)
	if err = p.judge(ctx, err); err != nil {
		return Mapping{}, err
	}
	p.rows.forget()
	if told.Unihash == mine.Unihash && !p.recorded(hasty, t, told) {
		return told, nil
	}
	if told = (Mapping{Unihash: told.Unihash}); told.Unihash == mine.Unihash {
		told.Author = mine.Author
	}
	err = p.learns.during(epoch, func() error {
		held, err := p.held.Equivalent(ctx, t, told)
		if err == nil {
			told = held
		}
		return err
	})
	if err != nil {
		p.tasks.forget() // the upstream is to be asked: it has recorded the mapping
		p.exist.forget()
	}
	return told, nil
}

// recorded asks whether t is mapped so. A server answers a report with the reported unihash also when it mapped nothing: the row was there, and
// its mapping had been removed.
func (p *Proxy) recorded(ctx context.Context, t Task, m Mapping) bool {
	now := make([]Mapping, 1)
	err := p.upstream.Unihash(ctx, []Task{t}, now)
	return err == nil && now[0].Unihash == m.Unihash
}

// judge notes whether the upstream works, and makes an error of it wrap ErrUnavailable and be no refusal. An error after ctx has ended is no
// fault of the upstream's.
func (p *Proxy) judge(ctx context.Context, err error) error {
	switch {
	case err == nil:
		p.health.worked()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errLongMessage):
		return err
	}
	err = fmt.Errorf("%w: the upstream: %v", ErrUnavailable, err)
	p.health.failed(err)
	return err
}

func (p *Proxy) askTasks(ctx context.Context, tasks []Task, answers []Unihash) error {
	epoch := p.learns.epoch()
	mappings := make([]Mapping, len(tasks))
	if err := p.upstream.Unihash(ctx, tasks, mappings); err != nil {
		return err
	}
	var found []Task
	var to []Mapping
	for i, m := range mappings {
		if answers[i] = m.Unihash; m.Unihash != (Unihash{}) {
			found, to = append(found, tasks[i]), append(to, Mapping{Unihash: m.Unihash})
		}
	}
	p.learn(ctx, epoch, found, to)
	return nil
}

func (p *Proxy) askExist(ctx context.Context, unihashes []Unihash, answers []bool) error {
	return p.upstream.Exists(ctx, unihashes, answers)
}

func (p *Proxy) askRows(ctx context.Context, queries []Query, answers []*Row) (err error) {
	for i, q := range queries {
		epoch := p.learns.epoch()
		row, err := p.upstream.Outhash(ctx, q)
		if err != nil {
			return err
		}
		if answers[i] = row; row != nil && row.Unihash != (Unihash{}) {
			p.learn(ctx, epoch, []Task{row.Task}, []Mapping{{Unihash: row.Unihash}})
		}
	}
	return nil
}

// maxLearning is how many mappings wait to be held. What is more is asked for again when it is needed.
const maxLearning = 20_000

// learn holds what the upstream said, behind the answer.
func (p *Proxy) learn(ctx context.Context, epoch uint64, tasks []Task, mappings []Mapping) {
	if len(tasks) == 0 || !p.learns.begin(int64(len(tasks))) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer p.learns.finish(int64(len(tasks)))
		p.hold(ctx, epoch, tasks, mappings)
	}()
}

// hold may fail: what is not held is asked for again.
func (p *Proxy) hold(ctx context.Context, epoch uint64, tasks []Task, mappings []Mapping) {
	if l, ok := p.held.(Learner); ok {
		_ = p.learns.during(epoch, func() error { return l.Learn(ctx, tasks, mappings) })
		return
	}
	var all errgroup.Group
	all.SetLimit(64) // a database commits together what comes together
	for i, t := range tasks {
		all.Go(func() error {
			return p.learns.during(epoch, func() error {
				_, err := p.held.Equivalent(ctx, t, mappings[i])
				return err
			})
		})
	}
	_ = all.Wait()
}

// BackfillWait implements [Backfills]: it waits until what was learnt is held.
func (p *Proxy) BackfillWait(ctx context.Context) (int64, error) { return p.learns.wait(ctx) }

// maintain does something to many mappings of the upstream, and then drops what may be among them here.
func maintain[T any](ctx context.Context, p *Proxy, do func() (T, error), drop func() error) (T, error) {
	done, err := do()
	if drop != nil && err == nil {
		err = p.drop(drop)
	}
	var refusal *Refusal
	if err == nil || errors.As(err, &refusal) || ctx.Err() != nil {
		return done, err
	}
	return done, unavailable(err)
}

// drop ends the epoch: what was asked before is neither held from now on nor remembered.
func (p *Proxy) drop(drop func() error) error {
	p.learns.turn()
	p.tasks.forget()
	p.exist.forget()
	p.rows.forget()
	return drop()
}

// Remove implements [Keeper].
func (p *Proxy) Remove(ctx context.Context, w Where) (int64, error) {
	return maintain(ctx, p, func() (int64, error) { return p.upstream.Remove(ctx, w) }, func() error {
		if _, marked := w["gc_mark"]; marked { // marks are the upstream's
			return p.dropAll(ctx)
		}
		_, err := p.held.Remove(ctx, w)
		return err
	})
}

// CleanUnused implements [Keeper].
func (p *Proxy) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	return maintain(ctx, p, func() (int64, error) { return p.upstream.CleanUnused(ctx, age) }, func() error {
		_, err := p.held.CleanUnused(ctx, age)
		return err
	})
}

// Mark implements [Keeper].
func (p *Proxy) Mark(ctx context.Context, mark string, w Where) (int64, error) {
	return maintain(ctx, p, func() (int64, error) { return p.upstream.Mark(ctx, mark, w) }, nil)
}

// Sweep implements [Keeper]. What is held is dropped: which of it was swept the upstream does not tell.
func (p *Proxy) Sweep(ctx context.Context, mark string) (int64, error) {
	return maintain(ctx, p, func() (int64, error) { return p.upstream.Sweep(ctx, mark) }, func() error { return p.dropAll(ctx) })
}

// dropAll removes every mapping that is held, but for those that the Held keeps and those that are learnt meanwhile. The mark is one that
// none has: not even when an earlier call did not come to its end.
func (p *Proxy) dropAll(ctx context.Context) error {
	mark := "dropped at " + p.conf.Now().UTC().Format(time.RFC3339Nano) + " " + rand.Text()
	if _, err := p.held.Mark(ctx, mark, nil); err != nil {
		return err
	}
	_, err := p.held.Sweep(ctx, mark)
	return err
}

// Collection implements [Keeper].
func (p *Proxy) Collection(ctx context.Context) (Collection, error) {
	return maintain(ctx, p, func() (Collection, error) { return p.upstream.Collection(ctx) }, nil)
}

// Usage implements [Keeper].
func (p *Proxy) Usage(ctx context.Context) (map[string]int64, error) {
	return maintain(ctx, p, func() (map[string]int64, error) { return p.upstream.Usage(ctx) }, nil)
}

// learning keeps what is learnt apart from what is removed: an answer of the upstream from before a removal must not be held after it.
type learning struct {
	turns atomic.Uint64 // how often mappings were dropped; changed with guard locked
	guard sync.RWMutex  // read-locked while some are learnt

	mu      sync.Mutex // guards what follows
	pending int64
	idle    chan struct{} // closed when pending is 0 again; nil when nobody waits
}

func (l *learning) epoch() uint64 { return l.turns.Load() }

// during calls do unless the epoch is over.
func (l *learning) during(epoch uint64, do func() error) error {
	l.guard.RLock()
	defer l.guard.RUnlock()
	if l.epoch() != epoch {
		return nil
	}
	return do()
}

// turn ends the epoch. What is learnt of it has been when turn returns.
func (l *learning) turn() {
	l.guard.Lock()
	defer l.guard.Unlock()
	l.turns.Add(1)
}

// begin reports whether there is room for n more.
func (l *learning) begin(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending+n > maxLearning {
		return false
	}
	l.pending += n
	return true
}

func (l *learning) finish(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending -= n; l.pending == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

func (l *learning) wait(ctx context.Context) (int64, error) {
	l.mu.Lock()
	n := l.pending
	if n > 0 && l.idle == nil {
		l.idle = make(chan struct{})
	}
	idle := l.idle
	l.mu.Unlock()
	if n == 0 {
		return 0, nil
	}
	select {
	case <-idle:
		return n, nil
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

// health is whether the upstream works.
type health struct {
	conf ThroughConfig

	mu       sync.Mutex // guards what follows; held while State is told, so that it is told in order
	failures int        // in a row, of those that were let through one at a time
	probing  bool       // one was let through
	until    time.Time  // not to be asked before
	cause    error
}

// ready returns nil when the upstream may be asked. After a failure one is let through at the end of each pause.
func (h *health) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures == 0 {
		return nil
	}
	now := h.conf.Now()
	if now.Before(h.until) {
		return h.cause
	}
	h.probing = true
	h.until = now.Add(2 * h.conf.Wait) // when it was given up, nobody tells
	return nil
}

// failed begins a pause. Of many that fail together one counts.
func (h *health) failed(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures > 0 && !h.probing {
		return
	}
	h.until = h.conf.Now().Add(min(h.conf.Pause<<min(h.failures, 16), h.conf.LongestPause))
	h.failures++
	h.probing = false
	h.cause = cause
	if h.failures == 1 {
		h.conf.State(cause)
	}
}

func (h *health) worked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probing = false
	if h.failures > 0 {
		h.failures = 0
		h.conf.State(nil)
	}
}
