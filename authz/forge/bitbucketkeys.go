package forge

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// bitbucketKeysFor is how long the list of all keys is searched for one that is not in it, before it is read again: one request
// for each user.
const bitbucketKeysFor = 15 * time.Minute

// bitbucketKeys says whose each SSH key was when all were read. It is where to ask: whose a key is now, that user's own list says.
type bitbucketKeys struct {
	reading sync.Mutex // held while all keys are read, so that one reads for all

	// Guarded by Bitbucket.mu.
	owners     map[string]string // user ids by fingerprint
	read       time.Time         // before all were read; zero for never
	generation uint64            // counts what made the list old
	changed    map[string]bool   // users whose keys may have changed since
}

// bitbucketKey is one SSH key of a user.
type bitbucketKey struct {
	Text    string         `json:"text"`
	Created int64          `json:"createdDate"` // in milliseconds since 1970
	Expires int            `json:"expiryDays"`  // after Created; 0 for never
	User    *bitbucketUser `json:"bitbucketUser"`
}

func (k bitbucketKey) expired(now time.Time) bool {
	return k.Expires > 0 && !now.Before(time.UnixMilli(k.Created).Add(time.Duration(k.Expires)*24*time.Hour))
}

// KeyOwner implements [KeyOwners]. Bitbucket finds no key by its fingerprint, so all users' keys are read, one user after another, at first
// and when a key is not among them; at most every 15 minutes unless something has changed. A key that is among them is looked for
// in its owner's own list. Access keys of repositories and projects are in no user's.
func (b *Bitbucket) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	u, err := b.keyOwner(ctx, fingerprint)
	if err != nil {
		return User{}, fmt.Errorf("look up user by key %q: %w", clip(fingerprint), err)
	}
	return u.user(), nil
}

func (b *Bitbucket) keyOwner(ctx context.Context, fingerprint string) (bitbucketUser, error) {
	if !isFingerprint(fingerprint) {
		return bitbucketUser{}, ErrNoUser
	}
	if u, err := b.ownerNow(ctx, fingerprint); !errors.Is(err, ErrNoUser) {
		return u, err
	}
	if err := b.readChanged(ctx); err != nil {
		return bitbucketUser{}, err
	}
	if u, err := b.ownerNow(ctx, fingerprint); !errors.Is(err, ErrNoUser) {
		return u, err
	}
	if err := b.readAll(ctx); err != nil {
		return bitbucketUser{}, err
	}
	return b.ownerNow(ctx, fingerprint)
}

// ownerNow asks the user whose key it was, if there is one.
func (b *Bitbucket) ownerNow(ctx context.Context, fingerprint string) (bitbucketUser, error) {
	b.mu.Lock()
	id := b.keys.owners[fingerprint]
	b.mu.Unlock()
	if id == "" {
		return bitbucketUser{}, ErrNoUser
	}
	u, err := b.byID(ctx, id)
	if err != nil {
		return bitbucketUser{}, err
	}
	keys, err := b.keysOf(ctx, u)
	if err != nil {
		return bitbucketUser{}, err
	}
	if !slices.Contains(keys, fingerprint) {
		return bitbucketUser{}, ErrNoUser
	}
	return u, nil
}

// keysOf returns the fingerprints of a user's keys. The parameter was named otherwise in older servers.
func (b *Bitbucket) keysOf(ctx context.Context, u bitbucketUser) ([]string, error) {
	var prints []string
	var lie error
	now := b.config.Now()
	err := bitbucketAll(ctx, b.api, url.Values{"user": {u.Slug}, "userName": {u.Name}}, func(k bitbucketKey) bool {
		if k.User != nil && k.User.ID != u.ID {
			lie = errOtherThing
			return false
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Text))
		if err == nil && !k.expired(now) { // what is not understood opens nothing
			prints = append(prints, ssh.FingerprintSHA256(key))
		}
		return true
	}, "rest", "ssh", "latest", "keys")
	if err = errors.Join(err, lie); err != nil {
		return nil, fmt.Errorf("list the keys of user %s: %w", u.id(), err)
	}
	return prints, nil
}

// readChanged reads the keys of the users of whom something was told.
func (b *Bitbucket) readChanged(ctx context.Context) error {
	b.mu.Lock()
	changed := b.keys.changed
	b.keys.changed = nil
	b.mu.Unlock()
	for id := range changed {
		if err := b.readOne(ctx, id); err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.keys.mark(changed)
			return err
		}
	}
	return nil
}

func (k *bitbucketKeys) mark(users map[string]bool) {
	if k.changed == nil {
		k.changed = make(map[string]bool)
	}
	for id := range users {
		k.changed[id] = true
	}
}

func (b *Bitbucket) readOne(ctx context.Context, id string) error {
	u, err := b.byID(ctx, id)
	if errors.Is(err, ErrNoUser) {
		return nil
	}
	if err != nil {
		return err
	}
	keys, err := b.keysOf(ctx, u)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys.owners == nil {
		return nil // they are read with all others'
	}
	for _, fingerprint := range keys {
		if other, taken := b.keys.owners[fingerprint]; taken && other != id {
			b.keys.outdate() // one of them has it no more, or it is neither's
			continue
		}
		b.keys.owners[fingerprint] = id
	}
	return nil
}

// outdate has all keys read again before any is said to be nobody's. The caller holds Bitbucket.mu.
func (k *bitbucketKeys) outdate() {
	k.read = time.Time{}
	k.generation++
}

// readAll reads everybody's keys, unless that was done lately.
func (b *Bitbucket) readAll(ctx context.Context) error {
	b.keys.reading.Lock()
	defer b.keys.reading.Unlock()
	now := b.config.Now()
	b.mu.Lock()
	age, generation := now.Sub(b.keys.read), b.keys.generation
	current := !b.keys.read.IsZero() && age >= 0 && age < bitbucketKeysFor
	b.mu.Unlock()
	if current {
		return nil
	}
	users, err := b.everybody(ctx)
	if err != nil {
		return fmt.Errorf("list the users: %w", err)
	}
	owners, err := b.ownersAmong(ctx, users)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys.owners = owners
	if b.keys.generation == generation {
		b.keys.read = now
	}
	return nil
}

// ownersAmong asks each user for their keys. A key of two is neither's: a server that does not understand whose keys it is asked for
// returns the asker's own, each time.
func (b *Bitbucket) ownersAmong(ctx context.Context, users map[string]bitbucketUser) (map[string]string, error) {
	var (
		mu     sync.Mutex // guards owners
		owners = make(map[string]string)
	)
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(parallelQuestions)
	for id, u := range users {
		asking.Go(func() error {
			keys, err := b.keysOf(ctx, u)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, fingerprint := range keys {
				if other, taken := owners[fingerprint]; taken && other != id {
					b.config.Logger.Warn("a key of two users is neither's", "forge", b.config.Name, "key", fingerprint)
					owners[fingerprint] = ""
					continue
				}
				owners[fingerprint] = id
			}
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	return owners, nil
}

// Forget implements [Forgetter]. All that is remembered is where to ask, and that a key is nobody's.
func (b *Bitbucket) Forget(e Event) {
	if e.Forge != "" && e.Forge != b.config.Name || e.Repo != "" && e.User == "" && e.Key == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.User != "" {
		b.keys.mark(map[string]bool{e.User: true})
		return
	}
	b.keys.outdate()
}
