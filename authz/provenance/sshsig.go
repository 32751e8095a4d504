package provenance

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// An SSHSIG blob, as OpenSSH's PROTOCOL.sshsig has it:
//
//	byte[6] "SSHSIG"   uint32 version (1)   string public key   string namespace   string reserved (empty)
//	string hash algorithm ("sha256" or "sha512")   string signature
//
// The signature is over "SSHSIG", namespace, reserved, hash algorithm and H(message), each but the first as a string.
// Armoured, the blob stands in base64 between the two lines below.
const (
	sshsigMagic   = "SSHSIG"
	sshsigVersion = 1
	armorBegin    = "-----BEGIN SSH SIGNATURE-----"
	armorEnd      = "-----END SSH SIGNATURE-----"
	maxSSHSIG     = 64 << 10 // bytes of a blob; an RSA certificate by an RSA authority takes 4 KiB
)

// Namespace keeps signatures on statements apart from all others that the same SSH key makes.
const Namespace = "lychgate-provenance@v1"

// SSHSignature is a parsed SSHSIG blob. Nothing in it is verified before Verify returned nil, and then the key is
// proven but not yet trusted: ask [AllowedSigners].Identity.
type SSHSignature struct {
	Key       ssh.PublicKey // an *ssh.Certificate when one was used
	Namespace string
	hash      string
	signature *ssh.Signature
}

type sshsigWire struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  []byte
	Hash      string
	Signature []byte
}

// ParseSSHSignature reads a raw SSHSIG blob strictly. It accepts ed25519, ECDSA, RSA of at least 2048 bits with SHA-2,
// their FIDO forms and certificates of them, and nothing after the blob.
func ParseSSHSignature(blob []byte) (*SSHSignature, error) {
	if len(blob) > maxSSHSIG {
		return nil, fmt.Errorf("parse SSH signature: %d bytes are too long", len(blob))
	}
	body, ok := bytes.CutPrefix(blob, []byte(sshsigMagic))
	if !ok {
		return nil, errors.New("parse SSH signature: it does not begin with SSHSIG")
	}
	var w sshsigWire
	if err := ssh.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("parse SSH signature: %w", err)
	}
	s, err := w.signature()
	if err != nil {
		return nil, fmt.Errorf("parse SSH signature: %w", err)
	}
	return s, nil
}

func (w *sshsigWire) signature() (*SSHSignature, error) {
	switch {
	case w.Version != sshsigVersion:
		return nil, fmt.Errorf("version %d is unknown", w.Version)
	case w.Namespace == "":
		return nil, errors.New("the namespace is empty")
	case len(w.Reserved) != 0:
		return nil, errors.New("the reserved field is not empty")
	case w.Hash != "sha256" && w.Hash != "sha512":
		return nil, fmt.Errorf("hash algorithm %.40q is not sha256 or sha512", w.Hash)
	}
	key, err := ssh.ParsePublicKey(w.PublicKey)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key.Marshal(), w.PublicKey) {
		return nil, errors.New("the public key is not written in its one form")
	}
	if err := authn.CheckSSHKey(key); err != nil {
		return nil, err
	}
	signature, err := parseInnerSignature(w.Signature, plainKey(key).Type())
	if err != nil {
		return nil, err
	}
	return &SSHSignature{Key: key, Namespace: w.Namespace, hash: w.Hash, signature: signature}, nil
}

// parseInnerSignature reads the format, the blob and, for FIDO keys alone, the flags and the counter.
func parseInnerSignature(data []byte, keyType string) (*ssh.Signature, error) {
	var w struct {
		Format string
		Blob   []byte
		Rest   []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	want := []string{keyType}
	rest := 0
	switch keyType {
	case ssh.KeyAlgoRSA:
		want = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256} // SHA-1 is out
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		rest = 5
	}
	if !slices.Contains(want, w.Format) {
		return nil, fmt.Errorf("signature algorithm %.80q does not go with a key of type %s", w.Format, keyType)
	}
	if len(w.Rest) != rest {
		return nil, fmt.Errorf("%d bytes after the signature, want %d", len(w.Rest), rest)
	}
	return &ssh.Signature{Format: w.Format, Blob: w.Blob, Rest: w.Rest}, nil
}

// Verify reports whether the signature is by Key, over message, in the given namespace. A FIDO signature must say
// that its user was present.
func (s *SSHSignature) Verify(namespace string, message []byte) error {
	if s.Namespace != namespace {
		return fmt.Errorf("SSH signature is for the namespace %.80q, not %q", s.Namespace, namespace)
	}
	signed, err := sshsigMessage(namespace, s.hash, message)
	if err != nil {
		return err
	}
	return s.Key.Verify(signed, s.signature)
}

