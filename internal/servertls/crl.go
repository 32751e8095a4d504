package servertls

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

const (
	// maxList is the longest revocation list that is read, in bytes: several hundred thousand certificates.
	maxList = 16 << 20
	// clockSkew is how far ahead of ours an authority's clock may be.
	clockSkew = 5 * time.Minute
)

// crl is a list that was verified: complete for its issuer, of an authority we have. It is immutable.
type crl struct {
	signer     *x509.Certificate
	number     *big.Int // nil when it has none
	thisUpdate time.Time
	nextUpdate time.Time
	until      time.Time           // the hard expiry: nextUpdate and the grace
	revoked    map[string]struct{} // serial numbers, big-endian
}

// Extensions of lists and of their entries (RFC 5280 section 5).
var (
	oidNumber            = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason            = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate    = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDeltaIndicator    = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidAuthorityKeyID    = asn1.ObjectIdentifier{2, 5, 29, 35}
	understoodOfLists    = []asn1.ObjectIdentifier{oidNumber, oidAuthorityKeyID}
	understoodOfEntries  = []asn1.ObjectIdentifier{oidReason, oidInvalidityDate}
)

var errIncomplete = errors.New("is not complete by itself (a delta, an indirect list, or one for a part of the certificates): publish a full list")

// parseCRL reads a list in PEM or DER and checks everything but its age: that one of the authorities signed it and may, that it
// is complete, and that nothing in it means something we do not understand.
func parseCRL(data []byte, authorities []*x509.Certificate) (*x509.RevocationList, *x509.Certificate, error) {
	der, err := derOf(data)
	if err != nil {
		return nil, nil, err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, nil, err
	}
	if len(list.Raw) != len(der) {
		return nil, nil, errors.New("goes on after its end")
	}
	signer, err := signerOf(list, authorities)
	if err != nil {
		return nil, nil, err
	}
	if list.NextUpdate.IsZero() {
		return nil, nil, errors.New("does not say when the next one comes (nextUpdate)")
	}
	if list.Number != nil && (list.Number.Sign() < 0 || list.Number.BitLen() > 160) {
		return nil, nil, errors.New("has a number that is negative or longer than 20 octets")
	}
	return list, signer, checkExtensions(list)
}

// derOf takes one list out of its PEM armour, if it has one.
func derOf(data []byte) ([]byte, error) {
	if len(data) > 0 && data[0] == 0x30 { // a SEQUENCE
		return data, nil
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("is neither PEM nor DER")
	case block.Type != "X509 CRL":
		return nil, fmt.Errorf("holds %.40q, not a revocation list", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("holds more than one list: put each into a file of its own")
	}
	return block.Bytes, nil
}

// signerOf returns the authority that signed the list. An authority with several keys has several certificates of one name.
func signerOf(list *x509.RevocationList, authorities []*x509.Certificate) (*x509.Certificate, error) {
	err := fmt.Errorf("its issuer %q is none of the authorities in client_ca", list.Issuer)
	for _, a := range authorities {
		if !bytes.Equal(a.RawSubject, list.RawIssuer) {
			continue
		}
		if len(list.AuthorityKeyId) > 0 && len(a.SubjectKeyId) > 0 && !bytes.Equal(list.AuthorityKeyId, a.SubjectKeyId) {
			err = fmt.Errorf("is signed by a key of %q that is not in client_ca", list.Issuer)
			continue
		}
		if err = list.CheckSignatureFrom(a); err == nil {
			return a, nil
		}
		err = fmt.Errorf("verify its signature by %q: %w", list.Issuer, err)
	}
	return nil, err
}

func checkExtensions(list *x509.RevocationList) error {
	for _, e := range list.Extensions {
		if e.Id.Equal(oidDeltaIndicator) || e.Id.Equal(oidDistributionPoint) {
			return errIncomplete
		}
		if e.Critical && !slices.ContainsFunc(understoodOfLists, e.Id.Equal) {
			return fmt.Errorf("has the critical extension %v, which is not understood", e.Id)
		}
	}
	for i := range list.RevokedCertificateEntries {
		for _, e := range list.RevokedCertificateEntries[i].Extensions {
			if e.Id.Equal(oidCertificateIssuer) {
				return errIncomplete
			}
			if e.Critical && !slices.ContainsFunc(understoodOfEntries, e.Id.Equal) {
				return fmt.Errorf("has an entry with the critical extension %v, which is not understood", e.Id)
			}
		}
	}
	return nil
}

// newCRL verifies a list at a moment.
func newCRL(data []byte, authorities []*x509.Certificate, grace time.Duration, now time.Time) (*crl, error) {
	list, signer, err := parseCRL(data, authorities)
	if err != nil {
		return nil, err
	}
	c := &crl{
		signer: signer, number: list.Number, thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, until: list.NextUpdate.Add(grace),
		revoked: make(map[string]struct{}, len(list.RevokedCertificateEntries)),
	}
	switch {
	case c.thisUpdate.After(now.Add(clockSkew)):
		return nil, fmt.Errorf("begins in the future, at %s: is a clock wrong?", stamp(c.thisUpdate))
	case !now.Before(c.until):
		return nil, fmt.Errorf("ended at %s: publish a new one", stamp(c.until))
	}
	for i := range list.RevokedCertificateEntries {
		// Whatever the reason, a hold included: what is on the list is refused.
		c.revoked[string(list.RevokedCertificateEntries[i].SerialNumber.Bytes())] = struct{}{}
	}
	return c, nil
}

// follows returns an error when c is older than old, which it would replace: whoever can put an old list in a new one's place
// could undo a revocation.
func (c *crl) follows(old *crl) error {
	switch {
	case !bytes.Equal(c.signer.RawSubject, old.signer.RawSubject):
		return fmt.Errorf("is by %q, and was by %q: give each list a place of its own", c.signer.Subject, old.signer.Subject)
	case c.thisUpdate.Before(old.thisUpdate):
		return fmt.Errorf("is of %s, older than the one in force of %s", stamp(c.thisUpdate), stamp(old.thisUpdate))
	case c.sameKey(old) && c.before(old):
		return fmt.Errorf("has the number %s, lower than the one in force with %s", c.numberText(), old.numberText())
	}
	return nil
}

// before compares numbers, then dates. No number is lower than any.
func (c *crl) before(other *crl) bool {
	switch {
	case c.number == nil && other.number != nil:
		return true
	case c.number != nil && other.number == nil:
		return false
	case c.number != nil && c.number.Cmp(other.number) != 0:
		return c.number.Cmp(other.number) < 0
	}
	return c.thisUpdate.Before(other.thisUpdate)
}

func (c *crl) sameKey(other *crl) bool { return c.signedBy(other.signer) }

func (c *crl) signedBy(authority *x509.Certificate) bool {
	return bytes.Equal(c.signer.RawSubjectPublicKeyInfo, authority.RawSubjectPublicKeyInfo)
}

func (c *crl) has(cert *x509.Certificate) bool {
	_, ok := c.revoked[string(cert.SerialNumber.Bytes())]
	return ok
}

func (c *crl) numberText() string {
	if c.number == nil {
		return "none"
	}
	return c.number.String()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
