package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/audit"
)

// ErrThrottled is wrapped, beside ErrUnauthenticated, when an address or the holder of a credential failed to sign in too often.
// Good credentials are never throttled, but for ID tokens and proofs of SSH keys, whose signatures cost work before anything is known of them.
var ErrThrottled = errors.New("too many refused credentials")

// throttled is the reason of refusals that were not looked into.
const throttled authn.Reason = "throttled"

// What an address, and what the subject of a credential, may fail: a burst, for builds that start with an old token, and then
// so many a second.
const (
	addressBurst, addressRate = 200, 2
	subjectBurst, subjectRate = 50, 1
	maxFailing                = 20_000 // addresses and subjects that are remembered
)

// failures counts refused credentials. It is safe for concurrent use.
type failures struct {
	now func() time.Time

	mu      sync.Mutex // guards failing and what it holds
	failing map[string]*failing
}

// failing is somebody who failed.
type failing struct {
	*rate.Limiter
	spent bool // at the last failure
}

// fail counts a failure. It reports whether there were too many, and whether they became too many just now.
func (f *failing) fail(now time.Time) (tooOften, first bool) {
	was := f.spent
	f.spent = !f.AllowN(now, 1)
	return f.spent, f.spent && !was
}

func newFailures(now func() time.Time) *failures {
	return &failures{now: now, failing: map[string]*failing{}}
}

// spent reports whether an address has failed too often to be looked into.
func (f *failures) spent(address netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.failing[addressKey(address)]
	return l != nil && l.TokensAt(f.now()) < 1
}

// note counts a failure of an address, and of a subject unless it is empty. It reports whether one of them has failed too often,
// and whether that is new.
func (f *failures) note(address netip.Addr, subject string) (tooOften, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	tooOften, first = f.of(addressKey(address), addressRate, addressBurst).fail(now)
	if subject != "" {
		subjectToo, subjectFirst := f.of("subject "+subject, subjectRate, subjectBurst).fail(now)
		tooOften, first = tooOften || subjectToo, first || subjectFirst
	}
	return tooOften, first
}

// of returns who has that key. The caller holds mu.
func (f *failures) of(key string, each rate.Limit, burst int) *failing {
	l := f.failing[key]
	if l == nil {
		f.makeRoom()
		l = &failing{Limiter: rate.NewLimiter(each, burst)}
		f.failing[key] = l
	}
	return l
}

// makeRoom forgets those who have not failed for long, and if all have, any: a forgotten one begins with a full burst.
func (f *failures) makeRoom() {
	if len(f.failing) < maxFailing {
		return
	}
	now := f.now()
	for key, l := range f.failing {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(f.failing, key)
		}
	}
	for key := range f.failing {
		if len(f.failing) < maxFailing {
			return
		}
		delete(f.failing, key)
	}
}

// addressKey is what failures are counted by: an IPv4 address, or the /64 of an IPv6 one, which is one host's to choose from.
func addressKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if network, err := a.Prefix(64); err == nil {
			return "address " + network.String()
		}
	}
	return "address " + a.String()
}

// refuse records a refused credential. What a client sent without a credential is not an event: wget asks
// that way before every file.
func (g *Gateway) refuse(door Door, cause error) error {
	if errors.Is(cause, authn.ErrAnonymous) {
		return fmt.Errorf("%w: %w", ErrUnauthenticated, cause)
	}
	var r *authn.Refusal
	isRefusal := errors.As(cause, &r)
	if !isRefusal {
		r = &authn.Refusal{Reason: "fault"}
		if errors.Is(cause, authn.ErrRefused) {
			r.Reason = "user_refused"
		}
	}
	tooOften, first := false, false
	if errors.Is(cause, authn.ErrRefused) {
		tooOften, first = g.failures.note(door.Remote.Addr(), r.Subject)
	}
	g.Refused(door.Name, r.Reason)
	if err := g.recordRefusal(door, cause, first); err != nil {
		return err
	}
	switch {
	case tooOften:
		return fmt.Errorf("%w: %w: %w", ErrUnauthenticated, ErrThrottled, cause)
	case errors.Is(cause, authn.ErrRefused):
		return fmt.Errorf("%w: %w", ErrUnauthenticated, cause)
	}
	return fmt.Errorf("%w: authenticate: %w", ErrUnavailable, cause)
}

// recordRefusal leaves an event, unless they come too fast to record each; then the next one counts them. That somebody is
// throttled from now on is always recorded.
func (g *Gateway) recordRefusal(door Door, cause error, throttledNow bool) error {
	if !g.refused.Allow() && !throttledNow {
		g.hidden.Add(1)
		return nil
	}
	e := &audit.Event{
		Kind: "auth.refuse", Door: door.Name,
		Actor:    audit.Actor{Remote: door.Remote.String()},
		Decision: audit.Decision{Verdict: "deny", Reasons: []string{cause.Error()}, FactAge: -1},
	}
	if throttledNow {
		e.Decision.Reasons = append(e.Decision.Reasons, string(throttled)+": this address or credential was refused too often and has to wait")
	}
	if n := g.hidden.Swap(0); n > 0 {
		e.Detail = fmt.Sprintf("%d more were refused before this one, too fast to record each", n)
	}
	if _, err := g.Journal.Append(e); err != nil {
		return fmt.Errorf("%w: record a refused credential: %w", ErrUnavailable, err)
	}
	return nil
}
