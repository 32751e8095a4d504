package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"
)

// A gate token is text of 53 characters:
//
//	lyg_   43 characters     6 characters
//	       256 random bits   CRC-32 (IEEE) of the 47 characters before, big-endian
//
// Both groups are unpadded base64url (RFC 4648 section 5) in its one canonical spelling. The prefix and the check let
// secret scanners find a leaked token without false alarms, and let the gate refuse a mistyped one without looking.
// The check is no secret and proves nothing.
const (
	tokenPrefix = "lyg_"
	tokenBody   = len(tokenPrefix) + 43
	tokenLen    = tokenBody + 6
)

// MaxTokenLife is the longest life of a token.
const MaxTokenLife = 366 * 24 * time.Hour

// ErrNoToken is wrapped by what a [TokenStore] returns for a token it does not hold, or that was revoked.
var ErrNoToken = errors.New("no such token")

// ErrBadOrder is wrapped by what [Tokens.Mint] returns for an order that cannot be filled: a mistake of who asks.
var ErrBadOrder = errors.New("bad order for a token")

// ErrTokenExists is wrapped by [TokenStore].PutToken for a MAC or an id that is taken, also by a revoked token.
var ErrTokenExists = errors.New("token exists")

// TokenInfo is what is known of a token; the token itself is known to its holder only. When a token was last
// used is in the audit trail: here it would turn every read into a write.
type TokenInfo struct {
	ID        string // short and public, for listing, revoking and the audit trail
	Principal Principal
	Created   time.Time
	Expires   time.Time
	Note      string // what it is for, in its maker's words
	Epoch     uint64 // of its principal, see [TokenStore]
	// Once, unless it is zero, is the digest of a credential that the token was given for, and that buys no other.
	Once [32]byte
}

// TokenStore keeps tokens by their MAC. It is safe for concurrent use. What PutToken and RevokeToken returned nil for
// survives a killed process and a power cut, and is seen by TokenByMAC in this process at once and in others
// that share the storage within two seconds; a store that cannot promise it returns an error.
type TokenStore interface {
	// TokenByMAC returns the token, or an error that wraps ErrNoToken. It is on the path of every request.
	// The Principal's slices and map are shared and not to be changed. Expired tokens may or may not be returned.
	TokenByMAC(ctx context.Context, mac [32]byte) (TokenInfo, error)
	// PutToken adds a token, or returns an error that wraps ErrTokenExists, or is a [Refusal]: [Replayed] when another token has the
	// same Once, also a revoked one, and [EndedEpoch] when Epoch is not the principal's any more.
	PutToken(ctx context.Context, mac [32]byte, info TokenInfo) error
	// Tokens lists what is neither revoked nor forgotten, oldest first. Tokens long expired may be forgotten.
	Tokens(ctx context.Context) ([]TokenInfo, error)
	// RevokeToken ends a token for good, or returns an error that wraps ErrNoToken.
	RevokeToken(ctx context.Context, id string) error
	// Epoch returns the epoch of the principal with that [Principal.Key]: 1, and one more for each RevokeTokensOf.
	Epoch(ctx context.Context, key string) (uint64, error)
	// RevokeTokensOf ends all tokens of the principal with that key, also those that are being made, and returns how many.
	RevokeTokensOf(ctx context.Context, key string) (int, error)
}

// TokensConfig is what [NewTokens] needs.
type TokensConfig struct {
	Store TokenStore
	// Key is the HMAC key, at least 32 random bytes, kept apart from the store: who reads the store alone can neither
	// use nor test a token. Another key ends all tokens.
	Key []byte
	// MaxTTL is the longest life Mint gives; zero is MaxTokenLife.
	MaxTTL time.Duration
	Now    func() time.Time // nil is time.Now
}

// Tokens makes and recognises gate tokens. It is safe for concurrent use.
type Tokens struct {
	store  TokenStore
	maxTTL time.Duration
	now    func() time.Time
	macs   sync.Pool // of *macer: making an HMAC costs more than using it
}

type macer struct {
	hash hash.Hash
	text []byte
	sum  []byte
}

var _ Authenticator = (*Tokens)(nil)

// NewTokens checks cfg. It does not touch the store.
func NewTokens(cfg TokensConfig) (*Tokens, error) {
	if cfg.Store == nil {
		return nil, errors.New("tokens need a store")
	}
	if len(cfg.Key) < 32 {
		return nil, fmt.Errorf("token key has %d bytes, want at least 32: make one with `openssl rand -out FILE 32`", len(cfg.Key))
	}
	if cfg.MaxTTL < 0 {
		return nil, fmt.Errorf("longest token life %v is negative", cfg.MaxTTL)
	}
	t := &Tokens{store: cfg.Store, maxTTL: cfg.MaxTTL, now: cfg.Now}
	if t.maxTTL == 0 {
		t.maxTTL = MaxTokenLife
	}
	if t.now == nil {
		t.now = time.Now
	}
	key := slices.Clone(cfg.Key)
	t.macs.New = func() any {
		return &macer{hash: hmac.New(sha256.New, key), text: make([]byte, 0, tokenLen), sum: make([]byte, 0, sha256.Size)}
	}
	return t, nil
}

