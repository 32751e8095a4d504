package forge_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// bitbucketFake answers as Bitbucket Data Center's interface is documented, for what a forge provider asks. It fails the test that asks with
// permission filters that are not numbered from 1 without a gap.
type bitbucketFake struct {
	t       *testing.T
	server  *httptest.Server
	bb      *forge.Bitbucket
	configs forge.BitbucketConfig

	mu        sync.Mutex // guards what follows
	users     map[int64]*bitbucketAccount
	repos     map[int64]*bitbucketRepository
	last      int64
	page      int // the most on one page
	closed    bool
	entries   []map[string]any // of the audit log, the newest first
	asked     []string
	fault     func(r *http.Request) (status int, broken bool)
	before    func(r *http.Request) // called before each request is looked at; mu is not held
	dropFirst bool                  // a proxy takes permission.1 and what belongs to it away
	ownKeys   bool                  // an old server: the parameter "user" is unknown, so it is the asker's keys
	lie       int64                 // added to the id of every repository
	stuck     bool                  // pages name themselves as the next
}

type bitbucketAccount struct {
	ID                 int64
	Name, Slug, Called string
	Active, Licensed   bool
	Keys               []map[string]any
}

type bitbucketRepository struct {
	ID            int64
	Project, Slug string
	Public        bool
	ProjectPublic bool
	Everybody     bool           // the project's default permission
	Readers       map[int64]bool // by whatever grant
	AccessKeys    []string
}

const bitbucketToken = "bbdc-0123456789abcdef"

func newBitbucketFake(t *testing.T, change ...func(*forge.BitbucketConfig)) *bitbucketFake {
	f := &bitbucketFake{t: t, page: 1000, users: map[int64]*bitbucketAccount{}, repos: map[int64]*bitbucketRepository{}}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	f.account("admin")
	f.account("nobody-at-all")
	f.configs = forge.BitbucketConfig{
		Name: "bitbucket.example.com", URL: f.server.URL, Hosts: []string{"bitbucket.example.com"}, HTTP: f.server.Client(), Nobody: "nobody-at-all",
		Token:      func() (authn.Secret, error) { return authn.NewSecret(bitbucketToken), nil },
		HookSecret: authn.NewSecret("hook-secret"),
	}
	for _, set := range change {
		set(&f.configs)
	}
	f.restart()
	return f
}

// restart makes the provider anew, which has seen nothing then.
func (f *bitbucketFake) restart() {
	f.t.Helper()
	b, err := forge.NewBitbucket(f.configs)
	if err != nil {
		f.t.Fatal(err)
	}
	f.bb = b
}

// RoundTrip serves without a network, for tests in a bubble.
func (f *bitbucketFake) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f.serve(w, r)
	return w.Result(), nil
}

// The world of the conformance suite.

func (f *bitbucketFake) Provider() forge.Provider { return f.bb }
func (f *bitbucketFake) Name() string             { return "bitbucket.example.com" }
func (f *bitbucketFake) Host() string             { return "bitbucket.example.com" }
func (f *bitbucketFake) Path(name string) string  { return "TEAM/" + name }
func (f *bitbucketFake) AddUser(name string)      { f.account(name) }

// Settle does what the audit log does.
func (f *bitbucketFake) Settle() { f.bb.Forget(forge.Event{Forge: f.Name()}) }

func (f *bitbucketFake) AddRepo(path string, public bool) { f.addRepo(path, public) }

func (f *bitbucketFake) addRepo(path string, public bool) *bitbucketRepository {
	f.mu.Lock()
	defer f.mu.Unlock()
	project, slug, _ := strings.Cut(path, "/")
	f.last++
	r := &bitbucketRepository{ID: f.last, Project: project, Slug: slug, Public: public, Readers: map[int64]bool{}}
	f.repos[r.ID] = r
	return r
}

func (f *bitbucketFake) Grant(user, path string) {
	f.change(path, func(r *bitbucketRepository) { r.Readers[f.named(user).ID] = true })
}

