package main

import (
	"fmt"
	"slices"
	"strings"
)

// reader is a user of the forge.
type reader struct {
	name  string
	below []string // the directories whose repositories are readable; "" is all
}

func (u reader) may(repository string) bool {
	return slices.ContainsFunc(u.below, func(dir string) bool { return strings.HasPrefix(repository, dir) })
}

// made says what a recipe is made of: repositories, and other recipes.
type made struct{ sources, uses []string }

// graph is all recipes, by name.
type graph map[string]made

// behind returns a recipe, what it uses, and what that uses in turn.
func (g graph) behind(recipe string) []string {
	all := []string{recipe}
	for i := 0; i < len(all); i++ {
		for _, used := range g[all[i]].uses {
			if !slices.Contains(all, used) {
				all = append(all, used)
			}
		}
	}
	return all
}

// view is what one user may have of a published cache, worked out from the recipes alone. It knows nothing of the gate: it is what the
// gate and BitBake are compared with.
type view struct {
	graph
	user       reader
	transitive bool     // what a recipe uses must be readable too
	changed    []string // recipes that are others than the published ones, with the same output
}

// reads reports whether the user may read what is built of a recipe. What is built from nothing is nobody's.
func (v view) reads(recipe string) bool {
	if len(v.graph[recipe].sources) == 0 {
		return false
	}
	parts := []string{recipe}
	if v.transitive {
		parts = v.behind(recipe)
	}
	return !slices.ContainsFunc(parts, func(part string) bool {
		return slices.ContainsFunc(v.graph[part].sources, func(s string) bool { return !v.user.may(s) })
	})
}

// told reports whether the hashes of a recipe's objects are the published ones: who may not be told that a changed recipe has the same
// output has other hashes for all that is built with it.
func (v view) told(recipe string) bool {
	return !slices.ContainsFunc(v.behind(recipe), func(part string) bool { return slices.Contains(v.changed, part) && !v.reads(part) })
}

// The tasks whose objects depend on the recipe's own sources alone.
const (
	licenses = "populate_lic"
	epoch    = "deploy_source_date_epoch"
)

// finds reports whether a mirror has the object of a task for the user.
func (v view) finds(recipe, task string) bool {
	return v.reads(recipe) && (task == licenses || task == epoch || v.told(recipe))
}

// compiles reports whether the user's build does the recipe's work itself.
func (v view) compiles(recipe string) bool { return !v.reads(recipe) || !v.told(recipe) }

// fetches reports whether the user's build downloads the object of a task: what it finds and has a use for. The time of the sources is
// of use only to who compiles.
func (v view) fetches(recipe, task string) bool {
	return v.finds(recipe, task) && (task != epoch || v.compiles(recipe))
}

// forge is the document of a static forge with these readers and the writer ci, who may read everything. keys are the SSH keys, by name.
func forge(users []reader, keys map[string]string) string {
	people := "hosts: [git.example.com]\nusers:\n  - {id: ci, name: ci, kind: ci}\n"
	access := "access:\n  - {repos: [\"**\"], users: [ci]}\n"
	for _, u := range users {
		people += fmt.Sprintf("  - {id: %[1]s, name: %[1]s, kind: human, keys: [%[2]q]}\n", u.name, keys[u.name])
		for _, dir := range u.below {
			access += fmt.Sprintf("  - {repos: [%q], users: [%s]}\n", dir+"**", u.name)
		}
	}
	return people + access
}
