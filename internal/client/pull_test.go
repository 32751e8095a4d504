package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// pullNames are archives.
func pullNames(n int) (names []string) {
	for i := range n {
		hash := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))
		names = append(names, hash[:2]+"/"+hash[2:4]+"/sstate:r"+fmt.Sprint(i)+":core2-64:1.0:r0:core2-64:14:"+hash+"_package.tar.zst")
	}
	return names
}

// pullGate has everything that is asked for; get answers a download of a name in its place if it returns true.
func pullGate(t *testing.T, get func(w http.ResponseWriter, name string) bool) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name, isObject := strings.CutPrefix(r.URL.Path, "/sstate/main/"); {
		case r.URL.Path == "/v1/presence":
			var req gateway.PresenceRequest
			if err := json.UnmarshalRead(r.Body, &req); err != nil {
				t.Error(err)
			}
			_ = json.MarshalWrite(w, gateway.PresenceReply{Present: slices.Repeat([]bool{true}, len(req.Names))})
		case !isObject:
			t.Errorf("asked for %s", r.URL.Path)
		case !get(w, name):
			sum := sha256.Sum256([]byte(name))
			w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(name)))
		}
	}))
	t.Cleanup(server.Close)
	c, err := New(Config{Gate: server.URL, Token: authn.NewSecret("t"), Wait: (&waits{}).wait})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pullFiles returns the files below a directory.
func pullFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestPullFaults: whatever goes wrong, only whole objects are there afterwards; one bad object is no reason to stop, a gate that is away is.
func TestPullFaults(t *testing.T) {
	names := pullNames(20)
	bad := names[3]
	for _, row := range []struct {
		name    string
		get     func(w http.ResponseWriter) // of the bad one
		err     string
		failed  int
		missing int
		all     bool // the others are there
	}{
		{name: "nothing", get: nil, all: true},
		{name: "withdrawn", get: func(w http.ResponseWriter) { http.Error(w, "", http.StatusNotFound) }, missing: 1, all: true},
		{name: "other bytes", get: func(w http.ResponseWriter) {
			w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(make([]byte, 32))+":")
			fmt.Fprint(w, "x")
		}, failed: 1, all: true},
		{name: "no digest", get: func(w http.ResponseWriter) { fmt.Fprint(w, "x") }, failed: 1, all: true},
		{name: "away", get: func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, err: "gave up after", failed: 1},
		{name: "refused", get: func(w http.ResponseWriter) { refuse(w, http.StatusUnauthorized, "expired", "") }, err: "expired", failed: 1},
	} {
		dir := t.TempDir()
		c := pullGate(t, func(w http.ResponseWriter, name string) bool {
			if name != bad || row.get == nil {
				return false
			}
			row.get(w)
			return true
		})
		got, err := c.Pull(t.Context(), PullOptions{Zone: "main", Dir: dir, Names: names, Jobs: 3})
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %v", row.name, err)
		}
		// Downloads beside the one that ended the pull may have been ended by it.
		if len(got.Failed) < row.failed || err == nil && len(got.Failed) != row.failed || got.Missing != row.missing {
			t.Errorf("%s: %+v", row.name, got)
		}
		if row.all && got.Pulled != 2*len(names)-row.failed-row.missing {
			t.Errorf("%s: %d pulled", row.name, got.Pulled)
		}
		files := pullFiles(t, dir)
		if len(files) != got.Pulled {
			t.Errorf("%s: %d files, %d pulled", row.name, len(files), got.Pulled)
		}
		for _, file := range files {
			name, _ := filepath.Rel(dir, file)
			if text, err := os.ReadFile(file); err != nil || string(text) != name {
				t.Errorf("%s: %s holds %.50q, %v", row.name, name, text, err)
			}
		}
	}
}

// TestPullOrder: where an archive is, its siginfo file is, at any moment.
func TestPullOrder(t *testing.T) {
	dir := t.TempDir()
	c := pullGate(t, func(_ http.ResponseWriter, name string) bool {
		if strings.HasSuffix(name, ".siginfo") {
			return false
		}
		if _, err := os.Stat(filepath.Join(dir, name+".siginfo")); err != nil {
			t.Errorf("%.20s comes before its siginfo file", name)
		}
		return false
	})
	if got, err := c.Pull(t.Context(), PullOptions{Zone: "main", Dir: dir, Names: pullNames(8)}); err != nil || got.Pulled != 16 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestPullDisk: a disk that takes nothing ends the pull with its own error, and is not taken for objects that are not there.
func TestPullDisk(t *testing.T) {
	dir, names := t.TempDir(), pullNames(3)
	if err := os.WriteFile(filepath.Join(dir, names[0][:2]), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := pullGate(t, func(http.ResponseWriter, string) bool { return false })
	got, err := c.Pull(t.Context(), PullOptions{Zone: "main", Dir: dir, Names: names})
	if err == nil || !strings.Contains(err.Error(), "not a directory") || got.Missing != 0 || len(got.Failed) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	// A link that leads out is not followed.
	out := t.TempDir()
	dir = t.TempDir()
	if err := os.Symlink(out, filepath.Join(dir, names[1][:2])); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Pull(t.Context(), PullOptions{Zone: "main", Dir: dir, Names: names[1:2]}); err == nil {
		t.Errorf("%+v", got)
	}
	if files := pullFiles(t, out); len(files) > 0 {
		t.Errorf("%v were written outside", files)
	}
}

func TestTextHashes(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("0b", 32)
	got, err := TextHashes(strings.NewReader("SIGGEN_LOCKEDSIGS_t-all = \"\\\n    zlib:do_package:" + b + " \\\n    zlib:do_fetch:" + a + "\\\n" +
		a + "a " + a[1:] + " " + strings.ToUpper(a) + "\n" + b))
	if err != nil || !slices.Equal(got, []string{b, a}) {
		t.Errorf("%v, %v", got, err)
	}
}
