package forge_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
)

// census is a stand-in with small pages. Its answers can be replaced: instead is asked first, and answers itself when it returns true.
type census struct {
	forgetest.World
	replace func(instead func(w http.ResponseWriter, r *http.Request) bool)
}

func openCensuses(t *testing.T) map[string]census {
	gitlab := openGitLab(t, nil)
	cloud, server := openGitHub(t, true, nil), openGitHub(t, false, nil)
	cloud.maxPage, server.maxPage = 2, 2
	gitea, bitbucket, gerrit := newGiteaFake(t), newBitbucketFake(t), newGerritFake(t)
	gitea.page, bitbucket.page = 2, 2
	return map[string]census{
		"gerrit": {gerrit, func(instead func(http.ResponseWriter, *http.Request) bool) {
			gerrit.change(func() { gerrit.spoil = instead })
		}},
		"gitlab": {gitlab, func(instead func(http.ResponseWriter, *http.Request) bool) {
			gitlab.change(func() { gitlab.answer = instead })
		}},
		"github": {cloud, func(instead func(http.ResponseWriter, *http.Request) bool) {
			cloud.change(func() { cloud.answer = instead })
		}},
		"github-server": {server, func(instead func(http.ResponseWriter, *http.Request) bool) {
			server.change(func() { server.answer = instead })
		}},
		"gitea":     {gitea, replaceHandler(&gitea.server.Config.Handler)},
		"bitbucket": {bitbucket, replaceHandler(&bitbucket.server.Config.Handler)},
	}
}

// replaceHandler puts what is to answer instead before a server's own handler, while nothing is asked.
func replaceHandler(handler *http.Handler) func(func(http.ResponseWriter, *http.Request) bool) {
	own := *handler
	var first atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	*handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if instead := first.Load(); instead == nil || !(*instead)(w, r) {
			own.ServeHTTP(w, r)
		}
	})
	return func(instead func(http.ResponseWriter, *http.Request) bool) { first.Store(&instead) }
}

// TestPeopleOfManyPages: all pages are read, and whichever request fails, a part of them is not taken for all.
func TestPeopleOfManyPages(t *testing.T) {
	for name, c := range openCensuses(t) {
		t.Run(name, func(t *testing.T) {
			want := 7
			if name == "gitlab" {
				want = 230 // pages of 100, which is what is asked for
			}
			for i := range want {
				c.AddUser(fmt.Sprintf("user%d", i))
			}
			c.Settle()
			var (
				mu    sync.Mutex // guards what follows
				asked = make(map[string]bool)
				fails string
			)
			c.replace(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				asked[r.URL.RequestURI()] = true
				if r.URL.RequestURI() == fails {
					w.WriteHeader(http.StatusInternalServerError)
				}
				return r.URL.RequestURI() == fails
			})
			people := c.Provider().(forge.People)
			listed, err := people.People(t.Context())
			names := make(map[string]bool)
			for _, u := range listed {
				if strings.HasPrefix(u.Name, "user") {
					names[u.Name] = true
				}
			}
			if err != nil || len(names) != want {
				t.Fatalf("%d of %d users are listed: %v", len(names), want, err)
			}
			mu.Lock()
			questions := slices.Sorted(maps.Keys(asked))
			mu.Unlock()
			if len(questions) < 3 {
				t.Errorf("%q for %d users: no pages", questions, want)
			}
			for _, q := range questions {
				mu.Lock()
				fails = q
				mu.Unlock()
				if listed, err := people.People(t.Context()); err == nil {
					t.Errorf("%s fails, and %d users are listed", q, len(listed))
				}
			}
		})
	}
}

// TestPeopleWithoutSense: no answer of this kind is a list of users.
func TestPeopleWithoutSense(t *testing.T) {
	for name, c := range openCensuses(t) {
		t.Run(name, func(t *testing.T) {
			c.AddUser("alice")
			c.Settle()
			page := map[string]string{
				"gerrit": ")]}'\n[%s]", "gitlab": "[%s]", "github": "[%s]", "github-server": "[%s]",
				"gitea": `{"ok":true,"data":[%s]}`, "bitbucket": `{"isLastPage":true,"values":[%s]}`,
			}[name]
			for _, body := range []string{
				"", "null", "{}", "[{}]", "<html>", fmt.Sprintf(page, ""), fmt.Sprintf(page, "{}"), fmt.Sprintf(page, "null"),
				fmt.Sprintf(page, `{"id":-1,"_account_id":-1,"login":"alice","username":"alice","name":"alice","type":"User","external":false,"active":true}`),
				fmt.Sprintf(page, `{"id":0,"_account_id":0,"login":"alice","username":"alice","name":"alice","type":"User","external":false,"active":true}`),
				fmt.Sprintf(page, `{"id":"7","_account_id":"7","login":"alice","username":"alice","name":"alice","type":"User","external":false}`),
			} {
				c.replace(func(w http.ResponseWriter, _ *http.Request) bool {
					w.Header().Set("Content-Type", "application/json")
					io.WriteString(w, body)
					return true
				})
				if listed, err := c.Provider().(forge.People).People(t.Context()); err == nil {
					t.Errorf("%q is taken for %+v", body, listed)
				}
			}
		})
	}
}

