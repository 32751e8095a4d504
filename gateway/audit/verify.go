package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// VerifyOptions says what is known of a trail besides its files.
type VerifyOptions struct {
	// ExpectHead is the Head of an earlier Report. It must be a line of the trail: only so is it noticed that the end of a
	// trail was cut off cleanly.
	ExpectHead string
	// Pruned says that segments at the beginning were removed on purpose.
	Pruned bool
	// Live says that a gate may be writing: an incomplete last line is not a break then.
	Live bool
}

// Report says what was verified.
type Report struct {
	Node     string
	Segments int
	Events   uint64
	First    uint64 // sequence numbers
	Last     uint64
	Head     string // hex SHA-256 of the last line; note it elsewhere and expect it the next time
	Torn     bool   // an incomplete line was at the end, with Live
}

// Verify recomputes the trail in dir from its records: frames, checksums, members, the gapless sequence, the chain of hashes and
// the order of segments. It stops at the first contradiction with an error that wraps a [*BrokenError]; the Report covers
// what came before it. It takes no lock and may run beside a gate.
func Verify(ctx context.Context, dir string, opts VerifyOptions) (Report, error) {
	segs, err := segments(dir)
	if err != nil {
		return Report{}, err
	}
	v := verifier{opts: opts, linked: !opts.Pruned, expected: opts.ExpectHead == ""}
	for i, seg := range segs {
		if err := v.segment(ctx, dir, seg, i == len(segs)-1); err != nil {
			return v.report, fmt.Errorf("verify audit trail: %w", err)
		}
	}
	if !v.expected {
		return v.report, fmt.Errorf("verify audit trail: %w", v.end.broken(fmt.Sprintf(
			"the trail ends here, but no line has the expected hash %s: its end is missing, or it is another trail", opts.ExpectHead)))
	}
	return v.report, nil
}

// verifier walks the segments in order.
type verifier struct {
	opts     VerifyOptions
	report   Report
	last     link
	linked   bool
	expected bool        // ExpectHead was seen
	end      frameReader // where reading stopped
}

// segment verifies one segment. Only the last one may be empty.
func (v *verifier) segment(ctx context.Context, dir string, seg segment, final bool) error {
	r, err := openSegment(dir, seg, v.last, v.linked)
	if err != nil {
		return err
	}
	defer r.Close()
	defer func() { v.end = *r.frames }()
	r.node = v.report.Node
	v.report.Segments++
	for {
		err := v.line(ctx, r)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errTorn) && final && v.opts.Live:
			v.report.Torn = true
			return nil
		case errors.Is(err, errTorn):
			return r.frames.broken("the last line is incomplete")
		case !errors.Is(err, io.EOF):
			return err
		case r.begin.seq == 0 && !final:
			return r.frames.broken("the segment is empty, but others follow it")
		}
		return nil
	}
}

// line verifies one line.
func (v *verifier) line(ctx context.Context, r *segmentReader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	line, h, err := r.next()
	if err != nil {
		return err
	}
	if _, err := decode(line); err != nil {
		return r.frames.brokenLast(err.Error())
	}
	v.last, v.linked = r.last, true
	v.expected = v.expected || r.last.sum.String() == v.opts.ExpectHead
	v.report.Node, v.report.Last, v.report.Head = r.node, h.seq, r.last.sum.String()
	if v.report.Events++; v.report.Events == 1 {
		v.report.First = h.seq
	}
	return nil
}
