package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/hashref"
)

// hashServers are BitBake's own server and the gate, by transport. BitBake's lets anybody read and report, as it does unless told otherwise;
// at the gate everybody signs in, and is told only of what may be read.
type hashServers struct {
	reference, referenceWeb server
	gate, gateWeb, gateTLS  server
	bare                    server // answers without looking
}

// newHashServers gives each an address; the last of the gate's is that of its https door.
func newHashServers(w *world, https string, addrs []string) hashServers {
	h := hashServers{
		reference: server{name: "BitBake's server, TCP", addr: addrs[0]}, referenceWeb: server{name: "BitBake's server, websocket", addr: addrs[1]},
		gate: server{name: "the gate, TCP", addr: addrs[2]}, gateWeb: server{name: "the gate, websocket", addr: addrs[3]},
		gateTLS: server{name: "the gate, websocket over TLS", addr: https},
		bare:    server{name: "a bare Go server, TCP", addr: addrs[4]},
	}
	ref, err := hashref.Find(context.Background(), w.bitbake)
	if err != nil {
		h.reference.lacks, h.referenceWeb.lacks = err.Error(), err.Error()
	}
	h.reference.start = func(ctx context.Context) ([]*process, error) {
		return w.startReference(ctx, ref, "hashserv", h.reference.addr)
	}
	h.referenceWeb.start = func(ctx context.Context) ([]*process, error) {
		return w.startReference(ctx, ref, "hashserv", "ws://"+h.referenceWeb.addr)
	}
	h.bare.start = func(ctx context.Context) ([]*process, error) {
		cmd, err := ourselves(ctx, "hashhandler", "-addr", h.bare.addr)
		if err != nil {
			return nil, err
		}
		return w.startOne(ctx, "hashhandler", func() bool { return accepts(h.bare.addr) }, cmd.Args...)
	}
	start := func(ctx context.Context) ([]*process, error) { return startGate(ctx, w, https) }
	h.gate.start, h.gateWeb.start, h.gateTLS.start = start, start, start
	return h
}

// startReference starts BitBake's server on a database of that name, which both transports share in turn.
func (w *world) startReference(ctx context.Context, ref hashref.Reference, database, bind string) ([]*process, error) {
	argv := append([]string{"env"}, ref.Env()...)
	argv = append(argv, ref.Server(bind, w.path(database+".sqlite"))...)
	return w.startOne(ctx, "hashserv", func() bool { return hashref.Listens(bind) }, argv...)
}

// hashMethod is what BitBake calls how an output is hashed.
const hashMethod = "oe.sstatesig.OEOuthashBasic"

// hashClients is how many connections there are: one for a builder.
const hashClients = 40

// hashOrder is an order for a server. request is one of [hashOrder].
func (w *world) hashOrder(s server, request string, change func(*load)) contender {
	h := &hashOrder{Flight: 1}
	switch s.name {
	case w.servers.hash.referenceWeb.name:
		h.Path = "/"
	case w.servers.hash.gateWeb.name, w.servers.hash.gateTLS.name:
		h.Path = "/hash/main"
	}
	if s.lacks == "" && strings.HasPrefix(s.name, "the gate") {
		h.Token = w.token
		if strings.HasPrefix(request, "report") {
			h.Token = w.writer
		}
	}
	l := load{Addr: s.addr, Request: request, Names: w.path("hash.names"), Conns: hashClients, Duration: w.duration, Hash: h}
	if s.name == w.servers.hash.gateTLS.name {
		l.Cert = w.cert
	}
	change(&l)
	return contender{server: s, order: l}
}

// prepareHash maps the hash of every small object to itself, at each server, by reports. What the gate is asked for is then something
// that it must decide about: an artifact with that hash is published, and has sources.
func (w *world) prepareHash(ctx context.Context) error {
	if err := w.prepare(ctx); err != nil || w.hashPrepared {
		return err
	}
	w.hashPrepared = true
	var names strings.Builder
	for n := range objects {
		names.WriteString(objectHash("small", n) + "\n")
	}
	if err := os.WriteFile(w.path("hash.names"), []byte(names.String()), 0o600); err != nil {
		return err
	}
	for _, s := range []server{w.servers.hash.reference, w.servers.hash.gate} {
		if s.lacks != "" {
			continue
		}
		c := w.hashOrder(s, "report "+hashMethod+" {NAME}", func(l *load) { l.Hash.Count, l.Duration = objects/hashClients, 5*time.Minute })
		if err := w.reportAll(ctx, c); err != nil {
			return fmt.Errorf("report to %s: %w", s.name, err)
		}
	}
	return nil
}

