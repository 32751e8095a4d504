package hashserv

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

const (
	// frameRoom is how much of a websocket is read at once.
	frameRoom = 16 << 10
	// maxHead is the longest answer to an upgrade, in bytes.
	maxHead = 64 << 10
	// goodbye is how long Close may take to send the frame that says so.
	goodbye = 100 * time.Millisecond
)

var (
	errBinary  = malformed("a websocket message is binary")
	errBrowser = malformed("a browser asks for a websocket")
	// The library takes io.EOF for the end of a message, also where it is not.
	errEnded = errors.New("the connection ended")
	errCut   = errors.New("the connection ended within a frame")
)

// AcceptWebsocket answers an upgrade. When the error is not nil it has answered with one. Compression is taken when it is offered, without
// state between messages, so that an idle connection holds none; short messages are sent without it.
//
// A browser's request is refused, whichever site its page is of: a site can have the name of this server resolve to it, and BitBake is no browser.
func AcceptWebsocket(w http.ResponseWriter, r *http.Request) (Conn, error) {
	if len(r.Header["Origin"]) > 0 {
		http.Error(w, "this is not for browsers", http.StatusForbidden)
		return nil, errBrowser
	}
	taken := &takenOver{ResponseWriter: w}
	ws, err := websocket.Accept(taken, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionNoContextTakeover})
	if err != nil {
		return nil, err
	}
	return newWebsocketConn(ws, taken.conn), nil
}

// takenOver is a ResponseWriter whose connection becomes a frameConn.
type takenOver struct {
	http.ResponseWriter
	conn *frameConn
}

// Hijack returns a frameConn. What the HTTP server has read already comes first.
func (t *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// The HTTP server's limits of time are not those of a connection.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		conn.Close()
		return nil, nil, err
	}
	t.conn = &frameConn{Conn: conn, in: bufio.NewReaderSize(io.MultiReader(io.LimitReader(rw.Reader, int64(rw.Reader.Buffered())), conn), frameRoom)}
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// dialWebsocket connects to u, a ws or wss URL. Redirections are not followed.
func (d *Dialer) dialWebsocket(ctx context.Context, u *url.URL) (Conn, error) {
	up := &upgrade{dialer: d, secure: u.Scheme == "wss"}
	header := http.Header{"User-Agent": {"lychgate"}}
	if basic := d.basic(u); basic != "" {
		header.Set("Authorization", basic)
	}
	bare := *u
	bare.User = nil
	ws, _, err := websocket.Dial(ctx, bare.String(), &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: up, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		HTTPHeader:      header,
		CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		if up.conn != nil {
			up.conn.Close()
		}
		return nil, err
	}
	return newWebsocketConn(ws, up.conn), nil
}

// upgrade is a RoundTripper for one request, whose connection it keeps.
type upgrade struct {
	dialer *Dialer
	secure bool
	conn   *frameConn
}

func (u *upgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	conn, err := u.dial(ctx, r.URL)
	if err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxHead}
	u.conn = &frameConn{Conn: conn, client: true, in: bufio.NewReaderSize(head, frameRoom)}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(u.conn.in, r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		response.Body.Close()
		return nil, notUpgraded(response.StatusCode)
	}
	head.N = math.MaxInt64
	response.Body = u.conn
	return response, nil
}

// notUpgraded is the status of an answer to an upgrade that refuses it.
type notUpgraded int

func (status notUpgraded) Error() string {
	return fmt.Sprintf("the server answers %d %s", int(status), http.StatusText(int(status)))
}

func (u *upgrade) dial(ctx context.Context, to *url.URL) (net.Conn, error) {
	if u.secure {
		return u.dialer.dialTLS(ctx, hostPort(to, "443"), "http/1.1")
	}
	return u.dialer.dialNet(ctx, "tcp", hostPort(to, "80"))
}

func hostPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// websocketConn is a Conn over a websocket. Its replies leave together: the library writes each message by itself, into the frameConn.
type websocketConn struct {
	ws     *websocket.Conn
	frames *frameConn
	in     []byte
}

func newWebsocketConn(ws *websocket.Conn, frames *frameConn) Conn {
	ws.SetReadLimit(MaxMessage)
	return &websocketConn{ws: ws, frames: frames, in: make([]byte, 0, 512)}
}

