package forge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// trusting is how long this node trusts what it has learnt after it was last in touch with the others: a little less
	// than [Fence], for the time it takes to notice.
	trusting = Fence - 250*time.Millisecond
	// maxScopes bounds the events that are remembered one by one.
	maxScopes = 50_000
	// republish is how often an event that the bus did not take is offered again.
	republish = 250 * time.Millisecond
	// maxUnsent bounds the events that wait for the bus. One about everything takes the place of more.
	maxUnsent = 1000
)

// HubConfig is what a [Hub] needs.
type HubConfig struct {
	Bus    Bus              // nil: this node is the only one
	Now    func() time.Time // time.Now when nil
	Logger *slog.Logger     // nil: silent
	// Forget and then Told are called for every event, in order, by whoever brings it, before what brought it is answered.
	// They must be quick: events come in storms. Forget is for those who remember what a forge said and do not ask the hub
	// whether it is still so: whoever asks them once the event counts must not get it again. Told is for those who remember
	// what followed from it.
	Forget, Told []func(Event)
}

// Hub is where events come together: from hooks, streams and people at this node, and from the other nodes. It counts
// them, so that whoever learnt something can tell whether an event has overtaken it. It is safe for concurrent use.
//
// With a bus it also knows whether this node is in touch with the others. A node that is not has been fenced: it behaves
// as if an event about everything came every [Fence], until it hears from them again.
type Hub struct {
	config HubConfig
	born   time.Time

	fencing sync.Mutex    // held while this node is being fenced
	heard   atomic.Int64  // when the node was last in touch, in nanoseconds since born
	wall    atomic.Int64  // the same by the wall clock, in Unix nanoseconds: a machine that slept counts that time only there
	fenced  atomic.Bool   // set once everybody here has been told
	last    atomic.Uint64 // generation, for those who only want to know whether anything happened

	gatherer gatherer
	// telling is held while an event is applied and told, so that all are told in one order.
	telling sync.Mutex

	mu         sync.RWMutex // guards what follows
	generation uint64       // how many events this node has seen
	scopes     map[scope]mark
	all        mark // the last event about everything
	position   uint64
	unsent     []Event
	mine       map[uint64]bool // positions of this node's own events that have not come back from the bus
}

// scope is what an event is about.
type scope struct{ forge, user, repo, key string }

// mark is when a scope was last touched: by this node's count, and by the bus's.
type mark struct {
	generation, position uint64
	at                   time.Time
}

// NewHub returns a Hub that trusts what it learns when it is the only node, and is fenced until it hears from its bus
// otherwise.
func NewHub(c HubConfig) *Hub {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hub{config: c, born: c.Now(), scopes: make(map[scope]mark), mine: make(map[uint64]bool)}
	h.fenced.Store(c.Bus != nil)
	return h
}

// Tell makes what e is about worthless: here at once, and at every node that is in touch. An error says that the others
// have not been told; it is tried again until they are, but a node that dies meanwhile takes the event with it, so whoever
// brought the event should bring it again. Equal events that follow one another within 250 ms are told as one, and all who
// brought them wait for it.
func (h *Hub) Tell(ctx context.Context, e Event) (position uint64, err error) {
	if e.At.IsZero() {
		e.At = h.config.Now()
	}
	e = e.bounded()
	return h.gatherer.tell(ctx, e, h.config.Now, h.tell)
}

// maxEventText bounds each text of an event: a bus takes no more.
const maxEventText = 1000

// bounded returns e with texts that every bus takes. What is too long to name is widened, so that nothing is left out.
func (e Event) bounded() Event {
	e.Why = clip(e.Why)
	switch {
	case len(e.Forge) > maxEventText || len(e.Key) > maxEventText:
		return Event{Why: e.Why, At: e.At}
	case len(e.User) > maxEventText || len(e.Repo) > maxEventText:
		return Event{Forge: e.Forge, Why: e.Why, At: e.At}
	}
	return e
}

func (h *Hub) tell(ctx context.Context, e Event) (position uint64, err error) {
	if h.config.Bus == nil {
		h.apply(e, 0)
		return 0, nil
	}
	// Until the bus has given it a position, entries that other nodes share cannot be compared with it.
	h.queue(e)
	h.apply(e, 0)
	position, err = h.config.Bus.Publish(ctx, e)
	if err != nil {
		return 0, fmt.Errorf("tell the other nodes: %w", err)
	}
	h.sent(e, position)
	return position, nil
}

