package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
)

// SSHKeys signs in over HTTPS with an SSH key: the key signs a challenge of the gate's. Nothing but the https door is needed for it.
//
// Without a Key it tries those that ssh-agent holds, certificates among them, in the agent's order, and first the one that was taken last.
// ssh-agent is asked anew for each token, so it may be restarted meanwhile.
type SSHKeys struct {
	SignerOptions        // as for statements; a Key that needs a passphrase is asked for it each time
	Audience      string // what the gate calls itself, when that is not the URL that the client has

	mu   sync.Mutex // guards last
	last string     // fingerprint of the key that was taken last
}

var _ TokenSource = (*SSHKeys)(nil)

const (
	maxTried     = 6                // keys; each that the gate does not know is a refusal to it
	maxChallenge = 1 << 10          // bytes
	agentTime    = 10 * time.Second // to list keys; a signature may wait for a person
)

func (k *SSHKeys) String() string {
	if k.Key == "" {
		return "the SSH keys of ssh-agent"
	}
	return "the SSH key " + printable(k.Key)
}

// Token implements [TokenSource]. Its error wraps [ErrNoKey] when the gate takes none of the keys, or there is none.
func (k *SSHKeys) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	keys, err := k.open()
	if err != nil {
		return gateway.TokenReply{}, err
	}
	defer keys.close()
	stop := context.AfterFunc(ctx, keys.close) // ends a wait for the agent
	defer stop()
	c = c.anonymous()
	info, err := c.SignIn(ctx, k.Audience)
	if err != nil {
		return gateway.TokenReply{}, err
	}
	if !info.SSHKeys {
		return gateway.TokenReply{}, &noKeyError{text: "the gate takes no SSH keys over https: use --ssh or --oidc"}
	}
	return k.try(ctx, keys.signers, func(key sshKey) (gateway.TokenReply, error) { return show(ctx, c, info.Resource, key, r) })
}

// try shows one key after another, until the gate takes one or something else goes wrong.
func (k *SSHKeys) try(ctx context.Context, keys []sshKey, show func(sshKey) (gateway.TokenReply, error)) (gateway.TokenReply, error) {
	var failed []string
	var last error
	for i, key := range k.order(keys) {
		if i == maxTried {
			failed = append(failed, fmt.Sprintf("%d more were not tried: say which with --key", len(keys)-i))
			break
		}
		reply, err := show(key)
		var signing *signingError
		switch {
		case err == nil:
			k.remember(key)
			return reply, nil
		case ctx.Err() != nil:
			return gateway.TokenReply{}, ctx.Err()
		case isRefusal(err):
			last = err
		case !errors.As(err, &signing):
			return gateway.TokenReply{}, err
		}
		failed = append(failed, key.name()+": "+whyNot(err))
	}
	return gateway.TokenReply{}, &noKeyError{
		text: "the gate takes none of these SSH keys: " + strings.Join(failed, "; ") + ". Add one to your account at the git server, or give another as --key", refused: last,
	}
}

// noKeyError is an [ErrNoKey], and the gate's last refusal if there was one.
type noKeyError struct {
	text    string
	refused error // may be nil
}

func (e *noKeyError) Error() string        { return e.text }
func (e *noKeyError) Is(target error) bool { return target == ErrNoKey }
func (e *noKeyError) Unwrap() error        { return e.refused }

// whyNot is what became of one key, in few words.
func whyNot(err error) string {
	if isRefusal(err) {
		return "the gate refused it"
	}
	return err.Error()
}

// show has the gate make a token for one key. A challenge is asked for each: one that waited for another key's holder may be too old.
func show(ctx context.Context, c *Client, resource string, key sshKey, r gateway.TokenRequest) (gateway.TokenReply, error) {
	var challenge gateway.SSHChallenge
	err := c.send(ctx, request{
		op: "ask for a challenge", method: http.MethodPost, path: []string{"v1", "ssh", "challenge"}, within: tokenTime, into: &challenge,
	})
	if err != nil {
		return gateway.TokenReply{}, err
	}
	if text := challenge.Challenge; text == "" || len(text) > maxChallenge || !isPlainWord(text) {
		return gateway.TokenReply{}, errors.New("ask for a challenge: the gate's answer holds none")
	}
	asked := time.Now()
	blob, err := provenance.SignSSH(key.signer, gateway.SignInNamespace, gateway.SignInMessage(resource, challenge.Challenge))
	if err != nil {
		return gateway.TokenReply{}, &signingError{err}
	}
	if took := time.Since(asked); took >= time.Duration(challenge.Seconds)*time.Second {
		return gateway.TokenReply{}, &signingError{fmt.Errorf("it took %v to sign, and the gate waits %d s", took.Truncate(time.Second), challenge.Seconds)}
	}
	r.SSH = &gateway.SSHProof{Challenge: challenge.Challenge, Signature: base64.StdEncoding.EncodeToString(blob)}
	return c.Token(ctx, r)
}

// signingError says that a key did not sign: it is locked, its holder declined, or did not touch it.
type signingError struct{ err error }

func (e *signingError) Error() string { return e.err.Error() }
func (e *signingError) Unwrap() error { return e.err }

