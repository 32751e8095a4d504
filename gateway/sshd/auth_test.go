package sshd_test

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestMethodsRefused: only a key opens the door. gliderlabs/ssh allows the method "none" when none of its own handlers is set; the
// door's configuration must undo that.
func TestMethodsRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	for name, methods := range map[string][]ssh.AuthMethod{
		"none":     nil,
		"password": {ssh.Password("secret")},
		"token":    {ssh.Password(g.As("alice").Token)},
		"keyboard-interactive": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) {
			return nil, nil
		})},
	} {
		cfg := clientConfig(g, "alice")
		cfg.Auth = methods
		client, err := ssh.Dial("tcp", g.SSHAddr, cfg)
		if err == nil {
			client.Close()
			t.Errorf("%s: the door opened", name)
			continue
		}
		if !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := client(t, "", "ssh", append(openssh(t, g, "alice"), "-o", "PubkeyAuthentication=no", "-v", "gate", "whoami")...); r.code != 255 ||
		!strings.Contains(r.err, "Permission denied (publickey)") {
		t.Errorf("without a key: %+v", r)
	}
}

// TestUnknownKeysRefused: a key that nobody has is refused before anything is signed with it, and leaves one event.
func TestUnknownKeysRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	if c, err := ssh.Dial("tcp", g.SSHAddr, clientConfig(g, "nobody")); err == nil {
		c.Close()
		t.Fatal("the door opened to a key that is nobody's")
	}
	if c, err := ssh.Dial("tcp", g.SSHAddr, clientConfig(g, "mallory")); err == nil {
		c.Close()
		t.Fatal("the door opened to a blocked user")
	}
	var refused []string
	eventually(t, "two refusals are on record", func() bool {
		refused = nil
		for _, e := range g.Events() {
			if e.Kind == "auth.refuse" {
				refused = append(refused, e.Door+" "+strings.Join(e.Decision.Reasons, " "))
			}
		}
		return len(refused) == 2
	})
	if !strings.HasPrefix(refused[0], "ssh unknown_key: SHA256:") || !strings.HasPrefix(refused[1], "ssh ") {
		t.Errorf("%q", refused)
	}
	if n := g.Refusals()[authn.UnknownKey]; n != 1 {
		t.Errorf("%d refusals of unknown keys were counted", n)
	}
}

// TestOfferedKeyIsNotProven is CVE-2024-45337 with a real client: it offers alice's public key, which it cannot sign with, and
// then proves bob's. It is bob.
func TestOfferedKeyIsNotProven(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	alice := g.Path("alice.pub")
	if err := os.WriteFile(alice, ssh.MarshalAuthorizedKey(gwtest.SSHSigner("alice").PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-v", "-i", alice}, openssh(t, g, "bob")...)
	r := client(t, "", "ssh", append(args, "-o", "LogLevel=DEBUG1", "gate", "whoami")...)
	if n := strings.Count(r.err, "Server accepts key"); n != 2 {
		t.Errorf("the door accepted %d keys for signing, want both:\n%s", n, r.err)
	}
	if r.code != 0 || !strings.HasPrefix(r.out, "bob ") {
		t.Errorf("%+v", r)
	}
}

// TestPermissionsAreNotShared: each key has its own, whatever else is offered between its offer and its proof.
func TestPermissionsAreNotShared(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	server, other := net.Pipe()
	defer other.Close()
	cfg := sshd.Handshake(doorOf(t, g, sshd.Limits{}, nil), server)
	alice, bob := gwtest.SSHSigner("alice").PublicKey(), gwtest.SSHSigner("bob").PublicKey()
	ofBob, err1 := cfg.PublicKeyCallback(nil, bob)
	ofAlice, err2 := cfg.PublicKeyCallback(nil, alice)
	if err := errors.Join(err1, err2); err != nil || ofAlice == ofBob {
		t.Fatal(ofAlice, ofBob, err)
	}
	for _, p := range []*ssh.Permissions{ofAlice, ofBob} {
		if _, principal := sshd.Identified(p); principal != "" {
			t.Errorf("an offered key makes its client %q", principal)
		}
	}
	proven, err := cfg.VerifiedPublicKeyCallback(nil, bob, ofBob, ssh.KeyAlgoED25519)
	if err != nil {
		t.Fatal(err)
	}
	credential, principal := sshd.Identified(proven)
	if credential.Key.Fingerprint != ssh.FingerprintSHA256(bob) || principal != (&authn.Principal{Forge: gwtest.Forge, ID: "2", Kind: authn.Human}).Key() {
		t.Errorf("bob's key identifies %q, %q", credential.Key.Fingerprint, principal)
	}
	if p, err := cfg.VerifiedPublicKeyCallback(nil, bob, &ssh.Permissions{}, ssh.KeyAlgoED25519); err == nil {
		t.Errorf("Permissions without an identity made %+v", p)
	}
}

// certified is a signer of a user's key with a certificate that change made.
func certified(t *testing.T, ca ssh.Signer, user string, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	key := gwtest.SSHSigner("certified")
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: user, ValidPrincipals: []string{user},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	change(cert)
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// TestCertificates: who may be in is who is named, from where it is allowed, and under no condition that the door does not know.
func TestCertificates(t *testing.T) {
	ca := gwtest.SSHSigner("authority")
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHAuthority: ca.PublicKey()})
	for name, c := range map[string]struct {
		change func(*ssh.Certificate)
		by     ssh.Signer
		want   bool
	}{
		"plain":               {func(*ssh.Certificate) {}, ca, true},
		"from here":           {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "127.0.0.0/8"} }, ca, true},
		"from elsewhere":      {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"} }, ca, false},
		"from nowhere":        {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": ""} }, ca, false},
		"with a command":      {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "help"} }, ca, false},
		"without principals":  {func(c *ssh.Certificate) { c.ValidPrincipals = nil }, ca, false},
		"of a host":           {func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, ca, false},
		"expired":             {func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }, ca, false},
		"by somebody else":    {func(*ssh.Certificate) {}, gwtest.SSHSigner("other"), false},
		"of a blocked person": {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"mallory"} }, ca, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clientConfig(g, "alice")
			cfg.Auth = []ssh.AuthMethod{ssh.PublicKeys(certified(t, c.by, "alice", c.change))}
			client, err := ssh.Dial("tcp", g.SSHAddr, cfg)
			if err != nil {
				if c.want || !strings.Contains(err.Error(), "unable to authenticate") {
					t.Error(err)
				}
				return
			}
			defer client.Close()
			if r := run(t, client, "whoami"); !c.want || !strings.HasPrefix(r.out, "alice ") {
				t.Errorf("the door opened to %+v", r)
			}
		})
	}
}

