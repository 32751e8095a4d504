package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lychgate/lychgate/internal/client"
)

const (
	// batchFull is how many names leave at once, at most.
	batchFull = 5000
	// presenceAttempts bridges a gate that is being restarted: one that is away for 15 s.
	presenceAttempts = 7
	// presenceTime is how long a batch may take. BitBake waits for 100 s.
	presenceTime = 20 * time.Second
	// remembered bounds how many answers are kept.
	remembered = 200_000
)

// errSlow is why a question to the gate was given up.
var errSlow = errors.New("the gate took too long to answer")

// presence gathers questions whether objects are there.
type presence struct {
	agent *Agent

	mu         sync.Mutex        // guards what follows
	pending    map[string]*batch // by zone: what has not left yet
	asking     int               // names that are waited for
	young, old map[key]remembrance
	turned     time.Time // when young became old
}

type remembrance struct {
	there      bool
	at         time.Time
	generation uint64
}

// batch is the questions that leave together.
type batch struct {
	zone  string
	timer *time.Timer
	index map[string]int
	names []string

	done  chan struct{} // closed when what follows is set
	there []bool
	err   error
}

// ask reports whether the gate says that an object is there for us.
func (p *presence) ask(ctx context.Context, k key) (bool, error) {
	generation, err := p.agent.link.generationNow(ctx)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	if there, ok := p.recall(k, generation); ok {
		p.mu.Unlock()
		p.agent.count.remembered.Add(1)
		return there, nil
	}
	b := p.join(k)
	p.asking++
	if len(b.names) >= batchFull || int64(p.asking) >= p.agent.waiting.Load() {
		p.send(b) // everybody who could join is waiting already
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.asking--
		p.mu.Unlock()
	}()
	select {
	case <-b.done:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if b.err != nil {
		return false, b.err
	}
	return b.there[b.index[k.name]], nil
}

// join adds a question to the batch that leaves next. p.mu is held.
func (p *presence) join(k key) *batch {
	b := p.pending[k.zone]
	if b == nil {
		b = &batch{zone: k.zone, index: map[string]int{}, done: make(chan struct{})}
		b.timer = time.AfterFunc(p.agent.conf.Gather, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.send(b)
		})
		p.pending[k.zone] = b
	}
	if _, ok := b.index[k.name]; !ok {
		b.index[k.name] = len(b.names)
		b.names = append(b.names, k.name)
	}
	return b
}

// send lets a batch leave, unless it has. p.mu is held.
func (p *presence) send(b *batch) {
	if p.pending[b.zone] != b {
		return
	}
	delete(p.pending, b.zone)
	b.timer.Stop()
	go p.fetch(b)
}

// fetch asks the gate. It is not given up when those who asked have gone: they ask again at once.
func (p *presence) fetch(b *batch) {
	defer close(b.done)
	ctx, cancel := context.WithTimeoutCause(context.Background(), presenceTime, errSlow)
	defer cancel()
	count := &p.agent.count
	began := p.agent.conf.Now()
	generation, err := p.agent.link.do(ctx, presenceAttempts, func(c *client.Client) (err error) {
		count.batches.Add(1)
		b.there, err = c.Presence(ctx, b.zone, b.names)
		return err
	})
	count.asked.Add(int64(len(b.names)))
	if b.err = err; err != nil {
		return
	}
	count.latency.add(p.agent.conf.Now().Sub(began))
	p.remember(b, generation, began)
}

// recall returns an answer that is young enough. p.mu is held.
func (p *presence) recall(k key, generation uint64) (there, ok bool) {
	r, ok := p.young[k]
	if !ok {
		r, ok = p.old[k]
	}
	ok = ok && r.generation == generation && p.agent.conf.Now().Sub(r.at) < p.agent.conf.Remember
	return r.there && ok, ok
}

// remember keeps the answers to a batch, which the gate gave after asked.
func (p *presence) remember(b *batch, generation uint64, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.agent.conf.Now()
	if p.young == nil || now.Sub(p.turned) > p.agent.conf.Remember || len(p.young) >= remembered/2 {
		p.old, p.young, p.turned = p.young, map[key]remembrance{}, now
	}
	for i, name := range b.names {
		p.young[key{b.zone, name}] = remembrance{there: b.there[i], at: asked, generation: generation}
	}
}
