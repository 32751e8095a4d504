package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// session is somebody's at a door of the test's own.
func session(t *testing.T, g *gwtest.Gate, who string) *gateway.Session {
	t.Helper()
	s, err := g.Gateway.Session(t.Context(), gateway.Door{Name: "test"}, authn.Credential{Token: authn.NewSecret(g.As(who).Token)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFloodOfRefusedCredentialsIsCounted: a flood of bad credentials cannot fill the journal, and yet not one of them is lost: each
// is an event, or is counted by the next.
func TestFloodOfRefusedCredentialsIsCounted(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	sent := 0
	try := func() {
		sent++
		door := gateway.Door{Name: "test", Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		if _, err := g.Gateway.Session(t.Context(), door, authn.Credential{Token: authn.NewSecret("bad")}); !errors.Is(err, gateway.ErrUnauthenticated) {
			t.Fatalf("a bad credential: %v", err)
		}
	}
	recorded := func() int { return len(eventsOf(g, "auth.refuse")) }
	for range 2000 {
		try()
	}
	flood := recorded()
	if flood < 100 || flood > 1000 {
		t.Errorf("%d of %d refusals were recorded", flood, sent)
	}
	eventually(t, "one is recorded again", func() bool { try(); return recorded() > flood })
	events := eventsOf(g, "auth.refuse")
	counted := len(events)
	for _, e := range events {
		var n int
		if _, err := fmt.Sscanf(e.Detail, "%d more were refused before this one", &n); e.Detail != "" && (err != nil || n < 1) {
			t.Errorf("an event says %q: %v", e.Detail, err)
		}
		counted += n
	}
	if counted != sent {
		t.Errorf("%d refusals are accounted for, of %d", counted, sent)
	}
}

// TestPresenceEndsWithItsRequest: nobody waits for the rest of a batch whose client has gone, also when all is remembered.
func TestPresenceEndsWithItsRequest(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := object("hello", []byte("hello"))
	g.Publish([]gwtest.Object{o}, publicSource)
	bob, names := session(t, g, "bob"), []string{o.Name, o.Name, "no name at all", object("absent", nil).Name}
	if present, err := bob.Presence(t.Context(), "main", names); err != nil || !slices.Equal(present, []bool{true, true, false, false}) {
		t.Fatalf("%v, %v", present, err)
	}
	ctx := &endsAfter{Context: t.Context(), left: 2}
	if present, err := bob.Presence(ctx, "main", names); !errors.Is(err, gateway.ErrUnavailable) || present != nil {
		t.Errorf("a batch that nobody waits for: %v, %v", present, err)
	}
}

// endsAfter is a context that has ended once it was looked at a number of times.
type endsAfter struct {
	context.Context
	left int
}

func (c *endsAfter) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestBeginIsRecorded: what a writer is told of names at the begin of an upload is in the journal.
func TestBeginIsRecorded(t *testing.T) {
	mirror, lies := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	there, diverged, fresh := object("there", []byte("there")), object("diverged", []byte("first")), object("fresh", []byte("fresh"))
	g.Publish([]gwtest.Object{there, diverged}, publicSource)
	before := len(eventsOf(g, "write.begin"))
	uploads := []string{begin(t, g.As("ci"), "main", there, object("diverged", []byte("other")), fresh).ID, beginImport(t, g, lies)}
	events := eventsOf(g, "write.begin")[before:]
	if len(events) != 2 {
		t.Fatalf("%d events of two uploads", len(events))
	}
	for i, want := range [][]string{{"present", "needed", "needed"}, {"staged"}} {
		e := events[i]
		var told []string
		for _, o := range e.Objects {
			told = append(told, o.Outcome)
		}
		if !slices.Equal(told, want) || e.Request != uploads[i] || e.Actor.Name != "ci" || e.Zone != "main" || e.Decision.Verdict != "allow" {
			t.Errorf("the writer was told %q, and the event says %+v", want, e)
		}
	}
	if o := events[0].Objects[2]; o.Path != fresh.Name || o.Digest != digest(fresh.Content).String() || o.Size != int64(len(fresh.Content)) {
		t.Errorf("the event names %+v", o)
	}
	if o := events[1].Objects[0]; o.Path != lies.Name {
		t.Errorf("the event names %+v", o)
	}
}
