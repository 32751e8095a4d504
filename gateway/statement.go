package gateway

import (
	"context"
	"slices"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Statement returns a signed statement about the object at path, a DSSE envelope, so that others can verify what they got by the signer's
// key and not by the gate's word. A statement names every repository that the object was built from and with, which may be more than the
// right to the object asks for: it is for whoever may read all of them, and for those who administer the zone and its bases. For others it is ErrNotFound, as
// when there is none.
func (s *Session) Statement(ctx context.Context, zone, path string) ([]byte, error) {
	z, err := s.zone(zone)
	if err != nil {
		return nil, err
	}
	ref, err := artifact.Parse(z.Zone, path)
	if err != nil {
		return nil, ErrNotFound
	}
	x, err := s.gate.Authorizer.Explain(ctx, &authz.Request{Action: authz.Read, Door: s.door.Name, Principal: s.principal, Ref: ref})
	if x == nil {
		return nil, unavailable("look for a statement", err)
	}
	digest, shown := s.statementOf(ctx, z, x)
	e := s.event("statement", newRequestID())
	e.Action, e.Zone, e.Object.Path = string(authz.Read), z.Name, ref.Name()
	e.Decision = audit.Decision{Verdict: authz.Deny.String(), Rule: x.Rule, Reasons: x.Reasons, Policy: x.Policy, FactAge: -1}
	if shown {
		e.Decision.Verdict, e.Object.Digest = authz.Allow.String(), digest.String()
	}
	if err := s.record(e); err != nil {
		return nil, err
	}
	switch {
	case x.Verdict == authz.Unavailable.String():
		return nil, unavailable("look for a statement", err)
	case !shown:
		return nil, ErrNotFound
	}
	envelope, err := s.gate.Records.Envelope(ctx, digest)
	if err != nil {
		return nil, unavailable("read a statement", err)
	}
	return envelope, nil
}

// statementOf chooses among the claims of an explanation, the one that published the object before others.
func (s *Session) statementOf(ctx context.Context, z Zone, x *authz.Explanation) (digest artifact.Digest, ok bool) {
	for _, c := range x.Claims {
		if c.Statement == "" {
			continue
		}
		readsAll := !slices.ContainsFunc(c.Sources, hidden) && !slices.ContainsFunc(c.Inputs, hidden)
		if c.Verdict == authz.Allow.String() && readsAll || s.administers(ctx, z.Name) {
			digest, err := artifact.ParseDigest(c.Statement)
			return digest, err == nil
		}
	}
	return digest, false
}
