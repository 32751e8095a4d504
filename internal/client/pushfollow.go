package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/lychgate/lychgate/authz/provenance"
)

// FollowOptions says how a push goes along with a build.
type FollowOptions struct {
	// PushOptions are those of a push. Derive.Records must name a directory: a record says that a task is done, and an object is
	// published once there is one of its task, or of a task that was run after it.
	PushOptions

	// Open returns the client for the next pass. It is asked anew for each, since a build may outlive a token.
	Open func() (*Client, error)
	// Sign returns the signer for the next pass, in place of Signer, for one that lives no longer than the token; nil: Signer signs.
	Sign func(ctx context.Context, c *Client) (provenance.Signer, error)
	// Over is closed when the build is over. One last pass follows.
	Over <-chan struct{}
	// Yield may be received from or is closed when somebody else is about to push the same: then the last pass breaks off, and Follow
	// returns [ErrYielded].
	Yield <-chan struct{}
	// Every is the least time between two passes; default 10 s. It is longer where finding out what is new takes long, so that this is
	// never more than a tenth of the time, and after an error.
	Every time.Duration
	// Passed is told after each pass what was done so far, and the error that ended it; nil for nobody. The report changes afterwards.
	Passed func(r *Report, err error)
}

// ErrYielded says that a push was broken off in favour of one that comes after it.
var ErrYielded = errors.New("another push goes on with it")

// The pace of passes.
const (
	followEvery   = 10 * time.Second
	followShare   = 10              // a pass reads the cache for no more than one part in so many of the time
	followBackoff = 5 * time.Minute // the longest pause after errors
)

// Follow publishes what a build makes while it makes it: pass by pass what is complete. An error ends a pass and not the push: the
// next one tries again, and the error of the last is returned. What the gate refused is tried again in the last pass alone. A cache
// without objects is no error.
func Follow(ctx context.Context, opt FollowOptions) (*Report, error) {
	err := opt.check()
	if err == nil && opt.Sign == nil {
		err = opt.checkSigner()
	}
	if err != nil {
		return nil, err
	}
	if len(opt.Derive.Records) == 0 {
		return nil, errors.New("following a build needs the records of its tasks: give --records DIR")
	}
	opt.complete("")
	opt.Derive.RecordedOnly = true
	if opt.Every <= 0 {
		opt.Every = followEvery
	}
	f := &follow{FollowOptions: opt, started: opt.Now(), settled: map[string]bool{}, aside: map[string]bool{}, total: &Report{}}
	return f.total, f.run(ctx)
}

// follow is one Follow under way.
type follow struct {
	FollowOptions
	started time.Time
	records int             // that there were when the last pass began, if it succeeded
	settled map[string]bool // objects that the gate has
	aside   map[string]bool // objects that it refused
	total   *Report
	reading time.Duration // how long the last pass read the cache for
}

func (f *follow) run(ctx context.Context) error {
	failures := 0
	for {
		over, err := f.pause(ctx, f.interval(failures))
		if err != nil {
			return err
		}
		if over {
			return f.last(ctx)
		}
		records, err := countRecords(f.Derive.Records)
		if err == nil && records == f.records {
			continue
		}
		if err == nil {
			err = f.pass(ctx, false)
		}
		if failures++; err == nil {
			f.records, failures = records, 0
		}
		f.tell(err)
	}
}

// interval is how long to wait for the next pass after so many failed ones.
func (f *follow) interval(failures int) time.Duration {
	wait := max(f.Every, (followShare-1)*f.reading)
	if failures == 0 {
		return wait
	}
	return max(wait, min(f.Every<<min(failures, 16), followBackoff))
}

// pause waits, and reports whether the build is over.
func (f *follow) pause(ctx context.Context, d time.Duration) (over bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-f.Over:
		return true, nil
	case <-timer.C:
		return false, nil
	}
}

// last is the pass after the build.
func (f *follow) last(ctx context.Context) error {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-f.Yield:
			cancel(ErrYielded)
		case <-ended:
		}
	}()
	clear(f.aside)
	err := f.pass(within, true)
	if err != nil && errors.Is(context.Cause(within), ErrYielded) {
		err = ErrYielded
	}
	f.tell(err)
	return err
}

func (f *follow) tell(err error) {
	if f.Passed != nil {
		f.Passed(f.total, err)
	}
}

// pass publishes what is complete by now.
func (f *follow) pass(ctx context.Context, last bool) error {
	c, err := f.Open()
	if err != nil {
		return err
	}
	opt := f.PushOptions
	if f.Sign != nil {
		if opt.Signer, err = f.Sign(ctx, c); err != nil {
			return err
		}
	}
	opt.complete(c.gate)
	started := f.Now()
	derivation, err := opt.deriveAll(ctx)
	f.reading = f.Now().Sub(started)
	if err != nil {
		return err
	}
	p := c.newPush(opt, derivation)
	p.aside = f.aside
	maps.Copy(p.settled, f.settled)
	err = p.run(ctx)
	f.settled = p.settled
	f.total.add(p.report, last)
	f.total.Elapsed = f.Now().Sub(f.started)
	f.total.sort()
	for _, r := range p.report.Refused {
		f.aside[r.Name] = true
	}
	return err
}

// add counts what one more pass did. What it found out about the whole cache replaces what the one before did.
func (r *Report) add(pass *Report, last bool) {
	r.Objects, r.Builds, r.Underived, r.Ignored = pass.Objects, pass.Builds, pass.Underived, pass.Ignored
	r.Statements += pass.Statements
	r.Stored += pass.Stored
	r.Confirmed += pass.Confirmed
	r.Kept += pass.Kept
	r.Skipped += pass.Skipped
	r.Bytes += pass.Bytes
	r.Notes = append(r.Notes, pass.Notes...)
	if last {
		r.Refused = nil
	}
	r.Refused = append(r.Refused, pass.Refused...)
	for _, before := range r.Recipes {
		of := pass.recipe(before.Recipe)
		of.Stored += before.Stored
		of.Confirmed += before.Confirmed
		of.Kept += before.Kept
		of.Skipped += before.Skipped
		if !last {
			of.Refused += before.Refused
		}
	}
	r.Recipes = pass.Recipes
}

// countRecords counts the records in directories.
func countRecords(dirs []string) (int, error) {
	recorded, err := openRecords(dirs)
	if err != nil {
		return 0, err
	}
	defer recorded.close()
	n := 0
	for _, dir := range recorded.dirs {
		names, err := fs.Glob(dir.FS(), "??/*.json")
		if err != nil {
			return 0, fmt.Errorf("count the records: %w", err)
		}
		n += len(names)
	}
	return n, nil
}
