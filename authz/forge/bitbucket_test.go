package forge_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

func TestBitbucket(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return newBitbucketFake(t) })
}

// TestBitbucketShortPages runs the suite against a server that gives one entry on a page, whatever it is asked for.
func TestBitbucketShortPages(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World {
		f := newBitbucketFake(t)
		f.page = 1
		return f
	})
}

func (f *bitbucketFake) principal(u *bitbucketAccount) authn.Principal {
	return authn.Principal{Forge: f.Name(), ID: fmt.Sprint(u.ID), Name: u.Name, Kind: authn.Human}
}

func (f *bitbucketFake) ref(r *bitbucketRepository) forge.Repo {
	return forge.Repo{Forge: f.Name(), ID: fmt.Sprint(r.ID)}
}

func (f *bitbucketFake) want(u *bitbucketAccount, r *bitbucketRepository, want forge.Access, why string) {
	f.t.Helper()
	facts, err := f.bb.Access(f.t.Context(), f.principal(u), []forge.Repo{f.ref(r)})
	if err != nil || facts[0].Access != want {
		f.t.Errorf("%s: %v, %v; want %s", why, facts, err, want)
	}
}

func (f *bitbucketFake) wantError(u *bitbucketAccount, r *bitbucketRepository, why string) {
	f.t.Helper()
	if facts, err := f.bb.Access(f.t.Context(), f.principal(u), []forge.Repo{f.ref(r)}); err == nil {
		f.t.Errorf("%s: %+v, want an error", why, facts)
	}
}

// TestBitbucketPermission2Trap: a filter without the number 1 before it is none, and everybody is listed, the user who may read nothing too.
func TestBitbucketPermission2Trap(t *testing.T) {
	f := newBitbucketFake(t)
	alice, bob, r := f.account("alice"), f.account("bob"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID] = true
	f.want(alice, r, forge.Read, "while the filter works")
	f.want(bob, r, forge.None, "while the filter works")
	f.dropFirst = true
	f.wantError(bob, r, "the first filter is lost on the way")
	f.wantError(alice, r, "the first filter is lost on the way, for who may read")
}

// TestBitbucketNobodyHasARight: then it shows nothing, and no yes is believed.
func TestBitbucketNobodyHasARight(t *testing.T) {
	f := newBitbucketFake(t)
	alice, bob, r := f.account("alice"), f.account("bob"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID], r.Readers[f.account("nobody-at-all").ID] = true, true
	f.wantError(alice, r, "a yes")
	f.want(bob, r, forge.None, "a no")
}

// TestBitbucketFilterIsPartOfANameOnly: the filter finds whoever has the text anywhere; the id decides.
func TestBitbucketFilterIsPartOfANameOnly(t *testing.T) {
	f := newBitbucketFake(t)
	f.page = 2
	al, r := f.account("al"), f.addRepo("TEAM/lib", false)
	for i := range 7 {
		r.Readers[f.account(fmt.Sprintf("al%d", i)).ID] = true
	}
	f.want(al, r, forge.None, "a user whose name is part of many readers' names")
	r.Readers[al.ID] = true
	f.want(al, r, forge.Read, "the same user as a reader")
	late := f.account("al6")
	f.want(late, r, forge.Read, "a reader on a later page")
	if u, err := f.bb.UserByName(t.Context(), "AL6"); err != nil || u.ID != fmt.Sprint(late.ID) {
		t.Errorf("by name: %+v, %v", u, err)
	}
	for _, name := range []string{"a", "al6 of the team", " ", "", "\t", "*"} {
		if u, err := f.bb.UserByName(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("by name %q: %+v, %v", name, u, err)
		}
	}
}

