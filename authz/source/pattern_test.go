package source_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/source"
)

func located(t source.Type, host, path string) source.Source {
	return source.Source{Type: t, Locator: source.Locator{Host: host, Path: path}}
}

func TestPattern(t *testing.T) {
	git, file := located(source.Git, "git.example.com", "public/zlib"), located(source.HTTP, "downloads.example.org", "a/b/c.tgz")
	tests := []struct {
		pattern string
		source  source.Source
		want    bool
	}{
		{"git.example.com/public/zlib", git, true},
		{"git.example.com/public/*", git, true},
		{"git.example.com/public/**", git, true},
		{"git.example.com/**", git, true},
		{"GIT.Example.com./**", git, true},
		{"git+git.example.com/**", git, true},
		{"*.example.com/**", git, true},
		{"git.example.com/*", git, false},
		{"git.example.com/public", git, false},
		{"git.example.com/Public/**", git, false},
		{"git.example.com/private/**", git, false},
		{"git.example.com:8443/**", git, false},
		{"http+git.example.com/**", git, false},
		{"example.com/**", git, false},
		{"*.git.example.com/**", git, false},
		{"http+downloads.example.org/**", file, true},
		{"http+downloads.example.org/**/c.tgz", file, true},
		{"http+downloads.example.org/a/*/*.tgz", file, true},
		{"git+downloads.example.org/**", file, false},
		{"*.example.com/**", located(source.Git, "example.com", "a"), false},
		{"*.example.com/**", located(source.Git, "a.b.example.com", "a"), false},
		{"*.example.com/**", located(source.Git, "evilexample.com", "a"), false},
		{"*.example.com/**", located(source.Git, "a.example.com:8443", "a"), false},
		{"*.example.com:8443/**", located(source.Git, "a.example.com:8443", "a"), true},
		{"git.example.com:8443/**", located(source.Git, "git.example.com:8443", "a"), true},
		{"bücher.example/**", located(source.Git, "xn--bcher-kva.example", "a"), true},
		{"[2001:db8:0::1]/**", located(source.Git, "[2001:db8::1]", "a"), true},
		{"gomod+go4.org/**", located(source.GoModule, "go4.org", ""), true},
		{"gomod+go4.org/*", located(source.GoModule, "go4.org", ""), false},
		{"localhost/**", source.Source{Type: source.Unresolvable, Reason: "localhost/x"}, false},
		{"localhost/**", source.Source{Type: source.Unresolvable, Locator: source.Locator{Host: "localhost", Path: "x"}}, false},
		{"localhost/**", source.Source{Type: "cvs", Locator: source.Locator{Host: "localhost", Path: "x"}}, false},
	}
	for _, tt := range tests {
		p, err := source.ParsePattern(tt.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q): %v", tt.pattern, err)
			continue
		}
		if p.Match(tt.source) != tt.want || p.String() != tt.pattern {
			t.Errorf("%v matches %v: %v, want %v", p, tt.source, !tt.want, tt.want)
		}
	}
	if (source.Pattern{}).Match(git) || (source.Pattern{}).Match(source.Source{}) || (source.PathPattern{}).Match("") {
		t.Error("a zero pattern matches")
	}
}

