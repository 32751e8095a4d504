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
	"time"

	"github.com/google/go-github/v89/github"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	// githubReadFor is how long a list of readers is used for a yes, by whoever is on it. Its age is the fact's.
	githubReadFor = 30 * time.Second
	// githubNoneFor is the same for a no, which nobody uses for long.
	githubNoneFor = 3 * time.Second
	// githubPage is how much of a listing is asked for at a time: as much as GitHub gives.
	githubPage = 100
	// githubPages bounds the pages of one list of readers. Of longer ones each user is asked about.
	githubPages = 100
)

// GitHubConfig is what a [GitHub] needs.
type GitHubConfig struct {
	Name string // the forge's name: the Forge of its principals and repositories
	// URL is where people find it: "https://github.com", "https://octocorp.ghe.com", or that of an Enterprise Server.
	URL string
	// Hosts are those that sources name, as [source.Locator] has them. Empty: the URL's.
	Hosts []string
	// Token is shown to GitHub: a personal access token, or one of an App's installation. The operator guide lists its rights.
	Token TokenSource
	// HTTP asks. Limits, patience and repetition are its Transport's business. nil: Go's own.
	HTTP *http.Client
	// HookSecret signs the webhooks. Without it none is believed.
	HookSecret authn.Secret
	// Orgs are the organizations whose members' SSH keys are known, and whose audit logs and base permissions Follow looks at.
	Orgs []string
	// SiteAdmin says that the token is a site administrator's of an Enterprise Server: all keys of the server are known, deploy
	// keys as such.
	SiteAdmin bool
	// Poll is how often Follow asks; each pause is up to twice as long. 0: 30 s.
	Poll time.Duration
	// Keys is how often Follow reads all keys, and so how long a new one may take to be known. 0: 5 min.
	Keys   time.Duration
	Now    func() time.Time // time.Now when nil
	Logger *slog.Logger     // nil: silent
}

// GitHub asks github.com, a GitHub of a domain of its own, or an Enterprise Server. It is safe for concurrent use.
//
// For each repository it is asked about it keeps the list of all who may read it, which GitHub works out of teams, base
// permissions and owners, and asks whether it has changed; that costs none of the token's quota as long as it has not. Who is
// on the list may read, who is not may not. Where the list cannot be had, or leaves something open, GitHub is asked about the
// user. Repositories are asked about by their number, so that one that took another's name is never meant.
type GitHub struct {
	config   GitHubConfig
	origin   string
	cloud    bool
	client   *github.Client
	graph    *rest
	repos    *recollection[githubRepository]
	accounts *recollection[githubAnswer[githubAccount]]
	keys     *recollection[*githubKeys]
}

var (
	_ Provider   = (*GitHub)(nil)
	_ Resolver   = (*GitHub)(nil)
	_ Directory  = (*GitHub)(nil)
	_ Forgetter  = (*GitHub)(nil)
	_ hostLister = (*GitHub)(nil)
)

// NewGitHub checks the configuration. It asks nothing.
func NewGitHub(c GitHubConfig) (*GitHub, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Token == nil {
		return nil, fmt.Errorf("forge %q: no token", c.Name)
	}
	for _, org := range c.Orgs {
		if !githubLogin.MatchString(org) {
			return nil, fmt.Errorf("forge %q: %q is no organization's name", c.Name, clip(org))
		}
	}
	c.fill()
	set := func(h http.Header, token string) { h.Set("Authorization", "Bearer "+token) }
	asker := boundBodies(authorized(c.HTTP, c.Token, set))
	site, err := newREST(c.URL, asker)
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	api, graph, cloud := githubAddresses(site.base)
	if cloud && c.SiteAdmin {
		return nil, fmt.Errorf("forge %q: site_admin is for an Enterprise Server, and %s is none", c.Name, site.base.Host)
	}
	g := &GitHub{config: c, origin: "github " + c.Name, cloud: cloud}
	if g.graph, err = newREST(graph, asker); err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	// The library would refuse to ask, by the headers of earlier answers; limits are the transport's business.
	g.client, err = github.NewClient(github.WithHTTPClient(asker), github.WithURLs(&api, nil), github.WithDisableRateLimitCheck())
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	if len(c.Hosts) == 0 {
		g.config.Hosts = []string{strings.TrimPrefix(strings.TrimPrefix(locatorHost(site.base), "api."), "www.")}
	}
	g.repos = newRecollection[githubRepository](c.Now)
	g.accounts = newRecollection[githubAnswer[githubAccount]](c.Now)
	g.keys = newRecollection[*githubKeys](c.Now)
	g.keys.patience = githubKeysPatience
	return g, nil
}

