package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// runHere runs the command in this process.
func runHere(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// TestEveryVerb: each verb explains itself, and refuses a flag that it does not have and says where help is.
func TestEveryVerb(t *testing.T) {
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		if code, out, _ := runHere(t, append(path, "--help")...); code != exitOK || !strings.Contains(out, "Usage:") {
			t.Errorf("%q --help: exit code %d, %q", path, code, out)
		}
		if code, out, errOut := runHere(t, append(path, "--nonsense")...); code != exitUsage || out != "" || !strings.Contains(errOut, "unknown flag: --nonsense") || !strings.Contains(errOut, "--help") {
			t.Errorf("%q --nonsense: exit code %d, %q, %q", path, code, out, errOut)
		}
		for _, c := range cmd.Commands() {
			walk(c, append(path[:len(path):len(path)], c.Name()))
		}
	}
	walk(newRoot(), nil)
}

// TestUsageErrors: a mistake on the command line is exit code 2, and nothing is printed but what to do.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"nonsense", `unknown command "nonsense"`},
		{"token nonsense", `unknown command "nonsense"`},
		{"policy nonsense", "lychgate policy --help"},
		{"audit nonsense", "lychgate audit --help"},
		{"config nonsense", "lychgate config --help"},
		{"whoami extra", "lychgate whoami --help"},
		{"serve extra", "lychgate serve --help"},
		{"version extra", "lychgate version --help"},
		{"get", "lychgate get --help"},
		{"get one two", "want the artifact's name, got 2"},
		{"explain", "lychgate explain --help"},
		{"push", "want the cache's directory"},
		{"import", "want a directory or a URL"},
		{"policy check one two", "want one bundle directory"},
		{"token create", "--user is missing"},
		{"token create --ttl soon", "ttl"},
		{"token revoke", "name at least one token id"},
		{"explain name", "--as is missing"},
		{"serve --log nonsense", "want text or json"},
		{"quickstart --https nonsense", "--https nonsense"},
		{"push testdata --layer nonsense", "want DIR=URL@REV"},
		{"whoami --gate= --token-file nowhere", "--gate is missing"},
		{"whoami --gate https://gate.example.com --token-file nowhere", "nowhere"},
		{"whoami --gate http://gate.example.com --token-file testdata/usage.txtar", "https"},
		{"audit verify --config nowhere.yaml", "nowhere.yaml"},
	} {
		t.Run(c.args, func(t *testing.T) {
			if code, out, errOut := runHere(t, strings.Fields(c.args)...); code != exitUsage || out != "" || !strings.Contains(errOut, c.want) {
				t.Errorf("exit code %d, %q, %q", code, out, errOut)
			}
		})
	}
}
