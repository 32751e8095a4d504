package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func sampleEvent(i int) *Event {
	return &Event{
		Kind: KindDecision, Request: fmt.Sprintf("r%d", i), Door: "https", Action: "stat", Zone: "main",
		Actor:    Actor{Forge: "git.example.com", ID: "42", Name: "alice", Kind: "human", Credential: "tok:0011223344aa", Remote: "192.0.2.7:50122"},
		Object:   Object{Path: "universal/ab/cd/sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:abcd_package.tar.zst", Size: 123456},
		Decision: Decision{Verdict: "allow", Rule: "read/every-source", Policy: "sha256:0011", FactAge: 1200, Cached: true},
	}
}

func readEvent(request string, size int64) *Event {
	return &Event{Kind: KindDecision, Request: request, Action: "read", Object: Object{Path: "p/" + request, Size: size}, Decision: Decision{Verdict: "allow"}}
}

func mustOpen(t testing.TB, cfg Config) *Journal {
	t.Helper()
	if cfg.Node == "" {
		cfg.Node = "n1"
	}
	j, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, e *Event) uint64 {
	t.Helper()
	seq, err := j.Append(e)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// collect reads the whole trail.
func collect(t testing.TB, dir string, opts TailOptions) []Event {
	t.Helper()
	var all []Event
	for e, err := range Tail(t.Context(), dir, opts) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func mustVerify(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAppendAndReadBack(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) {
			dir := t.TempDir()
			j := mustOpen(t, Config{Dir: dir, Strict: strict})
			var want []Event
			for i := range 10 {
				e := sampleEvent(i)
				if seq := mustAppend(t, j, e); seq != uint64(i+2) {
					t.Fatalf("seq = %d, want %d", seq, i+2)
				}
				want = append(want, *e)
			}
			got := collect(t, dir, TailOptions{})[1:] // without "audit.open"
			if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Event{}, "Prev")); d != "" {
				t.Error(d)
			}
			if strict && j.durable.Load() != 11 {
				t.Errorf("durable = %d", j.durable.Load())
			}
			if err := j.Durable(t.Context(), 11); err != nil {
				t.Error(err)
			}
			r := mustVerify(t, dir)
			if r.Events != 11 || r.First != 1 || r.Last != 11 || r.Node != "n1" {
				t.Errorf("report = %+v", r)
			}
		})
	}
}

func TestAppendBatchIsContiguous(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				events := make([]*Event, 5)
				for k := range events {
					events[k] = &Event{Kind: "lifecycle", Request: fmt.Sprintf("%d/%d", g, i)}
				}
				last, err := j.AppendBatch(events)
				if err != nil || last != events[4].Seq || events[4].Seq != events[0].Seq+4 {
					t.Errorf("batch: %v, last %d, first %d", err, last, events[0].Seq)
				}
			}
		})
	}
	wg.Wait()
	mustVerify(t, dir)
	all := collect(t, dir, TailOptions{})[1:]
	for i := 0; i < len(all); i += 5 {
		if all[i].Request != all[i+4].Request {
			t.Fatalf("batch torn apart at %d", i)
		}
	}
	if seq, err := j.AppendBatch(nil); seq != 0 || err != nil {
		t.Errorf("empty batch = %d, %v", seq, err)
	}
}

func TestReopenContinuesTheChain(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		j := mustOpen(t, Config{Dir: dir, SegmentBytes: 1000, Strict: true})
		for i := range 5 {
			mustAppend(t, j, sampleEvent(i))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := mustVerify(t, dir)
	boots := map[string]bool{}
	for _, e := range collect(t, dir, TailOptions{}) {
		boots[e.Boot] = true
	}
	if r.Segments < 4 || len(boots) != 4 {
		t.Errorf("%d segments, %d boots", r.Segments, len(boots))
	}
}

func TestClosedJournal(t *testing.T) {
	j := mustOpen(t, Config{Dir: t.TempDir()})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := j.Append(sampleEvent(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Append after Close: %v", err)
	}
	if err := j.Durable(t.Context(), 99); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Durable after Close: %v", err)
	}
	j.check()
	if j.Err() == nil {
		t.Error("a closed journal recovered")
	}
}

func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir, Node: "n1"}); err == nil || !strings.Contains(err.Error(), "another gate") {
		t.Fatalf("second Open: %v", err)
	}
	j.Close()
	mustOpen(t, Config{Dir: dir})
}

func TestNodeMayNotChange(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, Config{Dir: dir}).Close()
	if _, err := Open(Config{Dir: dir, Node: "n2"}); err == nil || !strings.Contains(err.Error(), `"n1"`) {
		t.Fatalf("Open as another node: %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []Config{{Node: "n"}, {Dir: t.TempDir()}, {Dir: t.TempDir(), Node: "a b"}, {Dir: t.TempDir(), Node: strings.Repeat("n", 65)}} {
		if _, err := Open(c); err == nil {
			t.Errorf("Open(%+v) succeeded", c)
		}
	}
}

func TestTooLargeEventLeavesTheJournalWritable(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir})
	if _, err := j.Append(&Event{Kind: "x", Detail: strings.Repeat("a", maxJSON)}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("err = %v", err)
	}
	mustAppend(t, j, &Event{Kind: "x", Detail: strings.Repeat("a", maxJSON-2048)})
	mustVerify(t, dir)
}

