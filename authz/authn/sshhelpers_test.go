package authn_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// Keys of kinds that nobody makes any more.
const (
	dsaKey     = "ssh-dss AAAAB3NzaC1kc3MAAACBAMy7N2S0TXUcoM50+qd8g6REkfxL+ZhQ3uq7XZqvI6GNDWxiDcbtvM2BrubfuFwi0LsybkcHE+lk+RalJsgmqsLrf79YPc3+SXUo7jz74hxpBTKGV8Goaunh0j5d1buQZJjcQEG8968Img2fn1RjofVtPVix6MHpHKD/Tn2WkIsDAAAAFQCfGxFPKuVXPBWMSqWpBf/My4RErwAAAIAt6DFU/1nQ7T4WQDLbIei+yVMQtzZTIKbHBc+rlVLiJt5pCcNmxbWvMZN/nP4ZLPv+RLBkQ+B4XnvV12qUqSaN6EgJ8qczhbH+rmqmarLgBUPMz0ttT+o00tqX19J5TEZC7cCC49FCUnauKq3Zeq9bieUPEG3PhqVkhUYOjLLsiQAAAIAe7lAem5hLJkq6vex0dwK1nlkSVhlFXPaKW+XAjdbAgms6qh7HUro1QJovugF5pNnEy8gNHB7ymrF0i0YgPWD0g9yJ0AtIUcv2MGCl8INT2JCqKqp+/Y7kIlmlAV29xp64z0CddooLXmeInekBRpI85JPf6qUJzMEY03hJjKStUw=="
	rsa1024Key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7Y/p+xUPUdAEOqIEyXn4l6ouR05WH2u8t/LNe6D5zdDHfJ+rq432g8iKQZg5aw5TO7ws3w9+50sai8n5hElMCIYznorti4z3ABBPIvqnNevoA3GOC0SIkbid5m/PH7KXJ16gAyVrIgj+q5xhBcTfVcewMAbKyxzwrUCtZWlFQ0Q=="
)

// made holds the keys that tests share by name: RSA ones are slow to make.
var made struct {
	sync.Mutex
	keys map[string]ssh.Signer
}

// newKey returns the key called "KIND" or "KIND NUMBER"; the kinds are those below.
func newKey(t testing.TB, name string) ssh.Signer {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if s, ok := made.keys[name]; ok {
		return s
	}
	var (
		key crypto.Signer
		err error
	)
	switch kind, _, _ := strings.Cut(name, " "); kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa1024":
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	default:
		t.Fatalf("no kind of key is called %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	if made.keys == nil {
		made.keys = make(map[string]ssh.Signer)
	}
	made.keys[name] = s
	return s
}

// publicKey is the public half of newKey.
func publicKey(t testing.TB, name string) ssh.PublicKey {
	t.Helper()
	return newKey(t, name).PublicKey()
}

// keyLine is the public half of newKey as a .pub file has it.
func keyLine(t testing.TB, name string) string {
	t.Helper()
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(publicKey(t, name))))
}

// securityKey returns a public key of a security key, on which nobody can sign.
func securityKey(t testing.TB, kind string) ssh.PublicKey {
	t.Helper()
	var blob []byte
	switch kind {
	case ssh.KeyAlgoSKED25519:
		blob = ssh.Marshal(struct{ Type, Key, App string }{kind, strings.Repeat("k", ed25519.PublicKeySize), "ssh:"})
	case ssh.KeyAlgoSKECDSA256:
		plain := newKey(t, "p256 sk").PublicKey().(ssh.CryptoPublicKey).CryptoPublicKey().(*ecdsa.PublicKey)
		point, err := plain.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		blob = ssh.Marshal(struct{ Type, Curve, Key, App string }{kind, "nistp256", string(point), "ssh:"})
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parsePublic(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// here is where the tests' keys are shown from.
var here = netip.MustParseAddr("192.0.2.7")

func shown(key ssh.PublicKey) authn.Credential {
	return authn.Credential{Key: authn.NewSSHKey(key, here)}
}

// folk is a Directory of keys by fingerprint and of names at one forge.
type folk struct {
	mu    sync.Mutex // guards what follows
	keys  map[string]authn.Principal
	names map[string]authn.Principal // "FORGE/NAME"
	err   error                      // of every question
	asked int
}

var errForgeDown = errors.New("the forge is down")

func (d *folk) answer(p authn.Principal, ok bool) (authn.Principal, error) {
	d.asked++
	switch {
	case d.err != nil:
		return authn.Principal{}, d.err
	case !ok:
		return authn.Principal{}, fmt.Errorf("%w here", authn.ErrNobody)
	}
	return p, nil
}

func (d *folk) KeyOwner(_ context.Context, fingerprint string) (authn.Principal, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.keys[fingerprint]
	return d.answer(p, ok)
}

func (d *folk) IdentityOwner(context.Context, string, string, string) (authn.Principal, error) {
	panic("an SSH key is no identity of an identity provider")
}

func (d *folk) ByName(_ context.Context, forge, name string) (authn.Principal, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.names[forge+"/"+name]
	return d.answer(p, ok)
}

// user is what a Directory says of somebody.
func user(id, name string) authn.Principal {
	return authn.Principal{Forge: "git.example.com", ID: id, Name: name, Kind: authn.Human}
}

func mustSSH(t testing.TB, cfg authn.SSHKeysConfig) *authn.SSHKeys {
	t.Helper()
	s, err := authn.NewSSHKeys(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reasonOf returns why err refuses; a fault has the reason "fault", and no error none.
func reasonOf(err error) authn.Reason {
	if err == nil {
		return ""
	}
	if r, ok := errors.AsType[*authn.Refusal](err); ok {
		return r.Reason
	}
	return "fault"
}

// sshKeygen runs the real ssh-keygen in dir. The suite fails where there is none.
func sshKeygen(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=") // the key in the file signs, no agent
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), err
}

func mustKeygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	if out, err := sshKeygen(t, dir, args...); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

func writeFile(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(data)
}

// readRaw is readFile to the last byte.
func readRaw(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sums returns the SHA-1 and the SHA-256 of a key.
func sums(blob []byte) (string, string) {
	a, b := sha1.Sum(blob), sha256.Sum256(blob)
	return string(a[:]), string(b[:])
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
