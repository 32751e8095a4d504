package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

func newAccess() *cobra.Command {
	cmd := &cobra.Command{
		Use: "access", Short: "Say who may read what, and what was built from a repository", Args: noArgs,
		Long: `Access answers questions of security teams, with the gate's own database, policy and git servers, on the machine that runs
it; the gate may be running. Nothing is recorded in the audit trail.

  lychgate access who ARTIFACT   which users may read it now
  lychgate access what USER      what a user may read now, and which repositories stand in the way of the rest
  lychgate access blast REPO     every artifact that was built from a repository, directly or through what it was built with`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAccessWho(), newAccessWhat(), newAccessBlast())
	return cmd
}

// withDecider runs f with all that is needed to decide, and closes it.
func withDecider(ctx context.Context, configPath string, f func(*decider) error) error {
	cfg, err := loadConfig(configPath)
	if err != nil {
		return err
	}
	d, err := newDecider(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(f(d), d.db.Close())
}

// reader is somebody who may read an artifact, or of whom it could not be found out.
type reader struct {
	Forge   string `json:"forge"`
	ID      string `json:"id"`
	Name    string `json:"name"`
	Verdict string `json:"verdict"` // "allow" or "unavailable"
}

func newAccessWho() *cobra.Command {
	var configPath, zone string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "who ARTIFACT", Short: "List the users who may read an artifact now",
		Long: `Who asks every git server of the configuration for its users, and decides for each as the gate would. With thousands of users
and git servers that are asked over a network it takes a while; the gate's limits for questions are kept.

A git server that cannot list its users is named. Exit code 3 means that somebody could not be decided about.`,
		Example: "  lychgate access who universal/4a/3c/sstate:zlib-native:...:4a3c..._populate_sysroot.tar.zst",
		Args:    exactArgs(1, "the artifact's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDecider(cmd.Context(), configPath, func(d *decider) error {
				readers, silent, err := d.readers(cmd.Context(), zone, args[0])
				if err != nil {
					return err
				}
				return printReaders(cmd, readers, silent, asJSON)
			})
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to look in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// readers returns who may read an artifact, sorted, and the forges that list nobody.
func (d *decider) readers(ctx context.Context, zone, name string) (readers []reader, silent []string, err error) {
	ref, err := d.ref(zone, name)
	if err != nil {
		return nil, nil, err
	}
	if err := d.published(ctx, ref); err != nil {
		return nil, nil, err
	}
	for _, f := range slices.Sorted(maps.Keys(d.providers)) {
		people, ok := d.providers[f].(forge.People)
		if !ok {
			silent = append(silent, f)
			continue
		}
		users, err := people.People(ctx)
		if errors.Is(err, errors.ErrUnsupported) {
			silent = append(silent, f)
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list the users of forge %s: %w", f, err)
		}
		slices.SortFunc(users, func(a, b forge.User) int { return cmp.Compare(a.Name, b.Name) })
		for _, u := range users {
			p := authn.Principal{Forge: f, ID: u.ID, Name: u.Name, Kind: u.Kind}
			answer, _ := d.authorizer.Decide(ctx, &authz.Request{Action: authz.Read, Door: "https", Principal: &p, Ref: ref})
			if v := answer.Decision.Verdict; v != authz.Deny {
				readers = append(readers, reader{f, u.ID, u.Name, v.String()})
			}
		}
	}
	return readers, silent, ctx.Err()
}

// published returns nil when something was published under a name, in its zone or one that it rests on.
func (d *decider) published(ctx context.Context, ref artifact.Ref) error {
	name, zone := ref.Name(), ref.Zone
	bases := map[string]string{}
	for _, z := range d.cfg.Zones {
		bases[z.Name] = z.Base
	}
	for ; ref.Zone != ""; ref.Zone = bases[ref.Zone] {
		if _, err := d.db.Lookup(ctx, ref); !errors.Is(err, provenance.ErrNoRecord) {
			return err
		}
	}
	return fmt.Errorf("%s: nothing was published under this name in zone %s", name, zone)
}

func printReaders(cmd *cobra.Command, readers []reader, silent []string, asJSON bool) error {
	open := 0
	for _, r := range readers {
		if r.Verdict != authz.Allow.String() {
			open++
		}
	}
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"readers": orNone(readers), "forges_without_list": orNone(silent)}); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		for _, r := range readers {
			fmt.Fprintf(t, "%s\t%s/#%s\t%s\n", printable(r.Name), printable(r.Forge), printable(r.ID), r.Verdict)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%d users may read it\n", len(readers)-open)
		for _, f := range silent {
			fmt.Fprintf(cmd.ErrOrStderr(), "forge %s does not list its users: use lychgate explain --as for one of them\n", f)
		}
	}
	if open > 0 {
		return &exitError{code: exitRefused, err: fmt.Errorf("%d users could not be decided about: a git server did not answer; try again", open)}
	}
	return nil
}

