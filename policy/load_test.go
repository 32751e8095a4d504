package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// TestRefusedBundles shows that a bundle that could not be trusted is not loaded, and that the error says where and why.
func TestRefusedBundles(t *testing.T) {
	good := rules("allow if input.zone")
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"empty", map[string]string{}, "data.lychgate.allow is missing"},
		{"no allow", map[string]string{"p.rego": "package lychgate\ndecision := {}"}, "data.lychgate.allow is missing"},
		{"no decision", map[string]string{"p.rego": "package lychgate\ndefault allow := false"}, "data.lychgate.decision is missing"},
		{"another package", map[string]string{"p.rego": strings.Replace(good["policy.rego"], "lychgate", "gate", 1)}, "data.lychgate.allow is missing"},
		{"no default", map[string]string{"p.rego": "package lychgate\nallow if input.zone\ndecision := {}"}, "no default denial"},
		{"default allow", map[string]string{"p.rego": "package lychgate\ndefault allow := true\ndecision := {}"}, "no default denial"},
		{"default null", map[string]string{"p.rego": "package lychgate\ndefault allow := null\ndecision := {}"}, "no default denial"},
		{"allow is a function", map[string]string{"p.rego": "package lychgate\ndefault allow(_) := false\ndecision := {}"}, "is a function"},
		{"allow is a set", map[string]string{"p.rego": "package lychgate\nallow contains input.zone\ndecision := {}"}, "no default denial"},
		{"syntax", rules("allow if {"), "policy.rego:5: rego_parse_error"},
		{"Rego v0", rules("allow { input.zone }"), "policy.rego:4"},
		{"unused variable", rules("allow if { x := input.zone }"), "policy.rego:4"},
		{"unused import", rules("import data.other\nallow if input.zone"), "policy.rego:4"},
		{"recursion", rules("allow if b\nb if c\nc if b"), "recursive"},
		{"type error", rules(`allow if count(1) == 1`), "policy.rego:4"},
		{"undefined function", rules("allow if nothing(input.zone)"), "undefined function"},
		{"http.send", rules(`allow if http.send({"method": "get", "url": "http://127.0.0.1/"}).status_code == 200`), "undefined function http.send"},
		{"net.lookup_ip_addr", rules(`allow if net.lookup_ip_addr("localhost")`), "undefined function net.lookup_ip_addr"},
		{"net.cidr_contains", rules(`allow if net.cidr_contains("10.0.0.0/8", "10.0.0.1")`), "undefined function net.cidr_contains"},
		{"opa.runtime", rules(`allow if opa.runtime().env.HOME`), "undefined function opa.runtime"},
		{"rego.parse_module", rules(`allow if rego.parse_module("x", "package x")`), "undefined function rego.parse_module"},
		{"json.match_schema", rules(`allow if json.match_schema({}, {"$ref": "file:///etc/passwd"})[0]`), "undefined function json.match_schema"},
		{"json.verify_schema", rules(`allow if json.verify_schema({"$ref": "http://127.0.0.1/"})[0]`), "undefined function json.verify_schema"},
		{"providers.aws.sign_req", rules(`allow if providers.aws.sign_req({}, {}, 1)`), "undefined function providers.aws.sign_req"},
		{"forbidden by with", rules(`allow if f(1) with f as http.send` + "\nf(x) if x == 1"), "var http is unsafe"},
		{"forbidden in an unused rule", rules("allow if input.zone\nunused if http.send({})"), "undefined function http.send"},
		{"import of a newer Rego", rules("import future.keywords.nothing\nallow if input.zone"), "policy.rego:4"},
		{"data.json is no object", with(good, "data.json", `[1]`), "data.json: the bundle's root data must be a JSON object"},
		{"data.json is broken", with(good, "data.json", `{"a": `), "data.json: "},
		{"data.json has a name twice", with(good, "data.json", `{"a": 1, "a": 2}`), "data.json: "},
		{"data.json is not UTF-8", with(good, "data.json", "{\"a\": \"\xff\"}"), "data.json: "},
		{"data.json has two values", with(good, "data.json", `{} {}`), "data.json: "},
		{"data set twice", with(with(good, "data.json", `{"a": {"b": 1}}`), "a/data.json", `{"b": 2}`), "data.json"},
		{"data below data", with(with(good, "data.json", `{"a": 1}`), "a/data.json", `{"b": 2}`), "data.json"},
		{"data on a rule", with(good, "data.json", `{"lychgate": {"allow": true}}`), "conflict"},
		{"data on a rule by directory", with(good, "lychgate/data.json", `{"decision": {"allow": true, "reasons": []}}`), "conflict"},
		{"data.yaml", with(good, "data.yaml", "a: 1"), "write it as data.json"},
		{"data on the configuration", with(good, "lychgate/config/data.json", `{"transitive": false}`), "the gate's configuration sets too"},
		{"a rule on the configuration", rules("allow if input.zone\nconfig := {\"transitive\": false}"), "conflict"},
		{"manifest", with(good, ".manifest", `{"revision": "a\nb"}`), ".manifest: revision: "},
		{"manifest of many letters", with(good, ".manifest", `{"revision": "`+strings.Repeat("x", 65)+`"}`), ".manifest: revision: "},
		{"manifest is broken", with(good, ".manifest", `{`), ".manifest: "},
		{"failing test", with(good, "policy_test.rego", "package lychgate_test\ntest_no if data.lychgate.allow"), "policy_test.rego:2 data.lychgate_test.test_no"},
		{"test with an error", with(good, "policy_test.rego", `package lychgate_test`+"\ntest_x if { a := {1: x | some x in [1, 2]}; a }"), "policy_test.rego:2"},
		{"test that does not compile", with(good, "policy_test.rego", "package lychgate_test\ntest_no if nothing(1)"), "undefined function"},
		{"too large", with(good, "large.rego", "package large\n# "+strings.Repeat("x", maxBundleBytes)), "larger than 8 MiB"},
		{"too large data", with(good, "data.json", `{"a": "`+strings.Repeat("x", maxBundleBytes)+`"}`), "larger than 8 MiB"},
		{"a deep expression", rules("allow if " + strings.Repeat("[", 200000) + strings.Repeat("]", 200000)), "recursion"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(Config{Dir: bundleDir(t, tt.files), Data: map[string]any{"transitive": true}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want one with %q", err, tt.want)
			}
		})
	}
}

