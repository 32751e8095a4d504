package httpd

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/gateway/limit"
)

// workTimeout is how long an answer may take once the whole body is there: the commit of an import reads every byte in the
// mirror first.
const workTimeout = time.Hour

// pacedReader is a request body that must keep moving. As it moves, so does the deadline of the answer; once it is all there,
// the answer has workTimeout.
type pacedReader struct {
	r      io.Reader
	ctl    *http.ResponseController
	window time.Duration
	pace   limit.Pace
	set    time.Time
}

func newPacedReader(w http.ResponseWriter, r io.Reader, l Limits) *pacedReader {
	return &pacedReader{r: r, ctl: http.NewResponseController(w), window: l.ProgressWindow, pace: limit.NewPace(l.ProgressWindow, l.ProgressBytes)}
}

func (p *pacedReader) Read(b []byte) (int, error) {
	deadline, err := p.pace.Step()
	if err != nil {
		return 0, err
	}
	if deadline != p.set {
		err := errors.Join(p.ctl.SetReadDeadline(deadline), p.ctl.SetWriteDeadline(deadline.Add(p.window)))
		if err != nil {
			return 0, err
		}
		p.set = deadline
	}
	n, err := p.r.Read(b)
	p.pace.Moved(n)
	if err == io.EOF {
		if err := p.ctl.SetWriteDeadline(time.Now().Add(workTimeout)); err != nil {
			return n, err
		}
	}
	return n, err
}

// pacedWriter is a response body that must keep moving.
type pacedWriter struct {
	w     io.Writer
	ctl   *http.ResponseController
	pace  limit.Pace
	set   time.Time
	isCut atomic.Bool
}

func newPacedWriter(w http.ResponseWriter, l Limits) *pacedWriter {
	return &pacedWriter{w: w, ctl: http.NewResponseController(w), pace: limit.NewPace(l.ProgressWindow, l.ProgressBytes)}
}

var errCut = errors.New("the right to read was withdrawn")

// cut ends a Write under way, which may wait for a client that takes nothing, and forbids every later one.
func (p *pacedWriter) cut() {
	p.isCut.Store(true)
	_ = p.ctl.SetWriteDeadline(time.Unix(1, 0)) // without it, the Write ends with its window
}

// piece is how much is written under one deadline: what the floor demands in a window moves in one.
const piece = 32 << 10

func (p *pacedWriter) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		deadline, err := p.pace.Step()
		if err != nil {
			return sent, err
		}
		if deadline != p.set {
			if err := p.ctl.SetWriteDeadline(deadline); err != nil {
				return sent, err
			}
			p.set = deadline
		}
		if p.isCut.Load() { // asked after the deadline is set, which may have undone that of cut
			return sent, errCut
		}
		n, err := p.w.Write(b[sent:min(len(b), sent+piece)])
		sent += n
		p.pace.Moved(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
