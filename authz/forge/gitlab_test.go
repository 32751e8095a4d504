package forge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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
	_ forgetest.World      = (*gitlabFake)(nil)
	_ forgetest.Blocker    = (*gitlabFake)(nil)
	_ forgetest.Keyring    = (*gitlabFake)(nil)
	_ forgetest.DeployKeys = (*gitlabFake)(nil)
	_ forgetest.Breaker    = (*gitlabFake)(nil)
)

func TestGitLab(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return openGitLab(t, nil) })
}

// gitlabWith is a GitLab with alice and a private project, and their ids.
func gitlabWith(t *testing.T, change func(*forge.GitLabConfig)) (f *gitlabFake, alice authn.Principal, lib forge.Repo) {
	t.Helper()
	f = openGitLab(t, change)
	f.AddUser("alice")
	f.AddRepo("team/lib", false)
	return f, f.principal("alice"), f.repo("team/lib")
}

func (f *gitlabFake) principal(name string) (p authn.Principal) {
	f.change(func() {
		p = authn.Principal{Forge: "gitlab", ID: fmt.Sprint(f.user(name).id), Name: name, Kind: authn.Human}
	})
	return p
}

func (f *gitlabFake) repo(path string) (r forge.Repo) {
	f.change(func() { r = forge.Repo{Forge: "gitlab", ID: fmt.Sprint(f.project(path).id)} })
	return r
}

// read returns what the provider says of one repository after all has settled.
func (f *gitlabFake) read(p authn.Principal, r forge.Repo) forge.Access {
	f.t.Helper()
	f.Settle()
	return f.fact(p, r).Access
}

func (f *gitlabFake) fact(p authn.Principal, r forge.Repo) forge.Fact {
	f.t.Helper()
	facts, err := f.gitlab.Access(f.t.Context(), p, []forge.Repo{r})
	if err != nil {
		f.t.Logf("ask about %s: %v", r, err)
		return forge.Fact{}
	}
	return facts[0]
}

// A guest (10) and a planner (15) may not pull from a private project.
func TestGitLabGuestOnPrivate(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	for level, want := range map[int]forge.Access{
		0: forge.None, 5: forge.None, 10: forge.None, 15: forge.None, 20: forge.Read, 30: forge.Read, 40: forge.Read, 50: forge.Read,
	} {
		f.change(func() { f.project("team/lib").direct[f.user("alice").id] = gitlabMember{level: level} })
		if got := f.read(alice, lib); got != want {
			t.Errorf("access level %d: %s, want %s", level, got, want)
		}
	}
}

// Memberships of groups count, and the highest does: members/:id knows direct ones alone.
func TestGitLabInheritedMembership(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.change(func() { f.project("team/lib").inherited[f.user("alice").id] = gitlabMember{level: 30} })
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("member of the group: %s", got)
	}
	f.change(func() { f.project("team/lib").direct[f.user("alice").id] = gitlabMember{level: 10} })
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("developer of the group and guest of the project: %s", got)
	}
}

// GET /projects/:id answers 200 for who may read the project and not its code.
func TestGitLabRepositoryAccessLevel(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.AddUser("bob")
	f.Grant("bob", "team/lib")
	bob := f.principal("bob")
	for _, tt := range []struct {
		visibility, code   string
		stranger, reporter forge.Access
	}{
		{"public", "enabled", forge.Read, forge.Read},
		{"public", "private", forge.None, forge.Read},
		{"public", "disabled", forge.None, forge.None},
		{"internal", "enabled", forge.Read, forge.Read},
		{"internal", "private", forge.None, forge.Read},
		{"internal", "disabled", forge.None, forge.None},
		{"private", "enabled", forge.None, forge.Read},
		{"private", "private", forge.None, forge.Read},
		{"private", "disabled", forge.None, forge.None},
		{"public", "", forge.Unknown, forge.Unknown},
		{"public", "public", forge.Unknown, forge.Unknown},
		{"", "enabled", forge.Unknown, forge.Unknown},
		{"secret", "enabled", forge.Unknown, forge.Unknown},
	} {
		f.change(func() { f.project("team/lib").visibility, f.project("team/lib").code = tt.visibility, tt.code })
		if got := f.read(alice, lib); got != tt.stranger {
			t.Errorf("visibility %q, repository_access_level %q: a stranger has %s, want %s", tt.visibility, tt.code, got, tt.stranger)
		}
		if got := f.read(bob, lib); got != tt.reporter {
			t.Errorf("visibility %q, repository_access_level %q: a reporter has %s, want %s", tt.visibility, tt.code, got, tt.reporter)
		}
	}
}

func TestGitLabInternalAndExternalUser(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.change(func() { f.project("team/lib").visibility = "internal" })
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("a user at an internal project: %s", got)
	}
	f.change(func() { f.user("alice").external = true })
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("an external user at an internal project: %s", got)
	}
	f.change(func() { f.project("team/lib").visibility = "public" })
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("an external user at a public project: %s", got)
	}
	f.change(func() { f.project("team/lib").visibility = "internal" })
	f.Grant("alice", "team/lib")
	if got := f.read(alice, lib); got != forge.Read {
		t.Errorf("an external user who is a member: %s", got)
	}
}

// Whether a user is external is shown to administrators alone. What is not shown is not false.
func TestGitLabExternalFlagNotShown(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.change(func() {
		f.project("team/lib").visibility = "internal"
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/api/v4/users/") {
				return false
			}
			respond(w, http.StatusOK, map[string]any{"id": f.user("alice").id, "username": "alice", "state": "active"})
			return true
		}
	})
	if got := f.read(alice, lib); got != forge.Unknown {
		t.Errorf("an internal project: %s, want unknown", got)
	}
	if u, err := f.gitlab.User(t.Context(), alice.ID); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("user: %+v, %v", u, err)
	}
}

// Of the states of a user, one may read.
func TestGitLabUserStates(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	f.Grant("alice", "team/lib")
	for _, state := range []string{"active", "blocked", "ldap_blocked", "blocked_pending_approval", "deactivated", "banned", "", "Active"} {
		f.change(func() { f.user("alice").state = state })
		want := forge.None
		if state == "active" {
			want = forge.Read
		}
		for _, r := range []forge.Repo{lib, open} {
			if got := f.read(alice, r); got != want {
				t.Errorf("state %q: %s, want %s", state, got, want)
			}
		}
		if u, err := f.gitlab.User(t.Context(), alice.ID); err != nil || u.Blocked != (state != "active") {
			t.Errorf("state %q: %+v, %v", state, u, err)
		}
		if u, err := f.gitlab.UserByName(t.Context(), "ALICE"); err != nil || u.Blocked != (state != "active") {
			t.Errorf("state %q: %+v, %v", state, u, err)
		}
	}
}

