package forge_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
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
)

// gitolite is a real gitolite behind a real sshd, in a home of its own, for one test at a time. Its administrator works in
// ~/.gitolite, where a push to gitolite-admin puts what it brings, and with mv and rm for what that cannot do.
type gitolite struct {
	t        *testing.T
	home     string
	wire     *wire
	server   forge.SSHServer
	provider *forge.Gitolite

	repos map[string]map[string]bool // readers; "@all" is one
	extra map[string]string          // more lines of a repository; of "": before all
	files map[string]string          // of keydir
	dirty bool
	count int

	signers map[string]ssh.Signer // of AddKey, by fingerprint
}

var (
	_ forgetest.World   = (*gitolite)(nil)
	_ forgetest.Keyring = (*gitolite)(nil)
	_ forgetest.Breaker = (*gitolite)(nil)
)

const gitoliteName = "git.example.com"

// TestGitolite runs all cases against one gitolite, emptied between them.
func TestGitolite(t *testing.T) {
	g := startGitolite(t)
	t.Run("Forge", func(t *testing.T) {
		forgetest.Run(t, func(t *testing.T) forgetest.World { return g.open(t) })
	})
	t.Run("Gate", func(t *testing.T) { forgegate.Run(t, g.open(t)) })
	for name, run := range map[string]func(*testing.T, *gitolite){
		"UserWithoutKeyKeepsNothing": gitoliteUserWithoutKey, "GroupIsNoUser": gitoliteGroupIsNoUser, "DenyRules": gitoliteDenyRules,
		"KeyOfTwoUsersIsNobodys": gitoliteKeyOfTwoUsers, "KeydirNames": gitoliteKeydirNames, "CaseTwins": gitoliteCaseTwins,
		"CopyOfARepository": gitoliteCopy, "MovedWhileAsked": gitoliteMovedWhileAsked, "HostilePaths": gitoliteHostilePaths,
		"HostKeyIsPinned": gitoliteHostKeyIsPinned, "Follows": gitoliteFollows, "Trigger": gitoliteTrigger,
		"WildRepository": gitoliteWildRepository,
	} {
		t.Run(name, func(t *testing.T) { run(t, g.open(t)) })
	}
}

// startGitolite sets gitolite up with a helper as operators do.
func startGitolite(t *testing.T) *gitolite {
	t.Helper()
	g := &gitolite{t: t, home: t.TempDir()}
	_, admin := keyFile(t, filepath.Join(t.TempDir(), "admin"))
	g.write("admin.pub", admin+"\n", 0o644)
	g.run(g.home, "gitolite", "setup", "-pk", "admin.pub")
	g.write("lychgate-helper", forge.GitoliteHelper(), 0o755)
	key, line := keyFile(t, filepath.Join(t.TempDir(), "gate"))
	forced := fmt.Sprintf("command=%q,restrict %s lychgate\n", g.path("lychgate-helper"), line)
	g.write(".ssh/authorized_keys", forced+readFile(t, g.path(".ssh/authorized_keys")), 0o600)
	g.serve(key)
	return g
}

