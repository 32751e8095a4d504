package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

const gateHost = "gate.example.com"

// same stands for a file that is left as it was.
const same = "\x00same"

// netrcShapes are files as people and programs write them, what login makes of each, what logout makes of each, and whether
// Python can read it after login.
var netrcShapes = []struct {
	before, set, removed string
	python               bool
}{
	{"", "machine gate.example.com login token password NEW\n", same, true},
	{"\n", "\nmachine gate.example.com login token password NEW\n", same, true},
	{"# a comment\n", "# a comment\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine other login a password b\n", "machine other login a password b\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine other login a password b", "machine other login a password b\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine gate.example.com login token password old\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine gate.example.com login token password old", "machine gate.example.com login token password NEW", "", true},
	{"machine gate.example.com\n\tlogin token\n\tpassword old\n", "machine gate.example.com\n\tlogin token\n\tpassword NEW\n", "", true},
	{"machine gate.example.com password old login token\n", "machine gate.example.com password NEW login token\n", "", true},
	{"machine gate.example.com user me password old\n", "machine gate.example.com user token password NEW\n", "", true},
	{"machine gate.example.com login me account acc password old\n", "machine gate.example.com login token account acc password NEW\n", "", true},
	{"machine gate.example.com password old\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine gate.example.com login me\n", "machine gate.example.com password NEW login token\n", "", true},
	{"machine gate.example.com\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine GATE.example.com login token password old\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine GATE.example.com\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine \"gate.example.com\" login \"token\" password \"o ld\"\n", "machine \"gate.example.com\" login token password NEW\n", "", true},
	{"machine gate.example.com login token password \"a\\\"b\"\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine gate.example.com login token password a\\ b\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine gate.example.com login a password b password c\n", "machine gate.example.com login token password NEW password NEW\n", "", true},
	{"machine other login a password b machine gate.example.com login token password old machine last login c password d\n", "machine other login a password b machine gate.example.com login token password NEW machine last login c password d\n", "machine other login a password b machine last login c password d\n", true},
	{"machine other login a password b\nmachine gate.example.com login token password old\nmachine last login c password d\n", "machine other login a password b\nmachine gate.example.com login token password NEW\nmachine last login c password d\n", "machine other login a password b\nmachine last login c password d\n", true},
	{"machine gate.example.com login x password one\nmachine other login a password b\nmachine gate.example.com login y password two\n", "machine gate.example.com login token password NEW\nmachine other login a password b\n", "machine other login a password b\n", true},
	{"machine other login a password b\ndefault login anonymous password me@\n", "machine other login a password b\nmachine gate.example.com login token password NEW\ndefault login anonymous password me@\n", same, true},
	{"machine other login a password b\n  default login anonymous password me@\n", "machine other login a password b\n  machine gate.example.com login token password NEW\ndefault login anonymous password me@\n", same, true},
	{"machine other login a password b default login anonymous password me@\n", "machine other login a password b \nmachine gate.example.com login token password NEW\ndefault login anonymous password me@\n", same, true},
	{"default login anonymous password me@\nmachine gate.example.com login token password old\n", "machine gate.example.com login token password NEW\ndefault login anonymous password me@\n", "default login anonymous password me@\n", true},
	{"default\nlogin anonymous\n", "machine gate.example.com login token password NEW\ndefault\nlogin anonymous\n", same, true},
	{"machine gate.example.com login x password one\ndefault login d password e\nmachine gate.example.com login y password two\n", "machine gate.example.com login token password NEW\ndefault login d password e\n", "default login d password e\n", true},
	{"# gate\nmachine gate.example.com login token password old # until May\nmachine other login a password b\n", "# gate\nmachine gate.example.com login token password NEW # until May\nmachine other login a password b\n", "# gate\nmachine other login a password b\n", true},
	{"machine gate.example.com # mine\n  login token # who\n  password old\n", "machine gate.example.com # mine\n  login token # who\n  password NEW\n", "", true},
	{"machine gate.example.com\n# who machine gate.example.com\n login token\n password old\n", "machine gate.example.com\n# who machine gate.example.com\n login token\n password NEW\n", "# who machine gate.example.com\n", true},
	{"#machine gate.example.com login token password old\n", "#machine gate.example.com login token password old\nmachine gate.example.com login token password NEW\n", same, false},
	{"# machine gate.example.com login token password old\n", "# machine gate.example.com login token password old\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine other login a password #hash\n", "machine other login a password #hash\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine gate.example.com login a password #hash\n", "machine gate.example.com login token password NEW\n", "", true},
	{"machine other\r\n login a\r\n password b\r\n", "machine other\r\n login a\r\n password b\r\nmachine gate.example.com login token password NEW\r\n", same, true},
	{"machine gate.example.com\r\n login a\r\n password b\r\n", "machine gate.example.com\r\n login token\r\n password NEW\r\n", "", true},
	{"macdef init\ncd /pub\nmachine gate.example.com login x password y\n\nmachine other login a password b\n", "macdef init\ncd /pub\nmachine gate.example.com login x password y\n\nmachine other login a password b\nmachine gate.example.com login token password NEW\n", same, true},
	{"macdef init\ncd /pub\n", "macdef init\ncd /pub\n\nmachine gate.example.com login token password NEW\n", same, true},
	{"macdef init\ncd /pub\n\n", "macdef init\ncd /pub\n\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine other login a password b\nmacdef init\nls\n\nmachine gate.example.com login token password old\n", "machine other login a password b\nmacdef init\nls\n\nmachine gate.example.com login token password NEW\n", "machine other login a password b\nmacdef init\nls\n\n", true},
	{"machine gate.example.com login a password b\nmacdef init\nls\n\n", "machine gate.example.com login token password NEW\nmacdef init\nls\n\n", "macdef init\nls\n\n", true},
	{"machine gate.example.com.evil login a password b\n", "machine gate.example.com.evil login a password b\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine example.com login gate.example.com password machine\n", "machine example.com login gate.example.com password machine\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine other login a password b port 21\n", "machine other login a password b port 21\nmachine gate.example.com login token password NEW\n", same, false},
	{"machine other login a password b\n\n# two words\nmachine last login c password d\n", "machine other login a password b\n\n# two words\nmachine last login c password d\nmachine gate.example.com login token password NEW\n", same, false},
	{"machine other login a password b\n\n# two\nmachine last login c password d\n", "machine other login a password b\n\n# two\nmachine last login c password d\nmachine gate.example.com login token password NEW\n", same, false},
	{"machine other login \"\" password b\n", "machine other login \"\" password b\nmachine gate.example.com login token password NEW\n", same, true},
	{"\tmachine\tgate.example.com\tlogin\ttoken\tpassword\told\t\n", "\tmachine\tgate.example.com\tlogin\ttoken\tpassword\tNEW\t\n", "", true},
	{"machine\n\n gate.example.com\n\n login\n token\n password\n old\n", "machine\n\n gate.example.com\n\n login\n token\n password\n NEW\n", "\n\n", true},
	{"machine other login \"a\"machine gate.example.com login token password old\n", "machine other login \"a\"machine gate.example.com login token password NEW\n", "machine other login \"a\"\n", true},
	{"machine other login \"a\"default login d password e\n", "machine other login \"a\"\nmachine gate.example.com login token password NEW\ndefault login d password e\n", same, true},
	{"\ufeffmachine other login a password b\n", "\ufeffmachine other login a password b\nmachine gate.example.com login token password NEW\n", same, false},
	{"machine other login ä password €\n", "machine other login ä password €\nmachine gate.example.com login token password NEW\n", same, true},
	{"machine gate.example.com login \"two\nlines\" password old\nmachine other login a password b\n", "machine gate.example.com login token password NEW\nmachine other login a password b\n", "\nmachine other login a password b\n", true},
	{"password stray login stray\nmachine gate.example.com login token password old\n", "password stray login stray\nmachine gate.example.com login token password NEW\n", "password stray login stray\n", false},
	{"machine a login b password c\rmachine gate.example.com login token password old\r", "machine a login b password c\rmachine gate.example.com login token password NEW\r", "machine a login b password c\r", true},
}

