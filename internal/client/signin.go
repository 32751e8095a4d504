package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// Bounds of what signing in passes on.
const (
	maxIDToken = 16 << 10 // bytes; the gate takes no more
	tokenTime  = 30 * time.Second
)

// SignIn asks the gate how to sign in. It needs no credential. The gate must call itself resource, or the URL that the client
// was given when resource is empty (RFC 9728, section 3.3): a gate that names another one could else have the client
// sign in there and keep what the client got.
func (c *Client) SignIn(ctx context.Context, resource string) (gateway.SignIn, error) {
	const op = "ask how to sign in"
	var s gateway.SignIn
	err := c.anonymous().call(ctx, request{
		op: op, method: http.MethodGet, path: []string{".well-known", "oauth-protected-resource"}, within: tokenTime, into: &s,
	})
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return s, fmt.Errorf("%s: there is no gate at %s, or one that is older than this command", op, printable(c.gate))
	}
	if err != nil {
		return s, err
	}
	if resource == "" {
		resource = c.gate
	}
	if !sameURL(s.Resource, resource) {
		return s, fmt.Errorf("%s: the gate calls itself %s and you call it %s: use that URL as --gate, or, if this is the right gate, add --audience %s",
			op, printable(s.Resource), printable(resource), printable(s.Resource))
	}
	return s, nil
}

// anonymous returns a client of the same gate that shows no token.
func (c *Client) anonymous() *Client { return c.As(authn.Secret{}) }

// As returns a client of the same gate, with the same connections, that shows another token.
func (c *Client) As(token authn.Secret) *Client {
	other := *c
	other.token = token
	return &other
}

// Host returns the gate's host name, without port: a .netrc knows it by that.
func (c *Client) Host() string { return strings.ToLower(c.base.Hostname()) }

// MirrorURL returns where objects of a zone are.
func (c *Client) MirrorURL(zone string) string {
	return c.base.JoinPath(append(slices.Clone(c.mount), zone)...).String()
}

// sameURL compares two addresses of gates as RFC 3986, section 6.2.3 does.
func sameURL(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	return errX == nil && errY == nil && x.Host != "" && normalURL(x) == normalURL(y)
}

func normalURL(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	return strings.ToLower(u.Scheme) + "://" + host + strings.TrimSuffix(u.Path, "/") + "?" + u.RawQuery
}

// Token makes a gate token for whom the client's credential stands for: an ID token, which is good for one, or a client certificate.
// It is tried once: an answer that is lost may have used an ID token up, and to show it again would be a replay.
func (c *Client) Token(ctx context.Context, r gateway.TokenRequest) (gateway.TokenReply, error) {
	var t gateway.TokenReply
	if r.Seconds < 0 {
		return t, errors.New("make a token: it cannot live for less than no time")
	}
	err := c.send(ctx, request{op: "make a token", method: http.MethodPost, path: []string{"v1", "token"}, send: r, within: tokenTime, into: &t})
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized && refused.Hint == "" {
		refused.Hint = "what was shown to it is not good there, or not any more"
	}
	if err != nil {
		return gateway.TokenReply{}, err
	}
	return t, checkReply(t)
}

// checkReply looks whether the gate's answer can be a token at all, since it is written to files.
func checkReply(t gateway.TokenReply) error {
	if !IsGateToken(authn.NewSecret(t.Token)) || t.ID == "" || t.User == "" {
		return errors.New("make a token: the gate's answer holds no token (is the client older than the gate?)")
	}
	if _, err := time.Parse(time.RFC3339, t.Expires); err != nil {
		return fmt.Errorf("make a token: the gate's answer does not say until when: %w", err)
	}
	return nil
}

// IsGateToken reports whether a secret has the form of a gate token. What else may be a password is not for a gate to see.
func IsGateToken(s authn.Secret) bool {
	text := s.Reveal()
	return strings.HasPrefix(text, "lyg_") && isPlainWord(text)
}

// Tokens lists the asker's own tokens, oldest first.
func (c *Client) Tokens(ctx context.Context) ([]gateway.TokenStatus, error) {
	var l gateway.TokenList
	err := c.call(ctx, request{op: "list tokens", method: http.MethodGet, path: []string{"v1", "tokens"}, into: &l})
	return l.Tokens, err
}

// RevokeToken ends one of the asker's own tokens; "current" is the one that the client shows.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, request{op: "revoke a token", method: http.MethodDelete, path: []string{"v1", "tokens", id}, within: tokenTime})
}

// Link ties the subject of an ID token to whom the client's credential stands for. The ID token can still be exchanged afterwards.
func (c *Client) Link(ctx context.Context, idToken authn.Secret) error {
	return c.send(ctx, request{
		op: "link the account", method: http.MethodPost, path: []string{"v1", "link"}, send: gateway.LinkRequest{IDToken: idToken.Reveal()}, within: tokenTime,
	})
}

// Revoke ends what a user, key or token may do, at every node, for an administrator. Asked twice it does no more.
func (c *Client) Revoke(ctx context.Context, r gateway.RevokeRequest) (gateway.RevokeReply, error) {
	var reply gateway.RevokeReply
	err := c.call(ctx, request{op: "revoke", method: http.MethodPost, path: []string{"v1", "revoke"}, send: r, into: &reply, within: tokenTime})
	return reply, err
}

// Invalidate makes the gate ask git servers again, for an administrator.
func (c *Client) Invalidate(ctx context.Context, r gateway.InvalidateRequest) error {
	return c.call(ctx, request{op: "invalidate", method: http.MethodPost, path: []string{"v1", "invalidate"}, send: r, within: tokenTime})
}
