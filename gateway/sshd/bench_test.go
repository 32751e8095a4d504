package sshd_test

import (
	"io"
	"strings"
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

// BenchmarkScp is a download in the old protocol, by cipher. Both ends are in it.
func BenchmarkScp(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{SSH: true})
	o := large()
	command := "scp -f /main/" + g.Publish([]gwtest.Object{o}, publicSource)
	for _, cipher := range []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherAES128CTR} {
		b.Run(cipher, func(b *testing.B) {
			cfg := clientConfig(g, "alice")
			cfg.Ciphers = []string{cipher}
			c, err := ssh.Dial("tcp", g.SSHAddr, cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.SetBytes(int64(len(o.Content)))
			for b.Loop() {
				s, err := c.NewSession()
				if err != nil {
					b.Fatal(err)
				}
				s.Stdin, s.Stdout = strings.NewReader("\x00\x00\x00"), io.Discard
				if err := s.Run(command); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
