package authn_test

import (
	"context"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

func TestIDToken(t *testing.T) {
	for _, alg := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} {
		key := newSigner(t, "k1", alg)
		i := newIssuer(t, key)
		token := i.token(key, map[string]any{"sub": "42", "preferred_username": "alice", "nonce": "n", "email": "alice@example.com"})
		p, err := show(t, i.oidc(), token)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		digest := authn.IDTokenDigest(authn.NewSecret(token))
		want := authn.Principal{
			Forge: "git.example.com", ID: "42", Name: "alice", Kind: authn.Human, Expires: time.Unix(i.time.now().Unix()+300, 0),
			Claims: map[string]any{"iss": i.url, "sub": "42"}, Credential: fmt.Sprintf("oidc:%x", digest[:8]),
		}
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("%s: -want +got:\n%s", alg, diff)
		}
	}
}

// TestIDTokenOtherCredentials: what is no ID token is the next authenticator's, also a JWT that is shown as a gate token.
func TestIDTokenOtherCredentials(t *testing.T) {
	key := newSigner(t, "k1", "EdDSA")
	i := newIssuer(t, key)
	for _, c := range []authn.Credential{{}, {Token: authn.NewSecret(i.token(key, nil))}} {
		if _, err := i.oidc().Authenticate(t.Context(), c); !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%v", err)
		}
	}
}

// hostileIDToken is a token that must be refused, made with everything an attacker could have: an issuer that signs what it is asked
// to sign, and its public keys.
type hostileIDToken struct {
	name  string
	words string // of the refusal
	make  func(h *hostile) string
}

// hostile is what the tokens are made from.
type hostile struct {
	i, other *testIssuer // both are trusted
	rs, es   signer      // keys of i
	foreign  signer      // of other, with the id of i's
	nobody   signer      // of no issuer
}

// with changes claims of a token that is well signed.
func with(changes map[string]any) func(*hostile) string {
	return func(h *hostile) string { return h.i.token(h.es, changes) }
}

// payload signs a text in place of claims.
func payload(text func(h *hostile) string) func(*hostile) string {
	return func(h *hostile) string {
		return sign(h.es, map[string]any{"alg": "ES256", "kid": h.es.kid}, []byte(text(h)))
	}
}

// header changes the header of a token that is well signed.
func header(changes map[string]any) func(*hostile) string {
	return func(h *hostile) string {
		base := map[string]any{"alg": "ES256", "kid": h.es.kid, "typ": "JWT"}
		return sign(h.es, overlay(base, changes), mustJSON(h.i.claims(nil)))
	}
}

// respell changes the text of a good token.
func respell(change func(string) string) func(*hostile) string {
	return func(h *hostile) string { return change(h.i.token(h.es, nil)) }
}

// inject adds text after the brace of the claims of a good token.
func inject(text string) func(*hostile) string {
	return payload(func(h *hostile) string { return "{" + text + "," + string(mustJSON(h.i.claims(nil)))[1:] })
}

// at is a time relative to the issuer's.
func at(name string, d time.Duration) func(*hostile) string {
	return func(h *hostile) string {
		return h.i.token(h.es, map[string]any{name: h.i.time.now().Add(d).Unix()})
	}
}

