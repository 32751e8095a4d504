package lychgate_test

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/config"
)

// documents returns every page of the documentation with its text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md", "layers/*/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			pages[name] = string(text)
		}
	}
	for _, name := range []string{"README.md", "SECURITY.md", "docs/design.md", "docs/operator-guide.md", "docs/threat-model.md"} {
		if pages[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	return pages
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)[^\n]*\n(.*?)^```$")

// fences returns the code blocks of a page that are in a language.
func fences(text string, languages ...string) (blocks []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		for _, l := range languages {
			if m[1] == l {
				blocks = append(blocks, m[2])
			}
		}
	}
	return blocks
}

// sections is the smallest configuration, in parts that a fragment may replace.
var sections = []struct{ key, text string }{
	{"https:", "https:\n  audience: https://gate.example.com\n  tls: {development_ca: true}\n  client_ca: clients.pem\n"},
	{"zones:", "zones:\n  - name: main\n"},
	{"forges:", "forges:\n  - {name: git.example.com, type: static, file: users.yaml}\n"},
	{"signers:", "signers: {allowed_signers: allowed_signers}\n"},
}

// TestYAML: a block that begins with "# users.yaml" is a static forge; every other is a configuration or a part of one.
func TestYAML(t *testing.T) {
	found := 0
	for name, text := range documents(t) {
		for _, block := range fences(text, "yaml") {
			found++
			if strings.HasPrefix(block, "# users.yaml") {
				checkForge(t, name, block)
				continue
			}
			whole := block
			if !strings.HasPrefix(block, "# lychgate.yaml") {
				for _, s := range sections {
					if !strings.HasPrefix(block, s.key) && !strings.Contains(block, "\n"+s.key) {
						whole += s.text
					}
				}
			}
			if _, err := config.Parse([]byte(whole), "/etc/lychgate"); err != nil {
				t.Errorf("%s: this example is refused:\n%s\n%v", name, block, err)
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d YAML examples", found)
	}
}

func checkForge(t *testing.T, page, block string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := forge.LoadStatic(forge.StaticConfig{Name: "git.example.com", File: path}); err != nil {
		t.Errorf("%s: this forge is refused:\n%s\n%v", page, block, err)
	}
}

// TestEveryKeyIsExplained: the operator guide has a row for each key of the configuration.
func TestEveryKeyIsExplained(t *testing.T) {
	guide := documents(t)["docs/operator-guide.md"]
	keys := keyPaths(reflect.TypeOf(config.Config{}), "")
	for _, key := range keys {
		if !strings.Contains(guide, "\n| `"+key+"` |") {
			t.Errorf("the operator guide has no row for %s", key)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(guide, -1) {
		if !slices.Contains(keys, m[1]) {
			t.Errorf("the operator guide explains %s, which is no key", m[1])
		}
	}
}

// TestDefaultsAreShown: where the operator guide shows a default of a key that stands alone, it is the default.
func TestDefaultsAreShown(t *testing.T) {
	guide := documents(t)["docs/operator-guide.md"]
	var minimal string
	for _, s := range sections {
		minimal += s.text
	}
	plain, err := config.Parse([]byte(minimal), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+)(?:\\.([a-z_]+))?` \\|.*\\| `([^`]+)` \\|$").FindAllStringSubmatch(guide, -1)
	checked := 0
	for _, m := range rows {
		section, key, shown := m[1], m[2], m[3]
		if strings.Contains(minimal, section+":") {
			continue
		}
		checked++
		shown = strings.ReplaceAll(shown, "STATE", "/var/lib/lychgate")
		line := section + ": " + strconv.Quote(shown) + "\n"
		if key != "" {
			line = section + ": {" + key + ": " + strconv.Quote(shown) + "}\n"
		}
		if got, err := config.Parse([]byte(minimal+line), "/etc/lychgate"); err != nil || !reflect.DeepEqual(got, plain) {
			t.Errorf("the operator guide shows %s as the default of %s.%s, which it is not: %v", shown, section, key, err)
		}
	}
	if checked < 15 {
		t.Errorf("%d defaults were checked", checked)
	}
}

// TestMetrics: a metric that the operator guide names is one that cmd makes.
func TestMetrics(t *testing.T) {
	made := map[string]bool{}
	for _, p := range tree(t) {
		if p.name != "cmd/lychgate" {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok {
					made[literal(lit)] = true
				}
				return true
			})
		}
	}
	names := regexp.MustCompile("`(lychgate_[a-z_]+)`").FindAllStringSubmatch(documents(t)["docs/operator-guide.md"], -1)
	if len(names) == 0 {
		t.Error("the operator guide names no metrics")
	}
	for _, m := range names {
		if !made[m[1]] {
			t.Errorf("the operator guide names the metric %s, which cmd/lychgate does not make", m[1])
		}
	}
}

// TestNamespace: the allowed_signers lines of the operator guide allow what push signs with.
func TestNamespace(t *testing.T) {
	guide := documents(t)["docs/operator-guide.md"]
	want := `namespaces="` + provenance.Namespace + `"`
	if shown := strings.Count(guide, "namespaces="); shown == 0 || shown != strings.Count(guide, want) {
		t.Errorf("the operator guide shows %d namespaces, want each to be %s", shown, want)
	}
}

// keyPaths lists the keys that hold a value, "zones[].name".
func keyPaths(t reflect.Type, prefix string) (paths []string) {
	for i := range t.NumField() {
		key, inner := prefix+t.Field(i).Tag.Get("yaml"), t.Field(i).Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct {
			key, inner = key+"[]", inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.Field(0).Tag.Get("yaml") != "" {
			paths = append(paths, keyPaths(inner, key+".")...)
			continue
		}
		paths = append(paths, strings.TrimSuffix(key, "[]"))
	}
	return paths
}

// commandLine matches an invocation in code: what follows is verbs, arguments and flags up to the end of the command.
var (
	commandLine = regexp.MustCompile(`(?m)(?:^|[\s;&|(/])lychgate((?: +[^\s;|&#)]+)+)`)
	inlineCode  = regexp.MustCompile("`([^`\n]+)`")
)

// TestCommandLines: every verb and flag that the documentation shows is one that the command has.
func TestCommandLines(t *testing.T) {
	verbs, flags := commands(t)
	if len(verbs) == 0 {
		t.Fatal("found no verbs in cmd/lychgate")
	}
	for name, text := range documents(t) {
		code := fences(text, "sh", "console", "ini", "bash")
		for _, m := range inlineCode.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			code = append(code, m[1])
		}
		for _, block := range code {
			block = strings.ReplaceAll(block, "\\\n", " ")
			for _, m := range commandLine.FindAllStringSubmatch(block, -1) {
				checkCommand(t, name, strings.Fields(m[1]), verbs, flags)
			}
		}
	}
}

func checkCommand(t *testing.T, page string, words []string, verbs map[string]bool, flags map[string]bool) {
	t.Helper()
	line := "lychgate " + strings.Join(words, " ")
	if words[0] != "--help" && words[0] != "--version" && !plainWord(words[0]) {
		return // "lychgate.service", "lychgate:lychgate", a path: not an invocation
	}
	for _, verb := range strings.Split(words[0], "|") {
		if !verbs[verb] && !strings.HasPrefix(verb, "-") {
			t.Errorf("%s: %q: no such verb: %s", page, line, verb)
		}
	}
	for _, w := range words {
		flag, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(flag, "--") && !flags[strings.TrimPrefix(flag, "--")] {
			t.Errorf("%s: %q: no such flag: %s", page, line, flag)
		}
	}
}

func plainWord(s string) bool {
	return !strings.HasPrefix(s, "-") && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-|") == ""
}

// commands reads the verbs and flags out of the source of cmd/lychgate.
func commands(t *testing.T) (verbs, flags map[string]bool) {
	t.Helper()
	verbs, flags = map[string]bool{"completion": true, "help": true}, map[string]bool{"help": true, "version": true}
	for _, p := range tree(t) {
		if p.name != "cmd/lychgate" {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Use" {
						verb, _, _ := strings.Cut(literal(n.Value), " ")
						verbs[verb] = true
					}
				case *ast.CallExpr:
					if sel, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) > 2 && (strings.HasSuffix(sel.Sel.Name, "Var") || strings.HasSuffix(sel.Sel.Name, "VarP")) {
						flags[literal(n.Args[1])] = true
					}
				}
				return true
			})
		}
	}
	return verbs, flags
}

