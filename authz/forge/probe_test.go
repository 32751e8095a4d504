package forge_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

const probeName = "git.example.com"

// backend is git's own HTTP server with Basic authentication before it, by tokens.
type backend struct {
	t        *testing.T
	dir      string
	git      *cgi.Handler
	server   *httptest.Server
	held     *authn.HeldTokens
	pass     *authn.Passthrough
	provider *forge.Probe

	mu      sync.Mutex                 // guards what follows
	tokens  map[string]string          // token -> user
	ids     map[string]string          // user -> id
	readers map[string]map[string]bool // path -> users; "*" is everybody with a token, "" everybody
	fail    int                        // -1: no
	asked   []http.Header
	spoil   func(http.ResponseWriter, *http.Request) bool
}

var (
	_ forgetest.World     = (*backend)(nil)
	_ forgetest.Breaker   = (*backend)(nil)
	_ forgetest.Blocker   = (*backend)(nil)
	_ forgetest.Pathbound = (*backend)(nil)
)

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{t: t, dir: t.TempDir(), tokens: map[string]string{}, ids: map[string]string{}, readers: map[string]map[string]bool{}, fail: -1}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	b.git = &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/git", Stderr: io.Discard,
		Env: []string{
			"GIT_PROJECT_ROOT=" + b.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + b.dir,
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	}
	b.server = httptest.NewServer(b)
	t.Cleanup(b.server.Close)
	b.held, err = authn.NewHeldTokens(authn.NewSecret(strings.Repeat("k", 32)), 100, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.AddRepo("everybody", true)
	b.tokens["gate-token"] = "gate"
	b.provider = b.ask(forge.ProbeConfig{Token: func() (authn.Secret, error) { return authn.NewSecret("gate-token"), nil }})
	b.pass, err = authn.NewPassthrough(authn.PassthroughConfig{Forge: probeName, Held: b.held, Verifier: b.provider})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *backend) ask(c forge.ProbeConfig) *forge.Probe {
	b.t.Helper()
	c.Name, c.Hosts, c.Held, c.Check = probeName, []string{probeName}, b.held, "everybody"
	if c.URL == "" {
		c.URL = b.server.URL + "/git"
	}
	p, err := forge.NewProbe(c)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func TestProbe(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return newBackend(t) })
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.asked = append(b.asked, r.Header)
	fail, spoil := b.fail, b.spoil
	user, known := "", false
	if _, token, ok := r.BasicAuth(); ok {
		user, known = b.tokens[token]
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/git/"), ".git/")
	readers := b.readers[path]
	may := readers[""] || known && (readers["*"] || readers[user] || user == "gate" && readers != nil)
	b.mu.Unlock()
	switch {
	case fail == 0:
		panic(http.ErrAbortHandler)
	case fail > 0:
		w.Header().Set("Location", "/git/everybody.git/info/refs?service=git-upload-pack")
		w.WriteHeader(fail)
	case spoil != nil && spoil(w, r):
	case !known && !may:
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		w.WriteHeader(http.StatusUnauthorized)
	case !may:
		w.WriteHeader(http.StatusNotFound)
	default:
		b.git.ServeHTTP(w, r)
	}
}

func (b *backend) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// named is the provider with the names that the administrator knows the holders of tokens by.
type named struct {
	*forge.Probe
	b *backend
}

func (n named) UserByName(ctx context.Context, name string) (forge.User, error) {
	n.b.mu.Lock()
	id := n.b.ids[name]
	n.b.mu.Unlock()
	if id == "" {
		return n.Probe.UserByName(ctx, name)
	}
	return n.User(ctx, id)
}

func (n named) User(ctx context.Context, id string) (forge.User, error) {
	u, err := n.Probe.User(ctx, id)
	n.b.change(func() {
		for name, its := range n.b.ids {
			if its == id {
				u.Name = name
			}
		}
	})
	return u, err
}

func (b *backend) Provider() forge.Provider { return named{b.provider, b} }
func (b *backend) Name() string             { return probeName }
func (b *backend) Host() string             { return probeName }
func (b *backend) Settle()                  {}
func (b *backend) Pathbound()               {}
func (b *backend) Path(name string) string  { return "team/" + name }

