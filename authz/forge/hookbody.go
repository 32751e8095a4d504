package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/lychgate/lychgate/authz/authn"
)

// signedBody reports whether signature is the HMAC-SHA256 of body in hexadecimal. Without a secret nothing is signed.
func signedBody(secret authn.Secret, body []byte, signature string) bool {
	return isHexMAC(signature, secret, body)
}

// isHexMAC reports, in constant time, whether text is the HMAC-SHA256 of the parts under secret, in hexadecimal. Without a secret
// nothing is.
func isHexMAC(text string, secret authn.Secret, parts ...[]byte) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && !secret.IsZero() && hmac.Equal(sum, macOf(secret, parts...))
}

func macOf(secret authn.Secret, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(nil)
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
