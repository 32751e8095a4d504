package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLoad: the load generator counts good answers, and takes every other for an error.
func TestLoad(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		if r.Method != http.MethodHead {
			_, _ = w.Write([]byte("hello"))
		}
		if r.URL.Path == "/absent" {
			t.Error("asked for what is not in the list")
		}
	}))
	defer s.Close()
	missing := httptest.NewTLSServer(http.NotFoundHandler())
	defer missing.Close()
	names := filepath.Join(t.TempDir(), "names")
	if err := os.WriteFile(names, []byte("a\nb\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	order := func(change func(*load)) load {
		l := load{
			Addr: s.Listener.Addr().String(), Cert: fmt.Sprintf("%x", sha256.Sum256(s.Certificate().Raw)), Names: names,
			Request: "HEAD /{NAME} HTTP/1.1\r\nHost: x\r\n\r\n", Conns: 3, Length: 5, Duration: 100 * time.Millisecond,
		}
		change(&l)
		return l
	}
	for name, tc := range map[string]struct {
		order load
		want  string // in the error; "" for none
	}{
		"HEAD":         {order(func(*load) {}), ""},
		"GET":          {order(func(l *load) { l.Request = strings.Replace(l.Request, "HEAD", "GET", 1) }), ""},
		"connect":      {order(func(l *load) { l.Connect = true }), ""},
		"closed":       {order(func(l *load) { l.Request = strings.Replace(l.Request, "x\r\n", "x\r\nConnection: close\r\n", 1) }), ""},
		"wrong length": {order(func(l *load) { l.Length = 6 }), "Content-Length 5, want 6"},
		"wrong status": {order(func(l *load) {
			l.Addr, l.Cert = missing.Listener.Addr().String(), fmt.Sprintf("%x", sha256.Sum256(missing.Certificate().Raw))
		}), "404"},
		"another server": {order(func(l *load) { l.Cert = strings.Repeat("0", 64) }), "another certificate"},
		"nobody":         {order(func(l *load) { l.Addr = "127.0.0.1:1" }), "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := tc.order.run(t.Context())
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if err == nil && (o.Requests == 0 || o.Median <= 0 || o.P99 < o.Median || !strings.HasPrefix(o.Protocol, "TLS 1.3 ")) {
				t.Errorf("%+v", o)
			}
			if get := strings.HasPrefix(tc.order.Request, "GET"); err == nil && get != (o.Bytes > 0) {
				t.Errorf("%d bytes", o.Bytes)
			}
		})
	}
}

// TestServeLoad: an order goes in and an outcome comes out, also when it cannot be carried out.
func TestServeLoad(t *testing.T) {
	var out bytes.Buffer
	if err := serveLoad(t.Context(), strings.NewReader(`{"addr":"127.0.0.1:1","names":"/nowhere","conns":1,"duration":1000}`), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "nowhere") {
		t.Error(out.String())
	}
	if err := serveLoad(t.Context(), strings.NewReader(`{"address":1}`), &out); err == nil {
		t.Error("took an order that it does not understand")
	}
}

func TestMedian(t *testing.T) {
	of := func(values ...float64) (list turns) {
		for _, v := range values {
			list = append(list, turn{outcome: outcome{Requests: int(v), Elapsed: time.Second}})
		}
		return list
	}
	for _, tc := range []struct {
		turns turns
		want  float64
	}{{nil, 0}, {of(3), 3}, {of(9, 1), 5}, {of(9, 1, 2), 2}} {
		if got := tc.turns.median(turn.rate); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.turns, got, tc.want)
		}
	}
}

// TestRates: what is not installed or not reached is said to be.
func TestRates(t *testing.T) {
	peer := server{name: "peer"}
	all := map[string]turns{"peer": {{outcome: outcome{Requests: 1000, Elapsed: time.Second}}}}
	for _, tc := range []struct {
		name string
		row  row
		want string
	}{
		{"met", rates("w", peer, all, 4000, 4, true), "w|peer|1,000/s|4,000/s|4.00|≥ 4 ×|yes"},
		{"not met", rates("w", peer, all, 3999, 4, true), "w|peer|1,000/s|3,999/s|4.00|≥ 4 ×|no"},
		{"no target", rates("w", peer, all, 500, 0, true), "w|peer|1,000/s|500/s|0.50|for comparison|"},
		{"not installed", rates("w", server{name: "peer", lacks: "apt-get"}, nil, 500, 1, true), "w|peer|not installed|500/s||≥ 1 ×|"},
		{"gate not measured", rates("w", peer, all, 0, 1, true), "w|peer||not measured||≥ 1 ×|"},
	} {
		if got := strings.Join(tc.row.cells(), "|"); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestBenchmarkValues(t *testing.T) {
	text := "goos: linux\nBenchmarkStart-2   \t 3\t 2000000000 ns/op\t 204.5 resident-B/record\nPASS\n"
	v, err := benchmarkValues([]byte(text), "BenchmarkStart")
	if err != nil || v["ns/op"] != 2e9 || v["resident-B/record"] != 204.5 {
		t.Error(v, err)
	}
	if _, err := benchmarkValues([]byte("PASS\n"), "BenchmarkStart"); err == nil {
		t.Error("found what is not there")
	}
}

// TestReposOf: each build has three repositories, and no two builds have the same.
func TestReposOf(t *testing.T) {
	seen := map[string]bool{}
	for build := range sets {
		r := reposOf(build)
		if key := strings.Join(r, " "); len(r) != 3 || r[0] == r[1] || r[1] == r[2] || seen[key] {
			t.Fatalf("build %d: %s", build, key)
		} else {
			seen[key] = true
		}
	}
}

// TestProcessEnds: stop ends a process with its children, and waits for a process only as long as it lives.
func TestProcessEnds(t *testing.T) {
	p, err := startProcess(t.TempDir(), "sleeper", "/bin/sh", "-c", "sleep 60 & sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
	q, err := startProcess(t.TempDir(), "failure", "/bin/sh", "-c", "echo last words; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	defer q.stop()
	if err := q.await(context.Background(), func() bool { return false }); err == nil || !strings.Contains(err.Error(), "last words") {
		t.Error(err)
	}
}

// TestSameOPA: the peer is the OPA that the gate embeds.
func TestSameOPA(t *testing.T) {
	version := func(path string) string {
		for line := range strings.Lines(readText(path)) {
			if fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(fields) == 2 && fields[0] == "github.com/open-policy-agent/opa" {
				return fields[1]
			}
		}
		return ""
	}
	if ours, theirs := version("../../go.mod"), version("opaserver/go.mod"); ours == "" || ours != theirs {
		t.Errorf("the gate has OPA %q, opaserver has %q", ours, theirs)
	}
}

// TestPage: the page holds both tables and what was left out.
func TestPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	r := &report{
		options: options{rounds: 1, duration: time.Second}, missing: []string{"Caddy was left out"}, rows: []row{{work: "w", gate: "1/s"}},
		details: []detail{{name: "d"}},
	}
	if err := r.writePage(path); err != nil {
		t.Fatal(err)
	}
	text := readText(path)
	for _, want := range []string{"# How fast\n", "- Caddy was left out\n", "| w |  |  | 1/s |", "| d |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestEstablished: a connection counts at the address that it was made to, and while it stays.
func TestEstablished(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for want := range 3 {
		if n, err := established(ln.Addr().String()); err != nil || n != want {
			t.Errorf("%d connections, %v, want %d", n, err, want)
		}
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
}
