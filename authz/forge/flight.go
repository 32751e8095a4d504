package forge

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// lane is the questions about one user that are under way: one flies, and those that come meanwhile make up the next. So
// a burst of questions costs two.
type lane struct{ flying, next *flight }

// flight is one question to a forge, with all who wait for its answer.
type flight struct {
	principal  authn.Principal
	repos      []Repo
	since      time.Time // facts must be as young as this
	begun      time.Time // zero until it flies
	generation uint64    // of events, when it began
	background bool
	done       chan struct{} // closed once what follows is there
	err        error
	open       map[string]string // why the forge said nothing of a repository, by its id
}

// covers reports whether a flight answers a question about a user: it is about the same, was asked late enough, and no event
// has overtaken it yet.
func (c *Cache) covers(f *flight, u *userFacts, repos []Repo, since time.Time) bool {
	if f == nil || f.begun.Before(since) {
		return false
	}
	for _, r := range repos {
		if !slices.Contains(f.repos, r) || c.overtaken(f.generation, u.id, r.ID) {
			return false
		}
	}
	return true
}

func (f *flight) add(repos []Repo, since time.Time) {
	for _, r := range repos {
		if !slices.Contains(f.repos, r) {
			f.repos = append(f.repos, r)
		}
	}
	if since.After(f.since) {
		f.since = since
	}
}

// join returns the flight that will answer a question about a user, a new one if need be.
func (c *Cache) join(u *userFacts, p authn.Principal, repos []Repo, since time.Time, background bool) *flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := &u.lanes[0]
	if background {
		if c.covers(own.flying, u, repos, since) {
			return own.flying
		}
		own = &u.lanes[1]
	}
	if c.covers(own.flying, u, repos, since) {
		return own.flying
	}
	if own.next == nil {
		own.next = &flight{principal: p, background: background, done: make(chan struct{})}
	}
	f := own.next
	f.add(repos, since)
	if own.flying == nil {
		c.takeOff(u, own)
	}
	return f
}

// takeOff lets the next flight of a lane fly. The caller holds the user's mu.
func (c *Cache) takeOff(u *userFacts, l *lane) {
	f := l.next
	l.flying, l.next = f, nil
	if f == nil {
		return
	}
	f.begun, f.generation = c.config.Now(), c.config.Hub.Generation()
	go func() {
		c.fly(u, f)
		// Whoever is woken and asks again must not meet this flight again.
		defer close(f.done)
		u.mu.Lock()
		defer u.mu.Unlock()
		c.takeOff(u, l)
	}()
}

// fly asks, and keeps what no event overtook. It never panics: one forge must not stop the others.
func (c *Cache) fly(u *userFacts, f *flight) {
	defer func() {
		if r := recover(); r != nil {
			f.err = fmt.Errorf("ask forge %q: panic: %v", c.config.Name, r)
			c.config.Logger.Error("a forge's provider panicked", "forge", c.config.Name, "panic", r)
		}
	}()
	hub := c.config.Hub
	q := &asking{generation: f.generation, begun: f.begun, trust: hub.Trust(f.begun), since: f.since}
	q.position, q.shareable = hub.Position()
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	if f.background {
		ctx = InBackground(ctx)
	}
	repos, shared := c.fromShared(ctx, u, q, f.repos)
	if len(repos) == 0 {
		return
	}
	facts, err := c.ask(ctx, f.principal, q, c.along(u, repos))
	if err != nil {
		f.err = err
		return
	}
	fresh := c.keep(u, q, facts)
	f.open = open(facts)
	if q.shareable {
		c.toShared(ctx, u, q, shared, c.kept(fresh, facts))
	}
}

// along returns repos, and others that somebody was asked about before, of which nothing is known for the user, as many as the forge
// takes at once.
func (c *Cache) along(u *userFacts, repos []Repo) []Repo {
	bulk, ok := c.config.Provider.(Bulk)
	if !ok || len(repos) >= bulk.Batch() {
		return repos
	}
	asked := make(map[string]bool, len(repos))
	for _, r := range repos {
		asked[r.ID] = true
	}
	v := u.view.Load()
	for i, id := range c.names.all() {
		if len(repos) >= bulk.Batch() {
			break
		}
		if _, known := v.find(uint32(i)); known || asked[id] {
			continue
		}
		repos = append(repos, Repo{Forge: c.config.Name, ID: id})
	}
	return repos
}

