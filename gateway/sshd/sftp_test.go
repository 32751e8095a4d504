package sshd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const (
	publicSource  = "git://git.example.com/public/hello.git;protocol=https"
	privateSource = "git://git.example.com/team/secret.git;protocol=ssh"
)

// generous are the limits of tests that are about something else.
func generous() sshd.Limits {
	return sshd.Limits{OpenHandles: 64, ProgressWindow: 30 * time.Second}
}

// sessionOf returns what opens the sessions of a user's connection, as its credential is at the time.
func sessionOf(g *gwtest.Gate, name string) func(context.Context) (*gateway.Session, error) {
	u := g.As(name)
	return func(ctx context.Context) (*gateway.Session, error) {
		door := gateway.Door{Name: "ssh", Remote: netip.MustParseAddrPort("192.0.2.1:22")}
		return g.Gateway.Session(ctx, door, authn.Credential{Token: authn.NewSecret(u.Token)})
	}
}

// serve speaks SFTP as a user to the other end of the pipe that it returns. The channel has ended, and all that belonged to it, when
// the test does.
func serve(t testing.TB, g *gwtest.Gate, user string, l sshd.Limits) net.Conn {
	t.Helper()
	server, client := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() { _ = sshd.ServeSFTP(context.Background(), server, sessionOf(g, user), l); server.Close() })
	t.Cleanup(func() { client.Close(); running.Wait() })
	return client
}

// connect returns a client of a user.
func connect(t testing.TB, g *gwtest.Gate, user string) *sftp.Client {
	t.Helper()
	conn := serve(t, g, user, generous())
	c, err := sftp.NewClientPipe(conn, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// connectSSH returns a client of a user over a real SSH connection on loopback.
func connectSSH(t testing.TB, g *gwtest.Gate, user string, options ...sftp.ClientOption) *sftp.Client {
	t.Helper()
	conn, err := ssh.Dial("tcp", listenSSH(t, g, user), &ssh.ClientConfig{
		User: "git", HostKeyCallback: ssh.InsecureIgnoreHostKey(), Config: ssh.Config{Ciphers: []string{"aes128-gcm@openssh.com"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := sftp.NewClient(conn, options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listenSSH serves SFTP as a user to whoever connects, without any authentication.
func listenSSH(t testing.TB, g *gwtest.Gate, user string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	session := sessionOf(g, user)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serveConn(conn, config, session) })
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// serveConn answers one session after another with SFTP.
func serveConn(conn net.Conn, config *ssh.ServerConfig, session func(context.Context) (*gateway.Session, error)) {
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
			for r := range requests {
				_ = r.Reply(r.Type == "subsystem", nil)
			}
		}()
		_ = sshd.ServeSFTP(context.Background(), channel, session, generous())
		channel.Close()
	}
}

// sized returns an object with n random bytes.
func sized(t testing.TB, recipe string, n int) gwtest.Object {
	t.Helper()
	o := gwtest.NewObject(recipe, "package")
	o.Content = make([]byte, n)
	if _, err := rand.Read(o.Content); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestReads: who may read finds, sees and gets; who may not finds nothing.
func TestReads(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := sized(t, "hello", 3<<20+17)
	info := gwtest.NewSiginfo(o)
	g.Publish([]gwtest.Object{o, info}, privateSource)
	alice := connect(t, g, "alice")
	for _, want := range []gwtest.Object{o, info} {
		path := "/main/" + want.Name
		fi, err := alice.Stat(path)
		if err != nil || fi.Size() != int64(len(want.Content)) || fi.Mode() != 0o444 || time.Since(fi.ModTime()) > time.Hour {
			t.Errorf("stat: %v %v", fi, err)
		}
		f, err := alice.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want.Content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	var walked []string
	for w := alice.Walk("/"); w.Step(); {
		if w.Err() != nil {
			t.Error(w.Err())
		}
		walked = append(walked, w.Path())
	}
	dir := "/main/universal/" + strings.Split(o.Name, "/")[1]
	want := []string{"/", "/main", "/main/universal", dir, dir + "/" + strings.Split(o.Name, "/")[2], "/main/" + o.Name, "/main/" + info.Name}
	if !slices.Equal(walked, want) {
		t.Errorf("walked %q, want %q", walked, want)
	}
	bob := connect(t, g, "bob")
	for _, path := range want[1:] {
		_, statErr := bob.Stat(path)
		_, openErr := bob.Open(path)
		_, listErr := bob.ReadDir(path)
		for _, err := range []error{statErr, openErr, listErr} {
			if err == nil || !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
				t.Errorf("bob, %s: %v", path, err)
			}
		}
	}
	if list, err := bob.ReadDir("/"); err != nil || len(list) != 0 {
		t.Errorf("bob sees %v, %v", list, err)
	}
}
