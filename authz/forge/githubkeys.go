package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	// githubKeysPatience bounds one reading of all keys.
	githubKeysPatience = 10 * time.Minute
	// githubKeysPages bounds the pages of one listing of keys or members.
	githubKeysPages = 10_000
	// githubKeysEach is how many keys of one member are read along with the member.
	githubKeysEach = 100
)

var _ KeyOwners = (*GitHub)(nil)

// githubKeys says whose a key probably is, by fingerprint. GitHub cannot be asked for the owner of a key, only for the keys of
// an owner.
type githubKeys struct {
	owners map[string]int64 // 0: of several
	deploy map[string]bool
}

func newGitHubKeys() *githubKeys {
	return &githubKeys{owners: make(map[string]int64), deploy: make(map[string]bool)}
}

// add notes a key. One with two owners is nobody's.
func (k *githubKeys) add(line string, owner int64) {
	fingerprint := fingerprintOf(line)
	if fingerprint == "" || owner <= 0 {
		return
	}
	if other, ok := k.owners[fingerprint]; ok && other != owner {
		owner = 0
	}
	k.owners[fingerprint] = owner
}

// KeyOwner implements [KeyOwners]. All keys of the server, for a site administrator's token, or else those of the members of the
// configured organizations are read from time to time. What they say of a key is only where to look: that the user has it is
// asked now. Without either, no key is anybody's.
func (g *GitHub) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	u, err := g.askKey(ctx, fingerprint)
	if err != nil {
		return User{}, fmt.Errorf("look up user by key %q: %w", clip(fingerprint), err)
	}
	return u, nil
}

func (g *GitHub) askKey(ctx context.Context, fingerprint string) (User, error) {
	if !isFingerprint(fingerprint) || !g.readsKeys() {
		return User{}, ErrNoUser
	}
	keys, _, err := g.allKeys(ctx, g.config.Now().Add(-2*g.config.Keys))
	if err != nil {
		return User{}, err
	}
	if keys.deploy[fingerprint] {
		return User{}, ErrDeployKey
	}
	owner := keys.owners[fingerprint]
	if owner == 0 {
		return User{}, ErrNoUser
	}
	return g.confirmKey(ctx, owner, fingerprint)
}

func (g *GitHub) readsKeys() bool { return g.config.SiteAdmin || len(g.config.Orgs) > 0 }

// allKeys returns the keys as read at oldest or later.
func (g *GitHub) allKeys(ctx context.Context, oldest time.Time) (*githubKeys, time.Time, error) {
	return g.keys.get(ctx, "all", oldest, func(ctx context.Context, _ *githubKeys) (*githubKeys, error) {
		keys := newGitHubKeys()
		if g.config.SiteAdmin {
			return keys, g.serverKeys(ctx, keys)
		}
		for _, org := range g.config.Orgs {
			if err := g.memberKeys(ctx, org, keys); err != nil {
				return nil, fmt.Errorf("read the keys of the members of %s: %w", org, err)
			}
		}
		return keys, nil
	})
}

// confirmKey asks whether the user has the key. Keys are listed by name; the name is asked for before and after, so that
// whoever takes it in between is not taken for the user.
func (g *GitHub) confirmKey(ctx context.Context, owner int64, fingerprint string) (User, error) {
	none := githubAnswer[githubAccount]{}
	before, err := g.askAccount(ctx, owner, none)
	if err != nil {
		return User{}, err
	}
	if before.value.suspended() {
		return before.value.user(), nil
	}
	found, err := g.hasKey(ctx, before.value.Login, fingerprint)
	if err != nil {
		return User{}, err
	}
	after, err := g.askAccount(ctx, owner, none)
	switch {
	case err != nil:
		return User{}, err
	case after.value.Login != before.value.Login:
		return User{}, errOtherThing
	case !found:
		return User{}, ErrNoUser
	}
	return after.value.user(), nil
}

type githubKey struct {
	Key string `json:"key"`
}

func (g *GitHub) hasKey(ctx context.Context, login, fingerprint string) (bool, error) {
	for n := 1; n <= githubKeysPages; n++ {
		page, _, err := githubGet(ctx, g, fmt.Sprintf("users/%s/keys?per_page=%d&page=%d", login, githubPage, n), githubAnswer[[]githubKey]{})
		if err != nil {
			return false, fmt.Errorf("list a user's keys: %w", err)
		}
		if page.value == nil {
			return false, fmt.Errorf("list a user's keys: %w", errOtherThing)
		}
		for _, k := range page.value {
			if fingerprintOf(k.Key) == fingerprint {
				return true, nil
			}
		}
		if !page.more {
			return false, nil
		}
	}
	return false, errors.New("list a user's keys: it does not end")
}

