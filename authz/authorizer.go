package authz

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// ErrUnavailable is wrapped by errors that say nothing about the asker: something that had to be asked did not answer.
// Asking again may succeed.
var ErrUnavailable = errors.New("cannot be decided now")

const (
	// softAge is how long a principal's groups, roles and facts are used before they are asked for again.
	softAge = 60 * time.Second
	// negativeAge is softAge for "may not read": new grants should work soon.
	negativeAge = 10 * time.Second
	// hardAge is when a fact is worth nothing, whatever its provider promises.
	hardAge = 300 * time.Second
	// degradedAge is how long a question that a forge left open turns a principal's denials into Unavailable.
	degradedAge = 10 * time.Second
	// policyDeadline bounds one evaluation. It is far above what one costs, so that a busy machine does not turn into
	// missing artifacts in the middle of a build.
	policyDeadline = 500 * time.Millisecond
	// tries is how often an answer is sought before one that an invalidation overtook is given up.
	tries = 2

	maxViews = 10_000
	maxMemo  = 4_096  // answers per view
	maxFacts = 20_000 // facts per view
	maxPlans = 20_000
)

// Directory tells the state of a forge's users. Its error wraps [forge.ErrNoUser] for a user that the forge does not
// know. It is safe for concurrent use. [forge.Multi] is one.
type Directory interface {
	User(ctx context.Context, forge, id string) (forge.User, error)
}

// Config is what an [Authorizer] needs. Everything but Public, Grants, Check and Now is required.
type Config struct {
	Records   provenance.Store
	Forge     forge.Provider
	Directory Directory
	Policy    Policy
	Public    source.Patterns // sources that anybody may read
	Zones     []artifact.Zone
	Grants    []Grant
	// Check is called with the time before anything that was learnt is used. A node that has lost touch with the others
	// invalidates in it. It must be quick.
	Check func(now time.Time)
	Now   func() time.Time // time.Now when nil
}

// Authorizer decides. It is safe for concurrent use.
//
// What it learns of a principal lives in a view: groups and roles, facts, and the answers that rested on them. A view is
// used for 60 s at most, an answer for as long as each of its facts, and an invalidation ends both at once: a view
// carries the epoch that it was made in, and is worth nothing in another.
type Authorizer struct {
	records   provenance.Store
	forge     forge.Provider
	directory Directory
	policy    Policy
	public    source.Patterns
	chains    map[string][]string // a zone and, behind it, its bases
	review    map[string]bool     // zones for builds that nobody vouches for
	grants    []grant
	check     func(now time.Time)
	now       func() time.Time

	// Epochs only count up. A principal's epoch is the sum of all and of one of some, chosen by its name: two
	// principals that share one are invalidated together, which costs time and never an answer that is too old.
	all  atomic.Uint64
	some [512]atomic.Uint64
	seed maphash.Seed

	// mu guards views and byPrincipal, two ways to the same views, and swept.
	mu          sync.RWMutex
	views       map[viewKey]*view
	byPrincipal map[*authn.Principal]*view
	swept       int64

	plans plans

	// forgetful turns remembering of answers off, to compare with.
	forgetful bool
}

// New checks c and returns an Authorizer.
func New(c Config) (*Authorizer, error) {
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"Records", c.Records == nil}, {"Forge", c.Forge == nil}, {"Directory", c.Directory == nil}, {"Policy", c.Policy == nil},
	} {
		if need.missing {
			return nil, fmt.Errorf("make authorizer: Config.%s is missing", need.name)
		}
	}
	chains, err := zoneChains(c.Zones)
	if err != nil {
		return nil, err
	}
	review, err := reviewZones(c.Zones, chains)
	if err != nil {
		return nil, err
	}
	grants, err := parseGrants(c.Grants, chains, review)
	if err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Check == nil {
		c.Check = func(time.Time) {}
	}
	return &Authorizer{
		records: c.Records, forge: c.Forge, directory: c.Directory, policy: c.Policy,
		public: slices.Clone(c.Public), chains: chains, review: review, grants: grants, check: c.Check, now: c.Now,
		seed:        maphash.MakeSeed(),
		views:       make(map[viewKey]*view),
		byPrincipal: make(map[*authn.Principal]*view),
		plans:       plans{known: make(map[setPair]*plan)},
	}, nil
}

