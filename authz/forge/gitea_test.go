package forge_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

func TestGitea(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return newGiteaFake(t) })
}

// TestGiteaShortPages runs the suite against a server that lists less on a page than it is asked for.
func TestGiteaShortPages(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World {
		f := newGiteaFake(t)
		f.page = 2
		return f
	})
}

func (f *giteaFake) principal(u *giteaAccount) authn.Principal {
	return authn.Principal{Forge: f.Name(), ID: fmt.Sprint(u.ID), Name: u.Login, Kind: authn.Human}
}

func (f *giteaFake) ref(r *giteaRepository) forge.Repo {
	return forge.Repo{Forge: f.Name(), ID: fmt.Sprint(r.ID)}
}

// ask returns what the provider says, and fails the test on an error.
func (f *giteaFake) ask(u *giteaAccount, repos ...forge.Repo) []forge.Access {
	f.t.Helper()
	facts, err := f.gitea.Access(f.t.Context(), f.principal(u), repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	var all []forge.Access
	for _, fact := range facts {
		all = append(all, fact.Access)
	}
	return all
}

// crowd returns repositories to ask about together with r, so many that they are listed: public ones, and as many again that nobody may read.
func (f *giteaFake) crowd(r forge.Repo) []forge.Repo {
	repos := []forge.Repo{r}
	for i := range 12 {
		repos = append(repos, f.ref(f.addRepo(fmt.Sprintf("team/open%d", i), true)), f.ref(f.addRepo(fmt.Sprintf("team/shut%d", i), false)))
	}
	return repos
}

// TestGiteaTeamWithoutCodeUnit: a team that may open the issues of a repository gives access to it, and not to its code.
func TestGiteaTeamWithoutCodeUnit(t *testing.T) {
	f := newGiteaFake(t)
	alice, r := f.account("alice"), f.addRepo("team/lib", false)
	r.IssueReader[alice.ID] = true
	if got := f.ask(alice, f.ref(r))[0]; got != forge.None {
		t.Errorf("asked about alone: %s, want none", got)
	}
	got := f.ask(alice, f.crowd(f.ref(r))...)
	if got[0] != forge.None || got[1] != forge.Read || got[2] != forge.None {
		t.Errorf("listed: %s, want none, and the others read and none", got[:3])
	}
	r.Readers[alice.ID] = true
	if got := f.ask(alice, f.ref(r))[0]; got != forge.Read {
		t.Errorf("with the code unit: %s, want read", got)
	}
}

// TestGiteaRestrictedUser: to a restricted user no repository is public.
func TestGiteaRestrictedUser(t *testing.T) {
	f := newGiteaFake(t)
	alice, r := f.account("alice"), f.addRepo("team/open", true)
	alice.Restricted = true
	if got := f.ask(alice, f.ref(r))[0]; got != forge.None {
		t.Errorf("asked about alone: %s, want none", got)
	}
	for i, got := range f.ask(alice, f.crowd(f.ref(r))...) {
		if got != forge.None {
			t.Errorf("repository %d: %s, want none", i, got)
		}
	}
}

// TestGiteaBlockedUser: Sudo works in the name of a user who may not sign in, so the server would answer yes.
func TestGiteaBlockedUser(t *testing.T) {
	for name, block := range map[string]func(*giteaAccount){
		"prohibit_login": func(u *giteaAccount) { u.ProhibitLogin = true },
		"inactive":       func(u *giteaAccount) { u.Active = false },
	} {
		f := newGiteaFake(t)
		alice, r := f.account("alice"), f.addRepo("team/lib", false)
		key := f.AddKey("alice")
		r.Readers[alice.ID] = true
		block(alice)
		if got := f.ask(alice, f.ref(r))[0]; got != forge.None {
			t.Errorf("%s: %s, want none", name, got)
		}
		if u, err := f.gitea.User(t.Context(), fmt.Sprint(alice.ID)); err != nil || !u.Blocked {
			t.Errorf("%s: %+v, %v; want a blocked user", name, u, err)
		}
		if u, err := f.gitea.KeyOwner(t.Context(), key); err != nil || !u.Blocked || u.Name != "alice" {
			t.Errorf("%s: owner of the key: %+v, %v; want alice, blocked", name, u, err)
		}
	}
}

// TestGiteaBlockedMeanwhile: who is blocked while the question goes round may not read.
func TestGiteaBlockedMeanwhile(t *testing.T) {
	f := newGiteaFake(t)
	alice, r := f.account("alice"), f.addRepo("team/lib", false)
	r.Readers[alice.ID] = true
	f.before = func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v1/repositories/") {
			f.Block("alice", true)
		}
	}
	if got := f.ask(alice, f.ref(r))[0]; got != forge.None {
		t.Errorf("%s, want none", got)
	}
}

