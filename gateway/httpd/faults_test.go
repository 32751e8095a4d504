package httpd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// large is more than all buffers between the gate and a client that takes nothing hold.
const large = 48 << 20

// narrow is a user whose connections hold little that was not read. protocol is "http/1.1" or "h2".
func narrow(t testing.TB, g *gwtest.Gate, name, protocol string) *gwtest.User {
	t.Helper()
	u := g.As(name)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: g.CA.Pool()},
		ForceAttemptHTTP2: protocol == "h2",
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			}
			return conn, err
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &gwtest.User{Gate: g, Token: u.Token, HTTP: &http.Client{Transport: transport}}
}

// transfers returns the events that end transfers.
func transfers(g *gwtest.Gate) (list []audit.Event) {
	for _, e := range g.Events() {
		if e.Kind == audit.KindTransfer {
			list = append(list, e)
		}
	}
	return list
}

// TestRevocationCutsTransfers: a transfer ends when the right to it does, whether its client reads on or takes nothing. The
// progress floor is out of the way.
func TestRevocationCutsTransfers(t *testing.T) {
	content := noise(6, large)
	for _, row := range []struct {
		name, protocol string
		reading        bool
		revoke         func(g *gwtest.Gate)
	}{
		{"token, reading", "http/1.1", true, func(g *gwtest.Gate) { g.Revoke("bob") }},
		{"token, stalled", "http/1.1", false, func(g *gwtest.Gate) { g.Revoke("bob") }},
		{"token, stalled on HTTP/2", "h2", false, func(g *gwtest.Gate) { g.Revoke("bob") }},
		{"forge, reading on HTTP/2", "h2", true, removeBob},
		{"forge, stalled", "http/1.1", false, removeBob},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{ProgressWindow: time.Hour}})
			o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: content}
			g.Publish([]gwtest.Object{o}, publicSource)
			res := open(t, t.Context(), narrow(t, g, "bob", row.protocol), mount+o.Name, "")
			defer res.Body.Close()
			head := make([]byte, 1000)
			if _, err := io.ReadFull(res.Body, head); err != nil {
				t.Fatal(err)
			}
			row.revoke(g)
			got := int64(len(head))
			buf := make([]byte, 32<<10)
			eventually(t, "the transfer is cut", func() bool {
				if row.reading {
					n, err := res.Body.Read(buf)
					got += int64(n)
					return err != nil
				}
				return len(transfers(g)) > 0
			})
			n, err := io.Copy(io.Discard, res.Body)
			if got += n; row.reading {
				_, err = res.Body.Read(buf)
			}
			if err == nil || errors.Is(err, io.EOF) || got >= large {
				t.Errorf("%d of %d bytes came, then %v", got, large, err)
			}
			eventually(t, "the end is recorded", func() bool { return len(transfers(g)) > 0 })
			if e := transfers(g)[0]; e.Result.Complete || e.Result.Bytes >= large {
				t.Errorf("the event says %+v", e.Result)
			}
		})
	}
}

// removeBob takes bob's rights away at the forge.
func removeBob(g *gwtest.Gate) {
	g.WriteForge(strings.Replace(gwtest.DefaultForge, "users: [bob]", "users: [carol]", 1))
}

// TestSlowReader: a client that takes less than the floor is cut, and its copy is not complete.
func TestSlowReader(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{ProgressWindow: 200 * time.Millisecond, ProgressBytes: 1 << 20}})
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(7, large)}
	g.Publish([]gwtest.Object{o}, publicSource)
	for _, protocol := range []string{"http/1.1", "h2"} {
		before := len(transfers(g))
		res := open(t, t.Context(), narrow(t, g, "bob", protocol), mount+o.Name, "")
		eventually(t, "the transfer is cut", func() bool { return len(transfers(g)) > before })
		n, err := io.Copy(io.Discard, res.Body)
		if err == nil || n >= large {
			t.Errorf("%s: %d of %d bytes came, then %v", protocol, n, large, err)
		}
		res.Body.Close()
	}
}

