package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultFS fails chosen calls. The zero kind fails none.
type faultFS struct {
	osFS
	mu    sync.Mutex
	kind  string // "write", "torn", "short", "silent", "sync", "create", "rename", "dir", "truncate", "append"
	at    int    // the first call of that kind to fail, counted from 1
	until int    // the last one to fail
	err   error
	calls map[string]int
	fired bool
	// poisoned is the referee for fsync: files whose sync failed must never be synced again.
	poisoned map[*faultFile]bool
	resynced bool
}

type faultFile struct {
	*os.File
	fs *faultFS
}

// hit counts a call and reports whether it fails.
func (f *faultFS) hit(kinds ...string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[kinds[0]]++
	n := f.calls[kinds[0]]
	for _, k := range kinds {
		if k == f.kind && n >= f.at && n <= f.until {
			f.fired = true
			return k
		}
	}
	return ""
}

func (f *faultFS) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind = ""
}

func (f *faultFS) open(file File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{file.(*os.File), f}, nil
}

func (f *faultFS) Create(name string) (File, error) {
	if f.hit("create") != "" {
		return nil, f.err
	}
	return f.open(f.osFS.Create(name))
}

func (f *faultFS) Append(name string) (File, error) {
	if f.hit("append") != "" {
		return nil, f.err
	}
	return f.open(f.osFS.Append(name))
}

func (f *faultFS) Rename(from, to string) error {
	if f.hit("rename") != "" {
		return f.err
	}
	return f.osFS.Rename(from, to)
}

func (f *faultFS) SyncDir() error {
	if f.hit("dir") != "" {
		return f.err
	}
	return nil // power is never cut here, and real syncs make the many sessions slow
}

func (f *faultFile) Write(p []byte) (int, error) {
	switch f.fs.hit("write", "torn", "short", "silent", "full") {
	case "write":
		return 0, f.fs.err
	case "torn": // half is there, but nothing was reported written
		_, _ = f.File.Write(p[:len(p)/2])
		return 0, f.fs.err
	case "full": // all is there, but nothing was reported written
		_, _ = f.File.Write(p)
		return 0, f.fs.err
	case "short":
		n, _ := f.File.Write(p[:len(p)*2/3])
		return n, f.fs.err
	case "silent":
		return f.File.Write(p[:len(p)/3])
	}
	return f.File.Write(p)
}

func (f *faultFile) Sync() error {
	failed := f.fs.hit("sync") != ""
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.poisoned[f] {
		f.fs.resynced = true
	}
	if failed {
		f.fs.poisoned[f] = true
		return f.fs.err
	}
	return nil
}

func (f *faultFile) Truncate(size int64) error {
	if f.fs.hit("truncate") != "" {
		return f.fs.err
	}
	return f.File.Truncate(size)
}

// session is a scripted run with a referee: what was acknowledged, and what was refused.
type session struct {
	acked, refused map[string]bool
	n              int
}

func (s *session) append(j *Journal, batch int) error {
	events := make([]*Event, batch)
	for i := range events {
		events[i] = &Event{Kind: "lifecycle", Request: fmt.Sprint(s.n)}
		s.n++
	}
	last, err := j.AppendBatch(events)
	if err == nil && s.n%3 == 0 {
		err = j.Durable(context.Background(), last)
	}
	for _, e := range events {
		if err == nil {
			s.acked[e.Request] = true
		} else {
			s.refused[e.Request] = true
		}
	}
	return err
}

// check compares the trail with what was acknowledged.
func (s *session) check(t *testing.T, dir string) {
	t.Helper()
	mustVerify(t, dir)
	seen := map[string]int{}
	for _, e := range collect(t, dir, TailOptions{}) {
		if e.Kind == "lifecycle" {
			seen[e.Request]++
			if !s.acked[e.Request] && !s.refused[e.Request] {
				t.Errorf("event %s was never appended", e.Request)
			}
		}
	}
	for r := range s.acked {
		if seen[r] != 1 {
			t.Errorf("acknowledged event %s is in the trail %d times", r, seen[r])
		}
	}
	for r, n := range seen {
		if n > 1 {
			t.Errorf("event %s is in the trail %d times", r, n)
		}
	}
}

// TestEveryFault fails the n-th call of each kind, for every n that a scripted session makes, for one call and for a while, and
// sometimes kills the process before it could recover.
func TestEveryFault(t *testing.T) {
	kinds := []string{"write", "torn", "full", "short", "silent", "sync", "create", "rename", "dir", "truncate", "append"}
	for _, kind := range kinds {
		for _, length := range []int{1, 3, 1000} {
			for _, die := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/die=%v", kind, length, die), func(t *testing.T) {
					for n := 1; faultSession(t, kind, n, length, die); n++ {
						if t.Failed() {
							t.Fatalf("at call %d", n)
						}
					}
				})
			}
		}
	}
}