// TestBitbucketDefaultPermission: what a project grants everybody with a licence counts, and not for those without.
func TestBitbucketDefaultPermission(t *testing.T) {
	f := newBitbucketFake(t, func(c *forge.BitbucketConfig) { c.Nobody = "" })
	alice, bob, r := f.account("alice"), f.account("bob"), f.addRepo("TEAM/lib", false)
	r.Everybody, bob.Licensed = true, false
	f.want(alice, r, forge.Read, "a user with a licence")
	f.want(bob, r, forge.None, "a user without a licence")
	r.Everybody, r.Readers[bob.ID] = false, true
	f.want(bob, r, forge.None, "a user without a licence, who is granted the repository")
}

// TestBitbucketPublic: what is marked public is read by everybody, unless the server's public access is off.
func TestBitbucketPublic(t *testing.T) {
	f := newBitbucketFake(t)
	alice, r, p := f.account("alice"), f.addRepo("TEAM/open", true), f.addRepo("OPEN/lib", false)
	p.ProjectPublic = true
	f.want(alice, r, forge.Read, "a public repository")
	f.want(alice, p, forge.Read, "a repository of a public project")
	f.closed = true
	f.want(alice, r, forge.None, "a public repository while public access is off")
	f.want(alice, p, forge.None, "a repository of a public project while public access is off")
}

func TestBitbucketInactiveUser(t *testing.T) {
	f := newBitbucketFake(t)
	alice, r, key := f.account("alice"), f.addRepo("TEAM/open", true), f.AddKey("alice")
	f.want(alice, r, forge.Read, "before")
	alice.Active = false
	f.want(alice, r, forge.None, "an inactive user")
	if u, err := f.bb.KeyOwner(t.Context(), key); err != nil || !u.Blocked {
		t.Errorf("the key of an inactive user: %+v, %v", u, err)
	}
	delete(f.users, alice.ID)
	f.want(alice, r, forge.None, "a deleted user")
}

// TestBitbucketAfterARestart: the provider finds what it has never seen, all of it with one look.
func TestBitbucketAfterARestart(t *testing.T) {
	f := newBitbucketFake(t)
	alice := f.account("alice")
	var repos []forge.Repo
	for i := range 20 {
		r := f.addRepo(fmt.Sprintf("TEAM/r%d", i), false)
		r.Readers[alice.ID] = true
		repos = append(repos, f.ref(r))
	}
	f.restart()
	facts, err := f.bb.Access(t.Context(), f.principal(alice), repos)
	for _, fact := range facts {
		if fact.Access != forge.Read {
			t.Errorf("%+v", fact)
		}
	}
	if looks := f.count("GET /rest/api/latest/repos?"); err != nil || looks != 1 {
		t.Errorf("%v; looked %d times for repositories, want once", err, looks)
	}
}

// count returns how many requests began with text.
func (f *bitbucketFake) count(text string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, asked := range f.asked {
		if strings.HasPrefix(asked, text) {
			n++
		}
	}
	return n
}

// TestBitbucketMovedElsewhere: a repository is found in another project, and by nobody when it is gone.
func TestBitbucketMovedElsewhere(t *testing.T) {
	f := newBitbucketFake(t)
	alice, r := f.account("alice"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID] = true
	f.want(alice, r, forge.Read, "before")
	f.Rename("TEAM/lib", "OTHER/tool")
	f.want(alice, r, forge.Read, "in another project, under another name")
	delete(f.repos, r.ID)
	f.want(alice, r, forge.None, "deleted")
}

// TestBitbucketSquattedMeanwhile: another repository takes the place while the question is under way. Its readers are not those of the old one.
func TestBitbucketSquattedMeanwhile(t *testing.T) {
	f := newBitbucketFake(t)
	mallory, r := f.account("mallory"), f.addRepo("TEAM/lib", false)
	f.want(mallory, r, forge.None, "before")
	var once sync.Once
	f.before = func(q *http.Request) {
		if q.URL.Query().Has("permission.1") {
			once.Do(func() {
				f.Rename("TEAM/lib", "TEAM/moved")
				f.addRepo("TEAM/lib", false).Readers[mallory.ID] = true
			})
		}
	}
	f.want(mallory, r, forge.None, "meanwhile")
}

