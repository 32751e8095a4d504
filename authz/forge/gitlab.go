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

	"github.com/go-json-experiment/json/jsontext"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	// gitlabReporter is the lowest access level that may read the code of a private project. Guests (10) and planners (15) may not.
	gitlabReporter = 20
	// gitlabProjectFor is how long what a project is like is shared by the users it is asked for.
	gitlabProjectFor = 3 * time.Second
)

// GitLabConfig is what a [GitLab] needs.
type GitLabConfig struct {
	Name string // the forge's name: the Forge of its principals and repositories
	// URL is where people find it, with the relative root if it has one: "https://gitlab.example.com".
	URL string
	// Hosts are those that sources name, as [source.Locator] has them: "gitlab.example.com", "ssh.example.com:2222". Empty: the URL's.
	Hosts []string
	// Token is an administrator's personal access token with the scope read_api, and no other.
	Token TokenSource
	// HTTP asks. Limits, patience and repetition are its Transport's business. nil: Go's own.
	HTTP *http.Client
	// HookSecret is the secret token of the system hook. Without it no hook is believed.
	HookSecret authn.Secret
	// Providers says what GitLab calls the issuers of OpenID Connect in its own table of identities: "https://idp.example.com":
	// "openid_connect". Subjects of other issuers are nobody's.
	Providers map[string]string
	// Poll is how often Follow asks; each pause is up to twice as long. 0: 30 s.
	Poll   time.Duration
	Now    func() time.Time // time.Now when nil
	Logger *slog.Logger     // nil: silent
}

// GitLab asks a GitLab, self-managed or not. It is safe for concurrent use.
//
// All its answers are authoritative: a project by its number, and the user's highest membership of it, inherited and invited
// ones included. Administrators and auditors count by their memberships alone. It asks with an administrator's token that may
// only read, and never in a user's name.
type GitLab struct {
	config   GitLabConfig
	origin   string
	root     string // the relative root in sources, without slashes; "" for none
	client   *gitlab.Client
	rest     *rest // for what the library drops from answers
	projects *recollection[gitlabProject]
}

var (
	_ Provider   = (*GitLab)(nil)
	_ Resolver   = (*GitLab)(nil)
	_ Directory  = (*GitLab)(nil)
	_ KeyOwners  = (*GitLab)(nil)
	_ Identities = (*GitLab)(nil)
	_ Forgetter  = (*GitLab)(nil)
	_ hostLister = (*GitLab)(nil)
)

// gitlabProject is what a project is like, for everybody.
type gitlabProject struct {
	exists     bool
	doomed     bool // marked for deletion
	visibility gitlab.VisibilityValue
	code       gitlab.AccessControlValue // who may read the repository
}

// NewGitLab checks the configuration. It asks nothing.
func NewGitLab(c GitLabConfig) (*GitLab, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Token == nil {
		return nil, fmt.Errorf("forge %q: no token: give it an administrator's with the scope read_api", c.Name)
	}
	if c.Poll <= 0 {
		c.Poll = 30 * time.Second
	}
	set := func(h http.Header, token string) { h.Set("Private-Token", token) }
	asker := boundBodies(authorized(c.HTTP, c.Token, set))
	direct, err := newREST(c.URL, asker)
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	client, err := gitlab.NewAuthSourceClient(gitlab.Unauthenticated{}, gitlab.WithBaseURL(direct.base.String()),
		gitlab.WithHTTPClient(asker), gitlab.WithoutRetries(), gitlab.WithCustomLimiter(unlimited{}))
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	c.Hosts = slices.Clone(c.Hosts)
	if len(c.Hosts) == 0 {
		c.Hosts = []string{locatorHost(direct.base)}
	}
	return &GitLab{
		config: c, origin: "gitlab " + c.Name, root: strings.Trim(direct.base.Path, "/"), client: client, rest: direct,
		projects: newRecollection[gitlabProject](c.Now),
	}, nil
}

// unlimited leaves limits to the transport: the library's own would follow the headers of the first answer for ever.
type unlimited struct{}