// AddUser signs in with a new token.
func (b *backend) AddUser(name string) {
	b.t.Helper()
	token := rand.Text()
	b.change(func() { b.tokens[token] = name })
	p, err := b.pass.Authenticate(b.t.Context(), authn.Credential{Token: authn.NewSecret(token)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.change(func() { b.ids[name] = p.ID })
}

// AddRepo adds an empty repository. A public one is for everybody with an account.
func (b *backend) AddRepo(path string, public bool) {
	b.t.Helper()
	dir := filepath.Join(b.dir, path+".git")
	if out, err := exec.CommandContext(b.t.Context(), "git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	b.change(func() { b.readers[path] = map[string]bool{"*": public} })
}
func (b *backend) Grant(user, path string)    { b.change(func() { b.readers[path][user] = true }) }
func (b *backend) Withdraw(user, path string) { b.change(func() { delete(b.readers[path], user) }) }

func (b *backend) Rename(from, to string) {
	b.t.Helper()
	if err := os.Rename(filepath.Join(b.dir, from+".git"), filepath.Join(b.dir, to+".git")); err != nil {
		b.t.Fatal(err)
	}
	b.change(func() { b.readers[to] = b.readers[from]; delete(b.readers, from) })
}

func (b *backend) Delete(path string) {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, path+".git")); err != nil {
		b.t.Fatal(err)
	}
	b.change(func() { delete(b.readers, path) })
}

// Block makes the forge forget a user's token, or know it again.
func (b *backend) Block(user string, blocked bool) {
	b.t.Helper()
	token, _ := b.held.TokenOf(b.ids[user])
	b.change(func() {
		if delete(b.tokens, token.Reveal()); !blocked {
			b.tokens[token.Reveal()] = user
		}
	})
}

func (b *backend) Fail(status int) { b.change(func() { b.fail = status }) }
func (b *backend) Heal()           { b.change(func() { b.fail = -1 }) }
func (b *backend) Faults() []int {
	return []int{0, 201, 204, 301, 302, 307, 400, 429, 500, 502, 503, 504}
}

// TestProbeAnswersThatAreNone: what is not a git server's word is no answer: a page to sign in, a limit, half a message.
func TestProbeAnswersThatAreNone(t *testing.T) {
	b := newBackend(t)
	b.AddUser("alice")
	b.AddRepo("lib", true)
	page := func(contentType, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, body)
			return true
		}
	}
	status := func(code int, header, value string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set(header, value)
			w.WriteHeader(code)
			return true
		}
	}
	const git = "application/x-git-upload-pack-advertisement"
	for what, spoil := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"a page to sign in":       page("text/html; charset=utf-8", "<html>Sign in</html>"),
		"a page with git's type":  page(git, "<html>Sign in to go on</html>"),
		"git's words as text":     page("text/plain", "001e# service=git-upload-pack\n0000"),
		"another service":         page(git, "001f# service=git-receive-pack\n0000"),
		"nothing":                 page(git, ""),
		"half a line":             page(git, "001e# serv"),
		"a limit of questions":    status(403, "X-RateLimit-Remaining", "0"),
		"a limit with a time":     status(403, "Retry-After", "60"),
		"unauthorized for a time": status(401, "Retry-After", "60"),
	} {
		t.Run(what, func(t *testing.T) {
			b.change(func() { b.spoil = spoil })
			repos := []forge.Repo{{Forge: probeName, ID: "lib"}}
			if facts, err := b.provider.Access(t.Context(), authn.Principal{Forge: probeName, ID: b.ids["alice"]}, repos); err == nil {
				t.Errorf("access: %+v", facts)
			}
			if u, err := b.provider.User(t.Context(), b.ids["alice"]); err == nil {
				t.Errorf("user: %+v", u)
			}
			if err := b.provider.VerifyToken(t.Context(), authn.NewSecret("garbage")); err == nil || errors.Is(err, authn.ErrNobody) {
				t.Errorf("a token: %v", err)
			}
		})
	}
	b.change(func() { b.spoil = nil })
	if got := access(t, b.provider, b.ids["alice"], "lib"); got != forge.Read {
		t.Errorf("the git server itself: %s", got)
	}
	// What answers in the first version of the protocol, with all refs, is a git server too.
	b.change(func() { b.spoil = page(git, "001e# service=git-upload-pack\n0000009e0000 capabilities^{}") })
	if got := access(t, b.provider, b.ids["alice"], "lib"); got != forge.Read {
		t.Errorf("an old git server: %s", got)
	}
}

// TestProbeCheckThatIsOpen: where garbage may read Check, nobody is taken for somebody.
func TestProbeCheckThatIsOpen(t *testing.T) {
	b := newBackend(t)
	b.change(func() { b.readers["everybody"][""] = true })
	for _, token := range []string{"garbage", "gate-token"} {
		p, err := b.pass.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret(token)})
		if err == nil || errors.Is(err, authn.ErrRefused) {
			t.Errorf("%s is %+v, %v", token, p, err)
		}
	}
	if findings := b.provider.Check(t.Context(), ""); len(findings) != 1 || findings[0].Health != forge.Broken || findings[0].Hint == "" {
		t.Errorf("%+v", findings)
	}
	b.change(func() { delete(b.readers["everybody"], "") })
	if p, err := b.pass.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret("garbage")}); !errors.Is(err, authn.ErrRefused) {
		t.Errorf("garbage is %+v, %v", p, err)
	}
	if _, err := b.pass.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret("gate-token")}); err != nil {
		t.Error(err)
	}
}

