package forge_test

import (
	"cmp"
	"crypto/rand"
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
	gitlabToken  = "glpat-read-only-administrator"
	gitlabSecret = "system hook secret"
)

// gitlabFake answers as GitLab's documentation says it does, to an administrator's token. It is a world, and more that only
// GitLab has.
type gitlabFake struct {
	t      *testing.T
	gitlab *forge.GitLab
	server *httptest.Server

	mu       sync.Mutex // guards what follows
	ahead    time.Duration
	ids      int64
	users    map[int64]*gitlabUser
	projects map[int64]*gitlabProject
	moved    map[string]int64 // old paths, in lower case
	keys     map[string]*gitlabKey
	posts    []map[string]any // system hooks that are under way
	hooks    []map[string]any // as GET /hooks shows them
	audits   []map[string]any // oldest first; nil where the licence has none
	scopes   []string
	admin    bool          // the token's owner
	expires  string        // of the token
	skew     time.Duration // of the server's clock
	failing  bool
	status   int
	asked    []string                                                 // "GET /api/v4/user"
	answer   func(w http.ResponseWriter, r *http.Request) (done bool) // instead; nil for none
}

type gitlabUser struct {
	id         int64
	name       string
	state      string
	external   bool
	bot        bool
	identities [][2]string // provider and extern_uid
}

type gitlabProject struct {
	id         int64
	path       string
	visibility string
	code       string // repository_access_level
	deletion   string // marked_for_deletion_on
	direct     map[int64]gitlabMember
	inherited  map[int64]gitlabMember // from groups, and groups that were invited
}

type gitlabMember struct {
	level   int
	expires string
	state   string // of the membership
}

type gitlabKey struct {
	id      int64
	line    string
	user    int64
	usage   string
	expires string
	deploy  any // nil: a user's key
}

var (
	_ forge.Hooks     = (*forge.GitLab)(nil)
	_ forge.Follower  = (*forge.GitLab)(nil)
	_ forge.Checker   = (*forge.GitLab)(nil)
	_ forge.Forgetter = (*forge.GitLab)(nil)
)

// openGitLab starts an empty GitLab. change may alter how it is asked.
func openGitLab(t *testing.T, change func(*forge.GitLabConfig)) *gitlabFake {
	t.Helper()
	f := &gitlabFake{
		t: t, ids: 16, users: map[int64]*gitlabUser{}, projects: map[int64]*gitlabProject{}, moved: map[string]int64{},
		keys: map[string]*gitlabKey{}, scopes: []string{"read_api"}, admin: true,
	}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	c := forge.GitLabConfig{
		Name: "gitlab", URL: f.server.URL, Hosts: []string{"git.example.com"}, Token: fixedToken(gitlabToken),
		HookSecret: authn.NewSecret(gitlabSecret), Now: f.now,
	}
	if change != nil {
		change(&c)
	}
	var err error
	if f.gitlab, err = forge.NewGitLab(c); err != nil {
		t.Fatal(err)
	}
	return f
}

func fixedToken(text string) forge.TokenSource {
	return func() (authn.Secret, error) { return authn.NewSecret(text), nil }
}

// now is the clock of the gate, which Settle sets forward.
func (f *gitlabFake) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.ahead)
}

// change does something to the server as its administrator.
func (f *gitlabFake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *gitlabFake) id() int64 {
	f.ids++
	return f.ids
}

// user returns a user by name. The caller holds mu.
func (f *gitlabFake) user(name string) *gitlabUser {
	for _, u := range f.users {
		if strings.EqualFold(u.name, name) {
			return u
		}
	}
	return nil
}

// project returns a project by its path now. The caller holds mu.
func (f *gitlabFake) project(path string) *gitlabProject {
	for _, p := range f.projects {
		if strings.EqualFold(p.path, path) {
			return p
		}
	}
	return nil
}

func (f *gitlabFake) post(event string, members map[string]any) {
	members["event_name"] = event
	members["created_at"] = "2026-11-25T14:40:54Z"
	f.posts = append(f.posts, members)
}

// What a world does.

func (f *gitlabFake) Provider() forge.Provider { return f.gitlab }
func (f *gitlabFake) Name() string             { return "gitlab" }
func (f *gitlabFake) Host() string             { return "git.example.com" }
func (f *gitlabFake) Path(name string) string  { return "team/" + name }

