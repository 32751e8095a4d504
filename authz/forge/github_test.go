package forge_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

var (
	_ forgetest.World      = (*githubFake)(nil)
	_ forgetest.Blocker    = (*githubFake)(nil)
	_ forgetest.Keyring    = (*githubFake)(nil)
	_ forgetest.DeployKeys = (*githubFake)(nil)
	_ forgetest.Breaker    = (*githubFake)(nil)
)

func TestGitHubCloud(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return openGitHub(t, true, nil) })
}

func TestGitHubServer(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return openGitHub(t, false, nil) })
}

// githubWith is a GitHub with alice and a private repository, and their ids.
func githubWith(t *testing.T, cloud bool, change func(*forge.GitHubConfig)) (f *githubFake, alice authn.Principal, lib forge.Repo) {
	t.Helper()
	f = openGitHub(t, cloud, change)
	f.AddUser("alice")
	f.AddRepo("org/lib", false)
	return f, f.principal("alice"), f.repo("org/lib")
}

func (f *githubFake) principal(login string) (p authn.Principal) {
	f.change(func() {
		p = authn.Principal{Forge: "github", ID: fmt.Sprint(f.user(login).id), Name: login, Kind: authn.Human}
	})
	return p
}

func (f *githubFake) repo(path string) (r forge.Repo) {
	f.change(func() { r = forge.Repo{Forge: "github", ID: fmt.Sprint(f.named(path).id)} })
	return r
}

// read returns what the provider says of one repository once everything that it remembers is too old.
func (f *githubFake) read(p authn.Principal, r forge.Repo) forge.Access {
	f.t.Helper()
	f.Settle()
	f.change(func() { f.ahead += time.Minute })
	return f.fact(p, r).Access
}

func (f *githubFake) fact(p authn.Principal, r forge.Repo) forge.Fact {
	f.t.Helper()
	facts, err := f.github.Access(f.t.Context(), p, []forge.Repo{r})
	if err != nil {
		f.t.Logf("ask about %s: %v", r, err)
		return forge.Fact{}
	}
	return facts[0]
}

func (f *githubFake) resolve(path string) (forge.Repo, bool, error) {
	return f.github.Resolve(f.t.Context(), source.Locator{Host: f.Host(), Path: path})
}

// The list of readers is the effective one: direct grants, teams, base permission.
func TestGitHubEffectiveReaders(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	id := func() int64 { return f.user("alice").id }
	for _, tt := range []struct {
		why    string
		change func()
		want   forge.Access
	}{
		{"nothing", func() {}, forge.None},
		{"a grant", func() { f.named("org/lib").grants[id()] = "read" }, forge.Read},
		{"a grant that is none", func() { f.named("org/lib").grants[id()] = "none" }, forge.None},
		{"a team", func() { delete(f.named("org/lib").grants, id()); f.named("org/lib").teams[id()] = "write" }, forge.Read},
		{"no team", func() { delete(f.named("org/lib").teams, id()) }, forge.None},
		{"a base permission", func() { f.base = "read" }, forge.Read},
		{"a base permission, and no member", func() { delete(f.members, id()) }, forge.None},
	} {
		f.change(tt.change)
		if got := f.read(alice, lib); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.why, got, tt.want)
		}
	}
}

func TestGitHubVisibility(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.AddUser("outsider")
	f.change(func() { delete(f.members, f.user("outsider").id) })
	outsider := f.principal("outsider")
	for _, tt := range []struct {
		visibility       string
		old              bool
		member, stranger forge.Access
	}{
		{"public", false, forge.Read, forge.Read},
		{"internal", false, forge.Read, forge.None},
		{"private", false, forge.None, forge.None},
		{"public", true, forge.Read, forge.Read},
		{"private", true, forge.None, forge.None},
		{"secret", false, forge.Unknown, forge.Unknown},
	} {
		f.change(func() { f.named("org/lib").visibility, f.named("org/lib").old = tt.visibility, tt.old })
		if got := f.read(alice, lib); got != tt.member {
			t.Errorf("%s: a member has %s, want %s", tt.visibility, got, tt.member)
		}
		if got := f.read(outsider, lib); got != tt.stranger {
			t.Errorf("%s: a stranger has %s, want %s", tt.visibility, got, tt.stranger)
		}
	}
	for _, body := range []map[string]any{{"private": true, "visibility": "public"}, {"private": false, "visibility": "private"}, {}} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/repositories/"+lib.ID) {
					return false
				}
				body["id"] = f.named("org/lib").id
				respond(w, http.StatusOK, body)
				return true
			}
		})
		if got := f.read(alice, lib); got != forge.Unknown {
			t.Errorf("%v: %s", body, got)
		}
	}
}

// A public repository is for users who are there and may do something.
func TestGitHubPublicIsForKnownUsers(t *testing.T) {
	for _, cloud := range []bool{true, false} {
		f, alice, _ := githubWith(t, cloud, nil)
		f.AddRepo("org/open", true)
		open := f.repo("org/open")
		if got := f.read(alice, open); got != forge.Read {
			t.Errorf("cloud %t: %s", cloud, got)
		}
		nobody := alice
		nobody.ID = "4000000000"
		if got := f.read(nobody, open); got != forge.None {
			t.Errorf("cloud %t: an id that nobody has: %s", cloud, got)
		}
		f.change(func() { f.user("alice").kind = "Organization" })
		if got := f.read(alice, open); got != forge.None {
			t.Errorf("cloud %t: an organization: %s", cloud, got)
		}
	}
}

