package authn_test

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lychgate/lychgate/authz/authn"
)

// wantFault fails unless err says that keys are not to be had, and is no refusal of the token.
func wantFault(t testing.TB, what string, err error, words string) {
	t.Helper()
	if !errors.Is(err, authn.ErrKeysUnavailable) || errors.Is(err, authn.ErrRefused) || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v, want unavailable keys with %q", what, err, words)
	}
}

// badWeather lists what an issuer may serve, or do, in place of its keys. None of it is a key set that may be used.
func badWeather(good signer) map[string]struct {
	change func(i *testIssuer)
	words  string
} {
	type weather = struct {
		change func(i *testIssuer)
		words  string
	}
	body := func(text, words string) weather {
		return weather{func(i *testIssuer) { i.keysBody = []byte(text) }, words}
	}
	serve := func(h http.HandlerFunc, words string) weather {
		return weather{func(i *testIssuer) { i.serve = h }, words}
	}
	key := func(changes map[string]any, words string) weather {
		return body(string(mustJSON(map[string]any{"keys": []any{overlay(jwkMembers(good.public()), changes)}})), words)
	}
	discovery := func(changes map[string]any, words string) weather {
		return weather{func(i *testIssuer) { i.discovery = overlay(i.discovery, changes) }, words}
	}
	short := jose.JSONWebKey{Key: &rsa.PublicKey{N: modulus(1024), E: 65537}, KeyID: "k1"}
	long := jose.JSONWebKey{Key: &rsa.PublicKey{N: modulus(16384), E: 65537}, KeyID: "k1"}
	secret := jose.JSONWebKey{Key: []byte(strings.Repeat("s", 32)), KeyID: "k1"}
	private := jose.JSONWebKey{Key: good.private, KeyID: "k1"}
	set := func(key jose.JSONWebKey, words string) weather {
		return body(string(mustJSON(map[string]any{"keys": []any{jwkMembers(key)}})), words)
	}
	return map[string]weather{
		"empty body":          body("", "no exact JSON"),
		"HTML":                body("<html>", "no exact JSON"),
		"null":                body("null", "it is empty"),
		"no keys":             body("{}", "it is empty"),
		"empty keys":          body(`{"keys":[]}`, "it is empty"),
		"keys null":           body(`{"keys":null}`, "it is empty"),
		"keys twice":          body(`{"keys":[],"keys":[]}`, "no exact JSON"),
		"keys cut":            body(`{"keys":[{`, "no exact JSON"),
		"keys of text":        body(`{"keys":["a"]}`, "malformed"),
		"keys in capitals":    body(strings.Replace(string(mustJSON(map[string]any{"keys": []any{jwkMembers(good.public())}})), `"keys"`, `"KEYS"`, 1), "it is empty"),
		"too many":            body(`{"keys":[`+strings.Repeat(`{},`, 100)+`{}]}`, "more than 100"),
		"one id twice":        body(string(mustJSON(map[string]any{"keys": []any{jwkMembers(good.public()), jwkMembers(good.public())}})), "two keys"),
		"huge":                body(strings.Repeat(" ", 2<<20), "larger than"),
		"key without id":      key(map[string]any{"kid": nil}, "no id"),
		"key for encryption":  key(map[string]any{"use": "enc"}, `is for "enc"`),
		"key for HS256":       key(map[string]any{"alg": "HS256"}, "for other algorithms"),
		"key for another":     key(map[string]any{"alg": "ES384"}, "for other algorithms"),
		"key of unknown type": key(map[string]any{"kty": "XYZ"}, "unknown type"),
		"key of unknown crv":  key(map[string]any{"crv": "P-192"}, "unknown type"),
		"key off the curve":   key(map[string]any{"y": jwkMembers(good.public())["x"]}, "malformed"),
		"short RSA":           set(short, "too weak"),
		"long RSA":            set(long, "no key is fit"),
		"secret key":          set(secret, "no public key"),
		"private key":         set(private, "no public key"),

		"500":        serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "answered 500"),
		"204":        serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "answered 204"),
		"hangs up":   serve(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"),
		"never done": serve(func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, endless{}) }, "larger than"),
		"too slow":   serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline"),
		"huge header": serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.Write(mustJSON(map[string]any{"keys": []any{jwkMembers(good.public())}}))
		}, "header"),
		"redirect to another host": serve(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/keys", http.StatusFound)
		}, "another host"),
		"redirect to plain http": serve(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/keys", http.StatusFound)
		}, "another host"),
		"redirect for ever": serve(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) }, "too often"),

		"discovery of another issuer": discovery(map[string]any{"issuer": "https://evil.example.com"}, "is of issuer"),
		"discovery with a slash":      {func(i *testIssuer) { i.discovery["issuer"] = i.url + "/" }, "is of issuer"},
		"discovery without issuer":    discovery(map[string]any{"issuer": nil}, "is of issuer"),
		"discovery without keys":      discovery(map[string]any{"jwks_uri": nil}, "jwks_uri"),
		"keys by plain http":          discovery(map[string]any{"jwks_uri": "http://keys.example.com/"}, "want https"),
		"keys in a file":              discovery(map[string]any{"jwks_uri": "file:///etc/passwd"}, "want https"),
		"keys with a user":            discovery(map[string]any{"jwks_uri": "https://a:b@keys.example.com/"}, "more than scheme"),
		"keys at a private address":   discovery(map[string]any{"jwks_uri": "https://10.0.0.1/keys"}, "no public address"),
		"keys at the metadata server": discovery(map[string]any{"jwks_uri": "https://169.254.169.254/keys"}, "no public address"),
		"keys at a loopback name":     discovery(map[string]any{"jwks_uri": "https://localhost:1/keys"}, "no public address"),
		"discovery no JSON":           discovery(map[string]any{"issuer": 7}, "no exact JSON"),
	}
}

