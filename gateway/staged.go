package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/lychgate/lychgate/authz/artifact"
)

// stagedObject is one object of an upload and the bytes held of it so far.
type stagedObject struct {
	name      string // canonical
	announced artifact.Digest
	size      int64 // announced; -1 when the body says
	present   bool  // published already with these bytes
	path      string

	mu     sync.Mutex // guards what follows; held while bytes are written
	held   int64
	digest *digester // of the held bytes; nil when they must be read back first
	whole  artifact.Digest
	chunks []artifact.Digest
	done   bool
}

// restore takes over the bytes that an earlier start left.
func (o *stagedObject) restore() error {
	info, err := os.Stat(o.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.size < 0 {
		return errors.New("a plain upload that was not completed")
	}
	o.held = info.Size()
	if o.held < o.size {
		return nil
	}
	f, err := os.OpenFile(o.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return o.finish(f)
}

// offset returns how many bytes are held.
func (o *stagedObject) offset() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// complete reports whether all bytes are held, and are the announced ones, and returns their digest.
func (o *stagedObject) complete() (artifact.Digest, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.whole, o.done
}

// receive adds the bytes of r at off, which must be where the object ends, and returns how many are held then. The
// bytes are on the disk when it returns nil.
func (o *stagedObject) receive(r io.Reader, off, limit int64) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if off != o.held || o.done {
		return o.held, &RequestError{
			Status: 409, Problem: fmt.Sprintf("%d bytes are held", o.held), Hint: "go on from the offset in Upload-Offset",
		}
	}
	f, err := os.OpenFile(o.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return o.held, unavailable("open the staged object", err)
	}
	defer f.Close()
	if err := o.resume(f); err != nil {
		return o.held, unavailable("read back the staged object", err)
	}
	if o.size >= 0 {
		limit = o.size
	}
	err = o.take(f, r, limit)
	if syncErr := f.Sync(); syncErr != nil {
		o.restart() // what reached the disk is not known
		return 0, unavailable("stage the object", syncErr)
	}
	if err == nil && (o.size < 0 || o.held == o.size) {
		err = o.finish(f)
	}
	return o.held, err
}

// resume cuts f to the bytes that were counted and brings the digest up to them.
func (o *stagedObject) resume(f *os.File) error {
	if err := f.Truncate(o.held); err != nil {
		return err
	}
	if o.digest == nil {
		d := newDigester()
		if n, err := io.Copy(d, io.NewSectionReader(f, 0, o.held)); err != nil || n != o.held {
			return errors.Join(err, fmt.Errorf("%d of %d bytes could be read", n, o.held))
		}
		o.digest = d
	}
	_, err := f.Seek(o.held, io.SeekStart)
	return err
}

// take copies r to f, counting what was written whole.
func (o *stagedObject) take(f *os.File, r io.Reader, limit int64) error {
	buf := make([]byte, copyBytes)
	for {
		n, readErr := fill(r, buf)
		if o.held+int64(n) > limit {
			return &RequestError{Status: 413, Problem: fmt.Sprintf("the body goes beyond %d bytes", limit), Hint: "announce the object's real size; limits.object_bytes bounds it"}
		}
		if _, err := f.Write(buf[:n]); err != nil {
			o.digest = nil
			return unavailable("stage the object", err)
		}
		o.digest.Write(buf[:n])
		o.held += int64(n)
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return &RequestError{Status: 400, Problem: "the body broke off", Hint: "go on from the offset in Upload-Offset"}
		}
	}
}

// fill reads until buf is full or r ends, and returns r's own error: io.ReadFull would make a body that broke off look
// like one that ended.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// finish seals an object whose bytes are all there. Other bytes than the announced ones are dropped.
func (o *stagedObject) finish(f *os.File) error {
	if o.digest == nil {
		if err := o.resume(f); err != nil {
			return err
		}
	}
	whole := o.digest.digest()
	if !o.announced.IsZero() && whole != o.announced {
		o.restart()
		return &RequestError{Status: 422, Problem: "the bytes have another digest than announced: " + whole.String(), Hint: "send the object again from offset 0"}
	}
	o.whole, o.chunks, o.done = whole, o.digest.finish(), true
	o.digest = nil
	return nil
}

// restart forgets the bytes held.
func (o *stagedObject) restart() { o.held, o.digest, o.done = 0, nil, false }

// unavailable wraps a fault of this machine, for which the client is asked to come back.
func unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}