// TestProbeShowsTokensToTheForgeAlone: no path and no redirect brings a token to another server, nor to another place at this one.
func TestProbeShowsTokensToTheForgeAlone(t *testing.T) {
	b := newBackend(t)
	b.AddUser("alice")
	stolen := make(chan string, 100)
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen <- r.URL.String() + " " + r.Header.Get("Authorization")
	}))
	t.Cleanup(thief.Close)
	host := strings.TrimPrefix(thief.URL, "http://")
	alice := authn.Principal{Forge: probeName, ID: b.ids["alice"]}
	for _, id := range []string{
		thief.URL, thief.URL + "/x", "//" + host + "/x", "@" + host + "/x", "x@" + host, ":" + host, `\\` + host, "..//" + host, "../../x", "x/../y", "./x", "x//y",
		"x?y=" + host, "x#y", "x%2f..%2fy", "x;y", "x\r\nHost: " + host, "x y", "", ".", "..", "x/", "/x", "x\x00",
	} {
		facts, err := b.provider.Access(t.Context(), alice, []forge.Repo{{Forge: probeName, ID: id}})
		if err == nil && facts[0].Access == forge.Read {
			t.Errorf("%q may be read", id)
		}
	}
	for _, l := range []source.Locator{{Host: host, Path: "x"}, {Host: probeName + "." + host, Path: "x"}} {
		if r, owns, err := b.provider.Resolve(t.Context(), l); owns || err != nil {
			t.Errorf("%s: %s, %v", l, r, err)
		}
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		b.change(func() {
			b.spoil = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, thief.URL+"/x", status)
				return true
			}
		})
		if facts, err := b.provider.Access(t.Context(), alice, []forge.Repo{{Forge: probeName, ID: "x"}}); err == nil {
			t.Errorf("%d: %+v", status, facts)
		}
	}
	select {
	case what := <-stolen:
		t.Errorf("the thief got %s", what)
	default:
	}
}

// TestProbeMixesNoUsers: what the forge sets as a cookie for one is not sent with the next one's token.
func TestProbeMixesNoUsers(t *testing.T) {
	b := newBackend(t)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := b.ask(forge.ProbeConfig{HTTP: &http.Client{Jar: jar}})
	b.AddUser("alice")
	b.AddUser("bob")
	b.AddRepo("lib", false)
	b.Grant("alice", "lib")
	b.change(func() {
		b.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "x", Path: "/"})
			return false
		}
		b.asked = nil
	})
	if got := access(t, p, b.ids["alice"], "lib"); got != forge.Read {
		t.Errorf("alice: %s", got)
	}
	if got := access(t, p, b.ids["bob"], "lib"); got != forge.None {
		t.Errorf("bob: %s", got)
	}
	for _, h := range b.asked {
		if h.Get("Cookie") != "" {
			t.Errorf("a cookie was sent: %v", h["Cookie"])
		}
	}
}

// TestProbeTokenThatIsGone: a token that is not held any more is unknown, neither yes nor no.
func TestProbeTokenThatIsGone(t *testing.T) {
	b := newBackend(t)
	b.AddRepo("lib", true)
	for _, id := range []string{strings.Repeat("0", 64), "", "alice"} {
		if got := access(t, b.provider, id, "lib"); got != forge.Unknown {
			t.Errorf("%q: %s", id, got)
		}
		if u, err := b.provider.User(t.Context(), id); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%q: %+v, %v", id, u, err)
		}
	}
}

// TestProbeOwnTokenThatFails: that the gate's token is worth nothing does not mean that there is no repository.
func TestProbeOwnTokenThatFails(t *testing.T) {
	b := newBackend(t)
	b.AddRepo("lib", true)
	b.change(func() { delete(b.tokens, "gate-token") })
	r, owns, err := b.provider.Resolve(t.Context(), source.Locator{Host: probeName, Path: "lib"})
	if !owns || err == nil || errors.Is(err, forge.ErrNoRepo) || !strings.Contains(err.Error(), "renew") {
		t.Errorf("%s, owns %t, %v", r, owns, err)
	}
	findings := b.provider.Check(t.Context(), "")
	if !slices.ContainsFunc(findings, func(f forge.Finding) bool { return f.What == "token" && f.Health == forge.Broken }) {
		t.Errorf("%+v", findings)
	}
}

// TestProbeAsksSideBySide: many repositories are asked about at once, each answer goes to its own, and one that fails spoils no other.
func TestProbeAsksSideBySide(t *testing.T) {
	b := newBackend(t)
	b.AddUser("alice")
	b.change(func() {
		b.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.Contains(r.URL.Path, "/yes"):
				w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
				io.WriteString(w, "000eversion 2\n0000")
			case strings.Contains(r.URL.Path, "/no"):
				w.WriteHeader(http.StatusForbidden)
			default:
				w.WriteHeader(http.StatusBadGateway)
			}
			return true
		}
	})
	var repos []forge.Repo
	want := map[string]forge.Access{"yes": forge.Read, "no": forge.None, "broken": forge.Unknown}
	for i := range 60 {
		repos = append(repos, forge.Repo{Forge: probeName, ID: fmt.Sprintf("%s-%d", []string{"yes", "no", "broken"}[i%3], i)})
	}
	facts, err := b.provider.Access(t.Context(), authn.Principal{Forge: probeName, ID: b.ids["alice"]}, repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range facts {
		kind, _, _ := strings.Cut(f.Repo.ID, "-")
		if f.Access != want[kind] {
			t.Errorf("%s: %s", f.Repo, f.Access)
		}
	}
}
