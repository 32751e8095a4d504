// Package authz answers one question: may this principal do this, now?
//
// [Authorizer].Decide looks up the record, gathers the facts its sources need, asks a [Policy], and remembers the
// answer for as long as every fact it rested on is fresh. Nothing outside it decides.
package authz

import (
	"context"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// Action is what a principal wants to do.
type Action string

// The actions that policy distinguishes.
const (
	Read   Action = "read"
	Stat   Action = "stat"
	List   Action = "list"
	Begin  Action = "begin" // to stage bytes that only a later write can publish
	Write  Action = "write"
	Report Action = "report"
	Admin  Action = "admin"
)

// Request is one question.
type Request struct {
	Action    Action
	Door      string // "https", "ssh", "hash"
	Principal *authn.Principal
	Ref       artifact.Ref // for Admin only Ref.Zone is set
	Write     *WriteFacts  // for Write: the verified statement
}

// WriteFacts is what is known of a write before it is published.
type WriteFacts struct {
	Signer  string // the identity that signed the statement
	Sources *source.Set
	Inputs  *source.Set
	// Statement is what policy sees as input.write.statement: verified facts only.
	Statement map[string]any
}

// SourceFact is one source with what is known of it.
type SourceFact struct {
	source.Source
	Public bool // by configuration
	Fact   forge.Fact
}

// Facts is everything a policy may rest on, gathered before it is asked.
type Facts struct {
	Recorded bool
	Zone     string // where the record was found: the zone asked for or one of its bases
	Claim    provenance.Claim
	Sources  []SourceFact // the direct sources, sorted
	Inputs   []SourceFact // the transitive sources, sorted
	Now      time.Time
}

// Verdict is what a decision says.
type Verdict uint8

// Deny is the zero Verdict: whatever is not allowed is denied, and a denial looks like absence.
const (
	Deny Verdict = iota
	Allow
	// Unavailable is a denial for want of facts, which may succeed when asked again: a 503 for a machine.
	Unavailable
)

// Decision is an answer with its reasons. Decisions are remembered and shared; they must not be changed.
type Decision struct {
	Verdict  Verdict
	Reasons  []string // stable codes, then words; shown to explain and the audit trail only, never to a reader
	Rule     string   // the rule that decided, as the policy names it
	Revision string   // of the policy
	// AnonymousOK is the policy's word that this needs no credential.
	AnonymousOK bool
	Facts       *Facts // what it rested on
}

// Policy is the rule. Evaluate must not change its arguments; an error, a panic or a missed deadline is a denial.
// It is safe for concurrent use.
type Policy interface {
	Evaluate(ctx context.Context, r Request, f *Facts) (Decision, error)
	// Footprint says what Evaluate's answer can depend on. It changes only when the revision does.
	Footprint() Footprint
}

// Field is a part of a [Request] that a policy's answer may depend on, besides the action, the principal, the
// sources and whether the name is recorded, on which it always may.
type Field uint32

// The fields, one bit each.
const (
	FieldDoor Field = 1 << iota
	FieldZone
	FieldKind
	FieldPath
	FieldPart
	FieldHash
	FieldRecipe
	FieldVersion
	FieldArch
	FieldTask
	FieldSigner
	FieldMinute // input.now_minute
)

// Footprint is what the answers of one policy revision can depend on.
type Footprint struct {
	Revision string
	// Remember is false when an answer may differ for equal input: the policy reads a clock, randomness or the write
	// statement. Why says which.
	Remember bool
	Why      string
	Reads    Field
}
