package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/lychgate/lychgate/authz"
)

// Problem is one thing to mend, with its place when it has one.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// String is "file:line: message (code)".
func (p Problem) String() string {
	place := ""
	if p.File != "" {
		place = fmt.Sprintf("%s:%d: ", p.File, p.Line)
	}
	return fmt.Sprintf("%s%s (%s)", place, p.Message, p.Code)
}

// Report is what [Check] found.
type Report struct {
	Source   string    `json:"source"`
	Revision string    `json:"revision,omitempty"`
	OK       bool      `json:"ok"` // the gate would load it, its tests aside
	Problems []Problem `json:"problems,omitempty"`
	// Lints are worth a look; they keep nothing from loading.
	Lints []Problem `json:"lints,omitempty"`
	// Remember says whether the gate may remember answers; Why says what keeps it from doing so.
	Remember bool   `json:"remember"`
	Why      string `json:"why,omitempty"`
	// Reads lists the members of the input that split what is remembered, and Paths every input path mentioned.
	Reads []string `json:"reads"`
	Paths []string `json:"paths"`
	Tests int      `json:"tests"` // test files in the bundle
}

// Check compiles the bundle in dir (the embedded one when dir is empty) as the gate would and says what it finds. The
// error is for a directory that cannot be read; what is wrong with the policy is in the report.
func Check(dir string) (Report, error) {
	r := Report{Source: sourceName(dir), Reads: []string{}, Paths: []string{}}
	t, err := readTree(dir, nil)
	if err != nil {
		return r, fmt.Errorf("read policy %s: %w", r.Source, err)
	}
	r.Revision, r.Tests = t.name(), t.testFiles()
	rev, err := newRevision(t, defaultDeadline)
	if err != nil {
		r.Problems = problems(err)
		return r, nil
	}
	a := analyse(rev.compiler)
	r.Remember, r.Why, r.Reads, r.Paths = a.footprint(r.Revision).Remember, a.why(), fieldNames(a.fields), sortedKeys(a.paths)
	r.Lints = lint(a, r.Tests)
	if _, err := t.compileTests(); err != nil {
		r.Problems = problems(err)
	}
	r.OK = len(r.Problems) == 0
	return r, nil
}

// problems takes an error of the compiler, or several joined, apart.
func problems(err error) []Problem {
	var list ast.Errors
	if errors.As(err, &list) {
		found := make([]Problem, 0, len(list))
		for _, e := range list {
			found = append(found, placed(e.Location, e.Code, e.Message))
		}
		return found
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var found []Problem
		for _, e := range joined.Unwrap() {
			found = append(found, problems(e)...)
		}
		return found
	}
	return []Problem{{Code: "contract", Message: err.Error()}}
}

// placed makes a Problem at a location, which may be nil.
func placed(at *ast.Location, code, message string) Problem {
	p := Problem{Code: code, Message: message}
	if at != nil {
		p.File, p.Line, p.Column = at.File, at.Row, at.Col
	}
	return p
}

// lint says what a careful author would want to know.
func lint(a *analysis, tests int) []Problem {
	var found []Problem
	for _, name := range sortedKeys(a.unknown) {
		found = append(found, placed(a.unknown[name], "unknown_input", name+" is in no input document: see docs/policy-input.md"))
	}
	for _, name := range sortedKeys(a.impure) {
		found = append(found, placed(a.impure[name], "not_remembered", "calls "+name+
			": answers are not remembered; input.now_minute gives the time and keeps them"))
	}
	if a.write {
		found = append(found, Problem{Code: "not_remembered", Message: "reads input.write or the whole input: answers are not remembered; " +
			"input.artifact.signer is the signer of a write too"})
	}
	if a.fields&(authz.FieldPath|authz.FieldHash) != 0 {
		found = append(found, Problem{Code: "wide", Message: "reads the path or hash, or the whole artifact: " +
			"every artifact is decided by itself, although many share their sources"})
	}
	if !a.sources {
		found = append(found, Problem{Code: "no_sources", Message: "never reads input.artifact.sources: " +
			"what an artifact was built from does not matter to it"})
	}
	if !slices.ContainsFunc(a.compiler.GetRulesExact(decisionRef()), func(r *ast.Rule) bool { return r.Default }) {
		found = append(found, Problem{Code: "no_default", Message: "decision has no default: when no rule defines it the gate denies with policy_undefined"})
	}
	if tests == 0 {
		found = append(found, Problem{Code: "no_tests", Message: "the bundle has no *_test.rego: nothing guards the next change"})
	}
	return found
}

