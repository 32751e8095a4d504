package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

// ErrResting is wrapped by errors of a [Transport] that asks nothing for a while: the forge said so, or it failed too often.
var ErrResting = errors.New("the forge is not asked for a while")

// TransportConfig is what a [Transport] needs.
type TransportConfig struct {
	Forge      string            // for logs
	Base       http.RoundTripper // http.DefaultTransport when nil
	PerSecond  float64           // requests; required
	Burst      int               // requests; required
	Concurrent int               // requests; required
	// Foreign is for requests that show other people's tokens: a 401 says nothing of the gate's own.
	Foreign bool
	Now     func() time.Time // time.Now when nil
	Logger  *slog.Logger     // nil: silent
}

// Transport keeps within what a forge bears: so many requests a second and at once, none while the forge asks for a rest,
// and none but a probe while it fails. Of requests that [InBackground] marks, half as many run at once, and they leave half
// of the burst to the others. It is safe for concurrent use.
type Transport struct {
	config  TransportConfig
	slots   chan struct{}
	behind  chan struct{} // of the requests in the background
	limiter *rate.Limiter
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	rested  atomic.Int64 // Unix nanoseconds: no request before
	refused atomic.Bool  // the forge has just refused the gate's token, which more requests do not mend
}

// NewTransport checks c and returns a Transport.
func NewTransport(c TransportConfig) (*Transport, error) {
	if c.PerSecond <= 0 || c.Burst < 2 || c.Concurrent < 2 {
		return nil, fmt.Errorf("forge %q: limits of %g requests a second, %d in a burst, %d at once: want more than 0, and at least 2 and 2",
			c.Forge, c.PerSecond, c.Burst, c.Concurrent)
	}
	if c.Base == nil {
		c.Base = http.DefaultTransport
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Transport{
		config: c, slots: make(chan struct{}, c.Concurrent), behind: make(chan struct{}, c.Concurrent/2),
		limiter: rate.NewLimiter(rate.Limit(c.PerSecond), c.Burst),
	}
	t.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: c.Forge, MaxRequests: 1, Interval: 10 * time.Second, Timeout: 5 * time.Second,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return t.refused.Load() || n.ConsecutiveFailures >= 5 || n.Requests >= 20 && 2*n.TotalFailures >= n.Requests
		},
		OnStateChange: func(name string, from, to gobreaker.State) {
			c.Logger.Warn("the forge's circuit breaker changed", "forge", name, "from", from.String(), "to", to.String())
		},
	})
	return t, nil
}

// RoundTrip implements [http.RoundTripper]. It waits for its turn for as long as the request's context allows.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	release, err := t.enter(r.Context())
	if err != nil {
		return nil, err
	}
	settle, err := t.breaker.Allow()
	if err != nil {
		release()
		return nil, fmt.Errorf("%w: it failed too often", ErrResting)
	}
	answer, err := t.config.Base.RoundTrip(r)
	failure := t.failure(r, answer, err)
	t.refused.Store(hasStatus(failure, http.StatusUnauthorized))
	settle(failure)
	if err != nil {
		release()
		return nil, err
	}
	t.rest(answer)
	answer.Body = &countedBody{ReadCloser: answer.Body, release: release}
	return answer, nil
}

// enter waits until a request may go. release is called once it is over.
func (t *Transport) enter(ctx context.Context) (release func(), err error) {
	if wait := time.Unix(0, t.rested.Load()).Sub(t.config.Now()); wait > 0 {
		return nil, fmt.Errorf("%w: it asked for a rest of %s more", ErrResting, wait.Round(time.Second))
	}
	background := isBackground(ctx)
	if background {
		if err := acquire(ctx, t.behind); err != nil {
			return nil, err
		}
	}
	leave := func() {
		if background {
			<-t.behind
		}
	}
	// The place first: a request that waits for one must not hold one of those that are allowed a second, and go later, with others.
	if err := acquire(ctx, t.slots); err != nil {
		leave()
		return nil, err
	}
	if err := t.take(ctx, background); err != nil {
		<-t.slots
		leave()
		return nil, err
	}
	return sync.OnceFunc(func() { <-t.slots; leave() }), nil
}