// zoneChains returns, for each zone, the zones a read looks through.
func zoneChains(zones []artifact.Zone) (map[string][]string, error) {
	bases := make(map[string]string)
	for _, z := range zones {
		if _, twice := bases[z.Name]; twice {
			return nil, fmt.Errorf("zone %q is configured twice: give each zone a name of its own", z.Name)
		}
		bases[z.Name] = z.Base
	}
	chains := make(map[string][]string)
	for _, z := range zones {
		for name := z.Name; name != ""; name = bases[name] {
			if _, ok := bases[name]; !ok {
				return nil, fmt.Errorf("zone %q rests on the unknown zone %q: configure it, or remove base", z.Name, name)
			}
			if slices.Contains(chains[z.Name], name) {
				return nil, fmt.Errorf("zone %q rests on itself: remove one base from the circle %q", z.Name, chains[z.Name])
			}
			chains[z.Name] = append(chains[z.Name], name)
		}
	}
	return chains, nil
}

// reviewZones returns the zones for builds that nobody vouches for. Another that rests on one would serve such builds as its own.
func reviewZones(zones []artifact.Zone, chains map[string][]string) (map[string]bool, error) {
	review := make(map[string]bool)
	for _, z := range zones {
		review[z.Name] = z.Review
	}
	for _, z := range zones {
		for _, base := range chains[z.Name] {
			if review[base] && !z.Review {
				return nil, fmt.Errorf("zone %q rests on the review zone %q: protected builds must not read what nobody vouches for", z.Name, base)
			}
		}
	}
	return review, nil
}

// InvalidateAll makes everything learnt so far worthless. Answers still on their way from a forge are discarded.
func (a *Authorizer) InvalidateAll() {
	a.all.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.views)
	clear(a.byPrincipal)
}

// Invalidate is [Authorizer.InvalidateAll] for one user of a forge, by the immutable id.
func (a *Authorizer) Invalidate(forge, id string) { a.epochOf(forge, id).Add(1) }

// Told is for [forge.HubConfig].Told: it invalidates what an event is about. A key alone is no matter of permissions.
func (a *Authorizer) Told(e forge.Event) {
	switch {
	case e.User != "" && e.Forge != "":
		a.Invalidate(e.Forge, e.User)
	case e.Key != "" && e.Repo == "" && e.User == "":
	default:
		a.InvalidateAll()
	}
}

func (a *Authorizer) epochOf(forge, id string) *atomic.Uint64 {
	h := maphash.Comparable(a.seed, [2]string{forge, id})
	return &a.some[h%uint64(len(a.some))]
}

// Answer is what [Authorizer.Decide] returns.
type Answer struct {
	// Decision is shared and must not be changed. When it was remembered its Facts.Inputs are nil: they are many, and
	// only the direct sources are kept.
	Decision   *Decision
	Record     provenance.Record // zero when there is none
	Remembered bool
	// FactsAt is when the oldest fact it rested on was learnt; zero when it rested on none.
	FactsAt time.Time
}

// Decide answers r. The Decision is never nil, and an error comes only with one that does not allow.
//
// The principal is judged as it is now, not as r.Principal says: a session may keep the principal that it got from
// [Authorizer.Identify] for as long as it likes.
//
// A name is looked up in its zone, then in the zone's bases; the first record found decides. Its claims are alternatives:
// the first that policy allows is enough. What policy cannot override: no record, a claim without direct sources or with
// an unresolvable one, a missing source set, a direct source that a forge did not answer for or whose fact has expired, a
// refused user, an anonymous one without AnonymousOK, and a policy that fails.
//
// Denied and absent cost alike: one lookup, and an answer of the policy, remembered or not, on the sources or on none.
// What remains: an absent name is looked up in the bases too, and the first question about sources that this principal has
// not met for a while asks their forge. They differ in the answer when a forge does not give one. A denial that would be an allow if every open question were answered with yes
// is Unavailable, a 503 for machines; taking it for absent would silently rebuild the world whenever a forge is away.
// That would tell recorded names from others, so for the 10 s after an open question every denial of that principal is
// Unavailable, absent names included: what remains is the first question of an outage.
func (a *Authorizer) Decide(ctx context.Context, r *Request) (Answer, error) {
	var answer Answer
	o, err := a.decide(ctx, r, &answer.Record, false)
	answer.Decision, answer.Remembered, answer.FactsAt = o.decision, o.remembered, o.oldest
	return answer, err
}

