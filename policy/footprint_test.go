package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// everyField is the footprint of a policy that may read all there is.
const everyField = authz.FieldMinute<<1 - 1

// wholeArtifact is what a policy reads that mentions input.artifact by itself.
const wholeArtifact = everyField &^ (authz.FieldDoor | authz.FieldMinute)

// fragment is a piece of policy: helper rules, a condition that uses them, and what its footprint must be.
type fragment struct {
	name      string
	helpers   string
	condition string
	reads     authz.Field
	forgets   bool // answers must not be remembered
}

// fragments are the ways in which a policy can get at a member of the input.
var fragments = []fragment{
	{"constant", "", `1 == 1`, 0, false},
	{"action", "", `input.action == "read"`, 0, false},
	{"principal", "", `"platform" in input.principal.groups`, 0, false},
	{"whole principal", "", `count(input.principal) == 7`, 0, false},
	{"sources", "", `every s in input.artifact.sources { s.access == "read" }`, 0, false},
	{"recorded", "", `input.artifact.recorded`, 0, false},
	{"direct", "", `input.artifact.hash == "h1"`, authz.FieldHash, false},
	{"quoted", "", `input["artifact"]["hash"] == "h1"`, authz.FieldHash, false},
	{"deeper", "", `not input.artifact.hash.nothing`, authz.FieldHash, false},
	{"negated", "", `not input.door == "ssh"`, authz.FieldDoor, false},
	{"minute", "", `input.now_minute % 2 == 0`, authz.FieldMinute, false},
	{"rule", `rule_task if input.artifact.task == "t1"`, `rule_task`, authz.FieldTask, false},
	{"rule of rules", "deep_a if deep_b\ndeep_b if deep_c\n" + `deep_c if input.artifact.version == "v1"`, `deep_a`, authz.FieldVersion, false},
	{"default rule", "default soft := false\n" + `soft if input.artifact.part == "sig"`, `soft`, authz.FieldPart, false},
	{"else", `chain := 1 if input.zone == "main" else := 2 if input.artifact.arch == "a1" else := 3`, `chain == 2`, authz.FieldZone | authz.FieldArch, false},
	{"value in the head", `head := [input.artifact.recipe]`, `head == ["r1"]`, authz.FieldRecipe, false},
	{"else value", `other := 1 if input.zone == "none" else := input.artifact.recipe`, `other == "r1"`, authz.FieldZone | authz.FieldRecipe, false},
	{"function over its argument", `same(a, b) if a == b`, `same(input.artifact.signer, "s1")`, authz.FieldSigner, false},
	{"function that reads input", `reading(x) if input.artifact.kind == x`, `reading("sstate")`, authz.FieldKind, false},
	{"function given the artifact", `ofpart(a) if a.hash == "h1"`, `ofpart(input.artifact)`, wholeArtifact, false},
	{"function of functions", "outer(x) if inner(x)\n" + `inner(x) if x == input.artifact.path`, `outer("p1")`, authz.FieldPath, false},
	{"argument pattern", `pattern({"v": x}) if x == "v1"`, `pattern({"v": input.artifact.version})`, authz.FieldVersion, false},
	{"alias of the artifact", "aliased if {\n\tx := input.artifact\n\tx.task == \"t1\"\n}", `aliased`, wholeArtifact, false},
	{"alias of all", "wide if {\n\tx := input\n\tx.artifact.hash == \"h1\"\n}", `wide`, everyField, true},
	{"alias of all in a rule", `all_of_it := input`, `all_of_it.artifact.arch == "a1"`, everyField, true},
	{"unknown member of the artifact", `some_key if { some k; input.artifact[k] == "h1" }`, `some_key`, wholeArtifact, false},
	{"member by a value", `by_value if input.artifact[input.door] == "h1"`, `not by_value`, wholeArtifact | authz.FieldDoor, false},
	{"unknown member", `any_key if { some k; input[k] == "ssh" }`, `any_key`, everyField, true},
	{"member that is not there", "", `not input.artefact.hash`, everyField, true},
	{"partial set", `archs contains input.artifact.arch`, `"a1" in archs`, authz.FieldArch, false},
	{"partial set with a body", `tasks contains t if { t := input.artifact.task; input.door == "ssh" }`, `"t1" in tasks`, authz.FieldTask | authz.FieldDoor, false},
	{"partial object", `doors[input.zone] := input.door`, `doors.main == "ssh"`, authz.FieldZone | authz.FieldDoor, false},
	{"reference in the head", `nested[input.door].on := true`, `nested.ssh.on`, authz.FieldDoor, false},
	{"two in the head", `pairs[input.door][input.artifact.task] := true`, `pairs.ssh.t1`, authz.FieldDoor | authz.FieldTask, false},
	{"set in the head", `kinds[input.artifact.recipe] contains input.artifact.arch`, `"a1" in kinds.r1`, authz.FieldRecipe | authz.FieldArch, false},
	{"array comprehension", "", `count([x | x := input.artifact.hash; x == "h1"]) == 1`, authz.FieldHash, false},
	{"set comprehension", "", `"v1" in {input.artifact.version | true}`, authz.FieldVersion, false},
	{"object comprehension", "", `{input.artifact.task: input.door | true}.t1 == "ssh"`, authz.FieldTask | authz.FieldDoor, false},
	{"every", "", `every x in [input.zone, input.artifact.zone] { x == "main" }`, authz.FieldZone, false},
	{"every with a body", "", `every x in ["h1"] { x == input.artifact.hash }`, authz.FieldHash, false},
	{"nested object", "", `{"a": {"b": [input.artifact.arch]}}.a.b[0] == "a1"`, authz.FieldArch, false},
	{"with input", `under if input.artifact.hash == "h1"`, `under with input as {"artifact": {"hash": input.artifact.task}}`, authz.FieldHash | authz.FieldTask, false},
	{"with a member of input", `over if input.door == "t1"`, `over with input.door as input.artifact.task`, authz.FieldDoor | authz.FieldTask, false},
	{"with data", `limit if data.limits.zone == "main"`, `limit with data.limits.zone as input.zone`, authz.FieldZone, false},
	{"with a rule", "base_rule if input.door == \"ssh\"\nspoken if base_rule", `spoken with base_rule as input.artifact.recorded`, authz.FieldDoor, false},
	{"with a function", "calls(x) if startswith(x, \"t\")\nspy(x, _) if x == input.artifact.version", `calls(input.zone) with startswith as spy`, authz.FieldZone | authz.FieldVersion, false},
	{"other package", "", `data.elsewhere.known`, authz.FieldRecipe, false},
	{"other package by name", "", `data.elsewhere[input.door]`, authz.FieldDoor | authz.FieldRecipe | authz.FieldArch, false},
	{"any package", "", `data.elsewhere[_] == "a1"`, authz.FieldRecipe | authz.FieldArch, false},
	{"extent of a package", "", `count(data.elsewhere) == 2`, authz.FieldRecipe | authz.FieldArch, false},
	{"package in a variable", `pkg if { x := data.elsewhere; x.arch == "a1" }`, `pkg`, authz.FieldRecipe | authz.FieldArch, false},
	{"import", "", `short.task == "t1"`, authz.FieldTask, false},
	{"object.get", "", `object.get(input.artifact, "signer", "") == "s1"`, wholeArtifact, false},
	{"object.get of all", "", `object.get(input, ["artifact", "signer"], "") == "s1"`, everyField, true},
	{"walk", `found if { some p; walk(input.artifact, [p, "h1"]) }`, `found`, wholeArtifact, false},
	{"json.filter", "", `json.filter(input.artifact, ["hash"]) == {"hash": "h1"}`, wholeArtifact, false},
	{"sprintf", "", `sprintf("%s", [input.artifact.path]) == "p1"`, authz.FieldPath, false},
	{"template", "", `$"{input.artifact.path}" == "p1"`, authz.FieldPath, false},
	{"write", "", `not input.write.statement.signer == "mallory"`, 0, true},
	{"clock", "", `time.now_ns() > 0`, 0, true},
	{"random", "", `rand.intn("x", 10) >= 0`, 0, true},
	{"uuid", "", `uuid.rfc4122("x") != ""`, 0, true},
	{"random by with", `fixed(x) if upper(x) == "X"`, `not fixed("x") with upper as uuid.rfc4122`, 0, true},
	{"clock far away", "far if further\nfurther if [1 | time.now_ns() > 0] == [1]", `far`, 0, true},
	{"certificates", `certs if crypto.x509.parse_and_verify_certificates("")[0]`, `not certs`, 0, true},
	{"token", `token if io.jwt.decode_verify("", {})[0]`, `not token`, 0, true},
	{"unused rule", `unused if input.artifact.hash == "h1"`, `input.door == "ssh"`, authz.FieldDoor, false},
	{"unused clock", `idle if time.now_ns() > 0`, `input.door == "ssh"`, authz.FieldDoor, false},
	{"arithmetic on a clock that is given", "", `time.clock(input.now_minute * 60000000000)[0] >= 0`, authz.FieldMinute, false},
}

