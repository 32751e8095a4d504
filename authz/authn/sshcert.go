package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHAuthority is who certifies users' keys (ssh-keygen(1), CERTIFICATES), and what is believed of it.
type SSHAuthority struct {
	Name string             // for messages
	Keys Source[*SSHKeySet] // its public keys; a [File] or a [Fixed]
	// Forge is where a certificate's principals are looked up as names of users. Empty: rules alone say who comes.
	Forge string
	// MaxLifetime bounds what a certificate may span from its beginning to its end. It must be positive.
	MaxLifetime time.Duration
	Rules       []PrincipalRule
}

// PrincipalRule says who shows a certificate with exactly that principal, or exactly that key id, or both when both are set.
// A key id is free text that some authorities let users choose: believe those of an authority that does not.
type PrincipalRule struct {
	Principal string
	KeyID     string
	As        Principal
}

// maxPrincipals bounds the principals of one certificate: each is a question to a forge.
const maxPrincipals = 64

// sourceAddress is the one critical option that the gate can keep (PROTOCOL.certkeys).
const sourceAddress = "source-address"

func (a *SSHAuthority) validate(directory Directory, described descriptions) error {
	switch {
	case a.Keys == nil:
		return errors.New("has no keys: name the file of its public keys")
	case a.MaxLifetime <= 0:
		return errors.New("has no longest lifetime: certificates that never end cannot be withdrawn; set one such as 24h")
	case a.Forge == "" && len(a.Rules) == 0:
		return errors.New("has neither a forge nor rules, and would let in nobody: set one")
	case a.Forge != "" && directory == nil:
		return fmt.Errorf("looks up its principals at forge %q, and there is no directory of users", a.Forge)
	}
	for i, rule := range a.Rules {
		if rule.Principal == "" && rule.KeyID == "" {
			return fmt.Errorf("rule %d has neither principal nor key id, and would match every certificate: set one", i+1)
		}
		if err := described.add(rule.As); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

// verifiedCert is what was found out about a certificate once and for all: its signature is good. Everything that time,
// configuration or revocation may change is asked again at each use.
type verifiedCert struct {
	key, authority keySum
	name           string // see certName
	before         time.Time
}

// certCache remembers certificates whose signature was verified, by the SHA-256 of the whole certificate: the signature and
// the key it is made with are part of what is summed, so that nothing else has the same sum. It is bounded and safe for
// concurrent use.
type certCache struct {
	limit int

	mu    sync.RWMutex // guards certs
	certs map[[sha256.Size]byte]*verifiedCert
}

// verify returns what is known of cert, after it verified its signature if that was not done before.
func (c *certCache) verify(cert *ssh.Certificate, now time.Time) (*verifiedCert, error) {
	sum := sha256.Sum256(cert.Marshal())
	c.mu.RLock()
	known := c.certs[sum]
	c.mu.RUnlock()
	if known != nil {
		return known, nil
	}
	checker := ssh.CertChecker{SupportedCriticalOptions: []string{sourceAddress}, Clock: func() time.Time { return now }}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return nil, err
	}
	known = describeCert(cert)
	c.put(sum, known, now)
	return known, nil
}

func (c *certCache) put(sum [sha256.Size]byte, cert *verifiedCert, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.certs) >= c.limit {
		c.makeRoom(now)
	}
	c.certs[sum] = cert
}

// makeRoom forgets what has expired, or else some one certificate: to forget costs a verification, no more. The caller
// holds mu.
func (c *certCache) makeRoom(now time.Time) {
	for sum, cert := range c.certs {
		if !now.Before(cert.before) {
			delete(c.certs, sum)
		}
	}
	for sum := range c.certs {
		if len(c.certs) < c.limit {
			return
		}
		delete(c.certs, sum)
	}
}

func describeCert(cert *ssh.Certificate) *verifiedCert {
	return &verifiedCert{
		key: sumOf(cert.Key), authority: sumOf(cert.SignatureKey),
		name: certName(cert), before: time.Unix(int64(cert.ValidBefore), 0),
	}
}

