package authz_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	allow       = authz.Allow
	deny        = authz.Deny
	unavailable = authz.Unavailable
)

func TestDecideBySources(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.allow("alice", "b", forge.Read)
	w.allow("bob", "a", forge.Read)
	foreign := repo("x")
	foreign.Repo = ""
	garbled := repo("y")
	garbled.Repo = "no colon"
	names := map[string]artifact.Ref{
		"one":     w.publish("one", list(repo("a"))),
		"both":    w.publish("both", list(repo("a"), repo("b"))),
		"public":  w.publish("public", list(publicRepo())),
		"mixed":   w.publish("mixed", list(publicRepo(), repo("b"))),
		"foreign": w.publish("foreign", list(foreign)),
		"garbled": w.publish("garbled", list(garbled)),
		"either":  w.publish("either", list(repo("c")), list(repo("a"))),
		"absent":  ref("main", "absent"),
		"no zone": ref("nowhere", "one"),
	}
	a := w.authorizer()
	for _, tt := range []struct {
		name       string
		alice, bob authz.Verdict
	}{
		{"one", allow, allow},
		{"both", allow, deny},
		{"public", allow, allow},
		{"mixed", allow, deny},
		{"foreign", deny, deny},
		{"garbled", deny, deny},
		{"either", allow, allow},
		{"absent", deny, deny},
		{"no zone", deny, deny},
	} {
		for who, want := range map[string]authz.Verdict{"alice": tt.alice, "bob": tt.bob, "ci": deny} {
			if who == "ci" && tt.name == "public" {
				want = allow
			}
			for _, action := range []authz.Action{authz.Read, authz.Stat, authz.List} {
				for _, remembered := range []bool{false, true} {
					answer, err := decide(t, a, ask(action, user(who), names[tt.name]))
					if answer.Decision.Verdict != want || err != nil {
						t.Errorf("%s %s %s: %v, %v; want %v", who, action, tt.name, answer.Decision, err, want)
					}
					// A second claim rests on other sets, so what is remembered is the answer as a whole.
					if answer.Remembered != remembered {
						t.Errorf("%s %s %s: remembered %v, want %v", who, action, tt.name, answer.Remembered, remembered)
					}
					if got := answer.Record.Digest.IsZero(); got != (tt.name == "absent" || tt.name == "no zone") {
						t.Errorf("%s: record %+v", tt.name, answer.Record)
					}
				}
				a.InvalidateAll()
			}
		}
	}
}

