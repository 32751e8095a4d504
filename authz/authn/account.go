package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Login is what a client of the hash equivalence protocol shows: an account of a zone, and its token.
type Login struct {
	Zone, Name string
	Token      Secret
}

// Account is a login for programs that speak the hash equivalence protocol. It acts for the principal who made it, with fewer rights: what
// that principal may do now, as far as the account's permissions go. So an account never widens what anybody may do.
type Account struct {
	Zone, Name  string
	Permissions []string // of the protocol: "@read", "@report", "@db-admin", "@user-admin"; sorted
	Token       [32]byte // SHA-256 of the token, which is long and random
	Principal   Principal
	Epoch       uint64 // of Principal's tokens when it was made: to end them all ends the account too
	Created     time.Time
}

var (
	// ErrNoAccount is wrapped when an account does not exist.
	ErrNoAccount = errors.New("no such account")
	// ErrAccountExists is wrapped when an account of that name exists.
	ErrAccountExists = errors.New("the account exists")
)

// AccountStore keeps accounts. It is safe for concurrent use.
type AccountStore interface {
	// Account returns one account, or an error that wraps [ErrNoAccount].
	Account(ctx context.Context, zone, name string) (Account, error)
}

// Accounts authenticates logins. It is an [Authenticator].
type Accounts struct {
	Store AccountStore
	// Epoch counts how often all tokens of a principal were ended at once; [Tokens].Epoch is one.
	Epoch func(ctx context.Context, p Principal) (uint64, error)
}

// Authenticate returns who made the account whose token was shown.
func (a Accounts) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Account == nil || c.count() != 1 {
		return Principal{}, ErrNotMine
	}
	held, err := a.Store.Account(ctx, c.Account.Zone, c.Account.Name)
	if err != nil && !errors.Is(err, ErrNoAccount) {
		return Principal{}, fmt.Errorf("look up an account: %w", err)
	}
	subject := "account " + c.Account.Zone + "/" + c.Account.Name
	sum := AccountToken(c.Account.Token)
	// Compared also when there is no account, whose token is all zeros and no digest.
	if same := subtle.ConstantTimeCompare(sum[:], held.Token[:]) == 1; !same || err != nil {
		return Principal{}, refuse(UnknownAccount, subject, "it does not exist, or its token is another")
	}
	epoch, err := a.Epoch(ctx, held.Principal)
	if err != nil {
		return Principal{}, fmt.Errorf("look up an account: %w", err)
	}
	if epoch != held.Epoch {
		return Principal{}, refuse(EndedEpoch, subject, "all credentials of who made it were ended")
	}
	p := held.Principal
	p.Credential = "account:" + held.Zone + "/" + held.Name
	return p, nil
}

// AccountToken is how an account's token is kept.
func AccountToken(token Secret) [32]byte { return sha256.Sum256([]byte(token.Reveal())) }

// accountPrefix begins the token of an account, which tells it from a gate token.
const accountPrefix = "lya_"

// NewAccountToken returns 64 characters that cannot be guessed, without any that a shell or a URL would mind.
func NewAccountToken() Secret {
	raw := make([]byte, 45)
	rand.Read(raw)
	return NewSecret(accountPrefix + base64.RawURLEncoding.EncodeToString(raw))
}

// IsAccountToken reports whether a token is that of an account, by its looks.
func IsAccountToken(token Secret) bool { return strings.HasPrefix(token.Reveal(), accountPrefix) }

// Places knows the listeners that stand for somebody: who can reach one is that principal. It is an [Authenticator].
type Places map[string]Principal

// Authenticate returns whom the listener stands for.
func (p Places) Authenticate(_ context.Context, c Credential) (Principal, error) {
	if c.Place == "" || c.count() != 1 {
		return Principal{}, ErrNotMine
	}
	who, ok := p[c.Place]
	if !ok {
		return Principal{}, refuse(BadCredential, "listener "+c.Place, "it stands for nobody")
	}
	who.Credential = "listener:" + c.Place
	return who, nil
}
