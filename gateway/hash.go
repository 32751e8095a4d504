package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/hashserv"
)

// HashZone is hash equivalence in a zone.
type HashZone struct {
	// Store keeps the zone's mappings; nil for a zone without.
	Store hashserv.Store
	// Reference answers as BitBake's own server does where that is possible: also about hashes that nothing is published under, and
	// with an error for a right that is missing. BitBake dies of such an error.
	Reference bool
	// Equivalents lets writers map a task without an output (report-equiv).
	Equivalents bool
}

// Published finds what is published by its hash. It is safe for concurrent use.
type Published interface {
	// ByHash appends to out the records of the archives that are published in exactly this zone under hash. Their Refs have the zone and
	// the kind, and may lack all else.
	ByHash(out []provenance.Record, zone string, hash [32]byte) []provenance.Record
	// NamesByHash returns the whole Refs of the same.
	NamesByHash(ctx context.Context, zone string, hash [32]byte) ([]artifact.Ref, error)
}

const (
	// hashRecheck is for how long a hash connection's principal counts as identified.
	hashRecheck = time.Second
	// nobodyRests is for how long the connection of nobody may rest. BitBake connects again when it has a question.
	nobodyRests = time.Minute
	// maxTask is how long a method and a task hash may be together. No real one has half of it.
	maxTask = 512
)

// Hashes is hash equivalence in one zone as one connection may see it: a [hashserv.Peer] that decides before it answers and leaves an
// event before it does. Where the right is missing it answers as if nothing were there, since BitBake dies of errors.
//
// A mapping is answered to whoever may read an archive that is published under its unihash in the zone or its bases, and to whoever reported it.
// It is for one goroutine.
type Hashes struct {
	gate *Gateway
	door Door
	name string   // of the zone, which may not exist
	zone Zone     // zero when it does not
	in   []string // the zone and its bases

	credential authn.Credential
	session    *Session // nil for somebody without a credential, or with one that is refused
	checked    time.Time
	account    *authn.Account // that was signed in to, nil for none
	author     hashserv.Author

	// What one answer needs, made by begin or kept to be used again.
	asking  authz.Request
	reads   authz.Field
	decided map[claimed]decision
	records []provenance.Record
	found   []hashserv.Mapping
}

var _ interface {
	hashserv.Peer
	hashserv.Equivalents
	hashserv.Keeper
	hashserv.Users
	hashserv.Resting
} = (*Hashes)(nil)

// Hashes returns hash equivalence in a zone for a connection at door. The session may be nil: then the client has yet to sign in with the
// protocol's own command, and until then nothing is there for it.
func (g *Gateway) Hashes(door Door, zone string, s *Session) *Hashes {
	if !artifact.ValidZoneName(zone) {
		zone = ""
	}
	h := &Hashes{gate: g, door: door, name: zone, zone: g.zones[zone], in: g.Authorizer.Chain(zone), decided: map[claimed]decision{}}
	if s != nil {
		h.enter(s, nil)
	}
	return h
}

// enter makes the connection that of a session, and of an account if one was signed in to.
func (h *Hashes) enter(s *Session, account *authn.Account) {
	held := *s
	held.door = h.door
	h.session, h.credential, h.account, h.checked = &held, s.credential, account, h.gate.Now()
	h.author = authorOf(s.principal)
}

// leave makes the connection nobody's.
func (h *Hashes) leave() {
	h.session, h.credential, h.account, h.author = nil, authn.Credential{}, nil, 0
}

// Rest implements [hashserv.Resting]: whoever has not signed in shall not hold connections that others need.
func (h *Hashes) Rest() time.Duration {
	if h.session == nil {
		return nobodyRests
	}
	return 0
}

// authorOf stands for a principal where its mappings are kept.
func authorOf(p *authn.Principal) hashserv.Author {
	sum := sha256.Sum256([]byte(p.Forge + "\x00" + p.ID))
	return hashserv.Author(max(1, binary.BigEndian.Uint64(sum[:8])))
}

// who returns the connection's session as it is now, nil for nobody. One whose credential is refused is nobody from then on.
func (h *Hashes) who(ctx context.Context) *Session {
	if h.session == nil || h.gate.Now().Sub(h.checked) < hashRecheck {
		return h.session
	}
	s, err := h.gate.Session(ctx, h.door, h.credential)
	switch {
	case err == nil && h.account != nil:
		s, err = h.again(ctx, s)
		if err != nil {
			return nil
		}
	case errors.Is(err, ErrUnauthenticated):
		h.leave()
		return nil
	case err != nil:
		return nil // for now
	}
	h.session, h.checked = s, h.gate.Now()
	return s
}

