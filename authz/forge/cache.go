package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

const (
	// softLimit is the age at which a fact is asked for again while it is used.
	softLimit = 60 * time.Second
	// negativeLimit is the age at which a "may not read" is asked for again while it is used, and softLimit that at which it
	// is worth nothing: who was just let in should not wait.
	negativeLimit = 10 * time.Second
	// patience is how long somebody waits for a forge before the answer is that there is none.
	patience = 5 * time.Second
	// flightLimit bounds one question, which goes on when those who wait have left.
	flightLimit = 30 * time.Second
	// attempts is how often a question is put again that an event overtook.
	attempts = 3
	// maxUsers bounds the users whose facts are remembered.
	maxUsers = 20_000
	// futureLimit is how far ahead another node's clock may be before its facts are not believed.
	futureLimit = 5 * time.Second
)

// ErrBusy says that the forge did not answer while somebody waited. The question goes on: asking again may help.
var ErrBusy = errors.New("the forge did not answer in time")

// CacheConfig is what a [Cache] needs.
type CacheConfig struct {
	Name     string
	Provider Provider
	Hub      *Hub
	Shared   Shared           // nil: what is learnt stays at this node
	Now      func() time.Time // time.Now when nil
	Logger   *slog.Logger     // nil: silent
	// Changed is called when a forge takes back, or gives, what it said before, with the user's immutable id. It must not
	// block; nil for nobody.
	Changed func(forge, user string)
	// Asked is called after each question to the forge, for metrics; nil for nobody.
	Asked func(Asked)
	// Used is called with the age of the oldest fact that an answer rests on, for metrics; nil for nobody.
	Used func(age time.Duration)
}

// Asked is one question to a forge.
type Asked struct {
	Forge string
	What  string // "access", "user", "name", "key", "identity", "path"
	// Background says that nobody waited for it.
	Background bool
	Took       time.Duration
	Err        error // nil, or why nothing was learnt; of somebody who waited in vain it wraps ErrBusy
}

// Cache is a forge that is asked no more than needed: a [Provider], [Resolver], [Directory], [KeyOwners] and [Identities]
// over another. It is safe for concurrent use.
//
// A fact is used for 60 s; then it is still used while it is asked for again beside, and after 300 s it is worth nothing.
// Of "may not read" the ages are 10 s and 60 s. An answer that an event overtook is discarded: a yes that was slow must not outlive the
// revocation that it did not see.
type Cache struct {
	config  CacheConfig
	born    time.Time
	names   numbers // of repositories
	origins numbers

	mu    sync.RWMutex // guards users
	users map[string]*userFacts

	lookups lookups
	oldest  atomic.Int64 // the age of the oldest fact that was used since it was last told, in nanoseconds
}

var (
	_ Provider   = (*Cache)(nil)
	_ Resolver   = (*Cache)(nil)
	_ Directory  = (*Cache)(nil)
	_ KeyOwners  = (*Cache)(nil)
	_ Identities = (*Cache)(nil)
	_ Hooks      = (*Cache)(nil)
	_ hostLister = (*Cache)(nil)
)

// NewCache returns a Cache that remembers nothing yet.
func NewCache(c CacheConfig) (*Cache, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Provider == nil || c.Hub == nil {
		return nil, fmt.Errorf("forge %q: a cache needs a provider and a hub", c.Name)
	}
	if c.Changed == nil {
		c.Changed = func(string, string) {}
	}
	if c.Asked == nil {
		c.Asked = func(Asked) {}
	}
	if c.Used == nil {
		c.Used = func(time.Duration) {}
	}
	return &Cache{config: c, born: c.Now(), users: make(map[string]*userFacts), lookups: newLookups()}, nil
}

// Hosts returns the hosts that the forge behind owns.
func (c *Cache) Hosts() []string {
	if l, ok := c.config.Provider.(hostLister); ok {
		return l.Hosts()
	}
	return nil
}

// ReadHook implements [Hooks].
func (c *Cache) ReadHook(header http.Header, body []byte) (Delivery, error) {
	hooks, ok := c.config.Provider.(Hooks)
	if !ok {
		return Delivery{}, fmt.Errorf("forge %q posts nothing: %w", c.config.Name, ErrHook)
	}
	return hooks.ReadHook(header, body)
}

// Follow implements [Follower]: it returns at once when there is nothing to follow.
func (c *Cache) Follow(ctx context.Context, emit func(Event)) error {
	f, ok := c.config.Provider.(Follower)
	if !ok {
		return nil
	}
	return f.Follow(ctx, emit)
}

// Forget is for [HubConfig].Forget: what the forge behind remembers is forgotten too. The cache itself compares what it holds
// with the hub.
func (c *Cache) Forget(e Event) {
	if e.Forge != "" && e.Forge != c.config.Name {
		return
	}
	if f, ok := c.config.Provider.(Forgetter); ok {
		f.Forget(e)
	}
}

// OldestUsed returns the age of the oldest fact that was used since it was last called.
func (c *Cache) OldestUsed() time.Duration { return time.Duration(c.oldest.Swap(0)) }

type notBeforeKey struct{}

// NotBefore asks for facts that were learnt at t or later: older ones say nothing about what was published at t.
func NotBefore(ctx context.Context, t time.Time) context.Context {
	return context.WithValue(ctx, notBeforeKey{}, t)
}

