package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
)

// members lists the paths of all members of a JSON document, without the positions in lists.
func members(t *testing.T, text []byte) string {
	t.Helper()
	v, err := parseJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	var visit func(at string, v ast.Value)
	visit = func(at string, v ast.Value) {
		found[at] = true
		switch v := v.(type) {
		case ast.Object:
			v.Foreach(func(k, v *ast.Term) { visit(at+"."+string(k.Value.(ast.String)), v.Value) })
		case *ast.Array:
			v.Foreach(func(e *ast.Term) { visit(at, e.Value) })
		}
	}
	visit("input", v)
	return strings.Join(slices.Sorted(maps.Keys(found)), " ")
}

func TestCheckShipped(t *testing.T) {
	r, err := Check("")
	if err != nil {
		t.Fatal(err)
	}
	want := Report{
		Source: "embedded", Revision: newEngine(t, Config{}).Footprint().Revision, OK: true, Remember: true, Tests: 1,
		Reads: []string{"artifact.signer", "artifact.zone", "zone"},
		Paths: []string{
			"input.action", "input.artifact.inputs", "input.artifact.recorded", "input.artifact.signer", "input.artifact.sources",
			"input.principal.roles", "input.zone",
		},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
}

func TestCheckSaysWhereAndWhy(t *testing.T) {
	problem := func(r Report) []Problem { return r.Problems }
	lint := func(r Report) []Problem { return r.Lints }
	tests := []struct {
		name  string
		files map[string]string
		list  func(Report) []Problem
		want  Problem
	}{
		{"syntax", rules("allow if input.zone ==="), problem, Problem{File: "policy.rego", Line: 4, Code: "rego_parse_error"}},
		{"unused", rules("allow if {\n\tx := 1\n}"), problem, Problem{File: "policy.rego", Line: 5, Code: "rego_compile_error"}},
		{"forbidden", rules("allow if http.send({})"), problem, Problem{File: "policy.rego", Line: 4, Code: "rego_type_error"}},
		{"no default", map[string]string{"p.rego": "package lychgate\nallow if input.zone\ndecision := {}"}, problem, Problem{Code: "contract"}},
		{"test does not compile", with(rules("allow if input.zone"), "a_test.rego", "package a\ntest_a if nothing()"), problem, Problem{File: "a_test.rego", Line: 2, Code: "rego_type_error"}},
		{"slip of the pen", rules("allow if input.artefact.hash"), lint, Problem{File: "policy.rego", Line: 4, Code: "unknown_input"}},
		{"slip in the artifact", rules("allow if input.artifact.name"), lint, Problem{File: "policy.rego", Line: 4, Code: "unknown_input"}},
		{"slip in the principal", rules("allow if input.principal.group"), lint, Problem{File: "policy.rego", Line: 4, Code: "unknown_input"}},
		{"clock", rules("allow if time.now_ns() > 1"), lint, Problem{File: "policy.rego", Line: 4, Code: "not_remembered"}},
		{"write", rules("allow if input.write.statement.signer"), lint, Problem{Code: "not_remembered"}},
		{"wide", rules("allow if input.artifact.hash"), lint, Problem{Code: "wide"}},
		{"sources", rules("allow if input.zone"), lint, Problem{Code: "no_sources"}},
		{"default", rules("allow if input.zone"), lint, Problem{Code: "no_default"}},
		{"tests", rules("allow if input.zone"), lint, Problem{Code: "no_tests"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Check(bundleDir(t, tt.files))
			if err != nil {
				t.Fatal(err)
			}
			if r.OK != (len(r.Problems) == 0) {
				t.Errorf("ok is %v with problems %v", r.OK, r.Problems)
			}
			if !slices.ContainsFunc(tt.list(r), func(p Problem) bool {
				return p.File == tt.want.File && p.Line == tt.want.Line && p.Code == tt.want.Code && p.Message != ""
			}) {
				t.Errorf("found %v; want %+v", tt.list(r), tt.want)
			}
		})
	}
	if _, err := Check(t.TempDir() + "/none"); err == nil {
		t.Error("a directory that is not there was checked")
	}
}

// TestCheckFindsAllErrors shows that one run names what is wrong in every file.
func TestCheckFindsAllErrors(t *testing.T) {
	r, err := Check(bundleDir(t, map[string]string{"a.rego": "package a\nx if {", "b.rego": "package b\ny if ("}))
	if err != nil || len(r.Problems) < 2 || r.Problems[0].File == r.Problems[len(r.Problems)-1].File {
		t.Errorf("problems %v, %v; want one of each file", r.Problems, err)
	}
	if got := (Problem{File: "a.rego", Line: 2, Message: "m", Code: "c"}).String(); got != "a.rego:2: m (c)" {
		t.Errorf("printed %q", got)
	}
}

func TestTestReport(t *testing.T) {
	dir := bundleDir(t, with(rules("allow if input.zone == \"main\"\nallow if {\n\tinput.zone == \"other\"\n\tinput.door == \"ssh\"\n}"), "x_test.rego", `package x_test
import data.lychgate
test_yes if lychgate.allow with input as {"zone": "main"}
test_no if {
	print("about to fail")
	lychgate.allow with input as {"zone": "none"}
}
todo_test_later if lychgate.allow
test_cases[name] if {
	some name, zone in {"good": "main", "bad": "none"}
	lychgate.allow with input as {"zone": zone}
}
test_conflict if { {k: v | some v in [1, 2]; k := "a"} }
`))
	r, err := Test(t.Context(), dir, TestOptions{Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK || r.Passed != 1 || r.Failed != 3 || r.Skipped != 1 {
		t.Errorf("%+v", r)
	}
	outcomes := map[string]TestResult{}
	for _, one := range r.Tests {
		outcomes[one.Name] = one
	}
	no := outcomes["data.x_test.test_no"]
	if no.Outcome != "fail" || no.File != "x_test.rego" || no.Line != 4 || !strings.Contains(no.Output, "about to fail") {
		t.Errorf("%+v", no)
	}
	if cases := outcomes["data.x_test.test_cases"]; cases.Outcome != "fail" || !slices.Equal(cases.SubTests, []string{"bad"}) {
		t.Errorf("%+v", cases)
	}
	if conflict := outcomes["data.x_test.test_conflict"]; conflict.Outcome != "error" || conflict.Message == "" {
		t.Errorf("%+v", conflict)
	}
	if c := r.Coverage; c == nil || len(c.Files) != 1 || c.Percent <= 0 || c.Percent >= 100 || len(c.Files[0].Missed) == 0 {
		t.Errorf("coverage %+v", c)
	}
	one, err := Test(t.Context(), dir, TestOptions{Run: "test_yes$"})
	if err != nil || !one.OK || len(one.Tests) != 1 || one.Coverage != nil {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestTestRefuses(t *testing.T) {
	good := bundleDir(t, rules("allow if input.zone"))
	if _, err := Test(t.Context(), good, TestOptions{Run: "("}); err == nil {
		t.Error("a broken filter was taken")
	}
	if _, err := Test(t.Context(), good+"/none", TestOptions{}); err == nil {
		t.Error("a directory that is not there was tested")
	}
	if _, err := Test(t.Context(), bundleDir(t, rules("allow if {")), TestOptions{}); err == nil {
		t.Error("a bundle that does not parse was tested")
	}
}

func TestEval(t *testing.T) {
	dir := bundleDir(t, rules(`allow if input.zone == data.lychgate.config.zone`))
	config := map[string]any{"zone": "main"}
	r, err := Eval(t.Context(), dir, config, []byte(`{"zone": "main"}`), true)
	if err != nil || !r.Allow || r.Rule != "test" || r.Revision == "" || r.Source != dir || r.Error != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if !slices.ContainsFunc(r.Trace, func(line string) bool { return strings.Contains(line, "policy.rego:4") }) {
		t.Errorf("the trace does not name the rule:\n%s", strings.Join(r.Trace, "\n"))
	}
	if r, err := Eval(t.Context(), dir, nil, []byte(`{"zone": "main"}`), false); err != nil || r.Allow || r.Trace != nil {
		t.Errorf("%+v, %v", r, err)
	}
	broken := bundleDir(t, rules("allow := true if input.zone\nallow := false if input.zone"))
	r, err = Eval(t.Context(), broken, nil, []byte(`{"zone": "main"}`), true)
	if err != nil || r.Allow || r.Error != "policy_conflict" || !strings.Contains(strings.Join(r.Trace, "\n"), "evaluation ended: ") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{``, `[]`, `"x"`, `{"a": 1, "a": 2}`, `{} {}`, "{\"a\": \"\xff\"}", `{"a": ` + strings.Repeat(" ", maxEvalInput) + `1}`} {
		if _, err := Eval(t.Context(), dir, nil, []byte(bad), false); err == nil {
			t.Errorf("input %.20q was taken", bad)
		}
	}
	if _, err := Eval(t.Context(), dir+"/none", nil, []byte(`{}`), false); err == nil {
		t.Error("a directory that is not there was asked")
	}
}
