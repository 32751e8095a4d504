package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
)

// Challenges makes what somebody signs with an SSH key to sign in without a handshake. [authn.Challenges] is one.
type Challenges interface {
	New() string
	// Check returns the digest of a challenge that is good, to know it again. Its error wraps [authn.ErrRefused].
	Check(challenge string) (once [32]byte, err error)
}

// SignInNamespace is the SSHSIG namespace of signatures that sign somebody in. It keeps them apart from those on statements, and from all
// others that the same key makes.
const SignInNamespace = "lychgate-sign-in@v1"

// SignInMessage is what an SSH key signs to sign in at the gate that calls itself resource. What was signed for one gate is worth nothing at
// another, also when that one passed the other's challenge on as its own.
func SignInMessage(resource, challenge string) []byte {
	return []byte("lychgate-sign-in\ngate " + resource + "\nchallenge " + challenge + "\n")
}

// Challenge returns what an SSH key is to sign, at a gate with Challenges. An address that failed too often gets none, which is an error that
// wraps ErrThrottled.
func (g *Gateway) Challenge(door Door) (SSHChallenge, error) {
	if g.failures.spent(door.Remote.Addr()) {
		return SSHChallenge{}, fmt.Errorf("%w: %w", ErrUnauthenticated, ErrThrottled)
	}
	return SSHChallenge{Challenge: g.Challenges.New(), Seconds: int64(authn.ChallengeLife / time.Second)}, nil
}

// SessionByProof is Session for a key, or a certificate, that is proven by a signature and not by a handshake. Everything else that is asked
// of a key at the ssh door is asked here too. The session makes one token, of all that are made with the same challenge.
func (g *Gateway) SessionByProof(ctx context.Context, door Door, proof SSHProof) (*Session, error) {
	if g.failures.spent(door.Remote.Addr()) {
		return nil, g.refuse(door, &authn.Refusal{Reason: throttled, Detail: "a signature from an address that was refused too often"})
	}
	once, key, err := g.prove(door, proof)
	if err != nil {
		return nil, g.refuse(door, err)
	}
	s, err := g.Session(ctx, door, authn.Credential{Key: key})
	if err != nil {
		return nil, err
	}
	s.once = once
	return s, nil
}

// prove asks what costs least first. Whose key it is is asked only once it is proven, so nobody learns which keys the gate knows.
func (g *Gateway) prove(door Door, proof SSHProof) (once [32]byte, key *authn.SSHKey, err error) {
	if once, err = g.Challenges.Check(proof.Challenge); err != nil {
		return once, nil, err
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(proof.Signature)
	if err != nil {
		return once, nil, badProof("", err)
	}
	signature, err := provenance.ParseSSHSignature(blob)
	if err != nil {
		return once, nil, badProof("", err)
	}
	key = authn.NewSSHKey(signature.Key, door.Remote.Addr())
	if err := signature.Verify(SignInNamespace, SignInMessage(g.Audience, proof.Challenge)); err != nil {
		return once, nil, badProof(key.Fingerprint, err)
	}
	return once, key, nil
}

// badProof keeps what strangers sent from filling the trail: an error may repeat a name of theirs, however long.
func badProof(subject string, err error) error {
	const longest = 200
	text := err.Error()
	return &authn.Refusal{Reason: authn.BadProof, Subject: subject, Detail: strings.ToValidUTF8(text[:min(len(text), longest)], "?")}
}