// Wait implements gitlab.RateLimiter.
func (unlimited) Wait(context.Context) error { return nil }

// Hosts returns the hosts that the forge owns.
func (g *GitLab) Hosts() []string { return slices.Clone(g.config.Hosts) }

// gitlabError keeps of a refusal its status alone: what the server wrote beside it is not for our logs.
func gitlabError(err error) error {
	if errors.Is(err, gitlab.ErrNotFound) { // which is a value of its own, for any text
		return &statusError{http.StatusNotFound}
	}
	var refusal *gitlab.ErrorResponse
	if errors.As(err, &refusal) {
		return &statusError{refusal.StatusCode}
	}
	return err
}

// api asks for what is under /api/v4.
func (g *GitLab) api(ctx context.Context, query url.Values, out any, segments ...string) error {
	return g.rest.get(ctx, query, out, append([]string{"api", "v4"}, segments...)...)
}

// gitlabVisit is one call of Access: what it asks about the user it asks once.
type gitlabVisit struct {
	*GitLab
	user    int64
	account func() (gitlabAccount, error)
}

// Access implements [Provider]. Users and repositories of other forges are None.
func (g *GitLab) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	visit := &gitlabVisit{GitLab: g}
	if id, ok := numericID(p.ID); ok && p.Forge == g.config.Name {
		visit.user = id
	}
	visit.account = sync.OnceValues(func() (gitlabAccount, error) { return g.accountByID(ctx, visit.user) })
	return askEach(ctx, repos, g.origin, visit.judge)
}

func (v *gitlabVisit) judge(ctx context.Context, r Repo) (verdict, error) {
	now := v.config.Now()
	id, ok := numericID(r.ID)
	switch {
	case r.Forge != v.config.Name || !ok:
		return verdict{access: None, at: now, why: "no such project"}, nil
	case v.user == 0:
		return verdict{access: None, at: now, why: "no such user"}, nil
	}
	p, at, err := v.project(ctx, id)
	if err != nil {
		return verdict{}, err
	}
	switch {
	case !p.exists:
		return verdict{access: None, at: at, why: "no such project"}, nil
	case p.doomed:
		return verdict{access: None, at: at, why: "the project is marked for deletion"}, nil
	case p.code == gitlab.DisabledAccessControl:
		return verdict{access: None, at: at, why: "the project's repository is switched off"}, nil
	}
	if p.code == gitlab.EnabledAccessControl && p.visibility != gitlab.PrivateVisibility {
		answer, open, err := v.byVisibility(p, at)
		if err != nil || !open {
			return answer, err
		}
	}
	return v.byMembership(ctx, id, at)
}

// byVisibility judges a project whose code is not for members alone. It leaves the question open for external users, whom an
// internal project does not let in unless they are members.
func (v *gitlabVisit) byVisibility(p gitlabProject, at time.Time) (answer verdict, open bool, err error) {
	u, err := v.account()
	if errors.Is(err, ErrNoUser) {
		return verdict{access: None, at: at, why: "no such user"}, false, nil
	}
	if err != nil {
		return verdict{}, false, err
	}
	if u.at.Before(at) {
		at = u.at
	}
	switch {
	case u.Blocked:
		return verdict{access: None, at: at, why: "the user is not active"}, false, nil
	case p.visibility == gitlab.PublicVisibility:
		return verdict{access: Read, at: at, why: "the project is public"}, false, nil
	case u.external:
		return verdict{}, true, nil
	}
	return verdict{access: Read, at: at, why: "the project is internal and the user not external"}, false, nil
}

// gitlabMembership is the highest of a user's memberships. The library drops membership_state, which is "awaiting" for those
// whom nobody has let in yet.
type gitlabMembership struct {
	ID         int64  `json:"id"`
	State      string `json:"state"`
	Membership string `json:"membership_state"`
	Level      int    `json:"access_level"`
	Expires    string `json:"expires_at"`
}