// githubServerKey is a key as site administrators see it. A deploy key has a repository, whoever else it names.
type githubServerKey struct {
	Key        string `json:"key"`
	User       *int64 `json:"user_id"`
	Repository *int64 `json:"repository_id"`
	Verified   *bool  `json:"verified"`
}

// serverKeys reads all keys of an Enterprise Server.
func (g *GitHub) serverKeys(ctx context.Context, keys *githubKeys) error {
	for n := 1; n <= githubKeysPages; n++ {
		page, _, err := githubGet(ctx, g, fmt.Sprintf("admin/keys?per_page=%d&page=%d", githubPage, n), githubAnswer[[]githubServerKey]{})
		if err != nil {
			return fmt.Errorf("list the server's keys: %w", err)
		}
		if page.value == nil {
			return fmt.Errorf("list the server's keys: %w", errOtherThing)
		}
		for _, k := range page.value {
			switch {
			case k.Repository != nil:
				keys.deploy[fingerprintOf(k.Key)] = true
			case k.User != nil && (k.Verified == nil || *k.Verified):
				keys.add(k.Key, *k.User)
			}
		}
		if !page.more {
			return nil
		}
	}
	return errors.New("list the server's keys: it does not end")
}

// githubMembersQuery asks for members with their keys, a page at a time: a page costs one point of 5,000 an hour.
const githubMembersQuery = `query($org: String!, $after: String, $members: Int!, $keys: Int!) {
  organization(login: $org) {
    membersWithRole(first: $members, after: $after) {
      pageInfo { hasNextPage endCursor }
      nodes { databaseId publicKeys(first: $keys) { nodes { key } } }
    }
  }
}`

// githubMembers is the answer.
type githubMembers struct {
	Data struct {
		Organization *struct {
			Members struct {
				Page struct {
					More bool   `json:"hasNextPage"`
					End  string `json:"endCursor"`
				} `json:"pageInfo"`
				Nodes []struct {
					ID   int64 `json:"databaseId"`
					Keys struct {
						Nodes []githubKey `json:"nodes"`
					} `json:"publicKeys"`
				} `json:"nodes"`
			} `json:"membersWithRole"`
		} `json:"organization"`
	} `json:"data"`
	Errors []struct {
		Type string `json:"type"`
	} `json:"errors"`
}

// memberKeys reads the keys of an organization's members.
func (g *GitHub) memberKeys(ctx context.Context, org string, keys *githubKeys) error {
	var after *string
	for range githubKeysPages {
		var answer githubMembers
		err := g.query(ctx, githubMembersQuery, map[string]any{"org": org, "after": after, "members": githubPage, "keys": githubKeysEach}, &answer)
		switch {
		case err != nil:
			return err
		case len(answer.Errors) > 0: // also beside an answer: then it is not whole
			return fmt.Errorf("GraphQL answers with an error of the type %q", clip(answer.Errors[0].Type))
		case answer.Data.Organization == nil:
			return errors.New("the token does not see the organization")
		}
		members := answer.Data.Organization.Members
		for _, m := range members.Nodes {
			for _, k := range m.Keys.Nodes {
				keys.add(k.Key, m.ID)
			}
		}
		if !members.Page.More {
			return nil
		}
		if after != nil && *after == members.Page.End {
			break
		}
		after = &members.Page.End
	}
	return errors.New("the listing does not end")
}

// query asks GraphQL. Its refusals come with the status 200, in the answer.
func (g *GitHub) query(ctx context.Context, query string, variables map[string]any, out any) error {
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	return g.graph.do(ctx, http.MethodPost, nil, header, bytes.NewReader(body), out, "graphql")
}

// keysFinding says whether keys can be read.
func (g *GitHub) keysFinding(ctx context.Context) Finding {
	if !g.readsKeys() {
		return Finding{
			"keys", Doubtful, "no organizations are configured: nobody comes in with a key of this forge",
			"set orgs, or site_admin on a server",
		}
	}
	keys, _, err := g.allKeys(ctx, g.config.Now())
	if err != nil {
		return Finding{"keys", Broken, err.Error(), "give the token " + g.keysRight()}
	}
	return Finding{What: "keys", Detail: fmt.Sprintf("%d keys of users, %d deploy keys", len(keys.owners), len(keys.deploy))}
}

func (g *GitHub) keysRight() string {
	if g.config.SiteAdmin {
		return "of a site administrator the scope site_admin"
	}
	return "the scopes read:org and read:public_key, for " + strings.Join(g.config.Orgs, " and ")
}
