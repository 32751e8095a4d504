package servertls_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/servertls"
)

// pair is a self-signed certificate with its key, in PEM.
type pair struct{ cert, key []byte }

// newPair makes one; change may alter the template.
func newPair(t testing.TB, change func(*x509.Certificate)) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "gate"}, DNSNames: []string{"gate.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func (p pair) tls(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// files writes a pair where a Reloader reads it.
func files(t testing.TB, p pair) servertls.Files {
	t.Helper()
	dir := t.TempDir()
	f := servertls.Files{Cert: filepath.Join(dir, "gate.pem"), Key: filepath.Join(dir, "gate.key"), Log: slog.New(slog.DiscardHandler)}
	write(t, f, p)
	return f
}

func write(t testing.TB, f servertls.Files, p pair) {
	t.Helper()
	for path, text := range map[string][]byte{f.Cert: p.cert, f.Key: p.key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// handshake connects a client and a server over loopback, and returns what each ends with. A pipe would not do: TLS
// 1.3 has both sides write at the end.
func handshake(t testing.TB, server, client *tls.Config) (tls.ConnectionState, tls.ConnectionState, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		state tls.ConnectionState
		err   error
	}
	served := make(chan result, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- result{err: err}
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if err := s.Handshake(); err != nil {
			served <- result{err: err}
			return
		}
		_, err = s.Write([]byte("."))
		served <- result{s.ConnectionState(), err}
	}()
	conn, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err != nil {
		<-served
		return tls.ConnectionState{}, tls.ConnectionState{}, err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1)) // also takes the session ticket in
	got := <-served
	if got.err != nil {
		err = got.err
	}
	return got.state, conn.ConnectionState(), err
}

func TestRotationUnderHandshakes(t *testing.T) {
	pairs := []pair{newPair(t, nil), newPair(t, nil), newPair(t, nil)}
	roots := x509.NewCertPool()
	for _, p := range pairs {
		roots.AppendCertsFromPEM(p.cert)
	}
	f := files(t, pairs[0])
	r, err := servertls.NewReloader(f)
	if err != nil {
		t.Fatal(err)
	}
	server := servertls.Config(r.GetCertificate, nil, nil)
	client := &tls.Config{RootCAs: roots, ServerName: "gate.test"}

	const rotations = 1000
	stop := make(chan struct{})
	var handshakes, kept atomic.Int64
	var seen sync.Map
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, state, err := handshake(t, server, client)
				if err != nil {
					t.Errorf("handshake %d: %v", handshakes.Load(), err)
					return
				}
				handshakes.Add(1)
				seen.Store(state.PeerCertificates[0].SerialNumber.String(), true)
			}
		})
	}
	// The two files are replaced one after the other, as every tool does it, and read in between: half a pair is kept out.
	for i := range rotations {
		p := pairs[(i+1)%len(pairs)]
		for path, text := range map[string][]byte{f.Cert: p.cert, f.Key: p.key} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if r.Reload() != nil {
				kept.Add(1)
			}
		}
	}
	close(stop)
	wg.Wait()
	distinct := 0
	seen.Range(func(any, any) bool { distinct++; return true })
	t.Logf("%d rotations, %d halves kept out, %d handshakes, %d certificates seen", rotations, kept.Load(), handshakes.Load(), distinct)
	if kept.Load() != rotations {
		t.Errorf("%d halves of pairs were kept out, want %d", kept.Load(), rotations)
	}
	if handshakes.Load() == 0 || distinct < 2 {
		t.Errorf("%d handshakes saw %d certificates: nothing was shown", handshakes.Load(), distinct)
	}
}

