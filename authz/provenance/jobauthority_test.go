package provenance_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
)

// jobKeyPair makes a key: its signer, its line, and its private file.
func jobKeyPair(t *testing.T) (signer ssh.Signer, line string, file []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), pem.EncodeToMemory(block)
}

// TestJobAuthority: a certified key signs statements as the job, while the certificate lasts, and nothing else.
func TestJobAuthority(t *testing.T) {
	authoritySigner, authorityLine, file := jobKeyPair(t)
	a, err := provenance.NewJobAuthority(file)
	if err != nil {
		t.Fatal(err)
	}
	key, line, _ := jobKeyPair(t)
	now := time.Now()
	const identity = "job:git.example.com/#7"
	text, err := a.Certify(line, identity, now.Add(-time.Minute), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	paired, err := provenance.PairCertificate(key, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := provenance.ParseAllowedSigners([]byte("# the operator's\n"+a.AllowedSigner()), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, namespace string
		key             ssh.PublicKey
		at              time.Time
		want            string
	}{
		{"in time", provenance.Namespace, paired.PublicKey(), now, identity},
		{"too late", provenance.Namespace, paired.PublicKey(), now.Add(2 * time.Hour), ""},
		{"too early", provenance.Namespace, paired.PublicKey(), now.Add(-time.Hour), ""},
		{"for something else", "git", paired.PublicKey(), now, ""},
		{"without its certificate", provenance.Namespace, key.PublicKey(), now, ""},
		{"the authority itself", provenance.Namespace, authoritySigner.PublicKey(), now, ""},
	} {
		if got, err := allowed.Identity(tt.key, tt.namespace, tt.at); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	for name, bad := range map[string][2]string{
		"a certificate": {text, identity}, "its own key": {authorityLine, identity}, "no key": {"ssh-ed25519 AAAA", identity},
	} {
		if _, err := a.Certify(bad[0], bad[1], now, now.Add(time.Hour)); !errors.Is(err, provenance.ErrBadKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "job:a b", "job:a,ci-main", "job:*", "job:" + strings.Repeat("x", 300)} {
		if _, err := a.Certify(line, name, now, now.Add(time.Hour)); err == nil || errors.Is(err, provenance.ErrBadKey) {
			t.Errorf("the identity %q: %v", name, err)
		}
	}
	if _, err := provenance.NewJobAuthority([]byte(line)); err == nil {
		t.Error("a public key is taken for an authority")
	}
}

// TestJobIdentity: a job that nobody protects never has the name of one that somebody does.
func TestJobIdentity(t *testing.T) {
	for want, p := range map[string]authn.Principal{
		"job:git.example.com/#7": {Forge: "git.example.com", ID: "7"}, "job:/#gitlab-main": {ID: "gitlab-main"},
		"review-job:/#gitlab-main": {ID: "gitlab-main", Review: true},
	} {
		if got := provenance.JobIdentity(&p); got != want {
			t.Errorf("%+v is %q, want %q", p, got, want)
		}
	}
}
