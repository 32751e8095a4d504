package authn

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	maxForgeToken    = 1024             // bytes of a forge's token
	passPatience     = 10 * time.Second // for a forge to say whether it knows a token
	passVerify       = 8                // questions to the forge at a time
	passRemember     = 10 * time.Second // how long a token that the forge does not know is not asked about again
	maxRefusedTokens = 10_000
	// Anybody can show tokens that nobody has. So many a second are asked about: people come with theirs once in half a day.
	passUnseen, passUnseenBurst = 5, 200
)

// HeldTokens keeps tokens of a forge in memory, by ids that do not tell them, so that a forge.Probe can ask with them. It is
// safe for concurrent use.
type HeldTokens struct {
	key  Secret
	most int
	life time.Duration
	now  func() time.Time

	mu   sync.Mutex               // guards what follows
	byID map[string]*list.Element // of *heldToken
	used *list.List               // the last used one in front
}

type heldToken struct {
	id      string
	token   Secret
	expires time.Time
}

// NewHeldTokens returns an empty memory for at most so many tokens, each for so long. The key makes ids: the same at all nodes of a gate, or a
// token would be another principal at each, and known to nobody else, or ids could be tried out.
func NewHeldTokens(key Secret, most int, life time.Duration, now func() time.Time) (*HeldTokens, error) {
	if len(key.Reveal()) < 32 {
		return nil, errors.New("the key for the ids of held tokens has less than 32 bytes")
	}
	if most < 1 || life <= 0 {
		return nil, fmt.Errorf("%d tokens for %v: want at least one, for some time", most, life)
	}
	if now == nil {
		now = time.Now
	}
	return &HeldTokens{key: key, most: most, life: life, now: now, byID: map[string]*list.Element{}, used: list.New()}, nil
}

// TokenOf returns the token with that id, if it is held.
func (h *HeldTokens) TokenOf(id string) (Secret, bool) {
	t, ok := h.of(id)
	return t.token, ok
}

func (h *HeldTokens) of(id string) (heldToken, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.byID[id]
	if e == nil {
		return heldToken{}, false
	}
	t := e.Value.(*heldToken)
	if !h.now().Before(t.expires) {
		h.drop(e)
		return heldToken{}, false
	}
	h.used.MoveToFront(e)
	return *t, true
}

// drop is for callers that hold mu.
func (h *HeldTokens) drop(e *list.Element) {
	delete(h.byID, e.Value.(*heldToken).id)
	h.used.Remove(e)
}

// hold keeps a token. The one that was not used for longest makes room.
func (h *HeldTokens) hold(id string, token Secret) heldToken {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.byID[id]; e != nil {
		h.drop(e)
	}
	for h.used.Len() >= h.most {
		h.drop(h.used.Back())
	}
	t := &heldToken{id: id, token: token, expires: h.now().Add(h.life)}
	h.byID[id] = h.used.PushFront(t)
	return *t
}

// id returns the id of a forge's token.
func (h *HeldTokens) id(forge string, token Secret) string {
	mac := hmac.New(sha256.New, []byte(h.key.Reveal()))
	mac.Write([]byte(forge + "\x00" + token.Reveal()))
	return hex.EncodeToString(mac.Sum(nil))
}

// TokenVerifier asks a forge whether it knows a token; forge.Probe is one. The error wraps [ErrNobody] when it does not; any other
// means that nothing was learnt. It is safe for concurrent use.
type TokenVerifier interface {
	VerifyToken(ctx context.Context, token Secret) error
}

// PassthroughConfig is what a [Passthrough] needs.
type PassthroughConfig struct {
	Forge string // whose tokens they are
	// Prefixes are what the forge's tokens begin with, such as "glpat-". Empty: any text is taken for one that is no gate token and
	// no ID token, also a password, and shown to the forge.
	Prefixes []string
	Held     *HeldTokens
	Verifier TokenVerifier
}

// Passthrough is the [Authenticator] for tokens of a forge, shown as a Basic password or as Bearer. A token that the forge knows
// becomes a principal whose id is a MAC of it: who holds it is not known, and nothing else is his. It is safe for concurrent use.
type Passthrough struct {
	config  PassthroughConfig
	flights singleflight.Group
	slots   chan struct{}

	unseen *rate.Limiter // tokens that are shown for the first time

	mu      sync.Mutex           // guards refused
	refused map[string]time.Time // ids that the forge did not know, and until when that is remembered
}

