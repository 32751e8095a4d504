package sqldb

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const (
	// importAtOnce is how many rows one transaction takes in, and how many an export reads at a time.
	importAtOnce = 1000
	// longestHash is how long a method or a hash may be, in bytes.
	longestHash = 4096
	// longestLine bounds a line of an export: a text, escaped.
	longestLine = 2 * longestSiginfo
)

// ImportCounts says what an import has come to.
type ImportCounts struct {
	Taken   int64 // mappings and rows that were not there
	Kept    int64 // that were there, and stayed as they were
	Invalid int64 // that make no sense, and were left out
}

func (c *ImportCounts) add(d ImportCounts) {
	c.Taken, c.Kept, c.Invalid = c.Taken+d.Taken, c.Kept+d.Kept, c.Invalid+d.Invalid
}

// importItem is a mapping, or a row if it has an outhash.
type importItem struct {
	hashserv.Row
	text siginfoText
}

// valid reports whether the item is such as the protocol could have brought.
func (i *importItem) valid() bool {
	if !validHash(i.Method) || !validHash(i.Taskhash) {
		return false
	}
	if i.Outhash == "" {
		return i.Unihash != (hashserv.Unihash{}) && utf8.ValidString(i.Mark)
	}
	for _, text := range []string{i.Owner, i.PN, i.PV, i.PR, i.Details.Task, i.Siginfo} {
		if !utf8.ValidString(text) || len(text) > longestSiginfo {
			return false
		}
	}
	return validHash(i.Outhash) && !i.Created.IsZero()
}

func validHash(text string) bool {
	odd := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError }
	return text != "" && len(text) <= longestHash && !strings.ContainsFunc(text, odd)
}

// importer takes items into a zone, some in each transaction.
type importer struct {
	h        *Hashes
	zone     string
	progress func(ImportCounts)
	// foreign is the current mark of where the items come from. While it is the zone's too, mappings keep the marks they come with; otherwise they
	// get the zone's, as new ones do.
	foreign string
	counts  ImportCounts
	items   []importItem
}

// begin makes the current mark of where the items come from that of the zone, if the zone has none.
func (i *importer) begin(ctx context.Context) error {
	if i.foreign == "" {
		return nil
	}
	return i.h.write(ctx, func(ctx context.Context, w *hashWrite) error {
		zone, err := w.intern(ctx, selectHashName, insertHashName, i.zone)
		if err != nil {
			return err
		}
		mark, err := w.intern(ctx, selectMark, insertMark, i.foreign)
		if err != nil {
			return err
		}
		current, err := w.one(ctx, currentMark, zone)
		if err == nil && current == 0 {
			_, err = w.exec(ctx, setMark, zone, mark)
		}
		return err
	})
}

// add takes one item, and writes when there are enough of them.
func (i *importer) add(ctx context.Context, item importItem) error {
	if !item.valid() {
		i.counts.Invalid++
		return nil
	}
	var err error
	if item.text, err = i.h.compress(ctx, i.zone, item.Details); err != nil {
		return err
	}
	item.Siginfo = ""
	if i.items = append(i.items, item); len(i.items) < importAtOnce {
		return nil
	}
	return i.flush(ctx)
}

func (i *importer) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	items := i.items
	var counts ImportCounts
	err := i.h.write(ctx, func(ctx context.Context, w *hashWrite) (err error) {
		counts, err = w.importItems(ctx, i.zone, i.foreign, items)
		return err
	})
	if err != nil {
		return classify(err)
	}
	i.counts.add(counts)
	i.items = nil
	if i.progress != nil {
		i.progress(i.counts)
	}
	return nil
}

func (w *hashWrite) importItems(ctx context.Context, zone, foreign string, items []importItem) (counts ImportCounts, err error) {
	for n := range items {
		item := &items[n]
		t, err := w.task(ctx, zone, item.Row.Task)
		if err != nil {
			return counts, err
		}
		var taken bool
		if item.Outhash != "" {
			r := hashserv.Report{Task: item.Row.Task, Outhash: item.Outhash, Details: item.Details}
			taken, err = w.row(ctx, t, r, item.text, item.Created.UnixMicro())
		} else {
			taken, err = w.importMapping(ctx, t, foreign, item)
		}
		if err != nil {
			return counts, err
		}
		if taken {
			counts.Taken++
		} else {
			counts.Kept++
		}
	}
	return counts, nil
}

