package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway/audit"
)

// clockSkew is how far in the future a statement may be dated.
const clockSkew = 30 * time.Second

// write is one signed write on its way to being published: begin and stage, or plain PUTs, have gathered its objects.
type write struct {
	session  *Session
	zone     Zone
	upload   string        // the nonce that the statement must repeat; empty for plain PUTs
	maxAge   time.Duration // of the statement
	envelope []byte
	objects  []writeObject

	verified        *provenance.Verified
	sources, inputs *source.Set
}

// writeObject is one object whose bytes are held and digested.
type writeObject struct {
	ref    artifact.Ref
	digest artifact.Digest
	size   int64
	path   string // of the staged file; empty when the bytes are published already or lie in the mirror
	place  provenance.Place
	unread bool // the bytes lie in the mirror, and nobody has looked at them yet
	chunks []artifact.Digest
}

// publish verifies, decides and publishes: whatever fails, nothing is visible; once the records are stored, everything is.
func (w *write) publish(ctx context.Context) (CommitResult, error) {
	if err := w.verify(ctx); err != nil {
		return CommitResult{}, w.refuse(err)
	}
	id := newRequestID()
	if err := w.decide(ctx, id); err != nil {
		return CommitResult{}, err
	}
	if err := w.readMirror(ctx); err != nil {
		return CommitResult{}, w.refuse(err)
	}
	if err := w.storeBlobs(ctx); err != nil {
		return CommitResult{}, err
	}
	known := w.known(ctx)
	outcomes, err := w.session.gate.Records.Put(ctx, w.publication())
	if err != nil {
		return CommitResult{}, unavailable("store the records", err)
	}
	if err := w.recordOutcomes(ctx, id, outcomes); err != nil {
		return CommitResult{}, err
	}
	return w.result(outcomes, known), nil
}

// verify checks everything that the statement claims against what is held.
func (w *write) verify(ctx context.Context) error {
	if limit := w.session.gate.Limits.EnvelopeBytes; int64(len(w.envelope)) > limit {
		return refused(fmt.Sprintf("the statement is larger than %d bytes", limit), "split the upload; limits.statement_size bounds it")
	}
	v, err := w.session.gate.Verifier.Open(w.envelope)
	if err != nil {
		return refused("the statement is refused: "+err.Error(), "sign it with a key that signers.allowed_signers lists")
	}
	w.verified = v
	st := v.Statement
	now := w.session.gate.Now()
	switch {
	case st.Zone != w.zone.Name:
		return refused(fmt.Sprintf("the statement is for zone %q", st.Zone), "sign for the zone that is written to")
	case st.Audience != w.session.gate.Audience:
		return refused(fmt.Sprintf("the statement is for the gate %q", st.Audience), "sign for the audience "+w.session.gate.Audience)
	case st.UploadID != w.upload:
		return refused("the statement is for another upload", "sign again with the id that begin returned")
	case st.IssuedAt.After(now.Add(clockSkew)):
		return refused("the statement is dated in the future", "set the signer's clock")
	case now.Sub(st.IssuedAt) > w.maxAge:
		return refused(fmt.Sprintf("the statement is older than %s", w.maxAge), "sign again")
	}
	if err := w.matchSubjects(st); err != nil {
		return err
	}
	if err := w.checkSiginfos(); err != nil {
		return err
	}
	return w.resolve(ctx, st)
}

func refused(problem, hint string) error {
	return &RequestError{Status: http.StatusUnprocessableEntity, Problem: problem, Hint: hint}
}

// matchSubjects demands that the statement is about exactly the objects held.
func (w *write) matchSubjects(st *provenance.Statement) error {
	subjects := make(map[string]provenance.Subject, len(st.Subjects))
	for _, s := range st.Subjects {
		subjects[s.Name] = s
	}
	if len(subjects) != len(st.Subjects) || len(subjects) != len(w.objects) {
		return refused(fmt.Sprintf("the statement has %d subjects, the upload %d objects", len(st.Subjects), len(w.objects)), "name each object once")
	}
	for i := range w.objects {
		o := &w.objects[i]
		s, ok := subjects[o.ref.Name()]
		if !ok || s.Digest != o.digest || s.Size != o.size {
			return refused("the statement does not cover "+o.ref.Name()+" with these bytes", "sign the digest and size of what was sent")
		}
	}
	return nil
}

