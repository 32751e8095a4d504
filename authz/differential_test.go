package authz_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

// arbitrary is a policy of which nothing is known but its footprint: whether it allows is a hash of its revision and of
// what the footprint says that it reads. Half of them look at permissions at all.
func arbitrary(revision string, reads authz.Field, bySources bool) func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) {
	return func(_ context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
		h := fnv.New64a()
		fmt.Fprint(h, revision, r.Action, r.Principal.ID, f.Recorded)
		for _, part := range []struct {
			field authz.Field
			value any
		}{
			{authz.FieldDoor, r.Door},
			{authz.FieldZone, []string{r.Ref.Zone, f.Zone}},
			{authz.FieldKind, r.Ref.Kind},
			{authz.FieldPath, r.Ref.Path},
			{authz.FieldPart, r.Ref.Part},
			{authz.FieldHash, r.Ref.Hash},
			{authz.FieldRecipe, r.Ref.Recipe},
			{authz.FieldVersion, r.Ref.Version},
			{authz.FieldArch, r.Ref.Arch},
			{authz.FieldTask, r.Ref.Task},
			{authz.FieldSigner, f.Claim.Signer},
			{authz.FieldMinute, f.Now.Unix() / 60},
		} {
			if reads&part.field != 0 {
				fmt.Fprintf(h, "%v|", part.value)
			}
		}
		if bySources {
			for _, list := range [][]authz.SourceFact{f.Sources, f.Inputs} {
				for _, s := range list {
					fmt.Fprint(h, s.Source, s.Public, s.Fact.Access)
				}
			}
		}
		d := authz.Decision{Rule: revision}
		if h.Sum64()%3 != 0 {
			d.Verdict = authz.Allow
		}
		return d, nil
	}
}

var fields = []authz.Field{
	authz.FieldDoor, authz.FieldZone, authz.FieldKind, authz.FieldPath, authz.FieldPart, authz.FieldHash, authz.FieldRecipe,
	authz.FieldVersion, authz.FieldArch, authz.FieldTask, authz.FieldSigner, authz.FieldMinute,
}

// twins are two Authorizers over one world, of which one remembers.
type twins struct {
	w               *world
	memo, forgetful *authz.Authorizer
	refs            []artifact.Ref
	last            *authz.Request
	remembered      *int // answers, in all runs
}

func newTwins(t testing.TB, remembered *int) *twins {
	w := newWorld(t)
	tw := &twins{w: w, memo: w.authorizer(), forgetful: w.authorizer(), remembered: remembered}
	authz.Forget(tw.forgetful)
	authz.Align(tw.memo, tw.forgetful)
	return tw
}

// same asks both, the world standing still.
func (tw *twins) same(t *rapid.T, r *authz.Request) authz.Answer {
	got, gotErr := tw.memo.Decide(t.Context(), r)
	want, wantErr := tw.forgetful.Decide(t.Context(), r)
	if got.Decision.Verdict != want.Decision.Verdict || got.Decision.Revision != want.Decision.Revision ||
		got.Decision.Rule != want.Decision.Rule || (gotErr == nil) != (wantErr == nil) || got.Record.Digest != want.Record.Digest {
		t.Fatalf("%s %s by %s:\nremembering %+v, %v\n  forgetful %+v, %v", r.Action, r.Ref.Path, r.Principal.ID, got.Decision, gotErr, want.Decision, wantErr)
	}
	if got.Remembered {
		*tw.remembered++
	}
	return got
}

// drawSources draws from few sets, so that many names share one.
func drawSources(t *rapid.T, label string) []source.Source {
	return rapid.SampledFrom([][]source.Source{
		list(repo("a")), list(repo("a")), list(repo("a"), repo("b")), list(publicRepo()), list(repo("b"), publicRepo()), list(),
	}).Draw(t, label)
}

func (tw *twins) publish(t *rapid.T) {
	name := fmt.Sprint("n", len(tw.refs))
	var claims [][]source.Source
	for range rapid.IntRange(1, 2).Draw(t, "claims") {
		claims = append(claims, drawSources(t, "sources"))
	}
	ref := tw.w.publish(name, claims...)
	tw.w.with(func() {
		r := tw.w.records[ref]
		delete(tw.w.records, ref)
		ref.Zone = rapid.SampledFrom([]string{"main", "review"}).Draw(t, "zone")
		ref.Task = rapid.SampledFrom([]string{"package", "deploy"}).Draw(t, "task")
		ref.Hash = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "hash")
		ref.Part = rapid.SampledFrom([]artifact.Part{artifact.Payload, artifact.Siginfo}).Draw(t, "part")
		r.Ref = ref
		for i := range r.Claims {
			if rapid.Bool().Draw(t, "more inputs") {
				inputs := source.NewSet(append(list(repo("c")), tw.w.sets[r.Claims[i].Sources].Sources()...))
				tw.w.sets[inputs.ID()], r.Claims[i].Inputs = inputs, inputs.ID()
			}
			r.Claims[i].Signer = rapid.SampledFrom([]string{"ci-1", "ci-2"}).Draw(t, "signer")
		}
		tw.w.records[ref] = r
	})
	tw.refs = append(tw.refs, ref)
}

