package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrKeysUnavailable is wrapped when an ID token can be neither accepted nor refused, because the keys of its issuer could not
// be had, or not soon enough. It is a fault: the same token may be good a little later.
var ErrKeysUnavailable = errors.New("the issuer's keys cannot be had")

// What is taken from an issuer at most.
const (
	maxKeysBody = 1 << 20
	maxKeys     = 100
	maxHops     = 3
	maxRSABits  = 8192 // larger ones make each token cost milliseconds
)

// KeyFetch says how the keys of an issuer are got. The zero KeyFetch is right for an issuer on the public network.
type KeyFetch struct {
	// KeysURL is where the key set is, for an issuer that serves no discovery document, or whose keys are at a private
	// address of another host. Empty: the discovery document says.
	KeysURL string
	CAs     *x509.CertPool // nil: those of the system
	// PlainLoopback allows http:// to a loopback host. It is for tests and trials.
	PlainLoopback bool
	Timeout       time.Duration // of one fetch, discovery and keys together; default 10 s
	Refresh       time.Duration // a set this old is fetched again before it is used; default 10 min
	Retry         time.Duration // the shortest time between two fetches, whatever asks for them; default 10 s
	Ceiling       time.Duration // no set this old is used, whatever the issuer's state; default 1 h
	// OnFetch is told what each fetch ended with, nil or why it failed. It is called from a goroutine of the KeySet's and may be
	// nil.
	OnFetch func(err error)
}

// KeySet is the signing keys of one issuer, as its discovery document (OpenID Connect Discovery 1.0) and JSON Web Key Set
// (RFC 7517 section 5) say. Nothing is fetched before the first token asks for a key, so an issuer that is down stops no start.
//
// The keys are the issuer's current ones: a set is used for at most Refresh before it is fetched again, and a key that is no
// longer served is gone then. When a fetch fails, the last good set goes on until it is Ceiling old; after that, nothing is
// verified. A key id that is not in the set causes a fetch, at most one each Retry, so that neither a rotation has to be waited
// for nor a flood of invented ids reaches the issuer. A KeySet is safe for concurrent use.
type KeySet struct {
	issuer string
	fetch  KeyFetch
	hosts  []string // that the configuration names: they may be private
	client *http.Client
	now    func() time.Time

	mu     sync.Mutex
	keys   map[string]signingKey // the last good set, nil before the first; replaced, never changed
	asked  time.Time             // when the fetch of keys began
	tried  time.Time             // when the last fetch ended
	err    error                 // what it ended with
	flight chan struct{}         // closed when the fetch under way ends; nil when none is
}

// signingKey is a public key, and the one algorithm it may be used with if the issuer says so.
type signingKey struct {
	public any // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	alg    string
}

var _ oidc.KeySet = (*KeySet)(nil)

