package hashserv

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// srvPeer is a referee: a whole Peer that remembers how it was called, and fails the test when it is called with what the server must not let
// through.
type srvPeer struct {
	t testing.TB

	mu       sync.Mutex
	calls    []string
	mappings map[Task]Unihash
	rows     []*Row
	mark     string
	fails    map[string]error // by the name of the method
	whole    bool
}

func srvNewPeer(t testing.TB) *srvPeer {
	p := &srvPeer{t: t, mappings: map[Task]Unihash{}, fails: map[string]error{}, whole: true}
	for i := range byte(9) {
		task := Task{"m", fmt.Sprint("t", i+1)}
		p.mappings[task] = srvUnihash(i + 1)
		p.rows = append(p.rows, &Row{
			Task: task, Outhash: fmt.Sprint("o", i+1), Created: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC), Unihash: srvUnihash(i + 1), ID: int64(i + 1),
			Details: Details{Owner: "ö", PN: "zlib"},
		})
	}
	return p
}

// srvUnihash returns a unihash that is all of one digit.
func srvUnihash(digit byte) (u Unihash) {
	for i := range u {
		u[i] = digit<<4 | digit
	}
	return u
}

// called remembers a call, and returns the error it shall have.
func (p *srvPeer) called(name string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, strings.TrimSpace(name+" "+strings.TrimSuffix(fmt.Sprintln(args...), "\n")))
	return p.fails[name]
}

// reached returns the calls since the last time, without May and Whole.
func (p *srvPeer) reached() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := slices.DeleteFunc(p.calls, func(s string) bool { return strings.HasPrefix(s, "May ") })
	p.calls = nil
	return calls
}

func (p *srvPeer) checkTask(t Task) {
	if !t.storable() {
		p.t.Errorf("the store was asked about %q", t)
	}
}

func (p *srvPeer) Unihash(_ context.Context, tasks []Task, answers []Mapping) error {
	if len(tasks) == 0 || len(answers) != len(tasks) {
		p.t.Errorf("%d tasks and %d answers", len(tasks), len(answers))
	}
	p.mu.Lock()
	for i, t := range tasks {
		p.checkTask(t)
		if answers[i] != (Mapping{}) {
			p.t.Error("answers are not empty")
		}
		answers[i].Unihash = p.mappings[t]
	}
	p.mu.Unlock()
	return p.called("Unihash", tasks)
}

func (p *srvPeer) Exists(_ context.Context, unihashes []Unihash, answers []bool) error {
	if len(unihashes) == 0 || len(answers) != len(unihashes) {
		p.t.Errorf("%d unihashes and %d answers", len(unihashes), len(answers))
	}
	p.mu.Lock()
	for i, u := range unihashes {
		if answers[i] || u == (Unihash{}) {
			p.t.Error("answers are not empty, or a unihash is")
		}
		for _, known := range p.mappings {
			answers[i] = answers[i] || u == known
		}
	}
	p.mu.Unlock()
	return p.called("Exists", len(unihashes), unihashes[0].String()[:2])
}

func (p *srvPeer) Outhash(_ context.Context, q Query) (*Row, error) {
	p.checkTask(Task{q.Method, q.Outhash + q.Taskhash})
	if err := p.called("Outhash", q); err != nil {
		return nil, err
	}
	for _, r := range p.rows {
		if r.Method == q.Method && (r.Outhash == q.Outhash || q.Outhash == "" && r.Taskhash == q.Taskhash) {
			return r, nil
		}
	}
	return nil, nil
}

func (p *srvPeer) Report(_ context.Context, r Report) (Mapping, error) {
	p.checkTask(r.Task)
	p.checkTask(Task{r.Outhash, r.Unihash.String()})
	if r.Author != 0 {
		p.t.Error("the server made up an author")
	}
	p.mu.Lock()
	u := p.mappings[r.Task]
	p.mu.Unlock()
	return Mapping{Unihash: u}, p.called("Report", r.Method, r.Taskhash, r.Outhash, r.Unihash.String()[:2], len(r.Siginfo), r.PN)
}

