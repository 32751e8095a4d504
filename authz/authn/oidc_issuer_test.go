package authn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

const (
	clientID = "lychgate-cli"
	gateURI  = "https://gate.example.com"
)

// wallClock is a time that tests move.
type wallClock struct {
	mu sync.Mutex
	at time.Time
}

func newWallClock() *wallClock { return &wallClock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *wallClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// testIssuer is an issuer in this process: it serves what it is told to, and signs whatever it is given.
type testIssuer struct {
	t    testing.TB
	srv  *httptest.Server
	url  string
	cas  *x509.CertPool
	time *wallClock

	mu        sync.Mutex
	keys      []jose.JSONWebKey // that it serves
	keysBody  []byte            // instead of keys, if not nil
	discovery map[string]any
	fetches   int              // of the key set
	serve     http.HandlerFunc // instead of the key set, if not nil
}

// signer is a private key with its id.
type signer struct {
	kid, alg string
	private  crypto.Signer
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.Public(), KeyID: s.kid, Algorithm: s.alg, Use: "sig"}
}

func newSigner(t testing.TB, kid, alg string) signer {
	t.Helper()
	var private crypto.Signer
	var err error
	switch alg {
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, alg, private}
}

func newIssuer(t testing.TB, keys ...signer) *testIssuer {
	t.Helper()
	i := &testIssuer{t: t, time: newWallClock(), cas: x509.NewCertPool()}
	i.srv = httptest.NewTLSServer(i)
	t.Cleanup(i.srv.Close)
	i.url = i.srv.URL
	i.cas.AddCert(i.srv.Certificate())
	i.discovery = map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys"}
	i.serveKeys(keys...)
	return i
}

func (i *testIssuer) serveKeys(keys ...signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys, i.keysBody, i.serve = nil, nil, nil
	for _, k := range keys {
		i.keys = append(i.keys, k.public())
	}
}

// do changes what is served.
func (i *testIssuer) do(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *testIssuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

func (i *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	body, serve := i.keysBody, i.serve
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		body, serve = mustJSON(i.discovery), nil
	case "/keys":
		i.fetches++
		if body == nil {
			body = mustJSON(map[string]any{"keys": publicKeys(i.keys)})
		}
	default:
		body, serve = nil, http.NotFound
	}
	i.mu.Unlock()
	if serve != nil {
		serve(w, r)
		return
	}
	w.Write(body)
}

// publicKeys are the keys as JSON: go-jose's own encoding, taken apart, so that tests can change members.
func publicKeys(keys []jose.JSONWebKey) []map[string]any {
	out := make([]map[string]any, len(keys))
	for n, key := range keys {
		out[n] = jwkMembers(key)
	}
	return out
}

func jwkMembers(key jose.JSONWebKey) (m map[string]any) {
	text, err := key.MarshalJSON()
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		panic(err)
	}
	return m
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// claims are those of a good token for people, with changes laid over: a nil value takes a claim away.
func (i *testIssuer) claims(changes map[string]any) map[string]any {
	now := i.time.now().Unix()
	return overlay(map[string]any{"iss": i.url, "aud": clientID, "sub": "u-alice", "iat": now, "exp": now + 300}, changes)
}

func overlay(base, changes map[string]any) map[string]any {
	all := maps.Clone(base)
	for name, value := range changes {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	return all
}

// token signs claims with a good header.
func (i *testIssuer) token(s signer, changes map[string]any) string {
	return sign(s, map[string]any{"alg": s.alg, "kid": s.kid, "typ": "JWT"}, mustJSON(i.claims(changes)))
}

func part(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// sign makes a compact JWS by the signer's own algorithm, whatever the header says.
func sign(s signer, header any, payload []byte) string {
	text := part(mustJSON(header)) + "." + part(payload)
	return text + "." + part(signature(s, text))
}

func signature(s signer, text string) []byte {
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch private := s.private.(type) {
	case *rsa.PrivateKey:
		if s.alg == "PS256" {
			sig, err = rsa.SignPSS(rand.Reader, private, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(nil, private, crypto.SHA256, sum[:])
		}
	case *ecdsa.PrivateKey:
		hash := sum[:]
		if s.alg == "ES384" {
			h := crypto.SHA384.New()
			h.Write([]byte(text))
			hash = h.Sum(nil)
		}
		r, v, signErr := ecdsa.Sign(rand.Reader, private, hash)
		size := (private.Curve.Params().BitSize + 7) / 8
		sig, err = make([]byte, 2*size), signErr
		r.FillBytes(sig[:size])
		v.FillBytes(sig[size:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(private, []byte(text))
	}
	if err != nil {
		panic(err)
	}
	return sig
}

func hs256(secret []byte, text string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// issuerConfig is the issuer with people whose subjects are user ids, and the CI rules given.
func (i *testIssuer) config(rules ...authn.CIRule) authn.Issuer {
	c := authn.Issuer{
		URL: i.url, Keys: authn.KeyFetch{CAs: i.cas, Timeout: 5 * time.Second},
		People: &authn.PeopleMapping{ClientID: clientID, Forge: "git.example.com", SubjectIsForgeID: true},
	}
	if len(rules) > 0 {
		c.Audience, c.CI = gateURI, rules
	}
	return c
}

func (i *testIssuer) oidc(configs ...authn.Issuer) *authn.OIDC {
	i.t.Helper()
	if len(configs) == 0 {
		configs = []authn.Issuer{i.config()}
	}
	return newOIDC(i.t, authn.OIDCConfig{Issuers: configs, Now: i.time.now})
}

func newOIDC(t testing.TB, cfg authn.OIDCConfig) *authn.OIDC {
	t.Helper()
	o, err := authn.NewOIDC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func show(t testing.TB, o *authn.OIDC, token string) (authn.Principal, error) {
	t.Helper()
	return o.Authenticate(t.Context(), authn.Credential{IDToken: authn.NewSecret(token)})
}

// wantReason fails unless err is a refusal for that reason whose words hold the given ones.
func wantReason(t testing.TB, what string, err error, reason authn.Reason, words string) {
	t.Helper()
	var r *authn.Refusal
	if !errors.As(err, &r) || r.Reason != reason || !strings.Contains(r.Detail, words) {
		t.Errorf("%s: %v, want %s with %q", what, err, reason, words)
	}
}

func decode(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
