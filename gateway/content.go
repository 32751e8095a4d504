package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/upstream"
)

// copyBytes is how much is read before it is written on.
const copyBytes = 256 << 10

// recheckEvery is how often the right to an open transfer is asked for again.
const recheckEvery = time.Second

// recheckPatience is how long that may take: what takes longer is taken for a no.
const recheckPatience = 3 * time.Second

// Content is an object that the principal may read. It is for one goroutine, but for ReadAt.
type Content struct {
	Object
	session *Session
	asked   artifact.Ref // what was asked for; the record may be in a base of its zone
	zone    Zone         // that holds the record
	record  provenance.Record
	request string
	began   time.Time

	mu     sync.Mutex // guards what follows among callers of ReadAt
	sent   int64
	failed error
	at     sections
}

// Cutter is a writer whose Write another goroutine can end: Cut makes the one under way and every later one fail.
type Cutter interface{ Cut() }

// Copy writes length bytes from off on to w. Bytes that others could have changed are verified chunk by
// chunk before they are written. It stops with ErrNotFound when the right to read is withdrawn on the way, and does not wait for
// a client that takes nothing if w is a [Cutter].
func (c *Content) Copy(ctx context.Context, w io.Writer, off, length int64) error {
	err := c.copy(ctx, w, off, length)
	if err != nil && c.failed == nil {
		c.failed = err
	}
	return err
}

func (c *Content) copy(ctx context.Context, w io.Writer, off, length int64) error {
	if length > copyBytes {
		watched, stop := c.watch(ctx, w)
		defer stop()
		ctx = watched
	}
	r, err := c.open(ctx, off, length)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := c.session.gate.copyBuffers.Get().(*[]byte)
	defer c.session.gate.copyBuffers.Put(buf)
	for length > 0 {
		n, err := io.ReadFull(r, (*buf)[:min(length, int64(len(*buf)))])
		if err != nil {
			return fmt.Errorf("%w: read %s: %w", ErrUnavailable, c.Name, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m, err := w.Write((*buf)[:n])
		c.sent += int64(m)
		length -= int64(m)
		if err != nil {
			return fmt.Errorf("write to the client: %w", err)
		}
	}
	return nil
}

// watch asks again every second, until stop is called, whether the principal may read. When it may not any more, the context that
// watch returns ends with the reason, and w is cut.
func (c *Content) watch(ctx context.Context, w io.Writer) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(recheckEvery)
		defer tick.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-tick.C:
			}
			err := c.recheck(watched)
			if watched.Err() != nil {
				return
			}
			if err != nil {
				cancel(err)
				if cutter, ok := w.(Cutter); ok {
					cutter.Cut()
				}
				return
			}
		}
	})
	return watched, func() { cancel(nil); running.Wait() }
}

// recheck asks again whether the principal may read, with the credential it came with. A withdrawn right leaves an event; the end
// of the transfer meanwhile is none.
func (c *Content) recheck(ctx context.Context) error {
	// A forge that takes its time must not let a transfer go on: what is known is answered at once, and who has to be asked about has
	// been revoked, or has not been asked about for long.
	inner, cancel := context.WithTimeout(ctx, recheckPatience)
	defer cancel()
	now := *c.session
	r := authz.Request{Action: authz.Read, Door: now.door.Name, Ref: c.asked}
	var answer authz.Answer
	err := ErrNotFound
	if now.identify(inner) == nil {
		r.Principal = now.principal
		answer, err = now.gate.Authorizer.Decide(inner, &r)
		err = outcome(&answer, err)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errors.Join(err, c.recordCut(&r, &answer))
	case answer.Record.Digest != c.Digest:
		return ErrNotFound
	}
	return nil
}

// recordCut leaves an event of a right that was withdrawn while it was used.
func (c *Content) recordCut(r *authz.Request, answer *authz.Answer) error {
	e := c.session.decisionEvent(r, answer, c.request)
	e.Kind, e.Detail = "transfer.cut", "the right to read was withdrawn"
	if answer.Decision == nil {
		e.Decision = audit.Decision{Verdict: "deny", FactAge: -1}
	}
	return c.session.record(e)
}