const elsewhere = `package elsewhere
known if input.artifact.recipe == "r1"
arch := input.artifact.arch
`

// policyOf makes a bundle of fragments: each group of conditions is one allow rule.
func policyOf(groups [][]fragment) map[string]string {
	var text strings.Builder
	text.WriteString("package lychgate\nimport input.artifact as short\ndefault allow := false\n")
	text.WriteString("decision := {\"allow\": allow, \"reasons\": sort([x | some x in said])}\nsaid contains \"always\"\nkept if short.recorded\n")
	text.WriteString("said contains \"kept\" if kept\n")
	helped := map[string]bool{}
	for i, group := range groups {
		var conditions []string
		for _, f := range group {
			if !helped[f.name] {
				text.WriteString(f.helpers + "\n")
				helped[f.name] = true
			}
			conditions = append(conditions, f.condition)
		}
		fmt.Fprintf(&text, "met_%d if {\n\t%s\n}\nallow if met_%d\nsaid contains \"rule %d\" if met_%d\n", i, strings.Join(conditions, "\n\t"), i, i, i)
	}
	return map[string]string{"p.rego": text.String(), "elsewhere.rego": elsewhere}
}

// engineOfFiles is New without a directory.
func engineOfFiles(t interface{ Fatalf(string, ...any) }, files map[string]string) *Engine {
	var list []file
	for name, text := range files {
		list = append(list, file{name, []byte(text)})
	}
	tree, err := newTree(list, nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	rev, err := newRevision(tree, time.Minute)
	if err != nil {
		t.Fatalf("%v\n%s", err, files["p.rego"])
	}
	e := &Engine{inputs: newInputs()}
	e.active.Store(&active{revision: rev})
	return e
}

func TestFootprintOfFragments(t *testing.T) {
	for _, f := range fragments {
		t.Run(f.name, func(t *testing.T) {
			got := engineOfFiles(t, policyOf([][]fragment{{f}})).Footprint()
			if got.Reads != f.reads || got.Remember == f.forgets || (got.Why == "") == f.forgets {
				t.Errorf("reads %v, remember %v (%s); want %v, %v", fieldNames(got.Reads), got.Remember, got.Why, fieldNames(f.reads), !f.forgets)
			}
		})
	}
}

func TestFootprintOfTheShippedDefault(t *testing.T) {
	got := newEngine(t, Config{}).Footprint()
	want := authz.FieldZone | authz.FieldSigner
	if got.Reads != want || !got.Remember {
		t.Errorf("reads %v, remember %v (%s); want %v and to be remembered", fieldNames(got.Reads), got.Remember, got.Why, fieldNames(want))
	}
}

func TestEveryFieldHasAName(t *testing.T) {
	if got := fieldNames(everyField); len(got) != 13 { // the zone stands for two members
		t.Errorf("field names %v", got)
	}
}

// drawQuestion draws a request from few values, so that agreeing ones are common.
func drawQuestion(t *rapid.T) (authz.Request, *authz.Facts) {
	pick := func(label string, values ...string) string { return rapid.SampledFrom(values).Draw(t, label) }
	r := authz.Request{
		Action:    authz.Action(pick("action", "read", "read", "write", "admin")),
		Door:      pick("door", "https", "ssh", "arch"),
		Principal: principals[rapid.IntRange(0, len(principals)-1).Draw(t, "principal")],
		Ref: artifact.Ref{
			Zone: pick("zone", "main", "pr"), Kind: artifact.Kind(rapid.IntRange(0, 1).Draw(t, "kind")), Path: pick("path", "p1", "p2"),
			Hash: pick("hash", "h1", "h2"), Recipe: pick("recipe", "r1", "r2"), Version: pick("version", "v1", "v2"),
			Arch: pick("arch", "a1", "a2"), Task: pick("task", "t1", "t2"), Part: artifact.Part(rapid.IntRange(0, 2).Draw(t, "part")),
		},
	}
	f := &authz.Facts{
		Recorded: rapid.Bool().Draw(t, "recorded"), Zone: pick("found", "main", "pr"),
		Now: noon.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "minute")) * time.Minute),
	}
	f.Claim.Signer = pick("signer", "s1", "s2")
	access := forge.Access(rapid.IntRange(0, 2).Draw(t, "access"))
	f.Sources = []authz.SourceFact{sourceFact("team/a", access)}
	if r.Action == authz.Write {
		r.Write = &authz.WriteFacts{Signer: pick("statement signer", "s1", "mallory")}
	}
	return r, f
}

