package hashtest

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

func nothingKnown(e *env) {
	e.expect(task("t"), 0)
	e.expectExists(U(1), false)
	e.expectExists(hashserv.Unihash{}, false)
	for _, q := range []hashserv.Query{{Method: "m", Outhash: "o"}, {Method: "m", Outhash: "o", Bare: true}, {Method: "m", Taskhash: "t"}} {
		if row := e.row(q); row != nil {
			e.Fatalf("Outhash(%v) = %v", q, row)
		}
	}
}

func writtenOnce(e *env) {
	e.report(report("t", "o", 1), 1)
	e.expect(task("t"), 1)
	e.expectExists(U(1), true)
	e.report(report("t", "o2", 2), 1)
	e.expect(task("t"), 1)
	e.expectExists(U(2), false)
	e.expect(hashserv.Task{Method: "n", Taskhash: "t"}, 0)
	e.expect(task("t2"), 0)
	e.expect(task("T"), 0)
}

func firstOfEqualOutput(e *env) {
	e.report(report("t1", "o", 1), 1)
	e.clock.Move(time.Second)
	e.report(report("t2", "o", 2), 1)
	e.expect(task("t2"), 1)
	e.expectExists(U(2), false)
	other := report("t3", "o", 3)
	other.Method = "n" // another method's output is another output
	e.report(other, 3)
}

func oldestThatIsMapped(e *env) {
	k := e.keeper()
	for n, hash := range []string{"t1", "t2"} {
		e.report(report(hash, hash+"-own", byte(n+1)), byte(n+1))
		e.clock.Move(time.Second)
	}
	e.report(report("t2", "o", 9), 2)
	e.clock.Move(time.Second)
	e.report(report("t1", "o", 9), 1)
	e.clock.Move(time.Second)
	e.report(report("t3", "o", 3), 2) // t2 had the output first
	e.count(k.Remove(e.ctx, hashserv.Where{"unihash": U(2).String()}))(2)
	e.report(report("t4", "o", 4), 1) // the rows of t2 and t3 are there, but mapped to nothing
}

func secondOutputOfTask(e *env) {
	e.report(report("t1", "o1", 1), 1)
	e.report(report("t1", "o2", 2), 1)
	e.clock.Move(time.Second)
	e.report(report("t2", "o2", 3), 1)
	if row := e.row(hashserv.Query{Method: "m", Outhash: "o2"}); row == nil || row.Taskhash != "t1" {
		e.Fatalf("row of the second output: %v", row)
	}
}

// reportedAgain: a row that is there already maps nothing, though its mapping is gone.
func reportedAgain(e *env) {
	e.report(report("t", "o", 1), 1)
	e.report(report("t", "o", 2), 1)
	k := e.keeper()
	e.count(k.Remove(e.ctx, hashserv.Where{"unihash": U(1).String()}))(1)
	e.report(report("t", "o", 2), 2) // one's own unihash
	if e.differs[RemapsDuplicates] {
		return
	}
	e.expect(task("t"), 0)
	e.report(report("t", "o3", 3), 3)
	e.expect(task("t"), 3)
}

func noUnihash(e *env) {
	_, err := e.store.Report(e.ctx, report("t", "o", 0))
	e.refusal(err, "Invalid unihash")
	if row := e.row(hashserv.Query{Method: "m", Outhash: "o", Bare: true}); row != nil {
		e.Fatalf("refused, and yet there is %v", row)
	}
	if eq, ok := e.store.(hashserv.Equivalents); ok {
		_, err := eq.Equivalent(e.ctx, task("t"), hashserv.Mapping{})
		e.refusal(err, "Invalid unihash")
	}
	e.expect(task("t"), 0)
}

func rowsWhole(e *env) {
	r := report("t", "o", 1)
	r.Author = 7
	r.Details = hashserv.Details{Owner: "ann", PN: "zlib", PV: "1.3+git", PR: "r0", Task: "do_compile", Siginfo: "line\n\tline \"quoted\" \\ ü\n"}
	created := e.clock.Now()
	e.report(r, 1)
	e.clock.Move(time.Hour)
	want := &hashserv.Row{Task: r.Task, Outhash: "o", Created: created, Unihash: U(1), Author: 7, Details: r.Details}
	for _, q := range []hashserv.Query{{Method: "m", Outhash: "o"}, {Method: "m", Outhash: "o", Taskhash: "another"}, {Method: "m", Taskhash: "t"}} {
		got := e.row(q)
		if got == nil {
			e.Fatalf("Outhash(%v): no row", q)
		}
		e.equal(e.comparable(got), e.comparable(want))
	}
}

