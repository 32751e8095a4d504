package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestTailLines(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir, SegmentBytes: 700, Strict: true})
	for i := range 20 {
		mustAppend(t, j, &Event{Kind: "lifecycle", Request: fmt.Sprint(i)})
	}
	ours := func(e *Event) bool { return e.Kind == "lifecycle" }
	odd := func(e *Event) bool { return ours(e) && len(e.Request)%2 == 0 }
	for _, tc := range []struct {
		opts        TailOptions
		first, last string
		n           int
	}{
		{TailOptions{Filter: ours}, "0", "19", 20},
		{TailOptions{Filter: ours, Lines: 1}, "19", "19", 1},
		{TailOptions{Filter: ours, Lines: 7}, "13", "19", 7},
		{TailOptions{Filter: ours, Lines: 500}, "0", "19", 20},
		{TailOptions{Filter: odd, Lines: 9}, "11", "19", 9},
		{TailOptions{Filter: ours, Lines: -1}, "", "", 0},
	} {
		got := collect(t, dir, tc.opts)
		if len(got) != tc.n || tc.n > 0 && (got[0].Request != tc.first || got[len(got)-1].Request != tc.last) {
			t.Errorf("%+v: %d events", tc.opts, len(got))
		}
	}
	for range Tail(t.Context(), dir, TailOptions{}) {
		break // a consumer may stop
	}
	for _, err := range Tail(t.Context(), filepath.Join(dir, "absent"), TailOptions{}) {
		if err == nil {
			t.Error("absent directory: no error")
		}
	}
}

// TestTailFollows writes beside a follower, over rotations, a failed fsync and a restart.
func TestTailFollows(t *testing.T) {
	dir := t.TempDir()
	fs := &faultFS{osFS: osFS{dir}, err: syscall.EIO, calls: map[string]int{}, poisoned: map[*faultFile]bool{}}
	cfg := Config{Dir: dir, SegmentBytes: 1200, Strict: true, FS: fs}
	j := mustOpen(t, cfg)
	mustAppend(t, j, sampleEvent(0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan Event)
	go func() {
		defer close(events)
		for e, err := range Tail(ctx, dir, TailOptions{Follow: true, Lines: 1}) {
			if err != nil {
				t.Error(err)
				return
			}
			events <- e
		}
	}()
	last := (<-events).Seq
	for i := range 60 {
		switch {
		case i%20 == 7:
			fs.mu.Lock()
			fs.kind, fs.at, fs.until = "sync", fs.calls["sync"]+1, fs.calls["sync"]+1
			fs.mu.Unlock()
		case i%20 == 13:
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = mustOpen(t, cfg)
		}
		want := mustAppend(t, j, &Event{Kind: "lifecycle", Request: fmt.Sprint(i)})
		for i%6 == 0 && last < want {
			e, ok := <-events
			if !ok || e.Seq != last+1 {
				t.Fatalf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
	}
	if j.seg.gen != 3 {
		t.Errorf("generation %d", j.seg.gen)
	}
	cancel()
	for range events {
	}
	for e, err := range Tail(ctx, dir, TailOptions{Follow: true}) {
		t.Errorf("after the end of its context Tail yields %v, %v", e.Seq, err)
	}
}

func TestTailStopsAtABreak(t *testing.T) {
	dir := t.TempDir()
	files := smallTrail(t, dir)
	name := names(files)[1]
	files[name][100] ^= 1
	if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o600); err != nil {
		t.Fatal(err)
	}
	var failed error
	n := 0
	for _, err := range Tail(t.Context(), dir, TailOptions{}) {
		if failed != nil {
			t.Error("Tail went on after an error")
		}
		if failed = err; err == nil {
			n++
		}
	}
	if failed == nil || n == 0 {
		t.Errorf("%d events, then %v", n, failed)
	}
}
