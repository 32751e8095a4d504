package servertls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files says what a [Reloader] reads.
type Files struct {
	Cert string // PEM: the certificate, then its chain
	Key  string // PEM: its private key
	// Interval is how often the files are looked at. Default 2 s.
	Interval time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log is told of every new pair and of every new reason to keep the old one. Required.
	Log *slog.Logger
}

// Reloader serves a certificate from files and follows them. It reads their content rather than watching them: that
// works alike for renamed files, symbolic links that are swapped (Kubernetes) and file systems without events. It is
// safe for concurrent use.
type Reloader struct {
	files   Files
	current atomic.Pointer[tls.Certificate]

	// mu is held while files are read, so that a slow read cannot put an older pair in place of a newer one.
	mu        sync.Mutex
	cert, key []byte // what was read last, good or bad
	failed    string // the error it gave; empty when it was good
}

// NewReloader reads the pair once; a bad one is an error.
func NewReloader(f Files) (*Reloader, error) {
	if f.Interval <= 0 {
		f.Interval = 2 * time.Second
	}
	if f.Now == nil {
		f.Now = time.Now
	}
	if f.Log == nil {
		return nil, errors.New("follow certificate files: no log was given")
	}
	r := &Reloader{files: f}
	if err := r.Reload(); err != nil {
		return nil, err
	}
	return r, nil
}

// GetCertificate is for tls.Config: it returns the last good pair.
func (r *Reloader) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.current.Load(), nil
}

// Run follows the files until ctx ends, and returns nil.
func (r *Reloader) Run(ctx context.Context) error {
	tick := time.NewTicker(r.files.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = r.Reload() // it has logged the reason, once
		}
	}
}

// Reload reads the files now. When they hold another pair and it is good, handshakes that begin from now on use it;
// when it is not, the old pair stays and the error says why: the key does not match, a date is wrong, no name.
func (r *Reloader) Reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cert, errCert := readBounded(r.files.Cert, maxFile)
	key, errKey := readBounded(r.files.Key, maxFile)
	err := errors.Join(errCert, errKey)
	if err == nil && r.failed == "" && bytes.Equal(cert, r.cert) && bytes.Equal(key, r.key) {
		return nil
	}
	var pair *tls.Certificate
	if err == nil {
		pair, err = check(cert, key, r.files.Now())
	}
	if err != nil {
		return r.keep(fmt.Errorf("load certificate %q: %w", r.files.Cert, err))
	}
	r.cert, r.key, r.failed = cert, key, ""
	r.current.Store(pair)
	r.files.Log.Info("certificate loaded", "file", r.files.Cert, "serial", pair.Leaf.SerialNumber.Text(16), "until", pair.Leaf.NotAfter)
	return nil
}

// keep logs why the old pair stays, unless that was the reason last time.
func (r *Reloader) keep(err error) error {
	if r.failed != err.Error() && r.current.Load() != nil {
		r.files.Log.Error("certificate kept", "error", err, "hint", "mend the files: they are read again by themselves")
	}
	r.failed = err.Error()
	return err
}

func check(certPEM, keyPEM []byte, now time.Time) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	leaf := pair.Leaf
	switch {
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("ended at %s", leaf.NotAfter.Format(time.RFC3339))
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return nil, errors.New("no DNS name or IP address among its subject alternative names; clients do not look at the common name")
	}
	return &pair, checkChain(pair.Certificate)
}

// checkChain makes sure that each certificate is signed by the one after it, as a client without the others expects.
func checkChain(chain [][]byte) error {
	var child *x509.Certificate
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if child != nil {
			if err := child.CheckSignatureFrom(cert); err != nil {
				return fmt.Errorf("certificate %d of the file did not sign the one before it: %w", i+1, err)
			}
		}
		child = cert
	}
	return nil
}

const maxFile = 1 << 20

// readBounded reads a file of at most so many bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%q is longer than %d bytes", path, most)
	}
	return b, err
}