// again reads the permissions of the connection's account anew.
func (h *Hashes) again(ctx context.Context, s *Session) (*Session, error) {
	account, err := h.gate.Accounts.Account(ctx, h.account.Zone, h.account.Name)
	if err != nil {
		return nil, err
	}
	h.account = &account
	return s, nil
}

// has reports whether the account that was signed in to has a permission. Who shows a credential of its own is not narrowed.
func (h *Hashes) has(need hashserv.Permission) bool {
	return h.account == nil || slices.Contains(h.account.Permissions, string(need))
}

// may decides an action that is about the zone as a whole.
func (h *Hashes) may(ctx context.Context, s *Session, action authz.Action, need hashserv.Permission) (authz.Answer, bool) {
	answer, err := s.mayIn(ctx, action, h.name)
	return answer, err == nil && h.has(need) && h.zone.Name != ""
}

// refusal is what somebody without a right is told where that does no harm: by commands that BitBake does not send, and in zones that
// answer as the reference server does.
func (h *Hashes) refusal(need hashserv.Permission) error {
	return &hashserv.Refusal{Message: fmt.Sprintf("%s is not allowed to access permissions(s) %s", h.userName(), need)}
}

// userName is how the protocol calls the asker.
func (h *Hashes) userName() string {
	switch {
	case h.account != nil:
		return h.account.Name
	case h.session != nil:
		return h.session.principal.Name
	}
	return "Anonymous user"
}

// reader returns the session to decide reads for; nil means that nothing is there for the asker. An error is for zones that answer as the
// reference server does.
func (h *Hashes) reader(ctx context.Context) (*Session, error) {
	s := h.who(ctx)
	if s != nil && h.zone.Hash.Store != nil && h.has(hashserv.Read) {
		return s, nil
	}
	if h.zone.Hash.Reference {
		return nil, h.refusal(hashserv.Read)
	}
	return nil, nil
}

// Unihash implements [hashserv.Store].
func (h *Hashes) Unihash(ctx context.Context, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	clear(answers)
	s, err := h.reader(ctx)
	if s == nil {
		return err
	}
	b := newHashBatch(s, h.name, "hash.lookup", len(tasks))
	if err := h.find(ctx, s, b, tasks, answers); err != nil {
		return err
	}
	return b.close()
}

// find looks the tasks up in the zone and, where that has no answer for the asker, in its bases.
func (h *Hashes) find(ctx context.Context, s *Session, b *hashBatch, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	h.begin(s)
	for depth, zone := range h.in {
		store := h.gate.zones[zone].Hash.Store
		if store == nil {
			continue
		}
		h.found = slices.Grow(h.found[:0], len(tasks))[:len(tasks)]
		if err := store.Unihash(ctx, tasks, h.found); err != nil {
			// The same as nothing, and nothing of its bases either: an answer of theirs may be another than the one that was given before.
			h.gate.Log.Warn("hash equivalence: look up", "zone", zone, "error", err)
			break
		}
		for i, m := range h.found {
			if m.Unihash != (hashserv.Unihash{}) && answers[i].Unihash == (hashserv.Unihash{}) && fits(tasks[i]) && h.shows(ctx, depth, m) {
				answers[i] = m
			}
		}
	}
	for i, t := range tasks {
		b.addTask(t, answers[i].Unihash != hashserv.Unihash{})
	}
	return nil
}

// fits reports whether a task is one that somebody could have.
func fits(t hashserv.Task) bool { return len(t.Method)+len(t.Taskhash) <= maxTask }

// taskName is a task in an event.
func taskName(t hashserv.Task) string {
	if !fits(t) {
		return tooLong
	}
	return t.Method + " " + t.Taskhash
}

// tooLong stands for what is too long to be recorded, and too long to be looked up.
const tooLong = "too long"

// begin prepares for answers to a session at one moment.
func (h *Hashes) begin(s *Session) {
	clear(h.decided)
	h.asking = authz.Request{Action: authz.Stat, Door: h.door.Name, Principal: s.principal}
	h.reads = h.gate.Authorizer.Reads()
}

