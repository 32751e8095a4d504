package redisdb

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
)

const (
	// drift is what the clocks of two nodes may run apart in a [forge.Fence].
	drift = 20 * time.Millisecond
	// forgetAfter is when a node that does not beat is forgotten.
	forgetAfter = time.Minute
)

// peer is a process of the gate, as this one sees it.
type peer struct {
	text    string // what it said last, as it stands in Redis
	genuine bool
	said    beat
	changed time.Time // when it was seen to say so first, which is after it did
}

// peers knows who beats. What counts is when this node saw a beat change: no other clock is believed. It is safe for
// concurrent use.
type peers struct {
	box      box
	rejected func(what string)

	mu    sync.Mutex
	known map[string]peer // by field
}

// observe takes what the hash of nodes held at some time before now, and returns what is to be removed from it.
func (p *peers) observe(now time.Time, beats []string) (dead []any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; i+1 < len(beats); i += 2 {
		field, text := beats[i], beats[i+1]
		old, ok := p.known[field]
		if !ok || old.text != text {
			p.heard(now, field, text)
		} else if now.Sub(old.changed) > forgetAfter {
			dead = append(dead, field, text)
		}
	}
	for field, old := range p.known {
		if now.Sub(old.changed) > 2*forgetAfter {
			delete(p.known, field)
		}
	}
	return dead
}

// heard takes one beat. One that is not above the last is a late arrival, or a replay, and no sign of life. The caller
// holds mu.
func (p *peers) heard(now time.Time, field, text string) {
	said, ok := p.box.openBeat(field, text)
	old := p.known[field]
	switch {
	case !ok:
		p.rejected("node")
		// A peer that was genuine stays what it was, until it is silent for long.
		if !old.genuine {
			p.known[field] = peer{text: text, changed: now}
		}
	case !old.genuine || said.seq > old.said.seq:
		p.known[field] = peer{text: text, genuine: true, said: said, changed: now}
	}
}

// late names those that have not applied position, in a look at the hash that began at the time.
func (p *peers) late(position uint64, at time.Time) (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for field, known := range p.known {
		if known.genuine && known.said.applied < position && at.Sub(known.changed) <= forge.Fence+drift {
			name, _, _ := strings.Cut(field, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// highest returns the highest position that any of them has applied.
func (p *peers) highest() (position uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.known {
		if known.genuine {
			position = max(position, known.said.applied)
		}
	}
	return position
}
