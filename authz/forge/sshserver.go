package forge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshPatience bounds connecting to an ssh server, and one answer of it.
const sshPatience = 10 * time.Second

// SSHServer is how a forge is asked over ssh. Both files are read at each connection, so that keys are replaced without a restart.
type SSHServer struct {
	Address    string // HOST:PORT
	User       string // the account
	KeyFile    string // the gate's private key, as ssh-keygen writes it, without a passphrase
	KnownHosts string // a file in the form of ssh's known_hosts that holds the server's keys; no other key is taken
}

// check says what is wrong before anything is connected.
func (s SSHServer) check() error {
	if _, port, err := net.SplitHostPort(s.Address); err != nil || port == "" {
		return fmt.Errorf("ssh address %q: want HOST:PORT", clip(s.Address))
	}
	if s.User == "" {
		return errors.New("no user for ssh: name the account at the server")
	}
	_, err := s.config()
	return err
}

// config reads the files.
func (s SSHServer) config() (*ssh.ClientConfig, error) {
	text, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the key for ssh: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, fmt.Errorf("read the key for ssh %s: it has a passphrase: make one without, for the gate alone", s.KeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key for ssh %s: %w", s.KeyFile, err)
	}
	known, err := knownhosts.New(s.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("read the keys of ssh servers: %w", err)
	}
	algorithms := hostKeyAlgorithms(known, s.Address)
	if len(algorithms) == 0 {
		return nil, fmt.Errorf("%s has no key of %s: add the lines of ssh-keyscan, and compare them with the server's", s.KnownHosts, s.Address)
	}
	strong := ssh.SupportedAlgorithms() // the library's defaults hold weaker ones
	return &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: strong.KeyExchanges, Ciphers: strong.Ciphers, MACs: strong.MACs},
		User:   s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: known, HostKeyAlgorithms: algorithms,
		ClientVersion: "SSH-2.0-Lychgate", Timeout: sshPatience,
	}, nil
}

// hostKeyAlgorithms returns what the known keys of a server can sign with. A server that has others as well would choose one of
// those. The callback tells which keys it wants when it is shown one that nobody has.
func hostKeyAlgorithms(known ssh.HostKeyCallback, address string) (algorithms []string) {
	var unfit *knownhosts.KeyError
	if err := known(address, &net.TCPAddr{}, noKey{}); !errors.As(err, &unfit) {
		return nil
	}
	for _, k := range unfit.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algorithms = append(algorithms, t)
		}
	}
	return algorithms
}

// noKey is a public key that is nobody's.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// dial connects and signs in. ctx bounds that alone.
func (s SSHServer) dial(ctx context.Context) (*ssh.Client, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, s.Address, config)
	if !stop() {
		conn.Close()
		return nil, errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh to %s: %w", s.Address, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}