func TestGiteaDeployKeyIsNobodys(t *testing.T) {
	f := newGiteaFake(t)
	deploy, principal := f.AddDeployKey("team/lib"), f.addKey("unknown", f.account("alice").ID)
	if u, err := f.gitea.KeyOwner(t.Context(), deploy); !errors.Is(err, forge.ErrDeployKey) {
		t.Errorf("a deploy key: %+v, %v", u, err)
	}
	if u, err := f.gitea.KeyOwner(t.Context(), principal); !errors.Is(err, forge.ErrNoUser) || errors.Is(err, forge.ErrDeployKey) {
		t.Errorf("a certificate's principal: %+v, %v", u, err)
	}
	f.keys = append(f.keys, giteaSSHKey{99, deploy, "user", f.account("alice").ID})
	if u, err := f.gitea.KeyOwner(t.Context(), deploy); !errors.Is(err, forge.ErrDeployKey) {
		t.Errorf("a deploy key that somebody has too: %+v, %v", u, err)
	}
}

// TestGiteaKeyOfTwo: a key with two owners is neither's.
func TestGiteaKeyOfTwo(t *testing.T) {
	f := newGiteaFake(t)
	key := f.AddKey("alice")
	f.keys = append(f.keys, giteaSSHKey{99, key, "user", f.account("bob").ID})
	if u, err := f.gitea.KeyOwner(t.Context(), key); err == nil {
		t.Errorf("%+v", u)
	}
}

// TestGiteaNoFingerprint: a question without a fingerprint would be answered with the administrator's own keys.
func TestGiteaNoFingerprint(t *testing.T) {
	f := newGiteaFake(t)
	f.AddKey("root")
	for _, bad := range []string{"", "SHA256:", "SHA256:" + strings.Repeat("A", 42), "SHA256:" + strings.Repeat("A", 43) + "=", " ", "MD5:00:11"} {
		if u, err := f.gitea.KeyOwner(t.Context(), bad); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%q: %+v, %v", bad, u, err)
		}
	}
	f.wantAsked(0)
}

// wantAsked checks how many requests the server has seen.
func (f *giteaFake) wantAsked(want int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) != want {
		f.t.Errorf("%d requests, want %d: %s", len(f.asked), want, f.asked)
	}
}

// TestGiteaSudoIsLost: a proxy that drops the header leaves the administrator's eyes, to whom all is open.
func TestGiteaSudoIsLost(t *testing.T) {
	f := newGiteaFake(t)
	bob, r := f.account("bob"), f.addRepo("team/lib", false)
	f.dropSudo = true
	for _, repos := range [][]forge.Repo{{f.ref(r)}, f.crowd(f.ref(r))} {
		if facts, err := f.gitea.Access(t.Context(), f.principal(bob), repos); err == nil {
			t.Errorf("%+v, want an error", facts)
		}
	}
}

// TestGiteaLoginPassesToAnother: Sudo takes a name, which another may bear by the time it is used.
func TestGiteaLoginPassesToAnother(t *testing.T) {
	f := newGiteaFake(t)
	alice, bob, r := f.account("alice"), f.account("bob"), f.addRepo("team/lib", false)
	r.Readers[bob.ID] = true
	f.before = func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v1/repositories/") {
			f.mu.Lock()
			alice.Login, bob.Login = "alice2", "alice"
			f.mu.Unlock()
		}
	}
	if facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)}); err == nil {
		t.Errorf("%+v, want an error", facts)
	}
	f.before = nil
	if got := f.ask(alice, f.ref(r))[0]; got != forge.None {
		t.Errorf("alice under the new name: %s, want none", got)
	}
	if got := f.ask(bob, f.ref(r))[0]; got != forge.Read {
		t.Errorf("bob under alice's old name: %s, want read", got)
	}
}

