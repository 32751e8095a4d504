package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
)

func twoRecipes(t testing.TB) *memCache {
	return cacheOf(t, slices.Concat(chain("lib", "1", git("pub/lib"), rev1), chain("app", "2", git("team/app"), rev2, "lib:populate_sysroot=s1"))...)
}

func mustPush(t *testing.T, c *Client, opt PushOptions) *Report {
	t.Helper()
	r, err := c.Push(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPush(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.Stored != 12 || r.ExitCode() != 0 || r.Statements != 2 || len(r.Refused)+len(r.Underived) != 0 {
		t.Errorf("report %+v", r)
	}
	g.matches(cache.files)
	i := slices.IndexFunc(g.statements, func(s *provenance.Statement) bool { return s.Recipe == "app" })
	s := g.statements[i]
	if short(s.Sources) != "team/app@2222" || short(s.Inputs) != "pub/lib@1111 team/app@2222" || len(s.Artifacts) != 1 {
		t.Errorf("statement %+v", s)
	}

	// Once more: nothing is read, sent or signed.
	opened := len(cache.opened)
	before := g.moved
	again := mustPush(t, c, g.options(cache))
	if again.Skipped != 12 || again.Stored != 0 || g.moved != before || len(g.statements) != 2 || len(cache.opened) != opened {
		t.Errorf("second push %+v", again)
	}

	// And signed again, on demand.
	opt := g.options(cache)
	opt.Again = true
	if r := mustPush(t, c, opt); r.Confirmed != 12 || g.moved != before {
		t.Errorf("push again %+v", r)
	}
}

func TestPushPartialPresence(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	kept := objectName("app", "recipe_qa", "q2")
	g.published[kept] = []byte("other bytes")
	hidden := objectName("lib", "populate_sysroot", "s1")
	g.published[hidden], g.hidden[hidden], g.hidden[kept] = cache.files[hidden], true, true
	seen := objectName("lib", "recipe_qa", "q1")
	g.published[seen] = cache.files[seen]
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.Stored != 9 || r.Kept != 1 || r.Confirmed != 1 || r.Skipped != 1 || r.ExitCode() != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestImport(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	g.mirror = cache.files
	c, _ := g.client()
	opt := g.options(cache)
	opt.InPlace = true
	if r := mustPush(t, c, opt); r.Stored != 12 || r.Bytes != 0 || g.moved != 0 {
		t.Errorf("report %+v", r)
	}
	g.matches(cache.files)
}

func TestPlan(t *testing.T) {
	r, err := Plan(t.Context(), PushOptions{Cache: twoRecipes(t)})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Plan) != 2 || !r.DryRun {
		t.Errorf("report %+v", r)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"built from git+git.example.com/team/app@" + rev2, "\napp: 6 objects, ", "\nlib: 6 objects, ", " B, 1 sources would be pushed\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text has no %q: %s", want, text.String())
		}
	}
}

// downloads is a cache after a build that used the gate: lib was taken from there, with the siginfo files of the tasks that were
// needed, and app was built with it.
func downloads(t *testing.T) *memCache {
	lib := task{recipe: "lib", name: "populate_sysroot", hash: "s1", payload: true, deps: []string{"lib:install=i1"}}
	return cacheOf(t, append(chain("app", "2", git("team/app"), rev2, "lib:populate_sysroot=s1"), lib)...)
}

