package sshd_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// put writes a file as clients do, and returns what CLOSE said.
func put(t testing.TB, c *sftp.Client, path string, content []byte) error {
	t.Helper()
	f, err := c.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err := f.ReadFromWithConcurrency(bytes.NewReader(content), 16); err != nil {
		t.Errorf("write %s: %v", path, err)
	}
	return f.Close()
}

// TestPutOverSFTP: an object and its statement are published, whichever comes first, and found by those who may read.
func TestPutOverSFTP(t *testing.T) {
	for _, statementFirst := range []bool{true, false} {
		g := gwtest.New(t, gwtest.Options{})
		o := sized(t, "hello", 2<<20+5)
		files := []gwtest.Object{o, {Name: o.Name + gateway.StatementSuffix, Content: g.Seal(g.Statement([]gwtest.Object{o}, publicSource))}}
		if statementFirst {
			files[0], files[1] = files[1], files[0]
		}
		ci := connect(t, g, "ci")
		if err := ci.MkdirAll("/main/" + filepath.Dir(o.Name)); err != nil {
			t.Error(err)
		}
		for i, f := range files {
			if got := g.As("bob").Head("/sstate/main/" + o.Name).StatusCode; got != 404 {
				t.Errorf("%d before file %d", got, i)
			}
			if err := put(t, ci, "/main/"+f.Name, f.Content); err != nil {
				t.Error(err)
			}
			if err := ci.Chtimes("/main/"+f.Name, time.Now(), time.Now()); err != nil {
				t.Errorf("times of what was just written: %v", err)
			}
			if fi, err := ci.Stat("/main/" + f.Name); err != nil || fi.Size() != int64(len(f.Content)) {
				t.Errorf("its writer finds %v, %v", fi, err)
			}
		}
		if res := g.As("bob").Get("/sstate/main/" + o.Name); !bytes.Equal(res.Bytes, o.Content) {
			t.Errorf("statement first: %v: %d, %d bytes", statementFirst, res.StatusCode, len(res.Bytes))
		}
	}
}

// TestRefusedPutOverSFTP: what the gate refuses, the client is told, with what to do.
func TestRefusedPutOverSFTP(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	other := gwtest.NewObject("other", "package")
	ci := connect(t, g, "ci")
	for _, row := range []struct {
		name, path string
		content    []byte
		want       string
	}{
		{"no name", "/main/readme.txt", []byte("x"), "not an sstate name"},
		{"a name with an escape", "/main/" + strings.ReplaceAll(o.Name, ":", "%3A"), []byte("x"), "permission denied"},
		{"no zone", "/nowhere/" + o.Name, []byte("x"), "permission denied"},
		{"the root", "/", []byte("x"), "permission denied"},
		{"the zone", "/main", []byte("x"), "not an sstate name"},
		{"empty", "/main/" + o.Name, nil, "the body is empty"},
		{"no statement", "/main/" + o.Name + gateway.StatementSuffix, []byte("{}"), "the statement is refused"},
		{"a stranger's", "/main/" + o.Name + gateway.StatementSuffix, g.SealBy(g.Statement([]gwtest.Object{o}, publicSource), g.Stranger), "the statement is refused"},
		{"another's statement", "/main/" + other.Name + gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource)), "does not name"},
	} {
		err := put(t, ci, row.path, row.content)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		if _, err := ci.Stat(row.path); !os.IsNotExist(err) && row.path != "/" && row.path != "/main" {
			t.Errorf("%s: is found: %v", row.name, err)
		}
	}
}

// writes are packets to a file that is open for writing, and what the last of them, CLOSE, is answered with.
var writes = []struct {
	name string
	say  func(h string) [][]byte
	want string
}{
	{"in order", func(h string) [][]byte { return [][]byte{write(h, 0, "one "), write(h, 4, "two")} }, "0"},
	{"empty write", func(h string) [][]byte { return [][]byte{write(h, 0, ""), write(h, 0, "one two")} }, "0"},
	{"in the wrong order", func(h string) [][]byte { return [][]byte{write(h, 4, "two"), write(h, 0, "one ")} }, "0"},
	{"a hole", func(h string) [][]byte { return [][]byte{write(h, 0, "one "), write(h, 5, "two")} }, "4"},
	{"not from the beginning", func(h string) [][]byte { return [][]byte{write(h, 4, "two")} }, "4"},
	{"twice", func(h string) [][]byte { return [][]byte{write(h, 0, "one "), write(h, 0, "one ")} }, "4"},
	{"back", func(h string) [][]byte { return [][]byte{write(h, 0, "one "), write(h, 4, "two"), write(h, 2, "x")} }, "4"},
	{"at 2^63", func(h string) [][]byte { return [][]byte{write(h, 1<<63, "x")} }, "4"},
	{"at 2^64-1", func(h string) [][]byte { return [][]byte{write(h, 1<<64-1, "x")} }, "4"},
	{"many holes", func(h string) (all [][]byte) {
		for i := range 40 {
			all = append(all, write(h, uint64(2*i+1), "x"))
		}
		return all
	}, "4"},
}

func write(h string, off uint64, data string) []byte { return packet(fxpWrite, 1, h, off, data) }

