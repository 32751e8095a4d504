// Package audit keeps the audit trail: a durable, append-only journal of events, chained so that no one can quietly
// edit it.
package audit

import "time"

// Event is one audit line. Every text in it is data: the encoder escapes it. Secrets have no member here.
//
// The journal sets Seq, Boot, Node, Time, Mono and Prev.
type Event struct {
	Seq  uint64    // gapless per node, over all its boots
	Boot string    // one random id per start
	Node string    // the node's configured name
	Time time.Time // wall clock, UTC
	Mono int64     // nanoseconds since the boot
	Prev string    // hex SHA-256 of the line before

	Kind    string // "decision", "transfer", "write.commit", "write.refuse", "auth.refuse", "policy.activate", "lifecycle", "audit.gap", ...
	Request string // correlates the events of one request
	Actor   Actor
	Door    string
	Action  string
	Zone    string
	Object  Object
	// Objects is for events over many names: presence batches and multi-object writes.
	Objects  []Object
	Sources  []string // "FORGE:ID" or "host/path" of what decided, only on a deny and on writes
	Decision Decision
	Result   Result
	Detail   string // words for a person
}

// Actor is who did it.
type Actor struct {
	Forge, ID, Name, Kind string
	Credential            string // fingerprint or token id
	Remote                string // address and port
}

// Object is what it was done to.
type Object struct {
	Path    string // canonical, with the part's suffix
	Digest  string // "sha256:..."
	Size    int64
	Verdict string // in batches: "allow" or "deny"
	Outcome string // in writes: "stored", "confirmed", "kept"
}

// Decision is what was decided, and on what.
type Decision struct {
	Verdict string // "allow", "deny", "unavailable"
	Rule    string
	Reasons []string
	Policy  string // revision
	FactAge int64  // milliseconds, of the oldest fact; -1 for none
	Cached  bool
}

// Result is what was really sent or stored.
type Result struct {
	Status   int
	Bytes    int64
	Range    string
	Complete bool
	Micros   int64
}
