package sshd

import (
	"bytes"
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
func (h *handlers) Filecmd(r *sftp.Request) (err error) {
	defer h.recovered(&err)
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

// writer is a file open for writing. pkg/sftp writes from several goroutines, and waits with the close for the writes that a client
// sent before it.
type writer struct {
	handlers *handlers
	path     string
	body     *io.PipeReader
	to       *io.PipeWriter
	wanted   chan struct{} // closed when the gateway asks for the first byte
	want     func()
	done     chan struct{} // closed when the gateway has answered
	err      error         // its answer

	mu     sync.Mutex       // guards what follows
	moved  sync.Cond        // busy or broken changed
	next   int64            // where the body goes on
	busy   bool             // somebody writes at next
	early  map[int64][]byte // what came before its turn, by offset
	broken error            // why the body will not be whole, the first reason
}

func newWriter(h *handlers, path string) *writer {
	w := &writer{handlers: h, path: path, wanted: make(chan struct{}), done: make(chan struct{}), early: map[int64][]byte{}}
	w.want = sync.OnceFunc(func() { close(w.wanted) })
	w.moved.L = &w.mu
	w.body, w.to = io.Pipe()
	return w
}

func (w *writer) node(size int64) node {
	return node{name: path.Base(w.path), size: size, time: time.Now()}
}

// put hands the body to the gateway.
func (w *writer) put(ctx context.Context, s *gateway.Session, at place) {
	defer close(w.done)
	defer w.body.Close()
	defer w.handlers.recovered(&w.err)
	defer context.AfterFunc(ctx, func() { w.fail(errLeft) })()
	_, w.err = s.Put(ctx, at.zone, at.rest, w)
	if w.err != nil {
		w.fail(deniedWrite(w.err)) // or what made it fail, which came first
	}
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
	w.moved.Broadcast()
}

// WriteAt implements io.WriterAt for writes that together go from the beginning to the end.
func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	mine, err := w.enter(p, off)
	if mine {
		err = w.writeOn(p)
	}
	if err != nil {
		w.fail(err)
		return 0, w.outcome()
	}
	return len(p), nil
}

// maxEarly bounds what a session holds of bytes that came before their turn.
const maxEarly = 8 << 20

// enter waits while somebody else writes. It reports whether p is what comes next; when it does not, it is held until its turn, as
// far as there is room.
func (w *writer) enter(p []byte, off int64) (mine bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && w.broken == nil && off >= w.next {
		w.moved.Wait()
	}
	_, twice := w.early[off]
	switch {
	case w.broken != nil:
		return false, w.broken
	case off < w.next || twice:
		return false, errWriteOrder
	case off == w.next:
		w.busy = true
		return true, nil
	case w.handlers.early.Add(int64(len(p))) > maxEarly:
		w.handlers.early.Add(-int64(len(p)))
		return false, errWriteOrder
	}
	w.early[off] = bytes.Clone(p)
	return false, nil
}

// writeOn writes p, and what follows it if that came before.
func (w *writer) writeOn(p []byte) error {
	for len(p) > 0 {
		if _, err := w.to.Write(p); err != nil {
			return errWriteOrder // unless there is another reason already, the gateway saw the end, and this is behind it
		}
		p = w.leave(len(p))
	}
	return nil
}

// leave counts n bytes and returns those that follow them, if they are here. If not, the turn is anybody's.
func (w *writer) leave(n int) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next += int64(n)
	p := w.early[w.next]
	w.dropEarly(w.next)
	if p == nil {
		w.busy = false
		w.moved.Broadcast()
	}
	return p
}

// dropEarly forgets bytes that were held. w.mu is held.
func (w *writer) dropEarly(off int64) {
	w.handlers.early.Add(-int64(len(w.early[off])))
	delete(w.early, off)
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

// TransferError is told that the channel ended before the file was closed: nothing is published.
func (w *writer) TransferError(error) { w.fail(errLeft) }

// Close ends the body, unless something went wrong before, and returns what became of the file.
func (w *writer) Close() error {
	defer w.handlers.leave()
	if w.hasHole() {
		w.fail(errWriteOrder)
	}
	w.to.Close()
	if err := w.outcome(); err != nil {
		w.handlers.forget(w.path)
		return err
	}
	w.mu.Lock() // a write that the client sent after the close may be under way, and fail
	size := w.next
	w.mu.Unlock()
	w.handlers.remember(w.path, w.node(size))
	return nil
}

// hasHole reports whether bytes wait for others that did not come, and forgets them.
func (w *writer) hasHole() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	hole := len(w.early) > 0
	for off := range w.early {
		w.dropEarly(off)
	}
	return hole
}
