package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
)

// PushOptions says what to publish, and as what.
type PushOptions struct {
	Cache  Cache
	Derive DeriveOptions

	Zone       string            // to write to
	Signer     provenance.Signer // signs the statements
	Audience   string            // the gate's own URI, which statements name; default is the Config.Gate given to New
	Builder    string            // URI of who runs such builds
	Invocation string            // names the run, usually its URL; may be empty
	// RecordedJob names the CI job of a build's records in place of Builder and Invocation, where they have one.
	RecordedJob bool

	// InPlace publishes objects whose bytes the zone's mirror already holds: they are read and signed, not uploaded.
	InPlace bool
	// Again signs objects that the gate already has, so that they get this statement too.
	Again bool
	// Jobs bounds files read and transfers at once; default 4.
	Jobs int
	// Progress is told how far it is; nil for silence.
	Progress Progress
	Now      func() time.Time // default time.Now
}

// ErrNoObjects says that a cache holds no object at all, which is more likely a mistyped name than a build.
var ErrNoObjects = errors.New("there is no shared-state object: give the SSTATE_DIR of a build, such as build/sstate-cache")

// Plan derives what the objects of a cache were built from, and returns what Push would publish. It asks no gate, so it counts
// as not derived also what Push would find there. A cache without objects is ErrNoObjects, with a Report of what was
// ignored.
func Plan(ctx context.Context, opt PushOptions) (*Report, error) {
	opt.complete("")
	started := opt.Now()
	derivation, err := opt.deriveAll(ctx)
	if err != nil {
		return nil, err
	}
	r := newReport(derivation)
	r.plan(derivation)
	r.Elapsed = opt.Now().Sub(started)
	r.sort()
	if r.Objects == 0 {
		return r, ErrNoObjects
	}
	return r, nil
}

// Push derives what the objects of a cache were built from, and publishes them build by build, each with one signed
// statement. Objects that the gate says are there are skipped, also those whose sources could not be derived: a build that
// used the gate has such ones. What was refused or could not be derived is in the Report; the error is for what ended the
// whole push, and the Report then says how far it came. A cache without objects is ErrNoObjects.
func (c *Client) Push(ctx context.Context, opt PushOptions) (*Report, error) {
	if err := errors.Join(opt.check(), opt.checkSigner()); err != nil {
		return nil, err
	}
	opt.complete(c.gate)
	started := opt.Now()
	derivation, err := opt.deriveAll(ctx)
	if err != nil {
		return nil, err
	}
	p := c.newPush(opt, derivation)
	if err = ErrNoObjects; derivation.Objects > 0 {
		err = p.run(ctx)
	}
	p.report.Elapsed = opt.Now().Sub(started)
	p.report.sort()
	return p.report, err
}

func (c *Client) newPush(opt PushOptions, d *Derivation) *push {
	return &push{
		PushOptions: opt, client: c, builds: d.Builds,
		digests: newDigests(opt.Cache, opt.Jobs), transfers: make(chan struct{}, opt.Jobs),
		settled: map[string]bool{}, report: newReport(d),
	}
}

func (o *PushOptions) deriveAll(ctx context.Context) (*Derivation, error) {
	if o.Cache == nil {
		return nil, errors.New("push needs a cache")
	}
	o.Derive.Progress = o.Progress
	return Derive(ctx, o.Cache, o.Derive)
}

// check says what a write lacks.
func (o *PushOptions) check() error {
	switch {
	case o.Zone == "":
		return errors.New("push needs a zone to write to: give --zone")
	case o.Builder == "":
		return errors.New("push needs the builder's URI, which the statements name")
	}
	return nil
}

// checkSigner says whether a write has a key.
func (o *PushOptions) checkSigner() error {
	if o.Signer == nil {
		return errors.New("push needs a key to sign with: give --key, or start ssh-agent")
	}
	return nil
}

