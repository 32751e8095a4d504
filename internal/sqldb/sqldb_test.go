package sqldb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/authn/tokentest"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/provenance/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) provenance.Store { return openTest(t, testPath(t)) })
}

func TestTokenStore(t *testing.T) {
	tokentest.Run(t, func(t *testing.T) authn.TokenStore { return openTest(t, testPath(t)) })
}

// reopening is a Store that is closed and opened before every question: what it answers has been on the disk.
type reopening struct {
	provenance.Store
	t    *testing.T
	path string
}

func (r reopening) Lookup(ctx context.Context, ref artifact.Ref) (provenance.Record, error) {
	db, err := Open(ctx, Config{Path: r.path})
	if err != nil {
		return provenance.Record{}, err
	}
	defer db.Close()
	if err := db.Check(ctx); err != nil {
		r.t.Error(err)
	}
	return db.Lookup(ctx, ref)
}

func TestStoreReopened(t *testing.T) {
	storetest.Run(t, func(t *testing.T) provenance.Store {
		if strings.HasSuffix(t.Name(), "many_records_at_once") {
			return openTest(t, testPath(t)) // a thousand opens tell no more
		}
		path := testPath(t)
		return reopening{openTest(t, path), t, path}
	})
}

func testPath(t testing.TB) string { return filepath.Join(t.TempDir(), "gate.db") }

func openTest(t testing.TB, path string) *DB { return openAt(t, Config{Path: path}) }

func openAt(t testing.TB, cfg Config) *DB {
	t.Helper()
	db, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func put(t testing.TB, db *DB, p provenance.Publication) {
	t.Helper()
	if _, err := db.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := testPath(t)
	put(t, openTest(t, path), publicationOf(0, 1))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path+suffix, info.Mode(), err)
		}
	}
}

func TestPathIsTakenAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?mode=memory&x#y%41;.db")
	put(t, openTest(t, path), publicationOf(0, 1))
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
}

// clock is a settable time, safe for concurrent use.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func tokenOf(n int, expires time.Time) ([32]byte, authn.TokenInfo) {
	return [32]byte{byte(n), byte(n >> 8), 1}, authn.TokenInfo{
		Epoch: 1,
		ID:    fmt.Sprintf("tok-%d", n), Principal: authn.Principal{Forge: "git.example.com", ID: "42", Kind: authn.Human},
		Created: expires.Add(-time.Hour), Expires: expires,
	}
}

// TestRevocationByAnotherHandle shows the promise of authn.TokenStore: seen in another process within two seconds,
// whether Run runs there or not.
func TestRevocationByAnotherHandle(t *testing.T) {
	path, clock := testPath(t), newClock()
	gate, cli := openAt(t, Config{Path: path, Now: clock.now}), openAt(t, Config{Path: path, Now: clock.now})
	mac, info := tokenOf(1, clock.now().Add(time.Hour))
	if err := cli.PutToken(t.Context(), mac, info); err != nil {
		t.Fatal(err)
	}
	clock.add(freshFor + 1)
	if _, err := gate.TokenByMAC(t.Context(), mac); err != nil {
		t.Fatalf("a second after it was made elsewhere: %v", err)
	}
	if err := cli.RevokeToken(t.Context(), info.ID); err != nil {
		t.Fatal(err)
	}
	clock.add(freshFor + 1)
	if _, err := gate.TokenByMAC(t.Context(), mac); !errors.Is(err, authn.ErrNoToken) {
		t.Fatalf("a second after it was revoked elsewhere: %v", err)
	}
}

func TestClockThatJumpsBackIsStale(t *testing.T) {
	path, clock := testPath(t), newClock()
	gate, cli := openAt(t, Config{Path: path, Now: clock.now}), openTest(t, path)
	clock.add(time.Minute)
	mac, info := tokenOf(1, clock.now().Add(time.Hour))
	if err := gate.PutToken(t.Context(), mac, info); err != nil {
		t.Fatal(err)
	}
	if err := cli.RevokeToken(t.Context(), info.ID); err != nil {
		t.Fatal(err)
	}
	clock.add(-30 * time.Second)
	if _, err := gate.TokenByMAC(t.Context(), mac); !errors.Is(err, authn.ErrNoToken) {
		t.Fatalf("got %v", err)
	}
}

