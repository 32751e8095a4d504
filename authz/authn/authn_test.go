package authn_test

import (
	"bytes"
	"context"
	"crypto/x509"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

// answer is an Authenticator that always says the same.
type answer struct {
	p   authn.Principal
	err error
}

func (a answer) Authenticate(context.Context, authn.Credential) (authn.Principal, error) {
	return a.p, a.err
}

func TestChain(t *testing.T) {
	fault := errors.New("network is gone")
	token := authn.Credential{Token: authn.NewSecret("x")}
	notMine := answer{err: authn.ErrNotMine}
	wrappedNotMine := answer{err: fmt.Errorf("oidc: %w", authn.ErrNotMine)}
	refuses := answer{err: authn.ErrRefused}
	accepts := answer{p: alice}
	both := authn.Credential{Token: authn.NewSecret("x"), Chain: []*x509.Certificate{new(x509.Certificate)}}
	for name, c := range map[string]struct {
		chain authn.Chain
		shown authn.Credential
		want  error // nil: alice
	}{
		"nothing shown":               {authn.Chain{accepts}, authn.Credential{}, authn.ErrAnonymous},
		"nothing shown, nobody asked": {nil, authn.Credential{}, authn.ErrAnonymous},
		"empty token":                 {authn.Chain{accepts}, authn.Credential{Token: authn.NewSecret("")}, authn.ErrAnonymous},
		"two credentials":             {authn.Chain{accepts}, both, authn.ErrRefused},
		"nobody asked":                {nil, token, authn.ErrRefused},
		"nobody knows it":             {authn.Chain{notMine, wrappedNotMine}, token, authn.ErrRefused},
		"first knows it":              {authn.Chain{accepts, refuses}, token, nil},
		"second knows it":             {authn.Chain{notMine, accepts}, token, nil},
		"a refusal is final":          {authn.Chain{notMine, refuses, accepts}, token, authn.ErrRefused},
		"a fault is final":            {authn.Chain{answer{err: fault}, accepts}, token, fault},
		"a fault with a principal":    {authn.Chain{answer{p: alice, err: fault}}, token, fault},
	} {
		p, err := c.chain.Authenticate(t.Context(), c.shown)
		if !errors.Is(err, c.want) || c.want == nil && p.ID != alice.ID {
			t.Errorf("%s: got %+v, %v; want %v", name, p, err, c.want)
		}
		if errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%s: %v says ErrNotMine", name, err)
		}
	}
}

func TestAnonymousIsNoRefusal(t *testing.T) {
	if errors.Is(authn.ErrAnonymous, authn.ErrRefused) {
		t.Fatal("asking for a credential would be audited as a refused one")
	}
}

func TestPrincipalKeysDiffer(t *testing.T) {
	seen := make(map[string]authn.Principal)
	for _, p := range []authn.Principal{
		{Forge: "a", ID: "b/c", Kind: authn.Human},
		{Forge: "a", ID: "b", Kind: authn.Human},
		{ID: "a/b", Kind: authn.Human},
		{ID: "a", Kind: authn.Human},
		{Forge: "a/b", ID: "c", Kind: authn.Human},
	} {
		if p.Validate() != nil {
			continue
		}
		if other, ok := seen[p.Key()]; ok {
			t.Fatalf("%+v and %+v share the key %q", p, other, p.Key())
		}
		seen[p.Key()] = p
	}
	if len(seen) != 4 {
		t.Fatalf("%d keys", len(seen))
	}
}

func TestKinds(t *testing.T) {
	for _, k := range []authn.Kind{authn.Human, authn.CI, authn.Service, authn.Anonymous} {
		if !k.Valid() {
			t.Errorf("%q is not valid", k)
		}
	}
	for _, k := range []authn.Kind{"", "Human", "root", "human "} {
		if k.Valid() {
			t.Errorf("%q is valid", k)
		}
	}
}

// TestSecretIsNeverPrinted plants a canary and looks for it, plain and in hex, in everything that prints.
func TestSecretIsNeverPrinted(t *testing.T) {
	const canary = "canary"
	secret := authn.NewSecret(canary)
	credential := authn.Credential{Token: secret}
	type holder struct {
		Token   authn.Secret
		Pointer *authn.Secret
		List    []authn.Secret
		Map     map[string]authn.Secret
		hidden  authn.Secret
	}
	held := holder{secret, &secret, []authn.Secret{secret}, map[string]authn.Secret{"a": secret}, secret}
	var out bytes.Buffer
	for _, value := range []any{secret, &secret, credential, &credential, held, &held, []any{secret}} {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3"} {
			for verb := 'A'; verb <= 'z'; verb++ {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", value)
			}
		}
		fmt.Fprintln(&out, value)
		fmt.Fprint(&out, fmt.Errorf("wrapped: %v", value))
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("said", "value", value, slog.Group("group", "value", value))
		}
		text, err := stdjson.Marshal(value)
		fmt.Fprintln(&out, string(text), err)
		text, err = json.Marshal(value)
		fmt.Fprintln(&out, string(text), err)
	}
	for _, leak := range []string{canary, "63616e617279", "63616E617279", "0x63, 0x61", "[99 97 110", "Y2FuYXJ5"} {
		if at := strings.Index(out.String(), leak); at >= 0 {
			t.Errorf("printed: %.120q", out.String()[max(0, at-60):])
		}
	}
	if !strings.Contains(out.String(), "[secret]") {
		t.Error("nothing was printed in its place")
	}
	if secret.Reveal() != canary || secret.IsZero() || !authn.NewSecret("").IsZero() {
		t.Error("the secret itself is wrong")
	}
}