// TestRestrictionsAreHandedOn: the library enforces what a certificate says about where it may be used, beside the gate.
func TestRestrictionsAreHandedOn(t *testing.T) {
	ca := gwtest.SSHSigner("authority")
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHAuthority: ca.PublicKey()})
	server, other := net.Pipe()
	defer other.Close()
	cfg := sshd.Handshake(doorOf(t, g, sshd.Limits{}, nil), server)
	// The connection is a pipe, whose address is no address: what the gate makes of it does not matter, so nothing is restricted here.
	signer := certified(t, ca, "alice", func(*ssh.Certificate) {})
	p, err := cfg.PublicKeyCallback(nil, signer.PublicKey())
	if err != nil || len(p.CriticalOptions) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	restricted := signer.PublicKey().(*ssh.Certificate)
	restricted.CriticalOptions = map[string]string{"source-address": "192.0.2.7"}
	if got := sshd.PermissionsOf(restricted).CriticalOptions; len(got) != 1 || got["source-address"] != "192.0.2.7" {
		t.Errorf("%v", got)
	}
}

// TestRevokedUserOnOpenConnection: what was opened as somebody is worth nothing once that somebody is blocked. Nothing is
// answered any more, and the connection ends.
func TestRevokedUserOnOpenConnection(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	hello := g.Publish([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource)
	c := dial(t, g, "bob")
	test := "[ -f /main/" + hello + " ]"
	if r := run(t, c, test); r.code != 0 {
		t.Fatalf("before: %+v", r)
	}
	g.WriteForge(strings.Replace(gwtest.DefaultForge, "name: bob, kind: human", "name: bob, kind: human, blocked: true", 1))
	eventually(t, "bob is nobody", func() bool {
		r := run(t, c, test)
		return r.code != 0
	})
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the connection is still open")
	}
}

// TestObservedHandshakes: metrics tell how handshakes end.
func TestObservedHandshakes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	seen := make(chan sshd.Observation, 10)
	addr, _ := open(t, doorOf(t, g, sshd.Limits{HandshakeTimeout: 100 * time.Millisecond}, func(o sshd.Observation) { seen <- o }))
	outcome := func() string { return (<-seen).Outcome }
	for user, want := range map[string]string{"alice": "accepted", "nobody": "refused", "mallory": "refused"} {
		c, err := ssh.Dial("tcp", addr, clientConfig(g, user))
		if got := outcome(); got != want {
			t.Errorf("%s: %s, %v; want %s", user, got, err, want)
		}
		if err == nil {
			c.Close()
		}
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if got := outcome(); got != "dropped" {
		t.Errorf("a silent client: %s", got)
	}
}

// TestThrottledAddress: who fails too often may still try, but not many at once; a good key from there comes in all the same.
func TestThrottledAddress(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	seen := make(chan sshd.Observation, 1000)
	addr, _ := open(t, doorOf(t, g, sshd.Limits{}, func(o sshd.Observation) { seen <- o }))
	var outcomes []string
	for !slices.Contains(outcomes, "throttled") && len(outcomes) < 300 {
		if c, err := ssh.Dial("tcp", addr, clientConfig(g, "nobody")); err == nil {
			c.Close()
			t.Fatal("the door opened")
		}
		outcomes = append(outcomes, (<-seen).Outcome)
	}
	if !slices.Contains(outcomes, "throttled") || outcomes[0] != "refused" {
		t.Errorf("%d failures: %q", len(outcomes), outcomes)
	}
	c, err := ssh.Dial("tcp", addr, clientConfig(g, "alice"))
	if err != nil {
		t.Fatalf("a good key from the same address: %v", err)
	}
	c.Close()
}
