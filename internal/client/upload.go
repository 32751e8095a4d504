package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
)

// UploadSource is an object to upload.
type UploadSource struct {
	Name   string
	Size   int64
	Digest artifact.Digest
	Cache  Cache // it is opened again for every attempt
	Held   int64 // bytes the gate said it holds
	// Moved is called with the number of bytes read for the first time, from one goroutine at a time; may be nil.
	Moved func(n int64)
}

// changedError says that an object is not what it was when it was announced.
type changedError struct{ name string }

func (e *changedError) Error() string {
	return fmt.Sprintf("object %s changed while it was pushed: push again once nothing writes there", printable(e.name))
}

// UploadObject sends the bytes of object index of an upload, from where the gate already has them. After a fault it
// asks the gate how much arrived and goes on from there. It returns how many bytes were sent in all, in vain or not.
func (c *Client) UploadObject(ctx context.Context, id string, index int, src UploadSource) (int64, error) {
	u := transfer{client: c, src: src, path: []string{"v1", "uploads", id, strconv.Itoa(index)}, high: src.Held}
	t := tries{client: c}
	for held, lost := src.Held, false; ; {
		if lost {
			now, err := u.resume(ctx, id, index)
			if err != nil {
				return u.sent, err
			}
			if now > held {
				t.progress()
			}
			if held, lost = now, false; held == src.Size {
				return u.sent, nil
			}
		}
		now, err := u.attempt(ctx, held)
		switch {
		case err == nil && now == src.Size:
			return u.sent, nil
		case err == nil && now > held:
			t.progress()
			held = now
		case err == nil:
			err = errors.New("the gate holds no more than before")
			fallthrough
		default:
			if err := t.pause(ctx, uploadFault(err)); err != nil {
				return u.sent, err
			}
			lost = true
		}
	}
}

// uploadFault makes the faults after which it is worth asking where to resume look like those of the network.
func uploadFault(err error) error {
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		return &netError{op: refused.Op, err: err}
	}
	return err
}

// transfer is one object under way.
type transfer struct {
	client *Client
	src    UploadSource
	path   []string
	high   int64 // the furthest byte ever read, for progress
	sent   int64
}

// resume asks how much the gate holds.
func (u *transfer) resume(ctx context.Context, id string, index int) (int64, error) {
	up, err := u.client.Upload(ctx, id)
	if err != nil {
		return 0, err
	}
	if index >= len(up.Objects) || up.Objects[index].Name != u.src.Name {
		return 0, errors.New("ask for upload: the gate's answer does not match what was announced")
	}
	held := up.Objects[index].Offset
	if up.Objects[index].State != "needed" {
		held = u.src.Size
	}
	if held < 0 || held > u.src.Size {
		return 0, fmt.Errorf("ask for upload: the gate says it holds %d of %d bytes", held, u.src.Size)
	}
	return held, nil
}

// attempt sends everything from off on and returns how much the gate then holds.
func (u *transfer) attempt(ctx context.Context, off int64) (int64, error) {
	body, err := u.open(ctx, off)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	ctx, cancel := context.WithTimeout(ctx, callTime+time.Duration((u.src.Size-off)/slowest)*time.Second)
	defer cancel()
	req, err := u.client.newRequest(ctx, http.MethodPut, u.path, body)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", opUpload, err)
	}
	req.ContentLength = u.src.Size - off
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Upload-Offset", strconv.FormatInt(off, 10))
	resp, err := u.client.http.Do(req)
	u.sent += body.finish()
	if body.changed {
		if err == nil {
			resp.Body.Close()
		}
		return 0, &changedError{u.src.Name}
	}
	if err != nil {
		return 0, &netError{op: opUpload, err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return 0, errorOf(opUpload, resp)
	}
	return u.offset(resp.Header.Get("Upload-Offset"))
}

// slowest is the rate, in bytes a second, below which a connection counts as hung.
const slowest = 16 << 10

const opUpload = "upload object"

func (u *transfer) offset(field string) (int64, error) {
	held, err := strconv.ParseInt(field, 10, 64)
	if err != nil || held < 0 || held > u.src.Size {
		return 0, &netError{op: opUpload, err: errors.New("the gate does not say how many bytes it holds")}
	}
	return held, nil
}

func (u *transfer) open(ctx context.Context, off int64) (*checkedBody, error) {
	f, err := u.src.Cache.Open(ctx, u.src.Name, off)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", &changedError{u.src.Name}, err)
	}
	b := &checkedBody{file: f, at: off, end: u.src.Size, transfer: u}
	if off == 0 {
		b.hash = sha256.New()
	}
	return b, nil
}

// checkedBody reads exactly the announced bytes of a file and notices when they are no longer the announced ones. The
// transport may go on reading and closing it after Do returned, so its state is guarded.
type checkedBody struct {
	file     io.ReadCloser
	end      int64
	transfer *transfer

	mu      sync.Mutex // guards what follows
	at      int64
	read    int64
	hash    hash.Hash // nil when the file is not read from its start; the gate checks in any case
	over    bool      // finish was called: nothing counts any more
	changed bool
}

// Read implements io.Reader. The last bytes are held back until the digest of all is known to be right.
func (b *checkedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over:
		return 0, errors.New("the upload has ended")
	case b.at == b.end:
		return 0, io.EOF
	}
	if left := b.end - b.at; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := b.file.Read(p)
	b.count(p[:n])
	if b.at < b.end && err == io.EOF || b.at == b.end && !b.matches() {
		b.changed = true
		return 0, errors.New("the file changed")
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (b *checkedBody) count(p []byte) {
	b.at += int64(len(p))
	b.read += int64(len(p))
	if b.hash != nil {
		b.hash.Write(p)
	}
	u := b.transfer
	if b.at > u.high {
		if u.src.Moved != nil {
			u.src.Moved(b.at - u.high)
		}
		u.high = b.at
	}
}

func (b *checkedBody) matches() bool {
	return b.hash == nil || artifact.Digest(b.hash.Sum(nil)) == b.transfer.src.Digest
}

// finish ends the reading and returns how many bytes were read.
func (b *checkedBody) finish() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.read
}

// Close implements io.Closer.
func (b *checkedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.file.Close()
}
