package forge

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

var _ Checker = (*GitLab)(nil)

// tokenSoon is how long before a token expires there is a word about it.
const tokenSoon = 14 * 24 * time.Hour

// Check implements [Checker].
func (g *GitLab) Check(ctx context.Context, canary string) []Finding {
	self, answer, err := g.client.Users.CurrentUser(gitlab.WithContext(ctx))
	if err == nil && self == nil {
		err = errOtherThing
	}
	if err != nil {
		return []Finding{g.unreachable(err)}
	}
	findings := []Finding{
		skewFinding(answer.Header.Get("Date"), g.config.Now(), g.config.Now()),
		g.rightsFinding(self),
		g.scopesFinding(ctx),
		g.hookFinding(ctx),
	}
	audits, finding := g.auditFinding(ctx)
	findings = append(findings, finding)
	if canary != "" {
		findings = append(findings, canaryFinding(ctx, g, canary))
	}
	return append(findings, g.boundFinding(audits))
}

func (g *GitLab) unreachable(err error) Finding {
	err = gitlabError(err)
	hint := "check url, DNS, firewalls and the certificate"
	if hasStatus(err, http.StatusUnauthorized, http.StatusForbidden) {
		hint = "give it a valid personal access token of an administrator with the scope read_api"
	}
	return Finding{"connection", Broken, err.Error(), hint}
}

func (g *GitLab) rightsFinding(self *gitlab.User) Finding {
	if !self.IsAdmin {
		return Finding{
			"rights", Broken, fmt.Sprintf("the token is of %q, who is no administrator", clip(self.Username)),
			"give it an administrator's: nobody else sees all members, keys and whether users are external",
		}
	}
	return Finding{What: "rights", Detail: fmt.Sprintf("the token is of the administrator %q", clip(self.Username))}
}

func (g *GitLab) scopesFinding(ctx context.Context) Finding {
	token, _, err := g.client.PersonalAccessTokens.GetSinglePersonalAccessToken(gitlab.WithContext(ctx))
	if err == nil && token == nil {
		err = errOtherThing
	}
	if err != nil {
		return Finding{
			"token", Doubtful, "its scopes cannot be seen: " + gitlabError(err).Error(),
			"use a personal access token with the scope read_api",
		}
	}
	detail := "scopes: " + clip(strings.Join(token.Scopes, ", "))
	if expires := (*time.Time)(token.ExpiresAt); expires != nil {
		detail += ", expires " + expires.Format(time.DateOnly)
		if expires.Before(g.config.Now().Add(tokenSoon)) {
			return Finding{"token", Doubtful, detail, "make a new one before it expires: after that, nobody may read"}
		}
	}
	switch {
	case !slices.Contains(token.Scopes, "read_api") && !slices.Contains(token.Scopes, "api"):
		return Finding{"token", Broken, detail, "make one with the scope read_api"}
	case len(token.Scopes) > 1 || token.Scopes[0] != "read_api":
		return Finding{"token", Doubtful, detail, "make one with the scope read_api alone: it can do more than the gate needs"}
	}
	return Finding{What: "token", Detail: detail}
}

func (g *GitLab) hookFinding(ctx context.Context) Finding {
	hint := "add a system hook in the admin area that posts to https://GATE" + hookPath(g.config.Name) +
		", with the secret token of hook_secret; no triggers need be ticked"
	hooks, _, err := g.client.SystemHooks.ListHooks(gitlab.WithContext(ctx))
	switch {
	case g.config.HookSecret.IsZero():
		return Finding{"system hook", Doubtful, "no secret is configured: none is believed", "set hook_secret; " + hint}
	case err != nil:
		return Finding{"system hook", Doubtful, "they cannot be listed: " + gitlabError(err).Error(), hint}
	}
	for _, h := range hooks {
		if h != nil && isHookOf(h.URL, g.config.Name) {
			return Finding{What: "system hook", Detail: "is set up; GitLab's page of the hook shows whether the deliveries arrive"}
		}
	}
	return Finding{"system hook", Doubtful, "none posts to " + hookPath(g.config.Name), hint}
}

func (g *GitLab) auditFinding(ctx context.Context) (bool, Finding) {
	one := &gitlab.ListAuditEventsOptions{ListOptions: gitlab.ListOptions{PerPage: 1}}
	_, _, err := g.client.AuditEvents.ListInstanceAuditEvents(one, gitlab.WithContext(ctx))
	if err == nil {
		return true, Finding{What: "audit events", Detail: "can be read"}
	}
	return false, Finding{
		"audit events", Doubtful, "cannot be read: " + gitlabError(err).Error(),
		"GitLab Premium has them; without, shares of projects and settings of groups are noticed as facts age",
	}
}

// boundFinding says what a revocation takes.
func (g *GitLab) boundFinding(audits bool) Finding {
	poll := (2 * g.config.Poll).String()
	detail := "members, keys and projects: 2 s after the system hook; blocked users: " + poll
	if audits {
		detail += "; shares, settings of groups and banned users: " + poll + ", by audit events"
	}
	return Finding{What: "revocation", Detail: detail + "; keys that expire and anything else: " + hardLimit.String()}
}
