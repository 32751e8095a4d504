package authn

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A challenge is text of 87 characters, base64url without padding (RFC 4648 section 5) of
//
//	byte 1   uint64 seconds since 1970, big-endian   24 random bytes   32 bytes HMAC-SHA-256 over what is before, and the URL
//
// It is kept nowhere.
const (
	challengeVersion = 1
	challengeSigned  = 1 + 8 + 24
	challengeBytes   = challengeSigned + sha256.Size
	challengeLabel   = "lychgate challenge for SSH keys, version 1"
)

// ChallengeLife is how long a challenge is good for.
const ChallengeLife = time.Minute

// challengeSkew is how far apart the clocks of a gate's nodes may be.
const challengeSkew = 10 * time.Second

// ChallengesConfig is what [NewChallenges] needs.
type ChallengesConfig struct {
	// Key is a secret of the gate's of at least 32 random bytes, such as that of its tokens: what is used is derived from it.
	Key []byte
	// URL is what the gate calls itself. A challenge of another gate is none here.
	URL string
	Now func() time.Time // nil is time.Now
}

// Challenges makes what somebody signs with an SSH key in place of a handshake, and knows it again. All nodes of a gate, which have the
// same key and URL, know each other's. It is safe for concurrent use.
type Challenges struct {
	key []byte
	url string
	now func() time.Time
}

// NewChallenges checks cfg.
func NewChallenges(cfg ChallengesConfig) (*Challenges, error) {
	if len(cfg.Key) < 32 {
		return nil, fmt.Errorf("the key for challenges has %d bytes, want at least 32", len(cfg.Key))
	}
	if cfg.URL == "" {
		return nil, errors.New("challenges need the gate's URL")
	}
	key, err := hkdf.Key(sha256.New, cfg.Key, nil, challengeLabel, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key for challenges: %w", err)
	}
	c := &Challenges{key: key, url: cfg.URL, now: cfg.Now}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// New returns a challenge that is good for [ChallengeLife].
func (c *Challenges) New() string {
	raw := make([]byte, challengeSigned, challengeBytes)
	raw[0] = challengeVersion
	binary.BigEndian.PutUint64(raw[1:], uint64(c.now().Unix()))
	rand.Read(raw[9:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(append(raw, c.mac(raw)...))
}

// Check returns the digest by which the challenge is known again once it is used up. Its error is a [Refusal] when the challenge is not
// this gate's, or too old.
func (c *Challenges) Check(challenge string) (once [32]byte, err error) {
	raw := make([]byte, challengeBytes)
	if len(challenge) != base64.RawURLEncoding.EncodedLen(challengeBytes) {
		return once, refuse(BadProof, "", "a challenge of %d characters is none of this gate's", len(challenge))
	}
	// Strict refuses spare bits, and the length line breaks: a challenge has one spelling, and so one digest.
	n, err := base64.RawURLEncoding.Strict().Decode(raw, []byte(challenge))
	if err != nil || n != challengeBytes || !hmac.Equal(raw[challengeSigned:], c.mac(raw[:challengeSigned])) || raw[0] != challengeVersion {
		return once, refuse(BadProof, "", "the challenge is none of this gate's")
	}
	// What carries the gate's MAC holds a time that the gate wrote.
	age := c.now().Sub(time.Unix(int64(binary.BigEndian.Uint64(raw[1:])), 0))
	switch {
	case age > ChallengeLife:
		return once, refuse(BadProof, "", "the challenge is %v old, and good for %v", age.Truncate(time.Second), ChallengeLife)
	case age < -challengeSkew:
		return once, refuse(BadProof, "", "the challenge was made %v in the future: are the clocks of the gate's nodes the same?", -age)
	}
	return sha256.Sum256([]byte(challengeLabel + "\x00" + challenge)), nil
}

func (c *Challenges) mac(signed []byte) []byte {
	h := hmac.New(sha256.New, c.key)
	h.Write(signed)
	h.Write([]byte(c.url))
	return h.Sum(nil)
}
