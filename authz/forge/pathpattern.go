package forge

import (
	"fmt"
	"slices"
	"strings"
)

// pathPattern matches repository paths, segment by segment.
type pathPattern struct{ segments []string }

// parsePathPattern reads a pattern: "*" stands for any text within a segment, "**" for one or more whole segments.
func parsePathPattern(s string) (pathPattern, error) {
	segments := strings.Split(s, "/")
	if len(s) > 1000 || slices.Contains(segments, "") || strings.ContainsAny(s, "\\?[]{} \t\n") {
		return pathPattern{}, fmt.Errorf("%q is not a pattern of repository paths", clip(s))
	}
	for _, seg := range segments {
		if strings.Contains(seg, "**") && seg != "**" {
			return pathPattern{}, fmt.Errorf("%q: ** must stand alone between slashes", clip(s))
		}
	}
	return pathPattern{segments}, nil
}

func (p pathPattern) match(path string) bool {
	return matchSegments(p.segments, strings.Split(path, "/"))
}

func matchSegments(pattern, path []string) bool {
	for i, want := range pattern {
		if want == "**" {
			for j := i + 1; j <= len(path); j++ {
				if matchSegments(pattern[i+1:], path[j:]) {
					return true
				}
			}
			return false
		}
		if i >= len(path) || !matchText(want, path[i]) {
			return false
		}
	}
	return len(pattern) == len(path)
}

func matchText(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for i := range len(s) + 1 {
		if matchText(rest, s[i:]) {
			return true
		}
	}
	return false
}
