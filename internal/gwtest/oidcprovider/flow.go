package oidcprovider

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// challenge is S256 of RFC 7636 section 4.2.
func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Code returns the ID token that login gets by code and PKCE on a loopback port, as a program on their machine does it.
func (p *Provider) Code(t testing.TB, login, clientID string) string {
	t.Helper()
	codes := make(chan url.Values, 1)
	landing := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { codes <- r.URL.Query() }))
	defer landing.Close()
	state, verifier, redirect := rand.Text(), rand.Text()+rand.Text(), landing.URL+"/callback"
	p.SignIn(t, p.AuthURL(login, clientID, redirect, state, verifier))
	got := <-codes
	if got.Get("state") != state || got.Get("code") == "" {
		t.Fatalf("came back with %v", got)
	}
	answer := p.token(t, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {clientID}, "code": {got.Get("code")},
		"redirect_uri": {redirect}, "code_verifier": {verifier},
	})
	if answer.IDToken == "" {
		t.Fatalf("no ID token for a code: %s", answer.Error)
	}
	return answer.IDToken
}

// Device returns the ID token that login gets by the device flow (RFC 8628).
func (p *Provider) Device(t testing.TB, login, clientID string) string {
	t.Helper()
	var device struct {
		Code string `json:"device_code"`
		Page string `json:"verification_uri_complete"`
	}
	status, body := browse(t, http.DefaultClient, p.Issuer+"/device/auth",
		url.Values{"client_id": {clientID}, "scope": {"openid profile"}, "login_hint": {login}})
	if err := json.Unmarshal([]byte(body), &device); err != nil || status != http.StatusOK {
		t.Fatalf("ask for a device code: %d %s", status, body)
	}
	grant := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {clientID}, "device_code": {device.Code},
	}
	if answer := p.token(t, grant); answer.Error != "authorization_pending" {
		t.Fatalf("before anybody approved: %+v", answer)
	}
	p.Approve(t, device.Page)
	for {
		switch answer := p.token(t, grant); answer.Error {
		case "":
			return answer.IDToken
		case "authorization_pending", "slow_down":
		default:
			t.Fatalf("no ID token for a device: %s", answer.Error)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no ID token for a device in time")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tokenAnswer is what the token endpoint says (RFC 6749 sections 5.1 and 5.2).
type tokenAnswer struct {
	IDToken string `json:"id_token"`
	Error   string `json:"error"`
}

func (p *Provider) token(t testing.TB, grant url.Values) (a tokenAnswer) {
	t.Helper()
	_, body := browse(t, http.DefaultClient, p.Issuer+"/token", grant)
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("token endpoint: %s", body)
	}
	return a
}
