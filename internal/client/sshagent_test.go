package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// agentGate is what the gates of these tests call themselves.
const agentGate = "https://gate.example.com"

// realAgent is an ssh-agent of OpenSSH.
type realAgent struct {
	t      *testing.T
	socket string
}

func newRealAgent(t *testing.T) *realAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	a := &realAgent{t, filepath.Join(dir, "s")}
	cmd := exec.Command("ssh-agent", "-D", "-a", a.socket)
	cmd.Env = append(os.Environ(), "SSH_ASKPASS=/bin/false", "SSH_ASKPASS_REQUIRE=force")
	if err := cmd.Start(); err != nil {
		t.Fatalf("start ssh-agent (Debian's openssh-client has it): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(a.socket); err == nil {
			return a
		}
		if time.Now().After(end) {
			t.Fatal("ssh-agent does not listen")
		}
	}
}

// add runs ssh-add.
func (a *realAgent) add(args ...string) {
	a.t.Helper()
	cmd := exec.Command("ssh-add", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+a.socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("ssh-add %v: %v\n%s", args, err, out)
	}
}

func (a *realAgent) keys(key string) *client.SSHKeys {
	return &client.SSHKeys{SignerOptions: client.SignerOptions{Key: key, AgentSocket: a.socket}, Audience: agentGate}
}

// agentKeygen runs ssh-keygen.
func agentKeygen(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
}

func agentRead(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// agentWho signs in and returns who one is then.
func agentWho(t *testing.T, g *gwtest.Gate, s client.TokenSource) string {
	t.Helper()
	reply, err := s.Token(t.Context(), g.WithToken("").Client(), gateway.TokenRequest{Note: "test"})
	if err != nil {
		t.Error(err)
		return ""
	}
	me, err := g.WithToken(reply.Token).Client().Whoami(t.Context())
	if err != nil {
		t.Error(err)
	}
	return me.Name
}

// agentFails signs in, which must fail in those words.
func agentFails(t *testing.T, g *gwtest.Gate, s client.TokenSource, words ...string) error {
	t.Helper()
	_, err := s.Token(t.Context(), g.WithToken("").Client(), gateway.TokenRequest{})
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v, want %q", err, w)
		}
	}
	return err
}

