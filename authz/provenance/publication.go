package provenance

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/lychgate/lychgate/authz/artifact"
)

// Check reports what is wrong with a publication by itself, before any store is asked: it has an envelope and records;
// each record has a name that occurs once, a digest, a size and one claim, on this very envelope; and chunks,
// where given, are as many as the size of their object says. Every [Store] calls it first.
func (p *Publication) Check() error {
	if len(p.Envelope) == 0 || len(p.Records) == 0 {
		return errors.New("publication has no envelope or no records")
	}
	for _, set := range p.Sets {
		if set == nil {
			return errors.New("publication has a nil source set")
		}
	}
	statement := artifact.Digest(sha256.Sum256(p.Envelope))
	seen := make(map[artifact.Ref]bool, len(p.Records))
	sizes := make(map[artifact.Digest]int64, len(p.Records))
	for i := range p.Records {
		r := &p.Records[i]
		if err := r.check(statement); err != nil {
			return fmt.Errorf("publish %q: %w", r.Ref.Name(), err)
		}
		if seen[r.Ref] {
			return fmt.Errorf("publish %q: the name occurs twice", r.Ref.Name())
		}
		seen[r.Ref] = true
		if size, ok := sizes[r.Digest]; ok && size != r.Size {
			return fmt.Errorf("publish %q: one digest has two sizes", r.Ref.Name())
		}
		sizes[r.Digest] = r.Size
	}
	return p.checkChunks(sizes)
}

func (r *Record) check(statement artifact.Digest) error {
	switch {
	case r.Ref.Zone == "" || r.Ref.Path == "":
		return errors.New("the name is empty")
	case r.Digest.IsZero():
		return errors.New("the digest is missing")
	case r.Size < 0:
		return fmt.Errorf("size %d is negative", r.Size)
	case r.Place != Blob && r.Place != Mirror:
		return fmt.Errorf("place %d is unknown", r.Place)
	case len(r.Claims) != 1:
		return fmt.Errorf("%d claims, want one", len(r.Claims))
	case r.Claims[0].Statement != statement:
		return errors.New("the claim rests on another envelope")
	}
	return nil
}

func (p *Publication) checkChunks(sizes map[artifact.Digest]int64) error {
	for d, chunks := range p.Chunks {
		size, ok := sizes[d]
		if !ok {
			return fmt.Errorf("chunks of %v belong to no record", d)
		}
		if want := (size + ChunkSize - 1) / ChunkSize; int64(len(chunks)) != want || want < 2 {
			return fmt.Errorf("%d chunks of %v do not make %d bytes", len(chunks), d, size)
		}
	}
	return nil
}
