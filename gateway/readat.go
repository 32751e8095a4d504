package gateway

import (
	"context"
	"fmt"
	"io"
	"time"
)

// readers is how many callers of ReadAt read one object at once, at most, for none of them to make another one start anew: one gets
// the bytes that it wants while those that come before them are still wanted by the others.
const readers = 8

// passedBytes bounds what all callers of ReadAt together have the gate hold for slower ones.
const passedBytes = 64 << 20

// sections is what ReadAt keeps: one reader, where the last call left it, and what it read past on the way there.
type sections struct {
	src     io.ReadCloser
	pos     int64
	passed  []section
	checked time.Time // when the right to read was last asked for
}

// section is bytes that were read past.
type section struct {
	off  int64
	data []byte
	left int // bytes that nobody has taken yet
	buf  *[]byte
}

// ReadAt reads len(p) bytes at off, fewer only at the end, with io.EOF. It verifies like Copy, counts what it returns as sent, and asks
// again for the right to read once a second, while it is called. It is safe for concurrent use, and fast when the callers read on
// behind one another, a little out of order as they may come. ctx must live as long as the transfer. After an error other than
// io.EOF, every further call returns it.
func (c *Content) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return 0, c.failed
	}
	if off < 0 || off >= c.Size {
		return 0, io.EOF
	}
	short := int64(len(p)) > c.Size-off
	p = p[:min(int64(len(p)), c.Size-off)]
	if err := c.readSection(ctx, p, off); err != nil {
		c.failed = err
		return 0, err
	}
	c.sent += int64(len(p))
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// Fail notes why a transfer by ReadAt ended before its time.
func (c *Content) Fail(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = why
	}
}

// readSection fills p from off on. c.mu is held.
func (c *Content) readSection(ctx context.Context, p []byte, off int64) error {
	if now := c.session.gate.Now(); now.Sub(c.at.checked) >= recheckEvery {
		if err := c.recheck(ctx); err != nil {
			return err
		}
		c.at.checked = now
	}
	for ahead := readers * len(p); len(p) > 0; {
		n := c.takePassed(p, off)
		if n == 0 {
			if err := c.moveTo(ctx, off, int64(ahead)); err != nil {
				return err
			}
			if err := c.readOn(p); err != nil {
				return err
			}
			n = len(p)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// takePassed copies what was read past.
func (c *Content) takePassed(p []byte, off int64) int {
	for i := range c.at.passed {
		s := &c.at.passed[i]
		if off < s.off || off >= s.off+int64(len(s.data)) {
			continue
		}
		n := copy(p, s.data[off-s.off:])
		if s.left -= n; s.left <= 0 {
			c.dropPassed(i)
		}
		return n
	}
	return 0
}

// moveTo brings the reader to off: on to it when it is near, else by opening the object anew.
func (c *Content) moveTo(ctx context.Context, off, ahead int64) error {
	if c.at.src != nil && c.at.pos <= off && off-c.at.pos <= ahead {
		for c.at.pos < off {
			if err := c.pass(off - c.at.pos); err != nil {
				return err
			}
		}
		return nil
	}
	c.closeSections()
	src, err := c.open(ctx, off, c.Size-off)
	if err != nil {
		return err
	}
	c.at.src, c.at.pos = src, off
	return nil
}

// pass reads n bytes, or the first of them, and holds them for those who will ask.
func (c *Content) pass(n int64) error {
	g := c.session.gate
	buf := g.copyBuffers.Get().(*[]byte)
	s := section{off: c.at.pos, data: (*buf)[:min(n, int64(len(*buf)))], buf: buf}
	s.left = len(s.data)
	if err := c.readOn(s.data); err != nil {
		g.copyBuffers.Put(buf)
		return err
	}
	if g.passed.Add(int64(len(*buf))) > passedBytes || len(c.at.passed) >= 2*readers {
		g.passed.Add(-int64(len(*buf)))
		g.copyBuffers.Put(buf) // who asks for it opens the object anew
		return nil
	}
	c.at.passed = append(c.at.passed, s)
	return nil
}

func (c *Content) dropPassed(i int) {
	g := c.session.gate
	s := c.at.passed[i]
	g.passed.Add(-int64(len(*s.buf)))
	g.copyBuffers.Put(s.buf)
	c.at.passed = append(c.at.passed[:i], c.at.passed[i+1:]...)
}

// readOn fills p from where the reader is.
func (c *Content) readOn(p []byte) error {
	n, err := io.ReadFull(c.at.src, p)
	c.at.pos += int64(n)
	if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrUnavailable, c.Name, err)
	}
	return nil
}

// closeSections gives back what ReadAt holds. c.mu is held.
func (c *Content) closeSections() {
	for len(c.at.passed) > 0 {
		c.dropPassed(0)
	}
	if c.at.src != nil {
		c.at.src.Close()
		c.at.src = nil
	}
}
