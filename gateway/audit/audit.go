// Package audit keeps the audit trail: a durable, append-only journal of events, chained so that no one can quietly
// edit it.
//
// [Journal] writes it, [Verify] recomputes it from its records, [Tail] reads it. The file format is documented in
// docs/audit.md.
package audit

import "time"

// Event is one audit line. Every text in it is data: the encoder escapes it. Secrets have no member here.
//
// The journal sets Seq, Boot, Node, Time and Mono when it appends, and Prev in the line it writes; an Event that was read
// back has all six. The member names are those of the line, version 1.
type Event struct {
	Seq  uint64    `json:"seq"`  // gapless per node, over all its boots; the first is 1
	Boot string    `json:"boot"` // one random id per start
	Node string    `json:"node"` // the node's configured name
	Time time.Time `json:"time"` // wall clock, UTC
	Mono int64     `json:"mono"` // nanoseconds since the boot
	Prev string    `json:"prev"` // hex SHA-256 of the line before

	Kind    string `json:"kind"`              // "decision", "transfer", "write.commit", "write.refuse", "auth.refuse", "policy.activate", "lifecycle", "audit.gap", ...
	Request string `json:"request,omitempty"` // correlates the events of one request
	Actor   Actor  `json:"actor,omitzero"`
	Door    string `json:"door,omitempty"`
	Action  string `json:"action,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Object  Object `json:"object,omitzero"`
	// Objects is for events over many names: presence batches and multi-object writes.
	Objects  []Object `json:"objects,omitempty"`
	Sources  []string `json:"sources,omitempty"` // "FORGE:ID" or "host/path" of what a statement names, on writes
	Decision Decision `json:"decision,omitzero"`
	Result   Result   `json:"result,omitzero"`
	Detail   string   `json:"detail,omitempty"` // words for a person
}

// Actor is who did it.
type Actor struct {
	Forge      string `json:"forge,omitempty"`
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Credential string `json:"credential,omitempty"` // fingerprint or token id
	Remote     string `json:"remote,omitempty"`     // address and port
}

// Object is what it was done to.
type Object struct {
	Path    string `json:"path,omitempty"`    // canonical, with the part's suffix
	Digest  string `json:"digest,omitempty"`  // "sha256:..."
	Size    int64  `json:"size,omitempty"`    // octets
	Verdict string `json:"verdict,omitempty"` // in batches: "allow" or "deny"
	Outcome string `json:"outcome,omitempty"` // in writes: "stored", "confirmed", "kept"
	Request string `json:"request,omitempty"` // in "audit.open": the request that is under way
}

// Decision is what was decided, and on what.
type Decision struct {
	Verdict string   `json:"verdict,omitempty"` // "allow", "deny", "unavailable"
	Rule    string   `json:"rule,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
	Policy  string   `json:"policy,omitempty"`      // revision
	FactAge int64    `json:"fact_age_ms,omitempty"` // milliseconds, of the oldest fact; -1 for none
	Cached  bool     `json:"cached,omitempty"`
}

// isZero reports whether the decision says nothing.
func (d *Decision) isZero() bool {
	return d.Verdict == "" && d.Rule == "" && len(d.Reasons) == 0 && d.Policy == "" && d.FactAge == 0 && !d.Cached
}

// Result is what was really sent or stored.
type Result struct {
	Status   int    `json:"status,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	Range    string `json:"range,omitempty"`
	Complete bool   `json:"complete,omitempty"`
	Micros   int64  `json:"micros,omitempty"`
}

// The kinds of events the journal itself relies on.
const (
	// KindDecision with Action "read" and Verdict "allow" opens a transfer under its Request.
	KindDecision = "decision"
	// KindTransfer closes the transfer of its Request.
	KindTransfer = "transfer"
	// KindMismatch closes it too: the bytes upstream were not the recorded ones.
	KindMismatch = "integrity.mismatch"
	// KindGap says what the trail cannot vouch for: a transfer whose end was never recorded, or a segment that vanished.
	KindGap = "audit.gap"
	// KindOpen stands near the start of each boot and of each segment and lists the transfers under way, so that recovery need not
	// read further back.
	KindOpen = "audit.open"
	// KindRecovered is the first event after the journal was not writable; Detail says why and how many events it refused.
	KindRecovered = "audit.recovered"
)
