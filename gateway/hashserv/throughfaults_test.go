package hashserv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

// clUpstream is an upstream whose faults a test chooses. It counts what it is asked.
type clUpstream struct {
	*hashserv.Memory

	mu     sync.Mutex
	before func(ctx context.Context) error // called before each command; nil for an upstream that works
	asked  map[string]int
}

func clNewUpstream() *clUpstream {
	return &clUpstream{Memory: hashserv.NewMemory(hashserv.MemoryConfig{}), asked: map[string]int{}}
}

func (u *clUpstream) begin(ctx context.Context, what string, n int) error {
	u.mu.Lock()
	u.asked[what] += n
	before := u.before
	u.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx)
}

func (u *clUpstream) fault(before func(context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.before = before
}

func (u *clUpstream) count(what string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[what]
}

func (u *clUpstream) Unihash(ctx context.Context, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	if err := u.begin(ctx, "unihash", len(tasks)); err != nil {
		return err
	}
	return u.Memory.Unihash(ctx, tasks, answers)
}

func (u *clUpstream) Exists(ctx context.Context, unihashes []hashserv.Unihash, answers []bool) error {
	if err := u.begin(ctx, "exists", len(unihashes)); err != nil {
		return err
	}
	return u.Memory.Exists(ctx, unihashes, answers)
}

func (u *clUpstream) Outhash(ctx context.Context, q hashserv.Query) (*hashserv.Row, error) {
	if err := u.begin(ctx, "outhash", 1); err != nil {
		return nil, err
	}
	return u.Memory.Outhash(ctx, q)
}

func (u *clUpstream) Report(ctx context.Context, r hashserv.Report) (hashserv.Mapping, error) {
	if err := u.begin(ctx, "report", 1); err != nil {
		return hashserv.Mapping{}, err
	}
	return u.Memory.Report(ctx, r)
}

func (u *clUpstream) Equivalent(ctx context.Context, t hashserv.Task, m hashserv.Mapping) (hashserv.Mapping, error) {
	if err := u.begin(ctx, "equivalent", 1); err != nil {
		return hashserv.Mapping{}, err
	}
	return u.Memory.Equivalent(ctx, t, m)
}

// clThrough is a proxy in front of an upstream with faults, in a bubble of simulated time.
type clThrough struct {
	*testing.T
	*hashserv.Proxy
	up   *clUpstream
	held *hashserv.Memory
	lost []bool // what State was told
}

func clBubble(t *testing.T, test func(c *clThrough)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &clThrough{T: t, up: clNewUpstream(), held: hashserv.NewMemory(hashserv.MemoryConfig{})}
		c.Proxy = hashserv.Through(c.held, c.up, hashserv.ThroughConfig{State: func(err error) { c.lost = append(c.lost, err != nil) }})
		test(c)
		synctest.Wait()
	})
}

// teach tells the upstream of a task, behind the proxy's back.
func (c *clThrough) teach(n int, u byte) {
	c.Helper()
	r := hashserv.Report{Task: clTask(n), Outhash: fmt.Sprint("o", n), Unihash: hashtest.U(u)}
	if _, err := c.up.Memory.Report(c.Context(), r); err != nil {
		c.Fatal(err)
	}
}

// expect looks a task up; 0 is nothing.
func (c *clThrough) expect(n int, want byte) {
	c.Helper()
	c.quietly(n, want)
	synctest.Wait() // what was learnt is held
}

// quietly is expect for many at once.
func (c *clThrough) quietly(n int, want byte) {
	c.Helper()
	if got, err := clLookup(c.Context(), c.Proxy, n); err != nil || got != hashtest.U(want) {
		c.Errorf("task %d = %q, %v; want %q", n, got, err, hashtest.U(want))
	}
}

func (c *clThrough) expectExists(u byte, want bool) {
	c.Helper()
	answers := []bool{!want}
	if err := c.Exists(c.Context(), []hashserv.Unihash{hashtest.U(u)}, answers); err != nil || answers[0] != want {
		c.Errorf("unihash %d exists: %v, %v", u, answers[0], err)
	}
}

// expectRow looks for a row of an outhash, and returns it.
func (c *clThrough) expectRow(outhash string, want bool) *hashserv.Row {
	c.Helper()
	row, err := c.Outhash(c.Context(), hashserv.Query{Method: "m", Outhash: outhash})
	if err != nil || (row != nil) != want {
		c.Errorf("Outhash(%s) = %v, %v", outhash, row, err)
	}
	if row == nil {
		return &hashserv.Row{}
	}
	return row
}

// expectHeld looks at what is held.
func (c *clThrough) expectHeld(n int, want byte) {
	c.Helper()
	if got, err := clLookup(c.Context(), c.held, n); err != nil || got != hashtest.U(want) {
		c.Errorf("held of task %d: %q, %v; want %q", n, got, err, hashtest.U(want))
	}
}

