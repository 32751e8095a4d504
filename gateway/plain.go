package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// StatementSuffix is what a plain PUT of a statement adds to the name of one of its subjects.
const StatementSuffix = ".intoto.json"

// Pending is the result of a plain PUT that waits for the rest: its statement, or the statement's other subjects.
const Pending = "pending"

// Put takes a plain PUT, for upload scripts that know nothing of uploads: an object, or, when path ends in
// StatementSuffix, the statement about it. They may come in any order; when a statement and all its subjects are there,
// they are published together. The result is Pending, or what became of the named object.
func (s *Session) Put(ctx context.Context, zone, path string, body io.Reader) (string, error) {
	z, err := s.writable(ctx, zone)
	if err != nil {
		return "", err
	}
	name, isStatement := strings.CutSuffix(path, StatementSuffix)
	ref, err := artifact.Parse(z.Zone, name)
	if err != nil {
		return "", &RequestError{Status: http.StatusBadRequest, Problem: "not an sstate name", Hint: "only names that BitBake makes can be published"}
	}
	var u *upload
	if isStatement {
		u, err = s.stageStatement(z, ref, body)
	} else {
		u, err = s.stagePlain(z, plainObject, ref.Name(), body, s.gate.Limits.ObjectBytes)
	}
	if err != nil {
		return "", err
	}
	return s.settle(ctx, z, ref, u)
}

// stageStatement stages a statement about ref and others. One that can never be published is refused at once.
func (s *Session) stageStatement(z Zone, ref artifact.Ref, body io.Reader) (*upload, error) {
	u, err := s.stagePlain(z, plainStatement, "statement", body, s.gate.Limits.EnvelopeBytes)
	if err != nil {
		return nil, err
	}
	if err := s.readStatement(u); err != nil {
		s.gate.staging.forget(u)
		return nil, err
	}
	if !names(u.statement.Statement, ref) {
		s.gate.staging.forget(u)
		return nil, refused("the statement does not name "+ref.Name(), "send it under the name of one of its subjects")
	}
	return u, nil
}

// readStatement reads a staged statement back, for what it names. Its signature is verified again when it is published.
func (s *Session) readStatement(u *upload) error {
	if u.statement != nil {
		return nil
	}
	envelope, err := os.ReadFile(u.objects[0].path)
	if err != nil {
		return unavailable("read back the statement", err)
	}
	if u.statement, err = s.gate.Verifier.Open(envelope); err != nil {
		return refused("the statement is refused: "+err.Error(), "sign it with a key that signers.allowed_signers lists")
	}
	return nil
}

// names reports whether ref is a subject of st.
func names(st *provenance.Statement, ref artifact.Ref) bool {
	return slices.ContainsFunc(st.Subjects, func(s provenance.Subject) bool { return s.Name == ref.Name() })
}

// stagePlain stages the body of a plain PUT.
func (s *Session) stagePlain(z Zone, kind uploadKind, name string, body io.Reader, limit int64) (*upload, error) {
	u, err := s.gate.staging.begin(uploadMeta{
		ID: newUploadID(), Kind: kind, Owner: s.owner(), Zone: z.Name, Expires: s.gate.Now().Add(s.gate.Limits.UploadAge),
		Objects: []stagedEntry{{Name: name, Size: -1}},
	})
	if err != nil {
		return nil, err
	}
	n, err := u.objects[0].receive(body, 0, limit, s.gate.staging.room)
	if err == nil && n == 0 {
		err = &RequestError{Status: http.StatusBadRequest, Problem: "the body is empty", Hint: "BitBake refuses empty objects"}
	}
	if err != nil {
		s.gate.staging.forget(u)
		return nil, err
	}
	return u, nil
}

// take seals a plain upload, which can be published from then on. An object takes the place of one of that name that waits already.
func (s *Session) take(z Zone, u *upload) error {
	if err := s.gate.staging.seal(u); err != nil {
		s.gate.staging.forget(u)
		return err
	}
	if u.Kind != plainObject {
		return nil
	}
	for _, old := range s.gate.staging.plain(s.owner(), z.Name, plainObject) {
		if old != u && old.objects[0].name == u.objects[0].name {
			s.gate.staging.forget(old)
		}
	}
	return nil
}

