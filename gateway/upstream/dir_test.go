package upstream_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/gateway/upstream/upstreamtest"
)

// populate writes files below a new directory.
func populate(t testing.TB, files upstreamtest.Files) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func newDir(t testing.TB, root string) *upstream.Dir {
	t.Helper()
	d, err := upstream.NewDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDir(t *testing.T) {
	upstreamtest.Run(t, func(t *testing.T, files upstreamtest.Files) upstream.Store { return newDir(t, populate(t, files)) })
}

func TestNewDirOfNothing(t *testing.T) {
	root := populate(t, upstreamtest.Files{"file": ""})
	if _, err := upstream.NewDir(filepath.Join(root, "absent")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "create it") {
		t.Errorf("absent: %v", err)
	}
	if _, err := upstream.NewDir(filepath.Join(root, "file")); err == nil {
		t.Error("a file was taken for a directory")
	}
}

func TestDirLinksAndSpecialFiles(t *testing.T) {
	outside := populate(t, upstreamtest.Files{"secret": "secret"})
	root := populate(t, upstreamtest.Files{"d/real": "real"})
	for name, target := range map[string]string{
		"inside": "d/real", "d/up": "../d/real", "within": "d",
		"absolute": filepath.Join(outside, "secret"), "relative": "../" + filepath.Base(outside) + "/secret", "leave": outside, "loop": "loop", "dangling": "nowhere",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newDir(t, root)
	for name, want := range map[string]error{
		"inside": nil, "d/up": nil, "within/real": nil, "fifo": fs.ErrNotExist, "d": fs.ErrNotExist, "within": fs.ErrNotExist, "dangling": fs.ErrNotExist,
	} {
		obj, err := d.Open(t.Context(), name, 0)
		_, serr := d.Stat(t.Context(), name)
		if !errors.Is(err, want) || !errors.Is(serr, want) {
			t.Errorf("%s: Open: %v, Stat: %v; want %v", name, err, serr, want)
		}
		if err == nil {
			obj.Close()
		}
	}
	for _, name := range []string{"absolute", "relative", "leave/secret", "loop"} {
		if obj, err := d.Open(t.Context(), name, 0); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: Open = %v, %v; want an error of its own", name, obj, err)
		}
		if err := d.Put(t.Context(), name, tempFile(t, "x")); err == nil {
			t.Errorf("Put through %s succeeded", name)
		}
	}
	if err := d.Put(t.Context(), "leave/new", tempFile(t, "x")); err == nil {
		t.Error("Put left the root")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside the root: %v", entries)
	}
	var walked []string
	if err := d.Walk(t.Context(), func(name string, _ upstream.Info) error { walked = append(walked, name); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"d/real", "d/up", "inside"}; !slices.Equal(walked, want) {
		t.Errorf("Walk = %q, want %q", walked, want)
	}
}

func tempFile(t testing.TB, content string) *os.File {
	t.Helper()
	return openFile(t, filepath.Join(populate(t, upstreamtest.Files{"src": content}), "src"))
}

func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestDirPutLinksOrCopies(t *testing.T) {
	root := t.TempDir()
	d := newDir(t, root)
	linked := tempFile(t, "linked")
	if err := d.Put(t.Context(), "a/linked", linked); err != nil {
		t.Fatal(err)
	}
	same := func(f *os.File, name string) bool {
		fi, err := f.Stat()
		got, err2 := os.Stat(filepath.Join(root, name))
		return errors.Join(err, err2) == nil && os.SameFile(fi, got)
	}
	if !same(linked, "a/linked") {
		t.Error("src was copied within one file system")
	}
	// A source that lost its name, or whose name is another file by now, can only be copied.
	for name, spoil := range map[string]func(path string) error{
		"nameless": os.Remove,
		"renamed":  func(p string) error { return errors.Join(os.Remove(p), os.WriteFile(p, []byte("another"), 0o600)) },
		"symlink":  func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
	} {
		src := tempFile(t, "copied")
		if err := spoil(src.Name()); err != nil {
			t.Fatal(err)
		}
		if err := d.Put(t.Context(), "a/"+name, src); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "a", name)); err != nil || string(b) != "copied" || same(src, "a/"+name) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if entries, _ := os.ReadDir(root); len(entries) != 1 {
		t.Errorf("Put left %v", entries)
	}
	// A source on another file system.
	shm := filepath.Join("/dev/shm", filepath.Base(root)+"-"+filepath.Base(t.TempDir()))
	if err := os.WriteFile(shm, []byte("from afar"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(shm)
	if err := d.Put(t.Context(), "afar", openFile(t, shm)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "afar")); err != nil || string(b) != "from afar" {
		t.Errorf("afar: %q, %v", b, err)
	}
}

func TestDirPutReportsTheSystemsError(t *testing.T) {
	root := populate(t, upstreamtest.Files{"file": ""})
	d := newDir(t, root)
	if err := d.Put(t.Context(), "file/below", tempFile(t, "x")); !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("err = %v", err)
	}
}

// limitEnv makes the test binary a process that may write 4 KiB to a file, as if the disk were full then.
const limitEnv = "LYCHGATE_UPSTREAM_TEST_LIMIT"

func TestDirPutOnAFullDisk(t *testing.T) {
	if root := os.Getenv(limitEnv); root != "" {
		putBeyondLimit(t, root)
		return
	}
	root := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestDirPutOnAFullDisk$")
	cmd.Env = append(os.Environ(), limitEnv+"="+root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Errorf("a failed Put left %v", entries)
	}
}

func putBeyondLimit(t *testing.T, root string) {
	src := tempFile(t, strings.Repeat("x", 1<<20))
	if err := os.Remove(src.Name()); err != nil { // forces a copy
		t.Fatal(err)
	}
	limit := syscall.Rlimit{Cur: 4096, Max: 4096}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := newDir(t, root).Put(t.Context(), "a/big", src); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("err = %v", err)
	}
}