// A suspended user may stay on the list of readers.
func TestGitHubSuspendedUser(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.AddRepo("org/open", true)
	open := f.repo("org/open")
	f.Grant("alice", "org/lib")
	key := f.AddKey("alice")
	for _, suspended := range []bool{false, true, false} {
		f.Block("alice", suspended)
		want := map[bool]forge.Access{true: forge.None, false: forge.Read}[suspended]
		for _, r := range []forge.Repo{lib, open} {
			if got := f.read(alice, r); got != want {
				t.Errorf("suspended %t: %s, want %s", suspended, got, want)
			}
		}
		if u, err := f.github.KeyOwner(t.Context(), key); err != nil || u.Blocked != suspended || u.Name != "alice" {
			t.Errorf("suspended %t: the key's owner is %+v, %v", suspended, u, err)
		}
	}
	f.Block("alice", true)
	f.change(func() { f.lists = false })
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("suspended, without a list: %s", got)
	}
}

// Of a list that has not changed, GitHub says so, which costs no quota. The fact is as old as that answer.
func TestGitHubUnchangedListIsFree(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.Grant("alice", "org/lib")
	f.change(func() { f.maxPage = 2 })
	for i := range 4 {
		user := fmt.Sprint("user", i)
		f.AddUser(user)
		f.Grant(user, "org/lib")
	}
	f.Settle()
	if got := f.fact(alice, lib); got.Access != forge.Read {
		t.Fatalf("%+v", got)
	}
	f.change(func() { f.ahead += time.Minute })
	f.change(func() { f.statuses = nil })
	since := f.now()
	got := f.fact(alice, lib)
	if got.Access != forge.Read || got.At.Before(since) {
		t.Errorf("asked again at %v: %+v", since, got)
	}
	// The repository, and three pages of five readers; the pages of two are not full by what was asked for.
	if !slices.Equal(f.statuses, []int{304, 304, 304, 304}) {
		t.Errorf("answered with %v, want four times 304", f.statuses)
	}
	// One of the pages changes.
	f.Withdraw("alice", "org/lib")
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("withdrawn: %s", got)
	}
	f.Grant("alice", "org/lib")
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("granted: %s", got)
	}
}

// A full page that has not changed may have got another behind it, of which it does not tell.
func TestGitHubNewPageBehindUnchangedOnes(t *testing.T) {
	f, _, lib := githubWith(t, true, nil)
	f.change(func() { f.base = "read" })
	for i := range 99 {
		f.AddUser(fmt.Sprint("user", i))
	}
	first, last := f.principal("user0"), authn.Principal{}
	if got := f.read(first, lib); got != forge.Read {
		t.Fatalf("with 100 readers: %s", got)
	}
	f.AddUser("zoe")
	last = f.principal("zoe")
	if got := f.read(last, lib); got != forge.Read {
		t.Errorf("the 101st reader: %s", got)
	}
	f.change(func() { delete(f.members, f.user("zoe").id) })
	if got := f.read(last, lib); got != forge.None {
		t.Errorf("no reader any more: %s", got)
	}
	if got := f.read(first, lib); got != forge.Read {
		t.Errorf("the first reader: %s", got)
	}
}

// A yes may rest on a list that is half a minute old, and says so; a no may not.
func TestGitHubFactsAreAsOldAsTheirLists(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.AddUser("bob")
	bob := f.principal("bob")
	f.Grant("alice", "org/lib")
	f.Settle()
	before := f.now()
	first := f.fact(alice, lib)
	if first.At.Before(before) || first.At.After(f.now()) || !first.NotAfter.Equal(first.At.Add(300*time.Second)) {
		t.Errorf("asked between %v and %v: %+v", before, f.now(), first)
	}
	f.change(func() { f.ahead += 20 * time.Second })
	f.requests("")
	if again := f.fact(alice, lib); again.Access != forge.Read || !again.At.Equal(first.At) || len(f.requests("")) != 0 {
		t.Errorf("20 s later: %+v, first at %v", again, first.At)
	}
	since := f.now()
	if no := f.fact(bob, lib); no.Access != forge.None || no.At.Before(since) {
		t.Errorf("a no of %v, asked for at %v", no.At, since)
	}
	f.change(func() { f.ahead += time.Second })
	since = f.now()
	facts, err := f.github.Access(forge.NotBefore(t.Context(), since), alice, []forge.Repo{lib})
	if err != nil || facts[0].At.Before(since) {
		t.Errorf("asked for what was learnt at %v or later: %+v, %v", since, facts, err)
	}
	f.change(func() { f.ahead += time.Minute })
	since = f.now()
	if late := f.fact(alice, lib); late.At.Before(since) {
		t.Errorf("a minute later the list of %v is used", late.At)
	}
}

// What an event is about rests on nothing that was learnt before it.
func TestGitHubForget(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.AddRepo("org/open", true)
	open := f.repo("org/open")
	f.Grant("alice", "org/lib")
	f.Settle()
	f.fact(alice, lib)
	f.fact(alice, open)
	for _, tt := range []struct {
		event forge.Event
		again bool
	}{
		{forge.Event{}, true},
		{forge.Event{Forge: "github"}, true},
		{forge.Event{Forge: "github", User: alice.ID}, true},
		{forge.Event{Forge: "github", Repo: lib.ID}, true},
		{forge.Event{Forge: "github", User: alice.ID, Repo: lib.ID}, true},
		{forge.Event{Forge: "elsewhere"}, false},
		{forge.Event{Forge: "github", Repo: open.ID}, false},
		{forge.Event{Forge: "github", Key: "SHA256:x"}, false},
	} {
		f.fact(alice, lib)
		f.requests("")
		f.github.Forget(tt.event)
		f.fact(alice, lib)
		if asked := f.requests("GET /repositories/" + lib.ID); (len(asked) > 0) != tt.again {
			t.Errorf("after %+v, asked %q", tt.event, asked)
		}
	}
}

