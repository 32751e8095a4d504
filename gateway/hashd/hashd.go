// Package hashd is the hash door: BitBake's hash equivalence protocol over TLS, on this machine's loopback addresses and sockets, over the
// websockets that the https door passes on, and over the channels that the ssh door does.
//
// It ties a connection to a zone and to whoever came in. What may be answered is decided behind [gateway.Hashes].
package hashd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/limit"
)

// doorName is how the gate and its audit trail know this door.
const doorName = "hash"

// Config is what a Server is made of. Gateway and Protocol are required.
type Config struct {
	Gateway  *gateway.Gateway
	Protocol *hashserv.Server
	Limits   Limits
	Observe  func(Observation) // called once for each connection, after it; may be nil
	Log      *slog.Logger
}

// Limits bound what clients can make the door hold. Zero members get the defaults of DefaultLimits.
type Limits struct {
	Conns             int           // open connections
	ConnsPerAddress   int           // of them, from one address
	ConnsPerPrincipal int           // of them, of one principal, as it came in
	HandshakeTimeout  time.Duration // of TLS, and of an upgrade to a websocket
}

// DefaultLimits returns the limits that the documentation promises.
func DefaultLimits() Limits {
	return Limits{Conns: 10000, ConnsPerAddress: 4096, ConnsPerPrincipal: 4096, HandshakeTimeout: 10 * time.Second}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.Conns = cmp.Or(l.Conns, d.Conns)
	l.ConnsPerAddress = cmp.Or(l.ConnsPerAddress, d.ConnsPerAddress)
	l.ConnsPerPrincipal = cmp.Or(l.ConnsPerPrincipal, d.ConnsPerPrincipal)
	l.HandshakeTimeout = cmp.Or(l.HandshakeTimeout, d.HandshakeTimeout)
	return l
}

// Observation is what metrics may know of a connection.
type Observation struct {
	Transport string // "lines", "tls", "websocket" or "ssh"
	Outcome   string // "ended", "refused": its credential was not taken, or "full": the door holds all the connections that it may
	Took      time.Duration
}

// Listener says what a listener serves.
type Listener struct {
	Zone      string
	Place     string      // when not empty, whom everybody who connects is, as [authn.Places] knows it
	TLS       *tls.Config // nil for none
	Websocket bool
}

// Server is the hash door. Make it with New. Its listeners and the other doors hand it connections; Run ends them all.
type Server struct {
	gate     *gateway.Gateway
	protocol *hashserv.Server
	limits   Limits
	observe  func(Observation)
	log      *slog.Logger
	open     *limit.Connections
	each     *limit.Counter // connections by principal

	mu       sync.Mutex // guards what follows
	conns    map[hashserv.Conn]struct{}
	draining bool
	work     sync.WaitGroup // connections that are served
}

