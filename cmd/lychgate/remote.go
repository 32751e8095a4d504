package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

// remote is how a verb reaches a gate.
type remote struct{ gate, caFile, tokenFile, certFile, keyFile, netrc string }

// flags adds the flags that every verb of a client has.
func (r *remote) flags(cmd *cobra.Command) {
	r.whereFlags(cmd)
	r.tokenFlag(cmd)
	cmd.Flags().StringVar(&r.certFile, "tls-cert", "", "client certificate `file` in PEM, in place of a token; with --tls-key")
	cmd.Flags().StringVar(&r.keyFile, "tls-key", "", "`file` with the private key of --tls-cert")
}

func (r *remote) netrcFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.netrc, "netrc", "", "`file` in place of ~/.netrc; NETRC names it too")
}

// tokenFlag adds the flag that says which token.
func (r *remote) tokenFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.tokenFile, "token-file", os.Getenv("LYCHGATE_TOKEN_FILE"), "`file` that holds a gate token; LYCHGATE_TOKEN_FILE names it, LYCHGATE_TOKEN holds a token itself; default: the entry of the gate's host in .netrc, as lychgate login writes it")
}

// whereFlags adds the flags that say which gate, and which .netrc.
func (r *remote) whereFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.gate, "gate", os.Getenv("LYCHGATE_GATE"), "`URL` of the gate; LYCHGATE_GATE names it too")
	cmd.Flags().StringVar(&r.caFile, "ca", os.Getenv("LYCHGATE_CA"), "PEM `file` that verifies the gate; LYCHGATE_CA names it too; default: the system's")
	r.netrcFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("gate", cobra.NoFileCompletions) // an error would mean that the flag is not there
}

// open returns a client with a credential, or says which flag is missing.
func (r *remote) open() (*client.Client, error) {
	c, err := r.anonymous()
	if err != nil || r.certFile != "" {
		return c, err
	}
	token, err := r.token(c.Host())
	if err != nil {
		return nil, err
	}
	return c.As(token), nil
}

// anonymous returns a client without a token. It shows the client certificate, if there is one.
func (r *remote) anonymous() (*client.Client, error) {
	if r.gate == "" {
		return nil, usageError("--gate is missing: give the gate's URL, such as https://gate.example.com:8443, or set LYCHGATE_GATE")
	}
	if (r.certFile == "") != (r.keyFile == "") {
		return nil, usageError("--tls-cert and --tls-key belong together")
	}
	c, err := client.New(client.Config{Gate: r.gate, CAFile: r.caFile, CertFile: r.certFile, KeyFile: r.keyFile, UserAgent: "lychgate/" + version()})
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return c, nil
}

// token finds the token to show: in a file, in the environment, in .netrc.
func (r *remote) token(host string) (authn.Secret, error) {
	if r.tokenFile != "" {
		text, err := os.ReadFile(r.tokenFile)
		if err != nil {
			return authn.Secret{}, &exitError{code: exitUsage, err: fmt.Errorf("read the token: %w", err)}
		}
		return authn.NewSecret(strings.TrimSpace(string(text))), nil
	}
	if text := os.Getenv("LYCHGATE_TOKEN"); text != "" {
		return authn.NewSecret(text), nil
	}
	return r.netrcToken(host)
}

func (r *remote) netrcToken(host string) (authn.Secret, error) {
	netrc, err := client.OpenNetrc(r.netrc, os.Getenv)
	if err != nil {
		return authn.Secret{}, usageError("no token, and %w", err)
	}
	entry, ok, err := netrc.Lookup(host)
	switch {
	case err != nil:
		return authn.Secret{}, usageError("no token, and %w", err)
	case !ok:
		return authn.Secret{}, usageError("no token for %s: run lychgate login --gate %s, or give --token-file FILE, or set LYCHGATE_TOKEN, "+
			"or show a client certificate with --tls-cert and --tls-key", host, r.gate)
	case !client.IsGateToken(entry.Password):
		return authn.Secret{}, usageError("no token: what %s holds for %s is no gate token, and is not shown to the gate: run lychgate login --gate %s",
			netrc.Path(), host, r.gate)
	}
	return entry.Password, nil
}

func newWhoami() *cobra.Command {
	var r remote
	var asJSON bool
	cmd := &cobra.Command{
		Use: "whoami", Short: "Show who the gate takes you for", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := r.open()
			if err != nil {
				return err
			}
			me, err := c.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), me)
			}
			return printWhoami(cmd, me)
		},
	}
	r.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printWhoami(cmd *cobra.Command, me gateway.Whoami) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s (%s/%s, %s)\ngroups: %s\nroles:  %s\n",
		printable(me.Name), printable(me.Forge), printable(me.ID), printable(me.Kind), list(me.Groups), list(me.Roles))
	if me.Expires != "" && err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "until:  %s\n", printable(me.Expires))
	}
	return err
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return printable(strings.Join(words, " "))
}

func newGet() *cobra.Command {
	var r remote
	var zone, output string
	cmd := &cobra.Command{
		Use: "get NAME", Short: "Download one artifact and verify its digest",
		Long: `Get downloads the object NAME of a zone, compares its bytes with the digest that the gate has on record, and
puts it into the current directory, or where --output says. Something that is denied looks like something that is not there.`,
		Args: exactArgs(1, "the artifact's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := r.open()
			if err != nil {
				return err
			}
			if output == "" {
				output = args[0][strings.LastIndexByte(args[0], '/')+1:]
			}
			return download(cmd, c, zone, args[0], output)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to read from")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write; - for standard output")
	return cmd
}

// download writes a whole, verified object or no file at all.
func download(cmd *cobra.Command, c *client.Client, zone, name, output string) error {
	if output == "-" {
		_, _, err := c.Get(cmd.Context(), zone, name, cmd.OutOrStdout())
		return err
	}
	if info, err := os.Stat(output); err == nil && !info.Mode().IsRegular() {
		return usageError("--output %s is there and is no regular file", output)
	}
	part := output + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	digest, size, err := c.Get(cmd.Context(), zone, name, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, output); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %d bytes  %s\n", output, size, digest)
	return err
}

func newPresence() *cobra.Command {
	var r remote
	var zone string
	cmd := &cobra.Command{
		Use: "presence NAME...", Short: "Ask which artifacts are there for you",
		Long: `Presence asks for all names in one request and prints "1 NAME" or "0 NAME" for each. With the single name - it reads
names from standard input, one a line. Exit code 3 means that at least one is not there for you.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := r.open()
			if err != nil {
				return err
			}
			if len(names) == 1 && names[0] == "-" {
				if names, err = readLines(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			if len(names) == 0 {
				return usageError("name at least one artifact, or - to read names from standard input")
			}
			return printPresence(cmd, c, zone, names)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&zone, "zone", "main", "`zone` to ask")
	return cmd
}

func printPresence(cmd *cobra.Command, c *client.Client, zone string, names []string) error {
	present, err := c.Presence(cmd.Context(), zone, names)
	if err != nil {
		return err
	}
	missing := false
	for i, name := range names {
		digit := 1
		if !present[i] {
			digit, missing = 0, true
		}
		fmt.Fprintln(cmd.OutOrStdout(), digit, printable(name))
	}
	if missing {
		return &exitError{code: exitRefused}
	}
	return nil
}
