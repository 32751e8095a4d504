package forge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lychgate/lychgate/authz/source"
)

const (
	// maxLookups bounds the answers about users, keys, identities and paths that are remembered.
	maxLookups = 50_000
	// Strangers offer keys that no forge knows, as many as they like. So many a second are asked about, behind all that
	// somebody waits for who is known; keys that were known before are asked about in any case.
	strangers, strangersBurst = 50, 500
	// acquainted is how long a key counts as known before.
	acquainted = 24 * time.Hour
	// pathLimit is how long a resolved path is used: publications come in bursts, and paths may be given to others.
	pathLimit = 10 * time.Second
)

// errStrangers says that too many unknown keys are being offered.
var errStrangers = fmt.Errorf("too many unknown keys are asked about: %w", ErrBusy)

// found is what a lookup found: a user, or a repository.
type found struct {
	user User
	repo Repo
	owns bool  // somebody answers for it; false is final too
	err  error // final: ErrNoUser, ErrNoRepo
}

// held is a found with its age.
type held struct {
	found
	at         time.Time
	soft, end  time.Time
	generation uint64
}

// lookups is what a cache remembers besides facts.
type lookups struct {
	mu      sync.Mutex // guards what follows
	known   map[string]held
	flights map[string]*lookupFlight
	strange *rate.Limiter
}

// lookupFlight is one question under way, for all who wait for it.
type lookupFlight struct {
	background bool
	done       chan struct{} // closed once what follows is there
	held
	failed error // nothing was learnt
}

func newLookups() lookups {
	return lookups{
		known: make(map[string]held), flights: make(map[string]*lookupFlight),
		strange: rate.NewLimiter(strangers, strangersBurst),
	}
}

// lookup is one question.
type lookup struct {
	what    string // as in Asked.What
	arg     string
	key     string // for Concern
	life    time.Duration
	limited bool // strangers may ask it
	ask     func(ctx context.Context) found
}

// find answers from memory, or asks. It waits for 5 s at most.
func (c *Cache) find(ctx context.Context, q lookup) (found, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrBusy)
	defer cancel()
	name := q.what + "\x00" + q.arg
	for range attempts {
		h, f, err := c.look(name, q)
		if err != nil {
			return found{}, err
		}
		if f == nil {
			return h.found, h.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return found{}, c.gaveUp(ctx, q.what)
		}
		if f.failed != nil {
			return found{}, f.failed
		}
		if !c.outdated(&f.held, q) {
			return f.found, f.err
		}
	}
	return found{}, fmt.Errorf("ask forge %q: it changed while it was read", c.config.Name)
}

// outdated reports whether an event has touched what was found.
func (c *Cache) outdated(h *held, q lookup) bool {
	return c.config.Hub.Overtaken(h.generation, Concern{Forge: c.config.Name, User: h.user.ID, Key: q.key, Repos: []string{h.repo.ID}})
}

// look returns what is remembered, or else the flight that will answer. What is getting old is asked for again beside.
func (c *Cache) look(name string, q lookup) (held, *lookupFlight, error) {
	now := c.config.Now()
	l := &c.lookups
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.known[name]
	usable := ok && now.Before(h.end) && !c.outdated(&h, q)
	if usable && now.Before(h.soft) {
		return h, nil, nil
	}
	f := l.flights[name]
	stranger := q.limited && !(ok && h.err == nil && now.Sub(h.at) < acquainted)
	if f == nil || !usable && !stranger && f.background { // who waits does not join what nobody waited for
		if stranger && !l.strange.AllowN(now, 1) {
			if usable {
				return h, nil, nil
			}
			c.config.Asked(Asked{Forge: c.config.Name, What: q.what, Err: errStrangers})
			return held{}, nil, errStrangers
		}
		f = &lookupFlight{done: make(chan struct{}), background: usable || stranger}
		l.flights[name] = f
		go c.seek(name, q, f)
	}
	if usable {
		return h, nil, nil
	}
	return held{}, f, nil
}

// seek asks the forge and keeps the answer. It never panics.
func (c *Cache) seek(name string, q lookup, f *lookupFlight) {
	hub := c.config.Hub
	f.generation, f.at = hub.Generation(), c.config.Now()
	trust := hub.Trust(f.at)
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	if f.background {
		ctx = InBackground(ctx)
	}
	if trust > 0 {
		ctx = NotBefore(ctx, f.at)
	}
	begun := time.Now()
	f.found, f.failed = c.put(ctx, q)
	c.config.Asked(Asked{Forge: c.config.Name, What: q.what, Background: f.background, Took: time.Since(begun), Err: f.failed})
	life, soft := q.life, softLimit
	if f.err != nil {
		life, soft = min(life, softLimit), negativeLimit
	}
	if trust > 0 {
		life = min(life, trust)
	}
	f.end = f.at.Add(life)
	if end := f.user.NotAfter; !end.IsZero() && end.Before(f.end) {
		f.end = end
	}
	f.soft = f.at.Add(min(life, jitter(soft)))
	f.user.NotAfter = f.end
	changed := c.settle(name, q, f)
	close(f.done)
	if changed != "" {
		c.config.Changed(c.config.Name, changed)
	}
}

