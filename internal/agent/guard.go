package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// checkListener refuses what others than this machine could reach, and what cannot be kept to its user.
func (a *Agent) checkListener(ln net.Listener) error {
	switch at := ln.Addr().(type) {
	case *net.UnixAddr:
		return nil
	case *net.TCPAddr:
		if !at.IP.IsLoopback() {
			return fmt.Errorf("the agent does not listen on %s: it shows what its user may read, so it takes loopback or a unix socket alone", at)
		}
		if !ownersKnown && !a.conf.AnyUser {
			return errors.New("on this system the agent cannot find out whose a connection on loopback is: every user of the machine could read what you may read; " +
				"give --any-user if that is nobody else")
		}
		return nil
	}
	return fmt.Errorf("the agent does not listen on %s: loopback or a unix socket alone", ln.Addr())
}

// guard keeps all but the agent's own user out.
func (a *Agent) guard(ln net.Listener) net.Listener {
	if _, ok := ln.(*handoff); ok {
		return ln // whose all are known
	}
	return &guard{Listener: ln, agent: a}
}

type guard struct {
	net.Listener
	agent *Agent
}

func (g *guard) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guarded{Conn: c, agent: g.agent}, nil
}

type guardedKey struct{}

// guarded is a connection of which nothing is read before it is known whose it is.
type guarded struct {
	net.Conn
	agent *Agent
	once  sync.Once
	err   error
	owner int    // user id, where a shared agent found it out
	left  func() // called when it is closed; nil for nothing

	asking  atomic.Pointer[atomic.Int64] // counts it while it is open
	leaving sync.Once
}

var errForeign = errors.New("a connection of another user")

func (g *guarded) Read(p []byte) (int, error) {
	g.once.Do(func() {
		if g.err = g.agent.admit(g.Conn); g.err != nil {
			g.Conn.Close()
		}
	})
	if g.err != nil {
		return 0, g.err
	}
	return g.Conn.Read(p)
}

// asks has the connection counted while it is open.
func (g *guarded) asks(open *atomic.Int64) {
	if g.asking.CompareAndSwap(nil, open) {
		open.Add(1)
	}
}

func (g *guarded) Close() error {
	g.leaving.Do(func() {
		if open := g.asking.Load(); open != nil {
			open.Add(-1)
		}
		if g.left != nil {
			g.left()
		}
	})
	return g.Conn.Close()
}

// CloseWrite lets an HTTP server end a connection without losing the end of what it has sent.
func (g *guarded) CloseWrite() error {
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// admit reports whether a connection is of the agent's own user.
func (a *Agent) admit(c net.Conn) error {
	if _, tcp := c.RemoteAddr().(*net.TCPAddr); tcp && a.conf.AnyUser {
		return nil
	}
	owner, err := ownerOf(c)
	switch {
	case err != nil:
		a.warn.add(causeForeign, "a connection was closed, as it cannot be found out whose it is: "+err.Error())
		return errForeign
	case owner != os.Getuid():
		a.warn.add(causeForeign, fmt.Sprintf("a connection of another user was closed: user id %d", owner))
		return errForeign
	}
	return nil
}

// address prints where a listener is.
func address(at net.Addr) string {
	if at.Network() == "unix" {
		return "unix:" + at.String()
	}
	return at.String()
}
