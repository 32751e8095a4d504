package sqldb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const hxMethod = "oe.sstatesig.OEOuthashBasic"

func hxSum(kind string, n int) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "%s %d", kind, n)) }

func hxHex(kind string, n int) string {
	sum := hxSum(kind, n)
	return hex.EncodeToString(sum[:])
}

func hxTask(n int) hashserv.Task { return hashserv.Task{Method: hxMethod, Taskhash: hxHex("task", n)} }

// hxReport is report n, of a task of its own.
func hxReport(n int) hashserv.Report {
	return hashserv.Report{
		Task: hxTask(n), Outhash: hxHex("out", n), Unihash: hashserv.Unihash(hxSum("uni", n)), Author: hashserv.Author(n%50 + 1),
		Details: hashserv.Details{
			Owner: fmt.Sprintf("ci-%d", n%50), PN: fmt.Sprintf("recipe-%d", n%2000), PV: "1.3.1", PR: "r0", Task: "do_package",
		},
	}
}

// hxSiginfo is what a task of a recipe puts out, as BitBake lists it: about 20 KiB. From one revision to the next one file in twenty differs.
func hxSiginfo(recipe, revision int) string {
	r := rand.New(rand.NewPCG(uint64(recipe), 1))
	var b strings.Builder
	fmt.Fprintf(&b, "OEOuthashBasic\n3\nSSTATE_PKGSPEC=sstate:recipe-%d:core2-64-poky-linux:1.3.%d:r0:core2-64:14:\ntask=package\n", recipe, revision)
	for file := range 140 {
		last := 0
		for v := range revision + 1 {
			if r := rand.New(rand.NewPCG(uint64(recipe*1000+file), uint64(v))); r.IntN(20) == 0 {
				last = v
			}
		}
		size := r.IntN(1 << 20)
		fmt.Fprintf(&b, "-rw-r--r--  root       root       %10d %s ./package/usr/lib/recipe-%d/%s.so.%d\n",
			size, hxHex(fmt.Sprintf("content %d %d", recipe, file), last), recipe, strings.Repeat("abc", 1+file%4), file)
	}
	return b.String()
}

// hxFill adds n reports as Report does, many to a transaction.
func hxFill(t testing.TB, h *Hashes, zone string, from, to int, report func(n int) hashserv.Report) {
	t.Helper()
	for from < to {
		next := min(from+200, to)
		err := h.write(t.Context(), func(ctx context.Context, w *hashWrite) error {
			for n := from; n < next; n++ {
				r := report(n)
				text, err := h.compress(ctx, zone, r.Details)
				if err != nil {
					return err
				}
				if _, err := w.report(ctx, zone, r, text, int64(n)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		from = next
	}
}

func BenchmarkHashLookup(b *testing.B) {
	const n = 1_000_000
	x := newHashMemory(1 << 30)
	x.reserve(n)
	for i := range n {
		x.put("main", keyOfTask("main", hxMethod, hxHex("task", i)), hashserv.Mapping{Unihash: hashserv.Unihash(hxSum("uni", i))})
	}
	h := &Hashes{}
	h.memory.Store(x)
	z := h.Zone("main")
	tasks := make([]hashserv.Task, 4096)
	unihashes := make([]hashserv.Unihash, len(tasks))
	for i := range tasks {
		tasks[i], unihashes[i] = hxTask(i*97%n), hashserv.Unihash(hxSum("uni", i*97%n))
	}
	b.Run("unihash", func(b *testing.B) {
		b.ReportAllocs()
		answers := make([]hashserv.Mapping, 1)
		for i := 0; b.Loop(); i++ {
			at := i % len(tasks)
			if err := z.Unihash(b.Context(), tasks[at:at+1], answers); err != nil || answers[0] == (hashserv.Mapping{}) {
				b.Fatal(err)
			}
		}
	})
	b.Run("exists", func(b *testing.B) {
		b.ReportAllocs()
		answers := make([]bool, 1)
		for i := 0; b.Loop(); i++ {
			at := i % len(tasks)
			if err := z.Exists(b.Context(), unihashes[at:at+1], answers); err != nil || !answers[0] {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(x.bytes.Load())/n, "B/mapping")
}

// BenchmarkHashReport has forty reporters, without and with texts of 20 KiB.
func BenchmarkHashReport(b *testing.B) {
	for name, text := range map[string]func(n int) string{"bare": func(int) string { return "" }, "siginfo": func(n int) string { return hxSiginfo(n%100, n/100) }} {
		b.Run(name, func(b *testing.B) {
			h := hxOpen(b, HashesConfig{Path: hxPath(b)})
			z := h.Zone("main")
			texts := make([]string, 1000)
			for i := range texts {
				texts[i] = text(i)
			}
			var next atomic.Int64
			b.ResetTimer()
			b.SetParallelism(40 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := int(next.Add(1))
					r := hxReport(n)
					if s := texts[n%1000]; s != "" {
						r.Siginfo = s + r.Outhash
					}
					if m, err := z.Report(b.Context(), r); err != nil || m.Unihash != r.Unihash {
						b.Fatal(m, err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reports/s")
		})
	}
}

// BenchmarkHashDisk states the bytes on disk of an entry: a report and its mapping, without text, and with one of 20 KiB that differs a little
// from that of the revision before.
func BenchmarkHashDisk(b *testing.B) {
	for name, text := range map[string]bool{"bare": false, "siginfo": true} {
		b.Run(name, func(b *testing.B) {
			n, raw := 200_000, 0
			if text {
				n = 4_000
			}
			for b.Loop() {
				path := hxPath(b)
				h, err := OpenHashes(b.Context(), HashesConfig{Path: path})
				if err != nil {
					b.Fatal(err)
				}
				hxFill(b, h, "main", 0, n, func(n int) hashserv.Report {
					r := hxReport(n)
					if text {
						r.PN, r.Siginfo = fmt.Sprintf("recipe-%d", n%200), hxSiginfo(n%200, n/200)
						raw += len(r.Siginfo)
					}
					return r
				})
				if err := h.Close(); err != nil {
					b.Fatal(err)
				}
				info, err := os.Stat(path)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(info.Size())/float64(n), "B/entry")
			}
			b.ReportMetric(float64(raw)/float64(n*b.N), "raw-B/entry")
		})
	}
}
