// Package tokentest is the conformance suite of authn.TokenStore: what every implementation must do, whatever keeps its
// data; and a store in memory that does it.
package tokentest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

// Run runs the suite. Each case calls open once and expects an empty store that lives until the case ends.
func Run(t *testing.T, open func(t *testing.T) authn.TokenStore) {
	cases := []struct {
		name string
		run  func(*testing.T, authn.TokenStore)
	}{
		{"absent", testAbsent},
		{"put reads back", testRoundTrip},
		{"taken", testTaken},
		{"list", testList},
		{"revoke", testRevoke},
		{"a revoked token never comes back", testRevokedStays},
		{"concurrent puts of one id", testConcurrent},
		{"a spent credential buys nothing", testOnce},
		{"all tokens of a principal", testRevokeAll},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// start is in whole microseconds, which every store keeps, and far ahead, so that no store has forgotten it.
var start = time.Date(2126, 3, 1, 12, 0, 0, 123_456_000, time.UTC)

func mac(n int) [32]byte { return sha256.Sum256(fmt.Append(nil, n)) }

func token(n int) authn.TokenInfo {
	return authn.TokenInfo{
		ID: fmt.Sprintf("tok-%04d", n),
		Principal: authn.Principal{
			Forge: "git.example.com", ID: fmt.Sprint(n), Name: "Zoë \"Z\" O'Neil", Kind: authn.Human,
			Groups: []string{"team/a", "team/b"}, Roles: []string{"writer:main"}, Claims: map[string]any{"ref": "main"},
		},
		Created: start.Add(time.Duration(n) * time.Second),
		Expires: start.Add(time.Hour),
		Note:    "laptop; DROP TABLE tokens",
		Epoch:   1,
	}
}

func put(t *testing.T, s authn.TokenStore, n int) {
	t.Helper()
	if err := s.PutToken(t.Context(), mac(n), token(n)); err != nil {
		t.Fatalf("put %d: %v", n, err)
	}
}

func absent(t *testing.T, s authn.TokenStore, n int) {
	t.Helper()
	got, err := s.TokenByMAC(t.Context(), mac(n))
	if !errors.Is(err, authn.ErrNoToken) || got.ID != "" {
		t.Fatalf("token %d: got %+v, %v; want ErrNoToken", n, got, err)
	}
}

func present(t *testing.T, s authn.TokenStore, n int) {
	t.Helper()
	got, err := s.TokenByMAC(t.Context(), mac(n))
	if err != nil {
		t.Fatalf("token %d: %v", n, err)
	}
	if diff := cmp.Diff(token(n), got); diff != "" {
		t.Fatalf("token %d (-want +got):\n%s", n, diff)
	}
}

func testAbsent(t *testing.T, s authn.TokenStore) {
	absent(t, s, 1)
	absent(t, s, 2)
	if all, err := s.Tokens(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("tokens of an empty store: %v, %v", all, err)
	}
	if err := s.RevokeToken(t.Context(), "tok-0001"); !errors.Is(err, authn.ErrNoToken) {
		t.Fatalf("revoke: %v, want ErrNoToken", err)
	}
}

func testRoundTrip(t *testing.T, s authn.TokenStore) {
	put(t, s, 1)
	present(t, s, 1)
	absent(t, s, 2)
	bare := authn.TokenInfo{ID: "tok-bare", Principal: authn.Principal{ID: "7", Kind: authn.CI, Review: true}, Created: start, Epoch: 1}
	bare.Expires = start.Add(time.Microsecond)
	if err := s.PutToken(t.Context(), mac(3), bare); err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenByMAC(t.Context(), mac(3))
	if diff := cmp.Diff(bare, got); err != nil || diff != "" {
		t.Fatalf("bare token: %v (-want +got):\n%s", err, diff)
	}
}

func testTaken(t *testing.T, s authn.TokenStore) {
	put(t, s, 1)
	if err := s.PutToken(t.Context(), mac(1), token(2)); !errors.Is(err, authn.ErrTokenExists) {
		t.Fatalf("put under a taken MAC: %v, want ErrTokenExists", err)
	}
	if err := s.PutToken(t.Context(), mac(2), token(1)); !errors.Is(err, authn.ErrTokenExists) {
		t.Fatalf("put under a taken id: %v, want ErrTokenExists", err)
	}
	present(t, s, 1)
	absent(t, s, 2)
}

func testList(t *testing.T, s authn.TokenStore) {
	for _, n := range []int{3, 1, 2} {
		put(t, s, n)
	}
	all, err := s.Tokens(t.Context())
	if diff := cmp.Diff([]authn.TokenInfo{token(1), token(2), token(3)}, all); err != nil || diff != "" {
		t.Fatalf("tokens: %v (-want +got):\n%s", err, diff)
	}
}

func testRevoke(t *testing.T, s authn.TokenStore) {
	for n := range 3 {
		put(t, s, n)
	}
	if err := s.RevokeToken(t.Context(), "tok-0001"); err != nil {
		t.Fatal(err)
	}
	present(t, s, 0)
	absent(t, s, 1)
	present(t, s, 2)
	all, err := s.Tokens(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("tokens: %v, %v; want two", all, err)
	}
	for _, id := range []string{"tok-0001", "tok-", "", "%", "tok-0001' OR '1'='1"} {
		if err := s.RevokeToken(t.Context(), id); !errors.Is(err, authn.ErrNoToken) {
			t.Fatalf("revoke %q: %v, want ErrNoToken", id, err)
		}
	}
}

func testRevokedStays(t *testing.T, s authn.TokenStore) {
	put(t, s, 1)
	if err := s.RevokeToken(t.Context(), "tok-0001"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutToken(t.Context(), mac(1), token(1)); !errors.Is(err, authn.ErrTokenExists) {
		t.Fatalf("put again: %v, want ErrTokenExists", err)
	}
	absent(t, s, 1)
}

func testConcurrent(t *testing.T, s authn.TokenStore) {
	const racers = 8
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { errs[i] = s.PutToken(t.Context(), mac(i), token(1)) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, authn.ErrTokenExists):
			t.Fatalf("put: %v, want ErrTokenExists", err)
		}
	}
	if won != 1 {
		t.Fatalf("%d puts of one id succeeded", won)
	}
}

func refused(t *testing.T, err error, want authn.Reason) {
	t.Helper()
	var r *authn.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Fatalf("got %v, want a refusal for %s", err, want)
	}
}

