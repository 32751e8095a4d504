package sqldb

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

func hxPath(t testing.TB) string { return filepath.Join(t.TempDir(), "hashes.db") }

func hxOpen(t testing.TB, cfg HashesConfig) *Hashes {
	t.Helper()
	h, err := OpenHashes(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestHashes runs the conformance suite with all in memory, with room for some, and with none.
func TestHashes(t *testing.T) {
	for name, memory := range map[string]int64{"all in memory": 0, "some in memory": 24 * 4 * taskCell, "nothing in memory": -1} {
		t.Run(name, func(t *testing.T) {
			hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
				keep := func(zone string, u hashserv.Unihash) bool { return zone == "main" && c.Keep(u) }
				return hxOpen(t, HashesConfig{Path: hxPath(t), Memory: memory, Now: c.Now, Keep: keep}).Zone("main")
			})
		})
	}
}

func TestHashCellsAreAsLargeAsTheyCount(t *testing.T) {
	if a, b := reflect.TypeFor[cell[hashserv.Mapping]]().Size(), reflect.TypeFor[cell[uint32]]().Size(); a != taskCell || b != unihashCell {
		t.Fatalf("%d and %d bytes", a, b)
	}
}