// Where the token may not list readers, GitHub is asked about each user.
func TestGitHubWithoutTheList(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.change(func() { f.lists = false })
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("without a grant: %s", got)
	}
	for _, permission := range []string{"admin", "write", "read"} {
		f.change(func() { f.named("org/lib").grants[f.user("alice").id] = permission })
		if got := f.read(alice, lib); got != forge.Read {
			t.Errorf("permission %q: %s", permission, got)
		}
	}
	f.change(func() { f.named("org/lib").grants[f.user("alice").id] = "maintain or so" })
	if got := f.read(alice, lib); got != forge.Unknown {
		t.Errorf("a permission that nobody knows: %s", got)
	}
}

// Permissions are asked for by name. The name may be somebody else's by the time the question arrives.
func TestGitHubPermissionOfWhoHasTheNameNow(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.AddUser("mallory")
	f.Grant("mallory", "org/lib")
	f.Settle()
	f.change(func() {
		f.lists = false
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/permission") { // alice has just left her name to mallory
				f.user("alice").login = "alicia"
				f.user("mallory").login = "alice"
			}
			return false
		}
	})
	if got := f.read(alice, lib); got != forge.Unknown {
		t.Errorf("another's permission: %s", got)
	}
}

// A repository is asked about by number all along: whoever takes its name between two questions lends it no readers.
func TestGitHubNameTakenBetweenQuestions(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.AddUser("mallory")
	f.Settle()
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/collaborators") && f.named("org/lib").id == mustNumber(lib.ID) {
				f.named("org/lib").path = "org/moved"
				id := f.id()
				f.repos[id] = &githubRepo{id: id, path: "org/lib", visibility: "private", grants: map[int64]string{f.user("mallory").id: "admin"}}
			}
			return false
		}
	})
	if got := f.read(f.principal("mallory"), lib); got != forge.None {
		t.Errorf("the reader of a repository with the same name: %s", got)
	}
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("%s", got)
	}
}

func mustNumber(text string) (n int64) {
	if _, err := fmt.Sscan(text, &n); err != nil {
		panic(err)
	}
	return n
}

// An answer that is about another id than was asked for, or is none, is neither yes nor no.
func TestGitHubLies(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.Grant("alice", "org/lib")
	f.AddRepo("org/open", true)
	open := f.repo("org/open")
	key := f.AddKey("alice")
	readable := map[string]any{"pull": true}
	for _, lie := range []struct {
		path string
		repo forge.Repo
		body any
	}{
		{"/repositories/" + lib.ID, lib, map[string]any{"id": 1, "private": false, "visibility": "public"}},
		{"/repositories/" + lib.ID, lib, map[string]any{}},
		{"/repositories/" + lib.ID, lib, nil},
		{"/repositories/" + lib.ID, lib, []any{}},
		{"/repositories/" + lib.ID + "/collaborators", lib, nil},
		{"/repositories/" + lib.ID + "/collaborators", lib, map[string]any{}},
		{"/repositories/" + lib.ID + "/collaborators", lib, []any{map[string]any{"id": 0, "permissions": readable}}},
		{"/repositories/" + lib.ID + "/collaborators", lib, []any{nil}},
		{"/user/" + alice.ID, open, map[string]any{"id": 1, "login": "alice", "type": "User"}},
		{"/user/" + alice.ID, open, map[string]any{"id": mustNumber(alice.ID), "login": "../repos/x", "type": "User"}},
		{"/user/" + alice.ID, open, map[string]any{}},
		{"/user/" + alice.ID, open, nil},
	} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/api/v3"+lie.path {
					respond(w, http.StatusOK, lie.body)
				}
				return r.URL.Path == "/api/v3"+lie.path
			}
		})
		if got := f.read(alice, lie.repo); got != forge.Unknown {
			t.Errorf("%s answers %v: %s, want unknown", lie.path, lie.body, got)
		}
	}
	for _, body := range []any{nil, map[string]any{}, map[string]any{"id": 0, "full_name": "org/lib"}, map[string]any{"id": 17}, []any{}} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool { respond(w, http.StatusOK, body); return true }
		})
		if r, _, err := f.resolve("org/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("resolve, answered with %v: %s, %v", body, r, err)
		}
		if u, err := f.github.UserByName(t.Context(), "alice"); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user by name, answered with %v: %+v, %v", body, u, err)
		}
		f.github.Forget(forge.Event{Key: key})
		if u, err := f.github.KeyOwner(t.Context(), key); !isList(body) && (err == nil || errors.Is(err, forge.ErrNoUser)) {
			t.Errorf("key owner, answered with %v: %+v, %v", body, u, err)
		}
	}
}

func isList(body any) bool { _, ok := body.([]any); return ok }

// What is not GitHub's interface is no answer.
func TestGitHubMalformedAnswers(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.Grant("alice", "org/lib")
	for name, answer := range map[string]func(w io.Writer){
		"page":    func(w io.Writer) { io.WriteString(w, "<html>Sign in</html>") },
		"half":    func(w io.Writer) { io.WriteString(w, `{"id": `+lib.ID+`, "visib`) },
		"nothing": func(io.Writer) {},
		"endless": func(w io.Writer) {
			io.WriteString(w, `{"id": `+lib.ID+`, "full_name": "org/lib", "description": "`)
			junk := strings.Repeat("x", 1<<20)
			for range 17 {
				if _, err := io.WriteString(w, junk); err != nil {
					return
				}
			}
			io.WriteString(w, `", "visibility": "public", "private": false}`)
		},
	} {
		f.change(func() { f.answer = func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true } })
		if got := f.read(alice, lib); got != forge.Unknown {
			t.Errorf("%s: %s, want unknown", name, got)
		}
		if _, err := f.github.User(t.Context(), alice.ID); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%s: user: %v", name, err)
		}
		if _, _, err := f.resolve("org/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("%s: resolve: %v", name, err)
		}
	}
}

