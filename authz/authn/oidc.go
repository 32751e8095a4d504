package authn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// tokenLeeway is how far the clocks of an issuer and the gate may be apart.
const tokenLeeway = 30 * time.Second

// defaultTokenLife is the longest life of an ID token that is accepted when the configuration does not say.
const defaultTokenLife = 24 * time.Hour

// Issuer is a provider of ID tokens that is trusted: for people, for CI jobs, or for both. Which of the two a token is for is
// told by its audience.
type Issuer struct {
	URL    string // the issuer's name, exactly as in the iss of its tokens
	Keys   KeyFetch
	People *PeopleMapping // nil: no people
	// Audience is what the tokens of CI jobs are made for: a URI of this gate. Required with CI, and other than the people's
	// ClientID.
	Audience string
	CI       []CIRule // none: no CI
	// AllowOtherAudiences accepts tokens that are for others too, if their azp says that they were issued to us. Else a
	// token has one audience: who else it is for could use it here.
	AllowOtherAudiences bool
	// MaxLife is how far exp may be after iat; zero is 24 h.
	MaxLife time.Duration
	// Claims are shown to policies beside the usual ones, when a token holds them.
	Claims []string
}

// OIDCConfig is what [NewOIDC] needs.
type OIDCConfig struct {
	Issuers   []Issuer
	Directory Directory        // may be nil: then no rule that asks it finds anybody
	Links     Links            // may be nil
	Now       func() time.Time // nil is time.Now
}

// OIDC recognises ID tokens (OpenID Connect Core 1.0 section 2). It does not remember which it has seen: whoever exchanges them
// for something that lasts longer burns them by [IDTokenDigest]. It is safe for concurrent use.
type OIDC struct {
	issuers map[string]*issuer
	now     func() time.Time
}

// issuer is an Issuer that was checked.
type issuer struct {
	url      string
	keys     *KeySet
	people   *people // may be nil
	audience string  // of CI; empty: none
	rules    []ciRule
	others   bool
	maxLife  time.Duration
	claims   []string
	now      func() time.Time
}

var _ Authenticator = (*OIDC)(nil)

// NewOIDC checks cfg. It asks no issuer anything. No issuers is legal: then every ID token is refused.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	o := &OIDC{issuers: make(map[string]*issuer), now: cfg.Now}
	if o.now == nil {
		o.now = time.Now
	}
	for _, i := range cfg.Issuers {
		if _, twice := o.issuers[i.URL]; twice {
			return nil, fmt.Errorf("issuer %q is configured twice", i.URL)
		}
		compiled, err := compileIssuer(i, cfg, o.now)
		if err != nil {
			return nil, err
		}
		o.issuers[i.URL] = compiled
	}
	return o, nil
}

func compileIssuer(i Issuer, cfg OIDCConfig, now func() time.Time) (*issuer, error) {
	keys, err := NewKeySet(i.URL, i.Keys, now)
	if err != nil {
		return nil, err
	}
	c := &issuer{
		url: i.URL, keys: keys, audience: i.Audience, others: i.AllowOtherAudiences, maxLife: i.MaxLife,
		claims: slices.Concat(shownClaims(), i.Claims), now: now,
	}
	if c.maxLife == 0 {
		c.maxLife = defaultTokenLife
	}
	if err := c.complete(i, cfg); err != nil {
		return nil, fmt.Errorf("issuer %s: %w", i.URL, err)
	}
	return c, nil
}

func (c *issuer) complete(i Issuer, cfg OIDCConfig) (err error) {
	switch {
	case i.People == nil && len(i.CI) == 0:
		return errors.New("has neither people nor CI rules: nobody could sign in by it")
	case len(i.CI) > 0 && i.Audience == "":
		return errors.New("has CI rules and no audience: name a URI of this gate")
	case len(i.CI) == 0 && i.Audience != "":
		return errors.New("has an audience for CI and no CI rules")
	case i.People != nil && i.People.ClientID == i.Audience:
		return errors.New("people's client id is CI's audience: they must differ, for a job may ask for any audience")
	case c.maxLife < 0:
		return errors.New("longest life of a token is negative")
	}
	if i.People != nil {
		if c.people, err = compilePeople(*i.People, i.URL, cfg); err != nil {
			return fmt.Errorf("people: %w", err)
		}
	}
	for n, rule := range i.CI {
		compiled, err := compileCIRule(rule)
		if err != nil {
			return fmt.Errorf("CI rule %d: %w", n+1, err)
		}
		c.rules = append(c.rules, compiled)
	}
	return nil
}

// shownClaims are what policies may find in a principal's claims without configuration: who it is, and what GitLab and GitHub
// say of a job.
func shownClaims() []string {
	return []string{
		"iss", "sub",
		"project_id", "project_path", "namespace_id", "namespace_path", "user_id", "user_login", "pipeline_id", "pipeline_source", "job_id",
		"ref", "ref_type", "ref_path", "ref_protected", "environment", "environment_protected", "deployment_tier", "runner_id",
		"runner_environment", "sha", "ci_config_ref_uri",
		"repository", "repository_id", "repository_owner", "repository_owner_id", "repository_visibility", "event_name", "workflow_ref",
		"job_workflow_ref", "run_id", "run_attempt", "actor_id", "head_ref", "base_ref",
	}
}