// TestPushWhatWasDownloaded: what the gate has is no fault, whether or not its sources can be derived; what it lacks is.
func TestPushWhatWasDownloaded(t *testing.T) {
	lib := objectName("lib", "populate_sysroot", "s1")
	for _, tt := range []struct {
		name               string
		published, hidden  []string
		again              bool
		skipped, underived int
		note               bool
	}{
		{"all", []string{lib, lib + ".siginfo"}, nil, false, 2, 0, false},
		{"all, again", []string{lib, lib + ".siginfo"}, nil, true, 2, 0, false},
		{"the archive alone", []string{lib}, nil, false, 1, 1, false},
		{"nothing", nil, nil, false, 0, 2, true},
		{"what the writer may not see", []string{lib, lib + ".siginfo"}, []string{lib, lib + ".siginfo"}, false, 0, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, cache := newFakeGate(t), downloads(t)
			g.gaps = true
			for _, name := range tt.published {
				g.published[name] = cache.files[name]
			}
			for _, name := range tt.hidden {
				g.hidden[name] = true
			}
			c, _ := g.client()
			opt := g.options(cache)
			opt.Again = tt.again
			r := mustPush(t, c, opt)
			code := 0
			if tt.underived > 0 {
				code = 3
			}
			if r.Stored != 6 || r.Skipped != tt.skipped || len(r.Underived) != tt.underived || r.ExitCode() != code {
				t.Errorf("report %+v", r)
			}
			if noted := len(r.Notes) > 0; noted != tt.note {
				t.Errorf("notes %v", r.Notes)
			}
			recordedOnly(t, g, "app", "team/app@2222", cache.files[lib])
		})
	}
}

// recordedOnly wants the one statement about recipe to list these transitive sources and one recorded input with these
// bytes.
func recordedOnly(t *testing.T, g *fakeGate, recipe, sources string, content []byte) {
	t.Helper()
	i := slices.IndexFunc(g.statements, func(s *provenance.Statement) bool { return s.Recipe == recipe })
	if i < 0 {
		t.Fatalf("no statement about %s", recipe)
	}
	s := g.statements[i]
	if short(s.Inputs) != sources {
		t.Errorf("inputs of %s: %s, want %s", recipe, short(s.Inputs), sources)
	}
	left := slices.DeleteFunc(slices.Clone(s.Artifacts), func(d provenance.Dependency) bool { return !d.Recorded })
	if len(left) != 1 || left[0].Digest.Hex() != sum(content) {
		t.Errorf("recorded inputs of %s: %+v", recipe, left)
	}
}

// TestPushLeavesInputsToTheRecord: every build that rests on an input of unknown sources says so, since the gate may keep
// other bytes for what lies between.
func TestPushLeavesInputsToTheRecord(t *testing.T) {
	g, cache := newFakeGate(t), downloads(t)
	for name, content := range cacheOf(t, chain("top", "3", git("team/top"), rev1, "app:populate_sysroot=s2")...).files {
		cache.files[name] = content
	}
	lib := objectName("lib", "populate_sysroot", "s1")
	g.published[lib], g.published[lib+".siginfo"] = cache.files[lib], cache.files[lib+".siginfo"]
	c, _ := g.client()
	if r := mustPush(t, c, g.options(cache)); r.ExitCode() != 0 || r.Stored != 12 {
		t.Errorf("report %+v", r)
	}
	recordedOnly(t, g, "app", "team/app@2222", cache.files[lib])
	recordedOnly(t, g, "top", "team/app@2222 team/top@1111", cache.files[lib])
}

// TestPushCannotNameAnInput: an input that is to be left to the record, and cannot be read, hides what was built with it.
func TestPushCannotNameAnInput(t *testing.T) {
	g, cache := newFakeGate(t), downloads(t)
	lib := objectName("lib", "populate_sysroot", "s1")
	g.published[lib], g.published[lib+".siginfo"] = cache.files[lib], cache.files[lib+".siginfo"]
	cache.now = func(name string, _ int, content []byte) []byte {
		if name == lib {
			return nil
		}
		return content
	}
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if want := "team/app@2222 ?not all build-time inputs could be named"; short(g.statements[0].Inputs) != want || len(g.statements[0].Artifacts) != 0 {
		t.Errorf("statement %+v", g.statements[0])
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Reason, "cannot be read") {
		t.Errorf("notes %v", r.Notes)
	}
}

