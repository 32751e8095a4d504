package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/internal/agent"
)

// watchEvery is how often a live view is drawn.
const watchEvery = time.Second

func newAgentStatus() *cobra.Command {
	var control string
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the agent is doing", Args: noArgs,
		Long: `Status asks the running agent: what was found and what was not, how much was fetched, how long it took, whether the gate answers
and takes the token, and what is wrong. Exit code 3 means that the gate is lost, or that there is no token or it is refused; warnings
alone are exit code 0.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				s, err := askAgent(cmd.Context(), control)
				if err != nil {
					return err
				}
				if err := showAgent(cmd.OutOrStdout(), s, asJSON, watch); err != nil {
					return err
				}
				if !watch {
					return faultOf(s)
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(watchEvery):
				}
			}
		},
	}
	controlFlag(cmd, &control)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "print it again every second, until an interrupt")
	return cmd
}

// faultOf is exit code 3 when something is wrong now.
func faultOf(s agent.Status) error {
	if s.GateState == "lost" || s.TokenFault != "" {
		return &exitError{code: exitRefused}
	}
	return nil
}

func showAgent(w io.Writer, s agent.Status, asJSON, again bool) error {
	if asJSON {
		return printJSON(w, s)
	}
	var text strings.Builder
	if again {
		text.WriteString("\x1b[H\x1b[2J") // home, and clear
	}
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(table, name+"\t"+format+"\n", args...) }
	row("gate", "%s: %s", printable(s.Gate), stateOf(s.GateState, s.GateFault))
	row("token", "%s", stateOf(s.TokenState, s.TokenFault)+whoText(s))
	row("listens", "%s", strings.Join(s.Listen, " ")+hashPlaces(s))
	row("since", "%s", s.Started.Local().Format(time.DateTime))
	row("presence", "%d hits, %d misses, %d unanswered; %d names in %d batches, %d remembered", s.Hits, s.Misses, s.Unanswered, s.Asked, s.Batches, s.Remembered)
	row("latency", "BitBake %s, gate %s (median / 99 %%)", latencyText(s.Presence), latencyText(s.Batch))
	row("objects", "%d handed out, %d not there, %d failed; %d out of the cache", s.Downloads, s.Withheld, s.Failed, s.CacheHits)
	if s.Verifying {
		row("verified", "%d were withheld, since nobody you trust vouches for them", s.Unverified)
	}
	row("bytes", "%s fetched, %s handed out, %s held", sizeText(s.Fetched), sizeText(s.Served), sizeText(s.Spooled))
	if len(s.Hash) > 0 {
		row("hashes", "%d asked, %d of them without an answer of the gate", s.HashAsked, s.HashNeutral)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, warning := range s.Warnings {
		text.WriteString(warningText(warning))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func stateOf(state, fault string) string {
	if fault == "" {
		return state
	}
	return state + ": " + printable(fault)
}

// whoText says whose the token is, and until when.
func whoText(s agent.Status) (text string) {
	if s.Who != "" {
		text = ", of " + printable(s.Who)
	}
	if !s.Until.IsZero() {
		text += ", until " + s.Until.Local().Format(time.DateTime)
	}
	return text
}

func hashPlaces(s agent.Status) (text string) {
	for _, zone := range slices.Sorted(maps.Keys(s.Hash)) {
		text += ", hash " + zone + " on " + s.Hash[zone]
	}
	return text
}

func warningText(w agent.Warning) string {
	state := ""
	if w.Over {
		state = " (over)"
	}
	return fmt.Sprintf("! %s, %d times%s: %s\n", w.Last.Local().Format(time.TimeOnly), w.Count, state, printable(w.Text))
}

func latencyText(l agent.Latency) string {
	round := func(seconds float64) time.Duration {
		return time.Duration(seconds * float64(time.Second)).Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%v / %v", round(l.Median), round(l.P99))
}

func sizeText(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
