package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Tokens makes, lists and ends gate tokens. [authn.Tokens] is one.
type Tokens interface {
	Mint(ctx context.Context, o authn.Order) (authn.Secret, authn.TokenInfo, error)
	List(ctx context.Context) ([]authn.TokenInfo, error)
	Revoke(ctx context.Context, id string) error
	// Epoch counts how often all tokens of a principal were ended at once.
	Epoch(ctx context.Context, p authn.Principal) (uint64, error)
}

// Identities knows the subjects of identity providers. [authn.OIDC] is one.
type Identities interface {
	// Subject returns whom a person's ID token is about.
	Subject(ctx context.Context, token authn.Secret) (issuer, subject string, err error)
}

// Links keeps which user an identity provider's subject is.
type Links interface {
	// Link is done when it returns nil; a subject that is somebody else's is an error that wraps [authn.ErrLinked].
	Link(ctx context.Context, issuer, subject string, p authn.Principal) error
}

// TokenLife is how long the tokens live that principals make for themselves.
type TokenLife struct {
	Human time.Duration // of people and services
	CI    time.Duration
}

// Mint makes a token for the session's principal. It lives for ttl, or, when ttl is zero, for as long as the gate gives; it never
// outlives an SSH certificate or a client certificate that was shown. A gate token makes no other, or it would never end. An ID
// token, and a key's signature over a challenge, makes one, once.
func (s *Session) Mint(ctx context.Context, ttl time.Duration, note string) (authn.Secret, authn.TokenInfo, error) {
	secret, info, err := s.mint(ctx, ttl, note)
	if err != nil {
		return authn.Secret{}, authn.TokenInfo{}, err
	}
	e := s.event("token.create", newRequestID())
	e.Decision = audit.Decision{Verdict: "allow", FactAge: -1}
	e.Detail = fmt.Sprintf("%s, until %s", info.ID, info.Expires.Format(time.RFC3339))
	if err := s.record(e); err != nil {
		return authn.Secret{}, authn.TokenInfo{}, err
	}
	return secret, info, nil
}

func (s *Session) mint(ctx context.Context, ttl time.Duration, note string) (secret authn.Secret, info authn.TokenInfo, err error) {
	if !s.credential.Token.IsZero() {
		return secret, info, &RequestError{
			Status: http.StatusForbidden, Problem: "a gate token cannot make another",
			Hint: "show an SSH key, a client certificate or an ID token: lychgate login does",
		}
	}
	o := authn.Order{TTL: ttl, Note: note}
	if o.Epoch, err = s.gate.Tokens.Epoch(ctx, *s.principal); err != nil {
		return secret, info, unavailable("make a token", err)
	}
	// Asked again after the epoch was read: of two that happen at once, an end of all tokens wins over a new one.
	if err := s.identify(ctx); err != nil {
		return secret, info, s.gate.refuse(s.door, err)
	}
	o.Principal = *s.principal
	if o.TTL, err = s.tokenLife(ttl); err != nil {
		return secret, info, err
	}
	o.Once = s.once
	secret, info, err = s.gate.Tokens.Mint(ctx, o)
	switch {
	case errors.Is(err, authn.ErrRefused):
		return secret, info, s.gate.refuse(s.door, err)
	case errors.Is(err, authn.ErrBadOrder):
		return secret, info, &RequestError{Status: http.StatusBadRequest, Problem: "the note is not one line of at most 255 printable bytes", Hint: "shorten it"}
	case err != nil:
		return secret, info, unavailable("make a token", err)
	}
	return secret, info, nil
}

// tokenLife bounds how long a token of the session's principal lives.
func (s *Session) tokenLife(asked time.Duration) (time.Duration, error) {
	longest := s.gate.TokenLife.Human
	if s.principal.Kind == authn.CI {
		longest = s.gate.TokenLife.CI
	}
	if asked < 0 || asked > longest {
		return 0, &RequestError{Status: http.StatusBadRequest, Problem: fmt.Sprintf("a token may live for %v at most", longest), Hint: "ask for less, or leave it out"}
	}
	if asked == 0 {
		asked = longest
	}
	// An ID token is short-lived by design and only says who is there: what it buys may outlive it.
	if e := s.principal.Expires; !e.IsZero() && s.credential.IDToken.IsZero() {
		asked = min(asked, e.Sub(s.gate.Now()))
	}
	return asked, nil
}

