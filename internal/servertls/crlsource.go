package servertls

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// ListSource says where a revocation list comes from. Exactly one member is set.
type ListSource struct {
	File string // read every two seconds
	// URL is asked every few minutes. Plain http will do, and most authorities publish that way: a list is signed, and who can
	// replace it on its way can at most hold back a newer one, until the list in force ends.
	URL string
}

// String returns "file:PATH" or the URL.
func (s ListSource) String() string {
	if s.File != "" {
		return "file:" + s.File
	}
	return s.URL
}

// reader reads a list from its place. It returns nil when there is nothing new since what it returned last, which again asks to
// have all the same.
type reader interface {
	read(ctx context.Context, again bool) ([]byte, error)
}

// source follows one place.
type source struct {
	ListSource
	reader reader

	reading sync.Mutex // held while the place is read, so that an older answer cannot come after a newer one

	// Guarded by RevocationLists.mu.
	list   *crl   // the last good one; nil before the first
	failed string // why what was read last was not taken; empty when it was
	ended  bool   // that list ended, and the log knows
}

func newSource(s ListSource, client *http.Client) (*source, error) {
	if (s.File == "") == (s.URL == "") {
		return nil, errors.New("want either a file or a URL")
	}
	if s.File != "" {
		return &source{ListSource: s, reader: &fileReader{path: s.File}}, nil
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("want http://HOST/PATH or https://HOST/PATH, without a user")
	}
	return &source{ListSource: s, reader: &urlReader{url: s.URL, client: client}}, nil
}

// fileReader reads a file's content, for the reasons that a Reloader does.
type fileReader struct {
	path string
	last [sha256.Size]byte
}

func (r *fileReader) read(_ context.Context, again bool) ([]byte, error) {
	data, err := readBounded(r.path, maxList)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if sum == r.last && !again {
		return nil, nil
	}
	r.last = sum
	return data, nil
}

// urlReader asks a web server, and after the first answer only for what is newer.
type urlReader struct {
	url    string
	client *http.Client

	etag, modified string // what the last whole answer said
}

// newHTTPClient makes what lists are fetched with. It stays on the host that was asked, and does not fall back to plain http.
func newHTTPClient(timeout time.Duration) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableCompression: true, DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: checkRedirect}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > 3:
		return errors.New("more than three redirects")
	case req.URL.Host != first.Host || req.URL.Scheme != first.Scheme:
		return errors.New("a redirect to another host or scheme: configure that address if it is right")
	}
	return nil
}

func (r *urlReader) read(ctx context.Context, again bool) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, err
	}
	conditional := !again && (r.etag != "" || r.modified != "")
	if conditional {
		setUnlessEmpty(req.Header, "If-None-Match", r.etag)
		setUnlessEmpty(req.Header, "If-Modified-Since", r.modified)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotModified && conditional:
		return nil, nil
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the server answers with status %d", res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(data) > maxList {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxList)
	}
	r.etag, r.modified = res.Header.Get("ETag"), res.Header.Get("Last-Modified")
	return data, nil
}

// withoutURL spares the reader the address, which stands beside the error already.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func setUnlessEmpty(h http.Header, key, value string) {
	if value != "" {
		h.Set(key, value)
	}
}
