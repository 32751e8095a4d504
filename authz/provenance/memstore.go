package provenance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/source"
)

// MemStore is a [Store] in memory, for tests and trials: it keeps every promise of Store but the one that outlives
// the process.
type MemStore struct {
	// mu guards the maps. What they hold is never changed in place, so it may be returned without copying.
	mu        sync.RWMutex
	records   map[artifact.Ref]Record
	byDigest  map[zoneDigest][]artifact.Ref
	sets      map[source.SetID]*source.Set
	envelopes map[artifact.Digest][]byte
	chunks    map[artifact.Digest][]artifact.Digest
}

type zoneDigest struct {
	zone   string
	digest artifact.Digest
}

var _ Store = (*MemStore)(nil)

// NewMemStore returns an empty store.
func NewMemStore() *MemStore {
	return &MemStore{
		records:   make(map[artifact.Ref]Record),
		byDigest:  make(map[zoneDigest][]artifact.Ref),
		sets:      make(map[source.SetID]*source.Set),
		envelopes: make(map[artifact.Digest][]byte),
		chunks:    make(map[artifact.Digest][]artifact.Digest),
	}
}

// Lookup implements [Store].
func (m *MemStore) Lookup(ctx context.Context, ref artifact.Ref) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, ok := m.records[ref]
	if !ok {
		return Record{}, fmt.Errorf("look up %q: %w", ref.Name(), ErrNoRecord)
	}
	return r, nil
}

// Put implements [Store].
func (m *MemStore) Put(ctx context.Context, p Publication) ([]Outcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkSets(p); err != nil {
		return nil, err
	}
	// Nothing below can fail, so the publication is all or none.
	for _, set := range p.Sets {
		m.sets[set.ID()] = set
	}
	m.envelopes[sha256.Sum256(p.Envelope)] = bytes.Clone(p.Envelope)
	outcomes := make([]Outcome, len(p.Records))
	for i, r := range p.Records {
		outcomes[i] = m.put(r)
		if chunks := p.Chunks[r.Digest]; chunks != nil && m.chunks[r.Digest] == nil && outcomes[i] != Kept {
			m.chunks[r.Digest] = slices.Clone(chunks)
		}
	}
	return outcomes, nil
}

// checkSets refuses claims on sets that are neither stored nor in p. The caller holds mu.
func (m *MemStore) checkSets(p Publication) error {
	known := make(map[source.SetID]bool, len(p.Sets))
	for _, set := range p.Sets {
		known[set.ID()] = true
	}
	for _, r := range p.Records {
		for _, id := range []source.SetID{r.Claims[0].Sources, r.Claims[0].Inputs} {
			if m.sets[id] == nil && !known[id] {
				return fmt.Errorf("publish %q: source set %x is neither given nor stored", r.Ref.Name(), id)
			}
		}
	}
	return nil
}

// put publishes one checked record. The caller holds mu.
func (m *MemStore) put(r Record) Outcome {
	old, ok := m.records[r.Ref]
	switch {
	case !ok:
		r.Claims = slices.Clone(r.Claims)
		m.records[r.Ref] = r
		key := zoneDigest{r.Ref.Zone, r.Digest}
		m.byDigest[key] = append(m.byDigest[key], r.Ref)
		return Stored
	case old.Digest != r.Digest:
		return Kept
	}
	if len(old.Claims) < MaxClaims && !slices.ContainsFunc(old.Claims, r.Claims[0].Repeats) {
		// Clip forces a copy: readers hold the old slice.
		old.Claims = append(slices.Clip(old.Claims), r.Claims[0])
	}
	if r.Place == Blob {
		old.Place = Blob
	}
	m.records[r.Ref] = old
	return Confirmed
}

// Set implements [Store].
func (m *MemStore) Set(ctx context.Context, id source.SetID) (*source.Set, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	set := m.sets[id]
	if set == nil {
		return nil, fmt.Errorf("source set %x: %w", id, ErrNoRecord)
	}
	return set, nil
}

// InputSets implements [Store].
func (m *MemStore) InputSets(ctx context.Context, zone string, digests []artifact.Digest) ([]source.SetID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var ids []source.SetID
	for _, d := range digests {
		for _, ref := range m.byDigest[zoneDigest{zone, d}] {
			for _, claim := range m.records[ref].Claims {
				ids = append(ids, claim.Inputs)
			}
		}
	}
	slices.SortFunc(ids, func(a, b source.SetID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids), nil
}

// Chunks implements [Store].
func (m *MemStore) Chunks(ctx context.Context, d artifact.Digest) ([]artifact.Digest, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.chunks[d]), nil
}

// Envelope implements [Store].
func (m *MemStore) Envelope(ctx context.Context, d artifact.Digest) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	envelope, ok := m.envelopes[d]
	if !ok {
		return nil, fmt.Errorf("envelope %v: %w", d, ErrNoRecord)
	}
	return envelope, nil
}
