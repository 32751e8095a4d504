package provenance

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// Signer makes one signature of an envelope. Sign gets the DSSE pre-authentication encoding and returns the raw
// signature, with the fingerprint of the key as a hint for people.
type Signer interface {
	Sign(pae []byte) (sig []byte, keyID string, err error)
}

type sshSigner struct {
	signer ssh.Signer
	keyID  string
}

// NewSSHSigner signs with a key from a file, an agent or a certificate. The signature is the raw SSHSIG blob in
// [Namespace]. It refuses keys that no [Verifier] would accept.
func NewSSHSigner(s ssh.Signer) (Signer, error) {
	key, err := signingKey(s)
	if err != nil {
		return nil, fmt.Errorf("use SSH key: %w", err)
	}
	return sshSigner{s, fingerprint(key)}, nil
}

func (s sshSigner) Sign(pae []byte) (sig []byte, keyID string, err error) {
	sig, err = SignSSH(s.signer, Namespace, pae)
	return sig, s.keyID, err
}

type keySigner struct {
	key    crypto.Signer
	public ssh.PublicKey
}

// NewKeySigner signs with a plain ed25519 or ECDSA P-256 key, which may sit in a key management service. An ECDSA
// signature is over SHA-256, in ASN.1.
func NewKeySigner(key crypto.Signer) (Signer, error) {
	public, err := plainSSHKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("use signing key: %w", err)
	}
	return keySigner{key, public}, nil
}

func (s keySigner) Sign(pae []byte) (sig []byte, keyID string, err error) {
	if s.public.Type() == ssh.KeyAlgoED25519 {
		sig, err = s.key.Sign(rand.Reader, pae, crypto.Hash(0))
	} else {
		digest := sha256.Sum256(pae)
		sig, err = s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	return sig, fingerprint(s.public), err
}

// plainSSHKey checks the kind of a plain key and gives it its SSH form, so that all keys have one sort of fingerprint.
func plainSSHKey(key crypto.PublicKey) (ssh.PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an ed25519 key of %d bytes", len(k))
		}
	case *ecdsa.PublicKey:
		if k == nil || k.Curve != elliptic.P256() {
			return nil, errors.New("an ECDSA key must be on the curve P-256")
		}
	default:
		return nil, fmt.Errorf("keys of type %T are not accepted; use ed25519 or ECDSA P-256", key)
	}
	return ssh.NewPublicKey(key)
}

// verifyPlain checks the signature of a plain key over pae.
func verifyPlain(key crypto.PublicKey, pae, sig []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, pae, sig)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(pae)
		return ecdsa.VerifyASN1(k, digest[:], sig)
	}
	return false
}

// LoadSSHSigner reads a private key in any form that ssh-keygen writes. passphrase may be empty; when the key needs
// one, the error wraps [*ssh.PassphraseMissingError].
func LoadSSHSigner(pemBytes, passphrase []byte) (ssh.Signer, error) {
	s, err := ssh.ParsePrivateKey(pemBytes)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) && len(passphrase) > 0 {
		s, err = ssh.ParsePrivateKeyWithPassphrase(pemBytes, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("load SSH key: %w", err)
	}
	if err := authn.CheckSSHKey(s.PublicKey()); err != nil {
		return nil, fmt.Errorf("load SSH key: %w", err)
	}
	return s, nil
}

// PairCertificate returns a signer that signs with s under the certificate in line, the content of a -cert.pub file.
func PairCertificate(s ssh.Signer, line []byte) (ssh.Signer, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, fmt.Errorf("load SSH certificate: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("load SSH certificate: want one certificate and nothing else, as in a -cert.pub file")
	}
	if cert.CertType != ssh.UserCert {
		return nil, errors.New("load SSH certificate: it is not a user certificate")
	}
	paired, err := ssh.NewCertSigner(cert, s)
	if err != nil {
		return nil, fmt.Errorf("load SSH certificate: it is for another key, %s: %w", fingerprint(cert), err)
	}
	return paired, nil
}

// ParsePlainPublicKey reads a PEM "PUBLIC KEY" for [PlainKey].Key.
func ParsePlainPublicKey(pemBytes []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(pemBytes)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("load public key: want one PEM block \"PUBLIC KEY\" and nothing else")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load public key: %w", err)
	}
	if _, err := plainSSHKey(key); err != nil {
		return nil, fmt.Errorf("load public key: %w", err)
	}
	return key, nil
}
