package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Hooks knows who may speak for a forge, and its users. [forge.Multi] is one.
type Hooks interface {
	ReadHook(forge string, header http.Header, body []byte) (forge.Delivery, error)
	User(ctx context.Context, forge, id string) (forge.User, error)
	UserByName(ctx context.Context, forge, name string) (forge.User, error)
}

// Events tells every node that something may have changed. [forge.Hub] is one.
type Events interface {
	Tell(ctx context.Context, e forge.Event) (position uint64, err error)
	Await(ctx context.Context, position uint64) (late []string, err error)
}

// Ender ends all tokens of a principal, also those that are being made. [authn.Tokens] is one.
type Ender interface {
	RevokeAll(ctx context.Context, p authn.Principal) (int, error)
}

const (
	// replayWindow is how long a delivery is remembered, and how old one may be that says when it was sent.
	replayWindow  = 5 * time.Minute
	maxDeliveries = 20_000
	// revokeLimit is how long a revocation waits for the other nodes: after that, those that have not heard of it trust nothing.
	revokeLimit = forge.Fence + 500*time.Millisecond
)

// deliveries remembers what forges have posted, so that nobody can post it again.
type deliveries struct {
	mu   sync.Mutex // guards seen
	seen map[string]time.Time
}

// has reports whether a delivery was taken before.
func (d *deliveries) has(key string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.seen[key]
	return ok && now.Sub(at) < replayWindow
}

// add notes that a delivery was taken. Where there are too many, it forgets any: all that can come of it is a question too
// many to a forge.
func (d *deliveries) add(key string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, at := range d.seen {
		if len(d.seen) < maxDeliveries {
			break
		}
		if now.Sub(at) >= replayWindow {
			delete(d.seen, k)
		}
	}
	for k := range d.seen {
		if len(d.seen) < maxDeliveries {
			break
		}
		delete(d.seen, k)
	}
	d.seen[key] = now
}

// Hook takes what was posted in the name of a forge. All it can do is make the gate ask again. It returns once every node is
// told, so that the forge posts again what was not; one that is posted twice does nothing. Errors wrap
// [ErrUnauthenticated] for what is not from the forge, and [ErrUnavailable].
func (g *Gateway) Hook(ctx context.Context, door Door, name string, header http.Header, body []byte) error {
	// The signature first: others at the forge's address must not keep its word from being heard.
	d, err := g.Hooks.ReadHook(name, header, body)
	if err != nil {
		return g.refuse(door, &authn.Refusal{Reason: "hook", Detail: err.Error()})
	}
	now := g.Now()
	if !d.At.IsZero() && (now.Sub(d.At) > replayWindow || d.At.Sub(now) > replayWindow) {
		late := fmt.Errorf("forge %q: a delivery of %s", name, d.At.UTC().Format(time.RFC3339))
		return errors.Join(fmt.Errorf("%w: %w", ErrUnauthenticated, late), g.recordRefusal(door, late, false))
	}
	key := name + "\x00" + d.ID
	if len(d.Events) == 0 || g.posted.has(key, now) {
		return nil
	}
	for _, e := range d.Events {
		e.At = now
		if err := g.tell(ctx, &audit.Event{Kind: "forge.event", Door: door.Name, Actor: audit.Actor{Forge: name, Remote: door.Remote.String()}}, e); err != nil {
			return err
		}
	}
	g.posted.add(key, now)
	return nil
}

// tell tells every node of an event of a forge, and records it: in this order, for a journal that is full must not keep a revocation
// from anybody.
func (g *Gateway) tell(ctx context.Context, record *audit.Event, e forge.Event) error {
	_, err := g.Events.Tell(ctx, e)
	record.Detail = describe(e)
	record.Decision.FactAge = -1
	if _, journalErr := g.Journal.Append(record); journalErr != nil {
		return unavailable("record an event", errors.Join(journalErr, err))
	}
	if err != nil {
		return unavailable("tell the other nodes of an event", err)
	}
	return nil
}

// describe says for people what an event is about.
func describe(e forge.Event) string {
	var b strings.Builder
	for _, part := range []struct{ name, value string }{
		{"forge", e.Forge}, {"user", e.User}, {"repo", e.Repo}, {"key", e.Key},
	} {
		if part.value != "" {
			fmt.Fprintf(&b, "%s %s, ", part.name, part.value)
		}
	}
	if b.Len() == 0 {
		b.WriteString("everything, ")
	}
	return strings.TrimSuffix(b.String()+e.Why, ", ")
}

// Invalidate makes the gate ask forges again about what the request names: an administrator's word for what a forge does
// not signal.
func (s *Session) Invalidate(ctx context.Context, r InvalidateRequest) error {
	if err := s.administer(ctx); err != nil {
		return err
	}
	if r.Forge == "" && (r.User != "" || r.Repo != "") {
		return &RequestError{Status: http.StatusBadRequest, Problem: "a user or repository without its forge", Hint: "name the forge"}
	}
	e := forge.Event{Forge: r.Forge, User: r.User, Repo: r.Repo, Key: r.Key, Why: "asked by " + s.owner(), At: s.gate.Now()}
	if r.User != "" {
		id, err := s.userID(ctx, r.Forge, r.User)
		if err != nil {
			return err
		}
		e.User = id
	}
	return s.gate.tell(ctx, s.event("forge.event", newRequestID()), e)
}

