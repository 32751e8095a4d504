package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// goodToken has the form of a gate token.
const goodToken = "lyg_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABBBBBB"

func goodReply() gateway.TokenReply {
	return gateway.TokenReply{Token: goodToken, ID: "tok-1", User: "git.example.com/1", Name: "alice", Expires: "2030-01-01T00:00:00Z"}
}

func respond(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v)
}

// gateOf returns a client of a server that speaks for a gate, and shows secret.
func gateOf(t *testing.T, secret string, serve http.HandlerFunc) (*Client, string) {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	c, err := New(Config{Gate: server.URL, Token: authn.NewSecret(secret), Wait: (&waits{}).wait})
	if err != nil {
		t.Fatal(err)
	}
	return c, server.URL
}

// TestSignIn: the gate must call itself what the person calls it, and is shown no token before.
func TestSignIn(t *testing.T) {
	for _, tt := range []struct{ resource, expect, want string }{
		{"URL", "", ""},
		{"URL/", "", ""},
		{"https://gate.example.com", "https://gate.example.com", ""},
		{"https://gate.example.com", "https://GATE.example.com:443/", ""},
		{"https://gate.example.com:8443", "https://gate.example.com", "add --audience https://gate.example.com:8443"},
		{"https://gate.example.com", "", "calls itself https://gate.example.com and you call it http://127.0.0.1"},
		{"https://gate.example.com.evil.example", "https://gate.example.com", "calls itself"},
		{"http://gate.example.com", "https://gate.example.com", "calls itself"},
		{"", "", "calls itself"},
		{"\x1b[2J", "", `calls itself "\x1b[2J"`},
	} {
		c, url := gateOf(t, "lyg_secret", nil)
		c2, _ := gateOf(t, "lyg_secret", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/.well-known/oauth-protected-resource" || r.Header.Get("Authorization") != "" {
				t.Errorf("asked for %s as %q", r.URL.Path, r.Header.Get("Authorization"))
			}
			respond(w, 200, gateway.SignIn{Resource: strings.Replace(tt.resource, "URL", url, 1), SSH: "gate:2222"})
		})
		c2.gate = c.gate // the server's address is not what is compared, but what the person wrote
		s, err := c2.SignIn(t.Context(), tt.expect)
		switch {
		case tt.want == "" && (err != nil || s.SSH != "gate:2222"):
			t.Errorf("%+v: %+v, %v", tt, s, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%+v: %v", tt, err)
		}
	}
	c, _ := gateOf(t, "", http.NotFound)
	if _, err := c.SignIn(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "there is no gate at http://127.0.0.1") {
		t.Errorf("something else than a gate: %v", err)
	}
}

// TestTokenOnce: a credential that is good for one token is shown once, whatever becomes of the answer.
func TestTokenOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		want  string
	}{
		{"made", func(w http.ResponseWriter, _ *http.Request) { respond(w, 201, goodReply()) }, ""},
		{"the answer is lost", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "make a token: "},
		{"the gate is busy", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 503, "busy", "") }, "503: busy"},
		{"too many", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, "429"},
		{"refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "is not good there"},
		{"another thing", func(w http.ResponseWriter, _ *http.Request) {
			r := goodReply()
			r.Token = "hunter2\nmachine evil"
			respond(w, 201, r)
		}, "holds no token"},
		{"no end", func(w http.ResponseWriter, _ *http.Request) {
			r := goodReply()
			r.Expires = "tomorrow"
			respond(w, 201, r)
		}, "until when"},
		{"redirected", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "redirects"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int32
			c, _ := gateOf(t, "a.b.c", func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				var req gateway.TokenRequest
				if err := json.UnmarshalRead(r.Body, &req); err != nil || r.URL.Path != "/v1/token" || req.Seconds != 60 || req.Note != "laptop" {
					t.Errorf("%s %+v %v", r.URL.Path, req, err)
				}
				if got := r.Header.Get("Authorization"); got != "Bearer a.b.c" {
					t.Errorf("asked as %q", got)
				}
				tt.serve(w, r)
			})
			reply, err := c.Token(t.Context(), gateway.TokenRequest{Seconds: 60, Note: "laptop"})
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			if tt.want == "" && (err != nil || reply != goodReply()) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%+v, %v, want %q", reply, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows what may be a secret: %v", err)
			}
		})
	}
}

