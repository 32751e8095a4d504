package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/internal/client"
)

const (
	// promiseTime is how long what was promised is served without asking the gate again: a HEAD, and the GET for which BitBake asked it.
	promiseTime = 2 * time.Minute
	// readTime is how long an object stays that was read to its end: wget may come back for it.
	readTime = 30 * time.Second
	// graceTime is how long a download goes on that nobody waits for: BitBake asks a second time.
	graceTime = 10 * time.Second
	// maxObjects bounds the open files.
	maxObjects = 1000
	// getAttempts is how often a download is taken up again without a byte coming: it bridges a gate that is away for 15 s.
	getAttempts = 7
	// quietTime is how long a download goes on without a byte, all attempts together.
	quietTime = time.Minute
)

var errSpoolFull = errors.New("the spool is full of objects that builds wait for")

// diskError is a fault of the spool's disk. It is opaque: a directory that is not there is no object that is not there.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }

// spoolFile holds the bytes of one object. Close frees them.
type spoolFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// createFile makes a file without a name: it is gone when the agent is.
func createFile(dir string) (spoolFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil { // somebody may have cleaned up
		return nil, err
	}
	f, err := os.CreateTemp(dir, "object-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// spool holds whole, verified objects between the HEAD that promises one and the GET that fetches it. An object is downloaded once,
// however many ask for it.
type spool struct {
	agent *Agent
	slots chan struct{}
	cache *cache          // nil for none
	work  context.Context // of downloads; nil before start

	mu      sync.Mutex // guards what follows, and what is in objects and flights
	closed  bool
	used    int64 // bytes, of what is being downloaded too
	objects map[key]*object
	flights map[key]*flight
	running sync.WaitGroup
}

// object is whole and verified.
type object struct {
	key        key
	file       spoolFile
	size       int64
	reserved   int64 // bytes of the spool
	digest     artifact.Digest
	generation uint64

	users    int       // who read it now
	gone     bool      // from objects: closed when nobody reads it
	allowed  time.Time // when the gate last said that we may read it
	promised time.Time // when that was last promised
	read     time.Time // when it was last read to its end; zero: never
}

// flight is a download, or a question whether what is held may still be read.
type flight struct {
	waiters int
	over    bool
	cancel  context.CancelFunc
	done    chan struct{} // closed when what follows is set
	object  *object
	err     error
}

func newSpool(a *Agent) *spool {
	return &spool{agent: a, slots: make(chan struct{}, a.conf.Downloads), objects: map[key]*object{}, flights: map[key]*flight{}}
}

// start lets downloads run until ctx is done.
func (s *spool) start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work = ctx
}

// close waits for downloads, whose context is done, and frees everything that nobody reads.
func (s *spool) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.objects {
		s.drop(o)
	}
	if s.agent.conf.opened == nil {
		_ = s.cache.close() // nothing is written through it
	}
}

// obtain returns an object that the user may read, with all its bytes here, and promises it: for a while it may be had again as promised.
// The caller releases it. An object that is not there is an error that wraps fs.ErrNotExist.
func (s *spool) obtain(ctx context.Context, k key, promised bool) (*object, error) {
	generation, err := s.agent.link.generationNow(ctx)
	if err != nil && !promised {
		return nil, err
	}
	s.mu.Lock()
	now := s.agent.conf.Now()
	if o := s.objects[k]; o != nil && s.usable(o, now, generation, promised) {
		o.users++
		if !promised {
			o.promised = now
		}
		s.mu.Unlock()
		return o, nil
	}
	if err != nil || s.closed || s.work == nil {
		s.mu.Unlock()
		return nil, errors.Join(err, errNotServing)
	}
	f := s.flights[k]
	if f == nil {
		f = s.launch(k, generation)
	}
	f.waiters++
	s.mu.Unlock()
	return s.await(ctx, f)
}

var errNotServing = errors.New("the agent does not ask the gate now")

// usable reports whether an object may be handed out without asking the gate. What was promised is, also when the token has changed since.
func (s *spool) usable(o *object, now time.Time, generation uint64, promised bool) bool {
	if promised && now.Sub(o.promised) < promiseTime {
		return true
	}
	return o.generation == generation && now.Sub(o.allowed) < s.agent.conf.Remember
}

