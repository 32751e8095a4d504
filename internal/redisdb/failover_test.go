package redisdb_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// TestFailover: a node that is left alone with a master that goes on, while the others have another, stops trusting what
// it knows before the others stop waiting for it. Both ways of telling it so are tried: WAIT, and Redis's own setting.
func TestFailover(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		replicas int
		prepare  func(*redis.Replicated)
	}{
		"confirmed by a replica": {replicas: 1, prepare: func(*redis.Replicated) {}},
		"min-replicas-to-write": {prepare: func(r *redis.Replicated) {
			for _, s := range []*redis.Server{r.Master, r.Replica} {
				s.Do(t, "CONFIG", "SET", "min-replicas-max-lag", "1")
			}
			r.Master.Do(t, "CONFIG", "SET", "min-replicas-to-write", "1")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redis.StartReplicated(t)
			tc.prepare(r)
			a := start(t, redisdb.Config{URL: r.URL(), Node: "a", Replicas: tc.replicas})
			// This one is on the master's side of the cut.
			alone := start(t, redisdb.Config{URL: r.Master.URL(), Node: "alone", Replicas: tc.replicas})
			tell(t, event("before"), a, alone)

			losing(t, []*node{a}, func() {
				r.Link.Cut()
				redis.Until(t, "the replica is promoted", func() bool { return r.Promoted(t) })
			})
			b := start(t, redisdb.Config{URL: r.Replica.URL(), Node: "b"})
			position := publish(t, b, event("during"))
			if late, err := b.Await(t.Context(), position); err != nil {
				t.Errorf("late: %v, %v", late, err)
			}
			// The promise: nobody trusts what was learnt before the event any more.
			if fresh := alone.in.Fresh(); time.Since(fresh) < forge.Fence {
				t.Errorf("a node that is cut off with the old master has heard of %v ago", time.Since(fresh))
			}
			if slices.Contains(alone.in.Events(), event("during")) {
				t.Error("told of an event through a cut")
			}
			if _, err := alone.Publish(t.Context(), event("alone")); err == nil {
				t.Error("published on a master that is cut off")
			}
			a.in.WaitFor(event("during"))
			tell(t, event("after"), b, a)

			// The old master becomes a replica: who knows it alone is cut off for good.
			r.Link.Heal()
			redis.Until(t, "the old master follows", func() bool { return alone.in.Losses() == 1 && alone.publishFails(t) })
		})
	}
}

// publishFails reports whether an event cannot be published.
func (n *node) publishFails(t testing.TB) bool {
	t.Helper()
	_, err := n.Publish(t.Context(), event("refused"))
	return err != nil
}

// TestKilledMaster: after a fail-over every node trusts nothing it knew, and all goes on at the new master.
func TestKilledMaster(t *testing.T) {
	t.Parallel()
	r := redis.StartReplicated(t)
	a := start(t, redisdb.Config{URL: r.URL(), Node: "a"})
	b := start(t, redisdb.Config{URL: r.URL(), Node: "b"})
	tell(t, event("before"), a, b)
	losing(t, []*node{a, b}, func() { r.Master.Kill(t) })
	tell(t, event("after"), a, b)
	b.in.WaitFresh()
	if err := b.Put(t.Context(), "k", []byte("v"), time.Now().Add(time.Minute)); err != nil {
		t.Logf("put: %v", err) // it may fail at any time
	}
}
