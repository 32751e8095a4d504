package main

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
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStopFinishesDownloads asks a gate to stop in the middle of a download: it finishes that, takes no new connection, and exits 0. The
// next start serves the same state.
func TestStopFinishesDownloads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, raceBinary(t), nil)
	gate := w.start()
	large := newItem("large-native", 16<<20, true)
	w.mustPublish(large)
	alice := w.person("alice")
	res, err := alice.send(t.Context(), "GET", at(large.name), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := make([]byte, 1000)
	if _, err := io.ReadFull(res.Body, got); err != nil {
		t.Fatal(err)
	}
	gate.terminate()
	gate.await("the door takes no new connections", func() bool {
		conn, err := net.Dial("tcp", w.q.https)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	rest, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(append(got, rest...), large.content) {
		t.Errorf("the download got %d bytes: %v", len(got)+len(rest), err)
	}
	<-gate.done
	if code := gate.cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d\n%s", code, gate.log)
	}
	gate = w.start()
	if got := alice.do("GET", at(large.name), nil); !bytes.Equal(got.body, large.content) {
		t.Errorf("after the restart: %d, %d bytes", got.status, len(got.body))
	}
	gate.stop()
}

// TestOneGatePerState starts a second gate on the state of one that runs: it refuses and says so.
func TestOneGatePerState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, raceBinary(t), nil)
	gate := w.start()
	text := strings.NewReplacer(w.q.https, freeAddress(t), w.q.admin, freeAddress(t)).Replace(w.q.config())
	w.write("second.yaml", text)
	out, code := w.run("serve", "--config", w.q.path("second.yaml"))
	if code != exitFailure || !strings.Contains(out, "belongs to another gate that is running: stop it") {
		t.Errorf("a second gate: exit code %d\n%s", code, out)
	}
	gate.stop()
}

// TestPortInUse starts gates whose addresses are taken.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, raceBinary(t), nil)
	for _, address := range []string{w.q.https, w.q.admin} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		out, code := w.run("serve")
		if code != exitFailure || !strings.Contains(out, "listen tcp "+address) || !strings.Contains(out, "in use") {
			t.Errorf("%s is taken: exit code %d\n%s", address, code, out)
		}
		ln.Close()
	}
}

// TestCertificateRotates replaces the TLS files of a gate under load: no handshake fails, and new ones get the new certificate. A pair
// that does not match is not taken.
func TestCertificateRotates(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		cert, key := a.pair(1)
		for name, text := range map[string]string{"gate.pem": cert, "gate.key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before, after, _ := strings.Cut(text, "  names: ") // the certificate says them
		_, after, _ = strings.Cut(after, "\n")
		return before + strings.Replace(after, "tls: {development_ca: true}", "tls: {cert: gate.pem, key: gate.key}", 1)
	})
	w.ca = a.pool
	gate := w.start()
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for ctx.Err() == nil {
				p := w.person("alice")
				res, err := p.send(ctx, "GET", "/v1/whoami", nil)
				if err == nil {
					res.Body.Close()
				}
				if ctx.Err() == nil && (err != nil || res.StatusCode != http.StatusOK) {
					t.Errorf("a request while certificates change: %v", err)
				}
				p.http.CloseIdleConnections()
			}
		})
	}
	serial := func() int64 {
		conn, err := tls.Dial("tcp", w.q.https, &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS13})
		if err != nil {
			t.Error(err)
			return 0
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	for n := int64(2); n <= 3; n++ {
		cert, key := a.pair(n)
		w.write("gate.key", key)
		if got := serial(); got != n-1 {
			t.Errorf("with half a pair certificate %d is shown, want %d", got, n-1)
		}
		w.write("gate.pem", cert)
		gate.await("the new certificate is shown", func() bool { return serial() == n })
	}
	cancel()
	load.Wait()
	gate.stop()
}

// authority issues certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1000), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// pair returns a certificate with a serial number and its key, in PEM.
func (a *authority) pair(serial int64) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "gate"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	keyDER, err2 := x509.MarshalPKCS8PrivateKey(k)
	if err := errors.Join(err, err2); err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// TestChangesWhileServing changes what a running gate rests on, by command and by editor: tokens, the forge's file, the policy.
