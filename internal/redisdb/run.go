package redisdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/lychgate/lychgate/authz/forge"
)

const (
	// beatEvery is how often a node writes that it lives.
	beatEvery = 500 * time.Millisecond
	// retryFrom and retryUpTo bound the pause before another try.
	retryFrom = 20 * time.Millisecond
	retryUpTo = beatEvery
	// watchFor is how long Redis keeps silent when nothing happens, and the longest that Run takes to end.
	watchFor = beatEvery / 2
	// healEvery is the shortest time from one new beginning of the stream to the next.
	healEvery = 200 * time.Millisecond
)

// Run implements [forge.Bus]: it tells l of events, and the other nodes that this one lives. Get and Put work while it
// runs.
//
// One question does both, at one moment: it writes the beat, and reads what is new and who else beats. So Heard is called
// for the time before a question that Redis answered after it took the write, when all that was there by then has been
// applied.
func (db *DB) Run(ctx context.Context, l forge.Listener) error {
	if !db.running.CompareAndSwap(false, true) {
		return errors.New("follow redis: it is followed already")
	}
	n := node{DB: db, follower: follower{
		box: db.eventBox, listener: l, history: &db.history, rejected: db.rejected, log: db.log,
	}}
	wake, from := make(chan struct{}, 1), make(chan uint64, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		db.watch(ctx, from, wake)
	}()
	n.run(ctx, from, wake)
	<-watching
	return ctx.Err()
}

// node is one life of a DB on the bus. It is for one goroutine.
type node struct {
	*DB
	follower follower
	seq      uint64
	dead     []any // beats to be removed: field and text by turns
	healed   time.Time
	failing  bool
}

// run asks again and again: when something happens, when it is time for a beat, and after a pause when that failed.
func (n *node) run(ctx context.Context, from chan<- uint64, wake <-chan struct{}) {
	pause := retryFrom
	for ctx.Err() == nil {
		again, err := n.look(ctx)
		n.logTurn(ctx, err)
		wait := beatEvery
		switch {
		case err != nil:
			wait, pause = pause, min(2*pause, retryUpTo)
		case again:
			wait, pause = 0, retryFrom
		default:
			pause = retryFrom
			select {
			case from <- n.follower.at.position:
			default: // The watcher knows an earlier position, and will be back at once.
			}
		}
		if wait > 0 {
			rest(ctx, wait, wake)
		}
	}
}

