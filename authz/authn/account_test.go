package authn_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
)

// oneAccount is a store with one account.
type oneAccount struct {
	one authn.Account
	err error
}

func (s oneAccount) Account(_ context.Context, zone, name string) (authn.Account, error) {
	if s.err != nil {
		return authn.Account{}, s.err
	}
	if zone != s.one.Zone || name != s.one.Name {
		return authn.Account{}, authn.ErrNoAccount
	}
	return s.one, nil
}

// TestAccounts: an account is who made it, while its token is the one that is shown and its maker's credentials were not ended.
func TestAccounts(t *testing.T) {
	token := authn.NewAccountToken()
	if len(token.Reveal()) != 64 || !authn.IsAccountToken(token) || token.Reveal() == authn.NewAccountToken().Reveal() {
		t.Fatalf("a token of %d characters", len(token.Reveal()))
	}
	maker := authn.Principal{Forge: "git.example.com", ID: "1", Name: "alice", Kind: authn.Human}
	account := authn.Account{Zone: "main", Name: "builder", Token: authn.AccountToken(token), Principal: maker, Epoch: 3}
	fault := errors.New("the disk is gone")
	epochOf := func(n uint64, err error) func(context.Context, authn.Principal) (uint64, error) {
		return func(_ context.Context, p authn.Principal) (uint64, error) {
			if p.Key() != maker.Key() {
				t.Errorf("the epoch of %v was asked for", p)
			}
			return n, err
		}
	}
	for _, tt := range []struct {
		name    string
		login   *authn.Login
		store   oneAccount
		epoch   func(context.Context, authn.Principal) (uint64, error)
		refused bool
		reason  authn.Reason
		fault   bool
	}{
		{"good", &authn.Login{Zone: "main", Name: "builder", Token: token}, oneAccount{one: account}, epochOf(3, nil), false, "", false},
		{"another token", &authn.Login{Zone: "main", Name: "builder", Token: authn.NewAccountToken()}, oneAccount{one: account}, epochOf(3, nil), true, authn.UnknownAccount, false},
		{"another name", &authn.Login{Zone: "main", Name: "other", Token: token}, oneAccount{one: account}, epochOf(3, nil), true, authn.UnknownAccount, false},
		{"another zone", &authn.Login{Zone: "review", Name: "builder", Token: token}, oneAccount{one: account}, epochOf(3, nil), true, authn.UnknownAccount, false},
		{"ended", &authn.Login{Zone: "main", Name: "builder", Token: token}, oneAccount{one: account}, epochOf(4, nil), true, authn.EndedEpoch, false},
		{"no epoch", &authn.Login{Zone: "main", Name: "builder", Token: token}, oneAccount{one: account}, epochOf(0, fault), false, "", true},
	} {
		p, err := authn.Accounts{Store: tt.store, Epoch: tt.epoch}.Authenticate(t.Context(), authn.Credential{Account: tt.login})
		var r *authn.Refusal
		switch {
		case tt.refused && (!errors.As(err, &r) || r.Reason != tt.reason):
			t.Errorf("%s: %v", tt.name, err)
		case tt.fault && (err == nil || errors.Is(err, authn.ErrRefused)):
			t.Errorf("%s: %v", tt.name, err)
		case !tt.refused && !tt.fault && (err != nil || p.Key() != maker.Key() || p.Credential != "account:main/builder"):
			t.Errorf("%s: %v, %v", tt.name, p, err)
		}
	}
	if _, err := (authn.Accounts{Store: oneAccount{err: fault}}).Authenticate(t.Context(), authn.Credential{Account: &authn.Login{}}); !errors.Is(err, fault) || errors.Is(err, authn.ErrRefused) {
		t.Errorf("a fault is taken for a refusal: %v", err)
	}
	for _, c := range []authn.Credential{{}, {Token: token}, {Account: &authn.Login{}, Token: token}} {
		if _, err := (authn.Accounts{Store: oneAccount{one: account}}).Authenticate(t.Context(), c); !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%v: %v", c.Account, err)
		}
	}
}

// TestPlaces: a listener that stands for somebody is that one, and any other is nobody.
func TestPlaces(t *testing.T) {
	places := authn.Places{"127.0.0.1:8686": {Forge: "git.example.com", ID: "1", Name: "alice"}}
	if p, err := places.Authenticate(t.Context(), authn.Credential{Place: "127.0.0.1:8686"}); err != nil || p.ID != "1" || p.Credential != "listener:127.0.0.1:8686" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := places.Authenticate(t.Context(), authn.Credential{Place: "127.0.0.1:8687"}); !errors.Is(err, authn.ErrRefused) {
		t.Error(err)
	}
	for _, c := range []authn.Credential{{}, {Token: authn.NewSecret("x")}, {Place: "127.0.0.1:8686", Token: authn.NewSecret("x")}} {
		if _, err := places.Authenticate(t.Context(), c); !errors.Is(err, authn.ErrNotMine) {
			t.Error(err)
		}
	}
}

// TestHeaderToken: what cannot be read is a bad token, not none.
func TestHeaderToken(t *testing.T) {
	bad := authn.HeaderToken([]string{"nonsense"})
	for _, tt := range []struct {
		values []string
		want   string
	}{
		{[]string{"Bearer abc"}, "abc"},
		{[]string{"bearer abc"}, "abc"},
		{[]string{"Basic dTpwYXNz"}, "pass"},
		{[]string{"BASIC OnBhc3M="}, "pass"},
		{[]string{"Basic dTpwOnE="}, "p:q"},
	} {
		if got := authn.HeaderToken(tt.values); got.Reveal() != tt.want {
			t.Errorf("%q: %q, want %q", tt.values, got.Reveal(), tt.want)
		}
	}
	for _, values := range [][]string{nil, {""}, {"Bearer"}, {"Bearer "}, {"Basic"}, {"Basic !"}, {"Basic dQ=="}, {"Basic dTo="}, {"Digest x"}, {"Bearer a", "Bearer b"}} {
		if got := authn.HeaderToken(values); got.Reveal() != bad.Reveal() || got.IsZero() {
			t.Errorf("%q is %s", values, fmt.Sprint(got.Reveal()))
		}
	}
}
