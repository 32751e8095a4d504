package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// bitbucketBound is what a revocation takes, in plain words.
const bitbucketBound = "hooks tell of names and visibility; changes of permissions, groups and keys are read from the audit log every 15 s, where the " +
	"log covers them; all else is known when it is asked again, after 60 s for who uses it, and after 300 s at the latest"

// Check implements [Checker].
func (b *Bitbucket) Check(ctx context.Context, canary string) []Finding {
	found := []Finding{b.checkToken(ctx)}
	if found[0].Health == Broken {
		return found
	}
	found = append(found, clockFinding(ctx, b.api, b.config.Now, "rest", "api", "latest", "application-properties"))
	found = append(found, b.checkHook(), b.checkLog(ctx), canaryFinding(ctx, b, canary), b.checkNobody(ctx))
	revocation := Finding{What: "revocation", Detail: bitbucketBound}
	for _, f := range found {
		if f.What == "audit log" && f.Health != Fine {
			revocation.Health, revocation.Hint = Doubtful, "see the finding about the audit log; or let what takes a right away also post to /v1/invalidate"
		}
	}
	return append(found, revocation)
}

// checkToken asks what only administrators may.
func (b *Bitbucket) checkToken(ctx context.Context) Finding {
	const hint = "make an HTTP access token of a system administrator, with the permission to administer projects"
	for what, segments := range map[string][]string{
		"list the users":        {"rest", "api", "latest", "admin", "users"},
		"list the repositories": {"rest", "api", "latest", "repos"},
		"list SSH keys":         {"rest", "ssh", "latest", "keys"},
	} {
		switch err := b.api.get(ctx, url.Values{"limit": {"1"}}, nil, segments...); {
		case hasStatus(err, http.StatusUnauthorized):
			return Finding{"token", Broken, "the server does not know it", hint}
		case hasStatus(err, http.StatusForbidden):
			return Finding{"token", Broken, "it may not " + what, hint}
		case err != nil:
			return Finding{"token", Broken, fmt.Sprintf("%s: %v", what, err), "see whether the server can be reached from here, and the url ends before /rest"}
		}
	}
	return Finding{What: "token", Detail: "of an administrator: users, repositories and keys can be listed"}
}

func (b *Bitbucket) checkHook() Finding {
	if b.config.HookSecret.IsZero() {
		return Finding{
			"hook", Doubtful, "no secret is configured, so no delivery is believed",
			"add a webhook to https://GATE" + hookPath(b.config.Name) + " to each project, for project and repository changes, with the secret configured here",
		}
	}
	return Finding{What: "hook", Detail: "a secret is configured; which projects post here, the server tells only one by one"}
}

func (b *Bitbucket) checkLog(ctx context.Context) Finding {
	log := bitbucketLog{seen: make(map[[32]byte]time.Time)}
	if err := b.readLog(ctx, &log, func(Event) {}); err != nil {
		return Finding{
			"audit log", Doubtful, err.Error(),
			"give the token's owner the right to see the audit log, and set its coverage of permissions and users to Base or more",
		}
	}
	return Finding{What: "audit log", Detail: "it can be read"}
}

// checkNobody looks whether there is a user by whom a filter that does not work is noticed.
func (b *Bitbucket) checkNobody(ctx context.Context) Finding {
	const hint = "add a user with a licence who may read nothing, and name it as nobody in the configuration"
	if b.config.Nobody == "" {
		return Finding{"nobody", Doubtful, "no user is configured by whom it would be noticed that the server ignores the filter by permission", hint}
	}
	u, err := b.UserByName(ctx, b.config.Nobody)
	switch {
	case err != nil:
		return Finding{"nobody", Broken, err.Error(), hint}
	case u.Blocked:
		return Finding{"nobody", Broken, fmt.Sprintf("the user %q is not active, so it would not be listed anyway", clip(u.Name)), hint}
	}
	return Finding{What: "nobody", Detail: fmt.Sprintf("the user %q is there", clip(u.Name))}
}
