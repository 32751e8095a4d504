package hashserv_test

import (
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

func clMemory(_ testing.TB, c hashtest.Config) hashserv.Store {
	return hashserv.NewMemory(hashserv.MemoryConfig{Now: c.Now, Keep: c.Keep})
}

func TestMemory(t *testing.T) { hashtest.Run(t, clMemory) }