// shows reports whether the asker may know of a mapping that was found in a zone, the depth-th of those that are looked through.
func (h *Hashes) shows(ctx context.Context, depth int, m hashserv.Mapping) bool {
	if depth == 0 && m.Author != 0 && m.Author == h.author {
		return true
	}
	published, allowed := h.readable(ctx, depth, m.Unihash)
	return allowed || !published && h.gate.zones[h.in[depth]].Hash.Reference
}

// readable reports whether an archive is published under u in a zone, the depth-th of those that are looked through, or its bases, and
// whether the asker may read one.
func (h *Hashes) readable(ctx context.Context, depth int, u hashserv.Unihash) (published, allowed bool) {
	for _, zone := range h.in[depth:] {
		h.records = h.gate.Published.ByHash(h.records[:0], zone, u)
		published = published || len(h.records) > 0
		if len(h.records) > 0 && h.readsOne(ctx, zone, u) {
			return true, true
		}
	}
	return published, false
}

// nameFields are what a policy may read of a name that its hash does not tell.
const nameFields = authz.FieldPath | authz.FieldPart | authz.FieldRecipe | authz.FieldVersion | authz.FieldArch | authz.FieldTask

// readsOne reports whether the asker may read one of h.records, which are published under u in a zone.
func (h *Hashes) readsOne(ctx context.Context, zone string, u hashserv.Unihash) bool {
	if h.reads&nameFields != 0 {
		return h.readsNamed(ctx, zone, u)
	}
	h.asking.Ref = artifact.Ref{Zone: h.name, Kind: artifact.KindSstate}
	if h.reads&authz.FieldHash != 0 {
		h.asking.Ref.Hash = u.String()
	}
	for _, record := range h.records {
		record.Ref.Zone = zone
		if h.decide(ctx, &record) {
			return true
		}
	}
	return false
}

// readsNamed is readsOne for a policy that looks at names.
func (h *Hashes) readsNamed(ctx context.Context, zone string, u hashserv.Unihash) bool {
	names, err := h.gate.Published.NamesByHash(ctx, zone, u)
	if err != nil {
		h.gate.Log.Warn("hash equivalence: read names", "zone", zone, "error", err)
		return false
	}
	for _, ref := range names {
		h.asking.Ref = ref
		h.asking.Ref.Zone = h.name
		answer, err := h.gate.Authorizer.Decide(ctx, &h.asking)
		if outcome(&answer, err) == nil && answer.Record.Ref.Zone == zone {
			return true
		}
	}
	return false
}

// claimed tells apart what decisions rest on when the policy looks at no names: where a record is, and what it claims.
type claimed struct {
	zone   string
	claims *provenance.Claim // the first of them; records of one claim share it
	n      int
}

// decision is what was decided about such records, and when the oldest fact behind it was learnt; zero for none.
type decision struct {
	allowed bool
	factsAt time.Time
}

// decide reports whether the asker may read a record. Of the thousands that share their sources one is decided in an answer, unless a fact
// is older than the record.
func (h *Hashes) decide(ctx context.Context, record *provenance.Record) bool {
	if len(record.Claims) == 0 {
		return false
	}
	key := claimed{record.Ref.Zone, &record.Claims[0], len(record.Claims)}
	same := h.reads&authz.FieldHash == 0
	if d, ok := h.decided[key]; ok && same && (d.factsAt.IsZero() || record.Time.Before(d.factsAt)) {
		return d.allowed
	}
	answer, err := h.gate.Authorizer.DecideFound(ctx, &h.asking, *record)
	allowed := outcome(&answer, err) == nil
	if same && err == nil {
		h.decided[key] = decision{allowed, answer.FactsAt}
	}
	return allowed
}

// Exists implements [hashserv.Store]: whether there is an archive to download under each unihash.
func (h *Hashes) Exists(ctx context.Context, unihashes []hashserv.Unihash, answers []bool) error {
	clear(answers)
	s, err := h.reader(ctx)
	if s == nil {
		return err
	}
	mapped := make([]bool, len(unihashes))
	if h.zone.Hash.Reference {
		if err := h.zone.Hash.Store.Exists(ctx, unihashes, mapped); err != nil {
			h.gate.Log.Warn("hash equivalence: look up", "zone", h.name, "error", err)
			clear(mapped)
		}
	}
	h.begin(s)
	b := newHashBatch(s, h.name, "hash.exists", len(unihashes))
	for i, u := range unihashes {
		if u != (hashserv.Unihash{}) {
			published, allowed := h.readable(ctx, 0, u)
			answers[i] = allowed || !published && mapped[i]
		}
		b.add("", u.String(), answers[i])
	}
	return b.close()
}

