package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestMissingCheckouts: without the checkouts the program fails, and says how to get both.
func TestMissingCheckouts(t *testing.T) {
	for _, args := range [][]string{nil, {"-bitbake", t.TempDir(), "-oecore", ""}} {
		_, err := parseOptions(args, io.Discard)
		if err == nil {
			t.Fatalf("%q: no error", args)
		}
		for _, want := range []string{"BITBAKE_DIR", "openembedded/bitbake", "OECORE_DIR", "openembedded/openembedded-core"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error does not say %s: %v", args, want, err)
			}
		}
	}
}

// TestRead: the counts are BitBake's own, also where it prints them behind something else, and all errors are seen.
func TestRead(t *testing.T) {
	const output = `Initialising tasks...Sstate summary: Wanted 12 Local 1 Mirrors 6 Missed 5 Current 0 (58% match, 0% complete)
WARNING: tool-native-1.0+git-r0 do_populate_lic_setscene: No sstate archive obtainable
ERROR: tool-native-1.0+git-r0 do_populate_lic_setscene: Fetcher failure
NOTE: recipe tool-native-1.0+git-r0: task do_compile: Started
NOTE: recipe tool-native-1.0+git-r0: task do_compile: Succeeded
NOTE: recipe greeter-native-2.0~rc1-r0: task do_compile: Succeeded
NOTE: Tasks Summary: Attempted 43 tasks of which 20 didn't need to be rerun and all succeeded.
`
	var r result
	r.read(output)
	got := fmt.Sprint(r.wanted, r.local, r.mirrors, r.missed, len(r.errors), len(r.warnings), r.compiled, r.succeeded)
	if want := "12 1 6 5 1 1 [tool-native greeter-native] true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var none result
	none.read(strings.Replace(output, "all succeeded", "1 failed", 1)[len("Initialising tasks...Sstate"):])
	if none.wanted != 0 || none.succeeded {
		t.Errorf("without a summary, with a failure: %+v", none)
	}
}
