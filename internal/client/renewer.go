package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// RenewerConfig is what [NewRenewer] needs. Client and Source are required.
type RenewerConfig struct {
	Client *Client
	Source TokenSource
	Order  gateway.TokenRequest // of each token
	Now    func() time.Time     // nil is time.Now
}

// Renewer holds a gate token that is good for a while yet. It gets another when two thirds of the token's life are over, and when the gate
// refuses it. What fails is tried again, ever more seldom, so that a gate that is away, or knows nobody by that credential, is not kept busy.
//
// It is safe for concurrent use. However many ask, one attempt is under way.
type Renewer struct {
	client *Client
	source TokenSource
	order  gateway.TokenRequest
	now    func() time.Time
	wake   chan struct{} // tells Run that something changed

	mu      sync.Mutex // guards what follows
	held    heldToken
	flight  chan struct{} // closed when the attempt under way is over; nil for none
	failed  int           // attempts in a row
	refused int           // tokens in a row that the gate refused as soon as it had made them
	err     error         // of the last attempt
	next    time.Time     // none is made before
}

// heldToken is a token and when it is replaced. Its times are the wall clock's, which goes on while a machine sleeps.
type heldToken struct {
	reply            gateway.TokenReply // without the token
	token            authn.Secret
	got, renew, ends time.Time
}

const (
	flightTime   = 3 * time.Minute // for one attempt: a key may wait for a touch
	minTokenLife = time.Minute     // what a new token is taken to live at least, whatever the two clocks say
	longestSleep = time.Minute     // between looks at the clock: timers stand still while a machine sleeps
)

// NewRenewer checks cfg. It gets no token yet: Run and Token do.
func NewRenewer(cfg RenewerConfig) (*Renewer, error) {
	if cfg.Client == nil || cfg.Source == nil {
		return nil, errors.New("a renewer needs a client and a source of tokens")
	}
	r := &Renewer{client: cfg.Client, source: cfg.Source, order: cfg.Order, now: cfg.Now, wake: make(chan struct{}, 1)}
	if r.now == nil {
		r.now = time.Now
	}
	return r, nil
}

// clock returns the time by the wall clock.
func (r *Renewer) clock() time.Time { return r.now().Round(0) }

