package redisdb_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

const (
	eventsKey = "{lychgate}:events"
	nodesKey  = "{lychgate}:nodes"
)

// pair starts two nodes of one gate.
func pair(t testing.TB, url string) (a, b *node) {
	t.Helper()
	return start(t, redisdb.Config{URL: url, Node: "a"}), start(t, redisdb.Config{URL: url, Node: "b"})
}

// losing does what makes nodes lose events, and waits until each was told so.
func losing(t testing.TB, nodes []*node, fault func()) {
	t.Helper()
	before := map[*node]int{}
	for _, n := range nodes {
		before[n] = n.in.Losses()
	}
	fault()
	for _, n := range nodes {
		n.in.Until("has lost something", func() bool { return n.in.Losses() > before[n] })
	}
}

// TestKilled: after a server was killed nodes trust nothing they knew, with its data or without, for the last writes may
// be missing either way.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			t.Parallel()
			s := redis.Start(t, redis.Options{Durable: durable})
			a, b := pair(t, s.URL())
			tell(t, event("before"), a, b)
			losing(t, []*node{a, b}, func() {
				s.Kill(t)
				if position, err := a.Publish(t.Context(), event("lost")); err == nil {
					t.Errorf("published at %d", position)
				}
				s.Restart(t)
			})
			tell(t, event("after"), b, a)
			if stored := s.Do(t, "XLEN", eventsKey).(int64); (stored > 3) != durable && stored < 2 {
				t.Errorf("the stream holds %d entries", stored)
			}
		})
	}
}

// TestFrozen: a server that stops answers nobody, for nobody long, and nobody hears of the present. What was known
// before is continued after it.
func TestFrozen(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	a, b := pair(t, s.URL())
	tell(t, event("before"), a, b)
	position := publish(t, a, event("seen"))
	if late, err := a.Await(t.Context(), position); len(late) > 0 || err != nil {
		t.Fatalf("late: %v, %v", late, err)
	}
	losses := b.in.Losses()
	s.Freeze(t)
	frozen := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := a.Await(ctx, position+1); err == nil || ctx.Err() == nil {
		t.Errorf("awaited what nobody can know of: %v", err)
	}
	if _, err := a.Publish(t.Context(), event("frozen")); err == nil {
		t.Error("published on a server that does not answer")
	}
	for range 5 {
		if _, err := a.Get(t.Context(), "k"); err == nil {
			t.Error("found something on a server that does not answer")
		}
	}
	for _, n := range []*node{a, b} {
		if at := n.in.Fresh(); at.After(frozen) {
			t.Errorf("heard of %v after the server was frozen", at.Sub(frozen))
		}
	}
	s.Thaw(t)
	b.in.WaitFresh()
	tell(t, event("after"), a, b)
	if b.in.Losses() != losses {
		t.Error("lost something, and nothing was")
	}
}

// TestFlushed: what was stored is gone, and is missed by nobody unawares.
func TestFlushed(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	a, b := pair(t, s.URL())
	tell(t, event("before"), a, b)
	for i := range 5 {
		losing(t, []*node{a, b}, func() { s.Do(t, "FLUSHALL") })
		tell(t, event("after %d", i), a, b)
		s.Do(t, "SCRIPT", "FLUSH")
		tell(t, event("without scripts %d", i), b, a)
	}
}

// TestCut: a node that is cut off, in whatever way, does not hear of the present; the others wait for it as long as it
// may trust what it knows, and no longer; and it continues where it was.
func TestCut(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*redis.Proxy){
		"cut":       (*redis.Proxy).Cut,
		"held":      func(p *redis.Proxy) { p.Hold(true, true) },
		"held up":   func(p *redis.Proxy) { p.Hold(true, false) },
		"held down": func(p *redis.Proxy) { p.Hold(false, true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redis.Start(t, redis.Options{})
			link := redis.StartProxy(t, s.Addr)
			a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
			b := start(t, redisdb.Config{URL: "redis://" + link.Addr, Node: "b"})
			tell(t, event("before"), a, b)
			losses := b.in.Losses()
			fault(link)
			e := event("during")
			position := publish(t, a, e)
			late, err := a.Await(t.Context(), position)
			if fresh := b.in.Fresh(); len(late) > 0 || err != nil || time.Since(fresh) < forge.Fence {
				t.Errorf("late: %v, %v; b has heard of %v ago", late, err, time.Since(fresh))
			}
			if slices.Contains(b.in.Events(), e) {
				t.Error("b was told of it")
			}
			link.Heal()
			b.in.WaitFor(e)
			b.in.WaitFresh()
			tell(t, event("after"), b, a)
			if b.in.Losses() != losses {
				t.Error("b lost something, and nothing was")
			}
		})
	}
}

