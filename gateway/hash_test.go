package gateway_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const method = "oe.sstatesig.OEOuthashBasic"

// task is a task whose hash follows from a name.
func task(name string) hashserv.Task {
	return hashserv.Task{Method: method, Taskhash: fmt.Sprintf("%x", sha256.Sum256([]byte("task "+name)))}
}

// outputOf is the hash of an output that follows from a name.
func outputOf(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte("output "+name))) }

// hashAsker asks a zone's hash equivalence as somebody.
type hashAsker struct {
	t testing.TB
	*hashserv.Client
}

func ask(t testing.TB, g *gwtest.Gate, name, zone string) hashAsker {
	return hashAsker{t, g.Hash(name, zone)}
}

// mapped is what a task is mapped to for the asker.
func (a hashAsker) mapped(t hashserv.Task) hashserv.Unihash {
	a.t.Helper()
	var m [1]hashserv.Mapping
	if err := a.Unihash(a.t.Context(), []hashserv.Task{t}, m[:]); err != nil {
		a.t.Fatal(err)
	}
	return m[0].Unihash
}

// exists is whether a unihash exists for the asker.
func (a hashAsker) exists(u hashserv.Unihash) bool {
	a.t.Helper()
	var is [1]bool
	if err := a.Exists(a.t.Context(), []hashserv.Unihash{u}, is[:]); err != nil {
		a.t.Fatal(err)
	}
	return is[0]
}

// output is what a task with a known output is mapped to for the asker.
func (a hashAsker) output(outhash string) hashserv.Unihash {
	a.t.Helper()
	row, err := a.Outhash(a.t.Context(), hashserv.Query{Method: method, Outhash: outhash, Taskhash: task("none").Taskhash})
	if err != nil {
		a.t.Fatal(err)
	}
	if row == nil {
		return hashserv.Unihash{}
	}
	return row.Unihash
}

// report says that a task had an output, and returns the answer.
func (a hashAsker) report(name, output string, u hashserv.Unihash) hashserv.Unihash {
	a.t.Helper()
	m, err := a.Report(a.t.Context(), hashserv.Report{
		Task: task(name), Outhash: outputOf(output), Unihash: u,
		Details: hashserv.Details{Owner: "somebody", PN: "libfoo", PV: "1.0", PR: "r0", Task: "do_package", Siginfo: "secret variables"},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.Unihash
}

// none is no unihash.
var none hashserv.Unihash

// TestHashIsDecidedAsTheArtifact: a mapping is its reporter's alone until something is published under it; then it is there for whoever may
// read that, and for nobody else.
func TestHashIsDecidedAsTheArtifact(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true})
	private, public := gwtest.NewObject("secret", "package"), gwtest.NewObject("hello", "package")
	ci := ask(t, g, "ci", "main")
	for name, o := range map[string]gwtest.Object{"private": private, "public": public} {
		if u := ci.report(name, name, o.Unihash()); u != o.Unihash() {
			t.Fatalf("ci reported %s and is answered %v", name, u)
		}
	}
	check := func(when, user, name string, o gwtest.Object, there, published bool) {
		t.Helper()
		a := ask(t, g, user, "main")
		want := none
		if there {
			want = o.Unihash()
		}
		if got := a.mapped(task(name)); got != want {
			t.Errorf("%s: %q gets %v for the %s task, want %v", when, user, got, name, want)
		}
		if got := a.output(outputOf(name)); got != want {
			t.Errorf("%s: %q gets %v for the %s output, want %v", when, user, got, name, want)
		}
		if got := a.exists(o.Unihash()); got != (there && published) {
			t.Errorf("%s: exists says %v to %q about %s", when, got, user, name)
		}
	}
	for user, there := range map[string]bool{"ci": true, "alice": false, "bob": false, "carol": false, "": false} {
		check("reported", user, "private", private, there, false)
		check("reported", user, "public", public, there, false)
	}
	g.Publish([]gwtest.Object{private}, privateSource)
	g.Publish([]gwtest.Object{public}, publicSource)
	for user, may := range map[string][2]bool{"ci": {true, true}, "alice": {true, true}, "bob": {false, true}, "carol": {false, false}, "": {false, false}} {
		check("published", user, "private", private, may[0], true)
		check("published", user, "public", public, may[1], true)
	}
}

