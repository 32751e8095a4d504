package provenance

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/artifact"
)

// ErrUntrusted is wrapped by [Verifier.Open] when no signature of a well-formed envelope is by a signer it trusts.
var ErrUntrusted = errors.New("no trusted signature")

// PlainKey is a key that signs envelopes without SSH's format: ed25519 or ECDSA P-256.
type PlainKey struct {
	Identity            string
	Key                 crypto.PublicKey
	NotBefore, NotAfter time.Time // zero: no bound
}

// VerifierConfig says whose signatures count. At least one of AllowedSigners and Keys is needed.
type VerifierConfig struct {
	// AllowedSigners is the content of an allowed_signers file, as [ParseAllowedSigners] reads it.
	AllowedSigners []byte
	// Location is the time zone of the times in it without "Z"; nil means time.Local.
	Location *time.Location
	// Keys are plain keys. A key, plain or in AllowedSigners, has one identity.
	Keys []PlainKey
	// Revoked holds fingerprints as `ssh-keygen -l` prints them ("SHA256:..."), of keys, of the keys in certificates, and
	// of certificate authorities. What they sign counts no more, whenever it was signed.
	Revoked []string
	// Now tells the time; nil means time.Now. Signatures are judged by the signer's validity now: the time that a
	// statement claims proves nothing.
	Now func() time.Time
}

// Verifier opens envelopes. It is immutable and safe for concurrent use.
type Verifier struct {
	signers *AllowedSigners
	plain   []verifierKey
	revoked map[string]bool
	now     func() time.Time
}

type verifierKey struct {
	PlainKey
	id string // fingerprint
}

// Verified is an envelope whose signature and statement hold.
type Verified struct {
	Statement *Statement
	Digest    artifact.Digest // SHA-256 of the envelope's bytes
	Signer    string          // the identity, as AllowedSigners or the PlainKey names it
	KeyID     string          // "SHA256:..." of the signer's key; of a certificate, of the key in it
}

// NewVerifier checks the configuration whole.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	signers, err := ParseAllowedSigners(cfg.AllowedSigners, cfg.Location)
	if err != nil {
		return nil, err
	}
	v := &Verifier{signers: signers, revoked: make(map[string]bool), now: cfg.Now}
	if v.now == nil {
		v.now = time.Now
	}
	names := make(map[string]string)
	for _, l := range signers.lines {
		if !l.authority {
			names[fingerprint(l.key)] = l.identity
		}
	}
	for _, k := range cfg.Keys {
		if err := v.addPlain(k, names); err != nil {
			return nil, fmt.Errorf("signing key of %q: %w", k.Identity, err)
		}
	}
	if len(signers.lines) == 0 && len(v.plain) == 0 {
		return nil, errors.New("no signer is trusted: list one in allowed signers, or a key")
	}
	for _, id := range cfg.Revoked {
		if !isFingerprint(id) {
			return nil, fmt.Errorf("revoked key %.80q: want SHA256: and base64, as `ssh-keygen -l` prints it", id)
		}
		v.revoked[id] = true
	}
	return v, nil
}

func (v *Verifier) addPlain(k PlainKey, names map[string]string) error {
	public, err := plainSSHKey(k.Key)
	if err != nil {
		return err
	}
	if err := checkIdentity(k.Identity); err != nil {
		return err
	}
	if !k.NotBefore.IsZero() && !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter) {
		return errors.New("it ends before it begins")
	}
	id := fingerprint(public)
	if old, ok := names[id]; ok && old != k.Identity {
		return fmt.Errorf("key %s belongs to %q already; one key names one signer", id, old)
	}
	names[id] = k.Identity
	v.plain = append(v.plain, verifierKey{k, id})
	return nil
}

func isFingerprint(id string) bool {
	text, ok := strings.CutPrefix(id, "SHA256:")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(text)
	return ok && err == nil && len(sum) == sha256.Size
}

// Open verifies an envelope and then reads its statement. One signature by a trusted signer is enough; when there
// are several, the first in the envelope's order names the Signer, and those that do not verify are passed over. The
// envelope's keyid decides nothing. Whether the statement fits what it came with is for the caller to ask: zone,
// audience, upload, age and subjects.
func (v *Verifier) Open(envelope []byte) (*Verified, error) {
	payload, signatures, err := openEnvelope(envelope)
	if err != nil {
		return nil, fmt.Errorf("open envelope: %w", err)
	}
	pae := dsse.PAE(PayloadType, payload)
	var refusals []string
	for i, sig := range signatures {
		signer, keyID, err := v.verify(pae, sig)
		if err != nil {
			refusals = append(refusals, fmt.Sprintf("signature %d: %v", i+1, err))
			continue
		}
		statement, err := ParseStatement(payload)
		if err != nil {
			return nil, fmt.Errorf("open envelope: %w", err)
		}
		return &Verified{Statement: statement, Digest: sha256.Sum256(envelope), Signer: signer, KeyID: keyID}, nil
	}
	return nil, fmt.Errorf("open envelope: %w: %s", ErrUntrusted, strings.Join(refusals, "; "))
}

// verify tells the forms of signatures apart by what they are, never by the envelope's word: an SSHSIG blob begins with
// its name and is longer than the 64 bytes of ed25519, and an ASN.1 signature begins with another byte.
func (v *Verifier) verify(pae, sig []byte) (signer, keyID string, err error) {
	if len(sig) > 64 && bytes.HasPrefix(sig, []byte(sshsigMagic)) {
		return v.verifySSH(pae, sig)
	}
	for _, k := range v.plain {
		if verifyPlain(k.Key, pae, sig) {
			return k.Identity, k.id, v.checkPlain(k)
		}
	}
	return "", "", errors.New("it is by none of the listed keys, or damaged")
}

func (v *Verifier) checkPlain(k verifierKey) error {
	now := v.now()
	switch {
	case v.revoked[k.id]:
		return fmt.Errorf("key %s is revoked", k.id)
	case !k.NotBefore.IsZero() && now.Before(k.NotBefore):
		return fmt.Errorf("key %s is not yet valid", k.id)
	case !k.NotAfter.IsZero() && now.After(k.NotAfter):
		return fmt.Errorf("key %s is no longer valid", k.id)
	}
	return nil
}

// verifySSH asks the cheap questions first: whose key it would be, and only then whether it signed.
func (v *Verifier) verifySSH(pae, blob []byte) (signer, keyID string, err error) {
	s, err := ParseSSHSignature(blob)
	if err != nil {
		return "", "", err
	}
	keyID = fingerprint(s.Key)
	if v.revoked[keyID] {
		return "", "", fmt.Errorf("key %s is revoked", keyID)
	}
	if cert, ok := s.Key.(*ssh.Certificate); ok && v.revoked[fingerprint(cert.SignatureKey)] {
		return "", "", fmt.Errorf("certificate authority %s is revoked", fingerprint(cert.SignatureKey))
	}
	if signer, err = v.signers.Identity(s.Key, Namespace, v.now()); err != nil {
		return "", "", err
	}
	if err := s.Verify(Namespace, pae); err != nil {
		return "", "", err
	}
	return signer, keyID, nil
}
