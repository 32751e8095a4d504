package hashserv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// stage is what a connection is in: it takes commands, or the lines of a stream.
type stage string

const (
	commands     stage = ""
	getStream    stage = cmdGetStream
	existsStream stage = cmdExistsStream
)

// call is what a client asks in one go: one command, or some lines of a stream. It belongs to whoever carries it now: the caller until it is
// put, then a lane, then the reader of a pipe. The caller reads what accept stored once done has said nil, and never after it gave up.
type call struct {
	stage  stage
	text   []byte                          // one message, or lines; it does not change
	n      int                             // how many, and how many replies
	accept func(i int, reply []byte) error // stores reply i, which it may not keep; an error says that it is no answer to message i
	again  bool                            // may be asked again when the connection ends before the answer
	done   chan error                      // has room for one
	gaveUp atomic.Bool                     // nobody waits for it any more
	tries  int
}

// wait returns the outcome of a call. When ctx ends first the call's answers are read and thrown away, for the sake of those behind it.
func (c *call) wait(ctx context.Context) error {
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		c.gaveUp.Store(true)
		return ctx.Err()
	}
}

// maxTries is how often a call is sent at most: a connection that ends takes with it all that was asked on it.
const maxTries = 3

// weight is how much a call delays those behind it, in lines of a stream: a command may write to a disk.
func (c *call) weight() int64 {
	if c.stage == commands {
		return 32
	}
	return int64(c.n)
}

// lane is one connection of a client, which is made when it is needed and made again when it was lost.
type lane struct {
	client  *Client
	timeout time.Duration // for each reply
	load    atomic.Int64  // the weight of what is queued and under way
	working atomic.Bool   // its connection has answered and not ended

	mu      sync.Mutex // guards what follows
	started bool
	closed  bool
	last    stage // of what was queued last
	queue   []*call
	wake    chan struct{} // has room for one
}

func newLane(c *Client, timeout time.Duration) *lane {
	return &lane{client: c, timeout: timeout, wake: make(chan struct{}, 1)}
}

// put queues a call. The lane's goroutine is started by the first.
func (l *lane) put(c *call) {
	l.load.Add(c.weight())
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started && !l.closed {
		l.started = l.client.start(l)
		l.closed = !l.started
	}
	if l.closed {
		l.finish(c, unavailable(errClosed))
		return
	}
	l.queue = append(l.queue, c)
	l.last = c.stage
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// cost is what a call of this stage has before it on the lane. A lane that would have to change its stage is taken when the others are busy.
func (l *lane) cost(s stage) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	cost := l.load.Load()
	if l.started && l.last != s {
		cost += 64
	}
	return cost
}

func (l *lane) take() []*call {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.queue
	l.queue = nil
	return taken
}

// run writes what is queued until ctx ends.
func (l *lane) run(ctx context.Context) {
	var p *pipe
	defer func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		if p != nil {
			p.end(errClosed)
			<-p.over
		}
		l.fail(l.take(), errClosed)
	}()
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		for calls := l.take(); len(calls) > 0; calls = l.take() {
			if p = l.usable(ctx, p, calls); p != nil {
				p.write(calls)
			}
		}
		if p != nil {
			p.flush()
		}
	}
}

var errClosed = errors.New("the client is closed")

// usable returns a pipe that has not ended. When there is none to be had it fails the calls and returns nil.
func (l *lane) usable(ctx context.Context, p *pipe, calls []*call) *pipe {
	if p != nil && p.alive() {
		return p
	}
	err := l.client.pause.ready()
	if err == nil {
		if p, err = l.client.connect(ctx, l); err == nil {
			return p
		}
		l.client.pause.failed(err)
	}
	for _, c := range calls {
		l.pass(c, err)
	}
	return nil
}

// pass hands a call on to a lane that works, if there is one: a server may take fewer connections than we would make.
func (l *lane) pass(c *call, err error) {
	other := l.client.working(l)
	if c.tries++; other == nil || c.tries >= maxTries {
		l.finish(c, unavailable(err))
		return
	}
	l.load.Add(-c.weight())
	other.put(c)
}

func (l *lane) fail(calls []*call, err error) {
	for _, c := range calls {
		l.finish(c, unavailable(err))
	}
}

func (l *lane) finish(c *call, err error) {
	l.load.Add(-c.weight())
	c.done <- err
}