// A refusal for asking too much says nothing of rights, though it comes with 403. It is passed on at once, each time: the library
// would answer in GitHub's place until the limit ends, when the transport may have got more by then.
func TestGitHubRateLimits(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.Grant("alice", "org/lib")
	for name, header := range map[string]http.Header{
		"primary":         {"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"4000000000"}},
		"secondary":       {"Retry-After": {"60"}},
		"secondary, told": {},
	} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/collaborators") {
					return false
				}
				for name, values := range header {
					w.Header()[name] = values
				}
				respond(w, http.StatusForbidden, map[string]any{
					"message":           "You have exceeded a secondary rate limit.",
					"documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits",
				})
				return true
			}
		})
		f.requests("")
		for range 2 {
			if got := f.read(alice, lib); got != forge.Unknown {
				t.Errorf("%s: %s, want unknown", name, got)
			}
			if asked := f.requests("GET /repositories/" + lib.ID + "/collaborators"); len(asked) != 1 {
				t.Errorf("%s: asked %q", name, asked)
			}
		}
		f.change(func() { f.answer = nil })
		if got := f.read(alice, lib); got != forge.Read {
			t.Errorf("%s: afterwards %s", name, got)
		}
	}
}

// What a source is called selects a repository by its name and nothing else.
func TestGitHubPaths(t *testing.T) {
	f, _, lib := githubWith(t, true, nil)
	f.requests("")
	for _, path := range []string{
		"", "org", "org/", "/lib", "org/lib/x", "../users/alice", "org/..", "org/.", "org/lib?x=1", "org/lib#x", "org/l%69b",
		"org/lib\nx", "org/lib ", "-org/lib",
		"org//lib", "org/lib/../../users/alice",
	} {
		if r, owns, err := f.resolve(path); !owns || !errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("resolve %q: %s, %t, %v", path, r, owns, err)
		}
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
	for _, path := range []string{"org/lib", "ORG/Lib"} {
		if r, _, err := f.resolve(path); err != nil || r != lib {
			t.Errorf("resolve %q: %s, %v; want %s", path, r, err, lib)
		}
	}
	for _, name := range []string{"", "alice/keys", "../alice", "alice?x", "alice#x", "al%69ce", "dependabot[bot]"} {
		if u, err := f.github.UserByName(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user %q: %+v, %v", name, u, err)
		}
	}
	if asked := f.requests("GET /user"); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
}

func TestGitHubIDsAreNumbers(t *testing.T) {
	f, alice, lib := githubWith(t, true, nil)
	f.AddRepo("org/open", true)
	open := f.repo("org/open")
	f.Settle()
	f.requests("")
	for _, id := range []string{"", "0", "-1", "+" + lib.ID, "0" + lib.ID, lib.ID + " ", lib.ID + "/../" + open.ID, "org/lib", "99999999999999999999"} {
		if got := f.fact(alice, forge.Repo{Forge: "github", ID: id}); got.Access != forge.None {
			t.Errorf("repository %q: %s", id, got.Access)
		}
		if got := f.fact(authn.Principal{Forge: "github", ID: id}, open); got.Access != forge.None {
			t.Errorf("user %q: %s", id, got.Access)
		}
	}
	stranger := alice
	stranger.Forge = "gitlab"
	if got := f.fact(stranger, open); got.Access != forge.None {
		t.Errorf("a user of another forge: %s", got.Access)
	}
	if got := f.fact(alice, forge.Repo{Forge: "gitlab", ID: open.ID}); got.Access != forge.None {
		t.Errorf("a repository of another forge: %s", got.Access)
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
}

func TestGitHubRedirects(t *testing.T) {
	f, alice, lib := githubWith(t, false, nil)
	f.Rename("org/lib", "org/moved")
	if r, _, err := f.resolve("org/lib"); err != nil || r != lib {
		t.Errorf("the old name: %s, %v; want %s", r, err, lib)
	}
	f.AddRepo("org/lib", true)
	if r, _, err := f.resolve("org/lib"); err != nil || r == lib {
		t.Errorf("the old name, taken by another: %s, %v", r, err)
	}
	reached := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- r.Header.Get("Authorization")
		respond(w, http.StatusOK, map[string]any{"id": mustNumber(lib.ID), "full_name": "org/lib", "private": false, "visibility": "public"})
	}))
	t.Cleanup(other.Close)
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, other.URL+r.URL.RequestURI(), http.StatusMovedPermanently)
			return true
		}
	})
	if r, _, err := f.resolve("org/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("resolve: %s, %v", r, err)
	}
	if got := f.read(alice, lib); got != forge.Unknown {
		t.Errorf("access: %s", got)
	}
	if len(reached) > 0 {
		t.Errorf("another host was shown %q", <-reached)
	}
}

