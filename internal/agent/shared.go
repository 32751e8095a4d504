package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

const (
	// maxUsers bounds who may have joined at once, userConnections the connections of one user id.
	maxUsers        = 256
	userConnections = 4096
	// maxTold bounds the user ids that were warned of.
	maxTold = 1000
	// acceptPause is how long nothing is accepted when the process has too many files open.
	acceptPause = 100 * time.Millisecond
)

// ErrNotJoined is wrapped when somebody asks a shared agent who has not joined it.
var ErrNotJoined = errors.New("you have not joined this agent, or the gate refused your token: run lychgate login, then lychgate agent join")

// Shared serves the users of a build host who have joined it. Each of them has an [Agent] of its own, with its own token, answers, promises and
// objects: nothing is in common but listeners, connections to the gate, and the cache, whose every use the gate allows to that user. Whose a connection
// is, the kernel says, before anything of it is read. Who has not joined finds nothing.
//
// It is safe for concurrent use.
type Shared struct {
	conf     Config
	unmapped int // user id that stands for all that the kernel does not tell apart here
	log      *slog.Logger
	warn     *warnings
	nobody   *tenant       // for who has not joined
	serving  chan struct{} // closed when Serve has begun

	mu        sync.Mutex // guards what follows
	work      context.Context
	running   sync.WaitGroup
	listeners []net.Listener
	users     map[int]*tenant  // by user id
	open      map[int]int      // connections, by user id
	strangers map[*guarded]int // connections of who has not joined, with the user id: they are closed when that user joins
	told      map[int]bool     // user ids that were warned of
}

// tenant is one user of a shared agent: an agent, and how connections come to it.
type tenant struct {
	*Agent
	creds   *joined
	objects []*handoff          // in the order of Shared.listeners
	hash    map[string]*handoff // by zone
	end     context.CancelFunc
}

// NewShared checks conf, in which there are no Credentials: each user brings their own. SpoolBytes and Downloads are for each user. It neither
// listens nor asks the gate anything.
func NewShared(conf Config) (*Shared, error) {
	switch {
	case conf.Credentials != nil:
		return nil, errors.New("a shared agent has no credentials of its own")
	case !ownersKnown || conf.AnyUser:
		return nil, errors.New("an agent can be shared only where the system tells whose a connection is, which Linux does")
	}
	conf = conf.withDefaults()
	var err error
	if conf.Cache != "" {
		if conf.opened, err = openCache(conf.Cache, conf.CacheBytes, conf.Now); err != nil {
			return nil, err
		}
	}
	s := &Shared{conf: conf, unmapped: unmappedUser(), log: conf.Log, warn: &warnings{log: conf.Log, now: conf.Now}, serving: make(chan struct{}), users: map[int]*tenant{}, open: map[int]int{}, strangers: map[*guarded]int{}, told: map[int]bool{}}
	for _, h := range conf.Hash {
		if h.Listener == nil {
			return nil, errors.New("hash equivalence needs a listener")
		}
	}
	alone := conf
	alone.Log = slog.New(slog.DiscardHandler)
	s.nobody, err = newTenant(alone)
	return s, err
}

func newTenant(conf Config) (t *tenant, err error) {
	t = &tenant{creds: &joined{}, hash: map[string]*handoff{}}
	conf.Credentials, conf.Hash = t.creds, slices.Clone(conf.Hash)
	for i, h := range conf.Hash {
		door := newHandoff(h.Listener.Addr())
		conf.Hash[i].Listener, t.hash[h.Zone] = door, door
	}
	t.Agent, err = New(conf)
	return t, err
}

