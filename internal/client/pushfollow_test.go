package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// followedBuild is a build that goes on: each step of it happens after a pass of the push.
type followedBuild struct {
	t       *testing.T
	gate    *fakeGate
	cache   *memCache
	records string
	over    chan struct{}
	steps   []func(r *Report, err error) // the last is after the build
	passes  int
}

func newFollowedBuild(t *testing.T, cache *memCache) *followedBuild {
	return &followedBuild{t: t, gate: newFakeGate(t), cache: cache, records: t.TempDir(), over: make(chan struct{})}
}

// record says that a task is done.
func (b *followedBuild) record(recipe, taskName, hash, entry, rev string) {
	b.t.Helper()
	r := recordFor(recipe, taskName, hash, func(m map[string]any) { m["sources"] = []any{recordEntryOf(entry, rev)} })
	text, err := json.Marshal(r)
	if err != nil {
		b.t.Fatal(err)
	}
	putRecord(b.t, b.records, r, text)
}

// put adds a file of another cache to the build's.
func (b *followedBuild) put(from *memCache, names ...string) {
	for _, name := range names {
		b.cache.files[name] = from.files[name]
	}
}

func (b *followedBuild) follow(change func(o *FollowOptions)) (*Report, error) {
	b.t.Helper()
	c, _ := b.gate.client()
	opt := FollowOptions{
		PushOptions: b.gate.options(b.cache), Open: func() (*Client, error) { return c, nil }, Over: b.over, Every: time.Millisecond,
		Passed: func(r *Report, err error) {
			if b.passes++; b.passes > len(b.steps) {
				b.t.Errorf("pass %d: %+v, %v", b.passes, r, err)
				return
			}
			b.steps[b.passes-1](r, err)
		},
	}
	opt.Derive.Records = []string{b.records}
	if change != nil {
		change(&opt)
	}
	r, err := Follow(b.t.Context(), opt)
	if b.passes != len(b.steps) {
		b.t.Errorf("%d passes, want %d", b.passes, len(b.steps))
	}
	return r, err
}

func mentions(recipe string) func(string) bool {
	return func(name string) bool { return strings.Contains(name, "sstate:"+recipe+":") }
}