// principals are shared, as the gate's are.
var principals = []*authn.Principal{
	{Forge: "git.example.com", ID: "1", Name: "alice", Kind: authn.Human, Groups: []string{"platform"}},
	{Forge: "git.example.com", ID: "2", Name: "bob", Kind: authn.Human},
}

// key is what a memo may go by: what a policy always may depend on, and the fields of its footprint.
type key struct {
	action    authz.Action
	principal *authn.Principal
	sources   string
	recorded  bool
	fields    string
}

func keyOf(r authz.Request, f *authz.Facts, fields authz.Field) key {
	signer, found := f.Claim.Signer, f.Zone
	if r.Write != nil {
		signer, found = r.Write.Signer, r.Ref.Zone
	}
	k := key{r.Action, r.Principal, "", f.Recorded, ""}
	for _, s := range f.Sources {
		k.sources += fmt.Sprintf("%q %v %v ", s.Source, s.Public, s.Fact.Access)
	}
	for _, part := range []struct {
		field authz.Field
		value any
	}{
		{authz.FieldDoor, r.Door},
		{authz.FieldZone, []string{r.Ref.Zone, found}},
		{authz.FieldKind, r.Ref.Kind},
		{authz.FieldPath, r.Ref.Path},
		{authz.FieldPart, r.Ref.Part},
		{authz.FieldHash, r.Ref.Hash},
		{authz.FieldRecipe, r.Ref.Recipe},
		{authz.FieldVersion, r.Ref.Version},
		{authz.FieldArch, r.Ref.Arch},
		{authz.FieldTask, r.Ref.Task},
		{authz.FieldSigner, signer},
		{authz.FieldMinute, f.Now.Unix() / 60},
	} {
		if fields&part.field != 0 {
			k.fields += fmt.Sprintf("%d=%q ", part.field, fmt.Sprint(part.value))
		}
	}
	return k
}

