package httpd_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const proofResource = "https://gate.example.com"

// proofChallenge asks the gate for a challenge.
func proofChallenge(t testing.TB, g *gwtest.Gate) string {
	t.Helper()
	res := g.WithToken("").Do(http.MethodPost, "/v1/ssh/challenge", nil)
	var c gateway.SSHChallenge
	if err := json.Unmarshal(res.Bytes, &c, json.RejectUnknownMembers(true)); res.StatusCode != http.StatusOK || err != nil || c.Seconds != 60 {
		t.Fatalf("%d %s %v", res.StatusCode, res.Bytes, err)
	}
	return c.Challenge
}

// proofOf signs as a client does.
func proofOf(t testing.TB, signer ssh.Signer, namespace, resource, challenge string) []byte {
	t.Helper()
	blob, err := provenance.SignSSH(signer, namespace, gateway.SignInMessage(resource, challenge))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// proofBody is an order for a token with a proof.
func proofBody(challenge string, blob []byte) string {
	return fmt.Sprintf(`{"note": "laptop", "ssh": {"challenge": %q, "signature": %q}}`, challenge, base64.StdEncoding.EncodeToString(blob))
}

// proofSignIn does all that a client does.
func proofSignIn(t testing.TB, g *gwtest.Gate, signer ssh.Signer) *gwtest.Response {
	t.Helper()
	challenge := proofChallenge(t, g)
	return g.WithToken("").Do(http.MethodPost, "/v1/token", []byte(proofBody(challenge, proofOf(t, signer, gateway.SignInNamespace, proofResource, challenge))))
}

// proofCertificate is a user certificate for a fresh key.
func proofCertificate(t *testing.T, authority ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	key := gwtest.SSHSigner("certified " + rand.Text())
	now := uint64(time.Now().Unix())
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: []string{"alice"}, ValidAfter: now - 60, ValidBefore: now + 3600,
	}
	change(cert)
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// TestProof: a key that the forge knows, and a certificate, make a token that is their holder's; the trail says with what.
func TestProof(t *testing.T) {
	authority := gwtest.SSHSigner("the authority")
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHAuthority: authority.PublicKey()})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	certified := proofCertificate(t, authority, func(c *ssh.Certificate) {
		c.CriticalOptions = map[string]string{"source-address": "127.0.0.0/8"}
	})
	for name, signer := range map[string]ssh.Signer{"key": gwtest.SSHSigner("alice"), "certificate": certified} {
		res := proofSignIn(t, g, signer)
		var reply gateway.TokenReply
		if err := json.Unmarshal(res.Bytes, &reply, json.RejectUnknownMembers(true)); err != nil || res.StatusCode != http.StatusCreated || reply.User != gwtest.Forge+"/1" {
			t.Fatalf("%s: %d %s", name, res.StatusCode, res.Bytes)
		}
		if expires, err := time.Parse(time.RFC3339, reply.Expires); err != nil || name == "certificate" && time.Until(expires) > time.Hour {
			t.Errorf("%s: lives until %s, %v", name, reply.Expires, err)
		}
		if res := g.WithToken(reply.Token).Get(mount + o.Name); res.StatusCode != http.StatusOK {
			t.Errorf("%s: read: %d", name, res.StatusCode)
		}
	}
	var made []string
	for _, e := range g.Events() {
		if e.Kind == "token.create" {
			made = append(made, e.Door+" "+e.Actor.Credential)
		}
	}
	if got := strings.Join(made, "\n"); len(made) != 2 || !strings.Contains(got, "https "+ssh.FingerprintSHA256(gwtest.SSHSigner("alice").PublicKey())) || !strings.Contains(got, "https ssh-cert:ca=") {
		t.Errorf("the trail says %s", got)
	}
}

