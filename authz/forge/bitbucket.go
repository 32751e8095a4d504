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
	// bitbucketPage is how much one page of a listing is asked to hold: the most that Bitbucket gives.
	bitbucketPage = 1000
	// bitbucketPages bounds the pages of one listing.
	bitbucketPages = 1000
)

// BitbucketConfig is what a [Bitbucket] needs.
type BitbucketConfig struct {
	Name       string           // the forge's name: the Forge of its principals and repositories
	URL        string           // where it is: "https://bitbucket.example.com", or with its context path
	Hosts      []string         // as SRC_URI names it, HOST or HOST:PORT (ssh is at :7999 as a rule); the host of URL when empty
	Token      TokenSource      // an HTTP access token of a system administrator
	HTTP       *http.Client     // what limits requests is in its Transport; nil: Go's default
	HookSecret authn.Secret     // of the webhooks; zero: no delivery is believed
	Nobody     string           // a user with a licence who may read nothing that is not public: see [Bitbucket]; "" for none
	Now        func() time.Time // time.Now when nil
	Logger     *slog.Logger     // nil: silent
}

// Bitbucket asks a Bitbucket Data Center. It is safe for concurrent use.
//
// Whether a user may read is asked as who of the users with that name may: grants to groups, to the project and to everybody with
// a licence count there. Bitbucket leaves out a filter that it does not understand, and then lists everybody. So once in each call the same
// is asked about the user Nobody, and when that one may read too, nothing was learnt.
//
// Bitbucket has no lookup of a repository or a user by id. Where they were last seen is remembered, and every answer counts
// only for the id that it carries.
type Bitbucket struct {
	config    BitbucketConfig
	hosts     []string
	mount     string // the path of URL, without slashes around it
	api       *rest
	anonymous *rest // without the token

	mu    sync.Mutex // guards what follows
	repos map[string]bitbucketPlace
	slugs map[string]string // of users by id
	keys  bitbucketKeys
}

// bitbucketPlace is where a repository was seen.
type bitbucketPlace struct{ project, slug string }

var (
	_ Provider   = (*Bitbucket)(nil)
	_ Resolver   = (*Bitbucket)(nil)
	_ Directory  = (*Bitbucket)(nil)
	_ KeyOwners  = (*Bitbucket)(nil)
	_ Hooks      = (*Bitbucket)(nil)
	_ Follower   = (*Bitbucket)(nil)
	_ Forgetter  = (*Bitbucket)(nil)
	_ Checker    = (*Bitbucket)(nil)
	_ hostLister = (*Bitbucket)(nil)
)

// NewBitbucket checks the configuration. It asks nothing yet.
func NewBitbucket(c BitbucketConfig) (*Bitbucket, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Token == nil {
		return nil, fmt.Errorf("forge %q needs an HTTP access token of a system administrator", c.Name)
	}
	api, err := newREST(c.URL, authorized(c.HTTP, c.Token, func(h http.Header, token string) { h.Set("Authorization", "Bearer "+token) }))
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	b := &Bitbucket{
		config: c, hosts: c.Hosts, mount: strings.Trim(api.base.Path, "/"), api: api, anonymous: &rest{base: api.base, client: anonymous(c.HTTP)},
		repos: make(map[string]bitbucketPlace), slugs: make(map[string]string),
	}
	if len(b.hosts) == 0 {
		b.hosts = []string{locatorHost(api.base)}
	}
	return b, nil
}

// anonymous returns base without the cookies it may hold, and without redirects to other hosts.
func anonymous(base *http.Client) *http.Client {
	c := http.Client{}
	if base != nil {
		c = *base
	}
	c.Jar, c.CheckRedirect = nil, sameHost
	return &c
}

// Hosts returns the hosts the forge owns.
func (b *Bitbucket) Hosts() []string { return slices.Clone(b.hosts) }

type bitbucketUser struct {
	ID     int64  `json:"id"`
	Name   string `json:"name"`
	Slug   string `json:"slug"`
	Active bool   `json:"active"`
	Type   string `json:"type"` // "NORMAL" or "SERVICE"
}

