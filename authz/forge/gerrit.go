package forge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	gerritBatch = 5000 // projects that are asked about at once, where one list answers

	gerritWidth   = 8     // questions at a time for one user
	gerritCommits = 5_000 // of refs/meta/config that are walked to its first
	gerritRoots   = 200_000
	gerritConfig  = "refs/meta/config"
)

// GerritConfig is what a [Gerrit] needs.
type GerritConfig struct {
	Name  string
	URL   string   // as people open it
	Hosts []string // as SRC_URI has them; default: the host of URL, and Stream.Address
	// User and Token are the gate's own account and its HTTP password. It has the capability View Access, may see all accounts, and may
	// read refs/meta/config of all projects, and refs/users/* and refs/groups/* of All-Users.
	User  string
	Token TokenSource
	// RunAs asks for all that a user sees in one question, as that user; it needs the capability Run As.
	RunAs bool
	// Refs must all be readable to who reads a project, such as "refs/heads/main". Empty: any branch is enough, and one may be hidden
	// from somebody who sees another.
	Refs     []string
	AllUsers string           // the project with the accounts; default: "All-Users"
	Stream   SSHServer        // for stream-events; without an Address, changes are known when what is remembered ends
	HTTP     *http.Client     // nil: http.DefaultClient
	Now      func() time.Time // time.Now when nil
	Logger   *slog.Logger     // nil: silent
}

// Gerrit asks a Gerrit server, by the endpoints of its documents rest-api-projects and rest-api-accounts. All its answers are
// authoritative. It is safe for concurrent use.
//
// A repository's id is the project's name and the first commit of refs/meta/config, "NAME@SHA": Gerrit tells no other. A project
// that is deleted and made again has another first commit. The name belongs to it because two projects that are made in one second may
// have the same one; so a project that is renamed, which takes a plugin, is another. The first commit is found by walking commits, which
// are remembered: nothing can change what came before one. Names are not folded: upper and lower case are different projects.
type Gerrit struct {
	config GerritConfig
	rest   *rest
	keys   *gerritKeys

	mu    sync.Mutex        // guards roots
	roots map[string]string // commit of refs/meta/config -> its first
}

var (
	_ Provider  = (*Gerrit)(nil)
	_ Resolver  = (*Gerrit)(nil)
	_ Directory = (*Gerrit)(nil)
	_ KeyOwners = (*Gerrit)(nil)
	_ Follower  = (*Gerrit)(nil)
	_ Forgetter = (*Gerrit)(nil)
	_ Checker   = (*Gerrit)(nil)
)

// NewGerrit checks the configuration.
func NewGerrit(c GerritConfig) (*Gerrit, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.User == "" || c.Token == nil || strings.ContainsAny(c.User, ":\r\n") {
		return nil, fmt.Errorf("forge %q: want the user and the HTTP password of an account for the gate", c.Name)
	}
	client := authorized(c.HTTP, c.Token, func(h http.Header, token string) {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.User+":"+token)))
	})
	base, err := newREST(strings.TrimRight(c.URL, "/")+"/a", client)
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	base.prefix = ")]}'"
	if len(c.Hosts) == 0 {
		c.Hosts = []string{locatorHost(base.base)}
		if c.Stream.Address != "" {
			c.Hosts = append(c.Hosts, strings.ToLower(strings.TrimSuffix(c.Stream.Address, ":22")))
		}
	}
	if c.Stream.Address != "" {
		if c.Stream.User == "" {
			c.Stream.User = c.User
		}
		if err := c.Stream.check(); err != nil {
			return nil, fmt.Errorf("forge %q: %w", c.Name, err)
		}
	}
	for _, ref := range c.Refs {
		if !strings.HasPrefix(ref, "refs/") || !isShown(ref, callbackText) {
			return nil, fmt.Errorf("forge %q: ref %q: want refs/heads/BRANCH", c.Name, clip(ref))
		}
	}
	if c.AllUsers == "" {
		c.AllUsers = "All-Users"
	}
	g := &Gerrit{config: c, rest: base, roots: map[string]string{}}
	g.keys = newGerritKeys(g)
	return g, nil
}

// Hosts returns the hosts of the forge.
func (g *Gerrit) Hosts() []string { return slices.Clone(g.config.Hosts) }

