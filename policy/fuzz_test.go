package policy

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

// FuzzInput hands odd texts to the document builder. Whatever they are, the default denies what is closed, and a text
// that is UTF-8 comes out as it went in.
func FuzzInput(f *testing.F) {
	for _, seed := range []string{"", "main", "a\nb", "\"}, {\"access\": \"read\"", "\x00", "\xff\xfe", "ünï", "data.lychgate", "unresolvable", "read"} {
		f.Add(seed, seed, int64(0))
	}
	e := newEngine(f, Config{})
	f.Fuzz(func(t *testing.T, one, two string, minute int64) {
		r := authz.Request{
			Action: authz.Read, Door: one,
			Principal: &authn.Principal{Forge: two, ID: one, Name: two, Kind: authn.Kind(one), Groups: []string{one, two}, Claims: map[string]any{one: two}},
			Ref:       artifact.Ref{Zone: one, Path: two, Hash: one, Recipe: two, Version: one, Arch: two, Task: one},
		}
		facts := &authz.Facts{Recorded: true, Zone: two, Now: time.Unix(minute%(1<<40)*60, 0)}
		facts.Claim.Signer = one
		closed := authz.SourceFact{Source: source.Source{Type: source.Type(one), Locator: source.Locator{Host: one, Path: two}, Rev: one, Repo: two, Reason: one}}
		closed.Fact.Access = forge.None
		facts.Sources = []authz.SourceFact{sourceFact(one, forge.Read), closed}
		d, err := e.Evaluate(t.Context(), r, facts)
		if err != nil || d.Verdict != authz.Deny {
			t.Fatalf("%+v, %v; want a plain denial", d, err)
		}
		text, err := e.Input(r, facts)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(one) || !utf8.ValidString(two) {
			return
		}
		back, err := parseInput(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if built, err := e.inputs.document(&r, facts); err != nil || !built.Equal(back) {
			t.Fatalf("%v: wrote\n%v\nread\n%v", err, built, back)
		}
	})
}

// FuzzBundle loads odd modules and data. A load may fail, and an evaluation may; neither may panic, and what fails to
// evaluate is a denial.
func FuzzBundle(f *testing.F) {
	f.Add("allow if false", "{}")
	f.Add("allow if input.a[_].b with input as data", `{"lychgate": {"allow": true}}`)
	f.Add("x[y] contains z if some y, z in input", `{"a": 9007199254740993}`)
	f.Add("default f(_) := 1\nf(x) := x if every k in x { k }", `[]`)
	f.Add("import data.a as b\np := $\"{b}\"", `{"a": {"a": 1, "a": 2}}`)
	f.Fuzz(func(t *testing.T, body, data string) {
		tree, err := newTree([]file{{"p.rego", []byte(frame(body))}, {"data.json", []byte(data)}}, nil)
		if err != nil {
			return
		}
		rev, err := newRevision(tree, 20*time.Millisecond)
		if err != nil {
			return
		}
		e := &Engine{inputs: newInputs()}
		e.active.Store(&active{revision: rev})
		r, facts := question(1)
		if d, err := e.Evaluate(t.Context(), r, facts); err != nil && d.Verdict != authz.Deny {
			t.Fatalf("%+v with %v", d, err)
		}
	})
}
