package forge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// TestCacheAges: a fact is used for 60 s, then asked for again beside, and never used after 300 s.
func TestCacheAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		n := newNode(t, w, nil, nil)
		n.want("alice", "1", Read)
		time.Sleep(40 * time.Second)
		n.want("alice", "1", Read)
		if c := w.count(); c != 1 {
			t.Errorf("asked %d times in 40 s, want once", c)
		}
		w.set("alice", "1", false)
		time.Sleep(40 * time.Second)
		n.want("alice", "1", Read) // stale, and asked for beside
		synctest.Wait()
		n.want("alice", "1", None)
		if len(n.changed) != 1 || n.changed[0] != "alice" {
			t.Errorf("told of changes to %q, want alice", n.changed)
		}
	})
}

// TestCacheHardLimit: past 300 s a fact is worth nothing, also when the forge is down.
func TestCacheHardLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		n := newNode(t, w, nil, nil)
		n.want("alice", "1", Read)
		w.failing = errors.New("down")
		time.Sleep(299 * time.Second)
		n.want("alice", "1", Read)
		time.Sleep(2 * time.Second)
		n.want("alice", "1", Unknown)
		w.failing = nil
		n.want("alice", "1", Read)
	})
}

// TestCacheNegative: who was just let in, and asks again, gets in at the second try after 10 s, and at the first after 60 s.
func TestCacheNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		n := newNode(t, w, nil, nil)
		n.want("alice", "1", None)
		w.set("alice", "1", true)
		n.want("alice", "1", None)
		time.Sleep(13 * time.Second)
		n.want("alice", "1", None) // and asked for beside
		synctest.Wait()
		n.want("alice", "1", Read)
		n.want("alice", "2", None)
		w.set("alice", "2", true)
		time.Sleep(softLimit)
		n.want("alice", "2", Read)
	})
}

// TestSlowYesOvertakenByRevocation: the forge has said yes before the right was taken away, and the answer arrives after the
// event. It must not be used, nor remembered.
func TestSlowYesOvertakenByRevocation(t *testing.T) {
	for name, event := range map[string]Event{
		"user": {Forge: theForge, User: "alice"}, "repo": {Forge: theForge, Repo: "1"}, "forge": {Forge: theForge}, "all": {},
		"both": {Forge: theForge, User: "alice", Repo: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTruth()
				w.set("alice", "1", true)
				n := newNode(t, w, nil, nil)
				w.hold = make(chan struct{})
				got := make(chan Access)
				go func() { got <- n.ask(t.Context(), "alice", "1") }()
				synctest.Wait() // the forge has read the truth
				w.set("alice", "1", false)
				n.tell(event)
				close(w.hold)
				if a := <-got; a != None {
					t.Errorf("a slow yes is %s after the revocation, want none", a)
				}
				n.want("alice", "1", None)
			})
		})
	}
}

// TestSlowYesNotOvertakenByOthers: events about others do not cost an answer.
func TestSlowYesNotOvertakenByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		n := newNode(t, w, nil, nil)
		w.hold = make(chan struct{})
		got := make(chan Access)
		go func() { got <- n.ask(t.Context(), "alice", "1") }()
		synctest.Wait()
		n.tell(Event{Forge: theForge, User: "bob"})
		n.tell(Event{Forge: theForge, Repo: "2"})
		n.tell(Event{Forge: "other"})
		n.tell(Event{Key: "SHA256:x"})
		close(w.hold)
		if a := <-got; a != Read {
			t.Errorf("got %s, want read", a)
		}
		if c := w.count(); c != 1 {
			t.Errorf("asked %d times, want once", c)
		}
	})
}

// TestCacheNotBefore: a fact that is older than the artifact is asked for again before it allows.
func TestCacheNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		n := newNode(t, w, nil, nil)
		n.want("alice", "1", Read)
		time.Sleep(time.Second)
		w.set("alice", "1", false)
		if got := n.ask(NotBefore(t.Context(), time.Now()), "alice", "1"); got != None {
			t.Errorf("got %s for what was published now, want none", got)
		}
	})
}

// TestCacheWaiters: one question serves all who ask, who may leave without ending it.
func TestCacheWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		w.hold = make(chan struct{})
		n := newNode(t, w, nil, nil)
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		answers := make([]Access, 50)
		waiting.Go(func() {
			if got := n.ask(ctx, "alice", "1"); got != Unknown {
				t.Errorf("who left got %s", got)
			}
		})
		synctest.Wait()
		for i := range answers {
			waiting.Go(func() { answers[i] = n.ask(t.Context(), "alice", "1") })
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		close(w.hold)
		waiting.Wait()
		for i, a := range answers {
			if a != Read {
				t.Errorf("waiter %d got %s", i, a)
			}
		}
		if c := w.count(); c != 1 {
			t.Errorf("asked %d times, want once", c)
		}
	})
}

