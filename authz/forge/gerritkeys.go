package forge

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	gerritKeysEvery = 10 * time.Minute // how often the keys of all accounts are read
	gerritKeysPause = 30 * time.Second // not more often, whatever happens
	gerritOwnFresh  = 60 * time.Second // how long the keys of one account are taken as they were
	gerritPage      = 500
	gerritAccounts  = 100_000
	gerritDirty     = 1_000 // accounts that are read one by one; more are as good as all
)

// gerritKeys finds the account with a key. Gerrit cannot be asked for it: the keys of all accounts are read, one account after the other,
// and what that finds is a hint. Whether the account has the key now is asked of the account itself.
type gerritKeys struct {
	gerrit *Gerrit
	turn   chan struct{} // holds one token for who reads

	mu     sync.Mutex // guards what follows
	hints  map[string][]string
	own    map[string]gerritOwn // by account
	dirty  map[string]bool      // accounts that have changed since they were read
	stale  bool                 // any may have changed
	read   time.Time            // before all were read; zero: never
	forgot int                  // counts calls of forget
}

// gerritOwn is what one account said of itself.
type gerritOwn struct {
	user User
	keys []string
	at   time.Time
}

func newGerritKeys(g *Gerrit) *gerritKeys {
	return &gerritKeys{gerrit: g, turn: make(chan struct{}, 1), hints: map[string][]string{}, own: map[string]gerritOwn{}, dirty: map[string]bool{}}
}

// KeyOwner implements [KeyOwners]. A key of two accounts is nobody's.
func (g *Gerrit) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	u, err := g.keys.owner(ctx, fingerprint)
	if err != nil {
		return User{}, fmt.Errorf("look up the owner of the key %q: %w", clip(fingerprint), err)
	}
	return u, nil
}

func (k *gerritKeys) owner(ctx context.Context, fingerprint string) (User, error) {
	if !isFingerprint(fingerprint) {
		return User{}, ErrNoUser
	}
	if err := k.refresh(ctx, fingerprint); err != nil {
		return User{}, err
	}
	k.mu.Lock()
	accounts := slices.Clone(k.hints[fingerprint])
	k.mu.Unlock()
	var owners []User
	for _, id := range accounts {
		own, err := k.account(ctx, id)
		switch {
		case errors.Is(err, ErrNoUser):
		case err != nil:
			return User{}, err
		case slices.Contains(own.keys, fingerprint):
			owners = append(owners, own.user)
		}
	}
	if len(owners) != 1 {
		return User{}, fmt.Errorf("%d accounts have it: %w", len(owners), ErrNoUser)
	}
	return owners[0], nil
}

