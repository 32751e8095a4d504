package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/lychgate/lychgate/authz/artifact"
)

const (
	// firstInherited is the file descriptor of the first socket that systemd hands over (sd_listen_fds(3)).
	firstInherited = 3
	maxInherited   = 64
	// controlSocket names the socket (FileDescriptorName=) on which the agent is asked how it is.
	controlSocket = "control"
	// hashSocket begins the name of a socket for hash equivalence (FileDescriptorName=); the zone follows.
	hashSocket = "hash-"
)

// inherit takes the sockets that systemd opened for this process: those named hash-ZONE are for hash equivalence, one
// named control takes the place of --control, all others are for objects.
func (p *agentPlaces) inherit(env func(string) string) error {
	if pid, err := strconv.Atoi(env("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil // none, or for another process
	}
	n, err := strconv.Atoi(env("LISTEN_FDS"))
	if err != nil || n < 0 || n > maxInherited {
		return fmt.Errorf("LISTEN_FDS: want a number up to %d", maxInherited)
	}
	names := strings.Split(env("LISTEN_FDNAMES"), ":")
	for i := range n {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		if err := p.take(uintptr(firstInherited+i), name); err != nil {
			return err
		}
	}
	return nil
}

// take takes one socket.
func (p *agentPlaces) take(fd uintptr, name string) error {
	syscall.CloseOnExec(int(fd))
	f := os.NewFile(fd, name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("the socket %q that was handed over does not listen: %w", name, err)
	}
	zone, hash := strings.CutPrefix(name, hashSocket)
	switch {
	case name == controlSocket && p.control == nil && ln.Addr().Network() == "unix":
		p.control = ln
		return nil
	case name == controlSocket:
		_ = ln.Close()
		return fmt.Errorf("the socket %q that was handed over: want one, and a path", name)
	case !hash:
		p.http = append(p.http, ln)
		return nil
	case !artifact.ValidZoneName(zone) || p.hash[zone] != nil:
		_ = ln.Close()
		return fmt.Errorf("the socket %q that was handed over: want FileDescriptorName=%sZONE, each zone once", name, hashSocket)
	}
	p.hash[zone] = ln
	return nil
}
