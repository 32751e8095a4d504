// Package authn answers who asks: it turns what was shown at a door into a [Principal].
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"time"
)

var (
	// ErrNotMine says that a credential is not of the kind an [Authenticator] knows; the next one is asked.
	ErrNotMine = errors.New("credential is of another kind")
	// ErrRefused is wrapped by every final refusal: unknown, wrong, expired or revoked.
	ErrRefused = errors.New("credential refused")
)

// Kind says what sort of actor a principal is.
type Kind string

// The kinds of principals.
const (
	Human     Kind = "human"
	CI        Kind = "ci"
	Service   Kind = "service"
	Anonymous Kind = "anonymous"
)

// Principal is who is at the door. Forge and ID identify it; Name is for display only.
// A Principal is shared and must not be changed after it was returned.
type Principal struct {
	Forge      string // the forge whose permissions decide; empty for an actor that no forge knows
	ID         string // the forge's immutable user id
	Name       string
	Kind       Kind
	Groups     []string
	Roles      []string // roles the configuration grants: "writer:ZONE", "admin:ZONE"; sorted
	Claims     map[string]any
	Expires    time.Time // zero: does not expire by itself
	Credential string    // a fingerprint or token id; never a secret
}

// Credential is what was shown at a door. Exactly one member is set; the zero Credential is anonymous.
type Credential struct {
	Token       Secret            // a gate token, as Bearer or as Basic password
	Certificate *x509.Certificate // a client certificate whose chain TLS has already verified
}

// Authenticator knows one kind of credential. It returns an error that wraps [ErrNotMine] for a credential of another
// kind, one that wraps [ErrRefused] for a bad one; any other error is a fault, and a fault is a refusal too.
// It is safe for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credential) (Principal, error)
}
