// Package forgetest is the conformance suite of forge providers: the same cases run against real git servers and against
// stand-ins that answer as their documentation says.
package forgetest

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

// World is a git server in a test: the provider that asks it, and what its administrator can do. Users and repositories
// go by the names that people use. A method that fails ends the test.
type World interface {
	// Provider asks the server. It is the same for the life of the world, and its forge's name is Name.
	Provider() forge.Provider
	Name() string
	// Host is the host of the server in SRC_URI.
	Host() string
	// Settle lets changes made before it take effect: it does what an event or the passing of time would, and waits for
	// a server that is slow to obey itself.
	Settle()

	AddUser(name string)
	// Path returns the path of a repository as SRC_URI has it, from the last part of its name: servers differ in whether
	// it stands under an owner. No repository need exist.
	Path(name string) string
	AddRepo(path string, public bool)
	Grant(user, path string)
	Withdraw(user, path string)
	Rename(from, to string)
	Delete(path string)
}

// Blocker is for servers that can block a user.
type Blocker interface {
	Block(user string, blocked bool)
}

// Keyring is for servers that know SSH keys. Fingerprints are those of ssh-keygen -l.
type Keyring interface {
	AddKey(user string) (fingerprint string)
	RemoveKey(user, fingerprint string)
}

// Signers is for servers whose keys a test can sign with.
type Signers interface {
	// Signer returns the key with a fingerprint that AddKey or AddDeployKey returned.
	Signer(fingerprint string) ssh.Signer
}

// DeployKeys is for servers with keys that belong to a repository.
type DeployKeys interface {
	AddDeployKey(path string) (fingerprint string)
}

// Unmoving is for servers where a repository's name is part of its id: one that is moved is another, and loses its readers.
type Unmoving interface {
	Unmoving()
}

// Pathbound is for servers that know repositories by their paths alone. What moves is another repository then, and loses its readers;
// what takes its path cannot be told from it.
type Pathbound interface {
	Pathbound()
}

// Breaker is for stand-ins that can be made to fail.
type Breaker interface {
	// Fail makes every request fail with the HTTP status, or hang up when it is 0; Heal ends that.
	Fail(status int)
	Heal()
	// Faults are the statuses that are no answer about the asker, each tried in turn.
	Faults() []int
}

// Run runs the suite. open makes a new, empty world.
func Run(t *testing.T, open func(t *testing.T) World) {
	for _, c := range []struct {
		name string
		run  func(*court)
	}{
		{"Access", access},
		{"Withdrawn", withdrawn},
		{"Public", public},
		{"Order", order},
		{"Unknown", unknown},
		{"Renamed", renamed},
		{"Squatted", squatted},
		{"Recreated", recreated},
		{"Resolve", resolve},
		{"Directory", directory},
		{"Blocked", blocked},
		{"People", people},
		{"Keys", keys},
		{"DeployKey", deployKey},
		{"Broken", broken},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(&court{T: t, World: open(t)}) })
	}
}

// court asks a world.
type court struct {
	*testing.T
	World
}

// id returns the immutable id of a user.
func (c *court) id(user string) string {
	c.Helper()
	u, err := c.Provider().(forge.Directory).UserByName(c.Context(), user)
	if err != nil {
		c.Fatalf("look up user %s: %v", user, err)
	}
	return u.ID
}

func (c *court) principal(user string) authn.Principal {
	c.Helper()
	return authn.Principal{Forge: c.Name(), ID: c.id(user), Name: user, Kind: authn.Human}
}

// locator names a repository as a record's source does.
func (c *court) locator(path string) source.Locator {
	return source.Locator{Host: c.Host(), Path: path}
}

// repo resolves a path, as a publication does.
func (c *court) repo(path string) forge.Repo {
	c.Helper()
	r, owns, err := c.Provider().(forge.Resolver).Resolve(c.Context(), c.locator(path))
	if err != nil || !owns {
		c.Fatalf("resolve %s: owns %t, %v", path, owns, err)
	}
	if r.Forge != c.Name() || r.ID == "" {
		c.Fatalf("resolve %s: %q", path, r)
	}
	return r
}

