package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// work is something that is measured.
type work struct {
	name    string
	measure func(ctx context.Context, w *world) ([]row, error)
}

// works are all, in the order of the design's section on speed.
func works() []work {
	return []work{
		{"head", measureHead},
		{"connect", measureConnect},
		{"get", measureGet},
		{"presence", measurePresence},
		{"agent", measureAgent},
		{"decision", measureDecision},
		{"journal", measureJournal},
		{"sftp-connect", measureSFTPConnect},
		{"sftp-stat", measureSFTPStat},
		{"sftp-get", measureSFTPGet},
		{"ssh-held", measureHeld},
		{"hash", measureHash},
		{"hash-burst", measureHashBurst},
		{"hash-gc", measureHashGC},
		{"start", measureStart},
	}
}

func workNames() string {
	var names []string
	for _, k := range works() {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// contender is a server with what it is asked.
type contender struct {
	server
	beside []server // must run too
	order  load
}

// turn is one contender's outcome in one round.
type turn struct {
	outcome
	processor time.Duration // of the server
}

func (t turn) rate() float64     { return float64(t.Requests) / t.Elapsed.Seconds() }
func (t turn) byteRate() float64 { return float64(t.Bytes) / t.Elapsed.Seconds() }

// turns are those of one contender.
type turns []turn

// median returns the middle of what of says of each turn, 0 without turns.
func (t turns) median(of func(turn) float64) float64 {
	if len(t) == 0 {
		return 0
	}
	values := make([]float64, len(t))
	for i := range t {
		values[i] = of(t[i])
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// warmUp is how long a server that was just started is driven before it is measured.
const warmUp = 500 * time.Millisecond

// compare gives each contender its turns, one after the other in each round, so that what else happens on the machine
// happens to all. Contenders that are not installed have none.
func (w *world) compare(ctx context.Context, contenders ...contender) (map[string]turns, error) {
	return w.compareIn(ctx, w.rounds, contenders...)
}

func (w *world) compareIn(ctx context.Context, rounds int, contenders ...contender) (map[string]turns, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	all := map[string]turns{}
	for range rounds {
		for _, c := range contenders {
			if c.lacks != "" {
				continue
			}
			t, err := w.turn(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[c.name] = append(all[c.name], t)
		}
	}
	for _, c := range contenders {
		if t := all[c.name]; len(t) > 0 {
			w.details = append(w.details, newDetail(c, t))
		}
	}
	return all, nil
}

// turn starts a server, warms it up, measures it and stops it.
func (w *world) turn(ctx context.Context, c contender) (t turn, err error) {
	var running []*process
	defer func() { stopAll(running) }()
	for _, s := range append(slices.Clone(c.beside), c.server) {
		more, err := s.start(ctx)
		if err != nil {
			return t, err
		}
		running = append(running, more...)
	}
	warm := c.order
	warm.Duration = warmUp
	if _, err := runLoad(ctx, warm); err != nil {
		return t, err
	}
	before := processorOf(running)
	t.outcome, err = runLoad(ctx, c.order)
	t.processor = processorOf(running) - before
	return t, err
}

func processorOf(all []*process) (sum time.Duration) {
	for _, p := range all {
		sum += p.processor()
	}
	return sum
}

// order is what all contenders have in common.
func (w *world) order(method, names string, s server) load {
	basic := base64.StdEncoding.EncodeToString([]byte("alice:" + w.token))
	return load{
		Addr: s.addr, Cert: w.cert, Names: w.path(names), Duration: w.duration,
		Request: method + " /sstate/main/{NAME} HTTP/1.1\r\nHost: " + s.addr + "\r\nUser-Agent: bench\r\nAccept: */*\r\nAuthorization: Basic " + basic + "\r\n\r\n",
	}
}

// heads are contenders that answer HEADs for the small objects.
func (w *world) heads(conns int, connect bool, all ...server) (list []contender) {
	for _, s := range all {
		o := w.order("HEAD", "small.names", s)
		o.Conns, o.Connect, o.Length = conns, connect, smallBytes
		list = append(list, contender{server: s, order: o})
	}
	return list
}

// HEADs on connections that stay: 40 of them. HEADs on connections that do not: as many at once as BitBake has threads on a large
// machine.
const (
	keptConns = 40
	freshJobs = 16
)

func measureHead(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	s := w.servers
	all, err := w.compare(ctx, w.heads(keptConns, false, s.gate, s.guarded, s.caddy, s.nginx, s.handler)...)
	if err != nil {
		return nil, err
	}
	const name = "`HEAD`, keep-alive, 40 connections"
	gate := all[s.gate.name].median(turn.rate)
	return []row{
		rates(name, s.guarded, all, gate, 4, true),
		rates(name, s.caddy, all, gate, 1.5, true),
		rates(name, s.nginx, all, gate, 1, true).reach(),
		rates(name, s.handler, all, gate, 0, true),
	}, nil
}

func measureConnect(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	s := w.servers
	all, err := w.compare(ctx, w.heads(freshJobs, true, s.gate, s.nginx, s.caddy, s.handler)...)
	if err != nil {
		return nil, err
	}
	const name = "`HEAD`, a new TLS connection each"
	gate := all[s.gate.name].median(turn.rate)
	return []row{
		rates(name, s.nginx, all, gate, 1, true),
		rates(name, s.caddy, all, gate, 0, true),
		rates(name, s.handler, all, gate, 0, true),
	}, nil
}

func measureGet(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	s := w.servers
	stream := func(s server, name, names string) contender {
		o := w.order("GET", names, s)
		o.Conns, o.Length = 2, largeBytes
		s.name = name
		return contender{server: s, order: o}
	}
	own := stream(s.gate, "the gate, own directory", "blob.names")
	remote := stream(s.gate, "the gate, verified from a mirror", "mirrored.names")
	remote.beside, remote.lacks = []server{s.mirror}, s.mirror.lacks
	all, err := w.compare(ctx, own, remote, stream(s.caddy, s.caddy.name, "blob.names"), stream(s.nginx, s.nginx.name, "blob.names"))
	if err != nil {
		return nil, err
	}
	ownRate, remoteRate := all[own.name].median(turn.byteRate), all[remote.name].median(turn.byteRate)
	const a, b = "`GET` 64 MiB, two streams, from the gate's own directory", "`GET` 64 MiB, two streams, every byte verified from a remote mirror"
	return []row{
		rates(a, s.caddy, all, ownRate, 1, false), rates(a, s.nginx, all, ownRate, 0, false),
		rates(b, s.caddy, all, remoteRate, 0.6, false), rates(b, s.nginx, all, remoteRate, 0, false),
	}, nil
}

// rates is a row of two rates. least is the ratio that is aimed at, 0 for none.
func rates(name string, peer server, all map[string]turns, gate, least float64, requests bool) row {
	of, show := turn.rate, perSecond
	if !requests {
		of, show = turn.byteRate, megabytes
	}
	r := row{work: name, peer: peer.name, gate: show(gate), target: "for comparison"}
	if least > 0 {
		r.target = fmt.Sprintf("≥ %g ×", least)
	}
	theirs := all[peer.name].median(of)
	switch {
	case peer.lacks != "":
		r.figure = "not installed"
	case gate == 0:
		r.gate = "not measured"
	case theirs > 0:
		r.figure, r.ratio = show(theirs), gate/theirs
		if least > 0 {
			r.met = verdict(r.ratio >= least)
		}
	}
	return r
}

// freshRate is how many HEADs nginx answers in a second on new connections, measured if it was not.
func (w *world) freshRate(ctx context.Context) (float64, error) {
	nginx := w.servers.nginx
	for _, d := range w.details {
		if d.connect && d.name == nginx.name {
			return d.rate, nil
		}
	}
	all, err := w.compare(ctx, w.heads(freshJobs, true, nginx)...)
	return all[nginx.name].median(turn.rate), err
}

// headCost is the processor time that the gate spends on a HEAD, on a connection of its own or on a kept one, measured if it
// was not.
func (w *world) headCost(ctx context.Context, connect bool) (time.Duration, error) {
	if err := w.prepare(ctx); err != nil {
		return 0, err
	}
	gate, conns := w.servers.gate, keptConns
	if connect {
		conns = freshJobs
	}
	find := func() time.Duration {
		for _, d := range w.details {
			if d.connect == connect && d.name == gate.name {
				return d.processor
			}
		}
		return 0
	}
	if cost := find(); cost > 0 {
		return cost, nil
	}
	if _, err := w.compare(ctx, w.heads(conns, connect, gate)...); err != nil {
		return 0, err
	}
	if cost := find(); cost > 0 {
		return cost, nil
	}
	return 0, errors.New("the gate's processor time could not be read")
}
