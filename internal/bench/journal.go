package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lychgate/lychgate/gateway/audit"
)

const (
	callers      = 64
	leastDurable = 50_000 // events a second
	largestShare = 0.05   // of a HEAD
)

// measureJournal writes the event of a HEAD to a journal on this disk, in this process: by callers that wait until it is durable,
// and by as many as there are connections in the HEAD row that wait for the kernel alone, as a HEAD does.
func measureJournal(ctx context.Context, w *world) ([]row, error) {
	var durable, cost []float64
	for range w.rounds {
		rate, _, err := w.appendEvents(ctx, callers, true)
		if err != nil {
			return nil, err
		}
		_, each, err := w.appendEvents(ctx, keptConns, false)
		if err != nil {
			return nil, err
		}
		durable, cost = append(durable, rate), append(cost, float64(each))
	}
	slices.Sort(durable)
	slices.Sort(cost)
	rate, each := durable[len(durable)/2], time.Duration(cost[len(cost)/2])
	rows := []row{{work: "audit: durable events, 64 callers", gate: perSecond(rate), target: "≥ 50,000/s", met: verdict(rate >= leastDurable)}}
	for _, connect := range []bool{true, false} {
		head, err := w.headCost(ctx, connect)
		if err != nil {
			return nil, err
		}
		name := "audit: added to a `HEAD` on a kept connection"
		if connect {
			name = "audit: added to a `HEAD` on a new connection"
		}
		share := float64(each) / float64(head-each)
		rows = append(rows, row{
			work: name, peer: "the rest of the `HEAD`, processor time", figure: micros(head - each), gate: micros(each), ratio: share,
			target: "≤ 5 %", met: verdict(share <= largestShare),
		})
	}
	return rows, nil
}

// appendEvents returns how many events a second n callers append, and the processor time of one, its share of fsync included.
func (w *world) appendEvents(ctx context.Context, n int, durable bool) (rate float64, each time.Duration, err error) {
	j, err := audit.Open(audit.Config{Dir: w.path("journal"), Node: "bench"})
	if err != nil {
		return 0, 0, err
	}
	runCtx, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- j.Run(runCtx) }()
	var events atomic.Int64
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	used, began := processorTime(), time.Now()
	for range n {
		group.Go(func() {
			for time.Since(began) < w.duration && ctx.Err() == nil {
				if err := appendEvent(ctx, j, durable); err != nil {
					failed.Store(&err)
					return
				}
				events.Add(1)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(began)
	used = processorTime() - used
	stop()
	err = errors.Join(<-ran, j.Close(), ctx.Err())
	if f := failed.Load(); f != nil {
		err = errors.Join(err, *f)
	}
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = nil // Run was told to stop
	}
	if err == nil && events.Load() == 0 {
		err = errors.New("no event was recorded in time")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("journal: %w", err)
	}
	return float64(events.Load()) / elapsed.Seconds(), used / time.Duration(events.Load()), nil
}

// appendEvent records what the gate records of a HEAD.
func appendEvent(ctx context.Context, j *audit.Journal, durable bool) error {
	e := &audit.Event{
		Kind: "decision", Request: "0123456789abcdef", Door: "https", Action: "stat", Zone: "main",
		Actor: audit.Actor{
			Forge: "git.example.com", ID: "1", Name: "alice", Kind: "human", Credential: "lgt_0123456789ab",
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 50000).String(),
		},
		Object: audit.Object{Path: smallPath, Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: smallBytes},
		Decision: audit.Decision{
			Verdict: "allow", Rule: "read_sources", Reasons: []string{"sources_readable: every source is public or readable"},
			Policy: "0123456789abcdef", FactAge: 1000, Cached: true,
		},
	}
	seq, err := j.Append(e)
	if err != nil || !durable {
		return err
	}
	return j.Durable(ctx, seq)
}

// smallPath looks like the name of a small object.
const smallPath = "universal/01/23/sstate:small00000-native:x86_64-linux:1.0:r0:x86_64:14:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef_populate_sysroot.tar.zst"

// processorTime is what this process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
