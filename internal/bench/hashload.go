package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// hashOrder is how the load generator speaks to a hash equivalence server. It speaks the protocol itself, and does less than any client:
// lines and websocket frames are made once, and answers compared with what they must be. Requests are "get-stream METHOD {NAME}",
// "exists-stream {NAME}", "report METHOD {NAME}", where a name is a task hash that is mapped to itself, and "report METHOD", each time
// with a hash that was never there.
type hashOrder struct {
	Path   string `json:"path"`   // of a websocket; empty for lines
	Token  string `json:"token"`  // to sign in with; empty for a server that lets anybody
	Flight int    `json:"flight"` // lines under way at once on one connection
	Count  int    `json:"count"`  // how many requests a connection makes; 0 until the time is up
	Rate   int    `json:"rate"`   // how many it makes in a second, evenly; 0 as many as it can
	Times  bool   `json:"times"`  // the outcome shall have the time of each
}

// hashGrace is how long after the end an answer may come.
const hashGrace = 30 * time.Second

// run drives a server until the time is up, or each connection has made its requests.
func (h *hashOrder) run(ctx context.Context, l *load) (outcome, error) {
	d := &loader{load: l}
	var err error
	if d.requests, err = l.requests(); err != nil {
		return outcome{}, err
	}
	began := time.Now()
	all := make([]hashWorker, l.Conns)
	var group sync.WaitGroup
	for i := range all {
		w := &all[i]
		w.worker, w.order, w.until = worker{loader: d, next: i * len(d.requests) / l.Conns}, h, began.Add(l.Duration)
		w.kind, _, _ = strings.Cut(l.Request, " ")
		group.Go(func() { w.err = w.work(ctx) })
	}
	group.Wait()
	workers := make([]worker, l.Conns)
	for i := range all {
		workers[i] = all[i].worker
	}
	d.protocol.Store(h.protocol(l))
	return d.collect(workers, time.Since(began))
}

// protocol says how the messages travel.
func (h *hashOrder) protocol(l *load) string {
	switch {
	case h.Path == "":
		return "lines over TCP"
	case l.Cert == "":
		return "websocket"
	}
	return "websocket over TLS"
}

// asked is the order in a few words, after what all orders have.
func (h *hashOrder) asked() (s string) {
	if h.Flight > 1 {
		s += fmt.Sprintf(", %d in flight", h.Flight)
	}
	if h.Count > 0 {
		s += fmt.Sprintf(", %d each", h.Count)
	}
	if h.Rate > 0 {
		s += fmt.Sprintf(", %d/s each", h.Rate)
	}
	return s
}

// hashWorker is one connection to a hash equivalence server, or one after another.
type hashWorker struct {
	worker
	order *hashOrder
	until time.Time
	kind  string
	link  hashLink
}

func (w *hashWorker) work(ctx context.Context) error {
	defer w.hangUp()
	switch {
	case w.kind == "report":
		return w.report(ctx)
	case w.Connect:
		return w.connects(ctx)
	}
	if err := w.open(ctx); err != nil {
		return err
	}
	if w.order.Rate > 0 {
		return w.paced()
	}
	return w.stream()
}

// over reports whether the connection has done its part.
func (w *hashWorker) over(now time.Time) bool {
	return now.After(w.until) || w.order.Count > 0 && len(w.times) >= w.order.Count
}

// stream keeps lines under way. Those whose answers have come together are replaced together.
func (w *hashWorker) stream() error {
	flight := max(1, w.order.Flight)
	if n := w.order.Count; n > 0 {
		flight = min(flight, n)
	}
	sent := make([]sentLine, flight) // a ring, since answers come in order
	for i := range sent {
		sent[i] = w.send(time.Now())
	}
	left := w.order.Count - flight
	if err := w.link.flush(); err != nil {
		return err
	}
	for at := 0; ; at = (at + 1) % flight {
		if err := w.receive(sent[at]); err != nil {
			return err
		}
		now := time.Now()
		w.times = append(w.times, now.Sub(sent[at].at))
		if w.over(now) {
			return nil
		}
		if w.order.Count == 0 || left > 0 {
			sent[at] = w.send(now)
			left--
		}
		if w.link.read.Buffered() == 0 {
			if err := w.link.flush(); err != nil {
				return err
			}
		}
	}
}

