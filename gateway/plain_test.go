package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// permutations returns every order of n things.
func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for _, shorter := range permutations(n - 1) {
		for at := range n {
			order := append(append(append([]int{}, shorter[:at]...), n-1), shorter[at:]...)
			all = append(all, order)
		}
	}
	return all
}

// TestPlainPutInEveryOrder sends two objects, a siginfo and the statement of all three, in each of the 24 orders. Nothing may
// be visible before the last.
func TestPlainPutInEveryOrder(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := g.As("ci")
	for n, order := range permutations(4) {
		a, b := object("a"+string(rune('a'+n)), []byte("a")), object("b"+string(rune('a'+n)), noise(byte(n), 2000))
		objects := []gwtest.Object{a, gwtest.NewSiginfo(a), b}
		puts := append([]gwtest.Object{}, objects...)
		puts = append(puts, gwtest.Object{Name: b.Name + gateway.StatementSuffix, Content: g.Seal(g.Statement(objects, publicSource))})
		for step, i := range order {
			want := http.StatusAccepted
			if step == 3 {
				want = http.StatusCreated
			} else {
				reads(t, g.As("bob"), mount+a.Name, nil)
			}
			if code, text := put(ci, mount+puts[i].Name, puts[i].Content); code != want {
				t.Errorf("%v, step %d: %d %q, want %d", order, step, code, text, want)
			}
		}
		for _, o := range objects {
			reads(t, g.As("bob"), mount+o.Name, o.Content)
		}
	}
}

// TestPlainPutAgain: whatever is sent twice changes nothing, and every answer says so.
func TestPlainPutAgain(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := g.As("ci")
	a, b := object("hello", []byte("hello")), object("world", []byte("world"))
	both := g.Seal(g.Statement([]gwtest.Object{a, b}, publicSource))
	one := g.Seal(g.Statement([]gwtest.Object{a}, privateSource))
	for i, step := range []struct {
		name    string
		content []byte
		want    int
	}{
		{a.Name + gateway.StatementSuffix, both, 202},
		{a.Name + gateway.StatementSuffix, both, 202}, // by a script that tries again
		{b.Name + gateway.StatementSuffix, both, 202},
		{a.Name + gateway.StatementSuffix, one, 202}, // a second statement about one of them
		{b.Name, b.Content, 202},
		{b.Name, b.Content, 202},
		{a.Name, a.Content, 201},
		{a.Name + gateway.StatementSuffix, both, 200},
		{a.Name + gateway.StatementSuffix, one, 200},
	} {
		if code, text := put(ci, mount+step.name, step.content); code != step.want {
			t.Errorf("step %d: %d %q, want %d", i, code, text, step.want)
		}
	}
	reads(t, g.As("bob"), mount+a.Name, a.Content)
	reads(t, g.As("bob"), mount+b.Name, b.Content)
	if r := record(t, g, "main", a.Name); len(r.Claims) != 2 {
		t.Errorf("%d claims, want 2", len(r.Claims))
	}
}

// TestPlainPutAcrossRestart stops the gate between each two steps.
func TestPlainPutAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	a, b := object("hello", noise(5, 1<<20+5)), object("world", []byte("world"))
	g := gwtest.New(t, gwtest.Options{Dir: dir})
	envelope := g.Seal(g.Statement([]gwtest.Object{a, b}, publicSource))
	for i, o := range []gwtest.Object{a, {Name: a.Name + gateway.StatementSuffix, Content: envelope}, b} {
		if i > 0 {
			g.Stop()
			g = gwtest.New(t, gwtest.Options{Dir: dir})
		}
		want := http.StatusAccepted
		if i == 2 {
			want = http.StatusCreated
		}
		if code, text := put(g.As("ci"), mount+o.Name, o.Content); code != want {
			t.Errorf("step %d: %d %q, want %d", i, code, text, want)
		}
	}
	reads(t, g.As("bob"), mount+a.Name, a.Content)
	reads(t, g.As("bob"), mount+b.Name, b.Content)
}