// byMembership asks for all memberships: members/:id alone would not count those of groups.
func (v *gitlabVisit) byMembership(ctx context.Context, project int64, at time.Time) (verdict, error) {
	var m gitlabMembership
	err := v.api(ctx, nil, &m, "projects", strconv.FormatInt(project, 10), "members", "all", strconv.FormatInt(v.user, 10))
	switch {
	case hasStatus(err, http.StatusNotFound):
		return verdict{access: None, at: at, why: "no membership"}, nil
	case err != nil:
		return verdict{}, fmt.Errorf("ask for a membership: %w", err)
	case m.ID != v.user:
		return verdict{}, fmt.Errorf("ask for a membership: %w", errOtherThing)
	case m.State != "active" || m.Membership != "" && m.Membership != "active":
		return verdict{access: None, at: at, why: "the user or the membership is not active"}, nil
	case m.Level < gitlabReporter:
		return verdict{access: None, at: at, why: "a membership below Reporter"}, nil
	case m.Expires == "":
		return verdict{access: Read, at: at, why: "a membership of Reporter or above"}, nil
	}
	until, err := gitlabDay(m.Expires)
	switch {
	case err != nil:
		return verdict{}, fmt.Errorf("ask for a membership: %w", err)
	case !v.config.Now().Before(until):
		return verdict{access: None, at: at, why: "the membership has expired"}, nil
	}
	return verdict{access: Read, at: at, until: until, why: "a membership of Reporter or above"}, nil
}

// gitlabDay returns when what expires on a day does: as it begins.
func gitlabDay(text string) (time.Time, error) {
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("the day %q is none", clip(text))
	}
	return day, nil
}

// project returns what a project is like, and when it was.
func (g *GitLab) project(ctx context.Context, id int64) (gitlabProject, time.Time, error) {
	oldest := g.config.Now().Add(-gitlabProjectFor)
	if since := notBefore(ctx); since.After(oldest) {
		oldest = since
	}
	return g.projects.get(ctx, strconv.FormatInt(id, 10), oldest, func(ctx context.Context, _ gitlabProject) (gitlabProject, error) {
		return g.askProject(ctx, id)
	})
}

// fetchProject takes a number or a path. It never returns nil without an error: the library does for an answer of null.
func (g *GitLab) fetchProject(ctx context.Context, which any) (*gitlab.Project, error) {
	p, _, err := g.client.Projects.GetProject(which, nil, gitlab.WithContext(ctx))
	if err == nil && p == nil {
		return nil, errOtherThing
	}
	return p, gitlabError(err)
}

func (g *GitLab) askProject(ctx context.Context, id int64) (gitlabProject, error) {
	p, err := g.fetchProject(ctx, id)
	switch {
	case hasStatus(err, http.StatusNotFound):
		return gitlabProject{}, nil
	case err != nil:
		return gitlabProject{}, fmt.Errorf("ask for a project: %w", err)
	case p.ID != id:
		return gitlabProject{}, fmt.Errorf("ask for a project: %w", errOtherThing)
	}
	out := gitlabProject{exists: true, doomed: p.MarkedForDeletionOn != nil, visibility: p.Visibility, code: p.RepositoryAccessLevel}
	// A word that we do not know could mean anything.
	switch out.visibility {
	case gitlab.PublicVisibility, gitlab.InternalVisibility, gitlab.PrivateVisibility:
	default:
		return gitlabProject{}, fmt.Errorf("ask for a project: its visibility is %q", clip(string(out.visibility)))
	}
	switch out.code {
	case gitlab.EnabledAccessControl, gitlab.PrivateAccessControl, gitlab.DisabledAccessControl:
	default:
		return gitlabProject{}, fmt.Errorf("ask for a project: its repository_access_level is %q", clip(string(out.code)))
	}
	return out, nil
}

