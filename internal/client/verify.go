package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
)

// maxEnvelope is the largest file of a statement that is read: the payload in base64, and some signatures.
const maxEnvelope = 8 << 20

// VerifyOptions says what is verified, and by whose word.
type VerifyOptions struct {
	// Cache holds the objects.
	Cache Cache
	// Names limits what is verified to these objects; none: all that the cache holds.
	Names []string
	// Statements are directories with statements, in files that end in ".intoto.json", at any depth.
	Statements []string
	// Verifier knows whose signatures count.
	Verifier *provenance.Verifier
	// Zones, when there are any, are those that a statement must have been made for.
	Zones []string
	// Fetch gets the statement about an object that no statement is known of; nil: none is got. An error that wraps fs.ErrNotExist
	// means that there is none to be had.
	Fetch func(ctx context.Context, name string) ([]byte, error)
	// Jobs is how many objects are read at once; 0 is 4.
	Jobs     int
	Progress Progress // nil for none
}

// Verification is what came of each object. Its lists are sorted.
type Verification struct {
	Verified []VerifiedObject `json:"verified"`
	Failed   []Problem        `json:"failed"` // what no trusted statement covers, and why
	// Untrusted are statements that count for nothing, and why.
	Untrusted []Problem `json:"untrusted"`
}

// VerifiedObject is an object whose bytes a trusted statement names.
type VerifiedObject struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Signer    string `json:"signer"`    // the identity, as the verifier knows it
	Statement string `json:"statement"` // digest of the envelope
}

// Verify compares the bytes of objects with what trusted statements say of them. Who may write to the cache or to the directories of
// statements can make it find less, never take for signed what is not. An error means that it could not be done, not what it found.
func Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	if o.Progress == nil {
		o.Progress = silence{}
	}
	v := &verification{VerifyOptions: o, read: map[artifact.Digest]bool{}, said: map[string][]testimony{}}
	for _, dir := range o.Statements {
		if err := v.readDir(ctx, dir); err != nil {
			return nil, fmt.Errorf("read the statements in %q: %w", dir, err)
		}
	}
	objects, err := v.objects(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.fetch(ctx, objects); err != nil {
		return nil, err
	}
	if err := v.compare(ctx, objects); err != nil {
		return nil, err
	}
	sortProblems(v.out.Failed)
	sortProblems(v.out.Untrusted)
	slices.SortFunc(v.out.Verified, func(a, b VerifiedObject) int { return cmp.Compare(a.Name, b.Name) })
	return &v.out, nil
}

// testimony is what a trusted statement says of one object.
type testimony struct {
	digest digest
	by     *provenance.Verified
}

type verification struct {
	VerifyOptions
	read map[artifact.Digest]bool // envelopes that were looked at
	said map[string][]testimony   // by the object's name
	out  Verification
}

// readDir reads the statements below a directory. Links are not followed.
func (v *verification) readDir(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case !entry.Type().IsRegular() || !strings.HasSuffix(name, gateway.StatementSuffix):
			return nil
		}
		envelope, err := readBounded(root, name)
		if err != nil {
			return err
		}
		v.learn(filepath.Join(dir, name), envelope)
		return nil
	})
}

func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxEnvelope))
}

// learn takes in what a statement says, if it counts, once.
func (v *verification) learn(from string, envelope []byte) {
	sum := artifact.Digest(sha256.Sum256(envelope))
	if v.read[sum] {
		return
	}
	v.read[sum] = true
	by, err := OpenStatement(v.Verifier, v.Zones, envelope)
	if err != nil {
		v.out.Untrusted = append(v.out.Untrusted, Problem{Name: printable(from), Reason: words(err.Error())})
		return
	}
	for _, s := range by.Statement.Subjects {
		v.said[s.Name] = append(v.said[s.Name], testimony{digest{s.Digest, s.Size}, by})
	}
}

// OpenStatement verifies an envelope by opener, and that it was made for one of zones, when there are any.
func OpenStatement(opener interface {
	Open(envelope []byte) (*provenance.Verified, error)
}, zones []string, envelope []byte,
) (*provenance.Verified, error) {
	by, err := opener.Open(envelope)
	if err == nil && len(zones) > 0 && !slices.Contains(zones, by.Statement.Zone) {
		err = fmt.Errorf("it was made for zone %q", by.Statement.Zone)
	}
	return by, err
}