// ask returns what the provider says of one repository.
func (c *court) ask(p authn.Principal, r forge.Repo) forge.Access {
	c.Helper()
	facts, err := c.Provider().Access(c.Context(), p, []forge.Repo{r})
	if err == nil {
		err = forge.CheckFacts([]forge.Repo{r}, facts)
	}
	if err != nil {
		c.Fatalf("ask about %s: %v", r, err)
	}
	if f := facts[0]; f.Access != forge.Unknown && (f.At.IsZero() || !f.NotAfter.After(f.At) || f.Origin == "") {
		c.Errorf("ask about %s: no age or origin: %+v", r, f)
	}
	return facts[0].Access
}

func (c *court) want(p authn.Principal, r forge.Repo, want forge.Access, why string) {
	c.Helper()
	if got := c.ask(p, r); got != want {
		c.Errorf("%s: %s, want %s", why, got, want)
	}
}

// wantNoRead is for answers that may be none or unknown: nothing may be read.
func (c *court) wantNoRead(p authn.Principal, r forge.Repo, why string) {
	c.Helper()
	if got := c.ask(p, r); got == forge.Read {
		c.Errorf("%s: may be read", why)
	}
}

// private adds a private repository.
func (c *court) private(name string) string {
	path := c.Path(name)
	c.AddRepo(path, false)
	return path
}

func access(c *court) {
	c.AddUser("alice")
	c.AddUser("bob")
	path := c.private("lib")
	c.Grant("alice", path)
	c.Settle()
	r := c.repo(path)
	c.want(c.principal("alice"), r, forge.Read, "a user with a grant")
	c.want(c.principal("bob"), r, forge.None, "a user without one")
	stranger := c.principal("alice")
	stranger.Forge = "elsewhere"
	c.wantNoRead(stranger, r, "the same id of another forge")
}

func withdrawn(c *court) {
	c.AddUser("alice")
	path := c.private("lib")
	c.Grant("alice", path)
	c.Settle()
	r, alice := c.repo(path), c.principal("alice")
	c.want(alice, r, forge.Read, "before")
	c.Withdraw("alice", path)
	c.Settle()
	c.want(alice, r, forge.None, "after")
	c.Grant("alice", path)
	c.Settle()
	c.want(alice, r, forge.Read, "granted again")
}

func public(c *court) {
	c.AddUser("bob")
	path := c.Path("open")
	c.AddRepo(path, true)
	c.Settle()
	c.want(c.principal("bob"), c.repo(path), forge.Read, "a public repository")
}

func order(c *court) {
	c.AddUser("alice")
	var repos []forge.Repo
	var want []forge.Access
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		path := c.private(name)
		if i%2 == 0 {
			c.Grant("alice", path)
		}
		c.Settle()
		repos = append(repos, c.repo(path))
		want = append(want, map[bool]forge.Access{true: forge.Read, false: forge.None}[i%2 == 0])
	}
	slices.Reverse(repos)
	slices.Reverse(want)
	facts, err := c.Provider().Access(c.Context(), c.principal("alice"), repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil {
		c.Fatal(err)
	}
	for i, f := range facts {
		if f.Access != want[i] {
			c.Errorf("%s: %s, want %s", f.Repo, f.Access, want[i])
		}
	}
}

func unknown(c *court) {
	c.AddUser("alice")
	path := c.private("lib")
	c.Grant("alice", path)
	c.Settle()
	r, alice := c.repo(path), c.principal("alice")
	nobody := alice
	nobody.ID = "4000000000"
	c.wantNoRead(nobody, r, "an id that nobody has")
	for _, id := range []string{"4000000000", "../" + r.ID, "", "0", "-1", "x\ny"} {
		c.wantNoRead(alice, forge.Repo{Forge: c.Name(), ID: id}, "a repository with the id "+id)
	}
}

func renamed(c *court) {
	c.AddUser("alice")
	path, to := c.private("lib"), c.Path("moved")
	c.Grant("alice", path)
	c.Settle()
	r, alice := c.repo(path), c.principal("alice")
	c.Rename(path, to)
	c.Settle()
	_, unmoving := c.World.(Unmoving)
	if _, ok := c.World.(Pathbound); ok || unmoving {
		c.want(alice, r, forge.None, "a renamed repository by its old name")
		c.want(alice, c.repo(to), forge.Read, "a renamed repository by its new name")
		return
	}
	c.want(alice, r, forge.Read, "a renamed repository by its id")
	if again := c.repo(to); again != r {
		c.Errorf("the new name is %s, was %s", again, r)
	}
	c.Withdraw("alice", to)
	c.Settle()
	c.want(alice, r, forge.None, "withdrawn after the rename")
}

