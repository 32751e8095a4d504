// Package sshd is the ssh door: SFTP, the scp protocol's reading half, the tests that BitBake makes, and a few commands of the
// gate's own. There is no shell, terminal, agent or environment behind it, and of forwarding only that to the gate's own hash equivalence.
//
// It parses what clients send and prints answers. Who may do what is decided behind [gateway.Session], anew for every operation: a
// connection that stays open is worth no more than the key that it was opened with is worth now.
package sshd

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// doorName is how the gate and its audit trail know this door.
const doorName = "ssh"

// Config is what a Server is made of. Gateway and HostKeys are required.
type Config struct {
	Gateway  *gateway.Gateway
	HostKeys []gossh.Signer // LoadHostKeys makes them; at most one of each type
	Audience string         // the gate's own URL, whose host `token --netrc` names
	Hash     HashDoor       // answers channels to ZONE.hashserv; nil for a gate without hash equivalence
	HashZone string         // whom "hashserv" alone means; empty for none
	Limits   Limits
	Observe  func(Observation) // called once for each handshake and operation, after it; may be nil
	Log      *slog.Logger
}

// Limits bound what clients can make the door hold. Zero members get the defaults of DefaultLimits.
type Limits struct {
	Conns                int           // open connections, handshakes under way among them
	ConnsPerAddress      int           // of them, from one address
	ConnsPerPrincipal    int           // of them, of one principal
	Handshakes           int           // under way; one more ends the one that has kept the door waiting longest
	HandshakesPerAddress int           // of them, from one address
	HandshakeTimeout     time.Duration // for a whole handshake, and for a channel to say what it is for and to agree to its end
	Channels             int           // open on one connection
	ChannelsPerPrincipal int           // of all its connections
	OpenHandles          int           // files and directories that one SFTP channel has open
	IdleTimeout          time.Duration // for a connection without channels
	Recheck              time.Duration // between looks whether a connection's key is still somebody's
	KeepAlive            time.Duration // between signs of life that are asked for; after three without an answer a connection ends
	ProgressWindow       time.Duration // in each, a transfer must move by ProgressBytes
	ProgressBytes        int64
	CommandBytes         int           // of one exec request
	DrainTimeout         time.Duration // for operations under way when the server stops
}

// DefaultLimits returns the limits that the documentation promises.
func DefaultLimits() Limits {
	return Limits{
		Conns: 10000, ConnsPerAddress: 4096, ConnsPerPrincipal: 4096,
		Handshakes: 4096, HandshakesPerAddress: 2048, HandshakeTimeout: 10 * time.Second,
		Channels: 128, ChannelsPerPrincipal: 4096, OpenHandles: 64,
		IdleTimeout: 10 * time.Minute, KeepAlive: 30 * time.Second, Recheck: 2 * time.Second,
		ProgressWindow: 30 * time.Second, ProgressBytes: 30 << 10,
		CommandBytes: 8 << 10, DrainTimeout: 30 * time.Second,
	}
}

// withDefaults fills the members that are zero.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.Conns = cmp.Or(l.Conns, d.Conns)
	l.ConnsPerAddress = cmp.Or(l.ConnsPerAddress, d.ConnsPerAddress)
	l.ConnsPerPrincipal = cmp.Or(l.ConnsPerPrincipal, d.ConnsPerPrincipal)
	l.Handshakes = cmp.Or(l.Handshakes, d.Handshakes)
	l.HandshakesPerAddress = cmp.Or(l.HandshakesPerAddress, d.HandshakesPerAddress)
	l.Channels = cmp.Or(l.Channels, d.Channels)
	l.ChannelsPerPrincipal = cmp.Or(l.ChannelsPerPrincipal, d.ChannelsPerPrincipal)
	l.OpenHandles = cmp.Or(l.OpenHandles, d.OpenHandles)
	l.CommandBytes = cmp.Or(l.CommandBytes, d.CommandBytes)
	l.HandshakeTimeout = cmp.Or(l.HandshakeTimeout, d.HandshakeTimeout)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, d.IdleTimeout)
	l.KeepAlive = cmp.Or(l.KeepAlive, d.KeepAlive)
	l.Recheck = cmp.Or(l.Recheck, d.Recheck)
	l.ProgressWindow = cmp.Or(l.ProgressWindow, d.ProgressWindow)
	l.ProgressBytes = cmp.Or(l.ProgressBytes, d.ProgressBytes)
	l.DrainTimeout = cmp.Or(l.DrainTimeout, d.DrainTimeout)
	return l
}

// Observation is what metrics may know of a handshake or an operation. It does not tell denied from absent.
type Observation struct {
	// Route is "handshake", "sftp", "test", "scp", "hash", one of the gate's own commands, or "other".
	Route string
	// Outcome of a handshake is "accepted", "refused": no key of the client's was taken, "throttled": too many were refused before,
	// "unavailable": the gate could not tell, "dropped": it ended before a key was shown, or "full": the door holds all the
	// connections that it may. Of an operation it is
	// "ok", "failed": there is no such thing, or the asker's mistake, or "unavailable".
	Outcome string
	Took    time.Duration
}

