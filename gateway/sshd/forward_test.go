package sshd_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// forwardClient is an SSH connection of a user.
func forwardClient(t *testing.T, g *gwtest.Gate, user string) *gossh.Client {
	t.Helper()
	c, err := gossh.Dial("tcp", g.SSHAddr, &gossh.ClientConfig{
		User: "git", Auth: []gossh.AuthMethod{gossh.PublicKeys(gwtest.SSHSigner(user))},
		HostKeyCallback: gossh.FixedHostKey(g.HostKeys[0].PublicKey()), Timeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange speaks the hash equivalence protocol and returns the replies, a line each.
func exchange(t *testing.T, conn net.Conn, lines ...string) []string {
	t.Helper()
	r := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, "OEHASHEQUIV 1.1\nneeds-headers: false\n\n"+strings.Join(lines, "\n")+"\n"); err != nil {
		t.Fatal(err)
	}
	var replies []string
	for range lines {
		reply, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", replies, err)
		}
		replies = append(replies, strings.TrimSpace(reply))
	}
	return replies
}

// TestHashOverSSH: a forwarded port to hashserv is hash equivalence as the owner of the key.
func TestHashOverSSH(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true, Review: true})
	private := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{private}, "git://git.example.com/team/secret.git;protocol=ssh")
	for _, tt := range []struct{ user, host, exists string }{
		{"alice", "hashserv:8686", "true"},
		{"alice", "main.hashserv:1", "true"},
		{"alice", "review.hashserv:1", "true"},
		{"alice", "other.hashserv:1", "false"}, // a zone that is none looks like one where nothing is
		{"bob", "hashserv:8686", "false"},
	} {
		conn, err := forwardClient(t, g, tt.user).Dial("tcp", tt.host)
		if err != nil {
			t.Errorf("%s to %s: %v", tt.user, tt.host, err)
			continue
		}
		got := exchange(t, conn, `{"ping": {}}`, `{"exists-stream": null}`, private.Unihash().String())
		if got[0] != `{"alive":true}` || got[1] != `"ok"` || got[2] != tt.exists {
			t.Errorf("%s to %s: %q, want %s", tt.user, tt.host, got, tt.exists)
		}
		conn.Close()
	}
}

// TestForwardingElsewhereRefused: the gate connects to nothing, whatever a client wants to be connected to.
func TestForwardingElsewhereRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	c := forwardClient(t, g, "alice")
	for _, host := range []string{"127.0.0.1:22", "localhost:8443", "hashserv.example.com:8686", "xhashserv:1", "HASHSERV:1", "hashserv.:1"} {
		if conn, err := c.Dial("tcp", host); err == nil {
			t.Errorf("connected to %s", host)
			conn.Close()
		} else if !strings.Contains(err.Error(), "administratively prohibited") {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, payload := range [][]byte{nil, {0}, {0, 0, 0, 8, 'h', 'a', 's', 'h'}, []byte(strings.Repeat("\xff", 64))} {
		if _, _, err := c.OpenChannel("direct-tcpip", payload); err == nil {
			t.Errorf("opened with %q", payload)
		}
	}
	if _, _, err := c.OpenChannel("direct-streamlocal@openssh.com", gossh.Marshal(struct {
		Path, Reserved string
		Port           uint32
	}{"/etc/passwd", "", 0})); err == nil {
		t.Error("forwarded to a socket")
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("listens for a client")
	}
}

// TestHashChannelEnds: the channel ends with the client's word, with the protocol's fault, and with the connection; each leaves room for
// another.
func TestHashChannelEnds(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	c := forwardClient(t, g, "alice")
	for range 200 { // more than a connection may have open at once
		conn, err := c.Dial("tcp", "hashserv:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "NONSENSE\n\n"); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("read %d, %v", n, err)
		}
		conn.Close()
	}
}
