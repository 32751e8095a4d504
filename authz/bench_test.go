package authz_test

import (
	"context"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
)

// memory is a record store as fast as a map.
type memory struct {
	store
	records map[artifact.Ref]provenance.Record
}

func (m memory) Lookup(_ context.Context, ref artifact.Ref) (provenance.Record, error) {
	r, ok := m.records[ref]
	if !ok {
		return r, provenance.ErrNoRecord
	}
	return r, nil
}

// still is a policy without locks.
type still struct{ print authz.Footprint }

func (p *still) Evaluate(ctx context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	d, err := everySource(ctx, r, f)
	d.Revision = p.print.Revision
	return d, err
}

func (p *still) Footprint() authz.Footprint { return p.print }

// bench returns an Authorizer over ten thousand records of three sources each, and a request that alice may read.
func bench(tb testing.TB, reads authz.Field) (*authz.Authorizer, *authz.Request) {
	w := newWorld(tb)
	w.allow("alice", "a", forge.Read)
	w.allow("alice", "b", forge.Read)
	for i := range 10_000 {
		w.publish("artifact-"+string(rune('a'+i%26))+time.Duration(i).String(), list(repo("a"), repo("b"), publicRepo()))
	}
	name := w.publish("wanted", list(repo("a"), repo("b"), publicRepo()))
	c := w.config()
	c.Records = memory{store{world: w}, w.records}
	c.Policy = &still{authz.Footprint{Revision: "0123456789abcdef", Remember: true, Reads: reads}}
	c.Now = time.Now
	w.clock = time.Now().Add(time.Hour)
	for ref, r := range w.records {
		r.Time = time.Now().Add(-time.Hour)
		w.records[ref] = r
	}
	a, err := authz.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := a.Identify(context.Background(), *user("alice"))
	if err != nil {
		tb.Fatal(err)
	}
	return a, ask(authz.Stat, p, name)
}

func mustAllow(tb testing.TB, a *authz.Authorizer, r *authz.Request) authz.Answer {
	answer, err := a.Decide(context.Background(), r)
	if err != nil || answer.Decision.Verdict != authz.Allow {
		tb.Fatal(answer.Decision, err)
	}
	return answer
}

func BenchmarkDecideRemembered(b *testing.B) {
	for _, bb := range []struct {
		name  string
		reads authz.Field
	}{{"sources", 0}, {"names", authz.FieldDoor | authz.FieldZone | authz.FieldRecipe | authz.FieldTask | authz.FieldHash | authz.FieldPath | authz.FieldSigner}} {
		b.Run(bb.name, func(b *testing.B) {
			a, r := bench(b, bb.reads)
			mustAllow(b, a, r)
			b.ReportAllocs()
			for b.Loop() {
				mustAllow(b, a, r)
			}
		})
	}
}

// BenchmarkDecideFresh is everything but the policy's own work, with facts that are known.
func BenchmarkDecideFresh(b *testing.B) {
	a, r := bench(b, 0)
	authz.Forget(a)
	b.ReportAllocs()
	for b.Loop() {
		mustAllow(b, a, r)
	}
}

func BenchmarkIdentify(b *testing.B) {
	a, _ := bench(b, 0)
	p := *user("alice")
	p.Groups = []string{"all"}
	p.Claims = map[string]any{"sub": "alice"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Identify(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}

func TestHitsDoNotAllocate(t *testing.T) {
	a, r := bench(t, authz.FieldPath|authz.FieldMinute)
	absent := *r
	absent.Ref.Path = "absent"
	p := *user("alice")
	var principal *authn.Principal
	for name, f := range map[string]func(){
		"allowed":  func() { mustAllow(t, a, r) },
		"absent":   func() { verdict(t, a, &absent) },
		"identify": func() { principal, _ = a.Identify(context.Background(), p) },
	} {
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if principal != r.Principal {
		t.Error("Identify did not return the principal it shares")
	}
}