func (k *SSHKeys) remember(key sshKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = ssh.FingerprintSHA256(key.public)
}

// order returns the keys with the one that was taken last in front.
func (k *SSHKeys) order(keys []sshKey) []sshKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	ordered := make([]sshKey, 0, len(keys))
	for _, first := range []bool{true, false} {
		for _, key := range keys {
			if (ssh.FingerprintSHA256(key.public) == k.last) == first {
				ordered = append(ordered, key)
			}
		}
	}
	return ordered
}

// sshKey is a key that may sign, or a certificate with it.
type sshKey struct {
	signer ssh.Signer
	public ssh.PublicKey // an *ssh.Certificate for one
}

// name is the key's fingerprint, and whether it is a certificate.
func (k sshKey) name() string {
	name := ssh.FingerprintSHA256(plainKey(k.public))
	if _, ok := k.public.(*ssh.Certificate); ok {
		name += " (certificate)"
	}
	return name
}

// openKeys are keys that can be used until close.
type openKeys struct {
	signers []sshKey
	close   func()
}

// open finds the keys.
func (k *SSHKeys) open() (openKeys, error) {
	if k.Key == "" {
		return k.ofAgent("")
	}
	if isFingerprint(k.Key) {
		return k.ofAgent(k.Key)
	}
	text, err := readKeyFile(k.Key)
	if err != nil {
		return openKeys{}, err
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return k.ofAgent(ssh.FingerprintSHA256(plainKey(public)))
	}
	signer, err := privateSigner(k.SignerOptions, text)
	if err != nil {
		return openKeys{}, fmt.Errorf("key file %q: %w", k.Key, err)
	}
	keys, err := k.paired(nil, signer)
	return openKeys{keys, func() {}}, err
}

// paired adds a key, after the certificate that belongs to it. A certificate that the user named stands alone.
func (k *SSHKeys) paired(keys []sshKey, signer ssh.Signer) ([]sshKey, error) {
	paired, err := certified(k.SignerOptions, signer)
	if err != nil {
		return nil, err
	}
	if paired != nil {
		keys = appendUsable(keys, paired)
	}
	if paired == nil || k.Certificate == "" {
		keys = appendUsable(keys, signer)
	}
	return keys, nil
}

// appendUsable adds a key if a gate could take one of its kind. An agent's signer has a key that is only a name and octets, so it is parsed.
func appendUsable(keys []sshKey, signer ssh.Signer) []sshKey {
	public, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
	if err != nil || authn.CheckSSHKey(public) != nil || outdated(public) {
		return keys
	}
	return append(keys, sshKey{signer, public})
}

// outdated reports whether a key is a certificate that no gate takes: one that has expired, or is a host's.
func outdated(public ssh.PublicKey) bool {
	cert, ok := public.(*ssh.Certificate)
	return ok && (cert.CertType != ssh.UserCert || uint64(time.Now().Unix()) >= cert.ValidBefore)
}

// ofAgent returns ssh-agent's keys: all, or those with one fingerprint.
func (k *SSHKeys) ofAgent(fingerprint string) (openKeys, error) {
	if k.AgentSocket == "" {
		return openKeys{}, &noKeyError{text: "ssh-agent does not run (SSH_AUTH_SOCK is not set): start it and ssh-add your key, or give a private key file as --key"}
	}
	conn, err := net.DialTimeout("unix", k.AgentSocket, agentTime)
	if err != nil {
		return openKeys{}, &noKeyError{text: fmt.Sprintf("ask ssh-agent: %v (is SSH_AUTH_SOCK right?)", err)}
	}
	keys, err := k.listed(conn, fingerprint)
	if err != nil {
		conn.Close()
		return openKeys{}, err
	}
	return openKeys{keys, func() { conn.Close() }}, nil
}

// listed asks the agent for its keys.
func (k *SSHKeys) listed(conn net.Conn, fingerprint string) (keys []sshKey, err error) {
	if err := conn.SetDeadline(time.Now().Add(agentTime)); err != nil {
		return nil, err
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, &noKeyError{text: fmt.Sprintf("ask ssh-agent: %v", err)}
	}
	for _, signer := range signers {
		public, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
		if err != nil || fingerprint != "" && ssh.FingerprintSHA256(plainKey(public)) != fingerprint {
			continue
		}
		if _, ok := public.(*ssh.Certificate); ok || fingerprint == "" || isFingerprint(k.Key) {
			keys = appendUsable(keys, signer)
			continue
		}
		if keys, err = k.paired(keys, signer); err != nil { // the certificate may lie beside the .pub file
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, &noKeyError{text: missing(fingerprint) + ": ssh-add it"}
	}
	return keys, conn.SetDeadline(time.Time{})
}

func missing(fingerprint string) string {
	if fingerprint == "" {
		return "ssh-agent holds no key that a gate would take"
	}
	return "ssh-agent does not hold the key " + printable(fingerprint)
}

// AgentHasKeys reports whether ssh-agent holds a key that a gate would take.
func AgentHasKeys(socket string) bool {
	if socket == "" {
		return false
	}
	keys, err := (&SSHKeys{SignerOptions: SignerOptions{AgentSocket: socket}}).open()
	if err != nil {
		return false
	}
	keys.close()
	return true
}