// TestNetrcShapes: one entry is changed, and no other byte.
func TestNetrcShapes(t *testing.T) {
	for _, c := range netrcShapes {
		t.Run(fmt.Sprintf("%.60q", c.before), func(t *testing.T) {
			n := writeNetrc(t, c.before)
			if _, err := n.Set(t.Context(), "Gate.example.com", NetrcLogin{"token", authn.NewSecret("NEW")}); err != nil {
				t.Fatal(err)
			}
			if got := readFile(t, n.path); got != c.set {
				t.Errorf("set: %q, want %q", got, c.set)
			}
			if got, ok, err := n.Lookup(gateHost); err != nil || !ok || got.Login != "token" || got.Password.Reveal() != "NEW" {
				t.Errorf("lookup after set: %v, %v, %v", got, ok, err)
			}
			if _, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")}); err != nil || readFile(t, n.path) != c.set {
				t.Errorf("a second set changed it: %q, %v", readFile(t, n.path), err)
			}
			n = writeNetrc(t, c.before)
			if _, err := n.Remove(t.Context(), gateHost); err != nil {
				t.Fatal(err)
			}
			if want := strings.Replace(c.removed, same, c.before, 1); readFile(t, n.path) != want {
				t.Errorf("removed: %q, want %q", readFile(t, n.path), want)
			}
			if _, ok, err := n.Lookup(gateHost); ok || err != nil {
				t.Errorf("lookup after remove: %v, %v", ok, err)
			}
		})
	}
}

