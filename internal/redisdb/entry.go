package redisdb

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
)

const (
	// maxEvent bounds the text of an event, in bytes.
	maxEvent = 8 << 10
	// maxEntry bounds an entry of the stream. What is longer is not ours.
	maxEntry = maxEvent + 1<<10
)

// mark is 16 bytes that nobody can guess.
type mark [16]byte

// place is where in the history of a gate an entry stands. Two entries at one place are one entry.
type place struct {
	position uint64 // the stream's ID is "position-0"
	life     mark   // drawn when the stream was begun: another life is another history
	tag      mark   // the last bytes of the entry
}

// entry is what the stream holds under "e":
//
//	entry   = life(16) prev(16) sealed
//	context = position(8) life prev
//	plain   = 0 / 1 event
//	event   = forge user repo key why seconds nanoseconds      ; texts are their length and their bytes
//
// prev is the tag of the entry before, so that an entry cannot be put after another one; 0 begins a life. Numbers are
// as encoding/binary has them: positions big-endian, the rest varints.
type entry struct {
	place
	prev  mark
	begin bool // it begins a life and holds no event
	event forge.Event
}

// beginLife makes the entry that a new life begins with.
func (b box) beginLife(position uint64) (place, []byte) {
	life := mark{}
	rand.Read(life[:])
	return b.sealEntry(position, life, mark{}, []byte{0})
}

// sealEvent makes the entry that stands after last. plain is of encodeEvent.
func (b box) sealEvent(last place, plain []byte) (place, []byte) {
	return b.sealEntry(last.position+1, last.life, last.tag, plain)
}

func (b box) sealEntry(position uint64, life, prev mark, plain []byte) (place, []byte) {
	blob := append(append(make([]byte, 0, 32+sealedBy+len(plain)), life[:]...), prev[:]...)
	blob = b.seal(blob, entryContext(position, blob), plain)
	return place{position, life, tagOf(blob)}, blob
}

// entryContext takes the 32 bytes that an entry begins with.
func entryContext(position uint64, head []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 40), position), head[:32]...)
}

func tagOf[T string | []byte](blob T) (tag mark) {
	if len(blob) >= len(tag) {
		copy(tag[:], blob[len(blob)-len(tag):])
	}
	return tag
}

// openEntry reads an entry, and reports whether a node of this gate made it to stand under that ID.
func (b box) openEntry(id, text string) (e entry, ok bool) {
	position, ok := parseID(id)
	blob := []byte(text)
	if !ok || len(blob) < 32+sealedBy || len(blob) > maxEntry {
		return entry{}, false
	}
	plain, ok := b.open(entryContext(position, blob), blob[32:])
	if !ok || len(plain) == 0 {
		return entry{}, false
	}
	e = entry{place: place{position, mark(blob), tagOf(blob)}, prev: mark(blob[16:]), begin: plain[0] == 0}
	if e.begin {
		return e, len(plain) == 1 && e.prev == mark{}
	}
	e.event, ok = decodeEvent(plain)
	return e, ok
}

// formatID and parseID turn positions into IDs of the stream and back. There is one way to write each.
func formatID(position uint64) string { return strconv.FormatUint(position, 10) + "-0" }

func parseID(id string) (uint64, bool) {
	digits, ok := strings.CutSuffix(id, "-0")
	position, err := strconv.ParseUint(digits, 10, 64)
	return position, ok && err == nil && position > 0 && formatID(position) == id
}

// encodeEvent writes the plain text of an entry.
func encodeEvent(e forge.Event) ([]byte, error) {
	out := []byte{1}
	for _, text := range []string{e.Forge, e.User, e.Repo, e.Key, e.Why} {
		out = append(binary.AppendUvarint(out, uint64(len(text))), text...)
	}
	out = binary.AppendVarint(out, e.At.Unix())
	out = binary.AppendUvarint(out, uint64(e.At.Nanosecond()))
	if len(out) > maxEvent {
		return nil, fmt.Errorf("the event takes %d bytes, of %d at most", len(out), maxEvent)
	}
	return out, nil
}

// decodeEvent reads what encodeEvent wrote, and nothing else.
func decodeEvent(plain []byte) (e forge.Event, ok bool) {
	r := reader{rest: plain, ok: true}
	kind := r.bytes(1)
	for _, text := range []*string{&e.Forge, &e.User, &e.Repo, &e.Key, &e.Why} {
		*text = string(r.bytes(r.uvarint()))
	}
	seconds, nanoseconds := r.varint(), r.uvarint()
	if !r.ok || len(r.rest) > 0 || kind[0] != 1 || nanoseconds >= uint64(time.Second) {
		return forge.Event{}, false
	}
	e.At = time.Unix(seconds, int64(nanoseconds)).UTC()
	return e, true
}

// reader takes bytes from the front of rest as long as ok.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) bytes(n uint64) []byte {
	if !r.ok || n > uint64(len(r.rest)) {
		r.ok = false
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	r.bytes(uint64(max(size, 0)))
	r.ok = r.ok && size > 0
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.rest)
	r.bytes(uint64(max(size, 0)))
	r.ok = r.ok && size > 0
	return n
}

// beat is what a node says of itself several times in [forge.Fence]. The hash of nodes holds it under "NAME/BOOT", sealed
// with that as its context: two processes that were given one name are two nodes.
//
//	plain = seq applied
type beat struct {
	seq     uint64 // counts up as long as the process lives
	applied uint64 // the position its listener was told last
}

func (b box) sealBeat(field string, said beat) []byte {
	plain := binary.AppendUvarint(binary.AppendUvarint(nil, said.seq), said.applied)
	return b.seal(nil, []byte(field), plain)
}

func (b box) openBeat(field, text string) (said beat, ok bool) {
	plain, ok := b.open([]byte(field), []byte(text))
	r := reader{rest: plain, ok: ok}
	said = beat{seq: r.uvarint(), applied: r.uvarint()}
	return said, r.ok && len(r.rest) == 0
}
