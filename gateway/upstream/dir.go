package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tempPrefix marks files of the root that are on their way to a name. No name Walk yields begins with it.
const tempPrefix = ".put-"

// Dir is a directory of objects. Only regular files are objects; anything else under a name is absent. A symbolic link is
// followed as long as its target lies within the root; one that leaves it, as every absolute one does, is an error.
type Dir struct {
	path string
	root *os.Root
}

var _ Putter = (*Dir)(nil)

// NewDir opens the directory at root, which must exist.
func NewDir(root string) (*Dir, error) {
	r, err := os.OpenRoot(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open upstream directory %q: %w: create it, or mount what should be there", root, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("open upstream directory: %w", err)
	}
	return &Dir{path: root, root: r}, nil
}

// Close gives the directory back. Objects that are open stay so.
func (d *Dir) Close() error { return d.root.Close() }

// Stat implements [Store].
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	info, err := d.stat(ctx, name)
	if err != nil {
		return Info{}, fmt.Errorf("stat upstream object %q: %w", name, err)
	}
	return info, nil
}

func (d *Dir) stat(ctx context.Context, name string) (Info, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return Info{}, err
	}
	return regular(d.root.Stat(filepath.FromSlash(name)))
}

// regular returns the Info of a regular file; anything else does not exist.
func regular(fi fs.FileInfo, err error) (Info, error) {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return Info{}, fs.ErrNotExist // a file stands where a directory of the name would be
	case err != nil:
		return Info{}, err
	case !fi.Mode().IsRegular():
		return Info{}, fmt.Errorf("%w: not a regular file", fs.ErrNotExist)
	}
	return Info{Size: fi.Size(), Modified: fi.ModTime()}, nil
}

// Open implements [Store]. The Object's ReadCloser is an *os.File.
func (d *Dir) Open(ctx context.Context, name string, off int64) (*Object, error) {
	obj, err := d.open(ctx, name, off)
	if err != nil {
		return nil, fmt.Errorf("open upstream object %q: %w", name, err)
	}
	return obj, nil
}

func (d *Dir) open(ctx context.Context, name string, off int64) (*Object, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK, opening a FIFO would wait for a writer.
	f, err := d.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		_, err = regular(nil, err)
		return nil, err
	}
	info, err := regular(f.Stat())
	if err == nil {
		err = checkOffset(off, info.Size)
	}
	if err == nil && off > 0 {
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Object{ReadCloser: f, Info: info}, nil
}

// Put implements [Putter]. Within one file system the object is src itself, linked; otherwise a copy.
func (d *Dir) Put(ctx context.Context, name string, src *os.File) error {
	if err := d.put(ctx, name, src); err != nil {
		return fmt.Errorf("put upstream object %q: %w", name, err)
	}
	return nil
}

func (d *Dir) put(ctx context.Context, name string, src *os.File) error {
	_, err := d.stat(ctx, name)
	if err == nil {
		return d.syncDirs(name) // another Put may have linked it a moment ago
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := tempPrefix + rand.Text()
	defer d.root.Remove(temp) // the object has its own link by then
	if err := d.bring(ctx, temp, src); err != nil {
		return err
	}
	if dir := path.Dir(name); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// Unlike rename(2), link(2) never replaces what is there.
	if err := d.root.Link(temp, name); err != nil {
		if _, serr := d.stat(ctx, name); !errors.Is(err, fs.ErrExist) || serr != nil {
			return errors.Join(err, serr)
		}
	}
	return d.syncDirs(name)
}

// bring makes the bytes of src a durable file of the root, by linking them or else by copying.
func (d *Dir) bring(ctx context.Context, temp string, src *os.File) error {
	if err := src.Sync(); err != nil {
		return err
	}
	if d.link(temp, src) {
		return nil
	}
	dst, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = copyFile(ctx, dst, src)
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}

// link tries to link src into the root and reports whether it did. The link is made at the top, where no part of a name can
// lead elsewhere.
func (d *Dir) link(temp string, src *os.File) bool {
	if os.Link(src.Name(), filepath.Join(d.path, temp)) != nil {
		return false // another file system, or one without links, or src has no name any more
	}
	want, err := src.Stat()
	got, err2 := d.root.Lstat(temp)
	if err == nil && err2 == nil && os.SameFile(want, got) && want.Mode().IsRegular() {
		return true
	}
	_ = d.root.Remove(temp) // src's name belongs to another file now; copying begins anew
	return false
}

// copyFile copies all of src, in steps between which ctx may end it.
func copyFile(ctx context.Context, dst, src *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	const step = 16 << 20
	for off := int64(0); off < fi.Size(); off += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := min(step, fi.Size()-off)
		n, err := io.Copy(dst, io.NewSectionReader(src, off, want))
		if err == nil && n < want {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// syncDirs makes name durable: its directory, and those above it, since any of them may be new.
func (d *Dir) syncDirs(name string) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		f, err := d.root.Open(dir)
		if err != nil {
			return err
		}
		err = errors.Join(f.Sync(), f.Close())
		if err != nil || dir == "." {
			return err
		}
	}
}

// Walk calls f for each object in lexical order and stops at the first error. Files whose names no Store takes are passed over, and
// so are those that vanish meanwhile; symbolic links to directories are not followed.
func (d *Dir) Walk(ctx context.Context, f func(name string, info Info) error) error {
	err := fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist) && name != ".":
			return nil
		case err != nil:
			return err
		case e.IsDir() || strings.HasPrefix(name, tempPrefix) || checkName(name) != nil:
			return nil
		}
		info, err := d.stat(ctx, name)
		if err != nil {
			return ctx.Err() // vanished, not a regular file, or a link that leads out: not an object
		}
		return f(name, info)
	})
	if err != nil {
		return fmt.Errorf("walk upstream directory: %w", err)
	}
	return nil
}

// Remove removes an object. Readers that have it open keep it. An absent one is an error that wraps fs.ErrNotExist.
func (d *Dir) Remove(ctx context.Context, name string) error {
	err := errors.Join(ctx.Err(), checkName(name))
	if err == nil {
		_, err = regular(d.root.Lstat(filepath.FromSlash(name)))
	}
	if err == nil {
		err = d.root.Remove(filepath.FromSlash(name))
	}
	if err != nil {
		return fmt.Errorf("remove upstream object %q: %w", name, err)
	}
	return nil
}

// Sweep removes what Puts that were interrupted before the given time left in the root, and returns how many.
func (d *Dir) Sweep(ctx context.Context, before time.Time) (int, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("sweep upstream directory: %w", err)
	}
	n := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), tempPrefix) || info.ModTime().After(before) {
			continue
		}
		if err := errors.Join(ctx.Err(), d.root.Remove(e.Name())); err != nil {
			return n, fmt.Errorf("sweep upstream directory: %w", err)
		}
		n++
	}
	return n, nil
}
