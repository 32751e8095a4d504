package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/lychgate/lychgate/authz/provenance"
)

// SignerOptions says which key signs. Without any, ssh-agent is asked for the one key that it holds.
type SignerOptions struct {
	// Key is a private key file: as ssh-keygen writes it, or a PEM "PRIVATE KEY" (PKCS #8) of an ed25519 or ECDSA P-256
	// key. It may also be a public key file (.pub) or a fingerprint ("SHA256:..."): then ssh-agent signs.
	Key string
	// Certificate is an SSH certificate file. Empty: Key with "-cert.pub" in place of ".pub" or at its end, if that
	// exists.
	Certificate string
	// AgentSocket is ssh-agent's; empty: none. A caller gives the environment's SSH_AUTH_SOCK.
	AgentSocket string
	// Passphrase is asked for when Key needs one; nil: such a key is an error.
	Passphrase func(prompt string) ([]byte, error)
}

// maxKeyFile bounds a key file; the largest RSA key of ssh-keygen needs 13 KiB.
const maxKeyFile = 64 << 10

// LoadSigner finds the key that signs statements. A signer from ssh-agent keeps its connection, for the life of the
// process. Errors say what to do next.
func LoadSigner(opt SignerOptions) (provenance.Signer, error) {
	switch {
	case opt.Key == "" && opt.AgentSocket == "":
		return nil, errors.New("no key to sign with: give --key FILE, or start ssh-agent and add one (ssh-add)")
	case opt.Key == "" || isFingerprint(opt.Key):
		return fromAgent(opt, opt.Key)
	}
	text, err := readKeyFile(opt.Key)
	if err != nil {
		return nil, err
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return fromAgent(opt, ssh.FingerprintSHA256(plainKey(public)))
	}
	if block, _ := pem.Decode(text); block != nil && block.Type == "PRIVATE KEY" && opt.Certificate == "" {
		return plainSigner(opt.Key, block.Bytes)
	}
	signer, err := privateSigner(opt, text)
	if err != nil {
		return nil, fmt.Errorf("key file %q: %w", opt.Key, err)
	}
	return withCertificate(opt, signer)
}

// JobSigner makes a key that lives in memory alone, and has the gate certify that the CI job which c signs in as holds it. It also returns what
// the job signs as. The signer is good for as long as the credential.
func (c *Client) JobSigner(ctx context.Context) (signer provenance.Signer, identity string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	plain, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, "", err
	}
	certificate, err := c.Certify(ctx, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(plain.PublicKey()))))
	if err != nil {
		return nil, "", err
	}
	paired, err := provenance.PairCertificate(plain, []byte(certificate.Certificate))
	if err != nil {
		return nil, "", fmt.Errorf("have the job's key certified: %w", err)
	}
	signer, err = provenance.NewSSHSigner(paired)
	return signer, certificate.Identity, err
}

// isFingerprint reports whether a key is named by its fingerprint, as ssh-keygen -l prints it.
func isFingerprint(key string) bool { return strings.HasPrefix(key, "SHA256:") }

// readKeyFile is readKey for a file that somebody named, and that must be there.
func readKeyFile(name string) ([]byte, error) {
	text, err := readKey(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key file %q does not exist: make one with ssh-keygen -t ed25519, or give another --key", name)
	}
	return text, err
}

func readKey(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("key file %q is not a key file: it is no regular file of at most %d bytes", name, maxKeyFile)
	}
	return os.ReadFile(name)
}

// plainKey is the key inside a certificate, or the key itself.
func plainKey(k ssh.PublicKey) ssh.PublicKey {
	if cert, ok := k.(*ssh.Certificate); ok {
		return cert.Key
	}
	return k
}

// plainSigner signs without SSH's framing.
func plainSigner(name string, der []byte) (provenance.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key file %q: %w", name, err)
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key file %q: of ECDSA keys only P-256 is accepted", name)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key file %q holds no key that can sign", name)
	}
	return provenance.NewKeySigner(signer)
}

