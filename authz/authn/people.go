package authn

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Links knows who has linked an identity with a user of a forge, by signing in at both once. The error wraps [ErrNobody] when
// nobody has; any other error means that nothing was learnt. It is safe for concurrent use.
type Links interface {
	// Linked returns a principal that holds Forge, ID, Name and Kind.
	Linked(ctx context.Context, issuer, subject string) (Principal, error)
}

// ErrLinked is wrapped when a subject is to be linked that somebody else has linked.
var ErrLinked = errors.New("the identity belongs to another user already")

// PeopleMapping says which user of a forge the subject of an ID token is. Its rules are asked in this order, and the first that
// answers wins; one that could not be asked refuses the token for now, and is never passed over. An e-mail address is no rule: it
// can be unproven, changed by its user, and given to another.
type PeopleMapping struct {
	ClientID string // the audience: what `lychgate login` is called at the issuer
	Forge    string // whose users they are
	// 1. SubjectIsForgeID: the issuer is the forge itself, and sub is the immutable user id.
	SubjectIsForgeID bool
	// 2. The forge's own table of identities, by Directory.IdentityOwner.
	// 3. What users have linked, by Links.
	// 4. Users: what the operator says, the forge's user id for a subject; a [File] or a [Fixed], see [ParsePeople]. Nil: nothing.
	Users Source[map[string]string]
	// 5. TrustPreferredUsername: the user who bears preferred_username as a name now. It is for issuers alone that assign that
	// name, never change it and never give it to another.
	TrustPreferredUsername bool
}

// people is a PeopleMapping that was checked.
type people struct {
	PeopleMapping
	issuer    string
	directory Directory // may be nil
	links     Links     // may be nil
}

func compilePeople(m PeopleMapping, issuer string, cfg OIDCConfig) (*people, error) {
	switch {
	case m.ClientID == "":
		return nil, errors.New("have no client id: register `lychgate login` at the issuer as a public client")
	case m.Forge == "":
		return nil, errors.New("have no forge: name the one whose users they are")
	case m.TrustPreferredUsername && cfg.Directory == nil:
		return nil, errors.New("are found by preferred_username, and there is no directory to look in")
	case !m.SubjectIsForgeID && m.Users == nil && cfg.Directory == nil && cfg.Links == nil:
		return nil, errors.New("no rule could find anybody: add a map")
	}
	return &people{m, issuer, cfg.Directory, cfg.Links}, nil
}

// jobClaims are those that mark a CI job's token at the issuers where both people and jobs get theirs. A job chooses its audience,
// and could name the people's client id.
func jobClaims() []string {
	return []string{"job_id", "pipeline_id", "pipeline_source", "project_id", "runner_id", "repository_id", "run_id", "job_workflow_ref"}
}

// find asks the rules in order.
func (m *people) find(ctx context.Context, t *idToken, name string) (Principal, error) {
	for _, claim := range jobClaims() {
		if _, ok := t.claims[claim]; ok {
			return Principal{}, refuse(BadIDToken, name, "%s: holds %s: a CI job's token for people's audience", m.issuer, claim)
		}
	}
	for _, rule := range []func(context.Context, *idToken) (Principal, error){m.subject, m.identity, m.link, m.mapped, m.username} {
		p, err := rule(ctx, t)
		switch {
		case errors.Is(err, ErrNobody):
			continue
		case err != nil:
			return Principal{}, fmt.Errorf("map subject %q of %s: %w", t.subject, m.issuer, err)
		case p.Kind == Anonymous:
			return Principal{}, refuse(UnmappedIdentity, name, "subject %q of %s is mapped to an anonymous principal", t.subject, m.issuer)
		}
		return Principal{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: p.Kind}, nil
	}
	return Principal{}, refuse(UnmappedIdentity, name,
		"subject %q of %s is no user of %s: tie the identity to a user there, link it, or add the subject to the issuer's map",
		t.subject, m.issuer, m.Forge)
}

func (m *people) subject(_ context.Context, t *idToken) (Principal, error) {
	if !m.SubjectIsForgeID {
		return Principal{}, ErrNobody
	}
	return m.user(t, t.subject), nil
}

func (m *people) identity(ctx context.Context, t *idToken) (Principal, error) {
	if m.directory == nil {
		return Principal{}, ErrNobody
	}
	return m.directory.IdentityOwner(ctx, m.Forge, m.issuer, t.subject)
}

func (m *people) link(ctx context.Context, t *idToken) (Principal, error) {
	if m.links == nil {
		return Principal{}, ErrNobody
	}
	p, err := m.links.Linked(ctx, m.issuer, t.subject)
	if err == nil && p.Forge != m.Forge { // linked when the issuer's people were another forge's
		return Principal{}, ErrNobody
	}
	return p, err
}

func (m *people) mapped(_ context.Context, t *idToken) (Principal, error) {
	if m.Users == nil {
		return Principal{}, ErrNobody
	}
	users, err := m.Users.Current()
	if err != nil {
		return Principal{}, err
	}
	id, ok := users[t.subject]
	if !ok {
		return Principal{}, ErrNobody
	}
	return m.user(t, id), nil
}

func (m *people) username(ctx context.Context, t *idToken) (Principal, error) {
	if !m.TrustPreferredUsername {
		return Principal{}, ErrNobody
	}
	name, err := t.claims.text("preferred_username")
	if err != nil || name == "" {
		return Principal{}, ErrNobody
	}
	return m.directory.ByName(ctx, m.Forge, name)
}

// user is somebody whose id is known; what the token calls them is for display.
func (m *people) user(t *idToken, id string) Principal {
	name, err := t.claims.text("preferred_username")
	if err != nil || name == "" {
		name = id
	}
	return Principal{Forge: m.Forge, ID: id, Name: name, Kind: Human}
}

// ParsePeople reads a map of one issuer's subjects to a forge's user ids:
//
//	# SUBJECT                               USER-ID
//	248289761001                            17
//	f:8a1c6a52-3a4b-4c3e-9f0d-0c6d2a:alice  42
//
// A line holds a subject and an immutable user id, with blanks between them and none inside. Empty lines, and lines that begin
// with "#", are passed over. A subject stands once.
func ParsePeople(text []byte) (map[string]string, error) {
	ids := make(map[string]string)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: want SUBJECT USER-ID", n)
		}
		for _, field := range fields {
			if err := checkText(field); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		}
		if _, twice := ids[fields[0]]; twice {
			return nil, fmt.Errorf("line %d: subject %q stands twice", n, fields[0])
		}
		ids[fields[0]] = fields[1]
	}
	return ids, nil
}