// squatted: another repository under the old name must not lend its readers to the old one.
func squatted(c *court) {
	c.AddUser("alice")
	c.AddUser("mallory")
	path, to := c.private("lib"), c.Path("moved")
	c.Grant("alice", path)
	c.Settle()
	old := c.repo(path)
	c.Rename(path, to)
	c.AddRepo(path, false)
	c.Grant("mallory", path)
	c.Settle()
	if _, ok := c.World.(Pathbound); ok {
		c.want(c.principal("alice"), old, forge.None, "a reader of the moved repository by its old path")
		return
	}
	c.want(c.principal("mallory"), old, forge.None, "a reader of a repository under the old name")
	if _, ok := c.World.(Unmoving); ok {
		c.want(c.principal("alice"), old, forge.None, "a reader of the moved repository by its old name")
	} else {
		c.want(c.principal("alice"), old, forge.Read, "a reader of the moved repository")
	}
	if now := c.repo(path); now == old {
		c.Errorf("both repositories are %s", now)
	}
}

func recreated(c *court) {
	c.AddUser("alice")
	path := c.private("lib")
	c.Grant("alice", path)
	c.Settle()
	old, alice := c.repo(path), c.principal("alice")
	c.Delete(path)
	c.Settle()
	c.wantNoRead(alice, old, "a deleted repository")
	if _, _, err := c.Provider().(forge.Resolver).Resolve(c.Context(), c.locator(path)); !errors.Is(err, forge.ErrNoRepo) {
		c.Errorf("resolve a deleted repository: %v", err)
	}
	if _, ok := c.World.(Pathbound); ok {
		return
	}
	c.AddRepo(path, false)
	c.Grant("alice", path)
	c.Settle()
	c.wantNoRead(alice, old, "a repository that was created again, by its old id")
	now := c.repo(path)
	if now == old {
		c.Fatalf("the new repository has the id of the old one: %s", now)
	}
	c.want(alice, now, forge.Read, "the new repository")
}

func resolve(c *court) {
	path := c.private("lib")
	c.Settle()
	resolver := c.Provider().(forge.Resolver)
	if _, owns, err := resolver.Resolve(c.Context(), source.Locator{Host: "elsewhere.example.org", Path: path}); owns || err != nil {
		c.Errorf("a host of nobody: owns %t, %v", owns, err)
	}
	for _, bad := range []string{c.Path("none"), path + "/x", "x", path + "?x"} {
		if r, owns, err := resolver.Resolve(c.Context(), c.locator(bad)); !owns || !errors.Is(err, forge.ErrNoRepo) {
			c.Errorf("resolve %q: %s, owns %t, %v", bad, r, owns, err)
		}
	}
}

func directory(c *court) {
	c.AddUser("alice")
	c.Settle()
	d := c.Provider().(forge.Directory)
	u, err := d.User(c.Context(), c.id("alice"))
	if err != nil || u.Name != "alice" || u.Blocked || !u.Kind.Valid() {
		c.Errorf("alice by id: %+v, %v", u, err)
	}
	for _, id := range []string{"4000000000", "../1", "", "-1"} {
		if u, err := d.User(c.Context(), id); !errors.Is(err, forge.ErrNoUser) {
			c.Errorf("user %q: %+v, %v", id, u, err)
		}
	}
	for _, name := range []string{"nobody", "", "../alice", "alice?x=1", "alice/keys"} {
		if u, err := d.UserByName(c.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			c.Errorf("user by name %q: %+v, %v", name, u, err)
		}
	}
}

func blocked(c *court) {
	b, ok := c.World.(Blocker)
	if !ok {
		c.Log("this server blocks nobody")
		return
	}
	c.AddUser("alice")
	c.Settle()
	d, id := c.Provider().(forge.Directory), c.id("alice")
	for _, state := range []bool{true, false} {
		b.Block("alice", state)
		c.Settle()
		if u, err := d.User(c.Context(), id); err != nil || u.Blocked != state {
			c.Errorf("alice is blocked %t, want %t: %v", u.Blocked, state, err)
		}
	}
}

