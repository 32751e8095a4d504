package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// cable is the network to the gate, which can be pulled.
type cable struct {
	mu     sync.Mutex
	pulled bool
	conns  []net.Conn
	dialed int
}

func (c *cable) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pulled {
		return nil, errCable
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		c.conns = append(c.conns, conn)
		c.dialed++
	}
	return conn, err
}

func (c *cable) set(pulled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = pulled
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// hashHost is an agent with hash equivalence of main.
type hashHost struct {
	*host
	cable *cable
	at    string
}

func startHash(t *testing.T, g *gwtest.Gate, user string) *hashHost {
	t.Helper()
	ln, wire := mustListen(t), &cable{}
	h := start(t, g, user, func(c *Config) {
		d := hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool()}, DialContext: wire.dial}
		c.Hash = []Hash{{Zone: "main", Listener: ln, Address: c.Client.HashURL("main"), Dialer: d}}
	})
	return &hashHost{h, wire, ln.Addr().String()}
}

// bitbake connects as BitBake does: lines without credentials.
func (h *hashHost) bitbake() *hashserv.Client {
	h.Helper()
	c, err := hashserv.NewClient(hashserv.ClientConfig{Address: h.at, Connections: 1})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Close() })
	return c
}

func hashTask(name string) hashserv.Task {
	return hashserv.Task{Method: "oe.sstatesig.OEOuthashBasic", Taskhash: fmt.Sprintf("%x", sha256.Sum256([]byte("task "+name)))}
}

func unihash(name string) hashserv.Unihash { return sha256.Sum256([]byte(name)) }

func (h *hashHost) report(c *hashserv.Client, name string) hashserv.Unihash {
	h.Helper()
	m, err := c.Report(h.Context(), hashserv.Report{
		Task: hashTask(name), Outhash: fmt.Sprintf("%x", sha256.Sum256([]byte("out "+name))), Unihash: unihash(name),
		Details: hashserv.Details{PN: "hello", Task: "do_package"},
	})
	if err != nil {
		h.Fatal(err)
	}
	return m.Unihash
}

func (h *hashHost) mapped(c *hashserv.Client, name string) hashserv.Unihash {
	h.Helper()
	answers := make([]hashserv.Mapping, 1)
	if err := c.Unihash(h.Context(), []hashserv.Task{hashTask(name)}, answers); err != nil {
		h.Fatal(err)
	}
	return answers[0].Unihash
}

func TestHash(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := startHash(t, g, "ci")
	c := ci.bitbake()
	if got := ci.report(c, "hello"); got != unihash("hello") {
		t.Errorf("report: %v", got)
	}
	if got := ci.mapped(c, "hello"); got != unihash("hello") {
		t.Errorf("mapped to %v", got)
	}
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if got := ci.mapped(ci.bitbake(), "hello"); got != unihash("hello") {
				t.Errorf("build %d: mapped to %v", i, got)
			}
		})
	}
	all.Wait()
	if ci.cable.dialed > 5 {
		t.Errorf("%d connections to the gate", ci.cable.dialed)
	}
	bob := startHash(t, g, "bob") // no writer, and there is no artifact for him
	c = bob.bitbake()
	if got := bob.mapped(c, "hello"); got != (hashserv.Unihash{}) {
		t.Errorf("for bob mapped to %v", got)
	}
	if got := bob.report(c, "mine"); got != unihash("mine") {
		t.Errorf("bob's report: %v", got)
	}
	if s := ci.agent.Status(); s.HashAsked < 42 || s.HashNeutral != 0 || s.Hash["main"] != ci.at {
		t.Errorf("%+v", s)
	}
}

// TestHashWithoutGate: BitBake is never told an error, and the gate is found again.
func TestHashWithoutGate(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := startHash(t, g, "ci")
	c := h.bitbake()
	h.report(c, "hello")
	h.cable.set(true)
	if got := h.mapped(c, "hello"); got != (hashserv.Unihash{}) {
		t.Errorf("mapped to %v without the gate", got)
	}
	if got := h.report(c, "other"); got != unihash("other") {
		t.Errorf("report without the gate: %v", got)
	}
	exist := []bool{true}
	if err := c.Exists(t.Context(), []hashserv.Unihash{unihash("hello")}, exist); err != nil || exist[0] {
		t.Errorf("exists without the gate: %v, %v", exist, err)
	}
	row, err := c.Outhash(t.Context(), hashserv.Query{Method: hashTask("x").Method, Outhash: strings.Repeat("a", 64), Taskhash: hashTask("x").Taskhash})
	if err != nil || row != nil {
		t.Errorf("outhash without the gate: %v, %v", row, err)
	}
	if _, err := c.Equivalent(t.Context(), hashTask("equal"), hashserv.Mapping{Unihash: unihash("equal")}); err != nil {
		t.Errorf("equivalent without the gate: %v", err)
	}
	h.want("warnings", h.log.count("cause=hash"), 1)
	h.cable.set(false)
	for deadline := time.Now().Add(time.Minute); h.mapped(c, "hello") != unihash("hello"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the gate is not found again")
		}
	}
}

// TestHashToken: another token is shown when the gate takes the old one no more.
func TestHashToken(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := startHash(t, g, "ci")
	c := h.bitbake()
	h.report(c, "hello")
	g.Revoke("ci")
	h.cable.set(false)
	h.creds.mu.Lock()
	h.creds.next = gwtestToken(g, "ci")
	h.creds.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); h.mapped(c, "hello") != unihash("hello"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the next token is not shown")
		}
	}
	h.creds.mu.Lock()
	h.creds.err = errors.New("the key is gone")
	h.creds.mu.Unlock()
	if got := h.mapped(c, "hello"); got != (hashserv.Unihash{}) {
		t.Errorf("without a token mapped to %v", got)
	}
}