// EvalResult is one evaluation, for people.
type EvalResult struct {
	Source      string   `json:"source"`
	Revision    string   `json:"revision"`
	Allow       bool     `json:"allow"`
	Rule        string   `json:"rule,omitempty"`
	Reasons     []string `json:"reasons"`
	AnonymousOK bool     `json:"anonymous_ok,omitempty"`
	// Error is how the policy broke its contract, which the gate takes for a denial.
	Error string `json:"error,omitempty"`
	// Trace is OPA's account of the evaluation, a line a step, when it was asked for.
	Trace []string `json:"trace,omitempty"`
}

// Bounds on what Eval reads and prints.
const (
	maxEvalInput  = 4 << 20
	maxTraceLines = 20000
)

// Eval asks the bundle in dir (the embedded one when dir is empty) about one input document, as the gate would, and
// with explain tells how it came to its answer. config is what the gate's configuration would tell it, see
// [Config].Data. The error is for what cannot be read or compiled.
func Eval(ctx context.Context, dir string, config map[string]any, input []byte, explain bool) (EvalResult, error) {
	r := EvalResult{Source: sourceName(dir)}
	document, err := parseInput(input)
	if err != nil {
		return r, fmt.Errorf("read input: %w", err)
	}
	t, err := readTree(dir, config)
	if err != nil {
		return r, fmt.Errorf("read policy %s: %w", r.Source, err)
	}
	rev, err := newRevision(t, defaultDeadline)
	if err != nil {
		return r, fmt.Errorf("load policy %s: %w", r.Source, err)
	}
	r.fill(rev.ask(ctx, document))
	r.Revision = rev.name
	if explain {
		r.Trace = rev.trace(ctx, document)
	}
	return r, nil
}

// fill takes over an answer or how the policy failed to give one.
func (r *EvalResult) fill(a answer, f *fault) {
	r.Allow, r.Rule, r.Reasons, r.AnonymousOK = a.allow, a.rule, a.reasons, a.anonymousOK
	if f != nil {
		r.Rule, r.Reasons, r.Error = "engine", []string{clip(f.code + ": " + f.err.Error())}, f.code
	}
}

// parseInput reads an input document strictly.
func parseInput(text []byte) (*ast.Term, error) {
	if len(text) > maxEvalInput {
		return nil, fmt.Errorf("larger than %d MiB", maxEvalInput>>20)
	}
	v, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	if _, ok := v.(ast.Object); !ok {
		return nil, errors.New("want a JSON object: see docs/policy-input.md")
	}
	return ast.NewTerm(v), nil
}

// trace evaluates once more with OPA's tracer on. What breaks the evaluation ends the trace; ask has reported it.
func (v *revision) trace(ctx context.Context, input *ast.Term) (lines []string) {
	defer func() {
		if p := recover(); p != nil {
			lines = append(lines, fmt.Sprintf("panic: %v", p))
		}
	}()
	tracer := topdown.NewBufferTracer()
	if _, err := v.run(ctx, input, tracer); err != nil {
		lines = append(lines, "evaluation ended: "+err.Error())
	}
	var text strings.Builder
	topdown.PrettyTraceWithLocation(&text, (*tracer)[:min(len(*tracer), maxTraceLines)])
	return append(strings.Split(strings.TrimRight(text.String(), "\n"), "\n"), lines...)
}

// Input is the document that Evaluate would hand to the policy, as JSON: what explain shows and what replay keeps.
func (e *Engine) Input(r authz.Request, f *authz.Facts) ([]byte, error) {
	if r.Principal == nil || f == nil {
		return nil, errors.New("a question needs a principal and facts")
	}
	t, err := e.inputs.document(&r, f)
	if err != nil {
		return nil, err
	}
	v, err := ast.JSON(t.Value)
	if err != nil {
		return nil, fmt.Errorf("write input: %w", err)
	}
	return json.Marshal(v) // OPA's numbers are the standard library's json.Number
}
