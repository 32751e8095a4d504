package forge_test

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// giteaFake answers as Gitea's interface is documented, and as its handlers of users, keys and repositories are written,
// for what a forge provider asks. Like the server, it compares names without case.
type giteaFake struct {
	t      *testing.T
	server *httptest.Server
	gitea  *forge.Gitea

	mu         sync.Mutex // guards what follows
	users      map[int64]*giteaAccount
	repos      map[int64]*giteaRepository
	keys       []giteaSSHKey
	moved      map[string]int64 // old paths of repositories, in lower case
	formerly   map[string]int64 // old logins
	last       int64
	version    string
	page       int // MAX_RESPONSE_ITEMS
	hooks      []any
	asked      []string // method, path and query of each request
	fault      func(r *http.Request) (status int, broken bool)
	before     func(r *http.Request) // called before each request is looked at; mu is not held
	dropSudo   bool                  // as a proxy may
	publicOnly bool                  // the token is for public resources alone
	lie        int64                 // added to every id
}

type giteaAccount struct {
	ID            int64
	Login         string
	Active        bool
	ProhibitLogin bool
	Admin         bool
	Restricted    bool
	Org, Limited  bool // an organization; what only those see who have signed in
}

type giteaRepository struct {
	ID          int64
	Owner       int64
	Name        string
	Private     bool
	Readers     map[int64]bool // collaborators, and members of teams with the code unit
	IssueReader map[int64]bool // members of teams that have other units alone
}

type giteaSSHKey struct {
	ID                int64
	Fingerprint, Type string
	Owner             int64
}

const giteaToken = "gta-0123456789abcdef"

func newGiteaFake(t *testing.T, change ...func(*forge.GiteaConfig)) *giteaFake {
	f := &giteaFake{
		t: t, version: "1.26.0", page: 50,
		users: map[int64]*giteaAccount{}, repos: map[int64]*giteaRepository{}, moved: map[string]int64{}, formerly: map[string]int64{},
	}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	f.account("root").Admin = true
	c := forge.GiteaConfig{
		Name: "gitea.example.com", URL: f.server.URL, Hosts: []string{"gitea.example.com"}, HTTP: f.server.Client(),
		Token:      func() (authn.Secret, error) { return authn.NewSecret(giteaToken), nil },
		HookSecret: authn.NewSecret("hook-secret"),
	}
	for _, set := range change {
		set(&c)
	}
	g, err := forge.NewGitea(c)
	if err != nil {
		t.Fatal(err)
	}
	f.gitea = g
	return f
}

// The world of the conformance suite.

func (f *giteaFake) Provider() forge.Provider { return f.gitea }
func (f *giteaFake) Name() string             { return "gitea.example.com" }
func (f *giteaFake) Host() string             { return "gitea.example.com" }
func (f *giteaFake) Settle()                  {}
func (f *giteaFake) Path(name string) string  { return "team/" + name }
func (f *giteaFake) AddUser(name string)      { f.account(name) }

func (f *giteaFake) AddRepo(path string, public bool) { f.addRepo(path, public) }

func (f *giteaFake) addRepo(path string, public bool) *giteaRepository {
	owner, name, _ := strings.Cut(path, "/")
	o := f.account(owner)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	r := &giteaRepository{ID: f.last, Owner: o.ID, Name: name, Private: !public, Readers: map[int64]bool{}, IssueReader: map[int64]bool{}}
	f.repos[r.ID] = r
	delete(f.moved, strings.ToLower(path))
	return r
}

func (f *giteaFake) Grant(user, path string) {
	f.change(path, func(r *giteaRepository) { r.Readers[f.named(user).ID] = true })
}

func (f *giteaFake) Withdraw(user, path string) {
	f.change(path, func(r *giteaRepository) { delete(r.Readers, f.named(user).ID) })
}

func (f *giteaFake) Delete(path string) {
	f.change(path, func(r *giteaRepository) { delete(f.repos, r.ID) })
}

func (f *giteaFake) Rename(from, to string) {
	f.change(from, func(r *giteaRepository) {
		_, r.Name, _ = strings.Cut(to, "/")
		f.moved[strings.ToLower(from)] = r.ID
	})
}

func (f *giteaFake) Block(user string, blocked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.named(user).ProhibitLogin = blocked
}

func (f *giteaFake) AddKey(user string) string { return f.addKey("user", f.account(user).ID) }

