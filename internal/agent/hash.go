package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/client"
)

// Hash is hash equivalence of one zone, as plain lines on a listener of its own.
type Hash struct {
	Zone     string
	Listener net.Listener
	// Address is where the gate answers: wss://HOST/hash/ZONE.
	Address string
	// Dialer is how it is reached; the token is added.
	Dialer hashserv.Dialer
}

const (
	// hashTime is how long BitBake waits for an answer of the gate; it would wait for 30 s.
	hashTime = 10 * time.Second
	// hashConnections is how many connections of BitBake there may be: one for each task that runs.
	hashConnections = 2000
)

// hashZone answers for one zone. Connections of BitBake share few to the gate. When the gate does not answer, or refuses, BitBake is told what it
// would be told by an empty server: it dies of an error.
type hashZone struct {
	agent    *Agent
	name     string
	listener net.Listener
	address  string
	dialer   hashserv.Dialer
	server   *hashserv.Server
	checking atomic.Bool

	mu    sync.Mutex // guards what follows
	token authn.Secret
	conn  *hashserv.Client
}

func newHashZone(a *Agent, h Hash) (*hashZone, error) {
	if !artifact.ValidZoneName(h.Zone) || h.Listener == nil || h.Address == "" {
		return nil, errors.New("hash equivalence needs a zone, a listener and an address")
	}
	if err := a.checkListener(h.Listener); err != nil {
		return nil, err
	}
	return &hashZone{agent: a, name: h.Zone, listener: h.Listener, address: h.Address, dialer: h.Dialer, server: hashserv.NewServer(hashserv.ServerConfig{})}, nil
}

// serve answers connections until ctx is done.
func (z *hashZone) serve(ctx context.Context, failed chan<- error) {
	ln := z.agent.guard(z.listener)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer z.end()
	room := make(chan struct{}, hashConnections)
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() == nil {
				failed <- fmt.Errorf("hash equivalence of zone %s: %w", z.name, err)
			}
			return
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		open.Go(func() {
			defer func() { <-room }()
			z.answer(ctx, conn)
		})
	}
}

func (z *hashZone) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if err := z.server.Serve(ctx, hashserv.NewLineConn(conn, hashserv.MaxLine), hashPeer{z}); err != nil && ctx.Err() == nil {
		z.agent.log.Debug("a connection of hash equivalence ended", "zone", z.name, "error", err)
	}
}

// end closes what is open to the gate.
func (z *hashZone) end() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.conn != nil {
		_ = z.conn.Close() // never fails
	}
}

// upstream returns a client with the token of now.
func (z *hashZone) upstream(ctx context.Context) (*hashserv.Client, error) {
	token, err := z.agent.conf.Credentials.Token(ctx)
	if err != nil {
		return nil, err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.conn != nil && token.Reveal() == z.token.Reveal() {
		return z.conn, nil
	}
	d := z.dialer
	if !token.IsZero() {
		d.Username, d.Password = "token", token.Reveal()
	}
	conn, err := hashserv.NewClient(hashserv.ClientConfig{Address: z.address, Dialer: &d, Timeout: hashTime})
	if err != nil {
		return nil, err
	}
	if z.conn != nil {
		go z.conn.Close()
	}
	z.conn, z.token = conn, token
	return conn, nil
}

// ask has do ask the gate. It reports false when there is no answer, which is then a neutral one.
func (z *hashZone) ask(ctx context.Context, do func(context.Context, *hashserv.Client) error) bool {
	z.agent.count.hashAsked.Add(1)
	z.agent.count.touch(z.agent.conf.Now())
	hasty, cancel := context.WithTimeout(ctx, hashTime)
	defer cancel()
	conn, err := z.upstream(hasty)
	if err == nil {
		err = do(hasty, conn)
	}
	if err == nil {
		z.agent.warn.over(causeHash)
		return true
	}
	if ctx.Err() == nil {
		z.agent.count.hashNeutral.Add(1)
		z.agent.warn.add(causeHash, fmt.Sprintf("hash equivalence of zone %s does not answer; builds go on without it: %v", z.name, err))
		z.check()
	}
	return false
}

// check finds out, once at a time, whether it is the token that the gate does not take: another one is used then.
func (z *hashZone) check() {
	if !z.checking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer z.checking.Store(false)
		ctx, cancel := context.WithTimeoutCause(context.Background(), presenceTime, errSlow)
		defer cancel()
		_, err := z.agent.link.do(ctx, 1, func(c *client.Client) error {
			_, err := c.Whoami(ctx)
			return err
		})
		if err != nil {
			z.agent.complain(ctx, err)
		}
	}()
}

// hashPeer is whom a connection of BitBake talks to. Its answers are the gate's, or neutral ones.
type hashPeer struct{ zone *hashZone }

var (
	_ hashserv.Peer        = hashPeer{}
	_ hashserv.Equivalents = hashPeer{}
)

var errNoAdministration = errors.New("the agent maintains nothing: ask the gate itself")

// May implements [hashserv.Peer].
func (p hashPeer) May(_ context.Context, need hashserv.Permission) error {
	if need == hashserv.Read {
		return nil
	}
	return errNoAdministration
}

// Whole implements [hashserv.Peer].
func (p hashPeer) Whole(context.Context) bool { return false }

// Unihash implements [hashserv.Store]. Neutral: mapped to nothing.
func (p hashPeer) Unihash(ctx context.Context, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	if !p.zone.ask(ctx, func(ctx context.Context, c *hashserv.Client) error { return c.Unihash(ctx, tasks, answers) }) {
		clear(answers)
	}
	return ctx.Err()
}

// Exists implements [hashserv.Store]. Neutral: no.
func (p hashPeer) Exists(ctx context.Context, unihashes []hashserv.Unihash, answers []bool) error {
	if !p.zone.ask(ctx, func(ctx context.Context, c *hashserv.Client) error { return c.Exists(ctx, unihashes, answers) }) {
		clear(answers)
	}
	return ctx.Err()
}

// Outhash implements [hashserv.Store]. Neutral: none.
func (p hashPeer) Outhash(ctx context.Context, q hashserv.Query) (row *hashserv.Row, err error) {
	if !p.zone.ask(ctx, func(ctx context.Context, c *hashserv.Client) error { row, err = c.Outhash(ctx, q); return err }) {
		row = nil
	}
	return row, ctx.Err()
}

// Report implements [hashserv.Store]. Neutral: the task is mapped to what was reported.
func (p hashPeer) Report(ctx context.Context, r hashserv.Report) (m hashserv.Mapping, err error) {
	return p.mapped(ctx, r.Unihash, func(ctx context.Context, c *hashserv.Client) error { m, err = c.Report(ctx, r); return err }, &m)
}

// Equivalent implements [hashserv.Equivalents]. Neutral: the task is mapped to what was reported.
func (p hashPeer) Equivalent(ctx context.Context, t hashserv.Task, of hashserv.Mapping) (m hashserv.Mapping, err error) {
	return p.mapped(ctx, of.Unihash, func(ctx context.Context, c *hashserv.Client) error { m, err = c.Equivalent(ctx, t, of); return err }, &m)
}

func (p hashPeer) mapped(ctx context.Context, own hashserv.Unihash, do func(context.Context, *hashserv.Client) error, m *hashserv.Mapping) (hashserv.Mapping, error) {
	if own == (hashserv.Unihash{}) {
		return hashserv.Mapping{}, hashserv.ErrInvalidUnihash
	}
	if !p.zone.ask(ctx, do) {
		return hashserv.Mapping{Unihash: own}, ctx.Err()
	}
	return *m, ctx.Err()
}
