package forge_test

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
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
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

const (
	githubToken  = "ghp_of_the_gate"
	githubSecret = "webhook secret"
)

// githubFake answers as GitHub's documentation says it does: as an Enterprise Server to a site administrator's token, or as
// github.com to that of the owner of "org". It is a world, and more that only GitHub has.
type githubFake struct {
	t      *testing.T
	github *forge.GitHub
	server *httptest.Server
	cloud  bool

	mu       sync.Mutex // guards what follows
	ahead    time.Duration
	ids      int64
	users    map[int64]*githubUser
	repos    map[int64]*githubRepo
	moved    map[string]int64 // old names, in lower case
	base     string           // base permission of the organization; "" for one that is not shown
	members  map[int64]bool   // of the organization
	keys     map[string]*githubKey
	posts    []githubPost
	touched  []string // fingerprints of keys that have changed: no webhook tells
	hooks    []map[string]any
	audits   []map[string]any // oldest first; nil where there is no audit log
	scopes   string
	lists    bool // whether the token may list collaborators
	outsider bool // the token is of nobody in the organization
	skew     time.Duration
	spent    int // of the quota
	failing  bool
	status   int
	asked    []string
	statuses []int                                                    // of the answers
	answer   func(w http.ResponseWriter, r *http.Request) (done bool) // instead; nil for none
	graphQL  func(vars map[string]any) any                            // instead; nil for none
	maxPage  int                                                      // how much a page holds, whatever is asked for
	graphPer int
}

type githubUser struct {
	id        int64
	login     string
	kind      string
	suspended string
}

type githubRepo struct {
	id         int64
	path       string
	visibility string
	old        bool             // as servers that know no visibility
	grants     map[int64]string // directly
	teams      map[int64]string
}

type githubKey struct {
	line       string
	user       int64
	repository int64
	verified   bool
}

type githubPost struct {
	event string
	body  map[string]any
}

// openGitHub starts an empty GitHub: one in the cloud, or a server. change may alter how it is asked.
func openGitHub(t *testing.T, cloud bool, change func(*forge.GitHubConfig)) *githubFake {
	t.Helper()
	f := &githubFake{
		t: t, cloud: cloud, ids: 1000, users: map[int64]*githubUser{}, repos: map[int64]*githubRepo{}, moved: map[string]int64{},
		members: map[int64]bool{}, keys: map[string]*githubKey{}, base: "none", lists: true, scopes: "repo, read:org", maxPage: 100, graphPer: 100,
	}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	c := forge.GitHubConfig{
		Name: "github", URL: f.server.URL, Hosts: []string{"git.example.com"}, Token: fixedToken(githubToken),
		HookSecret: authn.NewSecret(githubSecret), Orgs: []string{"org"}, SiteAdmin: !cloud, Now: f.now,
	}
	if cloud {
		c.URL, c.HTTP = "https://github.com", &http.Client{Transport: f}
	}
	if change != nil {
		change(&c)
	}
	var err error
	if f.github, err = forge.NewGitHub(c); err != nil {
		t.Fatal(err)
	}
	return f
}

// RoundTrip brings what is meant for github.com to the fake.
func (f *githubFake) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != "api.github.com" {
		return nil, fmt.Errorf("asked %s://%s", r.URL.Scheme, r.URL.Host)
	}
	there := r.Clone(r.Context())
	there.URL.Scheme, there.URL.Host = "http", strings.TrimPrefix(f.server.URL, "http://")
	return http.DefaultTransport.RoundTrip(there)
}

// api is where the interface is, for links.
func (f *githubFake) api() string {
	if f.cloud {
		return "https://api.github.com"
	}
	return f.server.URL + "/api/v3"
}

func (f *githubFake) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.ahead)
}

// change does something to the server as its administrator.
func (f *githubFake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *githubFake) id() int64 {
	f.ids++
	return f.ids
}

// user returns a user by name. The caller holds mu.
func (f *githubFake) user(login string) *githubUser {
	for _, u := range f.users {
		if strings.EqualFold(u.login, login) {
			return u
		}
	}
	return nil
}

