package client

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// stampName is where BitBake writes the signature of a task.
func stampName(k task) string {
	return filepath.Join("x86_64-linux", k.recipe, "1.0-r0.do_"+k.name+".sigdata."+hash64(k.hash))
}

// stampsOf writes the signatures of tasks as "bitbake -S none" does.
func stampsOf(t testing.TB, tasks ...task) string {
	t.Helper()
	dir := t.TempDir()
	for _, k := range tasks {
		put(t, dir, stampName(k), k.siginfo(t))
	}
	return dir
}

// noexec is a recipe whose do_compile and do_configure are noexec, in what leaves a siginfo and what does not.
func noexec(recipe, id, srcURI, revs string, uses ...string) (cached, silent []task) {
	all := chain(recipe, id, srcURI, revs)
	compile := all[2]
	compile.deps = []string{recipe + ":configure=g" + id}
	configure := task{recipe: recipe, name: "configure", hash: "g" + id, deps: append([]string{recipe + ":fetch=f" + id}, uses...)}
	return slices.Delete(all, 2, 3), []task{compile, configure}
}

func derived(t *testing.T, cache Cache, opt DeriveOptions) told {
	t.Helper()
	d, err := Derive(t.Context(), cache, opt)
	if err != nil {
		t.Fatal(err)
	}
	covered(t, d)
	return tell(d)
}

// TestStamps walks over tasks that leave no siginfo in the cache.
func TestStamps(t *testing.T) {
	blob, silent := noexec("blob", "1", git("team/blob"), rev1, "lib:populate_sysroot=s2")
	cache := cacheOf(t, slices.Concat(blob, chain("lib", "2", git("pub/lib"), rev2))...)
	lib := map[string]string{"lib compile,fetch,populate_sysroot,recipe_qa": "pub/lib@2222 | pub/lib@2222"}
	without := told{
		Builds: map[string]string{
			"blob fetch,recipe_qa":                         "team/blob@1111 | team/blob@1111",
			"lib compile,fetch,populate_sysroot,recipe_qa": lib["lib compile,fetch,populate_sysroot,recipe_qa"],
		},
		Underived: map[string]string{"blob_populate_sysroot.tar.zst": "the signature of blob:do_compile (hash 633163316331...)" + lost},
	}
	if diff := gocmp.Diff(without, derived(t, cache, DeriveOptions{})); diff != "" {
		t.Errorf("without stamps: %s", diff)
	}
	with := told{
		Builds: map[string]string{
			"blob fetch,populate_sysroot,recipe_qa":        "team/blob@1111 | pub/lib@2222 team/blob@1111",
			"lib compile,fetch,populate_sysroot,recipe_qa": lib["lib compile,fetch,populate_sysroot,recipe_qa"],
		},
		Underived: map[string]string{},
	}
	whole := stampsOf(t, silent...)
	if diff := gocmp.Diff(with, derived(t, cache, DeriveOptions{Stamps: []string{whole}})); diff != "" {
		t.Errorf("with stamps: %s", diff)
	}
	parts := []string{stampsOf(t, silent[0]), stampsOf(t, silent[1])}
	if diff := gocmp.Diff(with, derived(t, cache, DeriveOptions{Stamps: parts})); diff != "" {
		t.Errorf("in two directories: %s", diff)
	}
	got := derived(t, cache, DeriveOptions{Stamps: parts[:1]})
	if want := "the signature of blob:do_configure (hash 673167316731...) is not in the cache, nor among the stamps: run bitbake -S none TARGET where it was built, with the same configuration"; got.Underived["blob_populate_sysroot.tar.zst"] != want {
		t.Errorf("with half of the stamps: %v", got.Underived)
	}
}