func TestGitHubAddresses(t *testing.T) {
	for _, tt := range []struct{ url, api, graph, host string }{
		{"https://github.com", "https://api.github.com/rate_limit", "https://api.github.com/graphql", "github.com"},
		{"https://api.github.com/", "https://api.github.com/rate_limit", "https://api.github.com/graphql", "github.com"},
		{"https://www.github.com", "https://api.github.com/rate_limit", "https://api.github.com/graphql", "github.com"},
		{"https://octocorp.ghe.com", "https://api.octocorp.ghe.com/rate_limit", "https://api.octocorp.ghe.com/graphql", "octocorp.ghe.com"},
		{"https://ghe.example.com", "https://ghe.example.com/api/v3/rate_limit", "https://ghe.example.com/api/graphql", "ghe.example.com"},
		{"https://ghe.example.com:8443/", "https://ghe.example.com:8443/api/v3/rate_limit", "https://ghe.example.com:8443/api/graphql", "ghe.example.com:8443"},
		{"https://notgithub.com", "https://notgithub.com/api/v3/rate_limit", "https://notgithub.com/api/graphql", "notgithub.com"},
	} {
		var asked []string
		g, err := forge.NewGitHub(forge.GitHubConfig{
			Name: "github", URL: tt.url, Token: fixedToken("x"), Orgs: []string{"org"},
			HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				asked = append(asked, r.URL.String())
				if strings.HasSuffix(r.URL.Path, "rate_limit") {
					return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
				}
				return nil, errors.New("enough")
			})},
		})
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		g.Check(t.Context(), "")
		if !slices.Equal(g.Hosts(), []string{tt.host}) || !slices.Contains(asked, tt.api) || !slices.Contains(asked, tt.graph) {
			t.Errorf("%s: hosts %q, asked %q", tt.url, g.Hosts(), asked)
		}
	}
	for _, c := range []forge.GitHubConfig{
		{Name: "Git:Hub", URL: "https://github.com", Token: fixedToken("x")},
		{Name: "github", URL: "github.com", Token: fixedToken("x")},
		{Name: "github", URL: "https://github.com"},
		{Name: "github", URL: "https://github.com", Token: fixedToken("x"), SiteAdmin: true},
		{Name: "github", URL: "https://ghe.example.com", Token: fixedToken("x"), Orgs: []string{"../admin"}},
		{Name: "github", URL: "https://ghe.example.com", Token: fixedToken("x"), Orgs: []string{""}},
	} {
		if _, err := forge.NewGitHub(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A site administrator sees who created a deploy key. It is nobody's all the same.
func TestGitHubDeployKeyIsNotItsCreator(t *testing.T) {
	f, _, _ := githubWith(t, false, nil)
	key := f.AddDeployKey("org/lib")
	if u, err := f.github.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrDeployKey) || u.ID != "" {
		t.Errorf("a deploy key: %+v, %v", u, err)
	}
	unverified := f.AddKey("alice")
	f.change(func() { f.keys[unverified].verified = false })
	f.Settle()
	if u, err := f.github.KeyOwner(t.Context(), unverified); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a key that was not verified: %+v, %v", u, err)
	}
}

// What was read of all keys is only where to look: a key that was removed since is its owner's no more.
func TestGitHubKeyIsConfirmed(t *testing.T) {
	for _, cloud := range []bool{true, false} {
		f, alice, _ := githubWith(t, cloud, nil)
		f.AddUser("bob")
		f.AddUser("carol")
		f.change(func() { f.maxPage, f.graphPer = 2, 1 })
		kept, removed := f.AddKey("alice"), f.AddKey("alice")
		for range 3 {
			f.AddKey("bob")
		}
		f.Settle()
		for _, key := range []string{kept, removed} {
			if u, err := f.github.KeyOwner(t.Context(), key); err != nil || u.ID != alice.ID || u.Name != "alice" {
				t.Errorf("cloud %t: %+v, %v", cloud, u, err)
			}
		}
		f.change(func() { delete(f.keys, removed) })
		if u, err := f.github.KeyOwner(t.Context(), removed); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("cloud %t: a key that was removed: %+v, %v", cloud, u, err)
		}
		f.change(func() { f.user("alice").login = "alicia" })
		if u, err := f.github.KeyOwner(t.Context(), kept); err != nil || u.ID != alice.ID || u.Name != "alicia" {
			t.Errorf("cloud %t: after a rename: %+v, %v", cloud, u, err)
		}
		// While her keys are listed, she leaves her name to somebody who has the key by now.
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/keys") && strings.Contains(r.URL.Path, "/users/") {
					f.user("alicia").login = "alice2"
					f.user("carol").login = "alicia"
					f.keys[kept].user = f.user("alicia").id
				}
				return false
			}
		})
		if u, err := f.github.KeyOwner(t.Context(), kept); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("cloud %t: the key of who has the name now: %+v, %v", cloud, u, err)
		}
	}
}

// A key that two users list is neither's.
func TestGitHubKeyOfTwoUsers(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	f.AddUser("bob")
	key := f.AddKey("alice")
	f.change(func() {
		f.graphQL = func(map[string]any) any {
			keys := map[string]any{"nodes": []any{map[string]any{"key": f.keys[key].line}}}
			return map[string]any{"data": map[string]any{"organization": map[string]any{"membersWithRole": map[string]any{
				"pageInfo": map[string]any{"hasNextPage": false, "endCursor": nil},
				"nodes": []any{
					map[string]any{"databaseId": f.user("alice").id, "publicKeys": keys}, map[string]any{"databaseId": f.user("bob").id, "publicKeys": keys},
				},
			}}}}
		}
	})
	if u, err := f.github.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
}

// GraphQL says with the status 200 that it says nothing. Keys that could not be read are not nobody's.
func TestGitHubKeysCannotBeRead(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	key := f.AddKey("alice")
	members := func(page map[string]any) map[string]any {
		return map[string]any{"organization": map[string]any{"membersWithRole": map[string]any{"pageInfo": page, "nodes": []any{}}}}
	}
	for name, body := range map[string]any{
		"limits":           map[string]any{"data": nil, "errors": []any{map[string]any{"type": "RATE_LIMITED"}}},
		"scopes":           map[string]any{"data": members(nil), "errors": []any{map[string]any{"type": "INSUFFICIENT_SCOPES"}}},
		"no organization":  map[string]any{"data": map[string]any{"organization": nil}},
		"nothing":          map[string]any{},
		"no end":           map[string]any{"data": members(map[string]any{"hasNextPage": true, "endCursor": "same"})},
		"what is not JSON": "x",
	} {
		f.change(func() { f.graphQL = func(map[string]any) any { return body } })
		f.Settle()
		if u, err := f.github.KeyOwner(t.Context(), key); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
		f.github.Forget(forge.Event{Key: key})
	}
	f.change(func() { f.graphQL = nil })
	if u, err := f.github.KeyOwner(t.Context(), key); err != nil || u.Name != "alice" {
		t.Errorf("%+v, %v", u, err)
	}
}

