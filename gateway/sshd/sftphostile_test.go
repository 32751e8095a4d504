package sshd_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// honest is a client on a channel of its own that keeps getting what is there.
type honest struct {
	end  chan struct{}
	wg   sync.WaitGroup
	gets int
	bad  []string
}

func startHonest(t testing.TB, g *gwtest.Gate, name, content string) *honest {
	t.Helper()
	h := &honest{end: make(chan struct{})}
	c := connect(t, g, "alice")
	h.wg.Go(func() {
		for {
			h.gets++
			f, err := c.Open("/main/" + name)
			if err != nil {
				h.bad = append(h.bad, err.Error())
				return
			}
			if got, err := io.ReadAll(f); err != nil || string(got) != content {
				h.bad = append(h.bad, fmt.Sprintf("%q, %v", got, err))
			}
			f.Close()
			select {
			case <-h.end:
				return
			default:
			}
		}
	})
	return h
}

// stop ends the client and returns how many objects it got.
func (h *honest) stop(t *testing.T) int {
	t.Helper()
	close(h.end)
	h.wg.Wait()
	if len(h.bad) > 0 {
		t.Errorf("an honest client got %q", h.bad)
	}
	return h.gets
}

// TestHostileSFTPPaths asks for every hostile name, in every way to ask, as a user who may read everything that is there. Nothing is
// found, unless the name is a directory's, and none reaches an upstream.
func TestHostileSFTPPaths(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	good := publishGood(t, g)
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	h := startHonest(t, g, o.Name, string(o.Content))
	w := dialWire(t, g, "alice", generous(), false)
	for name, want := range good {
		f := w.handle(packet(fxpOpen, 1, "/main/"+name, readFlag, 0))
		if a := w.ask(packet(fxpRead, 2, f, uint64(0), 1<<15)); string(a[min(len(a), 9):]) != want {
			t.Errorf("%s: %q", name, a)
		}
		if a := w.ask(packet(fxpClose, 3, f)); summary(a) != "0" {
			t.Errorf("%s: close: %s", name, summary(a))
		}
	}
	rows := corpus(t, "hostile.txt")
	for name := range good {
		rows = append(rows, namedPath{"percent", strings.ReplaceAll(name, ":", "%3A")}, namedPath{"trailing slash", name + "/"}, namedPath{"trailing dot", name + "/."})
	}
	if len(rows) < 400 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		for _, path := range []string{"/main/" + row.path, "main/" + row.path} {
			for kind, p := range map[string][]byte{
				"open": packet(fxpOpen, 1, path, readFlag, 0), "stat": packet(fxpStat, 1, path), "lstat": packet(fxpLstat, 1, path),
				"opendir": packet(fxpOpendir, 1, path), "readlink": packet(fxpReadlink, 1, path),
			} {
				a := w.ask(p)
				if strings.Contains(string(a), row.path) && row.path != "" {
					t.Errorf("%s %q is echoed in %q", kind, path, a)
				}
				if got := summary(a); got != "2" && !(isDirectory(path) && (got == "attrs" || got == "handle") && kind != "open") {
					t.Errorf("%s: %s %q: %s", row.category, kind, path, got)
				}
				if summary(a) == "handle" {
					w.ask(packet(fxpClose, 2, string(a[9:])))
				}
			}
		}
	}
	if gets := h.stop(t) + len(good); len(g.Upstream.Names()) != gets {
		t.Errorf("%d names reached the upstream, %d were got", len(g.Upstream.Names()), gets)
	}
}

// isDirectory reports whether a path is one of a directory that is there, perhaps by a detour.
func isDirectory(path string) bool {
	zone, rest, ok := sshd.ParsePath(path)
	if !ok {
		return false
	}
	_, err := artifact.ParseDir(rest)
	return zone == "" || err == nil && zone == "main"
}