// TestHashDetailsAreForAdministrators: what a report says beside its hashes names people, recipes and variables.
func TestHashDetailsAreForAdministrators(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Admins: []string{"alice"}})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	ask(t, g, "ci", "main").report("x", "x", o.Unihash())
	for user, want := range map[string]string{"alice": "secret variables", "bob": ""} {
		row, err := g.Hash(user, "main").Outhash(t.Context(), hashserv.Query{Method: method, Outhash: outputOf("x"), Taskhash: task("x").Taskhash})
		if err != nil || row == nil {
			t.Fatalf("%s: %v, %v", user, row, err)
		}
		if row.Siginfo != want || (row.PN != "") != (want != "") || (row.Owner != "") != (want != "") {
			t.Errorf("%s sees %+v", user, row)
		}
		if want != "" && row.Owner != "ci" {
			t.Errorf("the owner is %q: who reported is who signed in, not who they say", row.Owner)
		}
	}
}

// TestReadersReportNothing: a report of somebody who may not write changes nothing, and tells no more than a look-up.
func TestReadersReportNothing(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true})
	private, public, own := gwtest.NewObject("secret", "package"), gwtest.NewObject("hello", "package"), gwtest.NewObject("mine", "package")
	g.Publish([]gwtest.Object{private}, privateSource)
	g.Publish([]gwtest.Object{public}, publicSource)
	ci := ask(t, g, "ci", "main")
	ci.report("private", "private", private.Unihash())
	ci.report("public", "public", public.Unihash())
	for _, user := range []string{"bob", "carol", ""} {
		a := ask(t, g, user, "main")
		want := own.Unihash()
		if user == "bob" {
			want = public.Unihash()
		}
		if got := a.report("public of "+user, "public", own.Unihash()); got != want {
			t.Errorf("%q reports a public output and is answered %v, want %v", user, got, want)
		}
		if got := a.report("private of "+user, "private", own.Unihash()); got != own.Unihash() {
			t.Errorf("%q reports a private output and is answered %v", user, got)
		}
		if got := a.report("new of "+user, "new of "+user, own.Unihash()); got != own.Unihash() {
			t.Errorf("%q reports a new output and is answered %v", user, got)
		}
		m, err := a.Equivalent(t.Context(), task("public of "+user), hashserv.Mapping{Unihash: own.Unihash()})
		if err != nil || m.Unihash != own.Unihash() {
			t.Errorf("%q maps without an output and is answered %v, %v", user, m.Unihash, err)
		}
		for _, what := range []string{"public of ", "private of ", "new of "} {
			if got := ci.mapped(task(what + user)); got != none {
				t.Errorf("%q mapped %q to %v", user, what+user, got)
			}
		}
	}
}

// TestNoLaundering: a writer that reports an output which somebody else has is not told what that one's unihash is, and its own task is not
// mapped to it, unless it may read what is published there. Row 5 of the threat model.
func TestNoLaundering(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Review: true})
	private, public, own := gwtest.NewObject("secret", "package"), gwtest.NewObject("hello", "package"), gwtest.NewObject("mine", "package")
	for _, o := range []struct {
		gwtest.Object
		source string
	}{{private, privateSource}, {public, publicSource}} {
		st := g.Statement([]gwtest.Object{o.Object}, o.source)
		st.Zone = "review"
		if _, err := g.TryPublish(g.As("ci"), st, []gwtest.Object{o.Object}); err != nil {
			t.Fatal(err)
		}
	}
	ci, bob := ask(t, g, "ci", "review"), ask(t, g, "bob", "review") // both write there
	ci.report("private", "private", private.Unihash())
	ci.report("public", "public", public.Unihash())
	ci.report("pending", "pending", gwtest.NewObject("pending", "package").Unihash())
	for _, output := range []string{"private", "pending"} {
		if got := bob.report("bob's "+output, output, own.Unihash()); got != own.Unihash() {
			t.Errorf("bob reports the %s output and is answered %v", output, got)
		}
		for name, a := range map[string]hashAsker{"bob": bob, "ci": ci} {
			if got := a.mapped(task("bob's " + output)); got != none {
				t.Errorf("bob's task with the %s output is mapped to %v for %s", output, got, name)
			}
		}
	}
	if got := bob.report("bob's public", "public", own.Unihash()); got != public.Unihash() {
		t.Errorf("bob reports a public output and is answered %v", got)
	}
	// To name somebody else's unihash outright gives nothing either, and tells nothing: it is the answer that any unihash gets.
	if got := bob.report("named", "another output", private.Unihash()); got != private.Unihash() {
		t.Errorf("bob names the private unihash and is answered %v", got)
	}
	absent := gwtest.NewObject("absent", "package").Unihash()
	if got := bob.report("named absent", "yet another output", absent); got != absent {
		t.Errorf("bob names an absent unihash and is answered %v", got)
	}
	if a, b := bob.mapped(task("named")), bob.mapped(task("named absent")); a != private.Unihash() || b != absent {
		t.Errorf("bob gets %v and %v for what he named: a difference tells what is there", a, b)
	}
	if bob.exists(private.Unihash()) {
		t.Error("what bob named exists for him")
	}
	if got := bob.mapped(task("private")); got != none {
		t.Errorf("bob gets %v for ci's task", got)
	}
	// The first report of a task stays, whoever comes later, and is not told to those who may not know.
	if got := bob.report("private", "bob's output", own.Unihash()); got != own.Unihash() {
		t.Errorf("bob reports ci's task and is answered %v", got)
	}
	if got := ci.mapped(task("private")); got != private.Unihash() {
		t.Errorf("ci's mapping is %v now", got)
	}
}

