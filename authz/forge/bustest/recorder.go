package bustest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
)

// patience is how long anything may take that is to happen soon.
const patience = 30 * time.Second

// Word is one thing that a listener was told: an event, or that some were lost.
type Word struct {
	Position uint64
	Event    forge.Event // of Apply
	Lost     bool
	When     time.Time // when it was told
}

// Recorder is a listener that remembers, and a referee: it fails the test when a bus breaks its promises about positions and
// times. It is safe for concurrent use.
type Recorder struct {
	t    testing.TB
	name string
	hold chan struct{} // Apply returns when it can be received from; nil does not hold it

	telling sync.Mutex // held while the listener is told something: one goroutine tells

	mu    sync.Mutex
	words []Word
	heard time.Time
	said  []Heard
}

// Heard is a call of Heard.
type Heard struct {
	At    time.Time
	Words int // how many words had been said before
}

// NewRecorder makes a Recorder for the node of that name.
func NewRecorder(t testing.TB, name string) *Recorder { return &Recorder{t: t, name: name} }

// Apply implements [forge.Listener].
func (r *Recorder) Apply(position uint64, e forge.Event) {
	r.say(Word{Position: position, Event: e, When: time.Now()})
	if r.hold != nil {
		<-r.hold
	}
}

// Lost implements [forge.Listener].
func (r *Recorder) Lost(position uint64) {
	r.say(Word{Position: position, Lost: true, When: time.Now()})
}

func (r *Recorder) say(w Word) {
	if !r.telling.TryLock() {
		r.t.Errorf("%s is told two things at once", r.name)
		return
	}
	defer r.telling.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.words) > 0 {
		last := r.words[len(r.words)-1]
		switch {
		case w.Lost && w.Position < last.Position:
			r.t.Errorf("%s lost what led to %d, after %d", r.name, w.Position, last.Position)
		case !w.Lost && w.Position <= last.Position:
			r.t.Errorf("%s is told of %d after %d", r.name, w.Position, last.Position)
		case !w.Lost && !last.Lost && w.Position != last.Position+1:
			r.t.Errorf("%s is told of %d after %d, and of no loss between", r.name, w.Position, last.Position)
		}
	}
	r.words = append(r.words, w)
}

// Heard implements [forge.Listener].
func (r *Recorder) Heard(at time.Time) {
	if !r.telling.TryLock() {
		r.t.Errorf("%s is told two things at once", r.name)
		return
	}
	defer r.telling.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.After(time.Now()) || at.Before(r.heard) {
		r.t.Errorf("%s heard of %v, after %v and before that time", r.name, at, r.heard)
	}
	r.heard = at
	r.said = append(r.said, Heard{at, len(r.words)})
}

// Words returns what was said so far.
func (r *Recorder) Words() []Word {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.words)
}

// Heards returns the calls of Heard so far.
func (r *Recorder) Heards() []Heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

// Fresh returns the latest time that was heard of.
func (r *Recorder) Fresh() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// Events returns the events so far, in order.
func (r *Recorder) Events() (all []forge.Event) {
	for _, w := range r.Words() {
		if !w.Lost {
			all = append(all, w.Event)
		}
	}
	return all
}

// Losses returns how often something was lost.
func (r *Recorder) Losses() (n int) {
	for _, w := range r.Words() {
		if w.Lost {
			n++
		}
	}
	return n
}

// WaitFor waits until the recorder was told of e.
func (r *Recorder) WaitFor(e forge.Event) {
	r.t.Helper()
	r.Until("hears of "+e.Why, func() bool { return slices.Contains(r.Events(), e) })
}

// WaitFresh waits until the recorder has heard of a time after now.
func (r *Recorder) WaitFresh() {
	r.t.Helper()
	now := time.Now()
	r.Until("hears of the present", func() bool { return r.Fresh().After(now) })
}

// Until polls until ok, and fails the test when that takes too long.
func (r *Recorder) Until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain: %s %s", r.name, what)
		}
	}
}

// Follow runs the bus with r as its listener until stop is called, or the test ends.
func (r *Recorder) Follow(bus forge.Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- bus.Run(ctx, r) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				r.t.Errorf("%s: Run returned %v", r.name, err)
			}
		case <-time.After(patience):
			r.t.Errorf("%s: Run goes on after its context ended", r.name)
		}
	})
	r.t.Cleanup(stop)
	return stop
}
