// Package agent stands beside BitBake on a build host and talks to a gate for it: plain HTTP and plain hash equivalence on loopback towards
// BitBake, one HTTP/2 connection with the user's credential towards the gate.
//
// It turns a build's many questions whether an object is there into few batches. It downloads an object whole and verifies it before it
// says at the task that there is one, so that what was promised can be kept: BitBake ends a build with an error when a download fails that was
// promised, and builds by itself, with a warning, what is not there. Whatever goes wrong here is therefore an object that is not there.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/client"
)

// Credentials is what the agent shows to the gate. It is safe for concurrent use.
type Credentials interface {
	// Token returns one that is good for a while yet; the zero Secret when a client certificate is what is shown. It is asked before each
	// request to the gate, so it is quick unless the token has to be renewed.
	Token(ctx context.Context) (authn.Secret, error)
	// Refused says that the gate did not take this token: the next call of Token is to find another one, if there is any.
	Refused(token authn.Secret)
}

// Config is what an agent needs. Client, Credentials and Spool are required.
type Config struct {
	// Client talks to the gate; the token of Credentials is added.
	Client *client.Client
	// Gate is the gate's URL, for people.
	Gate        string
	Credentials Credentials
	// Spool is a directory with room for what builds download at once. Nothing of it is left there when the agent has ended, however it ended.
	Spool string
	// SpoolBytes bounds what lies in the spool; 0 means 16 GiB.
	SpoolBytes int64
	// Cache is a directory, which nobody else can enter, for what is kept from one build to the next; empty: nothing is kept. The gate is asked
	// before each use of what is kept.
	Cache string
	// CacheBytes bounds what is kept; 0 means 32 GiB.
	CacheBytes int64
	// Downloads is how many objects are downloaded at once; 0 means 32.
	Downloads int
	// Gather is how long a question waits for others to leave with it; 0 means 3 ms.
	Gather time.Duration
	// Remember is how long the gate's answer is given again without asking; 0 means 5 s, and it is at most that. It is what the agent adds to the
	// time in which a revocation bites.
	Remember time.Duration
	// Quiet is how long nothing comes before a build is taken for ended and summed up; 0 means 1 min.
	Quiet time.Duration
	// Hash opens hash equivalence: for each zone, the gate's server. See [Hash].
	Hash []Hash
	// Verifier says whose word counts about what an object is. When there is one, an object is handed out only when a signed statement that it
	// opens names the object with its digest; nil: the gate's word is enough.
	Verifier Verifier
	// VerifyZones are the zones that such a statement may have been made for; none: any.
	VerifyZones []string
	// AnyUser serves every user of this machine on TCP, for systems on which the owner of a connection cannot be found out.
	AnyUser bool
	Log     *slog.Logger // nil discards
	Now     func() time.Time

	// create makes a file of the spool, patience is how often a client that waits is told to go on, and unread how long one may take nothing: for
	// tests.
	create           func(dir string) (spoolFile, error)
	patience, unread time.Duration

	// opened is a cache that several agents have in common, in place of Cache. None of them closes it.
	opened *cache
}

// maxRemember bounds [Config.Remember]: it is to stay well below what the gate promises about revocations.
const maxRemember = 5 * time.Second

// Agent serves one user of a build host. It is safe for concurrent use.
type Agent struct {
	conf     Config
	log      *slog.Logger
	link     *link
	presence *presence
	vouch    *vouching // nil unless statements are asked for
	spool    *spool
	warn     *warnings
	recent   recent
	count    counts
	hashes   []*hashZone

	waiting  atomic.Int64 // connections on which presence was asked, and that are open
	draining atomic.Bool
	serving  chan struct{} // closed when the places are known

	mu     sync.Mutex // guards places
	places []string
}

