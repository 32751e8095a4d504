package provenance

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// JobAuthority vouches for who a CI job is: it certifies a key that the job made for itself, so that the job can sign statements without a
// key that anybody keeps. It is immutable and safe for concurrent use.
type JobAuthority struct{ signer ssh.Signer }

// The first part of the identities of jobs: of those on protected refs, and of those that write to review zones alone.
const (
	JobPrefix       = "job:"
	ReviewJobPrefix = "review-job:"
)

// JobIdentity returns what a job that is p signs as: "job:FORGE/#ID", or "review-job:FORGE/#ID" for one that nobody protects.
func JobIdentity(p *authn.Principal) string {
	prefix := JobPrefix
	if p.Review {
		prefix = ReviewJobPrefix
	}
	return prefix + p.Forge + "/#" + p.ID
}

// NewJobAuthority reads the authority's private key, as ssh-keygen writes it, without a passphrase. It must be used for nothing else.
func NewJobAuthority(key []byte) (*JobAuthority, error) {
	signer, err := LoadSSHSigner(key, nil)
	if err != nil {
		return nil, fmt.Errorf("load the authority of jobs: %w", err)
	}
	if _, err := signingKey(signer); err != nil {
		return nil, fmt.Errorf("load the authority of jobs: %w", err)
	}
	return &JobAuthority{signer}, nil
}

// AllowedSigner is the line of an allowed_signers file by which its certificates are believed.
func (a *JobAuthority) AllowedSigner() string {
	return fmt.Sprintf("%s*,%s* cert-authority,namespaces=%q %s", JobPrefix, ReviewJobPrefix, Namespace, ssh.MarshalAuthorizedKey(a.signer.PublicKey()))
}

var (
	// ErrBadKey is wrapped when a key is not one to certify.
	ErrBadKey = errors.New("not a key to certify")
	// ErrBadIdentity is wrapped when a certificate cannot hold an identity.
	ErrBadIdentity = errors.New("the identity fits no certificate")
)

// Certify returns a certificate, a line as in a -cert.pub file, that says whose a public key is for a while. The key is a line as well.
func (a *JobAuthority) Certify(line, identity string, from, until time.Time) (string, error) {
	key, err := authn.ParseSSHKey(line)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	if _, ok := key.(*ssh.Certificate); ok || bytes.Equal(key.Marshal(), a.signer.PublicKey().Marshal()) {
		return "", fmt.Errorf("%w: it is a certificate, or the authority's own", ErrBadKey)
	}
	if err := checkIdentity(identity); err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadIdentity, err)
	}
	if strings.ContainsAny(identity, ", \t*?!\"") {
		return "", fmt.Errorf("%w: %q has a character that means something in an allowed_signers file", ErrBadIdentity, identity)
	}
	cert := &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, KeyId: identity, ValidPrincipals: []string{identity},
		ValidAfter: uint64(from.Unix()), ValidBefore: uint64(until.Unix()),
	}
	if err := cert.SignCert(rand.Reader, a.signer); err != nil {
		return "", fmt.Errorf("certify a key: %w", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))), nil
}
