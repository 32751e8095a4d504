package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrUnavailable is wrapped by every error of a journal that cannot be written at the moment. No event may be taken for
	// recorded, so nothing may be served: a 503.
	ErrUnavailable = errors.New("audit journal is not writable")
	// ErrTooLarge is wrapped when one event does not fit in a line of 16 MiB. The journal stays writable.
	ErrTooLarge = errors.New("audit event is too large")
)

// Config says where and how a [Journal] is kept.
type Config struct {
	Dir  string // created when absent; one journal at a time may have it open
	Node string // this node's name, 1 to 64 of A-Z a-z 0-9 . _ -; it may not change over the life of the directory
	// Strict makes Append wait for fsync. Otherwise a line is with the kernel when Append returns, so that a killed process loses
	// nothing, and on disk within FsyncEvery, if Run is running.
	Strict       bool
	FsyncEvery   time.Duration // default 5 ms
	SegmentBytes int64         // a segment longer than this is followed by a new one; default 64 MiB
	MinFree      int64         // octets: the journal is not writable while its file system has less; 0 for no floor
	Now          func() time.Time
	// OnState, when set, is told each time the journal becomes writable or unwritable, one call at a time. It must not call the
	// Journal's other methods than Err.
	OnState func(State)
	// FS replaces the file system, for tests that inject faults. Reading always goes to Dir.
	FS FS
}

// State says whether the journal can be written.
type State struct {
	Writable bool
	Err      error // why not; wraps ErrUnavailable
}

const (
	// maxUnsynced bounds the memory that holds lines until they are durable; an Append beyond it waits for fsync.
	maxUnsynced = 16 << 20
	// maxPooled is the largest buffer that is kept for reuse.
	maxPooled = 1 << 20
	// maxOpen bounds the transfers under way that the journal keeps count of.
	maxOpen = 1 << 15
)

// Journal is the writer of an audit trail. Its methods are safe for concurrent use.
//
// Locks are taken in the order flushing, io, mu. Lines are encoded without any; mu is held while a line gets its number, hash and
// place in a batch; io while one caller writes the batch of all that wait; flushing while one caller makes
// written lines durable.
type Journal struct {
	cfg   Config
	fs    FS
	boot  string
	start time.Time
	lock  *os.File

	flushing chan struct{} // holds one token while somebody syncs, changes the segment or recovers
	kick     chan struct{} // wakes Run: there is something to sync, or to recover from

	io   sync.Mutex
	file File        // the open segment
	seg  segment     // its name
	id   os.FileInfo // what the directory showed under that name when it was opened
	size int64       // octets of whole lines in it; more may be there after a failed write
	// distrusted says that fsync failed on the segment or that it vanished: it is never written or synced again.
	distrusted bool
	closed     bool // guarded by flushing

	mu          sync.Mutex
	cur         *batch // where lines are staged
	next        uint64 // the number of the next line
	head        digest // of the last line staged
	written     uint64 // the last line that is with the kernel
	writtenHead digest
	// inflight and unsynced together hold every written line that is not known to be durable: first those that a sync under
	// way covers, then those that came after it began.
	inflight, unsynced []byte
	open               map[string]Object // transfers under way, by request
	err                error             // why the journal is not writable; wraps ErrUnavailable
	refused            uint64            // events refused since then

	durable   atomic.Uint64 // the last line that is on disk
	announced struct {      // what OnState was told last
		sync.Mutex
		err error
	}
	batches, scratches sync.Pool
}

// batch is the lines that one write(2) carries.
type batch struct {
	buf     []byte
	first   uint64
	last    uint64
	head    digest
	waiters atomic.Int32
	// Guarded by Journal.io.
	done bool
	err  error
}

// scratch holds encoded bodies on their way into a batch.
type scratch struct {
	buf  []byte
	ends []int
}

// Open recovers the journal in cfg.Dir, or begins one, and makes it ready to append. It cuts off an incomplete last line,
// which no Append had acknowledged, and records an "audit.gap" event for each transfer whose end the previous boot did not
// record. A trail that contradicts itself anywhere else in what Open reads is an error: nothing is repaired silently.
func Open(cfg Config) (*Journal, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create audit directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	j := newJournal(cfg, lock)
	if err := j.begin(); err != nil {
		if j.file != nil {
			j.file.Close()
		}
		lock.Close()
		return nil, fmt.Errorf("open audit journal: %w", err)
	}
	return j, nil
}

