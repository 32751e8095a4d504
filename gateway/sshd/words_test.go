package sshd_test

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/gateway/sshd"
)

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		"":                             nil,
		" \t ":                         nil,
		"[ -f /a/b ]":                  {"[", "-f", "/a/b", "]"},
		"[\t-f\t/a/b\t]":               {"[", "-f", "/a/b", "]"},
		"  test -f '/a b' ":            {"test", "-f", "/a b"},
		`test -f "/a b"`:               {"test", "-f", "/a b"},
		`test -f /a\ b`:                {"test", "-f", "/a b"},
		`'[' '-f' '/a' ']'`:            {"[", "-f", "/a", "]"},
		`"[" "-f" "/a" "]"`:            {"[", "-f", "/a", "]"},
		`\[ -f /a \]`:                  {"[", "-f", "/a", "]"},
		`scp -f -- '/a'\''b'`:          {"scp", "-f", "--", "/a'b"},
		`a'b'"c"\d`:                    {"abcd"},
		`''`:                           {""},
		`a "" b`:                       {"a", "", "b"},
		`"\$\"\\\'\` + "`" + `"`:       {`$"\\'` + "`"},
		`'\$"*;|&<>()'`:                {`\$"*;|&<>()`},
		`"*;|&<>()'#~"`:                {`*;|&<>()'#~`},
		"a#b a~b a=b +:,@%^!_-.a/":     {"a#b", "a~b", "a=b", "+:,@%^!_-.a/"},
		"/main/universal/ab/cd/s:p::1": {"/main/universal/ab/cd/s:p::1"},
	} {
		got, err := sshd.Split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", line, got, err, want)
		}
	}
}

// TestSplitRefuses: what a shell would act on, or what is not plain text.
func TestSplitRefuses(t *testing.T) {
	for _, line := range []string{
		"a;b", "a&b", "a|b", "a&&b", "a||b", "a<b", "a>b", "(a)", "a`b`", "$a", "$(a)", "${a}", `"$a"`, `"$(a)"`, "\"`a`\"",
		"a*", "a?", "[a]", "a[", "[-f", "{a,b}", "#a", "~", "~root/a", "a ~", "a #b", "a\nb", "a\rb", "'a\nb'", "\"a\nb\"", "a\\\nb",
		"a\x00b", "'a\x00'", "'a\tb'", "a\x1bb", "'", `"`, `'a`, `"a`, `a\`, `"a\`, `"a\"`, "ä", "'ä'", "\x80", "'\xff'", "a\x7fb",
	} {
		if got, err := sshd.Split(line); err == nil {
			t.Errorf("%q: %q", line, got)
		}
	}
}

// FuzzSplit: what is taken, a shell splits in the same way.
func FuzzSplit(f *testing.F) {
	for _, line := range []string{
		"[ -f /a/b ]", `'[' "-f" /a\ b ']'`, `a'b'"c"\d "" ''`, `"\$\"\\\'"`, `"a\b"`, `a\~ \# a#b`, `--ttl=1h --note 'it'\''s'`, "a [ b [", "! %s",
	} {
		f.Add(line)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := sshd.Split(line)
		if err != nil || len(words) == 0 {
			return
		}
		out, err := exec.CommandContext(t.Context(), shell, "-c", `printf '%s\0' `+line).Output()
		if err != nil {
			t.Fatalf("%q: a shell fails with %v", line, err)
		}
		got := bytes.Split(bytes.TrimSuffix(out, []byte{0}), []byte{0})
		if len(got) != len(words) {
			t.Fatalf("%q: %q; a shell finds %q", line, words, got)
		}
		for i := range got {
			if string(got[i]) != words[i] {
				t.Errorf("%q: %q; a shell finds %q", line, words, got)
			}
		}
		if strings.ContainsAny(strings.Join(words, ""), "\x00\n\r\t") {
			t.Errorf("%q: control bytes in %q", line, words)
		}
	})
}
