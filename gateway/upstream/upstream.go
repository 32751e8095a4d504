// Package upstream is where bytes are: a directory or an HTTP mirror, opened by names that the gate printed itself.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Info describes an object.
type Info struct {
	Size     int64
	Modified time.Time // zero when the store does not know
}

// Object is an open object, positioned at the offset asked for. The caller closes it.
//
// That of a [Dir] has an *os.File as its ReadCloser, so that copying it to a TCP connection is left to the kernel; for a part of
// it, copy from io.LimitReader(obj.ReadCloser, n).
type Object struct {
	io.ReadCloser
	Info
}

// WriteTo copies the rest of the object to w. With it, io.Copy sees through an Object to what it reads from.
func (o *Object) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, o.ReadCloser) }

// ErrOffset is wrapped by the error of opening an object at a negative offset or beyond its end.
var ErrOffset = errors.New("offset outside the object")

// Store opens objects. Absent is an error that wraps fs.ErrNotExist; anything else means that the store could not answer.
// Names are slash-separated, relative, and printed by the gate; a Store refuses any other name with an error that wraps
// fs.ErrInvalid. It is safe for concurrent use.
type Store interface {
	Stat(ctx context.Context, name string) (Info, error)
	// Open returns the object from byte off on. Info.Size is the size of the whole object.
	Open(ctx context.Context, name string, off int64) (*Object, error)
}

// Putter is a [Store] that can be written. Objects are immutable: names are made of digests, so an object that exists under a name
// has these bytes already.
type Putter interface {
	Store
	// Put publishes the bytes of src, from its start, under name: atomically, and durably before it returns. It succeeds without
	// touching anything when the name exists. src stays open and must not be written any more, by anybody: the published object
	// may be the same file. A full disk is an error that wraps syscall.ENOSPC.
	Put(ctx context.Context, name string, src *os.File) error
}

// maxName is the longest name a store takes, in octets.
const maxName = 1024

// checkName refuses every name but slash-separated segments of A-Z a-z 0-9 . _ + : ~ -, none of them empty, "." or "..".
func checkName(name string) error {
	if name == "." || len(name) > maxName || !fs.ValidPath(name) || strings.ContainsFunc(name, foreign) {
		return fmt.Errorf("upstream name %q: %w", name, fs.ErrInvalid)
	}
	return nil
}

// foreign reports whether no name printed by the gate holds r.
func foreign(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("./_+:~-", r)
}

// checkOffset refuses an offset that no byte of an object of this size follows or ends at.
func checkOffset(off, size int64) error {
	if off < 0 || off > size {
		return fmt.Errorf("%w: %d of %d bytes", ErrOffset, off, size)
	}
	return nil
}
