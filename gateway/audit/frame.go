package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
)

// A frame is one line of a segment file:
//
//	LENGTH SP CRC SP JSON LF
//
// LENGTH is the number of octets of JSON and CRC their CRC-32C, each as eight lower-case hex digits. JSON holds no LF, so grep
// works on the file as it is, and `cut -c19-` leaves what jq reads.
const (
	prefixLen = 18       // "LENGTH SP CRC SP"
	maxJSON   = 16 << 20 // the longest JSON the journal writes or reads
)

// digest is the SHA-256 of a line's JSON; the next line repeats it as "prev".
type digest [sha256.Size]byte

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// appendFramePrefix reserves room for what closeFrame fills in.
func appendFramePrefix(dst []byte) []byte { return append(dst, "00000000 00000000 "...) }

// closeFrame completes the frame that starts at dst[start:] and returns the digest of its JSON.
func closeFrame(dst []byte, start int) ([]byte, digest) {
	line := dst[start+prefixLen:]
	putHex(dst[start:], uint32(len(line)))
	putHex(dst[start+9:], checksum(line))
	return append(dst, '\n'), sha256.Sum256(line)
}

func checksum(line []byte) uint32 { return crc32.Checksum(line, crc32.MakeTable(crc32.Castagnoli)) }

func putHex(dst []byte, v uint32) {
	for i := 7; i >= 0; i-- {
		dst[i] = hexDigits[v&15]
		v >>= 4
	}
}

// parseHex reads eight lower-case hex digits. Upper case is refused, so that one frame has one spelling.
func parseHex(b []byte) (v uint32, ok bool) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, len(b) == 8
}

// BrokenError says where the trail first contradicts itself.
type BrokenError struct {
	File   string // base name of the segment
	Line   int    // counted from 1
	Offset int64  // of the line's first octet
	Reason string
}

// Error names the place and the reason.
func (e *BrokenError) Error() string {
	return fmt.Sprintf("audit segment %s, line %d, offset %d: %s", e.File, e.Line, e.Offset, e.Reason)
}

// errTorn is returned for an incomplete frame at the very end of a file: what a write that never returned leaves behind.
var errTorn = errors.New("incomplete last line")

// frameReader reads frames one after the other.
type frameReader struct {
	r      *bufio.Reader
	file   string
	line   int   // of the last frame returned
	start  int64 // where that one began
	offset int64 // of the next frame
	buf    []byte
}

func newFrameReader(r io.Reader, file string) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 256<<10), file: file}
}

// broken is a BrokenError at the frame that is being read.
func (f *frameReader) broken(reason string) error {
	return &BrokenError{File: f.file, Line: f.line + 1, Offset: f.offset, Reason: reason}
}

// brokenLast is a BrokenError at the frame that was returned last.
func (f *frameReader) brokenLast(reason string) error {
	return &BrokenError{File: f.file, Line: f.line, Offset: f.start, Reason: reason}
}

// next returns the JSON of the next frame, valid until the following call; io.EOF at a clean end; errTorn; or a *BrokenError.
// After an error the offset is that of the frame which could not be read.
func (f *frameReader) next() ([]byte, error) {
	n, err := f.fill(0, prefixLen)
	if err != nil {
		return nil, f.ended(n, err)
	}
	length, ok := parseHex(f.buf[:8])
	sum, ok2 := parseHex(f.buf[9:17])
	if !ok || !ok2 || f.buf[8] != ' ' || f.buf[17] != ' ' {
		return nil, f.notFrame(n)
	}
	if length > maxJSON {
		return nil, f.broken("the length is beyond the limit of a line")
	}
	total := prefixLen + int(length) + 1
	if n, err = f.fill(prefixLen, total); err != nil {
		return nil, f.ended(n, err)
	}
	line := f.buf[prefixLen : total-1]
	switch {
	case f.buf[total-1] != '\n':
		return nil, f.broken("the line does not end where its length says")
	case checksum(line) != sum:
		return nil, f.broken("the checksum does not match the line")
	}
	f.line++
	f.start = f.offset
	f.offset += int64(total)
	return line, nil
}

// fill reads into buf up to octet `to`, having `from` already, and returns how many it holds. The buffer grows with what is
// really there, not with what a damaged length claims.
func (f *frameReader) fill(from, to int) (int, error) {
	for from < to {
		step := min(to, from+64<<10)
		f.buf = slices.Grow(f.buf[:from], step-from)[:step]
		n, err := io.ReadFull(f.r, f.buf[from:])
		from += n
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		if err != nil {
			return from, err
		}
	}
	return from, nil
}

// ended judges n octets after which the file ends. A whole line ends in LF and JSON holds none, so octets with an LF among
// them were a whole line once and are never taken for a torn one.
func (f *frameReader) ended(n int, err error) error {
	rest := f.buf[:n]
	switch {
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read audit segment %s: %w", f.file, err)
	case n == 0:
		return io.EOF
	case bytes.IndexByte(rest, '\n') >= 0 || !prefixOfFrame(rest):
		return f.notFrame(n)
	}
	return errTorn
}

// notFrame judges octets that are no frame. A run of zeros to the end of the file is what a power cut can leave where a write had
// only been promised room; it is torn like an incomplete line.
func (f *frameReader) notFrame(n int) error {
	zero := func(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
	if !zero(f.buf[:n]) {
		return f.broken("not a line of the journal")
	}
	chunk := make([]byte, 32<<10)
	for {
		n, err := f.r.Read(chunk)
		if !zero(chunk[:n]) {
			return f.broken("zeros within the journal")
		}
		if errors.Is(err, io.EOF) {
			return errTorn
		}
		if err != nil {
			return fmt.Errorf("read audit segment %s: %w", f.file, err)
		}
	}
}

// prefixOfFrame reports whether rest, which is shorter than its frame, could be the start of one.
func prefixOfFrame(rest []byte) bool {
	for i := 0; i < len(rest) && i < prefixLen; i++ {
		if i == 8 || i == 17 {
			if rest[i] != ' ' {
				return false
			}
		} else if _, ok := parseHex(append([]byte("0000000"), rest[i])); !ok {
			return false
		}
	}
	return len(rest) <= prefixLen || rest[prefixLen] == '{'
}

// head is what links a line to its neighbours.
type head struct {
	seq  uint64
	node string
	prev string
	kind string
}

// parseHead reads the members that the journal writes first, in their fixed order.
func parseHead(line []byte) (h head, err error) {
	c := cutter{rest: line}
	seq := c.between(`{"v":1,"seq":`, ',')
	c.between(`"boot":"`, '"')
	h.node = string(c.between(`,"node":"`, '"'))
	c.between(`,"time":"`, '"')
	c.between(`,"mono":`, ',')
	h.prev = string(c.between(`"prev":"`, '"'))
	h.kind = string(c.between(`,"kind":"`, '"'))
	if c.bad {
		return head{}, errors.New("the line does not begin with the members of version 1")
	}
	if h.seq, err = strconv.ParseUint(string(seq), 10, 64); err != nil || h.seq == 0 {
		return head{}, errors.New("the line has no sequence number")
	}
	return h, nil
}

// cutter takes a line apart from the left; one failure makes all that follow fail.
type cutter struct {
	rest []byte
	bad  bool
}

// between removes open and everything up to end, end included, and returns what lay between.
func (c *cutter) between(open string, end byte) []byte {
	after, ok := bytes.CutPrefix(c.rest, []byte(open))
	i := bytes.IndexByte(after, end)
	if c.bad || !ok || i < 0 {
		c.bad = true
		return nil
	}
	c.rest = after[i+1:]
	return after[:i]
}
