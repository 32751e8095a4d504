// Package oidcprovider starts a real OpenID Connect provider, the npm package oidc-provider, on loopback for one test. It needs
// node and npm.
//
//	p := oidcprovider.Start(t)
//	p.SignIn(t, p.AuthURL(...))           // what a browser would do: code + PKCE, up to the program's own loopback address
//	p.Approve(t, verificationURIComplete) // the same for the device flow
//	p.Rotate(t); p.Withdraw(t)            // and other weather
//
// There is one person at the keyboard: whoever the request's login_hint names, or else alice. The subject of alice is "u-alice",
// and her preferred_username "alice", when the scope profile is asked for.
package oidcprovider

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// The clients: both are public, have the device flow, and code + PKCE (S256) with any port of http://127.0.0.1/,
// http://127.0.0.1/callback and http://[::1]/callback as the redirect address.
const (
	ClientID = "lychgate-cli" // the command line
	OtherID  = "another-app"  // whose tokens are not for the gate
)

//go:embed package.json package-lock.json provider.mjs
var program embed.FS

// Provider is a running provider. Its methods fail the test when the provider does.
type Provider struct {
	Issuer string // a http:// URL of loopback; discovery says the rest
	admin  string
}

// Start starts a provider that ends with the test.
func Start(t testing.TB) *Provider {
	t.Helper()
	dir := install(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The program ends when its input does: no test that was killed leaves one behind.
	in, alive, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, printed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	cmd := exec.Command(runtime(dir), "provider.mjs")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, in, printed, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the OpenID Connect provider: %v", err)
	}
	printed.Close()
	t.Cleanup(func() {
		alive.Close()
		out.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("the provider said:\n%s", log.String())
		}
	})
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line
	}()
	select {
	case line := <-ready:
		var where struct{ Issuer, Admin string }
		if err := json.Unmarshal([]byte(line), &where, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatalf("the OpenID Connect provider did not start: %q\n%s", line, log.String())
		}
		return &Provider{Issuer: where.Issuer, admin: where.Admin}
	case <-ctx.Done():
		t.Fatalf("the OpenID Connect provider did not start in time\n%s", log.String())
	}
	return nil
}

// runtime returns the Node.js that the packages bring, which Debian's own is too old for, or that of a system they bring none for.
func runtime(dir string) string {
	if found, err := filepath.Glob(filepath.Join(dir, "node_modules", "node-*", "bin", "node")); err == nil && len(found) == 1 {
		return found[0]
	}
	return "node"
}

// install returns a directory with the program and what it needs, beside the user's other caches and named by the contents, so
// that npm is asked once for each version.
func install(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is missing: install the packages nodejs and npm", name)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "lychgate-test")
	files, sum := contents(t)
	dir := filepath.Join(cache, "oidc-provider-"+sum)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	staging, err := os.MkdirTemp(cache, "new-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(staging)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(staging, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir = staging
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci, for the OpenID Connect provider: %v\n%s", err, out)
	}
	// Another test may have been faster: what it made is the same.
	if err := os.Rename(staging, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}

func contents(t testing.TB) (files map[string][]byte, sum string) {
	t.Helper()
	files = map[string][]byte{}
	h := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json", "provider.mjs"} {
		text, err := program.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
		fmt.Fprintf(h, "%d\n%s", len(text), text)
	}
	return files, hex.EncodeToString(h.Sum(nil)[:8])
}

// Rotate makes a new key that signs from now on. The old ones stay in the key set.
func (p *Provider) Rotate(t testing.TB) { p.control(t, "/rotate", nil, nil) }

// Withdraw takes all keys but the newest out of the key set.
func (p *Provider) Withdraw(t testing.TB) { p.control(t, "/withdraw", nil, nil) }

// Down closes the issuer's port.
func (p *Provider) Down(t testing.TB) { p.control(t, "/down", nil, nil) }

// Up opens it again.
func (p *Provider) Up(t testing.TB) { p.control(t, "/up", nil, nil) }

