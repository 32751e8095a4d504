package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/sqldb"
)

// Garbage collection at the gate, by which half of the mappings go, and what is asked meanwhile. The lookups come evenly,
// at the rate that people run at, so that what they wait for is the server and not each other.
const (
	gcMappingsQuick = 100_000
	gcRate          = 50 // of each of the clients, in a second
	gcTurn          = 5 * time.Second
	gcIdleTurns     = 6
	gcMost          = 2.0 // times what a lookup takes while nothing is collected
)

// oldMethod is that of the mappings which go.
const oldMethod = "bench.Outdated"

// measureHashGC has the gate remove half of its mappings while it is asked, and looks at what each takes.
func measureHashGC(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepareHash(ctx); err != nil {
		return nil, err
	}
	n := w.mappings
	g := &collection{world: w}
	if err := g.measure(ctx); err != nil {
		return nil, err
	}
	many := thousands(int64(n))
	idle, idle99 := percentiles(g.idle.times)
	during, during99 := percentiles(g.during.times)
	slower := float64(during99) / float64(idle99)
	return []row{
		{
			work: fmt.Sprintf("hash lookups, %s/s, 99 %%, while garbage collection removes half of %s mappings in %s", thousands(gcRate*hashClients), many, seconds(g.took.Seconds())),
			peer: "the gate, idle", figure: millis(idle99), gate: millis(during99), ratio: slower,
			target: fmt.Sprintf("≤ %g ×", gcMost), met: verdict(slower <= gcMost),
		},
		{
			work: "the same, half of the lookups", peer: "the gate, idle", figure: millis(idle), gate: millis(during),
			ratio: float64(during) / float64(idle), target: "for comparison",
		},
		{
			work: fmt.Sprintf("the same, 99 %% in the worst %s", seconds(gcTurn.Seconds())), peer: "the gate, idle", figure: millis(g.idle.worst), gate: millis(g.during.worst),
			ratio: float64(g.during.worst) / float64(g.idle.worst), target: "for comparison",
		},
		{work: "memory for a mapping, of " + many, gate: fmt.Sprintf("%.0f B", float64(g.memory)/float64(n)), target: "for comparison"},
		{work: "disk for a mapping and its report", gate: fmt.Sprintf("%.0f B", float64(g.disk)/float64(n)), target: "for comparison"},
		{work: "start with " + many + " mappings", gate: seconds(g.start.Seconds()), target: "for comparison"},
	}, nil
}

// collection is one measurement.
type collection struct {
	*world
	memory, disk int64 // of the mappings
	start, took  time.Duration
	idle, during paced
}

// paced is what the lookups of all turns took, and 99 % of those of the worst turn.
type paced struct {
	times []time.Duration
	worst time.Duration
}

// add takes in a turn.
func (p *paced) add(o outcome) {
	p.times, p.worst = append(p.times, o.Times...), max(p.worst, o.P99)
}

func (g *collection) measure(ctx context.Context) error {
	empty, _, err := g.resident(ctx, "hash-empty")
	if err != nil {
		return err
	}
	if err := g.fill(ctx); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	if g.disk, err = size(g.path("hash-full.db*")); err != nil {
		return err
	}
	full, start, err := g.resident(ctx, "hash-full")
	if err != nil {
		return err
	}
	g.memory, g.start = full-empty, start
	running, err := g.open(ctx, "hash-full")
	if err != nil {
		return err
	}
	defer stopAll(running)
	return g.collect(ctx)
}