func TestGitLabMembershipExpires(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	day := func(d int) string { return f.now().UTC().AddDate(0, 0, d).Format(time.DateOnly) }
	for _, tt := range []struct {
		expires string
		want    forge.Access
	}{
		{day(-1), forge.None}, {day(0), forge.None}, {day(2), forge.Read}, {"tomorrow", forge.Unknown},
	} {
		f.change(func() {
			f.project("team/lib").direct[f.user("alice").id] = gitlabMember{level: 20, expires: tt.expires}
		})
		if got := f.read(alice, lib); got != tt.want {
			t.Errorf("expires at %q: %s, want %s", tt.expires, got, tt.want)
		}
	}
	// A minute before midnight, the fact ends with the membership.
	f.change(func() {
		midnight := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 3)
		f.project("team/lib").direct[f.user("alice").id] = gitlabMember{level: 20, expires: midnight.Format(time.DateOnly)}
		f.ahead = time.Until(midnight.Add(-time.Minute))
	})
	got := f.fact(alice, lib)
	if got.Access != forge.Read || got.NotAfter.Sub(got.At) > time.Minute {
		t.Errorf("a minute before the membership ends: %+v", got)
	}
}

func TestGitLabMembershipAwaiting(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.change(func() { f.project("team/lib").direct[f.user("alice").id] = gitlabMember{level: 40, state: "awaiting"} })
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("a membership that nobody has granted yet: %s", got)
	}
}

func TestGitLabMarkedForDeletion(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	f.change(func() { f.project("team/lib").deletion = "2026-12-01" })
	if got := f.read(alice, lib); got != forge.None {
		t.Errorf("a project that is being deleted: %s", got)
	}
}

// GitLab shows who created a deploy key as its user.
func TestGitLabDeployKeyIsNotItsCreator(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	key := f.AddDeployKey("team/lib")
	if u, err := f.gitlab.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrDeployKey) || u.ID != "" {
		t.Errorf("a deploy key: %+v, %v", u, err)
	}
	for _, projects := range []any{[]any{}, []any{nil}, map[string]any{}, false} {
		f.change(func() { f.keys[key].deploy = projects })
		if u, err := f.gitlab.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrDeployKey) || u.ID != "" {
			t.Errorf("a deploy key with the projects %v: %+v, %v", projects, u, err)
		}
	}
}

func TestGitLabKeyUsageAndExpiry(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	key := f.AddKey("alice")
	at := func(d time.Duration) string { return f.now().Add(d).UTC().Format(time.RFC3339) }
	for _, tt := range []struct {
		usage, expires string
		ok             bool
	}{
		{"auth", "", true},
		{"auth_and_signing", "", true},
		{"", "", true},
		{"signing", "", false},
		{"other", "", false},
		{"auth", at(time.Hour), true},
		{"auth", at(-time.Second), false},
	} {
		f.change(func() { f.keys[key].usage, f.keys[key].expires = tt.usage, tt.expires })
		u, err := f.gitlab.KeyOwner(t.Context(), key)
		nobody := errors.Is(err, forge.ErrNoUser) && !errors.Is(err, forge.ErrDeployKey)
		if nobody == tt.ok || (err == nil) != tt.ok || (u.Name == "alice") != tt.ok {
			t.Errorf("usage %q, expires %q: %+v, %v", tt.usage, tt.expires, u, err)
		}
	}
	f.change(func() { f.keys[key].usage, f.keys[key].expires = "auth", "soon" })
	if _, err := f.gitlab.KeyOwner(t.Context(), key); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("an end that cannot be read: %v", err)
	}
}

// The characters + and / of a fingerprint mean something else in a query.
func TestGitLabFingerprintIsEscaped(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	for range 1000 {
		key := f.AddKey("alice")
		if !strings.ContainsAny(key, "+") || !strings.Contains(key, "/") {
			continue
		}
		if u, err := f.gitlab.KeyOwner(t.Context(), key); err != nil || u.Name != "alice" {
			t.Errorf("the owner of %s: %+v, %v", key, u, err)
		}
		return
	}
	t.Fatal("no such fingerprint came up")
}

// A blocked user is said to be the owner, and blocked.
func TestGitLabKeyOfBlockedUser(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	key := f.AddKey("alice")
	f.Block("alice", true)
	if u, err := f.gitlab.KeyOwner(t.Context(), key); err != nil || !u.Blocked || u.Name != "alice" {
		t.Errorf("a blocked user's key: %+v, %v", u, err)
	}
}

// A key's answer counts for that key.
func TestGitLabKeyAnswerAboutAnotherKey(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	f.AddUser("bob")
	mine, theirs := f.AddKey("alice"), f.AddKey("bob")
	f.change(func() { f.keys[mine] = f.keys[theirs] })
	if u, err := f.gitlab.KeyOwner(t.Context(), mine); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("another's key: %+v, %v", u, err)
	}
}

// A token that is no administrator's may not look keys up: that is no answer about the key.
func TestGitLabKeysWithoutRights(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	key := f.AddKey("alice")
	f.change(func() { f.admin = false })
	if u, err := f.gitlab.KeyOwner(t.Context(), key); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("without rights: %+v, %v", u, err)
	}
}

// An answer that is about another id than was asked for is neither yes nor no.
func TestGitLabLiesAboutIDs(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	for _, lie := range []struct {
		path string
		repo forge.Repo
		body map[string]any
	}{
		{"/api/v4/projects/" + lib.ID, lib, map[string]any{"id": 1, "visibility": "public", "repository_access_level": "enabled"}},
		{"/api/v4/projects/" + lib.ID, lib, map[string]any{}},
		{"/api/v4/projects/" + lib.ID + "/members/all/" + alice.ID, lib, map[string]any{"id": 1, "state": "active", "access_level": 50}},
		{"/api/v4/projects/" + lib.ID + "/members/all/" + alice.ID, lib, map[string]any{}},
		{"/api/v4/users/" + alice.ID, open, map[string]any{"id": 1, "username": "alice", "state": "active", "external": false}},
		{"/api/v4/users/" + alice.ID, open, map[string]any{}},
	} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == lie.path {
					respond(w, http.StatusOK, lie.body)
				}
				return r.URL.Path == lie.path
			}
		})
		if got := f.read(alice, lie.repo); got != forge.Unknown {
			t.Errorf("%s answers %v: %s, want unknown", lie.path, lie.body, got)
		}
	}
	for _, body := range []map[string]any{{}, {"id": 0, "path_with_namespace": "team/lib"}, {"id": -4, "path_with_namespace": "team/lib"}, {"id": 17}} {
		f.change(func() {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool { respond(w, http.StatusOK, body); return true }
		})
		if r, _, err := f.resolve("team/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("resolve, answered with %v: %s, %v", body, r, err)
		}
	}
}