// TestStampsOfDownloads: what was downloaded without the siginfo files on the way to do_fetch can be derived from stamps.
func TestStampsOfDownloads(t *testing.T) {
	all := slices.Concat(chain("lib", "1", git("pub/lib"), rev1), chain("app", "2", git("team/app"), rev2, "lib:populate_sysroot=s1"))
	cache := cacheOf(t, all[0], all[3], all[4], all[5], all[6], all[7])
	got := derived(t, cache, DeriveOptions{Stamps: []string{stampsOf(t, all...)}})
	want := told{Builds: map[string]string{
		"lib populate_sysroot,recipe_qa":               "pub/lib@1111 | pub/lib@1111",
		"app compile,fetch,populate_sysroot,recipe_qa": "team/app@2222 | pub/lib@1111 team/app@2222",
	}, Underived: map[string]string{}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestStampsGiveWay: the cache's own siginfo counts, and signatures that nothing refers to add nothing.
func TestStampsGiveWay(t *testing.T) {
	all := chain("app", "1", git("team/app"), rev1)
	other := chain("app", "1", git("team/other"), rev2)
	older := chain("app", "9", git("team/older"), rev2)
	older[1].deps = all[1].deps // the same do_recipe_qa
	got := derived(t, cacheOf(t, all...), DeriveOptions{Stamps: []string{stampsOf(t, slices.Concat(other, older)...)}})
	want := told{Builds: map[string]string{"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111"}, Underived: map[string]string{}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestStampsNeedVariables: what SRC_URI refers to may stand in a signature file only.
func TestStampsNeedVariables(t *testing.T) {
	cached, silent := noexec("blob", "1", "git://git.example.com/team/${NAME}", rev1)
	silent[1].vars = map[string]any{"NAME": "blob"}
	got := derived(t, cacheOf(t, cached...), DeriveOptions{Stamps: []string{stampsOf(t, silent...)}})
	if want := "team/blob@1111 | team/blob@1111"; got.Builds["blob fetch,populate_sysroot,recipe_qa"] != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestStampsOfSharedTrees: recipes that share a source tree have their stamps in a common directory, under no recipe's name.
func TestStampsOfSharedTrees(t *testing.T) {
	compile := task{recipe: "gcc-cross", name: "compile", hash: "c1", payload: true, deps: []string{"gcc-source-14:unpack=u1"}}
	unpack := task{recipe: "gcc-source-14", name: "unpack", hash: "u1", deps: []string{"gcc-source-14:fetch=f1"}}
	fetch := task{recipe: "gcc-source-14", name: "fetch", hash: "f1", vars: map[string]any{"SRC_URI": git("gnu/gcc"), fetchedRevisions: rev1}}
	dir := t.TempDir()
	for _, k := range []task{unpack, fetch} {
		put(t, dir, "work-shared/gcc-14.2.0-r0.do_"+k.name+".sigdata."+hash64(k.hash), k.siginfo(t))
	}
	got := derived(t, cacheOf(t, compile), DeriveOptions{Stamps: []string{dir}})
	if want := "gnu/gcc@1111 | gnu/gcc@1111"; got.Builds["gcc-cross compile"] != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestHostileStamps has files among the stamps that are not, or not what their names say.
func TestHostileStamps(t *testing.T) {
	cached, silent := noexec("blob", "1", git("team/blob"), rev1)
	cache := cacheOf(t, cached...)
	liar := silent[0]
	liar.says = "fetch"
	equivalent := silent[0]
	equivalent.hash = "other"
	outside := t.TempDir()
	good := silent[0].siginfo(t)
	put(t, outside, "sig", good)
	link := func(t *testing.T, target, name string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	name := stampName(silent[0])
	base := strings.TrimSuffix(name, hash64(silent[0].hash))
	for what, lay := range map[string]func(t *testing.T, dir string){
		"nothing":                    func(*testing.T, string) {},
		"another task":               func(t *testing.T, dir string) { put(t, dir, name, liar.siginfo(t)) },
		"equivalent output":          func(t *testing.T, dir string) { put(t, dir, name, equivalent.siginfo(t)) },
		"no siginfo":                 func(t *testing.T, dir string) { put(t, dir, name, []byte("x")) },
		"a pickle":                   func(t *testing.T, dir string) { put(t, dir, name, []byte("\x80\x04x")) },
		"empty":                      func(t *testing.T, dir string) { put(t, dir, name, nil) },
		"huge":                       func(t *testing.T, dir string) { put(t, dir, name, make([]byte, maxSiginfo+1)) },
		"a link out":                 func(t *testing.T, dir string) { link(t, filepath.Join(outside, "sig"), filepath.Join(dir, name)) },
		"a directory that is a link": func(t *testing.T, dir string) { link(t, outside, filepath.Join(dir, "x")) },
		"a directory":                func(t *testing.T, dir string) { put(t, dir, name+"/x", good) },
		"a pipe": func(t *testing.T, dir string) {
			put(t, dir, name+".x", nil) // makes the directory
			if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"setscene": func(t *testing.T, dir string) {
			put(t, dir, strings.Replace(name, ".sigdata", "_setscene.sigdata", 1), good)
		},
		"sigbasedata":    func(t *testing.T, dir string) { put(t, dir, strings.Replace(name, "sigdata", "sigbasedata", 1), good) },
		"a stamp":        func(t *testing.T, dir string) { put(t, dir, strings.Replace(name, "sigdata.", "", 1), good) },
		"a taint":        func(t *testing.T, dir string) { put(t, dir, name+".taint", good) },
		"short hash":     func(t *testing.T, dir string) { put(t, dir, name[:len(name)-1], good) },
		"upper case":     func(t *testing.T, dir string) { put(t, dir, base+strings.ToUpper(hash64("aJ")), good) },
		"another's hash": func(t *testing.T, dir string) { put(t, dir, base+hash64("zz"), good) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := stampsOf(t, silent[1]) // one that is good
			lay(t, dir)
			got := derived(t, cache, DeriveOptions{Stamps: []string{dir}})
			if len(got.Underived) != 1 || got.Builds["blob fetch,recipe_qa"] != "team/blob@1111 | team/blob@1111" {
				t.Errorf("got %v", got)
			}
		})
	}
	t.Run("a link within", func(t *testing.T) {
		dir := stampsOf(t, silent[1])
		put(t, dir, "elsewhere/sig", good)
		link(t, "../../elsewhere/sig", filepath.Join(dir, name))
		if got := derived(t, cache, DeriveOptions{Stamps: []string{dir}}); len(got.Underived) != 0 {
			t.Errorf("got %v", got)
		}
	})
}

// TestNoStamps: a directory that cannot help is a mistake.
func TestNoStamps(t *testing.T) {
	cache := cacheOf(t, chain("app", "1", git("team/app"), rev1)...)
	file := filepath.Join(t.TempDir(), "file")
	put(t, filepath.Dir(file), "file", []byte("x"))
	for dir, want := range map[string]string{
		t.TempDir(): "holds no signature file: run bitbake -S none TARGET", file + "/nowhere": "not a directory", file: "not a directory",
	} {
		good := stampsOf(t, task{recipe: "x", name: "fetch", hash: "f"})
		if _, err := Derive(t.Context(), cache, DeriveOptions{Stamps: []string{good, dir}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
