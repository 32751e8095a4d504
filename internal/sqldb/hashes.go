package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

//go:embed hashmigrations/*.sql
var hashMigrationFiles embed.FS

const (
	// hashApplicationID marks the file as hash equivalence of ours: "LYHE".
	hashApplicationID = 0x4c594845
	// defaultHashMemory holds five million mappings.
	defaultHashMemory = 512 << 20
)

// HashesConfig is what [OpenHashes] needs.
type HashesConfig struct {
	Path string // of the database file, which is not that of [Open]; made, with mode 0600, when it is absent
	// Memory is how many bytes look-ups may keep in memory; a mapping takes about a hundred. 0 is 512 MiB. While all mappings fit, no look-up
	// reads the file.
	Memory int64
	// Keep protects the mappings to a unihash: neither Remove nor Sweep removes them. It is called within a write and must be quick. Nil keeps none.
	Keep   func(zone string, u hashserv.Unihash) bool
	Now    func() time.Time // nil is time.Now
	Logger *slog.Logger     // nil discards
}

// Hashes is an open database of hash equivalence, for any number of zones. It is safe for concurrent use, also by several processes on one
// file, and by people who delete rows with a tool of SQLite's: a mapping that is gone from the file is gone from memory within a second while Run
// runs.
//
// Look-ups are answered from memory and wait for nothing that is written. Writes wait in a queue, of which all that is there goes to the disk
// in one transaction.
type Hashes struct {
	now   func() time.Time
	log   *slog.Logger
	keep  func(zone string, u hashserv.Unihash) bool
	limit int64
	// keepRemovals is the constant, but in tests.
	keepRemovals int64
	writer       *sql.DB
	reader       *sql.DB
	reads        map[string]*sql.Stmt // the statements of look-ups, prepared; it never changes
	encoder      *zstd.Encoder
	decoder      *zstd.Decoder
	memory       atomic.Pointer[hashMemory]
	follow       hashFollower
	queue        hashQueue
	bases        textBases
}

// OpenHashes opens or makes the database, brings its schema up to date, and loads what fits into memory. Its errors are those of [Open]. The
// caller closes the Hashes.
func OpenHashes(ctx context.Context, cfg HashesConfig) (*Hashes, error) {
	h, err := openHashes(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open hash equivalence database %q: %w", cfg.Path, classify(err))
	}
	return h, nil
}

