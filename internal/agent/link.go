package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

// What pauses are between questions to a gate that does not answer, and to one that refused the credential.
const (
	firstPause   = time.Second
	longestPause = 15 * time.Second
	refusedPause = 5 * time.Second
)

// errLost is what is wrong while the gate is not asked.
var errLost = errors.New("the gate did not answer a moment ago")

// tokenError is about the credential. It is opaque: a token's file that is not there is no object that is not there.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }

// link is the way to the gate: with which credential, and whether it is worth asking. While the gate does not answer, one question in each
// pause is asked, and all others fail at once, so that a build is slow for a moment and not for each object.
type link struct {
	client *client.Client // without a token
	creds  Credentials
	now    func() time.Time
	warn   *warnings
	log    *slog.Logger

	mu         sync.Mutex // guards what follows
	token      authn.Secret
	known      bool // token was asked for
	generation uint64
	refused    time.Time // until when the token is not shown again
	tokenFault string
	lost       error // why the gate is not asked, nil while it answers
	since      time.Time
	pause      time.Duration
	next       time.Time // when it is asked again
	answered   time.Time // when it last answered
	named      uint64    // the generation that the gate was asked about
	who        string    // whom it takes us for; empty: not known
	until      time.Time // the end of the token; zero: not known, or none
}

// do has ask ask the gate something, which it tries that many times while it does not answer, and a second time when the gate wants another
// token and there is one. It returns the generation of the token with which the answer came: what was learnt with one token is not used with
// another.
func (l *link) do(ctx context.Context, attempts int, ask func(*client.Client) error) (generation uint64, err error) {
	lost, err := l.ready()
	if err != nil {
		return 0, err
	}
	if lost {
		attempts = 1
	}
	for first := true; ; first = false {
		c, token, generation, err := l.signedIn(ctx)
		if err != nil {
			return 0, err
		}
		err = ask(c.WithAttempts(attempts))
		if err != nil && errors.Is(context.Cause(ctx), errSlow) {
			err = errSlow
		}
		if !isUnauthorized(err) {
			l.judge(ctx, err, asked{lost, generation})
			return generation, err
		}
		l.creds.Refused(token)
		next, err := l.creds.Token(ctx)
		switch {
		case first && err == nil && next.Reveal() != token.Reveal():
			continue
		case err != nil && ctx.Err() != nil:
			return 0, err // nobody waits for the answer
		}
		return 0, l.turnedAway(token, err)
	}
}

// ready returns an error when the gate is not to be asked now, and reports whether it did not answer before.
func (l *link) ready() (lost bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		return false, nil
	}
	now := l.now()
	if now.Before(l.next) {
		return true, fmt.Errorf("%w: %w", errLost, l.lost)
	}
	l.next = now.Add(l.pause) // this question alone is asked
	return true, nil
}

// signedIn returns a client with the token of now. A token that was refused is tried by one question in each pause.
func (l *link) signedIn(ctx context.Context) (*client.Client, authn.Secret, uint64, error) {
	token, generation, err := l.current(ctx, true)
	if err != nil {
		return nil, token, 0, err
	}
	return l.client.As(token), token, generation, nil
}

// current returns the token of now and its generation, unless it was refused a moment ago. try is whether it is shown to the gate.
func (l *link) current(ctx context.Context, try bool) (authn.Secret, uint64, error) {
	token, err := l.creds.Token(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.tokenFault = err.Error()
		l.changed(authn.Secret{})
		l.warn.add(causeToken, err.Error())
		return token, 0, &tokenError{err}
	}
	l.changed(token)
	now := l.now()
	if now.Before(l.refused) {
		return token, 0, &tokenError{errors.New(l.tokenFault)}
	}
	if try && !l.refused.IsZero() {
		l.refused = now.Add(refusedPause)
	}
	return token, l.generation, nil
}

// changed begins a generation when the token is another one. l.mu is held.
func (l *link) changed(token authn.Secret) {
	if l.known && token.Reveal() == l.token.Reveal() {
		return
	}
	l.token, l.known = token, true
	l.generation++
	l.refused, l.who, l.until = time.Time{}, "", time.Time{}
}

// generationNow returns the generation of the token of now. While the gate is lost nobody waits for a token that it would have to renew.
func (l *link) generationNow(ctx context.Context) (uint64, error) {
	if err := l.away(); err != nil {
		return 0, err
	}
	_, generation, err := l.current(ctx, false)
	return generation, err
}

// away returns why the gate is not asked now, nil when it is.
func (l *link) away() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil && l.now().Before(l.next) {
		return fmt.Errorf("%w: %w", errLost, l.lost)
	}
	return nil
}

