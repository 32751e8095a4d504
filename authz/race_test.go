package authz_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// A forge says yes, the permission is revoked and the revocation is known here, and only then does the yes arrive.
func TestLateYesIsDiscarded(t *testing.T) {
	for name, invalidate := range map[string]func(*authz.Authorizer){
		"all": (*authz.Authorizer).InvalidateAll,
		"one": func(a *authz.Authorizer) { a.Invalidate(home, "alice") },
	} {
		w := newWorld(t)
		w.allow("alice", "a", forge.Read)
		a := w.authorizer()
		once := true
		w.onAsk = func() {
			if once {
				once = false
				w.allow("alice", "a", forge.None)
				invalidate(a)
			}
		}
		r := ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		answer, err := decide(t, a, r)
		if answer.Decision.Verdict != deny || err != nil || w.asked != 2 {
			t.Errorf("%s: %+v, %v after %d questions; want a denial after asking again", name, answer.Decision, err, w.asked)
		}
		if got := verdict(t, a, r); got != deny {
			t.Errorf("%s: then %v, want deny", name, got)
		}
	}
}

func TestAnswersThatAreAlwaysOvertaken(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	a := w.authorizer()
	w.onAsk = a.InvalidateAll
	r := ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
	answer, err := decide(t, a, r)
	if answer.Decision.Verdict != unavailable || err == nil || !answer.Record.Digest.IsZero() {
		t.Errorf("%+v, %v; want unavailable, an error, and no record", answer, err)
	}
	w.onAsk = nil
	if got := verdict(t, a, r); got != allow {
		t.Errorf("in peace: %v, want allow", got)
	}
}

// The same for who somebody is: the directory says fine, the user is blocked, and only then does the fine arrive.
func TestLateIdentityIsDiscarded(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	block := func() {
		w.onLook = nil
		w.users["alice"] = forge.User{ID: "alice", Name: "alice", Blocked: true}
		a.Invalidate(home, "alice")
	}
	w.onLook = block
	r := ask(authz.Read, user("alice"), w.publish("x", list(publicRepo())))
	if got := verdict(t, a, r); got != deny {
		t.Errorf("blocked meanwhile: %v, want deny", got)
	}
	w.users["alice"] = forge.User{ID: "alice", Name: "alice"}
	a.Invalidate(home, "alice")
	w.onLook = block
	if _, err := a.Identify(t.Context(), *user("alice")); !errors.Is(err, authn.ErrRefused) {
		t.Errorf("blocked meanwhile: %v, want ErrRefused", err)
	}
}

// An unsignalled change is learnt by one question while another is under way. What the other finds is good enough for
// itself, but not to be remembered.
func TestOvertakenFactsAreNotRemembered(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.allow("alice", "b", forge.Read)
	x, y := w.publish("x", list(repo("a"))), w.publish("y", list(repo("a"), repo("b")))
	a := w.authorizer()
	get := func(what string, name artifact.Ref, want authz.Verdict) {
		t.Helper()
		if got := verdict(t, a, ask(authz.Read, user("alice"), name)); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	change := func(access forge.Access, want authz.Verdict) func() {
		return func() {
			w.onAsk = nil
			w.pass(time.Second)
			w.allow("alice", "a", access)
			get("the other question", w.publish("newer", list(repo("a"))), want)
		}
	}
	get("a is held", x, allow)
	w.onAsk = change(forge.None, deny) // while b is asked for
	get("under way with the old a", y, allow)
	get("with the new a", y, deny)

	a.InvalidateAll()
	w.allow("alice", "a", forge.Read)
	w.onAsk = change(forge.None, deny) // while a itself is asked for
	get("the older answer arrives last", x, allow)
	get("the newer answer counts", x, deny)
}

func TestFactsExpireWhileOthersAreAskedFor(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.allow("alice", "b", forge.Read)
	x, y := w.publish("x", list(repo("a"))), w.publish("y", list(repo("a"), repo("b")))
	a := w.authorizer()
	w.life = 5 * time.Second
	if got := verdict(t, a, ask(authz.Read, user("alice"), x)); got != allow {
		t.Fatal(got)
	}
	w.life = time.Minute
	w.onAsk = func() { w.pass(5 * time.Second) }
	if got := verdict(t, a, ask(authz.Read, user("alice"), y)); got != unavailable {
		t.Errorf("one fact expired during the other question: %v, want unavailable", got)
	}
}

// Many readers, while a permission comes and goes. Whoever starts to ask after a revocation was made known is denied.
func TestRevocationsUnderLoad(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	x, y := w.publish("x", list(repo("a"))), w.publish("y", list(repo("a"), repo("b")))
	w.allow("alice", "b", forge.Read)
	var (
		revoked atomic.Int64 // even: revoked and made known; odd: granted, or on the way there or back
		stop    atomic.Bool
		wg      sync.WaitGroup
		allowed atomic.Int64
	)
	for i := range 4 {
		wg.Go(func() {
			ref := x
			if i%2 == 1 {
				ref = y
			}
			for !stop.Load() {
				before := revoked.Load()
				answer, _ := a.Decide(t.Context(), ask(authz.Read, user("alice"), ref))
				if answer.Decision.Verdict != allow {
					continue
				}
				allowed.Add(1)
				if before%2 == 0 && revoked.Load() == before {
					t.Error("allowed after the revocation was known")
				}
			}
		})
	}
	for i := range 300 {
		revoked.Add(1)
		w.allow("alice", "a", forge.Read)
		if i%2 == 0 {
			a.InvalidateAll()
		}
		for seen := allowed.Load(); i%10 == 0 && allowed.Load() == seen; {
			a.Invalidate(home, "bob")
			a.Invalidate(home, "alice")
			verdict(t, a, ask(authz.Read, user("alice"), x))
		}
		w.allow("alice", "a", forge.None)
		a.Invalidate(home, "alice")
		revoked.Add(1)
	}
	stop.Store(true)
	wg.Wait()
	if allowed.Load() == 0 {
		t.Error("nobody was ever allowed: the test shows nothing")
	}
}
