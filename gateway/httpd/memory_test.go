package httpd_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// serverOf returns a second door to a gate, for tests that serve or call it themselves.
func serverOf(t testing.TB, g *gwtest.Gate, limits httpd.Limits, observe func(httpd.Observation)) *httpd.Server {
	t.Helper()
	leaf, err := g.CA.Leaf("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := httpd.New(httpd.Config{
		Gateway: g.Gateway, TLS: &tls.Config{GetCertificate: leaf.GetCertificate}, Mount: "/sstate", Limits: limits, Observe: observe,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// recorder is a response that takes deadlines and does not mind them.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// TestListsAreBoundedBeforeTheyAreMade: a body of millions of empty elements is refused for not much more memory than it takes to
// hold the body.
func TestListsAreBoundedBeforeTheyAreMade(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	handler := serverOf(t, g, httpd.Limits{}, nil).Handler()
	const size = 16 << 20
	list := func(before, element, after string) string {
		n := (size - len(before) - len(after)) / (len(element) + 1)
		return before + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + after
	}
	for _, row := range []struct{ name, target, kind, body string }{
		{"names", "/v1/presence", "application/json", list(`{"zone":"main","names":[`, `""`, `]}`)},
		{"lines", "/v1/presence?zone=main", "text/plain", strings.Repeat("\n", size)},
		{"objects", "/v1/zones/main/uploads", "application/json", list(`{"objects":[`, `{}`, `]}`)},
		{"nothing but commas", "/v1/zones/main/uploads", "application/json", strings.Repeat(",", size)},
	} {
		t.Run(row.name, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodPost, row.target, strings.NewReader(row.body))
			req.Header.Set("Content-Type", row.kind)
			req.SetBasicAuth("user", g.As("ci").Token)
			w := recorder{httptest.NewRecorder()}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			handler.ServeHTTP(w, req)
			runtime.ReadMemStats(&after)
			if w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			// io.ReadAll grows by a quarter at a time, so that it takes some five times the body on its way.
			if took := after.TotalAlloc - before.TotalAlloc; took > 8*size {
				t.Errorf("%d MiB were allocated for a body of %d", took>>20, len(row.body)>>20)
			}
		})
	}
	// A list as long as is allowed is not refused for that.
	names := strings.Repeat("x\n", g.Gateway.Limits.PresenceNames)
	if res := g.As("ci").Do(http.MethodPost, "/v1/presence?zone=main", []byte(names)); res.StatusCode != http.StatusOK || len(res.Bytes) != len(names) {
		t.Errorf("the longest list of lines: %d, %d bytes", res.StatusCode, len(res.Bytes))
	}
	quoted := `{"zone":"main","names":["x"` + strings.Repeat(`,"x"`, g.Gateway.Limits.PresenceNames-1) + `]}`
	if res := g.As("ci").Do(http.MethodPost, "/v1/presence", []byte(quoted), "Content-Type", "application/json"); res.StatusCode != http.StatusOK {
		t.Errorf("the longest list of names: %d %s", res.StatusCode, bytes.TrimSpace(res.Bytes[:min(200, len(res.Bytes))]))
	}
}

// TestBodiesPerPrincipal: one principal can have so many bodies in memory at once; that is nobody else's trouble.
func TestBodiesPerPrincipal(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{ProgressWindow: time.Hour}})
	ask := func(who string) string {
		res := g.As(who).Do(http.MethodPost, "/v1/presence?zone=main", []byte("x\n"))
		if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		return fmt.Sprint(res.StatusCode)
	}
	head := request(http.MethodPost, "/v1/presence?zone=main", basic(g.As("bob")), "Expect: 100-continue\r\n", "Content-Length: 2\r\n")
	var held []*wire
	for range httpd.BodiesPerPrincipal {
		w := dial(t, g)
		w.say(head)
		if res, _ := w.response(http.MethodPost); res == nil || res.StatusCode != http.StatusContinue { // which the gate says as it reads
			t.Fatalf("%v", res)
		}
		held = append(held, w)
	}
	if bob, alice := ask("bob"), ask("alice"); bob != "503" || alice != "200" {
		t.Errorf("one more of the same principal: %s; another's: %s", bob, alice)
	}
	if res := g.As("bob").Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("a request without a body: %d", res.StatusCode)
	}
	for _, w := range held {
		w.say("x\n")
		if res, body := w.response(http.MethodPost); res == nil || res.StatusCode != http.StatusOK || string(body) != "0\n" {
			t.Errorf("a body in the end: %v %q", res, body)
		}
	}
	if got := ask("bob"); got != "200" {
		t.Errorf("once there is room: %s", got)
	}
}
