package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// firstInherited is the first descriptor that systemd hands over.
const firstInherited = 3

// inherited returns the listeners that systemd opened for this process, by the names that its socket units give them (FileDescriptorName):
// http, control, hash-ZONE. There are none unless LISTEN_PID says that they are for us.
func inherited(env func(string) string, pid, first int) (map[string][]net.Listener, error) {
	if env("LISTEN_PID") != strconv.Itoa(pid) {
		return nil, nil
	}
	n, err := strconv.Atoi(env("LISTEN_FDS"))
	names := strings.Split(env("LISTEN_FDNAMES"), ":")
	if err != nil || n < 1 || n != len(names) {
		return nil, errors.New("LISTEN_FDS and LISTEN_FDNAMES do not agree: give each socket unit a FileDescriptorName")
	}
	all := map[string][]net.Listener{}
	for i, name := range names {
		if name != "http" && name != "control" && !strings.HasPrefix(name, "hash-") {
			return nil, fmt.Errorf("a socket named %s: FileDescriptorName is to be http, control or hash-ZONE", printable(name))
		}
		f := os.NewFile(uintptr(first+i), name)
		ln, err := net.FileListener(f) // a copy, which no child inherits
		if err != nil {
			return nil, fmt.Errorf("socket %s: %w", printable(name), err)
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		all[name] = append(all[name], ln)
	}
	return all, nil
}

// inherit takes over what systemd opened. What it opened is not opened again.
func (p *agentPlaces) inherit(all map[string][]net.Listener) error {
	p.http = all["http"]
	for name, listeners := range all {
		zone, hash := strings.CutPrefix(name, "hash-")
		switch {
		case hash:
			p.hash[zone] = listeners[0]
		case name == "control":
			p.control = listeners[0]
		default:
			continue
		}
		if len(listeners) > 1 {
			return fmt.Errorf("%d sockets named %s: want one", len(listeners), printable(name))
		}
	}
	return nil
}
