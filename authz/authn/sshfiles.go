package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// maxFile bounds a file that [File] reads, in bytes.
	maxFile = 16 << 20
	// fileStale is for how long a file that was good stays in force after it broke: the age at which a fact is worth nothing.
	fileStale = 300 * time.Second
	// filePoll is how often [File.Run] reads.
	filePoll = 2 * time.Second
)

// FileError is one thing wrong with a file that people write, for the person who wrote it.
type FileError struct {
	File   string
	Line   int // 0: the whole file
	Reason string
	Hint   string // what to do next
}

// Error prints "FILE:LINE: REASON: HINT".
func (e *FileError) Error() string {
	place := e.File
	if e.Line > 0 {
		place += ":" + strconv.Itoa(e.Line)
	}
	return fmt.Sprintf("%s: %s: %s", place, e.Reason, e.Hint)
}

// Source is something that may change while the gate runs; a [File] is one. It is safe for concurrent use.
type Source[T any] interface {
	// Current returns what holds now. With an error it returns what held last, and that must not be relied on to let
	// anybody in.
	Current() (T, error)
}

// Fixed is a [Source] that never changes.
type Fixed[T any] struct{ Value T }

// Current returns the value.
func (f Fixed[T]) Current() (T, error) { return f.Value, nil }

// FileConfig is what a [File] needs.
type FileConfig[T any] struct {
	Path string
	// Parse reads the contents of the file, whose name without its directory is for messages. What it returns is shared.
	Parse  func(name string, data []byte) (T, error)
	Now    func() time.Time // time.Now when nil
	Logger *slog.Logger     // nil: silent
}

// File is what a file says, read again while [File.Run] runs. A file that cannot be read, or not understood, leaves the last
// good one in force for 300 s; from then on Current is an error. It is safe for concurrent use.
type File[T any] struct {
	config FileConfig[T]
	state  atomic.Pointer[fileState[T]]
}

// fileState is swapped as a whole.
type fileState[T any] struct {
	value T
	sum   [sha256.Size]byte // of the contents value was read from
	good  time.Time         // when the file was last seen to be good
	err   error             // why it is not now; nil when it is
}

// LoadFile reads the file once.
func LoadFile[T any](c FileConfig[T]) (*File[T], error) {
	if c.Parse == nil {
		return nil, errors.New("load file: there is nothing to read it with")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	f := &File[T]{config: c}
	data, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Path, err)
	}
	value, err := c.Parse(filepath.Base(c.Path), data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Path, err)
	}
	f.state.Store(&fileState[T]{value: value, sum: sha256.Sum256(data), good: c.Now()})
	return f, nil
}

// read follows whatever links lead to the file now, as Kubernetes swaps them.
func (f *File[T]) read() ([]byte, error) {
	r, err := os.Open(f.config.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("the file is larger than %d bytes", maxFile)
	}
	return data, err
}

// Current implements [Source].
func (f *File[T]) Current() (T, error) {
	st := f.state.Load()
	if st.err != nil && !f.config.Now().Before(st.good.Add(fileStale)) {
		return st.value, fmt.Errorf("%s has not been usable for 300 s: %w", filepath.Base(f.config.Path), st.err)
	}
	return st.value, nil
}

// Run reads the file every two seconds until ctx ends, and returns ctx's error. Contents are compared, not times, so any
// way of replacing the file is seen.
func (f *File[T]) Run(ctx context.Context) error {
	ticker := time.NewTicker(filePoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			f.poll()
		}
	}
}

// poll looks at the file once. Only Run calls it.
func (f *File[T]) poll() {
	old, next := f.state.Load(), fileState[T]{good: f.config.Now()}
	data, err := f.read()
	if err == nil {
		if next.sum = sha256.Sum256(data); next.sum == old.sum {
			next.value = old.value
			f.state.Store(&next)
			return
		}
		next.value, err = f.config.Parse(filepath.Base(f.config.Path), data)
	}
	if err != nil {
		f.keepLastGood(old, err)
		return
	}
	f.state.Store(&next)
	f.config.Logger.Info("file took effect", "file", f.config.Path)
}

func (f *File[T]) keepLastGood(old *fileState[T], err error) {
	if old.err == nil || old.err.Error() != err.Error() {
		f.config.Logger.Error("file is not usable: the last good one stays in force for 300 s", "file", f.config.Path, "error", err)
	}
	f.state.Store(&fileState[T]{value: old.value, sum: old.sum, good: old.good, err: err})
}

// textLines calls line for each line of a file of keys that is neither empty nor a comment, without the space around it. The
// first error stops it, as a [*FileError] with hint.
func textLines(name string, data []byte, hint string, line func(text string) error) error {
	number := 0
	for text := range strings.Lines(string(data)) {
		number++
		wrong := func(reason string) error {
			return &FileError{File: name, Line: number, Reason: reason, Hint: hint}
		}
		if strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
			return wrong("the line is not UTF-8 text")
		}
		text = strings.Trim(text, " \t\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		if err := line(text); err != nil {
			if hinted, ok := errors.AsType[*hintedError](err); ok {
				return &FileError{File: name, Line: number, Reason: hinted.reason, Hint: hinted.hint}
			}
			return wrong(err.Error())
		}
	}
	return nil
}

// hintedError is an error of a line that has a hint of its own.
type hintedError struct{ reason, hint string }

func (e *hintedError) Error() string { return e.reason + ": " + e.hint }
