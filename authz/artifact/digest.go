package artifact

import (
	"encoding/hex"
	"fmt"
)

// Digest is the SHA-256 of an object's bytes.
type Digest [32]byte

// ParseDigest reads 64 lower-case hex digits, with or without "sha256:" before them.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	text := s
	if len(text) == 71 && text[:7] == "sha256:" {
		text = text[7:]
	}
	if len(text) != 64 {
		return d, fmt.Errorf("digest %q: want 64 hex digits", s)
	}
	for i := 0; i < len(text); i++ {
		if c := text[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return d, fmt.Errorf("digest %q: want lower-case hex digits", s)
		}
	}
	if _, err := hex.Decode(d[:], []byte(text)); err != nil {
		return d, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// Hex returns 64 lower-case hex digits.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns "sha256:" and the hex digits.
func (d Digest) String() string { return "sha256:" + d.Hex() }

// IsZero reports whether d is the zero Digest, which names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }
