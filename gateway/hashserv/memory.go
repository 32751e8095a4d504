package hashserv

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MemoryConfig says what a [Memory] needs. The zero value is usable.
type MemoryConfig struct {
	// Now is the clock of rows and their age; nil means time.Now.
	Now func() time.Time
	// Keep, when it is given, protects the mappings to a unihash for which it is true: Remove and Sweep leave them, so that what was once
	// answered does not change while there is an artifact of it. It is called with a lock held and must be quick.
	Keep func(Unihash) bool
}

// Memory is a [Store], [Equivalents] and [Keeper] that forgets everything with its process. It answers as the reference server's
// database does, with two intended differences: CleanUnused looks at the age of rows, and at age 0 takes those of this very moment.
type Memory struct {
	now  func() time.Time
	keep func(Unihash) bool

	mu       sync.RWMutex // guards all below; write-locked for one report, or for one step of maintenance
	mark     string       // the current mark of garbage collection
	lastID   int64
	mappings map[Task]*memoryMapping
	targets  map[Unihash]int  // how many tasks are mapped to it
	marked   map[string]int64 // how many mappings have the mark
	rows     int64
	byTask   map[Task][]*memoryRow
	byOut    map[memoryOut][]*memoryRow
}

var (
	_ Store       = (*Memory)(nil)
	_ Equivalents = (*Memory)(nil)
	_ Keeper      = (*Memory)(nil)
	_ Learner     = (*Memory)(nil)
)

type memoryMapping struct {
	Mapping
	mark string
}

// memoryRow is a row of outhashes. It never changes. Lists of rows are sorted, oldest first.
type memoryRow struct {
	Task
	outhash string
	created time.Time
	id      int64
	Details
}

type memoryOut struct{ method, outhash string }

// memoryStep is how many rows maintenance looks at while it holds the lock.
const memoryStep = 512

// NewMemory makes an empty store.
func NewMemory(c MemoryConfig) *Memory {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Keep == nil {
		c.Keep = func(Unihash) bool { return false }
	}
	return &Memory{
		now:      c.Now,
		keep:     c.Keep,
		mappings: map[Task]*memoryMapping{},
		targets:  map[Unihash]int{},
		marked:   map[string]int64{},
		byTask:   map[Task][]*memoryRow{},
		byOut:    map[memoryOut][]*memoryRow{},
	}
}

// Unihash implements [Store].
func (m *Memory) Unihash(ctx context.Context, tasks []Task, answers []Mapping) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i, t := range tasks {
		answers[i] = m.mapped(t)
	}
	return ctx.Err()
}

// mapped returns what t is mapped to. The lock is held.
func (m *Memory) mapped(t Task) Mapping {
	if found := m.mappings[t]; found != nil {
		return found.Mapping
	}
	return Mapping{}
}

// Exists implements [Store].
func (m *Memory) Exists(ctx context.Context, unihashes []Unihash, answers []bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i, u := range unihashes {
		answers[i] = m.targets[u] > 0
	}
	return ctx.Err()
}

// Outhash implements [Store].
func (m *Memory) Outhash(ctx context.Context, q Query) (*Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	rows := m.byOut[memoryOut{q.Method, q.Outhash}]
	if q.Outhash == "" {
		rows = m.byTask[Task{q.Method, q.Taskhash}]
	}
	for _, r := range rows {
		if q.Bare || m.mappings[r.Task] != nil {
			return m.joined(r), nil
		}
	}
	return nil, nil
}

// joined returns the row with what its task is mapped to. The lock is held.
func (m *Memory) joined(r *memoryRow) *Row {
	row := &Row{Task: r.Task, Outhash: r.outhash, Created: r.created, ID: r.id, Details: r.Details}
	if to := m.mappings[r.Task]; to != nil {
		row.Unihash, row.Author, row.Mark = to.Unihash, to.Author, to.mark
	}
	return row
}