// Serve answers BitBake on listeners, and closes them, until ctx is done. What was promised by then is still served, for a while. It is called once.
func (s *Shared) Serve(ctx context.Context, listeners ...net.Listener) error {
	for _, ln := range listeners {
		if err := s.nobody.checkListener(ln); err != nil {
			return err
		}
	}
	work, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.work, s.listeners = work, listeners
	s.begin(s.nobody)
	s.mu.Unlock()
	close(s.serving)
	failed := make(chan error, len(listeners)+len(s.conf.Hash))
	var accepting sync.WaitGroup
	for i, ln := range listeners {
		accepting.Go(func() { failed <- s.accept(ln, func(t *tenant) *handoff { return t.objects[i] }) })
	}
	for _, h := range s.conf.Hash {
		accepting.Go(func() { failed <- s.accept(h.Listener, func(t *tenant) *handoff { return t.hash[h.Zone] }) })
		listeners = append(slices.Clip(listeners), h.Listener)
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	cancel()
	s.end()
	for _, ln := range listeners {
		_ = ln.Close() // what it still had to give is nobody's any more
	}
	accepting.Wait()
	_ = s.conf.opened.close() // nothing is written through it
	return err
}

// end waits for the agents of all users, whose context is done. Nobody can join any more.
func (s *Shared) end() {
	s.mu.Lock()
	s.work = nil
	s.mu.Unlock()
	s.running.Wait()
}

// begin has a tenant served, which it is when begin returns. s.mu is held.
func (s *Shared) begin(t *tenant) {
	ctx, cancel := context.WithCancel(s.work)
	t.end = cancel
	var doors []net.Listener
	for _, ln := range s.listeners {
		door := newHandoff(ln.Addr())
		t.objects, doors = append(t.objects, door), append(doors, door)
	}
	s.running.Go(func() {
		defer t.shut()
		if err := t.Serve(ctx, doors...); err != nil {
			t.log.Error("a user is not served any more", "error", err)
		}
	})
	select {
	case <-t.serving:
	case <-ctx.Done():
	}
}

// shut frees what a tenant has when it is not served any more.
func (t *tenant) shut() {
	t.end()
	for _, door := range t.objects {
		_ = door.Close() // never fails
	}
	for _, door := range t.hash {
		_ = door.Close() // never fails
	}
}

// accept hands the connections of a listener to those whose they are.
func (s *Shared) accept(ln net.Listener, door func(*tenant) *handoff) error {
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			go s.route(c, door)
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			time.Sleep(acceptPause)
		default:
			return err
		}
	}
}

// route hands a connection to its user's agent. Nothing of it is read before it is known whose it is.
func (s *Shared) route(c net.Conn, door func(*tenant) *handoff) {
	g, uid, err := s.enter(c)
	if err != nil {
		s.warn.add(causeForeign, "a connection was closed: "+err.Error())
		return
	}
	t := s.of(uid, g)
	g.agent = t.Agent
	if !door(t).deliver(g) {
		g.Close()
	}
}

// enter finds out whose a connection is, and counts it while it is open. It closes those that it returns an error of.
func (s *Shared) enter(c net.Conn) (*guarded, int, error) {
	uid, err := ownerOf(c)
	if err == nil && uid == s.unmapped {
		err = fmt.Errorf("user id %d stands for all whom the kernel does not tell apart in here", uid)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("it cannot be found out whose it is: %w", err), c.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[uid] >= userConnections {
		return nil, 0, errors.Join(fmt.Errorf("user id %d has %d connections already", uid, userConnections), c.Close())
	}
	s.open[uid]++
	g := &guarded{Conn: c, owner: uid}
	g.left = func() { s.left(g) }
	g.once.Do(func() {}) // it is admitted
	return g, uid, nil
}

func (s *Shared) left(g *guarded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.strangers, g)
	if s.open[g.owner]--; s.open[g.owner] <= 0 {
		delete(s.open, g.owner)
	}
}

// of returns who serves a user on a connection: their own agent, or that of nobody.
func (s *Shared) of(uid int, g *guarded) *tenant {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.users[uid]
	if t != nil && t.creds.held() {
		return t
	}
	if len(s.told) < maxTold && !s.told[uid] {
		s.told[uid] = true
		s.log.Warn("a user finds nothing: who has not joined, or whose token was refused, runs lychgate agent join", "uid", uid)
	}
	if t != nil {
		return t // what was promised is still served
	}
	s.strangers[g] = uid
	return s.nobody
}

// user returns the tenant of a user who has joined, nil for none.
func (s *Shared) user(uid int) *tenant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[uid]
}