func TestBitbucketLiesAboutIDs(t *testing.T) {
	f := newBitbucketFake(t)
	alice, r := f.account("alice"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID] = true
	f.want(alice, r, forge.Read, "before")
	f.lie = 100
	f.want(alice, r, forge.None, "a repository that nobody knows any more")
	f.lie = -1000
	if got, _, err := f.bb.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: "TEAM/lib"}); err == nil || errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("a path: %v, %v; want an error that is no answer", got, err)
	}
}

// TestBitbucketNamePassesToAnother: rights and state belong to the id, whoever bears the name.
func TestBitbucketNamePassesToAnother(t *testing.T) {
	f := newBitbucketFake(t)
	alice, bob, r := f.account("alice"), f.account("bob"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID] = true
	f.want(alice, r, forge.Read, "before")
	alice.Name, alice.Slug, bob.Name, bob.Slug = "alice2", "alice2", "alice", "alice"
	bob.Active = false
	f.want(alice, r, forge.Read, "under the new name")
	if u, err := f.bb.User(t.Context(), fmt.Sprint(alice.ID)); err != nil || u.Name != "alice2" || u.Blocked {
		t.Errorf("%+v, %v", u, err)
	}
	bob.Active = true
	f.want(bob, r, forge.None, "the new bearer of the old name")
}

// TestBitbucketPartOfAnAnswer: a repository the server fails to answer for stays unknown, and is neither yes nor no.
func TestBitbucketPartOfAnAnswer(t *testing.T) {
	for _, status := range []int{0, 401, 403, 429, 500, 503} {
		f := newBitbucketFake(t)
		alice, a, b := f.account("alice"), f.addRepo("TEAM/a", false), f.addRepo("TEAM/b", false)
		a.Readers[alice.ID], b.Readers[alice.ID] = true, true
		f.fault = func(r *http.Request) (int, bool) { return status, strings.HasSuffix(r.URL.Path, "/repos/b") }
		facts, err := f.bb.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(a), f.ref(b)})
		if err != nil || facts[0].Access != forge.Read || facts[1].Access != forge.Unknown {
			t.Errorf("status %d: %+v, %v; want read and unknown", status, facts, err)
		}
		f.wantError(alice, b, fmt.Sprintf("status %d for all there is", status))
	}
}

// TestBitbucketEndlessListing: a listing that leads back to itself is no answer.
func TestBitbucketEndlessListing(t *testing.T) {
	f := newBitbucketFake(t)
	alice, r := f.account("alice"), f.addRepo("TEAM/lib", false)
	f.stuck = true
	f.wantError(alice, r, "a page that names itself as the next")
}

// TestBitbucketPaths: ssh and HTTPS write the same repository in two ways, and nothing else is one.
func TestBitbucketPaths(t *testing.T) {
	f := newBitbucketFake(t)
	r, personal := f.addRepo("TEAM/lib", false), f.addRepo("~alice/lib", false)
	for path, want := range map[string]forge.Repo{
		"TEAM/lib": f.ref(r), "scm/TEAM/lib": f.ref(r), "scm/team/LIB": f.ref(r), "~alice/lib": f.ref(personal), "scm/~alice/lib": f.ref(personal),
	} {
		if got, owns, err := f.bb.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: path}); err != nil || !owns || got != want {
			t.Errorf("%s: %v, %t, %v; want %v", path, got, owns, err, want)
		}
	}
	before := len(f.asked)
	for _, path := range []string{"", "lib", "x/TEAM/lib", "scm/x/TEAM/lib", "TEAM/lib/browse", "../TEAM", "TEAM/..", "TEAM/lib?x", "TEAM/l ib", "TEAM%2flib/x", "a/b#c"} {
		if got, owns, err := f.bb.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: path}); !owns || !errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("%q: %v, %t, %v", path, got, owns, err)
		}
	}
	if len(f.asked) != before {
		t.Errorf("the server was asked: %s", f.asked[before:])
	}
}