// TestWriteOrder: a file is written from the beginning to the end; what is sent out of order within reach is put right, and what
// leaves a hole is never taken for a whole file.
func TestWriteOrder(t *testing.T) {
	for _, row := range writes {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := gwtest.New(t, gwtest.Options{})
			o := gwtest.NewObject("hello", "package")
			w := dialWire(t, g, "ci", sshd.Limits{OpenHandles: 4, ProgressWindow: 200 * time.Millisecond}, false)
			h := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, writeFlag|creatFlag|truncFlag, 0))
			say := append(row.say(h), packet(fxpClose, 2, h))
			w.say(bytes.Join(say, nil))
			got := ""
			for range say {
				got = summary(w.answer())
			}
			if got != row.want {
				t.Errorf("CLOSE: %s, want %s", got, row.want)
			}
			if held := files(t, g.Path("staging")) > 0; held != (row.want == "0") {
				t.Errorf("the gate holds the file: %v", held)
			}
		})
	}
}

// files counts the regular files below a directory.
func files(t testing.TB, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOpenToWriteFlags: only a whole new file can be written.
func TestOpenToWriteFlags(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	w := dialWire(t, g, "ci", generous(), false)
	for flags, want := range map[int]string{
		writeFlag | creatFlag: "handle", writeFlag | creatFlag | truncFlag: "handle", writeFlag | creatFlag | exclFlag: "handle",
		writeFlag: "4", writeFlag | truncFlag: "4", creatFlag: "4", appendFlag: "4", writeFlag | creatFlag | appendFlag: "4",
		readFlag | writeFlag | creatFlag: "4", readFlag | writeFlag: "4",
	} {
		a := w.ask(packet(fxpOpen, 1, "/main/"+o.Name, flags, 0))
		if got := summary(a); got != want {
			t.Errorf("flags %#x: %s, want %s", flags, got, want)
		}
		if summary(a) == "handle" {
			w.ask(packet(fxpClose, 1, string(a[9:])))
		}
	}
}

// TestBrokenPutIsNotPublished: a client that vanishes leaves nothing, however much it sent, although a statement waits for these bytes.
func TestBrokenPutIsNotPublished(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	if err := put(t, connect(t, g, "ci"), "/main/"+o.Name+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource))); err != nil {
		t.Fatal(err)
	}
	waiting := files(t, g.Path("staging"))
	for _, n := range []int{0, 1, len(o.Content) - 1, len(o.Content)} {
		w := dialWire(t, g, "ci", generous(), false)
		h := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, writeFlag|creatFlag, 0))
		if got := summary(w.ask(write(h, 0, string(o.Content[:n])))); got != "0" {
			t.Errorf("write: %s", got)
		}
		w.Close()
		eventually(t, "nothing is held of it", func() bool { return files(t, g.Path("staging")) == waiting })
	}
	if res := g.As("bob").Head("/sstate/main/" + o.Name); res.StatusCode != 404 {
		t.Errorf("published: %d", res.StatusCode)
	}
}

// TestChangesOverSFTP: a writer may make directories of the grammar appear and set times of what it writes. Everything else that
// changes something is refused.
func TestChangesOverSFTP(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	for _, row := range []struct {
		name string
		say  []byte
		want string
	}{
		{"MKDIR", packet(fxpMkdir, 1, "/main/ab", 0), "0"},
		{"MKDIR again", packet(fxpMkdir, 1, "/main/ab", 0), "0"},
		{"MKDIR below", packet(fxpMkdir, 1, "/main/ab/cd/", 0), "0"},
		{"STAT of what was made", packet(fxpStat, 1, "/main/ab/cd"), "attrs"},
		{"OPENDIR of what was made", packet(fxpOpendir, 1, "/main/ab/cd"), "handle"},
		{"SETSTAT of what was made", packet(fxpSetstat, 1, "/main/ab", 4, 0o755), "0"},
		{"STAT of what was not", packet(fxpStat, 1, "/main/ab/ce"), "2"},
		{"MKDIR of a zone", packet(fxpMkdir, 1, "/main", 0), "0"},
		{"MKDIR of no zone", packet(fxpMkdir, 1, "/nowhere", 0), "3"},
		{"MKDIR outside the grammar", packet(fxpMkdir, 1, "/main/a/b/c/d", 0), "3"},
		{"MKDIR of a hidden one", packet(fxpMkdir, 1, "/main/.git", 0), "3"},
		{"MKDIR of an object", packet(fxpMkdir, 1, "/main/"+o.Name, 0), "3"},
		{"SETSTAT of another's", packet(fxpSetstat, 1, "/main/"+o.Name, 4, 0o600), "3"},
		{"SETSTAT of nothing", packet(fxpSetstat, 1, "/main/"+gwtest.NewObject("x", "y").Name, 4, 0o600), "3"},
		{"SETSTAT nowhere", packet(fxpSetstat, 1, "/nowhere", 4, 0o600), "2"},
		{"REMOVE", packet(fxpRemove, 1, "/main/"+o.Name), "3"},
		{"RENAME", packet(fxpRename, 1, "/main/"+o.Name, "/main/x"), "3"},
		{"RMDIR", packet(fxpRmdir, 1, "/main/ab"), "3"},
		{"SYMLINK", packet(fxpSymlink, 1, "/main/"+o.Name, "/main/x"), "3"},
	} {
		w := dialWire(t, g, "ci", generous(), false)
		w.ask(packet(fxpMkdir, 1, "/main/ab/cd", 0))
		w.ask(packet(fxpMkdir, 1, "/main/ab", 0))
		if got := summary(w.ask(row.say)); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	if got := summary(dialWire(t, g, "ci", generous(), false).ask(packet(fxpStat, 1, "/main/ab"))); got != "2" {
		t.Errorf("another connection finds what was made: %s", got)
	}
}
