package sqldb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// hashChildEnv makes the test binary the child of TestHashKill, as childEnv does that of TestKill.
const hashChildEnv = "LYCHGATE_SQLDB_TEST_HASH_CHILD"

const hxReporters = 8

// hxKilled is report n of the child of TestHashKill. Some tasks have the output of another, and some are reported twice with another unihash.
func hxKilled(n int) hashserv.Report {
	r := hxReport(n)
	switch n % 5 {
	case 3:
		r.Outhash = hxHex("out", n-3)
	case 4:
		r.Task, r.Outhash = hxTask(n-2), hxHex("out", n)
	}
	r.Siginfo = strings.Repeat(r.Outhash, 30)
	return r
}

// reportForever reports from several goroutines and prints what each report was answered.
func reportForever(path, first string) error {
	ctx := context.Background()
	at, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	h, err := OpenHashes(ctx, HashesConfig{Path: path})
	if err != nil {
		return err
	}
	z := h.Zone("main")
	var mu sync.Mutex
	failed := make(chan error, hxReporters)
	for w := range hxReporters {
		go func() {
			for n := at + w; ; n += hxReporters {
				m, err := z.Report(ctx, hxKilled(n))
				if err != nil {
					failed <- fmt.Errorf("report %d: %w", n, err)
					return
				}
				mu.Lock()
				fmt.Println(n, m.Unihash)
				mu.Unlock()
			}
		}()
	}
	return <-failed
}

// TestHashKill kills a process that reports, at random moments. What it acknowledged is there and stays as it was (invariant I11), and nothing is
// there by halves.
func TestHashKill(t *testing.T) {
	path := hxPath(t)
	told := make(map[hashserv.Task]string)
	total := 0
	for cycle := range 20 {
		for _, line := range runAndKill(t, fmt.Sprintf("%s=%s|%d", hashChildEnv, path, cycle*10_000), 1+rand.IntN(80)) {
			number, unihash, _ := strings.Cut(line, " ")
			n, err := strconv.Atoi(number)
			if err != nil || len(unihash) != 64 {
				t.Fatalf("child says %q", line)
			}
			task := hxKilled(n).Task
			if before, ok := told[task]; ok && before != unihash {
				t.Fatalf("report %d was answered %s, another of its task %s", n, unihash, before)
			}
			told[task] = unihash
			total++
		}
		hxCheckKilled(t, path, told)
	}
	t.Logf("%d reports acknowledged", total)
}

// hxCheckKilled opens the database that a killed process left.
func hxCheckKilled(t *testing.T, path string, told map[hashserv.Task]string) {
	t.Helper()
	h, err := OpenHashes(t.Context(), HashesConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for task, want := range told {
		if got := hxMapped(t, h.Zone("main"), task)[0].Unihash.String(); got != want {
			t.Fatalf("%v was answered %s and is now mapped to %q", task, want, got)
		}
	}
	for what, query := range map[string]string{
		"rows without their mapping": `SELECT count(*) FROM outhashes o WHERE NOT EXISTS (
			SELECT 1 FROM mappings m WHERE m.taskhash = o.taskhash AND m.method = o.method AND m.zone = o.zone)`,
		"rows without their text": "SELECT count(*) FROM outhashes WHERE siginfo NOT IN (SELECT id FROM siginfos)",
		"texts without a row":     "SELECT count(*) FROM siginfos WHERE id NOT IN (SELECT siginfo FROM outhashes)",
	} {
		if n := hxCount(t, h, query); n != 0 {
			t.Fatalf("%d %s", n, what)
		}
	}
}