// named returns a repository by its name now. The caller holds mu.
func (f *githubFake) named(path string) *githubRepo {
	for _, r := range f.repos {
		if strings.EqualFold(r.path, path) {
			return r
		}
	}
	return nil
}

func (f *githubFake) post(event, action string, body map[string]any) {
	body["action"] = action
	f.posts = append(f.posts, githubPost{event, body})
}

// What a world does.

func (f *githubFake) Provider() forge.Provider { return f.github }
func (f *githubFake) Name() string             { return "github" }
func (f *githubFake) Host() string             { return "git.example.com" }
func (f *githubFake) Path(name string) string  { return "org/" + name }

// Settle delivers the webhooks, lets time pass, and tells of keys as who follows the forge does.
func (f *githubFake) Settle() {
	f.mu.Lock()
	posts, touched := f.posts, f.touched
	f.posts, f.touched = nil, nil
	f.ahead += 10 * time.Second
	f.mu.Unlock()
	for _, p := range posts {
		body, err := json.Marshal(p.body)
		if err != nil {
			f.t.Fatal(err)
		}
		d, err := f.github.ReadHook(githubHeader(p.event, body), body)
		if err != nil {
			f.t.Fatalf("read the webhook %s: %v", body, err)
		}
		for _, e := range d.Events {
			f.github.Forget(e)
		}
	}
	for _, key := range touched {
		f.github.Forget(forge.Event{Forge: "github", Key: key})
	}
}

func githubHeader(event string, body []byte) http.Header {
	sum := hmac.New(sha256.New, []byte(githubSecret))
	sum.Write(body)
	h := http.Header{}
	h.Set("X-GitHub-Event", event)
	h.Set("X-GitHub-Delivery", rand.Text())
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum.Sum(nil)))
	return h
}

func (f *githubFake) AddUser(login string) {
	f.change(func() {
		u := &githubUser{id: f.id(), login: login, kind: "User"}
		f.users[u.id] = u
		f.members[u.id] = true
		f.post("organization", "member_added", map[string]any{"membership": map[string]any{"user": map[string]any{"id": u.id}}})
	})
}

func (f *githubFake) AddRepo(path string, public bool) {
	f.change(func() {
		r := &githubRepo{id: f.id(), path: path, visibility: "private", grants: map[int64]string{}, teams: map[int64]string{}}
		if public {
			r.visibility = "public"
		}
		f.repos[r.id] = r
		delete(f.moved, strings.ToLower(path))
		f.post("repository", "created", r.thing())
	})
}

func (r *githubRepo) thing() map[string]any {
	return map[string]any{"repository": map[string]any{"id": r.id, "full_name": r.path}}
}

func (f *githubFake) Grant(user, path string) {
	f.change(func() {
		u, r := f.user(user), f.named(path)
		r.grants[u.id] = "read"
		body := r.thing()
		body["member"] = map[string]any{"id": u.id, "login": u.login}
		f.post("member", "added", body)
	})
}

func (f *githubFake) Withdraw(user, path string) {
	f.change(func() {
		u, r := f.user(user), f.named(path)
		delete(r.grants, u.id)
		body := r.thing()
		body["member"] = map[string]any{"id": u.id, "login": u.login}
		f.post("member", "removed", body)
	})
}

func (f *githubFake) Rename(from, to string) {
	f.change(func() {
		r := f.named(from)
		r.path = to
		f.moved[strings.ToLower(from)] = r.id
		f.post("repository", "renamed", r.thing())
	})
}

func (f *githubFake) Delete(path string) {
	f.change(func() {
		r := f.named(path)
		delete(f.repos, r.id)
		maps.DeleteFunc(f.moved, func(_ string, id int64) bool { return id == r.id })
		f.post("repository", "deleted", r.thing())
	})
}

// Block tells no webhook.
func (f *githubFake) Block(user string, blocked bool) {
	f.change(func() { f.user(user).suspended = map[bool]string{true: "2026-11-25T14:40:54Z"}[blocked] })
}