func writeNetrc(t testing.TB, text string) *Netrc {
	t.Helper()
	n := &Netrc{path: filepath.Join(t.TempDir(), ".netrc"), wait: sleep}
	if err := os.WriteFile(n.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// askPython prints, for each file, what Python's netrc module makes of it: its entries, or null when it refuses.
const askPython = `
import json, netrc, sys
answers = []
for name in sys.argv[1:]:
    try:
        answers.append({h: list(v) for h, v in netrc.netrc(name).hosts.items()})
    except netrc.NetrcParseError:
        answers.append(None)
print(json.dumps(answers))
`

// python asks the module about files, or skips the test where there is none.
func python(t testing.TB, files ...string) []map[string][]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"-c", askPython}, files...)...).Output()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip("there is no python3")
	}
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	var answers []map[string][]string
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(files) {
		t.Fatalf("%v: %s", err, out)
	}
	return answers
}

// TestNetrcPython: Python reads in each changed file what we wrote and what was there, and refuses exactly those of which we say so.
func TestNetrcPython(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i, c := range netrcShapes {
		for _, text := range []string{c.before, c.set} {
			name := filepath.Join(dir, fmt.Sprint(i, len(files)))
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, name)
		}
	}
	answers := python(t, files...)
	for i, c := range netrcShapes {
		before, after := answers[2*i], answers[2*i+1]
		if (after != nil) != c.python || (pythonFault([]byte(c.set)) == nil) != c.python {
			t.Errorf("%q: python read %v, we say %v", c.set, after, pythonFault([]byte(c.set)))
		}
		if (before != nil) != (pythonFault([]byte(c.before)) == nil) {
			t.Errorf("%q: python read %v, we say %v", c.before, before, pythonFault([]byte(c.before)))
		}
		if after == nil {
			continue
		}
		if got := after[gateHost]; len(got) != 3 || got[0] != "token" || got[2] != "NEW" {
			t.Errorf("%q: python reads %v", c.set, got)
		}
		for host, want := range before {
			if !strings.EqualFold(host, gateHost) && !slices.Equal(after[host], want) {
				t.Errorf("%q: python reads %v of %s, before it was %v", c.set, after[host], host, want)
			}
		}
	}
}

