package hashtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// plain is what a store is meant to do, written down as plainly as possible: two tables and a mark.
type plain struct {
	differs  map[Difference]bool
	keep     *keepers
	mark     string
	mappings []plainMapping
	rows     []plainRow // in the order of their reports
}

type plainMapping struct {
	task hashserv.Task
	to   hashserv.Mapping
	mark string
}

type plainRow struct {
	report  hashserv.Report
	created time.Time
}

func (p *plain) find(t hashserv.Task) *plainMapping {
	for i := range p.mappings {
		if p.mappings[i].task == t {
			return &p.mappings[i]
		}
	}
	return nil
}

func (p *plain) unihash(t hashserv.Task) hashserv.Mapping {
	if m := p.find(t); m != nil {
		return m.to
	}
	return hashserv.Mapping{}
}

func (p *plain) exists(u hashserv.Unihash) bool {
	return slices.ContainsFunc(p.mappings, func(m plainMapping) bool { return m.to.Unihash == u })
}

// oldest returns the oldest row for which ok is true.
func (p *plain) oldest(ok func(plainRow) bool) *plainRow {
	var rows []plainRow
	for _, r := range p.rows {
		if ok(r) {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	oldest := slices.MinFunc(rows, func(a, b plainRow) int { return a.created.Compare(b.created) }) // the first of equals
	return &oldest
}

func (p *plain) outhash(q hashserv.Query) *hashserv.Row {
	row := p.oldest(func(r plainRow) bool {
		right := r.report.Outhash == q.Outhash
		if q.Outhash == "" {
			right = r.report.Taskhash == q.Taskhash
		}
		return r.report.Method == q.Method && right && (q.Bare || p.find(r.report.Task) != nil)
	})
	if row == nil {
		return nil
	}
	out := &hashserv.Row{Task: row.report.Task, Outhash: row.report.Outhash, Created: row.created, Details: row.report.Details}
	if m := p.find(row.report.Task); m != nil && !(q.Bare && p.differs[OverWire]) {
		out.Unihash, out.Author, out.Mark = m.to.Unihash, m.to.Author, m.mark
	}
	return out
}

func (p *plain) equivalent(t hashserv.Task, to hashserv.Mapping) hashserv.Mapping {
	if p.find(t) == nil {
		p.mappings = append(p.mappings, plainMapping{t, to, p.mark})
	}
	return p.unihash(t)
}

func (p *plain) report(r hashserv.Report, now time.Time) hashserv.Mapping {
	mine := hashserv.Mapping{Unihash: r.Unihash, Author: r.Author}
	known := slices.ContainsFunc(p.rows, func(row plainRow) bool { return row.report.Task == r.Task && row.report.Outhash == r.Outhash })
	if !known {
		p.rows = append(p.rows, plainRow{r, now})
	}
	if !known || p.differs[RemapsDuplicates] {
		to := mine
		if other := p.oldest(func(row plainRow) bool {
			return row.report.Method == r.Method && row.report.Outhash == r.Outhash && row.report.Taskhash != r.Taskhash && p.find(row.report.Task) != nil
		}); other != nil {
			to.Unihash = p.unihash(other.report.Task).Unihash
		}
		p.equivalent(r.Task, to)
	}
	return cmp.Or(p.unihash(r.Task), mine)
}

func (p *plain) remove(w hashserv.Where) (n int64) {
	before := len(p.mappings) + len(p.rows)
	p.mappings = slices.DeleteFunc(p.mappings, func(m plainMapping) bool { return chosen(w, m.columns()) && !p.keep.has(m.to.Unihash) })
	p.rows = slices.DeleteFunc(p.rows, func(r plainRow) bool { return chosen(w, r.columns()) })
	return int64(before - len(p.mappings) - len(p.rows))
}

func (p *plain) cleanUnused(age time.Duration, now time.Time) int64 {
	before := len(p.rows)
	p.rows = slices.DeleteFunc(p.rows, func(r plainRow) bool {
		old := now.Sub(r.created) >= age || p.differs[CleansAnyAge]
		return old && p.find(r.report.Task) == nil
	})
	return int64(before - len(p.rows))
}

func (p *plain) markAll(mark string, w hashserv.Where) (n int64) {
	p.mark = mark
	for i := range p.mappings {
		if chosen(w, p.mappings[i].columns()) {
			p.mappings[i].mark = mark
			n++
		}
	}
	return n
}

func (p *plain) sweep(mark string) (n int64, ok bool) {
	if mark == "" || mark != p.mark {
		return 0, false
	}
	before := len(p.mappings)
	p.mappings = slices.DeleteFunc(p.mappings, func(m plainMapping) bool { return m.mark != mark && !p.keep.has(m.to.Unihash) })
	p.mark = ""
	return int64(before - len(p.mappings)), true
}

func (p *plain) collection() hashserv.Collection {
	c := hashserv.Collection{Mark: p.mark}
	for _, m := range p.mappings {
		if m.mark == p.mark {
			c.Keep++
		} else {
			c.Remove++
		}
	}
	return c
}

func (m plainMapping) columns() map[string]string {
	return map[string]string{"method": m.task.Method, "taskhash": m.task.Taskhash, "unihash": m.to.Unihash.String(), "gc_mark": m.mark}
}

func (r plainRow) columns() map[string]string {
	d := r.report.Details
	return map[string]string{
		"method": r.report.Method, "taskhash": r.report.Taskhash, "outhash": r.report.Outhash,
		"owner": d.Owner, "PN": d.PN, "PV": d.PV, "PR": d.PR, "task": d.Task, "outhash_siginfo": d.Siginfo,
	}
}

func chosen(w hashserv.Where, columns map[string]string) bool {
	usable := 0
	for name, value := range w {
		have, ok := columns[name]
		if ok && have != value {
			return false
		}
		if ok {
			usable++
		}
	}
	return usable > 0
}

// Small alphabets, so that everything collides with everything.
var (
	methods    = []string{"m", "n"}
	taskhashes = []string{"t1", "t2", "t3", "t4"}
	outhashes  = []string{"o1", "o2", "o3"}
	marks      = []string{"A", "B"}
	owners     = []string{"", "ann", "bob"}
)

const unihashCount = 4

// play is one sequence of calls, made to a store and to the model.
type play struct {
	*env
	plain *plain
	rt    *rapid.T
}

// briefly is how many sequences are tried of a store that is Brief.
const briefly = 20

func (s suite) model(t *testing.T) {
	tried := 0
	rapid.Check(t, func(rt *rapid.T) {
		if tried++; s.differs[Brief] && tried > briefly {
			return
		}
		life := &lifetime{TB: t}
		defer life.end()
		p := &play{env: s.env(life), rt: rt}
		p.plain = &plain{differs: s.differs, keep: p.keep}
		rt.Repeat(p.actions())
		p.compareAll()
	})
}

// lifetime is the testing.TB of one sequence: what is to be cleaned up is, when the sequence ends.
type lifetime struct {
	testing.TB
	last []func()
}

func (l *lifetime) Cleanup(do func()) { l.last = append(l.last, do) }

func (l *lifetime) end() {
	for _, do := range slices.Backward(l.last) {
		do()
	}
}

func (p *play) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"report": p.report, "report again": p.report, "read": p.read,
		"wait": func(rt *rapid.T) {
			p.clock.Move(rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Minute, 3 * time.Hour, -time.Hour}).Draw(rt, "wait"))
		},
	}
	if p.differs[OwnClock] {
		delete(actions, "wait")
	}
	if eq, ok := p.store.(hashserv.Equivalents); ok {
		actions["equivalent"] = func(rt *rapid.T) { p.equivalent(rt, eq) }
	}
	k, ok := p.store.(hashserv.Keeper)
	if !ok {
		return actions
	}
	actions["remove"] = func(rt *rapid.T) {
		w := drawWhere(rt)
		p.same("Remove", w)(k.Remove(p.ctx, w))(p.plain.remove(w))
	}
	actions["clean"] = func(rt *rapid.T) {
		age := rapid.SampledFrom([]time.Duration{0, time.Hour, 4 * time.Hour}).Draw(rt, "age")
		p.same("CleanUnused", age)(k.CleanUnused(p.ctx, age))(p.plain.cleanUnused(age, p.clock.Now()))
	}
	actions["mark"] = func(rt *rapid.T) {
		mark, w := rapid.SampledFrom(marks).Draw(rt, "mark"), drawWhere(rt)
		p.same("Mark", mark, w)(k.Mark(p.ctx, mark, w))(p.plain.markAll(mark, w))
	}
	actions["sweep"] = func(rt *rapid.T) { p.sweep(rt, k) }
	if !p.differs[KeepsNothing] {
		actions["publish"] = func(rt *rapid.T) { p.keep.add(drawUnihash(rt)) }
	}
	return actions
}

