package redisdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/bustest"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// TestWeather publishes at three nodes while a server is killed, frozen, flushed and poisoned and nodes are cut off and
// started again, in random order, and looks through all that listeners were told: nothing that was not published, nothing
// out of order, nothing missed without a word, and no time claimed before an event that was not applied.
func TestWeather(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
	var publishers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for i := range w.cast {
		publishers.Go(func() { w.publishAll(ctx, i) })
	}
	for range 40 {
		w.weather()
	}
	w.fair()
	stop()
	publishers.Wait()
	// When all have heard of the present, what is published arrives.
	for range 2 {
		for _, m := range w.cast {
			m.in.WaitFresh()
		}
	}
	end := event("the end")
	for _, m := range w.cast {
		publish(t, m.node, event("%s of %s", end.Why, m.name))
	}
	for _, m := range w.cast {
		for _, other := range w.cast {
			m.in.Until("hears of the end", func() bool { return slices.Contains(m.in.Events(), event("%s of %s", end.Why, other.name)) })
		}
	}
	w.check(end.Why)
}

// member is one of the nodes, which is started again at times. The lock is held while it is.
type member struct {
	name string
	link *redis.Proxy

	mu sync.RWMutex
	*node
}

// attempt is an event that a node has tried to publish.
type attempt struct {
	event      forge.Event
	start, end time.Time
	position   uint64
	done       bool // and Publish says so
}

// world is a gate and its Redis.
type world struct {
	*testing.T
	random *rand.Rand
	server *redis.Server
	cast   []*member

	mu        sync.Mutex
	attempts  []attempt
	recorders []*bustest.Recorder // of all lives of all nodes
}

func newWorld(t *testing.T, random *rand.Rand) *world {
	w := &world{T: t, random: random, server: redis.Start(t, redis.Options{Durable: true})}
	for i := range 3 {
		m := &member{name: fmt.Sprintf("n%d", i), link: redis.StartProxy(t, w.server.Addr)}
		w.revive(m)
		w.cast = append(w.cast, m)
	}
	return w
}

// revive starts a node, without waiting for anything.
func (w *world) revive(m *member) {
	n := &node{in: bustest.NewRecorder(w, m.name), DB: open(w, redisdb.Config{URL: "redis://" + m.link.Addr, Node: m.name})}
	n.stop = n.in.Follow(n.DB)
	m.node = n
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recorders = append(w.recorders, n.in)
}

// publishAll publishes event after event at a node.
func (w *world) publishAll(ctx context.Context, i int) {
	m := w.cast[i]
	for n := 0; ctx.Err() == nil; n++ {
		a := attempt{event: event("%s %d", m.name, n), start: time.Now()}
		m.mu.RLock()
		position, err := m.Publish(context.WithoutCancel(ctx), a.event)
		m.mu.RUnlock()
		a.end, a.position, a.done = time.Now(), position, err == nil
		w.mu.Lock()
		w.attempts = append(w.attempts, a)
		w.mu.Unlock()
		time.Sleep(time.Duration(n%7) * time.Millisecond)
	}
}

// fair ends whatever is wrong.
func (w *world) fair() {
	for _, m := range w.cast {
		m.link.Heal()
	}
	redis.Until(w, "redis answers", func() bool { return w.server.Admin.Ping(w.Context()).Err() == nil })
}

func (w *world) pause(upTo time.Duration) { time.Sleep(time.Duration(w.random.Int64N(int64(upTo)))) }

// weather does one thing that may happen to servers, networks and nodes.
func (w *world) weather() {
	s, m := w.server, w.cast[w.random.IntN(len(w.cast))]
	switch w.random.IntN(12) {
	case 0:
		s.Kill(w)
		if w.random.IntN(2) == 0 {
			s.Wipe(w)
		}
		w.pause(300 * time.Millisecond)
		s.Restart(w)
	case 1:
		s.Freeze(w)
		w.pause(1500 * time.Millisecond)
		s.Thaw(w)
	case 2:
		s.Do(w, "FLUSHALL")
	case 3:
		s.Do(w, "SCRIPT", "FLUSH")
	case 4:
		s.Do(w, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	case 5:
		m.link.Cut()
	case 6:
		m.link.Hold(w.random.IntN(2) == 0, true)
	case 7:
		m.link.Slow(time.Duration(w.random.Int64N(int64(100 * time.Millisecond))))
	case 8:
		m.mu.Lock()
		m.stop()
		w.revive(m)
		m.mu.Unlock()
	case 9:
		s.Admin.Do(w.Context(), "XADD", eventsKey, after(w.lastID(), 1), "e", "nonsense") // another may be quicker
	case 10:
		s.Do(w, "XTRIM", eventsKey, "MAXLEN", w.random.IntN(3))
	case 11:
		s.Do(w, "DEL", nodesKey)
	}
	w.pause(300 * time.Millisecond)
	if w.random.IntN(2) == 0 {
		m.link.Heal()
	}
}

func (w *world) lastID() any {
	all := entries(w, w.server)
	if len(all) == 0 {
		return "1-0"
	}
	return last(all)[0]
}

// check reads what was told against what was done.
func (w *world) check(end string) {
	tried := map[forge.Event]bool{}
	for _, a := range w.attempts {
		tried[a.event] = true
	}
	for _, m := range w.cast {
		tried[event("%s of %s", end, m.name)] = true
	}
	told, losses, heards := 0, 0, 0
	for _, r := range w.recorders {
		words, heard := r.Words(), r.Heards()
		told, losses, heards = told+len(r.Events()), losses+r.Losses(), heards+len(heard)
		for _, word := range words {
			if !word.Lost && !tried[word.Event] {
				w.Errorf("told of %+v, which nobody published", word.Event)
			}
		}
		for _, a := range w.attempts {
			if a.done {
				w.checkOne(a, words, heard)
			}
		}
	}
	w.Logf("%d attempts, %d nodes, told of %d events and %d losses, heard %d times", len(w.attempts), len(w.recorders), told, losses, heards)
	if told == 0 || losses < len(w.recorders)/2 || heards == 0 {
		w.Error("hardly anything happened")
	}
}

// checkOne: a listener that was told anything that came after an event, or of a time after it, was told of the event
// before, or that it has lost something since.
func (w *world) checkOne(a attempt, words []bustest.Word, heard []bustest.Heard) {
	known := len(words) // how many words it took to know
	for i, word := range words {
		if word.Event == a.event || word.Lost && (word.Position >= a.position || !word.When.Before(a.start)) {
			known = i
			break
		}
	}
	for i, word := range words[:known] {
		if !word.Lost && word.Position > a.position {
			w.Errorf("word %d is of %q at %d, and %q at %d was not applied", i, word.Event.Why, word.Position, a.event.Why, a.position)
			break
		}
	}
	for _, h := range heard {
		if h.At.After(a.end) && h.Words <= known {
			w.Errorf("heard of a time %v after %q was published, and had not applied it", h.At.Sub(a.end), a.event.Why)
			break
		}
	}
}