func TestReloadKeepsTheOldPair(t *testing.T) {
	good := newPair(t, nil)
	other := newPair(t, nil)
	for _, tc := range []struct {
		name string
		bad  pair
		want string
	}{
		{"not PEM", pair{[]byte("x"), good.key}, "failed to find any PEM data"},
		{"empty key", pair{good.cert, nil}, "failed to find any PEM data"},
		{"key of another", pair{good.cert, other.key}, "does not match"},
		{"ended", newPair(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "ended at"},
		{"not yet valid", newPair(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not valid before"},
		{"no name", newPair(t, func(c *x509.Certificate) { c.DNSNames = nil }), "no DNS name or IP address"},
		{"strangers in the chain", pair{append(bytes.Clone(good.cert), other.cert...), good.key}, "did not sign the one before"},
		{"too long", pair{bytes.Repeat([]byte("x"), 2<<20), good.key}, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := files(t, good)
			var log bytes.Buffer
			f.Log = slog.New(slog.NewTextHandler(&log, nil))
			r, err := servertls.NewReloader(f)
			if err != nil {
				t.Fatal(err)
			}
			before, _ := r.GetCertificate(nil)
			write(t, f, tc.bad)
			for range 3 {
				if err := r.Reload(); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("Reload = %v, want %q", err, tc.want)
				}
			}
			if now, _ := r.GetCertificate(nil); now != before {
				t.Error("the bad pair is served")
			}
			if n := strings.Count(log.String(), "certificate kept"); n != 1 {
				t.Errorf("logged %d times, want once:\n%s", n, &log)
			}
			write(t, f, other)
			if err := r.Reload(); err != nil {
				t.Error(err)
			}
			if now, _ := r.GetCertificate(nil); now == before {
				t.Error("the next good pair is not served")
			}
			write(t, f, tc.bad)
			if _, err := servertls.NewReloader(f); err == nil {
				t.Error("a start with the bad pair is not refused")
			}
		})
	}
}

func TestReloadOfRemovedFiles(t *testing.T) {
	f := files(t, newPair(t, nil))
	r, err := servertls.NewReloader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(); err == nil {
		t.Error("Reload without a key = nil")
	}
	if c, err := r.GetCertificate(nil); c == nil || err != nil {
		t.Errorf("GetCertificate = %v, %v, want the old pair", c, err)
	}
}

// TestRunFollows waits for Run to take a new pair in, by the log line it writes then.
func TestRunFollows(t *testing.T) {
	f := files(t, newPair(t, nil))
	lines := make(chan string, 16)
	f.Log = slog.New(slog.NewTextHandler(lineWriter(lines), nil))
	f.Interval = time.Millisecond
	r, err := servertls.NewReloader(f)
	if err != nil {
		t.Fatal(err)
	}
	<-lines
	before, _ := r.GetCertificate(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	write(t, f, newPair(t, nil))
	for line := range lines {
		if strings.Contains(line, "certificate loaded") {
			break
		}
	}
	if after, _ := r.GetCertificate(nil); after == before {
		t.Error("the old pair is still served")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestNewReloaderNeedsALog(t *testing.T) {
	f := files(t, newPair(t, nil))
	f.Log = nil
	if _, err := servertls.NewReloader(f); err == nil {
		t.Error("NewReloader without a log = nil error")
	}
}

func get(p tls.Certificate) servertls.GetCertificate {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &p, nil }
}

func TestPolicy(t *testing.T) {
	p := newPair(t, nil)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.cert)
	server := servertls.Config(get(p.tls(t)), nil, nil)
	if server.CurvePreferences != nil {
		t.Error("CurvePreferences is set: that drops the post-quantum hybrids")
	}
	for _, tc := range []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"plain", &tls.Config{}, true},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"CBC", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, false},
		{"AEAD", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
		{"h2", &tls.Config{NextProtos: []string{"h2"}}, true},
		{"http/1.1", &tls.Config{NextProtos: []string{"http/1.1"}}, true},
		{"another protocol", &tls.Config{NextProtos: []string{"smtp"}}, false},
	} {
		tc.client.RootCAs, tc.client.ServerName = roots, "gate.test"
		_, state, err := handshake(t, server, tc.client)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v, want success = %v", tc.name, err, tc.ok)
		}
		if want := fmt.Sprint(tc.client.NextProtos); tc.ok && tc.client.NextProtos != nil && fmt.Sprint([]string{state.NegotiatedProtocol}) != want {
			t.Errorf("%s: negotiated %q, want %s", tc.name, state.NegotiatedProtocol, want)
		}
		if tc.name == "plain" && state.CurveID != tls.X25519MLKEM768 {
			t.Errorf("key exchange %v, want the post-quantum hybrid", state.CurveID)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	p, mine, stranger := newPair(t, nil), newPair(t, nil), newPair(t, nil)
	roots, clients := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(p.cert)
	clients.AppendCertsFromPEM(mine.cert)
	server := servertls.Config(get(p.tls(t)), clients, nil)
	for _, tc := range []struct {
		name   string
		client []tls.Certificate
		ok     bool
		peers  int
	}{
		{"none", nil, true, 0},
		{"known", []tls.Certificate{mine.tls(t)}, true, 1},
		{"of a stranger", []tls.Certificate{stranger.tls(t)}, false, 0},
	} {
		// A client sends only what the server's list of authorities fits, unless it is made to.
		client := &tls.Config{RootCAs: roots, ServerName: "gate.test"}
		if tc.client != nil {
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tc.client[0], nil }
		}
		state, _, err := handshake(t, server, client)
		if (err == nil) != tc.ok || len(state.VerifiedChains) != tc.peers {
			t.Errorf("%s: %v with %d verified chains, want success = %v with %d", tc.name, err, len(state.VerifiedChains), tc.ok, tc.peers)
		}
	}
}

// TestResumption: sessions resume, which spares BitBake's many connections, except where a client certificate counts.
func TestResumption(t *testing.T) {
	p := newPair(t, nil)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.cert)
	for _, tc := range []struct {
		name    string
		clients *x509.CertPool
		want    bool
	}{{"without client certificates", nil, true}, {"with client certificates", pool, false}} {
		server := servertls.Config(get(p.tls(t)), tc.clients, nil)
		client := &tls.Config{RootCAs: pool, ServerName: "gate.test", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		var state tls.ConnectionState
		for range 2 {
			var err error
			if _, state, err = handshake(t, server, client); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
		}
		if state.DidResume != tc.want {
			t.Errorf("%s: resumed = %v, want %v", tc.name, state.DidResume, tc.want)
		}
	}
}