// DecideFound is [Authorizer.Decide], for Stat or Read, about a record that was found otherwise than by its name, in the zone of its Ref:
// r.Ref.Zone or one of its bases. What a policy's [Footprint] does not read may be left out of r.Ref.
func (a *Authorizer) DecideFound(ctx context.Context, r *Request, found provenance.Record) (Answer, error) {
	answer := Answer{Record: found}
	if r.Action != Stat && r.Action != Read || !slices.Contains(a.chains[r.Ref.Zone], found.Ref.Zone) {
		o, err := denied(Deny, codeRequest, fmt.Errorf("decide: %s in zone %q does not find a record of zone %q", r.Action, r.Ref.Zone, found.Ref.Zone))
		answer.Decision = o.decision
		return answer, err
	}
	o, err := a.decide(ctx, r, &answer.Record, true)
	answer.Decision, answer.Remembered, answer.FactsAt = o.decision, o.remembered, o.oldest
	return answer, err
}

// Chain returns the zones that a read of zone looks through, itself first. The result must not be changed.
func (a *Authorizer) Chain(zone string) []string { return a.chains[zone] }

// Revision returns that of the policy in force.
func (a *Authorizer) Revision() string { return a.policy.Footprint().Revision }

// Reads returns what the answers of the policy in force can depend on.
func (a *Authorizer) Reads() Field { return a.policy.Footprint().Reads }

// outcome is an Answer without the record, small enough to be handed up by value.
type outcome struct {
	decision   *Decision
	remembered bool
	oldest     time.Time
}

// decide seeks an answer that no invalidation has overtaken, and leaves the record it is about in record, unless that is given.
func (a *Authorizer) decide(ctx context.Context, r *Request, record *provenance.Record, given bool) (outcome, error) {
	if err := r.check(); err != nil {
		return denied(Deny, codeRequest, err)
	}
	for range tries {
		now := a.now()
		v, err := a.viewOf(ctx, r.Principal, now)
		if err != nil {
			return refused(err)
		}
		q := question{view: v, request: r, now: now, print: a.policy.Footprint()}
		o, err := a.decideAction(ctx, &q, record, given)
		if a.current(v) {
			return o, err
		}
		if !given {
			*record = provenance.Record{}
		}
	}
	return denied(Unavailable, codeMoved, fmt.Errorf("permissions changed while they were read: %w", ErrUnavailable))
}

// check refuses a question that no door should ask.
func (r *Request) check() error {
	switch {
	case r.Principal == nil:
		return errors.New("decide: request without principal")
	case r.Action == Write && r.Write == nil:
		return errors.New("decide: write without a verified statement")
	}
	return nil
}

// aboutArtifact reports whether r needs a record: it asks about one name, to see or read it.
func (r *Request) aboutArtifact() bool {
	return r.Action == Read || r.Action == Stat || r.Action == List && r.Ref.Path != ""
}

// refused is the answer to somebody whom the forge refuses, or could not tell about.
func refused(err error) (outcome, error) {
	if errors.Is(err, authn.ErrRefused) {
		return denied(Deny, codeUser, err)
	}
	return denied(Unavailable, codeUserUnknown, err)
}

// denied is an answer for want of what a decision needs.
func denied(v Verdict, code string, err error) (outcome, error) {
	return outcome{decision: &Decision{Verdict: v, Rule: hostRule, Reasons: []string{code + ": " + err.Error()}}}, err
}