// orNone makes an empty list of none, for JSON.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// holding is what a user may read of one recipe.
type holding struct {
	Zone    string `json:"zone"`
	Recipe  string `json:"recipe"`
	Allowed int    `json:"allowed"`
	Denied  int    `json:"denied"`
	Open    int    `json:"unavailable"`
}

// obstacle is a source that stands in the way.
type obstacle struct {
	Source    string `json:"source"`
	Repo      string `json:"repo,omitempty"`
	Artifacts int    `json:"artifacts"` // that were built from it and are denied
}

// holdings is all that a user may read, or not.
type holdings struct {
	User      string     `json:"user"`
	Recipes   []holding  `json:"recipes"`
	Obstacles []obstacle `json:"obstacles"`
}

func newAccessWhat() *cobra.Command {
	var configPath, forgeName string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "what USER", Short: "Say what a user may read now, and what stands in the way of the rest",
		Long: `What decides about every artifact for one user, as the gate would, and counts by recipe. Behind that come the
repositories that the user may not read, with how many artifacts each keeps from the user.`,
		Example: "  lychgate access what bob",
		Args:    exactArgs(1, "a user's name at the forge"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDecider(cmd.Context(), configPath, func(d *decider) error {
				p, err := d.findUser(cmd.Context(), forgeName, args[0])
				if err != nil {
					return err
				}
				h, err := d.holdings(cmd.Context(), &p)
				if err != nil {
					return err
				}
				return printHoldings(cmd.OutOrStdout(), h, asJSON)
			})
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&forgeName, "forge", "", "`name` of the forge; needed when there are several")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (d *decider) holdings(ctx context.Context, p *authn.Principal) (holdings, error) {
	out := holdings{User: p.Key()}
	recipes, obstacles := map[[2]string]*holding{}, map[string]*obstacle{}
	for r, err := range d.db.Records(ctx) {
		if err != nil {
			return out, err
		}
		key := [2]string{r.Ref.Zone, r.Ref.Recipe}
		h := recipes[key]
		if h == nil {
			h = &holding{Zone: key[0], Recipe: key[1]}
			recipes[key] = h
		}
		answer, _ := d.authorizer.Decide(ctx, &authz.Request{Action: authz.Read, Door: "https", Principal: p, Ref: r.Ref})
		switch answer.Decision.Verdict {
		case authz.Allow:
			h.Allowed++
		case authz.Unavailable:
			h.Open++
		default:
			h.Denied++
			countObstacles(obstacles, answer.Decision.Facts)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(recipes), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		out.Recipes = append(out.Recipes, *recipes[key])
	}
	for _, o := range obstacles {
		out.Obstacles = append(out.Obstacles, *o)
	}
	slices.SortFunc(out.Obstacles, func(a, b obstacle) int {
		return cmp.Or(cmp.Compare(b.Artifacts, a.Artifacts), cmp.Compare(a.Source, b.Source))
	})
	return out, nil
}

// countObstacles counts the sources of a denied artifact that the user may not read.
func countObstacles(into map[string]*obstacle, f *authz.Facts) {
	if f == nil {
		return
	}
	for _, s := range f.Sources {
		if s.Public || s.Fact.Access == forge.Read {
			continue
		}
		name := s.Locator.String()
		if name == "" {
			name = s.Source.String()
		}
		o := into[name]
		if o == nil {
			o = &obstacle{Source: name, Repo: s.Repo}
			into[name] = o
		}
		o.Artifacts++
	}
}

func printHoldings(w io.Writer, h holdings, asJSON bool) error {
	if asJSON {
		h.Recipes, h.Obstacles = orNone(h.Recipes), orNone(h.Obstacles)
		return printJSON(w, h)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ZONE\tRECIPE\tMAY READ\tMAY NOT\tUNKNOWN")
	for _, r := range h.Recipes {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", r.Zone, printable(orWord(r.Recipe, "-")), r.Allowed, r.Denied, r.Open)
	}
	if len(h.Obstacles) > 0 {
		fmt.Fprintln(t, "\nMAY NOT READ\tARTIFACTS")
		for _, o := range h.Obstacles {
			fmt.Fprintf(t, "%s\t%d\n", printable(o.Source), o.Artifacts)
		}
	}
	return t.Flush()
}

// hit is an artifact that was built from a repository.
type hit struct {
	Zone   string    `json:"zone"`
	Name   string    `json:"name"`
	Digest string    `json:"digest"`
	Direct bool      `json:"direct"` // it is a source of its own recipe, not only of what it was built with
	Rev    string    `json:"rev,omitempty"`
	Writer string    `json:"writer"`
	Time   time.Time `json:"time"`
}

func newAccessBlast() *cobra.Command {
	var configPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "blast REPO", Short: "List every artifact that was built from a repository",
		Long: `Blast lists what was built from a repository: directly, by a recipe whose SRC_URI names it, or through something that it was
built with. It is the question after a leak, or a bad commit.

REPO is HOST/PATH as SRC_URI has it, or FORGE:ID, which finds a repository under all the names that it had.`,
		Example: "  lychgate access blast git.example.com/team/zlib",
		Args:    exactArgs(1, "a repository"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDecider(cmd.Context(), configPath, func(d *decider) error {
				hits, err := d.blast(cmd.Context(), strings.TrimSuffix(args[0], ".git"))
				if err != nil {
					return err
				}
				return printHits(cmd, hits, asJSON)
			})
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// blast returns what was built from a repository, by its id or its place. A place also finds what was recorded for the same id
// under another name.
func (d *decider) blast(ctx context.Context, repo string) ([]hit, error) {
	names := map[string]bool{repo: true}
	sets := map[source.SetID]*source.Set{}
	var all []provenance.Record
	for r, err := range d.db.Records(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		for _, c := range r.Claims {
			for _, id := range []source.SetID{c.Sources, c.Inputs} {
				if sets[id] != nil {
					continue
				}
				var err error
				if sets[id], err = d.db.Set(ctx, id); err != nil {
					return nil, err
				}
				for _, s := range sets[id].Sources() {
					if s.Repo != "" && s.Locator.String() == repo {
						names[s.Repo] = true
					}
				}
			}
		}
	}
	found := map[source.SetID]source.Source{}
	for id, set := range sets {
		for _, s := range set.Sources() {
			if names[s.Repo] || names[s.Locator.String()] {
				found[id] = s
			}
		}
	}
	var hits []hit
	for _, r := range all {
		if h, ok := hitOf(r, found); ok {
			hits = append(hits, h)
		}
	}
	return hits, nil
}

func hitOf(r provenance.Record, found map[source.SetID]source.Source) (hit, bool) {
	h := hit{Zone: r.Ref.Zone, Name: r.Ref.Name(), Digest: r.Digest.String(), Writer: r.Writer, Time: r.Time}
	ok := false
	for _, c := range r.Claims {
		if s, yes := found[c.Inputs]; yes && !ok {
			h.Rev, ok = s.Rev, true
		}
		if s, yes := found[c.Sources]; yes {
			h.Rev, h.Direct, ok = s.Rev, true, true
		}
	}
	return h, ok
}

func printHits(cmd *cobra.Command, hits []hit, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), orNone(hits))
	}
	direct := 0
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	for _, h := range hits {
		how := "through"
		if h.Direct {
			how = "direct"
			direct++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", h.Zone, how, orWord(shortRev(h.Rev), "-"), h.Name)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d artifacts, %d of them directly\n", len(hits), direct)
	return err
}