// complete checks cfg and fills in the defaults.
func (cfg *Config) complete() error {
	if cfg.Dir == "" {
		return errors.New("open audit journal: no directory is configured")
	}
	if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString(cfg.Node) {
		return fmt.Errorf("open audit journal: node name %q: use 1 to 64 letters, digits, '.', '_' and '-'", cfg.Node)
	}
	if cfg.FsyncEvery <= 0 {
		cfg.FsyncEvery = 5 * time.Millisecond
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = 64 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FS == nil {
		cfg.FS = osFS{cfg.Dir}
	}
	return nil
}

func newJournal(cfg Config, lock *os.File) *Journal {
	return &Journal{
		cfg:       cfg,
		fs:        cfg.FS,
		boot:      rand.Text(),
		start:     cfg.Now(),
		lock:      lock,
		flushing:  make(chan struct{}, 1),
		kick:      make(chan struct{}, 1),
		cur:       &batch{},
		open:      map[string]Object{},
		batches:   sync.Pool{New: func() any { return &batch{} }},
		scratches: sync.Pool{New: func() any { return &scratch{} }},
	}
}

// Append records e. It sets e's Seq, Boot, Node, Time and Mono and returns the sequence number once the line is with the
// kernel, in strict mode once it is on disk. An error means that the event may not be relied on and that what it stands for
// must not happen; it wraps [ErrUnavailable] or [ErrTooLarge].
func (j *Journal) Append(e *Event) (uint64, error) {
	return j.AppendBatch([]*Event{e})
}

// AppendBatch records events in order, without any other between them and with one write: all are recorded or none is
// acknowledged. It returns the sequence number of the last. Otherwise it is as Append.
func (j *Journal) AppendBatch(events []*Event) (uint64, error) {
	if len(events) == 0 {
		return 0, nil
	}
	last, err := j.append(events)
	if err != nil {
		return 0, fmt.Errorf("append audit event: %w", err)
	}
	if !j.cfg.Strict && !j.crowded() {
		return last, nil
	}
	return last, j.Durable(context.Background(), last)
}

func (j *Journal) append(events []*Event) (uint64, error) {
	s := j.scratches.Get().(*scratch)
	defer j.putScratch(s)
	for _, e := range events {
		start := len(s.buf)
		s.buf = appendBody(s.buf, e)
		s.ends = append(s.ends, len(s.buf))
		if len(s.buf)-start > maxJSON-1024 { // the head is shorter than 1 KiB
			return 0, ErrTooLarge
		}
	}
	b, last, err := j.stage(events, s)
	if err != nil {
		return 0, err
	}
	if err := j.commit(b); err != nil {
		j.forget(events)
		return 0, err
	}
	return last, nil
}

// putScratch keeps s for the next caller, unless it has grown for one huge event.
func (j *Journal) putScratch(s *scratch) {
	if cap(s.buf) <= maxPooled {
		s.buf, s.ends = s.buf[:0], s.ends[:0]
		j.scratches.Put(s)
	}
}

// crowded reports whether so much waits for fsync that the caller should too.
func (j *Journal) crowded() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.inflight)+len(j.unsynced) > maxUnsynced
}

// stage gives events their numbers and places them in the current batch.
func (j *Journal) stage(events []*Event, s *scratch) (*batch, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		j.refused += uint64(len(events))
		return nil, 0, j.err
	}
	start := 0
	for i, e := range events {
		j.place(e, s.buf[start:s.ends[i]])
		start = s.ends[i]
	}
	j.cur.waiters.Add(1)
	return j.cur, j.next - 1, nil
}

// place appends one line to the current batch. The caller holds mu.
func (j *Journal) place(e *Event, body []byte) {
	now := j.cfg.Now()
	e.Seq, e.Boot, e.Node = j.next, j.boot, j.cfg.Node
	e.Time, e.Mono = now.UTC(), int64(now.Sub(j.start))
	b := j.cur
	if len(b.buf) == 0 {
		b.first = e.Seq
	}
	start := len(b.buf)
	b.buf = appendFramePrefix(b.buf)
	b.buf = append(appendHead(b.buf, e), '"')
	b.buf = hex.AppendEncode(b.buf, j.head[:])
	b.buf = append(append(b.buf, '"'), body...)
	b.buf, j.head = closeFrame(b.buf, start)
	b.last, b.head = e.Seq, j.head
	j.next++
	j.track(e)
}

// track keeps count of the transfers under way.
func (j *Journal) track(e *Event) {
	switch {
	case opensTransfer(e) && len(j.open) < maxOpen:
		j.open[e.Request] = Object{Path: e.Object.Path, Size: e.Object.Size, Request: e.Request}
	case closesTransfer(e):
		delete(j.open, e.Request)
	}
}