// certName tells a certificate from others in audit trails: by its authority, serial number, key and key id, each as
// far as 255 bytes of plain characters hold it. Authorities that do not count give every certificate the number 0.
func certName(cert *ssh.Certificate) string {
	const longestID = 100
	plain := func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._@+:/=-", r)) {
			return r
		}
		return '_'
	}
	id := strings.Map(plain, cert.KeyId[:min(len(cert.KeyId), longestID)])
	return "ssh-cert:ca=" + ssh.FingerprintSHA256(cert.SignatureKey) + ",serial=" + strconv.FormatUint(cert.Serial, 10) +
		",key=" + ssh.FingerprintSHA256(cert.Key) + ",id=" + id
}

// certificate authenticates a user certificate. What costs nothing is asked first, the signature before anything that
// costs a question to others, and everything but the signature at each use.
func (s *SSHKeys) certificate(ctx context.Context, cert *ssh.Certificate, remote netip.Addr) (Principal, error) {
	now := s.now()
	if err := checkCertForm(cert); err != nil {
		return Principal{}, refuse(KeyRefused, certSubject(cert), "%v", err)
	}
	authority, err := s.authorityOf(sumOf(cert.SignatureKey))
	if err != nil {
		return Principal{}, err
	}
	if authority == nil {
		return Principal{}, refuse(UnknownKey, certName(cert), "the certificate is by no configured authority")
	}
	if err := authority.checkCert(cert, remote, now); err != nil {
		return Principal{}, refuse(KeyRefused, certName(cert), "authority %q: %v", authority.Name, err)
	}
	verified, err := s.verified.verify(cert, now)
	if err != nil {
		return Principal{}, refuse(KeyRefused, certName(cert), "authority %q: %v", authority.Name, err)
	}
	if err := s.checkRevoked(verified.name, func(l *RevocationList) string {
		return l.revokedCert(cert, verified.key, verified.authority)
	}); err != nil {
		return Principal{}, err
	}
	p, err := s.mapCert(ctx, authority, cert, verified.name)
	if err != nil {
		return Principal{}, err
	}
	return s.finish(p, verified.name, verified.before)
}

// certSubject is certName for a certificate whose form is not known to be sound: x/crypto prints keys of any kind.
func certSubject(cert *ssh.Certificate) string {
	if cert.Key == nil || cert.SignatureKey == nil {
		return ""
	}
	return certName(cert)
}

// checkCertForm asks what does not depend on the authority, nor on time.
func checkCertForm(cert *ssh.Certificate) error {
	if cert.Key == nil || cert.SignatureKey == nil || cert.Signature == nil {
		return errors.New("the certificate is not complete")
	}
	if cert.CertType != ssh.UserCert {
		return fmt.Errorf("the certificate is of type %d, not a user's", cert.CertType)
	}
	for _, key := range []ssh.PublicKey{cert.Key, cert.SignatureKey} {
		if _, nested := key.(*ssh.Certificate); nested {
			return errors.New("a certificate stands where a key belongs")
		}
	}
	if err := CheckSSHKey(cert.Key); err != nil {
		return fmt.Errorf("the certified key: %w", err)
	}
	if err := CheckSSHKey(cert.SignatureKey); err != nil {
		return fmt.Errorf("the authority's key: %w", err)
	}
	if err := checkCertSignature(cert); err != nil {
		return err
	}
	return checkCertNames(cert)
}

// checkCertSignature keeps SHA-1 away, which RSA keys also sign with.
func checkCertSignature(cert *ssh.Certificate) error {
	want := []string{cert.SignatureKey.Type()}
	if want[0] == ssh.KeyAlgoRSA {
		want = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
	}
	if !slices.Contains(want, cert.Signature.Format) {
		return fmt.Errorf("the certificate is signed with %.80q", cert.Signature.Format)
	}
	return nil
}

// checkCertNames: a certificate without principals is good for everybody, to x/crypto.
func checkCertNames(cert *ssh.Certificate) error {
	if n := len(cert.ValidPrincipals); n == 0 || n > maxPrincipals {
		return fmt.Errorf("the certificate has %d principals, want 1 to %d", n, maxPrincipals)
	}
	for _, name := range cert.ValidPrincipals {
		if name == "" {
			return errors.New("the certificate has an empty principal")
		}
		if err := checkText(name); err != nil {
			return fmt.Errorf("the certificate's principal %.60q: %w", name, err)
		}
	}
	return nil
}

