package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
)

// Begin opens an upload of objects to zone. It answers, for each, whether its bytes are needed. A principal that may
// not write there is told what it would be told of a zone that does not exist.
func (s *Session) Begin(ctx context.Context, zone string, req UploadRequest) (Upload, error) {
	z, err := s.writable(ctx, zone)
	if err != nil {
		return Upload{}, err
	}
	if req.InPlace && z.Mirror == nil {
		return Upload{}, &RequestError{Status: http.StatusBadRequest, Problem: fmt.Sprintf("zone %q has no mirror to import from", z.Name), Hint: "set the zone's mirror, or push the objects"}
	}
	m := uploadMeta{
		ID: newUploadID(), Kind: begun, Owner: s.owner(), Zone: z.Name, InPlace: req.InPlace,
		Expires: s.gate.Now().Add(s.gate.Limits.UploadAge),
	}
	if m.Objects, err = s.announce(ctx, z, req.Objects); err != nil {
		return Upload{}, err
	}
	u, err := s.gate.staging.begin(m)
	if err != nil {
		return Upload{}, err
	}
	up := u.status()
	return up, s.recordBegin(m, up)
}

// recordBegin leaves an event of what was announced, and of what the writer was told of it.
func (s *Session) recordBegin(m uploadMeta, up Upload) error {
	e := s.event("write.begin", m.ID)
	e.Action, e.Zone = string(authz.Begin), m.Zone
	e.Decision = audit.Decision{Verdict: "allow", FactAge: -1}
	for i, o := range m.Objects {
		e.Objects = append(e.Objects, audit.Object{Path: o.Name, Digest: "sha256:" + o.SHA256, Size: o.Size, Outcome: up.Objects[i].State})
	}
	return s.record(e)
}

// owner is what uploads are kept under.
func (s *Session) owner() string { return s.principal.Key() }

// MayWrite returns nil when the principal may begin a write in a zone, and what it would be told of a zone that does not exist when
// it may not.
func (s *Session) MayWrite(ctx context.Context, zone string) error {
	_, err := s.writable(ctx, zone)
	return err
}

// writable returns the zone if the principal may begin a write there. Whether it may end it is decided at the
// commit, on the verified statement.
func (s *Session) writable(ctx context.Context, zone string) (Zone, error) {
	z, err := s.zone(zone)
	if err != nil {
		return Zone{}, err
	}
	r := authz.Request{Action: authz.Begin, Door: s.door.Name, Principal: s.principal, Ref: artifact.Ref{Zone: z.Name}}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	if err := outcome(&answer, err); err != nil {
		e := s.decisionEvent(&r, &answer, newRequestID())
		e.Kind, e.Object.Path = "write.refuse", ""
		return Zone{}, cmp.Or(s.record(e), err)
	}
	return z, nil
}

// announce checks what a client announced and looks up what is there already.
func (s *Session) announce(ctx context.Context, z Zone, objects []UploadObject) ([]stagedEntry, error) {
	if len(objects) == 0 || len(objects) > s.gate.Limits.UploadObjects {
		return nil, &RequestError{
			Status: http.StatusBadRequest, Problem: fmt.Sprintf("an upload has 1 to %d objects, not %d", s.gate.Limits.UploadObjects, len(objects)),
			Hint: "split it",
		}
	}
	entries := make([]stagedEntry, 0, len(objects))
	seen := make(map[string]bool, len(objects))
	for i, o := range objects {
		ref, err := artifact.ParseName(z.Zone, o.Name)
		if err != nil {
			return nil, badObject(i, "is not an sstate name", "only names that BitBake makes can be published")
		}
		digest, err := artifact.ParseDigest(o.SHA256)
		if err != nil {
			return nil, badObject(i, "has no valid sha256", "give 64 lower-case hex digits")
		}
		if o.Size < 1 || o.Size > s.gate.Limits.ObjectBytes {
			return nil, badObject(i, fmt.Sprintf("has %d bytes; 1 to %d are allowed", o.Size, s.gate.Limits.ObjectBytes), "limits.object_bytes bounds it")
		}
		if seen[ref.Name()] {
			return nil, badObject(i, "is announced twice", "announce each name once")
		}
		seen[ref.Name()] = true
		entries = append(entries, stagedEntry{Name: ref.Name(), Size: o.Size, SHA256: digest.Hex(), Present: s.present(ctx, ref, digest)})
	}
	return entries, nil
}

func badObject(i int, problem, hint string) error {
	return &RequestError{Status: http.StatusBadRequest, Problem: fmt.Sprintf("object %d %s", i, problem), Hint: hint}
}

// present reports whether ref has these bytes and the principal may know it.
func (s *Session) present(ctx context.Context, ref artifact.Ref, digest artifact.Digest) bool {
	record, err := s.gate.Records.Lookup(ctx, ref)
	return err == nil && record.Digest == digest && s.mayKnow(ctx, record)
}

// mayKnow reports whether a writer may learn that a record is there: it wrote it, or may read it. Of any other it learns
// what it would of a fresh name. The question is not a read, and leaves no event.
func (s *Session) mayKnow(ctx context.Context, record provenance.Record) bool {
	if record.Writer == s.owner() {
		return true
	}
	r := authz.Request{Action: authz.Stat, Door: s.door.Name, Principal: s.principal, Ref: record.Ref}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	return outcome(&answer, err) == nil
}

