package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
)

// inOwnMounts runs the test that calls it again in a mount namespace of its own, in which it may mount what it likes, and returns
// false then: the caller returns. In there it returns true.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	const inside = "LYCHGATE_TEST_MOUNTS"
	if os.Getenv(inside) != "" {
		return true
	}
	unshare := []string{"unshare", "--mount"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	probe := append(unshare[1:], "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", t.TempDir())
	if out, err := exec.Command(unshare[0], probe...).CombinedOutput(); err != nil {
		text := fmt.Sprintf("a full disk needs a small file system, and this machine lets nobody mount one: run the tests as root, or allow user namespaces: %v: %s", err, out)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	again := append(unshare[1:], os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd := exec.Command(unshare[0], again...)
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in its own mount namespace: %v", err)
	}
	return false
}

// smallDisk is a file system with little room.
type smallDisk struct {
	t   *testing.T
	dir string
}

func mountSmall(t *testing.T, dir, size string) smallDisk {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return smallDisk{t, dir}
}

func (d smallDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves as many bytes free as spare.
func (d smallDisk) fill(spare int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Truncate(max(0, info.Size()-spare))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// empty gives the space back.
func (d smallDisk) empty() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// TestJournalDiskFull fills the file system of the journal: nothing is served, /readyz says why, and when there is room again the gate
// goes on by itself.
func TestJournalDiskFull(t *testing.T) {
	t.Parallel()
	if !inOwnMounts(t) {
		return
	}
	var disk smallDisk
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		disk = mountSmall(t, filepath.Join(dir, "journal"), "12m")
		return text + "audit: {dir: journal, min_free: 1MiB}\n"
	})
	gate := w.start()
	there, waiting := newItem("there-native", 100_000, true), newItem("waiting-native", 100_000, true)
	w.mustPublish(there)
	up := w.stage(waiting)
	envelope, err := w.statement(w.signer(), up, waiting)
	if err != nil {
		t.Fatal(err)
	}
	alice, ci := w.person("alice"), w.person("ci")
	routes := []func() answered{
		func() answered { return alice.do("GET", at(there.name), nil) },
		func() answered { return alice.do("GET", at(there.name), nil, "Range", "bytes=5-9") },
		func() answered { return alice.do("HEAD", at(there.name), nil) },
		func() answered { return alice.do("GET", at(waiting.name), nil) }, // absent looks no different
		func() answered {
			return alice.do("POST", "/v1/presence?zone=main", []byte(there.name), "Content-Type", "text/plain")
		},
		func() answered { return ci.do("POST", "/v1/uploads/"+up+"/commit", envelope) },
	}
	for range 2 {
		disk.fill(0)
		filled := time.Now()
		gate.await("the gate refuses", func() bool { return alice.do("HEAD", at(there.name), nil).status == http.StatusServiceUnavailable })
		t.Logf("refused %s after the disk was full", time.Since(filled).Round(time.Millisecond))
		for i, route := range routes {
			if got := route(); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || bytes.Contains(got.body, there.content[:64]) {
				t.Errorf("route %d answered %d %q while nothing could be recorded", i, got.status, got.body[:min(len(got.body), 80)])
			}
		}
		if status, text := w.admin("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "audit journal") {
			t.Errorf("/readyz: %d %s", status, text)
		}
		if got := w.metric("lychgate_journal_writable"); got != "0" {
			t.Errorf("lychgate_journal_writable is %q", got)
		}
		disk.empty()
		gate.await("the gate is ready again", func() bool { status, _ := w.admin("/readyz"); return status == http.StatusOK })
		if got := routes[0](); got.status != http.StatusOK || !bytes.Equal(got.body, there.content) {
			t.Errorf("after recovery: %d, %d bytes", got.status, len(got.body))
		}
	}
	if got := routes[len(routes)-1](); got.status != http.StatusCreated {
		t.Errorf("the commit that was refused cannot be repeated: %d %s", got.status, got.body)
	}
	if got := alice.do("GET", at(waiting.name), nil); !bytes.Equal(got.body, waiting.content) {
		t.Errorf("the repeated write: %d, %d bytes", got.status, len(got.body))
	}
	gate.stop()
	w.demandEvent(audit.KindRecovered)
}

// stage uploads an item without committing it, and returns the upload's id.
func (w *world) stage(i item) string {
	w.t.Helper()
	up, err := begin(w.t.Context(), w.client("ci"), i)
	if err != nil {
		w.t.Fatal(err)
	}
	if got := w.person("ci").do("PUT", "/v1/uploads/"+up.ID+"/0", i.content, "Upload-Offset", "0"); got.status != http.StatusNoContent {
		w.t.Fatalf("stage: %d %s", got.status, got.body)
	}
	return up.ID
}

// demandEvent verifies the trail and demands an event of a kind in it.
func (w *world) demandEvent(kind string) {
	w.t.Helper()
	e := gather(w, newHistory())
	if e.trail != nil {
		w.t.Error(e.trail)
	}
	for _, ev := range e.events {
		if ev.Kind == kind {
			return
		}
	}
	w.t.Errorf("the trail holds no event %s", kind)
}

// TestStoreDiskFull fills the file system of the staging directory, the blobs and the database: a write is answered with 503 and
// nothing of it is visible, what is there is served on, and when there is room again the same upload goes on and is published.
func TestStoreDiskFull(t *testing.T) {
	t.Parallel()
	if !inOwnMounts(t) {
		return
	}
	var disk smallDisk
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		disk = mountSmall(t, filepath.Join(dir, "state"), "12m")
		return text + "audit: {dir: journal, min_free: 1MiB}\nlimits: {upload_min_free: 1MiB}\n"
	})
	gate := w.start()
	there, large, plain := newItem("there-native", 100_000, true), newItem("large-native", 3<<20, true), newItem("plain-native", 1<<20, true)
	ready := newItem("ready-native", 300_000, true)
	w.mustPublish(there)
	alice, ci := w.person("alice"), w.person("ci")
	staged := w.stage(ready)
	begun, err := begin(t.Context(), w.client("ci"), large)
	if err != nil {
		t.Fatal(err)
	}
	commit := func(id string, i item) answered {
		envelope, err := w.statement(w.signer(), id, i)
		if err != nil {
			t.Fatal(err)
		}
		return ci.do("POST", "/v1/uploads/"+id+"/commit", envelope)
	}
	piece := func(off int64) answered {
		return ci.do("PUT", "/v1/uploads/"+begun.ID+"/0", large.content[off:], "Upload-Offset", strconv.FormatInt(off, 10))
	}

	disk.fill(1300 << 10) // above limits.upload_min_free, so that the disk itself ends the first write
	refuse := func(what string, got answered) {
		t.Helper()
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
			t.Errorf("%s on a full disk: %d %s", what, got.status, got.body)
		}
	}
	refuse("a piece", piece(0))
	refuse("a plain PUT", ci.do("PUT", at(plain.name), plain.content))
	disk.fill(0)
	refuse("a commit", commit(staged, ready))
	for _, i := range []item{large, plain, ready} {
		if got := alice.do("HEAD", at(i.name), nil); got.status != http.StatusNotFound {
			t.Errorf("%s is visible after a refused write: %d", i.name, got.status)
		}
	}
	if got := alice.do("GET", at(there.name), nil); !bytes.Equal(got.body, there.content) {
		t.Errorf("what was there is not served: %d", got.status)
	}
	if n := w.metric("lychgate_records"); n != "1" {
		t.Errorf("%s records after refused writes", n)
	}

	disk.empty()
	up, err := w.client("ci").Upload(t.Context(), begun.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the upload goes on at %d of %d bytes", up.Objects[0].Offset, len(large.content))
	if got := piece(up.Objects[0].Offset); got.status != http.StatusNoContent {
		t.Errorf("the upload does not go on: %d %s", got.status, got.body)
	}
	for id, i := range map[string]item{begun.ID: large, staged: ready} {
		if got := commit(id, i); got.status != http.StatusCreated {
			t.Errorf("commit of %s: %d %s", i.name, got.status, got.body)
		}
	}
	w.putPlain(ci, plain)
	for _, i := range []item{there, large, plain, ready} {
		if got := alice.do("GET", at(i.name), nil); !bytes.Equal(got.body, i.content) {
			t.Errorf("%s after recovery: %d, %d bytes", i.name, got.status, len(got.body))
		}
	}
	gate.stop()
	e := gather(w, newHistory())
	for _, complaint := range e.complaints() {
		t.Error(complaint)
	}
}

