package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Turn is the right to be the one push that follows builds, for a directory of records. Builds may come faster than pushes end: who
// comes next waits, and [Turn.Wanted] tells whoever has the turn, since the next one pushes what this one leaves. The kernel ends a
// turn with the process that has it.
type Turn struct {
	dir  *os.Root
	lock *os.File
}

// The files in a directory of records that turns are taken with. The first holds what [Turn.Note] says.
const (
	turnLock = "push.lock"
	turnNext = "push.next"
)

// turnPoll is how often is looked whether a lock is free.
const turnPoll = 200 * time.Millisecond

// TakeTurn waits until nobody has the turn for a directory. The caller closes it.
func TakeTurn(ctx context.Context, records string) (*Turn, error) {
	dir, err := os.OpenRoot(records)
	if err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	t := &Turn{dir: dir}
	next, err := t.await(ctx, turnNext)
	if err == nil {
		t.lock, err = t.await(ctx, turnLock)
		err = errors.Join(err, next.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for another push that follows a build: %w", err), t.Close())
	}
	return t, nil
}

// await opens a file once nobody else has locked it.
func (t *Turn) await(ctx context.Context, name string) (*os.File, error) {
	for {
		f, err := t.try(name)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, err
		}
		if err := sleep(ctx, turnPoll); err != nil {
			return nil, err
		}
	}
}

func (t *Turn) try(name string) (*os.File, error) {
	f, err := t.dir.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o644) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no regular file: %w", name, fs.ErrInvalid), f.Close())
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Wanted returns a channel that is closed when somebody waits for the turn. Once ctx is done nobody looks any more.
func (t *Turn) Wanted(ctx context.Context) <-chan struct{} {
	wanted := make(chan struct{})
	go func() {
		for sleep(ctx, turnPoll) == nil {
			f, err := t.try(turnNext)
			if errors.Is(err, syscall.EWOULDBLOCK) {
				close(wanted)
				return
			}
			if err == nil {
				f.Close() // nothing was written
			}
		}
	}()
	return wanted
}

// Note leaves a text for whoever looks at the directory, in place of the one before. A reader at the same moment may see half of it.
func (t *Turn) Note(text []byte) error {
	if err := t.lock.Truncate(0); err != nil {
		return err
	}
	_, err := t.lock.WriteAt(text, 0)
	return err
}

// Close ends the turn.
func (t *Turn) Close() error {
	err := t.dir.Close()
	if t.lock != nil {
		err = errors.Join(err, t.lock.Close())
	}
	return err
}
