package provenance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/lychgate/lychgate/authz/provenance"
)

func TestPlainKeys(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	for name, key := range map[string]crypto.Signer{"ed25519": k.ed25519, "P-256": k.p256} {
		t.Run(name, func(t *testing.T) {
			der := must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
			public := must[crypto.PublicKey](t)(provenance.ParsePlainPublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
			v := verifier(t, "", provenance.PlainKey{Identity: "kms", Key: public})
			env := seal(t, payload, must[provenance.Signer](t)(provenance.NewKeySigner(key)))
			got := must[*provenance.Verified](t)(v.Open(env))
			want := ssh.FingerprintSHA256(sshSigner(t, key).PublicKey())
			if got.Signer != "kms" || got.KeyID != want || got.Digest != sha256.Sum256(env) || got.Statement.Zone != "main" {
				t.Fatalf("verified %+v, want key %s", got, want)
			}
			if !bytes.Contains(env, []byte(want)) {
				t.Fatal("the envelope has no hint of the key")
			}
		})
	}
	if _, err := provenance.NewKeySigner(k.p384); err == nil {
		t.Error("a P-384 key was accepted")
	}
	if _, err := provenance.NewKeySigner(k.rsa); err == nil {
		t.Error("a plain RSA key was accepted")
	}
}

func TestFirstValidSignatureNamesTheSigner(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	stranger, ci, kms := signer(t, sshSigner(t, k.ed25519b)), signer(t, sshSigner(t, k.ed25519)), must[provenance.Signer](t)(provenance.NewKeySigner(k.p256))
	v := verifier(t, "ci@example.com "+keyLine(t, k.ed25519), provenance.PlainKey{Identity: "kms", Key: k.p256.Public()})
	for want, signers := range map[string][]provenance.Signer{
		"ci@example.com": {stranger, ci, kms}, "kms": {stranger, kms, ci},
	} {
		if got := must[*provenance.Verified](t)(v.Open(seal(t, payload, signers...))); got.Signer != want {
			t.Errorf("signer %q, want %q", got.Signer, want)
		}
	}
	_, err := v.Open(seal(t, payload, stranger))
	if !errors.Is(err, provenance.ErrUntrusted) {
		t.Errorf("error %v, want ErrUntrusted", err)
	}
}

func TestVerifySSH(t *testing.T) {
	key := sshSigner(t, testKeys().ed25519)
	blob := must[[]byte](t)(provenance.SignSSH(key, "ns@test", []byte("message")))
	if got := must[ssh.PublicKey](t)(provenance.VerifySSH(blob, "ns@test", []byte("message"))); !bytes.Equal(got.Marshal(), key.PublicKey().Marshal()) {
		t.Fatalf("key %v", got)
	}
	for _, c := range []struct {
		blob               []byte
		namespace, message string
	}{{blob[1:], "ns@test", "message"}, {blob, "ns", "message"}, {blob, "", "message"}, {blob, "ns@test", ""}} {
		if key, err := provenance.VerifySSH(c.blob, c.namespace, []byte(c.message)); err == nil {
			t.Errorf("namespace %q, message %q: accepted by %v", c.namespace, c.message, key)
		}
	}
}

func TestBadPlainKeys(t *testing.T) {
	public := func(key crypto.Signer) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))})
	}
	good := public(testKeys().p256)
	for name, text := range map[string][]byte{
		"empty": nil, "not PEM": []byte("key"), "two": slices.Concat(good, good), "RSA": public(testKeys().rsa), "P-384": public(testKeys().p384),
		"private": bytes.ReplaceAll(good, []byte("PUBLIC"), []byte("PRIVATE")), "damaged": bytes.Replace(good, []byte("M"), []byte("A"), 1),
	} {
		if key, err := provenance.ParsePlainPublicKey(text); err == nil {
			t.Errorf("%s: accepted as %v", name, key)
		}
	}
}

