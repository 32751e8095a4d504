package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	// giteaPage is how many repositories one page of a listing holds: Gitea's MAX_RESPONSE_ITEMS, unless it was changed.
	giteaPage = 50
	// giteaOneByOne is up to how many repositories are asked about each by itself. Beyond, what the user can read is listed.
	giteaOneByOne = 8
	// giteaVersionFor is how long the server's version is believed.
	giteaVersionFor = 10 * time.Minute
)

// GiteaConfig is what a [Gitea] needs.
type GiteaConfig struct {
	Name       string           // the forge's name: the Forge of its principals and repositories
	URL        string           // where it is: "https://git.example.com", or with the path it is mounted at
	Hosts      []string         // as SRC_URI names it, HOST or HOST:PORT; the host of URL when empty
	Token      TokenSource      // of a site administrator, with the scopes read:user and read:repository
	HTTP       *http.Client     // what limits requests is in its Transport; nil: Go's default
	HookSecret authn.Secret     // of the system webhook; zero: no delivery is believed
	Now        func() time.Time // time.Now when nil
	Logger     *slog.Logger     // nil: silent
}

// Gitea asks a Gitea or Forgejo server. It remembers no answer. It is safe for concurrent use.
//
// Whether a user may read is the server's own judgement: each question goes out in the user's name (the header Sudo, which
// a site administrator's token may set), and what counts is the permission to pull, which is that of the code unit. A user's
// permission for a repository as a whole is not it: a team may open the issues of one and not the code.
//
// Sudo takes a login, which may have passed to somebody else, and a proxy that drops it leaves the administrator's own eyes. So after
// every answer the server says who it took the user for, and unless that is the id in question nothing was learnt.
//
// The module code.gitea.io/sdk/gitea is not used: its Sudo and its context are state of the whole client, where here many users' questions
// are under way at once; it cannot look a key up by its fingerprint; and it reads answers with encoding/json and without a bound.
type Gitea struct {
	config GiteaConfig
	hosts  []string
	mount  string // the path of URL, without slashes around it
	api    *rest

	mu      sync.Mutex // guards what follows
	version string
	checked time.Time // when version was learnt
}

var (
	_ Provider   = (*Gitea)(nil)
	_ Resolver   = (*Gitea)(nil)
	_ Directory  = (*Gitea)(nil)
	_ KeyOwners  = (*Gitea)(nil)
	_ Hooks      = (*Gitea)(nil)
	_ Checker    = (*Gitea)(nil)
	_ hostLister = (*Gitea)(nil)
)

// NewGitea checks the configuration. It asks nothing yet.
func NewGitea(c GiteaConfig) (*Gitea, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Token == nil {
		return nil, fmt.Errorf("forge %q needs a token of a site administrator", c.Name)
	}
	client := authorized(c.HTTP, c.Token, func(h http.Header, token string) { h.Set("Authorization", "token "+token) })
	api, err := newREST(c.URL, client)
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	g := &Gitea{config: c, api: api, hosts: c.Hosts, mount: strings.Trim(api.base.Path, "/")}
	if len(g.hosts) == 0 {
		g.hosts = []string{locatorHost(api.base)}
	}
	return g, nil
}

// Hosts returns the hosts the forge owns.
func (g *Gitea) Hosts() []string { return slices.Clone(g.hosts) }

// giteaUser is a user as the interface returns it. To anybody who is neither the user nor an administrator, every user
// looks inactive.
type giteaUser struct {
	ID            int64  `json:"id"`
	Login         string `json:"login"`
	Active        bool   `json:"active"`
	ProhibitLogin bool   `json:"prohibit_login"`
	Admin         bool   `json:"is_admin"`
}

func (u giteaUser) blocked() bool { return !u.Active || u.ProhibitLogin }

func (u giteaUser) user() User {
	return User{ID: strconv.FormatInt(u.ID, 10), Name: u.Login, Kind: authn.Human, Blocked: u.blocked()}
}

type giteaRepo struct {
	ID          int64 `json:"id"`
	Permissions struct {
		Pull bool `json:"pull"` // of the code unit, since Gitea 1.20
	} `json:"permissions"`
}