func (p *srvPeer) Equivalent(_ context.Context, t Task, m Mapping) (Mapping, error) {
	p.checkTask(t)
	return m, p.called("Equivalent", t, m.Unihash.String()[:2])
}

func (p *srvPeer) Remove(_ context.Context, w Where) (int64, error) {
	return 3, p.called("Remove", map[string]string(w))
}

func (p *srvPeer) CleanUnused(_ context.Context, age time.Duration) (int64, error) {
	return 4, p.called("CleanUnused", age)
}

func (p *srvPeer) Mark(_ context.Context, mark string, w Where) (int64, error) {
	p.mu.Lock()
	p.mark = mark
	p.mu.Unlock()
	return 5, p.called("Mark", mark, map[string]string(w))
}

func (p *srvPeer) Sweep(_ context.Context, mark string) (int64, error) {
	return 6, p.called("Sweep", mark)
}

func (p *srvPeer) Collection(context.Context) (Collection, error) {
	return Collection{Keep: 7, Remove: 8, Mark: p.mark}, p.called("Collection")
}

func (p *srvPeer) Usage(context.Context) (map[string]int64, error) {
	return map[string]int64{"unihashes_v3": 9, "outhashes_v2": 10}, p.called("Usage")
}

func (p *srvPeer) May(_ context.Context, need Permission) error { return p.called("May", need) }
func (p *srvPeer) Whole(context.Context) bool                   { return p.whole }

func (p *srvPeer) BackfillWait(context.Context) (int64, error) { return 11, p.called("BackfillWait") }

func (p *srvPeer) orSelf(name string) string {
	if name == "" {
		return "self"
	}
	return name
}

func (p *srvPeer) Auth(_ context.Context, name, token string) (User, error) {
	return User{name, []Permission{DBAdmin, Read}}, p.called("Auth", name, token)
}

func (p *srvPeer) User(_ context.Context, name string) (*User, error) {
	if err := p.called("User", p.orSelf(name)); err != nil || name == "nobody" {
		return nil, err
	}
	return &User{Name: p.orSelf(name)}, nil
}

func (p *srvPeer) AllUsers(context.Context) ([]User, error) {
	return []User{{Name: "alice"}, {"root", []Permission{All}}}, p.called("AllUsers")
}

func (p *srvPeer) NewUser(_ context.Context, name string, permissions []Permission) (User, string, error) {
	return User{name, permissions}, "token", p.called("NewUser", name, permissions)
}

func (p *srvPeer) SetPermissions(_ context.Context, name string, permissions []Permission) (User, error) {
	return User{name, permissions}, p.called("SetPermissions", name, permissions)
}

func (p *srvPeer) RefreshToken(_ context.Context, name string) (string, string, error) {
	return p.orSelf(name), "new token", p.called("RefreshToken", p.orSelf(name))
}

func (p *srvPeer) DeleteUser(_ context.Context, name string) (string, error) {
	return p.orSelf(name), p.called("DeleteUser", p.orSelf(name))
}

func (p *srvPeer) BecomeUser(_ context.Context, name string) (User, error) {
	return User{name, []Permission{Read}}, p.called("BecomeUser", name)
}

var (
	_ Peer        = (*srvPeer)(nil)
	_ Equivalents = (*srvPeer)(nil)
	_ Keeper      = (*srvPeer)(nil)
	_ Users       = (*srvPeer)(nil)
	_ Backfills   = (*srvPeer)(nil)
)

// srvReader is a peer without any of the optional parts.
type srvReader struct{ Peer }

// srvHandshake is how BitBake begins.
func srvHandshake() []string { return []string{clientHello, "needs-headers: false", ""} }

// srvTransports are ways to connect to a server of a test.
type srvTransports struct {
	lines, websocket string
	ended            chan error // what Serve returned, of each connection
}

// srvServe serves peer on lines and websockets.
func srvServe(t testing.TB, s *Server, peer Peer) *srvTransports {
	t.Helper()
	return srvServeEach(t, s, func() Peer { return peer })
}

