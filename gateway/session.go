package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Session is one principal at one door. Its methods are the only callers of authz.Decide and of the journal.
// It is safe for concurrent use.
type Session struct {
	gate       *Gateway
	door       Door
	credential authn.Credential
	once       [32]byte // of a credential that is good for one token, its digest; else zero
	principal  *authn.Principal
}

// Object is what a reader may know of an artifact that it may read.
type Object struct {
	Name   string // canonical, within the zone
	Size   int64
	Digest artifact.Digest
	Time   time.Time // of publication
}

// Principal returns who the session belongs to. It must not be changed.
func (s *Session) Principal() *authn.Principal { return s.principal }

// identify turns the credential into a principal, as it is now.
func (s *Session) identify(ctx context.Context) error {
	p, err := s.gate.Authenticator.Authenticate(ctx, s.credential)
	if err != nil {
		return err
	}
	s.principal, err = s.gate.Authorizer.Identify(ctx, p)
	return err
}

// zone finds a zone by the name in a request.
func (s *Session) zone(name string) (Zone, error) {
	z, ok := s.gate.zones[name]
	if !ok {
		return Zone{}, ErrNotFound
	}
	return z, nil
}

// Stat answers whether the principal may read the object at path, percent-encoded as in a request target, and
// what it is. It never touches an upstream: the record answers.
func (s *Session) Stat(ctx context.Context, zone, path string) (Object, error) {
	_, record, err := s.decide(ctx, authz.Stat, zone, path, newRequestID())
	if err != nil {
		return Object{}, err
	}
	return object(record), nil
}

// Open decides, records the decision, and returns the object's content. Nothing is read before the caller asks for a
// section of it. The caller must call Content.Close.
func (s *Session) Open(ctx context.Context, zone, path string) (*Content, error) {
	id := newRequestID()
	ref, record, err := s.decide(ctx, authz.Read, zone, path, id)
	if err != nil {
		return nil, err
	}
	now := s.gate.Now()
	return &Content{
		Object: object(record), session: s, asked: ref, zone: s.gate.zones[record.Ref.Zone], record: record,
		request: id, began: now, at: sections{checked: now},
	}, nil
}

// decide is the walk that Stat and Open share: name, decision, event. It returns what was asked for, and the record, which
// may be in a base of the zone.
func (s *Session) decide(ctx context.Context, action authz.Action, zone, path, id string) (artifact.Ref, provenance.Record, error) {
	z, err := s.zone(zone)
	if err != nil {
		return artifact.Ref{}, provenance.Record{}, err
	}
	ref, err := artifact.Parse(z.Zone, path)
	if err != nil {
		return artifact.Ref{}, provenance.Record{}, ErrNotFound
	}
	r := authz.Request{Action: action, Door: s.door.Name, Principal: s.principal, Ref: ref}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	e := s.decisionEvent(&r, &answer, id)
	if err != nil {
		e.Detail = err.Error()
	}
	if err := s.record(e); err != nil {
		return artifact.Ref{}, provenance.Record{}, err
	}
	if err := outcome(&answer, err); err != nil {
		return artifact.Ref{}, provenance.Record{}, err
	}
	return ref, answer.Record, nil
}

// mayIn decides an action that is about a zone as a whole. The error is nil for an allow alone.
func (s *Session) mayIn(ctx context.Context, action authz.Action, zone string) (authz.Answer, error) {
	r := authz.Request{Action: action, Door: s.door.Name, Principal: s.principal, Ref: artifact.Ref{Zone: zone}}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	return answer, outcome(&answer, err)
}

// record puts an event into the journal. An error means that what it is about must not happen.
func (s *Session) record(e *audit.Event) error {
	if _, err := s.gate.Journal.Append(e); err != nil {
		return unavailable("record the "+e.Kind, err)
	}
	return nil
}

// outcome turns an answer into what a reader learns. Only a clean allow is nil.
func outcome(a *authz.Answer, err error) error {
	switch {
	case err == nil && a.Decision != nil && a.Decision.Verdict == authz.Allow:
		return nil
	case a.Decision != nil && a.Decision.Verdict == authz.Unavailable:
		return fmt.Errorf("%w: the facts for a decision could not be had", ErrUnavailable)
	}
	return ErrNotFound
}

func object(r provenance.Record) Object {
	return Object{Name: r.Ref.Name(), Size: r.Size, Digest: r.Digest, Time: r.Time}
}