func (w *hashWrite) importMapping(ctx context.Context, t taskIDs, foreign string, item *importItem) (bool, error) {
	held, err := w.mapping(ctx, mappingByIDs, t.taskhash, t.method, t.zone)
	if err != nil || held != (hashserv.Mapping{}) {
		return false, err
	}
	if err := w.mapTo(ctx, t, hashserv.Mapping{Unihash: item.Unihash, Author: item.Author}); err != nil {
		return false, err
	}
	current, err := w.one(ctx, currentMark, t.zone)
	if err != nil {
		return false, err
	}
	if its, err := w.intern(ctx, selectMark, insertMark, foreign); err != nil || its != current {
		return true, err
	}
	mark, err := w.intern(ctx, selectMark, insertMark, item.Mark)
	if err == nil && mark != current {
		_, err = w.exec(ctx, markAsImported, t.taskhash, t.method, t.zone, mark)
	}
	return true, err
}

// ImportReference takes over the SQLite database of a reference server, of which it writes nothing. Mappings that are there already stay as they
// are, so that it can be run again when it was interrupted, and later for what has come since. progress, if it is given, is called after
// each transaction.
func (h *Hashes) ImportReference(ctx context.Context, path, zone string, progress func(ImportCounts)) (ImportCounts, error) {
	i := &importer{h: h, zone: zone, progress: progress}
	err := i.reference(ctx, path)
	if err != nil {
		return i.counts, fmt.Errorf("import %q: %w", path, classify(err))
	}
	return i.counts, nil
}

func (i *importer) reference(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	options := url.Values{"_query_only": {"1"}, "mode": {"ro"}}
	if _, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		// Nobody has it open. SQLite would leave companions of the file beside it, of an owner that its server may not be.
		options.Set("immutable", "1")
	}
	pool, err := openPool(path, 1, options)
	if err != nil {
		return err
	}
	defer pool.Close()
	var mappings, marked, rows, config bool
	if err := pool.QueryRowContext(ctx, referenceTables).Scan(&marked, &mappings, &rows, &config); err != nil {
		return err
	}
	if !mappings && !marked || !rows {
		return errors.New("it has not the tables of a hash equivalence server: unihashes_v3 or unihashes_v2, and outhashes_v2")
	}
	if config {
		err := pool.QueryRowContext(ctx, referenceMark).Scan(&i.foreign)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	if err := i.begin(ctx); err != nil {
		return err
	}
	query := referenceMappings
	if !marked {
		query = referenceOldMappings
	}
	if err := i.pages(ctx, pool, query, scanReferenceMapping); err != nil {
		return err
	}
	return i.pages(ctx, pool, referenceRows, scanReferenceRow)
}

// pages reads a table of another's database a page at a time, and takes what it holds.
func (i *importer) pages(ctx context.Context, from querier, query string, scan func(*sql.Rows) (int64, importItem, error)) error {
	for last, more := int64(-1<<63), true; more; {
		var page []importItem
		err := each(ctx, from, func(rows *sql.Rows) error {
			id, item, err := scan(rows)
			last = id
			page = append(page, item)
			return err
		}, query, last, importAtOnce)
		if err != nil {
			return err
		}
		more = len(page) == importAtOnce
		for _, item := range page {
			if err := i.add(ctx, item); err != nil {
				return err
			}
		}
	}
	return i.flush(ctx)
}

func scanReferenceMapping(rows *sql.Rows) (id int64, item importItem, err error) {
	var unihash string
	err = rows.Scan(&id, &item.Method, &item.Taskhash, &unihash, &item.Mark)
	item.Unihash, _ = hashserv.ParseUnihash(unihash) // zero is not valid
	return id, item, err
}

func scanReferenceRow(rows *sql.Rows) (id int64, item importItem, err error) {
	var created string
	err = rows.Scan(&id, &item.Method, &item.Taskhash, &item.Outhash, &created, &item.Owner, &item.PN, &item.PV, &item.PR, &item.Details.Task,
		&item.Siginfo)
	if item.Outhash == "" {
		item.Method = "" // or it would pass for a mapping
	}
	item.Created = parseReferenceTime(created)
	return id, item, err
}

// parseReferenceTime reads what Python prints; zero is not valid. Without a zone it is UTC.
func parseReferenceTime(text string) time.Time {
	for _, layout := range []string{"2006-01-02T15:04:05.999999Z07:00", "2006-01-02 15:04:05.999999Z07:00", "2006-01-02T15:04:05.999999", "2006-01-02 15:04:05.999999"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}

// exportLine is a line of an export. A mapping has a unihash, a row has an outhash, and the first line of all has the current mark, if there is one.
type exportLine struct {
	Current  string `json:"current_mark,omitzero"`
	Method   string `json:"method,omitzero"`
	Taskhash string `json:"taskhash,omitzero"`
	Unihash  string `json:"unihash,omitzero"`
	Author   uint64 `json:"author,string,omitzero"`
	Mark     string `json:"gc_mark,omitzero"`

	Outhash string    `json:"outhash,omitzero"`
	Created time.Time `json:"created,omitzero"`
	Owner   string    `json:"owner,omitzero"`
	PN      string    `json:"PN,omitzero"`
	PV      string    `json:"PV,omitzero"`
	PR      string    `json:"PR,omitzero"`
	Task    string    `json:"task,omitzero"`
	Siginfo string    `json:"outhash_siginfo,omitzero"`
}

// Export writes what is known of a zone as lines of JSON, which Import reads. It holds up nobody: what is reported meanwhile may or may not be among
// them.
func (h *Hashes) Export(ctx context.Context, zone string, w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<16)
	if err := h.export(ctx, zone, out); err != nil {
		return fmt.Errorf("export zone %q: %w", zone, classify(err))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("export zone %q: %w", zone, err)
	}
	return nil
}