// Tokens lists the principal's own tokens, oldest first.
func (s *Session) Tokens(ctx context.Context) ([]authn.TokenInfo, error) {
	all, err := s.gate.Tokens.List(ctx)
	if err != nil {
		return nil, unavailable("list tokens", err)
	}
	return slices.DeleteFunc(all, func(t authn.TokenInfo) bool {
		return t.Principal.Key() != s.owner() || !s.gate.Now().Before(t.Expires)
	}), nil
}

// CurrentToken names the token that was shown; "" when another credential was.
func (s *Session) CurrentToken() string {
	if s.credential.Token.IsZero() {
		return ""
	}
	return s.principal.Credential
}

// Revoke ends one of the principal's own tokens. Another's is ErrNotFound, as one that does not exist.
func (s *Session) Revoke(ctx context.Context, id string) error {
	own, err := s.Tokens(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(own, func(t authn.TokenInfo) bool { return t.ID == id }) {
		return ErrNotFound
	}
	e := s.event("token.revoke", newRequestID())
	e.Detail = id
	if err := s.record(e); err != nil {
		return err
	}
	err = s.gate.Tokens.Revoke(ctx, id)
	if err != nil && !errors.Is(err, authn.ErrNoToken) { // of two that revoke it, one comes late
		return unavailable("revoke a token", err)
	}
	return nil
}

// Link notes that the subject of an ID token is the session's principal, who can sign in with such tokens from then on. The principal
// must be a person whom a forge knows.
func (s *Session) Link(ctx context.Context, idToken authn.Secret) error {
	if s.principal.Kind != authn.Human || s.principal.Forge == "" || !s.credential.IDToken.IsZero() {
		return &RequestError{Status: http.StatusForbidden, Problem: "only a person whom a forge knows can link an identity", Hint: "sign in with an SSH key first: lychgate login --ssh"}
	}
	issuer, subject, err := s.gate.Identities.Subject(ctx, idToken)
	if errors.Is(err, authn.ErrRefused) {
		return errors.Join(&RequestError{Status: http.StatusUnprocessableEntity, Problem: "the ID token is refused", Hint: "sign in at the provider again"}, s.gate.refuse(s.door, err))
	}
	if err != nil {
		return unavailable("verify an ID token", err)
	}
	e := s.event("auth.link", newRequestID())
	e.Detail = fmt.Sprintf("subject %q of %s", subject, issuer)
	if err := s.record(e); err != nil {
		return err
	}
	err = s.gate.Links.Link(ctx, issuer, subject, *s.principal)
	if errors.Is(err, authn.ErrLinked) {
		return &RequestError{Status: http.StatusConflict, Problem: "the identity is linked with another user already", Hint: "ask the operator"}
	}
	if err != nil {
		return unavailable("link an identity", err)
	}
	return nil
}

// Explain says why the principal may or may not read the object at path. The whole answer is for those who administer the zone and its bases. Whoever may read
// the object is not told of sources that they may not read: of other statements, or of what it was built with. To others it is
// ErrNotFound, since it would tell them that the object is there.
func (s *Session) Explain(ctx context.Context, zone, path string) (*authz.Explanation, error) {
	z, err := s.zone(zone)
	if err != nil {
		return nil, err
	}
	ref, err := artifact.Parse(z.Zone, path)
	if err != nil {
		return nil, ErrNotFound
	}
	r := authz.Request{Action: authz.Read, Door: s.door.Name, Principal: s.principal, Ref: ref}
	x, err := s.gate.Authorizer.Explain(ctx, &r)
	if x == nil {
		return nil, unavailable("explain", err)
	}
	admin := s.administers(ctx, z.Name)
	e := s.event("explain", newRequestID())
	e.Action, e.Zone, e.Object.Path = string(authz.Read), z.Name, ref.Name()
	e.Decision = audit.Decision{Verdict: x.Verdict, Rule: x.Rule, Reasons: x.Reasons, Policy: x.Policy, FactAge: -1}
	if err := s.record(e); err != nil {
		return nil, err
	}
	switch {
	case admin:
		return x, nil
	case x.Verdict != authz.Allow.String():
		return nil, ErrNotFound
	}
	x.Claims = slices.DeleteFunc(x.Claims, func(c authz.ExplainedClaim) bool { return c.Verdict != authz.Allow.String() })
	for i := range x.Claims {
		x.Claims[i].Inputs = slices.DeleteFunc(x.Claims[i].Inputs, hidden)
	}
	return x, nil
}

// hidden reports whether the asker may not read a source.
func hidden(s authz.ExplainedSource) bool { return s.Access != forge.Read.String() }
