package sqldb

import (
	"bytes"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// hxReference makes a database with the tables of a reference server.
func hxReference(t testing.TB, schema string, fill func(exec func(query string, args ...any))) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hashserv.db")
	pool, err := openPool(path, 1, url.Values{"_journal_mode": {"WAL"}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := pool.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(schema)
	exec("BEGIN")
	fill(exec)
	exec("COMMIT")
	return path
}

const (
	hxReferenceRows = `CREATE TABLE outhashes_v2 (id INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT NOT NULL, taskhash TEXT NOT NULL, outhash TEXT NOT NULL,
created DATETIME, owner TEXT, PN TEXT, PV TEXT, PR TEXT, task TEXT, outhash_siginfo TEXT, UNIQUE(method, taskhash, outhash));
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL, token TEXT NOT NULL, permissions TEXT NOT NULL, UNIQUE(username));`
	hxReferenceV3 = hxReferenceRows + `CREATE TABLE unihashes_v3 (id INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT NOT NULL, taskhash TEXT NOT NULL,
unihash TEXT NOT NULL, gc_mark TEXT NOT NULL, UNIQUE(method, taskhash));
CREATE TABLE config (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT, UNIQUE(name));`
	hxReferenceV2 = hxReferenceRows + `CREATE TABLE unihashes_v2 (id INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT NOT NULL, taskhash TEXT NOT NULL,
unihash TEXT NOT NULL, UNIQUE(method, taskhash));`
)

func hxUnihash(n int) string { return hashserv.Unihash(hxSum("uni", n)).String() }

func TestImportReference(t *testing.T) {
	const n = 2*importAtOnce + 5
	path := hxReference(t, hxReferenceV3, func(exec func(string, ...any)) {
		for i := range n {
			exec("INSERT INTO unihashes_v3 (method, taskhash, unihash, gc_mark) VALUES (?, ?, ?, ?)", hxMethod, hxHex("task", i), hxUnihash(i), []string{"", "now"}[i%2])
			exec(`INSERT INTO outhashes_v2 (method, taskhash, outhash, created, owner, PN, PV, PR, task, outhash_siginfo) VALUES (?, ?, ?, ?, ?, ?, NULL, 'r0', 'do_x', ?)`,
				hxMethod, hxHex("task", i), hxHex("out", i), "2026-03-01T12:00:00.25+00:00", "ann", "zlib", "text "+hxHex("out", i))
		}
		exec("INSERT INTO config (name, value) VALUES ('gc-mark', 'now')")
		for _, unihash := range []string{"", "abc", strings.ToUpper(hxUnihash(1)), strings.Repeat("0", 64)} {
			exec("INSERT INTO unihashes_v3 (method, taskhash, unihash, gc_mark) VALUES ('m', ?, ?, '')", "t"+unihash, unihash)
		}
		exec("INSERT INTO unihashes_v3 (method, taskhash, unihash, gc_mark) VALUES ('m m', 't', ?, '')", hxUnihash(1))
		exec("INSERT INTO outhashes_v2 (method, taskhash, outhash, created) VALUES ('m', 't', '', '2026-03-01T12:00:00')")
		exec("INSERT INTO outhashes_v2 (method, taskhash, outhash, created) VALUES ('m', 't', 'o', 'yesterday')")
		exec("INSERT INTO outhashes_v2 (method, taskhash, outhash, created) VALUES ('m', CAST(x'ff' AS TEXT), 'o', '2026-03-01T12:00:00')")
	})
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	mine := hxReport(7)
	mine.Unihash = hashserv.Unihash{7}
	hxReported(t, z, mine)

	var steps []ImportCounts
	counts, err := h.ImportReference(t.Context(), path, "main", func(c ImportCounts) { steps = append(steps, c) })
	if want := (ImportCounts{Taken: 2*n - 2, Kept: 2, Invalid: 8}); err != nil || counts != want {
		t.Fatalf("%+v, %v; want %+v", counts, err, want)
	}
	if len(steps) < 4 || steps[len(steps)-1] != counts {
		t.Errorf("progress: %+v", steps)
	}
	for i := range n {
		want := hashserv.Mapping{Unihash: hxReport(i).Unihash}
		if i == 7 {
			want = hashserv.Mapping{Unihash: mine.Unihash, Author: mine.Author}
		}
		if got := hxMapped(t, z, hxTask(i))[0]; got != want {
			t.Fatalf("task %d is mapped to %v, want %v", i, got, want)
		}
	}
	got, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: hxHex("out", 9)})
	want := &hashserv.Row{
		Task: hxTask(9), Outhash: hxHex("out", 9), Created: time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC), Unihash: hxReport(9).Unihash,
		Details: hashserv.Details{Owner: "ann", PN: "zlib", PR: "r0", Task: "do_x", Siginfo: "text " + hxHex("out", 9)}, Mark: "now",
	}
	if got != nil {
		got.ID = 0
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("row: %+v, %v; want %+v", got, err, want)
	}
	if c, err := z.Collection(t.Context()); err != nil || c.Mark != "now" || c.Keep != n/2-1 {
		t.Errorf("%+v, %v", c, err)
	}
	if beside, err := filepath.Glob(path + "-*"); err != nil || len(beside) != 0 {
		t.Errorf("left beside the file: %v, %v", beside, err)
	}
	again, err := h.ImportReference(t.Context(), path, "main", nil)
	if want := (ImportCounts{Kept: 2 * n, Invalid: 8}); err != nil || again != want {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestImportOldReference(t *testing.T) {
	path := hxReference(t, hxReferenceV2, func(exec func(string, ...any)) {
		exec("INSERT INTO unihashes_v2 (method, taskhash, unihash) VALUES ('m', 't', ?)", hxUnihash(1))
	})
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	if counts, err := h.ImportReference(t.Context(), path, "main", nil); err != nil || counts != (ImportCounts{Taken: 1}) {
		t.Fatalf("%+v, %v", counts, err)
	}
	if got := hxMapped(t, h.Zone("main"), hashserv.Task{Method: "m", Taskhash: "t"})[0]; got.Unihash.String() != hxUnihash(1) {
		t.Fatalf("mapped to %v", got)
	}
}

func TestImportRefusesWhatIsNoReference(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	absent := filepath.Join(t.TempDir(), "absent.db")
	for path, want := range map[string]string{absent: "no such file", hxFile(t, h): "has not the tables"} {
		if _, err := h.ImportReference(t.Context(), path, "main", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestExportAndImport(t *testing.T) {
	from, to := hxOpen(t, HashesConfig{Path: hxPath(t)}), hxOpen(t, HashesConfig{Path: hxPath(t)})
	const n = importAtOnce + 3
	hxFill(t, from, "main", 0, n, func(n int) hashserv.Report {
		r := hxReport(n)
		r.Siginfo = "text " + r.Outhash
		r.Author = 1<<64 - 1
		return r
	})
	odd := hashserv.Report{Task: hashserv.Task{Method: "m", Taskhash: "<ü>\""}, Outhash: "o", Unihash: hashserv.Unihash{1}}
	hxReported(t, from.Zone("main"), odd)
	hxReported(t, from.Zone("review"), hxReport(n+1))
	if _, err := from.Zone("main").Mark(t.Context(), "now", hashserv.Where{"taskhash": hxHex("task", 3)}); err != nil {
		t.Fatal(err)
	}
	export := func(h *Hashes) []string {
		t.Helper()
		var out bytes.Buffer
		if err := h.Export(t.Context(), "main", &out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		slices.Sort(lines)
		return lines
	}
	want := export(from)
	var text bytes.Buffer
	if err := from.Export(t.Context(), "main", &text); err != nil {
		t.Fatal(err)
	}
	counts, err := to.Import(t.Context(), "main", &text, nil)
	if err != nil || counts != (ImportCounts{Taken: 2*n + 2}) {
		t.Fatalf("%+v, %v", counts, err)
	}
	if got := export(to); len(got) != 2*n+3 || !slices.Equal(got, want) {
		t.Fatalf("%d lines, want the same %d", len(got), len(want))
	}
	for line, want := range map[string]string{"{}\n{": "line 2", `{"method":"m","method":"m"}`: "line 1", `{"unknown":1}`: "line 1"} {
		if _, err := to.Import(t.Context(), "main", strings.NewReader(line), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestHashStats(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	hxFill(t, h, "main", 0, 50, func(n int) hashserv.Report {
		r := hxReport(n)
		r.Siginfo = fmt.Sprint("text ", n/2)
		return r
	})
	hxFill(t, h, "review", 0, 10, hxReport)
	if _, err := h.Zone("review").Mark(t.Context(), "now", nil); err != nil {
		t.Fatal(err)
	}
	s, err := h.Stats(t.Context())
	want := []HashZoneStats{{"main", 50, 50, ""}, {"review", 10, 10, "now"}}
	if err != nil || !slices.Equal(s.Zones, want) || s.Texts != 25 || s.InMemory != 60 || !s.Complete {
		t.Fatalf("%+v, %v", s, err)
	}
	if s.FileBytes <= 0 || s.TextBytes <= 0 || s.Memory <= 0 || s.BytesPerEntry <= 0 {
		t.Errorf("%+v", s)
	}
}
