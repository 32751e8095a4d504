package forge_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

const sample = `
hosts: [git.example.com]
users:
  - {id: "1", name: alice, groups: [all, team-a]}
  - {id: "2", name: bob}
  - {id: "3", name: ci, kind: ci, groups: [all]}
  - {id: "4", name: mallory, groups: [all], blocked: true}
repos:
  - {path: teamA/secret-tool, id: "17"}
access:
  - {repos: ["public/**"], users: ["*"]}
  - {repos: ["teamA/*", "teamB/deep/**"], groups: [all, nobody-yet]}
`

const (
	bobKey     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEiH4ul4oMcSOYkpuT9eCKCzoAE3NHNSWQb9Vk3zQfCa alice@laptop"
	malloryKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEiH4ul4oMcSOYkpuT9eCKCzoAE3NHNSWQb9Vk3zQfCb mallory"
	deployKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEiH4ul4oMcSOYkpuT9eCKCzoAE3NHNSWQb9Vk3zQfCc mirror"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, text string) *forge.Static {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users.yaml")
	write(t, file, text)
	s, err := forge.LoadStatic(forge.StaticConfig{Name: "git.example.com", File: file})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func access(t *testing.T, p forge.Provider, user, repo string) forge.Access {
	t.Helper()
	return fact(t, p, user, repo).Access
}

func fact(t *testing.T, p forge.Provider, user, repo string) forge.Fact {
	t.Helper()
	repos := []forge.Repo{{Forge: "git.example.com", ID: repo}}
	facts, err := p.Access(t.Context(), authn.Principal{Forge: "git.example.com", ID: user}, repos)
	if err != nil {
		t.Fatal(err)
	}
	if err := forge.CheckFacts(repos, facts); err != nil {
		t.Fatal(err)
	}
	return facts[0]
}

func TestStaticAccess(t *testing.T) {
	s := load(t, sample)
	for _, tt := range []struct {
		user, repo string
		want       forge.Access
		why        string
	}{
		{"1", "17", forge.Read, "a declared id stands for its path"},
		{"1", "teamA/secret-tool", forge.None, "a path with a declared id is no id any more"},
		{"1", "teamA/other", forge.Read, "an undeclared path is its own id"},
		{"1", "teamA/sub/other", forge.None, "* stays within a segment"},
		{"1", "teamB/deep/er/tool", forge.Read, "** crosses segments"},
		{"1", "teamb/deep/er/tool", forge.None, "paths are compared exactly"},
		{"2", "17", forge.None, "bob is in no group"},
		{"2", "public/zlib", forge.Read, "* is every user"},
		{"3", "17", forge.Read, "by group"},
		{"4", "public/zlib", forge.None, "blocked"},
		{"5", "public/zlib", forge.None, "unknown"},
		{"", "public/zlib", forge.None, "nobody"},
		{"alice", "public/zlib", forge.None, "a name is not an id"},
		{"1", "", forge.None, "no id"},
	} {
		if got := access(t, s, tt.user, tt.repo); got != tt.want {
			t.Errorf("user %q, repo %q: %v, want %v: %s", tt.user, tt.repo, got, tt.want, tt.why)
		}
	}
}

func TestStaticOtherForge(t *testing.T) {
	s := load(t, sample)
	for _, q := range []struct{ principal, repo string }{{"other", "git.example.com"}, {"git.example.com", "other"}, {"", "git.example.com"}} {
		facts, err := s.Access(t.Context(), authn.Principal{Forge: q.principal, ID: "1"}, []forge.Repo{{Forge: q.repo, ID: "17"}})
		if err != nil || facts[0].Access != forge.None {
			t.Errorf("principal of %q, repository of %q: %v, %v; want none", q.principal, q.repo, facts, err)
		}
	}
}

func TestStaticResolve(t *testing.T) {
	open, closed := load(t, sample), load(t, sample+"repos_closed: true\n")
	for _, tt := range []struct {
		forge      *forge.Static
		host, path string
		id         string
		owns       bool
		err        error
	}{
		{open, "git.example.com", "teamA/secret-tool", "17", true, nil},
		{open, "git.example.com", "teamA/other", "teamA/other", true, nil},
		{open, "git.example.com", "17", "", true, forge.ErrNoRepo}, // would borrow the rights of id 17
		{open, "git.example.com", "", "", true, forge.ErrNoRepo},
		{open, "github.com", "teamA/other", "", false, nil},
		{closed, "git.example.com", "teamA/secret-tool", "17", true, nil},
		{closed, "git.example.com", "teamA/other", "", true, forge.ErrNoRepo},
	} {
		r, owns, err := tt.forge.Resolve(t.Context(), source.Locator{Host: tt.host, Path: tt.path})
		if r.ID != tt.id || owns != tt.owns || !errors.Is(err, tt.err) {
			t.Errorf("resolve %s/%s = %v, %v, %v; want id %q, %v, %v", tt.host, tt.path, r, owns, err, tt.id, tt.owns, tt.err)
		}
	}
	if got := access(t, closed, "1", "teamA/other"); got != forge.None {
		t.Errorf("a repository that is gone from a closed list: %v, want none", got)
	}
}

