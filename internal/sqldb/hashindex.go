package sqldb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// hashKey stands for a task or a unihash of a zone: the first half of a SHA-256. As with [recordKey], equal keys are taken for equal texts,
// and then only to answer: what is written is decided by the texts themselves.
type hashKey [16]byte

// keyOfTask does not allocate for the texts that BitBake makes, which have about a hundred bytes.
func keyOfTask(zone, method, taskhash string) hashKey {
	var room [256]byte
	text := append(room[:0], zone...) // neither a zone nor a method holds a NUL
	text = append(text, 0)
	text = append(text, method...)
	text = append(text, 0)
	text = append(text, taskhash...)
	sum := sha256.Sum256(text)
	return hashKey(sum[:])
}

func keyOfUnihash(zone string, u hashserv.Unihash) hashKey {
	var room [128]byte
	text := append(room[:0], u[:]...)
	text = append(text, zone...)
	sum := sha256.Sum256(text)
	return hashKey(sum[:])
}

// The bytes of a cell of each table.
const (
	taskCell    = 56
	unihashCell = 20
)

// hashMemory answers look-ups: what tasks are mapped to, and how many of them to each unihash. While complete it holds every mapping. When
// that would take more bytes than it may, it becomes a cache of some for good: then it says nothing of what it does not hold, and does not know
// of unihashes. Readers may be many. Puts and erasures by the follower are serialised by it.
type hashMemory struct {
	limit     int64 // bytes
	bytes     atomic.Int64
	complete  atomic.Bool
	removals  atomic.Uint64 // how often erase has begun
	tasks     [shards]taskShard
	unihashes [shards]unihashShard
}

type taskShard struct {
	mu sync.RWMutex // guards the table
	table[hashserv.Mapping]
	_ [64]byte
}

type unihashShard struct {
	mu sync.RWMutex // guards the table
	table[uint32]
	_ [64]byte
}

func newHashMemory(limit int64) *hashMemory {
	x := &hashMemory{limit: limit}
	x.complete.Store(true)
	return x
}

