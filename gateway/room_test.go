package gateway_test

import (
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// uploads are generous limits that leave this much free.
func uploads(minFree int64) gateway.Limits {
	return gateway.Limits{
		ObjectBytes: 1 << 30, UploadObjects: 1000, OpenUploads: 64, UploadAge: time.Hour, EnvelopeBytes: 4 << 20, PresenceNames: 50000, MinFree: minFree,
	}
}

// TestUploadsLeaveRoom: while the disk has less free than uploads must leave, nothing is taken; once it has more, the same upload
// goes on.
func TestUploadsLeaveRoom(t *testing.T) {
	dir := t.TempDir()
	full := gwtest.New(t, gwtest.Options{Dir: dir, Uploads: uploads(math.MaxInt64)})
	o, plain := object("hello", noise(5, 300<<10)), object("plain", []byte("plain"))
	up := begin(t, full.As("ci"), "main", o)
	for name, res := range map[string]*gwtest.Response{
		"stage":           stage(full.As("ci"), up.ID, 0, 0, o.Content),
		"plain PUT":       full.As("ci").Do(http.MethodPut, mount+plain.Name, plain.Content),
		"plain statement": full.As("ci").Do(http.MethodPut, mount+plain.Name+gateway.StatementSuffix, full.Seal(full.Statement([]gwtest.Object{plain}, publicSource))),
	} {
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s on a full disk: %d %v", name, res.StatusCode, res.Header)
		}
	}
	if now, err := full.As("ci").Client().Upload(t.Context(), up.ID); err != nil || now.Objects[0].Offset != 0 {
		t.Errorf("held on a full disk: %+v, %v", now, err)
	}
	if n := files(t, full.Path("staging")); n != 2 { // upload.json, and the object's file
		t.Errorf("%d files are left of what was refused", n-2)
	}
	full.Stop()

	g := gwtest.New(t, gwtest.Options{Dir: dir, Uploads: uploads(1)})
	if res := stage(g.As("ci"), up.ID, 0, 0, o.Content); res.StatusCode != http.StatusNoContent {
		t.Errorf("stage once there is room: %d %s", res.StatusCode, res.Bytes)
	}
	st := statement(g, "main", []gwtest.Object{o}, publicSource)
	st.UploadID = up.ID
	if code, _, failure := commit(g.As("ci"), up.ID, g.Seal(st)); code != http.StatusCreated {
		t.Errorf("commit: %d %+v", code, failure)
	}
	if code, text := put(g.As("ci"), mount+plain.Name, plain.Content); code != http.StatusAccepted {
		t.Errorf("plain PUT once there is room: %d %q", code, text)
	}
}

// TestKeptUploadsLeaveNoBlob: bytes that do not become a name's are not kept either.
func TestKeptUploadsLeaveNoBlob(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	first := object("hello", []byte("first"))
	g.Publish([]gwtest.Object{first}, publicSource)
	for i := range 5 {
		other := object("hello", fmt.Appendf(nil, "other bytes %d", i))
		if got := publish(t, g.As("ci"), g.Statement([]gwtest.Object{other}, publicSource), other); got[0] != "kept" {
			t.Errorf("other bytes are %s", got[0])
		}
	}
	if n := files(t, g.Path("blobs")); n != 1 {
		t.Errorf("%d blobs for one name", n)
	}
	if n := files(t, g.Path("staging")); n != 0 {
		t.Errorf("%d files are left in staging", n)
	}
	reads(t, g.As("bob"), mount+first.Name, first.Content)
}

// files counts the files below a directory.
func files(t testing.TB, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
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