func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take takes one of the requests that are allowed a second. Those in the background wait until there are plenty.
func (t *Transport) take(ctx context.Context, background bool) error {
	for background && t.limiter.Tokens() < float64(t.config.Burst)/2 {
		missing := float64(t.config.Burst)/2 - t.limiter.Tokens() + 1
		pause := time.NewTimer(time.Duration(missing / t.config.PerSecond * float64(time.Second)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
	return t.limiter.Wait(ctx)
}

// failure returns what the circuit breaker is to count: that the forge did not do its work, or does not know the gate. One
// that asks for a rest works.
func (t *Transport) failure(r *http.Request, answer *http.Response, err error) error {
	switch {
	case err != nil && errors.Is(r.Context().Err(), context.Canceled):
		return nil // whoever asked has gone
	case err != nil:
		return err
	case answer.StatusCode == http.StatusUnauthorized && !t.config.Foreign && showsToken(r):
		t.config.Logger.Error("the forge refuses the gate's token: nothing can be learnt from it", "forge", t.config.Forge)
		return &statusError{answer.StatusCode}
	case answer.StatusCode >= 500:
		return &statusError{answer.StatusCode}
	}
	return nil
}

// showsToken reports whether a request carries a credential: without one a 401 is an answer.
func showsToken(r *http.Request) bool {
	return r.Header.Get("Authorization") != "" || r.Header.Get("Private-Token") != ""
}

const (
	// maxRest bounds how long a forge may silence the gate with one answer.
	maxRest = 15 * time.Minute
	// maxForeignRest is the same where the token was somebody else's, whose limit is nobody else's.
	maxForeignRest = 2 * time.Second
)

// rest stops asking for as long as the forge says. A limit that is used up is known before the first request fails.
func (t *Transport) rest(answer *http.Response) {
	h := answer.Header
	limited := answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable && h.Get("Retry-After") != "" ||
		answer.StatusCode == http.StatusForbidden && (h.Get("Retry-After") != "" || h.Get("X-Ratelimit-Remaining") == "0")
	usedUp := !t.config.Foreign && (h.Get("X-Ratelimit-Remaining") == "0" || h.Get("Ratelimit-Remaining") == "0")
	if !limited && !usedUp {
		return
	}
	longest := maxRest
	if t.config.Foreign {
		longest = maxForeignRest
	}
	now := t.config.Now()
	until := now.Add(min(restFor(h, now), longest))
	if limited && !until.After(now) {
		until = now.Add(time.Second)
	}
	if until.UnixNano() > t.rested.Load() {
		t.rested.Store(until.UnixNano())
		if limited {
			t.config.Logger.Warn("the forge asks for a rest", "forge", t.config.Forge, "status", answer.StatusCode, "rest", until.Sub(now).Round(time.Second))
		}
	}
}

// restFor reads for how long a forge wants to be left alone: Retry-After, in seconds or as a date, else the time at which a
// limit begins anew, as GitHub and GitLab give it.
func restFor(h http.Header, now time.Time) time.Duration {
	if text := h.Get("Retry-After"); text != "" {
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			return time.Duration(n) * time.Second
		}
		if at, err := http.ParseTime(text); err == nil {
			return at.Sub(now)
		}
	}
	for _, name := range []string{"X-Ratelimit-Reset", "Ratelimit-Reset"} {
		if n, err := strconv.ParseInt(h.Get(name), 10, 64); err == nil {
			return time.Unix(n, 0).Sub(now)
		}
	}
	return time.Second
}

// countedBody gives the request's place to the next when the answer has been read.
type countedBody struct {
	io.ReadCloser
	release func()
}

// Close implements [io.Closer].
func (b *countedBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