func TestDirWalkRemoveSweep(t *testing.T) {
	root := populate(t, upstreamtest.Files{"b/2": "22", "b/1": "1", "a": "", "bad name": "x", ".put-OLD": "left over"})
	d := newDir(t, root)
	var walked []string
	walk := func(name string, info upstream.Info) error { walked = append(walked, name); return nil }
	if err := d.Walk(t.Context(), walk); err != nil || !slices.Equal(walked, []string{"a", "b/1", "b/2"}) {
		t.Errorf("Walk = %q, %v", walked, err)
	}
	stop := errors.New("stop")
	if err := d.Walk(t.Context(), func(string, upstream.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped Walk: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Walk(ctx, walk); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Walk: %v", err)
	}
	open, err := d.Open(t.Context(), "b/2", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := d.Remove(t.Context(), "b/2"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(open); string(b) != "22" || err != nil {
		t.Errorf("an open object was lost: %q, %v", b, err)
	}
	for name, want := range map[string]error{"b/2": fs.ErrNotExist, "b": fs.ErrNotExist, "../x": fs.ErrInvalid} {
		if err := d.Remove(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("Remove(%q): %v", name, err)
		}
	}
	if n, err := d.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("Sweep of the young = %d, %v", n, err)
	}
	if n, err := d.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v", n, err)
	}
}

// TestDirObjectIsAFile: copying an Object to a TCP connection reaches the kernel's own copying.
func TestDirObjectIsAFile(t *testing.T) {
	d := newDir(t, populate(t, upstreamtest.Files{"a": strings.Repeat("x", 1<<20)}))
	obj, err := d.Open(t.Context(), "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Close()
	if _, ok := obj.ReadCloser.(*os.File); !ok {
		t.Fatalf("ReadCloser is %T", obj.ReadCloser)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			_, _ = io.Copy(c, obj)
			c.Close()
		}
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); n != 1<<20-1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
