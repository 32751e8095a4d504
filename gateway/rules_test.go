package gateway_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// The rules are those of docs/design.md. A test of each that applies here has its number in its name; rule 4 has its own
// tests at the door.

// calls returns the functions of a package, tests left out, that call a method of one of these names, and its imports.
func calls(t *testing.T, dir string, methods ...string) (callers, imports []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imports = append(imports, strings.Trim(spec.Path.Value, `"`))
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && mentions(fn, methods) {
				callers = append(callers, receiver(fn)+fn.Name.Name)
			}
		}
	}
	slices.Sort(callers)
	return slices.Compact(callers), imports
}

func mentions(n ast.Node, methods []string) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			found = found || slices.Contains(methods, sel.Sel.Name)
		}
		return !found
	})
	return found
}

// receiver is "Type." for a method.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	return typ.(*ast.Ident).Name + "."
}

// TestRule1OneEntrance: doors import nothing that decides, and in the gateway only a session, and what one makes, asks for
// decisions and writes the journal. [gateway.Gateway.Knows] asks about a credential that is not proven yet, and tells nobody's name.
func TestRule1OneEntrance(t *testing.T) {
	const module = "github.com/lychgate/lychgate/"
	for door, allowed := range map[string][]string{
		"httpd": {"gateway", "gateway/limit", "authz/authn"},
		"hashd": {"gateway", "gateway/limit", "gateway/hashserv", "authz/authn"},
		"sshd":  {"gateway", "gateway/limit", "authz/authn", "authz/artifact", "authz"}, // to tell names apart, and to print an explanation
	} {
		callers, imports := calls(t, door, "Decide", "Evaluate", "Append", "AppendBatch", "Lookup", "Authorizer", "Records", "Journal", "Authenticator", "Blobs")
		callers = slices.DeleteFunc(callers, func(name string) bool { return name == "handlers.create" }) // looks at a flag of SFTP's OPEN
		if len(callers) > 0 {
			t.Errorf("%s reaches behind the session: %q", door, callers)
		}
		for _, name := range imports {
			if ours, ok := strings.CutPrefix(name, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", door, ours)
			}
		}
	}
	callers, _ := calls(t, ".", "Decide", "DecideFound", "AppendBatch", "Authenticate")
	for _, name := range callers {
		owner, _, _ := strings.Cut(name, ".")
		if !slices.Contains([]string{"Session", "Content", "write", "presenceBatch", "listing", "Hashes"}, owner) && name != "Gateway.Knows" {
			t.Errorf("%s asks for decisions", name)
		}
	}
	if !slices.Contains(callers, "Session.decide") {
		t.Errorf("found only %q: is this test still about the code?", callers)
	}
}

