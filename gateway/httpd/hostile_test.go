package httpd_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestHostileTargets sends every hostile name as it is, by GET and HEAD, as a user who may read everything, while an honest
// client goes on. Only the honest one's requests may reach an upstream.
func TestHostileTargets(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	good := publishGood(t, g, privateSource)
	honest := startHonest(g, good)
	rows := corpus(t, "hostile.txt")
	if len(rows) < 400 {
		t.Fatalf("%d rows, want 400 or more", len(rows))
	}
	w := dial(t, g)
	for _, row := range rows {
		for _, method := range []string{"GET", "HEAD"} {
			want := hostileStatus(mount + row.path)
			if strings.HasSuffix(row.path, ".zst"+gateway.StatementSuffix) {
				want = http.StatusOK // no object's name, but that of the statement about one
			}
			w.say(method + " " + mount + row.path + " HTTP/1.1\r\nHost: gate\r\n" + basic(g.As("alice")) + "\r\n")
			res, body := w.response(method)
			if res == nil || res.StatusCode != want {
				t.Errorf("%s: %s %q: %v, want %d", row.category, method, row.path, res, want)
			} else if method == "GET" && want == 404 && string(body) != "not found\n" {
				t.Errorf("%s: %q says %q", row.category, row.path, body)
			}
			if res == nil || res.Close || want == 400 {
				w.Close()
				w = dial(t, g)
			}
		}
	}
	gets := honest.stop(t)
	if n := len(g.Upstream.Names()); n != gets {
		t.Errorf("%d names reached the upstream, %d by the honest client: %q", n, gets, g.Upstream.Names())
	}
}

// TestHostilePresence asks for all hostile names in one batch: none is there, and good names between them are.
func TestHostilePresence(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	before := len(g.Upstream.Names())
	var body, want strings.Builder
	for _, row := range corpus(t, "hostile.txt") {
		if !strings.Contains(row.path, "\n") {
			body.WriteString(row.path + "\n" + o.Name + "\n")
			want.WriteString("0\n1\n")
		}
	}
	for _, kind := range []string{"text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data"} {
		res := g.As("alice").Do("POST", "/v1/presence?zone=main", []byte(body.String()), "Content-Type", kind)
		if res.StatusCode != http.StatusOK || string(res.Bytes) != want.String() {
			t.Errorf("%q: %d, %d bytes, want %d", kind, res.StatusCode, len(res.Bytes), want.Len())
		}
	}
	for _, query := range []string{"", "?", "?zone", "?zone=main&zone=main", "?zone=main&x=1", "?zone=%zz", "?ZONE=main", "?zone=main;x"} {
		if res := g.As("alice").Do("POST", "/v1/presence"+query, []byte(o.Name)); res.StatusCode == http.StatusOK && strings.Contains(string(res.Bytes), "1") {
			t.Errorf("%q: %d %q", query, res.StatusCode, res.Bytes)
		}
	}
	for _, text := range []string{
		`{"zone":"main","zone":"main","names":[]}`, `{"Zone":"main","names":[]}`, `{"zone":"main","names":[],"x":1}`, `{"zone":"main","names":[]} {}`,
		"{\"zone\":\"main\",\"names\":[\"\xff\"]}", `{"zone":"main","names":["\ud800"]}`, `{"zone":"main","names":{}}`, `[]`, `"x"`, ``, `{`, strings.Repeat("[", 100_000),
	} {
		if res := g.As("alice").Do("POST", "/v1/presence", []byte(text), "Content-Type", "application/json"); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%.40q: %d", text, res.StatusCode)
		}
	}
	if names := g.Upstream.Names()[before:]; len(names) > 0 {
		t.Errorf("reached the upstream: %q", names)
	}
}

// hostileStatus is 400 for what is no request target of ours at all, or none that net/http can read, else 404.
func hostileStatus(target string) int {
	_, err := url.ParseRequestURI(target)
	if err != nil || len(target) > 2048 || strings.ContainsFunc(target, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '#' || r == '\\' }) {
		return http.StatusBadRequest
	}
	return http.StatusNotFound
}