// NewKeySet checks where the keys of issuer are to be got. It fetches nothing. now may be nil.
func NewKeySet(issuer string, fetch KeyFetch, now func() time.Time) (*KeySet, error) {
	k := &KeySet{issuer: issuer, fetch: fetch, now: now}
	if k.now == nil {
		k.now = time.Now
	}
	for _, text := range []string{issuer, fetch.KeysURL} {
		if text == "" && text != issuer {
			continue
		}
		u, err := k.checkURL(text)
		if err != nil {
			return nil, fmt.Errorf("issuer %.100q: %w", issuer, err)
		}
		k.hosts = append(k.hosts, u.Hostname())
	}
	if err := k.fetch.complete(); err != nil {
		return nil, fmt.Errorf("issuer %q: %w", issuer, err)
	}
	k.client = &http.Client{
		CheckRedirect: sameHost,
		Transport: &http.Transport{
			DialContext:            k.dial,
			TLSClientConfig:        &tls.Config{RootCAs: fetch.CAs, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // minutes lie between two fetches
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return k, nil
}

// complete fills in the defaults.
func (f *KeyFetch) complete() error {
	for _, d := range []struct {
		at       *time.Duration
		fallback time.Duration
		name     string
	}{
		{&f.Timeout, 10 * time.Second, "timeout"},
		{&f.Refresh, 10 * time.Minute, "refresh"},
		{&f.Retry, 10 * time.Second, "retry"},
		{&f.Ceiling, time.Hour, "ceiling"},
	} {
		if *d.at == 0 {
			*d.at = d.fallback
		}
		if *d.at < 0 {
			return fmt.Errorf("%s of its keys is negative", d.name)
		}
	}
	if f.Ceiling < f.Refresh {
		return fmt.Errorf("ceiling %v of its keys is below refresh %v", f.Ceiling, f.Refresh)
	}
	return nil
}

// checkURL accepts what keys may be fetched by.
func (k *KeySet) checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("want https://HOST/PATH")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return nil, errors.New("holds more than scheme, host and path")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && k.fetch.PlainLoopback && isLoopback(u.Hostname()):
		return u, nil
	}
	return nil, fmt.Errorf("scheme %.20q: want https", u.Scheme)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

// sameHost lets no answer send the gate elsewhere.
func sameHost(req *http.Request, via []*http.Request) error {
	if from := via[0].URL; req.URL.Scheme != from.Scheme || req.URL.Host != from.Host {
		return fmt.Errorf("redirected to another host, %.100q", req.URL.Host)
	}
	if len(via) > maxHops {
		return errors.New("redirected too often")
	}
	return nil
}

// dial connects to the hosts that the configuration names, and to others only at public addresses: where the keys are is the
// discovery document's word, and the gate is not to be sent around the network it stands in.
func (k *KeySet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if host, _, err := net.SplitHostPort(address); err != nil || !slices.Contains(k.hosts, host) {
		d.ControlContext = refusePrivate
	}
	return d.DialContext(ctx, network, address)
}

// refusePrivate looks at the address that is about to be connected to, after names were resolved.
func refusePrivate(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !isPublic(to.Addr()) {
		return fmt.Errorf("%s is no public address: configure the keys' URL if it is meant", address)
	}
	return nil
}

// isPublic is false for addresses that only this host, its network or a translator of it gives a meaning (RFC 6890, RFC 6052).
func isPublic(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, special := range [...]string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16",
	} {
		if netip.MustParsePrefix(special).Contains(a) {
			return false
		}
	}
	return true
}

// VerifySignature returns the payload of a compact JWS that one of the issuer's keys has signed. Its error wraps
// [ErrKeysUnavailable] when that could not be found out. It looks at no claim.
func (k *KeySet) VerifySignature(ctx context.Context, text string) ([]byte, error) {
	token, err := parseIDToken(text)
	if err != nil {
		return nil, err
	}
	key, err := k.key(ctx, token.kid)
	if err != nil {
		return nil, err
	}
	if err := key.fits(token.alg); err != nil {
		return nil, fmt.Errorf("key %.60q: %w", token.kid, err)
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(token.alg)})
	if err != nil {
		return nil, fmt.Errorf("parse signature: %w", err)
	}
	payload, err := jws.Verify(key.public)
	if err != nil {
		return nil, fmt.Errorf("signature does not verify with key %.60q", token.kid)
	}
	return payload, nil
}

// key returns the issuer's key of that id. It waits for a fetch if one is due; ctx ends the waiting, not the fetch.
func (k *KeySet) key(ctx context.Context, kid string) (signingKey, error) {
	for waited := false; ; waited = true {
		k.mu.Lock()
		now := k.now()
		key, known := k.keys[kid]
		age := now.Sub(k.asked)
		if k.keys == nil {
			age = k.fetch.Ceiling
		}
		if known && age < k.fetch.Refresh {
			k.mu.Unlock()
			return key, nil
		}
		if waited || k.flight == nil && now.Sub(k.tried) < k.fetch.Retry {
			err := k.answer(known, age)
			k.mu.Unlock()
			return key, err
		}
		done := k.flight
		if done == nil {
			done = k.start(ctx)
		}
		k.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return signingKey{}, fmt.Errorf("wait for keys of %s: %w: %w", k.issuer, ErrKeysUnavailable, context.Cause(ctx))
		}
	}
}

// answer says what is wrong with a key from a set of that age, when no fetch is to be waited for. The caller holds mu.
func (k *KeySet) answer(known bool, age time.Duration) error {
	switch {
	case age >= k.fetch.Ceiling && k.err != nil:
		return fmt.Errorf("%w: %w", ErrKeysUnavailable, k.err)
	case age >= k.fetch.Ceiling:
		return fmt.Errorf("keys of %s are too old: %w", k.issuer, ErrKeysUnavailable)
	case !known:
		return errors.New("the issuer has no such key")
	}
	return nil
}

