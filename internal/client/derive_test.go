package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/source"
)

// memCache is a cache in memory, made by a test.
type memCache struct {
	files map[string][]byte
	// now may replace what the nth opening of a name sees, counted from 1; nil: it does not.
	now func(name string, nth int, content []byte) []byte

	mu     sync.Mutex // guards opened
	opened map[string]int
}

func (m *memCache) List(context.Context) (*Listing, error) {
	l := newLister()
	for name, content := range m.files {
		l.add(name, int64(len(content)))
	}
	return l.listing(), nil
}

func (m *memCache) Open(_ context.Context, name string, off int64) (io.ReadCloser, error) {
	content, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened[name]++
	if m.now != nil {
		content = m.now(name, m.opened[name], content)
	}
	return io.NopCloser(bytes.NewReader(content[min(off, int64(len(content))):])), nil
}

// task is one task of a synthetic build.
type task struct {
	recipe, name string
	hash         string // expanded to 64 digits
	deps         []string
	vars         map[string]any
	files        [][]string
	payload      bool // it has an archive
	noSiginfo    bool
	nameRecipe   string // the recipe in the object's name, when it differs
	says         string // the task in the siginfo, when it differs
}

func hash64(short string) string {
	return strings.Repeat(fmt.Sprintf("%x", short), 64)[:64]
}

func objectName(recipe, taskName, hash string) string {
	h := hash64(hash)
	return fmt.Sprintf("%s/%s/sstate:%s:x86_64-linux:1.0:r0:x86_64:14:%s_%s.tar.zst", h[:2], h[2:4], recipe, h, taskName)
}

func pack(t testing.TB, text []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(text, nil)
}

// cacheOf writes the siginfos of tasks as BitBake would. A dependency is "recipe:task=hash".
func cacheOf(t testing.TB, tasks ...task) *memCache {
	t.Helper()
	m := &memCache{files: map[string][]byte{}, opened: map[string]int{}}
	for _, k := range tasks {
		recipe := cmp.Or(k.nameRecipe, k.recipe)
		name := objectName(recipe, k.name, k.hash)
		if k.payload {
			m.files[name] = []byte("archive of " + name)
		}
		if !k.noSiginfo {
			m.files[name+".siginfo"] = k.siginfo(t)
		}
	}
	return m
}

// siginfo is what BitBake notes of a task.
func (k task) siginfo(t testing.TB) []byte {
	t.Helper()
	deps, hashes := []string{}, map[string]string{}
	for _, d := range k.deps {
		who, h, _ := strings.Cut(d, "=")
		at := strings.LastIndex(who, ":")
		id := who[:at] + ":do_" + who[at+1:]
		deps = append(deps, id)
		hashes[id] = hash64(h)
	}
	if k.vars == nil {
		k.vars = map[string]any{}
	}
	if k.files == nil {
		k.files = [][]string{}
	}
	text, err := json.Marshal(map[string]any{
		"task": "do_" + cmp.Or(k.says, k.name), "taskhash": hash64(k.hash), "unihash": hash64(k.hash), "basehash": hash64(k.hash),
		"runtaskdeps": deps, "runtaskhashes": hashes, "varvals": k.vars, "file_checksum_values": k.files,
	})
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, text)
}

// chain is a whole recipe: recipe_qa before fetch, compile after it, and a sysroot that others use.
func chain(recipe, id, srcURI, revs string, uses ...string) []task {
	return []task{
		{recipe: recipe, name: "recipe_qa", hash: "q" + id, payload: true, vars: map[string]any{"SRC_URI": srcURI}},
		{recipe: recipe, name: "fetch", hash: "f" + id, deps: []string{recipe + ":recipe_qa=q" + id}, vars: map[string]any{"SRC_URI": srcURI, fetchedRevisions: revs, fetchedRevisions + "[func]": 1}},
		{recipe: recipe, name: "compile", hash: "c" + id, deps: append([]string{recipe + ":fetch=f" + id}, uses...)},
		{recipe: recipe, name: "populate_sysroot", hash: "s" + id, payload: true, deps: []string{recipe + ":compile=c" + id}},
	}
}

const (
	rev1 = "1111111111111111111111111111111111111111"
	rev2 = "2222222222222222222222222222222222222222"
)

func git(path string) string {
	return "git://git.example.com/" + path + ".git;protocol=https;branch=main"
}

