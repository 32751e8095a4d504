package sshd

import (
	"slices"
	"sync"
	"time"
)

// What an address whose keys were refused too often may do: few handshakes at once, for a while.
const (
	confinedHandshakes = 32
	confinement        = time.Minute
	maxConfined        = 10_000 // addresses
)

// lobby holds the connections whose handshake is under way. When there are too many, in all or of one address, the one goes that
// has kept the door waiting longest, of the address that has most: an honest handshake is never waited for longer than the network
// takes, a stalled one always. So nobody is kept out by those who hang. It is safe for concurrent use.
type lobby struct {
	all, each int

	mu       sync.Mutex // guards what follows
	count    int
	inside   map[string][]*conn // by address, oldest first
	confined map[string]time.Time
}

func newLobby(all, each int) *lobby {
	return &lobby{all: all, each: each, inside: map[string][]*conn{}, confined: map[string]time.Time{}}
}

// enter adds a connection and ends one if there are too many now.
func (l *lobby) enter(c *conn) {
	if evicted := l.add(c); evicted != nil {
		evicted.Close()
	}
}

func (l *lobby) add(c *conn) (evicted *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside[c.address] = append(l.inside[c.address], c)
	l.count++
	switch {
	case len(l.inside[c.address]) > l.allowed(c.address):
		return l.slowest(c.address, c)
	case l.count > l.all:
		return l.slowest(l.busiest(), c)
	}
	return nil
}

// allowed is how many handshakes an address may have under way. The caller holds mu.
func (l *lobby) allowed(address string) int {
	until, ok := l.confined[address]
	switch {
	case !ok:
		return l.each
	case time.Now().After(until):
		delete(l.confined, address)
		return l.each
	}
	return min(l.each, confinedHandshakes)
}

func (l *lobby) busiest() string {
	most, busiest := 0, ""
	for address, conns := range l.inside {
		if len(conns) > most {
			most, busiest = len(conns), address
		}
	}
	return busiest
}

// slowest finds who has kept the door waiting longest, but for the newcomer.
func (l *lobby) slowest(address string, newcomer *conn) *conn {
	var slowest *conn
	var since time.Time
	for _, c := range l.inside[address] {
		if c == newcomer {
			continue
		}
		w := c.waitingSince()
		if slowest == nil || !w.IsZero() && (since.IsZero() || w.Before(since)) {
			slowest, since = c, w
		}
	}
	return slowest
}

// leave removes a connection; one that is not inside is nothing to it.
func (l *lobby) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := l.inside[c.address]
	i := slices.Index(conns, c)
	if i < 0 {
		return
	}
	l.count--
	if len(conns) == 1 {
		delete(l.inside, c.address)
		return
	}
	l.inside[c.address] = slices.Delete(conns, i, i+1)
}

// confine leaves an address few handshakes for a while.
func (l *lobby) confine(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.confined) >= maxConfined {
		for a, until := range l.confined {
			if now.After(until) || len(l.confined) >= maxConfined {
				delete(l.confined, a)
			}
		}
	}
	l.confined[address] = now.Add(confinement)
}