// TestBitbucketKeysOfTheAsker: a server that does not understand whose keys it is asked for returns the asker's own, for everybody.
func TestBitbucketKeysOfTheAsker(t *testing.T) {
	f := newBitbucketFake(t)
	alice := f.account("alice")
	key := f.AddKey("admin")
	f.ownKeys = true
	if u, err := f.bb.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
	f.bb.Forget(forge.Event{Forge: f.Name(), User: fmt.Sprint(alice.ID)})
	if u, err := f.bb.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("after something was told of alice: %+v, %v", u, err)
	}
}

// TestBitbucketAccessKeyIsNobodys: an access key of a repository is no user's.
func TestBitbucketAccessKeyIsNobodys(t *testing.T) {
	f := newBitbucketFake(t)
	f.addRepo("TEAM/lib", false)
	if u, err := f.bb.KeyOwner(t.Context(), f.AddDeployKey("TEAM/lib")); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestBitbucketKeysThatOpenNothing: expired keys, and text that is no key.
func TestBitbucketKeysThatOpenNothing(t *testing.T) {
	f := newBitbucketFake(t)
	alice := f.account("alice")
	fresh, old := f.AddKey("alice"), f.AddKey("alice")
	alice.Keys[0]["createdDate"], alice.Keys[0]["expiryDays"] = time.Now().Add(-24*time.Hour).UnixMilli(), 30
	alice.Keys[1]["createdDate"], alice.Keys[1]["expiryDays"] = time.Now().Add(-31*24*time.Hour).UnixMilli(), 30
	alice.Keys = append(alice.Keys, map[string]any{"id": 9, "text": "ssh-ed25519 !!!"})
	if u, err := f.bb.KeyOwner(t.Context(), fresh); err != nil || u.Name != "alice" {
		t.Errorf("a key of 30 days, after one: %+v, %v", u, err)
	}
	if u, err := f.bb.KeyOwner(t.Context(), old); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a key of 30 days, after 31: %+v, %v", u, err)
	}
}

// TestBitbucketKeysAreReadSeldom: strangers with keys of nobody do not have everybody's read again, and what was told of one user has
// that user's read.
func TestBitbucketKeysAreReadSeldom(t *testing.T) {
	now := time.Now()
	f := newBitbucketFake(t, func(c *forge.BitbucketConfig) { c.Now = func() time.Time { return now } })
	alice := f.account("alice")
	const lists = "GET /rest/ssh/latest/keys?"
	stranger := func() {
		t.Helper()
		if u, err := f.bb.KeyOwner(t.Context(), "SHA256:"+strings.Repeat("A", 43)); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%+v, %v", u, err)
		}
	}
	stranger()
	all := f.count(lists)
	if all != len(f.users) {
		t.Errorf("%d lists of keys for %d users", all, len(f.users))
	}
	stranger()
	f.bb.Forget(forge.Event{Forge: f.Name(), Repo: "1"})
	f.bb.Forget(forge.Event{Forge: "elsewhere"})
	stranger()
	if n := f.count(lists); n != all {
		t.Errorf("%d more lists of keys for strangers", n-all)
	}
	key := f.AddKey("alice")
	f.bb.Forget(forge.Event{Forge: f.Name(), User: fmt.Sprint(alice.ID)})
	if u, err := f.bb.KeyOwner(t.Context(), key); err != nil || u.Name != "alice" {
		t.Errorf("a new key of a user something was told of: %+v, %v", u, err)
	}
	if n := f.count(lists); n != all+2 {
		t.Errorf("%d more lists of keys for one user, want 2", n-all)
	}
	now = now.Add(time.Hour)
	stranger()
	if n := f.count(lists); n != 2*all+2 {
		t.Errorf("after an hour: %d lists of keys, want everybody's again", n)
	}
}

