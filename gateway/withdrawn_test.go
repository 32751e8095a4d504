package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// withdraw takes bob's rights at the forge away and waits until he does not see path any more.
func withdraw(t testing.TB, g *gwtest.Gate, path string) {
	t.Helper()
	g.WriteForge(strings.Replace(gwtest.DefaultForge, "users: [bob]", "users: [carol]", 1))
	eventually(t, "bob's right is withdrawn", func() bool { return g.As("bob").Head(path).StatusCode == http.StatusNotFound })
}

// TestWithdrawnWriterCannotWiden: a writer that was told "present" while it could read an object cannot, once it may not any more,
// say without the bytes that they come from elsewhere.
func TestWithdrawnWriterCannotWiden(t *testing.T) {
	const openSource = "git://git.example.com/open/all.git;protocol=https"
	g := gwtest.New(t, gwtest.Options{Review: true, Public: []string{"git.example.com/open/**"}})
	bob, o := g.As("bob"), object("hello", []byte("hello"))
	publish(t, g.As("ci"), statement(g, "review", []gwtest.Object{o}, publicSource), o)
	up := begin(t, bob, "review", o)
	if up.Objects[0].State != "present" {
		t.Fatalf("begin says %q of what bob may read", up.Objects[0].State)
	}
	withdraw(t, g, review+o.Name)

	st := statement(g, "review", []gwtest.Object{o}, openSource)
	st.UploadID = up.ID
	if code, _, failure := commit(bob, up.ID, g.Seal(st)); code != http.StatusConflict {
		t.Errorf("a commit without the bytes: %d %+v", code, failure)
	}
	st.UploadID = ""
	if code, text := put(bob, review+o.Name+gateway.StatementSuffix, g.Seal(st)); code != http.StatusAccepted {
		t.Errorf("a plain statement without the bytes: %d %q", code, text)
	}
	if r := record(t, g, "review", o.Name); len(r.Claims) != 1 {
		t.Errorf("the record has %d claims, want its first alone", len(r.Claims))
	}
	reads(t, bob, review+o.Name, nil)
	// The same statement with the bytes is one of somebody who has them.
	if code, text := put(bob, review+o.Name, o.Content); code != http.StatusCreated {
		t.Errorf("the bytes after their statement: %d %q", code, text)
	}
	reads(t, bob, review+o.Name, o.Content)
}

// onlyInReview allows all writes, and reads of what the reader may read, of the zone "review" alone.
const onlyInReview = policyDefaults + `
allow if input.action in {"begin", "write"}
allow if {
	input.action in {"read", "stat"}
	input.zone == "review"
	every s in input.artifact.sources { s.access == "read" }
}
decision := {"allow": true, "rule": "r", "reasons": ["r: r"]} if allow
`

// throughReview is a gate whose main zone can be read through the review zone alone, and an object in main.
func throughReview(t *testing.T) (*gwtest.Gate, gwtest.Object) {
	t.Helper()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "rule.rego"), []byte(onlyInReview), 0o600); err != nil {
		t.Fatal(err)
	}
	g := gwtest.New(t, gwtest.Options{Review: true, Policy: bundle})
	o := object("hello", noise(4, 3<<20))
	g.Publish([]gwtest.Object{o}, publicSource)
	reads(t, g.As("bob"), mount+o.Name, nil)
	return g, o
}

// opened is the content of an object, opened as bob in the review zone.
func opened(t *testing.T, g *gwtest.Gate, o gwtest.Object) *gateway.Content {
	t.Helper()
	s, err := g.Gateway.Session(t.Context(), gateway.Door{Name: "test"}, authn.Credential{Token: authn.NewSecret(g.As("bob").Token)})
	if err != nil {
		t.Fatal(err)
	}
	content, err := s.Open(t.Context(), "review", o.Name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// slowly takes what it is given, and at one point waits.
type slowly struct {
	io.Writer
	wait func()
}

func (w *slowly) Write(p []byte) (int, error) {
	w.wait()
	return w.Writer.Write(p)
}

// TestRecheckAsksForTheZoneThatWasAsked: the right to an open transfer is asked for again where the reader asked, not where the
// record was found.
func TestRecheckAsksForTheZoneThatWasAsked(t *testing.T) {
	g, o := throughReview(t)
	content := opened(t, g, o)
	if err := content.Recheck(t.Context()); err != nil {
		t.Errorf("bob may not go on: %v", err)
	}
	var got bytes.Buffer
	began := time.Now()
	w := &slowly{&got, func() {
		if got.Len() == 0 { // hold the transfer open while it is rechecked twice
			time.Sleep(time.Until(began.Add(2*gateway.RecheckEvery + gateway.RecheckEvery/4)))
		}
	}}
	if err := content.Copy(t.Context(), w, 0, content.Size); err != nil || !bytes.Equal(got.Bytes(), o.Content) {
		t.Errorf("%d of %d bytes came, then %v", got.Len(), content.Size, err)
	}
	content.Close(http.StatusOK, "")
	if n := len(eventsOf(g, "transfer.cut")); n != 0 {
		t.Errorf("%d transfers are said to be cut", n)
	}
}

// TestWithdrawnRightCutsTransfer: whoever loses the right on the way, by the forge or with the token, is cut, and an event says so.
func TestWithdrawnRightCutsTransfer(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *gwtest.Gate, gwtest.Object){
		"forge": func(t *testing.T, g *gwtest.Gate, o gwtest.Object) { withdraw(t, g, review+o.Name) },
		"token": func(_ *testing.T, g *gwtest.Gate, _ gwtest.Object) { g.Revoke("bob") },
	} {
		t.Run(name, func(t *testing.T) {
			g, o := throughReview(t)
			content := opened(t, g, o)
			defer content.Close(http.StatusOK, "")
			lose(t, g, o)
			var got bytes.Buffer
			held, cut := context.WithTimeout(t.Context(), patience/4)
			defer cut()
			w := &cutWriter{slowly{&got, func() { <-held.Done() }}, cut}
			if err := content.Copy(t.Context(), w, 0, content.Size); err == nil || int64(got.Len()) == content.Size {
				t.Errorf("all %d bytes came: %v", got.Len(), err)
			}
			events := eventsOf(g, "transfer.cut")
			if len(events) != 1 || events[0].Zone != "review" || events[0].Object.Path != o.Name || events[0].Actor.Name != "bob" || events[0].Decision.Verdict != "deny" {
				t.Errorf("the events say %+v", events)
			}
		})
	}
}

// cutWriter holds what it is given until it is cut.
type cutWriter struct {
	slowly
	cut context.CancelFunc
}

func (w *cutWriter) Cut() { w.cut() }

// TestRecheckOfAnEndedTransfer: a transfer that ends while its right is asked for again was not cut.
func TestRecheckOfAnEndedTransfer(t *testing.T) {
	g, o := throughReview(t)
	content := opened(t, g, o)
	defer content.Close(http.StatusOK, "")
	g.Authz.InvalidateAll() // so that the answer is not remembered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := content.Recheck(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the end of the transfer", err)
	}
	if n := len(eventsOf(g, "transfer.cut")); n != 0 {
		t.Errorf("%d transfers are said to be cut", n)
	}
}

// eventsOf returns the events of a kind.
func eventsOf(g *gwtest.Gate, kind string) (list []audit.Event) {
	for _, e := range g.Events() {
		if e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}