// open empties gitolite for a test.
func (g *gitolite) open(t *testing.T) *gitolite {
	t.Helper()
	g.wire.setCut(true) // the helpers of the test before end
	g.wire.setCut(false)
	w := *g
	w.t, w.repos, w.extra, w.files, w.signers = t, map[string]map[string]bool{}, map[string]string{}, map[string]string{}, map[string]ssh.Signer{}
	bare, err := filepath.Glob(g.path("repositories/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(bare, g.path(".gitolite/keydir/people")) {
		if filepath.Base(dir) == "gitolite-admin.git" {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	w.provider = w.ask(forge.GitoliteConfig{})
	return &w
}

// ask returns a provider that asks this gitolite.
func (g *gitolite) ask(c forge.GitoliteConfig) *forge.Gitolite {
	g.t.Helper()
	c.Name, c.Hosts = gitoliteName, []string{gitoliteName}
	if c.Server.Address == "" {
		c.Server = g.server
	}
	p, err := forge.NewGitolite(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// serve starts sshd for the account that runs the tests: it serves that one without privileges, and as root as well.
func (g *gitolite) serve(key string) {
	g.t.Helper()
	account, err := user.Current()
	if err != nil {
		g.t.Fatal(err)
	}
	if account.Uid == "0" { // sshd wants this directory of root, and the package makes it at boot
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	hostKey, hostLine := keyFile(g.t, g.path("host_key"))
	_, port, _ := net.SplitHostPort(address)
	g.write("sshd_config", strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + hostKey, "PidFile none", "UsePAM no", "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
		"AuthorizedKeysFile " + g.path(".ssh/authorized_keys"), "SetEnv HOME=" + g.home, "LogLevel ERROR", "",
	}, "\n"), 0o600)
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	log := filepath.Join(g.t.TempDir(), "sshd.log")
	cmd := exec.Command(sshd, "-D", "-f", g.path("sshd_config"), "-E", log)
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if text := readFile(g.t, log); g.t.Failed() && text != "" {
			g.t.Log(text)
		}
	})
	g.wire = newWire(g.t, address)
	g.server = forge.SSHServer{Address: g.wire.Addr().String(), User: account.Username, KeyFile: key}
	g.server.KnownHosts = knownHosts(g.t, g.server.Address, hostLine)
	for range 500 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Fatal("sshd does not listen")
}

func (g *gitolite) path(name string) string { return filepath.Join(g.home, name) }

func (g *gitolite) write(name, text string, mode os.FileMode) {
	g.t.Helper()
	file := g.path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode)); err != nil {
		g.t.Fatal(err)
	}
}

