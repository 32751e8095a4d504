// Package forgegate puts a whole gate in front of a git server of the conformance suite, and shows that the rights there are the
// rights here: users come with their own SSH keys, and what they find follows what the server's administrator does.
package forgegate

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// World is a git server that knows SSH keys which a test can sign with.
type World interface {
	forgetest.World
	forgetest.Keyring
	forgetest.Signers
}

// stage is a gate before a world.
type stage struct {
	*testing.T
	World
	gate   *gwtest.Gate
	object gwtest.Object
	keys   map[string]ssh.Signer
	path   string // of the repository
}

// Run runs the scenario against w, which is empty.
func Run(t *testing.T, w World) {
	s := &stage{T: t, World: w, keys: map[string]ssh.Signer{}, object: gwtest.NewObject("secret", "package"), path: w.Path("lib")}
	for _, user := range []string{"alice", "bob", "ci"} {
		w.AddUser(user)
		s.keys[user] = w.Signer(w.AddKey(user))
	}
	w.AddRepo(s.path, false)
	w.Grant("alice", s.path)
	w.Grant("ci", s.path)
	w.Settle()
	s.gate = gwtest.New(t, gwtest.Options{Provider: w.Provider(), ForgeName: w.Name(), SSH: true})
	s.gate.Publish([]gwtest.Object{s.object}, "git://"+w.Host()+"/"+s.path+".git;protocol=https")

	s.finds("alice", true, "a collaborator")
	s.finds("bob", false, "somebody else")
	w.Withdraw("alice", s.path)
	s.told()
	s.finds("alice", false, "after the collaborator was removed")
	w.Grant("alice", s.path)
	s.told()
	s.finds("alice", true, "added again")
	moved := w.Path("moved")
	w.Rename(s.path, moved)
	s.told()
	s.finds("alice", true, "after the repository was renamed")
	w.AddRepo(s.path, false)
	w.Grant("bob", s.path)
	s.told()
	s.finds("bob", false, "who reads another repository under the old name")
	s.block()
	w.Delete(moved)
	s.told()
	s.finds("alice", false, "after the repository was deleted")
	w.AddRepo(moved, false)
	w.Grant("alice", moved)
	s.told()
	s.finds("alice", false, "after it was created again")
	s.deployKey(moved)
}

// told lets the server obey, and the gate know, as a hook does.
func (s *stage) told() {
	s.Helper()
	s.Settle()
	if _, err := s.gate.Hub.Tell(s.Context(), forge.Event{Forge: s.Name(), Why: "test"}); err != nil {
		s.Fatal(err)
	}
}

// finds checks what a user finds over SSH with the key that the git server knows, and over HTTPS.
func (s *stage) finds(user string, want bool, why string) {
	s.Helper()
	if got := s.fetches(user); got != want {
		s.Errorf("%s, %s: fetches by SSH key: %t, want %t", user, why, got, want)
	}
	status := s.gate.As(user).Get("/sstate/main/" + s.object.Name).StatusCode
	if (status == http.StatusOK) != want || !want && status != http.StatusNotFound {
		s.Errorf("%s, %s: GET answers %d, want found %t", user, why, status, want)
	}
}

// fetches reports whether the artifact can be fetched over SFTP, with its bytes.
func (s *stage) fetches(user string) bool {
	s.Helper()
	client, err := s.dial(s.keys[user])
	if err != nil {
		return false
	}
	defer client.Close()
	files, err := sftp.NewClient(client)
	if err != nil {
		return false
	}
	defer files.Close()
	f, err := files.Open("/main/" + s.object.Name)
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(data, s.object.Content) {
		s.Errorf("%s got %d bytes: %v", user, len(data), err)
	}
	return err == nil
}

func (s *stage) dial(key ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.gate.SSHAddr, &ssh.ClientConfig{
		User: "git", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(s.gate.HostKeys[0].PublicKey()),
	})
}

// block blocks a user, where the server can.
func (s *stage) block() {
	s.Helper()
	b, ok := s.World.(forgetest.Blocker)
	if !ok {
		s.Log("this server blocks nobody")
		return
	}
	b.Block("alice", true)
	s.told()
	if s.fetches("alice") {
		s.Error("a blocked user fetches")
	}
	if status := s.gate.As("alice").Get("/sstate/main/" + s.object.Name).StatusCode; status != http.StatusUnauthorized {
		s.Errorf("a blocked user with a token: %d", status)
	}
	b.Block("alice", false)
	s.told()
	s.finds("alice", true, "not blocked any more")
}

// deployKey shows that whoever holds a deploy key is nobody, where the server has them.
func (s *stage) deployKey(path string) {
	s.Helper()
	d, ok := s.World.(forgetest.DeployKeys)
	if !ok {
		s.Log("this server has no deploy keys")
		return
	}
	key := s.Signer(d.AddDeployKey(path))
	s.told()
	if client, err := s.dial(key); err == nil {
		client.Close()
		s.Error("a deploy key signs in")
	}
}
