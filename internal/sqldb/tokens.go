package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

const (
	// keepExpired is how long an expired token stays in the file.
	keepExpired = 30 * 24 * time.Hour
	// sweepEvery is how often expired tokens leave memory.
	sweepEvery = 10 * time.Minute
)

// tokenRow is a row of the table of tokens.
type tokenRow struct {
	change  int64
	mac     [32]byte
	info    authn.TokenInfo
	revoked bool
}

// principalJSON is how a principal lies in the file.
type principalJSON struct {
	Forge  string         `json:"forge"`
	ID     string         `json:"id"`
	Name   string         `json:"name"`
	Kind   authn.Kind     `json:"kind"`
	Groups []string       `json:"groups,omitempty"`
	Roles  []string       `json:"roles,omitempty"`
	Claims map[string]any `json:"claims,omitempty"`
	Review bool           `json:"review,omitzero"`
}

func marshalPrincipal(p authn.Principal) (string, error) {
	text, err := json.Marshal(principalJSON{p.Forge, p.ID, p.Name, p.Kind, p.Groups, p.Roles, p.Claims, p.Review})
	return string(text), err
}

func unmarshalPrincipal(text []byte) (authn.Principal, error) {
	var p principalJSON
	if err := json.Unmarshal(text, &p, json.RejectUnknownMembers(true)); err != nil {
		return authn.Principal{}, err
	}
	return authn.Principal{
		Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: p.Kind, Groups: p.Groups, Roles: p.Roles, Claims: p.Claims, Review: p.Review,
	}, nil
}

func scanToken(rows *sql.Rows) (row tokenRow, err error) {
	var mac, principal, once sql.RawBytes
	var created, expires int64
	err = rows.Scan(&row.change, &mac, &row.info.ID, &principal, &created, &expires, &row.info.Note, &row.revoked, &row.info.Epoch, &once)
	if err != nil {
		return row, err
	}
	if copy(row.mac[:], mac) != len(row.mac) {
		return row, fmt.Errorf("token %q is cut short: %w", row.info.ID, ErrCorrupt)
	}
	copy(row.info.Once[:], once)
	if row.info.Principal, err = unmarshalPrincipal(principal); err != nil {
		return row, fmt.Errorf("token %q: %w: %w", row.info.ID, ErrCorrupt, err)
	}
	row.info.Created, row.info.Expires = time.UnixMicro(created).UTC(), time.UnixMicro(expires).UTC()
	return row, nil
}

// tokenIndex holds the tokens that are not revoked.
type tokenIndex struct {
	mu    sync.RWMutex // guards everything below
	byMAC map[[32]byte]*authn.TokenInfo
	swept time.Time
}

func (x *tokenIndex) apply(row tokenRow) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if row.revoked {
		delete(x.byMAC, row.mac)
		return
	}
	if x.byMAC == nil {
		x.byMAC = make(map[[32]byte]*authn.TokenInfo)
	}
	x.byMAC[row.mac] = &row.info
}

// expire drops, now and then, the tokens that have expired.
func (x *tokenIndex) expire(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now.Sub(x.swept) < sweepEvery {
		return
	}
	x.swept = now
	maps.DeleteFunc(x.byMAC, func(_ [32]byte, info *authn.TokenInfo) bool { return info.Expires.Before(now) })
}

func (x *tokenIndex) get(mac [32]byte) (authn.TokenInfo, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	info, ok := x.byMAC[mac]
	if !ok {
		return authn.TokenInfo{}, false
	}
	return *info, true
}

