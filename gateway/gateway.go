// Package gateway is the one path from a credential to bytes.
//
// A door turns what a client sent into a credential and a name, asks [Gateway].Session for a [Session], and prints
// what the Session's methods return. It decides nothing.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/upstream"
)

var (
	// ErrNotFound is what a reader learns of anything that is denied, absent or misnamed.
	ErrNotFound error = notFound{}
	// ErrUnauthenticated is wrapped when there is no credential or a bad one.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrUnavailable is wrapped when the gate could not decide, record or read, and asking again may help.
	ErrUnavailable = errors.New("unavailable")
)

// notFound is the one error for denied and absent: it has one text, and no cause to compare.
type notFound struct{}

func (notFound) Error() string        { return "not found" }
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

// Journal is where events go. Append returns once the event would survive a killed process, Durable once it would
// survive a power cut.
type Journal interface {
	Append(e *audit.Event) (seq uint64, err error)
	AppendBatch(events []*audit.Event) (seq uint64, err error)
	Durable(ctx context.Context, seq uint64) error
}

// Blobs keeps the bytes that were uploaded, under names made of their digests.
type Blobs interface {
	upstream.Store
	// Put publishes the file's bytes under name, atomically and durably; a name that exists is left as it is.
	Put(ctx context.Context, name string, src *os.File) error
}

// Verifier checks the signatures of a statement's envelope and reads it.
type Verifier interface {
	Open(envelope []byte) (*provenance.Verified, error)
}

// Zone is a zone as the gate serves it.
type Zone struct {
	artifact.Zone
	Mirror upstream.Store // objects under their own names, not written by the gate; nil for none
	Hash   HashZone
	// TellWhy tells whoever knows an object's name whether it is absent or denied, and which repositories they would have to read. To know
	// the name is to have computed it from the recipe, and so to know its sources; that the object is there is news.
	TellWhy bool
}

// statementAge is how old a statement may be at the commit of its upload. One that came by plain PUT may be as old
// as an upload.
const statementAge = 10 * time.Minute

// Limits bound what a session can ask for.
type Limits struct {
	ObjectBytes   int64         // of one object
	UploadObjects int           // in one upload
	OpenUploads   int           // of one principal
	UploadAge     time.Duration // how long an upload may stay unfinished
	EnvelopeBytes int64         // of one statement
	PresenceNames int           // in one batch
	MinFree       int64         // bytes that uploads leave free on the staging directory's file system
}

// Config is what a Gateway is made of. All members but Certifier, Challenges, Refused, Log and Now are required.
type Config struct {
	Authenticator authn.Authenticator
	Authorizer    *authz.Authorizer
	Records       provenance.Store
	Verifier      Verifier
	Resolver      forge.Resolver // gives sources their repository ids when they are published
	Journal       Journal
	Zones         []Zone
	Blobs         Blobs
	Staging       string // directory for uploads under way, on the file system of Blobs when that is a directory
	Audience      string // this gate's own URL, which statements name
	Contact       string // whom people ask about what is not there for them; may be empty
	Names         Lister
	Tokens        Tokens
	Certifier     Certifier  // for the keys of CI jobs; nil: none is certified
	Challenges    Challenges // for SSH keys without a handshake; nil: they are not taken
	Identities    Identities
	Links         Links
	Hooks         Hooks
	Events        Events
	Ender         Ender
	Published     Published
	Accounts      Accounts
	TokenLife     TokenLife
	Limits        Limits
	Refused       func(door string, why authn.Reason) // called for each refused credential, for metrics; may be nil
	Log           *slog.Logger
	Now           func() time.Time
}

// Gateway serves sessions. It is safe for concurrent use.
type Gateway struct {
	Config
	zones    map[string]Zone
	staging  *staging
	failures *failures
	posted   deliveries
	refused  *rate.Limiter // bounds how many refused credentials are recorded one by one
	hidden   atomic.Int64  // refusals since the last recorded one

	walking      keyedMutex   // by owner: held while a directory is listed
	settling     keyedMutex   // by owner and zone: held while plain PUTs are matched with their statements
	reporting    keyedMutex   // by zone, method and output: held while a report of it is looked up and stored
	copyBuffers  sync.Pool    // *[]byte of copyBytes
	passed       atomic.Int64 // bytes that callers of ReadAt have read past
	chunkBuffers sync.Pool    // *[]byte of provenance.ChunkSize
}

// New checks cfg and prepares the staging directory. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Authenticator == nil || cfg.Authorizer == nil || cfg.Records == nil || cfg.Verifier == nil ||
		cfg.Resolver == nil || cfg.Journal == nil || cfg.Blobs == nil || cfg.Names == nil || cfg.Tokens == nil || cfg.Identities == nil || cfg.Links == nil || cfg.Hooks == nil || cfg.Events == nil || cfg.Ender == nil || cfg.Published == nil || cfg.Accounts == nil || cfg.Staging == "" || cfg.Audience == "" {
		return nil, errors.New("gateway: a required part is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Refused == nil {
		cfg.Refused = func(string, authn.Reason) {}
	}
	if cfg.TokenLife.Human <= 0 || cfg.TokenLife.CI <= 0 {
		return nil, errors.New("gateway: the longest life of tokens is missing")
	}
	g := &Gateway{Config: cfg, zones: map[string]Zone{}, failures: newFailures(cfg.Now), posted: deliveries{seen: map[string]time.Time{}}, refused: rate.NewLimiter(50, 200)}
	g.copyBuffers.New = func() any { b := make([]byte, copyBytes); return &b }
	g.chunkBuffers.New = func() any { b := make([]byte, provenance.ChunkSize); return &b }
	for _, z := range cfg.Zones {
		if _, twice := g.zones[z.Name]; twice {
			return nil, fmt.Errorf("gateway: zone %q is configured twice", z.Name)
		}
		g.zones[z.Name] = z
	}
	var err error
	if g.staging, err = openStaging(cfg.Staging, cfg.Limits, cfg.Now); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

// Run removes uploads that have expired, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			g.staging.sweep()
		}
	}
}

// Door says where a session came in.
type Door struct {
	Name   string // "https", "ssh", "hash"
	Remote netip.AddrPort
}

// Session takes a credential and returns who it is, ready to act. It is the only place where a principal
// enters. Every error wraps ErrUnauthenticated or ErrUnavailable.
func (g *Gateway) Session(ctx context.Context, door Door, c authn.Credential) (*Session, error) {
	if !c.IDToken.IsZero() && g.failures.spent(door.Remote.Addr()) {
		return nil, g.refuse(door, &authn.Refusal{Reason: throttled, Detail: "an ID token from an address that was refused too often"})
	}
	s := &Session{gate: g, door: door, credential: c}
	if !c.IDToken.IsZero() {
		s.once = authn.IDTokenDigest(c.IDToken)
	}
	if err := s.identify(ctx); err != nil {
		return nil, g.refuse(door, err)
	}
	return s, nil
}

// Knows returns nil when a credential would be taken, were it proven: the ssh door answers a client that asks which of its keys are
// worth a signature. Who it belongs to is not told, and nothing is recorded; a client offers every key it has.
func (g *Gateway) Knows(ctx context.Context, c authn.Credential) error {
	if _, err := g.Authenticator.Authenticate(ctx, c); err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	return nil
}

// Failed records that a door's client left without proving any credential, and why. It returns an error that wraps ErrThrottled
// when its address should be kept out for a while.
func (g *Gateway) Failed(door Door, cause *authn.Refusal) error { return g.refuse(door, cause) }
