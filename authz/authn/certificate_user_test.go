package authn_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

// namesakes is a directory of users by name at git.example.com. It knows nobody by a key.
type namesakes map[string]authn.Principal

func (namesakes) KeyOwner(context.Context, string) (authn.Principal, error) {
	return authn.Principal{}, authn.ErrNobody
}

func (namesakes) IdentityOwner(context.Context, string, string, string) (authn.Principal, error) {
	return authn.Principal{}, authn.ErrNobody
}

func (p namesakes) ByName(_ context.Context, forge, name string) (authn.Principal, error) {
	if name == "away" {
		return authn.Principal{}, errors.New("the forge does not answer")
	}
	user, ok := p[name]
	if !ok || forge != user.Forge {
		return authn.Principal{}, fmt.Errorf("%w is %q", authn.ErrNobody, name)
	}
	return user, nil
}

// TestCertificateUser maps what stands in a certificate's name to a user, and refuses all that is not plainly one.
func TestCertificateUser(t *testing.T) {
	const forge = "git.example.com"
	carol := authn.Principal{Forge: forge, ID: "3", Name: "carol", Kind: authn.Human}
	directory := namesakes{"carol": carol, "c.d_e-9": carol, "elsewhere": {Forge: "other", ID: "3", Name: "elsewhere", Kind: authn.Human}}
	rules := []authn.CertificateRule{
		{URI: "spiffe://ci/user/{name}", Principal: authn.Principal{Forge: forge}},
		{URI: "spiffe://ci/bot/{name}", Principal: authn.Principal{Forge: forge, Kind: authn.CI}},
		{URI: "spiffe://ci/id/{id}/x", Principal: authn.Principal{Forge: forge, Kind: authn.CI, Roles: []string{"writer:main"}}},
		{URI: "spiffe://ci/user/root", Principal: runner},
	}
	certs, err := authn.NewCertificates(authn.CertificatesConfig{Rules: rules, Directory: directory, Now: (&clock{start}).now})
	if err != nil {
		t.Fatal(err)
	}
	bot, seven := carol, authn.Principal{Forge: forge, ID: "7", Name: "7", Kind: authn.CI, Roles: []string{"writer:main"}}
	bot.Kind = authn.CI
	refused, fault := authn.ErrRefused, errors.New("a fault")
	for _, tc := range []struct {
		uris []string
		want authn.Principal
		err  error
	}{
		{uris: []string{"spiffe://ci/user/carol"}, want: carol},
		{uris: []string{"spiffe://ci/user/carol", "spiffe://elsewhere/x"}, want: carol},
		{uris: []string{"spiffe://ci/user/carol", "SPIFFE://CI/user/carol"}, want: carol},
		{uris: []string{"spiffe://ci/user/c.d_e-9"}, want: carol},
		{uris: []string{"spiffe://ci/bot/carol"}, want: bot},
		{uris: []string{"spiffe://ci/id/7/x"}, want: seven},
		{uris: []string{"spiffe://ci/user/nobody"}, err: refused},
		{uris: []string{"spiffe://ci/user/elsewhere"}, err: refused},
		{uris: []string{"spiffe://ci/user/Carol"}, err: refused},
		{uris: []string{"spiffe://ci/user/root"}, err: refused}, // two rules
		{uris: []string{"spiffe://ci/user/away"}, err: fault},
		{uris: []string{"spiffe://ci/user/carol", "spiffe://ci/user/c.d_e-9"}, err: refused},
		{uris: []string{"spiffe://ci/user/carol", "spiffe://ci/id/7/x"}, err: refused},
		{uris: []string{"spiffe://ci/user/"}, err: refused},
		{uris: []string{"spiffe://ci/user"}, err: refused},
		{uris: []string{"spiffe://ci/user/carol/x"}, err: refused},
		{uris: []string{"spiffe://ci/user/.."}, err: refused},
		{uris: []string{"spiffe://ci/user/%63arol"}, err: refused},
		{uris: []string{"spiffe://ci/user/%7bname%7d"}, err: refused},
		{uris: []string{"spiffe://ci/user/{name}"}, err: refused},
		{uris: []string{"spiffe://ci/id/a:b/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/a@b/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/$7/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/~7/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/%E2%80%AE7/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/" + strings.Repeat("7", 256) + "/x"}, err: refused},
		{uris: []string{"spiffe://ci/id/7/y"}, err: refused},
	} {
		cert := leaf(t, nil, tc.uris...)
		got, err := certs.Authenticate(t.Context(), authn.Credential{Chain: []*x509.Certificate{cert}})
		if tc.err != nil {
			if err == nil || errors.Is(err, authn.ErrRefused) != (tc.err == refused) || got.ID != "" && tc.err == refused {
				t.Errorf("%v: %+v, %v; want %v", tc.uris, got, err, tc.err)
			}
			continue
		}
		got.Credential, got.Expires = "", tc.want.Expires
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%v: %v (-want +got):\n%s", tc.uris, err, diff)
		}
	}
}

