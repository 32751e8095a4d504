// Command lychgate is the gate in front of a Yocto shared-state cache, and the tool that works with it.
//
// Each verb is a file here; all wiring is here.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. They are part of the interface: scripts rely on them.
const (
	exitOK      = 0
	exitFailure = 1 // it could not be done
	exitUsage   = 2 // the command line or the configuration is wrong
	exitRefused = 3 // it was done, and part of it was refused or found wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{code: exitFailure, err: err}
	}
	if e.err != nil {
		fmt.Fprintln(errOut, "lychgate:", e.err)
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		fmt.Fprintln(errOut, "lychgate: the gate's certificate is not trusted here: give the CA that signed it with --ca FILE")
	}
	return e.code
}

// exitError carries an exit code. A nil err means that everything was said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is a mistake on the command line.
func usageError(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lychgate",
		Short: "The gate in front of a Yocto shared-state cache",
		Long: `Lychgate stands in front of a Yocto shared-state cache. It knows who asks, which git repositories
each artifact was built from, and serves an artifact to those who may read all of them now.
To everybody else the artifact does not exist.

Try it:        lychgate quickstart
Sign in:       lychgate login --gate URL
Run it:        lychgate config example > lychgate.yaml; lychgate serve --config lychgate.yaml
Fill it:       lychgate push SSTATE_DIR --gate URL --zone main --key ~/.ssh/id_ed25519
Build with it: lychgate agent --gate URL; lychgate agent env >> conf/local.conf
Ask it why:    lychgate explain NAME --as USER --config lychgate.yaml

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done but something was refused.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w\nsee: %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newServe(), newQuickstart(), newAgent(), newPush(), newImport(), newVerify(), newPull(), newGet(), newPresence(), newWhy(), newLogin(), newLogout(),
		newWhoami(), newToken(), newRevoke(), newInvalidate(), newExplain(), newAccess(), newForge(), newHash(), newPolicy(), newAudit(), newConfig(), newVersion(),
	)
	return root
}

// noArgs is cobra.NoArgs, which also refuses unknown verbs, as a mistake on the command line.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError("%w\nsee: %s --help", err, cmd.CommandPath())
	}
	return nil
}

// exactArgs is cobra.ExactArgs with an error that says what is missing.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError("want %s, got %d arguments\nsee: %s --help", what, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// version returns what the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