func (u bitbucketUser) id() string { return strconv.FormatInt(u.ID, 10) }

func (u bitbucketUser) user() User {
	kind := authn.Human
	if u.Type == "SERVICE" {
		kind = authn.Service
	}
	return User{ID: u.id(), Name: u.Name, Kind: kind, Blocked: !u.Active}
}

type bitbucketRepo struct {
	ID      int64  `json:"id"`
	Slug    string `json:"slug"`
	Public  bool   `json:"public"`
	Project struct {
		Key    string `json:"key"`
		Public bool   `json:"public"`
	} `json:"project"`
}

func (r bitbucketRepo) place() bitbucketPlace { return bitbucketPlace{r.Project.Key, r.Slug} }

// page is one page of a listing.
type bitbucketListing[T any] struct {
	Values   []T  `json:"values"`
	Last     bool `json:"isLastPage"`
	NextPage int  `json:"nextPageStart"`
}

// bitbucketAll reads a listing to its end, or until each returns false.
func bitbucketAll[T any](ctx context.Context, api *rest, query url.Values, each func(T) bool, segments ...string) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", strconv.Itoa(bitbucketPage))
	start := 0
	for range bitbucketPages {
		query.Set("start", strconv.Itoa(start))
		var page bitbucketListing[T]
		if err := api.get(ctx, query, &page, segments...); err != nil {
			return err
		}
		for _, v := range page.Values {
			if !each(v) {
				return nil
			}
		}
		switch {
		case page.Last:
			return nil
		case page.NextPage <= start:
			return errors.New("the listing does not go on where it says")
		}
		start = page.NextPage
	}
	return fmt.Errorf("the listing is longer than %d pages", bitbucketPages)
}

// Access implements [Provider]. Users and repositories of other forges are None. All facts are as old as the first request: what
// changed while it went on may be in them, or not.
func (b *Bitbucket) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	at := b.config.Now()
	if p.Forge != b.config.Name {
		return b.none(repos, at, "a user of another forge"), nil
	}
	u, err := b.byID(ctx, p.ID)
	switch {
	case errors.Is(err, ErrNoUser):
		return b.none(repos, at, "no such user"), nil
	case err != nil:
		return nil, err
	case !u.Active:
		return b.none(repos, at, "the user is not active"), nil
	}
	if err := b.locate(ctx, repos); err != nil {
		return nil, err
	}
	var shown sync.Once
	var lie error
	facts, err := askEach(ctx, repos, b.origin(), func(ctx context.Context, r Repo) (verdict, error) {
		if _, known := b.place(r.ID); r.Forge != b.config.Name || !known {
			return verdict{access: None, at: at, why: "no such repository"}, nil
		}
		repo, access, err := b.access(ctx, u, r.ID)
		if err != nil {
			return verdict{}, err
		}
		if access == Read && !repo.Public && !repo.Project.Public {
			shown.Do(func() { lie = b.nobodyMay(ctx, repo) })
		}
		return verdict{access: access, at: at, why: "the users with permission to read"}, nil
	})
	if lie != nil {
		return nil, lie
	}
	return facts, err
}

// origin is what facts say of where they are from.
func (b *Bitbucket) origin() string { return "bitbucket " + b.config.Name }

func (b *Bitbucket) none(repos []Repo, at time.Time, why string) []Fact {
	return noneOf(repos, b.origin(), verdict{access: None, at: at, why: why})
}

// locate looks for the repositories whose place is not known, all at once. What is not there can be read by nobody.
func (b *Bitbucket) locate(ctx context.Context, repos []Repo) error {
	for _, r := range repos {
		_, ok := numericID(r.ID)
		if _, known := b.place(r.ID); ok && !known && r.Forge == b.config.Name {
			return b.find(ctx)
		}
	}
	return nil
}

func (b *Bitbucket) place(id string) (bitbucketPlace, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, ok := b.repos[id]
	return at, ok
}