// open starts the gate with another database of hash equivalence.
func (g *collection) open(ctx context.Context, name string) ([]*process, error) {
	text, err := os.ReadFile(g.path("lychgate.yaml"))
	if err != nil {
		return nil, err
	}
	config := strings.Replace(string(text), "hash:\n", fmt.Sprintf("hash:\n  database: %q\n  memory: 1GiB\n", "sqlite:"+g.path(name+".db")), 1)
	if err := os.WriteFile(g.path(name+".yaml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	return g.startOne(ctx, "gate", func() bool { return healthy("http://"+g.adminAddr+"/readyz") && accepts(g.servers.hash.gate.addr) },
		g.gate, "serve", "--config", g.path(name+".yaml"))
}

// resident is what the gate has in memory once it is open, and how long that takes.
func (g *collection) resident(ctx context.Context, name string) (int64, time.Duration, error) {
	began := time.Now()
	running, err := g.open(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	defer stopAll(running)
	memory, err := running[0].memory()
	return memory, took, err
}

// fill takes in an export with as many mappings as there shall be, and a report of each.
func (g *collection) fill(ctx context.Context) (err error) {
	h, err := sqldb.OpenHashes(ctx, sqldb.HashesConfig{Path: g.path("hash-full.db"), Memory: 1 << 30})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	out, in := io.Pipe()
	go func() { in.CloseWithError(writeReports(in, g.mappings)) }()
	counts, err := h.Import(ctx, "main", out, nil)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if want := int64(2 * g.mappings); counts.Taken != want {
		return fmt.Errorf("%d mappings and reports were taken in, want %d", counts.Taken, want)
	}
	return nil
}

// writeReports writes n mappings and their reports as lines of an export.
func writeReports(w io.Writer, n int) error {
	lines := bufio.NewWriterSize(w, 1<<20)
	for i := range n {
		r := gcReport(i)
		task := `"method":"` + r.Method + `","taskhash":"` + r.Taskhash + `"`
		lines.WriteString("{" + task + `,"unihash":"` + r.Unihash.String() + "\"}\n")
		lines.WriteString("{" + task + `,"outhash":"` + r.Outhash + `","created":"2026-01-01T00:00:00Z","PN":"` + r.PN + `","PV":"` + r.PV + `","task":"` + r.Details.Task + "\"}\n")
	}
	return lines.Flush()
}

// gcReport is the n-th report: of a small object, while there are any, else of something that nobody asks for.
func gcReport(n int) hashserv.Report {
	recipe, method := "small", hashMethod
	if n >= objects {
		recipe = "other"
	}
	if n%2 == 1 && recipe == "other" {
		method = oldMethod
	}
	hash := objectHash(recipe, n)
	unihash, _ := hashserv.ParseUnihash(hash)
	out := objectHash("output", n)
	return hashserv.Report{
		Task: hashserv.Task{Method: method, Taskhash: hash}, Outhash: out, Unihash: unihash,
		Details: hashserv.Details{PN: "bench", PV: "1.0", Task: "do_package"},
	}
}

// collect asks while nothing happens, then while the mappings of the old method go.
func (g *collection) collect(ctx context.Context) error {
	ask := func(into *paced) error {
		c := g.hashOrder(g.servers.hash.gate, "get-stream "+hashMethod+" {NAME}", func(l *load) { l.Hash.Rate, l.Hash.Times, l.Duration = gcRate, true, gcTurn })
		o, err := runLoad(ctx, c.order)
		into.add(o)
		return err
	}
	if err := ask(&paced{}); err != nil { // to warm up
		return err
	}
	for range gcIdleTurns {
		if err := ask(&g.idle); err != nil {
			return err
		}
	}
	done := make(chan error, 1)
	go func() {
		began := time.Now()
		err := g.sweep(ctx)
		g.took = time.Since(began)
		done <- err
	}()
	for {
		if err := ask(&g.during); err != nil {
			return err
		}
		select {
		case err := <-done:
			return err
		default:
		}
	}
}

// sweep marks what is kept and removes the rest, as whoever maintains the zone does.
func (g *collection) sweep(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", g.servers.hash.gate.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := hashLink{conn: conn, read: bufio.NewReader(conn)}
	for _, line := range []string{"OEHASHEQUIV 1.1", "needs-headers: false", ""} {
		l.put(line)
	}
	for _, step := range []struct{ say, want string }{
		{`{"auth": {"username": "any", "token": "` + g.writer + `"}}`, `"result"`},
		{`{"gc-mark": {"mark": "bench", "where": {"method": "` + hashMethod + `"}}}`, `"count"`},
		{`{"gc-sweep": {"mark": "bench"}}`, `"count"`},
	} {
		if err := l.ask(step.say, step.want); err != nil {
			return err
		}
	}
	return nil
}

// size is that of all files that match.
func size(pattern string) (sum int64, err error) {
	names, err := filepath.Glob(pattern)
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, err
}