// TestGiteaTokenIsNoAdministrators: others look inactive to it, which says nothing about them.
func TestGiteaTokenIsNoAdministrators(t *testing.T) {
	f := newGiteaFake(t)
	alice, r, key := f.account("alice"), f.addRepo("team/lib", false), f.AddKey("alice")
	r.Readers[alice.ID] = true
	f.account("root").Admin = false
	if facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)}); err == nil {
		t.Errorf("access: %+v, want an error", facts)
	}
	if u, err := f.gitea.User(t.Context(), fmt.Sprint(alice.ID)); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("user: %+v, %v; want an error that is no answer", u, err)
	}
	if u, err := f.gitea.KeyOwner(t.Context(), key); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("key: %+v, %v; want an error that is no answer", u, err)
	}
}

// TestGiteaLiesAboutIDs: what is said about another id than was asked for is no answer.
func TestGiteaLiesAboutIDs(t *testing.T) {
	f := newGiteaFake(t)
	alice, r := f.account("alice"), f.addRepo("team/lib", true)
	f.before = func(r *http.Request) {
		f.mu.Lock()
		f.lie = 0
		if strings.HasPrefix(r.URL.Path, "/api/v1/repositories/") {
			f.lie = 1
		}
		f.mu.Unlock()
	}
	if facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)}); err == nil {
		t.Errorf("a repository: %+v, want an error", facts)
	}
	f.before = nil
	f.lie = 1
	if facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)}); err == nil {
		t.Errorf("a user: %+v, want an error", facts)
	}
	if u, err := f.gitea.User(t.Context(), fmt.Sprint(alice.ID)); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a user: %+v, %v; want an error that is no answer", u, err)
	}
	f.lie = -1000
	if repo, _, err := f.gitea.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: "team/lib"}); err == nil || errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("a path: %v, %v; want an error that is no answer", repo, err)
	}
}

// TestGiteaIDsThatFindOthers: a search for user 0 returns everybody, and one for -1 a stand-in.
func TestGiteaIDsThatFindOthers(t *testing.T) {
	f := newGiteaFake(t)
	for _, id := range []string{"0", "-1", "", "01", "+1", " 1", "1 ", "1&uid=2", "9999999999999999999"} {
		if u, err := f.gitea.User(t.Context(), id); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user %q: %+v, %v", id, u, err)
		}
	}
	f.wantAsked(0)
}

// TestGiteaWordsOfTheInterface: no name that somebody wrote selects another resource.
func TestGiteaWordsOfTheInterface(t *testing.T) {
	f := newGiteaFake(t)
	for _, name := range []string{"search", "Search", "..", ".", "", "a/b", "a?b", "a#b", "a%2fb", "a b", "a\nb", strings.Repeat("a", 200)} {
		if u, err := f.gitea.UserByName(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user %q: %+v, %v", name, u, err)
		}
	}
	for _, path := range []string{"issues/search", "search", "a/..", "../a", "a/b/c", "a/b?c", "a/b#c", "a/b%2fc", "a/", "/a", "a/b c", ""} {
		if r, owns, err := f.gitea.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: path}); !owns || !errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("path %q: %v, %t, %v", path, r, owns, err)
		}
	}
	for _, asked := range f.asked {
		if asked != "GET /api/v1/repos/a/.." {
			t.Errorf("the server was asked: %s", asked)
		}
	}
	f.addRepo("team/search", false)
	if _, _, err := f.gitea.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: "team/search"}); err != nil {
		t.Errorf("a repository of that name: %v", err)
	}
}