// checkSiginfos demands that each siginfo that was sent is one, of the task its name says. It is parsed under limits. An
// import's siginfos are not looked at: its author has walked them.
func (w *write) checkSiginfos() error {
	for i := range w.objects {
		o := &w.objects[i]
		if o.ref.Part != artifact.Siginfo || o.path == "" {
			continue
		}
		f, err := os.Open(o.path)
		if err != nil {
			return unavailable("open the staged siginfo", err)
		}
		info, err := provenance.ParseSiginfo(f)
		f.Close()
		if errors.Is(err, provenance.ErrOldSiginfo) {
			continue
		}
		if err != nil {
			return refused(o.ref.Name()+" is not a siginfo: "+err.Error(), "send the file that BitBake wrote")
		}
		if info.Task != "do_"+o.ref.Task {
			return refused(o.ref.Name()+" is the siginfo of another task", "send the file that BitBake wrote")
		}
	}
	return nil
}

// resolve gives each source the forge's id of its repository, and builds the two source sets.
func (w *write) resolve(ctx context.Context, st *provenance.Statement) error {
	direct, err := w.withRepos(ctx, st.Sources)
	if err != nil {
		return err
	}
	transitive, err := w.withRepos(ctx, st.Inputs)
	if err != nil {
		return err
	}
	w.sources = source.NewSet(direct)
	inputs := []*source.Set{w.sources, source.NewSet(transitive)}
	known, err := w.inputSets(ctx, st)
	if err != nil {
		return err
	}
	w.inputs = source.Union(append(inputs, known...)...)
	return nil
}

