package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/internal/agent"
)

func newAgentJoin() *cobra.Command {
	var r remote
	var control string
	cmd := &cobra.Command{
		Use: "join", Short: "Have the shared agent of this machine serve you", Args: noArgs,
		Long: `Join hands your token to the agent that serves this machine (lychgate agent --shared). From then on it serves your builds, and
yours alone, by what you may read. It keeps the token in memory: join again when you have a new one, or when the agent was restarted.
The token is the one that lychgate login left in .netrc, or another that you name.`,
		Example: `  lychgate login --gate https://gate.example.com:8443
  lychgate agent join
  lychgate agent env >> conf/local.conf`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := sharedControl(control)
			s, err := agent.Ask(cmd.Context(), path)
			if errors.Is(err, agent.ErrNoAgent) {
				return fmt.Errorf("no agent is shared on this machine: none answers on %s; one is started with lychgate agent --shared", path)
			}
			if err != nil {
				return err
			}
			if r.gate != "" && strings.TrimRight(r.gate, "/") != strings.TrimRight(s.Gate, "/") {
				return usageError("the agent on %s is for the gate %s, and not for %s", path, printable(s.Gate), r.gate)
			}
			r.gate = s.Gate
			c, err := r.anonymous()
			if err != nil {
				return err
			}
			token, err := r.token(c.Host())
			if err != nil {
				return err
			}
			me, err := agent.AskJoin(cmd.Context(), path, token)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "joined the agent on %s as %s (%s/%s)%s\n", path, printable(me.Name), printable(me.Forge), printable(me.ID), untilText(me.Expires))
			return err
		},
	}
	r.tokenFlag(cmd)
	r.netrcFlag(cmd)
	cmd.Flags().StringVar(&r.gate, "gate", os.Getenv("LYCHGATE_GATE"), "`URL` of the gate that the agent must be for; LYCHGATE_GATE names it too; default: whichever it is for")
	joinFlag(cmd, &control)
	return cmd
}

func untilText(expires string) string {
	if expires == "" {
		return ""
	}
	return " until " + printable(expires)
}

func newAgentLeave() *cobra.Command {
	var control string
	cmd := &cobra.Command{
		Use: "leave", Short: "Have the shared agent of this machine forget your token", Args: noArgs,
		Long: `Leave has the shared agent forget the token with which you joined it. What it has promised to a build of yours can still be fetched
for two minutes. The token itself stays good: lychgate logout revokes it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.AskLeave(cmd.Context(), sharedControl(control))
		},
	}
	joinFlag(cmd, &control)
	return cmd
}

// joinFlag says where a shared agent is asked.
func joinFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "control", "", "control `socket` of the shared agent; default: "+agent.SharedControlPath)
}

func sharedControl(flag string) string {
	if flag == "" {
		return agent.SharedControlPath
	}
	return flag
}