// get returns what a task is mapped to, zero when that is not known. It does not allocate.
func (x *hashMemory) get(key hashKey) hashserv.Mapping {
	s := &x.tasks[key[0]%shards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	if at, ok := s.find(key); ok {
		return s.cells[at].value
	}
	return hashserv.Mapping{}
}

// mapped reports whether a task is mapped to the unihash, and whether that is known.
func (x *hashMemory) mapped(key hashKey) (yes, known bool) {
	s := &x.unihashes[key[0]%shards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, yes = s.find(key)
	return yes, x.complete.Load()
}

// put enters what a task of zone is mapped to, also in place of what was.
func (x *hashMemory) put(zone string, key hashKey, m hashserv.Mapping) {
	old := x.putTask(key, m)
	if old.Unihash == m.Unihash || !x.complete.Load() {
		return
	}
	x.count(zone, old.Unihash, false)
	x.count(zone, m.Unihash, true)
}

func (x *hashMemory) putTask(key hashKey, m hashserv.Mapping) (old hashserv.Mapping) {
	s := &x.tasks[key[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.putLocked(s, key, m)
}

// putLocked is putTask for one who holds the shard's lock.
func (x *hashMemory) putLocked(s *taskShard, key hashKey, m hashserv.Mapping) (old hashserv.Mapping) {
	if at, ok := s.find(key); ok {
		old, s.cells[at].value = s.cells[at].value, m
		return old
	}
	if s.full() && !x.grow(s.wanted()*taskCell, s.grow) {
		x.forget()
		if !s.evict() {
			return old
		}
	}
	s.insert(key, m)
	return old
}

// cache enters what was read from the file when removals was as given, unless something was removed since: it might be this.
func (x *hashMemory) cache(key hashKey, m hashserv.Mapping, removals uint64) {
	s := &x.tasks[key[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if !x.complete.Load() && x.removals.Load() == removals {
		x.putLocked(s, key, m)
	}
}

// erase forgets the mapping of a task. The caller has begun with [hashMemory.erasing].
func (x *hashMemory) erase(zone string, key hashKey) {
	s := &x.tasks[key[0]%shards]
	s.mu.Lock()
	var old hashserv.Mapping
	if at, ok := s.find(key); ok {
		old = s.cells[at].value
		s.remove(at)
	}
	s.mu.Unlock()
	x.count(zone, old.Unihash, false)
}

// erasing keeps those who are reading the file from entering what is about to be erased.
func (x *hashMemory) erasing() { x.removals.Add(1) }

// count notes that one task more, or less, is mapped to a unihash.
func (x *hashMemory) count(zone string, u hashserv.Unihash, more bool) {
	if u == (hashserv.Unihash{}) || !x.complete.Load() {
		return
	}
	key := keyOfUnihash(zone, u)
	if s := &x.unihashes[key[0]%shards]; !x.countLocked(s, key, more) {
		x.forget()
	}
}

// countLocked reports whether there was room.
func (x *hashMemory) countLocked(s *unihashShard, key hashKey, more bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.find(key)
	switch {
	case ok && more:
		s.cells[at].value++
	case ok:
		if s.cells[at].value--; s.cells[at].value == 0 {
			s.remove(at)
		}
	case more:
		if s.full() && !x.grow(s.wanted()*unihashCell, s.grow) {
			return false
		}
		s.insert(key, 1)
	}
	return true
}

// grow makes a table larger by so many bytes if there is room.
func (x *hashMemory) grow(bytes int, grow func()) bool {
	if x.bytes.Add(int64(bytes)) > x.limit {
		x.bytes.Add(-int64(bytes))
		return false
	}
	grow()
	return true
}

// forget makes the memory a cache, and gives what the unihashes take to the tasks.
func (x *hashMemory) forget() {
	if !x.complete.CompareAndSwap(true, false) {
		return
	}
	for i := range x.unihashes {
		s := &x.unihashes[i]
		s.mu.Lock()
		x.bytes.Add(-int64(len(s.cells) * unihashCell))
		s.table = table[uint32]{}
		s.mu.Unlock()
	}
}

// reserve makes room for n mappings in all, before the first of them. It reports false, and does nothing, when they do not fit.
func (x *hashMemory) reserve(n int) bool {
	each := roomFor(n)
	bytes := int64(shards * each * (taskCell + unihashCell))
	if bytes > x.limit {
		return false
	}
	for i := range shards {
		x.tasks[i].cells = make([]cell[hashserv.Mapping], each)
		x.unihashes[i].cells = make([]cell[uint32], each)
	}
	x.bytes.Store(bytes)
	return true
}

// len returns the number of mappings held.
func (x *hashMemory) len() (n int) {
	for i := range x.tasks {
		s := &x.tasks[i]
		s.mu.RLock()
		n += s.used
		s.mu.RUnlock()
	}
	return n
}

// table is open-addressed, at most four fifths full, and probed linearly. It holds no pointers if V does not.
type table[V any] struct {
	cells []cell[V]
	used  int
}

// cell is empty when its key is zero, which no text has.
type cell[V any] struct {
	key   hashKey
	value V
}

// home is where a probe for key begins.
func (t *table[V]) home(key hashKey) int {
	high, _ := bits.Mul64(binary.LittleEndian.Uint64(key[8:]), uint64(len(t.cells)))
	return int(high)
}

// find returns where key is, or where it belongs.
func (t *table[V]) find(key hashKey) (at int, ok bool) {
	if len(t.cells) == 0 {
		return 0, false
	}
	for at = t.home(key); t.cells[at].key != (hashKey{}); at = t.next(at) {
		if t.cells[at].key == key {
			return at, true
		}
	}
	return at, false
}

func (t *table[V]) next(at int) int {
	if at++; at == len(t.cells) {
		return 0
	}
	return at
}

// full reports whether there is no room for one more.
func (t *table[V]) full() bool { return (t.used+1)*5 > len(t.cells)*4 }

// wanted is how many cells grow adds.
func (t *table[V]) wanted() int { return len(t.cells)/2 + 4 }

func (t *table[V]) grow() {
	old := t.cells
	t.cells = make([]cell[V], len(old)+t.wanted())
	for i := range old {
		if old[i].key != (hashKey{}) {
			at, _ := t.find(old[i].key)
			t.cells[at] = old[i]
		}
	}
}

// insert enters a key that is not there, with room for it.
func (t *table[V]) insert(key hashKey, v V) {
	at, _ := t.find(key)
	t.cells[at] = cell[V]{key, v}
	t.used++
}

// remove empties a cell, and moves into it what would no longer be found behind it.
func (t *table[V]) remove(at int) {
	t.used--
	for next := t.next(at); t.cells[next].key != (hashKey{}); next = t.next(next) {
		// What is at next may move to at unless its home lies behind at, on the way to next.
		home := t.home(t.cells[next].key)
		if at < next && at < home && home <= next || next < at && (home > at || home <= next) {
			continue
		}
		t.cells[at] = t.cells[next]
		at = next
	}
	t.cells[at] = cell[V]{}
}

// evict removes any one, and reports false when there is none.
func (t *table[V]) evict() bool {
	if t.used == 0 {
		return false
	}
	at := rand.IntN(len(t.cells))
	for t.cells[at].key == (hashKey{}) {
		at = t.next(at)
	}
	t.remove(at)
	return true
}

// hashText is a hash as the tables hold it: 64 lower-case hex digits as 32 bytes, any other text as it is.
func hashText(text string) any {
	if b, ok := parseHash(text); ok {
		return b
	}
	return text
}

func parseHash(text string) ([]byte, bool) {
	if len(text) != 64 {
		return nil, false
	}
	for i := range len(text) {
		if c := text[i]; 'A' <= c && c <= 'F' {
			return nil, false
		}
	}
	b, err := hex.DecodeString(text)
	return b, err == nil
}

// textOfHash undoes hashText.
func textOfHash(value any) (string, bool) {
	switch v := value.(type) {
	case []byte:
		return hex.EncodeToString(v), len(v) == 32
	case string:
		return v, true
	}
	return "", false
}