// Resolve implements [Resolver]. GitLab itself compares paths without regard to case, and sends the gate on from a path that a
// project has left, until another takes it.
func (g *GitLab) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(g.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	found := make(map[int64]bool)
	for _, path := range g.paths(l.Path) {
		id, err := g.askPath(ctx, path)
		if err != nil {
			return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), err)
		}
		if id != 0 {
			found[id] = true
		}
	}
	if len(found) == 0 {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	}
	if len(found) > 1 {
		return Repo{}, true, fmt.Errorf("resolve %q: two projects may be meant, with and without the relative root %q", clip(l.Path), g.root)
	}
	for id := range found {
		return Repo{Forge: g.config.Name, ID: strconv.FormatInt(id, 10)}, true, nil
	}
	return Repo{}, true, ErrNoRepo
}

// paths returns the paths of projects that a source's path may mean: over https it has the relative root in front, over ssh not.
// A project stands in a namespace; a path of one segment would be taken for a number.
func (g *GitLab) paths(path string) (out []string) {
	candidates := []string{path}
	if rest, ok := strings.CutPrefix(path, g.root+"/"); ok && g.root != "" {
		candidates = append(candidates, rest)
	}
	for _, c := range candidates {
		if strings.Contains(c, "/") {
			out = append(out, c)
		}
	}
	return out
}

// askPath returns the number of the project with a path, or 0 when there is none.
func (g *GitLab) askPath(ctx context.Context, path string) (int64, error) {
	p, err := g.fetchProject(ctx, path)
	switch {
	case hasStatus(err, http.StatusNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case p.ID <= 0 || p.PathWithNamespace == "":
		return 0, errOtherThing
	}
	return p.ID, nil
}

// gitlabAccount is a user as an administrator sees one. Nobody else is shown whether a user is external: the library would make
// that false.
type gitlabAccount struct {
	User
	external bool
	at       time.Time
}

// gitlabUser is how GitLab writes it.
type gitlabUser struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	State    string `json:"state"` // active, blocked, ldap_blocked, blocked_pending_approval, deactivated, banned
	Bot      bool   `json:"bot"`
	External *bool  `json:"external"`
}

func (u gitlabUser) user() User {
	kind := authn.Human
	if u.Bot {
		kind = authn.Service
	}
	return User{ID: strconv.FormatInt(u.ID, 10), Name: u.Username, Kind: kind, Blocked: u.State != "active"}
}

// accountByID returns an error that wraps [ErrNoUser] for an id that nobody has.
func (g *GitLab) accountByID(ctx context.Context, id int64) (gitlabAccount, error) {
	at := g.config.Now()
	var u gitlabUser
	err := g.api(ctx, nil, &u, "users", strconv.FormatInt(id, 10))
	switch {
	case hasStatus(err, http.StatusNotFound):
		return gitlabAccount{}, ErrNoUser
	case err != nil:
		return gitlabAccount{}, err
	case u.ID != id || u.Username == "":
		return gitlabAccount{}, errOtherThing
	case u.External == nil:
		return gitlabAccount{}, errors.New("the forge does not say whether the user is external: the token is no administrator's")
	}
	return gitlabAccount{u.user(), *u.External, at}, nil
}

// User implements [Directory]. A user whose state is another than active is blocked.
func (g *GitLab) User(ctx context.Context, id string) (User, error) {
	n, ok := numericID(id)
	if !ok {
		return User{}, fmt.Errorf("look up user by id %q: %w", clip(id), ErrNoUser)
	}
	u, err := g.accountByID(ctx, n)
	if err != nil {
		return User{}, fmt.Errorf("look up user by id %q: %w", id, err)
	}
	return u.User, nil
}

// gitlabName is what GitLab lets users be called.
var gitlabName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)

// UserByName implements [Directory]. Names differ in more than case.
func (g *GitLab) UserByName(ctx context.Context, name string) (User, error) {
	if !gitlabName.MatchString(name) {
		return User{}, fmt.Errorf("look up user by name %q: %w", clip(name), ErrNoUser)
	}
	u, err := g.oneUser(ctx, url.Values{"username": {name}}, func(u gitlabListed) bool { return strings.EqualFold(u.Username, name) })
	if err != nil {
		return User{}, fmt.Errorf("look up user by name %q: %w", name, err)
	}
	return u, nil
}