// start begins a fetch. The caller holds mu, and has seen that none is under way.
func (k *KeySet) start(ctx context.Context) chan struct{} {
	done, began := make(chan struct{}), k.now()
	k.flight = done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.fetch.Timeout)
	go func() {
		defer cancel()
		keys, err := k.get(ctx)
		k.mu.Lock()
		k.flight, k.tried, k.err = nil, k.now(), err
		if err == nil {
			k.keys, k.asked = keys, began
		}
		k.mu.Unlock()
		close(done)
		if k.fetch.OnFetch != nil {
			k.fetch.OnFetch(err)
		}
	}()
	return done
}

// get fetches the set. What comes is only used if it is a set with a fit key in it.
func (k *KeySet) get(ctx context.Context) (map[string]signingKey, error) {
	from := k.fetch.KeysURL
	if from == "" {
		var err error
		if from, err = k.discover(ctx); err != nil {
			return nil, fmt.Errorf("discover %s: %w", k.issuer, err)
		}
	}
	body, err := k.body(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("fetch keys of %s: %w", k.issuer, err)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", k.issuer, err)
	}
	return keys, nil
}

// discover returns where the key set is (OpenID Connect Discovery 1.0 section 4).
func (k *KeySet) discover(ctx context.Context) (string, error) {
	body, err := k.body(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", errors.New("its discovery document is no exact JSON")
	}
	if doc.Issuer != k.issuer {
		return "", fmt.Errorf("its discovery document is of issuer %.100q: configure the issuer exactly so, if it is meant", doc.Issuer)
	}
	if _, err := k.checkURL(doc.JWKSURI); err != nil {
		return "", fmt.Errorf("jwks_uri %.100q: %w", doc.JWKSURI, err)
	}
	return doc.JWKSURI, nil
}

// body returns what is at the URL, if it is 200 and of a sensible size.
func (k *KeySet) body(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", from, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysBody+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	if len(body) > maxKeysBody {
		return nil, fmt.Errorf("%s is larger than %d bytes", from, maxKeysBody)
	}
	return body, nil
}

// parseKeys reads a key set. Keys that are not for us, or not fit, are passed over, as RFC 7517 section 5 wants; a set without
// a fit one, or with two of one id, is an error.
func parseKeys(body []byte) (map[string]signingKey, error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("no exact JSON key set")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	}
	unfit := errors.New("it is empty")
	keys := make(map[string]signingKey, len(doc.Keys))
	for _, raw := range doc.Keys {
		kid, key, err := parseKey(raw)
		if err != nil {
			unfit = err
			continue
		}
		if _, taken := keys[kid]; taken {
			return nil, fmt.Errorf("two keys have the id %.60q", kid)
		}
		keys[kid] = key
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key is fit to verify ID tokens: %w", unfit)
	}
	return keys, nil
}

func parseKey(raw jsontext.Value) (string, signingKey, error) {
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return "", signingKey{}, errors.New("a key is malformed or of an unknown type")
	}
	key := signingKey{public: jwk.Key, alg: jwk.Algorithm}
	switch {
	case jwk.KeyID == "":
		return "", key, errors.New("a key has no id (kid)")
	case jwk.Use != "" && jwk.Use != "sig":
		return "", key, fmt.Errorf("key %.60q is for %.20q", jwk.KeyID, jwk.Use)
	case !jwk.IsPublic() || !jwk.Valid():
		return "", key, fmt.Errorf("key %.60q is no public key", jwk.KeyID)
	case !slices.ContainsFunc(signingAlgs(), func(alg string) bool { return key.fits(alg) == nil }):
		return "", key, fmt.Errorf("key %.60q is too weak, too large, or for other algorithms", jwk.KeyID)
	}
	return jwk.KeyID, key, nil
}

// signingAlgs are the algorithms of RFC 7518 section 3 and RFC 8037 that an ID token may be signed with: asymmetric ones alone.
// The longer hashes over RSA keys are no weaker than SHA-256, and issuers may be set to them.
func signingAlgs() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}
}

// fits says why the key is not to be used with an algorithm: the token's word alone must not choose how a key is read.
func (k signingKey) fits(alg string) error {
	if k.alg != "" && k.alg != alg {
		return fmt.Errorf("is for %.20q, not for %.20q", k.alg, alg)
	}
	ok := false
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		ok = (strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")) && bits >= minRSABits && bits <= maxRSABits
	case *ecdsa.PublicKey:
		ok = alg == map[string]string{"P-256": "ES256", "P-384": "ES384"}[public.Curve.Params().Name]
	case ed25519.PublicKey:
		ok = alg == "EdDSA"
	}
	if !ok {
		return fmt.Errorf("does not fit the algorithm %.20q", alg)
	}
	return nil
}
