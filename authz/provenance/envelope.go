package provenance

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// A statement travels in a DSSE envelope (DSSE 1.0.2, envelope.md). A signature is over PAE(payloadType, payload), the
// payload's very bytes, and is one of
//
//   - a raw SSHSIG blob in [Namespace], so that its base64 between the armour lines is what `ssh-keygen -Y verify` reads;
//   - 64 bytes of plain ed25519;
//   - an ASN.1 ECDSA P-256 signature over SHA-256.
//
// Base64 is read in the standard and in the URL-safe alphabet, as DSSE asks of verifiers, with its padding and
// without line ends; it is written in the standard one.
const (
	PayloadType   = "application/vnd.in-toto+json"
	MaxEnvelope   = MaxStatement/3*4 + MaxSignatures*2*maxSSHSIG // bytes
	MaxSignatures = 16
)

type envelopeJSON struct {
	Payload     string          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []signatureJSON `json:"signatures"`
}

type signatureJSON struct {
	KeyID string `json:"keyid,omitzero"` // a hint that nothing rests on
	Sig   string `json:"sig"`
}

// Seal signs a payload with every signer, at least one, and returns the envelope.
func Seal(payload []byte, signers ...Signer) ([]byte, error) {
	if len(signers) == 0 || len(signers) > MaxSignatures {
		return nil, fmt.Errorf("seal statement: %d signers, want 1 to %d", len(signers), MaxSignatures)
	}
	pae := dsse.PAE(PayloadType, payload)
	e := envelopeJSON{Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: PayloadType}
	for _, s := range signers {
		sig, keyID, err := s.Sign(pae)
		if err != nil {
			return nil, fmt.Errorf("seal statement: %w", err)
		}
		e.Signatures = append(e.Signatures, signatureJSON{keyID, base64.StdEncoding.EncodeToString(sig)})
	}
	envelope, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("seal statement: %w", err)
	}
	return envelope, nil
}

// openEnvelope reads an envelope exactly and returns its payload and signatures, none of them verified.
func openEnvelope(envelope []byte) (payload []byte, signatures [][]byte, err error) {
	if len(envelope) > MaxEnvelope {
		return nil, nil, fmt.Errorf("%d bytes, at most %d are allowed", len(envelope), MaxEnvelope)
	}
	var e envelopeJSON
	if err := unmarshalExact(envelope, &e, atMost[signatureJSON](MaxSignatures, "signatures")); err != nil {
		return nil, nil, err
	}
	switch {
	case e.PayloadType != PayloadType:
		return nil, nil, fmt.Errorf("payloadType is %.80q, want %q", e.PayloadType, PayloadType)
	case len(e.Signatures) == 0:
		return nil, nil, errors.New("there is no signature")
	}
	if payload, err = decodeBase64(e.Payload); err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	for i, s := range e.Signatures {
		sig, err := decodeBase64(s.Sig)
		if err != nil {
			return nil, nil, fmt.Errorf("signature %d: %w", i+1, err)
		}
		signatures = append(signatures, sig)
	}
	return payload, signatures, nil
}

// decodeBase64 reads either alphabet, not a mixture. The package skips line ends, which belong to no JSON text of ours.
func decodeBase64(text string) ([]byte, error) {
	for _, c := range []byte(text) {
		if c == '\n' || c == '\r' {
			return nil, errors.New("base64 with line ends")
		}
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		data, err = base64.URLEncoding.Strict().DecodeString(text)
	}
	if err != nil {
		return nil, errors.New("not padded base64")
	}
	if len(data) == 0 {
		return nil, errors.New("empty")
	}
	return data, nil
}
