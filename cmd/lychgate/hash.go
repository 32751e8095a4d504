package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/sqldb"
)

func newHash() *cobra.Command {
	cmd := &cobra.Command{
		Use: "hash", Short: "Take over, count, clean and export what hash equivalence keeps",
		Long: `Hash works on the database of hash equivalence, on the gate's machine and as the gate's user. The gate may run or not: one that
runs follows within a second.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newHashImport(), newHashStats(), newHashGC(), newHashExport())
	return cmd
}

// hashes is the database that a command works on.
type hashes struct {
	*sqldb.Hashes
	cfg     *config.Config
	records *sqldb.DB
}

// openHashDatabase opens the databases that a configuration names. What is published keeps its mapping, as in the gate.
func openHashDatabase(ctx context.Context, configPath string) (*hashes, error) {
	cfg, err := loadConfig(configPath)
	if err != nil {
		return nil, err
	}
	records, err := sqldb.Open(ctx, sqldb.Config{Path: cfg.Database.Value})
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	h, err := openMappings(ctx, cfg, records, nil)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	return &hashes{h, cfg, records}, nil
}

func (h *hashes) close() error { return errors.Join(h.Close(), h.records.Close()) }

// following runs do while the records are kept up to date.
func (h *hashes) following(ctx context.Context, do func(context.Context) error) error {
	follow, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.records.Run(follow) }()
	err := do(ctx)
	stop()
	return errors.Join(err, <-ended)
}

// zone checks that a zone is one of the configuration.
func (h *hashes) zone(name string) error {
	if slices.ContainsFunc(h.cfg.Zones, func(z config.Zone) bool { return z.Name == name }) {
		return nil
	}
	return usageError("no zone is named %q in the configuration", name)
}

// onHashes runs do with the databases open. What a gate that runs publishes meanwhile is followed.
func onHashes(cmd *cobra.Command, configPath, zone string, do func(ctx context.Context, h *hashes) error) error {
	h, err := openHashDatabase(cmd.Context(), configPath)
	if err != nil {
		return err
	}
	if zone != "" {
		err = h.zone(zone)
	}
	if err == nil {
		err = h.following(cmd.Context(), func(ctx context.Context) error { return do(ctx, h) })
	}
	return errors.Join(err, h.close())
}

// hashFlags adds what all commands have.
func hashFlags(cmd *cobra.Command, configPath, zone *string) {
	configFlag(cmd, configPath)
	if zone != nil {
		cmd.Flags().StringVar(zone, "zone", "main", "`zone` to work on")
	}
}

func newHashImport() *cobra.Command {
	var configPath, zone string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Take over the mappings of another server",
		Long: `Import reads the SQLite database of a bitbake-hashserv, or what lychgate hash export wrote; "-" is standard input. It may
run again, and takes what is new: the first mapping of a task stays. Rows that make no sense are counted and left out, and accounts are not
taken over. Nobody sees an imported mapping before an artifact is published under it.

Exit code 3 means that some rows made no sense.`,
		Example: "  lychgate hash import /srv/hashserv/hashserv.db --zone main",
		Args:    exactArgs(1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onHashes(cmd, configPath, zone, func(ctx context.Context, h *hashes) error {
				bar := hashProgress(cmd.ErrOrStderr())
				counts, err := importHashes(ctx, h, args[0], zone, cmd.InOrStdin(), bar)
				_ = bar.Finish()
				if err != nil {
					return err
				}
				return printImported(cmd.OutOrStdout(), counts, asJSON)
			})
		},
	}
	hashFlags(cmd, &configPath, &zone)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// hashProgress shows a person how many rows went by.
func hashProgress(w io.Writer) *progressbar.ProgressBar {
	visible := false
	if f, ok := w.(*os.File); ok {
		visible = term.IsTerminal(int(f.Fd()))
	}
	return progressbar.NewOptions64(-1, progressbar.OptionSetWriter(w), progressbar.OptionSetVisibility(visible), progressbar.OptionSetDescription("rows"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionClearOnFinish())
}

// sqliteMagic is what a SQLite database begins with.
const sqliteMagic = "SQLite format 3\x00"

// importHashes reads a database or exported lines, whichever the file holds.
func importHashes(ctx context.Context, h *hashes, path, zone string, stdin io.Reader, bar *progressbar.ProgressBar) (sqldb.ImportCounts, error) {
	progress := func(c sqldb.ImportCounts) { _ = bar.Set64(c.Taken + c.Kept + c.Invalid) }
	if path == "-" {
		return h.Import(ctx, zone, stdin, progress)
	}
	f, err := os.Open(path)
	if err != nil {
		return sqldb.ImportCounts{}, err
	}
	defer f.Close()
	head := make([]byte, len(sqliteMagic))
	if _, err := io.ReadFull(f, head); err == nil && bytes.Equal(head, []byte(sqliteMagic)) {
		return h.ImportReference(ctx, path, zone, progress)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return sqldb.ImportCounts{}, err
	}
	return h.Import(ctx, zone, f, progress)
}

func printImported(w io.Writer, c sqldb.ImportCounts, asJSON bool) error {
	var err error
	if asJSON {
		err = printJSON(w, map[string]int64{"taken": c.Taken, "kept": c.Kept, "invalid": c.Invalid})
	} else {
		_, err = fmt.Fprintf(w, "%d taken, %d were there, %d make no sense\n", c.Taken, c.Kept, c.Invalid)
	}
	if err == nil && c.Invalid > 0 {
		return &exitError{code: exitRefused}
	}
	return err
}

func newHashStats() *cobra.Command {
	var configPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "stats", Short: "Count mappings and reports, and what they take",
		Long: `Stats counts what each zone holds and what that takes on the disk. The memory is that of this command, which is the gate's own
once it has read the database.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onHashes(cmd, configPath, "", func(ctx context.Context, h *hashes) error {
				s, err := h.Stats(ctx)
				if err != nil {
					return err
				}
				return printHashStats(cmd.OutOrStdout(), s, asJSON)
			})
		},
	}
	hashFlags(cmd, &configPath, nil)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// hashStats is what stats prints as JSON. Sizes are in bytes.