func (c *websocketConn) Receive() ([]byte, error) {
	kind, r, err := c.ws.Reader(context.Background())
	switch status := websocket.CloseStatus(err); {
	case errors.Is(err, errEnded), status == websocket.StatusNormalClosure, status == websocket.StatusGoingAway:
		return nil, io.EOF
	case err != nil:
		return nil, err
	case kind != websocket.MessageText:
		return nil, errBinary
	}
	c.in = emptied(c.in)
	for {
		if len(c.in) == cap(c.in) {
			c.in = append(c.in, make([]byte, max(512, len(c.in)))...)[:len(c.in)]
		}
		n, err := r.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		switch {
		case errors.Is(err, io.EOF) && !utf8.Valid(c.in):
			return nil, errNotUTF8
		case errors.Is(err, io.EOF):
			return c.in, nil
		case err != nil:
			return nil, err
		}
	}
}

func (c *websocketConn) Buffered() bool { return c.frames.whole() }

func (c *websocketConn) Send(message []byte) error {
	c.frames.cork()
	return c.ws.Write(context.Background(), websocket.MessageText, message)
}

func (c *websocketConn) Flush() error                  { return c.frames.flush() }
func (c *websocketConn) SetDeadline(t time.Time) error { return c.frames.SetDeadline(t) }
func (c *websocketConn) Chunked() bool                 { return false }

func (c *websocketConn) Close() error {
	c.frames.sayGoodbye()
	return c.ws.CloseNow()
}

func (c *websocketConn) linger(d time.Duration) {
	c.frames.sayGoodbye()
	linger(c.frames.Conn, d)
}

// frameConn lies under a websocket. It hands out what it read frame by frame, so that it knows when a whole one is waiting, and holds back
// what is written while it is corked. Only its reader's goroutine may read; writing is safe for concurrent use.
type frameConn struct {
	net.Conn
	client bool
	in     *bufio.Reader
	left   uint64 // bytes of the frame that is being read

	mu      sync.Mutex // guards what follows, and that a write is whole: the reader answers a ping
	corked  bool
	leaving bool
	out     []byte
}

func (c *frameConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		n, err := c.nextFrame()
		if err != nil {
			return 0, err
		}
		c.left = n
	}
	n, err := c.in.Read(p[:min(uint64(len(p)), c.left)])
	c.left -= uint64(n)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

// nextFrame waits for the head of a frame, and returns the size of the frame with it.
func (c *frameConn) nextFrame() (uint64, error) {
	for need := 2; ; {
		head, err := c.in.Peek(need)
		switch {
		case errors.Is(err, io.EOF) && len(head) > 0:
			return 0, errCut
		case errors.Is(err, io.EOF):
			return 0, errEnded
		case err != nil:
			return 0, err
		}
		if need = headSize(head); len(head) >= need {
			return frameSize(head), nil
		}
	}
}

// whole reports whether the next frame is there, and is a whole text message.
func (c *frameConn) whole() bool {
	n := c.in.Buffered()
	if c.left != 0 || n < 2 {
		return false
	}
	head, err := c.in.Peek(min(n, 14))
	const finalText, compressed = 0x81, 0x40
	return err == nil && len(head) >= headSize(head) && head[0]&^compressed == finalText && frameSize(head) <= uint64(n)
}

// headSize returns how long the head of a frame is of which two bytes are known.
func headSize(head []byte) int {
	size := 2
	switch head[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if head[1]&0x80 != 0 {
		size += 4
	}
	return size
}

// frameSize returns the size of a frame from its whole head. A size that no frame can have is left to the library to refuse.
func frameSize(head []byte) uint64 {
	size := uint64(headSize(head))
	switch n := head[1] & 0x7f; n {
	case 126:
		return size + uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return size + binary.BigEndian.Uint64(head[2:])&math.MaxInt64
	default:
		return size + uint64(n)
	}
}

func (c *frameConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked {
		c.out = append(c.out, p...)
		if len(c.out) < maxUnsent {
			return len(p), nil
		}
		return len(p), c.writeOut()
	}
	return c.Conn.Write(p)
}

func (c *frameConn) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = true
}

func (c *frameConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.writeOut()
}

func (c *frameConn) writeOut() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = emptied(c.out)
	return err
}

// sayGoodbye sends a close frame once, unless something else is being written. Its mask, where one may stand, is zero: it hides nothing.
func (c *frameConn) sayGoodbye() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.leaving || len(c.out) > 0 {
		return
	}
	c.leaving = true
	if c.SetWriteDeadline(time.Now().Add(goodbye)) == nil {
		_, _ = c.Conn.Write(c.closeFrame())
	}
}

func (c *frameConn) closeFrame() []byte {
	const final, masked = 0x88, 0x80
	normal := binary.BigEndian.AppendUint16(nil, uint16(websocket.StatusNormalClosure))
	if c.client {
		return append([]byte{final, masked | 2, 0, 0, 0, 0}, normal...)
	}
	return append([]byte{final, 2}, normal...)
}
