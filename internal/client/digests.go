package client

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/lychgate/lychgate/authz/artifact"
)

// digests reads objects and remembers what it found, so that an object many builds used is read once.
type digests struct {
	cache Cache
	slots chan struct{} // one for each file read at once

	mu    sync.Mutex // guards known
	known map[string]*reading
}

// reading is one object that is being read or was; its result is set before done closes.
type reading struct {
	done   chan struct{}
	result digest
	err    error
}

func newDigests(cache Cache, jobs int) *digests {
	return &digests{cache: cache, slots: make(chan struct{}, jobs), known: map[string]*reading{}}
}

// of returns the digest and size of an object.
func (d *digests) of(ctx context.Context, name string) (digest, error) {
	d.mu.Lock()
	r, found := d.known[name]
	if !found {
		r = &reading{done: make(chan struct{})}
		d.known[name] = r
	}
	d.mu.Unlock()
	if !found {
		r.result, r.err = d.read(ctx, name)
		close(r.done)
	}
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		return digest{}, ctx.Err()
	}
}

// forget drops what is known of an object that changed.
func (d *digests) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, name)
}

func (d *digests) read(ctx context.Context, name string) (digest, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return digest{}, ctx.Err()
	}
	f, err := d.cache.Open(ctx, name, 0)
	if err != nil {
		return digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, &contextReader{ctx.Err, f})
	if err != nil {
		return digest{}, fmt.Errorf("read object %s: %w", printable(name), err)
	}
	if n == 0 {
		return digest{}, fmt.Errorf("object %s is empty", printable(name))
	}
	return digest{artifact.Digest(h.Sum(nil)), n}, nil
}

// contextReader stops reading a file when the work it is read for has ended.
type contextReader struct {
	ended func() error
	r     io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ended(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