// TestGiteaNamesAreNotIdentities: a login that was given up leads nowhere, and an organization is no user.
func TestGiteaNamesAreNotIdentities(t *testing.T) {
	f := newGiteaFake(t)
	alice := f.account("alice")
	f.account("team").Org = true
	f.formerly["alicia"] = alice.ID
	for _, name := range []string{"alicia", "team"} {
		if u, err := f.gitea.UserByName(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	if u, err := f.gitea.UserByName(t.Context(), "ALICE"); err != nil || u.Name != "alice" {
		t.Errorf("names are compared without case: %+v, %v", u, err)
	}
}

// TestGiteaPathCase: one repository has one id, however its path is written.
func TestGiteaPathCase(t *testing.T) {
	f := newGiteaFake(t)
	r := f.addRepo("team/lib", false)
	got, _, err := f.gitea.Resolve(t.Context(), source.Locator{Host: f.Host(), Path: "Team/LIB"})
	if err != nil || got != f.ref(r) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestGiteaListsManyRepositories: what is listed is what each question by itself would say, for fewer requests.
func TestGiteaListsManyRepositories(t *testing.T) {
	for _, page := range []int{50, 3} {
		f := newGiteaFake(t)
		f.page = page
		alice := f.account("alice")
		var repos []forge.Repo
		var want []forge.Access
		for i := range 60 {
			r := f.addRepo(fmt.Sprintf("team/r%d", i), i%5 == 0)
			access := forge.None
			switch i % 3 {
			case 0:
				r.Readers[alice.ID], access = true, forge.Read
			case 1:
				r.IssueReader[alice.ID] = true
			}
			if i%5 == 0 {
				access = forge.Read
			}
			repos, want = append(repos, f.ref(r)), append(want, access)
		}
		slices.Reverse(repos)
		slices.Reverse(want)
		repos, want = append(repos, repos[0], forge.Repo{Forge: f.Name(), ID: "0"}), append(want, want[0], forge.None)
		if got := f.ask(alice, repos...); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %s, want %s", page, got, want)
		}
		if most := 3 + 2 + 60/page + 1; len(f.asked) > most {
			t.Errorf("pages of %d: %d requests, want at most %d", page, len(f.asked), most)
		}
	}
}

// TestGiteaGivesUpListing: a user who can see very much more than is asked about is asked about one by one.
func TestGiteaGivesUpListing(t *testing.T) {
	f := newGiteaFake(t)
	f.page = 1
	alice := f.account("alice")
	for i := range 40 {
		f.addRepo(fmt.Sprintf("team/r%d", i), true)
	}
	last := f.crowd(f.ref(f.addRepo("team/last", true)))[:11]
	if got := f.ask(alice, last...); got[0] != forge.Read || got[2] != forge.None {
		t.Errorf("%s", got)
	}
	if len(f.asked) > 3+7+11 {
		t.Errorf("%d requests", len(f.asked))
	}
}

// TestGiteaPartOfAnAnswer: a repository the server fails to answer for stays unknown, and is neither yes nor no.
func TestGiteaPartOfAnAnswer(t *testing.T) {
	for _, status := range []int{0, 401, 403, 429, 500, 503} {
		f := newGiteaFake(t)
		alice, a, b := f.account("alice"), f.addRepo("team/a", true), f.addRepo("team/b", true)
		f.fault = func(r *http.Request) (int, bool) {
			return status, strings.HasSuffix(r.URL.Path, "/repositories/"+f.ref(b).ID)
		}
		got := f.ask(alice, f.ref(a), f.ref(b))
		if got[0] != forge.Read || got[1] != forge.Unknown {
			t.Errorf("status %d: %s, want read and unknown", status, got)
		}
		if facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(b)}); err == nil {
			t.Errorf("status %d for all there is: %+v, want an error", status, facts)
		}
	}
}

func TestGiteaOldServer(t *testing.T) {
	for version, ok := range map[string]bool{
		"1.26.0": true, "1.20.0": true, "1.19.4": false, "1.9": false, "0.9.99": false, "": false, "nightly": false, "2.0.1": true,
		"11.0.1+gitea-1.22.0": true, "7.0.0+gitea-1.19.0": false, "1.26.0+dev-12-gabcdef": true, "1": false,
	} {
		f := newGiteaFake(t)
		f.version = version
		alice, r := f.account("alice"), f.addRepo("team/lib", true)
		facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)})
		if (err == nil) != ok {
			t.Errorf("version %q: %v, %v", version, facts, err)
		}
	}
}

