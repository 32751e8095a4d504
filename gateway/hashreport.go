package gateway

import (
	"context"
	"fmt"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/hashserv"
)

// Report implements [hashserv.Store]. A writer's report is stored; anybody else's is answered from what is there for the asker.
//
// A report whose output is known would map the task to the unihash of that output. Where the asker may not know of it, nothing is stored
// and the answer is the asker's own unihash: a report is no way to learn what others build, or to be given it.
func (h *Hashes) Report(ctx context.Context, r hashserv.Report) (hashserv.Mapping, error) {
	own := hashserv.Mapping{Unihash: r.Unihash}
	s, err := h.reader(ctx)
	if s == nil {
		return own, err
	}
	answer, ok := h.may(ctx, s, authz.Report, hashserv.Reporting)
	e := h.reportEvent(s, &answer, r)
	if !ok || !fits(r.Task) || len(r.Outhash) > maxTask {
		e.Decision.Verdict = "deny"
		if err := s.record(e); err != nil {
			return own, err
		}
		return h.reported(ctx, s, r), nil
	}
	// Nobody else may report this output while it is looked up and stored.
	defer h.gate.reporting.lock(h.name + "\x00" + r.Method + "\x00" + r.Outhash)()
	if m, why := h.settled(ctx, s, r); why != "" {
		e.Decision.Verdict, e.Detail = "deny", why
		return m, s.record(e)
	}
	r.Author = h.author
	if h.account != nil || r.Owner == "" || !h.zone.Hash.Reference {
		r.Owner = h.userName()
	}
	return h.store(ctx, s, e, r.Unihash, func(ctx context.Context) (hashserv.Mapping, error) {
		return h.zone.Hash.Store.Report(ctx, r)
	})
}

// reportEvent begins the event of a report.
func (h *Hashes) reportEvent(s *Session, answer *authz.Answer, r hashserv.Report) *audit.Event {
	e := s.event("hash.report", newRequestID())
	e.Action, e.Zone = string(authz.Report), h.name
	e.Object.Path = taskName(r.Task)
	e.Objects = []audit.Object{{Path: r.Unihash.String(), Outcome: "reported"}}
	if d := answer.Decision; d != nil {
		e.Decision = audit.Decision{Verdict: verdict(d), Rule: d.Rule, Reasons: d.Reasons, Policy: d.Revision, FactAge: factAge(answer, s.gate.Now()), Cached: answer.Remembered}
	}
	return e
}

// reported is the answer to a report that is not stored: what a known output is mapped to, if the asker may know, else its own unihash.
func (h *Hashes) reported(ctx context.Context, s *Session, r hashserv.Report) hashserv.Mapping {
	if fits(r.Task) && len(r.Outhash) <= maxTask {
		if row := h.row(ctx, s, hashserv.Query{Method: r.Method, Outhash: r.Outhash, Taskhash: r.Taskhash}); row != nil && row.Unihash != (hashserv.Unihash{}) {
			return hashserv.Mapping{Unihash: row.Unihash}
		}
	}
	return hashserv.Mapping{Unihash: r.Unihash}
}

// settled returns the answer to a report that must not be stored, and why. The reason is empty for one that may be.
func (h *Hashes) settled(ctx context.Context, s *Session, r hashserv.Report) (m hashserv.Mapping, why string) {
	h.begin(s)
	own := hashserv.Mapping{Unihash: r.Unihash}
	switch m, known, err := h.fromBase(ctx, r.Task); {
	case err != nil:
		return own, "a base of the zone could not be looked up"
	case known:
		return m, "a base of the zone has the mapping"
	case m != (hashserv.Mapping{}):
		return own, "a base of the zone has a mapping that is not the reporter's to know"
	}
	row, err := h.zone.Hash.Store.Outhash(ctx, hashserv.Query{Method: r.Method, Outhash: r.Outhash, Taskhash: r.Taskhash})
	switch {
	case err != nil:
		h.gate.Log.Warn("hash equivalence: look up an output", "zone", h.name, "error", err)
		return own, "the output could not be looked up"
	case row != nil && !h.shows(ctx, 0, hashserv.Mapping{Unihash: row.Unihash, Author: row.Author}):
		return own, "the output is known, and what it is mapped to is not the reporter's to know"
	}
	return hashserv.Mapping{}, ""
}

// fromBase returns what a task is mapped to in a base of the zone, and whether the asker may know it. What is mapped there is not mapped anew
// here, whoever may know: readers of this zone were answered with it.
func (h *Hashes) fromBase(ctx context.Context, t hashserv.Task) (m hashserv.Mapping, known bool, err error) {
	for depth, zone := range h.in {
		store := h.gate.zones[zone].Hash.Store
		if depth == 0 || store == nil {
			continue
		}
		var found [1]hashserv.Mapping
		if err := store.Unihash(ctx, []hashserv.Task{t}, found[:]); err != nil {
			h.gate.Log.Warn("hash equivalence: look up", "zone", zone, "error", err)
			return hashserv.Mapping{}, false, err
		}
		if found[0].Unihash == (hashserv.Unihash{}) {
			continue
		}
		if m = found[0]; h.shows(ctx, depth, m) {
			return m, true, nil
		}
	}
	return m, false, nil
}

