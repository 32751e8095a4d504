package sshd_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// burst sends packets at once and returns what the gate sends in one piece.
func (w *sftpWire) burst(packets ...[]byte) []byte {
	w.t.Helper()
	w.say(bytes.Join(packets, nil))
	piece := make([]byte, 64<<10)
	n, err := w.Read(piece)
	if err != nil {
		w.t.Fatal(err)
	}
	return piece[:n]
}

// TestStatsAnsweredAlike: what the gate answers to a STAT itself, and what it has pkg/sftp answer while a directory is open, are the
// same bytes, whatever is asked and whoever asks.
func TestStatsAnsweredAlike(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	paths := []string{
		"", "/", ".", "..", "/main", "main", "/main/", "//main//", "/main/../main", "/nowhere", "/main/universal", "/main/universal/..",
		"/main/ab", "/main/ab/cd", "/main/ab/ce", "/%", "/%6dain", "\x00", "\xff", strings.Repeat("/", 2049), strings.Repeat("a", 5000),
	}
	for name := range publishGood(t, g) {
		paths = append(paths, "/main/"+name, "main/"+name, "/main//"+name, "/main/"+name+"/", "/main/../main/"+name, "/nowhere/"+name)
	}
	for _, line := range corpus(t, "hostile.txt") {
		paths = append(paths, "/main/"+line.path)
	}
	for _, user := range []string{"alice", "bob", "ci"} {
		quick, slow := dialWire(t, g, user, generous(), false), dialWire(t, g, user, generous(), false)
		for _, w := range []*sftpWire{quick, slow} {
			w.ask(packet(fxpMkdir, 1, "/main/ab/cd", 0)) // a writer finds it, others do not
		}
		slow.handle(packet(fxpOpendir, 1, "/"))
		for _, kind := range []byte{fxpStat, fxpLstat} {
			for i, path := range paths {
				p := packet(kind, i, path)
				if got, want := quick.ask(p), slow.ask(p); want == nil || !bytes.Equal(got, want) {
					t.Errorf("%s, packet %d of %q: %x, pkg/sftp answers %x", user, kind, path, got, want)
				}
			}
		}
	}
}

// TestStatsAnsweredAtOnce: the answers to STATs that come together leave together, and those of pkg/sftp one by one: it is only asked
// while something is open, or for something else.
func TestStatsAnsweredAtOnce(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	w := dialWire(t, g, "alice", generous(), false)
	count := func(piece []byte) (n int) {
		for ; len(piece) >= 4; n++ {
			piece = piece[4+binary.BigEndian.Uint32(piece):]
		}
		return n
	}
	stat := packet(fxpStat, 1, "/")
	if n := count(w.burst(stat, stat, stat, stat)); n != 4 {
		t.Errorf("%d answers in one piece, want 4", n)
	}
	d := w.handle(packet(fxpOpendir, 1, "/"))
	if n := count(w.burst(stat, stat)); n != 1 {
		t.Errorf("with an open directory: %d answers in one piece, want 1", n)
	}
	w.answer()
	w.ask(packet(fxpClose, 1, d))
	if n := count(w.burst(stat, stat)); n != 2 {
		t.Errorf("with the directory closed: %d answers in one piece, want 2", n)
	}
}

// TestStatsInOrder: answers come in the order of the requests, whoever makes them, and an answer sees what was done before it.
func TestStatsInOrder(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	w := dialWire(t, g, "ci", generous(), false)
	const rounds = 50
	var said []byte
	for range rounds {
		said = append(said, bytes.Join([][]byte{
			packet(fxpStat, 0, "/main/"+o.Name), packet(fxpLstat, 1, "/nowhere"), packet(fxpRealpath, 2, "."), packet(fxpStat, 3, "/main"),
			packet(fxpMkdir, 4, "/main/ab/cd", 0), packet(fxpStat, 5, "/main/ab/cd"), packet(fxpStat, 6, "/main/ab/ce"),
			packet(fxpOpen, 7, "/nowhere", readFlag, 0),
			packet(fxpStat, 8, "/"), packet(fxpRead, 9, "nothing", uint64(0), 1), packet(fxpStat, 10, "/"),
		}, nil)...)
	}
	w.say(said)
	want := []string{"attrs", "2", "name", "attrs", "0", "attrs", "2", "2", "attrs", "4", "attrs"}
	for round := range rounds {
		for id, what := range want {
			a := w.answer()
			if len(a) < 5 || binary.BigEndian.Uint32(a[1:]) != uint32(id) || summary(a) != what {
				t.Fatalf("round %d, answer %d: %s %x, want %s", round, id, summary(a), a, what)
			}
		}
	}
}
