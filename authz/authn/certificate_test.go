package authn_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

var runner = authn.Principal{Forge: "git.example.com", ID: "7", Name: "runner", Kind: authn.CI, Roles: []string{"writer:main"}}

// leaf makes a certificate for client authentication, valid for an hour around start, and lets change spoil it.
func leaf(t testing.TB, change func(*x509.Certificate), uris ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "runner"},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func certificates(t testing.TB, rules ...authn.CertificateRule) (*authn.Certificates, *clock) {
	t.Helper()
	clock := &clock{start}
	c, err := authn.NewCertificates(authn.CertificatesConfig{Rules: rules, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	return c, clock
}

func TestCertificatePrincipal(t *testing.T) {
	cert := leaf(t, nil, "spiffe://ci.example.com/job/42")
	certs, _ := certificates(t, authn.CertificateRule{URI: "spiffe://ci.example.com/job/42", Principal: runner})
	sum := sha256.Sum256(cert.Raw)
	want := runner
	want.Credential, want.Expires = "x509:"+hex.EncodeToString(sum[:]), cert.NotAfter
	got, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{cert}})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := certs.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret("x")}); !errors.Is(err, authn.ErrNotMine) {
		t.Fatalf("a token: %v, want ErrNotMine", err)
	}
}

func TestCertificateURIPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, uri string
		want         bool
	}{
		{"spiffe://ci/job/1", "spiffe://ci/job/1", true},
		{"spiffe://ci/job/*", "spiffe://ci/job/1", true},
		{"spiffe://ci/*/runner-*", "spiffe://ci/team/runner-1", true},
		{"spiffe://ci/a*z", "spiffe://ci/abz", true},
		{"spiffe://ci", "spiffe://ci", true},
		{"SPIFFE://CI/job", "spiffe://ci/job", true},
		{"https://ci:8443/job", "https://ci:8443/job", true},
		{"spiffe://ci/job/1", "spiffe://ci/job/2", false},
		{"spiffe://ci/job/1", "spiffe://ci/JOB/1", false},
		{"spiffe://ci/job/1", "https://ci/job/1", false},
		{"spiffe://ci/job/1", "spiffe://ci.example.com/job/1", false},
		{"spiffe://ci/job/1", "spiffe://ci:443/job/1", false},
		{"spiffe://ci/job/1", "spiffe://ci/job/1/2", false},
		{"spiffe://ci/job/1", "spiffe://ci/job/1/", false},
		{"spiffe://ci/job/1", "spiffe://ci/job/1?x=y", false},
		{"spiffe://ci/job/1", "spiffe://ci/job/1#x", false},
		{"spiffe://ci/job/1", "spiffe://me@ci/job/1", false},
		{"spiffe://ci/job/1", "spiffe://ci/job/%31", false}, // one spelling each
		{"spiffe://ci/job/*", "spiffe://ci/job/a%2fb", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/%2a", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/a/b", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/", false},
		{"spiffe://ci/job/*", "spiffe://ci/job", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/..", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/%2e%2e", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/a%00", false},
		{"spiffe://ci/job/*", "spiffe://ci/job/%ff", false},
		{"spiffe://ci/job/*", "spiffe://ci//job/1", false},
		{"spiffe://ci/aba*aba", "spiffe://ci/ababa", false},
		{"spiffe://ci/runner-*", "spiffe://ci/runner-", false},
		{"spiffe://ci/job/*", "urn:job:1", false},
	} {
		certs, _ := certificates(t, authn.CertificateRule{URI: c.pattern, Principal: runner})
		_, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{leaf(t, nil, c.uri)}})
		if (err == nil) != c.want || err != nil && !errors.Is(err, authn.ErrRefused) {
			t.Errorf("%s against %s: %v, want match %v", c.uri, c.pattern, err, c.want)
		}
	}
}

func TestCertificateRefusals(t *testing.T) {
	const uri = "spiffe://ci/job/1"
	for name, cert := range map[string]*x509.Certificate{
		"no names but a common name": leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = uri }),
		"name as DNS name":           leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"ci"} }),
		"server certificate":         leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, uri),
		"no extended key usage":      leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, uri),
		"any extended key usage":     leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, uri),
		"authority":                  leaf(t, func(c *x509.Certificate) { c.IsCA = true }, uri),
		"not yet valid":              leaf(t, func(c *x509.Certificate) { c.NotBefore = start.Add(time.Second) }, uri),
		"expired":                    leaf(t, func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) }, uri),
		"expires now":                leaf(t, func(c *x509.Certificate) { c.NotAfter = start }, uri),
		"two rules by two names":     leaf(t, nil, uri, "spiffe://other/x"),
		"two rules by one name":      leaf(t, nil, "spiffe://ci/both"),
		"empty":                      {},
	} {
		certs, _ := certificates(t,
			authn.CertificateRule{URI: uri, Principal: runner},
			authn.CertificateRule{URI: "spiffe://other/*", Principal: alice},
			authn.CertificateRule{URI: "spiffe://ci/both", Principal: alice},
			authn.CertificateRule{URI: "spiffe://ci/b*", Principal: alice},
		)
		p, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{cert}})
		if !errors.Is(err, authn.ErrRefused) || p.ID != "" {
			t.Errorf("%s: got %+v, %v; want ErrRefused", name, p, err)
		}
	}
}

