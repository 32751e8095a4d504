package forge_test

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
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
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

const gerritName = "review.example.com"

// gerritFake answers as Gerrit's documents rest-api-projects, rest-api-accounts and cmd-stream-events say, and as its source has it where
// they are silent.
type gerritFake struct {
	t        *testing.T
	server   *httptest.Server
	ssh      *sshFake
	events   chan string // lines for the stream
	streams  chan struct{}
	hangUp   chan struct{}
	provider *forge.Gerrit

	mu       sync.Mutex // guards what follows
	accounts map[string]map[string]any
	projects map[string]*gerritProject
	commits  map[string][]string // commit -> parents
	keys     map[string][]map[string]any
	last     int
	fail     int // -1: no
	lacks    map[string]bool
	asked    []string // methods and paths
	spoil    func(http.ResponseWriter, *http.Request) bool
}

type gerritProject struct {
	config  string
	readers map[string]bool            // account ids; "*" is everybody
	refs    map[string]map[string]bool // those of whom a ref is hidden
}

var (
	_ forgetest.World    = (*gerritFake)(nil)
	_ forgetest.Blocker  = (*gerritFake)(nil)
	_ forgetest.Keyring  = (*gerritFake)(nil)
	_ forgetest.Breaker  = (*gerritFake)(nil)
	_ forgetest.Unmoving = (*gerritFake)(nil)
)

func newGerritFake(t *testing.T) *gerritFake {
	t.Helper()
	g := &gerritFake{
		t: t, accounts: map[string]map[string]any{}, projects: map[string]*gerritProject{}, commits: map[string][]string{}, keys: map[string][]map[string]any{},
		last: 1_000_000, fail: -1, lacks: map[string]bool{}, events: make(chan string, 100), streams: make(chan struct{}, 10), hangUp: make(chan struct{}),
	}
	g.AddUser("gate")
	g.AddRepo("All-Users", false)
	g.Grant("gate", "All-Users")
	g.server = httptest.NewServer(g)
	t.Cleanup(g.server.Close)
	g.provider = g.ask(forge.GerritConfig{})
	return g
}

// ask returns a provider that asks this Gerrit.
func (g *gerritFake) ask(c forge.GerritConfig) *forge.Gerrit {
	g.t.Helper()
	c.Name, c.User, c.Hosts = gerritName, "gate", []string{gerritName}
	c.Token = func() (authn.Secret, error) { return authn.NewSecret("http-password"), nil }
	if c.URL == "" {
		c.URL = g.server.URL
	}
	p, err := forge.NewGerrit(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

func TestGerrit(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return newGerritFake(t) })
}

// TestGerritWithRunAs: what a user sees in one question is what check.access says.
func TestGerritWithRunAs(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World {
		g := newGerritFake(t)
		g.provider = g.ask(forge.GerritConfig{RunAs: true})
		return g
	})
}

func (g *gerritFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r.URL.EscapedPath())
	user, password, _ := r.BasicAuth()
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/a/")
	switch {
	case g.fail == 0:
		panic(http.ErrAbortHandler)
	case g.fail > 0:
		w.WriteHeader(g.fail)
	case g.spoil != nil && g.spoil(w, r):
	case !ok || user != "gate" || password != "http-password":
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
	default:
		g.route(w, r, strings.Split(path, "/"))
	}
}

func (g *gerritFake) json(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		g.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	io.WriteString(w, ")]}'\n"+string(text)+"\n")
}

func notFound(w http.ResponseWriter, what string) {
	http.Error(w, "Not found: "+what, http.StatusNotFound)
}

