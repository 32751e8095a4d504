package sshd

import (
	"context"
	"errors"
	"io"
	"path"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/lychgate/lychgate/gateway"
)

// create opens a file for writing, which is a plain PUT whose body the client writes from the beginning to the end. CLOSE is answered
// with what became of it. It can be neither read meanwhile nor appended to. An exclusive open means nothing else: a name that is
// taken keeps its bytes anyway, and the gate does not say so to who may not know.
func (h *handlers) create(r *sftp.Request) (*writer, error) {
	ctx := h.life()
	at, s, err := h.writable(ctx, r.Filepath)
	if err != nil {
		return nil, deniedWrite(err)
	}
	if flags := r.Pflags(); flags.Read || flags.Append || !flags.Write || !flags.Creat {
		return nil, errWriteFlags
	}
	w := newWriter(h, r.Filepath)
	go w.put(ctx, s, at)
	select {
	case <-w.wanted:
		h.remember(r.Filepath, w.node(0))
		return w, nil
	case <-w.done:
		return nil, deniedWrite(w.err)
	}
}

// writable returns where a path is, and a session that may write in its zone. A path that is none is at no zone that anybody may
// write in.
func (h *handlers) writable(ctx context.Context, path string) (place, *gateway.Session, error) {
	at, ok := parsePath(path)
	if !ok || at.isRoot() {
		return place{}, nil, gateway.ErrNotFound
	}
	s, err := h.tree.session(ctx)
	if err == nil {
		err = s.MayWrite(ctx, at.zone)
	}
	return at, s, err
}

// deniedWrite turns an error of a write into what a client is told: who may not write learns nothing of names.
func deniedWrite(err error) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return errReadOnly
	}
	return statusOf(err)
}

// Filecmd answers what would change something other than a file's bytes.
func (h *handlers) Filecmd(r *sftp.Request) error {
	switch r.Method {
	case "Setstat":
		return h.setStat(r.Filepath)
	case "Mkdir":
		return h.makeDir(r.Filepath)
	case "Rename", "Rmdir", "Remove", "Link", "Symlink":
		return errForever
	}
	return errUnsupported
}

// setStat takes times and modes of what this session wrote, and of directories that it may make, and keeps none: clients set them on
// what they copy.
func (h *handlers) setStat(path string) error {
	if _, ok := h.remembered(path); ok {
		return nil
	}
	at, _, err := h.writable(h.life(), path)
	switch {
	case err != nil:
		return statusOf(err)
	case at.isDirectory():
		return nil
	}
	return errReadOnly
}

// makeDir makes directories of the grammar appear to who may write there: they need not be made.
func (h *handlers) makeDir(path string) error {
	at, _, err := h.writable(h.life(), path)
	switch {
	case err != nil:
		return deniedWrite(err)
	case !at.isDirectory():
		return errReadOnly
	}
	h.remember(path, directory(at.base()))
	return nil
}

// writer is a file open for writing. pkg/sftp writes from several goroutines and closes after the last.
type writer struct {
	handlers *handlers
	path     string
	body     *io.PipeReader
	to       *io.PipeWriter
	wanted   chan struct{} // closed when the gateway asks for the first byte
	want     func()
	done     chan struct{} // closed when the gateway has answered
	err      error         // its answer

	mu     sync.Mutex    // guards what follows
	next   int64         // where the next write must be
	turn   chan struct{} // closed when next moves
	busy   bool          // somebody writes at next
	broken error         // why the body will not be whole, the first reason
}

func newWriter(h *handlers, path string) *writer {
	w := &writer{handlers: h, path: path, wanted: make(chan struct{}), done: make(chan struct{}), turn: make(chan struct{})}
	w.want = sync.OnceFunc(func() { close(w.wanted) })
	w.body, w.to = io.Pipe()
	return w
}

func (w *writer) node(size int64) node {
	return node{name: path.Base(w.path), size: size, time: time.Now()}
}

// put hands the body to the gateway.
func (w *writer) put(ctx context.Context, s *gateway.Session, at place) {
	defer context.AfterFunc(ctx, func() { w.fail(errLeft) })()
	_, w.err = s.Put(ctx, at.zone, at.rest, w)
	if w.err != nil {
		w.fail(deniedWrite(w.err)) // or what made it fail, which came first
	}
	w.body.Close()
	close(w.done)
}

// Read gives the gateway the body.
func (w *writer) Read(p []byte) (int, error) {
	w.want()
	return w.body.Read(p)
}

// errLeft is what the gateway is told of a body whose client is gone. It must never be io.EOF, which is the end of a whole one.
var errLeft = errors.New("the client left")

// fail makes sure that the body does not become whole.
func (w *writer) fail(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == nil {
		w.broken = why
	}
	w.to.CloseWithError(w.broken)
}

// WriteAt implements io.WriterAt for writes that together go from the beginning to the end.
func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	if err := w.await(off); err != nil {
		w.fail(err)
		return 0, w.outcome()
	}
	n, err := w.to.Write(p)
	w.advance(int64(n))
	if err != nil {
		w.fail(errWriteOrder) // unless there is a reason already, the gateway saw the end and there is more
		return n, w.outcome()
	}
	return n, nil
}

// outcome waits for the gateway to answer and returns what became of the file.
func (w *writer) outcome() error {
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	var ours *status
	switch {
	case errors.As(w.broken, &ours):
		return ours
	case w.err == nil && w.broken != nil:
		return errBusy
	}
	return deniedWrite(w.err)
}

// await waits until it is the turn of the bytes at off. Those before them are on their way in other goroutines, if the client left
// no hole.
func (w *writer) await(off int64) error {
	if off < 0 {
		return errWriteOrder
	}
	for {
		w.mu.Lock()
		turn, next := w.turn, w.next
		mine := off == next && !w.busy
		if mine {
			w.busy = true
		}
		w.mu.Unlock()
		switch {
		case mine:
			return nil
		case off < next:
			return errWriteOrder
		}
		if err := w.waitFor(turn); err != nil {
			return err
		}
	}
}

// waitFor waits for a turn, not for ever, and never with all of pkg/sftp's workers.
func (w *writer) waitFor(turn chan struct{}) error {
	if !w.handlers.waiting.enter() {
		return errWriteOrder
	}
	defer w.handlers.waiting.leave()
	late := time.NewTimer(w.handlers.limits.ProgressWindow)
	defer late.Stop()
	select {
	case <-turn:
		return nil
	case <-w.done:
	case <-late.C:
	case <-w.handlers.life().Done():
	}
	return errWriteOrder
}

// advance gives the turn to the bytes behind.
func (w *writer) advance(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next += n
	w.busy = false
	close(w.turn)
	w.turn = make(chan struct{})
}

// TransferError is told that the channel ended before the file was closed: nothing is published.
func (w *writer) TransferError(error) { w.fail(errLeft) }

// Close ends the body, unless something went wrong before, and returns what became of the file.
func (w *writer) Close() error {
	defer w.handlers.leave()
	w.to.Close()
	if err := w.outcome(); err != nil {
		w.handlers.forget(w.path)
		return err
	}
	w.handlers.remember(w.path, w.node(w.next))
	return nil
}

// waiters counts the workers of a session that wait for others. Each true of enter is followed by one leave.
type waiters struct {
	mu sync.Mutex // guards n
	n  int
}

func (w *waiters) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n >= sftp.SftpServerWorkerCount-1 {
		return false
	}
	w.n++
	return true
}

func (w *waiters) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n--
}
