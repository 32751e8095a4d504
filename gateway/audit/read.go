package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// link is a place in the chain: the last line read. The zero link is the place before the first line of all.
type link struct {
	seq uint64
	sum digest
}

// segmentReader reads the lines of one segment that count, and checks that each follows the one before.
type segmentReader struct {
	file   *os.File
	frames *frameReader
	seg    segment
	last   link
	linked bool // last is known
	node   string
	begin  head // of the first line
}

// openSegment opens a segment whose first line must follow last, if linked.
func openSegment(dir string, seg segment, last link, linked bool) (*segmentReader, error) {
	f, err := os.Open(filepath.Join(dir, seg.name))
	if err != nil {
		return nil, fmt.Errorf("open audit segment: %w", err)
	}
	r := &segmentReader{file: f, frames: newFrameReader(f, seg.name), seg: seg, last: last, linked: linked}
	if linked && seg.first != last.seq+1 {
		f.Close()
		return nil, r.frames.broken(fmt.Sprintf("the segment begins at line %d of the trail, but %d comes next: a segment is missing", seg.first, last.seq+1))
	}
	return r, nil
}

func (r *segmentReader) Close() error { return r.file.Close() }

// next returns the next line; io.EOF at the end, or where a later generation takes over; errTorn; or a *BrokenError. The line
// is valid until the following call.
func (r *segmentReader) next() ([]byte, head, error) {
	if r.linked && r.last.seq+1 >= r.seg.limit {
		return nil, head{}, io.EOF
	}
	line, err := r.frames.next()
	if err != nil {
		return nil, head{}, err
	}
	h, err := parseHead(line)
	if err == nil {
		err = r.follows(h)
	}
	if err != nil {
		return nil, head{}, r.frames.brokenLast(err.Error())
	}
	if r.begin.seq == 0 {
		r.begin = h
	}
	r.node, r.linked = h.node, true
	r.last = link{seq: h.seq, sum: sha256.Sum256(line)}
	return line, h, nil
}

// follows checks a line against the one before.
func (r *segmentReader) follows(h head) error {
	switch {
	case r.begin.seq == 0 && h.seq != r.seg.first:
		return fmt.Errorf("line %d of the trail stands where the file's name promises %d", h.seq, r.seg.first)
	case r.linked && h.seq != r.last.seq+1:
		return fmt.Errorf("line %d of the trail follows line %d", h.seq, r.last.seq)
	case r.linked && h.prev != r.last.sum.String():
		return errors.New("prev is not the hash of the line before: that line was changed, or this one belongs elsewhere")
	case r.node != "" && h.node != r.node:
		return fmt.Errorf("a line of node %q in the trail of node %q", h.node, r.node)
	}
	return nil
}

// history is what a starting journal must know of what came before.
type history struct {
	seg  segment // the last one; no name when there is none
	size int64   // octets of whole lines in it
	torn bool    // something incomplete follows them
	last link
	node string
	open map[string]Object // transfers whose end is not recorded, by request
}

// readHistory reads the last segment and as many before it as it takes to know which transfers are open.
func readHistory(dir string) (*history, error) {
	segs, err := segments(dir)
	h := &history{open: map[string]Object{}}
	if err != nil || len(segs) == 0 {
		return h, err
	}
	h.seg = segs[len(segs)-1]
	var later *excerpt
	closed := map[string]bool{}
	for i := len(segs) - 1; i >= 0; i-- {
		x, err := readExcerpt(dir, segs[i], i == len(segs)-1)
		if err == nil && later != nil {
			err = later.follow(x)
		}
		if err != nil {
			return nil, advise(dir, err)
		}
		if later == nil {
			h.size, h.torn = x.size, x.torn
		}
		if h.last.seq == 0 {
			h.last, h.node = x.last, x.node
		}
		for id, o := range x.open {
			if !closed[id] {
				h.open[id] = o
			}
		}
		for id := range x.closed {
			closed[id] = true
		}
		if x.complete {
			return h, nil
		}
		later = x
	}
	if first := segs[0].first; first != 1 {
		return nil, advise(dir, fmt.Errorf("the first segment, %s, begins at line %d of the trail: those before it are missing", segs[0].name, first))
	}
	if h.last.seq == 0 && len(segs) > 1 {
		return nil, advise(dir, errors.New("its segments are empty"))
	}
	return h, nil
}

// advise adds what a person can do about a trail that contradicts itself.
func advise(dir string, err error) error {
	return fmt.Errorf("%w: the trail in %q was damaged or edited: keep it as evidence by moving the whole directory away, "+
		"then start with an empty one; `lychgate audit verify` shows how far it can be trusted", err, dir)
}

// excerpt is what one segment says about the open transfers.
type excerpt struct {
	seg      segment
	begin    head // zero for an empty segment
	last     link
	node     string
	size     int64
	torn     bool
	open     map[string]Object
	closed   map[string]bool
	complete bool // open does not depend on earlier segments
}

// readExcerpt reads a whole segment. Only the last one of the journal may end in an incomplete line.
func readExcerpt(dir string, seg segment, last bool) (*excerpt, error) {
	r, err := openSegment(dir, seg, link{}, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x := &excerpt{seg: seg, open: map[string]Object{}, closed: map[string]bool{}}
	for {
		line, h, err := r.next()
		if errors.Is(err, errTorn) && last {
			x.torn, err = true, io.EOF
		}
		if errors.Is(err, io.EOF) {
			x.begin, x.last, x.node, x.size = r.begin, r.last, r.node, r.frames.offset
			return x, nil
		}
		if errors.Is(err, errTorn) {
			return nil, r.frames.broken(err.Error())
		}
		if err != nil {
			return nil, err
		}
		if err := x.note(line, h); err != nil {
			return nil, r.frames.brokenLast(err.Error())
		}
	}
}

// note takes from a line what concerns transfers.
func (x *excerpt) note(line []byte, h head) error {
	switch h.kind {
	case KindDecision, KindTransfer, KindMismatch, KindGap, KindOpen:
	default:
		return nil
	}
	e, err := decode(line)
	if err != nil {
		return err
	}
	switch {
	case e.Kind == KindOpen:
		x.complete = true
		clear(x.open)
		clear(x.closed)
		for _, o := range e.Objects {
			x.open[o.Request] = o
		}
	case opensTransfer(&e):
		x.open[e.Request] = Object{Path: e.Object.Path, Size: e.Object.Size, Request: e.Request}
	case closesTransfer(&e):
		delete(x.open, e.Request)
		x.closed[e.Request] = true
	}
	return nil
}

// follow checks that x continues where the segment before it ends.
func (x *excerpt) follow(before *excerpt) error {
	r := segmentReader{seg: x.seg, last: before.last, linked: true, node: before.node, frames: newFrameReader(nil, x.seg.name)}
	switch {
	case before.last.seq == 0:
		return (&frameReader{file: before.seg.name}).broken("the segment is empty, but others follow it")
	case x.seg.first != before.last.seq+1:
		return r.frames.broken(fmt.Sprintf("the segment begins at line %d of the trail, but %d comes next: a segment is missing", x.seg.first, before.last.seq+1))
	case x.begin.seq == 0:
		return nil
	}
	if err := r.follows(x.begin); err != nil {
		return r.frames.broken(err.Error())
	}
	return nil
}