// route answers by the segments of a path, each of which is encoded once.
func (g *gerritFake) route(w http.ResponseWriter, r *http.Request, segments []string) {
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			http.Error(w, "Bad Request", http.StatusBadRequest)
			return
		}
		segments[i] = decoded
	}
	switch {
	case len(segments) == 2 && segments[0] == "projects" && segments[1] == "":
		g.listProjects(w, r.Header.Get("X-Gerrit-RunAs"))
	case len(segments) == 2 && segments[0] == "accounts" && segments[1] == "":
		g.listAccounts(w, r)
	case len(segments) > 2 && segments[0] == "projects":
		// Gerrit drops these from the name of a project.
		name := strings.TrimSuffix(strings.TrimRight(segments[1], "/"), ".git")
		p := g.projects[name]
		if p == nil {
			notFound(w, name)
			return
		}
		g.project(w, r, p, segments[2:])
	case len(segments) > 1 && segments[0] == "accounts":
		id := g.resolve(segments[1])
		if id == "" {
			notFound(w, segments[1])
			return
		}
		g.account(w, id, segments[2:])
	default:
		notFound(w, r.URL.Path)
	}
}

func (g *gerritFake) project(w http.ResponseWriter, r *http.Request, p *gerritProject, rest []string) {
	switch {
	case slices.Equal(rest, []string{"branches", "refs/meta/config"}):
		g.json(w, map[string]any{"ref": "refs/meta/config", "revision": p.config, "web_links": []any{}})
	case len(rest) == 2 && rest[0] == "commits" && g.commits[rest[1]] != nil:
		var parents []any
		for _, parent := range g.commits[rest[1]] {
			parents = append(parents, map[string]any{"commit": parent, "subject": "Updated project"})
		}
		g.json(w, map[string]any{"commit": rest[1], "parents": append([]any{}, parents...), "subject": "Created project", "message": "Created project\n"})
	case slices.Equal(rest, []string{"check.access"}):
		if g.lacks["viewAccess"] {
			http.Error(w, "view access not permitted", http.StatusForbidden)
			return
		}
		id, ref := r.FormValue("account"), r.FormValue("ref")
		if g.accounts[id] == nil {
			http.Error(w, "Account '"+id+"' not found", http.StatusUnprocessableEntity)
			return
		}
		may := (p.readers["*"] || p.readers[id]) && (ref == "" || !p.refs[ref][id])
		if !may {
			g.json(w, map[string]any{"message": "user (" + id + ") cannot see project", "status": 403, "debug_logs": []string{}})
			return
		}
		g.json(w, map[string]any{"status": 200})
	default:
		notFound(w, strings.Join(rest, "/"))
	}
}

// listProjects leaves out one project, as a Gerrit that lists from its index may.
func (g *gerritFake) listProjects(w http.ResponseWriter, as string) {
	if g.lacks["runAs"] {
		http.Error(w, "not permitted to use X-Gerrit-RunAs", http.StatusForbidden)
		return
	}
	list, left := map[string]any{}, false
	for name, p := range g.projects {
		if p.readers["*"] || p.readers[as] {
			if !left && len(g.projects) > 3 {
				left = true
				continue
			}
			list[name] = map[string]any{"id": name, "state": "ACTIVE"}
		}
	}
	g.json(w, list)
}

