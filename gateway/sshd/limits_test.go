package sshd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// dialFrom connects from a loopback address of its own.
func dialFrom(from, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	return d.Dial("tcp", addr)
}

// whoFrom signs in from an address and asks who it is.
func whoFrom(g *gwtest.Gate, from, addr string) (string, error) {
	nc, err := dialFrom(from, addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	conn, chans, reqs, err := ssh.NewClientConn(nc, addr, clientConfig(g, "alice"))
	if err != nil {
		return "", err
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return "", err
	}
	out, err := s.Output("whoami")
	return string(out), err
}

// TestHalfOpenHandshakes: a thousand clients that do not go on keep nobody out, from the same address or from another, whether
// the door holds them all or not. In the end nothing is left of them.
func TestHalfOpenHandshakes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	for name, l := range map[string]sshd.Limits{
		"all of them fit":          {},
		"few of an address fit":    {HandshakesPerAddress: 100},
		"few fit":                  {Handshakes: 100},
		"few of an address, later": {Handshakes: 200, HandshakesPerAddress: 150},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			door := doorOf(t, g, l, nil)
			addr, stop := open(t, door)
			var hanging []net.Conn
			for i := range 1000 {
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				hanging = append(hanging, nc)
				if i%2 == 1 { // others say something before they stop
					_, _ = io.WriteString(nc, "SSH-2.0-slow\r\n")
				}
			}
			most := 1000
			if n := max(l.Handshakes, l.HandshakesPerAddress); n > 0 {
				most = n
			}
			eventually(t, "the door has seen all", func() bool { n := door.HalfOpen(); return n > 0 && n <= most })
			for i := range 20 {
				from := []string{"127.0.0.1", "127.0.0.2"}[i%2]
				if who, err := whoFrom(g, from, addr); err != nil || !strings.HasPrefix(who, "alice ") {
					t.Errorf("an honest client from %s: %q, %v", from, who, err)
				}
			}
			for _, nc := range hanging {
				nc.Close()
			}
			eventually(t, "the door is empty", func() bool { return door.Open() == 0 && door.HalfOpen() == 0 })
			if err := stop(); err != nil {
				t.Error(err)
			}
			eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before+5 })
		})
	}
}

// TestManyHonestHandshakes: builders that all begin at once come in, all of them.
func TestManyHonestHandshakes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHLimits: sshd.Limits{HandshakeTimeout: patience}}) // all share the machine with all clients
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if who, err := whoFrom(g, "127.0.0.1", g.SSHAddr); err != nil || !strings.HasPrefix(who, "alice ") {
				t.Errorf("%q, %v", who, err)
			}
		})
	}
	wg.Wait()
}

// TestConnectionLimits: connections are bounded in all, for an address and for a principal; one that ends makes room.
func TestConnectionLimits(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	for name, l := range map[string]sshd.Limits{
		"in all":         {Conns: 3},
		"of an address":  {ConnsPerAddress: 3},
		"of a principal": {ConnsPerPrincipal: 3},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := open(t, doorOf(t, g, l, nil))
			var clients []*ssh.Client
			for range 3 {
				client, err := ssh.Dial("tcp", addr, clientConfig(g, "alice"))
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				clients = append(clients, client)
			}
			if client, err := ssh.Dial("tcp", addr, clientConfig(g, "alice")); err == nil {
				client.Close()
				t.Error("a fourth connection was taken")
			}
			if l.ConnsPerPrincipal > 0 {
				bob, err := ssh.Dial("tcp", addr, clientConfig(g, "bob"))
				if err != nil {
					t.Fatalf("somebody else: %v", err)
				}
				bob.Close()
			}
			clients[0].Close()
			eventually(t, "there is room again", func() bool {
				client, err := ssh.Dial("tcp", addr, clientConfig(g, "alice"))
				if err == nil {
					client.Close()
				}
				return err == nil
			})
		})
	}
}

