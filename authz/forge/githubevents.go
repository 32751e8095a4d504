package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-github/v89/github"
)

var (
	_ Hooks    = (*GitHub)(nil)
	_ Follower = (*GitHub)(nil)
)

// githubPost is the body of a webhook, as far as permissions go.
type githubPost struct {
	Action     string       `json:"action"`
	Repository *githubThing `json:"repository"`
	Member     *githubThing `json:"member"`
	User       *githubThing `json:"user"`
	Blocked    *githubThing `json:"blocked_user"`
	Membership *struct {
		User *githubThing `json:"user"`
	} `json:"membership"`
	Key *githubKey `json:"key"`
}

type githubThing struct {
	ID int64 `json:"id"`
}

// id returns "" for what is not there, which widens an event.
func (t *githubThing) id() string {
	if t == nil {
		return ""
	}
	return positive(t.ID)
}

// ReadHook implements [Hooks] for webhooks of organizations, Apps and servers, with JSON bodies. X-GitHub-Delivery names a
// delivery; it is not signed, so that somebody who has seen a delivery can send it under another name, and make the gate ask again.
func (g *GitHub) ReadHook(header http.Header, body []byte) (Delivery, error) {
	if !g.signed(header.Get("X-Hub-Signature-256"), body) {
		return Delivery{}, fmt.Errorf("%w: X-Hub-Signature-256 is not that of the hook's secret", ErrHook)
	}
	id, event := header.Get("X-GitHub-Delivery"), header.Get("X-GitHub-Event")
	if id == "" || event == "" {
		return Delivery{}, fmt.Errorf("%w: it has no X-GitHub-Delivery or no X-GitHub-Event", ErrHook)
	}
	var post githubPost
	if err := json.Unmarshal(body, &post); err != nil {
		return Delivery{}, fmt.Errorf("%w: set the hook's content type to application/json: %w", ErrHook, err)
	}
	d := Delivery{ID: oneLine(id)}
	if e, ok := post.event(event); ok {
		e.Forge = g.config.Name
		e.Why = "github webhook " + oneLine(event+" "+post.Action)
		d.Events = []Event{e}
	}
	return d, nil
}

// signed checks "sha256=HEX" over the body as it came. The older header with SHA-1 counts for nothing.
func (g *GitHub) signed(signature string, body []byte) bool {
	hexadecimal, ok := strings.CutPrefix(signature, "sha256=")
	return ok && signedBody(g.config.HookSecret, body, hexadecimal)
}

// event says what a hook is about. A hook can be told to send all there is, so what is not named here is about nothing.
func (p githubPost) event(name string) (Event, bool) {
	switch name {
	case "member": // a collaborator
		return Event{User: p.Member.id(), Repo: p.Repository.id()}, true
	case "membership": // of a team
		return Event{User: p.Member.id()}, true
	case "organization":
		return p.organization()
	case "team":
		return p.team()
	case "team_add", "repository", "public":
		return Event{Repo: p.Repository.id()}, true
	case "deploy_key":
		if p.Key == nil {
			return Event{}, true
		}
		return Event{Key: fingerprintOf(p.Key.Key)}, true
	case "org_block":
		return Event{User: p.Blocked.id()}, true
	case "user": // of a server
		return Event{User: p.User.id()}, true
	case "installation", "installation_repositories": // what the gate itself may see
		return Event{}, true
	}
	return Event{}, false
}

func (p githubPost) organization() (Event, bool) {
	switch {
	case p.Action == "renamed":
		return Event{}, false
	case p.Membership != nil:
		return Event{User: p.Membership.User.id()}, true
	}
	return Event{}, p.Action != "member_invited"
}

func (p githubPost) team() (Event, bool) {
	if p.Action == "created" && p.Repository == nil { // nobody loses by it
		return Event{}, false
	}
	return Event{Repo: p.Repository.id()}, true // without a repository: the team is gone, or has another parent
}

const (
	// githubAuditPages bounds the pages of an audit log between two polls: what is behind them is taken for everything.
	githubAuditPages = 10
	// githubAuditOverlap is how far back an audit log is asked for: it is not written in the order of its times.
	githubAuditOverlap = 5 * time.Minute
	// githubMostEvents bounds what one poll tells one by one.
	githubMostEvents = 100
)

