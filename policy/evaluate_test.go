package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

func TestShippedDefaultThroughEvaluate(t *testing.T) {
	signers := map[string]any{"zones": map[string]any{"main": map[string]any{"signers": []any{"ci-main"}}}}
	transitive := map[string]any{"transitive": true}
	public := sourceFact("public/zlib", forge.Unknown)
	public.Public = true
	broken := authz.SourceFact{Source: source.Source{Type: source.Unresolvable, Reason: "unknown scheme"}, Public: true}
	broken.Fact.Access = forge.Read
	closed := sourceFact("teamA/secret-tool", forge.None)
	tests := []struct {
		name   string
		config map[string]any
		change func(*authz.Request, *authz.Facts)
		want   authz.Verdict
		reason string
	}{
		{"all readable", nil, nil, authz.Allow, "sources_readable: "},
		{"public", nil, func(_ *authz.Request, f *authz.Facts) { f.Sources = []authz.SourceFact{public} }, authz.Allow, "sources_readable: "},
		{"one closed", nil, func(_ *authz.Request, f *authz.Facts) { f.Sources = append(f.Sources, closed) }, authz.Deny, "source_unreadable: git.example.com/teamA/secret-tool (access none)"},
		{"unknown", nil, func(_ *authz.Request, f *authz.Facts) { f.Sources[0].Fact.Access = forge.Unknown }, authz.Deny, "source_unreadable: git.example.com/team/repo-000 (access unknown)"},
		{"no sources", nil, func(_ *authz.Request, f *authz.Facts) { f.Sources = nil }, authz.Deny, "no_sources: "},
		{"not recorded", nil, func(_ *authz.Request, f *authz.Facts) { f.Recorded = false }, authz.Deny, "not_recorded: "},
		{"unresolvable, whatever the facts say", nil, func(_ *authz.Request, f *authz.Facts) { f.Sources = append(f.Sources, broken) }, authz.Deny, "unresolvable_source: unknown scheme"},
		{"closed input", nil, func(_ *authz.Request, f *authz.Facts) { f.Inputs = []authz.SourceFact{closed} }, authz.Allow, "sources_readable: "},
		{"closed input, transitive", transitive, func(_ *authz.Request, f *authz.Facts) { f.Inputs = []authz.SourceFact{closed} }, authz.Deny, "input_unreadable: "},
		{"transitive", transitive, nil, authz.Allow, "sources_readable: "},
		{"transitive without inputs", transitive, func(_ *authz.Request, f *authz.Facts) { f.Inputs = nil }, authz.Deny, "no_inputs: "},
		{"anonymous", nil, func(r *authz.Request, _ *authz.Facts) { r.Principal = &authn.Principal{Kind: authn.Anonymous} }, authz.Deny, "anonymous: "},
		{"an unknown action", nil, func(r *authz.Request, _ *authz.Facts) { r.Action = "chmod" }, authz.Deny, "unknown_action: "},
		{"write", signers, func(r *authz.Request, f *authz.Facts) { *r, *f = pair(writeQuestion("ci-main")) }, authz.Allow, "writer: "},
		{"write, statement forging its signer", map[string]any{"zones": map[string]any{"main": map[string]any{"signers": []any{"forged"}}}}, func(r *authz.Request, f *authz.Facts) { *r, *f = pair(writeQuestion("ci-main")) }, authz.Deny, "signer_not_allowed: ci-main"},
		{"write without configuration", nil, func(r *authz.Request, f *authz.Facts) { *r, *f = pair(writeQuestion("ci-main")) }, authz.Deny, "signer_not_allowed: "},
		{"write without role", signers, func(r *authz.Request, f *authz.Facts) {
			*r, *f = pair(writeQuestion("ci-main"))
			r.Principal = &authn.Principal{Kind: authn.CI}
		}, authz.Deny, "not_a_writer: "},
		{"admin without role", signers, func(r *authz.Request, f *authz.Facts) {
			r.Action, r.Ref, *f = authz.Admin, artifact.Ref{Zone: "main"}, authz.Facts{Now: noon}
		}, authz.Deny, "not_an_admin: "},
		{"admin", nil, func(r *authz.Request, f *authz.Facts) {
			r.Action, r.Ref, *f = authz.Admin, artifact.Ref{Zone: "main"}, authz.Facts{Now: noon}
			r.Principal = &authn.Principal{Roles: []string{"admin:main"}}
		}, authz.Allow, "admin: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEngine(t, Config{Data: tt.config})
			r, f := question(2)
			if tt.change != nil {
				tt.change(&r, f)
			}
			d, err := evaluate(t, e, r, f)
			if err != nil {
				t.Fatal(err)
			}
			if d.Verdict != tt.want || !strings.HasPrefix(d.Reasons[0], tt.reason) {
				t.Errorf("verdict %v, reasons %q; want %v, %q", d.Verdict, d.Reasons, tt.want, tt.reason)
			}
			if d.Facts != f || d.Revision != e.Footprint().Revision || d.AnonymousOK {
				t.Errorf("decision %+v lacks its facts or revision, or lets the anonymous in", d)
			}
		})
	}
}

