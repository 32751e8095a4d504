// Package bustest is the conformance suite of what nodes share: forge.Bus and forge.Shared.
package bustest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
)

// Node is what one node of a gate has.
type Node struct {
	Bus    forge.Bus
	Shared forge.Shared // nil when only the bus is tried
}

// Gate makes nodes of one gate, by name. What it makes ends with the test.
type Gate func(name string) Node

// Run tries the bus. open makes a gate that has not run before.
func Run(t *testing.T, open func(t *testing.T) Gate) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Gate)
	}{
		{"Everybody", everybody},
		{"Members", members},
		{"Order", order},
		{"Newcomer", newcomer},
		{"Heard", heard},
		{"Await", await},
		{"AwaitSlow", awaitSlow},
		{"AwaitGone", awaitGone},
		{"AwaitNobody", awaitNobody},
		{"Return", comeBack},
		{"Once", once},
		{"Ended", ended},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// RunShared tries the second level of memory.
func RunShared(t *testing.T, open func(t *testing.T) Gate) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, forge.Shared, forge.Shared)
	}{
		{"Absent", absent}, {"Kept", kept}, {"Replaced", replaced}, {"Apart", apart}, {"Past", past}, {"Large", large},
	} {
		t.Run(c.name, func(t *testing.T) {
			gate := open(t)
			a, _ := start(t, gate, "a")
			b, _ := start(t, gate, "b")
			c.run(t, a.Shared, b.Shared)
		})
	}
}

// start makes a node, runs its bus and waits until it has heard something.
func start(t *testing.T, gate Gate, name string) (Node, *Recorder) {
	t.Helper()
	n, r := gate(name), NewRecorder(t, name)
	r.Follow(n.Bus)
	r.WaitFresh()
	return n, r
}

func event(why string, args ...any) forge.Event {
	return forge.Event{Forge: "git.example.com", User: "42", Why: fmt.Sprintf(why, args...)}
}