// hostilePackets are what a client says after it was greeted, and the summaries of the answers. {H} is the handle of an open file of
// 17 bytes, {D} of an open directory. What ends the channel says "closed".
func hostilePackets(file, dir string) []hostileRow {
	long := strings.Repeat("a", 5000)
	stat := func(path string) []byte { return packet(fxpStat, 1, path) }
	return []hostileRow{
		// Lengths.
		{"length 0", []byte{0, 0, 0, 0}, "closed"},
		{"length 0 and more", bytes.Repeat([]byte{0}, 64), "closed"},
		{"length 4 GiB", []byte{0xff, 0xff, 0xff, 0xff, fxpStat, 0}, "closed"},
		{"length 2 GiB", []byte{0x80, 0, 0, 0, fxpStat, 0}, "closed"},
		{"length of one more than may be", lying(packet(fxpWrite, 1, file, uint64(0), "x"), 256<<10+1), "closed"},
		{"long STAT", stat(strings.Repeat("a", 33<<10)), "closed"},
		{"long OPEN", packet(fxpOpen, 1, "/main", readFlag, 0, make([]byte, 40<<10)), "closed"},
		{"long extended", packet(fxpExtended, 1, "limits@openssh.com", make([]byte, 40<<10)), "closed"},
		{"type alone", packet(fxpStat), "closed"},
		{"half an id", packet(fxpStat, []byte{0, 0}), "closed"},
		{"id alone", packet(fxpStat, 1), "closed"},
		{"string that lies", packet(fxpStat, 1, 100, []byte("/main")), "closed"},
		{"string of 4 GiB", packet(fxpStat, 1, -1, []byte("/main")), "closed"},
		{"string of 2 GiB", packet(fxpOpen, 1, 1<<31-1, []byte("/main")), "closed"},
		{"OPEN without flags", packet(fxpOpen, 1, "/main"), "closed"},
		{"OPEN without attributes", packet(fxpOpen, 1, "/main", readFlag), "closed"},
		{"READ without length", packet(fxpRead, 1, file, uint64(0)), "closed"},
		{"READ without offset", packet(fxpRead, 1, file), "closed"},
		{"READ with a handle that lies", packet(fxpRead, 1, 99, []byte("1")), "closed"},
		{"WRITE that brings less than it says", packet(fxpWrite, 1, file, uint64(0), 100, []byte("x")), "closed"},
		{"CLOSE without handle", packet(fxpClose, 1), "closed"},
		{"RENAME with one path", packet(fxpRename, 1, "/main"), "closed"},
		{"SYMLINK with one path", packet(fxpSymlink, 1, "/main"), "closed"},
		{"SETSTAT without attributes", packet(fxpSetstat, 1, "/main"), "closed"},
		{"FSETSTAT without attributes", packet(fxpFsetstat, 1, file), "closed"},
		{"extended without name", packet(fxpExtended, 1), "closed"},
		{"extended name that lies", packet(fxpExtended, 1, 50, []byte("limits")), "closed"},
		{"posix-rename with one path", packet(fxpExtended, 1, "posix-rename@openssh.com", "/main"), "closed"},
		{"more behind a STAT", append(stat("/"), stat("/")...), "attrs attrs"},
		{"rubbish in a STAT's tail", packet(fxpStat, 1, "/", []byte("rubbish")), "attrs"},
		// Types.
		{"type 0", packet(0, 1), "closed"},
		{"type 21", packet(21, 1, "/main"), "closed"},
		{"type 100", packet(100, 1, "/main"), "closed"},
		{"type 255", packet(255, 1, "/main"), "closed"},
		{"VERSION", packet(fxpVersion, 3), "closed"},
		{"STATUS", packet(fxpStatus, 1, 0, "", ""), "closed"},
		{"DATA", packet(fxpData, 1, "x"), "closed"},
		{"second INIT", packet(fxpInit, 3), "closed"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "closed"},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.9\r\n"), "closed"},
		{"unknown extension", packet(fxpExtended, 1, "copy-data", "x"), "8"},
		{"empty extension", packet(fxpExtended, 1, ""), "8"},
		{"statvfs", packet(fxpExtended, 1, "statvfs@openssh.com", "/main"), "8"},
		{"fsync", packet(fxpExtended, 1, "fsync@openssh.com", file), "8"},
		{"expand-path", packet(fxpExtended, 1, "expand-path@openssh.com", "~root"), "8"},
		{"users-groups-by-id", packet(fxpExtended, 1, "users-groups-by-id@openssh.com", "", ""), "8"},
		{"limits twice", append(packet(fxpExtended, 1, "limits@openssh.com"), packet(fxpExtended, 2, "limits@openssh.com")...), "extended extended"},
		// Handles.
		{"READ of no handle", packet(fxpRead, 1, "", uint64(0), 1), "4"},
		{"READ of an unknown handle", packet(fxpRead, 1, "999", uint64(0), 1), "4"},
		{"READ of a path", packet(fxpRead, 1, "/main", uint64(0), 1), "4"},
		{"READ of a long handle", packet(fxpRead, 1, long, uint64(0), 1), "4"},
		{"READ of a directory", packet(fxpRead, 1, dir, uint64(0), 1), "name"}, // what a handle is for is what it was opened for
		{"READDIR of a file", packet(fxpReaddir, 1, file), "data(0)"},
		{"READDIR of an unknown handle", packet(fxpReaddir, 1, "77"), "4"},
		{"READDIR thrice", bytes.Repeat(packet(fxpReaddir, 1, dir), 3), "name 1 1"},
		{"CLOSE of an unknown handle", packet(fxpClose, 1, "77"), "4"},
		{"CLOSE twice", bytes.Repeat(packet(fxpClose, 1, file), 2), "0 4"},
		{"READ after CLOSE", append(packet(fxpClose, 1, file), packet(fxpRead, 2, file, uint64(0), 1)...), "0 4|0 data(1)"}, // the READ may overtake
		{"FSTAT of an unknown handle", packet(fxpFstat, 1, "77"), "4"},
		{"FSETSTAT of an unknown handle", packet(fxpFsetstat, 1, "77", 0), "4"},
		{"FSETSTAT of a file to read", packet(fxpFsetstat, 1, file, 4, 0o777), "2"},
		{"WRITE to a file to read", packet(fxpWrite, 1, file, uint64(0), "x"), "data(1)"},
		{"WRITE to a directory", packet(fxpWrite, 1, dir, uint64(0), "x"), "name"},
		// Offsets and lengths.
		{"READ at 2^63", packet(fxpRead, 1, file, uint64(1)<<63, 1), "1"},
		{"READ at 2^64-1", packet(fxpRead, 1, file, ^uint64(0), 1), "1"},
		{"READ at 2^63-1", packet(fxpRead, 1, file, uint64(1)<<63-1, 1<<15), "1"},
		{"READ at the end", packet(fxpRead, 1, file, uint64(17), 1), "1"},
		{"READ at the last byte", packet(fxpRead, 1, file, uint64(16), 1<<15), "data(1)"},
		{"READ of nothing", packet(fxpRead, 1, file, uint64(0), 0), "data(0)"},
		{"READ of 4 GiB", packet(fxpRead, 1, file, uint64(0), -1), "data(17)"},
		{"READs over one another", append(packet(fxpRead, 1, file, uint64(9), 9), packet(fxpRead, 2, file, uint64(3), 9)...), "data(8) data(9)"},
		// Flags.
		{"OPEN without any flag", packet(fxpOpen, 1, "/main/x", 0, 0), "4"},
		{"OPEN with unknown flags", packet(fxpOpen, 1, "/main/x", 1<<20, 0), "4"},
		{"OPEN exclusive alone", packet(fxpOpen, 1, "/main/x", exclFlag, 0), "4"},
		{"OPEN of the root", packet(fxpOpen, 1, "/", readFlag, 0), "2"},
		{"OPEN of a zone", packet(fxpOpen, 1, "/main", readFlag, 0), "2"},
		{"OPEN to write", packet(fxpOpen, 1, "/main/x", writeFlag|creatFlag, 0), "3"},
		{"OPEN to write the root", packet(fxpOpen, 1, "/", writeFlag|creatFlag, 0), "3"},
		{"OPEN to write nowhere", packet(fxpOpen, 1, "/nowhere/x", writeFlag|creatFlag|truncFlag, 0), "3"},
		{"OPEN to append", packet(fxpOpen, 1, "/main/x", appendFlag, 0), "3"},
		{"OPEN to read and write", packet(fxpOpen, 1, "/main/x", readFlag|writeFlag, 0), "3"},
		{"OPEN with attributes that lie", packet(fxpOpen, 1, "/nowhere/x", readFlag, -1, []byte{1}), "2"},
		{"SETSTAT with attributes that lie", packet(fxpSetstat, 1, "/main", -1, []byte{1}), "2"},
		// Paths.
		{"no path", stat(""), "attrs"},
		{"NUL", stat("\x00"), "2"},
		{"NUL behind a directory", stat("/main\x00"), "2"},
		{"newline", stat("/main\n"), "2"},
		{"escape", stat("/main\x1b[2J"), "2"},
		{"UTF-8", stat("/mäin"), "2"},
		{"bad UTF-8", stat("/\xff\xfe"), "2"},
		{"overlong slash", stat("/main\xc0\xaf.."), "2"},
		{"backslashes", stat(`\main`), "2"},
		{"backslash way up", stat(`/main\..\..`), "2"},
		{"percent", stat("/%6dain"), "2"},
		{"percent slash", stat("/main%2f"), "2"},
		{"space", stat("/main "), "2"},
		{"tilde", stat("~"), "2"},
		{"way up", stat("../../../etc/passwd"), "2"},
		{"way up from a zone", stat("/main/../../etc"), "2"},
		{"way up and back", stat("/../main/../main"), "attrs"},
		{"capitals", stat("/MAIN"), "2"},
		{"5000 bytes", stat("/main/" + long), "2"},
		{"5000 segments", stat(strings.Repeat("/a", 5000)), "2"},
		{"5000 dots", stat(strings.Repeat("/..", 5000)), "2"},
		{"2049 bytes", stat(strings.Repeat("/", 2049)), "2"},
		{"REALPATH of nothing", packet(fxpRealpath, 1, ""), "name"},
		{"REALPATH way up", packet(fxpRealpath, 1, "/../../.."), "name"},
		{"REALPATH of NUL", packet(fxpRealpath, 1, "\x00"), "2"},
		{"REALPATH of 5000 bytes", packet(fxpRealpath, 1, long), "2"},
		{"READLINK of the root", packet(fxpReadlink, 1, "/"), "2"},
		// What would change something.
		{"SYMLINK", packet(fxpSymlink, 1, "/etc/passwd", "/main/x"), "3"},
		{"SYMLINK of NUL", packet(fxpSymlink, 1, "\x00", "\xff"), "3"},
		{"SYMLINK of 5000 bytes", packet(fxpSymlink, 1, long, long), "3"},
		{"hardlink", packet(fxpExtended, 1, "hardlink@openssh.com", "/main", "/x"), "3"},
		{"posix-rename", packet(fxpExtended, 1, "posix-rename@openssh.com", "/main", "/x"), "3"},
		{"RENAME", packet(fxpRename, 1, "/main", "/x"), "3"},
		{"REMOVE", packet(fxpRemove, 1, "/main"), "3"},
		{"REMOVE of the root", packet(fxpRemove, 1, "/"), "3"},
		{"RMDIR", packet(fxpRmdir, 1, "/main"), "3"},
		{"MKDIR", packet(fxpMkdir, 1, "/main/ab", 0), "3"},
		{"MKDIR of the root", packet(fxpMkdir, 1, "/", 0), "3"},
		{"MKDIR of NUL", packet(fxpMkdir, 1, "/main/\x00", 0), "3"},
		{"SETSTAT", packet(fxpSetstat, 1, "/main", 4, 0o777), "2"},
	}
}

