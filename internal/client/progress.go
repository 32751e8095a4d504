package client

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress is told how far a push is. It is safe for concurrent use between Start and Finish.
type Progress interface {
	// Start begins work of total units. Their name is "" for bytes.
	Start(what string, total int64, unit string)
	Add(n int64)
	Finish()
}

// silence is no progress at all.
type silence struct{}

func (silence) Start(string, int64, string) {}
func (silence) Add(int64)                   {}
func (silence) Finish()                     {}

// NewBar returns a progress bar for the terminal behind w.
func NewBar(w io.Writer) Progress { return &bar{w: w} }

type bar struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

func (b *bar) Start(what string, total int64, unit string) {
	b.bar = progressbar.NewOptions64(max(total, 1), progressbar.OptionSetWriter(b.w), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(unit == ""), progressbar.OptionUseIECUnits(true), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

// A bar that cannot be drawn is no reason to stop a push: its errors are dropped.
func (b *bar) Add(n int64) { _ = b.bar.Add64(n) }
func (b *bar) Finish()     { _ = b.bar.Clear() }

// NewLines returns a progress that writes a plain line to w now and then, for logs: at most one in every interval of the
// clock now.
func NewLines(w io.Writer, every time.Duration, now func() time.Time) Progress {
	return &plainLines{w: w, every: every, now: now}
}

type plainLines struct {
	w     io.Writer
	every time.Duration
	now   func() time.Time

	mu    sync.Mutex // guards what follows
	what  string
	unit  string
	total int64
	done  int64
	last  time.Time
}

func (p *plainLines) Start(what string, total int64, unit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.unit, p.total, p.done, p.last = what, unit, total, 0, p.now()
}

func (p *plainLines) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if now := p.now(); now.Sub(p.last) >= p.every {
		p.last = now
		fmt.Fprintf(p.w, "%s: %s of %s\n", p.what, amount(p.done, p.unit), amount(p.total, p.unit))
	}
}

func (p *plainLines) Finish() {}

func amount(n int64, unit string) string {
	if unit == "" {
		return byteCount(n)
	}
	return fmt.Sprintf("%d %s", n, unit)
}
