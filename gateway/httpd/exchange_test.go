package httpd_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/gwtest"
	"github.com/lychgate/lychgate/internal/gwtest/oidcprovider"
)

// withIdentities is the usual forge, which ties the provider's alice to its own.
func withIdentities(p *oidcprovider.Provider) string {
	return strings.Replace(gwtest.DefaultForge, `name: alice, kind: human`, `name: alice, kind: human, identities: [{issuer: "`+p.Issuer+`", subject: u-alice}]`, 1)
}

// signInGate is a gate at which people sign in by the provider, and jobs of the GitLab project 17.
func signInGate(t *testing.T) (*gwtest.Gate, *oidcprovider.Provider) {
	t.Helper()
	p := oidcprovider.Start(t)
	ci := authn.Principal{Forge: gwtest.Forge, ID: "5", Name: "ci", Kind: authn.CI}
	g := gwtest.New(t, gwtest.Options{Forge: withIdentities(p), Review: true, Issuers: []authn.Issuer{{
		URL: p.Issuer, Keys: authn.KeyFetch{PlainLoopback: true}, Audience: "https://gate.example.com",
		People: &authn.PeopleMapping{ClientID: oidcprovider.ClientID, Forge: gwtest.Forge},
		CI: []authn.CIRule{
			{Profile: authn.GitLab, Claims: map[string][]string{"project_id": {"17"}, "ref": {"main"}}, Protected: true, Principal: ci},
			{Profile: authn.GitLab, Claims: map[string][]string{"project_id": {"17"}}, Principal: ci},
		},
	}}})
	return g, p
}

// buyToken shows an ID token for a gate token.
func buyToken(t *testing.T, g *gwtest.Gate, idToken string) (token string, res *gwtest.Response) {
	t.Helper()
	res = g.WithToken("").Do(http.MethodPost, "/v1/token", []byte(`{}`), "Authorization", "Bearer "+idToken)
	if res.StatusCode == http.StatusCreated {
		_, rest, _ := strings.Cut(string(res.Bytes), `"token":"`)
		token, _, _ = strings.Cut(rest, `"`)
	}
	return token, res
}

// TestExchange: people's ID tokens buy a gate token by code and PKCE and by the device flow, each once, and are good for nothing else.
func TestExchange(t *testing.T) {
	g, p := signInGate(t)
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	for i, flow := range []func(testing.TB, string, string) string{p.Code, p.Device} {
		if i > 0 {
			time.Sleep(1100 * time.Millisecond) // two tokens of one second may be one and the same, which is good once
		}
		idToken := flow(t, "alice", oidcprovider.ClientID)
		for _, path := range []string{mount + o.Name, "/v1/whoami", "/v1/tokens"} {
			if res := g.WithToken(idToken).Get(path); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("an ID token at %s: %d", path, res.StatusCode)
			}
		}
		token, res := buyToken(t, g, idToken)
		if res.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", res.StatusCode, res.Bytes)
		}
		if res := g.WithToken(token).Get(mount + o.Name); res.StatusCode != http.StatusOK {
			t.Errorf("read: %d", res.StatusCode)
		}
		before := g.Refusals()[authn.Replayed]
		if _, res := buyToken(t, g, idToken); res.StatusCode != http.StatusUnauthorized || g.Refusals()[authn.Replayed] != before+1 {
			t.Errorf("a second exchange: %d, %v", res.StatusCode, g.Refusals())
		}
	}
	for name, idToken := range map[string]string{
		"another app's": p.Code(t, "alice", oidcprovider.OtherID),
		"expired":       p.Sign(t, nil, map[string]any{"iat": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(-time.Minute).Unix()}),
		"two audiences": p.Sign(t, nil, map[string]any{"aud": []string{oidcprovider.ClientID, "other"}}),
		"unsigned":      p.Sign(t, map[string]any{"alg": "none"}, nil),
		"of nobody":     p.Sign(t, nil, map[string]any{"sub": "u-eve", "email": "alice@example.com", "preferred_username": "alice"}),
	} {
		if _, res := buyToken(t, g, idToken); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
}

