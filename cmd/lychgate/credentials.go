package main

import (
	"context"
	"fmt"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/config"
)

// authenticator puts together everything that knows a kind of credential.
func (g *gate) authenticator(ctx context.Context) (authn.Authenticator, error) {
	var err error
	if g.tokens, err = newTokens(g.cfg, g.db); err != nil {
		return nil, err
	}
	certificates, err := g.certificates(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := g.sshKeys()
	if err != nil {
		return nil, err
	}
	if g.oidc, err = g.idTokens(); err != nil {
		return nil, err
	}
	return append(authn.Chain{g.tokens, certificates, keys, g.oidc, authn.Accounts{Store: g.db, Epoch: g.tokens.Epoch}, places(g.cfg)}, g.passthrough...), nil
}

func (g *gate) certificates(ctx context.Context) (*authn.Certificates, error) {
	if err := g.loadClientCerts(ctx); err != nil {
		return nil, err
	}
	rules := make([]authn.CertificateRule, len(g.cfg.Certificates))
	for i, c := range g.cfg.Certificates {
		rules[i] = certificateRule(c)
	}
	return authn.NewCertificates(authn.CertificatesConfig{Rules: rules, Revoked: g.clients.revoked(), Directory: g.forges})
}

// principal is who the configuration says a credential stands for.
func principal(p config.Principal) authn.Principal {
	return authn.Principal{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: authn.Kind(p.Kind)}
}

// follow reads a file now, and again whenever it changes.
func follow[T any](g *gate, path config.Path, parse func(name string, data []byte) (T, error)) (*authn.File[T], error) {
	f, err := authn.LoadFile(authn.FileConfig[T]{Path: string(path), Parse: parse, Logger: g.log})
	if err != nil {
		return nil, err
	}
	g.runners = append(g.runners, f.Run)
	return f, nil
}

func (g *gate) sshKeys() (*authn.SSHKeys, error) {
	cfg := authn.SSHKeysConfig{Directory: g.forges}
	for i, k := range g.cfg.SSH.AuthorizedKeys {
		f, err := follow(g, k.File, authn.ParseAuthorizedKeys)
		if err != nil {
			return nil, fmt.Errorf("ssh.authorized_keys[%d]: %w", i, err)
		}
		cfg.AuthorizedKeys = append(cfg.AuthorizedKeys, authn.AuthorizedKeys{Keys: f, Principal: principal(k.Principal)})
	}
	for i, a := range g.cfg.SSH.Authorities {
		f, err := follow(g, a.File, authn.ParseSSHKeySet)
		if err != nil {
			return nil, fmt.Errorf("ssh.authorities[%d]: %w", i, err)
		}
		authority := authn.SSHAuthority{Name: a.Name, Keys: f, Forge: a.Forge, MaxLifetime: a.Lifetime}
		for _, r := range a.Rules {
			authority.Rules = append(authority.Rules, authn.PrincipalRule{Principal: r.Certified, KeyID: r.KeyID, As: principal(r.Principal)})
		}
		cfg.Authorities = append(cfg.Authorities, authority)
	}
	for i, path := range g.cfg.SSH.Revoked {
		f, err := follow(g, path, authn.ParseRevocationList)
		if err != nil {
			return nil, fmt.Errorf("ssh.revoked[%d]: %w", i, err)
		}
		cfg.Revoked = append(cfg.Revoked, f)
	}
	return authn.NewSSHKeys(cfg)
}

func (g *gate) idTokens() (*authn.OIDC, error) {
	cfg := authn.OIDCConfig{Directory: g.forges, Links: g.db}
	for i, o := range g.cfg.OIDC {
		issuer, err := g.issuer(o)
		if err != nil {
			return nil, fmt.Errorf("oidc[%d]: %w", i, err)
		}
		cfg.Issuers = append(cfg.Issuers, issuer)
	}
	return authn.NewOIDC(cfg)
}

func (g *gate) issuer(o config.OIDCIssuer) (authn.Issuer, error) {
	issuer := authn.Issuer{URL: o.Issuer, Audience: o.Audience, Keys: authn.KeyFetch{
		KeysURL: o.KeysURL, PlainLoopback: true,
		OnFetch: func(err error) {
			if err != nil {
				g.log.Warn("the keys of an identity provider could not be fetched", "issuer", o.Issuer, "error", err)
			}
		},
	}}
	authorities, err := readCertificates(string(o.CA))
	if err != nil {
		return issuer, fmt.Errorf("ca: %w", err)
	}
	issuer.Keys.CAs = poolOf(authorities)
	if o.People != nil {
		if issuer.People, err = g.people(o.People); err != nil {
			return issuer, err
		}
	}
	for _, r := range o.CI {
		issuer.CI = append(issuer.CI, authn.CIRule{
			Profile: authn.Profile(r.Profile), Claims: r.Claims(), Protected: r.Protected, Principal: principal(r.Principal),
		})
	}
	return issuer, nil
}

func (g *gate) people(o *config.OIDCPeople) (*authn.PeopleMapping, error) {
	m := &authn.PeopleMapping{
		ClientID: o.ClientID, Forge: o.Forge, SubjectIsForgeID: o.SubjectIsID, TrustPreferredUsername: o.TrustPreferredUsername,
	}
	if o.Users == "" {
		return m, nil
	}
	users, err := follow(g, o.Users, func(_ string, data []byte) (map[string]string, error) { return authn.ParsePeople(data) })
	if err != nil {
		return nil, fmt.Errorf("people.users: %w", err)
	}
	m.Users = users
	return m, nil
}
