package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const (
	publicSource  = "git://git.example.com/public/hello.git;protocol=https"
	privateSource = "git://git.example.com/secret/tool.git;protocol=https"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// tokens is Credentials that a test changes.
type tokens struct {
	mu      sync.Mutex
	token   authn.Secret
	next    authn.Secret // after a refusal
	err     error
	refused int
}

func (c *tokens) Token(context.Context) (authn.Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token, c.err
}

func (c *tokens) Refused(token authn.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused++
	if token.Reveal() == c.token.Reveal() && !c.next.IsZero() {
		c.token, c.next = c.next, authn.Secret{}
	}
}

func (c *tokens) set(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = authn.NewSecret(token)
}

// spy counts what reaches the gate, and can break it.
type spy struct {
	http.RoundTripper
	mu    sync.Mutex
	seen  map[string]int // "POST /v1/presence"
	fault func(*http.Request) (*http.Response, error)
}

func (s *spy) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	path := r.URL.Path
	if strings.HasPrefix(path, "/sstate/") {
		path = "object"
	}
	s.seen[r.Method+" "+path]++
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		if res, err := fault(r); res != nil || err != nil {
			return res, err
		}
	}
	return s.RoundTripper.RoundTrip(r)
}

func (s *spy) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[what]
}

func (s *spy) breaks(fault func(*http.Request) (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

var errCable = errors.New("the cable was pulled")

func pulled(*http.Request) (*http.Response, error) { return nil, errCable }

// host is an agent that serves, and BitBake beside it.
type host struct {
	*testing.T
	agent *Agent
	url   string
	spy   *spy
	creds *tokens
	clock *clock
	log   *logText
	http  *http.Client
	stop  func()
}

// logText is a log that a test reads.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logText) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// start runs an agent of a user of the gate.
func start(t *testing.T, g *gwtest.Gate, user string, change func(*Config)) *host {
	t.Helper()
	h := &host{T: t, clock: newClock(), log: &logText{}, creds: &tokens{}}
	h.creds.set(g.As(user).Token)
	h.spy = &spy{RoundTripper: g.As(user).Transport(), seen: map[string]int{}}
	gate, err := client.New(client.Config{Gate: g.URL, Transport: h.spy, Wait: func(context.Context, time.Duration) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	conf := Config{Client: gate, Gate: g.URL, Credentials: h.creds, Spool: t.TempDir(), Now: h.clock.Now, Log: slog.New(slog.NewTextHandler(h.log, nil))}
	if change != nil {
		change(&conf)
	}
	if h.agent, err = New(conf); err != nil {
		t.Fatal(err)
	}
	h.serve()
	return h
}

func (h *host) serve() {
	h.Helper()
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		h.Fatal(err)
	}
	h.url = "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.agent.Serve(ctx, ln) }()
	h.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	h.stop = sync.OnceFunc(func() {
		h.http.CloseIdleConnections()
		h.clock.pass(time.Hour) // no promise holds up the end
		cancel()
		if err := <-ended; err != nil {
			h.Errorf("the agent ended: %v", err)
		}
	})
	h.Cleanup(h.stop)
}

// ask sends a request as BitBake does. once is with a connection of its own, as before a download.
func (h *host) ask(method, path string, once bool, header ...string) (*http.Response, []byte) {
	h.Helper()
	req, err := http.NewRequest(method, h.url+path, nil)
	if err != nil {
		h.Fatal(err)
	}
	req.Close = once
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.http.Do(req)
	if err != nil {
		h.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		h.Fatalf("%s %s: %v", method, path, err)
	}
	return res, body
}

// status returns the status of an answer.
func (h *host) status(method, path string, once bool) int {
	h.Helper()
	res, _ := h.ask(method, path, once)
	return res.StatusCode
}

func (h *host) want(what string, got, want int) {
	h.Helper()
	if got != want {
		h.Errorf("%s: %d, want %d", what, got, want)
	}
}

// mustListen returns a listener on loopback.
func mustListen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func mustAddr(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func gwtestToken(g *gwtest.Gate, user string) authn.Secret { return authn.NewSecret(g.As(user).Token) }
