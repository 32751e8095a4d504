package sshd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// conn is a client's connection, from its accept to its end.
type conn struct {
	net.Conn
	server  *Server
	door    gateway.Door
	address string // what it is counted by
	began   time.Time
	vain    *rate.Limiter // requests that are refused
	close   func() error  // once
	alive   sync.Once     // keeps the connection alive
	done    chan struct{} // closed with the connection

	mu          sync.Mutex  // guards what follows
	waiting     time.Time   // since when the door waits for the client during the handshake; zero: it does not
	isOpen      bool        // the handshake is finished
	tried       bool        // a key was offered that was not taken
	refusal     error       // why the last one was not
	isRecorded  bool        // the gate knows of that
	principal   string      // whom the connection is counted for
	channels    int         // that are open
	idle        *time.Timer // ends the connection unless a channel is opened
	isFinishing bool        // ends with its last channel
}

func newConn(s *Server, nc net.Conn, leave func()) *conn {
	remote, _ := netip.ParseAddrPort(nc.RemoteAddr().String())
	c := &conn{
		Conn: nc, server: s, door: gateway.Door{Name: doorName, Remote: remote},
		address: limit.Address(nc.RemoteAddr()), began: time.Now(), vain: nuisance(), done: make(chan struct{}),
	}
	c.close = sync.OnceValue(func() error {
		err := nc.Close()
		close(c.done)
		s.lobby.leave(c)
		leave()
		c.countFor("")
		return err
	})
	_ = nc.SetDeadline(c.began.Add(s.limits.HandshakeTimeout)) // a connection that has no deadlines is closed already
	return c
}

// SetDeadline does nothing. gliderlabs/ssh sets its own, none by default, before every read and write, and would undo the door's.
func (c *conn) SetDeadline(time.Time) error { return nil }

// Close ends the connection and everything on it. Only the first call does something.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.idle != nil {
		c.idle.Stop()
	}
	c.mu.Unlock()
	return c.close()
}

// Read notes for how long the client keeps the door waiting while its handshake is under way.
func (c *conn) Read(b []byte) (int, error) {
	if !c.await(true) {
		return c.Conn.Read(b)
	}
	n, err := c.Conn.Read(b)
	c.await(false)
	return n, err
}

// Write notes that it is the client's turn now.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.await(true)
	return n, err
}

// await notes that the door begins or ceases to wait. It is false when that is of no interest any more.
func (c *conn) await(begins bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isOpen {
		return false
	}
	c.waiting = time.Time{}
	if begins {
		c.waiting = time.Now()
	}
	return true
}

func (c *conn) waitingSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

// opened ends the handshake: its deadline and its place among those under way.
func (c *conn) opened() {
	_ = c.Conn.SetDeadline(time.Time{})
	c.server.lobby.leave(c)
	c.mu.Lock()
	c.isOpen = true
	c.idle = time.AfterFunc(c.server.limits.IdleTimeout, func() { c.Close() })
	o := Observation{Route: "handshake", Outcome: "accepted", Took: c.handshakeTook()}
	c.mu.Unlock()
	c.server.observe(o)
}

func (c *conn) handshakeTook() time.Duration { return time.Since(c.began) }

// countFor counts the connection for a principal, "" for none, and no longer for the one before. It reports whether it may.
func (c *conn) countFor(principal string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.principal == principal {
		return true
	}
	if c.principal != "" {
		c.server.principals.Leave(c.principal)
		c.principal = ""
	}
	if principal == "" {
		return true
	}
	if !c.server.principals.Enter(principal) {
		return false
	}
	c.principal = principal
	return true
}

// enter counts a channel, or says why the connection may not have it. Each "" is followed by one leave.
func (c *conn) enter() (why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isFinishing:
		return "the connection is about to end"
	case c.channels >= c.server.limits.Channels:
		return "too many channels on this connection"
	}
	c.channels++
	c.idle.Stop()
	return ""
}

func (c *conn) leave() {
	c.mu.Lock()
	c.channels--
	isLast := c.channels == 0
	if isLast {
		c.idle.Reset(c.server.limits.IdleTimeout)
	}
	end := isLast && c.isFinishing
	c.mu.Unlock()
	if end {
		c.Close()
	}
}

// closeWhenIdle ends the connection once it has no channels, which may be now. A handshake under way is cut.
func (c *conn) closeWhenIdle() {
	c.mu.Lock()
	c.isFinishing = true
	isIdle := c.channels == 0
	c.mu.Unlock()
	if isIdle {
		c.Close()
	}
}

// farewell is how long an answer has to leave before the connection of somebody who is nobody any more ends.
const farewell = time.Second

// session opens a session for one operation, so that a key that is worth nothing any more ends its connection.
func (c *conn) session(ctx context.Context, credential authn.Credential) (*gateway.Session, error) {
	session, err := c.server.gate.Session(ctx, c.door, credential)
	if errors.Is(err, gateway.ErrUnauthenticated) {
		c.mu.Lock()
		c.isFinishing = true
		c.mu.Unlock()
		time.AfterFunc(farewell, func() { c.Close() })
	}
	return session, err
}

// keepAlive asks the client for signs of life until the connection ends, and ends it when none comes.
func (c *conn) keepAlive(sc *gossh.ServerConn) {
	every := c.server.limits.KeepAlive
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		dead := time.AfterFunc(3*every, func() { c.Close() })
		_, _, err := sc.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			return
		}
	}
}

// recheck ends the connection of somebody who is nobody any more, also when nothing is asked on it.
func (c *conn) recheck(ctx context.Context, credential authn.Credential) {
	tick := time.NewTicker(c.server.limits.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		if _, err := c.session(ctx, credential); errors.Is(err, gateway.ErrUnauthenticated) {
			return
		}
	}
}

// bother spends one of the refusals that a connection may cause. It ends the connection when there are none left.
func (c *conn) bother() {
	if !c.vain.Allow() {
		c.Close()
	}
}

// globalRequest answers what concerns a whole connection: signs of life, and otherwise no.
func (s *Server) globalRequest(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (ok bool, payload []byte) {
	connOf(ctx).bother()
	return req.Type == "keepalive@openssh.com", nil
}

// rejectChannel answers a channel of a type that is not served.
func (s *Server) rejectChannel(_ *ssh.Server, _ *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	connOf(ctx).bother()
	_ = nc.Reject(gossh.UnknownChannelType, "only sessions are served here")
}

// stack returns where a panic came from.
func stack() string { return string(debug.Stack()) }
