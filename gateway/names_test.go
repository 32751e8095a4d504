package gateway_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestNames: by a hash one finds the archives that one may read, in the zone and its bases, and nothing else.
func TestNames(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	open, secret, nothing := gwtest.NewObject("open", "package"), gwtest.NewObject("secret", "package"), gwtest.NewObject("nothing", "package")
	g.Publish([]gwtest.Object{open, gwtest.NewSiginfo(open)}, publicSource)
	g.Publish([]gwtest.Object{secret}, privateSource)
	hashOf := func(o gwtest.Object) string {
		ref, err := artifact.ParseName(artifact.Zone{Name: "main"}, o.Name)
		if err != nil {
			t.Fatal(err)
		}
		return ref.Hash
	}
	hashes := []string{hashOf(secret), hashOf(open), hashOf(nothing), hashOf(open)}
	for _, row := range []struct {
		user, zone string
		want       []string
	}{
		{"alice", "main", []string{open.Name, secret.Name}},
		{"bob", "main", []string{open.Name}},
		{"alice", "review", []string{open.Name, secret.Name}},
		{"alice", "nowhere", nil},
	} {
		got, err := g.As(row.user).Client().Names(t.Context(), row.zone, hashes)
		slices.Sort(got)
		slices.Sort(row.want)
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s in %s: %v, %v, want %v", row.user, row.zone, got, err, row.want)
		}
	}
	for name, bad := range map[string]string{"short": hashes[0][1:], "long": hashes[0] + "0", "no hex": strings.Repeat("z", 64), "nothing": ""} {
		var refused *client.Error
		if _, err := g.As("alice").Client().Names(t.Context(), "main", []string{bad}); !errors.As(err, &refused) || refused.Status != http.StatusBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	verdicts := map[string]int{}
	for _, e := range g.Events() {
		for _, o := range e.Objects {
			if e.Kind == "presence" {
				verdicts[e.Actor.Name+" "+o.Verdict]++
			}
		}
	}
	if verdicts["alice allow"] != 4 || verdicts["bob allow"] != 1 || verdicts["bob deny"] != 1 {
		t.Errorf("the trail says %v", verdicts)
	}
}
