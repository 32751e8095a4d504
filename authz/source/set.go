package source

// SetID names a [Set] by its content: the SHA-256 of its canonical text. Equal sets have equal ids everywhere.
type SetID [32]byte

// Set is an immutable, sorted set of sources.
type Set struct {
	id      SetID
	sources []Source
}

// NewSet sorts and de-duplicates sources and freezes them.
func NewSet(sources []Source) *Set { return &Set{sources: sources} }

// ID returns the content address.
func (s *Set) ID() SetID { return s.id }

// Sources returns the members in order. The slice must not be changed.
func (s *Set) Sources() []Source { return s.sources }

// MarshalText returns the canonical text that ID hashes, and UnmarshalSet reads it back.
func (s *Set) MarshalText() ([]byte, error) { return nil, nil }

// UnmarshalSet reads what MarshalText wrote.
func UnmarshalSet(text []byte) (*Set, error) { return nil, nil }

// Parse reads one expanded entry of SRC_URI with the revision BitBake resolved for it ("" when there is none). It is
// total: what cannot be resolved becomes a Source of type Unresolvable with the reason, and is a denial.
func Parse(entry, rev string) Source { return Source{} }