func (tw *twins) drawRequest(t *rapid.T) *authz.Request {
	who := rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "who")
	action := rapid.SampledFrom([]authz.Action{authz.Read, authz.Stat, authz.List, authz.Report}).Draw(t, "action")
	name := ref("main", "absent")
	if len(tw.refs) > 0 && rapid.IntRange(0, 5).Draw(t, "recorded") > 0 {
		name = rapid.SampledFrom(tw.refs).Draw(t, "ref")
	}
	if rapid.Bool().Draw(t, "from review") {
		name.Zone = "review"
	}
	r := ask(action, user(who), name)
	r.Door = rapid.SampledFrom([]string{"https", "ssh"}).Draw(t, "door")
	tw.last = r
	return r
}

func (tw *twins) changeForge(t *rapid.T) {
	who, id := rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "whose"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "repo")
	tw.w.allow(who, id, rapid.SampledFrom([]forge.Access{forge.Read, forge.Read, forge.None, forge.Unknown}).Draw(t, "access"))
	if rapid.Bool().Draw(t, "signalled") {
		tw.invalidate(who)
	}
}

// invalidate tells both, of one user or of all. The world counts, to know what was said before.
func (tw *twins) invalidate(who string) {
	for name := range tw.w.users {
		if who == "" || who == name {
			tw.w.epochs[name]++
		}
	}
	for _, a := range []*authz.Authorizer{tw.memo, tw.forgetful} {
		if who == "" {
			a.InvalidateAll()
		} else {
			a.Invalidate(home, who)
		}
	}
}

func (tw *twins) changeWorld(t *rapid.T) {
	tw.w.with(func() {
		tw.w.life = rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, 300 * time.Second}).Draw(t, "life")
		tw.w.lag = rapid.SampledFrom([]time.Duration{0, 0, 5 * time.Second, 100 * time.Second}).Draw(t, "lag")
		tw.w.down, tw.w.lost = nil, nil
		switch rapid.IntRange(0, 5).Draw(t, "trouble") {
		case 0:
			tw.w.down = errors.New("down")
		case 1:
			tw.w.lost = errors.New("lost")
		}
	})
	if rapid.Bool().Draw(t, "all") {
		tw.invalidate("")
	}
}

func drawPause(t *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{
		time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
	}).Draw(t, "pause")
}

// TestRememberingChangesNothing asks random questions of two Authorizers, one of which remembers, while policies, forges
// and clocks move. They must agree.
func TestRememberingChangesNothing(t *testing.T) {
	remembered := 0
	rapid.Check(t, func(rt *rapid.T) {
		tw := newTwins(t, &remembered)
		revisions := make(map[string]authz.Field)
		rt.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) { tw.same(t, tw.drawRequest(t)) },
			"ask again": func(t *rapid.T) {
				if tw.last != nil {
					tw.same(t, tw.last)
				}
			},
			"publish": tw.publish,
			"forge":   tw.changeForge,
			"world":   tw.changeWorld,
			"pause":   func(t *rapid.T) { tw.w.pass(drawPause(t)) },
			"policy": func(t *rapid.T) {
				revision := rapid.SampledFrom([]string{"p", "q", "r", "s"}).Draw(t, "revision")
				reads, known := revisions[revision]
				if !known {
					for _, f := range fields {
						if rapid.IntRange(0, 2).Draw(t, "reads") == 0 {
							reads |= f
						}
					}
					revisions[revision] = reads
				}
				tw.w.setPolicy(revision, reads, arbitrary(revision, reads, revision < "r"))
			},
		})
	})
	if remembered == 0 {
		t.Error("nothing was ever remembered: the test shows nothing")
	}
}

// TestAllowsRestOnFreshFacts asks under the shipped rule, and checks each allow against what the forge has really said:
// a yes for each source, not older than the artifact, not past its limit, and not from before an invalidation.
func TestAllowsRestOnFreshFacts(t *testing.T) {
	remembered := 0
	rapid.Check(t, func(rt *rapid.T) {
		tw := newTwins(t, &remembered)
		rt.Repeat(map[string]func(*rapid.T){
			"publish": tw.publish,
			"forge":   tw.changeForge,
			"world":   tw.changeWorld,
			"pause":   func(t *rapid.T) { tw.w.pass(drawPause(t)) },
			"ask": func(t *rapid.T) {
				r := tw.drawRequest(t)
				r.Action = authz.Read
				if answer := tw.same(t, r); answer.Decision.Verdict == authz.Allow {
					tw.justified(t, r, answer)
				}
			},
		})
	})
	if remembered == 0 {
		t.Error("nothing was ever remembered: the test shows nothing")
	}
}

// justified fails unless one claim of the record rests on permissions that were told in time.
func (tw *twins) justified(t *rapid.T, r *authz.Request, answer authz.Answer) {
	for _, claim := range answer.Record.Claims {
		sources := tw.w.sets[claim.Sources].Sources()
		good := len(sources) > 0
		for _, s := range sources {
			good = good && (s == publicRepo() || tw.toldInTime(r.Principal.ID, s, answer.Record.Time))
		}
		if good {
			return
		}
	}
	t.Fatalf("%s may read %v, but nothing the forge said allows it: %+v", r.Principal.ID, r.Ref, answer)
}

func (tw *twins) toldInTime(who string, s source.Source, published time.Time) bool {
	w := tw.w
	for _, y := range w.yes[who+" "+strings.TrimPrefix(s.Repo, home+":")] {
		fresh := w.clock.Before(y.NotAfter) && w.clock.Before(y.At.Add(300*time.Second))
		if fresh && y.epoch == w.epochs[who] && !y.At.Before(published) {
			return true
		}
	}
	return false
}
