package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: what was done, by whom, and whether that is enough.
type row struct {
	work, peer, figure, gate string
	ratio                    float64 // 0 for none
	target                   string
	met                      string
}

// reach marks a target that is reached for, not promised.
func (r row) reach() row {
	r.target += ", reached for"
	return r
}

func (r row) cells() []string {
	ratio := ""
	if r.ratio > 0 {
		ratio = strconv.FormatFloat(r.ratio, 'f', 2, 64)
	}
	return []string{r.work, r.peer, r.figure, r.gate, ratio, r.target, r.met}
}

func verdict(met bool) string {
	if met {
		return "yes"
	}
	return "no"
}

// detail is one contender, looked at more closely.
type detail struct {
	name        string
	connect     bool
	asked       string
	rate        float64
	low, high   float64
	median, p99 time.Duration
	processor   time.Duration // of the server for one request
	protocol    string
}

func newDetail(c contender, t turns) detail {
	d := detail{name: c.name, connect: c.order.Connect, rate: t.median(turn.rate), protocol: t[0].Protocol}
	d.asked = c.order.asked()
	d.low, d.high = t[0].rate(), t[0].rate()
	for _, one := range t {
		d.low, d.high = min(d.low, one.rate()), max(d.high, one.rate())
	}
	d.median = time.Duration(t.median(func(t turn) float64 { return float64(t.Median) }))
	d.p99 = time.Duration(t.median(func(t turn) float64 { return float64(t.P99) }))
	d.processor = time.Duration(t.median(func(t turn) float64 { return float64(t.processor) / float64(t.Requests) }))
	return d
}

func (d detail) cells() []string {
	spread := perSecond(d.low) + " to " + perSecond(d.high)
	return []string{d.asked, d.name, perSecond(d.rate), spread, micros(d.processor), millis(d.median), millis(d.p99), d.protocol}
}

// report is what a run found.
type report struct {
	options
	began   time.Time
	rows    []row
	details []detail
	missing []string
	load    []string // averages, as each work began
	about   []string
}

func newReport(ctx context.Context, w *world) *report {
	return &report{options: w.options, began: time.Now(), about: append(machine(), w.versions(ctx)...)}
}

var (
	rowHeads    = []string{"work", "peer", "peer's figure", "the gate's", "ratio", "target", "met"}
	detailHeads = []string{"asked", "server", "median", "of all turns", "server's processor time", "median time", "99 %", "protocol"}
)

// writeText prints the tables for a person at a terminal.
func (r *report) writeText(out io.Writer) error {
	tab := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range r.about {
		fmt.Fprintln(tab, line)
	}
	fmt.Fprintln(tab, "\n"+strings.Join(rowHeads, "\t"))
	for _, row := range r.rows {
		fmt.Fprintln(tab, strings.Join(row.cells(), "\t"))
	}
	fmt.Fprintln(tab, "\n"+strings.Join(detailHeads, "\t"))
	for _, d := range r.details {
		fmt.Fprintln(tab, strings.Join(d.cells(), "\t"))
	}
	for _, m := range r.missing {
		fmt.Fprintln(tab, "\n"+m)
	}
	return tab.Flush()
}

// writePage writes docs/performance.md, whole: nothing in it is by hand.
func (r *report) writePage(path string) error {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, line := range append(r.about, r.circumstances()...) {
		b.WriteString("- " + line + "\n")
	}
	for _, m := range r.missing {
		b.WriteString("- " + m + "\n")
	}
	b.WriteString("\n## Beside the peers\n\n")
	writeTable(&b, rowHeads, r.rows)
	b.WriteString(pageNotes)
	writeTable(&b, detailHeads, r.details)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// circumstances says when, how long and how undisturbed.
func (r *report) circumstances() []string {
	return []string{
		r.began.UTC().Format("2006-01-02 15:04 MST"),
		fmt.Sprintf("%d turns of %v each; peer and gate take turns, the median counts", r.rounds, r.duration),
		"load average as each work began: " + strings.Join(r.load, ", "),
	}
}

func writeTable[T interface{ cells() []string }](b *strings.Builder, heads []string, rows []T) {
	b.WriteString("| " + strings.Join(heads, " | ") + " |\n|" + strings.Repeat("---|", len(heads)) + "\n")
	for _, r := range rows {
		b.WriteString("| " + strings.Join(r.cells(), " | ") + " |\n")
	}
}

// machine says where this was measured.
func machine() []string {
	model, memory := "unknown processor", ""
	for line := range strings.Lines(readText("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	for line := range strings.Lines(readText("/proc/meminfo")) {
		if value, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			var kib int64
			_, _ = fmt.Sscan(value, &kib)
			memory = fmt.Sprintf(", %d GiB", (kib+1<<19)>>20)
		}
	}
	return []string{
		fmt.Sprintf("%d × %s%s; the load generator runs on the same cores", runtime.NumCPU(), model, memory),
		"Linux " + strings.TrimSpace(readText("/proc/sys/kernel/osrelease")),
	}
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// commit is the state of the source, as git names it.
func commit(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "source that git does not know"
	}
	return "lychgate at " + strings.TrimSpace(string(text))
}

func perSecond(v float64) string {
	if v >= 100 {
		return thousands(int64(v+0.5)) + "/s"
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + "/s"
}

func megabytes(v float64) string { return thousands(int64(v/1e6+0.5)) + " MB/s" }

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}

func micros(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	if us < 10 {
		return strconv.FormatFloat(us, 'f', 2, 64) + " µs"
	}
	return thousands(int64(us+0.5)) + " µs"
}

// thousands prints n with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
