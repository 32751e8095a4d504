package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ownersKnown is whether ownerOf works for TCP.
const ownersKnown = true

// ownerOf returns the user id of the process at the other end of a connection of this machine.
func ownerOf(c net.Conn) (int, error) {
	switch c := c.(type) {
	case *net.UnixConn:
		return unixOwner(c)
	case *net.TCPConn:
		return tcpOwner(c)
	}
	return 0, fmt.Errorf("a connection of kind %T", c)
}

// unmappedUser returns the user id that the kernel shows in place of all that this process cannot tell apart, in a container with users of its
// own.
func unmappedUser() int {
	const usual = 65534
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		return usual
	}
	uid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return usual
	}
	return uid
}

func unixOwner(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// tcpOwner looks for the client's own socket in the kernel's tables: the one whose two addresses are ours the other way around.
func tcpOwner(c *net.TCPConn) (int, error) {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		uid, found, err := findOwner(f, remote, local)
		f.Close()
		if err != nil || found {
			return uid, err
		}
	}
	return 0, errors.New("the kernel does not know the client's socket (any more)")
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := t.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

// findOwner reads a table like /proc/net/tcp for the socket that is bound to local and connected to remote. A socket that no process holds any
// more has no inode, and the user id 0 whoever it was: it is not found.
func findOwner(table io.Reader, local, remote netip.AddrPort) (uid int, found bool, err error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		// sl local_address rem_address st tx_queue:rx_queue tr:when retrnsmt uid timeout inode
		if len(f) < 10 || f[0] == "sl" || f[9] == "0" {
			continue
		}
		if here, ok := tableAddress(f[1]); !ok || here != local {
			continue
		}
		if there, ok := tableAddress(f[2]); !ok || there != remote {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		return uid, err == nil, err
	}
	return 0, false, lines.Err()
}

// tableAddress reads ADDRESS:PORT in hex, the address as 32-bit words in the machine's order.
func tableAddress(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	at, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(at.Unmap(), uint16(p)), ok
}