// Authenticate returns whom an ID token makes its bearer. The principal's Credential is "oidc:" and the first 16 hex digits of
// [IDTokenDigest], and its Expires the token's. An error that wraps [ErrKeysUnavailable], or comes from the directory or the
// links, is a fault: nothing was learnt of the token.
func (o *OIDC) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.IDToken.IsZero() {
		return Principal{}, ErrNotMine
	}
	digest := IDTokenDigest(c.IDToken)
	name := "oidc:" + hex.EncodeToString(digest[:8])
	text := c.IDToken.Reveal()
	token, err := parseIDToken(text)
	if err != nil {
		return Principal{}, refuse(BadIDToken, name, "%v", err)
	}
	by, ok := o.issuers[token.issuer]
	if !ok {
		return Principal{}, refuse(BadIDToken, name, "no issuer %q is configured", token.issuer)
	}
	// What costs nothing is checked first, so that only tokens that could be good ask for keys.
	audience, err := by.check(token)
	if err != nil {
		return Principal{}, refuse(BadIDToken, name, "%s: %v", by.url, err)
	}
	if err := by.verify(ctx, text, audience); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return Principal{}, fmt.Errorf("verify ID token: %w", err)
		}
		return Principal{}, refuse(BadIDToken, name, "%s: %v", by.url, err)
	}
	return by.principal(ctx, token, audience, name)
}

// check looks at the claims that any ID token for us must have, and returns the audience of ours that it names.
func (c *issuer) check(t *idToken) (audience string, err error) {
	now := c.now()
	late, early := now.Add(-tokenLeeway).Unix(), now.Add(tokenLeeway).Unix()
	switch {
	case t.expires <= late:
		return "", fmt.Errorf("expired at %s", stamp(t.expires))
	case t.issued > early:
		return "", fmt.Errorf("issued at %s, which is still to come: do the clocks agree?", stamp(t.issued))
	case t.notBefore > early:
		return "", fmt.Errorf("not valid before %s", stamp(t.notBefore))
	case t.expires <= t.issued || t.expires-t.issued > int64(c.maxLife/time.Second):
		return "", fmt.Errorf("lives from %s to %s: want at most %v", stamp(t.issued), stamp(t.expires), c.maxLife)
	}
	return c.checkAudience(t)
}

func stamp(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

func (c *issuer) checkAudience(t *idToken) (ours string, err error) {
	for _, audience := range t.audience {
		if !c.isOurs(audience) {
			continue
		}
		if ours != "" {
			return "", errors.New("names two audiences of ours, or one twice")
		}
		ours = audience
	}
	switch {
	case ours == "":
		return "", fmt.Errorf("is for %.200q, not for this gate", strings.Join(t.audience, " "))
	case t.authorized != "" && t.authorized != ours:
		return "", fmt.Errorf("was issued to %q (azp)", t.authorized)
	case len(t.audience) == 1:
		return ours, nil
	case !c.others:
		return "", fmt.Errorf("is for %d audiences, want this gate alone", len(t.audience))
	case t.authorized == "":
		return "", errors.New("is for several audiences and does not say to whom it was issued (azp)")
	}
	return ours, nil
}

func (c *issuer) isOurs(audience string) bool {
	return audience != "" && (audience == c.audience || c.people != nil && audience == c.people.ClientID)
}

// keepError keeps what a KeySet said: the verifier prints its error into another, and whether it was a fault is lost.
type keepError struct {
	keys *KeySet
	err  error
}

func (k *keepError) VerifySignature(ctx context.Context, text string) (payload []byte, err error) {
	payload, k.err = k.keys.VerifySignature(ctx, text)
	return payload, k.err
}

// verify has the signature checked, and the claims a second time by the library's reading.
func (c *issuer) verify(ctx context.Context, text, audience string) error {
	keys := &keepError{keys: c.keys}
	_, err := oidc.NewVerifier(c.url, keys, &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: signingAlgs(),
		Now:                  func() time.Time { return c.now().Add(-tokenLeeway) }, // the library gives exp no leeway
	}).Verify(ctx, text)
	if keys.err != nil {
		return keys.err
	}
	return err
}

// principal maps a token that is proven.
func (c *issuer) principal(ctx context.Context, t *idToken, audience, name string) (p Principal, err error) {
	if audience == c.audience {
		p, err = c.matchCI(t, name)
	} else {
		p, err = c.people.find(ctx, t, name)
	}
	if err != nil {
		return Principal{}, err
	}
	if p.Claims, err = t.claims.expose(c.claims); err != nil {
		return Principal{}, refuse(BadIDToken, name, "%s: claim %v", c.url, err)
	}
	if expires := time.Unix(t.expires, 0); p.Expires.IsZero() || expires.Before(p.Expires) {
		p.Expires = expires
	}
	p.Credential = name
	if err := p.Validate(); err != nil {
		return Principal{}, refuse(UnmappedIdentity, name, "subject %q of %s: %v", t.subject, c.url, err)
	}
	return p, nil
}