func (f *bitbucketFake) Withdraw(user, path string) {
	f.change(path, func(r *bitbucketRepository) { delete(r.Readers, f.named(user).ID) })
}

func (f *bitbucketFake) Delete(path string) {
	f.change(path, func(r *bitbucketRepository) { delete(f.repos, r.ID) })
}

func (f *bitbucketFake) Rename(from, to string) {
	f.change(from, func(r *bitbucketRepository) { r.Project, r.Slug, _ = strings.Cut(to, "/") })
}

func (f *bitbucketFake) Block(user string, blocked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.named(user).Active = !blocked
}

func (f *bitbucketFake) AddKey(user string) string {
	key := newPublicKey(f.t)
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.named(user)
	u.Keys = append(u.Keys, map[string]any{"id": len(u.Keys) + 1, "text": string(ssh.MarshalAuthorizedKey(key)), "label": "laptop"})
	return ssh.FingerprintSHA256(key)
}

func (f *bitbucketFake) RemoveKey(user, fingerprint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.named(user)
	u.Keys = slices.DeleteFunc(u.Keys, func(k map[string]any) bool {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k["text"].(string)))
		return err == nil && ssh.FingerprintSHA256(key) == fingerprint
	})
}

func (f *bitbucketFake) AddDeployKey(path string) string {
	print := ssh.FingerprintSHA256(newPublicKey(f.t))
	f.change(path, func(r *bitbucketRepository) { r.AccessKeys = append(r.AccessKeys, print) })
	return print
}

func (f *bitbucketFake) Faults() []int {
	return []int{0, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, 500, 502, 503, 504, 302, 204}
}

func (f *bitbucketFake) Fail(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = func(*http.Request) (int, bool) { return status, true }
}

func (f *bitbucketFake) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
}

// account returns the account with a name, made when there is none.
func (f *bitbucketFake) account(name string) *bitbucketAccount {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.named(name); u != nil {
		return u
	}
	f.last++
	u := &bitbucketAccount{ID: f.last, Name: name, Slug: strings.ToLower(name), Called: name + " of the team", Active: true, Licensed: true}
	f.users[u.ID] = u
	return u
}

// named returns nil for nobody. The caller holds mu.
func (f *bitbucketFake) named(name string) *bitbucketAccount {
	for _, u := range f.users {
		if strings.EqualFold(u.Name, name) {
			return u
		}
	}
	return nil
}