// faultSession reports whether the fault was reached.
func faultSession(t *testing.T, kind string, n, length int, die bool) bool {
	dir := t.TempDir()
	fs := &faultFS{osFS: osFS{dir}, kind: kind, at: n, until: n + length - 1, err: syscall.ENOSPC, calls: map[string]int{}, poisoned: map[*faultFile]bool{}}
	if kind == "sync" || kind == "rename" {
		fs.err = syscall.EIO
	}
	s := &session{acked: map[string]bool{}, refused: map[string]bool{}}
	cfg := Config{Dir: dir, Node: "n1", SegmentBytes: 1500, FS: fs}
	j, err := Open(cfg)
	if err != nil { // a start on a failing disk is an error; on a healed one it works
		fs.heal()
		j = mustOpen(t, cfg)
	}
	for i := range 24 {
		if err := s.append(j, 1+i%3); err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatalf("append: %v", err)
		}
		if i%5 == 4 {
			j.check()
		}
	}
	if die {
		crash(j)
		fs.heal()
		j = mustOpen(t, cfg)
	}
	fs.heal()
	j.check()
	if err := j.Err(); err != nil {
		t.Errorf("did not recover: %v", err)
	}
	if err := s.append(j, 1); err != nil {
		t.Errorf("append after recovery: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	s.check(t, dir)
	if fs.resynced {
		t.Error("a segment was synced again after its sync had failed")
	}
	mustOpen(t, Config{Dir: dir, FS: syncless{osFS{dir}}}).Close()
	s.check(t, dir)
	return fs.fired
}

// TestFaultsUnderLoad lets many appenders meet a disk that fails again and again while Run recovers.
func TestFaultsUnderLoad(t *testing.T) {
	dir := t.TempDir()
	fs := &faultFS{osFS: osFS{dir}, err: syscall.ENOSPC, calls: map[string]int{}, poisoned: map[*faultFile]bool{}}
	changes := make(chan State, 1000)
	j := mustOpen(t, Config{Dir: dir, SegmentBytes: 20_000, FS: fs, FsyncEvery: time.Millisecond, OnState: func(s State) { changes <- s }})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- j.Run(ctx) }()

	sessions := make([]*session, 8)
	var wg sync.WaitGroup
	stop, acks := make(chan struct{}), make(chan struct{})
	for g := range sessions {
		s := &session{acked: map[string]bool{}, refused: map[string]bool{}, n: g * 1_000_000}
		sessions[g] = s
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if s.append(j, 1+i%2) != nil {
					time.Sleep(100 * time.Microsecond) // as a client that got a 503 would
					continue
				}
				select {
				case acks <- struct{}{}:
				default:
				}
			}
		})
	}
	for _, kind := range []string{"write", "torn", "sync", "short", "full"} {
		for range 20 { // good work between the faults
			<-acks
		}
		fs.mu.Lock()
		base := fs.calls["write"]
		if kind == "sync" {
			base = fs.calls["sync"]
		}
		fs.kind, fs.at, fs.until = kind, base+1, base+2
		fs.mu.Unlock()
		if kind != "sync" { // two failing syncs in a row: the second is the new segment's
			<-changes
		} else if s := <-changes; s.Writable {
			t.Error("state did not change")
		}
		for s := range changes {
			if s.Writable {
				break
			}
		}
	}
	close(stop)
	wg.Wait()
	cancel()
	<-ran
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	all := &session{acked: map[string]bool{}, refused: map[string]bool{}}
	for _, s := range sessions {
		for r := range s.acked {
			all.acked[r] = true
		}
		for r := range s.refused {
			all.refused[r] = true
		}
	}
	all.check(t, dir)
	if fs.resynced {
		t.Error("a segment was synced again after its sync had failed")
	}
	if len(all.refused) == 0 || len(all.acked) == 0 {
		t.Errorf("%d acknowledged, %d refused: the test tests nothing", len(all.acked), len(all.refused))
	}
}

// TestFsyncErrorKeepsWhatWasAcknowledged checks the move to a new generation in detail.
func TestFsyncErrorKeepsWhatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	fs := &faultFS{osFS: osFS{dir}, err: syscall.EIO, calls: map[string]int{}, poisoned: map[*faultFile]bool{}}
	j := mustOpen(t, Config{Dir: dir, FS: fs})
	first := mustAppend(t, j, sampleEvent(1))
	if err := j.Durable(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, sampleEvent(2))
	last := mustAppend(t, j, sampleEvent(3))
	fs.kind, fs.at, fs.until = "sync", fs.calls["sync"]+1, fs.calls["sync"]+1
	old := j.seg
	if err := j.Durable(t.Context(), last); err != nil {
		t.Fatalf("Durable did not recover: %v", err)
	}
	if j.seg.gen != old.gen+1 || j.seg.first != first+1 {
		t.Errorf("segment = %+v after %+v", j.seg, old)
	}
	// Whatever became of the distrusted file's tail, the trail is whole.
	info, err := os.Stat(filepath.Join(dir, old.name))
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int64{1, 100, 600} {
		if err := os.Truncate(filepath.Join(dir, old.name), info.Size()-cut); err != nil {
			t.Fatal(err)
		}
		mustVerify(t, dir)
	}
}
