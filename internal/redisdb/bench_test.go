package redisdb_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// clock is a listener that sends the time of what it is told.
type clock struct{ told chan time.Time }

func (c *clock) Apply(uint64, forge.Event) { c.told <- time.Now() }
func (c *clock) Lost(uint64)               {}
func (c *clock) Heard(time.Time)           {}

// BenchmarkPublish measures how long it takes from the call of Publish at one node to Apply at another, and until Await
// returns: p50-us and so on are microseconds.
func BenchmarkPublish(b *testing.B) {
	s := redis.Start(b, redis.Options{})
	from := start(b, redisdb.Config{URL: s.URL(), Node: "from"})
	to, c := open(b, redisdb.Config{URL: s.URL(), Node: "to"}), &clock{make(chan time.Time, 1)}
	go to.Run(b.Context(), c)
	redis.Until(b, "the other node applies", func() bool {
		publish(b, from, event("first"))
		select {
		case <-c.told:
			return true
		case <-time.After(time.Second):
			return false
		}
	})
	for len(c.told) > 0 {
		<-c.told
	}
	var applied, awaited []time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		position := publish(b, from, event("e %d", i))
		applied = append(applied, (<-c.told).Sub(began))
		if late, err := from.Await(b.Context(), position); len(late) > 0 || err != nil {
			b.Fatal(late, err)
		}
		awaited = append(awaited, time.Since(began))
	}
	report(b, "apply", applied)
	report(b, "await", awaited)
}

func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Microseconds()), fmt.Sprintf("%s-p%d-us", what, p))
	}
}

// BenchmarkGet measures a look at a value of 1 KiB.
func BenchmarkGet(b *testing.B) {
	s := redis.Start(b, redis.Options{})
	n := start(b, redisdb.Config{URL: s.URL()})
	if err := n.Put(b.Context(), "k", make([]byte, 1024), time.Now().Add(time.Hour)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if v, err := n.Get(b.Context(), "k"); v == nil || err != nil {
			b.Fatal(err)
		}
	}
}
