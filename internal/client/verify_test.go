package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// verifySigner is a key, and the line that lets it sign.
func verifySigner(t *testing.T, identity string) (s provenance.Signer, line, fingerprint string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = provenance.NewSSHSigner(raw); err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(raw.PublicKey())))
	return s, identity + ` namespaces="` + provenance.Namespace + `" ` + public + "\n", ssh.FingerprintSHA256(raw.PublicKey())
}

// verifyEnvelope signs that objects have contents.
func verifyEnvelope(t *testing.T, s provenance.Signer, zone string, files map[string][]byte) []byte {
	t.Helper()
	st := &provenance.Statement{Zone: zone, Audience: "https://gate.example.com", Builder: "https://ci.example.com", IssuedAt: time.Now()}
	st.Sources = []source.Source{source.Parse(git("pub/lib"), rev1)}
	st.Inputs = st.Sources
	for name, content := range files {
		st.Subjects = append(st.Subjects, provenance.Subject{Name: name, Digest: sha256.Sum256(content), Size: int64(len(content))})
	}
	payload, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := provenance.Seal(payload, s)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

// verifyDir writes statements as files.
func verifyDir(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestVerify: an object is verified when one statement of a trusted signer names its bytes, whatever else there is.
func TestVerify(t *testing.T) {
	cache := twoRecipes(t)
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range cache.files {
			if !yield(name) {
				return
			}
		}
	})
	first := names[0]
	others := map[string][]byte{first: []byte("other bytes")}
	ci, ciLine, fingerprint := verifySigner(t, "ci")
	eve, _, _ := verifySigner(t, "ci")
	good := verifyEnvelope(t, ci, "main", cache.files)
	outside := filepath.Join(t.TempDir(), "outside.intoto.json")
	if err := os.WriteFile(outside, good, 0o600); err != nil {
		t.Fatal(err)
	}
	linked := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(linked, "link.intoto.json")); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		dir        string
		revoked    []string
		zones      []string
		fetched    []byte
		verified   int
		untrusted  int
		firstFails string // why the first object fails; empty when it does not
	}{
		{name: "a statement", dir: verifyDir(t, map[string][]byte{"a/b/s.intoto.json": good}), verified: len(names)},
		{name: "one that the gate gives", dir: t.TempDir(), fetched: good, verified: len(names)},
		{name: "none", dir: t.TempDir(), firstFails: "no statement of a trusted signer"},
		{name: "another ending", dir: verifyDir(t, map[string][]byte{"s.json": good}), firstFails: "no statement of a trusted signer"},
		{name: "a link that leads out", dir: linked, firstFails: "no statement of a trusted signer"},
		{
			name: "somebody else's", dir: verifyDir(t, map[string][]byte{"s.intoto.json": verifyEnvelope(t, eve, "main", cache.files)}), untrusted: 1,
			firstFails: "no statement of a trusted signer",
		},
		{name: "one that the gate makes up", dir: t.TempDir(), fetched: verifyEnvelope(t, eve, "main", cache.files), untrusted: 1, firstFails: "no statement of a trusted signer"},
		{name: "cut", dir: verifyDir(t, map[string][]byte{"s.intoto.json": good[:len(good)-2]}), untrusted: 1, firstFails: "no statement of a trusted signer"},
		{
			name: "too large", dir: verifyDir(t, map[string][]byte{"s.intoto.json": append(bytes.Clone(good), bytes.Repeat([]byte(" "), maxEnvelope)...)}), untrusted: 1,
			firstFails: "no statement of a trusted signer",
		},
		{name: "of a revoked key", dir: verifyDir(t, map[string][]byte{"s.intoto.json": good}), revoked: []string{fingerprint}, untrusted: 1, firstFails: "no statement of a trusted signer"},
		{name: "for another zone", dir: verifyDir(t, map[string][]byte{"s.intoto.json": good}), zones: []string{"review"}, untrusted: 1, firstFails: "no statement of a trusted signer"},
		{name: "for one of the zones", dir: verifyDir(t, map[string][]byte{"s.intoto.json": good}), zones: []string{"review", "main"}, verified: len(names)},
		{name: "about other bytes", dir: verifyDir(t, map[string][]byte{"s.intoto.json": verifyEnvelope(t, ci, "main", others)}), firstFails: "its bytes are others"},
		{
			name: "about other bytes, and about these", verified: len(names),
			dir: verifyDir(t, map[string][]byte{"a.intoto.json": verifyEnvelope(t, ci, "main", others), "b.intoto.json": good}),
		},
	} {
		verifier, err := provenance.NewVerifier(provenance.VerifierConfig{AllowedSigners: []byte(ciLine), Revoked: row.revoked})
		if err != nil {
			t.Fatal(err)
		}
		o := VerifyOptions{Cache: cache, Statements: []string{row.dir}, Verifier: verifier, Zones: row.zones}
		o.Fetch = func(context.Context, string) ([]byte, error) {
			if row.fetched == nil {
				return nil, fs.ErrNotExist
			}
			return row.fetched, nil
		}
		v, err := Verify(t.Context(), o)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if len(v.Verified) != row.verified || len(v.Untrusted) != row.untrusted || len(v.Verified)+len(v.Failed) != len(names) {
			t.Errorf("%s: %d verified, %d failed, %d statements untrusted: %v", row.name, len(v.Verified), len(v.Failed), len(v.Untrusted), v.Untrusted)
		}
		at := slices.IndexFunc(v.Failed, func(p Problem) bool { return p.Name == first })
		if row.firstFails == "" && at >= 0 || row.firstFails != "" && (at < 0 || !strings.Contains(v.Failed[at].Reason, row.firstFails)) {
			t.Errorf("%s: %v", row.name, v.Failed)
		}
		if row.verified > 0 && v.Verified[0].Signer != "ci" {
			t.Errorf("%s: signed by %q", row.name, v.Verified[0].Signer)
		}
	}
}

// TestVerifyFaults: what cannot be done is an error, and not a failure of objects.
func TestVerifyFaults(t *testing.T) {
	ci, line, _ := verifySigner(t, "ci")
	verifier, err := provenance.NewVerifier(provenance.VerifierConfig{AllowedSigners: []byte(line)})
	if err != nil {
		t.Fatal(err)
	}
	cache := twoRecipes(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	away := errors.New("the gate is away")
	for name, o := range map[string]VerifyOptions{
		"no directory": {Statements: []string{filepath.Join(t.TempDir(), "missing")}},
		"no gate":      {Fetch: func(context.Context, string) ([]byte, error) { return nil, away }},
	} {
		o.Cache, o.Verifier = cache, verifier
		if v, err := Verify(t.Context(), o); err == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
	dir := verifyDir(t, map[string][]byte{"s.intoto.json": verifyEnvelope(t, ci, "main", cache.files)})
	if v, err := Verify(ended, VerifyOptions{Cache: cache, Verifier: verifier, Statements: []string{dir}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", v, err)
	}
}