// refresh reads what has changed before a key can be said to be nobody's.
func (k *gerritKeys) refresh(ctx context.Context, fingerprint string) error {
	if !k.due(fingerprint) {
		return nil
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := k.readDirty(ctx); err != nil {
		return err
	}
	if !k.due(fingerprint) {
		return nil
	}
	return k.readAll(ctx)
}

// due reports whether something is to be read before the hints are good for a key.
func (k *gerritKeys) due(fingerprint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := k.gerrit.config.Now().Sub(k.read)
	switch {
	case k.read.IsZero() || len(k.dirty) > 0:
		return true
	case len(k.hints[fingerprint]) > 0:
		return false
	}
	return age >= gerritKeysEvery || k.stale && age >= gerritKeysPause || age < 0
}

// readDirty reads the accounts that have changed. The caller has the turn.
func (k *gerritKeys) readDirty(ctx context.Context) error {
	k.mu.Lock()
	dirty := k.dirty
	k.dirty = map[string]bool{}
	k.mu.Unlock()
	for id := range dirty {
		keys, err := k.gerrit.sshKeys(ctx, id)
		if err != nil && !errors.Is(err, ErrNoUser) {
			k.mu.Lock()
			for id := range dirty {
				k.dirty[id] = true
			}
			k.mu.Unlock()
			return err
		}
		k.mu.Lock()
		for _, key := range keys { // what an account has no more is found out when the hint is followed
			if !slices.Contains(k.hints[key], id) {
				k.hints[key] = append(slices.Clone(k.hints[key]), id)
			}
		}
		k.mu.Unlock()
	}
	return nil
}

// readAll reads the keys of all accounts. The caller has the turn.
func (k *gerritKeys) readAll(ctx context.Context) error {
	k.mu.Lock()
	at := k.gerrit.config.Now()
	stale := k.stale
	k.stale = false
	k.mu.Unlock()
	hints, err := k.gerrit.allKeys(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.stale = k.stale || stale
		return fmt.Errorf("read the keys of all accounts: %w", err)
	}
	k.hints, k.read = hints, at
	return nil
}

// account returns what an account says of itself, not longer ago than gerritOwnFresh.
func (k *gerritKeys) account(ctx context.Context, id string) (gerritOwn, error) {
	now := k.gerrit.config.Now()
	k.mu.Lock()
	own, forgot := k.own[id], k.forgot
	k.mu.Unlock()
	if age := now.Sub(own.at); !own.at.IsZero() && age >= 0 && age < gerritOwnFresh {
		return own, nil
	}
	own = gerritOwn{at: now}
	var err error
	if own.user, err = k.gerrit.User(ctx, id); err != nil {
		return own, err
	}
	own.user.NotAfter = now.Add(hardLimit)
	if own.keys, err = k.gerrit.sshKeys(ctx, id); err != nil {
		return own, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forgot != forgot {
		return own, errors.New("the account has changed while it was asked about")
	}
	if len(k.own) >= gerritAccounts {
		clear(k.own)
	}
	k.own[id] = own
	return own, nil
}

// Forget implements [Forgetter].
func (g *Gerrit) Forget(e Event) {
	if e.Forge != "" && e.Forge != g.config.Name || e.Repo != "" && e.User == "" && e.Key == "" {
		return
	}
	k := g.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot++
	if e.User != "" && isGerritAccount(e.User) && len(k.dirty) < gerritDirty {
		delete(k.own, e.User)
		k.dirty[e.User] = true
		return
	}
	clear(k.own)
	k.stale = true
}

// sshKeys returns the fingerprints of an account's keys.
func (g *Gerrit) sshKeys(ctx context.Context, id string) ([]string, error) {
	var keys []struct {
		Encoded string `json:"encoded_key"`
		Valid   bool   `json:"valid"`
	}
	err := g.rest.get(ctx, nil, &keys, "accounts", id, "sshkeys")
	if hasStatus(err, http.StatusNotFound) {
		return nil, ErrNoUser
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the keys of account %s: %w", id, err)
	}
	var fingerprints []string
	for _, key := range keys {
		blob, err := base64.StdEncoding.DecodeString(key.Encoded)
		if err != nil || !key.Valid || len(blob) == 0 {
			continue
		}
		sum := sha256.Sum256(blob)
		fingerprints = append(fingerprints, "SHA256:"+base64.RawStdEncoding.EncodeToString(sum[:]))
	}
	return fingerprints, nil
}

// allKeys reads the keys of all active accounts.
func (g *Gerrit) allKeys(ctx context.Context) (map[string][]string, error) {
	accounts, err := g.activeAccounts(ctx)
	if err != nil {
		return nil, err
	}
	hints := make(map[string][]string)
	var mu sync.Mutex // guards hints
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(gerritWidth)
	for _, id := range accounts {
		group.Go(func() error {
			keys, err := g.sshKeys(ctx, id)
			if errors.Is(err, ErrNoUser) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				if !slices.Contains(hints[key], id) {
					hints[key] = append(hints[key], id)
				}
			}
			return err
		})
	}
	return hints, group.Wait()
}

func (g *Gerrit) activeAccounts(ctx context.Context) (all []string, err error) {
	err = g.queryAccounts(ctx, url.Values{"q": {"is:active"}}, gerritAccounts, func(a gerritAccount) error {
		all = append(all, strconv.FormatInt(a.ID, 10))
		return nil
	})
	return all, err
}

// queryAccounts passes on all accounts that are found, up to most.
func (g *Gerrit) queryAccounts(ctx context.Context, query url.Values, most int, each func(gerritAccount) error) error {
	query.Set("n", strconv.Itoa(gerritPage))
	for start := 0; start < most; {
		var page []gerritAccount
		query.Set("S", strconv.Itoa(start))
		if err := g.collection("accounts").get(ctx, query, &page); err != nil {
			return fmt.Errorf("ask for the accounts: %w", err)
		}
		for _, a := range page {
			if id := strconv.FormatInt(a.ID, 10); !isGerritAccount(id) {
				return fmt.Errorf("ask for the accounts: the account id %s", id)
			}
			if err := each(a); err != nil {
				return err
			}
		}
		if len(page) == 0 || !page[len(page)-1].More {
			return nil
		}
		start += len(page)
	}
	return fmt.Errorf("there are more than %d accounts", most)
}