func (f *githubFake) AddKey(user string) string {
	fingerprint, _ := f.newKey(func() *githubKey { return &githubKey{user: f.user(user).id, verified: true} })
	return fingerprint
}

func (f *githubFake) RemoveKey(_, fingerprint string) {
	f.change(func() {
		delete(f.keys, fingerprint)
		f.touched = append(f.touched, fingerprint)
	})
}

// AddDeployKey adds one that names who created it as well.
func (f *githubFake) AddDeployKey(path string) string {
	f.AddUser("maintainer")
	fingerprint, line := f.newKey(func() *githubKey {
		return &githubKey{user: f.user("maintainer").id, repository: f.named(path).id, verified: true}
	})
	f.change(func() {
		body := f.named(path).thing()
		body["key"] = map[string]any{"id": 1, "key": line, "read_only": true}
		f.post("deploy_key", "created", body)
	})
	return fingerprint
}

func (f *githubFake) newKey(make func() *githubKey) (fingerprint, line string) {
	f.t.Helper()
	public := newPublicKey(f.t)
	f.mu.Lock()
	defer f.mu.Unlock()
	key := make()
	key.line = authorizedKey(public)
	fingerprint = ssh.FingerprintSHA256(public)
	f.keys[fingerprint] = key
	f.touched = append(f.touched, fingerprint)
	return fingerprint, key.line
}

func (f *githubFake) Fail(status int) { f.change(func() { f.failing, f.status = true, status }) }
func (f *githubFake) Heal()           { f.change(func() { f.failing = false }) }

func (f *githubFake) Faults() []int {
	return []int{0, 202, 304, 401, 403, 429, 451, 500, 502, 503, 504}
}

// requests returns what was asked that begins with prefix, and forgets all that was asked.
func (f *githubFake) requests(prefix string) (asked []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.asked {
		if strings.HasPrefix(r, prefix) {
			asked = append(asked, r)
		}
	}
	f.asked = nil
	return asked
}

// What the server answers.

func (f *githubFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w = notingWriter{w, f}
	path, graph := r.URL.EscapedPath(), r.URL.Path == "/graphql"
	if !f.cloud {
		path, graph = strings.TrimPrefix(path, "/api/v3"), r.URL.Path == "/api/graphql"
	}
	f.asked = append(f.asked, r.Method+" "+strings.TrimPrefix(r.URL.RequestURI(), "/api/v3"))
	if f.failing {
		f.refuse(w)
		return
	}
	if f.answer != nil && f.answer(w, r) {
		return
	}
	w.Header().Set("Date", time.Now().Add(f.skew).UTC().Format(http.TimeFormat))
	if r.Header.Get("Authorization") != "Bearer "+githubToken {
		githubReply(w, r, http.StatusUnauthorized, map[string]any{"message": "Bad credentials"})
		return
	}
	if f.scopes != "" {
		w.Header().Set("X-OAuth-Scopes", f.scopes)
	}
	if graph {
		f.serveGraph(w, r)
		return
	}
	if !f.cloud && !strings.HasPrefix(r.URL.Path, "/api/v3/") || r.Method != http.MethodGet {
		githubNotFound(w, r)
		return
	}
	f.serve(w, r, strings.Split(strings.Trim(path, "/"), "/"))
}

// notingWriter notes the status of an answer.
type notingWriter struct {
	http.ResponseWriter
	fake *githubFake
}

func (w notingWriter) WriteHeader(status int) {
	w.fake.statuses = append(w.fake.statuses, status)
	w.ResponseWriter.WriteHeader(status)
}

// refuse answers as GitHub does when it does not answer.
func (f *githubFake) refuse(w http.ResponseWriter) {
	if f.status == http.StatusForbidden {
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	}
	if f.status == http.StatusNotModified {
		w.WriteHeader(f.status)
		return
	}
	fail(w, f.status)
}

func githubNotFound(w http.ResponseWriter, r *http.Request) {
	githubReply(w, r, http.StatusNotFound, map[string]any{"message": "Not Found"})
}