// TestSlow: over a slow network nodes hear of events and of the present, and leave values alone.
func TestSlow(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	link := redis.StartProxy(t, s.Addr)
	a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
	b := start(t, redisdb.Config{URL: "redis://" + link.Addr, Node: "b"})
	link.Slow(150 * time.Millisecond)
	tell(t, event("slow"), a, b)
	b.in.WaitFresh()
	failed := 0
	for range 1000 {
		if _, err := b.Get(t.Context(), "k"); err != nil {
			failed++
		}
	}
	if failed != 1000 {
		t.Errorf("%d of 1000 looks failed over a network that is slower than they may be", failed)
	}
	link.Heal()
	redis.Until(t, "values are looked at again", func() bool {
		_, err := b.Get(t.Context(), "k")
		return err == nil
	})
}

// TestFallenOff: a node that was away for longer than the stream remembers has lost something.
func TestFallenOff(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	link := redis.StartProxy(t, s.Addr)
	a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
	b := start(t, redisdb.Config{URL: "redis://" + link.Addr, Node: "b"})
	tell(t, event("before"), a, b)
	losing(t, []*node{b}, func() {
		link.Cut()
		for i := range 10 {
			tell(t, event("missed %d", i), a)
		}
		s.Do(t, "XTRIM", eventsKey, "MAXLEN", "2")
		link.Heal()
	})
	tell(t, event("after"), a, b)
	if got := b.in.Events(); slices.Contains(got, event("missed 0")) || a.in.Losses() != 1 {
		t.Errorf("told of %v; the other lost %d times", got, a.in.Losses())
	}
}

// TestBacklog: a node that was away for less is told of everything, however much it is.
func TestBacklog(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	link := redis.StartProxy(t, s.Addr)
	a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
	b := start(t, redisdb.Config{URL: "redis://" + link.Addr, Node: "b"})
	link.Cut()
	const n = 1000
	for i := range n {
		publish(t, a, event("backlog %d", i))
	}
	link.Heal()
	b.in.Until("hears of all", func() bool { return len(b.in.Events()) == n })
	if b.in.Losses() != 1 {
		t.Errorf("lost %d times", b.in.Losses())
	}
}

// entries returns the stream as "id" and fields.
func entries(t testing.TB, s *redis.Server) (all [][]any) {
	t.Helper()
	for _, e := range s.Do(t, "XRANGE", eventsKey, "-", "+").([]any) {
		parts := e.([]any)
		all = append(all, append([]any{parts[0]}, parts[1].([]any)...))
	}
	return all
}

func after(id any, by uint64) string {
	var position uint64
	fmt.Sscanf(id.(string), "%d-0", &position)
	return fmt.Sprintf("%d-0", position+by)
}