func (x *tokenIndex) list() []authn.TokenInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]authn.TokenInfo, 0, len(x.byMAC))
	for _, info := range x.byMAC {
		all = append(all, *info)
	}
	slices.SortFunc(all, func(a, b authn.TokenInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// guessesEvery is how often unknown tokens make the gate look at the file: whoever guesses waits, and costs it no more.
const guessesEvery = 50 * time.Millisecond

// catchUpSlowly returns once memory holds all that was committed before the call. Those who ask within guessesEvery wait for
// each other and share the work.
func (db *DB) catchUpSlowly(ctx context.Context) error {
	asked := db.now().Sub(db.follow.start)
	wait := time.Duration(db.follow.fresh.Load()) + guessesEvery - asked
	if wait > 0 && wait <= guessesEvery { // a clock that jumped makes nobody wait
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	db.follow.asking.Lock()
	defer db.follow.asking.Unlock()
	if time.Duration(db.follow.fresh.Load()) > asked {
		return nil
	}
	return db.refresh(ctx)
}

// TokenByMAC implements [authn.TokenStore]. It answers from memory that was compared with the file at most a second ago;
// when it cannot be, that is its error, for a token revoked meanwhile must not pass.
func (db *DB) TokenByMAC(ctx context.Context, mac [32]byte) (authn.TokenInfo, error) {
	if err := db.ensureFresh(ctx, freshFor); err != nil {
		return authn.TokenInfo{}, err
	}
	if info, ok := db.tokens.get(mac); ok {
		return info, nil
	}
	// Another process may have made it a moment ago, and its user tries it at once.
	if err := db.catchUpSlowly(ctx); err != nil {
		return authn.TokenInfo{}, err
	}
	if info, ok := db.tokens.get(mac); ok {
		return info, nil
	}
	return authn.TokenInfo{}, authn.ErrNoToken
}

// PutToken implements [authn.TokenStore]. It also forgets tokens that expired 30 days ago.
func (db *DB) PutToken(ctx context.Context, mac [32]byte, info authn.TokenInfo) error {
	principal, err := marshalPrincipal(info.Principal)
	if err != nil {
		return fmt.Errorf("encode principal of token %q: %w", info.ID, err)
	}
	err = db.write(ctx, func(b *batch) error {
		taken, err := b.one(ctx, takenToken, mac[:], info.ID)
		if err != nil {
			return err
		}
		if taken != 0 {
			return authn.ErrTokenExists
		}
		if err := b.allowToken(ctx, info); err != nil {
			return err
		}
		if _, err := b.exec(ctx, forgetTokens, db.now().Add(-keepExpired).UnixMicro()); err != nil {
			return err
		}
		_, err = b.exec(ctx, insertToken, mac[:], info.ID, principal, info.Created.UnixMicro(), info.Expires.UnixMicro(), info.Note,
			info.Epoch, orNull(info.Once), info.Principal.Key())
		return err
	})
	if err != nil {
		return fmt.Errorf("put token %q: %w", info.ID, err)
	}
	return nil
}

// allowToken refuses a token for a spent credential, and one that was on its way when all of its owner's were ended.
func (b *batch) allowToken(ctx context.Context, info authn.TokenInfo) error {
	ended, err := b.one(ctx, endedEpochs, info.Principal.Key())
	if err != nil {
		return err
	}
	if info.Epoch != uint64(ended)+1 {
		return authn.RefuseToken(authn.EndedEpoch, info.ID)
	}
	if info.Once == ([32]byte{}) {
		return nil
	}
	spent, err := b.one(ctx, spentToken, info.Once[:])
	if err == nil && spent != 0 {
		return authn.RefuseToken(authn.Replayed, info.ID)
	}
	return err
}

// orNull returns what a column holds that may be empty.
func orNull(digest [32]byte) any {
	if digest == ([32]byte{}) {
		return nil
	}
	return digest[:]
}

// Tokens implements [authn.TokenStore].
func (db *DB) Tokens(ctx context.Context) ([]authn.TokenInfo, error) {
	if err := db.refresh(ctx); err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return db.tokens.list(), nil
}

// RevokeToken implements [authn.TokenStore].
func (db *DB) RevokeToken(ctx context.Context, id string) error {
	err := db.write(ctx, func(b *batch) error {
		n, err := b.exec(ctx, revokeToken, id)
		if err == nil && n == 0 {
			return authn.ErrNoToken
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %q: %w", id, err)
	}
	return nil
}

// Epoch implements [authn.TokenStore].
func (db *DB) Epoch(ctx context.Context, key string) (uint64, error) {
	var ended uint64
	if err := db.reader.QueryRowContext(ctx, endedEpochs, key).Scan(&ended); err != nil {
		return 0, fmt.Errorf("read the epoch of %q: %w", key, classify(err))
	}
	return ended + 1, nil
}

// RevokeTokensOf implements [authn.TokenStore].
func (db *DB) RevokeTokensOf(ctx context.Context, key string) (int, error) {
	n := 0
	err := db.write(ctx, func(b *batch) error {
		if _, err := b.exec(ctx, endEpoch, key); err != nil {
			return err
		}
		var ids []string
		err := each(ctx, b.tx, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			ids = append(ids, id)
			return err
		}, ownTokens, key)
		if err != nil {
			return err
		}
		for _, id := range ids { // one by one: each takes a change number of its own
			if _, err := b.exec(ctx, revokeToken, id); err != nil {
				return err
			}
		}
		n = len(ids)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("revoke the tokens of %q: %w", key, err)
	}
	return n, nil
}
