package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// load is an order for the load generator, which runs as a process of its own beside whatever it drives. It writes
// requests as they stand and reads as little of the answers as it must, because what it spends its peers cannot have.
type load struct {
	Addr     string        `json:"addr"`
	Cert     string        `json:"cert,omitempty"` // hex SHA-256 of the server's certificate; empty for plain TCP
	Request  string        `json:"request"`        // with {NAME} where a name goes
	Names    string        `json:"names"`          // a file with a name a line; each connection goes round
	Conns    int           `json:"conns"`
	Connect  bool          `json:"connect"` // a new connection, and a full handshake, for each request
	Length   int64         `json:"length"`  // the Content-Length that every answer must have; -1 for any, and to a HEAD none
	Count    int           `json:"count"`   // how many requests a connection makes; 0 until the time is up
	Duration time.Duration `json:"duration"`
	SSH      *sshLogin     `json:"ssh,omitempty"`  // speak SFTP, not HTTP: Request is "STAT " or "READ ", and a path
	Hash     *hashOrder    `json:"hash,omitempty"` // speak to a hash equivalence server, not HTTP
}

// asked is the order in a few words.
func (l *load) asked() string {
	method, _, _ := strings.Cut(l.Request, " ")
	s := method + ", " + strconv.Itoa(l.Conns) + " connections"
	if l.Conns == 1 {
		s = method + ", 1 connection"
	}
	if l.Connect {
		s += ", a new one each"
	}
	if l.SSH != nil && l.SSH.Flight > 1 {
		s += ", " + strconv.Itoa(l.SSH.Flight) + " in flight"
	}
	if h := l.Hash; h != nil {
		s += h.asked()
	}
	if l.SSH != nil && l.SSH.Client != ownClient {
		s += ", by " + l.SSH.Client
	}
	return s
}

// outcome is what came of a load. Any answer but a 200 of the right length, or an object of the right size, is an error, and then
// nothing else counts.
type outcome struct {
	Requests int           `json:"requests"`
	Bytes    int64         `json:"bytes"` // of bodies
	Elapsed  time.Duration `json:"elapsed"`
	Median   time.Duration `json:"median"`
	P99      time.Duration `json:"p99"`
	Protocol string        `json:"protocol"` // as negotiated
	// Times is how long each request took, in no order, when the order asks for it.
	Times []time.Duration `json:"times,omitempty"`
	Error string          `json:"error,omitempty"`
}

// serveLoad reads one order and answers it.
func serveLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	var l load
	if err := json.UnmarshalRead(in, &l, exactly()); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	o, err := l.run(ctx)
	if err != nil {
		o = outcome{Error: err.Error()}
	}
	return json.MarshalWrite(out, o, exactly())
}

// exactly is how both ends write and read: durations in nanoseconds, and no member that the other does not know.
func exactly() json.Options {
	return json.JoinOptions(jsonv1.FormatDurationAsNano(true), json.RejectUnknownMembers(true))
}

// loader is a load under way.
type loader struct {
	*load
	requests [][]byte
	head     bool
	protocol atomic.Value // string
}

func (l *load) run(ctx context.Context) (outcome, error) {
	if l.SSH != nil {
		return l.SSH.run(ctx, l)
	}
	if l.Hash != nil {
		return l.Hash.run(ctx, l)
	}
	d := &loader{load: l, head: strings.HasPrefix(l.Request, "HEAD ")}
	var err error
	if d.requests, err = l.requests(); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Duration)
	defer cancel()
	began := time.Now()
	workers := make([]worker, l.Conns)
	var group sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		w.loader, w.next = d, i*len(d.requests)/l.Conns
		group.Go(func() {
			if w.err = w.work(ctx); w.err != nil {
				cancel()
			}
		})
	}
	group.Wait()
	return d.collect(workers, time.Since(began))
}

// requests fills in every name once.
func (l *load) requests() ([][]byte, error) {
	names, err := os.ReadFile(l.Names)
	if err != nil {
		return nil, err
	}
	before, after, _ := strings.Cut(l.Request, "{NAME}")
	var all [][]byte
	for name := range strings.Lines(string(names)) {
		all = append(all, []byte(before+strings.TrimSuffix(name, "\n")+after))
	}
	if len(all) == 0 || l.Conns < 1 {
		return nil, errors.New("no names or no connections")
	}
	return all, nil
}

func (d *loader) collect(workers []worker, elapsed time.Duration) (outcome, error) {
	o := outcome{Elapsed: elapsed}
	o.Protocol, _ = d.protocol.Load().(string)
	var times []time.Duration
	for i := range workers {
		if err := workers[i].err; err != nil {
			return o, err
		}
		times = append(times, workers[i].times...)
		o.Bytes += workers[i].bytes
	}
	if o.Requests = len(times); o.Requests == 0 {
		return o, errors.New("no request was answered in time")
	}
	o.Median, o.P99 = percentiles(times)
	if d.Hash != nil && d.Hash.Times {
		o.Times = times
	}
	return o, nil
}

// percentiles sorts times, of which there is at least one.
func percentiles(times []time.Duration) (median, p99 time.Duration) {
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100]
}

// worker is one connection, or one after another.
type worker struct {
	*loader
	next  int
	conn  net.Conn
	read  *bufio.Reader
	times []time.Duration
	bytes int64
	err   error
}

