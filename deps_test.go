package lychgate_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lychgate/lychgate"

// floors says how high each package stands. A package imports what stands lower, never beside it. A package that is
// not here is an error: give it a floor when you make it.
var floors = map[string]int{
	"authz/artifact":   0,
	"authz/source":     0,
	"authz/authn":      0,
	"gateway/upstream": 0,
	"gateway/hashserv": 0,
	"gateway/limit":    0,

	"authz/provenance": 1,
	"authz/forge":      1,

	"authz": 2,

	"policy":        3,
	"gateway/audit": 3,

	"gateway": 4,

	"gateway/httpd": 5,
	"gateway/sshd":  5,
	"gateway/hashd": 5,

	"internal/config":    6,
	"internal/servertls": 6,
	"internal/devca":     6,
	"internal/sqldb":     6,
	"internal/redisdb":   6,
	"internal/s3":        6,
	"internal/client":    6,
	"internal/agent":     6,
	"internal/console":   6,

	"cmd/lychgate": 7,
}

// testOnly lists packages that only tests may import, and why. They may import anything.
var testOnly = map[string]string{
	".":                             "it holds no code",
	"authz/provenance/storetest":    "the conformance suite of provenance.Store",
	"authz/authn/tokentest":         "the conformance suite of authn.TokenStore",
	"authz/forge/forgetest":         "the conformance suite of forge.Provider",
	"authz/forge/bustest":           "the conformance suite of forge.Bus and forge.Shared",
	"gateway/upstream/upstreamtest": "the conformance suite of upstream.Store",
	"gateway/hashserv/hashtest":     "the conformance suite of hashserv.Store, Equivalents and Keeper",
	"internal/gwtest":               "a whole gate in a test",
	"internal/gwtest/oidcprovider":  "a real OpenID Connect provider, for tests",
	"internal/gwtest/gitea":         "a real Gitea, for tests; its server is in a module of its own, as hundreds of packages that no gate runs stay out of go.mod",
	"internal/gwtest/redis":         "real Redis servers, for tests",
	"internal/gwtest/forgegate":     "a gate in front of a git server of the conformance suite",
	"internal/gwtest/loopback":      "addresses for servers of tests",
	"internal/gwtest/server":        "servers as processes of their own, for tests",
	"internal/gwtest/hashref":       "BitBake's own hash equivalence server, for tests",
	"internal/hashsuite":            "a program that runs the suite of BitBake's hash equivalence server against a gate",
	"internal/bench":                "programs that measure; nothing is built on them",
	"internal/bitbake":              "a program that runs real BitBake against a gate",
	"internal/bench/opaserver":      "OPA's own server, a peer, in a module of its own: hundreds of packages that no gate runs stay out of go.mod",
	"internal/crash":                "programs that kill and check; nothing is built on them",
}

// onlyImporter names packages that one package alone may import, and why.
var onlyImporter = map[string]struct{ by, why string }{
	"internal/config":    {"cmd/lychgate", "all wiring is in cmd: a package takes what it needs, not the whole document"},
	"internal/servertls": {"cmd/lychgate", "a door is given a tls.Config"},
	"internal/devca":     {"cmd/lychgate", "a trial's authority has no place in a door"},
}

// sideways lists imports within one floor that are meant, and why.
var sideways = map[[2]string]string{
	{"internal/agent", "internal/client"}: "the agent is a client that stays",
}

