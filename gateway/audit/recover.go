package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// checkEvery is how often Run looks whether the segment is still in its place and whether there is room, and tries to
// recover when the journal is not writable.
const checkEvery = time.Second

// Run makes lines durable every FsyncEvery, checks the segment every second, and brings an unwritable journal back within
// seconds once the disk works again. It returns nil when ctx ends, after a last sync; the journal stays open.
func (j *Journal) Run(ctx context.Context) error {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	pace := time.NewTimer(j.cfg.FsyncEvery)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			j.settle()
			return nil
		case <-check.C:
			j.check()
		case <-j.kick:
			pace.Reset(j.cfg.FsyncEvery)
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
			j.settle()
		}
	}
}

// settle makes everything written durable, or tries to recover.
func (j *Journal) settle() {
	j.exclusive(func() {
		if j.Err() != nil {
			j.recover()
		} else {
			_ = j.flush() // Err and OnState say it
		}
	})
}

// check looks after the segment.
func (j *Journal) check() {
	j.exclusive(func() {
		if j.Err() != nil {
			j.recover()
			return
		}
		if err := j.belowFloor(); err != nil {
			j.io.Lock()
			j.failNow(err)
			j.io.Unlock()
			return
		}
		j.checkPlace()
	})
}

// exclusive runs f with flushing held, unless the journal is closed, and then tells OnState what changed.
func (j *Journal) exclusive(f func()) {
	j.flushing <- struct{}{}
	if !j.closed {
		f()
	}
	<-j.flushing
	j.announce()
}

// belowFloor returns an error when the file system has less room than MinFree.
func (j *Journal) belowFloor() error {
	if j.cfg.MinFree <= 0 {
		return nil
	}
	free, err := freeSpace(j.cfg.Dir)
	if err != nil {
		return err
	}
	if free < j.cfg.MinFree {
		return fmt.Errorf("%d octets are free in %q, less than the floor of %d: make room there", free, j.cfg.Dir, j.cfg.MinFree)
	}
	return nil
}

// checkPlace begins a new segment, and says so, when the directory does not show the open one any more as it was written.
func (j *Journal) checkPlace() {
	j.io.Lock()
	now, err := os.Lstat(filepath.Join(j.cfg.Dir, j.seg.name))
	inPlace := err == nil && os.SameFile(now, j.id) && now.Size() == j.size
	if inPlace || j.Err() != nil { // after a failed write the size means nothing; recovery is at work then

		j.io.Unlock()
		return
	}
	gap := Event{Kind: KindGap, Object: Object{Path: j.seg.name}, Detail: fmt.Sprintf(
		"segment %s was removed, replaced or changed while the gate was writing it; its lines up to %d may be missing from the trail",
		j.seg.name, j.durable.Load())}
	j.distrusted = true
	err = j.replaceSegment()
	if err != nil {
		err = j.failNow(err)
	}
	j.io.Unlock()
	if err == nil && j.appendOpen() == nil {
		_, _ = j.append([]*Event{&gap}) // a failure makes the journal unwritable, which Err says
	}
}

// distrust is what follows a failed sync. The kernel may have dropped what it could not write and report success the next time, so
// the segment is never synced again: its lines that are not known to be durable go into a new one. The caller holds
// flushing.
func (j *Journal) distrust(cause error) error {
	j.io.Lock()
	j.distrusted = true
	err := j.replaceSegment()
	if err != nil {
		err = j.failNow(errors.Join(cause, err))
	}
	j.io.Unlock()
	if err != nil {
		return err
	}
	return j.appendOpen()
}

// replaceSegment begins the next generation with every line that is not known to be durable. The file appears under its name
// only when it is whole and synced. The caller holds flushing and io.
func (j *Journal) replaceSegment() error {
	j.mu.Lock()
	lines := append(append([]byte(nil), j.inflight...), j.unsynced...)
	j.mu.Unlock()
	next := segment{gen: j.seg.gen + 1, first: j.durable.Load() + 1}
	next.name = segmentName(next.gen, next.first)
	temp := next.name + tempSuffix
	_ = os.Remove(filepath.Join(j.cfg.Dir, temp)) // of an attempt that failed; Create says it if it is still there
	f, err := j.fs.Create(temp)
	if err != nil {
		return fmt.Errorf("create audit segment: %w", err)
	}
	if err := j.fillSegment(f, lines, temp, next.name); err != nil {
		f.Close()
		return err
	}
	if err := j.adopt(f, next, int64(len(lines))); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.inflight, j.unsynced = j.inflight[:0], j.unsynced[:0]
	j.durable.Store(j.written)
	return nil
}