// run runs a program as the account that gitolite runs as.
func (g *gitolite) run(dir, name string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + g.home, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GL_USER=owner", "USER=git", "LOGNAME=git",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// push makes gitolite take what has changed.
func (g *gitolite) push() {
	g.t.Helper()
	if !g.dirty {
		return
	}
	g.dirty = false
	conf := g.extra[""] + "repo gitolite-admin\n    RW+ = admin\n"
	for _, name := range slices.Sorted(maps.Keys(g.repos)) {
		conf += "repo " + name + "\n    RW+ = admin\n" + g.extra[name] // one without rules would not be made
		if readers := slices.Sorted(maps.Keys(g.repos[name])); len(readers) > 0 {
			conf += "    R = " + strings.Join(readers, " ") + "\n"
		}
	}
	g.write(".gitolite/conf/gitolite.conf", conf, 0o600)
	if err := os.RemoveAll(g.path(".gitolite/keydir/people")); err != nil {
		g.t.Fatal(err)
	}
	for name, line := range g.files {
		g.write(".gitolite/keydir/people/"+name, line, 0o600)
	}
	g.run(g.home, "gitolite", "compile")
}

// pushAdmin does what push does by pushing to gitolite-admin.
func (g *gitolite) pushAdmin() {
	g.t.Helper()
	clone := filepath.Join(g.t.TempDir(), "admin")
	g.run(g.home, "git", "clone", "-q", "repositories/gitolite-admin.git", clone)
	g.run(g.home, "cp", "-R", ".gitolite/conf/gitolite.conf", clone+"/conf/")
	g.run(g.home, "cp", "-R", ".gitolite/keydir/people", clone+"/keydir/")
	g.run(clone, "git", "add", "-A")
	g.run(clone, "git", "commit", "-q", "-m", "change")
	g.run(clone, "gitolite", "push", "-q")
}

func (g *gitolite) Provider() forge.Provider { return g.provider }
func (g *gitolite) Name() string             { return gitoliteName }
func (g *gitolite) Host() string             { return gitoliteName }
func (g *gitolite) Path(name string) string  { return "team/" + name }

func (g *gitolite) Settle() {
	g.t.Helper()
	g.push()
	g.provider.Forget(forge.Event{Forge: gitoliteName})
}

// key adds a file to keydir.
func (g *gitolite) key(file string) (fingerprint string) {
	g.t.Helper()
	key, line := newKeyFile(g.t, filepath.Join(g.t.TempDir(), "key"))
	g.files[file], g.dirty = line+" a comment\n", true
	fingerprint = ssh.FingerprintSHA256(key.PublicKey())
	g.signers[fingerprint] = key
	return fingerprint
}

func (g *gitolite) Signer(fingerprint string) ssh.Signer { return g.signers[fingerprint] }

func (g *gitolite) AddUser(name string) { g.t.Helper(); g.key(name + ".pub") }

func (g *gitolite) AddKey(name string) (fingerprint string) {
	g.t.Helper()
	g.count++
	return g.key(fmt.Sprintf("%s@place%d.pub", name, g.count))
}

func (g *gitolite) RemoveKey(name, fingerprint string) {
	g.t.Helper()
	for file, line := range g.files {
		if ssh.FingerprintSHA256(publicKey(g.t, line)) == fingerprint {
			delete(g.files, file)
		}
	}
	g.dirty = true
}

func (g *gitolite) AddRepo(path string, public bool) {
	g.repos[path], g.dirty = map[string]bool{}, true
	if public {
		g.repos[path]["@all"] = true
	}
}

func (g *gitolite) Grant(name, path string) { g.repos[path][name], g.dirty = true, true }

func (g *gitolite) Withdraw(name, path string) {
	delete(g.repos[path], name)
	g.dirty = true
}

func (g *gitolite) bare(path string) string { return g.path("repositories/" + path + ".git") }

func (g *gitolite) Rename(from, to string) {
	g.t.Helper()
	g.push()
	if err := os.Rename(g.bare(from), g.bare(to)); err != nil {
		g.t.Fatal(err)
	}
	g.repos[to] = g.repos[from]
	delete(g.repos, from)
	g.dirty = true
}

func (g *gitolite) Delete(path string) {
	g.t.Helper()
	delete(g.repos, path)
	g.dirty = true
	g.push()
	if err := os.RemoveAll(g.bare(path)); err != nil {
		g.t.Fatal(err)
	}
}

// Fail implements [forgetest.Breaker]: an ssh server knows no status, it is gone.
func (g *gitolite) Fail(int)      { g.wire.setCut(true) }
func (g *gitolite) Heal()         { g.wire.setCut(false) }
func (g *gitolite) Faults() []int { return []int{0} }

func (g *gitolite) id(path string) string {
	g.t.Helper()
	r, _, err := g.provider.Resolve(g.t.Context(), source.Locator{Host: gitoliteName, Path: path})
	if err != nil {
		g.t.Fatal(err)
	}
	return r.ID
}

// gitoliteUserWithoutKey: gitolite allows what @all may to every name it is asked about.
func gitoliteUserWithoutKey(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.AddUser("bob")
	g.AddRepo("open", true)
	g.Settle()
	id := g.id("open")
	delete(g.files, "bob.pub")
	g.dirty = true
	g.Settle()
	if out := g.run(g.home, "gitolite", "access", "open", "bob", "R", "any"); strings.Contains(out, "DENIED") {
		t.Fatalf("gitolite itself denies now, and the helper need not: %s", out)
	}
	for user, want := range map[string]forge.Access{"alice": forge.Read, "bob": forge.None, "carol": forge.None} {
		if got := access(t, g.provider, user, id); got != want {
			t.Errorf("%s: %s, want %s", user, got, want)
		}
	}
	if _, err := g.provider.User(t.Context(), "bob"); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a user without a key: %v", err)
	}
}