// fill puts in what goes without saying.
func (c *GitHubConfig) fill() {
	c.Hosts, c.Orgs = slices.Clone(c.Hosts), slices.Clone(c.Orgs)
	if c.Poll <= 0 {
		c.Poll = 30 * time.Second
	}
	if c.Keys <= 0 {
		c.Keys = 5 * time.Minute
	}
}

// githubAddresses returns where the interfaces of a site are: on a host of their own in the cloud.
func githubAddresses(site *url.URL) (api, graph string, cloud bool) {
	host := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(site.Host), "www."), "api.")
	if host == "github.com" || strings.HasSuffix(host, ".ghe.com") {
		api = site.Scheme + "://api." + host
		return api + "/", api, true
	}
	return site.String() + "/api/v3/", site.String() + "/api", false
}

// Hosts returns the hosts that the forge owns.
func (g *GitHub) Hosts() []string { return slices.Clone(g.config.Hosts) }

// errGitHubLimits says that GitHub refuses for the number of questions. It says so with 403 as well, which says nothing of rights then.
var errGitHubLimits = errors.New("asked too often")

// githubError keeps of a refusal its status alone: what the server wrote beside it is not for our logs.
func githubError(err error) error {
	var (
		limit  *github.RateLimitError
		abuse  *github.AbuseRateLimitError
		moved  *github.RedirectionError
		answer *github.ErrorResponse
	)
	switch {
	case errors.As(err, &limit):
		return fmt.Errorf("%w: %w", errGitHubLimits, &statusError{limit.Response.StatusCode})
	case errors.As(err, &abuse):
		return fmt.Errorf("%w: %w", errGitHubLimits, &statusError{abuse.Response.StatusCode})
	case errors.As(err, &moved):
		return &statusError{moved.StatusCode}
	case errors.As(err, &answer) && answer.Response.Header.Get("Retry-After") != "":
		return fmt.Errorf("%w: %w", errGitHubLimits, &statusError{answer.Response.StatusCode})
	case errors.As(err, &answer):
		return &statusError{answer.Response.StatusCode}
	}
	return err
}

// githubAnswer is what was answered, with what it takes to ask whether it has changed.
type githubAnswer[V any] struct {
	etag  string
	value V
	more  bool // the listing goes on
}

// githubGet asks for a path, or whether the last answer still stands. same reports that it does.
func githubGet[V any](ctx context.Context, g *GitHub, path string, last githubAnswer[V]) (answer githubAnswer[V], same bool, err error) {
	r, err := g.client.NewRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return answer, false, err
	}
	if last.etag != "" {
		r.Header.Set("If-None-Match", last.etag)
	}
	reply, err := g.client.Do(r, &answer.value)
	if err != nil {
		err = githubError(err)
		if last.etag != "" && hasStatus(err, http.StatusNotModified) {
			return last, true, nil
		}
		return githubAnswer[V]{}, false, err
	}
	answer.etag, answer.more = reply.Header.Get("ETag"), reply.NextPage != 0
	return answer, false, nil
}

// githubRepository is a repository with its readers.
type githubRepository struct {
	about   githubAnswer[*githubAbout] // nil when there is none
	pages   []githubAnswer[[]githubReader]
	readers map[int64]bool // nil when the list cannot be had
}

type githubAbout struct {
	ID         int64  `json:"id"`
	FullName   string `json:"full_name"`
	Private    *bool  `json:"private"`
	Visibility string `json:"visibility"` // public, internal, private
}

type githubReader struct {
	ID          int64 `json:"id"`
	Permissions struct {
		Pull bool `json:"pull"`
	} `json:"permissions"`
}

// Access implements [Provider]. Users and repositories of other forges are None.
func (g *GitHub) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	user, ok := numericID(p.ID)
	if !ok || p.Forge != g.config.Name {
		user = 0
	}
	return askEach(ctx, repos, g.origin, func(ctx context.Context, r Repo) (verdict, error) { return g.judge(ctx, user, r) })
}