func (g *gerritFake) listAccounts(w http.ResponseWriter, r *http.Request) {
	states := map[string][]any{"": {nil}, "is:active": {nil}, "is:inactive": {true}, "is:active OR is:inactive": {nil, true}}[r.FormValue("q")]
	var ids []string
	for id, a := range g.accounts {
		if slices.Contains(states, a["inactive"]) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	start, _ := strconv.Atoi(r.FormValue("S"))
	list := []any{}
	for i, id := range ids {
		if i < start || len(list) == 2 { // a server has limits of its own
			continue
		}
		about := map[string]any{"_account_id": g.accounts[id]["_account_id"]}
		if r.FormValue("o") == "DETAILS" {
			about = maps.Clone(g.accounts[id])
		}
		list = append(list, about)
		if len(list) == 2 && i < len(ids)-1 {
			list[1].(map[string]any)["_more_accounts"] = true
		}
	}
	g.json(w, list)
}

// resolve finds an account as Gerrit does: by number, "self", user name or e-mail address.
func (g *gerritFake) resolve(identifier string) string {
	if g.accounts[identifier] != nil {
		return identifier
	}
	for id, a := range g.accounts {
		if identifier == a["username"] || identifier == a["email"] || identifier == "self" && a["username"] == "gate" {
			return id
		}
	}
	return ""
}

func (g *gerritFake) account(w http.ResponseWriter, id string, rest []string) {
	a := g.accounts[id]
	switch strings.Join(rest, "/") {
	case "", "detail":
		g.json(w, a)
	case "active":
		if a["inactive"] == true {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		io.WriteString(w, "ok")
	case "groups":
		g.json(w, []any{map[string]any{"id": "global:Registered-Users", "name": "Registered Users"}, map[string]any{"id": "x", "name": "team"}})
	case "sshkeys":
		g.json(w, append([]map[string]any{}, g.keys[id]...))
	case "capabilities":
		have := map[string]any{"viewAccess": true, "viewAllAccounts": true, "runAs": true, "streamEvents": true, "queryLimit": map[string]any{"min": 0, "max": 500}}
		for name := range g.lacks {
			delete(have, name)
		}
		g.json(w, have)
	default:
		notFound(w, id)
	}
}

func (g *gerritFake) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *gerritFake) Provider() forge.Provider { return g.provider }
func (g *gerritFake) Name() string             { return gerritName }
func (g *gerritFake) Host() string             { return gerritName }
func (g *gerritFake) Unmoving()                {}
func (g *gerritFake) Path(name string) string  { return "team/" + name }
func (g *gerritFake) Settle()                  { g.provider.Forget(forge.Event{Forge: gerritName}) }

func (g *gerritFake) id(user string) string {
	for id, a := range g.accounts {
		if a["username"] == user {
			return id
		}
	}
	g.t.Fatalf("no user %s", user)
	return ""
}

func (g *gerritFake) AddUser(name string) {
	g.change(func() {
		g.last++
		id := strconv.Itoa(g.last)
		g.accounts[id] = map[string]any{"_account_id": g.last, "name": strings.ToUpper(name), "username": name, "email": name + "@example.com"}
	})
}

// commit makes a commit of refs/meta/config.
func (g *gerritFake) commit(parents ...string) string {
	g.last++
	sum := sha1.Sum(fmt.Append(nil, g.last))
	sha := hex.EncodeToString(sum[:])
	g.commits[sha] = append([]string{}, parents...)
	return sha
}

// AddRepo makes a project whose refs/meta/config was changed twice since.
func (g *gerritFake) AddRepo(path string, public bool) {
	g.change(func() {
		g.projects[path] = &gerritProject{config: g.commit(g.commit(g.commit())), readers: map[string]bool{"*": public}, refs: map[string]map[string]bool{}}
	})
}

// set changes the readers of a project, which is a commit.
func (g *gerritFake) set(user, path string, may bool) {
	g.change(func() {
		p := g.projects[path]
		p.readers[g.id(user)], p.config = may, g.commit(p.config)
	})
}

func (g *gerritFake) Grant(user, path string)    { g.set(user, path, true) }
func (g *gerritFake) Withdraw(user, path string) { g.set(user, path, false) }

func (g *gerritFake) Rename(from, to string) {
	g.change(func() { g.projects[to] = g.projects[from]; delete(g.projects, from) })
}
func (g *gerritFake) Delete(path string) { g.change(func() { delete(g.projects, path) }) }

func (g *gerritFake) Block(user string, blocked bool) {
	g.change(func() {
		if delete(g.accounts[g.id(user)], "inactive"); blocked {
			g.accounts[g.id(user)]["inactive"] = true
		}
	})
}

func (g *gerritFake) AddKey(user string) string {
	g.t.Helper()
	_, line := keyFile(g.t, filepath.Join(g.t.TempDir(), "key"))
	g.change(func() { g.putKey(g.id(user), line, true) })
	return ssh.FingerprintSHA256(publicKey(g.t, line))
}

func (g *gerritFake) putKey(id, line string, valid bool) {
	g.keys[id] = append(g.keys[id], map[string]any{
		"seq": len(g.keys[id]) + 1, "ssh_public_key": line, "encoded_key": strings.Fields(line)[1], "algorithm": strings.Fields(line)[0], "valid": valid,
	})
}

func (g *gerritFake) RemoveKey(user, fingerprint string) {
	g.change(func() {
		g.keys[g.id(user)] = slices.DeleteFunc(g.keys[g.id(user)], func(k map[string]any) bool {
			return ssh.FingerprintSHA256(publicKey(g.t, k["ssh_public_key"].(string))) == fingerprint
		})
	})
}

func (g *gerritFake) Fail(status int) { g.change(func() { g.fail = status }) }
func (g *gerritFake) Heal()           { g.change(func() { g.fail = -1 }) }

// Faults are statuses that are no answer here: 401 and 403 are about the gate's account, and 404 for everything, also for the gate
// itself, is a proxy's word.
func (g *gerritFake) Faults() []int {
	return []int{0, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504}
}

// TestGerrit200With403: check.access answers 200 also when it says no.
func TestGerrit200With403(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", false)
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (forge.Access, error) {
		facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{repo})
		if err != nil {
			return forge.Unknown, err
		}
		return facts[0].Access, nil
	}
	if got, err := ask(); got != forge.None || err != nil {
		t.Errorf("200 with 403 inside: %s, %v", got, err)
	}
	for _, body := range []string{`{}`, `{"status":"200"}`, `{"status":404}`, `{"status":0}`, `{"Status":200}`, `{"status":403,"status":200}`, `null`, ``, `<html>`, `{"status":200`} {
		g.change(func() {
			g.spoil = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "check.access") {
					return false
				}
				io.WriteString(w, ")]}'\n"+body)
				return true
			}
		})
		if got, err := ask(); err == nil && got != forge.Unknown {
			t.Errorf("%s is taken for %s", body, got)
		}
	}
}

