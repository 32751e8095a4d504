package upstream_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/gateway/upstream/upstreamtest"
)

// serveStore is a mirror over any Store. ranges says whether it does ranges.
func serveStore(t testing.TB, s upstream.Store, ranges bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, "/mirror/")
		if strings.ContainsAny(r.RequestURI, ":+~") || !ok {
			t.Errorf("request target %q", r.RequestURI)
		}
		obj, err := s.Open(r.Context(), name, 0)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer obj.Close()
		if !ranges {
			r.Header.Del("Range")
		}
		http.ServeContent(w, r, "", obj.Modified, obj.ReadCloser.(io.ReadSeeker))
	}
}

func newHTTP(t testing.TB, cfg upstream.HTTPConfig) *upstream.HTTP {
	t.Helper()
	h, err := upstream.NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHTTP(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			upstreamtest.Run(t, func(t *testing.T, files upstreamtest.Files) upstream.Store {
				srv := httptest.NewServer(serveStore(t, newDir(t, populate(t, files)), ranges))
				t.Cleanup(srv.Close)
				return newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/mirror"})
			})
		})
	}
}

func TestHTTPSWithItsOwnCA(t *testing.T) {
	srv := httptest.NewUnstartedServer(serveStore(t, newDir(t, populate(t, upstreamtest.Files{"a": "abc"})), true))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that must fail
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	if info, err := newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/mirror/", RootCAs: pool}).Stat(t.Context(), "a"); err != nil || info.Size != 3 || info.Modified.IsZero() {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	if _, err := newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/mirror/"}).Stat(t.Context(), "a"); err == nil {
		t.Error("an unknown CA was trusted")
	}
}

func TestHTTPConfig(t *testing.T) {
	for _, u := range []string{"", "mirror", "ftp://h/", "http://", "http://h/?q", "http://h/?", "http://h/#f", "http://user:hunter2@h/", "http://h/%zz", "http:h"} {
		_, err := upstream.NewHTTP(upstream.HTTPConfig{URL: u})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", u, err)
		}
	}
	cfg := upstream.HTTPConfig{URL: "http://h/", Header: http.Header{"Authorization": {"Basic hunter2"}}}
	h := newHTTP(t, cfg)
	for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v %#v %s", cfg, cfg, cfg), fmt.Sprintf("%+v %#v %v", h, h, h), cfg.LogValue().String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a credential is printed: %s", text)
		}
	}
}

func TestHTTPHeaderAndName(t *testing.T) {
	var uri, auth, encoding atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uri.Store(r.RequestURI)
		auth.Store(r.Header.Get("Authorization"))
		encoding.Store(r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Length", "0")
	}))
	defer srv.Close()
	h := newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/a%2Fb/c", Header: http.Header{"Authorization": {"Basic eDp5"}}})
	if _, err := h.Stat(t.Context(), "x:y/1+2~3_-.z"); err != nil {
		t.Fatal(err)
	}
	if uri.Load() != "/a%2Fb/c/x%3Ay/1%2B2%7E3_-.z" || auth.Load() != "Basic eDp5" || encoding.Load() != "identity" {
		t.Errorf("%v, %v, %v", uri.Load(), auth.Load(), encoding.Load())
	}
}

// script answers each connection with octets of its own choice. It returns the mirror's URL.
func script(t *testing.T, answer func(c net.Conn, r *http.Request)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					answer(c, r)
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String() + "/"
}

