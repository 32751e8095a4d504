package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest/hashref"
)

// TestMissingCheckout: without the checkout the program fails, and says how to get it.
func TestMissingCheckout(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		_, err := hashref.Find(t.Context(), dir)
		if err == nil || !strings.Contains(err.Error(), "BITBAKE_DIR") || !strings.Contains(err.Error(), "openembedded/bitbake") {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

// TestReadOutcomes: a test that is named twice, since its clean-up failed too, has the worse outcome.
func TestReadOutcomes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results")
	const text = `{"test": "test_a", "outcome": "ok", "why": ""}
{"test": "test_a", "outcome": "ERROR", "why": "Traceback\nOSError: gone\n"}
{"test": "test_b", "outcome": "skipped", "why": "no"}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := readOutcomes(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := all.String(); got != "0 ok, 1 skipped, 0 FAIL, 1 ERROR" {
		t.Error(got)
	}
	if got := all["test_a"].brief(); got != "OSError: gone" {
		t.Error(got)
	}
}

// TestJudge: what the reference passes and another does not is a fault, over wss as over the reference's ws; what the reference does
// not pass is none, nor is a test that was not run by it.
func TestJudge(t *testing.T) {
	with := func(test, what string) outcomes { return outcomes{test: {Test: test, Outcome: what}} }
	base := suite{reference, open, ws}
	for name, tc := range map[string]struct {
		base, got outcomes
		fault     bool
	}{
		"both pass":            {with("test_a", "ok"), with("test_a", "ok"), false},
		"the gate fails":       {with("test_a", "ok"), with("test_a", "FAIL"), true},
		"the gate skips":       {with("test_a", "ok"), with("test_a", "skipped"), true},
		"the gate hangs":       {with("test_a", "ok"), outcomes{}, true},
		"the reference fails":  {with("test_a", "FAIL"), with("test_a", "FAIL"), false},
		"the gate does better": {with("test_a", "FAIL"), with("test_a", "ok"), false},
		"neither is run":       {with("test_a", "skipped"), with("test_a", "skipped"), false},
	} {
		for _, other := range []suite{{gate, open, wss}, {proxy, open, ws}} {
			err := results{base: tc.base, other: tc.got}.judge(io.Discard)
			if (err != nil) != tc.fault {
				t.Errorf("%s, %s: %v", name, other, err)
			}
		}
	}
}
