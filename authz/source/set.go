package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SetID names a [Set] by its content: the SHA-256 of its canonical text. Equal sets have equal ids everywhere.
type SetID [sha256.Size]byte

// ParseSetID reads what String returns: 64 lower-case hex digits.
func ParseSetID(s string) (SetID, error) {
	var id SetID
	if len(s) == hex.EncodedLen(len(id)) && strings.Trim(s, "0123456789abcdef") == "" {
		_, err := hex.Decode(id[:], []byte(s))
		return id, err
	}
	return id, errors.New("not a set id: want 64 lower-case hex digits")
}

// String returns 64 lower-case hex digits.
func (id SetID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero SetID, which names no set: the empty set has an id as well.
func (id SetID) IsZero() bool { return id == SetID{} }

// Set is an immutable, sorted set of sources. It is safe for concurrent use.
type Set struct {
	id      SetID
	sources []Source
}

// NewSet sorts and de-duplicates a copy of sources and freezes it. A source that is not in the form that [Source].Check
// asks for becomes an [Unresolvable] one, so that no set can say of a place what the rules never saw.
func NewSet(sources []Source) *Set {
	sorted := slices.Clone(sources)
	for i, s := range sorted {
		if err := s.Check(); err != nil {
			sorted[i] = Source{Type: Unresolvable, Reason: "a source that is not normalised: " + err.Error()}
		}
	}
	slices.SortFunc(sorted, compare)
	return freeze(slices.Clip(slices.Compact(sorted)))
}

// Union returns the set of all members of sets. A nil set is one that nobody could read; it makes the union hold an
// [Unresolvable] source, since leaving it out would widen who may read.
func Union(sets ...*Set) *Set {
	var all []Source
	for _, s := range sets {
		if s == nil {
			all = append(all, Source{Type: Unresolvable, Reason: "a source set is missing"})
			continue
		}
		all = append(all, s.sources...)
	}
	return NewSet(all)
}

// ID returns the content address.
func (s *Set) ID() SetID { return s.id }

// Sources returns the members in order. The slice must not be changed.
func (s *Set) Sources() []Source { return s.sources }

// Empty reports whether there are no members. An artifact without sources is a denial, never public.
func (s *Set) Empty() bool { return len(s.sources) == 0 }

// setHeader begins every canonical text. After it comes a line for each member in ascending order: type, host, path,
// revision, repository and reason, each ended by a tab but the last, which a line feed ends. No member may hold either,
// so there is one text for each set and one set for each text.
const setHeader = "lychgate source set 1\n"

// MarshalText returns the canonical text that ID hashes, and UnmarshalSet reads it back.
func (s *Set) MarshalText() ([]byte, error) {
	b := []byte(setHeader)
	for _, src := range s.sources {
		for _, field := range []string{string(src.Type), src.Locator.Host, src.Locator.Path, src.Rev, src.Repo} {
			b = append(append(b, field...), '\t')
		}
		b = append(append(b, src.Reason...), '\n')
	}
	return b, nil
}

// UnmarshalSet reads what MarshalText wrote, and nothing else: every member must be in the form that [Source].Check asks
// for, in order and only once. It keeps no part of text.
func UnmarshalSet(text []byte) (*Set, error) {
	body, ok := strings.CutPrefix(string(text), setHeader)
	if !ok {
		return nil, errors.New("read source set: not a source set of version 1")
	}
	var sources []Source
	for line := range strings.Lines(body) {
		src, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("read source set: member %d: %w", len(sources)+1, err)
		}
		if n := len(sources); n > 0 && compare(sources[n-1], src) >= 0 {
			return nil, fmt.Errorf("read source set: member %d is not in order", n+1)
		}
		sources = append(sources, src)
	}
	return freeze(sources), nil
}

func parseLine(line string) (Source, error) {
	line, ended := strings.CutSuffix(line, "\n")
	f := strings.Split(line, "\t")
	if !ended || len(f) != 6 {
		return Source{}, errors.New("not a line of six fields")
	}
	src := Source{Type(f[0]), Locator{f[1], f[2]}, f[3], f[4], f[5]}
	return src, src.Check()
}

func freeze(sources []Source) *Set {
	s := &Set{sources: sources}
	text, _ := s.MarshalText() // never fails
	s.id = sha256.Sum256(text)
	return s
}

func compare(a, b Source) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type),
		cmp.Compare(a.Locator.Host, b.Locator.Host),
		cmp.Compare(a.Locator.Path, b.Locator.Path),
		cmp.Compare(a.Rev, b.Rev),
		cmp.Compare(a.Repo, b.Repo),
		cmp.Compare(a.Reason, b.Reason),
	)
}
