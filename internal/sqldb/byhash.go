package sqldb

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// ByHash appends to out the payloads that are published in exactly this zone under this unihash. It answers from memory and allocates
// nothing but what out grows by. Of a record's Ref, Zone, Kind and Part are filled in; [DB.NamesByHash] has the names.
func (db *DB) ByHash(out []provenance.Record, zone string, hash [32]byte) []provenance.Record {
	word, ok := db.word(zone)
	if !ok {
		return out
	}
	var room [8]recordKey
	for _, key := range db.index.byHash.keys(room[:0], hash, uint32(word)) {
		r, ok := db.index.lookup(key)
		if ok {
			r.Ref = artifact.Ref{Zone: zone, Kind: artifact.KindSstate, Part: artifact.Payload}
			out = append(out, r)
		}
	}
	return out
}

// Published reports whether a payload is published in exactly this zone under this unihash. It answers from memory and does not
// allocate.
func (db *DB) Published(zone string, hash [32]byte) bool {
	word, ok := db.word(zone)
	return ok && db.index.byHash.has(hash, uint32(word))
}

// NamesByHash returns the names of the payloads that are published in exactly this zone under this unihash. It reads the file, one row a name.
func (db *DB) NamesByHash(ctx context.Context, zone string, hash [32]byte) ([]artifact.Ref, error) {
	word, ok := db.word(zone)
	if !ok {
		return nil, nil
	}
	var refs []artifact.Ref
	for _, key := range db.index.byHash.keys(nil, hash, uint32(word)) {
		var n name
		if err := db.reader.QueryRowContext(ctx, selectName, key[:]).Scan(&n.zone, &n.path, &n.part, &n.kind); err != nil {
			return nil, fmt.Errorf("name of hash %x: %w", hash, classify(err))
		}
		ref, err := db.ref(n)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// hashOf returns what the column hash holds of an artifact: nil unless it is a payload.
func hashOf(ref artifact.Ref) ([]byte, error) {
	if ref.Kind != artifact.KindSstate || ref.Part != artifact.Payload {
		return nil, nil
	}
	hash, err := hex.DecodeString(ref.Hash)
	if err != nil || len(hash) != 32 {
		return nil, fmt.Errorf("unihash %q is not 64 hex digits", ref.Hash)
	}
	return hash, nil
}

// hashEntry says that a record is published under a unihash. It holds no pointers and takes 52 bytes.
type hashEntry struct {
	hash [32]byte
	key  recordKey
	zone uint32 // its place in words; 0 is an empty slot
}

// hashIndex finds records by unihash: open-addressed tables in shards, at most four fifths full, probed linearly. It only grows. A
// unihash is chosen by whoever publishes, so the tables are addressed by a keyed hash of it.
type hashIndex struct {
	seed   maphash.Seed
	shards [shards]hashShard
}

type hashShard struct {
	mu      sync.RWMutex // guards everything below
	entries []hashEntry
	used    int
	_       [64]byte
}

// reserve makes room for n entries in all, before the first of them.
func (x *hashIndex) reserve(n int) {
	for i := range x.shards {
		x.shards[i].entries = make([]hashEntry, roomFor(n))
	}
}

func (x *hashIndex) shard(hash *[32]byte) (*hashShard, uint64) {
	sum := maphash.Bytes(x.seed, hash[:])
	return &x.shards[sum%shards], sum
}

// start returns where a probe begins. The low bits have chosen the shard; the product is led by the high ones.
func (s *hashShard) start(sum uint64) int {
	high, _ := bits.Mul64(sum, uint64(len(s.entries)))
	return int(high)
}

func (s *hashShard) next(at int) int {
	if at++; at == len(s.entries) {
		return 0
	}
	return at
}

// add enters a record, which must not be there.
func (x *hashIndex) add(e hashEntry) {
	s, sum := x.shard(&e.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.used+1)*5 > len(s.entries)*4 {
		old := s.entries
		s.entries = make([]hashEntry, len(old)*3/2+16)
		for i := range old {
			if old[i].zone != 0 {
				s.place(&old[i], maphash.Bytes(x.seed, old[i].hash[:]))
			}
		}
	}
	s.place(&e, sum)
	s.used++
}

func (s *hashShard) place(e *hashEntry, sum uint64) {
	at := s.start(sum)
	for s.entries[at].zone != 0 {
		at = s.next(at)
	}
	s.entries[at] = *e
}

// keys appends the records of a unihash in a zone.
func (x *hashIndex) keys(out []recordKey, hash [32]byte, zone uint32) []recordKey {
	s, sum := x.shard(&hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.entries) == 0 {
		return out
	}
	for at := s.start(sum); s.entries[at].zone != 0; at = s.next(at) {
		if e := &s.entries[at]; e.zone == zone && e.hash == hash {
			out = append(out, e.key)
		}
	}
	return out
}

func (x *hashIndex) has(hash [32]byte, zone uint32) bool {
	s, sum := x.shard(&hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.entries) == 0 {
		return false
	}
	for at := s.start(sum); s.entries[at].zone != 0; at = s.next(at) {
		if e := &s.entries[at]; e.zone == zone && e.hash == hash {
			return true
		}
	}
	return false
}

// reserve makes room for n records in all, as many of them by unihash as the newest suggest.
func (db *DB) reserve(ctx context.Context, tx *sql.Tx, n int) error {
	var hashed, seen int
	if err := tx.QueryRowContext(ctx, sampleHashes).Scan(&hashed, &seen); err != nil {
		return err
	}
	db.index.reserve(n)
	db.index.byHash.reserve(int(int64(n) * int64(hashed) / int64(max(seen, 1))))
	return nil
}

// zoneHash checks what a row says of a record's unihash. The zero hashEntry is a record without one.
func zoneHash(key recordKey, hash sql.RawBytes, zone, words uint32) (hashEntry, bool) {
	if len(hash) == 0 {
		return hashEntry{}, true
	}
	if len(hash) != 32 || zone == 0 || zone >= words {
		return hashEntry{}, false
	}
	return hashEntry{hash: [32]byte(hash), key: key, zone: zone}, true
}
