package config

import (
	"fmt"
	"slices"
	"time"
)

// SSH is the ssh door: SFTP, scp and a few commands, for whoever has an SSH key that the gate knows. The keys of the forges' users are
// known without any of the keys below. What it says of keys and certificates holds at the https door too, see https.ssh_sign_in.
type SSH struct {
	// Listen is HOST:PORT; an empty host is every address. Default: the door is closed.
	Listen string `yaml:"listen"`
	// Address is HOST:PORT as people reach it, when that is not the audience's host and the port of listen.
	Address string `yaml:"address"`
	// HostKeys are private keys in OpenSSH's format, one of each type at most. Default: an ed25519 key under STATE/ssh, made at the
	// first start.
	HostKeys []Path `yaml:"host_keys"`
	// AuthorizedKeys are files of keys besides the forges', each for one principal: builders, deployments.
	AuthorizedKeys []AuthorizedKeys `yaml:"authorized_keys"`
	// Authorities are those whose user certificates are taken.
	Authorities []SSHAuthority `yaml:"authorities"`
	// Revoked are files of keys and certificates that are not taken any more: OpenSSH's key revocation lists, or public keys, one a
	// line. Reread when they change.
	Revoked []Path `yaml:"revoked"`
	// Connections is how many connections the door holds at once. Default 10000.
	Connections int `yaml:"connections"`
	// ConnectionsPerAddress is how many of them one address may have. Default 4096.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// ConnectionsPerPrincipal is how many of them one principal may have. Default 4096.
	ConnectionsPerPrincipal int `yaml:"connections_per_principal"`
	// Idle is how long a connection may rest without a session. Default 10m.
	Idle time.Duration `yaml:"idle"`
}

// AuthorizedKeys is a file of keys that all stand for one principal.
type AuthorizedKeys struct {
	// File is as sshd(8) describes authorized_keys, with the options from, expiry-time and restrict. Required. Reread when it changes.
	File Path `yaml:"file"`
	// Principal is who shows one of its keys. Required.
	Principal Principal `yaml:"principal"`
}

// SSHAuthority is who signs user certificates.
type SSHAuthority struct {
	// Name is for messages. Required, unique.
	Name string `yaml:"name"`
	// File holds its public keys, one a line. Required. Reread when it changes.
	File Path `yaml:"file"`
	// Forge is where a certificate's principals are looked up as names of users. Required unless rules say who comes.
	Forge string `yaml:"forge"`
	// Lifetime is the longest a certificate may be valid, from its beginning to its end. Default 24h.
	Lifetime time.Duration `yaml:"lifetime"`
	// Rules say who comes with a certain principal or key id. Default none.
	Rules []SSHRule `yaml:"rules"`
}

// SSHRule maps certificates to a principal. At least one of Certified and KeyID; when both are given, both hold.
type SSHRule struct {
	// Certified is a principal in the certificate (ssh-keygen -n), letter by letter.
	Certified string `yaml:"certified"`
	// KeyID is the certificate's identity (ssh-keygen -I), letter by letter. Only for an authority that chooses it itself.
	KeyID string `yaml:"key_id"`
	// Principal is who shows it. Required.
	Principal Principal `yaml:"principal"`
}

func (p *parser) checkSSH(c *Config, forges []string) {
	s := &c.SSH
	if s.Listen == "" {
		known := len(s.AuthorizedKeys) + len(s.Authorities) + len(s.Revoked)
		if len(s.HostKeys) > 0 || known > 0 && !c.HTTPS.SSHSignIn {
			p.required("ssh.listen", p.sound("ssh"), "such as :2222; without it the door is closed, and the other keys mean nothing")
			return
		}
	} else {
		p.checkSSHListen(c)
	}
	for i, k := range s.AuthorizedKeys {
		key := fmt.Sprintf("ssh.authorized_keys[%d]", i)
		p.required(key+".file", k.File == "", "a file as sshd(8) describes authorized_keys")
		p.checkPrincipal(key+".principal", k.Principal, forges)
	}
	var names []string
	for i, a := range s.Authorities {
		key := fmt.Sprintf("ssh.authorities[%d]", i)
		if p.required(key+".name", a.Name == "", "for messages, such as people") {
			p.unique(key+".name", a.Name, names)
			names = append(names, a.Name)
		}
		p.checkAuthority(key, a, forges)
	}
}

// checkSSHListen looks at where the door is.
func (p *parser) checkSSHListen(c *Config) {
	p.listen("ssh.listen", c.SSH.Listen)
	if c.SSH.Address != "" {
		p.listen("ssh.address", c.SSH.Address)
	}
	for key, other := range map[string]string{"https.listen": c.HTTPS.Listen, "admin.listen": c.Admin.Listen} {
		if p.sound(key) && p.sound("ssh.listen") && overlap(other, c.SSH.Listen) {
			p.add("ssh.listen", fmt.Sprintf("%s is %s already", key, other), "choose another port")
		}
	}
}

func (p *parser) checkAuthority(key string, a SSHAuthority, forges []string) {
	p.required(key+".file", a.File == "", "the file with its public keys")
	p.required(key+".forge", a.Forge == "" && len(a.Rules) == 0, "where a certificate's principals are names of users; or give rules")
	p.checkForgeOf(key+".forge", a.Forge, forges)
	if p.sound(key+".lifetime") && (a.Lifetime < 0 || p.given(key+".lifetime") && a.Lifetime == 0) {
		p.add(key+".lifetime", "not a length of time", "write one such as 24h")
	}
	for i, r := range a.Rules {
		at := fmt.Sprintf("%s.rules[%d]", key, i)
		if r.Certified == "" && r.KeyID == "" && p.sound(at) {
			p.add(at, "neither certified nor key_id", "say which certificates these are")
		}
		p.checkPrincipal(at+".principal", r.Principal, forges)
	}
}

// whoHint says what a principal's id is.
const whoHint = "who shows it: the user's id at the forge, or a name of your own without a forge"

// checkPrincipal checks who a credential stands for.
func (p *parser) checkPrincipal(key string, who Principal, forges []string) {
	p.required(key+".id", who.ID == "", whoHint)
	p.checkForgeOf(key+".forge", who.Forge, forges)
	p.checkKind(key+".kind", who.Kind)
}

func (p *parser) checkKind(key, kind string) {
	if kind != "" && !slices.Contains([]string{"human", "ci", "service"}, kind) && p.sound(key) {
		p.add(key, fmt.Sprintf("no such kind: %q", kind), "human, ci or service")
	}
}

// checkSSHFiles looks at what the ssh keys name.
func (p *parser) checkSSHFiles(s *SSH) {
	for i, path := range s.HostKeys {
		key := fmt.Sprintf("ssh.host_keys[%d]", i)
		if p.file(key, path) {
			p.secret(key, Secret{"file", string(path)})
		}
	}
	for i, k := range s.AuthorizedKeys {
		p.file(fmt.Sprintf("ssh.authorized_keys[%d].file", i), k.File)
	}
	for i, a := range s.Authorities {
		p.file(fmt.Sprintf("ssh.authorities[%d].file", i), a.File)
	}
	for i, path := range s.Revoked {
		p.file(fmt.Sprintf("ssh.revoked[%d]", i), path)
	}
}

// SSHDir is where the ssh door's own host key is kept.
func (c *Config) SSHDir() string { return c.under("ssh") }