// Settle delivers the system hooks, and lets as much time pass as what has no hook may take.
func (f *gitlabFake) Settle() {
	f.mu.Lock()
	posts := f.posts
	f.posts = nil
	f.ahead += 10 * time.Second
	f.mu.Unlock()
	for _, members := range posts {
		body, err := json.Marshal(members)
		if err != nil {
			f.t.Fatal(err)
		}
		d, err := f.gitlab.ReadHook(gitlabHeader(), body)
		if err != nil {
			f.t.Fatalf("read the system hook %s: %v", body, err)
		}
		for _, e := range d.Events {
			f.gitlab.Forget(e)
		}
	}
}

func gitlabHeader() http.Header {
	return http.Header{"X-Gitlab-Token": {gitlabSecret}, "X-Gitlab-Event": {"System Hook"}, "X-Gitlab-Event-Uuid": {rand.Text()}}
}

func (f *gitlabFake) AddUser(name string) {
	f.change(func() {
		u := &gitlabUser{id: f.id(), name: name, state: "active"}
		f.users[u.id] = u
		f.post("user_create", map[string]any{"user_id": u.id, "username": name})
	})
}

func (f *gitlabFake) AddRepo(path string, public bool) {
	f.change(func() {
		p := &gitlabProject{
			id: f.id(), path: path, visibility: "private", code: "enabled",
			direct: map[int64]gitlabMember{}, inherited: map[int64]gitlabMember{},
		}
		if public {
			p.visibility = "public"
		}
		f.projects[p.id] = p
		delete(f.moved, strings.ToLower(path)) // who creates anew takes the path from who left it
		f.post("project_create", map[string]any{"project_id": p.id, "path_with_namespace": path})
	})
}

func (f *gitlabFake) Grant(user, path string) {
	f.change(func() {
		u, p := f.user(user), f.project(path)
		p.direct[u.id] = gitlabMember{level: 20}
		f.post("user_add_to_team", map[string]any{"user_id": u.id, "project_id": p.id, "access_level": "Reporter"})
	})
}

func (f *gitlabFake) Withdraw(user, path string) {
	f.change(func() {
		u, p := f.user(user), f.project(path)
		delete(p.direct, u.id)
		f.post("user_remove_from_team", map[string]any{"user_id": u.id, "project_id": p.id})
	})
}

func (f *gitlabFake) Rename(from, to string) {
	f.change(func() {
		p := f.project(from)
		p.path = to
		f.moved[strings.ToLower(from)] = p.id
		f.post("project_rename", map[string]any{"project_id": p.id, "path_with_namespace": to, "old_path_with_namespace": from})
	})
}

func (f *gitlabFake) Delete(path string) {
	f.change(func() {
		p := f.project(path)
		delete(f.projects, p.id)
		maps.DeleteFunc(f.moved, func(_ string, id int64) bool { return id == p.id })
		f.post("project_destroy", map[string]any{"project_id": p.id, "path_with_namespace": path})
	})
}

// Block tells no hook: GitLab has none for it.
func (f *gitlabFake) Block(user string, blocked bool) {
	f.change(func() {
		f.user(user).state = map[bool]string{true: "blocked", false: "active"}[blocked]
	})
}

func (f *gitlabFake) AddKey(user string) string {
	fingerprint, key := f.newKey(user)
	f.change(func() {
		f.post("key_create", map[string]any{"username": user, "key": key.line, "id": key.id})
	})
	return fingerprint
}

func (f *gitlabFake) RemoveKey(user, fingerprint string) {
	f.change(func() {
		key := f.keys[fingerprint]
		delete(f.keys, fingerprint)
		f.post("key_destroy", map[string]any{"username": user, "key": key.line, "id": key.id})
	})
}

// AddDeployKey adds one as GitLab shows it: with the person who added it as its user.
func (f *gitlabFake) AddDeployKey(path string) string {
	f.AddUser("maintainer")
	fingerprint, key := f.newKey("maintainer")
	f.change(func() {
		key.deploy = []map[string]any{{"id": 1, "deploy_key_id": key.id, "project_id": f.project(path).id, "can_push": false}}
	})
	return fingerprint
}

func (f *gitlabFake) newKey(user string) (fingerprint string, key *gitlabKey) {
	f.t.Helper()
	public := newPublicKey(f.t)
	f.mu.Lock()
	defer f.mu.Unlock()
	key = &gitlabKey{id: f.id(), line: authorizedKey(public) + " " + user, user: f.user(user).id, usage: "auth_and_signing"}
	fingerprint = ssh.FingerprintSHA256(public)
	f.keys[fingerprint] = key
	return fingerprint, key
}

