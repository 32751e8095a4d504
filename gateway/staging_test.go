package gateway

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHalfRemovedUploads kills the gate while it removes a plain upload: whichever of its two files is left, the next start
// drops it.
func TestHalfRemovedUploads(t *testing.T) {
	for _, left := range []string{metaName, "0"} {
		for _, kind := range []uploadKind{plainObject, plainStatement} {
			dir := t.TempDir()
			open := func() *staging {
				s, err := openStaging(dir, Limits{UploadObjects: 10}, time.Now)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open()
			u, err := s.begin(uploadMeta{
				ID: newUploadID(), Kind: kind, Owner: "forge/ci", Zone: "main", Expires: time.Now().Add(time.Hour), Objects: []stagedEntry{{Name: "name", Size: -1}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.objects[0].receive(strings.NewReader("bytes"), 0, 10, s.room); err != nil {
				t.Fatal(err)
			}
			if err := s.seal(u); err != nil {
				t.Fatal(err)
			}
			if n := len(open().plain("forge/ci", "main", kind)); n != 1 {
				t.Fatalf("%s: %d whole uploads after a restart, want 1", kind, n)
			}
			for _, file := range []string{metaName, "0"} {
				if file != left {
					if err := os.Remove(filepath.Join(u.dir, file)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n := len(open().plain("forge/ci", "main", kind)); n != 0 {
				t.Errorf("%s: %d uploads are waiting of which only %s is left", kind, n, left)
			}
			if _, err := os.Stat(u.dir); !os.IsNotExist(err) {
				t.Errorf("%s: the rest is not removed: %v", kind, err)
			}
		}
	}
}
