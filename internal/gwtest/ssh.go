package gwtest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/sshd"
)

// sshDoor makes the ssh door and a listener for it.
func (g *Gate) sshDoor(o Options) (*sshd.Server, net.Listener) {
	var err error
	g.HostKeys, err = sshd.LoadHostKeys(g.Path("ssh"), nil)
	g.must(err, "make a host key")
	door, err := sshd.New(sshd.Config{
		Gateway: g.Gateway, HostKeys: g.HostKeys, Audience: "https://gate.example.com", Hash: g.HashDoor, HashZone: "main", Limits: o.SSHLimits, Observe: o.SSHObserve,
		Log: slog.New(slog.NewTextHandler(testWriter{g.T}, nil)),
	})
	g.must(err, "make the ssh door")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	g.must(err, "listen")
	g.SSHAddr = ln.Addr().String()
	return door, ln
}

// sshKeys makes what recognises SSH keys and certificates.
func (g *Gate) sshKeys(o Options) *authn.SSHKeys {
	cfg := authn.SSHKeysConfig{Directory: g.Forges}
	if o.SSHAuthority != nil {
		set, err := authn.NewSSHKeySet(o.SSHAuthority)
		g.must(err, "read the authority's key")
		cfg.Authorities = []authn.SSHAuthority{{Name: "test", Keys: authn.Fixed[*authn.SSHKeySet]{Value: set}, Forge: Forge, MaxLifetime: 24 * time.Hour}}
	}
	if o.SSHRules != nil {
		o.SSHRules(&cfg)
	}
	keys, err := authn.NewSSHKeys(cfg)
	g.must(err, "make the rules for SSH keys")
	return keys
}

// privateKey returns the SSH key of a user, which follows from the name.
func privateKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("ssh key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// SSHSigner returns the SSH key of a user. One whom the forge does not know has one too, which opens nothing.
func SSHSigner(name string) ssh.Signer {
	signer, err := ssh.NewSignerFromKey(privateKey(name))
	if err != nil {
		panic(err) // it is an Ed25519 key
	}
	return signer
}

// Key writes the private SSH key of a user to a file, and returns its path.
func (g *Gate) Key(name string) string {
	g.T.Helper()
	block, err := ssh.MarshalPrivateKey(privateKey(name), name)
	g.must(err, "encode a key")
	file := g.Path("key-" + name)
	g.must(os.WriteFile(file, pem.EncodeToMemory(block), 0o600), "write a key")
	return file
}

// KnownHosts writes a known_hosts file with the gate's host key, and returns its path.
func (g *Gate) KnownHosts() string {
	g.T.Helper()
	file := g.Path("known_hosts")
	g.must(os.WriteFile(file, []byte(sshd.KnownHosts(g.SSHAddr, g.HostKeys)), 0o600), "write known_hosts")
	return file
}

var forgeUser = regexp.MustCompile(`name: ([a-z0-9-]+), kind:`)

// withKeys gives the users of a forge file, written in DefaultForge's form, their keys.
func withKeys(text string) string {
	return forgeUser.ReplaceAllStringFunc(text, func(m string) string {
		name := forgeUser.FindStringSubmatch(m)[1]
		line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(SSHSigner(name).PublicKey())))
		return "name: " + name + `, keys: ["` + line + `"], kind:`
	})
}
