package agent

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Status is what an agent tells about itself.
type Status struct {
	Gate      string            `json:"gate"`
	Listen    []string          `json:"listen"` // HOST:PORT, or unix:PATH
	Hash      map[string]string `json:"hash"`   // HOST:PORT by zone
	Started   time.Time         `json:"started"`
	GateState string            `json:"gate_state"` // "ok", "not asked yet", "lost"
	GateFault string            `json:"gate_fault"` // why it is lost
	Answered  time.Time         `json:"gate_answered"`
	// TokenState is "ok", "refused", "none" when there is none to show, "not asked yet".
	TokenState string `json:"token_state"`
	TokenFault string `json:"token_fault"`
	// Who the gate takes the agent for, "NAME (FORGE/ID)", and until when; empty and zero: it was not told yet, or there is no end.
	Who      string    `json:"who"`
	Until    time.Time `json:"until"`
	Draining bool      `json:"draining"`

	Hits       int64 `json:"hits"`       // answers to presence questions
	Misses     int64 `json:"misses"`     // absent or withheld: the gate does not say which
	Unanswered int64 `json:"unanswered"` // misses because something is wrong
	Remembered int64 `json:"remembered"` // questions that the gate was not asked
	Malformed  int64 `json:"malformed"`  // names that are no object's
	Batches    int64 `json:"batches"`
	Asked      int64 `json:"asked"` // names in batches

	Promised  int64 `json:"promised"`  // HEADs before a download that were answered with yes
	Downloads int64 `json:"downloads"` // objects that were handed to BitBake whole
	Withheld  int64 `json:"withheld"`  // objects that were wanted and are not there for the user
	Failed    int64 `json:"failed"`    // objects that were wanted, and something is wrong
	// Unverified is how many objects were wanted, and nobody who is trusted vouches for them.
	Unverified int64 `json:"unverified"`
	Verifying  bool  `json:"verifying"` // statements are asked for
	Fetched    int64 `json:"bytes_fetched"`
	Served     int64 `json:"bytes_served"`
	Spooled    int64 `json:"bytes_spooled"`
	Objects    int   `json:"spooled"`
	CacheHits  int64 `json:"cache_hits"` // objects that were not downloaded again

	HashAsked   int64 `json:"hash_asked"`   // questions of hash equivalence
	HashNeutral int64 `json:"hash_neutral"` // those among them that the gate did not answer

	// Presence is how long BitBake waited for an answer, Batch how long the gate took for a batch.
	Presence Latency `json:"presence_latency"`
	Batch    Latency `json:"batch_latency"`

	Warnings []Warning `json:"warnings"` // the last of each cause, latest first
}

// Latency is of the last questions, in seconds.
type Latency struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
}

