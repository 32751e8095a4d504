package devca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/devca"
)

func open(t *testing.T, dir string, now func() time.Time) *devca.CA {
	t.Helper()
	ca, err := devca.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOpenKeepsTheAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ca")
	first := open(t, dir, nil)
	if err := os.Remove(first.File()); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir, nil)
	if !bytes.Equal(first.PEM(), second.PEM()) {
		t.Error("the second Open made another authority")
	}
	onDisk, err := os.ReadFile(second.File())
	if err != nil || !bytes.Equal(onDisk, first.PEM()) {
		t.Errorf("ca.pem = %q, %v", onDisk, err)
	}
	if strings.Contains(string(onDisk), "PRIVATE") {
		t.Error("ca.pem holds the key")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v, want mode 0600", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("directory holds %v, %v, want ca.key and ca.pem alone", entries, err)
	}
}

func TestConcurrentOpensAgree(t *testing.T) {
	dir := t.TempDir()
	pems := make([]string, 8)
	var wg sync.WaitGroup
	for i := range pems {
		wg.Go(func() {
			ca, err := devca.Open(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			pems[i] = string(ca.PEM())
		})
	}
	wg.Wait()
	for _, p := range pems {
		if p != pems[0] {
			t.Fatal("two authorities were made")
		}
	}
}

func TestDamagedAuthorityIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, nil)
	path := filepath.Join(dir, "ca.key")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devca.Open(dir, nil); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("Open = %v, want an error that says what to do", err)
	}
}

func TestEndedAuthorityIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, nil)
	later := func() time.Time { return time.Now().AddDate(11, 0, 0) }
	if _, err := devca.Open(dir, later); err == nil || !strings.Contains(err.Error(), "it ended on") {
		t.Errorf("Open = %v, want an error that says it ended", err)
	}
}

func TestLeaf(t *testing.T) {
	now := time.Now()
	ca := open(t, t.TempDir(), func() time.Time { return now })
	leaf, err := ca.Leaf("gate.example.com", "127.0.0.1", "::1")
	if err != nil {
		t.Fatal(err)
	}
	get := func() *tls.Certificate {
		t.Helper()
		cert, err := leaf.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := get()
	for _, name := range []string{"gate.example.com", "127.0.0.1", "::1"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool(), CurrentTime: now}); err != nil {
			t.Errorf("verify for %q: %v", name, err)
		}
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: "other.example.com", Roots: ca.Pool(), CurrentTime: now}); err == nil {
		t.Error("the certificate is good for a name it was not made for")
	}
	clientUse := x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := first.Leaf.Verify(clientUse); err == nil {
		t.Error("the server certificate is good as a client certificate")
	}

	now = now.Add(19 * 24 * time.Hour)
	if get() != first {
		t.Error("renewed after 19 of 30 days")
	}
	now = now.Add(2 * 24 * time.Hour)
	second := get()
	if second == first || second.Leaf.NotAfter.Before(first.Leaf.NotAfter) {
		t.Error("not renewed after 21 of 30 days")
	}
}

func TestLeafEndsWithTheAuthority(t *testing.T) {
	now := time.Now()
	ca := open(t, t.TempDir(), func() time.Time { return now })
	now = now.Add(10*365*24*time.Hour - 24*time.Hour)
	leaf, err := ca.Leaf("localhost")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaf.GetCertificate(nil)
	if err != nil || cert.Leaf.NotAfter.After(now.Add(25*time.Hour)) {
		t.Errorf("leaf until %v, %v, want no longer than its authority", cert.Leaf.NotAfter, err)
	}
}

func TestLeafWithoutNames(t *testing.T) {
	if _, err := open(t, t.TempDir(), nil).Leaf(); err == nil {
		t.Error("a certificate for nothing was made")
	}
}

func TestClient(t *testing.T) {
	ca := open(t, t.TempDir(), nil)
	cert, err := ca.Client("spiffe://example.com/ci/main")
	if err != nil {
		t.Fatal(err)
	}
	use := x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := cert.Leaf.Verify(use); err != nil {
		t.Error(err)
	}
	if got := cert.Leaf.URIs; len(got) != 1 || got[0].String() != "spiffe://example.com/ci/main" {
		t.Errorf("URIs = %v", got)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool()}); err == nil {
		t.Error("the client certificate is good as a server certificate")
	}
}
