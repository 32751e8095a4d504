package sshd_test

import (
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// BenchmarkPresence is what BitBake does for each object of an ssh:// mirror: a connection, a test, and the end. Both ends are in it.
func BenchmarkPresence(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{SSH: true})
	test := "[ -f /main/" + g.Publish([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource) + " ]"
	for b.Loop() {
		c, err := ssh.Dial("tcp", g.SSHAddr, clientConfig(g, "alice"))
		if err != nil {
			b.Fatal(err)
		}
		if r := run(b, c, test); r.code != 0 {
			b.Fatalf("%+v", r)
		}
		c.Close()
	}
}

// BenchmarkExec is a test on a connection that stays open (ControlMaster).
func BenchmarkExec(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{SSH: true})
	test := "[ -f /main/" + g.Publish([]gwtest.Object{gwtest.NewObject("hello", "package")}, publicSource) + " ]"
	c := dial(b, g, "alice")
	for b.Loop() {
		if r := run(b, c, test); r.code != 0 {
			b.Fatalf("%+v", r)
		}
	}
}
