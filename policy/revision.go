package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/lychgate/lychgate/authz"
)

// Bounds on what a policy may say, since it ends up in audit lines.
const (
	maxReasons    = 32
	maxReasonText = 512
)

// both asks the two entry points at once, so that they share what they compute and cannot drift apart.
const both = "data.lychgate.allow = allow; data.lychgate.decision = decision"

// revision is a compiled bundle, ready to be asked. It is immutable and safe for concurrent use.
type revision struct {
	name      string
	hash      [32]byte
	footprint authz.Footprint
	compiled
	query    ast.QueryCompiler
	question ast.Body
	deadline time.Duration
}

// compiled is a set of modules with the data they read. Nothing writes to the store, so one read transaction serves
// every evaluation.
type compiled struct {
	compiler *ast.Compiler
	store    storage.Store
	txn      storage.Transaction
}

// newRevision compiles a bundle, without its tests, and checks that it keeps the contract. A compiler that panics is a
// bundle that does not compile: a running gate must survive it.
func newRevision(t *tree, deadline time.Duration) (rev *revision, err error) {
	defer func() {
		if p := recover(); p != nil {
			rev, err = nil, fmt.Errorf("compile: panic: %v", p)
		}
	}()
	data, err := t.merged()
	if err != nil {
		return nil, err
	}
	modules, err := t.parse(func(f file) bool { return !f.isTest() })
	if err != nil {
		return nil, err
	}
	c, err := compile(modules, data)
	if err != nil {
		return nil, err
	}
	if err := checkEntryPoints(c.compiler); err != nil {
		return nil, err
	}
	rev = &revision{
		name: t.name(), hash: t.hash, compiled: c, deadline: deadline,
		query: c.compiler.QueryCompiler().WithStrict(true),
	}
	rev.footprint = analyse(c.compiler).footprint(rev.name)
	if rev.question, err = rev.query.Compile(ast.MustParseBody(both)); err != nil {
		return nil, fmt.Errorf("compile the question: %w", err)
	}
	return rev, nil
}