func TestRunMakesDurable(t *testing.T) {
	j := mustOpen(t, Config{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	seq := mustAppend(t, j, sampleEvent(1))
	go func() { done <- j.Run(ctx) }()
	for j.durable.Load() < seq { // Run alone brings it there
		if ctx.Err() != nil {
			t.Fatal("never durable")
		}
		time.Sleep(time.Millisecond)
	}
	last := mustAppend(t, j, sampleEvent(2))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if j.durable.Load() != last {
		t.Errorf("Run left line %d undurable", last)
	}
}

func TestDurableGivesUpWithItsContext(t *testing.T) {
	j := mustOpen(t, Config{Dir: t.TempDir()})
	seq := mustAppend(t, j, sampleEvent(1))
	j.flushing <- struct{}{} // somebody syncs, slowly
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Durable(ctx, seq); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	<-j.flushing
}

// TestGapForOpenTransfers opens and closes transfers over several segments, stops uncleanly, and expects one gap for each that
// was left open, once.
func TestGapForOpenTransfers(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir, SegmentBytes: 600, Strict: true})
	for i := range 20 {
		mustAppend(t, j, readEvent(fmt.Sprint("r", i), int64(1000+i)))
	}
	for i := range 20 {
		if i != 3 && i != 17 {
			mustAppend(t, j, &Event{Kind: KindTransfer, Request: fmt.Sprint("r", i)})
		}
	}
	crash(j)

	j = mustOpen(t, Config{Dir: dir, SegmentBytes: 600})
	isGap := func(e *Event) bool { return e.Kind == KindGap }
	gaps := collect(t, dir, TailOptions{Filter: isGap})
	slices.SortFunc(gaps, func(a, b Event) int { return strings.Compare(a.Request, b.Request) })
	if len(gaps) != 2 || gaps[0].Request != "r17" || gaps[1].Request != "r3" || !strings.Contains(gaps[1].Detail, "up to 1003 octets") || gaps[1].Object.Path != "p/r3" {
		t.Fatalf("gaps = %+v", gaps)
	}
	crash(j)
	mustOpen(t, Config{Dir: dir})
	if again := collect(t, dir, TailOptions{Filter: isGap}); len(again) != 2 {
		t.Errorf("gaps were repeated: %d", len(again))
	}
	mustVerify(t, dir)
}

// crash leaves the journal as a killed process does.
func crash(j *Journal) {
	j.flushing <- struct{}{}
	j.closed = true
	j.file.Close()
	j.lock.Close()
	<-j.flushing
}

func TestVanishedSegment(t *testing.T) {
	spoil := map[string]func(path string) error{
		"removed":  os.Remove,
		"replaced": func(p string) error { return errors.Join(os.Remove(p), os.WriteFile(p, nil, 0o600)) },
		"cut":      func(p string) error { return os.Truncate(p, 10) },
	}
	for name, f := range spoil {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := mustOpen(t, Config{Dir: dir, Strict: true})
			mustAppend(t, j, sampleEvent(1))
			j.check()
			if j.seg.gen != 0 {
				t.Fatal("a segment in its place was given up")
			}
			if err := f(filepath.Join(dir, j.seg.name)); err != nil {
				t.Fatal(err)
			}
			j.check()
			if err := j.Err(); err != nil {
				t.Fatal(err)
			}
			last := mustAppend(t, j, sampleEvent(2))
			events := collect(t, dir, TailOptions{Lines: 2})
			if events[0].Kind != KindGap || !strings.Contains(events[0].Detail, "removed, replaced or changed") || events[1].Seq != last {
				t.Errorf("events = %+v", events)
			}
			if _, err := Verify(t.Context(), dir, VerifyOptions{}); err == nil {
				t.Error("Verify did not notice")
			}
			j.Close()
			mustOpen(t, Config{Dir: dir}) // what follows can still be written
		})
	}
}

func TestMinFree(t *testing.T) {
	dir := t.TempDir()
	free, err := freeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	var states []State
	j := mustOpen(t, Config{Dir: dir, MinFree: 1, OnState: func(s State) { states = append(states, s) }})
	j.check()
	j.cfg.MinFree = free * 2
	j.check()
	if _, err := j.Append(sampleEvent(1)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("below the floor: %v", err)
	}
	j.check()
	j.cfg.MinFree = 1
	j.check()
	mustAppend(t, j, sampleEvent(2))
	if len(states) != 2 || states[0].Writable || !states[1].Writable || !errors.Is(states[0].Err, ErrUnavailable) {
		t.Errorf("states = %+v", states)
	}
	mustVerify(t, dir)
}

func TestAppendDoesNotAllocate(t *testing.T) {
	j := mustOpen(t, Config{Dir: t.TempDir()})
	e := sampleEvent(1)
	seq := uint64(0)
	n := testing.AllocsPerRun(500, func() {
		seq = mustAppend(t, j, e)
		if seq%64 == 0 {
			if err := j.Durable(context.Background(), seq); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n >= 1 && !raceEnabled {
		t.Errorf("%v allocations per Append", n)
	}
}