// githubReply answers with an entity tag, and not at all to who has it.
func githubReply(w http.ResponseWriter, r *http.Request, status int, body any) {
	text, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(text)
	tag := `W/"` + hex.EncodeToString(sum[:]) + `"`
	if status == http.StatusOK {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.Header().Del("Link")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

func (f *githubFake) serve(w http.ResponseWriter, r *http.Request, segments []string) {
	count := len(segments)
	switch first := segments[0]; {
	case first == "repos" && count >= 3:
		f.serveNamed(w, r, segments[1], segments[2], segments[3:])
	case first == "repositories" && count >= 2:
		id, _ := strconv.ParseInt(segments[1], 10, 64)
		f.serveRepo(w, r, f.repos[id], segments[2:])
	case first == "user" && count == 2:
		id, _ := strconv.ParseInt(segments[1], 10, 64)
		f.serveUser(w, r, f.users[id], nil)
	case first == "users" && count == 1 && !f.cloud:
		f.serveUsers(w, r)
	case first == "users" && count >= 2:
		f.serveUser(w, r, f.user(segments[1]), segments[2:])
	case first == "orgs" && count >= 2 && segments[1] == "org":
		f.serveOrg(w, r, segments[2:])
	case first == "admin" && count == 2 && segments[1] == "keys" && !f.cloud:
		f.serveKeys(w, r)
	case first == "rate_limit" && count == 1:
		w.Header().Set("X-RateLimit-Limit", "5000")
		w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(5000-f.spent))
		githubReply(w, r, http.StatusOK, map[string]any{})
	default:
		githubNotFound(w, r)
	}
}

// serveNamed serves a repository by name, and sends on who has an old one.
func (f *githubFake) serveNamed(w http.ResponseWriter, r *http.Request, owner, name string, rest []string) {
	path := owner + "/" + name
	if repo := f.named(path); repo != nil {
		f.serveRepo(w, r, repo, rest)
		return
	}
	id, ok := f.moved[strings.ToLower(path)]
	if !ok {
		githubNotFound(w, r)
		return
	}
	w.Header().Set("Location", f.api()+"/"+strings.Join(append([]string{"repositories", strconv.FormatInt(id, 10)}, rest...), "/"))
	w.WriteHeader(http.StatusMovedPermanently)
}

func (f *githubFake) serveRepo(w http.ResponseWriter, r *http.Request, repo *githubRepo, rest []string) {
	switch {
	case repo == nil:
		githubNotFound(w, r)
	case len(rest) == 0:
		body := map[string]any{"id": repo.id, "full_name": repo.path, "private": repo.visibility != "public"}
		if !repo.old {
			body["visibility"] = repo.visibility
		}
		githubReply(w, r, http.StatusOK, body)
	case len(rest) == 1 && rest[0] == "collaborators":
		f.serveCollaborators(w, r, repo)
	case len(rest) == 3 && rest[0] == "collaborators" && rest[2] == "permission":
		u := f.user(rest[1])
		if u == nil {
			githubNotFound(w, r)
			return
		}
		permission := repo.permission(f, u.id)
		if repo.visibility == "public" || repo.visibility == "internal" && f.members[u.id] {
			permission = cmp.Or(permission, "read")
		}
		githubReply(w, r, http.StatusOK, map[string]any{
			"permission": cmp.Or(permission, "none"), "role_name": permission, "user": map[string]any{"id": u.id, "login": u.login},
		})
	default:
		githubNotFound(w, r)
	}
}

// permission is what a user has by grants, teams and the base permission.
func (repo *githubRepo) permission(f *githubFake, user int64) string {
	permission := cmp.Or(repo.grants[user], repo.teams[user])
	if permission == "" && f.members[user] && f.base != "none" {
		return f.base
	}
	return permission
}

func (f *githubFake) serveCollaborators(w http.ResponseWriter, r *http.Request, repo *githubRepo) {
	if !f.lists {
		githubReply(w, r, http.StatusForbidden, map[string]any{"message": "Must have push access to view repository collaborators."})
		return
	}
	var all []any
	for _, id := range slices.Sorted(maps.Keys(f.users)) {
		if permission := repo.permission(f, id); permission != "" {
			all = append(all, map[string]any{
				"id": id, "login": f.users[id].login, "role_name": permission,
				"permissions": map[string]any{"pull": permission != "none", "triage": false, "push": permission == "write", "maintain": false, "admin": false},
			})
		}
	}
	f.page(w, r, all)
}

// page shows one page of a listing, and where the others are.
func (f *githubFake) page(w http.ResponseWriter, r *http.Request, all []any) {
	q := r.URL.Query()
	page, _ := strconv.Atoi(cmp.Or(q.Get("page"), "1"))
	size, _ := strconv.Atoi(cmp.Or(q.Get("per_page"), "30"))
	size = min(size, f.maxPage)
	start := min((page-1)*size, len(all))
	end := min(start+size, len(all))
	if end < len(all) {
		q.Set("page", strconv.Itoa(page+1))
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, f.api(), strings.TrimPrefix(r.URL.Path, "/api/v3"), q.Encode()))
	}
	githubReply(w, r, http.StatusOK, append([]any{}, all[start:end]...))
}