func TestCertificatePins(t *testing.T) {
	const uri = "spiffe://ci/job/1"
	mine, other := leaf(t, nil, uri), leaf(t, nil, uri)
	for name, c := range map[string]struct {
		rule authn.CertificateRule
		cert *x509.Certificate
		want bool
	}{
		"pin alone":           {authn.CertificateRule{SPKI: pin(mine)}, mine, true},
		"pin with algorithm":  {authn.CertificateRule{SPKI: "sha256:" + pin(mine)}, mine, true},
		"pin and name":        {authn.CertificateRule{SPKI: pin(mine), URI: uri}, mine, true},
		"other key":           {authn.CertificateRule{SPKI: pin(mine)}, other, false},
		"right name, bad key": {authn.CertificateRule{SPKI: pin(mine), URI: uri}, other, false},
		"right key, bad name": {authn.CertificateRule{SPKI: pin(mine), URI: uri + "0"}, mine, false},
	} {
		c.rule.Principal = runner
		certs, _ := certificates(t, c.rule)
		if _, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{c.cert}}); (err == nil) != c.want {
			t.Errorf("%s: %v, want match %v", name, err, c.want)
		}
	}
}

// A connection may outlive its certificate, and a rule may end before it.
func TestCertificateExpiresOnOpenConnection(t *testing.T) {
	cert := leaf(t, nil, "spiffe://ci/job/1")
	short := runner
	short.Expires = start.Add(time.Minute)
	for _, c := range []struct {
		principal authn.Principal
		until     time.Time
	}{{runner, cert.NotAfter}, {short, short.Expires}} {
		certs, clock := certificates(t, authn.CertificateRule{URI: "spiffe://ci/job/1", Principal: c.principal})
		clock.at = c.until.Add(-time.Second)
		p, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{cert}})
		if err != nil || !p.Expires.Equal(c.until) {
			t.Fatalf("before: expires %v, %v; want %v", p.Expires, err, c.until)
		}
		clock.at = c.until
		if _, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{cert}}); !errors.Is(err, authn.ErrRefused) {
			t.Fatalf("after: %v, want ErrRefused", err)
		}
	}
}

func TestNewCertificatesRefuses(t *testing.T) {
	for name, rule := range map[string]authn.CertificateRule{
		"matches everything":    {Principal: runner},
		"nobody":                {URI: "spiffe://ci/x"},
		"anonymous":             {URI: "spiffe://ci/x", Principal: authn.Principal{Kind: authn.Anonymous}},
		"star in host":          {URI: "spiffe://*/x", Principal: runner},
		"star alone":            {URI: "*", Principal: runner},
		"two stars":             {URI: "spiffe://ci/*a*", Principal: runner},
		"no scheme":             {URI: "ci/x", Principal: runner},
		"opaque":                {URI: "urn:x", Principal: runner},
		"user":                  {URI: "spiffe://me@ci/x", Principal: runner},
		"query":                 {URI: "spiffe://ci/x?y", Principal: runner},
		"fragment":              {URI: "spiffe://ci/x#y", Principal: runner},
		"dot segment":           {URI: "spiffe://ci/../x", Principal: runner},
		"empty segment":         {URI: "spiffe://ci//x", Principal: runner},
		"slash at the end":      {URI: "spiffe://ci/x/", Principal: runner},
		"escape":                {URI: "spiffe://ci/a%20b", Principal: runner},
		"short pin":             {SPKI: strings.Repeat("a", 62), Principal: runner},
		"pin not hex":           {SPKI: strings.Repeat("g", 64), Principal: runner},
		"pin of another digest": {SPKI: "sha1:" + strings.Repeat("a", 40), Principal: runner},
	} {
		_, err := authn.NewCertificates(authn.CertificatesConfig{Rules: []authn.CertificateRule{rule}})
		if err == nil || !strings.Contains(err.Error(), "certificate rule 1: ") {
			t.Errorf("%s: %v, want a refusal that says which rule", name, err)
		}
	}
}

func TestNoRulesRefuseAll(t *testing.T) {
	certs, _ := certificates(t)
	if _, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{leaf(t, nil, "spiffe://ci/x")}}); !errors.Is(err, authn.ErrRefused) {
		t.Fatalf("got %v", err)
	}
}

// FuzzCertificateURI checks that whatever matches a pattern has its shape.
func FuzzCertificateURI(f *testing.F) {
	for _, uri := range []string{"spiffe://ci/job/1", "spiffe://ci/job/%2e", "spiffe://ci/job/a%2fb", "spiffe://ci:1/job/x", "x:y"} {
		f.Add(uri)
	}
	certs, _ := certificates(f, authn.CertificateRule{URI: "spiffe://ci/job/r*", Principal: runner})
	cert := leaf(f, nil, "spiffe://ci/x")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		shown := *cert
		shown.URIs = []*url.URL{u}
		if _, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{&shown}}); err != nil {
			return
		}
		segments := strings.Split(u.Path, "/")
		if len(segments) != 3 || segments[1] != "job" || len(segments[2]) < 2 || segments[2][0] != 'r' || slices.Contains(segments, "..") {
			t.Fatalf("%q matched", text)
		}
	})
}
