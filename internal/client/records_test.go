package client

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// recordFor is the record of a task of a synthetic build, with the members that a test changes.
func recordFor(recipe, taskName, hash string, change func(m map[string]any)) map[string]any {
	m := map[string]any{
		"version": 1, "recipe": recipe, "task": "do_" + taskName, "taskhash": hash64(hash), "unihash": hash64(hash),
		"sources": []any{}, "files": []any{}, "inputs": []any{}, "layers": []any{},
	}
	if change != nil {
		change(m)
	}
	return m
}

func recordEntryOf(entry, rev string) map[string]any {
	return map[string]any{"entry": entry, "rev": rev}
}

// recordsOf writes records where the class writes them.
func recordsOf(t testing.TB, records ...map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for _, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		putRecord(t, dir, r, text)
	}
	return dir
}

func putRecord(t testing.TB, dir string, r map[string]any, text []byte) {
	t.Helper()
	hash := r["unihash"].(string)
	put(t, dir, filepath.Join(hash[:2], fmt.Sprintf("%s.%s.%s.json", r["recipe"], r["task"], hash)), text)
}

const gitsmApp = "gitsm://git.example.com/team/app.git;protocol=https;branch=main"

// TestDeriveByRecords: what siginfo files leave open a record answers, and what they say it cannot take away.
func TestDeriveByRecords(t *testing.T) {
	const all = "app compile,fetch,populate_sysroot,recipe_qa"
	local := func(srcURI string) []task {
		tasks := chain("app", "1", srcURI, rev1)
		tasks[1].files = [][]string{{"fix.patch", strings.Repeat("a", 64)}}
		return tasks
	}
	layer := []any{map[string]any{"name": "meta-acme", "url": "https://git.example.com/team/meta-acme.git", "rev": rev2, "dirty": false}}
	cached, _ := noexec("app", "1", git("team/app"), rev1)
	tests := []struct {
		name   string
		tasks  []task
		change func(m map[string]any)
		opt    DeriveOptions
		want   map[string]string
	}{
		{
			name: "submodules", tasks: chain("app", "1", gitsmApp, rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["submodules"] = []any{map[string]any{"url": "https://git.example.com/team/inner.git", "rev": rev2}}
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 team/inner@2222 | team/app@1111 team/inner@2222"},
		},
		{
			name: "a gitsm entry without submodules has none", tasks: chain("app", "1", gitsmApp, rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["submodules"] = []any{}
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 | team/app@1111"},
		},
		{
			name: "submodules that the record does not know stay unresolved", tasks: chain("app", "1", gitsmApp, rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["unknown"] = "its clone is gone"
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 ?submodules of app are not listed | team/app@1111 ?submodules of app are not listed"},
		},
		{
			name: "submodules of another revision are not those", tasks: chain("app", "1", gitsmApp, rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev2)
				e["submodules"] = []any{}
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 team/app@2222 ?submodules of app are not listed | team/app@1111 team/app@2222 ?submodules of app are not listed"},
		},
		{
			name: "the layer of a local file", tasks: local(git("team/app") + " file://fix.patch"),
			change: func(m map[string]any) {
				m["sources"] = []any{recordEntryOf(git("team/app"), rev1)}
				m["layers"], m["files"] = layer, []any{map[string]any{"name": "fix.patch", "layer": 0}}
			},
			want: map[string]string{all: "team/app@1111 team/meta-acme@2222 | team/app@1111 team/meta-acme@2222"},
		},
		{
			name: "a local file of which the record knows no layer", tasks: local(git("team/app") + " file://fix.patch"),
			change: func(m map[string]any) {
				m["files"] = []any{map[string]any{"name": "fix.patch", "unknown": "no repository"}}
			},
			opt:  DeriveOptions{Layers: []Layer{{Source: source.ParseClone("https://git.example.com/team/given.git", rev2)}}},
			want: map[string]string{all: "team/app@1111 team/given@2222 | team/app@1111 team/given@2222"},
		},
		{
			name: "a local file that the record does not name", tasks: local(git("team/app") + " file://fix.patch"),
			change: func(m map[string]any) {
				m["layers"], m["files"] = layer, []any{map[string]any{"name": "other.patch", "layer": 0}}
			},
			want: map[string]string{all: "team/app@1111 team/meta-acme@2222 ?local files of app come from a layer that is not given | team/app@1111 team/meta-acme@2222 ?local files of app come from a layer that is not given"},
		},
		{
			name: "inline Python, with all other entries recorded", tasks: chain("app", "1", git("team/app")+" ${@more(d)}", rev1+" "+rev2),
			change: func(m map[string]any) {
				m["sources"] = []any{recordEntryOf(git("team/app"), rev1), recordEntryOf(git("team/more"), rev2)}
			},
			want: map[string]string{all: "team/app team/app@1111 team/more@2222 | team/app team/app@1111 team/more@2222"},
		},
		{
			name: "inline Python that is a gitsm entry, with submodules", tasks: chain("app", "1", "gitsm://${@host(d)}/team/app.git;protocol=https", rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["submodules"] = []any{map[string]any{"url": "https://git.example.com/team/inner.git", "rev": rev2}}
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 team/inner@2222 | team/app@1111 team/inner@2222"},
		},
		{
			name: "inline Python that is a gitsm entry, and the submodules are not known", tasks: chain("app", "1", "gitsm://${@host(d)}/team/app.git;protocol=https", rev1),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["unknown"] = "its clone is gone"
				m["sources"] = []any{e}
			},
			want: map[string]string{all: "team/app@1111 ?SRC_URI entry 1 of app needs inline Python, which only BitBake can evaluate ?submodules of app are not listed | team/app@1111 ?SRC_URI entry 1 of app needs inline Python, which only BitBake can evaluate ?submodules of app are not listed"},
		},
		{
			name: "a record that lacks an entry of a recipe with local files", tasks: local(git("team/app") + " file://fix.patch file://more.patch"),
			change: func(m map[string]any) {
				m["sources"] = []any{recordEntryOf(git("team/app"), rev1)}
				m["layers"], m["files"] = layer, []any{map[string]any{"name": "fix.patch", "layer": 0}, map[string]any{"name": "x.patch", "layer": 0}}
			},
			want: map[string]string{all: "team/app@1111 team/meta-acme@2222 ?local files of app come from a layer that is not given | team/app@1111 team/meta-acme@2222 ?local files of app come from a layer that is not given"},
		},
		{
			name: "inline Python that is a local file, and its layer is not known", tasks: chain("app", "1", git("team/app")+" ${@patch(d)}", rev1),
			change: func(m map[string]any) {
				m["sources"] = []any{recordEntryOf(git("team/app"), rev1)}
				m["files"] = []any{map[string]any{"name": "fix.patch", "unknown": "no repository"}}
			},
			want: map[string]string{all: "team/app@1111 ?SRC_URI entry 2 of app needs inline Python, which only BitBake can evaluate | team/app@1111 ?SRC_URI entry 2 of app needs inline Python, which only BitBake can evaluate"},
		},
		{
			name: "a noexec task on the way to do_fetch, and what the record does not know", tasks: slices.Concat(chain("lib", "2", git("pub/lib"), rev2), cached),
			change: func(m map[string]any) {
				e := recordEntryOf(gitsmApp, rev1)
				e["unknown"] = "its clone is gone"
				m["sources"] = []any{e}
				m["files"] = []any{map[string]any{"name": "fix.patch", "unknown": "no repository"}}
			},
			want: map[string]string{
				"app fetch,recipe_qa":                 "team/app@1111 | team/app@1111",
				"app populate_sysroot":                "team/app@1111 ?local files of app: no repository ?submodules of app are not listed | team/app@1111 ?local files of app: no repository ?submodules of app are not listed",
				strings.Replace(all, "app", "lib", 1): "pub/lib@2222 | pub/lib@2222",
			},
		},
		{
			name: "what the cache has nothing of is known by its record alone", tasks: chain("user", "3", git("pub/user"), rev1, "app:populate_sysroot=s1"),
			change: func(m map[string]any) {
				m["tree"] = map[string]any{"url": "https://git.example.com/team/app.git", "rev": rev2}
			},
			want: map[string]string{strings.Replace(all, "app", "user", 1): "pub/user@1111 | pub/user@1111 team/app@2222"},
		},
		{
			name: "inline Python, and fewer entries recorded", tasks: chain("app", "1", git("team/app")+" ${@more(d)}", rev1+" "+rev2),
			change: func(m map[string]any) { m["sources"] = []any{recordEntryOf(git("team/app"), "")} },
			want:   map[string]string{all: "team/app ?SRC_URI entry 2 of app needs inline Python, which only BitBake can evaluate | team/app ?SRC_URI entry 2 of app needs inline Python, which only BitBake can evaluate"},
		},
		{
			name: "a record that names other sources adds them and hides none", tasks: chain("app", "1", git("team/app"), rev1),
			change: func(m map[string]any) { m["sources"] = []any{recordEntryOf(git("pub/harmless"), rev2)} },
			want:   map[string]string{all: "pub/harmless@2222 team/app@1111 | pub/harmless@2222 team/app@1111"},
		},
		{
			name: "an empty record hides nothing", tasks: chain("app", "1", git("team/app"), rev1),
			want: map[string]string{all: "team/app@1111 | team/app@1111"},
		},
		{
			name: "externalsrc",
			tasks: []task{
				{recipe: "app", name: "compile", hash: "c1", vars: map[string]any{"EXTERNALSRC": "/home/me/app"}},
				{recipe: "app", name: "populate_sysroot", hash: "s1", payload: true, deps: []string{"app:compile=c1"}},
			},
			change: func(m map[string]any) {
				m["tree"] = map[string]any{"url": "https://git.example.com/team/app.git", "rev": rev1, "dirty": true}
			},
			want: map[string]string{"app compile,populate_sysroot": "team/app@1111 | team/app@1111"},
		},
		{
			name: "a noexec task on the way to do_fetch", tasks: slices.Concat(chain("lib", "2", git("pub/lib"), rev2), cached),
			change: func(m map[string]any) {
				m["sources"] = []any{recordEntryOf(git("team/app"), rev1)}
				m["inputs"] = []any{map[string]any{"recipe": "lib", "task": "do_populate_sysroot", "unihash": hash64("s2")}}
			},
			want: map[string]string{
				"app fetch,recipe_qa":                 "team/app@1111 | team/app@1111",
				"app populate_sysroot":                "team/app@1111 | pub/lib@2222 team/app@1111",
				strings.Replace(all, "app", "lib", 1): "pub/lib@2222 | pub/lib@2222",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.opt.Records = []string{recordsOf(t, recordFor("app", "populate_sysroot", "s1", tt.change))}
			if diff := gocmp.Diff(told{Builds: tt.want, Underived: map[string]string{}}, derived(t, cacheOf(t, tt.tasks...), tt.opt)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRecordsNeverWiden: whatever a record says, every source that is found without it is there with it, save those of type
// unresolvable.
func TestRecordsNeverWiden(t *testing.T) {
	cache := cacheOf(t, slices.Concat(chain("lib", "2", git("pub/lib"), rev2), chain("app", "1", git("team/app")+" "+git("team/more"), rev1+" "+rev2, "lib:populate_sysroot=s2"))...)
	for i, change := range []func(m map[string]any){
		nil,
		func(m map[string]any) { m["sources"] = []any{recordEntryOf(git("pub/x"), rev1)} },
		func(m map[string]any) {
			m["tree"] = map[string]any{"url": "https://git.example.com/pub/x.git", "rev": rev1}
		},
		func(m map[string]any) {
			m["inputs"] = []any{map[string]any{"recipe": "lib", "task": "do_populate_sysroot", "unihash": hash64("s2")}}
		},
	} {
		opt := DeriveOptions{Records: []string{recordsOf(t, recordFor("app", "populate_sysroot", "s1", change), recordFor("app", "recipe_qa", "q1", change))}}
		d, err := Derive(t.Context(), cache, opt)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(d.Builds, func(b Build) bool { return b.Recipe == "app" })
		for _, want := range []string{"team/app@1111", "team/more@2222"} {
			if !strings.Contains(short(d.Builds[at].Sources), want) {
				t.Errorf("%d: no %s in %s", i, want, short(d.Builds[at].Sources))
			}
		}
		noted := slices.ContainsFunc(d.Notes, func(p Problem) bool {
			return strings.Contains(p.Reason, "the record lacks git+git.example.com/team/app@")
		})
		if !noted {
			t.Errorf("%d: it is not said that the record lacks a source: %v", i, d.Notes)
		}
	}
}

// TestRecordsIgnored: a record that is of another task than its name and the object's say, or of another build, or none at all,
// changes nothing and is mentioned.
func TestRecordsIgnored(t *testing.T) {
	lie := func(member string, value any) func(m map[string]any) {
		return func(m map[string]any) {
			m["sources"] = []any{recordEntryOf(git("pub/harmless"), rev2)}
			m[member] = value
		}
	}
	for _, tt := range []struct {
		name, note string
		change     func(m map[string]any)
		text       string // in place of the record
	}{
		{name: "another recipe", change: lie("recipe", "other"), note: "it is of another task than its name says"},
		{name: "another task", change: lie("task", "do_package"), note: "it is of another task than its name says"},
		{name: "another hash", change: lie("unihash", hash64("s9")), note: "it is of another task than its name says"},
		{name: "another build", change: lie("taskhash", hash64("s9")), note: "its siginfo is of another build, of equivalent output"},
		{name: "another version", change: lie("version", 2), note: "which is all that this program reads"},
		{name: "an unknown member", change: lie("surprise", 1), note: "it is no record"},
		{name: "a member in other case", text: `{"Version":1}`, note: "it is no record"},
		{name: "a member twice", text: `{"version":1,"version":1}`, note: "it is no record"},
		{name: "nothing", text: "", note: "it is no record"},
		{name: "too large", text: strings.Repeat(" ", maxRecord+1), note: "it is larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, honest := t.TempDir(), recordFor("app", "populate_sysroot", "s1", nil)
			text, err := json.Marshal(recordFor("app", "populate_sysroot", "s1", tt.change))
			if err != nil {
				t.Fatal(err)
			}
			if tt.change == nil {
				text = []byte(tt.text)
			}
			putRecord(t, dir, honest, text)
			d, err := Derive(t.Context(), cacheOf(t, chain("app", "1", git("team/app"), rev1)...), DeriveOptions{Records: []string{dir}})
			if err != nil {
				t.Fatal(err)
			}
			if got := short(d.Builds[0].Sources); got != "team/app@1111" {
				t.Errorf("built from %s", got)
			}
			if !slices.ContainsFunc(d.Notes, func(p Problem) bool { return strings.Contains(p.Reason, tt.note) }) {
				t.Errorf("notes %v, want one that says %q", d.Notes, tt.note)
			}
		})
	}
}

// TestRecordsOfEquivalentBuilds: when another build had the same output later, its record has taken the name of the first one's, which is
// still found by its task hash.
func TestRecordsOfEquivalentBuilds(t *testing.T) {
	dir := t.TempDir()
	first := recordFor("app", "populate_sysroot", "s1", func(m map[string]any) { m["sources"] = []any{recordEntryOf(git("team/first"), rev1)} })
	later := recordFor("app", "populate_sysroot", "s1", func(m map[string]any) {
		m["sources"], m["taskhash"] = []any{recordEntryOf(git("team/later"), rev2)}, hash64("s9")
	})
	for _, r := range []map[string]any{first, later} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		putRecord(t, dir, r, text)
		if r["taskhash"] == hash64("s1") { // as lychgate.bbclass does before the later one
			from := filepath.Join(dir, hash64("s1")[:2], "app.do_populate_sysroot."+hash64("s1"))
			if err := os.Rename(from+".json", from+"."+hash64("s1")+".json"); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := Derive(t.Context(), cacheOf(t, chain("app", "1", git("team/app"), rev1)...), DeriveOptions{Records: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if got := short(d.Builds[0].Sources); !strings.Contains(got, "team/first@1111") || strings.Contains(got, "later") {
		t.Errorf("built from %s", got)
	}
}

// TestRecordFiles: links that lead out and pipes are not followed or waited for, and a directory that is not there is an error.
func TestRecordFiles(t *testing.T) {
	cache := cacheOf(t, chain("app", "1", git("team/app"), rev1)...)
	honest := recordFor("app", "populate_sysroot", "s1", func(m map[string]any) { m["sources"] = []any{recordEntryOf(git("pub/x"), rev2)} })
	outside, name := recordsOf(t, honest), filepath.Join(hash64("s1")[:2], "app.do_populate_sysroot."+hash64("s1")+".json")
	for what, make := range map[string]func(file string) error{
		"link": func(file string) error { return os.Symlink(filepath.Join(outside, name), file) },
		"pipe": func(file string) error { return syscall.Mkfifo(file, 0o600) },
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), make(file)); err != nil {
			t.Fatal(err)
		}
		d, err := Derive(t.Context(), cache, DeriveOptions{Records: []string{dir}})
		if err != nil || short(d.Builds[0].Sources) != "team/app@1111" {
			t.Errorf("%s: %v, %+v", what, err, d)
		}
	}
	if _, err := Derive(t.Context(), cache, DeriveOptions{Records: []string{filepath.Join(t.TempDir(), "none")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// TestPushByRecords: a statement names the job that the records name, and the report says what became of each recipe.
func TestPushByRecords(t *testing.T) {
	g, cache := newFakeGate(t), twoRecipes(t)
	c, _ := g.client()
	opt := g.options(cache)
	opt.RecordedJob = true
	opt.Derive.Records = []string{recordsOf(t, recordFor("app", "populate_sysroot", "s2", func(m map[string]any) {
		m["sources"] = []any{recordEntryOf(git("team/app"), rev2)}
		m["ci"] = map[string]any{"builder": "https://gitlab.example.com/runner", "run": "https://gitlab.example.com/jobs/7"}
	}))}
	r := mustPush(t, c, opt)
	jobs := map[string]string{}
	for _, s := range g.statements {
		jobs[s.Recipe] = s.Builder + " " + s.Invocation
	}
	want := map[string]string{
		"app": "https://gitlab.example.com/runner https://gitlab.example.com/jobs/7",
		"lib": "https://ci.example.com/builder https://ci.example.com/run/1",
	}
	if diff := gocmp.Diff(want, jobs); diff != "" {
		t.Error(diff)
	}
	for i, name := range []string{"app", "lib"} {
		if got := r.Recipes[i]; got.Recipe != name || got.Objects != 6 || got.Stored != 6 || got.Sources != 1 || got.Bytes <= 0 || got.Skipped+got.Kept+got.Confirmed+got.Refused != 0 {
			t.Errorf("report %+v", got)
		}
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "app: 6 objects, ") || !strings.Contains(text.String(), " 1 sources: 6 stored, 0 confirmed, 0 kept, 0 already there, 0 refused\n") {
		t.Errorf("%v: %s", err, text.String())
	}

	opt.RecordedJob, opt.Again = false, true
	mustPush(t, c, opt)
	if last := g.statements[len(g.statements)-1]; last.Builder != "https://ci.example.com/builder" {
		t.Errorf("a builder that was given is not named: %s", last.Builder)
	}
}

// FuzzRecord: whatever a record holds, what is understood of it is in the form that a statement takes.
func FuzzRecord(f *testing.F) {
	for _, change := range []func(m map[string]any){
		nil,
		func(m map[string]any) {
			e := recordEntryOf(gitsmApp, rev1)
			e["submodules"] = []any{map[string]any{"url": "https://u:p@git.example.com/a.git", "rev": rev2}, map[string]any{"url": "git@h:x", "rev": ""}}
			m["sources"] = []any{e, recordEntryOf("http://example.com/x?y", "")}
			m["layers"] = []any{map[string]any{"name": "a", "url": "../x", "rev": "", "dirty": true}, map[string]any{"name": "b", "unknown": "c\x1b"}}
			m["files"] = []any{map[string]any{"name": "f", "layer": 0}, map[string]any{"name": "g", "layer": 1}, map[string]any{"name": "h", "unknown": "\u202e"}}
			m["tree"] = map[string]any{"url": "ssh://git@h/x", "rev": rev1}
			m["inputs"] = []any{map[string]any{"recipe": "b", "task": "do_x", "unihash": hash64("1")}}
			m["ci"] = map[string]any{"builder": "b", "run": "r"}
		},
	} {
		text, err := json.Marshal(recordFor("app", "package", "s1", change))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRecord(text)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("%v is no errRecord", err)
			}
			return
		}
		for _, s := range append(r.sources(), source.NewSet(r.entries).Sources()...) {
			if err := s.Check(); err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}
		for _, file := range r.files {
			if err := file.source.Check(); err != nil {
				t.Errorf("%v: %v", file.source, err)
			}
		}
		for _, in := range r.inputs {
			if in.recipe == r.key.recipe || !isHash(in.hash) {
				t.Errorf("input %v", in)
			}
		}
		s := provenance.Statement{Zone: "main", Audience: "a", Builder: cmp.Or(r.ci.Builder, "b"), Invocation: r.ci.Run, IssuedAt: time.Unix(0, 0)}
		if _, err := s.Encode(); err == nil || !strings.Contains(err.Error(), "no subjects") {
			t.Errorf("its job cannot stand in a statement: %v", err)
		}
	})
}
