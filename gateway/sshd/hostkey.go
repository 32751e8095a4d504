package sshd

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	gossh "golang.org/x/crypto/ssh"
)

const (
	hostKeyFile  = "ssh_host_ed25519_key"
	minRSABits   = 3072
	maxHostBytes = 64 << 10 // of a key file
)

// LoadHostKeys reads the private keys that the door proves itself with: those in files, or, if there are none, the one in dir,
// which is made on the first start. A file that others may read is refused.
func LoadHostKeys(dir string, files []string) ([]gossh.Signer, error) {
	if len(files) == 0 {
		made, err := madeHostKey(dir)
		if err != nil {
			return nil, fmt.Errorf("ssh host key: %w", err)
		}
		files = []string{made}
	}
	var keys []gossh.Signer
	held := map[string]string{}
	for _, file := range files {
		key, err := loadHostKey(file)
		if err != nil {
			return nil, fmt.Errorf("ssh host key %s: %w", file, err)
		}
		kind := key.PublicKey().Type()
		if other, twice := held[kind]; twice {
			return nil, fmt.Errorf("ssh host keys %s and %s are both %s: keep one", other, file, kind)
		}
		held[kind] = file
		keys = append(keys, key)
	}
	return keys, nil
}

func loadHostKey(file string) (gossh.Signer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("others may read it (mode %04o): run chmod 600", info.Mode().Perm())
	case info.Size() > maxHostBytes:
		return nil, errors.New("it is too large for a key")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	raw, err := gossh.ParseRawPrivateKey(text)
	if err != nil {
		if _, isLocked := errors.AsType[*gossh.PassphraseMissingError](err); isLocked {
			return nil, errors.New("it has a passphrase, which nobody could give at a start: remove it with ssh-keygen -p")
		}
		return nil, fmt.Errorf("not a private key: %w", err)
	}
	signer, err := gossh.NewSignerFromKey(raw)
	if err != nil {
		return nil, err
	}
	switch key := raw.(type) {
	case *ed25519.PrivateKey, *ecdsa.PrivateKey:
		return signer, nil
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("RSA with %d bits: use %d at least, or Ed25519", key.N.BitLen(), minRSABits)
		}
		// Without SHA-1.
		return gossh.NewSignerWithAlgorithms(signer.(gossh.AlgorithmSigner), []string{gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256})
	}
	return nil, errors.New("neither Ed25519 nor ECDSA nor RSA: use Ed25519")
}

// madeHostKey returns the file of the door's own key, which it makes if there is none. Of two that make it at once, the first to
// be done wins.
func madeHostKey(dir string) (string, error) {
	file := filepath.Join(dir, hostKeyFile)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := gossh.MarshalPrivateKey(private, "lychgate")
	if err != nil {
		return "", err
	}
	if err := publish(file, pem.EncodeToMemory(block)); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return file, nil
}

// publish writes a file that is there as a whole, and durably, or not at all. One that exists is left as it is.
func publish(file string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // for its owner alone
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Fingerprints returns what `ssh` shows of host keys when it asks whether to go on.
func Fingerprints(keys []gossh.Signer) []string {
	var prints []string
	for _, k := range keys {
		prints = append(prints, k.PublicKey().Type()+" "+gossh.FingerprintSHA256(k.PublicKey()))
	}
	return prints
}

// KnownHosts returns lines of a known_hosts file (sshd(8)) for a door with these keys at addr, "HOST:PORT".
func KnownHosts(addr string, keys []gossh.Signer) string {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		host = addr
	case port != "22":
		host = "[" + host + "]:" + port
	}
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(host + " " + string(gossh.MarshalAuthorizedKey(k.PublicKey())))
	}
	return b.String()
}