// rest waits until the time has passed, ctx ends or wake is told.
func rest(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// look asks once and tells the listener. It reports whether there is a reason to ask again at once: more to read, or
// something applied that the other nodes wait to hear of.
func (n *node) look(ctx context.Context) (again bool, err error) {
	before, floor, at := n.follower.at, n.history.floor(), n.now()
	a, confirmed, err := n.ask(ctx)
	if err != nil {
		return false, err
	}
	n.dead = n.peers.observe(n.now(), a.beats)
	// A beat stands in Redis with the position that its writer had read there.
	floor = max(floor, n.peers.highest())
	switch n.follower.take(ctx, floor, a) {
	case broken:
		return true, n.heal(ctx, floor, a)
	case behind:
		return true, nil
	}
	if !confirmed {
		return false, errUnconfirmed
	}
	n.contact.Store(&contact{at, n.follower.at.life})
	n.follower.listener.Heard(at)
	return n.follower.at != before, nil
}

// heal begins the stream anew. Somebody who spoils it again and again gets no busier node.
func (n *node) heal(ctx context.Context, floor uint64, a answer) error {
	if n.now().Sub(n.healed) < healEvery {
		rest(ctx, healEvery, nil)
	}
	n.healed = n.now()
	_, err := n.begin(ctx, floor, end{id: a.id, text: a.text})
	return err
}

var errUnconfirmed = errors.New("too few replicas have confirmed what was written: is the master cut off, or a replica down?")

// ask is syncScript.
func (n *node) ask(ctx context.Context) (a answer, confirmed bool, err error) {
	n.seq++
	after := ""
	if n.follower.server != "" {
		after = formatID(n.follower.at.position)
	}
	said := n.peers.box.sealBeat(n.field, beat{n.seq, n.follower.at.position})
	args := append([]any{n.field, said, after, batch}, n.dead...)
	reply, confirmed, err := n.evalConfirmed(ctx, syncScript, []string{n.events, n.nodes}, args...)
	if err != nil {
		return answer{}, false, err
	}
	a, err = parseAnswer(reply)
	return a, confirmed, err
}

func parseAnswer(reply any) (a answer, err error) {
	parts, ok := reply.([]any)
	if !ok || len(parts) != 5 {
		return answer{}, errReply
	}
	for i, text := range []*string{&a.server, &a.id, &a.text} {
		if *text, ok = parts[i].(string); !ok {
			return answer{}, errReply
		}
	}
	if a.server == "" {
		return answer{}, errors.New("redis does not say which server it is")
	}
	if a.entries, err = parseTexts(parts[3]); err != nil {
		return answer{}, err
	}
	a.beats, err = parseTexts(parts[4])
	return a, err
}

var errReply = errors.New("redis gave a reply of another form: is it a Redis 6.2 or newer?")

func parseTexts(reply any) ([]string, error) {
	parts, ok := reply.([]any)
	if !ok || len(parts)%2 != 0 {
		return nil, errReply
	}
	texts := make([]string, len(parts))
	for i := range parts {
		if texts[i], ok = parts[i].(string); !ok {
			return nil, errReply
		}
	}
	return texts, nil
}

func (n *node) logTurn(ctx context.Context, err error) {
	if (err != nil) == n.failing || ctx.Err() != nil {
		return
	}
	if n.failing = err != nil; n.failing {
		n.log.ErrorContext(ctx, "redis cannot be relied on: soon this node trusts nothing it has learnt, and asks the git servers again", "error", err)
		return
	}
	n.log.InfoContext(ctx, "redis can be relied on again")
}

// watch tells wake soon after there is something behind the position it was told last. It is a hint: what is true, look
// finds out.
func (db *DB) watch(ctx context.Context, from <-chan uint64, wake chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case position := <-from:
			if err := db.waitFor(ctx, position); err != nil {
				rest(ctx, retryFrom, nil)
			}
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// waitFor returns when there is an entry behind a position, or after watchFor.
func (db *DB) waitFor(ctx context.Context, position uint64) error {
	ctx, cancel := context.WithTimeout(ctx, watchFor+askTimeout)
	defer cancel()
	master, err := db.master(ctx)
	if err != nil {
		return err
	}
	err = master.XRead(ctx, &redis.XReadArgs{Streams: []string{db.events, formatID(position)}, Count: 1, Block: watchFor}).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// Await implements [forge.Bus]. It returns an error when ctx ends and Redis could not be asked of late.
func (db *DB) Await(ctx context.Context, position uint64) (late []string, err error) {
	var asked time.Time // when the last question began that was answered
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		at := db.now()
		beats, err := db.beats(ctx)
		if err == nil {
			asked = at
			db.peers.observe(db.now(), beats)
			if late = db.peers.late(position, asked); len(late) == 0 {
				return nil, nil
			}
		}
		if rest(ctx, pause, nil); ctx.Err() == nil {
			continue
		}
		// The last question may have been cut short by the end of ctx.
		if err != nil && db.now().Sub(asked) > forge.Fence/2 {
			return db.peers.late(position, asked), fmt.Errorf("await the other nodes: %w", err)
		}
		return late, nil
	}
}

// beats is nodesScript.
func (db *DB) beats(ctx context.Context) ([]string, error) {
	reply, err := db.eval(ctx, nodesScript, []string{db.nodes})
	if err != nil {
		return nil, err
	}
	return parseTexts(reply)
}