// people: everybody is listed as the directory knows them, or nobody is.
func people(c *court) {
	p, ok := c.Provider().(forge.People)
	if !ok {
		c.Log("this server does not list its users")
		return
	}
	names := []string{"alice", "bob", "ci", "mallory"}
	for _, name := range names {
		c.AddUser(name)
	}
	c.Settle()
	c.wantPeople(p, names)
	if b, ok := c.World.(Blocker); ok {
		b.Block("mallory", true)
		c.Settle()
		c.wantPeople(p, names)
	}
	if b, ok := c.World.(Breaker); ok {
		for _, status := range b.Faults() {
			b.Fail(status)
			if listed, err := p.People(c.Context()); err == nil {
				c.Errorf("status %d is taken for %d users", status, len(listed))
			}
			b.Heal()
		}
		c.Settle()
		c.wantPeople(p, names)
	}
}

// wantPeople wants nobody listed twice, and the users with the names as they are looked up by name. The server may have others.
func (c *court) wantPeople(p forge.People, names []string) {
	c.Helper()
	listed, err := p.People(c.Context())
	if err != nil {
		c.Fatalf("list the users: %v", err)
	}
	byID := make(map[string]forge.User)
	for _, u := range listed {
		if _, twice := byID[u.ID]; twice || u.ID == "" {
			c.Errorf("the id %q is listed twice, or is none", u.ID)
		}
		byID[u.ID] = u
	}
	for _, name := range names {
		want, err := c.Provider().(forge.Directory).UserByName(c.Context(), name)
		if err != nil {
			c.Fatalf("look up user %s: %v", name, err)
		}
		if got := byID[want.ID]; got.ID != want.ID || got.Name != name || got.Kind != want.Kind || got.Blocked != want.Blocked {
			c.Errorf("%s is listed as %+v, want %+v", name, got, want)
		}
	}
}

func keys(c *court) {
	k, ok := c.World.(Keyring)
	if !ok {
		c.Log("this server knows no keys")
		return
	}
	c.AddUser("alice")
	c.AddUser("bob")
	of := map[string]string{"alice": k.AddKey("alice"), "bob": k.AddKey("bob")}
	c.Settle()
	owners := c.Provider().(forge.KeyOwners)
	for name, key := range of {
		if u, err := owners.KeyOwner(c.Context(), key); err != nil || u.ID != c.id(name) || u.Name != name {
			c.Errorf("the owner of %s's key: %+v, %v", name, u, err)
		}
	}
	k.RemoveKey("alice", of["alice"])
	c.Settle()
	for _, key := range []string{of["alice"], "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "SHA256:../x", "MD5:00"} {
		if u, err := owners.KeyOwner(c.Context(), key); !errors.Is(err, forge.ErrNoUser) {
			c.Errorf("the owner of %q: %+v, %v", key, u, err)
		}
	}
}

// deployKey: whoever holds a deploy key must not become the person who added it.
func deployKey(c *court) {
	d, ok := c.World.(DeployKeys)
	if !ok {
		c.Log("this server has no deploy keys")
		return
	}
	path := c.private("lib")
	key := d.AddDeployKey(path)
	c.Settle()
	if u, err := c.Provider().(forge.KeyOwners).KeyOwner(c.Context(), key); !errors.Is(err, forge.ErrNoUser) {
		c.Errorf("the owner of a deploy key: %+v, %v", u, err)
	}
}

// broken: what a forge cannot answer is no answer, neither yes nor no.
func broken(c *court) {
	b, ok := c.World.(Breaker)
	if !ok {
		c.Log("this server is not broken on purpose")
		return
	}
	c.AddUser("alice")
	path := c.private("lib")
	c.Grant("alice", path)
	c.Settle()
	r, alice := c.repo(path), c.principal("alice")
	for _, status := range b.Faults() {
		c.Settle()
		b.Fail(status)
		facts, err := c.Provider().Access(c.Context(), alice, []forge.Repo{r})
		if err == nil && facts[0].Access != forge.Unknown {
			c.Errorf("status %d is taken for %s", status, facts[0].Access)
		}
		if _, err := c.Provider().(forge.Directory).User(c.Context(), alice.ID); err == nil || errors.Is(err, forge.ErrNoUser) {
			c.Errorf("status %d for a user: %v", status, err)
		}
		if _, _, err := c.Provider().(forge.Resolver).Resolve(c.Context(), c.locator(path)); err == nil || errors.Is(err, forge.ErrNoRepo) {
			c.Errorf("status %d for a path: %v", status, err)
		}
		b.Heal()
	}
	c.Settle()
	c.want(alice, r, forge.Read, "after the failure")
}
