package main

import (
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/config"
)

// TestKeepPublished: a mapping is answered while its artifact is in the zone or its bases, and stays as long. Invariant I11.
func TestKeepPublished(t *testing.T) {
	reference := config.Zone{Name: "plain", Base: "main", Hash: config.ZoneHash{Reference: true}}
	cfg := &config.Config{Zones: []config.Zone{{Name: "main"}, {Name: "review", Base: "main"}, {Name: "deep", Base: "review"}, reference}}
	base, above := hashserv.Unihash{1}, hashserv.Unihash{2}
	keep := keepPublished(cfg, func(zone string, hash [32]byte) bool {
		return zone == "main" && hash == base || zone == "review" && hash == above
	})
	for _, tt := range []struct {
		zone string
		u    hashserv.Unihash
		want bool
	}{
		{"main", base, true},
		{"main", above, false},
		{"review", base, true},
		{"review", above, true},
		{"deep", base, true},
		{"deep", above, true},
		{"deep", hashserv.Unihash{3}, false},
		{"plain", base, false},
		{"other", base, false},
	} {
		if got := keep(tt.zone, tt.u); got != tt.want {
			t.Errorf("%x in zone %s is kept: %v", tt.u[:1], tt.zone, got)
		}
	}
}