// same compares the count that maintenance returned.
func (p *play) same(what string, args ...any) func(int64, error) func(int64) {
	return func(got int64, err error) func(int64) {
		return func(want int64) {
			if err != nil || got != want {
				p.rt.Fatalf("%s(%v) = %d, %v; want %d", what, args, got, err, want)
			}
		}
	}
}

func drawTask(rt *rapid.T) hashserv.Task {
	return hashserv.Task{Method: rapid.SampledFrom(methods).Draw(rt, "method"), Taskhash: rapid.SampledFrom(taskhashes).Draw(rt, "taskhash")}
}

func drawUnihash(rt *rapid.T) hashserv.Unihash {
	return U(rapid.ByteRange(1, unihashCount).Draw(rt, "unihash"))
}

// drawWhere draws conditions on some columns, and on some that no table has. A value is never empty but for the mark: an empty detail is
// none to the store, and an empty text to some.
func drawWhere(rt *rapid.T) hashserv.Where {
	w := hashserv.Where{}
	for _, column := range rapid.SliceOfNDistinct(rapid.SampledFrom(append(hashserv.Columns(), "nonsense")), 0, 3, rapid.ID[string]).Draw(rt, "columns") {
		values := map[string][]string{
			"method": methods, "taskhash": taskhashes, "outhash": outhashes, "gc_mark": append([]string{""}, marks...), "owner": owners[1:],
			"unihash": {U(1).String(), U(2).String(), U(3).String(), U(4).String()},
		}[column]
		if values == nil {
			values = []string{"x", "y"}
		}
		w[column] = rapid.SampledFrom(values).Draw(rt, column)
	}
	return w
}