// store records a write, makes it, and waits until both are on the disk. What the task is mapped to in the end is told only if the asker
// may know; a write that cannot be made is answered as if nobody had been there before. It is not the asker's fault, and BitBake would die.
func (h *Hashes) store(ctx context.Context, s *Session, e *audit.Event, own hashserv.Unihash, write func(context.Context) (hashserv.Mapping, error)) (hashserv.Mapping, error) {
	seq, err := h.gate.Journal.Append(e)
	if err != nil {
		return hashserv.Mapping{}, unavailable("record the "+e.Kind, err)
	}
	durable := make(chan error, 1)
	go func() { durable <- h.gate.Journal.Durable(ctx, seq) }()
	m, err := write(ctx)
	if durable := <-durable; durable != nil {
		return hashserv.Mapping{}, unavailable("record the "+e.Kind, durable)
	}
	if err != nil {
		h.gate.Log.Warn("hash equivalence: store a report", "zone", h.name, "error", err)
		return hashserv.Mapping{Unihash: own}, nil
	}
	if m.Unihash == own {
		return m, nil
	}
	h.begin(s)
	known := h.shows(ctx, 0, m)
	mapped := s.event("hash.mapped", e.Request)
	mapped.Zone, mapped.Object = h.name, e.Object
	mapped.Objects = []audit.Object{{Path: m.Unihash.String(), Outcome: "in force"}}
	mapped.Decision = audit.Decision{Verdict: "deny", FactAge: -1}
	if known {
		mapped.Decision.Verdict = "allow"
	}
	if err := s.record(mapped); err != nil {
		return hashserv.Mapping{}, err
	}
	if !known {
		return hashserv.Mapping{Unihash: own}, nil
	}
	return m, nil
}

// Equivalent implements [hashserv.Equivalents]: to map a task without an output is for writers of zones that allow it.
func (h *Hashes) Equivalent(ctx context.Context, t hashserv.Task, m hashserv.Mapping) (hashserv.Mapping, error) {
	own := hashserv.Mapping{Unihash: m.Unihash}
	s, err := h.reader(ctx)
	if s == nil {
		return own, err
	}
	answer, ok := h.may(ctx, s, authz.Report, hashserv.Reporting)
	e := h.reportEvent(s, &answer, hashserv.Report{Task: t, Unihash: m.Unihash})
	e.Kind = "hash.equivalent"
	h.begin(s)
	why := ""
	switch {
	case !ok && h.zone.Hash.Reference:
		why, err = "no right to report", h.refusal(hashserv.Reporting)
	case !ok:
		why = "no right to report"
	case !h.zone.Hash.Equivalents && !h.zone.Hash.Reference:
		why = "the zone does not map tasks without an output"
	case !fits(t):
		why = "the task is too long"
	default:
		why = h.unmappable(ctx, t)
	}
	if why != "" {
		e.Decision.Verdict, e.Detail = "deny", why
		if err := s.record(e); err != nil {
			return own, err
		}
		return h.present(ctx, s, t, own), err
	}
	equivalents, ok := h.zone.Hash.Store.(hashserv.Equivalents)
	if !ok {
		return own, fmt.Errorf("the store of zone %s does not map tasks without an output", h.name)
	}
	m.Author = h.author
	return h.store(ctx, s, e, m.Unihash, func(ctx context.Context) (hashserv.Mapping, error) {
		return equivalents.Equivalent(ctx, t, m)
	})
}

// unmappable returns why a task must not be mapped without an output, "" if it may be.
func (h *Hashes) unmappable(ctx context.Context, t hashserv.Task) string {
	switch base, _, err := h.fromBase(ctx, t); {
	case err != nil:
		return "a base of the zone could not be looked up"
	case base != (hashserv.Mapping{}):
		return "a base of the zone has the mapping"
	}
	return ""
}

// present is what a task is mapped to for the asker, else own.
func (h *Hashes) present(ctx context.Context, s *Session, t hashserv.Task, own hashserv.Mapping) hashserv.Mapping {
	var m [1]hashserv.Mapping
	b := newHashBatch(s, h.name, "hash.lookup", 1)
	if err := h.find(ctx, s, b, []hashserv.Task{t}, m[:]); err != nil || m[0] == (hashserv.Mapping{}) {
		return own
	}
	if err := b.close(); err != nil {
		return own
	}
	return m[0]
}
