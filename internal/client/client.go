// Package client talks to a gate: it asks who one is and what is there, downloads, and writes with a signed statement
// of what was built from which sources.
//
// [Client] is the gate's API. A [TokenSource] is a way to sign in, which [ChooseSource] finds. [Netrc] is where a token is kept, and a [Renewer]
// holds one that renews by itself.
// [Derive] finds out, from the siginfo files of a shared-state cache, what every object was built from, and [Client.Push]
// signs that and publishes it.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// Bounds of what a gate can make a client keep or wait for.
const (
	maxReply      = 64 << 20 // bytes of a JSON answer
	maxErrorReply = 16 << 10 // bytes of an error
	maxErrorText  = 1000     // bytes of each of its texts shown
	maxRetryAfter = 2 * time.Minute
	callTime      = 3 * time.Minute // for one attempt of one call
	firstBackoff  = 250 * time.Millisecond
	maxBackoff    = 15 * time.Second
)

// Config says which gate to talk to, and as whom.
type Config struct {
	// Gate is the URL of the gate's https door. Plain http is accepted for a loopback address only.
	Gate string
	// Mount is the path that zones are below; default "/sstate".
	Mount string
	// Token is sent as Bearer. Zero: anonymous, or a client certificate.
	Token authn.Secret
	// CA verifies the gate; CAFile is a PEM file that does. Both nil and empty: the system's certificates.
	CA     *x509.CertPool
	CAFile string
	// Certificates are shown to the gate when it asks for one.
	Certificates []tls.Certificate
	// CertFile and KeyFile are PEM files of a certificate to show in place of Certificates. They are read again for each connection, since a
	// certificate may be renewed; while they do not fit each other, what was read last is shown.
	CertFile, KeyFile string
	// Transport replaces the network; what says how to verify or what to show must then be empty.
	Transport http.RoundTripper
	UserAgent string // default "lychgate"
	// Attempts bounds how often one request is tried without any progress; default 6.
	Attempts int
	// Wait pauses between attempts; default is to sleep until d has passed or ctx is done.
	Wait func(ctx context.Context, d time.Duration) error
}

// Client is a connection pool to one gate. It is safe for concurrent use.
type Client struct {
	gate      string   // as it was given
	mount     []string // segments
	base      *url.URL
	http      *http.Client
	token     authn.Secret
	userAgent string
	attempts  int
	wait      func(ctx context.Context, d time.Duration) error
}

// New checks cfg and returns a Client. It makes no connection.
func New(cfg Config) (*Client, error) {
	base, err := gateURL(cfg.Gate)
	if err != nil {
		return nil, err
	}
	transport, err := transportOf(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{
		gate: cfg.Gate, mount: strings.Split(strings.Trim(cmp.Or(cfg.Mount, "/sstate"), "/"), "/"), base: base, token: cfg.Token, userAgent: cfg.UserAgent, attempts: cfg.Attempts, wait: cfg.Wait,
		// A gate has no reason to send its client elsewhere; following would carry the token there.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
	}
	if c.userAgent == "" {
		c.userAgent = "lychgate"
	}
	if c.attempts <= 0 {
		c.attempts = 6
	}
	if c.wait == nil {
		c.wait = sleep
	}
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func gateURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("gate %s is not a URL: write https://HOST[:PORT]", printable(text))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("a gate's URL takes no user, query or fragment: give the token by itself")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && isLoopback(u.Hostname()):
	case u.Scheme == "http":
		return nil, fmt.Errorf("gate %s: plain http would show the token to the network; use https", printable(text))
	default:
		return nil, fmt.Errorf("gate %s: want an https URL", printable(text))
	}
	return u.JoinPath("/"), nil
}

func isLoopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback()
	}
	return host == "localhost"
}