// TestGiteaAge: a fact is as old as the first request it rests on, not as the last answer.
func TestGiteaAge(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := start
	f := newGiteaFake(t, func(c *forge.GiteaConfig) { c.Now = func() time.Time { return now } })
	alice, r := f.account("alice"), f.addRepo("team/lib", true)
	f.before = func(*http.Request) { now = now.Add(time.Second) }
	facts, err := f.gitea.Access(t.Context(), f.principal(alice), []forge.Repo{f.ref(r)})
	if err != nil || !facts[0].At.Equal(start) || !facts[0].NotAfter.Equal(start.Add(300*time.Second)) {
		t.Errorf("%+v, %v", facts, err)
	}
}

// TestGiteaRedirectElsewhere: another host is not shown the token, and what it says is nothing.
func TestGiteaRedirectElsewhere(t *testing.T) {
	shown := false
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { shown = true }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	f := newGiteaFake(t, func(c *forge.GiteaConfig) { c.URL, c.HTTP = server.URL, nil })
	if _, err := f.gitea.User(t.Context(), "1"); err == nil || shown {
		t.Errorf("%v; the other host was asked: %t", err, shown)
	}
}

// TestGiteaMounted: a server under a path of its host has that path in the addresses it clones from over HTTPS.
func TestGiteaMounted(t *testing.T) {
	f := newGiteaFake(t)
	r := f.addRepo("team/lib", true)
	mounted := httptest.NewServer(http.StripPrefix("/git/hub", f.server.Config.Handler))
	defer mounted.Close()
	g, err := forge.NewGitea(forge.GiteaConfig{
		Name: f.Name(), URL: mounted.URL + "/git/hub/", Hosts: []string{"h"},
		Token: func() (authn.Secret, error) { return authn.NewSecret(giteaToken), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"git/hub/team/lib", "team/lib"} {
		if got, _, err := g.Resolve(t.Context(), source.Locator{Host: "h", Path: path}); err != nil || got != f.ref(r) {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}

func TestGiteaConfig(t *testing.T) {
	token := func() (authn.Secret, error) { return authn.NewSecret("x"), nil }
	for want, c := range map[string]forge.GiteaConfig{
		"lower-case":    {Name: "A", URL: "https://h", Token: token},
		"needs a token": {Name: "a", URL: "https://h"},
		"want https://": {Name: "a", URL: "h", Token: token},
	} {
		if _, err := forge.NewGitea(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	for url, want := range map[string]string{
		"https://Git.Example.com": "git.example.com", "https://h:443/x": "h", "http://h:80": "h", "https://h:8443": "h:8443", "https://[::1]:443": "[::1]",
	} {
		g, err := forge.NewGitea(forge.GiteaConfig{Name: "a", URL: url, Token: token})
		if err != nil || !slices.Equal(g.Hosts(), []string{want}) {
			t.Errorf("%s: %v, want %s", url, g.Hosts(), want)
		}
	}
	lost := errors.New("no such file")
	f := newGiteaFake(t, func(c *forge.GiteaConfig) { c.Token = func() (authn.Secret, error) { return authn.Secret{}, lost } })
	if _, err := f.gitea.User(t.Context(), "1"); !errors.Is(err, lost) {
		t.Errorf("a token that cannot be read: %v", err)
	}
	f.wantAsked(0)
}

func hexHMAC(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestGiteaHook(t *testing.T) {
	const deleted = `{"action":"deleted","repository":{"id":17,"full_name":"team/lib"},"sender":{"id":1}}`
	good := hexHMAC("hook-secret", deleted)
	f := newGiteaFake(t)
	for name, tt := range map[string]struct {
		body   string
		header http.Header
		want   []forge.Event // nil: refused
	}{
		"gitea":          {deleted, http.Header{"X-Gitea-Signature": {good}, "X-Gitea-Event": {"repository"}}, []forge.Event{{Forge: f.Name(), Repo: "17"}}},
		"forgejo":        {deleted, http.Header{"X-Forgejo-Signature": {good}, "X-Forgejo-Event": {"repository"}}, []forge.Event{{Forge: f.Name(), Repo: "17"}}},
		"both":           {deleted, http.Header{"X-Forgejo-Signature": {good}, "X-Gitea-Signature": {good}, "X-Gitea-Event": {"repository"}}, []forge.Event{{Forge: f.Name(), Repo: "17"}}},
		"hub":            {deleted, http.Header{"X-Hub-Signature-256": {"sha256=" + good}, "X-Gitea-Event": {"repository"}}, []forge.Event{{Forge: f.Name(), Repo: "17"}}},
		"a push":         {deleted, http.Header{"X-Gitea-Signature": {good}, "X-Gitea-Event": {"push"}}, []forge.Event{}},
		"no event":       {deleted, http.Header{"X-Gitea-Signature": {good}}, []forge.Event{}},
		"no signature":   {deleted, http.Header{"X-Gitea-Event": {"repository"}}, nil},
		"empty":          {deleted, http.Header{"X-Gitea-Signature": {""}, "X-Gitea-Event": {"repository"}}, nil},
		"cut":            {deleted, http.Header{"X-Gitea-Signature": {good[:62]}, "X-Gitea-Event": {"repository"}}, nil},
		"other secret":   {deleted, http.Header{"X-Gitea-Signature": {hexHMAC("x", deleted)}, "X-Gitea-Event": {"repository"}}, nil},
		"other body":     {deleted + " ", http.Header{"X-Gitea-Signature": {good}, "X-Gitea-Event": {"repository"}}, nil},
		"one of two bad": {deleted, http.Header{"X-Forgejo-Signature": {hexHMAC("x", deleted)}, "X-Gitea-Signature": {good}, "X-Gitea-Event": {"repository"}}, nil},
		"no JSON":        {"{", http.Header{"X-Gitea-Signature": {hexHMAC("hook-secret", "{")}, "X-Gitea-Event": {"repository"}}, nil},
		"no id":          {"{}", http.Header{"X-Gitea-Signature": {hexHMAC("hook-secret", "{}")}, "X-Gitea-Event": {"repository"}}, []forge.Event{{Forge: f.Name()}}},
	} {
		d, err := f.gitea.ReadHook(tt.header, []byte(tt.body))
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
}

// TestGiteaHookReplay: the id in the header is not signed, so the same body under another is the same delivery.
func TestGiteaHookReplay(t *testing.T) {
	const body = `{"action":"created","repository":{"id":17}}`
	f := newGiteaFake(t)
	var ids []string
	for _, id := range []string{"a", "b"} {
		d, err := f.gitea.ReadHook(http.Header{
			"X-Gitea-Signature": {hexHMAC("hook-secret", body)}, "X-Gitea-Event": {"repository"}, "X-Gitea-Delivery": {id},
		}, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	if ids[0] != ids[1] {
		t.Errorf("%q", ids)
	}
}

// TestGiteaHookWithoutSecret: a signature with no secret is anybody's.
func TestGiteaHookWithoutSecret(t *testing.T) {
	f := newGiteaFake(t, func(c *forge.GiteaConfig) { c.HookSecret = authn.Secret{} })
	header := http.Header{"X-Gitea-Signature": {hexHMAC("", "{}")}, "X-Gitea-Event": {"repository"}}
	if d, err := f.gitea.ReadHook(header, []byte("{}")); !errors.Is(err, forge.ErrHook) {
		t.Errorf("%+v, %v", d, err)
	}
}

func FuzzGiteaHook(f *testing.F) {
	f.Add([]byte(`{"action":"deleted","repository":{"id":17}}`))
	f.Add([]byte(`{"repository":{"id":-1}}`))
	f.Add([]byte(`{"repository":{"id":1,"id":2}}`))
	g, err := forge.NewGitea(forge.GiteaConfig{
		Name: "g", URL: "https://g", Token: func() (authn.Secret, error) { return authn.Secret{}, nil }, HookSecret: authn.NewSecret("s"),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := g.ReadHook(http.Header{"X-Gitea-Signature": {hexHMAC("s", string(body))}, "X-Gitea-Event": {"repository"}}, body)
		if err != nil {
			if !errors.Is(err, forge.ErrHook) || len(d.Events) > 0 {
				t.Errorf("%+v, %v", d, err)
			}
			return
		}
		if len(d.Events) != 1 || d.Events[0].Forge != "g" || d.Events[0].User != "" || strings.Trim(d.Events[0].Repo, "0123456789") != "" {
			t.Errorf("%+v", d)
		}
	})
}

func TestGiteaCheck(t *testing.T) {
	health := func(f *giteaFake, canary string) map[string]forge.Health {
		found := map[string]forge.Health{}
		for _, x := range f.gitea.Check(t.Context(), canary) {
			if x.What == "" || x.Detail == "" || (x.Health == forge.Fine) != (x.Hint == "") {
				t.Errorf("a finding that does not help: %+v", x)
			}
			found[x.What] = x.Health
		}
		return found
	}
	hook := map[string]any{
		"active": true, "events": []string{"push", "repository"}, "config": map[string]any{"url": "https://gate.example.com/v1/hooks/gitea.example.com"},
	}
	for name, tt := range map[string]struct {
		change func(*giteaFake)
		canary string
		want   map[string]forge.Health
	}{
		"as it should be": {func(f *giteaFake) { f.hooks = []any{hook} }, "alice", map[string]forge.Health{
			"version": forge.Fine, "token": forge.Fine, "scopes": forge.Fine, "clock": forge.Fine, "hook": forge.Fine, "canary": forge.Fine, "sudo": forge.Fine,
			"revocation": forge.Doubtful,
		}},
		"no hook":            {func(*giteaFake) {}, "alice", map[string]forge.Health{"hook": forge.Doubtful}},
		"an old server":      {func(f *giteaFake) { f.version = "1.18.0" }, "alice", map[string]forge.Health{"version": forge.Broken}},
		"no administrator":   {func(f *giteaFake) { f.account("root").Admin = false }, "alice", map[string]forge.Health{"token": forge.Broken}},
		"a wrong token":      {func(f *giteaFake) { f.Fail(401) }, "alice", map[string]forge.Health{"token": forge.Broken}},
		"no such canary":     {func(*giteaFake) {}, "nobody", map[string]forge.Health{"canary": forge.Broken}},
		"a blocked canary":   {func(f *giteaFake) { f.Block("alice", true) }, "alice", map[string]forge.Health{"canary": forge.Doubtful}},
		"no canary":          {func(*giteaFake) {}, "", map[string]forge.Health{"canary": forge.Doubtful}},
		"Sudo is lost":       {func(f *giteaFake) { f.dropSudo = true }, "alice", map[string]forge.Health{"sudo": forge.Broken}},
		"a scope is missing": {func(f *giteaFake) { f.failOn("/repos/search", 403) }, "alice", map[string]forge.Health{"scopes": forge.Broken}},
	} {
		f := newGiteaFake(t)
		f.AddUser("alice")
		tt.change(f)
		got := health(f, tt.canary)
		for what, want := range tt.want {
			if h, ok := got[what]; !ok || h != want {
				t.Errorf("%s: %s is %d, found %t; want %d", name, what, h, ok, want)
			}
		}
	}
}

// TestGiteaClock: a clock that is minutes off is told.
func TestGiteaClock(t *testing.T) {
	for shift, want := range map[time.Duration]forge.Health{0: forge.Fine, time.Hour: forge.Doubtful, -time.Hour: forge.Doubtful} {
		f := newGiteaFake(t, func(c *forge.GiteaConfig) { c.Now = func() time.Time { return time.Now().Add(shift) } })
		for _, x := range f.gitea.Check(t.Context(), "") {
			if x.What == "clock" && x.Health != want {
				t.Errorf("%s off: %+v", shift, x)
			}
		}
	}
}

func (f *giteaFake) failOn(path string, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = func(r *http.Request) (int, bool) { return status, strings.HasSuffix(r.URL.Path, path) }
}