// TestChannelLimit: of 200 channels a connection gets what it may have; the others are refused, and those that it has work.
func TestChannelLimit(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	c := dial(t, g, "alice")
	var open []ssh.Channel
	refused := 0
	for range 200 {
		ch, reqs, err := c.OpenChannel("session", nil)
		if err != nil {
			var no *ssh.OpenChannelError
			if !errors.As(err, &no) || no.Reason != ssh.ResourceShortage {
				t.Fatal(err)
			}
			refused++
			continue
		}
		go ssh.DiscardRequests(reqs)
		open = append(open, ch)
	}
	if want := sshd.DefaultLimits().Channels; len(open) != want || refused != 200-want {
		t.Errorf("%d are open and %d refused", len(open), refused)
	}
	ch := open[len(open)-1]
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"whoami"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if out, err := io.ReadAll(ch); err != nil || !strings.HasPrefix(string(out), "alice ") {
		t.Errorf("%q, %v", out, err)
	}
	for _, ch := range open {
		ch.Close()
	}
	eventually(t, "there is room again", func() bool { return run(t, c, "whoami").code == 0 })
}

// TestIdleChannels: a channel that does not say what it is for is closed, and a connection without channels, too.
func TestIdleChannels(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHLimits: sshd.Limits{HandshakeTimeout: time.Second, IdleTimeout: 100 * time.Millisecond}})
	c := dial(t, g, "alice")
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range reqs { // until the door closes the channel
	}
	if _, err := ch.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the channel ends with %v", err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the connection ended without a reason")
	}
}

// TestRefusedRequests: no terminal, agent, environment, forwarding or signal, and no command that is too long; what is served is
// served all the same.
func TestRefusedRequests(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	c := dial(t, g, "alice")
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	huge := ssh.Marshal(struct{ C string }{"whoami " + strings.Repeat("x", 9<<10)})
	for name, payload := range map[string][]byte{
		"pty-req": ssh.Marshal(struct {
			Term         string
			W, H, PW, PH uint32
			Modes        string
		}{"xterm", 80, 24, 0, 0, ""}),
		"env":                        ssh.Marshal(struct{ K, V string }{"LANG", "C"}),
		"auth-agent-req@openssh.com": nil,
		"x11-req":                    nil,
		"window-change":              nil,
		"signal":                     ssh.Marshal(struct{ S string }{"TERM"}),
		"break":                      nil,
		"eow@openssh.com":            nil,
		"no such request":            nil,
		"exec":                       huge,
		"subsystem":                  ssh.Marshal(struct{ S string }{"netconf"}),
	} {
		if ok, err := ch.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if ok, err := ch.SendRequest("exec", true, []byte{0, 0, 0, 9, 'x'}); ok || err != nil {
		t.Errorf("an exec that cannot be read: %v, %v", ok, err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"whoami"})); !ok || err != nil {
		t.Errorf("after that: %v, %v", ok, err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"whoami"})); ok {
		t.Errorf("a second exec on the same channel was taken: %v", err)
	}
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com", "x11", "auth-agent@openssh.com", "forwarded-tcpip"} {
		_, _, err := c.OpenChannel(kind, ssh.Marshal(struct {
			H  string
			P  uint32
			OH string
			OP uint32
		}{"127.0.0.1", 22, "127.0.0.1", 1}))
		var no *ssh.OpenChannelError
		if !errors.As(err, &no) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com", "no such request"} {
		if ok, _, err := c.SendRequest(kind, true, ssh.Marshal(struct {
			H string
			P uint32
		}{"", 0})); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
}

// TestFloods: a client that keeps asking in vain loses its connection, and nobody else notices.
func TestFloods(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	other := dial(t, g, "bob")
	for name, flood := range map[string]func(c *ssh.Client) error{
		"global requests": func(c *ssh.Client) error {
			_, _, err := c.SendRequest("no such request", true, nil)
			return err
		},
		"channels": func(c *ssh.Client) error {
			_, _, err := c.OpenChannel("direct-tcpip", nil)
			if _, no := errors.AsType[*ssh.OpenChannelError](err); no {
				return nil
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, g, "alice")
			n := 0
			for ; n < 5000; n++ {
				if err := flood(c); err != nil {
					break
				}
			}
			if n < 100 || n == 5000 {
				t.Errorf("the connection ended after %d", n)
			}
		})
		if r := run(t, other, "whoami"); r.code != 0 {
			t.Errorf("%s: somebody else: %+v", name, r)
		}
	}
}

