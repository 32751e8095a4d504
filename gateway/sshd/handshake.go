package sshd

import (
	"context"
	"errors"
	"net"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// The algorithms, the preferred ones first; which are used the client decides by its own order.
//
// chacha20-poly1305 and CBC with encrypt-then-MAC are what the Terrapin attack (CVE-2023-48795) breaks when a peer lacks strict key
// exchange, and the library does not tell whether a peer has it. So neither is offered to anyone. AES-GCM is not affected, and
// AES-CTR only in that an attacker can break a connection, which it can anyway.
func algorithms() gossh.Config {
	return gossh.Config{
		KeyExchanges: []string{
			gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519,
			gossh.KeyExchangeECDHP256, gossh.KeyExchangeECDHP384, gossh.KeyExchangeECDHP521,
		},
		Ciphers: []string{gossh.CipherAES128GCM, gossh.CipherAES256GCM, gossh.CipherAES256CTR, gossh.CipherAES128CTR},
		MACs:    []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM},
	}
}

// keyAlgorithms are the signature algorithms of clients' keys, and of keys in certificates.
func keyAlgorithms() []string {
	return []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256,
	}
}

// connKey and identityKey are what the context of a connection and the Permissions of a key hold things under.
type (
	connKey     struct{}
	identityKey struct{}
)

// identity is what one key that was offered would make of its connection. It is read from the Permissions of a finished
// handshake, and from nowhere else: a client may offer keys that it cannot prove before the one that it can.
type identity struct {
	credential authn.Credential
	principal  string // key of the principal, for counting; empty until the key is proven
}

// remember ties a connection to the context of its handshake.
func remember(ctx ssh.Context, nc net.Conn) net.Conn {
	ctx.SetValue(connKey{}, nc)
	return nc
}

func connOf(ctx ssh.Context) *conn { return ctx.Value(connKey{}).(*conn) }

// handshakeConfig returns the configuration of one handshake. It is made anew for each: gliderlabs/ssh adds host keys to it, and
// switches NoClientAuth on since none of its own handlers is set. The callback makes that harmless.
func (s *Server) handshakeConfig(ctx ssh.Context) *gossh.ServerConfig {
	c := connOf(ctx)
	return &gossh.ServerConfig{
		Config:                  algorithms(),
		PublicKeyAuthAlgorithms: keyAlgorithms(),
		ServerVersion:           "SSH-2.0-lychgate",
		MaxAuthTries:            6,
		NoClientAuthCallback:    func(gossh.ConnMetadata) (*gossh.Permissions, error) { return nil, gossh.ErrNoAuth },
		PublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
			return c.offered(ctx, key)
		},
		VerifiedPublicKeyCallback: func(_ gossh.ConnMetadata, _ gossh.PublicKey, p *gossh.Permissions, _ string) (*gossh.Permissions, error) {
			return c.proven(ctx, p)
		},
		AuthLogCallback: func(_ gossh.ConnMetadata, method string, err error) { c.attempted(method, err) },
	}
}

// errRefused is all that a client's side of the library learns of a key that is not taken.
var errRefused = errors.New("the key is not accepted")

// offered answers a client that asks whether a key is worth a signature, or shows one. Nothing is proven yet.
func (c *conn) offered(ctx context.Context, key gossh.PublicKey) (*gossh.Permissions, error) {
	credential := authn.Credential{Key: authn.NewSSHKey(key, c.door.Remote.Addr())}
	if err := c.server.gate.Knows(ctx, credential); err != nil {
		c.mu.Lock()
		c.refusal = err
		c.mu.Unlock()
		return nil, errRefused
	}
	return permissions(&identity{credential: credential}), nil
}

// proven looks up who holds a key that was proven. The gate records it when it is nobody.
func (c *conn) proven(ctx context.Context, p *gossh.Permissions) (*gossh.Permissions, error) {
	id := identityOf(p)
	if id == nil {
		return nil, errRefused
	}
	session, err := c.server.gate.Session(ctx, c.door, id.credential)
	if err != nil {
		c.recorded(err)
		return nil, errRefused
	}
	principal := session.Principal().Key()
	if !c.countFor(principal) {
		return nil, &gossh.BannerError{Err: errRefused, Message: "lychgate: you have too many connections; close some, or share one (ControlMaster)\n"}
	}
	return permissions(&identity{credential: id.credential, principal: principal}), nil
}

// permissions returns fresh Permissions with an identity, and what a certificate demands of where it is used from, which the
// library enforces once more.
func permissions(id *identity) *gossh.Permissions {
	p := &gossh.Permissions{ExtraData: map[any]any{identityKey{}: id}}
	if cert, ok := id.credential.Key.Public.(*gossh.Certificate); ok {
		if from, ok := cert.CriticalOptions["source-address"]; ok {
			p.CriticalOptions = map[string]string{"source-address": from}
		}
	}
	return p
}

func identityOf(p *gossh.Permissions) *identity {
	if p == nil {
		return nil
	}
	id, _ := p.ExtraData[identityKey{}].(*identity)
	return id
}

// attempted is told the outcome of each try to authenticate. Without an error the handshake is finished.
func (c *conn) attempted(method string, err error) {
	switch {
	case err == nil:
		c.opened()
	case method != "none":
		c.mu.Lock()
		c.tried = true
		c.mu.Unlock()
	}
}

// recorded notes a refusal that the gate has recorded itself.
func (c *conn) recorded(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal, c.isRecorded = err, true
}

// report tells the gate and the metrics how the handshake ended, once the connection is gone. One that was accepted was reported
// when it was.
func (c *conn) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isOpen {
		c.server.observe(Observation{Route: "handshake", Outcome: c.refused(), Took: c.handshakeTook()})
	}
}

// refused records a handshake without a key that was taken, and names its outcome. The caller holds mu.
func (c *conn) refused() string {
	if !c.tried {
		return "dropped"
	}
	if c.refusal == nil {
		c.refusal = &authn.Refusal{Reason: authn.BadCredential, Detail: "no key was shown that the ssh door could check"}
	}
	if !errors.Is(c.refusal, authn.ErrRefused) {
		c.server.log.Error("sign in at the ssh door", "error", c.refusal)
		return unavailable
	}
	if r, ok := errors.AsType[*authn.Refusal](c.refusal); ok && !c.isRecorded {
		c.refusal = c.server.gate.Failed(c.door, r)
	}
	if errors.Is(c.refusal, gateway.ErrThrottled) {
		c.server.lobby.confine(c.address)
		return "throttled"
	}
	return "refused"
}