// open returns a reader of exactly the section, verified where it must be.
func (c *Content) open(ctx context.Context, off, length int64) (io.ReadCloser, error) {
	g := c.session.gate
	if c.record.Place == provenance.Blob {
		obj, err := g.Blobs.Open(ctx, blobName(c.record.Digest), off)
		return c.sized(obj, err)
	}
	if c.zone.Mirror == nil {
		return nil, fmt.Errorf("%w: %s lies in a mirror that zone %q no longer has", ErrUnavailable, c.Name, c.zone.Name)
	}
	chunks, err := g.Records.Chunks(ctx, c.record.Digest)
	if err != nil {
		return nil, fmt.Errorf("%w: chunk digests of %s: %w", ErrUnavailable, c.Name, err)
	}
	if chunks == nil && c.record.Size <= provenance.ChunkSize {
		chunks = []artifact.Digest{c.record.Digest}
	}
	if want := (c.record.Size + provenance.ChunkSize - 1) / provenance.ChunkSize; int64(len(chunks)) != max(want, 1) {
		return nil, fmt.Errorf("%w: %d chunk digests of %s, want %d", ErrUnavailable, len(chunks), c.Name, want)
	}
	start := off - off%provenance.ChunkSize
	obj, err := c.sized(c.zone.Mirror.Open(ctx, c.record.Ref.Name(), start))
	if err != nil {
		return nil, err
	}
	return newVerifiedReader(&g.chunkBuffers, obj, c.record.Size-start, chunks[start/provenance.ChunkSize:], off-start), nil
}

// sized refuses an upstream object whose size is not the record's.
func (c *Content) sized(obj *upstream.Object, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: %w", ErrUnavailable, c.Name, err)
	}
	if obj.Size != c.record.Size {
		obj.Close()
		return nil, fmt.Errorf("%w: %s has %d bytes upstream, %d in its record", ErrUnavailable, c.Name, obj.Size, c.record.Size)
	}
	return obj, nil
}

// Close records what was really sent. status and rng are what the door answered with.
func (c *Content) Close(status int, rng string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeSections()
	defer func() { c.failed = errClosed }()
	e := c.session.event("transfer", c.request)
	e.Action, e.Zone = string(authz.Read), c.record.Ref.Zone
	e.Object = audit.Object{Path: c.Name, Digest: c.Digest.String(), Size: c.Size}
	e.Decision.FactAge = -1
	e.Result = audit.Result{
		Status: status, Bytes: c.sent, Range: rng, Complete: c.failed == nil,
		Micros: c.session.gate.Now().Sub(c.began).Microseconds(),
	}
	if c.failed != nil {
		e.Detail = c.failed.Error()
		if errors.Is(c.failed, errChunk) {
			e.Kind = "integrity.mismatch"
		}
	}
	if _, err := c.session.gate.Journal.Append(e); err != nil {
		c.session.gate.Log.Error("could not record a transfer", "error", err)
	}
}

// blobName is where uploaded bytes are kept.
func blobName(d artifact.Digest) string {
	h := d.Hex()
	return "sha256/" + h[:2] + "/" + h
}

var errClosed = errors.New("the content is closed")

var errChunk = errors.New("the bytes upstream are not the recorded ones")

// verifiedReader passes on bytes only after the chunk they are in has been compared with its digest.
type verifiedReader struct {
	pool   *sync.Pool // of chunk buffers
	src    io.ReadCloser
	left   int64 // bytes still to come from src
	chunks []artifact.Digest
	skip   int64 // bytes of the first chunk that were not asked for
	buf    *[]byte
	ready  []byte
}

func newVerifiedReader(pool *sync.Pool, src io.ReadCloser, left int64, chunks []artifact.Digest, skip int64) *verifiedReader {
	return &verifiedReader{pool: pool, src: src, left: left, chunks: chunks, skip: skip, buf: pool.Get().(*[]byte)}
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	if len(v.ready) == 0 {
		if err := v.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, v.ready)
	v.ready = v.ready[n:]
	return n, nil
}

// fill reads and verifies the next chunk.
func (v *verifiedReader) fill() error {
	if v.left == 0 || len(v.chunks) == 0 {
		return io.EOF
	}
	chunk := (*v.buf)[:min(v.left, provenance.ChunkSize)]
	if _, err := io.ReadFull(v.src, chunk); err != nil {
		return err
	}
	if sha256.Sum256(chunk) != v.chunks[0] {
		return errChunk
	}
	v.left -= int64(len(chunk))
	v.chunks = v.chunks[1:]
	v.ready, v.skip = chunk[v.skip:], 0
	return nil
}

func (v *verifiedReader) Close() error {
	if v.buf != nil {
		v.pool.Put(v.buf)
		v.buf, v.ready = nil, nil
	}
	return v.src.Close()
}
