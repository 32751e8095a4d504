package hashserv

import (
	"context"
	"encoding/hex"
	"time"
)

const (
	// maxBatch is how many lines of a stream are answered together.
	maxBatch = 1024
	// maxBatchText is how many bytes of lines are collected, at the least: a batch ends with the line that reaches it.
	maxBatchText = 64 << 10
)

// batch is the lines of a stream that are answered together: those that were there at once. Its room is used again, but for the text:
// stores may keep parts of it.
type batch struct {
	raw  []byte
	text string // raw as a string
	ends []int  // where each line ends in text

	tasks     []Task
	mappings  []Mapping
	unihashes []Unihash
	exist     []bool
	hex       []byte
}

// line returns the i-th line.
func (b *batch) line(i int) string {
	if i == 0 {
		return b.text[:b.ends[0]]
	}
	return b.text[b.ends[i-1]:b.ends[i]]
}

// collect waits for a line, and takes the others that are there. It reports whether the stream ends behind them.
func (b *batch) collect(conn Conn) (end bool, err error) {
	b.raw, b.ends = b.raw[:0], b.ends[:0]
	for more := true; more; more = len(b.ends) < maxBatch && len(b.raw) < maxBatchText && conn.Buffered() {
		line, err := conn.Receive()
		if err != nil {
			b.text = string(b.raw)
			return false, err
		}
		if len(line) == 0 || string(line) == endOfStream {
			end = true
			break
		}
		b.raw = append(b.raw, line...)
		b.ends = append(b.ends, len(b.raw))
	}
	b.text = string(b.raw)
	if cap(b.raw) > 2*maxBatchText {
		b.raw = nil
	}
	return end, nil
}

// stream answers lines until one says that it ends. answer sends the replies to a batch; when it returns an error it has sent those before
// the line that caused it.
func (c *serving) stream(ctx context.Context, need Permission, answer func(context.Context, *batch) error) error {
	if err := c.peer.May(ctx, need); err != nil {
		return err
	}
	if err := c.conn.Send([]byte(streamEntered)); err != nil {
		return err
	}
	for end := false; !end; {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.rest(); err != nil {
			return err
		}
		var err error
		end, err = c.batch.collect(c.conn)
		if answerErr := c.measured(ctx, answer); answerErr != nil {
			return answerErr
		}
		if err != nil {
			return err
		}
	}
	return c.conn.Send([]byte(streamLeft))
}

// measured answers the batch, and counts each of its lines as a request.
func (c *serving) measured(ctx context.Context, answer func(context.Context, *batch) error) error {
	n := len(c.batch.ends)
	if n == 0 {
		return nil
	}
	began := time.Now()
	err := answer(ctx, &c.batch)
	c.server.stats.add(n, time.Since(began))
	return err
}

// getLines answers lines METHOD TASKHASH.
func (c *serving) getLines(ctx context.Context, b *batch) error {
	var bad error
	b.tasks = b.tasks[:0]
	for i := range b.ends {
		method, taskhash, ok := twoWords(b.line(i))
		if !ok {
			bad = malformed("a line is not of two words")
			break
		}
		b.tasks = append(b.tasks, Task{method, taskhash})
	}
	if err := c.lookUp(ctx, b); err != nil {
		return err
	}
	for _, m := range b.mappings {
		b.hex = b.hex[:0]
		if m.Unihash != (Unihash{}) {
			b.hex = hex.AppendEncode(b.hex, m.Unihash[:])
		}
		if err := c.conn.Send(b.hex); err != nil {
			return err
		}
	}
	return bad
}

// lookUp fills b.mappings. A task that no store can have is mapped to nothing.
func (c *serving) lookUp(ctx context.Context, b *batch) error {
	b.mappings = zeroed(b.mappings, len(b.tasks))
	if len(b.tasks) == 0 {
		return nil
	}
	for _, t := range b.tasks {
		if len(t.Method) > maxWord || len(t.Taskhash) > maxWord {
			return c.lookUpSome(ctx, b)
		}
	}
	return c.peer.Unihash(ctx, b.tasks, b.mappings)
}

// lookUpSome is lookUp when some tasks must not be asked for.
func (c *serving) lookUpSome(ctx context.Context, b *batch) error {
	var asked []Task
	var at []int
	for i, t := range b.tasks {
		if t.storable() {
			asked, at = append(asked, t), append(at, i)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	answers := make([]Mapping, len(asked))
	if err := c.peer.Unihash(ctx, asked, answers); err != nil {
		return err
	}
	for i, m := range answers {
		b.mappings[at[i]] = m
	}
	return nil
}

// existsLines answers lines UNIHASH. What is none does not exist.
func (c *serving) existsLines(ctx context.Context, b *batch) error {
	b.unihashes = b.unihashes[:0]
	for i := range b.ends {
		if u, ok := ParseUnihash(cutBlanks(b.line(i))); ok {
			b.unihashes = append(b.unihashes, u)
		}
	}
	b.exist = zeroed(b.exist, len(b.unihashes))
	if len(b.unihashes) > 0 {
		if err := c.peer.Exists(ctx, b.unihashes, b.exist); err != nil {
			return err
		}
	}
	next := 0
	for i := range b.ends {
		exists := false
		if u, ok := ParseUnihash(cutBlanks(b.line(i))); ok && u == b.unihashes[next] {
			exists = b.exist[next]
			next++
		}
		if err := c.conn.Send(boolText(exists)); err != nil {
			return err
		}
	}
	return nil
}

func boolText(b bool) []byte {
	if b {
		return []byte("true")
	}
	return []byte("false")
}

// markLines answers lines {"mark": MARK, "where": {COLUMN: VALUE}}.
func (c *serving) markLines(ctx context.Context, k Keeper, b *batch) error {
	for i := range b.ends {
		mark, err := parseMark([]byte(b.line(i)))
		if err != nil {
			return err
		}
		n, err := k.Mark(ctx, mark.Mark, mark.Where)
		if err != nil {
			return err
		}
		if err := c.reply(countReply{n}); err != nil {
			return err
		}
	}
	return nil
}

// zeroed returns n zero elements, in the room of s if there is enough.
func zeroed[E any](s []E, n int) []E {
	if cap(s) < n {
		return make([]E, n)
	}
	s = s[:n]
	clear(s)
	return s
}
