package authn

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// CertificateRule says who shows a client certificate. At least one of URI and SPKI is set; when both are, both must hold.
// The common name is never looked at.
type CertificateRule struct {
	// URI is matched against the certificate's URI subject alternative names, segment by segment. A path segment may
	// hold one `*`, which stands for one or more characters of that segment: "spiffe://ci.example.com/job/*/runner-*".
	// Scheme and host are literal.
	//
	// Instead of stars, one whole segment may be "{id}" or "{name}": it stands for the id, or the present name, of a user of
	// Principal.Forge, in letters, digits, '.', '_' and '-': "spiffe://example.com/user/{name}".
	URI string
	// SPKI pins the key: the SHA-256 of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) as 64 hex digits, with or
	// without "sha256:" before them.
	SPKI string
	// Principal is who it is. With "{id}" the certificate says ID, and Name is that too. With "{name}" the directory says both,
	// and Kind unless it is given here.
	Principal Principal
}

// ErrRevoked is wrapped by what a [RevocationChecker] returns for a chain with a certificate that was revoked.
var ErrRevoked = errors.New("revoked")

// RevocationChecker knows which certificates were revoked before their end. It answers from memory, on the path of every
// request, and is safe for concurrent use.
type RevocationChecker interface {
	// CheckRevoked returns nil for a verified chain, the leaf first, of which no certificate is revoked; an error that wraps
	// ErrRevoked when one is; and any other error when that cannot be told now, which is a refusal too.
	CheckRevoked(chain []*x509.Certificate) error
}

// CertificatesConfig is what [NewCertificates] needs.
type CertificatesConfig struct {
	Rules []CertificateRule
	// Revoked is asked for every request, for a connection outlives a revocation. Nil: nothing is ever revoked.
	Revoked RevocationChecker
	// Directory finds users by name. Required by a rule with "{name}", else not used.
	Directory Directory
	Now       func() time.Time // nil is time.Now
}

// Certificates recognises client certificates whose chain TLS has verified. It is immutable and safe for concurrent use.
type Certificates struct {
	rules     []certificateRule
	revoked   RevocationChecker // may be nil
	directory Directory         // not nil when a rule asks for a name
	now       func() time.Time
}

type certificateRule struct {
	uri       *uriPattern // nil: any
	spki      *[32]byte   // nil: any
	principal Principal
}

var _ Authenticator = (*Certificates)(nil)

// NewCertificates checks and compiles the rules. No rules is legal: then every certificate is refused.
func NewCertificates(cfg CertificatesConfig) (*Certificates, error) {
	c := &Certificates{revoked: cfg.Revoked, directory: cfg.Directory, now: cfg.Now}
	if c.now == nil {
		c.now = time.Now
	}
	for i, rule := range cfg.Rules {
		compiled, err := compileRule(rule)
		if err != nil {
			return nil, fmt.Errorf("certificate rule %d: %w", i+1, err)
		}
		if compiled.placeholder() == NamePlaceholder && cfg.Directory == nil {
			return nil, fmt.Errorf("certificate rule %d: looks users up by name, and there is no directory of them", i+1)
		}
		c.rules = append(c.rules, compiled)
	}
	return c, nil
}

func compileRule(rule CertificateRule) (c certificateRule, err error) {
	if rule.URI == "" && rule.SPKI == "" {
		return c, errors.New("has neither uri nor spki, and would match every certificate: set one")
	}
	c.principal = rule.Principal
	if rule.URI != "" {
		if c.uri, err = parseURIPattern(rule.URI); err != nil {
			return c, fmt.Errorf("uri %q: %w", rule.URI, err)
		}
	}
	if err := c.checkPrincipal(); err != nil {
		return c, err
	}
	if rule.SPKI != "" {
		if c.spki, err = parsePin(rule.SPKI); err != nil {
			return c, fmt.Errorf("spki %q: %w", rule.SPKI, err)
		}
	}
	return c, nil
}

// placeholder returns the placeholder of the rule's pattern, or "".
func (r *certificateRule) placeholder() string {
	if r.uri == nil {
		return ""
	}
	return r.uri.placeholder
}

// checkPrincipal looks at what the rule itself says of the principal.
func (r *certificateRule) checkPrincipal() error {
	p, placeholder := r.principal, r.placeholder()
	switch {
	case p.Kind == Anonymous:
		return errors.New("names an anonymous principal: name somebody")
	case placeholder == "":
		return p.Validate()
	case p.ID != "" || p.Name != "":
		return fmt.Errorf("says both %s and who it is: leave the id and the name out", placeholder)
	case p.Forge == "":
		return fmt.Errorf("has %s and no forge whose user that is", placeholder)
	}
	p.ID = placeholder // whatever a certificate says in its place is as printable
	if p.Kind == "" && placeholder == NamePlaceholder {
		p.Kind = Human // until the directory says it
	}
	return p.Validate()
}