// Access implements [Provider].
func (g *Gerrit) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	at := g.config.Now()
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(hardLimit), Origin: "gerrit " + g.config.Name + ": check.access"}
	}
	if p.Forge != g.config.Name || !isGerritAccount(p.ID) {
		return facts, nil
	}
	if active, err := g.active(ctx, p.ID); err != nil || !active {
		if err == nil || errors.Is(err, ErrNoUser) {
			return facts, nil
		}
		return nil, fmt.Errorf("ask gerrit about account %s: %w", p.ID, err)
	}
	seen, err := g.visible(ctx, p.ID, len(repos))
	if err != nil {
		return nil, fmt.Errorf("ask gerrit what account %s sees: %w", p.ID, err)
	}
	var (
		group errgroup.Group
		mu    sync.Mutex // guards errs
		errs  []error
	)
	group.SetLimit(gerritWidth)
	for i, r := range repos {
		if r.Forge != g.config.Name {
			continue
		}
		group.Go(func() error {
			access, err := g.access(ctx, p.ID, r.ID, seen)
			if facts[i].Access = access; err != nil {
				facts[i] = Fact{Repo: r, Origin: "gerrit " + g.config.Name + " did not answer"}
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	group.Wait()
	if len(errs) > 0 && len(errs) == len(repos) {
		return nil, fmt.Errorf("ask gerrit about account %s: %w", p.ID, errs[0])
	}
	return facts, nil
}

// access asks about one repository. That it is still the one that was published is asked last: an answer about one that took its name
// can then only be followed by its own first commit.
func (g *Gerrit) access(ctx context.Context, account, id string, seen map[string]bool) (Access, error) {
	name, root, ok := cutGerritRepo(id)
	if !ok {
		return None, nil
	}
	if !seen[name] {
		refs := g.config.Refs
		if len(refs) == 0 {
			refs = []string{""}
		}
		for _, ref := range refs {
			if access, err := g.checkAccess(ctx, account, name, ref); err != nil || access != Read {
				return access, err
			}
		}
	}
	now, err := g.root(ctx, name)
	switch {
	case errors.Is(err, ErrNoRepo), err == nil && now != root:
		return None, nil
	case err != nil:
		return Unknown, err
	}
	return Read, nil
}

// checkAccess asks check.access, which answers 200 also when it says no: the answer's own status counts. 403 is about the gate.
func (g *Gerrit) checkAccess(ctx context.Context, account, name, ref string) (Access, error) {
	query := url.Values{"account": {account}}
	if ref != "" {
		query.Set("ref", ref)
		query.Set("perm", "read")
	}
	var answer struct {
		Status int `json:"status"`
	}
	err := g.rest.get(ctx, query, &answer, "projects", name, "check.access")
	switch {
	case hasStatus(err, http.StatusNotFound):
		return None, g.confirm(ctx)
	case err != nil:
		return Unknown, fmt.Errorf("check.access: %w", err)
	case answer.Status == http.StatusOK:
		return Read, nil
	case answer.Status == http.StatusForbidden:
		return None, nil
	}
	return Unknown, fmt.Errorf("check.access answers the status %d", answer.Status)
}

// confirm makes sure after a 404 that Gerrit knows the gate at all. A proxy before a Gerrit that is elsewhere says 404, too.
func (g *Gerrit) confirm(ctx context.Context) error {
	var self gerritAccount
	if err := g.rest.get(ctx, nil, &self, "accounts", "self"); err != nil {
		return fmt.Errorf("ask for our own account: %w", err)
	}
	if self.ID <= 0 {
		return errors.New("ask for our own account: no account")
	}
	return nil
}

// visible returns the projects that an account sees, where they are asked for at once. It is not complete: Gerrit may be set to
// Batch implements [Bulk]: the list of what a user sees is one question. Without it each project is one.
func (g *Gerrit) Batch() int {
	if !g.config.RunAs || len(g.config.Refs) > 0 {
		return 0
	}
	return gerritBatch
}

// answer with fewer. What is not in it is asked about.
func (g *Gerrit) visible(ctx context.Context, account string, repos int) (map[string]bool, error) {
	if !g.config.RunAs || len(g.config.Refs) > 0 || repos < 2 {
		return nil, nil
	}
	var projects map[string]struct {
		State string `json:"state"`
	}
	header := http.Header{"X-Gerrit-RunAs": {account}}
	if err := g.collection("projects").do(ctx, http.MethodGet, nil, header, nil, &projects); err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(projects))
	for name, p := range projects {
		seen[name] = p.State != "HIDDEN"
	}
	return seen, nil
}

// collection is for questions about all of a kind, whose paths end in a slash.
func (g *Gerrit) collection(name string) *rest {
	r := *g.rest
	r.base = r.base.JoinPath(name, "/")
	return &r
}

// root returns the first commit of a project's refs/meta/config.
func (g *Gerrit) root(ctx context.Context, name string) (string, error) {
	var branch struct {
		Ref      string `json:"ref"`
		Revision string `json:"revision"`
	}
	err := g.rest.get(ctx, nil, &branch, "projects", name, "branches", gerritConfig)
	if hasStatus(err, http.StatusNotFound) {
		if err := g.confirm(ctx); err != nil {
			return "", err
		}
		return "", ErrNoRepo
	}
	if err == nil && (branch.Ref != gerritConfig || !isCommit(branch.Revision)) {
		err = fmt.Errorf("an answer about %q at %q", clip(branch.Ref), clip(branch.Revision))
	}
	if err != nil {
		return "", fmt.Errorf("ask for %s of %q: %w", gerritConfig, clip(name), err)
	}
	return g.walk(ctx, name, branch.Revision)
}

// walk goes from a commit to the first one.
func (g *Gerrit) walk(ctx context.Context, name, from string) (string, error) {
	var passed []string
	for sha := from; len(passed) < gerritCommits; {
		g.mu.Lock()
		root := g.roots[sha]
		g.mu.Unlock()
		if root == "" {
			parent, err := g.parent(ctx, name, sha)
			if err != nil {
				return "", fmt.Errorf("walk %s of %q: %w", gerritConfig, clip(name), err)
			}
			if passed = append(passed, sha); parent != "" {
				sha = parent
				continue
			}
			root = sha
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.roots)+len(passed) > gerritRoots {
			clear(g.roots)
		}
		for _, sha := range passed {
			g.roots[sha] = root
		}
		return root, nil
	}
	return "", fmt.Errorf("walk %s of %q: it has more than %d commits", gerritConfig, clip(name), gerritCommits)
}

// parent returns the first parent of a commit, "" for the first commit.
func (g *Gerrit) parent(ctx context.Context, name, sha string) (string, error) {
	type commit struct {
		Commit  string    `json:"commit"`
		Parents *[]commit `json:"parents"`
	}
	var c commit
	if err := g.rest.get(ctx, nil, &c, "projects", name, "commits", sha); err != nil {
		return "", err
	}
	if c.Commit != sha || c.Parents == nil {
		return "", fmt.Errorf("an answer about %q to a question about %s", clip(c.Commit), sha)
	}
	if len(*c.Parents) == 0 {
		return "", nil
	}
	parent := (*c.Parents)[0].Commit
	if !isCommit(parent) {
		return "", fmt.Errorf("%s has the parent %q", sha, clip(parent))
	}
	return parent, nil
}

// Resolve implements [Resolver]. Over HTTP, the path of a project may stand below that of the URL and below "a/"; over ssh, a project may
// have such a name. A path that means two projects means none.
func (g *Gerrit) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(g.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	var found []Repo
	for _, name := range g.candidates(l.Path) {
		root, err := g.root(ctx, name)
		switch {
		case errors.Is(err, ErrNoRepo):
			continue
		case err != nil:
			return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), err)
		}
		found = append(found, Repo{Forge: g.config.Name, ID: name + "@" + root})
	}
	if len(found) != 1 {
		return Repo{}, true, fmt.Errorf("resolve %q: %d projects: %w", clip(l.String()), len(found), ErrNoRepo)
	}
	return found[0], true, nil
}