// IdentityOwner implements [Identities]. GitLab's search does not tell cases of a subject apart; we do.
func (g *GitLab) IdentityOwner(ctx context.Context, issuer, subject string) (User, error) {
	provider := g.config.Providers[issuer]
	if provider == "" || subject == "" {
		return User{}, fmt.Errorf("look up user by identity %q: %w", clip(subject), ErrNoUser)
	}
	u, err := g.oneUser(ctx, url.Values{"extern_uid": {subject}, "provider": {provider}}, func(u gitlabListed) bool {
		return slices.Contains(u.Identities, gitlabIdentity{provider, subject})
	})
	if err != nil {
		return User{}, fmt.Errorf("look up user by identity %q: %w", clip(subject), err)
	}
	return u, nil
}

type gitlabListed struct {
	gitlabUser
	Identities []gitlabIdentity `json:"identities"`
}

type gitlabIdentity struct {
	Provider  string `json:"provider"`
	ExternUID string `json:"extern_uid"`
}

// oneUser asks for users and returns the one that is meant.
func (g *GitLab) oneUser(ctx context.Context, query url.Values, meant func(gitlabListed) bool) (User, error) {
	var listed []gitlabListed
	if err := g.api(ctx, query, &listed, "users"); err != nil {
		return User{}, err
	}
	listed = slices.DeleteFunc(listed, func(u gitlabListed) bool { return !meant(u) })
	switch {
	case len(listed) == 0:
		return User{}, ErrNoUser
	case len(listed) > 1 || listed[0].ID <= 0:
		return User{}, errOtherThing
	}
	return listed[0].user(), nil
}

// gitlabKey is an answer about a fingerprint. The library drops what makes a key somebody's: deploy_keys_projects is there for
// deploy keys alone, whose user is who created them.
type gitlabKey struct {
	Key     string         `json:"key"`
	Usage   string         `json:"usage_type"` // auth, signing, auth_and_signing; none before GitLab 15.7
	Expires *time.Time     `json:"expires_at"`
	User    *gitlabUser    `json:"user"`
	Deploy  jsontext.Value `json:"deploy_keys_projects"`
}

// KeyOwner implements [KeyOwners]. It asks GitLab each time. A key that is for signing alone, or has expired, is nobody's.
func (g *GitLab) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	u, err := g.askKey(ctx, fingerprint)
	if err != nil {
		return User{}, fmt.Errorf("look up user by key %q: %w", clip(fingerprint), err)
	}
	return u, nil
}

func (g *GitLab) askKey(ctx context.Context, fingerprint string) (User, error) {
	if !isFingerprint(fingerprint) {
		return User{}, ErrNoUser
	}
	var k gitlabKey
	err := g.api(ctx, url.Values{"fingerprint": {fingerprint}}, &k, "keys")
	switch {
	case hasStatus(err, http.StatusNotFound):
		return User{}, ErrNoUser
	case err != nil:
		return User{}, err
	case len(k.Deploy) > 0: // also when no project has it
		return User{}, ErrDeployKey
	case fingerprintOf(k.Key) != fingerprint:
		return User{}, errOtherThing
	case k.Usage != "" && k.Usage != "auth" && k.Usage != "auth_and_signing":
		return User{}, fmt.Errorf("a key for %q: %w", clip(k.Usage), ErrNoUser)
	case k.Expires != nil && !g.config.Now().Before(*k.Expires):
		return User{}, fmt.Errorf("the key has expired: %w", ErrNoUser)
	case k.User == nil || k.User.ID <= 0:
		return User{}, ErrNoUser
	}
	return k.User.user(), nil
}

// Forget implements [Forgetter]. What a project is like is part of every answer about a user, so that an event about a user drops it
// too.
func (g *GitLab) Forget(e Event) {
	switch {
	case e.Forge != "" && e.Forge != g.config.Name:
	case e.Repo != "":
		g.projects.forget(e.Repo)
	case e.User == "" && e.Key != "":
	default:
		g.projects.forget("")
	}
}
