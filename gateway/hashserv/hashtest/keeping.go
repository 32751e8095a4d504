package hashtest

import (
	"sync"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

func remove(e *env) {
	k := e.keeper()
	fill := func() {
		e.Helper()
		for n, hash := range []string{"t1", "t2", "t3"} {
			r := report(hash, "o-"+hash, byte(n+1))
			r.Details = hashserv.Details{Owner: "ann", PN: "zlib", PV: "1.3", PR: "r0", Task: "do_" + hash, Siginfo: "info of " + hash}
			e.report(r, byte(n+1))
		}
	}
	for _, tc := range []struct {
		where hashserv.Where
		count int64
		left  []byte // what t1, t2 and t3 are mapped to
		rows  int    // of the three
	}{
		{hashserv.Where{"method": "m"}, 6, []byte{0, 0, 0}, 0},
		{hashserv.Where{"taskhash": "t1"}, 2, []byte{0, 2, 3}, 2},
		{hashserv.Where{"unihash": U(1).String()}, 1, []byte{0, 2, 3}, 3},
		{hashserv.Where{"outhash": "o-t1"}, 1, []byte{1, 2, 3}, 2},
		{hashserv.Where{"owner": "ann"}, 3, []byte{1, 2, 3}, 0},
		{hashserv.Where{"PN": "zlib", "PV": "1.3", "PR": "r0", "task": "do_t2"}, 1, []byte{1, 2, 3}, 2},
		{hashserv.Where{"outhash_siginfo": "info of t3"}, 1, []byte{1, 2, 3}, 2},
		{hashserv.Where{"taskhash": "t1", "PN": "zlib"}, 2, []byte{0, 2, 3}, 2},
		{hashserv.Where{"taskhash": "t1", "PN": "curl"}, 1, []byte{0, 2, 3}, 3}, // each table has its own conditions
		{hashserv.Where{"taskhash": "t1", "unihash": U(2).String()}, 1, []byte{1, 2, 3}, 2},
		{hashserv.Where{"method": "m", "unihash": U(2).String()}, 4, []byte{1, 0, 3}, 0},
		{hashserv.Where{"taskhash": "T1"}, 0, []byte{1, 2, 3}, 3},
	} {
		e.count(k.Remove(e.ctx, hashserv.Where{"method": "m"}))
		fill()
		e.count(k.Remove(e.ctx, tc.where))(tc.count)
		rows := 0
		for i, hash := range []string{"t1", "t2", "t3"} {
			e.expect(task(hash), tc.left[i])
			e.expectExists(U(byte(i+1)), tc.left[i] != 0)
			if e.row(hashserv.Query{Method: "m", Outhash: "o-" + hash, Bare: true}) != nil {
				rows++
			}
		}
		if rows != tc.rows {
			e.Fatalf("Remove(%v) left %d rows, want %d", tc.where, rows, tc.rows)
		}
	}
}

func removeUnusable(e *env) {
	k := e.keeper()
	e.report(report("t", "o", 1), 1)
	for _, w := range []hashserv.Where{
		nil, {}, {"nonsense": "t"}, {"Method": "m"}, {"method ": "m"}, {"1=1; --": "1"}, {"rowid": "1"}, {"method": "%"}, {"method": ""}, {"method": "' OR 1=1 --"},
	} {
		e.count(k.Remove(e.ctx, w))(0)
		e.count(k.Mark(e.ctx, "mark", w))(0)
	}
	e.expect(task("t"), 1)
	e.count(k.Remove(e.ctx, hashserv.Where{"nonsense": "x", "taskhash": "t"}))(2)
}

func cleanUnused(e *env) {
	k := e.keeper()
	for n, hash := range []string{"t1", "t2", "t3", "t4"} { // an hour apart
		e.report(report(hash, "o-"+hash, byte(n+1)), byte(n+1))
		e.clock.Move(time.Hour)
	}
	e.count(k.CleanUnused(e.ctx, 0))(0)
	for _, n := range []byte{1, 2, 4} {
		e.count(k.Remove(e.ctx, hashserv.Where{"unihash": U(n).String()}))(1)
	}
	if !e.differs[CleansAnyAge] {
		e.count(k.CleanUnused(e.ctx, 5*time.Hour))(0)
		e.count(k.CleanUnused(e.ctx, 3*time.Hour+time.Minute))(1)
		if e.row(hashserv.Query{Method: "m", Outhash: "o-t1", Bare: true}) != nil || e.row(hashserv.Query{Method: "m", Outhash: "o-t2", Bare: true}) == nil {
			e.Fatal("not the oldest was cleaned")
		}
		e.count(k.CleanUnused(e.ctx, 0))(2)
	} else {
		e.count(k.CleanUnused(e.ctx, 0))(3)
	}
	if e.row(hashserv.Query{Method: "m", Outhash: "o-t3", Bare: true}) == nil {
		e.Fatal("a row that is used was cleaned")
	}
	e.expect(task("t3"), 3)
	e.report(report("t9", "fresh", 9), 9)
	e.count(k.Remove(e.ctx, hashserv.Where{"unihash": U(9).String()}))(1)
	e.count(k.CleanUnused(e.ctx, 0))(1) // age 0 is everything, also what is of this moment
}

func (e *env) expectCollection(k hashserv.Keeper, want hashserv.Collection) {
	e.Helper()
	got, err := k.Collection(e.ctx)
	if err != nil || got != want {
		e.Fatalf("Collection = %+v, %v; want %+v", got, err, want)
	}
}

func collection(e *env) {
	k := e.keeper()
	for n, hash := range []string{"t1", "t2", "t3", "t4"} {
		e.report(report(hash, "o-"+hash, byte(n+1)), byte(n+1))
	}
	e.expectCollection(k, hashserv.Collection{Keep: 4})
	e.count(k.Mark(e.ctx, "A", hashserv.Where{"unihash": U(1).String()}))(1)
	e.expectCollection(k, hashserv.Collection{Keep: 1, Remove: 3, Mark: "A"})
	e.count(k.Mark(e.ctx, "A", hashserv.Where{"unihash": U(1).String()}))(1) // again
	e.count(k.Mark(e.ctx, "A", hashserv.Where{"taskhash": "t2", "outhash": "not of a mapping", "PN": "neither"}))(1)
	e.report(report("t5", "o-t5", 5), 5) // has the current mark
	e.expectCollection(k, hashserv.Collection{Keep: 3, Remove: 2, Mark: "A"})
	if row := e.row(hashserv.Query{Method: "m", Taskhash: "t5"}); row == nil || row.Mark != "A" {
		e.Fatalf("row of a new mapping: %v", row)
	}
	e.count(k.Mark(e.ctx, "B", hashserv.Where{"gc_mark": "A"}))(3) // another mark starts over
	e.count(k.Mark(e.ctx, "C", hashserv.Where{"gc_mark": ""}))(2)
	e.expectCollection(k, hashserv.Collection{Keep: 2, Remove: 3, Mark: "C"})
	e.count(k.Sweep(e.ctx, "C"))(3)
	e.expectCollection(k, hashserv.Collection{Keep: 0, Remove: 2}) // they keep the text of their mark
	for n, want := range []byte{0, 0, 3, 4, 0} {
		e.expect(task(numberedTask(n)), want)
		e.expectExists(U(byte(n+1)), want != 0)
	}
	usage, err := k.Usage(e.ctx)
	if err != nil || usage["unihashes_v3"] != 2 || usage["outhashes_v2"] != 5 {
		e.Fatalf("Usage = %v, %v", usage, err)
	}
	e.report(report("t9", "o-t9", 9), 9)
	e.expectCollection(k, hashserv.Collection{Keep: 1, Remove: 2})
}

func numberedTask(n int) string { return []string{"t1", "t2", "t3", "t4", "t5"}[n] }

func sweepRefused(e *env) {
	k := e.keeper()
	e.report(report("t", "o", 1), 1)
	refused := func(mark string) {
		e.Helper()
		_, err := k.Sweep(e.ctx, mark)
		e.refusal(err, "'"+mark+"' is not the current mark. Refusing to sweep")
		e.expect(task("t"), 1)
	}
	refused("A")
	e.count(k.Mark(e.ctx, "A", nil))(0)
	refused("B")
	if !e.differs[OverWire] { // which carries no empty mark
		refused("")
		e.count(k.Mark(e.ctx, "", nil))(0)
		refused("A")
		refused("")
	}
	e.count(k.Mark(e.ctx, "A", nil))(0)
	e.count(k.Sweep(e.ctx, "A"))(1)
	if _, err := k.Sweep(e.ctx, "A"); err == nil {
		e.Fatal("swept twice")
	}
}

// kept: a mapping whose artifact exists stays, whatever is removed.
func kept(e *env) {
	k := e.keeper()
	if e.differs[KeepsNothing] {
		e.Skip("the store keeps nothing")
	}
	e.report(report("t1", "o1", 1), 1)
	e.report(report("t2", "o2", 2), 2)
	e.keep.add(U(1))
	e.count(k.Remove(e.ctx, hashserv.Where{"method": "m"}))(3) // t2's mapping and both rows
	e.expect(task("t1"), 1)
	e.expectExists(U(1), true)
	e.expect(task("t2"), 0)
	e.report(report("t2", "o2", 2), 2)
	e.count(k.Mark(e.ctx, "A", nil))(0)
	e.count(k.Sweep(e.ctx, "A"))(1)
	e.expect(task("t1"), 1)
	e.expect(task("t2"), 0)
}

// maintainedWhileUsed: who reports while old mappings are swept gets what stays.
func maintainedWhileUsed(e *env) {
	k := e.keeper()
	for n := range 200 {
		r := hashserv.Report{Task: task(numbered("old", n)), Outhash: numbered("oo", n), Unihash: hashserv.Unihash{0: 1, 31: byte(n)}}
		if _, err := e.store.Report(e.ctx, r); err != nil {
			e.Fatal(err)
		}
	}
	e.count(k.Mark(e.ctx, "A", nil))(0)
	var all sync.WaitGroup
	told := make([]hashserv.Unihash, 200)
	all.Go(func() {
		for n := range told {
			m, err := e.store.Report(e.ctx, hashserv.Report{Task: task(numbered("new", n)), Outhash: numbered("on", n), Unihash: hashserv.Unihash{0: 2, 31: byte(n)}})
			if err != nil {
				e.Errorf("Report: %v", err)
			}
			told[n] = m.Unihash
		}
	})
	swept, err := k.Sweep(e.ctx, "A")
	all.Wait()
	e.count(swept, err)(200)
	for n, u := range told {
		e.agree(task(numbered("new", n)), []hashserv.Unihash{u})
	}
}