// TestPeopleWithoutEnd: a server that always has more users is not listened to for ever.
func TestPeopleWithoutEnd(t *testing.T) {
	f := openGitHub(t, false, nil)
	f.answer = func(w http.ResponseWriter, r *http.Request) bool {
		since, _ := strconv.Atoi(r.URL.Query().Get("since"))
		const size = 5_000
		var page strings.Builder
		for i := range size {
			fmt.Fprintf(&page, `,{"id":%d,"login":"u","type":"User"}`, since+1+i)
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s/users?since=%d>; rel="next"`, f.api(), since+size))
		fmt.Fprintf(w, "[%s]", page.String()[1:])
		return true
	}
	if listed, err := f.github.People(t.Context()); err == nil || !strings.Contains(err.Error(), "more than 200000") {
		t.Errorf("%d users, %v", len(listed), err)
	}
	f.change(func() {
		f.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Link", fmt.Sprintf(`<%s/users?since=7>; rel="next"`, f.api()))
			io.WriteString(w, `[{"id":7,"login":"u","type":"User"}]`)
			return true
		}
	})
	if listed, err := f.github.People(t.Context()); err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Errorf("a page that is its own next: %d users, %v", len(listed), err)
	}
}

// Who is no member of the organization and works on one of its repositories is listed; the organizations of a server are not.
func TestGitHubPeopleAtTheEdge(t *testing.T) {
	for _, cloud := range []bool{true, false} {
		f, alice, _ := githubWith(t, cloud, nil)
		f.AddUser("contractor")
		f.AddUser("stranger")
		f.AddUser("org")
		f.Grant("contractor", "org/lib")
		f.change(func() {
			delete(f.members, f.user("contractor").id)
			delete(f.members, f.user("stranger").id)
			delete(f.members, f.user("org").id)
			f.user("org").kind = "Organization"
		})
		listed, err := f.github.People(t.Context())
		names := make(map[string]bool)
		for _, u := range listed {
			names[u.Name] = true
		}
		if err != nil || !names[alice.Name] || !names["contractor"] || names["stranger"] == cloud || names["org"] {
			t.Errorf("cloud %t: %v, %v", cloud, names, err)
		}
	}
}

// GitHub answers who is no member of an organization with those who have made public that they are.
func TestGitHubPeopleSeenByAnOutsider(t *testing.T) {
	f, _, _ := githubWith(t, true, nil)
	f.outsider = true
	if listed, err := f.github.People(t.Context()); err == nil || !strings.Contains(err.Error(), "public members") {
		t.Errorf("%+v, %v", listed, err)
	}
}

func TestGitHubPeopleWithoutOrganizations(t *testing.T) {
	f := openGitHub(t, true, func(c *forge.GitHubConfig) { c.Orgs = nil })
	if listed, err := f.github.People(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%+v, %v", listed, err)
	}
}

// Whoever is no administrator sees some of the users, and not which of them are blocked.
func TestPeopleSeenByNoAdministrator(t *testing.T) {
	gitlab := openGitLab(t, nil)
	gitlab.AddUser("alice")
	gitlab.answer = func(w http.ResponseWriter, r *http.Request) bool {
		respond(w, http.StatusOK, []any{map[string]any{"id": 17, "username": "alice", "state": "active"}})
		return true
	}
	gitea := newGiteaFake(t)
	gitea.AddUser("alice")
	gitea.account("root").Admin = false
	for name, p := range map[string]forge.People{"gitlab": gitlab.gitlab, "gitea": gitea.gitea} {
		if listed, err := p.People(t.Context()); err == nil || !strings.Contains(err.Error(), "administrator") {
			t.Errorf("%s: %+v, %v", name, listed, err)
		}
	}
}

// Services are listed as such, and Gerrit's accounts without a user name by their number.
func TestPeopleOfOtherKinds(t *testing.T) {
	gitlab, github, gerrit := openGitLab(t, nil), openGitHub(t, true, nil), newGerritFake(t)
	for _, w := range []forgetest.World{gitlab, github, gerrit} {
		w.AddUser("robot")
	}
	gitlab.change(func() { gitlab.user("robot").bot = true })
	github.change(func() { github.user("robot").kind, github.user("robot").login = "Bot", "robot[bot]" })
	gerrit.change(func() {
		a := gerrit.accounts[gerrit.id("robot")]
		a["tags"] = []string{"SERVICE_USER"}
		delete(a, "username")
	})
	for _, w := range []forgetest.World{gitlab, github, gerrit} {
		listed, err := w.Provider().(forge.People).People(t.Context())
		services := 0
		for _, u := range listed {
			of, err := w.Provider().(forge.Directory).User(t.Context(), u.ID)
			if err != nil || of.Name != u.Name || of.Kind != u.Kind || of.Name == "" {
				t.Errorf("%s lists %+v, which is %+v, %v", w.Name(), u, of, err)
			}
			if u.Kind == authn.Service {
				services++
			}
		}
		if err != nil || services != 1 {
			t.Errorf("%s lists %d services: %v", w.Name(), services, err)
		}
	}
}