func (f *bitbucketFake) change(path string, change func(*bitbucketRepository)) {
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
func (f *bitbucketFake) at(path string) *bitbucketRepository {
	for _, r := range f.repos {
		if strings.EqualFold(r.Project+"/"+r.Slug, path) {
			return r
		}
	}
	return nil
}

// The server. Everything below is called with mu held.

func (f *bitbucketFake) serve(w http.ResponseWriter, r *http.Request) {
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
	path := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/rest/"), "/")
	admin := r.Header.Get("Authorization") == "Bearer "+bitbucketToken
	if !admin && r.Header.Get("Authorization") != "" || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if len(path) == 6 && slices.Equal(path[:3], []string{"api", "latest", "projects"}) && path[4] == "repos" {
		f.repo(w, admin, f.at(path[3]+"/"+path[5]))
		return
	}
	if !admin {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	f.route(w, r.URL.Query(), strings.Join(path, "/"))
}

func (f *bitbucketFake) route(w http.ResponseWriter, query url.Values, path string) {
	slug, single := strings.CutPrefix(path, "api/latest/users/")
	switch {
	case path == "api/latest/application-properties":
		reply(w, map[string]any{"version": "9.4.0"})
	case path == "api/latest/users", path == "api/latest/admin/users":
		f.list(w, query, f.listUsers(query))
	case single:
		for _, u := range f.users {
			if u.Slug == slug {
				reply(w, u.json())
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	case path == "api/latest/repos":
		var all []any
		for _, id := range slices.Sorted(maps.Keys(f.repos)) {
			all = append(all, f.repos[id].json(f.lie))
		}
		f.list(w, query, all)
	case path == "ssh/latest/keys":
		f.list(w, query, f.sshKeys(query.Get("user")))
	case path == "auditing/1.0/events":
		entries := []any{}
		for _, e := range f.entries {
			if from := query.Get("from"); from == "" || e["timestamp"].(string) >= from {
				entries = append(entries, e)
			}
		}
		limit, _ := strconv.Atoi(query.Get("limit"))
		shown := entries[:min(limit, len(entries))]
		reply(w, map[string]any{"entities": shown, "pagingInfo": map[string]any{"lastPage": len(shown) == len(entries), "size": len(shown)}})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// list answers with one page.
func (f *bitbucketFake) list(w http.ResponseWriter, query url.Values, all []any) {
	limit, _ := strconv.Atoi(query.Get("limit"))
	start, _ := strconv.Atoi(query.Get("start"))
	size := min(max(limit, 1), f.page)
	from := min(start, len(all))
	to := min(from+size, len(all))
	page := map[string]any{"size": to - from, "limit": size, "start": start, "isLastPage": to == len(all), "values": append([]any{}, all[from:to]...)}
	if to < len(all) {
		page["nextPageStart"] = to
	}
	if f.stuck {
		page["isLastPage"], page["nextPageStart"] = false, start
	}
	reply(w, page)
}

func (u *bitbucketAccount) json() map[string]any {
	return map[string]any{"id": u.ID, "name": u.Name, "slug": u.Slug, "displayName": u.Called, "active": u.Active, "type": "NORMAL"}
}

func (r *bitbucketRepository) json(lie int64) map[string]any {
	return map[string]any{
		"id": r.ID + lie, "slug": r.Slug, "name": r.Slug, "public": r.Public, "project": map[string]any{"id": 1, "key": r.Project, "public": r.ProjectPublic},
	}
}

// listUsers applies the filters permission.1, permission.2 and so on, up to the first number that is missing.
func (f *bitbucketFake) listUsers(query url.Values) []any {
	if query.Has("permission.2") && !query.Has("permission.1") {
		f.t.Errorf("permission.2 without permission.1 lists everybody: %v", query)
	}
	if f.dropFirst {
		query.Del("permission.1")
	}
	all := []*bitbucketAccount{}
	for _, u := range f.users {
		word := strings.ToLower(strings.TrimSpace(query.Get("filter")))
		if strings.Contains(strings.ToLower(u.Name+" "+u.Called), word) && f.passes(u, query) {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b *bitbucketAccount) int { return cmp.Compare(a.ID, b.ID) })
	var out []any
	for _, u := range all {
		out = append(out, u.json())
	}
	return out
}

func (f *bitbucketFake) passes(u *bitbucketAccount, query url.Values) bool {
	for n := 1; query.Has(fmt.Sprintf("permission.%d", n)); n++ {
		prefix := fmt.Sprintf("permission.%d", n)
		switch query.Get(prefix) {
		case "LICENSED_USER":
			if !u.Licensed {
				return false
			}
		case "REPO_READ":
			r := f.at(query.Get(prefix+".projectKey") + "/" + query.Get(prefix+".repositorySlug"))
			if r == nil || !r.Readers[u.ID] && !(r.Everybody && u.Licensed) {
				return false
			}
		}
	}
	return true
}

func (f *bitbucketFake) sshKeys(slug string) []any {
	if f.ownKeys {
		slug = "admin"
	}
	var out []any
	for _, u := range f.users {
		if u.Slug == slug {
			for _, k := range u.Keys {
				out = append(out, k)
			}
		}
	}
	return out
}

func (f *bitbucketFake) repo(w http.ResponseWriter, admin bool, r *bitbucketRepository) {
	switch {
	case !admin && (r == nil || f.closed || !r.Public && !r.ProjectPublic):
		w.WriteHeader(http.StatusUnauthorized)
	case r == nil:
		w.WriteHeader(http.StatusNotFound)
	default:
		reply(w, r.json(f.lie))
	}
}
