package source

import (
	"fmt"
	"slices"
	"strings"
)

// Pattern matches sources by their locators:
//
//	[TYPE+]HOST/PATH
//
// TYPE is one of the [Type]s, such as "http+downloads.example.org/**"; without it sources of every type match. HOST is a
// host name, with its port if it is not the protocol's own, or "*." and one: "*.example.org" matches one label more.
// PATH is a [PathPattern]. Hosts match whatever their case, paths with it. The zero Pattern matches nothing, and
// no Pattern matches an [Unresolvable] source.
type Pattern struct {
	text string
	kind Type   // empty for every type
	host string // with a leading dot when any one label may stand before it
	path PathPattern
}

// ParsePattern reads a Pattern. It refuses one that would match every host.
func ParsePattern(text string) (Pattern, error) {
	refuse := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("pattern %.200q: %s", text, why)
	}
	if strings.Contains(text, "://") {
		return refuse("it is no URL; write HOST/PATH, after TYPE+ if the type matters")
	}
	host, path, found := strings.Cut(text, "/")
	kind, rest, typed := strings.Cut(host, "+")
	if typed {
		host = rest
	}
	p := Pattern{text: text}
	switch p.kind = Type(kind); {
	case !typed:
		p.kind = ""
	case !p.kind.located():
		return refuse("the type before + is unknown; write git, http, ssh, s3, npm, crate, gomod, hg, svn, p4 or ccrc")
	}
	if !found {
		return refuse("there is no path; write HOST/** for everything at a host")
	}
	var err error
	if p.host, err = parseHostPattern(host); err != nil {
		return refuse(err.Error())
	}
	if p.path, err = ParsePathPattern(path); err != nil {
		return Pattern{}, fmt.Errorf("pattern %.200q: %w", text, err)
	}
	if strings.HasSuffix(path, ".git") && (p.kind == Git || p.kind == "") {
		return refuse("repositories are named without .git; leave it off")
	}
	return p, nil
}

// parseHostPattern returns the host, with a leading dot for "*.".
func parseHostPattern(text string) (string, error) {
	name, wild := strings.CutPrefix(text, "*.")
	switch {
	case strings.Contains(name, "*"):
		return "", reason("* in a host may only be its first label, as in *.example.org; every host at once cannot be meant")
	case strings.Contains(name, "@"):
		return "", reason("a pattern has no user name; leave it off")
	}
	host, err := normalHost(name, "")
	if err != nil {
		return "", err
	}
	if !wild {
		return host, nil
	}
	if bare, _, _ := cutPort(host); !strings.Contains(bare, ".") || strings.Trim(bare, "0123456789.") == "" {
		return "", reason("*. needs a domain of two labels or more after it, as in *.example.org")
	}
	return "." + host, nil
}

// Match reports whether s is at a place that p names.
func (p Pattern) Match(s Source) bool {
	if p.text == "" || !s.Type.located() || p.kind != "" && p.kind != s.Type {
		return false
	}
	return p.matchHost(s.Locator.Host) && p.path.Match(s.Locator.Path)
}

func (p Pattern) matchHost(host string) bool {
	if !strings.HasPrefix(p.host, ".") {
		return host == p.host
	}
	label, ok := strings.CutSuffix(host, p.host)
	return ok && label != "" && !strings.ContainsAny(label, ".:")
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Patterns is a list of patterns, such as that of the public sources.
type Patterns []Pattern

// Match reports whether any of the patterns matches s.
func (ps Patterns) Match(s Source) bool {
	return slices.ContainsFunc(ps, func(p Pattern) bool { return p.Match(s) })
}

// PathPattern matches paths segment by segment. In a segment "*" stands for any text, also none. The segment "**"
// stands for any number of segments, also none; at the end of a pattern for at least one: "public/**" is everything
// below public and not public itself. "**" alone matches every path, the empty one too. Nothing else is special. The
// zero PathPattern matches nothing.
type PathPattern struct {
	text     string
	segments []string
}

// ParsePathPattern reads a PathPattern: relative, without empty segments, and at most 1024 octets long.
func ParsePathPattern(text string) (PathPattern, error) {
	refuse := func(why string) (PathPattern, error) {
		return PathPattern{}, fmt.Errorf("path pattern %.200q: %s", text, why)
	}
	switch {
	case text == "":
		return refuse("it is empty; write ** for every path")
	case strings.HasPrefix(text, "/"):
		return refuse("leave the leading slash off")
	case strings.ContainsAny(text, "[]{}!"):
		return refuse("only * and ** are special; the characters [ ] { } ! are not allowed")
	}
	clean, err := cleanPath(text)
	if err != nil {
		return refuse(err.Error())
	}
	segments := strings.Split(clean, "/")
	for _, s := range segments {
		if strings.Contains(s, "**") && s != "**" {
			return refuse("** stands for whole segments; write * within a segment")
		}
	}
	if n := len(segments); n > 1 && segments[n-1] == "**" {
		segments = append(segments[:n-1], "*", "**")
	}
	return PathPattern{text, segments}, nil
}

// String returns the pattern as it was written.
func (p PathPattern) String() string { return p.text }

// Match reports whether p matches path, upper and lower case being different. It allocates nothing.
func (p PathPattern) Match(path string) bool { return p.match(path, false) }

// MatchFold is [PathPattern.Match] for forges to whom the letters A-Z and a-z are the same. Letters beyond ASCII stay
// apart. It must not be used for a forge that tells case apart: there two repositories would be taken for one.
func (p PathPattern) MatchFold(path string) bool { return p.match(path, true) }

// match walks path once, going back only to the last "**": what that gave up, no earlier one could use better.
func (p PathPattern) match(path string, fold bool) bool {
	var (
		i     int          // the segment of the pattern to match next
		more  = path != "" // whether path holds another segment, if an empty one
		after = -1         // the segment after the last "**"
		retry = ""         // what was left of path there
	)
	for more {
		segment, rest, found := strings.Cut(path, "/")
		switch {
		case i < len(p.segments) && p.segments[i] == "**":
			i++
			after, retry = i, path
		case i < len(p.segments) && glob(p.segments[i], segment, fold):
			i++
			path, more = rest, found
		case after >= 0:
			i = after
			_, retry, more = strings.Cut(retry, "/")
			path = retry
		default:
			return false
		}
	}
	for i < len(p.segments) && p.segments[i] == "**" {
		i++
	}
	return i > 0 && i == len(p.segments)
}

// glob matches text against a pattern in which only '*' is special, the same way as match.
func glob(pattern, text string, fold bool) bool {
	i, after, retry := 0, -1, 0
	for j := 0; j < len(text); {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			i++
			after, retry = i, j
		case i < len(pattern) && same(pattern[i], text[j], fold):
			i++
			j++
		case after >= 0:
			retry++
			i, j = after, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}

func same(a, b byte, fold bool) bool {
	return a == b || fold && lower(a) == lower(b)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