// TestProofOnce: a challenge buys one token, whoever signs it and however.
func TestProofOnce(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	challenge := proofChallenge(t, g)
	body := []byte(proofBody(challenge, proofOf(t, gwtest.SSHSigner("alice"), gateway.SignInNamespace, proofResource, challenge)))
	nobody := g.WithToken("")
	if res := nobody.Do(http.MethodPost, "/v1/token", body); res.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", res.StatusCode, res.Bytes)
	}
	again := map[string][]byte{
		"the same":      body,
		"another order": bytes.Replace(body, []byte(`"note"`), []byte(`"seconds": 60, "note"`), 1),
		"another key":   []byte(proofBody(challenge, proofOf(t, gwtest.SSHSigner("bob"), gateway.SignInNamespace, proofResource, challenge))),
	}
	for name, body := range again {
		if res := nobody.Do(http.MethodPost, "/v1/token", body); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, res.StatusCode, res.Bytes)
		}
	}
	if n := g.Refusals()[authn.Replayed]; n != len(again) {
		t.Errorf("%d replays counted", n)
	}
	// What the gate did not take for a mistake in the order is not used up by it.
	challenge = proofChallenge(t, g)
	good := proofBody(challenge, proofOf(t, gwtest.SSHSigner("alice"), gateway.SignInNamespace, proofResource, challenge))
	if res := nobody.Do(http.MethodPost, "/v1/token", []byte(strings.Replace(good, `"note"`, `"seconds": 9999999, "note"`, 1))); res.StatusCode != http.StatusBadRequest {
		t.Errorf("too long a life: %d", res.StatusCode)
	}
	if res := nobody.Do(http.MethodPost, "/v1/token", []byte(good)); res.StatusCode != http.StatusCreated {
		t.Errorf("after a mistake: %d %s", res.StatusCode, res.Bytes)
	}
}