// What is not GitLab's interface is no answer: a sign-in page, half an answer, an answer without end.
func TestGitLabMalformedAnswers(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	for name, answer := range map[string]func(w io.Writer){
		"page":    func(w io.Writer) { io.WriteString(w, "<html>Sign in</html>") },
		"half":    func(w io.Writer) { io.WriteString(w, `{"id": `+lib.ID+`, "visib`) },
		"null":    func(w io.Writer) { io.WriteString(w, "null") },
		"nothing": func(io.Writer) {},
		"list":    func(w io.Writer) { io.WriteString(w, "[]") },
		"endless": func(w io.Writer) {
			io.WriteString(w, `{"id": `+lib.ID+`, "path_with_namespace": "team/lib", "description": "`)
			junk := strings.Repeat("x", 1<<20)
			for range 17 {
				if _, err := io.WriteString(w, junk); err != nil {
					return
				}
			}
			io.WriteString(w, `", "visibility": "public", "repository_access_level": "enabled", "marked_for_deletion_on": null}`)
		},
	} {
		f.change(func() { f.answer = func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true } })
		if got := f.read(alice, lib); got != forge.Unknown {
			t.Errorf("%s: %s, want unknown", name, got)
		}
		if _, err := f.gitlab.User(t.Context(), alice.ID); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%s: user: %v", name, err)
		}
		if _, _, err := f.resolve("team/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("%s: resolve: %v", name, err)
		}
	}
}

func (f *gitlabFake) resolve(path string) (forge.Repo, bool, error) {
	return f.gitlab.Resolve(f.t.Context(), source.Locator{Host: f.Host(), Path: path})
}

// What a source is called selects a project by its path and nothing else: a path that is a number would be another project's.
func TestGitLabPathIsNoNumber(t *testing.T) {
	f, _, lib := gitlabWith(t, nil)
	f.requests("")
	if r, owns, err := f.resolve(lib.ID); !owns || !errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("resolve %q: %s, %t, %v", lib.ID, r, owns, err)
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
	for _, path := range []string{
		"../users/1", lib.ID + "/members/all", "team/lib/../other", "team/lib?x=/y", "team/lib#x", "team%2flib/x", "team/lib\n/x", "./x",
	} {
		if r, owns, err := f.resolve(path); !owns || !errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("resolve %q: %s, %t, %v", path, r, owns, err)
		}
		for _, asked := range f.requests("") {
			rest, ok := strings.CutPrefix(asked, "GET /api/v4/projects/")
			if !ok || strings.ContainsAny(rest, "/?#") {
				t.Errorf("resolve %q asks %q", path, asked)
			}
		}
	}
}

func TestGitLabIDsAreNumbers(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	f.Settle()
	f.requests("")
	for _, id := range []string{
		"", "0", "-1", "+" + lib.ID, "0" + lib.ID, lib.ID + " ", "team%2Flib", "team/lib", lib.ID + "/../" + open.ID, "99999999999999999999",
	} {
		if got := f.fact(alice, forge.Repo{Forge: "gitlab", ID: id}); got.Access != forge.None {
			t.Errorf("repository %q: %s", id, got.Access)
		}
		if got := f.fact(authn.Principal{Forge: "gitlab", ID: id}, open); got.Access != forge.None {
			t.Errorf("user %q: %s", id, got.Access)
		}
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
}

func TestGitLabOtherForges(t *testing.T) {
	f, alice, _ := gitlabWith(t, nil)
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	stranger := alice
	stranger.Forge = "github"
	if got := f.read(stranger, open); got != forge.None {
		t.Errorf("a user of another forge: %s", got)
	}
	if got := f.read(alice, forge.Repo{Forge: "github", ID: open.ID}); got != forge.None {
		t.Errorf("a repository of another forge: %s", got)
	}
}

func TestGitLabPathCase(t *testing.T) {
	f, _, lib := gitlabWith(t, nil)
	if r, _, err := f.resolve("Team/LIB"); err != nil || r != lib {
		t.Errorf("another case: %s, %v; want %s", r, err, lib)
	}
}

// A moved path leads to the project for as long as no other has it.
func TestGitLabRedirectOfMovedPath(t *testing.T) {
	f, _, lib := gitlabWith(t, nil)
	f.Rename("team/lib", "other/lib")
	if r, _, err := f.resolve("team/lib"); err != nil || r != lib {
		t.Errorf("the old path: %s, %v; want %s", r, err, lib)
	}
	f.AddRepo("team/lib", true)
	if r, _, err := f.resolve("team/lib"); err != nil || r == lib {
		t.Errorf("the old path, taken by another: %s, %v", r, err)
	}
}

// The token goes to no other host, and what it says is nothing.
func TestGitLabRedirectToAnotherHost(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	var mu sync.Mutex
	var reached int
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		reached++
		respond(w, http.StatusOK, map[string]any{
			"id": f.project("team/lib").id, "path_with_namespace": "team/lib", "visibility": "public", "repository_access_level": "enabled",
			"username": "alice", "state": "active", "external": false, "access_level": 50,
		})
	}))
	t.Cleanup(other.Close)
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, other.URL+r.URL.RequestURI(), http.StatusMovedPermanently)
			return true
		}
	})
	if r, _, err := f.resolve("team/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("resolve: %s, %v", r, err)
	}
	if got := f.read(alice, lib); got != forge.Unknown {
		t.Errorf("access: %s", got)
	}
	if _, err := f.gitlab.User(t.Context(), alice.ID); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("user: %v", err)
	}
	if reached != 0 {
		t.Errorf("the other host was asked %d times", reached)
	}
}

