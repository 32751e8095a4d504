package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// recentControl serves what people ask an agent, and returns where.
func recentControl(h *host) string {
	h.Helper()
	path := filepath.Join(h.TempDir(), "run", "agent.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.agent.ServeControl(ctx, ln) }()
	h.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.Error(err)
		}
	})
	return path
}

// TestWhyRecipe: the agent knows which objects of a recipe BitBake did not get, and what the gate says of each now.
func TestWhyRecipe(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{TellWhy: true})
	hello, secret := gwtest.NewObject("tool", "populate_sysroot"), gwtest.NewObject("tool", "package")
	nothing, other := gwtest.NewObject("tool", "deploy"), gwtest.NewObject("other", "package")
	g.Publish([]gwtest.Object{hello}, publicSource)
	g.Publish([]gwtest.Object{secret}, privateSource)
	h := start(t, g, "bob", nil)
	control := recentControl(h)
	for _, o := range []gwtest.Object{other, nothing, secret, hello, {Name: secret.Name + ".siginfo"}} {
		h.clock.pass(time.Second)
		h.status("HEAD", "/main/"+o.Name, false)
		h.status("HEAD", "/main/"+o.Name, true)
	}
	w, err := AskWhy(t.Context(), control, "tool")
	if err != nil {
		t.Fatal(err)
	}
	if w.Recipe != "tool" || w.Found != 1 || w.Missed != 3 || len(w.Objects) != 3 {
		t.Fatalf("%+v", w)
	}
	for i, want := range []struct {
		name, task, state string
		missing           []string
	}{
		{secret.Name + ".siginfo", "package", gateway.WhyAbsent, nil},
		{secret.Name, "package", gateway.WhyDenied, []string{"git.example.com/secret/tool"}},
		{nothing.Name, "deploy", gateway.WhyAbsent, nil},
	} {
		m := w.Objects[i]
		if m.Zone != "main" || m.Name != want.name || m.Task != want.task || m.Why.State != want.state || !slices.Equal(m.Why.Missing, want.missing) || m.Fault != "" || m.Unasked != "" {
			t.Errorf("%d: %+v, want %+v", i, m, want)
		}
	}
	list, err := AskRecipes(t.Context(), control)
	if want := []RecipeCount{{"tool", 1, 3}, {"other", 0, 1}}; err != nil || !slices.Equal(list, want) {
		t.Errorf("recipes %+v, %v, want %+v", list, err, want)
	}

	// What became of it last is what counts.
	g.Publish([]gwtest.Object{nothing}, publicSource)
	h.clock.pass(maxRemember)
	h.want("HEAD", h.status("HEAD", "/main/"+nothing.Name, true), 200)
	if w, err := AskWhy(t.Context(), control, "tool"); err != nil || w.Found != 2 || w.Missed != 2 {
		t.Errorf("after it was published: %+v, %v", w, err)
	}
	if w, err := AskWhy(t.Context(), control, "tool&recipe=other"); err != nil || w.Found+w.Missed != 0 {
		t.Errorf("a name that is none: %+v, %v", w, err)
	}
}

// TestWhyFaults: what was wrong when BitBake asked is remembered, and what is wrong now is said.
func TestWhyFaults(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello, world := gwtest.NewObject("hello", "package"), gwtest.NewObject("world", "package")
	g.Publish([]gwtest.Object{hello, world}, publicSource)
	h := start(t, g, "bob", func(c *Config) { c.Verifier = g.Verifier("outsider") })
	control := recentControl(h)
	ask := func(recipe string) Missed {
		t.Helper()
		w, err := AskWhy(t.Context(), control, recipe)
		if err != nil || len(w.Objects) != 1 {
			t.Fatalf("%+v, %v", w, err)
		}
		return w.Objects[0]
	}
	h.want("HEAD", h.status("HEAD", "/main/"+hello.Name, true), 404)
	if m := ask("hello"); m.Why.State != gateway.WhyPresent || !strings.Contains(m.Fault, "not trusted") || m.Unasked != "" {
		t.Errorf("unverified: %+v", m)
	}
	h.spy.breaks(pulled)
	h.want("HEAD", h.status("HEAD", "/main/"+world.Name, false), 404)
	if m := ask("world"); m.Why.State != "" || !strings.Contains(m.Fault, "cable") || !strings.Contains(m.Unasked, "cable") {
		t.Errorf("while the gate is away: %+v", m)
	}
	h.spy.breaks(nil)
	h.clock.pass(longestPause)
	if m := ask("world"); m.Why.State != gateway.WhyPresent || !strings.Contains(m.Fault, "cable") {
		t.Errorf("when it is back: %+v", m)
	}
	g.Revoke("bob")
	if m := ask("world"); m.Why.State != "" || !strings.Contains(m.Unasked, "does not take the token") {
		t.Errorf("with a token that ended: %+v", m)
	}
}

// TestRecentIsBounded: what was asked for longest ago is forgotten, and each name counts once.
func TestRecentIsBounded(t *testing.T) {
	var r recent
	now := time.Unix(0, 0)
	const extra = 5_000
	before, after, _ := strings.Cut(gwtest.NewObject("recipe", "package").Name, "recipe")
	name := func(i int) key { return key{"main", before + "recipe" + strconv.Itoa(i) + after} }
	for i := range recentKept + extra {
		r.note(name(i), false, nil, now)
	}
	last := name(recentKept + extra - 1)
	r.note(last, true, nil, now)
	n, found := 0, 0
	r.each(func(_ key, _ artifact.Ref, o outcome) {
		if n++; o.there {
			found++
		}
	})
	if n > recentKept || n < recentKept/2 || found != 1 {
		t.Errorf("%d names, %d found", n, found)
	}
}

// TestWhyIsBounded: a recipe of which very much was missed is asked about in part, and the latest of it.
func TestWhyIsBounded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "bob", nil)
	for i := range maxWhys + 5 {
		o := gwtest.NewObject("tool", fmt.Sprint("task", i))
		h.agent.recent.note(key{"main", o.Name}, false, nil, h.clock.Now().Add(time.Duration(i)*time.Second))
	}
	w := h.agent.Why(t.Context(), "tool")
	if w.Missed != maxWhys+5 || len(w.Objects) != maxWhys || w.Objects[0].Task != fmt.Sprint("task", maxWhys+4) {
		t.Errorf("%d missed, %d objects, the first %q", w.Missed, len(w.Objects), w.Objects[0].Task)
	}
	h.want("questions", h.spy.count("POST /v1/why"), maxWhys)
}
