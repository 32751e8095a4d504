package policy

import (
	"context"
	"fmt"
	"time"
)

// watch is what [Engine.Run] remembers between polls.
type watch struct {
	pending [32]byte // a content read once, to be seen again before it is taken up
	refused [32]byte // a content that was tried and refused, and why
	refusal error
	err     error // why the directory's present content is not in force
	errAt   time.Time
}

// Run announces the revision in force and follows the directory until ctx ends: it reads it every second, and a content
// that two polls in a row agree on replaces the revision in force, or is refused and reported by [Engine.Status], while
// the last good one stays. A directory that vanishes changes nothing. Run returns nil; call it once.
func (e *Engine) Run(ctx context.Context) error {
	e.announce("")
	if e.cfg.Dir == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			e.poll(ctx)
		}
	}
}

// announce tells of the revision in force.
func (e *Engine) announce(previous string) {
	a := e.active.Load()
	e.cfg.Log.Info("policy in force", "revision", a.name, "previous", previous, "source", e.source(),
		"remember", a.footprint.Remember, "why", a.footprint.Why)
	if e.cfg.OnActivate != nil {
		e.cfg.OnActivate(Activation{
			Revision: a.name, Previous: previous, Source: e.source(), At: a.since, Footprint: a.footprint,
		})
	}
}

// poll looks at the directory once.
func (e *Engine) poll(ctx context.Context) {
	t, err := e.read()
	if err != nil {
		e.settle(fmt.Errorf("read policy %s: %w", e.source(), err))
		return
	}
	switch {
	case t.hash == e.active.Load().hash:
		e.forget()
	case t.hash == e.watch.refused:
		e.settle(e.watch.refusal)
	case t.hash != e.watch.pending:
		e.watch.pending = t.hash
	default:
		e.replace(ctx, t)
	}
}

// replace builds a revision and puts it in force, or notes why not.
func (e *Engine) replace(ctx context.Context, t *tree) {
	rev, err := e.build(ctx, t)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("load policy %s, content %s: %w", e.source(), t.name(), err)
		e.watch.refused, e.watch.refusal = t.hash, err
		e.settle(err)
		return
	}
	previous := e.active.Load().name
	e.active.Store(&active{rev, e.cfg.Now()})
	e.forget()
	e.announce(previous)
}

// forget clears what was noted of contents that are not in force.
func (e *Engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watch = watch{}
}

// settle notes why the directory's content is not in force. It logs a reason once, not every second.
func (e *Engine) settle(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watch.err == nil || e.watch.err.Error() != err.Error() {
		e.cfg.Log.Error("policy not taken up; the last good one stays", "error", err)
		e.watch.errAt = e.cfg.Now()
	}
	e.watch.err = err
}
