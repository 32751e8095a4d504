// Package upstreamtest is the conformance suite of upstream.Store. Every implementation passes it.
package upstreamtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway/upstream"
)

// Files are the objects of a store under test, by name.
type Files map[string]string

// names that the gate prints, and that stores and servers have got wrong before.
const (
	sstateName = "universal/ab/cd/sstate:zlib:core2-64-poky-linux:1.3.1+git~rc1:r0:core2-64:12:abcd_package.tar.zst"
	emptyName  = "sha256/e3/empty"
)

// Run checks a store. open returns a new one that holds exactly files; it is called once for each part of the suite.
func Run(t *testing.T, open func(t *testing.T, files Files) upstream.Store) {
	big := strings.Repeat("0123456789abcdef", 20_000)
	files := Files{sstateName: "the payload", emptyName: "", "sha256/00/big": big, "top": "t", "-dash/.dot/..two": "odd"}
	t.Run("Stat", func(t *testing.T) { testStat(t, open(t, files), files) })
	t.Run("Open", func(t *testing.T) { testOpen(t, open(t, files), files) })
	t.Run("Offset", func(t *testing.T) { testOffset(t, open(t, files), files) })
	t.Run("Absent", func(t *testing.T) { testAbsent(t, open(t, files)) })
	t.Run("BadName", func(t *testing.T) { testBadName(t, open(t, files)) })
	t.Run("Cancelled", func(t *testing.T) { testCancelled(t, open(t, files)) })
	t.Run("Concurrent", func(t *testing.T) { testConcurrent(t, open(t, files), files) })
	t.Run("Put", func(t *testing.T) {
		if p, ok := open(t, Files{"a/b": "there"}).(upstream.Putter); ok {
			testPut(t, p)
		}
	})
}

func testStat(t *testing.T, s upstream.Store, files Files) {
	for name, content := range files {
		info, err := s.Stat(t.Context(), name)
		if err != nil || info.Size != int64(len(content)) {
			t.Errorf("Stat(%q) = %+v, %v; want size %d", name, info, err, len(content))
		}
	}
}

func testOpen(t *testing.T, s upstream.Store, files Files) {
	for name, content := range files {
		expect(t, s, name, 0, content, len(content))
	}
}

// expect opens name at off and wants to read exactly content.
func expect(t *testing.T, s upstream.Store, name string, off int64, content string, size int) {
	t.Helper()
	obj, err := s.Open(t.Context(), name, off)
	if err != nil {
		t.Errorf("Open(%q, %d): %v", name, off, err)
		return
	}
	defer obj.Close()
	var got strings.Builder
	if _, err := io.Copy(&got, obj); err != nil || got.String() != content {
		t.Errorf("Open(%q, %d): read %d bytes, %v; want %d", name, off, got.Len(), err, len(content))
	}
	if obj.Size != int64(size) {
		t.Errorf("Open(%q, %d): Size = %d, want that of the whole object, %d", name, off, obj.Size, size)
	}
}

func testOffset(t *testing.T, s upstream.Store, files Files) {
	for name, content := range files {
		for _, off := range []int{1, 7, len(content) / 2, len(content) - 1, len(content)} {
			if off >= 0 && off <= len(content) {
				expect(t, s, name, int64(off), content[off:], len(content))
			}
		}
		for _, off := range []int64{-1, int64(len(content)) + 1, 1 << 40} {
			obj, err := s.Open(t.Context(), name, off)
			if !errors.Is(err, upstream.ErrOffset) {
				t.Errorf("Open(%q, %d): %v, want ErrOffset", name, off, err)
			}
			if err == nil {
				obj.Close()
			}
		}
	}
}

func testAbsent(t *testing.T, s upstream.Store) {
	for _, name := range []string{"nothing", "sha256", "sha256/00", "sha256/00/bi", "sha256/00/bigger", "top/below", "a/b/c/d/e"} {
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat(%q): %v, want fs.ErrNotExist", name, err)
		}
		if _, err := s.Open(t.Context(), name, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v, want fs.ErrNotExist", name, err)
		}
		if _, err := s.Open(t.Context(), name, 3); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q, 3): %v, want fs.ErrNotExist", name, err)
		}
	}
}

func testBadName(t *testing.T, s upstream.Store) {
	for _, name := range []string{
		"", ".", "..", "/", "/top", "top/", "a//b", "./top", "a/./b", "a/../top", "../top", "sha256/../top", "top\x00", "a\\b", "..\\top",
		"top?x", "top#x", "top%2f", "%2e%2e/top", "t op", "töp", "top\n", "top\xff", "a;b", strings.Repeat("a", 1025),
	} {
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Stat(%q): %v, want fs.ErrInvalid", name, err)
		}
		if _, err := s.Open(t.Context(), name, 0); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%q): %v, want fs.ErrInvalid", name, err)
		}
	}
}

func testCancelled(t *testing.T, s upstream.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "top"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := s.Open(ctx, "top", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v", err)
	}
}

func testConcurrent(t *testing.T, s upstream.Store, files Files) {
	var wg sync.WaitGroup
	for name, content := range files {
		for off := range min(len(content), 8) {
			wg.Go(func() { expect(t, s, name, int64(off), content[off:], len(content)) })
		}
	}
	wg.Wait()
}

// source writes a file to put from. Its position is not at the start, which Put must not mind.
func source(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Seek(int64(len(content)/2), io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func testPut(t *testing.T, s upstream.Putter) {
	ctx := t.Context()
	files := Files{"sha256/aa/new": "new bytes", "sha256/aa/more": "more", "flat": "flat", "sha256/bb/empty": ""}
	for name, content := range files {
		if err := s.Put(ctx, name, source(t, content)); err != nil {
			t.Fatalf("Put(%q): %v", name, err)
		}
		expect(t, s, name, 0, content, len(content))
	}
	if err := s.Put(ctx, "a/b", source(t, "other bytes")); err != nil {
		t.Errorf("Put over an object: %v", err)
	}
	expect(t, s, "a/b", 0, "there", 5)
	for _, name := range []string{"", "../x", "a//b", "a b"} {
		if err := s.Put(ctx, name, source(t, "x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Put(%q): %v, want fs.ErrInvalid", name, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Put(cancelled, "late", source(t, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Put: %v", err)
	}
	if _, err := s.Stat(ctx, "late"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a cancelled Put: %v", err)
	}
	var wg sync.WaitGroup
	for range 16 {
		src := source(t, "raced")
		wg.Go(func() {
			if err := s.Put(ctx, "race/d", src); err != nil {
				t.Errorf("racing Put: %v", err)
			}
			expect(t, s, "race/d", 0, "raced", 5)
		})
	}
	wg.Wait()
}
