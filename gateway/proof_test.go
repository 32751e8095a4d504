package gateway_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
)

// FuzzProof: whatever is sent, nothing is proven but the key that signed this gate's challenge, and every refusal is one.
func FuzzProof(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	challenges, err := authn.NewChallenges(authn.ChallengesConfig{Key: make([]byte, 32), URL: "https://gate.example.com", Now: func() time.Time { return now }})
	if err != nil {
		f.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	challenge := challenges.New()
	for _, seed := range []struct{ namespace, resource string }{
		{gateway.SignInNamespace, "https://gate.example.com"},
		{provenance.Namespace, "https://gate.example.com"},
		{gateway.SignInNamespace, "https://other.example.com"},
	} {
		blob, err := provenance.SignSSH(signer, seed.namespace, gateway.SignInMessage(seed.resource, challenge))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(challenge, blob)
	}
	f.Add("", []byte("SSHSIG"))
	f.Fuzz(func(t *testing.T, c string, blob []byte) {
		got, err := gateway.Prove(challenges, "https://gate.example.com", gateway.SSHProof{Challenge: c, Signature: base64.StdEncoding.EncodeToString(blob)})
		if err == nil && got != ssh.FingerprintSHA256(signer.PublicKey()) {
			t.Errorf("proven: %s for %q", got, c)
		}
		var refusal *authn.Refusal
		if err != nil && (!errors.As(err, &refusal) || refusal.Reason != authn.BadProof) {
			t.Errorf("%v", err)
		}
		_, _ = gateway.Prove(challenges, "https://gate.example.com", gateway.SSHProof{Challenge: challenge, Signature: string(blob)})
	})
}

// TestProve: the first of the seeds above is a proof, and at no gate of another name.
func TestProve(t *testing.T) {
	challenges, err := authn.NewChallenges(authn.ChallengesConfig{Key: make([]byte, 32), URL: "https://gate.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	challenge := challenges.New()
	blob, err := provenance.SignSSH(signer, gateway.SignInNamespace, gateway.SignInMessage("https://gate.example.com", challenge))
	if err != nil {
		t.Fatal(err)
	}
	proof := gateway.SSHProof{Challenge: challenge, Signature: base64.StdEncoding.EncodeToString(blob)}
	if got, err := gateway.Prove(challenges, "https://gate.example.com", proof); err != nil || got != ssh.FingerprintSHA256(signer.PublicKey()) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := gateway.Prove(challenges, "https://other.example.com", proof); err == nil {
		t.Error("it proves a key to a gate of another name")
	}
}