// TestHostDenials are the denials that a policy which allows everything cannot override.
func TestHostDenials(t *testing.T) {
	bad := source.Source{Type: source.Unresolvable, Reason: "unexpanded variable"}
	errBroken := errors.New("disk on fire")
	for _, tt := range []struct {
		name string
		code string
		want authz.Verdict
		err  error // nil: none
		make func(w *world) *authz.Request
	}{
		{"no record", "not_recorded", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), ref("main", "absent"))
		}},
		{"no name", "not_recorded", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Stat, user("alice"), artifact.Ref{Zone: "main"})
		}},
		{"no sources", "no_sources", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list()))
		}},
		{"no claim", "no_sources", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x"))
		}},
		{"unresolvable", "unresolvable_source", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(publicRepo(), bad)))
		}},
		{"set lost", "missing_source_set", deny, errAny, func(w *world) *authz.Request {
			r := w.publish("x", list(publicRepo()))
			clear(w.sets)
			return ask(authz.Read, user("alice"), r)
		}},
		{"set swapped", "missing_source_set", deny, errAny, func(w *world) *authz.Request {
			r := w.publish("x", list(repo("a")))
			w.sets[w.records[r].Claims[0].Sources] = source.NewSet(list(publicRepo()))
			return ask(authz.Read, user("alice"), r)
		}},
		{"store broken", "store_failed", unavailable, errBroken, func(w *world) *authz.Request {
			w.broken = errBroken
			return ask(authz.Read, user("alice"), ref("main", "x"))
		}},
		{"forge down", "permission_unknown", unavailable, nil, func(w *world) *authz.Request {
			w.down = errBroken
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"fact without limit", "permission_unknown", unavailable, nil, func(w *world) *authz.Request {
			w.life = 0
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"fact of 300 s", "permission_unknown", unavailable, nil, func(w *world) *authz.Request {
			r := w.publish("x", list(repo("a")))
			w.life, w.lag = 24*time.Hour, 300*time.Second
			w.records[r] = at(w.records[r], w.clock.Add(-time.Hour))
			return ask(authz.Read, user("alice"), r)
		}},
		{"fact older than the artifact", "permission_unknown", unavailable, nil, func(w *world) *authz.Request {
			w.lag = time.Second
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"blocked", "user_refused", deny, authn.ErrRefused, func(w *world) *authz.Request {
			w.users["alice"] = forge.User{ID: "alice", Name: "alice", Blocked: true}
			return ask(authz.Read, user("alice"), w.publish("x", list(publicRepo())))
		}},
		{"unknown user", "user_refused", deny, authn.ErrRefused, func(w *world) *authz.Request {
			return ask(authz.Read, user("eve"), w.publish("x", list(publicRepo())))
		}},
		{"another forge's user", "user_refused", deny, authn.ErrRefused, func(w *world) *authz.Request {
			p := user("alice")
			p.Forge = "other"
			return ask(authz.Read, p, w.publish("x", list(publicRepo())))
		}},
		{"expired credential", "user_refused", deny, authn.ErrRefused, func(w *world) *authz.Request {
			p := user("alice")
			p.Expires = w.clock
			return ask(authz.Read, p, w.publish("x", list(publicRepo())))
		}},
		{"directory down", "user_unknown", unavailable, authz.ErrUnavailable, func(w *world) *authz.Request {
			w.lost = errBroken
			return ask(authz.Read, user("alice"), w.publish("x", list(publicRepo())))
		}},
		{"anonymous", "anonymous", deny, nil, func(w *world) *authz.Request {
			return ask(authz.Read, &authn.Principal{Kind: authn.Anonymous}, w.publish("x", list(publicRepo())))
		}},
		{"nobody", "bad_request", deny, errAny, func(w *world) *authz.Request {
			return ask(authz.Read, nil, w.publish("x", list(publicRepo())))
		}},
		{"write without statement", "bad_request", deny, errAny, func(w *world) *authz.Request {
			return ask(authz.Write, user("alice"), ref("main", "x"))
		}},
	} {
		w := newWorld(t)
		w.allow("alice", "a", forge.Read)
		w.setPolicy("yes", 0, always(allow))
		r := tt.make(w)
		a := w.authorizer()
		for range 2 {
			answer, err := decide(t, a, r)
			d := answer.Decision
			if d.Verdict != tt.want || d.Rule != "lychgate" || !strings.HasPrefix(d.Reasons[0], tt.code+": ") {
				t.Errorf("%s: %+v, %v; want %v by %s", tt.name, d, err, tt.want, tt.code)
			}
			if tt.err == errAny && err == nil || tt.err != nil && tt.err != errAny && !errors.Is(err, tt.err) {
				t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
			}
		}
	}
}

// errAny stands for any error.
var errAny = errors.New("any")

func at(r provenance.Record, when time.Time) provenance.Record {
	r.Time = when
	return r
}

func TestPolicyFailures(t *testing.T) {
	for name, rule := range map[string]func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error){
		"error": func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) {
			return authz.Decision{Verdict: allow}, errors.New("undefined")
		},
		"panic": func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) { panic("oh") },
		"deadline": func(ctx context.Context, _ authz.Request, _ *authz.Facts) (authz.Decision, error) {
			<-ctx.Done()
			return authz.Decision{Verdict: allow}, nil
		},
	} {
		w := newWorld(t)
		w.setPolicy("r", 0, rule)
		a := w.authorizer()
		r := ask(authz.Read, user("alice"), w.publish("x", list(publicRepo())))
		answer, err := decide(t, a, r)
		if d := answer.Decision; d.Verdict != deny || err == nil || d.Rule != "lychgate" || !strings.HasPrefix(d.Reasons[0], "policy_failed: ") {
			t.Errorf("%s: %+v, %v; want a denial and an error", name, d, err)
		}
		w.setPolicy("r", 0, always(allow))
		if verdict(t, a, r) != allow {
			t.Errorf("%s: the failure was remembered", name)
		}
	}
	w := newWorld(t)
	w.setPolicy("r", 0, always(authz.Verdict(7)))
	if got := verdict(t, w.authorizer(), ask(authz.Read, user("alice"), w.publish("x", list(publicRepo())))); got != deny {
		t.Errorf("a verdict that is none: %v", got)
	}
}