// literal returns the text of a string literal, or "".
func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		text, _ := strconv.Unquote(lit.Value)
		return text
	}
	return ""
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// TestLinks: a link within the tree leads to a file that is there, and to a heading that is in it.
func TestLinks(t *testing.T) {
	pages := documents(t)
	for name, text := range pages {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if anchor != "" && !anchors(pages[target])[anchor] {
				t.Errorf("%s links to %s: no such heading", name, m[1])
			}
		}
	}
}

func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		slug := strings.ToLower(strings.NewReplacer(" ", "-").Replace(m[1]))
		all[regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(slug, "")] = true
	}
	return all
}

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)`")

// TestNamedTests: a test that the documentation names is in the tree, and the threat model names one or says when it
// will.
func TestNamedTests(t *testing.T) {
	names := map[string]bool{}
	for _, p := range tree(t) {
		for _, f := range p.tests {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
					names[fn.Name.Name] = true
				}
			}
		}
	}
	pages := documents(t)
	for page, text := range pages {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !names[m[1]] {
				t.Errorf("%s names %s, which is not in the tree", page, m[1])
			}
		}
	}
	rows := regexp.MustCompile(`(?m)^\| \d+ \|.*$`).FindAllString(pages["docs/threat-model.md"], -1)
	if len(rows) < 20 {
		t.Errorf("the threat model has %d rows", len(rows))
	}
	for _, row := range rows {
		if !testName.MatchString(row) && !strings.Contains(row, "| later: ") {
			t.Errorf("the threat model names no test here, nor when there will be one:\n%s", row)
		}
	}
}
