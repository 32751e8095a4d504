package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// Explanation is why a question is answered as it is, for a person who may know. Its JSON members are stable.
type Explanation struct {
	Verdict   string             `json:"verdict"` // "allow", "deny" or "unavailable"
	Action    Action             `json:"action"`
	Door      string             `json:"door,omitzero"`
	Zone      string             `json:"zone"`
	Name      string             `json:"name,omitzero"`
	Principal ExplainedPrincipal `json:"principal"`
	Record    *ExplainedRecord   `json:"record,omitzero"` // nil when nothing was published under the name
	Claims    []ExplainedClaim   `json:"claims"`          // alternatives: one that allows is enough
	Rule      string             `json:"rule"`
	Reasons   []string           `json:"reasons"`
	Policy    string             `json:"policy,omitzero"` // revision
	NextStep  string             `json:"next_step"`
}

// ExplainedPrincipal is who was judged, as the forge and the grants see it now.
type ExplainedPrincipal struct {
	Forge  string     `json:"forge,omitzero"`
	ID     string     `json:"id,omitzero"`
	Name   string     `json:"name,omitzero"`
	Kind   authn.Kind `json:"kind,omitzero"`
	Groups []string   `json:"groups"`
	Roles  []string   `json:"roles"`
}

// ExplainedRecord is what the gate holds about the artifact.
type ExplainedRecord struct {
	Zone   string    `json:"zone"` // where it was found
	Name   string    `json:"name"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Place  string    `json:"place"` // "blob" or "mirror"
	Writer string    `json:"writer"`
	Time   time.Time `json:"time"`
}

// ExplainedClaim is one statement about the artifact, and what comes of it.
type ExplainedClaim struct {
	Verdict   string            `json:"verdict"`
	Statement string            `json:"statement,omitzero"` // digest of the envelope
	Signer    string            `json:"signer,omitzero"`
	Rule      string            `json:"rule"`
	Reasons   []string          `json:"reasons"`
	Sources   []ExplainedSource `json:"sources"` // direct
	Inputs    []ExplainedSource `json:"inputs"`  // transitive, the direct ones included
}

// ExplainedSource is one source with what is known of it.
type ExplainedSource struct {
	Type      source.Type `json:"type"`
	Source    string      `json:"source,omitzero"` // HOST/PATH
	Rev       string      `json:"rev,omitzero"`
	Repo      string      `json:"repo,omitzero"` // FORGE:ID
	Public    bool        `json:"public"`
	Access    string      `json:"access"`      // "read", "none" or "unknown"
	FactAgeMS int64       `json:"fact_age_ms"` // -1 when no forge was asked
	Origin    string      `json:"origin,omitzero"`
	Reason    string      `json:"reason,omitzero"` // why it cannot be resolved
}

// String returns "allow", "deny" or "unavailable".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Unavailable:
		return "unavailable"
	}
	return "deny"
}

// Explain answers r as Decide would, and shows everything the answer rests on. Nothing is remembered and nothing
// remembered is used: forges are asked, through the caches that they stand behind, and every claim is judged, not only the first that allows. What a forge that is
// away does to the denials of others is left out. The error is one that Decide would return; the explanation comes with it
// unless the request itself is wrong.
func (a *Authorizer) Explain(ctx context.Context, r *Request) (*Explanation, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	e := &Explanation{Action: r.Action, Door: r.Door, Zone: r.Ref.Zone, Claims: []ExplainedClaim{}}
	if r.Ref.Path != "" {
		e.Name = r.Ref.Name()
	}
	e.Principal = explainPrincipal(r.Principal)
	v, err := a.newView(ctx, r.Principal)
	if err != nil {
		o, err := refused(err)
		e.conclude(o.decision)
		e.NextStep = accountStep(r.Principal, err)
		return e, err
	}
	e.Principal = explainPrincipal(&v.principal)
	q := question{view: v, request: r, now: a.now(), print: a.policy.Footprint()}
	return e, a.explain(ctx, &q, e)
}

func (a *Authorizer) explain(ctx context.Context, q *question, e *Explanation) error {
	candidates, err := a.candidates(ctx, q, e)
	if err != nil {
		o, err := denied(Unavailable, codeStore, fmt.Errorf("%w: %w", ErrUnavailable, err))
		e.conclude(o.decision)
		e.NextStep = "ask the operator to look at the record store, then try again"
		return err
	}
	var best *judgement
	var bestPlan *plan
	for _, c := range candidates {
		p, j := c.plan, (*judgement)(nil)
		if p == nil {
			p, j = a.judgeStored(ctx, q, &c.claimed)
		} else {
			j = a.judge(ctx, q, &c.claimed, p)
		}
		if c.claim != nil {
			e.Claims = append(e.Claims, explainClaim(c.claim, j.decision, q.now))
		}
		if best == nil || rank(j.decision.Verdict) > rank(best.decision.Verdict) {
			best, bestPlan = j, p
		}
	}
	e.conclude(best.decision)
	e.NextStep = a.nextStep(ctx, q, bestPlan, best)
	if best.decision.Verdict == Allow {
		return nil
	}
	return best.err
}

// candidate is a claim to explain; its plan is nil when its sets are stored.
type candidate struct {
	claimed
	plan *plan
}

// candidates returns what the answer to q may rest on, as Decide would look at it; never none.
func (a *Authorizer) candidates(ctx context.Context, q *question, e *Explanation) ([]candidate, error) {
	r := q.request
	none := []candidate{{claimed{zone: r.Ref.Zone}, noPlan}}
	if r.Action == Write {
		c, p := a.writeClaim(r)
		return []candidate{{c, p}}, nil
	}
	if !r.aboutArtifact() {
		return none, nil
	}
	var record provenance.Record
	err := a.lookup(ctx, r.Ref, &record)
	if errors.Is(err, provenance.ErrNoRecord) {
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	e.Record = explainRecord(&record)
	var list []candidate
	for i := range record.Claims {
		list = append(list, candidate{claimed: claimed{recorded: true, zone: record.Ref.Zone, claim: &record.Claims[i], since: record.Time}})
	}
	if list == nil {
		return []candidate{{claimed{recorded: true, zone: record.Ref.Zone}, noClaim}}, nil
	}
	return list, nil
}

// judgeStored is judge for a claim whose sets must be read first.
func (a *Authorizer) judgeStored(ctx context.Context, q *question, c *claimed) (*plan, *judgement) {
	p, err := a.planFor(ctx, c)
	if err != nil {
		o, err := denied(Deny, codeMissingSet, err)
		return &plan{flaw: o.decision.Reasons[0]}, &judgement{decision: o.decision, err: err}
	}
	return p, a.judge(ctx, q, c, p)
}

// rank orders verdicts as Decide chooses among claims.
func rank(v Verdict) int {
	switch v {
	case Allow:
		return 2
	case Unavailable:
		return 1
	}
	return 0
}

func (e *Explanation) conclude(d *Decision) {
	e.Verdict, e.Rule, e.Reasons, e.Policy = d.Verdict.String(), d.Rule, orNone(d.Reasons), d.Revision
}

// orNone makes an absent list an empty one, so that its JSON is [] and never null.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func explainPrincipal(p *authn.Principal) ExplainedPrincipal {
	return ExplainedPrincipal{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: p.Kind, Groups: orNone(p.Groups), Roles: orNone(p.Roles)}
}

func explainRecord(r *provenance.Record) *ExplainedRecord {
	place := "blob"
	if r.Place == provenance.Mirror {
		place = "mirror"
	}
	return &ExplainedRecord{
		Zone: r.Ref.Zone, Name: r.Ref.Name(), Digest: r.Digest.String(), Size: r.Size, Place: place, Writer: r.Writer, Time: r.Time,
	}
}

func explainClaim(c *provenance.Claim, d *Decision, now time.Time) ExplainedClaim {
	e := ExplainedClaim{
		Verdict: d.Verdict.String(), Signer: c.Signer, Rule: d.Rule, Reasons: orNone(d.Reasons),
		Sources: []ExplainedSource{}, Inputs: []ExplainedSource{},
	}
	if !c.Statement.IsZero() {
		e.Statement = c.Statement.String()
	}
	if d.Facts != nil {
		e.Sources = explainSources(d.Facts.Sources, now)
		e.Inputs = explainSources(d.Facts.Inputs, now)
	}
	return e
}

func explainSources(list []SourceFact, now time.Time) []ExplainedSource {
	out := make([]ExplainedSource, len(list))
	for i := range list {
		s := &list[i]
		out[i] = ExplainedSource{
			Type: s.Type, Source: s.place(), Rev: s.Rev, Repo: s.Repo, Public: s.Public,
			Access: s.Fact.Access.String(), FactAgeMS: -1, Origin: s.Fact.Origin, Reason: s.Reason,
		}
		if s.Public {
			out[i].Access, out[i].Origin = forge.Read.String(), "public by configuration"
		}
		if at := s.Fact.At; !at.IsZero() {
			out[i].FactAgeMS = max(0, now.Sub(at).Milliseconds())
		}
	}
	return out
}

// place returns HOST/PATH.
func (s *SourceFact) place() string {
	if s.Locator == (source.Locator{}) {
		return ""
	}
	return s.Locator.Host + "/" + s.Locator.Path
}

// accountStep says what somebody whom the gate does not let in can do.
func accountStep(p *authn.Principal, err error) string {
	switch {
	case errors.Is(err, forge.ErrNoUser):
		return fmt.Sprintf("ask the administrators of %s: they have no user with the id %s", p.Forge, p.ID)
	case errors.Is(err, authn.ErrRefused) && !p.Expires.IsZero():
		return "sign in again; if that does not help, ask the administrators of " + p.Forge + " whether the account is blocked"
	case errors.Is(err, authn.ErrRefused):
		return "ask the administrators of " + p.Forge + " to unblock the account"
	}
	return "try again in a minute: " + p.Forge + " did not answer"
}

// nextStep says what would change the answer, in words for whoever got it.
func (a *Authorizer) nextStep(ctx context.Context, q *question, p *plan, j *judgement) string {
	d, r := j.decision, q.request
	switch {
	case d.Verdict == Allow:
		return "nothing: this is allowed now"
	case d.Facts == nil:
		return "ask the operator to restore the record store: it has lost what this was built from"
	case r.aboutArtifact() && !d.Facts.Recorded:
		return "publish it with lychgate push; if it should be there, compare the name and the zone"
	case r.aboutArtifact() && strings.HasPrefix(p.flaw, codeUnresolvable):
		return "correct that entry of SRC_URI and publish the artifact again with lychgate push"
	case r.aboutArtifact() && p.flaw != "":
		return "publish it again, with the sources it was built from, by lychgate push"
	case d.Verdict == Unavailable:
		return "try again in a minute: a forge did not answer (" + strings.Join(openForges(d.Facts), ", ") + ")"
	}
	if step := a.accessStep(ctx, q, p, d.Facts); step != "" {
		return step
	}
	if role := roleFor(r.Action); role != "" && !slices.Contains(q.view.principal.Roles, role+":"+r.Ref.Zone) {
		return "ask the operator for the role " + role + " in the zone " + r.Ref.Zone
	}
	return "ask whoever keeps the policy about the rule " + d.Rule
}

// roleFor returns the role that an action usually needs; "" for those that need none.
func roleFor(action Action) string {
	switch action {
	case Write, Report:
		return "writer"
	case Admin:
		return "admin"
	}
	return ""
}

// accessStep says which permissions are missing, when they are what is missing: first for the direct sources, then for
// all.
func (a *Authorizer) accessStep(ctx context.Context, q *question, p *plan, f *Facts) string {
	yes := *f
	for _, part := range []struct {
		sources []SourceFact
		field   *[]SourceFact
	}{{f.Sources, &yes.Sources}, {f.Inputs, &yes.Inputs}} {
		*part.field = answered(part.sources, forge.None, forge.Unknown)
		d, err := a.consult(ctx, q, &yes)
		if err == nil && d.Verdict == Allow && hostDenial(q, &d, p) == "" {
			return missingAccess(part.sources)
		}
	}
	return ""
}

func missingAccess(sources []SourceFact) string {
	var ask, configure []string
	for i := range sources {
		s := &sources[i]
		switch {
		case s.Public || s.Fact.Access == forge.Read:
		case s.Repo != "":
			ask = append(ask, s.place())
		default:
			configure = append(configure, s.place())
		}
	}
	var steps []string
	if ask = slices.Compact(ask); len(ask) > 0 {
		steps = append(steps, "ask for read access to "+strings.Join(ask, " and "))
	}
	if configure = slices.Compact(configure); len(configure) > 0 {
		steps = append(steps, "ask the operator to list as public, or to configure the forge of, "+strings.Join(configure, " and "))
	}
	return strings.Join(steps, "; ")
}

func openForges(f *Facts) []string {
	var names []string
	for _, list := range [2][]SourceFact{f.Sources, f.Inputs} {
		for i := range list {
			if s := &list[i]; !s.Public && s.Fact.Access == forge.Unknown {
				names = append(names, s.Fact.Repo.Forge)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
