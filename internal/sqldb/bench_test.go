package sqldb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// manyRecords is how many records the benchmarks of the start and of memory have. `make bench` leaves it as it is.
var manyRecords = flag.Int("records", 1_000_000, "records in the large database of the benchmarks")

// perStatement is how many records share a claim: the objects of a recipe build.
const perStatement = 20

// refOf names artifact n in zone main.
func refOf(n int) artifact.Ref {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	sum := sha256.Sum256(b[:])
	hash := hex.EncodeToString(sum[:])
	return artifact.Ref{
		Zone: "main", Kind: artifact.KindSstate, Hash: hash,
		Path: "universal/" + hash[:2] + "/" + hash[2:4] + "/sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:14:" +
			hash + "_populate_sysroot.tar.zst",
		Recipe: "zlib", Version: "1.3.1", Arch: "core2-64", Task: "populate_sysroot",
	}
}

// publicationOf publishes n records from first on, under a statement of their own.
func publicationOf(first, n int) provenance.Publication {
	return publicationUnder(fmt.Sprintf("statement %d", first), first, n)
}

func publicationUnder(statement string, first, n int) provenance.Publication {
	set := source.NewSet([]source.Source{{
		Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: "team/" + strconv.Itoa(first/1000)}, Repo: "git.example.com:7",
	}})
	p := provenance.Publication{Envelope: []byte(statement), Sets: []*source.Set{set}}
	claim := provenance.Claim{Statement: sha256.Sum256(p.Envelope), Sources: set.ID(), Inputs: set.ID(), Signer: "ci-main"}
	for i := range n {
		p.Records = append(p.Records, provenance.Record{
			Ref: refOf(first + i), Digest: sha256.Sum256(fmt.Append(nil, first+i)), Size: int64(first + i), Claims: []provenance.Claim{claim},
			Writer: "git.example.com/7", Time: time.Unix(1_790_000_000, int64(first+i)).UTC(),
		})
	}
	return p
}

// largeFile makes, once for all runs on a machine, a database of many records by the same statements as Put.
func largeFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join(os.TempDir(), fmt.Sprintf("lychgate-bench-%d-%d.db", os.Getuid(), *manyRecords))
	db, err := Open(b.Context(), Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if _, err := db.writer.ExecContext(b.Context(), "PRAGMA cache_size = -500000"); err != nil {
		b.Fatal(err)
	}
	for first := db.Len(); first < *manyRecords; {
		// One transaction for many publications, or the disk would be what takes the time.
		next := min(first+100_000, *manyRecords)
		err := db.write(b.Context(), func(batch *batch) error {
			for at := first; at < next; at += perStatement {
				if _, err := publish(b.Context(), batch, publicationOf(at, min(perStatement, next-at))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		first = next
	}
	return path
}

// resident returns the process's resident bytes.
func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// processor returns the processor time the process has used, which a busy machine does not stretch as it does the wall's.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkStart opens a database of a million records, up to the first answer. It reports what memory that takes: live,
// what is reachable; resident, what the process has grown by, garbage and SQLite's own pages included.
func BenchmarkStart(b *testing.B) {
	path := largeFile(b)
	for b.Loop() {
		b.StopTimer()
		debug.FreeOSMemory()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		grown, used := resident(b), processor(b)
		b.StartTimer()
		db, err := Open(b.Context(), Config{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := db.Lookup(b.Context(), refOf(*manyRecords-1)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.ReportMetric((processor(b) - used).Seconds(), "cpu-s/op")
		grown = resident(b) - grown
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(db.Len()), "live-B/record")
		b.ReportMetric(float64(grown)/float64(db.Len()), "resident-B/record")
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkLookup(b *testing.B) {
	db := openTest(b, largeFile(b))
	hits, misses := make([]artifact.Ref, 1024), make([]artifact.Ref, 1024)
	for i := range hits {
		hits[i], misses[i] = refOf(i*97%*manyRecords), refOf(*manyRecords+i)
	}
	for name, refs := range map[string][]artifact.Ref{"hit": hits, "miss": misses} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ctx, found, n := context.Background(), 0, 0
				for ; pb.Next(); n++ {
					if _, err := db.Lookup(ctx, refs[n%len(refs)]); err == nil {
						found++
					}
				}
				if want := map[string]int{"hit": n, "miss": 0}[name]; found != want {
					b.Errorf("%d found, want %d", found, want)
				}
			})
		})
	}
}

// BenchmarkPut publishes twenty records at a time, each durable before the next.
func BenchmarkPut(b *testing.B) {
	db := openTest(b, filepath.Join(b.TempDir(), "gate.db"))
	for n := 0; b.Loop(); n++ {
		if _, err := db.Put(b.Context(), publicationOf(n*perStatement, perStatement)); err != nil {
			b.Fatal(err)
		}
	}
}