func TestNewCertificatesRefusesPlaceholders(t *testing.T) {
	some := authn.Principal{Forge: "git.example.com", Kind: authn.CI}
	for name, rule := range map[string]authn.CertificateRule{
		"part of a segment":  {URI: "spiffe://ci/u-{name}", Principal: some},
		"unknown":            {URI: "spiffe://ci/{mail}", Principal: some},
		"half of one":        {URI: "spiffe://ci/{name", Principal: some},
		"empty":              {URI: "spiffe://ci/{}", Principal: some},
		"two":                {URI: "spiffe://ci/{id}/{name}", Principal: some},
		"one twice":          {URI: "spiffe://ci/{id}/{id}", Principal: some},
		"with a star":        {URI: "spiffe://ci/{id}/*", Principal: some},
		"after a star":       {URI: "spiffe://ci/a*/{id}", Principal: some},
		"in the host":        {URI: "spiffe://{id}/x", Principal: some},
		"with an id":         {URI: "spiffe://ci/{id}", Principal: runner},
		"with a name":        {URI: "spiffe://ci/{id}", Principal: authn.Principal{Forge: "f", Name: "x", Kind: authn.CI}},
		"of no forge":        {URI: "spiffe://ci/{id}", Principal: authn.Principal{Kind: authn.CI}},
		"of no kind":         {URI: "spiffe://ci/{id}", Principal: authn.Principal{Forge: "f"}},
		"of an unknown kind": {URI: "spiffe://ci/{name}", Principal: authn.Principal{Forge: "f", Kind: "robot"}},
		"anonymous":          {URI: "spiffe://ci/{name}", Principal: authn.Principal{Forge: "f", Kind: authn.Anonymous}},
		"bad forge":          {URI: "spiffe://ci/{name}", Principal: authn.Principal{Forge: "f/g"}},
	} {
		_, err := authn.NewCertificates(authn.CertificatesConfig{Rules: []authn.CertificateRule{rule}, Directory: namesakes{}})
		if err == nil || !strings.Contains(err.Error(), "certificate rule 1: ") {
			t.Errorf("%s: %v, want a refusal that says which rule", name, err)
		}
	}
	byName := authn.CertificateRule{URI: "spiffe://ci/{name}", Principal: authn.Principal{Forge: "f"}}
	if _, err := authn.NewCertificates(authn.CertificatesConfig{Rules: []authn.CertificateRule{byName}}); err == nil {
		t.Error("a rule with {name} and no directory is taken")
	}
}

// verdict is a RevocationChecker that answers what it is told to, and notes what it was asked.
type verdict struct {
	err   error
	asked []*x509.Certificate
}

func (v *verdict) CheckRevoked(chain []*x509.Certificate) error {
	v.asked = chain
	return v.err
}

// TestRevokedIsAskedEachRequest: between two requests with one chain the certificate is revoked, then its list ends.
func TestRevokedIsAskedEachRequest(t *testing.T) {
	said := &verdict{}
	certs, err := authn.NewCertificates(authn.CertificatesConfig{
		Rules: []authn.CertificateRule{{URI: "spiffe://ci/job", Principal: runner}}, Revoked: said, Now: (&clock{start}).now,
	})
	if err != nil {
		t.Fatal(err)
	}
	cred := authn.Credential{Chain: []*x509.Certificate{leaf(t, nil, "spiffe://ci/job"), leaf(t, func(c *x509.Certificate) { c.IsCA = true })}}
	for _, tc := range []struct {
		err    error
		reason authn.Reason
	}{
		{nil, ""},
		{fmt.Errorf("certificate 2a is %w", authn.ErrRevoked), authn.RevokedCredential},
		{errors.New("the list ended"), authn.RevocationUnknown},
		{nil, ""},
	} {
		said.err = tc.err
		p, err := certs.Authenticate(t.Context(), cred)
		var refusal *authn.Refusal
		switch {
		case len(said.asked) != 2 || said.asked[0] != cred.Chain[0]:
			t.Errorf("asked about %d certificates, want the chain", len(said.asked))
		case tc.err == nil && err != nil:
			t.Errorf("refused: %v", err)
		case tc.err != nil && (!errors.As(err, &refusal) || refusal.Reason != tc.reason || !strings.Contains(refusal.Detail, tc.err.Error()) || !strings.HasPrefix(refusal.Subject, "x509:") || p.ID != ""):
			t.Errorf("%v: %+v, %v; want a refusal for %s", tc.err, p, err, tc.reason)
		}
	}
}