func (r giteaRepo) access() Access {
	if r.Permissions.Pull {
		return Read
	}
	return None
}

// get asks under api/v1. login is the user in whose name; "" for the token's own.
func (g *Gitea) get(ctx context.Context, login string, query url.Values, out any, segments ...string) error {
	header := http.Header{}
	if login != "" {
		header.Set("Sudo", login)
	}
	return g.api.do(ctx, http.MethodGet, query, header, nil, out, append([]string{"api", "v1"}, segments...)...)
}

// giteaName is what Gitea and Forgejo allow as the name of an account or a repository.
var giteaName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// giteaAccount reports whether name may be that of a user or an organization. Some words cannot: "users/search" and
// "repos/issues/search" are paths of the interface itself.
func giteaAccount(name string) bool {
	lower := strings.ToLower(name)
	return giteaName.MatchString(name) && lower != "search" && lower != "issues" && strings.Trim(name, ".") != ""
}

// Access implements [Provider]. Users and repositories of other forges are None. All facts are as old as the first request: what
// changed while it went on may be in them, or not.
func (g *Gitea) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	at := g.config.Now()
	if p.Forge != g.config.Name {
		return g.none(repos, at, "a user of another forge"), nil
	}
	if err := g.exact(ctx); err != nil {
		return nil, err
	}
	u, err := g.byID(ctx, p.ID)
	switch {
	case errors.Is(err, ErrNoUser):
		return g.none(repos, at, "no such user"), nil
	case err != nil:
		return nil, err
	case u.blocked():
		return g.none(repos, at, "the user is blocked"), nil
	}
	facts, err := g.inquire(ctx, u.Login, repos, at)
	if err != nil {
		return nil, err
	}
	// Only now is it known for whom the server took the login all the while.
	if u, err = g.impersonated(ctx, u); err != nil {
		return nil, err
	}
	if u.blocked() {
		return g.none(repos, at, "the user is blocked"), nil
	}
	return facts, nil
}

// origin is what facts say of where they are from.
func (g *Gitea) origin() string { return "gitea " + g.config.Name }

func (g *Gitea) none(repos []Repo, at time.Time, why string) []Fact {
	return noneOf(repos, g.origin(), verdict{access: None, at: at, why: why})
}

// inquire asks in the name of login: for a list of what can be read, when there are many repositories, else about each.
func (g *Gitea) inquire(ctx context.Context, login string, repos []Repo, at time.Time) ([]Fact, error) {
	var listed map[int64]Access
	if len(repos) > giteaOneByOne {
		var err error
		if listed, err = g.list(ctx, login, repos); err != nil {
			return nil, err
		}
	}
	return askEach(ctx, repos, g.origin(), func(ctx context.Context, r Repo) (verdict, error) {
		id, ok := numericID(r.ID)
		if !ok || r.Forge != g.config.Name {
			return verdict{access: None, at: at, why: "no such repository"}, nil
		}
		access, known := listed[id]
		if !known {
			var err error
			if access, err = g.access(ctx, login, id); err != nil {
				return verdict{}, err
			}
		}
		return verdict{access: access, at: at, why: "the user's permission to pull"}, nil
	})
}

// access asks about one repository by its id. What the user may not see at all is answered with 404.
func (g *Gitea) access(ctx context.Context, login string, id int64) (Access, error) {
	var repo giteaRepo
	switch err := g.get(ctx, login, nil, &repo, "repositories", strconv.FormatInt(id, 10)); {
	case hasStatus(err, http.StatusNotFound):
		return None, nil
	case err != nil:
		return Unknown, fmt.Errorf("ask about repository %d: %w", id, err)
	case repo.ID != id:
		return Unknown, fmt.Errorf("ask about repository %d: %w", id, errOtherThing)
	}
	return repo.access(), nil
}

