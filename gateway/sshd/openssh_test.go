package sshd_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestOpenSSHQuoting: the test that BitBake makes (its lib/bb/fetch2/ssh.py: ssh -o BatchMode=true HOST [ -f PATH ]), as it comes
// over the wire from a list of words, from a local shell, and from people who quote.
func TestOpenSSHQuoting(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	for _, form := range [][]string{
		{"[", "-f", "PATH", "]"},
		{"[ -f PATH ]"},
		{"[", "-f", "'PATH'", "]"},
		{`[ -f "PATH" ]`},
		{"'['", "'-f'", "'PATH'", "']'"},
		{"test -f PATH"},
		{"test", "-f", `"PATH"`},
		{"test -e 'PATH'"},
		{"[ -e PATH ]"},
		{`\[ -f P\ATH \]`},
	} {
		for user, want := range map[string][2]int{"alice": {0, 0}, "bob": {0, 1}} {
			for i, name := range []string{hello.Name, secret.Name} {
				var words []string
				for _, word := range form {
					word = strings.Replace(word, `P\ATH`, `\/main/`+name, 1)
					words = append(words, strings.Replace(word, "PATH", "/main/"+name, 1))
				}
				if r := client(t, "", "ssh", append(append(openssh(t, g, user), "gate"), words...)...); r != (result{code: want[i]}) {
					t.Errorf("%q as %s: %+v, want %d", words, user, r, want[i])
				}
			}
		}
	}
	alice := strings.Join(openssh(t, g, "alice"), "' '")
	script := fmt.Sprintf("ssh '%s' gate [ -f /main/%s ] && ssh '%s' gate [ -f /main/absent ]", alice, hello.Name, alice)
	if r := client(t, "", "sh", "-c", script); r != (result{code: 1}) {
		t.Errorf("from a shell: %+v", r)
	}
}

// TestOpenSSHCommands: the gate's own commands with the client that people have. A terminal that they ask for is refused, and the
// command answers all the same.
func TestOpenSSHCommands(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	run := func(user, input string, args ...string) result {
		return client(t, input, "ssh", append(openssh(t, g, user), args...)...)
	}
	if r := run("bob", "", "gate", "whoami"); r.code != 0 || !strings.HasPrefix(r.out, "bob (human)") || r.err != "" {
		t.Errorf("whoami: %+v", r)
	}
	if r := run("bob", "", "anybody@gate", "token", "--ttl", "10m", "--note", "'two words'"); r.code != 0 || g.WithToken(strings.TrimSpace(r.out)).Get("/v1/whoami").StatusCode != 200 {
		t.Errorf("token: %+v", r)
	}
	if r := run("bob", "", "gate", "explain", "/main/"+hello.Name); r.code != 0 || !strings.HasPrefix(r.out, "allow: ") {
		t.Errorf("explain: %+v", r)
	}
	if r := run("bob", "", "gate", "explain", "/main/"+secret.Name); r.code != 3 || r.out != "" {
		t.Errorf("explain: %+v", r)
	}
	if r := run("bob", hello.Name+"\n"+secret.Name+"\n", "gate", "presence", "--zone", "main"); r != (result{out: "1\n0\n"}) {
		t.Errorf("presence: %+v", r)
	}
	if r := run("bob", "", "gate", "help"); r.code != 0 || !strings.Contains(r.out, "presence [--zone ZONE]") {
		t.Errorf("help: %+v", r)
	}
	if r := run("bob", "", "gate", "uname", "-a"); r.code != 127 || !strings.Contains(r.err, "no such command") || !strings.Contains(r.err, "whoami") {
		t.Errorf("another command: %+v", r)
	}
	if r := run("bob", "", "gate"); r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "Hello bob.") {
		t.Errorf("no command: %+v", r)
	}
	if r := run("bob", "", "-t", "-A", "-X", "-o", "SendEnv=*", "-o", "SetEnv=A=b", "gate", "whoami"); r.code != 0 || !strings.HasPrefix(r.out, "bob (human)") {
		t.Errorf("with all that is refused: %+v", r)
	}
	if r := run("bob", "", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:1", "gate", "whoami"); r.code != 255 {
		t.Errorf("with forwarding to the client: %+v", r)
	}
	if r := run("bob", "", "-W", "127.0.0.1:22", "gate"); r.code != 255 || !strings.Contains(r.err, "forwarding failed") {
		t.Errorf("with forwarding to elsewhere: %+v", r)
	}
	if r := run("nobody", "", "gate", "whoami"); r.code != 255 || r.out != "" {
		t.Errorf("a stranger: %+v", r)
	}
}