// gitoliteGroupIsNoUser: gitolite answers for the group when it is asked about one, and takes % for its standard input.
func gitoliteGroupIsNoUser(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.AddRepo("lib", false)
	g.extra[""] = "@staff = alice\n"
	g.Grant("@staff", "lib")
	g.Settle()
	id := g.id("lib")
	if out := g.run(g.home, "gitolite", "access", "lib", "@staff", "R", "any"); strings.Contains(out, "DENIED") {
		t.Fatalf("gitolite itself denies now: %s", out)
	}
	if got := access(t, g.provider, "alice", id); got != forge.Read {
		t.Errorf("alice: %s", got)
	}
	for _, name := range []string{"@staff", "@all", "%", "-q", "0", "", "alice bob", "alice\nfind lib", "../alice", "alice\x00", "alice;id", "álice"} {
		if got := access(t, g.provider, name, id); got != forge.None {
			t.Errorf("%q: %s", name, got)
		}
		if _, err := g.provider.User(t.Context(), name); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("user %q: %v", name, err)
		}
	}
	if u, err := g.provider.User(t.Context(), "alice"); err != nil || !slices.Equal(u.Groups, []string{"staff"}) {
		t.Errorf("alice: %+v, %v", u, err)
	}
}

// gitoliteDenyRules: before git runs, gitolite passes over deny rules unless the repository has the option deny-rules. So does the gate.
func gitoliteDenyRules(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	for name, lines := range map[string]string{
		"one-branch": "    -   refs/heads/secret = alice\n",
		"nothing":    "    option deny-rules = 1\n    - = alice\n",
		"written":    "    RW+ = alice\n",
		"named":      "    - DENIED = alice\n",
	} {
		g.AddRepo(name, name != "written")
		g.extra[name] = lines
	}
	g.Settle()
	for name, want := range map[string]forge.Access{"one-branch": forge.Read, "nothing": forge.None, "written": forge.Read, "named": forge.Read} {
		if got := access(t, g.provider, "alice", g.id(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// gitoliteKeyOfTwoUsers: sshd takes the first line with a key, so that its holder is whoever sorts first.
func gitoliteKeyOfTwoUsers(t *testing.T, g *gitolite) {
	both := g.key("alice.pub")
	g.files["bob.pub"] = g.files["alice.pub"]
	twice := g.key("carol.pub")
	g.files["carol@home.pub"] = g.files["carol.pub"]
	g.Settle()
	if u, err := g.provider.KeyOwner(t.Context(), both); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a key of two users: %+v, %v", u, err)
	}
	if u, err := g.provider.KeyOwner(t.Context(), twice); err != nil || u.ID != "carol" {
		t.Errorf("a key that one user has twice: %+v, %v", u, err)
	}
}

// gitoliteKeydirNames: which user a file in keydir is for, and which files are none's, as gitolite's authorized_keys has it.
func gitoliteKeydirNames(t *testing.T, g *gitolite) {
	owners := map[string]string{}
	for file, owner := range map[string]string{
		"alice.pub": "alice", "alice@home.pub": "alice", "deep/er/bob.pub": "bob",
		"carol@example.com.pub": "carol@example.com", "carol@example.com@work.pub": "carol@example.com", "d.ave.pub": "d.ave",
	} {
		owners[g.key(file)] = owner
	}
	twoLines := g.key("two.pub")
	g.files["two.pub"] += g.files["alice.pub"]
	options := g.key("options.pub")
	g.files["options.pub"] = `from="10.0.0.0/8" ` + g.files["options.pub"]
	g.Settle()
	g.run(g.home, "gitolite", "trigger", "POST_COMPILE")
	authorized := readFile(t, g.path(".ssh/authorized_keys"))
	if !strings.Contains(authorized, "lychgate-helper") {
		t.Errorf("gitolite has dropped the helper's line:\n%s", authorized)
	}
	for key, owner := range owners {
		if u, err := g.provider.KeyOwner(t.Context(), key); err != nil || u.ID != owner {
			t.Errorf("%s: %+v, %v", owner, u, err)
		}
		if !strings.Contains(authorized, "gitolite-shell "+owner+`"`) {
			t.Errorf("gitolite knows no %s:\n%s", owner, authorized)
		}
	}
	for what, key := range map[string]string{"two lines": twoLines, "options": options} {
		if u, err := g.provider.KeyOwner(t.Context(), key); !errors.Is(err, forge.ErrNoUser) {
			t.Errorf("a file with %s: %+v, %v", what, u, err)
		}
	}
}

// gitoliteCaseTwins: upper and lower case are different repositories.
func gitoliteCaseTwins(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.AddUser("mallory")
	g.AddRepo("team/lib", false)
	g.AddRepo("Team/Lib", false)
	g.Grant("alice", "team/lib")
	g.Grant("mallory", "Team/Lib")
	g.Settle()
	lower, upper := g.id("team/lib"), g.id("Team/Lib")
	if lower == upper || access(t, g.provider, "mallory", lower) != forge.None || access(t, g.provider, "alice", upper) != forge.None {
		t.Errorf("%s and %s are mixed up", lower, upper)
	}
	if _, _, err := g.provider.Resolve(t.Context(), source.Locator{Host: gitoliteName, Path: "TEAM/lib"}); !errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("a third spelling: %v", err)
	}
}

// gitoliteCopy: the operator's cp takes the stamp along; the readers of the copy are not those of the original.
func gitoliteCopy(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.AddUser("mallory")
	g.AddRepo("lib", false)
	g.Grant("alice", "lib")
	g.Settle()
	id := g.id("lib")
	g.run(g.home, "cp", "-a", g.bare("lib"), g.bare("copy"))
	g.AddRepo("copy", false)
	g.Grant("mallory", "copy")
	g.Settle()
	p := g.ask(forge.GitoliteConfig{}) // a helper that has not seen the original alone
	if got := access(t, p, "mallory", id); got == forge.Read {
		t.Error("the copy's reader may read the original")
	}
	if got := access(t, p, "alice", id); got != forge.Unknown {
		t.Errorf("alice: %s, want unknown", got)
	}
	if findings := p.Check(t.Context(), "alice"); !slices.ContainsFunc(findings, func(f forge.Finding) bool { return strings.Contains(f.Detail, "one lychgate-id") }) {
		t.Errorf("nobody is told: %+v", findings)
	}
	if err := os.Remove(g.bare("copy") + "/lychgate-id"); err != nil {
		t.Fatal(err)
	}
	p = g.ask(forge.GitoliteConfig{})
	if access(t, p, "alice", id) != forge.Read || access(t, p, "mallory", id) != forge.None || g.id("copy") == id {
		t.Error("without its stamp the copy is still taken for the original")
	}
}

// gitoliteMovedWhileAsked: gitolite answers about a name; when another repository has it by then, that is no answer.
func gitoliteMovedWhileAsked(t *testing.T, g *gitolite) {
	g.AddUser("mallory")
	g.AddRepo("lib", false)
	g.AddRepo("hers", false)
	g.Grant("mallory", "hers")
	g.Settle()
	id := g.id("lib")
	g.id("hers")
	script := "#!/bin/sh\n[ \"$1\" != access ] || { mv " + g.bare("lib") + " " + g.bare("away") + "; mv " + g.bare("hers") + " " + g.bare("lib") + "; }\n"
	g.write("gitolite-that-moves", script+"[ \"$1\" != access ] || sed -i s/hers/lib/ "+g.bare("lib")+"/gl-conf\nexec gitolite \"$@\"\n", 0o755)
	keys := readFile(t, g.path(".ssh/authorized_keys"))
	t.Cleanup(func() { g.write(".ssh/authorized_keys", keys, 0o600) })
	g.write(".ssh/authorized_keys", strings.Replace(keys, "lychgate-helper\"", "lychgate-helper "+g.path("gitolite-that-moves")+"\"", 1), 0o600)
	if got := access(t, g.ask(forge.GitoliteConfig{}), "mallory", id); got != forge.Unknown {
		t.Errorf("mallory: %s, want unknown", got)
	}
}

// gitoliteHostilePaths: no path selects another repository, or another question.
func gitoliteHostilePaths(t *testing.T, g *gitolite) {
	g.AddRepo("lib", false)
	g.Settle()
	g.id("lib")
	for _, path := range []string{
		"lib.git", "lib/", "/lib", "./lib", "x/../lib", "lib\nusers", "lib lib", "lib\x00", "lib;id", "$(id)", "@all", "lib.git/hooks", "../admin", "", "-lib",
		"~/lib", "repositories/lib", strings.Repeat("a/", 5000) + "lib", "lib//x", "líb",
	} {
		r, owns, err := g.provider.Resolve(t.Context(), source.Locator{Host: gitoliteName, Path: path})
		if !owns || !errors.Is(err, forge.ErrNoRepo) {
			t.Errorf("resolve %q: %s, owns %t, %v", path, r, owns, err)
		}
	}
}

// gitoliteHostKeyIsPinned: another server is told nothing, and answers nothing.
func gitoliteHostKeyIsPinned(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.AddRepo("lib", true)
	g.Settle()
	id := g.id("lib")
	_, other := keyFile(t, filepath.Join(t.TempDir(), "other"))
	server := g.server
	server.KnownHosts = knownHosts(t, server.Address, other)
	p := g.ask(forge.GitoliteConfig{Server: server})
	_, err := p.Access(t.Context(), authn.Principal{Forge: gitoliteName, ID: "alice"}, []forge.Repo{{Forge: gitoliteName, ID: id}})
	if err == nil || !strings.Contains(err.Error(), "key mismatch") {
		t.Errorf("another host key: %v", err)
	}
	if findings := p.Check(t.Context(), ""); findings[0].Health != forge.Broken || findings[0].Hint == "" {
		t.Errorf("check: %+v", findings)
	}
}

// gitoliteFollows: a push to gitolite-admin is seen without the trigger.
func gitoliteFollows(t *testing.T, g *gitolite) {
	g.AddUser("alice")
	g.Settle()
	events := make(chan forge.Event, 10)
	done := make(chan error, 1)
	go func() { done <- g.provider.Follow(t.Context(), func(e forge.Event) { events <- e }) }()
	if e := <-events; e != (forge.Event{Forge: gitoliteName, Why: e.Why}) {
		t.Errorf("at first: %+v", e)
	}
	g.AddUser("bob")
	g.push()
	if e := <-events; e != (forge.Event{Forge: gitoliteName, Why: e.Why}) || e.Why == "" {
		t.Errorf("after a push: %+v", e)
	}
}

// gitoliteTrigger: the trigger that is shipped tells of pushes to gitolite-admin and of the perms of wild repositories, and only
// what it signed is believed.
func gitoliteTrigger(t *testing.T, g *gitolite) {
	type post struct {
		header http.Header
		body   []byte
	}
	posts := make(chan post, 100)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posts <- post{r.Header, body}
	}))
	t.Cleanup(gate.Close)
	p := g.ask(forge.GitoliteConfig{HookSecret: authn.NewSecret("between us")})
	g.write(".lychgate-trigger", "url "+gate.URL+"/v1/hooks/"+gitoliteName+"\nsecret between us\n", 0o600)
	if findings := p.Check(t.Context(), ""); findings[len(findings)-1].Health != forge.Doubtful {
		t.Errorf("without the trigger: %+v", findings)
	}
	g.write(".lychgate-trigger", "url "+gate.URL+"/v1/hooks/"+gitoliteName+"\nsecret between-us\n", 0o600)
	p = g.ask(forge.GitoliteConfig{HookSecret: authn.NewSecret("between-us")})
	g.write("local/triggers/lychgate-trigger", forge.GitoliteTrigger(), 0o755)
	rc := readFile(t, g.path(".gitolite.rc"))
	t.Cleanup(func() { g.write(".gitolite.rc", rc, 0o600) })
	g.write(".gitolite.rc", strings.Replace(rc, "%RC = (", "%RC = (\n    LOCAL_CODE => \"$ENV{HOME}/local\",\n"+
		"    POST_COMPILE => ['lychgate-trigger'],\n    POST_CREATE => ['lychgate-trigger'],\n", 1), 0o600)
	if findings := p.Check(t.Context(), ""); findings[len(findings)-1].Health != forge.Fine {
		t.Errorf("with the trigger: %+v", findings)
	}

	read := func() (post, forge.Delivery) {
		t.Helper()
		select {
		case got := <-posts:
			d, err := p.ReadHook(got.header, got.body)
			if err != nil || time.Since(d.At).Abs() > time.Hour || d.ID == "" {
				t.Fatalf("%s: %+v, %v", got.body, d, err)
			}
			return got, d
		case <-time.After(10 * time.Second):
			t.Fatal("the trigger told nothing")
			return post{}, forge.Delivery{}
		}
	}
	g.AddUser("owner")
	g.extra["wild/..*"] = "    C = owner\n    RW+ = CREATOR\n    R = READERS\n"
	g.AddRepo("wild/..*", false)
	g.push()
	g.pushAdmin()
	first, d := read()
	if len(d.Events) != 1 || d.Events[0] != (forge.Event{Forge: gitoliteName, Why: d.Events[0].Why}) {
		t.Errorf("a push: %+v", d)
	}
	g.run(g.home, "gitolite", "create", "wild/one")
	if _, d := read(); len(d.Events) != 0 {
		t.Errorf("a repository of which nothing is known: %+v", d)
	}
	id := g.id("wild/one")
	g.run(g.home, "gitolite", "perms", "wild/one", "+", "READERS", "bob")
	if _, d := read(); len(d.Events) != 1 || d.Events[0] != (forge.Event{Forge: gitoliteName, Repo: id, Why: d.Events[0].Why}) {
		t.Errorf("perms: %+v, want about %s", d, id)
	}

	changed := slices.Clone(first.body)
	changed[len(changed)-3] ^= 1
	for what, bad := range map[string]post{
		"a changed body":        {first.header, changed},
		"no signature":          {http.Header{}, first.body},
		"half a signature":      {http.Header{"X-Lychgate-Signature": {first.header.Get("X-Lychgate-Signature")[:32]}}, first.body},
		"a signature of naught": {http.Header{"X-Lychgate-Signature": {""}}, nil},
	} {
		if d, err := p.ReadHook(bad.header, bad.body); !errors.Is(err, forge.ErrHook) {
			t.Errorf("%s: %+v, %v", what, d, err)
		}
	}
	if d, err := g.provider.ReadHook(first.header, first.body); !errors.Is(err, forge.ErrHook) {
		t.Errorf("without a secret: %+v, %v", d, err)
	}
}

