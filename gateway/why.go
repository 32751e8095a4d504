package gateway

import (
	"context"
	"slices"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/audit"
)

// The states of [Why].
const (
	WhyPresent     = "present"     // it is there for the asker
	WhyHidden      = "hidden"      // it is not there, or not for the asker, and the zone does not tell which
	WhyAbsent      = "absent"      // nobody published it
	WhyDenied      = "denied"      // it is there, and not for the asker
	WhyUnavailable = "unavailable" // a git server cannot be asked, so it is not there for now
)

// Why says why the object at path is there for the principal or not, as far as its zone tells. Administrators of the zone and its bases are always told.
func (s *Session) Why(ctx context.Context, zone, path string) (Why, error) {
	z, err := s.zone(zone)
	if err != nil {
		return Why{State: WhyHidden, Contact: s.gate.Contact}, nil // which zones there are is nobody's to learn
	}
	ref, err := artifact.Parse(z.Zone, path)
	if err != nil {
		return Why{}, &RequestError{Status: 400, Problem: "not an sstate name", Hint: "give the name within the zone, as BitBake asks for it"}
	}
	x, err := s.gate.Authorizer.Explain(ctx, &authz.Request{Action: authz.Read, Door: s.door.Name, Principal: s.principal, Ref: ref})
	if x == nil {
		return Why{}, unavailable("say why", err)
	}
	why := whyOf(x, s.gate.tellsWhy(z.Name) || s.administers(ctx, z.Name))
	if why.State != WhyPresent {
		why.Contact = s.gate.Contact
	}
	e := s.event("explain", newRequestID())
	e.Action, e.Zone, e.Object.Path, e.Detail = string(authz.Read), z.Name, ref.Name(), why.State
	e.Decision = audit.Decision{Verdict: x.Verdict, Rule: x.Rule, Reasons: x.Reasons, Policy: x.Policy, FactAge: -1}
	if err := s.record(e); err != nil {
		return Why{}, err
	}
	return why, nil
}

// tellsWhy reports whether a zone tells, and each of its bases, of which it would tell as well.
func (g *Gateway) tellsWhy(zone string) bool {
	chain := g.Authorizer.Chain(zone)
	return len(chain) > 0 && !slices.ContainsFunc(chain, func(in string) bool { return !g.zones[in].TellWhy })
}

// administers reports whether the principal administers a zone and all of its bases: what is in a base is its own administrators' to know.
func (s *Session) administers(ctx context.Context, zone string) bool {
	chain := s.gate.Authorizer.Chain(zone)
	for _, in := range chain {
		if _, err := s.mayIn(ctx, authz.Admin, in); err != nil {
			return false
		}
	}
	return len(chain) > 0
}

// whyOf cuts an explanation down to what the asker may know.
func whyOf(x *authz.Explanation, tell bool) Why {
	switch {
	case x.Verdict == authz.Allow.String():
		return Why{State: WhyPresent}
	case !tell:
		return Why{State: WhyHidden}
	case x.Record == nil:
		return Why{State: WhyAbsent}
	case x.Verdict == authz.Unavailable.String():
		return Why{State: WhyUnavailable}
	}
	return Why{State: WhyDenied, Missing: missing(x.Claims)}
}

// missing returns what the asker lacks of the statement that asks least: of its direct sources or, when those are not it, of what it was built
// with.
func missing(claims []authz.ExplainedClaim) (least []string) {
	for i, c := range claims {
		lacks := unreadable(c.Sources)
		if len(lacks) == 0 {
			lacks = unreadable(c.Inputs)
		}
		if i == 0 || len(lacks) < len(least) {
			least = lacks
		}
	}
	return least
}

func unreadable(sources []authz.ExplainedSource) (names []string) {
	for _, s := range sources {
		switch {
		case !hidden(s):
		case s.Source != "":
			names = append(names, s.Source)
		default:
			names = append(names, "a source that cannot be resolved: "+s.Reason)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