// Follow implements [Follower]: of each configured organization it asks for the audit log, where there is one, and for the base
// permission, of which no webhook tells; and it reads the keys. Its first poll tells of everything, since nobody looked before.
func (g *GitHub) Follow(ctx context.Context, emit func(Event)) error {
	f := &githubFollower{GitHub: g}
	for _, org := range g.config.Orgs {
		f.orgs = append(f.orgs, &githubOrg{name: org, audited: true})
	}
	f.tell([]Event{{Why: "github was not followed before"}}, emit)
	for {
		if err := f.poll(ctx, emit); err != nil && ctx.Err() == nil {
			g.config.Logger.Warn("github was not polled for all that no webhook tells", "forge", g.config.Name, "error", err)
		}
		pause := time.NewTimer(g.config.Poll + rand.N(g.config.Poll))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// githubFollower is what one Follow knows.
type githubFollower struct {
	*GitHub
	orgs []*githubOrg
	keys *githubKeys // nil until first read
}

type githubOrg struct {
	name    string
	audited bool            // whether it has an audit log
	polled  time.Time       // when the audit log was last read; zero for never
	seen    map[string]bool // the entries that were there
	about   githubAnswer[*githubAboutOrg]
}

type githubAboutOrg struct {
	Permission *string `json:"default_repository_permission"` // for owners' eyes
}

// poll emits what has changed since the last one that went well. A poll that fails changes nothing: the next covers its time.
func (f *githubFollower) poll(ctx context.Context, emit func(Event)) error {
	ctx = InBackground(ctx)
	errs := []error{f.pollKeys(ctx, emit)}
	for _, org := range f.orgs {
		errs = append(errs, f.pollBase(ctx, org, emit), f.pollAudit(ctx, org, emit))
	}
	return errors.Join(errs...)
}

// tell emits events, as one about everything when they are many.
func (f *githubFollower) tell(events []Event, emit func(Event)) {
	if len(events) > githubMostEvents {
		events = []Event{{Why: fmt.Sprintf("github told of %d changes at once", len(events))}}
	}
	for _, e := range events {
		e.Forge = f.config.Name
		emit(e)
	}
}

// pollKeys reads the keys when they are due, and tells of those that have lost their owner.
func (f *githubFollower) pollKeys(ctx context.Context, emit func(Event)) error {
	if !f.readsKeys() {
		return nil
	}
	keys, _, err := f.allKeys(ctx, f.config.Now().Add(-f.config.Keys))
	if err != nil {
		return err
	}
	if keys == f.keys {
		return nil
	}
	var events []Event
	if f.keys != nil {
		for fingerprint, owner := range f.keys.owners {
			if keys.owners[fingerprint] != owner {
				events = append(events, Event{Key: fingerprint, Why: "github lists the key no more, or for another user"})
			}
		}
	}
	f.keys = keys
	for _, e := range events { // these leave permissions alone, so that many are not taken for everything
		e.Forge = f.config.Name
		emit(e)
	}
	return nil
}

func (f *githubFollower) pollBase(ctx context.Context, org *githubOrg, emit func(Event)) error {
	about, same, err := githubGet(ctx, f.GitHub, "orgs/"+org.name, org.about)
	switch {
	case err != nil:
		return fmt.Errorf("ask for the base permission of %s: %w", org.name, err)
	case about.value == nil:
		return fmt.Errorf("ask for the base permission of %s: %w", org.name, errOtherThing)
	case same:
		return nil
	}
	changed := org.about.value != nil && !equalWords(org.about.value.Permission, about.value.Permission)
	org.about = about
	if changed {
		f.tell([]Event{{Why: "github: the base permission of " + org.name + " is another"}}, emit)
	}
	return nil
}

func equalWords(a, b *string) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

func (f *githubFollower) pollAudit(ctx context.Context, org *githubOrg, emit func(Event)) error {
	if !org.audited {
		return nil
	}
	now := f.config.Now()
	since := now
	if !org.polled.IsZero() {
		since = org.polled
	}
	entries, complete, err := f.auditLog(ctx, org.name, since.Add(-githubAuditOverlap))
	if hasStatus(err, http.StatusForbidden, http.StatusNotFound) && !errors.Is(err, errGitHubLimits) {
		org.audited = false
		f.config.Logger.Info("github has no audit log for the token: what no webhook tells is noticed as facts age",
			"forge", f.config.Name, "org", org.name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the audit log of %s: %w", org.name, err)
	}
	first, old := org.polled.IsZero(), org.seen
	org.polled, org.seen = now, make(map[string]bool)
	var events []Event
	for _, entry := range entries {
		id := cmp.Or(entry.GetDocumentID(), fmt.Sprint(entry.GetAction(), entry.GetTimestamp(), entry.GetUserID()))
		if e, ok := githubAuditEvent(entry); ok && !old[id] && !slices.Contains(events, e) {
			events = append(events, e)
		}
		org.seen[id] = true
	}
	switch {
	case first: // all was told of before
	case !complete:
		f.tell([]Event{{Why: "github has more audit entries of " + org.name + " than were read"}}, emit)
	default:
		f.tell(events, emit)
	}
	return nil
}

// auditLog returns the entries since a time, and whether these are all.
func (f *githubFollower) auditLog(ctx context.Context, org string, since time.Time) (entries []*github.AuditEntry, complete bool, err error) {
	opt := &github.GetAuditLogOptions{
		Phrase:            new("created:>=" + since.UTC().Format("2006-01-02T15:04:05+00:00")),
		ListCursorOptions: github.ListCursorOptions{PerPage: githubPage},
	}
	for range githubAuditPages {
		page, answer, err := f.client.Organizations.GetAuditLog(ctx, org, opt)
		if err != nil {
			return nil, false, githubError(err)
		}
		if slices.Contains(page, nil) {
			return nil, false, errOtherThing
		}
		entries = append(entries, page...)
		if answer.After == "" {
			return entries, true, nil
		}
		opt.After = answer.After
	}
	return entries, false, nil
}

// githubAuditEvent says what an entry is about. Most are about nothing that matters here.
func githubAuditEvent(entry *github.AuditEntry) (Event, bool) {
	action := entry.GetAction()
	why := "github audit log: " + oneLine(action)
	category, verb, _ := strings.Cut(action, ".")
	user, repo := positive(entry.GetUserID()), ""
	if id, ok := entry.AdditionalFields["repo_id"].(float64); ok {
		repo = positive(int64(id))
	}
	switch {
	case strings.Contains(verb, "default_repository_permission"):
		return Event{Why: why}, true
	case category == "team" && (verb == "destroy" || verb == "change_parent_team"):
		return Event{Why: why}, true
	case category == "repo" && repo != "" && user == "":
		return Event{Repo: repo, Why: why}, true
	case category == "team" && repo != "":
		return Event{Repo: repo, Why: why}, true
	case slices.Contains([]string{"org", "team", "repo", "user", "public_key"}, category) && user != "":
		return Event{User: user, Why: why}, true
	case slices.Contains([]string{"role", "organization_role", "external_identity", "external_group", "public_key"}, category):
		return Event{User: user, Why: why}, true
	}
	return Event{}, false
}
