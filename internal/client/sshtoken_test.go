package client

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/gateway"
)

func TestParseSSHDoor(t *testing.T) {
	for text, want := range map[string]SSHDoor{
		"gate.example.com":             {Host: "gate.example.com"},
		"alice@gate.example.com":       {User: "alice", Host: "gate.example.com"},
		"alice@gate.example.com:2222":  {User: "alice", Host: "gate.example.com", Port: 2222},
		"gate:22":                      {Host: "gate", Port: 22},
		"[::1]:2222":                   {Host: "::1", Port: 2222},
		"::1":                          {Host: "::1"},
		"[::1]":                        {Host: "::1"},
		"my-alias_1":                   {Host: "my-alias_1"},
		"-oProxyCommand=evil":          {},
		"alice@-oProxyCommand=evil":    {},
		"-l@gate":                      {},
		"@gate":                        {},
		"a@b@gate":                     {},
		"gate:0":                       {},
		"gate:65536":                   {},
		"gate:-1":                      {},
		"gate:+1":                      {},
		"gate:":                        {},
		"":                             {},
		"gate;reboot":                  {},
		"gate`reboot`":                 {},
		"$(reboot)":                    {},
		"gate host":                    {},
		"gate\nhost":                   {},
		"ssh://gate":                   {},
		"gäte":                         {},
		"%h":                           {},
		"[:":                           {},
		":":                            {},
		"[":                            {},
		"[]":                           {},
		"[gate":                        {},
		"gate]":                        {},
		"[fe80::1%eth0]:22":            {},
		"1:2:3":                        {},
		strings.Repeat("a", 256):       {},
		"alice;x@gate.example.com":     {},
		"alice@gate.example.com:2222x": {},
	} {
		want.Program = "ssh"
		got, err := ParseSSHDoor(text)
		if want.Host == "" {
			if err == nil {
				t.Errorf("%q was taken: %+v", text, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
			continue
		}
		if again, err := ParseSSHDoor(got.String()); err != nil || again != got {
			t.Errorf("%q prints as %q", text, got)
		}
	}
}

// FuzzSSHDoor: whatever the text, ssh takes no word of ours for an option, and a door prints as what it was read from.
func FuzzSSHDoor(f *testing.F) {
	for _, s := range []string{"alice@gate:22", "-oProxyCommand=x", "[::1]:22", "a@-b", ":", "@"} {
		f.Add(s, "note's")
	}
	f.Fuzz(func(t *testing.T, text, note string) {
		d, err := ParseSSHDoor(text)
		if err != nil {
			return
		}
		args, err := d.args(gateway.TokenRequest{Note: note, Seconds: 1})
		if err != nil {
			return
		}
		end := slices.Index(args, "--")
		if end < 0 || strings.HasPrefix(args[end+1], "-") || strings.ContainsAny(args[end+1], " \t\n;$`'\"\\&|<>()%") {
			t.Errorf("%q: %q", text, args)
		}
		if again, err := ParseSSHDoor(d.String()); err != nil || again != d {
			t.Errorf("%q prints as %q", text, d)
		}
	})
}

// fakeSSH writes a program that notes its arguments, a line each, and does what script says.
func fakeSSH(t *testing.T, script string) (program string, args func() []string) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "ssh")
	text := "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\"; done >\"$0.args\"\n" + script
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, func() []string { return strings.Split(strings.TrimSuffix(readFile(t, program+".args"), "\n"), "\n") }
}

// TestSSHToken: ssh is run so that it takes nothing for an option, and what the gate says is read strictly.
func TestSSHToken(t *testing.T) {
	reply, err := json.Marshal(goodReply())
	if err != nil {
		t.Fatal(err)
	}
	program, args := fakeSSH(t, "echo 'touch your key' >&2\ncat <<'EOF'\n"+string(reply)+"\nEOF\n")
	door, err := ParseSSHDoor("alice@gate.example.com:2222")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	door.Program, door.Stderr = program, &said
	got, err := door.Token(t.Context(), gateway.TokenRequest{Seconds: 3600, Note: "it's $HOME; a \"laptop\""})
	if err != nil || got != goodReply() || said.String() != "touch your key\n" {
		t.Fatalf("%+v, %q, %v", got, said.String(), err)
	}
	want := []string{"-p", "2222", "--", "alice@gate.example.com", "token", "--json", "--ttl", "3600s", "--note", `'it'\''s $HOME; a "laptop"'`}
	if n := slices.Index(args(), "-p"); n < 0 || !slices.Equal(args()[n:], want) {
		t.Errorf("%q, want %q", args(), want)
	}
	// ssh joins the words of the command with blanks; a shell must find the note whole in that.
	command := strings.Join(want[4:], " ")
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `f() { printf %s "$6"; }; f `+command).Output()
	if err != nil || string(out) != "it's $HOME; a \"laptop\"" {
		t.Errorf("a shell reads the note as %q, %v", out, err)
	}
}

// TestSSHTokenFails: what can go wrong is said in ssh's own words, and nothing but a token is taken for one.
func TestSSHTokenFails(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"no connection", "echo 'ssh: connect to host gate port 22: Connection refused' >&2; exit 255", "could not connect or sign in: ssh: connect to host gate port 22: Connection refused"},
		{"the gate refuses", "echo 'there is no such verb' >&2; exit 2", "exit status 2: there is no such verb"},
		{"a terminal's tricks", "printf '\\033[2J evil' >&2; exit 1", "exit status 1: [2J evil"},
		{"no answer", "exit 0", "the answer is no gate's"},
		{"a greeting", "echo Welcome to git", "the answer is no gate's"},
		{"more than an answer", `echo '{"token":"lyg_x","id":"tok-1","user":"f/1","name":"a","expires":"2030-01-01T00:00:00Z"}{}'`, "the answer is no gate's"},
		{"a member that we do not know", `echo '{"token":"lyg_x","id":"tok-1","user":"f/1","name":"a","expires":"2030-01-01T00:00:00Z","x":1}'`, "the answer is no gate's"},
		{"twice the token", `echo '{"token":"lyg_x","token":"lyg_y","id":"tok-1","user":"f/1","name":"a","expires":"2030-01-01T00:00:00Z"}'`, "the answer is no gate's"},
		{"no token", `echo '{"token":"hunter2","id":"tok-1","user":"f/1","name":"a","expires":"2030-01-01T00:00:00Z"}'`, "holds no token"},
		{"an answer without end", "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa || exit 1; done", "longer than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program, _ := fakeSSH(t, tt.script)
			_, err := SSHDoor{Program: program, Host: "gate"}.Token(t.Context(), gateway.TokenRequest{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := (SSHDoor{Program: filepath.Join(t.TempDir(), "none"), Host: "gate"}).Token(t.Context(), gateway.TokenRequest{}); err == nil || !strings.Contains(err.Error(), "run ssh") {
		t.Errorf("without ssh: %v", err)
	}
	for _, note := range []string{"two\nlines", "b\u00fcro", "\x1b"} {
		if _, err := (SSHDoor{Program: "ssh", Host: "gate"}).Token(t.Context(), gateway.TokenRequest{Note: note}); err == nil || !strings.Contains(err.Error(), "one line of ASCII") {
			t.Errorf("%q: %v", note, err)
		}
	}
}