// seal notes the size and digest of a plain upload, from which on it is complete, also after a restart.
func (s *staging) seal(u *upload) error {
	o := u.objects[0]
	digest, done := o.complete()
	if !done {
		return unavailable("seal a plain upload", io.ErrUnexpectedEOF)
	}
	u.Objects[0].Size, u.Objects[0].SHA256 = o.offset(), digest.Hex()
	if err := u.save(); err != nil {
		return unavailable("keep the upload", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.complete = true
	return nil
}

// settle takes u and publishes every waiting statement of the owner in the zone whose subjects are all there. It returns
// what became of ref; what becomes of others is not this request's answer. Nobody else settles there meanwhile, so that who
// sends the last part is told.
func (s *Session) settle(ctx context.Context, z Zone, ref artifact.Ref, u *upload) (string, error) {
	defer s.gate.settling.lock(s.owner() + " " + z.Name)()
	if err := s.take(z, u); err != nil {
		return "", err
	}
	objects := map[string]*upload{}
	for _, o := range s.gate.staging.plain(s.owner(), z.Name, plainObject) {
		objects[o.objects[0].name] = o
	}
	result, failed := Pending, error(nil)
	for _, waiting := range s.gate.staging.plain(s.owner(), z.Name, plainStatement) {
		r, err := s.settleOne(ctx, z, waiting, objects)
		switch {
		case err != nil && waiting.statement != nil && !names(waiting.statement.Statement, ref):
			s.gate.Log.Warn("a waiting statement was not published", "error", err)
		case err != nil:
			failed = err
		case r != nil && result == Pending && names(waiting.statement.Statement, ref):
			result = r.resultOf(ref)
		}
	}
	if result == Pending && failed != nil {
		return "", failed
	}
	return result, nil
}

// settleOne publishes one waiting statement if its subjects are all there, and takes the objects that it used out of objects. It
// returns nil when something is still to come. A statement that is refused does not wait any longer.
func (s *Session) settleOne(ctx context.Context, z Zone, u *upload, objects map[string]*upload) (*CommitResult, error) {
	if err := s.readStatement(u); err != nil {
		if !errors.Is(err, ErrUnavailable) { // what could not be read just now waits on
			s.gate.staging.forget(u)
		}
		return nil, err
	}
	w := &write{session: s, zone: z, maxAge: s.gate.Limits.UploadAge}
	var used []*upload
	for _, subject := range u.statement.Statement.Subjects {
		o, from, err := s.subject(ctx, z, subject, objects)
		if err != nil || o == nil {
			return nil, err
		}
		w.objects = append(w.objects, *o)
		if from != nil {
			used = append(used, from)
		}
	}
	envelope, err := os.ReadFile(u.objects[0].path)
	if err != nil {
		return nil, unavailable("read back the statement", err)
	}
	w.envelope = envelope
	result, err := w.publish(ctx)
	if errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	s.gate.staging.forget(u)
	if err != nil {
		return nil, err
	}
	for _, from := range used {
		s.gate.staging.forget(from)
		delete(objects, from.objects[0].name)
	}
	return &result, nil
}

// resultOf returns what became of ref.
func (r *CommitResult) resultOf(ref artifact.Ref) string {
	for _, o := range r.Objects {
		if o.Name == ref.Name() {
			return o.Result
		}
	}
	return Pending
}

// subject finds the bytes that a statement names: staged, or published already where the owner may know of it. It returns nil
// when they are still to come.
func (s *Session) subject(ctx context.Context, z Zone, subject provenance.Subject, objects map[string]*upload) (*writeObject, *upload, error) {
	ref, err := artifact.ParseName(z.Zone, subject.Name)
	if err != nil {
		return nil, nil, refused(fmt.Sprintf("the subject %.300q is not an sstate name", subject.Name), "")
	}
	if u, ok := objects[ref.Name()]; ok {
		staged := u.objects[0]
		if digest, done := staged.complete(); done && digest == subject.Digest {
			o := staged.sealed(ref)
			return &o, u, nil
		}
	}
	if record, err := s.gate.Records.Lookup(ctx, ref); err == nil && record.Digest == subject.Digest && s.mayKnow(ctx, record) {
		return &writeObject{ref: ref, digest: record.Digest, size: record.Size, place: record.Place}, nil, nil
	}
	return nil, nil, nil
}
