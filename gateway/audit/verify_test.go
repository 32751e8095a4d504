package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// smallTrail writes a trail of three segments and returns the files' contents by name.
func smallTrail(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	j := mustOpen(t, Config{Dir: dir, SegmentBytes: 500, Strict: true})
	for i := range 3 {
		mustAppend(t, j, &Event{Kind: "lifecycle", Detail: fmt.Sprint("event ", i)})
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return snapshot(t, dir)
}

func snapshot(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	segs, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, s := range segs {
		if files[s.name], err = os.ReadFile(filepath.Join(dir, s.name)); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func names(files map[string][]byte) []string {
	var all []string
	for n := range files {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// restore makes dir hold exactly files.
func restore(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for n, b := range files {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// poke overwrites one octet of a file.
func poke(t testing.TB, path string, at int, octet byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{octet}, int64(at))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func verifyErr(dir string, opts VerifyOptions) error {
	_, err := Verify(context.Background(), dir, opts)
	return err
}

func TestVerifyDetectsEveryFlip(t *testing.T) {
	dir := t.TempDir()
	files := smallTrail(t, dir)
	n := 0
	for name, b := range files {
		path := filepath.Join(dir, name)
		for i := range b {
			for _, flip := range []byte{1, 0x20, 0x80, 0xff, b[i], b[i] ^ '\n'} {
				if flip == 0 {
					continue
				}
				n++
				poke(t, path, i, b[i]^flip)
				err := verifyErr(dir, VerifyOptions{})
				poke(t, path, i, b[i])
				var broken *BrokenError
				if !errors.As(err, &broken) {
					t.Fatalf("%s: octet %d flipped by %#x: %v", name, i, flip, err)
				}
				if broken.File != name || broken.Offset > int64(i) {
					t.Fatalf("%s: octet %d flipped, reported %v", name, i, broken)
				}
			}
		}
	}
	t.Logf("%d changes in %d files", n, len(files))
	mustVerify(t, dir)
}

func TestVerifyDetectsEveryTruncation(t *testing.T) {
	dir := t.TempDir()
	files := smallTrail(t, dir)
	head := mustVerify(t, dir).Head
	order := names(files)
	for k, name := range order {
		for size := range files[name] {
			restore(t, dir, map[string][]byte{name: files[name][:size]})
			clean := k == len(order)-1 && (size == 0 || files[name][size-1] == '\n')
			err := verifyErr(dir, VerifyOptions{})
			if clean != (err == nil) {
				t.Fatalf("%s cut to %d of %d octets: %v", name, size, len(files[name]), err)
			}
			if err := verifyErr(dir, VerifyOptions{ExpectHead: head}); err == nil {
				t.Fatalf("%s cut to %d octets: the expected head was not missed", name, size)
			}
			if live := verifyErr(dir, VerifyOptions{Live: true}); (live == nil) != (k == len(order)-1) {
				t.Fatalf("%s cut to %d octets, live: %v", name, size, live)
			}
		}
		restore(t, dir, files)
	}
}

func TestVerifyDetectsRemovalAndReordering(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, Config{Dir: dir, SegmentBytes: 2000, Strict: true})
	for i := range 12 {
		mustAppend(t, j, &Event{Kind: "lifecycle", Detail: fmt.Sprint("event ", i)})
	}
	j.Close()
	files := snapshot(t, dir)
	order := names(files)
	head := mustVerify(t, dir).Head
	for k, name := range order {
		lines := bytes.SplitAfter(files[name], []byte("\n"))
		lines = lines[:len(lines)-1]
		final := k == len(order)-1
		for i := range lines {
			without := bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)
			restore(t, dir, map[string][]byte{name: without})
			suffix := final && i == len(lines)-1
			if err := verifyErr(dir, VerifyOptions{}); (err == nil) != suffix {
				t.Fatalf("%s without line %d: %v", name, i+1, err)
			}
			twice := bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil)
			restore(t, dir, map[string][]byte{name: twice})
			if verifyErr(dir, VerifyOptions{}) == nil {
				t.Fatalf("%s with line %d twice verified", name, i+1)
			}
			if i > 0 {
				swapped := slices.Clone(lines)
				swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
				restore(t, dir, map[string][]byte{name: bytes.Join(swapped, nil)})
				if verifyErr(dir, VerifyOptions{}) == nil {
					t.Fatalf("%s with lines %d and %d swapped verified", name, i, i+1)
				}
			}
		}
		restore(t, dir, files)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := verifyErr(dir, VerifyOptions{}); (err == nil) != final {
			t.Fatalf("without segment %s: %v", name, err)
		}
		if verifyErr(dir, VerifyOptions{ExpectHead: head}) == nil {
			t.Fatalf("without segment %s: the expected head was not missed", name)
		}
		if k == 0 {
			if err := verifyErr(dir, VerifyOptions{Pruned: true, ExpectHead: head}); err != nil {
				t.Errorf("pruned on purpose: %v", err)
			}
		}
		restore(t, dir, files)
	}
	mustVerify(t, dir)
}

func TestVerifyOfForeignFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := Verify(t.Context(), filepath.Join(dir, "absent"), VerifyOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
	if r := mustVerify(t, dir); r.Events != 0 {
		t.Errorf("empty directory: %+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, "audit-copy.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verifyErr(dir, VerifyOptions{}); err == nil || !strings.Contains(err.Error(), "not the name of a segment") {
		t.Errorf("foreign file: %v", err)
	}
}

func TestVerifyStopsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	smallTrail(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, dir, VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// TestOpenRefusesABrokenTrail: what Verify finds in the part that Open reads, Open refuses, and it says what to do.
func TestOpenRefusesABrokenTrail(t *testing.T) {
	dir := t.TempDir()
	files := smallTrail(t, dir)
	last := names(files)[len(files)-1]
	for i := range files[last] {
		bad := bytes.Clone(files[last])
		bad[i] ^= 4
		poke(t, filepath.Join(dir, last), i, bad[i])
		j, err := Open(Config{Dir: dir, Node: "n1"})
		if err == nil {
			j.Close()
			t.Fatalf("octet %d changed and Open succeeded", i)
		}
		if !strings.Contains(err.Error(), "audit verify") || !strings.Contains(err.Error(), last) {
			t.Fatalf("octet %d changed: %v", i, err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, last)); !bytes.Equal(got, bad) {
			t.Fatal("a refused Open changed the file")
		}
		poke(t, filepath.Join(dir, last), i, files[last][i])
	}
}

// TestOpenCutsATornTail: every incomplete last line is cut off, nothing else.
func TestOpenCutsATornTail(t *testing.T) {
	dir := t.TempDir()
	files := smallTrail(t, dir)
	last := names(files)[len(files)-1]
	whole := len(collect(t, dir, TailOptions{}))
	j := mustOpen(t, Config{Dir: dir})
	mustAppend(t, j, sampleEvent(1))
	j.Close()
	longer := snapshot(t, dir)[last]
	for extra := 1; extra < len(longer)-len(files[last]); extra += 7 {
		for _, torn := range [][]byte{longer[:len(files[last])+extra], append(bytes.Clone(files[last]), make([]byte, extra)...)} {
			restore(t, dir, map[string][]byte{last: torn})
			j := mustOpen(t, Config{Dir: dir, FS: syncless{osFS{dir}}})
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			mustVerify(t, dir)
			if n := len(collect(t, dir, TailOptions{})); n <= whole {
				t.Fatalf("%d events after recovery, %d before", n, whole)
			}
			if got := snapshot(t, dir)[last]; !bytes.HasPrefix(got, files[last]) {
				t.Fatal("a whole line was cut off")
			}
		}
	}
}
