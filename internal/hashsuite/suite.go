package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// runner runs the suite and writes a line of JSON for each test as it ends, so that a suite that hangs has said something.
const runner = `
import json, sys, unittest

class Result(unittest.TestResult):
    def note(self, test, outcome, why=""):
        with open(sys.argv[1], "a") as f:
            f.write(json.dumps({"test": test.id().rsplit(".", 1)[-1], "outcome": outcome, "why": why}) + "\n")

    def addSuccess(self, test):
        self.note(test, "ok")

    def addFailure(self, test, err):
        self.note(test, "FAIL", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        self.note(test, "ERROR", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(test, err)

unittest.defaultTestLoader.loadTestsFromName("hashserv.tests.TestHashEquivalenceExternalServer").run(Result())
`

// longestSuite is how long a suite may take. One without trouble takes seconds; a client that is cut off tries four times.
const longestSuite = 5 * time.Minute

// outcome is what a test came to: ok, skipped, FAIL or ERROR. The zero outcome is none: the suite hung or died.
type outcome struct {
	Test    string `json:"test"`
	Outcome string `json:"outcome"`
	Why     string `json:"why"`
}

// passed reports whether the test was run and is content.
func (o outcome) passed() bool { return o.Outcome == "ok" }

func (o outcome) String() string {
	if o.Outcome == "" {
		return "none"
	}
	return o.Outcome
}

// outcomes are those of one suite by test.
type outcomes map[string]outcome

// String counts them.
func (all outcomes) String() string {
	counts := map[string]int{}
	for _, o := range all {
		counts[o.Outcome]++
	}
	return fmt.Sprintf("%d ok, %d skipped, %d FAIL, %d ERROR", counts["ok"], counts["skipped"], counts["FAIL"], counts["ERROR"])
}

// explain prints what Python says of the tests that are neither passed nor skipped.
func (all outcomes) explain(w io.Writer) {
	for _, name := range all.names() {
		if o := all[name]; !o.passed() && o.Outcome != "skipped" {
			fmt.Fprintf(w, "  %s: %s\n%s\n", name, o, o.Why)
		}
	}
}

func (all outcomes) names() (list []string) {
	for name := range all {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// endpoint is where a suite goes, and with which login. Without a user there is none.
type endpoint struct{ address, user, password string }

// runSuite runs the suite against one endpoint.
func (w *world) runSuite(ctx context.Context, name suite, e endpoint) (outcomes, error) {
	dir := w.path(name.String())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, longestSuite)
	defer cancel()
	results := filepath.Join(dir, "results")
	cmd := exec.CommandContext(ctx, w.reference.Python, "-c", runner, results)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), w.reference.Env()...)
	cmd.Env = append(cmd.Env, "BB_TEST_HASHSERV="+e.address, "SSL_CERT_FILE="+w.authority(), "PATH="+w.path("bin")+":"+os.Getenv("PATH"))
	if e.user != "" {
		cmd.Env = append(cmd.Env, "BB_TEST_HASHSERV_USERNAME="+e.user, "BB_TEST_HASHSERV_PASSWORD="+e.password)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.CombinedOutput()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "output"), output, 0o600), context.Cause(ctx)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	all, err2 := readOutcomes(results)
	if len(all) == 0 {
		return nil, fmt.Errorf("no test was run: %w: %s", errors.Join(err, err2), output[max(0, len(output)-2000):])
	}
	return all, err2
}

// readOutcomes reads what the runner wrote. A test that is there twice counts as what it came to worst: its end may fail, too.
func readOutcomes(path string) (outcomes, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := outcomes{}
	for lines := jsontext.NewDecoder(bytes.NewReader(text)); ; {
		var o outcome
		if err := json.UnmarshalDecode(lines, &o, json.RejectUnknownMembers(true)); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if was, ok := all[o.Test]; !ok || was.passed() {
			all[o.Test] = o
		}
	}
}

// brief is the last line of what Python said.
func (o outcome) brief() string {
	lines := strings.Split(strings.TrimSpace(o.Why), "\n")
	return lines[len(lines)-1]
}
