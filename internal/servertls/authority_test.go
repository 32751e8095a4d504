package servertls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"
)

// manualClock is moved by hand.
type manualClock struct {
	mu sync.Mutex // guards at
	at time.Time
}

func newClock() *manualClock { return &manualClock{at: time.Now().Truncate(time.Second)} }

func (c *manualClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *manualClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// authority signs client certificates and revocation lists.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	up   *authority // nil for a root
}

// newAuthority makes a root, or with up an authority in the middle. change may alter the template.
func newAuthority(t testing.TB, name string, serial int64, up *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, up: up}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if up != nil {
		parent, signer = up.cert, up.key
	}
	a.cert = a.create(template, parent, key, signer)
	return a
}

func (a *authority) create(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// client makes a client certificate. What the client sends is the leaf and the authorities in the middle.
func (a *authority) client(serial int64) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf := a.create(&x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	c := tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for up := a; up.up != nil; up = up.up {
		c.Certificate = append(c.Certificate, up.cert.Raw)
	}
	return c
}

// chain is what TLS verifies for a client: the leaf, and every authority up to the root.
func (a *authority) chain(serial int64) []*x509.Certificate {
	a.t.Helper()
	chain := []*x509.Certificate{a.client(serial).Leaf}
	for up := a; up != nil; up = up.up {
		chain = append(chain, up.cert)
	}
	return chain
}

// listTemplate is a revocation list before it is signed. x509.CreateRevocationList makes good lists only.
type listTemplate struct {
	tbs  listBody
	sign func([]byte) []byte // in place of the authority's signature
}

// listBody is TBSCertList of RFC 5280 section 5.1.
type listBody struct {
	Version    int `asn1:"optional,default:0"`
	Signature  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	ThisUpdate time.Time
	NextUpdate time.Time        `asn1:"optional"`
	Revoked    []listEntry      `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"tag:0,optional,explicit"`
}

type listEntry struct {
	Serial     *big.Int
	Time       time.Time
	Extensions []pkix.Extension `asn1:"optional"`
}

func extension(t testing.TB, id int, critical bool, value any) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, id}, Critical: critical, Value: der}
}

// list makes a revocation list in DER, valid from a minute ago for an hour around now, with a number. change may spoil it.
func (a *authority) list(now time.Time, number int64, change func(*listTemplate), serials ...int64) []byte {
	a.t.Helper()
	l := &listTemplate{tbs: listBody{
		Version: 1, Signature: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, // ecdsa-with-SHA256
		Issuer: asn1.RawValue{FullBytes: a.cert.RawSubject}, ThisUpdate: now.Add(-time.Minute).UTC(), NextUpdate: now.Add(time.Hour).UTC(),
		Extensions: []pkix.Extension{
			extension(a.t, 20, false, big.NewInt(number)),
			extension(a.t, 35, false, struct {
				ID []byte `asn1:"tag:0"`
			}{a.cert.SubjectKeyId}),
		},
	}}
	for _, s := range serials {
		l.tbs.Revoked = append(l.tbs.Revoked, listEntry{Serial: big.NewInt(s), Time: now.Add(-time.Minute).UTC()})
	}
	if change != nil {
		change(l)
	}
	return a.seal(l)
}

func (a *authority) seal(l *listTemplate) []byte {
	a.t.Helper()
	tbs, err := asn1.Marshal(l.tbs)
	if err != nil {
		a.t.Fatal(err)
	}
	sign := l.sign
	if sign == nil {
		sign = a.sign
	}
	sig := sign(tbs)
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Signature pkix.AlgorithmIdentifier
		Value     asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, l.tbs.Signature, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) sign(tbs []byte) []byte {
	a.t.Helper()
	sum := sha256.Sum256(tbs)
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return sig
}

func armour(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