// TestBitbucketKeyPassesOn: a key that one user gave up and another took is the other's, at once for the one and when it is told for the other.
func TestBitbucketKeyPassesOn(t *testing.T) {
	f := newBitbucketFake(t)
	alice, bob := f.account("alice"), f.account("bob")
	key := f.AddKey("alice")
	if u, err := f.bb.KeyOwner(t.Context(), key); err != nil || u.Name != "alice" {
		t.Fatalf("%+v, %v", u, err)
	}
	bob.Keys, alice.Keys = alice.Keys, nil
	if u, err := f.bb.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("before it is told: %+v, %v", u, err)
	}
	f.bb.Forget(forge.Event{Forge: f.Name(), User: fmt.Sprint(bob.ID)})
	if u, err := f.bb.KeyOwner(t.Context(), key); err != nil || u.Name != "bob" {
		t.Errorf("when it is told: %+v, %v", u, err)
	}
}

// TestBitbucketKeysUnderWay: what is told while all keys are read is not lost.
func TestBitbucketKeysUnderWay(t *testing.T) {
	f := newBitbucketFake(t)
	f.account("alice")
	var key string
	var once sync.Once
	f.before = func(r *http.Request) {
		if r.URL.Path == "/rest/api/latest/users" { // all users are known, alice is about to be asked for
			once.Do(func() { f.bb.Forget(forge.Event{Forge: f.Name()}) })
		}
	}
	if _, err := f.bb.KeyOwner(t.Context(), "SHA256:"+strings.Repeat("A", 43)); !errors.Is(err, forge.ErrNoUser) {
		t.Fatal(err)
	}
	key = f.AddKey("alice")
	if u, err := f.bb.KeyOwner(t.Context(), key); err != nil || u.Name != "alice" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestBitbucketAge(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var mu sync.Mutex
	now := start
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	f := newBitbucketFake(t, func(c *forge.BitbucketConfig) { c.Now = clock })
	alice, r := f.account("alice"), f.addRepo("TEAM/lib", false)
	r.Readers[alice.ID] = true
	f.before = func(*http.Request) { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Second) }
	facts, err := f.bb.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)})
	if err != nil || !facts[0].At.Equal(start) || !facts[0].NotAfter.Equal(start.Add(300*time.Second)) {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestBitbucketConfig(t *testing.T) {
	token := func() (authn.Secret, error) { return authn.NewSecret("x"), nil }
	for want, c := range map[string]forge.BitbucketConfig{
		"lower-case": {Name: "A", URL: "https://h", Token: token}, "needs an HTTP access token": {Name: "a", URL: "https://h"},
		"want https://": {Name: "a", URL: "https://u@h", Token: token},
	} {
		if _, err := forge.NewBitbucket(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	b, err := forge.NewBitbucket(forge.BitbucketConfig{Name: "a", URL: "https://h:7990/bitbucket", Token: token})
	if err != nil || !slices.Equal(b.Hosts(), []string{"h:7990"}) {
		t.Errorf("%v, %v", b.Hosts(), err)
	}
}

func TestBitbucketHook(t *testing.T) {
	const (
		repo    = `{"eventKey":"repo:modified","date":"2026-09-19T11:18:57+1000","old":{"id":84},"new":{"id":84,"public":false}}`
		project = `{"eventKey":"project:modified","old":{"id":1},"new":{"id":1}}`
		push    = `{"eventKey":"repo:refs_changed","repository":{"id":84}}`
	)
	f := newBitbucketFake(t)
	for name, tt := range map[string]struct {
		body, signature string
		want            []forge.Event // nil: refused
	}{
		"a repository":    {repo, hexHMAC("hook-secret", repo), []forge.Event{{Forge: f.Name(), Repo: "84"}}},
		"a project":       {project, hexHMAC("hook-secret", project), []forge.Event{{Forge: f.Name()}}},
		"a push":          {push, hexHMAC("hook-secret", push), []forge.Event{}},
		"a ping":          {`{"test":true}`, hexHMAC("hook-secret", `{"test":true}`), []forge.Event{}},
		"another's":       {repo, hexHMAC("x", repo), nil},
		"another body":    {repo + " ", hexHMAC("hook-secret", repo), nil},
		"nothing":         {repo, "", nil},
		"no hexadecimals": {repo, "zz", nil},
		"no JSON":         {"[", hexHMAC("hook-secret", "["), nil},
	} {
		d, err := f.bb.ReadHook(http.Header{"X-Hub-Signature": {"sha256=" + tt.signature}, "X-Event-Key": {"repo:modified"}}, []byte(tt.body))
		if tt.want == nil {
			if !errors.Is(err, forge.ErrHook) {
				t.Errorf("%s: %+v, %v; want it refused", name, d, err)
			}
			continue
		}
		if err != nil || len(d.Events) != len(tt.want) || d.ID == "" {
			t.Errorf("%s: %+v, %v; want %v", name, d, err, tt.want)
			continue
		}
		for i, e := range d.Events {
			if e.Forge != tt.want[i].Forge || e.Repo != tt.want[i].Repo || e.User != "" || e.Why == "" {
				t.Errorf("%s: %+v, want %+v", name, e, tt.want[i])
			}
		}
	}
	for _, header := range []http.Header{{}, {"X-Hub-Signature": {hexHMAC("hook-secret", repo)}}, {"X-Hub-Signature": {"sha1=" + hexHMAC("hook-secret", repo)}}} {
		if d, err := f.bb.ReadHook(header, []byte(repo)); !errors.Is(err, forge.ErrHook) {
			t.Errorf("%v: %+v, %v", header, d, err)
		}
	}
	d, err := f.bb.ReadHook(http.Header{"X-Hub-Signature": {"sha256=" + hexHMAC("hook-secret", repo)}}, []byte(repo))
	if err != nil || d.At.UTC().Format(time.RFC3339) != "2026-09-19T01:18:57Z" {
		t.Errorf("when it was sent: %v, %v", d.At, err)
	}
}

func FuzzBitbucketHook(f *testing.F) {
	f.Add([]byte(`{"eventKey":"repo:modified","date":"2026-09-19T11:18:57+1000","new":{"id":84}}`))
	f.Add([]byte(`{"eventKey":"project:modified"}`))
	f.Add([]byte(`{"eventKey":"repo:modified","new":{"id":-1}}`))
	b, err := forge.NewBitbucket(forge.BitbucketConfig{
		Name: "b", URL: "https://b", Token: func() (authn.Secret, error) { return authn.Secret{}, nil }, HookSecret: authn.NewSecret("s"),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := b.ReadHook(http.Header{"X-Hub-Signature": {"sha256=" + hexHMAC("s", string(body))}}, body)
		if err != nil {
			if !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
				t.Errorf("%+v, %v", d, err)
			}
			return
		}
		for _, e := range d.Events {
			if e.Forge != "b" || e.User != "" || strings.Trim(e.Repo, "0123456789") != "" || e.Why != "bitbucket hook repo:modified" && e.Why != "bitbucket hook project:modified" {
				t.Errorf("%+v", e)
			}
		}
	})
}

func entry(at time.Time, category, action string, objects ...any) map[string]any {
	return map[string]any{
		"timestamp": at.UTC().Format("2006-01-02T15:04:05.000Z"), "type": map[string]any{"category": category, "action": action}, "affectedObjects": objects,
	}
}

func object(kind, id string) map[string]any {
	return map[string]any{"type": kind, "id": id, "name": "x"}
}

// TestBitbucketFollow reads an audit log: what was there before is no news, each entry is news once, late ones too, a failure is made
// up for, and more than can be read is a gap.
func TestBitbucketFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newBitbucketFake(t, func(c *forge.BitbucketConfig) { c.HTTP = &http.Client{} })
		f.server.Close()
		f.configs.HTTP.Transport = f
		f.restart()
		f.log(entry(time.Now().Add(-time.Hour), "Permissions", "Permission granted", object("USER", "9")))
		ctx, cancel := context.WithCancel(t.Context())
		var got []forge.Event
		done := make(chan error)
		go func() { done <- f.bb.Follow(ctx, func(e forge.Event) { got = append(got, e) }) }()
		step := func(why string, want ...forge.Event) {
			t.Helper()
			time.Sleep(15 * time.Second)
			synctest.Wait()
			for i := range got {
				if got[i].Why == "" {
					t.Errorf("%s: no reason: %+v", why, got[i])
				}
				got[i].Why = ""
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %+v, want %+v", why, got, want)
			}
			got = nil
		}
		synctest.Wait()
		step("what was there before")
		f.log(entry(time.Now(), "Permissions", "Repository permission removed", object("REPOSITORY", "7"), object("USER", "3")))
		step("a permission of a repository", forge.Event{Forge: f.Name(), Repo: "7"}, forge.Event{Forge: f.Name(), User: "3"})
		step("nothing new")
		f.log(entry(time.Now().Add(-30*time.Second), "Users and groups", "User removed from group", object("GROUP", "all"), object("USER", "3")))
		step("a group, written late", forge.Event{Forge: f.Name()})
		f.log(entry(time.Now(), "Permissions", "Project permission removed", object("PROJECT", "1")))
		f.Fail(500)
		step("while the log cannot be read")
		f.Heal()
		step("after the failure", forge.Event{Forge: f.Name()})
		f.log(entry(time.Now(), "Global administration", "Announcement banner created"))
		f.log(entry(time.Now(), "Pull requests", "Pull request merged", object("REPOSITORY", "7")))
		step("what concerns no permission")
		for i := range 300 {
			f.log(entry(time.Now(), "Permissions", "granted", object("USER", fmt.Sprint(i+1))))
		}
		step("more than is read at once", forge.Event{Forge: f.Name()})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// log writes entries, the newest first.
func (f *bitbucketFake) log(e map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = slices.Insert(f.entries, 0, e)
}

func TestBitbucketCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*bitbucketFake)
		canary string
		want   map[string]forge.Health
	}{
		"as it should be": {func(*bitbucketFake) {}, "alice", map[string]forge.Health{
			"token": forge.Fine, "clock": forge.Fine, "hook": forge.Fine, "audit log": forge.Fine, "canary": forge.Fine, "nobody": forge.Fine, "revocation": forge.Fine,
		}},
		"a wrong token":  {func(f *bitbucketFake) { f.Fail(401) }, "alice", map[string]forge.Health{"token": forge.Broken}},
		"no rights":      {func(f *bitbucketFake) { f.failOn("/admin/users", 403) }, "alice", map[string]forge.Health{"token": forge.Broken}},
		"no audit log":   {func(f *bitbucketFake) { f.failOn("/events", 403) }, "alice", map[string]forge.Health{"audit log": forge.Doubtful, "revocation": forge.Doubtful}},
		"no such canary": {func(*bitbucketFake) {}, "x", map[string]forge.Health{"canary": forge.Broken}},
		"no nobody":      {func(f *bitbucketFake) { f.configs.Nobody = ""; f.restart() }, "alice", map[string]forge.Health{"nobody": forge.Doubtful}},
		"nobody is gone": {func(f *bitbucketFake) { delete(f.users, f.account("nobody-at-all").ID) }, "alice", map[string]forge.Health{"nobody": forge.Broken}},
		"no hook secret": {func(f *bitbucketFake) { f.configs.HookSecret = authn.Secret{}; f.restart() }, "alice", map[string]forge.Health{"hook": forge.Doubtful}},
	} {
		f := newBitbucketFake(t)
		f.AddUser("alice")
		tt.change(f)
		got := map[string]forge.Health{}
		for _, x := range f.bb.Check(t.Context(), tt.canary) {
			if x.What == "" || x.Detail == "" || (x.Health == forge.Fine) != (x.Hint == "") {
				t.Errorf("%s: a finding that does not help: %+v", name, x)
			}
			got[x.What] = x.Health
		}
		for what, want := range tt.want {
			if h, ok := got[what]; !ok || h != want {
				t.Errorf("%s: %s is %d, found %t; want %d", name, what, h, ok, want)
			}
		}
	}
}

func (f *bitbucketFake) failOn(path string, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = func(r *http.Request) (int, bool) { return status, strings.HasSuffix(r.URL.Path, path) }
}
