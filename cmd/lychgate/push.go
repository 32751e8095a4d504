package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/internal/client"
)

// pushFlags are what push and import share.
type pushFlags struct {
	zone, key, certificate, audience, builder, invocation, extraFile string
	layers, stamps, records                                          []string
	namesFile                                                        string
	jobs                                                             int
	dryRun, again, quiet, asJSON, inPlace, follow                    bool
}

func (f *pushFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.zone, "zone", "main", "`zone` to write to")
	cmd.Flags().StringVar(&f.key, "key", "", "private key `file` that signs; a .pub file or SHA256:... picks a key of ssh-agent; ci: a CI job signs as itself, and the gate vouches for it; without it the agent's only key signs")
	cmd.Flags().StringVar(&f.certificate, "certificate", "", "SSH certificate `file` of the key; default: the key's -cert.pub, if there is one")
	cmd.Flags().StringVar(&f.audience, "audience", "", "the gate's own `URL`, as its configuration says; default: --gate")
	cmd.Flags().StringVar(&f.builder, "builder", "", "`URI` of what builds; default: from the build's records, else the CI job's environment, else this host")
	cmd.Flags().StringVar(&f.invocation, "invocation", "", "`URL` of this run; default: from the build's records, else the CI job's environment")
	cmd.Flags().StringArrayVar(&f.layers, "layer", nil, "`DIR=URL@REV`: the repository of the layer whose files lie below DIR; file:// entries are found there by name and checksum; may be repeated")
	cmd.Flags().StringArrayVar(&f.stamps, "stamps", nil, "`DIR` of a build's stamps (tmp/stamps), after bitbake -S none TARGET: its signature files stand in for siginfo files that the cache lacks, as those of noexec tasks; may be repeated")
	cmd.Flags().StringArrayVar(&f.records, "records", nil, "`DIR` where lychgate.bbclass of meta-lychgate wrote its records (tmp/lychgate/records): they tell what siginfo files do not, as submodules and the layers of local files; may be repeated")
	cmd.Flags().StringVar(&f.extraFile, "extra-sources", "", "`file` with sources that SRC_URI does not name, such as submodules: a line RECIPE SRC_URI_ENTRY [REV] each")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 4, "transfers at once")
	cmd.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be written, and from which sources; write nothing")
	cmd.Flags().BoolVar(&f.again, "again", false, "sign also what is there already, so that it gets this statement too")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the report as JSON")
}

func newPush() *cobra.Command {
	var r remote
	var f pushFlags
	cmd := &cobra.Command{
		Use: "push SSTATE_DIR", Short: "Sign and upload a shared-state cache",
		Long: `Push finds the objects of a shared-state cache, derives from their siginfo files what each was built from, groups
them by recipe, signs a statement for each group, and uploads what the gate does not have. It may be broken off and
started again: it goes on where it was.

What it cannot derive and the gate does not have it does not push, and says why. docs/push.md explains what it needs to
know of layers, submodules and noexec tasks. With --follow it pushes along with a build: meta-lychgate starts it so.
Exit codes: 0 all is published, 1 something was refused or failed, or there
was nothing to push, 3 something could not be derived.`,
		Example: "  lychgate push build/sstate-cache --gate https://gate.example.com --token-file ci.token --key ~/.ssh/id_ed25519",
		Args:    exactArgs(1, "the cache's directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.follow {
				return followDir(cmd, r, f, args[0])
			}
			report, err := pushDir(cmd.Context(), r, f, args[0], progress(cmd, f.quiet))
			return finishPush(cmd, report, named(args[0], err), f.asJSON)
		},
	}
	r.flags(cmd)
	f.flags(cmd)
	cmd.Flags().BoolVar(&f.follow, "follow", false, "push what a build makes while it makes it, until standard input ends, and then what is left; needs --records")
	return cmd
}

func newImport() *cobra.Command {
	var r remote
	var f pushFlags
	cmd := &cobra.Command{
		Use: "import DIR|URL", Short: "Sign and record a cache that already lies in a zone's mirror",
		Long: `Import does what push does for a cache that is in place: the zone's mirror, as the gate's configuration names it,
already holds the objects. Nothing is copied. Import reads DIR or URL, derives and signs; the gate reads its mirror,
compares, and records. From then on it verifies the mirror's bytes whenever it serves them.

You vouch for the cache with your own key: everybody who could write to it so far could have put anything there.
A URL needs a directory index, or --names with a list of the objects.`,
		Example: "  lychgate import /srv/sstate --gate https://gate.example.com --token-file me.token --key ~/.ssh/id_ed25519",
		Args:    exactArgs(1, "a directory or a URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.inPlace = true
			push := pushDir
			if strings.HasPrefix(args[0], "http://") || strings.HasPrefix(args[0], "https://") {
				push = pushMirror
			}
			report, err := push(cmd.Context(), r, f, args[0], progress(cmd, f.quiet))
			return finishPush(cmd, report, named(args[0], err), f.asJSON)
		},
	}
	r.flags(cmd)
	f.flags(cmd)
	cmd.Flags().StringVar(&f.namesFile, "names", "", "`file` that lists the objects of a URL, a line each")
	return cmd
}

func pushDir(ctx context.Context, r remote, f pushFlags, dir string, p client.Progress) (*client.Report, error) {
	cache, err := client.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	report, err := pushCache(ctx, r, f, cache, p)
	return report, errors.Join(err, cache.Close())
}

