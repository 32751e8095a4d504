package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// body reads a response with two demands: it is exactly as long as announced, and it comes fast enough. Only time spent waiting for
// the mirror counts, not the time its reader takes.
type body struct {
	src    io.ReadCloser
	cancel context.CancelCauseFunc
	left   int64 // bytes that must still come

	floor  int64
	window time.Duration
	timer  *time.Timer
	got    int64         // bytes in this window
	waited time.Duration // of this window
	err    error         // what every further Read returns
}

func (h *HTTP) body(resp *http.Response, cancel context.CancelCauseFunc) *body {
	b := &body{src: resp.Body, cancel: cancel, left: resp.ContentLength, floor: h.cfg.FloorBytes, window: h.cfg.FloorWindow}
	b.timer = time.AfterFunc(b.window, func() { cancel(errStalled) })
	b.timer.Stop()
	return b
}

// Read implements io.Reader. io.EOF comes after the last announced byte and never before.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	var one [1]byte
	if b.left == 0 {
		p = one[:] // nothing may follow
	}
	n, stalled, err := b.timedRead(p[:min(int64(len(p)), max(b.left, 1))])
	if b.left == 0 && n > 0 {
		n, err = 0, errors.New("the mirror sent more than it announced")
	}
	b.left -= int64(n)
	b.err = b.judge(err, stalled)
	return n, b.err
}

// timedRead reads once, at most until the window is over, and reports whether it was. A window ends, and the next begins, as soon as
// the floor is reached, so that the timer only ever fires below it.
func (b *body) timedRead(p []byte) (n int, stalled bool, err error) {
	start := time.Now()
	b.timer.Reset(b.window - b.waited)
	n, err = b.src.Read(p)
	stalled = !b.timer.Stop()
	b.got += int64(n)
	b.waited += time.Since(start)
	if b.got >= b.floor {
		b.got, b.waited = 0, 0
	}
	return n, stalled, err
}

// judge turns the outcome of a read into what the reader sees.
func (b *body) judge(err error, stalled bool) error {
	switch {
	case err == nil && stalled:
		return errStalled
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) && b.left == 0:
		return io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	case stalled:
		err = errStalled
	}
	return fmt.Errorf("read from the mirror, %d bytes before the end: %w", b.left, err)
}

// Close ends the request.
func (b *body) Close() error {
	b.timer.Stop()
	err := b.src.Close()
	b.cancel(nil)
	return err
}
