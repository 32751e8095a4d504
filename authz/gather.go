package authz

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

// setPair names what a claim rests on.
type setPair struct{ sources, inputs source.SetID }

// plan is what must be learnt to judge a claim. It depends on the sets and the configured public patterns alone, so the
// thousands of artifacts that share sets share a plan. It never changes.
type plan struct {
	sets   setPair
	direct []planned
	inputs []planned
	repos  []forge.Repo // to ask forges about, each once
	flaw   string       // why no reader may ever be allowed by it; "" for none
}

// planned is one source of a plan.
type planned struct {
	source.Source
	public bool
	repo   int // index into plan.repos; -1 when no forge is to be asked
}

// noPlan is for questions about nothing recorded, noClaim for records that should not exist.
var (
	noPlan  = &plan{}
	noClaim = &plan{flaw: codeNoSources + ": it was recorded without a claim"}
)

// plans remembers the plans of stored sets.
type plans struct {
	mu    sync.RWMutex // guards known
	known map[setPair]*plan
}

// planFor returns the plan of what is recorded. A set that the store does not have is an error, and so is one that is
// not what its id says.
func (a *Authorizer) planFor(ctx context.Context, c *claimed) (*plan, error) {
	switch {
	case !c.recorded:
		return noPlan, nil
	case c.claim == nil:
		return noClaim, nil
	}
	pair := setPair{c.claim.Sources, c.claim.Inputs}
	a.plans.mu.RLock()
	p := a.plans.known[pair]
	a.plans.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	sources, err := a.set(ctx, c.claim.Sources)
	if err != nil {
		return nil, err
	}
	inputs, err := a.set(ctx, c.claim.Inputs)
	if err != nil {
		return nil, err
	}
	p = a.newPlan(sources, inputs)
	a.plans.mu.Lock()
	defer a.plans.mu.Unlock()
	makeRoom(a.plans.known, maxPlans)
	a.plans.known[pair] = p
	return p, nil
}

func (a *Authorizer) set(ctx context.Context, id source.SetID) (*source.Set, error) {
	set, err := a.records.Set(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read source set %s: %w", id, err)
	}
	if set == nil || set.ID() != id {
		return nil, fmt.Errorf("read source set %s: the store returned another one", id)
	}
	return set, nil
}

func (a *Authorizer) newPlan(sources, inputs *source.Set) *plan {
	p := &plan{sets: setPair{sources.ID(), inputs.ID()}}
	index := make(map[forge.Repo]int)
	p.direct = a.planSources(p, index, sources)
	p.inputs = a.planSources(p, index, inputs)
	if len(p.direct) == 0 {
		p.flaw = codeNoSources + ": it was recorded without sources"
	}
	for _, s := range p.direct {
		if s.Type == source.Unresolvable {
			p.flaw = codeUnresolvable + ": " + s.Reason
			break
		}
	}
	return p
}

func (a *Authorizer) planSources(p *plan, index map[forge.Repo]int, set *source.Set) []planned {
	list := make([]planned, 0, len(set.Sources()))
	for _, s := range set.Sources() {
		next := planned{Source: s, public: s.Type != source.Unresolvable && a.public.Match(s), repo: -1}
		if repo, err := forge.ParseRepo(s.Repo); err == nil && !next.public {
			if _, ok := index[repo]; !ok {
				index[repo] = len(p.repos)
				p.repos = append(p.repos, repo)
			}
			next.repo = index[repo]
		}
		list = append(list, next)
	}
	return list
}

// gathered is what is known of the sources of a plan, at one moment and for one principal.
type gathered struct {
	facts  []forge.Fact // one for each of plan.repos
	open   bool         // at least one is Unknown
	until  time.Time    // when the first of them must be asked for again
	oldest time.Time    // zero for none
	err    error        // why some are Unknown
}