// work asks until ctx ends. What the end cuts short is not an error, and is not counted.
func (w *worker) work(ctx context.Context) error {
	w.read = bufio.NewReaderSize(nil, 64<<10)
	defer w.hangUp()
	for ctx.Err() == nil && (w.Count == 0 || len(w.times) < w.Count) {
		if err := w.ask(ctx); err != nil {
			var late net.Error // there is one deadline: the end
			if ctx.Err() != nil || errors.As(err, &late) && late.Timeout() {
				return nil
			}
			return err
		}
	}
	return nil
}

// ask sends the next request and reads its answer.
func (w *worker) ask(ctx context.Context) error {
	began := time.Now()
	if w.conn == nil {
		if err := w.dial(ctx); err != nil {
			return err
		}
	}
	if _, err := w.conn.Write(w.requests[w.next]); err != nil {
		return err
	}
	w.next = (w.next + 1) % len(w.requests)
	again, err := w.answer()
	if err != nil {
		return err
	}
	if w.Connect || !again {
		w.hangUp()
	}
	w.times = append(w.times, time.Since(began))
	return nil
}

// dial connects and, over TLS, makes a full handshake: no session is resumed. The curve is the one that the OpenSSL of BitBake's
// Python and wget takes with every one of the peers.
func (w *worker) dial(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", w.Addr)
	if err != nil {
		return err
	}
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	w.conn = conn
	if w.Cert != "" {
		t := tls.Client(conn, &tls.Config{
			MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
			InsecureSkipVerify: true, VerifyConnection: w.pinned, // a chain would cost the generator, and tell nothing of the server
		})
		if err := t.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("handshake with %s: %w", w.Addr, err)
		}
		if s := t.ConnectionState(); w.protocol.Load() == nil {
			w.protocol.Store(tls.VersionName(s.Version) + " " + tls.CipherSuiteName(s.CipherSuite) + " " + s.CurveID.String())
		}
		w.conn = t
	}
	w.read.Reset(w.conn)
	return nil
}

// pinned demands the one certificate that all servers here have.
func (w *worker) pinned(s tls.ConnectionState) error {
	if sum := fmt.Sprintf("%x", sha256.Sum256(s.PeerCertificates[0].Raw)); sum != w.Cert {
		return fmt.Errorf("%s showed another certificate", w.Addr)
	}
	return nil
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// answer reads one answer, and reports whether the connection stays.
func (w *worker) answer() (again bool, err error) {
	length, again, err := w.header()
	switch {
	case err != nil:
		return false, err
	case length < 0 && !(w.head && w.Length < 0):
		return false, errors.New("an answer without Content-Length")
	case w.Length >= 0 && length != w.Length:
		return false, fmt.Errorf("Content-Length %d, want %d", length, w.Length)
	case w.head:
		return again, nil
	}
	return again, w.body(length)
}

var (
	wantedStatus  = []byte("HTTP/1.1 200 ")
	lengthField   = []byte("content-length:")
	closeField    = []byte("connection: close")
	longestHeader = 100 // lines
)

// header reads up to the empty line. length is -1 when the header does not say.
func (w *worker) header() (length int64, again bool, err error) {
	length, again = -1, true
	line, err := w.read.ReadSlice('\n')
	if err != nil {
		return length, false, err
	}
	if !bytes.HasPrefix(line, wantedStatus) {
		return length, false, fmt.Errorf("answered %q", bytes.TrimSpace(line))
	}
	for range longestHeader {
		line, err := w.read.ReadSlice('\n')
		if err != nil {
			return length, false, err
		}
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
			return length, again, nil
		case hasFold(line, lengthField):
			length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len(lengthField):])), 10, 64)
			if err != nil {
				return -1, false, err
			}
		case hasFold(line, closeField):
			again = false
		}
	}
	return length, false, errors.New("a header without end")
}

// hasFold is bytes.HasPrefix for a field's name in any case.
func hasFold(line, prefix []byte) bool {
	return len(line) >= len(prefix) && line[0]|0x20 == prefix[0] && bytes.EqualFold(line[:len(prefix)], prefix)
}

// body reads and forgets exactly length bytes, and counts them as they come: the end cuts the last body short.
func (w *worker) body(length int64) error {
	for length > 0 {
		n, err := w.read.Discard(int(min(length, 256<<10)))
		length -= int64(n)
		w.bytes += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// runLoad has a process of its own carry out an order.
func runLoad(ctx context.Context, l load) (outcome, error) {
	var o outcome
	order, err := json.Marshal(l, exactly())
	if err != nil {
		return o, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Duration+30*time.Second)
	defer cancel()
	cmd, err := ourselves(ctx, "load")
	if err != nil {
		return o, err
	}
	cmd.Stdin = bytes.NewReader(order)
	answer, err := cmd.Output()
	if err != nil {
		return o, fmt.Errorf("generate load: %w", err)
	}
	if err := json.Unmarshal(answer, &o, exactly()); err != nil {
		return o, fmt.Errorf("generate load: %w", err)
	}
	if o.Error != "" {
		return o, fmt.Errorf("load on %s: %s", l.Addr, o.Error)
	}
	return o, nil
}
