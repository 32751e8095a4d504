package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// giteaBound is what a revocation takes, in plain words.
const giteaBound = "the server posts nothing about members, teams, keys, visibility or users: what changes there is known here when it is " +
	"asked again, after 60 s for who uses it, and after 300 s at the latest"

// Check implements [Checker].
func (g *Gitea) Check(ctx context.Context, canary string) []Finding {
	found := []Finding{g.checkVersion(ctx)}
	self, token := g.checkToken(ctx)
	found = append(found, token)
	if token.Health == Broken {
		return found
	}
	found = append(found, g.checkRights(ctx, self), clockFinding(ctx, g.api, g.config.Now, "api", "v1", "version"))
	found = append(found, g.checkHook(ctx), canaryFinding(ctx, g, canary))
	if sudo, ok := g.checkSudo(ctx, canary); ok {
		found = append(found, sudo)
	}
	return append(found, Finding{
		What: "revocation", Health: Doubtful, Detail: giteaBound,
		Hint: "to be quicker, let what takes a right away also post to /v1/invalidate",
	})
}

func (g *Gitea) checkVersion(ctx context.Context) Finding {
	if err := g.exact(ctx); err != nil {
		return Finding{"version", Broken, err.Error(), "reach " + g.api.base.Host + " from here, and run Gitea 1.20 or Forgejo of the same age, or newer"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return Finding{What: "version", Detail: clip(g.version)}
}

// checkToken asks whose the token is.
func (g *Gitea) checkToken(ctx context.Context) (giteaUser, Finding) {
	var self giteaUser
	const hint = "make a token of a site administrator with the scopes read:user and read:repository"
	switch err := g.get(ctx, "", nil, &self, "user"); {
	case hasStatus(err, http.StatusUnauthorized):
		return self, Finding{"token", Broken, "the server does not know it", hint}
	case err != nil:
		return self, Finding{"token", Broken, err.Error(), hint}
	case !self.Admin:
		return self, Finding{"token", Broken, fmt.Sprintf("of %q, who is no site administrator", clip(self.Login)), hint}
	}
	return self, Finding{What: "token", Detail: fmt.Sprintf("of the site administrator %q", clip(self.Login))}
}

// checkRights tries each kind of question once.
func (g *Gitea) checkRights(ctx context.Context, self giteaUser) Finding {
	var lacks []string
	try := func(need string, query url.Values, segments ...string) {
		if err := g.get(ctx, self.Login, query, nil, segments...); err != nil && !slices.Contains(lacks, need) {
			lacks = append(lacks, need)
		}
	}
	try("read:user and [service.explore] DISABLE_USERS_PAGE = false", url.Values{"uid": {"1"}}, "users", "search")
	try("read:user", url.Values{"fingerprint": {"SHA256:" + strings.Repeat("A", 43)}}, "user", "keys")
	try("read:repository", url.Values{"private": {"true"}, "limit": {"1"}}, "repos", "search")
	if len(lacks) > 0 {
		return Finding{"scopes", Broken, "some questions are refused", "they need " + strings.Join(lacks, ", and ")}
	}
	var found struct {
		Data []giteaRepo `json:"data"`
	}
	err := g.get(ctx, "", url.Values{"private": {"true"}, "is_private": {"true"}, "limit": {"1"}}, &found, "repos", "search")
	if err != nil || len(found.Data) == 0 {
		return Finding{"scopes", Doubtful, "no private repository is visible", "if there are any, make a token that is not for public resources alone"}
	}
	return Finding{What: "scopes", Detail: "users, keys and private repositories can be asked for, in the name of others"}
}

// checkSudo shows that the header Sudo arrives, by a user who is not the token's own.
func (g *Gitea) checkSudo(ctx context.Context, canary string) (Finding, bool) {
	if canary == "" {
		return Finding{}, false
	}
	u, err := g.UserByName(ctx, canary)
	if err != nil {
		return Finding{}, false // the canary's own finding tells why
	}
	full, err := g.byID(ctx, u.ID)
	if err == nil {
		_, err = g.impersonated(ctx, full)
	}
	if err != nil {
		return Finding{"sudo", Broken, err.Error(), "let the header Sudo pass through every proxy before the server"}, true
	}
	return Finding{What: "sudo", Detail: fmt.Sprintf("the server answers in the name of %q", clip(u.Name))}, true
}

// checkHook looks for a system webhook that leads here.
func (g *Gitea) checkHook(ctx context.Context) Finding {
	hint := "add a system webhook to https://GATE" + hookPath(g.config.Name) + " for repository events, with the secret configured here"
	if g.config.HookSecret.IsZero() {
		return Finding{"hook", Doubtful, "no secret is configured, so no delivery is believed", hint}
	}
	var hooks []struct {
		Active bool     `json:"active"`
		Events []string `json:"events"`
		Config struct {
			URL string `json:"url"`
		} `json:"config"`
	}
	err := g.get(ctx, "", url.Values{"type": {"system"}}, &hooks, "admin", "hooks")
	if err != nil {
		return Finding{
			"hook", Doubtful, "the server does not say whether there is one: " + err.Error(),
			"give the token the scope read:admin, or look at the site administration",
		}
	}
	for _, h := range hooks {
		if h.Active && slices.Contains(h.Events, "repository") && isHookOf(h.Config.URL, g.config.Name) {
			return Finding{What: "hook", Detail: "a system webhook leads here"}
		}
	}
	return Finding{"hook", Doubtful, "no active system webhook leads here", hint}
}
