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
	URI string
	// SPKI pins the key: the SHA-256 of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) as 64 hex digits, with or
	// without "sha256:" before them.
	SPKI      string
	Principal Principal
}

// CertificatesConfig is what [NewCertificates] needs.
type CertificatesConfig struct {
	Rules []CertificateRule
	Now   func() time.Time // nil is time.Now
}

// Certificates recognises client certificates whose chain TLS has verified. It is immutable and safe for concurrent use.
type Certificates struct {
	rules []certificateRule
	now   func() time.Time
}

type certificateRule struct {
	uri       *uriPattern // nil: any
	spki      *[32]byte   // nil: any
	principal Principal
}

var _ Authenticator = (*Certificates)(nil)

// NewCertificates checks and compiles the rules. No rules is legal: then every certificate is refused.
func NewCertificates(cfg CertificatesConfig) (*Certificates, error) {
	c := &Certificates{now: cfg.Now}
	if c.now == nil {
		c.now = time.Now
	}
	for i, rule := range cfg.Rules {
		compiled, err := compileRule(rule)
		if err != nil {
			return nil, fmt.Errorf("certificate rule %d: %w", i+1, err)
		}
		c.rules = append(c.rules, compiled)
	}
	return c, nil
}

func compileRule(rule CertificateRule) (c certificateRule, err error) {
	if rule.URI == "" && rule.SPKI == "" {
		return c, errors.New("has neither uri nor spki, and would match every certificate: set one")
	}
	if err := rule.Principal.Validate(); err != nil {
		return c, err
	}
	if rule.Principal.Kind == Anonymous {
		return c, errors.New("names an anonymous principal: name somebody")
	}
	c.principal = rule.Principal
	if rule.URI != "" {
		if c.uri, err = parseURIPattern(rule.URI); err != nil {
			return c, fmt.Errorf("uri %q: %w", rule.URI, err)
		}
	}
	if rule.SPKI != "" {
		if c.spki, err = parsePin(rule.SPKI); err != nil {
			return c, fmt.Errorf("spki %q: %w", rule.SPKI, err)
		}
	}
	return c, nil
}

func parsePin(text string) (*[32]byte, error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(text, "sha256:"))
	if err != nil || len(raw) != sha256.Size {
		return nil, errors.New("want the 64 hex digits of a SHA-256")
	}
	return (*[32]byte)(raw), nil
}

// Authenticate returns the principal of the one rule that matches. None, and more than one, are refusals. The principal's
// Credential is "x509:" and the SHA-256 of the certificate in hex, and its Expires the certificate's.
func (c *Certificates) Authenticate(_ context.Context, cred Credential) (Principal, error) {
	if len(cred.Chain) == 0 {
		return Principal{}, ErrNotMine
	}
	cert := cred.Chain[0]
	fingerprint := sha256.Sum256(cert.Raw)
	name := "x509:" + hex.EncodeToString(fingerprint[:])
	if err := c.checkLeaf(cert); err != nil {
		return Principal{}, refuse(CertificateUnfit, name, "%v", err)
	}
	rule, err := c.match(cert)
	if err != nil {
		return Principal{}, refuse(CertificateUnfit, name, "%v", err)
	}
	p := rule.principal
	p.Credential = name
	if p.Expires.IsZero() || cert.NotAfter.Before(p.Expires) {
		p.Expires = cert.NotAfter
	}
	if !c.now().Before(p.Expires) {
		return Principal{}, refuse(CertificateUnfit, name, "its rule expired at %s", p.Expires.UTC().Format(time.RFC3339))
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

func (c *Certificates) match(cert *x509.Certificate) (*certificateRule, error) {
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	var found *certificateRule
	for i := range c.rules {
		rule := &c.rules[i]
		if rule.spki != nil && *rule.spki != spki {
			continue
		}
		if rule.uri != nil && !slices.ContainsFunc(cert.URIs, rule.uri.match) {
			continue
		}
		if found != nil {
			return nil, errors.New("more than one rule matches")
		}
		found = rule
	}
	if found == nil {
		return nil, errors.New("no rule matches")
	}
	return found, nil
}

// uriPattern is a URI in plain form whose path segments may hold a `*` each.
type uriPattern struct {
	scheme, host string
	segments     []string
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
	scheme, host, segments, err := plainURI(u, plainChars+"*")
	if err != nil {
		return nil, err
	}
	if strings.Contains(host, "*") {
		return nil, errors.New("a * may stand in the path only")
	}
	for _, segment := range segments {
		if strings.Count(segment, "*") > 1 {
			return nil, fmt.Errorf("segment %q holds more than one *", segment)
		}
	}
	return &uriPattern{scheme, host, segments}, nil
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

func (p *uriPattern) match(u *url.URL) bool {
	scheme, host, segments, err := plainURI(u, plainChars)
	if err != nil || scheme != p.scheme || host != p.host || len(segments) != len(p.segments) {
		return false
	}
	for i, segment := range segments {
		if !matchSegment(p.segments[i], segment) {
			return false
		}
	}
	return true
}

// matchSegment: the star stands for at least one character.
func matchSegment(pattern, segment string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == segment
	}
	return len(segment) > len(before)+len(after) && strings.HasPrefix(segment, before) && strings.HasSuffix(segment, after)
}
