package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lychgate/lychgate/authz/authn"
)

var _ authn.Links = (*DB)(nil)

// Linked returns the user who has claimed an identity provider's subject, or an error that wraps [authn.ErrNobody].
func (db *DB) Linked(ctx context.Context, issuer, subject string) (authn.Principal, error) {
	var text []byte
	err := db.reader.QueryRowContext(ctx, selectLink, issuer, subject).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return authn.Principal{}, fmt.Errorf("%w has linked this identity", authn.ErrNobody)
	}
	if err != nil {
		return authn.Principal{}, fmt.Errorf("look up a link: %w", classify(err))
	}
	p, err := unmarshalPrincipal(text)
	if err != nil {
		return authn.Principal{}, fmt.Errorf("look up a link: %w: %w", ErrCorrupt, err)
	}
	return p, nil
}

// Link notes that an identity provider's subject is p. It is done when it returns nil, also when it was done before; a subject
// that is another's is an error that wraps [authn.ErrLinked].
func (db *DB) Link(ctx context.Context, issuer, subject string, p authn.Principal) error {
	text, err := marshalPrincipal(authn.Principal{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: p.Kind})
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	err = db.write(ctx, func(b *batch) error {
		var old []byte
		err := b.tx.QueryRowContext(ctx, selectLink, issuer, subject).Scan(&old)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = b.exec(ctx, insertLink, issuer, subject, text, db.now().UnixMicro())
			return err
		}
		if err != nil {
			return err
		}
		if other, err := unmarshalPrincipal(old); err != nil || other.Key() != p.Key() {
			return errors.Join(authn.ErrLinked, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return nil
}