// TestFollow: what is complete is published while the build goes on, nothing that is not, and all of it once.
func TestFollow(t *testing.T) {
	all := twoRecipes(t)
	b := newFollowedBuild(t, cacheOf(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	b.put(all, slices.DeleteFunc(keysOf(all.files), mentions("app"))...)
	// The siginfo of an archive is not there yet.
	b.put(all, objectName("app", "recipe_qa", "q2"))
	b.steps = []func(*Report, error){
		func(r *Report, err error) {
			if r.Stored != 6 || r.Objects != 6 || err != nil || len(b.gate.published) != 6 {
				t.Errorf("first pass: %+v, %v", r, err)
			}
			// All of app is there, but for its record.
			b.cache.files = all.files
			b.record("app", "recipe_qa", "q2", git("team/app"), rev2)
		},
		func(r *Report, err error) {
			if r.Stored != 8 || err != nil || b.gate.published[objectName("app", "populate_sysroot", "s2")] != nil {
				t.Errorf("second pass: %+v, %v", r, err)
			}
			b.record("app", "populate_sysroot", "s2", git("team/app"), rev2)
			close(b.over)
		},
		func(r *Report, err error) {
			if r.Stored != 12 || err != nil {
				t.Errorf("last pass: %+v, %v", r, err)
			}
		},
	}
	r, err := b.follow(nil)
	if err != nil || r.ExitCode() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	b.gate.matches(all.files)
	if len(r.Recipes) != 2 || r.Recipes[0].Stored != 6 || r.Recipes[1].Stored != 6 || r.Statements != 3 || r.Skipped != 0 {
		t.Errorf("report %+v", r)
	}
	sent := int64(0)
	for _, content := range all.files {
		sent += int64(len(content))
	}
	if b.gate.moved != sent || r.Bytes != sent {
		t.Errorf("%d bytes came, %d are reported, %d is all", b.gate.moved, r.Bytes, sent)
	}
}

// TestFollowWithoutRecord: what no record tells of is left for a push that can say more of it.
func TestFollowWithoutRecord(t *testing.T) {
	b := newFollowedBuild(t, twoRecipes(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	close(b.over)
	b.steps = []func(*Report, error){func(*Report, error) {}}
	r, err := b.follow(nil)
	if err != nil || r.Stored != 6 || r.ExitCode() != 0 || slices.ContainsFunc(keysOf(b.gate.published), mentions("app")) {
		t.Errorf("%+v, %v, %d published", r, err, len(b.gate.published))
	}
}

func keysOf(m map[string][]byte) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// TestFollowEmpty: a build that made nothing is none to complain of, but a directory of records that is not there is.
func TestFollowEmpty(t *testing.T) {
	b := newFollowedBuild(t, cacheOf(t))
	close(b.over)
	b.steps = []func(*Report, error){func(*Report, error) {}}
	if r, err := b.follow(nil); err != nil || r.ExitCode() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	b = newFollowedBuild(t, cacheOf(t))
	close(b.over)
	b.steps = []func(*Report, error){func(*Report, error) {}}
	if _, err := b.follow(func(o *FollowOptions) { o.Derive.Records[0] = filepath.Join(b.records, "none") }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no records: %v", err)
	}
	if _, err := b.follow(func(o *FollowOptions) { o.Derive.Records = nil }); err == nil || !strings.Contains(err.Error(), "--records") {
		t.Errorf("no records given: %v", err)
	}
}

// TestFollowFaults: a credential that ended and a gate that is away end a pass, and not the push.
func TestFollowFaults(t *testing.T) {
	b := newFollowedBuild(t, twoRecipes(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	b.record("app", "populate_sysroot", "s2", git("team/app"), rev2)
	away := true
	b.gate.fault = func(w http.ResponseWriter, _ *http.Request) bool {
		if away {
			refuse(w, http.StatusServiceUnavailable, "away", "")
		}
		return away
	}
	var signedIn error = errors.New("no token")
	b.steps = []func(*Report, error){
		func(r *Report, err error) {
			if err == nil || r.Stored != 0 || len(b.gate.requests) != 0 {
				t.Errorf("without a token: %+v, %v", r, err)
			}
			signedIn = nil
		},
		func(r *Report, err error) {
			if err == nil || r.Stored != 0 {
				t.Errorf("away: %+v, %v", r, err)
			}
			b.gate.mu.Lock()
			defer b.gate.mu.Unlock()
			away = false
		},
		func(r *Report, err error) {
			if err != nil || r.Stored != 12 {
				t.Errorf("back: %+v, %v", r, err)
			}
			close(b.over)
		},
		func(*Report, error) {},
	}
	c, _ := b.gate.client()
	r, err := b.follow(func(o *FollowOptions) { o.Open = func() (*Client, error) { return c, signedIn } })
	if err != nil || r.Stored != 12 || r.Skipped != 0 || r.ExitCode() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFollowRefused: what the gate does not take is offered again once, after the build.
func TestFollowRefused(t *testing.T) {
	b := newFollowedBuild(t, twoRecipes(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	commits := 0
	b.gate.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/commit") {
			return false
		}
		if commits++; commits <= 2 {
			refuse(w, http.StatusUnprocessableEntity, "the signer is not known", "")
		}
		return commits <= 2
	}
	b.gate.gaps = true
	b.steps = []func(*Report, error){
		func(r *Report, err error) {
			if err != nil || len(r.Refused) != 6 || r.Recipes[0].Refused != 6 {
				t.Errorf("first pass: %+v, %v", r, err)
			}
			b.record("app", "populate_sysroot", "s2", git("team/app"), rev2)
		},
		func(r *Report, err error) {
			if err != nil || len(r.Refused) != 12 || commits != 2 {
				t.Errorf("second pass: %+v, %v, %d commits", r, err, commits)
			}
			close(b.over)
		},
		func(*Report, error) {},
	}
	r, err := b.follow(nil)
	if err != nil || r.Stored != 12 || len(r.Refused) != 0 || r.Recipes[0].Refused+r.Recipes[1].Refused != 0 || r.ExitCode() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFollowYields: the last pass makes room for the push of the next build; none before does.
func TestFollowYields(t *testing.T) {
	b := newFollowedBuild(t, twoRecipes(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	yield := make(chan struct{})
	close(yield)
	hang := false
	b.gate.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang {
			// The server notices that the client goes away once the request is read.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		b.gate.serve(w, r)
	})
	b.steps = []func(*Report, error){
		func(r *Report, err error) {
			if err != nil || r.Stored != 6 {
				t.Errorf("first pass: %+v, %v", r, err)
			}
			b.record("app", "populate_sysroot", "s2", git("team/app"), rev2)
			hang = true
			close(b.over)
		},
		func(*Report, error) {},
	}
	if r, err := b.follow(func(o *FollowOptions) { o.Yield = yield }); !errors.Is(err, ErrYielded) || r.Stored != 6 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFollowEnds: it ends with its context, in a pause too.
func TestFollowEnds(t *testing.T) {
	b := newFollowedBuild(t, twoRecipes(t))
	b.record("lib", "populate_sysroot", "s1", git("pub/lib"), rev1)
	ctx, cancel := context.WithCancel(t.Context())
	c, _ := b.gate.client()
	opt := FollowOptions{
		PushOptions: b.gate.options(b.cache), Open: func() (*Client, error) { return c, nil }, Over: b.over, Every: time.Millisecond,
		Passed: func(*Report, error) { cancel() },
	}
	opt.Derive.Records = []string{b.records}
	if r, err := Follow(ctx, opt); !errors.Is(err, context.Canceled) || r.Stored != 6 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFollowInterval: a pass that reads for long makes the next one late, and errors do, up to a bound.
func TestFollowInterval(t *testing.T) {
	f := follow{FollowOptions: FollowOptions{Every: 10 * time.Second}}
	for _, tt := range []struct {
		reading  time.Duration
		failures int
		want     time.Duration
	}{
		{0, 0, 10 * time.Second},
		{time.Second, 0, 10 * time.Second},
		{20 * time.Second, 0, 3 * time.Minute},
		{0, 1, 20 * time.Second},
		{0, 1000, 5 * time.Minute},
		{2 * time.Minute, 3, 18 * time.Minute},
	} {
		if f.reading = tt.reading; f.interval(tt.failures) != tt.want {
			t.Errorf("after %v and %d failures: %v, want %v", tt.reading, tt.failures, f.interval(tt.failures), tt.want)
		}
	}
}

// TestTurn: one push has the turn. It is told that another waits, which then has it.
func TestTurn(t *testing.T) {
	dir := t.TempDir()
	first, err := TakeTurn(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a longer text", "short"} {
		if err := first.Note([]byte(text)); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, turnLock)); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	wanted := first.Wanted(t.Context())
	select {
	case <-wanted:
		t.Error("nobody waits")
	default:
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := TakeTurn(gone, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a turn that somebody else has: %v", err)
	}
	taken := make(chan *Turn)
	go func() {
		second, err := TakeTurn(t.Context(), dir)
		if err != nil {
			t.Error(err)
		}
		taken <- second
	}()
	<-wanted
	select {
	case <-taken:
		t.Error("two have the turn")
	default:
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := (<-taken).Close(); err != nil {
		t.Error(err)
	}
}

// TestTurnFiles: what somebody put in the place of a lock is neither waited for nor followed out of the directory.
func TestTurnFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, put := range map[string]func(path string) error{
		"a link":      func(path string) error { return os.Symlink(outside, path) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, turnLock)); err != nil {
			t.Fatal(err)
		}
		if _, err := TakeTurn(t.Context(), dir); err == nil {
			t.Errorf("%s is taken for a lock", name)
		}
		if _, err := os.Stat(outside); err == nil {
			t.Errorf("%s: a file was made outside", name)
		}
	}
}
