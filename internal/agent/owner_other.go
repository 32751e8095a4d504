//go:build !linux

package agent

import (
	"errors"
	"net"
	"os"
)

// ownersKnown is whether ownerOf works for TCP.
const ownersKnown = false

// ownerOf returns the user id of the process at the other end of a connection. A unix socket of ours lies in a directory that nobody else can
// enter.
func ownerOf(c net.Conn) (int, error) {
	if _, ok := c.(*net.UnixConn); ok {
		return os.Getuid(), nil
	}
	return 0, errors.New("this system does not tell")
}

// unmappedUser returns a user id that there is not: where users are told apart each is one.
func unmappedUser() int { return -1 }
