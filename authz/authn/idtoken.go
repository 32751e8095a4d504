package authn

import (
	"crypto/sha256"
	"strings"
)

// IDTokenDigest names an ID token by what was signed of it, the header and the payload: a signature may have several spellings.
func IDTokenDigest(token Secret) [32]byte {
	text := token.Reveal()
	return sha256.Sum256([]byte(text[:max(0, strings.LastIndexByte(text, '.'))]))
}