// TestAgentKeys signs through the agent protocol, where a flag asks for SHA-2.
func TestAgentKeys(t *testing.T) {
	k := testKeys()
	keyring := agent.NewKeyring()
	cert := certificate(t, k.ca, nil).PublicKey().(*ssh.Certificate)
	for _, key := range []agent.AddedKey{{PrivateKey: k.rsa}, {PrivateKey: k.p384}, {PrivateKey: k.ed25519}, {PrivateKey: k.ed25519, Certificate: cert}} {
		if err := keyring.Add(key); err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	go agent.ServeAgent(keyring, theirs) // ends with the pipe

	v := verifier(t, strings.Join([]string{
		"rsa " + keyLine(t, k.rsa), "ec " + keyLine(t, k.p384), "ed " + keyLine(t, k.ed25519), "* cert-authority " + keyLine(t, k.ca),
	}, "\n"))
	payload := encode(t, sample())
	var got []string
	for _, s := range must[[]ssh.Signer](t)(agent.NewClient(ours).Signers()) {
		got = append(got, must[*provenance.Verified](t)(v.Open(seal(t, payload, signer(t, s)))).Signer)
	}
	if want := []string{"rsa", "ec", "ed", "ci@example.com"}; !slices.Equal(got, want) {
		t.Fatalf("signers %q, want %q", got, want)
	}
}

// TestFlippedBits shows that what is opened is what was signed, whichever bit of the envelope changes on the way.
func TestFlippedBits(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	env := seal(t, payload, signer(t, sshSigner(t, k.ed25519)))
	v := verifier(t, "ci@example.com "+keyLine(t, k.ed25519))
	for i := 0; i < len(env); i += 3 {
		bad := slices.Clone(env)
		bad[i] ^= 1 << (i % 8)
		if got, err := v.Open(bad); err == nil && !bytes.Equal(encode(t, got.Statement), payload) {
			t.Fatalf("bit %d of byte %d makes another statement", i%8, i)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	k := testKeys()
	_, err := provenance.Seal(encode(t, sample()))
	refused(t, err, "signers")
	_, err = provenance.NewSSHSigner(sshSigner(t, k.rsaSmall))
	refused(t, err, "2048 bits")
	_, err = provenance.SignSSH(sshSigner(t, k.ed25519), "", nil)
	refused(t, err, "namespace")
	// An RSA key behind an interface that can only do SHA-1.
	_, err = provenance.SignSSH(struct{ ssh.Signer }{sshSigner(t, k.rsa)}, provenance.Namespace, nil)
	refused(t, err, "SHA-2")
	_, err = provenance.PairCertificate(sshSigner(t, k.ed25519b), ssh.MarshalAuthorizedKey(certificate(t, k.ca, nil).PublicKey()))
	refused(t, err, "another key")
	_, err = provenance.PairCertificate(sshSigner(t, k.ed25519), []byte(keyLine(t, k.ed25519)))
	refused(t, err, "one certificate")
}

// TestHostileEnvelopes spoils the envelope around a signature that is good.
func TestHostileEnvelopes(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	good := seal(t, payload, signer(t, sshSigner(t, k.ed25519)))
	v := verifier(t, "ci@example.com "+keyLine(t, k.ed25519), provenance.PlainKey{Identity: "kms", Key: k.p256.Public()})
	must[*provenance.Verified](t)(v.Open(good))
	text := string(good)
	payload64 := base64.StdEncoding.EncodeToString(payload)
	sig := text[strings.Index(text, `"sig":"`)+7 : strings.LastIndex(text, `"}]`)]
	element := text[strings.Index(text, `[`)+1 : strings.LastIndex(text, `]`)]

	t.Run("URL-safe base64 is read", func(t *testing.T) {
		url := strings.NewReplacer("+", "-", "/", "_").Replace(payload64)
		must[*provenance.Verified](t)(v.Open([]byte(strings.Replace(text, payload64, url, 1))))
	})
	t.Run("the keyid decides nothing", func(t *testing.T) {
		id := ssh.FingerprintSHA256(sshSigner(t, k.ed25519).PublicKey())
		for _, other := range []string{"", "nobody", ssh.FingerprintSHA256(sshSigner(t, k.p256).PublicKey())} {
			got := must[*provenance.Verified](t)(v.Open(replaceOnce(t, good, id, other)))
			if got.Signer != "ci@example.com" || got.KeyID != id {
				t.Fatalf("with the keyid %q the signer is %q by %s", other, got.Signer, got.KeyID)
			}
		}
	})

	cases := []struct{ name, old, new, want string }{
		{"other payload type", "vnd.in-toto+json", "vnd.in-toto", "payloadType"},
		{"payload type in upper case", "application/vnd", "Application/vnd", "payloadType"},
		{"payload type with a parameter", "in-toto+json", "in-toto+json; charset=utf-8", "payloadType"},
		{"payload type missing", `"payloadType":"application/vnd.in-toto+json",`, "", "payloadType"},
		{"case-folded member", `"payload"`, `"Payload"`, "unknown"},
		{"unknown member", `{"payload"`, `{"x":1,"payload"`, "unknown"},
		{"unknown member of a signature", `{"keyid"`, `{"cert":"","keyid"`, "unknown"},
		{"duplicate payload", `{"payload"`, `{"payload":"","payload"`, "duplicate"},
		{"duplicate signature", `"sig":`, `"sig":"","sig":`, "duplicate"},
		{"no signatures", element, "", "no signature"},
		{"too many signatures", element, strings.Repeat(element+",", 16) + element, "more than 16 signatures"},
		{"null signature", element, "null", "empty"},
		{"signatures are an object", "[" + element + "]", element, "unmarshal JSON"},
		{"payload is null", `"` + payload64 + `"`, "null", "payload: empty"},
		{"payload is empty", payload64, "", "payload: empty"},
		{"payload is not base64", payload64, strings.Repeat("!", 8), "base64"},
		{"payload without padding", payload64, payload64 + "QQ", "base64"},
		{"payload with a line end", payload64, payload64[:8] + `\n` + payload64[8:], "line ends"},
		{"payload with a space", payload64, payload64[:8] + " " + payload64[8:], "base64"},
		{"payload of two alphabets", payload64, "-/" + payload64[2:], "base64"},
		{"payload with stray bits", payload64, base64.StdEncoding.EncodeToString(payload[:1])[:1] + "x==", "base64"},
		{"another payload", payload64, base64.StdEncoding.EncodeToString(append(slices.Clone(payload), ' ')), "no trusted signature"},
		{"signature is not base64", sig, "????", "base64"},
		{"signature is empty", sig, "", "empty"},
		{"signature is armoured", sig, strings.ReplaceAll(string(provenance.ArmorSSH([]byte("SSHSIG"))), "\n", `\n`), "line ends"},
		{"signature is one byte", sig, "QQ==", "none of the listed keys"},
		{"signature is cut", sig, sig[:len(sig)-8], "no trusted signature"},
		{"trailing data", `}]}`, `}]}x`, "after top-level"},
		{"second envelope", `}]}`, `}]}` + text, "after top-level"},
		{"truncated", `}]}`, `}]`, "EOF"},
		{"invalid UTF-8", `"keyid":"`, "\"keyid\":\"\xff", "UTF-8"},
		{"lone surrogate", `"keyid":"`, `"keyid":"\udc00`, "surrogate"},
		{"not an object", text, "[]", "unmarshal JSON"},
		{"empty", text, "", "EOF"},
		{"huge", `}]}`, `}]}` + strings.Repeat(" ", provenance.MaxEnvelope), "at most"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Open(replaceOnce(t, good, c.old, c.new))
			refused(t, err, c.want)
		})
	}
	t.Run("a good signature over no statement", func(t *testing.T) {
		_, err := v.Open(seal(t, []byte(`{}`), signer(t, sshSigner(t, k.ed25519))))
		refused(t, err, "parse statement")
	})
}

// blobOf builds an SSHSIG blob by hand, spoiled by change.
type blobParts struct {
	magic     string
	version   uint32
	key       []byte
	namespace string
	reserved  string
	hash      string
	signature []byte
	tail      string
}

func (b blobParts) bytes() []byte {
	return append(append([]byte(b.magic), ssh.Marshal(struct {
		V uint32
		K []byte
		N string
		R string
		H string
		S []byte
	}{b.version, b.key, b.namespace, b.reserved, b.hash, b.signature})...), b.tail...)
}

// toSign returns what the fields of b promise to have signed.
func (b blobParts) toSign(message []byte) []byte {
	var digest []byte
	switch b.hash {
	case "sha512":
		sum := sha512.Sum512(message)
		digest = sum[:]
	default:
		sum := sha256.Sum256(message)
		digest = sum[:]
	}
	return append([]byte(b.magic), ssh.Marshal(struct{ N, R, H, D string }{b.namespace, b.reserved, b.hash, string(digest)})...)
}

func handmade(t *testing.T, s ssh.Signer, algorithm string, message []byte, change func(*blobParts)) []byte {
	t.Helper()
	b := blobParts{"SSHSIG", 1, s.PublicKey().Marshal(), provenance.Namespace, "", "sha512", nil, ""}
	if change != nil {
		change(&b)
	}
	var sig *ssh.Signature
	var err error
	if algorithm == "" {
		sig, err = s.Sign(rand.Reader, b.toSign(message))
	} else {
		sig, err = s.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, b.toSign(message), algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	if b.signature == nil {
		b.signature = ssh.Marshal(sig)
	}
	return b.bytes()
}

// TestHostileSSHSIG signs what each blob says, so that nothing but the field in question is wrong.
func TestHostileSSHSIG(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	message := pae(payload)
	v := verifier(t, strings.Join([]string{
		"ci@example.com " + keyLine(t, k.ed25519), "rsa@example.com " + keyLine(t, k.rsa), "ec@example.com " + keyLine(t, k.p384),
	}, "\n"))
	ed, rsaKey, ec := sshSigner(t, k.ed25519), sshSigner(t, k.rsa), sshSigner(t, k.p384)

	controls := map[string][]byte{
		"ed25519":      handmade(t, ed, "", message, nil),
		"sha256":       handmade(t, ed, "", message, func(b *blobParts) { b.hash = "sha256" }),
		"ECDSA":        handmade(t, ec, "", message, nil),
		"rsa-sha2-256": handmade(t, rsaKey, ssh.KeyAlgoRSASHA256, message, nil),
		"rsa-sha2-512": handmade(t, rsaKey, ssh.KeyAlgoRSASHA512, message, nil),
	}
	for name, blob := range controls {
		if _, err := v.Open(envelope(payload, blob)); err != nil {
			t.Errorf("control %s is refused: %v", name, err)
		}
	}

	good := controls["ed25519"]
	edit := func(change func(*blobParts)) []byte { return handmade(t, ed, "", message, change) }
	flip := func(at int) []byte {
		b := slices.Clone(good)
		b[(at+len(b))%len(b)] ^= 1
		return b
	}
	sk := skKey()
	cases := []struct {
		name, want string
		blob       []byte
	}{
		{"cut to the name", "no trusted", good[:70]},
		{"cut by a byte", "parse SSH signature", good[:len(good)-1]},
		{"a byte too many", "parse SSH signature", append(slices.Clone(good), 0)},
		{"a second blob", "parse SSH signature", slices.Concat(good, good)},
		{"too long", "too long", append(slices.Clone(good), make([]byte, 64<<10)...)},
		{"magic in lower case", "none of the listed keys", edit(func(b *blobParts) { b.magic = "sshsig" })},
		{"version 0", "version", edit(func(b *blobParts) { b.version = 0 })},
		{"version 2", "version", edit(func(b *blobParts) { b.version = 2 })},
		{"no namespace", "namespace", edit(func(b *blobParts) { b.namespace = "" })},
		{"namespace of files", "namespace", edit(func(b *blobParts) { b.namespace = "file" })},
		{"namespace of git", "namespace", edit(func(b *blobParts) { b.namespace = "git" })},
		{"namespace in upper case", "namespace", edit(func(b *blobParts) { b.namespace = strings.ToUpper(provenance.Namespace) })},
		{"namespace with a NUL", "namespace", edit(func(b *blobParts) { b.namespace += "\x00" })},
		{"namespace longer", "namespace", edit(func(b *blobParts) { b.namespace += "x" })},
		{"reserved", "reserved", edit(func(b *blobParts) { b.reserved = "x" })},
		{"hash sha1", "hash algorithm", edit(func(b *blobParts) { b.hash = "sha1" })},
		{"hash md5", "hash algorithm", edit(func(b *blobParts) { b.hash = "md5" })},
		{"hash in upper case", "hash algorithm", edit(func(b *blobParts) { b.hash = "SHA512" })},
		{"no hash", "hash algorithm", edit(func(b *blobParts) { b.hash = "" })},
		{"hash named wrongly", "did not verify", relabel(good, "sha512", "sha256")},
		{"key of a stranger", "not an allowed signer", handmade(t, sshSigner(t, k.ed25519b), "", message, nil)},
		{"key swapped for a listed one", "did not verify", handmade(t, sshSigner(t, k.ed25519b), "", message, func(b *blobParts) { b.key = ed.PublicKey().Marshal() })},
		{"no key", "parse SSH signature", edit(func(b *blobParts) { b.key = nil })},
		{"key with a tail", "parse SSH signature", edit(func(b *blobParts) { b.key = append(b.key, 0) })},
		{"key of an unknown type", "unknown key algorithm", edit(func(b *blobParts) { b.key = ssh.Marshal(struct{ T, K string }{"ssh-none", "x"}) })},
		{"signature of another key", "did not verify", edit(func(b *blobParts) {
			b.signature = ssh.Marshal(must[*ssh.Signature](t)(sshSigner(t, k.ed25519b).Sign(rand.Reader, b.toSign(message))))
		})},
		{"signature of another message", "did not verify", handmade(t, ed, "", []byte("other"), nil)},
		{"signature over the payload alone", "did not verify", handmade(t, ed, "", payload, nil)},
		{"signature without our framing", "did not verify", edit(func(b *blobParts) {
			b.signature = ssh.Marshal(must[*ssh.Signature](t)(ed.Sign(rand.Reader, message)))
		})},
		{"no signature", "parse SSH signature", edit(func(b *blobParts) { b.signature = []byte{} })},
		{"signature with a tail", "after the signature", edit(func(b *blobParts) {
			b.signature = append(ssh.Marshal(must[*ssh.Signature](t)(ed.Sign(rand.Reader, b.toSign(message)))), 0)
		})},
		{"signature algorithm of RSA on ed25519", "does not go with", edit(func(b *blobParts) {
			b.signature = ssh.Marshal(&ssh.Signature{Format: ssh.KeyAlgoRSASHA512, Blob: make([]byte, 64)})
		})},
		{"signature of 63 bytes", "did not verify", edit(func(b *blobParts) {
			b.signature = ssh.Marshal(&ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 63)})
		})},
		{"SHA-1 RSA", "does not go with", handmade(t, rsaKey, ssh.KeyAlgoRSA, message, nil)},
		{"RSA of 1024 bits", "2048 bits", handmade(t, sshSigner(t, k.rsaSmall), ssh.KeyAlgoRSASHA256, message, nil)},
		{"first bit of the signature", "did not verify", flip(-64)},
		{"last bit of the signature", "did not verify", flip(-1)},
		{"FIDO without flags", "after the signature", skSign(sk, message, nil)},
		{"FIDO with short flags", "after the signature", skSign(sk, message, []byte{1, 0, 0, 0})},
		{"FIDO of a stranger", "not an allowed signer", skSign(sk, message, []byte{1, 0, 0, 0, 7})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Open(envelope(payload, c.blob))
			refused(t, err, c.want)
		})
	}

	t.Run("FIDO with and without presence", func(t *testing.T) {
		v := verifier(t, "fido@example.com "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sk.public))))
		if got := must[*provenance.Verified](t)(v.Open(envelope(payload, skSign(sk, message, []byte{1, 0, 0, 0, 7})))); got.Signer != "fido@example.com" {
			t.Errorf("signer %q", got.Signer)
		}
		_, err := v.Open(envelope(payload, skSign(sk, message, []byte{4, 0, 0, 0, 7})))
		refused(t, err, "presence")
	})
}