type hashStats struct {
	Zones         []hashZoneStats `json:"zones"`
	Texts         int64           `json:"texts"`
	TextBytes     int64           `json:"text_bytes"`
	FileBytes     int64           `json:"file_bytes"`
	FreeBytes     int64           `json:"free_bytes"`
	BytesPerEntry float64         `json:"bytes_per_entry"`
	MemoryBytes   int64           `json:"memory_bytes"`
	InMemory      int64           `json:"in_memory"`
	Complete      bool            `json:"complete"`
}

type hashZoneStats struct {
	Name     string `json:"name"`
	Mappings int64  `json:"mappings"`
	Rows     int64  `json:"rows"`
	Mark     string `json:"mark,omitempty"`
}

func printHashStats(w io.Writer, s sqldb.HashStats, asJSON bool) error {
	if asJSON {
		out := hashStats{
			Zones: []hashZoneStats{}, Texts: s.Texts, TextBytes: s.TextBytes, FileBytes: s.FileBytes, FreeBytes: s.FreeBytes,
			BytesPerEntry: s.BytesPerEntry, MemoryBytes: s.Memory, InMemory: s.InMemory, Complete: s.Complete,
		}
		for _, z := range s.Zones {
			out.Zones = append(out.Zones, hashZoneStats(z))
		}
		return printJSON(w, out)
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ZONE\tMAPPINGS\tREPORTS\tMARK")
	for _, z := range s.Zones {
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", z.Name, z.Mappings, z.Rows, z.Mark)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	all := "all of them"
	if !s.Complete {
		all = "not all: the rest is read from the disk, see hash.memory"
	}
	_, err := fmt.Fprintf(w, `
on the disk   %s, %s of it free; %.0f bytes an entry
texts         %d, in %s
in memory     %d mappings in %s; %s
`, config.Size(s.FileBytes), config.Size(s.FreeBytes), s.BytesPerEntry, s.Texts, config.Size(s.TextBytes), s.InMemory, config.Size(s.Memory), all)
	return err
}

func newHashGC() *cobra.Command {
	var configPath, zone string
	var age time.Duration
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove mappings that nobody needs any more",
		Long: `GC removes the mappings of a zone that were not reported for some time and under which nothing is published, and then reports of
that age of tasks that are mapped to nothing. It works in small steps: a gate that runs goes on answering.

What is published in the zone or its bases keeps its mapping, however old. In a zone that answers as the reference server does, nothing is
kept for that.`,
		Example: "  lychgate hash gc --zone main --older-than 720h --dry-run",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if age < 0 {
				return usageError("--older-than %v: want an age such as 720h", age)
			}
			return onHashes(cmd, configPath, zone, func(ctx context.Context, h *hashes) error {
				mappings, rows, err := h.Zone(zone).Expire(ctx, time.Now().Add(-age), dry)
				if err != nil {
					return fmt.Errorf("%w (%d mappings and %d reports are removed already; run it again)", err, mappings, rows)
				}
				return printExpired(cmd.OutOrStdout(), mappings, rows, dry, asJSON)
			})
		},
	}
	hashFlags(cmd, &configPath, &zone)
	cmd.Flags().DurationVar(&age, "older-than", 720*time.Hour, "`age` since the last report")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only count")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printExpired(w io.Writer, mappings, rows int64, dry, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Mappings int64 `json:"mappings"`
			Reports  int64 `json:"reports"`
			Dry      bool  `json:"dry_run"`
		}{mappings, rows, dry})
	}
	removed := "removed"
	if dry {
		removed = "would be removed, and the reports of the mappings with them"
	}
	_, err := fmt.Fprintf(w, "%d mappings and %d reports %s\n", mappings, rows, removed)
	return err
}

func newHashExport() *cobra.Command {
	var configPath, zone, out string
	cmd := &cobra.Command{
		Use: "export", Short: "Write mappings and reports as JSON, a line each",
		Long: `Export writes what a zone holds, for lychgate hash import at another gate or for other tools. The gate may run meanwhile: what is
written is what there was at one moment, table by table.`,
		Example: "  lychgate hash export --zone main -o main.jsonl",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onHashes(cmd, configPath, zone, func(ctx context.Context, h *hashes) error {
				if out == "" {
					return h.Export(ctx, zone, cmd.OutOrStdout())
				}
				f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				return errors.Join(h.Export(ctx, zone, f), f.Sync(), f.Close())
			})
		},
	}
	hashFlags(cmd, &configPath, &zone)
	cmd.Flags().StringVarP(&out, "output", "o", "", "new `file` to write to; default standard output")
	return cmd
}

// keepPublished says which mappings stay whatever is removed: those of what is published in the zone or its bases, where it is answered for,
// but where a zone answers as the reference server does.
func keepPublished(cfg *config.Config, isPublished func(zone string, hash [32]byte) bool) func(zone string, u hashserv.Unihash) bool {
	zones := map[string]config.Zone{}
	for _, z := range cfg.Zones {
		zones[z.Name] = z
	}
	return func(zone string, u hashserv.Unihash) bool {
		if zones[zone].Hash.Reference {
			return false
		}
		for at := zone; at != ""; at = zones[at].Base {
			if isPublished(at, u) {
				return true
			}
		}
		return false
	}
}