// modulus is an odd number of so many bits: a key nobody has the other half of.
func modulus(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.Add(n, big.NewInt(1))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestBadWeather: what is no usable key set makes a fault and no refusal when there is nothing else, and leaves the last good set
// in use when there is one, until that is too old.
func TestBadWeather(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	for name, c := range badWeather(key) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t, key)
			var told []error
			config := i.config()
			config.Keys.Timeout = 200 * time.Millisecond
			config.Keys.OnFetch = func(err error) { i.do(func() { told = append(told, err) }) }
			good := i.discovery
			cold, warm := i.oidc(config), i.oidc(i.config())
			if name != "too slow" {
				config.Keys.Timeout = 5 * time.Second // only what is slow on purpose may end by time
				cold = i.oidc(config)
			}
			if _, err := show(t, warm, i.token(key, nil)); err != nil {
				t.Fatal(err)
			}
			i.do(func() { i.discovery = overlay(good, nil); c.change(i) })
			_, err := show(t, cold, i.token(key, nil))
			wantFault(t, "cold", err, c.words)
			if name == "too slow" {
				return // the warm one would wait five seconds, and the ceiling is another test's
			}
			i.time.pass(30 * time.Minute)
			if _, err := show(t, warm, i.token(key, nil)); err != nil {
				t.Errorf("with the last good set: %v", err)
			}
			i.time.pass(30 * time.Minute)
			_, err = show(t, warm, i.token(key, nil))
			wantFault(t, "after the ceiling", err, "")
			i.do(func() { i.discovery = good })
			i.serveKeys(key)
			i.time.pass(10 * time.Second)
			for _, o := range []*authn.OIDC{cold, warm} {
				if _, err := show(t, o, i.token(key, nil)); err != nil {
					t.Errorf("when the weather is fine again: %v", err)
				}
			}
		})
	}
}

