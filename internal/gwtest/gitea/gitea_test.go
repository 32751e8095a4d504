package gitea_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/internal/gwtest/forgegate"
	"github.com/lychgate/lychgate/internal/gwtest/gitea"
)

const hookSecret = "hook-secret"

// world is a part of a real Gitea with an owner of its own, and the users that the suite knows by name.
type world struct {
	*gitea.Server
	provider *forge.Gitea
	owner    string
	keys     map[string]ssh.Signer // by fingerprint
}

var _ interface {
	forgetest.World
	forgetest.Blocker
	forgetest.Keyring
	forgetest.DeployKeys
} = world{}

func (w world) Provider() forge.Provider         { return w.provider }
func (w world) Name() string                     { return "gitea" }
func (w world) Host() string                     { return "git.example.com" }
func (w world) Settle()                          {} // Gitea does at once what it is told
func (w world) AddUser(name string)              { w.Server.AddUser(name) }
func (w world) Path(name string) string          { return w.owner + "/" + name }
func (w world) AddRepo(path string, public bool) { w.AddEmptyRepo(path, public) }
func (w world) AddKey(user string) string        { return w.keep(w.Server.AddKey(user)) }

func (w world) AddDeployKey(path string) string { return w.keep(w.Server.AddDeployKey(path)) }

func (w world) keep(key ssh.Signer) string {
	fingerprint := ssh.FingerprintSHA256(key.PublicKey())
	w.keys[fingerprint] = key
	return fingerprint
}

func (w world) Signer(fingerprint string) ssh.Signer { return w.keys[fingerprint] }

// open returns a world without the users of the one before.
func open(t *testing.T, s *gitea.Server, provider *forge.Gitea, n int) world {
	here := *s
	here.T = t
	for _, name := range []string{"alice", "bob", "ci", "mallory"} {
		here.Purge(name)
	}
	return world{&here, provider, fmt.Sprintf("team%d", n), map[string]ssh.Signer{}}
}