// Authenticate knows tokens by their prefix. The principal's Credential is the token's id and its Expires
// the token's.
//
// Nothing here compares secrets: a token is found by its MAC under a key the asker does not have, so the time a look-up
// takes tells nothing about any other token.
func (t *Tokens) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	text := c.Token.Reveal()
	if !strings.HasPrefix(text, tokenPrefix) {
		return Principal{}, ErrNotMine
	}
	if err := checkToken(text); err != nil {
		return Principal{}, refuse(BadCredential, "", "malformed token: %v", err)
	}
	info, err := t.store.TokenByMAC(ctx, t.mac(text))
	if errors.Is(err, ErrNoToken) {
		return Principal{}, refuse(UnknownToken, "", "unknown or revoked token")
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up token: %w", err)
	}
	if !t.now().Before(info.Expires) {
		return Principal{}, refuse(ExpiredToken, info.ID, "expired at %s", info.Expires.UTC().Format(time.RFC3339))
	}
	p := info.Principal
	p.Credential, p.Expires = info.ID, info.Expires
	return p, nil
}

// Order says what token to make.
type Order struct {
	Principal Principal
	TTL       time.Duration // more than zero and at most the longest configured
	Note      string        // for listings: one line, at most 255 bytes
	Epoch     uint64        // the principal's, read before its credential was checked; 0: as it is now
	Once      [32]byte      // see [TokenInfo]
}

// Mint makes a token. The Secret is shown to its holder once and kept nowhere. An order that makes no sense is [ErrBadOrder]; one for
// a credential that is spent, or of a principal whose tokens were all ended meanwhile, is a [Refusal].
func (t *Tokens) Mint(ctx context.Context, o Order) (Secret, TokenInfo, error) {
	if err := t.checkOrder(&o); err != nil {
		return Secret{}, TokenInfo{}, fmt.Errorf("mint token: %w: %w", ErrBadOrder, err)
	}
	if o.Epoch == 0 {
		var err error
		if o.Epoch, err = t.Epoch(ctx, o.Principal); err != nil {
			return Secret{}, TokenInfo{}, fmt.Errorf("mint token: %w", err)
		}
	}
	now := t.now().UTC().Truncate(time.Microsecond) // what every store can keep exactly
	info := TokenInfo{
		ID: newTokenID(), Principal: o.Principal, Created: now, Expires: now.Add(o.TTL.Truncate(time.Microsecond)), Note: o.Note,
		Epoch: o.Epoch, Once: o.Once,
	}
	info.Principal.Groups = slices.Clone(o.Principal.Groups)
	info.Principal.Roles = slices.Clone(o.Principal.Roles)
	info.Principal.Credential, info.Principal.Expires = "", time.Time{}
	text := newToken()
	if err := t.store.PutToken(ctx, t.mac(text), info); err != nil {
		return Secret{}, TokenInfo{}, fmt.Errorf("keep token: %w", err)
	}
	return NewSecret(text), info, nil
}

func (t *Tokens) checkOrder(o *Order) error {
	if err := o.Principal.Validate(); err != nil {
		return err
	}
	if o.Principal.Kind == Anonymous {
		return errors.New("an anonymous principal needs no token")
	}
	if o.TTL <= 0 || o.TTL > t.maxTTL {
		return fmt.Errorf("life %v: want more than 0 and at most %v", o.TTL, t.maxTTL)
	}
	if err := checkText(o.Note); err != nil {
		return fmt.Errorf("note %.60q: %w", o.Note, err)
	}
	return nil
}

// Epoch returns the epoch of p's tokens.
func (t *Tokens) Epoch(ctx context.Context, p Principal) (uint64, error) {
	return t.store.Epoch(ctx, p.Key())
}

// RevokeAll ends all tokens of p, also those that are being made, and returns how many.
func (t *Tokens) RevokeAll(ctx context.Context, p Principal) (int, error) {
	return t.store.RevokeTokensOf(ctx, p.Key())
}

// List returns the tokens that are neither revoked nor forgotten, oldest first.
func (t *Tokens) List(ctx context.Context) ([]TokenInfo, error) { return t.store.Tokens(ctx) }

// Revoke ends the token with this id for good. Its error wraps [ErrNoToken] when there is none.
func (t *Tokens) Revoke(ctx context.Context, id string) error { return t.store.RevokeToken(ctx, id) }

// mac is what the store keeps in a token's place: HMAC-SHA-256 over the whole text.
func (t *Tokens) mac(text string) (sum [32]byte) {
	m := t.macs.Get().(*macer)
	m.hash.Reset()
	m.text = append(m.text[:0], text...)
	m.hash.Write(m.text)
	m.sum = m.hash.Sum(m.sum[:0])
	copy(sum[:], m.sum)
	clear(m.text)
	t.macs.Put(m)
	return sum
}

func newToken() string {
	var secret [32]byte
	rand.Read(secret[:]) // never fails: crypto/rand ends the process instead
	text := tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	return text + tokenCheck(text)
}

// newTokenID returns an id of 60 random bits.
func newTokenID() string { return "tok-" + strings.ToLower(rand.Text()[:12]) }

func tokenCheck(body string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(body)))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// checkToken reports what is wrong with the form of a token. Its errors never quote the text.
func checkToken(text string) error {
	if len(text) != tokenLen {
		return fmt.Errorf("has %d characters, want %d", len(text), tokenLen)
	}
	var secret [32]byte
	// Strict refuses spare bits, so that one token has one spelling; the length refuses the line breaks that the
	// decoder would pass over.
	n, err := base64.RawURLEncoding.Strict().Decode(secret[:], []byte(text[len(tokenPrefix):tokenBody]))
	if err != nil || n != len(secret) {
		return errors.New("is not base64url")
	}
	if text[tokenBody:] != tokenCheck(text[:tokenBody]) {
		return errors.New("its check does not match; it was mistyped or cut")
	}
	return nil
}
