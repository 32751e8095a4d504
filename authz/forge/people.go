package forge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
	"golang.org/x/sync/errgroup"
)

// How each kind of forge lists its users. All of them leave Groups out, and none lists a few where it should list many: what cannot be
// read to its end is an error.

const (
	// peopleMost bounds how many users one listing may have.
	peopleMost = 200_000
	// peoplePages bounds its pages, which may be shorter than they are asked for.
	peoplePages = 20_000
)

var (
	_ People = (*GitLab)(nil)
	_ People = (*GitHub)(nil)
	_ People = (*Gitea)(nil)
	_ People = (*Bitbucket)(nil)
	_ People = (*Gerrit)(nil)
	_ People = (*Gitolite)(nil)
)

var (
	errTooMany = fmt.Errorf("there are more than %d", peopleMost)
	errEndless = errors.New("the listing does not end")
)

// crowd is the users that were listed so far, by id. One who moves to another page while pages are turned is in it once.
type crowd map[string]User

func (c crowd) add(u User) error {
	c[u.ID] = u
	if len(c) > peopleMost {
		return errTooMany
	}
	return nil
}

// people returns the users, unless listing them failed. A forge has at least the user that the gate is, or who administers it.
func (c crowd) people(err error) ([]User, error) {
	if err == nil && len(c) == 0 {
		err = errors.New("the forge lists nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	return slices.Collect(maps.Values(c)), nil
}

// People implements [People].
func (g *GitLab) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	return all.people(g.listUsers(ctx, all))
}

// listUsers follows the links from page to page. Administrators alone see everybody, and whether a user is external.
func (g *GitLab) listUsers(ctx context.Context, all crowd) error {
	opt := &gitlab.ListOptions{PerPage: 100, Pagination: "keyset", OrderBy: "id", Sort: "asc"}
	options := []gitlab.RequestOptionFunc{gitlab.WithContext(ctx)}
	for range peoplePages {
		r, err := g.client.NewRequest(http.MethodGet, "users", opt, options)
		if err != nil {
			return err
		}
		var page []gitlabUser // the library's would make false of an external that is not there
		answer, err := g.client.Do(r, &page)
		switch {
		case err != nil:
			return gitlabError(err)
		case page == nil:
			return errOtherThing
		}
		for _, u := range page {
			if err := u.checkListed(); err != nil {
				return err
			}
			if err := all.add(u.user()); err != nil {
				return err
			}
		}
		next, more := gitlab.WithNext(answer)
		if !more {
			return nil
		}
		options = []gitlab.RequestOptionFunc{gitlab.WithContext(ctx), next}
	}
	return errEndless
}

func (u gitlabUser) checkListed() error {
	switch {
	case u.ID <= 0 || u.Username == "":
		return errOtherThing
	case u.External == nil:
		return errors.New("the forge does not say whether a user is external: the token is no administrator's, who alone sees all users")
	}
	return nil
}

// People implements [People]: all users of the server, for a site administrator's token, or else the members and outside collaborators
// of the configured organizations; without either it is not supported. A listing does not say who is suspended, so each
// user is asked about.
func (g *GitHub) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	if !g.config.SiteAdmin && len(g.config.Orgs) == 0 {
		return all.people(fmt.Errorf("no organizations are configured: %w", errors.ErrUnsupported))
	}
	ids, err := g.userIDs(ctx)
	if err == nil {
		err = g.askAccounts(ctx, ids, all)
	}
	return all.people(err)
}

// userIDs returns the ids of all whom People is about.
func (g *GitHub) userIDs(ctx context.Context) (map[int64]bool, error) {
	ids := make(map[int64]bool)
	if g.config.SiteAdmin {
		return ids, g.listAccounts(ctx, ids, "users", "since", 0)
	}
	for _, org := range g.config.Orgs {
		for _, kind := range []string{"members", "outside_collaborators"} {
			if err := g.listAccounts(ctx, ids, "orgs/"+org+"/"+kind, "page", 1); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", strings.ReplaceAll(kind, "_", " "), org, err)
			}
		}
	}
	return ids, nil
}