func testOnce(t *testing.T, s authn.TokenStore) {
	first, second, free := token(1), token(2), token(3)
	first.Once, second.Once = mac(7), mac(7)
	if err := s.PutToken(t.Context(), mac(1), first); err != nil {
		t.Fatal(err)
	}
	refused(t, s.PutToken(t.Context(), mac(2), second), authn.Replayed)
	absent(t, s, 2)
	if err := s.RevokeToken(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, s.PutToken(t.Context(), mac(2), second), authn.Replayed)
	for n := range 2 { // no digest is no digest, however often
		if err := s.PutToken(t.Context(), mac(3+n), free); err != nil {
			t.Fatal(err)
		}
		free.ID += "x"
	}
}

func testRevokeAll(t *testing.T, s authn.TokenStore) {
	mine, other := token(1), token(2)
	key := mine.Principal.Key()
	if epoch, err := s.Epoch(t.Context(), key); err != nil || epoch != 1 {
		t.Fatalf("epoch %d, %v; want 1", epoch, err)
	}
	put(t, s, 1)
	put(t, s, 2)
	if n, err := s.RevokeTokensOf(t.Context(), key); err != nil || n != 1 {
		t.Fatalf("ended %d, %v; want 1", n, err)
	}
	absent(t, s, 1)
	present(t, s, 2)
	if epoch, err := s.Epoch(t.Context(), key); err != nil || epoch != 2 {
		t.Fatalf("epoch %d, %v; want 2", epoch, err)
	}
	late := token(3)
	late.Principal = mine.Principal
	refused(t, s.PutToken(t.Context(), mac(3), late), authn.EndedEpoch)
	absent(t, s, 3)
	late.Epoch = 2
	if err := s.PutToken(t.Context(), mac(3), late); err != nil {
		t.Fatal(err)
	}
	if n, err := s.RevokeTokensOf(t.Context(), "nobody/' OR 1=1"); err != nil || n != 0 {
		t.Fatalf("ended %d of nobody's, %v", n, err)
	}
	if epoch, err := s.Epoch(t.Context(), other.Principal.Key()); err != nil || epoch != 1 {
		t.Fatalf("another's epoch %d, %v; want 1", epoch, err)
	}
}

