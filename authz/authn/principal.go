package authn

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// The longest text and the longest list a principal may hold. Both are far above what forges allow, and low enough that
// a principal fits into an audit line.
const (
	maxText = 255
	maxList = 1024
)

// Valid reports whether k is one of the kinds this package names.
func (k Kind) Valid() bool {
	switch k {
	case Human, CI, Service, Anonymous:
		return true
	}
	return false
}

// Key returns "FORGE/ID", which is different for different principals and never changes for one.
// It is what records keep as their writer.
func (p Principal) Key() string { return p.Forge + "/" + p.ID }

// Validate reports what keeps p from being somebody: a kind nobody knows, no id, or text that could forge a [Principal.Key]
// or a line of the audit trail.
func (p Principal) Validate() error {
	if !p.Kind.Valid() {
		return fmt.Errorf("principal kind %q: want human, ci, service or anonymous", p.Kind)
	}
	if p.ID == "" && p.Kind != Anonymous {
		return fmt.Errorf("principal of kind %s has no id", p.Kind)
	}
	for _, r := range p.Forge {
		if r == '/' {
			return fmt.Errorf("principal forge %q: holds a slash", p.Forge)
		}
	}
	return p.validateTexts()
}

func (p Principal) validateTexts() error {
	for _, field := range []struct {
		name  string
		texts []string
	}{
		{"forge", []string{p.Forge}},
		{"id", []string{p.ID}},
		{"name", []string{p.Name}},
		{"groups", p.Groups},
		{"roles", p.Roles},
	} {
		if len(field.texts) > maxList {
			return fmt.Errorf("principal %s: more than %d", field.name, maxList)
		}
		for _, text := range field.texts {
			if err := checkText(text); err != nil {
				return fmt.Errorf("principal %s %.60q: %w", field.name, text, err)
			}
		}
	}
	return nil
}

// checkText accepts what can be shown on one line.
func checkText(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("longer than %d bytes", maxText)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("not UTF-8")
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("holds the unprintable character %U", r)
		}
	}
	return nil
}