func parsePin(text string) (*[32]byte, error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(text, "sha256:"))
	if err != nil || len(raw) != sha256.Size {
		return nil, errors.New("want the 64 hex digits of a SHA-256")
	}
	return (*[32]byte)(raw), nil
}

// Authenticate returns the principal of the one rule that matches. None, more than one, and a name that nobody bears are
// refusals; so is a chain that is revoked, or of which that cannot be told. The principal's Credential is "x509:" and the
// SHA-256 of the certificate in hex, and its Expires the certificate's.
func (c *Certificates) Authenticate(ctx context.Context, cred Credential) (Principal, error) {
	if len(cred.Chain) == 0 {
		return Principal{}, ErrNotMine
	}
	cert := cred.Chain[0]
	fingerprint := sha256.Sum256(cert.Raw)
	name := "x509:" + hex.EncodeToString(fingerprint[:])
	if err := c.checkLeaf(cert); err != nil {
		return Principal{}, refuse(CertificateUnfit, name, "%v", err)
	}
	if err := c.checkRevoked(cred.Chain, name); err != nil {
		return Principal{}, err
	}
	rule, said, err := c.match(cert)
	if err != nil {
		return Principal{}, refuse(CertificateUnfit, name, "%v", err)
	}
	p, err := c.principal(ctx, rule, said, name)
	if err != nil {
		return Principal{}, err
	}
	p.Credential = name
	if p.Expires.IsZero() || cert.NotAfter.Before(p.Expires) {
		p.Expires = cert.NotAfter
	}
	if !c.now().Before(p.Expires) {
		return Principal{}, refuse(CertificateUnfit, name, "its rule expired at %s", p.Expires.UTC().Format(time.RFC3339))
	}
	return p, nil
}

func (c *Certificates) checkRevoked(chain []*x509.Certificate, name string) error {
	if c.revoked == nil {
		return nil
	}
	switch err := c.revoked.CheckRevoked(chain); {
	case err == nil:
		return nil
	case errors.Is(err, ErrRevoked):
		return refuse(RevokedCredential, name, "%v", err)
	default:
		return refuse(RevocationUnknown, name, "whether it is revoked cannot be told: %v", err)
	}
}

// principal returns the rule's principal, or the one that the certificate said in the place of the rule's placeholder.
func (c *Certificates) principal(ctx context.Context, rule *certificateRule, said, name string) (Principal, error) {
	p := rule.principal
	switch rule.placeholder() {
	case IDPlaceholder:
		p.ID, p.Name = said, said
	case NamePlaceholder:
		user, err := c.directory.ByName(ctx, p.Forge, said)
		if errors.Is(err, ErrNobody) {
			return p, refuse(CertificateUnfit, name, "nobody at %q bears the name %q now", p.Forge, said)
		}
		if err != nil {
			return p, fmt.Errorf("look up the user %q of a certificate: %w", said, err)
		}
		p.Forge, p.ID, p.Name = user.Forge, user.ID, user.Name
		if p.Kind == "" {
			p.Kind = user.Kind
		}
	}
	return p, nil
}

