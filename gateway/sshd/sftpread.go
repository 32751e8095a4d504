package sshd

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/lychgate/lychgate/gateway"
)

// reader is a file open for reading. pkg/sftp reads from several goroutines, and waits with the close for the reads that a client
// sent before it, not for those that it sent after.
type reader struct {
	handlers *handlers
	content  *gateway.Content

	mu       sync.Mutex // guards the first and the last byte that were read
	off, end int64
	any      bool
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	defer r.handlers.recovered(&err)
	n, err = r.content.ReadAt(r.handlers.life(), p, off)
	if n > 0 {
		r.note(off, off+int64(n))
	}
	if err != nil && err != io.EOF { // one that wraps it is of a file cut short
		return 0, statusOf(err)
	}
	return n, err
}

func (r *reader) note(off, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.any {
		r.any, r.off, r.end = true, off, end
	}
	r.off, r.end = min(r.off, off), max(r.end, end)
}

// TransferError is told that the channel ended before the file was closed.
func (r *reader) TransferError(err error) { r.content.Fail(err) }

// Close records what was sent. The event's status is the one of the https door for the same.
func (r *reader) Close() error {
	defer r.handlers.leave()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.any || r.off == 0 && r.end == r.content.Size {
		r.content.Close(http.StatusOK, "")
	} else {
		r.content.Close(http.StatusPartialContent, fmt.Sprintf("%d-%d", r.off, r.end-1))
	}
	return nil
}