// TestHTTPFaults: whatever a mirror does wrong, a reader gets an error and never a clean end of the wrong bytes.
func TestHTTPFaults(t *testing.T) {
	reply := func(s string) func(net.Conn, *http.Request) {
		return func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, "HTTP/1.1 "+s) }
	}
	part := func(rng, length, body string) func(net.Conn, *http.Request) {
		return reply("206 Partial\r\nContent-Range: " + rng + "\r\nContent-Length: " + length + "\r\n\r\n" + body)
	}
	for name, tc := range map[string]struct {
		answer func(net.Conn, *http.Request)
		off    int64
		want   string // in the error; empty for any
	}{
		"reset mid-body": {func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
			_ = c.(*net.TCPConn).SetLinger(0)
		}, 0, ""},
		"body too short":          {reply("200 OK\r\nContent-Length: 10\r\n\r\nabc"), 0, "unexpected EOF"},
		"skipped part too short":  {reply("200 OK\r\nContent-Length: 10\r\n\r\nabc"), 5, "unexpected EOF"},
		"offset beyond a 200":     {reply("200 OK\r\nContent-Length: 3\r\n\r\nabc"), 5, "offset"},
		"no length":               {reply("200 OK\r\n\r\nabc"), 0, "how long"},
		"chunked":                 {reply("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 0, "how long"},
		"gzip surprise":           {reply("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"), 0, "encoded"},
		"gzip surprise in a part": {reply("206 P\r\nContent-Encoding: gzip\r\nContent-Range: bytes 1-3/4\r\nContent-Length: 3\r\n\r\nabc"), 1, "encoded"},
		"500":                     {reply("500 Broken\r\nContent-Length: 6\r\n\r\nsecret"), 0, "status 500"},
		"503 twice":               {reply("503 Busy\r\nContent-Length: 6\r\n\r\nsecret"), 0, "status 503"},
		"403":                     {reply("403 No\r\nContent-Length: 0\r\n\r\n"), 0, "status 403"},
		"206 unasked":             {part("bytes 0-2/3", "3", "abc"), 0, "status 206"},
		"part without a range":    {reply("206 P\r\nContent-Length: 3\r\n\r\nabc"), 1, "which"},
		"part of another place":   {part("bytes 0-2/4", "3", "abc"), 1, "another part"},
		"part that ends early":    {part("bytes 1-2/4", "2", "bc"), 1, "another part"},
		"part of unknown size":    {part("bytes 1-3/*", "3", "abc"), 1, "which"},
		"part with wrong length":  {part("bytes 1-3/4", "9", "abc"), 1, "another part"},
		"part cut short":          {part("bytes 1-3/4", "3", "a"), 1, "unexpected EOF"},
		"range with signs":        {part("bytes +1-+3/+4", "3", "abc"), 1, "which"},
		"416 that cannot be":      {reply("416 R\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n"), 5, "status 416"},
		"416 without a size":      {reply("416 R\r\nContent-Length: 0\r\n\r\n"), 5, "status 416"},
		"redirect elsewhere":      {reply("302 F\r\nLocation: http://127.0.0.2:1/\r\nContent-Length: 0\r\n\r\n"), 0, "another host"},
		"redirect to https": {func(c net.Conn, r *http.Request) {
			reply("302 F\r\nLocation: https://"+r.Host+"/\r\nContent-Length: 0\r\n\r\n")(c, r)
		}, 0, "another host"},
		"redirect loop":            {reply("302 F\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"), 0, "circles"},
		"redirect without a place": {reply("302 F\r\nContent-Length: 0\r\n\r\n"), 0, ""},
		"not HTTP":                 {func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n") }, 0, ""},
		"nothing":                  {func(net.Conn, *http.Request) {}, 0, ""},
		"slow header":              {func(c net.Conn, _ *http.Request) { _, _ = io.Copy(io.Discard, c) }, 0, "begin to answer"},
		"endless header": {func(c net.Conn, _ *http.Request) {
			endless(c, "HTTP/1.1 200 OK\r\n", "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
		}, 0, ""},
		"slow body":         {func(c net.Conn, _ *http.Request) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") }, 0, "too little"},
		"slow skipped part": {func(c net.Conn, _ *http.Request) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") }, 99000, "too little"},
		"body that stops": {func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
			_, _ = io.Copy(io.Discard, c)
		}, 0, "too little"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHTTP(t, upstream.HTTPConfig{URL: script(t, tc.answer), HeaderTimeout: 300 * time.Millisecond, FloorWindow: 300 * time.Millisecond, FloorBytes: 4096})
			n, err := readAll(t.Context(), h, tc.off)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read %d bytes, error %v, want one with %q", n, err, tc.want)
			}
		})
	}
}

// readAll opens "a" at off and reads to the end.
func readAll(ctx context.Context, s upstream.Store, off int64) (int64, error) {
	obj, err := s.Open(ctx, "a", off)
	if err != nil {
		return 0, err
	}
	defer obj.Close()
	n, err := io.Copy(io.Discard, obj)
	if again, err2 := obj.Read(make([]byte, 1)); err != nil && (again != 0 || !errors.Is(err2, err)) {
		return n, fmt.Errorf("after %w a read gave %d, %w", err, again, err2)
	}
	return n, err
}

// endless writes a line until the reader has had enough.
func endless(c net.Conn, first, line string) {
	_, err := io.WriteString(c, first)
	for err == nil {
		_, err = io.WriteString(c, line)
	}
}

// drip writes one octet now and then.
func drip(c net.Conn, first string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	_, err := io.WriteString(c, first)
	for err == nil {
		<-tick.C
		_, err = c.Write([]byte{'x'})
	}
}

// TestHTTPErrorPage: an error page sent as 200 has a length of its own, which is what the gate compares with its record.
func TestHTTPErrorPage(t *testing.T) {
	h := newHTTP(t, upstream.HTTPConfig{URL: script(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nsorry")
	})})
	obj, err := h.Open(t.Context(), "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Close()
	if b, err := io.ReadAll(obj); string(b) != "sorry" || obj.Size != 5 || err != nil {
		t.Errorf("%q of %d, %v", b, obj.Size, err)
	}
}

// liar is a transport whose bodies do not keep what net/http's own would.
type liar struct{ body string }

func (l liar) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, ContentLength: 3, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(l.body))}, nil
}