// VerifySSH parses a raw blob and verifies it. It returns the key, proven but not yet trusted.
func VerifySSH(blob []byte, namespace string, message []byte) (ssh.PublicKey, error) {
	s, err := ParseSSHSignature(blob)
	if err != nil {
		return nil, err
	}
	if err := s.Verify(namespace, message); err != nil {
		return nil, err
	}
	return s.Key, nil
}

// SignSSH signs message in namespace, as `ssh-keygen -Y sign -n namespace` does, and returns the raw blob. RSA keys
// sign with rsa-sha2-512 or not at all.
func SignSSH(signer ssh.Signer, namespace string, message []byte) ([]byte, error) {
	if namespace == "" {
		return nil, errors.New("sign: the namespace is empty")
	}
	key, err := signingKey(signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	const hash = "sha512"
	signed, err := sshsigMessage(namespace, hash, message)
	if err != nil {
		return nil, err
	}
	signature, err := signModern(signer, plainKey(key).Type(), signed)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", fingerprint(key), err)
	}
	w := sshsigWire{sshsigVersion, key.Marshal(), namespace, nil, hash, ssh.Marshal(ssh.Signature{
		Format: signature.Format, Blob: signature.Blob, Rest: signature.Rest,
	})}
	return append([]byte(sshsigMagic), ssh.Marshal(w)...), nil
}

// signingKey returns the key that signer signs with, of a kind we accept. An agent's signer has a key that is only a name
// and octets, certificates too, so those are parsed.
func signingKey(signer ssh.Signer) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
	if err != nil {
		return nil, err
	}
	return key, authn.CheckSSHKey(key)
}

// signModern keeps RSA away from SHA-1, which ssh.Signer.Sign would use.
func signModern(signer ssh.Signer, keyType string, data []byte) (*ssh.Signature, error) {
	if keyType != ssh.KeyAlgoRSA {
		return signer.Sign(rand.Reader, data)
	}
	s, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("this RSA key cannot sign with SHA-2; use an ed25519 key")
	}
	signature, err := s.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512)
	if err == nil && signature.Format != ssh.KeyAlgoRSASHA512 {
		return nil, fmt.Errorf("the agent answered with a %q signature; use an ed25519 key", signature.Format)
	}
	return signature, err
}

func sshsigMessage(namespace, hash string, message []byte) ([]byte, error) {
	w := struct {
		Namespace string
		Reserved  []byte
		Hash      string
		Digest    []byte
	}{Namespace: namespace, Hash: hash}
	switch hash {
	case "sha256":
		sum := sha256.Sum256(message)
		w.Digest = sum[:]
	case "sha512":
		sum := sha512.Sum512(message)
		w.Digest = sum[:]
	default:
		return nil, fmt.Errorf("hash algorithm %q is unknown", hash)
	}
	return append([]byte(sshsigMagic), ssh.Marshal(w)...), nil
}

// plainKey returns the key that a certificate certifies, or the key itself.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// fingerprint is "SHA256:" and base64, as `ssh-keygen -l` prints it; of a certificate, that of its key.
func fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(plainKey(key)) }

// ArmorSSH writes a raw blob the way ssh-keygen keeps it in a file.
func ArmorSSH(blob []byte) []byte {
	const width = 70
	text := base64.StdEncoding.EncodeToString(blob)
	var b bytes.Buffer
	b.WriteString(armorBegin + "\n")
	for len(text) > width {
		b.WriteString(text[:width] + "\n")
		text = text[width:]
	}
	b.WriteString(text + "\n" + armorEnd + "\n")
	return b.Bytes()
}

// UnarmorSSH returns the raw blob of an armoured signature. Nothing may stand before the first line or, but for one line
// end, after the last.
func UnarmorSSH(armored []byte) ([]byte, error) {
	if len(armored) > 2*maxSSHSIG {
		return nil, fmt.Errorf("unarmor SSH signature: %d bytes are too long", len(armored))
	}
	text := bytes.ReplaceAll(armored, []byte("\r\n"), []byte("\n"))
	body, ok := bytes.CutPrefix(text, []byte(armorBegin+"\n"))
	if !ok {
		return nil, fmt.Errorf("unarmor SSH signature: the first line is not %s", armorBegin)
	}
	body, ok = bytes.CutSuffix(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"+armorEnd))
	if !ok {
		return nil, fmt.Errorf("unarmor SSH signature: the last line is not %s", armorEnd)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(string(bytes.ReplaceAll(body, []byte("\n"), nil)))
	if err != nil {
		return nil, fmt.Errorf("unarmor SSH signature: %w", err)
	}
	return blob, nil
}
