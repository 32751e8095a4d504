package forge

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// history is what was true when, and which revocations were signalled.
type history struct {
	*truth
	changes map[[2]string][]change
}

type change struct {
	at     time.Time
	may    bool
	signal time.Time // when a node was told; zero while none was
	node   int       // which one
}

func (h *history) change(user, repo string, may bool) {
	h.set(user, repo, may)
	k := [2]string{user, repo}
	h.changes[k] = append(h.changes[k], change{at: time.Now(), may: may})
}

// signalled notes that a node was told of what changed up to now.
func (h *history) signalled(node int, concerns func(user, repo string) bool) {
	for k, list := range h.changes {
		for i := range list {
			if concerns(k[0], k[1]) && list[i].signal.IsZero() {
				list[i].signal, list[i].node = time.Now(), node
			}
		}
	}
}

// mayAllow says why the promise forbids a node to say yes now: the right was never there, or was withdrawn so long ago that
// the limit for its kind has passed. The node that was told has no time at all.
func (h *history) mayAllow(node int, user, repo string) error {
	list := h.changes[[2]string{user, repo}]
	if !slices.ContainsFunc(list, func(c change) bool { return c.may }) {
		return errors.New("it was never granted")
	}
	last := list[len(list)-1]
	if last.may {
		return nil
	}
	if age := time.Since(last.at); age > hardLimit {
		return fmt.Errorf("withdrawn %s ago", age)
	}
	if age := time.Since(last.signal); !last.signal.IsZero() && (node == last.node || age > Fence) {
		return fmt.Errorf("withdrawn %s ago, and signalled at node %d %s ago", time.Since(last.at), last.node, age)
	}
	return nil
}

// TestPromise: whatever the order of answers, events, cuts of the bus, restarts and the passing of time, no node allows what
// the freshness promise forbids, and once all is quiet every node knows the truth.
func TestPromise(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		// The plan is drawn first: what happens in a bubble must not depend on anything outside it.
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 30, 80).Draw(rt, "steps")
		withBus := rapid.Bool().Draw(rt, "bus")
		synctest.Test(t, func(t *testing.T) {
			if err := play(t, steps, withBus); err != nil {
				rt.Fatal(err)
			}
		})
	})
}

// step is one thing that happens.
type step struct {
	what       string
	user, repo string
	node       int
	wait       time.Duration
}

func drawStep(t *rapid.T) step {
	return step{
		what: rapid.SampledFrom([]string{
			"grant", "grant", "withdraw", "revoke", "revoke", "apart", "apart", "ask", "ask", "ask", "ask", "ask", "ask later", "event user", "event repo", "event all",
			"wait", "wait", "wait", "slow", "fast", "fail", "heal", "cut", "mend", "restart",
		}).Draw(t, "what"),
		user: rapid.SampledFrom([]string{"alice", "alice", "alice", "bob"}).Draw(t, "user"),
		repo: rapid.SampledFrom([]string{"1", "1", "1", "2"}).Draw(t, "repo"),
		node: rapid.IntRange(0, 1).Draw(t, "node"),
		wait: time.Duration(rapid.SampledFrom([]int{1, 100, 1000, 1900, 2500, 9000, 11_000, 59_000, 70_000, 299_000, 301_000}).Draw(t, "wait")) * time.Millisecond,
	}
}

// stage is where a plan is played.
type stage struct {
	*testing.T
	*history
	bus    *wire
	shared *shelf
	nodes  []*node
	ends   []*wireNode
	later  sync.WaitGroup
	mu     sync.Mutex // guards err
	err    error
}

func (s *stage) start(i int) {
	var bus Bus
	if s.bus != nil {
		s.ends[i] = s.bus.node()
		bus = s.ends[i]
	}
	s.nodes[i] = newNode(s.T, s.truth, bus, s.shared)
	if bus != nil {
		joined(s.T, s.nodes[i])
	}
}

