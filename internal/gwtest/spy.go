package gwtest

import (
	"context"
	"slices"
	"sync"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/upstream"
)

// Spy notes every name that reached an upstream. It is safe for concurrent use.
type Spy struct {
	mu    sync.Mutex // guards names
	names []string
}

func (s *Spy) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
}

// Names returns what was asked for so far.
func (s *Spy) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names)
}

// watch returns store with its reads noted.
func (s *Spy) watch(store upstream.Store) upstream.Store { return &spyStore{Store: store, spy: s} }

type spyStore struct {
	upstream.Store
	spy *Spy
}

func (s *spyStore) Stat(ctx context.Context, name string) (upstream.Info, error) {
	s.spy.note(name)
	return s.Store.Stat(ctx, name)
}

func (s *spyStore) Open(ctx context.Context, name string, off int64) (*upstream.Object, error) {
	s.spy.note(name)
	return s.Store.Open(ctx, name, off)
}

type spyBlobs struct {
	gateway.Blobs
	spy *Spy
}

func (s *spyBlobs) Stat(ctx context.Context, name string) (upstream.Info, error) {
	s.spy.note(name)
	return s.Blobs.Stat(ctx, name)
}

func (s *spyBlobs) Open(ctx context.Context, name string, off int64) (*upstream.Object, error) {
	s.spy.note(name)
	return s.Blobs.Open(ctx, name, off)
}