// Under a relative root, paths have it over https and not over ssh.
func TestGitLabRelativeRoot(t *testing.T) {
	f, _, lib := gitlabWith(t, func(c *forge.GitLabConfig) { c.URL += "/gitlab/" })
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			http.StripPrefix("/gitlab", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(w, r) })).ServeHTTP(w, r)
			return true
		}
	})
	for _, path := range []string{"team/lib", "gitlab/team/lib"} {
		if r, _, err := f.resolve(path); err != nil || r != lib {
			t.Errorf("resolve %q: %s, %v; want %s", path, r, err, lib)
		}
	}
	f.AddRepo("gitlab/team/lib", false)
	if r, _, err := f.resolve("gitlab/team/lib"); err == nil || errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("two may be meant: %s, %v", r, err)
	}
}

func TestGitLabHosts(t *testing.T) {
	for _, tt := range []struct {
		url   string
		hosts []string
		want  []string
	}{
		{"https://GitLab.example.com", nil, []string{"gitlab.example.com"}},
		{"https://gitlab.example.com:443/", nil, []string{"gitlab.example.com"}},
		{"http://gitlab.example.com:80", nil, []string{"gitlab.example.com"}},
		{"https://gitlab.example.com:8443/root", nil, []string{"gitlab.example.com:8443"}},
		{"https://[::1]:8443", nil, []string{"[::1]:8443"}},
		{"https://gitlab.example.com", []string{"git.example.com", "git.example.com:2222"}, []string{"git.example.com", "git.example.com:2222"}},
	} {
		g, err := forge.NewGitLab(forge.GitLabConfig{Name: "gitlab", URL: tt.url, Hosts: tt.hosts, Token: fixedToken("x")})
		if err != nil || !slices.Equal(g.Hosts(), tt.want) {
			t.Errorf("%s, %v: %v, %v", tt.url, tt.hosts, g.Hosts(), err)
		}
	}
	for _, c := range []forge.GitLabConfig{
		{Name: "Git/Lab", URL: "https://gitlab.example.com", Token: fixedToken("x")},
		{Name: "gitlab", URL: "gitlab.example.com", Token: fixedToken("x")},
		{Name: "gitlab", URL: "https://user:secret@gitlab.example.com", Token: fixedToken("x")},
		{Name: "gitlab", URL: "", Token: fixedToken("x")},
		{Name: "gitlab", URL: "https://gitlab.example.com"},
	} {
		if _, err := forge.NewGitLab(c); err == nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// GitLab's search for an external id takes one case for another.
func TestGitLabIdentities(t *testing.T) {
	f, _, _ := gitlabWith(t, func(c *forge.GitLabConfig) {
		c.Providers = map[string]string{"https://idp.example.com": "openid_connect", "https://other.example.com": "saml"}
	})
	f.AddUser("mallory")
	f.change(func() {
		f.user("alice").identities = [][2]string{{"openid_connect", "6f1c"}, {"saml", "alice"}}
		f.user("mallory").identities = [][2]string{{"openid_connect", "6F1C"}, {"openid_connect", "alice"}}
		f.user("mallory").state = "blocked"
	})
	for _, tt := range []struct{ issuer, subject, want string }{
		{"https://idp.example.com", "6f1c", "alice"},
		{"https://idp.example.com", "6F1C", "mallory"},
		{"https://idp.example.com", "6F1c", ""},
		{"https://other.example.com", "alice", "alice"},
		{"https://idp.example.com", "alice", "mallory"},
		{"https://idp.example.com", "alice&provider=saml", ""},
		{"https://idp.example.com", "", ""},
		{"https://idp.example.com/", "6f1c", ""},
		{"", "6f1c", ""},
	} {
		u, err := f.gitlab.IdentityOwner(t.Context(), tt.issuer, tt.subject)
		if u.Name != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%q at %q: %+v, %v; want %q", tt.subject, tt.issuer, u, err, tt.want)
		}
		if u.Blocked != (tt.want == "mallory") {
			t.Errorf("%+v: blocked is lost", u)
		}
	}
	f.change(func() { f.user("mallory").identities = [][2]string{{"openid_connect", "6f1c"}} })
	if u, err := f.gitlab.IdentityOwner(t.Context(), "https://idp.example.com", "6f1c"); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("one identity of two users: %+v, %v", u, err)
	}
}

func TestGitLabBots(t *testing.T) {
	f, alice, _ := gitlabWith(t, nil)
	f.change(func() { f.user("alice").bot = true })
	if u, err := f.gitlab.User(t.Context(), alice.ID); err != nil || u.Kind != authn.Service {
		t.Errorf("a bot: %+v, %v", u, err)
	}
}

// A refusal is passed on at once, for the transport to heed: the library would wait and try again.
func TestGitLabAsksOnce(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	for _, status := range f.Faults() {
		f.Settle()
		f.requests("")
		f.Fail(status)
		facts, err := f.gitlab.Access(t.Context(), alice, []forge.Repo{lib})
		if err == nil {
			t.Errorf("status %d: %+v", status, facts)
		}
		if asked := f.requests(""); len(asked) != 1 {
			t.Errorf("status %d: asked %q", status, asked)
		}
		f.resolve("team/lib")
		if asked := f.requests(""); len(asked) != 1 {
			t.Errorf("status %d: asked %q", status, asked)
		}
		f.Heal()
	}
}

// The first answer's RateLimit headers do not make the library slow down for ever.
func TestGitLabLibraryDoesNotLimit(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("RateLimit-Limit", "1")
			return false
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 20 { // at one a minute, the second would wait for longer than the test lasts
		if _, _, err := f.gitlab.Resolve(ctx, source.Locator{Host: f.Host(), Path: "team/lib"}); err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
	}
}

// One repository that cannot be asked about leaves the others their answers.
func TestGitLabOneOfSeveralFails(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	f.AddRepo("team/bad", false)
	bad := f.repo("team/bad")
	f.change(func() {
		f.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/projects/"+bad.ID) {
				fail(w, http.StatusBadGateway)
				return true
			}
			return false
		}
	})
	repos := []forge.Repo{bad, lib, bad}
	facts, err := f.gitlab.Access(t.Context(), alice, repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil || facts[0].Access != forge.Unknown || facts[1].Access != forge.Read || facts[2].Access != forge.Unknown {
		t.Errorf("%+v, %v", facts, err)
	}
	if !strings.Contains(facts[0].Origin, "502") {
		t.Errorf("the reason is lost: %q", facts[0].Origin)
	}
}

