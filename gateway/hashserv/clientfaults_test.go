package hashserv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

// clWire is the network between a client and a server that a test plays: each connection is given to serve.
type clWire struct {
	serve func(n int, c *clLines) // n counts connections from 0
	fail  func(n int) error       // not nil when connection n cannot be made

	dials atomic.Int64
	all   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // the server's ends
}

// drop ends all connections.
func (w *clWire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	synctest.Wait()
}

// clLines is the server's end of a connection.
type clLines struct {
	net.Conn
	in *bufio.Scanner
}

func (w *clWire) dial(context.Context, string, string) (net.Conn, error) {
	n := int(w.dials.Add(1)) - 1
	if w.fail != nil {
		if err := w.fail(n); err != nil {
			return nil, err
		}
	}
	client, server := net.Pipe()
	c := &clLines{server, bufio.NewScanner(server)}
	c.in.Buffer(nil, 1<<20)
	w.mu.Lock()
	w.conns = append(w.conns, server)
	w.mu.Unlock()
	w.all.Go(func() {
		defer server.Close()
		w.serve(n, c)
	})
	return client, nil
}

func (w *clWire) client(t testing.TB, conf hashserv.ClientConfig) *hashserv.Client {
	conf.Address, conf.Dialer = "wire", &hashserv.Dialer{DialContext: w.dial}
	c, err := hashserv.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// line returns the next line, "" and false at the end.
func (c *clLines) line() (string, bool) {
	ok := c.in.Scan()
	return c.in.Text(), ok
}

func (c *clLines) say(lines ...string) { _, _ = c.Write([]byte(strings.Join(lines, "\n") + "\n")) }

// hello reads how a connection begins, and reports whether it is right.
func (c *clLines) hello() bool {
	for _, want := range []string{"OEHASHEQUIV 1.1", "needs-headers: false", ""} {
		if got, ok := c.line(); !ok || got != want {
			return false
		}
	}
	return true
}

// honest answers everything as a server with this store does.
func clHonest(store *hashserv.Memory) func(int, *clLines) {
	server := hashserv.NewServer(hashserv.ServerConfig{})
	return func(_ int, c *clLines) {
		_ = server.Serve(context.Background(), hashserv.NewLineConn(c.Conn, hashserv.MaxLine), clPeer{store})
	}
}

func clTask(n int) hashserv.Task { return hashserv.Task{Method: "m", Taskhash: fmt.Sprintf("t%d", n)} }

// clLookup asks for one task.
func clLookup(ctx context.Context, s hashserv.Store, n int) (hashserv.Unihash, error) {
	answers := make([]hashserv.Mapping, 1)
	err := s.Unihash(ctx, []hashserv.Task{clTask(n)}, answers)
	return answers[0].Unihash, err
}

// clLost checks that there was no good answer, and that this is no refusal: a refusal would be told to whoever asked, and kill BitBake.
func clLost(t testing.TB, what string, err error) {
	t.Helper()
	var refusal *hashserv.Refusal
	if !errors.Is(err, hashserv.ErrUnavailable) || errors.As(err, &refusal) {
		t.Errorf("%s: %v, want an error that wraps ErrUnavailable and no refusal", what, err)
	}
}

// TestClientSharesConnections: whatever many callers ask, few connections carry it.
func TestClientSharesConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := hashserv.NewMemory(hashserv.MemoryConfig{})
		wire := &clWire{serve: clHonest(store)}
		c := wire.client(t, hashserv.ClientConfig{Connections: 3})
		var all sync.WaitGroup
		for n := range 60 {
			all.Go(func() {
				u := hashtest.U(byte(n + 1))
				r := hashserv.Report{Task: clTask(n), Outhash: fmt.Sprintf("o%d", n), Unihash: u}
				if m, err := c.Report(t.Context(), r); err != nil || m.Unihash != u {
					t.Errorf("Report %d: %v, %v", n, m, err)
				}
				if got, err := clLookup(t.Context(), c, n); err != nil || got != u {
					t.Errorf("Unihash %d: %v, %v", n, got, err)
				}
				there := []bool{false, true}
				if err := c.Exists(t.Context(), []hashserv.Unihash{u, hashtest.U(255)}, there); err != nil || !slices.Equal(there, []bool{true, false}) {
					t.Errorf("Exists %d: %v, %v", n, there, err)
				}
				if row, err := c.Outhash(t.Context(), hashserv.Query{Method: "m", Taskhash: clTask(n).Taskhash}); err != nil || row == nil || row.Unihash != u {
					t.Errorf("Outhash %d: %v, %v", n, row, err)
				}
			})
		}
		all.Wait()
		if n := wire.dials.Load(); n > 3 {
			t.Errorf("%d connections", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientPipelines: a server that answers nothing until all have asked is answered by all who asked.
func TestClientPipelines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 50
		var lines []string
		wire := &clWire{serve: func(_ int, c *clLines) {
			if !c.hello() {
				return
			}
			for range callers + 1 {
				line, _ := c.line()
				lines = append(lines, line)
			}
			c.say(`"ok"`)
			for _, line := range lines[1:] {
				var n int
				_, _ = fmt.Sscanf(line, "m t%d", &n)
				c.say(hashtest.U(byte(n + 1)).String())
			}
			c.line()
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		var all sync.WaitGroup
		for n := range callers {
			all.Go(func() {
				if got, err := clLookup(t.Context(), c, n); err != nil || got != hashtest.U(byte(n+1)) {
					t.Errorf("caller %d: %v, %v", n, got, err)
				}
			})
		}
		all.Wait()
		c.Close()
		wire.all.Wait()
		if lines[0] != `{"get-stream":null}` || slices.Contains(lines[1:], lines[0]) {
			t.Errorf("the stream was not entered once: %q", lines)
		}
	})
}

// TestClientChangesStreams: one connection is used for everything, and what it is in is left before something else is asked.
func TestClientChangesStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		wire := &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			for _, reply := range []string{`"ok"`, "", "ok", `"ok"`, "false", "ok", `{"alive": true}`} {
				line, _ := c.line()
				lines = append(lines, line)
				c.say(reply)
			}
			c.line()
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		if got, err := clLookup(t.Context(), c, 1); err != nil || got != hashtest.U(0) {
			t.Errorf("Unihash = %v, %v", got, err)
		}
		if err := c.Exists(t.Context(), []hashserv.Unihash{hashtest.U(1)}, make([]bool, 1)); err != nil {
			t.Errorf("Exists: %v", err)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("Ping: %v", err)
		}
		c.Close()
		wire.all.Wait()
		want := []string{`{"get-stream":null}`, "m t1", "END", `{"exists-stream":null}`, hashtest.U(1).String(), "END", `{"ping":null}`}
		if !slices.Equal(lines, want) {
			t.Errorf("the server read %q", lines)
		}
	})
}

