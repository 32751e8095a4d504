// Package devca is a development certificate authority: it makes server certificates for trials, and client
// certificates for tests. Whoever can read its directory can be any server to those who trust it.
package devca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	renewBefore   = leafLife / 3
	skew          = time.Hour // a certificate is valid from a little earlier, for clocks that are behind
)

// CA is an ECDSA P-256 authority that lives in a directory. It is safe for concurrent use.
type CA struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	now  func() time.Time
}

// Open reads the authority in dir, or makes one there when there is none. The key stays in dir/ca.key (mode 0600); the
// certificate to hand out is dir/ca.pem. Two processes that begin at once end with the same authority. now may be nil.
func Open(dir string, now func() time.Time) (*CA, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open development CA: %w", err)
	}
	kept := filepath.Join(dir, "ca.key")
	text, err := os.ReadFile(kept)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = create(kept, now())
	}
	if err != nil {
		return nil, fmt.Errorf("open development CA: %w", err)
	}
	ca, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("open development CA %q: %w; remove the file to make a new authority", kept, err)
	}
	if !now().Before(ca.cert.NotAfter) {
		return nil, fmt.Errorf("open development CA %q: it ended on %s; remove the file to make a new authority", kept, ca.cert.NotAfter.Format(time.DateOnly))
	}
	ca.now, ca.file = now, filepath.Join(dir, "ca.pem")
	if old, err := os.ReadFile(ca.file); err == nil && bytes.Equal(old, ca.pem) {
		return ca, nil
	}
	if err := publish(ca.file, ca.pem, 0o644, os.Rename); err != nil {
		return nil, fmt.Errorf("open development CA: %w", err)
	}
	return ca, nil
}

// create makes an authority and keeps certificate and key in one file, so that no crash can part them. The file
// that was there first wins.
func create(path string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("Lychgate development CA", now, authorityLife)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(encodeCert(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	if err := publish(path, text, 0o600, os.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// publish writes a whole file beside path and moves it there by move: os.Rename replaces, os.Link does not.
func publish(path string, text []byte, mode fs.FileMode, move func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return move(f.Name(), path)
}

func parse(text []byte) (*CA, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("not an ECDSA authority")
	}
	return &CA{cert: pair.Leaf, key: key, pem: encodeCert(pair.Leaf.Raw)}, nil
}

// File is the path of the authority's certificate, to be given to clients.
func (ca *CA) File() string { return ca.file }

// PEM returns the authority's certificate.
func (ca *CA) PEM() []byte { return bytes.Clone(ca.pem) }

// Pool returns a new pool that holds the authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Client makes a client certificate with one URI SAN, valid for a day. Its key is in memory alone.
func (ca *CA) Client(uri string) (*tls.Certificate, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("make client certificate: %w", err)
	}
	template, err := newTemplate("", ca.now(), 24*time.Hour)
	if err != nil {
		return nil, err
	}
	template.URIs = []*url.URL{u}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return ca.sign(template)
}

// Leaf is a server certificate that renews itself. It is safe for concurrent use.
type Leaf struct {
	ca    *CA
	names []string

	mu   sync.Mutex // held while a certificate is made, so that handshakes at its end make one, not many
	cert *tls.Certificate
}

// Leaf makes a server certificate for host names and IP addresses, valid for 30 days. Its key is in memory alone.
func (ca *CA) Leaf(names ...string) (*Leaf, error) {
	if len(names) == 0 {
		return nil, errors.New("make server certificate: no names")
	}
	l := &Leaf{ca: ca, names: slices.Clone(names)}
	_, err := l.GetCertificate(nil)
	return l, err
}

// GetCertificate is for tls.Config: it returns the certificate, and makes the next one in the last third of its life.
// The argument is not looked at.
func (l *Leaf) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cert != nil && l.ca.now().Before(l.cert.Leaf.NotAfter.Add(-renewBefore)) {
		return l.cert, nil
	}
	template, err := newTemplate("", l.ca.now(), leafLife)
	if err != nil {
		return nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range l.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	l.cert, err = l.ca.sign(template)
	return l.cert, err
}

func newTemplate(name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

func (ca *CA) sign(template *x509.Certificate) (*tls.Certificate, error) {
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
