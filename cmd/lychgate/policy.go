package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Check, test and try a policy bundle", Args: noArgs,
		Long: `A policy bundle is a directory of Rego. Without a directory these verbs look at the rule that is built in.
docs/policy-guide.md explains how to write one.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyTest(), newPolicyEval())
	return cmd
}

// bundleDir is the one optional argument of the policy verbs.
func bundleDir(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func oneDir(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError("want one bundle directory, got %d\nsee: %s --help", len(args), cmd.CommandPath())
	}
	return nil
}

func newPolicyCheck() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check [DIR]", Short: "Compile a bundle as the gate would, and say what its answers depend on", Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := policy.Check(bundleDir(args))
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printPolicyReport(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.OK {
				return &exitError{code: exitRefused}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printPolicyReport(w io.Writer, r policy.Report) error {
	for _, p := range r.Problems {
		fmt.Fprintln(w, "error:", p)
	}
	for _, p := range r.Lints {
		fmt.Fprintln(w, "note: ", p)
	}
	if !r.OK {
		_, err := fmt.Fprintf(w, "%s would not be loaded\n", r.Source)
		return err
	}
	remembered := "answers are remembered"
	if !r.Remember {
		remembered = "answers are not remembered: " + r.Why
	}
	_, err := fmt.Fprintf(w, "%s is good, revision %s\n%s\nthey depend on: %s\n", r.Source, r.Revision, remembered, list(r.Reads))
	return err
}

func newPolicyTest() *cobra.Command {
	var opts policy.TestOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use: "test [DIR]", Short: "Run the tests of a bundle, its *_test.rego", Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := policy.Test(cmd.Context(), bundleDir(args), opts)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printPolicyTests(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.OK {
				return &exitError{code: exitRefused}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&opts.Run, "run", "", "run only tests whose name matches `REGEX`")
	cmd.Flags().BoolVar(&opts.Coverage, "coverage", false, "say how much of the policy the tests reach")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printPolicyTests(w io.Writer, r policy.TestReport) error {
	for _, t := range r.Tests {
		if t.Outcome == "fail" || t.Outcome == "error" {
			fmt.Fprintf(w, "%s: %s:%d: %s %s\n%s", t.Outcome, t.File, t.Line, t.Name, t.Message, t.Output)
		}
	}
	if r.Coverage != nil {
		for _, f := range r.Coverage.Files {
			fmt.Fprintf(w, "%5.1f %% %s\n", f.Percent, f.File)
		}
		fmt.Fprintf(w, "%5.1f %% in all\n", r.Coverage.Percent)
	}
	_, err := fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", r.Passed, r.Failed, r.Skipped)
	return err
}

func newPolicyEval() *cobra.Command {
	var configPath, inputPath string
	var explain, asJSON bool
	cmd := &cobra.Command{
		Use: "eval [DIR]", Short: "Ask a bundle about one input document", Args: oneDir,
		Long: `Eval reads an input document, of the form that docs/policy-input.md describes, and prints what the bundle
decides. With --config the bundle sees what that configuration would tell it. Exit code 3 means a denial.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			input, err := readInput(cmd, inputPath)
			if err != nil {
				return err
			}
			data := map[string]any{}
			if cmd.Flags().Changed("config") {
				cfg, err := loadConfig(configPath)
				if err != nil {
					return err
				}
				data = policyData(cfg)
			}
			r, err := policy.Eval(cmd.Context(), bundleDir(args), data, input, explain)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printEvaluation(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.Allow {
				return &exitError{code: exitRefused}
			}
			return err
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVarP(&inputPath, "input", "i", "-", "input document `file`; - for standard input")
	cmd.Flags().BoolVar(&explain, "explain", false, "print how the policy came to its answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func readInput(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(path)
}

func printEvaluation(w io.Writer, r policy.EvalResult) error {
	for _, line := range r.Trace {
		fmt.Fprintln(w, line)
	}
	verdict := "deny"
	if r.Allow {
		verdict = "allow"
	}
	if r.Error != "" {
		fmt.Fprintln(w, "error:", r.Error)
	}
	for _, reason := range r.Reasons {
		fmt.Fprintln(w, "reason:", printable(reason))
	}
	_, err := fmt.Fprintf(w, "%s by %s of %s, revision %s\n", verdict, orWord(r.Rule, "no rule"), r.Source, r.Revision)
	return err
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}