// listAccounts adds the ids of a listing's users. Its pages are asked for by the parameter cursor.
func (g *GitHub) listAccounts(ctx context.Context, ids map[int64]bool, path, cursor string, first int) error {
	next := first
	for range peoplePages {
		page, following, err := g.accountsPage(ctx, fmt.Sprintf("%s?per_page=%d&%s=%d", path, githubPage, cursor, next))
		if err != nil {
			return err
		}
		for _, a := range page {
			if a.ID <= 0 {
				return errOtherThing
			}
			if a.check() == nil { // a server lists its organizations, too
				ids[a.ID] = true
			}
		}
		switch {
		case len(ids) > peopleMost:
			return errTooMany
		case following == 0:
			return nil
		case following <= next:
			return errEndless
		}
		next = following
	}
	return errEndless
}

// accountsPage returns one page, and the number by which the next is asked for, or 0. Whom GitHub does not show the members of an
// organization it sends on to those who have made it public.
func (g *GitHub) accountsPage(ctx context.Context, path string) (page []githubAccount, next int, err error) {
	r, err := g.client.NewRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, 0, err
	}
	reply, err := g.client.Do(r, &page)
	switch {
	case err != nil:
		return nil, 0, githubError(err)
	case strings.HasSuffix(reply.Request.URL.Path, "/public_members"):
		return nil, 0, errors.New("the token sees public members alone: use a member's with the scope read:org, or an App with members, read-only")
	case page == nil:
		return nil, 0, errOtherThing
	}
	return page, reply.NextPage, nil
}

// askAccounts asks about each user. Who is gone by now is left out.
func (g *GitHub) askAccounts(ctx context.Context, ids map[int64]bool, all crowd) error {
	var mu sync.Mutex // guards all
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(parallelQuestions)
	for id := range ids {
		asking.Go(func() error {
			u, _, err := g.account(ctx, id, g.oldest(ctx, 0))
			if errors.Is(err, ErrNoUser) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return all.add(u.user())
		})
	}
	return asking.Wait()
}

// People implements [People].
func (g *Gitea) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	err := g.listUsers(ctx, all)
	if err == nil {
		err = g.administers(ctx)
	}
	return all.people(err)
}

func (g *Gitea) listUsers(ctx context.Context, all crowd) error {
	query := url.Values{"limit": {strconv.Itoa(giteaPage)}}
	for page := range peoplePages {
		query.Set("page", strconv.Itoa(page+1))
		var found struct {
			OK   bool        `json:"ok"`
			Data []giteaUser `json:"data"`
		}
		switch err := g.get(ctx, "", query, &found, "users", "search"); {
		case err != nil:
			return err
		case !found.OK:
			return errors.New("the answer is not one")
		case len(found.Data) == 0: // a page may be shorter than was asked for, and not be the last
			return nil
		}
		for _, u := range found.Data {
			if u.ID <= 0 || u.Login == "" {
				return errOtherThing
			}
			if err := all.add(u.user()); err != nil {
				return err
			}
		}
	}
	return errEndless
}

// administers fails unless the token is a site administrator's: to others, some users are not shown, and all look inactive.
func (g *Gitea) administers(ctx context.Context) error {
	var self giteaUser
	if err := g.get(ctx, "", nil, &self, "user"); err != nil {
		return fmt.Errorf("ask whose the token is: %w", err)
	}
	if !self.Admin {
		return errors.New("the token is no site administrator's, who alone sees all users")
	}
	return nil
}

// People implements [People].
func (b *Bitbucket) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	users, err := b.everybody(ctx)
	for _, u := range users {
		if u.Name == "" {
			return all.people(errOtherThing)
		}
		if err := all.add(u.user()); err != nil {
			return all.people(err)
		}
	}
	return all.people(err)
}

// People implements [People]. Those whom the gate's account may not see are not among them.
func (g *Gerrit) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	query := url.Values{"q": {"is:active OR is:inactive"}, "o": {"DETAILS"}} // without the words, the active ones alone
	return all.people(g.queryAccounts(ctx, query, peopleMost, func(a gerritAccount) error { return all.add(a.user()) }))
}

// People implements [People]: those with a key in keydir. gitolite blocks nobody.
func (g *Gitolite) People(ctx context.Context) ([]User, error) {
	all := make(crowd)
	keys, err := g.listKeys(ctx)
	for _, owners := range keys {
		for _, name := range owners {
			if err := all.add(User{ID: name, Name: name, Kind: gitolitePerson}); err != nil {
				return all.people(err)
			}
		}
	}
	return all.people(err)
}