var _ Authenticator = (*Passthrough)(nil)

// NewPassthrough checks the configuration.
func NewPassthrough(c PassthroughConfig) (*Passthrough, error) {
	switch {
	case c.Forge == "":
		return nil, errors.New("tokens of a forge: no forge is named")
	case c.Held == nil || c.Verifier == nil:
		return nil, fmt.Errorf("tokens of forge %q: nothing holds or verifies them", c.Forge)
	}
	for _, p := range c.Prefixes {
		if p == "" || strings.HasPrefix(tokenPrefix, p) || strings.HasPrefix(p, tokenPrefix) {
			return nil, fmt.Errorf("tokens of forge %q: the prefix %q is, or may be, that of gate tokens", c.Forge, p)
		}
	}
	return &Passthrough{config: c, slots: make(chan struct{}, passVerify), unseen: rate.NewLimiter(passUnseen, passUnseenBurst), refused: map[string]time.Time{}}, nil
}

// Authenticate implements [Authenticator].
func (p *Passthrough) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if !p.mine(c.Token.Reveal()) {
		return Principal{}, ErrNotMine
	}
	if len(c.Token.Reveal()) > maxForgeToken || !isToken(c.Token.Reveal()) {
		return Principal{}, refuse(BadCredential, "", "no token of a forge: it is too long, or holds more than letters, digits and signs")
	}
	id := p.config.Held.id(p.config.Forge, c.Token)
	t, held := p.config.Held.of(id)
	if !held {
		var err error
		if t, err = p.verify(ctx, id, c.Token); err != nil {
			return Principal{}, err
		}
	}
	name := "token-" + id[:8]
	return Principal{Forge: p.config.Forge, ID: id, Name: name, Kind: Human, Expires: t.expires, Credential: "forge-" + name}, nil
}

// mine reports whether text may be a token of the forge. An ID token is not, even if nobody else wants it here: the forge could use
// it in its owner's name.
func (p *Passthrough) mine(text string) bool {
	if text == "" || strings.HasPrefix(text, tokenPrefix) || strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2 {
		return false
	}
	for _, prefix := range p.config.Prefixes {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return len(p.config.Prefixes) == 0
}

// isToken reports whether text is printable ASCII without blanks.
func isToken(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// verify asks the forge, once for all who show the token at the same time, and holds what it knows.
func (p *Passthrough) verify(ctx context.Context, id string, token Secret) (heldToken, error) {
	unknown := refuse(UnknownToken, "", "the forge %q does not know this token", p.config.Forge)
	if p.wasRefused(id) {
		return heldToken{}, unknown
	}
	if !p.unseen.AllowN(p.config.Held.now(), 1) {
		return heldToken{}, fmt.Errorf("ask forge %q about a token: too many that were not seen before", p.config.Forge)
	}
	answer := p.flights.DoChan(id, func() (any, error) {
		if t, held := p.config.Held.of(id); held { // the flight before has just landed
			return t, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), passPatience)
		defer cancel()
		if err := p.ask(ctx, token); err != nil {
			return heldToken{}, err
		}
		return p.config.Held.hold(id, token), nil
	})
	select {
	case <-ctx.Done():
		return heldToken{}, ctx.Err()
	case result := <-answer:
		if errors.Is(result.Err, ErrNobody) {
			p.refuse(id)
			return heldToken{}, unknown
		}
		if result.Err != nil {
			return heldToken{}, fmt.Errorf("ask forge %q about a token: %w", p.config.Forge, result.Err)
		}
		return result.Val.(heldToken), nil
	}
}

func (p *Passthrough) ask(ctx context.Context, token Secret) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.config.Verifier.VerifyToken(ctx, token)
}

func (p *Passthrough) wasRefused(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.Held.now().Before(p.refused[id])
}

func (p *Passthrough) refuse(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refused) >= maxRefusedTokens {
		clear(p.refused)
	}
	p.refused[id] = p.config.Held.now().Add(passRemember)
}