// honest is a client that keeps asking for what is there, and must keep getting it.
type honest struct {
	end  chan struct{}
	wg   sync.WaitGroup
	gets int
	bad  []string
}

func startHonest(g *gwtest.Gate, content map[string]string) *honest {
	h := &honest{end: make(chan struct{})}
	u := g.As("alice")
	h.wg.Go(func() {
		for {
			for path, want := range content {
				h.gets++
				if head, get := u.Head(mount+path), u.Get(mount+path); head.StatusCode != 200 || get.StatusCode != 200 || string(get.Bytes) != want {
					h.bad = append(h.bad, path)
				}
			}
			select {
			case <-h.end:
				return
			default:
			}
		}
	})
	return h
}

// stop ends the client and returns how many GETs it made, each of each path at least once.
func (h *honest) stop(t *testing.T) int {
	t.Helper()
	close(h.end)
	h.wg.Wait()
	if len(h.bad) > 0 {
		t.Errorf("an honest client got wrong answers for %q", h.bad)
	}
	return h.gets
}

// hello is the path of the object that the rows below are after.
var hello = mount + gwtest.NewObject("hello", "populate_sysroot").Name

// TestHostileRequests sends whole requests that something between a client and a server might read in two ways. {AUTH}
// stands for the header line of a user who may read hello, {HELLO} for its path. After each comes an ordinary question,
// whose answer shows where the gate thinks that the request ended; want lists the statuses of all answers.
func TestHostileRequests(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	g.Publish([]gwtest.Object{gwtest.NewObject("hello", "populate_sysroot")}, privateSource)
	before := len(g.Upstream.Names())
	sentinel := request("GET", "/v1/whoami", basic(g.As("alice")))
	fill := strings.NewReplacer("{AUTH}", basic(g.As("alice")), "{BOB}", basic(g.As("bob")), "{HELLO}", hello, "{LONG}", strings.Repeat("a", 3000), "{HUGE}", strings.Repeat("h", 40<<10), "{WHO}", g.Addr)
	for _, row := range hostileRequests {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := statuses(exchange(t, g, fill.Replace(row.text)+sentinel)); got != row.want {
				t.Errorf("answered %q, want %q", got, row.want)
			}
		})
	}
	t.Cleanup(func() {
		if names := g.Upstream.Names()[before:]; len(names) > 0 {
			t.Errorf("reached the upstream: %q", names)
		}
	})
}

const (
	hostAuth = " HTTP/1.1\r\nHost: gate\r\n{AUTH}"
	hostBob  = " HTTP/1.1\r\nHost: gate\r\n{BOB}"
)

