package httpd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// noise is size bytes that follow from seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// uploadRequest announces objects.
func uploadRequest(objects ...gwtest.Object) (req gateway.UploadRequest) {
	for _, o := range objects {
		sum := sha256.Sum256(o.Content)
		req.Objects = append(req.Objects, gateway.UploadObject{Name: o.Name, Size: int64(len(o.Content)), SHA256: hex.EncodeToString(sum[:])})
	}
	return req
}

// importAll publishes objects that lie in a directory which is the mirror of the gate.
func importAll(t testing.TB, g *gwtest.Gate, objects ...gwtest.Object) {
	t.Helper()
	req := uploadRequest(objects...)
	req.InPlace = true
	c := g.As("ci").Client()
	up, err := c.Begin(context.Background(), "main", req)
	if err != nil {
		t.Fatal(err)
	}
	st := g.Statement(objects, publicSource)
	st.UploadID = up.ID
	if _, err := c.Commit(context.Background(), up.ID, g.Seal(st)); err != nil {
		t.Fatal(err)
	}
}

// lay writes objects into a new directory and returns it as a mirror.
func lay(t testing.TB, objects ...gwtest.Object) upstream.Store {
	t.Helper()
	dir := t.TempDir()
	for _, o := range objects {
		file := filepath.Join(dir, filepath.FromSlash(o.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, o.Content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := upstream.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

const size = 2<<20 + 12345 // of the object under test: three chunks

// rangeRows are Range headers and what RFC 9110, section 14, makes of them. A row without a status is the whole object.
var rangeRows = []struct {
	header   string
	ifRange  string // {ETAG} stands for the object's
	off, len int
	status   int
}{
	{header: "bytes=0-0", off: 0, len: 1, status: 206},
	{header: "bytes=0-", off: 0, len: size, status: 206},
	{header: "bytes=1-", off: 1, len: size - 1, status: 206},
	{header: "bytes=5-9", off: 5, len: 5, status: 206},
	{header: "bytes=1048575-1048576", off: 1048575, len: 2, status: 206},
	{header: "bytes=1048576-", off: 1048576, len: size - 1048576, status: 206},
	{header: "bytes=1048577-2097152", off: 1048577, len: 1048576, status: 206},
	{header: fmt.Sprintf("bytes=%d-", size-1), off: size - 1, len: 1, status: 206},
	{header: fmt.Sprintf("bytes=%d-%d", size-3, size+100), off: size - 3, len: 3, status: 206},
	{header: "bytes=0-999999999999999999", off: 0, len: size, status: 206},
	{header: "bytes=-1", off: size - 1, len: 1, status: 206},
	{header: "bytes=-12346", off: size - 12346, len: 12346, status: 206},
	{header: fmt.Sprintf("bytes=-%d", size+1), off: 0, len: size, status: 206},
	{header: "bytes=7-7", ifRange: "{ETAG}", off: 7, len: 1, status: 206},
	{header: fmt.Sprintf("bytes=%d-", size), status: 416},
	{header: fmt.Sprintf("bytes=%d-%d", size+5, size+6), status: 416},
	{header: "bytes=-0", status: 416},
	{header: "bytes=0-0", ifRange: `"another"`},
	{header: "bytes=0-0", ifRange: `W/{ETAG}`},
	{header: "bytes=0-0", ifRange: "Fri, 01 Jan 2100 00:00:00 GMT"},
	{header: fmt.Sprintf("bytes=%d-", size), ifRange: `"another"`},
	{header: "bytes=0-0,2-2"},
	{header: "bytes=0-0, -1"},
	{header: "bytes=,0-0"},
	{header: "bytes=9-5"},
	{header: "bytes=-"},
	{header: "bytes="},
	{header: "bytes=a-b"},
	{header: "bytes=+1-2"},
	{header: "bytes=1-+2"},
	{header: "bytes= 1-2"},
	{header: "bytes=1-2-3"},
	{header: "bytes=--1"},
	{header: "bytes=0x0-0x1"},
	{header: "bytes=9999999999999999999-"},
	{header: "bytes=0-9999999999999999999"},
	{header: "items=0-0"},
	{header: "0-0"},
}

func TestRanges(t *testing.T) {
	uploaded := gwtest.Object{Name: gwtest.NewObject("uploaded", "package").Name, Content: noise(1, size)}
	imported := gwtest.Object{Name: gwtest.NewObject("imported", "package").Name, Content: noise(2, size)}
	g := gwtest.New(t, gwtest.Options{Mirror: lay(t, imported)})
	g.Publish([]gwtest.Object{uploaded}, publicSource)
	importAll(t, g, imported)
	for _, o := range []gwtest.Object{uploaded, imported} {
		etag := checkWhole(t, g, o)
		for _, row := range rangeRows {
			if row.ifRange == "{ETAG}" {
				row.ifRange = etag
			} else if row.ifRange == "W/{ETAG}" {
				row.ifRange = "W/" + etag
			}
			headers := []string{"Range", row.header}
			if row.ifRange != "" {
				headers = append(headers, "If-Range", row.ifRange)
			}
			res := g.As("bob").Get(mount+o.Name, headers...)
			want, length, contentRange := o.Content[row.off:row.off+row.len], row.len, ""
			switch row.status {
			case 0:
				row.status, want, length = 200, o.Content, size
			case 206:
				contentRange = fmt.Sprintf("bytes %d-%d/%d", row.off, row.off+row.len-1, size)
			case 416:
				want, contentRange = []byte("range not satisfiable\n"), fmt.Sprintf("bytes */%d", size)
				length = len(want)
			}
			if res.StatusCode != row.status || res.Err != nil || !bytes.Equal(res.Bytes, want) || res.ContentLength != int64(length) || res.Header.Get("Content-Range") != contentRange {
				t.Errorf("%v of %s: %d, %d bytes, length %d, %q", headers, o.Name, res.StatusCode, len(res.Bytes), res.ContentLength, res.Header.Get("Content-Range"))
			}
		}
	}
}

// checkWhole wants GET and HEAD to agree in every header, and the validators to be those of the bytes. It returns the ETag.
func checkWhole(t *testing.T, g *gwtest.Gate, o gwtest.Object) string {
	t.Helper()
	get, head := g.As("bob").Get(mount+o.Name), g.As("bob").Head(mount+o.Name)
	sum := sha256.Sum256(o.Content)
	want := map[string]string{
		"Etag": `"` + hex.EncodeToString(sum[:]) + `"`, "Repr-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
		"Content-Length": strconv.Itoa(len(o.Content)), "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff",
	}
	for name, value := range want {
		if get.Header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, get.Header.Get(name), value)
		}
	}
	get.Header.Del("Date")
	head.Header.Del("Date")
	if !maps.EqualFunc(get.Header, head.Header, func(a, b []string) bool { return len(a) == 1 && len(b) == 1 && a[0] == b[0] }) || get.StatusCode != 200 || head.StatusCode != 200 {
		t.Errorf("GET %d %v\nHEAD %d %v", get.StatusCode, get.Header, head.StatusCode, head.Header)
	}
	if !bytes.Equal(get.Bytes, o.Content) {
		t.Errorf("GET gave %d other bytes", len(get.Bytes))
	}
	return want["Etag"]
}

func TestConditional(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	etag := g.As("bob").Head(mount + o.Name).Header.Get("Etag")
	for _, row := range []struct {
		value string
		want  int
	}{
		{etag, 304},
		{"W/" + etag, 304},
		{"*", 304},
		{`"x", ` + etag, 304},
		{`"x",W/` + etag + `,"y"`, 304},
		{`"x"`, 200},
		{etag[1 : len(etag)-1], 200},
		{"", 200},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res := g.As("bob").Do(method, mount+o.Name, nil, "If-None-Match", row.value)
			if res.StatusCode != row.want || res.Header.Get("Etag") != etag || row.want == 304 && len(res.Bytes) > 0 {
				t.Errorf("%s If-None-Match %q: %d %q", method, row.value, res.StatusCode, res.Bytes)
			}
		}
	}
	if res := g.As("bob").Get(mount+o.Name, "If-None-Match", etag, "Range", "bytes=0-0"); res.StatusCode != 304 {
		t.Errorf("If-None-Match comes before Range: %d", res.StatusCode)
	}
}

// TestResume does what wget does after a cut: it asks for the rest, and ends up with the very bytes.
func TestResume(t *testing.T) {
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(3, size)}
	g := gwtest.New(t, gwtest.Options{})
	g.Publish([]gwtest.Object{o}, publicSource)
	for _, cut := range []int64{1, 4096, 1 << 20, 1<<20 + 1, size - 1} {
		ctx, cancel := context.WithCancel(t.Context())
		part := open(t, ctx, g.As("bob"), mount+o.Name, "")
		held := make([]byte, cut)
		if _, err := io.ReadFull(part.Body, held); err != nil {
			t.Fatal(err)
		}
		cancel()
		part.Body.Close()
		rest := g.As("bob").Get(mount+o.Name, "Range", fmt.Sprintf("bytes=%d-", cut), "If-Range", part.Header.Get("Etag"))
		if rest.StatusCode != http.StatusPartialContent || !bytes.Equal(append(held, rest.Bytes...), o.Content) {
			t.Errorf("cut at %d: %d, %d bytes more", cut, rest.StatusCode, len(rest.Bytes))
		}
	}
	whole := g.As("bob").Get(mount+o.Name, "Range", fmt.Sprintf("bytes=%d-", size))
	if whole.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a complete copy is continued: %d", whole.StatusCode)
	}
}