// forget undoes track for events that could not be recorded: what was not opened is not under way, and an end
// that is not in the trail is still owed to it.
func (j *Journal) forget(events []*Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refused += uint64(len(events))
	for _, e := range events {
		switch {
		case opensTransfer(e):
			delete(j.open, e.Request)
		case closesTransfer(e) && len(j.open) < maxOpen:
			j.open[e.Request] = Object{Path: e.Object.Path, Size: e.Object.Size, Request: e.Request}
		}
	}
}

func opensTransfer(e *Event) bool {
	return e.Request != "" && e.Kind == KindDecision && e.Action == "read" && e.Decision.Verdict == "allow"
}

func closesTransfer(e *Event) bool {
	return e.Request != "" && (e.Kind == KindTransfer || e.Kind == KindMismatch || e.Kind == KindGap)
}

// commit returns once batch b is with the kernel or has failed. Whoever comes first writes it for all that are in it.
func (j *Journal) commit(b *batch) error {
	j.io.Lock()
	mine := !b.done
	if mine {
		j.writeBatch()
	}
	err := b.err
	j.io.Unlock()
	if b.waiters.Add(-1) == 0 && cap(b.buf) <= maxPooled {
		*b = batch{buf: b.buf[:0]}
		j.batches.Put(b)
	}
	if mine && err != nil {
		j.announce()
	}
	return err
}

// writeBatch writes the current batch. The caller holds io.
func (j *Journal) writeBatch() error {
	b := j.take()
	err := j.write(b.buf)
	j.mu.Lock()
	defer j.mu.Unlock()
	b.done = true
	if err != nil {
		b.err = j.fail(err)
		return b.err
	}
	j.written, j.writtenHead = b.last, b.head
	if len(j.unsynced) == 0 {
		j.wake()
	}
	j.unsynced = append(j.unsynced, b.buf...)
	return nil
}

// take returns the current batch and puts an empty one in its place.
func (j *Journal) take() *batch {
	fresh := j.batches.Get().(*batch)
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.cur
	j.cur = fresh
	return b
}

// write hands whole lines to the kernel. After an error the file may hold a part of them beyond size.
func (j *Journal) write(lines []byte) error {
	if err := writeAll(j.file, lines); err != nil {
		return fmt.Errorf("write audit segment %s: %w", j.seg.name, err)
	}
	j.size += int64(len(lines))
	return nil
}

// writeAll takes a short write for the error that it is.
func writeAll(f File, lines []byte) error {
	n, err := f.Write(lines)
	if err == nil && n < len(lines) {
		err = fmt.Errorf("%w: %d of %d octets", io.ErrShortWrite, n, len(lines))
	}
	return err
}

// fail makes the journal unwritable and returns the error that says so. Whatever was staged but not written is refused, and
// its numbers are given again. The caller holds io and mu.
func (j *Journal) fail(cause error) error {
	if j.err == nil {
		j.wake()
	}
	j.err = fmt.Errorf("%w: %w", ErrUnavailable, cause)
	j.cur.done, j.cur.err = true, j.err
	j.cur = &batch{}
	j.next, j.head = j.written+1, j.writtenHead
	return j.err
}

// failNow is fail for a caller that holds io alone.
func (j *Journal) failNow(cause error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fail(cause)
}

// wake asks Run to look.
func (j *Journal) wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// announce tells OnState what changed since it was last told. No lock may be held.
func (j *Journal) announce() {
	if j.cfg.OnState == nil {
		return
	}
	j.announced.Lock()
	defer j.announced.Unlock()
	err := j.Err()
	if (err == nil) == (j.announced.err == nil) {
		return
	}
	j.announced.err = err
	j.cfg.OnState(State{Writable: err == nil, Err: err})
}

// Err returns nil while the journal can be written, and else why it cannot: an error that wraps [ErrUnavailable].
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Durable returns once the line numbered seq is on disk. Callers wait for one another: one fsync serves all. It returns ctx's
// error when ctx ends while another caller syncs, and an error that wraps [ErrUnavailable] when the disk refuses; the line
// may or may not be there then.
func (j *Journal) Durable(ctx context.Context, seq uint64) error {
	if j.durable.Load() >= seq {
		return nil
	}
	select {
	case j.flushing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for audit event %d to be durable: %w", seq, context.Cause(ctx))
	}
	var err error
	if j.durable.Load() < seq {
		err = j.flush()
	}
	done := j.durable.Load() >= seq
	<-j.flushing
	if err != nil {
		j.announce()
	}
	switch {
	case done: // whatever failed after that
		return nil
	case err == nil:
		err = fmt.Errorf("%w: it was not written", ErrUnavailable)
	}
	return fmt.Errorf("make audit event %d durable: %w", seq, err)
}

