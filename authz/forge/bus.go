package forge

import (
	"context"
	"time"
)

// Bus carries events between the nodes of one gate. It is safe for concurrent use.
type Bus interface {
	// Publish hands e to every node, this one included, and returns its position: positions count up in the order in which
	// every node is told. An error says that some nodes may never hear of it; the caller tries again.
	Publish(ctx context.Context, e Event) (position uint64, err error)
	// Await returns once every live node has applied the events up to position, or with the names of those that have not
	// when ctx ends. A node that was not heard of for [Fence] trusts nothing it has learnt, and is not waited for.
	Await(ctx context.Context, position uint64) (late []string, err error)
	// Run tells l of every event until ctx ends, and returns ctx's error. It reconnects by itself. It is called once.
	Run(ctx context.Context, l Listener) error
}

// Listener is told by one goroutine, in order. Its methods do not block.
type Listener interface {
	// Apply is called for each event, in order of its position, without gaps.
	Apply(position uint64, e Event)
	// Lost is called instead when events may have been missed, before any later one: everything learnt before is suspect.
	// The next position is above position.
	Lost(position uint64)
	// Heard says that every event published before the time has been applied. It is called several times in [Fence],
	// as long as the bus is whole.
	Heard(at time.Time)
}

// Fence is how long a node trusts what it has learnt while it hears nothing from its bus.
const Fence = 2 * time.Second

// Shared is a second level of memory that the nodes have in common. It is never the truth: a value is what some node of
// this gate once put under that very key, not necessarily the last, and may be gone at any time. It is safe for
// concurrent use.
type Shared interface {
	// Get returns nil for a key that holds nothing, or nothing authentic, or what is past its time.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put keeps value until notAfter at the longest.
	Put(ctx context.Context, key string, value []byte, notAfter time.Time) error
}