// candidates returns the projects that a path may mean.
func (g *Gerrit) candidates(path string) (names []string) {
	all := []string{path}
	base := strings.TrimSuffix(strings.TrimPrefix(g.rest.base.Path, "/"), "a") // "r/" of https://HOST/r/a
	if rest, ok := strings.CutPrefix(path, base); ok && base != "" {
		all = append(all, rest)
	}
	for _, name := range slices.Clone(all) {
		if rest, ok := strings.CutPrefix(name, "a/"); ok {
			all = append(all, rest)
		}
	}
	for _, name := range all {
		if isGerritProject(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// gerritAccount is AccountInfo of rest-api-accounts.
type gerritAccount struct {
	ID       int64    `json:"_account_id"`
	Name     string   `json:"name"`
	Username string   `json:"username"`
	Inactive bool     `json:"inactive"`
	Tags     []string `json:"tags"`
	More     bool     `json:"_more_accounts"`
}

// User implements [Directory].
func (g *Gerrit) User(ctx context.Context, id string) (User, error) {
	if !isGerritAccount(id) {
		return User{}, fmt.Errorf("look up account %q: %w", clip(id), ErrNoUser)
	}
	u, err := g.account(ctx, id, func(a gerritAccount) bool { return strconv.FormatInt(a.ID, 10) == id })
	if err != nil {
		return User{}, fmt.Errorf("look up account %s: %w", id, err)
	}
	return u, nil
}

// UserByName implements [Directory]. Gerrit takes more for an account than user names, an e-mail address or "self": its answer is about
// who bears the name, or nobody does.
func (g *Gerrit) UserByName(ctx context.Context, name string) (User, error) {
	err := ErrNoUser
	var u User
	if isShown(name, callbackText) {
		u, err = g.account(ctx, name, func(a gerritAccount) bool { return a.Username == name })
	}
	if err != nil {
		return User{}, fmt.Errorf("look up account by name %q: %w", clip(name), err)
	}
	return u, nil
}

func (g *Gerrit) account(ctx context.Context, identifier string, fits func(gerritAccount) bool) (User, error) {
	var a gerritAccount
	err := g.rest.get(ctx, nil, &a, "accounts", identifier, "detail")
	if hasStatus(err, http.StatusNotFound) || err == nil && !fits(a) {
		if err := g.confirm(ctx); err != nil {
			return User{}, err
		}
		return User{}, ErrNoUser
	}
	if err != nil {
		return User{}, err
	}
	id := strconv.FormatInt(a.ID, 10)
	if !isGerritAccount(id) {
		return User{}, fmt.Errorf("the account id %s", id)
	}
	active, err := g.active(ctx, id)
	if err != nil {
		return User{}, err
	}
	groups, err := g.groups(ctx, id)
	if err != nil {
		return User{}, err
	}
	u := a.user()
	u.Groups, u.Blocked = groups, u.Blocked || !active
	return u, nil
}

// user returns the account without its groups.
func (a gerritAccount) user() User {
	id := strconv.FormatInt(a.ID, 10)
	u := User{ID: id, Name: a.Username, Kind: authn.Human, Blocked: a.Inactive}
	if !isShown(u.Name, callbackText) {
		u.Name = "account-" + id
	}
	if slices.Contains(a.Tags, "SERVICE_USER") {
		u.Kind = authn.Service
	}
	return u
}

func (g *Gerrit) groups(ctx context.Context, id string) ([]string, error) {
	var groups []struct {
		Name string `json:"name"`
	}
	if err := g.rest.get(ctx, nil, &groups, "accounts", id, "groups"); err != nil {
		return nil, fmt.Errorf("ask for groups: %w", err)
	}
	var names []string
	for _, group := range groups {
		if isShown(group.Name, callbackText) {
			names = append(names, group.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// active asks whether an account is: Gerrit says 200 or 204.
func (g *Gerrit) active(ctx context.Context, id string) (bool, error) {
	target, err := g.rest.url(nil, []string{"accounts", id, "active"})
	if err != nil {
		return false, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return false, err
	}
	answer, err := g.rest.client.Do(r)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	text := strings.Trim(strings.TrimPrefix(string(body), g.rest.prefix), "\" \r\n")
	switch {
	case err != nil:
		return false, err
	case answer.StatusCode == http.StatusOK && text == "ok":
		return true, nil
	case answer.StatusCode == http.StatusNoContent:
		return false, nil
	case answer.StatusCode == http.StatusNotFound:
		if err := g.confirm(ctx); err != nil {
			return false, err
		}
		return false, ErrNoUser
	}
	return false, fmt.Errorf("ask whether account %s is active: %w, %q", id, &statusError{answer.StatusCode}, clip(text))
}

// isGerritAccount reports whether s is the number of an account. Gerrit takes names and addresses in its place.
func isGerritAccount(s string) bool {
	return s != "" && len(s) <= 10 && s[0] != '0' && strings.Trim(s, "0123456789") == ""
}

// isGerritProject reports whether s may be the name of a project. Gerrit drops ".git" and slashes at the end, so that a name with them
// would be another.
func isGerritProject(s string) bool {
	return isShown(s, maxRepoID-65) && !strings.ContainsAny(s, `\%?#;`) && !strings.HasSuffix(s, "/") && !strings.HasPrefix(s, "/") && !strings.HasSuffix(s, ".git")
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// cutGerritRepo reads "NAME@SHA".
func cutGerritRepo(id string) (name, root string, ok bool) {
	at := strings.LastIndexByte(id, '@')
	if at < 0 {
		return "", "", false
	}
	name, root = id[:at], id[at+1:]
	return name, root, isGerritProject(name) && isCommit(root)
}
