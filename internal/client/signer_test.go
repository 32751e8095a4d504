package client

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/lychgate/lychgate/authz/provenance"
)

// keyFiles writes keys of every sort into a directory and returns it, with the fingerprint of the first.
func keyFiles(t *testing.T) (dir, fingerprint string, key ed25519.PrivateKey) {
	t.Helper()
	dir = t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, block *pem.Block, err error) {
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, name, pem.EncodeToMemory(block))
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	write("ed", block, err)
	block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("open"))
	write("locked", block, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	write("plain", &pem.Block{Type: "PRIVATE KEY", Bytes: der}, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err = x509.MarshalPKCS8PrivateKey(p384)
	write("p384", &pem.Block{Type: "PRIVATE KEY", Bytes: der}, err)
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "ed.pub", ssh.MarshalAuthorizedKey(signer.PublicKey()))
	put(t, dir, "junk", []byte("no key"))
	return dir, ssh.FingerprintSHA256(signer.PublicKey()), key
}

// certify writes a user certificate of key to a file.
func certify(t *testing.T, path string, key ed25519.PrivateKey) *ssh.Certificate {
	t.Helper()
	_, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ssh.NewSignerFromKey(caKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: own, CertType: ssh.UserCert, ValidPrincipals: []string{"ci"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Dir(path), filepath.Base(path), ssh.MarshalAuthorizedKey(cert))
	return cert
}

func signs(t *testing.T, s provenance.Signer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if sig, id, err := s.Sign([]byte("pae")); err != nil || len(sig) == 0 || !strings.HasPrefix(id, "SHA256:") {
		t.Errorf("signature of %d bytes by %q: %v", len(sig), id, err)
	}
}

func TestLoadSigner(t *testing.T) {
	dir, _, key := keyFiles(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	load := func(o SignerOptions) { t.Helper(); s, err := LoadSigner(o); signs(t, s, err) }
	load(SignerOptions{Key: file("ed")})
	load(SignerOptions{Key: file("plain")})
	load(SignerOptions{Key: file("locked"), Passphrase: func(prompt string) ([]byte, error) {
		if !strings.Contains(prompt, "locked") {
			t.Errorf("prompt %q", prompt)
		}
		return []byte("open"), nil
	}})
	certify(t, file("ed-cert.pub"), key)
	load(SignerOptions{Key: file("ed")})

	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certify(t, file("other-cert.pub"), other)
	for want, o := range map[string]SignerOptions{
		"no key to sign with":      {},
		"ssh-keygen -t ed25519":    {Key: file("none")},
		"not a key file":           {Key: dir},
		"key file":                 {Key: file("junk")},
		"P-256":                    {Key: file("p384")},
		"needs a passphrase":       {Key: file("locked")},
		"passphrase is wrong":      {Key: file("locked"), Passphrase: func(string) ([]byte, error) { return []byte("x"), nil }},
		"ask for the passphrase":   {Key: file("locked"), Passphrase: func(string) ([]byte, error) { return nil, errors.New("no terminal") }},
		"for another key":          {Key: file("ed"), Certificate: file("other-cert.pub")},
		"no such file":             {Key: file("ed"), Certificate: file("none-cert.pub")},
		"must come from ssh-agent": {Key: file("ed.pub")},
		"is SSH_AUTH_SOCK right":   {Key: "SHA256:abc", AgentSocket: file("none.sock")},
	} {
		if _, err := LoadSigner(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}

func TestLoadSignerFromAgent(t *testing.T) {
	dir, fingerprint, key := keyFiles(t)
	keyring := agent.NewKeyring()
	socket := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, conn) }()
		}
	}()
	o := SignerOptions{AgentSocket: socket}
	if _, err := LoadSigner(o); err == nil || !strings.Contains(err.Error(), "holds no key") {
		t.Errorf("empty agent: %v", err)
	}
	add := func(k agent.AddedKey) {
		t.Helper()
		if err := keyring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	add(agent.AddedKey{PrivateKey: key})
	s, err := LoadSigner(o)
	signs(t, s, err)
	framed := func(s provenance.Signer, err error, want string) {
		t.Helper()
		signs(t, s, err)
		if err == nil {
			if sig, _, err := s.Sign([]byte("pae")); err != nil || !strings.Contains(string(sig), want) || strings.Contains(string(sig), ssh.CertAlgoED25519v01) != (want == ssh.CertAlgoED25519v01) {
				t.Errorf("the signature is not by a %s: %v", want, err)
			}
		}
	}
	// A certificate and its key are one candidate. One that has expired is none, and the key signs alone.
	cert := certify(t, filepath.Join(dir, "loose-cert.pub"), key)
	add(agent.AddedKey{PrivateKey: key, Certificate: cert})
	for _, name := range []string{"", fingerprint} {
		s, err := LoadSigner(SignerOptions{Key: name, AgentSocket: socket})
		framed(s, err, ssh.CertAlgoED25519v01)
	}
	expired := *cert
	expired.ValidBefore = 1
	if err := keyring.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	add(agent.AddedKey{PrivateKey: key, Certificate: &expired})
	add(agent.AddedKey{PrivateKey: key})
	s, err = LoadSigner(o)
	framed(s, err, ssh.KeyAlgoED25519)
	add(agent.AddedKey{PrivateKey: key, Certificate: cert})
	_, second, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add(agent.AddedKey{PrivateKey: second})
	if _, err := LoadSigner(o); err == nil || !strings.Contains(err.Error(), "several keys") || !strings.Contains(err.Error(), fingerprint) {
		t.Errorf("two keys: %v", err)
	}
	for _, name := range []string{fingerprint, filepath.Join(dir, "ed.pub")} {
		s, err := LoadSigner(SignerOptions{Key: name, AgentSocket: socket})
		signs(t, s, err)
	}
	s, err = LoadSigner(SignerOptions{Key: filepath.Join(dir, "ed.pub"), Certificate: filepath.Join(dir, "loose-cert.pub"), AgentSocket: socket})
	signs(t, s, err)
	if _, err := LoadSigner(SignerOptions{Key: "SHA256:none", AgentSocket: socket}); err == nil || !strings.Contains(err.Error(), "ssh-add it") {
		t.Errorf("unknown key: %v", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