func openHashes(ctx context.Context, cfg HashesConfig) (_ *Hashes, err error) {
	h := &Hashes{now: cfg.Now, log: cfg.Logger, keep: cfg.Keep, limit: cfg.Memory, keepRemovals: keepRemovals}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.keep == nil {
		h.keep = func(string, hashserv.Unihash) bool { return false }
	}
	if h.limit == 0 {
		h.limit = defaultHashMemory
	}
	if h.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false)); err != nil {
		return nil, err
	}
	if h.decoder, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(longestSiginfo)); err != nil {
		return nil, err
	}
	if h.writer, h.reader, err = openFile(cfg.Path); err != nil {
		return nil, err
	}
	if err := h.load(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// load brings the schema up to date and reads the mappings into memory.
func (h *Hashes) load(ctx context.Context) (err error) {
	if err := upgrade(ctx, h.writer, hashApplicationID, hashMigrationFiles, "hashmigrations", h.now()); err != nil {
		return err
	}
	if h.queue.conn, err = prepare(ctx, h.writer); err != nil {
		return err
	}
	h.reads = make(map[string]*sql.Stmt)
	for _, query := range []string{
		selectMapping, selectExists, selectBase, reported, mappedRow + byOuthash, mappedRow + byTaskhash, bareRow + byOuthash, bareRow + byTaskhash,
	} {
		if h.reads[query], err = h.reader.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	if h.follow.conn, err = prepare(ctx, h.reader); err != nil {
		return err
	}
	return h.catchUp(ctx)
}

// Close waits for the writes that are under way and closes the file. Nothing else may be called during or after it.
func (h *Hashes) Close() error {
	h.queue.running.Wait()
	h.decoder.Close()
	var all []error
	for _, s := range h.reads {
		if s != nil {
			all = append(all, s.Close())
		}
	}
	for _, conn := range []*prepared{h.follow.conn, h.queue.conn} {
		if conn != nil {
			all = append(all, conn.close())
		}
	}
	// The writer goes last: the last connection to close folds the write-ahead log into the file.
	return errors.Join(append(all, h.reader.Close(), h.writer.Close(), h.encoder.Close())...)
}

// Run brings what other processes and tools write into memory, within a second, and trims the list of what they removed. It returns nil when ctx
// is done. While the file cannot be read it logs that once and goes on with what is in memory.
func (h *Hashes) Run(ctx context.Context) error {
	return poll(ctx, h.logTurn, func(ctx context.Context) error {
		err := h.refresh(ctx)
		if err == nil && h.follow.excess() {
			// A failure is tried again at the next tick, and what it is about is told to whoever writes.
			h.write(ctx, h.trim)
		}
		return err
	})
}

func (h *Hashes) logTurn(ctx context.Context, err error) {
	if err != nil {
		h.log.ErrorContext(ctx, "hash equivalence database cannot be read: what others write to it is not seen until it can", "error", err)
		return
	}
	h.log.InfoContext(ctx, "hash equivalence database can be read again")
}

// Check runs SQLite's own integrity check, which reads the whole file. Its error wraps [ErrCorrupt].
func (h *Hashes) Check(ctx context.Context) error { return checkIntegrity(ctx, h.reader) }

// Zone returns the store of one zone. It is made by its first report.
func (h *Hashes) Zone(name string) *HashZone { return &HashZone{h: h, name: name} }

// HashZone is the hash equivalence of one zone.
type HashZone struct {
	h    *Hashes
	name string
}

var (
	_ hashserv.Store       = (*HashZone)(nil)
	_ hashserv.Equivalents = (*HashZone)(nil)
	_ hashserv.Keeper      = (*HashZone)(nil)
	_ hashserv.Learner     = (*HashZone)(nil)
)

// Unihash implements [hashserv.Store]. While memory is complete it neither reads the file nor allocates.
func (z *HashZone) Unihash(ctx context.Context, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	memory, missed := z.h.memory.Load(), 0
	for i := range tasks {
		answers[i] = memory.get(keyOfTask(z.name, tasks[i].Method, tasks[i].Taskhash))
		if answers[i] == (hashserv.Mapping{}) {
			missed++
		}
	}
	if missed == 0 || memory.complete.Load() {
		return nil
	}
	if err := z.readMissed(ctx, memory, tasks, answers); err != nil {
		return fmt.Errorf("look up %d tasks: %w", missed, unavailable(err))
	}
	return nil
}

// readMissed asks the file for the tasks without an answer, all on one connection and at one moment.
func (z *HashZone) readMissed(ctx context.Context, memory *hashMemory, tasks []hashserv.Task, answers []hashserv.Mapping) error {
	removals := memory.removals.Load()
	tx, err := z.h.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	lookup := tx.StmtContext(ctx, z.h.reads[selectMapping])
	for i, t := range tasks {
		if answers[i] != (hashserv.Mapping{}) {
			continue
		}
		m, err := scanMapping(lookup.QueryRowContext(ctx, z.name, t.Method, hashText(t.Taskhash)))
		if err != nil {
			return err
		}
		if answers[i] = m; m != (hashserv.Mapping{}) {
			memory.cache(keyOfTask(z.name, t.Method, t.Taskhash), m, removals)
		}
	}
	return nil
}

// scanMapping reads a unihash and an author. No row is the zero Mapping.
func scanMapping(row *sql.Row) (m hashserv.Mapping, err error) {
	var unihash []byte
	var author int64
	err = row.Scan(&unihash, &author)
	if errors.Is(err, sql.ErrNoRows) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if len(unihash) != len(m.Unihash) {
		return m, fmt.Errorf("unihash of %d bytes: %w", len(unihash), ErrCorrupt)
	}
	return hashserv.Mapping{Unihash: hashserv.Unihash(unihash), Author: hashserv.Author(author)}, nil
}

// Exists implements [hashserv.Store]. While memory is complete it neither reads the file nor allocates.
func (z *HashZone) Exists(ctx context.Context, unihashes []hashserv.Unihash, answers []bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	memory := z.h.memory.Load()
	for i, u := range unihashes {
		yes, known := memory.mapped(keyOfUnihash(z.name, u))
		if !known {
			return z.readExists(ctx, unihashes, answers)
		}
		answers[i] = yes
	}
	return nil
}

func (z *HashZone) readExists(ctx context.Context, unihashes []hashserv.Unihash, answers []bool) error {
	err := z.h.read(ctx, func(tx *sql.Tx) error {
		exists := tx.StmtContext(ctx, z.h.reads[selectExists])
		for i, u := range unihashes {
			if err := exists.QueryRowContext(ctx, z.name, u[:]).Scan(&answers[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for %d unihashes: %w", len(unihashes), unavailable(err))
	}
	return nil
}

// read runs do on one connection, at one moment of the database's life.
func (h *Hashes) read(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := h.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return do(tx)
}

// Outhash implements [hashserv.Store]. It reads the file.
func (z *HashZone) Outhash(ctx context.Context, q hashserv.Query) (*hashserv.Row, error) {
	query, hash := mappedRow, q.Outhash
	if q.Bare {
		query = bareRow
	}
	if q.Outhash != "" {
		query += byOuthash
	} else {
		query, hash = query+byTaskhash, q.Taskhash
	}
	row := &hashserv.Row{Task: hashserv.Task{Method: q.Method}}
	var taskhash, outhash any
	var created, author int64
	var unihash, sum, siginfo, base []byte
	err := z.h.reads[query].QueryRowContext(ctx, z.name, q.Method, hashText(hash)).Scan(&row.ID, &taskhash, &outhash, &created, &unihash, &author,
		&row.Mark, &row.Owner, &row.PN, &row.PV, &row.PR, &row.Details.Task, &sum, &siginfo, &base)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up a row: %w", unavailable(err))
	}
	var one, two bool
	row.Taskhash, one = textOfHash(taskhash)
	row.Outhash, two = textOfHash(outhash)
	if !one || !two {
		return nil, fmt.Errorf("row %d does not make sense: %w", row.ID, ErrCorrupt)
	}
	copy(row.Unihash[:], unihash)
	row.Created, row.Author = time.UnixMicro(created).UTC(), hashserv.Author(author)
	if row.Siginfo, err = z.h.expand(sum, siginfo, base); err != nil {
		return nil, fmt.Errorf("text of row %d: %w: %w", row.ID, ErrCorrupt, err)
	}
	return row, nil
}

// unavailable says that asking again may help.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", hashserv.ErrUnavailable, classify(err))
}