// Warning is something that is or was wrong.
type Warning struct {
	Cause string    `json:"cause"`
	Text  string    `json:"text"`
	Count int64     `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Over  bool      `json:"over"` // it is not wrong any more
}

// Status returns what is to be told now.
func (a *Agent) Status() Status {
	s := Status{
		Gate: a.conf.Gate, Started: a.count.started, Draining: a.draining.Load(), Hash: map[string]string{},
		Hits: a.count.hits.Load(), Misses: a.count.misses.Load(), Unanswered: a.count.unanswered.Load(), Remembered: a.count.remembered.Load(),
		Malformed: a.count.malformed.Load(), Batches: a.count.batches.Load(), Asked: a.count.asked.Load(),
		Promised: a.count.promised.Load(), Downloads: a.count.downloads.Load(), Withheld: a.count.withheld.Load(), Failed: a.count.failures.Load(), Unverified: a.count.unverified.Load(), Verifying: a.vouch != nil,
		Fetched: a.count.fetched.Load(), Served: a.count.served.Load(), CacheHits: a.count.cacheHits.Load(), HashAsked: a.count.hashAsked.Load(), HashNeutral: a.count.hashNeutral.Load(),
		Presence: a.count.presence.read(), Batch: a.count.latency.read(), Warnings: a.warn.list(),
	}
	a.mu.Lock()
	s.Listen = append([]string{}, a.places...)
	a.mu.Unlock()
	for _, z := range a.hashes {
		s.Hash[z.name] = address(z.listener.Addr())
	}
	a.spool.mu.Lock()
	s.Spooled, s.Objects = a.spool.used, len(a.spool.objects)
	a.spool.mu.Unlock()
	a.link.tell(&s)
	return s
}

// tell says how the gate and the token are.
func (l *link) tell(s *Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Answered, s.Who, s.Until = l.answered, l.who, l.until
	switch {
	case l.lost != nil:
		s.GateState, s.GateFault = "lost", l.lost.Error()
	case l.answered.IsZero():
		s.GateState = "not asked yet"
	default:
		s.GateState = "ok"
	}
	switch s.TokenFault = l.tokenFault; {
	case l.tokenFault != "" && l.token.IsZero():
		s.TokenState = "none"
	case l.tokenFault != "":
		s.TokenState = "refused"
	case l.answered.IsZero():
		s.TokenState = "not asked yet"
	default:
		s.TokenState = "ok"
	}
}

// counts is what happened since the agent began.
type counts struct {
	started time.Time

	hits, misses, unanswered, remembered, malformed  atomic.Int64
	batches, asked                                   atomic.Int64
	promised, downloads, withheld, failures, fetched atomic.Int64
	unverified                                       atomic.Int64
	served, cacheHits, hashAsked, hashNeutral        atomic.Int64
	presence, latency                                samples

	mu          sync.Mutex // guards what follows
	first, last time.Time  // of the build under way; first is zero when there is none
	before      tally      // when it began
}

// tally is what a build is summed up with.
type tally struct{ hits, misses, unanswered, downloads, failures, fetched, served int64 }

func (c *counts) tally() tally {
	return tally{
		c.hits.Load(), c.misses.Load(), c.unanswered.Load(), c.downloads.Load(), c.failures.Load() + c.withheld.Load() + c.unverified.Load(), c.fetched.Load(), c.served.Load(),
	}
}

func (c *counts) answered(there bool, err error) {
	switch {
	case err != nil:
		c.unanswered.Add(1)
	case there:
		c.hits.Add(1)
	default:
		c.misses.Add(1)
	}
}

func (c *counts) failed(err error) {
	switch {
	case isAbsent(err):
		c.withheld.Add(1)
	case isUnverified(err):
		c.unverified.Add(1)
	default:
		c.failures.Add(1)
	}
}

// touch notes that BitBake has asked something.
func (c *counts) touch(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = now
	}
	c.last = now
}

// sumUp logs a build when nothing came for a while.
func (c *counts) sumUp(now time.Time, quiet time.Duration, log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() || now.Sub(c.last) < quiet {
		return
	}
	t, b := c.tally(), c.before
	log.Info("a build has ended", "took", c.last.Sub(c.first).Round(time.Second), "hits", t.hits-b.hits, "misses", t.misses-b.misses,
		"unanswered", t.unanswered-b.unanswered, "downloads", t.downloads-b.downloads, "failed", t.failures-b.failures,
		"bytes_fetched", t.fetched-b.fetched, "bytes_served", t.served-b.served)
	c.first, c.before = time.Time{}, t
}

// samples holds the last durations of something.
type samples struct {
	mu   sync.Mutex
	n    int
	ring [1024]time.Duration
}

func (s *samples) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring[s.n%len(s.ring)] = d
	s.n++
}

func (s *samples) read() Latency {
	s.mu.Lock()
	all := slices.Clone(s.ring[:min(s.n, len(s.ring))])
	s.mu.Unlock()
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	return Latency{Median: all[len(all)/2].Seconds(), P99: all[len(all)*99/100].Seconds()}
}

// Causes of warnings.
const (
	causeGate    = "gate"
	causeToken   = "token"
	causeDisk    = "disk"
	causeSpool   = "spool"
	causeCache   = "cache"
	causeBytes   = "bytes"
	causeAnswer  = "answer"
	causeForeign = "foreign"
	// Why nobody vouches for an object: there is no statement, its signer is not trusted, it says something else.
	causeUnsigned = "unsigned"
	causeSigner   = "signer"
	causeSigned   = "signed"
	causeHash     = "hash"
	causeOther    = "other"
)

// repeatAfter is how long a cause that goes on is not said again.
const repeatAfter = 10 * time.Minute

// warnings says each cause once, and counts how often it was met.
type warnings struct {
	log *slog.Logger
	now func() time.Time

	mu  sync.Mutex // guards what follows
	all map[string]*warning
}

type warning struct {
	Warning
	said time.Time
}

func (w *warnings) add(cause, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string]*warning{}
	}
	now := w.now()
	one := w.all[cause]
	if one == nil || one.Over {
		one = &warning{Warning: Warning{Cause: cause, First: now}}
		w.all[cause] = one
	}
	one.Text, one.Last = text, now
	one.Count++
	if one.said.IsZero() || now.Sub(one.said) >= repeatAfter {
		one.said = now
		w.log.Warn(text, "cause", cause, "count", one.Count)
	}
}

// over says that a cause is gone.
func (w *warnings) over(cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.all[cause]; one != nil {
		one.Over = true
	}
}

func (w *warnings) list() []Warning {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []Warning{}
	for _, one := range w.all {
		list = append(list, one.Warning)
	}
	slices.SortFunc(list, func(a, b Warning) int { return b.Last.Compare(a.Last) })
	return list
}
