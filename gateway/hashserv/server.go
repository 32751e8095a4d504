package hashserv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Backfills is a [Peer] that copies from another server behind the replies: the command backfill-wait. Without it that command ends the
// connection.
type Backfills interface {
	// BackfillWait waits until everything that is to be copied now has been, and returns how much that was.
	BackfillWait(ctx context.Context) (tasks int64, err error)
}

// Resting is a [Peer] whose connection may rest for less long than [ServerConfig].Idle.
type Resting interface {
	// Rest returns for how long, 0 for as long as any.
	Rest() time.Duration
}

// ServerConfig limits what a peer may take. What is zero is the default.
type ServerConfig struct {
	// Handshake is how long a peer may take to say what it speaks: 10 s.
	Handshake time.Duration
	// Idle is how long a peer may say nothing, or be within one message: 6 h, as BitBake keeps a connection through a whole build.
	Idle time.Duration
	// Write is how long replies may take to leave, at most 256 KiB of them at once: 1 min.
	Write time.Duration
	// Linger is how long the end of a connection may take that the server ends: 1 s.
	Linger time.Duration
}

// Server answers connections. It is safe for concurrent use.
type Server struct {
	conf  ServerConfig
	stats counters
}

// NewServer makes a server. It does not listen: doors do, and each knows its peers.
func NewServer(c ServerConfig) *Server {
	c.Handshake = cmp.Or(c.Handshake, 10*time.Second)
	c.Idle = cmp.Or(c.Idle, 6*time.Hour)
	c.Write = cmp.Or(c.Write, time.Minute)
	c.Linger = cmp.Or(c.Linger, time.Second)
	return &Server{conf: c}
}

// Stats returns what the command get-stats tells.
func (s *Server) Stats() Stats { return s.stats.read(false) }

// Serve answers one connection until the peer ends it, something is wrong, or ctx is done; then it closes conn. peer is used by one
// goroutine. The error is nil when the peer ended between two commands. It wraps [ErrMalformed] when the peer does not speak the protocol, and
// is a [Refusal] when the peer was told one.
func (s *Server) Serve(ctx context.Context, conn Conn, peer Peer) error {
	c := &serving{server: s, conn: conn, peer: peer}
	stop := context.AfterFunc(ctx, c.stop)
	defer stop()
	defer conn.Close()
	err := c.run(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF): // all replies have left: this was waited for
		return nil
	}
	var told *Refusal
	if errors.As(err, &told) {
		err = errors.Join(err, c.reply(map[string]errorMember{invokeError: {told.Message}}))
	}
	err = errors.Join(err, c.flush()) // replies to what came before
	if l, ok := conn.(lingerer); ok && (told != nil || errors.Is(err, ErrMalformed)) {
		l.linger(s.conf.Linger)
	}
	return err
}

// serving is one connection.
type serving struct {
	server  *Server
	conn    Conn
	peer    Peer
	stopped atomic.Bool
	room    []byte // for messages in pieces
	batch   batch
}

// stop makes whatever waits for the connection fail, now and later.
func (c *serving) stop() {
	c.stopped.Store(true)
	_ = c.conn.SetDeadline(time.Unix(1, 0))
}

// within gives the connection d from now.
func (c *serving) within(d time.Duration) error {
	if err := c.conn.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if c.stopped.Load() { // stop may have been before the line above
		return c.conn.SetDeadline(time.Unix(1, 0))
	}
	return nil
}

// rest gives the connection as long as its peer may say nothing.
func (c *serving) rest() error {
	d := c.server.conf.Idle
	if r, ok := c.peer.(Resting); ok {
		d = min(d, cmp.Or(r.Rest(), d))
	}
	return c.within(d)
}

func (c *serving) flush() error {
	if err := c.within(c.server.conf.Write); err != nil {
		return err
	}
	return c.conn.Flush()
}