// TestUnfitKeysBesideAGoodOne: they are passed over.
func TestUnfitKeysBesideAGoodOne(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	i.keysBody = mustJSON(map[string]any{"more": true, "keys": []any{
		map[string]any{"kty": "AKP", "kid": "pq"}, map[string]any{"kty": "oct", "k": "AAAA", "kid": "k1"},
		overlay(jwkMembers(key.public()), map[string]any{"use": "enc"}), overlay(jwkMembers(key.public()), map[string]any{"alg": nil, "use": nil}),
	}})
	if _, err := show(t, i.oidc(), i.token(key, nil)); err != nil {
		t.Error(err)
	}
}

// TestRotation: a new key is found by its id, and a withdrawn one stops when the set is fetched again, at the latest ten minutes
// after the last time.
func TestRotation(t *testing.T) {
	k1, k2 := newSigner(t, "k1", "ES256"), newSigner(t, "k2", "ES256")
	i := newIssuer(t, k1)
	o := i.oidc()
	check := func(when string, k signer, good bool, fetches int) {
		t.Helper()
		_, err := show(t, o, i.token(k, nil))
		if good && err != nil {
			t.Errorf("%s, %s: %v", when, k.kid, err)
		}
		if !good {
			wantReason(t, when+", "+k.kid, err, authn.BadIDToken, "no such key")
		}
		if n := i.count(); n != fetches {
			t.Errorf("%s, %s: %d fetches, want %d", when, k.kid, n, fetches)
		}
	}
	check("at first", k1, true, 1)
	check("before rotation", k2, false, 1) // the set is a moment old
	i.serveKeys(k2, k1)
	i.time.pass(9 * time.Second)
	check("too soon", k2, false, 1)
	i.time.pass(time.Second)
	check("rotated", k2, true, 2)
	check("rotated", k1, true, 2)
	i.serveKeys(k2)
	i.time.pass(10*time.Minute - time.Second)
	check("withdrawn, before the refresh", k1, true, 2)
	i.time.pass(time.Second)
	check("withdrawn", k1, false, 3)
	check("withdrawn", k2, true, 3)
}

// TestWithdrawnByAMiss: an unknown id brings the whole set up to date.
func TestWithdrawnByAMiss(t *testing.T) {
	k1, k2 := newSigner(t, "k1", "ES256"), newSigner(t, "k2", "ES256")
	i := newIssuer(t, k1)
	o := i.oidc()
	if _, err := show(t, o, i.token(k1, nil)); err != nil {
		t.Fatal(err)
	}
	i.serveKeys(k2)
	i.time.pass(10 * time.Second)
	if _, err := show(t, o, i.token(k2, nil)); err != nil {
		t.Fatal(err)
	}
	_, err := show(t, o, i.token(k1, nil))
	wantReason(t, "old key", err, authn.BadIDToken, "no such key")
}

