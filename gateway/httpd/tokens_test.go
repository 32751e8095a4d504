package httpd_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const alicesCertificate = "spiffe://example.com/alice"

// mint asks for a token, and returns the answer's status too.
func mint(t *testing.T, u *gwtest.User, body string) (gateway.TokenReply, *gwtest.Response) {
	t.Helper()
	res := u.Do(http.MethodPost, "/v1/token", []byte(body))
	var reply gateway.TokenReply
	if res.StatusCode == http.StatusCreated {
		if err := json.Unmarshal(res.Bytes, &reply, json.RejectUnknownMembers(true)); err != nil {
			t.Fatal(err)
		}
	}
	return reply, res
}

func tokensOf(t *testing.T, u *gwtest.User) []gateway.TokenStatus {
	t.Helper()
	var list gateway.TokenList
	if res := u.Get("/v1/tokens"); res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", res.StatusCode, res.Bytes)
	} else if err := json.Unmarshal(res.Bytes, &list, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	return list.Tokens
}

// TestMintListRevoke: a certificate makes a token, the token is its maker's, shows up in the list, and ends when it is revoked.
func TestMintListRevoke(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{ClientCA: true})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	reply, res := mint(t, g.WithCertificate(alicesCertificate), `{"seconds": 600, "note": "laptop, at home"}`)
	if res.StatusCode != http.StatusCreated || reply.User != gwtest.Forge+"/1" || reply.Name != "alice" {
		t.Fatalf("%d %s", res.StatusCode, res.Bytes)
	}
	expires, err := time.Parse(time.RFC3339, reply.Expires)
	if left := time.Until(expires); err != nil || left > 10*time.Minute || left < 8*time.Minute {
		t.Errorf("expires %q", reply.Expires)
	}
	alice := g.WithToken(reply.Token)
	if res := alice.Get(mount + o.Name); res.StatusCode != http.StatusOK {
		t.Fatalf("read with it: %d", res.StatusCode)
	}
	list := tokensOf(t, alice)
	if len(list) != 1 || list[0].ID != reply.ID || list[0].Note != "laptop, at home" || !list[0].Current {
		t.Errorf("list %+v", list)
	}
	if list := tokensOf(t, g.WithCertificate(alicesCertificate)); len(list) != 1 || list[0].Current {
		t.Errorf("list by certificate %+v", list)
	}
	if res := alice.Do(http.MethodDelete, "/v1/tokens/current", nil); res.StatusCode != http.StatusNoContent {
		t.Fatalf("revoke: %d %s", res.StatusCode, res.Bytes)
	}
	if res := alice.Get(mount + o.Name); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("read after it was revoked: %d", res.StatusCode)
	}
	kinds := map[string]int{}
	for _, e := range g.Events() {
		kinds[e.Kind]++
		if strings.Contains(fmt.Sprint(e), reply.Token) {
			t.Error("the trail holds the token")
		}
	}
	if kinds["token.create"] != 1 || kinds["token.revoke"] != 1 {
		t.Errorf("events %v", kinds)
	}
}

// TestMintRefused: what must not make a token, or not that one.
func TestMintRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{ClientCA: true})
	certificate := g.WithCertificate(alicesCertificate)
	for _, row := range []struct {
		name string
		user *gwtest.User
		body string
		want int
	}{
		{"a gate token", g.As("alice"), `{}`, http.StatusForbidden},
		{"nothing", g.WithToken(""), `{}`, http.StatusUnauthorized},
		{"an ID token, and no issuer is known", g.WithToken("a.b.c"), `{}`, http.StatusUnauthorized},
		{"longer than the gate gives", certificate, `{"seconds": 86400}`, http.StatusBadRequest},
		{"no time", certificate, `{"seconds": -1}`, http.StatusBadRequest},
		{"more time than there is", certificate, `{"seconds": 9223372036854775807}`, http.StatusBadRequest},
		{"a note of two lines", certificate, `{"note": "a\nb"}`, http.StatusBadRequest},
		{"a long note", certificate, `{"note": "` + strings.Repeat("x", 256) + `"}`, http.StatusBadRequest},
		{"an unknown member", certificate, `{"user": "bob"}`, http.StatusBadRequest},
		{"a member twice", certificate, `{"seconds": 60, "seconds": 61}`, http.StatusBadRequest},
		{"not JSON", certificate, `seconds=60`, http.StatusBadRequest},
	} {
		if _, res := mint(t, row.user, row.body); res.StatusCode != row.want {
			t.Errorf("%s: %d %s, want %d", row.name, res.StatusCode, res.Bytes, row.want)
		}
	}
	if list := tokensOf(t, certificate); len(list) != 1 { // that of As
		t.Errorf("tokens %+v", list)
	}
}

