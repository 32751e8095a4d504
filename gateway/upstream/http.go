package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// HTTPConfig says which mirror an [HTTP] reads and with how much patience. It prints its URL only.
type HTTPConfig struct {
	// URL is the directory that names are relative to: http or https, without user, query or fragment.
	URL string
	// Header is sent with every request, credentials included. It never goes to another host.
	Header http.Header
	// RootCAs are who may vouch for an https mirror; nil for the system's.
	RootCAs *x509.CertPool
	// Transport replaces the connection pool; RootCAs and MaxConns are not used then. It must not decompress or follow redirects.
	Transport http.RoundTripper
	// MaxConns bounds the connections to the mirror; a request beyond it waits, at most HeaderTimeout. Default 256.
	MaxConns int
	// HeaderTimeout is how long the mirror may take to begin its answer, connecting included. Default 10 s.
	HeaderTimeout time.Duration
	// A body must bring FloorBytes in each FloorWindow that is spent waiting for it. Defaults 32 KiB and 30 s.
	FloorBytes  int64
	FloorWindow time.Duration
}

// String returns the URL only.
func (c HTTPConfig) String() string { return "HTTPConfig{" + c.URL + "}" }

// GoString is String for %#v.
func (c HTTPConfig) GoString() string { return c.String() }

// LogValue is String for slog.
func (c HTTPConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// HTTP is a mirror over HTTP. It trusts the mirror with nothing: a body is as long as announced or an error, never a clean end;
// encodings and partial content that were not asked for are errors; redirects stay on the host that is configured.
//
// A segment of a name is sent percent-encoded but for A-Z a-z 0-9 . _ and -, so ':' '+' and '~' are %3A %2B and %7E, which
// every server decodes alike.
type HTTP struct {
	base   *url.URL
	cfg    HTTPConfig
	client *http.Client
}

var _ Store = (*HTTP)(nil)

var (
	// errSlowHeader is the cause when a mirror does not begin to answer.
	errSlowHeader = errors.New("the mirror did not begin to answer in time")
	// errStalled is the cause when a body comes too slowly.
	errStalled = errors.New("the mirror sent too little for too long")
)

// NewHTTP checks cfg. It does not connect.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	base, err := parseBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.Header = cfg.Header.Clone()
	cfg.MaxConns = orDefault(cfg.MaxConns, 256)
	cfg.HeaderTimeout = orDefault(cfg.HeaderTimeout, 10*time.Second)
	cfg.FloorBytes = orDefault(cfg.FloorBytes, 32<<10)
	cfg.FloorWindow = orDefault(cfg.FloorWindow, 30*time.Second)
	if cfg.Transport == nil {
		cfg.Transport = newTransport(cfg)
	}
	h := &HTTP{base: base, cfg: cfg}
	h.client = &http.Client{Transport: cfg.Transport, CheckRedirect: h.checkRedirect}
	return h, nil
}

func orDefault[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// parseBase reads the URL of a mirror. Its text is not repeated in errors: it may hold a password.
func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("upstream URL: not a URL")
	case u.User != nil:
		return nil, errors.New("upstream URL: it holds a user or password: configure credentials on their own")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.Opaque != "":
		return nil, errors.New("upstream URL: want http://HOST/PATH or https://HOST/PATH")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("upstream URL: it has a query or fragment: names could not be appended to it")
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path, u.RawPath = u.Path+"/", u.EscapedPath()+"/"
	}
	return u, nil
}

// newTransport is a pool for hundreds of parallel reads. It uses no proxy: the host is configuration, and so is the way there.
func newTransport(cfg HTTPConfig) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: cfg.HeaderTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: cfg.HeaderTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		MaxConnsPerHost:     cfg.MaxConns,
		MaxIdleConns:        cfg.MaxConns,
		MaxIdleConnsPerHost: cfg.MaxConns,
		IdleConnTimeout:     90 * time.Second,
		// A mirror has no reason to send more than this before its body.
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// String returns the mirror's URL.
func (h *HTTP) String() string { return "HTTP{" + h.cfg.URL + "}" }

// GoString is String for %#v.
func (h *HTTP) GoString() string { return h.String() }

// checkRedirect lets a mirror move names about on its own host, three times.
func (h *HTTP) checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != h.base.Scheme || req.URL.Host != h.base.Host {
		return errors.New("the mirror redirects to another host")
	}
	if len(via) > 3 {
		return errors.New("the mirror redirects in circles")
	}
	return nil
}

// Stat implements [Store] with HEAD.
func (h *HTTP) Stat(ctx context.Context, name string) (Info, error) {
	info, err := h.stat(ctx, name)
	if err != nil {
		return Info{}, fmt.Errorf("stat upstream object %q: %w", name, err)
	}
	return info, nil
}

func (h *HTTP) stat(ctx context.Context, name string) (Info, error) {
	resp, cancel, err := h.do(ctx, http.MethodHead, name, 0)
	if err != nil {
		return Info{}, err
	}
	defer cancel(nil)
	defer resp.Body.Close()
	if err := checkResponse(resp, http.StatusOK); err != nil {
		return Info{}, err
	}
	return Info{Size: resp.ContentLength, Modified: modified(resp)}, nil
}

// Open implements [Store] with GET. Reading the Object ends with an error when ctx ends.
func (h *HTTP) Open(ctx context.Context, name string, off int64) (*Object, error) {
	obj, err := h.open(ctx, name, off)
	if err != nil {
		return nil, fmt.Errorf("open upstream object %q: %w", name, err)
	}
	return obj, nil
}