func TestPatterns(t *testing.T) {
	var ps source.Patterns
	s := located(source.Git, "git.example.com", "public/zlib")
	if ps.Match(s) {
		t.Error("no pattern matches")
	}
	for _, text := range []string{"git.example.com/other/**", "git.example.com/public/**"} {
		p, err := source.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if !ps.Match(s) || ps.Match(located(source.Git, "git.example.com", "private/zlib")) {
		t.Error("a list does not match as any of its patterns")
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for text, hint := range map[string]string{
		"":                                "HOST/**",
		"git.example.com":                 "HOST/**",
		"**":                              "HOST/**",
		"git+**":                          "HOST/**",
		"**/x":                            "every host",
		"*/x":                             "every host",
		"*/**":                            "every host",
		"git+*/**":                        "every host",
		"**/**":                           "every host",
		"*.*/**":                          "every host",
		"*.com/**":                        "two labels",
		"*.com:443/**":                    "two labels",
		"*.0.0.0.1/**":                    "two labels",
		"*./**":                           "host",
		"git*.example.com/**":             "first label",
		"a.*.com/**":                      "first label",
		"/x":                              "host",
		"u:p@git.example.com/**":          "user name",
		"https://git.example.com/**":      "no URL",
		"cvs+git.example.com/**":          "type",
		"+git.example.com/**":             "type",
		"unresolvable+git.example.com/**": "type",
		"git.example.com/":                "empty",
		"git.example.com//x":              "leading slash",
		"git.example.com/x/":              "segment",
		"git.example.com/../x":            "segment",
		"git.example.com/a**":             "whole segments",
		"git.example.com/***":             "whole segments",
		"git.example.com/x.git":           ".git",
		"git+git.example.com/*.git":       ".git",
		"git.example.com/[ab]":            "special",
		"git.example.com/{a,b}":           "special",
		"git.example.com/!a":              "special",
		"git.example.com/a?":              "holds",
		"git.example.com/a%2fb":           "holds",
		"git.example.com/a\nb":            "holds",
		"git.example.com/" + strings.Repeat("a", 1025): "too long",
	} {
		p, err := source.ParsePattern(text)
		if err == nil || !strings.Contains(err.Error(), hint) || len(err.Error()) > 600 {
			t.Errorf("ParsePattern(%.60q) = %v, %v, want an error with %q", text, p, err, hint)
		}
		if p.Match(located(source.Git, "git.example.com", "x")) {
			t.Errorf("ParsePattern(%.60q) matches after an error", text)
		}
	}
}

func TestPathPattern(t *testing.T) {
	tests := []struct {
		pattern     string
		match, fold string // paths that match, and those that do only whatever the case
		not         string
	}{
		{"**", "a a/b a/b/c", "", ""},
		{"a", "a", "A", "b a/a aa"},
		{"public/**", "public/a public/a/b", "PUBLIC/a Public/A/B", "public private/a publicx/a xpublic/a x/public/a"},
		{"public/*", "public/a", "Public/a", "public public/a/b"},
		{"*/zlib", "a/zlib", "a/ZLIB", "zlib a/b/zlib a/zlib2"},
		{"**/zlib", "zlib a/zlib a/b/zlib zlib/zlib", "", "zlib/a a/zlib/b"},
		{"a/**/b", "a/b a/x/b a/x/y/b a/b/b", "A/x/B", "a b a/x a/b/x"},
		{"a/**/**", "a/b a/b/c", "", "a"},
		{"**/a/**/b", "a/b x/a/y/b a/a/b/b", "", "a b/a x/a"},
		{"team*/lib*-x", "team/lib-x teamA/libfoo-x team/lib-x-x", "TEAM/lib-x", "team/lib-xy tea/lib-x"},
		{"*a*b*", "ab xaxbx aab", "AB", "ba a b a/b"},
		{"é*", "é éa", "", "É e"},
	}
	for _, tt := range tests {
		p, err := source.ParsePathPattern(tt.pattern)
		if err != nil {
			t.Errorf("ParsePathPattern(%q): %v", tt.pattern, err)
			continue
		}
		for _, path := range strings.Fields(tt.match) {
			if !p.Match(path) || !p.MatchFold(path) {
				t.Errorf("%v does not match %q", p, path)
			}
		}
		for _, path := range strings.Fields(tt.fold) {
			if p.Match(path) || !p.MatchFold(path) {
				t.Errorf("%v and %q: case does not decide", p, path)
			}
		}
		for _, path := range strings.Fields(tt.not) {
			if p.Match(path) || p.MatchFold(path) {
				t.Errorf("%v matches %q", p, path)
			}
		}
	}
}

// TestPathPatternModel compares with regular expressions.
func TestPathPatternModel(t *testing.T) {
	segment := rapid.SampledFrom([]string{"*", "**", "**", "a", "b", "a*", "*b", "*a*", "ab"})
	rapid.Check(t, func(t *rapid.T) {
		segments := rapid.SliceOfN(segment, 1, 6).Draw(t, "pattern")
		text := strings.Join(segments, "/")
		path := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{1,3}`), 1, 7).Draw(t, "path"), "/")
		p, err := source.ParsePathPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Match(path), model(segments).MatchString(path+"/"); got != want {
			t.Fatalf("%q matches %q: %v, want %v", text, path, got, want)
		}
	})
}

// model is a pattern as a regular expression over a path whose segments each end in a slash.
func model(segments []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	for i, s := range segments {
		switch {
		case s == "**" && i == len(segments)-1:
			b.WriteString("([^/]+/)+")
		case s == "**":
			b.WriteString("([^/]+/)*")
		default:
			b.WriteString(strings.ReplaceAll(s, "*", "[^/]*") + "/")
		}
	}
	return regexp.MustCompile(b.String() + "$")
}

// TestPatternEffort gives a backtracking matcher more than a lifetime of work.
func TestPatternEffort(t *testing.T) {
	p, err := source.ParsePathPattern(strings.Repeat("**/a*a*a*a*b/", 30) + "c")
	if err != nil {
		t.Fatal(err)
	}
	if p.Match(strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaa/", 40) + "c") {
		t.Error("matches")
	}
}

func TestPatternAllocates(t *testing.T) {
	p, err := source.ParsePattern("git+git.example.com/public/**/z*")
	if err != nil {
		t.Fatal(err)
	}
	s := located(source.Git, "git.example.com", "public/a/b/zlib")
	if n := testing.AllocsPerRun(100, func() { p.Match(s) }); n > 0 || !p.Match(s) {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPatternMatch(b *testing.B) {
	p, err := source.ParsePattern("git.example.com/public/**/z*")
	if err != nil {
		b.Fatal(err)
	}
	s := located(source.Git, "git.example.com", "public/a/b/zlib")
	b.ReportAllocs()
	for b.Loop() {
		p.Match(s)
	}
}
