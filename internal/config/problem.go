package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake.
type Problem struct {
	File   string // as given to Load; empty from Parse
	Line   int    // 1-based
	Column int    // 1-based; 0 when only the line is known
	Key    string // "zones[0].base"; empty for the document itself
	Reason string
	Hint   string // what to do next
}

// Error returns "FILE:LINE:COLUMN: KEY: REASON (HINT)".
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		fmt.Fprintf(&b, "%s:", p.File)
	}
	fmt.Fprintf(&b, "%d:", p.Line)
	if p.Column > 0 {
		fmt.Fprintf(&b, "%d:", p.Column)
	}
	if p.Key != "" {
		fmt.Fprintf(&b, " %s:", p.Key)
	}
	fmt.Fprintf(&b, " %s", p.Reason)
	if p.Hint != "" {
		fmt.Fprintf(&b, " (%s)", p.Hint)
	}
	return b.String()
}

// Problems is every mistake of a document, in the order of their places. It is never empty.
type Problems []Problem

// Error returns one line for each.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// nearest returns the word that name was probably meant to be, or "".
func nearest(name string, words []string) string {
	if len(name) > 60 {
		return "" // a word of the document may be as long as the document
	}
	best, limit := "", min(max(1, len(name)/3)+1, len(name))
	for _, w := range words {
		if d := distance(name, w); d < limit {
			best, limit = w, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replaced := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			rows[i][j] = min(replaced, rows[i][j-1]+1, rows[i-1][j]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
