package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/internal/config"
)

// configFlag adds --config, which LYCHGATE_CONFIG sets too.
func configFlag(cmd *cobra.Command, path *string) {
	def := os.Getenv("LYCHGATE_CONFIG")
	if def == "" {
		def = "/etc/lychgate/lychgate.yaml"
	}
	cmd.Flags().StringVarP(path, "config", "c", def, "configuration `file`; LYCHGATE_CONFIG names it too")
}

// loadConfig reads the configuration; what is wrong with it is a usage error.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return cfg, nil
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Check the configuration, or print one to start from", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheck(), newConfigExample())
	return cmd
}

func newConfigCheck() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "check", Short: "Check the configuration and every file it names", Args: noArgs,
		Long: `Check reads the configuration as serve would and reports every mistake with its line, its reason and what to
do about it. It starts nothing. Exit code 2 means that serve would refuse to start.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := loadConfig(path); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", path)
			return err
		},
	}
	configFlag(cmd, &path)
	return cmd
}

func newConfigExample() *cobra.Command {
	return &cobra.Command{
		Use: "example", Short: "Print a configuration that holds and explains every key", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		},
	}
}
