package authz_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

const home = "git.example.com"

// world is everything an Authorizer asks: a clock, a record store, a forge, a directory and a policy. It is a referee:
// it fails the test when it is asked what no Authorizer may ask.
type world struct {
	t  testing.TB
	mu sync.Mutex

	clock   time.Time
	records map[artifact.Ref]provenance.Record
	sets    map[source.SetID]*source.Set
	broken  error // of the record store

	may    map[string]forge.Access // "user repo"; none when missing
	users  map[string]forge.User
	lag    time.Duration    // how old the forge's answers are
	life   time.Duration    // how long they are worth anything
	down   error            // of the forge
	lost   error            // of the directory
	asked  int              // repositories asked for
	looked int              // users looked up
	onAsk  func()           // called in Access, after the answer was found
	onLook func()           // called in User, after the answer was found
	yes    map[string][]yes // "user repo": every yes that was said
	epochs map[string]int   // of each user: the invalidations that concern it

	policy policy
}

// yes is a permission as the forge told it, and the epoch it was told in.
type yes struct {
	forge.Fact
	epoch int
}

// policy is one revision of a rule.
type policy struct {
	print authz.Footprint
	rule  func(ctx context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error)
	evals int
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, clock: time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC), life: 300 * time.Second,
		records: make(map[artifact.Ref]provenance.Record), sets: make(map[source.SetID]*source.Set),
		may: make(map[string]forge.Access), users: make(map[string]forge.User),
		yes: make(map[string][]yes), epochs: make(map[string]int),
	}
	w.setPolicy("r1", 0, everySource)
	for _, name := range []string{"alice", "bob", "ci"} {
		w.users[name] = forge.User{ID: name, Name: name, Kind: authn.Human, Groups: []string{"all"}}
	}
	return w
}

// everySource allows a read when every direct source is public or readable, and nothing else.
func everySource(_ context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	d := authz.Decision{Verdict: authz.Allow, Rule: "every-source"}
	for i := range f.Sources {
		if s := &f.Sources[i]; !s.Public && s.Fact.Access != forge.Read {
			return authz.Decision{Rule: "every-source", Reasons: []string{"source-not-readable"}}, nil
		}
	}
	if r.Action == authz.Write {
		d.Verdict = authz.Deny
	}
	return d, nil
}

func always(v authz.Verdict) func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) {
	return func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error) {
		return authz.Decision{Verdict: v, Rule: "always"}, nil
	}
}

func (w *world) setPolicy(revision string, reads authz.Field, rule func(context.Context, authz.Request, *authz.Facts) (authz.Decision, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy.print = authz.Footprint{Revision: revision, Remember: true, Reads: reads}
	w.policy.rule = rule
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) allow(user, repo string, a forge.Access) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.may[user+" "+repo] = a
}

// with changes the world under its lock.
func (w *world) with(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// Lookup implements provenance.Store.
func (w *world) Lookup(_ context.Context, ref artifact.Ref) (provenance.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return provenance.Record{}, w.broken
	}
	r, ok := w.records[ref]
	if !ok {
		return r, fmt.Errorf("look up: %w", provenance.ErrNoRecord)
	}
	return r, nil
}

// Set implements provenance.Store.
func (w *world) Set(_ context.Context, id source.SetID) (*source.Set, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sets[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("no set")
}

// Access implements forge.Provider. A public source must never be asked for, nor a repository twice at once.
func (w *world) Access(_ context.Context, p authn.Principal, repos []forge.Repo) ([]forge.Fact, error) {
	w.mu.Lock()
	seen := make(map[forge.Repo]bool)
	facts := make([]forge.Fact, len(repos))
	for i, r := range repos {
		if seen[r] || r.ID == "public" || r.Forge != home {
			w.t.Errorf("the forge was asked for %v among %v", r, repos)
		}
		seen[r] = true
		at := w.clock.Add(-w.lag)
		facts[i] = forge.Fact{Repo: r, Access: forge.None, At: at, NotAfter: at.Add(w.life), Origin: "world"}
		if a, ok := w.may[p.ID+" "+r.ID]; ok {
			facts[i].Access = a
		}
		if facts[i].Access == forge.Read && w.down == nil {
			w.yes[p.ID+" "+r.ID] = append(w.yes[p.ID+" "+r.ID], yes{facts[i], w.epochs[p.ID]})
		}
	}
	w.asked += len(repos)
	err, hook := w.down, w.onAsk
	w.mu.Unlock()
	if hook != nil {
		hook()
	}
	if err != nil {
		return nil, err
	}
	return facts, nil
}

// User implements authz.Directory.
func (w *world) User(_ context.Context, forgeName, id string) (forge.User, error) {
	w.mu.Lock()
	u, ok := w.users[id]
	err, hook := w.lost, w.onLook
	w.looked++
	w.mu.Unlock()
	if hook != nil {
		hook()
	}
	switch {
	case err != nil:
		return forge.User{}, err
	case !ok || forgeName != home:
		return forge.User{}, forge.ErrNoUser
	}
	return u, nil
}

// Evaluate implements authz.Policy. A principal that it sees must be the directory's, not the credential's.
func (w *world) Evaluate(ctx context.Context, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	w.mu.Lock()
	rule, revision := w.policy.rule, w.policy.print.Revision
	w.policy.evals++
	w.mu.Unlock()
	d, err := rule(ctx, r, f)
	d.Revision = revision
	return d, err
}

// Footprint implements authz.Policy.
func (w *world) Footprint() authz.Footprint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.policy.print
}

