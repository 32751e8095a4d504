package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/internal/gwtest"
)

func keeping(dir string) func(*Config) { return func(c *Config) { c.Cache = dir } }

// TestCache: what another build fetched is not downloaded again, and the gate is asked all the same.
func TestCache(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	dir, path := filepath.Join(t.TempDir(), "cache"), "/main/"+hello.Name
	first := start(t, g, "bob", keeping(dir))
	first.want("HEAD", first.status("HEAD", path, true), 200)
	first.want("downloads", first.spy.count("GET object"), 1)
	first.stop()

	h := start(t, g, "bob", keeping(dir))
	for range 2 {
		h.want("HEAD", h.status("HEAD", path, true), 200)
		if res, body := h.ask("GET", path, true); res.StatusCode != 200 || !bytes.Equal(body, hello.Content) {
			t.Errorf("GET: %s, %q", res.Status, body)
		}
	}
	h.want("downloads", h.spy.count("GET object"), 0)
	h.want("questions", h.spy.count("HEAD object"), 1)
	if s := h.agent.Status(); s.CacheHits != 1 || s.Spooled != 0 || s.Fetched != 0 {
		t.Errorf("%+v", s)
	}
	h.spy.breaks(pulled)
	h.clock.pass(promiseTime)
	h.want("HEAD without the gate", h.status("HEAD", path, true), 404)
	h.want("GET without the gate", h.status("GET", path, true), 404)
}

// TestCacheTellsNobodyElse: what is kept is not handed to who may not read it, nor to who may not any more.
func TestCacheTellsNobodyElse(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", keeping(filepath.Join(t.TempDir(), "cache")))
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	h.creds.set(g.As("carol").Token)
	h.want("HEAD of carol", h.status("HEAD", path, true), 404)
	h.creds.set(g.As("bob").Token)
	h.want("HEAD of bob again", h.status("HEAD", path, true), 200)
	g.Revoke("bob")
	h.clock.pass(promiseTime)
	h.want("presence after the token was revoked", h.status("HEAD", path, false), 404)
	h.want("HEAD after the token was revoked", h.status("HEAD", path, true), 404)
	h.want("GET after the token was revoked", h.status("GET", path, true), 404)
	h.want("downloads", h.spy.count("GET object"), 1)
}

// TestCacheIsVerified: a file that was changed is downloaded again, and mended.
func TestCacheIsVerified(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	dir, path := filepath.Join(t.TempDir(), "cache"), "/main/"+hello.Name
	file := filepath.Join(dir, cacheName(sha256.Sum256(hello.Content)))
	for _, content := range []string{"", "evil", string(hello.Content) + "!"} {
		h := start(t, g, "bob", keeping(dir))
		if content != "" {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if res, body := h.ask("GET", path, true); res.StatusCode != 200 || !bytes.Equal(body, hello.Content) {
			t.Errorf("GET: %s, %q", res.Status, body)
		}
		h.want("downloads", h.spy.count("GET object"), 1)
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, hello.Content) {
			t.Errorf("kept: %q, %v", got, err)
		}
		h.stop()
	}
}

// TestCacheFails: a cache that cannot be written to costs downloads and a warning, and nothing else.
func TestCacheFails(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	one, two := gwtest.NewObject("one", "package"), gwtest.NewObject("two", "package")
	g.Publish([]gwtest.Object{one, two}, publicSource)
	dir := filepath.Join(t.TempDir(), "cache")
	h := start(t, g, "bob", keeping(dir))
	for _, o := range []gwtest.Object{one, two} { // a file is where the directory should be
		if err := os.WriteFile(filepath.Join(dir, artifact.Digest(sha256.Sum256(o.Content)).Hex()[:2]), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		h.want("HEAD", h.status("HEAD", "/main/"+o.Name, true), 200)
		h.want("GET", h.status("GET", "/main/"+o.Name, true), 200)
	}
	h.want("warnings", h.log.count("cause=cache"), 1)
}

func TestCacheIsPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(dir, 1<<20, time.Now); err == nil || !strings.Contains(err.Error(), "where the cache is to be: chmod 700") {
		t.Errorf("in a directory of others: %v", err)
	}
}

// TestCacheIsBounded: what was used longest ago goes first, and files of others stay.
func TestCacheIsBounded(t *testing.T) {
	clock, dir := newClock(), filepath.Join(t.TempDir(), "cache")
	c, err := openCache(dir, 16_000, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	stranger := filepath.Join(dir, "thesis.txt")
	abandonedFile := filepath.Join(dir, "ab", cachePrefix+"X")
	if err := errors.Join(os.WriteFile(stranger, make([]byte, 50_000), 0o600), os.Mkdir(filepath.Dir(abandonedFile), 0o700), os.WriteFile(abandonedFile, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	content := func(i int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%04d", i)), 250) }
	put := func(i int) artifact.Digest {
		clock.pass(time.Second)
		d := artifact.Digest(sha256.Sum256(content(i)))
		if err := c.put(d, bytes.NewReader(content(i)), 1000); err != nil {
			t.Fatal(err)
		}
		return d
	}
	there := func(d artifact.Digest) bool {
		clock.pass(time.Second)
		f, _, err := c.open(t.Context(), d)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return false
		}
		return f.Close() == nil
	}
	first, second := put(0), put(1)
	for i := range 100 {
		put(i + 2)
		if !there(first) {
			t.Fatalf("what is used goes, after %d", i)
		}
		if _, size, err := c.look(); err != nil || size > c.limit {
			t.Fatalf("%d bytes, %v", size, err)
		}
	}
	if there(second) {
		t.Error("what is not used stays")
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
	big := bytes.Repeat([]byte("x"), 9000)
	if d := artifact.Digest(sha256.Sum256(big)); c.put(d, bytes.NewReader(big), 9000) != nil || there(d) {
		t.Error("an object that fills the cache is kept")
	}
	if err := os.Chtimes(abandonedFile, clock.Now(), clock.Now()); err != nil {
		t.Fatal(err)
	}
	clock.pass(2 * abandoned)
	if _, _, err := c.look(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abandonedFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody writes any more: %v", err)
	}
}