// Report implements [Store]. A report whose row is there already maps nothing: when its mapping was removed meanwhile, the answer is the
// reported unihash, and it stays unmapped.
func (m *Memory) Report(ctx context.Context, r Report) (Mapping, error) {
	if r.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	if err := ctx.Err(); err != nil {
		return Mapping{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	reported := Mapping{Unihash: r.Unihash, Author: r.Author}
	if m.addRow(r) {
		to := reported
		if equal, ok := m.equivalent(r.Task, r.Outhash); ok {
			to = equal
		}
		m.mapTo(r.Task, to)
	}
	if now := m.mapped(r.Task); now != (Mapping{}) {
		return now, nil
	}
	return reported, nil
}

// addRow reports whether there was no such row. The lock is held.
func (m *Memory) addRow(r Report) bool {
	if slices.ContainsFunc(m.byTask[r.Task], func(have *memoryRow) bool { return have.outhash == r.Outhash }) {
		return false
	}
	m.lastID++
	m.rows++
	row := &memoryRow{Task: r.Task, outhash: r.Outhash, created: m.now().UTC().Round(0), id: m.lastID, Details: r.Details}
	out := memoryOut{r.Method, r.Outhash}
	m.byTask[r.Task] = insertByAge(m.byTask[r.Task], row)
	m.byOut[out] = insertByAge(m.byOut[out], row)
	return true
}

// insertByAge keeps rows sorted though clocks are set back. Of rows of one moment the first is the older.
func insertByAge(rows []*memoryRow, row *memoryRow) []*memoryRow {
	at := len(rows)
	for at > 0 && rows[at-1].created.After(row.created) {
		at--
	}
	return slices.Insert(rows, at, row)
}

// equivalent returns what the oldest other task with the same output is mapped to. The lock is held.
func (m *Memory) equivalent(t Task, outhash string) (Mapping, bool) {
	for _, row := range m.byOut[memoryOut{t.Method, outhash}] {
		if to := m.mappings[row.Task]; to != nil && row.Task != t {
			return to.Mapping, true
		}
	}
	return Mapping{}, false
}

// mapTo maps t unless it is mapped. The lock is held.
func (m *Memory) mapTo(t Task, to Mapping) {
	if m.mappings[t] != nil {
		return
	}
	m.mappings[t] = &memoryMapping{Mapping: to, mark: m.mark}
	m.targets[to.Unihash]++
	m.marked[m.mark]++
}

// unmap removes the mapping of t unless it is to be kept. The lock is held.
func (m *Memory) unmap(t Task) bool {
	to := m.mappings[t]
	if to == nil || m.keep(to.Unihash) {
		return false
	}
	delete(m.mappings, t)
	lower(m.targets, to.Unihash)
	lower(m.marked, to.mark)
	return true
}

// Equivalent implements [Equivalents].
func (m *Memory) Equivalent(ctx context.Context, t Task, to Mapping) (Mapping, error) {
	if to.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	if err := ctx.Err(); err != nil {
		return Mapping{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mapTo(t, to)
	return m.mapped(t), nil
}

// Learn implements [Learner].
func (m *Memory) Learn(ctx context.Context, tasks []Task, mappings []Mapping) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, t := range tasks {
		m.mapTo(t, mappings[i])
	}
	return nil
}

// Remove implements [Keeper]. What MemoryConfig.Keep protects is not removed and not counted.
func (m *Memory) Remove(ctx context.Context, w Where) (int64, error) {
	mappings, err := m.eachMapping(ctx, func(t Task, to *memoryMapping) bool {
		return w.chooses(mappingColumns(t, to)) && m.unmap(t)
	})
	if err != nil {
		return mappings, err
	}
	rows, err := m.eachRow(ctx, func(r *memoryRow) bool {
		return w.chooses(rowColumns(r)) && m.dropRow(r)
	})
	return mappings + rows, err
}

// CleanUnused implements [Keeper].
func (m *Memory) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	youngest := m.now().Add(-age)
	return m.eachRow(ctx, func(r *memoryRow) bool {
		return !r.created.After(youngest) && m.mappings[r.Task] == nil && m.dropRow(r)
	})
}

// Mark implements [Keeper].
func (m *Memory) Mark(ctx context.Context, mark string, w Where) (int64, error) {
	m.mu.Lock()
	m.mark = mark
	m.mu.Unlock()
	return m.eachMapping(ctx, func(t Task, to *memoryMapping) bool {
		if !w.chooses(mappingColumns(t, to)) {
			return false
		}
		lower(m.marked, to.mark)
		m.marked[mark]++
		to.mark = mark
		return true
	})
}

// Sweep implements [Keeper]. When it fails half-way the mark is still the current one, and Sweep may be called again.
func (m *Memory) Sweep(ctx context.Context, mark string) (int64, error) {
	refused := &Refusal{fmt.Sprintf("'%s' is not the current mark. Refusing to sweep", mark)}
	current := func() bool { return mark != "" && m.mark == mark } // with the lock held
	m.mu.RLock()
	ok := current()
	m.mu.RUnlock()
	if !ok {
		return 0, refused
	}
	n, err := m.eachMapping(ctx, func(t Task, to *memoryMapping) bool {
		return current() && to.mark != mark && m.unmap(t)
	})
	if err != nil {
		return n, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !current() {
		return n, refused
	}
	m.mark = ""
	return n, nil
}

// Collection implements [Keeper].
func (m *Memory) Collection(ctx context.Context) (Collection, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	keep, all := m.marked[m.mark], int64(len(m.mappings))
	return Collection{Keep: keep, Remove: all - keep, Mark: m.mark}, ctx.Err()
}

// Usage implements [Keeper]. The tables are named as in the reference server's database.
func (m *Memory) Usage(ctx context.Context) (map[string]int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return map[string]int64{"unihashes_v3": int64(len(m.mappings)), "outhashes_v2": m.rows}, ctx.Err()
}

// eachMapping calls do, with the lock held, for the mappings there are now, and returns how often it was true.
func (m *Memory) eachMapping(ctx context.Context, do func(Task, *memoryMapping) bool) (int64, error) {
	m.mu.RLock()
	tasks := make([]Task, 0, len(m.mappings))
	for t := range m.mappings {
		tasks = append(tasks, t)
	}
	m.mu.RUnlock()
	return inSteps(ctx, m, tasks, func(t Task) bool {
		to := m.mappings[t]
		return to != nil && do(t, to)
	})
}

// eachRow calls do, with the lock held, for the rows there are now, and returns how often it was true.
func (m *Memory) eachRow(ctx context.Context, do func(*memoryRow) bool) (int64, error) {
	m.mu.RLock()
	var rows []*memoryRow
	for _, of := range m.byTask {
		rows = append(rows, of...)
	}
	m.mu.RUnlock()
	return inSteps(ctx, m, rows, do)
}

// inSteps holds the lock for a few items at a time, so that readers come between.
func inSteps[T any](ctx context.Context, m *Memory, items []T, do func(T) bool) (n int64, err error) {
	for some := range slices.Chunk(items, memoryStep) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m.mu.Lock()
		for _, item := range some {
			if do(item) {
				n++
			}
		}
		m.mu.Unlock()
	}
	return n, ctx.Err()
}

// dropRow reports whether the row was still there. The lock is held.
func (m *Memory) dropRow(r *memoryRow) bool {
	out := memoryOut{r.Method, r.outhash}
	if !without(m.byTask, r.Task, r) {
		return false
	}
	m.rows--
	return without(m.byOut, out, r)
}

// lower takes one off a count, and the count when nothing is left.
func lower[K comparable, N int | int64](counts map[K]N, key K) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// without removes r from the list under key, and the list when it is empty.
func without[K comparable](lists map[K][]*memoryRow, key K, r *memoryRow) bool {
	at := slices.Index(lists[key], r)
	if at < 0 {
		return false
	}
	left := slices.Delete(lists[key], at, at+1)
	if lists[key] = left; len(left) == 0 {
		delete(lists, key)
	}
	return true
}

// chooses reports whether w has a condition on one of the columns, and each that it has is met.
func (w Where) chooses(columns map[string]string) bool {
	usable := false
	for column, want := range w {
		if have, ok := columns[column]; ok {
			if have != want {
				return false
			}
			usable = true
		}
	}
	return usable
}

func mappingColumns(t Task, to *memoryMapping) map[string]string {
	return map[string]string{"method": t.Method, "taskhash": t.Taskhash, "unihash": to.Unihash.String(), "gc_mark": to.mark}
}

func rowColumns(r *memoryRow) map[string]string {
	return map[string]string{
		"method": r.Method, "taskhash": r.Taskhash, "outhash": r.outhash,
		"owner": r.Owner, "PN": r.PN, "PV": r.PV, "PR": r.PR, "task": r.Details.Task, "outhash_siginfo": r.Siginfo,
	}
}
