// Package hashtest is the conformance suite of [hashserv.Store], [hashserv.Equivalents] and [hashserv.Keeper]: what the reference server's
// database does, one by one, under racing callers, and against a model that is as plain as it can be.
package hashtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// Config is what a store is opened with.
type Config struct {
	// Now is the clock of rows and of their age. It moves in whole seconds, and also back.
	Now func() time.Time
	// Keep protects the mappings to a unihash: neither Remove nor Sweep removes them. It is never nil.
	Keep func(hashserv.Unihash) bool
}

// Open opens an empty store. It lives until t ends.
type Open func(t testing.TB, c Config) hashserv.Store

// Difference is where a store is meant to differ from the contract.
type Difference int

const (
	// NoAuthors is a store that does not tell every author.
	NoAuthors Difference = iota
	// OverWire is a store behind the protocol: it does not carry authors, nor an empty mark, and of a row that was asked for bare not
	// the mapping; and it cannot be asked for the bare row of a task.
	OverWire
	// KeepsNothing is a store that has no use for Config.Keep.
	KeepsNothing
	// OwnClock is a store that has its own clock instead of Config.Now.
	OwnClock
	// RemapsDuplicates is a store that maps the task of a report though its row is there already, as the reference server does on SQLite.
	RemapsDuplicates
	// LosesBlanks is a store that loses blanks of long texts, as the reference server does: it cuts a message into lines anywhere, and
	// whoever reads a line takes off its trailing blanks.
	LosesBlanks
	// Brief is no difference: fewer sequences are tried, of a store that is tried by others already.
	Brief
	// CleansAnyAge is a store whose CleanUnused ignores the age, as the reference server's does.
	CleansAnyAge
)

// Run runs the whole suite. What a store lacks of Equivalents and Keeper is left out.
func Run(t *testing.T, open func(t testing.TB, c Config) hashserv.Store, differences ...Difference) {
	s := suite{open: open, differs: map[Difference]bool{}}
	for _, d := range differences {
		s.differs[d] = true
	}
	s.differs[NoAuthors] = s.differs[NoAuthors] || s.differs[OverWire]
	for _, tc := range []struct {
		name string
		run  func(*env)
	}{
		{"NothingKnown", nothingKnown},
		{"WrittenOnce", writtenOnce},
		{"FirstOfEqualOutput", firstOfEqualOutput},
		{"OldestThatIsMapped", oldestThatIsMapped},
		{"SecondOutputOfTask", secondOutputOfTask},
		{"ReportedAgain", reportedAgain},
		{"NoUnihash", noUnihash},
		{"RowsWhole", rowsWhole},
		{"RowsOldest", rowsOldest},
		{"RowsBare", rowsBare},
		{"FreeText", freeText},
		{"Authors", authors},
		{"Batches", batches},
		{"RacingReports", racingReports},
		{"RacingBatches", racingBatches},
		{"Equivalents", equivalents},
		{"RacingEquivalents", racingEquivalents},
		{"Remove", remove},
		{"RemoveUnusable", removeUnusable},
		{"CleanUnused", cleanUnused},
		{"Collection", collection},
		{"SweepRefused", sweepRefused},
		{"Kept", kept},
		{"MaintainedWhileUsed", maintainedWhileUsed},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(s.env(t)) })
	}
	t.Run("Model", s.model)
}

type suite struct {
	open    Open
	differs map[Difference]bool
}

// env is one store under test, with short words for what the tests do to it.
type env struct {
	suite
	testing.TB
	ctx   context.Context
	clock *Clock
	keep  *keepers
	store hashserv.Store
}

func (s suite) env(t testing.TB) *env {
	e := &env{suite: s, TB: t, ctx: t.Context(), clock: NewClock(), keep: &keepers{}}
	e.store = s.open(t, Config{Now: e.clock.Now, Keep: e.keep.has})
	return e
}

// Clock stands still until it is moved. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock makes a clock of some day.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

