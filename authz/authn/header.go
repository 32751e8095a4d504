package authn

import (
	"encoding/base64"
	"strings"
)

// unreadable stands for a token that could not be read; no gate token looks like it.
const unreadable = "?"

// HeaderToken reads the token of an HTTP Authorization header: Bearer, or the password of Basic (RFC 7617), whose user name does not
// matter: .netrc demands one. A header that cannot be read, or stands there twice, is a bad token, not none.
func HeaderToken(values []string) Secret {
	if len(values) != 1 {
		return NewSecret(unreadable)
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	switch {
	case strings.EqualFold(scheme, "Bearer") && rest != "":
		return NewSecret(rest)
	case strings.EqualFold(scheme, "Basic"):
		plain, err := base64.StdEncoding.DecodeString(rest)
		if _, password, ok := strings.Cut(string(plain), ":"); ok && err == nil && password != "" {
			return NewSecret(password)
		}
	}
	return NewSecret(unreadable)
}