// RevokeNow ends what a user, a key or a token may do here that is not asked for again, and returns once every node has it, with
// the names of those that did not answer; those trust nothing by then. It does not bar anybody whom the git server lets in.
func (s *Session) RevokeNow(ctx context.Context, r RevokeRequest) (RevokeReply, error) {
	if err := s.administer(ctx); err != nil {
		return RevokeReply{}, err
	}
	began := s.gate.Now()
	e, ended, err := s.end(ctx, r)
	if err != nil {
		return RevokeReply{}, err
	}
	e.Why, e.At = "revoked by "+s.owner(), began
	position, tellErr := s.gate.Events.Tell(ctx, e)
	record := s.event("revoke", newRequestID())
	record.Detail, record.Decision.FactAge = describe(e), -1
	seq, err := s.gate.Journal.Append(record)
	if err == nil {
		err = s.gate.Journal.Durable(ctx, seq)
	}
	if err != nil {
		return RevokeReply{}, unavailable("record the revocation", err)
	}
	if tellErr != nil {
		return RevokeReply{}, unavailable("tell the other nodes of a revocation", tellErr)
	}
	wait, cancel := context.WithTimeout(ctx, revokeLimit)
	defer cancel()
	late, err := s.gate.Events.Await(wait, position)
	if err != nil && len(late) == 0 {
		return RevokeReply{}, unavailable("wait for the other nodes", err)
	}
	return RevokeReply{Tokens: ended, Late: late, Milliseconds: s.gate.Now().Sub(began).Milliseconds()}, nil
}

// end ends the tokens that a revocation is about. It returns what is to be asked again.
func (s *Session) end(ctx context.Context, r RevokeRequest) (e forge.Event, tokens int, err error) {
	switch {
	case r.User != "" && r.Key == "" && r.Token == "" && r.Forge != "":
		id, err := s.userID(ctx, r.Forge, r.User)
		if err != nil {
			return e, 0, err
		}
		tokens, err = s.gate.Ender.RevokeAll(ctx, authn.Principal{Forge: r.Forge, ID: id})
		if err != nil {
			return e, 0, unavailable("end the tokens", err)
		}
		return forge.Event{Forge: r.Forge, User: id}, tokens, nil
	case r.Key != "" && r.User == "" && r.Token == "" && r.Forge == "":
		return forge.Event{Key: r.Key}, 0, nil
	case r.Token != "" && r.User == "" && r.Key == "" && r.Forge == "":
		return s.endToken(ctx, r.Token)
	}
	return e, 0, &RequestError{Status: http.StatusBadRequest, Problem: "what is to be revoked is not clear", Hint: `give forge and user, or key, or token`}
}

func (s *Session) endToken(ctx context.Context, id string) (e forge.Event, tokens int, err error) {
	all, err := s.gate.Tokens.List(ctx)
	if err != nil {
		return e, 0, unavailable("list tokens", err)
	}
	for _, t := range all {
		if t.ID != id {
			continue
		}
		err := s.gate.Tokens.Revoke(ctx, id)
		if err != nil && !errors.Is(err, authn.ErrNoToken) {
			return e, 0, unavailable("revoke a token", err)
		}
		if t.Principal.Forge == "" { // whom no forge knows: there is nothing to ask again
			return forge.Event{Key: id}, 1, nil
		}
		return forge.Event{Forge: t.Principal.Forge, User: t.Principal.ID}, 1, nil
	}
	return e, 0, &RequestError{Status: http.StatusNotFound, Problem: "no token has that id", Hint: "lychgate token list shows them"}
}

// userID returns the immutable id of a user who is named by it, as "#ID", or by name.
func (s *Session) userID(ctx context.Context, forgeName, user string) (string, error) {
	if id, ok := strings.CutPrefix(user, "#"); ok && id != "" {
		return id, nil
	}
	u, err := s.gate.Hooks.UserByName(ctx, forgeName, user)
	if errors.Is(err, forge.ErrNoUser) {
		return "", &RequestError{Status: http.StatusNotFound, Problem: "the forge knows no user of that name", Hint: "name the user by the immutable id: #ID"}
	}
	if err != nil {
		return "", unavailable("look up a user", err)
	}
	return u.ID, nil
}

// administer reports whether the principal is an administrator of any zone. To others these calls do not exist.
func (s *Session) administer(ctx context.Context) error {
	err := error(ErrNotFound)
	for name := range s.gate.zones {
		switch _, denied := s.mayIn(ctx, authz.Admin, name); {
		case denied == nil:
			return nil
		case errors.Is(denied, ErrUnavailable):
			err = denied
		}
	}
	return err
}
