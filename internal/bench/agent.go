package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// The burst that a build begins with: it asks once for each object it may use, on as many connections as it has threads. Over https BitBake makes
// a connection for each question; over http it keeps them.
const (
	burstThreads  = 16
	burstTime     = 10 * time.Minute // at the most
	manyBuilders  = 8
	burstQuestion = objects / burstThreads // of each thread
)

// burst is what one came to.
type burst struct {
	took      time.Duration
	processor time.Duration // of the servers
	requests  int           // at the gate
	conns     int           // to the gate: made, or held where they stay
}

// quickBuilders is how many there are at the most when there is to be one short turn each: each question over https is a handshake.
const quickBuilders = 1

// measureAgent has builders ask for 20,000 objects at once: nginx without authorisation, the gate, and an agent on each builder.
func measureAgent(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	var rows []row
	for _, builders := range []int{1, manyBuilders} {
		if w.quick && builders > quickBuilders {
			break
		}
		nginx, err := w.httpsBurst(ctx, w.servers.nginx, builders)
		if err != nil {
			return nil, err
		}
		gate, err := w.httpsBurst(ctx, w.servers.gate, builders)
		if err != nil {
			return nil, err
		}
		plain, err := w.plainBurst(ctx, builders)
		if err != nil {
			return nil, err
		}
		cold, warm, err := w.agentBurst(ctx, builders)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("start-up burst of %s questions", thousands(objects))
		if builders > 1 {
			name += fmt.Sprintf(" by each of %d builders at once", builders)
		}
		rows = append(rows, burstRows(name, w.servers.nginx, nginx, plain, gate, cold, warm)...)
	}
	return rows, nil
}

// burstRows compares agents, and the gate without them, with nginx over https, and over http, which nobody should use.
func burstRows(name string, peer server, nginx, plain, gate, cold, warm burst) []row {
	against := func(scheme, what string, theirs, ours burst, target bool) row {
		r := row{work: name + ", " + what, peer: peer.name + ", " + scheme, figure: seconds(theirs.took.Seconds()), gate: seconds(ours.took.Seconds()), target: "for comparison"}
		if peer.lacks != "" {
			r.figure = "not installed"
			return r
		}
		if r.ratio = ratioOf(theirs.took, ours.took); target {
			r.target, r.met = "> 1 ×", verdict(r.ratio > 1)
		}
		return r
	}
	without := func(what, peer, theirs, ours string, ratio float64) row {
		return row{work: name + ": " + what, peer: peer, figure: theirs, gate: ours, ratio: ratio, target: "for comparison"}
	}
	const alone = "of the gate, without an agent"
	return []row{
		against("https", "through `lychgate agent`, cold", nginx, cold, true),
		against("https", "through `lychgate agent`, warm", nginx, warm, true),
		against("http, kept connections", "through `lychgate agent`, cold", plain, cold, false),
		against("http, kept connections", "through `lychgate agent`, warm", plain, warm, false),
		against("https", "at the gate without an agent", nginx, gate, false),
		without("requests at the gate, cold", alone, thousands(int64(gate.requests)), thousands(int64(cold.requests)), 0),
		without("requests at the gate, warm", alone, thousands(int64(gate.requests)), thousands(int64(warm.requests)), 0),
		without("connections to the gate", alone, thousands(int64(gate.conns)), thousands(int64(warm.conns)), 0),
		without("processor time of gate and agents, cold", alone, seconds(gate.processor.Seconds()), seconds(cold.processor.Seconds()), ratioOf(gate.processor, cold.processor)),
		without("processor time of gate and agents, warm", alone, seconds(gate.processor.Seconds()), seconds(warm.processor.Seconds()), ratioOf(gate.processor, warm.processor)),
		without("processor time of gate and agents, cold, beside nginx's", "of nginx, https", seconds(nginx.processor.Seconds()), seconds(cold.processor.Seconds()), ratioOf(nginx.processor, cold.processor)),
	}
}

func ratioOf(a, b time.Duration) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// httpsBurst has builders ask a server over https, each time on a new connection.
func (w *world) httpsBurst(ctx context.Context, s server, builders int) (burst, error) {
	o := w.order("HEAD", "small.names", s)
	o.Connect = true
	b, err := w.directBurst(ctx, s, o, builders)
	b.conns = builders * burstThreads * burstQuestion
	return b, err
}

