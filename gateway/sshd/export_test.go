package sshd

import (
	"net"

	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// Split is split.
func Split(line string) ([]string, error) { return split(line) }

// Handshake answers the callbacks of one handshake at a server, over a connection that nothing is sent on.
func Handshake(s *Server, nc net.Conn) *gossh.ServerConfig {
	leave, _ := s.open.Admit("")
	return s.handshakeConfig(&fakeContext{conn: newConn(s, nc, leave)})
}

// Identified returns the credential and the principal's key that Permissions hold.
func Identified(p *gossh.Permissions) (credential authn.Credential, principal string) {
	id := identityOf(p)
	if id == nil {
		return credential, ""
	}
	return id.credential, id.principal
}

// HalfOpen counts the handshakes under way.
func (s *Server) HalfOpen() int {
	s.lobby.mu.Lock()
	defer s.lobby.mu.Unlock()
	return s.lobby.count
}

// Open counts the connections.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// PermissionsOf returns the Permissions of a key that was offered.
func PermissionsOf(key gossh.PublicKey) *gossh.Permissions {
	return permissions(&identity{credential: authn.Credential{Key: &authn.SSHKey{Public: key}}})
}
