package sshd_test

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

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