// TestProofRefused: the answer to every proof that is not good is the same 401, and the trail tells them apart.
func TestProofRefused(t *testing.T) {
	authority := gwtest.SSHSigner("the authority")
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHAuthority: authority.PublicKey()})
	alice, nobody := gwtest.SSHSigner("alice"), g.WithToken("")
	certificate := func(change func(*ssh.Certificate)) ssh.Signer { return proofCertificate(t, authority, change) }
	by := func(signer ssh.Signer) func(string) (string, []byte) {
		return func(c string) (string, []byte) {
			return c, proofOf(t, signer, gateway.SignInNamespace, proofResource, c)
		}
	}
	as := func(namespace, resource string) func(string) (string, []byte) {
		return func(c string) (string, []byte) { return c, proofOf(t, alice, namespace, resource, c) }
	}
	changed := func(change func([]byte) []byte) func(string) (string, []byte) {
		return func(c string) (string, []byte) {
			return c, change(proofOf(t, alice, gateway.SignInNamespace, proofResource, c))
		}
	}
	foreign, err := authn.NewChallenges(authn.ChallengesConfig{Key: bytes.Repeat([]byte("k"), 32), URL: "https://other.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	old, err := authn.NewChallenges(authn.ChallengesConfig{
		Key: bytes.Repeat([]byte("k"), 32), URL: proofResource, Now: func() time.Time { return time.Now().Add(-2 * time.Minute) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		proof  func(challenge string) (string, []byte)
		reason authn.Reason
	}{
		{"a key that nobody has", by(gwtest.SSHSigner("eve")), authn.UnknownKey},
		{"a blocked user", by(gwtest.SSHSigner("mallory")), "user_refused"},
		{"another gate's challenge", func(string) (string, []byte) { return by(alice)(foreign.New()) }, authn.BadProof},
		{"signed for another gate", as(gateway.SignInNamespace, "https://other.example.com"), authn.BadProof},
		{"signed for the gate by another name", as(gateway.SignInNamespace, proofResource+"/"), authn.BadProof},
		{"an old challenge", func(string) (string, []byte) { return by(alice)(old.New()) }, authn.BadProof},
		{"signed as a statement", as(provenance.Namespace, proofResource), authn.BadProof},
		{"signed as a file", as("file", proofResource), authn.BadProof},
		{"signed for another challenge", func(c string) (string, []byte) {
			_, blob := by(alice)(proofChallenge(t, g))
			return c, blob
		}, authn.BadProof},
		{"a challenge with another time", func(c string) (string, []byte) {
			raw, _ := base64.RawURLEncoding.DecodeString(c)
			raw[8]++
			return by(alice)(base64.RawURLEncoding.EncodeToString(raw))
		}, authn.BadProof},
		{"no challenge", func(string) (string, []byte) { return by(alice)("") }, authn.BadProof},
		{"no signature", func(c string) (string, []byte) { return c, nil }, authn.BadProof},
		{"the namespace rewritten", func(c string) (string, []byte) {
			other := strings.Repeat("x", len(gateway.SignInNamespace))
			return c, bytes.Replace(proofOf(t, alice, other, proofResource, c), []byte(other), []byte(gateway.SignInNamespace), 1)
		}, authn.BadProof},
		{"one bit of the signature", changed(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), authn.BadProof},
		{"something after the signature", changed(func(b []byte) []byte { return append(b, 0) }), authn.BadProof},
		{"a cut signature", changed(func(b []byte) []byte { return b[:len(b)-1] }), authn.BadProof},
		{"bob's signature under alice's key", func(c string) (string, []byte) {
			_, blob := by(gwtest.SSHSigner("bob"))(c)
			return c, bytes.Replace(blob, gwtest.SSHSigner("bob").PublicKey().Marshal(), alice.PublicKey().Marshal(), 1)
		}, authn.BadProof},
		{"a certificate with a command", by(certificate(func(c *ssh.Certificate) {
			c.CriticalOptions = map[string]string{"force-command": "true"}
		})), authn.KeyRefused},
		{"a certificate for elsewhere", by(certificate(func(c *ssh.Certificate) {
			c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"}
		})), authn.KeyRefused},
		{"a certificate that has ended", by(certificate(func(c *ssh.Certificate) {
			c.ValidBefore = uint64(time.Now().Unix()) - 1
		})), authn.KeyRefused},
		{"a host's certificate", by(certificate(func(c *ssh.Certificate) { c.CertType = ssh.HostCert })), authn.KeyRefused},
		{"a certificate for nobody", by(certificate(func(c *ssh.Certificate) { c.ValidPrincipals = nil })), authn.KeyRefused},
		{"another authority's certificate", by(proofCertificate(t, gwtest.SSHSigner("eve"), func(*ssh.Certificate) {})), authn.UnknownKey},
	} {
		before := g.Refusals()[row.reason]
		challenge, blob := row.proof(proofChallenge(t, g))
		res := nobody.Do(http.MethodPost, "/v1/token", []byte(proofBody(challenge, blob)))
		if want := nobody.Get("/v1/whoami"); res.StatusCode != http.StatusUnauthorized || !bytes.Equal(res.Bytes, want.Bytes) || res.Header.Get("Www-Authenticate") == "" {
			t.Errorf("%s: %d %s", row.name, res.StatusCode, res.Bytes)
		}
		if g.Refusals()[row.reason] != before+1 {
			t.Errorf("%s: not counted as %s: %v", row.name, row.reason, g.Refusals())
		}
	}
	if res := proofSignIn(t, g, alice); res.StatusCode != http.StatusCreated {
		t.Errorf("alice herself: %d %s", res.StatusCode, res.Bytes)
	}
}

// proofBlob is an SSHSIG blob made by hand, of any key and any signature.
func proofBlob(key []byte, format string, signature, rest []byte) []byte {
	inner := ssh.Marshal(struct {
		Format string
		Blob   []byte
		Rest   []byte `ssh:"rest"`
	}{format, signature, rest})
	return append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version        uint32
		Key            []byte
		Namespace      string
		Reserved, Hash string
		Signature      []byte
	}{1, key, gateway.SignInNamespace, "", "sha256", inner})...)
}

// proofSigned is what such a blob signs.
func proofSigned(challenge string) []byte {
	sum := sha256.Sum256(gateway.SignInMessage(proofResource, challenge))
	return append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Digest string }{gateway.SignInNamespace, "", "sha256", string(sum[:])})...)
}

// proofSecurityKey signs as a security key does (PROTOCOL.u2f), in ECDSA, with those flags.
func proofSecurityKey(t *testing.T, key *ecdsa.PrivateKey, flags byte, data []byte) (public, signature, rest []byte) {
	t.Helper()
	const application = "ssh:"
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public = ssh.Marshal(struct {
		Name, Curve string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKECDSA256, "nistp256", point, application})
	app, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	signed := append(app[:], flags)
	signed = binary.BigEndian.AppendUint32(signed, 7)
	digest := sha256.Sum256(append(signed, message[:]...))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return public, ssh.Marshal(struct{ R, S *big.Int }{r, s}), binary.BigEndian.AppendUint32([]byte{flags}, 7)
}

