package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestView: what a user may have, by hand on a few recipes.
func TestView(t *testing.T) {
	g := graph{
		"base":  {sources: []string{"team/base"}},
		"lib":   {sources: []string{"public/lib"}, uses: []string{"base"}},
		"app":   {sources: []string{"public/app"}, uses: []string{"lib"}},
		"other": {sources: []string{"public/other", "publicity/other"}},
		"group": {uses: []string{"app"}},
	}
	public, all := reader{name: "bob", below: []string{"public/"}}, reader{name: "alice", below: []string{""}}
	for _, tt := range []struct {
		name                    string
		view                    view
		reads, told, recompiles string
	}{
		{"direct", view{user: public}, "app lib", "app base group lib other", "base group other"},
		{"transitive", view{user: public, transitive: true}, "", "app base group lib other", "app base group lib other"},
		{"changed", view{user: public, changed: []string{"base"}}, "app lib", "other", "app base group lib other"},
		{"changed and told", view{user: public, changed: []string{"lib"}}, "app lib", "app base group lib other", "base group other"},
		{"all", view{user: all, transitive: true, changed: []string{"base"}}, "app base lib other", "app base group lib other", "group"},
		{"none", view{}, "", "app base group lib other", "app base group lib other"},
	} {
		v := tt.view
		v.graph = g
		for _, check := range []struct {
			what string
			ask  func(string) bool
			want string
		}{{"reads", v.reads, tt.reads}, {"told", v.told, tt.told}, {"compiles", v.compiles, tt.recompiles}} {
			var got []string
			for recipe := range g {
				if check.ask(recipe) {
					got = append(got, recipe)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != check.want {
				t.Errorf("%s: %s %q, want %q", tt.name, check.what, got, check.want)
			}
		}
	}
}

// TestFetches: the licences of what is built again come from the mirror if they may; the time of the sources is fetched by who compiles.
func TestFetches(t *testing.T) {
	v := view{user: reader{below: []string{"public/"}}, changed: []string{"base"}, graph: graph{
		"base": {sources: []string{"team/base"}}, "lib": {sources: []string{"public/lib"}, uses: []string{"base"}}, "app": {sources: []string{"public/app"}},
	}}
	var got []string
	for _, recipe := range []string{"base", "lib", "app"} {
		for _, task := range []string{licenses, epoch, "deploy"} {
			got = append(got, fmt.Sprint(v.finds(recipe, task), v.fetches(recipe, task)))
		}
	}
	const want = "false false, false false, false false, true true, true true, false false, true true, true false, true true"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// TestParts: the parts are enough, only build on what is there, and no two users may have the same of them.
func TestParts(t *testing.T) {
	g, archives := partsGraph(), 0
	for _, p := range parts() {
		archives += len(p.tasks())
		for _, used := range p.uses {
			if _, ok := g[used]; !ok || !strings.HasSuffix(used, "-native") {
				t.Errorf("%s uses %s", p.name, used)
			}
		}
	}
	if archives < least || len(g) != len(parts()) {
		t.Errorf("%d parts, %d of them with other names, %d objects", len(parts()), len(g), archives)
	}
	for _, tt := range []struct {
		equivalence bool
		want        string
	}{{false, "152 73 24 0"}, {true, "152 95 69 0"}} {
		var got []string
		for _, u := range partUsers() {
			v, found := (&scaleTrial{equivalence: tt.equivalence}).view(u.name), 0
			for _, p := range parts() {
				for _, task := range p.tasks() {
					if v.finds(p.name, task) {
						found++
					}
				}
			}
			got = append(got, fmt.Sprint(found))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("equivalence %v: %s may find %s, want %s", tt.equivalence, "alice, bob, carol and dave", got, tt.want)
		}
	}
}

// TestForge: each reader has a rule for each directory, and who may read nothing has none.
func TestForge(t *testing.T) {
	got := forge(partUsers(), map[string]string{"carol": "ssh-ed25519 AAAA"})
	for _, want := range []string{
		`{id: carol, name: carol, kind: human, keys: ["ssh-ed25519 AAAA"]}`,
		`{repos: ["**"], users: [alice]}`, `{repos: ["layers/**"], users: [carol]}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the forge lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "users: [dave]") {
		t.Errorf("dave may read something:\n%s", got)
	}
}