// TestGerritWithoutViewAccess: that the gate's own account may not ask is no answer about anybody.
func TestGerritWithoutViewAccess(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", true)
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	g.change(func() { g.lacks["viewAccess"], g.lacks["runAs"] = true, true })
	for _, p := range []*forge.Gerrit{g.provider, g.ask(forge.GerritConfig{RunAs: true})} {
		if facts, err := p.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{repo, repo}); err == nil && facts[0].Access != forge.Unknown {
			t.Errorf("%+v", facts)
		}
	}
	if findings := g.provider.Check(t.Context(), "alice"); !slices.ContainsFunc(findings, func(f forge.Finding) bool {
		return f.Health == forge.Broken && strings.Contains(f.Detail, "View Access")
	}) {
		t.Errorf("%+v", findings)
	}
}

// TestGerritInactiveAccountReadsNothing: also where its rights are still there, and what is public.
func TestGerritInactiveAccountReadsNothing(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", true)
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	for blocked, want := range map[bool]forge.Access{true: forge.None, false: forge.Read} {
		g.Block("alice", blocked)
		facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{repo})
		if err != nil || facts[0].Access != want {
			t.Errorf("blocked %t: %+v, %v", blocked, facts, err)
		}
	}
}

// TestGerritPerRef: a project that is seen through one branch may hide another.
func TestGerritPerRef(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", true)
	g.change(func() { g.projects["lib"].refs["refs/heads/secret"] = map[string]bool{g.id("alice"): true} })
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		refs []string
		want forge.Access
	}{
		{nil, forge.Read},
		{[]string{"refs/heads/main"}, forge.Read},
		{[]string{"refs/heads/main", "refs/heads/secret"}, forge.None},
	} {
		p := g.ask(forge.GerritConfig{Refs: tc.refs, RunAs: true})
		facts, err := p.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{repo, repo})
		if err != nil || facts[0].Access != tc.want {
			t.Errorf("%v: %+v, %v", tc.refs, facts, err)
		}
	}
}

