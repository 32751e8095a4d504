package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	gitoliteBatch    = 500             // repositories in one question
	gitolitePoll     = 5 * time.Second // how often Follow asks whether something was pushed to gitolite-admin
	gitolitePerson   = authn.Human     // gitolite knows no other kinds
	gitoliteMostText = 64 << 10        // of a delivery
)

// GitoliteConfig is what a [Gitolite] needs.
type GitoliteConfig struct {
	Name       string           // the forge's name
	Server     SSHServer        // User is "git" when empty; KeyFile is the key whose command is the helper
	Hosts      []string         // as SRC_URI has them; default: Server.Address
	HookSecret authn.Secret     // of the trigger; zero: deliveries are refused
	Now        func() time.Time // time.Now when nil
	Logger     *slog.Logger     // nil: silent
}

// Gitolite asks a gitolite server through the helper of [GitoliteHelper], with the check that gitolite itself makes before git runs.
// All its answers are authoritative. It is safe for concurrent use.
//
// A user's id is the name that keydir has: gitolite knows no other, so a name that was somebody's must not become another's. A user
// without a key is nobody, whatever @all may. A repository's id is its stamp, see the helper: it stays through the operator's mv and
// the change of gitolite.conf that belongs to it, and the name has no part in it, so that readers follow. Two repositories with one
// stamp, which a copy of the directory makes, may both be read by nobody until the copy's lychgate-id is removed.
type Gitolite struct {
	config GitoliteConfig
	helper *helperClient
	keys   *keyBook
}

var (
	_ Provider  = (*Gitolite)(nil)
	_ Resolver  = (*Gitolite)(nil)
	_ Directory = (*Gitolite)(nil)
	_ KeyOwners = (*Gitolite)(nil)
	_ Hooks     = (*Gitolite)(nil)
	_ Follower  = (*Gitolite)(nil)
	_ Forgetter = (*Gitolite)(nil)
	_ Checker   = (*Gitolite)(nil)
)

// NewGitolite checks the configuration. It connects at the first question.
func NewGitolite(c GitoliteConfig) (*Gitolite, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	if c.Server.User == "" {
		c.Server.User = "git"
	}
	if err := c.Server.check(); err != nil {
		return nil, fmt.Errorf("forge %q: %w", c.Name, err)
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{strings.ToLower(strings.TrimSuffix(c.Server.Address, ":22"))}
	}
	g := &Gitolite{config: c, helper: newHelperClient(c.Server, c.Now)}
	g.keys = newKeyBook(g.listKeys, c.Now)
	return g, nil
}

// Hosts returns the hosts of the forge.
func (g *Gitolite) Hosts() []string { return slices.Clone(g.config.Hosts) }

// Access implements [Provider].
func (g *Gitolite) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	at := g.config.Now()
	facts := make([]Fact, len(repos))
	var stamps []string
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(hardLimit), Origin: "gitolite " + g.config.Name + ": access"}
		if r.Forge == g.config.Name && isStamp(r.ID) {
			stamps = append(stamps, r.ID)
		}
	}
	if p.Forge != g.config.Name || !isGitoliteUser(p.ID) {
		return facts, nil
	}
	slices.Sort(stamps)
	answers, err := g.access(ctx, p.ID, slices.Compact(stamps))
	if err != nil {
		return nil, fmt.Errorf("ask gitolite about %q: %w", p.ID, err)
	}
	for i, r := range repos {
		if r.Forge == g.config.Name && isStamp(r.ID) {
			facts[i].Access = answers[r.ID]
		}
	}
	return facts, nil
}

// Batch implements [Bulk].
func (g *Gitolite) Batch() int { return gitoliteBatch }

// access asks in batches. All of them answer, or none.
func (g *Gitolite) access(ctx context.Context, user string, stamps []string) (map[string]Access, error) {
	answers := make(map[string]Access, len(stamps))
	for batch := range slices.Chunk(stamps, gitoliteBatch) {
		lines, err := g.helper.ask(ctx, append([]string{"access", user}, batch...)...)
		if err != nil {
			return nil, err
		}
		if err := readHelperAccess(batch, lines, answers); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// readHelperAccess takes an answer that fits the question line by line, and no other.
func readHelperAccess(stamps, lines []string, answers map[string]Access) error {
	if len(lines) != len(stamps) {
		return fmt.Errorf("%d answers to %d questions", len(lines), len(stamps))
	}
	words := map[string]Access{"read": Read, "none": None, "unknown": Unknown}
	for i, line := range lines {
		stamp, word, _ := strings.Cut(line, " ")
		a, ok := words[word]
		if !ok || stamp != stamps[i] {
			return fmt.Errorf("answer %q to a question about %s", clip(line), stamps[i])
		}
		answers[stamp] = a
	}
	return nil
}

// Resolve implements [Resolver].
func (g *Gitolite) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(g.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	if !isGitoliteRepo(l.Path) {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), ErrNoRepo)
	}
	lines, err := g.helper.ask(ctx, "find", l.Path)
	if err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), err)
	}
	if len(lines) == 0 {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), ErrNoRepo)
	}
	stamp, name, err := readHelperRepo(lines[0])
	if err == nil && (len(lines) > 1 || name != l.Path) {
		err = fmt.Errorf("answer about %q", clip(name))
	}
	if err == nil && stamp == "" {
		err = errors.New("gitolite's account cannot keep a file lychgate-id in the repository")
	}
	if err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), err)
	}
	return Repo{Forge: g.config.Name, ID: stamp}, true, nil
}

// readHelperRepo reads "repo STAMP NAME". No stamp is "".
func readHelperRepo(line string) (stamp, name string, err error) {
	words := strings.Split(line, " ")
	if len(words) != 3 || words[0] != "repo" || !isGitoliteRepo(words[2]) || !isStamp(words[1]) && words[1] != "-" {
		return "", "", fmt.Errorf("answer %q: want repo STAMP NAME", clip(line))
	}
	return strings.Trim(words[1], "-"), words[2], nil
}

// User implements [Directory].
func (g *Gitolite) User(ctx context.Context, id string) (User, error) {
	if !isGitoliteUser(id) {
		return User{}, fmt.Errorf("look up user %q: %w", clip(id), ErrNoUser)
	}
	lines, err := g.helper.ask(ctx, "user", id)
	if err != nil {
		return User{}, fmt.Errorf("look up user %q: %w", clip(id), err)
	}
	user := User{ID: id, Name: id, Kind: gitolitePerson}
	keys := 0
	for _, line := range lines {
		if group, ok := strings.CutPrefix(line, "group @"); ok && isGitoliteUser(group) {
			user.Groups = append(user.Groups, group)
			continue
		}
		if owner, _, err := readHelperKey(line); err != nil || owner != id {
			return User{}, fmt.Errorf("look up user %q: answer %q", id, clip(line))
		}
		keys++
	}
	if keys == 0 {
		return User{}, fmt.Errorf("look up user %q: no key in keydir: %w", id, ErrNoUser)
	}
	slices.Sort(user.Groups)
	return user, nil
}

// UserByName implements [Directory]. A gitolite user's name is the id.
func (g *Gitolite) UserByName(ctx context.Context, name string) (User, error) {
	return g.User(ctx, name)
}

// KeyOwner implements [KeyOwners]. sshd takes the first of several lines with one key, and its user need not be the one who holds it:
// a key that two users have is nobody's.
func (g *Gitolite) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	owners, err := g.keys.owners(ctx, fingerprint)
	switch {
	case err != nil:
		return User{}, fmt.Errorf("look up the owner of a key: %w", err)
	case len(owners) == 0:
		return User{}, fmt.Errorf("look up the owner of the key %q: %w", clip(fingerprint), ErrNoUser)
	case len(owners) > 1:
		return User{}, fmt.Errorf("the key %q is listed for %q and %q: %w", clip(fingerprint), owners[0], owners[1], ErrNoUser)
	}
	return User{ID: owners[0], Name: owners[0], Kind: gitolitePerson}, nil
}

func (g *Gitolite) listKeys(ctx context.Context) (map[string][]string, error) {
	lines, err := g.helper.ask(ctx, "users")
	if err != nil {
		return nil, err
	}
	owners := make(map[string][]string, len(lines))
	for _, line := range lines {
		user, key, err := readHelperKey(line)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(owners[key], user) {
			owners[key] = append(owners[key], user)
		}
	}
	return owners, nil
}