func (c *serving) run(ctx context.Context) error {
	if err := c.handshake(); err != nil {
		return err
	}
	for {
		if !c.conn.Buffered() {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if err := c.rest(); err != nil {
			return err
		}
		text, room, err := receiveMessage(c.conn, c.room)
		c.room = emptied(room)
		if err != nil {
			return err
		}
		if err := c.serve(ctx, text); err != nil {
			return err
		}
	}
}

// handshake reads the hello and the headers. What the server says in return is nothing, unless it is asked for headers: it has none.
func (c *serving) handshake() error {
	if err := c.within(c.server.conf.Handshake); err != nil {
		return err
	}
	hello, err := c.conn.Receive()
	if err != nil {
		return err
	}
	if !validHello(hello) {
		return malformed("no hello of a version that is spoken here")
	}
	wanted, err := readHeaders(c.conn, needsHeaders)
	if err != nil || wanted != "true" {
		return err
	}
	return c.conn.Send(nil)
}

// serve answers one message.
func (c *serving) serve(ctx context.Context, text []byte) error {
	command, body, err := parseRequest(text)
	if err != nil {
		return err
	}
	switch command {
	case cmdGetStream:
		return c.stream(ctx, Read, c.getLines)
	case cmdExistsStream:
		return c.stream(ctx, Read, c.existsLines)
	case cmdGCMarkStream:
		keeper, ok := c.peer.(Keeper)
		if !ok {
			return errNoCommand
		}
		return c.stream(ctx, DBAdmin, func(ctx context.Context, lines *batch) error { return c.markLines(ctx, keeper, lines) })
	}
	began := time.Now()
	answer, err := c.answer(ctx, command, body)
	c.server.stats.add(1, time.Since(began))
	if err != nil {
		return err
	}
	return c.reply(answer)
}

func (c *serving) reply(answer any) error {
	text, err := marshal(answer)
	if err != nil {
		return err
	}
	if err := c.within(c.server.conf.Write); err != nil { // much to send leaves at once
		return err
	}
	return sendMessage(c.conn, text)
}

// errNoCommand is about a command that this peer does not have. It is not told from one that there is not.
var errNoCommand = fmt.Errorf("%w: an unknown command", ErrMalformed)

// answer returns what is replied to a command. A nil pointer is replied as null.
func (c *serving) answer(ctx context.Context, command string, body request) (any, error) {
	switch body := body.(type) {
	case getRequest:
		return c.get(ctx, body)
	case getOuthashRequest:
		return c.getOuthash(ctx, body)
	case reportRequest:
		return c.report(ctx, body)
	case reportEquivRequest:
		return c.reportEquiv(ctx, body)
	}
	if answer, err := c.answerItself(ctx, command); !errors.Is(err, errNoCommand) {
		return answer, err
	}
	if keeper, ok := c.peer.(Keeper); ok {
		if answer, err := c.keep(ctx, keeper, command, body); !errors.Is(err, errNoCommand) {
			return answer, err
		}
	}
	if users, ok := c.peer.(Users); ok {
		return c.answerUsers(ctx, users, command, body)
	}
	return nil, errNoCommand
}

// answerItself is about what the server knows without a store.
func (c *serving) answerItself(ctx context.Context, command string) (any, error) {
	switch command {
	case cmdPing:
		return aliveReply{true}, nil
	case cmdGetStats:
		return c.readStats(ctx, Read, false)
	case cmdDBColumns:
		if err := c.peer.May(ctx, DBAdmin); err != nil {
			return nil, err
		}
		return columnsReply{Columns()}, nil
	case cmdBackfillWait:
		if b, ok := c.peer.(Backfills); ok {
			n, err := b.BackfillWait(ctx)
			return tasksReply{n}, err
		}
	}
	return nil, errNoCommand
}

func (c *serving) readStats(ctx context.Context, need Permission, reset bool) (any, error) {
	if err := c.peer.May(ctx, need); err != nil {
		return nil, err
	}
	if !c.peer.Whole(ctx) {
		return nil, errNoCommand
	}
	return statsReply{c.server.stats.read(reset)}, nil
}

func (c *serving) get(ctx context.Context, r getRequest) (any, error) {
	task := Task{r.Method, r.Taskhash}
	if !task.storable() {
		return nil, c.peer.May(ctx, Read)
	}
	if r.All {
		return c.row(ctx, Query{Method: r.Method, Taskhash: r.Taskhash})
	}
	var answer [1]Mapping
	err := c.peer.Unihash(ctx, []Task{task}, answer[:])
	if err != nil || answer[0].Unihash == (Unihash{}) {
		return nil, err
	}
	return mappingReply{task.Taskhash, task.Method, answer[0].Unihash}, nil
}

func (c *serving) getOuthash(ctx context.Context, r getOuthashRequest) (any, error) {
	// A taskhash here is only a hint.
	if !storable(r.Method) || !storable(r.Outhash) || r.Taskhash != "" && !storable(r.Taskhash) {
		return nil, c.peer.May(ctx, Read)
	}
	return c.row(ctx, Query{Method: r.Method, Outhash: r.Outhash, Taskhash: r.Taskhash, Bare: !r.Unihash})
}

func (c *serving) row(ctx context.Context, q Query) (any, error) {
	row, err := c.peer.Outhash(ctx, q)
	if err != nil || row == nil || !q.Bare && row.Unihash == (Unihash{}) {
		return nil, err
	}
	return row.reply(c.peer.Whole(ctx), q.Bare), nil
}

// storable reports whether a word can be in a store. What it cannot be is answered without asking: a lookup like one that found nothing.
func storable(word string) bool { return len(word) <= maxWord && cleanWord(word) }

func (t Task) storable() bool { return storable(t.Method) && storable(t.Taskhash) }

func (c *serving) report(ctx context.Context, r reportRequest) (any, error) {
	task := Task{r.Method, r.Taskhash}
	if err := c.mayMap(ctx, task, r.Unihash); err != nil {
		return nil, err
	}
	if !storable(r.Outhash) {
		return nil, malformed("a report of what is no outhash")
	}
	m, err := c.peer.Report(ctx, Report{Task: task, Outhash: r.Outhash, Unihash: r.Unihash, Details: r.details()})
	return replyMapping(task, m, r.Unihash), err
}

func (c *serving) reportEquiv(ctx context.Context, r reportEquivRequest) (any, error) {
	e, ok := c.peer.(Equivalents)
	if !ok {
		return nil, errNoCommand
	}
	task := Task{r.Method, r.Taskhash}
	if err := c.mayMap(ctx, task, r.Unihash); err != nil {
		return nil, err
	}
	m, err := e.Equivalent(ctx, task, Mapping{Unihash: r.Unihash})
	return replyMapping(task, m, r.Unihash), err
}

// mayMap refuses a mapping that no store has. Whether the peer may write is its own business.
func (c *serving) mayMap(ctx context.Context, t Task, u Unihash) error {
	switch {
	case u == Unihash{}:
		if err := c.peer.May(ctx, Read); err != nil {
			return err
		}
		return ErrInvalidUnihash
	case !t.storable():
		return malformed("a report about what is no task")
	}
	return nil
}

// replyMapping tells what t is mapped to, or what was reported when it is mapped to nothing.
func replyMapping(t Task, m Mapping, reported Unihash) mappingReply {
	if m.Unihash == (Unihash{}) {
		m.Unihash = reported
	}
	return mappingReply{t.Taskhash, t.Method, m.Unihash}
}

// keep is about maintenance.
func (c *serving) keep(ctx context.Context, k Keeper, command string, body request) (any, error) {
	switch body := body.(type) {
	case whereRequest:
		n, err := k.Remove(ctx, body.Where)
		return countReply{n}, err
	case cleanUnusedRequest:
		n, err := k.CleanUnused(ctx, time.Duration(body.Seconds)*time.Second)
		return countReply{n}, err
	case gcMarkRequest:
		n, err := k.Mark(ctx, body.Mark, body.Where)
		return countReply{n}, err
	case gcSweepRequest:
		n, err := k.Sweep(ctx, body.Mark)
		return countReply{n}, err
	}
	switch command {
	case cmdGCStatus:
		state, err := k.Collection(ctx)
		return collectionReply{state.Keep, state.Remove, orNull(state.Mark)}, err
	case cmdDBUsage:
		tables, err := k.Usage(ctx)
		return usage(tables), err
	case cmdResetStats:
		return c.readStats(ctx, DBAdmin, true)
	}
	return nil, errNoCommand
}

// answerUsers is about accounts.
func (c *serving) answerUsers(ctx context.Context, u Users, command string, body request) (any, error) {
	switch body := body.(type) {
	case authRequest:
		user, err := u.Auth(ctx, body.Username, body.Token)
		if errors.Is(err, ErrLogin) {
			return authReply{false, User{Name: body.Username}.reply()}, nil
		}
		return authReply{true, user.reply()}, err
	case userRequest:
		return c.answerUser(ctx, u, command, body.Username)
	case permissionsRequest:
		return c.changeUser(ctx, u, command, body)
	}
	if command != cmdGetAllUsers {
		return nil, errNoCommand
	}
	all, err := u.AllUsers(ctx)
	reply := usersReply{make([]userReply, 0, len(all))}
	for _, user := range all {
		reply.Users = append(reply.Users, user.reply())
	}
	return reply, err
}

func (c *serving) answerUser(ctx context.Context, u Users, command, name string) (any, error) {
	switch command {
	case cmdGetUser:
		user, err := u.User(ctx, name)
		if err != nil || user == nil {
			return nil, err
		}
		return user.reply(), nil
	case cmdRefreshToken:
		name, token, err := u.RefreshToken(ctx, name)
		return tokenReply{name, token}, err
	case cmdDeleteUser:
		name, err := u.DeleteUser(ctx, name)
		return usernameReply{name}, err
	default: // cmdBecomeUser
		user, err := u.BecomeUser(ctx, name)
		return user.reply(), err
	}
}

func (c *serving) changeUser(ctx context.Context, u Users, command string, r permissionsRequest) (any, error) {
	permissions, err := usable(r.Permissions)
	if err != nil {
		return nil, err
	}
	if command == cmdSetUserPerms {
		user, err := u.SetPermissions(ctx, r.Username, permissions)
		return user.reply(), err
	}
	user, token, err := u.NewUser(ctx, r.Username, permissions)
	return newUserReply{user.reply(), token}, err
}

// usable returns permissions sorted, each once, without the one that stands for none. Others than those of the protocol are refused.
func usable(asked []Permission) ([]Permission, error) {
	const none Permission = "@none"
	known := []Permission{none, Read, Reporting, DBAdmin, UserAdmin, All}
	for _, p := range asked {
		if !slices.Contains(known, p) {
			return nil, &Refusal{"Unknown permissions"}
		}
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(asked)))
	return slices.DeleteFunc(sorted, func(p Permission) bool { return p == none }), nil
}

// cutBlanks cuts off what may stand beside a word of a line.
func cutBlanks(line string) string { return strings.Trim(line, blanks) }
