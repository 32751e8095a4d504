package sshd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// maxChannelRequests is what one channel may ask that is refused.
const maxChannelRequests = 64

// serveChannel answers a channel of type "session", from its opening until the client has closed it.
func (s *Server) serveChannel(_ *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	s.admitChannel(ctx, sc, nc, func(c *conn, id *identity) {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		newChannel(c, ch, id).serve(ctx, requests)
	})
}

// admitChannel lets serve have a channel, if its connection may have one more. Otherwise it rejects it.
func (s *Server) admitChannel(ctx ssh.Context, sc *gossh.ServerConn, nc gossh.NewChannel, serve func(*conn, *identity)) {
	c := connOf(ctx)
	if !s.begin() {
		_ = nc.Reject(gossh.ResourceShortage, "the gate is stopping")
		return
	}
	defer s.work.Done()
	defer s.recovered("channel", c)
	id := identityOf(sc.Permissions)
	if id == nil || id.principal == "" { // no handshake finishes without
		_ = nc.Reject(gossh.Prohibited, "not authenticated")
		c.Close()
		return
	}
	if why := c.enter(); why != "" {
		c.bother()
		_ = nc.Reject(gossh.ResourceShortage, why)
		return
	}
	defer c.leave()
	if !s.channels.Enter(id.principal) {
		c.bother()
		_ = nc.Reject(gossh.ResourceShortage, "you have too many channels open")
		return
	}
	defer s.channels.Leave(id.principal)
	// Only a finished handshake has what it takes to ask the client for signs of life, and the first channel is what tells of one. A
	// connection that never has a channel ends soon all the same.
	c.alive.Do(func() {
		go c.keepAlive(sc)
		go c.recheck(ctx, id.credential)
	})
	serve(c, id)
}

// channel is one session of a connection: it takes one operation and ends.
type channel struct {
	gossh.Channel
	conn     *conn
	identity *identity
	cutting  sync.Once
	patience *time.Timer // ends the connection of a client that does not close a channel that was cut; set by cutting
}

func newChannel(c *conn, ch gossh.Channel, id *identity) *channel {
	return &channel{Channel: ch, conn: c, identity: id}
}

// serve answers requests until the client has closed the channel. They are taken to the end even while an operation runs, since a
// request that nobody takes holds up the whole connection.
func (ch *channel) serve(ctx context.Context, requests <-chan *gossh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer ch.gone()
	idle := time.AfterFunc(ch.conn.server.limits.HandshakeTimeout, ch.cut)
	defer idle.Stop()
	begun := false
	for n := 1; ; n++ {
		req, ok := <-requests
		if !ok {
			return
		}
		op := ch.operation(req)
		if begun || op == nil {
			if n > maxChannelRequests {
				ch.cut()
			}
			ch.reply(req, false)
			continue
		}
		begun = true
		idle.Stop()
		ch.reply(req, true)
		running.Go(func() {
			defer ch.conn.server.recovered("operation", ch.conn)
			ch.run(ctx, op)
		})
	}
}

// reply answers a request. A connection that is gone needs none.
func (ch *channel) reply(req *gossh.Request, ok bool) { _ = req.Reply(ok, nil) }

// operation is what a channel is for. It returns its exit status, and its route and outcome for metrics.
type operation func(ctx context.Context, ch *channel) (status uint32, o Observation)

// operation reads a request. It is nil for everything that is refused: terminals, the environment, agents, X11, signals, and
// commands that are too long.
func (ch *channel) operation(req *gossh.Request) operation {
	var payload struct{ Text string }
	switch req.Type {
	case "shell":
		return greet
	case "exec", "subsystem":
		if len(req.Payload) > ch.conn.server.limits.CommandBytes || gossh.Unmarshal(req.Payload, &payload) != nil {
			return nil
		}
	}
	switch {
	case req.Type == "exec":
		return func(ctx context.Context, ch *channel) (uint32, Observation) { return execute(ctx, ch, payload.Text) }
	case req.Type == "subsystem" && payload.Text == "sftp":
		return subsystem
	}
	return nil
}

