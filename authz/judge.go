package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
)

// hostRule is the Rule of decisions that policy cannot override.
const hostRule = "lychgate"

// The codes that begin the reasons of such decisions. They are stable: people search audit trails for them.
const (
	codeRequest      = "bad_request"
	codeUser         = "user_refused"
	codeUserUnknown  = "user_unknown"
	codeStore        = "store_failed"
	codeMoved        = "revoked_meanwhile"
	codeAway         = "forge_away"
	codeNotRecorded  = "not_recorded"
	codeNoSources    = "no_sources"
	codeUnresolvable = "unresolvable_source"
	codeMissingSet   = "missing_source_set"
	codeOpenFact     = "permission_unknown"
	codeAnonymous    = "anonymous"
	codePolicy       = "policy_failed"
)

// question is one request at one moment, for one view, under one revision of the policy.
type question struct {
	view    *view
	request *Request
	now     time.Time
	print   Footprint
}

// claimed is the claim that a question is about; claim is nil when there is none.
type claimed struct {
	recorded bool
	zone     string // where it was found
	claim    *provenance.Claim
	since    time.Time // facts older than this say nothing of the artifact
}

// memoKey is everything an answer can depend on within a view, besides the facts: fields that the policy does not read
// are left zero. It is compared whole, so no two questions are ever taken for each other.
type memoKey struct {
	revision string
	action   Action
	recorded bool
	sets     setPair

	door, zone, found           string
	kind                        artifact.Kind
	part                        artifact.Part
	path, hash                  string
	recipe, version, arch, task string
	signer                      string
	minute                      int64
}

func (q *question) key(c *claimed) memoKey {
	r, ref, reads := q.request, &q.request.Ref, q.print.Reads
	k := memoKey{revision: q.print.Revision, action: r.Action, recorded: c.recorded}
	if c.claim != nil {
		k.sets = setPair{c.claim.Sources, c.claim.Inputs}
		set(&k.signer, reads&FieldSigner, c.claim.Signer)
	}
	set(&k.door, reads&FieldDoor, r.Door)
	set(&k.zone, reads&FieldZone, ref.Zone)
	set(&k.found, reads&FieldZone, c.zone)
	set(&k.kind, reads&FieldKind, ref.Kind)
	set(&k.part, reads&FieldPart, ref.Part)
	set(&k.path, reads&FieldPath, ref.Path)
	set(&k.hash, reads&FieldHash, ref.Hash)
	set(&k.recipe, reads&FieldRecipe, ref.Recipe)
	set(&k.version, reads&FieldVersion, ref.Version)
	set(&k.arch, reads&FieldArch, ref.Arch)
	set(&k.task, reads&FieldTask, ref.Task)
	set(&k.minute, reads&FieldMinute, q.now.Unix()/60)
	return k
}

func set[T any](field *T, reads Field, value T) {
	if reads != 0 {
		*field = value
	}
}

// judgement is a decision with what is needed to remember it.
type judgement struct {
	decision *Decision
	err      error
	open     bool // a fact behind it was Unknown
	until    time.Time
	oldest   time.Time
}

func (j *judgement) outcome() (outcome, error) {
	o := outcome{decision: j.decision, oldest: j.oldest}
	if j.decision.Verdict == Allow {
		return o, nil
	}
	return o, j.err
}

// lasting reports whether j may answer the same question again. An open fact will be known some day; a policy may have
// been replaced while it was asked; and one that reads clocks has no same question.
func (j *judgement) lasting(q *question) bool {
	return j.err == nil && !j.open && q.print.Remember && j.decision.Revision == q.print.Revision
}

// judge gathers the facts that p asks for, asks policy, and applies what policy cannot override. Policy is asked in any
// case, so that a claim nobody may ever read costs what an absent name does.
func (a *Authorizer) judge(ctx context.Context, q *question, c *claimed, p *plan) *judgement {
	g := a.gather(ctx, q, p, c.since)
	facts := p.facts(c, &g, q.now)
	d, err := a.consult(ctx, q, facts)
	j := &judgement{decision: &d, err: errors.Join(err, g.err), open: g.open, until: g.until, oldest: g.oldest}
	if err == nil {
		a.harden(ctx, q, p, &d)
	}
	return j
}

