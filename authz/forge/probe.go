package forge

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	probePatience = 10 * time.Second // for one answer
	probeWidth    = 8                // questions at a time for one user
	probeGuard    = 10 * time.Minute // how often it is made sure that Check is closed to garbage
)

// HeldTokens is where a [Probe] finds the token that a user has shown; *authn.HeldTokens is one. It is safe for concurrent use.
type HeldTokens interface {
	TokenOf(id string) (authn.Secret, bool)
}

// ProbeConfig is what a [Probe] needs.
type ProbeConfig struct {
	Name  string
	URL   string   // below which the forge serves git over HTTP; tokens are shown there and nowhere else
	Hosts []string // as SRC_URI has them; default: the host of URL
	// Check is the path of a repository that everybody with an account may read, and nobody without one.
	Check string
	// BasicUser goes with the token where HTTP wants a user; default: "oauth2".
	BasicUser string
	// PlainPaths asks for repositories without ".git" at the end, for servers that do not know them with it.
	PlainPaths bool
	Held       HeldTokens
	Token      TokenSource  // the gate's own, to see at publish that a repository exists; nil: the path is taken as it is
	HTTP       *http.Client // nil: http.DefaultClient
	Now        func() time.Time
	Logger     *slog.Logger // nil: silent
}

// Probe asks a git server over HTTP with the token that the user has shown, as git clone would begin. What it says of reading is
// authoritative; a user is known by a MAC of the token and by nothing else. A repository's id is its path, for git servers tell no other:
// who gets another repository put in its place reads what was built from the one before. It is safe for concurrent use.
type Probe struct {
	config ProbeConfig
	rest   *rest // for its URLs
	client http.Client

	mu      sync.Mutex // guards what follows
	guarded time.Time  // when Check was last closed to garbage
}

var (
	_ Provider            = (*Probe)(nil)
	_ Resolver            = (*Probe)(nil)
	_ Directory           = (*Probe)(nil)
	_ Checker             = (*Probe)(nil)
	_ authn.TokenVerifier = (*Probe)(nil)
)

// NewProbe checks the configuration.
func NewProbe(c ProbeConfig) (*Probe, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	base, err := newREST(c.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{locatorHost(base.base)}
	}
	if c.BasicUser == "" {
		c.BasicUser = "oauth2"
	}
	p := &Probe{config: c, rest: base}
	if c.HTTP != nil {
		p.client = *c.HTTP
	}
	// A redirect may lead the token elsewhere, or to a page that says 200; a cookie would be one user's in the next one's question.
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p.client.Jar = nil
	switch {
	case c.Held == nil:
		return nil, fmt.Errorf("forge %q: no memory of tokens", c.Name)
	case strings.ContainsAny(c.BasicUser, ":\r\n"):
		return nil, fmt.Errorf("forge %q: basic_user %q holds a colon", c.Name, clip(c.BasicUser))
	}
	if _, err := p.url(c.Check); err != nil {
		return nil, fmt.Errorf("forge %q: check %q: want the path of a repository that everybody with an account may read", c.Name, clip(c.Check))
	}
	return p, nil
}

// Hosts returns the hosts of the forge.
func (p *Probe) Hosts() []string { return slices.Clone(p.config.Hosts) }

// url returns where a repository tells its refs. Every segment of the path is escaped, and none leads elsewhere.
func (p *Probe) url(path string) (string, error) {
	if !isShown(path, maxRepoID) || strings.ContainsAny(path, `\%?#;`) {
		return "", fmt.Errorf("%q is no path of a repository", clip(path))
	}
	if !p.config.PlainPaths {
		path += ".git"
	}
	segments := append(strings.Split(path, "/"), "info", "refs")
	return p.rest.url(url.Values{"service": {"git-upload-pack"}}, segments)
}

