package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/lychgate/lychgate/authz/authn"
)

// signedBody reports whether signature is the HMAC-SHA256 of body in hexadecimal, in constant time. Without a secret nothing is signed.
func signedBody(secret authn.Secret, body []byte, signature string) bool {
	given, err := hex.DecodeString(signature)
	if err != nil || secret.IsZero() {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), given)
}

// bodyID names a delivery by what was signed. The id that comes in a header is not under the signature: whoever sends a delivery
// again could give it another.
func bodyID(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func hookError(forge, why string) error {
	return fmt.Errorf("read a delivery of forge %q: %w: %s", forge, ErrHook, why)
}
