package sshd_test

import (
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestOpenSSHCommands: what people and BitBake type, with the client they have.
func TestOpenSSHCommands(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	hello, secret := gwtest.NewObject("hello", "package"), gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{hello}, publicSource)
	g.Publish([]gwtest.Object{secret}, privateSource)
	ssh := func(user, input string, command ...string) result {
		return client(t, input, "ssh", append(append(openssh(t, g, user), "gate", "--"), command...)...)
	}
	for _, c := range []string{"whoami", "help", "token", "nonsense", "'[' -f /main/" + secret.Name + " ']'", "explain /main/" + secret.Name} {
		t.Logf("%s: %+v", c, ssh("alice", "", strings.Fields(c)...))
	}
}