// probe asks with a token whether a repository may be read. An error means that nothing was learnt.
func (p *Probe) probe(ctx context.Context, token authn.Secret, path string) (Access, error) {
	target, err := p.url(path)
	if err != nil {
		return None, nil // there is none
	}
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return Unknown, err
	}
	r.SetBasicAuth(p.config.BasicUser, token.Reveal())
	r.Header.Set("Git-Protocol", "version=2") // so that the answer does not list all refs
	response, err := p.client.Do(r)
	if err != nil {
		return Unknown, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return Read, isAdvertisement(response)
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		if response.Header.Get("Retry-After") != "" || response.Header.Get("X-RateLimit-Remaining") == "0" {
			return Unknown, fmt.Errorf("answered %d, and to ask later", response.StatusCode)
		}
		return None, nil
	}
	return Unknown, &statusError{response.StatusCode}
}

// isAdvertisement reports whether an answer is what git-upload-pack says at first (gitprotocol-http, gitprotocol-v2), and not a page
// where people sign in.
func isAdvertisement(response *http.Response) error {
	const contentType = "application/x-git-upload-pack-advertisement"
	if got := response.Header.Get("Content-Type"); got != contentType {
		return fmt.Errorf("answered 200 with %q, not %s: is there a page to sign in before the git server?", clip(got), contentType)
	}
	begin := make([]byte, len("001e# service=git-upload-pack\n"))
	n, err := io.ReadFull(response.Body, begin)
	if begin = begin[:n]; err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !bytes.Equal(begin, []byte("001e# service=git-upload-pack\n")) && !bytes.HasPrefix(begin, []byte("000eversion 2\n")) {
		return errors.New("the answer is not what git-upload-pack says")
	}
	return nil
}

// Access implements [Provider].
func (p *Probe) Access(ctx context.Context, who authn.Principal, repos []Repo) ([]Fact, error) {
	facts := make([]Fact, len(repos))
	at := p.config.Now()
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(hardLimit), Origin: "probe of " + p.config.Name}
	}
	if who.Forge != p.config.Name {
		return facts, nil
	}
	token, held := p.config.Held.TokenOf(who.ID)
	if !held {
		return unknown(repos, "probe of "+p.config.Name+": the token is not held any more, and needs to be shown again"), nil
	}
	var (
		group errgroup.Group
		mu    sync.Mutex // guards errs
		errs  []error
	)
	group.SetLimit(probeWidth)
	for i, r := range repos {
		if r.Forge != p.config.Name {
			continue
		}
		group.Go(func() error {
			at := p.config.Now()
			access, err := p.probe(ctx, token, r.ID)
			if err != nil {
				facts[i] = Fact{Repo: r, Origin: "probe of " + p.config.Name + " was not answered"}
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return nil
			}
			facts[i].Access, facts[i].At, facts[i].NotAfter = access, at, at.Add(hardLimit)
			return nil
		})
	}
	group.Wait()
	if len(errs) > 0 && len(errs) == len(repos) {
		return nil, fmt.Errorf("probe forge %q: %w", p.config.Name, errs[0])
	}
	return facts, nil
}

// VerifyToken implements [authn.TokenVerifier]: a token that may read Check is somebody's, provided that garbage may not.
func (p *Probe) VerifyToken(ctx context.Context, token authn.Secret) error {
	ctx = InBackground(ctx) // anybody can show anything: it waits for those who are known
	if err := p.guard(ctx); err != nil {
		return err
	}
	access, err := p.probe(ctx, token, p.config.Check)
	if err == nil && access != Read {
		err = authn.ErrNobody
	}
	if err != nil {
		return fmt.Errorf("probe %q: %w", p.config.Check, err)
	}
	return nil
}

// guard makes sure that Check is closed to a token that nobody has: else anything would be one.
func (p *Probe) guard(ctx context.Context) error {
	now := p.config.Now()
	p.mu.Lock()
	age := now.Sub(p.guarded)
	p.mu.Unlock()
	if age >= 0 && age < probeGuard {
		return nil
	}
	access, err := p.probe(ctx, authn.NewSecret(rand.Text()), p.config.Check)
	if err != nil {
		return fmt.Errorf("probe %q with a token that nobody has: %w", p.config.Check, err)
	}
	if access == Read {
		return fmt.Errorf("%q can be read with any text for a token: name a repository that only people with an account may read", p.config.Check)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guarded = now
	return nil
}

// Resolve implements [Resolver]. With a token of the gate's own, a path that it may not read names no repository.
func (p *Probe) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(p.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	r := Repo{Forge: p.config.Name, ID: l.Path}
	if _, err := p.url(l.Path); err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), ErrNoRepo)
	}
	if p.config.Token == nil {
		return r, true, nil
	}
	token, err := p.config.Token()
	if err == nil {
		err = p.exists(ctx, token, l.Path)
	}
	if err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), err)
	}
	return r, true, nil
}

