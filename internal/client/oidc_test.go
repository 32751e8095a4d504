package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest/oidcprovider"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// screen is what a person sees. It is safe for concurrent use.
type screen struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	news chan string // each write
}

func newScreen() *screen { return &screen{news: make(chan string, 100)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news <- string(p)
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func realPerson(t *testing.T, p *oidcprovider.Provider, out io.Writer) Person {
	t.Helper()
	web, err := NewProviderClient("lychgate/test")
	if err != nil {
		t.Fatal(err)
	}
	issuer := gateway.SignInIssuer{Name: "sso", Issuer: p.Issuer, ClientID: oidcprovider.ClientID, Scopes: []string{"openid", "profile"}}
	return Person{Issuer: issuer, HTTP: web, Out: out}
}

// TestPersonAtRealProvider signs alice in at a real provider, in both ways. What the gate makes of the ID token is the gate's to test.
func TestPersonAtRealProvider(t *testing.T) {
	provider := oidcprovider.Start(t)
	check := func(t *testing.T, who Identity, err error) {
		t.Helper()
		if err != nil || who.Subject != "u-alice" || who.Issuer != provider.Issuer || checkIDToken(who.IDToken.Reveal()) != nil {
			t.Errorf("%+v, %v", who, err)
		}
	}
	t.Run("browser", func(t *testing.T) {
		var out bytes.Buffer
		person := realPerson(t, provider, &out)
		pages := make(chan string, 1)
		person.Browser = func(address string) error {
			go func() { pages <- provider.SignIn(t, address) }()
			return nil
		}
		who, err := person.Code(t.Context())
		check(t, who, err)
		if page := <-pages; !strings.Contains(page, "You can close this window") {
			t.Errorf("the last page is %s", page)
		}
		if !strings.Contains(out.String(), provider.Issuer+"/auth?") || !strings.Contains(out.String(), "code_challenge_method=S256") {
			t.Errorf("the person was told %s", out.String())
		}
	})
	t.Run("device", func(t *testing.T) {
		out := newScreen()
		person := realPerson(t, provider, out)
		go func() {
			page := regexp.MustCompile(`http://\S+/device\?user_code=\S+`)
			for text := range out.news {
				if address := page.FindString(text); address != "" {
					provider.Approve(t, address)
					return
				}
			}
		}()
		who, err := person.Device(t.Context())
		check(t, who, err)
		if said := out.String(); !strings.Contains(said, provider.Issuer+"/device\n") || !strings.Contains(said, "Waiting for you to confirm it.") {
			t.Errorf("the person was told %s", said)
		}
	})
	t.Run("another client's id", func(t *testing.T) {
		person := realPerson(t, provider, io.Discard)
		person.Issuer.ClientID = "nobody"
		if _, err := person.Device(t.Context()); err == nil || !strings.Contains(err.Error(), "the issuer answered invalid_client") {
			t.Error(err)
		}
	})
	t.Run("down", func(t *testing.T) {
		provider.Down(t)
		defer provider.Up(t)
		if _, err := realPerson(t, provider, io.Discard).Code(t.Context()); err == nil || !strings.Contains(err.Error(), "ask the issuer for its addresses") {
			t.Error(err)
		}
	})
}

// oddProvider is a provider that does what no honest one would.
type oddProvider struct {
	*httptest.Server
	discovery map[string]string // laid over what is right
	device    string            // the answer for a device code
	tokens    []string          // answers of the token endpoint; the last one stays
	status    int               // of them but the last
	polls     int
}

func newOddProvider(t *testing.T) *oddProvider {
	p := &oddProvider{status: 400}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	p.device = `{"device_code":"d","user_code":"ABCD-EFGH","verification_uri":"` + p.URL + `/device","expires_in":600,"interval":1}`
	return p
}

func (p *oddProvider) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		d := map[string]string{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "device_authorization_endpoint": p.URL + "/code"}
		for k, v := range p.discovery {
			d[k] = v
		}
		respond(w, 200, d)
	case "/code":
		fmt.Fprint(w, p.device)
	case "/token":
		answer := p.tokens[min(p.polls, len(p.tokens)-1)]
		if p.polls++; p.polls < len(p.tokens) || strings.Contains(answer, `"error"`) {
			w.WriteHeader(p.status)
		}
		fmt.Fprint(w, answer)
	default:
		http.NotFound(w, r)
	}
}

func (p *oddProvider) person(out io.Writer) Person {
	return Person{Issuer: gateway.SignInIssuer{Name: "odd", Issuer: p.URL, ClientID: "lychgate"}, HTTP: p.Client(), Out: out}
}

func granted(payload string) string {
	return `{"access_token":"a","token_type":"Bearer","id_token":"` + madeUpToken(payload) + `"}`
}