func (s *spool) await(ctx context.Context, f *flight) (*object, error) {
	select {
	case <-f.done:
		return f.object, f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.over {
		if f.object != nil {
			s.leave(f.object)
		}
		return nil, ctx.Err()
	}
	if f.waiters--; f.waiters == 0 {
		time.AfterFunc(graceTime, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if f.waiters == 0 {
				f.cancel()
			}
		})
	}
	return nil, ctx.Err()
}

// launch begins a flight. s.mu is held.
func (s *spool) launch(k key, generation uint64) *flight {
	ctx, cancel := context.WithCancel(s.work)
	f := &flight{cancel: cancel, done: make(chan struct{})}
	s.flights[k] = f
	held := s.objects[k]
	if held != nil {
		held.users++
	}
	s.running.Go(func() {
		defer cancel()
		o, err := s.fly(ctx, k, held)
		s.land(k, f, held, o, err)
	})
	return f
}

// fly returns an object that the gate says may be read: the one that is held, if it is that one, else a new one.
func (s *spool) fly(ctx context.Context, k key, held *object) (*object, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if held != nil || s.cache != nil || s.agent.vouch != nil {
		asked := s.agent.conf.Now()
		digest, generation, err := s.stat(ctx, k)
		if err != nil {
			return nil, err
		}
		if err := s.agent.vouch.check(ctx, k, digest); err != nil {
			return nil, err
		}
		if held != nil && digest == held.digest {
			s.mu.Lock()
			defer s.mu.Unlock()
			held.allowed, held.generation = asked, generation
			return held, nil
		}
		if file, size, ok := s.kept(ctx, digest); ok {
			return &object{key: k, file: file, size: size, digest: digest, generation: generation, allowed: asked}, nil
		}
	}
	return s.download(ctx, k)
}

// stat asks the gate which bytes an object is now.
func (s *spool) stat(ctx context.Context, k key) (digest artifact.Digest, generation uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, presenceTime, errSlow)
	defer cancel()
	generation, err = s.agent.link.do(ctx, getAttempts, func(c *client.Client) (err error) {
		digest, _, err = c.Stat(ctx, k.zone, k.name)
		return err
	})
	return digest, generation, err
}

// kept returns bytes of the cache that the gate has just said may be read.
func (s *spool) kept(ctx context.Context, d artifact.Digest) (file spoolFile, size int64, ok bool) {
	if s.cache == nil || s.reserve(0) != nil { // which says whether there is room for one more open file
		return nil, 0, false
	}
	file, size, err := s.cache.open(ctx, d)
	if err == nil {
		s.agent.count.cacheHits.Add(1)
		return file, size, true
	}
	if !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		s.agent.warn.add(causeCache, "the cache cannot be read, and objects are downloaded again: "+err.Error())
	}
	return nil, 0, false
}

// keep puts a verified object into the cache. What goes wrong there costs a download another time.
func (s *spool) keep(o *object) {
	if s.cache == nil {
		return
	}
	if err := s.cache.put(o.digest, o.file, o.size); err != nil {
		s.agent.warn.add(causeCache, "an object cannot be kept in the cache: "+err.Error())
	}
}

func (s *spool) download(ctx context.Context, k key) (*object, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(quietTime, func() { cancel(errSlow) })
	defer quiet.Stop()
	o := &object{key: k, allowed: s.agent.conf.Now()}
	w := &spoolWriter{spool: s, alive: func() { quiet.Reset(quietTime) }}
	generation, err := s.agent.link.do(ctx, getAttempts, func(c *client.Client) (err error) {
		if err = w.restart(); err == nil {
			o.digest, o.size, err = c.Get(ctx, k.zone, k.name, w)
		}
		return err
	})
	if err == nil {
		err = s.agent.vouch.check(ctx, k, o.digest) // these may be other bytes than those that were asked about
	}
	if err != nil {
		w.discard()
		return nil, err
	}
	o.file, o.reserved, o.generation = w.file, w.written, generation
	s.keep(o)
	return o, nil
}

// land ends a flight: everybody who waits has the object, with a reader's hold on it.
func (s *spool) land(k key, f *flight, held, o *object, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flights, k)
	now := s.agent.conf.Now()
	if held != nil {
		s.leave(held)
		if o != held && (o != nil || isAbsent(err) || isUnverified(err)) {
			s.drop(held)
		}
	}
	if f.object, f.err, f.over = o, err, true; o != nil {
		s.objects[k] = o
		o.users += f.waiters
		o.promised = now
	}
	close(f.done)
}

