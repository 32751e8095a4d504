package client

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/lychgate/lychgate/gateway"
)

// TokenSource is a way to sign in: it gets a gate token for something that somebody has. It is asked again for each token, and is safe for
// concurrent use.
type TokenSource interface {
	// Token has the gate that c talks to make a token. The token that c shows, if any, is not used.
	Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error)
	// String names the way, to follow "signing in with".
	String() string
}

// ErrNoKey is wrapped when there is no SSH key that the gate takes: another way may do.
var ErrNoKey = errors.New("no SSH key that the gate takes")

// ErrPerson is wrapped when a source needs somebody to sign in by hand, once.
var ErrPerson = errors.New("somebody has to sign in")

// ClientCertificate signs in with the certificate that a Client shows, see [Config].CertFile. Each time it connects anew: a connection stands for
// the certificate that it began with.
type ClientCertificate struct {
	Name string // of its file
}

var _ TokenSource = ClientCertificate{}

// Token implements [TokenSource].
func (ClientCertificate) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	return c.anonymous().onNewConnection().Token(ctx, r)
}

func (s ClientCertificate) String() string { return "the client certificate " + printable(s.Name) }

// keysElse signs in with SSH keys, and with another source where the gate takes none of them. Which it was is remembered, so that keys that
// are not known are not shown again and again.
type keysElse struct {
	keys  *SSHKeys
	other TokenSource
	say   func(string)

	mu       sync.Mutex // guards useOther
	useOther bool
}

// Token implements [TokenSource].
func (s *keysElse) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	if s.current() == s.other {
		return s.other.Token(ctx, c, r)
	}
	reply, err := s.keys.Token(ctx, c, r)
	if !errors.Is(err, ErrNoKey) {
		return reply, err
	}
	s.say(err.Error() + "; signing in with " + s.other.String())
	if reply, err = s.other.Token(ctx, c, r); err == nil {
		s.mu.Lock()
		s.useOther = true
		s.mu.Unlock()
	}
	return reply, err
}

func (s *keysElse) current() TokenSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.useOther {
		return s.other
	}
	return s.keys
}

func (s *keysElse) String() string { return s.current().String() }

// isRefusal reports whether the gate refused what was shown to it.
func isRefusal(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Status == http.StatusUnauthorized
}
