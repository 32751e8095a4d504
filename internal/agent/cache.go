package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
)

// cache keeps verified objects on disk by their digest, so that another build need not download them again. It knows no names and no rights:
// who asks it has just been told by the gate that these bytes may be read. Several agents of one user may share its directory.
//
// It is safe for concurrent use.
type cache struct {
	root  *os.Root
	limit int64 // bytes
	now   func() time.Time

	mu      sync.Mutex // guards what follows
	unknown int64      // bytes that were put since the directory was last looked through
	looked  bool
	size    int64 // what was found then
}

const (
	// cachePrefix begins the name of a file that is being written.
	cachePrefix = "new-"
	// abandoned is how old such a file is when nobody writes it any more.
	abandoned = time.Hour
	// cacheParts is how many parts of the limit there are. One is kept free: the directory is looked through when it may have been filled.
	cacheParts = 16
)

// openCache opens the cache in a directory that nobody else can enter, which it makes if there is none: whoever can read the files in it needs no
// gate.
func openCache(dir string, limit int64, now func() time.Time) (*cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	if err := checkPrivate(dir, "the cache"); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	return &cache{root: root, limit: limit, now: now}, nil
}

// close ends the use of the directory.
func (c *cache) close() error {
	if c == nil {
		return nil
	}
	return c.root.Close()
}

// cachedFile is a file of the cache that is read only.
type cachedFile struct{ *os.File }

var errReadOnly = errors.New("a file of the cache is not written to")

func (cachedFile) Write([]byte) (int, error) { return 0, errReadOnly }

func cacheName(d artifact.Digest) string { return filepath.Join(d.Hex()[:2], d.Hex()) }

// open returns the bytes with a digest, which it has verified, and their number. None is an error that wraps fs.ErrNotExist. What is not what
// its name says is removed.
func (c *cache) open(ctx context.Context, d artifact.Digest) (spoolFile, int64, error) {
	name := cacheName(d)
	f, err := c.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	hash := sha256.New()
	size, err := io.Copy(hash, contextReader{ctx, f})
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if artifact.Digest(hash.Sum(nil)) != d {
		return nil, 0, errors.Join(fmt.Errorf("%w: a file of the cache had other bytes than its name says", fs.ErrNotExist), f.Close(), c.root.Remove(name))
	}
	now := c.now()
	if err := c.root.Chtimes(name, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) { // another agent may have made room
		return nil, 0, errors.Join(err, f.Close())
	}
	return cachedFile{f}, size, nil
}

// contextReader reads until a context is done.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// put keeps the bytes of a verified object, in place of what was used longest ago if need be. An object that would fill the cache by itself is not
// kept.
func (c *cache) put(d artifact.Digest, from io.ReaderAt, size int64) error {
	if size > c.limit/2 {
		return nil
	}
	if err := c.makeRoom(size); err != nil {
		return err
	}
	if err := c.root.MkdirAll(d.Hex()[:2], 0o700); err != nil {
		return err
	}
	temporary := filepath.Join(d.Hex()[:2], cachePrefix+rand.Text())
	if err := c.write(temporary, io.NewSectionReader(from, 0, size)); err != nil {
		return errors.Join(err, c.root.Remove(temporary))
	}
	return c.root.Rename(temporary, cacheName(d))
}

// write makes a file. It is not brought to disk in any hurry: what a crash leaves is found out when it is read.
func (c *cache) write(name string, from io.Reader) error {
	f, err := c.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	now := c.now()
	return errors.Join(err, f.Close(), c.root.Chtimes(name, now, now))
}

// makeRoom takes room for n bytes.
func (c *cache) makeRoom(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looked && c.size+c.unknown+n <= c.limit && c.unknown+n <= c.limit/cacheParts {
		c.unknown += n
		return nil
	}
	files, size, err := c.look()
	if err != nil {
		return err
	}
	for _, f := range files {
		if size+n <= c.limit-c.limit/cacheParts {
			break
		}
		if err := c.root.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		size -= f.size
	}
	c.looked, c.size, c.unknown = true, size, n
	return nil
}

type cached struct {
	name string
	size int64
	used time.Time
}

// look finds what the cache holds, what was used longest ago first. Files that are not the cache's own are left alone. c.mu is held.
func (c *cache) look() (files []cached, size int64, err error) {
	err = fs.WalkDir(c.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return ignoreGone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreGone(err)
		}
		switch base := filepath.Base(name); {
		case strings.HasPrefix(base, cachePrefix):
			if c.now().Sub(info.ModTime()) > abandoned {
				return ignoreGone(c.root.Remove(name))
			}
		case isCacheName(name):
			files = append(files, cached{name, info.Size(), info.ModTime()})
			size += info.Size()
		}
		return nil
	})
	slices.SortFunc(files, func(a, b cached) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.name, b.name)) })
	return files, size, err
}

func isCacheName(name string) bool {
	d, err := artifact.ParseDigest(filepath.Base(name))
	return err == nil && name == cacheName(d)
}

// ignoreGone is for what another agent removed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
