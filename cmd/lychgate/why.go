package main

import (
	"fmt"
	"io"

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
	var zone string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "why NAME...", Short: "Ask why an artifact is not there for you",
		Long: `Why asks the gate about objects by their names, as BitBake asks for them. Where the zone tells (tell_why), it says whether
an object was never published or whether you lack rights, and names the repositories you would have to read. Else both look the
same, and it says whom to ask.

A credential that is not good any more, and a gate that is away, are errors that say so. Exit code 3 means that at least one object is not
there for you.`,
		Example: "  lychgate why universal/4a/3c/sstate:zlib-native:...:4a3c..._populate_sysroot.tar.zst --gate https://gate.example.com",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := r.open()
			if err != nil {
				return err
			}
			return askWhy(cmd, c, zone, names, asJSON)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to ask")
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
