// Package provenance knows what an artifact was built from: signed statements, siginfo files, and the records that
// publishing leaves behind.
package provenance

import (
	"context"
	"errors"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/source"
)

// ErrNoRecord is returned by [Store].Lookup for a name that was never published.
var ErrNoRecord = errors.New("no record")

// Place says where a record's bytes are kept.
type Place uint8

const (
	// Blob bytes were uploaded and are kept by the gate under their digest.
	Blob Place = iota
	// Mirror bytes were imported: they lie in the zone's mirror under the artifact's own name, and others may change
	// them there, so they are verified whenever they are read.
	Mirror
)

// Claim is what one verified statement says of the bytes it names. Records share claims: one statement covers a whole
// recipe build.
type Claim struct {
	Statement artifact.Digest // of the stored envelope
	Sources   source.SetID    // the direct sources
	Inputs    source.SetID    // the transitive sources, the direct ones included
	Signer    string          // the identity that signed
}

// Repeats reports whether c says what other says, by the word of the same signer.
func (c Claim) Repeats(other Claim) bool {
	return c.Sources == other.Sources && c.Inputs == other.Inputs && c.Signer == other.Signer
}

// MaxClaims is how many claims a record has at most: every one is looked at before a reader is refused.
const MaxClaims = 16

// Record is what the gate holds about one published object.
type Record struct {
	Ref    artifact.Ref
	Digest artifact.Digest
	Size   int64
	Place  Place
	// Claims holds at least one claim, the publishing one first. They are alternatives: each covers these very bytes,
	// so one whose sources a reader may read is enough. Shared; not to be changed.
	Claims []Claim
	Writer string    // "FORGE/ID" of the principal that wrote it
	Time   time.Time // of the commit
}

// Store keeps records and source sets. It is safe for concurrent use, and what Put returned nil for survives a
// killed process and a power cut.
type Store interface {
	// Lookup returns the record of ref, or an error that wraps ErrNoRecord.
	Lookup(ctx context.Context, ref artifact.Ref) (Record, error)
	// Put publishes records, all or none, with the envelopes and sets their claims rest on, which it stores too.
	// A name that is already published keeps its bytes, writer and time: when the digest is the same the new claim is
	// added behind the others, once per statement, and Place goes from Mirror to Blob if the bytes came with it; else
	// the envelope is kept as evidence. The results say which, in the order of the records. A publication that fails
	// Check, or whose claims name a set that is neither in it nor stored, is refused whole.
	Put(ctx context.Context, p Publication) ([]Outcome, error)
	// Set returns an interned source set. A missing set is an error: the record that names it cannot be decided.
	Set(ctx context.Context, id source.SetID) (*source.Set, error)
	// InputSets returns the transitive sets of every claim of every record in zone with one of these digests, sorted
	// and without repeats. Unknown digests are skipped: the caller compares what it asked for with what it knows.
	InputSets(ctx context.Context, zone string, digests []artifact.Digest) ([]source.SetID, error)
	// Chunks returns the digests of each [ChunkSize] bytes of the object with digest d, in order. It returns nil when
	// none are kept: the object is one chunk, or nobody published them.
	Chunks(ctx context.Context, d artifact.Digest) ([]artifact.Digest, error)
	// Envelope returns the stored envelope with digest d, evidence included, or an error that wraps ErrNoRecord. The
	// bytes must not be changed.
	Envelope(ctx context.Context, d artifact.Digest) ([]byte, error)
}

// ChunkSize is the size of a chunk in bytes; only an object's last chunk is smaller.
const ChunkSize = 1 << 20

// Publication is one verified write. [Publication.Check] says what must hold of it.
type Publication struct {
	Envelope []byte   // the DSSE envelope as received
	Records  []Record // each with exactly one claim, which rests on Envelope
	Sets     []*source.Set
	// Chunks holds, by digest, the SHA-256 of each 1 MiB chunk of objects larger than one chunk, so that ranges
	// of bytes kept elsewhere can be verified.
	Chunks map[artifact.Digest][]artifact.Digest
}

// Outcome says what a publication did with one record.
type Outcome uint8

const (
	Stored    Outcome = iota // the name is new and now has these bytes
	Confirmed                // the name already had these bytes
	Kept                     // the name has other bytes, and keeps them
)