// modules says for each module that our code imports who may import it and what it is for. An empty list of packages
// means any package; tests marks a module for tests and test suites alone. oldest is the lowest version without a known
// advisory, with what it mends.
var modules = map[string]struct {
	packages []string
	tests    bool
	why      string
	oldest   string
	mends    string
}{
	"github.com/gliderlabs/ssh":    {packages: []string{"gateway/sshd"}, why: "the ssh door's channels and requests; its own authentication is never used"},
	"github.com/coder/websocket":   {packages: []string{"gateway/hashserv"}, why: "websockets: BitBake's other transport for hash equivalence"},
	"github.com/coreos/go-oidc/v3": {packages: []string{"authz/authn"}, why: "ID tokens: a second reading of the claims beside our own"},
	"github.com/go-jose/go-jose/v4": {
		packages: []string{"authz/authn"}, why: "signatures of ID tokens, and JSON Web Keys",
		oldest: "4.1.4", mends: "CVE-2026-34986, CVE-2025-27144",
	},
	"github.com/go-json-experiment/json":     {why: "exact JSON from outside: encoding/json folds case, takes duplicates and repairs UTF-8"},
	"gitlab.com/gitlab-org/api/client-go/v2": {packages: []string{"authz/forge"}, why: "GitLab's interface: projects, users, hooks, audit events; its own retries and limits are off"},
	"github.com/google/go-github/v89":        {packages: []string{"authz/forge"}, why: "GitHub's interface: what its refusals mean, pages, audit logs; its own limits are off"},
	"github.com/klauspost/compress": {
		packages: []string{"authz/provenance", "internal/sqldb"}, why: "siginfo files are zstd; only their reader decompresses. Texts of hash equivalence are kept so",
		oldest: "1.18.7", mends: "out-of-bounds read in s2",
	},
	"github.com/open-policy-agent/opa": {
		packages: []string{"policy"}, why: "Rego; a hundred modules come with it, so it stays behind authz.Policy",
		oldest: "1.4.0", mends: "CVE-2025-46569",
	},
	"github.com/pkg/sftp":                 {packages: []string{"gateway/sshd"}, why: "the SFTP protocol of the ssh door"},
	"github.com/prometheus/client_golang": {packages: []string{"cmd/lychgate"}, why: "metrics are an admin listener's business; the house reports by callbacks"},
	"github.com/redis/go-redis/v9": {
		packages: []string{"internal/redisdb"}, why: "Redis, also by Sentinel and as a cluster: what the nodes of a gate share",
		oldest: "9.7.3", mends: "CVE-2025-29923",
	},
	"github.com/schollz/progressbar/v3":                 {packages: []string{"internal/client", "cmd/lychgate"}, why: "push shows how far it is"},
	"github.com/secure-systems-lab/go-securesystemslib": {packages: []string{"authz/provenance"}, why: "DSSE's pre-authentication encoding"},
	"github.com/sony/gobreaker/v2":                      {packages: []string{"authz/forge"}, why: "a git server that fails is asked by a probe alone"},
	"github.com/spf13/cobra":                            {packages: []string{"cmd/lychgate"}, why: "the command line"},
	"go.yaml.in/yaml/v3":                                {packages: []string{"internal/config", "authz/forge"}, why: "the two documents people write: the configuration and the static forge"},
	"golang.org/x/crypto": {
		packages: []string{"authz/authn", "authz/provenance", "authz/forge", "gateway/sshd", "internal/client", "cmd/lychgate"}, why: "ssh keys, certificates and the agent; the ssh door",
		oldest: "0.52.0", mends: "CVE-2026-39827 to -39835, -46595, -46597, -42508",
	},
	"golang.org/x/net": {
		packages: []string{"authz/source", "gateway/httpd"}, why: "host names in their one form; HTTP/2 frames",
		oldest: "0.56.0", mends: "CVE-2026-33814, -27141, -39821, -46600",
	},
	"golang.org/x/oauth2": {
		packages: []string{"internal/client"}, why: "the device flow and code + PKCE: people sign in at an OpenID provider",
		oldest: "0.27.0", mends: "CVE-2025-22868",
	},
	"golang.org/x/text":  {packages: []string{"authz/source"}, why: "Unicode's normal form, for locators"},
	"golang.org/x/sync":  {why: "errgroup and singleflight"},
	"golang.org/x/sys":   {packages: []string{"gateway/audit", "gateway/upstream", "gateway", "internal/sqldb"}, why: "system calls that the standard library lacks"},
	"golang.org/x/term":  {packages: []string{"internal/client", "cmd/lychgate"}, why: "is a person watching?"},
	"golang.org/x/time":  {packages: []string{"authz/authn", "authz/forge", "gateway", "gateway/httpd", "gateway/sshd"}, why: "rates"},
	"modernc.org/sqlite": {packages: []string{"internal/sqldb"}, why: "records in one file, without cgo"},

	"github.com/google/go-cmp":        {tests: true, why: "differences that can be read"},
	"github.com/rogpeppe/go-internal": {tests: true, why: "testscript: the command line's specification"},
	"pgregory.net/rapid":              {tests: true, why: "properties"},

	// Not imported; kept above their floors because modules we import bring them.
	"github.com/sigstore/sigstore-go": {why: "indirect", oldest: "1.2.1", mends: "CVE-2026-49834"},
	"go.opentelemetry.io/otel":        {why: "indirect", oldest: "1.44.0", mends: "advisories of 2026"},
	"google.golang.org/grpc":          {why: "indirect", oldest: "1.82.1", mends: "advisories of 2026"},
	"github.com/jackc/pgx/v5":         {why: "indirect", oldest: "5.9.2", mends: "three advisories of 2026"},
}

