package authn

import (
	"context"
	"errors"
)

// ErrNobody is wrapped by a [Directory] that knows nobody by that key, identity or name. It is an answer; any other error means
// that nothing was learnt, and the credential is refused for now.
var ErrNobody = errors.New("nobody")

// ErrAmbiguous is wrapped by a [Directory] that knows several users by one key. It is an answer: the key is refused, whoever
// else vouches for it.
var ErrAmbiguous = errors.New("several users")

// Directory finds out whom a credential belongs to. forge.Multi is one. It is safe for concurrent use. The principals it returns
// hold Forge, ID, Name and Kind.
type Directory interface {
	// KeyOwner returns the user with the SSH key of that fingerprint, at whatever forge. With two owners the error wraps
	// [ErrAmbiguous]. A deploy key has no owner, whoever added it.
	KeyOwner(ctx context.Context, fingerprint string) (Principal, error)
	// IdentityOwner returns the user of a forge whom the forge ties to an identity provider's subject.
	IdentityOwner(ctx context.Context, forge, issuer, subject string) (Principal, error)
	// ByName returns the user who bears the name at the forge now.
	ByName(ctx context.Context, forge, name string) (Principal, error)
}
