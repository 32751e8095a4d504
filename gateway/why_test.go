package gateway_test

import (
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestWhy: where the zone tells, denied and absent differ and the repositories that are missing are named, those of the statement that asks
// least; elsewhere all that is not there has one answer, but to administrators.
func TestWhy(t *testing.T) {
	other := "git://git.example.com/team/other.git;protocol=ssh"
	for _, tells := range []bool{false, true} {
		g := gwtest.New(t, gwtest.Options{Admins: []string{"carol"}, TellWhy: tells, Transitive: true})
		secret, two, built := gwtest.NewObject("secret", "package"), gwtest.NewObject("two", "package"), gwtest.NewObject("built", "package")
		g.Publish([]gwtest.Object{secret}, privateSource)
		g.Publish([]gwtest.Object{two}, privateSource, other)
		g.Publish([]gwtest.Object{two}, other)
		st := g.Statement([]gwtest.Object{built}, publicSource)
		st.Inputs = append(slices.Clone(st.Inputs), source.Parse(privateSource, "0123456789012345678901234567890123456789"))
		if _, err := g.TryPublish(g.As("ci"), st, []gwtest.Object{built}); err != nil {
			t.Fatal(err)
		}
		nothing := gwtest.NewObject("nothing", "package")
		for _, row := range []struct {
			user    string
			object  gwtest.Object
			state   string // where it is told
			missing []string
		}{
			{"alice", secret, gateway.WhyPresent, nil},
			{"bob", secret, gateway.WhyDenied, []string{"git.example.com/team/secret"}},
			{"bob", two, gateway.WhyDenied, []string{"git.example.com/team/other"}},
			{"bob", built, gateway.WhyDenied, []string{"git.example.com/team/secret"}},
			{"bob", nothing, gateway.WhyAbsent, nil},
			{"carol", secret, gateway.WhyDenied, []string{"git.example.com/team/secret"}},
			{"carol", nothing, gateway.WhyAbsent, nil},
		} {
			want := gateway.Why{State: row.state, Missing: row.missing}
			if !tells && row.user == "bob" {
				want = gateway.Why{State: gateway.WhyHidden}
			}
			got, err := g.As(row.user).Client().Why(t.Context(), "main", row.object.Name)
			if err != nil || got.State != want.State || !slices.Equal(got.Missing, want.Missing) {
				t.Errorf("tells %v, %s, %.40s: %+v, %v, want %+v", tells, row.user, row.object.Name, got, err, want)
			}
		}
		if got, err := g.As("bob").Client().Why(t.Context(), "nowhere", secret.Name); err != nil || got.State != gateway.WhyHidden {
			t.Errorf("another zone: %+v, %v", got, err)
		}
		var mistake *gateway.RequestError
		if _, err := sessionOf(t, g, "bob").Why(t.Context(), "main", "../"+secret.Name); !errors.As(err, &mistake) {
			t.Errorf("not a name: %v", err)
		}
		asked := 0
		for _, e := range g.Events() {
			if e.Kind == "explain" && e.Actor.Name == "bob" {
				asked++
			}
		}
		if asked != 4 {
			t.Errorf("the trail knows %d questions of bob", asked)
		}
	}
}

// TestWhyOfABase: a zone tells nothing of its base that the base does not tell, neither to everybody nor to its own administrators.
func TestWhyOfABase(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true, ReviewTells: true, ReviewAdmins: []string{"carol"}})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	for _, user := range []string{"bob", "carol"} {
		for _, name := range []string{o.Name, gwtest.NewObject("nothing", "package").Name} {
			if got, err := g.As(user).Client().Why(t.Context(), "review", name); err != nil || got.State != gateway.WhyHidden || len(got.Missing) > 0 {
				t.Errorf("%s, %.20s: %+v, %v", user, name, got, err)
			}
			if x, err := sessionOf(t, g, user).Explain(t.Context(), "review", name); !errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("%s, %.20s is explained: %+v, %v", user, name, x, err)
			}
		}
		if _, err := g.As(user).Client().Statement(t.Context(), "review", o.Name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s got a statement: %v", user, err)
		}
	}
}