func (w *world) reportAll(ctx context.Context, c contender) error {
	running, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer stopAll(running)
	o, err := runLoad(ctx, c.order)
	if err == nil && o.Requests < objects {
		err = fmt.Errorf("%d reports of %d in %v", o.Requests, objects, o.Elapsed)
	}
	return err
}

// hashWork is something that is asked of all servers.
type hashWork struct {
	name, request string
	least         float64 // the ratio that is aimed at over TCP, 0 for none
	change        func(*load)
}

func hashWorks() []hashWork {
	const stream = "get-stream " + hashMethod + " {NAME}"
	return []hashWork{
		{"hash `get-stream`, 64 in flight", stream, 20, func(l *load) { l.Hash.Flight = 64 }},
		{"hash `get-stream`, 1 in flight", stream, 8, func(*load) {}},
		{"hash connect + one lookup", stream, 10, func(l *load) { l.Connect = true }},
		{"hash `exists-stream`, 1 in flight", "exists-stream {NAME}", 0, func(*load) {}},
		{"hash `report`, each new", "report " + hashMethod, 0, func(*load) {}},
	}
}

func measureHash(ctx context.Context, w *world) (rows []row, err error) {
	if err := w.prepareHash(ctx); err != nil {
		return nil, err
	}
	h := w.servers.hash
	for _, k := range hashWorks() {
		var contenders []contender
		for _, s := range []server{h.reference, h.gate, h.referenceWeb, h.gateWeb, h.gateTLS} {
			contenders = append(contenders, w.hashOrder(s, k.request, k.change))
		}
		if k.least > 0 {
			contenders = append(contenders, w.hashOrder(h.bare, k.request, k.change))
		}
		all, err := w.compare(ctx, contenders...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		rate := func(s server) float64 { return all[s.name].median(turn.rate) }
		if k.least > 0 {
			rows = append(rows, rates(k.name+", TCP", h.bare, all, rate(h.gate), 0, true))
		}
		rows = append(
			rows,
			rates(k.name+", TCP", h.reference, all, rate(h.gate), k.least, true),
			rates(k.name+", websocket", h.referenceWeb, all, rate(h.gateWeb), k.least, true),
			rates(k.name+", websocket, the gate's over TLS", h.referenceWeb, all, rate(h.gateTLS), 0, true),
		)
	}
	return rows, nil
}

// The lookups of builders that all start at once: each has parsed as many tasks.
const (
	burstEach   = 9_000
	burstFlight = 512
	burstRounds = 2 // BitBake's server takes long
)

func measureHashBurst(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepareHash(ctx); err != nil {
		return nil, err
	}
	h := w.servers.hash
	var contenders []contender
	for _, s := range []server{h.reference, h.gate, h.referenceWeb, h.gateTLS} {
		contenders = append(contenders, w.hashOrder(s, "get-stream "+hashMethod+" {NAME}", func(l *load) {
			l.Hash.Count, l.Hash.Flight, l.Duration = burstEach, burstFlight, 10*time.Minute
		}))
	}
	all, err := w.compareIn(ctx, min(w.rounds, burstRounds), contenders...)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("hash start-up burst, %d builders, %s lookups", hashClients, thousands(hashClients*burstEach))
	return []row{
		took(name+", TCP", h.reference, all, h.gate),
		took(name+", websocket, the gate's over TLS", h.referenceWeb, all, h.gateTLS),
	}, nil
}

// took is a row of two times, of which the shorter is the better.
func took(name string, peer server, all map[string]turns, gate server) row {
	elapsed := func(t turn) float64 { return t.Elapsed.Seconds() }
	r := row{work: name, peer: peer.name, gate: seconds(all[gate.name].median(elapsed)), target: "for comparison"}
	if peer.lacks != "" {
		r.figure = "not installed"
		return r
	}
	theirs := all[peer.name].median(elapsed)
	r.figure, r.ratio = seconds(theirs), theirs/all[gate.name].median(elapsed)
	return r
}

func seconds(v float64) string { return fmt.Sprintf("%.2f s", v) }
