package client

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func put(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func readObject(t testing.TB, c Cache, name string, off int64) string {
	t.Helper()
	f, err := c.Open(t.Context(), name, off)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDirCache lists a directory that someone hostile may write to.
func TestDirCache(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	good, linked := objectName("app", "deploy", "a1"), objectName("app", "deploy", "a2")
	put(t, dir, good, []byte("content"))
	put(t, dir, good+".siginfo", []byte("x"))
	put(t, outside, "secret", []byte("secret"))
	link := func(target, name string) {
		put(t, dir, name, nil)
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join("..", "..", good), linked)
	absolute := objectName("app", "deploy", "a7") // as BitBake links what it got over ssh
	link(filepath.Join(dir, good), absolute)
	detour := objectName("app", "deploy", "a8")
	link(filepath.Join(dir, "elsewhere", "secret"), detour)
	out := objectName("app", "deploy", "a3")
	link(filepath.Join(outside, "secret"), out)
	link("../../../../../../../../etc/passwd", objectName("app", "deploy", "a4"))
	link(outside, "elsewhere")
	pipe := objectName("app", "deploy", "a5")
	put(t, dir, pipe+".done", nil)
	if err := syscall.Mkfifo(filepath.Join(dir, pipe), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		good + ".lock", good + ".tmp", good + ".aB3_x9Zq", good + ".siginfo.abcdefgh", "ab/sigtask.kdj3_2",
		"notes.txt", "ab/cd/" + filepath.Base(good), "73/71/sstate:app:::\x1b[2J:", strings.ToUpper(good), objectName("app", "deploy", "a6"),
	} {
		content := []byte("x")
		if strings.Contains(name, strings.Repeat("6136", 3)) {
			content = nil
		}
		put(t, dir, name, content)
	}
	c, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range l.Objects {
		names = append(names, o.Name)
	}
	if want := []string{good, good + ".siginfo", linked, absolute}; fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("objects\n got %q\nwant %q", names, want)
	}
	ignored := map[string]int{}
	for _, i := range l.Ignored {
		ignored[i.Reason] = i.Count
		if strings.ContainsRune(i.Example, 0x1b) {
			t.Errorf("example %q is not fit for a terminal", i.Example)
		}
	}
	want := map[string]int{
		"its name is not that of an sstate object":                     4,
		"it is a symbolic link that leads out of the cache or nowhere": 4,
		"it is not a regular file":                                     1,
		"it is empty":                                                  1,
	}
	if fmt.Sprint(ignored) != fmt.Sprint(want) {
		t.Errorf("ignored\n got %v\nwant %v", ignored, want)
	}
	if got := readObject(t, c, linked, 3); got != "tent" {
		t.Errorf("from byte 3: %q", got)
	}
	if got := readObject(t, c, absolute, 3); got != "tent" {
		t.Errorf("through an absolute link, from byte 3: %q", got)
	}
	for _, name := range []string{out, detour, pipe, "../x", "/etc/passwd"} {
		if f, err := c.Open(t.Context(), name, 0); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
	if _, err := OpenDir(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing directory is opened")
	}
}

func TestMirrorCache(t *testing.T) {
	dir := t.TempDir()
	m := twoRecipes(t)
	for name, content := range m.files {
		put(t, dir, "below/"+name, content)
		put(t, dir, "below/"+name+".done", nil)
	}
	put(t, dir, "above", []byte("x"))
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, "/below/"):
			t.Errorf("%s was asked for, which is outside the cache", r.URL.Path)
		case r.URL.Path == "/below/":
			fmt.Fprint(w, `<a href="/">up</a><a href="../above">x</a><a href="//evil.example.com/below/zz/">x</a><a href="?C=M">m</a><a href="a%2f..%2f../">t</a><a href="http://`+r.Host+`/below/">self</a>`)
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	var names strings.Builder
	for name := range m.files {
		fmt.Fprintf(&names, "./%s\n", name)
	}
	names.WriteString("\n../above\nelse\n")
	for how, list := range map[string]io.Reader{"crawled": nil, "listed": strings.NewReader(names.String())} {
		t.Run(how, func(t *testing.T) {
			c, err := OpenMirror(MirrorConfig{URL: server.URL + "/below", Names: list})
			if err != nil {
				t.Fatal(err)
			}
			l, err := c.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Objects) != len(m.files) {
				t.Errorf("%d objects, want %d; ignored %v", len(l.Objects), len(m.files), l.Ignored)
			}
			for _, o := range l.Objects {
				for _, off := range []int64{0, 5} {
					if got := readObject(t, c, o.Name, off); got != string(m.files[o.Name][off:]) {
						t.Errorf("%s from %d differs", o.Name, off)
					}
				}
			}
			d, err := Derive(t.Context(), c, DeriveOptions{})
			if err != nil || len(d.Builds) != 2 {
				t.Errorf("%v, %v", d, err)
			}
		})
	}
}

func TestMirrorRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect to %s was followed", r.URL)
	}))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer server.Close()
	c, err := OpenMirror(MirrorConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context()); err == nil {
		t.Error("no error")
	}
	for _, bad := range []string{"", "ftp://h/", "http://u:p@h/", "http://h/?x", "h"} {
		if _, err := OpenMirror(MirrorConfig{URL: bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestHostileSiginfos puts siginfos in a cache that nobody should believe, or be able to read.
func TestHostileSiginfos(t *testing.T) {
	valid := twoRecipes(t)
	good := objectName("app", "compile", "c2") + ".siginfo"
	bomb := pack(t, bytes.Repeat([]byte{' '}, 64<<20))
	tests := map[string][]byte{
		"no zstd":        []byte("{}"),
		"cut":            valid.files[good][:20],
		"flipped":        append(append([]byte{}, valid.files[good][:30]...), bytes.Repeat([]byte{0xff}, 50)...),
		"bomb":           bomb,
		"no JSON":        pack(t, []byte("compile")),
		"null":           pack(t, []byte("null")),
		"two tasks":      pack(t, []byte(`{"task":"do_compile","task":"do_compile"}`)),
		"wrong types":    pack(t, []byte(`{"task":"do_compile","runtaskdeps":{"a":1}}`)),
		"pickle":         {0x80, 4, 'c'},
		"huge":           make([]byte, maxSiginfo+1),
		"another task":   pack(t, []byte(`{"task":"do_fetch"}`)),
		"deep":           pack(t, []byte(`{"task":"do_compile","varvals":`+strings.Repeat("[", 100_000)+`}`)),
		"trailing frame": append(append([]byte{}, valid.files[good]...), valid.files[good]...),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			cache := twoRecipes(t)
			cache.files[good] = content
			d, err := Derive(t.Context(), cache, DeriveOptions{})
			if err != nil {
				t.Fatal(err)
			}
			covered(t, d)
			found := false
			for _, p := range d.Underived {
				found = found || p.Name == good
			}
			if !found {
				t.Errorf("it was believed: %v", d.Underived)
			}
		})
	}
}
