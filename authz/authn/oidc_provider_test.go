package authn_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/gwtest/oidcprovider"
)

// atProvider is an OIDC for a real provider. Its time is when it was made, and moves when the test says so: a machine that is slow
// causes no fetch.
func atProvider(t *testing.T, p *oidcprovider.Provider) (*authn.OIDC, *wallClock) {
	t.Helper()
	now := &wallClock{at: time.Now()}
	return newOIDC(t, authn.OIDCConfig{Now: now.now, Issuers: []authn.Issuer{{
		URL: p.Issuer, Keys: authn.KeyFetch{PlainLoopback: true},
		People: &authn.PeopleMapping{ClientID: oidcprovider.ClientID, Forge: "git.example.com", SubjectIsForgeID: true},
	}}}), now
}

// longLived is a token that outlives the tests of what happens to its key.
func longLived(t *testing.T, p *oidcprovider.Provider) string {
	return p.Sign(t, nil, map[string]any{"exp": time.Now().Add(20 * time.Hour).Unix()})
}

// TestProviderSignIn: what people get by the device flow, and by code and PKCE on a loopback port, from a certified provider.
func TestProviderSignIn(t *testing.T) {
	p := oidcprovider.Start(t)
	tokens := map[string]string{
		"device flow":    p.Device(t, "bob", oidcprovider.ClientID),
		"code and PKCE":  p.Code(t, "bob", oidcprovider.ClientID),
		"signed by hand": p.Sign(t, nil, map[string]any{"sub": "u-bob", "preferred_username": "bob"}),
	}
	o, _ := atProvider(t, p)
	for name, token := range tokens {
		who, err := show(t, o, token)
		if err != nil || who.ID != "u-bob" || who.Name != "bob" || who.Kind != authn.Human {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	if n := p.KeyFetches(t); n != 1 {
		t.Errorf("%d fetches of the keys", n)
	}
}

// TestProviderBadTokens: tokens that the provider's own key signed, or that it gave another program.
func TestProviderBadTokens(t *testing.T) {
	type badToken struct{ token, words string }
	p := oidcprovider.Start(t)
	now := time.Now().Unix()
	bad := map[string]badToken{
		"another program's, by code":   {p.Code(t, "alice", oidcprovider.OtherID), "not for this gate"},
		"another program's, by device": {p.Device(t, "alice", oidcprovider.OtherID), "not for this gate"},
		"wrong audience":               {p.Sign(t, nil, map[string]any{"aud": "x"}), "not for this gate"},
		"two audiences":                {p.Sign(t, nil, map[string]any{"aud": []string{oidcprovider.ClientID, oidcprovider.OtherID}}), "2 audiences"},
		"issued to another":            {p.Sign(t, nil, map[string]any{"azp": oidcprovider.OtherID}), "azp"},
		"expired":                      {p.Sign(t, nil, map[string]any{"iat": now - 600, "exp": now - 300}), "expired"},
		"another algorithm":            {p.Sign(t, map[string]any{"alg": "PS256"}, nil), "not for"},
		"HS256":                        {p.Sign(t, map[string]any{"alg": "HS256"}, nil), "algorithm"},
		"none":                         {p.Sign(t, map[string]any{"alg": "none"}, nil), "algorithm"},
		"unknown key":                  {p.Sign(t, map[string]any{"kid": "x"}, nil), "no such key"},
		"access token's type":          {p.Sign(t, map[string]any{"typ": "at+jwt"}, nil), "type"},
	}
	o, _ := atProvider(t, p)
	for name, c := range bad {
		_, err := show(t, o, c.token)
		wantReason(t, name, err, authn.BadIDToken, c.words)
	}
}

// TestProviderRotation: rotated keys work at once, withdrawn ones stop with the next refresh.
func TestProviderRotation(t *testing.T) {
	p := oidcprovider.Start(t)
	o, now := atProvider(t, p)
	old := longLived(t, p)
	accept := func(when, token string) {
		t.Helper()
		if _, err := show(t, o, token); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	accept("at first", old)
	p.Rotate(t)
	now.pass(10 * time.Second)
	accept("new key", p.Code(t, "alice", oidcprovider.ClientID))
	accept("old key beside the new one", old)
	p.Withdraw(t)
	accept("withdrawn, the set is fresh", old)
	now.pass(10 * time.Minute)
	_, err := show(t, o, old)
	wantReason(t, "withdrawn", err, authn.BadIDToken, "no such key")
	accept("new key", longLived(t, p))
	if n := p.KeyFetches(t); n != 3 {
		t.Errorf("%d fetches, want 3", n)
	}
}

// TestProviderDown: its last keys go on for an hour, and then nothing is accepted, until it is back.
func TestProviderDown(t *testing.T) {
	p := oidcprovider.Start(t)
	o, now := atProvider(t, p)
	token := longLived(t, p)
	p.Down(t)
	_, err := show(t, o, token)
	wantFault(t, "down from the start", err, "refused")
	p.Up(t)
	now.pass(10 * time.Second)
	if _, err := show(t, o, token); err != nil {
		t.Fatal(err)
	}
	p.Down(t)
	for range 5 {
		now.pass(11 * time.Minute)
		if _, err := show(t, o, token); err != nil {
			t.Fatalf("down: %v", err)
		}
	}
	now.pass(5 * time.Minute)
	_, err = show(t, o, token)
	wantFault(t, "down for an hour", err, "refused")
	p.Up(t)
	p.FailKeys(t, http.StatusInternalServerError)
	now.pass(time.Minute)
	_, err = show(t, o, token)
	wantFault(t, "up, and no keys", err, "answered 500")
	p.FailKeys(t, 0)
	now.pass(time.Minute)
	if _, err := show(t, o, token); err != nil {
		t.Errorf("up again: %v", err)
	}
}

// TestProviderFlood: ten thousand tokens with invented key ids cost the provider one fetch, slow as it is, and people sign in
// meanwhile.
func TestProviderFlood(t *testing.T) {
	p := oidcprovider.Start(t)
	o, now := atProvider(t, p)
	token := longLived(t, p)
	if _, err := show(t, o, token); err != nil {
		t.Fatal(err)
	}
	now.pass(time.Minute)
	p.SlowKeys(t, 300*time.Millisecond)
	parts := strings.SplitN(token, ".", 2)
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for n := range 500 {
				kid := fmt.Sprintf("x-%d-%d", worker, n)
				_, err := show(t, o, part(mustJSON(map[string]any{"alg": "RS256", "kid": kid}))+"."+parts[1])
				wantReason(t, kid, err, authn.BadIDToken, "no such key")
			}
		})
	}
	for range 100 {
		if _, err := show(t, o, token); err != nil {
			t.Errorf("in the flood: %v", err)
		}
	}
	fresh := p.Code(t, "bob", oidcprovider.ClientID)
	if who, err := show(t, o, fresh); err != nil || who.ID != "u-bob" {
		t.Errorf("who signed in during the flood: %+v, %v", who, err)
	}
	wg.Wait()
	if n := p.KeyFetches(t); n != 2 {
		t.Errorf("%d fetches, want the first and one for the flood", n)
	}
}