// TestDiscovery: a provider that is not who the gate says, or sends a person's secrets in the clear, is not used.
func TestDiscovery(t *testing.T) {
	for _, tt := range []struct{ key, value, want string }{
		{"issuer", "https://other.example.com", "calls itself https://other.example.com"},
		{"token_endpoint", "http://elsewhere.example.com/token", "no https URL"},
		{"authorization_endpoint", "file:///etc/passwd", "no https URL"},
		{"device_authorization_endpoint", "http://elsewhere.example.com/", "no https URL"},
		{"token_endpoint", "", "names no token endpoint"},
	} {
		p := newOddProvider(t)
		p.discovery = map[string]string{tt.key: tt.value}
		if _, err := p.person(io.Discard).Device(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %v", tt.key, tt.value, err)
		}
	}
	p := newOddProvider(t)
	p.discovery = map[string]string{"device_authorization_endpoint": ""}
	if _, err := p.person(io.Discard).Device(t.Context()); err == nil || !strings.Contains(err.Error(), "use --browser") {
		t.Errorf("no device flow: %v", err)
	}
	p.discovery = map[string]string{"authorization_endpoint": ""}
	if _, err := p.person(io.Discard).Code(t.Context()); err == nil || !strings.Contains(err.Error(), "use --device") {
		t.Errorf("no code flow: %v", err)
	}
	person := p.person(io.Discard)
	person.Issuer.Issuer = "http://sso.example.com"
	if _, err := person.Device(t.Context()); err == nil || !strings.Contains(err.Error(), "no https URL") {
		t.Errorf("in the clear: %v", err)
	}
}

// TestDevice: what a provider may answer while a person is at it.
func TestDevice(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tokens []string
		polls  int
		want   string
	}{
		{"at once", []string{granted(`{"sub":"u-1","iss":"x"}`)}, 1, ""},
		{"after a while", []string{`{"error":"authorization_pending"}`, granted(`{"sub":"u-1"}`)}, 2, ""},
		{"declined", []string{`{"error":"access_denied"}`}, 1, "declined"},
		{"too late", []string{`{"error":"expired_token"}`}, 1, "in time"},
		{"a fault", []string{`{"error":"server_error","error_description":"\u001b[2Jevil"}`}, 1, "the issuer answered server_error:  [2Jevil"},
		{"no ID token", []string{`{"access_token":"a","token_type":"Bearer"}`}, 1, "no ID token"},
		{"an ID token that is none", []string{`{"access_token":"a","token_type":"Bearer","id_token":"x"}`}, 1, "no JSON Web Token"},
		{"a payload that is none", []string{granted(`{`)}, 1, "the issuer's ID token"},
		{"a nonce that nobody sent", []string{granted(`{"nonce":"x"}`)}, 1, "its nonce is another"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newOddProvider(t)
			p.tokens = tt.tokens
			var out bytes.Buffer
			who, err := p.person(&out).Device(t.Context())
			if tt.want == "" && (err != nil || who.Subject != "u-1") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%+v, %v", who, err)
			}
			if p.polls != tt.polls || !strings.Contains(out.String(), "ABCD-EFGH") {
				t.Errorf("%d polls, %s", p.polls, out.String())
			}
		})
	}
}

// TestDeviceAnswers: a provider cannot make us wait for ever, poll without pause, or move the cursor.
func TestDeviceAnswers(t *testing.T) {
	p := newOddProvider(t)
	p.tokens = []string{granted(`{}`)}
	p.device = `{"device_code":"d","user_code":"\u001b[2J","verification_uri":"https://sso.example.com/\u0007","expires_in":1,"interval":-5}`
	var out bytes.Buffer
	_, err := p.person(&out).Device(t.Context())
	if err == nil || !strings.Contains(err.Error(), "in time") || p.polls != 0 {
		t.Errorf("%v after %d polls", err, p.polls)
	}
	if strings.ContainsAny(out.String(), "\x1b\x07") {
		t.Errorf("the person was shown %q", out.String())
	}
	p.device = `{"device_code":"d","expires_in":600,"interval":9223372036854775807}`
	ctx, cancel := context.WithCancel(t.Context())
	screen := newScreen()
	go func() {
		for text := range screen.news {
			if strings.Contains(text, "Waiting") {
				cancel()
			}
		}
	}()
	if _, err := p.person(screen).Device(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ctrl-C: %v", err)
	}
}

