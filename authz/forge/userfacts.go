package forge

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// userFacts is what is remembered of one user.
type userFacts struct {
	id   string
	used atomic.Int64 // Unix seconds, for eviction
	view atomic.Pointer[view]

	mu      sync.Mutex       // guards what follows, and writing view
	lanes   [2]lane          // those that somebody waits for, and the others
	suspect map[uint32]int64 // rights that were gained all at once, and when that was first so
}

// view is all that is known of a user at one moment. It never changes.
type view struct{ facts []cached } // sorted by repo, each once

// cached is a fact in little space: a gate remembers millions.
type cached struct {
	at         int64 // nanoseconds since the cache was born
	generation uint64
	soft, life uint32 // milliseconds after at
	repo       uint32
	origin     uint32
	access     Access
}

func (f cached) after(at time.Time, milliseconds uint32) time.Time {
	return at.Add(time.Duration(milliseconds) * time.Millisecond)
}

// milliseconds returns d, from none to as many as a cached holds.
func milliseconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Millisecond, 0), math.MaxUint32))
}

// find returns the fact about a repository. A nil view has none.
func (v *view) find(repo uint32) (cached, bool) {
	if v == nil {
		return cached{}, false
	}
	i, ok := slices.BinarySearchFunc(v.facts, repo, func(f cached, r uint32) int { return cmp.Compare(f.repo, r) })
	if !ok {
		return cached{}, false
	}
	return v.facts[i], true
}

// with returns v and fresh, which is sorted and takes the place of what v has.
func (v *view) with(fresh []cached) *view {
	if v == nil {
		return &view{fresh}
	}
	out := make([]cached, 0, len(v.facts)+len(fresh))
	old := v.facts
	for _, f := range fresh {
		for len(old) > 0 && old[0].repo < f.repo {
			out, old = append(out, old[0]), old[1:]
		}
		if len(old) > 0 && old[0].repo == f.repo {
			old = old[1:]
		}
		out = append(out, f)
	}
	return &view{slices.Clip(append(out, old...))}
}

const (
	// growth is how many rights a user may gain in one answer before a second one must agree, when they are more than half
	// of what was known: a forge whose permissions were switched off looks like that.
	growth = 10
	// quarantine is how soon the second answer may come.
	quarantine = time.Second
)

// learn merges fresh facts into the user's view, and returns those that are in it now. It reports whether something changed that was
// known. now is as cached.at, and the caller holds mu.
func (u *userFacts) learn(fresh []cached, now int64) (kept []cached, changed bool) {
	v := u.view.Load()
	// Of two answers that cross, the one that was given later counts.
	fresh = slices.DeleteFunc(fresh, func(f cached) bool {
		old, ok := v.find(f.repo)
		return ok && f.at < old.at
	})
	slices.SortFunc(fresh, func(a, b cached) int { return cmp.Compare(a.repo, b.repo) })
	known := 0
	var grown []int // into fresh
	for i, f := range fresh {
		old, ok := v.find(f.repo)
		if !ok {
			continue
		}
		known++
		if old.access == None && f.access == Read {
			grown = append(grown, i)
		}
	}
	if len(grown) > growth && 2*len(grown) > known {
		u.doubt(fresh, grown, now)
	} else {
		u.suspect = nil
	}
	for _, f := range fresh {
		old, ok := v.find(f.repo)
		changed = changed || ok && old.access != f.access
	}
	u.view.Store(v.with(fresh))
	return fresh, changed
}

// doubt leaves rights that a user gained all at once aside, until an answer that was given later says so again. The same answer,
// remembered by a provider or another node, agrees with itself for ever.
func (u *userFacts) doubt(fresh []cached, grown []int, now int64) {
	next := make(map[uint32]int64)
	for _, i := range grown {
		f := &fresh[i]
		first, seen := u.suspect[f.repo]
		if seen && time.Duration(f.at-first) >= quarantine {
			continue
		}
		if !seen {
			first = f.at
		}
		next[f.repo] = first
		f.access = None
		f.life = min(f.life, milliseconds(time.Duration(now-f.at)+2*quarantine))
		f.soft = f.life
	}
	u.suspect = next
}

// numbers gives texts small numbers, for ever. It is safe for concurrent use.
type numbers struct {
	mu    sync.RWMutex // guards what follows
	known map[string]uint32
	texts []string
}

func (n *numbers) number(text string) uint32 {
	n.mu.RLock()
	i, ok := n.known[text]
	n.mu.RUnlock()
	if ok {
		return i
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.known[text]; ok {
		return i
	}
	if n.known == nil {
		n.known = make(map[string]uint32)
	}
	i = uint32(len(n.texts))
	n.known[text], n.texts = i, append(n.texts, text)
	return i
}

func (n *numbers) text(i uint32) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.texts[i]
}

// all returns the texts by their numbers. The slice must not be changed.
func (n *numbers) all() []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.texts
}