func transportOf(cfg Config) (http.RoundTripper, error) {
	if cfg.Transport != nil {
		if cfg.CA != nil || cfg.CAFile != "" || cfg.Certificates != nil || cfg.CertFile != "" || cfg.KeyFile != "" {
			return nil, errors.New("a transport brings its own certificates: leave CA, CAFile, Certificates, CertFile and KeyFile empty")
		}
		return cfg.Transport, nil
	}
	tlsConfig := &tls.Config{Certificates: cfg.Certificates, MinVersion: tls.VersionTLS12}
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		pair, err := newCertificateFiles(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.GetClientCertificate = pair.current
	}
	pool := cfg.CA
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		if pool != nil {
			pool = pool.Clone()
		} else {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %q holds no PEM certificate", cfg.CAFile)
		}
	}
	tlsConfig.RootCAs = pool
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       45 * time.Second, // the gate closes after 60 s; be first
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
	}, nil
}

// certificateFiles is a client certificate in files. It is safe for concurrent use.
type certificateFiles struct {
	cert, key string

	mu   sync.Mutex // guards last
	last *tls.Certificate
}

func newCertificateFiles(cert, key string) (*certificateFiles, error) {
	f := &certificateFiles{cert: cert, key: key}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("load the client certificate: %w", err)
	}
	f.last = &pair
	return f, nil
}

// current returns what the files hold now, or held last.
func (f *certificateFiles) current(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.last = &pair
	}
	return f.last, nil
}

// onNewConnection returns a client of the same gate whose every request has a connection of its own, so that the present certificate is shown.
func (c *Client) onNewConnection() *Client {
	shared, ok := c.http.Transport.(*http.Transport)
	if !ok {
		return c
	}
	other, caller, transport := *c, *c.http, shared.Clone()
	transport.DisableKeepAlives = true
	caller.Transport, other.http = transport, &caller
	return &other
}

// Error is the gate's refusal of one request.
type Error struct {
	Op         string // what was tried: "begin upload"
	Status     int
	Text       string // the gate's words, made printable; may be empty
	Hint       string // what to do next; may be empty
	retryAfter time.Duration
}

// Error says what was tried, what the gate said, and what to do next.
func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		text = strings.ToLower(http.StatusText(e.Status))
	}
	msg := fmt.Sprintf("%s: the gate answered %d: %s", e.Op, e.Status, text)
	if hint := e.hint(); hint != "" {
		msg += " (" + hint + ")"
	}
	return msg
}

func (e *Error) hint() string {
	switch {
	case e.Hint != "":
		return e.Hint
	case e.Status == http.StatusUnauthorized:
		return "the token may have ended or been revoked; run lychgate login"
	case e.Status >= 300 && e.Status < 400:
		return "it redirects; give the URL it redirects to as the gate"
	}
	return ""
}

// temporary reports whether the same request may succeed later.
func (e *Error) temporary() bool {
	return e.Status >= 500 && e.Status != http.StatusNotImplemented && e.Status != http.StatusInsufficientStorage ||
		e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// errorOf reads a refusal, bounded. It consumes the body.
func errorOf(op string, resp *http.Response) *Error {
	e := &Error{Op: op, Status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorReply))
	var api gateway.APIError
	if err == nil && json.Unmarshal(body, &api, json.RejectUnknownMembers(true)) == nil {
		e.Text, e.Hint = words(api.Error), words(api.Hint)
	}
	return e
}

// words makes the gate's text fit for a terminal.
func words(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "..."
	}
	return strings.TrimSpace(s)
}

// retryAfter reads the seconds form of Retry-After (RFC 9110, section 10.2.3), bounded; 0 when there is none.
func retryAfter(text string) time.Duration {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(min(n, 3600))*time.Second, maxRetryAfter)
}

// request is one call of the API.
type request struct {
	op     string
	method string
	path   []string // segments below the gate's URL
	header http.Header
	send   any // encoded as JSON; nil for none
	raw    []byte
	kind   string        // content type of raw
	within time.Duration // bounds one attempt; 0: callTime
	into   any           // decoded from JSON, or the body itself for a *[]byte; nil when no body is wanted
}

// call makes a request, again after a fault that may pass. Every call here may safely be repeated.
func (c *Client) call(ctx context.Context, r request) error {
	if err := r.encode(); err != nil {
		return err
	}
	t := tries{client: c}
	for {
		err := c.once(ctx, r)
		if err == nil {
			return nil
		}
		if err := t.pause(ctx, err); err != nil {
			return err
		}
	}
}