// Server is the ssh door. Make it with New.
type Server struct {
	gate    *gateway.Gateway
	host    string // of the gate, for .netrc
	hash    HashDoor
	zone    string // that "hashserv" alone means
	limits  Limits
	observe func(Observation)
	log     *slog.Logger
	ssh     *ssh.Server

	open       *limit.Connections
	principals *limit.Counter // connections by principal
	channels   *limit.Counter // open channels by principal
	lobby      *lobby

	mu       sync.Mutex // guards what follows
	conns    map[*conn]struct{}
	draining bool           // nothing is added to work any more
	work     sync.WaitGroup // connections and channels
}

// New checks cfg and returns a server that Serve starts.
func New(cfg Config) (*Server, error) {
	if cfg.Gateway == nil || len(cfg.HostKeys) == 0 {
		return nil, errors.New("sshd: gateway and host keys are required")
	}
	s := &Server{
		gate: cfg.Gateway, hash: cfg.Hash, zone: cfg.HashZone,
		limits: cfg.Limits.withDefaults(), observe: cfg.Observe, log: cfg.Log, conns: map[*conn]struct{}{},
	}
	if u, err := url.Parse(cfg.Audience); err == nil {
		s.host = u.Hostname()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe == nil {
		s.observe = func(Observation) {}
	}
	s.open = limit.NewConnections(s.limits.Conns, s.limits.ConnsPerAddress)
	s.principals, s.channels = limit.NewCounter(s.limits.ConnsPerPrincipal), limit.NewCounter(s.limits.ChannelsPerPrincipal)
	s.lobby = newLobby(s.limits.Handshakes, s.limits.HandshakesPerAddress)
	s.ssh = &ssh.Server{
		HostSigners:          sshSigners(cfg.HostKeys),
		ConnCallback:         remember,
		ServerConfigCallback: s.handshakeConfig,
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session":      s.serveChannel,
			"direct-tcpip": s.serveForward,
			"default":      s.rejectChannel,
		},
		RequestHandlers:   map[string]ssh.RequestHandler{"default": s.globalRequest},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{},
	}
	return s, nil
}

func sshSigners(keys []gossh.Signer) []ssh.Signer {
	signers := make([]ssh.Signer, len(keys))
	for i, k := range keys {
		signers[i] = k
	}
	return signers
}

// Serve answers connections of ln until ctx ends, then lets the operations under way finish, for as long as
// Limits.DrainTimeout allows, and cuts the rest. When it returns, nothing is being answered. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	err := s.accept(ln)
	if ctx.Err() != nil {
		err = nil
	}
	ln.Close()
	s.drain()
	return err
}

// accept takes connections until ln is closed. A fault of one accept, such as too few file descriptors, does not end it.
func (s *Server) accept(ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			s.log.Warn("accept a connection", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.admit(nc)
	}
}

// admit lets a connection begin its handshake, if there is room for it.
func (s *Server) admit(nc net.Conn) {
	leave, ok := s.open.Admit(limit.Address(nc.RemoteAddr()))
	if !ok {
		nc.Close()
		s.observe(Observation{Route: "handshake", Outcome: "full"})
		return
	}
	c := newConn(s, nc, leave)
	s.lobby.enter(c)
	if !s.track(c) {
		c.Close()
		return
	}
	go s.serve(c)
}

// serve is the whole life of a connection.
func (s *Server) serve(c *conn) {
	defer s.work.Done()
	defer s.untrack(c)
	defer s.recovered("connection", c)
	s.ssh.HandleConn(c)
	c.Close()
	c.report()
}

// recovered keeps a panic in what it is deferred by from ending the process; the connection ends instead.
func (s *Server) recovered(where string, c *conn) {
	if p := recover(); p != nil {
		s.log.Error("panic in a "+where, "panic", p, "remote", c.door.Remote.String(), "stack", stack())
		c.Close()
	}
}

func (s *Server) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	s.work.Add(1)
	return true
}

func (s *Server) untrack(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// begin counts one more channel, unless the server is stopping. Each true is followed by one work.Done.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.work.Add(1)
	return true
}

// drain closes what is idle at once, what is busy when it is done or the time is up, and waits until nothing is left.
func (s *Server) drain() {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		c.closeWhenIdle()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	timer := time.NewTimer(s.limits.DrainTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
		s.log.Warn("operations are cut: they did not finish in time", "drain", s.limits.DrainTimeout)
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
}

// nuisance is what one connection may ask in vain: a burst, and then so many a second.
func nuisance() *rate.Limiter { return rate.NewLimiter(10, 500) }
