package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/internal/client"
)

// pullFlags say what a build will want.
type pullFlags struct {
	zone                      string
	stamps, locked, nameFiles []string
	jobs                      int
	dryRun, quiet, asJSON     bool
}

func newPull() *cobra.Command {
	var r remote
	var f pullFlags
	cmd := &cobra.Command{
		Use: "pull SSTATE_DIR [NAME...]", Short: "Fetch what a build will want, before it runs",
		Long: `Pull fetches objects into a build's SSTATE_DIR on a few connections, so that the build finds them there: for a machine that goes
off line, a container image, or a far-away gate. What a build will want is known from

  --stamps       tmp/stamps, after bitbake -S none TARGET, which builds nothing
  --locked-sigs  locked-sigs.inc, as bitbake -S lockedsigs TARGET and the extensible SDK have it; any text with hashes will do
  --names        a list of objects, a line each; - is standard input
  NAME...        objects

Objects appear whole and verified. What is in the directory is left alone, so a pull that was broken off is begun again. What you may not read is
not there, as in a build, and is no fault. Exit codes: 0 all that is there for you is here, 1 it could not be done.`,
		Example: `  bitbake -S none core-image-minimal
  lychgate pull build/sstate-cache --stamps build/tmp/stamps --gate https://gate.example.com`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, r, args[0], args[1:])
		},
	}
	cmd.Flags().StringVar(&f.zone, "zone", "main", "`zone` to read from")
	cmd.Flags().StringArrayVar(&f.stamps, "stamps", nil, "`DIR` of a build's stamps (tmp/stamps), after bitbake -S none TARGET; may be repeated")
	cmd.Flags().StringArrayVar(&f.locked, "locked-sigs", nil, "`file` with hashes, such as locked-sigs.inc; may be repeated")
	cmd.Flags().StringArrayVar(&f.nameFiles, "names", nil, "`file` with the names of objects, a line each; - is standard input; may be repeated")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 8, "objects that are downloaded at once")
	cmd.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be pulled; download nothing")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the report as JSON")
	r.flags(cmd)
	return cmd
}

func (f *pullFlags) run(cmd *cobra.Command, r remote, dir string, names []string) error {
	o := client.PullOptions{Zone: f.zone, Dir: dir, Names: names, Jobs: f.jobs, DryRun: f.dryRun, Progress: progress(cmd, f.quiet)}
	if err := f.wanted(cmd, &o); err != nil {
		return err
	}
	c, err := r.open()
	if err != nil {
		return err
	}
	pulled, err := c.Pull(cmd.Context(), o)
	if pulled.Wanted == 0 {
		return err
	}
	write := pulled.WriteText
	if f.asJSON {
		write = pulled.WriteJSON
	}
	if err := errors.Join(err, write(cmd.OutOrStdout())); err != nil {
		return err
	}
	if len(pulled.Failed) > 0 {
		return &exitError{code: exitFailure}
	}
	return nil
}

// wanted reads what the flags name.
func (f *pullFlags) wanted(cmd *cobra.Command, o *client.PullOptions) error {
	for _, path := range f.nameFiles {
		lines, err := readList(cmd, path, readLines)
		if err != nil {
			return usageError("--names %s: %w", path, err)
		}
		o.Names = append(o.Names, lines...)
	}
	for _, path := range f.locked {
		hashes, err := readList(cmd, path, client.TextHashes)
		if err == nil && len(hashes) == 0 {
			err = errors.New("it holds no hash")
		}
		if err != nil {
			return usageError("--locked-sigs %s: %w", path, err)
		}
		o.Hashes = append(o.Hashes, hashes...)
	}
	if len(f.stamps) == 0 {
		return nil
	}
	hashes, err := stampHashes(cmd.Context(), f.stamps)
	o.Hashes = append(o.Hashes, hashes...)
	return err
}

func stampHashes(ctx context.Context, dirs []string) ([]string, error) {
	hashes, err := client.StampHashes(ctx, dirs)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("--stamps: %w", err)}
	}
	return hashes, nil
}

// readList reads a file, or standard input for -.
func readList(cmd *cobra.Command, path string, read func(io.Reader) ([]string, error)) ([]string, error) {
	if path == "-" {
		return read(cmd.InOrStdin())
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	list, err := read(file)
	return list, errors.Join(err, file.Close())
}