func (g *GitHub) judge(ctx context.Context, user int64, r Repo) (verdict, error) {
	now := g.config.Now()
	id, ok := numericID(r.ID)
	switch {
	case r.Forge != g.config.Name || !ok:
		return verdict{access: None, at: now, why: "no such repository"}, nil
	case user == 0:
		return verdict{access: None, at: now, why: "no such user"}, nil
	}
	v, err := g.judgeBy(ctx, user, id, g.oldest(ctx, githubReadFor))
	if err == nil && v.access == None && v.at.Before(now.Add(-githubNoneFor)) {
		return g.judgeBy(ctx, user, id, g.oldest(ctx, githubNoneFor))
	}
	return v, err
}

// oldest returns when something must have been learnt to be used now, at the earliest.
func (g *GitHub) oldest(ctx context.Context, age time.Duration) time.Time {
	oldest := g.config.Now().Add(-age)
	if since := notBefore(ctx); since.After(oldest) {
		return since
	}
	return oldest
}

// judgeBy judges by what was learnt at oldest or later.
func (g *GitHub) judgeBy(ctx context.Context, user, id int64, oldest time.Time) (verdict, error) {
	ask := func(ctx context.Context, last githubRepository) (githubRepository, error) {
		return g.askRepository(ctx, id, last)
	}
	repo, at, err := g.repos.get(ctx, strconv.FormatInt(id, 10), oldest, ask)
	if err != nil {
		return verdict{}, fmt.Errorf("ask for a repository: %w", err)
	}
	about := repo.about.value
	switch {
	case about == nil:
		return verdict{access: None, at: at, why: "no such repository"}, nil
	case about.Visibility == "public":
		return g.unlessSuspended(ctx, user, oldest, verdict{access: Read, at: at, why: "the repository is public"})
	case repo.readers[user] && g.cloud:
		return verdict{access: Read, at: at, why: "on the list of readers"}, nil
	case repo.readers[user]: // a server may suspend a user and leave the list as it is
		return g.unlessSuspended(ctx, user, oldest, verdict{access: Read, at: at, why: "on the list of readers"})
	case repo.readers != nil && about.Visibility == "private":
		return verdict{access: None, at: at, why: "not on the list of readers"}, nil
	}
	return g.byPermission(ctx, user, id, oldest, at)
}

// unlessSuspended returns v when the user exists and may do anything at all.
func (g *GitHub) unlessSuspended(ctx context.Context, user int64, oldest time.Time, v verdict) (verdict, error) {
	u, at, err := g.account(ctx, user, oldest)
	switch {
	case errors.Is(err, ErrNoUser):
		return verdict{access: None, at: v.at, why: "no such user"}, nil
	case err != nil:
		return verdict{}, err
	}
	if at.Before(v.at) {
		v.at = at
	}
	if u.suspended() {
		return verdict{access: None, at: v.at, why: "the user is suspended"}, nil
	}
	return v, nil
}

// askRepository asks what a repository is like, and who may read it if not everybody.
func (g *GitHub) askRepository(ctx context.Context, id int64, last githubRepository) (githubRepository, error) {
	about, _, err := githubGet(ctx, g, "repositories/"+strconv.FormatInt(id, 10), last.about)
	switch {
	case hasStatus(err, http.StatusNotFound):
		return githubRepository{}, nil
	case err != nil:
		return githubRepository{}, err
	case about.value == nil || about.value.ID != id:
		return githubRepository{}, errOtherThing
	}
	if err := about.value.settleVisibility(); err != nil {
		return githubRepository{}, err
	}
	out := githubRepository{about: about}
	if about.value.Visibility != "public" {
		err = g.askReaders(ctx, id, last, &out)
	}
	return out, err
}

// settleVisibility makes sure that it is one of three words. Old servers say only whether it is private.
func (a *githubAbout) settleVisibility() error {
	if a.Visibility == "" && a.Private != nil {
		a.Visibility = map[bool]string{true: "private", false: "public"}[*a.Private]
	}
	if !slices.Contains([]string{"public", "internal", "private"}, a.Visibility) {
		return fmt.Errorf("its visibility is %q", clip(a.Visibility))
	}
	if a.Private != nil && *a.Private == (a.Visibility == "public") {
		return errors.New("it is said to be both public and private")
	}
	return nil
}