func (p *play) report(rt *rapid.T) {
	r := hashserv.Report{
		Task: drawTask(rt), Outhash: rapid.SampledFrom(outhashes).Draw(rt, "outhash"), Unihash: drawUnihash(rt),
		Author: hashserv.Author(rapid.IntRange(0, 3).Draw(rt, "author")),
	}
	text := rapid.SampledFrom([]string{"", "x", "y"})
	r.Details = hashserv.Details{
		Owner: rapid.SampledFrom(owners).Draw(rt, "owner"), PN: text.Draw(rt, "PN"), PV: text.Draw(rt, "PV"), PR: text.Draw(rt, "PR"),
		Task: text.Draw(rt, "task"), Siginfo: text.Draw(rt, "siginfo"),
	}
	got, err := p.store.Report(p.ctx, r)
	want := p.plain.report(r, p.clock.Now())
	if err != nil || p.carried(got) != p.carried(want) {
		rt.Fatalf("Report(%v) = %v, %v; want %v", r, got, err, want)
	}
	if p.differs[OwnClock] {
		p.clock.Move(time.Second) // as the other clock does
	}
}

// carried is what of a mapping can be compared.
func (p *play) carried(m hashserv.Mapping) hashserv.Mapping {
	if p.differs[NoAuthors] {
		m.Author = 0
	}
	return m
}

func (p *play) equivalent(rt *rapid.T, eq hashserv.Equivalents) {
	t, to := drawTask(rt), hashserv.Mapping{Unihash: drawUnihash(rt), Author: hashserv.Author(rapid.IntRange(0, 3).Draw(rt, "author"))}
	got, err := eq.Equivalent(p.ctx, t, to)
	want := p.plain.equivalent(t, to)
	if err != nil || p.carried(got) != p.carried(want) {
		rt.Fatalf("Equivalent(%v, %v) = %v, %v; want %v", t, to, got, err, want)
	}
}

