package sshd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// patience bounds every wait for something that must happen. Nothing depends on how long it takes.
const patience = 60 * time.Second

// clientConfig is that of a client that shows the key of a user.
func clientConfig(g *gwtest.Gate, user string) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: "git", Auth: []ssh.AuthMethod{ssh.PublicKeys(gwtest.SSHSigner(user))},
		HostKeyCallback: ssh.FixedHostKey(g.HostKeys[0].PublicKey()), Timeout: patience,
	}
}

// dial opens a connection as a user. It ends with the test.
func dial(t testing.TB, g *gwtest.Gate, user string) *ssh.Client {
	t.Helper()
	client, err := ssh.Dial("tcp", g.SSHAddr, clientConfig(g, user))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// result is what a command said. code is -1 when it did not end.
type result struct {
	out, err string
	code     int
}

// run runs a command on a connection.
func run(t testing.TB, client *ssh.Client, command string) result {
	t.Helper()
	return runWith(t, client, command, "")
}

func runWith(t testing.TB, client *ssh.Client, command, input string) result {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		return result{err: err.Error(), code: -1}
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr, s.Stdin = &out, &errs, strings.NewReader(input)
	err = s.Run(command)
	r := result{out: out.String(), err: errs.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitStatus()
	case err != nil:
		r.code = -1
		r.err += err.Error()
	}
	return r
}

// openssh returns the arguments that an OpenSSH client needs to reach a gate as a user, and the name that it calls the gate.
func openssh(t testing.TB, g *gwtest.Gate, user string) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(g.SSHAddr)
	if err != nil {
		t.Fatal(err)
	}
	options := []string{
		"-F", "none", "-o", "HostName=" + host, "-o", "Port=" + port, "-o", "IdentityFile=" + g.Key(user), "-o", "IdentitiesOnly=yes",
		"-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + g.KnownHosts(), "-o", "HostKeyAlias=" + "[" + host + "]:" + port,
		"-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR",
	}
	return options
}

// client runs an OpenSSH program.
func client(t testing.TB, input string, name string, args ...string) result {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("the tests need %s: %v", name, err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errs, strings.NewReader(input)
	err = cmd.Run()
	r := result{out: out.String(), err: errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return r
}

// eventually waits until ok reports true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// doorOf makes another ssh door of a gate.
func doorOf(t testing.TB, g *gwtest.Gate, l sshd.Limits, observe func(sshd.Observation)) *sshd.Server {
	t.Helper()
	s, err := sshd.New(sshd.Config{
		Gateway: g.Gateway, HostKeys: g.HostKeys, Audience: "https://gate.example.com", Limits: l, Observe: observe,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open serves a door on a free port. stop stops it and returns what Serve returned; the end of the test does too.
func open(t testing.TB, s *sshd.Server) (addr string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-served })
	t.Cleanup(func() { _ = stop() })
	return ln.Addr().String(), stop
}

// unwilling is a signer that shows its key and does not sign.
type unwilling struct{ ssh.Signer }

func (unwilling) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, io.ErrClosedPipe }