// Strangers' keys cost nothing: they are looked for in what was read.
func TestGitHubUnknownKeysAreNotAskedFor(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	key := f.AddKey("alice")
	f.Settle()
	if _, err := f.github.KeyOwner(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	f.requests("")
	for range 100 {
		if u, err := f.github.KeyOwner(t.Context(), ssh.FingerprintSHA256(newPublicKey(t))); !errors.Is(err, forge.ErrNoUser) {
			t.Fatalf("%+v, %v", u, err)
		}
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
	bare, _, _ := githubWith(t, true, func(c *forge.GitHubConfig) { c.Orgs = nil })
	if u, err := bare.github.KeyOwner(t.Context(), bare.AddKey("alice")); !errors.Is(err, forge.ErrNoUser) || len(bare.requests("")) > 0 {
		t.Errorf("without organizations: %+v, %v", u, err)
	}
}

func TestGitHubHookSignature(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	body := []byte(`{"action": "removed", "member": {"id": 41}, "repository": {"id": 74}}`)
	if d, err := f.github.ReadHook(githubHeader("member", body), body); err != nil || len(d.Events) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	old := hmac.New(sha1.New, []byte(githubSecret))
	old.Write(body)
	for name, change := range map[string]func(h http.Header){
		"no signature": func(h http.Header) { h.Del("X-Hub-Signature-256") },
		"the old one": func(h http.Header) {
			h.Del("X-Hub-Signature-256")
			h.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(old.Sum(nil)))
		},
		"the old one, moved": func(h http.Header) { h.Set("X-Hub-Signature-256", "sha1="+hex.EncodeToString(old.Sum(nil))) },
		"of another body": func(h http.Header) {
			h.Set("X-Hub-Signature-256", githubHeader("member", body[1:]).Get("X-Hub-Signature-256"))
		},
		"cut short":      func(h http.Header) { h.Set("X-Hub-Signature-256", h.Get("X-Hub-Signature-256")[:20]) },
		"empty":          func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256=") },
		"no hexadecimal": func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256=zz") },
		"without its algorithm": func(h http.Header) {
			h.Set("X-Hub-Signature-256", strings.TrimPrefix(h.Get("X-Hub-Signature-256"), "sha256="))
		},
		"no delivery": func(h http.Header) { h.Del("X-GitHub-Delivery") },
		"no event":    func(h http.Header) { h.Del("X-GitHub-Event") },
	} {
		h := githubHeader("member", body)
		change(h)
		if d, err := f.github.ReadHook(h, body); !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	for _, bad := range []string{"", "payload=%7B%7D", "[]", `{"action": 1}`, `{"action": "a", "action": "b"}`} {
		if d, err := f.github.ReadHook(githubHeader("member", []byte(bad)), []byte(bad)); !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
			t.Errorf("%q: %+v, %v", bad, d, err)
		}
	}
	bare, _, _ := githubWith(t, true, func(c *forge.GitHubConfig) { c.HookSecret = authn.Secret{} })
	if _, err := bare.github.ReadHook(githubHeader("member", body), body); !errors.Is(err, forge.ErrHook) {
		t.Errorf("no secret configured: %v", err)
	}
	// A delivery that is sent again has the same name; two of one text have two.
	h := githubHeader("member", body)
	first, _ := f.github.ReadHook(h, body)
	again, _ := f.github.ReadHook(h, body)
	other, _ := f.github.ReadHook(githubHeader("member", body), body)
	if first.ID != again.ID || first.ID == other.ID {
		t.Errorf("deliveries are called %q, %q and %q", first.ID, again.ID, other.ID)
	}
}

func TestGitHubHookEvents(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	public := newPublicKey(t)
	key, err := json.Marshal(authorizedKey(public))
	if err != nil {
		t.Fatal(err)
	}
	wide := &forge.Event{}
	for _, tt := range []struct {
		event, body string
		want        *forge.Event // nil for none
	}{
		{"ping", `{"zen": "x"}`, nil},
		{"push", `{"repository": {"id": 74}}`, nil},
		{"member", `{"action": "removed", "member": {"id": 41}, "repository": {"id": 74}}`, &forge.Event{User: "41", Repo: "74"}},
		{"member", `{"action": "removed", "member": {"id": 41}}`, &forge.Event{User: "41"}},
		{"member", `{"action": "removed", "member": null}`, wide},
		{"membership", `{"action": "removed", "scope": "team", "member": {"id": 41}, "team": {"id": 5}}`, &forge.Event{User: "41"}},
		{"membership", `{"action": "removed"}`, wide},
		{"organization", `{"action": "member_removed", "membership": {"user": {"id": 41}}}`, &forge.Event{User: "41"}},
		{"organization", `{"action": "member_added", "membership": {"user": {"id": 41}}}`, &forge.Event{User: "41"}},
		{"organization", `{"action": "member_removed", "membership": {"user": null}}`, wide},
		{"organization", `{"action": "member_invited", "user": {"id": 41}}`, nil},
		{"organization", `{"action": "renamed"}`, nil},
		{"organization", `{"action": "deleted"}`, wide},
		{"team", `{"action": "created", "team": {"id": 5}}`, nil},
		{"team", `{"action": "deleted", "team": {"id": 5}}`, wide},
		{"team", `{"action": "edited", "team": {"id": 5}}`, wide},
		{"team", `{"action": "edited", "team": {"id": 5}, "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"team", `{"action": "removed_from_repository", "team": {"id": 5}, "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"team", `{"action": "added_to_repository", "team": {"id": 5}, "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"team_add", `{"team": {"id": 5}, "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"repository", `{"action": "privatized", "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"repository", `{"action": "transferred", "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"repository", `{"action": "deleted", "repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{"repository", `{"action": "privatized"}`, wide},
		{"public", `{"repository": {"id": 74}}`, &forge.Event{Repo: "74"}},
		{
			"deploy_key", `{"action": "created", "key": {"id": 1, "key": ` + string(key) + `}, "repository": {"id": 74}}`,
			&forge.Event{Key: ssh.FingerprintSHA256(public)},
		},
		{"deploy_key", `{"action": "deleted", "repository": {"id": 74}}`, wide},
		{"org_block", `{"action": "blocked", "blocked_user": {"id": 41}}`, &forge.Event{User: "41"}},
		{"user", `{"action": "deleted", "user": {"id": 41}}`, &forge.Event{User: "41"}},
		{"installation", `{"action": "suspend"}`, wide},
		{"installation_repositories", `{"action": "removed"}`, wide},
	} {
		d, err := f.github.ReadHook(githubHeader(tt.event, []byte(tt.body)), []byte(tt.body))
		if err != nil || d.ID == "" {
			t.Errorf("%s %s: %+v, %v", tt.event, tt.body, d, err)
			continue
		}
		if tt.want == nil {
			if len(d.Events) > 0 {
				t.Errorf("%s %s: %+v, want nothing", tt.event, tt.body, d.Events)
			}
			continue
		}
		if len(d.Events) != 1 || d.Events[0].Why == "" {
			t.Errorf("%s %s: %+v", tt.event, tt.body, d.Events)
			continue
		}
		want, got := *tt.want, d.Events[0]
		want.Forge, want.Why = "github", got.Why
		if got != want {
			t.Errorf("%s %s: %+v, want %+v", tt.event, tt.body, got, want)
		}
	}
}

func FuzzGitHubHook(f *testing.F) {
	f.Add("member", []byte(`{"action": "removed", "member": {"id": 41}, "repository": {"id": 74}}`))
	f.Add("deploy_key", []byte(`{"action": "\u001b[2J", "key": {"key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEiH4ul4oMcSOYkpuT9eCKCzoAE3NHNSWQb9Vk3zQfCa x"}}`))
	g, err := forge.NewGitHub(forge.GitHubConfig{
		Name: "github", URL: "https://github.com", Token: fixedToken("x"), HookSecret: authn.NewSecret(githubSecret),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		h := githubHeader(event, body)
		h.Set("X-GitHub-Delivery", event+"x")
		d, err := g.ReadHook(h, body)
		if err != nil {
			if !errors.Is(err, forge.ErrHook) {
				t.Errorf("%v", err)
			}
			return
		}
		checkEvents(t, "github", d)
	})
}

// follow starts Follow and returns what it emits. It ends with the test.
func (f *githubFake) follow() <-chan forge.Event {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	events, done := make(chan forge.Event, 1000), make(chan error)
	go func() { done <- f.github.Follow(ctx, func(e forge.Event) { events <- e }) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			f.t.Errorf("Follow returned %v", err)
		}
	})
	if e := next(f.t, events); e.Forge != "github" || e.User != "" || e.Repo != "" {
		f.t.Fatalf("nobody looked before, and the first event is %+v", e)
	}
	f.polled()
	return events
}

// polled waits until two more polls have been answered.
func (f *githubFake) polled() {
	f.t.Helper()
	f.requests("")
	for begun, polls := time.Now(), 0; polls < 3; {
		polls += len(f.requests("GET /orgs/org"))
		if time.Since(begun) > 20*time.Second {
			f.t.Fatal("it does not poll")
		}
		time.Sleep(time.Millisecond)
	}
}

func githubQuickly(c *forge.GitHubConfig) { c.Poll, c.Keys = time.Millisecond, time.Millisecond }

// No webhook tells of the base permission, nor of keys.
func TestGitHubFollowsBasePermission(t *testing.T) {
	f, _, _ := githubWith(t, true, githubQuickly)
	f.change(func() { f.base = "read" })
	events := f.follow()
	f.change(func() { f.base = "none" })
	if e := next(t, events); e.Forge != "github" || e.User+e.Repo+e.Key != "" || e.Why == "" {
		t.Errorf("%+v", e)
	}
	f.Fail(http.StatusServiceUnavailable)
	f.polled()
	f.Heal()
	f.polled()
	if len(events) > 0 {
		t.Errorf("a forge that was down: %+v", <-events)
	}
	f.change(func() { f.base = "" }) // as the token is no owner's any more
	if e := next(t, events); e.User+e.Repo+e.Key != "" {
		t.Errorf("%+v", e)
	}
}

func TestGitHubFollowsKeys(t *testing.T) {
	for _, cloud := range []bool{true, false} {
		f, _, _ := githubWith(t, cloud, githubQuickly)
		f.AddKey("alice")
		removed := f.AddKey("alice")
		events := f.follow()
		f.AddKey("alice") // which takes nothing from anybody
		f.polled()
		if len(events) > 0 {
			t.Errorf("cloud %t: %+v", cloud, <-events)
		}
		f.RemoveKey("alice", removed)
		if e := next(t, events); e.Key != removed || e.Forge != "github" {
			t.Errorf("cloud %t: %+v, want %s", cloud, e, removed)
		}
	}
}

func TestGitHubFollowsAuditLog(t *testing.T) {
	f, _, _ := githubWith(t, true, githubQuickly)
	entry := func(id int, action string, members map[string]any) map[string]any {
		out := map[string]any{"_document_id": fmt.Sprint("d", id), "action": action, "@timestamp": time.Now().UnixMilli()}
		for name, value := range members {
			out[name] = value
		}
		return out
	}
	f.change(func() { f.audits = []map[string]any{entry(1, "org.remove_member", map[string]any{"user_id": 99})} })
	events := f.follow()
	if len(events) > 0 {
		t.Fatalf("what was there before: %+v", <-events)
	}
	for i, tt := range []struct {
		action  string
		members map[string]any
		want    *forge.Event
	}{
		{"org.remove_member", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"repo.create_actions_secret", nil, nil},
		{"repo.access", map[string]any{"repo_id": 74, "repo": "org/lib"}, &forge.Event{Repo: "74"}},
		{"repo.remove_member", map[string]any{"repo_id": 74, "user_id": 41}, &forge.Event{User: "41"}},
		{"team.remove_member", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"team.remove_repository", map[string]any{"repo_id": 74}, &forge.Event{Repo: "74"}},
		{"team.destroy", nil, &forge.Event{}},
		{"team.change_parent_team", nil, &forge.Event{}},
		{"org.update_default_repository_permission", nil, &forge.Event{}},
		{"business.update_default_repository_permission", nil, &forge.Event{}},
		{"user.suspend", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"public_key.delete", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"external_identity.deprovision", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"role.update", nil, &forge.Event{}},
		{"organization_role.revoke", map[string]any{"user_id": 41}, &forge.Event{User: "41"}},
		{"workflows.completed_workflow_run", map[string]any{"user_id": 41}, nil},
		{"", nil, nil},
		{"user.suspend", map[string]any{"user_id": 42, "org": []string{"org", "other"}, "org_id": []int{1, 2}}, &forge.Event{User: "42"}},
	} {
		f.change(func() { f.audits = append(f.audits, entry(10+i, tt.action, tt.members)) })
		if tt.want == nil {
			continue // the next event is another's
		}
		got := next(t, events)
		if got.Forge != "github" || got.User != tt.want.User || got.Repo != tt.want.Repo || !strings.Contains(got.Why, tt.action) {
			t.Errorf("%s %v: %+v, want %+v", tt.action, tt.members, got, *tt.want)
		}
	}
	f.polled()
	if len(events) > 0 {
		t.Errorf("told twice: %+v", <-events)
	}
	f.change(func() {
		for i := range 1500 {
			f.audits = append(f.audits, entry(100+i, "org.remove_member", map[string]any{"user_id": 1000 + i}))
		}
	})
	if e := next(t, events); e.User+e.Repo+e.Key != "" {
		t.Errorf("1500 entries: %+v", e)
	}
}

func TestGitHubCheck(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	f.AddKey("alice")
	hook := func() map[string]any {
		return map[string]any{
			"id": 1, "active": true, "events": []string{"*"},
			"config": map[string]any{"url": "https://gate.example.com/v1/hooks/github", "content_type": "json"},
		}
	}
	well := func() {
		f.base, f.lists, f.scopes, f.skew, f.failing, f.spent, f.graphQL = "read", true, "repo, read:org, read:public_key", 0, false, 0, nil
		f.hooks, f.audits = []map[string]any{hook()}, []map[string]any{}
		for _, u := range f.users {
			u.login, u.suspended = "alice", ""
		}
	}
	f.change(well)
	for _, finding := range f.github.Check(t.Context(), "alice") {
		if finding.Health != forge.Fine || finding.Hint != "" || finding.Detail == "" {
			t.Errorf("all is well, and: %+v", finding)
		}
	}
	for _, tt := range []struct {
		change func()
		what   string
		health forge.Health
		detail string
	}{
		{func() { f.scopes = "read:org" }, "token", forge.Broken, "read:org"},
		{func() { f.scopes = "repo, admin:org" }, "token", forge.Doubtful, "admin:org"},
		{func() { f.skew = -90 * time.Second }, "clock", forge.Doubtful, "differs from ours"},
		{func() { f.spent = 4900 }, "quota", forge.Doubtful, "100 of 5000"},
		{func() { f.base = "" }, "org org", forge.Doubtful, "base permission"},
		{func() { f.hooks = nil }, "webhook of org", forge.Doubtful, "/v1/hooks/github"},
		{func() { f.hooks[0]["active"] = false }, "webhook of org", forge.Doubtful, "/v1/hooks/github"},
		{func() { f.hooks[0]["events"] = []string{"push", "member", "membership"} }, "webhook of org", forge.Doubtful, "organization, public, repository"},
		{func() { f.hooks[0]["config"].(map[string]any)["content_type"] = "form" }, "webhook of org", forge.Doubtful, "JSON"},
		{func() { f.audits = nil }, "audit log of org", forge.Doubtful, "404"},
		{func() { f.graphQL = func(map[string]any) any { return map[string]any{} } }, "keys", forge.Broken, "does not see"},
		{func() { f.user("alice").suspended = "2026-11-25T14:40:54Z" }, "canary", forge.Doubtful, "blocked"},
		{func() { f.user("alice").login = "alicia" }, "canary", forge.Broken, "no user"},
		{func() { f.failing, f.status = true, http.StatusUnauthorized }, "connection", forge.Broken, "401"},
		{func() { f.failing, f.status = true, 0 }, "connection", forge.Broken, "EOF"},
	} {
		f.change(func() { well(); tt.change() })
		found := f.github.Check(t.Context(), "alice")
		i := slices.IndexFunc(found, func(g forge.Finding) bool { return g.What == tt.what })
		if i < 0 || found[i].Health != tt.health || !strings.Contains(found[i].Detail, tt.detail) || found[i].Hint == "" {
			t.Errorf("want %d about %s with %q, found %+v", tt.health, tt.what, tt.detail, found)
		}
	}
	f.change(func() { well(); f.scopes = "" })
	if found := f.github.Check(t.Context(), ""); slices.ContainsFunc(found, func(g forge.Finding) bool { return g.Health != forge.Fine }) {
		t.Errorf("an App's token: %+v", found)
	}
	bare, _, _ := githubWith(t, true, func(c *forge.GitHubConfig) { c.Orgs = nil })
	keyless := func(g forge.Finding) bool { return g.What == "keys" && g.Health == forge.Doubtful }
	if found := bare.github.Check(t.Context(), ""); !slices.ContainsFunc(found, keyless) {
		t.Errorf("no organizations: %+v", found)
	}
}
