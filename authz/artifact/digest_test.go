package artifact_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/artifact"
)

func TestDigest(t *testing.T) {
	d := artifact.Digest(sha256.Sum256([]byte("bytes")))
	for _, text := range []string{d.Hex(), d.String(), string(d.AppendHex(nil))} {
		if got, err := artifact.ParseDigest(text); err != nil || got != d {
			t.Errorf("ParseDigest(%q) = %v, %v", text, got, err)
		}
	}
	text, err := d.MarshalText()
	var got artifact.Digest
	if err != nil || string(text) != d.String() || got.UnmarshalText(text) != nil || got != d {
		t.Errorf("MarshalText = %q, %v, read back as %v", text, err, got)
	}
	if d.IsZero() || !(artifact.Digest{}).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestParseDigestRefuses(t *testing.T) {
	hex := artifact.Digest{1}.Hex()
	for _, text := range []string{
		"", "sha256:", hex[1:], hex + "0", strings.ToUpper(artifact.Digest{0xab}.Hex()), "SHA256:" + hex, "sha512:" + hex,
		"sha256:sha256:" + hex, " " + hex, hex + "\n", "sha256:" + hex[1:] + "g", strings.Repeat("a", 1<<20),
	} {
		d := artifact.Digest{9}
		if got, err := artifact.ParseDigest(text); err == nil || !got.IsZero() || len(err.Error()) > 200 {
			t.Errorf("ParseDigest of %d octets = %v, %v", len(text), got, err)
		}
		if err := d.UnmarshalText([]byte(text)); err == nil || d != (artifact.Digest{9}) {
			t.Errorf("UnmarshalText of %d octets = %v, %v", len(text), d, err)
		}
	}
}