// oldestGo is the lowest toolchain without a known advisory that concerns a gate.
const oldestGo = "1.26.6" // CVE-2026-56853, -56862, -56860, -39822, -39825, -32283, -33814

// forbidden lists imports that no package that is built into the gate may have, and why.
var forbidden = map[string]string{
	"encoding/json":                   "Unmarshal folds the case of member names, takes the last of duplicates and repairs UTF-8: use go-json-experiment/json",
	"golang.org/x/crypto/openpgp":     "unmaintained and unsafe, with no fix (GO-2026-5932)",
	"net/http/httputil":               "ReverseProxy forwards octets that a client chose; the gate prints every name itself",
	"net/http/pprof":                  "registers itself where any handler may expose it",
	"expvar":                          "registers itself where any handler may expose it",
	"log":                             "a package-level logger: take a *slog.Logger",
	"math/rand":                       "seeded by default and global: crypto/rand for secrets, math/rand/v2 for jitter",
	"unsafe":                          "the gate parses hostile bytes",
	"C":                               "one static binary",
	"plugin":                          "one static binary",
	"encoding/gob":                    "not for bytes from outside",
	"gopkg.in/yaml.v3":                "archived: use go.yaml.in/yaml/v3",
	"gopkg.in/yaml.v2":                "archived: use go.yaml.in/yaml/v3",
	"github.com/gorilla/mux":          "net/http routes by method and pattern",
	"github.com/pkg/errors":           "fmt.Errorf with %w",
	"github.com/golang-jwt/jwt":       "no token format is parsed by hand",
	"github.com/hashicorp/golang-lru": "evicts by count, not by the end of a fact",
}

// encodesOnly lists packages that may import encoding/json to write with it, never to read, and why.
var encodesOnly = map[string]string{
	"policy": "OPA's own documents hold json.Number",
}

// goPackage is one directory of Go files.
type goPackage struct {
	name  string // relative to the module; "." for the root
	fset  *token.FileSet
	files []*ast.File // that are built in
	tests []*ast.File
}

func (p *goPackage) imports(files []*ast.File) []string {
	all := map[string]bool{}
	for _, f := range files {
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				panic(err) // the parser has read it already
			}
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// tree parses every Go file of the module, of every build tag.
func tree(t *testing.T) []*goPackage {
	t.Helper()
	byDir := map[string]*goPackage{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "bin", "var", "node_modules"}, d.Name())):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		p := byDir[dir]
		if p == nil {
			p = &goPackage{name: dir, fset: token.NewFileSet()}
			byDir[dir] = p
		}
		f, err := parser.ParseFile(p.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, "_test.go") {
			p.tests = append(p.tests, f)
		} else {
			p.files = append(p.files, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(byDir) < 15 {
		t.Fatalf("found %d packages: is this the root of the module?", len(byDir))
	}
	var all []*goPackage
	for _, name := range slices.Sorted(maps.Keys(byDir)) {
		all = append(all, byDir[name])
	}
	return all
}

func TestFloors(t *testing.T) {
	for _, p := range tree(t) {
		if _, ok := testOnly[p.name]; ok {
			continue
		}
		for _, wrong := range floorFaults(p.name, p.imports(p.files)) {
			t.Error(wrong)
		}
	}
}

// TestFloorFaults shows that the test above can fail.
func TestFloorFaults(t *testing.T) {
	for _, tc := range []struct{ from, to, want string }{
		{"gateway/httpd", "gateway", ""},
		{"cmd/lychgate", "authz/artifact", ""},
		{"internal/agent", "internal/client", ""},
		{"authz", "gateway", "above it"},
		{"policy", "gateway/audit", "beside it"},
		{"gateway/httpd", "internal/config", "which only cmd/lychgate may"},
		{"internal/client", "internal/agent", "beside it"},
		{"internal/sqldb", "authz/provenance/storetest", "for tests alone"},
		{"gateway", "gateway/newcomer", "has no floor"},
		{"newcomer", "authz", "has no floor"},
	} {
		got := strings.Join(floorFaults(tc.from, []string{"fmt", module + "/" + tc.to}), "\n")
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s imports %s: %q, want %q", tc.from, tc.to, got, tc.want)
		}
	}
}

// floorFaults says what is wrong with the imports of a package.
func floorFaults(from string, imports []string) (faults []string) {
	floor, ok := floors[from]
	if !ok {
		return []string{fmt.Sprintf("package %s has no floor: add it to floors in deps_test.go, as low as its imports allow", from)}
	}
	for _, name := range imports {
		to, ours := strings.CutPrefix(name, module+"/")
		if !ours {
			continue
		}
		if why, ok := testOnly[to]; ok {
			faults = append(faults, fmt.Sprintf("%s imports %s, which is for tests alone: %s", from, to, why))
			continue
		}
		if only, ok := onlyImporter[to]; ok && only.by != from {
			faults = append(faults, fmt.Sprintf("%s imports %s, which only %s may: %s", from, to, only.by, only.why))
		}
		below, ok := floors[to]
		switch _, meant := sideways[[2]string{from, to}]; {
		case !ok:
			faults = append(faults, fmt.Sprintf("%s imports %s, which has no floor", from, to))
		case below == floor && !meant:
			faults = append(faults, fmt.Sprintf("%s imports %s beside it (floor %d): let cmd hand it over, or move what they share down", from, to, floor))
		case below > floor:
			faults = append(faults, fmt.Sprintf("%s (floor %d) imports %s above it (floor %d): declare the interface where it is consumed", from, floor, to, below))
		}
	}
	return faults
}

func TestModules(t *testing.T) {
	required := goMod(t)
	imported := map[string]bool{}
	for _, p := range tree(t) {
		_, isTest := testOnly[p.name]
		for _, name := range p.imports(p.files) {
			checkImport(t, p.name, name, isTest, required, imported)
		}
		for _, name := range p.imports(p.tests) {
			checkImport(t, p.name, name, true, required, imported)
		}
	}
	for name, r := range required {
		if _, ok := modules[name]; !ok && !r.indirect {
			t.Errorf("go.mod requires %s: say in deps_test.go who imports it and why", name)
		}
		if !imported[name] && !r.indirect {
			t.Errorf("go.mod requires %s and nothing imports it: remove it", name)
		}
	}
}

// TestEncodesOnly: a package that may write with encoding/json does not read with it.
func TestEncodesOnly(t *testing.T) {
	for _, p := range tree(t) {
		for _, f := range p.files {
			name := importedAs(f, "encoding/json")
			if name == "" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && x.Name == name && sel.Sel.Name != "Marshal" && sel.Sel.Name != "Number" {
						t.Errorf("%s: %s.%s of encoding/json: %s", p.fset.Position(n.Pos()), name, sel.Sel.Name, forbidden["encoding/json"])
					}
				}
				return true
			})
		}
	}
}

// importedAs returns the name a file uses for a package, or "".
func importedAs(f *ast.File, name string) string {
	for _, spec := range f.Imports {
		if spec.Path.Value != strconv.Quote(name) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(name)
	}
	return ""
}

// checkImport looks at one import. inTest is true for test files and test suites.
func checkImport(t *testing.T, from, name string, inTest bool, required map[string]requirement, imported map[string]bool) {
	t.Helper()
	if why, ok := forbiddenBy(name); ok && !inTest && !(name == "encoding/json" && encodesOnly[from] != "") {
		t.Errorf("%s imports %s: %s", from, name, why)
	}
	first, _, _ := strings.Cut(name, "/")
	if name == module || strings.HasPrefix(name, module+"/") || !strings.Contains(first, ".") {
		return
	}
	mod := moduleOf(name, required)
	imported[mod] = true
	row, ok := modules[mod]
	switch {
	case !ok:
		t.Errorf("%s imports %s of module %q: say in deps_test.go who may and why", from, name, mod)
	case inTest:
	case row.tests:
		t.Errorf("%s imports %s, which is for tests alone", from, name)
	case len(row.packages) > 0 && !slices.Contains(row.packages, from):
		t.Errorf("%s imports %s, which only %s may: %s", from, name, strings.Join(row.packages, " and "), row.why)
	}
}

// forbiddenBy finds the row that forbids name or a package above it.
func forbiddenBy(name string) (string, bool) {
	for at := name; at != "." && at != "/"; at = path.Dir(at) {
		// "log" forbids itself, not log/slog; the same for "math/rand" and its successor.
		if why, ok := forbidden[at]; ok && (at == name || strings.Contains(at, ".")) {
			return why, true
		}
	}
	return "", false
}

func moduleOf(name string, required map[string]requirement) string {
	for at := name; at != "."; at = path.Dir(at) {
		if _, ok := required[at]; ok {
			return at
		}
	}
	return name
}

func TestVersions(t *testing.T) {
	required := goMod(t)
	checked := 0
	for name, row := range modules {
		r, ok := required[name]
		if !ok || row.oldest == "" {
			continue
		}
		checked++
		if older(r.version, row.oldest) {
			t.Errorf("%s %s is older than %s, which mends %s", name, r.version, row.oldest, row.mends)
		}
	}
	if checked < 4 {
		t.Errorf("only %d version floors were checked", checked)
	}
	if v, ok := strings.CutPrefix(runtime.Version(), "go"); ok && older(v, oldestGo) {
		t.Errorf("built with Go %s; the oldest without a known advisory is %s", v, oldestGo)
	}
}

func TestOlder(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"v1.2.3", "1.2.3", false},
		{"v1.2.3", "1.2.4", true},
		{"v1.10.0", "1.9.9", false},
		{"v0.0.0-2026", "0.0.1", true},
		{"1.26.8", "1.26.6", false},
		{"1.26", "1.26.6", true},
		{"1.27rc1", "1.26.6", false},
	} {
		if got := older(tc.a, tc.b); got != tc.want {
			t.Errorf("older(%q, %q) = %v", tc.a, tc.b, got)
		}
	}
}

var number = regexp.MustCompile(`\d+`)

// older compares major, minor and patch.
func older(a, b string) bool {
	numbers := func(s string) (out [3]int) {
		s, _, _ = strings.Cut(s, "-")
		for i, part := range strings.SplitN(s, ".", 3) {
			out[i], _ = strconv.Atoi(number.FindString(part))
		}
		return out
	}
	x, y := numbers(a), numbers(b)
	return slices.Compare(x[:], y[:]) < 0
}

type requirement struct {
	version  string
	indirect bool
}

var requireLine = regexp.MustCompile(`(?m)^(?:require)?\s+([a-z0-9./_-]+\.[a-zA-Z0-9./_-]+) (v\S+)( // indirect)?$`)

func goMod(t *testing.T) map[string]requirement {
	t.Helper()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]requirement{}
	for _, m := range requireLine.FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = requirement{m[2], m[3] != ""}
	}
	if len(all) < 10 {
		t.Fatalf("found %d modules in go.mod", len(all))
	}
	if strings.Contains(string(text), "\nreplace ") {
		t.Error("go.mod replaces a module: what is built would not be what is checked")
	}
	return all
}

// TestNoHiddenState: nothing runs before main, and package-level variables are constants in all but name.
func TestNoHiddenState(t *testing.T) {
	for _, p := range tree(t) {
		if _, ok := testOnly[p.name]; ok {
			continue
		}
		for _, wrong := range append(p.declarationFaults(), p.assignmentFaults()...) {
			t.Error(wrong)
		}
	}
}

// TestHiddenStateFaults shows that the test above can fail.
func TestHiddenStateFaults(t *testing.T) {
	for _, tc := range []struct{ source, want string }{
		{`var errGone = errors.New("gone")`, ""},
		{`var _ io.Reader = (*os.File)(nil)`, ""},
		{"//go:embed doc.go\nvar text string", ""},
		{`var table = map[string]int{"a": 1}; func f() int { table := table["a"]; table++; return table }`, ""},
		{`func init() {}`, "an init function"},
		{`var count int`, "without a value"},
		{`var pool = sync.Pool{}`, "holds sync.Pool"},
		{`var last = new(atomic.Int64)`, "holds atomic.Int64"},
		{`var count = 0; func f() { count++ }`, "is changed"},
		{`var table = map[string]int{}; func f() { table["a"] = 1 }`, "is changed"},
		{`var conf = os.File{}; func f() { conf.x.y = 1 }`, "is changed"},
		{`var count = 0; func f() { p := &count; *p = 1 }`, "is changed"},
	} {
		p := &goPackage{name: "x", fset: token.NewFileSet()}
		f, err := parser.ParseFile(p.fset, "x.go", "package x\n"+`import ("embed"; "errors"; "io"; "os"; "sync"; "sync/atomic")`+"\n"+tc.source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p.files = []*ast.File{f}
		got := strings.Join(append(p.declarationFaults(), p.assignmentFaults()...), "\n")
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.source, got, tc.want)
		}
	}
}

func (p *goPackage) declarationFaults() (faults []string) {
	for _, f := range p.files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					faults = append(faults, fmt.Sprintf("%s: an init function: let cmd wire it", p.fset.Position(d.Pos())))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR && !embeds(d.Doc) {
					faults = append(faults, p.varFaults(d)...)
				}
			}
		}
	}
	return faults
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && strings.HasPrefix(doc.List[len(doc.List)-1].Text, "//go:embed ")
}

func (p *goPackage) varFaults(d *ast.GenDecl) (faults []string) {
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		at, name := p.fset.Position(v.Pos()), v.Names[0]
		if len(v.Values) == 0 && !embeds(v.Doc) {
			faults = append(faults, fmt.Sprintf("%s: package-level variable %s without a value: keep state in a value", at, name))
		}
		ast.Inspect(v, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && (x.Name == "sync" || x.Name == "atomic") {
					faults = append(faults, fmt.Sprintf("%s: package-level variable %s holds %s.%s: keep state in a value", at, name, x.Name, sel.Sel.Name))
				}
			}
			_, isFunc := n.(*ast.FuncLit)
			return !isFunc
		})
	}
	return faults
}

// assignmentFaults finds statements that change a package-level variable. The types of other packages are not needed
// for that, so their import is let fail.
func (p *goPackage) assignmentFaults() (faults []string) {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: noImporter{}, Error: func(error) {}, FakeImportC: true}
	pkg, _ := conf.Check(p.name, p.fset, p.files, info) // the error is of the imports
	changed := func(e ast.Expr) {
		id := rootOf(e)
		if id == nil {
			return
		}
		if v, ok := info.Uses[id].(*types.Var); ok && v.Parent() == pkg.Scope() {
			faults = append(faults, fmt.Sprintf("%s: package-level variable %s is changed: keep state in a value", p.fset.Position(e.Pos()), id.Name))
		}
	}
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, lhs := range n.Lhs {
					changed(lhs)
				}
			case *ast.IncDecStmt:
				changed(n.X)
			case *ast.UnaryExpr:
				if id, ok := n.X.(*ast.Ident); ok && n.Op == token.AND {
					changed(id)
				}
			}
			return true
		})
	}
	return faults
}

// rootOf returns the variable that an assignment to e changes.
func rootOf(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.ParenExpr:
		return rootOf(e.X)
	case *ast.IndexExpr:
		return rootOf(e.X)
	case *ast.SelectorExpr:
		return rootOf(e.X)
	case *ast.StarExpr:
		return rootOf(e.X)
	}
	return nil
}

// noImporter refuses every import.
type noImporter struct{}

func (noImporter) Import(name string) (*types.Package, error) {
	return nil, fmt.Errorf("package %s is not looked at", name)
}

// TestNoPartialEvaluation: a policy that was evaluated in part has been seen to allow what the whole denies (an every over a part of
// the input that was not known). Whoever wants it shows first that this is over.
func TestNoPartialEvaluation(t *testing.T) {
	found := 0
	for _, p := range tree(t) {
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok || p.name != "policy" {
					return true
				}
				found++
				if slices.Contains([]string{"Partial", "PartialResult", "PrepareForPartial"}, call.Sel.Name) {
					t.Errorf("%s: %s: evaluates a policy in part", p.name, call.Sel.Name)
				}
				return true
			})
		}
	}
	if found == 0 {
		t.Error("no call in policy was looked at")
	}
}
