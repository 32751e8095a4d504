package forge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// ErrNoUser says that a forge knows no user by that id, name or key. It is an answer, and final; any other error of a
// [Directory] means that nothing was learnt.
var ErrNoUser = errors.New("no such user at the forge")

// ErrDeployKey says more of a key that is nobody's: it is nobody's at other forges either. It is an [ErrNoUser].
var ErrDeployKey = fmt.Errorf("a deploy key: %w", ErrNoUser)

// User is what a forge says of one of its users, now. It is shared and must not be changed.
type User struct {
	ID      string // immutable at the forge
	Name    string // may be renamed and used again by another
	Kind    authn.Kind
	Groups  []string // sorted
	Blocked bool     // may do nothing, whatever else is true
	// NotAfter is when this is worth nothing any more; zero when it is as true as the provider's next answer.
	NotAfter time.Time
}

// Directory is optional for a [Provider]: it tells the state of one of its users. Errors for an id that the forge does
// not know wrap [ErrNoUser]. It is safe for concurrent use.
type Directory interface {
	User(ctx context.Context, id string) (User, error)
	// UserByName is for people who write names: command lines and grants. Names are not identities.
	UserByName(ctx context.Context, name string) (User, error)
}

// KeyOwners is optional for a [Provider]: it finds the user with an SSH key. A deploy key is nobody's, whoever added it: the
// error wraps [ErrDeployKey], and [ErrNoUser] for a key the forge does not know. A forge whose interface tells who created a deploy key
// must not answer with that user: whoever holds the key would read all that its creator may. A blocked user is returned as one.
// It is safe for concurrent use.
type KeyOwners interface {
	// KeyOwner takes "SHA256:...", as ssh-keygen -l prints it.
	KeyOwner(ctx context.Context, fingerprint string) (User, error)
}

// People is optional for a [Provider]: it lists the users of a forge, blocked ones included, each once and in no order, for questions such
// as who may read an artifact. Their Groups may be left out. A listing that is not complete is an error, which wraps
// [errors.ErrUnsupported] when the forge as it is configured lists nobody. It may take long. It is safe for concurrent use.
type People interface {
	People(ctx context.Context) ([]User, error)
}

// Identities is optional for a [Provider]: it finds the user whom the forge itself ties to a subject of an identity provider.
// The error wraps [ErrNoUser] when there is none. It is safe for concurrent use.
type Identities interface {
	IdentityOwner(ctx context.Context, issuer, subject string) (User, error)
}

// isFingerprint reports whether s is "SHA256:" and the digest, as ssh-keygen -l prints it.
func isFingerprint(s string) bool {
	digest, ok := strings.CutPrefix(s, "SHA256:")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(digest)
	return ok && err == nil && len(sum) == 32
}
