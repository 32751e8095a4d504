package sshd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway"
)

// HashDoor speaks the hash equivalence protocol.
type HashDoor interface {
	// Stream answers lines on conn until the client ends them, for a session in a zone, and closes it.
	Stream(ctx context.Context, conn net.Conn, remote netip.AddrPort, session *gateway.Session, zone string)
}

// hashHost is the only destination of a forwarded port (ssh -L PORT:hashserv:PORT), alone or behind a zone and a dot.
const hashHost = "hashserv"

// serveForward answers a channel that a forwarded port opens. Nothing is connected to: the gate speaks the protocol itself.
func (s *Server) serveForward(_ *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	zone, ok := s.forwardZone(nc.ExtraData())
	if !ok {
		connOf(ctx).bother()
		_ = nc.Reject(gossh.Prohibited, "only ZONE.hashserv can be connected to")
		return
	}
	s.admitChannel(ctx, sc, nc, func(c *conn, id *identity) {
		session, err := c.session(ctx, id.credential)
		if err != nil {
			_ = nc.Reject(gossh.ConnectionFailed, "not now")
			return
		}
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		go gossh.DiscardRequests(requests)
		began := time.Now()
		s.hash.Stream(ctx, &channelConn{Channel: ch, remote: c.RemoteAddr(), local: c.LocalAddr()}, c.door.Remote, session, zone)
		s.observe(Observation{Route: "hash", Outcome: succeeded, Took: time.Since(began)})
	})
}

// forwardZone reads where a channel shall go (RFC 4254, section 7.2). The port does not matter.
func (s *Server) forwardZone(payload []byte) (zone string, ok bool) {
	var to struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if s.hash == nil || gossh.Unmarshal(payload, &to) != nil {
		return "", false
	}
	if to.Host == hashHost {
		return s.zone, s.zone != ""
	}
	return strings.CutSuffix(to.Host, "."+hashHost)
}

// channelConn is a channel as a net.Conn. A deadline that passes ends it.
type channelConn struct {
	gossh.Channel
	remote, local net.Addr

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// RemoteAddr and LocalAddr are those of the connection that carries the channel.
func (c *channelConn) RemoteAddr() net.Addr { return c.remote }
func (c *channelConn) LocalAddr() net.Addr  { return c.local }

// SetDeadline ends the channel at t, unless it is called again before; the zero time is never.
func (c *channelConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.IsZero() && c.timer != nil:
		c.timer.Stop()
	case t.IsZero():
	case c.timer == nil:
		c.timer = time.AfterFunc(time.Until(t), func() { c.Channel.Close() })
	default:
		c.timer.Reset(time.Until(t))
	}
	return nil
}

// SetReadDeadline and SetWriteDeadline are SetDeadline: either direction alone is of no use.
func (c *channelConn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *channelConn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }

// Close ends the channel.
func (c *channelConn) Close() error {
	_ = c.SetDeadline(time.Time{})
	return c.Channel.Close()
}