func publicPEM(s signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// hmacWith is alg confusion: a public key used as an HMAC secret.
func hmacWith(secret func(h *hostile) []byte) func(*hostile) string {
	return func(h *hostile) string {
		text := part(mustJSON(map[string]any{"alg": "HS256", "kid": h.rs.kid})) + "." + part(mustJSON(h.i.claims(nil)))
		return text + "." + part(hs256(secret(h), text))
	}
}

var hostileIDTokens = []hostileIDToken{
	// The text.
	{"one word", "parts", func(*hostile) string { return "x" }},
	{"a gate token", "parts", func(*hostile) string { return "lyg_" + strings.Repeat("a", 49) }},
	{"two parts", "parts", respell(func(s string) string { return s[:strings.LastIndexByte(s, '.')] })},
	{"four parts", "parts", respell(func(s string) string { return s + ".x" })},
	{"five parts, encrypted", "parts", respell(func(s string) string { return s + ".eA.eA" })},
	{"JSON serialisation", "parts", func(h *hostile) string {
		p := strings.Split(h.i.token(h.es, nil), ".")
		return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, p[0], p[1], p[2])
	}},
	{"no signature", "part 3: is empty", respell(func(s string) string { return s[:strings.LastIndexByte(s, '.')+1] })},
	{"no header", "part 1: is empty", respell(func(s string) string { return s[strings.IndexByte(s, '.'):] })},
	{"no claims", "part 2: is empty", respell(func(s string) string {
		p := strings.Split(s, ".")
		return p[0] + ".." + p[2]
	})},
	{"padded base64", "base64url", respell(func(s string) string { return s + "==" })},
	{"line break in the signature", "base64url", respell(func(s string) string { return s[:len(s)-4] + "\r\n" + s[len(s)-4:] })},
	{"blank before", "base64url", respell(func(s string) string { return " " + s })},
	{"line break after", "base64url", respell(func(s string) string { return s + "\n" })},
	{"plain base64 alphabet", "base64url", respell(func(s string) string { return s[:len(s)-2] + "+/" })},
	{"spare bits", "base64url", respell(spareBits)},
	{"huge", "larger than", with(map[string]any{"x": strings.Repeat("x", 16<<10)})},
	{"huge and no JSON", "larger than", func(*hostile) string { return strings.Repeat("a", 1<<20) }},
	{"signature bit flipped", "does not verify", func(h *hostile) string {
		s := h.i.token(h.es, nil)
		i := strings.LastIndexByte(s, '.') + 1
		return s[:i] + string(rune('A'+(s[i]-'A'+1)%26)) + s[i+1:]
	}},
	{"claims of another token", "does not verify", func(h *hostile) string {
		p, q := strings.Split(h.i.token(h.es, nil), "."), strings.Split(h.i.token(h.es, map[string]any{"sub": "u-root"}), ".")
		return p[0] + "." + q[1] + "." + p[2]
	}},

	// The header.
	{"alg none", `algorithm "none"`, header(map[string]any{"alg": "none"})},
	{"alg None", `algorithm "None"`, header(map[string]any{"alg": "None"})},
	{"alg none, signature of one bit", `algorithm "none"`, func(h *hostile) string {
		return part([]byte(`{"alg":"none","kid":"rs"}`)) + "." + part(mustJSON(h.i.claims(nil))) + ".AA"
	}},
	{"alg missing", "algorithm", header(map[string]any{"alg": nil})},
	{"alg empty", "alg is no text", header(map[string]any{"alg": ""})},
	{"alg in a list", "alg is no text", header(map[string]any{"alg": []string{"ES256"}})},
	{"alg in lower case", "algorithm", header(map[string]any{"alg": "es256"})},
	{"HS256 with the public key as PEM", "algorithm", hmacWith(func(h *hostile) []byte { return publicPEM(h.rs) })},
	{"HS256 with the modulus", "algorithm", hmacWith(func(h *hostile) []byte { return h.rs.private.Public().(*rsa.PublicKey).N.Bytes() })},
	{"HS256 with no secret", "algorithm", hmacWith(func(*hostile) []byte { return nil })},
	{"ES512", "algorithm", header(map[string]any{"alg": "ES512"})},
	{"ES256K", "algorithm", header(map[string]any{"alg": "ES256K"})},
	{"RS256 by an EC key", "not for", header(map[string]any{"alg": "RS256"})},
	{"ES384 by a P-256 key", "not for", header(map[string]any{"alg": "ES384"})},
	{"EC signature for an RSA key id", "does not verify", header(map[string]any{"alg": "RS256", "kid": "rs"})},
	{"PS256 by a key for RS256", "not for", func(h *hostile) string {
		return h.i.token(signer{h.rs.kid, "PS256", h.rs.private}, nil)
	}},
	{"no kid", "names no key", header(map[string]any{"kid": nil})},
	{"kid empty", "kid is no text", header(map[string]any{"kid": ""})},
	{"kid a number", "kid is no text", header(map[string]any{"kid": 1})},
	{"kid with a line break", "unprintable", header(map[string]any{"kid": "es\n"})},
	{"kid of nobody", "no such key", header(map[string]any{"kid": "other"})},
	{"kid a path", "no such key", header(map[string]any{"kid": "../../dev/null"})},
	{"kid in another case", "no such key", header(map[string]any{"kid": "ES"})},
	{"own key under a known kid", "does not verify", func(h *hostile) string { return h.i.token(signer{"es", "ES256", h.nobody.private}, nil) }},
	{"own key in jwk", "holds jwk", func(h *hostile) string {
		return sign(h.nobody, map[string]any{"alg": "ES256", "kid": "es", "jwk": jwkMembers(h.nobody.public())}, mustJSON(h.i.claims(nil)))
	}},
	{"jku", "holds jku", header(map[string]any{"jku": "https://evil.example.com/keys"})},
	{"x5u", "holds x5u", header(map[string]any{"x5u": "https://evil.example.com/cert"})},
	{"x5c", "holds x5c", header(map[string]any{"x5c": []string{"MIIB"}})},
	{"crit", "holds crit", header(map[string]any{"crit": []string{"exp"}})},
	{"unencoded payload", "holds b64", header(map[string]any{"b64": false})},
	{"compressed", "holds zip", header(map[string]any{"zip": "DEF"})},
	{"access token", `type "at+jwt"`, header(map[string]any{"typ": "at+jwt"})},
	{"logout token", `type "logout+jwt"`, header(map[string]any{"typ": "logout+jwt"})},
	{"typ a list", "typ is no text", header(map[string]any{"typ": []string{"JWT"}})},
	{"header with alg twice", "a name twice", func(h *hostile) string {
		text := part([]byte(`{"alg":"none","alg":"ES256","kid":"es"}`)) + "." + part(mustJSON(h.i.claims(nil)))
		return text + "." + part(signature(h.es, text))
	}},
	{"header no object", "no JSON object", func(h *hostile) string { return sign(h.es, []string{"alg"}, mustJSON(h.i.claims(nil))) }},
	{"header null", "no JSON object", func(h *hostile) string { return sign(h.es, nil, mustJSON(h.i.claims(nil))) }},

	// The issuer.
	{"unknown issuer", "no issuer", with(map[string]any{"iss": "https://evil.example.com"})},
	{"issuer with a slash", "no issuer", func(h *hostile) string { return h.i.token(h.es, map[string]any{"iss": h.i.url + "/"}) }},
	{"issuer in capitals", "no issuer", func(h *hostile) string { return h.i.token(h.es, map[string]any{"iss": strings.ToUpper(h.i.url)}) }},
	{"issuer missing", "required", with(map[string]any{"iss": nil})},
	{"issuer a list", "iss is no text", with(map[string]any{"iss": []string{"x"}})},
	{"issuer in ISS", "required", func(h *hostile) string { return h.i.token(h.es, map[string]any{"iss": nil, "ISS": h.i.url}) }},
	{"mix-up: other issuer's key, our name", "does not verify", func(h *hostile) string {
		return sign(h.foreign, map[string]any{"alg": "ES256", "kid": "es"}, mustJSON(h.i.claims(nil)))
	}},
	{"mix-up: our key, other issuer's name", "does not verify", func(h *hostile) string {
		return sign(h.es, map[string]any{"alg": "ES256", "kid": "es"}, mustJSON(h.other.claims(nil)))
	}},

	// For whom.
	{"audience missing", "aud", with(map[string]any{"aud": nil})},
	{"audience of another", "not for this gate", with(map[string]any{"aud": "another-app"})},
	{"audience in capitals", "not for this gate", with(map[string]any{"aud": "LYCHGATE-CLI"})},
	{"audience with ours in it", "not for this gate", with(map[string]any{"aud": clientID + "-2"})},
	{"audience empty text", "not for this gate", with(map[string]any{"aud": ""})},
	{"audience empty list", "aud", with(map[string]any{"aud": []string{}})},
	{"audience a number", "aud is neither", with(map[string]any{"aud": 1})},
	{"audience a list of lists", "aud is neither", with(map[string]any{"aud": []any{[]string{clientID}}})},
	{"two audiences", "2 audiences", with(map[string]any{"aud": []string{clientID, "another-app"}})},
	{"two audiences and our azp", "2 audiences", with(map[string]any{"aud": []string{clientID, "another-app"}, "azp": clientID})},
	{"our audience twice", "one twice", with(map[string]any{"aud": []string{clientID, clientID}})},
	{"a hundred audiences", "1 to 16", with(map[string]any{"aud": slices.Repeat([]string{clientID}, 100)})},
	{"azp of another", "azp", with(map[string]any{"azp": "another-app"})},
	{"azp a list", "azp is no text", with(map[string]any{"azp": []string{clientID}})},
	{"a job's token for people", "CI job", with(map[string]any{"job_id": "7", "sub": "project_path:evil/x"})},

	// When.
	{"expired", "expired", at("exp", -30*time.Second)},
	{"expires a second before", "expired", at("exp", -31*time.Second)},
	{"no exp", "required", with(map[string]any{"exp": nil})},
	{"exp text", "exp is no whole number", with(map[string]any{"exp": "1772366700"})},
	{"exp with a fraction", "exp is no whole number", with(map[string]any{"exp": 1772366700.5})},
	{"exp in the year 30000", "exp is no whole number", with(map[string]any{"exp": 884541340800})},
	{"nbf beyond all numbers", "nbf is no whole number", inject(`"nbf":1e300`)},
	{"exp negative", "exp is no whole number", with(map[string]any{"exp": -1})},
	{"exp null", "exp is no whole number", payload(func(h *hostile) string {
		return strings.Replace(string(mustJSON(h.i.claims(map[string]any{"exp": 1}))), `"exp":1`, `"exp":null`, 1)
	})},
	{"no iat", "required", with(map[string]any{"iat": nil})},
	{"issued in the future", "still to come", at("iat", 31*time.Second)},
	{"issued after it expires", "lives from", func(h *hostile) string {
		now := h.i.time.now().Unix()
		return h.i.token(h.es, map[string]any{"iat": now + 20, "exp": now + 10})
	}},
	{"lives for a week", "at most 24h", at("exp", 7*24*time.Hour)},
	{"not yet valid", "not valid before", at("nbf", 31*time.Second)},

	// Who.
	{"no subject", "required", with(map[string]any{"sub": nil})},
	{"empty subject", "sub is no text", with(map[string]any{"sub": ""})},
	{"subject a number", "sub is no text", with(map[string]any{"sub": 42})},
	{"subject too long", "longer than 255", with(map[string]any{"sub": strings.Repeat("a", 256)})},
	{"subject with a control character", "unprintable", with(map[string]any{"sub": "alice\x1b[2J"})},
	{"subject with a bidi override", "unprintable", with(map[string]any{"sub": "alice\u202e"})},

	// JSON.
	{"sub twice", "a name twice", inject(`"sub":"u-root"`)},
	{"sub twice, once escaped", "a name twice", inject(`"\u0073ub":"u-root"`)},
	{"a name twice inside", "a name twice", inject(`"x":{"a":1,"a":2}`)},
	{"invalid UTF-8", "invalid UTF-8", inject("\"x\":\"\xff\"")},
	{"lone surrogate", "invalid UTF-8", inject(`"x":"\ud800"`)},
	{"deep", "deeper than", inject(`"x":` + strings.Repeat("[", 3000) + strings.Repeat("]", 3000))},
	{"cut", "no exact JSON", payload(func(h *hostile) string { return strings.TrimSuffix(string(mustJSON(h.i.claims(nil))), "}") })},
	{"two objects", "no JSON object", payload(func(h *hostile) string { return string(mustJSON(h.i.claims(nil))) + "{}" })},
	{"text", "no JSON object", payload(func(*hostile) string { return `"iss"` })},
	{"null", "no JSON object", payload(func(*hostile) string { return `null` })},
	{"byte order mark", "no exact JSON", payload(func(h *hostile) string { return "\ufeff" + string(mustJSON(h.i.claims(nil))) })},
	{"distributed claims without a source", "source does not exist", with(map[string]any{"_claim_names": map[string]any{"groups": "src1"}})},
}

