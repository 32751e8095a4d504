package authn

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what stands in a secret's place.
const redacted = "[secret]"

// Secret is text that must not be printed. Formatting, logging and encoding it give a fixed word. Secrets are not to be
// compared.
type Secret struct {
	// text is behind a pointer because fmt does not ask the methods of unexported fields: a Secret in one prints
	// an address.
	text *string
}

// NewSecret wraps text. No text is the zero Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text. Every caller is a place to review.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Format writes a fixed word, whatever the verb: with String alone, %d would print the text as a mistake.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns a fixed word.
func (s Secret) String() string { return redacted }

// GoString is String for %#v.
func (s Secret) GoString() string { return redacted }

// LogValue is String for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is String for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