// Memory is a [authn.TokenStore] in memory, for tests. The zero Memory is empty and ready.
type Memory struct {
	mu      sync.Mutex // guards everything below
	order   [][32]byte
	tokens  map[[32]byte]authn.TokenInfo
	revoked map[[32]byte]bool
	epochs  map[string]uint64 // beyond the first
}

var _ authn.TokenStore = (*Memory)(nil)

// TokenByMAC implements [authn.TokenStore].
func (m *Memory) TokenByMAC(_ context.Context, mac [32]byte) (authn.TokenInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	info, ok := m.tokens[mac]
	if !ok || m.revoked[mac] {
		return authn.TokenInfo{}, authn.ErrNoToken
	}
	return info, nil
}

// PutToken implements [authn.TokenStore].
func (m *Memory) PutToken(_ context.Context, mac [32]byte, info authn.TokenInfo) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.tokens[mac]; taken {
		return authn.ErrTokenExists
	}
	if info.Epoch != 1+m.epochs[info.Principal.Key()] {
		return authn.RefuseToken(authn.EndedEpoch, info.ID)
	}
	at := len(m.order)
	for i, other := range m.order {
		if m.tokens[other].ID == info.ID {
			return authn.ErrTokenExists
		}
		if info.Once != [32]byte{} && m.tokens[other].Once == info.Once {
			return authn.RefuseToken(authn.Replayed, info.ID)
		}
		if info.Created.Before(m.tokens[other].Created) {
			at = min(at, i)
		}
	}
	if m.tokens == nil {
		m.tokens, m.revoked = make(map[[32]byte]authn.TokenInfo), make(map[[32]byte]bool)
	}
	m.tokens[mac] = info
	m.order = append(m.order[:at:at], append([][32]byte{mac}, m.order[at:]...)...)
	return nil
}

// Tokens implements [authn.TokenStore].
func (m *Memory) Tokens(context.Context) ([]authn.TokenInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []authn.TokenInfo
	for _, mac := range m.order {
		if !m.revoked[mac] {
			all = append(all, m.tokens[mac])
		}
	}
	return all, nil
}

// RevokeToken implements [authn.TokenStore].
func (m *Memory) RevokeToken(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mac := range m.order {
		if m.tokens[mac].ID == id && !m.revoked[mac] {
			m.revoked[mac] = true
			return nil
		}
	}
	return authn.ErrNoToken
}

// Epoch implements [authn.TokenStore].
func (m *Memory) Epoch(_ context.Context, key string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 1 + m.epochs[key], nil
}

// RevokeTokensOf implements [authn.TokenStore].
func (m *Memory) RevokeTokensOf(_ context.Context, key string) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epochs == nil {
		m.epochs = make(map[string]uint64)
	}
	m.epochs[key]++
	for _, mac := range m.order {
		if m.tokens[mac].Principal.Key() == key && !m.revoked[mac] {
			m.revoked[mac] = true
			n++
		}
	}
	return n, nil
}