// send is call for what must not be repeated.
func (c *Client) send(ctx context.Context, r request) error {
	if err := r.encode(); err != nil {
		return err
	}
	return c.once(ctx, r)
}

// encode makes the body.
func (r *request) encode() error {
	if r.send == nil {
		return nil
	}
	body, err := json.Marshal(r.send)
	if err != nil {
		return fmt.Errorf("%s: %w", r.op, err)
	}
	r.raw, r.kind = body, "application/json"
	return nil
}

func (c *Client) once(ctx context.Context, r request) error {
	within := r.within
	if within == 0 {
		within = callTime
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var body io.Reader
	if r.raw != nil {
		body = bytes.NewReader(r.raw)
	}
	req, err := c.newRequest(ctx, r.method, r.path, body)
	if err != nil {
		return fmt.Errorf("%s: %w", r.op, err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.raw != nil {
		req.Header.Set("Content-Type", r.kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &netError{op: r.op, err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return errorOf(r.op, resp)
	}
	return decode(r, resp.Body)
}

func decode(r request, body io.Reader) error {
	if r.into == nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(body, maxReply+1))
	if err != nil {
		return &netError{op: r.op, err: err}
	}
	if len(text) > maxReply {
		return fmt.Errorf("%s: the gate's answer is longer than %d bytes", r.op, maxReply)
	}
	if raw, ok := r.into.(*[]byte); ok {
		*raw = text
		return nil
	}
	if err := json.Unmarshal(text, r.into, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%s: the gate's answer is not understood (is the client older than the gate?): %w", r.op, err)
	}
	return nil
}

// newRequest addresses the gate. Segments are data: each is escaped whole.
func (c *Client) newRequest(ctx context.Context, method string, path []string, body io.Reader) (*http.Request, error) {
	target := strings.TrimSuffix(c.base.String(), "/")
	for _, segment := range path {
		target += "/" + url.PathEscape(segment)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Accept", "application/json")
	if c.token.IsZero() {
		return req, nil
	}
	if strings.ContainsFunc(c.token.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("the token holds what no token does, such as a space or the end of a line: is it the right file?")
	}
	req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	return req, nil
}

// netError is a fault on the way to the gate and back.
type netError struct {
	op  string
	err error
}

func (e *netError) Error() string { return fmt.Sprintf("%s: %v", e.op, e.err) }
func (e *netError) Unwrap() error { return e.err }

// Unreachable reports whether err, of a Client, is about the way to the gate and back, and not an answer of the gate's.
func Unreachable(err error) bool {
	var broken *netError
	return errors.As(err, &broken)
}

// WithAttempts returns a client that tries a request n times without progress. They share their connections.
func (c *Client) WithAttempts(n int) *Client {
	other := *c
	other.attempts = n
	return &other
}

// HashURL returns where a zone's hash equivalence is.
func (c *Client) HashURL(zone string) string {
	u := c.base.JoinPath("hash", zone)
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	return u.String()
}

// TLS returns a copy of how the gate is verified, and which certificate is shown to it; nil with a Transport that is not ours.
func (c *Client) TLS() *tls.Config {
	t, ok := c.http.Transport.(*http.Transport)
	if !ok {
		return nil
	}
	return t.TLSClientConfig.Clone()
}

// tries counts attempts without progress, and waits longer after each.
type tries struct {
	client *Client
	failed int
}

// progress forgets the failures: the gate has more than it had.
func (t *tries) progress() { t.failed = 0 }

// pause waits before the next attempt. It returns the error to give up with.
func (t *tries) pause(ctx context.Context, err error) error {
	var refused *Error
	var broken *netError
	delay := min(firstBackoff<<t.failed, maxBackoff)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused):
		if !refused.temporary() {
			return err
		}
		delay = max(delay, refused.retryAfter)
	case !errors.As(err, &broken) || isCertificate(err):
		return err
	}
	if t.failed++; t.failed >= t.client.attempts {
		return fmt.Errorf("gave up after %d attempts: %w", t.failed, err)
	}
	if werr := t.client.wait(ctx, delay); werr != nil {
		return werr
	}
	return nil
}

// isCertificate reports whether err says that the gate is not who it should be: asking again does not help.
func isCertificate(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify)
}