var hostileRequests = []struct{ name, text, want string }{
	// Request targets that are not origin-form (RFC 9112, section 3.2).
	{"absolute-form", "GET https://{WHO}{HELLO}" + hostAuth + "\r\n", "400 200"},
	{"absolute-form of another host", "GET http://169.254.169.254/latest/meta-data/" + hostAuth + "\r\n", "400 200"},
	{"absolute-form with user", "GET https://alice:x@{WHO}{HELLO}" + hostAuth + "\r\n", "400 200"},
	{"absolute-form file", "GET file:///etc/passwd" + hostAuth + "\r\n", "400 200"},
	{"absolute-form without path", "GET https://{WHO}" + hostAuth + "\r\n", "400 200"},
	{"network-path reference", "GET //{WHO}{HELLO}" + hostAuth + "\r\n", "404 200"},
	{"authority-form", "CONNECT {WHO}" + hostAuth + "\r\n", "400 200"},
	{"CONNECT with a path", "CONNECT {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"asterisk", "OPTIONS *" + hostAuth + "\r\n", "400 200"},
	{"asterisk GET", "GET *" + hostAuth + "\r\n", "400 200"},
	{"empty target", "GET  HTTP/1.1\r\nHost: gate\r\n{AUTH}\r\n", "400"},
	{"relative target", "GET sstate/main/x" + hostAuth + "\r\n", "400"},
	{"fragment", "GET {HELLO}#x" + hostAuth + "\r\n", "400 200"},
	{"encoded fragment", "GET {HELLO}%23x" + hostAuth + "\r\n", "404 200"},
	{"query", "GET {HELLO}?x=1" + hostAuth + "\r\n", "404 200"},
	{"empty query", "GET {HELLO}?" + hostAuth + "\r\n", "404 200"},
	{"query before the name", "GET /sstate/main?/x" + hostAuth + "\r\n", "404 200"},
	{"parameters", "GET {HELLO};x=1" + hostAuth + "\r\n", "404 200"},
	{"backslashes", `GET \sstate\main\x` + hostAuth + "\r\n", "400"},
	{"space in the target", "GET {HELLO} x" + hostAuth + "\r\n", "400"},
	{"tab before the version", "GET {HELLO}\tHTTP/1.1\r\nHost: gate\r\n{AUTH}\r\n", "400"},
	{"non-ASCII", "GET {HELLO}\xc3\xa9" + hostAuth + "\r\n", "400 200"},
	{"invalid UTF-8", "GET {HELLO}\xff" + hostAuth + "\r\n", "400 200"},
	{"raw NUL", "GET {HELLO}\x00" + hostAuth + "\r\n", "400"},
	{"raw DEL", "GET {HELLO}\x7f" + hostAuth + "\r\n", "400"},
	{"bare CR in the target", "GET {HELLO}\rX" + hostAuth + "\r\n", "400"},
	{"too long", "GET /sstate/main/{LONG}" + hostAuth + "\r\n", "400 200"},
	{"too long for any header", "GET /sstate/main/{HUGE}" + hostAuth + "\r\n", "431"},
	{"mount in capitals", "GET /SSTATE/main/x" + hostAuth + "\r\n", "404 200"},
	{"encoded mount", "GET /%73state/main/x" + hostAuth + "\r\n", "404 200"},
	{"encoded zone", "GET /sstate/%6dain/x" + hostAuth + "\r\n", "404 200"},
	{"way up", "GET /sstate/main/../main/x" + hostAuth + "\r\n", "404 200"},
	{"way up to the API", "GET /sstate/main/../../v1/whoami" + hostAuth + "\r\n", "404 200"},
	{"doubled slash", "GET //sstate/main/x" + hostAuth + "\r\n", "404 200"},
	{"zone alone", "GET /sstate/main/" + hostAuth + "\r\n", "404 200"},
	{"root", "GET /" + hostAuth + "\r\n", "404 200"},
	{"another route", "GET /metrics" + hostAuth + "\r\n", "404 200"},
	{"debug route", "GET /debug/pprof/" + hostAuth + "\r\n", "404 200"},
	{"API with a query", "GET /v1/whoami?x=1" + hostAuth + "\r\n", "404 200"},
	{"API in capitals", "GET /V1/whoami" + hostAuth + "\r\n", "404 200"},
	{"API with a slash behind", "GET /v1/whoami/" + hostAuth + "\r\n", "404 200"},
	// Methods.
	{"POST", "POST {HELLO}" + hostAuth + "Content-Length: 0\r\n\r\n", "405 200"},
	{"DELETE", "DELETE {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"OPTIONS", "OPTIONS {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"TRACE", "TRACE {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"PATCH", "PATCH {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"PROPFIND", "PROPFIND /sstate/main/x" + hostAuth + "\r\n", "405 200"},
	{"lower-case get", "get {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"unknown method", "FETCH {HELLO}" + hostAuth + "\r\n", "405 200"},
	{"method that is no token", "G(ET {HELLO}" + hostAuth + "\r\n", "400"},
	{"space before the method", " GET {HELLO}" + hostAuth + "\r\n", "400"},
	{"override", "POST {HELLO}" + hostAuth + "X-HTTP-Method-Override: GET\r\nX-Method-Override: GET\r\nX-HTTP-Method: GET\r\nContent-Length: 0\r\n\r\n", "405 200"},
	{"override by query", "POST {HELLO}?_method=GET" + hostAuth + "Content-Length: 0\r\n\r\n", "405 200"},
	// Headers that some servers trust.
	{"forwarded user", "GET {HELLO}" + hostBob + "X-Forwarded-User: alice\r\nX-Remote-User: alice\r\nRemote-User: alice\r\nX-Forwarded-Email: alice\r\n\r\n", "404 200"},
	{"forwarded certificate", "GET {HELLO}" + hostBob + "X-Client-Cert: x\r\nX-SSL-Client-S-DN: CN=alice\r\nX-Forwarded-Client-Cert: URI=spiffe://example.com/alice\r\nClient-Cert: :eA==:\r\n\r\n", "404 200"},
	{"forwarded user without a credential", "GET {HELLO} HTTP/1.1\r\nHost: gate\r\nX-Forwarded-User: alice\r\nX-Remote-User: alice\r\n\r\n", "401 200"},
	{"original URL", "GET /x" + hostAuth + "X-Original-URL: {HELLO}\r\nX-Rewrite-URL: {HELLO}\r\nX-Forwarded-Prefix: /sstate\r\n\r\n", "404 200"},
	{"forwarded address", "GET {HELLO}" + hostBob + "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n\r\n", "404 200"},
	{"token in a cookie", "GET {HELLO} HTTP/1.1\r\nHost: gate\r\nCookie: token=x\r\nProxy-Authorization: Basic eDp5\r\n\r\n", "401 200"},
	{"two credentials", "GET {HELLO}" + hostAuth + "{AUTH}\r\n", "401 200"},
	{"credential on the next line", "GET {HELLO} HTTP/1.1\r\nHost: gate\r\nAuthorization:\r\n Basic eDp5\r\n\r\n", "401 200"},
	// Where a request ends.
	{"body on GET", "GET {HELLO}" + hostAuth + "Content-Length: 5\r\n\r\nhello", "400"},
	{"body on HEAD", "HEAD {HELLO}" + hostAuth + "Content-Length: 5\r\n\r\nhello", "400"},
	{"request hidden in a GET's body", "GET {HELLO}" + hostAuth + "Content-Length: 44\r\n\r\nGET /v1/whoami HTTP/1.1\r\nHost: gate\r\nX: yyy\r\n", "400"},
	{"chunked GET", "GET {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
	{"length and chunks", "GET {HELLO}" + hostAuth + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
	{"chunks and length", "GET {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400"},
	{"length 0 and chunks", "GET {HELLO}" + hostAuth + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
	{"two lengths", "GET {HELLO}" + hostAuth + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", "400"},
	{"a list of lengths", "GET {HELLO}" + hostAuth + "Content-Length: 5, 5\r\n\r\nhello", "400"},
	{"signed length", "GET {HELLO}" + hostAuth + "Content-Length: +5\r\n\r\nhello", "400"},
	{"negative length", "GET {HELLO}" + hostAuth + "Content-Length: -1\r\n\r\n", "400"},
	{"hexadecimal length", "GET {HELLO}" + hostAuth + "Content-Length: 0x5\r\n\r\nhello", "400"},
	{"enormous length", "GET {HELLO}" + hostAuth + "Content-Length: 99999999999999999999\r\n\r\n", "400"},
	{"unknown coding", "GET {HELLO}" + hostAuth + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
	{"identity coding", "GET {HELLO}" + hostAuth + "Transfer-Encoding: identity\r\n\r\n", "501"},
	{"obscured coding", "GET {HELLO}" + hostAuth + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"},
	{"two codings", "GET {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "501"},
	{"space before a colon", "GET {HELLO}" + hostAuth + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"},
	{"chunks in HTTP/1.0", "GET {HELLO} HTTP/1.0\r\n{BOB}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "404"},
	{"bad chunk size", "PUT {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n", "404"},
	{"chunk size with a sign", "PUT {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n", "404"},
	{"enormous chunk", "PUT {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n", "404"},
	{"bad chunk end", "PUT {HELLO}" + hostAuth + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", "404"},
	{"folded header", "GET {HELLO}" + hostBob + "X: a\r\n Authorization: Basic eDp5\r\n\r\n", "404 200"},
	{"colon without a name", "GET {HELLO}" + hostAuth + ": x\r\n\r\n", "400"},
	{"header without a colon", "GET {HELLO}" + hostAuth + "nonsense\r\n\r\n", "400"},
	{"NUL in a header", "GET {HELLO}" + hostAuth + "X: a\x00b\r\n\r\n", "400"},
	{"CR in a header", "GET {HELLO}" + hostAuth + "X: a\rb\r\n\r\n", "400"},
	{"space in a header's name", "GET {HELLO}" + hostAuth + "X Y: a\r\n\r\n", "400"},
	{"huge header", "GET {HELLO}" + hostAuth + "X: {HUGE}\r\n\r\n", "431"},
	{"no host", "GET {HELLO} HTTP/1.1\r\n{AUTH}\r\n", "400"},
	{"two hosts", "GET {HELLO} HTTP/1.1\r\nHost: a\r\nHost: b\r\n{AUTH}\r\n", "400"},
	{"host with a path", "GET {HELLO} HTTP/1.1\r\nHost: a/../b\r\n{AUTH}\r\n", "400"},
	{"HTTP/0.9", "GET {HELLO}\r\n", "400"},
	{"HTTP/1.2", "GET {HELLO} HTTP/1.2\r\nHost: gate\r\n{BOB}\r\n", "404 200"},
	{"HTTP/2 in words", "GET {HELLO} HTTP/2.0\r\nHost: gate\r\n{AUTH}\r\n", "505"},
	{"no version", "GET {HELLO} HTTP/\r\nHost: gate\r\n{AUTH}\r\n", "400"},
	{"upgrade to h2c", "GET {HELLO}" + hostBob + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "404 200"},
	{"upgrade to a socket", "GET {HELLO}" + hostBob + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "404 200"},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "401"},
	{"expectation on a denied write", "PUT {HELLO}" + hostBob + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", "404"},
	{"unknown expectation", "GET {HELLO}" + hostBob + "Expect: the unexpected\r\n\r\n", "417"},
	{"pipeline of denials", "GET {HELLO}" + hostBob + "\r\nHEAD {HELLO}" + hostBob + "\r\nGET {HELLO}" + hostBob + "\r\n", "404 404 404 200"},
	{"pipeline after a bad request", "GET {HELLO}" + hostAuth + "Content-Length: x\r\n\r\nGET {HELLO}" + hostAuth + "\r\n", "400"},
	// Questions about the state of what is denied.
	{"range", "GET {HELLO}" + hostBob + "Range: bytes=0-0\r\n\r\n", "404 200"},
	{"range beyond any end", "GET {HELLO}" + hostBob + "Range: bytes=99999999-\r\n\r\n", "404 200"},
	{"many ranges", "GET {HELLO}" + hostBob + "Range: bytes=0-0,1-1,2-2,3-3\r\n\r\n", "404 200"},
	{"if-range", "GET {HELLO}" + hostBob + "Range: bytes=0-0\r\nIf-Range: \"x\"\r\n\r\n", "404 200"},
	{"if-match", "GET {HELLO}" + hostBob + "If-Match: *\r\n\r\n", "404 200"},
	{"if-none-match", "GET {HELLO}" + hostBob + "If-None-Match: *\r\n\r\n", "404 200"},
	{"if-modified-since", "HEAD {HELLO}" + hostBob + "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n", "404 200"},
	{"if-unmodified-since", "HEAD {HELLO}" + hostBob + "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n", "404 200"},
}

// TestHostileRequestsAreMany keeps the table above from shrinking.
func TestHostileRequestsAreMany(t *testing.T) {
	if len(hostileRequests) < 100 {
		t.Errorf("%d rows, want 100 or more", len(hostileRequests))
	}
}
