package authn_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// forgeTokens is a forge that knows some tokens.
type forgeTokens struct {
	known map[string]bool
	fault error
	asked atomic.Int32
	wait  chan struct{} // answers wait for it, if there is one
}

func (f *forgeTokens) VerifyToken(ctx context.Context, token authn.Secret) error {
	f.asked.Add(1)
	if f.wait != nil {
		select {
		case <-f.wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case f.fault != nil:
		return f.fault
	case !f.known[token.Reveal()]:
		return fmt.Errorf("no such token: %w", authn.ErrNobody)
	}
	return nil
}

func passthrough(t *testing.T, f *forgeTokens, most int, prefixes ...string) (*authn.Passthrough, *authn.HeldTokens, *clock) {
	t.Helper()
	c := &clock{at: time.Unix(1_790_000_000, 0)}
	held, err := authn.NewHeldTokens(authn.NewSecret(strings.Repeat("k", 32)), most, 12*time.Hour, c.now)
	if err != nil {
		t.Fatal(err)
	}
	p, err := authn.NewPassthrough(authn.PassthroughConfig{Forge: "git", Prefixes: prefixes, Held: held, Verifier: f})
	if err != nil {
		t.Fatal(err)
	}
	return p, held, c
}

func showToken(t *testing.T, p *authn.Passthrough, token string) (authn.Principal, error) {
	t.Helper()
	return p.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret(token)})
}

// TestPassthrough: a token that the forge knows is somebody, by an id that does not tell the token, and is asked about once.
func TestPassthrough(t *testing.T) {
	f := &forgeTokens{known: map[string]bool{"glpat-alice": true, "glpat-bob": true}}
	p, held, c := passthrough(t, f, 10)
	alice, err := showToken(t, p, "glpat-alice")
	if err != nil || alice.Validate() != nil || alice.Forge != "git" || alice.Kind != authn.Human || len(alice.ID) != 64 || !alice.Expires.Equal(c.at.Add(12*time.Hour)) {
		t.Fatalf("%+v, %v", alice, err)
	}
	if strings.Contains(fmt.Sprintf("%+v", alice), "glpat") {
		t.Errorf("the principal tells the token: %+v", alice)
	}
	again, err := showToken(t, p, "glpat-alice")
	if err != nil || again.ID != alice.ID || f.asked.Load() != 1 {
		t.Errorf("again: %+v, %v, asked %d times", again, err, f.asked.Load())
	}
	bob, err := showToken(t, p, "glpat-bob")
	if err != nil || bob.ID == alice.ID {
		t.Errorf("bob: %+v, %v", bob, err)
	}
	if token, ok := held.TokenOf(alice.ID); !ok || token.Reveal() != "glpat-alice" {
		t.Errorf("held: %v", ok)
	}
	c.at = c.at.Add(12 * time.Hour)
	if _, ok := held.TokenOf(alice.ID); ok {
		t.Error("held for longer than its time")
	}
	delete(f.known, "glpat-alice")
	if _, err := showToken(t, p, "glpat-alice"); !errors.Is(err, authn.ErrRefused) {
		t.Errorf("after its time, and revoked: %v", err)
	}
}

// TestPassthroughGarbageIsNobody: what the forge does not know is refused, held by nobody, and not asked about at each request.
func TestPassthroughGarbageIsNobody(t *testing.T) {
	f := &forgeTokens{}
	p, _, c := passthrough(t, f, 10)
	for range 100 {
		var r *authn.Refusal
		if who, err := showToken(t, p, "garbage"); !errors.As(err, &r) || r.Reason != authn.UnknownToken || strings.Contains(err.Error(), "garbage") {
			t.Fatalf("%+v, %v", who, err)
		}
	}
	if n := f.asked.Load(); n != 1 {
		t.Errorf("the forge was asked %d times", n)
	}
	f.known = map[string]bool{"garbage": true}
	c.at = c.at.Add(11 * time.Second)
	if _, err := showToken(t, p, "garbage"); err != nil {
		t.Errorf("a token that was made meanwhile: %v", err)
	}
}

// TestPassthroughFaultIsNoAnswer: a forge that does not answer makes nobody, and refuses no token for later.
func TestPassthroughFaultIsNoAnswer(t *testing.T) {
	f := &forgeTokens{known: map[string]bool{"tok": true}, fault: errors.New("answered 502")}
	p, _, _ := passthrough(t, f, 10)
	if who, err := showToken(t, p, "tok"); err == nil || errors.Is(err, authn.ErrRefused) {
		t.Errorf("%+v, %v", who, err)
	}
	f.fault = nil
	if _, err := showToken(t, p, "tok"); err != nil {
		t.Error(err)
	}
}

