package forge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// truth is a forge in memory whose administrator is the test, and whose answers may be slow.
type truth struct {
	mu      sync.Mutex // guards what follows
	reads   map[[2]string]bool
	users   map[string]User
	keys    map[string]string
	calls   int
	asked   [][]Repo
	slow    time.Duration // between reading the truth and answering
	failing error
	hold    chan struct{} // when set, answers wait until it is closed
	forgot  []Event
}

func newTruth() *truth {
	return &truth{reads: map[[2]string]bool{}, users: map[string]User{}, keys: map[string]string{}}
}

func (w *truth) set(user, repo string, may bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads[[2]string{user, repo}] = may
}

func (w *truth) may(user, repo string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reads[[2]string{user, repo}]
}

func (w *truth) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// Access reads the truth first and answers later, as a forge does whose answer is overtaken on its way.
func (w *truth) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	w.mu.Lock()
	w.calls++
	w.asked = append(w.asked, repos)
	at := time.Now()
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(time.Hour), Origin: "truth"}
		if w.reads[[2]string{p.ID, r.ID}] {
			facts[i].Access = Read
		}
	}
	slow, failing, hold := w.slow, w.failing, w.hold
	w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if failing != nil {
		return nil, failing
	}
	return facts, nil
}

func (w *truth) User(_ context.Context, id string) (User, error) { return w.user(id) }

func (w *truth) user(id string) (User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.failing != nil {
		return User{}, w.failing
	}
	u, ok := w.users[id]
	if !ok {
		return User{}, fmt.Errorf("user %q: %w", id, ErrNoUser)
	}
	return u, nil
}

func (w *truth) UserByName(_ context.Context, name string) (User, error) { return w.user(name) }

func (w *truth) KeyOwner(_ context.Context, fingerprint string) (User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	id, ok := w.keys[fingerprint]
	if !ok {
		return User{}, ErrNoUser
	}
	return w.users[id], nil
}

func (w *truth) Forget(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgot = append(w.forgot, e)
}

const theForge = "git.example.com"

func aRepo(id string) Repo { return Repo{Forge: theForge, ID: id} }

func aUser(id string) authn.Principal {
	return authn.Principal{Forge: theForge, ID: id, Name: id, Kind: authn.Human}
}

// node is one gate's memory over a truth.
type node struct {
	*testing.T
	hub     *Hub
	cache   *Cache
	changed []string
	mu      sync.Mutex // guards changed
}

func newNode(t *testing.T, w Provider, bus Bus, shared Shared) *node {
	t.Helper()
	n := &node{T: t}
	n.hub = NewHub(HubConfig{Bus: bus, Forget: []func(Event){func(e Event) { n.cache.Forget(e) }}})
	var err error
	n.cache, err = NewCache(CacheConfig{Name: theForge, Provider: w, Hub: n.hub, Shared: shared, Changed: func(_, user string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.changed = append(n.changed, user)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ask returns what the cache says of one repository; Unknown when it says nothing.
func (n *node) ask(ctx context.Context, user, repo string) Access {
	facts, err := n.cache.Access(ctx, aUser(user), []Repo{aRepo(repo)})
	if err != nil {
		return Unknown
	}
	if err := CheckFacts([]Repo{aRepo(repo)}, facts); err != nil {
		n.Error(err)
		return Unknown
	}
	return facts[0].Access
}

func (n *node) want(user, repo string, want Access) {
	n.Helper()
	if got := n.ask(n.Context(), user, repo); got != want {
		n.Errorf("%s may read %s: %s, want %s", user, repo, got, want)
	}
}

func (n *node) tell(e Event) {
	n.Helper()
	if _, err := n.hub.Tell(n.Context(), e); err != nil {
		n.Fatal(err)
	}
}

// wire is a bus in memory that can be cut.
type wire struct {
	mu       sync.Mutex // guards what follows
	position uint64
	log      []Event
	cut      map[*wireNode]bool
	nodes    []*wireNode
}

// wireNode is one node's end of a wire.
type wireNode struct {
	wire *wire
	read int // of the log
}

func newWire() *wire { return &wire{cut: map[*wireNode]bool{}} }

func (w *wire) node() *wireNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := &wireNode{wire: w}
	w.nodes = append(w.nodes, n)
	return n
}

func (w *wire) setCut(n *wireNode, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[n] = cut
}

var errCut = errors.New("the wire is cut")

func (n *wireNode) Publish(_ context.Context, e Event) (uint64, error) {
	w := n.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut[n] {
		return 0, errCut
	}
	w.position++
	w.log = append(w.log, e)
	return w.position, nil
}

func (n *wireNode) Await(ctx context.Context, position uint64) ([]string, error) { return nil, nil }

func (n *wireNode) Run(ctx context.Context, l Listener) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		at := time.Now()
		w := n.wire
		w.mu.Lock()
		cut, news := w.cut[n], w.log[n.read:]
		w.mu.Unlock()
		if cut {
			continue
		}
		for _, e := range news {
			n.read++
			l.Apply(uint64(n.read), e)
		}
		l.Heard(at)
	}
}

// shelf is a second level in memory.
type shelf struct {
	mu     sync.Mutex // guards values
	values map[string][]byte
}

func (s *shelf) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], nil
}

func (s *shelf) Put(_ context.Context, key string, value []byte, _ time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = value
	return nil
}
