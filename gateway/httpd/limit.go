package httpd

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// counter bounds how many of something are held for each key at once.
type counter struct {
	max int

	mu   sync.Mutex // guards held
	held map[string]int
}

func newCounter(limit int) *counter { return &counter{max: limit, held: map[string]int{}} }

// enter reports whether one more is allowed for key. Each true is followed by one leave.
func (c *counter) enter(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key] >= c.max {
		return false
	}
	c.held[key]++
	return true
}

func (c *counter) leave(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key]--; c.held[key] == 0 {
		delete(c.held, key)
	}
}

// limitedListener closes connections of an address that has too many, and all that go beyond the whole.
type limitedListener struct {
	net.Listener
	all  *counter // under the empty key
	each *counter
}

func newLimitedListener(ln net.Listener, l Limits) *limitedListener {
	return &limitedListener{Listener: ln, all: newCounter(l.Conns), each: newCounter(l.ConnsPerAddress)}
}

// Accept returns the next connection that its address may still have.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if leave, ok := l.admit(addressOf(conn)); ok {
			return &limitedConn{Conn: conn, leave: leave}, nil
		}
		conn.Close()
	}
}

// admit counts a connection of an address and returns what uncounts it.
func (l *limitedListener) admit(address string) (leave func(), ok bool) {
	if !l.all.enter("") {
		return nil, false
	}
	if !l.each.enter(address) {
		l.all.leave("")
		return nil, false
	}
	return func() { l.each.leave(address); l.all.leave("") }, true
}

// addressOf returns what connections are counted by: an IPv4 address, or the /64 of an IPv6 one, which is one host's to
// choose from.
func addressOf(conn net.Conn) string {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return ""
	}
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ""
	}
	return network.String()
}

type limitedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *limitedConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}

var errSlow = errors.New("the body moves too slowly")

// pace demands that in each window at least floor bytes move. A peer that stops is noticed at the deadline, a window after the
// one it stopped in; the deadline is never the window's own end, where a steady peer would be caught in the middle of a read.
type pace struct {
	window time.Duration
	floor  int64
	ends   time.Time
	moved  int64
}

func newPace(l Limits) pace {
	return pace{window: l.ProgressWindow, floor: l.ProgressBytes, ends: time.Now().Add(l.ProgressWindow)}
}

// step returns the deadline for the next read or write.
func (p *pace) step() (time.Time, error) {
	if now := time.Now(); !now.Before(p.ends) {
		if p.moved < p.floor {
			return now, errSlow
		}
		p.moved, p.ends = 0, now.Add(p.window)
	}
	return p.ends.Add(p.window), nil
}

// workTimeout is how long an answer may take once the whole body is there: the commit of an import reads every byte in the
// mirror first.
const workTimeout = time.Hour

// pacedReader is a request body that must keep moving. As it moves, so does the deadline of the answer; once it is all there,
// the answer has workTimeout.
type pacedReader struct {
	r    io.Reader
	ctl  *http.ResponseController
	pace pace
	set  time.Time
}

func newPacedReader(w http.ResponseWriter, r io.Reader, l Limits) *pacedReader {
	return &pacedReader{r: r, ctl: http.NewResponseController(w), pace: newPace(l)}
}

func (p *pacedReader) Read(b []byte) (int, error) {
	deadline, err := p.pace.step()
	if err != nil {
		return 0, err
	}
	if deadline != p.set {
		err := errors.Join(p.ctl.SetReadDeadline(deadline), p.ctl.SetWriteDeadline(deadline.Add(p.pace.window)))
		if err != nil {
			return 0, err
		}
		p.set = deadline
	}
	n, err := p.r.Read(b)
	p.pace.moved += int64(n)
	if err == io.EOF {
		if err := p.ctl.SetWriteDeadline(time.Now().Add(workTimeout)); err != nil {
			return n, err
		}
	}
	return n, err
}

// pacedWriter is a response body that must keep moving.
type pacedWriter struct {
	w     io.Writer
	ctl   *http.ResponseController
	pace  pace
	set   time.Time
	isCut atomic.Bool
}

func newPacedWriter(w http.ResponseWriter, l Limits) *pacedWriter {
	return &pacedWriter{w: w, ctl: http.NewResponseController(w), pace: newPace(l)}
}

var errCut = errors.New("the right to read was withdrawn")

// cut ends a Write under way, which may wait for a client that takes nothing, and forbids every later one.
func (p *pacedWriter) cut() {
	p.isCut.Store(true)
	_ = p.ctl.SetWriteDeadline(time.Unix(1, 0)) // without it, the Write ends with its window
}

// piece is how much is written under one deadline: what the floor demands in a window moves in one.
const piece = 32 << 10

func (p *pacedWriter) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		deadline, err := p.pace.step()
		if err != nil {
			return sent, err
		}
		if deadline != p.set {
			if err := p.ctl.SetWriteDeadline(deadline); err != nil {
				return sent, err
			}
			p.set = deadline
		}
		if p.isCut.Load() { // asked after the deadline is set, which may have undone that of cut
			return sent, errCut
		}
		n, err := p.w.Write(b[sent:min(len(b), sent+piece)])
		sent += n
		p.pace.moved += int64(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