// TestSlowWriter: bodies and headers that do not move end their connection.
func TestSlowWriter(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{HeaderTimeout: 200 * time.Millisecond, IdleTimeout: 200 * time.Millisecond, ProgressWindow: 200 * time.Millisecond}})
	o := gwtest.NewObject("hello", "package")
	up, err := g.As("ci").Client().Begin(t.Context(), "main", uploadRequest(o))
	if err != nil {
		t.Fatal(err)
	}
	line := "Host: gate\r\n" + basic(g.As("ci"))
	for name, text := range map[string]string{
		"nothing":        "",
		"half a line":    "GET " + mount,
		"half a header":  "GET " + mount + o.Name + " HTTP/1.1\r\n" + line,
		"an idle client": "GET /v1/whoami HTTP/1.1\r\n" + line + "\r\n",
		"plain PUT":      "PUT " + mount + o.Name + " HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
		"chunked PUT":    "PUT " + mount + o.Name + " HTTP/1.1\r\n" + line + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"stage":          "PUT /v1/uploads/" + up.ID + "/0 HTTP/1.1\r\n" + line + "Upload-Offset: 0\r\nContent-Length: 20\r\n\r\nabc",
		"presence":       "POST /v1/presence?zone=main HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
		"begin":          "POST /v1/zones/main/uploads HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\n{",
		"commit":         "POST /v1/uploads/" + up.ID + "/commit HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\n{",
		"body on a read": "GET " + mount + o.Name + " HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
		"another method": "POST " + mount + o.Name + " HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
		"another route":  "POST /nowhere HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
		"no credential":  "POST /nowhere HTTP/1.1\r\nHost: gate\r\nContent-Length: 1000\r\n\r\nabc",
		"nor a length":   "POST /nowhere HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n",
		"no writer":      "PUT /sstate/none/x HTTP/1.1\r\n" + line + "Content-Length: 1000\r\n\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := exchange(t, g, text); strings.HasPrefix(got, "HTTP/1.1 2") != (name == "an idle client") {
				t.Errorf("answered %q", got)
			}
		})
	}
}

// TestDrain: a gate that stops takes no new connections and finishes what is under way.
func TestDrain(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(8, large)}
	g.Publish([]gwtest.Object{o}, publicSource)
	var held []*http.Response
	for _, protocol := range []string{"http/1.1", "h2"} {
		held = append(held, open(t, t.Context(), narrow(t, g, "bob", protocol), mount+o.Name, ""))
	}
	stopped := make(chan struct{})
	go func() { g.Stop(); close(stopped) }()
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", g.Addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	for _, res := range held {
		got, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(got, o.Content) {
			t.Errorf("HTTP/%d: %d of %d bytes came, then %v", res.ProtoMajor, len(got), large, err)
		}
		res.Body.Close()
	}
	<-stopped
}

func TestConnectionsPerAddress(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{ConnsPerAddress: 3}})
	text := "GET /v1/whoami HTTP/1.1\r\nHost: gate\r\n" + basic(g.As("bob")) + "\r\n"
	var held []*wire
	for range 3 {
		w := dial(t, g)
		w.say(text)
		if res, _ := w.response("GET"); res == nil || res.StatusCode != 200 {
			t.Fatalf("%v", res)
		}
		held = append(held, w)
	}
	if conn, err := tls.Dial("tcp", g.Addr, &tls.Config{RootCAs: g.CA.Pool()}); err == nil {
		conn.Close()
		t.Error("a fourth connection was taken")
	}
	held[0].Close()
	eventually(t, "a place is free", func() bool {
		conn, err := tls.Dial("tcp", g.Addr, &tls.Config{RootCAs: g.CA.Pool()})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func TestRequestsPerPrincipal(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{RequestsPerPrincipal: 2}})
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(9, large)}
	g.Publish([]gwtest.Object{o}, publicSource)
	var held []*http.Response
	for range 2 {
		held = append(held, open(t, t.Context(), narrow(t, g, "bob", "http/1.1"), mount+o.Name, ""))
	}
	if res := g.As("bob").Head(mount + o.Name); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("a third request: %d %v", res.StatusCode, res.Header)
	}
	if res := g.As("alice").Head(mount + o.Name); res.StatusCode != http.StatusOK {
		t.Errorf("somebody else: %d", res.StatusCode)
	}
	for _, res := range held {
		res.Body.Close()
	}
	eventually(t, "there is room", func() bool { return g.As("bob").Head(mount+o.Name).StatusCode == http.StatusOK })
}

// TestExpectContinue: a body is asked for only where it will be taken.
func TestExpectContinue(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	o := gwtest.NewObject("hello", "package")
	for who, want := range map[string]string{"ci": "100 202", "bob": "404"} {
		text := request("PUT", mount+o.Name, basic(g.As(who)), "Expect: 100-continue\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(o.Content)))
		if got := statuses(exchange(t, g, text+string(o.Content))); got != want {
			t.Errorf("%s: %q, want %q", who, got, want)
		}
	}
}