var errAway = fmt.Errorf("%w: connection refused", hashserv.ErrUnavailable)

func clHang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestThroughAsksOnce: what is held is not asked for again, and what is nothing not within a while.
func TestThroughAsksOnce(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.teach(1, 1)
		for range 3 {
			c.expect(1, 1)
			c.expect(2, 0)
			c.expectExists(1, true)
			c.expectExists(2, false)
			c.expectRow("nothing", false)
		}
		for what, want := range map[string]int{"unihash": 2, "exists": 1, "outhash": 1} {
			if n := c.up.count(what); n != want {
				c.Errorf("%s was asked %d times, want %d", what, n, want)
			}
		}
		c.teach(2, 2)
		c.expect(2, 0)
		time.Sleep(5 * time.Second)
		c.expect(2, 2)
		c.expectExists(2, true)
		time.Sleep(24 * time.Hour)
		c.expect(1, 1)
		if n := c.up.count("unihash"); n != 3 {
			c.Errorf("the upstream was asked %d times", n)
		}
	})
}

// TestThroughOneFlight: many who want the same wait for one question, also when the one who asked first has left.
func TestThroughOneFlight(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.teach(1, 1)
		open := make(chan struct{})
		c.up.fault(func(ctx context.Context) error {
			select {
			case <-open:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, leave := context.WithCancel(c.Context())
		first := make(chan error, 1)
		go func() { _, err := clLookup(ctx, c.Proxy, 1); first <- err }()
		synctest.Wait()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { c.quietly(1, 1) })
		}
		synctest.Wait()
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			c.Errorf("who left: %v", err)
		}
		close(open)
		all.Wait()
		if n := c.up.count("unihash"); n != 1 {
			c.Errorf("the upstream was asked %d times", n)
		}
	})
}

// TestThroughLost: an upstream that fails in any way is lost: lookups are answered with what is held, writes are not done. It is found again.
func TestThroughLost(t *testing.T) {
	refusal := &hashserv.Refusal{Message: "Anonymous user is not allowed to access permissions(s) @read"}
	for name, fault := range map[string]func(context.Context) error{
		"away":    func(context.Context) error { return errAway },
		"refuses": func(context.Context) error { return refusal },
		"hangs":   clHang,
		"broken":  func(context.Context) error { return errors.New("disk on fire") },
	} {
		t.Run(name, func(t *testing.T) { clBubble(t, func(c *clThrough) { c.loseAndFind(fault) }) })
	}
}

func (c *clThrough) loseAndFind(fault func(context.Context) error) {
	c.teach(1, 1)
	c.teach(2, 2)
	c.expect(1, 1)
	before := c.up.count("unihash")
	c.up.fault(fault)
	for range 100 {
		c.expect(1, 1)
		c.expect(2, 0)
		c.expectExists(1, true)
		c.expectExists(2, false)
		c.expectRow("o2", false)
	}
	if n := c.up.count("unihash") + c.up.count("exists") + c.up.count("outhash") - before; n > 3 {
		c.Errorf("the lost upstream was asked %d times in no time", n)
	}
	report := hashserv.Report{Task: clTask(3), Outhash: "o3", Unihash: hashtest.U(3)}
	_, err := c.Report(c.Context(), report)
	clLost(c, "a report", err)
	_, err = c.Equivalent(c.Context(), report.Task, hashserv.Mapping{Unihash: report.Unihash})
	clLost(c, "an equivalent", err)
	c.up.fault(nil)
	time.Sleep(time.Minute)
	c.expect(2, 2)
	if !slices.Equal(c.lost, []bool{true, false}) {
		c.Errorf("State was told %v", c.lost)
	}
	if m, err := c.Report(c.Context(), report); err != nil || m.Unihash != hashtest.U(3) {
		c.Errorf("Report = %v, %v", m, err)
	}
}

// TestThroughLostForLong: a lost upstream is asked now and then, by one at a time, and a build does not wait for it.
func TestThroughLostForLong(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.up.fault(clHang)
		begin := time.Now()
		var all sync.WaitGroup
		var lookups atomic.Int64
		for builder := range 4 {
			all.Go(func() {
				for n := 0; time.Since(begin) < 10*time.Minute; n++ {
					c.quietly(4*n+builder, 0)
					lookups.Add(1)
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		all.Wait()
		if n := lookups.Load(); n < 25_000 {
			c.Errorf("%d lookups in ten minutes", n)
		}
		if n := c.up.count("unihash"); n < 10 || n > 40 {
			c.Errorf("the lost upstream was asked %d times in ten minutes", n)
		}
		if !slices.Equal(c.lost, []bool{true}) {
			c.Errorf("State was told %v", c.lost)
		}
	})
}

// TestThroughReportHangs: a report to an upstream that says nothing fails while BitBake still waits.
func TestThroughReportHangs(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.up.fault(clHang)
		begin := time.Now()
		_, err := c.Report(c.Context(), hashserv.Report{Task: clTask(1), Outhash: "o", Unihash: hashtest.U(1)})
		clLost(c, "a report", err)
		if d := time.Since(begin); d != 5*time.Second {
			c.Errorf("it failed after %s", d)
		}
	})
}

