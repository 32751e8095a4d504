package forge_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// keyFile writes a new private key and returns its name and the line of its public key.
func keyFile(t *testing.T, name string) (file, line string) {
	t.Helper()
	_, line = newKeyFile(t, name)
	return name, line
}

// newKeyFile is keyFile for who needs the key itself.
func newKeyFile(t *testing.T, name string) (key ssh.Signer, line string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err = ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, string(pem.EncodeToMemory(block)))
	return key, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

func publicKey(t *testing.T, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// knownHosts writes a file that knows a server by one key.
func knownHosts(t *testing.T, address, line string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "known_hosts")
	write(t, file, knownhosts.Line([]string{address}, publicKey(t, line))+"\n")
	return file
}

// wire is a TCP relay that can be cut.
type wire struct {
	net.Listener
	to string

	mu    sync.Mutex // guards what follows
	cut   bool
	conns map[net.Conn]bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, to: to, conns: map[net.Conn]bool{}}
	go w.serve()
	t.Cleanup(func() { l.Close(); w.setCut(true) })
	return w
}

func (w *wire) serve() {
	for {
		c, err := w.Accept()
		if err != nil {
			return
		}
		go w.relay(c)
	}
}

func (w *wire) relay(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	cut := w.cut
	w.conns[near] = true
	w.mu.Unlock()
	if cut {
		return
	}
	go func() { io.Copy(far, near); far.Close() }()
	io.Copy(near, far)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, near)
}

// setCut ends all connections and refuses others, or mends the wire.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.conns {
			c.Close()
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
