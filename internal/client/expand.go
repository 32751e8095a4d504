package client

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Bounds of expansion: what a hostile siginfo can make us build.
const (
	maxExpandDepth = 16
	maxExpanded    = 64 << 10 // bytes
)

var (
	errInline = errors.New("inline Python, which only BitBake can evaluate")
	errHuge   = errors.New("a value without bound")
)

// expander expands ${VAR} as BitBake's data store does, from the values that siginfo files hold.
type expander struct {
	recipe string
	vars   map[string]string
	// more finds a variable in the recipe's other siginfo files.
	more func(name string) (string, bool)
}

var variable = regexp.MustCompile(`\$\{([^{}@\n\t :]+)\}`)

// expand expands text. The error says which variable stands in the way, never what a value holds.
func (x *expander) expand(text string) (string, error) {
	budget := maxExpanded
	return x.at(text, maxExpandDepth, &budget)
}

func (x *expander) at(text string, depth int, budget *int) (string, error) {
	if *budget -= len(text); *budget < 0 || depth == 0 {
		return "", errHuge
	}
	if strings.Contains(text, "${@") {
		return "", errInline
	}
	var out strings.Builder
	for {
		m := variable.FindStringSubmatchIndex(text)
		if m == nil {
			out.WriteString(text)
			return out.String(), nil
		}
		value, err := x.value(text[m[2]:m[3]], depth, budget)
		if err != nil {
			return "", err
		}
		out.WriteString(text[:m[0]])
		out.WriteString(value)
		text = text[m[1]:]
	}
}

func (x *expander) value(name string, depth int, budget *int) (string, error) {
	raw, ok := x.vars[name]
	if !ok && x.more != nil {
		raw, ok = x.more(name)
	}
	raw = plain(raw)
	switch inline := strings.HasPrefix(raw, "${@"); {
	case name == "PN" && (!ok || inline):
		return x.recipe, nil // the object's name says it
	case name == "BPN" && strings.HasPrefix(raw, "${@oe.utils.prune_suffix("):
		return x.baseName(), nil
	case name == "BP" && !ok:
		return x.at("${BPN}-${PV}", depth-1, budget)
	case !ok:
		return "", fmt.Errorf("${%s}, which no siginfo of the recipe holds", printable(name))
	}
	value, err := x.at(raw, depth-1, budget)
	if errors.Is(err, errInline) {
		return "", fmt.Errorf("${%s}: %w", printable(name), errInline)
	}
	return value, err
}

// baseName is BPN as BitBake's default computes it: PN without the class's affixes.
func (x *expander) baseName() string {
	suffixes, ok := x.vars["SPECIAL_PKGSUFFIX"]
	if !ok {
		suffixes = "-native -cross -initial -intermediate -crosssdk -cross-canadian"
	}
	name := x.recipe
	for suffix := range strings.FieldsSeq(suffixes) {
		name = strings.TrimSuffix(name, suffix)
	}
	if prefix := x.vars["MLPREFIX"]; prefix != "" {
		return strings.TrimPrefix(name, prefix)
	}
	return strings.TrimPrefix(name, "nativesdk-")
}

// plain is a value without what BitBake appends to it when it hashes: the overrides that remove words
// ("\n_remove of WORDS") and the answers of the conditions in it ("\nVAR{item} = Set").
func plain(value string) string {
	value, _ = cutNotes(value)
	return value
}

var note = regexp.MustCompile(`\n(?:_remove of |[^\s{}]+\{[^\n]*\} = (?:Set|Unset)(?:\n|$))`)

func cutNotes(value string) (text string, removed []string) {
	at := note.FindStringIndex(value)
	if at == nil {
		return value, nil
	}
	for line := range strings.SplitSeq(value[at[0]:], "\n") {
		if words, ok := strings.CutPrefix(line, "_remove of "); ok {
			removed = append(removed, words)
		}
	}
	return value[:at[0]], removed
}

// braceFields splits a value at blanks, but not within ${...}, which may hold blanks and braces of its own.
func braceFields(value string) []string {
	return splitOutside(value, func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' })
}

// splitOutside splits at bytes outside ${...}, and drops empty pieces.
func splitOutside(value string, at func(c byte) bool) []string {
	var out []string
	start, depth := 0, 0
	for i := 0; i <= len(value); i++ {
		switch {
		case i == len(value) || depth == 0 && at(value[i]):
			if i > start {
				out = append(out, value[start:i])
			}
			start = i + 1
		case value[i] == '{' && (depth > 0 || i > 0 && value[i-1] == '$'):
			depth++
		case value[i] == '}' && depth > 0:
			depth--
		}
	}
	return out
}