// Await is [Bus.Await]; a node that is alone waits for nobody.
func (h *Hub) Await(ctx context.Context, position uint64) (late []string, err error) {
	if h.config.Bus == nil {
		return nil, nil
	}
	return h.config.Bus.Await(ctx, position)
}

// Run keeps in touch with the other nodes until ctx ends, and returns ctx's error.
func (h *Hub) Run(ctx context.Context) error {
	if h.config.Bus == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	var running sync.WaitGroup
	running.Go(func() { h.resend(ctx) })
	running.Go(func() { h.watch(ctx) })
	err := h.config.Bus.Run(ctx, listener{h})
	running.Wait()
	return err
}

// watch notices the loss of touch when nobody asks for a decision.
func (h *Hub) watch(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.Check(h.config.Now())
		}
	}
}

// Check fences this node if it has been out of touch for too long at now. It is called before each decision: the process
// may have been stopped, and nothing it knows may be used before it has found out.
func (h *Hub) Check(now time.Time) {
	if h.config.Bus == nil || h.fenced.Load() || !h.outOfTouch(now) {
		return
	}
	// All who come meanwhile wait: what they know must not be used before it has been made worthless.
	h.fencing.Lock()
	defer h.fencing.Unlock()
	if h.fenced.Load() || !h.outOfTouch(now) {
		return
	}
	h.apply(Event{Why: "out of touch with the other nodes", At: now}, 0)
	h.fenced.Store(true)
	h.config.Logger.Warn("out of touch with the other nodes: nothing is trusted for longer than a moment")
}

func (h *Hub) outOfTouch(now time.Time) bool {
	quiet := max(now.Sub(h.born)-time.Duration(h.heard.Load()), time.Duration(now.UnixNano()-h.wall.Load()))
	return quiet > trusting
}

// Trust returns for how long an answer that is asked for at now may be used: 0 for no limit beside its own.
func (h *Hub) Trust(now time.Time) time.Duration {
	h.Check(now)
	if h.fenced.Load() {
		return trusting
	}
	return 0
}

// Whole reports whether this node is in touch with the others, or is alone.
func (h *Hub) Whole() bool { return !h.fenced.Load() }

// Generation returns the count of events so far. What is learnt by a question is as of the generation before it.
func (h *Hub) Generation() uint64 { return h.last.Load() }

// Concern is what an answer is about. Members that are empty concern nothing.
type Concern struct {
	Forge, User string
	Key         string // a fingerprint
	Repos       []string
}

// Overtaken reports whether an event since the generation touches what an answer is about.
func (h *Hub) Overtaken(generation uint64, c Concern) bool {
	if h.last.Load() == generation {
		return false
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.touched(func(m mark) bool { return m.generation > generation }, c)
}

// Position returns what an entry that is shared with other nodes is as of. Not ok means that nothing may be shared now:
// an event of this node is still on its way to them, or they are out of touch.
func (h *Hub) Position() (position uint64, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.position, h.config.Bus != nil && len(h.unsent) == 0 && !h.fenced.Load()
}

// OvertakenShared is [Hub.Overtaken] for an entry that another node made as of a position.
func (h *Hub) OvertakenShared(position uint64, c Concern) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.unsent) > 0 || h.touched(func(m mark) bool { return m.position > position }, c)
}

// touched reports whether since is true of a mark of what c is about. The caller holds mu.
func (h *Hub) touched(since func(mark) bool, c Concern) bool {
	if since(h.all) || since(h.scopes[scope{forge: c.Forge}]) || c.User != "" && since(h.scopes[scope{forge: c.Forge, user: c.User}]) {
		return true
	}
	if c.Key != "" && (since(h.scopes[scope{key: c.Key}]) || since(h.scopes[scope{forge: c.Forge, key: c.Key}])) {
		return true
	}
	for _, repo := range c.Repos {
		if since(h.scopes[scope{forge: c.Forge, repo: repo}]) {
			return true
		}
	}
	return false
}

// apply counts e and tells everybody here.
func (h *Hub) apply(e Event, position uint64) {
	h.telling.Lock()
	defer h.telling.Unlock()
	for _, forget := range h.config.Forget {
		forget(e)
	}
	h.count(e, position)
	h.reach(position)
	for _, told := range h.config.Told {
		told(e)
	}
}

// reach notes that all events up to a position of the bus have been applied here.
func (h *Hub) reach(position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.position = max(h.position, position)
}

