package redisdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/lychgate/lychgate/authz/forge"
)

const (
	// keep is about how many events the stream holds. A node that was away for longer has lost some.
	keep = 100_000
	// publishTries is how often other nodes may be quicker.
	publishTries = 200
)

// Publish implements [forge.Bus]. An event whose publication failed may have been published all the same.
func (db *DB) Publish(ctx context.Context, e forge.Event) (uint64, error) {
	position, err := db.publish(ctx, e)
	if err != nil {
		return 0, fmt.Errorf("publish an event: %w", err)
	}
	return position, nil
}

func (db *DB) publish(ctx context.Context, e forge.Event) (uint64, error) {
	plain, err := encodeEvent(e)
	if err != nil {
		return 0, err
	}
	select {
	case db.publishing <- struct{}{}:
		defer func() { <-db.publishing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	last := db.history.end()
	for range publishTries {
		floor := db.history.floor()
		next, blob := db.eventBox.sealEvent(last, plain)
		found, err := db.add(ctx, formatID(last.position), string(last.tag[:]), next, blob, false)
		if err != nil {
			return 0, err
		}
		if found == nil {
			return next.position, nil
		}
		if last, err = db.resume(ctx, floor, *found); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("other nodes were quicker each time")
}

// end is how the stream ends: the last ID and its text, of whatever origin, both empty when there is none.
type end struct {
	id, text string
	stuck    bool // it takes no entry, for it has been longer
}

// add is appendScript. It returns how the stream ends when that is not after the ID and tag that it was to be.
func (db *DB) add(ctx context.Context, id, tag string, next place, blob []byte, anew bool) (*end, error) {
	flag := "0"
	if anew {
		flag = "1"
	}
	reply, confirmed, err := db.evalConfirmed(ctx, appendScript, []string{db.events}, id, tag, formatID(next.position), blob, keep, flag)
	if err != nil {
		return nil, err
	}
	parts, ok := reply.([]any)
	if !ok || len(parts) != 3 {
		return nil, errReply
	}
	verdict, isNumber := parts[0].(int64)
	found, isText := parts[1].(string)
	text, isText2 := parts[2].(string)
	if !isNumber || !isText || !isText2 {
		return nil, errReply
	}
	if verdict != 1 {
		return &end{found, text, verdict == 2}, nil
	}
	db.history.reached(next)
	if !confirmed {
		return nil, errUnconfirmed
	}
	return nil, nil
}

// resume finds the place after which the next event goes, and makes one where there is none. It returns the zero place
// when another node was quicker.
func (db *DB) resume(ctx context.Context, floor uint64, e end) (place, error) {
	head, ok := db.eventBox.openEntry(e.id, e.text)
	if ok && !e.stuck && head.position >= floor {
		db.history.reached(head.place)
		return head.place, nil
	}
	return db.begin(ctx, floor, e)
}

// begin begins the stream anew, above all positions that any node can have seen: every node learns from it that it has
// lost what came before. It returns the zero place when another node was quicker.
func (db *DB) begin(ctx context.Context, floor uint64, e end) (place, error) {
	// The time keeps nodes that have seen different ends of the stream from beginning it after each other.
	first, blob := db.eventBox.beginLife(max(floor, db.history.floor(), uint64(max(0, db.now().UnixMilli()))) + 1)
	tag := e.text[max(0, len(e.text)-len(mark{})):]
	found, err := db.add(ctx, e.id, tag, first, blob, true)
	if err != nil || found != nil {
		return place{}, err
	}
	return first, nil
}