// Outhash implements [hashserv.Store].
func (h *Hashes) Outhash(ctx context.Context, q hashserv.Query) (*hashserv.Row, error) {
	s, err := h.reader(ctx)
	if s == nil {
		return nil, err
	}
	row := h.row(ctx, s, q)
	b := newHashBatch(s, h.name, "hash.lookup", 1)
	b.addTask(queried(q), row != nil)
	if err := b.close(); err != nil {
		return nil, err
	}
	return row, nil
}

// queried is what a query asks about, in an event.
func queried(q hashserv.Query) hashserv.Task {
	if q.Outhash == "" {
		return hashserv.Task{Method: q.Method, Taskhash: q.Taskhash}
	}
	return hashserv.Task{Method: q.Method, Taskhash: "output " + q.Outhash}
}

// row returns the row that q asks for, from the zone or its bases, nil when none is there for the asker. A row without a mapping is its
// reporter's, whom nobody knows any more: it is shown where everything is.
func (h *Hashes) row(ctx context.Context, s *Session, q hashserv.Query) *hashserv.Row {
	h.begin(s)
	for depth, zone := range h.in {
		store := h.gate.zones[zone].Hash.Store
		if store == nil {
			continue
		}
		row, err := store.Outhash(ctx, q)
		switch {
		case err != nil:
			h.gate.Log.Warn("hash equivalence: look up an output", "zone", zone, "error", err)
		case row == nil:
		case row.Unihash == (hashserv.Unihash{}) && !h.gate.zones[zone].Hash.Reference:
		case row.Unihash == (hashserv.Unihash{}), h.shows(ctx, depth, hashserv.Mapping{Unihash: row.Unihash, Author: row.Author}):
			if depth > 0 {
				row = plain(row)
			}
			return row
		}
	}
	return nil
}

// plain is a row with what clients rely on. Who may see the whole of a zone's rows need not be who may see that of its base's.
func plain(row *hashserv.Row) *hashserv.Row {
	return &hashserv.Row{Task: row.Task, Outhash: row.Outhash, Created: row.Created, Unihash: row.Unihash, Author: row.Author, ID: row.ID}
}

// Whole implements [hashserv.Peer]: the details of reports, and how much others do, are for administrators, and for all where the reference
// server's answers are wanted.
func (h *Hashes) Whole(ctx context.Context) bool {
	if h.zone.Hash.Reference {
		return true
	}
	s := h.who(ctx)
	if s == nil {
		return false
	}
	_, ok := h.may(ctx, s, authz.Admin, hashserv.DBAdmin)
	return ok
}

// hashBatch gathers the verdicts about many hashes into few events.
type hashBatch struct {
	session    *Session
	zone, kind string
	id         string
	left       int
	events     []*audit.Event
}

func newHashBatch(s *Session, zone, kind string, n int) *hashBatch {
	return &hashBatch{session: s, zone: zone, kind: kind, id: newRequestID(), left: n}
}

// addTask notes whether something was answered about a task.
func (b *hashBatch) addTask(t hashserv.Task, answered bool) {
	if !fits(t) {
		t = hashserv.Task{Taskhash: tooLong}
	}
	b.add(t.Method, t.Taskhash, answered)
}

// add notes whether something was answered about a key. Keys of one method share an event, which says the method once.
func (b *hashBatch) add(method, key string, answered bool) {
	n := len(b.events)
	if n == 0 || len(b.events[n-1].Objects) == presenceEvent || b.events[n-1].Detail != method {
		e := b.session.event(b.kind, b.id)
		e.Zone, e.Detail = b.zone, method
		e.Objects = make([]audit.Object, 0, min(b.left, presenceEvent))
		e.Decision.Policy, e.Decision.FactAge = b.session.gate.Authorizer.Revision(), -1
		b.events = append(b.events, e)
		n++
	}
	b.left--
	verdict := "deny"
	if answered {
		verdict = "allow"
	}
	e := b.events[n-1]
	e.Objects = append(e.Objects, audit.Object{Path: key, Verdict: verdict})
}

// close puts the events into the journal. Only then may anything be answered.
func (b *hashBatch) close() error {
	return b.session.recordAll(b.events)
}
