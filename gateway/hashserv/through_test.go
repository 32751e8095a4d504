package hashserv_test

import (
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

// TestThrough: a proxy in front of a server is what the server is.
func TestThrough(t *testing.T) {
	through := func(c hashtest.Config, upstream hashserv.Upstream, learner bool) hashserv.Store {
		var held hashserv.Held = hashserv.NewMemory(hashserv.MemoryConfig{Now: c.Now, Keep: c.Keep})
		if !learner {
			held = struct{ hashserv.Held }{held}
		}
		return hashserv.Through(held, upstream, hashserv.ThroughConfig{Now: c.Now})
	}
	t.Run("memory", func(t *testing.T) {
		hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
			return through(c, hashserv.NewMemory(hashserv.MemoryConfig{Now: c.Now, Keep: c.Keep}), true)
		}, hashtest.NoAuthors)
	})
	t.Run("client", func(t *testing.T) {
		hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
			s := clServe(t, "tcp", clPeer{hashserv.NewMemory(hashserv.MemoryConfig{Now: c.Now, Keep: c.Keep})})
			return through(c, clClient(t, hashserv.ClientConfig{Address: s.address}), false)
		}, hashtest.OverWire, hashtest.Brief)
	})
}
