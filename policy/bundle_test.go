package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/format"
)

// TestShippedBundleIsFormatted runs what `opa fmt` runs, on the bundle and on the guide's examples.
func TestShippedBundleIsFormatted(t *testing.T) {
	tree, err := readTree("", nil)
	if err != nil {
		t.Fatal(err)
	}
	files := tree.files
	for name, text := range blocks(t, "policy-guide.md") {
		if file := (file{name, []byte(text)}); wanted(name) && name[len(name)-4:] == "rego" {
			files = append(files, file)
		}
	}
	for _, f := range files {
		formatted, err := format.Source(f.name, f.text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(f.text), string(formatted)); diff != "" {
			t.Errorf("%s is not formatted: %s", f.name, diff)
		}
	}
}

func TestShippedBundle(t *testing.T) {
	r, err := Test(t.Context(), "", TestOptions{Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.Tests {
		if one.Outcome != "pass" {
			t.Errorf("%s:%d %s: %s %s", one.File, one.Line, one.Name, one.Outcome, one.Message)
		}
	}
	if r.Passed < 40 || r.Failed+r.Skipped != 0 || !r.OK {
		t.Errorf("passed %d, failed %d, skipped %d, ok %v; want at least 40 and nothing else", r.Passed, r.Failed, r.Skipped, r.OK)
	}
	if r.Coverage.Percent < 100 {
		t.Errorf("coverage %.1f%%, missed %v; want all of it", r.Coverage.Percent, r.Coverage.Files)
	}
}