// flush makes every written line durable, recovers when the disk refuses, and moves on to a new segment when this one is full.
// The caller holds flushing.
func (j *Journal) flush() error {
	if err := j.Err(); err != nil {
		return err
	}
	if err := j.syncWritten(); err != nil {
		return j.distrust(err)
	}
	return j.rotate()
}

// syncWritten syncs the open segment. The caller holds flushing, so the segment stays open while others write to it.
func (j *Journal) syncWritten() error {
	j.mu.Lock()
	target := j.written
	// inflight is empty: the last sync succeeded, or recovery emptied it.
	j.inflight, j.unsynced = j.unsynced, j.inflight
	j.mu.Unlock()
	if target == j.durable.Load() {
		return nil
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync audit segment %s: %w", j.seg.name, err)
	}
	j.settled(target)
	return nil
}

// settled notes that everything up to seq is on disk, which is what inflight held.
func (j *Journal) settled(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.inflight = j.inflight[:0]
	j.durable.Store(seq)
}

// rotate begins a new segment when the open one is full. The caller holds flushing.
func (j *Journal) rotate() error {
	j.io.Lock()
	// A write that failed a moment ago may have left a torn line, which only recovery may leave behind.
	if err := j.Err(); err != nil || j.size < j.cfg.SegmentBytes {
		j.io.Unlock()
		return err
	}
	err := j.syncWritten() // what was written since the last; the old segment is whole before the new one exists
	if err != nil {
		j.io.Unlock()
		return j.distrust(err)
	}
	err = j.createSegment(j.seg.gen, j.written+1)
	if err != nil && j.distrusted {
		err = j.failNow(err)
		j.io.Unlock()
		return err
	}
	j.io.Unlock()
	if err != nil {
		return nil // the full segment serves on, as durable as before; the next flush tries again
	}
	return j.appendOpen()
}

// createSegment opens an empty segment and makes its name durable. When it fails and the name may stand in the directory all the
// same, the journal must not go on in the segment it has: that one is distrusted then, and the next generation takes the
// name's place. The caller holds flushing and io.
func (j *Journal) createSegment(gen uint32, first uint64) error {
	s := segment{name: segmentName(gen, first), gen: gen, first: first}
	f, err := j.fs.Create(s.name)
	if err != nil {
		j.distrusted = errors.Is(err, fs.ErrExist)
		return fmt.Errorf("create audit segment: %w", err)
	}
	if err = j.fs.SyncDir(); err == nil {
		if err = j.adopt(f, s, 0); err == nil {
			return nil
		}
	} else {
		f.Close()
	}
	j.distrusted = os.Remove(filepath.Join(j.cfg.Dir, s.name)) != nil
	return fmt.Errorf("name audit segment: %w", err)
}

// adopt makes f the open segment in place of the one there was. The caller holds flushing and io.
func (j *Journal) adopt(f File, s segment, size int64) error {
	id, err := os.Lstat(filepath.Join(j.cfg.Dir, s.name))
	if err != nil {
		f.Close()
		return fmt.Errorf("look at audit segment: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close() // everything in it is durable, or it is distrusted: nothing is left to lose
	}
	j.file, j.seg, j.id, j.size, j.distrusted = f, s, id, size, false
	return nil
}

// appendOpen records which transfers are under way, so that recovery need not read further back than this segment.
func (j *Journal) appendOpen() error {
	j.mu.Lock()
	if j.err != nil {
		defer j.mu.Unlock()
		return j.err
	}
	j.placeOpen()
	b := j.cur
	b.waiters.Add(1)
	j.mu.Unlock()
	return j.commit(b)
}

// placeOpen stages the "audit.open" event. The snapshot is exact, since the caller holds mu.
func (j *Journal) placeOpen() {
	e := Event{Kind: KindOpen, Objects: make([]Object, 0, len(j.open))}
	for _, o := range j.open {
		e.Objects = append(e.Objects, o)
	}
	j.place(&e, appendBody(nil, &e))
}

// Close makes everything durable, closes the segment and gives the directory back. Later calls of Append fail.
func (j *Journal) Close() error {
	j.flushing <- struct{}{}
	defer func() { <-j.flushing }()
	if j.closed {
		return nil
	}
	j.closed = true
	j.io.Lock()
	defer j.io.Unlock()
	var err error
	if err = j.Err(); err == nil {
		err = j.syncWritten()
	}
	j.failNow(errors.New("it was closed"))
	if err := errors.Join(err, j.file.Close(), j.lock.Close()); err != nil {
		return fmt.Errorf("close audit journal: %w", err)
	}
	return nil
}
