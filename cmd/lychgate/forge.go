package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/config"
)

func newForge() *cobra.Command {
	cmd := &cobra.Command{
		Use: "forge", Short: "See whether a git server can be asked, and what to install there", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newForgeCheck(),
		newForgeText("gitolite-helper", "Print the program that answers for a gitolite server", forge.GitoliteHelper()),
		newForgeText("gitolite-trigger", "Print the trigger that tells the gate of changes at a gitolite server", forge.GitoliteTrigger()),
	)
	return cmd
}

// newForgeText prints something that is installed at a git server. Its first lines say how.
func newForgeText(name, short, text string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: noArgs,
		Long: short + ". Its first lines say how it is installed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
}

func newForgeCheck() *cobra.Command {
	var configPath, canary string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check NAME", Short: "Say whether a git server can be asked, and what is missing",
		Long: `Check asks a git server of the configuration, as the gate does: whether it can be reached, what the gate's token may
do, whether the clocks agree, whether the server tells of changes, and how long a revocation there takes to be known here.

With --canary it also looks a user up whom you know to be well.

Exit code 3 means that permissions cannot be learnt from it.`,
		Example: "  lychgate forge check git.example.com --canary alice",
		Args:    exactArgs(1, "the forge's name in the configuration"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(configPath)
			if err != nil {
				return err
			}
			findings, err := checkForge(cmd.Context(), cfg, args[0], canary)
			if err != nil {
				return err
			}
			return printFindings(cmd.OutOrStdout(), findings, asJSON)
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&canary, "canary", "", "`name` of a user who exists and is not blocked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// checkPatience bounds the whole check of a forge.
const checkPatience = time.Minute

func checkForge(ctx context.Context, cfg *config.Config, name, canary string) ([]forge.Finding, error) {
	d, err := newDecider(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	p, ok := d.providers[name]
	if !ok {
		return nil, errors.Join(usageError("there is no forge %q in the configuration", name), d.db.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	findings := []forge.Finding{{What: "forge", Health: forge.Doubtful, Detail: "this type of forge cannot be checked", Hint: "try lychgate explain"}}
	if c, ok := p.(forge.Checker); ok {
		findings = c.Check(ctx, canary)
	}
	return findings, d.db.Close()
}

// healthWords are what people read.
var healthWords = map[forge.Health]string{forge.Fine: "ok", forge.Doubtful: "warning", forge.Broken: "broken"}

// findingReport is a finding in JSON.
type findingReport struct {
	What   string `json:"what"`
	Health string `json:"health"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

func printFindings(w io.Writer, findings []forge.Finding, asJSON bool) error {
	reports := make([]findingReport, len(findings))
	broken := false
	for i, f := range findings {
		reports[i] = findingReport{f.What, healthWords[f.Health], f.Detail, f.Hint}
		broken = broken || f.Health == forge.Broken
	}
	var err error
	if asJSON {
		err = printJSON(w, reports)
	} else {
		err = printReports(w, reports)
	}
	if err == nil && broken {
		return &exitError{code: exitRefused}
	}
	return err
}

func printReports(w io.Writer, reports []findingReport) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range reports {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Health, printable(r.What), printable(r.Detail))
		if r.Hint != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", printable(r.Hint))
		}
	}
	return t.Flush()
}