// spareBits changes a bit of the last character that no byte needs.
func spareBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last^1])
}

func newHostile(t testing.TB) *hostile {
	h := &hostile{
		rs: newSigner(t, "rs", "RS256"), es: newSigner(t, "es", "ES256"), foreign: newSigner(t, "es", "ES256"), nobody: newSigner(t, "es", "ES256"),
	}
	h.i, h.other = newIssuer(t, h.rs, h.es), newIssuer(t, h.foreign)
	return h
}

// TestHostileIDTokens: each is refused as a bad token and for the reason meant, beside a good one that is accepted before and after.
func TestHostileIDTokens(t *testing.T) {
	h := newHostile(t)
	o := h.i.oidc(h.i.config(), h.other.config())
	good := func(when string) {
		if _, err := show(t, o, h.i.token(h.es, nil)); err != nil {
			t.Fatalf("a good token %s: %v", when, err)
		}
	}
	good("before")
	for _, c := range hostileIDTokens {
		p, err := show(t, o, c.make(h))
		wantReason(t, c.name, err, authn.BadIDToken, c.words)
		if err == nil || p.ID != "" {
			t.Errorf("%s: got %+v", c.name, p)
		}
	}
	good("after")
	if len(hostileIDTokens) < 60 {
		t.Errorf("only %d hostile tokens", len(hostileIDTokens))
	}
	if n := h.i.count(); n > 2 {
		t.Errorf("%d fetches of the keys", n)
	}
}