// TestCachePatience: nobody waits for ever for a forge that hangs, and the answer is there when it comes.
func TestCachePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.set("alice", "1", true)
		w.slow = 20 * time.Second
		n := newNode(t, w, nil, nil)
		begun := time.Now()
		_, err := n.cache.Access(t.Context(), aUser("alice"), []Repo{aRepo("1")})
		if !errors.Is(err, ErrBusy) || time.Since(begun) != patience {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		time.Sleep(20 * time.Second)
		n.want("alice", "1", Read)
		if c := w.count(); c != 1 {
			t.Errorf("asked %d times, want once", c)
		}
	})
}

// TestCacheBurst: questions that come while one is under way are put together.
func TestCacheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.slow = 50 * time.Millisecond
		n := newNode(t, w, nil, nil)
		var asking sync.WaitGroup
		for i := range 100 {
			asking.Go(func() {
				repo := fmt.Sprint(i + 1)
				w.set("alice", repo, true)
				if got := n.ask(t.Context(), "alice", repo); got != Read {
					t.Errorf("repository %s: %s", repo, got)
				}
			})
		}
		asking.Wait()
		if c := w.count(); c != 2 {
			t.Errorf("asked %d times for a burst of 100, want twice", c)
		}
	})
}

// inBulk is a truth that answers about three repositories as easily as about one.
type inBulk struct{ *truth }

func (inBulk) Batch() int { return 3 }

// TestCacheAlong: what others were asked about is asked along, where that costs nothing, and not again.
func TestCacheAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		for _, repo := range []string{"1", "2", "3", "4"} {
			w.set("alice", repo, true)
		}
		n := newNode(t, inBulk{w}, nil, nil)
		for _, repo := range []string{"1", "2", "3", "4"} {
			n.want("bob", repo, None)
		}
		asked := w.count()
		n.want("alice", "4", Read)
		if last := w.asked[len(w.asked)-1]; len(last) != 3 {
			t.Errorf("asked about %v, want three", last)
		}
		for _, repo := range []string{"1", "2", "3", "4"} {
			n.want("alice", repo, Read)
		}
		if c := w.count() - asked; c != 2 {
			t.Errorf("asked %d times, want twice", c)
		}
	})
}

// TestCacheGrowth: a forge that suddenly lets a user read everything is not believed before it says so twice.
func TestCacheGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		n := newNode(t, w, nil, nil)
		var repos []Repo
		for i := range 40 {
			repos = append(repos, aRepo(fmt.Sprint(i+1)))
		}
		count := func() (reads int) {
			t.Helper()
			facts, err := n.cache.Access(t.Context(), aUser("alice"), repos)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range facts {
				if f.Access == Read {
					reads++
				}
			}
			return reads
		}
		if got := count(); got != 0 {
			t.Fatalf("%d reads before", got)
		}
		for i := range 40 {
			w.set("alice", fmt.Sprint(i+1), true)
		}
		time.Sleep(softLimit)
		if got := count(); got != 0 {
			t.Errorf("%d reads at the first answer, want none", got)
		}
		time.Sleep(3 * time.Second)
		if got := count(); got != 40 {
			t.Errorf("%d reads at the second answer, want 40", got)
		}
		// A loss is believed at once.
		for i := range 40 {
			w.set("alice", fmt.Sprint(i+1), false)
		}
		n.tell(Event{Forge: theForge, User: "alice"})
		if got := count(); got != 0 {
			t.Errorf("%d reads after the loss", got)
		}
	})
}

// TestCacheGrowthAgreesWithNobody: the same answer again, be it remembered by the provider or shared by a node, is no second one.
func TestCacheGrowthAgreesWithNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus, shared := newTruth(), newWire(), &shelf{values: map[string][]byte{}}
		remembering := &rememberedTruth{truth: w}
		a, b := newNode(t, remembering, bus.node(), shared), newNode(t, remembering, bus.node(), shared)
		joined(t, a)
		joined(t, b)
		time.Sleep(time.Second)
		var repos []Repo
		for i := range 40 {
			repos = append(repos, aRepo(fmt.Sprint(i+1)))
		}
		count := func(n *node) (reads int) {
			t.Helper()
			facts, err := n.cache.Access(t.Context(), aUser("alice"), repos)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range facts {
				if f.Access == Read {
					reads++
				}
			}
			return reads
		}
		if got := count(a) + count(b); got != 0 {
			t.Fatalf("%d reads before", got)
		}
		for i := range 40 {
			w.set("alice", fmt.Sprint(i+1), true)
		}
		time.Sleep(softLimit)
		remembering.forget()
		for range 5 {
			if got := count(a) + count(b); got != 0 {
				t.Errorf("%d reads by one answer that is given again", got)
			}
			time.Sleep(3 * time.Second)
		}
		remembering.forget()
		if got := count(a); got != 40 {
			t.Errorf("%d reads by a second answer, want 40", got)
		}
	})
}

