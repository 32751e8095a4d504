package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

var _ gateway.Accounts = (*DB)(nil)

// Account implements [authn.AccountStore].
func (db *DB) Account(ctx context.Context, zone, name string) (authn.Account, error) {
	found, err := db.accounts(ctx, selectAccount, zone, name)
	if err == nil && len(found) == 0 {
		err = authn.ErrNoAccount
	}
	if err != nil {
		return authn.Account{}, fmt.Errorf("account %q of zone %q: %w", name, zone, err)
	}
	return found[0], nil
}

// AccountsOf implements [gateway.Accounts].
func (db *DB) AccountsOf(ctx context.Context, zone string) ([]authn.Account, error) {
	found, err := db.accounts(ctx, selectAccounts, zone)
	if err != nil {
		return nil, fmt.Errorf("accounts of zone %q: %w", zone, err)
	}
	return found, nil
}

func (db *DB) accounts(ctx context.Context, query string, args ...any) (found []authn.Account, err error) {
	err = each(ctx, db.reader, func(rows *sql.Rows) error {
		var a authn.Account
		var permissions string
		var token, principal []byte
		var epoch, created int64
		if err := rows.Scan(&a.Zone, &a.Name, &permissions, &token, &principal, &epoch, &created); err != nil {
			return err
		}
		if copy(a.Token[:], token) != len(a.Token) {
			return fmt.Errorf("the token of account %q is cut short: %w", a.Name, ErrCorrupt)
		}
		if a.Principal, err = unmarshalPrincipal(principal); err != nil {
			return fmt.Errorf("account %q: %w: %w", a.Name, ErrCorrupt, err)
		}
		a.Permissions, a.Epoch, a.Created = strings.Fields(permissions), uint64(epoch), time.UnixMicro(created).UTC()
		found = append(found, a)
		return nil
	}, query, args...)
	return found, classify(err)
}

// CreateAccount implements [gateway.Accounts].
func (db *DB) CreateAccount(ctx context.Context, a authn.Account) error {
	principal, err := marshalPrincipal(a.Principal)
	if err != nil {
		return fmt.Errorf("create account: %w", err)
	}
	return db.changeAccount(ctx, "create", a.Name, authn.ErrAccountExists, insertAccount,
		a.Zone, a.Name, strings.Join(a.Permissions, " "), a.Token[:], principal, int64(a.Epoch), a.Created.UnixMicro())
}

// UpdateAccount implements [gateway.Accounts].
func (db *DB) UpdateAccount(ctx context.Context, a authn.Account) error {
	return db.changeAccount(ctx, "update", a.Name, authn.ErrNoAccount, updateAccount, strings.Join(a.Permissions, " "), a.Token[:], a.Zone, a.Name)
}

// DeleteAccount implements [gateway.Accounts].
func (db *DB) DeleteAccount(ctx context.Context, zone, name string) error {
	return db.changeAccount(ctx, "delete", name, authn.ErrNoAccount, deleteAccount, zone, name)
}

// changeAccount runs a statement that changes one row, or none: then the error wraps none.
func (db *DB) changeAccount(ctx context.Context, what, name string, none error, query string, args ...any) error {
	err := db.write(ctx, func(b *batch) error {
		changed, err := b.exec(ctx, query, args...)
		if err == nil && changed == 0 {
			return none
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s account %q: %w", what, name, err)
	}
	return nil
}