// Join has a user served by a token, which the gate is shown. It replaces the one before.
func (s *Shared) Join(ctx context.Context, uid int, token authn.Secret) (gateway.Whoami, error) {
	if !client.IsGateToken(token) {
		return gateway.Whoami{}, errors.New("that is no gate token")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, presenceTime, errSlow)
	defer cancel()
	me, err := s.conf.Client.As(token).WithAttempts(1).Whoami(ctx)
	if err != nil {
		return me, fmt.Errorf("the token is not taken: %w", err)
	}
	if err := s.take(uid, token); err != nil {
		return me, err
	}
	s.log.Info("a user has joined", "uid", uid, "as", me.Name, "forge", me.Forge)
	return me, nil
}

// take has a user served by a token. The connections that the user had before, who found nothing, are closed: BitBake makes new ones.
func (s *Shared) take(uid int, token authn.Secret) error {
	s.mu.Lock()
	t, err := s.settle(uid)
	var before []*guarded
	if err == nil {
		t.creds.set(token)
		delete(s.told, uid)
		for g, owner := range s.strangers {
			if owner == uid {
				before = append(before, g)
			}
		}
	}
	s.mu.Unlock()
	for _, g := range before {
		_ = g.Close() // which says so to left
	}
	return err
}

// settle returns the tenant of a user, a new one if there is none. s.mu is held.
func (s *Shared) settle(uid int) (*tenant, error) {
	if t := s.users[uid]; t != nil {
		return t, nil
	}
	if s.work == nil {
		return nil, errNotServing
	}
	if len(s.users) >= maxUsers && !s.evict() {
		return nil, fmt.Errorf("%d users have joined already, which is as many as may", maxUsers)
	}
	conf := s.conf
	conf.Log = s.log.With("uid", uid)
	t, err := newTenant(conf)
	if err != nil {
		return nil, err
	}
	s.users[uid] = t
	s.begin(t)
	return t, nil
}

// evict makes room in place of somebody who has left. s.mu is held.
func (s *Shared) evict() bool {
	for uid, t := range s.users {
		if !t.creds.held() {
			t.end()
			delete(s.users, uid)
			return true
		}
	}
	return false
}

// Leave forgets the token of a user. What was promised is still served, for a while.
func (s *Shared) Leave(uid int) {
	if t := s.user(uid); t != nil {
		t.creds.set(authn.Secret{})
	}
}

// Status returns what is to be told to a user: how their own agent is doing, and nothing of others.
func (s *Shared) Status(uid int) Status {
	if t := s.user(uid); t != nil {
		status := t.Agent.Status()
		if !t.creds.held() {
			status.TokenState, status.TokenFault = "none", ErrNotJoined.Error()
		}
		return status
	}
	all := s.nobody.Agent.Status() // of which only what is not about anybody is told
	return Status{
		Gate: all.Gate, Listen: all.Listen, Hash: all.Hash, Started: all.Started, GateState: "not asked yet", Warnings: []Warning{},
		TokenState: "none", TokenFault: ErrNotJoined.Error(),
	}
}

// joined is the token with which a user has joined; a zero one when there is none.
type joined struct {
	mu    sync.Mutex // guards token
	token authn.Secret
}

var _ Credentials = (*joined)(nil)

func (j *joined) set(token authn.Secret) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.token = token
}

func (j *joined) held() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.token.IsZero()
}

// Token implements [Credentials].
func (j *joined) Token(context.Context) (authn.Secret, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.token.IsZero() {
		return j.token, ErrNotJoined
	}
	return j.token, nil
}

// Refused implements [Credentials]: a token that the gate does not take is not kept.
func (j *joined) Refused(token authn.Secret) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if token.Reveal() == j.token.Reveal() {
		j.token = authn.Secret{}
	}
}

// handoff is a listener whose connections somebody else accepted, and found to be of the agent's user.
type handoff struct {
	at     net.Addr
	conns  chan *guarded
	closed chan struct{}
	once   sync.Once
}

func newHandoff(at net.Addr) *handoff {
	return &handoff{at: at, conns: make(chan *guarded), closed: make(chan struct{})}
}

// Accept implements [net.Listener].
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case g := <-h.conns:
		return g, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements [net.Listener].
func (h *handoff) Addr() net.Addr { return h.at }

// deliver reports whether the connection was accepted.
func (h *handoff) deliver(g *guarded) bool {
	select {
	case h.conns <- g:
		return true
	case <-h.closed:
		return false
	}
}