type hostileRow struct {
	name string
	say  []byte
	want string
}

// TestHostileSFTPPackets says what no client should, each on a channel of its own, and then an ordinary question. Another channel is
// served meanwhile.
func TestHostileSFTPPackets(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	o.Content = []byte("seventeen bytes..")
	g.Publish([]gwtest.Object{o}, privateSource)
	h := startHonest(t, g, o.Name, string(o.Content))
	n := len(hostilePackets("", ""))
	if n < 80 {
		t.Fatalf("%d rows, want 80 or more", n)
	}
	for i := range n {
		w := dialWire(t, g, "alice", generous(), false)
		file := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0))
		dir := w.handle(packet(fxpOpendir, 2, "/main"))
		row := hostilePackets(file, dir)[i]
		w.say(append(bytes.Clone(row.say), packet(fxpRealpath, 0xfefefe, "/")...))
		var got []string
		for {
			a := w.answer()
			if len(a) > 5 && bytes.Equal(a[1:5], []byte{0, 0xfe, 0xfe, 0xfe}) {
				break
			}
			if got = append(got, summary(a)); a == nil {
				break
			}
		}
		if got := strings.Join(got, " "); !slices.Contains(strings.Split(row.want, "|"), got) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
		w.Close()
	}
	gets := h.stop(t)
	reads := 0
	for _, row := range hostilePackets("", "") {
		reads += strings.Count(row.want, "data(")
	}
	if names := len(g.Upstream.Names()); names < gets || names > gets+2*reads {
		t.Errorf("%d names reached the upstream; an honest client got %d, and %d READs were answered with data", names, gets, reads)
	}
}