func TestStaticDirectory(t *testing.T) {
	s := load(t, strings.Replace(sample, "{id: \"2\", name: bob}", "{id: \"2\", name: bob, keys: [\""+bobKey+"\"]}", 1))
	u, err := s.User(t.Context(), "4")
	if err != nil || !u.Blocked || u.Name != "mallory" || u.Kind != authn.Human {
		t.Errorf("user 4 = %+v, %v", u, err)
	}
	if u, err := s.UserByName(t.Context(), "ci"); err != nil || u.ID != "3" || u.Kind != authn.CI {
		t.Errorf("user ci = %+v, %v", u, err)
	}
	// As ssh-keygen -lf prints it.
	if u, err := s.KeyOwner(t.Context(), fingerprintOf(bobKey)); err != nil || u.Name != "bob" {
		t.Errorf("owner of the key = %+v, %v", u, err)
	}
	for _, find := range []func(context.Context, string) (forge.User, error){s.User, s.UserByName, s.KeyOwner} {
		if _, err := find(t.Context(), "nobody"); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("nobody: %v, want ErrNoUser", err)
		}
	}
}

// TestStaticKeyOwners: deploy keys are nobody's, and a blocked user's key is still the user's.
func TestStaticKeyOwners(t *testing.T) {
	s := load(t, `
hosts: [git.example.com]
users:
  - {id: "2", name: bob, keys: ["`+bobKey+`"]}
  - {id: "4", name: mallory, blocked: true, keys: ["`+malloryKey+`"]}
repos:
  - {path: teamA/tool, id: "17", deploy_keys: ["`+deployKey+`"]}
  - {path: teamA/other, id: "18", deploy_keys: ["`+deployKey+`"]}
`)
	if u, err := s.KeyOwner(t.Context(), fingerprintOf(malloryKey)); err != nil || u.Name != "mallory" || !u.Blocked {
		t.Errorf("a blocked user's key: %+v, %v", u, err)
	}
	u, err := s.KeyOwner(t.Context(), fingerprintOf(deployKey))
	if !errors.Is(err, forge.ErrNoUser) || !errors.Is(err, forge.ErrDeployKey) || u.ID != "" || !strings.Contains(err.Error(), "teamA/other") {
		t.Errorf("a deploy key: %+v, %v", u, err)
	}
	if _, err := s.KeyOwner(t.Context(), "SHA256:x"); !errors.Is(err, forge.ErrNoUser) || errors.Is(err, forge.ErrDeployKey) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestStaticIdentities(t *testing.T) {
	s := load(t, `
users:
  - id: "1"
    name: alice
    identities:
      - {issuer: "https://idp.example.com", subject: "6f1c"}
      - {issuer: "https://other.example.com", subject: "alice"}
  - {id: "2", name: bob, blocked: true, identities: [{issuer: "https://idp.example.com", subject: "alice"}]}
`)
	for _, tt := range []struct{ issuer, subject, want string }{
		{"https://idp.example.com", "6f1c", "alice"},
		{"https://other.example.com", "alice", "alice"},
		{"https://idp.example.com", "alice", "bob"},
		{"https://idp.example.com/", "6f1c", ""},
		{"https://idp.example.com", "6F1C", ""},
		{"https://idp.example.com", "6f1c ", ""},
		{"https://other.example.com", "6f1c", ""},
		{"", "6f1c", ""},
		{"https://idp.example.com", "", ""},
	} {
		u, err := s.IdentityOwner(t.Context(), tt.issuer, tt.subject)
		if u.Name != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("%q at %q: %+v, %v; want %q", tt.subject, tt.issuer, u, err, tt.want)
		}
		if u.Blocked != (tt.want == "bob") {
			t.Errorf("%+v: blocked is lost", u)
		}
	}
}

