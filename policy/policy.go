// Package policy is the rule: an [authz.Policy] written in Rego and run on an embedded OPA.
//
// The gate gathers the facts first and hands them over as one input document (docs/policy-input.md). A policy is a
// pure function of that document and of its bundle's own data, so stock `opa test` runs it, and its answers can be
// remembered: at load the engine computes which members of the input the answer can depend on.
//
// Whatever goes wrong is a denial: an error, a panic, a missed deadline, an answer that is undefined, is not a boolean
// or contradicts itself.
package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/authn"
)

// ErrBroken is wrapped by every error that Evaluate returns: the policy broke its contract or could not be run. The
// decision that comes with it is a denial.
var ErrBroken = errors.New("policy is broken")

// pollEvery is how often [Engine.Run] reads the directory. A change is taken up when two polls in a row read the same.
const pollEvery = time.Second

const defaultDeadline = 500 * time.Millisecond

// Config says which policy to run.
type Config struct {
	// Dir holds the bundle: *.rego, their *_test.rego, data.json and an optional .manifest. Empty means the shipped
	// default, which is embedded.
	Dir string
	// Data is what the gate's configuration tells the policy; it appears as data.lychgate.config. The shipped default
	// reads transitive (a boolean) and zones[ZONE].signers (a list of identities). A bundle's own data may not set the
	// same members.
	Data map[string]any
	// Deadline bounds one evaluation; 0 means 500 ms. It is there to stop a policy that runs away, so it lies far above
	// what one costs: on a machine that is busy with a build, 50 ms were seen to be missed by an evaluation of 0.2 ms,
	// and a missed deadline is a missing artifact.
	Deadline time.Duration
	// Now is the clock; nil means [time.Now]. No decision reads it: decisions use the time in their facts.
	Now func() time.Time
	// Log is told of activations and of refused bundles; nil means silence.
	Log *slog.Logger
	// OnActivate is called by [Engine.Run] for the revision it starts with and for each one that replaces it, in order.
	OnActivate func(Activation)
}

// Activation says that a revision came into force.
type Activation struct {
	Revision  string
	Previous  string // empty for the first
	Source    string // the directory, or "embedded"
	At        time.Time
	Footprint authz.Footprint
}

// Status says what is in force and whether the last reload failed.
type Status struct {
	Revision string    `json:"revision"`
	Source   string    `json:"source"`
	Since    time.Time `json:"since"`
	// Error is why the directory's present content is not in force; empty when it is.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
}

// Engine runs one policy revision at a time. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	inputs *inputs
	active atomic.Pointer[active]

	// watch is Run's own state and what Status shows of it.
	mu    sync.Mutex
	watch watch
}

// active is a revision with the moment it came into force.
type active struct {
	*revision
	since time.Time
}

var _ authz.Policy = (*Engine)(nil)

// New loads the policy and refuses one that does not compile in strict mode, lacks an entry point or its default, or
// fails its own tests; the error says where. It starts nothing: see [Engine.Run].
func New(cfg Config) (*Engine, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	e := &Engine{cfg: cfg, inputs: newInputs()}
	t, err := e.read()
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", e.source(), err)
	}
	rev, err := e.build(context.Background(), t)
	if err != nil {
		return nil, fmt.Errorf("load policy %s: %w", e.source(), err)
	}
	e.active.Store(&active{rev, cfg.Now()})
	return e, nil
}

// source names where the policy comes from.
func (e *Engine) source() string { return sourceName(e.cfg.Dir) }

// read reads the bundle's files.
func (e *Engine) read() (*tree, error) { return readTree(e.cfg.Dir, e.cfg.Data) }

// build makes a revision of a tree and runs the bundle's own tests. The embedded bundle's are run by this package's.
func (e *Engine) build(ctx context.Context, t *tree) (*revision, error) {
	rev, err := newRevision(t, e.cfg.Deadline)
	if err != nil || e.cfg.Dir == "" {
		return rev, err
	}
	return rev, t.passTests(ctx)
}

// Footprint says what the answers of the revision in force can depend on.
func (e *Engine) Footprint() authz.Footprint { return e.active.Load().footprint }

// Status says what is in force.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.active.Load()
	s := Status{Revision: a.name, Source: e.source(), Since: a.since}
	if e.watch.err != nil {
		s.Error, s.ErrorAt = e.watch.err.Error(), e.watch.errAt
	}
	return s
}

// Evaluate asks the revision in force. The decision that comes with an error is a denial; the error wraps [ErrBroken].
// It ends with [Config].Deadline or with ctx, whichever is first.
func (e *Engine) Evaluate(ctx context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	rev := e.active.Load().revision
	if r.Principal == nil || f == nil {
		return refusal(rev, f, "policy_error", errors.New("a question needs a principal and facts"))
	}
	input, err := e.inputs.document(&r, f)
	if err != nil {
		return refusal(rev, f, "policy_error", err)
	}
	a, fault := rev.ask(ctx, input)
	if fault != nil {
		return refusal(rev, f, fault.code, fault.err)
	}
	return decision(rev, &r, f, a), nil
}

// decision turns a well-formed answer into a Decision. An anonymous principal needs the policy's express word.
func decision(rev *revision, r *authz.Request, f *authz.Facts, a answer) authz.Decision {
	d := authz.Decision{Reasons: a.reasons, Rule: a.rule, Revision: rev.name, AnonymousOK: a.allow && a.anonymousOK, Facts: f}
	switch {
	case !a.allow:
	case r.Principal.Kind == authn.Anonymous && !a.anonymousOK:
		d.Reasons = []string{"anonymous: the policy allows this to those who signed in only"}
	default:
		d.Verdict = authz.Allow
	}
	return d
}

// refusal is the denial that a broken policy gives. Its words for the reason are those of the error.
func refusal(rev *revision, f *authz.Facts, code string, err error) (authz.Decision, error) {
	err = fmt.Errorf("%w: revision %s: %s: %w", ErrBroken, rev.name, code, err)
	return authz.Decision{
		Verdict:  authz.Deny,
		Reasons:  []string{clip(code + ": " + err.Error())},
		Rule:     "engine",
		Revision: rev.name,
		Facts:    f,
	}, err
}