// TestPlainPutReplaced: while a name waits for its statement, its last bytes count; and another's bytes do not.
func TestPlainPutReplaced(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	first, last := object("hello", []byte("first")), object("hello", []byte("last"))
	ci, bob := g.As("ci"), g.As("bob")
	put(ci, review+first.Name, first.Content)
	put(ci, review+last.Name, last.Content)
	put(bob, review+first.Name, first.Content)
	st := g.Seal(statement(g, "review", []gwtest.Object{last}, publicSource))
	if code, text := put(bob, review+last.Name+gateway.StatementSuffix, st); code != http.StatusAccepted {
		t.Errorf("another's bytes count: %d %q", code, text)
	}
	if code, text := put(ci, review+last.Name+gateway.StatementSuffix, st); code != http.StatusCreated {
		t.Errorf("the last bytes: %d %q", code, text)
	}
	reads(t, bob, review+last.Name, last.Content)
}

// TestPlainPutRefused sends by plain PUT what must not be published.
func TestPlainPutRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Uploads: gateway.Limits{ObjectBytes: 1000, UploadObjects: 3, OpenUploads: 2, UploadAge: time.Hour, EnvelopeBytes: 10000, PresenceNames: 3}})
	ci, o := g.As("ci"), object("hello", []byte("hello"))
	seal := func(change func(st *provenance.Statement)) []byte {
		st := g.Statement([]gwtest.Object{o}, publicSource)
		change(st)
		return g.Seal(st)
	}
	for _, row := range []struct {
		name, path string
		content    []byte
		want       int
	}{
		{"empty", o.Name, []byte{}, 400},
		{"too large", o.Name, noise(1, 1001), 413},
		{"bad name", "x/" + o.Name + "/y", []byte("x"), 400},
		{"statement of a bad name", "x" + gateway.StatementSuffix, []byte("x"), 400},
		{"statement of a statement", o.Name + gateway.StatementSuffix + gateway.StatementSuffix, []byte("x"), 400},
		{"statement too large", o.Name + gateway.StatementSuffix, noise(1, 10001), 413},
		{"not a statement", o.Name + gateway.StatementSuffix, []byte("x"), 422},
		{"unknown key", o.Name + gateway.StatementSuffix, g.SealBy(g.Statement([]gwtest.Object{o}, publicSource), g.Stranger), 422},
	} {
		if code, text := put(ci, mount+row.path, row.content); code != row.want {
			t.Errorf("%s: %d %q, want %d", row.name, code, text, row.want)
		}
	}
	for name, envelope := range map[string][]byte{
		"another zone":       seal(func(st *provenance.Statement) { st.Zone = "review" }),
		"another audience":   seal(func(st *provenance.Statement) { st.Audience = "https://other.example.com" }),
		"an upload's":        seal(func(st *provenance.Statement) { st.UploadID = strings.Repeat("0", 32) }),
		"old":                seal(func(st *provenance.Statement) { st.IssuedAt = time.Now().Add(-2 * time.Hour) }),
		"of the future":      seal(func(st *provenance.Statement) { st.IssuedAt = time.Now().Add(time.Hour) }),
		"another size":       seal(func(st *provenance.Statement) { st.Subjects[0].Size++ }),
		"signer not allowed": g.SealBy(g.Statement([]gwtest.Object{o}, publicSource), g.Outsider),
	} {
		put(ci, mount+o.Name, o.Content)
		if code, text := put(ci, mount+o.Name+gateway.StatementSuffix, envelope); code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %q, want 422", name, code, text)
		}
		if record(t, g, "main", o.Name) != nil {
			t.Fatalf("%s: a record appeared", name)
		}
	}
	// What was refused does not stand in the way of what is good.
	if code, text := put(ci, mount+o.Name+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource))); code != http.StatusCreated {
		t.Errorf("the good statement after them: %d %q", code, text)
	}
	reads(t, g.As("bob"), mount+o.Name, o.Content)
}

// TestPlainPutBounded: an owner cannot leave any number of objects waiting.
func TestPlainPutBounded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Uploads: gateway.Limits{ObjectBytes: 1000, UploadObjects: 3, OpenUploads: 2, UploadAge: time.Hour, EnvelopeBytes: 10000, PresenceNames: 3}})
	for i, want := range []int{202, 202, 202, 429} {
		if code, text := put(g.As("ci"), mount+object(string(rune('a'+i)), nil).Name, []byte("x")); code != want {
			t.Errorf("object %d: %d %q, want %d", i, code, text, want)
		}
	}
}
