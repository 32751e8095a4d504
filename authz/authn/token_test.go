package authn_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/authn/tokentest"
)

var (
	key   = bytes.Repeat([]byte{7}, 32)
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	alice = authn.Principal{Forge: "git.example.com", ID: "42", Name: "alice", Kind: authn.Human, Groups: []string{"team"}}
)

// clock is a settable time.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTokens(t testing.TB, store authn.TokenStore) (*authn.Tokens, *clock) {
	t.Helper()
	c := &clock{start}
	tokens, err := authn.NewTokens(authn.TokensConfig{Store: store, Key: key, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, c
}

func mint(t testing.TB, tokens *authn.Tokens) (authn.Secret, authn.TokenInfo) {
	t.Helper()
	secret, info, err := tokens.Mint(t.Context(), authn.Order{Principal: alice, TTL: time.Hour, Note: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	return secret, info
}

func TestMintedTokenAuthenticates(t *testing.T) {
	tokens, clock := newTokens(t, new(tokentest.Memory))
	secret, info := mint(t, tokens)
	if !regexp.MustCompile(`^lyg_[A-Za-z0-9_-]{49}$`).MatchString(secret.Reveal()) {
		t.Fatalf("a token has another form than documented")
	}
	if !regexp.MustCompile(`^tok-[a-z2-7]{12}$`).MatchString(info.ID) {
		t.Fatalf("id %q", info.ID)
	}
	want := alice
	want.Credential, want.Expires = info.ID, start.Add(time.Hour)
	got, err := tokens.Authenticate(t.Context(), authn.Credential{Token: secret})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	clock.at = start.Add(time.Hour - 1)
	if _, err := tokens.Authenticate(t.Context(), authn.Credential{Token: secret}); err != nil {
		t.Fatalf("a nanosecond before it expires: %v", err)
	}
	clock.at = start.Add(time.Hour)
	_, err = tokens.Authenticate(t.Context(), authn.Credential{Token: secret})
	if !errors.Is(err, authn.ErrRefused) || !strings.Contains(err.Error(), info.ID+": expired") {
		t.Fatalf("the moment it expires: %v", err)
	}
}

func TestTokensDiffer(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	seen := make(map[string]bool)
	for range 100 {
		secret, info := mint(t, tokens)
		if seen[secret.Reveal()] || seen[info.ID] {
			t.Fatal("a token or an id came twice")
		}
		seen[secret.Reveal()], seen[info.ID] = true, true
	}
	all, err := tokens.List(t.Context())
	if err != nil || len(all) != 100 {
		t.Fatalf("listed %d, %v", len(all), err)
	}
}

func TestRevokedTokenIsRefused(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	secret, info := mint(t, tokens)
	other, _ := mint(t, tokens)
	if err := tokens.Revoke(t.Context(), info.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Authenticate(t.Context(), authn.Credential{Token: secret}); !errors.Is(err, authn.ErrRefused) {
		t.Fatalf("revoked: %v", err)
	}
	if _, err := tokens.Authenticate(t.Context(), authn.Credential{Token: other}); err != nil {
		t.Fatalf("the other: %v", err)
	}
	if err := tokens.Revoke(t.Context(), info.ID); !errors.Is(err, authn.ErrNoToken) {
		t.Fatalf("revoked again: %v", err)
	}
}

func TestAnotherKeyEndsAllTokens(t *testing.T) {
	store := new(tokentest.Memory)
	tokens, clock := newTokens(t, store)
	secret, _ := mint(t, tokens)
	other, err := authn.NewTokens(authn.TokensConfig{Store: store, Key: bytes.Repeat([]byte{8}, 32), Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authenticate(t.Context(), authn.Credential{Token: secret}); !errors.Is(err, authn.ErrRefused) {
		t.Fatalf("got %v", err)
	}
}

// recheck gives a body its valid check, so that what is wrong with the body is what is refused.
func recheck(body string) string {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body)))
	return body + base64.RawURLEncoding.EncodeToString(sum)
}

// hostileTokens are spoilt forms of a good token.
func hostileTokens(good string) map[string]string {
	body, check := good[:47], good[47:]
	hostile := map[string]string{
		"prefix only":             "lyg_",
		"no check":                body,
		"no body":                 "lyg_" + check,
		"cut by one":              good[:52],
		"one too many":            good + "A",
		"padded":                  good + "=",
		"twice":                   good + good,
		"space behind":            good + " ",
		"newline behind":          good + "\n",
		"NUL behind":              good + "\x00",
		"newline inside, longer":  good[:20] + "\n" + good[20:],
		"newline inside":          recheck(body[:20] + "\n" + body[21:]),
		"two newlines inside":     recheck(body[:20] + "\r\n" + body[22:]),
		"standard alphabet +":     recheck(body[:20] + "+" + body[21:]),
		"standard alphabet /":     recheck(body[:20] + "/" + body[21:]),
		"padding inside":          recheck(body[:45] + "=="),
		"NUL inside":              recheck(body[:20] + "\x00" + body[21:]),
		"not UTF-8":               recheck(body[:20] + "\xff" + body[21:]),
		"full-width letter":       recheck(body[:20] + "Ａ" + body[23:]),
		"percent-encoded":         recheck(body[:20] + "%41" + body[23:]),
		"quote":                   recheck(body[:20] + "'" + body[21:]),
		"all zero bytes":          recheck("lyg_" + strings.Repeat("A", 43)),
		"spare bits":              recheck("lyg_" + strings.Repeat("A", 42) + "B"),
		"never minted":            recheck("lyg_" + strings.Repeat("Q", 43)),
		"check of another":        body + tokenCheckOf("lyg_"+strings.Repeat("Q", 43)),
		"check zero":              body + "AAAAAA",
		"check with spare bits":   spare(good),
		"body upper case":         recheck("lyg_" + strings.ToUpper(body[4:])),
		"body lower case":         recheck("lyg_" + strings.ToLower(body[4:])),
		"first character changed": recheck("lyg_" + next(body[4]) + body[5:]),
		"last character changed":  recheck(body[:46] + string("AEIMQUYcgkosw048"[(strings.IndexByte("AEIMQUYcgkosw048", body[46])+1)%16])),
		"reversed":                recheck("lyg_" + reverse(body[4:])),
		"a megabyte":              "lyg_" + strings.Repeat("A", 1<<20),
		"comma list":              good + "," + good,
		"user before":             "lyg_alice:" + good,
	}
	return hostile
}

func tokenCheckOf(body string) string { return recheck(body)[len(body):] }

func next(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

// spare sets a bit of the last character that carries no data: another spelling of the same check.
func spare(good string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	return good[:len(good)-1] + string(alphabet[last|1])
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

func TestHostileTokensAreRefused(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	secret, _ := mint(t, tokens)
	hostile := hostileTokens(secret.Reveal())
	if len(hostile) < 30 {
		t.Fatalf("only %d hostile tokens", len(hostile))
	}
	for name, text := range hostile {
		if text == secret.Reveal() {
			t.Fatalf("%s: is the good token", name)
		}
		p, err := tokens.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret(text)})
		if !errors.Is(err, authn.ErrRefused) || p.ID != "" {
			t.Errorf("%s: got %+v, %v; want ErrRefused", name, p, err)
			continue
		}
		if strings.Contains(err.Error(), text[4:]) && len(text) > 4 {
			t.Errorf("%s: the error quotes the token", name)
		}
	}
}

func TestOtherKindsAreNotMine(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	for _, text := range []string{"", "hunter2", "LYG_", "Lyg_" + strings.Repeat("A", 49), " lyg_", "eyJhbGciOiJSUzI1NiJ9.e30.sig", "glpat-x", "lyg"} {
		_, err := tokens.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret(text)})
		if !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%q: %v, want ErrNotMine", text, err)
		}
	}
}

