package forge_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

func fingerprintOf(line string) string {
	blob, err := base64.StdEncoding.DecodeString(strings.Fields(line)[1])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// fake is a forge that answers by a function.
type fake func(repos []forge.Repo) ([]forge.Fact, error)

func (f fake) Access(_ context.Context, _ authn.Principal, repos []forge.Repo) ([]forge.Fact, error) {
	return f(repos)
}

func all(a forge.Access) fake {
	return func(repos []forge.Repo) ([]forge.Fact, error) {
		facts := make([]forge.Fact, len(repos))
		for i, r := range repos {
			facts[i] = forge.Fact{Repo: r, Access: a}
		}
		return facts, nil
	}
}

func multi(t *testing.T, forges ...forge.Named) *forge.Multi {
	t.Helper()
	m, err := forge.NewMulti(forges...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMultiRoutes(t *testing.T) {
	errDown := errors.New("down")
	m := multi(t,
		forge.Named{Name: "yes", Provider: all(forge.Read)},
		forge.Named{Name: "no", Provider: all(forge.None)},
		forge.Named{Name: "down", Provider: fake(func([]forge.Repo) ([]forge.Fact, error) { return nil, errDown })},
		forge.Named{Name: "short", Provider: fake(func([]forge.Repo) ([]forge.Fact, error) { return nil, nil })},
		forge.Named{Name: "crossed", Provider: fake(func(repos []forge.Repo) ([]forge.Fact, error) {
			return []forge.Fact{{Repo: forge.Repo{Forge: "crossed", ID: "another"}, Access: forge.Read}}, nil
		})})
	var repos []forge.Repo
	want := []forge.Access{forge.Read, forge.None, forge.Unknown, forge.Unknown, forge.Unknown, forge.Unknown, forge.Read}
	for _, name := range []string{"yes", "no", "down", "short", "crossed", "nowhere", "yes"} {
		repos = append(repos, forge.Repo{Forge: name, ID: "1"})
	}
	facts, err := m.Access(t.Context(), authn.Principal{}, repos)
	if err != nil {
		t.Fatal(err)
	}
	if err := forge.CheckFacts(repos, facts); err != nil {
		t.Fatal(err)
	}
	for i, f := range facts {
		if f.Access != want[i] {
			t.Errorf("%v: %v, want %v", f.Repo, f.Access, want[i])
		}
	}
	if _, err := m.Access(t.Context(), authn.Principal{}, []forge.Repo{{Forge: "down", ID: "1"}, {Forge: "short", ID: "1"}}); !errors.Is(err, errDown) {
		t.Errorf("when nobody answers: %v, want an error", err)
	}
	for _, name := range []string{"down", "short", "crossed"} {
		if _, err := m.Access(t.Context(), authn.Principal{}, []forge.Repo{{Forge: name, ID: "1"}}); err == nil {
			t.Errorf("forge %q alone: no error", name)
		}
	}
	if facts, err := m.Access(t.Context(), authn.Principal{}, []forge.Repo{{Forge: "nowhere", ID: "1"}}); err != nil || facts[0].Access != forge.Unknown {
		t.Errorf("a forge nobody configured: %v, %v; want unknown", facts, err)
	}
}

func TestMultiRefuses(t *testing.T) {
	a, b := load(t, sample), load(t, sample)
	for _, tt := range []struct {
		forges []forge.Named
		want   string
	}{
		{[]forge.Named{{Name: "a", Provider: a}, {Name: "b", Provider: b}}, `host "git.example.com" belongs to the forges "a" and "b"`},
		{[]forge.Named{{Name: "a", Provider: a}, {Name: "a", Provider: all(forge.Read)}}, "configured twice"},
		{[]forge.Named{{Name: "a/b", Provider: a}}, "lower-case letters"},
		{[]forge.Named{{Name: "", Provider: a}}, "1 to 100"},
		{[]forge.Named{{Name: "a"}}, "no provider"},
	} {
		if _, err := forge.NewMulti(tt.forges...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.forges, err, tt.want)
		}
	}
}

// resolver owns one host, which it may have taken over after the start.
type resolver struct {
	fake
	name, host string
}

func (r resolver) Resolve(_ context.Context, l source.Locator) (forge.Repo, bool, error) {
	if l.Host != r.host {
		return forge.Repo{}, false, nil
	}
	if l.Path == "gone" {
		return forge.Repo{}, true, forge.ErrNoRepo
	}
	return forge.Repo{Forge: r.name, ID: l.Path}, true, nil
}

func TestMultiResolve(t *testing.T) {
	m := multi(t,
		forge.Named{Name: "mute", Provider: all(forge.Read)},
		forge.Named{Name: "a", Provider: resolver{name: "a", host: "a.example"}},
		forge.Named{Name: "b", Provider: resolver{name: "b", host: "b.example"}},
		forge.Named{Name: "c", Provider: resolver{name: "c", host: "b.example"}})
	if r, ok, err := m.Resolve(t.Context(), source.Locator{Host: "a.example", Path: "x"}); err != nil || !ok || r.String() != "a:x" {
		t.Errorf("a.example: %v, %v, %v", r, ok, err)
	}
	if _, _, err := m.Resolve(t.Context(), source.Locator{Host: "a.example", Path: "gone"}); !errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("gone: %v", err)
	}
	if _, ok, err := m.Resolve(t.Context(), source.Locator{Host: "c.example", Path: "x"}); ok || err != nil {
		t.Errorf("a host nobody owns: %v, %v", ok, err)
	}
	if r, ok, err := m.Resolve(t.Context(), source.Locator{Host: "b.example", Path: "x"}); ok || err == nil {
		t.Errorf("a host two own: %v, %v, %v; want an error", r, ok, err)
	}
}

func TestMultiDirectory(t *testing.T) {
	m := multi(t, forge.Named{Name: "git.example.com", Provider: load(t, sample)}, forge.Named{Name: "mute", Provider: all(forge.Read)})
	if u, err := m.User(t.Context(), "git.example.com", "1"); err != nil || u.Name != "alice" {
		t.Errorf("alice: %+v, %v", u, err)
	}
	if u, err := m.UserByName(t.Context(), "git.example.com", "bob"); err != nil || u.ID != "2" {
		t.Errorf("bob: %+v, %v", u, err)
	}
	if _, err := m.User(t.Context(), "nowhere", "1"); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a forge nobody configured: %v, want ErrNoUser", err)
	}
	if _, err := m.User(t.Context(), "mute", "1"); err == nil || errors.Is(err, forge.ErrNoUser) {
		t.Errorf("a forge without directory: %v, want an error that is no answer", err)
	}
}

