package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// pollEvery is how often Tail looks for new lines when it follows.
const pollEvery = 100 * time.Millisecond

// TailOptions says which events [Tail] yields.
type TailOptions struct {
	// Follow goes on after the last event and yields new ones as they are written, until the context ends.
	Follow bool
	// Lines is how many of the last events that pass Filter to begin with: 0 for all there are, negative for none.
	Lines int
	// Filter, when set, keeps an event by returning true. It must not keep the pointer.
	Filter func(*Event) bool
}

// Tail yields the events in dir in order. An error is yielded once and ends the sequence; with Follow the end of ctx ends it
// without one. It takes no lock and may run beside a gate. It trusts checksums and the chain as far as it reads: to check a
// whole trail, use [Verify].
func Tail(ctx context.Context, dir string, opts TailOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		t := tailer{dir: dir, opts: opts}
		err := t.run(ctx, func(e Event) bool { return yield(e, nil) })
		if err != nil && !(opts.Follow && ctx.Err() != nil) {
			yield(Event{}, err)
		}
	}
}

// errStop says that the consumer wants no more.
var errStop = errors.New("stop")

// tailer remembers how far it has read.
type tailer struct {
	dir    string
	opts   TailOptions
	last   link // the last line read
	linked bool
	at     string // the segment read last, and the place in it
	offset int64
	line   int
}

func (t *tailer) run(ctx context.Context, yield func(Event) bool) error {
	events, err := t.recent(ctx, yield)
	if err != nil {
		return ignoreStop(err)
	}
	for _, e := range events {
		if !yield(e) {
			return nil
		}
	}
	if !t.opts.Follow {
		return nil
	}
	return ignoreStop(t.follow(ctx, yield))
}

func ignoreStop(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// recent reads what is there. It yields everything when all is wanted, and else returns the last opts.Lines events.
func (t *tailer) recent(ctx context.Context, yield func(Event) bool) ([]Event, error) {
	segs, err := segments(t.dir)
	if err != nil {
		return nil, err
	}
	if t.opts.Lines == 0 {
		return nil, t.through(ctx, segs, yield)
	}
	var kept []Event
	for i := len(segs) - 1; i >= 0 && (i == len(segs)-1 || len(kept) < t.opts.Lines); i-- {
		before := tailer{dir: t.dir, opts: t.opts}
		ring := newRing(t.opts.Lines - len(kept))
		if err := before.through(ctx, segs[i:i+1], ring.add); err != nil {
			return nil, err
		}
		kept = append(ring.all(), kept...)
		if i == len(segs)-1 {
			*t = before
		}
	}
	if !t.linked && len(segs) > 0 { // the last segment is still empty
		t.last.seq = segs[len(segs)-1].first - 1
	}
	return kept, nil
}

// through reads segments one after the other, from where they follow the last line read.
func (t *tailer) through(ctx context.Context, segs []segment, yield func(Event) bool) error {
	for i, seg := range segs {
		if i+1 < len(segs) && segs[i+1].first <= t.last.seq+1 {
			continue // every line of it that counts was read
		}
		if err := t.segment(ctx, seg, yield); err != nil {
			return err
		}
	}
	return nil
}

// segment reads one segment to its end, or to the line that is still being written.
func (t *tailer) segment(ctx context.Context, seg segment, yield func(Event) bool) error {
	r, err := openSegment(t.dir, seg, link{}, false)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := t.position(r); err != nil {
		return err
	}
	err = t.drain(ctx, r, yield)
	t.at, t.offset, t.line = seg.name, r.frames.offset, r.frames.line
	return err
}

// position makes r go on where t stopped, or begin the segment that comes next. A segment of a later generation may hold lines
// again that were read already; drain passes over them.
func (t *tailer) position(r *segmentReader) error {
	switch next := t.last.seq + 1; {
	case r.seg.name == t.at && t.line > 0:
		if _, err := r.file.Seek(t.offset, io.SeekStart); err != nil {
			return fmt.Errorf("read audit segment %s: %w", t.at, err)
		}
		r.frames.offset, r.frames.line, r.begin.seq = t.offset, t.line, r.seg.first
		r.last, r.linked = t.last, t.linked
	case t.linked && r.seg.first > next:
		return r.frames.broken(fmt.Sprintf("the segment begins at line %d of the trail, but %d comes next: a segment is missing", r.seg.first, next))
	case t.linked && r.seg.first == next:
		r.last, r.linked = t.last, true
	}
	return nil
}

// drain yields what r has.
func (t *tailer) drain(ctx context.Context, r *segmentReader, yield func(Event) bool) error {
	for ctx.Err() == nil {
		line, h, err := r.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.seq <= t.last.seq {
			continue
		}
		e, err := decode(line)
		if err != nil {
			return r.frames.brokenLast(err.Error())
		}
		t.last, t.linked = r.last, true
		if (t.opts.Filter == nil || t.opts.Filter(&e)) && !yield(e) {
			return errStop
		}
	}
	return context.Cause(ctx)
}

// follow waits for lines after the last one read.
func (t *tailer) follow(ctx context.Context, yield func(Event) bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		segs, err := segments(t.dir)
		if err != nil {
			return err
		}
		if err := t.through(ctx, segs, yield); err != nil {
			return err
		}
	}
}

// ring keeps the last n events.
type ring struct {
	n      int
	events []Event
	oldest int
}

func newRing(n int) *ring { return &ring{n: max(n, 0)} }

func (r *ring) add(e Event) bool {
	switch {
	case r.n == 0:
	case len(r.events) < r.n:
		r.events = append(r.events, e)
	default:
		r.events[r.oldest] = e
		r.oldest = (r.oldest + 1) % r.n
	}
	return true
}

// all returns the events in order.
func (r *ring) all() []Event {
	return append(append([]Event(nil), r.events[r.oldest:]...), r.events[:r.oldest]...)
}