// said is what an asker could tell two decisions apart by.
type said struct {
	Verdict authz.Verdict
	Rule    string
	Reasons []string
	Error   bool
}

func ask(t *rapid.T, e *Engine, r authz.Request, f *authz.Facts) said {
	d, err := e.Evaluate(t.Context(), r, f)
	return said{d.Verdict, d.Rule, d.Reasons, err != nil}
}

// TestMemoAgrees asks random policies random questions, with a memo that goes by the footprint and without. They must
// agree; a policy that must not be remembered is out of it.
func TestMemoAgrees(t *testing.T) {
	var hits, allows int
	rapid.Check(t, func(t *rapid.T) {
		group := rapid.SliceOfN(rapid.SampledFrom(fragments), 1, 2)
		groups := rapid.SliceOfN(group, 1, 3).Draw(t, "policy")
		e := engineOfFiles(t, policyOf(groups))
		print := e.Footprint()
		if want := !slices.ContainsFunc(slices.Concat(groups...), func(f fragment) bool { return f.forgets }); print.Remember != want {
			t.Fatalf("remember is %v, want %v: %s", print.Remember, want, print.Why)
		}
		if !print.Remember {
			return
		}
		memo := map[key]said{}
		for range 24 {
			r, f := drawQuestion(t)
			k := keyOf(r, f, print.Reads)
			fresh := ask(t, e, r, f)
			if old, ok := memo[k]; ok {
				hits++
				if diff := cmp.Diff(old, fresh); diff != "" {
					t.Fatalf("remembered and fresh differ for %+v: %s\n%s", k, diff, policyOf(groups)["p.rego"])
				}
			}
			if fresh.Verdict == authz.Allow {
				allows++
			}
			memo[k] = fresh
		}
	})
	if hits == 0 || allows == 0 {
		t.Errorf("%d remembered answers, %d allowed: the test tested nothing", hits, allows)
	}
}