func relabel(blob []byte, old, new string) []byte {
	return bytes.Replace(blob, []byte(old), []byte(new), 1)
}

// fido is a software stand-in for a FIDO authenticator (OpenSSH's PROTOCOL.u2f).
type fido struct {
	private ed25519.PrivateKey
	public  ssh.PublicKey
}

func skKey() fido {
	private := testKeys().ed25519b
	public, err := ssh.ParsePublicKey(ssh.Marshal(struct{ T, K, A string }{
		ssh.KeyAlgoSKED25519, string(private.Public().(ed25519.PublicKey)), "ssh:",
	}))
	if err != nil {
		panic(err)
	}
	return fido{private, public}
}

func skSign(k fido, message, flags []byte) []byte {
	b := blobParts{"SSHSIG", 1, k.public.Marshal(), provenance.Namespace, "", "sha512", nil, ""}
	application, digest := sha256.Sum256([]byte("ssh:")), sha256.Sum256(b.toSign(message))
	sig := ed25519.Sign(k.private, slices.Concat(application[:], flags, digest[:]))
	b.signature = append(ssh.Marshal(struct{ F, S string }{ssh.KeyAlgoSKED25519, string(sig)}), flags...)
	return b.bytes()
}

// TestHostileCertificates has everything right but the certificate.
func TestHostileCertificates(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	list := "*@example.com,!mallory@example.com cert-authority " + keyLine(t, k.ca)
	v := verifier(t, list)
	open := func(v *provenance.Verifier, authority crypto.Signer, change func(*ssh.Certificate)) (*provenance.Verified, error) {
		return v.Open(envelope(payload, handmade(t, certificate(t, authority, change), "", pae(payload), nil)))
	}
	got := must[*provenance.Verified](t)(open(v, k.ca, nil))
	if got.Signer != "ci@example.com" || got.KeyID != ssh.FingerprintSHA256(sshSigner(t, k.ed25519).PublicKey()) {
		t.Fatalf("signer %q by %s", got.Signer, got.KeyID)
	}
	t.Run("the first principal that matches", func(t *testing.T) {
		got := must[*provenance.Verified](t)(open(v, k.ca, func(c *ssh.Certificate) {
			c.ValidPrincipals = []string{"root", "mallory@example.com", "b@example.com", "a@example.com"}
		}))
		if got.Signer != "b@example.com" {
			t.Fatalf("signer %q", got.Signer)
		}
	})

	cases := []struct {
		name, want string
		change     func(*ssh.Certificate)
	}{
		{"no principals", "no principals", func(c *ssh.Certificate) { c.ValidPrincipals = nil }},
		{"other principals", "none of the certificate's principals", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} }},
		{"excepted principal", "none of the certificate's principals", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"mallory@example.com"} }},
		{"principal with a control character", "control", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a\n@example.com"} }},
		{"principal that is too long", "bytes", func(c *ssh.Certificate) { c.ValidPrincipals = []string{strings.Repeat("a", 300) + "@example.com"} }},
		{"host certificate", "not a user certificate", func(c *ssh.Certificate) { c.CertType = ssh.HostCert }},
		{"unknown type", "not a user certificate", func(c *ssh.Certificate) { c.CertType = 3 }},
		{"expired", "expired", func(c *ssh.Certificate) { c.ValidBefore = uint64(now.Unix()) }},
		{"not yet valid", "not yet valid", func(c *ssh.Certificate) { c.ValidAfter = uint64(now.Unix()) + 1 }},
		{"valid from beyond time", "not yet valid", func(c *ssh.Certificate) { c.ValidAfter = 1<<64 - 2 }},
		{"valid to beyond int64", "expired", func(c *ssh.Certificate) { c.ValidBefore = 1 << 63 }},
		{"unknown critical option", "critical options", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x@example.com": ""} }},
		{"source-address", "critical options", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "127.0.0.1/32"} }},
		{"force-command", "critical options", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "true"} }},
		{"verify-required", "critical options", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(v, k.ca, c.change)
			refused(t, err, c.want)
		})
	}
	t.Run("another authority", func(t *testing.T) {
		_, err := open(v, k.ca2, nil)
		refused(t, err, "not an allowed signer")
	})
	t.Run("another authority's signature under ours", func(t *testing.T) {
		cert := certificate(t, k.ca2, nil).PublicKey().(*ssh.Certificate)
		cert.SignatureKey = sshSigner(t, k.ca).PublicKey()
		s := must[ssh.Signer](t)(ssh.NewCertSigner(cert, sshSigner(t, k.ed25519)))
		_, err := v.Open(envelope(payload, handmade(t, s, "", pae(payload), nil)))
		refused(t, err, "does not verify")
	})
	t.Run("changed after it was signed", func(t *testing.T) {
		cert := certificate(t, k.ca, nil).PublicKey().(*ssh.Certificate)
		cert.ValidPrincipals = []string{"root@example.com"}
		s := must[ssh.Signer](t)(ssh.NewCertSigner(cert, sshSigner(t, k.ed25519)))
		_, err := v.Open(envelope(payload, handmade(t, s, "", pae(payload), nil)))
		refused(t, err, "does not verify")
	})
	t.Run("signed with SHA-1", func(t *testing.T) {
		cert := certificate(t, k.ca, nil).PublicKey().(*ssh.Certificate)
		old := must[ssh.MultiAlgorithmSigner](t)(ssh.NewSignerWithAlgorithms(sshSigner(t, k.rsa).(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA}))
		if err := cert.SignCert(rand.Reader, old); err != nil {
			t.Fatal(err)
		}
		s := must[ssh.Signer](t)(ssh.NewCertSigner(cert, sshSigner(t, k.ed25519)))
		v := verifier(t, "*@example.com cert-authority "+keyLine(t, k.rsa))
		_, err := v.Open(envelope(payload, handmade(t, s, "", pae(payload), nil)))
		refused(t, err, "SHA-1")
	})
	t.Run("a certificate within a certificate", func(t *testing.T) {
		inner := certificate(t, k.ca, nil).PublicKey()
		blob := handmade(t, sshSigner(t, k.ed25519), "", pae(payload), func(b *blobParts) {
			b.key = ssh.Marshal(struct {
				Type, Nonce, Key string
				Serial           uint64
				CertType         uint32
				ID, Principals   string
				After, Before    uint64
				Critical, Ext    string
				Reserved, CA     string
				Signature        string
			}{
				Type: ssh.CertAlgoED25519v01, Nonce: "n", Key: string(sshSigner(t, k.ed25519).PublicKey().(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)),
				CertType: ssh.UserCert, Principals: string(ssh.Marshal(struct{ P string }{"ci@example.com"})), Before: 1 << 40,
				CA: string(inner.Marshal()), Signature: string(ssh.Marshal(&ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)})),
			})
		})
		_, err := v.Open(envelope(payload, blob))
		refused(t, err, "parse SSH signature")
	})
	t.Run("the authority signs itself", func(t *testing.T) {
		_, err := v.Open(envelope(payload, handmade(t, sshSigner(t, k.ca), "", pae(payload), nil)))
		refused(t, err, "not an allowed signer")
	})
	t.Run("a listed key does not vouch for its certificate", func(t *testing.T) {
		_, err := open(verifier(t, "ci@example.com "+keyLine(t, k.ed25519)), k.ca, nil)
		refused(t, err, "not an allowed signer")
	})
	t.Run("authority for another namespace", func(t *testing.T) {
		_, err := open(verifier(t, `*@example.com cert-authority,namespaces="file" `+keyLine(t, k.ca)), k.ca, nil)
		refused(t, err, "namespace")
	})
	t.Run("authority of the past", func(t *testing.T) {
		_, err := open(verifier(t, `*@example.com cert-authority,valid-before="20260301115959Z" `+keyLine(t, k.ca)), k.ca, nil)
		refused(t, err, "valid only before")
	})
}

func TestValidityAndRevocation(t *testing.T) {
	k := testKeys()
	payload := encode(t, sample())
	ssha := seal(t, payload, signer(t, sshSigner(t, k.ed25519)))
	plain := seal(t, payload, must[provenance.Signer](t)(provenance.NewKeySigner(k.p256)))
	cert := seal(t, payload, signer(t, certificate(t, k.ca, nil)))
	print := func(key crypto.Signer) string { return ssh.FingerprintSHA256(sshSigner(t, key).PublicKey()) }
	line := keyLine(t, k.ed25519)
	ca := "*@example.com cert-authority " + keyLine(t, k.ca)
	cases := []struct {
		name string
		env  []byte
		cfg  provenance.VerifierConfig
		want string // empty: accepted
	}{
		{"at valid-after", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-after="20260301120000Z" ` + line)}, ""},
		{"at valid-before", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-before="20260301120000Z" ` + line)}, ""},
		{"future key", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-after="20260301120001Z" ` + line)}, "valid only after"},
		{"expired key", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-before="20260301115959Z" ` + line)}, "valid only before"},
		{"local time", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-after="202603011230" ` + line), Location: time.FixedZone("", 3600)}, ""},
		{"a second line may be valid", ssha, provenance.VerifierConfig{AllowedSigners: []byte(`a valid-before="20250101Z" ` + line + "\na " + line)}, ""},
		{"future plain key", plain, provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.p256.Public(), NotBefore: now.Add(1)}}}, "not yet valid"},
		{"expired plain key", plain, provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.p256.Public(), NotAfter: now.Add(-1)}}}, "no longer valid"},
		{"revoked key", ssha, provenance.VerifierConfig{AllowedSigners: []byte("a " + line), Revoked: []string{print(k.ed25519)}}, "revoked"},
		{"revoked plain key", plain, provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.p256.Public()}}, Revoked: []string{print(k.p256)}}, "revoked"},
		{"revoked key in a certificate", cert, provenance.VerifierConfig{AllowedSigners: []byte(ca), Revoked: []string{print(k.ed25519)}}, "revoked"},
		{"revoked authority", cert, provenance.VerifierConfig{AllowedSigners: []byte(ca), Revoked: []string{print(k.ca)}}, "authority"},
		{"another revoked", cert, provenance.VerifierConfig{AllowedSigners: []byte(ca), Revoked: []string{print(k.ca2)}}, ""},
		{"an SSH signature by a plain key", ssha, provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.ed25519.Public()}}}, "not an allowed signer"},
		{"a plain signature by an SSH key", seal(t, payload, must[provenance.Signer](t)(provenance.NewKeySigner(k.ed25519))), provenance.VerifierConfig{AllowedSigners: []byte("a " + line)}, "none of the listed keys"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Now = clock
			v := must[*provenance.Verifier](t)(provenance.NewVerifier(c.cfg))
			_, err := v.Open(c.env)
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			if c.want != "" {
				refused(t, err, c.want)
			}
		})
	}
}

func TestBadVerifierConfig(t *testing.T) {
	k := testKeys()
	line, ed := keyLine(t, k.ed25519), k.ed25519.Public()
	cases := []struct {
		name string
		cfg  provenance.VerifierConfig
		want string
	}{
		{"nobody", provenance.VerifierConfig{}, "no signer is trusted"},
		{"only comments", provenance.VerifierConfig{AllowedSigners: []byte("# nobody\n")}, "no signer is trusted"},
		{"one key, two names", provenance.VerifierConfig{AllowedSigners: []byte("a " + line + "\nb " + line)}, "one key names one signer"},
		{"one key, two names, one plain", provenance.VerifierConfig{AllowedSigners: []byte("a " + line), Keys: []provenance.PlainKey{{Identity: "b", Key: ed}}}, "one key names one signer"},
		{"plain key without a name", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Key: ed}}}, "name"},
		{"no plain key", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a"}}}, "not accepted"},
		{"nil ECDSA key", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: (*ecdsa.PublicKey)(nil)}}}, "P-256"},
		{"short ed25519 key", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: ed25519.PublicKey("x")}}}, "bytes"},
		{"P-384", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.p384.Public()}}}, "P-256"},
		{"a private key", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: k.ed25519}}}, "not accepted"},
		{"validity upside down", provenance.VerifierConfig{Keys: []provenance.PlainKey{{Identity: "a", Key: ed, NotBefore: now, NotAfter: now}}}, "ends before"},
		{"revoked by an MD5", provenance.VerifierConfig{AllowedSigners: []byte("a " + line), Revoked: []string{"MD5:00"}}, "SHA256:"},
		{"revoked by a padded hash", provenance.VerifierConfig{AllowedSigners: []byte("a " + line), Revoked: []string{ssh.FingerprintSHA256(sshSigner(t, k.ed25519).PublicKey()) + "="}}, "SHA256:"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := provenance.NewVerifier(c.cfg)
			refused(t, err, c.want)
		})
	}
}

func TestBadAllowedSigners(t *testing.T) {
	k := testKeys()
	line := keyLine(t, k.ed25519)
	cert := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(certificate(t, k.ca, nil).PublicKey())))
	type64 := strings.Fields(line)[1]
	cases := []struct{ name, file, want string }{
		{"too large", strings.Repeat("#", 1<<20+1), "at most"},
		{"a NUL", "a\x00 " + line, "UTF-8"},
		{"bad UTF-8", "a\xff " + line, "UTF-8"},
		{"principals only", "a", "no key"},
		{"no principals", line, "no key"},
		{"no key", "a cert-authority", "no key"},
		{"open quote", `"a ` + line, "quote"},
		{"space in the principals", `"a b" ` + line, "space"},
		{"empty principals", `"" ` + line, "principals"},
		{"only a wildcard", "* " + line, "name nobody"},
		{"only a question mark", "ci? " + line, "name nobody"},
		{"only an exception", "!a " + line, "name nobody"},
		{"its own exception", "a,!a " + line, "except"},
		{"name too long", strings.Repeat("a", 257) + " " + line, "bytes"},
		{"bad base64", "a ssh-ed25519 AAAA!", "read key"},
		{"another type", "a ssh-rsa " + type64, "type"},
		{"unknown type", "a ssh-none " + type64, "type"},
		{"a certificate", "a " + cert, "certificate"},
		{"a certificate as authority", "* cert-authority " + cert, "certificate"},
		{"RSA of 1024 bits", "a " + keyLine(t, k.rsaSmall), "2048 bits"},
		{"unknown option", "a no-touch-required " + line, "not a known"},
		{"option without its value", "a namespaces " + line, "not a known"},
		{"authority with a value", `a cert-authority="yes" ` + line, "not a known"},
		{"value without quotes", "a namespaces=file " + line, "quotes"},
		{"value without an end", `a namespaces="file ` + line, "quote"},
		{"empty namespaces", `a namespaces="" ` + line, "empty"},
		{"option twice", `a valid-after="20260101Z",VALID-AFTER="20260101Z" ` + line, "twice"},
		{"no space after the options", `a namespaces="file"` + line, "comma or a space"},
		{"option list ends in a comma", `a cert-authority, ` + line, "not a known"},
		{"half a date", `a valid-after="202601" ` + line, "YYYYMMDD"},
		{"thirteenth month", `a valid-after="20261301" ` + line, "no such time"},
		{"the first of all days", `a valid-before="00010101Z" ` + line, "no such time"},
		{"a date with a dash", `a valid-after="2026-01-01" ` + line, "YYYYMMDD"},
		{"a negative date", `a valid-after="-2026010" ` + line, "YYYYMMDD"},
		{"only a zone", `a valid-after="Z" ` + line, "YYYYMMDD"},
		{"validity upside down", `a valid-after="20260101Z",valid-before="20260101Z" ` + line, "not later"},
		{"second line", "a " + line + "\nb " + line, "line 2"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := provenance.ParseAllowedSigners([]byte(c.file), nil)
			refused(t, err, c.want)
		})
	}
}