func TestAnonymousOK(t *testing.T) {
	w := newWorld(t)
	w.setPolicy("r", 0, func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) {
		return authz.Decision{Verdict: allow, AnonymousOK: true}, nil
	})
	a, nobody := w.authorizer(), &authn.Principal{Kind: authn.Anonymous}
	if got := verdict(t, a, ask(authz.Read, nobody, w.publish("x", list(publicRepo())))); got != allow {
		t.Errorf("anonymous, by the policy's word: %v, want allow", got)
	}
	answer, _ := decide(t, a, ask(authz.Read, nobody, ref("main", "absent")))
	if answer.Decision.Verdict != deny || answer.Decision.AnonymousOK {
		t.Errorf("an absent name: %+v, want a denial that says nothing of anonymous", answer.Decision)
	}
}

func TestBaseZones(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.publish("x", list(repo("a")))
	shadow := w.records[ref("main", "x")]
	shadow.Ref.Zone = "review"
	shadow.Claims = []provenance.Claim{{Sources: w.set(repo("b")), Inputs: w.set(repo("b"))}}
	a := w.authorizer()
	answer, _ := decide(t, a, ask(authz.Read, user("alice"), ref("review", "x")))
	if answer.Decision.Verdict != allow || answer.Record.Ref.Zone != "main" || answer.Decision.Facts.Zone != "main" {
		t.Errorf("through the base: %+v", answer)
	}
	w.with(func() { w.records[shadow.Ref] = shadow })
	if got := verdict(t, a, ask(authz.Read, user("alice"), ref("review", "x"))); got != deny {
		t.Errorf("the first record found decides: %v, want deny", got)
	}
	if got := verdict(t, a, ask(authz.Read, user("alice"), ref("main", "x"))); got != allow {
		t.Errorf("the base itself: %v, want allow", got)
	}
}

func TestRemembersBySourcesAndFootprint(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.setPolicy("r1", authz.FieldTask, everySource)
	x, y, z := w.publish("x", list(repo("a"))), w.publish("y", list(repo("a"))), w.publish("z", list(repo("a")))
	w.with(func() {
		r := w.records[z]
		delete(w.records, z)
		z.Task, r.Ref.Task = "deploy", "deploy"
		w.records[z] = r
	})
	a := w.authorizer()
	step := func(what string, r *authz.Request, evals, asked int) {
		t.Helper()
		w.policy.evals, w.asked = 0, 0
		if got := verdict(t, a, r); got != allow || w.policy.evals != evals || w.asked != asked {
			t.Errorf("%s: %v with %d evaluations and %d questions; want allow, %d, %d", what, got, w.policy.evals, w.asked, evals, asked)
		}
	}
	alice := user("alice")
	step("first", ask(authz.Read, alice, x), 1, 1)
	step("again", ask(authz.Read, alice, x), 0, 0)
	step("another name of the same sources", ask(authz.Read, alice, y), 0, 0)
	step("another action", ask(authz.Stat, alice, x), 1, 0)
	step("another task, which the policy reads", ask(authz.Read, alice, z), 1, 0)
	other := *alice
	other.Credential = "another"
	step("another credential", ask(authz.Read, &other, x), 1, 1)
	w.setPolicy("r2", authz.FieldTask, everySource)
	step("another revision", ask(authz.Read, alice, x), 1, 0)
	w.setPolicy("r1", authz.FieldTask, everySource)
	step("the revision before", ask(authz.Read, alice, x), 0, 0)
	a.Invalidate(home, "alice")
	step("after an invalidation", ask(authz.Read, alice, x), 1, 1)
	a.InvalidateAll()
	step("after invalidating all", ask(authz.Read, alice, x), 1, 1)
	w.with(func() { w.policy.print.Remember = false })
	a.InvalidateAll()
	step("a policy that is not pure", ask(authz.Read, alice, x), 1, 1)
	step("and again", ask(authz.Read, alice, x), 1, 0)
}