// run answers the one operation of the channel and ends it.
func (ch *channel) run(ctx context.Context, op operation) {
	began := time.Now()
	status, o := op(ctx, ch)
	o.Took = time.Since(began)
	_, _ = ch.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{status}))
	ch.cut()
	ch.conn.server.observe(o)
}

// cut ends the channel: reads and writes under way fail once the client agrees, which it must do soon, or its connection ends.
func (ch *channel) cut() {
	ch.cutting.Do(func() {
		ch.patience = time.AfterFunc(ch.conn.server.limits.HandshakeTimeout, func() { ch.conn.Close() })
		_ = ch.Close()
	})
}

// gone is for a channel that the client has closed. There is nothing left to cut.
func (ch *channel) gone() {
	ch.cutting.Do(func() {})
	if ch.patience != nil {
		ch.patience.Stop()
	}
}

// subsystem lets the client speak SFTP until it ends the channel.
func subsystem(ctx context.Context, ch *channel) (uint32, Observation) {
	if err := serveSFTP(ctx, ch, ch.tree(), ch.conn.server.limits); err != nil {
		if errors.Is(err, errPanic) {
			ch.conn.server.log.Error("an SFTP session is ended", "error", err, "remote", ch.conn.door.Remote.String())
		}
		return 1, Observation{Route: "sftp", Outcome: failed}
	}
	return 0, Observation{Route: "sftp", Outcome: succeeded}
}

// pacedWriter is an answer that must keep moving while there is something to take: a client that does not take it in time loses the
// channel.
type pacedWriter struct {
	w     io.Writer
	ch    *channel
	timer *time.Timer // cuts the channel
}

func (ch *channel) paced(w io.Writer) *pacedWriter {
	p := &pacedWriter{w: w, ch: ch}
	p.timer = time.AfterFunc(time.Hour, ch.cut)
	p.timer.Stop()
	return p
}

// Cut implements gateway.Cutter.
func (p *pacedWriter) Cut() { p.ch.cut() }

// piece is how much is written under one deadline: what the floor demands in a window moves in one.
const piece = 32 << 10

func (p *pacedWriter) Write(b []byte) (int, error) {
	defer p.timer.Stop()
	l := p.ch.conn.server.limits
	pace := limit.NewPace(l.ProgressWindow, l.ProgressBytes)
	sent := 0
	for sent < len(b) {
		deadline, err := pace.Step()
		if err != nil {
			p.ch.cut()
			return sent, err
		}
		p.timer.Reset(time.Until(deadline))
		n, err := p.w.Write(b[sent:min(len(b), sent+piece)])
		sent += n
		pace.Moved(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// session opens a session for one operation.
func (ch *channel) session(ctx context.Context) (*gateway.Session, error) {
	return ch.conn.session(ctx, ch.identity.credential)
}

// tree is what the channel's client sees as files.
func (ch *channel) tree() *tree { return &tree{session: ch.session} }

// pacedReader is what the client sends, which must keep coming.
type pacedReader struct {
	ch    *channel
	timer *time.Timer
	pace  limit.Pace
}

// pacedInput returns what the client sends: at least floor bytes in each window, and with 0 something before the next one ends.
func (ch *channel) pacedInput(floor int64) *pacedReader {
	p := &pacedReader{ch: ch, pace: limit.NewPace(ch.conn.server.limits.ProgressWindow, floor)}
	p.timer = time.AfterFunc(time.Hour, ch.cut)
	p.timer.Stop()
	return p
}

func (p *pacedReader) Read(b []byte) (int, error) {
	deadline, err := p.pace.Step()
	if err != nil {
		p.ch.cut()
		return 0, err
	}
	p.timer.Reset(time.Until(deadline))
	defer p.timer.Stop()
	n, err := p.ch.Read(b)
	p.pace.Moved(n)
	return n, err
}