// TestReviewMappingsStayThere: a protected zone never sees what a review zone maps, and a review zone reads through to its base without
// writing to it. Invariant I7.
func TestReviewMappingsStayThere(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Review: true})
	base, evil := gwtest.NewObject("hello", "package"), gwtest.NewObject("evil", "package")
	g.Publish([]gwtest.Object{base}, publicSource)
	st := g.Statement([]gwtest.Object{evil}, publicSource)
	st.Zone = "review"
	if _, err := g.TryPublish(g.As("bob"), st, []gwtest.Object{evil}); err != nil {
		t.Fatal(err)
	}
	ask(t, g, "ci", "main").report("base", "base", base.Unihash())
	bob := ask(t, g, "bob", "review")
	bob.report("victim", "evil", evil.Unihash())
	if got := bob.mapped(task("base")); got != base.Unihash() {
		t.Errorf("the review zone does not read its base: %v", got)
	}
	if !bob.exists(base.Unihash()) {
		t.Error("what is in the base does not exist in the review zone")
	}
	if got := bob.report("base", "evil", evil.Unihash()); got != base.Unihash() {
		t.Errorf("a task that the base has is mapped anew: %v", got)
	}
	for _, user := range []string{"ci", "alice", "bob"} {
		a := ask(t, g, user, "main")
		if got := a.mapped(task("victim")); got != none {
			t.Errorf("%s gets the review zone's %v in main", user, got)
		}
		if a.exists(evil.Unihash()) {
			t.Errorf("the review zone's unihash exists in main for %s", user)
		}
		if got := a.output(outputOf("evil")); got != none {
			t.Errorf("%s gets the review zone's output in main: %v", user, got)
		}
	}
	if got := bob.mapped(task("victim")); got != evil.Unihash() {
		t.Errorf("the review zone lost its mapping: %v", got)
	}
}

// TestNoMappingWithoutOutput: report-equiv is off unless the zone says otherwise, and answers with what is in force.
func TestNoMappingWithoutOutput(t *testing.T) {
	for _, on := range []bool{false, true} {
		g := gwtest.New(t, gwtest.Options{Hash: func(string) gateway.HashZone {
			return gateway.HashZone{Store: hashserv.NewMemory(hashserv.MemoryConfig{}), Equivalents: on}
		}})
		ci, bob := ask(t, g, "ci", "main"), ask(t, g, "bob", "main")
		first, second := gwtest.NewObject("first", "package").Unihash(), gwtest.NewObject("second", "package").Unihash()
		ci.report("x", "x", first)
		for _, tt := range []struct {
			who        hashAsker
			task       string
			u          hashserv.Unihash
			answer     hashserv.Unihash
			then       hashserv.Unihash
			wantsTheOn bool
		}{
			{who: ci, task: "x", u: second, answer: first, then: first},
			{who: bob, task: "y", u: second, answer: second, then: none},
			{who: ci, task: "z", u: second, answer: second, then: second, wantsTheOn: true},
		} {
			m, err := tt.who.Equivalent(t.Context(), task(tt.task), hashserv.Mapping{Unihash: tt.u})
			if err != nil || m.Unihash != tt.answer {
				t.Errorf("on=%v: %s is answered %v, %v, want %v", on, tt.task, m.Unihash, err, tt.answer)
			}
			then := tt.then
			if tt.wantsTheOn && !on {
				then = none
			}
			if got := ci.mapped(task(tt.task)); got != then {
				t.Errorf("on=%v: %s is mapped to %v, want %v", on, tt.task, got, then)
			}
		}
	}
}

