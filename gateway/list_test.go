package gateway_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// sessionOf opens a session of a user at the ssh door.
func sessionOf(t *testing.T, g *gwtest.Gate, user string) *gateway.Session {
	t.Helper()
	door := gateway.Door{Name: "ssh", Remote: netip.MustParseAddrPort("127.0.0.1:22")}
	s, err := g.Gateway.Session(t.Context(), door, authn.Credential{Token: authn.NewSecret(g.As(user).Token)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names reads a whole tree, as "dir/" and "file", in order.
func tree(t *testing.T, s *gateway.Session, zone, dir string) (all []string) {
	t.Helper()
	entries, err := s.ReadDir(t.Context(), zone, dir)
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := strings.TrimPrefix(dir+"/"+e.Name, "/")
		if !e.Dir {
			all = append(all, path)
			continue
		}
		below := tree(t, s, zone, path)
		if len(below) == 0 {
			t.Errorf("directory %s is shown and holds nothing", path)
		}
		all = append(all, below...)
	}
	return all
}

// TestListShowsWhatIsReadable: for each reader, walking all directories finds exactly what presence says is there.
func TestListShowsWhatIsReadable(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	var names []string
	publish := func(source string, n int) {
		var objects []gwtest.Object
		for i := range n {
			o := gwtest.NewObject(fmt.Sprintf("r%d", i), strings.ReplaceAll(source, "/", "_"))
			objects = append(objects, o, gwtest.NewSiginfo(o))
			names = append(names, o.Name, o.Name+".siginfo")
		}
		g.Publish(objects, "git://git.example.com/"+source+".git;protocol=https")
	}
	publish("public/hello", 100)
	publish("team/secret", 150)
	for _, user := range []string{"alice", "bob", "carol", "ci"} {
		for _, zone := range []string{"main", "review"} {
			s := sessionOf(t, g, user)
			present, err := s.Presence(t.Context(), zone, names)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i, name := range names {
				if present[i] {
					want = append(want, name)
				}
			}
			slices.Sort(want)
			got := tree(t, s, zone, "")
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s in %s: %d names listed, %d are present", user, zone, len(got), len(want))
			}
		}
	}
	if n := len(tree(t, sessionOf(t, g, "bob"), "main", "")); n != 200 {
		t.Errorf("bob sees %d", n)
	}
}

// TestHiddenDirectories: a directory that leads to nothing readable is as one that cannot exist.
func TestHiddenDirectories(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, "git://git.example.com/team/secret.git;protocol=ssh")
	dir, _, _ := strings.Cut(o.Name, "/sstate:")
	alice, bob := sessionOf(t, g, "alice"), sessionOf(t, g, "bob")
	for _, there := range []string{"", "universal", dir[:len("universal/ab")], dir} {
		if err := alice.StatDir(t.Context(), "main", there); err != nil {
			t.Errorf("alice, %q: %v", there, err)
		}
		if err := bob.StatDir(t.Context(), "main", there); err != gateway.ErrNotFound {
			t.Errorf("bob, %q: %v", there, err)
		}
	}
	for _, absent := range []string{"universal/zz", "nothing", "..", "universal/..", "a/b/c/d", "universal//ab", "universal/", "/", "%2e", "ab\x00", o.Name} {
		_, err := alice.ReadDir(t.Context(), "main", absent)
		if stat := alice.StatDir(t.Context(), "main", absent); err != gateway.ErrNotFound || stat != gateway.ErrNotFound {
			t.Errorf("%q: %v, %v", absent, err, stat)
		}
	}
	for user, want := range map[string][]string{"alice": {"main"}, "bob": nil, "ci": {"main"}} {
		if got, err := sessionOf(t, g, user).Zones(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("zones of %s: %v, %v", user, got, err)
		}
	}
}

// TestWriterSeesItsZone: whoever is to fill a zone sees it while it is empty.
func TestWriterSeesItsZone(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	for user, want := range map[string][]string{"ci": {"main", "review"}, "bob": {"review"}, "alice": nil} {
		if got, err := sessionOf(t, g, user).Zones(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("zones of %s: %v, %v", user, got, err)
		}
	}
}

// TestExplainTellsNothingNew: an explanation is for those who may read, and for the zone's administrators; to all others a name
// that is denied is explained as one that is not there.
func TestExplainTellsNothingNew(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Admins: []string{"carol"}})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, "git://git.example.com/team/secret.git;protocol=ssh")
	mixed := gwtest.NewObject("mixed", "package")
	st := g.Statement([]gwtest.Object{mixed}, publicSource)
	st.Inputs = append(st.Inputs, source.Parse(privateSource, strings.Repeat("b", 40)))
	if _, err := g.TryPublish(g.As("ci"), st, []gwtest.Object{mixed}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]int{"alice": 2, "bob": 1, "carol": 2} {
		x, err := sessionOf(t, g, user).Explain(t.Context(), "main", mixed.Name)
		if err != nil || len(x.Claims) != 1 || len(x.Claims[0].Inputs) != want {
			t.Errorf("%s is told %+v, %v, want %d inputs", user, x, err, want)
		}
	}
	for _, row := range []struct{ user, name, want string }{
		{"alice", o.Name, "allow"},
		{"bob", o.Name, ""},
		{"bob", gwtest.NewObject("nothing", "package").Name, ""},
		{"bob", "not a name", ""},
		{"carol", o.Name, "deny"},
		{"carol", gwtest.NewObject("nothing", "package").Name, "deny"},
	} {
		x, err := sessionOf(t, g, row.user).Explain(t.Context(), "main", row.name)
		switch {
		case row.want == "" && err != gateway.ErrNotFound:
			t.Errorf("%s, %.40s: %v", row.user, row.name, err)
		case row.want != "" && (err != nil || x.Verdict != row.want):
			t.Errorf("%s, %.40s: %v, %v", row.user, row.name, x, err)
		}
	}
}