func (h *HTTP) open(ctx context.Context, name string, off int64) (*Object, error) {
	if off < 0 {
		return nil, checkOffset(off, 0)
	}
	resp, cancel, err := h.do(ctx, http.MethodGet, name, off)
	if err != nil {
		return nil, err
	}
	obj, err := h.object(resp, cancel, off)
	if err != nil {
		cancel(nil)
		resp.Body.Close()
		return nil, err
	}
	return obj, nil
}

// object checks a response to a GET from off on and positions its body there.
func (h *HTTP) object(resp *http.Response, cancel context.CancelCauseFunc, off int64) (*Object, error) {
	switch {
	case off > 0 && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return beyondEnd(resp, cancel, off)
	case off > 0 && resp.StatusCode == http.StatusPartialContent:
		size, err := rangeSize(resp, off)
		if err != nil {
			return nil, err
		}
		return &Object{ReadCloser: h.body(resp, cancel), Info: Info{Size: size, Modified: modified(resp)}}, nil
	}
	if err := checkResponse(resp, http.StatusOK); err != nil {
		return nil, err
	}
	if err := checkOffset(off, resp.ContentLength); err != nil {
		return nil, err
	}
	body := h.body(resp, cancel)
	if _, err := io.CopyN(io.Discard, body, off); err != nil { // the mirror does not do ranges
		return nil, err
	}
	return &Object{ReadCloser: body, Info: Info{Size: resp.ContentLength, Modified: modified(resp)}}, nil
}

// beyondEnd reads a 416: from the end of an object there is nothing to read, from beyond it is an error.
func beyondEnd(resp *http.Response, cancel context.CancelCauseFunc, off int64) (*Object, error) {
	total, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */")
	size, err := parseSize(total)
	if !ok || err != nil {
		return nil, statusError(resp.StatusCode)
	}
	if err := checkOffset(off, size); err != nil {
		return nil, err
	}
	if off < size {
		return nil, statusError(resp.StatusCode)
	}
	cancel(nil)
	resp.Body.Close()
	return &Object{ReadCloser: io.NopCloser(strings.NewReader("")), Info: Info{Size: size, Modified: modified(resp)}}, nil
}

// rangeSize demands that a 206 holds everything from off on (RFC 9110, section 14.4) and returns the size of the whole object.
func rangeSize(resp *http.Response, off int64) (int64, error) {
	if err := checkResponse(resp, http.StatusPartialContent); err != nil {
		return 0, err
	}
	text, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	span, total, ok2 := strings.Cut(text, "/")
	first, last, ok3 := strings.Cut(span, "-")
	from, err := parseSize(first)
	to, err2 := parseSize(last)
	size, err3 := parseSize(total)
	if !ok || !ok2 || !ok3 || errors.Join(err, err2, err3) != nil {
		return 0, errors.New("the mirror sent a part without saying which")
	}
	if from != off || to != size-1 || resp.ContentLength != size-off {
		return 0, errors.New("the mirror sent another part than was asked for")
	}
	return size, nil
}

// parseSize reads a decimal number of bytes, digits only.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// checkResponse demands a status, a length and the bytes as they are.
func checkResponse(resp *http.Response, want int) error {
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return fs.ErrNotExist
	case resp.StatusCode != want:
		return statusError(resp.StatusCode)
	case resp.Uncompressed || resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		return errors.New("the mirror encoded the object, which was not asked for")
	case resp.ContentLength < 0:
		return errors.New("the mirror does not say how long the object is")
	}
	return nil
}

// statusError names a status and nothing else that the mirror said.
func statusError(code int) error { return fmt.Errorf("the mirror answered with status %d", code) }

func modified(resp *http.Response) time.Time {
	t, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		return time.Time{}
	}
	return t
}

// do sends a request, and once more after a short pause when the mirror could not be reached or was not ready. The caller calls
// cancel when it is done with the body.
func (h *HTTP) do(ctx context.Context, method, name string, off int64) (*http.Response, context.CancelCauseFunc, error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	resp, cancel, err := h.once(ctx, method, name, off)
	if !worthRetry(resp, err) {
		return resp, cancel, err
	}
	if resp != nil {
		cancel(nil)
		resp.Body.Close()
	}
	select {
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
	}
	return h.once(ctx, method, name, off)
}

// worthRetry reports whether asking again may help: no connection was made, or a gateway says that it had none.
func worthRetry(resp *http.Response, err error) bool {
	if err != nil {
		var op *net.OpError
		return errors.As(err, &op) && op.Op == "dial"
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// once sends one request and waits for the header of its answer.
func (h *HTTP) once(ctx context.Context, method, name string, off int64) (*http.Response, context.CancelCauseFunc, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := h.request(ctx, method, name, off)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	timer := time.AfterFunc(h.cfg.HeaderTimeout, func() { cancel(errSlowHeader) })
	resp, err := h.client.Do(req)
	if err == nil && !timer.Stop() { // the timer fired just now: the body would end at once
		resp.Body.Close()
		err = errSlowHeader
	}
	if err == nil {
		return resp, cancel, nil
	}
	timer.Stop()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	var ue *url.Error
	if errors.As(err, &ue) { // without its text, which repeats where a redirect led
		err = ue.Err
	}
	return nil, nil, err
}

func (h *HTTP) request(ctx context.Context, method, name string, off int64) (*http.Request, error) {
	u := *h.base
	u.RawPath = u.EscapedPath() + escape(name)
	u.Path += name
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	if h.cfg.Header != nil {
		req.Header = h.cfg.Header.Clone()
	}
	req.Header.Set("Accept-Encoding", "identity")
	if off > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-")
	}
	return req, nil
}

// escape percent-encodes a name's octets but for letters, digits, '.', '_', '-' and the slashes between its segments.
func escape(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._-/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
