package policy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz"
)

// allows reports whether e lets alice read.
func allows(t *testing.T, e *Engine) bool {
	t.Helper()
	r, f := question(1)
	d, err := evaluate(t, e, r, f)
	if err != nil {
		t.Fatal(err)
	}
	return d.Verdict == authz.Allow
}

// twice polls as often as a change needs to be taken up.
func twice(t *testing.T, e *Engine) {
	t.Helper()
	e.poll(t.Context())
	e.poll(t.Context())
}

func TestReload(t *testing.T) {
	dir := bundleDir(t, rules(`allow if input.zone == "main"`))
	var seen []Activation
	e := newEngine(t, Config{
		Dir: dir, Now: func() time.Time { return noon }, OnActivate: func(a Activation) { seen = append(seen, a) },
	})
	first := e.Footprint().Revision
	writeBundle(t, dir, rules(`allow if input.zone == "other"`))
	if e.poll(t.Context()); e.Footprint().Revision != first {
		t.Error("a change was taken up that was read once only")
	}
	if e.poll(t.Context()); allows(t, e) {
		t.Error("the change was not taken up")
	}
	if len(seen) != 1 || seen[0].Previous != first || seen[0].Revision != e.Footprint().Revision || seen[0].Source != dir || !seen[0].At.Equal(noon) {
		t.Errorf("activations %+v", seen)
	}
	writeBundle(t, dir, rules(`allow if input.zone == "main"`))
	if twice(t, e); !allows(t, e) || e.Footprint().Revision != first {
		t.Error("going back did not bring the first revision back")
	}
	if twice(t, e); len(seen) != 2 {
		t.Errorf("%d activations; want 2: nothing changed since", len(seen))
	}
}