// paced sends lines at fixed times, each after the answer to the one before. What a server makes the later ones wait counts.
func (w *hashWorker) paced() error {
	every := time.Second / time.Duration(w.order.Rate)
	// Connections do not all send at once.
	for due := time.Now().Add(every * time.Duration(w.next%97) / 97); !w.over(due); due = due.Add(every) {
		time.Sleep(time.Until(due))
		line := w.send(due)
		if err := w.link.flush(); err != nil {
			return err
		}
		if err := w.receive(line); err != nil {
			return err
		}
		w.times = append(w.times, time.Since(due))
	}
	return nil
}

// connects opens a connection for each lookup.
func (w *hashWorker) connects(ctx context.Context) error {
	for {
		began := time.Now()
		if err := w.open(ctx); err != nil {
			return err
		}
		line := w.send(began)
		if err := w.link.flush(); err != nil {
			return err
		}
		if err := w.receive(line); err != nil {
			return err
		}
		w.hangUp()
		now := time.Now()
		w.times = append(w.times, now.Sub(began))
		if w.over(now) {
			return nil
		}
	}
}

// report reports one task after another.
func (w *hashWorker) report(ctx context.Context) error {
	if err := w.open(ctx); err != nil {
		return err
	}
	for {
		began := time.Now()
		method, hash := w.reported()
		w.link.put(fmt.Sprintf(`{"report": {"taskhash": "%[1]s", "method": "%[2]s", "outhash": "%[1]s", "unihash": "%[1]s"}}`, hash, method))
		if err := w.link.flush(); err != nil {
			return err
		}
		answer, err := w.link.line()
		if err != nil {
			return err
		}
		if !bytes.Contains(answer, []byte(`"unihash"`)) || bytes.Count(answer, []byte(hash)) != 2 {
			return fmt.Errorf("a report of %s was answered by %.200q", hash, answer)
		}
		now := time.Now()
		w.times = append(w.times, now.Sub(began))
		if w.over(now) {
			return nil
		}
	}
}

// reported returns what is reported next: a name, or a hash that was never there.
func (w *hashWorker) reported() (method, hash string) {
	fields := strings.Fields(string(w.requests[w.next]))
	w.next = (w.next + 1) % len(w.requests)
	if len(fields) == 3 {
		return fields[1], fields[2]
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	return fields[1], hex.EncodeToString(random[:])
}

// sentLine is a line that was sent, when, and what must come back.
type sentLine struct {
	at     time.Time
	answer []byte
}

// send puts the next line of a stream into what is sent at once.
func (w *hashWorker) send(now time.Time) sentLine {
	request := w.requests[w.next]
	w.next = (w.next + 1) % len(w.requests)
	line := request[len(w.kind)+1:]
	w.link.put(string(line))
	if w.kind == "exists-stream" {
		return sentLine{now, []byte("true")}
	}
	return sentLine{now, line[bytes.LastIndexByte(line, ' ')+1:]}
}

func (w *hashWorker) receive(sent sentLine) error {
	answer, err := w.link.line()
	if err != nil {
		return err
	}
	if !bytes.Equal(answer, sent.answer) {
		return fmt.Errorf("%s was answered by %.200q, want %q", w.kind, answer, sent.answer)
	}
	return nil
}

// open connects, signs in, and enters the stream, as a client does: each step waits for the one before.
func (w *hashWorker) open(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, w.until.Add(hashGrace))
	defer cancel()
	if w.read == nil {
		w.read = bufio.NewReaderSize(nil, 64<<10)
	}
	if err := w.dial(ctx); err != nil {
		return err
	}
	w.link = hashLink{conn: w.conn, read: w.read}
	if w.order.Path != "" {
		if err := w.link.upgrade(w.Addr, w.order.Path); err != nil {
			return err
		}
	}
	for _, line := range []string{"OEHASHEQUIV 1.1", "needs-headers: false", ""} {
		w.link.put(line)
	}
	if w.order.Token != "" {
		if err := w.link.ask(`{"auth": {"username": "any", "token": "`+w.order.Token+`"}}`, `"result"`); err != nil {
			return err
		}
	}
	if w.kind == "report" {
		return nil
	}
	return w.link.ask(`{"`+w.kind+`": null}`, `"ok"`)
}

