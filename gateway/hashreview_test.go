package gateway_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// late is a store to which another node's report comes between the look at an output and the report of it.
type late struct {
	hashserv.Store
	first hashserv.Report
}

func (l *late) Report(ctx context.Context, r hashserv.Report) (hashserv.Mapping, error) {
	if _, err := l.Store.Report(ctx, l.first); err != nil {
		return hashserv.Mapping{}, err
	}
	return l.Store.Report(ctx, r)
}

// TestNoLaunderingBetweenNodes: a report that another node's overtakes is mapped to what that one said, and its reporter is not told.
func TestNoLaunderingBetweenNodes(t *testing.T) {
	secret, own := gwtest.NewObject("secret", "package").Unihash(), gwtest.NewObject("mine", "package").Unihash()
	store := &late{Store: hashserv.NewMemory(hashserv.MemoryConfig{})}
	store.first = hashserv.Report{Task: task("theirs"), Outhash: outputOf("x"), Unihash: secret, Author: 77}
	g := gwtest.New(t, gwtest.Options{Hash: func(string) gateway.HashZone { return gateway.HashZone{Store: store} }})
	ci := ask(t, g, "ci", "main")
	if got := ci.report("mine", "x", own); got != own {
		t.Errorf("the report is answered with another's unihash: %v", got)
	}
	if got := ci.mapped(task("mine")); got != none {
		t.Errorf("the reporter is told of %v afterwards", got)
	}
}

// TestDetailsStayInTheirZone: what reports say beside their hashes is not shown through a zone that shows all of its own.
func TestDetailsStayInTheirZone(t *testing.T) {
	stores := map[string]hashserv.Store{}
	g := gwtest.New(t, gwtest.Options{Review: true, Hash: func(zone string) gateway.HashZone {
		stores[zone] = hashserv.NewMemory(hashserv.MemoryConfig{})
		return gateway.HashZone{Store: stores[zone], Reference: zone == "review"}
	}})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	ask(t, g, "ci", "main").report("x", "x", o.Unihash())
	row, err := g.Hash("bob", "review").Outhash(t.Context(), hashserv.Query{Method: method, Outhash: outputOf("x"), Taskhash: task("x").Taskhash})
	if err != nil || row == nil || row.Unihash != o.Unihash() {
		t.Fatalf("%v, %v", row, err)
	}
	if row.Siginfo != "" || row.PN != "" || row.Owner != "" {
		t.Errorf("bob sees %+v", row)
	}
}

// TestEquivalentsLeaveTheBase: a task that the base has is not mapped anew without an output either.
func TestEquivalentsLeaveTheBase(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true, Hash: func(string) gateway.HashZone {
		return gateway.HashZone{Store: hashserv.NewMemory(hashserv.MemoryConfig{}), Equivalents: true}
	}})
	base, evil := gwtest.NewObject("hello", "package"), gwtest.NewObject("evil", "package").Unihash()
	g.Publish([]gwtest.Object{base}, publicSource)
	ask(t, g, "ci", "main").report("base", "base", base.Unihash())
	bob := ask(t, g, "bob", "review")
	m, err := bob.Equivalent(t.Context(), task("base"), hashserv.Mapping{Unihash: evil})
	if err != nil || m.Unihash != base.Unihash() {
		t.Errorf("answered %v, %v", m.Unihash, err)
	}
	if got := bob.mapped(task("base")); got != base.Unihash() {
		t.Errorf("a task of the base is mapped to %v", got)
	}
}

// TestAccountsOwnChangesAreRecorded: also what an account does to itself makes and ends credentials.
func TestAccountsOwnChangesAreRecorded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{HashDB: true, Admins: []string{"alice"}})
	_, token, err := g.Hash("alice", "main").NewUser(t.Context(), "builder", []hashserv.Permission{hashserv.Read})
	if err != nil {
		t.Fatal(err)
	}
	as := func(token string) *hashserv.Client {
		return g.HashAs(hashserv.ClientConfig{Username: "builder", Token: token}, "main")
	}
	_, token, err = as(token).RefreshToken(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := as(token).DeleteUser(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, e := range g.Events() {
		if e.Kind == "hash.admin" && e.Action == string(authz.Admin) {
			said = append(said, e.Detail)
		}
	}
	for _, want := range []string{"make a new token for account builder", "delete account builder"} {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no event says %q: %q", want, said)
		}
	}
}

// TestNobodyRestsForShort: connections are for those who signed in.
func TestNobodyRestsForShort(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	token := g.As("bob").Token
	h := g.Gateway.Hashes(gateway.Door{Name: "hash"}, "main", nil)
	if d := h.Rest(); d != time.Minute {
		t.Errorf("nobody rests for %v", d)
	}
	if _, err := h.Auth(t.Context(), "bob", token); err != nil || h.Rest() != 0 {
		t.Errorf("bob rests for %v, %v", h.Rest(), err)
	}
	if _, err := h.Auth(t.Context(), "bob", "wrong"); err == nil || h.Rest() != time.Minute {
		t.Errorf("a wrong login rests for %v, %v", h.Rest(), err)
	}
}

// broken is a store that cannot look up.
type broken struct{ hashserv.Store }

func (broken) Unihash(context.Context, []hashserv.Task, []hashserv.Mapping) error {
	return hashserv.ErrUnavailable
}

// TestBaseThatCannotBeAsked: while nobody knows whether the base has a task, it is not mapped anew.
func TestBaseThatCannotBeAsked(t *testing.T) {
	review := hashserv.NewMemory(hashserv.MemoryConfig{})
	g := gwtest.New(t, gwtest.Options{Review: true, Hash: func(zone string) gateway.HashZone {
		if zone == "main" {
			return gateway.HashZone{Store: broken{hashserv.NewMemory(hashserv.MemoryConfig{})}, Equivalents: true}
		}
		return gateway.HashZone{Store: review, Equivalents: true}
	}})
	bob, own := ask(t, g, "bob", "review"), gwtest.NewObject("mine", "package").Unihash()
	if got := bob.report("x", "x", own); got != own {
		t.Errorf("answered %v", got)
	}
	if m, err := bob.Equivalent(t.Context(), task("y"), hashserv.Mapping{Unihash: own}); err != nil || m.Unihash != own {
		t.Errorf("answered %v, %v", m.Unihash, err)
	}
	for _, name := range []string{"x", "y"} {
		var m [1]hashserv.Mapping
		if err := review.Unihash(t.Context(), []hashserv.Task{task(name)}, m[:]); err != nil || m[0] != (hashserv.Mapping{}) {
			t.Errorf("%s is mapped to %v, %v", name, m[0].Unihash, err)
		}
	}
}