func pushMirror(ctx context.Context, r remote, f pushFlags, url string, p client.Progress) (*client.Report, error) {
	cfg := client.MirrorConfig{URL: url}
	if f.namesFile != "" {
		names, err := os.Open(f.namesFile)
		if err != nil {
			return nil, err
		}
		defer names.Close()
		cfg.Names = names
	}
	cache, err := client.OpenMirror(cfg)
	if err != nil {
		return nil, err
	}
	return pushCache(ctx, r, f, cache, p)
}

func pushCache(ctx context.Context, r remote, f pushFlags, cache client.Cache, p client.Progress) (*client.Report, error) {
	opt, err := f.options(cache, p)
	if err != nil {
		return nil, err
	}
	if f.dryRun {
		return client.Plan(ctx, opt)
	}
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	if f.key == jobKey {
		if opt.Signer, err = jobSigner(ctx, c); err != nil {
			return nil, err
		}
	}
	return c.Push(ctx, opt)
}

// jobKey is the --key of a CI job that signs as itself. A file of that name is ./ci.
const jobKey = "ci"

// jobSigner has the gate vouch for the job.
func jobSigner(ctx context.Context, c *client.Client) (provenance.Signer, error) {
	signer, _, err := c.JobSigner(ctx)
	return signer, err
}

// options says what to push, and as what. A dry run needs no key, and a job that signs as itself has none yet.
func (f *pushFlags) options(cache client.Cache, p client.Progress) (client.PushOptions, error) {
	opt := client.PushOptions{
		Cache: cache, Zone: f.zone, Audience: f.audience, Builder: f.builder, Invocation: f.invocation,
		InPlace: f.inPlace, Again: f.again, Jobs: f.jobs, Progress: p,
	}
	if opt.Builder == "" {
		opt.Builder, opt.Invocation = ciJob(os.Getenv, f.invocation)
		opt.RecordedJob = f.invocation == ""
	}
	var err error
	if opt.Derive, err = f.derive(); err != nil || f.dryRun || f.key == jobKey {
		return opt, err
	}
	if opt.Signer, err = client.LoadSigner(client.SignerOptions{
		Key: f.key, Certificate: f.certificate, AgentSocket: os.Getenv("SSH_AUTH_SOCK"), Passphrase: askPassphrase,
	}); err != nil {
		return opt, &exitError{code: exitUsage, err: err}
	}
	return opt, nil
}

// derive reads what the siginfo files do not say.
func (f *pushFlags) derive() (client.DeriveOptions, error) {
	opt := client.DeriveOptions{Stamps: f.stamps, Records: f.records}
	for _, text := range f.layers {
		layer, err := parseLayer(text)
		if err != nil {
			return opt, err
		}
		opt.Layers = append(opt.Layers, layer)
	}
	if f.extraFile != "" {
		text, err := os.ReadFile(f.extraFile)
		if err != nil {
			return opt, err
		}
		if opt.Extra, err = client.ParseExtra(string(text)); err != nil {
			return opt, fmt.Errorf("%s: %w", f.extraFile, err)
		}
	}
	return opt, nil
}

// parseLayer reads DIR=URL@REV.
func parseLayer(text string) (client.Layer, error) {
	dir, rest, ok := strings.Cut(text, "=")
	at := strings.LastIndexByte(rest, '@')
	if !ok || at <= 0 || at == len(rest)-1 {
		return client.Layer{}, usageError("--layer %s: want DIR=URL@REV, such as /work/meta-acme=git://git.example.com/meta-acme.git;protocol=https@1f2e...", text)
	}
	s := source.Parse(rest[:at], rest[at+1:])
	if s.Type == source.Unresolvable {
		return client.Layer{}, usageError("--layer %s: %s", text, s.Reason)
	}
	return client.Layer{PathPrefix: dir, Source: s}, nil
}

// ciJob returns who builds and which run this is, as GitLab CI, GitHub Actions and Jenkins tell it.
func ciJob(env func(string) string, invocation string) (builder, run string) {
	switch {
	case env("GITLAB_CI") != "":
		builder, run = env("CI_SERVER_URL")+"/runner", env("CI_JOB_URL")
	case env("GITHUB_ACTIONS") != "":
		builder, run = env("GITHUB_SERVER_URL")+"/actions", env("GITHUB_SERVER_URL")+"/"+env("GITHUB_REPOSITORY")+"/actions/runs/"+env("GITHUB_RUN_ID")
	case env("JENKINS_URL") != "":
		builder, run = env("JENKINS_URL"), env("BUILD_URL")
	default:
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		builder = "host:" + host
	}
	if invocation != "" {
		run = invocation
	}
	return builder, run
}

// progress shows a bar on a terminal, else a line now and then.
func progress(cmd *cobra.Command, quiet bool) client.Progress {
	if quiet {
		return nil
	}
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return client.NewBar(f)
	}
	return client.NewLines(cmd.ErrOrStderr(), 5*time.Second, time.Now)
}

func askPassphrase(prompt string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, errors.New("the key needs a passphrase and there is no terminal: add it to ssh-agent, and give --key FILE.pub")
	}
	fmt.Fprint(os.Stderr, prompt)
	text, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
	return text, err
}

// named says of which cache there is nothing to push.
func named(cache string, err error) error {
	if errors.Is(err, client.ErrNoObjects) {
		return fmt.Errorf("%s: %w", cache, err)
	}
	return err
}

// finishPush prints the report, also of a push that was broken off, and turns it into an exit code.
func finishPush(cmd *cobra.Command, report *client.Report, err error, asJSON bool) error {
	if report != nil {
		write := report.WriteText
		if asJSON {
			write = report.WriteJSON
		}
		err = errors.Join(err, write(io.Writer(cmd.OutOrStdout())))
	}
	if err == nil && report.ExitCode() != exitOK {
		return &exitError{code: report.ExitCode()}
	}
	return err
}
