package sqldb

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

// TestAccounts: what was kept is there again, also for another handle and after a restart; names are unique in a zone.
func TestAccounts(t *testing.T) {
	path := testPath(t)
	db := openTest(t, path)
	account := func(zone, name string) authn.Account {
		return authn.Account{
			Zone: zone, Name: name, Permissions: []string{"@read", "@report"}, Token: authn.AccountToken(authn.NewSecret(zone + name)), Epoch: 3,
			Principal: authn.Principal{Forge: "git.example.com", ID: "1", Name: "alice", Kind: authn.CI, Groups: []string{"g"}, Claims: map[string]any{"ref": "main"}, Review: true},
			Created:   time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		}
	}
	for _, a := range []authn.Account{account("main", "b"), account("main", "a"), account("review", "a")} {
		if err := db.CreateAccount(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.CreateAccount(t.Context(), account("main", "a")); !errors.Is(err, authn.ErrAccountExists) {
		t.Errorf("created twice: %v", err)
	}
	other := openTest(t, path)
	for _, handle := range []*DB{db, other} {
		got, err := handle.AccountsOf(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]authn.Account{account("main", "a"), account("main", "b")}, got); diff != "" {
			t.Errorf("accounts (-want +got):\n%s", diff)
		}
		one, err := handle.Account(t.Context(), "review", "a")
		if diff := cmp.Diff(account("review", "a"), one); diff != "" || err != nil {
			t.Errorf("%v, account (-want +got):\n%s", err, diff)
		}
	}
	changed := account("main", "a")
	changed.Permissions, changed.Token = []string{}, authn.AccountToken(authn.NewSecret("new"))
	if err := db.UpdateAccount(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Account(t.Context(), "main", "a"); err != nil || got.Token != changed.Token || len(got.Permissions) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := db.DeleteAccount(t.Context(), "main", "a"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"look up": func() error { _, err := other.Account(t.Context(), "main", "a"); return err }(),
		"update":  db.UpdateAccount(t.Context(), changed),
		"delete":  db.DeleteAccount(t.Context(), "main", "a"),
	} {
		if !errors.Is(err, authn.ErrNoAccount) {
			t.Errorf("%s what is gone: %v", what, err)
		}
	}
}