// asking is what was so when a question was put.
type asking struct {
	generation uint64
	position   uint64
	shareable  bool
	begun      time.Time
	since      time.Time
	trust      time.Duration // 0 for no limit
}

// ask puts the question to the forge. It trusts nothing that the forge says of time.
func (c *Cache) ask(ctx context.Context, p authn.Principal, q *asking, repos []Repo) ([]Fact, error) {
	since := q.since
	if q.trust > 0 && q.begun.After(since) {
		since = q.begun
	}
	begun := time.Now()
	facts, err := c.config.Provider.Access(NotBefore(ctx, since), p, repos)
	if err == nil {
		err = CheckFacts(repos, facts)
	}
	c.config.Asked(Asked{Forge: c.config.Name, What: "access", Background: isBackground(ctx), Took: time.Since(begun), Err: err})
	if err != nil {
		return nil, fmt.Errorf("ask forge %q: %w", c.config.Name, err)
	}
	facts = slices.Clone(facts)
	for i := range facts {
		c.bound(&facts[i], q)
	}
	return facts, nil
}

// bound limits a fact to what the gate promises: no age from the future, no life beyond the hard limit or, for a node that
// is out of touch, a moment.
func (c *Cache) bound(f *Fact, q *asking) {
	if f.Access != Read && f.Access != None {
		f.Access = Unknown
		return
	}
	now := c.config.Now()
	if f.At.After(now) {
		f.At = now
	}
	life := hardLimit
	if q.trust > 0 {
		life = q.trust
	}
	if f.Access == None {
		life = min(life, softLimit)
	}
	if end := f.At.Add(life); f.NotAfter.After(end) {
		f.NotAfter = end
	}
	switch {
	case !now.Before(f.NotAfter):
		f.Access, f.Origin = Unknown, "too old when it arrived: "+f.Origin
	case f.At.Before(q.since):
		f.Access, f.Origin = Unknown, "older than the artifact: "+f.Origin
	}
}

// open returns what the forge left open, with its reasons.
func open(facts []Fact) map[string]string {
	var out map[string]string
	for _, f := range facts {
		if f.Access == Unknown {
			if out == nil {
				out = make(map[string]string)
			}
			out[f.Repo.ID] = f.Origin
		}
	}
	return out
}

// keep remembers what no event overtook and nothing younger contradicts, and returns it.
func (c *Cache) keep(u *userFacts, q *asking, facts []Fact) []cached {
	fresh := make([]cached, 0, len(facts))
	for _, f := range facts {
		if f.Access == Unknown || c.overtaken(q.generation, u.id, f.Repo.ID) {
			continue
		}
		next := cached{
			at: int64(f.At.Sub(c.born)), generation: q.generation, repo: c.names.number(f.Repo.ID), origin: c.origin(f.Origin),
			life: milliseconds(f.NotAfter.Sub(f.At)), access: f.Access,
		}
		soft := softLimit
		if f.Access == None {
			soft = negativeLimit
		}
		next.soft = min(next.life, milliseconds(jitter(soft)))
		fresh = append(fresh, next)
	}
	u.mu.Lock()
	fresh, changed := u.learn(fresh, int64(c.config.Now().Sub(c.born)))
	u.mu.Unlock()
	if changed {
		c.config.Changed(c.config.Name, u.id)
	}
	return fresh
}

// kept returns the facts that are remembered as the forge said them: neither overtaken nor doubted.
func (c *Cache) kept(fresh []cached, facts []Fact) []Fact {
	as := make(map[uint32]Access, len(fresh))
	for _, f := range fresh {
		as[f.repo] = f.access
	}
	var out []Fact
	for _, f := range facts {
		if access, ok := as[c.names.number(f.Repo.ID)]; ok && access == f.Access {
			out = append(out, f)
		}
	}
	return out
}

// origin numbers where a fact came from. Providers say so in few different words; one that does not is cut short.
func (c *Cache) origin(text string) uint32 {
	const most = 10_000
	c.origins.mu.RLock()
	full := len(c.origins.texts) >= most
	c.origins.mu.RUnlock()
	if full {
		text = "forge " + c.config.Name
	}
	return c.origins.number(clip(text))
}
