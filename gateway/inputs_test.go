package gateway_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// uses adds build-time inputs to a statement, recorded ones or such as the signer has listed.
func uses(st *provenance.Statement, recorded bool, objects ...gwtest.Object) *provenance.Statement {
	for _, o := range objects {
		st.Artifacts = append(st.Artifacts, provenance.Dependency{Name: o.Name, Digest: digest(o.Content), Recorded: recorded})
	}
	return st
}

// inputsOf returns the transitive sources on record of an object's only claim.
func inputsOf(t *testing.T, g *gwtest.Gate, zone string, o gwtest.Object) []source.Source {
	t.Helper()
	set, err := g.DB.Set(t.Context(), record(t, g, zone, o.Name).Claims[0].Inputs)
	if err != nil {
		t.Fatal(err)
	}
	return set.Sources()
}

// TestInputsOnRecord: of a build-time input whose sources the signer leaves to the record, the gate adds what it knows, and
// where it knows nothing it hides the object from whoever must be shown to read all sources.
func TestInputsOnRecord(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Transitive: true, Review: true})
	ci := g.As("ci")
	open, closed := object("open", []byte("an open input")), object("closed", []byte("a closed input"))
	publish(t, ci, statement(g, "main", []gwtest.Object{open}, publicSource), open)
	publish(t, ci, statement(g, "main", []gwtest.Object{closed}, privateSource), closed)
	inReview := object("inreview", []byte("an input of review"))
	publish(t, ci, statement(g, "review", []gwtest.Object{inReview}, publicSource), inReview)
	never := object("never", []byte("nobody published this"))
	foreign := object("closed", []byte("other bytes under a published name"))
	public, private := g.Statement(nil, publicSource).Sources[0], g.Statement(nil, privateSource).Sources[0]
	missing := source.Source{Type: source.Unresolvable, Reason: "a build-time input is not on record at this gate"}

	for _, row := range []struct {
		name     string
		zone     string
		recorded []gwtest.Object
		listed   []gwtest.Object
		readers  string
		inputs   []source.Source
	}{
		{"none", "main", nil, nil, "alice bob", []source.Source{public}},
		{"open", "main", []gwtest.Object{open}, nil, "alice bob", []source.Source{public}},
		{"closed", "main", []gwtest.Object{closed}, nil, "alice", []source.Source{public, private}},
		{"both", "main", []gwtest.Object{open, closed}, nil, "alice", []source.Source{public, private}},
		{"listed", "main", nil, []gwtest.Object{closed}, "alice", []source.Source{public, private}},
		{"listed-unknown", "main", nil, []gwtest.Object{never}, "alice bob", []source.Source{public}},
		{"unknown", "main", []gwtest.Object{never}, nil, "", []source.Source{public, missing}},
		{"unknown-among-known", "main", []gwtest.Object{open, never, closed}, nil, "", []source.Source{public, private, missing}},
		{"unknown-beside-listed", "main", []gwtest.Object{never}, []gwtest.Object{open, closed}, "", []source.Source{public, private, missing}},
		{"known-name-other-bytes", "main", []gwtest.Object{foreign}, nil, "", []source.Source{public, missing}},
		{"of-the-base", "review", []gwtest.Object{closed, inReview}, nil, "alice", []source.Source{public, private}},
		{"of-a-zone-above", "main", []gwtest.Object{inReview}, nil, "", []source.Source{public, missing}},
	} {
		o := object("using-"+row.name, []byte("built: "+row.name))
		st := statement(g, row.zone, []gwtest.Object{o}, publicSource)
		publish(t, ci, uses(uses(st, true, row.recorded...), false, row.listed...), o)
		for _, who := range []string{"alice", "bob", "carol"} {
			content := o.Content
			if !strings.Contains(row.readers, who) {
				content = nil
			}
			t.Run(row.name+"/"+who, func(t *testing.T) { reads(t, g.As(who), "/sstate/"+row.zone+"/"+o.Name, content) })
		}
		if got, want := inputsOf(t, g, row.zone, o), source.NewSet(resolved(row.inputs)).Sources(); !slices.Equal(got, want) {
			t.Errorf("%s: transitive sources %v, want %v", row.name, got, want)
		}
	}
}

// TestInputsOnRecordAreInherited: what is missing stays missing for everything built with it.
func TestInputsOnRecordAreInherited(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Transitive: true})
	ci := g.As("ci")
	first, second := object("first", []byte("first")), object("second", []byte("second"))
	publish(t, ci, uses(statement(g, "main", []gwtest.Object{first}, publicSource), true, object("never", []byte("never"))), first)
	publish(t, ci, uses(statement(g, "main", []gwtest.Object{second}, publicSource), true, first), second)
	reads(t, g.As("alice"), mount+second.Name, nil)
}

// TestInputsOnRecordLeaveDirectAlone: where the direct sources decide, an unknown input hides nothing.
func TestInputsOnRecordLeaveDirectAlone(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := object("hello", []byte("built"))
	publish(t, g.As("ci"), uses(statement(g, "main", []gwtest.Object{o}, publicSource), true, object("never", []byte("never"))), o)
	reads(t, g.As("bob"), mount+o.Name, o.Content)
	reads(t, g.As("carol"), mount+o.Name, nil)
}

// resolved gives sources the id that the gate's forge gives their repository.
func resolved(sources []source.Source) []source.Source {
	out := slices.Clone(sources)
	for i := range out {
		if out[i].Type != source.Unresolvable {
			out[i].Repo = gwtest.Forge + ":" + out[i].Locator.Path
		}
	}
	return out
}