// TestControlMaster: many sessions on one connection, at once.
func TestControlMaster(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{SSHLimits: sshd.Limits{ConnsPerPrincipal: 1}})
	socket := filepath.Join(t.TempDir(), "s")
	shared := append(openssh(t, g, "bob"), "-o", "ControlPath="+socket)
	if r := client(t, "", "ssh", append(shared, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N", "gate")...); r.code != 0 {
		t.Fatalf("the master: %+v", r)
	}
	defer client(t, "", "ssh", append(shared, "-O", "exit", "gate")...)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			name, want := hello.Name, 0
			if i%2 == 1 {
				name, want = secret.Name, 1
			}
			if r := client(t, "", "ssh", append(append([]string{}, shared...), "gate", "[ -f /main/"+name+" ]")...); r != (result{code: want}) {
				t.Errorf("session %d: %+v, want %d", i, r, want)
			}
		})
	}
	wg.Wait()
	accepted := 0
	for _, e := range g.Events() {
		if e.Kind == "decision" && e.Door == "ssh" {
			accepted++
		}
	}
	if accepted != 50 {
		t.Errorf("%d decisions on record, want 50", accepted)
	}
}

// TestScp: the old protocol with its own client: a file, with its time, a directory; and the words for what there is not.
func TestScp(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	big := large()
	g.Publish([]gwtest.Object{big}, publicSource)
	scp := func(user string, args ...string) result {
		return client(t, "", "scp", append(append([]string{"-O"}, openssh(t, g, user)...), args...)...)
	}
	dir := t.TempDir()
	for _, o := range []gwtest.Object{hello, big} {
		for _, flags := range [][]string{{"-q"}, {"-B", "-r"}, {"-p"}, {"-v"}} {
			to := filepath.Join(dir, strings.Join(flags, ""))
			if r := scp("bob", append(flags, "gate:/main/"+o.Name, to)...); r.code != 0 {
				t.Fatalf("%q: %+v", flags, r)
			}
			got, err := os.ReadFile(to)
			if err != nil || !bytes.Equal(got, o.Content) {
				t.Errorf("%q: %d bytes, %v; want %d", flags, len(got), err, len(o.Content))
			}
		}
		info, err := os.Stat(filepath.Join(dir, "-p"))
		obj := g.As("bob").Head("/sstate/main/" + o.Name).Header.Get("Last-Modified")
		if err != nil || info.ModTime().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") != obj {
			t.Errorf("the time is %v, want %s", info.ModTime(), obj)
		}
	}
	for user, want := range map[string][]gwtest.Object{"alice": {hello, secret, big}, "bob": {hello, big}} {
		to := t.TempDir()
		if r := scp(user, "-r", "gate:/main", to); r.code != 0 {
			t.Errorf("all that %s sees: %+v", user, r)
		}
		files := 0
		_ = filepath.WalkDir(to, func(_ string, d os.DirEntry, _ error) error {
			if !d.IsDir() {
				files++
			}
			return nil
		})
		for _, o := range want {
			if got, err := os.ReadFile(filepath.Join(to, "main", o.Name)); err != nil || !bytes.Equal(got, o.Content) {
				t.Errorf("%s got %d bytes of %s, %v", user, len(got), o.Name, err)
			}
		}
		if files != len(want) {
			t.Errorf("%s got %d files, want %d", user, files, len(want))
		}
	}
	for _, name := range []string{"/main/" + secret.Name, "/main/" + gwtest.NewObject("absent", "package").Name, "/etc/passwd"} {
		r := scp("bob", "gate:"+name, filepath.Join(dir, "none"))
		if _, err := os.Stat(filepath.Join(dir, "none")); err == nil || r.code != 1 || r.err != "scp: "+name+": No such file or directory\n" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for what, args := range map[string][]string{
		"a directory without -r": {"gate:/main", dir}, "all zones": {"-r", "gate:/", dir}, "an upload": {filepath.Join(dir, "-q"), "gate:/main/x"},
		"a pattern": {"gate:/main/*", dir}, "a command": {"gate:/main/x;id", dir},
	} {
		if r := scp("bob", args...); r.code == 0 || r.err == "" {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// TestScpClients: what a client of the old protocol may say, and what comes of it.
func TestScpClients(t *testing.T) {
	g, hello, _ := world(t, gwtest.Options{})
	second := gwtest.NewObject("second", "package")
	g.Publish([]gwtest.Object{second}, publicSource)
	c := dial(t, g, "bob")
	one, two := "/main/"+hello.Name, "/main/"+second.Name
	header := func(o gwtest.Object) string {
		return fmt.Sprintf("C0644 %d %s\n", len(o.Content), filepath.Base(o.Name))
	}
	whole := func(o gwtest.Object) string { return header(o) + string(o.Content) + "\x00" }
	for name, s := range map[string]struct {
		command, input, want string
		code                 int
	}{
		"all is well":             {"scp -f " + one, "\x00\x00\x00", whole(hello), 0},
		"two files":               {"scp -f " + one + " " + two, strings.Repeat("\x00", 5), whole(hello) + whole(second), 0},
		"after --":                {"scp -v -q -f -- " + one, "\x00\x00\x00", whole(hello), 0},
		"never begins":            {"scp -f " + one, "", "", 1},
		"begins with trouble":     {"scp -f " + one, "\x02no\n", "", 1},
		"leaves before the bytes": {"scp -f " + one, "\x00", header(hello), 1},
		"leaves after them":       {"scp -f " + one, "\x00\x00", whole(hello), 1},
		"skips the first":         {"scp -f " + one + " " + two, "\x00\x01no room\n\x00\x00", header(hello) + whole(second), 1},
		"breaks off":              {"scp -f " + one + " " + two, "\x00\x02no room\n", header(hello), 1},
		"talks without end":       {"scp -f " + one + " " + two, "\x00\x01" + strings.Repeat("x", 4096), header(hello), 1},
		"talks nonsense":          {"scp -f " + one, "\x00C0644 1 x\n", header(hello), 1},
		"could not keep it":       {"scp -f " + one + " " + two, "\x00\x00\x01disk full\n\x00\x00", whole(hello) + whole(second), 1},
		"one is missing":          {"scp -f /main/x " + two, strings.Repeat("\x00", 3), "\x01scp: /main/x: No such file or directory\n" + whole(second), 1},
	} {
		if r := runWith(t, c, s.command, s.input); r.out != s.want || r.code != s.code || r.err != "" {
			t.Errorf("%s: %+v\nwant %d %q", name, r, s.code, s.want)
		}
	}
}

// TestHalfProof: a client that only asks whether a key would do, and leaves, is nobody, and no failure either.
func TestHalfProof(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	cfg := clientConfig(g, "alice")
	cfg.Auth = []ssh.AuthMethod{ssh.PublicKeys(unwilling{gwtest.SSHSigner("alice")})}
	if c, err := ssh.Dial("tcp", g.SSHAddr, cfg); err == nil {
		c.Close()
		t.Fatal("the door opened")
	}
	if n := len(g.Refusals()); n != 0 {
		t.Errorf("refusals: %v", g.Refusals())
	}
}
