package redisdb

import (
	"context"
	"log/slog"
	"sync"

	"github.com/lychgate/lychgate/authz/forge"
)

// batch is how many entries one look takes.
const batch = 256

// history is what all parts of a node know of the stream.
type history struct {
	mu      sync.Mutex
	last    place  // where the next event goes, as far as known
	highest uint64 // the highest position that a node of this gate is known to have written
}

// floor returns the position that the stream has reached before now: one that ends below it has lost something. It is
// asked for before the stream is.
func (h *history) floor() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.highest
}

func (h *history) end() place {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// reached notes an authentic last entry.
func (h *history) reached(p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.position >= h.highest {
		h.last, h.highest = p, p.position
	}
}

// outlook is what a follower makes of an answer.
type outlook uint8

const (
	behind outlook = iota // there is more to read
	level                 // the listener knows all that there was
	broken                // the stream holds nothing to go on with: it is to be begun anew
)

// answer is what syncScript returned.
type answer struct {
	server   string
	id, text string   // of the last entry
	entries  []string // ID and text by turns
	beats    []string // field and text by turns
}

// follower tells a listener what the stream holds. It does no I/O: it is given answers, in the order in which they were
// asked for, and is for one goroutine.
//
// It goes on from an entry only to the one that names it as the one before. Wherever that fails, the listener has lost
// something, and goes on from the last entry, if that is authentic: publishers put nothing behind one that is not.
type follower struct {
	box      box
	listener forge.Listener
	history  *history
	rejected func(what string)
	log      *slog.Logger

	at     place
	server string // empty until the listener was told anything
}

// take tells the listener what is new. floor is the history's from before the question.
func (f *follower) take(ctx context.Context, floor uint64, a answer) outlook {
	head, ok := f.box.openEntry(a.id, a.text)
	switch {
	case !ok && a.id == "":
		f.log.WarnContext(ctx, "redis holds no events: beginning anew")
		return broken
	case !ok:
		f.reject(ctx, "event", "the last event in redis was not written by a node with our key: beginning anew")
		return broken
	case head.position < floor:
		f.reject(ctx, "order", "redis has gone back to an earlier state: beginning anew")
		return broken
	}
	f.history.reached(head.place)
	switch {
	case f.server == "":
		f.lost(ctx, a.server, head.place, "first contact")
	case f.server != a.server:
		f.lost(ctx, a.server, head.place, "another server, or one that was restarted")
	case f.at.life != head.life:
		f.lost(ctx, a.server, head.place, "the stream was begun anew")
	default:
		return f.walk(ctx, a, head.place)
	}
	return level
}

// walk applies the entries of an answer one after the other.
func (f *follower) walk(ctx context.Context, a answer, head place) outlook {
	for i := 0; i+1 < len(a.entries); i += 2 {
		e, ok := f.box.openEntry(a.entries[i], a.entries[i+1])
		if !ok {
			f.reject(ctx, "event", "an event in redis was not written by a node with our key")
			f.lost(ctx, a.server, head, "an event that is not authentic")
			return level
		}
		if e.position != f.at.position+1 || e.prev != f.at.tag || e.life != f.at.life {
			f.reject(ctx, "order", "an event in redis does not follow the one before")
			f.lost(ctx, a.server, head, "events are missing")
			return level
		}
		f.listener.Apply(e.position, e.event)
		f.at = e.place
	}
	switch {
	case f.at == head:
		return level
	case len(a.entries) == 2*batch:
		return behind
	}
	f.reject(ctx, "order", "the last event in redis is not the one that was read")
	f.lost(ctx, a.server, head, "the last event was replaced")
	return level
}

// lost tells the listener that whatever led to head may have been missed.
func (f *follower) lost(ctx context.Context, server string, head place, why string) {
	f.log.InfoContext(ctx, "events may have been missed: nothing learnt before is trusted", "why", why, "position", head.position)
	f.listener.Lost(head.position)
	f.at, f.server = head, server
}

func (f *follower) reject(ctx context.Context, what, message string) {
	f.log.ErrorContext(ctx, message)
	f.rejected(what)
}
