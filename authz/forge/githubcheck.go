package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-github/v89/github"
)

var _ Checker = (*GitHub)(nil)

// githubHookEvents returns the events that a webhook should send, each of which takes something away from somebody.
func githubHookEvents() []string {
	return []string{"member", "membership", "organization", "public", "repository", "team", "team_add"}
}

// Check implements [Checker].
func (g *GitHub) Check(ctx context.Context, canary string) []Finding {
	r, err := g.client.NewRequest(ctx, http.MethodGet, "rate_limit", nil)
	if err != nil {
		return []Finding{{"connection", Broken, err.Error(), "check url"}}
	}
	answer, err := g.client.Do(r, nil)
	if err = githubError(err); err != nil && !hasStatus(err, http.StatusNotFound) { // 404: the server limits nobody
		return []Finding{g.unreachable(err)}
	}
	findings := []Finding{
		skewFinding(answer.Header.Get("Date"), g.config.Now(), g.config.Now()),
		g.scopesFinding(answer.Header),
		g.quotaFinding(answer.Rate),
	}
	audited := len(g.config.Orgs) > 0
	for _, org := range g.config.Orgs {
		log := g.auditFinding(ctx, org)
		audited = audited && log.Health == Fine
		findings = append(findings, g.orgFinding(ctx, org), g.hookFinding(ctx, org), log)
	}
	findings = append(findings, g.keysFinding(ctx))
	if canary != "" {
		findings = append(findings, canaryFinding(ctx, g, canary))
	}
	return append(findings, g.boundFinding(audited))
}

func (g *GitHub) unreachable(err error) Finding {
	hint := "check url, DNS, firewalls and the certificate"
	if hasStatus(err, http.StatusUnauthorized, http.StatusForbidden) {
		hint = "give it a token that is valid, and authorized for the organizations' single sign-on"
	}
	return Finding{"connection", Broken, err.Error(), hint}
}

// scopesFinding reads the scopes that GitHub sends along, for classic tokens alone.
func (g *GitHub) scopesFinding(header http.Header) Finding {
	if header.Values("X-OAuth-Scopes") == nil {
		return Finding{What: "token", Detail: "an App's or a fine-grained one, whose rights cannot be seen"}
	}
	var scopes []string
	for _, s := range strings.Split(header.Get("X-OAuth-Scopes"), ",") {
		scopes = append(scopes, strings.TrimSpace(s))
	}
	detail := "scopes: " + clip(strings.Join(scopes, ", "))
	if !slices.Contains(scopes, "repo") {
		return Finding{"token", Broken, detail, "give it the scope repo, or use an App: without, it sees no private repository"}
	}
	if slices.ContainsFunc(scopes, func(s string) bool {
		return strings.HasPrefix(s, "admin:") || strings.HasPrefix(s, "write:") || s == "delete_repo"
	}) {
		return Finding{"token", Doubtful, detail, "it can do more than the gate needs; an App with members and metadata, read-only, can do least"}
	}
	return Finding{What: "token", Detail: detail}
}

func (g *GitHub) quotaFinding(rate github.Rate) Finding {
	if rate.Limit == 0 {
		return Finding{What: "quota", Detail: "none is set"}
	}
	detail := fmt.Sprintf("%d of %d requests left this hour", rate.Remaining, rate.Limit)
	if rate.Remaining < rate.Limit/10 {
		return Finding{"quota", Doubtful, detail, "find out who else uses the token, or use an App, whose quota grows with the organization"}
	}
	return Finding{What: "quota", Detail: detail}
}

func (g *GitHub) orgFinding(ctx context.Context, org string) Finding {
	about, _, err := githubGet(ctx, g, "orgs/"+org, githubAnswer[*githubAboutOrg]{})
	if err == nil && about.value == nil {
		err = errOtherThing
	}
	if err != nil {
		return Finding{"org " + org, Broken, "cannot be seen: " + err.Error(), "check the name, and what the token is for"}
	}
	if about.value.Permission == nil {
		return Finding{
			"org " + org, Doubtful, "the token does not see its base permission",
			"use an owner's, or an App with the organization's administration, read-only: a change is then noticed before facts age",
		}
	}
	return Finding{What: "org " + org, Detail: "base permission: " + clip(*about.value.Permission)}
}

func (g *GitHub) hookFinding(ctx context.Context, org string) Finding {
	what := "webhook of " + org
	hint := fmt.Sprintf("add one to the organization that posts JSON to https://GATE%s, signed with hook_secret, and sends %s",
		hookPath(g.config.Name), strings.Join(githubHookEvents(), ", "))
	hooks, _, err := g.client.Organizations.ListHooks(ctx, org, &github.ListOptions{PerPage: githubPage})
	switch {
	case g.config.HookSecret.IsZero():
		return Finding{what, Doubtful, "no secret is configured: none is believed", "set hook_secret; " + hint}
	case err != nil:
		return Finding{what, Doubtful, "they cannot be listed: " + githubError(err).Error(), hint}
	}
	for _, h := range hooks {
		if h.GetActive() && h.Config != nil && isHookOf(h.Config.GetURL(), g.config.Name) {
			return hookEventsFinding(what, h)
		}
	}
	return Finding{what, Doubtful, "no active one posts to " + hookPath(g.config.Name), hint}
}

// hookEventsFinding says what a hook lacks.
func hookEventsFinding(what string, h *github.Hook) Finding {
	var lacks []string
	for _, event := range githubHookEvents() {
		if !slices.Contains(h.Events, event) && !slices.Contains(h.Events, "*") {
			lacks = append(lacks, event)
		}
	}
	switch {
	case h.Config.GetContentType() != "json":
		return Finding{what, Doubtful, "it does not post JSON", "set its content type to application/json"}
	case len(lacks) > 0:
		return Finding{what, Doubtful, "it does not send " + strings.Join(lacks, ", "), "tick these in the hook's settings"}
	}
	return Finding{What: what, Detail: "is set up; its page at GitHub shows whether the deliveries arrive"}
}

func (g *GitHub) auditFinding(ctx context.Context, org string) Finding {
	one := &github.GetAuditLogOptions{ListCursorOptions: github.ListCursorOptions{PerPage: 1}}
	_, _, err := g.client.Organizations.GetAuditLog(ctx, org, one)
	if err == nil {
		return Finding{What: "audit log of " + org, Detail: "can be read"}
	}
	err = githubError(err)
	if errors.Is(err, errGitHubLimits) {
		return Finding{"audit log of " + org, Doubtful, err.Error(), "try again later"}
	}
	return Finding{
		"audit log of " + org, Doubtful, "cannot be read: " + err.Error(),
		"Enterprise Cloud and servers have one, for owners' tokens with the scope read:audit_log; without, roles and suspensions are " +
			"noticed as facts age",
	}
}

// boundFinding says what a revocation takes.
func (g *GitHub) boundFinding(audited bool) Finding {
	detail := fmt.Sprintf("members, teams and repositories: 2 s after the webhook; base permissions: %s", 2*g.config.Poll)
	if audited {
		detail += fmt.Sprintf("; roles: %s, by the audit log, which GitHub may write late", 2*g.config.Poll)
	}
	return Finding{What: "revocation", Detail: fmt.Sprintf("%s; SSH keys, suspensions and anything else: %s", detail, hardLimit)}
}
