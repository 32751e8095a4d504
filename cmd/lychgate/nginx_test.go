package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
)

// startNginx serves a directory as people do who have a mirror, with directory indexes.
func startNginx(t *testing.T, root string) (url string, stop func()) {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // whoever runs the tests owns the files
	}
	conf := fmt.Sprintf(`%s daemon off; worker_processes 1; pid nginx.pid; error_log error.log;
events {}
http {
	access_log access.log; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server { listen %s; root %q; autoindex on; }
}
`, user, address, root)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	cmd := exec.Command(tool(t, "nginx"), "-p", dir, "-c", "nginx.conf", "-e", "error.log")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is stopped on purpose
		close(done)
	}()
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have stopped already
		<-done
	}
	t.Cleanup(stop)
	w := &world{t: t}
	p := &process{world: w, log: &log, done: done}
	url = "http://" + address + "/"
	p.await("nginx answers", func() bool {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	return url, stop
}

// sampleCopy copies the sample cache, which lies beside the repository, and adds a recipe whose archive has several chunks.
func sampleCopy(t *testing.T) (dir string, names []string, large item) {
	t.Helper()
	from := filepath.Join("..", "..", "..", "shared", "sstate-sample", "sstate")
	if _, err := os.Stat(from); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the sample cache is missing: %v", err)
		}
		t.Skipf("the sample cache is missing: %v", err)
	}
	dir = filepath.Join(t.TempDir(), "sstate")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	large = newItem("large-native", 3*provenance.ChunkSize+12345, false)
	fetch, url := exampleHash("large-native", "fetch"), "git://git.example.com/public/large.git;protocol=https;branch=main"
	for _, err := range []error{
		writeTask(dir, "large-native", "fetch", fetch, map[string]string{}, map[string]string{"SRC_URI": url, "fetcher_hashes_dummyfunc": strings.Repeat("5d", 20)}),
		writeTask(dir, "large-native", "populate_sysroot", exampleHash("large-native", "populate_sysroot"), map[string]string{"large-native:do_fetch": fetch}, map[string]string{}),
		writeObject(dir, large.name, large.content),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil || len(names) != 130 {
		t.Fatalf("the sample has %d objects (%v), want 127 and 3", len(names), err)
	}
	return dir, names, large
}

// TestNginxMirror imports a cache that nginx serves, reads all of it through the gate, and then changes files behind nginx: the
// gate passes on the recorded bytes or none that look whole.
func TestNginxMirror(t *testing.T) {
	t.Parallel()
	cache, names, large := sampleCopy(t)
	mirror, stopNginx := startNginx(t, cache)
	w := newWorld(t, raceBinary(t), func(_, text string) string {
		zone := "  - name: %s\n    mirror: " + mirror + "\n    writers: {users: [git.example.com/ci]}\n    signers: [ci]\n"
		before, after, _ := strings.Cut(text, "  - name: main")
		_, after, _ = strings.Cut(after, "signers:\n")
		return before + fmt.Sprintf(zone, "main") + fmt.Sprintf(zone, "listed") + "signers:\n" + after
	})
	gate := w.start()
	list := w.q.path("names")
	if err := os.WriteFile(list, []byte(strings.Join(names, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--zone", "main"}, {"--zone", "listed", "--names", list}} {
		args = append([]string{"import", mirror, "-q", "--token-file", w.q.path("ci.token"), "--key", w.q.path("ci.key")}, args...)
		out, code := w.run(args...)
		if code != exitOK || !strings.Contains(out, "130 objects") || !strings.Contains(out, "130 stored") {
			t.Fatalf("%q: exit code %d\n%s", args, code, out)
		}
	}
	if n := w.metric("lychgate_records"); n != "260" {
		t.Errorf("%s records, want 260", n)
	}
	if blobs, err := os.ReadDir(filepath.Join(w.cfg.Blobs.Value, "sha256")); err == nil {
		t.Errorf("an import copied %d blobs", len(blobs))
	}

	alice := w.person("alice")
	for _, zone := range []string{"main", "listed"} {
		for _, name := range names {
			got := alice.do("GET", "/sstate/"+zone+"/"+name, nil)
			if strings.Contains(name, "harness-all") { // built from nothing
				if got.status != http.StatusNotFound {
					t.Errorf("%s is served: %d", name, got.status)
				}
				continue
			}
			want, err := os.ReadFile(filepath.Join(cache, name))
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(want); got.err != nil || !bytes.Equal(got.body, want) || got.header.Get("Etag") != `"`+hex.EncodeToString(sum[:])+`"` {
				t.Errorf("%s: %d, %d bytes of %d, %v", name, got.status, len(got.body), len(want), got.err)
			}
		}
	}
	if off := provenance.ChunkSize + 77; !bytes.Equal(alice.do("GET", at(large.name), nil, "Range", fmt.Sprintf("bytes=%d-", off)).body, large.content[off:]) {
		t.Error("a range from within a chunk has other bytes")
	}

	file := filepath.Join(cache, large.name)
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{"the first octet", func(b []byte) []byte { b[0] ^= 1; return b }},
		{"the last octet", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"an octet in the middle", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"cut short", func(b []byte) []byte { return b[:len(b)-1] }},
		{"empty", func(b []byte) []byte { return nil }},
		{"longer", func(b []byte) []byte { return append(b, "more"...) }},
		{"another object of the same size", func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }},
	} {
		if err := os.WriteFile(file, c.change(slices.Clone(large.content)), 0o600); err != nil {
			t.Fatal(err)
		}
		got := alice.do("GET", at(large.name), nil)
		cut := got.status == http.StatusOK && got.err != nil && bytes.HasPrefix(large.content, got.body)
		if !cut && got.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d, %d bytes, %v", c.name, got.status, len(got.body), got.err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := alice.do("GET", at(large.name), nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("a file that is gone: %d", got.status)
	}
	if err := os.WriteFile(file, large.content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := alice.do("GET", at(large.name), nil); !bytes.Equal(got.body, large.content) {
		t.Errorf("after the file is mended: %d, %d bytes", got.status, len(got.body))
	}
	stopNginx()
	if got := alice.do("GET", at(large.name), nil); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("without nginx: %d", got.status)
	}
	if got := alice.do("HEAD", at(large.name), nil); got.status != http.StatusOK {
		t.Errorf("HEAD, which the record answers, without nginx: %d", got.status)
	}
	gate.stop()
	w.demandEvent(audit.KindMismatch)
}