// TestGerritCaseTwins: upper and lower case are different projects.
func TestGerritCaseTwins(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("team/lib", false)
	g.AddRepo("Team/Lib", false)
	g.Grant("alice", "Team/Lib")
	for path, want := range map[string]forge.Access{"team/lib": forge.None, "Team/Lib": forge.Read} {
		r, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: path})
		if err != nil {
			t.Fatal(err)
		}
		facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{r})
		if err != nil || facts[0].Access != want {
			t.Errorf("%s: %+v, %v", path, facts, err)
		}
	}
	if _, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "TEAM/LIB"}); !errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("a third spelling: %v", err)
	}
}

// TestGerritPathPrefix: what stands before a project's name in a URL is no part of it, unless a project has such a name; then it is
// either's, and nobody's.
func TestGerritPathPrefix(t *testing.T) {
	g := newGerritFake(t)
	g.AddRepo("lib", false)
	resolve := func(path string) string {
		r, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: path})
		if err != nil && !errors.Is(err, forge.ErrNoRepo) {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(r.ID, "@")
		return name
	}
	for path, want := range map[string]string{"lib": "lib", "a/lib": "lib", "b/lib": "", "a/a/lib": "", "lib/": "", "lib.git": "", "a/": "", "x%2flib": ""} {
		if got := resolve(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	g.AddRepo("a/lib", false)
	if got := resolve("a/lib"); got != "" {
		t.Errorf("a path of two projects: %q", got)
	}
	if got := resolve("a/a/lib"); got != "a/lib" {
		t.Errorf("the one of them by its own path: %q", got)
	}
}

// TestGerritHostileIDs: what Gerrit takes for an account or a project beside its number or name selects none here.
func TestGerritHostileIDs(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", true)
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"self", "alice", "alice@example.com", "ALICE", "1000001 ", "01000001", "+1000001", "1000001/active", "1000001?x", "1000001\r\nX: y", "1000001,1000002", "99999999999"} {
		facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: id}, []forge.Repo{repo})
		if err != nil || facts[0].Access != forge.None {
			t.Errorf("%q: %+v, %v", id, facts, err)
		}
		if u, err := g.provider.User(t.Context(), id); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user %q: %+v, %v", id, u, err)
		}
	}
	for _, name := range []string{"self", "alice@example.com", g.id("alice"), "ALICE"} {
		if u, err := g.provider.UserByName(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user by name %q: %+v, %v", name, u, err)
		}
	}
	g.change(func() { g.asked = nil })
	_, root, _ := strings.Cut(repo.ID, "@")
	for _, id := range []string{"lib.git@" + root, "lib/@" + root, "../lib@" + root, "lib/../lib@" + root, "./lib@" + root, "lib@", "lib", "@" + root, "lib@" + root[:39], "lib@" + strings.ToUpper(root), "lib%2f@" + root, "lib?account=1@" + root} {
		facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("alice")}, []forge.Repo{{Forge: gerritName, ID: id}})
		if err != nil || facts[0].Access != forge.None {
			t.Errorf("%q: %+v, %v", id, facts, err)
		}
	}
	for _, path := range g.asked {
		if strings.Contains(path, "projects/lib/") {
			t.Errorf("another project was asked about: %s", path)
		}
	}
}

// TestGerritRecreatedWhileAsked: check.access is about a name. When another project has it by the time of the answer, that is no answer
// about the one that was published.
func TestGerritRecreatedWhileAsked(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("mallory")
	g.AddRepo("lib", false)
	repo, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	g.change(func() {
		g.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "check.access") {
				g.projects["lib"] = &gerritProject{config: g.commit(), readers: map[string]bool{"*": true}}
			}
			return false
		}
	})
	facts, err := g.provider.Access(t.Context(), authn.Principal{Forge: gerritName, ID: g.id("mallory")}, []forge.Repo{repo})
	if err != nil || facts[0].Access != forge.None {
		t.Errorf("%+v, %v", facts, err)
	}
}

