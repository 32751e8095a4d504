package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

// Named is a provider under the name that repositories and principals carry as their Forge.
type Named struct {
	Name     string
	Provider Provider
}

// hostLister is optional for a [Provider]: it names the hosts the forge owns, so that a conflict stops the start.
type hostLister interface{ Hosts() []string }

// Multi asks several forges: each repository is judged by its own. It is safe for concurrent use.
type Multi struct {
	order  []string // of configuration
	forges map[string]Provider
}

var (
	_ Provider        = (*Multi)(nil)
	_ Resolver        = (*Multi)(nil)
	_ authn.Directory = (*Multi)(nil)
)

// NewMulti puts forges together. Two forges of one name, or two that own one host, are an error.
func NewMulti(forges ...Named) (*Multi, error) {
	m := &Multi{forges: make(map[string]Provider)}
	owners := make(map[string]string)
	for _, f := range forges {
		if err := CheckName(f.Name); err != nil {
			return nil, err
		}
		if f.Provider == nil {
			return nil, fmt.Errorf("forge %q has no provider", f.Name)
		}
		if m.forges[f.Name] != nil {
			return nil, fmt.Errorf("forge %q is configured twice: give each forge a name of its own", f.Name)
		}
		if err := claimHosts(owners, f); err != nil {
			return nil, err
		}
		m.forges[f.Name] = f.Provider
		m.order = append(m.order, f.Name)
	}
	return m, nil
}

func claimHosts(owners map[string]string, f Named) error {
	lister, ok := f.Provider.(hostLister)
	if !ok {
		return nil
	}
	for _, host := range lister.Hosts() {
		if other := owners[host]; other != "" {
			return fmt.Errorf("host %q belongs to the forges %q and %q: leave it in one of them", host, other, f.Name)
		}
		owners[host] = f.Name
	}
	return nil
}

// Access implements [Provider]. Forges are asked side by side; repositories of one that fails, or that nobody
// configured, get [Unknown] with the reason as their Origin. It is an error only when no forge answered anything.
func (m *Multi) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	if name, ok := single(repos); ok {
		return m.ask(ctx, name, p, repos)
	}
	parts := make(map[string][]int)
	for i, r := range repos {
		parts[r.Forge] = append(parts[r.Forge], i)
	}
	var (
		facts = make([]Fact, len(repos))
		wg    sync.WaitGroup
		mu    sync.Mutex // guards errs
		errs  []error
	)
	for name, at := range parts {
		wg.Go(func() {
			if err := m.scatter(ctx, name, p, repos, at, facts); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if len(errs) == len(parts) {
		return nil, errors.Join(errs...)
	}
	return facts, nil
}

// single reports the forge of repos when it is the same for all.
func single(repos []Repo) (string, bool) {
	if len(repos) == 0 {
		return "", false
	}
	for _, r := range repos[1:] {
		if r.Forge != repos[0].Forge {
			return "", false
		}
	}
	return repos[0].Forge, true
}

// scatter asks one forge about the repositories at the given places and puts its answers there. No two calls share a
// place.
func (m *Multi) scatter(ctx context.Context, name string, p authn.Principal, repos []Repo, at []int, facts []Fact) error {
	part := make([]Repo, len(at))
	for i, j := range at {
		part[i] = repos[j]
	}
	answers, err := m.ask(ctx, name, p, part)
	for i, j := range at {
		if err != nil {
			facts[j] = Fact{Repo: repos[j], Origin: "forge " + name + " did not answer"}
			continue
		}
		facts[j] = answers[i]
	}
	return err
}

// ask asks one forge and refuses an answer that does not fit the question.
func (m *Multi) ask(ctx context.Context, name string, p authn.Principal, repos []Repo) ([]Fact, error) {
	f := m.forges[name]
	if f == nil {
		return unknown(repos, fmt.Sprintf("no forge %q is configured", clip(name))), nil
	}
	facts, err := f.Access(ctx, p, repos)
	if err != nil {
		return nil, fmt.Errorf("ask forge %q: %w", name, err)
	}
	if err := CheckFacts(repos, facts); err != nil {
		return nil, fmt.Errorf("ask forge %q: %w", name, err)
	}
	return facts, nil
}

// CheckFacts reports whether facts answer repos, one for one and in order, as [Provider] promises.
func CheckFacts(repos []Repo, facts []Fact) error {
	if len(facts) != len(repos) {
		return fmt.Errorf("%d answers to %d questions", len(facts), len(repos))
	}
	for i, f := range facts {
		if f.Repo != repos[i] {
			return fmt.Errorf("answer for %q to a question about %q", clip(f.Repo.String()), clip(repos[i].String()))
		}
	}
	return nil
}

func unknown(repos []Repo, why string) []Fact {
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Origin: why}
	}
	return facts
}