// put puts one question. An error that is no answer is the second result.
func (c *Cache) put(ctx context.Context, q lookup) (out found, failed error) {
	defer func() {
		if r := recover(); r != nil {
			failed = fmt.Errorf("ask forge %q: panic: %v", c.config.Name, r)
			c.config.Logger.Error("a forge's provider panicked", "forge", c.config.Name, "panic", r)
		}
	}()
	out = q.ask(ctx)
	if out.err != nil && !errors.Is(out.err, ErrNoUser) && !errors.Is(out.err, ErrNoRepo) {
		return found{}, fmt.Errorf("ask forge %q: %w", c.config.Name, out.err)
	}
	return out, nil
}

// settle ends a flight and keeps its answer. It returns the user of whom something has changed that was known.
func (c *Cache) settle(name string, q lookup, f *lookupFlight) (changed string) {
	l := &c.lookups
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flights[name] == f {
		delete(l.flights, name)
	}
	if f.failed != nil || c.outdated(&f.held, q) {
		return ""
	}
	old, ok := l.known[name]
	if ok && old.user.ID != "" && (f.err != nil || old.user.ID != f.user.ID || old.user.Blocked != f.user.Blocked || old.user.Kind != f.user.Kind) {
		changed = old.user.ID
	}
	l.makeRoom(f.at)
	l.known[name] = f.held
	return changed
}

// makeRoom drops what is over, and then whatever chance picks. The caller holds mu.
func (l *lookups) makeRoom(now time.Time) {
	if len(l.known) < maxLookups {
		return
	}
	for name, h := range l.known {
		// What was a user's is kept for longer: who was known is asked about before strangers.
		if !now.Before(h.end) && (h.err != nil || now.Sub(h.at) >= acquainted) {
			delete(l.known, name)
		}
	}
	for name := range l.known {
		if len(l.known) < maxLookups {
			return
		}
		delete(l.known, name)
	}
}

// errNoDirectory says that the forge behind cannot tell the state of its users.
var errNoDirectory = errors.New("it cannot tell the state of its users")

func userFound(u User, err error) found { return found{user: u, owns: true, err: err} }

// User implements [Directory].
func (c *Cache) User(ctx context.Context, id string) (User, error) {
	f, err := c.find(ctx, lookup{what: "user", arg: id, life: hardLimit, ask: func(ctx context.Context) found {
		d, ok := c.config.Provider.(Directory)
		if !ok {
			return found{err: errNoDirectory}
		}
		u, err := d.User(ctx, id)
		if err == nil && u.ID != id {
			err = fmt.Errorf("it answered about user %q when asked about %q", clip(u.ID), clip(id))
		}
		if err != nil {
			u = User{ID: id} // so that an event about the user ends a denial too
		}
		return userFound(u, err)
	}})
	return f.user, err
}

// UserByName implements [Directory].
func (c *Cache) UserByName(ctx context.Context, name string) (User, error) {
	f, err := c.find(ctx, lookup{what: "name", arg: name, life: softLimit, ask: func(ctx context.Context) found {
		d, ok := c.config.Provider.(Directory)
		if !ok {
			return found{err: errNoDirectory}
		}
		return userFound(d.UserByName(ctx, name))
	}})
	return f.user, err
}

// KeyOwner implements [KeyOwners]. Not every question of strangers reaches the forge: too many at once get an error that
// wraps [ErrBusy].
func (c *Cache) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	owners, ok := c.config.Provider.(KeyOwners)
	if !ok {
		return User{}, fmt.Errorf("forge %q knows no keys: %w", c.config.Name, ErrNoUser)
	}
	if !strings.HasPrefix(fingerprint, "SHA256:") || len(fingerprint) > 64 {
		return User{}, fmt.Errorf("look up user by key %q: %w", clip(fingerprint), ErrNoUser)
	}
	f, err := c.find(ctx, lookup{what: "key", arg: fingerprint, key: fingerprint, life: hardLimit, limited: true, ask: func(ctx context.Context) found {
		return userFound(owners.KeyOwner(ctx, fingerprint))
	}})
	return f.user, err
}

// IdentityOwner implements [Identities].
func (c *Cache) IdentityOwner(ctx context.Context, issuer, subject string) (User, error) {
	identities, ok := c.config.Provider.(Identities)
	if !ok {
		return User{}, fmt.Errorf("forge %q ties no identities to its users: %w", c.config.Name, ErrNoUser)
	}
	f, err := c.find(ctx, lookup{what: "identity", arg: issuer + "\x00" + subject, life: hardLimit, ask: func(ctx context.Context) found {
		return userFound(identities.IdentityOwner(ctx, issuer, subject))
	}})
	return f.user, err
}

// Resolve implements [Resolver].
func (c *Cache) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	resolver, ok := c.config.Provider.(Resolver)
	if !ok {
		return Repo{}, false, nil
	}
	f, err := c.find(ctx, lookup{what: "path", arg: l.Host + "\x00" + l.Path, life: pathLimit, ask: func(ctx context.Context) found {
		r, owns, err := resolver.Resolve(ctx, l)
		return found{repo: r, owns: owns, err: err}
	}})
	return f.repo, f.owns, err
}