func publish(t *testing.T, bus forge.Bus, e forge.Event) uint64 {
	t.Helper()
	position, err := bus.Publish(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

// everybody: all nodes are told of an event, its publisher too, at the position that the publisher was given.
func everybody(t *testing.T, gate Gate) {
	a, inA := start(t, gate, "a")
	b, inB := start(t, gate, "b")
	for i, bus := range []forge.Bus{a.Bus, b.Bus} {
		e := event("everybody %d", i)
		position := publish(t, bus, e)
		for _, r := range []*Recorder{inA, inB} {
			r.WaitFor(e)
			words := r.Words()
			if last := words[len(words)-1]; last.Position != position {
				t.Errorf("published at %d, told at %d", position, last.Position)
			}
		}
	}
}

// members: an event arrives as it was.
func members(t *testing.T, gate Gate) {
	a, in := start(t, gate, "a")
	at := time.Now().UTC().Round(0)
	all := []forge.Event{
		{},
		{Forge: "f"},
		{User: "u"},
		{Repo: "r"},
		{Key: "SHA256:k"},
		{Why: "w"},
		{At: at},
		{Forge: "f", User: "u", Repo: "r", Key: "k", Why: "w", At: at},
		{Forge: "\x00\xff", User: "é\n", Repo: strings.Repeat("r", 1000), Why: `"{}"`},
	}
	for _, e := range all {
		publish(t, a.Bus, e)
	}
	in.Until("hears of all", func() bool { return len(in.Events()) == len(all) })
	if got := in.Events(); !slices.Equal(got, all) {
		t.Errorf("told of %+v, want %+v", got, all)
	}
}

// order: all nodes are told the same, in one order, whoever publishes when.
func order(t *testing.T, gate Gate) {
	const nodes, each = 3, 50
	var buses []forge.Bus
	var recorders []*Recorder
	for i := range nodes {
		n, r := start(t, gate, fmt.Sprintf("n%d", i))
		buses, recorders = append(buses, n.Bus), append(recorders, r)
	}
	var mu sync.Mutex
	published := map[uint64]forge.Event{}
	var done sync.WaitGroup
	for i, bus := range buses {
		done.Go(func() {
			for k := range each {
				e := event("order %d %d", i, k)
				position, err := bus.Publish(t.Context(), e)
				mu.Lock()
				if _, taken := published[position]; err != nil || taken {
					t.Errorf("published at %d, %v; taken: %v", position, err, taken)
				}
				published[position] = e
				mu.Unlock()
			}
		})
	}
	done.Wait()
	for _, r := range recorders {
		r.Until("hears of all", func() bool { return len(r.Events()) == nodes*each })
		for _, w := range r.Words() {
			if !w.Lost && w.Event != published[w.Position] {
				t.Errorf("%s was told of %q at %d, where %q was published", r.name, w.Event.Why, w.Position, published[w.Position].Why)
			}
		}
	}
}

// newcomer: who comes later is told of what comes later, and that it may have missed something before that.
func newcomer(t *testing.T, gate Gate) {
	a, in := start(t, gate, "a")
	position := publish(t, a.Bus, event("before"))
	in.WaitFor(event("before"))
	_, late := start(t, gate, "b")
	publish(t, a.Bus, event("after"))
	late.WaitFor(event("after"))
	words := late.Words()
	if !words[0].Lost || words[0].Position < position || len(words) != 2 {
		t.Errorf("a newcomer was told %+v", words)
	}
}

// heard: who has heard of a time has applied what was published before it.
func heard(t *testing.T, gate Gate) {
	a, _ := start(t, gate, "a")
	_, in := start(t, gate, "b")
	for i := range 20 {
		e := event("heard %d", i)
		publish(t, a.Bus, e)
		in.WaitFresh()
		if !slices.Contains(in.Events(), e) {
			t.Fatalf("heard of a time after the publication of %q, which was not applied", e.Why)
		}
	}
	from, n := time.Now(), len(in.Heards())
	in.Until("hears of half a Fence later", func() bool { return in.Fresh().Sub(from) > forge.Fence/2 })
	if got := len(in.Heards()) - n; got < 2 {
		t.Errorf("heard %d times in half a Fence and a bit", got)
	}
}

// await: when all have applied an event, nobody is late, and it is so.
func await(t *testing.T, gate Gate) {
	a, inA := start(t, gate, "a")
	_, inB := start(t, gate, "b")
	for i := range 20 {
		e := event("await %d", i)
		position := publish(t, a.Bus, e)
		late, err := a.Bus.Await(t.Context(), position)
		if len(late) > 0 || err != nil {
			t.Fatalf("late: %v, %v", late, err)
		}
		for _, r := range []*Recorder{inA, inB} {
			if !slices.Contains(r.Events(), e) {
				t.Fatalf("%s is not late, and has not applied %q", r.name, e.Why)
			}
		}
	}
}

// awaitSlow: a node that lives and has not applied an event is late, and waited for.
func awaitSlow(t *testing.T, gate Gate) {
	a, _ := start(t, gate, "a")
	b, in := gate("b"), NewRecorder(t, "b")
	in.hold = make(chan struct{})
	in.Follow(b.Bus)
	in.WaitFresh()
	position := publish(t, a.Bus, event("slow"))
	ctx, cancel := context.WithTimeout(t.Context(), forge.Fence/4)
	defer cancel()
	if late, err := a.Bus.Await(ctx, position); !slices.Equal(late, []string{"b"}) || err != nil {
		t.Errorf("late: %v, %v; want b", late, err)
	}
	close(in.hold)
	if late, err := a.Bus.Await(t.Context(), position); len(late) > 0 || err != nil || len(in.Events()) != 1 {
		t.Errorf("late: %v, %v; b was told of %v", late, err, in.Events())
	}
}

// awaitGone: a node that has ended trusts nothing for long, and is then not waited for.
func awaitGone(t *testing.T, gate Gate) {
	a, _ := start(t, gate, "a")
	b, in := gate("b"), NewRecorder(t, "b")
	stop := in.Follow(b.Bus)
	in.WaitFresh()
	stop()
	position := publish(t, a.Bus, event("gone"))
	late, err := a.Bus.Await(t.Context(), position)
	if len(late) > 0 || err != nil || slices.Contains(in.Events(), event("gone")) {
		t.Errorf("late: %v, %v; told: %v", late, err, in.Events())
	}
	if since := time.Since(in.Fresh()); since < forge.Fence {
		t.Errorf("waited until %v after the node had heard something: it trusts what it knows for %v", since, forge.Fence)
	}
}

// awaitNobody: a gate of which no node runs has nobody to wait for.
func awaitNobody(t *testing.T, gate Gate) {
	a := gate("a")
	position := publish(t, a.Bus, event("nobody"))
	if late, err := a.Bus.Await(t.Context(), position); len(late) > 0 || err != nil {
		t.Errorf("late: %v, %v", late, err)
	}
}

// comeBack: a node that was started again is another one, and misses nothing from then on.
func comeBack(t *testing.T, gate Gate) {
	a, _ := start(t, gate, "a")
	first := NewRecorder(t, "b")
	stop := first.Follow(gate("b").Bus)
	first.WaitFresh()
	stop()
	publish(t, a.Bus, event("away"))
	_, second := start(t, gate, "b")
	publish(t, a.Bus, event("back"))
	second.WaitFor(event("back"))
	if words := second.Words(); !words[0].Lost {
		t.Errorf("was told %+v", words)
	}
}

// once: a bus has one listener.
func once(t *testing.T, gate Gate) {
	a, _ := start(t, gate, "a")
	if err := a.Bus.Run(t.Context(), NewRecorder(t, "another")); err == nil {
		t.Error("Run took a second listener")
	}
}

// ended: nothing is published for who does not wait for it.
func ended(t *testing.T, gate Gate) {
	a, in := start(t, gate, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if position, err := a.Bus.Publish(ctx, event("ended")); err == nil {
		t.Errorf("published at %d after the end", position)
	}
	publish(t, a.Bus, event("later"))
	in.WaitFor(event("later"))
}

// get and put try again, for a second level may fail at any time.
func get(t *testing.T, s forge.Shared, key string) (value []byte) {
	t.Helper()
	again(t, func() (err error) {
		value, err = s.Get(t.Context(), key)
		return err
	})
	return value
}

func put(t *testing.T, s forge.Shared, key string, value []byte, notAfter time.Time) {
	t.Helper()
	again(t, func() error { return s.Put(t.Context(), key, value, notAfter) })
}

func again(t *testing.T, try func() error) {
	t.Helper()
	err := try()
	for end := time.Now().Add(patience); err != nil; err = try() {
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func soon() time.Time { return time.Now().Add(time.Minute) }

// absent: what nobody has put is nil.
func absent(t *testing.T, a, _ forge.Shared) {
	for _, key := range []string{"", "key", "\x00*?[a]\n"} {
		if value := get(t, a, key); value != nil {
			t.Errorf("%q holds %q", key, value)
		}
	}
}

// kept: every node gets what one has put, whatever it is.
func kept(t *testing.T, a, b forge.Shared) {
	for i, value := range [][]byte{{}, []byte("value"), {0, 255, '\r', '\n'}, bytes.Repeat([]byte("x"), 10_000)} {
		key := fmt.Sprintf("kept\x00 é %d", i)
		put(t, a, key, value, soon())
		for _, s := range []forge.Shared{a, b} {
			if got := get(t, s, key); got == nil || !bytes.Equal(got, value) {
				t.Errorf("%q holds %q, want %q", key, got, value)
			}
		}
	}
}

// replaced: the last value stays.
func replaced(t *testing.T, a, b forge.Shared) {
	put(t, a, "key", []byte("1"), soon())
	put(t, b, "key", []byte("2"), soon())
	if got := get(t, a, "key"); string(got) != "2" {
		t.Errorf("holds %q", got)
	}
}

// apart: keys that look alike are others.
func apart(t *testing.T, a, b forge.Shared) {
	keys := []string{"", "k", "K", "k ", "k\x00", "k/l", "k:l"}
	for _, key := range keys {
		put(t, a, key, []byte("of "+key), soon())
	}
	for _, key := range keys {
		if got := get(t, b, key); string(got) != "of "+key {
			t.Errorf("%q holds %q", key, got)
		}
	}
}

// past: a value is gone at its time.
func past(t *testing.T, a, b forge.Shared) {
	put(t, a, "past", []byte("v"), time.Now().Add(-time.Second))
	put(t, a, "now", []byte("v"), time.Now())
	end := time.Now().Add(200 * time.Millisecond)
	put(t, a, "soon", []byte("v"), end)
	for _, key := range []string{"past", "now"} {
		if got := get(t, b, key); got != nil {
			t.Errorf("%s: holds %q", key, got)
		}
	}
	for {
		got := get(t, b, "soon")
		if got == nil {
			break
		}
		if time.Now().After(end.Add(time.Second)) {
			t.Fatalf("holds %q after its time", got)
		}
	}
}

// large: a mebibyte is kept whole, and what is absurd is refused.
func large(t *testing.T, a, b forge.Shared) {
	value := bytes.Repeat([]byte("large"), 1<<20/5)
	put(t, a, "large", value, soon())
	if got := get(t, b, "large"); !bytes.Equal(got, value) {
		t.Errorf("holds %d bytes of %d", len(got), len(value))
	}
	if err := a.Put(t.Context(), "larger", make([]byte, 64<<20), soon()); err == nil {
		t.Error("takes 64 MiB")
	}
}