func (f *giteaFake) RemoveKey(user, fingerprint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = slices.DeleteFunc(f.keys, func(k giteaSSHKey) bool { return k.Fingerprint == fingerprint })
}

func (f *giteaFake) AddDeployKey(string) string { return f.addKey("deploy", 0) }

func (f *giteaFake) addKey(kind string, owner int64) string {
	key := newPublicKey(f.t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.keys = append(f.keys, giteaSSHKey{f.last, ssh.FingerprintSHA256(key), kind, owner})
	return ssh.FingerprintSHA256(key)
}

func (f *giteaFake) Faults() []int {
	return []int{0, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, 500, 502, 503, 504, 302, 204}
}

func (f *giteaFake) Fail(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = func(*http.Request) (int, bool) { return status, true }
}

func (f *giteaFake) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
}

// newPublicKey returns a key of nobody yet.
func newPublicKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// account returns the account with a name, made when there is none.
func (f *giteaFake) account(name string) *giteaAccount {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.named(name); u != nil {
		return u
	}
	f.last++
	u := &giteaAccount{ID: f.last, Login: name, Active: true}
	f.users[u.ID] = u
	return u
}

// named returns nil for nobody. The caller holds mu.
func (f *giteaFake) named(name string) *giteaAccount {
	for _, u := range f.users {
		if strings.EqualFold(u.Login, name) {
			return u
		}
	}
	return nil
}

func (f *giteaFake) change(path string, change func(*giteaRepository)) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.at(path)
	if r == nil {
		f.t.Fatalf("no repository %s", path)
	}
	change(r)
}

// at returns nil for a path that leads nowhere. The caller holds mu.
func (f *giteaFake) at(path string) *giteaRepository {
	owner, name, _ := strings.Cut(path, "/")
	for _, r := range f.repos {
		if strings.EqualFold(f.users[r.Owner].Login, owner) && strings.EqualFold(r.Name, name) {
			return r
		}
	}
	return nil
}

// The server. Everything below is called with mu held.

