// Bitbake runs real, unmodified BitBake against a gate: it makes a small build of its own, publishes its cache, and builds from
// nothing as a user who may read all and as one who may not, through https, ssh and sftp mirrors, and with the gate as its hash
// equivalence server. It also builds with the layer meta-lychgate and without: no task hash may differ, and what the layer recorded must
// be what the gate then goes by. And it builds with the layer pushing meanwhile, with and without mishaps.
//
// The builds scale-... are larger: 40 recipes with 152 objects, from public repositories, those of two teams, and a layer that is a
// repository with rights of its own. They are published with the class and its records, and built by four users through the agent, https
// and ssh, with hash equivalence and without. What each is to find is worked out from the recipes alone. The runs sample-... ask for a
// cache that another build left, with BitBake's fetcher.
//
// During the builds faults-... something goes wrong between BitBake and the bytes: the gate, the token, the network, a disk, other clients. With
// the agent no build may fail for it. They build toxiproxy, which takes the Go module proxy, and one of them mounts a file system, which takes root.
//
//	go run ./internal/bitbake -bitbake DIR -oecore DIR [-gate bin/lychgate] [-sample DIR] [-only REGEXP] [-keep]
//
// It needs checkouts of BitBake and openembedded-core, and no network: the sources are local git repositories, and no compiler is
// needed. It fails when a build's counts, exit code, errors or bytes are others than documented.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bitbake: error:", err)
		stop()
		os.Exit(1)
	}
}

// options are the command line. Directories are absolute.
type options struct {
	bitbake, oecore, gate string
	sample                string // empty for none
	only                  *regexp.Regexp
	timeout               time.Duration
	keep                  bool
}

func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bitbake", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&o.bitbake, "bitbake", "", "`directory` of a BitBake checkout")
	flags.StringVar(&o.oecore, "oecore", "", "`directory` of an openembedded-core checkout")
	flags.StringVar(&o.gate, "gate", "bin/lychgate", "the gate's `binary`; make build makes it")
	flags.StringVar(&o.sample, "sample", "", "`directory` of a shared-state cache of the recipes in sample.go; without it the builds sample-... are left out")
	flags.StringVar(&only, "only", "", "make only the builds whose name (https-alice, ssh-bob, hash-wss-alice, scale-agent-bob, ...) matches `regexp`")
	flags.DurationVar(&o.timeout, "timeout", time.Hour, "how long all may take")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory with the builds and their logs")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, err
	}
	return o, errors.Join(
		existing(&o.bitbake, "BITBAKE_DIR", "bin/bitbake", "git clone https://github.com/openembedded/bitbake, then BITBAKE_DIR=bitbake"),
		existing(&o.oecore, "OECORE_DIR", "meta/conf/bitbake.conf", "git clone https://github.com/openembedded/openembedded-core, then OECORE_DIR=openembedded-core"),
		existing(&o.gate, "the gate", "", "make build"),
		o.findSample(),
	)
}

// findSample looks for the cache of another build, which need not be given.
func (o *options) findSample() error {
	if o.sample == "" {
		return nil
	}
	return existing(&o.sample, "the sample", "", "a directory such as SSTATE_DIR")
}

// existing makes path absolute, and checks that it has what it is wanted for.
func existing(path *string, what, inside, hint string) error {
	if *path == "" {
		return fmt.Errorf("%s is not given: %s", what, hint)
	}
	abs, err := filepath.Abs(*path)
	if err == nil {
		_, err = os.Stat(filepath.Join(abs, inside))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", what, err, hint)
	}
	*path = abs
	return nil
}

// tools are what a build and this program run, and the Debian packages they are in.
var tools = map[string]string{
	"python3": "python3", "git": "git", "wget": "wget", "cpio": "cpio", "pzstd": "zstd", "xz": "xz-utils",
	"ssh": "openssh-client", "localedef": "libc-bin", "flock": "util-linux", "tar": "tar", "gzip": "gzip",
}

func checkTools() error {
	var packages []string
	for tool, name := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			packages = append(packages, name)
		}
	}
	if _, err := os.Stat("/usr/share/i18n/locales/en_US"); err != nil {
		packages = append(packages, "locales") // BitBake insists on en_US.UTF-8
	}
	if len(packages) > 0 {
		return fmt.Errorf("programs are missing; run: sudo apt-get install %s", strings.Join(packages, " "))
	}
	return nil
}

// run makes the world and the builds.
func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := checkTools(); err != nil {
		return err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var rows []row
	add := func(more []row, faults error) { rows, err = append(rows, more...), errors.Join(err, faults) }
	add(tryMirrors(ctx, w, matching(o.only, cases())))
	add(tryHashes(ctx, w, matching(o.only, hashCases())))
	add(tryScale(ctx, w, matching(o.only, scaleCases())))
	add(trySample(ctx, w, matching(o.only, sampleCases())))
	add(nil, tryLayers(ctx, w))
	add(nil, tryFaults(ctx, w, matching(o.only, faultCases())))
	add(nil, tryFirst(ctx, w, matching(o.only, []firstHit{{}})))
	return errors.Join(writeTable(os.Stdout, rows), err)
}

// matching returns the builds whose names match.
func matching[B interface{ name() string }](only *regexp.Regexp, all []B) (list []B) {
	for _, b := range all {
		if only.MatchString(b.name()) {
			list = append(list, b)
		}
	}
	return list
}

// tryMirrors fills a gate, and builds through each mirror as each user.
func tryMirrors(ctx context.Context, w *world, builds []build) (rows []row, err error) {
	if len(builds) == 0 {
		return nil, nil
	}
	t, err := newTrial(ctx, w)
	if err != nil {
		return nil, err
	}
	defer t.gate.stop()
	for _, b := range builds {
		r, faults := t.try(ctx, b)
		rows, err = append(rows, r), errors.Join(err, faults)
	}
	return rows, err
}
