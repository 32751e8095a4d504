package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// Grant gives a role in a zone.
type Grant struct {
	Role string // "writer" or "admin"
	Zone string
	// Users are "FORGE/NAME", by the name the forge gives its user now, or "FORGE/#ID", by the immutable id. A name may
	// one day belong to somebody else; an id may not. An actor that no forge knows is "/#ID".
	Users []string
	// Groups are "FORGE/GROUP", by the groups the forge gives its user now. What follows the first '/' is the group's name
	// and may hold more of them.
	Groups []string
}

// grant is a parsed Grant: what is granted, and to whom.
type grant struct {
	role          string // "writer:ZONE"
	review        bool   // it may be given to a job that nobody vouches for
	users, groups []grantee
}

// grantee is a user or group of a forge; byID says which a user is named by.
type grantee struct {
	forge, name string
	byID        bool
}

func parseGrants(list []Grant, zones map[string][]string, review map[string]bool) ([]grant, error) {
	var out []grant
	for _, g := range list {
		if g.Role != "writer" && g.Role != "admin" {
			return nil, fmt.Errorf("grant of role %q: use writer or admin", g.Role)
		}
		if zones[g.Zone] == nil {
			return nil, fmt.Errorf("grant of role %q in zone %q: configure the zone, or correct its name", g.Role, g.Zone)
		}
		parsed := grant{role: g.Role + ":" + g.Zone, review: g.Role == "writer" && review[g.Zone]}
		for _, s := range g.Users {
			who, err := parseGrantee(s, true)
			if err != nil {
				return nil, err
			}
			parsed.users = append(parsed.users, who)
		}
		for _, s := range g.Groups {
			who, err := parseGrantee(s, false)
			if err != nil {
				return nil, err
			}
			parsed.groups = append(parsed.groups, who)
		}
		out = append(out, parsed)
	}
	return out, nil
}

func parseGrantee(s string, user bool) (grantee, error) {
	fail := func(hint string) (grantee, error) { return grantee{}, fmt.Errorf("grant to %q: %s", s, hint) }
	at, name, ok := strings.Cut(s, "/")
	if !ok || name == "" {
		return fail("write FORGE/NAME")
	}
	if at != "" && forge.CheckName(at) != nil {
		return fail("what stands before the first / must be the name of a forge")
	}
	id, byID := strings.CutPrefix(name, "#")
	if !user || !byID {
		if at == "" {
			return fail("an actor that no forge knows is /#ID")
		}
		return grantee{forge: at, name: name}, nil
	}
	if id == "" {
		return fail("write FORGE/#ID")
	}
	return grantee{forge: at, name: id, byID: true}, nil
}

// roles returns what the grants give p, sorted. An anonymous principal has none, and a job that nobody vouches for writes to
// review zones at most.
func (a *Authorizer) roles(p *authn.Principal) []string {
	if p.Kind == authn.Anonymous || p.ID == "" {
		return nil
	}
	var roles []string
	for _, g := range a.grants {
		if p.Review && !g.review {
			continue
		}
		if slices.ContainsFunc(g.users, func(w grantee) bool { return w.isUser(p) }) ||
			slices.ContainsFunc(g.groups, func(w grantee) bool { return w.isGroup(p) }) {
			roles = append(roles, g.role)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (w grantee) isUser(p *authn.Principal) bool {
	if w.forge != p.Forge {
		return false
	}
	if w.byID {
		return w.name == p.ID
	}
	return w.name == p.Name
}

func (w grantee) isGroup(p *authn.Principal) bool {
	return w.forge == p.Forge && slices.Contains(p.Groups, w.name)
}
