package bustest_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/bustest"
)

// TestSuite: the suite passes on nodes that share a process, so it asks for nothing that Redis alone does.
func TestSuite(t *testing.T) {
	open := func(*testing.T) bustest.Gate {
		g := &gate{nodes: map[string]*node{}, values: map[string]value{}}
		return func(name string) bustest.Node {
			return bustest.Node{Bus: &node{gate: g, name: name, wake: make(chan struct{}, 1)}, Shared: g}
		}
	}
	bustest.Run(t, open)
	bustest.RunShared(t, open)
}

// gate is all that the nodes share.
type gate struct {
	mu     sync.Mutex
	events []forge.Event    // the first has position 1
	nodes  map[string]*node // that run, or did a Fence ago
	values map[string]value
}

type value struct {
	text     []byte
	notAfter time.Time
}

func (g *gate) Get(_ context.Context, key string) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.values[key]; ok && time.Now().Before(v.notAfter) {
		return v.text, nil
	}
	return nil, nil
}

func (g *gate) Put(_ context.Context, key string, text []byte, notAfter time.Time) error {
	if len(text) > 1<<20 {
		return errors.New("too long")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.values[key] = value{append([]byte{}, text...), notAfter}
	return nil
}

// node is one listener's view. gate.mu guards it.
type node struct {
	*gate
	name    string
	wake    chan struct{}
	started bool
	applied int
	heard   time.Time
}

func (n *node) Publish(ctx context.Context, e forge.Event) (uint64, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	for _, other := range n.nodes {
		select {
		case other.wake <- struct{}{}:
		default:
		}
	}
	return uint64(len(n.events)), nil
}

func (n *node) Await(ctx context.Context, position uint64) ([]string, error) {
	for {
		late := n.late(int(position))
		if len(late) == 0 || ctx.Err() != nil {
			return late, nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *node) late(position int) (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, other := range n.nodes {
		if other.applied < position && time.Since(other.heard) <= forge.Fence {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (n *node) Run(ctx context.Context, l forge.Listener) error {
	n.mu.Lock()
	if n.started {
		n.mu.Unlock()
		return errors.New("runs already")
	}
	n.started, n.applied, n.heard, n.nodes[n.name] = true, len(n.events), time.Now(), n
	l.Lost(uint64(n.applied))
	n.mu.Unlock()
	tick := time.NewTicker(forge.Fence / 8)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.tell(l)
		select {
		case <-ctx.Done():
		case <-n.wake:
		case <-tick.C:
		}
	}
	return ctx.Err()
}

// tell is called by Run alone.
func (n *node) tell(l forge.Listener) {
	n.mu.Lock()
	at, from, news := time.Now(), n.applied, slices.Clone(n.events[n.applied:])
	n.heard = at
	n.mu.Unlock()
	for i, e := range news {
		l.Apply(uint64(from+i+1), e)
	}
	l.Heard(at)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied = from + len(news)
}