// TestClientCancelled: who gives up does not hurt those behind.
func TestClientCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		wire := &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			c.line()
			c.say(`"ok"`)
			for n := 1; ; n++ {
				if _, ok := c.line(); !ok {
					return
				}
				if n == 2 {
					<-answer
					c.say(hashtest.U(1).String(), hashtest.U(2).String())
				}
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := clLookup(ctx, c, 1); first <- err }()
		synctest.Wait()
		go func() {
			got, err := clLookup(t.Context(), c, 2)
			if got != hashtest.U(2) {
				err = fmt.Errorf("the second was answered %v: %w", got, err)
			}
			second <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
		close(answer)
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := wire.dials.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientBadAnswers: what cannot be an answer is none, and its connection is not used again.
func TestClientBadAnswers(t *testing.T) {
	ask := map[string]func(context.Context, *hashserv.Client) error{
		"get-stream": func(ctx context.Context, c *hashserv.Client) error { _, err := clLookup(ctx, c, 1); return err },
		"enter":      func(ctx context.Context, c *hashserv.Client) error { _, err := clLookup(ctx, c, 1); return err },
		"exists-stream": func(ctx context.Context, c *hashserv.Client) error {
			return c.Exists(ctx, []hashserv.Unihash{hashtest.U(1)}, make([]bool, 1))
		},
		"report": func(ctx context.Context, c *hashserv.Client) error {
			_, err := c.Report(ctx, hashserv.Report{Task: clTask(1), Outhash: "o", Unihash: hashtest.U(1)})
			return err
		},
		"get-outhash": func(ctx context.Context, c *hashserv.Client) error {
			_, err := c.Outhash(ctx, hashserv.Query{Method: "m", Outhash: "o"})
			return err
		},
		"get": func(ctx context.Context, c *hashserv.Client) error {
			_, err := c.Outhash(ctx, hashserv.Query{Method: "m", Taskhash: "t1"})
			return err
		},
		"remove": func(ctx context.Context, c *hashserv.Client) error {
			_, err := c.Remove(ctx, hashserv.Where{"method": "m"})
			return err
		},
		"gc-status":     func(ctx context.Context, c *hashserv.Client) error { _, err := c.Collection(ctx); return err },
		"get-db-usage":  func(ctx context.Context, c *hashserv.Client) error { _, err := c.Usage(ctx); return err },
		"get-user":      func(ctx context.Context, c *hashserv.Client) error { _, err := c.User(ctx, "ann"); return err },
		"get-all-users": func(ctx context.Context, c *hashserv.Client) error { _, err := c.AllUsers(ctx); return err },
	}
	u := hashtest.U(1).String()
	row := `"method":"m","taskhash":"t1","outhash":"o"`
	for _, tc := range []struct{ command, reply string }{
		{"get-stream", "x"},
		{"get-stream", u[1:]},
		{"get-stream", u + "0"},
		{"get-stream", strings.ToUpper("abcdef" + u[6:])},
		{"get-stream", `"` + u + `"`},
		{"get-stream", "ok"},
		{"get-stream", "null"},
		{"get-stream", strings.Repeat("0", 64)},
		{"get-stream", "{}"},
		{"get-stream", strings.Repeat("a", 70_000)},
		{"get-stream", `{"invoke-error":{"message":"no","more":1}}`},
		{"get-stream", "\xff"},
		{"get-stream", " " + u},
		{"exists-stream", ""},
		{"exists-stream", "True"},
		{"exists-stream", `"true"`},
		{"exists-stream", "1"},
		{"exists-stream", "ok"},
		{"report", "null"},
		{"report", "{}"},
		{"report", "ok"},
		{"report", ""},
		{"report", "[]"},
		{"report", "{"},
		{"report", `{"method":"m","taskhash":"t1","unihash":""}`},
		{"report", `{"method":"m","taskhash":"t1","unihash":null}`},
		{"report", `{"method":"m","taskhash":"t2","unihash":"` + u + `"}`},
		{"report", `{"method":"n","taskhash":"t1","unihash":"` + u + `"}`},
		{"report", `{"method":"m","taskhash":"t1","unihash":"` + u + `","more":1}`},
		{"report", `{"method":"m","taskhash":"t1","unihash":"` + u + `","unihash":"` + u + `"}`},
		{"report", `{"Method":"m","taskhash":"t1","unihash":"` + u + `"}`},
		{"report", `{"method":"m","taskhash":"t1","unihash":"` + u + `"} {}`},
		{"get-outhash", "{}"},
		{"get-outhash", "false"},
		{"get-outhash", `{` + row + `}`},
		{"get-outhash", `{` + row + `,"unihash":"` + u + `","more":1}`},
		{"get-outhash", `{` + row + `,"unihash":"` + u + `","id":"1"}`},
		{"get-outhash", `{` + row + `,"unihash":"` + u + `","created":"yesterday"}`},
		{"get-outhash", `{` + row + `,"unihash":"` + u + `","owner":7}`},
		{"get-outhash", `{"method":"m","taskhash":"t 1","outhash":"o","unihash":"` + u + `"}`},
		{"get-outhash", `{"method":"m","taskhash":"","outhash":"o","unihash":"` + u + `"}`},
		{"get-outhash", `{"method":"m","taskhash":"t1","outhash":"p","unihash":"` + u + `"}`},
		{"get-outhash", `{"method":"n","taskhash":"t1","outhash":"o","unihash":"` + u + `"}`},
		{"get", `{"method":"m","taskhash":"t2","outhash":"p","unihash":"` + u + `"}`},
		{"enter", "ok"},
		{"enter", ""},
		{"enter", `"OK"`},
		{"enter", u},
		{"enter", `{"ok":true}`},
		{"remove", "null"},
		{"remove", `{"count":-1}`},
		{"remove", `{"count":"1"}`},
		{"remove", `{"count":1.5}`},
		{"remove", `{"count":1e99}`},
		{"remove", `{"count":1,"more":1}`},
		{"gc-status", `{"keep":1,"remove":1}x`},
		{"gc-status", `{"keep":1,"mark":null}`},
		{"gc-status", `{"keep":1,"remove":1,"mark":1}`},
		{"get-db-usage", `{"usage":[]}`},
		{"get-db-usage", `{"usage":{"t":1}}`},
		{"get-db-usage", `{"usage":{"t":{"rows":-1}}}`},
		{"get-user", `{}`},
		{"get-user", `{"username":"ann"}`},
		{"get-user", `{"username":"ann","permissions":"@all"}`},
		{"get-user", `{"username":"ann","permissions":[1]}`},
		{"get-all-users", `{"users":[null]}`},
		{"get-all-users", `{"users":[{"username":"ann","permissions":[],"token":"x"}]}`},
		{"get-outhash", `{"chunk-stream":null}` + "\n" + `{"method":` + "\n" + `"m"` + "\n"},
		{"get-outhash", `{"chunk-stream":null}` + strings.Repeat("\n1", 65) + "\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var dropped atomic.Bool
			wire := &clWire{serve: func(_ int, c *clLines) {
				c.hello()
				c.line()
				if strings.HasSuffix(tc.command, "stream") {
					c.say(`"ok"`)
					c.line()
				}
				c.say(tc.reply)
				for more := true; more; {
					_, more = c.line()
				}
				dropped.Store(true)
			}}
			c := wire.client(t, hashserv.ClientConfig{Timeout: time.Hour, Patience: time.Hour})
			clLost(t, fmt.Sprintf("%s answered %.100q", tc.command, tc.reply), ask[tc.command](t.Context(), c))
			synctest.Wait()
			if !dropped.Load() {
				t.Errorf("%s answered %.100q: the connection is still used", tc.command, tc.reply)
			}
			c.Close()
			wire.all.Wait()
		})
	}
}

