package authn_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

const challengeURL = "https://gate.example.com"

// challengesAt are those of a gate whose clock shows that time.
func challengesAt(t *testing.T, key, url string, at *time.Time) *authn.Challenges {
	t.Helper()
	c, err := authn.NewChallenges(authn.ChallengesConfig{Key: []byte(strings.Repeat(key, 32)), URL: url, Now: func() time.Time { return *at }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestChallenge: a challenge is good for a minute at all nodes of its gate, and has one digest that no other has.
func TestChallenge(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c, node := challengesAt(t, "k", challengeURL, &now), challengesAt(t, "k", challengeURL, &now)
	text := c.New()
	once, err := node.Check(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Check(text); err != nil || again != once {
		t.Errorf("the same one has two digests: %v", err)
	}
	if other, err := c.Check(c.New()); err != nil || other == once || other == ([32]byte{}) {
		t.Errorf("another one: %x, %v", other, err)
	}
	if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Errorf("%q", text)
	}
	for _, row := range []struct {
		later time.Duration
		want  string
	}{
		{time.Minute, ""},
		{time.Minute + time.Second, "is 1m1s old"},
		{-10 * time.Second, ""},
		{-11 * time.Second, "in the future"},
	} {
		now = time.Unix(1_800_000_000, 0).Add(row.later)
		_, err := node.Check(text)
		if row.want == "" {
			if err != nil {
				t.Errorf("%v later: %v", row.later, err)
			}
			continue
		}
		wantReason(t, row.later.String(), err, authn.BadProof, row.want)
	}
}

// TestChallengeTampered: whatever is changed in a challenge, or who else made it, it is none.
func TestChallengeTampered(t *testing.T) {
	now := time.Now()
	c := challengesAt(t, "k", challengeURL, &now)
	text := c.New()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"nothing":         "",
		"another gate's":  challengesAt(t, "k", "https://other.example.com", &now).New(),
		"another key's":   challengesAt(t, "x", challengeURL, &now).New(),
		"cut":             text[:len(text)-1],
		"longer":          text + "A",
		"a line break":    text[:40] + "\n" + text[40:len(text)-1],
		"padded":          text + "=",
		"standard base64": base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, len(raw))),
		"zeros":           strings.Repeat("A", len(text)),
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		bad[fmt.Sprintf("octet %d changed", i)] = base64.RawURLEncoding.EncodeToString(changed)
	}
	// 65 bytes leave two spare bits, which are zero in the one spelling.
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, text[len(text)-1])
	bad["spare bits"] = text[:len(text)-1] + string(digits[last|1])
	for name, challenge := range bad {
		_, err := c.Check(challenge)
		wantReason(t, name, err, authn.BadProof, "none of this gate's")
	}
}

func TestNewChallenges(t *testing.T) {
	for _, cfg := range []authn.ChallengesConfig{{URL: challengeURL, Key: make([]byte, 31)}, {Key: make([]byte, 32)}} {
		if _, err := authn.NewChallenges(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// FuzzChallenge: no text but what the gate made is a challenge.
func FuzzChallenge(f *testing.F) {
	now := time.Now()
	c, err := authn.NewChallenges(authn.ChallengesConfig{Key: make([]byte, 32), URL: challengeURL, Now: func() time.Time { return now }})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add(c.New())
	f.Add(strings.Repeat("A", 87))
	made := c.New()
	f.Add(made[:86] + "B")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := c.Check(text); err == nil {
			raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
			if err != nil || base64.RawURLEncoding.EncodeToString(raw) != text {
				t.Errorf("%q is a challenge", text)
			}
		}
	})
}
