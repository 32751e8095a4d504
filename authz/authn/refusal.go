package authn

import "fmt"

// Reason is why a credential was refused, as metrics count it and audit trails are searched for it. Reasons are stable.
type Reason string

// The reasons.
const (
	BadCredential     Reason = "bad_credential" // malformed, of no known kind, or several at once
	UnknownToken      Reason = "unknown_token"  // never made, or revoked
	ExpiredToken      Reason = "expired_token"
	UnknownKey        Reason = "unknown_key" // an SSH key that is nobody's
	KeyRefused        Reason = "key_refused" // an SSH key or certificate that is known and may not be used, or not from there
	CertificateUnfit  Reason = "certificate_unfit"
	RevokedCredential Reason = "revoked_credential" // a certificate or key on a revocation list
	RevocationUnknown Reason = "revocation_unknown" // a certificate whose revocation list ended, or is not there yet
	BadProof          Reason = "bad_proof"          // a signature in place of a handshake: of no challenge of this gate's, too late, or not by its key
	BadIDToken        Reason = "bad_id_token"       // of no known issuer, not signed by it, not for this gate, expired
	UnmappedIdentity  Reason = "unmapped_identity"  // a good ID token of somebody whom no rule maps to a user
	Replayed          Reason = "replayed"           // an ID token or a challenge that bought a token before
	EndedEpoch        Reason = "ended_epoch"        // all tokens of the principal were ended while this one was made, or since an account was
	UnknownAccount    Reason = "unknown_account"    // of the hash equivalence protocol: it does not exist, or its token is another
)

// Refusal is a final answer about a credential. It is for the audit trail; a door never prints it, and tells none from
// another.
type Refusal struct {
	Reason  Reason
	Subject string // whose credential it claims to be, as far as that can be told without a secret: a token id, a fingerprint; may be empty
	Detail  string // words for a person
}

// Error returns the reason, the subject and the words.
func (r *Refusal) Error() string {
	if r.Subject == "" {
		return fmt.Sprintf("%s: %s", r.Reason, r.Detail)
	}
	return fmt.Sprintf("%s: %s: %s", r.Reason, r.Subject, r.Detail)
}

// Is makes every Refusal an [ErrRefused].
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// RefuseToken is what a [TokenStore] returns for a token that must not be made.
func RefuseToken(reason Reason, id string) error { return refuse(reason, id, "no token is made") }

// refuse makes a Refusal.
func refuse(reason Reason, subject, format string, args ...any) error {
	return &Refusal{Reason: reason, Subject: subject, Detail: fmt.Sprintf(format, args...)}
}