// readHelperKey reads "key USER FINGERPRINT".
func readHelperKey(line string) (user, fingerprint string, err error) {
	words := strings.Split(line, " ")
	if len(words) != 3 || words[0] != "key" || !isGitoliteUser(words[1]) || !isFingerprint(words[2]) {
		return "", "", fmt.Errorf("answer %q: want key USER FINGERPRINT", clip(line))
	}
	return words[1], words[2], nil
}

// Forget implements [Forgetter].
func (g *Gitolite) Forget(e Event) {
	if (e.Forge == "" || e.Forge == g.config.Name) && (e.Repo == "" || e.User != "" || e.Key != "") {
		g.keys.forget()
	}
}

// Follow implements [Follower]: it asks every few seconds whether something was pushed to gitolite-admin. The perms of wild repositories
// are told by the trigger alone.
func (g *Gitolite) Follow(ctx context.Context, emit func(Event)) error {
	ticker := time.NewTicker(gitolitePoll)
	defer ticker.Stop()
	for seen, down := "", false; ; {
		state, err := g.state(InBackground(ctx))
		switch {
		case err != nil && ctx.Err() == nil && !down:
			g.config.Logger.Warn("gitolite does not answer", "forge", g.config.Name, "error", err)
		case err == nil && state != seen:
			seen = state
			emit(Event{Forge: g.config.Name, Why: "gitolite-admin was pushed to"})
		}
		down = err != nil
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (g *Gitolite) state(ctx context.Context) (string, error) {
	lines, err := g.helper.ask(ctx, "state")
	if err == nil && (len(lines) != 1 || !strings.HasPrefix(lines[0], "state ")) {
		err = fmt.Errorf("%d lines for an answer", len(lines))
	}
	if err != nil {
		return "", err
	}
	return lines[0], nil
}

// gitoliteDelivery is what the trigger sends.
type gitoliteDelivery struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Time    int64  `json:"time"`
	Event   string `json:"event"`
	Repo    string `json:"repo"`
	Stamp   string `json:"stamp"`
}

// ReadHook implements [Hooks]: X-Lychgate-Signature is HMAC-SHA256 of the body, in hexadecimal.
func (g *Gitolite) ReadHook(header http.Header, body []byte) (Delivery, error) {
	var d gitoliteDelivery
	switch {
	case g.config.HookSecret.IsZero():
		return Delivery{}, hookError(g.config.Name, "it has no secret for hooks")
	case !signedBody(g.config.HookSecret, body, header.Get("X-Lychgate-Signature")):
		return Delivery{}, hookError(g.config.Name, "X-Lychgate-Signature does not match")
	case len(body) > gitoliteMostText:
		return Delivery{}, fmt.Errorf("%w: it is longer than %d bytes", ErrHook, gitoliteMostText)
	}
	if err := json.Unmarshal(body, &d, json.RejectUnknownMembers(true)); err != nil {
		return Delivery{}, fmt.Errorf("%w: %w", ErrHook, err)
	}
	if d.Version != 1 || !isStamp(d.ID) || d.Time <= 0 || d.Stamp != "" && !isStamp(d.Stamp) {
		return Delivery{}, fmt.Errorf("%w: not of version 1 of lychgate-trigger", ErrHook)
	}
	out := Delivery{ID: d.ID, At: time.Unix(d.Time, 0)}
	switch {
	case d.Event == "POST_COMPILE":
		out.Events = []Event{{Forge: g.config.Name, Why: "gitolite trigger POST_COMPILE"}}
	case d.Event != "POST_CREATE":
		return Delivery{}, fmt.Errorf("%w: the event %q", ErrHook, clip(d.Event))
	case d.Stamp != "": // nothing is known of a repository without one
		out.Events = []Event{{Forge: g.config.Name, Repo: d.Stamp, Why: "gitolite trigger POST_CREATE"}}
	}
	return out, nil
}

// Check implements [Checker].
func (g *Gitolite) Check(ctx context.Context, canary string) []Finding {
	about, err := g.helper.ask(ctx, "about")
	if err != nil {
		return []Finding{{
			What: "helper", Health: Broken, Detail: err.Error(),
			Hint: "install `lychgate forge gitolite-helper` at the git server, as its first lines say, with the gate's key",
		}}
	}
	findings := []Finding{{What: "helper", Detail: clip(strings.Join(about, ", "))}}
	findings = append(findings, g.checkRepos(ctx)...)
	if canary != "" {
		findings = append(findings, g.checkCanary(ctx, canary))
	}
	return append(findings, g.checkTrigger(about))
}

func (g *Gitolite) checkRepos(ctx context.Context) []Finding {
	lines, err := g.helper.ask(ctx, "repos")
	if err != nil {
		return []Finding{{What: "repositories", Health: Broken, Detail: err.Error(), Hint: "run gitolite list-phy-repos at the server"}}
	}
	findings := []Finding{{What: "repositories", Detail: fmt.Sprintf("%d", len(lines))}}
	names := map[string]string{}
	for _, line := range lines {
		stamp, name, err := readHelperRepo(line)
		switch other := names[stamp]; {
		case err != nil:
			return []Finding{{What: "repositories", Health: Broken, Detail: err.Error(), Hint: "install the helper of this version"}}
		case stamp == "":
			findings = append(findings, Finding{
				What: "repository", Health: Doubtful, Detail: name + " cannot keep a file lychgate-id",
				Hint: "give the directory to gitolite's account, or remove what stands there",
			})
		case other != "":
			findings = append(findings, Finding{
				What: "repository", Health: Doubtful, Detail: name + " and " + other + " have one lychgate-id: nobody may read either",
				Hint: "remove lychgate-id from the directory that is the copy",
			})
		default:
			names[stamp] = name
		}
	}
	return findings
}

func (g *Gitolite) checkCanary(ctx context.Context, canary string) Finding {
	if _, err := g.User(ctx, canary); err != nil {
		return Finding{What: "canary", Health: Broken, Detail: err.Error(), Hint: "name a user with a key in keydir"}
	}
	return Finding{What: "canary", Detail: canary + " is a user with a key"}
}

func (g *Gitolite) checkTrigger(about []string) Finding {
	const bound = "a push to gitolite-admin is known within 5 s, "
	var missing []string
	for _, event := range []string{"POST_COMPILE", "POST_CREATE"} {
		if !slices.Contains(about, "trigger "+event) {
			missing = append(missing, event)
		}
	}
	switch {
	case g.config.HookSecret.IsZero():
		return Finding{
			What: "revocation", Health: Doubtful, Detail: bound + "perms of wild repositories within 5 minutes: there is no secret for the trigger",
			Hint: "set one, and install `lychgate forge gitolite-trigger`",
		}
	case len(missing) > 0:
		return Finding{
			What: "revocation", Health: Doubtful, Detail: bound + "perms of wild repositories within 5 minutes: no trigger for " + strings.Join(missing, " and "),
			Hint: "install `lychgate forge gitolite-trigger` at the git server, as its first lines say",
		}
	}
	return Finding{What: "revocation", Detail: "the trigger tells of each change: it is known within 2 s; groups that GROUPLIST_PGM gets elsewhere within 5 minutes"}
}

func isStamp(s string) bool { return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" }

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// isGitoliteUser reports whether s may be a user. The name of a group begins with "@", and gitolite would answer for the group.
func isGitoliteUser(s string) bool {
	return len(s) <= 255 && startsAlphanumeric(s) && s != "0" && strings.Trim(s, alphanumeric+"-._@+") == ""
}

// isGitoliteRepo reports whether s may be a repository.
func isGitoliteRepo(s string) bool {
	if len(s) > 1000 || !startsAlphanumeric(s) || s == "0" || strings.Trim(s, alphanumeric+"-._@/+") != "" {
		return false
	}
	return !strings.Contains(s, "..") && !strings.Contains(s, "//") && !strings.Contains(s, ".git/") && !strings.HasSuffix(s, "/")
}

func startsAlphanumeric(s string) bool { return s != "" && strings.IndexByte(alphanumeric, s[0]) >= 0 }