// TestHostileSFTPGreetings: a channel begins with INIT of version 3 or higher.
func TestHostileSFTPGreetings(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	for _, row := range []hostileRow{
		{"version 3", packet(fxpInit, 3), "version"},
		{"version 6", packet(fxpInit, 6), "version"},
		{"version 2^32-1", packet(fxpInit, -1), "version"},
		{"extensions", packet(fxpInit, 3, "newline@vandyke.com", "\r\n"), "version"},
		{"extensions that lie", packet(fxpInit, 3, []byte{0xff, 0xff, 0xff, 0xff}), "version"},
		{"version 2", packet(fxpInit, 2), "closed"},
		{"version 0", packet(fxpInit, 0), "closed"},
		{"no version", packet(fxpInit), "closed"},
		{"half a version", packet(fxpInit, []byte{0, 0}), "closed"},
		{"long INIT", packet(fxpInit, 3, make([]byte, 40<<10)), "closed"},
		{"STAT first", packet(fxpStat, 1, "/"), "closed"},
		{"limits first", packet(fxpExtended, 1, "limits@openssh.com"), "closed"},
		{"READ first", packet(fxpRead, 1, "1", uint64(0), 1), "closed"},
		{"WRITE first", packet(fxpWrite, 1, "1", uint64(0), "x"), "closed"},
		{"VERSION first", packet(fxpVersion, 3), "closed"},
	} {
		w := dialWire(t, g, "alice", generous(), true)
		if got := summary(w.ask(row.say)); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

// TestSFTPLimits: a client is told how long packets may be, and they may be as long.
func TestSFTPLimits(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := sized(t, "large", 1<<20)
	g.Publish([]gwtest.Object{o}, publicSource)
	w := dialWire(t, g, "bob", generous(), true)
	if got, want := w.ask(packet(fxpInit, 3)), packet(fxpVersion, 3, "limits@openssh.com", "1")[4:]; !bytes.Equal(got, want) {
		t.Errorf("VERSION is %q", got)
	}
	got, want := w.ask(packet(fxpExtended, 7, "limits@openssh.com")), packet(fxpExtendedReply, 7, uint64(256<<10), uint64(255<<10), uint64(255<<10), uint64(64))[4:]
	if !bytes.Equal(got, want) {
		t.Errorf("limits are %x, want %x", got, want)
	}
	f := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0))
	if a := w.ask(packet(fxpRead, 1, f, uint64(5), 255<<10)); !bytes.Equal(a[9:], o.Content[5:5+255<<10]) {
		t.Errorf("a long READ is answered with %s", summary(a))
	}
	if a := w.ask(packet(fxpRead, 1, f, uint64(5), 1<<20)); summary(a) != fmt.Sprintf("data(%d)", 255<<10) {
		t.Errorf("a READ beyond the limit is answered with %s", summary(a))
	}
}

// TestSFTPHandles: files and directories that are open at once are bounded, and closing makes room.
func TestSFTPHandles(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	w := dialWire(t, g, "ci", sshd.Limits{OpenHandles: 6, ProgressWindow: time.Minute}, false)
	opens := [][]byte{
		packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0), packet(fxpOpendir, 1, "/main"),
		packet(fxpOpen, 1, "/main/"+gwtest.NewObject("other", "package").Name, writeFlag|creatFlag, 0),
	}
	for range 50 {
		var open []string
		for i := range 6 {
			open = append(open, w.handle(opens[i%3]))
		}
		for range 100 {
			for _, p := range opens {
				if got := summary(w.ask(p)); got != "4" {
					t.Fatalf("a seventh handle: %s", got)
				}
			}
		}
		if got := summary(w.ask(packet(fxpOpen, 1, "/main/absent", readFlag, 0))); got != "4" {
			t.Errorf("absent: %s", got)
		}
		for _, h := range open {
			w.ask(packet(fxpClose, 2, h))
		}
	}
}
