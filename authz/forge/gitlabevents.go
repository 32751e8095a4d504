package forge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

var (
	_ Hooks    = (*GitLab)(nil)
	_ Follower = (*GitLab)(nil)
)

// gitlabPost is the body of a system hook, as far as permissions go. Numbers are read by themselves, so that one that is not
// where it should be widens the event instead of losing it.
type gitlabPost struct {
	Event   string         `json:"event_name"`
	Object  string         `json:"object_kind"` // in place of event_name: merge_request
	Project jsontext.Value `json:"project_id"`
	User    jsontext.Value `json:"user_id"`
	State   string         `json:"state"` // of user_failed_login
	Key     string         `json:"key"`
}

// ReadHook implements [Hooks] for GitLab's system hooks. Their secret is a token that is sent along, no signature: a hook must
// come over TLS.
func (g *GitLab) ReadHook(header http.Header, body []byte) (Delivery, error) {
	if !sameSecret(g.config.HookSecret, header.Get("X-Gitlab-Token")) {
		return Delivery{}, fmt.Errorf("%w: X-Gitlab-Token is not the secret of the hook", ErrHook)
	}
	if event := header.Get("X-Gitlab-Event"); event != "System Hook" {
		return Delivery{}, fmt.Errorf("%w: a %q, want a system hook", ErrHook, clip(event))
	}
	var post gitlabPost
	if err := json.Unmarshal(body, &post); err != nil {
		return Delivery{}, fmt.Errorf("%w: %w", ErrHook, err)
	}
	d := Delivery{ID: gitlabDelivery(header, body)}
	if e, ok := g.event(post); ok {
		e.Forge = g.config.Name
		e.Why = "gitlab system hook " + clip(strconv.QuoteToASCII(post.Event))
		d.Events = []Event{e}
	}
	return d, nil
}

// gitlabDelivery names a delivery. Idempotency-Key stays the same when GitLab tries again; the event's id is one for a whole
// chain of hooks, and that of the hook itself always the same. What is taken for a replay is lost, so all that tells two apart
// counts.
func gitlabDelivery(header http.Header, body []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q\n", header.Get("Idempotency-Key"), header.Get("X-Gitlab-Event-UUID"))
	sum.Write(body)
	return fmt.Sprintf("%x", sum.Sum(nil)[:16])
}

// event says what a hook is about. What nobody has heard of is about everything: GitLab may have learnt to tell of more.
func (g *GitLab) event(post gitlabPost) (Event, bool) {
	user, repo := gitlabNumber(post.User), gitlabNumber(post.Project)
	switch post.Event {
	case "user_add_to_team", "user_remove_from_team", "user_update_for_team":
		return Event{User: user, Repo: repo}, true
	case "user_add_to_group", "user_remove_from_group", "user_update_for_group", "user_create", "user_destroy", "user_rename":
		return Event{User: user}, true
	case "user_failed_login": // anybody can make these come; a state other than active is news
		return Event{User: user}, post.State != "" && post.State != "active"
	case "project_create", "project_destroy", "project_rename", "project_transfer", "project_update":
		return Event{Repo: repo}, true
	case "key_create", "key_destroy":
		return Event{Key: fingerprintOf(post.Key)}, true
	case "group_create", "group_rename", "repository_update", "push", "tag_push",
		"user_access_request_to_group", "user_access_request_to_project",
		"user_access_request_denied_for_group", "user_access_request_denied_for_project",
		"user_access_request_revoked_for_group", "user_access_request_revoked_for_project":
		return Event{}, false
	case "":
		return Event{}, post.Object != "merge_request" && post.Object != "push" && post.Object != "tag_push"
	}
	return Event{}, true // group_destroy among them: whom the group was shared with loses what it gave
}

// gitlabNumber returns an id of a hook, or "" when there is none.
func gitlabNumber(v jsontext.Value) string {
	if _, ok := numericID(string(v)); ok {
		return string(v)
	}
	return ""
}

const (
	// gitlabPages bounds the pages of one listing that Follow reads.
	gitlabPages = 1000
	// gitlabAuditPages bounds those of the audit events between two polls: what is behind them is taken for everything.
	gitlabAuditPages = 10
	// gitlabAuditOverlap is how far back audit events are asked for: they are not written in the order of their times.
	gitlabAuditOverlap = 5 * time.Minute
	// gitlabMostEvents bounds what one poll tells one by one.
	gitlabMostEvents = 100
)

