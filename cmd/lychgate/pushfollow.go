package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/client"
)

// followState is what a push that follows a build leaves in its lock file, for lychgate.bbclass.
type followState struct {
	PID     int    `json:"pid"`
	Pushed  int    `json:"pushed"`  // objects that this push published
	Present int    `json:"present"` // objects that the gate had
	Refused int    `json:"refused"`
	Error   string `json:"error,omitempty"` // that ended the last pass
	Done    bool   `json:"done"`
}

// followDir pushes what a build puts into a cache, until standard input ends: whoever started the build holds the other end of it, and
// the kernel closes it when that process dies.
func followDir(cmd *cobra.Command, r remote, f pushFlags, dir string) error {
	if err := f.checkFollow(); err != nil {
		return err
	}
	ctx := cmd.Context()
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // an error is an end, too
	}()
	turn, err := client.TakeTurn(ctx, f.records[0])
	if err != nil {
		return err
	}
	report, err := followCache(ctx, r, f, dir, turn, over, cmd.ErrOrStderr())
	err = errors.Join(err, turn.Close())
	if errors.Is(err, client.ErrYielded) {
		err = nil
	}
	return finishPush(cmd, report, err, f.asJSON)
}

func (f *pushFlags) checkFollow() error {
	switch {
	case len(f.records) == 0:
		return usageError("--follow needs --records DIR: the records of lychgate.bbclass say what is complete")
	case f.dryRun || f.again:
		return usageError("--follow goes with neither --dry-run nor --again")
	}
	return nil
}

func followCache(ctx context.Context, r remote, f pushFlags, dir string, turn *client.Turn, over <-chan struct{}, log io.Writer) (*client.Report, error) {
	cache, err := client.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	opt, err := f.options(cache, nil)
	if err != nil {
		return nil, errors.Join(err, cache.Close())
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	state := followState{PID: os.Getpid()}
	note := func(report *client.Report, err error) {
		state.Pushed, state.Present, state.Refused, state.Error = report.Stored+report.Confirmed+report.Kept, report.Skipped, len(report.Refused), ""
		if err != nil {
			state.Error = err.Error()
		}
		if problem := noteState(turn, state); problem != nil {
			fmt.Fprintln(log, "lychgate: note how far it is:", problem)
		}
	}
	note(&client.Report{}, nil)
	var sign func(context.Context, *client.Client) (provenance.Signer, error)
	if f.key == jobKey {
		sign = jobSigner
	}
	report, err := client.Follow(ctx, client.FollowOptions{
		PushOptions: opt, Open: r.open, Sign: sign, Over: over, Yield: turn.Wanted(within),
		Passed: func(report *client.Report, err error) {
			note(report, err)
			sayPass(log, state)
		},
	})
	state.Done = true
	if problem := noteState(turn, state); problem != nil {
		fmt.Fprintln(log, "lychgate: note how far it is:", problem)
	}
	return report, errors.Join(err, cache.Close())
}

func noteState(turn *client.Turn, state followState) error {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return turn.Note(append(text, '\n'))
}

// sayPass writes a line for the log.
func sayPass(log io.Writer, s followState) {
	text := fmt.Sprintf("%s %d objects pushed so far, %d were there", time.Now().Format(time.TimeOnly), s.Pushed, s.Present)
	if s.Refused > 0 {
		text += fmt.Sprintf(", %d refused", s.Refused)
	}
	if s.Error != "" {
		text += ": " + s.Error
	}
	fmt.Fprintln(log, text)
}
