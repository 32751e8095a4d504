package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/lychgate/lychgate/authz"
)

// analysis is what the entry points of a policy can depend on: everything that any rule reachable from them mentions,
// whether or not an evaluation gets there. It errs to the wide side only. A mention of a whole subtree counts as
// reading all of it, so a value that travels on through a variable, a function's argument or a rule needs no tracking.
type analysis struct {
	compiler *ast.Compiler
	impures  map[string]bool // names of builtins that may answer differently for equal input
	seen     map[*ast.Rule]bool
	todo     []*ast.Rule

	fields  authz.Field
	sources bool // reads the sources or inputs of the artifact
	write   bool // reads the statement of a write
	impure  map[string]*ast.Location
	paths   map[string]*ast.Location // the input paths mentioned, as written
	unknown map[string]*ast.Location // those that no input document has
}

// analyse walks the rules that the two entry points can reach.
func analyse(c *ast.Compiler) *analysis {
	a := &analysis{
		compiler: c,
		impures:  map[string]bool{},
		seen:     map[*ast.Rule]bool{},
		impure:   map[string]*ast.Location{},
		paths:    map[string]*ast.Location{},
		unknown:  map[string]*ast.Location{},
	}
	for _, b := range ast.Builtins {
		if impure(b) {
			a.impures[b.Name] = true
		}
	}
	a.reach(allowRef())
	a.reach(decisionRef())
	for len(a.todo) > 0 {
		rule := a.todo[len(a.todo)-1]
		a.todo = a.todo[:len(a.todo)-1]
		a.walk(rule)
	}
	return a
}

// reach queues every rule that a reference to data may lead to.
func (a *analysis) reach(ref ast.Ref) {
	for _, rule := range a.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true}) {
		if !a.seen[rule] {
			a.seen[rule] = true
			a.todo = append(a.todo, rule)
		}
	}
}

// walk visits all of x: heads with their arguments and references, bodies, else branches, comprehensions, every, and the
// values of with modifiers.
func (a *analysis) walk(x any) {
	ast.NewGenericVisitor(func(node any) bool {
		switch n := node.(type) {
		case *ast.Head:
			// The visitor does not enter a head's reference by itself. The compiler has moved what is dynamic in it
			// into the body; this does not rely on it.
			for _, t := range n.Reference[min(1, len(n.Reference)):] {
				a.walk(t)
			}
		case *ast.With:
			// What is overridden is not read here; a rule that reads it counts by itself.
			a.walk(n.Value)
			return true
		case *ast.Term:
			if ref, ok := n.Value.(ast.Ref); ok {
				a.ref(ref, n.Location)
				return true
			}
		case ast.Ref:
			a.ref(n, nil)
			return true
		case ast.Var:
			a.ref(ast.Ref{ast.NewTerm(n)}, nil)
		}
		return false
	}).Walk(x)
}

// ref counts one reference and whatever its brackets hold.
func (a *analysis) ref(ref ast.Ref, at *ast.Location) {
	if len(ref) == 0 {
		return
	}
	for _, t := range ref[1:] {
		a.walk(t)
	}
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		a.input(ref, at)
	case ref[0].Equal(ast.DefaultRootDocument):
		a.reach(ref)
	default:
		if _, isVar := ref[0].Value.(ast.Var); !isVar {
			a.walk(ref[0])
		} else if name := ref.String(); a.impures[name] {
			a.impure[name] = at
		}
	}
}

// input counts a reference below input.
func (a *analysis) input(ref ast.Ref, at *ast.Location) {
	first, ok := member(ref, 1)
	switch {
	case !ok:
		a.everything()
	case first == "door":
		a.fields |= authz.FieldDoor
	case first == "zone":
		a.fields |= authz.FieldZone
	case first == "now_minute":
		a.fields |= authz.FieldMinute
	case first == "write":
		a.write = true
	case first == "artifact":
		a.artifact(ref, at)
	case first == "principal":
		if second, ok := member(ref, 2); ok && !slices.Contains(principalNames[:], second) {
			a.unknown[refPath(ref)] = at
		}
	case first != "action":
		a.everything()
		a.unknown[refPath(ref)] = at
	}
	a.paths[refPath(ref)] = at
}

// artifactFields maps the members of input.artifact to what they depend on. Members without a field are part of every
// key: whether the name is recorded, and the sources.
func artifactFields() map[string]authz.Field {
	return map[string]authz.Field{
		"kind":     authz.FieldKind,
		"zone":     authz.FieldZone,
		"path":     authz.FieldPath,
		"part":     authz.FieldPart,
		"hash":     authz.FieldHash,
		"recipe":   authz.FieldRecipe,
		"version":  authz.FieldVersion,
		"arch":     authz.FieldArch,
		"task":     authz.FieldTask,
		"signer":   authz.FieldSigner,
		"recorded": 0,
		"sources":  0,
		"inputs":   0,
	}
}

// artifact counts a reference below input.artifact.
func (a *analysis) artifact(ref ast.Ref, at *ast.Location) {
	name, ok := member(ref, 2)
	field, known := artifactFields()[name]
	switch {
	case ok && known:
		a.fields |= field
		a.sources = a.sources || name == "sources" || name == "inputs"
	case ok:
		a.unknown[refPath(ref)] = at
		fallthrough
	default:
		a.wholeArtifact()
	}
}

func (a *analysis) wholeArtifact() {
	a.sources = true
	for _, f := range artifactFields() {
		a.fields |= f
	}
}

func (a *analysis) everything() {
	a.wholeArtifact()
	a.fields |= authz.FieldDoor | authz.FieldZone | authz.FieldMinute
	a.write = true
}

// member is the constant name at position i of a reference.
func member(ref ast.Ref, i int) (string, bool) {
	if i >= len(ref) {
		return "", false
	}
	s, ok := ref[i].Value.(ast.String)
	return string(s), ok
}

// refPath prints a reference as far as it is constant: input.artifact.sources for input.artifact.sources[i].host.
func refPath(ref ast.Ref) string {
	return ref.ConstantPrefix().String()
}

// footprint is the analysis in the words of authz.
func (a *analysis) footprint(revision string) authz.Footprint {
	why := a.why()
	return authz.Footprint{Revision: revision, Remember: why == "", Why: why, Reads: a.fields}
}

// why says what keeps answers from being remembered; empty when nothing does.
func (a *analysis) why() string {
	var reasons []string
	if len(a.impure) > 0 {
		names := sortedKeys(a.impure)
		reasons = append(reasons, "calls "+strings.Join(names, ", ")+", which may answer differently each time")
	}
	if a.write {
		reasons = append(reasons, "reads the statement of a write (input.write, or the whole input)")
	}
	return strings.Join(reasons, "; ")
}

// fieldNames lists fields as the input members they stand for, in the order of the document.
func fieldNames(f authz.Field) []string {
	var names []string
	for name, bit := range artifactFields() {
		if f&bit != 0 {
			names = append(names, "artifact."+name)
		}
	}
	for name, bit := range map[string]authz.Field{
		"door": authz.FieldDoor, "zone": authz.FieldZone, "now_minute": authz.FieldMinute,
	} {
		if f&bit != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