func (p *Probe) exists(ctx context.Context, token authn.Secret, path string) error {
	access, err := p.probe(ctx, token, path)
	if err != nil || access == Read {
		return err
	}
	// Is it the repository that is not there, or our token that is worth nothing?
	if access, err = p.probe(ctx, token, p.config.Check); err != nil {
		return err
	}
	if access != Read {
		return fmt.Errorf("the gate's own token may not read %q either: renew it", p.config.Check)
	}
	return ErrNoRepo
}

// User implements [Directory]: a user whose token the forge does not know any more is blocked.
func (p *Probe) User(ctx context.Context, id string) (User, error) {
	token, held := p.config.Held.TokenOf(id)
	if !held {
		return User{}, fmt.Errorf("look up user %q: no token is held: %w", clip(id), ErrNoUser)
	}
	err := p.VerifyToken(ctx, token)
	if err != nil && !errors.Is(err, authn.ErrNobody) {
		return User{}, fmt.Errorf("look up user %q: %w", clip(id), err)
	}
	return User{ID: id, Name: "token-" + id[:min(8, len(id))], Kind: authn.Human, Blocked: err != nil}, nil
}

// UserByName implements [Directory]: who holds a token has no name here.
func (p *Probe) UserByName(_ context.Context, name string) (User, error) {
	return User{}, fmt.Errorf("look up user by name %q: the holders of tokens have none: %w", clip(name), ErrNoUser)
}

// Check implements [Checker]. A canary is the id of a token that is held.
func (p *Probe) Check(ctx context.Context, canary string) []Finding {
	p.mu.Lock()
	p.guarded = time.Time{}
	p.mu.Unlock()
	if err := p.guard(ctx); err != nil {
		return []Finding{{What: "check", Health: Broken, Detail: err.Error(), Hint: "set url and check, and try git ls-remote with a token"}}
	}
	findings := []Finding{{What: "check", Detail: p.config.Check + " is closed to a token that nobody has"}}
	switch token, err := p.ownToken(); {
	case p.config.Token == nil:
		findings = append(findings, Finding{
			What: "token", Health: Doubtful, Detail: "the gate has none of its own: a path is not looked at when an artifact is published",
			Hint: "give it one that may read all repositories",
		})
	case err != nil:
		findings = append(findings, Finding{What: "token", Health: Broken, Detail: err.Error(), Hint: "renew the file"})
	default:
		if err := p.VerifyToken(ctx, token); err != nil {
			findings = append(findings, Finding{What: "token", Health: Broken, Detail: err.Error(), Hint: "renew the gate's token"})
		}
	}
	if canary != "" {
		if u, err := p.User(ctx, canary); err != nil || u.Blocked {
			findings = append(findings, Finding{What: "canary", Health: Doubtful, Detail: fmt.Sprintf("blocked: %t, %v", u.Blocked, err), Hint: "sign in with a token that is valid, and name its id"})
		}
	}
	return append(findings,
		Finding{What: "repositories", Health: Doubtful, Detail: "a path is all there is to know one by", Hint: "never give a path to another repository, or use the forge's own provider"},
		Finding{
			What: "revocation", Health: Doubtful, Detail: "a git server tells nothing: it is known when what is remembered ends, after 5 minutes at the latest",
			Hint: "POST /v1/invalidate closes the gap",
		})
}

func (p *Probe) ownToken() (authn.Secret, error) {
	if p.config.Token == nil {
		return authn.Secret{}, nil
	}
	return p.config.Token()
}
