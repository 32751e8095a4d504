package redis

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and a server, and is the network between them.
type Proxy struct {
	Addr string

	target   string
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond // when any of what follows changes
	conns  map[net.Conn]bool
	cut    bool // connections end, and none begins
	up     bool // what clients send goes no further
	down   bool // what the server sends goes no further
	delay  time.Duration
	closed bool
}

// StartProxy starts a proxy that ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l, conns: map[net.Conn]bool{}}
	p.change = sync.NewCond(&p.mu)
	p.done.Go(p.accept)
	t.Cleanup(func() {
		p.set(func() { p.closed = true })
		l.Close()
		p.drop()
		p.done.Wait()
	})
	return p
}

// Cut ends all connections and lets none begin.
func (p *Proxy) Cut() {
	p.set(func() { p.cut = true })
	p.drop()
}

// Hold lets connections be, and keeps what clients send, or what the server sends, or both.
func (p *Proxy) Hold(up, down bool) { p.set(func() { p.up, p.down = up, down }) }

// Slow delays whatever passes, each way.
func (p *Proxy) Slow(d time.Duration) { p.set(func() { p.delay = d }) }

// Heal ends whatever is wrong. What was held goes on its way.
func (p *Proxy) Heal() { p.set(func() { p.cut, p.up, p.down, p.delay = false, false, false, 0 }) }

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.change.Broadcast()
}

func (p *Proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		if p.admit(client, server) {
			p.done.Go(func() { p.carry(server, client, func() bool { return p.up }) })
			p.done.Go(func() { p.carry(client, server, func() bool { return p.down }) })
		}
	}
}

// admit takes the two ends of a connection, or closes them.
func (p *Proxy) admit(ends ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range ends {
		if p.cut || p.closed {
			c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return !p.cut && !p.closed
}

// carry copies one direction until an end closes.
func (p *Proxy) carry(to, from net.Conn, held func() bool) {
	defer func() {
		to.Close()
		from.Close()
		p.set(func() { delete(p.conns, from) })
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if delay := p.pass(held); delay > 0 {
			time.Sleep(delay)
		}
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

// pass waits until the direction is open, and returns by how much it is slow.
func (p *Proxy) pass(held func() bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for held() && !p.closed && !p.cut {
		p.change.Wait()
	}
	return p.delay
}