func TestHTTPLengthIsEnforcedOverAnyTransport(t *testing.T) {
	for body, want := range map[string]string{"abc": "", "ab": "unexpected EOF", "abcd": "more than it announced", "": "unexpected EOF"} {
		_, err := readAll(t.Context(), newHTTP(t, upstream.HTTPConfig{URL: "http://h/", Transport: liar{body}}), 0)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func TestHTTPRetriesOnce(t *testing.T) {
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, "fine")
	}))
	defer srv.Close()
	h := newHTTP(t, upstream.HTTPConfig{URL: srv.URL})
	if n, err := readAll(t.Context(), h, 0); n != 4 || err != nil || calls.Load() != 2 {
		t.Errorf("%d bytes, %v, %d calls", n, err, calls.Load())
	}
	for _, code := range []int{404, 410} {
		gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); w.WriteHeader(code) }))
		defer gone.Close()
		before := calls.Load()
		if _, err := newHTTP(t, upstream.HTTPConfig{URL: gone.URL}).Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) || calls.Load() != before+1 {
			t.Errorf("%d: %v after %d calls", code, err, calls.Load()-before)
		}
	}
}

// TestHTTPRetriesAConnection: the first dial is refused, the second goes through.
func TestHTTPRetriesAConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }))
	defer srv.Close()
	var dials atomic.Int32
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	if n, err := readAll(t.Context(), newHTTP(t, upstream.HTTPConfig{URL: srv.URL, Transport: tr}), 0); n != 4 || err != nil || dials.Load() != 2 {
		t.Errorf("%d bytes, %v, %d dials", n, err, dials.Load())
	}
}

func TestHTTPRedirectOnTheSameHost(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, ok := strings.CutPrefix(r.URL.Path, "/moved"); ok {
			http.Redirect(w, r, to+"/", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, r.Header.Get("Authorization"))
	}))
	defer srv.Close()
	h := newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/moved", Header: http.Header{"Authorization": {"Basic x"}}})
	if n, err := readAll(t.Context(), h, 0); n != 7 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestHTTPBodyEndsWithItsContext: a reader that gives up is not held by the mirror.
func TestHTTPBodyEndsWithItsContext(t *testing.T) {
	h := newHTTP(t, upstream.HTTPConfig{URL: script(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		_, _ = io.Copy(io.Discard, c)
	})})
	ctx, cancel := context.WithCancel(t.Context())
	obj, err := h.Open(ctx, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Close()
	if _, err := io.ReadFull(obj, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := obj.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Read = %d, %v", n, err)
	}
}

// TestHTTPSlowReader: a reader may take its time, since only waiting for the mirror counts against it.
func TestHTTPSlowReader(t *testing.T) {
	srv := httptest.NewServer(serveStore(t, newDir(t, populate(t, upstreamtest.Files{"a": strings.Repeat("x", 4<<20)})), true))
	defer srv.Close()
	h := newHTTP(t, upstream.HTTPConfig{URL: srv.URL + "/mirror", FloorWindow: 200 * time.Millisecond, FloorBytes: 1 << 20})
	obj, err := h.Open(t.Context(), "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Close()
	var total int64
	for total < 4<<20 {
		n, err := io.CopyN(io.Discard, obj, 1<<20)
		if total += n; err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond) // the reader's own pace, longer than the window
	}
}
