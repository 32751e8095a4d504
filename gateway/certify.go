package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Certifier certifies the keys of CI jobs. [provenance.JobAuthority] is one.
type Certifier interface {
	// Certify wraps provenance.ErrBadKey when the key is not one to certify, provenance.ErrBadIdentity when no certificate can hold the identity.
	Certify(key, identity string, from, until time.Time) (certificate string, err error)
}

// jobSkew is how much earlier a certificate is valid than it is made, for verifiers whose clock is behind.
const jobSkew = time.Minute

// Certify vouches for a public key: whoever signs a statement with it is the session's principal, which must be a CI job. The certificate ends
// with the credential that was shown.
func (s *Session) Certify(_ context.Context, key string) (JobCertificate, error) {
	if s.gate.Certifier == nil {
		return JobCertificate{}, &RequestError{
			Status: http.StatusForbidden, Problem: "this gate does not vouch for jobs", Hint: "sign with a key, or ask the operator for signers.job_authority",
		}
	}
	if s.principal.Kind != authn.CI {
		return JobCertificate{}, &RequestError{Status: http.StatusForbidden, Problem: "this is for CI jobs", Hint: "sign with a key of yours"}
	}
	now := s.gate.Now()
	until := now.Add(s.gate.TokenLife.CI)
	if e := s.principal.Expires; !e.IsZero() && e.Before(until) {
		until = e
	}
	identity := provenance.JobIdentity(s.principal)
	certificate, err := s.gate.Certifier.Certify(key, identity, now.Add(-jobSkew), until)
	if errors.Is(err, provenance.ErrBadKey) {
		return JobCertificate{}, &RequestError{Status: http.StatusBadRequest, Problem: "that is not a public key to certify", Hint: "send an SSH public key, on one line"}
	}
	if errors.Is(err, provenance.ErrBadIdentity) {
		return JobCertificate{}, &RequestError{Status: http.StatusForbidden, Problem: "no certificate can name this job", Hint: "sign with a key"}
	}
	if err != nil {
		return JobCertificate{}, unavailable("certify a key", err)
	}
	e := s.event("signer.certify", newRequestID())
	e.Decision = audit.Decision{Verdict: "allow", FactAge: -1}
	e.Detail = fmt.Sprintf("%s, until %s", identity, until.Format(time.RFC3339))
	if err := s.record(e); err != nil {
		return JobCertificate{}, err
	}
	return JobCertificate{Certificate: certificate, Identity: identity, Expires: until.UTC().Format(time.RFC3339)}, nil
}
