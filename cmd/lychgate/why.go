package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

// whyNot is an object and what the gate says of it.
type whyNot struct {
	Name string `json:"name"`
	gateway.Why
}

func newWhy() *cobra.Command {
	var r remote
	var zone, control string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "why [RECIPE... | NAME...]", Short: "Ask why something is not there for you",
		Long: `Why says why BitBake did not find objects. Given recipes, it asks the running agent what it could not hand out of them lately, and
the agent asks the gate why, with the credential that it has. Given nothing, it lists the recipes of which something was missed.

Given names of objects, as BitBake asks for them, it asks the gate itself. A name has a "/" in it, and a recipe has none.

Where the zone tells (tell_why), the gate says whether an object was never published or whether you lack rights, and names the
repositories you would have to read. Else both look the same, and it says whom to ask.

A credential that is not good any more, and a gate that is away, are errors that say so. Exit code 3 means that at least one object is not
there for you, or was not when BitBake asked because something was wrong.`,
		Example: `  lychgate why
  lychgate why busybox
  lychgate why universal/4a/3c/sstate:zlib-native:...:4a3c..._populate_sysroot.tar.zst --gate https://gate.example.com`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return missedRecipes(cmd, control), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			names := slices.DeleteFunc(slices.Clone(args), isRecipe)
			switch {
			case len(names) == 0:
				return whyRecipes(cmd, control, args, asJSON)
			case len(names) < len(args):
				return usageError("give recipes or names of objects, not both: %s is a recipe", printable(args[slices.IndexFunc(args, isRecipe)]))
			}
			c, err := r.open()
			if err != nil {
				return err
			}
			return askWhy(cmd, c, zone, names, asJSON)
		},
	}
	r.flags(cmd)
	controlFlag(cmd, &control)
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to ask about names; recipes are asked about where BitBake looked for them")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func askWhy(cmd *cobra.Command, c *client.Client, zone string, names []string, asJSON bool) error {
	var answers []whyNot
	missing := false
	for _, name := range names {
		why, err := c.Why(cmd.Context(), zone, name)
		if err != nil {
			return err
		}
		answers = append(answers, whyNot{name, why})
		missing = missing || why.State != gateway.WhyPresent
	}
	if err := writeWhy(cmd.OutOrStdout(), answers, asJSON); err != nil {
		return err
	}
	if missing {
		return &exitError{code: exitRefused}
	}
	return nil
}

func writeWhy(w io.Writer, answers []whyNot, asJSON bool) (err error) {
	if asJSON {
		return printJSON(w, answers)
	}
	for _, a := range answers {
		_, err = fmt.Fprintf(w, "%s: %s\n", printable(a.Name), whyText(a.State))
		for _, source := range a.Missing {
			_, err = fmt.Fprintf(w, "  you may not read %s: ask there for access\n", printable(source))
		}
		if a.Contact != "" {
			_, err = fmt.Fprintf(w, "  ask %s\n", printable(a.Contact))
		}
	}
	return err
}

// whyText says what a state means, and what to do.
func whyText(state string) string {
	switch state {
	case gateway.WhyPresent:
		return "it is there for you"
	case gateway.WhyAbsent:
		return "nobody published it: BitBake builds it"
	case gateway.WhyDenied:
		return "it is there, and not for you"
	case gateway.WhyUnavailable:
		return "your rights cannot be looked up now: try again in a moment"
	case gateway.WhyHidden:
		return "it is not there, or not for you; the gate does not tell which"
	}
	return printable(state)
}