// A gate that cannot learn of revocations trusts no token.
func TestTokensAreRefusedWhenTheFileCannotBeRead(t *testing.T) {
	clock := newClock()
	db, err := Open(t.Context(), Config{Path: testPath(t), Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // its error is the one made here
	mac, info := tokenOf(1, clock.now().Add(time.Hour))
	if err := db.PutToken(t.Context(), mac, info); err != nil {
		t.Fatal(err)
	}
	if err := db.follow.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.TokenByMAC(t.Context(), mac); err != nil {
		t.Fatalf("within the second: %v", err)
	}
	clock.add(freshFor + 1)
	if got, err := db.TokenByMAC(t.Context(), mac); err == nil || errors.Is(err, authn.ErrNoToken) || got.ID != "" {
		t.Fatalf("got %+v, %v; want a fault", got, err)
	}
}

func TestRunFollowsAnotherHandle(t *testing.T) {
	path := testPath(t)
	gate, cli := openTest(t, path), openTest(t, path)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx) }()
	put(t, cli, publicationOf(0, 3))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for gate.Len() < 3 {
		<-tick.C // the test's own deadline ends a wait in vain
	}
	second := publicationUnder("second", 0, 3)
	for i := range second.Records {
		second.Records[i].Claims[0].Signer = "ci-second" // another's word, or it would only repeat the first
	}
	put(t, cli, second)
	for {
		r, err := gate.Lookup(t.Context(), refOf(2))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Claims) == 2 {
			break
		}
		<-tick.C
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRunLogsAFaultOnceEachWay(t *testing.T) {
	var out bytes.Buffer
	db := openAt(t, Config{Path: testPath(t), Logger: slog.New(slog.NewTextHandler(&out, nil))})
	db.logTurn(t.Context(), errors.New("disk is gone"))
	db.logTurn(t.Context(), nil)
	if lines := strings.Count(out.String(), "\n"); lines != 2 || !strings.Contains(out.String(), "disk is gone") {
		t.Fatalf("logged %q", out.String())
	}
}

// TestTwoHandlesPublishAtOnce lets handles on one file race for the same names.
func TestTwoHandlesPublishAtOnce(t *testing.T) {
	path := testPath(t)
	var mu sync.Mutex
	stored := make(map[int]int)
	var wg sync.WaitGroup
	for handle := range 3 {
		db := openTest(t, path)
		wg.Go(func() {
			for n := range 20 {
				p := publicationUnder(fmt.Sprintf("handle %d, statement %d", handle, n), n, 1)
				p.Records[0].Digest[0] = byte(handle)
				got, err := db.Put(t.Context(), p)
				if err != nil {
					t.Error(err)
					return
				}
				if got[0] == provenance.Stored {
					mu.Lock()
					stored[n]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	db := openTest(t, path)
	for n := range 20 {
		if stored[n] != 1 {
			t.Errorf("name %d was stored %d times", n, stored[n])
		}
	}
	if err := db.Check(t.Context()); err != nil || db.Len() != 20 {
		t.Fatalf("%d records, %v", db.Len(), err)
	}
}

func TestManyOpenANewFileAtOnce(t *testing.T) {
	path := testPath(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			db, err := Open(t.Context(), Config{Path: path})
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestForgetsTokensLongExpired(t *testing.T) {
	path, clock := testPath(t), newClock()
	db := openAt(t, Config{Path: path, Now: clock.now})
	for n := range 3 {
		mac, info := tokenOf(n, clock.now().Add(time.Hour))
		if err := db.PutToken(t.Context(), mac, info); err != nil {
			t.Fatal(err)
		}
	}
	clock.add(keepExpired + 2*time.Hour)
	mac, info := tokenOf(3, clock.now().Add(time.Hour))
	if err := db.PutToken(t.Context(), mac, info); err != nil {
		t.Fatal(err)
	}
	db.tokens.expire(clock.now())
	for handle, db := range []*DB{db, openTest(t, path)} {
		all, err := db.Tokens(t.Context())
		// The newest change of before may stay, for its number.
		if err != nil || len(all) > 2 || !slices.ContainsFunc(all, func(i authn.TokenInfo) bool { return i.ID == "tok-3" }) {
			t.Fatalf("handle %d: %v, %v", handle, all, err)
		}
	}
}

// TestDiskFull makes SQLite report a full disk, by its own limit on the size of the file.
func TestDiskFull(t *testing.T) {
	db := openTest(t, testPath(t))
	put(t, db, publicationOf(0, 10))
	limit := func(pages string) {
		t.Helper()
		if _, err := db.writer.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // SQLite takes the size it has
	stopped := -1
	for n := 10; stopped < 0 && n < 10_000; n += 50 {
		_, err := db.Put(t.Context(), publicationOf(n, 50))
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want ErrFull", err)
		}
		stopped = n
	}
	if stopped < 0 {
		t.Fatal("the disk never got full")
	}
	mac, info := tokenOf(1, time.Now().Add(time.Hour))
	info.Note = strings.Repeat("x", 1<<16)
	if err := db.PutToken(t.Context(), mac, info); !errors.Is(err, ErrFull) {
		t.Fatalf("token: got %v, want ErrFull", err)
	}
	for n := range stopped + 50 {
		if _, err := db.Lookup(t.Context(), refOf(n)); (err == nil) != (n < stopped) {
			t.Fatalf("record %d of %d acknowledged: %v", n, stopped, err)
		}
	}
	if err := db.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	limit("1000000")
	put(t, db, publicationOf(stopped, 50))
	if db.Len() != stopped+50 {
		t.Fatalf("%d records, want %d", db.Len(), stopped+50)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := testPath(t)
	db := openTest(t, path)
	put(t, db, publicationOf(0, 1))
	if _, err := db.writer.ExecContext(t.Context(), insertVersion, 99, "0099_later.sql", 0); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{Path: path})
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "schema version 99, this lychgate knows up to 4") {
		t.Fatalf("got %v", err)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	good := testPath(t)
	db, err := Open(t.Context(), Config{Path: good})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, publicationOf(0, 500))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	bytesOf, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(change func(b []byte) []byte) []byte { return change(slices.Clone(bytesOf)) }
	for name, content := range map[string][]byte{
		"text":          []byte(strings.Repeat("not a database\n", 1000)),
		"zeroes":        make([]byte, 8192),
		"bad header":    spoil(func(b []byte) []byte { copy(b, "SQLite format 9"); return b }),
		"cut to a page": spoil(func(b []byte) []byte { return b[:4096] }),
		"cut in half":   spoil(func(b []byte) []byte { return b[:len(b)/2/4096*4096] }),
		"pages overwritten": spoil(func(b []byte) []byte {
			copy(b[4096:], bytes.Repeat([]byte{0xa5}, len(b)-4096))
			return b
		}),
	} {
		path := filepath.Join(t.TempDir(), "gate.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), Config{Path: path})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("%s: %v, want ErrCorrupt and what to do", name, err)
		}
		if db != nil {
			db.Close()
		}
	}
}

func TestForeignDatabaseIsRefused(t *testing.T) {
	path := testPath(t)
	pool, err := openPool(path, 1, map[string][]string{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.ExecContext(t.Context(), "CREATE TABLE users (name TEXT)"); err != nil {
		t.Fatal(err)
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
}

func TestOpenRefusesImpossiblePaths(t *testing.T) {
	for name, path := range map[string]string{
		"none": "", "a directory": t.TempDir(), "in no directory": filepath.Join(t.TempDir(), "none", "gate.db"),
	} {
		if _, err := Open(t.Context(), Config{Path: path}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestMigrationsAreNumbered(t *testing.T) {
	for name, files := range map[string][]string{
		"gap":        {"0001_a.sql", "0003_c.sql"},
		"starts at2": {"0002_a.sql"},
		"twice":      {"0001_a.sql", "0001_b.sql"},
		"no number":  {"init.sql"},
		"short":      {"1_a.sql"},
	} {
		dir := fstest.MapFS{}
		for _, f := range files {
			dir[f] = &fstest.MapFile{Data: []byte("SELECT 1")}
		}
		if all, err := loadMigrations(dir); err == nil {
			t.Errorf("%s: accepted %v", name, all)
		}
	}
}

func TestBadMigrationLeavesTheFileAsItWas(t *testing.T) {
	db := openTest(t, testPath(t))
	put(t, db, publicationOf(0, 1))
	bad := []migration{{1, "0001_init.sql", ""}, {2, "0002_credentials.sql", ""}, {3, "0003_unihash.sql", ""}, {4, "0004_accounts.sql", ""}, {5, "0005_bad.sql", "CREATE TABLE later (x INTEGER); SELECT nonsense FROM nowhere"}}
	if err := migrate(t.Context(), db.writer, applicationID, bad, time.Now()); err == nil || !strings.Contains(err.Error(), "0005_bad.sql") {
		t.Fatalf("got %v", err)
	}
	var n int
	if err := db.reader.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'later'").Scan(&n); err != nil || n != 0 {
		t.Fatalf("half a migration is left: %d, %v", n, err)
	}
	put(t, db, publicationOf(1, 1))
}

func TestRecordsAndList(t *testing.T) {
	db := openTest(t, testPath(t))
	const n = 2*pageSize + 7
	var want []string
	for at := 0; at < n; at += 500 {
		p := publicationOf(at, min(500, n-at))
		put(t, db, p)
		for _, r := range p.Records {
			want = append(want, r.Ref.Path)
		}
	}
	review := publicationUnder("review", 0, 3)
	for i := range review.Records {
		review.Records[i].Ref.Zone = "review"
	}
	review.Records[1].Ref = review.Records[0].Ref.WithPart(artifact.Siginfo)
	put(t, db, review)
	slices.Sort(want)
	var got []string
	for r, err := range db.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if held, err := db.Lookup(t.Context(), r.Ref); err != nil || held.Digest != r.Digest {
			t.Fatalf("%+v is not what is looked up: %v", r, err)
		}
		if r.Ref.Zone == "main" {
			got = append(got, r.Ref.Path)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d records of main, want %d in order", len(got), len(want))
	}
	for range db.Records(t.Context()) {
		break // must not go on, nor hold a connection
	}
	testList(t, db, want)
}

func testList(t *testing.T, db *DB, paths []string) {
	within := func(prefix string) (n int) {
		for _, p := range paths {
			if strings.HasPrefix(p, prefix) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		zone, from, to string
		limit, want    int
	}{
		{"main", "", "", 10, 10},
		{"main", "", "", 1 << 20, len(paths)},
		{"main", "universal/a", "universal/b", 1 << 20, within("universal/a")},
		{"main", "universal/%", "universal/&", 10, 0},
		{"main", "universal0", "", 10, 0},
		{"main", paths[5], paths[5] + "0", 10, 1},
		{"main", "", "", 0, 0},
		{"main", "", "", -1, 0},
		{"review", "", "", 10, 3},
		{"nowhere", "", "", 10, 0},
		{"", "", "", 10, 0},
	} {
		got, err := db.List(t.Context(), c.zone, c.from, c.to, c.limit)
		if err != nil || len(got) != c.want {
			t.Errorf("list %+v: %d, %v", c, len(got), err)
		}
		for _, r := range got {
			if r.Ref.Zone != c.zone || r.Ref.Path < c.from || c.to != "" && r.Ref.Path >= c.to {
				t.Errorf("list %+v holds %v", c, r.Ref)
			}
		}
	}
}

// A name that another process published between two polls is listed all the same.
func TestListCatchesUp(t *testing.T) {
	path := testPath(t)
	gate, cli := openTest(t, path), openTest(t, path)
	put(t, gate, publicationOf(0, 1))
	put(t, cli, publicationOf(1, 1))
	n := 0
	for _, err := range gate.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Fatalf("%d records, want 2", n)
	}
}

func TestSetCacheIsBounded(t *testing.T) {
	var c setCache
	for n := range maxSets + 100 {
		c.put(publicationOf(n*1000, 1).Sets[0])
	}
	if len(c.sets) != maxSets {
		t.Fatalf("%d sets", len(c.sets))
	}
	set := publicationOf(5, 1).Sets[0]
	held := c.put(set)
	if again := c.put(publicationOf(5, 1).Sets[0]); again != held || c.get(set.ID()) != held {
		t.Fatal("two sets of one id")
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	db := openTest(t, testPath(t))
	put(t, db, publicationOf(0, 20))
	put(t, db, publicationUnder("second", 0, 1))
	ctx := t.Context()
	for name, ref := range map[string]artifact.Ref{"hit": refOf(3), "two claims": refOf(0), "miss": refOf(99)} {
		if allocs := testing.AllocsPerRun(100, func() { db.Lookup(ctx, ref) }); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// TestIndexIsAMap compares the index with a map, under adds and amendments in any order.
func TestIndexIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		x.addWord("writer")
		for i := range 5 {
			x.addClaim(provenance.Claim{Statement: artifact.Digest{byte(i + 1)}})
		}
		if rapid.Bool().Draw(t, "reserve") {
			x.reserve(rapid.IntRange(0, 100).Draw(t, "room"))
		}
		claims := *x.claims.Load()
		type held struct {
			size   int64
			mirror bool
			claims []provenance.Claim
		}
		model := make(map[recordKey]held)
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			// Few shards and few slots, so that keys meet.
			var key recordKey
			key[0], key[15] = byte(rapid.IntRange(0, 1).Draw(t, "shard")), byte(rapid.IntRange(0, 200).Draw(t, "key"))
			claim := rapid.IntRange(1, 5).Draw(t, "claim")
			old, known := model[key]
			if rapid.Bool().Draw(t, "add") {
				size := rapid.Int64Range(0, sizeMask).Draw(t, "size")
				x.add(entry{key: key, size: uint64(size) | mirrorFlag, claim: uint32(claim), writer: 1}, hashEntry{})
				if !known {
					model[key] = held{size, true, []provenance.Claim{claims[claim]}}
				}
				continue
			}
			blob := rapid.Bool().Draw(t, "blob")
			if ok := x.amend(key, &claims[claim], blob); ok != known {
				t.Fatalf("amend says %v of a key that is known: %v", ok, known)
			}
			if !known {
				continue
			}
			if !slices.Contains(old.claims, claims[claim]) {
				old.claims = append(slices.Clone(old.claims), claims[claim])
			}
			old.mirror = old.mirror && !blob
			model[key] = old
		}
		for key, want := range model {
			got, ok := x.lookup(key)
			if !ok || got.Size != want.size || (got.Place == provenance.Mirror) != want.mirror || !slices.Equal(got.Claims, want.claims) {
				t.Fatalf("%x: got %+v, %v; want %+v", key, got, ok, want)
			}
		}
		if x.len() != len(model) {
			t.Fatalf("%d records, want %d", x.len(), len(model))
		}
	})
}

func TestKeysDifferByEveryPartOfAName(t *testing.T) {
	base := refOf(0)
	seen := map[recordKey]artifact.Ref{}
	add := func(change func(*artifact.Ref)) {
		r := base
		change(&r)
		if other, ok := seen[keyOf(r)]; ok {
			t.Errorf("%+v and %+v share a key", r, other)
		}
		seen[keyOf(r)] = r
	}
	add(func(*artifact.Ref) {})
	add(func(r *artifact.Ref) { r.Zone = "review" })
	add(func(r *artifact.Ref) { r.Zone, r.Path = "mainu", r.Path[1:] })
	add(func(r *artifact.Ref) { r.Part = artifact.Siginfo })
	add(func(r *artifact.Ref) { r.Part = artifact.Sig })
	add(func(r *artifact.Ref) { r.Kind = 9 })
	add(func(r *artifact.Ref) { r.Path += "x" })
	add(func(r *artifact.Ref) { r.Path += strings.Repeat("x", 1000) })
}
