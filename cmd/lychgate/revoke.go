package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

func newRevoke() *cobra.Command {
	var r remote
	var req gateway.RevokeRequest
	var asJSON bool
	cmd := &cobra.Command{
		Use: "revoke (--user FORGE/NAME | --key FINGERPRINT | --token ID)", Short: "End what a user, a key or a token may do, at every node, now",
		Long: `Revoke ends the gate tokens of a user, and makes every node forget what it knew of the user, key or token. It returns
when every node has done so, and names those that did not answer: they trust nothing they knew by then. Open transfers and SSH
connections that are not allowed any more end within seconds.

It does not bar anybody whom the git server lets in: block the user or remove the key there, then revoke.

It is for administrators of a zone. Exit code 3 means that not every node answered.`,
		Example: "  lychgate revoke --user git.example.com/alice --gate https://gate.example.com:8443",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := splitUser(&req.Forge, &req.User); err != nil {
				return err
			}
			reply, err := ask(cmd.Context(), &r, func(ctx context.Context, c *client.Client) (gateway.RevokeReply, error) { return c.Revoke(ctx, req) })
			if err != nil {
				return err
			}
			return printRevoked(cmd, reply, asJSON)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&req.User, "user", "", "`FORGE/NAME`, or FORGE/#ID by the immutable id")
	cmd.Flags().StringVar(&req.Key, "key", "", "an SSH key's `fingerprint`, SHA256:...")
	cmd.Flags().StringVar(&req.Token, "token", "", "a gate token's `id`, as lychgate token list shows it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagsOneRequired("user", "key", "token")
	cmd.MarkFlagsMutuallyExclusive("user", "key", "token")
	return cmd
}

func newInvalidate() *cobra.Command {
	var r remote
	var req gateway.InvalidateRequest
	cmd := &cobra.Command{
		Use: "invalidate [--forge NAME] [--user FORGE/NAME] [--repo ID] [--key FINGERPRINT]", Short: "Make the gate ask git servers again",
		Long: `Invalidate makes every node forget what git servers said: of a user, a repository, a key, a whole forge, or, without any
flag, everything. Nothing is granted by it. It is for changes that a git server does not tell of, and for administrators of a zone.`,
		Example: "  lychgate invalidate --forge git.example.com --gate https://gate.example.com:8443",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := splitUser(&req.Forge, &req.User); err != nil {
				return err
			}
			_, err := ask(cmd.Context(), &r, func(ctx context.Context, c *client.Client) (struct{}, error) {
				return struct{}{}, c.Invalidate(ctx, req)
			})
			return err
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&req.Forge, "forge", "", "`name` of a forge")
	cmd.Flags().StringVar(&req.User, "user", "", "`FORGE/NAME`, or FORGE/#ID by the immutable id")
	cmd.Flags().StringVar(&req.Repo, "repo", "", "a repository's immutable `id` at the forge")
	cmd.Flags().StringVar(&req.Key, "key", "", "an SSH key's `fingerprint`, SHA256:...")
	return cmd
}

// splitUser takes the forge off "FORGE/NAME".
func splitUser(forge, user *string) error {
	if *user == "" {
		return nil
	}
	name, rest, ok := strings.Cut(*user, "/")
	if !ok || name == "" || rest == "" || *forge != "" && *forge != name {
		return usageError("--user %s: want FORGE/NAME, or FORGE/#ID", *user)
	}
	*forge, *user = name, rest
	return nil
}

func ask[T any](ctx context.Context, r *remote, f func(context.Context, *client.Client) (T, error)) (out T, err error) {
	c, err := r.open()
	if err != nil {
		return out, err
	}
	return f(ctx, c)
}

func printRevoked(cmd *cobra.Command, reply gateway.RevokeReply, asJSON bool) error {
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), reply); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "every node that answers has it, after %d ms; %d tokens ended\n", reply.Milliseconds, reply.Tokens)
	}
	if len(reply.Late) == 0 {
		return nil
	}
	return &exitError{code: exitRefused, err: fmt.Errorf("these nodes did not answer, and trust nothing until they do: %s", strings.Join(reply.Late, ", "))}
}