// told is a Derivation in a form that is easy to compare. "+RECIPE" is an input whose sources are left to the record.
type told struct {
	Builds    map[string]string // "recipe tasks": "direct | transitive"
	Underived map[string]string // object: reason
}

func tell(d *Derivation) told {
	out := told{map[string]string{}, map[string]string{}}
	for _, b := range d.Builds {
		var tasks []string
		for _, o := range b.Objects {
			if o.Ref.Part == artifact.Siginfo {
				tasks = append(tasks, o.Ref.Task)
			}
		}
		sort.Strings(tasks)
		text := short(b.Sources) + " | " + short(b.Inputs())
		for _, name := range b.Recorded {
			recipe := name[strings.Index(name, ":")+1:]
			text += " +" + recipe[:strings.Index(recipe, ":")]
		}
		out.Builds[b.Recipe+" "+strings.Join(tasks, ",")] = text
	}
	for _, p := range d.Underived {
		if strings.HasSuffix(p.Name, ".siginfo") || !slices.ContainsFunc(d.Underived, func(q Problem) bool { return q.Name == p.Name+".siginfo" }) {
			_, name, _ := strings.Cut(p.Name[strings.LastIndex(p.Name, ":"):], "_")
			out.Underived[p.Recipe+"_"+strings.TrimSuffix(name, ".siginfo")] = p.Reason
		}
	}
	return out
}

func short(list []source.Source) string {
	var out []string
	for _, s := range list {
		switch {
		case s.Type == source.Unresolvable:
			out = append(out, "?"+s.Reason)
		case s.Rev == "":
			out = append(out, s.Locator.Path)
		default:
			out = append(out, s.Locator.Path+"@"+s.Rev[:min(4, len(s.Rev))])
		}
	}
	return strings.Join(out, " ")
}

// lost ends the reason when a signature is missing.
const lost = " is not in the cache: a noexec task leaves none; run bitbake -S none TARGET and give --stamps tmp/stamps"

