package gateway_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestPlainPutIsToldOfItsOwn: a waiting statement that is refused when somebody looks at it does not make the PUT fail that looked:
// neither one about other objects, nor one beside a good one about the same.
func TestPlainPutIsToldOfItsOwn(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := g.As("ci")
	theirs, mine, alone := object("theirs", []byte("theirs")), object("mine", []byte("mine")), object("alone", []byte("alone"))
	bad := func(o gwtest.Object) []byte { // which policy refuses, in the end
		return g.SealBy(g.Statement([]gwtest.Object{o}, publicSource), g.Outsider)
	}
	refused := 0
	for _, step := range []struct {
		name    string
		o       gwtest.Object
		suffix  string
		content []byte
		first   func()
		want    int
		refused int
	}{
		{"a bad statement waits", theirs, gateway.StatementSuffix, bad(theirs), nil, 202, 0},
		{"its subject is there, and somebody else looks", alone, "", alone.Content, func() { g.Publish([]gwtest.Object{theirs}, publicSource) }, 202, 1},
		{"a bad statement waits again", mine, gateway.StatementSuffix, bad(mine), nil, 202, 0},
		{"a good one beside it", mine, gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{mine}, publicSource)), nil, 202, 0},
		{"what both name", mine, "", mine.Content, nil, 201, 1},
	} {
		if step.first != nil {
			step.first()
		}
		if code, text := put(ci, mount+step.o.Name+step.suffix, step.content); code != step.want {
			t.Errorf("%s: %d %q, want %d", step.name, code, text, step.want)
		}
		if refused += step.refused; len(eventsOf(g, "write.refuse")) != refused {
			t.Errorf("%s: %d statements were refused so far, want %d", step.name, len(eventsOf(g, "write.refuse")), refused)
		}
	}
	for _, o := range []gwtest.Object{theirs, mine} {
		if r := record(t, g, "main", o.Name); len(r.Claims) != 1 {
			t.Errorf("%s has %d claims", o.Name, len(r.Claims))
		}
		reads(t, g.As("bob"), mount+o.Name, o.Content)
	}
}

// TestPlainStatementNamesItsName: a statement that is sent under a name which is none of its subjects is refused at once.
func TestPlainStatementNamesItsName(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci, a, b := g.As("ci"), object("a", []byte("a")), object("b", []byte("b"))
	put(ci, mount+a.Name, a.Content)
	envelope := g.Seal(g.Statement([]gwtest.Object{a}, publicSource))
	if code, text := put(ci, mount+b.Name+gateway.StatementSuffix, envelope); code != http.StatusUnprocessableEntity {
		t.Errorf("under another name: %d %q", code, text)
	}
	if record(t, g, "main", a.Name) != nil {
		t.Error("it was published nevertheless")
	}
	if code, text := put(ci, mount+a.Name+gateway.StatementSuffix, envelope); code != http.StatusCreated {
		t.Errorf("under its own: %d %q", code, text)
	}
}

// TestPlainPutsOfOneName: of PUTs of one name at the same time, one is held in the end, never none: the statements of all of them
// publish exactly one.
func TestPlainPutsOfOneName(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := g.As("ci")
	const rounds, senders = 4, 4
	for round := range rounds {
		var contents []gwtest.Object
		for i := range senders {
			contents = append(contents, object(fmt.Sprint("r", round), fmt.Appendf(nil, "bytes %d", i)))
		}
		var wg sync.WaitGroup
		for _, o := range contents {
			wg.Go(func() {
				if res := ci.Do(http.MethodPut, mount+o.Name, o.Content); res.StatusCode != http.StatusAccepted {
					t.Errorf("round %d: %d %q", round, res.StatusCode, res.Bytes)
				}
			})
		}
		wg.Wait()
		if n := files(t, g.Path("staging")); n != 2+round*(senders-1)*2 { // an object, and what waits for the others' bytes
			t.Errorf("round %d: %d files are held", round, n)
		}
		stored := 0
		for _, o := range contents {
			switch code, text := put(ci, mount+o.Name+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource))); code {
			case http.StatusCreated:
				stored++
			case http.StatusAccepted:
			default:
				t.Errorf("round %d: %d %q", round, code, text)
			}
		}
		if stored != 1 {
			t.Fatalf("round %d: %d of %d were held", round, stored, senders)
		}
	}
}