func (f *githubFake) serveUser(w http.ResponseWriter, r *http.Request, u *githubUser, rest []string) {
	switch {
	case u == nil:
		githubNotFound(w, r)
	case len(rest) == 0:
		body := map[string]any{"id": u.id, "login": u.login, "type": u.kind, "site_admin": false}
		if !f.cloud {
			body["suspended_at"] = nil
		}
		if u.suspended != "" {
			body["suspended_at"] = u.suspended
		}
		githubReply(w, r, http.StatusOK, body)
	case len(rest) == 1 && rest[0] == "keys":
		var all []any
		for _, fingerprint := range slices.Sorted(maps.Keys(f.keys)) {
			if k := f.keys[fingerprint]; k.user == u.id && k.repository == 0 {
				all = append(all, map[string]any{"id": 1, "key": k.line})
			}
		}
		f.page(w, r, all)
	default:
		githubNotFound(w, r)
	}
}

// collaborates reports whether a user has a grant at a repository of the organization.
func (f *githubFake) collaborates(user int64) bool {
	for _, r := range f.repos {
		if strings.HasPrefix(r.path, "org/") && r.grants[user] != "" {
			return true
		}
	}
	return false
}

// simple shows users as listings do, which do not say who is suspended.
func (f *githubFake) simple(is func(*githubUser) bool) (all []any) {
	for _, id := range slices.Sorted(maps.Keys(f.users)) {
		if u := f.users[id]; is(u) {
			all = append(all, map[string]any{"id": u.id, "login": u.login, "type": u.kind, "site_admin": false})
		}
	}
	return all
}

// serveUsers lists a server's accounts after the id "since".
func (f *githubFake) serveUsers(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, _ := strconv.ParseInt(q.Get("since"), 10, 64)
	size, _ := strconv.Atoi(cmp.Or(q.Get("per_page"), "30"))
	var last int64
	all := f.simple(func(u *githubUser) bool { return u.id > since })
	if size = min(size, f.maxPage); len(all) > size {
		all = all[:size]
		last = all[size-1].(map[string]any)["id"].(int64)
		w.Header().Set("Link", fmt.Sprintf(`<%s/users?per_page=%d&since=%d>; rel="next"`, f.api(), size, last))
	}
	githubReply(w, r, http.StatusOK, append([]any{}, all...))
}

func (f *githubFake) serveKeys(w http.ResponseWriter, r *http.Request) {
	var all []any
	for _, fingerprint := range slices.Sorted(maps.Keys(f.keys)) {
		k := f.keys[fingerprint]
		body := map[string]any{"id": 1, "key": k.line, "user_id": nil, "repository_id": nil, "read_only": true, "verified": k.verified}
		if k.user != 0 {
			body["user_id"] = k.user
		}
		if k.repository != 0 {
			body["repository_id"] = k.repository
		}
		all = append(all, body)
	}
	f.page(w, r, all)
}

