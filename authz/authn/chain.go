package authn

import (
	"context"
	"errors"
)

// ErrAnonymous is returned by [Chain].Authenticate when nothing was shown at the door. It is no refusal of a
// credential: a door answers 401 and asks for one, and nothing is worth an audit line.
var ErrAnonymous = errors.New("no credential was shown")

// Chain asks its members in order. The first that does not say [ErrNotMine] decides; when all do, the credential
// is refused. It is safe for concurrent use, as its members are.
type Chain []Authenticator

var _ Authenticator = Chain(nil)

// Authenticate returns who showed c, [ErrAnonymous] for the zero Credential, or an error that wraps [ErrRefused]
// or is a fault. Two credentials at once are refused: which of them counts is nobody's guess to make.
func (ch Chain) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	switch c.count() {
	case 0:
		return Principal{}, ErrAnonymous
	case 1:
	default:
		return Principal{}, refuse(BadCredential, "", "several credentials at once")
	}
	for _, a := range ch {
		p, err := a.Authenticate(ctx, c)
		switch {
		case err == nil:
			return p, nil
		case !errors.Is(err, ErrNotMine):
			return Principal{}, err
		}
	}
	return Principal{}, refuse(BadCredential, "", "no authenticator knows this kind of credential")
}