// TestFailuresAreNotRepeated: an issuer that is down is asked once each ten seconds, whatever is shown.
func TestFailuresAreNotRepeated(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	o := i.oidc()
	i.do(func() { i.serve = http.NotFound })
	for range 50 {
		_, err := show(t, o, i.token(key, nil))
		wantFault(t, "down", err, "answered 404")
	}
	if n := i.count(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	i.time.pass(10 * time.Second)
	_, err := show(t, o, i.token(key, nil))
	wantFault(t, "still down", err, "answered 404")
	if n := i.count(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// TestWaitersLeave: who waits for keys may give up, without ending the fetch for the others.
func TestWaitersLeave(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	o := i.oidc()
	arrived, answer := make(chan struct{}), make(chan struct{})
	i.do(func() {
		i.serve = func(w http.ResponseWriter, _ *http.Request) {
			close(arrived)
			<-answer
			w.Write(mustJSON(map[string]any{"keys": []any{jwkMembers(key.public())}}))
		}
	})
	token := authn.Credential{IDToken: authn.NewSecret(i.token(key, nil))}
	ctx, leave := context.WithCancel(t.Context())
	left, stayed := make(chan error), make(chan error)
	go func() {
		_, err := o.Authenticate(ctx, token)
		left <- err
	}()
	<-arrived
	go func() {
		_, err := o.Authenticate(t.Context(), token)
		stayed <- err
	}()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) || errors.Is(err, authn.ErrRefused) {
		t.Errorf("who left: %v", err)
	}
	close(answer)
	if err := <-stayed; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	if n := i.count(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestUnknownKeyFlood: ten thousand tokens with invented key ids, from many at once, cause one fetch, and good tokens are accepted in
// the middle of them, also while that fetch hangs.
func TestUnknownKeyFlood(t *testing.T) {
	key := newSigner(t, "k1", "EdDSA")
	i := newIssuer(t, key)
	o := i.oidc()
	if _, err := show(t, o, i.token(key, nil)); err != nil {
		t.Fatal(err)
	}
	i.time.pass(time.Minute)
	arrived, answer := make(chan struct{}), make(chan struct{})
	i.do(func() {
		i.serve = func(w http.ResponseWriter, _ *http.Request) {
			close(arrived) // a second fetch would panic
			<-answer
			w.Write(mustJSON(map[string]any{"keys": []any{jwkMembers(key.public())}}))
		}
	})
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for n := range 500 {
				unknown := signer{fmt.Sprintf("k%d-%d", worker, n), "EdDSA", key.private}
				_, err := show(t, o, i.token(unknown, nil))
				wantReason(t, unknown.kid, err, authn.BadIDToken, "no such key")
			}
		})
	}
	<-arrived
	for range 100 {
		if _, err := show(t, o, i.token(key, nil)); err != nil {
			t.Errorf("while the fetch hangs: %v", err)
		}
	}
	close(answer)
	for range 100 {
		if _, err := show(t, o, i.token(key, nil)); err != nil {
			t.Errorf("in the flood: %v", err)
		}
	}
	wg.Wait()
	if n := i.count(); n != 2 {
		t.Errorf("%d fetches, want the first and one for the flood", n)
	}
}

// TestRedirectsOnOneHost are followed.
func TestRedirectsOnOneHost(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	i.do(func() {
		i.serve = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "" {
				http.Redirect(w, r, "/keys?moved", http.StatusMovedPermanently)
				return
			}
			w.Write(mustJSON(map[string]any{"keys": []any{jwkMembers(key.public())}}))
		}
	})
	if _, err := show(t, i.oidc(), i.token(key, nil)); err != nil {
		t.Error(err)
	}
}

// TestKeysURL: an issuer without discovery, and keys on another private host that the operator named.
func TestKeysURL(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	i.do(func() { i.discovery = nil })
	config := i.config()
	config.Keys.KeysURL = i.url + "/keys"
	if _, err := show(t, i.oidc(config), i.token(key, nil)); err != nil {
		t.Error(err)
	}
}

// TestUntrustedCertificate: the issuer's TLS certificate counts.
func TestUntrustedCertificate(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	config := i.config()
	config.Keys.CAs = nil
	_, err := show(t, i.oidc(config), i.token(key, nil))
	wantFault(t, "unknown authority", err, "certificate")
}

// TestPlainLoopback: what tests and trials may do.
func TestPlainLoopback(t *testing.T) {
	key := newSigner(t, "k1", "ES256")
	i := newIssuer(t, key)
	plain := httptest.NewServer(i)
	defer plain.Close()
	i.url = plain.URL
	i.do(func() { i.discovery = map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys"} })
	config := i.config()
	config.Keys.PlainLoopback = true
	if _, err := show(t, i.oidc(config), i.token(key, nil)); err != nil {
		t.Error(err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"93.184.216.34": true, "2606:2800:220:1::1": true, "::ffff:93.184.216.34": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false,
		"0.1.2.3": false, "100.64.0.1": false, "198.18.0.1": false, "192.0.0.8": false, "224.0.0.1": false, "240.0.0.1": false,
		"255.255.255.255": false, "::1": false, "::": false, "fe80::1": false, "fd00::1": false, "ff02::1": false,
		"::ffff:10.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::1": false,
	} {
		if got := authn.IsPublic(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is public: %v", address, got)
		}
	}
}
