package sqldb

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
)

// childEnv makes the test binary the child of TestKill: it holds the path of the database and where to begin.
const childEnv = "LYCHGATE_SQLDB_TEST_CHILD"

func TestMain(m *testing.M) {
	for env, forever := range map[string]func(path, first string) error{childEnv: publishForever, hashChildEnv: reportForever} {
		if path, first, ok := strings.Cut(os.Getenv(env), "|"); ok {
			if err := forever(path, first); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

const (
	killWriters = 3
	killRecords = 7 // of each publication
	killStride  = 1000
)

// publishForever publishes from several goroutines and prints the number of each publication that was acknowledged.
func publishForever(path, first string) error {
	ctx := context.Background()
	at, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	db, err := Open(ctx, Config{Path: path})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	failed := make(chan error, killWriters)
	for w := range killWriters {
		go func() {
			for n := at + w; ; n += killWriters {
				got, err := db.Put(ctx, publicationOf(n*killRecords, killRecords))
				if err != nil || got[0] != provenance.Stored {
					failed <- fmt.Errorf("put %d: %v, %w", n, got, err)
					return
				}
				mu.Lock()
				fmt.Println(n)
				mu.Unlock()
			}
		}()
	}
	return <-failed
}

// TestKill kills a process that publishes, at random moments, and looks whether what it acknowledged is there, and
// nothing by halves.
func TestKill(t *testing.T) {
	path := testPath(t)
	acknowledged := make(map[int]bool)
	const cycles = 30
	for cycle := range cycles {
		first := cycle * killStride
		for _, line := range runAndKill(t, fmt.Sprintf("%s=%s|%d", childEnv, path, first), 1+rand.IntN(25)) {
			n, err := strconv.Atoi(line)
			if err != nil {
				t.Fatalf("child says %q", line)
			}
			acknowledged[n] = true
		}
		db, err := Open(t.Context(), Config{Path: path})
		if err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		if err := db.Check(t.Context()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		checkKilled(t, db, acknowledged, first)
		if cycle == cycles-1 {
			records := 0
			for first := range cycles {
				records += checkKilled(t, db, acknowledged, first*killStride)
			}
			if records != db.Len() {
				t.Errorf("%d records found, %d counted", records, db.Len())
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d publications acknowledged", len(acknowledged))
}

// runAndKill starts a child with env, kills it when it has acknowledged some writes, a line each, and returns all it had acknowledged.
func runAndKill(t *testing.T, env string, some int) (acknowledged []string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), env)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == some {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	child.Wait() // killed, which is its error
	if len(acknowledged) < some {
		t.Fatalf("child ended by itself after %d writes", len(acknowledged))
	}
	return acknowledged
}

// checkKilled checks the publications of the cycle that began with first, and returns how many records they left.
func checkKilled(t *testing.T, db *DB, acknowledged map[int]bool, first int) (records int) {
	t.Helper()
	for n := first; n < first+100; n++ {
		there := 0
		for _, r := range publicationOf(n*killRecords, killRecords).Records {
			if got, err := db.Lookup(t.Context(), r.Ref); err == nil && got.Digest == r.Digest && got.Claims[0] == r.Claims[0] {
				there++
			}
		}
		if there != 0 && there != killRecords {
			t.Fatalf("publication %d is there by %d of %d", n, there, killRecords)
		}
		if acknowledged[n] && there == 0 {
			t.Fatalf("publication %d was acknowledged and is lost", n)
		}
		records += there
	}
	return records
}
