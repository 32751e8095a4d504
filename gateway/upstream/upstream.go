// Package upstream is where bytes are: a directory or an HTTP mirror, opened by names that the gate printed itself.
package upstream

import (
	"context"
	"io"
	"time"
)

// Info describes an object.
type Info struct {
	Size     int64
	Modified time.Time // zero when the store does not know
}

// Object is an open object, positioned at the offset asked for. The caller closes it.
type Object struct {
	io.ReadCloser
	Info
}

// Store opens objects. Absent is an error that wraps fs.ErrNotExist; anything else means that the store could not answer.
// Names are slash-separated, relative, and printed by the gate; a Store refuses any other name with an error that wraps
// fs.ErrInvalid. It is safe for concurrent use.
type Store interface {
	Stat(ctx context.Context, name string) (Info, error)
	// Open returns the object from byte off on. Info.Size is the size of the whole object.
	Open(ctx context.Context, name string, off int64) (*Object, error)
}
