// Package authn answers who asks: it turns what was shown at a door into a [Principal].
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	// ErrNotMine says that a credential is not of the kind an [Authenticator] knows; the next one is asked.
	ErrNotMine = errors.New("credential is of another kind")
	// ErrRefused is what every [Refusal] is.
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
	Review     bool      // CI of a ref that nobody protects, of a fork or of a pull request: it writes to review zones alone
	Expires    time.Time // zero: does not expire by itself
	Credential string    // a fingerprint or token id; never a secret
}

// Credential is what was shown at a door. Exactly one member is set; the zero Credential is anonymous.
type Credential struct {
	Token   Secret              // a gate token, as Bearer or as Basic password
	IDToken Secret              // an OpenID Connect ID token; doors take one only where it is exchanged for a gate token
	Chain   []*x509.Certificate // a client certificate and what TLS verified it by, the leaf first
	Key     *SSHKey             // an SSH key or user certificate
	Account *Login              // an account of the hash equivalence protocol
	Place   string              // nothing was shown: it came in by a listener that stands for somebody, and this is its name
}

// SSHKey is a public key, or a user certificate, that somebody showed, and where from. NewSSHKey makes it, and a gateway is asked for a
// session with it only once a handshake, or a signature over a challenge of the gate's, has proven the key. One that was made
// otherwise is refused.
type SSHKey struct {
	Public      ssh.PublicKey // an *ssh.Certificate when one was shown
	Fingerprint string        // of the key itself, also when it is certified: "SHA256:..." as ssh-keygen -l prints it
	Remote      netip.Addr    // options such as from= and source-address are held against it

	proven provenKey // what authenticators go by
}

// NewSSHKey returns what key was shown from remote. A certificate must not change any more.
func NewSSHKey(key ssh.PublicKey, remote netip.Addr) *SSHKey {
	k := &SSHKey{Public: key, Remote: remote.Unmap(), proven: prove(key)}
	k.Fingerprint = k.proven.fingerprint
	return k
}

// count says how many members are set.
func (c *Credential) count() int {
	n := 0
	for _, set := range [...]bool{!c.Token.IsZero(), !c.IDToken.IsZero(), len(c.Chain) > 0, c.Key != nil, c.Account != nil, c.Place != ""} {
		if set {
			n++
		}
	}
	return n
}

// Authenticator knows one kind of credential. It returns an error that wraps [ErrNotMine] for a credential of another
// kind, one that wraps [ErrRefused] for a bad one; any other error is a fault, and a fault is a refusal too.
// It is safe for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credential) (Principal, error)
}
