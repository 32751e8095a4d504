package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/agent"
	"github.com/lychgate/lychgate/internal/client"
)

// storedToken is the value of --sign-in for a token that somebody else keeps up.
const storedToken = "token"

// signInWays are the values of --sign-in, and what they mean.
func signInWays() map[string]client.Way {
	return map[string]client.Way{
		"auto": client.AnyWay, "ssh-agent": client.ByKeys, "ssh": client.ByDoor, "oidc": client.ByProvider, "ci": client.ByJob, storedToken: client.AnyWay,
	}
}

// agentSignIn is how an agent gets its tokens.
type agentSignIn struct{ way, key, ssh, issuer, audience, idTokenFile string }

func (s *agentSignIn) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.way, "sign-in", "", "how the agent signs in by itself: `WAY` is auto, ssh-agent, ssh, oidc or ci; token: it does not, and uses the token of --token-file or .netrc; default: token if there is one, else auto")
	cmd.Flags().StringVar(&s.key, "key", "", "sign in over https with the SSH key in `file`; a .pub file or SHA256:... picks a key of ssh-agent")
	cmd.Flags().StringVar(&s.ssh, "ssh", "", "with --sign-in ssh: the ssh door `[USER@]HOST[:PORT]`; default: the one that the gate names")
	cmd.Flags().StringVar(&s.issuer, "issuer", "", "with --sign-in oidc: `NAME` or URL of the provider, when the gate has several")
	cmd.Flags().StringVar(&s.audience, "audience", "", "what the gate calls itself, when that is another `URL` than --gate")
	cmd.Flags().StringVar(&s.idTokenFile, "id-token-file", "", "with --sign-in ci: `file` that holds the ID token, read anew for each token; LYCHGATE_ID_TOKEN holds one itself")
	ways := []string{"auto", "ssh-agent", "ssh", "oidc", "ci", storedToken}
	_ = cmd.RegisterFlagCompletionFunc("sign-in", cobra.FixedCompletions(ways, cobra.ShellCompDirectiveNoFileComp)) // an error would mean that the flag is not there
}

// credentials returns what the agent shows to the gate, and what keeps that up; nil for what nobody needs to.
func (f *agentFlags) credentials(cmd *cobra.Command, c *client.Client) (agent.Credentials, *client.Renewer, error) {
	way := f.signIn.way
	switch {
	case way == "" && f.signIn.key != "":
		way = "ssh-agent"
	case way == "" && f.hasToken(c.Host()):
		way = storedToken
	case way == "":
		way = "auto"
	}
	if _, ok := signInWays()[way]; !ok {
		return nil, nil, usageError("--sign-in %s: want auto, ssh-agent, ssh, oidc, ci or token", way)
	}
	if f.signIn.key != "" && way != "ssh-agent" {
		return nil, nil, usageError("--key signs in with an SSH key: it does not go with --sign-in %s", way)
	}
	if way == storedToken {
		stored, err := f.stored(c.Host())
		return stored, nil, err
	}
	renewer, err := client.NewRenewer(client.RenewerConfig{Client: c, Source: client.Later(f.choice(cmd, way)), Order: gateway.TokenRequest{Note: "lychgate agent, " + hostName()}})
	return renewer, renewer, err
}

// hasToken reports whether the flags, the environment or .netrc name a credential.
func (f *agentFlags) hasToken(host string) bool {
	if f.certFile != "" || f.tokenFile != "" || os.Getenv("LYCHGATE_TOKEN") != "" {
		return true
	}
	_, err := f.netrcToken(host)
	return err == nil
}

// choice is what the flags and the environment say of how to sign in. A person is asked once, if one is there.
func (f *agentFlags) choice(cmd *cobra.Command, way string) client.Choice {
	return client.Choice{
		Way: signInWays()[way], Audience: f.signIn.audience, Certificate: f.certFile,
		Key:  client.SignerOptions{Key: f.signIn.key, AgentSocket: os.Getenv("SSH_AUTH_SOCK")},
		Door: f.signIn.ssh, Program: sshProgram(), Stderr: cmd.ErrOrStderr(),
		Issuer: f.signIn.issuer, CanAsk: isTerminal(cmd), Browser: browserHere(), InBrowser: isTerminal(cmd) && browserHere() != nil, Out: cmd.ErrOrStderr(), Stays: true,
		IDTokenFile: f.signIn.idTokenFile, Env: os.Getenv,
	}
}

// stored returns the credential that the flags name. What it is, is found out when it is needed: one may sign in later.
func (f *agentFlags) stored(host string) (*agent.Stored, error) {
	switch {
	case f.certFile != "":
		return agent.NewStored("", func() (authn.Secret, error) { return authn.Secret{}, nil }), nil
	case f.tokenFile != "":
		return agent.NewStored(f.tokenFile, func() (authn.Secret, error) { return f.token(host) }), nil
	case os.Getenv("LYCHGATE_TOKEN") != "":
		return agent.NewStored("", func() (authn.Secret, error) { return f.token(host) }), nil
	}
	netrc, err := client.OpenNetrc(f.netrc, os.Getenv)
	if err != nil {
		return nil, usageError("no token, and %w", err)
	}
	return agent.NewStored(netrc.Path(), func() (authn.Secret, error) { return f.token(host) }), nil
}

// endTime is how long an agent that ends takes to have its token revoked.
const endTime = 5 * time.Second

// endToken revokes the token that the agent got for itself. Where that fails it ends by itself, as the gate's configuration says.
func endToken(r *client.Renewer) {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	_ = r.End(ctx)
}

// hostName is this machine's, in one line of ASCII.
func hostName() string {
	name, err := os.Hostname()
	plain := strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return -1
		}
		return r
	}, name)
	if err != nil || plain == "" || slices.Contains([]string{"localhost", "(none)"}, plain) {
		return "a host without a name"
	}
	return plain[:min(len(plain), 200)]
}