// TestProofKinds: kinds of keys and signatures that the ssh door does not take are not taken here, and those that it takes are.
func TestProofKinds(t *testing.T) {
	security, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaSigner, err := ssh.NewSignerFromKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	skPublic, _, _ := proofSecurityKey(t, security, 1, nil)
	skKey, err := ssh.ParsePublicKey(skPublic)
	if err != nil {
		t.Fatal(err)
	}
	line := func(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }
	forge := strings.Replace(gwtest.DefaultForge, "name: alice, kind: human", fmt.Sprintf("name: alice, keys: [%q, %q], kind : human", line(skKey), line(rsaSigner.PublicKey())), 1)
	g := gwtest.New(t, gwtest.Options{SSH: true, Forge: forge})
	byRSA := func(algorithm string) func(string) []byte {
		return func(c string) []byte {
			sig, err := rsaSigner.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, proofSigned(c), algorithm)
			if err != nil {
				t.Fatal(err)
			}
			return proofBlob(rsaSigner.PublicKey().Marshal(), sig.Format, sig.Blob, nil)
		}
	}
	bySecurityKey := func(format string, flags byte) func(string) []byte {
		return func(c string) []byte {
			public, sig, rest := proofSecurityKey(t, security, flags, proofSigned(c))
			return proofBlob(public, format, sig, rest)
		}
	}
	for _, row := range []struct {
		name string
		blob func(challenge string) []byte
		want int
	}{
		{"RSA with SHA-512", byRSA(ssh.KeyAlgoRSASHA512), http.StatusCreated},
		{"RSA with SHA-256", byRSA(ssh.KeyAlgoRSASHA256), http.StatusCreated},
		{"RSA with SHA-1", byRSA(ssh.KeyAlgoRSA), http.StatusUnauthorized},
		{"a security key that was touched", bySecurityKey(ssh.KeyAlgoSKECDSA256, 1), http.StatusCreated},
		{"a security key that was touched and knows its user", bySecurityKey(ssh.KeyAlgoSKECDSA256, 5), http.StatusCreated},
		{"a security key that was not touched", bySecurityKey(ssh.KeyAlgoSKECDSA256, 0), http.StatusUnauthorized},
		{"a security key that only knows its user", bySecurityKey(ssh.KeyAlgoSKECDSA256, 4), http.StatusUnauthorized},
		{"a browser's signature", bySecurityKey("webauthn-sk-ecdsa-sha2-nistp256@openssh.com", 1), http.StatusUnauthorized},
		{"a security key's as a plain one", bySecurityKey(ssh.KeyAlgoECDSA256, 1), http.StatusUnauthorized},
	} {
		challenge := proofChallenge(t, g)
		res := g.WithToken("").Do(http.MethodPost, "/v1/token", []byte(proofBody(challenge, row.blob(challenge))))
		if res.StatusCode != row.want {
			t.Errorf("%s: %d %s", row.name, res.StatusCode, res.Bytes)
		}
	}
}

