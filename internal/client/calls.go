package client

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
)

// presenceBatch is how many names one presence request carries.
const presenceBatch = 5000

// Whoami asks who the gate takes the client for.
func (c *Client) Whoami(ctx context.Context) (gateway.Whoami, error) {
	var w gateway.Whoami
	err := c.call(ctx, request{op: "ask who I am", method: http.MethodGet, path: []string{"v1", "whoami"}, into: &w})
	return w, err
}

// Presence asks which names exist in zone for the asker, in batches. The answer is in the order of the names.
func (c *Client) Presence(ctx context.Context, zone string, names []string) ([]bool, error) {
	present := make([]bool, 0, len(names))
	for len(names) > 0 {
		batch := names[:min(len(names), presenceBatch)]
		names = names[len(batch):]
		var reply gateway.PresenceReply
		err := c.call(ctx, request{
			op: "ask what is present", method: http.MethodPost, path: []string{"v1", "presence"},
			send: gateway.PresenceRequest{Zone: zone, Names: batch}, into: &reply,
		})
		if err != nil {
			return nil, err
		}
		if len(reply.Present) != len(batch) {
			return nil, fmt.Errorf("ask what is present: %d answers to %d names", len(reply.Present), len(batch))
		}
		present = append(present, reply.Present...)
	}
	return present, nil
}

// Names returns the names of the archives of zone that are published under hashes, of 64 hex digits each, and that the asker may read. They
// come in no order.
func (c *Client) Names(ctx context.Context, zone string, hashes []string) ([]string, error) {
	var names []string
	for batch := range slices.Chunk(hashes, presenceBatch) {
		var reply gateway.NamesReply
		err := c.call(ctx, request{
			op: "ask for names", method: http.MethodPost, path: []string{"v1", "names"}, send: gateway.NamesRequest{Zone: zone, Hashes: batch}, into: &reply,
		})
		if err != nil {
			return nil, err
		}
		names = append(names, reply.Names...)
	}
	return names, nil
}

// Why asks why an object of zone is there for the asker or not.
func (c *Client) Why(ctx context.Context, zone, name string) (gateway.Why, error) {
	var w gateway.Why
	err := c.call(ctx, request{
		op: "ask why", method: http.MethodPost, path: []string{"v1", "why"}, send: gateway.WhyRequest{Zone: zone, Name: name}, into: &w,
	})
	return w, err
}

// Certify asks the gate to vouch for a public key, a line, with which the caller, a CI job, will sign statements.
func (c *Client) Certify(ctx context.Context, key string) (gateway.JobCertificate, error) {
	var r gateway.JobCertificate
	err := c.call(ctx, request{
		op: "have the job's key certified", method: http.MethodPost, path: []string{"v1", "certificate"}, send: gateway.CertificateRequest{Key: key}, into: &r,
	})
	return r, err
}

const opBegin = "begin upload"

// Begin announces a write to zone.
func (c *Client) Begin(ctx context.Context, zone string, r gateway.UploadRequest) (gateway.Upload, error) {
	var u gateway.Upload
	err := c.call(ctx, request{
		op: opBegin, method: http.MethodPost, path: []string{"v1", "zones", zone, "uploads"}, send: r, into: &u,
	})
	if err != nil {
		return u, err
	}
	if u.ID == "" || len(u.Objects) != len(r.Objects) {
		return u, errors.New("begin upload: the gate's answer does not match what was announced")
	}
	for i := range u.Objects {
		if u.Objects[i].Name != r.Objects[i].Name {
			return u, errors.New("begin upload: the gate's answer is in another order")
		}
	}
	return u, nil
}

// Upload asks how far a write has come.
func (c *Client) Upload(ctx context.Context, id string) (gateway.Upload, error) {
	var u gateway.Upload
	err := c.call(ctx, request{op: "ask for upload", method: http.MethodGet, path: []string{"v1", "uploads", id}, into: &u})
	return u, err
}

// Abandon ends a write without publishing anything.
func (c *Client) Abandon(ctx context.Context, id string) error {
	return c.call(ctx, request{op: "abandon upload", method: http.MethodDelete, path: []string{"v1", "uploads", id}})
}

// abandonOnce is Abandon without a second attempt.
func (c *Client) abandonOnce(ctx context.Context, id string) error {
	return c.once(ctx, request{op: "abandon upload", method: http.MethodDelete, path: []string{"v1", "uploads", id}})
}

// Commit publishes a write with its signed statement, a DSSE envelope.
func (c *Client) Commit(ctx context.Context, id string, envelope []byte) (gateway.CommitResult, error) {
	var r gateway.CommitResult
	err := c.call(ctx, request{
		op: "commit upload", method: http.MethodPost, path: []string{"v1", "uploads", id, "commit"},
		within: time.Hour, // in place, the gate reads every object first
		raw:    envelope, kind: "application/vnd.dsse.envelope.v1+json", into: &r,
	})
	return r, err
}

// Statement returns a signed statement about an object of zone, a DSSE envelope that is not verified. None, and one that is withheld, are the
// same error, which wraps fs.ErrNotExist.
func (c *Client) Statement(ctx context.Context, zone, name string) ([]byte, error) {
	var envelope []byte
	err := c.call(ctx, request{
		op: "get the statement about " + printable(name), method: http.MethodGet,
		path: slices.Concat(c.mount, []string{zone}, strings.Split(name+gateway.StatementSuffix, "/")), into: &envelope,
	})
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return envelope, err
}

