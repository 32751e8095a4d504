package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	heldConns   = 2000 // at the gate
	heldOpenSSH = 200  // at OpenSSH, which has three processes for each
	heldLater   = 20   // connections that are made beside those, one after another
	heldJobs    = 16   // connections that are made at once
	heldTurns   = 3
)

// held is what a process says that holds connections open: how many, what making them took, and what one more takes.
type held struct {
	Conns int           `json:"conns"`
	Took  time.Duration `json:"took"`
	Next  time.Duration `json:"next"` // to connect, ask and close: the median
	Error string        `json:"error,omitempty"`
}

// serveHold opens as many connections as the order says, each with an SFTP channel, says so, and holds them until in ends.
func serveHold(ctx context.Context, order []string, in io.Reader, out io.Writer) error {
	if len(order) != 1 {
		return errors.New("hold: one order is wanted")
	}
	var l load
	if err := json.Unmarshal([]byte(order[0]), &l, exactly()); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	conns, h, err := l.hold(ctx)
	for _, c := range conns {
		defer c.close()
	}
	if err != nil {
		h.Error = err.Error()
	}
	if err := json.MarshalWrite(out, h, exactly()); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// hold opens connections, and measures how long one more takes.
func (l *load) hold(ctx context.Context) ([]*sftpConn, held, error) {
	var h held
	if l.SSH == nil {
		return nil, h, errors.New("hold: an order for SFTP is wanted")
	}
	requests, err := l.requests()
	if err != nil {
		return nil, h, err
	}
	config, err := l.SSH.config()
	if err != nil {
		return nil, h, err
	}
	w := &sshWorker{worker: worker{loader: &loader{load: l, requests: requests}}, login: l.SSH, config: config}
	began := time.Now()
	conns, err := w.openMany(ctx, l.Conns)
	h.Conns, h.Took = len(conns), time.Since(began)
	for range heldLater {
		if err == nil {
			err = w.connectAndStat(ctx)
		}
	}
	if err != nil {
		return conns, h, fmt.Errorf("with %d connections: %w", h.Conns, err)
	}
	slices.Sort(w.times)
	h.Next = w.times[len(w.times)/2]
	return conns, h, nil
}

// openMany opens n connections, a few at once.
func (w *sshWorker) openMany(ctx context.Context, n int) (conns []*sftpConn, err error) {
	var mu sync.Mutex // guards conns and err
	var group sync.WaitGroup
	for range heldJobs {
		group.Go(func() {
			for {
				mu.Lock()
				enough := err != nil || n <= 0
				n--
				mu.Unlock()
				if enough {
					return
				}
				c, failed := w.dialSFTP(ctx)
				mu.Lock()
				if failed != nil {
					err = errors.Join(err, failed)
				} else {
					conns = append(conns, c)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return conns, err
}

// holding is what one server did with connections that stay.
type holding struct {
	each []float64 // bytes of memory for a connection
	next []float64 // nanoseconds that one more takes
}

// measureHeld holds connections open at the gate and, fewer of them, at OpenSSH.
func measureHeld(ctx context.Context, w *world) ([]row, error) {
	s := w.servers
	both, err := w.sftps("STAT", "small.names", func(*load) {}, s.openssh, s.ssh)
	if err != nil {
		return nil, err
	}
	both[0].order.Conns, both[1].order.Conns = heldOpenSSH, heldConns
	var of [2]holding
	for range min(w.rounds, heldTurns) {
		for i, c := range both {
			if c.lacks != "" {
				continue
			}
			if err := w.holdAt(ctx, c, &of[i]); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	peer := fmt.Sprintf("%s, %d held", s.openssh.name, heldOpenSSH)
	memory := row{work: "SSH: 2,000 connections held, memory of each", peer: peer, gate: kibibytes(middle(of[1].each)), target: "2,000 held", met: verdict(true)}
	next := row{work: "SSH: connect, stat, close beside 2,000 connections", peer: peer, gate: millis(time.Duration(middle(of[1].next))), target: "for comparison"}
	if both[0].lacks != "" {
		memory.figure, next.figure = "not installed", "not installed"
		return []row{memory, next}, nil
	}
	memory.figure, memory.ratio = kibibytes(middle(of[0].each)), middle(of[0].each)/middle(of[1].each)
	next.figure, next.ratio = millis(time.Duration(middle(of[0].next))), middle(of[0].next)/middle(of[1].next)
	return []row{memory, next}, nil
}

// middle returns the median, 0 of nothing.
func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func kibibytes(bytes float64) string { return fmt.Sprintf("%.0f KiB", bytes/1024) }

// holdAt starts a server, warms it up, and compares its memory with and without connections.
func (w *world) holdAt(ctx context.Context, c contender, h *holding) error {
	running, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer stopAll(running)
	warm := c.order
	warm.Duration, warm.Connect, warm.Conns = warmUp, true, heldJobs
	if _, err := runLoad(ctx, warm); err != nil {
		return err
	}
	before, err := memoryOf(ctx, running)
	if err != nil {
		return err
	}
	holder, err := startHolder(ctx, c.order)
	if err != nil {
		return err
	}
	defer holder.release()
	after, err := memoryOf(ctx, running)
	if err != nil {
		return err
	}
	h.each = append(h.each, float64(after-before)/float64(holder.said.Conns))
	h.next = append(h.next, float64(holder.said.Next))
	return nil
}

func memoryOf(ctx context.Context, all []*process) (sum int64, err error) {
	for _, p := range all {
		if err := p.settle(ctx); err != nil {
			return 0, err
		}
		n, err := p.memory()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// holder is a process that holds connections.
type holder struct {
	said    held
	release func()
}

// startHolder returns once all connections are open.
func startHolder(ctx context.Context, l load) (*holder, error) {
	order, err := json.Marshal(l, exactly())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	cmd, err := ourselves(ctx, "hold", string(order))
	if err != nil {
		cancel()
		return nil, err
	}
	in, write, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	defer in.Close()
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, errors.Join(err, write.Close())
	}
	h := &holder{release: func() { write.Close(); _ = cmd.Wait(); cancel() }}
	text, err := bufio.NewReader(out).ReadBytes('\n') // it says one line
	if err == nil {
		err = json.Unmarshal(text, &h.said, exactly())
	}
	switch {
	case err != nil:
		err = fmt.Errorf("hold connections: %w", err)
	case h.said.Error != "":
		err = errors.New(h.said.Error)
	default:
		return h, nil
	}
	h.release()
	return nil, err
}
