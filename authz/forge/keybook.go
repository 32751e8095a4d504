package forge

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	keyBookFresh = 60 * time.Second // a listing is good for that long
	keyBookPause = 2 * time.Second  // and for that long also where it has nothing to say
)

// keyBook remembers whose SSH keys are, as a forge lists all of them in one answer. It is safe for concurrent use.
type keyBook struct {
	list func(context.Context) (map[string][]string, error) // fingerprint -> users
	now  func() time.Time
	turn chan struct{} // holds one token for who lists

	mu    sync.Mutex // guards what follows
	keys  map[string][]string
	at    time.Time // before keys were asked for; zero when there are none
	epoch int       // how often forget was called
}

func newKeyBook(list func(context.Context) (map[string][]string, error), now func() time.Time) *keyBook {
	return &keyBook{list: list, now: now, turn: make(chan struct{}, 1)}
}

// owners returns the users with a key: none, one, or more. The slice is not to be changed.
func (b *keyBook) owners(ctx context.Context, fingerprint string) ([]string, error) {
	if !isFingerprint(fingerprint) {
		return nil, nil
	}
	since := notBefore(ctx)
	if owners, ok := b.known(fingerprint, since); ok {
		return owners, nil
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if owners, ok := b.known(fingerprint, since); ok { // who had the turn before has listed
		return owners, nil
	}
	err := b.relist(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && (b.at.IsZero() || b.at.Before(since) || b.now().Sub(b.at) >= hardLimit) {
		return nil, err
	}
	return b.keys[fingerprint], nil
}

// known reports whether the book can answer as it is, by what was listed at a time or later.
func (b *keyBook) known(fingerprint string, since time.Time) ([]string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	owners := b.keys[fingerprint]
	age := b.now().Sub(b.at)
	return owners, !b.at.IsZero() && !b.at.Before(since) && age >= 0 && (age < keyBookPause || len(owners) > 0 && age < keyBookFresh)
}

// relist lists until no forget has come between. The caller has the turn.
func (b *keyBook) relist(ctx context.Context) error {
	const most = 5
	for range most {
		b.mu.Lock()
		epoch, at := b.epoch, b.now()
		b.mu.Unlock()
		keys, err := b.list(ctx)
		if err != nil {
			return err
		}
		b.mu.Lock()
		current := b.epoch == epoch
		if current {
			b.keys, b.at = keys, at
		}
		b.mu.Unlock()
		if current {
			return nil
		}
	}
	return fmt.Errorf("the keys changed %d times while they were listed", most)
}

// forget makes the next answer rest on a listing that begins later.
func (b *keyBook) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch++
	b.keys, b.at = nil, time.Time{}
}