// parse parses the modules that keep says, all errors at once.
func (t *tree) parse(keep func(file) bool) (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	var errs ast.Errors
	for _, f := range t.files {
		if !strings.HasSuffix(f.name, ".rego") || !keep(f) {
			continue
		}
		m, err := ast.ParseModuleWithOpts(f.name, string(f.text), ast.ParserOptions{
			RegoVersion:       ast.RegoV1,
			ProcessAnnotation: true,
			Capabilities:      capabilities(),
		})
		var list ast.Errors
		switch {
		case errors.As(err, &list):
			errs = append(errs, list...)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", f.name, err)
		case m != nil:
			modules[f.name] = m
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return modules, nil
}

// newCompiler is how every policy is compiled: strictly, and without the builtins that reach outside.
func newCompiler(c compiled) *ast.Compiler {
	return ast.NewCompiler().
		WithStrict(true).
		WithCapabilities(capabilities()).
		WithPathConflictsCheck(storage.NonEmpty(context.Background(), c.store, c.txn))
}

// openStore holds data for reading.
func openStore(data ast.Object) (compiled, error) {
	store := inmem.NewFromASTObject(data)
	txn, err := store.NewTransaction(context.Background())
	return compiled{store: store, txn: txn}, err
}

// compile compiles modules over data.
func compile(modules map[string]*ast.Module, data ast.Object) (compiled, error) {
	c, err := openStore(data)
	if err != nil {
		return c, err
	}
	c.compiler = newCompiler(c)
	if c.compiler.Compile(modules); c.compiler.Failed() {
		return c, c.compiler.Errors
	}
	return c, nil
}

// checkEntryPoints refuses a bundle that lacks an entry point, or that has no default denial for the boolean one.
func checkEntryPoints(c *ast.Compiler) error {
	var errs []error
	for _, ref := range []ast.Ref{allowRef(), decisionRef()} {
		rules := c.GetRulesExact(ref)
		switch {
		case len(rules) == 0:
			errs = append(errs, fmt.Errorf("entry point %s is missing: define it in package lychgate", ref))
		case slices.ContainsFunc(rules, func(r *ast.Rule) bool { return len(r.Head.Args) > 0 }):
			errs = append(errs, fmt.Errorf("entry point %s is a function: make it a rule", ref))
		case ref.Equal(allowRef()) && !slices.ContainsFunc(rules, deniesByDefault):
			errs = append(errs, errors.New("package lychgate has no default denial: add `default allow := false`"))
		}
	}
	return errors.Join(errs...)
}

// deniesByDefault reports whether r is `default allow := false`.
func deniesByDefault(r *ast.Rule) bool {
	return r.Default && r.Head.Value != nil && ast.Boolean(false).Equal(r.Head.Value.Value)
}

func allowRef() ast.Ref    { return ast.MustParseRef("data.lychgate.allow") }
func decisionRef() ast.Ref { return ast.MustParseRef("data.lychgate.decision") }

// answer is what a policy said, checked.
type answer struct {
	allow, anonymousOK bool
	rule               string
	reasons            []string
}

// fault is how a policy broke its contract: a stable code and the words for it.
type fault struct {
	code string
	err  error
}

// ask evaluates both entry points over one input document.
func (v *revision) ask(ctx context.Context, input *ast.Term) (a answer, f *fault) {
	defer func() {
		if p := recover(); p != nil {
			a, f = answer{}, &fault{"policy_panic", fmt.Errorf("panic: %v", p)}
		}
	}()
	results, err := v.run(ctx, input)
	if err != nil {
		return answer{}, &fault{errorCode(err), err}
	}
	if len(results) != 1 {
		return answer{}, &fault{"policy_undefined", errors.New("data.lychgate.allow or data.lychgate.decision is undefined")}
	}
	return readAnswer(results[0][ast.Var("allow")], results[0][ast.Var("decision")])
}

// run evaluates the question under the deadline. OPA looks at its own flag between steps, not at a context.
func (v *revision) run(ctx context.Context, input *ast.Term, tracers ...topdown.QueryTracer) (topdown.QueryResultSet, error) {
	ctx, done := context.WithTimeout(ctx, v.deadline)
	defer done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	q := topdown.NewQuery(v.question).
		WithQueryCompiler(v.query).
		WithCompiler(v.compiler).
		WithStore(v.store).
		WithTransaction(v.txn).
		WithInput(input).
		WithStrictBuiltinErrors(true).
		WithMetrics(metrics.NoOp()).
		WithCancel(cancel)
	for _, t := range tracers {
		q = q.WithQueryTracer(t)
	}
	return q.Run(ctx)
}

// errorCode gives an evaluation error its stable code.
func errorCode(err error) string {
	var e *topdown.Error
	switch {
	case topdown.IsCancel(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "policy_deadline"
	case errors.As(err, &e) && e.Code == topdown.ConflictErr:
		return "policy_conflict"
	}
	return "policy_error"
}

// readAnswer checks that the two entry points are well formed and say the same.
func readAnswer(allow, decision *ast.Term) (answer, *fault) {
	plain, ok := boolean(allow)
	if !ok {
		return answer{}, &fault{"policy_not_boolean", errors.New("data.lychgate.allow is not a boolean")}
	}
	object, ok := termValue(decision).(ast.Object)
	if !ok {
		return answer{}, &fault{"policy_malformed", errors.New("data.lychgate.decision is not an object")}
	}
	a, err := readDecision(object)
	if err != nil {
		return answer{}, &fault{"policy_malformed", err}
	}
	if a.allow != plain {
		return answer{}, &fault{"policy_disagrees", fmt.Errorf("data.lychgate.allow is %t, data.lychgate.decision.allow is %t", plain, a.allow)}
	}
	return a, nil
}

// readDecision reads the members of a decision; others are the policy's own.
func readDecision(o ast.Object) (a answer, err error) {
	var ok bool
	if a.allow, ok = boolean(o.Get(ast.InternedTerm("allow"))); !ok {
		return a, errors.New("data.lychgate.decision.allow is not a boolean")
	}
	if t := o.Get(ast.InternedTerm("anonymous_ok")); t != nil {
		if a.anonymousOK, ok = boolean(t); !ok {
			return a, errors.New("data.lychgate.decision.anonymous_ok is not a boolean")
		}
	}
	if t := o.Get(ast.InternedTerm("rule")); t != nil {
		s, ok := t.Value.(ast.String)
		if !ok {
			return a, errors.New("data.lychgate.decision.rule is not a string")
		}
		a.rule = clip(string(s))
	}
	a.reasons, err = readReasons(termValue(o.Get(ast.InternedTerm("reasons"))))
	return a, err
}

// readReasons reads an array or set of strings, and drops what nobody would read.
func readReasons(v ast.Value) ([]string, error) {
	list, ok := v.(interface {
		Len() int
		Foreach(func(*ast.Term))
	})
	if _, isObject := v.(ast.Object); !ok || isObject {
		return nil, errors.New("data.lychgate.decision.reasons is not a list of strings")
	}
	reasons := make([]string, 0, min(list.Len(), maxReasons))
	list.Foreach(func(t *ast.Term) {
		s, isText := t.Value.(ast.String)
		if ok = ok && isText; ok && len(reasons) < maxReasons {
			reasons = append(reasons, clip(string(s)))
		}
	})
	if !ok {
		return nil, errors.New("data.lychgate.decision.reasons holds something other than strings")
	}
	if more := list.Len() - maxReasons; more > 0 {
		reasons[maxReasons-1] = fmt.Sprintf("more: %d further reasons", more+1)
	}
	return reasons, nil
}

func boolean(t *ast.Term) (value, ok bool) {
	b, ok := termValue(t).(ast.Boolean)
	return bool(b), ok
}

func termValue(t *ast.Term) ast.Value {
	if t == nil {
		return nil
	}
	return t.Value
}

// clip bounds a text that goes into audit lines, at a rune's edge.
func clip(s string) string {
	if len(s) <= maxReasonText {
		return s
	}
	return strings.ToValidUTF8(s[:maxReasonText], "")
}
