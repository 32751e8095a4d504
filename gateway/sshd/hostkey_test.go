package sshd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lychgate/lychgate/gateway/sshd"
)

// TestHostKeyIsMadeOnce: the first start makes a key that only its owner may read, the next ones find it, and of several that start
// at once all have the same.
func TestHostKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "ssh")
	prints := make([]string, 8)
	var wg sync.WaitGroup
	for i := range prints {
		wg.Go(func() {
			keys, err := sshd.LoadHostKeys(dir, nil)
			if err != nil || len(keys) != 1 {
				t.Errorf("%d keys, %v", len(keys), err)
				return
			}
			prints[i] = sshd.Fingerprints(keys)[0]
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] || !strings.HasPrefix(p, "ssh-ed25519 SHA256:") {
			t.Errorf("%q", prints)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	r := client(t, "", "ssh-keygen", "-l", "-f", filepath.Join(dir, entries[0].Name()))
	if words := strings.Fields(r.out); len(words) < 2 || "ssh-ed25519 "+words[1] != prints[0] {
		t.Errorf("ssh-keygen reads %+v, want %s", r, prints[0])
	}
}

func TestHostKeyFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, key any, mode os.FileMode, passphrase string) string {
		block, err := ssh.MarshalPrivateKey(key, "")
		if passphrase != "" {
			block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	small, err1 := rsa.GenerateKey(rand.Reader, 2048)
	big, err2 := rsa.GenerateKey(rand.Reader, 3072)
	curve, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	good, second := write("good", big, 0o600, ""), write("second", curve, 0o400, "")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files []string
		want  string // in the error; "" for none
	}{
		"two kinds":    {[]string{good, second}, ""},
		"twice":        {[]string{good, good}, "both ssh-rsa"},
		"short":        {[]string{write("small", small, 0o600, "")}, "3072"},
		"readable":     {[]string{write("group", curve, 0o640, "")}, "chmod 600"},
		"for all":      {[]string{write("all", curve, 0o604, "")}, "chmod 600"},
		"locked":       {[]string{write("locked", curve, 0o600, "secret")}, "passphrase"},
		"absent":       {[]string{filepath.Join(dir, "absent")}, "no such file"},
		"no key":       {[]string{empty}, "not a private key"},
		"no directory": {[]string{dir}, "chmod 600"},
	} {
		keys, err := sshd.LoadHostKeys(dir, c.files)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, keys, err, c.want)
		}
	}
	keys, err := sshd.LoadHostKeys(dir, []string{good, second})
	if err != nil {
		t.Fatal(err)
	}
	if signer, ok := keys[0].(ssh.MultiAlgorithmSigner); !ok || strings.Contains(strings.Join(signer.Algorithms(), " ")+" ", "ssh-rsa ") {
		t.Error("an RSA key signs with SHA-1")
	}
}

// TestKnownHosts: the lines are those of a known_hosts file.
func TestKnownHosts(t *testing.T) {
	keys, err := sshd.LoadHostKeys(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"127.0.0.1:2222": "[127.0.0.1]:2222", "gate.example.com:22": "gate.example.com", "gate.example.com": "gate.example.com", "[::1]:2222": "[::1]:2222",
	} {
		line := sshd.KnownHosts(addr, keys)
		_, hosts, key, _, rest, err := ssh.ParseKnownHosts([]byte(line))
		if err != nil || len(hosts) != 1 || hosts[0] != want || len(rest) != 0 || ssh.FingerprintSHA256(key) != ssh.FingerprintSHA256(keys[0].PublicKey()) {
			t.Errorf("%s: %q, %v", addr, line, err)
		}
		if normal := knownhosts.Normalize(addr); normal != want {
			t.Errorf("%s: the library has %q, we %q", addr, normal, want)
		}
	}
}