// withRepos resolves each source at the forge that owns its host, once: from now on the id decides, not the path.
func (w *write) withRepos(ctx context.Context, sources []source.Source) ([]source.Source, error) {
	out := make([]source.Source, 0, len(sources))
	for _, s := range sources {
		s.Repo = "" // only the gate says which repository it is
		if s.Type != source.Unresolvable {
			repo, ok, err := w.session.gate.Resolver.Resolve(ctx, s.Locator)
			switch {
			case errors.Is(err, forge.ErrNoRepo):
				return nil, refused("the forge has no repository "+s.Locator.Host+"/"+s.Locator.Path, "correct SRC_URI, or create the repository")
			case err != nil:
				return nil, unavailable("resolve "+s.Locator.Host+"/"+s.Locator.Path, err)
			case ok:
				s.Repo = repo.String()
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// inputSets returns what is on record of the build-time inputs that the statement names by digest, so that a statement
// cannot have fewer transitive sources than its inputs. Of an input that the statement leaves to the record something must
// be known: else it counts as a source that nobody may read.
func (w *write) inputSets(ctx context.Context, st *provenance.Statement) ([]*source.Set, error) {
	known := map[source.SetID]bool{}
	var listed []artifact.Digest
	missing := false
	for _, a := range st.Artifacts {
		if !a.Recorded {
			listed = append(listed, a.Digest)
			continue
		}
		found, err := w.recordedInputs(ctx, known, a.Digest) // each by itself, or an unknown one would hide among others
		if err != nil {
			return nil, err
		}
		missing = missing || !found
	}
	if _, err := w.recordedInputs(ctx, known, listed...); err != nil {
		return nil, err
	}
	sets := make([]*source.Set, 0, len(known)+1)
	for id := range known {
		set, err := w.session.gate.Records.Set(ctx, id)
		if err != nil {
			return nil, unavailable("look up a source set", err)
		}
		sets = append(sets, set)
	}
	if missing {
		sets = append(sets, source.NewSet([]source.Source{{Type: source.Unresolvable, Reason: noInputRecord}}))
	}
	return sets, nil
}

// noInputRecord is why the transitive sources of an object are not all known. It does not say which input is meant: a
// set is shared by whatever has the same sources.
const noInputRecord = "a build-time input is not on record at this gate"

// recordedInputs adds the transitive sets that are on record, in the zone or one it reads through to, under any of these
// digests. It reports whether there were any.
func (w *write) recordedInputs(ctx context.Context, sets map[source.SetID]bool, digests ...artifact.Digest) (found bool, err error) {
	for zone := w.zone; zone.Name != ""; zone = w.session.gate.zones[zone.Base] {
		ids, err := w.session.gate.Records.InputSets(ctx, zone.Name, digests)
		if err != nil {
			return false, unavailable("look up the build-time inputs", err)
		}
		for _, id := range ids {
			sets[id], found = true, true
		}
	}
	return found, nil
}

// decide asks policy for each object and makes the decision durable.
func (w *write) decide(ctx context.Context, id string) error {
	s := w.session
	facts := &authz.WriteFacts{Signer: w.verified.Signer, Sources: w.sources, Inputs: w.inputs, Statement: w.facts()}
	e := s.event("write.commit", id)
	e.Action, e.Zone = string(authz.Write), w.zone.Name
	for i := range w.objects {
		r := authz.Request{Action: authz.Write, Door: s.door.Name, Principal: s.principal, Ref: w.objects[i].ref, Write: facts}
		answer, err := s.gate.Authorizer.Decide(ctx, &r)
		if d := answer.Decision; d != nil {
			e.Decision = audit.Decision{Verdict: verdict(d), Rule: d.Rule, Reasons: d.Reasons, Policy: d.Revision, FactAge: factAge(&answer, s.gate.Now())}
		}
		if err := outcome(&answer, err); err != nil {
			e.Kind, e.Object.Path = "write.refuse", r.Ref.Name()
			return w.journal(ctx, e, deniedWrite(err, answer.Decision))
		}
		e.Objects = append(e.Objects, audit.Object{Path: r.Ref.Name(), Digest: w.objects[i].digest.String(), Size: w.objects[i].size})
	}
	e.Sources = sourceNames(w.sources)
	e.Detail = "statement " + w.verified.Digest.String() + " signed by " + w.verified.Signer
	return w.journal(ctx, e, nil)
}

// deniedWrite tells a writer why its statement was not accepted. It may begin writes here, so this reveals no artifact.
func deniedWrite(err error, d *authz.Decision) error {
	if errors.Is(err, ErrUnavailable) || d == nil || len(d.Reasons) == 0 {
		return err
	}
	return refused("policy refuses the write: "+d.Reasons[0], "lychgate policy eval shows the rule")
}

// journal appends e, waits until it is durable, and returns then.
func (w *write) journal(ctx context.Context, e *audit.Event, then error) error {
	seq, err := w.session.gate.Journal.Append(e)
	if err == nil {
		err = w.session.gate.Journal.Durable(ctx, seq)
	}
	if err != nil {
		return unavailable("record the write", err)
	}
	return then
}

// refuse records a mistake that ends a write.
func (w *write) refuse(cause error) error {
	var mistake *RequestError
	if !errors.As(cause, &mistake) {
		return cause
	}
	e := w.session.event("write.refuse", newRequestID())
	e.Action, e.Zone, e.Detail = string(authz.Write), w.zone.Name, mistake.Problem
	e.Decision = audit.Decision{Verdict: "deny", FactAge: -1}
	if err := w.session.record(e); err != nil {
		return err
	}
	return cause
}

// facts are what policy sees of the statement: nothing that was not verified.
func (w *write) facts() map[string]any {
	st := w.verified.Statement
	return map[string]any{
		"digest": w.verified.Digest.String(), "signer": w.verified.Signer, "key": w.verified.KeyID,
		"recipe": st.Recipe, "builder": st.Builder, "invocation": st.Invocation,
		"issued_at": st.IssuedAt.UTC().Format(time.RFC3339), "subjects": len(st.Subjects),
	}
}

// storeBlobs publishes the staged bytes under their digests. Without a record nobody can ask for them. Bytes whose name has
// others already are not stored: sstate archives are seldom built twice alike.
func (w *write) storeBlobs(ctx context.Context) error {
	for i := range w.objects {
		o := &w.objects[i]
		if record, err := w.session.gate.Records.Lookup(ctx, o.ref); o.path == "" || err == nil && record.Digest != o.digest {
			continue
		}
		if err := w.storeBlob(ctx, o); err != nil {
			return unavailable("store "+o.ref.Name(), err)
		}
	}
	return nil
}

func (w *write) storeBlob(ctx context.Context, o *writeObject) error {
	f, err := os.Open(o.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.session.gate.Blobs.Put(ctx, blobName(o.digest), f)
}

// known reports, before anything is stored, which names the writer may know of: only of those does it learn the real outcome.
// A fresh name is stored, which is what it is told of every other.
func (w *write) known(ctx context.Context) []bool {
	known := make([]bool, len(w.objects))
	for i := range w.objects {
		record, err := w.session.gate.Records.Lookup(ctx, w.objects[i].ref)
		known[i] = err == nil && w.session.mayKnow(ctx, record)
	}
	return known
}

func (w *write) publication() provenance.Publication {
	s := w.session
	claim := provenance.Claim{Statement: w.verified.Digest, Sources: w.sources.ID(), Inputs: w.inputs.ID(), Signer: w.verified.Signer}
	p := provenance.Publication{
		Envelope: w.envelope, Sets: []*source.Set{w.sources, w.inputs},
		Records: make([]provenance.Record, len(w.objects)), Chunks: map[artifact.Digest][]artifact.Digest{},
	}
	claims := []provenance.Claim{claim}
	for i, o := range w.objects {
		p.Records[i] = provenance.Record{
			Ref: o.ref, Digest: o.digest, Size: o.size, Place: o.place, Claims: claims, Writer: s.owner(), Time: s.gate.Now().UTC(),
		}
		if o.chunks != nil {
			p.Chunks[o.digest] = o.chunks
		}
	}
	return p
}

// recordOutcomes makes what became of each object durable, before the writer is told.
func (w *write) recordOutcomes(ctx context.Context, id string, outcomes []provenance.Outcome) error {
	e := w.session.event("write.publish", id)
	e.Action, e.Zone = string(authz.Write), w.zone.Name
	e.Decision = audit.Decision{Verdict: "allow", FactAge: -1}
	for i, o := range w.objects {
		if outcomes[i] == provenance.Kept {
			e.Kind = "write.divergence" // normal for sstate, and worth a look when signers differ
		}
		e.Objects = append(e.Objects, audit.Object{Path: o.ref.Name(), Digest: o.digest.String(), Size: o.size, Outcome: outcomeName(outcomes[i])})
	}
	return w.journal(ctx, e, nil)
}

func (w *write) result(outcomes []provenance.Outcome, known []bool) CommitResult {
	r := CommitResult{Statement: w.verified.Digest.String(), Objects: make([]CommitStatus, len(w.objects))}
	for i, o := range w.objects {
		name := outcomeName(provenance.Stored)
		if known[i] {
			name = outcomeName(outcomes[i])
		}
		r.Objects[i] = CommitStatus{Name: o.ref.Name(), Result: name}
	}
	return r
}

func outcomeName(o provenance.Outcome) string {
	switch o {
	case provenance.Stored:
		return "stored"
	case provenance.Confirmed:
		return "confirmed"
	}
	return "kept"
}

func sourceNames(s *source.Set) []string {
	names := make([]string, len(s.Sources()))
	for i, src := range s.Sources() {
		names[i] = src.String()
	}
	return names
}