// askReaders reads the list of readers, or leaves it out where it cannot be had.
func (g *GitHub) askReaders(ctx context.Context, id int64, last githubRepository, out *githubRepository) error {
	unchanged := last.readers != nil
	for n := 0; ; n++ {
		if n == githubPages {
			return nil
		}
		var base githubAnswer[[]githubReader]
		if n < len(last.pages) {
			base = last.pages[n]
		}
		path := fmt.Sprintf("repositories/%d/collaborators?per_page=%d&page=%d", id, githubPage, n+1)
		page, same, err := githubGet(ctx, g, path, base)
		switch {
		case hasStatus(err, http.StatusForbidden, http.StatusNotFound) && !errors.Is(err, errGitHubLimits):
			return nil // the token may not list them
		case err != nil:
			return fmt.Errorf("list its readers: %w", err)
		case page.value == nil:
			return fmt.Errorf("list its readers: %w", errOtherThing)
		}
		unchanged = unchanged && same
		out.pages = append(out.pages, page)
		// "Not changed" is said of a page; whether there are more by now it may not say.
		if !page.more && !(same && len(page.value) >= githubPage) {
			break
		}
	}
	if unchanged && len(out.pages) == len(last.pages) {
		out.readers = last.readers
		return nil
	}
	readers := make(map[int64]bool)
	for _, page := range out.pages {
		for _, r := range page.value {
			if r.ID <= 0 {
				return fmt.Errorf("list its readers: %w", errOtherThing)
			}
			if r.Permissions.Pull {
				readers[r.ID] = true
			}
		}
	}
	out.readers = readers
	return nil
}

// githubPermission is an answer about one user, whom the question names by what may be another's name by now.
type githubPermission struct {
	Permission string `json:"permission"` // admin, write, read, none
	User       struct {
		ID int64 `json:"id"`
	} `json:"user"`
}

// byPermission asks about one user.
func (g *GitHub) byPermission(ctx context.Context, user, id int64, oldest, at time.Time) (verdict, error) {
	u, known, err := g.account(ctx, user, oldest)
	switch {
	case errors.Is(err, ErrNoUser):
		return verdict{access: None, at: at, why: "no such user"}, nil
	case err != nil:
		return verdict{}, err
	case u.suspended():
		return verdict{access: None, at: at, why: "the user is suspended"}, nil
	}
	if known.Before(at) {
		at = known
	}
	path := fmt.Sprintf("repositories/%d/collaborators/%s/permission", id, url.PathEscape(u.Login))
	p, _, err := githubGet(ctx, g, path, githubAnswer[githubPermission]{})
	if err != nil {
		return verdict{}, fmt.Errorf("ask for a permission: %w", err)
	}
	if p.value.User.ID != user {
		return verdict{}, fmt.Errorf("ask for a permission: %w", errOtherThing)
	}
	switch p.value.Permission {
	case "admin", "write", "read":
		return verdict{access: Read, at: at, why: "the user's permission"}, nil
	case "none":
		return verdict{access: None, at: at, why: "the user has no permission"}, nil
	}
	return verdict{}, fmt.Errorf("ask for a permission: it is %q", clip(p.value.Permission))
}

var (
	// githubLogin is what users and organizations can be called; managed users have an underscore. Nothing in it has a meaning in a URL.
	githubLogin = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)
	// githubRepoName is what repositories can be called, but for "." and "..".
	githubRepoName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
)

// Resolve implements [Resolver]. GitHub itself compares names without regard to case, and sends the gate on from a name that a
// repository has left, until another takes it.
func (g *GitHub) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(g.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	id, err := g.askPath(ctx, l.Path)
	if err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), err)
	}
	return Repo{Forge: g.config.Name, ID: strconv.FormatInt(id, 10)}, true, nil
}

func (g *GitHub) askPath(ctx context.Context, path string) (int64, error) {
	owner, name, _ := strings.Cut(path, "/")
	if !githubLogin.MatchString(owner) || !githubRepoName.MatchString(name) || name == "." || name == ".." {
		return 0, ErrNoRepo
	}
	r, _, err := g.client.Repositories.Get(ctx, owner, name)
	err = githubError(err)
	switch {
	case hasStatus(err, http.StatusNotFound):
		return 0, ErrNoRepo
	case err != nil:
		return 0, err
	case r.GetID() <= 0 || r.GetFullName() == "":
		return 0, errOtherThing
	}
	return r.GetID(), nil
}

