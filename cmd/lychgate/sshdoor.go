package main

import (
	"fmt"
	"net"
	"net/url"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/config"
)

func (g *gate) sshDoor(hash *hashd.Server) (*sshd.Server, error) {
	s, l := g.cfg.SSH, g.cfg.Limits
	keys, err := hostKeys(g.cfg)
	if err != nil {
		return nil, fmt.Errorf("ssh.host_keys: %w", err)
	}
	g.log.Info("the ssh door's host keys", "fingerprints", sshd.Fingerprints(keys))
	return sshd.New(sshd.Config{
		Gateway: g.gateway, HostKeys: keys, Audience: g.cfg.HTTPS.Audience, Hash: hash, HashZone: hashZoneName(g.cfg), Observe: g.metrics.observeSSH, Log: g.log,
		Limits: sshd.Limits{
			Conns: s.Connections, ConnsPerAddress: s.ConnectionsPerAddress, ConnsPerPrincipal: s.ConnectionsPerPrincipal, IdleTimeout: s.Idle,
			ProgressWindow: l.ProgressWindow, ProgressBytes: int64(l.ProgressRate) * int64(l.ProgressWindow/time.Second), DrainTimeout: l.Drain,
		},
	})
}

// hostKeys are those that the configuration names, or the gate's own.
func hostKeys(cfg *config.Config) ([]gossh.Signer, error) {
	files := make([]string, len(cfg.SSH.HostKeys))
	for i, path := range cfg.SSH.HostKeys {
		files[i] = string(path)
	}
	return sshd.LoadHostKeys(cfg.SSHDir(), files)
}

// signIn is what anybody may know of how to sign in.
func (g *gate) signIn() gateway.SignIn {
	s := gateway.SignIn{Resource: g.cfg.HTTPS.Audience, Issuers: []string{}, Methods: []string{"header"}, People: []gateway.SignInIssuer{}}
	for _, o := range g.cfg.OIDC {
		if o.People == nil {
			continue
		}
		s.Issuers = append(s.Issuers, o.Issuer)
		s.People = append(s.People, gateway.SignInIssuer{Name: o.Name, Issuer: o.Issuer, ClientID: o.People.ClientID, Scopes: o.People.Scopes})
	}
	s.SSHKeys = g.cfg.HTTPS.SSHSignIn
	if g.cfg.SSH.Listen != "" {
		s.SSH = sshAddress(g.cfg)
	}
	return s
}

// sshAddress is HOST:PORT of the ssh door as people reach it.
func sshAddress(cfg *config.Config) string {
	if cfg.SSH.Address != "" {
		return cfg.SSH.Address
	}
	_, port, _ := net.SplitHostPort(cfg.SSH.Listen)
	host := ""
	if u, err := url.Parse(cfg.HTTPS.Audience); err == nil {
		host = u.Hostname()
	}
	return net.JoinHostPort(host, port)
}