// A fact is as old as the first question it rests on, though that was shared.
func TestGitLabFactsAreAsOldAsTheirQuestions(t *testing.T) {
	f, alice, _ := gitlabWith(t, nil)
	f.AddUser("bob")
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	f.Settle()
	before := f.now()
	first := f.fact(alice, open)
	if first.At.Before(before) || first.At.After(f.now()) || !first.NotAfter.Equal(first.At.Add(300*time.Second)) {
		t.Errorf("asked between %v and %v: %+v", before, f.now(), first)
	}
	f.change(func() { f.ahead += 2 * time.Second })
	f.requests("")
	shared := f.fact(f.principal("bob"), open)
	if asked := f.requests("GET /api/v4/projects/"); len(asked) != 0 {
		t.Errorf("asked again for the project: %q", asked)
	}
	if !shared.At.Equal(first.At) {
		t.Errorf("rests on what was learnt at %v and says %v", first.At, shared.At)
	}
	since := f.now()
	facts, err := f.gitlab.Access(forge.NotBefore(t.Context(), since), alice, []forge.Repo{open})
	if err != nil || facts[0].At.Before(since) {
		t.Errorf("asked for what was learnt at %v or later: %+v, %v", since, facts, err)
	}
	f.change(func() { f.ahead += 2 * time.Second })
	f.gitlab.Forget(forge.Event{Forge: "gitlab", User: alice.ID})
	if again := f.fact(alice, open); !again.At.After(facts[0].At) {
		t.Errorf("after an event about the user, the fact of %v is used again", again.At)
	}
	f.gitlab.Forget(forge.Event{Forge: "elsewhere"})
	f.gitlab.Forget(forge.Event{Forge: "gitlab", Key: "SHA256:x"})
	f.requests("")
	f.fact(alice, open)
	if asked := f.requests("GET /api/v4/projects/"); len(asked) != 0 {
		t.Errorf("events about other things dropped the project: %q", asked)
	}
}

// The user is asked about once, and what rests on that is as old.
func TestGitLabFactsAreAsOldAsTheUser(t *testing.T) {
	f, alice, _ := gitlabWith(t, nil)
	var repos []forge.Repo
	for i := range 40 {
		path := fmt.Sprint("team/open", i)
		f.AddRepo(path, true)
		repos = append(repos, f.repo(path))
	}
	f.Settle()
	var asked []time.Time
	f.change(func() {
		f.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/api/v4/users/") {
				asked = append(asked, time.Now().Add(f.ahead))
			}
			return false
		}
	})
	facts, err := f.gitlab.Access(t.Context(), alice, repos)
	if err != nil || len(asked) != 1 {
		t.Fatalf("asked about the user at %v: %v", asked, err)
	}
	for _, got := range facts {
		if got.Access != forge.Read || got.At.After(asked[0]) {
			t.Errorf("the user was asked about at %v: %+v", asked[0], got)
		}
	}
}

// The slow yes: a project is public as it is asked about, made private, and the answer arrives after the event. No later question
// may rest on it.
func TestGitLabSlowYesIsOvertaken(t *testing.T) {
	f, alice, _ := gitlabWith(t, nil)
	f.AddRepo("team/open", true)
	open := f.repo("team/open")
	f.Settle()
	asked, release := make(chan struct{}), make(chan struct{})
	slow := make(chan struct{}, 1)
	slow <- struct{}{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		late := httptest.NewRecorder()
		f.ServeHTTP(late, r)
		select {
		case <-slow:
			close(asked)
			<-release
		default:
		}
		for name, values := range late.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(late.Code)
		w.Write(late.Body.Bytes())
	}))
	t.Cleanup(front.Close)
	g, err := forge.NewGitLab(forge.GitLabConfig{Name: "gitlab", URL: front.URL, Token: fixedToken(gitlabToken)})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan forge.Fact, 2)
	ask := func() {
		facts, err := g.Access(context.Background(), alice, []forge.Repo{open})
		if err != nil {
			t.Error(err)
		}
		answers <- facts[0]
	}
	go ask()
	<-asked
	f.change(func() { f.project("team/open").visibility = "private" })
	g.Forget(forge.Event{Forge: "gitlab", Repo: open.ID})
	ask()
	if got := <-answers; got.Access != forge.None {
		t.Errorf("asked after the event: %s", got.Access)
	}
	close(release)
	if got := <-answers; got.Access != forge.None {
		t.Errorf("the overtaken question: %s, want what is so now", got.Access)
	}
}