func (f *githubFake) serveOrg(w http.ResponseWriter, r *http.Request, rest []string) {
	switch strings.Join(rest, "/") {
	case "":
		body := map[string]any{"id": 1, "login": "org"}
		if f.base != "" {
			body["default_repository_permission"] = f.base
		}
		githubReply(w, r, http.StatusOK, body)
	case "hooks":
		githubReply(w, r, http.StatusOK, append([]map[string]any{}, f.hooks...))
	case "members":
		if f.outsider {
			http.Redirect(w, r, f.api()+"/orgs/org/public_members", http.StatusFound)
			return
		}
		f.page(w, r, f.simple(func(u *githubUser) bool { return f.members[u.id] }))
	case "public_members":
		f.page(w, r, nil)
	case "outside_collaborators":
		f.page(w, r, f.simple(func(u *githubUser) bool { return !f.members[u.id] && f.collaborates(u.id) }))
	case "audit-log":
		f.serveAudit(w, r)
	default:
		githubNotFound(w, r)
	}
}

// serveAudit shows the latest first, a page behind each cursor.
func (f *githubFake) serveAudit(w http.ResponseWriter, r *http.Request) {
	if f.audits == nil {
		githubNotFound(w, r)
		return
	}
	q := r.URL.Query()
	since, ok := strings.CutPrefix(q.Get("phrase"), "created:>=")
	if _, err := time.Parse(time.RFC3339, since); err != nil && ok {
		githubReply(w, r, http.StatusUnprocessableEntity, map[string]any{"message": "bad phrase"})
		return
	}
	latest := slices.Clone(f.audits)
	slices.Reverse(latest)
	start, _ := strconv.Atoi(q.Get("after"))
	size, _ := strconv.Atoi(cmp.Or(q.Get("per_page"), "30"))
	start = min(start, len(latest))
	end := min(start+size, len(latest))
	if end < len(latest) {
		next := url.Values{"after": {strconv.Itoa(end)}, "per_page": {strconv.Itoa(size)}}
		w.Header().Set("Link", fmt.Sprintf(`<%s/orgs/org/audit-log?%s>; rel="next"`, f.api(), next.Encode()))
	}
	githubReply(w, r, http.StatusOK, append([]map[string]any{}, latest[start:end]...))
}

// serveGraph answers the one query that the gate has, by its variables.
func (f *githubFake) serveGraph(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}
	if err := json.UnmarshalRead(r.Body, &q); err != nil || r.Method != http.MethodPost || !strings.Contains(q.Query, "membersWithRole") {
		githubReply(w, r, http.StatusBadRequest, map[string]any{"message": "Problems parsing JSON"})
		return
	}
	if f.graphQL != nil {
		respond(w, http.StatusOK, f.graphQL(q.Variables))
		return
	}
	if q.Variables["org"] != "org" {
		respond(w, http.StatusOK, map[string]any{"data": map[string]any{"organization": nil}, "errors": []any{map[string]any{"type": "NOT_FOUND"}}})
		return
	}
	after := 0
	if text, ok := q.Variables["after"].(string); ok {
		after, _ = strconv.Atoi(text)
	}
	ids := slices.Sorted(maps.Keys(f.members))
	end := min(after+f.graphPer, len(ids))
	nodes := []any{}
	for _, id := range ids[after:end] {
		keys := []any{}
		for _, k := range f.keys {
			if k.user == id && k.repository == 0 {
				keys = append(keys, map[string]any{"key": k.line})
			}
		}
		nodes = append(nodes, map[string]any{"databaseId": id, "publicKeys": map[string]any{"nodes": keys}})
	}
	page := map[string]any{"hasNextPage": end < len(ids), "endCursor": strconv.Itoa(end)}
	respond(w, http.StatusOK, map[string]any{"data": map[string]any{"organization": map[string]any{
		"membersWithRole": map[string]any{"pageInfo": page, "nodes": nodes},
	}}})
}