// release gives an object back. read is whether it was read to its end.
func (s *spool) release(o *object, read bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if read {
		o.read = s.agent.conf.Now()
	}
	s.leave(o)
}

// leave is a reader less. s.mu is held.
func (s *spool) leave(o *object) {
	if o.users--; o.users == 0 && o.gone {
		s.shut(o)
	}
}

// drop forgets an object. s.mu is held.
func (s *spool) drop(o *object) {
	if o.gone {
		return
	}
	if s.objects[o.key] == o {
		delete(s.objects, o.key)
	}
	if o.gone = true; o.users == 0 {
		s.shut(o)
	}
}

// shut frees an object's bytes. s.mu is held.
func (s *spool) shut(o *object) {
	s.used -= o.reserved
	if err := o.file.Close(); err != nil {
		s.agent.warn.add(causeDisk, "close a file of the spool: "+err.Error())
	}
}

// sweep forgets what is not needed any more.
func (s *spool) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.agent.conf.Now()
	for _, o := range s.objects {
		if s.spent(o, now) {
			s.drop(o)
		}
	}
}

func (s *spool) spent(o *object, now time.Time) bool {
	switch {
	case o.users > 0:
		return false
	case !o.read.IsZero() && !o.read.Before(o.promised):
		return now.Sub(o.read) >= readTime
	}
	return now.Sub(o.promised) >= promiseTime
}

// promises counts what was promised and has not been fetched.
func (s *spool) promises() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.agent.conf.Now()
	for _, o := range s.objects {
		if o.read.Before(o.promised) && now.Sub(o.promised) < promiseTime {
			n++
		}
	}
	return n
}

// reserve takes room for n bytes, in place of what was read already if need be.
func (s *spool) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.used+n > s.agent.conf.SpoolBytes || len(s.objects) >= maxObjects {
		o := s.leastNeeded()
		if o == nil {
			return fmt.Errorf("%w: give it more with --spool-size, which is %d bytes", errSpoolFull, s.agent.conf.SpoolBytes)
		}
		s.drop(o)
	}
	s.used += n
	return nil
}

// shrink frees what was read first, if there is something that nobody waits for, and reports whether there was.
func (s *spool) shrink() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.leastNeeded()
	if o != nil {
		s.drop(o)
	}
	return o != nil
}

// leastNeeded returns what was read first, nil when there is nothing that nobody waits for. s.mu is held.
func (s *spool) leastNeeded() (least *object) {
	for _, o := range s.objects {
		if o.users == 0 && !o.read.IsZero() && !o.read.Before(o.promised) && (least == nil || o.read.Before(least.read)) {
			least = o
		}
	}
	return least
}

// spoolWriter is a file under way, whose bytes are counted.
type spoolWriter struct {
	spool   *spool
	file    spoolFile
	written int64  // reserved, too
	alive   func() // is called with each piece
}

// restart begins with an empty file.
func (w *spoolWriter) restart() (err error) {
	w.discard()
	conf := w.spool.agent.conf
	if w.file, err = conf.create(conf.Spool); err != nil {
		w.file = nil
		return &diskError{err}
	}
	return nil
}

func (w *spoolWriter) discard() {
	if w.file == nil {
		return
	}
	w.spool.mu.Lock()
	defer w.spool.mu.Unlock()
	w.spool.shut(&object{file: w.file, reserved: w.written})
	w.file, w.written = nil, 0
}

func (w *spoolWriter) Write(p []byte) (int, error) {
	w.alive()
	if err := w.spool.reserve(int64(len(p))); err != nil {
		return 0, err
	}
	w.written += int64(len(p))
	w.spool.agent.count.fetched.Add(int64(len(p)))
	n := 0
	for {
		some, err := w.file.Write(p[n:])
		if n += some; err == nil {
			return n, nil
		}
		if !errors.Is(err, syscall.ENOSPC) || !w.spool.shrink() {
			return n, &diskError{err}
		}
	}
}

// isUnverified reports whether an error says that nobody who is trusted vouches for the object.
func isUnverified(err error) bool {
	var unverified *unverifiedError
	return errors.As(err, &unverified)
}

// isAbsent reports whether an error says that the gate has no such object for the user.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