// TestRule2NamesAreOurs: what reaches an upstream is the gate's own spelling, however the client spelt it.
func TestRule2NamesAreOurs(t *testing.T) {
	mirror, o := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	importAll(t, g, o)
	before := len(g.Upstream.Names())
	for _, path := range []string{o.Name, strings.ReplaceAll(o.Name, ":", "%3A"), strings.ReplaceAll(o.Name, ":", "%3a"), strings.ReplaceAll(o.Name, "u", "%75")} {
		if res := g.As("bob").Get(mount + path); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	for _, name := range g.Upstream.Names()[before:] {
		if name != o.Name {
			t.Errorf("%q reached the mirror", name)
		}
	}
	for _, e := range g.Events() {
		if strings.Contains(e.Object.Path, "%") {
			t.Errorf("%q is in the journal", e.Object.Path)
		}
	}
}

// brokenPolicies are what follows the two defaults of a policy, in which ALLOW stands for a decision that allows.
var brokenPolicies = map[string]string{
	"undefined":             "allow if input.nothing\ndecision := ALLOW if input.nothing",
	"not a boolean":         "allow := \"yes\" if input.zone\ndecision := ALLOW if input.zone",
	"only the hot path":     "allow if input.zone",
	"only the decision":     "decision := ALLOW if input.zone",
	"conflicting values":    "allow := true if input.zone\nallow := false if input.zone\ndecision := ALLOW if input.zone",
	"conflicting decisions": "allow if input.zone\ndecision := ALLOW if input.zone\ndecision := {\"allow\": false} if input.zone",
	"division by 0":         "allow if 1 / (count(input.zone) - 4) != 7\ndecision := ALLOW if 1 / (count(input.zone) - 4) != 7",
	"no object":             "allow if input.zone\ndecision := [\"allow\"] if input.zone",
	"empty object":          "allow if input.zone\ndecision := {} if input.zone",
	"no boolean within":     "allow if input.zone\ndecision := {\"allow\": \"true\", \"rule\": \"r\", \"reasons\": [\"r: r\"]} if input.zone",
}

const policyDefaults = `package lychgate

# METADATA
# entrypoint: true
default allow := false

# METADATA
# entrypoint: true
default decision := {"allow": false, "rule": "default", "reasons": ["no: no"]}

`

// TestRule3ErrorsDeny: a policy that fails in any way allows nothing. One that does not shows that the others could have.
func TestRule3ErrorsDeny(t *testing.T) {
	g, o := ruled(t, "allow if input.zone\ndecision := ALLOW if input.zone")
	reads(t, g.As("alice"), mount+o.Name, o.Content)
	for name, rules := range brokenPolicies {
		t.Run(name, func(t *testing.T) {
			g, o := ruled(t, rules)
			for _, who := range []string{"alice", "ci"} {
				reads(t, g.As(who), mount+o.Name, nil)
			}
			if _, err := g.As("ci").Client().Begin(t.Context(), "main", announce(object("new", []byte("x")))); err == nil {
				t.Error("a write could begin")
			}
		})
	}
}

// ruled is a gate with rules after policyDefaults, and an object that was published under the shipped policy.
func ruled(t *testing.T, rules string) (*gwtest.Gate, gwtest.Object) {
	t.Helper()
	dir, bundle := t.TempDir(), t.TempDir()
	o := object("hello", []byte("hello"))
	g := gwtest.New(t, gwtest.Options{Dir: dir})
	g.Publish([]gwtest.Object{o}, publicSource)
	g.Stop()
	rules = policyDefaults + strings.ReplaceAll(rules, "ALLOW", `{"allow": true, "rule": "r", "reasons": ["r: r"]}`) + "\n"
	if err := os.WriteFile(filepath.Join(bundle, "rule.rego"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return gwtest.New(t, gwtest.Options{Dir: dir, Policy: bundle}), o
}

// TestRule5ProvenanceComesWithBytes: who cannot show the bytes cannot say where they come from.
func TestRule5ProvenanceComesWithBytes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	bob, o := g.As("bob"), object("secret", []byte("secret"))
	publish(t, g.As("ci"), statement(g, "review", []gwtest.Object{o}, privateSource), o)
	publish(t, g.As("ci"), statement(g, "main", []gwtest.Object{o}, privateSource), o)

	st := statement(g, "review", []gwtest.Object{o}, publicSource)
	up := begin(t, bob, "review", o)
	st.UploadID = up.ID
	if code, _, failure := commit(bob, up.ID, g.Seal(st)); code != http.StatusConflict {
		t.Errorf("a commit without the bytes: %d %+v", code, failure)
	}
	st.UploadID = ""
	if code, text := put(bob, review+o.Name+gateway.StatementSuffix, g.Seal(st)); code != http.StatusAccepted {
		t.Errorf("a plain statement without the bytes: %d %q", code, text)
	}
	// Nor does another name for the same bytes, a part, or another zone help with the first.
	copied := object("copied", o.Content)
	publish(t, bob, statement(g, "review", []gwtest.Object{copied}, publicSource), copied)
	reads(t, bob, review+copied.Name, o.Content)
	publish(t, bob, statement(g, "review", []gwtest.Object{{Name: o.Name + ".sig", Content: []byte("sig")}}, publicSource), gwtest.Object{Name: o.Name + ".sig", Content: []byte("sig")})
	for _, path := range []string{review + o.Name, mount + o.Name} {
		reads(t, bob, path, nil)
		reads(t, g.As("alice"), path, o.Content)
	}
	// A statement by plain PUT waits for bytes of its own sender, with the digest that it names.
	if code, text := put(bob, review+o.Name, []byte("guess!")); code != http.StatusAccepted {
		t.Errorf("other bytes: %d %q", code, text)
	}
	reads(t, bob, review+o.Name, nil)
}

// referee looks at the world at the moment of each event, and can be told to fail.
type referee struct {
	gateway.Journal
	mu      sync.Mutex // guards what follows
	look    func(e *audit.Event)
	appends error
	durable error
	waited  map[uint64]bool
}

func (r *referee) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *referee) Append(e *audit.Event) (uint64, error) {
	return r.AppendBatch([]*audit.Event{e})
}

func (r *referee) AppendBatch(events []*audit.Event) (uint64, error) {
	r.mu.Lock()
	look, err := r.look, r.appends
	r.mu.Unlock()
	for _, e := range events {
		if look != nil {
			look(e)
		}
	}
	if err != nil {
		return 0, err
	}
	return r.Journal.AppendBatch(events)
}

func (r *referee) Durable(ctx context.Context, seq uint64) error {
	r.mu.Lock()
	err := r.durable
	r.waited[seq] = true
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.Journal.Durable(ctx, seq)
}

func refereed(t *testing.T, o gwtest.Options) (*gwtest.Gate, *referee) {
	r := &referee{waited: map[uint64]bool{}}
	o.Journal = func(j gateway.Journal) gateway.Journal { r.Journal = j; return r }
	return gwtest.New(t, o), r
}

// TestRule6EventBeforeBytes: when the event of a read is written, nothing was opened yet; when it cannot be, nothing is.
func TestRule6EventBeforeBytes(t *testing.T) {
	mirror, o := flaky()
	g, r := refereed(t, gwtest.Options{Mirror: mirror})
	importAll(t, g, o)
	before := len(g.Upstream.Names())
	var seen []string
	r.set(func() {
		r.look = func(e *audit.Event) {
			seen = append(seen, e.Kind)
			if n := len(g.Upstream.Names()) - before; e.Kind == audit.KindDecision && n != 0 {
				t.Errorf("%d names reached an upstream before the decision was recorded", n)
			}
		}
	})
	reads(t, g.As("bob"), mount+o.Name, o.Content)
	if want := []string{"presence", audit.KindDecision, audit.KindDecision, audit.KindTransfer}; !slices.Equal(seen, want) {
		t.Errorf("events %q, want %q", seen, want)
	}
	r.set(func() { r.look, r.appends = nil, errors.New("no paper") })
	before = len(g.Upstream.Names())
	for _, method := range []string{"GET", "HEAD"} {
		if res := g.As("bob").Do(method, mount+o.Name, nil); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Etag") != "" {
			t.Errorf("%s without an event: %d %v", method, res.StatusCode, res.Header)
		}
	}
	if n := len(g.Upstream.Names()) - before; n != 0 {
		t.Errorf("%d names reached an upstream without an event", n)
	}
}

