package forge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// joined starts a hub's touch with its bus, for the life of the test.
func joined(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = n.hub.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// TestHubFence: a node that is out of touch stops trusting what it has learnt before 2 s are over, and asks the forge again
// and again until it is back.
func TestHubFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus := newTruth(), newWire()
		w.set("alice", "1", true)
		end := bus.node()
		n := newNode(t, w, end, nil)
		if n.hub.Whole() {
			t.Error("in touch before it heard anything")
		}
		joined(t, n)
		time.Sleep(time.Second)
		if !n.hub.Whole() {
			t.Fatal("not in touch")
		}
		n.want("alice", "1", Read)
		asked := w.count()
		time.Sleep(20 * time.Second)
		n.want("alice", "1", Read)
		if w.count() != asked {
			t.Error("asked again while in touch")
		}
		bus.setCut(end, true)
		w.set("alice", "1", false)
		time.Sleep(Fence)
		n.want("alice", "1", None)
		w.set("alice", "1", true)
		time.Sleep(Fence)
		n.want("alice", "1", Read)
		w.set("alice", "1", false)
		time.Sleep(Fence)
		n.want("alice", "1", None)
		bus.setCut(end, false)
		time.Sleep(time.Second)
		if !n.hub.Whole() {
			t.Error("not in touch again")
		}
	})
}

// TestHubStopped: a process that was stopped finds out before it uses what it knew, not some time later.
func TestHubStopped(t *testing.T) {
	now := time.Now()
	var told int
	h := NewHub(HubConfig{Bus: newWire().node(), Now: func() time.Time { return now }, Told: []func(Event){func(Event) { told++ }}})
	listener{h}.Heard(now)
	if !h.Whole() || h.Trust(now) != 0 {
		t.Fatal("not in touch")
	}
	now = now.Add(10 * time.Second) // nothing ran meanwhile
	if h.Trust(now) == 0 || told != 1 {
		t.Errorf("still trusted; told %d times", told)
	}
	// What arrives now may have waited as long.
	listener{h}.Heard(now.Add(-9 * time.Second))
	if h.Whole() {
		t.Error("in touch by word that is 9 s old")
	}
}

// TestHubClockSteps: a wall clock that is set back does not make a node trust for longer.
func TestHubClockSteps(t *testing.T) {
	now := time.Now()
	h := NewHub(HubConfig{Bus: newWire().node(), Now: func() time.Time { return now }})
	listener{h}.Heard(now)
	monotonic := now.Add(3 * time.Second)
	if h.Trust(monotonic) == 0 {
		t.Error("trusted after 3 s")
	}
	listener{h}.Heard(monotonic)
	// A machine that slept for an hour: only the wall clock has seen it.
	slept := time.Unix(0, monotonic.UnixNano()).Add(time.Hour)
	if h.Trust(slept) == 0 {
		t.Error("trusted after an hour asleep")
	}
}

// TestHubNodes: an event at one node is true at the others within the time that it takes them to hear, and what they share
// is judged by it.
func TestHubNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus, shared := newTruth(), newWire(), &shelf{values: map[string][]byte{}}
		w.set("alice", "1", true)
		a, b := newNode(t, w, bus.node(), shared), newNode(t, w, bus.node(), shared)
		joined(t, a)
		joined(t, b)
		time.Sleep(time.Second)
		a.want("alice", "1", Read)
		b.want("alice", "1", Read)
		if c := w.count(); c != 1 {
			t.Errorf("two nodes asked %d times, want once", c)
		}
		w.set("alice", "1", false)
		a.tell(Event{Forge: theForge, User: "alice"})
		a.want("alice", "1", None)
		time.Sleep(200 * time.Millisecond)
		b.want("alice", "1", None)
	})
}