// Now returns the time it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move moves it, also back.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// keepers is a set of unihashes with an artifact. It is safe for concurrent use.
type keepers struct {
	mu  sync.Mutex
	set map[hashserv.Unihash]bool
}

func (k *keepers) has(u hashserv.Unihash) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set[u]
}

func (k *keepers) add(u hashserv.Unihash) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		k.set = map[hashserv.Unihash]bool{}
	}
	k.set[u] = true
}

// U returns the unihash with number n, which is not 0.
func U(n byte) hashserv.Unihash { return hashserv.Unihash{31: n} }

func task(hash string) hashserv.Task { return hashserv.Task{Method: "m", Taskhash: hash} }

func report(taskhash, outhash string, unihash byte) hashserv.Report {
	return hashserv.Report{Task: task(taskhash), Outhash: outhash, Unihash: U(unihash)}
}

// keeper returns the store as a Keeper, or skips the test.
func (e *env) keeper() hashserv.Keeper {
	e.Helper()
	k, ok := e.store.(hashserv.Keeper)
	if !ok {
		e.Skip("the store is no Keeper")
	}
	return k
}

func (e *env) equivalents() hashserv.Equivalents {
	e.Helper()
	k, ok := e.store.(hashserv.Equivalents)
	if !ok {
		e.Skip("the store has no Equivalents")
	}
	return k
}

func (e *env) report(r hashserv.Report, want byte) {
	e.Helper()
	got, err := e.store.Report(e.ctx, r)
	if err != nil {
		e.Fatalf("Report(%v): %v", r, err)
	}
	if got.Unihash != U(want) {
		e.Fatalf("Report(%s %s of %s) = %s, want %s", r.Outhash, r.Unihash, r.Taskhash, got.Unihash, U(want))
	}
}

func (e *env) mapped(t hashserv.Task) hashserv.Mapping {
	e.Helper()
	answers := []hashserv.Mapping{{Unihash: U(255), Author: 255}} // to be overwritten
	if err := e.store.Unihash(e.ctx, []hashserv.Task{t}, answers); err != nil {
		e.Fatalf("Unihash(%v): %v", t, err)
	}
	return answers[0]
}

// expect checks what the task is mapped to; 0 is nothing.
func (e *env) expect(t hashserv.Task, want byte) {
	e.Helper()
	if got := e.mapped(t).Unihash; got != U(want) {
		e.Fatalf("Unihash(%v) = %q, want %q", t, got, U(want))
	}
}

func (e *env) expectExists(u hashserv.Unihash, want bool) {
	e.Helper()
	answers := []bool{!want}
	if err := e.store.Exists(e.ctx, []hashserv.Unihash{u}, answers); err != nil {
		e.Fatalf("Exists(%s): %v", u, err)
	}
	if answers[0] != want {
		e.Fatalf("Exists(%s) = %v", u, answers[0])
	}
}

func (e *env) row(q hashserv.Query) *hashserv.Row {
	e.Helper()
	row, err := e.store.Outhash(e.ctx, q)
	if err != nil {
		e.Fatalf("Outhash(%v): %v", q, err)
	}
	return row
}

// count checks what maintenance returned.
func (e *env) count(got int64, err error) func(want int64) {
	e.Helper()
	return func(want int64) {
		e.Helper()
		if err != nil || got != want {
			e.Fatalf("%d, %v; want %d", got, err, want)
		}
	}
}

func (e *env) equal(got, want any) {
	e.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("(-want +got):\n%s", diff)
	}
}

// refusal checks that err is one, with this text.
func (e *env) refusal(err error, text string) {
	e.Helper()
	var refused *hashserv.Refusal
	if !errors.As(err, &refused) || refused.Message != text {
		e.Fatalf("error %v, want the refusal %q", err, text)
	}
}

func numbered(prefix string, n int) string { return fmt.Sprintf("%s%06d", prefix, n) }