// hashLink carries messages as lines or as frames of a websocket.
type hashLink struct {
	conn net.Conn
	read *bufio.Reader
	web  bool
	out  []byte // to be sent
	in   []byte // of the last frame
}

// ask sends a message and demands a word in the answer.
func (l *hashLink) ask(message, want string) error {
	l.put(message)
	if err := l.flush(); err != nil {
		return err
	}
	answer, err := l.line()
	if err == nil && !bytes.Contains(answer, []byte(want)) {
		err = fmt.Errorf("%.40q was answered by %.200q", message, answer)
	}
	return err
}

// upgrade makes the connection a websocket, without compression.
func (l *hashLink) upgrade(host, path string) error {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	l.out = fmt.Appendf(l.out, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		path, host, base64.StdEncoding.EncodeToString(key[:]))
	if err := l.flush(); err != nil {
		return err
	}
	for first := true; ; first = false {
		line, err := l.read.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101 ")) {
			return fmt.Errorf("no websocket: %q", line)
		}
		if len(line) == 0 {
			l.web = true
			return nil
		}
	}
}

// What the generator knows of websocket frames (RFC 6455, section 5.2).
const (
	finalText  = 0x81
	ping       = 0x89
	pong       = 0x8a
	masked     = 0x80
	shortFrame = 126 // the length is in the next two bytes
)

// put adds a message to what the next flush sends. A frame's mask is zero, which spares both ends nothing but the generator.
func (l *hashLink) put(message string) {
	if !l.web {
		l.out = append(append(l.out, message...), '\n')
		return
	}
	l.out = append(l.out, finalText)
	if n := len(message); n < shortFrame {
		l.out = append(l.out, masked|byte(n))
	} else {
		l.out = binary.BigEndian.AppendUint16(append(l.out, masked|shortFrame), uint16(n))
	}
	l.out = append(append(l.out, 0, 0, 0, 0), message...)
}

func (l *hashLink) flush() error {
	if len(l.out) == 0 {
		return nil
	}
	_, err := l.conn.Write(l.out)
	l.out = l.out[:0]
	return err
}

// line returns the next message. It is valid until the one after.
func (l *hashLink) line() ([]byte, error) {
	if l.web {
		return l.frame()
	}
	line, err := l.read.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	return line[:len(line)-1], nil
}

func (l *hashLink) frame() ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(l.read, head[:]); err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	n := int(head[1])
	if n == shortFrame {
		var long [2]byte
		if _, err := io.ReadFull(l.read, long[:]); err != nil {
			return nil, err
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	} else if n > shortFrame {
		return nil, errors.New("a frame that is masked or too long")
	}
	if head[0] != finalText && head[0] != ping {
		return nil, fmt.Errorf("a frame that begins with %#x", head[0])
	}
	if cap(l.in) < n {
		l.in = make([]byte, n)
	}
	l.in = l.in[:n]
	if _, err := io.ReadFull(l.read, l.in); err != nil || head[0] != ping {
		return l.in, err
	}
	l.out = append(append(l.out, pong, masked|byte(n), 0, 0, 0, 0), l.in...)
	return l.frame() // the answer goes with what is sent next
}