// TestRule6RecordIsTheCommitPoint: the decision to write is durable before there is a record, and what became of it before the
// writer is told.
func TestRule6RecordIsTheCommitPoint(t *testing.T) {
	g, r := refereed(t, gwtest.Options{})
	o := object("hello", []byte("hello"))
	ci := g.As("ci")
	up := begin(t, ci, "main", o)
	stage(ci, up.ID, 0, 0, o.Content)
	st := statement(g, "main", []gwtest.Object{o}, publicSource)
	st.UploadID = up.ID
	ref, err := artifact.ParseName(artifact.Zone{Name: "main"}, o.Name)
	if err != nil {
		t.Fatal(err)
	}
	recorded := func() bool { _, err := g.DB.Lookup(context.Background(), ref); return err == nil }

	for name, fail := range map[string]func(err error){
		"Append":  func(err error) { r.appends = err },
		"Durable": func(err error) { r.durable = err },
	} {
		r.set(func() { fail(errors.New("no paper")) })
		if res := ci.Do(http.MethodPost, "/v1/uploads/"+up.ID+"/commit", g.Seal(st)); res.StatusCode != http.StatusServiceUnavailable || recorded() {
			t.Errorf("%s fails: %d, recorded %v", name, res.StatusCode, recorded())
		}
		r.set(func() { fail(nil) })
	}
	var order []string
	r.set(func() {
		r.look = func(e *audit.Event) {
			order = append(order, e.Kind)
			if recorded() != (e.Kind == "write.publish") {
				t.Errorf("%s: recorded %v", e.Kind, recorded())
			}
			if e.Kind == "write.publish" { // the record is there, and the writer must not be told
				r.set(func() { r.durable = errors.New("no paper") })
			}
		}
	})
	if res := ci.Do(http.MethodPost, "/v1/uploads/"+up.ID+"/commit", g.Seal(st)); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an acknowledgement that is not durable: %d", res.StatusCode)
	}
	if want := []string{"write.commit", "write.publish"}; !slices.Equal(order, want) {
		t.Errorf("events %q, want %q", order, want)
	}
	r.set(func() { r.look, r.durable = nil, nil })
	if code, result, failure := commit(ci, up.ID, g.Seal(st)); code != http.StatusCreated || result.Objects[0].Result != "confirmed" {
		t.Errorf("the commit again: %d %+v %+v", code, result, failure)
	}
	for _, e := range g.Events() {
		if (e.Kind == "write.commit" || e.Kind == "write.publish") && !r.waited[e.Seq] {
			t.Errorf("nobody waited for %s", e.Kind)
		}
	}
}