// lost takes back the calls of a pipe that ended.
func (l *lane) lost(calls []*call, err error) {
	for _, c := range calls {
		again := c.again || errors.Is(err, errRefused)
		if c.tries++; !again || c.tries >= maxTries || c.gaveUp.Load() {
			l.finish(c, unavailable(err))
			continue
		}
		l.load.Add(-c.weight())
		l.put(c)
	}
}

// unavailable makes err wrap ErrUnavailable, and never a Refusal: it is not what the caller asked that was refused.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, err)
}

// pipe is a connection that calls are written to back to back. Replies come in their order. The lane's goroutine writes, another reads.
type pipe struct {
	lane   *lane
	conn   Conn
	stage  stage         // that the server will be in when it has read all; the writer's
	proven bool          // something was answered; the reader's
	room   []byte        // for long replies; the reader's
	over   chan struct{} // closed when the reader has given back what was waited for

	mu       sync.Mutex // guards what follows
	waiting  []expected // first what is answered next; the reader alone removes, and calls accept
	progress time.Time  // when something was answered, or asked while nothing was waited for
	watchdog *time.Timer
	ended    error // why
}

// expected is some replies that are waited for: to a call, or to a change of the stage.
type expected struct {
	call *call
	at   int // how many came
	ok   string
}

func newPipe(l *lane, conn Conn) *pipe {
	p := &pipe{lane: l, conn: conn, progress: time.Now(), over: make(chan struct{})}
	p.watchdog = time.AfterFunc(l.timeout, p.stalled)
	go p.read()
	return p
}

func (p *pipe) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended == nil
}

// write sends calls. What cannot be sent is lost with the connection.
func (p *pipe) write(calls []*call) {
	for i, c := range calls {
		if c.gaveUp.Load() {
			p.lane.finish(c, context.Canceled)
			continue
		}
		if !p.change(c.stage) || !p.expect(expected{call: c}) {
			p.lane.lost(calls[i:], errLost)
			return
		}
		p.writeCall(c)
	}
}

func (p *pipe) writeCall(c *call) {
	if c.stage == commands {
		p.send(commands, c.text)
		return
	}
	for line := range bytes.SplitSeq(c.text, []byte{'\n'}) {
		if !p.send(c.stage, line) {
			return
		}
	}
}

var errLost = errors.New("the connection was lost")

// send writes one message. When it fails the pipe ends, and with it what is waited for.
func (p *pipe) send(s stage, message []byte) bool {
	var err error
	if s == commands {
		err = sendMessage(p.conn, message)
	} else {
		err = p.conn.Send(message)
	}
	if err != nil {
		p.end(err)
	}
	return err == nil
}

func (p *pipe) flush() {
	if err := p.conn.Flush(); err != nil {
		p.end(err)
	}
}

// change leaves the present stage and enters another. It waits for nothing: the server reads on in the right stage.
func (p *pipe) change(to stage) bool {
	if p.stage == to {
		return true
	}
	if p.stage != commands {
		if !p.expect(expected{ok: streamLeft}) || !p.send(p.stage, []byte(endOfStream)) {
			return false
		}
	}
	if to != commands {
		if !p.expect(expected{ok: streamEntered}) || !p.send(commands, []byte(`{"`+string(to)+`":null}`)) {
			return false
		}
	}
	p.stage = to
	return true
}

// expect notes what will be answered, before it is asked. It reports false when the pipe has ended.
func (p *pipe) expect(e expected) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return false
	}
	if len(p.waiting) == 0 {
		p.progress = time.Now()
		p.watchdog.Reset(p.lane.timeout)
	}
	p.waiting = append(p.waiting, e)
	return true
}

// stalled ends the pipe when nothing came for too long.
func (p *pipe) stalled() {
	p.mu.Lock()
	late := len(p.waiting) > 0 && time.Since(p.progress) >= p.lane.timeout
	p.mu.Unlock()
	if late {
		p.end(fmt.Errorf("no answer within %s", p.lane.timeout))
	}
}

// read hands out replies until the connection ends, and then gives back what was waited for.
func (p *pipe) read() {
	defer close(p.over)
	for {
		reply, err := p.conn.Receive()
		if err == nil {
			err = p.take(reply)
		}
		if err != nil {
			p.end(err)
			break
		}
	}
	p.lane.working.Store(false)
	p.mu.Lock()
	waiting, err := p.waiting, p.ended
	p.waiting = nil
	p.mu.Unlock()
	if len(waiting) > 0 && !p.proven {
		p.lane.client.pause.failed(err)
	}
	for _, e := range waiting {
		if e.call != nil {
			p.lane.lost([]*call{e.call}, err)
		}
	}
}

