package sshd_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// eventsOf returns the events of a kind.
func eventsOf(g *gwtest.Gate, kind string) (list []audit.Event) {
	for _, e := range g.Events() {
		if e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}

// transferred waits for the one transfer of an object and returns its result.
func transferred(t testing.TB, g *gwtest.Gate, name string) audit.Event {
	t.Helper()
	var found []audit.Event
	eventually(t, "the transfer is recorded", func() bool {
		found = nil
		for _, e := range g.Events() {
			if e.Object.Path == name && (e.Kind == audit.KindTransfer || e.Kind == audit.KindMismatch) {
				found = append(found, e)
			}
		}
		return len(found) > 0
	})
	if len(found) != 1 {
		t.Errorf("%d transfers of %s", len(found), name)
	}
	return found[0]
}

// TestReadsInAnyOrder reads one file from many goroutines, forwards, backwards and at random, all at once. Every answer is right, and
// exactly what was answered is recorded.
func TestReadsInAnyOrder(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := sized(t, "large", 5<<20+123)
	g.Publish([]gwtest.Object{o}, publicSource)
	f, err := connect(t, g, "bob").Open("/main/" + o.Name)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(o.Content))
	var read atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			buf := make([]byte, 100<<10)
			for step := range int64(60) {
				off := step * 80 << 10
				switch i % 4 {
				case 1:
					off = size - off - 1
				case 2, 3:
					off = rnd.Int64N(size)
				}
				want := o.Content[off:min(size, off+rnd.Int64N(int64(len(buf))))]
				n, err := f.ReadAt(buf[:len(want)], off)
				if err != nil || !bytes.Equal(buf[:n], want) {
					t.Errorf("%d bytes at %d: %d, %v", len(want), off, n, err)
				}
				read.Add(int64(n))
			}
		})
	}
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if e := transferred(t, g, o.Name); e.Result.Bytes != read.Load() || !e.Result.Complete {
		t.Errorf("recorded %+v, read %d", e.Result, read.Load())
	}
}

// TestTransferOverSFTPIsRecorded: the event of a transfer says which bytes were sent, how many, and whether the client stayed.
func TestTransferOverSFTPIsRecorded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	for name, row := range map[string]struct {
		reads [][2]int // offset, length
		leave bool
		want  audit.Result
	}{
		"whole":      {[][2]int{{0, 60}, {60, 100}}, false, audit.Result{Status: http.StatusOK, Bytes: 100, Complete: true}},
		"rest":       {[][2]int{{40, 100}}, false, audit.Result{Status: http.StatusPartialContent, Bytes: 60, Range: "40-99", Complete: true}},
		"twice":      {[][2]int{{10, 10}, {10, 10}, {5, 1}}, false, audit.Result{Status: http.StatusPartialContent, Bytes: 21, Range: "5-19", Complete: true}},
		"nothing":    {nil, false, audit.Result{Status: http.StatusOK, Complete: true}},
		"beyond":     {[][2]int{{100, 10}}, false, audit.Result{Status: http.StatusOK, Complete: true}},
		"and leaves": {[][2]int{{0, 10}}, true, audit.Result{Status: http.StatusPartialContent, Bytes: 10, Range: "0-9"}},
	} {
		o := sized(t, strings.ReplaceAll(name, " ", "-"), 100)
		g.Publish([]gwtest.Object{o}, publicSource)
		w := dialWire(t, g, "bob", generous(), false)
		h := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0))
		for _, r := range row.reads {
			w.ask(packet(fxpRead, 1, h, uint64(r[0]), r[1]))
		}
		if !row.leave {
			w.ask(packet(fxpClose, 1, h))
		}
		w.Close()
		e := transferred(t, g, o.Name)
		if e.Result.Micros = 0; e.Result != row.want || e.Door != "ssh" || e.Actor.Name != "bob" {
			t.Errorf("%s: %+v, want %+v", name, e.Result, row.want)
		}
	}
}

