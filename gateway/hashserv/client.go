package hashserv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ClientConfig says what a [Client] needs. Address is required.
type ClientConfig struct {
	// Address is that of [Dialer.Dial].
	Address string
	// Dialer makes the connections; nil for the zero Dialer.
	Dialer *Dialer
	// Username and Token are sent as the command auth on each connection when Username is not empty.
	Username, Token string
	// As is the user that each connection becomes after that, when it is not empty.
	As string
	// Connections is how many are used at most beside one for maintenance; 0 means 4.
	Connections int
	// Timeout limits connecting, and the time in which no reply comes that is waited for; 0 means 30 s.
	Timeout time.Duration
	// Patience is the Timeout of maintenance and user commands, which may take long; 0 means 10 min.
	Patience time.Duration
	// Pause is how long the client waits after a failure before it connects again, doubled with each further one up to LongestPause,
	// a quarter more or less; 0 means 100 ms and 10 s. Meanwhile calls fail at once.
	Pause, LongestPause time.Duration
}

// Client is a [Store], [Equivalents] and [Keeper] at another server. It is safe for concurrent use, and made for many callers: they share
// few connections, on which their questions are written back to back. It connects when it is asked something, and again by itself.
//
// Replies are checked; a bad one ends its connection. An error wraps [ErrUnavailable] when there was no good answer, and is a [Refusal]
// when the server refused. Author is 0 in what it returns: the protocol does not carry authors.
type Client struct {
	conf  ClientConfig
	pause *pause
	lanes []*lane
	slow  *lane // for what takes long, so that nobody waits behind it

	stop func()
	run  func(*lane) // until stop

	mu     sync.Mutex // guards closed, and that no lane starts once it is
	closed bool
	lives  sync.WaitGroup
}

var (
	_ Store       = (*Client)(nil)
	_ Equivalents = (*Client)(nil)
	_ Keeper      = (*Client)(nil)
)

// piece is how many lines are asked in one go. A longer batch is asked in pieces, so that others come between.
const piece = 256

// NewClient makes a client. It does not connect yet. [Client.Close] ends it.
func NewClient(conf ClientConfig) (*Client, error) {
	if conf.Address == "" {
		return nil, errors.New("a hash client needs an address")
	}
	conf = conf.withDefaults()
	c := &Client{conf: conf, pause: &pause{first: conf.Pause, longest: conf.LongestPause}}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.run = func(l *lane) { l.run(ctx) }
	for range conf.Connections {
		c.lanes = append(c.lanes, newLane(c, conf.Timeout))
	}
	c.slow = newLane(c, conf.Patience)
	return c, nil
}

func (conf ClientConfig) withDefaults() ClientConfig {
	if conf.Dialer == nil {
		conf.Dialer = &Dialer{}
	}
	if conf.Connections <= 0 {
		conf.Connections = 4
	}
	conf.Timeout = cmp.Or(conf.Timeout, 30*time.Second)
	conf.Patience = cmp.Or(conf.Patience, 10*time.Minute)
	conf.Pause = cmp.Or(conf.Pause, 100*time.Millisecond)
	conf.LongestPause = cmp.Or(conf.LongestPause, 10*time.Second)
	return conf
}

// Close ends all connections. What is under way fails, and so does what is asked later.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.lives.Wait()
	return nil
}

// start runs a lane. It reports false when the client is closed.
func (c *Client) start(l *lane) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.lives.Go(func() { c.run(l) })
	}
	return !c.closed
}

