package gwtest_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// sampleSources is the table of the sample cache's README: the repository of each recipe, and what it was built with.
var sampleSources = map[string]struct{ own, with []string }{
	"libfoo-native":      {own: []string{"public/libfoo"}},
	"secret-tool-native": {own: []string{"teamA/secret-tool"}, with: []string{"public/libfoo"}},
	"firmware":           {own: []string{"teamB/firmware"}, with: []string{"teamA/secret-tool", "public/libfoo"}},
	"boot":               {own: []string{"teamB/boot"}, with: []string{"public/libfoo"}},
	"filler1-native":     {own: []string{"bulk/filler1"}},
	"filler2-native":     {own: []string{"bulk/filler2"}},
	"filler3-native":     {own: []string{"bulk/filler3"}},
	"filler4-native":     {own: []string{"bulk/filler4"}},
	"harness-all":        {},
}

// sampleRepos are the repositories that users are given in every combination. The fillers come together.
var sampleRepos = []string{"public/libfoo", "teamA/secret-tool", "teamB/firmware", "teamB/boot", "bulk"}

// sampleDir is the sample cache, beside the repository.
func sampleDir(t *testing.T) string {
	dir := filepath.Join("..", "..", "..", "shared", "sstate-sample", "sstate")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the sample cache is missing: %v", err)
		}
		t.Skipf("the sample cache is missing: %v", err)
	}
	return dir
}

func sampleNames(t *testing.T) []string {
	root := sampleDir(t)
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(root, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil || len(names) != 127 {
		t.Fatalf("the sample has %d objects (%v), want 127", len(names), err)
	}
	return names
}

// everyCombination returns a forge file with a user for each subset of sampleRepos: u0 to u31.
func everyCombination() string {
	var b strings.Builder
	b.WriteString("hosts: [git.example.com]\nusers:\n  - {id: ci, name: ci, kind: ci}\n")
	for i := range 1 << len(sampleRepos) {
		fmt.Fprintf(&b, "  - {id: u%d, name: u%d, kind: human}\n", i, i)
	}
	b.WriteString("access:\n  - {repos: [\"**\"], users: [ci]}\n")
	for bit, repo := range sampleRepos {
		if repo == "bulk" {
			repo = "bulk/*"
		}
		var users []string
		for i := range 1 << len(sampleRepos) {
			if i>>bit&1 == 1 {
				users = append(users, fmt.Sprintf("u%d", i))
			}
		}
		fmt.Fprintf(&b, "  - {repos: [%q], users: [%s]}\n", repo, strings.Join(users, ", "))
	}
	return b.String()
}

// holds reports whether user i may read a repository.
func holds(i int, repo string) bool {
	repo, _, _ = strings.Cut(strings.Replace(repo, "bulk/", "bulk ", 1), " ")
	return i>>slices.Index(sampleRepos, repo)&1 == 1
}

// mayRead is what the table implies for an object of a recipe.
func mayRead(i int, recipe string, transitive bool) bool {
	s := sampleSources[recipe]
	need := s.own
	if transitive {
		need = slices.Concat(s.own, s.with)
	}
	for _, repo := range need {
		if !holds(i, repo) {
			return false
		}
	}
	return len(s.own) > 0
}

func TestSample(t *testing.T) {
	for _, transitive := range []bool{false, true} {
		for _, inPlace := range []bool{false, true} {
			t.Run(fmt.Sprintf("transitive=%v/import=%v", transitive, inPlace), func(t *testing.T) {
				testSample(t, transitive, inPlace)
			})
		}
	}
}

func testSample(t *testing.T, transitive, inPlace bool) {
	o := gwtest.Options{Forge: everyCombination(), Transitive: transitive}
	if inPlace {
		mirror, err := upstream.NewDir(sampleDir(t))
		if err != nil {
			t.Fatal(err)
		}
		o.Mirror = mirror
	}
	g := gwtest.New(t, o)
	pushSample(t, g, inPlace)
	if again := pushSample(t, g, inPlace); again.Skipped == 0 || again.Stored != 0 {
		t.Errorf("a second push stored %d and skipped %d objects", again.Stored, again.Skipped)
	}
	names := sampleNames(t)
	for i := range 1 << len(sampleRepos) {
		checkSampleUser(t, g, i, names, transitive)
	}
}

func pushSample(t *testing.T, g *gwtest.Gate, inPlace bool) *client.Report {
	t.Helper()
	cache, err := client.OpenDir(sampleDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	report, err := g.As("ci").Client().Push(t.Context(), client.PushOptions{
		Cache: cache, Zone: "main", Signer: g.Signer, Audience: "https://gate.example.com", Builder: "https://ci.example.com", InPlace: inPlace,
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.ExitCode() != 0 || report.Objects != 127 || report.Stored+report.Confirmed+report.Skipped != 127 {
		t.Fatalf("push: %+v", report)
	}
	return report
}

// checkSampleUser asks for each object by HEAD, GET, presence and explain; all must say what the table says.
func checkSampleUser(t *testing.T, g *gwtest.Gate, i int, names []string, transitive bool) {
	t.Helper()
	name := fmt.Sprintf("u%d", i)
	u := g.As(name)
	present, err := u.Client().Presence(t.Context(), "main", names)
	if err != nil {
		t.Fatal(err)
	}
	for n, object := range names {
		ref, err := artifact.ParseName(artifact.Zone{Name: "main"}, object)
		if err != nil {
			t.Fatal(err)
		}
		want := mayRead(i, ref.Recipe, transitive)
		status := map[bool]int{true: 200, false: 404}[want]
		head, get := u.Head("/sstate/main/"+object), u.Get("/sstate/main/"+object)
		if head.StatusCode != status || get.StatusCode != status || present[n] != want {
			t.Errorf("%s %s: HEAD %d, GET %d, present %v, want %v", name, object, head.StatusCode, get.StatusCode, present[n], want)
		}
		if got := explained(t, g, name, ref); got != want {
			t.Errorf("%s %s: explain says %v, want %v", name, object, got, want)
		}
		if want {
			original, err := os.ReadFile(filepath.Join(sampleDir(t), object))
			if err != nil || string(original) != string(get.Bytes) {
				t.Errorf("%s: GET gave other bytes (%v)", object, err)
			}
		}
	}
}

func explained(t *testing.T, g *gwtest.Gate, user string, ref artifact.Ref) bool {
	t.Helper()
	p := &authn.Principal{Forge: gwtest.Forge, ID: user, Name: user, Kind: authn.Human}
	e, err := g.Authz.Explain(context.Background(), &authz.Request{Action: authz.Read, Door: "https", Principal: p, Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return e.Verdict == authz.Allow.String()
}