// privateSigner reads a private key of ssh-keygen, and asks for its passphrase if it has one.
func privateSigner(opt SignerOptions, text []byte) (ssh.Signer, error) {
	signer, err := provenance.LoadSSHSigner(text, nil)
	var missing *ssh.PassphraseMissingError
	switch {
	case !errors.As(err, &missing):
		return signer, err
	case opt.Passphrase == nil:
		return nil, errors.New("it needs a passphrase, and nobody can be asked: add it to ssh-agent (ssh-add) and give its .pub file as --key")
	}
	passphrase, err := opt.Passphrase("Passphrase for " + opt.Key + ": ")
	if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	defer clear(passphrase)
	signer, err = provenance.LoadSSHSigner(text, passphrase)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, errors.New("the passphrase is wrong")
	}
	return signer, err
}

// withCertificate puts the certificate that belongs to the key in its place, if there is one.
func withCertificate(opt SignerOptions, signer ssh.Signer) (provenance.Signer, error) {
	paired, err := certified(opt, signer)
	switch {
	case err != nil:
		return nil, err
	case paired == nil:
		return provenance.NewSSHSigner(signer)
	}
	return provenance.NewSSHSigner(paired)
}

// certified returns a signer that signs under the certificate that belongs to the key, or nil if there is none.
func certified(opt SignerOptions, signer ssh.Signer) (ssh.Signer, error) {
	name := opt.Certificate
	if name == "" {
		name = strings.TrimSuffix(opt.Key, ".pub") + "-cert.pub"
	}
	line, err := readKey(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && opt.Certificate == "":
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read SSH certificate: %w", err)
	}
	paired, err := provenance.PairCertificate(signer, line)
	if err != nil {
		return nil, fmt.Errorf("certificate file %q: %w", filepath.Base(name), err)
	}
	return paired, nil
}

// fromAgent asks ssh-agent for the key with a fingerprint, or for the only one.
func fromAgent(opt SignerOptions, fingerprint string) (provenance.Signer, error) {
	if opt.AgentSocket == "" {
		return nil, fmt.Errorf("key %s must come from ssh-agent, which does not run: start it (eval $(ssh-agent)) and ssh-add the key, or give a private key file", fingerprint)
	}
	conn, err := net.Dial("unix", opt.AgentSocket)
	if err != nil {
		return nil, fmt.Errorf("ask ssh-agent: %w (is SSH_AUTH_SOCK right?)", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err == nil {
		var chosen sshKey
		if chosen, err = choose(parsedKeys(signers), fingerprint, opt.Certificate == ""); err == nil {
			return agentSigner(opt, chosen)
		}
	}
	conn.Close()
	return nil, fmt.Errorf("ask ssh-agent: %w", err)
}

// parsedKeys tells an agent's keys from its certificates: there, a key is only a name and octets. Certificates that no longer count are
// left out, and the key itself may still sign.
func parsedKeys(signers []ssh.Signer) (keys []sshKey) {
	for _, signer := range signers {
		public, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
		if err == nil && !outdated(public) {
			keys = append(keys, sshKey{signer, public})
		}
	}
	return keys
}

func agentSigner(opt SignerOptions, chosen sshKey) (provenance.Signer, error) {
	if _, ok := chosen.public.(*ssh.Certificate); ok && opt.Certificate == "" {
		return provenance.NewSSHSigner(chosen.signer)
	}
	if opt.Certificate == "" && !strings.HasSuffix(opt.Key, ".pub") {
		return provenance.NewSSHSigner(chosen.signer)
	}
	return withCertificate(opt, chosen.signer)
}

// choose picks a key; of one that is there alone and with a certificate, the one that is wanted.
func choose(keys []sshKey, fingerprint string, certificates bool) (sshKey, error) {
	byKey := map[string]sshKey{}
	var names []string
	for _, k := range keys {
		name := ssh.FingerprintSHA256(plainKey(k.public))
		_, certified := k.public.(*ssh.Certificate)
		if _, ok := byKey[name]; !ok {
			names = append(names, name)
		} else if certified != certificates {
			continue
		}
		byKey[name] = k
	}
	switch chosen, ok := byKey[fingerprint]; {
	case ok:
		return chosen, nil
	case fingerprint != "":
		return sshKey{}, fmt.Errorf("it does not hold the key %s: ssh-add it", printable(fingerprint))
	case len(names) == 1:
		return byKey[names[0]], nil
	case len(names) == 0:
		return sshKey{}, errors.New("it holds no key: ssh-add one, or give --key FILE")
	}
	return sshKey{}, fmt.Errorf("it holds several keys: give one as --key: %s", strings.Join(names, " "))
}
