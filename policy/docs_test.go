package policy

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz"
)

// blocks returns the fenced blocks of a document in ../docs that have a name after their language.
func blocks(t *testing.T, document string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/" + document)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```[a-z]+ (\\S+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found[m[1]] = m[2]
	}
	return found
}

// TestGuideExamples loads every example of the guide as a bundle, checks it and runs its tests.
func TestGuideExamples(t *testing.T) {
	examples := map[string]map[string]string{}
	for name, text := range blocks(t, "policy-guide.md") {
		example, file := path.Split(name)
		if examples[example] == nil {
			examples[example] = map[string]string{}
		}
		examples[example][file] = text
	}
	if len(examples) != 3 {
		t.Fatalf("%d examples; want 3", len(examples))
	}
	for name, files := range examples {
		t.Run(name, func(t *testing.T) {
			dir := bundleDir(t, files)
			report, err := Check(dir)
			if err != nil || !report.OK || !report.Remember {
				t.Fatalf("%+v, %v", report, err)
			}
			for _, l := range report.Lints {
				if l.Code != "no_default" {
					t.Errorf("lint %v", l)
				}
			}
			tests, err := Test(t.Context(), dir, TestOptions{})
			if err != nil || !tests.OK || tests.Passed < 5 {
				t.Errorf("%+v, %v", tests, err)
			}
			r, f := question(2)
			if d, err := newEngine(t, Config{Dir: dir}).Evaluate(t.Context(), r, f); err != nil || d.Verdict == authz.Deny && name == "hours/" {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

// TestGuideNamesEveryCode holds the guide's tables to the codes in the sources.
func TestGuideNamesEveryCode(t *testing.T) {
	guide, err := os.ReadFile("../docs/policy-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	for file, pattern := range map[string]string{
		"revision.go": `"(policy_[a-z_]+)"`,
		"policy.go":   `"(policy_[a-z_]+)"`,
		"check.go":    `Code: "([a-z_]+)", Message|placed\([^"]*, "([a-z_]+)"`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s: no codes found", file)
		}
		for _, m := range found {
			code := strings.Join(m[1:], "")
			if code != "contract" && !strings.Contains(string(guide), "`"+code+"`") {
				t.Errorf("the guide does not explain %s", code)
			}
		}
	}
}

// TestInputReference holds docs/policy-input.md to the builder: every member is named, and the example is one that the
// shipped default allows.
func TestInputReference(t *testing.T) {
	text, err := os.ReadFile("../docs/policy-input.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(text), "\n## ")
	if len(sections) != 6 {
		t.Fatalf("%d sections; want 6", len(sections))
	}
	for section, names := range map[int][]string{
		1: inputNames[:2], 2: principalNames[:], 3: artifactNames[:], 4: append(sourceNames[:], "reason"),
	} {
		for _, name := range names {
			if !strings.Contains(sections[section], "`"+name+"`") {
				t.Errorf("section %q does not name %s", sections[section][:20], name)
			}
		}
	}
	example := blocks(t, "policy-input.md")["example"]
	result, err := Eval(t.Context(), "", nil, []byte(example), false)
	if err != nil || !result.Allow {
		t.Errorf("the example: %+v, %v", result, err)
	}
	r, f := question(1)
	built, err := newEngine(t, Config{}).Input(r, f)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := members(t, []byte(example)), members(t, built); got != want {
		t.Errorf("the example has members\n%s\nthe gate builds\n%s", got, want)
	}
}
