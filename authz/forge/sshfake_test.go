package forge_test

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/forge"
)

// sshFake is an ssh server in this process that runs a function for each command.
type sshFake struct {
	server forge.SSHServer
	wire   *wire
}

// newSSHFake serves until the test ends. run gets the command and the channel, and the channel is closed when it returns.
func newSSHFake(t *testing.T, run func(command string, c ssh.Channel)) *sshFake {
	t.Helper()
	dir := t.TempDir()
	hostKey, hostLine := keyFile(t, filepath.Join(dir, "host"))
	clientKey, clientLine := keyFile(t, filepath.Join(dir, "client"))
	signer, err := ssh.ParsePrivateKey([]byte(readFile(t, hostKey)))
	if err != nil {
		t.Fatal(err)
	}
	known := publicKey(t, clientLine)
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(known.Marshal()) {
			return nil, ssh.ErrNoAuth
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config, run)
		}
	}()
	f := &sshFake{wire: newWire(t, l.Addr().String())}
	address := f.wire.Addr().String()
	f.server = forge.SSHServer{Address: address, User: "gate", KeyFile: clientKey, KnownHosts: knownHosts(t, address, hostLine)}
	return f
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig, run func(string, ssh.Channel)) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			defer channel.Close()
			for r := range requests {
				var exec struct{ Command string }
				ok := r.Type == "exec" && ssh.Unmarshal(r.Payload, &exec) == nil
				r.Reply(ok, nil)
				if ok {
					go ssh.DiscardRequests(requests)
					run(exec.Command, channel)
					return
				}
			}
		}()
	}
}