// open sends a GET and returns once the header is there. The caller closes the body.
func open(t testing.TB, ctx context.Context, u *gwtest.User, path, rng string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Gate.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", u.Token)
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	res, err := u.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestZeroLength: nothing empty can be published, but a record of an empty object is served as one.
func TestZeroLength(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Mirror: emptyStore{}})
	seed := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{seed}, publicSource)
	ref, err := artifact.ParseName(artifact.Zone{Name: "main"}, seed.Name)
	if err != nil {
		t.Fatal(err)
	}
	published, err := g.DB.Lookup(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ref, err = artifact.ParseName(artifact.Zone{Name: "main"}, gwtest.NewObject("empty", "package").Name)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := g.DB.Envelope(t.Context(), published.Claims[0].Statement)
	if err != nil {
		t.Fatal(err)
	}
	record := provenance.Record{Ref: ref, Digest: sha256.Sum256(nil), Place: provenance.Mirror, Claims: published.Claims, Writer: published.Writer, Time: time.Now()}
	if _, err := g.DB.Put(t.Context(), provenance.Publication{Envelope: envelope, Records: []provenance.Record{record}}); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, g, gwtest.Object{Name: ref.Name()})
	for _, rng := range []string{"bytes=0-", "bytes=0-0", "bytes=-1"} {
		if res := g.As("bob").Get(mount+ref.Name(), "Range", rng); res.StatusCode != 416 || res.Header.Get("Content-Range") != "bytes */0" {
			t.Errorf("%s of nothing: %d %q", rng, res.StatusCode, res.Header.Get("Content-Range"))
		}
	}
	if res := g.As("ci").Do("PUT", mount+seed.Name, []byte{}, "Content-Length", "0"); res.StatusCode != http.StatusBadRequest {
		t.Errorf("an empty plain PUT: %d", res.StatusCode)
	}
	if _, err := g.TryPublish(g.As("ci"), g.Statement([]gwtest.Object{{Name: seed.Name}}, publicSource), []gwtest.Object{{Name: seed.Name}}); err == nil {
		t.Error("an empty object could be announced")
	}
}

// emptyStore holds every object, and all are empty.
type emptyStore struct{}

func (emptyStore) Stat(context.Context, string) (upstream.Info, error) { return upstream.Info{}, nil }

func (emptyStore) Open(_ context.Context, _ string, off int64) (*upstream.Object, error) {
	if off != 0 {
		return nil, fs.ErrInvalid
	}
	return &upstream.Object{ReadCloser: io.NopCloser(bytes.NewReader(nil))}, nil
}