// checkLeaf asks again what TLS asked at the handshake, for a connection may outlive it, and what TLS does not
// ask: a certificate without extended key usages passes there.
func (c *Certificates) checkLeaf(cert *x509.Certificate) error {
	now := c.now()
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("not valid before %s", cert.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(cert.NotAfter):
		return fmt.Errorf("expired at %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case cert.IsCA:
		return errors.New("is a certificate authority's")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return errors.New("is not for client authentication (extended key usage)")
	}
	return nil
}

// match returns the one rule that matches, and what the certificate says in the place of its placeholder.
func (c *Certificates) match(cert *x509.Certificate) (found *certificateRule, said string, err error) {
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	for i := range c.rules {
		rule := &c.rules[i]
		if rule.spki != nil && *rule.spki != spki {
			continue
		}
		matches, text, err := rule.matchURIs(cert.URIs)
		if err != nil {
			return nil, "", err
		}
		if !matches {
			continue
		}
		if found != nil {
			return nil, "", errors.New("more than one rule matches")
		}
		found, said = rule, text
	}
	if found == nil {
		return nil, "", errors.New("no rule matches")
	}
	return found, said, nil
}

// matchURIs reports whether one of the names matches, and what stands in the place of the placeholder. Two names that say
// different things there are an error: which of them counts is nobody's guess to make.
func (r *certificateRule) matchURIs(uris []*url.URL) (matches bool, said string, err error) {
	if r.uri == nil {
		return true, "", nil
	}
	for _, u := range uris {
		text, ok := r.uri.match(u)
		if !ok {
			continue
		}
		if matches && text != said {
			return false, "", errors.New("two of its names match one rule")
		}
		matches, said = true, text
	}
	return matches, said, nil
}

// The placeholders of a pattern.
const (
	IDPlaceholder   = "{id}"
	NamePlaceholder = "{name}"
)

// URIPlaceholder returns the placeholder that the URI of a [CertificateRule] holds, or "" for none. Its error says why the
// text is no such URI.
func URIPlaceholder(pattern string) (string, error) {
	p, err := parseURIPattern(pattern)
	if err != nil {
		return "", err
	}
	return p.placeholder, nil
}

// uriPattern is a URI in plain form whose path segments may hold a `*` each, or one of them a placeholder.
type uriPattern struct {
	scheme, host string
	segments     []string
	placeholder  string // the segment that is one, or ""
}

// parseURIPattern accepts the plain form only, in which a URI has one spelling.
func parseURIPattern(text string) (*uriPattern, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("is not a URI")
	}
	if u.Scheme == "" || u.Host == "" {
		return nil, errors.New("want SCHEME://HOST/PATH")
	}
	scheme, host, segments, err := plainURI(u, plainChars+"*{}")
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(host, "*{}") {
		return nil, errors.New("a * or a placeholder may stand in the path only")
	}
	p := &uriPattern{scheme: scheme, host: host, segments: segments}
	return p, p.checkSegments()
}

func (p *uriPattern) checkSegments() error {
	stars := false
	for _, segment := range p.segments {
		stars = stars || strings.Contains(segment, "*")
		switch {
		case strings.Count(segment, "*") > 1:
			return fmt.Errorf("segment %q holds more than one *", segment)
		case !strings.ContainsAny(segment, "{}"):
		case segment != IDPlaceholder && segment != NamePlaceholder:
			return fmt.Errorf("segment %q is no placeholder: known are %s and %s, as a whole segment", segment, IDPlaceholder, NamePlaceholder)
		case p.placeholder != "":
			return errors.New("holds more than one placeholder")
		default:
			p.placeholder = segment
		}
	}
	if stars && p.placeholder != "" {
		return errors.New("holds both a * and a placeholder")
	}
	return nil
}

// plainChars may stand in a path as they are (RFC 3986 section 3.3).
const plainChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()+,;=:@/"

// plainURI takes a URI apart, or says why it has no plain form. Two certificates whose names differ must not
// meet here, so whatever would need normalising is refused.
func plainURI(u *url.URL, chars string) (scheme, host string, segments []string, err error) {
	if u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", "", nil, errors.New("holds more than scheme, host and path")
	}
	foreign := func(r rune) bool { return !strings.ContainsRune(chars, r) }
	if strings.ContainsFunc(u.Path, foreign) || u.RawPath != "" && u.RawPath != u.Path {
		return "", "", nil, errors.New("holds a character that needs escaping")
	}
	if path := strings.TrimPrefix(u.Path, "/"); path != "" {
		segments = strings.Split(path, "/")
	}
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." {
			return "", "", nil, errors.New("holds an empty or dot segment")
		}
	}
	return strings.ToLower(u.Scheme), strings.ToLower(u.Host), segments, nil
}

// match also returns what stands in the place of the placeholder.
func (p *uriPattern) match(u *url.URL) (said string, ok bool) {
	scheme, host, segments, err := plainURI(u, plainChars)
	if err != nil || scheme != p.scheme || host != p.host || len(segments) != len(p.segments) {
		return "", false
	}
	for i, segment := range segments {
		switch {
		case p.placeholder != "" && p.segments[i] == p.placeholder:
			if said, ok = segment, plainName(segment); !ok {
				return "", false
			}
		case !matchSegment(p.segments[i], segment):
			return "", false
		}
	}
	return said, true
}

// plainName accepts what ids and names of users are made of at every forge.
func plainName(text string) bool {
	foreign := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	return text != "" && len(text) <= maxText && !strings.ContainsFunc(text, foreign)
}

// matchSegment: the star stands for at least one character.
func matchSegment(pattern, segment string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == segment
	}
	return len(segment) > len(before)+len(after) && strings.HasPrefix(segment, before) && strings.HasSuffix(segment, after)
}
