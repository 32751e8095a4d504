package provenance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// now is the time at which every verifier in these tests lives.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

const (
	hashA = "abcd" + "00000000000000000000000000000000000000000000000000000000" + "0001"
	nameA = "universal/ab/cd/sstate:zlib-native:x86_64-linux:1.3.1:r0:x86_64:14:" + hashA + "_populate_sysroot.tar.zst"
	nameB = nameA + ".siginfo"
)

func digest(b byte) artifact.Digest { return artifact.Digest{0: b, 31: b} }

func git(path, rev string) source.Source {
	return source.Source{Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: path}, Rev: rev}
}

// sample is a statement with one of everything, in the order that Encode writes.
func sample() *provenance.Statement {
	return &provenance.Statement{
		Subjects: []provenance.Subject{{Name: nameA, Digest: digest(1), Size: 1234}, {Name: nameB, Digest: digest(2), Size: 0}},
		Zone:     "main", Audience: "https://gate.example.com", UploadID: "7f3c", Recipe: "zlib-native",
		Sources: []source.Source{
			git("team/zlib", "50ff9644b9f2a2a4b2d5a4cbe2b9b3d0a8f1c2d3"),
			{Type: source.Unresolvable, Reason: "the entry holds ${VAR}"},
		},
		Inputs: []source.Source{git("team/zlib", "50ff9644b9f2a2a4b2d5a4cbe2b9b3d0a8f1c2d3")},
		Artifacts: []provenance.Dependency{
			{Name: strings.ReplaceAll(nameA, "zlib", "gcc"), Digest: digest(3)},
			{Name: strings.ReplaceAll(nameA, "zlib", "make"), Digest: digest(4), Recorded: true},
		},
		Builder: "https://ci.example.com/runners/1", Invocation: "https://ci.example.com/runs/42", IssuedAt: now,
	}
}

func encode(t testing.TB, s *provenance.Statement) []byte {
	t.Helper()
	payload, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return payload
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

// keys holds one key of each sort; making RSA keys for every test would be slow.
type keys struct {
	ed25519, ed25519b, ca, ca2 ed25519.PrivateKey
	p256, p384                 *ecdsa.PrivateKey
	rsa, rsaSmall              *rsa.PrivateKey
}

var testKeys = sync.OnceValue(func() keys {
	edKey := func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	}
	ecKey := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	}
	rsaKey := func(bits int) *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return k
	}
	return keys{
		edKey(), edKey(), edKey(), edKey(), ecKey(elliptic.P256()), ecKey(elliptic.P384()), rsaKey(2048), rsaKey(1024),
	}
})

func sshSigner(t testing.TB, key crypto.Signer) ssh.Signer {
	t.Helper()
	return must[ssh.Signer](t)(ssh.NewSignerFromKey(key))
}

func keyLine(t testing.TB, key crypto.Signer) string {
	t.Helper()
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshSigner(t, key).PublicKey())))
}

func signer(t testing.TB, s ssh.Signer) provenance.Signer {
	t.Helper()
	return must[provenance.Signer](t)(provenance.NewSSHSigner(s))
}

func seal(t testing.TB, payload []byte, signers ...provenance.Signer) []byte {
	t.Helper()
	return must[[]byte](t)(provenance.Seal(payload, signers...))
}

func verifier(t testing.TB, allowed string, plain ...provenance.PlainKey) *provenance.Verifier {
	t.Helper()
	return must[*provenance.Verifier](t)(provenance.NewVerifier(provenance.VerifierConfig{
		AllowedSigners: []byte(allowed), Keys: plain, Now: clock, Location: time.UTC,
	}))
}

// envelope writes an envelope around signatures that were made elsewhere.
func envelope(payload []byte, sigs ...[]byte) []byte {
	var list []string
	for _, sig := range sigs {
		list = append(list, fmt.Sprintf(`{"keyid":"","sig":%q}`, base64.StdEncoding.EncodeToString(sig)))
	}
	return fmt.Appendf(nil, `{"payload":%q,"payloadType":%q,"signatures":[%s]}`,
		base64.StdEncoding.EncodeToString(payload), provenance.PayloadType, strings.Join(list, ","))
}

func pae(payload []byte) []byte { return dsse.PAE(provenance.PayloadType, payload) }

// certificate returns a signer under a user certificate for ci@example.com, by the first authority, valid for an hour
// around now; change may spoil it before it is signed.
func certificate(t testing.TB, authority crypto.Signer, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	s := sshSigner(t, testKeys().ed25519)
	cert := &ssh.Certificate{
		Key: s.PublicKey(), Serial: 1, CertType: ssh.UserCert, KeyId: "job 42", ValidPrincipals: []string{"ci@example.com"},
		ValidAfter: uint64(now.Add(-time.Hour).Unix()), ValidBefore: uint64(now.Add(time.Hour).Unix()),
	}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, sshSigner(t, authority)); err != nil {
		t.Fatal(err)
	}
	return must[ssh.Signer](t)(ssh.NewCertSigner(cert, s))
}

// refused asks for an error that says want.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want an error with %q", want)
	}
	if len(err.Error()) > 2000 {
		t.Fatalf("an error of %d bytes: %.300s", len(err.Error()), err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("error %q; want it to hold %q", err, want)
	}
}

func replaceOnce(t *testing.T, text []byte, old, new string) []byte {
	t.Helper()
	if n := bytes.Count(text, []byte(old)); n < 1 {
		t.Fatalf("%q does not stand in %s", old, text)
	}
	return bytes.Replace(text, []byte(old), []byte(new), 1)
}