// find lists all repositories for where they are now.
func (b *Bitbucket) find(ctx context.Context) error {
	places := make(map[string]bitbucketPlace)
	err := bitbucketAll(ctx, b.api, nil, func(r bitbucketRepo) bool {
		if r.ID > 0 {
			places[strconv.FormatInt(r.ID, 10)] = r.place()
		}
		return true
	}, "rest", "api", "latest", "repos")
	if err != nil {
		return fmt.Errorf("list the repositories: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.repos = places
	return nil
}

// access asks about one repository. If it has moved, it is found again once.
func (b *Bitbucket) access(ctx context.Context, u bitbucketUser, id string) (bitbucketRepo, Access, error) {
	for again := range 2 {
		at, known := b.place(id)
		if !known {
			return bitbucketRepo{}, None, nil
		}
		repo, access, err := b.accessAt(ctx, u, at)
		switch {
		case err == nil && strconv.FormatInt(repo.ID, 10) == id:
			return repo, access, nil
		case err != nil && !hasStatus(err, http.StatusNotFound):
			return repo, Unknown, fmt.Errorf("ask about repository %s: %w", id, err)
		case again > 0:
			return repo, Unknown, fmt.Errorf("ask about repository %s: %w", id, errOtherThing)
		}
		if err := b.find(ctx); err != nil {
			return repo, Unknown, err
		}
	}
	return bitbucketRepo{}, None, nil
}

// accessAt asks what u may do with what stands at a place, and after that what it is: so the answer is about no other repository
// that stood there before.
func (b *Bitbucket) accessAt(ctx context.Context, u bitbucketUser, at bitbucketPlace) (bitbucketRepo, Access, error) {
	may, err := b.may(ctx, u.Name, at, func(v bitbucketUser) bool { return v.ID == u.ID && v.Active })
	if err != nil {
		return bitbucketRepo{}, Unknown, err
	}
	repo, err := b.repo(ctx, b.api, at)
	switch {
	case err != nil:
		return repo, Unknown, err
	case may:
		return repo, Read, nil
	case repo.Public || repo.Project.Public:
		access, err := b.public(ctx, repo)
		return repo, access, err
	}
	return repo, None, nil
}

// may reports whether is true of anybody who may read what stands at a place, of those with name in their name, address or
// what they are called.
//
// The filters are permission.1, permission.2 and so on, which all have to hold. A number that is missing ends them: permission.2 alone is no
// filter, and everybody is listed.
func (b *Bitbucket) may(ctx context.Context, name string, at bitbucketPlace, is func(bitbucketUser) bool) (bool, error) {
	found := false
	err := bitbucketAll(ctx, b.api, url.Values{
		"filter":                      {name},
		"permission.1":                {"REPO_READ"},
		"permission.1.projectKey":     {at.project},
		"permission.1.repositorySlug": {at.slug},
		"permission.2":                {"LICENSED_USER"},
	}, func(v bitbucketUser) bool {
		found = is(v)
		return !found
	}, "rest", "api", "latest", "users")
	return found, err
}

// nobodyMay fails when the user who may read nothing may read repo: then the server lists those who may not.
func (b *Bitbucket) nobodyMay(ctx context.Context, repo bitbucketRepo) error {
	if b.config.Nobody == "" {
		return nil
	}
	may, err := b.may(ctx, b.config.Nobody, repo.place(), func(v bitbucketUser) bool { return strings.EqualFold(v.Name, b.config.Nobody) })
	if err != nil {
		return fmt.Errorf("ask about the user %q: %w", b.config.Nobody, err)
	}
	if may {
		return fmt.Errorf("the user %q, who may read nothing, may read repository %d: the filter by permission does not work, or that user has a right",
			b.config.Nobody, repo.ID)
	}
	return nil
}

func (b *Bitbucket) repo(ctx context.Context, api *rest, at bitbucketPlace) (bitbucketRepo, error) {
	var repo bitbucketRepo
	err := api.get(ctx, nil, &repo, "rest", "api", "latest", "projects", at.project, "repos", at.slug)
	return repo, err
}

// public asks as a stranger: a repository that is marked public is not while public access is switched off for the whole server.
func (b *Bitbucket) public(ctx context.Context, repo bitbucketRepo) (Access, error) {
	seen, err := b.repo(ctx, b.anonymous, repo.place())
	switch {
	case hasStatus(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound):
		return None, nil
	case err != nil:
		return Unknown, err
	case seen.ID != repo.ID:
		return Unknown, errOtherThing
	}
	return Read, nil
}

// bitbucketName is what Bitbucket has for the key of a project, or "~" and the slug of a user, and for the slug of a repository.
var bitbucketName = regexp.MustCompile(`^~?[A-Za-z0-9._-]{1,128}$`)

// Resolve implements [Resolver]: PROJECT/REPO, as ssh has it, or scm/PROJECT/REPO, as HTTPS has it.
func (b *Bitbucket) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(b.hosts, l.Host) {
		return Repo{}, false, nil
	}
	parts := strings.Split(strings.TrimPrefix(l.Path, b.mount+"/"), "/")
	if len(parts) == 3 && parts[0] == "scm" {
		parts = parts[1:]
	}
	if len(parts) != 2 || !bitbucketName.MatchString(parts[0]) || !bitbucketName.MatchString(parts[1]) {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	}
	repo, err := b.repo(ctx, b.api, bitbucketPlace{parts[0], parts[1]})
	switch {
	case hasStatus(err, http.StatusNotFound):
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	case err != nil:
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), err)
	case repo.ID <= 0:
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), errOtherThing)
	}
	id := strconv.FormatInt(repo.ID, 10)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.repos[id] = repo.place()
	return Repo{Forge: b.config.Name, ID: id}, true, nil
}

