// Package forge answers what a principal may read at the git server, now.
package forge

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

// ErrNoRepo says that a locator names no repository of the forge.
var ErrNoRepo = errors.New("no such repository at the forge")

// Access is a forge's answer about one repository.
type Access uint8

// Unknown is what a forge could not answer; it never allows.
const (
	Unknown Access = iota
	None
	Read
)

// String returns "unknown", "none" or "read", the words policy sees.
func (a Access) String() string {
	switch a {
	case Read:
		return "read"
	case None:
		return "none"
	}
	return "unknown"
}

// Repo is a repository by the forge's immutable id.
type Repo struct{ Forge, ID string }

// String returns "FORGE:ID", the form that records keep.
func (r Repo) String() string { return r.Forge + ":" + r.ID }

// Fact is one answer with its age.
type Fact struct {
	Repo     Repo
	Access   Access
	At       time.Time // when the forge said so
	NotAfter time.Time // from then on it is worth nothing, also when the forge is down
	Origin   string    // where it came from, for explain: "static forge users.yaml revision 3"
}

// Provider asks one or more forges. Access returns one fact for each repo, in order; a repo it has no answer for
// gets [Unknown]. It is safe for concurrent use. An error means that nothing was learnt.
type Provider interface {
	Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error)
}

// Bulk is optional for a [Provider] to which a question about many repositories costs what one about a single one does. Batch
// returns how many it takes at once. A cache then asks along what it may be asked next.
type Bulk interface {
	Batch() int
}

// Resolver is optional for a [Provider]: it turns a locator into the repository's immutable id, once, at publish.
// It returns an error that wraps [ErrNoRepo] when the forge owns the host and has no such repository, and ok=false when
// no forge owns the host.
type Resolver interface {
	Resolve(ctx context.Context, l source.Locator) (r Repo, ok bool, err error)
}

// prepare checks a forge's name, and fills in what of a configuration goes without saying: the clock, and that nothing is logged.
func prepare(name string, now *func() time.Time, log **slog.Logger) error {
	if *now == nil {
		*now = time.Now
	}
	if *log == nil {
		*log = slog.New(slog.DiscardHandler)
	}
	return CheckName(name)
}
