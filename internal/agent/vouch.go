package agent

import (
	"context"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/client"
)

// Verifier opens a signed statement. What does not verify is an error that says why. It is safe for concurrent use.
type Verifier interface {
	Open(envelope []byte) (*provenance.Verified, error)
}

const (
	// vouchedTime is how long a statement counts without being opened anew: a key that is taken back counts no longer than that.
	vouchedTime = time.Minute
	// vouchedKept bounds how many objects are known to be vouched for.
	vouchedKept = 200_000
	// statementFetches is how many statements are fetched at once.
	statementFetches = 8
)

// vouching finds out whether a trusted signer vouches for an object: whether a signed statement names its name and its bytes. Statements are asked of
// the gate and believed for their signatures alone. One is about many objects, and is remembered for those; nothing about it is kept on disk,
// since other keys may count the next time.
//
// It is safe for concurrent use. A nil vouching asks for no statement.
type vouching struct {
	link     *link
	now      func() time.Time
	verifier Verifier
	zones    []string // that a statement may be for; none: any
	slots    chan struct{}

	mu         sync.Mutex // guards what follows
	young, old map[testimony]time.Time
	turned     time.Time // when young became old
}

// testimony is that an object has a digest.
type testimony struct {
	name   string
	digest artifact.Digest
}

func newVouching(conf Config, l *link) *vouching {
	if conf.Verifier == nil {
		return nil
	}
	return &vouching{link: l, now: conf.Now, verifier: conf.Verifier, zones: conf.VerifyZones, slots: make(chan struct{}, statementFetches)}
}

// unverifiedError is that nobody who is trusted vouches for an object. It is opaque: an object without a statement may well be there.
type unverifiedError struct{ cause, text string }

func (e *unverifiedError) Error() string { return e.text }

// check returns nil when a trusted signer vouches for the object with that digest, else an error. One that says that nobody does is an *unverifiedError.
func (v *vouching) check(ctx context.Context, k key, d artifact.Digest) error {
	if v == nil || v.recall(testimony{k.name, d}) {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, presenceTime, errSlow)
	defer cancel()
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if v.recall(testimony{k.name, d}) { // a statement that came meanwhile was about this object, too
		return nil
	}
	return v.ask(ctx, k, d)
}

// ask gets the statement about an object, and learns what it says of that and others.
func (v *vouching) ask(ctx context.Context, k key, d artifact.Digest) error {
	var envelope []byte
	_, err := v.link.do(ctx, getAttempts, func(c *client.Client) (err error) {
		envelope, err = c.Statement(ctx, k.zone, k.name)
		return err
	})
	switch {
	case isAbsent(err):
		return &unverifiedError{causeUnsigned, "the gate has no signed statement about it, or none that you may read"}
	case err != nil:
		return err
	}
	by, err := client.OpenStatement(v.verifier, v.zones, envelope)
	if err != nil {
		return &unverifiedError{causeSigner, "its statement is not trusted: " + err.Error()}
	}
	v.learn(by.Statement.Subjects)
	switch digest, named := subject(by.Statement, k.name); {
	case !named:
		return &unverifiedError{causeSigned, "the statement that the gate gives about it does not name it"}
	case digest != d:
		return &unverifiedError{causeSigned, "its bytes are others than those that " + by.Signer + " signed"}
	}
	return nil
}

func subject(st *provenance.Statement, name string) (d artifact.Digest, ok bool) {
	for _, s := range st.Subjects {
		if s.Name == name {
			return s.Digest, true
		}
	}
	return d, false
}

// recall reports whether somebody vouched for an object a short while ago.
func (v *vouching) recall(t testimony) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	at, ok := v.young[t]
	if !ok {
		at, ok = v.old[t]
	}
	return ok && v.now().Sub(at) < vouchedTime
}

// learn remembers what a trusted statement says.
func (v *vouching) learn(subjects []provenance.Subject) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.now()
	if v.young == nil || now.Sub(v.turned) > vouchedTime || len(v.young) >= vouchedKept/2 {
		v.old, v.young, v.turned = v.young, map[testimony]time.Time{}, now
	}
	for _, s := range subjects {
		v.young[testimony{s.Name, s.Digest}] = now
	}
}