// githubAccount is a user, an organization, or something else with a login.
type githubAccount struct {
	ID        int64  `json:"id"`
	Login     string `json:"login"`
	Type      string `json:"type"`
	Suspended string `json:"suspended_at"` // a time, on a server
}

func (a githubAccount) suspended() bool { return a.Suspended != "" }

func (a githubAccount) user() User {
	kind := authn.Human
	if a.Type == "Bot" {
		kind = authn.Service
	}
	return User{ID: strconv.FormatInt(a.ID, 10), Name: a.Login, Kind: kind, Blocked: a.suspended()}
}

// check returns what is wrong with an account that is to be a user.
func (a githubAccount) check() error {
	switch {
	case a.ID <= 0 || !githubLogin.MatchString(strings.TrimSuffix(a.Login, "[bot]")):
		return errOtherThing
	case a.Type != "User" && a.Type != "Bot":
		return fmt.Errorf("of the type %q: %w", clip(a.Type), ErrNoUser)
	}
	return nil
}

// account returns a user, as learnt at oldest or later, and when. The error wraps [ErrNoUser] for an id that nobody has.
func (g *GitHub) account(ctx context.Context, id int64, oldest time.Time) (githubAccount, time.Time, error) {
	ask := func(ctx context.Context, last githubAnswer[githubAccount]) (githubAnswer[githubAccount], error) {
		return g.askAccount(ctx, id, last)
	}
	answer, at, err := g.accounts.get(ctx, strconv.FormatInt(id, 10), oldest, ask)
	return answer.value, at, err
}

// askAccount asks now.
func (g *GitHub) askAccount(ctx context.Context, id int64, last githubAnswer[githubAccount]) (githubAnswer[githubAccount], error) {
	answer, _, err := githubGet(ctx, g, "user/"+strconv.FormatInt(id, 10), last)
	if err == nil && answer.value.ID != id {
		err = errOtherThing
	}
	if err == nil {
		err = answer.value.check()
	}
	if hasStatus(err, http.StatusNotFound) {
		err = ErrNoUser
	}
	if err != nil {
		return githubAnswer[githubAccount]{}, fmt.Errorf("ask for a user: %w", err)
	}
	return answer, nil
}

// User implements [Directory]. A suspended user is blocked.
func (g *GitHub) User(ctx context.Context, id string) (User, error) {
	n, ok := numericID(id)
	if !ok {
		return User{}, fmt.Errorf("look up user by id %q: %w", clip(id), ErrNoUser)
	}
	u, _, err := g.account(ctx, n, g.oldest(ctx, 0))
	if err != nil {
		return User{}, fmt.Errorf("look up user by id %q: %w", id, err)
	}
	return u.user(), nil
}

// UserByName implements [Directory].
func (g *GitHub) UserByName(ctx context.Context, name string) (User, error) {
	u, err := g.askName(ctx, name)
	if err != nil {
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), err)
	}
	return u, nil
}

func (g *GitHub) askName(ctx context.Context, name string) (User, error) {
	if !githubLogin.MatchString(name) {
		return User{}, ErrNoUser
	}
	answer, _, err := githubGet(ctx, g, "users/"+name, githubAnswer[githubAccount]{})
	switch {
	case hasStatus(err, http.StatusNotFound):
		return User{}, ErrNoUser
	case err != nil:
		return User{}, err
	case !strings.EqualFold(answer.value.Login, name):
		return User{}, errOtherThing
	}
	return answer.value.user(), answer.value.check()
}

// Forget implements [Forgetter]. Lists of readers are part of every answer about a user.
func (g *GitHub) Forget(e Event) {
	switch {
	case e.Forge != "" && e.Forge != g.config.Name:
		return
	case e.Repo != "":
		g.repos.forget(e.Repo)
	case e.User != "":
		g.repos.forget("")
		g.accounts.forget(e.User)
	case e.Key == "":
		g.repos.forget("")
		g.accounts.forget("")
		g.keys.forget("")
	}
	if e.Key != "" {
		g.keys.forget("")
	}
}
