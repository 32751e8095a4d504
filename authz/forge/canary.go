package forge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// CanaryName is the name of the canary's forge. No git server may have it: no host does.
const CanaryName = "canary.lychgate"

// canaryEvery is how often the canary's right is taken away.
const canaryEvery = 30 * time.Second

// CanaryConfig is what a [Canary] needs.
type CanaryConfig struct {
	Hub *Hub
	// Flown is called after each turn: how long it took until this node denied what it had allowed, until every node had
	// the event, and what went wrong. It must not block.
	Flown func(here, everywhere time.Duration, err error)
}

// Canary is a user whose right to read is taken away again and again, by an event as of any forge and through a [Cache] as
// of any forge, to see how long it takes. It is safe for concurrent use.
type Canary struct {
	config CanaryConfig
	may    atomic.Bool
	cache  *Cache
}

// NewCanary returns a canary that does not fly yet.
func NewCanary(c CanaryConfig) (*Canary, error) {
	k := &Canary{config: c}
	var err error
	k.cache, err = NewCache(CacheConfig{Name: CanaryName, Provider: k, Hub: c.Hub})
	return k, err
}

// Access implements [Provider].
func (k *Canary) Access(_ context.Context, _ authn.Principal, repos []Repo) ([]Fact, error) {
	now := time.Now()
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: now, NotAfter: now.Add(hardLimit), Origin: "the canary"}
		if k.may.Load() {
			facts[i].Access = Read
		}
	}
	return facts, nil
}

// Run lets the canary fly until ctx ends, and returns ctx's error.
func (k *Canary) Run(ctx context.Context) error {
	for {
		pause := time.NewTimer(jitter(canaryEvery))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
		here, everywhere, err := k.fly(ctx)
		if ctx.Err() == nil {
			k.config.Flown(here, everywhere, err)
		}
	}
}

// fly gives the right, sees it used, takes it away, tells everybody, and looks until it is gone.
func (k *Canary) fly(ctx context.Context) (here, everywhere time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*Fence)
	defer cancel()
	k.may.Store(true)
	// By another way than below: equal events that follow one another are gathered, which would be measured.
	if _, err := k.config.Hub.Tell(ctx, Event{Forge: CanaryName, User: "canary", Repo: "cage", Why: "the canary is let in"}); err != nil {
		return 0, 0, err
	}
	if a, err := k.ask(ctx); err != nil || a != Read {
		return 0, 0, fmt.Errorf("the canary may not read before it is revoked: %s: %w", a, err)
	}
	k.may.Store(false)
	began := time.Now()
	position, err := k.config.Hub.Tell(ctx, Event{Forge: CanaryName, User: "canary", Why: "the canary flies"})
	if err != nil {
		return 0, 0, err
	}
	if a, err := k.ask(ctx); err != nil || a != None {
		return 0, 0, fmt.Errorf("the canary still reads after it was revoked: %s: %w", a, err)
	}
	here = time.Since(began)
	late, err := k.config.Hub.Await(ctx, position)
	if err != nil || len(late) > 0 {
		return here, 0, fmt.Errorf("nodes did not hear of the canary: %q: %w", late, err)
	}
	return here, time.Since(began), nil
}

func (k *Canary) ask(ctx context.Context) (Access, error) {
	p := authn.Principal{Forge: CanaryName, ID: "canary", Kind: authn.Service}
	repos := []Repo{{Forge: CanaryName, ID: "cage"}}
	facts, err := k.cache.Access(ctx, p, repos)
	if err == nil {
		err = CheckFacts(repos, facts)
	}
	if err != nil {
		return Unknown, err
	}
	if facts[0].Access == Unknown {
		return Unknown, errors.New(facts[0].Origin)
	}
	return facts[0].Access, nil
}
