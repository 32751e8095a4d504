package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/servertls"
)

// clientCerts is what client certificates are checked with.
type clientCerts struct {
	pool  *x509.CertPool             // nil: they are not asked for
	lists *servertls.RevocationLists // nil: none is configured
}

// revoked returns the lists as what is asked, nil without lists.
func (c *clientCerts) revoked() authn.RevocationChecker {
	if c.lists == nil {
		return nil
	}
	return c.lists
}

// loadClientCerts reads the authorities and the revocation lists. It waits a while for those that are fetched; one that does not
// come refuses certificates, and does not keep the gate from its other work.
func (g *gate) loadClientCerts(ctx context.Context) error {
	h := g.cfg.HTTPS
	authorities, err := readCertificates(string(h.ClientCA))
	if err != nil {
		return fmt.Errorf("https.client_ca: %w", err)
	}
	g.clients.pool = poolOf(authorities)
	if len(h.ClientCRLs) == 0 {
		return nil
	}
	sources := make([]servertls.ListSource, len(h.ClientCRLs))
	for i, s := range h.ClientCRLs {
		sources[i] = servertls.ListSource{File: string(s.File), URL: s.URL}
	}
	lists, err := servertls.NewRevocationLists(servertls.RevocationConfig{
		Authorities: authorities, Lists: sources, Grace: h.ClientCRLGrace, Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("https.client_crls: %w", err)
	}
	g.clients.lists = lists
	g.metrics.watchLists(lists)
	g.runners = append(g.runners, lists.Run)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = lists.Refresh(ctx) // it has logged what is missing
	return nil
}

// poolOf returns a pool of authorities, nil for none.
func poolOf(authorities []*x509.Certificate) *x509.CertPool {
	if len(authorities) == 0 {
		return nil
	}
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a)
	}
	return pool
}

// readCertificates reads every certificate of a PEM file, none for no file.
func readCertificates(path string) (all []*x509.Certificate, err error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", name, len(all)+1, err)
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no certificate in PEM", name)
	}
	return all, nil
}

// certificateRule turns one entry of the configuration into a rule.
func certificateRule(c config.Certificate) authn.CertificateRule {
	p := c.Principal
	return authn.CertificateRule{URI: c.URI, SPKI: c.SPKI, Principal: authn.Principal{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: authn.Kind(p.Kind)}}
}