// SlowKeys makes the key set come that late; 0 ends it.
func (p *Provider) SlowKeys(t testing.TB, delay time.Duration) {
	p.control(t, fmt.Sprintf("/keys?delay=%d", delay.Milliseconds()), nil, nil)
}

// FailKeys makes the answer for the key set that status; 0 ends it.
func (p *Provider) FailKeys(t testing.TB, status int) {
	p.control(t, fmt.Sprintf("/keys?status=%d", status), nil, nil)
}

// KeyFetches returns how often the key set was asked for.
func (p *Provider) KeyFetches(t testing.TB) int {
	var answer struct {
		Keys int `json:"keys"`
	}
	p.control(t, "/count", nil, &answer)
	return answer.Keys
}

// Sign returns an ID token for alice that is signed with the provider's current key. header and claims are laid over those of a
// good one for ClientID that lives for five minutes. An alg in the header is signed with as RS or PS; any other is only claimed.
func (p *Provider) Sign(t testing.TB, header, claims map[string]any) string {
	var answer struct {
		Token string `json:"token"`
	}
	if header == nil {
		header = map[string]any{}
	}
	if claims == nil {
		claims = map[string]any{}
	}
	p.control(t, "/sign", map[string]any{"header": header, "claims": claims}, &answer)
	return answer.Token
}

func (p *Provider) control(t testing.TB, path string, send, receive any) {
	t.Helper()
	var body bytes.Buffer
	if send != nil {
		if err := json.MarshalWrite(&body, send); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.admin+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	status, text := fetch(t, http.DefaultClient, req)
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, status, text)
	}
	if receive == nil {
		return
	}
	if err := json.Unmarshal(text, receive); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// AuthURL returns where a browser is sent to sign login in (RFC 6749 section 4.1.1, RFC 7636): to redirect, with the S256
// challenge of verifier.
func (p *Provider) AuthURL(login, clientID, redirect, state, verifier string) string {
	return p.Issuer + "/auth?" + url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirect}, "scope": {"openid profile"}, "state": {state},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"}, "login_hint": {login},
	}.Encode()
}

// SignIn does what a browser does with an authorization URL: it signs in, consents, and goes where it is sent, the program's own
// loopback address in the end. It returns the last page.
func (p *Provider) SignIn(t testing.TB, authURL string) string {
	t.Helper()
	status, page := browse(t, browser(t), authURL, nil)
	if status != http.StatusOK {
		t.Fatalf("signing in: %d %s", status, page)
	}
	return page
}

// hidden finds the fields of the provider's forms.
var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)

// Approve does what a person does with a verification_uri_complete (RFC 8628 section 3.3.1).
func (p *Provider) Approve(t testing.TB, verificationURIComplete string) {
	t.Helper()
	client := browser(t)
	form := p.Issuer + "/device"
	_, page := browse(t, client, verificationURIComplete, nil)
	// The first form sends the code that was in the address, the second confirms it.
	for _, more := range []url.Values{{}, {"confirm": {"yes"}}} {
		values := more
		for _, field := range hidden.FindAllStringSubmatch(page, -1) {
			values.Set(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
		}
		var status int
		if status, page = browse(t, client, form, values); status != http.StatusOK {
			t.Fatalf("approving a device: %d %s", status, page)
		}
	}
	if !strings.Contains(page, "Sign-in Success") {
		t.Fatalf("approving a device ended with %s", page)
	}
}

func browser(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar}
}

// browse gets a page, or posts a form to it.
func browse(t testing.TB, client *http.Client, to string, form url.Values) (int, string) {
	t.Helper()
	method, body := http.MethodGet, ""
	if form != nil {
		method, body = http.MethodPost, form.Encode()
	}
	req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	status, page := fetch(t, client, req)
	return status, string(page)
}

func fetch(t testing.TB, client *http.Client, req *http.Request) (int, []byte) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("ask the provider: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("ask the provider: %v", err)
	}
	return resp.StatusCode, body
}

// lockedBuffer is a bytes.Buffer for two goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