func TestRefusedDirectories(t *testing.T) {
	if _, err := New(Config{Dir: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a directory that is not there was loaded")
	}
	dir := bundleDir(t, rules("allow if input.zone"))
	if _, err := New(Config{Dir: filepath.Join(dir, "policy.rego")}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("error %v; want one that says it is a file", err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Dir: dir}); err == nil {
		t.Error("a directory that holds itself was loaded")
	}
	many := map[string]string{}
	for i := range maxBundleFiles + 1 {
		many[fmt.Sprintf("note-%d.txt", i)] = ""
	}
	if _, err := New(Config{Dir: bundleDir(t, many)}); err == nil || !strings.Contains(err.Error(), "more than 1000 files") {
		t.Errorf("error %v; want one about too many files", err)
	}
}

func TestWhatABundleMayHold(t *testing.T) {
	dir := bundleDir(t, map[string]string{
		"README.md":               "not Rego {",
		"notes/policy.rego.bak":   "not Rego {",
		".git/broken.rego":        "not Rego {",
		".hidden.rego":            "not Rego {",
		"..old/lychgate.rego":     "not Rego {",
		"settings.json":           "{not JSON",
		"deep/er/rules.rego":      frame(`allow if input.zone in data.zones.open`),
		"zones/data.json":         `{"open": ["main"], "big": 9007199254740993}`,
		".manifest":               `{"revision": "v1.2.3", "roots": [""], "metadata": {"any": "thing"}}`,
		"deep/er/rules_test.rego": "package rules_test\ntest_big if data.zones.big == 9007199254740993\ntodo_test_later if false",
	})
	e := newEngine(t, Config{Dir: dir})
	r, f := question(1)
	if d, err := evaluate(t, e, r, f); err != nil || d.Verdict != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	if got := e.Footprint().Revision; len(got) != len("0123456789ab+v1.2.3") || !strings.HasSuffix(got, "+v1.2.3") {
		t.Errorf("revision %q; want twelve digits and the manifest's", got)
	}
}

func TestRevisionFollowsContent(t *testing.T) {
	read := func(files map[string]string, config map[string]any) string {
		t.Helper()
		e := newEngine(t, Config{Dir: bundleDir(t, files), Data: config})
		return e.Footprint().Revision
	}
	base := rules("allow if input.zone")
	seen := map[string]string{}
	for name, revision := range map[string]string{
		"base":          read(base, nil),
		"other rule":    read(rules("allow if input.door"), nil),
		"data":          read(with(base, "data.json", `{"a": 1}`), nil),
		"data's place":  read(with(base, "a/data.json", `{"a": 1}`), nil),
		"test":          read(with(base, "x_test.rego", "package x_test\ntest_x if true"), nil),
		"configuration": read(base, map[string]any{"transitive": true}),
		"other value":   read(base, map[string]any{"transitive": false}),
	} {
		if other, twice := seen[revision]; twice {
			t.Errorf("%s and %s have the same revision", name, other)
		}
		seen[revision] = name
	}
	if again := read(with(base, "README", "x"), nil); seen[again] != "base" {
		t.Error("a file that is not read changed the revision")
	}
}

// TestConfigReachesThePolicy shows that tests run on the bundle's own data, decisions on the configuration's as well.
func TestConfigReachesThePolicy(t *testing.T) {
	files := with(rules("allow if data.lychgate.config.level == 3\nallow if data.lychgate.config.own"),
		"policy_test.rego", "package x_test\ntest_alone if not data.lychgate.allow")
	dir := bundleDir(t, with(files, "lychgate/config/data.json", `{"own": false}`))
	r, f := question(1)
	for level, want := range map[int]bool{3: true, 4: false} {
		e := newEngine(t, Config{Dir: dir, Data: map[string]any{"level": level}})
		if d, err := evaluate(t, e, r, f); err != nil || (d.Verdict == 1) != want {
			t.Errorf("level %d: %+v, %v", level, d, err)
		}
	}
	if _, err := New(Config{Dir: dir, Data: map[string]any{"f": func() {}}}); err == nil {
		t.Error("configuration that is no data was loaded")
	}
}

// TestReadFilesIsTotal reads odd trees without a fault; what is not a regular file is refused.
func TestReadFilesIsTotal(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"directory named like a module": {"x.rego/y.rego": {Data: []byte("package x")}},
		"device":                        {"x.rego": {Mode: os.ModeDevice}},
	} {
		files, err := readFiles(fsys)
		if (err == nil) != (name == "directory named like a module") {
			t.Errorf("%s: %d files, %v", name, len(files), err)
		}
	}
}