// list answers from the repositories that the user can see, by ascending id so that few move while pages are turned. It gives
// up when asking one by one is cheaper: what is not in the map is to be asked about. After the last page, what was not among
// them cannot be read.
func (g *Gitea) list(ctx context.Context, login string, repos []Repo) (map[int64]Access, error) {
	query := url.Values{"private": {"true"}, "sort": {"id"}, "order": {"asc"}, "limit": {strconv.Itoa(giteaPage)}}
	listed := make(map[int64]Access)
	for page := range 2 + len(repos)/2 {
		query.Set("page", strconv.Itoa(page+1))
		var found struct {
			OK   bool        `json:"ok"`
			Data []giteaRepo `json:"data"`
		}
		if err := g.get(ctx, login, query, &found, "repos", "search"); err != nil {
			return nil, fmt.Errorf("list what a user can read: %w", err)
		}
		if !found.OK {
			return nil, errors.New("list what a user can read: the answer is not one")
		}
		if len(found.Data) == 0 { // a page may be shorter than was asked for, and not be the last
			for _, r := range repos {
				if id, ok := numericID(r.ID); ok && listed[id] == Unknown {
					listed[id] = None
				}
			}
			return listed, nil
		}
		for _, r := range found.Data {
			listed[r.ID] = r.access()
		}
	}
	return listed, nil
}

// impersonated asks the server for whom it takes the user's login, and fails unless it is the same user.
func (g *Gitea) impersonated(ctx context.Context, u giteaUser) (giteaUser, error) {
	var self giteaUser
	if err := g.get(ctx, u.Login, nil, &self, "user"); err != nil {
		return giteaUser{}, fmt.Errorf("ask who is asked for: %w", err)
	}
	if self.ID != u.ID {
		return giteaUser{}, fmt.Errorf("ask who is asked for: %w: the user was renamed meanwhile, or the header Sudo is lost on the way", errOtherThing)
	}
	return self, nil
}

// byID returns the user with an id. Without a valid uid the search returns everybody.
func (g *Gitea) byID(ctx context.Context, id string) (giteaUser, error) {
	n, ok := numericID(id)
	if !ok {
		return giteaUser{}, fmt.Errorf("look up user by id %q: %w", clip(id), ErrNoUser)
	}
	var found struct {
		OK   bool        `json:"ok"`
		Data []giteaUser `json:"data"`
	}
	err := g.get(ctx, "", url.Values{"uid": {id}}, &found, "users", "search")
	switch {
	case err != nil:
		return giteaUser{}, fmt.Errorf("look up user by id %s: %w", id, err)
	case !found.OK:
		return giteaUser{}, fmt.Errorf("look up user by id %s: the answer is not one", id)
	case len(found.Data) == 0:
		return giteaUser{}, fmt.Errorf("look up user by id %s: %w", id, ErrNoUser)
	case len(found.Data) > 1 || found.Data[0].ID != n || !giteaAccount(found.Data[0].Login):
		return giteaUser{}, fmt.Errorf("look up user by id %s: %w", id, errOtherThing)
	}
	return g.seen(ctx, found.Data[0])
}

// seen returns u, asked for in its own name if it looks inactive: so it does to a token that is not an administrator's any
// more, and that would be no answer.
func (g *Gitea) seen(ctx context.Context, u giteaUser) (giteaUser, error) {
	if u.Active {
		return u, nil
	}
	return g.impersonated(ctx, u)
}

// User implements [Directory].
func (g *Gitea) User(ctx context.Context, id string) (User, error) {
	u, err := g.byID(ctx, id)
	if err != nil {
		return User{}, err
	}
	return u.user(), nil
}

// UserByName implements [Directory]. A name that was given up leads to its last bearer at the server, and to nobody here;
// organizations are nobody too.
func (g *Gitea) UserByName(ctx context.Context, name string) (User, error) {
	if !giteaAccount(name) {
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), ErrNoUser)
	}
	var u giteaUser
	err := g.get(ctx, "", nil, &u, "users", name)
	switch {
	case hasStatus(err, http.StatusNotFound), err == nil && !strings.EqualFold(u.Login, name):
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), ErrNoUser)
	case err != nil:
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), err)
	}
	return g.User(ctx, strconv.FormatInt(u.ID, 10))
}

