package sqldb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

func hxPath(t testing.TB) string { return filepath.Join(t.TempDir(), "hashes.db") }

func hxOpen(t testing.TB, cfg HashesConfig) *Hashes {
	t.Helper()
	h, err := OpenHashes(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// hxFewer has rapid try fewer sequences: each makes databases, and there are three kinds of memory.
func hxFewer(t *testing.T, checks int) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	before := f.Value.String()
	if err := f.Value.Set(fmt.Sprint(checks)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(before); err != nil {
			t.Error(err)
		}
	})
}

// TestHashes runs the conformance suite with all in memory, with room for some, and with none.
func TestHashes(t *testing.T) {
	hxFewer(t, 12)
	for name, memory := range map[string]int64{"all in memory": 0, "some in memory": 24 * 4 * taskCell, "nothing in memory": -1} {
		t.Run(name, func(t *testing.T) {
			hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
				keep := func(zone string, u hashserv.Unihash) bool { return zone == "main" && c.Keep(u) }
				return hxOpen(t, HashesConfig{Path: hxPath(t), Memory: memory, Now: c.Now, Keep: keep}).Zone("main")
			})
		})
	}
}

func TestHashCellsAreAsLargeAsTheyCount(t *testing.T) {
	if a, b := reflect.TypeFor[cell[hashserv.Mapping]]().Size(), reflect.TypeFor[cell[uint32]]().Size(); a != taskCell || b != unihashCell {
		t.Fatalf("%d and %d bytes", a, b)
	}
}