func TestHostileArmor(t *testing.T) {
	blob := bytes.Repeat([]byte("SSHSIG"), 30)
	good := string(provenance.ArmorSSH(blob))
	for _, text := range []string{good, strings.TrimSuffix(good, "\n"), strings.ReplaceAll(good, "\n", "\r\n")} {
		if got, err := provenance.UnarmorSSH([]byte(text)); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for name, text := range map[string]string{
		"text before":       "hello\n" + good,
		"empty line before": "\n" + good,
		"space before":      " " + good,
		"text after":        good + "hello\n",
		"two line ends":     good + "\n",
		"two signatures":    good + good,
		"no begin":          good[5:],
		"no end":            good[:len(good)-10],
		"other begin":       strings.Replace(good, "SSH", "PGP", 1),
		"a header":          strings.Replace(good, "-----\n", "-----\nComment: x\n", 1),
		"bad base64":        strings.Replace(good, "U1NI", "U1N!", 1),
		"stray bits":        "-----BEGIN SSH SIGNATURE-----\nQR==\n-----END SSH SIGNATURE-----\n",
		"too long":          good + strings.Repeat(" ", 1<<20),
		"empty":             "",
		"nothing within":    "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
	} {
		if got, err := provenance.UnarmorSSH([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %q", name, got)
		}
	}
}

// BenchmarkOpen opens a statement on 100 objects with 50 sources.
func BenchmarkOpen(b *testing.B) {
	k := testKeys()
	s := sample()
	s.Subjects = nil
	for i := range 100 {
		hash := fmt.Sprintf("%064x", i)
		name := hash[:2] + "/" + hash[2:4] + "/sstate:zlib::1:r0::14:" + hash + "_fetch.tar.zst.siginfo"
		s.Subjects = append(s.Subjects, provenance.Subject{Name: name, Digest: digest(1), Size: 1})
	}
	for i := range 50 {
		s.Inputs = append(s.Inputs, git(fmt.Sprint("team/", i), "50ff9644b9f2a2a4b2d5a4cbe2b9b3d0a8f1c2d3"))
	}
	env := seal(b, encode(b, s), signer(b, sshSigner(b, k.ed25519)))
	v := verifier(b, "ci@example.com "+keyLine(b, k.ed25519))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Open(env); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	k := testKeys()
	payload := encode(f, sample())
	f.Add(seal(f, payload, signer(f, sshSigner(f, k.ed25519))))
	f.Add(envelope(payload, []byte("x")))
	v := verifier(f, "ci@example.com "+keyLine(f, k.ed25519))
	f.Fuzz(func(t *testing.T, env []byte) {
		got, err := v.Open(env)
		if err == nil && !bytes.Equal(encode(t, got.Statement), payload) {
			t.Fatal("a statement that nobody signed")
		}
	})
}

func FuzzSSHSIG(f *testing.F) {
	k := testKeys()
	for _, s := range []ssh.Signer{sshSigner(f, k.ed25519), sshSigner(f, k.p384), sshSigner(f, k.rsa), certificate(f, k.ca, nil)} {
		f.Add(must[[]byte](f)(provenance.SignSSH(s, "test", []byte("message"))))
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		if back, err := provenance.UnarmorSSH(provenance.ArmorSSH(blob)); len(blob) > 0 && len(blob) < 1<<16 && (err != nil || !bytes.Equal(back, blob)) {
			t.Fatalf("armour does not come off: %v", err)
		}
		s, err := provenance.ParseSSHSignature(blob)
		if err != nil {
			return
		}
		if s.Namespace == "" || s.Verify("another message was signed", []byte("other")) == nil {
			t.Fatal("accepted what was not signed")
		}
	})
}

func FuzzAllowedSigners(f *testing.F) {
	k := testKeys()
	line := keyLine(f, k.ed25519)
	f.Add("a " + line)
	f.Add(`*@x,!y cert-authority,namespaces="a\"b",valid-after="20260101Z" ` + line + "\n# c\n")
	key := sshSigner(f, k.ed25519).PublicKey()
	f.Fuzz(func(t *testing.T, file string) {
		a, err := provenance.ParseAllowedSigners([]byte(file), time.UTC)
		if err != nil {
			return
		}
		name, err := a.Identity(key, "ns", now)
		if err == nil && (name == "" || strings.ContainsAny(name, "*?!,") || !strings.Contains(file, name) || !strings.Contains(file, strings.Fields(line)[1])) {
			t.Fatalf("the key belongs to %q by %q", name, file)
		}
	})
}