// TestGiteaReal runs the conformance suite and the traps of Gitea against a real one, with a token that has no more rights than the
// documentation asks for.
func TestGiteaReal(t *testing.T) {
	if !gitea.Asked(t) {
		t.Log("left out: it builds Gitea, which takes minutes; make test-full runs it")
		return
	}
	s := gitea.Start(t)
	token := authn.NewSecret(s.NewToken("gate", "read:user", "read:repository"))
	provider, err := forge.NewGitea(forge.GiteaConfig{
		Name: "gitea", URL: s.URL, Hosts: []string{"git.example.com"}, HookSecret: authn.NewSecret(hookSecret),
		Token: func() (authn.Secret, error) { return token, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	next := func(t *testing.T) world {
		n++
		return open(t, s, provider, n)
	}
	t.Run("Conformance", func(t *testing.T) {
		forgetest.Run(t, func(t *testing.T) forgetest.World { return next(t) })
	})
	t.Run("Gate", func(t *testing.T) { forgegate.Run(t, next(t)) })
	for name, trap := range map[string]func(*testing.T, world){
		"TeamWithoutCodeUnit": teamWithoutCodeUnit, "Restricted": restricted, "BlockedMayNotRead": blockedMayNotRead, "Commits": commits,
		"ListedAsAskedOneByOne": listed, "LoginPassesToAnother": loginPasses, "PrivateOrganization": privateOrganization, "Hook": hook, "Check": check,
		"Revocation": revocation, "PeopleOfTwoPages": peopleOfTwoPages,
	} {
		t.Run(name, func(t *testing.T) { trap(t, next(t)) })
	}
}

// peopleOfTwoPages: the server lists 50 users at a time, and those who hide from others, or are not active, to its administrator.
func peopleOfTwoPages(t *testing.T, w world) {
	want := map[string]bool{"alice": false, "bob": true}
	for i := range 51 {
		want[fmt.Sprintf("%s-user%d", w.owner, i)] = false
	}
	for name := range want {
		w.AddUser(name)
	}
	w.ChangeUser("alice", map[string]any{"visibility": "private"})
	w.ChangeUser("bob", map[string]any{"active": false})
	listed, err := w.provider.People(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range listed {
		if blocked, ok := want[u.Name]; ok && u.Blocked != blocked {
			t.Errorf("%s is blocked %t", u.Name, u.Blocked)
		}
		delete(want, u.Name)
	}
	if len(want) > 0 {
		t.Errorf("%v are not listed", want)
	}
}

func (w world) principal(name string) authn.Principal {
	return authn.Principal{Forge: "gitea", ID: fmt.Sprint(w.Server.AddUser(name)), Name: name, Kind: authn.Human}
}

func repo(id int64) forge.Repo { return forge.Repo{Forge: "gitea", ID: fmt.Sprint(id)} }

func (w world) ask(p authn.Principal, repos ...forge.Repo) []forge.Access {
	w.T.Helper()
	facts, err := w.provider.Access(w.T.Context(), p, repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	var all []forge.Access
	for _, f := range facts {
		all = append(all, f.Access)
	}
	return all
}

func (w world) want(p authn.Principal, r forge.Repo, want forge.Access, why string) {
	w.T.Helper()
	if got := w.ask(p, r)[0]; got != want {
		w.T.Errorf("%s: %s, want %s", why, got, want)
	}
}

// teamWithoutCodeUnit: a team that has the issues alone gives its members the repository, and not the code. That they see the repository
// shows that the trap is there.
func teamWithoutCodeUnit(t *testing.T, w world) {
	org := w.owner + "org"
	r := repo(w.AddOrg(org, "public")("lib", false))
	issues, code := w.principal("alice"), w.principal("bob")
	w.AddTeam(org, "issues", "alice", "repo.issues")
	w.AddTeam(org, "code", "bob", "repo.code", "repo.issues")
	if status := w.Do(http.MethodGet, "repositories/"+r.ID+"?sudo=alice", nil, nil, http.StatusOK, http.StatusNotFound); status != http.StatusOK {
		t.Errorf("a member who may read issues does not see the repository (%d): the trap is gone", status)
	}
	if status := w.Do(http.MethodGet, "repos/"+org+"/lib/branches?sudo=alice", nil, nil, http.StatusOK, http.StatusForbidden); status != http.StatusForbidden {
		t.Errorf("the server shows the branches (%d)", status)
	}
	w.want(issues, r, forge.None, "a member who may read issues")
	w.want(code, r, forge.Read, "a member who may read code")
	all := []forge.Repo{r}
	for i := range 10 {
		all = append(all, repo(w.AddEmptyRepo(w.Path(fmt.Sprintf("more%d", i)), true)))
	}
	if got := w.ask(issues, all...); got[0] != forge.None || got[1] != forge.Read {
		t.Errorf("listed: %s", got)
	}
}

// restricted: a restricted user reads what strangers read, and what was granted, and not what is for all who have signed in.
func restricted(t *testing.T, w world) {
	open, granted := repo(w.AddEmptyRepo(w.Path("open"), true)), repo(w.AddEmptyRepo(w.Path("lib"), false))
	limited := repo(w.AddOrg(w.owner+"org", "limited")("open", true))
	alice := w.principal("alice")
	w.want(alice, limited, forge.Read, "before, a limited organization's public repository")
	w.ChangeUser("alice", map[string]any{"restricted": true})
	w.want(alice, limited, forge.None, "a limited organization's public repository")
	w.want(alice, open, forge.Read, "what is open to strangers")
	w.want(alice, granted, forge.None, "a private repository")
	w.Grant("alice", w.Path("lib"))
	w.want(alice, granted, forge.Read, "a granted one")
	all := []forge.Repo{limited, open, granted}
	for i := range 8 {
		all = append(all, repo(w.AddEmptyRepo(w.Path(fmt.Sprintf("more%d", i)), false)))
	}
	if got := w.ask(alice, all...); !slices.Equal(got[:4], []forge.Access{forge.None, forge.Read, forge.Read, forge.None}) {
		t.Errorf("listed: %s", got)
	}
}

func blockedMayNotRead(t *testing.T, w world) {
	r := repo(w.AddEmptyRepo(w.Path("lib"), false))
	alice := w.principal("alice")
	key := w.AddKey("alice")
	w.Grant("alice", w.Path("lib"))
	for name, member := range map[string]string{"who may not sign in": "prohibit_login", "who is not active": "active"} {
		w.want(alice, r, forge.Read, "before")
		w.ChangeUser("alice", map[string]any{member: member != "active"})
		w.want(alice, r, forge.None, "a user "+name)
		if u, err := w.provider.KeyOwner(t.Context(), key); err != nil || !u.Blocked {
			t.Errorf("the key of a user %s: %+v, %v", name, u, err)
		}
		w.ChangeUser("alice", map[string]any{member: member == "active"})
	}
}

// commits: whether there is a commit does not matter. Everywhere else the repositories are empty.
func commits(t *testing.T, w world) {
	empty, full := repo(w.AddEmptyRepo(w.Path("empty"), false)), repo(w.Server.AddRepo(w.Path("full"), false))
	alice, bob := w.principal("alice"), w.principal("bob")
	w.Grant("alice", w.Path("empty"))
	w.Grant("alice", w.Path("full"))
	for why, r := range map[string]forge.Repo{"a repository without a commit": empty, "a repository with one": full} {
		w.want(alice, r, forge.Read, "a reader of "+why)
		w.want(bob, r, forge.None, "another user of "+why)
	}
}

// listed: what the server lists for a user is what it says to each question by itself.
func listed(t *testing.T, w world) {
	alice := w.principal("alice")
	w.principal("bob")
	var repos []forge.Repo
	var want []forge.Access
	for i := range 24 {
		path := w.Path(fmt.Sprintf("r%d", i))
		repos = append(repos, repo(w.AddEmptyRepo(path, i%4 == 0)))
		if i%3 == 0 {
			w.Grant("alice", path)
		}
		want = append(want, w.ask(alice, repos[i])[0])
	}
	if got := w.ask(alice, repos...); !slices.Equal(got, want) || !slices.Contains(got, forge.Read) || !slices.Contains(got, forge.None) {
		t.Errorf("listed %s, asked one by one %s", got, want)
	}
}

// loginPasses: rights belong to the id, whoever bears the name.
func loginPasses(t *testing.T, w world) {
	r := repo(w.AddEmptyRepo(w.Path("lib"), false))
	alice := w.principal("alice")
	w.Grant("alice", w.Path("lib"))
	w.RenameUser("alice", "mallory")
	if _, err := w.provider.UserByName(t.Context(), "alice"); err == nil {
		t.Error("the name that was given up still leads to somebody")
	}
	w.want(alice, r, forge.Read, "the renamed user")
	second := w.principal("alice")
	if second.ID == alice.ID {
		t.Fatal("the new user has the old one's id")
	}
	w.want(second, r, forge.None, "the new bearer of the name")
}

// privateOrganization: a public repository of a private organization is for its members alone.
func privateOrganization(t *testing.T, w world) {
	private := repo(w.AddOrg(w.owner+"p", "private")("open", true))
	alice, bob := w.principal("alice"), w.principal("bob")
	w.AddTeam(w.owner+"p", "readers", "bob", "repo.code")
	w.want(alice, private, forge.None, "a private organization's public repository")
	w.want(bob, private, forge.Read, "the same, for a member")
}

// hook: what Gitea sends when a repository is deleted is authentic, and about that repository.
func hook(t *testing.T, w world) {
	type delivery struct {
		header http.Header
		body   []byte
	}
	got := make(chan delivery, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			got <- delivery{r.Header, body}
		}
	}))
	defer receiver.Close()
	id := w.AddHook(receiver.URL+"/v1/hooks/gitea", hookSecret, "repository")
	defer w.Do(http.MethodDelete, fmt.Sprintf("admin/hooks/%d", id), nil, nil)
	r := w.AddEmptyRepo(w.Path("lib"), false)
	w.Delete(w.Path("lib"))
	deadline := time.After(time.Minute)
	for {
		select {
		case d := <-got:
			read, err := w.provider.ReadHook(d.header, d.body)
			if err != nil {
				t.Fatalf("%v: %s", err, d.body)
			}
			if _, err := w.provider.ReadHook(d.header, append(d.body, ' ')); err == nil {
				t.Error("a changed body is believed")
			}
			if len(read.Events) == 1 && read.Events[0].Repo == fmt.Sprint(r) && strings.HasSuffix(read.Events[0].Why, "deleted") {
				return
			}
		case <-deadline:
			t.Fatal("no delivery about the repository")
		}
	}
}

// check: with the rights that the documentation asks for, nothing is broken.
func check(t *testing.T, w world) {
	w.AddUser("alice")
	for _, f := range w.provider.Check(t.Context(), "alice") {
		t.Logf("%+v", f)
		if f.Health == forge.Broken {
			t.Errorf("%s: %s", f.What, f.Detail)
		}
	}
	w.AddEmptyRepo(w.Path("lib"), false)
	for what, scopes := range map[string][]string{
		"no users": {"read:repository"}, "no repositories": {"read:user"}, "public alone": {"read:user", "read:repository", "public-only"},
	} {
		token := authn.NewSecret(w.NewToken(what, scopes...))
		g, err := forge.NewGitea(forge.GiteaConfig{Name: "gitea", URL: w.URL, Token: func() (authn.Secret, error) { return token, nil }})
		if err != nil {
			t.Fatal(err)
		}
		found := g.Check(t.Context(), "alice")
		bad := func(f forge.Finding) bool { return f.Health != forge.Fine && (f.What == "token" || f.What == "scopes") }
		if !slices.ContainsFunc(found, bad) {
			t.Errorf("%s: nothing is found amiss: %+v", what, found)
		}
	}
	if _, _, err := w.provider.Resolve(t.Context(), source.Locator{Host: "git.example.com", Path: "issues/search"}); err == nil {
		t.Error("a word of the interface is a repository")
	}
}

// revocation: the provider remembers nothing, so that a right that was taken away is gone with the next question.
func revocation(t *testing.T, w world) {
	path := w.Path("lib")
	r := repo(w.AddEmptyRepo(path, false))
	alice := w.principal("alice")
	for range 5 {
		w.Grant("alice", path)
		w.want(alice, r, forge.Read, "granted")
		w.Withdraw("alice", path)
		w.want(alice, r, forge.None, "withdrawn")
	}
}