// srvServeEach serves on lines and websockets, and asks for the peer of each connection.
func srvServeEach(t testing.TB, s *Server, peer func() Peer) *srvTransports {
	t.Helper()
	tr := &srvTransports{ended: make(chan error, 1000)}
	serve := func(conn Conn) { tr.ended <- s.Serve(context.Background(), conn, peer()) }
	tr.lines = srvLineServer(t, "tcp", serve)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, err := AcceptWebsocket(w, r); err == nil {
			serve(conn)
		}
	})
	hs := httptest.NewServer(handler)
	t.Cleanup(hs.Close)
	tr.websocket = strings.Replace(hs.URL, "http", "ws", 1)
	return tr
}

// srvExchange is what a client saw: the replies until the connection ended.
type srvExchange struct {
	replies []string
	end     error // what Serve returned
}

// talkLines sends raw bytes on a line transport and then nothing more, and reads to the end.
func (tr *srvTransports) talkLines(t testing.TB, raw string) srvExchange {
	t.Helper()
	conn, err := net.Dial("tcp", tr.lines)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.WriteString(conn, raw) // a server that refuses takes no more
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	var ex srvExchange
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if line != "" {
				t.Errorf("the last line has no end: %.100q", line)
			}
			break
		}
		ex.replies = append(ex.replies, strings.TrimSuffix(line, "\n"))
	}
	ex.end = <-tr.ended
	return ex
}

// srvUpgradeRequest is how BitBake asks for a websocket.
const srvUpgradeRequest = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"

// srvFrame is a frame as a client sends it: masked, by zeros.
func srvFrame(first byte, payload string) string {
	n := len(payload)
	head := []byte{first}
	switch {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// The first bytes of frames, and the frame that says goodbye.
const (
	srvText  = 0x81
	srvClose = "\x88\x82\x00\x00\x00\x00\x03\xe8"
)

func srvFrames(messages []string) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(srvFrame(srvText, m))
	}
	return b.String()
}

// talkWebsocket sends raw bytes on a websocket and then nothing more, and reads to the end.
func (tr *srvTransports) talkWebsocket(t testing.TB, raw string) srvExchange {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(tr.websocket, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.WriteString(conn, srvUpgradeRequest+raw)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", response, err)
	}
	ex := srvExchange{replies: srvReadFrames(t, r)}
	ex.end = <-tr.ended
	return ex
}

// srvReadFrames returns the messages of a server until it ends.
func srvReadFrames(t testing.TB, r *bufio.Reader) (messages []string) {
	for {
		head, err := r.Peek(2)
		if err != nil {
			return messages
		}
		if head, err = r.Peek(headSize(head)); err != nil {
			t.Errorf("half a frame: %v", err)
			return messages
		}
		first, skip := head[0], headSize(head)
		frame := make([]byte, frameSize(head))
		if _, err := io.ReadFull(r, frame); err != nil {
			t.Errorf("half a frame: %v", err)
			return messages
		}
		switch frame = frame[skip:]; first {
		case srvText:
			messages = append(messages, string(frame))
		case srvText | 0x40:
			text, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(frame), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
			if err != nil {
				t.Errorf("a compressed reply: %v", err)
			}
			messages = append(messages, string(text))
		case 0x88:
			return messages
		}
	}
}

func (tr *srvTransports) talk(t testing.TB, over string, messages []string) srvExchange {
	t.Helper()
	if over == "lines" {
		return tr.talkLines(t, strings.Join(messages, "\n")+"\n")
	}
	return tr.talkWebsocket(t, srvFrames(messages)+srvClose)
}

// srvEnd classifies how a connection ended.
func srvEnd(err error) string {
	var told *Refusal
	switch {
	case err == nil:
		return "open"
	case errors.As(err, &told):
		return "refused"
	case errors.Is(err, ErrMalformed):
		return "closed"
	}
	return "error"
}

// srvPipeEnd is the client's end of a pipe: what is written waits for its reader, so that a bubble knows what is blocked.
type srvPipeEnd struct{ net.Conn }

func srvNewPipe() (client *srvPipeEnd, server net.Conn) {
	a, b := net.Pipe()
	return &srvPipeEnd{a}, b
}

func (p *srvPipeEnd) drain() { _, _ = io.Copy(io.Discard, p) }

func (p *srvPipeEnd) send(text string) { _, _ = io.WriteString(p, text) }