// TestPoisoned: whoever may write to Redis can make nodes lose what they know. Nothing that was not published is applied,
// nothing twice, nothing in another order, and the gate recovers by itself.
func TestPoisoned(t *testing.T) {
	t.Parallel()
	add := func(t *testing.T, s *redis.Server, id any, fields ...any) {
		s.Do(t, append([]any{"XADD", eventsKey, id}, fields...)...)
	}
	// again makes the stream anew of some entries.
	again := func(t *testing.T, s *redis.Server, all [][]any) {
		s.Do(t, "DEL", eventsKey)
		for _, e := range all {
			add(t, s, e[0], e[1:]...)
		}
	}
	other := redis.Start(t, redis.Options{})
	tell(t, event("another gate's"), start(t, redisdb.Config{URL: other.URL(), Key: bytes.Repeat([]byte("k"), 32)}))
	elsewhere := redis.Start(t, redis.Options{})
	tell(t, event("another life's"), start(t, redisdb.Config{URL: elsewhere.URL()}))

	type attack func(t *testing.T, s *redis.Server, all [][]any)
	for name, poison := range map[string]attack{
		"forged": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, after(last(all)[0], 1), "e", strings.Repeat("x", 200))
		},
		"short":               func(t *testing.T, s *redis.Server, all [][]any) { add(t, s, after(last(all)[0], 1), "e", "x") },
		"empty":               func(t *testing.T, s *redis.Server, all [][]any) { add(t, s, after(last(all)[0], 1), "e", "") },
		"twice":               func(t *testing.T, s *redis.Server, all [][]any) { add(t, s, after(last(all)[0], 1), last(all)[1:]...) },
		"at a later position": func(t *testing.T, s *redis.Server, all [][]any) { add(t, s, after(last(all)[0], 7), last(all)[1:]...) },
		"another gate's": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, after(last(all)[0], 1), last(entries(t, other))[1:]...)
		},
		"another life's": func(t *testing.T, s *redis.Server, all [][]any) {
			e := last(entries(t, elsewhere))
			s.Do(t, "DEL", eventsKey)
			add(t, s, e[0], e[1:]...)
		},
		"a bit flipped": func(t *testing.T, s *redis.Server, all [][]any) {
			text := []byte(last(all)[2].(string))
			text[len(text)/2] ^= 1
			again(t, s, append(all[:len(all)-1:len(all)-1], []any{last(all)[0], "e", text}))
		},
		"swapped": func(t *testing.T, s *redis.Server, all [][]any) {
			n := len(all)
			all[n-1][2], all[n-2][2] = all[n-2][2], all[n-1][2]
			again(t, s, all)
		},
		"put back":     func(t *testing.T, s *redis.Server, all [][]any) { again(t, s, all[:len(all)-2]) },
		"last removed": func(t *testing.T, s *redis.Server, all [][]any) { s.Do(t, "XDEL", eventsKey, last(all)[0]) },
		"emptied":      func(t *testing.T, s *redis.Server, _ [][]any) { s.Do(t, "XTRIM", eventsKey, "MAXLEN", "0") },
		"removed":      func(t *testing.T, s *redis.Server, _ [][]any) { s.Do(t, "DEL", eventsKey) },
		"another type": func(t *testing.T, s *redis.Server, _ [][]any) { s.Do(t, "SET", eventsKey, "x") },
		"other fields": func(t *testing.T, s *redis.Server, all [][]any) { add(t, s, after(last(all)[0], 1), "f", last(all)[2]) },
		"more fields": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, after(last(all)[0], 1), "e", last(all)[2], "e", last(all)[2])
		},
		"huge": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, after(last(all)[0], 1), "e", strings.Repeat("x", 4<<20))
		},
		"another ID": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, strings.TrimSuffix(last(all)[0].(string), "0")+"1", last(all)[1:]...)
		},
		"the highest ID": func(t *testing.T, s *redis.Server, all [][]any) {
			add(t, s, "18446744073709551615-18446744073709551615", last(all)[1:]...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redis.Start(t, redis.Options{})
			a, b := pair(t, s.URL())
			for i := range 4 {
				tell(t, event("before %d", i), a, b)
			}
			losing(t, []*node{a, b}, func() { poison(t, s, entries(t, s)) })
			tell(t, event("after"), a, b)
			want := []forge.Event{event("before 0"), event("before 1"), event("before 2"), event("before 3"), event("after")}
			for _, n := range []*node{a, b} {
				if got := n.in.Events(); !slices.Equal(got, want) {
					t.Errorf("told of %v", got)
				}
			}
			gone := []string{"emptied", "removed", "another type"}
			if n := a.rejected.of("event", "order") + b.rejected.of("event", "order"); n == 0 && !slices.Contains(gone, name) {
				t.Error("nothing was reported as rejected")
			}
		})
	}
}

