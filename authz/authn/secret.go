package authn

import "log/slog"

// Secret is text that must not be printed. Formatting, logging and encoding it give a fixed word.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text. Every caller is a place to review.
func (s Secret) Reveal() string { return s.text }

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.text == "" }

// String returns a fixed word, so that no format verb prints the text.
func (s Secret) String() string { return "[secret]" }

// GoString is String for %#v.
func (s Secret) GoString() string { return "[secret]" }

// LogValue is String for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText is String for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }
