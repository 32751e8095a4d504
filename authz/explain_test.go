package authz_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

func TestExplainNextStep(t *testing.T) {
	foreign := repo("x")
	foreign.Locator, foreign.Repo = source.Locator{Host: "github.com", Path: "x/y"}, ""
	bad := source.Source{Type: source.Unresolvable, Reason: "unexpanded variable"}
	for _, tt := range []struct {
		name    string
		verdict string
		step    string
		make    func(w *world) *authz.Request
	}{
		{"allowed", "allow", "nothing: this is allowed now", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"no access", "deny", "ask for read access to git.example.com/team/b", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"), repo("b"), publicRepo())))
		}},
		{"no access to two", "deny", "ask for read access to git.example.com/team/b and git.example.com/team/c", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("c"), repo("b"))))
		}},
		{"nobody's", "deny", "ask for read access to git.example.com/team/b; ask the operator to list as public, or to configure the forge of, github.com/x/y", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("b"), foreign)))
		}},
		{"absent", "deny", "publish it with lychgate push", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), ref("main", "x"))
		}},
		{"no sources", "deny", "publish it again, with the sources", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list()))
		}},
		{"no claim", "deny", "publish it again, with the sources", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x"))
		}},
		{"unresolvable", "deny", "correct that entry of SRC_URI", func(w *world) *authz.Request {
			return ask(authz.Read, user("alice"), w.publish("x", list(bad)))
		}},
		{"forge away", "unavailable", "try again in a minute: a forge did not answer (git.example.com)", func(w *world) *authz.Request {
			w.allow("alice", "a", forge.Unknown)
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"set lost", "deny", "ask the operator to restore the record store", func(w *world) *authz.Request {
			r := w.publish("x", list(repo("a")))
			clear(w.sets)
			return ask(authz.Read, user("alice"), r)
		}},
		{"store broken", "unavailable", "ask the operator to look at the record store", func(w *world) *authz.Request {
			w.broken = errors.New("disk on fire")
			return ask(authz.Read, user("alice"), ref("main", "x"))
		}},
		{"another rule", "deny", "ask whoever keeps the policy about the rule always", func(w *world) *authz.Request {
			w.setPolicy("r", 0, always(deny))
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("b"))))
		}},
		{"blocked", "deny", "to unblock the account", func(w *world) *authz.Request {
			w.users["alice"] = forge.User{ID: "alice", Name: "alice", Blocked: true}
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"unknown", "deny", "they have no user with the id eve", func(w *world) *authz.Request {
			return ask(authz.Read, user("eve"), w.publish("x", list(repo("a"))))
		}},
		{"directory away", "unavailable", "git.example.com did not answer", func(w *world) *authz.Request {
			w.lost = errors.New("lost")
			return ask(authz.Read, user("alice"), w.publish("x", list(repo("a"))))
		}},
		{"no role", "deny", "ask the operator for the role writer in the zone main", func(w *world) *authz.Request {
			w.setPolicy("r", 0, always(deny))
			r := ask(authz.Write, user("alice"), ref("main", "x"))
			r.Write = &authz.WriteFacts{Sources: source.NewSet(list(repo("a")))}
			return r
		}},
	} {
		w := newWorld(t)
		w.allow("alice", "a", forge.Read)
		r := tt.make(w)
		a := w.authorizer()
		e, err := a.Explain(t.Context(), r)
		if e == nil || e.Verdict != tt.verdict || !strings.Contains(e.NextStep, tt.step) {
			t.Errorf("%s: %+v, %v\nwant %s, %q", tt.name, e, err, tt.verdict, tt.step)
			continue
		}
		answer, decideErr := a.Decide(t.Context(), r)
		d := answer.Decision
		if d.Verdict.String() != e.Verdict || d.Rule != e.Rule || !cmp.Equal(d.Reasons, e.Reasons, cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })) || (err == nil) != (decideErr == nil) {
			t.Errorf("%s: Decide says %+v, %v; Explain %+v, %v", tt.name, d, decideErr, e, err)
		}
	}
	if e, err := newWorld(t).authorizer().Explain(t.Context(), &authz.Request{Action: authz.Read}); e != nil || err == nil {
		t.Errorf("a bad request: %+v, %v", e, err)
	}
}

// Explain asks anew, judges every claim, and leaves nothing behind.
func TestExplainIsNeverRemembered(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	x := w.publish("x", list(repo("a")), list(repo("b")))
	a := w.authorizer()
	r := ask(authz.Read, user("alice"), x)
	for i := range 2 {
		w.asked, w.policy.evals = 0, 0
		e, err := a.Explain(t.Context(), r)
		if err != nil || len(e.Claims) != 2 || e.Claims[0].Verdict != "allow" || e.Claims[1].Verdict != "deny" {
			t.Fatalf("%+v, %v", e, err)
		}
		if w.asked != 2 || w.policy.evals != 2 {
			t.Errorf("time %d: %d questions, %d evaluations; want 2, 2", i, w.asked, w.policy.evals)
		}
	}
	if views, _, _ := authz.Sizes(a); views != 0 {
		t.Errorf("%d views left behind", views)
	}
	if answer, _ := decide(t, a, r); answer.Remembered {
		t.Error("what Explain found was remembered")
	}
	w.allow("alice", "a", forge.None)
	if e, _ := a.Explain(t.Context(), r); e.Verdict != "deny" {
		t.Errorf("an unsignalled change: %s, want deny", e.Verdict)
	}
}

func TestExplainJSON(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	w.lag = 2 * time.Second
	x := w.publish("x", list(repo("a"), publicRepo()))
	w.pass(2 * time.Second)
	r := ask(authz.Read, user("alice"), x)
	r.Ref.Zone = "review"
	e, err := w.authorizer().Explain(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const sources = `[{"type":"git","source":"git.example.com/public/zlib","rev":"4b825dc642cb6eb9a060e54bf8d69288fbee4904","repo":"git.example.com:public","public":true,` +
		`"access":"read","fact_age_ms":-1,"origin":"public by configuration"},` +
		`{"type":"git","source":"git.example.com/team/a","rev":"4b825dc642cb6eb9a060e54bf8d69288fbee4904","repo":"git.example.com:a","public":false,` +
		`"access":"read","fact_age_ms":2000,"origin":"world"}]`
	want := `{"verdict":"allow","action":"read","door":"https","zone":"review","name":"x",` +
		`"principal":{"forge":"git.example.com","id":"alice","name":"alice","kind":"human","groups":["all"],"roles":["admin:review"]},` +
		`"record":{"zone":"main","name":"x","digest":"` + artifact.Digest{1}.String() + `","size":7,"place":"blob","writer":"git.example.com/ci","time":"2026-11-21T02:00:00Z"},` +
		`"claims":[{"verdict":"allow","statement":"` + artifact.Digest{2}.String() + `","signer":"ci","rule":"every-source","reasons":[],"sources":` + sources + `,"inputs":` + sources + `}],` +
		`"rule":"every-source","reasons":[],"policy":"r1","next_step":"nothing: this is allowed now"}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	empty, err := json.Marshal(&authz.Explanation{Principal: authz.ExplainedPrincipal{Kind: authn.Anonymous}})
	if err != nil || strings.Contains(string(empty), "null") {
		t.Errorf("%s, %v", empty, err)
	}
}