// TestOwnTokens: what is safe to repeat is repeated.
func TestOwnTokens(t *testing.T) {
	failed := false
	c, _ := gateOf(t, "lyg_x", func(w http.ResponseWriter, r *http.Request) {
		if !failed {
			failed = true
			refuse(w, 503, "busy", "")
			return
		}
		switch r.Method + " " + r.URL.EscapedPath() {
		case "GET /v1/tokens":
			respond(w, 200, gateway.TokenList{Tokens: []gateway.TokenStatus{{ID: "tok-1", Current: true}}})
		case "DELETE /v1/tokens/a%2Fb":
			w.WriteHeader(204)
		case "POST /v1/link":
			var l gateway.LinkRequest
			if err := json.UnmarshalRead(r.Body, &l); err != nil || l.IDToken != "a.b.c" {
				t.Errorf("%+v, %v", l, err)
			}
			w.WriteHeader(204)
		default:
			t.Errorf("%s %s", r.Method, r.URL.EscapedPath())
		}
	})
	if l, err := c.Tokens(t.Context()); err != nil || len(l) != 1 || !l[0].Current {
		t.Errorf("%+v, %v", l, err)
	}
	failed = false
	if err := c.RevokeToken(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
	if err := c.Link(t.Context(), authn.NewSecret("a.b.c")); err != nil {
		t.Error(err)
	}
	failed = false
	if err := c.Link(t.Context(), authn.NewSecret("a.b.c")); err == nil {
		t.Error("a link was tried twice")
	}
}

func TestIsGateToken(t *testing.T) {
	for text, want := range map[string]bool{goodToken: true, "lyg_x": true, "": false, "hunter2": false, "lyg_a b": false, "lyg_a\"": false} {
		if got := IsGateToken(authn.NewSecret(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestHostAndMirror(t *testing.T) {
	c, err := New(Config{Gate: "https://GATE.example.com:8443/"})
	if err != nil || c.Host() != gateHost || c.MirrorURL("main") != "https://GATE.example.com:8443/sstate/main" {
		t.Errorf("%s %s %v", c.Host(), c.MirrorURL("main"), err)
	}
}

// madeUpToken has the form of an ID token, and a payload.
func madeUpToken(payload string) string { return "e30." + b64(payload) + ".c2ln" }

// TestIDToken: where a job's ID token is found, and what is not taken for one.
func TestIDToken(t *testing.T) {
	const audience = "https://gate.example.com:8443"
	token := madeUpToken(`{"sub":"job"}`)
	var answer string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("audience") != audience || r.URL.Query().Get("api-version") != "2.0" || r.Header.Get("Authorization") != "Bearer job-secret" {
			t.Errorf("asked for %s as %q", r.URL, r.Header.Get("Authorization"))
		}
		if answer == "redirect" {
			http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusFound)
			return
		}
		fmt.Fprint(w, answer)
	}))
	defer service.Close()
	github := map[string]string{
		"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": service.URL + "/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job-secret",
	}
	with := func(key, value string) map[string]string {
		return map[string]string{"GITHUB_ACTIONS": "true", key: value}
	}
	for _, tt := range []struct {
		name, file string
		env        map[string]string
		answer     string
		want       string // in from, or in the error
		fails      bool
	}{
		{"a file", token + "\n", nil, "", "the file ", false},
		{"GitLab", "", map[string]string{"GITLAB_CI": "true", "LYCHGATE_ID_TOKEN": token}, "", "LYCHGATE_ID_TOKEN", false},
		{"GitHub", "", github, `{"count":1,"value":"` + token + `"}`, "GitHub Actions", false},
		{"an empty file", "\n", nil, "", "it is empty", true},
		{"a long file", strings.Repeat("a", maxIDToken+1), nil, "", "longer than", true},
		{"two lines", token + "\n" + token, nil, "", "no JSON Web Token", true},
		{"a gate token", goodToken, nil, "", "no JSON Web Token", true},
		{"GitHub without a value", "", github, `{"message":"no"}`, "it is empty", true},
		{"GitHub with something else", "", github, `<html>`, "not understood", true},
		{"GitHub without end", "", github, strings.Repeat(" ", maxDocument+1), "longer than", true},
		{"GitHub sends elsewhere", "", github, "redirect", "answered 302", true},
		{"GitHub in the clear", "", with("ACTIONS_ID_TOKEN_REQUEST_URL", "http://elsewhere.example.com/"), "", "no https URL", true},
		{"a GitHub job without the permission", "", map[string]string{"GITHUB_ACTIONS": "true"}, "", "permissions:\n  id-token: write", true},
		{"a GitLab job without the token", "", map[string]string{"GITLAB_CI": "true"}, "", "id_tokens:\n  LYCHGATE_ID_TOKEN:\n    aud: " + audience, true},
		{"no job", "", nil, "", "set LYCHGATE_ID_TOKEN", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer = tt.answer
			job := CIJob{Env: func(k string) string { return tt.env[k] }, Audience: audience, HTTP: service.Client()}
			if tt.file != "" {
				job.File = writeNetrc(t, tt.file).path
			}
			got, from, err := job.IDToken(t.Context())
			switch {
			case !tt.fails && (err != nil || got.Reveal() != token || !strings.HasPrefix(from, tt.want)):
				t.Errorf("%q from %q, %v", got.Reveal(), from, err)
			case tt.fails && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestInCI(t *testing.T) {
	for _, key := range []string{"LYCHGATE_ID_TOKEN", "GITLAB_CI", "GITHUB_ACTIONS"} {
		if !InCI(func(k string) string { return map[string]string{key: "x"}[k] }) {
			t.Errorf("%s is no CI", key)
		}
	}
	if InCI(func(string) string { return "" }) {
		t.Error("nothing is CI")
	}
}

// TestTokenCanceled: Ctrl-C ends the wait.
func TestTokenCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, _ := gateOf(t, "", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client goes
		cancel()
		<-r.Context().Done()
	})
	if _, err := c.Token(ctx, gateway.TokenRequest{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