// fillSegment writes lines into the new file f and gives it its name, durably.
func (j *Journal) fillSegment(f File, lines []byte, temp, name string) error {
	if err := writeAll(f, lines); err != nil {
		return fmt.Errorf("write audit segment %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync audit segment %s: %w", name, err)
	}
	if err := j.fs.Rename(temp, name); err != nil {
		return fmt.Errorf("name audit segment: %w", err)
	}
	if err := j.fs.SyncDir(); err != nil {
		return fmt.Errorf("sync audit directory: %w", err)
	}
	return nil
}

// recover tries to make an unwritable journal writable. The caller holds flushing.
func (j *Journal) recover() {
	j.io.Lock()
	defer j.io.Unlock()
	if err := j.restore(); err != nil {
		j.failNow(err)
		return
	}
	if err := j.probe(); err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err, j.refused = nil, 0
}

// restore brings the segment back to whole, durable lines: by cutting off what a failed write left, or else in a new segment. The
// caller holds flushing and io.
func (j *Journal) restore() error {
	if err := j.belowFloor(); err != nil {
		return err
	}
	if !j.distrusted && j.file.Truncate(j.size) == nil && j.syncWritten() == nil {
		return nil
	}
	j.distrusted = true
	return j.replaceSegment()
}

// probe shows that the journal can be written by writing to it: what happened, and what is under way. Nobody else can stage a
// line meanwhile, since err is set. The caller holds flushing and io.
func (j *Journal) probe() error {
	j.mu.Lock()
	e := Event{Kind: KindRecovered, Detail: fmt.Sprintf("%d events were refused: %v", j.refused, j.err)}
	j.place(&e, appendBody(nil, &e))
	j.placeOpen()
	j.mu.Unlock()
	if err := j.writeBatch(); err != nil {
		return err
	}
	if err := j.syncWritten(); err != nil {
		j.distrusted = true
		return j.failNow(err)
	}
	return nil
}

// begin reads what the directory holds and readies the journal to append to it.
func (j *Journal) begin() error {
	h, err := readHistory(j.cfg.Dir)
	if err != nil {
		return err
	}
	if h.node != "" && h.node != j.cfg.Node {
		return fmt.Errorf("directory %q holds the trail of node %q, not of %q: keep the node's name, or begin in an empty directory",
			j.cfg.Dir, h.node, j.cfg.Node)
	}
	if err := j.removeTemps(); err != nil {
		return err
	}
	j.next, j.head, j.open = h.last.seq+1, h.last.sum, h.open
	j.written, j.writtenHead = h.last.seq, h.last.sum
	j.durable.Store(h.last.seq)
	if h.seg.name == "" {
		err = j.createSegment(0, 1)
	} else {
		err = j.reopen(h)
	}
	if err != nil {
		return err
	}
	return j.sayOpened()
}

// removeTemps removes segments that never got their name.
func (j *Journal) removeTemps() error {
	entries, err := os.ReadDir(j.cfg.Dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "audit-") && strings.HasSuffix(e.Name(), tempSuffix) {
			err = errors.Join(err, os.Remove(filepath.Join(j.cfg.Dir, e.Name())))
		}
	}
	return err
}

// reopen continues the last segment, without the incomplete line that may end it.
func (j *Journal) reopen(h *history) error {
	f, err := j.fs.Append(h.seg.name)
	if err != nil {
		return fmt.Errorf("open audit segment: %w", err)
	}
	if h.torn {
		err = f.Truncate(h.size)
	}
	if err == nil {
		err = f.Sync() // what a killed process left with the kernel only
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("repair the end of audit segment %s: %w", h.seg.name, err)
	}
	return j.adopt(f, h.seg, h.size)
}

// sayOpened writes the first lines of this boot: a gap for each transfer that the last one left open, then that none is.
func (j *Journal) sayOpened() error {
	j.io.Lock()
	defer j.io.Unlock()
	j.mu.Lock()
	for _, o := range j.open {
		gap := Event{Kind: KindGap, Request: o.Request, Action: "read", Object: Object{Path: o.Path, Size: o.Size}, Detail: fmt.Sprintf(
			"the gate stopped before it recorded the end of this transfer: the reader may have received up to %d octets", o.Size)}
		j.place(&gap, appendBody(nil, &gap))
	}
	j.placeOpen()
	j.mu.Unlock()
	if err := j.writeBatch(); err != nil {
		return err
	}
	return j.syncWritten()
}