// complete sets the defaults.
func (o *PushOptions) complete(gate string) {
	if o.Audience == "" {
		o.Audience = gate
	}
	if o.Jobs <= 0 {
		o.Jobs = 4
	}
	if o.Progress == nil {
		o.Progress = silence{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// push is one Push under way.
type push struct {
	PushOptions
	client    *Client
	builds    []Build
	digests   *digests
	transfers chan struct{}   // a slot for each transfer at once
	aside     map[string]bool // objects to leave alone, by name; read-only

	mu      sync.Mutex      // guards what follows
	settled map[string]bool // objects that the gate has, as far as this push knows: it asked or published
	report  *Report
}

// run publishes every build after those it used, since the gate looks up what is known of a build's inputs.
func (p *push) run(ctx context.Context) error {
	todo, err := p.missing(ctx)
	if err != nil {
		return err
	}
	p.start(todo)
	defer p.Progress.Finish()
	finished := make([]chan struct{}, len(p.builds))
	for i := range finished {
		finished[i] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.Jobs)
	for i := range p.builds {
		group.Go(func() error {
			defer close(finished[i])
			// What a build comes after has a smaller index, so it was started before: this cannot wait in a circle.
			for _, before := range p.builds[i].After {
				select {
				case <-finished[before]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return p.build(ctx, &p.builds[i], todo[i])
		})
	}
	return group.Wait()
}

// start tells the progress what is to come: bytes, or objects when the cache does not know their sizes.
func (p *push) start(todo [][]Object) {
	total, unit := int64(0), ""
	for _, objects := range todo {
		total += weight(objects)
		if len(objects) > 0 && objects[0].Size < 0 {
			unit = "objects"
		}
	}
	p.Progress.Start("push", total, unit)
}

// missing asks which objects the gate does not have, by name: what is there need not even be read, and whether its sources
// can be derived does not matter.
func (p *push) missing(ctx context.Context) ([][]Object, error) {
	present, err := p.present(ctx)
	if err != nil {
		return nil, err
	}
	todo := make([][]Object, len(p.builds))
	for i := range p.builds {
		b := &p.builds[i]
		fresh := slices.DeleteFunc(slices.Clone(b.Objects), func(o Object) bool { return p.settled[o.Name] || p.aside[o.Name] })
		todo[i] = slices.DeleteFunc(slices.Clone(fresh), func(o Object) bool { return present[o.Name] && !p.Again })
		p.report.Skipped += len(fresh) - len(todo[i])
		p.report.recipe(b.Recipe).Skipped += len(fresh) - len(todo[i])
		if len(todo[i]) > 0 && slices.ContainsFunc(b.Recorded, func(name string) bool { return !present[name] }) {
			p.note(b, "a build-time input is neither derived nor at the gate: hidden from everyone where policy asks for transitive sources")
		}
	}
	p.report.Underived = slices.DeleteFunc(slices.Clone(p.report.Underived), func(u Problem) bool {
		if present[u.Name] && !p.settled[u.Name] {
			p.report.Skipped++
		}
		return present[u.Name]
	})
	for name, there := range present {
		if there && !p.Again {
			p.settled[name] = true
		}
	}
	return todo, nil
}

// present asks about every object that it makes a difference for.
func (p *push) present(ctx context.Context) (map[string]bool, error) {
	known := map[string]bool{}
	for i := range p.builds {
		for _, o := range p.builds[i].Objects {
			if !p.Again {
				known[o.Name] = false
			}
		}
		for _, name := range p.builds[i].Recorded {
			known[name] = false
		}
	}
	for _, u := range p.report.Underived {
		known[u.Name] = false
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(name string) bool { return p.settled[name] })
	present, err := p.client.Presence(ctx, p.Zone, names)
	for i := range present {
		known[names[i]] = present[i]
	}
	for name := range known {
		known[name] = known[name] || p.settled[name]
	}
	return known, err
}

// weight is what objects count for in the progress: their bytes, or one each where they are not known.
func weight(objects []Object) int64 {
	total := int64(0)
	for _, o := range objects {
		total += max(o.Size, 1)
	}
	return total
}

// maxPart is how many objects go under one statement. A gate takes 1000 in one upload unless it is told otherwise; a
// statement holds more.
const maxPart = 1000

// build publishes objects of one build, in as many statements as it takes.
func (p *push) build(ctx context.Context, b *Build, objects []Object) error {
	if len(objects) == 0 {
		return nil
	}
	if n := len(b.Sources) + b.inputs.count(); n >= provenance.MaxDependencies {
		p.refuse(b, objects, fmt.Sprintf("its %d sources are more than the %d that a statement holds", n, provenance.MaxDependencies-1))
		return nil
	}
	used, err := p.used(ctx, b)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(objects, maxPart) {
		if err := p.part(ctx, b, used, part); err != nil {
			return err
		}
	}
	return nil
}

// inputs is what a statement says of what a build used.
type inputs struct {
	sources   []source.Source
	artifacts []provenance.Dependency
}

// used finds the build-time inputs by digest. The sources of those in Used are in the statement in any case, so one that
// cannot be read, or is too many for a statement, costs nothing but the link. One of Recorded becomes an unresolvable source
// then: nothing else would say that something is missing.
func (p *push) used(ctx context.Context, b *Build) (inputs, error) {
	in := inputs{sources: b.Inputs()}
	room := provenance.MaxDependencies - len(b.Sources) - len(in.sources) - 1 // one for an unresolvable source
	recorded, err := p.dependencies(ctx, b, b.Recorded, room)
	if err != nil {
		return in, err
	}
	if len(recorded) < len(b.Recorded) {
		in.sources = append(in.sources, unresolvable("not all build-time inputs could be named"))
	}
	for i := range recorded {
		recorded[i].Recorded = true
	}
	listed, err := p.dependencies(ctx, b, b.Used, room-len(recorded))
	in.artifacts = append(recorded, listed...)
	return in, err
}

// dependencies names objects by digest, as many as there is room for and as can be read.
func (p *push) dependencies(ctx context.Context, b *Build, names []string, room int) ([]provenance.Dependency, error) {
	if len(names) > room {
		p.note(b, "it used more objects than a statement holds; some are left out")
		names = names[:room]
	}
	var out []provenance.Dependency
	for _, name := range names {
		d, err := p.digests.of(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			p.note(b, fmt.Sprintf("a build-time input cannot be read: %v", err))
		default:
			out = append(out, provenance.Dependency{Name: name, Digest: d.sum})
		}
	}
	return out, nil
}

// maxTries bounds how often one part is begun anew: after a changed file, or when the gate forgot the upload.
const maxTries = 3

// part publishes up to MaxSubjects objects with one statement.
func (p *push) part(ctx context.Context, b *Build, used inputs, objects []Object) error {
	for try := 1; ; try++ {
		ready, err := p.hash(ctx, b, objects)
		if err != nil || len(ready) == 0 {
			return err
		}
		err = p.publish(ctx, b, used, ready, try > 1)
		var changed *changedError
		var refused *Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &changed):
			p.digests.forget(changed.name)
			if try == maxTries {
				p.refuse(b, objectsOf(ready), changed.Error())
				return nil
			}
		case !errors.As(err, &refused) || isHopeless(refused):
			return err
		case isForgotten(refused) && try < maxTries:
		case refused.Op == opBegin && len(ready) > 1 && len(ready) > len(b.Objects)>>maxHalvings:
			return p.halves(ctx, b, used, objectsOf(ready))
		default:
			p.refuse(b, objectsOf(ready), err.Error())
			return nil
		}
		objects = objectsOf(ready)
	}
}

// maxHalvings bounds how far a part is divided to set apart an object that the gate does not take, such as one that is
// too large for it.
const maxHalvings = 4

func (p *push) halves(ctx context.Context, b *Build, used inputs, objects []Object) error {
	half := len(objects) / 2
	if err := p.part(ctx, b, used, objects[:half]); err != nil {
		return err
	}
	return p.part(ctx, b, used, objects[half:])
}

// isHopeless reports whether what the gate said of one build it would say of every other: the credential is bad, it is
// in trouble, or the zone does not exist or is not for us to write to.
func isHopeless(e *Error) bool {
	zone := e.Op == opBegin && (e.Status == http.StatusNotFound || e.Status == http.StatusForbidden)
	return e.Status == http.StatusUnauthorized || e.temporary() || zone
}

// isForgotten reports whether the gate no longer knows an upload that it began: it expired, or the answer to its
// commit was lost. Beginning anew tells which.
func isForgotten(e *Error) bool {
	switch e.Status {
	case http.StatusNotFound, http.StatusConflict, http.StatusGone:
		return e.Op != opBegin
	}
	return false
}

// readyObject is an object whose bytes were read.
type readyObject struct {
	Object
	digest
}

func objectsOf(ready []readyObject) []Object {
	out := make([]Object, len(ready))
	for i := range ready {
		out[i] = ready[i].Object
	}
	return out
}

// hash reads objects, at most Jobs at once over all builds, and leaves out those that cannot be read.
func (p *push) hash(ctx context.Context, b *Build, objects []Object) ([]readyObject, error) {
	found := make([]digest, len(objects))
	problems := make([]error, len(objects))
	var wait sync.WaitGroup
	for i := range objects {
		wait.Go(func() { found[i], problems[i] = p.digests.of(ctx, objects[i].Name) })
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var ready []readyObject
	for i, o := range objects {
		if err := problems[i]; err != nil {
			p.refuse(b, []Object{o}, fmt.Sprintf("it cannot be read: %v", err))
			continue
		}
		ready = append(ready, readyObject{o, found[i]})
	}
	return ready, nil
}

// publish is one upload: begin, bytes, commit.
func (p *push) publish(ctx context.Context, b *Build, used inputs, objects []readyObject, again bool) error {
	req := gateway.UploadRequest{InPlace: p.InPlace, Objects: make([]gateway.UploadObject, len(objects))}
	for i, o := range objects {
		req.Objects[i] = gateway.UploadObject{Name: o.Name, Size: o.size, SHA256: o.sum.Hex()}
	}
	upload, err := p.client.Begin(ctx, p.Zone, req)
	if err != nil {
		return err
	}
	if err := p.finish(ctx, b, used, objects, upload, again); err != nil {
		// What is left would expire by itself; a cancelled push still tells the gate, for a moment.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
		defer cancel()
		_ = p.client.abandonOnce(late, upload.ID)
		return err
	}
	return nil
}

const abandonTime = 2 * time.Second

func (p *push) finish(ctx context.Context, b *Build, used inputs, objects []readyObject, upload gateway.Upload, again bool) error {
	if !p.Again && allPresent(upload) {
		p.skip(b, objects, again)
		_ = p.client.abandonOnce(ctx, upload.ID) // it would expire by itself
		return nil
	}
	if !p.InPlace {
		if err := p.transfer(ctx, upload, objects); err != nil {
			return err
		}
	}
	envelope, err := p.sign(b, used, objects, upload.ID)
	if err != nil {
		return err
	}
	result, err := p.client.Commit(ctx, upload.ID, envelope)
	if err != nil {
		return err
	}
	p.count(b, objects, result)
	return nil
}

func allPresent(u gateway.Upload) bool {
	return !slices.ContainsFunc(u.Objects, func(o gateway.UploadStatus) bool { return o.State != "present" })
}

// transfer sends the bytes that the gate needs.
func (p *push) transfer(ctx context.Context, upload gateway.Upload, objects []readyObject) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.Jobs)
	for i, status := range upload.Objects {
		if status.State == "present" || status.State == "staged" {
			p.Progress.Add(max(objects[i].Size, 1))
			continue
		}
		group.Go(func() error {
			select {
			case p.transfers <- struct{}{}:
				defer func() { <-p.transfers }()
			case <-ctx.Done():
				return ctx.Err()
			}
			return p.send(ctx, upload.ID, i, objects[i], status.Offset)
		})
	}
	return group.Wait()
}

func (p *push) send(ctx context.Context, id string, index int, o readyObject, held int64) error {
	sent, err := p.client.UploadObject(ctx, id, index, UploadSource{
		Name: o.Name, Size: o.size, Digest: o.sum, Cache: p.Cache, Held: held, Moved: func(n int64) {
			if o.Size > 0 {
				p.Progress.Add(n)
			}
		},
	})
	if o.Size <= 0 {
		p.Progress.Add(1)
	}
	p.mu.Lock()
	p.report.Bytes += sent
	p.mu.Unlock()
	return err
}

func (p *push) sign(b *Build, used inputs, objects []readyObject, id string) ([]byte, error) {
	builder, run := p.Builder, p.Invocation
	if p.RecordedJob && b.Builder != "" {
		builder, run = b.Builder, b.Invocation
	}
	s := provenance.Statement{
		Zone: p.Zone, Audience: p.Audience, UploadID: id, Recipe: b.Recipe, Sources: b.Sources, Inputs: used.sources,
		Artifacts: used.artifacts, Builder: builder, Invocation: run, IssuedAt: p.Now().UTC().Truncate(time.Second),
	}
	for _, o := range objects {
		s.Subjects = append(s.Subjects, provenance.Subject{Name: o.Name, Digest: o.sum, Size: o.size})
	}
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return provenance.Seal(payload, p.Signer)
}

// count takes the gate's word for each object.
func (p *push) count(b *Build, objects []readyObject, result gateway.CommitResult) {
	outcome := make(map[string]string, len(result.Objects))
	for _, o := range result.Objects {
		outcome[o.Name] = o.Result
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Statements++
	of := p.report.recipe(b.Recipe)
	for _, o := range objects {
		p.settled[o.Name] = true
		switch outcome[o.Name] {
		case "stored":
			p.report.Stored++
			of.Stored++
		case "confirmed":
			p.report.Confirmed++
			of.Confirmed++
		case "kept":
			p.report.Kept++
			of.Kept++
		default:
			delete(p.settled, o.Name)
			p.report.refuse(Problem{b.Recipe, o.Name, "the gate did not say what became of it"})
		}
	}
	if p.InPlace {
		p.Progress.Add(weight(objectsOf(objects)))
	}
}

// skip counts objects that are there already: since before the push, or by a commit whose answer was lost.
func (p *push) skip(b *Build, objects []readyObject, ours bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.report.recipe(b.Recipe)
	for _, o := range objects {
		p.settled[o.Name] = true
	}
	if ours {
		p.report.Confirmed += len(objects)
		of.Confirmed += len(objects)
	} else {
		p.report.Skipped += len(objects)
		of.Skipped += len(objects)
	}
	p.Progress.Add(weight(objectsOf(objects)))
}

func (p *push) refuse(b *Build, objects []Object, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range objects {
		p.report.refuse(Problem{b.Recipe, o.Name, reason})
	}
}

func (p *push) note(b *Build, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Notes = append(p.report.Notes, Problem{Recipe: b.Recipe, Reason: text})
}

// digest is what reading an object gave.
type digest struct {
	sum  artifact.Digest
	size int64
}
