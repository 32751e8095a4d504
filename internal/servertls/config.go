// Package servertls is the server's side of TLS: what the gate's listeners speak, and certificates from files that are
// replaced while handshakes go on.
package servertls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/lychgate/lychgate/authz/authn"
)

// GetCertificate is the field of tls.Config that picks a certificate for a handshake.
type GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// Config returns what a listener speaks: TLS 1.2 with ECDHE and AEAD suites, since old build hosts need it, and TLS
// 1.3; HTTP/2 and HTTP/1.1. CurvePreferences stay nil on purpose: that keeps Go's post-quantum hybrids first.
//
// With clientCAs a client certificate is asked for, never required, and verified when it is given. Session tickets are
// off then, so that each connection verifies the certificate anew (a resumed one would not: CVE-2025-68121).
// clientCAs must not be changed afterwards; make a new Config.
//
// revoked, unless it is nil, is asked at the end of every handshake, of a resumed session too, and a revoked certificate ends
// it. That is for the client's sake, who sees an alert instead of an unauthorized request: the same chain is to be asked
// for again with each request, for a connection may outlive a revocation.
func Config(get GetCertificate, clientCAs *x509.CertPool, revoked authn.RevocationChecker) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: get,
		NextProtos:     []string{"h2", "http/1.1"},
		// For TLS 1.2 alone; the suites of TLS 1.3 are all AEAD and not configurable.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if clientCAs != nil {
		c.ClientAuth = tls.VerifyClientCertIfGiven
		c.ClientCAs = clientCAs
		c.SessionTicketsDisabled = true
		if revoked != nil {
			c.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, revoked) }
		}
	}
	return c
}

// verify looks at the chain that doors take for the credential: the first.
func verify(s tls.ConnectionState, revoked authn.RevocationChecker) error {
	switch {
	case len(s.PeerCertificates) == 0:
		return nil
	case len(s.VerifiedChains) == 0:
		return errors.New("the client certificate was not verified")
	}
	if err := revoked.CheckRevoked(s.VerifiedChains[0]); err != nil {
		return fmt.Errorf("check the client certificate: %w", err)
	}
	return nil
}