// Resolve implements [Resolver]. The server follows what was renamed, until somebody else takes the old path.
func (g *Gitea) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(g.hosts, l.Host) {
		return Repo{}, false, nil
	}
	owner, name, ok := strings.Cut(strings.TrimPrefix(l.Path, g.mount+"/"), "/")
	if !ok || !giteaAccount(owner) || !giteaName.MatchString(name) {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	}
	var repo giteaRepo
	switch err := g.get(ctx, "", nil, &repo, "repos", owner, name); {
	case hasStatus(err, http.StatusNotFound):
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	case err != nil:
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), err)
	case repo.ID <= 0:
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), errOtherThing)
	}
	return Repo{Forge: g.config.Name, ID: strconv.FormatInt(repo.ID, 10)}, true, nil
}

// giteaKey is an SSH key as an administrator is told of it.
type giteaKey struct {
	Fingerprint string     `json:"fingerprint"`
	Type        string     `json:"key_type"` // "user" or "deploy"; "unknown" for a certificate's principal
	Owner       *giteaUser `json:"user"`
}

// KeyOwner implements [KeyOwners]. The question reaches all keys of the server only as long as the fingerprint is one: without it,
// the answer would be the administrator's own keys.
func (g *Gitea) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	if !isFingerprint(fingerprint) {
		return User{}, fmt.Errorf("look up user by key %q: %w", clip(fingerprint), ErrNoUser)
	}
	var keys []giteaKey
	if err := g.get(ctx, "", url.Values{"fingerprint": {fingerprint}}, &keys, "user", "keys"); err != nil {
		return User{}, fmt.Errorf("look up user by key %q: %w", fingerprint, err)
	}
	u, err := giteaOwner(keys, fingerprint)
	if err != nil {
		return User{}, fmt.Errorf("look up user by key %q: %w", fingerprint, err)
	}
	return u.user(), nil
}

// giteaOwner returns the one user whose key all of keys are.
func giteaOwner(keys []giteaKey, fingerprint string) (giteaUser, error) {
	var owner giteaUser
	for _, k := range keys {
		switch {
		case k.Fingerprint != fingerprint:
			return giteaUser{}, errOtherThing
		case k.Type == "deploy":
			return giteaUser{}, ErrDeployKey
		case k.Type == "":
			return giteaUser{}, errors.New("the server keeps to itself whose it is: the token must be a site administrator's")
		case k.Type != "user":
			continue
		case k.Owner == nil || k.Owner.ID <= 0 || owner.ID != 0 && owner.ID != k.Owner.ID:
			return giteaUser{}, errors.New("the server names no single owner")
		}
		owner = *k.Owner
	}
	if owner.ID == 0 {
		return giteaUser{}, ErrNoUser
	}
	return owner, nil
}

// errTooOld says that the permission to pull may be that of the whole repository.
var errTooOld = errors.New("the server is older than Gitea 1.20, which does not say who may read code: upgrade it")

// exact fails unless the server's permission to pull is that of the code unit.
func (g *Gitea) exact(ctx context.Context) error {
	now := g.config.Now()
	g.mu.Lock()
	version, checked := g.version, g.checked
	g.mu.Unlock()
	if age := now.Sub(checked); version == "" || age < 0 || age >= giteaVersionFor {
		var answer struct {
			Version string `json:"version"`
		}
		if err := g.get(ctx, "", nil, &answer, "version"); err != nil {
			return fmt.Errorf("ask for the version: %w", err)
		}
		version = answer.Version
		g.mu.Lock()
		g.version, g.checked = version, now
		g.mu.Unlock()
	}
	if !giteaVersionAtLeast(version, 1, 20) {
		return fmt.Errorf("version %q: %w", clip(version), errTooOld)
	}
	return nil
}

var giteaVersion = regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})`)

// giteaVersionAtLeast reads "1.26.0", and Forgejo's "11.0.1+gitea-1.22.0", where the second counts.
func giteaVersionAtLeast(version string, major, minor int) bool {
	if _, compatible, ok := strings.Cut(version, "+gitea-"); ok {
		version = compatible
	}
	m := giteaVersion.FindStringSubmatch(version)
	if m == nil {
		return false
	}
	a, _ := strconv.Atoi(m[1]) // digits, few of them
	b, _ := strconv.Atoi(m[2])
	return a > major || a == major && b >= minor
}
