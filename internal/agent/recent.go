package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

const (
	// recentKept bounds how many names an agent remembers BitBake to have asked for.
	recentKept = 40_000
	// maxWhys bounds how many objects of one recipe are asked about, and whysAtOnce how many at once.
	maxWhys    = 200
	whysAtOnce = 8
	// whyTime is how long all of that may take.
	whyTime = 30 * time.Second
)

// recent remembers what came of the names that BitBake asked for last, for people who ask why.
type recent struct {
	mu         sync.Mutex // guards what follows
	young, old map[key]outcome
}

// outcome is what BitBake was last told about a name.
type outcome struct {
	there bool
	at    time.Time
	fault string // what was wrong; empty when the gate said that it is not there, or nothing is wrong
}

// note remembers an answer. An error is why it was no.
func (r *recent) note(k key, there bool, err error, now time.Time) {
	o := outcome{there: there, at: now}
	if err != nil && !isAbsent(err) {
		o.fault = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= recentKept/2 {
		r.old, r.young = r.young, map[key]outcome{}
	}
	r.young[k] = o
}

// each calls do for each name that is remembered. do must be quick.
func (r *recent) each(do func(key, artifact.Ref, outcome)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	visit := func(k key, o outcome) {
		if ref, err := artifact.ParseName(artifact.Zone{Name: k.zone}, k.name); err == nil {
			do(k, ref, o)
		}
	}
	for k, o := range r.young {
		visit(k, o)
	}
	for k, o := range r.old {
		if _, newer := r.young[k]; !newer {
			visit(k, o)
		}
	}
}

// RecipeCount is how many objects of a recipe BitBake asked for, as far as an agent remembers.
type RecipeCount struct {
	Recipe string `json:"recipe"`
	Found  int    `json:"found"`
	Missed int    `json:"missed"`
}

// RecipeWhy is why objects of a recipe were not there.
type RecipeWhy struct {
	RecipeCount
	Objects []Missed `json:"objects"` // those that were missed, the latest first; at most 200
}

// Missed is an object that was not there when BitBake asked for it.
type Missed struct {
	Zone string    `json:"zone"`
	Name string    `json:"name"`
	Task string    `json:"task"` // without "do_"
	Time time.Time `json:"time"` // when BitBake last asked
	// Fault is what was wrong then; empty: the gate said that it is not there.
	Fault string `json:"fault,omitzero"`
	// Why is what the gate says now. Unasked is why it cannot be asked.
	Why     gateway.Why `json:"why,omitzero"`
	Unasked string      `json:"unasked,omitzero"`
}

// Recipes counts what BitBake asked for, by recipe. Those of which most was missed come first.
func (a *Agent) Recipes() []RecipeCount {
	counts := map[string]*RecipeCount{}
	a.recent.each(func(_ key, ref artifact.Ref, o outcome) {
		c := counts[ref.Recipe]
		if c == nil {
			c = &RecipeCount{Recipe: ref.Recipe}
			counts[ref.Recipe] = c
		}
		c.add(o)
	})
	list := make([]RecipeCount, 0, len(counts))
	for _, c := range counts {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b RecipeCount) int { return cmp.Or(b.Missed-a.Missed, cmp.Compare(a.Recipe, b.Recipe)) })
	return list
}

func (c *RecipeCount) add(o outcome) {
	if o.there {
		c.Found++
	} else {
		c.Missed++
	}
}

// Why asks the gate why objects of a recipe were not there.
func (a *Agent) Why(ctx context.Context, recipe string) RecipeWhy {
	w := RecipeWhy{RecipeCount: RecipeCount{Recipe: recipe}, Objects: []Missed{}}
	a.recent.each(func(k key, ref artifact.Ref, o outcome) {
		if ref.Recipe != recipe {
			return
		}
		if w.add(o); !o.there {
			w.Objects = append(w.Objects, Missed{Zone: k.zone, Name: k.name, Task: ref.Task, Time: o.at, Fault: o.fault})
		}
	})
	slices.SortFunc(w.Objects, func(a, b Missed) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Name, b.Name)) })
	w.Objects = w.Objects[:min(len(w.Objects), maxWhys)]
	ctx, cancel := context.WithTimeoutCause(ctx, whyTime, errSlow)
	defer cancel()
	var all sync.WaitGroup
	slots := make(chan struct{}, whysAtOnce)
	for i := range w.Objects {
		slots <- struct{}{}
		all.Go(func() {
			a.explain(ctx, &w.Objects[i])
			<-slots
		})
	}
	all.Wait()
	return w
}

func (a *Agent) explain(ctx context.Context, m *Missed) {
	_, err := a.link.do(ctx, 1, func(c *client.Client) (err error) {
		m.Why, err = c.Why(ctx, m.Zone, m.Name)
		return err
	})
	if err != nil {
		m.Why, m.Unasked = gateway.Why{}, err.Error()
	}
}
