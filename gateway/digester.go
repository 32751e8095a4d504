package gateway

import (
	"crypto/sha256"
	"hash"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// digester computes the SHA-256 of what is written to it, and of each chunk of it.
type digester struct {
	whole, chunk hash.Hash
	filled       int // bytes in the chunk so far
	chunks       []artifact.Digest
}

func newDigester() *digester {
	return &digester{whole: sha256.New(), chunk: sha256.New()}
}

// Write never fails.
func (d *digester) Write(p []byte) (int, error) {
	d.whole.Write(p)
	for rest := p; len(rest) > 0; {
		n := min(len(rest), provenance.ChunkSize-d.filled)
		d.chunk.Write(rest[:n])
		d.filled += n
		rest = rest[n:]
		if d.filled == provenance.ChunkSize {
			d.cut()
		}
	}
	return len(p), nil
}

// cut ends a chunk.
func (d *digester) cut() {
	d.chunks = append(d.chunks, artifact.Digest(d.chunk.Sum(nil)))
	d.chunk.Reset()
	d.filled = 0
}

// digest returns the digest of all that was written.
func (d *digester) digest() artifact.Digest { return artifact.Digest(d.whole.Sum(nil)) }

// finish returns the digests of the chunks, nil when there is at most one. Nothing may be written after it.
func (d *digester) finish() []artifact.Digest {
	if d.filled > 0 {
		d.cut()
	}
	if len(d.chunks) <= 1 {
		return nil
	}
	return d.chunks
}
