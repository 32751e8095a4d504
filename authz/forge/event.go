package forge

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Event says that what a forge answered may not be true any more. It never says what is true: all it can do is make the
// gate ask again. Members that are empty widen it: an Event with a Forge alone is about all users and repositories of
// it, and the zero Event is about everything.
type Event struct {
	Forge string    // the forge's name
	User  string    // the user's immutable id
	Repo  string    // the repository's immutable id
	Key   string    // the fingerprint of an SSH key whose owner may be another
	Why   string    // for people: "gitlab system hook user_remove_from_team"; printable
	At    time.Time // when the first node learnt of it, by that node's clock
}

// ErrHook is wrapped by errors about a delivery that is not from the forge, or is not understood. Nothing is invalidated
// by it.
var ErrHook = errors.New("not a delivery of the forge")

// Delivery is one authentic message of a forge.
type Delivery struct {
	ID     string    // the forge's own, or a digest of the body where it gives none; the same twice is a replay
	At     time.Time // when the forge says it was sent; zero when it does not
	Events []Event   // empty when nothing that concerns permissions has changed
}

// Hooks is optional for a [Provider]: it reads what its forge posts when something changes. ReadHook checks the
// signature, or the shared secret, in constant time and over the body as it came, before it reads anything. Errors wrap
// [ErrHook]. It is safe for concurrent use.
type Hooks interface {
	ReadHook(header http.Header, body []byte) (Delivery, error)
}

// Follower is optional for a [Provider]: Follow tells what changes at a forge that posts no hooks for it, from a stream
// or by asking regularly, until ctx ends, and returns ctx's error. After a gap it emits an event that covers all that it
// may have missed. emit does not block for long.
type Follower interface {
	Follow(ctx context.Context, emit func(Event)) error
}

// Forgetter is optional for a [Provider] that remembers answers: after Forget(e), no answer that e may concern rests on
// what was learnt before, nor on a question that was under way.
type Forgetter interface {
	Forget(e Event)
}

// Health is how one thing stands that a forge needs to be of use.
type Health uint8

// From fine to useless.
const (
	Fine     Health = iota
	Doubtful        // it works, with a shortcoming that Finding.Hint names
	Broken          // permissions cannot be learnt
)

// Finding is one line of what [Checker] found.
type Finding struct {
	What   string // "token": one or two words
	Health Health
	Detail string // what is so: "scopes: read_api"
	Hint   string // the next step; empty when Fine
}

// Checker is optional for a [Provider]: it looks whether the forge can be asked, with the rights that are needed, and says
// what a revocation there takes to be known here. canary is a user whom the operator knows not to be blocked; "" for none.
type Checker interface {
	Check(ctx context.Context, canary string) []Finding
}
