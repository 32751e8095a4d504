package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/gateway/audit"
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

// TestObjectsAndWork: an object's name and BitBake's output tell the same of it.
func TestObjectsAndWork(t *testing.T) {
	for name, want := range map[string]string{
		"04/86/sstate:firmware:qemux86_64-oe-linux:1.0:r0:qemux86_64:14:0486e7792e_deploy.tar.zst":               "firmware deploy",
		"debian-12/1/2/sstate:part-0-1-native:x86_64-linux:1.0:r0:x86_64:14:0486e7792e_populate_sysroot.tar.zst": "part-0-1-native populate_sysroot",
		"3c/28/sstate:part-0-1-native::2.0~rc1:r0::14:3c280faaef_populate_lic.tar.zst":                           "part-0-1-native populate_lic",
	} {
		recipe, task := split(name)
		if got := recipe + " " + task; got != want {
			t.Errorf("%s is of %q, want %q", name, got, want)
		}
	}
	const output = `NOTE: recipe part-0-1-native-1.0-r0: task do_populate_sysroot_setscene: Started
NOTE: recipe part-0-1-native-1.0-r0: task do_populate_sysroot_setscene: Succeeded
NOTE: recipe part-4-1-1.0-r0: task do_deploy_setscene: Failed
NOTE: recipe part-4-1-1.0-r0: task do_deploy: Succeeded
`
	if got := restored.FindAllStringSubmatch(output, -1); len(got) != 1 || got[0][1] != "part-0-1-native" || got[0][2] != "populate_sysroot" {
		t.Errorf("restored is %q", got)
	}
}

// TestCheckAllowed: one decision too many is found, also in a batch, and none for who may read something as well.
func TestCheckAllowed(t *testing.T) {
	bob := view{user: reader{name: "bob", below: []string{"public/"}}, graph: graph{"open": {sources: []string{"public/x"}}, "shut": {sources: []string{"team/x"}}}}
	event := func(recipe, verdict string) audit.Event {
		return audit.Event{Object: audit.Object{Path: "sstate:" + recipe + ":"}, Decision: audit.Decision{Verdict: verdict}}
	}
	batch := func(recipe, verdict string) audit.Event {
		return audit.Event{Objects: []audit.Object{{Path: "sstate:" + recipe + ":", Verdict: verdict}}}
	}
	for _, tt := range []struct {
		name   string
		view   view
		events []audit.Event
		bad    bool
	}{
		{"what he may", bob, []audit.Event{event("open", "allow"), event("shut", "deny"), batch("open", "allow"), batch("shut", "deny")}, false},
		{"one too many", bob, []audit.Event{event("open", "allow"), event("shut", "allow")}, true},
		{"one too many in a batch", bob, []audit.Event{event("open", "allow"), batch("shut", "allow")}, true},
		{"nothing", bob, []audit.Event{event("open", "deny")}, true},
		{"nothing, rightly", view{graph: bob.graph}, []audit.Event{event("open", "deny")}, false},
		{"something for nobody", view{graph: bob.graph}, []audit.Event{event("open", "allow")}, true},
	} {
		if err := checkAllowed(tt.view, tt.events); (err != nil) != tt.bad {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