// What a policy reads of the claim and of where it was found tells answers apart, though the sources are the same.
func TestRemembersBySignerAndPlace(t *testing.T) {
	w := newWorld(t)
	x, y := w.publish("x", list(publicRepo()), list(publicRepo())), w.publish("y", list(publicRepo()))
	w.records[x].Claims[1].Signer = "trusted"
	a := w.authorizer()
	w.setPolicy("signer", authz.FieldSigner, func(_ context.Context, _ authz.Request, f *authz.Facts) (authz.Decision, error) {
		if f.Claim.Signer == "trusted" {
			return authz.Decision{Verdict: allow}, nil
		}
		return authz.Decision{}, nil
	})
	if got := verdict(t, a, ask(authz.Read, user("alice"), x)); got != allow {
		t.Errorf("the second claim's signer: %v, want allow", got)
	}
	if got := verdict(t, a, ask(authz.Read, user("alice"), y)); got != deny {
		t.Errorf("the other signer: %v, want deny", got)
	}
	own := w.records[y]
	own.Ref.Zone = "review"
	w.records[own.Ref] = own
	w.setPolicy("place", authz.FieldZone, func(_ context.Context, _ authz.Request, f *authz.Facts) (authz.Decision, error) {
		if f.Zone == "main" {
			return authz.Decision{Verdict: allow}, nil
		}
		return authz.Decision{}, nil
	})
	for name, want := range map[string]authz.Verdict{"x": allow, "y": deny} {
		if got := verdict(t, a, ask(authz.Read, user("alice"), ref("review", name))); got != want {
			t.Errorf("%s through review: %v, want %v", name, got, want)
		}
	}
}

// A policy that is replaced while it is asked must not be remembered under the revision before.
func TestReplacedPolicyIsNotRemembered(t *testing.T) {
	w := newWorld(t)
	w.setPolicy("old", 0, always(allow))
	c := w.config()
	c.Policy = swapping{w}
	a, err := authz.New(c)
	if err != nil {
		t.Fatal(err)
	}
	x := w.publish("x", list(publicRepo()))
	for range 2 {
		answer, _ := decide(t, a, ask(authz.Read, user("alice"), x))
		if answer.Decision.Verdict != allow || answer.Remembered {
			t.Errorf("%+v; want allow, and not from memory", answer)
		}
	}
}

// swapping is a policy whose footprint is always that of the revision before.
type swapping struct{ *world }

func (s swapping) Evaluate(ctx context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	d, err := s.world.Evaluate(ctx, r, f)
	d.Revision = "new"
	return d, err
}

func TestFreshness(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	x, b := w.publish("x", list(repo("a"))), w.publish("b", list(repo("b")))
	a := w.authorizer()
	step := func(what string, who string, ref artifact.Ref, want authz.Verdict, asked int) {
		t.Helper()
		w.asked = 0
		if got := verdict(t, a, ask(authz.Read, user(who), ref)); got != want || w.asked != asked {
			t.Errorf("%s: %v with %d questions; want %v, %d", what, got, w.asked, want, asked)
		}
	}
	step("learnt", "alice", x, allow, 1)
	step("learnt", "alice", b, deny, 1)
	w.allow("alice", "a", forge.None)
	w.allow("alice", "b", forge.Read)
	w.pass(9 * time.Second)
	step("a no of 9 s", "alice", b, deny, 0)
	w.pass(time.Second)
	step("a no of 10 s", "alice", b, allow, 1)
	w.pass(49 * time.Second)
	step("a yes of 59 s", "alice", x, allow, 0)
	w.pass(time.Second)
	step("a yes of 60 s", "alice", x, deny, 1)

	w.allow("bob", "a", forge.Read)
	w.with(func() { w.life = 5 * time.Second })
	step("a short promise", "bob", x, allow, 1)
	w.pass(5 * time.Second)
	w.allow("bob", "a", forge.None)
	step("kept", "bob", x, deny, 1)

	w.with(func() { w.life = 300 * time.Second })
	w.allow("ci", "a", forge.Read)
	step("before publishing", "ci", x, allow, 1)
	w.pass(time.Second)
	w.allow("ci", "a", forge.None)
	y := w.publish("y", list(repo("a")))
	step("a fact older than the artifact", "ci", y, deny, 1)
	step("what it contradicts is forgotten", "ci", x, deny, 0)

	a.InvalidateAll()
	w.with(func() { w.lag = -time.Hour })
	w.allow("ci", "a", forge.Read)
	step("by a clock that is fast", "ci", x, allow, 1)
	w.pass(time.Second)
	w.allow("ci", "a", forge.None)
	step("a fast clock does not make facts fresh", "ci", w.publish("z", list(repo("a"))), deny, 1)
}

