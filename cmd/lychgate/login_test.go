package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest/oidcprovider"
)

// signInWorld is a gate with an ssh door, beside a real OpenID provider, and a home directory to sign in from.
type signInWorld struct {
	*world
	provider *oidcprovider.Provider
	home     string
}

func newSignInWorld(t *testing.T) *signInWorld {
	t.Helper()
	s := &signInWorld{provider: oidcprovider.Start(t), home: t.TempDir()}
	door := freeAddress(t)
	s.world = newWorld(t, raceBinary(t), func(_, text string) string {
		return strings.Replace(text, `listen: ""`, fmt.Sprintf("listen: %q", door), 1) + fmt.Sprintf(`oidc:
  - name: sso
    issuer: %q
    people: {client_id: %s, forge: git.example.com}
    ci:
      - {profile: generic, match: [sub=job-7], principal: {forge: git.example.com, id: ci}}
`, s.provider.Issuer, oidcprovider.ClientID)
	})
	s.useSSH(t, door, "alice")
	for _, name := range []string{"GITLAB_CI", "GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "LYCHGATE_ID_TOKEN", "DISPLAY", "WAYLAND_DISPLAY", "NETRC", "LYCHGATE_CONFIG", "LYCHGATE_TOKEN", "LYCHGATE_TOKEN_FILE", "SSH_AUTH_SOCK"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", s.home)
	t.Setenv("LYCHGATE_GATE", s.q.url())
	t.Setenv("LYCHGATE_CA", s.q.path("ca.pem"))
	return s
}

// useSSH gives a user's key and the gate's host key to the real ssh, by a configuration file as people have one.
func (s *signInWorld) useSSH(t *testing.T, door, user string) {
	t.Helper()
	keys, err := hostKeys(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(door)
	if err != nil {
		t.Fatal(err)
	}
	s.write("known_hosts", sshd.KnownHosts(door, keys))
	// A configuration for daily work: what would spoil the one command is in it.
	s.write("ssh_config", fmt.Sprintf("Host *\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n"+
		"  RemoteCommand tmux\n  RequestTTY force\n  RemoteForward 1%s localhost:1\n  ExitOnForwardFailure yes\nHost gate\n  HostName 127.0.0.1\n  Port %s\n",
		s.q.path(user+".key"), s.q.path("known_hosts"), port[1:], port))
	wrapper := s.q.path("ssh-of-" + user)
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\nexec "+tool(t, "ssh")+" -F "+s.q.path("ssh_config")+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LYCHGATE_SSH", wrapper)
}

