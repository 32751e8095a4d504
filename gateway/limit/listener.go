package limit

import (
	"errors"
	"net"
	"sync"
)

// Listener returns a listener whose Accept closes connections that open has no room for, after full was called. A connection counts until it is
// closed. A nil full is not called.
func Listener(ln net.Listener, open *Connections, full func()) net.Listener {
	return &listener{Listener: ln, open: open, full: full}
}

type listener struct {
	net.Listener
	open *Connections
	full func()
}

// Accept returns the next connection that its address may still have.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if leave, ok := l.open.Admit(Address(nc.RemoteAddr())); ok {
			return &conn{Conn: nc, leave: sync.OnceFunc(leave)}, nil
		}
		nc.Close()
		if l.full != nil {
			l.full()
		}
	}
}

type conn struct {
	net.Conn
	leave func()
}

func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// CloseWrite ends what is written, where the connection can.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