// Run gets a token and renews it until ctx ends. Without it a token is renewed when somebody asks for it.
func (r *Renewer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		flight, due := r.due(ctx)
		timer := time.NewTimer(min(due, longestSleep))
		select {
		case <-ctx.Done():
		case <-flight:
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// due makes an attempt if it is time, and returns the attempt under way, or how long it is until the next.
func (r *Renewer) due(ctx context.Context) (flight <-chan struct{}, left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	if left = r.nextTry().Sub(now); left > 0 || r.flight != nil {
		return r.flight, max(left, time.Second)
	}
	r.start(ctx)
	return r.flight, longestSleep
}

// nextTry is when the next attempt is to be made. The caller holds mu.
func (r *Renewer) nextTry() time.Time {
	if r.held.token.IsZero() || r.held.renew.Before(r.next) {
		return r.next
	}
	return r.held.renew
}

// Token returns a token that is good for a while yet. It waits for one if there is none, and does not if the last attempt to get one failed just
// now: then it returns why.
func (r *Renewer) Token(ctx context.Context) (authn.Secret, error) {
	for {
		token, flight, err := r.take(ctx)
		if flight == nil {
			return token, err
		}
		select {
		case <-ctx.Done():
			return authn.Secret{}, ctx.Err()
		case <-flight:
		}
	}
}

// take returns the token, or why there is none, or the attempt to wait for.
func (r *Renewer) take(ctx context.Context) (token authn.Secret, flight <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	idle := r.flight == nil && !now.Before(r.next)
	if h := r.held; !h.token.IsZero() && now.Before(h.ends) {
		if idle && !now.Before(h.renew) {
			r.start(context.WithoutCancel(ctx))
		}
		return h.token, nil, nil
	}
	if r.flight == nil && !idle {
		return authn.Secret{}, nil, fmt.Errorf("there is no token for the gate: %w (the next attempt is at %s)", r.err, r.next.Local().Format(time.TimeOnly))
	}
	if idle {
		r.start(context.WithoutCancel(ctx)) // who asked may leave, and others wait for it too
	}
	return authn.Secret{}, r.flight, nil
}

// start makes an attempt in the background. The caller holds mu, and there is none under way.
func (r *Renewer) start(ctx context.Context) {
	flight := make(chan struct{})
	r.flight = flight
	go func() {
		defer close(flight)
		within, cancel := context.WithTimeout(ctx, flightTime)
		defer cancel()
		reply, err := r.source.Token(within, r.client, r.order)
		r.land(reply, err, ctx.Err() != nil)
	}()
}

// land notes what came of an attempt. One that was broken off because Run ended is none.
func (r *Renewer) land(reply gateway.TokenReply, err error, brokenOff bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flight = nil
	switch {
	case err == nil:
		r.hold(reply)
	case !brokenOff:
		r.err = err
		r.next = r.clock().Add(backoff(err, r.failed))
		r.failed++
	}
}

// hold takes a new token. The caller holds mu.
func (r *Renewer) hold(reply gateway.TokenReply) {
	now := r.clock()
	h := heldToken{token: authn.NewSecret(reply.Token), reply: reply, got: now}
	h.reply.Token = ""
	ends, err := time.Parse(time.RFC3339, reply.Expires)
	if err != nil || ends.Sub(now) < minTokenLife { // a clock is wrong, or the token is for a moment
		ends = now.Add(minTokenLife)
	}
	life := ends.Sub(now)
	h.renew = now.Add(life * time.Duration(620+rand.IntN(80)) / 1000)
	h.ends = ends.Add(-min(life/10, time.Minute))
	r.held, r.err, r.failed, r.next = h, nil, 0, time.Time{}
}

// Refused says that the gate did not take a token. If it is the one that is held, another is got at once; when the gate refuses one after the other as
// soon as it has made it, ever more slowly.
func (r *Renewer) Refused(token authn.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held.token.IsZero() || token.Reveal() != r.held.token.Reveal() {
		return
	}
	now := r.clock()
	switch {
	case now.Sub(r.held.got) >= minTokenLife:
		r.refused = 0
	case r.refused == 0: // it may have been revoked
		r.refused = 1
	default:
		r.err = errors.New("the gate refused a token that it had just made: are its nodes one gate?")
		r.next = now.Add(pause(time.Second, 2*time.Minute, r.refused-1))
		r.refused++
	}
	r.held = heldToken{}
	select {
	case r.wake <- struct{}{}:
	default: // it is told already
	}
}

// backoff returns how long to wait after a failed attempt that others went before. What the gate said no to is asked again seldom; what it was not
// asked costs it nothing.
func backoff(err error, before int) time.Duration {
	var refused *Error
	switch {
	case isRefusal(err), errors.Is(err, ErrPerson):
		return pause(30*time.Second, 10*time.Minute, before)
	case errors.Is(err, ErrNoKey):
		return pause(time.Second, 10*time.Second, before)
	case errors.As(err, &refused):
		return max(refused.retryAfter, pause(2*time.Second, 5*time.Minute, before))
	}
	return pause(time.Second, 2*time.Minute, before)
}

// pause doubles first for each attempt before, up to longest, give or take a fifth, so that many who failed together do not come back together.
func pause(first, longest time.Duration, before int) time.Duration {
	d := min(first<<min(before, 20), longest)
	return d * time.Duration(800+rand.IntN(400)) / 1000
}

// RenewerStatus is what people may want to know of a Renewer.
type RenewerStatus struct {
	Source     string
	User, Name string // who the gate takes one for: "FORGE/ID", and a name to show; empty without a token
	TokenID    string
	Expires    time.Time // zero: there is no token
	Renewing   bool      // an attempt is under way
	Err        error     // of the last attempt; nil: it went well, or there was none
	Next       time.Time // when the next attempt is made, unless one is under way
}

// Status returns how things are.
func (r *Renewer) Status() RenewerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RenewerStatus{Source: r.source.String(), Renewing: r.flight != nil, Err: r.err, Next: r.nextTry()}
	if h := r.held; !h.token.IsZero() && r.clock().Before(h.ends) {
		s.User, s.Name, s.TokenID = h.reply.User, h.reply.Name, h.reply.ID
		s.Expires, _ = time.Parse(time.RFC3339, h.reply.Expires) // checkReply read it
	}
	return s
}

// End revokes the token that is held, if any, so that none is left behind. Asked for a token after it, the Renewer gets another.
func (r *Renewer) End(ctx context.Context) error {
	r.mu.Lock()
	token := r.held.token
	r.held = heldToken{}
	r.mu.Unlock()
	if token.IsZero() {
		return nil
	}
	err := r.client.As(token).RevokeToken(ctx, "current")
	if isRefusal(err) {
		return nil // it has ended
	}
	return err
}