// Presence answers, for each name of a batch, what Stat would. Names are percent-encoded or raw. It fails as a whole
// only when the answers could not be recorded or decided.
func (s *Session) Presence(ctx context.Context, zone string, names []string) ([]bool, error) {
	if limit := s.gate.Limits.PresenceNames; len(names) > limit {
		return nil, &RequestError{Status: http.StatusRequestEntityTooLarge, Problem: fmt.Sprintf("%d names in one batch; %d are allowed", len(names), limit), Hint: "split the batch"}
	}
	present := make([]bool, len(names))
	z, err := s.zone(zone)
	if err != nil {
		return present, nil // nothing is there; which zones there are is nobody's to learn
	}
	batch := presenceBatch{session: s, zone: zone, id: newRequestID(), left: len(names)}
	for i, name := range names {
		ref, err := artifact.Parse(z.Zone, name)
		if err != nil {
			continue
		}
		if present[i], err = s.isThere(ctx, &batch, ref); err != nil {
			return nil, err
		}
	}
	return present, batch.close()
}

const (
	// presenceEvent is how many names one event holds at most, so that a line stays readable.
	presenceEvent = 1000
	// presenceAppend is how many events go to the journal at once: less than a megabyte, in buffers that it keeps.
	presenceAppend = 4
)

// presenceBatch gathers the verdicts of a batch into few events.
type presenceBatch struct {
	session *Session
	zone    string
	id      string
	left    int // names still to come, at most
	events  []*audit.Event
}

func (b *presenceBatch) add(r *authz.Request, a *authz.Answer) {
	n := len(b.events)
	if n == 0 || len(b.events[n-1].Objects) == presenceEvent {
		e := b.session.event("presence", b.id)
		e.Action, e.Zone = string(authz.Stat), b.zone
		e.Objects = make([]audit.Object, 0, min(b.left, presenceEvent))
		e.Decision.FactAge = -1
		b.events = append(b.events, e)
		n++
	}
	b.left--
	e := b.events[n-1]
	e.Decision.Policy = a.Decision.Revision
	e.Objects = append(e.Objects, audit.Object{Path: r.Ref.Name(), Verdict: verdict(a.Decision)})
}

func (b *presenceBatch) close() error {
	return b.session.recordAll(b.events)
}

// recordAll puts the events of a batch into the journal. An error means that nothing of it may be answered.
func (s *Session) recordAll(events []*audit.Event) error {
	for some := range slices.Chunk(events, presenceAppend) {
		if _, err := s.gate.Journal.AppendBatch(some); err != nil {
			return fmt.Errorf("%w: record the decisions: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// event begins an event of this session.
func (s *Session) event(kind, request string) *audit.Event {
	p := s.principal
	return &audit.Event{
		Kind: kind, Request: request, Door: s.door.Name,
		Actor: audit.Actor{
			Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: string(p.Kind),
			Credential: p.Credential, Remote: s.door.Remote.String(),
		},
	}
}

func (s *Session) decisionEvent(r *authz.Request, a *authz.Answer, request string) *audit.Event {
	e := s.event("decision", request)
	e.Action, e.Zone = string(r.Action), r.Ref.Zone
	e.Object.Path = r.Ref.Name()
	if d := a.Decision; d != nil {
		e.Decision = audit.Decision{
			Verdict: verdict(d), Rule: d.Rule, Reasons: d.Reasons, Policy: d.Revision,
			FactAge: factAge(a, s.gate.Now()), Cached: a.Remembered,
		}
		if d.Verdict == authz.Allow {
			e.Object.Digest, e.Object.Size = a.Record.Digest.String(), a.Record.Size
		}
	}
	return e
}

func verdict(d *authz.Decision) string {
	switch d.Verdict {
	case authz.Allow:
		return "allow"
	case authz.Unavailable:
		return "unavailable"
	}
	return "deny"
}

// factAge returns the age in milliseconds of the oldest permission an answer rested on, -1 for none.
func factAge(a *authz.Answer, now time.Time) int64 {
	if a.FactsAt.IsZero() {
		return -1
	}
	return max(0, now.Sub(a.FactsAt).Milliseconds())
}

// newRequestID returns 16 random hex digits that tie the events of one request together. Nothing rests on their being secret.
func newRequestID() string {
	const digits = "0123456789abcdef"
	var text [16]byte
	for i, n := 0, rand.Uint64(); i < len(text); i, n = i+1, n>>4 {
		text[i] = digits[n&15]
	}
	return string(text[:])
}
