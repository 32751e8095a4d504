package sqldb

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// Put implements [provenance.Store]. Its error wraps [ErrFull] when the disk is full and [ErrBusy] when another process
// does not let it write.
func (db *DB) Put(ctx context.Context, p provenance.Publication) ([]provenance.Outcome, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	var outcomes []provenance.Outcome
	err := db.write(ctx, func(b *batch) (err error) {
		outcomes, err = publish(ctx, b, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("publish %d records: %w", len(p.Records), err)
	}
	return outcomes, nil
}

// publisher is one publication on its way into the tables.
type publisher struct {
	*batch
	words  map[string]int64 // ids already looked up
	claims map[provenance.Claim]int64
}

func publish(ctx context.Context, b *batch, p provenance.Publication) ([]provenance.Outcome, error) {
	w := &publisher{b, make(map[string]int64), make(map[provenance.Claim]int64)}
	if err := w.sets(ctx, p); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(p.Envelope)
	if _, err := w.exec(ctx, insertEnvelope, digest[:], p.Envelope); err != nil {
		return nil, fmt.Errorf("keep envelope: %w", err)
	}
	outcomes := make([]provenance.Outcome, len(p.Records))
	for i := range p.Records {
		r := &p.Records[i]
		outcome, err := w.record(ctx, r)
		if err == nil && outcome != provenance.Kept {
			err = w.chunks(ctx, r.Digest, p.Chunks[r.Digest])
		}
		if err != nil {
			return nil, fmt.Errorf("keep record %q: %w", r.Ref.Name(), err)
		}
		outcomes[i] = outcome
	}
	return outcomes, nil
}

// sets stores the sets that came and checks that those the claims name are there.
func (w *publisher) sets(ctx context.Context, p provenance.Publication) error {
	known := make(map[source.SetID]bool)
	for _, set := range p.Sets {
		text, err := set.MarshalText()
		if err != nil {
			return fmt.Errorf("encode source set: %w", err)
		}
		id := set.ID()
		// append: a nil slice would be stored as NULL.
		if _, err := w.exec(ctx, insertSet, id[:], append([]byte{}, text...)); err != nil {
			return fmt.Errorf("keep source set: %w", err)
		}
		known[id] = true
	}
	for i := range p.Records {
		claim := &p.Records[i].Claims[0]
		for _, id := range []source.SetID{claim.Sources, claim.Inputs} {
			if known[id] {
				continue
			}
			n, err := w.one(ctx, hasSet, id[:])
			if err != nil {
				return fmt.Errorf("look for source set: %w", err)
			}
			if n == 0 {
				return fmt.Errorf("record %q: source set %x is neither given nor stored", p.Records[i].Ref.Name(), id)
			}
			known[id] = true
		}
	}
	return nil
}

// record publishes one record, or adds to the one that is there.
func (w *publisher) record(ctx context.Context, r *provenance.Record) (provenance.Outcome, error) {
	claim, err := w.claim(ctx, r.Claims[0])
	if err != nil {
		return 0, fmt.Errorf("intern claim: %w", err)
	}
	writer, err := w.word(ctx, r.Writer)
	if err != nil {
		return 0, fmt.Errorf("intern writer: %w", err)
	}
	key := keyOf(r.Ref)
	query, err := w.stmt(ctx, selectRecord)
	if err != nil {
		return 0, err
	}
	var id int64
	var digest []byte
	var place provenance.Place
	err = query.QueryRowContext(ctx, key[:]).Scan(&id, &digest, &place)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return provenance.Stored, w.insert(ctx, r, key, claim, writer)
	case err != nil:
		return 0, err
	case string(digest) != string(r.Digest[:]):
		_, err := w.exec(ctx, insertKept, id, r.Digest[:], claim, r.Size, writer, r.Time.UnixNano())
		return provenance.Kept, err
	}
	return provenance.Confirmed, w.amend(ctx, r, id, claim, place)
}

func (w *publisher) insert(ctx context.Context, r *provenance.Record, key recordKey, claim, writer int64) error {
	zone, err := w.word(ctx, r.Ref.Zone)
	if err != nil {
		return fmt.Errorf("intern zone: %w", err)
	}
	hash, err := hashOf(r.Ref)
	if err != nil {
		return err
	}
	id, err := w.one(ctx, insertRecord, key[:], r.Digest[:], r.Size, int(r.Place), claim, writer, r.Time.UnixNano(), zone, hash)
	if err != nil {
		return err
	}
	_, err = w.exec(ctx, insertName, zone, r.Ref.Path, int(r.Ref.Part), int(r.Ref.Kind), id)
	return err
}

// amend adds to record id what the claim of r, or the place of its bytes, has that the record has not.
func (w *publisher) amend(ctx context.Context, r *provenance.Record, id, claim int64, place provenance.Place) error {
	nothing, err := w.one(ctx, addsNothing, claim, id, provenance.MaxClaims)
	if err != nil {
		return err
	}
	var newClaim, newPlace any // nil is NULL: nothing new
	if nothing == 0 {
		newClaim = claim
	}
	if place == provenance.Mirror && r.Place == provenance.Blob {
		newPlace = int(provenance.Blob)
	}
	if newClaim == nil && newPlace == nil {
		return nil
	}
	_, err = w.exec(ctx, insertAmendment, id, newClaim, newPlace)
	return err
}

func (w *publisher) chunks(ctx context.Context, d artifact.Digest, chunks []artifact.Digest) error {
	if chunks == nil {
		return nil
	}
	body := make([]byte, 0, len(chunks)*len(d))
	for _, c := range chunks {
		body = append(body, c[:]...)
	}
	_, err := w.exec(ctx, insertChunks, d[:], body)
	return err
}

// word returns the id of an interned text.
func (w *publisher) word(ctx context.Context, text string) (int64, error) {
	if id, ok := w.words[text]; ok {
		return id, nil
	}
	// Asked first, for an INSERT that changes nothing would still cost a write lock on the table's pages.
	id, err := w.one(ctx, selectWord, text)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err = w.exec(ctx, insertWord, text); err == nil {
			id, err = w.one(ctx, selectWord, text)
		}
	}
	if err == nil {
		w.words[text] = id
	}
	return id, err
}

// claim returns the id of an interned claim.
func (w *publisher) claim(ctx context.Context, c provenance.Claim) (int64, error) {
	if id, ok := w.claims[c]; ok {
		return id, nil
	}
	signer, err := w.word(ctx, c.Signer)
	if err != nil {
		return 0, err
	}
	args := []any{c.Statement[:], c.Sources[:], c.Inputs[:], signer}
	if _, err := w.exec(ctx, insertClaim, args...); err != nil {
		return 0, err
	}
	id, err := w.one(ctx, selectClaim, args...)
	if err == nil {
		w.claims[c] = id
	}
	return id, err
}