// TestGerritWalksOnce: the commits of refs/meta/config are walked once; after a change, only what is new.
func TestGerritWalksOnce(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.AddRepo("lib", true)
	walked := func() (n int) {
		g.change(func() { g.asked = nil })
		if _, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"}); err != nil {
			t.Fatal(err)
		}
		for _, path := range g.asked {
			if strings.Contains(path, "/commits/") {
				n++
			}
		}
		return n
	}
	if n := walked(); n != 3 {
		t.Errorf("%d commits at first, want 3", n)
	}
	if n := walked(); n != 0 {
		t.Errorf("%d commits again, want none", n)
	}
	g.Grant("alice", "lib")
	if n := walked(); n != 1 {
		t.Errorf("%d commits after a change, want 1", n)
	}
}

// TestGerritLiesAboutCommits: an answer about another commit, or a circle, is no first commit.
func TestGerritLiesAboutCommits(t *testing.T) {
	g := newGerritFake(t)
	g.AddRepo("lib", true)
	other := strings.Repeat("b", 40)
	for what, body := range map[string]func(sha string) string{
		"another commit":    func(string) string { return `{"commit":"` + other + `","parents":[]}` },
		"no parents member": func(sha string) string { return `{"commit":"` + sha + `"}` },
		"a parent that is none": func(sha string) string {
			return `{"commit":"` + sha + `","parents":[{"commit":"../../x"}]}`
		},
		"a circle": func(sha string) string { return `{"commit":"` + sha + `","parents":[{"commit":"` + sha + `"}]}` },
	} {
		g.change(func() {
			g.spoil = func(w http.ResponseWriter, r *http.Request) bool {
				_, sha, ok := strings.Cut(r.URL.Path, "/commits/")
				if ok {
					io.WriteString(w, ")]}'\n"+body(sha))
				}
				return ok
			}
		})
		if r, _, err := g.ask(forge.GerritConfig{}).Resolve(t.Context(), source.Locator{Host: gerritName, Path: "lib"}); err == nil || errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("%s: %s, %v", what, r, err)
		}
	}
}

// TestGerritKeys: keys that are not valid, that two accounts have, that were removed without a word, and those of an account that has
// changed.
func TestGerritKeys(t *testing.T) {
	g := newGerritFake(t)
	clock := time.Now()
	p := g.ask(forge.GerritConfig{Now: func() time.Time { return clock }})
	for _, name := range []string{"alice", "bob", "carol"} {
		g.AddUser(name)
	}
	owner := func(key string) string {
		u, err := p.KeyOwner(t.Context(), key)
		if err != nil && !errors.Is(err, forge.ErrNoUser) {
			t.Error(err)
		}
		return u.Name
	}
	mine, gone := g.AddKey("alice"), g.AddKey("bob")
	_, line := keyFile(t, filepath.Join(t.TempDir(), "both"))
	_, bad := keyFile(t, filepath.Join(t.TempDir(), "bad"))
	g.change(func() {
		g.putKey(g.id("alice"), line, true)
		g.putKey(g.id("bob"), line, true)
		g.putKey(g.id("carol"), bad, false)
		g.keys[g.id("carol")] = append(g.keys[g.id("carol")], map[string]any{"seq": 9, "encoded_key": "!", "valid": true})
	})
	for key, want := range map[string]string{
		mine: "alice", gone: "bob", ssh.FingerprintSHA256(publicKey(t, line)): "", ssh.FingerprintSHA256(publicKey(t, bad)): "",
	} {
		if got := owner(key); got != want {
			t.Errorf("%s is %q's, want %q", key, got, want)
		}
	}
	g.RemoveKey("bob", gone)
	clock = clock.Add(time.Minute)
	if got := owner(gone); got != "" {
		t.Errorf("a key that was removed a minute ago is %s's", got)
	}
	late := g.AddKey("carol")
	p.Forget(forge.Event{Forge: gerritName, User: g.id("carol")})
	g.change(func() { g.asked = nil })
	if got := owner(late); got != "carol" {
		t.Errorf("a new key after an event about its owner: %q", got)
	}
	for _, path := range g.asked {
		if path == "/a/accounts/" {
			t.Error("all accounts were read for an event about one")
		}
	}
}

