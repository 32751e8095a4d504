package hashserv

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits of the wire. What exceeds one ends the connection.
const (
	// MaxLine is the longest line that is read, in bytes without its end. The reference server's is the same.
	MaxLine = 64 << 10
	// MaxMessage is the longest message, in bytes: of a websocket, or of the pieces of a chunked message together.
	MaxMessage = 1 << 20

	// maxUnsent is how many bytes of replies are held back before they are written without being asked to.
	maxUnsent = 256 << 10
	// maxKept is how much room for replies a connection keeps while it waits.
	maxKept = 64 << 10
	// firstRoom is how much a connection reads at once to begin with: most connections ask a few things.
	firstRoom = 4 << 10
)

// Conn carries messages both ways: lines, or the text messages of a websocket. One goroutine may receive and send; Close and
// SetDeadline may be called by others. After an error a Conn is only good for Close.
type Conn interface {
	// Receive returns the next message: a line without its end and without trailing ASCII white space, or one websocket message
	// as it is. It is valid UTF-8, and valid until the next call. The error is io.EOF when the peer ended between messages.
	Receive() ([]byte, error)
	// Buffered reports whether Receive would return at once. It may report false when a message is there already.
	Buffered() bool
	// Send appends a message to what Flush will write, or writes when there is much.
	Send(message []byte) error
	// Flush writes what was sent, at once.
	Flush() error
	// SetDeadline limits reading and writing, as that of a [net.Conn].
	SetDeadline(t time.Time) error
	// Close ends the connection without waiting for the peer. What was sent and not flushed is lost.
	Close() error
	// Chunked reports whether long messages are sent in chunks, as lines are: a websocket has none.
	Chunked() bool
}

// lingerer is a Conn that can say goodbye.
type lingerer interface {
	// linger ends what is written, and then reads until the peer has seen it, at most for d and for MaxMessage bytes: to close a
	// connection that has unread bytes takes back what was written.
	linger(d time.Duration)
}

var (
	errLongLine   = malformed("a line is too long")
	errNotUTF8    = malformed("a message is not UTF-8")
	errLineEnd    = errors.New("a message has a line end in it")
	errBadAddress = errors.New("want HOST:PORT, unix://PATH, tls://HOST:PORT, ws://… or wss://…")
)

// NewLineConn returns a Conn that carries lines over conn, which it closes. A line is at most maxLine bytes long.
func NewLineConn(conn net.Conn, maxLine int) Conn {
	return &lineConn{conn: conn, maxLine: maxLine, in: make([]byte, min(firstRoom, maxLine+2))}
}

type lineConn struct {
	conn    net.Conn
	maxLine int

	in         []byte
	start, end int // in[start:end] was read and not returned yet
	scanned    int // in[start:scanned] has no line end
	out        []byte
}

func (c *lineConn) Receive() ([]byte, error) {
	for !c.Buffered() {
		if c.end-c.start > c.maxLine {
			return nil, errLongLine
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	line := c.in[c.start:c.scanned]
	c.start = c.scanned + 1
	c.scanned = c.start
	if len(line) > c.maxLine {
		return nil, errLongLine
	}
	line = bytes.TrimRight(line, " \t\r\v\f")
	if !utf8.Valid(line) {
		return nil, errNotUTF8
	}
	return line, nil
}

// Buffered moves scanned to the next line end.
func (c *lineConn) Buffered() bool {
	if i := bytes.IndexByte(c.in[c.scanned:c.end], '\n'); i >= 0 {
		c.scanned += i
		return true
	}
	c.scanned = c.end
	return false
}

// fill reads more. The room doubles whenever it was not enough, up to what the longest line takes.
func (c *lineConn) fill() error {
	if c.start > 0 {
		c.end = copy(c.in, c.in[c.start:c.end])
		c.start, c.scanned = 0, c.end
	}
	if c.end == len(c.in) {
		c.in = append(c.in, make([]byte, min(len(c.in), c.maxLine+2-len(c.in)))...)
	}
	n, err := c.conn.Read(c.in[c.end:])
	c.end += n
	if c.end == len(c.in) && len(c.in) < c.maxLine+2 {
		c.in = append(c.in, make([]byte, min(len(c.in), c.maxLine+2-len(c.in)))...)
	}
	switch {
	case n > 0:
		return nil // an error comes again
	case errors.Is(err, io.EOF) && c.end > c.start:
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *lineConn) Send(message []byte) error {
	if bytes.IndexByte(message, '\n') >= 0 {
		return errLineEnd
	}
	c.out = append(append(c.out, message...), '\n')
	if len(c.out) >= maxUnsent {
		return c.Flush()
	}
	return nil
}

func (c *lineConn) Flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = emptied(c.out)
	return err
}

// emptied returns buf without content, and without its room when that is large.
func emptied(buf []byte) []byte {
	if cap(buf) > maxKept {
		return nil
	}
	return buf[:0]
}

func (c *lineConn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }
func (c *lineConn) Close() error                  { return c.conn.Close() }
func (c *lineConn) Chunked() bool                 { return true }
func (c *lineConn) linger(d time.Duration)        { linger(c.conn, d) }

func linger(conn net.Conn, d time.Duration) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || conn.SetDeadline(time.Now().Add(d)) != nil || half.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, conn, MaxMessage)
}

// Dialer connects to servers. The zero value connects without credentials and trusts the system's authorities.
type Dialer struct {
	// TLS is used for tls:// and wss://. ServerName is that of the address when it is empty here.
	TLS *tls.Config
	// Username and Password are sent as Basic credentials to ws:// and wss:// addresses that hold none themselves.
	Username, Password string
	// DialContext makes the network connection; nil for that of a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial connects to HOST:PORT, [V6]:PORT, unix://PATH, tls://HOST:PORT (lines over TLS), ws://… or wss://…, as BitBake writes them but for
// tls. The path and query of a websocket are kept; USER:PASSWORD@ becomes Basic credentials. ctx ends connecting, not the connection.
// Errors do not hold credentials.
func (d *Dialer) Dial(ctx context.Context, address string) (Conn, error) {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "tcp", address
	}
	switch scheme {
	case "unix":
		return d.dialLines(ctx, "unix", rest)
	case "tcp":
		return d.dialLines(ctx, "tcp", rest)
	case "tls":
		conn, err := d.dialTLS(ctx, rest, "")
		if err != nil {
			return nil, err
		}
		return NewLineConn(conn, MaxLine), nil
	case "ws", "wss":
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("address of a hash server: %w", errBadAddress) // url.Error quotes what it parsed
		}
		return d.dialWebsocket(ctx, u)
	}
	return nil, fmt.Errorf("address of a hash server: %w", errBadAddress)
}

func (d *Dialer) dialLines(ctx context.Context, network, address string) (Conn, error) {
	conn, err := d.dialNet(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewLineConn(conn, MaxLine), nil
}

func (d *Dialer) dialNet(ctx context.Context, network, address string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (d *Dialer) dialTLS(ctx context.Context, address, alpn string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of a hash server: %w", errBadAddress)
	}
	conf := &tls.Config{}
	if d.TLS != nil {
		conf = d.TLS.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	if alpn != "" {
		conf.NextProtos = []string{alpn}
	}
	conn, err := d.dialNet(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	client := tls.Client(conn, conf)
	if err := client.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return client, nil
}

// basic returns the Authorization header of u or d, "" for none.
func (d *Dialer) basic(u *url.URL) string {
	name, password := d.Username, d.Password
	if u.User != nil {
		name = u.User.Username()
		password, _ = u.User.Password()
	}
	if name == "" && password == "" {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}
