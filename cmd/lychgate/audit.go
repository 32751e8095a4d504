package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/gateway/audit"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Read and verify the audit trail", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditTail(), newAuditVerify())
	return cmd
}

// auditDir is where the trail is: --dir, else what the configuration says.
type auditDir struct{ dir, configPath string }

func (a *auditDir) flags(cmd *cobra.Command) {
	configFlag(cmd, &a.configPath)
	cmd.Flags().StringVar(&a.dir, "dir", "", "journal `directory`; default: the configured one")
}

func (a *auditDir) path() (string, error) {
	if a.dir != "" {
		info, err := os.Stat(a.dir)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", a.dir)
		}
		return a.dir, err
	}
	cfg, err := loadConfig(a.configPath)
	if err != nil {
		return "", err
	}
	return string(cfg.Audit.Dir), nil
}

func newAuditTail() *cobra.Command {
	var where auditDir
	var opts audit.TailOptions
	var user, kind, verdict string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the last events, and with -f those to come", Args: noArgs,
		Example: "  lychgate audit tail -f --verdict deny\n  lychgate audit tail -n 0 --user bob --json | jq .object.path",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := where.path()
			if err != nil {
				return err
			}
			opts.Filter = func(e *audit.Event) bool {
				return matches(user, e.Actor.Name, e.Actor.ID) && matches(kind, e.Kind) && matches(verdict, e.Decision.Verdict)
			}
			for e, err := range audit.Tail(cmd.Context(), dir, opts) {
				if err != nil {
					return err
				}
				if err := printEvent(cmd.OutOrStdout(), &e, asJSON); err != nil {
					return err
				}
			}
			return nil
		},
	}
	where.flags(cmd)
	cmd.Flags().BoolVarP(&opts.Follow, "follow", "f", false, "go on with new events as they are written")
	cmd.Flags().IntVarP(&opts.Lines, "lines", "n", 20, "how many of the last events to begin with; 0 for all")
	cmd.Flags().StringVar(&user, "user", "", "only events of this user, by `name` or id")
	cmd.Flags().StringVar(&kind, "kind", "", "only events of this `kind`, such as decision, transfer, write.publish")
	cmd.Flags().StringVar(&verdict, "verdict", "", "only events with this `verdict`: allow, deny or unavailable")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the events as they are in the journal, a JSON object a line")
	return cmd
}

// matches reports whether want is empty or one of the values.
func matches(want string, values ...string) bool {
	for _, v := range values {
		if v == want {
			return true
		}
	}
	return want == ""
}

func printEvent(w io.Writer, e *audit.Event, asJSON bool) error {
	if asJSON {
		_, err := w.Write(append(e.AppendJSON(nil), '\n'))
		return err
	}
	words := []string{e.Time.UTC().Format(time.RFC3339), e.Kind, e.Decision.Verdict, e.Actor.Name, e.Action, e.Zone, e.Object.Path}
	if n := len(e.Objects); n > 0 {
		words = append(words, fmt.Sprintf("%d objects", n))
	}
	if e.Result.Status != 0 {
		words = append(words, fmt.Sprintf("%d, %d bytes", e.Result.Status, e.Result.Bytes))
	}
	words = append(words, strings.Join(e.Decision.Reasons, "; "), e.Detail)
	var line []string
	for _, word := range words {
		if word != "" {
			line = append(line, printable(word))
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(line, "  "))
	return err
}

func newAuditVerify() *cobra.Command {
	var where auditDir
	var opts audit.VerifyOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Recompute the audit trail and report the first thing that does not fit", Args: noArgs,
		Long: `Verify reads every event and recomputes checksums, sequence and chain. It prints the head, the hash of the last
event: keep it elsewhere and give it as --expect-head the next time, so that a trail whose end was cut off is noticed
too. Exit code 3 means that the trail was changed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := where.path()
			if err != nil {
				return err
			}
			report, err := audit.Verify(cmd.Context(), dir, opts)
			var broken *audit.BrokenError
			if errors.As(err, &broken) {
				return &exitError{code: exitRefused, err: err}
			}
			if err != nil {
				return err
			}
			return printVerified(cmd.OutOrStdout(), report, asJSON)
		},
	}
	where.flags(cmd)
	cmd.Flags().StringVar(&opts.ExpectHead, "expect-head", "", "`hash` that an earlier verify printed and that must still be in the trail")
	cmd.Flags().BoolVar(&opts.Pruned, "pruned", false, "the oldest segments were removed on purpose")
	cmd.Flags().BoolVar(&opts.Live, "live", true, "a gate may be writing: let an incomplete last line pass")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printVerified(w io.Writer, r audit.Report, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]any{
			"node": r.Node, "segments": r.Segments, "events": r.Events, "first": r.First, "last": r.Last, "head": r.Head, "torn": r.Torn,
		})
	}
	_, err := fmt.Fprintf(w, "good: %d events in %d segments, %d to %d\nhead: %s\n", r.Events, r.Segments, r.First, r.Last, r.Head)
	return err
}
