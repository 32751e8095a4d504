// Package httpd is the https door: artifacts by GET, HEAD and PUT below the mount point, and the API below /v1.
//
// It parses requests and prints answers. Who may do what is decided behind [gateway.Session].
package httpd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// Config is what a Server is made of. Gateway, TLS and Mount are required.
type Config struct {
	Gateway *gateway.Gateway
	TLS     *tls.Config
	Mount   string         // path below which the zones are, such as "/sstate"
	SignIn  gateway.SignIn // what anybody may know: how to sign in here
	Hash    HashDoor       // answers /hash/ZONE; nil for a gate without hash equivalence
	Limits  Limits
	Observe func(Observation) // called once for each request, after its answer; may be nil
	Log     *slog.Logger
}

// HashDoor speaks the hash equivalence protocol.
type HashDoor interface {
	// Upgrade makes a request a websocket to a zone and returns when it has ended. A nil session is for a client that signs in by the
	// protocol's own command.
	Upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request, session *gateway.Session, zone string)
}

// Limits bound what a client can make the door hold. Zero members get the defaults of DefaultLimits.
type Limits struct {
	Conns                int           // open connections
	ConnsPerAddress      int           // of them, from one address
	RequestsPerPrincipal int           // requests under way of one principal
	Streams              int           // HTTP/2 streams of one connection
	HeaderTimeout        time.Duration // to read a request's headers
	IdleTimeout          time.Duration // between requests
	ProgressWindow       time.Duration // in each, a body must move by ProgressBytes
	ProgressBytes        int64
	HeaderBytes          int
	EnvelopeBytes        int64         // of a statement
	DrainTimeout         time.Duration // for requests under way when the server stops
}

// bodiesPerPrincipal is how many bodies of up to 16 MiB one principal may have in memory.
const bodiesPerPrincipal = 32

// DefaultLimits returns the limits that the documentation promises.
func DefaultLimits() Limits {
	return Limits{
		Conns: 10000, ConnsPerAddress: 4096, RequestsPerPrincipal: 4096, Streams: 100,
		HeaderTimeout: 5 * time.Second, IdleTimeout: 60 * time.Second,
		ProgressWindow: 30 * time.Second, ProgressBytes: 30 << 10,
		HeaderBytes: 16 << 10, EnvelopeBytes: 4 << 20, DrainTimeout: 30 * time.Second,
	}
}

// withDefaults fills the members that are zero.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.Conns = cmp.Or(l.Conns, d.Conns)
	l.ConnsPerAddress = cmp.Or(l.ConnsPerAddress, d.ConnsPerAddress)
	l.RequestsPerPrincipal = cmp.Or(l.RequestsPerPrincipal, d.RequestsPerPrincipal)
	l.Streams = cmp.Or(l.Streams, d.Streams)
	l.HeaderTimeout = cmp.Or(l.HeaderTimeout, d.HeaderTimeout)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, d.IdleTimeout)
	l.ProgressWindow = cmp.Or(l.ProgressWindow, d.ProgressWindow)
	l.ProgressBytes = cmp.Or(l.ProgressBytes, d.ProgressBytes)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, d.HeaderBytes)
	l.EnvelopeBytes = cmp.Or(l.EnvelopeBytes, d.EnvelopeBytes)
	l.DrainTimeout = cmp.Or(l.DrainTimeout, d.DrainTimeout)
	return l
}

// Observation is what metrics may know of a request. It does not tell denied from absent.
type Observation struct {
	Route  string // "artifact", "presence", "upload", "whoami", "token", "sign-in", "hook", "admin", "other"
	Method string
	Status int
	Took   time.Duration
}

// Server is the https door. Make it with New.
type Server struct {
	gate     *gateway.Gateway
	mount    []string
	signIn   []byte // JSON
	hash     HashDoor
	limits   Limits
	observe  func(Observation)
	log      *slog.Logger
	http     *http.Server
	inFlight *limit.Counter // requests by principal
	bodies   *limit.Counter // of them, those whose body is being read into memory
	hooks    *limit.Counter // deliveries of forges, by address
	proofs   *limit.Counter // of SSH keys, by address

	handlers sync.WaitGroup
}

// New checks cfg and returns a server that Serve starts.
func New(cfg Config) (*Server, error) {
	if cfg.Gateway == nil || cfg.TLS == nil || !strings.HasPrefix(cfg.Mount, "/") {
		return nil, errors.New("httpd: gateway, TLS and a mount point that begins with / are required")
	}
	s := &Server{
		gate: cfg.Gateway, mount: strings.Split(strings.Trim(cfg.Mount, "/"), "/"),
		hash: cfg.Hash, limits: cfg.Limits.withDefaults(), observe: cfg.Observe, log: cfg.Log,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe == nil {
		s.observe = func(Observation) {}
	}
	var err error
	if s.signIn, err = json.Marshal(cfg.SignIn); err != nil {
		return nil, fmt.Errorf("httpd: encode how to sign in: %w", err)
	}
	s.inFlight, s.bodies, s.hooks = limit.NewCounter(s.limits.RequestsPerPrincipal), limit.NewCounter(bodiesPerPrincipal), limit.NewCounter(hooksPerAddress)
	s.proofs = limit.NewCounter(proofsPerAddress)
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), TLSConfig: cfg.TLS.Clone(),
		ReadHeaderTimeout: s.limits.HeaderTimeout, IdleTimeout: s.limits.IdleTimeout, MaxHeaderBytes: s.limits.HeaderBytes,
		// From the headers on; what takes longer extends them as it moves. Without the first, a body that was announced, and that
		// nobody wants to read, would hold its connection for as long as it does not come.
		ReadTimeout: s.limits.ProgressWindow, WriteTimeout: s.limits.ProgressWindow,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: s.limits.Streams},
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Serve answers connections of ln until ctx ends, then lets the requests under way finish, for as long as
// Limits.DrainTimeout allows, and cuts the rest. When it returns, no request is being answered. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	failed := make(chan error, 1)
	go func() {
		failed <- s.http.ServeTLS(limit.Listener(ln, limit.NewConnections(s.limits.Conns, s.limits.ConnsPerAddress), nil), "", "")
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.DrainTimeout)
	defer cancel()
	err := s.http.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("requests are cut: they did not finish in time", "drain", s.limits.DrainTimeout)
		err = s.http.Close()
	}
	s.handlers.Wait()
	return err
}