// TestSSHAgent: the keys that a real ssh-agent holds sign in one after another, and the one that was taken comes first from then on.
func TestSSHAgent(t *testing.T) {
	g, a := gwtest.New(t, gwtest.Options{SSH: true}), newRealAgent(t)
	if err := agentFails(t, g, a.keys(""), "ssh-agent holds no key that a gate would take"); !errors.Is(err, client.ErrNoKey) {
		t.Error(err)
	}
	if client.AgentHasKeys(a.socket) || client.AgentHasKeys("") || client.AgentHasKeys(a.socket+"x") {
		t.Error("an agent without keys has some")
	}
	a.add(g.Key("eve"))
	if err := agentFails(t, g, a.keys(""), "the gate refused it", ssh.FingerprintSHA256(gwtest.SSHSigner("eve").PublicKey())); !errors.Is(err, client.ErrNoKey) {
		t.Error(err)
	}
	a.add("-c", g.Key("bob")) // asks a person, who declines
	a.add(g.Key("alice"))
	before := g.Refusals()[authn.UnknownKey]
	keys := a.keys("")
	for range 3 {
		if who := agentWho(t, g, keys); who != "alice" {
			t.Errorf("signed in as %s", who)
		}
	}
	if n := g.Refusals()[authn.UnknownKey] - before; n != 1 {
		t.Errorf("the key that nobody has was shown %d times", n)
	}
	if !client.AgentHasKeys(a.socket) || keys.String() != "the SSH keys of ssh-agent" {
		t.Error(keys)
	}
	agentFails(t, g, a.keys(ssh.FingerprintSHA256(gwtest.SSHSigner("bob").PublicKey())), "takes none of these SSH keys", "agent")
	pub := g.Path("alice.pub")
	if err := os.WriteFile(pub, ssh.MarshalAuthorizedKey(gwtest.SSHSigner("alice").PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{pub, ssh.FingerprintSHA256(gwtest.SSHSigner("alice").PublicKey())} {
		if who := agentWho(t, g, a.keys(key)); who != "alice" {
			t.Errorf("%s: signed in as %s", key, who)
		}
	}
	agentFails(t, g, a.keys(ssh.FingerprintSHA256(gwtest.SSHSigner("carol").PublicKey())), "ssh-agent does not hold the key SHA256:", "ssh-add it")
	agentFails(t, g, &client.SSHKeys{Audience: agentGate}, "ssh-agent does not run")
}

// TestSSHAgentKinds: every kind of key that OpenSSH makes and a gate takes, and certificates of OpenSSH, from the agent and from files.
func TestSSHAgentKinds(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	forge := gwtest.DefaultForge
	for kind, user := range map[string]string{"rsa": "alice", "ecdsa": "bob", "ed25519": "carol"} {
		agentKeygen(t, "-t", kind, "-b", map[string]string{"rsa": "2048", "ecdsa": "256", "ed25519": "256"}[kind], "-N", "", "-f", file(kind))
		forge = strings.Replace(forge, "name: "+user+", kind:", fmt.Sprintf("name: %s, keys: [%q], kind :", user, agentRead(t, file(kind+".pub"))), 1)
	}
	agentKeygen(t, "-t", "ed25519", "-N", "", "-f", file("ca"))
	agentKeygen(t, "-t", "rsa", "-b", "2048", "-N", "", "-f", file("certified"))
	agentKeygen(t, "-s", file("ca"), "-I", "test", "-n", "bob", "-V", "-1m:+1h", file("certified.pub"))
	authority, _, _, _, err := ssh.ParseAuthorizedKey([]byte(agentRead(t, file("ca.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	g := gwtest.New(t, gwtest.Options{SSH: true, Forge: forge, SSHAuthority: authority})
	for name, user := range map[string]string{"rsa": "alice", "ecdsa": "bob", "ed25519": "carol", "certified": "bob"} {
		a := newRealAgent(t)
		a.add(file(name)) // with the certificate beside it, if there is one
		if who := agentWho(t, g, a.keys("")); who != user {
			t.Errorf("%s in the agent: signed in as %s", name, who)
		}
		if who := agentWho(t, g, a.keys(file(name))); who != user {
			t.Errorf("%s in a file: signed in as %s", name, who)
		}
		if who := agentWho(t, g, a.keys(file(name+".pub"))); who != user {
			t.Errorf("%s by its public key: signed in as %s", name, who)
		}
	}
	locked := agentLocked(t, "open")
	asked := 0
	keys := &client.SSHKeys{Audience: agentGate, SignerOptions: client.SignerOptions{Key: locked, Passphrase: func(string) ([]byte, error) {
		asked++
		return []byte("open"), nil
	}}}
	agentFails(t, g, keys, "takes none of these SSH keys")
	if asked != 1 {
		t.Errorf("asked for the passphrase %d times", asked)
	}
	agentFails(t, g, &client.SSHKeys{Audience: agentGate, SignerOptions: client.SignerOptions{Key: file("none")}}, "does not exist")
}

// agentLocked writes a key with a passphrase to a file.
func agentLocked(t *testing.T, passphrase string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "locked")
	if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestSSHAgentBound: of many keys six are shown, and the rest is told of.
func TestSSHAgentBound(t *testing.T) {
	g, a := gwtest.New(t, gwtest.Options{SSH: true}), newRealAgent(t)
	for i := range 8 {
		a.add(g.Key(fmt.Sprintf("eve-%d", i)))
	}
	agentFails(t, g, a.keys(""), "2 more were not tried")
	if n := g.Refusals()[authn.UnknownKey]; n != 6 {
		t.Errorf("%d keys were shown", n)
	}
}

// TestSSHAgentWrongGate: a gate that calls itself another is shown no signature.
func TestSSHAgentWrongGate(t *testing.T) {
	g, a := gwtest.New(t, gwtest.Options{SSH: true}), newRealAgent(t)
	a.add(g.Key("alice"))
	keys := a.keys("")
	keys.Audience = ""
	agentFails(t, g, keys, "the gate calls itself "+agentGate)
	if n := len(g.Refusals()); n != 0 {
		t.Errorf("%v", g.Refusals())
	}
}

// TestSSHAgentRenews: a token that is revoked is replaced, by a real agent and a real gate, and none is left in the end.
func TestSSHAgentRenews(t *testing.T) {
	g, a := gwtest.New(t, gwtest.Options{SSH: true}), newRealAgent(t)
	a.add(g.Key("alice"))
	r, err := client.NewRenewer(client.RenewerConfig{Client: g.WithToken("").Client(), Source: a.keys("")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var last authn.Secret
	for range 2 {
		token, err := r.Token(t.Context())
		if err != nil || token.Reveal() == last.Reveal() {
			t.Fatal(err)
		}
		user := g.WithToken(token.Reveal())
		if me, err := user.Client().Whoami(t.Context()); err != nil || me.Name != "alice" || r.Status().Name != "alice" {
			t.Errorf("%+v, %v", me, err)
		}
		g.Revoke("alice")
		if res := user.Get("/v1/whoami"); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a revoked token: %d", res.StatusCode)
		}
		r.Refused(token)
		last = token
		for r.Status().Renewing || r.Status().Err != nil { // it waits a little when the gate refuses what it has just made
			time.Sleep(5 * time.Millisecond)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := r.End(t.Context()); err != nil {
		t.Error(err)
	}
	if tokens, err := g.Tokens.List(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("%d tokens are left, %v", len(tokens), err)
	}
}

// TestSSHKeygenProof: what `ssh-keygen -Y sign` makes of the message is a proof: no program of ours is needed to sign in.
func TestSSHKeygenProof(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	nobody := g.WithToken("")
	var challenge gateway.SSHChallenge
	if err := json.Unmarshal(nobody.Do(http.MethodPost, "/v1/ssh/challenge", nil).Bytes, &challenge); err != nil {
		t.Fatal(err)
	}
	message := g.Path("message")
	if err := os.WriteFile(message, gateway.SignInMessage(agentGate, challenge.Challenge), 0o600); err != nil {
		t.Fatal(err)
	}
	agentKeygen(t, "-Y", "sign", "-n", gateway.SignInNamespace, "-f", g.Key("alice"), message)
	blob, err := provenance.UnarmorSSH([]byte(agentRead(t, message+".sig") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(gateway.TokenRequest{SSH: &gateway.SSHProof{Challenge: challenge.Challenge, Signature: base64.StdEncoding.EncodeToString(blob)}})
	if err != nil {
		t.Fatal(err)
	}
	if res := nobody.Do(http.MethodPost, "/v1/token", body); res.StatusCode != http.StatusCreated || !strings.Contains(string(res.Bytes), `"name":"alice"`) {
		t.Errorf("%d %s", res.StatusCode, res.Bytes)
	}
}