// gitoliteWildRepository: the one who made a wild repository, and those with a role in it, as gitolite has it.
func gitoliteWildRepository(t *testing.T, g *gitolite) {
	for _, name := range []string{"owner", "bob", "carol"} {
		g.AddUser(name)
	}
	g.extra["wild/..*"] = "    C = owner\n    RW+ = CREATOR\n    R = READERS\n"
	g.AddRepo("wild/..*", false)
	g.push()
	g.run(g.home, "gitolite", "create", "wild/one")
	id := g.id("wild/one")
	want := func(when string, all map[string]forge.Access) {
		t.Helper()
		for user, a := range all {
			if got := access(t, g.provider, user, id); got != a {
				t.Errorf("%s: %s: %s, want %s", when, user, got, a)
			}
		}
	}
	want("before", map[string]forge.Access{"owner": forge.Read, "bob": forge.None, "carol": forge.None})
	g.run(g.home, "gitolite", "perms", "wild/one", "+", "READERS", "bob")
	want("after", map[string]forge.Access{"owner": forge.Read, "bob": forge.Read, "carol": forge.None})
	g.run(g.home, "gitolite", "perms", "wild/one", "-", "READERS", "bob")
	want("withdrawn", map[string]forge.Access{"owner": forge.Read, "bob": forge.None, "carol": forge.None})
}