func TestStaticFileErrors(t *testing.T) {
	const user = "users: [{id: a, name: a}]\n"
	for _, tt := range []struct{ text, want string }{
		{"", "f.yaml: the file is empty"},
		{"hosts: [a]\n---\nhosts: [b]\n", "more than one document"},
		{"hosts: [a]\nhost: [b]\n", "f.yaml:2: unknown key \"host\""},
		{"hosts: [a]\nhosts: [b]\n", "f.yaml:2: mapping key \"hosts\" already defined"},
		{"users:\n- {id: a, name: a, admin: true}\n", "f.yaml:2: unknown key \"admin\""},
		{"hosts:\n- Git.example.com\n", "f.yaml:2: \"Git.example.com\" is not a host"},
		{"hosts:\n- https://git.example.com\n", "f.yaml:2: "},
		{"hosts: [a, a]\n", "listed twice"},
		{"users:\n- {name: a}\n", "f.yaml:2: a user has no id"},
		{"users:\n- {id: a}\n", "has the name \"\""},
		{"users:\n- {id: a, name: 'a b'}\n", "has the name"},
		{"users:\n- {id: a, name: '*'}\n", "has the name"},
		{"users:\n- {id: a, name: a}\n- {id: a, name: b}\n", "f.yaml:3: two users have the id"},
		{"users:\n- {id: a, name: a}\n- {id: b, name: a}\n", "f.yaml:3: two users have the name"},
		{"users:\n- {id: a, name: a, kind: robot}\n", "use human, ci or service"},
		{"users:\n- {id: a, name: a, kind: anonymous}\n", "use human, ci or service"},
		{"users:\n- {id: a, name: a, keys: [x]}\n", "a key of user \"a\""},
		{"users:\n- {id: a, name: a, keys: ['ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA']}\n", "not of the type \"ssh-rsa\""},
		{"users:\n- {id: a, name: a, keys: ['no-pty ssh-rsa AAAA']}\n", "not a key in base64"},
		{"users:\n- {id: a, name: a, identities: [x]}\n", "f.yaml:2: cannot unmarshal"},
		{"users:\n- {id: a, name: a, identities: ['https://idp.example.com 7']}\n", "f.yaml:2: cannot unmarshal"},
		{"users:\n- id: a\n  name: a\n  identities:\n  - {issuer: i}\n", "f.yaml:5: an identity of user \"a\" is not complete"},
		{"users:\n- id: a\n  name: a\n  identities:\n  - {subject: s}\n", "f.yaml:5: an identity of user \"a\" is not complete"},
		{"users:\n- id: a\n  name: a\n  identities:\n  - {issuer: i, subject: s, email: e}\n", "f.yaml:5: unknown key \"email\""},
		{"users:\n- id: a\n  name: a\n  identities:\n  - {issuer: i, subject: s}\n  - {issuer: i, subject: s}\n", "f.yaml:6: users \"a\" and \"a\" have the same identity"},
		{"users:\n- {id: a, name: a, identities: [{issuer: i, subject: s}]}\n- {id: b, name: b, identities: [{issuer: i, subject: s}]}\n", "f.yaml:3: users \"a\" and \"b\" have the same identity"},
		{"repos:\n- {path: p, id: '1', deploy_keys: [x]}\n", "f.yaml:2: a deploy key of repository \"p\""},
		{"repos:\n- {path: p, id: '1', deploy_key: x}\n", "f.yaml:2: unknown key \"deploy_key\""},
		{"users:\n- {id: a, name: a, keys: [\"" + bobKey + "\"]}\nrepos:\n- path: p\n  id: '1'\n  deploy_keys:\n  - \"" + bobKey + "\"\n", "f.yaml:7: the deploy key SHA256:"},
		{"repos:\n- path: p\n  id: '1'\n  deploy_keys: [\"" + bobKey + "\"]\nusers:\n- {id: a, name: a, keys: [\"" + bobKey + " other comment\"]}\n", "f.yaml:4: the deploy key SHA256:"},
		{"users:\n- {id: a, name: a, blocked: perhaps}\n", "f.yaml:2: cannot unmarshal"},
		{"repos:\n- {path: a}\n", "f.yaml:2: a repository needs a path and an id"},
		{"repos:\n- {path: a.git, id: a}\n", "without the host"},
		{"repos: [{path: a, id: '1'}, {path: a, id: '2'}]\n", "declared twice"},
		{"repos: [{path: a, id: '1'}, {path: b, id: '1'}]\n", "same id"},
		{user + "access:\n- {repos: [x]}\n", "f.yaml:3: an access rule needs"},
		{user + "access:\n- {users: [a]}\n", "f.yaml:3: an access rule needs"},
		{user + "access:\n- {repos: [x], users: [b]}\n", "f.yaml:3: access names the unknown user \"b\""},
		{user + "access:\n- {repos: ['/x'], users: [a]}\n", "f.yaml:3: "},
		{user + "access:\n- {repos: ['x**y'], users: [a]}\n", "f.yaml:3: "},
		{"users: {\n", "f.yaml:"},
		{"\x00", "f.yaml"},
	} {
		file := filepath.Join(t.TempDir(), "f.yaml")
		write(t, file, tt.text)
		_, err := forge.LoadStatic(forge.StaticConfig{Name: "f", File: file})
		var fe *forge.FileError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), tt.want) || fe.Hint == "" {
			t.Errorf("%q:\n got %v\nwant a FileError with a hint and %q", tt.text, err, tt.want)
		}
	}
}

func TestStaticReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A Kubernetes volume: the file is a link into a directory that is itself swapped by renaming a link.
		dir := t.TempDir()
		for _, v := range []string{"v1", "v2"} {
			if err := os.Mkdir(filepath.Join(dir, v), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, "v1", "users.yaml"), sample)
		write(t, filepath.Join(dir, "v2", "users.yaml"), strings.Replace(sample, "[all, team-a]", "[team-a]", 1))
		link(t, dir, "v1", "..data")
		link(t, dir, filepath.Join("..data", "users.yaml"), "users.yaml")

		changes := make(chan forge.Access, 10)
		var s *forge.Static
		s, err := forge.LoadStatic(forge.StaticConfig{
			Name: "git.example.com", File: filepath.Join(dir, "users.yaml"),
			OnChange: func() { changes <- access(t, s, "1", "17") },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()

		next := func() { time.Sleep(time.Second); synctest.Wait() } // in the bubble's time
		next()
		if got := access(t, s, "1", "17"); got != forge.Read || len(changes) != 0 {
			t.Fatalf("before the change: %v, %d changes", got, len(changes))
		}
		link(t, dir, "v2", "..data")
		next()
		if len(changes) != 1 || <-changes != forge.None {
			t.Error("OnChange was not called once, after the new file took effect")
		}
		f := fact(t, s, "1", "17")
		if f.Origin != "static forge git.example.com: users.yaml revision 2" || s.Status().Revision != 2 {
			t.Errorf("origin %q, status %+v; want revision 2", f.Origin, s.Status())
		}

		write(t, filepath.Join(dir, "v2", "users.yaml"), "users: [")
		good := s.Status().Good
		next()
		if st := s.Status(); st.Err == nil || st.Revision != 2 || !st.Good.Equal(good) {
			t.Errorf("status of a broken file: %+v", st)
		}
		f = fact(t, s, "1", "17")
		if f.Access != forge.None || !f.At.Equal(good) || !f.NotAfter.Equal(good.Add(300*time.Second)) {
			t.Errorf("fact of a broken file: %+v; want one that ages from %v", f, good)
		}
		if _, err := s.User(t.Context(), "1"); err != nil {
			t.Errorf("user shortly after the file broke: %v", err)
		}
		time.Sleep(300 * time.Second)
		if _, err := s.User(t.Context(), "1"); err == nil || errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user 300 s after the file broke: %v; want an error that is no answer", err)
		}
		if err := os.Remove(filepath.Join(dir, "users.yaml")); err != nil {
			t.Fatal(err)
		}
		next()
		if st := s.Status(); !errors.Is(st.Err, os.ErrNotExist) {
			t.Errorf("status of a missing file: %+v", st)
		}
		write(t, filepath.Join(dir, "users.yaml"), sample)
		next()
		if got := access(t, s, "1", "17"); got != forge.Read || s.Status().Err != nil || s.Status().Revision != 3 {
			t.Errorf("after repair: %v, %+v", got, s.Status())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

// link makes name a symbolic link to target, replacing what is there in one step.
func link(t *testing.T, dir, target, name string) {
	t.Helper()
	tmp := filepath.Join(dir, "tmp-link")
	if err := os.Symlink(target, tmp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func FuzzStaticFile(f *testing.F) {
	f.Add(sample)
	f.Add("users: [{id: a, name: a}]\naccess: [{repos: ['**'], users: ['*']}]")
	f.Add("a: &a [*a]")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(dir, "f.yaml")
		write(t, file, text)
		s, err := forge.LoadStatic(forge.StaticConfig{Name: "git.example.com", File: file})
		if err != nil {
			return
		}
		if access(t, s, "", "x") == forge.Read {
			t.Errorf("nobody may read in %q", text)
		}
	})
}
