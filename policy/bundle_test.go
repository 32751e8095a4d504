package policy

import (
	"testing"
)

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