func (a *Authorizer) decideAction(ctx context.Context, q *question, record *provenance.Record, given bool) (o outcome, err error) {
	switch {
	case given:
		o, err = a.decideRecord(ctx, q, record)
		return q.view.veil(o, q.now), err
	case q.request.aboutArtifact():
		o, err = a.decideArtifact(ctx, q, record)
		return q.view.veil(o, q.now), err
	case q.request.Action == Write:
		return a.decideWrite(ctx, q)
	default:
		return a.settle(ctx, q, claimed{zone: q.request.Ref.Zone})
	}
}

// decideArtifact answers about the record of a name.
func (a *Authorizer) decideArtifact(ctx context.Context, q *question, record *provenance.Record) (outcome, error) {
	err := a.lookup(ctx, q.request.Ref, record)
	switch {
	case errors.Is(err, provenance.ErrNoRecord):
		return a.settle(ctx, q, claimed{zone: q.request.Ref.Zone})
	case err != nil:
		return denied(Unavailable, codeStore, fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
	return a.decideRecord(ctx, q, record)
}

// decideRecord answers about a record. Without an allow, an answer that may still become one wins over a denial, and the first claim
// over the later ones.
func (a *Authorizer) decideRecord(ctx context.Context, q *question, record *provenance.Record) (best outcome, bestErr error) {
	if len(record.Claims) == 0 {
		return a.settle(ctx, q, claimed{recorded: true, zone: record.Ref.Zone})
	}
	for i := range record.Claims {
		c := claimed{recorded: true, zone: record.Ref.Zone, claim: &record.Claims[i], since: record.Time}
		o, err := a.settle(ctx, q, c)
		if o.decision.Verdict == Allow {
			return o, nil
		}
		if i == 0 || rank(o.decision.Verdict) > rank(best.decision.Verdict) {
			best, bestErr = o, err
		}
	}
	return best, bestErr
}

// lookup finds the record of ref in its zone or the nearest base that has one. A zone that is not configured has none.
func (a *Authorizer) lookup(ctx context.Context, ref artifact.Ref, record *provenance.Record) (err error) {
	for _, zone := range a.chains[ref.Zone] {
		ref.Zone = zone
		*record, err = a.records.Lookup(ctx, ref)
		if err == nil || !errors.Is(err, provenance.ErrNoRecord) {
			return err
		}
	}
	*record = provenance.Record{}
	return provenance.ErrNoRecord
}

// decideWrite answers a write. Its sources are what the statement says; nothing of it is remembered.
func (a *Authorizer) decideWrite(ctx context.Context, q *question) (outcome, error) {
	c, p := a.writeClaim(q.request)
	return a.judge(ctx, q, &c, p).outcome()
}

// writeClaim is what a write's statement claims.
func (a *Authorizer) writeClaim(r *Request) (claimed, *plan) {
	p := a.newPlan(orEmpty(r.Write.Sources), orEmpty(r.Write.Inputs))
	claim := provenance.Claim{Sources: p.sets.sources, Inputs: p.sets.inputs, Signer: r.Write.Signer}
	return claimed{zone: r.Ref.Zone, claim: &claim}, p
}

func orEmpty(s *source.Set) *source.Set {
	if s == nil {
		return source.NewSet(nil)
	}
	return s
}

// settle answers q about one claim, or about the lack of one, from memory if it can.
func (a *Authorizer) settle(ctx context.Context, q *question, c claimed) (outcome, error) {
	key := q.key(&c)
	m, changes, ok := q.view.recall(&key, q.now, c.since)
	if ok && !a.forgetful {
		return outcome{m.decision, true, m.oldest}, nil
	}
	p, err := a.planFor(ctx, &c)
	if err != nil {
		return denied(Deny, codeMissingSet, err)
	}
	j := a.judge(ctx, q, &c, p)
	if j.lasting(q) {
		q.view.remember(key, remembered{j.decision, j.until, j.oldest}, changes)
	}
	return j.outcome()
}