// rememberedTruth is a truth that gives its last answer again until it is told to forget it.
type rememberedTruth struct {
	*truth
	lock  sync.Mutex // guards facts
	facts []Fact
}

func (r *rememberedTruth) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if len(r.facts) != len(repos) {
		var err error
		if r.facts, err = r.truth.Access(ctx, p, repos); err != nil {
			return nil, err
		}
	}
	return r.facts, nil
}

func (r *rememberedTruth) forget() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.facts = nil
}

// liar answers what it likes.
type liar struct {
	Provider
	answer func(repos []Repo) ([]Fact, error)
}

func (l liar) Access(ctx context.Context, _ authn.Principal, repos []Repo) ([]Fact, error) {
	return l.answer(repos)
}

// TestCacheLies: an answer about something else, without a date, from the future or long past, and a panic, allow nothing.
func TestCacheLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		fact := func(f Fact) func([]Repo) ([]Fact, error) {
			return func([]Repo) ([]Fact, error) { return []Fact{f}, nil }
		}
		for name, answer := range map[string]func([]Repo) ([]Fact, error){
			"another repository": fact(Fact{Repo: aRepo("2"), Access: Read, At: now, NotAfter: now.Add(time.Hour)}),
			"another forge":      fact(Fact{Repo: Repo{"other", "1"}, Access: Read, At: now, NotAfter: now.Add(time.Hour)}),
			"too few":            func([]Repo) ([]Fact, error) { return nil, nil },
			"no date":            fact(Fact{Repo: aRepo("1"), Access: Read}),
			"long past":          fact(Fact{Repo: aRepo("1"), Access: Read, At: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}),
			"over":               fact(Fact{Repo: aRepo("1"), Access: Read, At: now, NotAfter: now}),
			"no access":          fact(Fact{Repo: aRepo("1"), Access: 9, At: now, NotAfter: now.Add(time.Hour)}),
			"panic":              func([]Repo) ([]Fact, error) { panic("oops") },
		} {
			if got := newNode(t, liar{answer: answer}, nil, nil).ask(t.Context(), "alice", "1"); got != Unknown {
				t.Errorf("%s: %s, want unknown", name, got)
			}
		}
		ahead := newNode(t, liar{answer: fact(Fact{Repo: aRepo("1"), Access: Read, At: now.Add(time.Hour), NotAfter: now.Add(9 * time.Hour)})}, nil, nil)
		facts, err := ahead.cache.Access(t.Context(), aUser("alice"), []Repo{aRepo("1")})
		if err != nil || facts[0].At.After(time.Now()) || facts[0].NotAfter.After(time.Now().Add(hardLimit)) {
			t.Errorf("from the future: %+v, %v", facts, err)
		}
	})
}

// TestCacheStrangers: keys that nobody has cannot keep the forge busy, nor those away whose keys are known.
func TestCacheStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.users["alice"] = User{ID: "alice", Name: "alice"}
		w.keys["SHA256:alice"] = "alice"
		n := newNode(t, w, nil, nil)
		if u, err := n.cache.KeyOwner(t.Context(), "SHA256:alice"); err != nil || u.ID != "alice" {
			t.Fatalf("%+v, %v", u, err)
		}
		for i := range 10_000 {
			if _, err := n.cache.KeyOwner(t.Context(), fmt.Sprintf("SHA256:%d", i)); err == nil {
				t.Fatal("a key of nobody has an owner")
			}
		}
		if c := w.count(); c > strangersBurst+1 {
			t.Errorf("asked %d times", c)
		}
		n.tell(Event{Forge: theForge})
		if u, err := n.cache.KeyOwner(t.Context(), "SHA256:alice"); err != nil || u.ID != "alice" {
			t.Errorf("a key that was known: %+v, %v", u, err)
		}
		delete(w.keys, "SHA256:alice")
		n.tell(Event{Key: "SHA256:alice"})
		if _, err := n.cache.KeyOwner(t.Context(), "SHA256:alice"); !errors.Is(err, ErrNoUser) {
			t.Errorf("a key that was taken away: %v", err)
		}
	})
}