func TestForgeAway(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.allow("alice", "gone", forge.Unknown)
	known, open := w.publish("known", list(repo("a"))), w.publish("open", list(repo("gone")))
	hopeless := w.publish("hopeless", list(repo("gone"), repo("b")))
	either := w.publish("either", list(repo("gone")), list(repo("a")))
	absent := ref("main", "absent")
	a := w.authorizer()
	get := func(what string, ref artifact.Ref, want authz.Verdict) {
		t.Helper()
		if got := verdict(t, a, ask(authz.Read, user("alice"), ref)); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	get("absent, before", absent, deny)
	get("another claim allows", either, allow)
	w.pass(10 * time.Second)
	get("absent, after that", absent, deny)
	get("a question left open", open, unavailable)
	get("absent, meanwhile", absent, unavailable)
	get("denied whatever the answer, meanwhile", hopeless, unavailable)
	get("allowed, meanwhile", known, allow)
	w.pass(10 * time.Second)
	get("absent, 10 s later", absent, deny)
	a.InvalidateAll()
	w.allow("alice", "gone", forge.Read)
	get("answered", open, allow)

	w.allow("bob", "gone", forge.Unknown)
	answer, err := decide(t, a, ask(authz.Read, user("bob"), hopeless))
	if answer.Decision.Verdict != unavailable || answer.Decision.Rule == "lychgate" || err != nil {
		t.Errorf("bob: %+v, %v; want the policy's denial, veiled", answer.Decision, err)
	}
}

// A client that hangs up while its forge is asked does not make the forge count as away.
func TestCancelledQuestion(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	a := w.authorizer()
	ctx, cancel := context.WithCancel(t.Context())
	w.down, w.onAsk = context.Canceled, cancel
	r := ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
	if answer, err := a.Decide(ctx, r); answer.Decision.Verdict == allow || err == nil {
		t.Errorf("cancelled: %+v, %v", answer.Decision, err)
	}
	w.down, w.onAsk = nil, nil
	if got := verdict(t, a, ask(authz.Read, user("alice"), ref("main", "absent"))); got != deny {
		t.Errorf("absent, after that: %v, want deny", got)
	}
	if got := verdict(t, a, r); got != allow {
		t.Errorf("asked again: %v, want allow", got)
	}
}

func TestWritesAreNeverRemembered(t *testing.T) {
	w := newWorld(t)
	w.allow("ci", "a", forge.Read)
	var seen authz.Facts
	var roles []string
	w.setPolicy("r", 0, func(_ context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
		seen, roles = *f, r.Principal.Roles
		return authz.Decision{Verdict: allow}, nil
	})
	a := w.authorizer()
	r := ask(authz.Write, user("ci"), ref("main", "new"))
	r.Write = &authz.WriteFacts{Signer: "ci-key", Sources: source.NewSet(list(repo("a"))), Inputs: source.NewSet(list(repo("a"), repo("b"), publicRepo()))}
	for range 2 {
		answer, err := decide(t, a, r)
		if answer.Decision.Verdict != allow || answer.Remembered || err != nil {
			t.Errorf("write: %+v, %v", answer, err)
		}
	}
	if w.policy.evals != 2 {
		t.Errorf("%d evaluations, want 2", w.policy.evals)
	}
	if len(seen.Sources) != 1 || seen.Sources[0].Fact.Access != forge.Read || len(seen.Inputs) != 3 || seen.Claim.Signer != "ci-key" {
		t.Errorf("the policy saw %+v", seen)
	}
	if fmt.Sprint(roles) != "[writer:main]" {
		t.Errorf("roles %v", roles)
	}
	r.Write = &authz.WriteFacts{Signer: "ci-key"}
	if got := verdict(t, a, r); got != allow {
		t.Errorf("a write without sources is the policy's to refuse: %v", got)
	}
}

func TestZoneActions(t *testing.T) {
	w := newWorld(t)
	w.setPolicy("r", authz.FieldZone, func(_ context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
		if f.Recorded || len(f.Sources) > 0 {
			t.Errorf("%s: facts %+v", r.Action, f)
		}
		for _, role := range r.Principal.Roles {
			if role == "admin:"+r.Ref.Zone {
				return authz.Decision{Verdict: allow}, nil
			}
		}
		return authz.Decision{}, nil
	})
	a := w.authorizer()
	for _, action := range []authz.Action{authz.Admin, authz.List, authz.Report} {
		for zone, want := range map[string]authz.Verdict{"main": deny, "review": allow} {
			for range 2 {
				if got := verdict(t, a, ask(action, user("alice"), artifact.Ref{Zone: zone})); got != want {
					t.Errorf("%s in %s: %v, want %v", action, zone, got, want)
				}
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		want   string
		change func(c *authz.Config)
	}{
		{"Config.Records", func(c *authz.Config) { c.Records = nil }},
		{"Config.Forge", func(c *authz.Config) { c.Forge = nil }},
		{"Config.Directory", func(c *authz.Config) { c.Directory = nil }},
		{"Config.Policy", func(c *authz.Config) { c.Policy = nil }},
		{"configured twice", func(c *authz.Config) { c.Zones = append(c.Zones, c.Zones[0]) }},
		{"unknown zone \"x\"", func(c *authz.Config) { c.Zones[0].Base = "x" }},
		{"rests on itself", func(c *authz.Config) { c.Zones[0].Base = "review" }},
		{"rests on the review zone", func(c *authz.Config) {
			c.Zones = append(c.Zones, artifact.Zone{Name: "x", Review: true})
			c.Zones[0].Base = "x"
		}},
		{"use writer or admin", func(c *authz.Config) { c.Grants[0].Role = "root" }},
		{"configure the zone", func(c *authz.Config) { c.Grants[0].Zone = "x" }},
		{"write FORGE/NAME", func(c *authz.Config) { c.Grants[0].Users = []string{"alice"} }},
		{"write FORGE/NAME", func(c *authz.Config) { c.Grants[0].Groups = []string{"f/"} }},
		{"write FORGE/#ID", func(c *authz.Config) { c.Grants[0].Users = []string{"f/#"} }},
		{"name of a forge", func(c *authz.Config) { c.Grants[0].Users = []string{"F/x"} }},
		{"is /#ID", func(c *authz.Config) { c.Grants[0].Users = []string{"/alice"} }},
		{"is /#ID", func(c *authz.Config) { c.Grants[0].Groups = []string{"/#ops"} }},
	} {
		c := newWorld(t).config()
		tt.change(&c)
		if _, err := authz.New(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

// TestReviewJobsWriteToReviewZones: whatever the grants say, a job that nobody vouches for gets the writer's role in review zones and no
// other role, and the same principal with a credential that somebody vouches for gets all.
func TestReviewJobsWriteToReviewZones(t *testing.T) {
	c := newWorld(t).config()
	c.Zones[1].Review = true
	c.Grants = nil
	for _, zone := range []string{"main", "review"} {
		for _, role := range []string{"writer", "admin"} {
			c.Grants = append(c.Grants, authz.Grant{Role: role, Zone: zone, Users: []string{"/#job"}})
		}
	}
	a, err := authz.New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		review bool
		want   string
	}{
		{false, "[admin:main admin:review writer:main writer:review]"},
		{true, "[writer:review]"},
		{false, "[admin:main admin:review writer:main writer:review]"},
	} {
		p, err := a.Identify(t.Context(), authn.Principal{ID: "job", Kind: authn.CI, Credential: "same", Review: row.review})
		if err != nil || fmt.Sprint(p.Roles) != row.want {
			t.Errorf("review %v: roles %v, %v", row.review, p.Roles, err)
		}
	}
}
