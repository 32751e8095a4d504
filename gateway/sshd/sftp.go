package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/lychgate/lychgate/gateway"
)

// status is what a client is told: a code of SFTP (draft-ietf-secsh-filexfer-02, section 7) and a text.
type status struct {
	code error // one of pkg/sftp's
	text string
}

func (s *status) Error() string { return s.text }

// Unwrap lets pkg/sftp find the code.
func (s *status) Unwrap() error { return s.code }

// The fixed answers. Nothing that a client sent is in any.
var (
	errAbsent      = &status{sftp.ErrSSHFxNoSuchFile, "no such file"}
	errSignedOut   = &status{sftp.ErrSSHFxPermissionDenied, "signed out; sign in again"}
	errBusy        = &status{sftp.ErrSSHFxFailure, "unavailable for now; try again"}
	errReadOnly    = &status{sftp.ErrSSHFxPermissionDenied, "permission denied"}
	errForever     = &status{sftp.ErrSSHFxPermissionDenied, "nothing is removed or renamed through the gate"}
	errHandles     = &status{sftp.ErrSSHFxFailure, "too many open files and directories; close some"}
	errWriteFlags  = &status{sftp.ErrSSHFxFailure, "a file is either read, or written whole: neither appended to nor changed"}
	errWriteOrder  = &status{sftp.ErrSSHFxFailure, "write from the beginning to the end"}
	errUnsupported = &status{sftp.ErrSSHFxOpUnsupported, "not supported"}
)

// statusOf turns an error of gateway.Session into what a client is told of it.
func statusOf(err error) error {
	var mistake *gateway.RequestError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mistake) && mistake.Status == http.StatusForbidden:
		return &status{sftp.ErrSSHFxPermissionDenied, mistake.Error()}
	case errors.As(err, &mistake):
		return &status{sftp.ErrSSHFxFailure, mistake.Error()}
	case errors.Is(err, gateway.ErrNotFound):
		return errAbsent
	case errors.Is(err, gateway.ErrUnauthenticated):
		return errSignedOut
	}
	return errBusy
}

// serveSFTP speaks SFTP on a channel until the client ends it. When the client takes nothing, or ctx ends, it closes the channel and
// returns soon; what then still waits for the channel ends with its connection, which the caller must close.
func serveSFTP(ctx context.Context, channel io.ReadWriteCloser, t *tree, l Limits) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	f := newFilter(channel, l, end)
	h := &handlers{tree: t, life: func() context.Context { return ctx }, limits: l, fault: end, mine: map[string]node{}}
	// Without pkg/sftp's allocator, which keeps 256 KiB for each request that ever was in flight until the channel ends, and is no faster.
	server := sftp.NewRequestServer(f, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}, sftp.WithRSMaxTxPacket(maxPayload))
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	select {
	case err := <-served:
		return clientEnded(err)
	case <-ctx.Done():
	}
	err := context.Cause(ctx)
	if !errors.Is(err, io.EOF) {
		channel.Close()
	}
	select {
	case <-served:
	case <-time.After(endGrace):
	}
	return clientEnded(err)
}

// endGrace is how long a session is waited for that should end.
const endGrace = 2 * time.Second

// clientEnded makes nothing of a client that left.
func clientEnded(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// maxMine is how many paths a session remembers to have written.
const maxMine = 1024

// handlers answers what pkg/sftp reads from one channel. It asks for reads and writes at once from several goroutines, for the rest
// from one.
type handlers struct {
	tree   *tree
	life   func() context.Context // ends with the channel; pkg/sftp hands out none that does
	limits Limits
	fault  func(error) // ends the session

	mu   sync.Mutex // guards what follows
	open int
	// mine has what this session wrote or made. Others see it once it is published; its writer must find it, as clients that copy
	// trees and set times and modes look for what they have just made.
	mine map[string]node

	early atomic.Int64 // bytes that wait for their turn to be written
}

// errPanic is wrapped by the end of a session in which something panicked.
var errPanic = errors.New("panic in an SFTP session")

// recovered makes a failure of a panic, and ends the session. pkg/sftp calls its handlers from goroutines of its own, in which a panic
// would end the process.
func (h *handlers) recovered(err *error) {
	if p := recover(); p != nil {
		h.fault(fmt.Errorf("%w: %v\n%s", errPanic, p, stack()))
		*err = statusOf(gateway.ErrUnavailable)
	}
}

// enter counts a handle. Each nil is followed by one leave.
func (h *handlers) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open >= h.limits.OpenHandles {
		return errHandles
	}
	h.open++
	return nil
}