// TestCacheUser: a blocked user is known at once after an event, and within the limits without one.
func TestCacheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		set := func(blocked bool) { w.users["alice"] = User{ID: "alice", Name: "alice", Blocked: blocked} }
		set(false)
		n := newNode(t, w, nil, nil)
		blocked := func() bool {
			t.Helper()
			u, err := n.cache.User(t.Context(), "alice")
			if err != nil || u.NotAfter.IsZero() {
				t.Fatalf("%+v, %v", u, err)
			}
			return u.Blocked
		}
		if blocked() {
			t.Error("blocked before")
		}
		set(true)
		if blocked() {
			t.Error("asked again without need")
		}
		n.tell(Event{Forge: theForge, User: "alice"})
		if !blocked() {
			t.Error("not blocked after the event")
		}
		set(false)
		time.Sleep(hardLimit)
		if blocked() {
			t.Error("still blocked after the limit")
		}
		set(true)
		time.Sleep(80 * time.Second)
		blocked()
		synctest.Wait()
		if !blocked() {
			t.Error("not asked again beside")
		}
		if len(n.changed) == 0 {
			t.Error("nobody was told")
		}
	})
}

// TestCacheCrossingAnswers: of two answers that cross on their way, the one that was given later counts.
func TestCacheCrossingAnswers(t *testing.T) {
	u := &userFacts{id: "alice"}
	u.learn([]cached{{repo: 1, at: 200, access: None}, {repo: 2, at: 100, access: None}}, 300)
	kept, changed := u.learn([]cached{{repo: 1, at: 150, access: Read}, {repo: 2, at: 150, access: Read}}, 300)
	if len(kept) != 1 || kept[0].repo != 2 || !changed {
		t.Errorf("kept %v, changed %t", kept, changed)
	}
	if f, _ := u.view.Load().find(1); f.access != None {
		t.Errorf("an older answer took the place of a younger one: %s", f.access)
	}
}

// TestSharedNoIsAskedAgain: a "no" that nodes share is asked for again as soon as one of a node's own.
func TestSharedNoIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, bus, shared := newTruth(), newWire(), &shelf{values: map[string][]byte{}}
		a, b := newNode(t, w, bus.node(), shared), newNode(t, w, bus.node(), shared)
		joined(t, a)
		joined(t, b)
		time.Sleep(time.Second)
		a.want("alice", "1", None)
		b.want("alice", "1", None)
		w.set("alice", "1", true)
		time.Sleep(13 * time.Second)
		a.want("alice", "1", None) // and asked for beside
		synctest.Wait()
		a.want("alice", "1", Read)
	})
}

// patient is a truth that takes its time when nobody waits.
type patient struct{ *truth }

func (p patient) User(ctx context.Context, id string) (User, error) {
	if isBackground(ctx) {
		time.Sleep(20 * time.Second)
	}
	return p.truth.User(ctx, id)
}

// TestLookupInTheForeground: who waits for an answer does not wait for a question that nobody waited for.
func TestLookupInTheForeground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		w.users["alice"] = User{ID: "alice", Name: "alice"}
		n := newNode(t, patient{w}, nil, nil)
		ask := func() (User, time.Duration) {
			t.Helper()
			began := time.Now()
			u, err := n.cache.User(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			return u, time.Since(began)
		}
		ask()
		time.Sleep(80 * time.Second)
		ask() // asked for again beside, slowly
		synctest.Wait()
		w.mu.Lock()
		w.users["alice"] = User{ID: "alice", Name: "alice", Blocked: true}
		w.mu.Unlock()
		n.tell(Event{Forge: theForge, User: "alice"})
		if u, took := ask(); !u.Blocked || took != 0 {
			t.Errorf("blocked %t after %s", u.Blocked, took)
		}
		time.Sleep(time.Minute)
		if u, _ := ask(); !u.Blocked {
			t.Error("the slow answer took the place of the one after it")
		}
		time.Sleep(time.Minute) // until nothing is under way
	})
}

// TestLookupKeepsWhatItHas: what is known of a key is used while too many strangers ask, and until it is over.
func TestLookupKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTruth()
		n := newNode(t, w, nil, nil)
		if _, err := n.cache.KeyOwner(t.Context(), "SHA256:nobodys"); !errors.Is(err, ErrNoUser) {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second) // it is due to be asked for again
		for i := range 2 * strangersBurst {
			_, _ = n.cache.KeyOwner(t.Context(), fmt.Sprintf("SHA256:%d", i))
		}
		if _, err := n.cache.KeyOwner(t.Context(), "SHA256:nobodys"); !errors.Is(err, ErrNoUser) {
			t.Errorf("a key that is known to be nobody's: %v", err)
		}
	})
}