func authorizedKey(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func (f *gitlabFake) Fail(status int) { f.change(func() { f.failing, f.status = true, status }) }
func (f *gitlabFake) Heal()           { f.change(func() { f.failing = false }) }

func (f *gitlabFake) Faults() []int { return []int{0, 401, 403, 429, 500, 502, 503, 504} }

// requests returns what was asked that begins with prefix, and forgets all that was asked.
func (f *gitlabFake) requests(prefix string) (asked []string) {
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

func (f *gitlabFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
	if f.failing {
		fail(w, f.status)
		return
	}
	if f.answer != nil && f.answer(w, r) {
		return
	}
	f.serve(w, r)
}

// serve answers as the documentation says. The caller holds mu.
func (f *gitlabFake) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", time.Now().Add(f.skew).UTC().Format(http.TimeFormat))
	w.Header().Set("RateLimit-Remaining", "599")
	if r.Header.Get("Private-Token") != gitlabToken {
		respond(w, http.StatusUnauthorized, map[string]any{"message": "401 Unauthorized"})
		return
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/")
	if !ok || r.Method != http.MethodGet {
		gitlabNotFound(w)
		return
	}
	segments := strings.Split(path, "/")
	switch {
	case segments[0] == "projects" && len(segments) >= 2:
		f.serveProject(w, r, segments[1:])
	case segments[0] == "users" && len(segments) <= 2:
		f.serveUsers(w, r, segments[1:])
	case path == "keys":
		f.serveKey(w, r.URL.Query().Get("fingerprint"))
	default:
		f.serveInstance(w, r, path)
	}
}

func gitlabNotFound(w http.ResponseWriter) {
	respond(w, http.StatusNotFound, map[string]any{"message": "404 Not found"})
}

// fail answers with a status, or hangs up when it is 0.
func fail(w http.ResponseWriter, status int) {
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "60")
	}
	respond(w, status, map[string]any{"message": http.StatusText(status)})
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.MarshalWrite(w, body)
}

func (f *gitlabFake) serveProject(w http.ResponseWriter, r *http.Request, segments []string) {
	name, err := url.PathUnescape(segments[0])
	if err != nil {
		gitlabNotFound(w)
		return
	}
	p := f.findProject(name)
	if p == nil {
		respond(w, http.StatusNotFound, map[string]any{"message": "404 Project Not Found"})
		return
	}
	if id := strconv.FormatInt(p.id, 10); name != id && !strings.EqualFold(name, p.path) {
		rest := strings.Join(append([]string{id}, segments[1:]...), "/")
		http.Redirect(w, r, f.server.URL+"/api/v4/projects/"+rest, http.StatusMovedPermanently)
		return
	}
	switch {
	case len(segments) == 1:
		respond(w, http.StatusOK, p.body())
	case len(segments) == 4 && segments[1] == "members" && segments[2] == "all":
		f.serveMember(w, segments[3], p.inherited, p.direct)
	case len(segments) == 3 && segments[1] == "members":
		f.serveMember(w, segments[2], p.direct)
	default:
		gitlabNotFound(w)
	}
}

// findProject finds one by number, by path, or by a path it had.
func (f *gitlabFake) findProject(name string) *gitlabProject {
	if id, err := strconv.ParseInt(name, 10, 64); err == nil {
		return f.projects[id]
	}
	if p := f.project(name); p != nil {
		return p
	}
	return f.projects[f.moved[strings.ToLower(name)]]
}

func (p *gitlabProject) body() map[string]any {
	body := map[string]any{
		"id": p.id, "path_with_namespace": p.path, "visibility": p.visibility, "repository_access_level": p.code,
		"marked_for_deletion_on": nil,
	}
	if p.deletion != "" {
		body["marked_for_deletion_on"] = p.deletion
	}
	return body
}

// serveMember shows the highest of a user's memberships.
func (f *gitlabFake) serveMember(w http.ResponseWriter, user string, members ...map[int64]gitlabMember) {
	id, _ := strconv.ParseInt(user, 10, 64)
	var highest *gitlabMember
	for _, all := range members {
		if m, ok := all[id]; ok && (highest == nil || m.level > highest.level) {
			highest = &m
		}
	}
	u := f.users[id]
	if highest == nil || u == nil {
		gitlabNotFound(w)
		return
	}
	body := map[string]any{
		"id": u.id, "username": u.name, "state": u.state, "access_level": highest.level, "expires_at": nil,
		"membership_state": cmp.Or(highest.state, "active"),
	}
	if highest.expires != "" {
		body["expires_at"] = highest.expires
	}
	respond(w, http.StatusOK, body)
}

func (f *gitlabFake) serveUsers(w http.ResponseWriter, r *http.Request, segments []string) {
	if len(segments) == 1 {
		id, _ := strconv.ParseInt(segments[0], 10, 64)
		if u := f.users[id]; u != nil {
			respond(w, http.StatusOK, u.body())
			return
		}
		respond(w, http.StatusNotFound, map[string]any{"message": "404 User Not Found"})
		return
	}
	q := r.URL.Query()
	var found []*gitlabUser
	for _, id := range slices.Sorted(maps.Keys(f.users)) {
		if u := f.users[id]; u.matches(q) {
			found = append(found, u)
		}
	}
	f.page(w, r, found)
}