// TestNetrcRefusals: a file that cannot be changed safely is left as it was.
func TestNetrcRefusals(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"machine other login a password \"b", "line 1: the value of password is missing or breaks off: edit the file yourself"},
		{"machine other login a password", "line 1: the value of password"},
		{"machine other login a password b\\", "breaks off"},
		{"\n\nmachine", "line 3: the value of machine"},
		{"macdef", "the value of macdef"},
		{"machine other \"what", "leaves the last word open"},
		{"machine other login a password b\x00\n", "NUL"},
		{strings.Repeat("# long\n", maxNetrc/7+1), "longer than 1048576 bytes"},
	} {
		n := writeNetrc(t, c.text)
		_, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")})
		if err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(c.want, ": edit the file yourself")) || !strings.Contains(err.Error(), n.path) {
			t.Errorf("%.40q: %v, want %q", c.text, err, c.want)
		}
		if readFile(t, n.path) != c.text {
			t.Errorf("%.40q was changed", c.text)
		}
	}
}

// TestNetrcWords: what readers take in different ways is not written.
func TestNetrcWords(t *testing.T) {
	n := writeNetrc(t, "")
	for _, word := range []string{"", "a b", "a\"b", "a\\b", "#a", "a\nmachine b", "a\tb", "ä", "\x7f", "a\rb", "\x00"} {
		for i, args := range [][3]string{{word, "login", "password"}, {"host", word, "password"}, {"host", "login", word}} {
			if _, err := n.Set(t.Context(), args[0], NetrcLogin{args[1], authn.NewSecret(args[2])}); err == nil {
				t.Errorf("%q was written in place %d", word, i)
			} else if word != "" && strings.Contains(err.Error(), "password\"") {
				t.Errorf("the error shows a secret: %v", err)
			}
		}
	}
	if got := readFile(t, n.path); got != "" {
		t.Errorf("the file is now %q", got)
	}
}