// Resume tells what is held of an upload.
func (s *Session) Resume(id string) (Upload, error) {
	u, err := s.gate.staging.find(s.owner(), id)
	if err != nil {
		return Upload{}, err
	}
	return u.status(), nil
}

// Stage adds bytes to object index of an upload at off and returns how many are held. They are on the disk, and invisible,
// when it returns nil.
func (s *Session) Stage(ctx context.Context, id string, index int, off int64, body io.Reader) (int64, error) {
	u, err := s.gate.staging.find(s.owner(), id)
	if err != nil {
		return 0, err
	}
	if _, err := s.writable(ctx, u.Zone); err != nil {
		return 0, err
	}
	if index < 0 || index >= len(u.objects) || u.InPlace || u.objects[index].present {
		return 0, &RequestError{Status: http.StatusNotFound, Problem: "no bytes are expected there", Hint: "send only objects whose state is needed"}
	}
	return u.objects[index].receive(body, off, s.gate.Limits.ObjectBytes, s.gate.staging.room)
}

// Abort forgets an upload.
func (s *Session) Abort(id string) error {
	u, err := s.gate.staging.find(s.owner(), id)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gone = true
	s.gate.staging.forget(u)
	return nil
}

// Commit ends an upload: the statement is verified, the write decided, recorded and published, all or none.
func (s *Session) Commit(ctx context.Context, id string, envelope []byte) (CommitResult, error) {
	u, err := s.gate.staging.find(s.owner(), id)
	if err != nil {
		return CommitResult{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone {
		return CommitResult{}, &RequestError{Status: http.StatusNotFound, Problem: "no such upload", Hint: "it was committed or removed meanwhile"}
	}
	w := &write{session: s, zone: s.gate.zones[u.Zone], upload: u.ID, maxAge: statementAge, envelope: envelope}
	for i, o := range u.objects {
		if err := w.addStaged(ctx, i, o, u.InPlace); err != nil {
			return CommitResult{}, w.refuse(err)
		}
	}
	result, err := w.publish(ctx)
	if err == nil {
		u.gone = true
		s.gate.staging.forget(u)
	}
	return result, err
}

// status is what a client is told of an upload.
func (u *upload) status() Upload {
	up := Upload{ID: u.ID, Zone: u.Zone, Expires: u.Expires.UTC().Format(time.RFC3339), Objects: make([]UploadStatus, len(u.objects))}
	for i, o := range u.objects {
		state, held := "needed", o.offset()
		_, done := o.complete()
		switch {
		case o.present:
			state, held = "present", o.size
		case done || u.InPlace:
			state, held = "staged", o.size
		}
		up.Objects[i] = UploadStatus{Name: o.name, State: state, Offset: held}
	}
	return up
}

// addStaged adds an object of an upload to the write. In place, its bytes are read once the statement is believed.
func (w *write) addStaged(ctx context.Context, i int, o *stagedObject, inPlace bool) error {
	ref, err := artifact.ParseName(w.zone.Zone, o.name)
	if err != nil {
		return badObject(i, "is not an sstate name", "")
	}
	switch {
	case o.present:
		return w.addPresent(ctx, i, ref, o)
	case inPlace:
		w.objects = append(w.objects, writeObject{ref: ref, digest: o.announced, size: o.size, place: provenance.Mirror, unread: true})
		return nil
	}
	if err := o.seal(); err != nil {
		return &RequestError{Status: http.StatusConflict, Problem: fmt.Sprintf("object %d is not complete: %d of %d bytes are held", i, o.offset(), o.size), Hint: "send the rest, then commit again"}
	}
	w.objects = append(w.objects, o.sealed(ref))
	return nil
}

// addPresent adds an object whose bytes the writer did not send, since they were there when the upload began. It must still
// be one that it may know: otherwise a statement without bytes could widen who may read.
func (w *write) addPresent(ctx context.Context, i int, ref artifact.Ref, o *stagedObject) error {
	record, err := w.session.gate.Records.Lookup(ctx, ref)
	if err != nil || record.Digest != o.announced || !w.session.mayKnow(ctx, record) {
		return &RequestError{Status: http.StatusConflict, Problem: fmt.Sprintf("object %d is not there any more", i), Hint: "begin again"}
	}
	w.objects = append(w.objects, writeObject{ref: ref, digest: record.Digest, size: record.Size, place: record.Place})
	return nil
}

// readMirror reads the objects of an import where they lie, and demands that they are what was announced.
func (w *write) readMirror(ctx context.Context) error {
	for i := range w.objects {
		if o := &w.objects[i]; o.unread {
			if err := w.readMirrored(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *write) readMirrored(ctx context.Context, o *writeObject) error {
	obj, err := w.zone.Mirror.Open(ctx, o.ref.Name(), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return notMirrored(o)
	}
	if err != nil {
		return unavailable("open in the mirror", err)
	}
	defer obj.Close()
	d := newDigester()
	n, err := io.Copy(d, io.LimitReader(obj, o.size+1))
	if err != nil {
		return unavailable("read from the mirror", err)
	}
	if n != o.size || d.digest() != o.digest {
		return notMirrored(o)
	}
	o.chunks = d.finish()
	return nil
}

// notMirrored is one answer for absent and for other bytes.
func notMirrored(o *writeObject) error {
	return &RequestError{Status: http.StatusConflict, Problem: "the zone's mirror does not hold " + o.ref.Name() + " with these bytes", Hint: "import from the directory or URL that the zone's mirror names, while nothing writes there"}
}