// turnedAway notes that the gate does not take the credential. none is why there is no other; nil: there is just this one.
func (l *link) turnedAway(token authn.Secret, none error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := "the gate does not take the token: it has ended or was revoked; run lychgate login"
	switch {
	case none != nil:
		text = "the gate does not take the token: it has ended or was revoked; " + none.Error()
	case token.IsZero():
		text = "the gate takes nobody without a token, nor the client certificate if one was shown; run lychgate login"
	}
	l.lost, l.pause = nil, 0
	if token.Reveal() == l.token.Reveal() { // not one that was replaced meanwhile
		l.tokenFault, l.refused = text, l.now().Add(refusedPause)
		l.generation++ // what was learnt with it is not used any more
		l.who, l.until = "", time.Time{}
		l.warn.add(causeToken, text)
	}
	return &tokenError{errors.New(text)}
}

// asked is how things were when the gate was asked: whether it was known that it does not answer, and the generation of the token.
type asked struct {
	lost       bool
	generation uint64
}

// judge notes whether the gate answers.
func (l *link) judge(ctx context.Context, err error, when asked) {
	var refusal *client.Error
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		l.worked(when)
	case errors.As(err, &refusal) && refusal.Status < http.StatusInternalServerError:
		l.worked(when)
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errSlow):
	case refusal != nil || client.Unreachable(err) || errors.Is(context.Cause(ctx), errSlow):
		l.failed(plain(err), when)
	}
}

// plain leaves out which of many requests a fault of the network befell. What was given up though its asker waits, was so because nothing came.
func plain(err error) error {
	var of *url.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errSlow
	case errors.As(err, &of):
		return of.Err
	}
	return err
}

// worked notes that the gate answered. What it began to answer before it turned the token away says nothing of the token.
func (l *link) worked(when asked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answered = l.now()
	if l.lost != nil {
		l.log.Info("the gate answers again", "after", l.now().Sub(l.since).Round(time.Second))
		l.lost, l.pause = nil, 0
	}
	l.warn.over(causeGate)
	if when.generation == l.generation {
		l.tokenFault, l.refused = "", time.Time{}
		l.warn.over(causeToken)
	}
}

// failed notes that the gate did not answer. The pauses grow with each question that was asked because one was over, and not with each of those that
// were under way together when the gate went.
func (l *link) failed(err error, when asked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.warn.add(causeGate, "the gate does not answer; nothing is found until it does: "+err.Error())
	if l.lost != nil && !when.lost {
		return
	}
	if l.lost == nil {
		l.since = l.now()
	}
	l.lost = err
	l.pause = min(max(firstPause, 2*l.pause), longestPause)
	l.next = l.now().Add(l.pause)
}

// idle reports whether a lost gate could have been asked again for a while, and nobody had a question.
func (l *link) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost != nil && l.now().Sub(l.next) >= longestPause
}

// replaced reports whether there is another token than the one that the gate did not take.
func (l *link) replaced(ctx context.Context) bool {
	l.mu.Lock()
	fault, shown := l.tokenFault, l.token
	l.mu.Unlock()
	if fault == "" {
		return false
	}
	token, err := l.creds.Token(ctx)
	return err == nil && token.Reveal() != shown.Reveal()
}

// nameless reports whether the gate answers, and has not been asked whom it takes us for since the token changed. It is told once.
func (l *link) nameless() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil || l.tokenFault != "" || l.answered.IsZero() || l.named == l.generation {
		return false
	}
	l.named = l.generation
	return true
}

// greetTime is how long somebody who asks how things are waits for a gate that was asked nothing yet.
const greetTime = 3 * time.Second

// greet asks the gate whom it takes us for, if it was asked nothing yet: what is wrong with a new agent is known when a person wants to know it.
func (l *link) greet(ctx context.Context) {
	l.mu.Lock()
	untried := l.lost == nil && l.tokenFault == "" && l.answered.IsZero()
	l.mu.Unlock()
	if !untried {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, greetTime, errSlow)
	defer cancel()
	l.introduce(ctx)
}

// introduce asks the gate whom it takes us for, for people.
func (l *link) introduce(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, presenceTime, errSlow)
	defer cancel()
	var me gateway.Whoami
	generation, err := l.do(ctx, 1, func(c *client.Client) (err error) {
		me, err = c.Whoami(ctx)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || generation != l.generation {
		return
	}
	l.who = fmt.Sprintf("%s (%s/%s)", me.Name, me.Forge, me.ID)
	l.until, _ = time.Parse(time.RFC3339, me.Expires) // empty, when there is no end
}

func isUnauthorized(err error) bool {
	var refusal *client.Error
	return errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized
}