// TestProofBodies: a body is read exactly, and bounded; without a proof it is a request without a credential.
func TestProofBodies(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, ClientCA: true})
	nobody := g.WithToken("")
	challenge := proofChallenge(t, g)
	proof := fmt.Sprintf(`{"challenge": %q, "signature": %q}`, challenge,
		base64.StdEncoding.EncodeToString(proofOf(t, gwtest.SSHSigner("alice"), gateway.SignInNamespace, proofResource, challenge)))
	for _, row := range []struct {
		name, body string
		user       *gwtest.User
		want       int
	}{
		{"nothing", ``, nobody, http.StatusUnauthorized},
		{"no proof", `{"note": "x"}`, nobody, http.StatusUnauthorized},
		{"no proof at all", `{"ssh": null}`, nobody, http.StatusUnauthorized},
		{"an empty proof", `{"ssh": {}}`, nobody, http.StatusUnauthorized},
		{"not JSON", `ssh`, nobody, http.StatusBadRequest},
		{"a list", `[` + proof + `]`, nobody, http.StatusBadRequest},
		{"two proofs", `{"ssh": ` + proof + `, "ssh": ` + proof + `}`, nobody, http.StatusBadRequest},
		{"two challenges", `{"ssh": ` + strings.Replace(proof, "{", `{"challenge": "x", `, 1) + `}`, nobody, http.StatusBadRequest},
		{"another case", `{"SSH": ` + proof + `}`, nobody, http.StatusBadRequest},
		{"a member that we do not know", `{"ssh": ` + strings.Replace(proof, "{", `{"user": "bob", `, 1) + `}`, nobody, http.StatusBadRequest},
		{"more after it", `{"ssh": ` + proof + `}{}`, nobody, http.StatusBadRequest},
		{"as large as it may be", `{"note": "` + strings.Repeat("x", 60<<10) + `"}`, nobody, http.StatusUnauthorized},
		{"too large", `{"ssh": ` + proof + `, "note": "` + strings.Repeat("x", 64<<10) + `"}`, nobody, http.StatusRequestEntityTooLarge},
		{"base64 of another kind", `{"ssh": ` + strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(proof) + `}`, nobody, http.StatusUnauthorized},
		{"beside a token", `{"ssh": ` + proof + `}`, g.As("bob"), http.StatusBadRequest},
		{"beside a bad token", `{"ssh": ` + proof + `}`, g.WithToken("lyg_x"), http.StatusUnauthorized},
		{"beside a certificate", `{"ssh": ` + proof + `}`, g.WithCertificate(alicesCertificate), http.StatusBadRequest},
		{"the good one, in the end", `{"ssh": ` + proof + `}`, nobody, http.StatusCreated},
	} {
		if res := row.user.Do(http.MethodPost, "/v1/token", []byte(row.body)); res.StatusCode != row.want {
			t.Errorf("%s: %d %s, want %d", row.name, res.StatusCode, res.Bytes, row.want)
		}
	}
	// A proof is a credential in one place alone.
	for _, path := range []string{"/v1/link", "/v1/presence", "/v1/token?x", "/v1/token/", "/v1/ssh/challenge/", "/v1/ssh/challenge?x", "/v1/ssh"} {
		if res := nobody.Do(http.MethodPost, path, []byte(`{"ssh": `+proof+`}`)); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		if res := nobody.Do(method, "/v1/ssh/challenge", nil); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", method, res.StatusCode)
		}
	}
}