// Who waits does not wait for a question that nobody waits for, and that is served last.
func TestGitLabBackgroundQuestionHoldsNobodyUp(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	f.Settle()
	asked, release := make(chan struct{}), make(chan struct{})
	g, err := forge.NewGitLab(forge.GitLabConfig{
		Name: "gitlab", URL: f.server.URL, Token: fixedToken(gitlabToken),
		HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Context().Value(slowKey{}) != nil {
				close(asked)
				<-release
				return nil, errors.New("too late")
			}
			return http.DefaultTransport.RoundTrip(r)
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := g.Access(forge.InBackground(context.WithValue(t.Context(), slowKey{}, true)), alice, []forge.Repo{lib})
		done <- err
	}()
	<-asked
	facts, err := g.Access(t.Context(), alice, []forge.Repo{lib})
	if err != nil || facts[0].Access != forge.Read {
		t.Errorf("%+v, %v", facts, err)
	}
	close(release)
	if err := <-done; err == nil {
		t.Error("the question in the background did not fail")
	}
}

type slowKey struct{}

// Who leaves does not take the answer from those who wait for the same.
func TestGitLabOneOfTwoWaitersLeaves(t *testing.T) {
	f, alice, lib := gitlabWith(t, nil)
	f.Grant("alice", "team/lib")
	f.Settle()
	asked, release := make(chan struct{}, 10), make(chan struct{})
	g, err := forge.NewGitLab(forge.GitLabConfig{
		Name: "gitlab", URL: f.server.URL, Token: fixedToken(gitlabToken),
		HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/projects/"+lib.ID) {
				asked <- struct{}{}
			}
			select {
			case <-release:
				return http.DefaultTransport.RoundTrip(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	first, leave := context.WithCancel(t.Context())
	left, stayed := make(chan error), make(chan error)
	ask := func(ctx context.Context, done chan error) {
		_, err := g.Access(ctx, alice, []forge.Repo{lib})
		done <- err
	}
	go ask(first, left)
	<-asked
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	go ask(t.Context(), stayed)
	close(release)
	if err := <-stayed; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	if len(asked) > 0 {
		t.Error("the project is asked about again")
	}
}

func TestGitLabTokenCannotBeRead(t *testing.T) {
	f, alice, lib := gitlabWith(t, func(c *forge.GitLabConfig) {
		c.Token = func() (authn.Secret, error) { return authn.Secret{}, errors.New("the file is gone") }
	})
	f.requests("")
	if _, err := f.gitlab.Access(t.Context(), alice, []forge.Repo{lib}); err == nil || !strings.Contains(err.Error(), "the file is gone") {
		t.Errorf("%v", err)
	}
	if asked := f.requests(""); len(asked) > 0 {
		t.Errorf("asked without a token: %q", asked)
	}
}

func TestGitLabHookSecret(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	body := []byte(`{"event_name": "user_remove_from_team", "user_id": 17, "project_id": 18}`)
	for name, change := range map[string]func(h http.Header){
		"no secret":      func(h http.Header) { h.Del("X-Gitlab-Token") },
		"empty":          func(h http.Header) { h.Set("X-Gitlab-Token", "") },
		"another":        func(h http.Header) { h.Set("X-Gitlab-Token", gitlabSecret+"x") },
		"a part":         func(h http.Header) { h.Set("X-Gitlab-Token", gitlabSecret[:5]) },
		"a project hook": func(h http.Header) { h.Set("X-Gitlab-Event", "Push Hook") },
		"no event":       func(h http.Header) { h.Del("X-Gitlab-Event") },
	} {
		h := gitlabHeader()
		change(h)
		if d, err := f.gitlab.ReadHook(h, body); !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	for _, bad := range []string{"", "x", "[]", `{"event_name": 1}`, `{"event_name": "a", "event_name": "b"}`} {
		if d, err := f.gitlab.ReadHook(gitlabHeader(), []byte(bad)); !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
			t.Errorf("%q: %+v, %v", bad, d, err)
		}
	}
	bare, _, _ := gitlabWith(t, func(c *forge.GitLabConfig) { c.HookSecret = authn.Secret{} })
	for _, token := range []string{"", gitlabSecret} {
		h := gitlabHeader()
		h.Set("X-Gitlab-Token", token)
		if _, err := bare.gitlab.ReadHook(h, body); !errors.Is(err, forge.ErrHook) {
			t.Errorf("no secret configured, %q sent: %v", token, err)
		}
	}
}

func TestGitLabHookEvents(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	public := newPublicKey(t)
	fingerprint := ssh.FingerprintSHA256(public)
	key, err := json.Marshal(authorizedKey(public) + " alice@laptop")
	if err != nil {
		t.Fatal(err)
	}
	wide := &forge.Event{}
	for _, tt := range []struct {
		body string
		want *forge.Event // nil for none
	}{
		{`{"event_name": "user_add_to_team", "user_id": 41, "project_id": 74, "project_visibility": "private"}`, &forge.Event{User: "41", Repo: "74"}},
		{`{"event_name": "user_remove_from_team", "user_id": 41, "project_id": 74}`, &forge.Event{User: "41", Repo: "74"}},
		{`{"event_name": "user_update_for_team", "user_id": 41, "project_id": 74}`, &forge.Event{User: "41", Repo: "74"}},
		{`{"event_name": "user_remove_from_team", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "user_remove_from_team", "user_id": "41"}`, wide},
		{`{"event_name": "user_add_to_group", "user_id": 41, "group_id": 78}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_remove_from_group", "user_id": 41, "group_id": 78}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_update_for_group", "user_id": 41, "group_id": 78}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_remove_from_group", "user_id": 4.1e1, "group_id": 78}`, wide},
		{`{"event_name": "user_create", "user_id": 41}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_destroy", "user_id": 41}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_rename", "user_id": 41, "old_username": "alice"}`, &forge.Event{User: "41"}},
		{`{"event_name": "user_failed_login", "user_id": 41, "state": "active"}`, nil},
		{`{"event_name": "user_failed_login", "user_id": 41, "state": "blocked"}`, &forge.Event{User: "41"}},
		{`{"event_name": "project_create", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "project_destroy", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "project_rename", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "project_transfer", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "project_update", "project_id": 74}`, &forge.Event{Repo: "74"}},
		{`{"event_name": "project_update"}`, wide},
		{`{"event_name": "key_create", "username": "alice", "id": 4, "key": ` + string(key) + `}`, &forge.Event{Key: fingerprint}},
		{`{"event_name": "key_destroy", "username": "alice", "id": 4, "key": ` + string(key) + `}`, &forge.Event{Key: fingerprint}},
		{`{"event_name": "key_destroy", "username": "alice", "id": 4, "key": "ssh-rsa x"}`, wide},
		{`{"event_name": "key_destroy", "username": "alice", "id": 4}`, wide},
		{`{"event_name": "group_create", "group_id": 78}`, nil},
		{`{"event_name": "group_rename", "group_id": 78}`, nil},
		{`{"event_name": "group_destroy", "group_id": 78}`, wide},
		{`{"event_name": "repository_update", "project_id": 74, "user_id": 41}`, nil},
		{`{"event_name": "push", "project_id": 74, "user_id": 41}`, nil},
		{`{"event_name": "tag_push", "project_id": 74, "user_id": 41}`, nil},
		{`{"object_kind": "merge_request"}`, nil},
		{`{"event_name": "user_access_request_to_project", "user_id": 41, "project_id": 74}`, nil},
		{`{"event_name": "user_access_request_denied_for_group", "user_id": 41, "group_id": 78}`, nil},
		{`{"event_name": "project_shared_with_group"}`, wide}, // one that GitLab has not, yet
		{`{"object_kind": "news"}`, wide},
		{`{}`, wide},
	} {
		d, err := f.gitlab.ReadHook(gitlabHeader(), []byte(tt.body))
		if err != nil || d.ID == "" || !d.At.IsZero() {
			t.Errorf("%s: %+v, %v", tt.body, d, err)
			continue
		}
		if tt.want == nil {
			if len(d.Events) > 0 {
				t.Errorf("%s: %+v, want nothing", tt.body, d.Events)
			}
			continue
		}
		if len(d.Events) != 1 || d.Events[0].Why == "" {
			t.Errorf("%s: %+v", tt.body, d.Events)
			continue
		}
		want, got := *tt.want, d.Events[0]
		want.Forge, want.Why = "gitlab", got.Why
		if got != want {
			t.Errorf("%s: %+v, want %+v", tt.body, got, want)
		}
	}
}

// What is taken for a replay is lost: two deliveries of one text are two, and one that is sent again is one.
func TestGitLabHookReplay(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	body := []byte(`{"event_name": "user_remove_from_team", "user_id": 41, "project_id": 74}`)
	id := func(change func(http.Header), body []byte) string {
		h := gitlabHeader()
		h.Set("X-Gitlab-Event-UUID", "e1")
		h.Set("X-Gitlab-Webhook-UUID", "always the same")
		change(h)
		d, err := f.gitlab.ReadHook(h, body)
		if err != nil {
			t.Fatal(err)
		}
		return d.ID
	}
	same := func(http.Header) {}
	first := id(same, body)
	if id(same, body) != first {
		t.Error("the same delivery has two names")
	}
	seen := map[string]bool{first: true}
	for _, other := range []string{
		id(func(h http.Header) { h.Set("X-Gitlab-Event-UUID", "e2") }, body),
		id(func(h http.Header) { h.Set("Idempotency-Key", "k1") }, body),
		id(same, append(body, ' ')),
	} {
		if seen[other] {
			t.Error("two deliveries have one name")
		}
		seen[other] = true
	}
}

func FuzzGitLabHook(f *testing.F) {
	f.Add([]byte(`{"event_name": "user_remove_from_team", "user_id": 41, "project_id": 74}`))
	f.Add([]byte(`{"event_name": "key_destroy", "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEiH4ul4oMcSOYkpuT9eCKCzoAE3NHNSWQb9Vk3zQfCa x"}`))
	f.Add([]byte("{\"event_name\": \"\\u001b[2J\\n\"}"))
	g, err := forge.NewGitLab(forge.GitLabConfig{
		Name: "gitlab", URL: "https://gitlab.example.com", Token: fixedToken("x"), HookSecret: authn.NewSecret(gitlabSecret),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := g.ReadHook(gitlabHeader(), body)
		if err != nil {
			if !errors.Is(err, forge.ErrHook) {
				t.Errorf("%v", err)
			}
			return
		}
		checkEvents(t, "gitlab", d)
	})
}

// checkEvents reports events that could not be told to other nodes and to people.
func checkEvents(t *testing.T, name string, d forge.Delivery) {
	t.Helper()
	if d.ID == "" || !printable(d.ID) {
		t.Errorf("the delivery's id is %q", d.ID)
	}
	for _, e := range d.Events {
		if e.Forge != name || !printable(e.User+e.Repo+e.Key+e.Why) || len(e.Why) > 300 {
			t.Errorf("%+v", e)
		}
	}
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' && r != '…' })
}

// gitlabFollow starts Follow and returns what it emits. It ends with the test.
func (f *gitlabFake) follow() <-chan forge.Event {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	events, done := make(chan forge.Event, 1000), make(chan error)
	go func() { done <- f.gitlab.Follow(ctx, func(e forge.Event) { events <- e }) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			f.t.Errorf("Follow returned %v", err)
		}
	})
	if e := next(f.t, events); e.Forge != "gitlab" || e.User != "" || e.Repo != "" {
		f.t.Fatalf("nobody looked before, and the first event is %+v", e)
	}
	return events
}

func next(t *testing.T, events <-chan forge.Event) forge.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event came")
		return forge.Event{}
	}
}