// objects returns what is to be verified. A name that the cache does not have is a failure.
func (v *verification) objects(ctx context.Context) ([]Object, error) {
	listing, err := v.Cache.List(ctx)
	if err != nil || len(v.Names) == 0 {
		return listing.objects(), err
	}
	var wanted []Object
	for _, name := range v.Names {
		at, ok := slices.BinarySearchFunc(listing.Objects, name, func(o Object, name string) int { return cmp.Compare(o.Name, name) })
		if !ok {
			v.fail(name, "it is not there")
			continue
		}
		wanted = append(wanted, listing.Objects[at])
	}
	return wanted, nil
}

// objects is nil for no listing.
func (l *Listing) objects() []Object {
	if l == nil {
		return nil
	}
	return l.Objects
}

func (v *verification) fail(name, reason string) {
	v.out.Failed = append(v.out.Failed, Problem{Name: printable(name), Reason: reason})
}

// fetch gets statements about objects of which nothing is said. One is about a whole build, so there are far fewer than objects.
func (v *verification) fetch(ctx context.Context, objects []Object) error {
	if v.Fetch == nil {
		return nil
	}
	v.Progress.Start("getting statements", int64(len(objects)), "objects")
	defer v.Progress.Finish()
	for _, o := range objects {
		v.Progress.Add(1)
		if len(v.said[o.Name]) > 0 {
			continue
		}
		envelope, err := v.Fetch(ctx, o.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			v.learn("the gate's about "+o.Name, envelope)
		}
	}
	return nil
}

// compare reads the objects, several at once.
func (v *verification) compare(ctx context.Context, objects []Object) error {
	jobs := cmp.Or(v.Jobs, 4)
	reads := newDigests(v.Cache, jobs)
	found := make([]digest, len(objects))
	faults := make([]error, len(objects))
	v.Progress.Start("verifying", int64(len(objects)), "objects")
	defer v.Progress.Finish()
	var group errgroup.Group
	group.SetLimit(jobs)
	for i, o := range objects {
		if len(v.said[o.Name]) == 0 {
			v.Progress.Add(1)
			continue
		}
		group.Go(func() error {
			defer v.Progress.Add(1)
			found[i], faults[i] = reads.of(ctx, o.Name)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, o := range objects {
		v.judge(o.Name, found[i], faults[i])
	}
	return nil
}

func (v *verification) judge(name string, found digest, fault error) {
	said := v.said[name]
	at := slices.IndexFunc(said, func(t testimony) bool { return t.digest == found })
	switch {
	case len(said) == 0:
		v.fail(name, "no statement of a trusted signer names it")
	case fault != nil:
		v.fail(name, words(fault.Error()))
	case at < 0:
		v.fail(name, "its bytes are others than every trusted statement about it says")
	default:
		v.out.Verified = append(v.out.Verified, VerifiedObject{name, found.sum.String(), said[at].by.Signer, said[at].by.Digest.String()})
	}
}

// WriteJSON writes it as one JSON object, for machines.
func (v *Verification) WriteJSON(w io.Writer) error {
	return writeJSON(w, v)
}

// WriteText writes for people: what failed, and who signed how much of the rest.
func (v *Verification) WriteText(w io.Writer) error {
	for _, p := range v.Untrusted {
		fmt.Fprintf(w, "not trusted: %s: %s\n", p.Name, p.Reason)
	}
	for _, p := range v.Failed {
		fmt.Fprintf(w, "FAILED %s: %s\n", p.Name, p.Reason)
	}
	signed := map[string]int{}
	for _, o := range v.Verified {
		signed[o.Signer]++
	}
	var signers []string
	for signer := range signed {
		signers = append(signers, signer)
	}
	slices.Sort(signers)
	_, err := fmt.Fprintf(w, "%d verified, %d failed\n", len(v.Verified), len(v.Failed))
	for _, signer := range signers {
		_, err = fmt.Fprintf(w, "  %d signed by %s\n", signed[signer], printable(signer))
	}
	return err
}
