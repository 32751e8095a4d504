package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
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
Bearer. It stands for one user of a forge, expires, and is kept only as a keyed hash. lychgate login gets one.

Create works on the gate's own database, on the machine that runs it. List and revoke work there too, with --config or
LYCHGATE_CONFIG, on everybody's tokens. With --gate or LYCHGATE_GATE they work on your own, at the gate. A running gate
follows within a second.`,
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
	d, err := newDecider(ctx, cfg, slog.New(slog.DiscardHandler))
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

// tokenPlace is where list and revoke work: on the database of a configuration, or at a gate.
type tokenPlace struct {
	remote
	configPath string
}

func (p *tokenPlace) flags(cmd *cobra.Command) {
	configFlag(cmd, &p.configPath)
	p.remote.flags(cmd)
}

// atGate decides by what was said closest: a flag, LYCHGATE_CONFIG, LYCHGATE_GATE.
func (p *tokenPlace) atGate(cmd *cobra.Command) (bool, error) {
	config, gate := cmd.Flags().Changed("config"), cmd.Flags().Changed("gate")
	switch {
	case config && gate:
		return false, usageError("--config is for the gate's own database and --gate for a gate: give one")
	case config || gate:
		return gate, nil
	}
	return os.Getenv("LYCHGATE_CONFIG") == "" && p.gate != "", nil
}

func newTokenList() *cobra.Command {
	var p tokenPlace
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the tokens; the secrets are not kept and cannot be shown", Args: noArgs,
		Long: `List shows the tokens of all users in the database of --config, or, with --gate, your own at the gate: where each was made, by
its note, and until when it lives.`,
		Example: "  lychgate token list --gate https://gate.example.com:8443",
		RunE: func(cmd *cobra.Command, _ []string) error {
			atGate, err := p.atGate(cmd)
			if err != nil {
				return err
			}
			if atGate {
				return p.listOwn(cmd, asJSON)
			}
			return p.listAll(cmd, asJSON)
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *tokenPlace) listAll(cmd *cobra.Command, asJSON bool) error {
	return withTokens(cmd.Context(), p.configPath, func(_ *decider, tokens *authn.Tokens) error {
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
}

func (p *tokenPlace) listOwn(cmd *cobra.Command, asJSON bool) error {
	c, err := p.open()
	if err != nil {
		return err
	}
	tokens, err := c.Tokens(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), tokens)
	}
	tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "ID\tCREATED\tEXPIRES\tTHIS ONE\tNOTE")
	for _, t := range tokens {
		this := ""
		if t.Current {
			this = "yes"
		}
		fmt.Fprintln(tab, strings.Join([]string{printable(t.ID), printable(t.Created), printable(t.Expires), this, printable(t.Note)}, "\t"))
	}
	return tab.Flush()
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
	var p tokenPlace
	var user, forgeName string
	cmd := &cobra.Command{
		Use: "revoke ID...", Short: "Revoke tokens by the ids that list shows, or all of a user",
		Long: `Revoke ends tokens: any in the database of --config, or, with --gate, your own at the gate. There, current is the id of the token
that is shown. With --user it ends all tokens of a user, those that are being made included; it works on the database.`,
		Example: "  lychgate token revoke --gate https://gate.example.com:8443 tok-x3vq7c2mzk4w\n  lychgate token revoke --user alice",
		RunE: func(cmd *cobra.Command, ids []string) error {
			atGate, err := p.atGate(cmd)
			switch {
			case err != nil:
				return err
			case user != "" && (len(ids) > 0 || atGate):
				return usageError("--user ends all tokens of a user in the gate's own database: give neither ids nor --gate with it")
			case user != "":
				return p.revokeUser(cmd, forgeName, user)
			case len(ids) == 0:
				return usageError("name at least one token id: lychgate token list shows them")
			case atGate:
				return p.revokeOwn(cmd, ids)
			}
			return withTokens(cmd.Context(), p.configPath, func(_ *decider, tokens *authn.Tokens) error {
				return revokeEach(cmd, ids, tokens.Revoke)
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&user, "user", "", "end all tokens of the user of this `name` at the forge")
	cmd.Flags().StringVar(&forgeName, "forge", "", "`name` of the forge; needed when there are several")
	return cmd
}

func (p *tokenPlace) revokeUser(cmd *cobra.Command, forgeName, user string) error {
	return withTokens(cmd.Context(), p.configPath, func(d *decider, tokens *authn.Tokens) error {
		who, err := d.findUser(cmd.Context(), forgeName, user)
		if err != nil {
			return err
		}
		n, err := tokens.RevokeAll(cmd.Context(), who)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked %d of %s\n", n, who.Key())
		return err
	})
}

func (p *tokenPlace) revokeOwn(cmd *cobra.Command, ids []string) error {
	c, err := p.open()
	if err != nil {
		return err
	}
	return revokeEach(cmd, ids, c.RevokeToken)
}

func revokeEach(cmd *cobra.Command, ids []string, revoke func(ctx context.Context, id string) error) error {
	for _, id := range ids {
		if err := revoke(cmd.Context(), id); err != nil {
			return fmt.Errorf("revoke %s: %w", printable(id), err)
		}
		fmt.Fprintln(cmd.OutOrStdout(), "revoked", id)
	}
	return nil
}