func TestDerive(t *testing.T) {
	tests := []struct {
		name  string
		tasks []task
		opt   DeriveOptions
		want  told
	}{
		{
			name: "own and transitive sources",
			tasks: slices.Concat(chain("lib", "1", git("pub/lib"), rev1),
				chain("app", "2", git("team/app"), rev2, "lib:populate_sysroot=s1")),
			want: told{Builds: map[string]string{
				"lib compile,fetch,populate_sysroot,recipe_qa": "pub/lib@1111 | pub/lib@1111",
				"app compile,fetch,populate_sysroot,recipe_qa": "team/app@2222 | pub/lib@1111 team/app@2222",
			}},
		},
		{
			name: "a multiconfig names the same tasks",
			tasks: slices.Concat(chain("lib", "1", git("pub/lib"), rev1),
				chain("app", "2", git("team/app"), rev2, "mc:board:lib:populate_sysroot=s1")),
			want: told{Builds: map[string]string{
				"lib compile,fetch,populate_sysroot,recipe_qa": "pub/lib@1111 | pub/lib@1111",
				"app compile,fetch,populate_sysroot,recipe_qa": "team/app@2222 | pub/lib@1111 team/app@2222",
			}},
		},
		{
			name: "two revisions that share recipe_qa stay apart, and recipe_qa has both",
			tasks: slices.Concat(chain("app", "1", git("team/app"), rev1),
				[]task{
					{recipe: "app", name: "fetch", hash: "f2", deps: []string{"app:recipe_qa=q1"}, vars: map[string]any{"SRC_URI": git("team/app"), fetchedRevisions: rev2}},
					{recipe: "app", name: "compile", hash: "c2", deps: []string{"app:fetch=f2"}},
				}),
			want: told{Builds: map[string]string{
				"app compile,fetch,populate_sysroot": "team/app@1111 | team/app@1111",
				"app compile,fetch":                  "team/app@2222 | team/app@2222",
				"app recipe_qa":                      "team/app@1111 team/app@2222 | team/app@1111 team/app@2222",
			}},
		},
		{
			name: "no sources at all, but inputs",
			tasks: slices.Concat(chain("lib", "1", git("pub/lib"), rev1), []task{
				{recipe: "image", name: "use", hash: "u1", deps: []string{"lib:populate_sysroot=s1"}},
				{recipe: "image", name: "recipe_qa", hash: "q9", payload: true, vars: map[string]any{"SRC_URI": ""}},
			}),
			want: told{Builds: map[string]string{
				"lib compile,fetch,populate_sysroot,recipe_qa": "pub/lib@1111 | pub/lib@1111",
				"image use":       " | pub/lib@1111",
				"image recipe_qa": " | ",
			}},
		},
		{
			name: "do_fetch is referred to and missing",
			tasks: []task{
				{recipe: "app", name: "compile", hash: "c1", deps: []string{"app:fetch=f1"}},
				{recipe: "app", name: "deploy", hash: "d1", payload: true, deps: []string{"app:compile=c1"}},
			},
			want: told{Underived: map[string]string{
				"app_compile.tar.zst": "the signature of app:do_fetch (hash 663166316631...)" + lost,
				"app_deploy.tar.zst":  "the signature of app:do_fetch (hash 663166316631...)" + lost,
			}},
		},
		{
			name: "the chain to do_fetch is broken",
			tasks: []task{
				{recipe: "app", name: "deploy", hash: "d1", payload: true, deps: []string{"app:compile=c1"}},
			},
			want: told{Underived: map[string]string{"app_deploy.tar.zst": "the signature of app:do_compile (hash 633163316331...)" + lost}},
		},
		{
			name: "recipe_qa alone, of a recipe that has sources",
			tasks: []task{
				{recipe: "app", name: "recipe_qa", hash: "q1", payload: true, vars: map[string]any{"SRC_URI": git("team/app")}},
			},
			want: told{Underived: map[string]string{"app_recipe_qa.tar.zst": "its recipe has an SRC_URI, but the siginfo of its do_fetch is not in the cache"}},
		},
		{
			name: "do_fetch had nothing to do",
			tasks: []task{
				{recipe: "group", name: "package", hash: "p1", payload: true, deps: []string{"group:fetch=f1"}},
				{recipe: "group", name: "populate_lic", hash: "l1", deps: []string{"group:package=p1"}, vars: map[string]any{"SRC_URI": ""}},
			},
			want: told{Builds: map[string]string{"group package,populate_lic": " | "}},
		},
		{
			name: "an archive without siginfo",
			tasks: slices.Concat(chain("app", "1", git("team/app"), rev1), []task{
				{recipe: "app", name: "deploy", hash: "d1", payload: true, noSiginfo: true},
			}),
			want: told{
				Builds:    map[string]string{"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111"},
				Underived: map[string]string{"app_deploy.tar.zst": "its siginfo is not in the cache"},
			},
		},
		{
			name: "a siginfo that describes another task",
			tasks: slices.Concat(chain("app", "1", git("team/app"), rev1), []task{
				{recipe: "app", name: "deploy", hash: "d1", says: "fetch", vars: map[string]any{"SRC_URI": git("pub/harmless")}},
			}),
			want: told{
				Builds:    map[string]string{"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111"},
				Underived: map[string]string{"app_deploy.tar.zst": "its siginfo is of no use: it describes do_fetch"},
			},
		},
		{
			name:  "an input that is missing",
			tasks: chain("app", "1", git("team/app"), rev1, "lib:populate_sysroot=s9"),
			want: told{Builds: map[string]string{
				"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111 ?sources of lib:do_populate_sysroot are unknown: its siginfo is not in the cache",
			}},
		},
		{
			name: "an input whose sources are unknown",
			tasks: slices.Concat(chain("app", "1", git("team/app"), rev1, "lib:deploy=d9"), []task{
				{recipe: "lib", name: "deploy", hash: "d9", deps: []string{"lib:fetch=f9"}},
			}),
			want: told{
				Builds: map[string]string{
					"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111 ?sources of lib:do_deploy are unknown: the signature of lib:do_fetch (hash 663966396639...) is not in the cache",
				},
				Underived: map[string]string{"lib_deploy.tar.zst": "the signature of lib:do_fetch (hash 663966396639...)" + lost},
			},
		},
		{
			name: "an input that was downloaded is left to the record, for all that rests on it",
			tasks: slices.Concat(chain("app", "1", git("team/app"), rev1, "lib:populate_sysroot=s9", "gone:deploy=d9"),
				chain("top", "2", git("team/top"), rev2, "app:populate_sysroot=s1"), []task{
					{recipe: "lib", name: "populate_sysroot", hash: "s9", payload: true, deps: []string{"lib:install=i9"}},
				}),
			want: told{
				Builds: map[string]string{
					"app compile,fetch,populate_sysroot,recipe_qa": "team/app@1111 | team/app@1111 ?sources of gone:do_deploy are unknown: its siginfo is not in the cache +lib",
					"top compile,fetch,populate_sysroot,recipe_qa": "team/top@2222 | team/app@1111 team/top@2222 ?sources of gone:do_deploy are unknown: its siginfo is not in the cache +lib",
				},
				Underived: map[string]string{"lib_populate_sysroot.tar.zst": "the signature of lib:do_install (hash 693969396939...)" + lost},
			},
		},
		{
			name: "recipes that use each other, and what was downloaded",
			tasks: slices.Concat(chain("a", "1", git("x/a"), rev1), chain("b", "2", git("x/b"), rev2), []task{
				{recipe: "a", name: "write", hash: "w1", deps: []string{"a:populate_sysroot=s1", "b:populate_sysroot=s2", "c:deploy=d3"}},
				{recipe: "b", name: "write", hash: "w2", deps: []string{"b:populate_sysroot=s2", "a:populate_sysroot=s1"}},
				{recipe: "c", name: "deploy", hash: "d3", payload: true, noSiginfo: true},
			}),
			want: told{
				Builds: map[string]string{
					"a compile,fetch,populate_sysroot,recipe_qa,write": "x/a@1111 | x/a@1111 x/b@2222 +c",
					"b compile,fetch,populate_sysroot,recipe_qa,write": "x/b@2222 | x/a@1111 x/b@2222 +c",
				},
				Underived: map[string]string{"c_deploy.tar.zst": "its siginfo is not in the cache"},
			},
		},
		{
			name: "a shared source tree, under a common name",
			tasks: []task{
				{recipe: "gcc-source-14", nameRecipe: "gcc", name: "fetch", hash: "f1", vars: map[string]any{"SRC_URI": git("gnu/gcc"), fetchedRevisions: rev1}},
				{recipe: "gcc-source-14", nameRecipe: "gcc", name: "unpack", hash: "u1", deps: []string{"gcc-source-14:fetch=f1"}},
				{recipe: "gcc-cross", name: "compile", hash: "c1", deps: []string{"gcc-source-14:unpack=u1", "gcc-cross:fetch=f9"}},
				{recipe: "gcc-cross", name: "populate_lic", hash: "l1", deps: []string{"gcc-cross:compile=c1"}, vars: map[string]any{"SRC_URI": ""}},
			},
			want: told{Builds: map[string]string{
				"gcc fetch,unpack":               "gnu/gcc@1111 | gnu/gcc@1111",
				"gcc-cross compile,populate_lic": "gnu/gcc@1111 | gnu/gcc@1111",
			}},
		},
		{
			name: "recipes that use each other",
			tasks: slices.Concat(chain("a", "1", git("x/a"), rev1), chain("b", "2", git("x/b"), rev2), []task{
				{recipe: "a", name: "write", hash: "w1", deps: []string{"a:populate_sysroot=s1", "b:populate_sysroot=s2"}},
				{recipe: "b", name: "write", hash: "w2", deps: []string{"b:populate_sysroot=s2", "a:populate_sysroot=s1"}},
			}),
			want: told{Builds: map[string]string{
				"a compile,fetch,populate_sysroot,recipe_qa,write": "x/a@1111 | x/a@1111 x/b@2222",
				"b compile,fetch,populate_sysroot,recipe_qa,write": "x/b@2222 | x/a@1111 x/b@2222",
			}},
		},
		{
			name: "a task that depends on itself",
			tasks: []task{
				{recipe: "app", name: "compile", hash: "c1", deps: []string{"app:install=i1", "app:fetch=f1"}},
				{recipe: "app", name: "install", hash: "i1", deps: []string{"app:compile=c1"}},
				{recipe: "app", name: "fetch", hash: "f1", vars: map[string]any{"SRC_URI": git("x/a"), fetchedRevisions: rev1}},
			},
			want: told{Underived: map[string]string{
				"app_compile.tar.zst": "the siginfo files contradict each other: a task depends on itself",
				"app_install.tar.zst": "the siginfo files contradict each other: a task depends on itself",
			}, Builds: map[string]string{"app fetch": "x/a@1111 | x/a@1111"}},
		},
		{
			name: "a circle through shared source trees",
			tasks: []task{
				{recipe: "a", name: "unpack", hash: "a1", deps: []string{"b:unpack=b1", "a:fetch=f1"}},
				{recipe: "b", name: "unpack", hash: "b1", deps: []string{"c:unpack=c1"}},
				{recipe: "c", name: "unpack", hash: "c1", deps: []string{"a:unpack=a1"}},
				{recipe: "d", name: "compile", hash: "d1", deps: []string{"c:unpack=c1"}},
				{recipe: "a", name: "fetch", hash: "f1", vars: map[string]any{"SRC_URI": git("x/a"), fetchedRevisions: rev1}},
			},
			want: told{Underived: map[string]string{
				"a_unpack.tar.zst":  "the siginfo files contradict each other: a task depends on itself",
				"b_unpack.tar.zst":  "the siginfo files contradict each other: a task depends on itself",
				"c_unpack.tar.zst":  "the siginfo files contradict each other: a task depends on itself",
				"d_compile.tar.zst": "the siginfo files contradict each other: a task depends on itself",
			}, Builds: map[string]string{"a fetch": "x/a@1111 | x/a@1111"}},
		},
		{
			name:  "submodules, not listed",
			tasks: chain("app", "1", "gitsm://git.example.com/x/a;protocol=https", rev1),
			want: told{Builds: map[string]string{
				"app compile,fetch,populate_sysroot,recipe_qa": "x/a@1111 ?submodules of app are not listed | x/a@1111 ?submodules of app are not listed",
			}},
		},
		{
			name:  "submodules, listed",
			tasks: chain("app", "1", "gitsm://git.example.com/x/a;protocol=https", rev1),
			opt:   DeriveOptions{Extra: map[string][]source.Source{"app": {source.Parse(git("x/sub"), rev2)}}},
			want: told{Builds: map[string]string{
				"app compile,fetch,populate_sysroot,recipe_qa": "x/a@1111 x/sub@2222 | x/a@1111 x/sub@2222",
			}},
		},
		{
			name: "an external tree",
			tasks: []task{
				{recipe: "app", name: "compile", hash: "c1", vars: map[string]any{"EXTERNALSRC": "/home/me/app"}},
			},
			want: told{Builds: map[string]string{
				"app compile": "?app is built from a directory (EXTERNALSRC) whose repository is not given | ?app is built from a directory (EXTERNALSRC) whose repository is not given",
			}},
		},
		{
			name: "local files, without and with a layer",
			tasks: slices.Concat(chain("app", "1", git("x/a")+" file://fix.patch", rev1), []task{
				{recipe: "cfg", name: "fetch", hash: "f7", vars: map[string]any{"SRC_URI": "file://a.cfg file://b.cfg"}, files: [][]string{{"meta-x/a.cfg", "1"}, {"meta-x/b.cfg", "2"}}},
			}),
			opt: DeriveOptions{Layers: []Layer{{PathPrefix: "meta-x/", Source: source.Parse(git("l/meta-x"), rev2)}}},
			want: told{Builds: map[string]string{
				"app compile,fetch,populate_sysroot,recipe_qa": "x/a@1111 ?local files of app come from a layer that is not given | x/a@1111 ?local files of app come from a layer that is not given",
				"cfg fetch": "l/meta-x@2222 | l/meta-x@2222",
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Derive(t.Context(), cacheOf(t, tt.tasks...), tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.Builds == nil {
				tt.want.Builds = map[string]string{}
			}
			if tt.want.Underived == nil {
				tt.want.Underived = map[string]string{}
			}
			if diff := gocmp.Diff(tt.want, tell(d)); diff != "" {
				t.Error(diff)
			}
			covered(t, d)
		})
	}
}

// covered checks that every object is in exactly one build or in Underived, and that builds come after what they used.
func covered(t *testing.T, d *Derivation) {
	t.Helper()
	seen := map[string]bool{}
	for i, b := range d.Builds {
		for _, o := range b.Objects {
			if seen[o.Name] {
				t.Errorf("%s is there twice", o.Name)
			}
			seen[o.Name] = true
		}
		for _, before := range b.After {
			if before >= i {
				t.Errorf("build %d comes after %d", i, before)
			}
		}
	}
	for _, p := range d.Underived {
		if seen[p.Name] || p.Reason == "" {
			t.Errorf("%s is there twice, or without a reason", p.Name)
		}
		seen[p.Name] = true
	}
	if len(seen) != d.Objects {
		t.Errorf("%d of %d objects are covered", len(seen), d.Objects)
	}
}

// TestLayerFiles attributes local files by name and checksum, as a siginfo holds them: without a directory.
func TestLayerFiles(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	put(t, ours, "recipes/app/files/fix.patch", []byte("ours"))
	put(t, theirs, "recipes/lib/fix.patch", []byte("theirs"))
	md5Ours, shaTheirs := fmt.Sprintf("%x", md5.Sum([]byte("ours"))), sum([]byte("theirs"))
	opt := DeriveOptions{Layers: []Layer{
		{PathPrefix: ours, Source: source.Parse(git("l/ours"), rev1)},
		{PathPrefix: theirs, Source: source.Parse(git("l/theirs"), rev2)},
	}}
	unknown := "?local files of app come from a layer that is not given"
	for want, files := range map[string][][]string{
		"l/ours@1111":               {{"fix.patch", md5Ours}},
		"l/theirs@2222":             {{"./fix.patch", shaTheirs}},
		"l/ours@1111 l/theirs@2222": {{"fix.patch", md5Ours}, {"fix.patch", shaTheirs}},
		unknown:                     {{"fix.patch", strings.Repeat("0", 64)}},
		"l/ours@1111 " + unknown:    {{"fix.patch", md5Ours}, {"other.patch", shaTheirs}},
	} {
		d, err := Derive(t.Context(), cacheOf(t, task{recipe: "app", name: "fetch", hash: "f1", files: files, vars: map[string]any{"SRC_URI": "file://fix.patch"}}), opt)
		if err != nil {
			t.Fatal(err)
		}
		if got := short(d.Builds[0].Sources); got != want {
			t.Errorf("%v: got %s, want %s", files, got, want)
		}
	}
}

func TestExpand(t *testing.T) {
	bomb := map[string]any{"SRC_URI": "git://h/${A0}"}
	for i := range 15 {
		bomb[fmt.Sprintf("A%d", i)] = strings.Repeat(fmt.Sprintf("${A%d}", i+1), 10)
	}
	bomb["A15"] = "x"
	tests := []struct {
		name  string
		vars  map[string]any
		other map[string]any // variables of the recipe's do_compile
		want  string
	}{
		{"plain", map[string]any{"SRC_URI": git("x/a"), fetchedRevisions: rev1}, nil, "x/a@1111"},
		{"variables", map[string]any{"SRC_URI": "git://${HOST}/${TEAM}/a;branch=${NOPE}", "HOST": "git.example.com", "TEAM": "${T}", "T": "x", fetchedRevisions: rev1}, nil, "x/a@1111"},
		{"from another siginfo", map[string]any{"SRC_URI": "git://git.example.com/x/a${V}", fetchedRevisions: rev1}, map[string]any{"V": "7"}, "x/a7@1111"},
		{"PN is in the name", map[string]any{"SRC_URI": "git://git.example.com/x/${PN}", "PN": "${@bb.parse}", fetchedRevisions: rev1}, nil, "x/app-native@1111"},
		{"BPN is computed", map[string]any{"SRC_URI": "git://git.example.com/x/${BPN}", "BPN": "${@oe.utils.prune_suffix(d.getVar('PN'), d.getVar('SPECIAL_PKGSUFFIX').split(), d)}", fetchedRevisions: rev1}, nil, "x/app@1111"},
		{"unknown variable", map[string]any{"SRC_URI": "git://git.example.com/${X}/a", fetchedRevisions: rev1}, nil, "?SRC_URI entry 1 of app-native needs ${X}, which no siginfo of the recipe holds"},
		{"inline Python", map[string]any{"SRC_URI": "git://git.example.com/${@d.getVar('X') or 'a b'}/a git://git.example.com/x/b", fetchedRevisions: rev1 + " " + rev2}, nil, "x/b@2222 ?SRC_URI entry 1 of app-native needs inline Python, which only BitBake can evaluate"},
		{"inline Python in a variable", map[string]any{"SRC_URI": "git://git.example.com/${X}", "X": "${@1}", fetchedRevisions: rev1}, nil, "?SRC_URI entry 1 of app-native needs ${X}: inline Python, which only BitBake can evaluate"},
		{"itself", map[string]any{"SRC_URI": "git://h/${A}", "A": "${B}", "B": "${A}"}, nil, "?SRC_URI entry 1 of app-native needs a value without bound"},
		{"bomb", bomb, nil, "?SRC_URI entry 1 of app-native needs a value without bound"},
		{"several in one variable", map[string]any{"SRC_URI": "${ALL}", "ALL": "git://git.example.com/x/a git://git.example.com/x/b", fetchedRevisions: rev1 + " " + rev2}, nil, "x/a@1111 x/b@2222"},
		{"removed, with BitBake's notes", map[string]any{"SRC_URI": "git://git.example.com/x/a git://git.example.com/x/b\n_remove of git://git.example.com/x/b\nFEATURES{x} = Set", fetchedRevisions: rev1}, nil, "x/a@1111"},
		{"too few revisions", map[string]any{"SRC_URI": "git://git.example.com/x/a git://git.example.com/x/b", fetchedRevisions: rev1}, nil, "x/a x/b"},
		{"a file with checksum flag", map[string]any{"SRC_URI": "https://dl.example.com/a-1.tgz;name=t", "SRC_URI[t.sha256sum]": strings.Repeat("a", 64)}, nil, "a-1.tgz@aaaa"},
		{"revisions skip files", map[string]any{"SRC_URI": "https://dl.example.com/a.tgz git://git.example.com/x/b", fetchedRevisions: rev2}, nil, "x/b@2222 a.tgz"},
		{"nothing", map[string]any{"SRC_URI": " \n ", fetchedRevisions: ""}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.vars[fetchedRevisions+"[func]"] = 1
			d, err := Derive(t.Context(), cacheOf(t,
				task{recipe: "app-native", name: "fetch", hash: "f1", vars: tt.vars},
				task{recipe: "app-native", name: "compile", hash: "c1", deps: []string{"app-native:fetch=f1"}, vars: tt.other}), DeriveOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Builds) != 1 {
				t.Fatalf("%d builds, underived %v", len(d.Builds), d.Underived)
			}
			if got := short(d.Builds[0].Sources); got != tt.want {
				t.Errorf("sources\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// sampleDir is a real cache beside the repository. CI must have it; elsewhere its absence is said aloud and leaves
// the synthetic graphs.
func sampleDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "sstate-sample", "sstate")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the sample cache is missing: %v", err)
		}
		t.Logf("without the sample cache: %v", err)
		return ""
	}
	return dir
}

func TestDeriveSample(t *testing.T) {
	dir := sampleDir(t)
	if dir == "" {
		return
	}
	cache, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	d, err := Derive(t.Context(), cache, DeriveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	covered(t, d)
	if d.Objects != 127 || len(d.Underived) != 0 || len(d.Ignored) != 0 {
		t.Errorf("objects %d, underived %v, ignored %v", d.Objects, d.Underived, d.Ignored)
	}
	filler := func(n string) [2]string {
		return [2]string{"bulk/filler" + n, "bulk/filler" + n}
	}
	want := map[string][2]string{
		"libfoo-native":      {"public/libfoo@50ff", "public/libfoo@50ff"},
		"secret-tool-native": {"teamA/secret-tool@9081", "public/libfoo@50ff teamA/secret-tool@9081"},
		"firmware":           {"teamB/firmware@bcaa", "public/libfoo@50ff teamA/secret-tool@9081 teamB/firmware@bcaa"},
		"boot":               {"teamB/boot@f370", "public/libfoo@50ff teamB/boot@f370"},
		"filler1-native":     filler("1"), "filler2-native": filler("2"), "filler3-native": filler("3"), "filler4-native": filler("4"),
	}
	for _, b := range d.Builds {
		direct, all := short(b.Sources), short(b.Inputs())
		if strings.HasPrefix(b.Recipe, "filler") {
			direct, _, _ = strings.Cut(direct, "@")
			all, _, _ = strings.Cut(all, "@")
		}
		if b.Recipe == "harness-all" {
			if direct != "" {
				t.Errorf("harness-all has sources: %s", direct)
			}
			continue
		}
		if got := [2]string{direct, all}; got != want[b.Recipe] {
			t.Errorf("%s: got %q, want %q", b.Recipe, got, want[b.Recipe])
		}
		delete(want, b.Recipe)
	}
	if len(want) > 0 {
		t.Errorf("no build of %v, or two", want)
	}
}
