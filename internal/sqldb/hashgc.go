package sqldb

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const (
	// hashStep is how many rows one transaction of maintenance looks at, at the most, and leastHashStep at the least.
	hashStep, leastHashStep = 2048, 32
	// hashStepTime is how long one should take: others write, and the disk syncs what must be on it, between two of them.
	hashStepTime = 10 * time.Millisecond
	// longestPause bounds how long maintenance leaves the writer to others after a step.
	longestPause = 50 * time.Millisecond
)

// chosen is a row that maintenance looks at.
type chosen struct {
	id      int64
	unihash hashserv.Unihash // of mappings
	mark    int64            // of mappings
}

// sweep is a walk over the rows of a zone in one table, step by step.
type sweep struct {
	span   string // the statement that says from where to where the ids are
	choose string // the statement that chooses rows, up to its condition
	where  string // the condition; its arguments count from ?4
	args   []any
	// indexed says that the condition names a hash, so that an index leads to the rows. Otherwise the walk is over all ids.
	indexed bool
	// do handles what one step has chosen, and returns how many it counts.
	do func(ctx context.Context, w *hashWrite, zone int64, rows []chosen) (int64, error)
}

// run walks and returns the sum of what do counts. Each step is a transaction of its own, and after each the writer is left to others for as long
// as the step took.
func (z *HashZone) run(ctx context.Context, s sweep) (count int64, err error) {
	var from, last int64
	if err := z.h.reader.QueryRowContext(ctx, s.span).Scan(&from, &last); err != nil {
		return 0, classify(err)
	}
	size := int64(leastHashStep)
	for from--; from < last; {
		begun := time.Now()
		var n, to int64
		err := z.h.write(ctx, func(ctx context.Context, w *hashWrite) (err error) {
			n, to, err = z.step(ctx, w, &s, from, last, size)
			return err
		})
		if err != nil {
			return count, err
		}
		count += n
		if from = to; from < last {
			took := time.Since(begun)
			if err := pause(ctx, min(took, longestPause)); err != nil {
				return count, err
			}
			size = nextHashStep(size, took)
		}
	}
	return count, nil
}

// nextHashStep returns how many rows to look at after a step of size rows took so long.
func nextHashStep(size int64, took time.Duration) int64 {
	switch {
	case took > 2*hashStepTime:
		size /= 2
	case took < hashStepTime/2:
		size *= 2
	}
	return min(max(size, leastHashStep), hashStep)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// step handles the rows behind the id from, of size ids or, where an index leads to them, hashStep rows. It returns how far it came.
func (z *HashZone) step(ctx context.Context, w *hashWrite, s *sweep, from, last, size int64) (n, to int64, err error) {
	zone, err := w.one(ctx, selectHashName, z.name)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, last, nil
	}
	if err != nil {
		return 0, 0, err
	}
	to, query, third := min(from+size, last), s.choose+s.where+withinWindow, int64(0)
	if third = to; s.indexed {
		query, third = s.choose+s.where+fromIndex, hashStep
	}
	rows, err := w.choose(ctx, query, append([]any{zone, from, third}, s.args...)...)
	if err != nil {
		return 0, 0, err
	}
	if s.indexed {
		if to = last; len(rows) == hashStep {
			to = rows[len(rows)-1].id
		}
	}
	if len(rows) == 0 {
		return 0, to, nil
	}
	n, err = s.do(ctx, w, zone, rows)
	return n, to, err
}

func (w *hashWrite) choose(ctx context.Context, query string, args ...any) (all []chosen, err error) {
	var unihash sql.RawBytes
	err = each(ctx, w, func(rows *sql.Rows) error {
		var c chosen
		if err := rows.Scan(&c.id, &unihash, &c.mark); err != nil {
			return err
		}
		copy(c.unihash[:], unihash)
		all = append(all, c)
		return nil
	}, query, args...)
	return all, err
}

// mappingCondition returns the condition on a column of a Where, by the name that the protocol gives it, and "" for one that mappings do not have. arg
// is the number of its argument.
func mappingCondition(column, arg string) string {
	switch column {
	case "method":
		return "method = (SELECT id FROM names WHERE text = " + arg + ")"
	case "taskhash", "unihash":
		return column + " = " + arg
	case "gc_mark":
		return "mark = (SELECT id FROM marks WHERE text = " + arg + ")"
	}
	return ""
}

// outhashCondition is mappingCondition for the rows of outhashes.
func outhashCondition(column, arg string) string {
	switch column {
	case "method":
		return "method = (SELECT id FROM names WHERE text = " + arg + ")"
	case "taskhash", "outhash":
		return column + " = " + arg
	case "owner", "PN", "PV", "PR", "task":
		return strings.ToLower(column) + " = (SELECT id FROM details WHERE text = " + arg + ")"
	case "outhash_siginfo":
		return "siginfo = CASE WHEN " + arg + " = '' THEN 0 ELSE (SELECT id FROM siginfos WHERE sum = " + arg + ") END"
	}
	return ""
}