// Resolve implements [Resolver]. A host that two forges claim resolves to neither.
func (m *Multi) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	var found Repo
	for _, name := range m.order {
		resolver, ok := m.forges[name].(Resolver)
		if !ok {
			continue
		}
		r, owns, err := resolver.Resolve(ctx, l)
		if err != nil {
			return Repo{}, false, fmt.Errorf("resolve at forge %q: %w", name, err)
		}
		if !owns {
			continue
		}
		if found.Forge != "" {
			return Repo{}, false, fmt.Errorf("host %q belongs to the forges %q and %q: leave it in one of them", clip(l.Host), found.Forge, name)
		}
		found = r
	}
	return found, found.Forge != "", nil
}

// User returns the state of the user with the immutable id at a forge. A forge that is not configured knows nobody.
func (m *Multi) User(ctx context.Context, forge, id string) (User, error) {
	d, err := m.directory(forge)
	if err != nil {
		return User{}, err
	}
	return d.User(ctx, id)
}

// UserByName is [Multi.User] by the name the user bears at the moment.
func (m *Multi) UserByName(ctx context.Context, forge, name string) (User, error) {
	d, err := m.directory(forge)
	if err != nil {
		return User{}, err
	}
	return d.UserByName(ctx, name)
}

// KeyOwner implements [authn.Directory]: every forge is asked, since a key with owners at two of them may be neither's, and one that is a
// deploy key at any is nobody's. A forge that does not answer is an error, also when another does.
func (m *Multi) KeyOwner(ctx context.Context, fingerprint string) (authn.Principal, error) {
	var found authn.Principal
	for _, name := range m.order {
		owners, ok := m.forges[name].(KeyOwners)
		if !ok {
			continue
		}
		user, err := owners.KeyOwner(ctx, fingerprint)
		switch {
		case errors.Is(err, ErrDeployKey):
			return authn.Principal{}, fmt.Errorf("%w: forge %q: %w", authn.ErrNobody, name, err)
		case errors.Is(err, ErrNoUser):
			continue
		case err != nil:
			return authn.Principal{}, fmt.Errorf("ask forge %q for the owner of a key: %w", name, err)
		case found.Forge != "":
			return authn.Principal{}, fmt.Errorf("%w: the key %s has owners at the forges %q and %q", authn.ErrAmbiguous, clip(fingerprint), found.Forge, name)
		}
		found = principal(name, user)
	}
	if found.Forge == "" {
		return found, fmt.Errorf("%w has the key %s", authn.ErrNobody, clip(fingerprint))
	}
	return found, nil
}

// IdentityOwner implements [authn.Directory].
func (m *Multi) IdentityOwner(ctx context.Context, forge, issuer, subject string) (authn.Principal, error) {
	identities, ok := m.forges[forge].(Identities)
	if !ok {
		return authn.Principal{}, fmt.Errorf("%w: forge %q ties no identities to its users", authn.ErrNobody, clip(forge))
	}
	return nobodyOr(forge)(identities.IdentityOwner(ctx, issuer, subject))
}

// ByName implements [authn.Directory].
func (m *Multi) ByName(ctx context.Context, forge, name string) (authn.Principal, error) {
	return nobodyOr(forge)(m.UserByName(ctx, forge, name))
}

// nobodyOr turns what a forge says of a user into what authn asks for.
func nobodyOr(forge string) func(User, error) (authn.Principal, error) {
	return func(u User, err error) (authn.Principal, error) {
		if errors.Is(err, ErrNoUser) {
			return authn.Principal{}, fmt.Errorf("%w: %w", authn.ErrNobody, err)
		}
		if err != nil {
			return authn.Principal{}, err
		}
		return principal(forge, u), nil
	}
}

// ReadHook reads what was posted in the name of a forge. An error that wraps [ErrHook] is about the delivery.
func (m *Multi) ReadHook(forge string, header http.Header, body []byte) (Delivery, error) {
	hooks, ok := m.forges[forge].(Hooks)
	if !ok {
		return Delivery{}, fmt.Errorf("forge %q posts nothing: %w", clip(forge), ErrHook)
	}
	d, err := hooks.ReadHook(header, body)
	if err != nil {
		return Delivery{}, fmt.Errorf("forge %q: %w", forge, err)
	}
	for i := range d.Events {
		d.Events[i].Forge = forge // it speaks for itself alone
	}
	return d, nil
}

func principal(forge string, u User) authn.Principal {
	return authn.Principal{Forge: forge, ID: u.ID, Name: u.Name, Kind: u.Kind}
}

func (m *Multi) directory(forge string) (Directory, error) {
	f := m.forges[forge]
	if f == nil {
		return nil, fmt.Errorf("no forge %q is configured: %w", clip(forge), ErrNoUser)
	}
	d, ok := f.(Directory)
	if !ok {
		return nil, fmt.Errorf("forge %q cannot tell the state of its users", forge)
	}
	return d, nil
}