// New checks cfg and returns a server.
func New(cfg Config) (*Server, error) {
	if cfg.Gateway == nil || cfg.Protocol == nil {
		return nil, errors.New("hashd: gateway and protocol are required")
	}
	s := &Server{
		gate: cfg.Gateway, protocol: cfg.Protocol, limits: cfg.Limits.withDefaults(), observe: cfg.Observe, log: cfg.Log,
		conns: map[hashserv.Conn]struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe == nil {
		s.observe = func(Observation) {}
	}
	s.open, s.each = limit.NewConnections(s.limits.Conns, s.limits.ConnsPerAddress), limit.NewCounter(s.limits.ConnsPerPrincipal)
	return s, nil
}

// Run waits until ctx ends, and then ends every connection. When it returns, nothing is being answered.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.draining = true
	// Clients ask again what was not answered, as they do when a gate is killed; what they reported is safe once it is answered.
	for c := range s.conns {
		go c.Close() // which may wait for a peer that does not read
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// Serve answers the connections of ln until ctx ends. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener, l Listener) error {
	if l.Websocket {
		return s.serveWebsockets(ctx, ln, l)
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.log.Warn("accept a connection", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go s.accepted(ctx, nc, l)
	}
}

// accepted is the whole life of a connection of a listener.
func (s *Server) accepted(ctx context.Context, nc net.Conn, l Listener) {
	transport, credential := "lines", authn.Credential{Place: l.Place}
	if l.TLS != nil {
		transport = "tls"
	}
	leave, ok := s.open.Admit(limit.Address(nc.RemoteAddr()))
	if !ok {
		nc.Close()
		s.full(transport)
		return
	}
	defer leave()
	defer nc.Close()
	defer s.recovered(doorOf(nc.RemoteAddr()))
	if l.TLS != nil {
		secure := tls.Server(nc, l.TLS)
		shake, cancel := context.WithTimeout(ctx, s.limits.HandshakeTimeout)
		err := secure.HandshakeContext(shake)
		cancel()
		if err != nil {
			s.log.Debug("TLS handshake", "error", err)
			return
		}
		if chains := secure.ConnectionState().VerifiedChains; len(chains) > 0 {
			credential = authn.Credential{Chain: chains[0]}
		}
		nc = secure
	}
	session, err := s.session(ctx, doorOf(nc.RemoteAddr()), credential)
	if err != nil {
		s.observe(Observation{Transport: transport, Outcome: "refused"})
		return
	}
	s.answer(ctx, hashserv.NewLineConn(nc, hashserv.MaxLine), doorOf(nc.RemoteAddr()), session, l.Zone, transport)
}

// full notes a connection that there was no room for.
func (s *Server) full(transport string) {
	s.observe(Observation{Transport: transport, Outcome: "full"})
}

// session opens a session for what was shown, nil for nothing: such a client may still sign in.
func (s *Server) session(ctx context.Context, door gateway.Door, c authn.Credential) (*gateway.Session, error) {
	session, err := s.gate.Session(ctx, door, c)
	if errors.Is(err, authn.ErrAnonymous) {
		return nil, nil
	}
	return session, err
}

// doorOf is the door for a connection. One over a socket of this machine has no address.
func doorOf(remote net.Addr) gateway.Door {
	at, _ := netip.ParseAddrPort(remote.String())
	return gateway.Door{Name: doorName, Remote: at}
}

// serveWebsockets answers upgrades on a listener of its own.
func (s *Server) serveWebsockets(ctx context.Context, ln net.Listener, l Listener) error {
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.upgrade(ctx, w, r, l) }),
		ReadHeaderTimeout: s.limits.HandshakeTimeout, ReadTimeout: s.limits.HandshakeTimeout, WriteTimeout: s.limits.HandshakeTimeout,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	ln = limit.Listener(ln, s.open, func() { s.full("websocket") })
	go func() {
		if l.TLS != nil {
			server.TLSConfig = l.TLS
			failed <- server.ServeTLS(ln, "", "")
			return
		}
		failed <- server.Serve(ln)
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// upgrade answers a request of a listener of websockets.
func (s *Server) upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request, l Listener) {
	credential := authn.Credential{Place: l.Place}
	switch values := r.Header["Authorization"]; {
	case len(values) > 0:
		credential = authn.Credential{Token: authn.HeaderToken(values)}
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		credential = authn.Credential{Chain: r.TLS.VerifiedChains[0]}
	}
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	session, err := s.session(ctx, gateway.Door{Name: doorName, Remote: at}, credential)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="lychgate", charset="UTF-8"`)
		http.Error(w, "the credential is refused", http.StatusUnauthorized)
		return
	}
	s.upgraded(ctx, w, r, session, l.Zone)
}

// Upgrade makes a request a connection to a zone, and returns when it has ended. A nil session is for a client that has yet to sign in.
func (s *Server) Upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request, session *gateway.Session, zone string) {
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	leave, ok := s.open.Admit(limit.Address(net.TCPAddrFromAddrPort(at)))
	if !ok {
		s.full("websocket")
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	s.upgraded(ctx, w, r, session, zone)
}

// upgraded is Upgrade for a connection that is counted already.
func (s *Server) upgraded(ctx context.Context, w http.ResponseWriter, r *http.Request, session *gateway.Session, zone string) {
	conn, err := hashserv.AcceptWebsocket(w, r)
	if err != nil {
		s.log.Debug("upgrade to a websocket", "error", err)
		return
	}
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	s.answer(ctx, conn, gateway.Door{Name: doorName, Remote: at}, session, zone, "websocket")
}

// Stream answers lines on a channel of the ssh door, and returns when the client has ended them. It closes conn.
func (s *Server) Stream(ctx context.Context, conn net.Conn, remote netip.AddrPort, session *gateway.Session, zone string) {
	leave, ok := s.open.Admit(limit.Address(net.TCPAddrFromAddrPort(remote)))
	if !ok {
		conn.Close()
		s.full("ssh")
		return
	}
	defer leave()
	s.answer(ctx, hashserv.NewLineConn(conn, hashserv.MaxLine), gateway.Door{Name: doorName, Remote: remote}, session, zone, "ssh")
}

// answer serves one connection until it ends. It closes conn.
func (s *Server) answer(ctx context.Context, conn hashserv.Conn, door gateway.Door, session *gateway.Session, zone, transport string) {
	defer conn.Close()
	if session != nil {
		key := session.Principal().Key()
		if !s.each.Enter(key) {
			s.full(transport)
			return
		}
		defer s.each.Leave(key)
	}
	if !s.track(conn) {
		return
	}
	defer s.untrack(conn)
	began := time.Now()
	defer func() { s.observe(Observation{Transport: transport, Outcome: "ended", Took: time.Since(began)}) }()
	defer s.recovered(door)
	err := s.protocol.Serve(ctx, conn, s.gate.Hashes(door, zone, session))
	if err != nil {
		s.log.Debug("a hash connection ended", "error", err, "remote", door.Remote.String())
	}
}

// recovered keeps a panic in what it is deferred by from ending the process; the connection ends instead.
func (s *Server) recovered(door gateway.Door) {
	if p := recover(); p != nil {
		s.log.Error("panic in a hash connection", "panic", p, "remote", door.Remote.String(), "stack", string(debug.Stack()))
	}
}

func (s *Server) track(c hashserv.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	s.work.Add(1)
	return true
}

func (s *Server) untrack(c hashserv.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.work.Done()
}
