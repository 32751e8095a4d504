package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway"
)

// sourceCertificate writes a certificate of somebody, and its key.
func sourceCertificate(t *testing.T, dir, name string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{Subject: pkix.Name{CommonName: name}}, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

// TestClientCertificate: a certificate that was renewed is shown for the next token, also while connections with the old one are open; half of
// one is not.
func TestClientCertificate(t *testing.T) {
	var shown []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("shown %q beside the certificate", r.Header.Get("Authorization"))
		}
		shown = append(shown, r.TLS.PeerCertificates[0].Subject.CommonName)
		respond(w, 201, goodReply())
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	sourceCertificate(t, dir, "one")
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	cfg := Config{Gate: server.URL, CA: pool, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	source := ClientCertificate{Name: "cert.pem"}
	sign := func() {
		t.Helper()
		if _, err := source.Token(t.Context(), c, gateway.TokenRequest{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Token(t.Context(), gateway.TokenRequest{}); err != nil { // its connection stays open
		t.Error(err)
	}
	sign()
	sourceCertificate(t, dir, "two")
	sign()
	put(t, dir, "key.pem", []byte("half of one"))
	sign()
	if got := strings.Join(shown, " "); got != "one one two two" {
		t.Errorf("shown %s", got)
	}
	if source.String() != "the client certificate cert.pem" {
		t.Error(source)
	}
	for _, bad := range []Config{cfg, {Gate: cfg.Gate, CertFile: cfg.CertFile}, {Gate: cfg.Gate, KeyFile: cfg.KeyFile}, {Gate: cfg.Gate, CertFile: cfg.CertFile, Transport: http.DefaultTransport}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