// TestEnvironmentFlood: a channel that asks for one environment variable after the other is closed.
func TestEnvironmentFlood(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	c := dial(t, g, "alice")
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	n := 0
	for ; n < 5000; n++ {
		if _, err := ch.SendRequest("env", true, ssh.Marshal(struct{ K, V string }{"X", strings.Repeat("x", 30_000)})); err != nil {
			break
		}
	}
	if n < 10 || n == 5000 {
		t.Errorf("the channel ended after %d variables", n)
	}
	if r := run(t, c, "whoami"); r.code != 0 {
		t.Errorf("the connection: %+v", r)
	}
}

// large is an object that no window holds.
func large() gwtest.Object {
	o := gwtest.NewObject("large", "package")
	o.Content = bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	return o
}

// TestSlowReader: a client that asks for an object and does not take it loses its channel. Its connection, and what else is done on
// it, stay.
func TestSlowReader(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHLimits: sshd.Limits{ProgressWindow: 200 * time.Millisecond, ProgressBytes: 1 << 10}})
	name := g.Publish([]gwtest.Object{large()}, publicSource)
	c := dial(t, g, "alice")
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { ssh.DiscardRequests(reqs); close(ended) }()
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"scp -f /main/" + name})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := ch.Write([]byte{0, 0}); err != nil { // begin, and take the file; then nothing
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the channel is still open")
	}
	if r := run(t, c, "whoami"); r.code != 0 {
		t.Errorf("the connection: %+v", r)
	}
}

// TestUnhurriedClient: a client that thinks before it says something small is not slow, however long the whole takes.
func TestUnhurriedClient(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHLimits: sshd.Limits{ProgressWindow: time.Second}})
	name := g.Publish([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource)
	c := dial(t, g, "alice")
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	input, err1 := s.StdinPipe()
	output, err2 := s.StdoutPipe()
	if err := errors.Join(err1, err2, s.Start("scp -f"+strings.Repeat(" /main/"+name, 3))); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, output) }()
	for range 1 + 3*2 { // to begin, and for each file its line and its bytes
		time.Sleep(500 * time.Millisecond)
		if _, err := input.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// TestTricklingNames: a client that brings its names too slowly loses its channel.
func TestTricklingNames(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, SSHLimits: sshd.Limits{ProgressWindow: 100 * time.Millisecond}})
	c := dial(t, g, "alice")
	s, input, output := presenceUnderWay(t, c)
	for range 10_000 {
		if _, err := io.WriteString(input, "x\n"); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if out, _ := io.ReadAll(output); len(out) > 0 {
		t.Errorf("the answer is %q", out)
	}
	if err := s.Wait(); err == nil {
		t.Error("the command ended well")
	}
	if r := run(t, c, "whoami"); r.code != 0 {
		t.Errorf("the connection: %+v", r)
	}
}

// deaf is a connection whose client takes nothing any more once it is shut.
type deaf struct {
	net.Conn
	shut atomic.Bool
	wait chan struct{}
}

func (d *deaf) Read(b []byte) (int, error) {
	if d.shut.Load() {
		<-d.wait
		return 0, io.EOF
	}
	return d.Conn.Read(b)
}

