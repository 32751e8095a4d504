package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// chunk is what is verified at once.
const chunk = provenance.ChunkSize

// fault is a way in which a mirror goes wrong.
type fault struct {
	name   string
	absent bool                                                   // of Open
	fails  error                                                  // of Open
	grown  int64                                                  // added to the size that Open tells
	spoil  func(content []byte) []byte                            // what is really read, from the first byte of the object on
	body   func(ctx context.Context, content io.Reader) io.Reader // how it is read
	whole  string                                                 // what a GET of all gives: "503", "cut", or "200"
}

// flakyMirror holds objects, and has at most one fault at a time.
type flakyMirror struct {
	objects map[string][]byte
	fault   atomic.Pointer[fault]
	open    atomic.Int64 // objects that were not closed yet
}

func (m *flakyMirror) Stat(_ context.Context, name string) (upstream.Info, error) {
	content, ok := m.objects[name]
	if !ok {
		return upstream.Info{}, fs.ErrNotExist
	}
	return upstream.Info{Size: int64(len(content))}, nil
}

func (m *flakyMirror) Open(ctx context.Context, name string, off int64) (*upstream.Object, error) {
	info, err := m.Stat(ctx, name)
	f := m.fault.Load()
	switch {
	case err != nil || f.absent:
		return nil, fs.ErrNotExist
	case f.fails != nil:
		return nil, f.fails
	}
	content := slices.Clone(m.objects[name])
	if f.spoil != nil {
		content = f.spoil(content)
	}
	var body io.Reader = bytes.NewReader(content[min(off, int64(len(content))):])
	if f.body != nil {
		body = f.body(ctx, body)
	}
	info.Size += f.grown
	m.open.Add(1)
	return &upstream.Object{ReadCloser: &countedBody{Reader: body, open: &m.open}, Info: info}, nil
}

// countedBody is closed exactly once.
type countedBody struct {
	io.Reader
	open *atomic.Int64
}

func (b *countedBody) Close() error { b.open.Add(-1); return nil }

// flip changes one bit of byte i.
func flip(i int) func([]byte) []byte {
	return func(b []byte) []byte { b[i] ^= 1; return b }
}

// failingAfter reads n bytes and then fails.
func failingAfter(n int64) func(context.Context, io.Reader) io.Reader {
	return func(_ context.Context, r io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(r, n), errReader{syscall.ECONNRESET})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// drops gives a byte at a time.
type drops struct{ io.Reader }

func (d drops) Read(p []byte) (int, error) { return d.Reader.Read(p[:min(1, len(p))]) }

var faults = []fault{
	{name: "absent", absent: true, whole: "503"},
	{name: "down", fails: errors.New("dial: connection refused"), whole: "503"},
	{name: "not permitted", fails: fs.ErrPermission, whole: "503"},
	{name: "wrong first byte", spoil: flip(0), whole: "503"},
	{name: "wrong last byte of the first chunk", spoil: flip(chunk - 1), whole: "503"},
	{name: "wrong byte in the second chunk", spoil: flip(chunk), whole: "cut"},
	{name: "wrong last byte", spoil: flip(2*chunk + 99), whole: "cut"},
	{name: "error page", spoil: func([]byte) []byte { return []byte("<html>502 Bad Gateway</html>") }, whole: "503"},
	{name: "nothing", spoil: func([]byte) []byte { return nil }, whole: "503"},
	{name: "short", spoil: func(b []byte) []byte { return b[:2*chunk+50] }, whole: "cut"},
	{name: "long", spoil: func(b []byte) []byte { return append(b, "and more"...) }, whole: "200"},
	{name: "smaller", grown: -1, whole: "503"},
	{name: "larger", grown: 1, whole: "503"},
	{name: "of unknown size", grown: -(2*chunk + 100) - 1, whole: "503"},
	{name: "shifted", spoil: func(b []byte) []byte { return append([]byte{0}, b...) }, whole: "503"},
	{name: "reset at once", body: failingAfter(0), whole: "503"},
	{name: "reset within the first chunk", body: failingAfter(1000), whole: "503"},
	{name: "reset within the second chunk", body: failingAfter(chunk + 1000), whole: "cut"},
	{name: "a byte at a time", body: func(_ context.Context, r io.Reader) io.Reader { return drops{r} }, whole: "200"},
}

// TestMirrorFaults: whatever a mirror does, no wrong octet is taken for the object. Before the first chunk is found good the
// answer is 503; after it, the transfer breaks off. Between faults everything works.
func TestMirrorFaults(t *testing.T) {
	mirror, o := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	importAll(t, g, o)
	bob := g.As("bob")
	before := runtime.NumGoroutine()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			mirror.fault.Store(&f)
			if head := bob.Head(mount + o.Name); head.StatusCode != http.StatusOK || head.ContentLength != int64(len(o.Content)) {
				t.Errorf("HEAD, which the record answers: %d", head.StatusCode)
			}
			judge(t, bob.Get(mount+o.Name), o.Content, f.whole)
			for _, off := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, len(o.Content) - 1} {
				res := bob.Get(mount+o.Name, "Range", fmt.Sprintf("bytes=%d-%d", off, off+9))
				judge(t, res, o.Content[off:min(off+10, len(o.Content))], "")
			}
			mirror.fault.Store(&fault{})
			judge(t, bob.Get(mount+o.Name), o.Content, "200")
		})
	}
	if n := mirror.open.Load(); n != 0 {
		t.Errorf("%d objects of the mirror were left open", n)
	}
	eventually(t, "no goroutine is left behind", func() bool { return runtime.NumGoroutine() <= before+5 })
	mismatches := 0
	for _, e := range g.Events() {
		if e.Kind == audit.KindMismatch {
			mismatches++
			if e.Result.Complete {
				t.Errorf("a complete mismatch: %+v", e)
			}
		}
	}
	if mismatches == 0 {
		t.Error("no mismatch was recorded")
	}
}