// TestBadReloadKeepsTheLastGood breaks the directory in every way, and mends it.
func TestBadReloadKeepsTheLastGood(t *testing.T) {
	good := rules(`allow if input.zone == "main"`)
	breakings := map[string]struct {
		do   func(t *testing.T, dir string)
		want string
	}{
		"syntax": {func(t *testing.T, dir string) { writeBundle(t, dir, rules("allow if {")) }, "policy.rego:5"},
		"no default": {func(t *testing.T, dir string) {
			writeBundle(t, dir, map[string]string{"policy.rego": "package lychgate\nallow := true\ndecision := {}"})
		}, "no default denial"},
		"forbidden": {func(t *testing.T, dir string) { writeBundle(t, dir, rules(`allow if http.send({})`)) }, "http.send"},
		"failing test": {func(t *testing.T, dir string) {
			writeBundle(t, dir, map[string]string{"a_test.rego": "package a\ntest_a if false"})
		}, "test_a"},
		"data conflict": {func(t *testing.T, dir string) {
			writeBundle(t, dir, map[string]string{"data.json": `{"lychgate": {"allow": true}}`})
		}, "conflict"},
		"huge": {func(t *testing.T, dir string) {
			writeBundle(t, dir, map[string]string{"b.rego": strings.Repeat("#", maxBundleBytes)})
		}, "larger than"},
		"gone":          {func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }, "no such file"},
		"emptied":       {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "policy.rego"))) }, "is missing"},
		"a file now":    {func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)); must(t, os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
		"dangling link": {func(t *testing.T, dir string) { must(t, os.Symlink("nowhere", filepath.Join(dir, "x.rego"))) }, "no such file"},
	}
	for name, breaking := range breakings {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "bundle")
			writeBundle(t, dir, good)
			e := newEngine(t, Config{Dir: dir, Now: func() time.Time { return noon }})
			before := e.Status()
			breaking.do(t, dir)
			for range 3 {
				twice(t, e)
				if !allows(t, e) || e.Status().Revision != before.Revision {
					t.Fatal("the last good revision is not in force")
				}
				if s := e.Status(); !strings.Contains(s.Error, breaking.want) || !s.ErrorAt.Equal(noon) {
					t.Errorf("status %+v; want an error with %q", s, breaking.want)
				}
			}
			must(t, os.RemoveAll(dir))
			writeBundle(t, dir, rules(`allow if input.zone == "other"`))
			if twice(t, e); allows(t, e) || e.Status().Error != "" {
				t.Errorf("mended directory not taken up: %+v", e.Status())
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestKubernetesMount swaps a bundle the way a mounted ConfigMap is: files are links into ..data, which is a link to a
// directory of that moment, replaced at once.
func TestKubernetesMount(t *testing.T) {
	dir := t.TempDir()
	swap := func(stamp, zone string) {
		t.Helper()
		writeBundle(t, dir, map[string]string{
			"..2026_" + stamp + "/policy.rego":    frame(`allow if input.zone in data.zones`),
			"..2026_" + stamp + "/data.json":      `{"zones": ["` + zone + `"]}`,
			"..2026_" + stamp + "/more/more.rego": "package more\nx := 1",
		})
		must(t, os.Symlink("..2026_"+stamp, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	swap("01", "main")
	for _, name := range []string{"policy.rego", "data.json", "more"} {
		must(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	e := newEngine(t, Config{Dir: dir})
	if !allows(t, e) {
		t.Fatal("the first mount is not in force")
	}
	swap("02", "other")
	if twice(t, e); allows(t, e) {
		t.Errorf("the second mount is not in force: %+v", e.Status())
	}
	if n := len(e.active.Load().compiler.Modules); n != 2 {
		t.Errorf("%d modules; want 2, each once", n)
	}
}

func TestLinkedDirectory(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"main", "other"} {
		writeBundle(t, filepath.Join(root, name), rules(`allow if input.zone == "`+name+`"`))
	}
	link := filepath.Join(root, "current")
	must(t, os.Symlink("main", link))
	e := newEngine(t, Config{Dir: link})
	if !allows(t, e) {
		t.Fatal("the linked bundle is not in force")
	}
	must(t, os.Remove(link))
	must(t, os.Symlink("other", link))
	if twice(t, e); allows(t, e) {
		t.Error("the new link is not in force")
	}
}

// TestRun follows a directory by the clock alone.
func TestRun(t *testing.T) {
	dir := bundleDir(t, rules(`allow if input.zone == "main"`))
	synctest.Test(t, func(t *testing.T) {
		var seen []Activation
		e := newEngine(t, Config{Dir: dir, OnActivate: func(a Activation) { seen = append(seen, a) }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		synctest.Wait()
		if len(seen) != 1 || seen[0].Previous != "" || !seen[0].Footprint.Remember {
			t.Errorf("activations %+v; want the first", seen)
		}
		writeBundle(t, dir, rules(`allow if input.zone == "other"`))
		time.Sleep(2*pollEvery + pollEvery/2)
		synctest.Wait()
		if len(seen) != 2 || allows(t, e) {
			t.Errorf("activations %+v; want the second after two polls", seen)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunOfTheEmbeddedBundle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var seen []Activation
	e := newEngine(t, Config{OnActivate: func(a Activation) { seen = append(seen, a); cancel() }})
	if err := e.Run(ctx); err != nil || len(seen) != 1 || seen[0].Source != "embedded" {
		t.Errorf("%v, activations %+v", err, seen)
	}
	if s := e.Status(); s.Source != "embedded" || s.Error != "" || s.Since.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// TestReloadWhileAsked swaps revisions under concurrent questions: each answer is one revision's.
func TestReloadWhileAsked(t *testing.T) {
	dir := bundleDir(t, rules(`allow if input.zone == "main"`))
	e := newEngine(t, Config{Dir: dir})
	first := e.Footprint().Revision
	stop := make(chan struct{})
	failed := make(chan string, 4)
	for range 4 {
		go func() {
			r, f := question(3)
			for {
				select {
				case <-stop:
					failed <- ""
					return
				default:
				}
				d, err := e.Evaluate(context.Background(), r, f)
				if err != nil || (d.Verdict == authz.Allow) != (d.Revision == first) {
					failed <- d.Revision + " " + d.Reasons[0]
					return
				}
			}
		}()
	}
	for i := range 10 {
		zone := []string{"other", "main"}[i%2]
		writeBundle(t, dir, rules(`allow if input.zone == "`+zone+`"`))
		twice(t, e)
	}
	close(stop)
	for range 4 {
		if said := <-failed; said != "" {
			t.Error(said)
		}
	}
}
