package policy

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
)

// Bounds on running a bundle's tests, the second for all of them.
const (
	oneTest  = 5 * time.Second
	allTests = 60 * time.Second
)

// TestOptions says which tests to run and what to report.
type TestOptions struct {
	Run      string // a regular expression over full test names; empty runs all
	Coverage bool
}

// TestReport is what the tests of a bundle said.
type TestReport struct {
	Source   string       `json:"source"`
	Revision string       `json:"revision"`
	OK       bool         `json:"ok"` // nothing failed
	Passed   int          `json:"passed"`
	Failed   int          `json:"failed"` // failures and errors
	Skipped  int          `json:"skipped"`
	Tests    []TestResult `json:"tests"`
	Coverage *Coverage    `json:"coverage,omitempty"`
}

// TestResult is one test. Outcome is "pass", "fail", "error" or "skip".
type TestResult struct {
	Name     string   `json:"name"`
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Outcome  string   `json:"outcome"`
	Micros   int64    `json:"micros"`
	Message  string   `json:"message,omitempty"`
	Output   string   `json:"output,omitempty"`       // what it printed
	SubTests []string `json:"failed_cases,omitempty"` // of a test over cases, those that failed
}

// Coverage says how much of the policy, tests aside, the tests evaluate.
type Coverage struct {
	Percent float64        `json:"percent"`
	Files   []FileCoverage `json:"files"`
}

// FileCoverage is the coverage of one module. Missed holds the first and last lines of what no test evaluates.
type FileCoverage struct {
	File    string   `json:"file"`
	Percent float64  `json:"percent"`
	Missed  [][2]int `json:"missed,omitempty"`
}

// Test runs the tests of the bundle in dir (the embedded one when dir is empty) as stock `opa test` does: on the
// bundle's own data, without the gate's configuration. The error is for what cannot be read or compiled; failures are
// in the report.
func Test(ctx context.Context, dir string, o TestOptions) (TestReport, error) {
	r := TestReport{Source: sourceName(dir), Tests: []TestResult{}}
	if _, err := regexp.Compile(o.Run); err != nil {
		return r, fmt.Errorf("read test filter: %w", err)
	}
	t, err := readTree(dir, nil)
	if err != nil {
		return r, fmt.Errorf("read policy %s: %w", r.Source, err)
	}
	r.Revision = t.name()
	if err := t.runTests(ctx, o, &r); err != nil {
		return r, fmt.Errorf("test policy %s: %w", r.Source, err)
	}
	return r, nil
}

// passTests refuses a bundle whose tests fail, and names them.
func (t *tree) passTests(ctx context.Context) error {
	if t.testFiles() == 0 {
		return nil
	}
	var r TestReport
	if err := t.runTests(ctx, TestOptions{}, &r); err != nil {
		return fmt.Errorf("run the bundle's tests: %w", err)
	}
	if r.OK {
		return nil
	}
	var names []string
	for _, test := range r.Tests {
		if test.Outcome == "fail" || test.Outcome == "error" {
			names = append(names, fmt.Sprintf("%s:%d %s", test.File, test.Line, test.Name))
		}
	}
	return fmt.Errorf("%d of its own tests fail: %s; run `lychgate policy test DIR`", len(names), strings.Join(names[:min(5, len(names))], ", "))
}

// testFiles counts the test modules.
func (t *tree) testFiles() (n int) {
	for _, f := range t.files {
		if f.isTest() {
			n++
		}
	}
	return n
}

// compileTests compiles all modules, tests included, over the bundle's own data.
func (t *tree) compileTests() (compiled, error) {
	modules, err := t.parse(func(file) bool { return true })
	if err != nil {
		return compiled{}, err
	}
	return compile(modules, t.data)
}

// runTests runs the bundle's tests into r.
func (t *tree) runTests(ctx context.Context, o TestOptions, r *TestReport) error {
	ctx, cancel := context.WithTimeout(ctx, allTests)
	defer cancel()
	modules, err := t.parse(func(file) bool { return true })
	if err != nil {
		return err
	}
	c, err := openStore(t.data)
	if err != nil {
		return err
	}
	runner := tester.NewRunner().
		SetCompiler(newCompiler(c).WithEnablePrintStatements(true)).
		SetStore(c.store).
		SetModules(modules).
		SetTimeout(oneTest).
		CapturePrintOutput(true).
		Filter(o.Run)
	coverage := cover.New()
	if o.Coverage {
		runner.SetCoverageQueryTracer(coverage)
	}
	results, err := runner.RunTests(ctx, c.txn)
	if err != nil {
		return err
	}
	for result := range results {
		r.add(result)
	}
	slices.SortFunc(r.Tests, func(a, b TestResult) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Name, b.Name))
	})
	if o.Coverage {
		r.Coverage = readCoverage(coverage.Report(modules))
	}
	// Tests that a deadline kept from starting leave no result behind.
	r.OK = r.Failed == 0 && ctx.Err() == nil
	return ctx.Err()
}

// add counts one result.
func (r *TestReport) add(result *tester.Result) {
	one := TestResult{
		Name:    result.Package + "." + result.Name,
		Outcome: "pass",
		Micros:  result.Duration.Microseconds(),
		Output:  string(result.Output),
	}
	if result.Location != nil {
		one.File, one.Line = result.Location.File, result.Location.Row
	}
	switch {
	case result.Skip:
		one.Outcome = "skip"
		r.Skipped++
	case result.Pass():
		r.Passed++
	case result.Error != nil:
		one.Outcome, one.Message = "error", result.Error.Error()
		r.Failed++
	default:
		one.Outcome, one.Message = "fail", failedAt(result.FailedAt)
		r.Failed++
	}
	for name, sub := range result.SubResults.Iter {
		if sub.Fail {
			one.SubTests = append(one.SubTests, strings.Join(name, "/"))
		}
	}
	r.Tests = append(r.Tests, one)
}

// failedAt quotes the expression that was not true.
func failedAt(e *ast.Expr) string {
	if e == nil || e.Location == nil {
		return "a condition does not hold"
	}
	return fmt.Sprintf("line %d does not hold: %s", e.Location.Row, clip(string(e.Location.Text)))
}

// readCoverage leaves the test modules out: that tests run is no news.
func readCoverage(report cover.Report) *Coverage {
	c := &Coverage{Files: []FileCoverage{}}
	covered, all := 0, 0
	for _, name := range sortedKeys(report.Files) {
		if (file{name: name}).isTest() {
			continue
		}
		f := report.Files[name]
		one := FileCoverage{File: name, Percent: f.Coverage}
		for _, missed := range f.NotCovered {
			one.Missed = append(one.Missed, [2]int{missed.Start.Row, missed.End.Row})
		}
		covered, all = covered+f.CoveredLines, all+f.CoveredLines+f.NotCoveredLines
		c.Files = append(c.Files, one)
	}
	if all > 0 {
		c.Percent = 100 * float64(covered) / float64(all)
	}
	return c
}