// store adapts world to provenance.Store: an Authorizer only reads.
type store struct {
	provenance.Store
	*world
}

func (s store) Lookup(ctx context.Context, ref artifact.Ref) (provenance.Record, error) {
	return s.world.Lookup(ctx, ref)
}

func (s store) Set(ctx context.Context, id source.SetID) (*source.Set, error) {
	return s.world.Set(ctx, id)
}

func (w *world) config() authz.Config {
	public, err := source.ParsePattern("git.example.com/public/**")
	if err != nil {
		w.t.Fatal(err)
	}
	return authz.Config{
		Records: store{world: w}, Forge: w, Directory: w, Policy: w, Public: source.Patterns{public}, Now: w.now,
		Zones: []artifact.Zone{{Name: "main"}, {Name: "review", Base: "main"}},
		Grants: []authz.Grant{
			{Role: "writer", Zone: "main", Users: []string{home + "/ci"}},
			{Role: "admin", Zone: "review", Groups: []string{home + "/ops"}, Users: []string{home + "/#alice", "/#robot"}},
		},
	}
}

func (w *world) authorizer() *authz.Authorizer {
	a, err := authz.New(w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// repo makes the source of a private repository of the forge.
func repo(id string) source.Source {
	return source.Source{Type: source.Git, Locator: source.Locator{Host: home, Path: "team/" + id}, Rev: "4b825dc642cb6eb9a060e54bf8d69288fbee4904", Repo: home + ":" + id}
}

func publicRepo() source.Source {
	s := repo("public")
	s.Locator.Path = "public/zlib"
	return s
}

func (w *world) set(sources ...source.Source) source.SetID {
	s := source.NewSet(sources)
	w.with(func() { w.sets[s.ID()] = s })
	return s.ID()
}

func ref(zone, name string) artifact.Ref {
	return artifact.Ref{Zone: zone, Kind: artifact.KindSstate, Path: name, Recipe: name, Task: "package"}
}

// publish records name in zone main, one claim for each set of sources.
func (w *world) publish(name string, sets ...[]source.Source) artifact.Ref {
	r := provenance.Record{Ref: ref("main", name), Digest: artifact.Digest{1}, Size: 7, Writer: home + "/ci"}
	for _, sources := range sets {
		id := w.set(sources...)
		r.Claims = append(r.Claims, provenance.Claim{Statement: artifact.Digest{2}, Sources: id, Inputs: id, Signer: "ci"})
	}
	w.with(func() {
		r.Time = w.clock
		w.records[r.Ref] = r
	})
	return r.Ref
}

func user(name string) *authn.Principal {
	return &authn.Principal{Forge: home, ID: name, Name: name, Kind: authn.Human, Credential: "token-" + name}
}

func ask(action authz.Action, who *authn.Principal, ref artifact.Ref) *authz.Request {
	return &authz.Request{Action: action, Door: "https", Principal: who, Ref: ref}
}

// decide asks and checks what holds for every answer.
func decide(t testing.TB, a *authz.Authorizer, r *authz.Request) (authz.Answer, error) {
	t.Helper()
	answer, err := a.Decide(context.Background(), r)
	if answer.Decision == nil || err != nil && answer.Decision.Verdict == authz.Allow {
		t.Fatalf("answer %+v with error %v", answer, err)
	}
	return answer, err
}

func verdict(t testing.TB, a *authz.Authorizer, r *authz.Request) authz.Verdict {
	t.Helper()
	answer, _ := decide(t, a, r)
	return answer.Decision.Verdict
}

func list(sources ...source.Source) []source.Source { return sources }
