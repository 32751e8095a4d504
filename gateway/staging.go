package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// staging keeps the bytes of writes that are not yet committed: DIR/ID/upload.json says what is announced, DIR/ID/N
// holds the bytes of object N. Nothing in it is visible to a reader, and an upload survives a restart.
type staging struct {
	dir    string
	limits Limits
	now    func() time.Time

	mu      sync.Mutex // guards uploads; held for map work only
	uploads map[string]*upload
}

// upload is one write under way.
type upload struct {
	uploadMeta
	dir string

	statement *provenance.Verified // of a plain statement: what it names; guarded by its owner's settling
	complete  bool                 // of a plain upload: all of the body is there; guarded by staging.mu

	mu      sync.Mutex // held while the upload is committed or forgotten, so that it happens once
	gone    bool
	objects []*stagedObject // fixed; each has its own lock
}

// uploadKind says how an upload came about.
type uploadKind string

const (
	begun          uploadKind = "begun"     // by begin, to be ended by commit
	plainObject    uploadKind = "object"    // by a plain PUT of one object
	plainStatement uploadKind = "statement" // by a plain PUT of a statement whose subjects are not all there
)

// uploadMeta is what upload.json holds.
type uploadMeta struct {
	ID      string        `json:"id"`
	Kind    uploadKind    `json:"kind"`
	Owner   string        `json:"owner"` // "FORGE/ID" of the principal; nobody else sees the upload
	Zone    string        `json:"zone"`
	InPlace bool          `json:"in_place"`
	Expires time.Time     `json:"expires"`
	Objects []stagedEntry `json:"objects"`
}

// metaName is the file of an upload's directory that holds its uploadMeta.
const metaName = "upload.json"

// stagedEntry is what was announced of one object.
type stagedEntry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // -1 for a plain PUT: the body says
	SHA256 string `json:"sha256"` // empty for a plain PUT
	// Present says that the name had these bytes when the upload began, so that none are sent.
	Present bool `json:"present"`
}

// openStaging prepares dir and reads the uploads that an earlier start left.
func openStaging(dir string, limits Limits, now func() time.Time) (*staging, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the staging directory: %w", err)
	}
	s := &staging{dir: dir, limits: limits, now: now, uploads: map[string]*upload{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the staging directory: %w", err)
	}
	for _, e := range entries {
		u, err := s.load(e.Name())
		if err == nil {
			s.uploads[u.ID] = u
			continue
		}
		// What cannot be read back was half-made or damaged; its author sends it again.
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("remove a half-made upload: %w", err)
		}
	}
	return s, nil
}

// load reads one upload back.
func (s *staging) load(id string) (*upload, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, id, metaName))
	if err != nil {
		return nil, err
	}
	var m uploadMeta
	if err := json.Unmarshal(text, &m, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if m.ID != id || s.now().After(m.Expires) {
		return nil, fmt.Errorf("upload %q is in the folder %q, or has expired", m.ID, id)
	}
	u, err := s.newUpload(m)
	if err != nil {
		return nil, err
	}
	u.complete = m.Kind != begun
	for _, o := range u.objects {
		if err := o.restore(); err != nil {
			return nil, err
		}
		if u.complete && o.seal() != nil {
			return nil, errors.New("a plain upload that was not completed, or half removed")
		}
	}
	return u, nil
}

func (s *staging) newUpload(m uploadMeta) (*upload, error) {
	u := &upload{uploadMeta: m, dir: filepath.Join(s.dir, m.ID)}
	for i, e := range m.Objects {
		o := &stagedObject{name: e.Name, size: e.Size, present: e.Present, path: filepath.Join(u.dir, strconv.Itoa(i))}
		if e.SHA256 != "" {
			var err error
			if o.announced, err = artifact.ParseDigest(e.SHA256); err != nil {
				return nil, err
			}
		}
		u.objects = append(u.objects, o)
	}
	return u, nil
}

// begin makes an upload.
func (s *staging) begin(m uploadMeta) (*upload, error) {
	u, err := s.newUpload(m)
	if err != nil {
		return nil, err
	}
	if err := s.admit(u); err != nil {
		return nil, err
	}
	if err := u.save(); err != nil {
		s.forget(u)
		return nil, fmt.Errorf("%w: keep the upload: %w", ErrUnavailable, err)
	}
	return u, nil
}

// admit registers u, unless its owner has too many uploads of its kind open.
func (s *staging) admit(u *upload) error {
	limit := s.limits.OpenUploads
	if u.Kind != begun {
		limit = s.limits.UploadObjects // a plain upload is one object of what begin would announce together
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	open := 0
	for _, other := range s.uploads {
		if other.Owner == u.Owner && other.Kind == u.Kind {
			open++
		}
	}
	if open >= limit {
		return &RequestError{
			Status: http.StatusTooManyRequests, Problem: fmt.Sprintf("%d uploads are open already", open),
			Hint: "commit or delete some, or wait until they expire",
		}
	}
	s.uploads[u.ID] = u
	return nil
}

// find returns owner's upload. Another owner's upload does not exist.
func (s *staging) find(owner, id string) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.uploads[id]
	if !ok || u.Kind != begun || u.Owner != owner || s.now().After(u.Expires) {
		return nil, &RequestError{Status: http.StatusNotFound, Problem: "no such upload", Hint: "it may have expired; begin again"}
	}
	return u, nil
}

// plain returns an owner's complete plain uploads of one kind in a zone.
func (s *staging) plain(owner, zone string, kind uploadKind) []*upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*upload
	for _, u := range s.uploads {
		if u.complete && u.Kind == kind && u.Owner == owner && u.Zone == zone && s.now().Before(u.Expires) {
			found = append(found, u)
		}
	}
	return found
}

// forget removes an upload and its bytes. What cannot be removed now goes with the next start: without its upload.json, which goes
// first, an upload is half-made.
func (s *staging) forget(u *upload) {
	s.mu.Lock()
	if s.uploads[u.ID] == u {
		delete(s.uploads, u.ID)
	}
	s.mu.Unlock()
	_ = os.Remove(filepath.Join(u.dir, metaName))
	_ = os.RemoveAll(u.dir)
}

// sweep forgets the uploads that have expired.
func (s *staging) sweep() {
	for _, u := range s.expired() {
		if !u.mu.TryLock() {
			continue // it is being committed; the next sweep finds it, if it is still there
		}
		if !u.gone {
			u.gone = true
			s.forget(u)
		}
		u.mu.Unlock()
	}
}

func (s *staging) expired() []*upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	var old []*upload
	for _, u := range s.uploads {
		if s.now().After(u.Expires) {
			old = append(old, u)
		}
	}
	return old
}

// room is an error while the staging directory's file system has less free space than Limits.MinFree: what is left is for the
// database and the journal.
func (s *staging) room() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return unavailable("look at the free space", err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < s.limits.MinFree {
		return unavailable("stage the object", fmt.Errorf("%d bytes are free, less than limits.upload_min_free: %w", free, unix.ENOSPC))
	}
	return nil
}

// save writes upload.json so that a killed process leaves a whole one or none.
func (u *upload) save() error {
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(u.uploadMeta)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(u.dir, metaName), text)
}

// writeFile replaces path with data, all or nothing.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// newUploadID returns 128 random bits: a nonce that the statement repeats.
func newUploadID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