// TestRefusedBeforeKeys: a token that could not be good in any case asks no issuer for keys.
func TestRefusedBeforeKeys(t *testing.T) {
	h := newHostile(t)
	o := h.i.oidc()
	for _, token := range []string{
		h.i.token(h.es, map[string]any{"aud": "another-app"}), h.i.token(h.es, map[string]any{"exp": 1}), h.other.token(h.foreign, nil),
	} {
		if _, err := show(t, o, token); !errors.Is(err, authn.ErrRefused) {
			t.Errorf("%v", err)
		}
	}
	if n := h.i.count() + h.other.count(); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

// TestLeeway: clocks may be half a minute apart, in both directions, and not more.
func TestLeeway(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	now := i.time.now().Unix()
	for name, changes := range map[string]map[string]any{
		"just expired":          {"iat": now - 300, "exp": now - 29},
		"just to be issued":     {"iat": now + 30},
		"just before it begins": {"nbf": now + 30},
		"a whole day":           {"exp": now + 24*3600},
		"azp is ours":           {"azp": clientID},
		"a list of one":         {"aud": []string{clientID}},
	} {
		if _, err := show(t, i.oidc(), i.token(key, changes)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherAudiences(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	config := i.config()
	config.AllowOtherAudiences = true
	o := i.oidc(config)
	both := []string{"another-app", clientID}
	if _, err := show(t, o, i.token(key, map[string]any{"aud": both, "azp": clientID})); err != nil {
		t.Error(err)
	}
	_, err := show(t, o, i.token(key, map[string]any{"aud": both}))
	wantReason(t, "no azp", err, authn.BadIDToken, "does not say to whom")
	_, err = show(t, o, i.token(key, map[string]any{"aud": both, "azp": "another-app"}))
	wantReason(t, "azp of the other", err, authn.BadIDToken, "azp")
	_, err = show(t, o, i.token(key, map[string]any{"aud": []string{"another-app", "third"}, "azp": "another-app"}))
	wantReason(t, "ours is not among them", err, authn.BadIDToken, "not for this gate")
}

// TestIDTokenDigest: one digest for all forms of a token that are accepted, and others for other tokens.
func TestIDTokenDigest(t *testing.T) {
	key := newSigner(t, "k", "ES256")
	i := newIssuer(t, key)
	token := i.token(key, nil)
	// The second form of an ECDSA signature: s becomes n - s.
	end := strings.LastIndexByte(token, '.') + 1
	sig := make([]byte, 64)
	n, _ := new(big.Int).SetString(fmt.Sprintf("%x", decode(t, token[end:])[32:]), 16)
	copy(sig, decode(t, token[end:])[:32])
	new(big.Int).Sub(elliptic.P256().Params().N, n).FillBytes(sig[32:])
	twin := token[:end] + part(sig)
	if _, err := show(t, i.oidc(), twin); err != nil {
		t.Fatalf("the test needs a second form that is accepted: %v", err)
	}
	digest := func(s string) [32]byte { return authn.IDTokenDigest(authn.NewSecret(s)) }
	if twin == token || digest(twin) != digest(token) {
		t.Error("two forms of one token have two digests")
	}
	if digest(i.token(key, map[string]any{"jti": "2"})) == digest(token) {
		t.Error("two tokens have one digest")
	}
	digest("")
	digest("x")
}

func TestClaims(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	config := i.config()
	config.Claims = []string{"groups", "level", "admin", "realm", "mixed", "gone", "big", "tenth"}
	o := i.oidc(config)
	p, err := show(t, o, i.token(key, map[string]any{
		"groups": []string{"a", "b"}, "level": 3, "admin": true, "realm": map[string]any{"x": 1}, "mixed": []any{"a", 1},
		"big": 1 << 60, "tenth": 0.1, "unasked": "x", "environment": "production",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"iss": i.url, "sub": "u-alice", "environment": "production", "groups": []any{"a", "b"}, "level": float64(3), "admin": true,
	}
	if diff := cmp.Diff(want, p.Claims); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for name, claims := range map[string]map[string]any{
		"unprintable":         {"environment": "a\nb"},
		"too long":            {"environment": strings.Repeat("x", 256)},
		"unprintable in list": {"groups": []string{"a", "b\x00"}},
		"long list":           {"groups": slices.Repeat([]string{"a"}, 1025)},
	} {
		_, err := show(t, o, i.token(key, claims))
		wantReason(t, name, err, authn.BadIDToken, "claim")
	}
}

// people is a directory and links of a table, that notes who was asked.
type people struct {
	identities, names, links map[string]authn.Principal
	fault                    string // the rule that fails
	asked                    []string
}

var errDown = errors.New("database is gone")

func (d *people) answer(rule, key string, table map[string]authn.Principal) (authn.Principal, error) {
	d.asked = append(d.asked, rule+" "+key)
	if d.fault == rule {
		return authn.Principal{}, errDown
	}
	p, ok := table[key]
	if !ok {
		return p, fmt.Errorf("no %s: %w", key, authn.ErrNobody)
	}
	return p, nil
}

func (d *people) KeyOwner(context.Context, string) (authn.Principal, error) {
	return authn.Principal{}, authn.ErrNobody
}

func (d *people) IdentityOwner(_ context.Context, forge, issuer, subject string) (authn.Principal, error) {
	return d.answer("identity", forge+" "+strings.SplitN(issuer, ":", 2)[0]+" "+subject, d.identities)
}

func (d *people) ByName(_ context.Context, forge, name string) (authn.Principal, error) {
	return d.answer("name", forge+" "+name, d.names)
}

func (d *people) Linked(_ context.Context, issuer, subject string) (authn.Principal, error) {
	return d.answer("link", strings.SplitN(issuer, ":", 2)[0]+" "+subject, d.links)
}

func person(id string) map[string]authn.Principal {
	p := authn.Principal{Forge: "f", ID: id, Name: "n" + id, Kind: authn.Human}
	return map[string]authn.Principal{"f https u-alice": p, "f alice": p, "https u-alice": p}
}

// goneMap is a map whose file cannot be read any more.
type goneMap struct{}

func (goneMap) Current() (map[string]string, error) {
	return map[string]string{"u-alice": "4"}, errDown
}

// TestPeople: the rules are asked in order, the first that answers wins, and a fault is no answer.
func TestPeople(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	id1, id2, id3, none := person("1"), person("2"), person("3"), map[string]authn.Principal{}
	mapped := authn.Fixed[map[string]string]{Value: map[string]string{"u-alice": "4"}}
	anonymous := map[string]authn.Principal{"f https u-alice": {Kind: authn.Anonymous}}
	for _, c := range []struct {
		name    string
		mapping authn.PeopleMapping
		people  people
		want    string // the id
		reason  authn.Reason
		asked   int
	}{
		{name: "1: subject", mapping: authn.PeopleMapping{SubjectIsForgeID: true, Users: mapped}, people: people{identities: id1}, want: "u-alice"},
		{name: "2: identity", mapping: authn.PeopleMapping{Users: mapped}, people: people{identities: id1, links: id2}, want: "1", asked: 1},
		{name: "3: link", mapping: authn.PeopleMapping{Users: mapped}, people: people{links: id2, names: id3}, want: "2", asked: 2},
		{name: "4: map", mapping: authn.PeopleMapping{Users: mapped, TrustPreferredUsername: true}, people: people{names: id3}, want: "4", asked: 2},
		{name: "5: name", mapping: authn.PeopleMapping{TrustPreferredUsername: true}, people: people{names: id3}, want: "3", asked: 3},
		{name: "name is not trusted", people: people{names: id3}, reason: authn.UnmappedIdentity, asked: 2},
		{name: "nobody", mapping: authn.PeopleMapping{TrustPreferredUsername: true}, people: people{names: none}, reason: authn.UnmappedIdentity, asked: 3},
		{name: "anonymous", people: people{identities: anonymous}, reason: authn.UnmappedIdentity, asked: 1},
		{name: "identity fails", mapping: authn.PeopleMapping{Users: mapped}, people: people{fault: "identity", links: id2}, asked: 1},
		{name: "link fails", mapping: authn.PeopleMapping{Users: mapped}, people: people{fault: "link"}, asked: 2},
		{name: "linked at another forge", people: people{links: map[string]authn.Principal{"https u-alice": {Forge: "g", ID: "2", Kind: authn.Human}}}, reason: authn.UnmappedIdentity, asked: 2},
		{name: "map fails", mapping: authn.PeopleMapping{Users: goneMap{}, TrustPreferredUsername: true}, people: people{names: id3}, asked: 2},
		{name: "name fails", mapping: authn.PeopleMapping{TrustPreferredUsername: true}, people: people{fault: "name"}, asked: 3},
	} {
		config, directory := i.config(), &c.people
		c.mapping.ClientID, c.mapping.Forge = clientID, "f"
		config.People = &c.mapping
		o := newOIDC(t, authn.OIDCConfig{Issuers: []authn.Issuer{config}, Directory: directory, Links: directory, Now: i.time.now})
		p, err := show(t, o, i.token(key, map[string]any{"preferred_username": "alice", "email": "alice@example.com", "email_verified": true}))
		switch {
		case c.want != "" && (err != nil || p.ID != c.want || p.Forge != "f" || p.Kind != authn.Human):
			t.Errorf("%s: got %+v, %v", c.name, p, err)
		case c.reason != "":
			wantReason(t, c.name, err, c.reason, `"u-alice"`)
		case c.want == "" && (!errors.Is(err, errDown) || errors.Is(err, authn.ErrRefused)):
			t.Errorf("%s: %v, want the fault", c.name, err)
		}
		if len(directory.asked) != c.asked {
			t.Errorf("%s: asked %q", c.name, directory.asked)
		}
	}
}

func TestParsePeople(t *testing.T) {
	got, err := authn.ParsePeople([]byte("# people\n\n  a:1 \t 17\nb 18\r\n"))
	if diff := cmp.Diff(map[string]string{"a:1": "17", "b": "18"}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for text, words := range map[string]string{
		"a":                                 "line 1",
		"a 1\nb 2 3":                        "line 2",
		"a 1\na 2":                          `"a" stands twice`,
		"a \x01":                            "unprintable",
		"a " + strings.Repeat("1", 256):     "longer",
		"\xff 1":                            "UTF-8",
		"a 1\n\n# x\nb":                     "line 4",
		"alice@example.com = 1 # a comment": "line 1",
	} {
		if _, err := authn.ParsePeople([]byte(text)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", text, err, words)
		}
	}
}

// TestNewOIDC: a configuration that could not work, or would let in others than it says, stops the start.
func TestNewOIDC(t *testing.T) {
	rule := authn.CIRule{Profile: authn.GitLab, Claims: map[string][]string{"project_id": {"7"}}, Principal: authn.Principal{ID: "ci"}}
	for name, c := range map[string]struct {
		change func(i *authn.Issuer)
		words  string
	}{
		"plain http":            {func(i *authn.Issuer) { i.URL = "http://idp.example.com" }, "want https"},
		"plain http, loopback":  {func(i *authn.Issuer) { i.URL = "http://127.0.0.1:1" }, "want https"},
		"plain http, far":       {func(i *authn.Issuer) { i.URL, i.Keys.PlainLoopback = "http://idp.example.com", true }, "want https"},
		"plain http, look-like": {func(i *authn.Issuer) { i.URL, i.Keys.PlainLoopback = "http://127.0.0.1.example.com", true }, "want https"},
		"no URL":                {func(i *authn.Issuer) { i.URL = "" }, "want https"},
		"no host":               {func(i *authn.Issuer) { i.URL = "https:///x" }, "want https"},
		"user":                  {func(i *authn.Issuer) { i.URL = "https://u@idp.example.com" }, "more than scheme"},
		"query":                 {func(i *authn.Issuer) { i.URL = "https://idp.example.com?x" }, "more than scheme"},
		"fragment":              {func(i *authn.Issuer) { i.URL = "https://idp.example.com#" }, "more than scheme"},
		"keys by http":          {func(i *authn.Issuer) { i.Keys.KeysURL = "http://idp.example.com/keys" }, "want https"},
		"negative timeout":      {func(i *authn.Issuer) { i.Keys.Timeout = -1 }, "timeout"},
		"ceiling below refresh": {func(i *authn.Issuer) { i.Keys.Ceiling = time.Minute }, "below refresh"},
		"nobody":                {func(i *authn.Issuer) { i.People = nil }, "neither people nor CI"},
		"CI without audience":   {func(i *authn.Issuer) { i.CI = []authn.CIRule{rule} }, "no audience"},
		"audience without CI":   {func(i *authn.Issuer) { i.Audience = gateURI }, "no CI rules"},
		"one audience for both": {func(i *authn.Issuer) { i.Audience, i.CI = clientID, []authn.CIRule{rule} }, "must differ"},
		"no client id":          {func(i *authn.Issuer) { i.People.ClientID = "" }, "audience"},
		"no client id, with CI": {func(i *authn.Issuer) { i.People.ClientID, i.Audience, i.CI = "", gateURI, []authn.CIRule{rule} }, "client id"},
		"no forge":              {func(i *authn.Issuer) { i.People.Forge = "" }, "no forge"},
		"no rule":               {func(i *authn.Issuer) { i.People.SubjectIsForgeID = false }, "could find anybody"},
		"names, no directory":   {func(i *authn.Issuer) { i.People.TrustPreferredUsername = true }, "no directory"},
		"negative life":         {func(i *authn.Issuer) { i.MaxLife = -1 }, "longest life"},
		"bad rule":              {func(i *authn.Issuer) { i.Audience, i.CI = gateURI, []authn.CIRule{rule, {}} }, "CI rule 2"},
	} {
		i := authn.Issuer{
			URL: "https://idp.example.com", People: &authn.PeopleMapping{ClientID: clientID, Forge: "f", SubjectIsForgeID: true},
		}
		c.change(&i)
		if _, err := authn.NewOIDC(authn.OIDCConfig{Issuers: []authn.Issuer{i}}); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
	}
	twice := authn.Issuer{URL: "https://idp.example.com", People: &authn.PeopleMapping{ClientID: clientID, Forge: "f", SubjectIsForgeID: true}}
	if _, err := authn.NewOIDC(authn.OIDCConfig{Issuers: []authn.Issuer{twice, twice}}); err == nil {
		t.Error("one issuer twice was taken")
	}
}
