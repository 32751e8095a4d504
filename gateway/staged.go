package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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

	digest *digester // of the held bytes; nil when they must be read back first; belongs to whoever made the object busy

	mu     sync.Mutex // guards what follows; never held while bytes move
	busy   bool       // a request is sending bytes, and nobody else may
	held   int64
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
	o.held = info.Size()
	return nil
}

// seal finishes an object whose bytes were all left by an earlier start. It is an error when bytes are missing.
func (o *stagedObject) seal() error {
	if _, done := o.complete(); done {
		return nil
	}
	if o.size < 0 || o.offset() < o.size {
		return errors.New("bytes are missing")
	}
	if err := o.claim(o.size); err != nil {
		return err
	}
	defer o.release()
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

// sealed returns a complete object as one to publish under ref.
func (o *stagedObject) sealed(ref artifact.Ref) writeObject {
	o.mu.Lock()
	defer o.mu.Unlock()
	return writeObject{ref: ref, digest: o.whole, size: o.held, path: o.path, chunks: o.chunks}
}

// receive adds the bytes of r at off, which must be where the object ends, and returns how many are held then. The
// bytes are on the disk when it returns nil. room is asked now and then whether there is space for more.
func (o *stagedObject) receive(r io.Reader, off, limit int64, room func() error) (int64, error) {
	if err := o.claim(off); err != nil {
		return o.offset(), err
	}
	defer o.release()
	err := o.receiveAll(r, limit, room)
	return o.offset(), err
}

// claim makes the object busy, for bytes at off.
func (o *stagedObject) claim(off int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.busy:
		return &RequestError{Status: http.StatusConflict, Problem: "another request is sending this object", Hint: "wait for it, then ask for the offset"}
	case off != o.held || o.done:
		return &RequestError{Status: http.StatusConflict, Problem: fmt.Sprintf("%d bytes are held", o.held), Hint: "go on from the offset in Upload-Offset"}
	}
	o.busy = true
	return nil
}

func (o *stagedObject) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = false
}

func (o *stagedObject) receiveAll(r io.Reader, limit int64, room func() error) error {
	f, err := os.OpenFile(o.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return unavailable("open the staged object", err)
	}
	defer f.Close()
	if err := o.resume(f); err != nil {
		return unavailable("read back the staged object", err)
	}
	if o.size >= 0 {
		limit = o.size
	}
	err = o.take(f, r, limit, room)
	if syncErr := f.Sync(); syncErr != nil {
		o.restart() // what reached the disk is not known
		return unavailable("stage the object", syncErr)
	}
	if err == nil && (o.size < 0 || o.offset() == o.size) {
		err = o.finish(f)
	}
	return err
}

// resume cuts f to the bytes that were counted and brings the digest up to them.
func (o *stagedObject) resume(f *os.File) error {
	held := o.offset()
	if err := f.Truncate(held); err != nil {
		return err
	}
	if o.digest == nil {
		d := newDigester()
		if n, err := io.Copy(d, io.NewSectionReader(f, 0, held)); err != nil || n != held {
			return errors.Join(err, fmt.Errorf("%d of %d bytes could be read", n, held))
		}
		o.digest = d
	}
	_, err := f.Seek(held, io.SeekStart)
	return err
}

// roomEvery is how many bytes are taken between two looks at the free space.
const roomEvery = 16 << 20

// take copies r to f, counting what was written whole.
func (o *stagedObject) take(f *os.File, r io.Reader, limit int64, room func() error) error {
	buf := make([]byte, copyBytes)
	held, looked := o.offset(), int64(-roomEvery)
	for {
		n, readErr := fill(r, buf)
		if held+int64(n) > limit {
			return &RequestError{Status: http.StatusRequestEntityTooLarge, Problem: fmt.Sprintf("the body goes beyond %d bytes", limit), Hint: "announce the object's real size; limits.object_size bounds it"}
		}
		if held-looked >= roomEvery {
			if err := room(); err != nil {
				return err
			}
			looked = held
		}
		if _, err := f.Write(buf[:n]); err != nil {
			o.digest = nil
			return unavailable("stage the object", err)
		}
		o.digest.Write(buf[:n])
		held += int64(n)
		o.count(held)
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return &RequestError{Status: http.StatusBadRequest, Problem: "the body broke off", Hint: "go on from the offset in Upload-Offset"}
		}
	}
}

func (o *stagedObject) count(held int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = held
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
		return &RequestError{Status: http.StatusUnprocessableEntity, Problem: "the bytes have another digest than announced: " + whole.String(), Hint: "send the object again from offset 0"}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.whole, o.chunks, o.done = whole, o.digest.finish(), true
	o.digest = nil
	return nil
}

// restart forgets the bytes held.
func (o *stagedObject) restart() {
	o.digest = nil
	o.count(0)
}

// unavailable wraps a fault of this machine, for which the client is asked to come back.
func unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}