// TestCodeAnswers: only the answer to our own question is taken, once.
func TestCodeAnswers(t *testing.T) {
	get := func(t *testing.T, method, address, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		if resp.Header.Get("Content-Security-Policy") == "" || resp.Header.Get("Referrer-Policy") != "no-referrer" || bytes.Contains(body, []byte("evil")) {
			t.Errorf("%s: %v %s", address, resp.Header, body)
		}
		return resp.StatusCode, string(body)
	}
	for _, tt := range []struct{ name, answer, payload, want string }{
		{"good", "code=c&state=STATE", `{"sub":"u-1","nonce":"NONCE"}`, ""},
		{"good, and says whose it is", "code=c&state=STATE&iss=ISSUER", `{"sub":"u-1","nonce":"NONCE"}`, ""},
		{"another issuer's", "code=c&state=STATE&iss=https://evil.example.com", ``, "another issuer"},
		{"two issuers", "code=c&state=STATE&iss=ISSUER&iss=ISSUER", ``, "another issuer"},
		{"declined", "error=access_denied&state=STATE", ``, "declined"},
		{"a fault", "error=evil%1b&error_description=%1b[2J&state=STATE", ``, "did not sign you in: evil :  [2J"},
		{"no code", "state=STATE", ``, "holds no code"},
		{"two codes", "code=a&code=b&state=STATE", ``, "holds no code"},
		{"an ID token for another", "code=c&state=STATE", `{"nonce":"evil"}`, "its nonce is another"},
		{"an ID token for anybody", "code=c&state=STATE", `{}`, "its nonce is another"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newOddProvider(t)
			person := p.person(io.Discard)
			ended := make(chan struct{})
			person.Browser = func(address string) error {
				u, err := url.Parse(address)
				if err != nil {
					return err
				}
				q := u.Query()
				p.tokens = []string{granted(strings.Replace(tt.payload, "NONCE", q.Get("nonce"), 1))}
				back := q.Get("redirect_uri")
				if !strings.HasPrefix(back, "http://127.0.0.1:") || q.Get("code_challenge_method") != "S256" || q.Get("scope") != "openid" {
					t.Errorf("the browser is sent to %s", address)
				}
				ours := strings.NewReplacer("STATE", url.QueryEscape(q.Get("state")), "ISSUER", url.QueryEscape(p.URL)).Replace(tt.answer)
				go func() {
					defer close(ended)
					for _, odd := range []struct {
						method, address, host string
						status                int
					}{
						{"GET", strings.TrimSuffix(back, "/callback") + "/", "", 404},
						{"GET", strings.TrimSuffix(back, "/callback") + "/favicon.ico", "", 404},
						{"GET", back + "?" + ours, "evil.example.com", 404},
						{"POST", back + "?" + ours, "", 405},
						{"GET", back, "", 400},
						{"GET", back + "?code=evil&state=evil", "", 400},
						{"GET", back + "?" + ours + "&state=evil", "", 400},
						{"GET", back + "?" + ours, "", 200},
					} {
						if status, body := get(t, odd.method, odd.address, odd.host); status != odd.status {
							t.Errorf("%s %s: %d %s", odd.method, odd.address, status, body)
						}
					}
					if status, _ := get(t, "GET", back+"?"+ours, ""); status != 0 && status != 410 {
						t.Errorf("a second answer: %d", status)
					}
				}()
				return nil
			}
			who, err := person.Code(t.Context())
			<-ended
			if tt.want == "" && (err != nil || who.Subject != "u-1") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%+v, %v", who, err)
			}
		})
	}
}

// TestCodeGivenUp: Ctrl-C ends the wait for the browser; without a browser the address is shown.
func TestCodeGivenUp(t *testing.T) {
	p := newOddProvider(t)
	for _, browser := range []func(string) error{nil, func(string) error { return errors.New("no display") }} {
		ctx, cancel := context.WithCancel(t.Context())
		out := newScreen()
		person := p.person(out)
		person.Browser = browser
		go func() { <-out.news; cancel() }()
		if _, err := person.Code(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if said := out.String(); !strings.Contains(said, "Open this address in a browser on this machine") || !strings.Contains(said, p.URL+"/auth?") {
			t.Errorf("the person was told %s", said)
		}
	}
}

func TestChooseIssuer(t *testing.T) {
	one, two := gateway.SignInIssuer{Name: "corp", Issuer: "https://sso.example.com"}, gateway.SignInIssuer{Name: "lab", Issuer: "https://lab.example.com"}
	for _, tt := range []struct {
		people     []gateway.SignInIssuer
		name, want string
	}{
		{[]gateway.SignInIssuer{one}, "", "corp"},
		{[]gateway.SignInIssuer{one, two}, "lab", "lab"},
		{[]gateway.SignInIssuer{one, two}, "https://sso.example.com", "corp"},
		{[]gateway.SignInIssuer{one, two}, "", "say which with --issuer: corp, lab"},
		{[]gateway.SignInIssuer{one}, "other", "knows no issuer other: it knows corp"},
		{nil, "", "use lychgate login --ssh"},
	} {
		got, err := ChooseIssuer(gateway.SignIn{People: tt.people}, tt.name)
		if got.Name != tt.want && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q: %v, %v, want %q", tt.name, got.Name, err, tt.want)
		}
	}
}

func TestNewProviderClient(t *testing.T) {
	if _, err := NewProviderClient("", "nowhere.pem"); err == nil {
		t.Error("a CA file that is not there was taken")
	}
	if _, err := NewProviderClient("", writeNetrc(t, "no certificate").path); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Errorf("%v", err)
	}
	seen := ""
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.UserAgent() }))
	defer server.Close()
	c, err := NewProviderClient("lychgate/1", "")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if seen != "lychgate/1" {
		t.Errorf("we call ourselves %q", seen)
	}
}
