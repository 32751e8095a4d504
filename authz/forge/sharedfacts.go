package forge

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"
)

// sharedFacts is what the nodes of a gate tell each other of one user.
type sharedFacts struct {
	Version int          `json:"v"`
	Forge   string       `json:"forge"`
	User    string       `json:"user"`
	Facts   []sharedFact `json:"facts"`
}

// sharedFact is a fact as of a position of the bus: an event after it makes it worthless. Times are Unix nanoseconds by
// the clock of the node that learnt it.
type sharedFact struct {
	Repo     string `json:"repo"`
	Read     bool   `json:"read"`
	At       int64  `json:"at"`
	NotAfter int64  `json:"until"`
	Position uint64 `json:"pos"`
	Origin   string `json:"origin"`
}

const sharedVersion = 1

func (c *Cache) sharedKey(user string) string { return "facts/" + c.config.Name + "/" + user }

// fromShared learns what other nodes have put. It returns the repositories that must be asked about all the same, and all
// that is still true of what it read.
func (c *Cache) fromShared(ctx context.Context, u *userFacts, q *asking, repos []Repo) (rest []Repo, valid []sharedFact) {
	if c.config.Shared == nil || !q.shareable {
		return repos, nil
	}
	data, err := c.config.Shared.Get(ctx, c.sharedKey(u.id))
	if err != nil || data == nil {
		return repos, nil
	}
	var entry sharedFacts
	if err := json.Unmarshal(data, &entry, json.RejectUnknownMembers(true)); err != nil ||
		entry.Version != sharedVersion || entry.Forge != c.config.Name || entry.User != u.id {
		return repos, nil
	}
	held := make(map[string]Fact)
	for _, s := range entry.Facts {
		if f, ok := c.believe(s, u.id, q); ok {
			held[s.Repo] = f
			valid = append(valid, s)
		}
	}
	var facts []Fact
	for _, r := range repos {
		if f, ok := held[r.ID]; ok && !f.At.Before(q.since) && c.isNews(u, f, q.begun) {
			facts = append(facts, f)
			continue
		}
		rest = append(rest, r)
	}
	if len(facts) > 0 {
		c.keep(u, q, facts)
	}
	return rest, valid
}

// isNews reports whether a shared fact spares a question: it is not due to be asked for again, and younger than what is known here.
func (c *Cache) isNews(u *userFacts, f Fact, now time.Time) bool {
	soft := softLimit
	if f.Access == None {
		soft = negativeLimit
	}
	known, ok := u.view.Load().find(c.names.number(f.Repo.ID))
	return now.Sub(f.At) < soft && (!ok || int64(f.At.Sub(c.born)) > known.at)
}

// believe returns the fact that another node shared, unless an event has overtaken it or its time is over. A clock that is
// ahead of this one's could make it live for ever.
func (c *Cache) believe(s sharedFact, user string, q *asking) (Fact, bool) {
	now := c.config.Now()
	at, until := time.Unix(0, s.At), time.Unix(0, s.NotAfter)
	if at.Sub(now.Round(0)) > futureLimit || s.Position > q.position {
		return Fact{}, false
	}
	if c.config.Hub.OvertakenShared(s.Position, Concern{Forge: c.config.Name, User: user, Repos: []string{s.Repo}}) {
		return Fact{}, false
	}
	// From here on the monotonic clock counts: a step of the other cannot make it younger.
	age := max(now.Round(0).Sub(at), 0)
	f := Fact{
		Repo: Repo{Forge: c.config.Name, ID: s.Repo}, Access: None, Origin: s.Origin,
		At: now.Add(-age), NotAfter: now.Add(-age).Add(min(until.Sub(at), hardLimit)),
	}
	if s.Read {
		f.Access = Read
	} else if end := f.At.Add(softLimit); f.NotAfter.After(end) {
		f.NotAfter = end
	}
	return f, now.Before(f.NotAfter)
}

// toShared puts what was just learnt, and what others had put and is still true.
func (c *Cache) toShared(ctx context.Context, u *userFacts, q *asking, others []sharedFact, facts []Fact) {
	if c.config.Shared == nil || len(facts) == 0 || c.config.Hub.Generation() != q.generation {
		return
	}
	entry := sharedFacts{Version: sharedVersion, Forge: c.config.Name, User: u.id}
	mine := make(map[string]bool)
	var last time.Time
	add := func(s sharedFact) {
		entry.Facts = append(entry.Facts, s)
		if until := time.Unix(0, s.NotAfter); until.After(last) {
			last = until
		}
	}
	for _, f := range facts {
		mine[f.Repo.ID] = true
		add(sharedFact{Repo: f.Repo.ID, Read: f.Access == Read, At: f.At.UnixNano(), NotAfter: f.NotAfter.UnixNano(), Position: q.position, Origin: clip(f.Origin)})
	}
	for _, s := range others {
		if !mine[s.Repo] {
			add(s)
		}
	}
	data, err := json.Marshal(entry)
	if err == nil {
		err = c.config.Shared.Put(ctx, c.sharedKey(u.id), data, last)
	}
	if err != nil {
		c.config.Logger.Debug("facts could not be shared", "forge", c.config.Name, "error", err)
	}
}
