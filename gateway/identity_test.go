package gateway_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const theRepo, theSource = "team/lib", "git://git.example.com/team/lib.git;protocol=https"

// remoteGate is a gate before a forge whose repositories have ids, of which alice may read one.
func remoteGate(t *testing.T) (*gwtest.Gate, *gwtest.Remote) {
	t.Helper()
	r := gwtest.NewRemote()
	r.Set("alice", theRepo, true)
	r.Set("ci", theRepo, true)
	return gwtest.New(t, gwtest.Options{Provider: r}), r
}

// tell tells the gate that something at the forge has changed.
func tell(t *testing.T, g *gwtest.Gate) {
	t.Helper()
	if _, err := g.Hub.Tell(t.Context(), forge.Event{Forge: gwtest.Forge}); err != nil {
		t.Fatal(err)
	}
}

// TestPublishStoresTheRepositorysID: what is recorded is the forge's id, whatever the statement says of it, and a path that was given to
// another repository afterwards lends it no readers.
func TestPublishStoresTheRepositorysID(t *testing.T) {
	g, r := remoteGate(t)
	o := gwtest.NewObject("lib", "package")
	st := statement(g, "main", []gwtest.Object{o}, theSource)
	for i := range st.Sources {
		st.Sources[i].Repo = gwtest.Forge + ":public/everybody"
	}
	st.Inputs = st.Sources
	publish(t, g.As("ci"), st, o)
	set, err := g.DB.Set(t.Context(), record(t, g, "main", o.Name).Claims[0].Sources)
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Sources()[0].Repo; got != gwtest.Forge+":"+theRepo {
		t.Errorf("recorded is %q", got)
	}
	found := func(user string, want int, why string) {
		t.Helper()
		tell(t, g)
		if got := g.As(user).Head("/sstate/main/" + o.Name).StatusCode; got != want {
			t.Errorf("%s, %s: %d, want %d", user, why, got, want)
		}
	}
	found("alice", http.StatusOK, "a reader")
	found("bob", http.StatusNotFound, "somebody else")
	r.Rename(theRepo, "team/moved")
	found("alice", http.StatusOK, "after a rename")
	r.Create(theRepo, "the squatter's")
	r.Set("bob", "the squatter's", true)
	found("bob", http.StatusNotFound, "who reads what is under the old path now")
	r.Set("alice", theRepo, false)
	found("alice", http.StatusNotFound, "after the repository was deleted")

	// What is published now is the other repository's.
	other := gwtest.NewObject("lib", "populate_sysroot")
	publish(t, g.As("ci"), statement(g, "main", []gwtest.Object{other}, theSource), other)
	if got := g.As("bob").Head("/sstate/main/" + other.Name).StatusCode; got != http.StatusOK {
		t.Errorf("a reader of what is under the path now: %d", got)
	}
}

// TestPublishWithoutTheRepository: a source that names no repository is refused, and one that cannot be looked up is tried again.
func TestPublishWithoutTheRepository(t *testing.T) {
	g, r := remoteGate(t)
	ci, o := g.As("ci"), gwtest.NewObject("lib", "package")
	for _, c := range []struct {
		name   string
		path   string
		change func()
		want   int
	}{
		{"no such repository", theRepo, func() { r.Rename(theRepo, "team/moved") }, http.StatusUnprocessableEntity},
		{"the forge is away", "team/other", func() { r.Fail(errors.New("down")) }, http.StatusServiceUnavailable},
	} {
		up := begin(t, ci, "main", o)
		stage(ci, up.ID, 0, 0, o.Content)
		c.change()
		st := statement(g, "main", []gwtest.Object{o}, "git://git.example.com/"+c.path+".git;protocol=https")
		st.UploadID = up.ID
		if res := ci.Do(http.MethodPost, "/v1/uploads/"+up.ID+"/commit", g.Seal(st)); res.StatusCode != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, res.StatusCode, res.Bytes, c.want)
		}
		r.Fail(nil)
	}
	if got := g.As("alice").Head("/sstate/main/" + o.Name).StatusCode; got != http.StatusNotFound {
		t.Errorf("something was published: %d", got)
	}
}