// TestRestored: a backup was put back, and a node that knows nothing of what came after it has published on, until the
// stream was longer than before. The others notice that it is not the one that they have read.
func TestRestored(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3, 5} { // the stream is shorter, as long, and longer than before
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := redis.Start(t, redis.Options{})
			link := redis.StartProxy(t, s.Addr)
			a, b := pair(t, "redis://"+link.Addr)
			tell(t, event("kept"), a, b)
			backup := s.Do(t, "DUMP", eventsKey)
			for i := range 3 {
				tell(t, event("not kept %d", i), a, b)
			}
			losing(t, []*node{a, b}, func() {
				link.Cut()
				s.Do(t, "RESTORE", eventsKey, 0, backup, "REPLACE")
				forgetful := open(t, redisdb.Config{URL: s.URL(), Node: "forgetful"})
				for i := range n {
					if _, err := forgetful.Publish(t.Context(), event("on the backup %d", i)); err != nil {
						t.Fatal(err)
					}
				}
				link.Heal()
			})
			tell(t, event("after"), a, b)
		})
	}
}

func last(all [][]any) []any { return all[len(all)-1] }

// TestPoisonedNodes: beats that no node wrote make no node look alive, or up to date.
func TestPoisonedNodes(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	link := redis.StartProxy(t, s.Addr)
	a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
	b := start(t, redisdb.Config{URL: "redis://" + link.Addr, Node: "b"})
	tell(t, event("before"), a, b)
	field := func(name string) string {
		for _, f := range s.Do(t, "HKEYS", nodesKey).([]any) {
			if strings.HasPrefix(f.(string), name+"/") {
				return f.(string)
			}
		}
		t.Fatalf("%s does not beat", name)
		return ""
	}
	old := s.Do(t, "HGET", nodesKey, field("b"))
	link.Hold(true, true)
	position := publish(t, a, event("during"))
	// While b is cut off, somebody says for it what a says, what it said long ago, and nonsense.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			said := []any{s.Admin.HGet(context.Background(), nodesKey, field("a")).Val(), old, "nonsense", strings.Repeat("x", 1<<20)}[i%4]
			s.Admin.HSet(context.Background(), nodesKey, field("b"), said)
		}
	}()
	late, err := a.Await(t.Context(), position)
	close(stop)
	<-stopped
	if fresh := b.in.Fresh(); len(late) > 0 || err != nil || time.Since(fresh) < forge.Fence {
		t.Errorf("late: %v, %v; b has heard of %v ago", late, err, time.Since(fresh))
	}
	if a.rejected.of("node") == 0 {
		t.Error("nothing was reported as rejected")
	}
	link.Heal()
	b.in.WaitFor(event("during"))
	for _, spoil := range [][]any{{"SET", nodesKey, "x"}, {"DEL", nodesKey}} {
		s.Do(t, "DEL", nodesKey)
		s.Do(t, spoil...)
		tell(t, event("%v", spoil), a, b)
		a.in.WaitFresh()
	}
	many := []any{"HSET", nodesKey}
	for i := range 5000 {
		many = append(many, fmt.Sprintf("x/%d", i), "x")
	}
	s.Do(t, many...)
	a.in.WaitFresh()
	if n := s.Do(t, "HLEN", nodesKey).(int64); n > 10 {
		t.Errorf("the hash of nodes holds %d fields", n)
	}
}

