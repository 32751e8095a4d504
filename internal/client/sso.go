package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// SingleSignOn signs a person in at an OpenID provider once, and renews with the refresh token that the provider gave. That is kept in memory
// and nowhere else: who starts the program again signs in again. With Person.Stays the person is asked once, and again only by SignIn: what renews
// in the background must not open a browser in the night.
type SingleSignOn struct {
	Person Person
	// Flow asks the person: [Person].Code or [Person].Device. Nil: nobody can be asked, and what needs a person is an error that wraps
	// [ErrPerson].
	Flow func(context.Context) (Identity, error)

	mu   sync.Mutex // guards who; held over questions to the provider, since a refresh token may be good for one time
	who  Identity   // who signed in last; its ID token is zero once it was shown to the gate
	once bool       // somebody did
}

var _ TokenSource = (*SingleSignOn)(nil)

func (s *SingleSignOn) String() string {
	return "single sign-on at " + printable(s.Person.Issuer.Name) + ", " + printable(s.Person.Issuer.Issuer)
}

// SignIn asks the person, and keeps what comes of it for the next Token.
func (s *SingleSignOn) SignIn(ctx context.Context) (Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signIn(ctx)
}

// signIn is SignIn. The caller holds mu.
func (s *SingleSignOn) signIn(ctx context.Context) (Identity, error) {
	if s.Flow == nil {
		return Identity{}, fmt.Errorf("%w at %s: nobody can be asked here", ErrPerson, printable(s.Person.Issuer.Name))
	}
	who, err := s.Flow(ctx)
	if err != nil {
		return Identity{}, err
	}
	s.who, s.once = who, true
	return who, nil
}

// Token implements [TokenSource].
func (s *SingleSignOn) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.renew(ctx); err != nil {
		return gateway.TokenReply{}, err
	}
	idToken := s.who.IDToken
	s.who.IDToken = authn.Secret{} // it is good for one token, and the gate may have taken it when its answer is lost
	reply, err := c.As(idToken).Token(ctx, r)
	if isRefusal(err) {
		return reply, fmt.Errorf("%w\n%s", err, s.unmapped(c))
	}
	return reply, err
}

// renew sees to it that there is an ID token to show. The caller holds mu.
func (s *SingleSignOn) renew(ctx context.Context) error {
	if !s.who.IDToken.IsZero() {
		return nil
	}
	if s.once {
		next, err := s.Person.Again(ctx, s.who)
		if err == nil {
			s.who = next
			return nil
		}
		if !errors.Is(err, ErrPerson) || s.Flow == nil || s.Person.Stays {
			return err
		}
	}
	_, err := s.signIn(ctx)
	return err
}

// unmapped explains what can be done about somebody whom the gate does not know.
func (s *SingleSignOn) unmapped(c *Client) string {
	return fmt.Sprintf(`The gate may not know which user of the git server is subject %s of %s.
Tell it once, by showing both at the same time:
  lychgate login --gate %s --ssh
  lychgate login --gate %s --oidc --link
Where the gate has no ssh door, --ssh-agent in place of --ssh may do; else ask who runs it.`, printable(s.who.Subject), printable(s.who.Issuer), c.gate, c.gate)
}
