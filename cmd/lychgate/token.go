package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Create, list and revoke gate tokens", Args: noArgs,
		Long: `A gate token is a password made for .netrc: BitBake and wget send it as Basic, everything else may send it as
Bearer. It stands for one user of a forge, expires, and is kept only as a keyed hash.

These verbs work on the gate's own database, on the machine that runs it. A running gate follows within a second.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenRevoke())
	return cmd
}

// withTokens runs f with the tokens of the configured database.
func withTokens(ctx context.Context, configPath string, f func(*decider, *authn.Tokens) error) error {
	cfg, err := loadConfig(configPath)
	if err != nil {
		return err
	}
	d, err := newDecider(ctx, cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	tokens, err := newTokens(cfg, d.db)
	if err == nil {
		err = f(d, tokens)
	}
	return errors.Join(err, d.db.Close())
}

func newTokenCreate() *cobra.Command {
	var configPath, user, forgeName, note string
	var ttl time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use: "create --user NAME", Short: "Create a token and print it, once",
		Example: "  lychgate token create --user alice --ttl 720h --note 'build host 7'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" {
				return usageError("--user is missing: name a user of a forge")
			}
			return withTokens(cmd.Context(), configPath, func(d *decider, tokens *authn.Tokens) error {
				p, err := d.findUser(cmd.Context(), forgeName, user)
				if err != nil {
					return err
				}
				secret, info, err := tokens.Mint(cmd.Context(), authn.Order{Principal: p, TTL: ttl, Note: note})
				if err != nil {
					return err
				}
				return printToken(cmd.OutOrStdout(), secret, info, asJSON)
			})
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&user, "user", "", "`name` of the user at the forge")
	cmd.Flags().StringVar(&forgeName, "forge", "", "`name` of the forge; needed when there are several")
	cmd.Flags().StringVar(&note, "note", "", "`text` to recognise the token by")
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it lives")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// findUser looks a user up by name at one forge.
func (d *decider) findUser(ctx context.Context, forgeName, name string) (authn.Principal, error) {
	if forgeName == "" {
		if len(d.cfg.Forges) != 1 {
			return authn.Principal{}, usageError("there are %d forges: say which with --forge", len(d.cfg.Forges))
		}
		forgeName = d.cfg.Forges[0].Name
	}
	u, err := d.forges.UserByName(ctx, forgeName, name)
	if errors.Is(err, forge.ErrNoUser) {
		return authn.Principal{}, fmt.Errorf("the forge %s has no user %q: add the user there, or check the name", forgeName, name)
	}
	if err != nil {
		return authn.Principal{}, err
	}
	return authn.Principal{Forge: forgeName, ID: u.ID, Name: u.Name, Kind: u.Kind}, nil
}

func printToken(w io.Writer, secret authn.Secret, info authn.TokenInfo, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]string{"token": secret.Reveal(), "id": info.ID, "user": info.Principal.Key(), "expires": info.Expires.UTC().Format(time.RFC3339)})
	}
	_, err := fmt.Fprintln(w, secret.Reveal())
	return err
}

// tokenLine is one token as list prints it.
type tokenLine struct {
	ID      string `json:"id"`
	User    string `json:"user"`
	Name    string `json:"name"`
	Created string `json:"created"`
	Expires string `json:"expires"`
	Note    string `json:"note"`
}

func newTokenList() *cobra.Command {
	var configPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the tokens; the secrets are not kept and cannot be shown", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withTokens(cmd.Context(), configPath, func(_ *decider, tokens *authn.Tokens) error {
				infos, err := tokens.List(cmd.Context())
				if err != nil {
					return err
				}
				lines := make([]tokenLine, len(infos))
				for i, t := range infos {
					lines[i] = tokenLine{
						ID: t.ID, User: t.Principal.Key(), Name: t.Principal.Name, Note: t.Note,
						Created: t.Created.UTC().Format(time.RFC3339), Expires: t.Expires.UTC().Format(time.RFC3339),
					}
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), lines)
				}
				return printTokens(cmd.OutOrStdout(), lines)
			})
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printTokens(w io.Writer, lines []tokenLine) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "ID\tUSER\tNAME\tCREATED\tEXPIRES\tNOTE")
	for _, l := range lines {
		fmt.Fprintln(tab, strings.Join([]string{l.ID, l.User, l.Name, l.Created, l.Expires, printable(l.Note)}, "\t"))
	}
	return tab.Flush()
}

// printable keeps what others wrote from moving the cursor or forging a column.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

func newTokenRevoke() *cobra.Command {
	var configPath string
	cmd := &cobra.Command{
		Use: "revoke ID...", Short: "Revoke tokens by the ids that list shows",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 {
				return usageError("name at least one token id: lychgate token list shows them")
			}
			return withTokens(cmd.Context(), configPath, func(_ *decider, tokens *authn.Tokens) error {
				for _, id := range ids {
					if err := tokens.Revoke(cmd.Context(), id); err != nil {
						return fmt.Errorf("revoke %s: %w", printable(id), err)
					}
					fmt.Fprintln(cmd.OutOrStdout(), "revoked", id)
				}
				return nil
			})
		},
	}
	configFlag(cmd, &configPath)
	return cmd
}