// TestGerritKeysThatCannotBeRead: then a key is nobody's only if that is known.
func TestGerritKeysThatCannotBeRead(t *testing.T) {
	g := newGerritFake(t)
	g.Fail(503)
	if u, err := g.provider.KeyOwner(t.Context(), keyOfNobody); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
	g.Heal()
	if u, err := g.provider.KeyOwner(t.Context(), keyOfNobody); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
}

// stream starts the ssh server of the fake, and a provider that follows it.
func (g *gerritFake) stream() (events chan forge.Event) {
	g.t.Helper()
	g.ssh = newSSHFake(g.t, func(command string, c ssh.Channel) {
		if command != "gerrit stream-events" {
			return
		}
		g.streams <- struct{}{}
		for {
			select {
			case line := <-g.events:
				if _, err := io.WriteString(c, line+"\n"); err != nil && len(line) < 1<<20 {
					g.events <- line // this stream was cut, and the line is the next one's
					return
				}
			case <-g.hangUp:
				return
			}
		}
	})
	p := g.ask(forge.GerritConfig{Stream: g.ssh.server})
	events = make(chan forge.Event, 100)
	go p.Follow(g.t.Context(), func(e forge.Event) {
		if !strings.Contains(e.Why, "for a while") {
			events <- e
		}
	})
	return events
}

// TestGerritStream: what the stream's events mean; those of changes mean nothing.
func TestGerritStream(t *testing.T) {
	g := newGerritFake(t)
	events := g.stream()
	all := forge.Event{Forge: gerritName}
	next := func() forge.Event {
		t.Helper()
		select {
		case e := <-events:
			if e.Why == "" {
				t.Errorf("no reason: %+v", e)
			}
			e.Why = ""
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
			return forge.Event{}
		}
	}
	if e := next(); e != all {
		t.Errorf("connected: %+v", e)
	}
	update := func(project, ref string) string {
		return fmt.Sprintf(`{"submitter":{"name":"A","username":"a"},"refUpdate":{"oldRev":"0","newRev":"1","refName":%q,"project":%q},"type":"ref-updated","eventCreatedOn":1790000000}`, ref, project)
	}
	about := func(id string) forge.Event { return forge.Event{Forge: gerritName, User: id} }
	for _, tc := range []struct {
		line string
		want []forge.Event
	}{
		{update("team/lib", "refs/heads/main"), nil},
		{update("team/lib", "main"), nil},
		{update("team/lib", "refs/changes/01/1/meta"), nil},
		{`{"type":"comment-added","change":{"project":"tools/gerrit","number":1},"author":{"name":"x"}}`, nil},
		{``, nil},
		{update("team/lib", "refs/meta/config"), []forge.Event{all}},
		{update("All-Projects", "refs/meta/config"), []forge.Event{all}},
		{update("All-Users", "refs/users/42/1000042"), []forge.Event{about("1000042")}},
		{update("All-Users", "refs/users/05/5"), []forge.Event{about("5")}},
		{update("All-Users", "refs/users/41/1000042"), []forge.Event{all}},
		{update("All-Users", "refs/users/self"), []forge.Event{all}},
		{update("All-Users", "refs/groups/ab/abcdef"), []forge.Event{all}},
		{update("All-Users", "refs/meta/group-names"), []forge.Event{all}},
		{update("All-Users", "refs/starred-changes/1"), nil},
		{update("team/All-Users", "refs/users/42/1000042"), nil},
		{
			`{"type":"batch-ref-updated","refUpdates":[{"refName":"refs/heads/x","project":"p"},{"refName":"refs/users/42/1000042","project":"All-Users"},` +
				`{"refName":"refs/users/43/1000043","project":"All-Users"}],"eventCreatedOn":1}`,
			[]forge.Event{about("1000042"), about("1000043")},
		},
		{`{"type":"ref-updated"}`, []forge.Event{all}},
		{`{"type":"ref-updated","refUpdate":{"project":"x"}}`, []forge.Event{all}},
		{`{"type":"dropped-output"}`, []forge.Event{all}},
		{`{"type":"ref-up`, []forge.Event{all}},
		{`{"type":"a","type":"b"}`, []forge.Event{all}},
		{"\xff", []forge.Event{all}},
		{`[]`, []forge.Event{all}},
	} {
		g.events <- tc.line
		for _, want := range tc.want {
			if e := next(); e != want {
				t.Errorf("%s: %+v, want %+v", tc.line, e, want)
			}
		}
	}
	g.events <- update("All-Users", "refs/users/07/7")
	if e := next(); e != about("7") {
		t.Errorf("something meant more than it should: %+v", e)
	}
}

