package main

import (
	"crypto/tls"
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
type remote struct{ gate, caFile, tokenFile, certFile, keyFile string }

// flags adds the flags that every verb of a client has.
func (r *remote) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.gate, "gate", os.Getenv("LYCHGATE_GATE"), "`URL` of the gate; LYCHGATE_GATE names it too")
	cmd.Flags().StringVar(&r.caFile, "ca", os.Getenv("LYCHGATE_CA"), "PEM `file` that verifies the gate; LYCHGATE_CA names it too; default: the system's")
	cmd.Flags().StringVar(&r.tokenFile, "token-file", os.Getenv("LYCHGATE_TOKEN_FILE"), "`file` that holds a gate token; LYCHGATE_TOKEN_FILE names it, LYCHGATE_TOKEN holds a token itself")
	cmd.Flags().StringVar(&r.certFile, "tls-cert", "", "client certificate `file` in PEM, in place of a token; with --tls-key")
	cmd.Flags().StringVar(&r.keyFile, "tls-key", "", "`file` with the private key of --tls-cert")
}

// open returns a client, or says which flag is missing.
func (r *remote) open() (*client.Client, error) {
	if r.gate == "" {
		return nil, usageError("--gate is missing: give the gate's URL, such as https://gate.example.com:8443")
	}
	cfg := client.Config{Gate: r.gate, CAFile: r.caFile, UserAgent: "lychgate/" + version()}
	if err := r.credential(&cfg); err != nil {
		return nil, err
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return c, nil
}

// credential sets the client certificate or the token to show.
func (r *remote) credential(cfg *client.Config) error {
	if (r.certFile == "") != (r.keyFile == "") {
		return usageError("--tls-cert and --tls-key belong together")
	}
	if r.certFile != "" {
		pair, err := tls.LoadX509KeyPair(r.certFile, r.keyFile)
		if err != nil {
			return usageError("load the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
		return nil
	}
	var err error
	cfg.Token, err = r.token()
	return err
}

func (r *remote) token() (authn.Secret, error) {
	if r.tokenFile == "" {
		text := os.Getenv("LYCHGATE_TOKEN")
		if text == "" {
			return authn.Secret{}, usageError("no token: give --token-file FILE, or set LYCHGATE_TOKEN, or show a client certificate with --tls-cert and --tls-key")
		}
		return authn.NewSecret(text), nil
	}
	text, err := os.ReadFile(r.tokenFile)
	if err != nil {
		return authn.Secret{}, &exitError{code: exitUsage, err: fmt.Errorf("read the token: %w", err)}
	}
	return authn.NewSecret(strings.TrimSpace(string(text))), nil
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