// owners is a forge that knows keys and identities by a function.
type owners struct {
	fake
	find func(what string) (forge.User, error)
}

func (o owners) KeyOwner(_ context.Context, fingerprint string) (forge.User, error) {
	return o.find(fingerprint)
}

func (o owners) IdentityOwner(_ context.Context, issuer, subject string) (forge.User, error) {
	return o.find(issuer + " " + subject)
}

func knows(users map[string]string) owners {
	return owners{all(forge.Read), func(what string) (forge.User, error) {
		if id := users[what]; id != "" {
			return forge.User{ID: id, Name: "user-" + id, Kind: authn.Human}, nil
		}
		return forge.User{}, forge.ErrNoUser
	}}
}

func fails(err error) owners {
	return owners{all(forge.Read), func(string) (forge.User, error) { return forge.User{}, err }}
}

func TestMultiKeyOwner(t *testing.T) {
	const key = "SHA256:key"
	var (
		errDown = errors.New("down")
		knowing = knows(map[string]string{key: "7"})
		other   = knows(map[string]string{key: "8"})
		nobody  = knows(nil)
		down    = fails(errDown)
		deploy  = fails(forge.ErrDeployKey)
		mute    = all(forge.Read)
	)
	for name, tt := range map[string]struct {
		forges []forge.Provider
		want   error // nil: user 7 of the forge "a"
	}{
		"one knows it":                        {[]forge.Provider{knowing}, nil},
		"one of two knows it":                 {[]forge.Provider{knowing, nobody, mute}, nil},
		"nobody knows it":                     {[]forge.Provider{nobody, nobody}, authn.ErrNobody},
		"no forge can tell":                   {[]forge.Provider{mute}, authn.ErrNobody},
		"there is no forge":                   {nil, authn.ErrNobody},
		"two know it":                         {[]forge.Provider{knowing, other}, authn.ErrAmbiguous},
		"two know it, under one id":           {[]forge.Provider{knowing, knowing}, authn.ErrAmbiguous},
		"one is down":                         {[]forge.Provider{down}, errDown},
		"one knows it and one is down":        {[]forge.Provider{knowing, down}, errDown},
		"one is down and one knows it":        {[]forge.Provider{down, knowing}, errDown},
		"one is down and nobody knows it":     {[]forge.Provider{down, nobody}, errDown},
		"it is a deploy key":                  {[]forge.Provider{deploy}, authn.ErrNobody},
		"it is a deploy key elsewhere":        {[]forge.Provider{knowing, deploy}, authn.ErrNobody},
		"it is a deploy key, known elsewhere": {[]forge.Provider{deploy, knowing}, authn.ErrNobody},
	} {
		var forges []forge.Named
		for i, p := range tt.forges {
			forges = append(forges, forge.Named{Name: string(rune('a' + i)), Provider: p})
		}
		p, err := multi(t, forges...).KeyOwner(t.Context(), key)
		switch {
		case tt.want == nil:
			if err != nil || p.Key() != "a/7" || p.Name != "user-7" || p.Kind != authn.Human {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		case !errors.Is(err, tt.want) || p.ID != "":
			t.Errorf("%s: %+v, %v; want %v", name, p, err, tt.want)
		}
		for _, answer := range []error{authn.ErrNobody, authn.ErrAmbiguous, errDown} {
			if answer != tt.want && errors.Is(err, answer) {
				t.Errorf("%s: %v is also %v", name, err, answer)
			}
		}
	}
}

func TestMultiIdentityOwner(t *testing.T) {
	errDown := errors.New("down")
	m := multi(t,
		forge.Named{Name: "a", Provider: knows(map[string]string{"https://idp sub": "7"})},
		forge.Named{Name: "down", Provider: fails(errDown)},
		forge.Named{Name: "mute", Provider: all(forge.Read)})
	if p, err := m.IdentityOwner(t.Context(), "a", "https://idp", "sub"); err != nil || p.Key() != "a/7" {
		t.Errorf("a known one: %+v, %v", p, err)
	}
	if _, err := m.IdentityOwner(t.Context(), "a", "https://idp", "other"); !errors.Is(err, authn.ErrNobody) {
		t.Errorf("an unknown one: %v", err)
	}
	if _, err := m.IdentityOwner(t.Context(), "down", "https://idp", "sub"); !errors.Is(err, errDown) || errors.Is(err, authn.ErrNobody) {
		t.Errorf("a forge that is down: %v", err)
	}
	for _, name := range []string{"mute", "nowhere"} {
		if _, err := m.IdentityOwner(t.Context(), name, "https://idp", "sub"); !errors.Is(err, authn.ErrNobody) {
			t.Errorf("forge %q: %v", name, err)
		}
	}
}

func TestMultiByName(t *testing.T) {
	m := multi(t, forge.Named{Name: "git.example.com", Provider: load(t, sample)}, forge.Named{Name: "mute", Provider: all(forge.Read)})
	if p, err := m.ByName(t.Context(), "git.example.com", "ci"); err != nil || p.Key() != "git.example.com/3" || p.Kind != authn.CI {
		t.Errorf("ci: %+v, %v", p, err)
	}
	for _, q := range []struct{ forge, name string }{{"git.example.com", "nobody"}, {"nowhere", "ci"}} {
		if _, err := m.ByName(t.Context(), q.forge, q.name); !errors.Is(err, authn.ErrNobody) {
			t.Errorf("%q at %q: %v", q.name, q.forge, err)
		}
	}
	if _, err := m.ByName(t.Context(), "mute", "ci"); err == nil || errors.Is(err, authn.ErrNobody) {
		t.Errorf("a forge without directory: %v, want an error that is no answer", err)
	}
}

func TestParseRepo(t *testing.T) {
	for _, s := range []string{"git.example.com:17", "a:team/tool", "a:x:y", "a:17 18"} {
		r, err := forge.ParseRepo(s)
		if err != nil || r.String() != s {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", ":", "a", "a:", ":17", "A:17", "a/b:17", "a b:17", strings.Repeat("a", 101) + ":1"} {
		if r, err := forge.ParseRepo(s); err == nil {
			t.Errorf("%q: %v, want an error", s, r)
		}
	}
}