// ErrBytes is wrapped when bytes came that are not those that the gate has on record.
var ErrBytes = errors.New("the bytes are not the recorded ones")

// Stat asks for the digest and the size of an object of zone. Absent and withheld are the same error, which wraps fs.ErrNotExist.
func (c *Client) Stat(ctx context.Context, zone, name string) (artifact.Digest, int64, error) {
	t := tries{client: c}
	for {
		digest, size, err := c.statOnce(ctx, slices.Concat(c.mount, []string{zone}, strings.Split(name, "/")))
		if err == nil {
			return digest, size, nil
		}
		if err := t.pause(ctx, err); err != nil {
			return artifact.Digest{}, 0, fmt.Errorf("stat %s: %w", printable(name), err)
		}
	}
}

func (c *Client) statOnce(ctx context.Context, path []string) (artifact.Digest, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := c.newRequest(ctx, http.MethodHead, path, nil)
	if err != nil {
		return artifact.Digest{}, 0, err
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.http.Do(req)
	if err != nil {
		return artifact.Digest{}, 0, &netError{op: "stat object", err: err}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return artifact.Digest{}, 0, errAbsent
	default:
		return artifact.Digest{}, 0, errorOf("stat object", resp)
	}
	digest, err := reprDigest(resp.Header.Get("Repr-Digest"))
	return digest, resp.ContentLength, err
}

var errAbsent = fmt.Errorf("the gate answered 404: not there, or not for you: %w", fs.ErrNotExist)

// Get downloads an object of zone into w and verifies its bytes against the digest the gate gave (Repr-Digest, RFC
// 9530). Absent and withheld are the same error, which wraps fs.ErrNotExist; other bytes are one that wraps [ErrBytes]. After any error
// the bytes in w are worth nothing.
func (c *Client) Get(ctx context.Context, zone, name string, w io.Writer) (artifact.Digest, int64, error) {
	g := download{hash: sha256.New(), w: w, path: slices.Concat(c.mount, []string{zone}, strings.Split(name, "/"))}
	t := tries{client: c}
	for {
		err := g.attempt(ctx, c)
		if err == nil {
			return g.want, g.held, nil
		}
		if g.moved {
			t.progress()
		}
		if err := t.pause(ctx, err); err != nil {
			return artifact.Digest{}, 0, fmt.Errorf("get %s: %w", printable(name), err)
		}
	}
}

// download is a Get under way; a cut transfer goes on where it was cut.
type download struct {
	hash  hash.Hash
	w     io.Writer
	path  []string
	want  artifact.Digest
	held  int64
	moved bool // the last attempt brought bytes
}

// stallTime is how long no byte may come before a transfer is cut and taken up again.
const stallTime = 30 * time.Second

var errStalled = fmt.Errorf("nothing came for %v", stallTime)

func (g *download) attempt(ctx context.Context, c *Client) error {
	g.moved = false
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTime, func() { cancel(errStalled) })
	defer stalled.Stop()
	req, err := c.newRequest(ctx, http.MethodGet, g.path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Accept-Encoding", "identity")
	if g.held > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", g.held))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &netError{op: "get object", err: err}
	}
	defer resp.Body.Close()
	if err := g.accept(resp); err != nil {
		return err
	}
	return g.copy(resp.Body, func() { stalled.Reset(stallTime) })
}

// accept checks that an answer carries on with the same bytes.
func (g *download) accept(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return errAbsent
	case resp.StatusCode == http.StatusOK && g.held == 0:
	case resp.StatusCode == http.StatusPartialContent && g.held > 0 &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", g.held)):
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent:
		return errors.New("the gate answered with another range than asked for")
	default:
		return errorOf("get object", resp)
	}
	want, err := reprDigest(resp.Header.Get("Repr-Digest"))
	if err != nil {
		return err
	}
	if g.held > 0 && want != g.want {
		return fmt.Errorf("%w: the object changed while it was read", ErrBytes)
	}
	g.want = want
	return nil
}

// copy calls alive whenever bytes have come.
func (g *download) copy(body io.Reader, alive func()) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			alive()
			g.moved = true
			g.held += int64(n)
			g.hash.Write(buf[:n])
			if _, werr := g.w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == nil {
			continue
		}
		got := artifact.Digest(g.hash.Sum(nil))
		switch {
		case got == g.want: // also when the end was cut off behind the last byte
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w: they have digest %s, the gate promised %s: do not use them", ErrBytes, got, g.want)
		}
		return &netError{op: "get object", err: err}
	}
}

// reprDigest reads the sha-256 member of Repr-Digest: "sha-256=:BASE64:".
func reprDigest(field string) (artifact.Digest, error) {
	for member := range strings.SplitSeq(field, ",") {
		text, ok := strings.CutPrefix(strings.TrimSpace(member), "sha-256=:")
		if !ok {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, ":"))
		if err == nil && len(raw) == sha256.Size {
			return artifact.Digest(raw), nil
		}
	}
	return artifact.Digest{}, fmt.Errorf("%w: the gate gave no sha-256 digest to verify them against", ErrBytes)
}