func pair(r authz.Request, f *authz.Facts) (authz.Request, authz.Facts) { return r, *f }

// TestInputDocument holds the document that a policy sees to docs/policy-input.md's example, member by member.
func TestInputDocument(t *testing.T) {
	r, f := writeQuestion("ci-main")
	f.Sources[0].Public = true
	f.Inputs = []authz.SourceFact{{Source: source.Source{Type: source.Unresolvable, Reason: "no scheme"}}}
	r.Principal.Claims = map[string]any{"team": []string{"a"}, "level": 3}
	r.Principal.Review = true
	r.Ref.Part = artifact.Siginfo
	got, err := newEngine(t, Config{}).Input(r, f)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
		"action": "write", "door": "https", "zone": "main",
		"principal": {"forge": "", "id": "", "name": "ci", "kind": "ci", "groups": [], "claims": {"team": ["a"], "level": 3}, "roles": ["writer:main"], "review": true},
		"artifact": {
			"kind": "sstate", "zone": "main", "path": "ab/cd/sstate:zlib", "part": "siginfo", "hash": "abcd", "recipe": "zlib",
			"version": "1.3", "arch": "core2-64", "task": "package", "signer": "ci-main", "recorded": false,
			"sources": [{"type": "git", "host": "git.example.com", "path": "team/repo-000", "repo": "git.example.com:team/repo-000", "rev": "1f2e3d", "public": true, "access": "read"}],
			"inputs": [{"type": "unresolvable", "host": "", "path": "", "repo": "", "rev": "", "public": false, "access": "none", "reason": "no scheme"}]
		},
		"write": {"statement": {"job": "nightly", "signer": "ci-main"}},
		"now_minute": 29566800
	}`
	var a, b any
	if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal([]byte(want), &b)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Error(diff)
	}
}

// TestCachesDoNotMixUp asks with sources that differ in one member each, after another was cached.
func TestCachesDoNotMixUp(t *testing.T) {
	e := engineOf(t, `allow if input.artifact.sources[0] == {"type": "git", "host": "h", "path": "p", "repo": "f:1", "rev": "r", "public": false, "access": "read"}`)
	base := authz.SourceFact{
		Source: source.Source{Type: source.Git, Locator: source.Locator{Host: "h", Path: "p"}, Repo: "f:1", Rev: "r"},
		Fact:   forge.Fact{Access: forge.Read},
	}
	changes := map[string]func(*authz.SourceFact){
		"none":   func(*authz.SourceFact) {},
		"type":   func(f *authz.SourceFact) { f.Type = source.Hg },
		"host":   func(f *authz.SourceFact) { f.Locator.Host = "x" },
		"path":   func(f *authz.SourceFact) { f.Locator.Path = "x" },
		"repo":   func(f *authz.SourceFact) { f.Repo = "f:2" },
		"rev":    func(f *authz.SourceFact) { f.Rev = "x" },
		"public": func(f *authz.SourceFact) { f.Public = true },
		"access": func(f *authz.SourceFact) { f.Fact.Access = forge.None },
	}
	for range 2 {
		for name, change := range changes {
			r, f := question(0)
			one := base
			change(&one)
			f.Sources = []authz.SourceFact{one}
			d, err := evaluate(t, e, r, f)
			if err != nil || (d.Verdict == authz.Allow) != (name == "none") {
				t.Errorf("change %s: %v, %v", name, d.Verdict, err)
			}
		}
	}
}

// TestBrokenPolicies shows that whatever a policy does wrong is a denial with a stable code.
func TestBrokenPolicies(t *testing.T) {
	loop := `import rego.v1