func (h *Hashes) export(ctx context.Context, zone string, out io.Writer) error {
	var current string
	if err := h.reader.QueryRowContext(ctx, currentText, zone).Scan(&current); err != nil {
		return err
	}
	if current != "" {
		if err := writeLine(out, exportLine{Current: current}); err != nil {
			return err
		}
	}
	err := exportTable(ctx, h, spanMappings, exportMappings, zone, out, func(rows *sql.Rows) (line exportLine, err error) {
		var taskhash any
		var unihash []byte
		var author int64
		err = rows.Scan(&line.Method, &taskhash, &unihash, &author, &line.Mark)
		line.Taskhash, _ = textOfHash(taskhash)
		line.Unihash, line.Author = fmt.Sprintf("%x", unihash), uint64(author)
		return line, err
	})
	if err != nil {
		return err
	}
	return exportTable(ctx, h, spanOuthashes, exportRows, zone, out, func(rows *sql.Rows) (line exportLine, err error) {
		var taskhash, outhash any
		var created int64
		var sum, siginfo, base []byte
		err = rows.Scan(&line.Method, &taskhash, &outhash, &created, &line.Owner, &line.PN, &line.PV, &line.PR, &line.Task, &sum, &siginfo, &base)
		if err != nil {
			return line, err
		}
		line.Taskhash, _ = textOfHash(taskhash)
		line.Outhash, _ = textOfHash(outhash)
		line.Created = time.UnixMicro(created).UTC()
		line.Siginfo, err = h.expand(sum, siginfo, base)
		return line, err
	})
}

// exportTable writes the rows of one table, some ids at a time, so that no read stays open for long.
func exportTable(ctx context.Context, h *Hashes, span, query, zone string, out io.Writer, scan func(*sql.Rows) (exportLine, error)) error {
	var first, last int64
	if err := h.reader.QueryRowContext(ctx, span).Scan(&first, &last); err != nil {
		return err
	}
	for from := first - 1; from < last; from += importAtOnce {
		err := each(ctx, h.reader, func(rows *sql.Rows) error {
			line, err := scan(rows)
			if err != nil {
				return err
			}
			return writeLine(out, line)
		}, query, zone, from, min(from+importAtOnce, last))
		if err != nil {
			return err
		}
	}
	return nil
}

func writeLine(out io.Writer, line exportLine) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}

// Import takes in what Export has written, as ImportReference does another server's database. A line that is no JSON of an export ends it with
// an error that names the line.
func (h *Hashes) Import(ctx context.Context, zone string, r io.Reader, progress func(ImportCounts)) (ImportCounts, error) {
	i := &importer{h: h, zone: zone, progress: progress}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), longestLine)
	for number := 1; lines.Scan(); number++ {
		if err := i.line(ctx, lines.Bytes()); err != nil {
			return i.counts, fmt.Errorf("import line %d: %w", number, classify(err))
		}
	}
	if err := errors.Join(lines.Err(), i.flush(ctx)); err != nil {
		return i.counts, fmt.Errorf("import: %w", classify(err))
	}
	return i.counts, nil
}

func (i *importer) line(ctx context.Context, text []byte) error {
	var l exportLine
	if err := json.Unmarshal(text, &l, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if l.Current != "" {
		i.foreign = l.Current
		return i.begin(ctx)
	}
	item := importItem{Row: hashserv.Row{
		Task: hashserv.Task{Method: l.Method, Taskhash: l.Taskhash}, Outhash: l.Outhash, Created: l.Created, Author: hashserv.Author(l.Author),
		Details: hashserv.Details{Owner: l.Owner, PN: l.PN, PV: l.PV, PR: l.PR, Task: l.Task, Siginfo: l.Siginfo}, Mark: l.Mark,
	}}
	item.Unihash, _ = hashserv.ParseUnihash(l.Unihash) // zero is not valid
	return i.add(ctx, item)
}