// TestHubOwnEvent: an event counts once at the node that told it, though it comes back from the bus, and an answer that was asked for
// after it is not thrown away.
func TestHubOwnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus := newTruth(), newWire()
		w.set("alice", "1", true)
		a, b := newNode(t, w, bus.node(), nil), newNode(t, w, bus.node(), nil)
		joined(t, a)
		joined(t, b)
		time.Sleep(time.Second)
		for _, e := range []Event{{Forge: theForge, User: "alice"}, {Forge: theForge, Repo: "1"}, {Forge: theForge}, {}, {Key: "SHA256:x"}} {
			here, there := a.hub.Generation(), b.hub.Generation()
			a.tell(e)
			a.want("alice", "1", Read)
			asked := w.count()
			time.Sleep(200 * time.Millisecond)
			a.want("alice", "1", Read)
			if got := w.count(); got != asked {
				t.Errorf("%+v: asked again when it came back", e)
			}
			if a.hub.Generation() != here+1 || b.hub.Generation() != there+1 {
				t.Errorf("%+v: counted %d times here and %d there, want once", e, a.hub.Generation()-here, b.hub.Generation()-there)
			}
		}
	})
}

// TestHubUnsent: while an event is on its way to the others, nothing that they share is believed here; and it gets there when
// the bus is back.
func TestHubUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus, shared := newTruth(), newWire(), &shelf{values: map[string][]byte{}}
		w.set("alice", "1", true)
		end := bus.node()
		a, b := newNode(t, w, end, shared), newNode(t, w, bus.node(), shared)
		joined(t, a)
		joined(t, b)
		time.Sleep(time.Second)
		b.want("alice", "1", Read)
		bus.setCut(end, true)
		w.set("alice", "1", false)
		if _, err := a.hub.Tell(t.Context(), Event{Forge: theForge, User: "alice"}); err == nil {
			t.Error("told the others through a wire that is cut")
		}
		a.want("alice", "1", None)
		bus.setCut(end, false)
		time.Sleep(time.Second)
		b.want("alice", "1", None)
		if _, ok := a.hub.Position(); !ok {
			t.Error("the event still waits")
		}
	})
}