// TestPassthroughOthersTokens: what is another's is not shown to the forge.
func TestPassthroughOthersTokens(t *testing.T) {
	f := &forgeTokens{}
	for _, prefixes := range [][]string{nil, {"glpat-"}} {
		p, _, _ := passthrough(t, f, 10, prefixes...)
		for what, token := range map[string]string{
			"none": "", "a gate token": "lyg_" + strings.Repeat("A", 49), "a broken gate token": "lyg_x", "an ID token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln",
		} {
			if _, err := showToken(t, p, token); !errors.Is(err, authn.ErrNotMine) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	p, _, _ := passthrough(t, f, 10, "glpat-", "glcbt-")
	if _, err := showToken(t, p, "a password"); !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("without the prefix: %v", err)
	}
	p, _, _ = passthrough(t, f, 10)
	for _, token := range []string{"a password", "tok\r\nX-Evil: 1", "tok\x00", "tök", strings.Repeat("x", 1025)} {
		if _, err := showToken(t, p, token); !errors.Is(err, authn.ErrRefused) {
			t.Errorf("%.20q: %v", token, err)
		}
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the forge was shown %d of them", n)
	}
}

// TestPassthroughIsBounded: the token that was not used for longest goes.
func TestPassthroughIsBounded(t *testing.T) {
	f := &forgeTokens{known: map[string]bool{"a": true, "b": true, "c": true}}
	p, held, _ := passthrough(t, f, 2)
	ids := map[string]string{}
	for _, token := range []string{"a", "b", "a", "c"} {
		who, err := showToken(t, p, token)
		if err != nil {
			t.Fatal(err)
		}
		ids[token] = who.ID
	}
	for token, want := range map[string]bool{"a": true, "b": false, "c": true} {
		if _, ok := held.TokenOf(ids[token]); ok != want {
			t.Errorf("%s is held: %t", token, ok)
		}
	}
}

// TestPassthroughAsksOnce: many requests with one new token are one question, and who leaves takes nobody along.
func TestPassthroughAsksOnce(t *testing.T) {
	f := &forgeTokens{known: map[string]bool{"tok": true}, wait: make(chan struct{})}
	p, _, _ := passthrough(t, f, 10)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.Authenticate(ctx, authn.Credential{Token: authn.NewSecret("tok")})
		left <- err
	}()
	for f.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := showToken(t, p, "tok"); err != nil {
				t.Error(err)
			}
		})
	}
	close(f.wait)
	wg.Wait()
	if n := f.asked.Load(); n != 1 {
		t.Errorf("the forge was asked %d times", n)
	}
}

func TestNewPassthroughRefuses(t *testing.T) {
	held, err := authn.NewHeldTokens(authn.NewSecret(strings.Repeat("k", 32)), 1, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := authn.PassthroughConfig{Forge: "git", Held: held, Verifier: &forgeTokens{}}
	for what, change := range map[string]func(*authn.PassthroughConfig){
		"no forge":              func(c *authn.PassthroughConfig) { c.Forge = "" },
		"no memory":             func(c *authn.PassthroughConfig) { c.Held = nil },
		"no verifier":           func(c *authn.PassthroughConfig) { c.Verifier = nil },
		"an empty prefix":       func(c *authn.PassthroughConfig) { c.Prefixes = []string{""} },
		"gate tokens' prefix":   func(c *authn.PassthroughConfig) { c.Prefixes = []string{"lyg_"} },
		"a part of that prefix": func(c *authn.PassthroughConfig) { c.Prefixes = []string{"ly"} },
		"more than that prefix": func(c *authn.PassthroughConfig) { c.Prefixes = []string{"lyg_x"} },
	} {
		c := good
		if change(&c); second(authn.NewPassthrough(c)) == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for what, err := range map[string]error{
		"a short key": second(authn.NewHeldTokens(authn.NewSecret("short"), 1, time.Hour, nil)),
		"no room":     second(authn.NewHeldTokens(authn.NewSecret(strings.Repeat("k", 32)), 0, time.Hour, nil)),
		"no time":     second(authn.NewHeldTokens(authn.NewSecret(strings.Repeat("k", 32)), 1, 0, nil)),
	} {
		if err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestPassthroughStrangers: tokens that nobody has cannot keep the forge busy, nor those away whose tokens are held.
func TestPassthroughStrangers(t *testing.T) {
	f := &forgeTokens{known: map[string]bool{"glpat-alice": true}}
	p, _, _ := passthrough(t, f, 1000, "glpat-")
	if _, err := showToken(t, p, "glpat-alice"); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		if _, err := showToken(t, p, fmt.Sprintf("glpat-%d", i)); err == nil {
			t.Fatal("a token of nobody is somebody's")
		}
	}
	if n := f.asked.Load(); n > 250 {
		t.Errorf("asked %d times", n)
	}
	if _, err := showToken(t, p, "glpat-stranger"); errors.Is(err, authn.ErrRefused) {
		t.Errorf("a token that was not asked about is refused for good: %v", err)
	}
	if _, err := showToken(t, p, "glpat-alice"); err != nil {
		t.Errorf("a token that is held: %v", err)
	}
}