func (f *giteaFake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
	if f.fault != nil {
		if status, broken := f.fault(r); broken {
			failWith(w, status)
			return
		}
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v1/")
	if !ok || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Header.Get("Authorization") != "token "+giteaToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	doer := f.named("root")
	if sudo := r.Header.Get("Sudo"); sudo != "" && !f.dropSudo {
		if !doer.Admin {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if doer = f.named(sudo); doer == nil || doer.Org {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	f.route(w, r, doer, strings.Split(path, "/"))
}

// failWith fails a request: 0 hangs up.
func failWith(w http.ResponseWriter, status int) {
	if status == 0 {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
		return
	}
	w.WriteHeader(status)
}

func (f *giteaFake) route(w http.ResponseWriter, r *http.Request, doer *giteaAccount, path []string) {
	query := r.URL.Query()
	switch {
	case slices.Equal(path, []string{"version"}):
		reply(w, map[string]any{"version": f.version})
	case slices.Equal(path, []string{"user"}):
		reply(w, f.user(doer, doer))
	case slices.Equal(path, []string{"users", "search"}):
		reply(w, map[string]any{"ok": true, "data": f.search(doer, query)})
	case slices.Equal(path, []string{"user", "keys"}):
		reply(w, f.sshKeys(doer, query.Get("fingerprint")))
	case slices.Equal(path, []string{"admin", "hooks"}) && doer.Admin:
		reply(w, f.hooks)
	case slices.Equal(path, []string{"repos", "search"}):
		f.listRepos(w, doer, query)
	case slices.Equal(path, []string{"repos", "issues", "search"}):
		reply(w, []any{})
	case len(path) == 2 && path[0] == "users":
		f.userByName(w, doer, path[1])
	case len(path) == 3 && path[0] == "repos":
		f.repoByPath(w, r, doer, path[1]+"/"+path[2])
	case len(path) == 2 && path[0] == "repositories":
		id, _ := strconv.ParseInt(path[1], 10, 64)
		f.repo(w, doer, f.repos[id])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, v) // a client that left
}

// user hides what others may not see, as convert.ToUser does.
func (f *giteaFake) user(viewer, u *giteaAccount) map[string]any {
	m := map[string]any{"id": u.ID + f.lie, "login": u.Login, "username": u.Login, "active": false, "prohibit_login": false, "is_admin": false, "restricted": false}
	if viewer.Admin || viewer.ID == u.ID {
		m["active"], m["prohibit_login"], m["is_admin"], m["restricted"] = u.Active, u.ProhibitLogin, u.Admin, u.Restricted
	}
	return m
}

// search returns everybody for an id that is no positive number, a page by their names, and a stand-in for -1.
func (f *giteaFake) search(viewer *giteaAccount, query url.Values) []any {
	id, _ := strconv.ParseInt(query.Get("uid"), 10, 64)
	if id == -1 {
		return []any{map[string]any{"id": -1, "login": "Ghost"}}
	}
	var all []*giteaAccount
	for _, u := range f.users {
		if !u.Org && (id <= 0 || u.ID == id) {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b *giteaAccount) int {
		return strings.Compare(strings.ToLower(a.Login), strings.ToLower(b.Login))
	})
	found := []any{}
	for _, u := range giteaPageOf(all, query, f.page) {
		found = append(found, f.user(viewer, u))
	}
	return found
}

// giteaPageOf returns the page that is asked for, of most at the most.
func giteaPageOf[T any](all []T, query url.Values, most int) []T {
	n, _ := strconv.Atoi(query.Get("page"))
	size, _ := strconv.Atoi(cmp.Or(query.Get("limit"), "30"))
	size = min(size, most)
	from := min((max(n, 1)-1)*size, len(all))
	return all[from:min(from+size, len(all))]
}

func (f *giteaFake) sshKeys(viewer *giteaAccount, fingerprint string) []any {
	found := []any{}
	for _, k := range f.keys {
		if fingerprint == "" && k.Owner != viewer.ID || fingerprint != "" && k.Fingerprint != fingerprint {
			continue
		}
		m := map[string]any{"id": k.ID, "fingerprint": k.Fingerprint, "title": "key"}
		if viewer.Admin || viewer.ID == k.Owner {
			m["key_type"] = k.Type
			if k.Type == "user" {
				m["user"] = f.user(f.users[k.Owner], f.users[k.Owner])
			}
		}
		found = append(found, m)
	}
	return found
}

func (f *giteaFake) userByName(w http.ResponseWriter, viewer *giteaAccount, name string) {
	if u := f.named(name); u != nil {
		reply(w, f.user(viewer, u))
		return
	}
	if id, ok := f.formerly[strings.ToLower(name)]; ok {
		w.Header().Set("Location", "/api/v1/users/"+f.users[id].Login)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// can reports what a user may do with a repository: see it at all, and pull its code.
func (f *giteaFake) can(u *giteaAccount, r *giteaRepository) (see, pull bool) {
	public := !r.Private && !(u.Restricted && f.users[r.Owner].Limited)
	pull = u.Admin || r.Owner == u.ID || r.Readers[u.ID] || public
	return pull || r.IssueReader[u.ID], pull
}

func (f *giteaFake) repository(viewer *giteaAccount, r *giteaRepository) map[string]any {
	_, pull := f.can(viewer, r)
	return map[string]any{
		"id": r.ID + f.lie, "name": r.Name, "full_name": f.users[r.Owner].Login + "/" + r.Name, "private": r.Private,
		"permissions": map[string]any{"admin": false, "push": false, "pull": pull},
	}
}

func (f *giteaFake) repo(w http.ResponseWriter, viewer *giteaAccount, r *giteaRepository) {
	if r != nil {
		if see, _ := f.can(viewer, r); see {
			reply(w, f.repository(viewer, r))
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

func (f *giteaFake) repoByPath(w http.ResponseWriter, r *http.Request, viewer *giteaAccount, path string) {
	repo := f.at(path)
	if id, ok := f.moved[strings.ToLower(path)]; ok && repo == nil && f.repos[id] != nil {
		to := f.repos[id]
		w.Header().Set("Location", "/api/v1/repos/"+f.users[to.Owner].Login+"/"+to.Name)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	f.repo(w, viewer, repo)
}

func (f *giteaFake) listRepos(w http.ResponseWriter, viewer *giteaAccount, query url.Values) {
	var all []*giteaRepository
	for _, r := range f.repos {
		see, _ := f.can(viewer, r)
		if see && (r.Private || query.Get("is_private") == "") && !(r.Private && f.publicOnly) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *giteaRepository) int { return cmp.Compare(a.ID, b.ID) })
	data := []any{}
	for _, r := range giteaPageOf(all, query, f.page) {
		data = append(data, f.repository(viewer, r))
	}
	w.Header().Set("X-Total-Count", fmt.Sprint(len(all)))
	reply(w, map[string]any{"ok": true, "data": data})
}