// TestThroughManyFail: that many questions fail at once is one failure, after which the pause is the shortest.
func TestThroughManyFail(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.up.fault(func(context.Context) error { time.Sleep(time.Second); return errAway })
		var all sync.WaitGroup
		for n := range 100 {
			all.Go(func() { c.quietly(n, 0) })
		}
		all.Wait()
		c.up.fault(nil)
		c.teach(1, 1)
		time.Sleep(1100 * time.Millisecond)
		c.expect(1, 1)
	})
}

// TestThroughHoldsWhatItSaid: what was answered stays, whatever the upstream says later.
func TestThroughHoldsWhatItSaid(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.teach(1, 1)
		c.expect(1, 1)
		if _, err := c.up.Memory.Remove(c.Context(), hashserv.Where{"method": "m"}); err != nil {
			c.Fatal(err)
		}
		c.teach(1, 2)
		c.expect(1, 1)
		m, err := c.Report(c.Context(), hashserv.Report{Task: clTask(1), Outhash: "another", Unihash: hashtest.U(2), Author: 5})
		if err != nil || m != (hashserv.Mapping{Unihash: hashtest.U(1)}) {
			c.Errorf("Report = %v, %v", m, err)
		}
		if m, err = c.Equivalent(c.Context(), clTask(1), hashserv.Mapping{Unihash: hashtest.U(3)}); err != nil || m.Unihash != hashtest.U(1) {
			c.Errorf("Equivalent = %v, %v", m, err)
		}
		if row := c.expectRow("o1", true); row.Unihash != hashtest.U(1) {
			c.Errorf("Outhash = %v", row)
		}
	})
}

// TestThroughAuthors: an author is who reported the unihash that is now in force. Others' mappings are nobody's here.
func TestThroughAuthors(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.teach(1, 1)
		for _, tc := range []struct {
			n       int
			outhash string
			unihash byte
			want    hashserv.Mapping
		}{
			{1, "x", 9, hashserv.Mapping{Unihash: hashtest.U(1)}},
			{2, "o1", 9, hashserv.Mapping{Unihash: hashtest.U(1)}},
			{3, "y", 3, hashserv.Mapping{Unihash: hashtest.U(3), Author: 7}},
		} {
			m, err := c.Report(c.Context(), hashserv.Report{Task: clTask(tc.n), Outhash: tc.outhash, Unihash: hashtest.U(tc.unihash), Author: 7})
			if err != nil || m != tc.want {
				c.Errorf("Report of %d = %v, %v", tc.n, m, err)
			}
			held := make([]hashserv.Mapping, 1)
			if err := c.Unihash(c.Context(), []hashserv.Task{clTask(tc.n)}, held); err != nil || held[0] != tc.want {
				c.Errorf("task %d = %v, %v", tc.n, held, err)
			}
		}
		r := hashserv.Report{Task: clTask(6), Outhash: "o6", Unihash: hashtest.U(6), Author: 9}
		if _, err := c.up.Memory.Report(c.Context(), r); err != nil {
			c.Fatal(err)
		}
		if row := c.expectRow("o6", true); row.Author != 0 {
			c.Errorf("the upstream's author is told: %v", row)
		}
		_ = c.up.Memory.Learn(c.Context(), []hashserv.Task{clTask(5)}, []hashserv.Mapping{{Unihash: hashtest.U(5), Author: 9}})
		if m, err := c.Equivalent(c.Context(), clTask(5), hashserv.Mapping{Unihash: hashtest.U(5)}); err != nil || m.Author != 0 {
			c.Errorf("the upstream's author is told: %v, %v", m, err)
		}
		if row := c.expectRow("y", true); row.Author != 7 {
			c.Errorf("Outhash = %v", row)
		}
	})
}

// TestThroughReported: what was reported here is known here at once, though it was nothing a moment ago.
func TestThroughReported(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.expect(1, 0)
		c.expectExists(1, false)
		c.expectRow("o", false)
		if _, err := c.Report(c.Context(), hashserv.Report{Task: clTask(1), Outhash: "o", Unihash: hashtest.U(1)}); err != nil {
			c.Fatal(err)
		}
		c.expect(1, 1)
		c.expectExists(1, true)
		c.expectRow("o", true)
	})
}