// TestPushManyInputs: where a statement cannot name all inputs that are left to the record, it hides.
func TestPushManyInputs(t *testing.T) {
	var tasks []task
	var uses []string
	for i := range provenance.MaxDependencies {
		tasks = append(tasks, task{recipe: fmt.Sprint("lib", i), name: "deploy", hash: fmt.Sprint(i), payload: true, noSiginfo: true})
		uses = append(uses, fmt.Sprintf("lib%d:deploy=%d", i, i))
	}
	g, cache := newFakeGate(t), cacheOf(t, append(tasks, chain("app", "2", git("team/app"), rev2, uses...)...)...)
	g.gaps = true
	for name, content := range cache.files {
		if strings.Contains(name, ":lib") {
			g.published[name] = content
		}
	}
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	s := g.statements[0]
	if want := "team/app@2222 ?not all build-time inputs could be named"; short(s.Inputs) != want || len(s.Artifacts) != provenance.MaxDependencies-3 {
		t.Errorf("%d artifacts, inputs %s", len(s.Artifacts), short(s.Inputs))
	}
	if r.ExitCode() != 0 || len(r.Notes) != 1 {
		t.Errorf("report %+v", r)
	}
}

// TestNothingToPush: a cache without objects is a mistake, and the report says what was there instead.
func TestNothingToPush(t *testing.T) {
	g := newFakeGate(t)
	c, _ := g.client()
	for _, inPlace := range []bool{false, true} {
		opt := g.options(&memCache{files: map[string][]byte{"README": []byte("x")}})
		opt.InPlace = inPlace
		if r, err := c.Push(t.Context(), opt); !errors.Is(err, ErrNoObjects) || r == nil || len(r.Ignored) != 1 {
			t.Errorf("push: %v, %+v", err, r)
		}
		if r, err := Plan(t.Context(), opt); !errors.Is(err, ErrNoObjects) || r == nil || len(r.Ignored) != 1 {
			t.Errorf("plan: %v, %+v", err, r)
		}
	}
	if len(g.requests) > 0 {
		t.Errorf("the gate was asked: %v", g.requests)
	}
}

// TestPlanOfDownloads: a dry run says what it cannot know.
func TestPlanOfDownloads(t *testing.T) {
	r, err := Plan(t.Context(), PushOptions{Cache: downloads(t)})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"note: a dry run does not ask the gate: what could not be derived may be there already", "2 could not be derived",
		"  and by what the gate has on record of " + objectName("lib", "populate_sysroot", "s1"),
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
}

