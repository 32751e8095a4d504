package artifact

import (
	"encoding/hex"
	"errors"
)

// Digest is the SHA-256 of an object's bytes.
type Digest [32]byte

// errDigest holds nothing of the text refused, which may be of any length.
var errDigest = errors.New(`not a digest: want 64 lower-case hex digits, with or without "sha256:" before them`)

// ParseDigest reads 64 lower-case hex digits, with or without "sha256:" before them.
func ParseDigest(s string) (Digest, error) {
	if len(s) == 71 && s[:7] == "sha256:" {
		s = s[7:]
	}
	var d Digest
	if len(s) != 64 || !all(s, isLowerHex) {
		return d, errDigest
	}
	for i := range d {
		d[i] = unhex(s[2*i])<<4 | unhex(s[2*i+1])
	}
	return d, nil
}

// Hex returns 64 lower-case hex digits.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// AppendHex appends 64 lower-case hex digits to b.
func (d Digest) AppendHex(b []byte) []byte { return hex.AppendEncode(b, d[:]) }

// String returns "sha256:" and the hex digits.
func (d Digest) String() string { return "sha256:" + d.Hex() }

// MarshalText is String for encoders.
func (d Digest) MarshalText() ([]byte, error) { return d.AppendHex([]byte("sha256:")), nil }

// UnmarshalText is [ParseDigest] for decoders. After an error d is as it was.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err == nil {
		*d = parsed
	}
	return err
}

// IsZero reports whether d is the zero Digest, which names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }
