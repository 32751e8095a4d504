// Bench measures the gate beside its peers on one machine: it starts each in turn, drives all with one load generator,
// and prints what each did, the ratio, and whether the target of the design is met.
//
//	go run ./internal/bench [-quick] [-only REGEXP] [-o docs/performance.md]
//
// Everything listens on 127.0.0.1 and is stopped at the end. A peer that is not installed is left out, and said to be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := dispatch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		stop()
		os.Exit(1)
	}
}

// dispatch runs the whole, or one of the parts that the whole starts as processes of their own.
func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "load":
			return serveLoad(ctx, os.Stdin, os.Stdout)
		case "hold":
			return serveHold(ctx, args[1:], os.Stdin, os.Stdout)
		case "sshhandler":
			return serveSSHHandler(ctx, args[1:])
		case "hashhandler":
			return serveHashHandler(ctx, args[1:])
		case "handler":
			return serveHandler(ctx, args[1:])
		}
	}
	o, err := parseOptions(args, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return run(ctx, o)
}

// options are the command line.
type options struct {
	quick   bool
	only    *regexp.Regexp
	output  string
	gate    string
	bitbake string
	keep    bool

	mappings int
	rounds   int
	duration time.Duration // of one turn
}

func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.BoolVar(&o.quick, "quick", false, "one short turn each: does it work, not how fast")
	flags.StringVar(&only, "only", "", "measure the work whose name matches `regexp`: "+workNames())
	flags.StringVar(&o.output, "o", "", "write the page as Markdown to `file`")
	flags.StringVar(&o.gate, "gate", "bin/lychgate", "the gate's `binary`; make build makes it")
	flags.StringVar(&o.bitbake, "bitbake", os.Getenv("BITBAKE_DIR"), "`directory` of a BitBake checkout, whose hash equivalence server is a peer; $BITBAKE_DIR")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory with configurations and logs")
	flags.IntVar(&o.mappings, "mappings", 5_000_000, "how many `mappings` garbage collection of hash equivalence halves; filling in takes some minutes a million")
	flags.IntVar(&o.rounds, "rounds", 5, "how many `turns` peer and gate have; the median counts")
	flags.DurationVar(&o.duration, "duration", 4*time.Second, "how long a turn is")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.quick {
		o.rounds, o.duration, o.mappings = 1, 1500*time.Millisecond, min(o.mappings, gcMappingsQuick)
	}
	if o.rounds < 1 || o.duration <= 0 || o.mappings <= 2*objects {
		return o, fmt.Errorf("-rounds and -duration must be positive, and -mappings above %d", 2*objects)
	}
	var err error
	o.only, err = regexp.Compile(only)
	return o, err
}

// run makes the world, does the work, and reports.
func run(ctx context.Context, o options) (err error) {
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	report := newReport(ctx, w)
	for _, k := range works() {
		if !o.only.MatchString(k.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s (load %s)\n", k.name, loadAverage())
		report.load = append(report.load, loadAverage())
		rows, err := k.measure(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		report.rows = append(report.rows, rows...)
	}
	report.details, report.missing = w.details, w.missing()
	if err := report.writeText(os.Stdout); err != nil {
		return err
	}
	if o.output == "" {
		return nil
	}
	return report.writePage(o.output)
}