// connect makes a connection and says who we are. With credentials it waits for the server to take them.
func (c *Client) connect(ctx context.Context, l *lane) (*pipe, error) {
	ctx, cancel := context.WithTimeout(ctx, c.conf.Timeout)
	defer cancel()
	conn, err := greet(ctx, c.conf.Dialer, c.conf.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = c.signIn(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return newPipe(l, conn), nil
}

// greet connects, and sends how a connection begins: it leaves with what is flushed first.
func greet(ctx context.Context, d *Dialer, address string) (Conn, error) {
	conn, err := d.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	for _, line := range []string{clientHello, needsHeaders + ": false", ""} {
		if err := conn.Send([]byte(line)); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

func (c *Client) signIn(conn Conn) error {
	if c.conf.Username != "" {
		var accepted bool
		err := ask(conn, cmdAuth, authRequest{c.conf.Username, c.conf.Token}, func(m *members) {
			accepted = m.flag("result", false)
			m.user()
		})
		if err == nil && !accepted {
			err = ErrLogin
		}
		if err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
	}
	if c.conf.As != "" {
		if err := ask(conn, cmdBecomeUser, userRequest{c.conf.As}, func(m *members) { m.user() }); err != nil {
			return fmt.Errorf("become another user: %w", err)
		}
	}
	return nil
}

// ask sends one command on a connection that nobody else uses, and reads its reply.
func ask(conn Conn, command string, body request, read func(*members)) error {
	text, err := marshalRequest(command, body)
	if err != nil {
		return err
	}
	if err := errors.Join(sendMessage(conn, text), conn.Flush()); err != nil {
		return err
	}
	reply, _, err := receiveMessage(conn, nil)
	if err != nil {
		return err
	}
	if refusal := parseRefusal(reply); refusal != nil {
		return refusal
	}
	return readReply(reply, read)
}

// pick returns the lane on which a call of this stage is answered first.
func (c *Client) pick(s stage) *lane {
	best, least := c.lanes[0], int64(-1)
	for _, l := range c.lanes {
		if cost := l.cost(s); least < 0 || cost < least {
			best, least = l, cost
		}
	}
	return best
}

// working returns the least busy lane but one that has a connection, nil for none.
func (c *Client) working(but *lane) *lane {
	var best *lane
	for _, l := range c.lanes {
		if l != but && l.working.Load() && (best == nil || l.load.Load() < best.load.Load()) {
			best = l
		}
	}
	return best
}

// Unihash implements [Store]. What no server can have is not asked for: a word with white space or control characters in it.
func (c *Client) Unihash(ctx context.Context, tasks []Task, answers []Mapping) error {
	line := func(i int, buf []byte) []byte {
		answers[i] = Mapping{}
		if !askable(tasks[i].Method) || !askable(tasks[i].Taskhash) {
			return buf
		}
		buf = append(buf, tasks[i].Method...)
		buf = append(buf, ' ')
		return append(buf, tasks[i].Taskhash...)
	}
	return stream(ctx, c, getStream, len(tasks), line, parseUnihashLine, func(i int, u Unihash) { answers[i] = Mapping{Unihash: u} })
}

// Exists implements [Store].
func (c *Client) Exists(ctx context.Context, unihashes []Unihash, answers []bool) error {
	line := func(i int, buf []byte) []byte {
		answers[i] = false
		return append(buf, unihashes[i].String()...)
	}
	return stream(ctx, c, existsStream, len(unihashes), line, parseExistsLine, func(i int, there bool) { answers[i] = there })
}

func askable(word string) bool { return len(word) <= maxWord && cleanWord(word) }

// errLongMessage is about what was asked, not about the server, which is not told of it.
var errLongMessage = malformed("a message is too long")

var errBadLine = malformed("a reply in a stream is not what it can be")

func parseUnihashLine(reply []byte) (Unihash, error) {
	if len(reply) == 0 {
		return Unihash{}, nil
	}
	u, ok := ParseUnihash(string(reply))
	if !ok && !isOldHash(reply) {
		return Unihash{}, errBadLine
	}
	return u, nil
}

// isOldHash reports whether a reply is an MD5 or SHA-1, as old databases have some in place of unihashes. It is a whole reply, and of no use.
func isOldHash(reply []byte) bool {
	return (len(reply) == 32 || len(reply) == 40) && len(bytes.Trim(reply, "0123456789abcdef")) == 0
}

func parseExistsLine(reply []byte) (bool, error) {
	there := string(reply) == "true"
	if !there && string(reply) != "false" {
		return false, errBadLine
	}
	return there, nil
}

// stream asks for n lines, in pieces, a few of which are under way at once. line appends line i; when it appends nothing it is not asked.
// answer is called in this goroutine.
func stream[T any](ctx context.Context, c *Client, s stage, n int, line func(i int, buf []byte) []byte, parse func([]byte) (T, error), answer func(int, T)) error {
	var under []*part[T]
	defer func() {
		for _, p := range under {
			p.call.gaveUp.Store(true)
		}
	}()
	for next := 0; next < n || len(under) > 0; {
		if next < n && len(under) <= len(c.lanes) {
			p := newPart(s, next, min(next+piece, n), line, parse)
			if next = min(next+piece, n); p.call.n > 0 {
				c.pick(s).put(p.call)
				under = append(under, p)
			}
			continue
		}
		first := under[0]
		if err := first.call.wait(ctx); err != nil {
			return err
		}
		under = under[1:]
		for at, i := range first.index {
			answer(i, first.answers[at])
		}
	}
	return ctx.Err()
}

// part is one piece of a batch.
type part[T any] struct {
	call    *call
	index   []int // of the batch, of each line
	answers []T
}

func newPart[T any](s stage, from, to int, line func(int, []byte) []byte, parse func([]byte) (T, error)) *part[T] {
	p := &part[T]{index: make([]int, 0, to-from)}
	var text []byte
	for i := from; i < to; i++ {
		before := len(text)
		if before > 0 {
			text = append(text, '\n')
		}
		start := len(text)
		if text = line(i, text); len(text) == start {
			text = text[:before]
			continue
		}
		p.index = append(p.index, i)
	}
	p.answers = make([]T, len(p.index))
	accept := func(i int, reply []byte) (err error) {
		p.answers[i], err = parse(reply)
		return err
	}
	p.call = newCall(s, text, len(p.index), true, accept)
	return p
}

func newCall(s stage, text []byte, n int, again bool, accept func(int, []byte) error) *call {
	return &call{stage: s, text: text, n: n, again: again, accept: accept, done: make(chan error, 1)}
}

// command asks one thing. again is whether to ask again is harmless, when it is not known whether it was done. read may be called again, and
// in another goroutine, but not once command has returned nil.
func (c *Client) command(ctx context.Context, l *lane, again bool, name string, body request, read func([]byte) error) error {
	text, err := marshalRequest(name, body)
	if err != nil {
		return err
	}
	if len(text) > MaxMessage {
		return errLongMessage
	}
	call := newCall(commands, text, 1, again, func(_ int, reply []byte) error { return read(reply) })
	l.put(call)
	return call.wait(ctx)
}

// Outhash implements [Store]. The protocol has no question for the bare row of a task: the error is not one that wraps ErrUnavailable.
func (c *Client) Outhash(ctx context.Context, q Query) (*Row, error) {
	if !askable(q.Method) || q.Outhash == "" && !askable(q.Taskhash) || q.Outhash != "" && !askable(q.Outhash) {
		return nil, nil
	}
	var row *Row
	var err error
	switch {
	case q.Outhash != "":
		body := getOuthashRequest{q.Method, q.Outhash, q.Taskhash, !q.Bare}
		err = c.command(ctx, c.pick(commands), true, cmdGetOuthash, body, func(reply []byte) (err error) {
			row, err = parseRow(reply, q)
			return err
		})
	case q.Bare:
		return nil, errors.New("the protocol does not tell the bare row of a task")
	default:
		err = c.command(ctx, c.pick(commands), true, cmdGet, getRequest{q.Method, q.Taskhash, true}, func(reply []byte) (err error) {
			row, err = parseRow(reply, q)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return row, nil
}

// Report implements [Store].
func (c *Client) Report(ctx context.Context, r Report) (Mapping, error) {
	if !askable(r.Method) || !askable(r.Taskhash) || !askable(r.Outhash) {
		return Mapping{}, malformed("a report with a word that is none")
	}
	if r.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	body := reportRequest{r.Method, r.Taskhash, r.Outhash, r.Unihash, detailsMembers(r.Details)}
	return c.mapping(ctx, cmdReport, body, r.Task)
}

// Equivalent implements [Equivalents].
func (c *Client) Equivalent(ctx context.Context, t Task, m Mapping) (Mapping, error) {
	if !askable(t.Method) || !askable(t.Taskhash) {
		return Mapping{}, malformed("a task with a word that is none")
	}
	if m.Unihash == (Unihash{}) {
		return Mapping{}, ErrInvalidUnihash
	}
	return c.mapping(ctx, cmdReportEquiv, reportEquivRequest{t.Method, t.Taskhash, m.Unihash}, t)
}

// mapping sends a command that is answered with what t is mapped to.
func (c *Client) mapping(ctx context.Context, name string, body request, t Task) (Mapping, error) {
	var u Unihash
	err := c.command(ctx, c.pick(commands), true, name, body, func(reply []byte) (err error) {
		u, err = parseMapping(reply, t)
		return err
	})
	if err != nil {
		return Mapping{}, err
	}
	return Mapping{Unihash: u}, nil
}

// maintain sends a command that may take long.
func (c *Client) maintain(ctx context.Context, again bool, name string, body request, read func(*members)) error {
	return c.command(ctx, c.slow, again, name, body, func(reply []byte) error { return readReply(reply, read) })
}

func (c *Client) count(ctx context.Context, again bool, name string, body request) (int64, error) {
	var n int64
	err := c.maintain(ctx, again, name, body, func(m *members) { n = m.natural("count") })
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Remove implements [Keeper]. When the connection is lost meanwhile, how many were removed is not known.
func (c *Client) Remove(ctx context.Context, w Where) (int64, error) {
	return c.count(ctx, false, cmdRemove, whereRequest{w.orEmpty()})
}

// CleanUnused implements [Keeper]. The age is rounded up to seconds. The reference server ignores it and takes all.
func (c *Client) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	return c.count(ctx, false, cmdCleanUnused, cleanUnusedRequest{int64((age + time.Second - 1) / time.Second)})
}

// Mark implements [Keeper]. The mark may not be empty.
func (c *Client) Mark(ctx context.Context, mark string, w Where) (int64, error) {
	if mark == "" {
		return 0, errNoMark
	}
	return c.count(ctx, true, cmdGCMark, gcMarkRequest{mark, w.orEmpty()})
}

var errNoMark = malformed("an empty mark")

// Sweep implements [Keeper]. The mark may not be empty.
func (c *Client) Sweep(ctx context.Context, mark string) (int64, error) {
	if mark == "" {
		return 0, errNoMark
	}
	return c.count(ctx, false, cmdGCSweep, gcSweepRequest{mark})
}

func (w Where) orEmpty() Where {
	if w == nil {
		return Where{}
	}
	return w
}

// Collection implements [Keeper].
func (c *Client) Collection(ctx context.Context) (Collection, error) {
	var state Collection
	err := c.maintain(ctx, true, cmdGCStatus, nothing{}, func(m *members) {
		state = Collection{Keep: m.natural("keep"), Remove: m.natural("remove"), Mark: m.optionalText("mark")}
	})
	return state, err
}

// Usage implements [Keeper].
func (c *Client) Usage(ctx context.Context) (map[string]int64, error) {
	var tables map[string]int64
	err := c.maintain(ctx, true, cmdDBUsage, nothing{}, func(m *members) { tables = m.usage() })
	return tables, err
}

// Columns returns the columns that the server takes in conditions.
func (c *Client) Columns(ctx context.Context) ([]string, error) {
	var columns []string
	err := c.maintain(ctx, true, cmdDBColumns, nothing{}, func(m *members) { m.must("columns", &columns, '[') })
	return columns, err
}

// Ping asks whether the server is there.
func (c *Client) Ping(ctx context.Context) error {
	return c.command(ctx, c.pick(commands), true, cmdPing, nothing{}, func(reply []byte) error {
		return readReply(reply, func(m *members) { m.wrong = !m.flag("alive", false) })
	})
}

// User returns a user of the server, nil for one that does not exist. An empty name means the one that the client signed in as.
func (c *Client) User(ctx context.Context, name string) (*User, error) {
	var user *User
	err := c.command(ctx, c.slow, true, cmdGetUser, userRequest{name}, func(reply []byte) error {
		if isNull(reply) {
			user = nil
			return nil
		}
		return readReply(reply, func(m *members) {
			u := m.user()
			user = &u
		})
	})
	if err != nil {
		return nil, err
	}
	return user, nil
}

// AllUsers returns the users of the server.
func (c *Client) AllUsers(ctx context.Context) ([]User, error) {
	var users []User
	err := c.maintain(ctx, true, cmdGetAllUsers, nothing{}, func(m *members) { users = m.users("users") })
	return users, err
}

// NewUser makes a user, and returns it with its token.
func (c *Client) NewUser(ctx context.Context, name string, permissions []Permission) (u User, token string, err error) {
	err = c.maintain(ctx, false, cmdNewUser, permissionsRequest{name, permissions}, func(m *members) {
		token = m.word("token")
		u = m.user()
	})
	return u, token, err
}

// SetPermissions changes what a user may do.
func (c *Client) SetPermissions(ctx context.Context, name string, permissions []Permission) (u User, err error) {
	err = c.maintain(ctx, true, cmdSetUserPerms, permissionsRequest{name, permissions}, func(m *members) { u = m.user() })
	return u, err
}

// RefreshToken gives a user a new token. An empty name means the one that the client signed in as.
func (c *Client) RefreshToken(ctx context.Context, name string) (resolved, token string, err error) {
	err = c.maintain(ctx, false, cmdRefreshToken, userRequest{name}, func(m *members) { resolved, token = m.word("username"), m.word("token") })
	return resolved, token, err
}

// DeleteUser removes a user. An empty name means the one that the client signed in as.
func (c *Client) DeleteUser(ctx context.Context, name string) (resolved string, err error) {
	err = c.maintain(ctx, false, cmdDeleteUser, userRequest{name}, func(m *members) { resolved = m.word("username") })
	return resolved, err
}

// readReply reads an object with exactly the members that read takes.
func readReply(reply []byte, read func(*members)) error {
	m, err := newMembers(reply)
	if err != nil {
		return err
	}
	read(m)
	return m.end()
}

func isNull(reply []byte) bool { return string(bytes.TrimSpace(reply)) == "null" }