// TestSharedRefused: an entry of another user, of the future, overtaken by an event, or that is not understood, is not used.
func TestSharedRefused(t *testing.T) {
	now := time.Now()
	good := fmt.Sprintf(`{"repo":"1","read":true,"at":%d,"until":%d,"pos":1,"origin":"x"}`, now.UnixNano(), now.Add(time.Minute).UnixNano())
	entry := func(fact string) string {
		return `{"v":1,"forge":"` + theForge + `","user":"alice","facts":[` + fact + `]}`
	}
	for name, c := range map[string]struct {
		value string
		want  Access
	}{
		"good":         {entry(good), Read},
		"not JSON":     {"{", None},
		"version":      {`{"v":2,"forge":"` + theForge + `","user":"alice","facts":[` + good + `]}`, None},
		"forge":        {`{"v":1,"forge":"x","user":"alice","facts":[` + good + `]}`, None},
		"user":         {`{"v":1,"forge":"` + theForge + `","user":"bob","facts":[` + good + `]}`, None},
		"member":       {`{"v":1,"forge":"` + theForge + `","user":"alice","more":1,"facts":[` + good + `]}`, None},
		"over":         {entry(fmt.Sprintf(`{"repo":"1","read":true,"at":%d,"until":%d,"pos":1,"origin":"x"}`, now.Add(-time.Minute).UnixNano(), now.Add(-time.Second).UnixNano())), None},
		"future":       {entry(fmt.Sprintf(`{"repo":"1","read":true,"at":%d,"until":%d,"pos":1,"origin":"x"}`, now.Add(time.Hour).UnixNano(), now.Add(2*time.Hour).UnixNano())), None},
		"overtaken":    {entry(fmt.Sprintf(`{"repo":"1","read":true,"at":%d,"until":%d,"pos":0,"origin":"x"}`, now.UnixNano(), now.Add(time.Minute).UnixNano())), None},
		"not yet here": {entry(fmt.Sprintf(`{"repo":"1","read":true,"at":%d,"until":%d,"pos":9,"origin":"x"}`, now.UnixNano(), now.Add(time.Minute).UnixNano())), None},
	} {
		shared := &shelf{values: map[string][]byte{"facts/" + theForge + "/alice": []byte(c.value)}}
		n := newNode(t, newTruth(), newWire().node(), shared)
		listener{n.hub}.Apply(1, Event{Forge: theForge, User: "alice"})
		listener{n.hub}.Heard(time.Now())
		if got := n.ask(t.Context(), "alice", "1"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestHubStorm: more events than can be remembered one by one become one about everything, and no more memory.
func TestHubStorm(t *testing.T) {
	h := NewHub(HubConfig{})
	before := h.Generation()
	for i := range maxScopes + 10 {
		if _, err := h.Tell(t.Context(), Event{Forge: theForge, User: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.scopes) > maxScopes {
		t.Errorf("%d scopes", len(h.scopes))
	}
	if !h.Overtaken(before, Concern{Forge: theForge, User: "0"}) || !h.Overtaken(before, Concern{Forge: "other", User: "x"}) {
		t.Error("an event was forgotten")
	}
}

// TestHubFenceHoldsAll: whoever asks while a node is being fenced waits until what it knew has been made worthless.
func TestHubFenceHoldsAll(t *testing.T) {
	begun, told := make(chan struct{}), make(chan struct{})
	h := NewHub(HubConfig{Bus: newWire().node(), Told: []func(Event){func(Event) { close(begun); <-told }}})
	later := time.Now().Add(10 * time.Second) // nothing ran meanwhile
	listener{h}.Heard(time.Now())
	var asking sync.WaitGroup
	ask := func() {
		h.Check(later)
		select {
		case <-told:
		default:
			t.Error("somebody went on with what was known before")
		}
	}
	asking.Go(ask)
	<-begun
	for range 4 {
		asking.Go(ask)
	}
	time.Sleep(20 * time.Millisecond) // for those who would not wait
	close(told)
	asking.Wait()
}

// TestHubOrder: those who remember what a forge said forget it before an event counts, and those who remember what followed are told
// after.
func TestHubOrder(t *testing.T) {
	var h *Hub
	var seen []uint64
	note := func(Event) { seen = append(seen, h.Generation()) }
	h = NewHub(HubConfig{Forget: []func(Event){note}, Told: []func(Event){note}})
	if _, err := h.Tell(t.Context(), Event{Forge: theForge}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0] != 0 || seen[1] != 1 {
		t.Errorf("the count was %v, want 0 when forgetting and 1 when told", seen)
	}
}

// TestHubOwnPosition: an event of this node does not stand for those before it that it has not heard.
func TestHubOwnPosition(t *testing.T) {
	h := NewHub(HubConfig{Bus: newWire().node()})
	listener{h}.Apply(9, Event{Forge: theForge, User: "bob"})
	e := Event{Forge: theForge, User: "alice"}
	h.apply(e, 0)
	h.sent(e, 11)
	if p, _ := h.Position(); p != 9 {
		t.Errorf("the position is %d, want 9: 10 has not been heard", p)
	}
	if !h.OvertakenShared(10, Concern{Forge: theForge, User: "alice"}) || h.OvertakenShared(11, Concern{Forge: theForge, User: "alice"}) {
		t.Error("the event does not stand at 11")
	}
	listener{h}.Apply(10, Event{Forge: theForge, User: "carol"})
	listener{h}.Apply(11, e)
	if p, _ := h.Position(); p != 11 {
		t.Errorf("the position is %d, want 11", p)
	}
}

// TestHubLongTexts: an event with a text that no bus takes is about more, and not about nothing.
func TestHubLongTexts(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for name, e := range map[string]Event{
		"user": {Forge: theForge, User: long}, "repo": {Forge: theForge, Repo: long}, "key": {Key: long}, "forge": {Forge: long},
	} {
		h := NewHub(HubConfig{})
		before := h.Generation()
		if _, err := h.Tell(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if !h.Overtaken(before, Concern{Forge: theForge, User: "alice"}) {
			t.Errorf("%s: nothing was invalidated", name)
		}
	}
}