// authorityOf returns the authority with the key, or nil.
func (s *SSHKeys) authorityOf(key keySum) (*SSHAuthority, error) {
	var found *SSHAuthority
	for i := range s.authorities {
		a := &s.authorities[i]
		keys, err := a.Keys.Current()
		if keys == nil || !keys.keys[key] {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the keys of SSH authority %q: %w", a.Name, err)
		}
		if found != nil {
			return nil, fmt.Errorf("the SSH authorities %q and %q have the same key: leave it with one", found.Name, a.Name)
		}
		found = a
	}
	return found, nil
}

// checkCert asks what limits the certificate's use.
func (a *SSHAuthority) checkCert(cert *ssh.Certificate, remote netip.Addr, now time.Time) error {
	if err := a.checkTime(cert, now); err != nil {
		return err
	}
	for name, value := range cert.CriticalOptions {
		if name != sourceAddress {
			return fmt.Errorf("the certificate's critical option %.80q cannot be kept", name)
		}
		from, err := parseAddressList(value, false)
		if err != nil {
			return fmt.Errorf("the certificate's source-address: %w", err)
		}
		if !from.match(remote) {
			return fmt.Errorf("the certificate may not be used from %s (source-address)", remote)
		}
	}
	return nil
}

func (a *SSHAuthority) checkTime(cert *ssh.Certificate, now time.Time) error {
	after, before := cert.ValidAfter, cert.ValidBefore
	if before > math.MaxInt64 || before <= after {
		return errors.New("the certificate never ends, or before it begins")
	}
	if span := before - after; span > uint64(a.MaxLifetime/time.Second) {
		return fmt.Errorf("the certificate spans %d s, at most %d are allowed", span, uint64(a.MaxLifetime/time.Second))
	}
	// Compared as numbers: the end of int64 is no time.Time.
	switch unix := now.Unix(); {
	case unix < int64(after):
		return fmt.Errorf("the certificate is not valid before second %d", after)
	case unix >= int64(before):
		return fmt.Errorf("the certificate expired at %s", time.Unix(int64(before), 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// mapCert returns whom the certificate stands for: whom the rules that match name, else the one user whose name is among its
// principals. name is of the certificate.
func (s *SSHKeys) mapCert(ctx context.Context, a *SSHAuthority, cert *ssh.Certificate, name string) (Principal, error) {
	var found []Principal
	for _, rule := range a.Rules {
		if rule.match(cert) {
			found = append(found, rule.As)
		}
	}
	if len(found) == 0 && a.Forge != "" {
		var err error
		if found, err = s.usersOf(ctx, a, cert); err != nil {
			return Principal{}, err
		}
	}
	if len(found) == 0 {
		return Principal{}, refuse(KeyRefused, name, "authority %q: the principals %.200q are nobody's", a.Name, cert.ValidPrincipals)
	}
	for _, p := range found[1:] {
		if p.Key() != found[0].Key() {
			return Principal{}, refuse(KeyRefused, name, "authority %q: the principals %.200q are those of %.80q and %.80q",
				a.Name, cert.ValidPrincipals, found[0].Key(), p.Key())
		}
	}
	return found[0], nil
}

func (r *PrincipalRule) match(cert *ssh.Certificate) bool {
	return (r.KeyID == "" || r.KeyID == cert.KeyId) && (r.Principal == "" || slices.Contains(cert.ValidPrincipals, r.Principal))
}

// usersOf returns the users of the authority's forge who bear a name among the certificate's principals.
func (s *SSHKeys) usersOf(ctx context.Context, a *SSHAuthority, cert *ssh.Certificate) (users []Principal, err error) {
	for _, name := range cert.ValidPrincipals {
		p, err := s.directory.ByName(ctx, a.Forge, name)
		switch {
		case errors.Is(err, ErrNobody):
		case err != nil:
			return nil, fmt.Errorf("look up the user %.80q of forge %q: %w", name, a.Forge, err)
		default:
			users = append(users, p)
		}
	}
	return users, nil
}