// Follow implements [Follower]: it asks who is blocked, of which no hook tells, and for audit events where the licence has them.
// Its first poll tells of everything, since nobody looked before.
func (g *GitLab) Follow(ctx context.Context, emit func(Event)) error {
	f := &gitlabFollower{GitLab: g, audited: true}
	for {
		if err := f.poll(ctx, emit); err != nil && ctx.Err() == nil {
			g.config.Logger.Warn("gitlab was not polled for blocked users and audit events", "forge", g.config.Name, "error", err)
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

// gitlabFollower is what one Follow knows.
type gitlabFollower struct {
	*GitLab
	blocked map[string]bool // nil until first seen
	audited bool            // whether there are audit events
	begun   bool            // whether last is something
	last    int64           // the id of the latest audit event
}

// poll emits what has changed since the last one that went well. A poll that fails changes nothing: the next covers its time.
func (f *gitlabFollower) poll(ctx context.Context, emit func(Event)) error {
	ctx = InBackground(ctx)
	return errors.Join(f.pollBlocked(ctx, emit), f.pollAudit(ctx, emit))
}

func (f *gitlabFollower) pollBlocked(ctx context.Context, emit func(Event)) error {
	blocked, err := f.listBlocked(ctx)
	if err != nil {
		return fmt.Errorf("list blocked users: %w", err)
	}
	var changed []Event
	for _, id := range slices.Sorted(maps.Keys(blocked)) {
		if !f.blocked[id] {
			changed = append(changed, Event{User: id, Why: "gitlab has blocked the user"})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(f.blocked)) {
		if !blocked[id] {
			changed = append(changed, Event{User: id, Why: "gitlab does not block the user any more"})
		}
	}
	if f.blocked == nil {
		changed = []Event{{Why: "gitlab was not followed before"}}
	}
	f.blocked = blocked
	f.tell(changed, emit)
	return nil
}

// tell emits events, as one about everything when they are many.
func (f *gitlabFollower) tell(events []Event, emit func(Event)) {
	if len(events) > gitlabMostEvents {
		events = []Event{{Why: fmt.Sprintf("gitlab told of %d changes at once", len(events))}}
	}
	for _, e := range events {
		e.Forge = f.config.Name
		emit(e)
	}
}

// listBlocked reads all pages. A listing that is not complete is none: users it lacks would look unblocked.
func (f *gitlabFollower) listBlocked(ctx context.Context) (map[string]bool, error) {
	blocked := make(map[string]bool)
	opt := &gitlab.ListUsersOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100, Pagination: "keyset", OrderBy: "id", Sort: "asc"},
		Blocked:     new(true),
	}
	next, more := gitlab.RequestOptionFunc(nil), true
	for page := 0; more; page++ {
		if page == gitlabPages {
			return nil, fmt.Errorf("more than %d pages", gitlabPages)
		}
		options := []gitlab.RequestOptionFunc{gitlab.WithContext(ctx)}
		if next != nil {
			options = append(options, next)
		}
		users, answer, err := f.client.Users.ListUsers(opt, options...)
		if err != nil {
			return nil, gitlabError(err)
		}
		for _, u := range users {
			if u == nil || u.State == "active" { // an older GitLab does not know the filter
				return nil, errOtherThing
			}
			blocked[strconv.FormatInt(u.ID, 10)] = true
		}
		next, more = gitlab.WithNext(answer)
	}
	return blocked, nil
}

func (f *gitlabFollower) pollAudit(ctx context.Context, emit func(Event)) error {
	if !f.audited {
		return nil
	}
	since := f.config.Now().Add(-gitlabAuditOverlap - 3*f.config.Poll)
	opt := &gitlab.ListAuditEventsOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, CreatedAfter: &since}
	fresh, complete, err := f.freshAudits(ctx, opt)
	if hasStatus(err, http.StatusNotFound, http.StatusForbidden) {
		f.audited = false
		f.config.Logger.Info("gitlab has no audit events: shares and group settings are noticed as facts age", "forge", f.config.Name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("list audit events: %w", err)
	}
	first := !f.begun
	f.begun = true
	for _, a := range fresh {
		f.last = max(f.last, a.ID)
	}
	switch {
	case first: // the first poll for blocked users has told of everything
	case !complete:
		f.tell([]Event{{Why: "gitlab has more audit events than were read"}}, emit)
	default:
		f.tell(auditEvents(fresh), emit)
	}
	return nil
}

// freshAudits returns the audit events after the last, and whether these are all.
func (f *gitlabFollower) freshAudits(
	ctx context.Context, opt *gitlab.ListAuditEventsOptions,
) (fresh []*gitlab.AuditEvent, complete bool, err error) {
	options := []gitlab.RequestOptionFunc{gitlab.WithContext(ctx)}
	for range gitlabAuditPages {
		audits, answer, err := f.client.AuditEvents.ListInstanceAuditEvents(opt, options...)
		if err != nil {
			return nil, false, gitlabError(err)
		}
		before := len(fresh)
		for _, a := range audits {
			if a == nil {
				return nil, false, errOtherThing
			}
			if a.ID > f.last {
				fresh = append(fresh, a)
			}
		}
		next, more := gitlab.WithNext(answer)
		if !more || !f.begun || len(fresh) == before { // the latest come first
			return fresh, true, nil
		}
		options = []gitlab.RequestOptionFunc{gitlab.WithContext(ctx), next}
	}
	return fresh, false, nil
}

// auditEvents says what audit events are about, each once.
func auditEvents(audits []*gitlab.AuditEvent) []Event {
	seen := make(map[Event]bool)
	var events []Event
	for _, a := range audits {
		e := auditEvent(a)
		e.Why = "gitlab audit event"
		if !seen[e] {
			seen[e] = true
			events = append(events, e)
		}
	}
	return events
}

// auditEvent says what one is about. Of a group only who it concerns can be said; its settings are about everybody below it.
func auditEvent(a *gitlab.AuditEvent) Event {
	switch a.EntityType {
	case "User":
		return Event{User: positive(a.EntityID)}
	case "Project":
		return Event{Repo: positive(a.EntityID)}
	case "Group":
		if a.Details.TargetType == "User" {
			if id, ok := a.Details.TargetID.(float64); ok {
				return Event{User: positive(int64(id))}
			}
		}
	}
	return Event{}
}

// positive writes an id, or "" for what is none.
func positive(id int64) string {
	if id <= 0 {
		return ""
	}
	return strconv.FormatInt(id, 10)
}
