package provenance_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/provenance"
)

// sshKeygen runs the real ssh-keygen in dir. The suite fails where there is none.
func sshKeygen(t *testing.T, dir string, stdin []byte, args ...string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=") // the key in the file signs, no agent
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("ssh-keygen %q: %v\n%s", args, err, out)
	}
	return err
}

func mustKeygen(t *testing.T, dir string, stdin []byte, args ...string) {
	t.Helper()
	if err := sshKeygen(t, dir, stdin, args...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(filepath.Join(dir, name)))
}

// TestInterop makes keys with ssh-keygen, signs with either side and verifies with the other.
func TestInterop(t *testing.T) {
	for _, kind := range [][]string{
		{"-t", "ed25519"},
		{"-t", "ecdsa", "-b", "256"},
		{"-t", "ecdsa", "-b", "384"},
		{"-t", "ecdsa", "-b", "521"},
		{"-t", "rsa", "-b", "2048"},
	} {
		t.Run(kind[1]+kind[len(kind)-1], func(t *testing.T) {
			dir := t.TempDir()
			mustKeygen(t, dir, nil, append([]string{"-q", "-a", "1", "-N", "open sesame", "-C", "", "-f", "key"}, kind...)...)
			if _, err := provenance.LoadSSHSigner(read(t, dir, "key"), nil); err == nil {
				t.Fatal("a key was loaded without its passphrase")
			}
			key := must[ssh.Signer](t)(provenance.LoadSSHSigner(read(t, dir, "key"), []byte("open sesame")))
			mustKeygen(t, dir, nil, "-q", "-p", "-P", "open sesame", "-N", "", "-f", "key") // for ssh-keygen itself
			allowed := `ci@example.com namespaces="` + provenance.Namespace + `" ` + string(read(t, dir, "key.pub"))
			interop(t, dir, key, "key", allowed)
		})
	}
}

func TestInteropCertificate(t *testing.T) {
	for _, kind := range []string{"ed25519", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			mustKeygen(t, dir, nil, "-q", "-N", "", "-t", "ed25519", "-C", "", "-f", "ca")
			mustKeygen(t, dir, nil, "-q", "-N", "", "-t", kind, "-b", "2048", "-C", "", "-f", "key")
			mustKeygen(t, dir, nil, "-q", "-s", "ca", "-I", "job 42", "-n", "ci@example.com", "-V", "-5m:+10m", "key.pub")
			key := must[ssh.Signer](t)(provenance.LoadSSHSigner(read(t, dir, "key"), nil))
			key = must[ssh.Signer](t)(provenance.PairCertificate(key, read(t, dir, "key-cert.pub")))
			allowed := `*@example.com cert-authority,namespaces="` + provenance.Namespace + `" ` + string(read(t, dir, "ca.pub"))
			interop(t, dir, key, "key-cert.pub", allowed)
		})
	}
}