// TestHashAdministration: maintenance is for administrators of the zone; others are refused and change nothing. What is published keeps its
// mapping, whoever cleans up: invariant I11.
func TestHashAdministration(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Admins: []string{"alice"}})
	published, pending := gwtest.NewObject("hello", "package"), gwtest.NewObject("pending", "package")
	g.Publish([]gwtest.Object{published}, publicSource)
	ci := ask(t, g, "ci", "main")
	ci.report("published", "published", published.Unihash())
	ci.report("pending", "pending", pending.Unihash())
	verbs := map[string]func(c *hashserv.Client) error{
		"remove": func(c *hashserv.Client) error {
			_, err := c.Remove(t.Context(), hashserv.Where{"method": method})
			return err
		},
		"clean-unused": func(c *hashserv.Client) error { _, err := c.CleanUnused(t.Context(), 0); return err },
		"gc-mark":      func(c *hashserv.Client) error { _, err := c.Mark(t.Context(), "m", hashserv.Where{}); return err },
		"gc-sweep":     func(c *hashserv.Client) error { _, err := c.Sweep(t.Context(), "m"); return err },
		"gc-status":    func(c *hashserv.Client) error { _, err := c.Collection(t.Context()); return err },
		"get-db-usage": func(c *hashserv.Client) error { _, err := c.Usage(t.Context()); return err },
	}
	for _, user := range []string{"ci", "bob", ""} {
		c := g.Hash(user, "main")
		for name, do := range verbs {
			var refusal *hashserv.Refusal
			if err := do(c); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "is not allowed to access") {
				t.Errorf("%q does %s: %v", user, name, err)
			}
		}
	}
	if got := ci.mapped(task("pending")); got != pending.Unihash() {
		t.Fatalf("somebody who may not changed the mappings: %v", got)
	}
	alice := g.Hash("alice", "main")
	if n, err := alice.Remove(t.Context(), hashserv.Where{"method": method}); err != nil || n == 0 {
		t.Fatalf("the administrator removes %d, %v", n, err)
	}
	if got := ci.mapped(task("pending")); got != none {
		t.Errorf("the mapping of nothing is still there: %v", got)
	}
	if got := ci.mapped(task("published")); got != published.Unihash() {
		t.Errorf("the mapping of something that is published is %v now", got)
	}
	if got := ci.report("published", "other", pending.Unihash()); got != published.Unihash() {
		t.Errorf("a task was mapped anew while its artifact is there: %v", got)
	}
}