// TestPushFaults has the gate or the cache fail in the middle, and says what must then be true.
func TestPushFaults(t *testing.T) {
	once := func(n int, match func(r *http.Request) bool, do func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if n == 0 || !match(r) {
				return false
			}
			n--
			do(w)
			return true
		}
	}
	method := func(m, suffix string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == m && strings.HasSuffix(r.URL.Path, suffix) }
	}
	unavailable := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "7")
		refuse(w, http.StatusServiceUnavailable, "busy", "wait")
	}
	refused := func(w http.ResponseWriter) { refuse(w, 422, "source is not known\x1b[31m", "tell the gate's operator") }
	tests := []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		check func(t *testing.T, r *Report, err error, w *waits)
	}{
		{"503 at every kind of request", func() func(http.ResponseWriter, *http.Request) bool {
			seen := map[string]int{}
			return func(w http.ResponseWriter, r *http.Request) bool {
				if seen[r.Method+r.URL.Path]++; seen[r.Method+r.URL.Path] == 1 {
					unavailable(w)
					return true
				}
				return false
			}
		}(), func(t *testing.T, r *Report, err error, w *waits) {
			if err != nil || r.Stored != 12 {
				t.Errorf("%v, %+v", err, r)
			}
			if len(w.list) == 0 || slices.Min(w.list) < 7*time.Second {
				t.Errorf("Retry-After was not heeded: %v", w.list)
			}
		}},
		{"503 for ever", func(w http.ResponseWriter, r *http.Request) bool { unavailable(w); return true }, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil || !strings.Contains(err.Error(), "gave up after 6 attempts") || !strings.Contains(err.Error(), "(wait)") {
				t.Errorf("%v", err)
			}
		}},
		{"one statement is refused", once(1, method("POST", "/commit"), refused), func(t *testing.T, r *Report, err error, w *waits) {
			if err != nil || r.Stored != 6 || len(r.Refused) != 6 || r.ExitCode() != 1 {
				t.Errorf("%v, %+v", err, r)
			}
			if want := "commit upload: the gate answered 422: source is not known [31m (tell the gate's operator)"; r.Refused[0].Reason != want {
				t.Errorf("reason %q", r.Refused[0].Reason)
			}
		}},
		{"the digest is refused", once(1, method("PUT", ""), func(w http.ResponseWriter) {
			refuse(w, 422, "another digest", "")
		}), func(t *testing.T, r *Report, err error, w *waits) {
			if err != nil || len(r.Refused) == 0 || r.ExitCode() != 1 {
				t.Errorf("%v, %+v", err, r)
			}
		}},
		{"a wrong offset", once(2, method("PUT", ""), func(w http.ResponseWriter) {
			refuse(w, http.StatusConflict, "3 bytes are held", "")
		}), func(t *testing.T, r *Report, err error, w *waits) {
			if err != nil || r.Stored != 12 {
				t.Errorf("%v, %+v", err, r)
			}
		}},
		{"an offset without sense", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			w.Header().Set("Upload-Offset", "999999999")
			w.WriteHeader(204)
			return true
		}, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil {
				t.Errorf("no error: %+v", r)
			}
		}},
		{"the token is refused", func(w http.ResponseWriter, r *http.Request) bool {
			refuse(w, 401, "expired", "")
			return true
		}, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil || len(w.list) != 0 || !strings.Contains(err.Error(), "lychgate login") {
				t.Errorf("%v after %v", err, w.list)
			}
		}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "https://evil.example.com/")
			w.WriteHeader(307)
			return true
		}, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil || !strings.Contains(err.Error(), "redirects") {
				t.Errorf("%v", err)
			}
		}},
		{"an endless error", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(400)
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 8<<20))
			return true
		}, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil || len(err.Error()) > 2000 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
		}},
		{"an answer that is no answer", func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(`{"present":[true],"Present":[true]}`))
			return true
		}, func(t *testing.T, r *Report, err error, w *waits) {
			if err == nil || !strings.Contains(err.Error(), "not understood") {
				t.Errorf("%v", err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, cache := newFakeGate(t), twoRecipes(t)
			g.fault, g.gaps = tt.fault, true
			c, w := g.client()
			r, err := c.Push(t.Context(), g.options(cache))
			tt.check(t, r, err, w)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestUploadResumes cuts connections at random places, on the way there and back.
func TestUploadResumes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(random.Uint32())
	}
	g, cache := newFakeGate(t), twoRecipes(t)
	name := objectName("app", "populate_sysroot", "s2")
	cache.files[name] = big
	cuts := 24
	cut := map[string]int{} // by request, so that no request meets more faults than a client must bear
	g.fault = func(w http.ResponseWriter, r *http.Request) bool {
		what := r.Method + r.URL.Path
		if cuts == 0 || cut[what] == 4 || r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/commit") || r.Method == http.MethodDelete {
			return false
		}
		cut[what]++
		cuts--
		switch {
		case r.Method == http.MethodPut && cuts%2 == 0:
			g.swallow(r, int64(random.IntN(1<<20)))
		case r.Method == http.MethodPut:
			g.mu.Unlock()
			g.stage(discard{}, r, strings.Split(r.URL.Path, "/")[3], strings.Split(r.URL.Path, "/")[4])
			g.mu.Lock()
		}
		panic(http.ErrAbortHandler)
	}
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.ExitCode() != 0 || cuts > 12 {
		t.Errorf("%d of 24 cuts left, report %+v", cuts, r)
	}
	g.matches(cache.files)
}