// polled waits until two more polls have been answered.
func (f *gitlabFake) polled() {
	f.t.Helper()
	f.requests("")
	for begun, polls := time.Now(), 0; polls < 3; {
		polls += len(f.requests("GET /api/v4/users?"))
		if time.Since(begun) > 20*time.Second {
			f.t.Fatal("it does not poll")
		}
		time.Sleep(time.Millisecond)
	}
}

func quickly(c *forge.GitLabConfig) { c.Poll = time.Millisecond }

// No hook tells of blocked users.
func TestGitLabFollowsBlockedUsers(t *testing.T) {
	f, alice, _ := gitlabWith(t, quickly)
	f.AddUser("bob")
	f.Block("bob", true)
	events := f.follow()
	for _, state := range []bool{true, false} {
		f.Block("alice", state)
		if e := next(t, events); e.Forge != "gitlab" || e.User != alice.ID || e.Repo != "" || e.Why == "" {
			t.Errorf("blocked %t: %+v", state, e)
		}
	}
	f.polled()
	if len(events) > 0 {
		t.Errorf("without a change: %+v", <-events)
	}
}

// A listing that breaks off, or is of other users, is none: who it lacks is not unblocked. What happened meanwhile is told after.
func TestGitLabFollowsAfterAGap(t *testing.T) {
	f, alice, _ := gitlabWith(t, quickly)
	for i := range 150 {
		f.AddUser(fmt.Sprintf("blocked%d", i))
		f.Block(fmt.Sprintf("blocked%d", i), true)
	}
	events := f.follow()
	f.polled()
	if len(events) > 0 {
		t.Fatalf("users of the second page: %+v", <-events)
	}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"the second page fails": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Has("id_after") {
				fail(w, http.StatusServiceUnavailable)
				return true
			}
			return false
		},
		"all users": func(_ http.ResponseWriter, r *http.Request) bool {
			q := r.URL.Query()
			q.Del("blocked")
			r.URL.RawQuery = q.Encode()
			return false
		},
		"no user": func(w http.ResponseWriter, r *http.Request) bool { respond(w, http.StatusOK, []any{nil}); return true },
		"no listing": func(w http.ResponseWriter, r *http.Request) bool {
			respond(w, http.StatusOK, map[string]any{})
			return true
		},
	} {
		f.change(func() { f.answer = answer })
		f.polled()
		if len(events) > 0 {
			t.Errorf("%s: %+v", name, <-events)
		}
	}
	f.Block("alice", true)
	f.change(func() { f.answer = nil })
	if e := next(t, events); e.User != alice.ID {
		t.Errorf("blocked during the gap: %+v", e)
	}
}

func TestGitLabFollowsManyAtOnce(t *testing.T) {
	f, _, _ := gitlabWith(t, quickly)
	events := f.follow()
	f.change(func() {
		for range 150 {
			u := &gitlabUser{id: f.id(), state: "ldap_blocked"}
			u.name = fmt.Sprint("u", u.id)
			f.users[u.id] = u
		}
	})
	if e := next(t, events); e.User != "" || e.Forge != "gitlab" {
		t.Errorf("%+v", e)
	}
	f.polled()
	if len(events) > 0 {
		t.Errorf("and then %+v", <-events)
	}
}