// TestExchangeByJobs: a job on a protected ref may write to main; one on another ref, or of a merge request, to review alone; other
// projects are nobody. What a job's token buys lives for as long as the gate gives jobs.
func TestExchangeByJobs(t *testing.T) {
	g, p := signInGate(t)
	job := func(claims map[string]any) string {
		all := map[string]any{
			"aud": "https://gate.example.com", "sub": "project_path:a/b:ref_type:branch:ref:main", "project_id": "17", "namespace_id": "3",
			"ref": "main", "ref_type": "branch", "ref_protected": "true", "pipeline_source": "push", "user_id": "1", "user_login": "alice",
		}
		for k, v := range claims {
			all[k] = v
		}
		return p.Sign(t, nil, all)
	}
	for _, row := range []struct {
		name   string
		claims map[string]any
		roles  string // of whoami; empty: refused
	}{
		{"protected", nil, `["writer:main","writer:review"]`},
		{"not protected", map[string]any{"ref_protected": "false", "jti": "1"}, `["writer:review"]`},
		{"protected is no text", map[string]any{"ref_protected": true, "jti": "2"}, `["writer:review"]`},
		{"merge request", map[string]any{"pipeline_source": "merge_request_event", "jti": "3"}, `["writer:review"]`},
		{"another branch", map[string]any{"ref": "topic", "jti": "4"}, `["writer:review"]`},
		{"another project", map[string]any{"project_id": "18", "jti": "5"}, ""},
		{"another project by its path", map[string]any{"project_id": "18", "project_path": "a/b", "jti": "6"}, ""},
	} {
		token, res := buyToken(t, g, job(row.claims))
		if (res.StatusCode == http.StatusCreated) != (row.roles != "") {
			t.Errorf("%s: %d %s", row.name, res.StatusCode, res.Bytes)
			continue
		}
		if row.roles == "" {
			continue
		}
		me := string(g.WithToken(token).Get("/v1/whoami").Bytes)
		if !strings.Contains(me, `"roles":`+row.roles) || !strings.Contains(me, `"kind":"ci"`) {
			t.Errorf("%s: %s", row.name, me)
		}
		info := tokensOf(t, g.WithToken(token))
		if expires, err := time.Parse(time.RFC3339, info[len(info)-1].Expires); err != nil || time.Until(expires) > 6*time.Hour {
			t.Errorf("%s: lives until %v, %v", row.name, expires, err)
		}
	}
}

// TestLink: a person who is known by another credential ties an identity to itself, once and for all; then its ID tokens are good.
func TestLink(t *testing.T) {
	g, p := signInGate(t)
	bobs := func() string { return p.Sign(t, nil, map[string]any{"sub": "u-bob", "jti": time.Now().String()}) }
	if _, res := buyToken(t, g, bobs()); res.StatusCode != http.StatusUnauthorized {
		t.Fatalf("before: %d", res.StatusCode)
	}
	link := func(u *gwtest.User, idToken string) int {
		return u.Do(http.MethodPost, "/v1/link", []byte(`{"id_token": "`+idToken+`"}`)).StatusCode
	}
	for _, row := range []struct {
		name, idToken string
		user          *gwtest.User
		want          int
	}{
		{"nobody", bobs(), g.WithToken(""), http.StatusUnauthorized},
		{"a job", bobs(), g.As("ci"), http.StatusForbidden},
		{"an ID token as credential", bobs(), g.WithToken(bobs()), http.StatusUnauthorized},
		{"a bad ID token", "a.b.c", g.As("bob"), http.StatusUnprocessableEntity},
		{"a job's ID token", p.Sign(t, nil, map[string]any{"aud": "https://gate.example.com"}), g.As("bob"), http.StatusUnprocessableEntity},
		{"bob", bobs(), g.As("bob"), http.StatusNoContent},
		{"bob again", bobs(), g.As("bob"), http.StatusNoContent},
		{"carol, bob's", bobs(), g.As("carol"), http.StatusConflict},
	} {
		if got := link(row.user, row.idToken); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
	token, res := buyToken(t, g, bobs())
	if res.StatusCode != http.StatusCreated || !strings.Contains(string(g.WithToken(token).Get("/v1/whoami").Bytes), `"name":"bob"`) {
		t.Errorf("after: %d %s", res.StatusCode, res.Bytes)
	}
}

// TestExchangeFlood: 10,000 ID tokens by an unknown key from one address cost the provider one look at its keys, that address is told
// to wait, and people at other addresses sign in all the while.
func TestExchangeFlood(t *testing.T) {
	g, p := signInGate(t)
	if _, res := buyToken(t, g, p.Sign(t, nil, nil)); res.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", res.StatusCode, res.Bytes)
	}
	before := p.KeyFetches(t)
	bad := p.Sign(t, map[string]any{"kid": "made-up"}, map[string]any{"jti": "x"})
	elsewhere := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: g.CA.Pool()},
		DialContext:     (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext,
	}}
	defer elsewhere.CloseIdleConnections()
	flooder, waits := g.WithToken(""), 0
	for i := range 10_000 {
		res := flooder.Do(http.MethodPost, "/v1/token", []byte(`{}`), "Authorization", "Bearer "+bad)
		switch res.StatusCode {
		case http.StatusTooManyRequests:
			waits++
		case http.StatusUnauthorized:
		default:
			t.Fatalf("request %d: %d", i, res.StatusCode)
		}
		if i%1000 != 999 {
			continue
		}
		good := p.Sign(t, nil, map[string]any{"jti": time.Now().String()})
		req, err := http.NewRequest(http.MethodPost, g.URL+"/v1/token", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+good)
		answer, err := elsewhere.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusCreated {
			t.Errorf("a good token after %d bad ones: %d", i+1, answer.StatusCode)
		}
	}
	if n := p.KeyFetches(t) - before; n > 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	if waits < 9000 {
		t.Errorf("told to wait %d times", waits)
	}
}
