package forge

import (
	"context"
	"sync"
	"time"
)

const (
	// calm is how long equal events are gathered: the first is told at once, and all others together, at the end.
	calm = 250 * time.Millisecond
	// maxGathered bounds the events that are remembered for that.
	maxGathered = 10_000
)

// gatherer takes the force out of storms of equal events.
type gatherer struct {
	mu   sync.Mutex // guards told
	told map[Event]*gathered
}

// gathered is when an event was last told, and the telling that others wait for.
type gathered struct {
	last time.Time
	next *telling
}

// telling is one event that is told for several.
type telling struct {
	done     chan struct{} // closed once what follows is there
	position uint64
	err      error
}

// tell calls now for e at once, or joins those whose event is told a moment later.
func (g *gatherer) tell(ctx context.Context, e Event, clock func() time.Time, now func(context.Context, Event) (uint64, error)) (uint64, error) {
	key := e
	key.Why, key.At = "", time.Time{}
	g.mu.Lock()
	s := g.slot(key, clock())
	quiet := clock().Sub(s.last)
	if s.next == nil && quiet >= calm {
		s.last = clock()
		g.mu.Unlock()
		return now(ctx, e)
	}
	if s.next == nil {
		t := &telling{done: make(chan struct{})}
		s.next = t
		time.AfterFunc(max(calm-quiet, 0), func() {
			g.mu.Lock()
			s.next, s.last = nil, clock()
			g.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Fence)
			defer cancel()
			t.position, t.err = now(ctx, e)
			close(t.done)
		})
	}
	t := s.next
	g.mu.Unlock()
	select {
	case <-t.done:
		return t.position, t.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// slot returns what is known of an event. The caller holds mu.
func (g *gatherer) slot(key Event, now time.Time) *gathered {
	if g.told == nil {
		g.told = make(map[Event]*gathered)
	}
	if s := g.told[key]; s != nil {
		return s
	}
	if len(g.told) >= maxGathered {
		for k, s := range g.told {
			if s.next == nil && now.Sub(s.last) > calm {
				delete(g.told, k)
			}
		}
	}
	s := &gathered{}
	g.told[key] = s
	return s
}
