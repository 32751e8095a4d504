package gateway

import (
	"testing"

	"github.com/lychgate/lychgate/authz"
)

// TestNoChainTellsNothing: a zone that no chain is known of tells nobody, and nobody administers it.
func TestNoChainTellsNothing(t *testing.T) {
	g := &Gateway{Config: Config{Authorizer: new(authz.Authorizer)}}
	if g.tellsWhy("nowhere") || (&Session{gate: g}).administers(t.Context(), "nowhere") {
		t.Error("a zone without a chain tells")
	}
}