func TestGitLabFollowsAuditEvents(t *testing.T) {
	f, _, _ := gitlabWith(t, quickly)
	audit := func(id int, entity string, entityID int, details map[string]any) map[string]any {
		return map[string]any{"id": id, "author_id": 1, "entity_type": entity, "entity_id": entityID, "details": details}
	}
	f.change(func() { f.audits = []map[string]any{audit(1, "User", 99, nil)} })
	events := f.follow()
	f.polled()
	if len(events) > 0 {
		t.Fatalf("what was there before: %+v", <-events)
	}
	for i, tt := range []struct {
		audit map[string]any
		want  forge.Event
	}{
		{audit(0, "User", 41, map[string]any{"custom_message": "Banned user"}), forge.Event{User: "41"}},
		{audit(0, "Project", 74, map[string]any{"add": "project_group_link"}), forge.Event{Repo: "74"}},
		{audit(0, "Group", 78, map[string]any{"remove": "user_access", "target_id": 41, "target_type": "User"}), forge.Event{User: "41"}},
		{audit(0, "Group", 78, map[string]any{"change": "visibility", "target_id": 78, "target_type": "Group"}), forge.Event{}},
		{audit(0, "Group", 78, map[string]any{"target_id": "41", "target_type": "User"}), forge.Event{}},
		{audit(0, "Gitlab::Audit::InstanceScope", 1, nil), forge.Event{}},
		{audit(0, "User", -1, nil), forge.Event{}},
	} {
		tt.audit["id"] = 10 + i
		f.change(func() { f.audits = append(f.audits, tt.audit) })
		got := next(t, events)
		if got.Forge != "gitlab" || got.User != tt.want.User || got.Repo != tt.want.Repo || got.Why == "" {
			t.Errorf("%v: %+v, want %+v", tt.audit, got, tt.want)
		}
	}
	f.polled()
	if len(events) > 0 {
		t.Errorf("told twice: %+v", <-events)
	}
	// More than are read are everything.
	f.change(func() {
		for i := range 1500 {
			f.audits = append(f.audits, audit(100+i, "User", 1000+i, nil))
		}
	})
	if e := next(t, events); e.User != "" || e.Repo != "" {
		t.Errorf("1500 audit events: %+v", e)
	}
	f.polled()
	if len(events) > 0 {
		t.Errorf("and then %+v", <-events)
	}
}

// Without Premium there are no audit events: they are not asked for again and again, and blocked users are still followed.
func TestGitLabFollowsWithoutAuditEvents(t *testing.T) {
	f, alice, _ := gitlabWith(t, quickly)
	events := f.follow()
	f.polled()
	if asked := f.requests("GET /api/v4/audit_events"); len(asked) > 0 {
		t.Errorf("asked again: %q", asked)
	}
	f.Block("alice", true)
	if e := next(t, events); e.User != alice.ID {
		t.Errorf("%+v", e)
	}
}

func TestGitLabCheck(t *testing.T) {
	f, _, _ := gitlabWith(t, nil)
	f.change(func() {
		f.hooks = []map[string]any{{"id": 1, "url": "https://gate.example.com/v1/hooks/gitlab"}}
		f.audits = []map[string]any{}
	})
	for _, finding := range f.gitlab.Check(t.Context(), "alice") {
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
		{func() { f.admin = false }, "rights", forge.Broken, "no administrator"},
		{func() { f.scopes = []string{"read_user"} }, "token", forge.Broken, "read_user"},
		{func() { f.scopes = nil }, "token", forge.Broken, "scopes"},
		{func() { f.scopes = []string{"api", "sudo"} }, "token", forge.Doubtful, "api, sudo"},
		{func() { f.expires = time.Now().AddDate(0, 0, 3).Format(time.DateOnly) }, "token", forge.Doubtful, "expires"},
		{func() { f.skew = 90 * time.Second }, "clock", forge.Doubtful, "differs from ours"},
		{func() { f.hooks = nil }, "system hook", forge.Doubtful, "/v1/hooks/gitlab"},
		{func() { f.hooks[0]["url"] = "https://gate.example.com/v1/hooks/gitlab2" }, "system hook", forge.Doubtful, "/v1/hooks/gitlab"},
		{func() { f.audits = nil }, "audit events", forge.Doubtful, "404"},
		{func() { f.user("alice").state = "banned" }, "canary", forge.Doubtful, "blocked"},
		{func() { f.user("alice").name = "alicia" }, "canary", forge.Broken, "no user"},
		{func() { f.failing, f.status = true, http.StatusUnauthorized }, "connection", forge.Broken, "401"},
		{func() { f.failing, f.status = true, http.StatusBadGateway }, "connection", forge.Broken, "502"},
	} {
		f.change(func() {
			f.admin, f.scopes, f.expires, f.skew, f.failing = true, []string{"read_api"}, "", 0, false
			f.hooks = []map[string]any{{"id": 1, "url": "https://gate.example.com/v1/hooks/gitlab"}}
			f.audits = []map[string]any{}
			for _, u := range f.users {
				u.name, u.state = "alice", "active"
			}
			tt.change()
		})
		found := f.gitlab.Check(t.Context(), "alice")
		i := slices.IndexFunc(found, func(g forge.Finding) bool { return g.What == tt.what })
		if i < 0 || found[i].Health != tt.health || !strings.Contains(found[i].Detail, tt.detail) || found[i].Hint == "" {
			t.Errorf("want %s about %s with %q, found %+v", fmt.Sprint(tt.health), tt.what, tt.detail, found)
		}
	}
	bare, _, _ := gitlabWith(t, func(c *forge.GitLabConfig) { c.HookSecret = authn.Secret{} })
	found := bare.gitlab.Check(t.Context(), "")
	if !slices.ContainsFunc(found, func(g forge.Finding) bool {
		return g.What == "system hook" && g.Health == forge.Doubtful && strings.Contains(g.Hint, "hook_secret")
	}) {
		t.Errorf("no secret is configured: %+v", found)
	}
	if slices.ContainsFunc(found, func(g forge.Finding) bool { return g.What == "canary" }) {
		t.Errorf("no canary is configured: %+v", found)
	}
}
