package authz_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

func identify(t *testing.T, a *authz.Authorizer, p authn.Principal) *authn.Principal {
	t.Helper()
	got, err := a.Identify(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestIdentifyCompletes(t *testing.T) {
	w := newWorld(t)
	w.users["alice"] = forge.User{ID: "alice", Name: "alice-now", Kind: authn.CI, Groups: []string{"ops"}}
	a := w.authorizer()
	for _, tt := range []struct {
		p          authn.Principal
		name       string
		kind       authn.Kind
		groups     []string
		roles      []string
		wantRefuse bool
	}{
		{
			p:    authn.Principal{Forge: home, ID: "alice", Name: "ci", Kind: authn.Human, Groups: []string{"root"}, Roles: []string{"admin:main"}},
			name: "alice-now", kind: authn.CI, groups: []string{"ops"}, roles: []string{"admin:review"},
		},
		{p: authn.Principal{Forge: home, ID: "ci", Name: "x"}, name: "ci", kind: authn.Human, groups: []string{"all"}, roles: []string{"writer:main"}},
		{p: authn.Principal{Forge: home, ID: "bob"}, name: "bob", kind: authn.Human, groups: []string{"all"}},
		{p: authn.Principal{ID: "robot", Name: "r2", Kind: authn.Service}, name: "r2", kind: authn.Service, roles: []string{"admin:review"}},
		{p: authn.Principal{ID: "alice", Name: "ci", Kind: authn.Service, Groups: []string{"ops"}}, name: "ci", kind: authn.Service, groups: []string{"ops"}},
		{p: authn.Principal{Kind: authn.Anonymous, ID: "robot", Roles: []string{"admin:main"}}, kind: authn.Anonymous},
		{p: authn.Principal{Forge: home, ID: "eve"}, wantRefuse: true},
		{p: authn.Principal{Forge: "other", ID: "alice"}, wantRefuse: true},
	} {
		got, err := a.Identify(t.Context(), tt.p)
		if tt.wantRefuse {
			if !errors.Is(err, authn.ErrRefused) {
				t.Errorf("%+v: %v, want ErrRefused", tt.p, err)
			}
			continue
		}
		if err != nil || got.Name != tt.name || got.Kind != tt.kind || !slices.Equal(got.Groups, tt.groups) || !slices.Equal(got.Roles, tt.roles) {
			t.Errorf("%+v:\n got %+v, %v", tt.p, got, err)
		}
	}
}

func TestIdentifyShares(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	p := *user("alice")
	p.Claims = map[string]any{"sub": "alice", "list": []any{"x"}}
	first := identify(t, a, p)
	same := p
	same.Claims = map[string]any{"sub": "alice", "list": []any{"x"}}
	same.Name = "stale name"
	if identify(t, a, same) != first || identify(t, a, *first) != first {
		t.Error("equal principals do not share a view")
	}
	for what, change := range map[string]func(p *authn.Principal){
		"claims":     func(p *authn.Principal) { p.Claims = map[string]any{"sub": "bob", "list": []any{"x"}} },
		"no claims":  func(p *authn.Principal) { p.Claims = nil },
		"credential": func(p *authn.Principal) { p.Credential = "another" },
		"expiry":     func(p *authn.Principal) { p.Expires = w.clock.Add(time.Hour) },
	} {
		other := p
		change(&other)
		if identify(t, a, other) == first {
			t.Errorf("%s: shared with another principal", what)
		}
		first = identify(t, a, p)
	}
	robot := authn.Principal{ID: "robot", Name: "r2", Kind: authn.Service, Groups: []string{"x"}}
	first = identify(t, a, robot)
	robot.Groups = []string{"y"}
	if identify(t, a, robot) == first {
		t.Error("groups of a principal without a forge: shared")
	}
}

func TestIdentifyAges(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	x := w.publish("x", list(publicRepo()))
	p := *user("alice")
	p.Expires = w.clock.Add(90 * time.Second)
	first := identify(t, a, p)
	w.pass(59 * time.Second)
	if identify(t, a, p) != first || w.looked != 1 {
		t.Errorf("at 59 s: looked up %d times", w.looked)
	}
	w.pass(time.Second)
	if identify(t, a, p) == first || w.looked != 2 {
		t.Errorf("at 60 s: looked up %d times", w.looked)
	}
	// A session that kept the first is judged like all others, and does not push the new one out.
	if got := verdict(t, a, ask(authz.Read, first, x)); got != allow || w.looked != 2 {
		t.Errorf("with the old principal: %v, looked up %d times", got, w.looked)
	}
	w.pass(30 * time.Second)
	if _, err := a.Identify(t.Context(), p); !errors.Is(err, authn.ErrRefused) {
		t.Errorf("expired: %v, want ErrRefused", err)
	}
	if got := verdict(t, a, ask(authz.Read, first, x)); got != deny {
		t.Errorf("expired: %v, want deny", got)
	}
}

// A session that lives on sees that its user was blocked.
func TestSessionsSeeBlocking(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	x := w.publish("x", list(publicRepo()))
	p := identify(t, a, *user("alice"))
	if got := verdict(t, a, ask(authz.Read, p, x)); got != allow {
		t.Fatal(got)
	}
	w.with(func() { w.users["alice"] = forge.User{ID: "alice", Name: "alice", Blocked: true} })
	a.Invalidate(home, "bob-who-is-another")
	a.Invalidate(home, "alice")
	if got := verdict(t, a, ask(authz.Read, p, x)); got != deny {
		t.Errorf("blocked: %v, want deny", got)
	}
}

func TestViewsAreBounded(t *testing.T) {
	w := newWorld(t)
	a := w.authorizer()
	for i := range authz.MaxViews + 50 {
		p := *user("alice")
		p.Credential = fmt.Sprint(i)
		identify(t, a, p)
	}
	if n, _, _ := authz.Sizes(a); n != authz.MaxViews {
		t.Errorf("%d views, want %d", n, authz.MaxViews)
	}
	w.pass(2 * time.Minute)
	identify(t, a, *user("alice"))
	if n, _, _ := authz.Sizes(a); n != 1 {
		t.Errorf("%d views after nobody came for two minutes, want 1", n)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	w := newWorld(t)
	w.setPolicy("r", authz.FieldPath, always(allow))
	a := w.authorizer()
	for i := range authz.MaxMemo + 50 {
		r := ask(authz.Read, user("alice"), ref("main", fmt.Sprint("absent", i)))
		if got := verdict(t, a, r); got != deny {
			t.Fatal(got)
		}
	}
	if _, n, _ := authz.Sizes(a); n != authz.MaxMemo {
		t.Errorf("%d answers, want %d", n, authz.MaxMemo)
	}
}