// TestClientUnasked: a server that speaks unasked is not believed later.
func TestClientUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(n int, c *clLines) {
			c.hello()
			c.line()
			c.say(`"ok"`)
			for _, ok := c.line(); ok; _, ok = c.line() {
				c.say(hashtest.U(byte(n+1)).String(), hashtest.U(9).String())
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		for n := range 3 {
			if got, err := clLookup(t.Context(), c, n); err != nil || got != hashtest.U(byte(n+1)) {
				t.Errorf("lookup %d = %v, %v", n, got, err)
			}
			synctest.Wait()
		}
		if n := wire.dials.Load(); n != 3 {
			t.Errorf("%d connections for three lookups: one was used after it had lied", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientConnectionLost: what was asked on a connection that ends is asked again, unless it may have been done.
func TestClientConnectionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := hashserv.NewMemory(hashserv.MemoryConfig{})
		r := hashserv.Report{Task: clTask(1), Outhash: "o", Unihash: hashtest.U(1)}
		if _, err := store.Report(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		honest := clHonest(store)
		wire := &clWire{serve: func(n int, c *clLines) {
			if n%2 == 1 {
				honest(n, c)
				return
			}
			c.hello()
			c.line()
			c.say(`"ok"`)
			c.line()
			_, _ = c.Write([]byte(hashtest.U(1).String()[:10])) // half an answer
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		if got, err := clLookup(t.Context(), c, 1); err != nil || got != hashtest.U(1) {
			t.Errorf("a lookup: %v, %v", got, err)
		}
		c.Close()
		var removals atomic.Int64
		wire = &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			for line, ok := c.line(); ok; line, ok = c.line() {
				if strings.Contains(line, "remove") {
					removals.Add(1)
					return
				}
				c.say(`{"usage": {}}`)
			}
		}}
		c = wire.client(t, hashserv.ClientConfig{})
		if _, err := c.Usage(t.Context()); err != nil {
			t.Error(err)
		}
		_, err := c.Remove(t.Context(), hashserv.Where{"method": "m"})
		clLost(t, "a removal that may have been done", err)
		if n := removals.Load(); n != 1 {
			t.Errorf("a removal was sent %d times", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientCancelledBeforeSent: what nobody waits for any more is not sent.
func TestClientCancelledBeforeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		var lines []string
		wire := &clWire{serve: func(_ int, c *clLines) {
			<-read
			c.hello()
			for line, ok := c.line(); ok; line, ok = c.line() {
				lines = append(lines, line)
				c.say(`{"alive": true}`)
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1, Timeout: time.Hour})
		go func() { _ = c.Ping(t.Context()) }()
		synctest.Wait() // the lane is writing
		ctx, cancel := context.WithCancel(t.Context())
		reported := make(chan error, 1)
		go func() {
			_, err := c.Report(ctx, hashserv.Report{Task: clTask(1), Outhash: "o", Unihash: hashtest.U(1)})
			reported <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-reported; !errors.Is(err, context.Canceled) {
			t.Errorf("a report that was given up: %v", err)
		}
		close(read)
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		wire.all.Wait()
		if len(lines) != 2 {
			t.Errorf("the server read %q", lines)
		}
	})
}

// TestClientKeepsStreams: with connections enough, each stays in what it is used for.
func TestClientKeepsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends atomic.Int64
		wire := &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			for line, ok := c.line(); ok; line, ok = c.line() {
				switch {
				case line == "END":
					ends.Add(1)
					c.say("ok")
				case strings.Contains(line, "stream"):
					c.say(`"ok"`)
				case strings.Contains(line, "ping"):
					c.say(`{"alive": true}`)
				case strings.HasPrefix(line, "m "):
					c.say("")
				default:
					c.say("false")
				}
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{})
		for n := range 10 {
			_, err := clLookup(t.Context(), c, n)
			err = errors.Join(err, c.Exists(t.Context(), []hashserv.Unihash{hashtest.U(1)}, make([]bool, 1)), c.Ping(t.Context()))
			if err != nil {
				t.Error(err)
			}
		}
		if n := ends.Load(); n != 0 {
			t.Errorf("a stream was left %d times", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientRestartedServer: many callers ask on while the server is restarted again and again. Each answer is right.
func TestClientRestartedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := hashserv.NewMemory(hashserv.MemoryConfig{})
		for n := range 20 {
			if _, err := store.Report(t.Context(), hashserv.Report{Task: clTask(n), Outhash: fmt.Sprint("o", n), Unihash: hashtest.U(byte(n + 1))}); err != nil {
				t.Fatal(err)
			}
		}
		honest := clHonest(store)
		wire := &clWire{serve: func(n int, c *clLines) {
			kill := time.AfterFunc(time.Duration(n+1)*time.Millisecond, func() { c.Conn.Close() })
			defer kill.Stop()
			honest(n, c)
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 2, Pause: time.Millisecond, LongestPause: time.Millisecond})
		var all sync.WaitGroup
		var answered atomic.Int64
		for n := range 20 {
			all.Go(func() {
				for range 50 {
					got, err := clLookup(t.Context(), c, n)
					switch {
					case err != nil:
						clLost(t, "a lookup", err)
					case got != hashtest.U(byte(n+1)):
						t.Errorf("lookup %d = %v", n, got)
					default:
						answered.Add(1)
					}
					time.Sleep(300 * time.Microsecond)
				}
			})
		}
		all.Wait()
		if n := answered.Load(); n < 500 || wire.dials.Load() < 5 {
			t.Errorf("%d of 1000 lookups were answered on %d connections", n, wire.dials.Load())
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientStalledServer: a server that says nothing is given up after the timeout of a reply, and not before: one that answers slowly is
// waited for.
func TestClientStalledServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(n int, c *clLines) {
			c.hello()
			c.line()
			c.say(`"ok"`)
			for i := 0; ; i++ {
				if _, ok := c.line(); !ok {
					return
				}
				if i < 3 {
					time.Sleep(25 * time.Second)
					c.say("")
				}
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1, Timeout: 30 * time.Second})
		begin := time.Now()
		if err := c.Unihash(t.Context(), []hashserv.Task{clTask(1), clTask(2), clTask(3)}, make([]hashserv.Mapping, 3)); err != nil {
			t.Errorf("a slow server: %v", err)
		}
		if d := time.Since(begin); d != 75*time.Second {
			t.Errorf("answered after %s", d)
		}
		begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := clLookup(ctx, c, 4)
		if err != nil { // it was asked again on another connection, which answers
			t.Errorf("after a connection that stalled: %v", err)
		}
		if d := time.Since(begin); d < 30*time.Second || d > 70*time.Second {
			t.Errorf("given up after %s", d)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientPauses: a server that is away is not hammered, and found again.
func TestClientPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := true
		wire := &clWire{serve: clHonest(hashserv.NewMemory(hashserv.MemoryConfig{}))}
		wire.fail = func(int) error {
			if away {
				return errors.New("connection refused")
			}
			return nil
		}
		c := wire.client(t, hashserv.ClientConfig{})
		for range 6000 { // for a minute
			_, err := clLookup(t.Context(), c, 1)
			clLost(t, "a lookup", err)
			if t.Failed() {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := wire.dials.Load(); n < 8 || n > 20 {
			t.Errorf("%d attempts in a minute", n)
		}
		away = false
		time.Sleep(13 * time.Second)
		if _, err := clLookup(t.Context(), c, 1); err != nil {
			t.Errorf("the server is back: %v", err)
		}
		c.Close() // its connections end, and the next client begins anew
		c = wire.client(t, hashserv.ClientConfig{})
		for _, away = range []bool{true, false, true, false} {
			_, err := clLookup(t.Context(), c, 1)
			if (err != nil) != away {
				t.Errorf("away %v: %v", away, err)
			}
			time.Sleep(130 * time.Millisecond) // the shortest pause is over
			if !away {
				wire.drop()
			}
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientPausesWhenDropped: a server that takes connections and ends them is no better than one that is away.
func TestClientPausesWhenDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(int, *clLines) {}}
		c := wire.client(t, hashserv.ClientConfig{})
		for range 600 { // for a minute
			_, err := clLookup(t.Context(), c, 1)
			clLost(t, "a lookup", err)
			time.Sleep(100 * time.Millisecond)
		}
		if n := wire.dials.Load(); n < 8 || n > 20 {
			t.Errorf("%d attempts in a minute", n)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientFewerConnections: a server that takes fewer connections than the client would make answers everything on those.
func TestClientFewerConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: clHonest(hashserv.NewMemory(hashserv.MemoryConfig{}))}
		wire.fail = func(n int) error {
			if n > 0 {
				return errors.New("too many connections")
			}
			return nil
		}
		c := wire.client(t, hashserv.ClientConfig{})
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for n := range 50 {
			all.Go(func() {
				if _, err := clLookup(t.Context(), c, n); err != nil {
					t.Errorf("lookup %d: %v", n, err)
				}
				if err := c.Ping(t.Context()); err != nil {
					t.Errorf("ping: %v", err)
				}
			})
		}
		all.Wait()
		c.Close()
		wire.all.Wait()
	})
}

// TestClientRefusals: what was refused is told to whom it was refused, and nobody else.
func TestClientRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(n int, c *clLines) {
			c.hello()
			for {
				line, ok := c.line()
				switch {
				case !ok:
					return
				case strings.Contains(line, "remove"), strings.Contains(line, "get-stream"):
					c.say(`{"invoke-error": {"message": "Anonymous user is not allowed"}}`)
					return
				case strings.Contains(line, "ping"):
					c.say(`{"alive": true}`)
				default:
					c.say(`{"usage": {}}`)
				}
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				_, err := c.Remove(t.Context(), hashserv.Where{"method": "m"})
				var refusal *hashserv.Refusal
				if !errors.As(err, &refusal) || refusal.Message != "Anonymous user is not allowed" {
					clLost(t, "a removal", err) // behind too many others
				}
				if _, err := c.Usage(t.Context()); err != nil {
					clLost(t, "what is allowed", err)
				}
			})
		}
		all.Wait()
		if _, err := c.Usage(t.Context()); err != nil {
			t.Errorf("what is allowed, after refusals: %v", err)
		}
		_, err := clLookup(t.Context(), c, 1)
		var refusal *hashserv.Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("a refused stream: %v", err)
		}
		if _, err = clLookup(t.Context(), c, 1); err == nil {
			t.Error("a refused stream was entered")
		}
		time.Sleep(time.Second)
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("what is allowed, after a refused stream: %v", err)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientSignsIn: nothing is asked before the server has taken the credentials, and a refused sign-in is no refusal of what was asked.
func TestClientSignsIn(t *testing.T) {
	for reply, works := range map[string]bool{
		`{"result": true, "username": "gate", "permissions": ["@all"]}`:   true,
		`{"result": false, "username": "gate", "permissions": []}`:        false,
		`{"username": "gate", "permissions": []}`:                         false,
		`{"invoke-error": {"message": "Unable to authenticate as gate"}}`: false,
		`null`: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			var lines []string
			wire := &clWire{serve: func(_ int, c *clLines) {
				c.hello()
				for _, answer := range []string{reply, `{"alive": true}`} {
					line, ok := c.line()
					if ok {
						lines = append(lines, line)
					}
					time.Sleep(time.Second)
					c.say(answer)
				}
				c.line()
			}}
			c := wire.client(t, hashserv.ClientConfig{Username: "gate", Token: "secret"})
			err := c.Ping(t.Context())
			if works && err != nil {
				t.Errorf("%s: %v", reply, err)
			}
			if !works {
				clLost(t, reply, err)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("the error holds the token: %v", err)
			}
			c.Close()
			wire.all.Wait()
			if want := `{"auth":{"username":"gate","token":"secret"}}`; lines[0] != want || works != (len(lines) == 2) {
				t.Errorf("%s: the server read %q", reply, lines)
			}
		})
	}
}

// TestClientFair: who asks a little is not kept waiting by who asks a lot.
func TestClientFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, at := make(chan struct{}), 0
		wire := &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			c.line()
			<-begin
			c.say(`"ok"`)
			for n := 1; ; n++ {
				line, ok := c.line()
				if !ok {
					return
				}
				if line == "m t-1" {
					at = n
				}
				c.say("")
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{Connections: 1})
		many := make([]hashserv.Task, 20_000)
		for n := range many {
			many[n] = clTask(n)
		}
		var all sync.WaitGroup
		all.Go(func() {
			if err := c.Unihash(t.Context(), many, make([]hashserv.Mapping, len(many))); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, err := clLookup(t.Context(), c, -1); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(begin)
		all.Wait()
		if at == 0 || at > 2000 {
			t.Errorf("the one line was asked as number %d of 20,001", at)
		}
		c.Close()
		wire.all.Wait()
	})
}

// TestClientClosed: what is under way and what comes later fails, and nothing is left running.
func TestClientClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(_ int, c *clLines) {
			for _, ok := c.line(); ok; _, ok = c.line() {
			}
		}}
		c := wire.client(t, hashserv.ClientConfig{})
		under := make(chan error, 1)
		go func() { _, err := clLookup(t.Context(), c, 1); under <- err }()
		synctest.Wait()
		c.Close()
		clLost(t, "under way", <-under)
		_, err := clLookup(t.Context(), c, 2)
		clLost(t, "later", err)
		clLost(t, "later on another lane", c.Ping(t.Context()))
		c.Close()
		wire.all.Wait()
	})
}

// TestClientOldHashes: a server that maps some tasks to hashes of another kind is no server that is broken: those are mapped to nothing.
func TestClientOldHashes(t *testing.T) {
	good := strings.Repeat("ab", 32)
	synctest.Test(t, func(t *testing.T) {
		wire := &clWire{serve: func(_ int, c *clLines) {
			c.hello()
			c.line()
			c.say(`"ok"`)
			for _, reply := range []string{strings.Repeat("a", 40), strings.Repeat("b", 32), good} {
				c.line()
				c.say(reply)
			}
			c.line()
		}}
		c := wire.client(t, hashserv.ClientConfig{})
		tasks := []hashserv.Task{{Method: "m", Taskhash: "1"}, {Method: "m", Taskhash: "2"}, {Method: "m", Taskhash: "3"}}
		answers := make([]hashserv.Mapping, 3)
		if err := c.Unihash(t.Context(), tasks, answers); err != nil {
			t.Fatal(err)
		}
		if none := (hashserv.Mapping{}); answers[0] != none || answers[1] != none || answers[2].Unihash.String() != good {
			t.Errorf("answered %v", answers)
		}
		c.Close()
		wire.all.Wait()
	})
}