// count makes e the last event about what it is about. position is 0 while the bus has given it none.
func (h *Hub) count(e Event, position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.generation++
	for _, s := range e.scopes() {
		h.note(s, mark{h.generation, position, h.config.Now()})
	}
	h.last.Store(h.generation)
}

// scopes returns what e is about. The empty scope is everything.
func (e Event) scopes() (out []scope) {
	if e.Key != "" {
		out = append(out, scope{forge: e.Forge, key: e.Key})
	}
	switch {
	case e.Forge == "" && e.Key == "":
		out = append(out, scope{})
	case e.User != "": // what one user may do with one repository is kept with the user
		out = append(out, scope{forge: e.Forge, user: e.User})
	case e.Repo != "":
		out = append(out, scope{forge: e.Forge, repo: e.Repo})
	case e.Key != "": // it says nothing of what its owner may read
	default:
		out = append(out, scope{forge: e.Forge})
	}
	return out
}

// note marks a scope. The caller holds mu.
func (h *Hub) note(s scope, m mark) {
	if s == (scope{}) {
		m.position = max(m.position, h.all.position)
		h.all = m
		return
	}
	m.position = max(m.position, h.scopes[s].position)
	h.makeRoom(m.at)
	h.scopes[s] = m
}

// makeRoom forgets marks that are older than anything learnt before them may be. If that is not enough, all are taken
// together as one about everything. The caller holds mu.
func (h *Hub) makeRoom(now time.Time) {
	if len(h.scopes) < maxScopes {
		return
	}
	for s, m := range h.scopes {
		if now.Sub(m.at) > 2*hardLimit {
			delete(h.scopes, s)
		}
	}
	if len(h.scopes) < maxScopes {
		return
	}
	h.all = mark{h.generation, h.position, now}
	clear(h.scopes)
}

// queue keeps e until the bus has taken it.
func (h *Hub) queue(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.unsent) >= maxUnsent {
		h.unsent = append(h.unsent[:0:0], Event{Why: "too many events waited for the other nodes", At: e.At})
	}
	h.unsent = append(h.unsent, e)
}

// sent notes that the bus has taken e, and where: it is not told again when it comes back from there. Others may have been told
// before it of what this node has not heard yet.
func (h *Hub) sent(e Event, position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range e.scopes() {
		m := h.scopes[s]
		if s == (scope{}) {
			m = h.all
		}
		if m.at.IsZero() { // too many were noted meanwhile, and were taken together
			m.at = h.config.Now()
		}
		m.position = max(m.position, position)
		h.note(s, m)
	}
	if position > h.position { // else it has come back already
		h.mine[position] = true
	}
	for i := range h.unsent {
		if h.unsent[i] == e {
			h.unsent = append(h.unsent[:i:i], h.unsent[i+1:]...)
			return
		}
	}
}

// resend offers the bus again what it did not take.
func (h *Hub) resend(ctx context.Context) {
	tick := time.NewTicker(republish)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, e := range h.waiting() {
			position, err := h.config.Bus.Publish(ctx, e)
			if err != nil {
				break
			}
			h.sent(e, position)
		}
	}
}

// waiting returns the events that have waited for the bus for a while: one that was just told is on its way.
func (h *Hub) waiting() []Event {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var out []Event
	now := h.config.Now()
	for _, e := range h.unsent {
		if now.Sub(e.At) > republish {
			out = append(out, e)
		}
	}
	return out
}

// listener is a Hub as its bus sees it.
type listener struct{ *Hub }

// Apply implements [Listener].
func (l listener) Apply(position uint64, e Event) {
	l.mu.Lock()
	mine := l.mine[position]
	delete(l.mine, position)
	l.mu.Unlock()
	if mine {
		l.reach(position)
		return
	}
	l.apply(e, position)
}

// Lost implements [Listener].
func (l listener) Lost(position uint64) {
	l.mu.Lock()
	clear(l.mine) // what was on its way back may have been lost too
	l.mu.Unlock()
	l.config.Logger.Warn("events of other nodes may have been missed: everything is asked again")
	l.apply(Event{Why: "events of other nodes may have been missed", At: l.config.Now()}, position)
}

// Heard implements [Listener].
func (l listener) Heard(at time.Time) {
	l.heard.Store(int64(at.Sub(l.born)))
	l.wall.Store(at.UnixNano())
	if l.outOfTouch(l.config.Now()) || !l.fenced.CompareAndSwap(true, false) {
		return
	}
	l.config.Logger.Info("in touch with the other nodes")
	// What was learnt while fenced carries its short life with it.
}