// swallow stages some bytes of a request, as if the connection were cut then.
func (g *fakeGate) swallow(r *http.Request, n int64) {
	parts := strings.Split(r.URL.Path, "/")
	u := g.uploads[parts[3]]
	i := int(parts[4][0] - '0')
	if r.Header.Get("Upload-Offset") != strconv.Itoa(len(u.held[i])) {
		return
	}
	some, _ := io.ReadAll(io.LimitReader(r.Body, n))
	u.held[i] = append(u.held[i], some...)
}

// discard takes an answer that never arrives.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// TestLostCommit has the gate commit and its answer vanish.
func TestLostCommit(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	lost := 1
	g.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if lost == 0 || !strings.HasSuffix(r.URL.Path, "/commit") {
			return false
		}
		lost--
		g.mu.Unlock()
		g.commit(discard{}, r, strings.Split(r.URL.Path, "/")[3])
		g.mu.Lock()
		panic(http.ErrAbortHandler)
	}
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.Stored != 6 || r.Confirmed != 6 || r.ExitCode() != 0 {
		t.Errorf("report %+v", r)
	}
	g.matches(cache.files)
}

// TestChangingFiles has objects change between being announced and being sent.
func TestChangingFiles(t *testing.T) {
	victim := objectName("app", "populate_sysroot", "s2")
	tests := []struct {
		name    string
		now     func(nth int, content []byte) []byte
		stored  int
		refused int
	}{
		{"shrinks once", func(nth int, b []byte) []byte {
			if nth == 2 {
				return b[:len(b)/2]
			}
			return b
		}, 12, 0},
		{"other bytes each time", func(nth int, b []byte) []byte { return append(slices.Clone(b[:len(b)-1]), byte(nth)) }, 6, 6},
		{"grows", func(nth int, b []byte) []byte {
			if nth > 1 {
				return append(slices.Clone(b), "more"...)
			}
			return b
		}, 12, 0},
		{"vanishes", func(nth int, b []byte) []byte {
			if nth > 1 {
				return nil
			}
			return b
		}, 11, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, cache := newFakeGate(t), twoRecipes(t)
			cache.now = func(name string, nth int, content []byte) []byte {
				if name != victim {
					return content
				}
				return tt.now(nth, content)
			}
			c, _ := g.client()
			r := mustPush(t, c, g.options(cache))
			if r.Stored != tt.stored || len(r.Refused) != tt.refused {
				t.Errorf("stored %d, refused %v", r.Stored, r.Refused)
			}
			for id, u := range g.uploads {
				if u != nil {
					t.Errorf("upload %s was left open", id)
				}
			}
		})
	}
}

func TestPushCancelled(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	ctx, cancel := context.WithCancel(t.Context())
	g.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			cancel()
		}
		return false
	}
	c, _ := g.client()
	if r, err := c.Push(ctx, g.options(cache)); !errors.Is(err, context.Canceled) || r == nil {
		t.Errorf("%v, %v", r, err)
	}
}

