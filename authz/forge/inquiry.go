package forge

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// inquiry is one call of Access at a forge that is asked repository by repository. All its facts are as old as its first
// request: what changed while it went on may be in them, or not.
type inquiry struct {
	forge  string
	origin string
	at     time.Time

	mu    sync.Mutex // guards what follows
	facts []Fact     // Unknown until answered; never for a repository of another forge
	errs  []error    // why there are no answers
}

func newInquiry(forge, origin string, at time.Time, repos []Repo) *inquiry {
	q := &inquiry{forge: forge, origin: origin, at: at, facts: unknown(repos, "forge "+forge+" did not answer")}
	for i, r := range repos {
		if r.Forge != forge {
			q.answer(i, None)
		}
	}
	return q
}

func (q *inquiry) answer(i int, a Access) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.facts[i] = Fact{Repo: q.facts[i].Repo, Access: a, At: q.at, NotAfter: q.at.Add(hardLimit), Origin: q.origin}
}

// open returns the places of the repositories that have no answer.
func (q *inquiry) open() []int {
	q.mu.Lock()
	defer q.mu.Unlock()
	var open []int
	for i, f := range q.facts {
		if f.Access == Unknown {
			open = append(open, i)
		}
	}
	return open
}

// none answers everything with None, as for a user whom the forge does not know, or has blocked.
func (q *inquiry) none(why string) []Fact {
	q.origin += ": " + why
	for i := range q.facts {
		q.answer(i, None)
	}
	return q.facts
}

// ask asks about each repository without an answer. One that fails stays Unknown, and the others are asked all the same.
func (q *inquiry) ask(ctx context.Context, one func(ctx context.Context, id string) (Access, error)) {
	var asking errgroup.Group
	asking.SetLimit(parallelQuestions)
	for _, i := range q.open() {
		asking.Go(func() error {
			a, err := one(ctx, q.facts[i].Repo.ID)
			if err != nil {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.errs = append(q.errs, err)
				return nil
			}
			q.answer(i, a)
			return nil
		})
	}
	asking.Wait() // no call returns an error
}

// result returns the facts, or an error when there are questions and no answer to any of them.
func (q *inquiry) result() ([]Fact, error) {
	if len(q.errs) > 0 && len(q.errs) == len(q.facts) {
		return nil, fmt.Errorf("ask about %d repositories: %w", len(q.facts), q.errs[0])
	}
	return q.facts, nil
}
