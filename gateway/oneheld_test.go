package gateway

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
)

// TestOneOfManyIsHeld: plain uploads of one name that are taken at the same time take each other's place one after the other, so
// that one is left. A clock that takes its time makes them meet at every step.
func TestOneOfManyIsHeld(t *testing.T) {
	slow := func() time.Time { time.Sleep(2 * time.Millisecond); return time.Now() }
	g := &Gateway{Config: Config{Log: slog.New(slog.DiscardHandler), Now: slow, Limits: Limits{UploadObjects: 100, ObjectBytes: 100, UploadAge: time.Hour}}}
	var err error
	if g.staging, err = openStaging(t.TempDir(), g.Limits, slow); err != nil {
		t.Fatal(err)
	}
	s, z := &Session{gate: g, principal: &authn.Principal{Forge: "forge", ID: "ci"}}, Zone{Zone: artifact.Zone{Name: "main"}}
	for round := range 10 {
		var takers sync.WaitGroup
		begin := make(chan struct{})
		for i := range 4 {
			u, err := s.stagePlain(z, plainObject, "name", bytes.NewReader([]byte{byte(i)}), 100)
			if err != nil {
				t.Fatal(err)
			}
			takers.Go(func() {
				<-begin
				if result, err := s.settle(t.Context(), z, artifact.Ref{}, u); result != Pending || err != nil {
					t.Errorf("%q, %v", result, err)
				}
			})
		}
		close(begin)
		takers.Wait()
		if n := len(g.staging.plain("forge/ci", "main", plainObject)); n != 1 {
			t.Fatalf("round %d: %d are held", round, n)
		}
	}
}