func TestChangesWhileServing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		shipped, err := os.ReadFile(filepath.Join("..", "..", "policy", "bundle", "lychgate.rego"))
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, "policy"), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "policy", "lychgate.rego"), shipped, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return text + "policy: {bundle: policy}\n"
	})
	gate := w.start()
	secret := newItem("secret-native", 1000, true)
	w.mustPublish(secret)
	alice := w.person("alice")
	status := func(p *person) int { return p.do("HEAD", at(secret.name), nil).status }
	becomes := func(what string, p *person, want int) {
		t.Helper()
		began := time.Now()
		gate.await(what, func() bool { return status(p) == want })
		t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond))
	}
	becomes("alice may read", alice, http.StatusOK)

	out, code := w.run("token", "create", "--user", "alice", "--ttl", "1h", "--note", "spare", "--json")
	id := field(out, "id")
	if code != exitOK || id == "" {
		t.Fatalf("token create: exit code %d\n%s", code, out)
	}
	spare := w.person("alice")
	spare.token = field(out, "token")
	if got := status(spare); got != http.StatusOK {
		t.Errorf("the first request with a new token: %d", got)
	}
	if out, code := w.run("token", "revoke", id); code != exitOK {
		t.Errorf("token revoke: exit code %d\n%s", code, out)
	}
	becomes("the token is revoked", spare, http.StatusUnauthorized)
	if got := status(alice); got != http.StatusOK {
		t.Errorf("alice's other token: %d", got)
	}

	w.write("forge.yaml", strings.Replace(quickstartForge, "users: [alice, ci]", "users: [ci]", 1))
	becomes("alice's right is taken", alice, http.StatusNotFound)
	w.write("forge.yaml", "hosts: [")
	w.write("forge.yaml", quickstartForge)
	becomes("alice's right is given back", alice, http.StatusOK)
	w.write("forge.yaml", strings.NewReplacer("  - {id: alice, name: alice, kind: human}\n", "", "alice, ", "").Replace(quickstartForge))
	gate.await("alice is gone", func() bool { return status(alice) != http.StatusOK })
	w.write("forge.yaml", quickstartForge)
	becomes("alice is back", alice, http.StatusOK)

	const rule = "policy/lychgate.rego"
	text, err := os.ReadFile(w.q.path(rule))
	if err != nil {
		t.Fatal(err)
	}
	current := func(want string) func() bool {
		return func() bool { return w.metric("lychgate_policy_current") == want }
	}
	gate.await("the policy is current", current("1"))
	w.write(rule, "package lychgate\nallow if {")
	gate.await("the policy on disk is broken", current("0"))
	if got := status(alice); got != http.StatusOK {
		t.Errorf("with a broken policy on disk, for which the last good one stands in: %d", got)
	}
	w.write(rule, "package lychgate\ndefault allow := false\ndefault decision := {\"allow\": false, \"rule\": \"closed\", \"reasons\": [\"closed: for the day\"]}\n")
	gate.await("the policy is current again", current("1"))
	becomes("the new policy is in force", alice, http.StatusNotFound)
	w.write(rule, string(text))
	becomes("the old policy is back", alice, http.StatusOK)
	gate.stop()
	w.demandEvent("policy.activate")
}

// field returns a member of a printed JSON object with string members.
func field(text, name string) string {
	_, rest, _ := strings.Cut(text, `"`+name+`": "`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// TestStrictAudit runs a gate that has every event on the disk before it answers.
func TestStrictAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, raceBinary(t), func(_, text string) string { return text + "audit: {sync: strict}\n" })
	gate := w.start()
	one := newItem("one-native", 1000, true)
	w.mustPublish(one)
	alice := w.person("alice")
	for range 20 {
		if got := alice.do("GET", at(one.name), nil); !bytes.Equal(got.body, one.content) {
			t.Errorf("%d, %d bytes", got.status, len(got.body))
		}
	}
	gate.kill()
	w.demandEvent("decision")
}
