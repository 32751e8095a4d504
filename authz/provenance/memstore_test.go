package provenance_test

import (
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/provenance/storetest"
)

func TestMemStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) provenance.Store { return provenance.NewMemStore() })
}
