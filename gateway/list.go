package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Lister lists what is published.
type Lister interface {
	// List returns at most limit records of a zone, sorted by path and part, from the path from on and before the path to; "" is
	// no bound.
	List(ctx context.Context, zone, from, to string, limit int) ([]provenance.Record, error)
}

// Entry is what a directory shows a reader.
type Entry struct {
	Name string // within the directory
	Dir  bool
	Object
}

// Zones returns the zones that the principal can see something in, or has a role in, sorted.
func (s *Session) Zones(ctx context.Context) ([]string, error) {
	var names []string
	for name := range s.gate.zones {
		err := s.StatDir(ctx, name, "")
		switch {
		case err == nil:
			names = append(names, name)
		case err != ErrNotFound:
			return nil, err
		}
	}
	slices.Sort(names)
	return names, nil
}

// ReadDir returns what the principal may read of a directory of a zone, sorted by name: objects, and the directories that lead to
// some. A directory without any is ErrNotFound, as one that cannot exist.
func (s *Session) ReadDir(ctx context.Context, zone, dir string) ([]Entry, error) {
	l, err := s.listing(zone, dir)
	if err != nil {
		return nil, err
	}
	if err := l.walk(ctx, false); err != nil {
		return nil, err
	}
	if err := l.record(); err != nil {
		return nil, err
	}
	if len(l.entries) == 0 && !l.granted() {
		return nil, ErrNotFound
	}
	slices.SortFunc(l.entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return l.entries, nil
}

// StatDir returns nil when ReadDir would show the directory.
func (s *Session) StatDir(ctx context.Context, zone, dir string) error {
	l, err := s.listing(zone, dir)
	if err != nil {
		return err
	}
	if err := l.walk(ctx, true); err != nil {
		return err
	}
	if err := l.record(); err != nil {
		return err
	}
	if len(l.entries) == 0 && !l.granted() {
		return ErrNotFound
	}
	return nil
}

// listing looks through a directory for what its session's principal may read.
type listing struct {
	session *Session
	zone    Zone
	dir     string
	entries []Entry
	shown   map[string]bool // names of entries
	looked  int             // records decided on
	policy  string          // revision
}

func (s *Session) listing(zone, dir string) (*listing, error) {
	z, err := s.zone(zone)
	if err != nil {
		return nil, err
	}
	if dir, err = artifact.ParseDir(dir); err != nil {
		return nil, ErrNotFound
	}
	return &listing{session: s, zone: z, dir: dir, shown: map[string]bool{}}, nil
}

// granted reports whether the directory is the zone itself and the principal has a role in it: a writer must see the zone that it is
// to fill.
func (l *listing) granted() bool {
	return l.dir == "" && slices.ContainsFunc(l.session.principal.Roles, func(role string) bool {
		_, zone, _ := strings.Cut(role, ":")
		return zone == l.zone.Name
	})
}

// walk finds the entries, or only the first. One principal walks one directory at a time: a walk through a large zone by somebody
// who may read little of it is work.
func (l *listing) walk(ctx context.Context, first bool) error {
	defer l.session.gate.walking.lock(l.session.owner())()
	for z := l.zone; ; z = l.session.gate.zones[z.Base] {
		if err := l.walkZone(ctx, z.Name, first); err != nil {
			return err
		}
		if z.Base == "" || first && len(l.entries) > 0 {
			return nil
		}
	}
}

// The pages that a walk reads: short ones first, since most directories show something at once.
const (
	firstPage = 16
	lastPage  = 1024
)

// walkZone walks the records that one zone of the chain holds. Of a child directory it looks at no more than is needed to show it.
func (l *listing) walkZone(ctx context.Context, holder string, first bool) error {
	from, to := "", ""
	if l.dir != "" {
		from, to = l.dir+"/", l.dir+"0" // '0' follows '/'
	}
	for page := firstPage; ; page = min(2*page, lastPage) {
		if ctx.Err() != nil {
			return unavailable("list a directory", ctx.Err())
		}
		records, err := l.session.gate.Names.List(ctx, holder, from, to, page)
		if err != nil {
			return unavailable("list a directory", err)
		}
		next, err := l.look(ctx, records, first)
		if err != nil || len(records) < page && next == "" || first && len(l.entries) > 0 {
			return err
		}
		if next != "" {
			page = firstPage
		}
		if from = next; from == "" {
			from = records[len(records)-1].Ref.Path // once more: a page may end between the parts of an artifact
		}
	}
}

// look decides on records, in order. next, unless empty, is where the walk should go on: behind a directory that is shown.
func (l *listing) look(ctx context.Context, records []provenance.Record, first bool) (next string, err error) {
	prefix := 0
	if l.dir != "" {
		prefix = len(l.dir) + 1
	}
	for i := range records {
		ref := records[i].Ref
		child, _, isDir := strings.Cut(ref.Name()[prefix:], "/")
		if l.shown[child] {
			if isDir {
				return ref.Path[:prefix] + child + "0", nil
			}
			continue
		}
		obj, err := l.decide(ctx, ref)
		switch {
		case err == ErrNotFound:
			continue
		case err != nil:
			return "", err
		}
		l.show(child, isDir, obj)
		if first {
			return "", nil
		}
		if isDir {
			return ref.Path[:prefix] + child + "0", nil
		}
	}
	return "", nil
}

func (l *listing) show(child string, isDir bool, obj Object) {
	l.shown[child] = true
	if isDir {
		obj = Object{}
	}
	l.entries = append(l.entries, Entry{Name: child, Dir: isDir, Object: obj})
}

// decide answers about one record as a read of its name in the zone that was asked would.
func (l *listing) decide(ctx context.Context, ref artifact.Ref) (Object, error) {
	s := l.session
	ref.Zone = l.zone.Name
	r := authz.Request{Action: authz.List, Door: s.door.Name, Principal: s.principal, Ref: ref}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	l.looked++
	if answer.Decision != nil {
		l.policy = answer.Decision.Revision
	}
	if err := outcome(&answer, err); err != nil {
		return Object{}, err
	}
	return object(answer.Record), nil
}

// record leaves an event of what was shown, several when it is much.
func (l *listing) record() error {
	var events []*audit.Event
	id := newRequestID()
	begin := func() *audit.Event {
		e := l.session.event("list", id)
		e.Action, e.Zone, e.Object.Path = string(authz.List), l.zone.Name, l.dir
		e.Decision.Policy, e.Decision.FactAge = l.policy, -1
		e.Detail = fmt.Sprintf("%d of %d names that were looked at", len(l.entries), l.looked)
		return e
	}
	for shown := range slices.Chunk(l.entries, presenceEvent) {
		e := begin()
		for _, entry := range shown {
			e.Objects = append(e.Objects, audit.Object{Path: entry.Name, Verdict: "allow"})
		}
		events = append(events, e)
	}
	if events == nil {
		events = append(events, begin())
	}
	for part := range slices.Chunk(events, presenceAppend) {
		if _, err := l.session.gate.Journal.AppendBatch(part); err != nil {
			return unavailable("record a listing", err)
		}
	}
	return nil
}