// gather finds a fact for each repository of p: the view's, when it is fresh and not older than since, else the forge's,
// all missing ones at once.
func (a *Authorizer) gather(ctx context.Context, q *question, p *plan, since time.Time) gathered {
	g := gathered{facts: make([]forge.Fact, len(p.repos)), until: q.view.until}
	held := make([]heldFact, len(p.repos))
	var missing []int
	var repos []forge.Repo
	for i, repo := range p.repos {
		var ok bool
		if held[i], ok = q.view.fact(repo, q.now, since); !ok {
			missing, repos = append(missing, i), append(repos, repo)
		}
	}
	now := q.now
	if len(repos) > 0 {
		var learnt []heldFact
		learnt, g.err = a.ask(ctx, q, repos, since)
		for i, at := range missing {
			held[at] = learnt[i]
		}
		now = a.now() // asking takes time, and what was fresh before may not be
		// An asker that went away says nothing about the forge, or its retries would see one that is away.
		if !errors.Is(ctx.Err(), context.Canceled) {
			q.view.learn(learnt, now)
		}
	}
	for i, h := range held {
		g.add(i, h, now)
	}
	return g
}

func (g *gathered) add(i int, h heldFact, now time.Time) {
	if h.Access != forge.Unknown && !now.Before(h.NotAfter) {
		h.Fact = openFact(h.Fact, "expired: "+h.Origin)
	}
	g.facts[i] = h.Fact
	if h.Access == forge.Unknown {
		g.open = true
		return
	}
	if h.until.Before(g.until) {
		g.until = h.until
	}
	if g.oldest.IsZero() || h.At.Before(g.oldest) {
		g.oldest = h.At
	}
}

// ask asks the forge and trusts nothing it says of time: an answer without a date, past its limit, older than the
// artifact, or from the future by more than the clock, is no answer. It returns one fact for each repo in any case.
func (a *Authorizer) ask(ctx context.Context, q *question, repos []forge.Repo, since time.Time) ([]heldFact, error) {
	// What is asked now is not older than the artifact, whatever the clock of the node says that published it.
	if begun := a.now(); since.After(begun) {
		since = begun
	}
	facts, err := a.forge.Access(forge.NotBefore(ctx, since), q.view.principal, repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	// The clock is read again: a slow answer may be past its limit when it arrives.
	now := a.now()
	held := make([]heldFact, len(repos))
	for i, repo := range repos {
		if err != nil {
			held[i].Fact = forge.Fact{Repo: repo, Origin: "the forge did not answer"}
			continue
		}
		held[i] = hold(facts[i], now, since)
	}
	if err != nil {
		err = fmt.Errorf("ask for permissions: %w: %w", ErrUnavailable, err)
	}
	return held, err
}

// hold says for how long a fact that has just arrived may be used.
func hold(f forge.Fact, now, since time.Time) heldFact {
	if f.At.After(now) {
		f.At = now
	}
	if hard := f.At.Add(hardAge); f.NotAfter.After(hard) {
		f.NotAfter = hard
	}
	soft := softAge
	switch {
	case f.Access != forge.Read && f.Access != forge.None:
		return heldFact{Fact: openFact(f, f.Origin)}
	case !now.Before(f.NotAfter):
		return heldFact{Fact: openFact(f, "expired: "+f.Origin)}
	case f.At.Before(since):
		return heldFact{Fact: openFact(f, "older than the artifact: "+f.Origin)}
	case f.Access == forge.None:
		soft = negativeAge
	}
	until := now.Add(soft)
	if f.NotAfter.Before(until) {
		until = f.NotAfter
	}
	return heldFact{Fact: f, until: until}
}

func openFact(f forge.Fact, origin string) forge.Fact {
	f.Access, f.Origin = forge.Unknown, origin
	return f
}

// facts lays the plan's sources and what was gathered side by side, as policy sees them.
func (p *plan) facts(c *claimed, g *gathered, now time.Time) *Facts {
	f := &Facts{Recorded: c.recorded, Zone: c.zone, Now: now}
	if c.claim != nil {
		f.Claim = *c.claim
	}
	f.Sources = sourceFacts(p.direct, g.facts)
	f.Inputs = sourceFacts(p.inputs, g.facts)
	return f
}

func sourceFacts(list []planned, facts []forge.Fact) []SourceFact {
	out := make([]SourceFact, len(list))
	for i, s := range list {
		out[i] = SourceFact{Source: s.Source, Public: s.public}
		switch {
		case s.repo >= 0:
			out[i].Fact = facts[s.repo]
		case !s.public:
			// Nobody can be asked, so nobody may: this is final, and no reason to ask again.
			out[i].Fact = forge.Fact{Access: forge.None, Origin: "no forge knows this source"}
		}
	}
	return out
}

// makeRoom drops entries, which ones is left to chance, until one more fits.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	for k := range m {
		if len(m) < most {
			return
		}
		delete(m, k)
	}
}
