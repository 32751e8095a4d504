package sqldb

import (
	"context"
	"database/sql"
	"fmt"
)

// HashStats is what a database of hash equivalence holds.
type HashStats struct {
	Zones []HashZoneStats // sorted by name
	// Texts is how many different texts reports came with, and TextBytes what they take, compressed.
	Texts, TextBytes int64
	// FileBytes is the size of the file, and FreeBytes what of it is free to be used again.
	FileBytes, FreeBytes int64
	// BytesPerEntry is what a row of a report takes, its mapping and its text included.
	BytesPerEntry float64
	// Memory is what look-ups keep in memory, in bytes; InMemory how many mappings these are, and Complete whether they are all.
	Memory   int64
	InMemory int64
	Complete bool
}

// HashZoneStats is what is known of a zone.
type HashZoneStats struct {
	Name           string
	Mappings, Rows int64
	Mark           string // the current one of garbage collection
}

// Stats counts what there is. It reads all of the file but the texts, beside whatever else goes on.
func (h *Hashes) Stats(ctx context.Context) (HashStats, error) {
	memory := h.memory.Load()
	s := HashStats{Memory: memory.bytes.Load(), InMemory: int64(memory.len()), Complete: memory.complete.Load()}
	err := h.read(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, fileSizes).Scan(&s.FileBytes, &s.FreeBytes); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, countTexts).Scan(&s.Texts, &s.TextBytes); err != nil {
			return err
		}
		return each(ctx, tx, func(rows *sql.Rows) error {
			var z HashZoneStats
			err := rows.Scan(&z.Name, &z.Mappings, &z.Rows, &z.Mark)
			s.Zones = append(s.Zones, z)
			return err
		}, countZones)
	})
	if err != nil {
		return HashStats{}, fmt.Errorf("count what is known: %w", classify(err))
	}
	entries := int64(0)
	for _, z := range s.Zones {
		entries += max(z.Rows, z.Mappings)
	}
	if entries > 0 {
		s.BytesPerEntry = float64(s.FileBytes-s.FreeBytes) / float64(entries)
	}
	return s, nil
}