// flaky returns a mirror without a fault and the object in it.
func flaky() (*flakyMirror, gwtest.Object) {
	o := object("mirrored", noise(9, 2*chunk+100))
	m := &flakyMirror{objects: map[string][]byte{o.Name: o.Content}}
	m.fault.Store(&fault{})
	return m, o
}

// judge wants an answer to be right, an honest 503, or visibly broken off after right bytes. want is one of these, if given.
func judge(t *testing.T, res *gwtest.Response, content []byte, want string) {
	t.Helper()
	got := ""
	switch {
	case res.StatusCode == http.StatusServiceUnavailable && res.Err == nil && res.Header.Get("Etag") == "" && res.Header.Get("Content-Range") == "":
		got = "503"
	case res.StatusCode/100 == 2 && res.Err == nil && bytes.Equal(res.Bytes, content):
		got = "200"
	case res.StatusCode/100 == 2 && res.Err != nil && len(res.Bytes) < len(content) && bytes.HasPrefix(content, res.Bytes):
		got = "cut"
	}
	if got == "" || want != "" && got != want {
		t.Errorf("%d, %d bytes, %v: %q, want %q", res.StatusCode, len(res.Bytes), res.Err, got, want)
	}
}

// importAll publishes objects that lie in the mirror.
func importAll(t testing.TB, g *gwtest.Gate, objects ...gwtest.Object) {
	t.Helper()
	req := announce(objects...)
	req.InPlace = true
	up, err := g.As("ci").Client().Begin(t.Context(), "main", req)
	if err != nil {
		t.Fatal(err)
	}
	st := statement(g, "main", objects, publicSource)
	st.UploadID = up.ID
	if _, err := g.As("ci").Client().Commit(t.Context(), up.ID, g.Seal(st)); err != nil {
		t.Fatal(err)
	}
}

// TestMirrorStalls: a mirror that says nothing holds a reader only as long as the reader wants.
func TestMirrorStalls(t *testing.T) {
	mirror, o := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	importAll(t, g, o)
	var stalled sync.WaitGroup
	stalled.Add(1)
	arrived := sync.OnceFunc(stalled.Done)
	mirror.fault.Store(&fault{body: func(ctx context.Context, _ io.Reader) io.Reader {
		return readerFunc(func([]byte) (int, error) { arrived(); <-ctx.Done(); return 0, ctx.Err() })
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { stalled.Wait(); cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+mount+o.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", g.As("bob").Token)
	if res, err := g.As("bob").HTTP.Do(req); err == nil {
		res.Body.Close()
		t.Errorf("answered %d", res.StatusCode)
	}
	eventually(t, "the mirror's object is closed", func() bool { return mirror.open.Load() == 0 })
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestImportRefuses: what is imported must lie in the mirror, as it was announced.
func TestImportRefuses(t *testing.T) {
	mirror, o := flaky()
	g := gwtest.New(t, gwtest.Options{Mirror: mirror})
	ci := g.As("ci")
	for _, row := range []struct {
		name  string
		o     gwtest.Object
		fault fault
		want  int
	}{
		{"not in the mirror", object("elsewhere", []byte("x")), fault{}, 409},
		{"other bytes", object("mirrored", noise(1, len(o.Content))), fault{}, 409},
		{"fewer bytes", object("mirrored", o.Content[:100]), fault{}, 409},
		{"more bytes", object("mirrored", append(slices.Clone(o.Content), 'x')), fault{}, 409},
		{"cut", o, fault{body: failingAfter(100)}, 503},
		{"down", o, fault{fails: errors.New("down")}, 503},
		{"good", o, fault{}, 201},
	} {
		mirror.fault.Store(&row.fault)
		req := announce(row.o)
		req.InPlace = true
		up, err := ci.Client().Begin(t.Context(), "main", req)
		if err != nil {
			t.Fatal(err)
		}
		if res := stage(ci, up.ID, 0, 0, []byte("x")); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: bytes were taken: %d", row.name, res.StatusCode)
		}
		st := statement(g, "main", []gwtest.Object{row.o}, publicSource)
		st.UploadID = up.ID
		if res := ci.Do(http.MethodPost, "/v1/uploads/"+up.ID+"/commit", g.Seal(st)); res.StatusCode != row.want {
			t.Errorf("%s: %d %s, want %d", row.name, res.StatusCode, res.Bytes, row.want)
		}
	}
}

// fullDisk is a journal's directory on a disk that can be full.
type fullDisk struct {
	dir  string
	full atomic.Bool
}

func (d *fullDisk) fault() error {
	if d.full.Load() {
		return syscall.ENOSPC
	}
	return nil
}

func (d *fullDisk) open(name string, flags int) (audit.File, error) {
	if err := d.fault(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, name), flags|os.O_WRONLY|os.O_APPEND, 0o600)
	return &fullFile{f, d}, err
}

func (d *fullDisk) Create(name string) (audit.File, error) {
	return d.open(name, os.O_CREATE|os.O_EXCL)
}
func (d *fullDisk) Append(name string) (audit.File, error) { return d.open(name, 0) }
func (d *fullDisk) SyncDir() error                         { return d.fault() }

func (d *fullDisk) Rename(from, to string) error {
	return errors.Join(d.fault(), os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to)))
}

type fullFile struct {
	*os.File
	disk *fullDisk
}

func (f *fullFile) Write(p []byte) (int, error) {
	if err := f.disk.fault(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *fullFile) Sync() error { return errors.Join(f.disk.fault(), f.File.Sync()) }

// TestJournalNotWritable: while nothing can be recorded, nothing is served and nothing is published, at once; afterwards all
// is as before. This is the first half of rule 6: an Append that fails lets no byte out.
func TestJournalNotWritable(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) { testJournalNotWritable(t, strict) })
	}
}