func interop(t *testing.T, dir string, key ssh.Signer, keyFile, allowed string) {
	payload := encode(t, sample())
	v := must[*provenance.Verifier](t)(provenance.NewVerifier(provenance.VerifierConfig{AllowedSigners: []byte(allowed), Now: time.Now}))
	write(t, dir, "allowed", []byte(allowed))
	verify := func(namespace string, message []byte) error {
		return sshKeygen(t, dir, message, "-Y", "verify", "-f", "allowed", "-I", "ci@example.com", "-n", namespace, "-s", "ours.sig")
	}

	// Ours, checked by us and by them.
	ours := seal(t, payload, signer(t, key))
	if got := must[*provenance.Verified](t)(v.Open(ours)); got.Signer != "ci@example.com" {
		t.Fatalf("signer %q", got.Signer)
	}
	var e struct {
		Signatures []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(ours, &e); err != nil {
		t.Fatal(err)
	}
	blob := must[[]byte](t)(base64.StdEncoding.DecodeString(e.Signatures[0].Sig))
	write(t, dir, "ours.sig", provenance.ArmorSSH(blob))
	if err := verify(provenance.Namespace, pae(payload)); err != nil {
		t.Fatal("ssh-keygen refuses our signature")
	}
	if verify("file", pae(payload)) == nil || verify(provenance.Namespace, payload) == nil {
		t.Fatal("ssh-keygen accepts what was not signed: this test proves nothing")
	}

	// Theirs, checked by us.
	write(t, dir, "message", pae(payload))
	mustKeygen(t, dir, nil, "-Y", "sign", "-q", "-f", keyFile, "-n", provenance.Namespace, "message")
	theirs := must[[]byte](t)(provenance.UnarmorSSH(read(t, dir, "message.sig")))
	if !bytes.Equal(provenance.ArmorSSH(theirs), read(t, dir, "message.sig")) {
		t.Error("our armour is not written as theirs is")
	}
	got := must[*provenance.Verified](t)(v.Open(envelope(payload, theirs)))
	if got.Signer != "ci@example.com" || got.KeyID != e.Signatures[0].KeyID {
		t.Fatalf("signer %q by key %s, want %s", got.Signer, got.KeyID, e.Signatures[0].KeyID)
	}
	if _, err := v.Open(envelope(append(payload, ' '), theirs)); err == nil {
		t.Fatal("their signature covers another payload")
	}
}

// TestAllowedSignersAgree asks ssh-keygen and us about the same files.
func TestAllowedSignersAgree(t *testing.T) {
	dir := t.TempDir()
	mustKeygen(t, dir, nil, "-q", "-N", "", "-t", "ed25519", "-C", "", "-f", "key")
	key := must[ssh.Signer](t)(provenance.LoadSSHSigner(read(t, dir, "key"), nil))
	line := string(bytes.TrimSpace(read(t, dir, "key.pub")))
	message := []byte("message")
	blob := must[[]byte](t)(provenance.SignSSH(key, "ns@test", message))
	write(t, dir, "sig", provenance.ArmorSSH(blob))
	cases := map[string]bool{
		`ci@example.com ` + line:                                                     true,
		"# comment\n\n\t ci@example.com " + line + " a comment":                      true,
		"ci@example.com " + line + "\r\n":                                            true,
		`other@example.com,ci@example.com ` + line:                                   false, // names other@ to us: see below
		`"ci@example.com" ` + line:                                                   true,
		`ci@example.com namespaces="ns@test" ` + line:                                true,
		`ci@example.com namespaces="a,ns@*" ` + line:                                 true,
		`ci@example.com namespaces="ns@*,!ns@test" ` + line:                          false,
		`ci@example.com NameSpaces="ns@test" ` + line:                                true,
		`ci@example.com namespaces="file" ` + line:                                   false,
		`ci@example.com namespaces=ns@test ` + line:                                  false,
		`ci@example.com cert-authority ` + line:                                      false,
		`ci@example.com valid-after="20200101Z",valid-before="20990101" ` + line:     true,
		`ci@example.com valid-after="202001010000",valid-before="20990101Z" ` + line: true,
		`ci@example.com valid-after="20200101000000Z" ` + line:                       true,
		`ci@example.com valid-after="20990101Z" ` + line:                             false,
		`ci@example.com valid-before="20200101Z" ` + line:                            false,
		`ci@example.com valid-before="2020" ` + line:                                 false,
		`ci@example.com valid-after="20990101",valid-before="20200101" ` + line:      false,
		`ci@example.com unknown ` + line:                                             false,
		`ci@example.com namespaces="ns@test"` + line:                                 false,
		`ci@example.com namespaces="ns@test",namespaces="ns@test" ` + line:           false,
		`ci@example.com,!ci@example.com ` + line:                                     false,
		`!ci@example.com,ci@example.com ` + line:                                     false,
	}
	for file, want := range cases {
		write(t, dir, "allowed", []byte(file))
		theirs := sshKeygen(t, dir, message, "-Y", "verify", "-f", "allowed", "-I", "ci@example.com", "-n", "ns@test", "-s", "sig") == nil
		identity := ""
		if a, err := provenance.ParseAllowedSigners([]byte(file), nil); err == nil {
			identity, _ = a.Identity(key.PublicKey(), "ns@test", time.Now())
		}
		if ours := identity == "ci@example.com"; ours != want {
			t.Errorf("%s\nwe say %v (%q), want %v", file, ours, identity, want)
		}
		// ssh-keygen is told the name, so a second one on the line is good to it.
		if file != `other@example.com,ci@example.com `+line && theirs != want {
			t.Errorf("%s\nssh-keygen says %v, want %v", file, theirs, want)
		}
	}
}