// ask asks, and judges a yes by what was true when the question was put: the answer may take a while.
func (s *stage) ask(i int, p step) {
	if got := s.nodes[i].ask(s.Context(), p.user, p.repo); got == Read {
		s.verdict(i, p)
	}
}

func (s *stage) verdict(i int, p step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayAllow(i, p.user, p.repo); err != nil && s.err == nil {
		s.err = fmt.Errorf("node %d allows %s to read %s: %w", i, p.user, p.repo, err)
	}
}

func play(t *testing.T, steps []step, withBus bool) error {
	s := &stage{T: t, history: &history{newTruth(), map[[2]string][]change{}}, nodes: make([]*node, 1)}
	if withBus {
		s.bus, s.shared = newWire(), &shelf{values: map[string][]byte{}}
		s.nodes, s.ends = make([]*node, 2), make([]*wireNode, 2)
	}
	for i := range s.nodes {
		s.start(i)
	}
	time.Sleep(time.Second)
	for _, p := range steps {
		s.step(p)
		if s.err != nil {
			return s.err
		}
	}
	s.later.Wait()
	return s.quiet()
}

func (s *stage) step(p step) {
	i := p.node % len(s.nodes)
	switch p.what {
	case "grant", "withdraw":
		s.mu.Lock()
		s.change(p.user, p.repo, p.what == "grant")
		s.mu.Unlock()
	case "apart": // a node that has just used a right is cut off, and another hears of the revocation
		other := (i + 1) % len(s.nodes)
		for _, what := range []string{"grant", "ask", "cut"} {
			s.step(step{what: what, user: p.user, repo: p.repo, node: other})
		}
		p.what = "revoke"
		s.step(p)
	case "revoke":
		s.step(step{what: "withdraw", user: p.user, repo: p.repo})
		p.what = []string{"event user", "event repo", "event all"}[int(p.wait)%3]
		s.step(p)
	case "ask":
		s.ask(i, p)
	case "ask later":
		s.later.Go(func() { s.ask(i, p) })
		synctest.Wait()
	case "event user":
		s.tell(i, Event{Forge: theForge, User: p.user}, func(user, _ string) bool { return user == p.user })
	case "event repo":
		s.tell(i, Event{Forge: theForge, Repo: p.repo}, func(_, repo string) bool { return repo == p.repo })
	case "event all":
		s.tell(i, Event{}, func(_, _ string) bool { return true })
	case "wait":
		time.Sleep(p.wait)
	case "slow", "fast", "fail", "heal":
		s.weather(p.what)
	case "cut", "mend":
		if s.bus != nil {
			s.bus.setCut(s.ends[i], p.what == "cut")
		}
	case "restart":
		s.start(i)
	}
}

func (s *stage) weather(what string) {
	s.truth.mu.Lock()
	defer s.truth.mu.Unlock()
	switch what {
	case "slow":
		s.slow = 3 * time.Second
	case "fast":
		s.slow = 0
	case "fail":
		s.failing = errCut
	case "heal":
		s.failing = nil
	}
}

// tell tells a node, which must know at once. One that cannot tell the others says so, and the promise is about an event
// that was taken.
func (s *stage) tell(i int, e Event, concerns func(user, repo string) bool) {
	if _, err := s.nodes[i].hub.Tell(s.Context(), e); err == nil {
		s.mu.Lock()
		s.signalled(i, concerns)
		s.mu.Unlock()
	}
}

// quiet waits until everything must be known, and compares.
func (s *stage) quiet() error {
	s.weather("fast")
	s.weather("heal")
	for i := range s.ends {
		s.bus.setCut(s.ends[i], false)
	}
	time.Sleep(hardLimit + 10*time.Second)
	for i, n := range s.nodes {
		for _, user := range []string{"alice", "bob"} {
			for _, repo := range []string{"1", "2"} {
				want := None
				if s.may(user, repo) {
					want = Read
				}
				if got := n.ask(s.Context(), user, repo); got != want {
					return fmt.Errorf("at the end, node %d says %s of %s and %s, want %s", i, got, user, repo, want)
				}
			}
		}
	}
	return s.err
}
