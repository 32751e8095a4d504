package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// The bounds of a crawl: what a mirror can make us read.
const (
	maxIndexPage  = 64 << 20 // bytes of one directory index
	maxIndexDepth = 6        // below the cache: EXTRAPATH, two hash directories, and some to spare
	maxIndexPages = 200_000  // 65,536 hash directories for each EXTRAPATH is what a large cache has
	maxNameLine   = 4096     // bytes of a line of a names file
	crawlJobs     = 8
)

// MirrorConfig describes a cache behind http or https.
type MirrorConfig struct {
	URL string // of the cache's top directory
	// Names lists the objects, one name a line, relative to URL. When nil, the server's directory index pages are
	// crawled instead.
	Names io.Reader
	// HTTP makes the requests; nil is a client with the system's certificates. Redirects are not followed to another
	// host.
	HTTP *http.Client
}

// MirrorCache is a cache behind http or https.
type MirrorCache struct {
	base  *url.URL // path ends with a slash
	http  *http.Client
	names []string
	index bool // names come from index pages
}

// OpenMirror prepares a cache behind http or https. It reads Names, and asks the server nothing yet.
func OpenMirror(cfg MirrorConfig) (*MirrorCache, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("cache %s is not an http or https URL", printable(cfg.URL))
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("a cache URL takes no user, query or fragment; use a client certificate or another mirror")
	}
	base = base.JoinPath("/")
	m := &MirrorCache{base: base, http: withoutStrangers(cfg.HTTP), index: cfg.Names == nil}
	if cfg.Names == nil {
		return m, nil
	}
	lines := bufio.NewScanner(cfg.Names)
	lines.Buffer(nil, maxNameLine)
	for lines.Scan() {
		if name := strings.TrimPrefix(strings.TrimSpace(lines.Text()), "./"); name != "" {
			m.names = append(m.names, name)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the list of names: %w", err)
	}
	return m, nil
}

// withoutStrangers returns a copy of c that follows redirects only within a host.
func withoutStrangers(c *http.Client) *http.Client {
	var own http.Client
	if c != nil {
		own = *c
	}
	own.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if first := via[0].URL; len(via) > 5 || r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
			return fmt.Errorf("redirect from host %s is not followed", printable(first.Host))
		}
		return nil
	}
	return &own
}

// List implements [Cache].
func (m *MirrorCache) List(ctx context.Context) (*Listing, error) {
	l := newLister()
	if m.index {
		if err := m.crawl(ctx, l); err != nil {
			return nil, fmt.Errorf("list cache %s: %w (does the server show directory indexes? else give a file of names)", m.base.Redacted(), err)
		}
		return l.listing(), nil
	}
	for _, name := range m.names {
		l.add(name, -1)
	}
	return l.listing(), nil
}

// crawl reads index pages level by level.
func (m *MirrorCache) crawl(ctx context.Context, l *lister) error {
	level, pages := []string{""}, 0
	for depth := 0; len(level) > 0; depth++ {
		if pages += len(level); depth > maxIndexDepth || pages > maxIndexPages {
			return fmt.Errorf("more than %d directories or %d levels", maxIndexPages, maxIndexDepth)
		}
		next, err := m.crawlLevel(ctx, level, l)
		if err != nil {
			return err
		}
		level = next
	}
	return nil
}

func (m *MirrorCache) crawlLevel(ctx context.Context, dirs []string, l *lister) ([]string, error) {
	var mu sync.Mutex // guards next and l
	var next []string
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(crawlJobs)
	for _, dir := range dirs {
		g.Go(func() error {
			page, err := m.page(ctx, dir)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, child := range m.children(dir, page) {
				if strings.HasSuffix(child, "/") {
					next = append(next, child)
				} else {
					l.add(child, -1)
				}
			}
			return nil
		})
	}
	return next, g.Wait()
}

func (m *MirrorCache) page(ctx context.Context, dir string) ([]byte, error) {
	body, err := m.get(ctx, dir, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	page, err := io.ReadAll(io.LimitReader(body, maxIndexPage+1))
	if err == nil && len(page) > maxIndexPage {
		err = fmt.Errorf("more than %d bytes", maxIndexPage)
	}
	if err != nil {
		return nil, fmt.Errorf("read index %s: %w", printable(dir), err)
	}
	return page, nil
}

var href = regexp.MustCompile(`(?i)<a\s[^>]{0,512}?href\s*=\s*["']?([^"'<>\s]{1,1000})`)

// children returns the entries of an index page that lie right below dir, directories with a slash at the end.
func (m *MirrorCache) children(dir string, page []byte) []string {
	at := m.locate(dir)
	seen := map[string]bool{}
	var names []string
	for _, match := range href.FindAllSubmatch(page, -1) {
		link, err := at.Parse(strings.ReplaceAll(string(match[1]), "&amp;", "&"))
		if err != nil || link.Host != at.Host || link.Scheme != at.Scheme || link.RawQuery != "" {
			continue
		}
		rest, below := strings.CutPrefix(link.Path, at.Path)
		inner := strings.TrimSuffix(rest, "/")
		if !below || inner == "" || strings.Contains(inner, "/") || inner == "." || inner == ".." || seen[rest] {
			continue
		}
		seen[rest] = true
		names = append(names, dir+rest)
	}
	return names
}

// locate turns a name into its URL. The name is data: it is escaped, and cannot climb.
func (m *MirrorCache) locate(name string) *url.URL {
	u := *m.base
	u.Path += name
	u.RawPath = ""
	return &u
}

// Open implements [Cache]. A server that ignores Range costs the skipped bytes.
func (m *MirrorCache) Open(ctx context.Context, name string, off int64) (io.ReadCloser, error) {
	return m.get(ctx, name, off)
}

func (m *MirrorCache) get(ctx context.Context, name string, off int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.locate(name).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", printable(name), err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", printable(name), err)
	}
	if err := from(resp, off); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("open object %s: %w", printable(name), err)
	}
	return resp.Body, nil
}

// from brings an answer's body to byte off.
func from(resp *http.Response, off int64) error {
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fs.ErrNotExist
	case resp.StatusCode == http.StatusPartialContent && off > 0:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)) {
			return errors.New("the mirror answered with another range")
		}
		return nil
	case resp.StatusCode == http.StatusOK:
		_, err := io.CopyN(io.Discard, resp.Body, off)
		return err
	}
	return fmt.Errorf("the mirror answered %d", resp.StatusCode)
}
