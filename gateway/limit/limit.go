// Package limit bounds what clients make a door hold: how many of something at once, and how slowly a transfer may move.
package limit

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Counter bounds how many of something are held for each key at once. It is safe for concurrent use.
type Counter struct {
	max int

	mu   sync.Mutex // guards held
	held map[string]int
}

// NewCounter returns a Counter that lets each key hold at most limit.
func NewCounter(limit int) *Counter { return &Counter{max: limit, held: map[string]int{}} }

// Enter reports whether one more is allowed for key. Each true is followed by one Leave.
func (c *Counter) Enter(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key] >= c.max {
		return false
	}
	c.held[key]++
	return true
}

// Leave gives back what Enter took.
func (c *Counter) Leave(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key]--; c.held[key] == 0 {
		delete(c.held, key)
	}
}

// Connections bounds the open connections in all and of each address. It is safe for concurrent use.
type Connections struct {
	all  *Counter // under the empty key
	each *Counter
}

// NewConnections returns Connections that allow all in all, and each for an [Address].
func NewConnections(all, each int) *Connections {
	return &Connections{all: NewCounter(all), each: NewCounter(each)}
}

// Admit counts a connection of an address and returns what uncounts it.
func (c *Connections) Admit(address string) (leave func(), ok bool) {
	if !c.all.Enter("") {
		return nil, false
	}
	if !c.each.Enter(address) {
		c.all.Leave("")
		return nil, false
	}
	return func() { c.each.Leave(address); c.all.Leave("") }, true
}

// Address returns what a client's connections are counted by: an IPv4 address, or the /64 of an IPv6 one, which is one host's to
// choose from. All addresses that are neither are one.
func Address(remote net.Addr) string {
	a, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return ""
	}
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ""
	}
	return network.String()
}

// ErrSlow says that a transfer moved less than its Pace demands.
var ErrSlow = errors.New("the transfer moves too slowly")

// Pace demands that in each window at least floor bytes move. A peer that stops is noticed at the deadline, a window after the
// one it stopped in; the deadline is never the window's own end, where a steady peer would be caught in the middle of a read.
// It is for one goroutine.
type Pace struct {
	window time.Duration
	floor  int64
	ends   time.Time
	moved  int64
}

// NewPace returns a Pace whose first window begins now.
func NewPace(window time.Duration, floor int64) Pace {
	return Pace{window: window, floor: floor, ends: time.Now().Add(window)}
}

// Step returns the deadline for the next read or write, or ErrSlow.
func (p *Pace) Step() (time.Time, error) {
	if now := time.Now(); !now.Before(p.ends) {
		if p.moved < p.floor {
			return now, ErrSlow
		}
		p.moved, p.ends = 0, now.Add(p.window)
	}
	return p.ends.Add(p.window), nil
}

// Moved counts what was read or written.
func (p *Pace) Moved(n int) { p.moved += int64(n) }