func TestOpenNetrc(t *testing.T) {
	env := func(set map[string]string) func(string) string { return func(k string) string { return set[k] } }
	for _, c := range []struct {
		flag string
		env  map[string]string
		want string
	}{
		{"a", map[string]string{"NETRC": "b", "HOME": "/c"}, "a"},
		{"", map[string]string{"NETRC": "b", "HOME": "/c"}, "b"},
		{"", map[string]string{"HOME": "/c"}, "/c/.netrc"},
	} {
		if n, err := OpenNetrc(c.flag, env(c.env)); err != nil || n.Path() != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := OpenNetrc("", env(nil)); err == nil || !strings.Contains(err.Error(), "--netrc") {
		t.Errorf("without a home directory: %v", err)
	}
}

// TestNetrcMode: nobody else can read the file afterwards, and a person is told that they could before.
func TestNetrcMode(t *testing.T) {
	n := &Netrc{path: filepath.Join(t.TempDir(), ".netrc"), wait: sleep}
	set := func() string {
		t.Helper()
		notes, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(n.path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		return strings.Join(notes, "\n")
	}
	if _, ok, err := n.Lookup(gateHost); ok || err != nil {
		t.Errorf("no file: %v, %v", ok, err)
	}
	if note := set(); note != "" {
		t.Errorf("a new file: %q", note)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o602, 0o777} {
		if err := os.Chmod(n.path, mode); err != nil {
			t.Fatal(err)
		}
		if _, _, err := n.Lookup(gateHost); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("lookup at %v: %v", mode, err)
		}
		if _, ok, err := n.Lookup("other"); ok || err != nil {
			t.Errorf("lookup of a host that is not there at %v: %v", mode, err)
		}
		if note := set(); !strings.Contains(note, fmt.Sprintf("mode %04o", mode)) {
			t.Errorf("after %v: %q", mode, note)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(n.path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestNetrcPythonNote: a person is told when BitBake would ignore the file.
func TestNetrcPythonNote(t *testing.T) {
	n := writeNetrc(t, "machine other login a password hunter2 hunter3\n")
	notes, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")})
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "BitBake will ignore") || strings.Contains(notes[0], "hunter") {
		t.Errorf("%q, %v", notes, err)
	}
}

// TestNetrcLink: a symbolic link stays one, and its target gets the entry.
func TestNetrcLink(t *testing.T) {
	n := writeNetrc(t, "")
	target := filepath.Join(t.TempDir(), "dotfiles")
	if err := os.Rename(n.path, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, n.path); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(n.path); err != nil || to != target || !strings.Contains(readFile(t, target), "NEW") {
		t.Errorf("%s, %v: %q", to, err, readFile(t, target))
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")}); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a link to nothing: %v", err)
	}
}

// TestNetrcNoFile: what is no regular file is neither read nor replaced, and does not make us wait.
func TestNetrcNoFile(t *testing.T) {
	pipe := &Netrc{path: filepath.Join(t.TempDir(), "pipe"), wait: sleep}
	if err := syscall.Mkfifo(pipe.path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Netrc{pipe, {path: t.TempDir(), wait: sleep}, {path: "/dev/null", wait: sleep}} {
		if _, _, err := n.Lookup(gateHost); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("lookup in %s: %v", n.path, err)
		}
	}
	if _, err := pipe.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")}); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("set: %v", err)
	}
}

// TestNetrcTogether: logins at many gates at once all end up in the file.
func TestNetrcTogether(t *testing.T) {
	n := writeNetrc(t, "machine other login a password b\n")
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			mine := &Netrc{path: n.path, wait: sleep} // as another process would
			if _, err := mine.Set(context.Background(), fmt.Sprintf("gate%d", i), NetrcLogin{"token", authn.NewSecret("NEW")}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	f, err := parseNetrc([]byte(readFile(t, n.path)))
	if err != nil || len(f.entries) != 21 {
		t.Errorf("%d entries, %v", len(f.entries), err)
	}
	if left, err := filepath.Glob(n.path + "?*"); err != nil || left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// TestNetrcHeld: whoever holds the lock for ever does not make us wait for ever.
func TestNetrcHeld(t *testing.T) {
	n := writeNetrc(t, "")
	held, err := tryLock(n.path + ".lock")
	if err != nil || held == nil {
		t.Fatal(err)
	}
	defer held.Close()
	w := &waits{}
	n.wait = w.wait
	if _, err := n.Set(t.Context(), gateHost, NetrcLogin{"token", authn.NewSecret("NEW")}); err == nil || !strings.Contains(err.Error(), ".lock for 10s") {
		t.Errorf("%v", err)
	}
	if len(w.list) != netrcLockTries {
		t.Errorf("waited %d times", len(w.list))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Remove(ctx, gateHost); !errors.Is(err, context.Canceled) {
		t.Errorf("after a cancel: %v", err)
	}
}

// FuzzNetrc: whatever the file holds, Set then Lookup gives back what was set, all other entries are what they were, and
// Remove takes it out again; or the file is refused.
func FuzzNetrc(f *testing.F) {
	for _, c := range netrcShapes {
		f.Add([]byte(c.before), "token", "NEW")
	}
	f.Add([]byte("machine other login a password \"b"), "#", "a b")
	f.Fuzz(func(t *testing.T, text []byte, login, password string) {
		before, err := parseNetrc(text)
		if err != nil || !isPlainWord(login) || !isPlainWord(password) {
			return
		}
		set, err := before.with(gateHost, login, password)
		if err != nil {
			return
		}
		after, err := parseNetrc(set)
		if err != nil {
			t.Fatal(err)
		}
		found := after.find(gateHost)
		if len(found) != 1 || found[0].host != gateHost || found[0].login != login || found[0].password != password {
			t.Errorf("%q became %q: found %+v", text, set, found)
		}
		if stop := after.defaultEntry(); stop != nil && stop.words[0].start < found[0].words[0].start {
			t.Errorf("%q became %q: readers stop before the entry", text, set)
		}
		if !slices.Equal(before.others(gateHost), after.others(gateHost)) {
			t.Errorf("%q became %q: %v, before %v", text, set, after.others(gateHost), before.others(gateHost))
		}
		if again, err := after.with(gateHost, login, password); err != nil || !bytes.Equal(again, set) {
			t.Errorf("%q, again %q, %v", set, again, err)
		}
		if _, err := after.without(gateHost); err != nil {
			t.Errorf("%q: remove: %v", set, err)
		}
		if pythonFault(text) == nil && pythonFault(set) != nil {
			t.Errorf("%q became %q, which Python refuses: %v", text, set, pythonFault(set))
		}
	})
}
