package sqldb

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// recordKey stands for a name: the first half of the SHA-256 of zone, kind, part and path.
//
// Equal keys are taken for equal names. To be given another's record, a writer would have to find a name whose
// key is that of a name already published: 2^128 trials, divided by the number of records. Two names of the writer's own that
// share a key cost 2^64 trials and gain nothing: the second is then "kept", as if its name were taken.
type recordKey [16]byte

// keyOf does not allocate for paths of the lengths that exist: an sstate path has fewer than 300 bytes.
func keyOf(ref artifact.Ref) recordKey {
	var buffer [448]byte
	text := append(buffer[:0], ref.Zone...) // a zone's name holds no NUL
	text = append(text, 0, byte(ref.Kind), byte(ref.Part))
	text = append(text, ref.Path...)
	sum := sha256.Sum256(text)
	return recordKey(sum[:16])
}

// entry is a record without pointers, 72 bytes: a million of them are nothing to the garbage collector.
type entry struct {
	key    recordKey
	digest artifact.Digest
	size   uint64 // and the flags below
	time   int64  // nanoseconds since 1970
	claim  uint32 // its place in claims; 0 is an empty slot
	writer uint32 // its place in words
}

const (
	mirrorFlag = 1 << 63 // the bytes lie in the mirror
	moreFlag   = 1 << 62 // more claims are in shard.more
	sizeMask   = moreFlag - 1
)

// shards is a power of two, large enough that a growing shard holds up few readers.
const shards = 64

// index answers Lookup: an open-addressed table in shards, and the interned texts and claims the entries point to. It only
// grows. Readers may be many; callers serialise [index.addWord] and [index.addClaim].
type index struct {
	shards [shards]shard
	byHash hashIndex
	// words and claims are by id, which counts from 1. They are replaced or appended to, never changed, so a
	// slice of them stays good for as long as anybody holds it.
	words  atomic.Pointer[[]string]
	claims atomic.Pointer[[]provenance.Claim]
}

// shard is one table, at most four fifths full, probed linearly.
type shard struct {
	mu      sync.RWMutex // guards everything below
	entries []entry
	used    int
	more    map[recordKey][]provenance.Claim // all claims of a record that has several; copied on write
	_       [48]byte                         // keeps neighbours' locks out of the cache line
}

func newIndex() *index {
	x := &index{byHash: hashIndex{seed: maphash.MakeSeed()}}
	x.words.Store(&[]string{""})
	x.claims.Store(&[]provenance.Claim{{}})
	return x
}

// reserve makes room for n records in all, before the first of them.
func (x *index) reserve(n int) {
	for i := range x.shards {
		x.shards[i].entries = make([]entry, roomFor(n))
	}
}

// roomFor returns how long the table of each shard is to be, for n entries in all.
func roomFor(n int) int {
	// Keys fall evenly: a shard that gets 3 % more than its share is beyond the third standard deviation.
	return n/shards*129/100 + 16
}

func (x *index) shard(key recordKey) *shard { return &x.shards[key[0]%shards] }

// lookup fills in everything of the record but its Ref. It does not allocate.
func (x *index) lookup(key recordKey) (r provenance.Record, ok bool) {
	s := x.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.find(key)
	if !ok {
		return r, false
	}
	e := &s.entries[at]
	r.Digest = e.digest
	r.Size = int64(e.size & sizeMask)
	r.Place = provenance.Blob
	if e.size&mirrorFlag != 0 {
		r.Place = provenance.Mirror
	}
	r.Claims = (*x.claims.Load())[e.claim : e.claim+1 : e.claim+1]
	if e.size&moreFlag != 0 {
		r.Claims = s.more[key]
	}
	r.Writer = (*x.words.Load())[e.writer]
	r.Time = time.Unix(0, e.time).UTC()
	return r, true
}

// find returns where key is, or where it belongs.
func (s *shard) find(key recordKey) (at int, ok bool) {
	if len(s.entries) == 0 {
		return 0, false
	}
	high, _ := bits.Mul64(binary.LittleEndian.Uint64(key[8:]), uint64(len(s.entries)))
	for at = int(high); s.entries[at].claim != 0; {
		if s.entries[at].key == key {
			return at, true
		}
		if at++; at == len(s.entries) {
			at = 0
		}
	}
	return at, false
}

// add enters a record whose claim and writer are in the index, and its unihash unless that is zero. Adding it again changes nothing.
func (x *index) add(e entry, h hashEntry) {
	if x.addRecord(e) && h.zone != 0 {
		x.byHash.add(h)
	}
}

// addRecord reports whether the record is new.
func (x *index) addRecord(e entry) bool {
	s := x.shard(e.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.used+1)*5 > len(s.entries)*4 {
		s.grow()
	}
	at, ok := s.find(e.key)
	if !ok {
		s.entries[at] = e
		s.used++
	}
	return !ok
}

func (s *shard) grow() {
	old := s.entries
	s.entries = make([]entry, len(old)*3/2+16)
	for i := range old {
		if old[i].claim != 0 {
			at, _ := s.find(old[i].key)
			s.entries[at] = old[i]
		}
	}
}

// amend adds a claim to a record, and says that its bytes are a blob now. It reports whether the record is there.
func (x *index) amend(key recordKey, claim *provenance.Claim, blob bool) bool {
	s := x.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.find(key)
	if !ok {
		return false
	}
	e := &s.entries[at]
	if blob {
		e.size &^= mirrorFlag
	}
	if claim == nil {
		return true
	}
	held := s.more[key]
	if held == nil {
		held = (*x.claims.Load())[e.claim : e.claim+1]
	}
	if slices.Contains(held, *claim) {
		return true
	}
	if s.more == nil {
		s.more = make(map[recordKey][]provenance.Claim)
	}
	s.more[key] = append(slices.Clip(held), *claim) // Clip forces a copy: readers hold the old slice
	e.size |= moreFlag
	return true
}

// addWord and addClaim append behind what readers see, then show the longer slice.

func (x *index) addWord(text string) {
	words := append(*x.words.Load(), text)
	x.words.Store(&words)
}

func (x *index) addClaim(c provenance.Claim) {
	claims := append(*x.claims.Load(), c)
	x.claims.Store(&claims)
}

// len returns the number of records.
func (x *index) len() (n int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		n += s.used
		s.mu.RUnlock()
	}
	return n
}
