package client

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// DirCache is a cache in a directory. Nothing outside the directory is ever read: links that lead out are ignored.
type DirCache struct {
	root *os.Root
	real string // the directory's absolute path without links
}

// OpenDir opens the shared-state cache in directory dir. The caller closes it.
func OpenDir(dir string) (*DirCache, error) {
	real, err := realPath(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache %q: %w (give the SSTATE_DIR of a build, or an http(s) URL)", dir, err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("open cache %q: %w (give the SSTATE_DIR of a build, or an http(s) URL)", dir, err)
	}
	return &DirCache{root: root, real: real}, nil
}

// realPath is the absolute path that a path leads to.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// Close releases the directory.
func (d *DirCache) Close() error { return d.root.Close() }

// List implements [Cache] by walking the directory.
func (d *DirCache) List(ctx context.Context) (*Listing, error) {
	l := newLister()
	err := fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return d.unreadable(l, name, entry, err)
		}
		if !entry.IsDir() {
			d.file(l, name, entry)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list cache %q: %w", d.root.Name(), err)
	}
	return l.listing(), nil
}

// unreadable leaves an unreadable directory aside, but not the cache itself.
func (d *DirCache) unreadable(l *lister, name string, entry fs.DirEntry, err error) error {
	if name == "." {
		return err
	}
	l.ignore(name, "it cannot be read")
	if entry != nil && entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// inside returns what a symbolic link leads to if it says so by an absolute path, which a root does not follow, and that is in
// the cache: BitBake links so what it got from an ssh:// mirror. Everything else is its own name. The root is still what opens it.
func (d *DirCache) inside(name string) string {
	target, err := d.root.Readlink(name)
	if err != nil || !filepath.IsAbs(target) {
		return name
	}
	if target, err = filepath.EvalSymlinks(target); err != nil {
		return name
	}
	if rel, err := filepath.Rel(d.real, target); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return name
}

// file adds one file. A symbolic link counts as what it points to, as long as that lies in the cache: BitBake links
// objects that it found in a file:// mirror.
func (d *DirCache) file(l *lister, name string, entry fs.DirEntry) {
	if isTransient(entry.Name()) {
		return
	}
	link := entry.Type()&fs.ModeSymlink != 0
	info, err := d.root.Stat(name)
	if err != nil && link {
		info, err = d.root.Stat(d.inside(name))
	}
	switch {
	case err != nil && link:
		l.ignore(name, "it is a symbolic link that leads out of the cache or nowhere")
	case err != nil:
		l.ignore(name, "it cannot be read")
	case !info.Mode().IsRegular():
		l.ignore(name, "it is not a regular file")
	default:
		l.add(name, info.Size())
	}
}

// Open implements [Cache].
func (d *DirCache) Open(_ context.Context, name string, off int64) (io.ReadCloser, error) {
	// Without O_NONBLOCK a pipe put in the file's place would block forever.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		f, err = d.root.OpenFile(d.inside(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", printable(name), err)
	}
	if err := position(f, off); err != nil {
		f.Close()
		return nil, fmt.Errorf("open object %s: %w", printable(name), err)
	}
	return f, nil
}

func position(f *os.File, off int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	_, err = f.Seek(off, io.SeekStart)
	return err
}