// narrow puts the conditions of w into s. It reports false when none is usable.
func (s *sweep) narrow(w hashserv.Where, conditionOn func(column, arg string) string) bool {
	var all []string
	for _, column := range slices.Sorted(maps.Keys(w)) {
		condition := conditionOn(column, fmt.Sprintf("?%d", 4+len(s.args)))
		if condition == "" {
			continue
		}
		all = append(all, condition)
		s.args = append(s.args, argument(column, w[column]))
		s.indexed = s.indexed || slices.Contains([]string{"taskhash", "unihash", "outhash"}, column)
	}
	s.where = strings.Join(all, " AND ")
	return len(all) > 0
}

// argument returns what a column is compared with.
func argument(column, value string) any {
	switch column {
	case "taskhash", "unihash", "outhash":
		return hashText(value)
	case "outhash_siginfo":
		if value != "" {
			sum := sha256.Sum256([]byte(value))
			return sum[:]
		}
	}
	return value
}

// Remove implements [hashserv.Keeper]. What HashesConfig.Keep protects is neither removed nor counted.
func (z *HashZone) Remove(ctx context.Context, where hashserv.Where) (int64, error) {
	var count int64
	mappings := sweep{span: spanMappings, choose: chooseMappings, do: z.removeMappings}
	if mappings.narrow(where, mappingCondition) {
		n, err := z.run(ctx, mappings)
		if count += n; err != nil {
			return count, fmt.Errorf("remove mappings: %w", unavailable(err))
		}
	}
	rows := sweep{span: spanOuthashes, choose: chooseOuthashes, do: removeOuthashes}
	if rows.narrow(where, outhashCondition) {
		n, err := z.run(ctx, rows)
		if count += n; err != nil {
			return count, fmt.Errorf("remove rows: %w", unavailable(err))
		}
	}
	return count, nil
}

func (z *HashZone) removeMappings(ctx context.Context, w *hashWrite, _ int64, rows []chosen) (n int64, err error) {
	for _, r := range rows {
		if z.h.keep(z.name, r.unihash) {
			continue
		}
		if _, err := w.exec(ctx, deleteMapping, r.id); err != nil {
			return 0, err
		}
		n++
	}
	return n, z.h.trim(ctx, w)
}

func removeOuthashes(ctx context.Context, w *hashWrite, _ int64, rows []chosen) (n int64, err error) {
	for _, r := range rows {
		if _, err := w.exec(ctx, deleteOuthash, r.id); err != nil {
			return 0, err
		}
	}
	return int64(len(rows)), nil
}

// CleanUnused implements [hashserv.Keeper].
func (z *HashZone) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	n, err := z.run(ctx, sweep{
		span: spanOuthashes, choose: chooseOuthashes, do: removeOuthashes,
		where: unusedRow, args: []any{z.h.now().Add(-age).UnixMicro()},
	})
	if err != nil {
		return n, fmt.Errorf("remove unused rows: %w", unavailable(err))
	}
	return n, nil
}

// Expire removes the mappings of tasks that nobody reported after a time, but for those that HashesConfig.Keep protects, and then the rows from
// before that time of tasks that are mapped to nothing. It returns how many mappings and rows. A dry run removes nothing: it counts the mappings,
// and the rows that are of no use already.
func (z *HashZone) Expire(ctx context.Context, before time.Time, dry bool) (mappings, rows int64, err error) {
	remove, removeRows := z.removeMappings, removeOuthashes
	if dry {
		remove = func(_ context.Context, _ *hashWrite, _ int64, chosen []chosen) (n int64, _ error) {
			for _, c := range chosen {
				if !z.h.keep(z.name, c.unihash) {
					n++
				}
			}
			return n, nil
		}
		removeRows = func(_ context.Context, _ *hashWrite, _ int64, chosen []chosen) (int64, error) {
			return int64(len(chosen)), nil
		}
	}
	args := []any{before.UnixMicro()}
	mappings, err = z.run(ctx, sweep{span: spanMappings, choose: chooseMappings, where: staleMapping, args: args, do: remove})
	if err != nil {
		return mappings, 0, fmt.Errorf("remove old mappings: %w", unavailable(err))
	}
	rows, err = z.run(ctx, sweep{span: spanOuthashes, choose: chooseOuthashes, where: unusedRow, args: args, do: removeRows})
	if err != nil {
		return mappings, rows, fmt.Errorf("remove unused rows: %w", unavailable(err))
	}
	return mappings, rows, nil
}

