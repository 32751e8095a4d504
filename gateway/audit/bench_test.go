package audit

import (
	"context"
	"sync/atomic"
	"testing"
)

func BenchmarkEncode(b *testing.B) {
	e := sampleEvent(1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkAppend is a lone Append that returns when the kernel has the line; Run syncs beside it.
func BenchmarkAppend(b *testing.B) {
	j := mustOpen(b, Config{Dir: b.TempDir()})
	run(b, j)
	e := sampleEvent(1)
	b.ReportAllocs()
	for b.Loop() {
		mustAppend(b, j, e)
	}
}

// BenchmarkAppendParallel is 64 callers that need the kernel only.
func BenchmarkAppendParallel(b *testing.B) { parallel(b, Config{}, false) }

// BenchmarkDurable is 64 callers that each wait for fsync after every event, in batch mode.
func BenchmarkDurable(b *testing.B) { parallel(b, Config{}, true) }

// BenchmarkStrict is 64 callers in strict mode.
func BenchmarkStrict(b *testing.B) { parallel(b, Config{Strict: true}, false) }

func parallel(b *testing.B, cfg Config, durable bool) {
	cfg.Dir = b.TempDir()
	j := mustOpen(b, cfg)
	run(b, j)
	var n atomic.Int64
	b.SetParallelism(32) // times GOMAXPROCS, which is 2 where this is measured
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		e := sampleEvent(1)
		for pb.Next() {
			seq := mustAppend(b, j, e)
			if durable {
				if err := j.Durable(context.Background(), seq); err != nil {
					b.Error(err)
				}
			}
			n.Add(1)
		}
	})
	if err := j.Durable(context.Background(), j.written); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(n.Load())/b.Elapsed().Seconds(), "events/s")
}

// run runs the journal for the length of the benchmark.
func run(b *testing.B, j *Journal) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
	})
}