// brokenStore fails as a store does whose disk is gone.
type brokenStore struct{ authn.TokenStore }

var errBroken = errors.New("disk is gone")

func (brokenStore) TokenByMAC(context.Context, [32]byte) (authn.TokenInfo, error) {
	return authn.TokenInfo{ID: "tok-x", Principal: alice, Expires: start.Add(time.Hour)}, errBroken
}

func (brokenStore) PutToken(context.Context, [32]byte, authn.TokenInfo) error { return errBroken }

func (brokenStore) Epoch(context.Context, string) (uint64, error) { return 0, errBroken }

func TestStoreFaultIsARefusal(t *testing.T) {
	good, _ := newTokens(t, new(tokentest.Memory))
	secret, _ := mint(t, good)
	broken, _ := newTokens(t, brokenStore{})
	p, err := broken.Authenticate(t.Context(), authn.Credential{Token: secret})
	if !errors.Is(err, errBroken) || errors.Is(err, authn.ErrRefused) || errors.Is(err, authn.ErrNotMine) || p.ID != "" {
		t.Fatalf("got %+v, %v; want the fault itself", p, err)
	}
	for _, epoch := range []uint64{0, 1} { // not known, and known: then it is the token that cannot be kept
		secret, info, err := broken.Mint(t.Context(), authn.Order{Principal: alice, TTL: time.Hour, Epoch: epoch})
		if !errors.Is(err, errBroken) || !secret.IsZero() || info.ID != "" {
			t.Fatalf("mint gave %+v, %v", info, err)
		}
	}
}

// A token without an end in the store is one that expired long ago.
func TestTokenWithoutExpiryIsRefused(t *testing.T) {
	store := new(noExpiry)
	tokens, _ := newTokens(t, store)
	secret, _ := mint(t, tokens)
	if _, err := tokens.Authenticate(t.Context(), authn.Credential{Token: secret}); !errors.Is(err, authn.ErrRefused) {
		t.Fatalf("got %v", err)
	}
}

type noExpiry struct{ tokentest.Memory }

func (s *noExpiry) PutToken(ctx context.Context, mac [32]byte, info authn.TokenInfo) error {
	info.Expires = time.Time{}
	return s.Memory.PutToken(ctx, mac, info)
}