func notBefore(ctx context.Context) time.Time {
	t, _ := ctx.Value(notBeforeKey{}).(time.Time)
	return t
}

// Access implements [Provider]. It waits for the forge only for what is not known, and for 5 s at most: then it returns an
// error that wraps [ErrBusy]. ctx bounds the waiting, not the question.
func (c *Cache) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	if p.Forge != c.config.Name || p.ID == "" {
		return unknown(repos, "forge "+c.config.Name+" has no such user"), nil
	}
	u := c.user(p.ID)
	facts := make([]Fact, len(repos))
	since := notBefore(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrBusy)
	defer cancel()
	var err error
	for range attempts {
		now := c.config.Now()
		missing, aging := c.recall(u, repos, facts, now, since)
		if len(aging) > 0 {
			c.join(u, p, aging, now.Add(-hardLimit), true)
		}
		if len(missing) == 0 {
			return facts, nil
		}
		f := c.join(u, p, missing, since, false)
		select {
		case <-f.done:
			err = f.err
		case <-ctx.Done():
			return nil, c.gaveUp(ctx, "access")
		}
		if err != nil {
			return nil, err
		}
		if c.collect(u, f, repos, facts, since) {
			return facts, nil
		}
	}
	return nil, fmt.Errorf("ask forge %q: permissions changed while they were read", c.config.Name)
}

// recall fills facts with what is remembered, and with nothing where that is not enough. It returns the repositories that
// are not known, and those that are known and should be asked for again.
func (c *Cache) recall(u *userFacts, repos []Repo, facts []Fact, now, since time.Time) (missing, aging []Repo) {
	v, oldest := u.view.Load(), time.Duration(-1)
	for i, r := range repos {
		if r.Forge != c.config.Name {
			facts[i] = Fact{Repo: r, Origin: "another forge's repository"}
			continue
		}
		f, ok := v.find(c.names.number(r.ID))
		// By the wall clock as it is now: it may have been set since the cache was born, and since is another's.
		at := now.Add(-now.Sub(c.born.Add(time.Duration(f.at))))
		if !ok || at.Before(since) || !now.Before(f.after(at, f.life)) || c.overtaken(f.generation, u.id, r.ID) {
			facts[i] = Fact{}
			missing = append(missing, r)
			continue
		}
		if !now.Before(f.after(at, f.soft)) {
			aging = append(aging, r)
		}
		facts[i] = Fact{Repo: r, Access: f.access, At: at, NotAfter: f.after(at, f.life), Origin: c.origins.text(f.origin)}
		oldest = max(oldest, now.Sub(at))
	}
	if oldest >= 0 && len(missing) == 0 {
		c.used(oldest)
	}
	return missing, aging
}

// gaveUp says why somebody does not wait any longer.
func (c *Cache) gaveUp(ctx context.Context, what string) error {
	err := fmt.Errorf("wait for forge %q: %w", c.config.Name, context.Cause(ctx))
	if errors.Is(err, ErrBusy) {
		c.config.Asked(Asked{Forge: c.config.Name, What: what, Took: patience, Err: err})
	}
	return err
}

func (c *Cache) overtaken(generation uint64, user, repo string) bool {
	if c.config.Hub.Generation() == generation {
		return false
	}
	return c.config.Hub.Overtaken(generation, Concern{Forge: c.config.Name, User: user, Repos: []string{repo}})
}

// collect fills facts after a flight. It reports whether there is one for each repository, be it that the forge left the
// question open; there is none where an event overtook the answer.
func (c *Cache) collect(u *userFacts, f *flight, repos []Repo, facts []Fact, since time.Time) bool {
	missing, _ := c.recall(u, repos, facts, c.config.Now(), since)
	if len(missing) == 0 {
		return true
	}
	for i, r := range repos {
		if facts[i].Repo == r {
			continue
		}
		why, open := f.open[r.ID]
		if !open {
			return false
		}
		facts[i] = Fact{Repo: r, Origin: why}
	}
	return true
}

// used notes the age of the oldest fact of an answer.
func (c *Cache) used(age time.Duration) {
	c.config.Used(age)
	for {
		old := c.oldest.Load()
		if int64(age) <= old || c.oldest.CompareAndSwap(old, int64(age)) {
			return
		}
	}
}

// user returns where the facts about a user are kept, and makes room for a new one.
func (c *Cache) user(id string) *userFacts {
	now := c.config.Now().Unix()
	c.mu.RLock()
	u := c.users[id]
	c.mu.RUnlock()
	if u == nil {
		u = c.newUser(id)
	}
	if u.used.Load() != now {
		u.used.Store(now)
	}
	return u
}

func (c *Cache) newUser(id string) *userFacts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.users[id]; u != nil {
		return u
	}
	for len(c.users) >= maxUsers {
		delete(c.users, c.leastUsed())
	}
	u := &userFacts{id: id}
	c.users[id] = u
	return u
}

// leastUsed returns the user who was not asked about for longest, of a few that chance picks. The caller holds mu.
func (c *Cache) leastUsed() string {
	var least *userFacts
	looked := 0
	for _, u := range c.users {
		if least == nil || u.used.Load() < least.used.Load() {
			least = u
		}
		if looked++; looked == 8 {
			break
		}
	}
	return least.id
}

// jitter spreads what is due at once: d, or up to a fifth more or less.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)*2/5+1)) - d/5
}