// comparable returns a copy without what cannot be foreseen or is not carried.
func (e *env) comparable(row *hashserv.Row) *hashserv.Row {
	if row == nil {
		return nil
	}
	out := *row
	out.ID = 0
	if e.differs[NoAuthors] {
		out.Author = 0
	}
	if e.differs[OwnClock] {
		out.Created = time.Time{}
	} else {
		out.Created = out.Created.UTC()
	}
	return &out
}

func rowsOldest(e *env) {
	e.report(report("t1", "o1", 1), 1)
	e.clock.Move(time.Second)
	e.report(report("t1", "o2", 1), 1)
	e.report(report("t2", "o2", 2), 1) // of the same moment, and later
	oldest := func(q hashserv.Query, taskhash, outhash string) {
		e.Helper()
		if row := e.row(q); row == nil || row.Taskhash != taskhash || row.Outhash != outhash {
			e.Fatalf("Outhash(%v) = %v, want the row of %s and %s", q, row, taskhash, outhash)
		}
	}
	oldest(hashserv.Query{Method: "m", Taskhash: "t1"}, "t1", "o1")
	oldest(hashserv.Query{Method: "m", Outhash: "o2"}, "t1", "o2")
	if e.differs[OwnClock] {
		return
	}
	e.clock.Move(-time.Hour)
	e.report(report("t3", "o2", 3), 1)
	e.report(report("t1", "o3", 3), 1)
	oldest(hashserv.Query{Method: "m", Outhash: "o2"}, "t3", "o2") // the age is what the clock said, also when it was wrong
	oldest(hashserv.Query{Method: "m", Taskhash: "t1"}, "t1", "o3")
}

func rowsBare(e *env) {
	k := e.keeper()
	e.report(report("t1", "o", 1), 1)
	e.clock.Move(time.Second)
	e.report(report("t2", "o2", 2), 2)
	e.report(report("t2", "o", 2), 2)
	e.count(k.Remove(e.ctx, hashserv.Where{"unihash": U(1).String()}))(1)
	if row := e.row(hashserv.Query{Method: "m", Outhash: "o"}); row == nil || row.Taskhash != "t2" || row.Unihash != U(2) {
		e.Fatalf("the oldest that is mapped: %v", row)
	}
	if row := e.row(hashserv.Query{Method: "m", Outhash: "o", Bare: true}); row == nil || row.Taskhash != "t1" || row.Unihash != U(0) {
		e.Fatalf("the oldest: %v", row)
	}
	if row := e.row(hashserv.Query{Method: "m", Taskhash: "t1"}); row != nil {
		e.Fatalf("t1 is mapped to nothing, and yet there is %v", row)
	}
	if e.differs[OverWire] {
		return
	}
	if row := e.row(hashserv.Query{Method: "m", Taskhash: "t1", Bare: true}); row == nil || row.Outhash != "o" {
		e.Fatalf("the row of t1: %v", row)
	}
	if row := e.row(hashserv.Query{Method: "m", Outhash: "o2", Bare: true}); row == nil || row.Unihash != U(2) {
		e.Fatalf("a bare row has its mapping, if there is one: %v", row)
	}
}