func (h *handlers) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
}

func (h *handlers) remember(path string, n node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.mine[path]; known || len(h.mine) < maxMine {
		h.mine[path] = n
	}
}

func (h *handlers) forget(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mine, path)
}

func (h *handlers) remembered(path string) (node, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.mine[path]
	return n, ok
}

// Fileread opens for reading.
func (h *handlers) Fileread(r *sftp.Request) (_ io.ReaderAt, err error) {
	defer h.recovered(&err)
	if err := h.enter(); err != nil {
		return nil, err
	}
	content, err := h.tree.open(h.life(), r.Filepath)
	if err != nil {
		h.leave()
		return nil, statusOf(err)
	}
	return &reader{handlers: h, content: content}, nil
}

// Filewrite opens for writing. The flags are looked at only for those who may write at all.
func (h *handlers) Filewrite(r *sftp.Request) (_ io.WriterAt, err error) {
	defer h.recovered(&err)
	if err := h.enter(); err != nil {
		return nil, err
	}
	w, err := h.create(r)
	if err != nil {
		h.leave()
		return nil, err
	}
	return w, nil
}

// Filelist answers OPENDIR, STAT and FSTAT.
func (h *handlers) Filelist(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer h.recovered(&err)
	if r.Method == "List" {
		return h.list(r.Filepath)
	}
	return h.Lstat(r)
}

// Lstat answers LSTAT: there are no links.
func (h *handlers) Lstat(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer h.recovered(&err)
	n, err := h.tree.stat(h.life(), r.Filepath)
	if errors.Is(err, gateway.ErrNotFound) {
		if own, ok := h.remembered(r.Filepath); ok {
			n, err = own, nil
		}
	}
	if err != nil {
		return nil, statusOf(err)
	}
	return one{n}, nil
}

// Readlink finds no links.
func (h *handlers) Readlink(string) (string, error) { return "", errAbsent }

// RealPath answers REALPATH.
func (h *handlers) RealPath(p string) (string, error) {
	clean, err := realPath(p)
	return clean, statusOf(err)
}

// LookupUserName names the owner in listings.
func (h *handlers) LookupUserName(string) string { return "lychgate" }

// LookupGroupName names the group in listings.
func (h *handlers) LookupGroupName(string) string { return "lychgate" }

func (h *handlers) list(path string) (sftp.ListerAt, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	l := &lister{handlers: h, path: path}
	if err := l.read(); err != nil {
		h.leave()
		return nil, statusOf(err)
	}
	return l, nil
}

// one is the answer to STAT.
type one struct{ node }

// ListAt implements sftp.ListerAt.
func (o one) ListAt(into []os.FileInfo, _ int64) (int, error) {
	into[0] = o.node
	return 1, nil
}

// listedFor is how long a listing is shown before the principal's rights are asked for again.
const listedFor = time.Second

// lister is an open directory.
type lister struct {
	handlers *handlers
	path     string
	left     []node    // sorted
	when     time.Time // of left
}

// read lists the directory.
func (l *lister) read() error {
	nodes, err := l.handlers.tree.readDir(l.handlers.life(), l.path)
	if own, ok := l.handlers.remembered(l.path); ok && own.dir && errors.Is(err, gateway.ErrNotFound) {
		err = nil
	}
	l.left, l.when = nodes, time.Now()
	return err
}

// ListAt shows the next names. It ignores the offset, which only ever grows by what was shown.
func (l *lister) ListAt(into []os.FileInfo, _ int64) (_ int, err error) {
	defer l.handlers.recovered(&err)
	if len(l.left) > 0 && time.Since(l.when) > listedFor {
		next := l.left[0].name
		if err := l.read(); err != nil {
			return 0, statusOf(err)
		}
		for len(l.left) > 0 && l.left[0].name < next {
			l.left = l.left[1:]
		}
	}
	n := min(len(into), len(l.left))
	for i := range n {
		into[i] = l.left[i]
	}
	if l.left = l.left[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close ends the listing.
func (l *lister) Close() error {
	l.handlers.leave()
	return nil
}
