package hashserv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// srvMemoryConn is a connection whose peer has said everything in advance, and then ended. It is read in pieces of a size, 0 for any.
type srvMemoryConn struct {
	net.Conn
	in    *strings.Reader
	piece int
	out   bytes.Buffer
}

func (c *srvMemoryConn) Read(p []byte) (int, error) {
	if c.piece > 0 {
		p = p[:min(len(p), c.piece)]
	}
	return c.in.Read(p)
}

func (c *srvMemoryConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *srvMemoryConn) Close() error                     { return nil }
func (c *srvMemoryConn) SetDeadline(time.Time) error      { return nil }
func (c *srvMemoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *srvMemoryConn) SetWriteDeadline(time.Time) error { return nil }

func srvMemory(text string, piece int) *srvMemoryConn {
	return &srvMemoryConn{in: strings.NewReader(text), piece: piece}
}

// FuzzLines: how a text is cut into reads changes nothing about its lines, which are those that the standard library sees.
func FuzzLines(f *testing.F) {
	f.Add("a\nb \r\n\n\xff\nlast", uint8(1), uint8(10))
	f.Add(strings.Repeat("x", 300)+"\n", uint8(7), uint8(255))
	f.Add("OEHASHEQUIV 1.1\nneeds-headers: false\n\n{\"ping\": {}}\n", uint8(0), uint8(64))
	f.Fuzz(func(t *testing.T, text string, piece, maxLine uint8) {
		var want []string
		var wantErr error
		for rest := text; ; {
			line, more, ok := strings.Cut(rest, "\n")
			if !ok || len(line) > int(maxLine) {
				wantErr = srvEndOf(rest, ok, int(maxLine))
				break
			}
			line, rest = strings.TrimRight(line, " \t\r\v\f"), more
			if strings.ToValidUTF8(line, "") != line {
				wantErr = errNotUTF8
				break
			}
			want = append(want, line)
		}
		conn := NewLineConn(srvMemory(text, int(piece)), int(maxLine))
		for _, line := range want {
			got, err := conn.Receive()
			if err != nil || string(got) != line {
				t.Fatalf("got %q, %v; want %q", got, err, line)
			}
		}
		if got, err := conn.Receive(); !errors.Is(err, wantErr) {
			t.Fatalf("at the end got %q, %v; want %v", got, err, wantErr)
		}
	})
}

// srvEndOf is how lines end whose rest is no good line.
func srvEndOf(rest string, hasEnd bool, maxLine int) error {
	switch {
	case len(rest) > maxLine || hasEnd:
		return errLongLine
	case rest == "":
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

// FuzzRequest: what is accepted has a canonical form, in one line of ASCII, which means the same.
func FuzzRequest(f *testing.F) {
	for _, tc := range srvCommands() {
		f.Add(clientHello+"\n\n"+tc.send[0]+"\n", uint8(0))
		f.Add(tc.send[0], uint8(3))
	}
	for _, h := range srvHostiles() {
		if h.over != "websocket" && len(h.bytes("lines")) < 1000 {
			f.Add(h.bytes("lines"), uint8(0))
		}
	}
	f.Add(clientHello+"\na:b\n\n{\"chunk-stream\":null}\n{\"ping\"\n:{}}\n\n", uint8(5))
	f.Fuzz(func(t *testing.T, text string, piece uint8) {
		conn := NewLineConn(srvMemory(text, int(piece)), MaxLine)
		c := &serving{server: NewServer(ServerConfig{}), conn: conn}
		message := []byte(text)
		if err := c.handshake(); err == nil {
			if message, _, err = receiveMessage(conn, nil); err != nil {
				return
			}
		}
		command, body, err := parseRequest(message)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || body != nil {
				t.Fatalf("%v, %v", body, err)
			}
			return
		}
		canonical, err := marshalRequest(command, body)
		if err != nil || bytes.ContainsFunc(canonical, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			t.Fatalf("%q, %v", canonical, err)
		}
		again, body2, err := parseRequest(canonical)
		if err != nil || again != command || !reflect.DeepEqual(body, body2) {
			t.Fatalf("%s %+v is printed as %s, which is read as %s %+v, %v", command, body, canonical, again, body2, err)
		}
		if twice, err := marshalRequest(again, body2); err != nil || !bytes.Equal(twice, canonical) {
			t.Fatalf("%s, then %s, %v", canonical, twice, err)
		}
	})
}

// FuzzServer: whatever bytes come, the replies are lines of ASCII, the peer is asked only what a store can have (it is a referee), and how
// the bytes were cut into reads changes nothing.
func FuzzServer(f *testing.F) {
	for _, tc := range srvCommands() {
		f.Add(strings.Join(append(srvHandshake(), tc.send...), "\n")+"\n", uint8(1))
	}
	for _, h := range srvHostiles() {
		if h.over != "websocket" && len(h.bytes("lines")) < 1000 {
			f.Add(h.bytes("lines"), uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, text string, piece uint8) {
		before := runtime.NumGoroutine()
		out, calls, end := srvServeMemory(t, text, 0)
		out2, calls2, end2 := srvServeMemory(t, text, int(piece)+1)
		if out != out2 || srvFlat(calls) != srvFlat(calls2) || end != end2 {
			t.Fatalf("in one piece: %q %q %s\nin pieces of %d: %q %q %s", out, calls, end, int(piece)+1, out2, calls2, end2)
		}
		if strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && r < ' ' || r >= 0x7f }) {
			t.Fatalf("replies %q", out)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Fatalf("%d goroutines, before %d", after, before)
		}
	})
}

// srvServeMemory serves what a peer has said. Times are left out of the replies.
func srvServeMemory(t testing.TB, text string, piece int) (out string, calls []string, end string) {
	conn, peer := srvMemory(text, piece), srvNewPeer(t)
	err := NewServer(ServerConfig{}).Serve(context.Background(), NewLineConn(conn, MaxLine), peer)
	lines := strings.SplitAfter(conn.out.String(), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, `{"requests":`) {
			lines[i] = "stats\n"
		}
	}
	calls = peer.reached()
	for i, call := range calls { // how many unihashes were there at once
		if strings.HasPrefix(call, "Exists ") {
			calls[i] = ""
		}
	}
	calls = slices.DeleteFunc(calls, func(s string) bool { return s == "" })
	return strings.Join(lines, ""), calls, srvEnd(err)
}

// srvHijacked is a ResponseWriter that hands out a connection.
type srvHijacked struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h srvHijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// FuzzWebsocket: whatever frames come, nothing hangs, and what is sent back are whole frames.
func FuzzWebsocket(f *testing.F) {
	for _, h := range srvHostiles() {
		if h.over != "lines" && len(h.bytes("websocket")) < 1000 {
			f.Add([]byte(h.bytes("websocket")), uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, frames []byte, piece uint8) {
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(srvUpgradeRequest)))
		if err != nil {
			t.Fatal(err)
		}
		below := srvMemory(string(frames), int(piece))
		conn, err := AcceptWebsocket(srvHijacked{httptest.NewRecorder(), below}, request)
		if err != nil {
			t.Fatal(err)
		}
		_ = NewServer(ServerConfig{}).Serve(context.Background(), conn, srvNewPeer(t))
		srvReadFrames(t, bufio.NewReader(&below.out))
	})
}