// plainBurst has builders ask nginx over http, on connections that stay.
func (w *world) plainBurst(ctx context.Context, builders int) (burst, error) {
	o := w.order("HEAD", "small.names", w.servers.mirror)
	o.Cert = ""
	return w.directBurst(ctx, w.servers.mirror, o, builders)
}

// directBurst has builders follow an order, without an agent.
func (w *world) directBurst(ctx context.Context, s server, o load, builders int) (b burst, err error) {
	if s.lacks != "" {
		return b, nil
	}
	running, err := s.start(ctx)
	if err != nil {
		return b, err
	}
	defer stopAll(running)
	o.Length = smallBytes
	return w.burst(ctx, running, slices.Repeat([]load{o}, builders), s.name == w.servers.gate.name)
}

// agentBurst has each builder ask an agent of its own: right after the start, and again.
func (w *world) agentBurst(ctx context.Context, builders int) (cold, warm burst, err error) {
	running, err := w.servers.gate.start(ctx)
	if err != nil {
		return cold, warm, err
	}
	defer func() { stopAll(running) }()
	var orders []load
	for i := range builders {
		addr, err := loopback.Free()
		if err != nil {
			return cold, warm, err
		}
		agent, err := w.startAgent(ctx, fmt.Sprintf("agent%d", i), addr)
		if err != nil {
			return cold, warm, err
		}
		running = append(running, agent...)
		orders = append(orders, load{
			Addr: addr, Names: w.path("small.names"), Length: -1,
			Request: "HEAD /main/{NAME} HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: Keep-Alive\r\n\r\n",
		})
	}
	if cold, err = w.burst(ctx, running, orders, true); err != nil {
		return cold, warm, err
	}
	if warm, err = w.burst(ctx, running, orders, true); err != nil {
		return cold, warm, err
	}
	warm.conns, err = established(w.servers.gate.addr)
	return cold, warm, err
}

// established is how many connections an address of this machine has now.
func established(addr string) (n int, err error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	ip := at.Addr().As4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), at.Port()) // as the kernel prints it
	text, err := os.ReadFile("/proc/net/tcp")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == local && f[3] == tcpEstablished {
			n++
		}
	}
	return n, err
}

// tcpEstablished is the state of a connection in /proc/net/tcp.
const tcpEstablished = "01"

// startAgent starts an agent as alice.
func (w *world) startAgent(ctx context.Context, name, addr string) ([]*process, error) {
	token := w.path("alice.token")
	if err := errors.Join(os.WriteFile(token, []byte(w.token), 0o600), os.MkdirAll(w.path(name), 0o700)); err != nil {
		return nil, err
	}
	return w.startOne(ctx, name, func() bool { return accepts(addr) }, w.gate, "agent", "--gate", "https://"+w.servers.gate.addr, "--ca", w.path("ca.pem"),
		"--token-file", token, "--listen", addr, "--hash", "none", "--spool", w.path(name), "--control", w.path(name+"/control.sock"))
}

// burst runs the orders side by side.
func (w *world) burst(ctx context.Context, running []*process, orders []load, counted bool) (b burst, err error) {
	before := 0
	if counted {
		if before, err = w.gateRequests(ctx); err != nil {
			return b, err
		}
	}
	spent := processorOf(running)
	if b.took, err = together(ctx, orders); err != nil {
		return b, err
	}
	b.processor = processorOf(running) - spent
	if counted {
		b.requests, err = w.gateRequests(ctx)
		b.requests -= before
	}
	return b, err
}

// together runs orders side by side, each asking once for every object, and returns when the last is done.
func together(ctx context.Context, orders []load) (time.Duration, error) {
	outcomes, faults := make([]outcome, len(orders)), make([]error, len(orders))
	var all sync.WaitGroup
	for i, o := range orders {
		o.Conns, o.Count, o.Duration = burstThreads, burstQuestion, burstTime
		all.Go(func() { outcomes[i], faults[i] = runLoad(ctx, o) })
	}
	all.Wait()
	var took time.Duration
	for i, o := range outcomes {
		if o.Requests != burstThreads*burstQuestion && faults[i] == nil {
			faults[i] = fmt.Errorf("%d questions were answered", o.Requests)
		}
		took = max(took, o.Elapsed)
	}
	return took, errors.Join(faults...)
}

// gateRequests is how many requests the gate has answered.
func (w *world) gateRequests(ctx context.Context) (n int, err error) {
	err = w.eachSample(ctx, func(series string, value float64) {
		if strings.HasPrefix(series, "lychgate_requests_total{") {
			n += int(value)
		}
	})
	return n, err
}