// TestGerritStreamReconnects: after the stream has ended, however it did, all may have changed.
func TestGerritStreamReconnects(t *testing.T) {
	g := newGerritFake(t)
	events := g.stream()
	for _, end := range []func(){
		func() { g.hangUp <- struct{}{} },
		func() { g.events <- strings.Repeat("x", 5<<20) },
		func() { g.ssh.wire.setCut(true); g.ssh.wire.setCut(false) },
		func() {},
	} {
		select {
		case e := <-events:
			if e != (forge.Event{Forge: gerritName, Why: e.Why}) || !strings.Contains(e.Why, "connected") {
				t.Errorf("%+v", e)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it does not connect again")
		}
		<-g.streams
		end()
	}
}

// TestGerritCheck: a Gerrit that is as it should be, and what is said of others.
func TestGerritCheck(t *testing.T) {
	g := newGerritFake(t)
	g.AddUser("alice")
	g.stream()
	worst := func(p *forge.Gerrit, canary string) (h forge.Health) {
		for _, f := range p.Check(t.Context(), canary) {
			h = max(h, f.Health)
			if (f.Health != forge.Fine) != (f.Hint != "") || f.What == "" || f.Detail == "" {
				t.Errorf("%+v", f)
			}
		}
		return h
	}
	p := g.ask(forge.GerritConfig{RunAs: true, Stream: g.ssh.server})
	if h := worst(p, "alice"); h != forge.Fine {
		t.Errorf("%d: %+v", h, p.Check(t.Context(), "alice"))
	}
	if h := worst(g.provider, "alice"); h != forge.Doubtful {
		t.Error("without a stream:", h)
	}
	if h := worst(p, "nobody"); h != forge.Broken {
		t.Error("a canary that is not there:", h)
	}
	g.Block("alice", true)
	if h := worst(p, "alice"); h != forge.Doubtful {
		t.Error("an inactive canary:", h)
	}
	g.change(func() { g.lacks["runAs"] = true })
	if h := worst(p, ""); h != forge.Broken {
		t.Error("without Run As:", h)
	}
	g.Fail(401)
	if h := worst(p, ""); h != forge.Broken {
		t.Error("with a wrong password:", h)
	}
}

// TestGerritShowsItsPasswordToGerritAlone: a redirect to another host is not followed.
func TestGerritShowsItsPasswordToGerritAlone(t *testing.T) {
	g := newGerritFake(t)
	stolen := make(chan string, 10)
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { stolen <- r.Header.Get("Authorization") }))
	t.Cleanup(thief.Close)
	g.change(func() {
		g.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, thief.URL+"/a/accounts/1", http.StatusFound)
			return true
		}
	})
	if u, err := g.provider.User(t.Context(), g.id("gate")); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("%+v, %v", u, err)
	}
	select {
	case what := <-stolen:
		t.Errorf("the thief got %q", what)
	default:
	}
}