// TestRevokeOthers: another's token is as one that is not there.
func TestRevokeOthers(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{ClientCA: true})
	reply, _ := mint(t, g.WithCertificate(alicesCertificate), `{}`)
	var answers []string
	for _, id := range []string{reply.ID, "tok-nothere00000", "current%00", "..", "%2e%2e"} {
		res := g.As("bob").Do(http.MethodDelete, "/v1/tokens/"+id, nil)
		answers = append(answers, fmt.Sprint(res.StatusCode, string(res.Bytes)))
	}
	for _, a := range answers {
		if a != answers[0] || !strings.HasPrefix(a, "404") {
			t.Errorf("answers %q", answers)
			break
		}
	}
	if res := g.WithToken(reply.Token).Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("alice's token: %d", res.StatusCode)
	}
	if res := g.WithCertificate(alicesCertificate).Do(http.MethodDelete, "/v1/tokens/current", nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("the current token of a certificate: %d", res.StatusCode)
	}
}

// TestEndAllTokens: all tokens of a principal end at once, and only its.
func TestEndAllTokens(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{ClientCA: true})
	certificate := g.WithCertificate(alicesCertificate)
	one, _ := mint(t, certificate, `{}`)
	two, _ := mint(t, certificate, `{}`)
	bob := g.As("bob")
	if n, err := g.Tokens.RevokeAll(t.Context(), authn.Principal{Forge: gwtest.Forge, ID: "1"}); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	for _, token := range []string{one.Token, two.Token} {
		if res := g.WithToken(token).Get("/v1/whoami"); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a token after all were ended: %d", res.StatusCode)
		}
	}
	if res := bob.Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("bob's token: %d", res.StatusCode)
	}
	if again, res := mint(t, certificate, `{}`); res.StatusCode != http.StatusCreated || g.WithToken(again.Token).Get("/v1/whoami").StatusCode != http.StatusOK {
		t.Errorf("a token made later: %d", res.StatusCode)
	}
}

// TestSignIn: how to sign in is told to anybody, and nothing else is.
func TestSignIn(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	nobody := g.WithToken("")
	const path = "/.well-known/oauth-protected-resource"
	res := nobody.Get(path)
	var signIn gateway.SignIn
	if err := json.Unmarshal(res.Bytes, &signIn, json.RejectUnknownMembers(true)); res.StatusCode != http.StatusOK || err != nil || signIn.Resource != "https://gate.example.com" {
		t.Errorf("%d %s %v", res.StatusCode, res.Bytes, err)
	}
	for _, other := range []string{path + "?x", path + "/", "/.well-known/", "/.well-known/openid-configuration", "/.well-known%2Foauth-protected-resource"} {
		if res := nobody.Get(other); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", other, res.StatusCode)
		}
	}
	if res := nobody.Do(http.MethodPost, path, nil); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("POST: %d", res.StatusCode)
	}
}

// TestThrottle: an address that fails too often is told to wait, its good credentials are taken all the same, and the trail and the
// metrics say why.
func TestThrottle(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	alice, guess := g.As("alice"), g.WithToken("lyg_guess")
	seen := map[int]int{}
	for range 260 {
		res := guess.Head("/sstate/main/x")
		seen[res.StatusCode]++
		if res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") == "" {
			t.Fatal("no Retry-After")
		}
	}
	if seen[http.StatusUnauthorized] < 200 || seen[http.StatusTooManyRequests] < 20 || len(seen) != 2 {
		t.Errorf("answers %v", seen)
	}
	if res := alice.Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("a good token from there: %d", res.StatusCode)
	}
	if n := g.Refusals()[authn.BadCredential]; n != 260 {
		t.Errorf("%d counted", n)
	}
	said := false
	for _, e := range g.Events() {
		said = said || e.Kind == "auth.refuse" && len(e.Decision.Reasons) == 2 && strings.HasPrefix(e.Decision.Reasons[1], "throttled: ")
	}
	if !said {
		t.Error("the trail does not say that the address was throttled")
	}
}
