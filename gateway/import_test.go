package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestImportIsDecidedFirst: the mirror is read for an import only once its statement is believed, so that nobody learns by an
// import what lies there; and then absent and other bytes are answered alike. Every refusal leaves an event.
func TestImportIsDecidedFirst(t *testing.T) {
	mirror, o := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	unsigned := func([]gwtest.Object, string) []byte { return []byte(`{"payload":"","payloadType":"","signatures":[]}`) }
	for _, row := range []struct {
		name string
		seal func(objects []gwtest.Object, id string) []byte
		want int
		read bool // the mirror
	}{
		{"no statement", func([]gwtest.Object, string) []byte { return []byte("x") }, http.StatusUnprocessableEntity, false},
		{"unsigned", unsigned, http.StatusUnprocessableEntity, false},
		{"by a stranger", importSeal(g, g.Stranger), http.StatusUnprocessableEntity, false},
		{"by one who may not sign", importSeal(g, g.Outsider), http.StatusUnprocessableEntity, false},
		{"for another upload", func(objects []gwtest.Object, _ string) []byte {
			return importSeal(g, g.Signer)(objects, strings.Repeat("0", 32))
		}, http.StatusUnprocessableEntity, false},
		{"good", importSeal(g, g.Signer), http.StatusConflict, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var answers []string
			for _, fault := range []fault{{absent: true}, {spoil: flip(0)}} {
				mirror.fault.Store(&fault)
				opened, refused := len(g.Upstream.Names()), len(eventsOf(g, "write.refuse"))
				id := beginImport(t, g, o)
				code, _, failure := commit(g.As("ci"), id, row.seal([]gwtest.Object{o}, id))
				if code != row.want {
					t.Errorf("%d %+v, want %d", code, failure, row.want)
				}
				answers = append(answers, failure.Error+"; "+failure.Hint)
				if names := g.Upstream.Names()[opened:]; (len(names) > 0) != row.read {
					t.Errorf("reached the mirror: %q", names)
				}
				if events := eventsOf(g, "write.refuse"); len(events) != refused+1 || events[refused].Actor.Name != "ci" || events[refused].Zone != "main" {
					t.Errorf("the events of the refusal are %+v", events[refused:])
				}
			}
			if answers[0] != answers[1] {
				t.Errorf("absent and other bytes differ:\n%s\n%s", answers[0], answers[1])
			}
		})
	}
	if record(t, g, "main", o.Name) != nil {
		t.Error("a record appeared")
	}
}

func importSeal(g *gwtest.Gate, signer provenance.Signer) func([]gwtest.Object, string) []byte {
	return func(objects []gwtest.Object, id string) []byte {
		st := statement(g, "main", objects, publicSource)
		st.UploadID = id
		return g.SealBy(st, signer)
	}
}

// beginImport opens an upload of what lies in the mirror.
func beginImport(t *testing.T, g *gwtest.Gate, objects ...gwtest.Object) string {
	t.Helper()
	req := announce(objects...)
	req.InPlace = true
	up, err := g.As("ci").Client().Begin(t.Context(), "main", req)
	if err != nil {
		t.Fatal(err)
	}
	return up.ID
}