// TestPoisonedValues: what no node has put under a key for now is not there.
func TestPoisonedValues(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	var ahead atomic.Int64
	cfg := redisdb.Config{URL: s.URL(), Node: "a", Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}
	a := &node{rejected: new(counts)}
	cfg.Rejected = a.rejected.add
	a.DB = open(t, cfg)
	b := start(t, redisdb.Config{URL: s.URL(), Node: "b"})
	in := newLax(t, a.DB)
	in.waitFresh()

	value := []byte("the value")
	put := func(key string, notAfter time.Time) (name string) {
		before := s.Do(t, "KEYS", "{lychgate}:v:*").([]any)
		if err := a.Put(t.Context(), key, value, notAfter); err != nil {
			t.Fatal(err)
		}
		for _, name := range s.Do(t, "KEYS", "{lychgate}:v:*").([]any) {
			if !slices.Contains(before, name) {
				return name.(string)
			}
		}
		t.Fatal("nothing was put")
		return ""
	}
	hour := cfg.Now().Add(time.Hour)
	name, other := put("alice", hour), put("mallory", hour)
	genuine := s.Do(t, "GET", name).(string)
	if strings.Contains(genuine, string(value)) || strings.Contains(name, "alice") {
		t.Error("Redis can read what it holds")
	}
	flipped := func(at int) string {
		text := []byte(genuine)
		text[at] ^= 1
		return string(text)
	}
	stranger := newLax(t, open(t, redisdb.Config{URL: s.URL(), Prefix: "other"}))
	stranger.waitFresh()
	for what, text := range map[string]string{
		"another key's": s.Do(t, "GET", other).(string), "nonsense": strings.Repeat("x", 100), "short": "x",
		"cut": genuine[:len(genuine)-1], "longer": genuine + "x", "other time": flipped(7), "other text": flipped(len(genuine) - 20),
		"other tag": flipped(len(genuine) - 1), "huge": strings.Repeat("x", 2<<20),
	} {
		s.Do(t, "SET", name, text)
		rejected := a.rejected.of("value")
		if got, err := a.Get(t.Context(), "alice"); got != nil || err != nil || a.rejected.of("value") != rejected+1 {
			t.Errorf("%s: %q, %v; rejected %d", what, got, err, a.rejected.of("value")-rejected)
		}
	}
	s.Do(t, "DEL", name)
	s.Do(t, "LPUSH", name, "x")
	if got, err := a.Get(t.Context(), "alice"); got != nil || err != nil {
		t.Errorf("a list: %q, %v", got, err)
	}
	s.Do(t, "DEL", name)
	s.Do(t, "SET", name, genuine)
	if got, err := a.Get(t.Context(), "alice"); !bytes.Equal(got, value) || err != nil {
		t.Errorf("genuine: %q, %v", got, err)
	}

	// Its time is in it, whatever Redis says.
	s.Do(t, "PERSIST", name)
	for _, over := range []time.Duration{0, time.Minute} {
		ahead.Store(int64(time.Hour + over))
		in.waitFresh()
		rejected := a.rejected.of("value")
		if got, err := a.Get(t.Context(), "alice"); got != nil || err != nil {
			t.Errorf("after its time: %q, %v", got, err)
		}
		if over > 0 && a.rejected.of("value") == rejected {
			t.Error("a value that was put back after its time is no reason to wonder")
		}
	}
	ahead.Store(0)

	// What was lost together with events does not come back.
	losing(t, []*node{b}, func() { s.Do(t, "FLUSHALL") })
	in.waitFresh()
	s.Do(t, "SET", name, genuine)
	redis.Until(t, "a value of an earlier life is rejected", func() bool {
		got, err := b.Get(t.Context(), "alice")
		if got != nil {
			t.Fatalf("an earlier life's: %q, %v", got, err)
		}
		return err == nil && b.rejected.of("value") > 0
	})
}

// lax is a listener that knows how fresh it is by the clock of its node, which may jump.
type lax struct {
	t     testing.TB
	heard atomic.Int64 // calls of Heard
}

func newLax(t testing.TB, db *redisdb.DB) *lax {
	l := &lax{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		db.Run(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return l
}

func (*lax) Apply(uint64, forge.Event) {}
func (*lax) Lost(uint64)               {}
func (l *lax) Heard(time.Time)         { l.heard.Add(1) }

// waitFresh waits for two calls: the first may be for a question of before.
func (l *lax) waitFresh() {
	l.t.Helper()
	n := l.heard.Load()
	redis.Until(l.t, "heard twice", func() bool { return l.heard.Load() >= n+2 })
}
