package policy

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

// The members of the input document, in the order in which they are built. docs/policy-input.md describes them, and
// a test holds the two together.
var (
	inputNames     = [...]string{"action", "door", "zone", "principal", "artifact", "now_minute", "write"}
	principalNames = [...]string{"forge", "id", "name", "kind", "groups", "claims", "roles", "review"}
	artifactNames  = [...]string{
		"kind", "zone", "path", "part", "hash", "recipe", "version", "arch", "task", "signer", "recorded", "sources", "inputs",
	}
	sourceNames = [...]string{"type", "host", "path", "repo", "rev", "public", "access"}
)

// maxCached bounds each cache of terms; when one is full it starts afresh.
const maxCached = 4096

// inputs builds input documents directly as OPA's values, and keeps the parts that recur: a principal is the same
// pointer for as long as it is signed in, and thousands of artifacts share their sources. It is safe for concurrent use.
type inputs struct {
	top, principal, artifact, source []*ast.Term // member names

	principals cache[*authn.Principal]
	sources    cache[sourceKey]
}

// sourceKey is all that a source's term depends on.
type sourceKey struct {
	source.Source
	public bool
	access string
}

func newInputs() *inputs {
	return &inputs{
		top:       terms(inputNames[:]),
		principal: terms(principalNames[:]),
		artifact:  terms(artifactNames[:]),
		source:    terms(sourceNames[:]),
	}
}

func terms(names []string) []*ast.Term {
	list := make([]*ast.Term, len(names))
	for i, name := range names {
		list[i] = ast.InternedTerm(name)
	}
	return list
}

// object pairs names with values. A name without a value is left out.
func object(names []*ast.Term, values ...*ast.Term) *ast.Term {
	items := make([][2]*ast.Term, 0, len(values))
	for i, v := range values {
		items = append(items, [2]*ast.Term{names[i], v})
	}
	return ast.ObjectTerm(items...)
}

// document builds what a policy sees of a question.
func (in *inputs) document(r *authz.Request, f *authz.Facts) (*ast.Term, error) {
	who, err := in.principals.get(r.Principal, in.newPrincipal)
	if err != nil {
		return nil, err
	}
	what, err := in.newArtifact(r, f)
	if err != nil {
		return nil, err
	}
	values := []*ast.Term{
		text(string(r.Action)), text(r.Door), text(r.Ref.Zone), who, what, number(f.Now.Unix() / 60),
	}
	if r.Write == nil {
		return object(in.top, values...), nil
	}
	write, err := in.newWrite(r.Write)
	if err != nil {
		return nil, err
	}
	return object(in.top, append(values, write)...), nil
}

// newPrincipal builds input.principal.
func (in *inputs) newPrincipal(p *authn.Principal) (*ast.Term, error) {
	claims := ast.InternedEmptyObject
	if len(p.Claims) > 0 {
		v, err := ast.InterfaceToValue(p.Claims)
		if err != nil {
			return nil, fmt.Errorf("claims of the principal: %w", err)
		}
		claims = ast.NewTerm(v)
	}
	return object(in.principal,
		text(p.Forge), text(p.ID), text(p.Name), text(string(p.Kind)), texts(p.Groups), claims, texts(p.Roles), ast.InternedTerm(p.Review)), nil
}

// newArtifact builds input.artifact. For a write it describes what is to be published.
func (in *inputs) newArtifact(r *authz.Request, f *authz.Facts) (*ast.Term, error) {
	sources, err := in.list(f.Sources)
	if err != nil {
		return nil, err
	}
	transitive, err := in.list(f.Inputs)
	if err != nil {
		return nil, err
	}
	signer, zone := f.Claim.Signer, f.Zone
	if r.Write != nil {
		signer, zone = r.Write.Signer, r.Ref.Zone
	}
	a := &r.Ref
	return object(in.artifact,
		kindText(a.Kind), text(zone), text(a.Path), partText(a.Part), text(a.Hash), text(a.Recipe), text(a.Version), text(a.Arch), text(a.Task),
		text(signer), ast.InternedTerm(f.Recorded), sources, transitive), nil
}

// list builds a list of sources in their order.
func (in *inputs) list(facts []authz.SourceFact) (*ast.Term, error) {
	if len(facts) == 0 {
		return ast.InternedEmptyArray, nil
	}
	elems := make([]*ast.Term, len(facts))
	for i := range facts {
		f := &facts[i]
		t, err := in.sources.get(sourceKey{f.Source, f.Public, f.Fact.Access.String()}, in.newSource)
		if err != nil {
			return nil, err
		}
		elems[i] = t
	}
	return ast.ArrayTerm(elems...), nil
}

// newSource builds one source. An unresolvable one is nobody's to read and carries its reason.
func (in *inputs) newSource(k sourceKey) (*ast.Term, error) {
	if k.Type == source.Unresolvable {
		k.public, k.access = false, "none"
	}
	t := object(in.source,
		text(string(k.Type)), text(k.Locator.Host), text(k.Locator.Path), text(k.Repo), text(k.Rev),
		ast.InternedTerm(k.public), text(k.access))
	if k.Reason != "" {
		t.Value.(ast.Object).Insert(ast.InternedTerm("reason"), text(k.Reason))
	}
	return t, nil
}

// newWrite builds input.write. The signer is the verified one, whatever the statement's own facts say.
func (in *inputs) newWrite(w *authz.WriteFacts) (*ast.Term, error) {
	statement := ast.NewObject()
	if len(w.Statement) > 0 {
		v, err := ast.InterfaceToValue(w.Statement)
		if err != nil {
			return nil, fmt.Errorf("facts of the statement: %w", err)
		}
		statement = v.(ast.Object)
	}
	statement.Insert(ast.InternedTerm("signer"), text(w.Signer))
	return ast.ObjectTerm(ast.Item(ast.InternedTerm("statement"), ast.NewTerm(statement))), nil
}

func kindText(k artifact.Kind) *ast.Term {
	if k == artifact.KindSstate {
		return ast.InternedTerm("sstate")
	}
	return ast.InternedEmptyString
}

func partText(p artifact.Part) *ast.Term {
	switch p {
	case artifact.Payload:
		return ast.InternedTerm("payload")
	case artifact.Siginfo:
		return ast.InternedTerm("siginfo")
	case artifact.Sig:
		return ast.InternedTerm("sig")
	}
	return ast.InternedEmptyString
}

func number(n int64) *ast.Term { return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10))) }

func text(s string) *ast.Term { return ast.InternedTerm(s) }

func texts(list []string) *ast.Term {
	if len(list) == 0 {
		return ast.InternedEmptyArray
	}
	return ast.ArrayTerm(terms(list)...)
}

// cache remembers terms by what they were built from. The zero cache is empty and ready.
type cache[K comparable] struct {
	mu    sync.RWMutex
	terms map[K]*ast.Term
}

// get returns the term of k, and builds it with build at first.
func (c *cache[K]) get(k K, build func(K) (*ast.Term, error)) (*ast.Term, error) {
	c.mu.RLock()
	t := c.terms[k]
	c.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	t, err := build(k)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.terms == nil || len(c.terms) >= maxCached {
		c.terms = map[K]*ast.Term{}
	}
	c.terms[k] = t
	return t, nil
}