func testJournalNotWritable(t *testing.T, strict bool) {
	dir := t.TempDir()
	disk := &fullDisk{dir: filepath.Join(dir, "audit")}
	g := gwtest.New(t, gwtest.Options{Dir: dir, JournalFS: disk, Strict: strict})
	o, fresh, plain := object("hello", []byte("hello")), object("fresh", []byte("fresh")), object("plain", []byte("plain"))
	g.Publish([]gwtest.Object{o}, publicSource)
	ci, bob := g.As("ci"), g.As("bob")
	up := begin(t, ci, "main", fresh)
	stage(ci, up.ID, 0, 0, fresh.Content)
	st := statement(g, "main", []gwtest.Object{fresh}, publicSource)
	st.UploadID = up.ID
	put(ci, mount+plain.Name+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{plain}, publicSource)))
	reached := len(g.Upstream.Names())

	disk.full.Store(true)
	for _, row := range []struct {
		name         string
		u            *gwtest.User
		method, path string
		body         []byte
	}{
		{"HEAD", bob, "HEAD", mount + o.Name, nil},
		{"GET", bob, "GET", mount + o.Name, nil},
		{"HEAD of what is denied", g.As("carol"), "HEAD", mount + o.Name, nil},
		{"GET of what is absent", bob, "GET", mount + fresh.Name, nil},
		{"presence", bob, "POST", "/v1/presence?zone=main", []byte(o.Name + "\n")},
		{"begin", ci, "POST", "/v1/zones/main/uploads", fmt.Appendf(nil, `{"objects":[{"name":%q,"size":1,"sha256":%q}]}`, o.Name, digest(nil).Hex())},
		{"begin without the role", bob, "POST", "/v1/zones/main/uploads", []byte(`{"objects":[]}`)},
		{"commit", ci, "POST", "/v1/uploads/" + up.ID + "/commit", g.Seal(st)},
		{"commit of a bad statement", ci, "POST", "/v1/uploads/" + up.ID + "/commit", []byte("x")},
		{"plain PUT", ci, "PUT", mount + plain.Name, plain.Content},
	} {
		res := row.u.Do(row.method, row.path, row.body)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || strings.Contains(string(res.Bytes), "hello") {
			t.Errorf("%s: %d %q", row.name, res.StatusCode, res.Bytes)
		}
	}
	if names := g.Upstream.Names()[reached:]; len(names) > 0 {
		t.Errorf("reached the upstream: %q", names)
	}
	for _, o := range []gwtest.Object{fresh, plain} {
		if record(t, g, "main", o.Name) != nil {
			t.Errorf("%s has a record", o.Name)
		}
	}
	if res := bob.Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("whoami, which tells nothing of artifacts: %d", res.StatusCode)
	}

	disk.full.Store(false)
	eventually(t, "it serves again", func() bool { return bob.Get(mount+o.Name).StatusCode == http.StatusOK })
	if code, _, failure := commit(ci, up.ID, g.Seal(st)); code != http.StatusCreated {
		t.Errorf("the commit again: %d %+v", code, failure)
	}
	if code, text := put(ci, mount+plain.Name, plain.Content); code != http.StatusCreated {
		t.Errorf("the plain PUT again: %d %q", code, text)
	}
	reads(t, bob, mount+fresh.Name, fresh.Content)
	reads(t, bob, mount+plain.Name, plain.Content)
	g.Events() // verifies the trail
}