func TestMintRefuses(t *testing.T) {
	with := func(change func(*authn.Principal)) authn.Principal {
		p := alice
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		p    authn.Principal
		ttl  time.Duration
		note string
	}{
		"no life":         {alice, 0, ""},
		"negative life":   {alice, -1, ""},
		"too long a life": {alice, 366*24*time.Hour + 1, ""},
		"nobody":          {authn.Principal{}, time.Hour, ""},
		"anonymous":       {authn.Principal{Kind: authn.Anonymous}, time.Hour, ""},
		"unknown kind":    {with(func(p *authn.Principal) { p.Kind = "root" }), time.Hour, ""},
		"no id":           {with(func(p *authn.Principal) { p.ID = "" }), time.Hour, ""},
		"slash in forge":  {with(func(p *authn.Principal) { p.Forge = "a/b" }), time.Hour, ""},
		"newline in name": {with(func(p *authn.Principal) { p.Name = "a\nb" }), time.Hour, ""},
		"bidi in group":   {with(func(p *authn.Principal) { p.Groups = []string{"a\u202eb"} }), time.Hour, ""},
		"many roles":      {with(func(p *authn.Principal) { p.Roles = make([]string, 1025) }), time.Hour, ""},
		"newline in note": {alice, time.Hour, "a\nb"},
		"escape in note":  {alice, time.Hour, "\x1b[2J"},
		"long note":       {alice, time.Hour, strings.Repeat("a", 256)},
		"note not UTF-8":  {alice, time.Hour, "\xff"},
	} {
		tokens, _ := newTokens(t, new(tokentest.Memory))
		secret, _, err := tokens.Mint(t.Context(), authn.Order{Principal: c.p, TTL: c.ttl, Note: c.note})
		if err == nil || !secret.IsZero() {
			t.Errorf("%s: minted", name)
		}
		if all, _ := tokens.List(t.Context()); len(all) != 0 {
			t.Errorf("%s: something was stored", name)
		}
	}
}

func TestNewTokensRefuses(t *testing.T) {
	for name, cfg := range map[string]authn.TokensConfig{
		"no store":     {Key: key},
		"no key":       {Store: new(tokentest.Memory)},
		"short key":    {Store: new(tokentest.Memory), Key: key[:31]},
		"negative ttl": {Store: new(tokentest.Memory), Key: key, MaxTTL: -1},
	} {
		if tokens, err := authn.NewTokens(cfg); err == nil || tokens != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMintedPrincipalIsACopy(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	p := alice
	p.Groups = []string{"team"}
	secret, _, err := tokens.Mint(t.Context(), authn.Order{Principal: p, TTL: time.Hour, Note: ""})
	if err != nil {
		t.Fatal(err)
	}
	p.Groups[0] = "admins"
	got, err := tokens.Authenticate(t.Context(), authn.Credential{Token: secret})
	if err != nil || got.Groups[0] != "team" {
		t.Fatalf("got %v, %v", got.Groups, err)
	}
}

// FuzzToken looks for a text other than the minted one that gets in, and for panics.
func FuzzToken(f *testing.F) {
	tokens, _ := newTokens(f, new(tokentest.Memory))
	secret, _ := mint(f, tokens)
	for _, text := range hostileTokens(recheck("lyg_" + strings.Repeat("Q", 43))) {
		if len(text) < 1000 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := tokens.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret(text)})
		if err == nil && text != secret.Reveal() {
			t.Fatalf("%q is %+v", text, p)
		}
		if err != nil && (errors.Is(err, authn.ErrNotMine) == strings.HasPrefix(text, "lyg_")) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func TestAuthenticateDoesNotAllocate(t *testing.T) {
	tokens, _ := newTokens(t, new(tokentest.Memory))
	secret, _ := mint(t, tokens)
	credential, ctx := authn.Credential{Token: secret}, t.Context()
	authenticate := func() {
		if _, err := tokens.Authenticate(ctx, credential); err != nil {
			t.Fatal(err)
		}
	}
	// The race detector makes sync.Pool forget at random, and one forgotten HMAC is a handful of allocations: the best of
	// many single runs is what counts.
	allocs := testing.AllocsPerRun(1, authenticate)
	for range 200 {
		allocs = min(allocs, testing.AllocsPerRun(1, authenticate))
	}
	if allocs > 2 {
		t.Fatalf("%v allocations", allocs)
	}
}

func BenchmarkAuthenticateToken(b *testing.B) {
	tokens, _ := newTokens(b, new(tokentest.Memory))
	secret, _ := mint(b, tokens)
	credential, ctx := authn.Credential{Token: secret}, b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Authenticate(ctx, credential); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleTokens_Mint() {
	tokens, err := authn.NewTokens(authn.TokensConfig{Store: new(tokentest.Memory), Key: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	secret, _, err := tokens.Mint(context.Background(), authn.Order{Principal: alice, TTL: 8 * time.Hour, Note: "laptop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	who, err := tokens.Authenticate(context.Background(), authn.Credential{Token: secret})
	fmt.Println(secret, who.Key(), err)
	// Output: [secret] git.example.com/42 <nil>
}