// hxMapped asks for tasks, and fails when that fails.
func hxMapped(t testing.TB, z *HashZone, tasks ...hashserv.Task) []hashserv.Mapping {
	t.Helper()
	answers := make([]hashserv.Mapping, len(tasks))
	if err := z.Unihash(t.Context(), tasks, answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

func hxReported(t testing.TB, z *HashZone, r hashserv.Report) hashserv.Mapping {
	t.Helper()
	m, err := z.Report(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// hxExec does to the file what somebody does with a tool of SQLite's.
func hxExec(t testing.TB, path, text string) {
	t.Helper()
	pool, err := openPool(path, 1, url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func hxCount(t testing.TB, h *Hashes, query string) (n int64) {
	t.Helper()
	if err := h.reader.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHashMemoryIsAMap compares hashMemory with a map: exactly while it is complete, and afterwards in that it never says anything false.
func TestHashMemoryIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newHashMemory(rapid.Int64Range(0, 3*shards*4*(taskCell+unihashCell)).Draw(t, "limit"))
		if n := rapid.IntRange(0, 400).Draw(t, "room"); n > 300 && !x.reserve(n) {
			x.forget()
		}
		keyOf := func(n int) hashKey { return keyOfTask("main", hxMethod, fmt.Sprint(n%150)) }
		model := map[hashKey]hashserv.Mapping{}
		for n := range rapid.IntRange(0, 600).Draw(t, "steps") {
			key := keyOf(rapid.IntRange(0, 149).Draw(t, "task"))
			m := hashserv.Mapping{Unihash: hashserv.Unihash{byte(rapid.IntRange(1, 20).Draw(t, "unihash"))}, Author: hashserv.Author(n)}
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				x.erasing()
				x.erase("main", key)
				delete(model, key)
			case 1:
				if held, ok := model[key]; ok && !x.complete.Load() {
					x.cache(key, held, x.removals.Load())
				}
			default:
				x.put("main", key, m)
				model[key] = m
			}
		}
		held := map[hashserv.Unihash]bool{}
		for _, m := range model {
			held[m.Unihash] = true
		}
		complete := x.complete.Load()
		for n := range 150 {
			got, want := x.get(keyOf(n)), model[keyOf(n)]
			if got != want && (complete || got != hashserv.Mapping{}) {
				t.Fatalf("task %d: got %v, want %v, complete %v", n, got, want, complete)
			}
		}
		for n := range byte(22) {
			u := hashserv.Unihash{n}
			if yes, known := x.mapped(keyOfUnihash("main", u)); known != complete || known && yes != held[u] {
				t.Fatalf("unihash %d: %v, %v; want %v, %v", n, yes, known, held[u], complete)
			}
		}
		bytes := int64(0)
		for i := range shards {
			bytes += int64(len(x.tasks[i].cells)*taskCell + len(x.unihashes[i].cells)*unihashCell)
		}
		if bytes != x.bytes.Load() || bytes > x.limit || complete && x.len() != len(model) {
			t.Fatalf("%d bytes counted as %d, limit %d; %d of %d", bytes, x.bytes.Load(), x.limit, x.len(), len(model))
		}
	})
}

// What was read before a removal is not entered after it.
func TestHashMemoryTakesNothingOldFromTheFile(t *testing.T) {
	x := newHashMemory(1 << 20)
	x.forget()
	key, m := keyOfTask("main", hxMethod, "t"), hashserv.Mapping{Unihash: hashserv.Unihash{1}}
	before := x.removals.Load()
	x.erasing()
	x.erase("main", key)
	if x.cache(key, m, before); x.get(key) != (hashserv.Mapping{}) {
		t.Fatal("entered what was removed")
	}
	if x.cache(key, m, x.removals.Load()); x.get(key) != m {
		t.Fatal("not entered")
	}
}

func TestHashLookupsAllocateNothing(t *testing.T) {
	z := hxOpen(t, HashesConfig{Path: hxPath(t)}).Zone("main")
	r := hxReport(1)
	hxReported(t, z, r)
	tasks, answers := []hashserv.Task{r.Task, hxTask(2)}, make([]hashserv.Mapping, 2)
	unihashes, there := []hashserv.Unihash{r.Unihash, {9}}, make([]bool, 2)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if err := z.Unihash(ctx, tasks, answers); err != nil || answers[0].Unihash != r.Unihash || answers[1] != (hashserv.Mapping{}) {
			t.Error(answers, err)
		}
		if err := z.Exists(ctx, unihashes, there); err != nil || !there[0] || there[1] {
			t.Error(there, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Zones do not know of each other, and what one process writes another sees.
func TestHashesOfTwoHandles(t *testing.T) {
	path := hxPath(t)
	one, two := hxOpen(t, HashesConfig{Path: path}), hxOpen(t, HashesConfig{Path: path})
	r := hxReport(1)
	hxReported(t, one.Zone("main"), r)
	if err := two.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hxMapped(t, two.Zone("main"), r.Task)[0]; got != (hashserv.Mapping{Unihash: r.Unihash, Author: r.Author}) {
		t.Fatalf("the other sees %v", got)
	}
	if got := hxMapped(t, two.Zone("review"), r.Task)[0]; got != (hashserv.Mapping{}) {
		t.Fatalf("another zone sees %v", got)
	}
	other := r
	other.Unihash, other.Outhash = hashserv.Unihash{7}, "another"
	if got := hxReported(t, two.Zone("review"), other); got.Unihash != other.Unihash {
		t.Fatalf("another zone was answered %v", got)
	}
}

// TestHashesAreWrittenOnceByWhoeverIsFirst lets two handles that do not follow each other report the same tasks.
func TestHashesAreWrittenOnceByWhoeverIsFirst(t *testing.T) {
	path := hxPath(t)
	zones := []*HashZone{hxOpen(t, HashesConfig{Path: path}).Zone("main"), hxOpen(t, HashesConfig{Path: path}).Zone("main")}
	const n = 60
	var told [2][n]hashserv.Unihash
	var all sync.WaitGroup
	for i, z := range zones {
		for at := range n {
			all.Go(func() {
				r := hxReport(at)
				r.Unihash[0], r.Outhash = byte(i), fmt.Sprintf("%s by %d", r.Outhash, i)
				told[i][at] = hxReported(t, z, r).Unihash
			})
		}
	}
	all.Wait()
	for at := range n {
		if told[0][at] != told[1][at] {
			t.Errorf("task %d: one was told %v, the other %v", at, told[0][at], told[1][at])
		}
	}
}

func TestHashesRunFollowsATool(t *testing.T) {
	for name, memory := range map[string]int64{"complete": 0, "a cache": 64 * 4 * taskCell} {
		t.Run(name, func(t *testing.T) {
			path := hxPath(t)
			h := hxOpen(t, HashesConfig{Path: path, Memory: memory})
			z := h.Zone("main")
			for n := range 4 {
				hxReported(t, z, hxReport(n))
			}
			hxMapped(t, z, hxTask(0), hxTask(1), hxTask(2), hxTask(3)) // now they are in the cache too
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- h.Run(ctx) }()
			gone := hxReport(2)
			hxExec(t, path, fmt.Sprintf("DELETE FROM mappings WHERE unihash = x'%s'", gone.Unihash))
			for tick := time.Tick(10 * time.Millisecond); hxMapped(t, z, gone.Task)[0] != (hashserv.Mapping{}); {
				<-tick // the test's own deadline ends a wait in vain
			}
			stop()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			exist := make([]bool, 2)
			if err := z.Exists(t.Context(), []hashserv.Unihash{gone.Unihash, hxReport(1).Unihash}, exist); err != nil || exist[0] || !exist[1] {
				t.Fatalf("exist: %v, %v", exist, err)
			}
			if m := hxMapped(t, z, hxTask(1))[0]; m.Unihash != hxReport(1).Unihash {
				t.Fatalf("another is mapped to %v", m)
			}
			// Reported anew it is mapped anew.
			gone.Outhash, gone.Unihash = "another", hashserv.Unihash{5}
			if m := hxReported(t, z, gone); m.Unihash != gone.Unihash || hxMapped(t, z, gone.Task)[0] != m {
				t.Fatalf("mapped anew to %v", m)
			}
		})
	}
}

// Whoever has fallen behind the list of removals reads everything anew.
func TestHashesReadAnewWhatTheyMissed(t *testing.T) {
	path := hxPath(t)
	h := hxOpen(t, HashesConfig{Path: path})
	z := h.Zone("main")
	for n := range 10 {
		hxReported(t, z, hxReport(n))
	}
	hxExec(t, path, "DELETE FROM mappings WHERE id <= 4; DELETE FROM removals WHERE id <= 3; DELETE FROM mappings WHERE id = 5; DELETE FROM removals")
	if err := h.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if got := hxMapped(t, z, hxTask(n))[0]; (got != hashserv.Mapping{}) != (n >= 5) {
			t.Errorf("task %d: %v", n, got)
		}
	}
	if n := h.memory.Load().len(); n != 5 {
		t.Errorf("%d mappings in memory", n)
	}
}

func TestHashesTrimTheListOfRemovals(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	h.keepRemovals = 500
	const extra = 2*trimAtOnce + 100
	hxExec(t, hxFile(t, h), fmt.Sprintf(`INSERT INTO names (text) VALUES ('main'), ('m');
INSERT INTO removals (zone, method, taskhash) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT 1, 2, 't' FROM n`,
		h.keepRemovals+extra))
	if err := h.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if !h.follow.excess() {
			break
		}
		if err := h.write(t.Context(), h.trim); err != nil {
			t.Fatal(err)
		}
	}
	if n := hxCount(t, h, "SELECT count(*) FROM removals"); n < h.keepRemovals || n > h.keepRemovals+trimAtOnce {
		t.Fatalf("%d removals are listed", n)
	}
}

// hxFile returns the path of a database.
func hxFile(t testing.TB, h *Hashes) (path string) {
	t.Helper()
	if err := h.reader.QueryRowContext(t.Context(), "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHashMappingsCannotBeChanged(t *testing.T) {
	path := hxPath(t)
	h := hxOpen(t, HashesConfig{Path: path})
	hxReported(t, h.Zone("main"), hxReport(1))
	for _, column := range []string{"unihash = zeroblob(32)", "author = 5", "taskhash = 't'", "id = 77"} {
		pool, err := openPool(path, 1, url.Values{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pool.ExecContext(t.Context(), "UPDATE mappings SET "+column); err == nil || !strings.Contains(err.Error(), "written once") {
			t.Errorf("%s: %v", column, err)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestHashesWhileTheFileIsLocked shows that a held lock delays reports, and no look-up.
func TestHashesWhileTheFileIsLocked(t *testing.T) {
	path := hxPath(t)
	h := hxOpen(t, HashesConfig{Path: path})
	z := h.Zone("main")
	known, late := hxReport(1), hxReport(2)
	hxReported(t, z, known)
	other, err := openPool(path, 1, url.Values{"_txlock": {"immediate"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan hashserv.Mapping)
	go func() {
		m, err := z.Report(t.Context(), late)
		if err != nil {
			t.Error(err)
		}
		done <- m
	}()
	for range 200 {
		if m := hxMapped(t, z, known.Task, late.Task); m[0].Unihash != known.Unihash || m[1] != (hashserv.Mapping{}) {
			t.Fatalf("mapped to %v", m)
		}
		if row, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: known.Outhash}); err != nil || row == nil {
			t.Fatal(row, err)
		}
	}
	select {
	case m := <-done:
		t.Fatalf("reported %v past the lock", m)
	default:
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if m := <-done; m.Unihash != late.Unihash || hxMapped(t, z, late.Task)[0] != m {
		t.Fatalf("mapped to %v", m)
	}
}

// Whoever leaves while the file is locked leaves nobody else waiting.
func TestHashReportThatIsGivenUp(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := z.Report(ctx, hxReport(1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	hxReported(t, z, hxReport(2))
}

func TestHashDiskFull(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	limit := func(pages string) {
		if _, err := h.queue.conn.conn.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	limit(fmt.Sprint(hxCount(t, h, "PRAGMA page_count") + 8))
	var err error
	n := 0
	for err == nil {
		r := hxReport(n)
		r.Siginfo = strings.Repeat(hxHex("text", n), 40)
		if _, err = z.Report(t.Context(), r); err == nil {
			n++
		}
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, hashserv.ErrUnavailable) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if hxMapped(t, z, hxTask(n))[0] != (hashserv.Mapping{}) {
		t.Error("what could not be written is in memory")
	}
	if rows := hxCount(t, h, "SELECT count(*) FROM outhashes"); rows != int64(n) {
		t.Errorf("%d rows of %d reports", rows, n)
	}
	if texts := hxCount(t, h, "SELECT count(*) FROM siginfos"); texts != int64(n) {
		t.Errorf("%d texts of %d reports", texts, n)
	}
	limit("1000000")
	r := hxReport(n)
	if m := hxReported(t, z, r); m.Unihash != r.Unihash {
		t.Fatalf("mapped to %v", m)
	}
	if err := h.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A text is kept once, and goes with the last row that has it, whoever deletes that.
func TestHashTextsAreShared(t *testing.T) {
	path := hxPath(t)
	h := hxOpen(t, HashesConfig{Path: path})
	z := h.Zone("main")
	texts := func(want int64) {
		t.Helper()
		if n := hxCount(t, h, "SELECT count(*) FROM siginfos"); n != want {
			t.Fatalf("%d texts, want %d", n, want)
		}
	}
	for n := range 4 {
		r := hxReport(n)
		r.Siginfo = hxSiginfo(1, n/2)
		hxReported(t, z, r)
		hxReported(t, z, r)
	}
	texts(2)
	for n := range 4 {
		row, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: hxHex("out", n)})
		if err != nil || row.Siginfo != hxSiginfo(1, n/2) {
			t.Fatalf("row %d: %v, %v", n, row, err)
		}
	}
	remove := func(n int) {
		t.Helper()
		if got, err := z.Remove(t.Context(), hashserv.Where{"outhash": hxHex("out", n)}); err != nil || got != 1 {
			t.Fatalf("removed %d, %v", got, err)
		}
	}
	remove(0)
	texts(2)
	remove(1)
	texts(1)
	hxExec(t, path, "DELETE FROM outhashes")
	texts(0)
}

// Marking anew changes no row, and only what another mark is on is swept, in steps.
func TestHashSweepInSteps(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t), Keep: func(_ string, u hashserv.Unihash) bool { return u == hxReport(8).Unihash }})
	const n = hashStep + 100
	hxFill(t, h, "main", 0, n, hxReport)
	hxFill(t, h, "review", 0, 10, hxReport)
	z := h.Zone("main")
	for _, keep := range []int{3, n - 1} {
		if got, err := z.Mark(t.Context(), "first", hashserv.Where{"taskhash": hxHex("task", keep)}); err != nil || got != 1 {
			t.Fatalf("marked %d, %v", got, err)
		}
	}
	if rows := hxCount(t, h, "SELECT count(*) FROM mappings WHERE mark <> 0"); rows != 2 {
		t.Fatalf("%d rows are marked", rows)
	}
	if c, err := z.Collection(t.Context()); err != nil || c != (hashserv.Collection{Keep: 2, Remove: n - 2, Mark: "first"}) {
		t.Fatalf("%+v, %v", c, err)
	}
	if got, err := z.Sweep(t.Context(), "first"); err != nil || got != n-3 {
		t.Fatalf("swept %d, %v", got, err)
	}
	for at, want := range map[int]bool{3: true, n - 1: true, 8: true, 0: false, hashStep: false} {
		if got := hxMapped(t, z, hxTask(at))[0]; (got != hashserv.Mapping{}) != want {
			t.Errorf("task %d is mapped to %v", at, got)
		}
	}
	if got := h.memory.Load().len(); got != 3+10 {
		t.Errorf("%d mappings in memory", got)
	}
	if unused, err := z.CleanUnused(t.Context(), 0); err != nil || unused != n-3 {
		t.Fatalf("cleaned %d, %v", unused, err)
	}
	if rows := hxCount(t, h, "SELECT count(*) FROM outhashes"); rows != 3+10 {
		t.Errorf("%d rows are left", rows)
	}
}

// Steps of maintenance become as large as one that is short, and never so large or small that they are of no use.
func TestNextHashStep(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		size int64
		took time.Duration
		want int64
	}{
		{256, ms, 512},
		{256, hashStepTime, 256},
		{256, 100 * ms, 128},
		{hashStep, ms, hashStep},
		{leastHashStep, time.Second, leastHashStep},
	} {
		if got := nextHashStep(c.size, c.took); got != c.want {
			t.Errorf("after %d rows in %v: %d, want %d", c.size, c.took, got, c.want)
		}
	}
}

func TestHashesRefuseTheGatesDatabase(t *testing.T) {
	path := testPath(t)
	openTest(t, path)
	if _, err := OpenHashes(t.Context(), HashesConfig{Path: path}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
}

// TestHashLearn: many mappings at once are written once each, and all or none.
func TestHashLearn(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	task := func(i int) hashserv.Task { return hashserv.Task{Method: "m", Taskhash: fmt.Sprint("task ", i)[5:]} }
	mapping := func(i int) hashserv.Mapping { return hashserv.Mapping{Unihash: hashserv.Unihash{1, byte(i)}} }
	if _, err := z.Equivalent(t.Context(), task(1), mapping(100)); err != nil {
		t.Fatal(err)
	}
	tasks := []hashserv.Task{task(0), task(1), task(2), task(2)}
	if err := z.Learn(t.Context(), tasks, []hashserv.Mapping{mapping(0), mapping(1), mapping(2), mapping(3)}); err != nil {
		t.Fatal(err)
	}
	if err := z.Learn(t.Context(), []hashserv.Task{task(7), task(8)}, []hashserv.Mapping{mapping(7), {}}); err == nil {
		t.Error("a mapping to nothing was learnt")
	}
	answers := make([]hashserv.Mapping, 4)
	if err := z.Unihash(t.Context(), []hashserv.Task{task(0), task(1), task(2), task(7)}, answers); err != nil {
		t.Fatal(err)
	}
	want := []hashserv.Mapping{mapping(0), mapping(100), mapping(2), {}}
	if !reflect.DeepEqual(answers, want) {
		t.Errorf("mapped to %v, want %v", answers, want)
	}
}

// TestHashExpire: what was not reported for long goes, with its reports, but for what is kept; a dry run only counts.
func TestHashExpire(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	kept := hashserv.Unihash{9}
	h := hxOpen(t, HashesConfig{
		Path: hxPath(t), Now: func() time.Time { return now },
		Keep: func(zone string, u hashserv.Unihash) bool { return zone == "main" && u == kept },
	})
	z := h.Zone("main")
	report := func(name, output string, u hashserv.Unihash) {
		t.Helper()
		_, err := z.Report(t.Context(), hashserv.Report{Task: hashserv.Task{Method: "m", Taskhash: name}, Outhash: output, Unihash: u})
		if err != nil {
			t.Fatal(err)
		}
	}
	report("old", "1", hashserv.Unihash{1})
	report("kept", "2", kept)
	report("again", "3", hashserv.Unihash{3})
	if _, err := z.Equivalent(t.Context(), hashserv.Task{Method: "m", Taskhash: "bare"}, hashserv.Mapping{Unihash: hashserv.Unihash{4}}); err != nil {
		t.Fatal(err)
	}
	report2 := h.Zone("review")
	if _, err := report2.Report(t.Context(), hashserv.Report{Task: hashserv.Task{Method: "m", Taskhash: "old"}, Outhash: "1", Unihash: hashserv.Unihash{1}}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(48 * time.Hour)
	report("again", "4", hashserv.Unihash{3})
	report("new", "5", hashserv.Unihash{5})
	before := now.Add(-time.Hour)
	for _, dry := range []bool{true, false} {
		wantRows := int64(1) // of the mapping that goes: the older report of "again" is of a task that is mapped
		if dry {
			wantRows = 0
		}
		mappings, rows, err := z.Expire(t.Context(), before, dry)
		if mappings != 2 || rows != wantRows || err != nil {
			t.Fatalf("dry=%v: %d mappings and %d rows, %v", dry, mappings, rows, err)
		}
	}
	there := func(z *HashZone, name string) bool {
		var m [1]hashserv.Mapping
		if err := z.Unihash(t.Context(), []hashserv.Task{{Method: "m", Taskhash: name}}, m[:]); err != nil {
			t.Fatal(err)
		}
		return m[0] != hashserv.Mapping{}
	}
	for name, want := range map[string]bool{"old": false, "bare": false, "kept": true, "again": true, "new": true} {
		if there(z, name) != want {
			t.Errorf("%s is there: %v", name, !want)
		}
	}
	if !there(report2, "old") {
		t.Error("another zone's mapping is gone")
	}
}