// byID returns the user with an id: where the id was last seen, or else by a look through all users.
func (b *Bitbucket) byID(ctx context.Context, id string) (bitbucketUser, error) {
	if _, ok := numericID(id); !ok {
		return bitbucketUser{}, fmt.Errorf("look up user by id %q: %w", clip(id), ErrNoUser)
	}
	b.mu.Lock()
	slug := b.slugs[id]
	b.mu.Unlock()
	if slug != "" {
		var u bitbucketUser
		err := b.api.get(ctx, nil, &u, "rest", "api", "latest", "users", slug)
		if err == nil && u.id() == id {
			return u, nil
		}
		if err != nil && !hasStatus(err, http.StatusNotFound) {
			return bitbucketUser{}, fmt.Errorf("look up user by id %s: %w", id, err)
		}
	}
	users, err := b.everybody(ctx)
	if err != nil {
		return bitbucketUser{}, fmt.Errorf("look up user by id %s: %w", id, err)
	}
	u, ok := users[id]
	if !ok {
		return bitbucketUser{}, fmt.Errorf("look up user by id %s: %w", id, ErrNoUser)
	}
	return u, nil
}

// everybody lists all users by id.
func (b *Bitbucket) everybody(ctx context.Context) (map[string]bitbucketUser, error) {
	users := make(map[string]bitbucketUser)
	err := bitbucketAll(ctx, b.api, nil, func(u bitbucketUser) bool {
		if u.ID > 0 {
			users[u.id()] = u
		}
		return true
	}, "rest", "api", "latest", "users")
	if err != nil {
		return nil, err
	}
	slugs := make(map[string]string, len(users))
	for id, u := range users {
		slugs[id] = u.Slug
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slugs = slugs
	return users, nil
}

// User implements [Directory].
func (b *Bitbucket) User(ctx context.Context, id string) (User, error) {
	u, err := b.byID(ctx, id)
	if err != nil {
		return User{}, err
	}
	return u.user(), nil
}

// UserByName implements [Directory]. The server's filter finds parts of names, addresses and what people are called; here the
// whole name counts.
func (b *Bitbucket) UserByName(ctx context.Context, name string) (User, error) {
	var found bitbucketUser
	err := ErrNoUser
	if strings.TrimSpace(name) != "" { // which would list everybody
		err = bitbucketAll(ctx, b.api, url.Values{"filter": {name}}, func(u bitbucketUser) bool {
			if strings.EqualFold(u.Name, name) {
				found = u
			}
			return found.ID == 0
		}, "rest", "api", "latest", "users")
	}
	if err == nil && found.ID <= 0 {
		err = ErrNoUser
	}
	if err != nil {
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slugs[found.id()] = found.Slug
	return found.user(), nil
}