// putPlain writes an item and its statement by plain PUT.
func (w *world) putPlain(p *person, i item) {
	w.t.Helper()
	envelope, err := w.statement(w.signer(), "", i)
	if err != nil {
		w.t.Fatal(err)
	}
	if got := p.do("PUT", at(i.name), i.content); got.status != http.StatusAccepted {
		w.t.Errorf("PUT: %d %s", got.status, got.body)
	}
	if got := p.do("PUT", at(i.name)+gateway.StatementSuffix, envelope); got.status != http.StatusCreated {
		w.t.Errorf("PUT of the statement: %d %s", got.status, got.body)
	}
}

// TestDiskFullUnderLoad fills and frees the file systems of the journal and of the store under the load of TestKill, and lets the
// checker of TestKill look for anything that was lost.
func TestDiskFullUnderLoad(t *testing.T) {
	t.Parallel()
	if !inOwnMounts(t) {
		return
	}
	var journal, store smallDisk
	w := newWorld(t, raceBinary(t), func(dir, text string) string {
		journal = mountSmall(t, filepath.Join(dir, "journal"), "48m")
		store = mountSmall(t, filepath.Join(dir, "state"), "96m")
		return text + "audit: {dir: journal, min_free: 1MiB}\nlimits: {upload_min_free: 1MiB}\n"
	})
	k := &killRun{world: w, history: newHistory()}
	gate := w.start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	for _, work := range []func(context.Context){k.uploads, k.plainPuts, k.reads("alice"), k.reads("bob"), k.checks("alice")} {
		load.Go(func() { work(ctx) })
	}
	refused := func() bool {
		got := w.person("ci").do("PUT", at(newItem("probe-native", 1, true).name), make([]byte, 1<<20))
		return got.status == http.StatusServiceUnavailable
	}
	moreWrites := func() {
		before := k.acknowledgements()
		gate.await("more writes", func() bool { return k.acknowledgements() > before+10 })
	}
	moreWrites()
	journal.fill(0)
	gate.await("the gate is not ready", func() bool { status, _ := w.admin("/readyz"); return status == http.StatusServiceUnavailable })
	journal.empty()
	gate.await("the gate is ready again", func() bool { status, _ := w.admin("/readyz"); return status == http.StatusOK })
	moreWrites()
	store.fill(64 << 10)
	gate.await("a write is refused", refused)
	store.empty()
	moreWrites()
	cancel()
	load.Wait()
	wal, err := os.Stat(k.q.path("state/lychgate.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	gate.stop()
	e := k.finish()
	for _, complaint := range e.complaints() {
		t.Error(complaint)
	}
	t.Logf("%s; the write-ahead log had %d bytes", e.summary(), wal.Size())
}
