package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// ssoGate takes every ID token, and notes which it was shown.
func ssoGate(t *testing.T) (c *Client, shown func() []string) {
	t.Helper()
	var list []string
	c, _ = gateOf(t, "", func(w http.ResponseWriter, r *http.Request) {
		list = append(list, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		respond(w, 201, goodReply())
	})
	return c, func() []string { return list }
}

func ssoAnswer(refresh, payload string) string {
	return `{"access_token":"a","token_type":"Bearer","refresh_token":"` + refresh + `","id_token":"` + madeUpToken(payload) + `"}`
}

// TestSSORenewal: what a provider may answer to a refresh token, and what is asked of the person then.
func TestSSORenewal(t *testing.T) {
	const alice = `{"iss":"x","sub":"u-1","nonce":"n"}`
	for _, tt := range []struct {
		name   string
		answer string
		status int
		want   string
		person bool // somebody has to sign in again
	}{
		{"another ID token", ssoAnswer("two", `{"iss":"x","sub":"u-1","nonce":"n"}`), 200, "", false},
		{"one without the nonce", ssoAnswer("two", `{"iss":"x","sub":"u-1"}`), 200, "", false},
		{"no other refresh token", `{"access_token":"a","token_type":"Bearer","id_token":"` + madeUpToken(alice) + `"}`, 200, "", false},
		{"one with another nonce", ssoAnswer("two", `{"iss":"x","sub":"u-1","nonce":"evil"}`), 200, "its nonce is another", false},
		{"somebody else's", ssoAnswer("two", `{"iss":"x","sub":"u-2","nonce":"n"}`), 200, "about somebody else", false},
		{"another issuer's", ssoAnswer("two", `{"iss":"y","sub":"u-1","nonce":"n"}`), 200, "about somebody else", false},
		{"no ID token", `{"access_token":"a","token_type":"Bearer"}`, 200, "no ID token", false},
		{"it has ended", `{"error":"invalid_grant"}`, 400, "the sign-in there has ended", true},
		{"a fault", `{"error":"temporarily_unavailable"}`, 503, "the issuer answered temporarily_unavailable", false},
		{"not JSON", `<html>`, 500, "the issuer answered 500", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newOddProvider(t)
			var asked []string
			p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/token" {
					p.serve(w, r)
					return
				}
				if r.FormValue("grant_type") != "refresh_token" || r.FormValue("client_id") != "lychgate" {
					t.Errorf("asked with %v", r.Form)
				}
				asked = append(asked, r.FormValue("refresh_token"))
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.answer)
			})
			c, shown := ssoGate(t)
			first := Identity{IDToken: authn.NewSecret("first.id.token"), Issuer: "x", Subject: "u-1", refresh: authn.NewSecret("one"), nonce: "n"}
			flows := 0
			s := &SingleSignOn{Person: p.person(io.Discard), Flow: func(context.Context) (Identity, error) { flows++; return first, nil }}
			if who, err := s.SignIn(t.Context()); err != nil || who.Subject != "u-1" {
				t.Fatal(err)
			}
			if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err != nil || flows != 1 || len(asked) != 0 {
				t.Fatalf("%v after %d flows", err, flows)
			}
			flow := s.Flow
			s.Flow = nil // nobody is there
			_, err := s.Token(t.Context(), c, gateway.TokenRequest{})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) || errors.Is(err, ErrPerson) != tt.person {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if len(asked) != 1 || asked[0] != "one" || len(shown()) != 1 && tt.want != "" {
				t.Errorf("asked with %q, the gate was shown %q", asked, shown())
			}
			if tt.want == "" {
				if got := shown()[1]; got != madeUpToken(alice) && !strings.HasPrefix(got, "e30.") {
					t.Errorf("the gate was shown %q", got)
				}
				_, _ = s.Token(t.Context(), c, gateway.TokenRequest{})
				if next := asked[1]; strings.Contains(tt.answer, `"two"`) != (next == "two") {
					t.Errorf("the next time it asked with %q", next)
				}
				return
			}
			s.Flow, s.Person.Stays = flow, true // somebody is there again, and did not ask for anything
			if _, err = s.Token(t.Context(), c, gateway.TokenRequest{}); err == nil || flows != 1 {
				t.Errorf("in the background: %v after %d flows", err, flows)
			}
			s.Person.Stays = false
			_, err = s.Token(t.Context(), c, gateway.TokenRequest{})
			if (err == nil) != tt.person || (flows == 2) != tt.person {
				t.Errorf("with a person: %v after %d flows", err, flows)
			}
		})
	}
}

// TestSSOWithoutRefresh: where the provider gives nothing to renew with, a person has to sign in again, and that is said.
func TestSSOWithoutRefresh(t *testing.T) {
	c, _ := ssoGate(t)
	s := &SingleSignOn{Person: newOddProvider(t).person(io.Discard)}
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); !errors.Is(err, ErrPerson) {
		t.Errorf("nobody is there: %v", err)
	}
	s.Flow = func(context.Context) (Identity, error) {
		return Identity{IDToken: authn.NewSecret("a.b.c"), Issuer: "x", Subject: "u-1"}, nil
	}
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err != nil {
		t.Error(err)
	}
	s.Flow = nil
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); !errors.Is(err, ErrPerson) || !strings.Contains(err.Error(), "nothing to renew") {
		t.Error(err)
	}
}

// TestSSORefused: the gate does not know the person: what to do about it is said, and the ID token is not shown again.
func TestSSORefused(t *testing.T) {
	n := 0
	c, url := gateOf(t, "", func(w http.ResponseWriter, _ *http.Request) { n++; w.WriteHeader(401) })
	s := &SingleSignOn{Person: newOddProvider(t).person(io.Discard), Flow: func(context.Context) (Identity, error) {
		return Identity{IDToken: authn.NewSecret("a.b.c"), Issuer: "x", Subject: "u-1"}, nil
	}}
	_, err := s.Token(t.Context(), c, gateway.TokenRequest{})
	if !isRefusal(err) || !strings.Contains(err.Error(), "subject u-1 of x") || !strings.Contains(err.Error(), "--gate "+url+" --oidc --link") {
		t.Error(err)
	}
	s.Flow = nil
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); !errors.Is(err, ErrPerson) || n != 1 {
		t.Errorf("%v, the gate was asked %d times", err, n)
	}
}

// TestSSOAsksToStay: offline access is asked for where it is offered and wanted, and with consent.
func TestSSOAsksToStay(t *testing.T) {
	for _, tt := range []struct {
		offered, stays, want bool
	}{{true, true, true}, {true, false, false}, {false, true, false}} {
		p := newOddProvider(t)
		p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/.well-known/openid-configuration" && tt.offered {
				respond(w, 200, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "scopes_supported": []string{"openid", "offline_access"}})
				return
			}
			p.serve(w, r)
		})
		person := p.person(io.Discard)
		person.Stays = tt.stays
		cfg, err := person.discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		address := cfg.AuthCodeURL("s", consent(cfg)...)
		if got := strings.Contains(address, "offline_access"); got != tt.want || strings.Contains(address, "prompt=consent") != tt.want {
			t.Errorf("%+v: %s", tt, address)
		}
	}
}