// TestHashAccounts: an account acts for who made it and never for more; it ends with all else that this one has.
func TestHashAccounts(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Admins: []string{"alice", "ci"}})
	private, public := gwtest.NewObject("secret", "package"), gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{private}, privateSource)
	g.Publish([]gwtest.Object{public}, publicSource)
	ask(t, g, "ci", "main").report("private", "private", private.Unihash())
	alice, ci := g.Hash("alice", "main"), g.Hash("ci", "main")
	if _, _, err := g.Hash("bob", "main").NewUser(t.Context(), "builder", []hashserv.Permission{hashserv.Read}); err == nil {
		t.Fatal("bob, who administers nothing, made an account")
	}
	for _, name := range []string{"", "a b", "a/b", strings.Repeat("a", 65), "a\x1b[31m"} {
		if _, _, err := g.Hash("alice", "main").NewUser(t.Context(), name, []hashserv.Permission{hashserv.Read}); err == nil {
			t.Errorf("an account is named %q", name)
		}
	}
	u, token, err := alice.NewUser(t.Context(), "builder", []hashserv.Permission{hashserv.Read, hashserv.Reporting})
	if err != nil || u.Name != "builder" || len(token) != 64 {
		t.Fatalf("made %+v with %d characters, %v", u, len(token), err)
	}
	if _, _, err := alice.NewUser(t.Context(), "builder", nil); err == nil {
		t.Error("an account was made twice")
	}
	as := func(name, token string) hashAsker {
		return hashAsker{t, g.HashAs(hashserv.ClientConfig{Username: name, Token: token}, "main")}
	}
	builder := as("builder", token)
	if got := builder.mapped(task("private")); got != private.Unihash() {
		t.Errorf("alice's account gets %v", got)
	}
	// alice is no writer, so her account is none.
	if got := builder.report("new", "new", public.Unihash()); got != public.Unihash() || ask(t, g, "ci", "main").mapped(task("new")) != none {
		t.Errorf("the account reports for somebody who may not: %v", got)
	}
	if _, err := builder.Remove(t.Context(), hashserv.Where{"method": method}); err == nil {
		t.Error("an account without @db-admin removed mappings")
	}
	// An account of another's would be a way to that one's rights.
	for name, err := range map[string]error{
		"refresh-token": func() error { _, _, err := ci.RefreshToken(t.Context(), "builder"); return err }(),
		"become-user": func() error {
			_, err := g.HashAs(hashserv.ClientConfig{Username: "ci", Token: g.As("ci").Token, As: "builder"}, "main").Usage(t.Context())
			return err
		}(),
		"set-user-perms": func() error { _, err := ci.SetPermissions(t.Context(), "builder", nil); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "No user named 'builder' exists") {
			t.Errorf("another administrator does %s: %v", name, err)
		}
	}
	if _, err := alice.SetPermissions(t.Context(), "builder", []hashserv.Permission{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account without @read reads no more", func() bool { return builder.mapped(task("private")) == none })
	if _, err := alice.SetPermissions(t.Context(), "builder", []hashserv.Permission{hashserv.Read}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account reads again", func() bool { return builder.mapped(task("private")) != none })
	if u, err := alice.SetPermissions(t.Context(), "builder", []hashserv.Permission{hashserv.All}); err != nil || len(u.Permissions) != 5 {
		t.Errorf("an account with all permissions has %q, %v", u.Permissions, err)
	}
	eventually(t, "the account does what its maker may", func() bool { _, err := builder.Usage(t.Context()); return err == nil })
	if _, err := g.Tokens.RevokeAll(t.Context(), *principal(g, "alice")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account ends with all that its maker had", func() bool { return builder.mapped(task("private")) == none })
	if err := as("builder", token).Exists(t.Context(), []hashserv.Unihash{public.Unihash()}, make([]bool, 1)); err == nil {
		t.Error("the account could still sign in")
	}
}

// principal is a user as tokens know it.
func principal(g *gwtest.Gate, name string) *authn.Principal {
	u, err := g.Forges.UserByName(context.Background(), gwtest.Forge, name)
	if err != nil {
		panic(err)
	}
	return &authn.Principal{Forge: gwtest.Forge, ID: u.ID, Name: u.Name, Kind: u.Kind}
}

// TestHashEndsWithItsCredential: a connection is worth what its credential is worth now. It stays open, since BitBake would die of its end.
func TestHashEndsWithItsCredential(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	ask(t, g, "ci", "main").report("x", "x", o.Unihash())
	alice := ask(t, g, "alice", "main")
	if got := alice.mapped(task("x")); got != o.Unihash() {
		t.Fatalf("alice gets %v", got)
	}
	g.Revoke("alice")
	eventually(t, "a revoked token reads no more", func() bool { return alice.mapped(task("x")) == none })
	if alice.exists(o.Unihash()) {
		t.Error("it still exists")
	}
}

// TestHashAnswersAreRecorded: every key has a verdict in the journal before it is answered, and what cannot be recorded is not answered.
func TestHashAnswersAreRecorded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true})
	private, public := gwtest.NewObject("secret", "package"), gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{private}, privateSource)
	g.Publish([]gwtest.Object{public}, publicSource)
	ci := ask(t, g, "ci", "main")
	ci.report("private", "private", private.Unihash())
	ci.report("public", "public", public.Unihash())
	bob := ask(t, g, "bob", "main")
	bob.mapped(task("private"))
	bob.mapped(task("public"))
	bob.exists(public.Unihash())
	long := hashserv.Task{Method: strings.Repeat("m", 300), Taskhash: strings.Repeat("t", 300)}
	bob.mapped(long)
	seen := map[string]string{}
	for _, e := range g.Events() {
		for _, o := range e.Objects {
			if e.Door != "hash" {
				continue
			}
			seen[strings.Join(strings.Fields(e.Kind+" "+e.Actor.Name+" "+e.Detail+" "+o.Path), " ")] = o.Verdict
			if e.Actor.Credential == "" || e.Actor.Remote == "" {
				t.Errorf("event %+v does not say who", e)
			}
		}
		if e.Kind == "hash.report" {
			seen[e.Kind+" "+e.Actor.Name+" "+e.Object.Path] = e.Decision.Verdict
		}
	}
	for key, want := range map[string]string{
		"hash.report ci " + method + " " + task("private").Taskhash:  "allow",
		"hash.lookup bob " + method + " " + task("private").Taskhash: "deny",
		"hash.lookup bob " + method + " " + task("public").Taskhash:  "allow",
		"hash.exists bob " + public.Unihash().String():               "allow",
		"hash.lookup bob too long":                                   "deny",
	} {
		if got, ok := seen[key]; got != want || !ok {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}