func TestPushSample(t *testing.T) {
	dir := sampleDir(t)
	if dir == "" {
		return
	}
	cache, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	g := newFakeGate(t)
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.Stored != 127 || r.ExitCode() != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "gate", "http://gate.example.com", "ftp://gate.example.com", "https://u:p@gate.example.com", "https://gate.example.com/?x=1", "http://127.0.0.1.evil.example/"} {
		if _, err := New(Config{Gate: bad, Token: authn.NewSecret("x")}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	for _, good := range []string{"https://gate.example.com", "https://gate.example.com:8443/below", "http://127.0.0.1:80", "http://[::1]:80", "http://localhost"} {
		if _, err := New(Config{Gate: good}); err != nil {
			t.Error(err)
		}
	}
	if _, err := New(Config{Gate: "https://g", CAFile: "/nonexistent"}); err == nil {
		t.Error("a missing CA file is accepted")
	}
}

// TestTokenOfAnotherKind: what cannot be a token is not sent, nor tried again.
func TestTokenOfAnotherKind(t *testing.T) {
	g := newFakeGate(t)
	c, waits := g.client()
	for _, token := range []string{"two words", "a\nb", "a\x00", "caf\u00e9"} {
		_, err := c.As(authn.NewSecret(token)).Whoami(t.Context())
		if err == nil || !strings.Contains(err.Error(), "is it the right file?") || strings.Contains(err.Error(), token) || len(waits.list) > 0 {
			t.Errorf("%q: %v, waited %v", token, err, waits.list)
		}
	}
}

func TestWhoami(t *testing.T) {
	g := newFakeGate(t)
	c, _ := g.client()
	w, err := c.Whoami(t.Context())
	if err != nil || w.Name != "ci" {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestExtraFile(t *testing.T) {
	got, err := ParseExtra("# submodules\napp git://git.example.com/x/sub;protocol=https " + rev1 + "\n\nlib -\n")
	if err != nil {
		t.Fatal(err)
	}
	if lib, ok := got["lib"]; !ok || len(lib) != 0 || short(got["app"]) != "x/sub@1111" {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"app", "app a b c", "app - x", "app git://"} {
		if _, err := ParseExtra(bad); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestOneBadObject has the gate refuse an announcement because of one object: only that one is refused in the end.
func TestOneBadObject(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	bad := objectName("lib", "populate_sysroot", "s1")
	g.gaps = true
	g.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/uploads") {
			return false
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte(bad+`"`)) {
			return false
		}
		refuse(w, 400, "object 3 has 99 bytes; 1 to 50 are allowed", "")
		return true
	}
	c, _ := g.client()
	r := mustPush(t, c, g.options(cache))
	if r.Stored != 11 || len(r.Refused) != 1 || r.Refused[0].Name != bad {
		t.Errorf("report %+v", r)
	}
}

func TestProgressLines(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := NewLines(&out, time.Second, func() time.Time { return now })
	p.Start("push", 4096, "")
	p.Add(1)
	now = now.Add(time.Second)
	p.Add(2047)
	p.Add(1)
	p.Finish()
	p.Start("read", 3, "tasks")
	now = now.Add(time.Second)
	p.Add(2)
	if want := "push: 2.0 KiB of 4.0 KiB\nread: 2 tasks of 3 tasks\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	bar := NewBar(&out)
	bar.Start("push", 10, "")
	bar.Add(10)
	bar.Finish()
}

func TestReportText(t *testing.T) {
	r := &Report{
		Objects: 9, Builds: 2, Stored: 3, Kept: 1, Bytes: 3 << 20, Elapsed: 1500 * time.Millisecond,
		Refused:   []Problem{{"app", "a", "no"}, {"app", "b", "no"}, {"app", "c", "no"}, {"app", "d", "no"}, {"lib\x1b", "e", "other"}},
		Underived: []Problem{{"x", "y", "why"}},
		Notes:     []Problem{{"a", "", "none"}, {"b", "", "none"}, {"c", "", "one"}},
		Ignored:   []Ignored{{"odd", 2, "z"}},
	}
	var text, machine bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"refused: app: no\n  a\n  b\n  c\n  and 1 more\n", "note: none\n  a\n  b\nnote: c: one\n", "\"lib\\x1b\"", "could not be derived, and was not pushed: x: why", "ignored 2 files: odd (z)", "3.0 MiB sent in 1.5s"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	if err := r.WriteJSON(&machine); err != nil || !strings.Contains(machine.String(), `"stored": 3`) {
		t.Errorf("%v: %s", err, machine.String())
	}
}
