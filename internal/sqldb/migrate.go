package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// applicationID marks the file as the gate's (SQLite file format, section 1.3.17): "LYCH".
const applicationID = 0x4c594348

type migration struct {
	version int
	name    string
	text    string
}

// loadMigrations reads NNNN_name.sql from dir. Versions count from 1 without gaps.
func loadMigrations(dir fs.FS) ([]migration, error) {
	names, err := fs.Glob(dir, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	var all []migration
	for _, name := range names {
		number, _, ok := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if !ok || err != nil || len(number) != 4 {
			return nil, fmt.Errorf("migration %q: want NNNN_name.sql", name)
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("read migration %q: %w", name, err)
		}
		all = append(all, migration{version, path.Base(name), string(text)})
	}
	slices.SortFunc(all, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for i, m := range all {
		if m.version != i+1 {
			return nil, fmt.Errorf("migration %q: want version %d here", m.name, i+1)
		}
	}
	return all, nil
}

// upgrade brings the schema of a database up to date with the migrations in a directory. It tries again while others open the same new file.
func upgrade(ctx context.Context, db *sql.DB, application int, files fs.FS, dir string, now time.Time) error {
	sub, err := fs.Sub(files, dir)
	if err != nil {
		return err
	}
	migrations, err := loadMigrations(sub)
	if err != nil {
		return err
	}
	for range openTries {
		if err = migrate(ctx, db, application, migrations, now); !errors.Is(classify(err), ErrBusy) {
			break
		}
	}
	return err
}

// migrate brings the schema up to the last of all, each step in a transaction of its own. A process that finds
// another at it waits, and then finds the work done.
func migrate(ctx context.Context, db *sql.DB, application int, all []migration, now time.Time) error {
	if err := claimFile(ctx, db, application); err != nil {
		return err
	}
	for {
		done, err := migrateOnce(ctx, db, application, all, now)
		if err != nil || done {
			return err
		}
	}
}

// claimFile refuses a database that holds somebody else's tables.
func claimFile(ctx context.Context, db *sql.DB, application int) error {
	var id, tables int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return fmt.Errorf("read application id: %w", err)
	}
	if id == application {
		return nil
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return fmt.Errorf("read schema: %w", err)
	}
	if id != 0 || tables != 0 {
		return fmt.Errorf("application id %#x: %w", id, ErrCorrupt)
	}
	return nil
}

func migrateOnce(ctx context.Context, db *sql.DB, application int, all []migration, now time.Time) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback()
	version, err := schemaVersion(ctx, tx, application)
	if err != nil {
		return false, err
	}
	if version > len(all) {
		return false, fmt.Errorf("schema version %d, this lychgate knows up to %d: %w", version, len(all), ErrNewer)
	}
	if version == len(all) {
		return true, nil
	}
	next := all[version]
	if _, err := tx.ExecContext(ctx, next.text); err != nil {
		return false, fmt.Errorf("migrate to %q: %w", next.name, err)
	}
	if _, err := tx.ExecContext(ctx, insertVersion, next.version, next.name, now.UnixMicro()); err != nil {
		return false, fmt.Errorf("note migration %q: %w", next.name, err)
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("commit migration %q: %w", next.name, err)
	}
	return false, nil
}

// schemaVersion returns the newest migration applied, creating the table of them in an empty file.
func schemaVersion(ctx context.Context, tx *sql.Tx, application int) (int, error) {
	var version int
	err := tx.QueryRowContext(ctx, selectVersion).Scan(&version)
	if err == nil {
		return version, nil
	}
	var tables int
	if again := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); again != nil || tables != 0 {
		return 0, fmt.Errorf("read schema version: %w", errors.Join(err, again))
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(createVersions, application)); err != nil {
		return 0, fmt.Errorf("create schema version: %w", err)
	}
	return 0, nil
}
