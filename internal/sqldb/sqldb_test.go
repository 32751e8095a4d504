package sqldb

import (
	"path/filepath"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/provenance/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) provenance.Store { return openTest(t, filepath.Join(t.TempDir(), "gate.db")) })
}

func openTest(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
