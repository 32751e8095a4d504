package audit

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

// FuzzRecovery damages a trail and opens it. Whatever the damage, Open either refuses and changes nothing, or yields a trail that
// verifies and holds, before what this boot adds, a prefix of the lines that were written.
func FuzzRecovery(f *testing.F) {
	written := f.TempDir()
	files := smallTrail(f, written)
	order := names(files)
	var lines [][]byte
	for _, n := range order {
		lines = append(lines, bytes.SplitAfter(files[n], []byte("\n"))...)
		lines = lines[:len(lines)-1]
	}
	last := order[len(order)-1]
	size := len(files[last])
	f.Add(uint16(size), byte(0), uint16(0), byte(0), []byte(nil), false)
	f.Add(uint16(size-5), byte(0), uint16(0), byte(0), []byte(nil), false)
	f.Add(uint16(size), byte(1), uint16(30), byte(0x10), []byte(nil), false)
	f.Add(uint16(size), byte(2), uint16(0), byte(0), []byte("00000010 00"), false)
	f.Add(uint16(size), byte(0), uint16(0), byte(0), []byte("\x00\x00\x00"), false)
	f.Add(uint16(size), byte(0), uint16(0), byte(0), lines[1], true)
	f.Fuzz(func(t *testing.T, cut uint16, which byte, at uint16, flip byte, tail []byte, drop bool) {
		dir := t.TempDir()
		restore(t, dir, files)
		name := order[int(which)%len(order)]
		b := bytes.Clone(files[name])
		b = b[:min(int(cut), len(b))]
		if int(at) < len(b) {
			b[at] ^= flip
		}
		b = append(b, tail...)
		if drop {
			if err := os.Remove(filepath.Join(dir, order[int(at)%len(order)])); err != nil {
				t.Fatal(err)
			}
		}
		restore(t, dir, map[string][]byte{name: b})
		before := snapshot(t, dir)

		j, err := Open(Config{Dir: dir, Node: "n1", FS: syncless{osFS{dir}}})
		if err != nil {
			for n, b := range snapshot(t, dir) {
				if !bytes.Equal(before[n], b) {
					t.Fatalf("a refused Open changed %s: %v", n, err)
				}
			}
			return
		}
		boot := j.boot
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		checkPrefix(t, dir, boot, lines)
	})
}

// checkPrefix reads until the first line of this boot or the first break: none of what it meets may be invented.
func checkPrefix(t *testing.T, dir, boot string, lines [][]byte) {
	for e, err := range Tail(context.Background(), dir, TailOptions{}) {
		if err != nil { // damage in a segment that Open need not read; Verify reports it
			if verifyErr(dir, VerifyOptions{}) == nil {
				t.Fatalf("Tail says %v, Verify says nothing", err)
			}
			return
		}
		if e.Boot == boot {
			break
		}
		line := append(e.AppendJSON(nil), '\n')
		if e.Seq > uint64(len(lines)) || !bytes.Equal(line, lines[e.Seq-1][prefixLen:]) {
			t.Fatalf("line %d was never written: %s", e.Seq, line)
		}
	}
}

// syncless makes fuzzing quick.
type syncless struct{ osFS }

type synclessFile struct{ *os.File }

func (f syncless) Create(name string) (File, error) {
	file, err := f.osFS.Create(name)
	if err != nil {
		return nil, err
	}
	return synclessFile{file.(*os.File)}, nil
}

func (f syncless) Append(name string) (File, error) {
	file, err := f.osFS.Append(name)
	if err != nil {
		return nil, err
	}
	return synclessFile{file.(*os.File)}, nil
}

func (syncless) SyncDir() error { return nil }

func (synclessFile) Sync() error { return nil }

// FuzzFrames reads arbitrary octets as a segment: no panic, no endless loop, and only frames that are really there.
func FuzzFrames(f *testing.F) {
	frame, _ := closeFrame(append(appendFramePrefix(nil), sampleLine()...), 0)
	f.Add(frame)
	f.Add(append(bytes.Clone(frame), frame[:40]...))
	f.Add([]byte("ffffffff 00000000 {"))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFrameReader(bytes.NewReader(data), "x")
		for {
			start := r.offset
			line, err := r.next()
			if err != nil {
				if r.offset != start {
					t.Fatal("the offset moved over what could not be read")
				}
				return
			}
			again, _ := closeFrame(append(appendFramePrefix(nil), line...), 0)
			if !bytes.Equal(again, data[start:r.offset]) {
				t.Fatalf("frame %q was read from %q", again, data[start:r.offset])
			}
			if h, err := parseHead(line); err == nil {
				if e, err := decode(line); err == nil && (e.Seq != h.seq || e.Prev != h.prev || e.Kind != h.kind) {
					t.Fatalf("head %+v, event %+v", h, e)
				}
			}
		}
	})
}
