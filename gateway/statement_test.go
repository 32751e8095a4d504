package gateway_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestStatements: a statement is for those who may read everything that it names, and for administrators; to all others, also to those who
// may read the object, it is as absent as one about nothing.
func TestStatements(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Admins: []string{"carol"}})
	open, mixed, secret := gwtest.NewObject("open", "package"), gwtest.NewObject("mixed", "package"), gwtest.NewObject("secret", "package")
	envelopes := map[string][]byte{}
	for _, p := range []struct {
		object gwtest.Object
		direct string
		inputs []string
	}{
		{open, publicSource, nil},
		{mixed, publicSource, []string{privateSource}},
		{secret, privateSource, nil},
	} {
		st := g.Statement([]gwtest.Object{p.object}, p.direct)
		for _, entry := range p.inputs {
			st.Inputs = append(st.Inputs, source.Parse(entry, "0123456789012345678901234567890123456789"))
		}
		if _, err := g.TryPublish(g.As("ci"), st, []gwtest.Object{p.object}); err != nil {
			t.Fatal(err)
		}
		envelope, err := g.DB.Envelope(t.Context(), record(t, g, "main", p.object.Name).Claims[0].Statement)
		if err != nil {
			t.Fatal(err)
		}
		envelopes[p.object.Name] = envelope
	}
	absent := g.As("bob").Get(mount + gwtest.NewObject("nothing", "package").Name + gateway.StatementSuffix)
	for _, row := range []struct {
		user           string
		object         gwtest.Object
		reads, sees200 bool
	}{
		{"alice", open, true, true},
		{"alice", mixed, true, true},
		{"alice", secret, true, true},
		{"bob", open, true, true},
		{"bob", mixed, true, false},
		{"bob", secret, false, false},
		{"carol", secret, false, true},
	} {
		u := g.As(row.user)
		if got := u.Get(mount+row.object.Name).StatusCode == http.StatusOK; got != row.reads {
			t.Errorf("%s reads %.20s: %v", row.user, row.object.Name, got)
		}
		res := u.Get(mount + row.object.Name + gateway.StatementSuffix)
		head := u.Head(mount + row.object.Name + gateway.StatementSuffix)
		switch {
		case head.StatusCode != res.StatusCode:
			t.Errorf("%s, %.20s: HEAD %d, GET %d", row.user, row.object.Name, head.StatusCode, res.StatusCode)
		case row.sees200 && (res.StatusCode != http.StatusOK || !bytes.Equal(res.Bytes, envelopes[row.object.Name])):
			t.Errorf("%s, %.20s: %d %.100s", row.user, row.object.Name, res.StatusCode, res.Bytes)
		case !row.sees200 && (res.StatusCode != absent.StatusCode || !bytes.Equal(res.Bytes, absent.Bytes)):
			t.Errorf("%s, %.20s: %d %.100s", row.user, row.object.Name, res.StatusCode, res.Bytes)
		}
	}
	if absent.StatusCode != http.StatusNotFound {
		t.Errorf("absent: %d", absent.StatusCode)
	}
	for _, name := range []string{"x", open.Name + gateway.StatementSuffix, open.Name + "%2eintoto.json", "../" + open.Name} {
		if res := g.As("alice").Get(mount + name + gateway.StatementSuffix); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
	if res := g.WithToken("").Get(mount + open.Name + gateway.StatementSuffix); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody: %d", res.StatusCode)
	}
	verdicts := map[string]int{}
	for _, e := range g.Events() {
		if e.Kind == "statement" {
			verdicts[e.Actor.Name+" "+e.Decision.Verdict]++
		}
	}
	if verdicts["alice allow"] != 6 || verdicts["carol allow"] != 2 || verdicts["bob allow"] != 2 || verdicts["bob deny"] != 5 {
		t.Errorf("the trail says %v", verdicts)
	}
}