// Mark implements [hashserv.Keeper]. A new mark touches no row but those that it is given to.
func (z *HashZone) Mark(ctx context.Context, mark string, where hashserv.Where) (int64, error) {
	var id int64
	err := z.h.write(ctx, func(ctx context.Context, w *hashWrite) error {
		zone, err := w.intern(ctx, selectHashName, insertHashName, z.name)
		if err != nil {
			return err
		}
		got, err := w.intern(ctx, selectMark, insertMark, mark)
		if err != nil {
			return err
		}
		id = got
		held, err := w.one(ctx, currentMark, zone)
		if err == nil && held != got {
			_, err = w.exec(ctx, setMark, zone, got)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("begin to mark: %w", unavailable(err))
	}
	s := sweep{span: spanMappings, choose: chooseMappings, do: func(ctx context.Context, w *hashWrite, _ int64, rows []chosen) (int64, error) {
		for _, r := range rows {
			if r.mark == id {
				continue
			}
			if _, err := w.exec(ctx, markMapping, r.id, id); err != nil {
				return 0, err
			}
		}
		return int64(len(rows)), nil
	}}
	if !s.narrow(where, mappingCondition) {
		return 0, nil
	}
	n, err := z.run(ctx, s)
	if err != nil {
		return n, fmt.Errorf("mark mappings: %w", unavailable(err))
	}
	return n, nil
}

// Sweep implements [hashserv.Keeper]. What HashesConfig.Keep protects stays. When it fails half-way the mark is still the current one, and Sweep
// may be called again.
func (z *HashZone) Sweep(ctx context.Context, mark string) (int64, error) {
	refused := &hashserv.Refusal{Message: fmt.Sprintf("'%s' is not the current mark. Refusing to sweep", mark)}
	var id int64
	err := z.h.read(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, selectMark, mark).Scan(&id)
		if err == nil && id != 0 {
			var current string
			if err = tx.QueryRowContext(ctx, currentText, z.name).Scan(&current); err == nil && current == mark {
				return nil
			}
		}
		if err == nil || errors.Is(err, sql.ErrNoRows) {
			return refused
		}
		return err
	})
	if err != nil {
		return 0, z.sweepError(err)
	}
	n, err := z.run(ctx, sweep{
		span: spanMappings, choose: chooseMappings, where: otherMark, args: []any{id},
		do: func(ctx context.Context, w *hashWrite, zone int64, rows []chosen) (int64, error) {
			if current, err := w.one(ctx, currentMark, zone); err != nil {
				return 0, err
			} else if current != id {
				return 0, refused
			}
			return z.removeMappings(ctx, w, zone, rows)
		},
	})
	if err != nil {
		return n, z.sweepError(err)
	}
	err = z.h.write(ctx, func(ctx context.Context, w *hashWrite) error {
		zone, err := w.one(ctx, selectHashName, z.name)
		if err != nil {
			return err
		}
		if current, err := w.one(ctx, currentMark, zone); err != nil {
			return err
		} else if current != id {
			return refused
		}
		_, err = w.exec(ctx, setMark, zone, 0)
		return err
	})
	if err != nil {
		return n, z.sweepError(err)
	}
	return n, nil
}

// sweepError leaves a refusal as it is.
func (z *HashZone) sweepError(err error) error {
	if refusal, ok := errors.AsType[*hashserv.Refusal](err); ok {
		return refusal
	}
	return fmt.Errorf("sweep: %w", unavailable(err))
}

// Collection implements [hashserv.Keeper]. It reads all mappings, beside whatever else goes on.
func (z *HashZone) Collection(ctx context.Context) (c hashserv.Collection, err error) {
	err = z.h.read(ctx, func(tx *sql.Tx) error {
		var all int64
		if err := tx.QueryRowContext(ctx, countByMark, z.name).Scan(&all, &c.Keep); err != nil {
			return err
		}
		c.Remove = all - c.Keep
		return tx.QueryRowContext(ctx, currentText, z.name).Scan(&c.Mark)
	})
	if err != nil {
		return hashserv.Collection{}, fmt.Errorf("count marks: %w", unavailable(err))
	}
	return c, nil
}

// Usage implements [hashserv.Keeper]. The tables are named as in the reference server's database.
func (z *HashZone) Usage(ctx context.Context) (map[string]int64, error) {
	usage := make(map[string]int64)
	err := z.h.read(ctx, func(tx *sql.Tx) error {
		for table, query := range map[string]string{"unihashes_v3": usedMappings, "outhashes_v2": usedOuthashes} {
			var n int64
			if err := tx.QueryRowContext(ctx, query, z.name).Scan(&n); err != nil {
				return err
			}
			usage[table] = n
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count rows: %w", unavailable(err))
	}
	return usage, nil
}