// New checks conf. It neither listens nor asks the gate anything.
func New(conf Config) (*Agent, error) {
	if conf.Client == nil || conf.Credentials == nil || conf.Spool == "" {
		return nil, errors.New("an agent needs a client, credentials and a spool")
	}
	conf = conf.withDefaults()
	if err := os.MkdirAll(conf.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	a := &Agent{conf: conf, log: conf.Log, warn: &warnings{log: conf.Log, now: conf.Now}, serving: make(chan struct{})}
	a.count.started = conf.Now()
	a.link = &link{client: conf.Client, creds: conf.Credentials, now: conf.Now, warn: a.warn, log: conf.Log}
	a.presence = &presence{agent: a, pending: map[string]*batch{}}
	a.vouch = newVouching(conf, a.link)
	a.spool = newSpool(a)
	if a.spool.cache = conf.opened; conf.opened == nil && conf.Cache != "" {
		var err error
		if a.spool.cache, err = openCache(conf.Cache, conf.CacheBytes, conf.Now); err != nil {
			return nil, err
		}
	}
	for _, h := range conf.Hash {
		z, err := newHashZone(a, h)
		if err != nil {
			return nil, err
		}
		a.hashes = append(a.hashes, z)
	}
	return a, nil
}

func (conf Config) withDefaults() Config {
	conf.SpoolBytes = cmp.Or(conf.SpoolBytes, 16<<30)
	conf.CacheBytes = cmp.Or(conf.CacheBytes, 32<<30)
	conf.Downloads = cmp.Or(conf.Downloads, 32)
	conf.Gather = cmp.Or(conf.Gather, 3*time.Millisecond)
	conf.Remember = min(cmp.Or(conf.Remember, maxRemember), maxRemember)
	conf.Quiet = cmp.Or(conf.Quiet, time.Minute)
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	conf.patience = cmp.Or(conf.patience, patienceTime)
	conf.unread = cmp.Or(conf.unread, unreadTime)
	if conf.create == nil {
		conf.create = createFile
	}
	return conf
}

// Limits of what comes from BitBake.
const (
	headerTime = 10 * time.Second
	// idleTime is long: BitBake's one retry is burnt when a connection that it kept is closed.
	idleTime = 30 * time.Minute
	maxHead  = 16 << 10
	// stopTime is how long the agent goes on serving what it has promised when it is to end.
	stopTime = 10 * time.Second
)

// Serve answers BitBake on listeners, and closes them, until ctx is done. What was promised by then is still served, for a while.
// It refuses a listener that others than this machine could reach. It is called once.
func (a *Agent) Serve(ctx context.Context, listeners ...net.Listener) error {
	for _, ln := range listeners {
		if err := a.checkListener(ln); err != nil {
			return err
		}
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of downloads and upkeep: they outlive ctx a little
	var all sync.WaitGroup
	lines, hangUp := context.WithCancel(ctx) // of hash equivalence: no promise is in it
	defer func() { hangUp(); cancel(); all.Wait(); a.spool.close() }()
	a.spool.start(work)
	all.Go(func() { a.upkeep(work) })
	all.Go(func() { a.attend(work) })
	server := a.server(work)
	failed := make(chan error, len(listeners)+len(a.hashes))
	for _, ln := range listeners {
		a.place(ln)
	}
	close(a.serving)
	for _, ln := range listeners {
		go func() { failed <- server.Serve(a.guard(ln)) }()
	}
	for _, z := range a.hashes {
		all.Go(func() { z.serve(lines, failed) })
	}
	select {
	case err := <-failed:
		server.Close()
		return err
	case <-ctx.Done():
	}
	a.drain()
	patience, done := context.WithTimeout(work, stopTime)
	defer done()
	if err := server.Shutdown(patience); err != nil {
		return server.Close()
	}
	return nil
}

func (a *Agent) server(ctx context.Context) *http.Server {
	return &http.Server{
		Handler: a, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHead,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if g, ok := c.(*guarded); ok {
				return context.WithValue(ctx, guardedKey{}, g)
			}
			return ctx
		},
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// drain promises nothing more, and waits a little for what was promised to be fetched.
func (a *Agent) drain() {
	a.draining.Store(true)
	for end := time.Now().Add(stopTime); a.spool.promises() > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
}

// upkeep forgets what is old, and sums up builds, until ctx is done.
func (a *Agent) upkeep(ctx context.Context) {
	eachSecond(ctx, func() {
		a.spool.sweep()
		a.count.sumUp(a.conf.Now(), a.conf.Quiet, a.log)
	})
}

// attend asks the gate, once for each token, whose it is, and sees whether what was wrong with it or the token is over, though BitBake asks nothing,
// until ctx is done.
func (a *Agent) attend(ctx context.Context) {
	eachSecond(ctx, func() {
		if a.link.nameless() || a.link.idle() || a.link.replaced(ctx) {
			a.link.introduce(ctx)
		}
	})
}

func eachSecond(ctx context.Context, do func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

func (a *Agent) place(ln net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.places = append(a.places, address(ln.Addr()))
}

// key names an object, canonically.
type key struct{ zone, name string }

func keyOf(ref artifact.Ref) key { return key{ref.Zone, ref.Name()} }