var (
	errUnasked = errors.New("an answer to nothing")
	errStream  = errors.New("a bad answer to a change of the stream")
	errRefused = errors.New("the server ends a connection after a refusal")
)

// take gives a reply to whom it is for. An error ends the connection.
func (p *pipe) take(reply []byte) error {
	e, ok := p.next()
	if !ok {
		return errUnasked
	}
	if e.call == nil || e.call.stage == commands {
		var err error
		if reply, p.room, err = wholeMessage(p.conn, reply, p.room); err != nil {
			return p.distrust(err)
		}
	}
	if refusal := parseRefusal(reply); refusal != nil {
		return p.refused(refusal)
	}
	if err := e.accept(reply); err != nil {
		return p.distrust(err)
	}
	if !p.proven {
		p.proven = true
		p.lane.working.Store(true)
		p.lane.client.pause.worked()
	}
	p.answered(e)
	return nil
}

func (p *pipe) next() (expected, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return expected{}, false
	}
	return p.waiting[0], true
}

// accept checks the reply against what is expected.
func (e expected) accept(reply []byte) error {
	if e.call != nil {
		return e.call.accept(e.at, reply)
	}
	if string(reply) != e.ok {
		return errStream
	}
	return nil
}

// answered counts a reply that was taken.
func (p *pipe) answered(e expected) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[0].at++; e.call == nil || p.waiting[0].at == e.call.n {
		p.removeFirst(nil)
	}
	if len(p.waiting) == 0 {
		p.watchdog.Stop()
	} else if now := time.Now(); now.Sub(p.progress) > p.lane.timeout/16 {
		p.progress = now
		p.watchdog.Reset(p.lane.timeout)
	}
}

// removeFirst ends the call that is answered next, if it is one. The lock is held.
func (p *pipe) removeFirst(err error) {
	first := p.waiting[0]
	p.waiting[0] = expected{}
	p.waiting = p.waiting[1:]
	if first.call != nil {
		p.lane.finish(first.call, err)
	}
}

// refused ends the call that was refused; a refused stream ends all that waited for it. The connection ends with it, as the server's end
// does, and what was asked behind is asked again: it was not read.
func (p *pipe) refused(refusal *Refusal) error {
	p.end(errRefused) // before anybody hears of it: who asks next shall be asked elsewhere
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.waiting[0].call; first != nil && first.stage == commands {
		p.proven = true
		p.lane.client.pause.worked()
		p.removeFirst(refusal)
		return errRefused
	}
	p.lane.client.pause.failed(refusal)
	p.removeFirst(refusal)
	for len(p.waiting) > 0 && p.waiting[0].call != nil && p.waiting[0].call.stage != commands {
		p.removeFirst(refusal)
	}
	return errRefused
}

// distrust ends the call that was badly answered. A server that answered badly cannot be trusted with what is behind it either.
func (p *pipe) distrust(err error) error {
	p.end(err)
	p.lane.client.pause.failed(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeFirst(unavailable(err))
	return err
}

// end closes the connection. What was waited for is given back by its reader.
func (p *pipe) end(err error) {
	p.mu.Lock()
	first := p.ended == nil
	if first {
		p.ended = err
	}
	p.watchdog.Stop()
	p.mu.Unlock()
	if first {
		p.conn.Close()
	}
}

// pause keeps a client from hammering a server that does not work. It is shared by the client's lanes and safe for concurrent use.
type pause struct {
	first, longest time.Duration

	mu       sync.Mutex // guards what follows
	failures int
	until    time.Time
	cause    error
}

// ready returns nil when it is time to connect.
func (p *pause) ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures > 0 && time.Now().Before(p.until) {
		return fmt.Errorf("%w: not asked again yet after: %v", ErrUnavailable, p.cause)
	}
	return nil
}

// failed makes the pause twice as long, give or take a quarter: not all clients of a server that was restarted come back at once.
func (p *pause) failed(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := min(p.first<<min(p.failures, 16), p.longest)
	d += time.Duration((rand.Float64() - 0.5) / 2 * float64(d))
	p.failures++
	p.until = time.Now().Add(d)
	p.cause = cause
}

func (p *pause) worked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = 0
}