// TestWithdrawnRightCutsSFTP: a file that stays open is not read on, and a directory not shown on, once the right to it is gone.
func TestWithdrawnRightCutsSFTP(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := sized(t, "large", 1<<20)
	g.Publish([]gwtest.Object{o}, publicSource)
	w := dialWire(t, g, "bob", generous(), false)
	d := w.handle(packet(fxpOpendir, 1, "/main")) // before the file: when that is asked about again, so is this
	f := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0))
	if got := summary(w.ask(packet(fxpRead, 1, f, uint64(0), 10))); got != "data(10)" {
		t.Fatal(got)
	}
	g.WriteForge(strings.Replace(gwtest.DefaultForge, "users: [bob]", "users: [carol]", 1))
	eventually(t, "bob does not see the object any more", func() bool { return summary(w.ask(packet(fxpStat, 1, "/main/"+o.Name))) == "2" })
	eventually(t, "the open file is not read on", func() bool { return summary(w.ask(packet(fxpRead, 1, f, uint64(0), 10))) == "2" })
	if got := summary(w.ask(packet(fxpReaddir, 1, d))); got != "2" {
		t.Errorf("the open directory: %s", got)
	}
	if n := len(eventsOf(g, "transfer.cut")); n != 1 {
		t.Errorf("%d events of a cut transfer", n)
	}
	w.ask(packet(fxpClose, 1, f))
	if e := transferred(t, g, o.Name); e.Result.Complete || e.Result.Bytes < 10 {
		t.Errorf("recorded %+v", e.Result)
	}
}

// TestMirrorOverSFTP: bytes of a mirror are verified before they leave.
func TestMirrorOverSFTP(t *testing.T) {
	g, o := mirrored(t)
	f, err := connect(t, g, "bob").Open("/main/" + o.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 32<<10)
	if n, err := f.ReadAt(buf, 0); err != nil || !bytes.Equal(buf[:n], o.Content[:n]) {
		t.Errorf("the good chunk: %v", err)
	}
	if _, err := f.ReadAt(buf, 1<<20); err == nil || !strings.Contains(err.Error(), "unavailable for now") {
		t.Errorf("the bad chunk: %v", err)
	}
	f.Close()
	if e := transferred(t, g, o.Name); e.Kind != audit.KindMismatch || e.Result.Bytes != 32<<10 {
		t.Errorf("recorded %s %+v", e.Kind, e.Result)
	}
}

// mirrored returns a gate with an object of two chunks in a mirror, whose second chunk was changed after it was published.
func mirrored(t *testing.T) (*gwtest.Gate, gwtest.Object) {
	t.Helper()
	dir := t.TempDir()
	store, err := upstream.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := gwtest.New(t, gwtest.Options{Mirror: store})
	o := sized(t, "large", 2<<20)
	lay := func(content []byte) {
		file := filepath.Join(dir, o.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	lay(o.Content)
	sum := sha256.Sum256(o.Content)
	c := g.As("ci").Client()
	up, err := c.Begin(t.Context(), "main", gateway.UploadRequest{InPlace: true, Objects: []gateway.UploadObject{{Name: o.Name, Size: 2 << 20, SHA256: hex.EncodeToString(sum[:])}}})
	if err != nil {
		t.Fatal(err)
	}
	st := g.Statement([]gwtest.Object{o}, publicSource)
	st.UploadID = up.ID
	if _, err := c.Commit(t.Context(), up.ID, g.Seal(st)); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(o.Content)
	bad[1<<20]++
	lay(bad)
	return g, o
}

// TestClientsThatVanish: nothing stays of clients that leave in the middle of anything.
func TestClientsThatVanish(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := sized(t, "large", 8<<20)
	g.Publish([]gwtest.Object{o}, publicSource)
	before := runtime.NumGoroutine()
	for i := range 10 {
		w := dialWire(t, g, "ci", generous(), false)
		f := w.handle(packet(fxpOpen, 1, "/main/"+o.Name, readFlag, 0))
		up := w.handle(packet(fxpOpen, 1, "/main/"+gwtest.NewObject(fmt.Sprint("new", i), "package").Name, writeFlag|creatFlag, 0))
		var all []byte
		for n := range 100 {
			all = append(all, packet(fxpRead, n, f, uint64(n*32<<10), 32<<10)...)
			all = append(all, packet(fxpWrite, n, up, uint64((n+n/50)*1000), string(make([]byte, 1000)))...) // with a hole
		}
		w.say(all[:len(all)-5])
		if _, err := io.CopyN(io.Discard, w.Conn, int64(i*100_000)); err != nil {
			t.Error(err)
		}
		w.Close()
	}
	eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
	if n := len(eventsOf(g, audit.KindTransfer)); n != 10 {
		t.Errorf("%d transfers are recorded, want 10", n)
	}
}

// TestClientThatTakesNothing: a channel whose client asks and takes no answer ends.
func TestClientThatTakesNothing(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	w := dialWire(t, g, "bob", sshd.Limits{OpenHandles: 4, ProgressWindow: 100 * time.Millisecond}, false)
	w.say(bytes.Repeat(packet(fxpStat, 1, "/"), 1000))
	eventually(t, "the channel ends", func() bool {
		_, err := w.Write(nil)
		return err != nil
	})
}