func (p *play) sweep(rt *rapid.T, k hashserv.Keeper) {
	mark := rapid.SampledFrom(marks).Draw(rt, "mark")
	got, err := k.Sweep(p.ctx, mark)
	want, ok := p.plain.sweep(mark)
	var refused *hashserv.Refusal
	if (err == nil) != ok || (err != nil && !errors.As(err, &refused)) || (ok && got != want) {
		rt.Fatalf("Sweep(%s) = %d, %v; want %d, %v", mark, got, err, want, ok)
	}
}

// read asks for a few things at random; compareAll asks for all.
func (p *play) read(rt *rapid.T) {
	tasks := rapid.SliceOfN(rapid.Custom(drawTask), 0, 5).Draw(rt, "tasks")
	p.compareMappings(tasks)
	p.compareRow(hashserv.Query{
		Method: rapid.SampledFrom(methods).Draw(rt, "method"), Outhash: rapid.SampledFrom(outhashes).Draw(rt, "outhash"),
		Taskhash: rapid.SampledFrom(taskhashes).Draw(rt, "taskhash"), Bare: rapid.Bool().Draw(rt, "bare"),
	})
}

func (p *play) compareAll() {
	var tasks []hashserv.Task
	for _, method := range methods {
		for _, hash := range taskhashes {
			tasks = append(tasks, hashserv.Task{Method: method, Taskhash: hash})
			p.compareRow(hashserv.Query{Method: method, Taskhash: hash})
			if !p.differs[OverWire] {
				p.compareRow(hashserv.Query{Method: method, Taskhash: hash, Bare: true})
			}
		}
		for _, out := range outhashes {
			p.compareRow(hashserv.Query{Method: method, Outhash: out})
			p.compareRow(hashserv.Query{Method: method, Outhash: out, Bare: true})
		}
	}
	p.compareMappings(tasks)
	p.compareUnihashes()
	if k, ok := p.store.(hashserv.Keeper); ok {
		p.compareCounts(k)
	}
}

func (p *play) compareMappings(tasks []hashserv.Task) {
	got := make([]hashserv.Mapping, len(tasks))
	err := p.store.Unihash(p.ctx, tasks, got)
	for i, t := range tasks {
		if want := p.plain.unihash(t); err != nil || p.carried(got[i]) != p.carried(want) {
			p.rt.Fatalf("Unihash(%v) = %v, %v; want %v", t, got[i], err, want)
		}
	}
}

func (p *play) compareUnihashes() {
	var all []hashserv.Unihash
	for n := range byte(unihashCount + 1) {
		all = append(all, U(n)) // the first is none
	}
	got := make([]bool, len(all))
	err := p.store.Exists(p.ctx, all, got)
	for i, u := range all {
		if want := p.plain.exists(u); err != nil || got[i] != want {
			p.rt.Fatalf("Exists(%s) = %v, %v; want %v", u, got[i], err, want)
		}
	}
}

func (p *play) compareRow(q hashserv.Query) {
	got, err := p.store.Outhash(p.ctx, q)
	got, want := p.comparable(got), p.comparable(p.plain.outhash(q))
	if err != nil || (got == nil) != (want == nil) || (got != nil && *got != *want) {
		p.rt.Fatalf("Outhash(%+v) = %+v, %v; want %+v", q, got, err, want)
	}
}

func (p *play) compareCounts(k hashserv.Keeper) {
	c, err := k.Collection(p.ctx)
	if want := p.plain.collection(); err != nil || c != want {
		p.rt.Fatalf("Collection = %+v, %v; want %+v", c, err, want)
	}
	usage, err := k.Usage(p.ctx)
	want := fmt.Sprint(len(p.plain.mappings), len(p.plain.rows))
	if got := fmt.Sprint(usage["unihashes_v3"], usage["outhashes_v2"]); err != nil || got != want {
		p.rt.Fatalf("Usage = %v, %v; want %s", usage, err, want)
	}
}