allow if count([1 | some a in numbers.range(1, 1000); some b in numbers.range(1, 1000); some c in numbers.range(1, 1000); a + b + c == 0]) == 1`
	tests := []struct{ name, module, code string }{
		{"conflict", frame(`allow := true if input.zone == "main"` + "\n" + `allow := false if input.action == "read"`), "policy_conflict"},
		{"function conflict", frame("f(x) := 1 if x\nf(x) := 2 if x\nallow if f(true) == 1"), "policy_conflict"},
		{"object key conflict", frame(`o[k] := v if some k, v in {"a": 1}` + "\n" + `o[k] := v if some k, v in {"a": 2}` + "\n" + `allow if o.a == 1`), "policy_conflict"},
		{"number", frame(`allow := 1 if input.zone`), "policy_not_boolean"},
		{"string", frame(`allow := "true" if input.zone`), "policy_not_boolean"},
		{"null", frame(`allow := null if input.zone`), "policy_not_boolean"},
		{"object", frame(`allow := {"allow": true} if input.zone`), "policy_not_boolean"},
		{"builtin error", frame(`allow if to_number(input.zone) == 1`), "policy_error"},
		{"division by zero", frame(`allow if 1 / (input.now_minute - input.now_minute) == 1`), "policy_error"},
		{"endless comprehension", frame(loop), "policy_deadline"},
		{"huge range", frame(`allow if count(numbers.range(1, 1000000000)) == 1`), "policy_deadline"},
		{"decision undefined", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": []} if not input.zone", "policy_undefined"},
		{"decision disagrees", "package lychgate\ndefault allow := false\ndecision := {\"allow\": true, \"reasons\": [\"x\"]}", "policy_disagrees"},
		{"decision denies what allow allows", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": false, \"reasons\": [\"x\"]}", "policy_disagrees"},
		{"decision is a boolean", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := true", "policy_malformed"},
		{"decision without allow", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"reasons\": []}", "policy_malformed"},
		{"allow in words", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": \"true\", \"reasons\": []}", "policy_malformed"},
		{"no reasons", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true}", "policy_malformed"},
		{"reasons of numbers", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": [1]}", "policy_malformed"},
		{"reasons an object", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": {\"a\": \"b\"}}", "policy_malformed"},
		{"reasons a string", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": \"fine\"}", "policy_malformed"},
		{"rule a number", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": [], \"rule\": 1}", "policy_malformed"},
		{"anonymous_ok in words", "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": true, \"reasons\": [], \"anonymous_ok\": \"yes\"}", "policy_malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: bundleDir(t, map[string]string{"p.rego": tt.module})}
			if tt.code == "policy_deadline" {
				cfg.Deadline = 50 * time.Millisecond
			}
			e := newEngine(t, cfg)
			r, f := question(1)
			d, err := e.Evaluate(t.Context(), r, f)
			if d.Verdict != authz.Deny || !errors.Is(err, ErrBroken) {
				t.Fatalf("verdict %v, error %v; want a denial that wraps ErrBroken", d.Verdict, err)
			}
			if d.Rule != "engine" || !strings.HasPrefix(d.Reasons[0], tt.code+": ") {
				t.Errorf("rule %q, reasons %q; want engine and %s", d.Rule, d.Reasons, tt.code)
			}
		})
	}
}

func TestPanicIsADenial(t *testing.T) {
	e := engineOf(t, "allow if input.zone")
	e.active.Load().compiler = nil // what follows dereferences it
	r, f := question(1)
	d, err := evaluate(t, e, r, f)
	if !errors.Is(err, ErrBroken) || !strings.HasPrefix(d.Reasons[0], "policy_panic: ") {
		t.Errorf("reasons %q, error %v; want policy_panic", d.Reasons, err)
	}
}

func TestEvaluateNeedsItsArguments(t *testing.T) {
	e := engineOf(t, "allow if true")
	r, f := question(1)
	noPrincipal := r
	noPrincipal.Principal = nil
	badClaims := r
	badClaims.Principal = &authn.Principal{Claims: map[string]any{"f": func() {}}}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, ask := range map[string]func() (authz.Decision, error){
		"no principal":    func() (authz.Decision, error) { return e.Evaluate(t.Context(), noPrincipal, f) },
		"no facts":        func() (authz.Decision, error) { return e.Evaluate(t.Context(), r, nil) },
		"bad claims":      func() (authz.Decision, error) { return e.Evaluate(t.Context(), badClaims, f) },
		"context is over": func() (authz.Decision, error) { return e.Evaluate(over, r, f) },
	} {
		if d, err := ask(); d.Verdict != authz.Deny || !errors.Is(err, ErrBroken) {
			t.Errorf("%s: verdict %v, error %v; want a denial", name, d.Verdict, err)
		}
	}
}

func TestAnonymousNeedsTheWord(t *testing.T) {
	for word, want := range map[string]authz.Verdict{
		`"anonymous_ok": true`: authz.Allow, `"anonymous_ok": false`: authz.Deny, `"rule": "x"`: authz.Deny,
	} {
		module := "package lychgate\ndefault allow := false\nallow if input.zone\ndecision := {\"allow\": allow, \"reasons\": [\"x\"], " + word + "}"
		e := newEngine(t, Config{Dir: bundleDir(t, map[string]string{"p.rego": module})})
		r, f := question(1)
		r.Principal = &authn.Principal{Kind: authn.Anonymous}
		if d, err := e.Evaluate(t.Context(), r, f); err != nil || d.Verdict != want || d.AnonymousOK != (want == authz.Allow) {
			t.Errorf("%s: %+v, %v", word, d, err)
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	e := newEngine(t, Config{Dir: bundleDir(t, map[string]string{"p.rego": `package lychgate
default allow := false
decision := {"allow": false, "rule": concat("", many), "reasons": many}
many := [s | some i in numbers.range(1, 1000); s := sprintf("%d %s", [i, long])]
long := concat("", [x | some j in numbers.range(1, 400); j > 0; x := "ü€"])
`})})
	r, f := question(1)
	d, err := e.Evaluate(t.Context(), r, f)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Reasons) != maxReasons || !strings.HasPrefix(d.Reasons[maxReasons-1], "more: 969 ") || len(d.Rule) > maxReasonText {
		t.Errorf("%d reasons, the last %.40q, rule of %d bytes", len(d.Reasons), d.Reasons[len(d.Reasons)-1], len(d.Rule))
	}
	for _, reason := range d.Reasons {
		if len(reason) > maxReasonText || !utf8.ValidString(reason) {
			t.Errorf("reason of %d bytes is too long or broken", len(reason))
		}
	}
}

// TestEvaluateConcurrently shares one principal, its cached terms and one store between goroutines.
func TestEvaluateConcurrently(t *testing.T) {
	e := newEngine(t, Config{Data: map[string]any{"transitive": true}})
	r, _ := question(0)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				_, f := question(1 + (i+j)%5)
				want := authz.Allow
				if j%2 == 0 {
					f.Sources[0].Fact.Access, want = forge.None, authz.Deny
				}
				if d, err := e.Evaluate(t.Context(), r, f); err != nil || d.Verdict != want {
					t.Errorf("verdict %v, %v; want %v", d.Verdict, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestCacheIsBounded(t *testing.T) {
	e := newEngine(t, Config{})
	for i := range maxCached + 10 {
		r, f := question(0)
		f.Sources = []authz.SourceFact{sourceFact(fmt.Sprint(i), forge.Read)}
		if _, err := e.inputs.document(&r, f); err != nil {
			t.Fatal(err)
		}
	}
	if n, m := len(e.inputs.sources.terms), len(e.inputs.principals.terms); n > maxCached || m > maxCached {
		t.Errorf("%d sources and %d principals are cached; want at most %d", n, m, maxCached)
	}
}