// page shows one keyset page of users.
func (f *gitlabFake) page(w http.ResponseWriter, r *http.Request, found []*gitlabUser) {
	q := r.URL.Query()
	after, _ := strconv.ParseInt(q.Get("id_after"), 10, 64)
	found = slices.DeleteFunc(found, func(u *gitlabUser) bool { return u.id <= after })
	size, err := strconv.Atoi(q.Get("per_page"))
	if err != nil {
		size = 20
	}
	if len(found) > size {
		found = found[:size]
		q.Set("id_after", strconv.FormatInt(found[size-1].id, 10))
		w.Header().Set("Link", fmt.Sprintf(`<%s/api/v4/users?%s>; rel="next"`, f.server.URL, q.Encode()))
	}
	bodies := []map[string]any{}
	for _, u := range found {
		bodies = append(bodies, u.body())
	}
	respond(w, http.StatusOK, bodies)
}

// matches does as GitLab's filters: names and external ids without regard to case.
func (u *gitlabUser) matches(q url.Values) bool {
	if name := q.Get("username"); q.Has("username") && !strings.EqualFold(u.name, name) {
		return false
	}
	if q.Get("blocked") == "true" && u.state != "blocked" && u.state != "ldap_blocked" {
		return false
	}
	if !q.Has("extern_uid") {
		return true
	}
	return slices.ContainsFunc(u.identities, func(i [2]string) bool {
		return i[0] == q.Get("provider") && strings.EqualFold(i[1], q.Get("extern_uid"))
	})
}

func (u *gitlabUser) body() map[string]any {
	identities := []map[string]any{}
	for _, i := range u.identities {
		identities = append(identities, map[string]any{"provider": i[0], "extern_uid": i[1], "saml_provider_id": nil})
	}
	return map[string]any{
		"id": u.id, "username": u.name, "name": u.name, "state": u.state, "external": u.external, "bot": u.bot,
		"is_admin": false, "identities": identities,
	}
}

func (f *gitlabFake) serveKey(w http.ResponseWriter, fingerprint string) {
	if !f.admin {
		respond(w, http.StatusForbidden, map[string]any{"message": "403 Forbidden"})
		return
	}
	k := f.keys[fingerprint]
	if k == nil {
		respond(w, http.StatusNotFound, map[string]any{"message": "404 Key Not Found"})
		return
	}
	body := map[string]any{"id": k.id, "title": "a key", "key": k.line, "usage_type": k.usage, "expires_at": nil, "user": f.users[k.user].body()}
	if k.expires != "" {
		body["expires_at"] = k.expires
	}
	if k.deploy != nil {
		body["deploy_keys_projects"] = k.deploy
	}
	respond(w, http.StatusOK, body)
}

func (f *gitlabFake) serveInstance(w http.ResponseWriter, r *http.Request, path string) {
	switch path {
	case "user":
		respond(w, http.StatusOK, map[string]any{"id": 1, "username": "root", "state": "active", "is_admin": f.admin})
	case "metadata", "version":
		respond(w, http.StatusOK, map[string]any{"version": "18.5.1-ee", "revision": "abc"})
	case "personal_access_tokens/self":
		body := map[string]any{"id": 5, "name": "lychgate", "active": true, "revoked": false, "user_id": 1, "scopes": f.scopes, "expires_at": nil}
		if f.expires != "" {
			body["expires_at"] = f.expires
		}
		respond(w, http.StatusOK, body)
	case "hooks":
		if !f.admin {
			respond(w, http.StatusForbidden, map[string]any{"message": "403 Forbidden"})
			return
		}
		respond(w, http.StatusOK, append([]map[string]any{}, f.hooks...))
	case "audit_events":
		f.serveAudit(w, r)
	default:
		gitlabNotFound(w)
	}
}

// serveAudit shows one page, the latest first.
func (f *gitlabFake) serveAudit(w http.ResponseWriter, r *http.Request) {
	if f.audits == nil {
		gitlabNotFound(w)
		return
	}
	latest := slices.Clone(f.audits)
	slices.Reverse(latest)
	page, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("page"), "1"))
	size, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("per_page"), "20"))
	start := min((page-1)*size, len(latest))
	end := min(start+size, len(latest))
	if end < len(latest) {
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
	}
	respond(w, http.StatusOK, latest[start:end])
}
