package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// client makes a client certificate with one URI.
func (a *authority) client(serial int64, uri string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	name, err := url.Parse(uri)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// revocations makes a revocation list in PEM.
func (a *authority) revocations(number int64, until time.Time, serials ...int64) string {
	a.t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: until}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// withCertificate asks who one is, over a connection that is kept open, without a token. It returns the status, the answer and
// whether the connection was used before.
func withCertificate(w *world, cert tls.Certificate) func() (status int, text string, reused bool) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.ca, Certificates: []tls.Certificate{cert}}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return func() (status int, text string, reused bool) {
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(w.t.Context(), trace), http.MethodGet, w.q.url()+"/v1/whoami", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, err.Error(), reused
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			w.t.Error(err)
		}
		return res.StatusCode, string(body), reused
	}
}

// TestRevokedOnOpenConnection revokes a certificate while its connection is open: the next request on it is refused, a new
// handshake too, and the certificate of somebody else is as good as before. When the list ends, all are refused.
func TestRevokedOnOpenConnection(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
		for name, text := range map[string]string{"clients.pem": ca, "clients.crl": a.revocations(1, time.Now().Add(time.Hour))} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text = strings.Replace(text, "https:\n", "https:\n  client_ca: clients.pem\n  client_crls: [file:clients.crl]\n", 1)
		return text + "certificates:\n  - {uri: \"spiffe://example.com/user/{name}\", principal: {forge: git.example.com}}\n"
	})
	gate := w.start()
	alice, bob := withCertificate(w, a.client(10, "spiffe://example.com/user/alice")), withCertificate(w, a.client(11, "spiffe://example.com/user/bob"))
	for range 2 {
		if status, text, _ := alice(); status != http.StatusOK || !strings.Contains(text, `"alice"`) {
			t.Fatalf("alice: %d %s", status, text)
		}
		if status, text, _ := bob(); status != http.StatusOK || !strings.Contains(text, `"bob"`) {
			t.Fatalf("bob: %d %s", status, text)
		}
	}
	if status, _, _ := withCertificate(w, a.client(12, "spiffe://example.com/user/mallory"))(); status != http.StatusUnauthorized {
		t.Errorf("a name that is nobody's: %d", status)
	}
	if left, err := strconv.ParseFloat(w.metric("lychgate_client_crl_seconds_left"), 64); err != nil || left <= 0 || left > 3600 {
		t.Errorf("lychgate_client_crl_seconds_left is %v, %v", left, err)
	}

	w.write("clients.crl", a.revocations(2, time.Now().Add(time.Hour), 10))
	gate.await("the new list is in force", func() bool { return strings.Contains(gate.log.String(), "number=2") })
	if status, text, reused := alice(); status != http.StatusUnauthorized || !reused {
		t.Errorf("alice on her open connection (reused: %v): %d %s", reused, status, text)
	}
	if status, text, _ := withCertificate(w, a.client(10, "spiffe://example.com/user/alice"))(); status != 0 || !strings.Contains(text, "tls: ") {
		t.Errorf("alice anew: %d %s", status, text)
	}
	if status, text, reused := bob(); status != http.StatusOK || !reused {
		t.Errorf("bob on his open connection (reused: %v): %d %s", reused, status, text)
	}
	out, _ := w.run("audit", "tail", "--lines", "0")
	if !strings.Contains(out, "revoked_credential") {
		t.Errorf("the trail does not say why alice is refused:\n%s", out)
	}

	w.write("clients.crl", a.revocations(3, time.Now().Add(10*time.Second))) // it is read within two
	gate.await("the list ended", func() bool { return strings.Contains(gate.log.String(), "revocation list ended") })
	if status, text, reused := bob(); status != http.StatusUnauthorized || !reused {
		t.Errorf("bob after the list ended (reused: %v): %d %s", reused, status, text)
	}
	if left, err := strconv.ParseFloat(w.metric("lychgate_client_crl_seconds_left"), 64); err != nil || left > 0 {
		t.Errorf("lychgate_client_crl_seconds_left is %v, %v", left, err)
	}
	gate.stop()
}
