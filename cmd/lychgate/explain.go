package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
)

func newExplain() *cobra.Command {
	var configPath, user, forgeName, zone string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "explain NAME --as USER", Short: "Say why a user may or may not read an artifact",
		Long: `Explain decides as the gate would, and shows what the decision rests on: the record, the sources of each statement,
what the forge says of each and how old that is, the rule that decided, and what to do next. It reads the gate's own
database and configuration, on the machine that runs it; the gate may be running. Nothing is recorded in the audit trail.

NAME is the artifact's name within the zone, percent-encoded or not. Exit code 3 means that the user may not read it.`,
		Example: "  lychgate explain universal/4a/3c/sstate:zlib-native:...:4a3c..._populate_sysroot.tar.zst --as bob",
		Args:    exactArgs(1, "the artifact's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if user == "" {
				return usageError("--as is missing: name a user of a forge")
			}
			cfg, err := loadConfig(configPath)
			if err != nil {
				return err
			}
			d, err := newDecider(cmd.Context(), cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			e, err := d.explain(cmd, zone, args[0], forgeName, user)
			if err := errors.Join(err, d.db.Close()); err != nil {
				return err
			}
			return finishExplain(cmd.OutOrStdout(), e, asJSON)
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&user, "as", "", "`name` of the user at the forge")
	cmd.Flags().StringVar(&forgeName, "forge", "", "`name` of the forge; needed when there are several")
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to look in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (d *decider) explain(cmd *cobra.Command, zone, name, forgeName, user string) (*authz.Explanation, error) {
	ref, err := d.ref(zone, name)
	if err != nil {
		return nil, err
	}
	p, err := d.findUser(cmd.Context(), forgeName, user)
	if err != nil {
		return nil, err
	}
	return d.authorizer.Explain(cmd.Context(), &authz.Request{Action: authz.Read, Door: "https", Principal: &p, Ref: ref})
}

// ref reads an artifact's name in one of the configured zones.
func (d *decider) ref(zone, name string) (artifact.Ref, error) {
	for _, z := range zoneNames(d.cfg) {
		if z.Name != zone {
			continue
		}
		ref, err := artifact.Parse(z, name)
		if err != nil {
			return ref, usageError("%w", err)
		}
		return ref, nil
	}
	return artifact.Ref{}, usageError("there is no zone %q in the configuration", zone)
}

func finishExplain(w io.Writer, e *authz.Explanation, asJSON bool) error {
	var err error
	if asJSON {
		err = printJSON(w, e)
	} else {
		err = printExplanation(w, e)
	}
	if err == nil && e.Verdict != authz.Allow.String() {
		return &exitError{code: exitRefused}
	}
	return err
}

func printExplanation(w io.Writer, e *authz.Explanation) error {
	fmt.Fprintf(w, "%s: %s (%s/%s) %s %s in zone %s\n", e.Verdict, printable(e.Principal.Name), printable(e.Principal.Forge), printable(e.Principal.ID), e.Action, e.Name, e.Zone)
	fmt.Fprintf(w, "  groups: %s  roles: %s\n", list(e.Principal.Groups), list(e.Principal.Roles))
	if r := e.Record; r != nil {
		fmt.Fprintf(w, "record: %d bytes, %s, %s in zone %s, written by %s at %s\n", r.Size, r.Digest, r.Place, r.Zone, printable(r.Writer), r.Time.UTC().Format(time.RFC3339))
	} else {
		fmt.Fprintln(w, "record: none")
	}
	for i, c := range e.Claims {
		fmt.Fprintf(w, "statement %d: signed by %s, %s: %s\n", i+1, printable(c.Signer), c.Statement, c.Verdict)
		printSources(w, "source", c.Sources)
		printSources(w, "built with", c.Inputs)
	}
	for _, reason := range e.Reasons {
		fmt.Fprintln(w, "reason:", printable(reason))
	}
	_, err := fmt.Fprintf(w, "rule: %s, policy %s\nnext step: %s\n", orWord(e.Rule, "none"), e.Policy, printable(e.NextStep))
	return err
}

func printSources(w io.Writer, label string, sources []authz.ExplainedSource) {
	for _, s := range sources {
		age := ""
		if s.FactAgeMS >= 0 {
			age = fmt.Sprintf(", %s old, from %s", (time.Duration(s.FactAgeMS) * time.Millisecond).Round(time.Millisecond), printable(s.Origin))
		}
		access := "access " + s.Access
		if s.Public {
			access = "public"
		}
		fmt.Fprintf(w, "  %s: %s %s%s%s\n", label, printable(orWord(s.Source, string(s.Type)+" ("+s.Reason+")")), shortRev(s.Rev), access, age)
	}
}

// shortRev prints as much of a revision as people compare.
func shortRev(rev string) string {
	if rev == "" {
		return ""
	}
	return printable(rev[:min(len(rev), 12)]) + " "
}