// TestProofIsNoStatement: what signs somebody in does not sign a statement, whatever the order of the two.
func TestProofIsNoStatement(t *testing.T) {
	ci := gwtest.SSHSigner("ci")
	verifier, err := provenance.NewVerifier(provenance.VerifierConfig{AllowedSigners: append([]byte("ci "), ssh.MarshalAuthorizedKey(ci.PublicKey())...)})
	if err != nil {
		t.Fatal(err)
	}
	g := gwtest.New(t, gwtest.Options{SSH: true})
	payload, err := g.Statement([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		namespace string
		good      bool
	}{{provenance.Namespace, true}, {gateway.SignInNamespace, false}} {
		envelope, err := provenance.Seal(payload, proofNamespaced{ci, row.namespace})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Open(envelope); (err == nil) != row.good {
			t.Errorf("a statement in the namespace %s: %v", row.namespace, err)
		}
	}
}

// proofNamespaced signs statements in any namespace.
type proofNamespaced struct {
	ssh.Signer
	namespace string
}

func (s proofNamespaced) Sign(pae []byte) (sig []byte, keyID string, err error) {
	sig, err = provenance.SignSSH(s.Signer, s.namespace, pae)
	return sig, ssh.FingerprintSHA256(s.PublicKey()), err
}

// TestProofThrottle: an address that fails too often is told to wait, and gets neither challenges nor looks at its signatures.
func TestProofThrottle(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	challenge := proofChallenge(t, g)
	good := []byte(proofBody(challenge, proofOf(t, gwtest.SSHSigner("alice"), gateway.SignInNamespace, proofResource, challenge)))
	bad := []byte(proofBody(challenge, []byte("SSHSIG")))
	nobody, seen := g.WithToken(""), map[int]int{}
	for range 260 {
		seen[nobody.Do(http.MethodPost, "/v1/token", bad).StatusCode]++
	}
	if seen[http.StatusUnauthorized] < 199 || seen[http.StatusTooManyRequests] < 20 || len(seen) != 2 {
		t.Errorf("answers %v", seen)
	}
	if n := g.Refusals()["throttled"]; n < 20 {
		t.Errorf("%d were not looked into", n)
	}
	for path, body := range map[string][]byte{"/v1/token": good, "/v1/ssh/challenge": nil} {
		if res := nobody.Do(http.MethodPost, path, body); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

// TestProofRules: what is configured of keys holds here as at the ssh door: lists of revoked keys, and options of authorized keys.
func TestProofRules(t *testing.T) {
	line := func(name string) string { return string(ssh.MarshalAuthorizedKey(gwtest.SSHSigner(name).PublicKey())) }
	deploy := authn.Principal{ID: "deploy", Name: "deploy", Kind: authn.Service}
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHRules: func(cfg *authn.SSHKeysConfig) {
		revoked, err := authn.ParseRevocationList("revoked", []byte(line("bob")))
		if err != nil {
			t.Fatal(err)
		}
		listed, err := authn.ParseAuthorizedKeys("keys", []byte(`from="127.0.0.0/8" `+line("here")+`from="192.0.2.0/24" `+line("elsewhere")+`expiry-time="20200101" `+line("old")))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Revoked = []authn.Source[*authn.RevocationList]{authn.Fixed[*authn.RevocationList]{Value: revoked}}
		cfg.AuthorizedKeys = []authn.AuthorizedKeys{{Keys: authn.Fixed[*authn.AuthorizedKeyList]{Value: listed}, Principal: deploy}}
	}})
	for name, reason := range map[string]authn.Reason{"alice": "", "here": "", "bob": authn.RevokedCredential, "elsewhere": authn.KeyRefused, "old": authn.KeyRefused} {
		before := g.Refusals()[reason]
		res := proofSignIn(t, g, gwtest.SSHSigner(name))
		switch {
		case reason == "" && res.StatusCode != http.StatusCreated:
			t.Errorf("%s: %d %s", name, res.StatusCode, res.Bytes)
		case reason != "" && (res.StatusCode != http.StatusUnauthorized || g.Refusals()[reason] != before+1):
			t.Errorf("%s: %d, %v", name, res.StatusCode, g.Refusals())
		}
	}
}

// TestProofOff: a gate that takes no SSH keys over https answers as if there were no such routes, and does not announce it.
func TestProofOff(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, NoSSHSignIn: true})
	nobody := g.WithToken("")
	good, err := authn.NewChallenges(authn.ChallengesConfig{Key: bytes.Repeat([]byte("k"), 32), URL: proofResource})
	if err != nil {
		t.Fatal(err)
	}
	challenge := good.New()
	body := []byte(proofBody(challenge, proofOf(t, gwtest.SSHSigner("alice"), gateway.SignInNamespace, proofResource, challenge)))
	want := nobody.Do(http.MethodPost, "/v1/nowhere", body)
	for _, path := range []string{"/v1/ssh/challenge", "/v1/token"} {
		if res := nobody.Do(http.MethodPost, path, body); res.StatusCode != http.StatusUnauthorized || !bytes.Equal(res.Bytes, want.Bytes) {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Bytes)
		}
	}
	if res := nobody.Get("/.well-known/oauth-protected-resource"); bytes.Contains(res.Bytes, []byte("lychgate_ssh_keys")) {
		t.Errorf("%s", res.Bytes)
	}
	if len(g.Refusals()) != 0 {
		t.Errorf("%v", g.Refusals())
	}
}

// TestProofTrail: what strangers put into a proof does not fill the trail.
func TestProofTrail(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	key := ssh.Marshal(struct{ Name string }{strings.Repeat("evil\n\x1b", 5000)})
	res := g.WithToken("").Do(http.MethodPost, "/v1/token", []byte(proofBody(proofChallenge(t, g), proofBlob(key, ssh.KeyAlgoED25519, []byte("x"), nil))))
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d %s", res.StatusCode, res.Bytes)
	}
	said := false
	for _, e := range g.Events() {
		for _, reason := range e.Decision.Reasons {
			said = said || strings.HasPrefix(reason, "bad_proof: ") && strings.Contains(reason, "evil")
			if len(reason) > 300 {
				t.Errorf("a reason of %d bytes", len(reason))
			}
		}
	}
	if !said {
		t.Error("the trail does not say what was wrong")
	}
}
