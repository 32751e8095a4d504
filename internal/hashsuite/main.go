// Hashsuite runs BitBake's own test suite for an external hash equivalence server against BitBake's server, against a gate, and against
// a gate that is a proxy in front of BitBake's server, over every transport, and compares them test by test.
//
//	go run ./internal/hashsuite -bitbake DIR [-gate bin/lychgate] [-only REGEXP] [-v] [-keep]
//
// The suite is run in two configurations, since no single one has all its tests run: as anybody who connects, and with a login. It fails
// on a test that the reference passes and the gate does not, unless the program has a reason for it, and on a reason that is wanted no more.
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
	"syscall"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/hashref"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hashsuite: error:", err)
		stop()
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	bitbake, gate string
	only          *regexp.Regexp
	timeout       time.Duration
	verbose, keep bool
}

func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("hashsuite", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&o.bitbake, "bitbake", "", "`directory` of a BitBake checkout")
	flags.StringVar(&o.gate, "gate", "bin/lychgate", "the gate's `binary`; make build makes it")
	flags.StringVar(&only, "only", "", "run only the suites whose name (reference-open-tcp, gate-login-wss, ...) matches `regexp`")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Minute, "how long all may take")
	flags.BoolVar(&o.verbose, "v", false, "print what Python says of each test that is not passed")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory with configurations and logs")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	o.only, err = regexp.Compile(only)
	return o, err
}

// run starts one server after another, runs the suite against each, then the tests in Go that need a reference server, and reports.
func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	all := results{}
	for _, s := range subjects() {
		for _, c := range configurations() {
			if err := w.measure(ctx, s, c, all); err != nil {
				return fmt.Errorf("%s, %s: %w", s, c, err)
			}
		}
	}
	if err := all.write(os.Stdout); err != nil {
		return err
	}
	return errors.Join(all.judge(os.Stdout), w.runGoTests(ctx))
}

// measure runs the suite in one configuration over each transport, each time against servers with nothing in them: the suite leaves a mark
// of garbage collection behind, with which it fails the next time, at the reference too.
func (w *world) measure(ctx context.Context, s subject, c configuration, all results) error {
	for _, t := range s.transports() {
		name := suite{s, c, t}
		if !w.o.only.MatchString(name.String()) {
			continue
		}
		began := time.Now()
		outcomes, err := w.measureOne(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		all[name] = outcomes
		fmt.Fprintf(os.Stderr, "%s: %s (%.0f s)\n", name, outcomes, time.Since(began).Seconds())
		if w.o.verbose {
			outcomes.explain(os.Stderr)
		}
	}
	return nil
}

func (w *world) measureOne(ctx context.Context, name suite) (outcomes, error) {
	running, err := w.start(ctx, name)
	if err != nil {
		return nil, err
	}
	defer running.stop()
	return w.runSuite(ctx, name, running.endpoints[name.transport])
}

// runGoTests runs the tests in Go that need the reference server.
func (w *world) runGoTests(ctx context.Context) error {
	if !w.o.only.MatchString("go") {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestReference", "-tags", "reference", "./gateway/hashserv/...", "./internal/sqldb/...")
	cmd.Env = append(os.Environ(), "BITBAKE_DIR="+w.reference.Dir,
		"PATH="+w.path("bin")+string(filepath.ListSeparator)+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go test -tags reference: %w", err)
	}
	return nil
}

// newWorld finds the checkout and makes a directory to work in.
func newWorld(ctx context.Context, o options) (*world, error) {
	ref, err := hashref.Find(ctx, o.bitbake)
	if err != nil {
		return nil, err
	}
	gate, err := filepath.Abs(o.gate)
	if err == nil {
		_, err = os.Stat(gate)
	}
	if err != nil {
		return nil, fmt.Errorf("the gate: %w: run make build", err)
	}
	o.gate = gate
	dir, err := os.MkdirTemp("", "lychgate-hash") // short: the path of a socket is
	if err != nil {
		return nil, err
	}
	w := &world{o: o, reference: ref, dir: dir}
	// Programs of the suite are found through env as python3, and must be run by the same one.
	if err := errors.Join(os.Mkdir(w.path("bin"), 0o755), os.Symlink(ref.Python, w.path("bin/python3"))); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}