// TestDeafClient: a client that does not even take what belongs to the connection loses it, by the signs of life that it does not give.
func TestDeafClient(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	door := doorOf(t, g, sshd.Limits{KeepAlive: 50 * time.Millisecond}, nil)
	addr, _ := open(t, door)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	d := &deaf{Conn: nc, wait: make(chan struct{})}
	defer close(d.wait)
	conn, chans, reqs, err := ssh.NewClientConn(d, addr, clientConfig(g, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(conn, chans, reqs)
	ch, _, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	time.Sleep(300 * time.Millisecond) // some signs of life are asked for, and given
	if door.Open() != 1 {
		t.Fatal("a client that answers lost its connection")
	}
	d.shut.Store(true)
	eventually(t, "the connection is gone", func() bool { return door.Open() == 0 })
}

// faulty is a journal that panics when it is told to.
type faulty struct {
	gateway.Journal
	armed  atomic.Bool
	panics atomic.Int32
}

func (f *faulty) Append(e *audit.Event) (uint64, error) {
	if f.armed.Load() {
		f.panics.Add(1)
		panic(fmt.Sprintf("no room for %s\n\x1b[31m", e.Kind))
	}
	return f.Journal.Append(e)
}

// TestPanic: what goes wrong on one connection ends that connection. The others, and the process, go on.
func TestPanic(t *testing.T) {
	var journal *faulty
	g := gwtest.New(t, gwtest.Options{SSH: true, Journal: func(j gateway.Journal) gateway.Journal {
		journal = &faulty{Journal: j}
		return journal
	}})
	name := g.Publish([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource)
	bystander, victim := dial(t, g, "bob"), dial(t, g, "alice")
	journal.armed.Store(true)
	if r := run(t, victim, "[ -f /main/"+name+" ]"); r.code != -1 {
		t.Errorf("a panic is answered with %+v", r)
	}
	files, err := sftp.NewClient(dial(t, g, "carol"))
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if _, err := files.Stat("/main/" + name); err == nil {
		t.Error("a panic is answered with a stat")
	}
	if c, err := ssh.Dial("tcp", g.SSHAddr, clientConfig(g, "nobody")); err == nil { // its refusal cannot be recorded
		c.Close()
		t.Error("the door opened")
	}
	eventually(t, "all have panicked", func() bool { return journal.panics.Load() == 3 })
	journal.armed.Store(false)
	if r := run(t, bystander, "[ -f /main/"+name+" ]"); r.code != 0 {
		t.Errorf("somebody else: %+v", r)
	}
	if r := run(t, dial(t, g, "alice"), "[ -f /main/"+name+" ]"); r.code != 0 {
		t.Errorf("once more: %+v", r)
	}
}

// TestDrain: a door that is told to stop takes nothing new, lets what is under way finish, and only then is done.
func TestDrain(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	door := doorOf(t, g, sshd.Limits{}, nil)
	addr, stop := open(t, door)
	busy, idle := dialAddr(t, g, addr), dialAddr(t, g, addr)
	session, input, output := presenceUnderWay(t, busy)
	served := make(chan error, 1)
	go func() { served <- stop() }()
	if err := idle.Wait(); err == nil {
		t.Error("an idle connection ended without a reason")
	}
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		t.Error("the door listens still")
	}
	if _, err := busy.NewSession(); err == nil {
		t.Error("a new operation began")
	}
	select {
	case err := <-served:
		t.Fatalf("Serve returned %v while a command was under way", err)
	default:
	}
	if _, err := io.WriteString(input, "/main/nothing\n"); err != nil {
		t.Fatal(err)
	}
	input.Close()
	if out, err := io.ReadAll(output); string(out) != "0\n" || err != nil {
		t.Errorf("the command under way says %q, %v", out, err)
	}
	if err := session.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestDrainCuts: what does not finish in time is cut.
func TestDrainCuts(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	door := doorOf(t, g, sshd.Limits{DrainTimeout: 10 * time.Millisecond}, nil)
	addr, stop := open(t, door)
	session, _, _ := presenceUnderWay(t, dialAddr(t, g, addr))
	if err := stop(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if n := door.Open(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
	if err := session.Wait(); err == nil {
		t.Error("the command ended well")
	}
}

func dialAddr(t testing.TB, g *gwtest.Gate, addr string) *ssh.Client {
	return dialAs(t, g, addr, "alice")
}

// dialAs opens a connection to another door of the gate.
func dialAs(t testing.TB, g *gwtest.Gate, addr, user string) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", addr, clientConfig(g, user))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// presenceUnderWay starts a command that waits for more names.
func presenceUnderWay(t *testing.T, c *ssh.Client) (*ssh.Session, io.WriteCloser, io.Reader) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	input, err1 := s.StdinPipe()
	output, err2 := s.StdoutPipe()
	if err := errors.Join(err1, err2, s.Start("presence")); err != nil {
		t.Fatal(err)
	}
	return s, input, output
}
