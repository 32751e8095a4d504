package gateway_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestPlainPutIsToldOfItsOwn: a waiting statement about other objects that is refused when somebody looks at it does not make the
// PUT fail that looked.
func TestPlainPutIsToldOfItsOwn(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci, bob := g.As("ci"), g.As("bob")
	theirs, mine := object("theirs", []byte("theirs")), object("mine", []byte("mine"))
	bad := g.SealBy(g.Statement([]gwtest.Object{theirs}, publicSource), g.Outsider) // which policy refuses, in the end
	if code, text := put(ci, mount+theirs.Name+gateway.StatementSuffix, bad); code != http.StatusAccepted {
		t.Fatalf("a statement that waits: %d %q", code, text)
	}
	if code, text := put(ci, mount+mine.Name+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{mine}, publicSource))); code != http.StatusAccepted {
		t.Fatalf("another that waits: %d %q", code, text)
	}
	g.Publish([]gwtest.Object{theirs}, publicSource) // the bad statement has all it names from now on
	refused := len(eventsOf(g, "write.refuse"))
	if code, text := put(ci, mount+mine.Name, mine.Content); code != http.StatusCreated || text != "stored=true" {
		t.Errorf("the PUT that completes the good one: %d %q", code, text)
	}
	if n := len(eventsOf(g, "write.refuse")) - refused; n != 1 {
		t.Errorf("%d statements were refused meanwhile, want the bad one", n)
	}
	if r := record(t, g, "main", theirs.Name); len(r.Claims) != 1 {
		t.Errorf("%d claims about what the bad statement names", len(r.Claims))
	}
	reads(t, bob, mount+mine.Name, mine.Content)
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
	const rounds, senders = 12, 4
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