// harden applies the denials that policy cannot override to d.
func (a *Authorizer) harden(ctx context.Context, q *question, p *plan, d *Decision) {
	if flaw := hostDenial(q, d, p); flaw != "" {
		d.deny(Deny, flaw)
		return
	}
	open := openSources(d.Facts.Sources)
	switch {
	case d.Verdict == Allow && open > 0 && q.request.aboutArtifact():
		d.deny(Unavailable, fmt.Sprintf("%s: %d of its sources", codeOpenFact, open))
	case d.Verdict == Deny && open+openSources(d.Facts.Inputs) > 0 && a.wouldAllow(ctx, q, p, d.Facts):
		d.deny(Unavailable, codeOpenFact+": a forge did not answer, and it would decide")
	}
}

// hostDenial says why d must not allow, whatever policy and permissions say; "" if nothing stands against it.
func hostDenial(q *question, d *Decision, p *plan) string {
	switch {
	case q.view.principal.Kind == authn.Anonymous && !d.AnonymousOK:
		return codeAnonymous + ": the policy does not say that this needs no credential"
	case !q.request.aboutArtifact():
		return ""
	case !d.Facts.Recorded:
		return codeNotRecorded + ": nothing was published under this name"
	}
	return p.flaw
}

// wouldAllow reports whether policy would allow if every open question were answered with yes.
func (a *Authorizer) wouldAllow(ctx context.Context, q *question, p *plan, f *Facts) bool {
	yes := *f
	yes.Sources, yes.Inputs = answered(f.Sources, forge.Unknown), answered(f.Inputs, forge.Unknown)
	d, err := a.consult(ctx, q, &yes)
	return err == nil && d.Verdict == Allow && hostDenial(q, &d, p) == ""
}

// answered returns sources as they would be if the given answers of forges had been yes.
func answered(sources []SourceFact, answers ...forge.Access) []SourceFact {
	out := slices.Clone(sources)
	for i := range out {
		if !out[i].Public && slices.Contains(answers, out[i].Fact.Access) {
			out[i].Fact.Access = forge.Read
		}
	}
	return out
}

// openSources counts the sources for which a forge was asked in vain.
func openSources(sources []SourceFact) int {
	n := 0
	for i := range sources {
		if !sources[i].Public && sources[i].Fact.Access == forge.Unknown {
			n++
		}
	}
	return n
}

// deny makes d a denial by the host, the reason in front of those of policy's own that say something else.
func (d *Decision) deny(v Verdict, reason string) {
	code, _, _ := strings.Cut(reason, ":")
	others := slices.DeleteFunc(slices.Clone(d.Reasons), func(r string) bool { return strings.HasPrefix(r, code+":") })
	d.Verdict, d.Rule, d.AnonymousOK = v, hostRule, false
	d.Reasons = append([]string{reason}, others...)
}

// consult asks policy once. An error, a panic, a missed deadline or a verdict that is none is a denial.
func (a *Authorizer) consult(ctx context.Context, q *question, f *Facts) (d Decision, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("ask policy: panic: %v", r)
		}
		if err != nil {
			d = Decision{Verdict: Deny, Rule: hostRule, Reasons: []string{codePolicy + ": " + err.Error()}, Revision: q.print.Revision}
		}
		d.Facts = f
	}()
	ctx, cancel := context.WithTimeout(ctx, policyDeadline)
	defer cancel()
	r := *q.request
	r.Principal = &q.view.principal
	d, err = a.policy.Evaluate(ctx, r, f)
	switch {
	case err != nil:
		return d, fmt.Errorf("ask policy: %w", err)
	case ctx.Err() != nil:
		return d, fmt.Errorf("ask policy: %w", ctx.Err())
	case d.Verdict != Allow && d.Verdict != Unavailable:
		d.Verdict = Deny
	}
	return d, nil
}