// login runs lychgate login in this process. person, if there is one, is given what the command says, again and again, until it has
// done its part.
func (s *signInWorld) login(t *testing.T, person func(said string) (done bool), args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e syncBuffer
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code = run(t.Context(), append([]string{"login"}, args...), strings.NewReader(""), &o, &e)
	}()
	deadline := time.After(patience)
	for {
		if person != nil && person(e.String()) {
			person = nil
		}
		select {
		case <-ended:
			return code, o.String(), e.String()
		case <-deadline:
			t.Fatalf("%v: still waiting; it said\n%s", args, e.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// inBrowser signs alice in at the address that the command prints.
func (s *signInWorld) inBrowser(t *testing.T) func(string) bool {
	address := regexp.MustCompile(`(?m)^  (http://\S+/auth\?\S+)$`)
	return func(said string) bool {
		m := address.FindStringSubmatch(said)
		if m != nil {
			s.provider.SignIn(t, m[1])
		}
		return m != nil
	}
}

// onDevice confirms alice's code.
func (s *signInWorld) onDevice(t *testing.T) func(string) bool {
	address := regexp.MustCompile(`(?m)^  (http://\S+/device\?\S+)$`)
	return func(said string) bool {
		m := address.FindStringSubmatch(said)
		if m != nil {
			s.provider.Approve(t, m[1])
		}
		return m != nil
	}
}

// expect demands an exit code, and words in what was printed.
func expect(t *testing.T, want int, words ...string) func(code int, out, errOut string) {
	t.Helper()
	return func(code int, out, errOut string) {
		t.Helper()
		if code != want {
			t.Fatalf("exit code %d, want %d\n%s%s", code, want, out, errOut)
		}
		for _, w := range words {
			if !strings.Contains(out+errOut, w) {
				t.Errorf("it does not say %q:\n%s%s", w, out, errOut)
			}
		}
		if strings.Contains(out+errOut, "lyg_") && !slices.Contains(words, "lyg_") {
			t.Errorf("it shows a token:\n%s%s", out, errOut)
		}
	}
}

// TestLoginEndToEnd signs in at a gate that serves, in every way, with OpenSSH and a real OpenID provider.
func TestLoginEndToEnd(t *testing.T) {
	s := newSignInWorld(t)
	p := s.start()
	defer p.stop()
	alice := "You are alice (git.example.com/alice) at " + s.q.url()

	// The gate does not know yet who that is at the git server: it says what to do.
	code, out, errOut := s.login(t, s.onDevice(t), "--oidc")
	expect(t, exitFailure, "401", "subject u-alice of "+s.provider.Issuer, "--oidc --link", "--ssh")(code, out, errOut)
	if _, err := os.Stat(filepath.Join(s.home, ".netrc")); err == nil {
		t.Error("there is a .netrc after a refusal")
	}
	// Nothing to link with: nobody is sent to a browser.
	code, out, errOut = s.login(t, nil, "--oidc", "--device", "--link")
	expect(t, exitUsage, "--link needs a token", "no token for 127.0.0.1")(code, out, errOut)

	// Without a flag: by ssh, since the gate has a door for it.
	code, out, errOut = s.login(t, nil, "--note", `it's the "laptop"; $HOME`)
	expect(t, exitOK, "signing in with ssh at 127.0.0.1:", alice)(code, out, errOut)
	code, out, errOut = runHere(t, "token", "list")
	expect(t, exitOK, `it's the "laptop"; $HOME`)(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--ssh", "gate") // a Host of ssh_config
	expect(t, exitOK, "signing in with ssh at gate", alice)(code, out, errOut)
	code, out, errOut = runHere(t, "token", "list")
	expect(t, exitOK, "lychgate login, host:")(code, out, errOut)
	if strings.Contains(out, "laptop") {
		t.Errorf("the token that was replaced lives on:\n%s", out)
	}

	// Linked once, single sign-on is enough from then on.
	code, out, errOut = s.login(t, s.inBrowser(t), "--oidc", "--browser", "--link")
	expect(t, exitOK, "subject u-alice of", "is linked to you", alice)(code, out, errOut)
	code, out, errOut = s.login(t, s.onDevice(t), "--oidc", "--device", "--issuer", "sso")
	expect(t, exitOK, "signing in with single sign-on at sso", alice)(code, out, errOut)
	code, out, errOut = runHere(t, "whoami")
	expect(t, exitOK, "alice (git.example.com/alice, human)")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--issuer", "other")
	expect(t, exitUsage, "knows no issuer other: it knows sso")(code, out, errOut)

	s.loginAsJob(t)
	s.loginWithKeys(t)

	code, out, errOut = runHere(t, "logout")
	expect(t, exitOK, "is revoked")(code, out, errOut)
	code, out, errOut = runHere(t, "whoami")
	expect(t, exitUsage, "no token for 127.0.0.1")(code, out, errOut)
}

// loginWithKeys signs in over https, with keys that a real ssh-agent holds and with one in a file.
func (s *signInWorld) loginWithKeys(t *testing.T) {
	t.Helper()
	stranger := filepath.Join(s.home, "stranger")
	if out, err := exec.CommandContext(t.Context(), tool(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", stranger).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	alice := s.q.path("alice.key")
	t.Setenv("SSH_AUTH_SOCK", runAgent(t, stranger, alice))
	code, out, errOut := s.login(t, nil)
	expect(t, exitOK, "signing in with the SSH keys of ssh-agent", "You are alice (git.example.com/alice) at "+s.q.url())(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--key", alice, "--print")
	expect(t, exitOK, "signing in with the SSH key "+alice, "lyg_")(code, out, errOut)

	t.Setenv("SSH_AUTH_SOCK", runAgent(t, stranger))
	code, out, errOut = s.login(t, nil)
	expect(t, exitOK, "the gate takes none of these SSH keys", "signing in with ssh at 127.0.0.1:", "You are alice")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--ssh-agent")
	expect(t, exitFailure, "the gate takes none of these SSH keys: SHA256:", "the gate refused it")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--ssh-agent", "--ssh")
	expect(t, exitUsage, "are different ways")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--gate", strings.Replace(s.q.url(), "127.0.0.1", "localhost", 1), "--key", alice)
	expect(t, exitFailure, "the gate calls itself "+s.q.url())(code, out, errOut)
	t.Setenv("SSH_AUTH_SOCK", "")
	code, out, errOut = s.login(t, nil, "--ssh-agent")
	expect(t, exitFailure, "ssh-agent does not run")(code, out, errOut)
}

// runAgent starts an ssh-agent that holds keys, and returns its socket.
func runAgent(t *testing.T, keys ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(tool(t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	add := exec.CommandContext(t.Context(), tool(t, "ssh-add"), append([]string{"-q"}, keys...)...)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v %s", err, out)
	}
	return socket
}

// loginAsJob signs CI jobs in.
func (s *signInWorld) loginAsJob(t *testing.T) {
	t.Helper()
	netrc := filepath.Join(s.home, "job.netrc")
	idToken := func(audience, subject string) string {
		return s.provider.Sign(t, nil, map[string]any{"aud": audience, "sub": subject, "jti": rand.Text()})
	}
	t.Setenv("GITLAB_CI", "true")
	t.Setenv("CI_JOB_URL", "https://git.example.com/team/build/-/jobs/7")
	code, out, errOut := s.login(t, nil, "--netrc", netrc)
	expect(t, exitFailure, "id_tokens:\n  LYCHGATE_ID_TOKEN:\n    aud: "+s.q.url())(code, out, errOut)

	t.Setenv("LYCHGATE_ID_TOKEN", idToken(s.q.url(), "job-7"))
	code, out, errOut = s.login(t, nil, "--netrc", netrc)
	expect(t, exitOK, "signing in with the ID token of LYCHGATE_ID_TOKEN", "(git.example.com/ci)")(code, out, errOut)
	code, out, errOut = runHere(t, "token", "list", "--netrc", netrc)
	expect(t, exitOK, "https://git.example.com/team/build/-/jobs/7")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--netrc", netrc)
	expect(t, exitFailure, "401", "it can be used once")(code, out, errOut)

	for _, bad := range []string{idToken("https://other.example.com", "job-7"), idToken(s.q.url(), "job-8")} {
		t.Setenv("LYCHGATE_ID_TOKEN", bad)
		code, out, errOut = s.login(t, nil, "--ci", "--print")
		expect(t, exitFailure, "401", "Its audience must be "+s.q.url())(code, out, errOut)
	}
	file := filepath.Join(s.home, "id-token")
	if err := os.WriteFile(file, []byte(idToken(s.q.url(), "job-7")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut = s.login(t, nil, "--id-token-file", file, "--print")
	expect(t, exitOK, "the ID token of the file ", "lyg_")(code, out, errOut)
	if !regexp.MustCompile(`^lyg_\S+\n$`).MatchString(out) {
		t.Errorf("--print printed %q", out)
	}
	t.Setenv("GITLAB_CI", "")
	t.Setenv("LYCHGATE_ID_TOKEN", "")
}

// TestLoginWrongGate: a gate that calls itself another is signed in at by nothing.
func TestLoginWrongGate(t *testing.T) {
	s := newSignInWorld(t)
	p := s.start()
	defer p.stop()
	other := strings.Replace(s.q.url(), "127.0.0.1", "localhost", 1)
	for _, way := range []string{"--ssh", "--oidc", "--ci"} {
		code, out, errOut := s.login(t, nil, "--gate", other, way)
		expect(t, exitFailure, "the gate calls itself "+s.q.url()+" and you call it "+other, "--audience "+s.q.url())(code, out, errOut)
	}
	// Its door is on another host than the one that was named: a person must say that this is meant.
	code, out, errOut := s.login(t, nil, "--gate", other, "--audience", s.q.url(), "--ssh")
	expect(t, exitFailure, "an ssh door on another host", "--ssh 127.0.0.1:")(code, out, errOut)
	code, out, errOut = s.login(t, nil, "--gate", other, "--ssh", "gate")
	expect(t, exitOK, "You are alice", "machine localhost")(code, out, errOut)
}
