package httpd_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// secretObjects are an archive, its siginfo and its signature, all three published.
func secretObjects() []gwtest.Object {
	o := gwtest.NewObject("secret", "package")
	return []gwtest.Object{o, gwtest.NewSiginfo(o), {Name: o.Name + ".sig", Content: []byte("a signature")}}
}

// ways to ask for a name: what follows the method and target in a request.
var readWays = []struct{ name, method, lines string }{
	{"GET", "GET", ""},
	{"HEAD", "HEAD", ""},
	{"range", "GET", "Range: bytes=0-3\r\n"},
	{"suffix range", "GET", "Range: bytes=-1\r\n"},
	{"range beyond the end", "GET", "Range: bytes=100000-\r\n"},
	{"if-range", "GET", "Range: bytes=0-3\r\nIf-Range: \"x\"\r\n"},
	{"if-none-match", "GET", "If-None-Match: *\r\n"},
	{"HEAD if-none-match", "HEAD", "If-None-Match: *\r\n"},
	{"if-match", "GET", "If-Match: \"x\"\r\n"},
	{"if-modified-since", "GET", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"},
	{"accept-encoding", "GET", "Accept-Encoding: gzip, zstd\r\n"},
	{"body", "GET", "Content-Length: 1\r\n"},
	{"POST", "POST", "Content-Length: 0\r\n"},
	{"plain PUT", "PUT", "Content-Length: 5\r\n"},
}

// TestDeniedLooksAbsent is rule 4 of the design: whatever a reader without rights asks, the octets of the answer are those for a
// name that never was.
func TestDeniedLooksAbsent(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	g.Publish(secretObjects(), privateSource)
	before := len(g.Upstream.Names())
	absent := gwtest.NewObject("absent", "package").Name
	for _, way := range readWays {
		ask := func(target string) string {
			text := request(way.method, target, basic(g.As("bob")), way.lines)
			if strings.Contains(way.lines, "Length: 5") {
				text += "bytes"
			}
			return undated(t, exchange(t, g, text))
		}
		want := ask(mount + absent)
		if code := statuses(want); code == "" || code[0] != '4' {
			t.Errorf("%s: %q", way.name, want)
		}
		for _, o := range secretObjects() {
			if got := ask(mount + o.Name); got != want {
				t.Errorf("%s of %s:\n%q\nabsent:\n%q", way.name, o.Name, got, want)
			}
		}
		for _, target := range []string{mount + absent + ".siginfo", mount + absent + ".sig", "/sstate/nowhere/" + absent, mount + "x"} {
			if got := ask(target); got != want {
				t.Errorf("%s of %s:\n%q\nabsent:\n%q", way.name, target, got, want)
			}
		}
		if way.method == "GET" && strings.HasPrefix(way.lines, "Range") {
			if got := ask("/nowhere"); got != want {
				t.Errorf("%s of an unknown route:\n%q\nabsent:\n%q", way.name, got, want)
			}
		}
	}
	if names := g.Upstream.Names()[before:]; len(names) > 0 {
		t.Errorf("reached the upstream: %q", names)
	}
}

// TestDeniedLooksAbsentToBatchesAndWriters is the same for what asks about names in its body.
func TestDeniedLooksAbsentToBatchesAndWriters(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	absent := gwtest.NewObject("Secret", "package").Name // as long as the other
	digest := strings.Repeat("0", 64)
	for _, way := range []struct{ name, kind, target, body string }{
		{"presence", "text/plain", "/v1/presence?zone={ZONE}", "{NAME}\n"},
		{"JSON presence", "application/json", "/v1/presence", `{"zone":"{ZONE}","names":["{NAME}","{NAME}.siginfo"]}`},
		{"begin", "application/json", "/v1/zones/{ZONE}/uploads", `{"objects":[{"name":"{NAME}","size":1,"sha256":"` + digest + `"}]}`},
		{"begin in place", "application/json", "/v1/zones/{ZONE}/uploads", `{"in_place":true,"objects":[{"name":"{NAME}","size":1,"sha256":"` + digest + `"}]}`},
	} {
		ask := func(zone, name string) string {
			fill := strings.NewReplacer("{ZONE}", zone, "{NAME}", name)
			body := fill.Replace(way.body)
			head := request("POST", fill.Replace(way.target), basic(g.As("bob")), "Content-Type: "+way.kind+"\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(body)))
			return undated(t, exchange(t, g, head+body))
		}
		want := ask("main", absent)
		if got := ask("main", o.Name); got != want {
			t.Errorf("%s of a denied name:\n%q\nabsent:\n%q", way.name, got, want)
		}
		if got := ask("none", o.Name); strings.HasPrefix(way.name, "begin") && got != want {
			t.Errorf("%s in an unknown zone:\n%q\nin one without rights:\n%q", way.name, got, want)
		}
	}
}

// TestNoCredential: without a good credential every answer is the same 401, whatever the path, method or credential.
func TestNoCredential(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	old := g.As("alice").Token
	g.Revoke("alice")
	credentials := map[string]string{
		"none":            "",
		"unknown token":   basic(g.WithToken("lgt_0123456789")),
		"a real prefix":   basic(g.WithToken(g.As("bob").Token[:12])),
		"one character":   basic(g.WithToken(g.As("bob").Token[:len(g.As("bob").Token)-1] + "?")),
		"unreadable":      "Authorization: Basic !!!\r\n",
		"no scheme":       "Authorization: x\r\n",
		"empty":           "Authorization:\r\n",
		"empty bearer":    "Authorization: Bearer \r\n",
		"another scheme":  "Authorization: Negotiate " + g.As("bob").Token + "\r\n",
		"blocked user":    basic(g.As("mallory")),
		"revoked token":   basic(g.WithToken(old)),
		"two credentials": basic(g.As("alice")) + basic(g.As("alice")),
		"token as user":   "Authorization: Basic " + strings.TrimSuffix(strings.TrimPrefix(basic(g.WithToken("")), "Authorization: Basic "), "\r\n") + "\r\n",
	}
	targets := []string{mount + o.Name, mount + "absent", "/sstate/nowhere/x", "/v1/whoami", "/v1/nowhere", "/", "/%2e%2e/", mount + strings.Repeat("a", 3000), "/é", "/#x"}
	for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "BREW"} {
		want := undated(t, exchange(t, g, request(method, mount+o.Name)))
		if !strings.HasPrefix(want, "HTTP/1.1 401 ") || !strings.Contains(want, "\r\nWww-Authenticate: Basic realm=") {
			t.Errorf("%s: %q", method, want)
		}
		for what, line := range credentials {
			if got := undated(t, exchange(t, g, request(method, mount+o.Name, line))); got != want {
				t.Errorf("%s with %s:\n%q\nwant\n%q", method, what, got, want)
			}
		}
		for _, target := range targets {
			if got := undated(t, exchange(t, g, request(method, target))); got != want {
				t.Errorf("%s %s:\n%q\nwant\n%q", method, target, got, want)
			}
		}
	}
}

// TestWget does what wget does with a password in .netrc: it asks without, is challenged, and asks again on the same
// connection (RFC 7617).
func TestWget(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	w := dial(t, g)
	for _, step := range []struct {
		lines string
		want  int
	}{{"", 401}, {basic(g.As("bob")), 200}, {basic(g.As("bob")) + "Range: bytes=5-\r\n", 206}, {"", 401}} {
		w.say("GET " + mount + o.Name + " HTTP/1.1\r\nHost: gate\r\nAccept-Encoding: identity\r\n" + step.lines + "\r\n")
		res, body := w.response("GET")
		if res == nil || res.StatusCode != step.want || res.Close {
			t.Fatalf("%q: %v, want %d", step.lines, res, step.want)
		}
		if step.want == 200 && string(body) != string(o.Content) || step.want == 206 && string(body) != string(o.Content[5:]) {
			t.Errorf("%d: %q", step.want, body)
		}
	}
}

// TestBearer: the same token is good as a Bearer.
func TestBearer(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	if res := g.WithToken("").Get("/v1/whoami", "Authorization", "Bearer "+g.As("bob").Token); res.StatusCode != http.StatusOK || !strings.Contains(string(res.Bytes), `"bob"`) {
		t.Errorf("%d %s", res.StatusCode, res.Bytes)
	}
}

// TestClientCertificate: a mapped certificate is a credential; any other is none, and a token that is shown counts first.
func TestClientCertificate(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{ClientCA: true})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	want := ""
	for _, row := range []struct{ name, uri, line, want string }{
		{"no certificate", "", "", "401"},
		{"alice's", "spiffe://example.com/alice", "", "200"},
		{"alice's and bob's token", "spiffe://example.com/alice", basic(g.As("bob")), "404"},
		{"alice's and a bad token", "spiffe://example.com/alice", "Authorization: Basic eDp5\r\n", "401"},
		{"a stranger's", "spiffe://example.com/eve", "", "401"},
		{"another trust domain's", "spiffe://example.org/alice", "", "401"},
	} {
		cfg := &tls.Config{RootCAs: g.CA.Pool()}
		if row.uri != "" {
			cert, err := g.CA.Client(row.uri)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Certificates = []tls.Certificate{*cert}
		}
		conn, err := tls.Dial("tcp", g.Addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w := &wire{Conn: conn, t: t, r: bufio.NewReader(conn)}
		w.say(request("GET", mount+o.Name, row.line))
		got := w.rest()
		if statuses(got) != row.want {
			t.Errorf("%s: %q, want %s", row.name, got, row.want)
		}
		if row.want != "401" {
			continue
		}
		if got = undated(t, got); want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s:\n%q\nwant\n%q", row.name, got, want)
		}
	}
}