// freeText: hashes are text, and nothing in them means anything.
func freeText(e *env) {
	texts := []string{"'", "';drop/**/table--", `"`, `\`, "%", "_", "?1", "ü", "\U0001F600", "{}", "null", "END", "ok", strings.Repeat("x", 1000)}
	for i, text := range texts {
		r := hashserv.Report{Task: hashserv.Task{Method: "m" + text, Taskhash: "t" + text}, Outhash: "o" + text, Unihash: U(byte(i + 1))}
		r.Siginfo = siginfo(i, text)
		e.report(r, byte(i+1))
	}
	for i, text := range texts {
		e.expect(hashserv.Task{Method: "m" + text, Taskhash: "t" + text}, byte(i+1))
		row := e.row(hashserv.Query{Method: "m" + text, Outhash: "o" + text})
		if row == nil || e.blanks(row.Siginfo) != e.blanks(siginfo(i, text)) {
			e.Fatalf("the row of %q is not what was reported", text)
		}
	}
}

// blanks returns what of a long text can be compared.
func (e *env) blanks(text string) string {
	if e.differs[LosesBlanks] {
		return strings.ReplaceAll(text, " ", "")
	}
	return text
}

// siginfo is for some texts longer than a line of the protocol.
func siginfo(i int, text string) string {
	size := 100
	if i%4 == 0 {
		size = 60_000
	}
	return strings.Repeat(text+" \n", 1+size/len(text))
}

// authors: the author of a mapping is who reported the task first, also when the unihash was another's.
func authors(e *env) {
	if e.differs[NoAuthors] {
		e.Skip("the store does not tell authors")
	}
	of := func(r hashserv.Report, a hashserv.Author) hashserv.Report { r.Author = a; return r }
	for _, tc := range []struct {
		r    hashserv.Report
		want hashserv.Mapping
	}{
		{of(report("t1", "o", 1), 7), hashserv.Mapping{Unihash: U(1), Author: 7}},
		{of(report("t1", "o", 1), 8), hashserv.Mapping{Unihash: U(1), Author: 7}},
		{of(report("t1", "o2", 2), 8), hashserv.Mapping{Unihash: U(1), Author: 7}},
		{of(report("t2", "o", 2), 8), hashserv.Mapping{Unihash: U(1), Author: 8}},
		{of(report("t3", "o3", 3), 1<<64-1), hashserv.Mapping{Unihash: U(3), Author: 1<<64 - 1}},
	} {
		got, err := e.store.Report(e.ctx, tc.r)
		if err != nil || got != tc.want {
			e.Fatalf("Report(%v) = %v, %v", tc.r, got, err)
		}
		e.equal(e.mapped(tc.r.Task), tc.want)
	}
}

func batches(e *env) {
	const n = 3000
	var tasks []hashserv.Task
	var want []hashserv.Mapping
	var unihashes []hashserv.Unihash
	var exist []bool
	for i := range n {
		tasks = append(tasks, task(numbered("t", i)))
		unihashes = append(unihashes, hashserv.Unihash{0: 1, 30: byte(i >> 8), 31: byte(i)})
		want, exist = append(want, hashserv.Mapping{}), append(exist, i%7 == 0)
		if exist[i] {
			want[i].Unihash = unihashes[i]
			r := hashserv.Report{Task: tasks[i], Outhash: numbered("o", i), Unihash: unihashes[i]}
			if got, err := e.store.Report(e.ctx, r); err != nil || got != want[i] {
				e.Fatalf("Report(%v) = %v, %v", r, got, err)
			}
		}
	}
	tasks, want = append(tasks, tasks[0], tasks[0]), append(want, want[0], want[0]) // the same twice
	answers, there := make([]hashserv.Mapping, len(tasks)), make([]bool, n)
	for i := range answers {
		answers[i] = hashserv.Mapping{Unihash: U(9), Author: 9} // to be overwritten
	}
	for i := range there {
		there[i] = true
	}
	if err := e.store.Unihash(e.ctx, tasks, answers); err != nil {
		e.Fatal(err)
	}
	if !slices.Equal(answers, want) {
		e.equal(answers, want)
	}
	if err := e.store.Exists(e.ctx, unihashes, there); err != nil {
		e.Fatal(err)
	}
	if !slices.Equal(there, exist) {
		e.equal(there, exist)
	}
	if err := errorsOf(e.store.Unihash(e.ctx, nil, nil), e.store.Exists(e.ctx, nil, nil)); err != nil {
		e.Fatalf("empty batches: %v", err)
	}
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

const racers = 16

// race runs do in many goroutines at once and waits for all.
func race(do func(n int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for n := range racers {
		all.Go(func() {
			<-start
			do(n)
		})
	}
	close(start)
	all.Wait()
}

// agree checks that everybody was told the same, and that it is so.
func (e *env) agree(t hashserv.Task, told []hashserv.Unihash) {
	e.Helper()
	now := e.mapped(t).Unihash
	if now == U(0) {
		e.Fatalf("%v is mapped to nothing after %d reports", t, len(told))
	}
	for i, u := range told {
		if u != now {
			e.Fatalf("racer %d was told %q, and %v is mapped to %q", i, u, t, now)
		}
	}
}

// racingReports: all who report a task at once get one answer; so do those who report different tasks with one output.
func racingReports(e *env) {
	for round := range 20 {
		same, equal := task(numbered("same", round)), numbered("equal", round)
		told, first := make([]hashserv.Unihash, racers), make([]hashserv.Unihash, racers)
		race(func(n int) {
			r := hashserv.Report{Task: same, Outhash: numbered("o", round*racers+n), Unihash: hashserv.Unihash{0: 1, 1: byte(round), 31: byte(n)}}
			m, err := e.store.Report(e.ctx, r)
			if err != nil {
				e.Errorf("Report: %v", err)
			}
			told[n] = m.Unihash
			r.Task, r.Outhash = task(numbered(equal, n)), equal
			if m, err = e.store.Report(e.ctx, r); err != nil {
				e.Errorf("Report: %v", err)
			}
			first[n] = m.Unihash
		})
		e.agree(same, told)
		for n := range racers {
			e.agree(task(numbered(equal, n)), first)
		}
	}
}

// racingBatches: what was answered once is answered ever after, whoever asks.
func racingBatches(e *env) {
	const n = 32
	tasks := make([]hashserv.Task, n)
	for i := range tasks {
		tasks[i] = task(numbered("t", i))
	}
	var mu sync.Mutex
	seen := make([]hashserv.Unihash, n)
	saw := func(i int, u hashserv.Unihash) {
		mu.Lock()
		defer mu.Unlock()
		if u != U(0) && seen[i] == U(0) {
			seen[i] = u
		}
		if u != U(0) && seen[i] != u {
			e.Errorf("%v was mapped to %s, and now to %s", tasks[i], seen[i], u)
		}
	}
	race(func(racer int) {
		answers := make([]hashserv.Mapping, n)
		for i, t := range tasks {
			m, err := e.store.Report(e.ctx, hashserv.Report{Task: t, Outhash: numbered("o", i*racers+racer), Unihash: hashserv.Unihash{0: 1, 30: byte(i), 31: byte(racer)}})
			if err != nil {
				e.Errorf("Report: %v", err)
				return
			}
			saw(i, m.Unihash)
			if i%8 != 0 {
				continue
			}
			if err := e.store.Unihash(e.ctx, tasks, answers); err != nil {
				e.Errorf("Unihash: %v", err)
				return
			}
			for j, a := range answers {
				saw(j, a.Unihash)
			}
		}
	})
}

func equivalents(e *env) {
	eq := e.equivalents()
	got, err := eq.Equivalent(e.ctx, task("t"), hashserv.Mapping{Unihash: U(1), Author: 7})
	if err != nil || got.Unihash != U(1) {
		e.Fatalf("Equivalent = %v, %v", got, err)
	}
	if got, err = eq.Equivalent(e.ctx, task("t"), hashserv.Mapping{Unihash: U(2), Author: 8}); err != nil || got.Unihash != U(1) {
		e.Fatalf("Equivalent of what is mapped = %v, %v", got, err)
	}
	if !e.differs[NoAuthors] && got.Author != 7 {
		e.Fatalf("the author is %d", got.Author)
	}
	e.expect(task("t"), 1)
	e.expectExists(U(1), true)
	if row := e.row(hashserv.Query{Method: "m", Taskhash: "t"}); row != nil {
		e.Fatalf("a mapping without output made %v", row)
	}
	e.report(report("t", "o", 3), 1)
	e.report(report("t2", "o", 3), 1)
}

func racingEquivalents(e *env) {
	eq := e.equivalents()
	for round := range 20 {
		t := task(numbered("t", round))
		told := make([]hashserv.Unihash, racers)
		race(func(n int) {
			u := hashserv.Unihash{0: 1, 1: byte(round), 31: byte(n)}
			var m hashserv.Mapping
			var err error
			if n%2 == 0 {
				m, err = eq.Equivalent(e.ctx, t, hashserv.Mapping{Unihash: u})
			} else {
				m, err = e.store.Report(e.ctx, hashserv.Report{Task: t, Outhash: numbered("o", round*racers+n), Unihash: u})
			}
			if err != nil {
				e.Errorf("racer %d: %v", n, err)
			}
			told[n] = m.Unihash
		})
		e.agree(t, told)
	}
}