// TestOutsideTheFootprintNothingMatters changes only what is not in the footprint.
func TestOutsideTheFootprintNothingMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(fragments), 1, 2), 1, 2).Draw(t, "policy")
		e := engineOfFiles(t, policyOf(groups))
		print := e.Footprint()
		if !print.Remember {
			return
		}
		r1, f1 := drawQuestion(t)
		r2, f2 := drawQuestion(t)
		r2.Action, r2.Principal, f2.Recorded, f2.Sources = r1.Action, r1.Principal, f1.Recorded, f1.Sources
		r2.Write = r1.Write
		agree(print.Reads, &r1, &r2, f1, f2)
		if k1, k2 := keyOf(r1, f1, print.Reads), keyOf(r2, f2, print.Reads); k1 != k2 {
			t.Fatalf("keys differ:\n%+v\n%+v", k1, k2)
		}
		if diff := cmp.Diff(ask(t, e, r1, f1), ask(t, e, r2, f2)); diff != "" {
			t.Fatalf("answers differ outside of %v: %s\n%s", fieldNames(print.Reads), diff, policyOf(groups)["p.rego"])
		}
	})
}

// agree copies what the footprint reads from the first question to the second.
func agree(fields authz.Field, r1, r2 *authz.Request, f1, f2 *authz.Facts) {
	for field, copyField := range map[authz.Field]func(){
		authz.FieldDoor:    func() { r2.Door = r1.Door },
		authz.FieldZone:    func() { r2.Ref.Zone, f2.Zone = r1.Ref.Zone, f1.Zone },
		authz.FieldKind:    func() { r2.Ref.Kind = r1.Ref.Kind },
		authz.FieldPath:    func() { r2.Ref.Path = r1.Ref.Path },
		authz.FieldPart:    func() { r2.Ref.Part = r1.Ref.Part },
		authz.FieldHash:    func() { r2.Ref.Hash = r1.Ref.Hash },
		authz.FieldRecipe:  func() { r2.Ref.Recipe = r1.Ref.Recipe },
		authz.FieldVersion: func() { r2.Ref.Version = r1.Ref.Version },
		authz.FieldArch:    func() { r2.Ref.Arch = r1.Ref.Arch },
		authz.FieldTask:    func() { r2.Ref.Task = r1.Ref.Task },
		authz.FieldSigner:  func() { f2.Claim.Signer = f1.Claim.Signer },
		authz.FieldMinute:  func() { f2.Now = f1.Now },
	} {
		if fields&field != 0 {
			copyField()
		}
	}
}