// TestThroughRemoved: what was removed by way of the proxy is not held, not even by who asked before and is answered after.
func TestThroughRemoved(t *testing.T) {
	for name, remove := range map[string]func(c *clThrough) error{
		"remove": func(c *clThrough) error {
			_, err := c.Remove(c.Context(), hashserv.Where{"taskhash": clTask(1).Taskhash})
			return err
		},
		"by mark": func(c *clThrough) error {
			_, err := c.Remove(c.Context(), hashserv.Where{"gc_mark": ""})
			return err
		},
		"sweep": func(c *clThrough) error {
			_, err := c.Mark(c.Context(), "A", nil)
			_, err2 := c.Sweep(c.Context(), "A")
			return errors.Join(err, err2)
		},
	} {
		t.Run(name, func(t *testing.T) { clBubble(t, func(c *clThrough) { c.removeMeanwhile(remove) }) })
	}
}

// removeMeanwhile removes task 1 while the upstream's answer about it is on its way.
func (c *clThrough) removeMeanwhile(remove func(c *clThrough) error) {
	c.teach(1, 1)
	c.teach(2, 1)
	late := &clLate{clUpstream: c.up, answered: make(chan struct{}), answer: make(chan struct{})}
	c.Proxy = hashserv.Through(c.held, late, hashserv.ThroughConfig{})
	go c.quietly(1, 1)
	<-late.answered
	c.expect(2, 1)
	c.expectExists(1, true)
	if err := remove(c); err != nil {
		c.Fatal(err)
	}
	if _, err := c.up.Memory.Remove(c.Context(), hashserv.Where{"taskhash": clTask(2).Taskhash}); err != nil {
		c.Fatal(err)
	}
	go c.quietly(1, 0) // does not get the answer from before
	synctest.Wait()
	close(late.answer)
	synctest.Wait()
	c.expect(1, 0)
	c.expectHeld(1, 0)
}

// clLate is an upstream whose first answer about tasks is held back.
type clLate struct {
	*clUpstream
	once             sync.Once
	answered, answer chan struct{}
}

func (l *clLate) Unihash(ctx context.Context, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	err := l.clUpstream.Unihash(ctx, tasks, answers)
	first := false
	l.once.Do(func() { first = true })
	if first {
		close(l.answered)
		<-l.answer
	}
	return err
}

// TestThroughDuplicate: a server answers a report with the reported unihash also when it mapped nothing. That is not held.
func TestThroughDuplicate(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.teach(1, 1)
		if _, err := c.up.Memory.Remove(c.Context(), hashserv.Where{"unihash": hashtest.U(1).String()}); err != nil {
			c.Fatal(err)
		}
		m, err := c.Report(c.Context(), hashserv.Report{Task: clTask(1), Outhash: "o1", Unihash: hashtest.U(2)})
		if err != nil || m.Unihash != hashtest.U(2) {
			c.Errorf("Report = %v, %v", m, err)
		}
		c.expectHeld(1, 0)
	})
}

// TestThroughLearnsSlowly: a Held that is slow does not hold up answers.
func TestThroughLearnsSlowly(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		held := &clSlowHeld{Memory: c.held, open: make(chan struct{})}
		c.Proxy = hashserv.Through(held, c.up, hashserv.ThroughConfig{})
		for n := range 10 {
			c.teach(n, 1)
			c.expect(n, 1)
		}
		waited := make(chan int64, 1)
		go func() { n, _ := c.BackfillWait(c.Context()); waited <- n }()
		synctest.Wait()
		close(held.open)
		if n := <-waited; n != 10 {
			c.Errorf("BackfillWait = %d", n)
		}
		for n := range 10 {
			c.expectHeld(n, 1)
		}
		if n, err := c.BackfillWait(c.Context()); err != nil || n != 0 {
			c.Errorf("BackfillWait = %d, %v", n, err)
		}
	})
}

// clSlowHeld learns when it is opened.
type clSlowHeld struct {
	*hashserv.Memory
	open chan struct{}
}

func (h *clSlowHeld) Learn(ctx context.Context, tasks []hashserv.Task, mappings []hashserv.Mapping) error {
	<-h.open
	return h.Memory.Learn(ctx, tasks, mappings)
}

// TestThroughBounded: what is remembered is bounded, and what is forgotten is asked again.
func TestThroughBounded(t *testing.T) {
	clBubble(t, func(c *clThrough) {
		c.Proxy = hashserv.Through(c.held, c.up, hashserv.ThroughConfig{Remembered: 10, Forget: time.Hour})
		for n := range 100 {
			c.expect(n, 0)
		}
		c.expect(99, 0)
		if n := c.up.count("unihash"); n != 100 {
			c.Errorf("the upstream was asked %d times", n)
		}
		c.expect(0, 0)
		if n := c.up.count("unihash"); n != 101 {
			c.Errorf("the upstream was asked %d times: all is remembered", n)
		}
	})
}
