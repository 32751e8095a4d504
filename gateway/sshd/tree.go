package sshd

import (
	"context"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
)

// maxPath is the longest path that can name anything, as at every door.
const maxPath = 2048

// node is what the tree shows of a path.
type node struct {
	name string
	dir  bool
	size int64
	time time.Time
}

// tree is the virtual file system of one connection: zones, then artifacts. session opens a Session for one operation.
type tree struct {
	session func(context.Context) (*gateway.Session, error)
}

// place is a path, parsed: the root, or a zone, or what lies in it.
type place struct{ zone, rest string }

// parsePath reads a path; a relative one starts at the root. Directories may be written with empty segments, "." and "..", as clients
// do while they find their way, and none leads above the root. An object has a ':' in its name, which no directory has, and is found
// under its one name alone.
func parsePath(p string) (place, bool) {
	if !printable(p) || strings.IndexByte(p, '%') >= 0 {
		return place{}, false
	}
	clean := absolute(p)
	if strings.IndexByte(p, ':') >= 0 && clean != p && clean[1:] != p {
		return place{}, false
	}
	zone, rest, _ := strings.Cut(clean[1:], "/")
	return place{zone, rest}, true
}

// printable reports whether p is short enough and of visible ASCII.
func printable(p string) bool {
	if len(p) > maxPath {
		return false
	}
	for i := 0; i < len(p); i++ {
		if p[i] < 0x21 || p[i] > 0x7e {
			return false
		}
	}
	return true
}

// realPath is p without detours. It asks nobody whether anything is there.
func realPath(p string) (string, error) {
	if !printable(p) {
		return "", gateway.ErrNotFound
	}
	return absolute(p), nil
}

// absolute resolves detours. One that leads above the root ends there.
func absolute(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return path.Clean(p)
}

func (p place) isRoot() bool { return p.zone == "" }

// isObject reports whether only an object can be there.
func (p place) isObject() bool { return strings.IndexByte(p.rest, ':') >= 0 }

// isDirectory reports whether the grammar has a directory there.
func (p place) isDirectory() bool {
	_, err := artifact.ParseDir(p.rest)
	return !p.isRoot() && err == nil
}

// stat returns what the principal may know of a path, or an error of gateway.Session.
func (t *tree) stat(ctx context.Context, path string) (node, error) {
	at, ok := parsePath(path)
	if !ok {
		return node{}, gateway.ErrNotFound
	}
	if at.isRoot() {
		return directory("/"), nil
	}
	s, err := t.session(ctx)
	if err != nil {
		return node{}, err
	}
	if !at.isObject() {
		return directory(at.base()), s.StatDir(ctx, at.zone, at.rest)
	}
	o, err := s.Stat(ctx, at.zone, at.rest)
	return node{name: at.base(), size: o.Size, time: o.Time}, err
}

// readDir returns what the principal may read of a directory, sorted by name.
func (t *tree) readDir(ctx context.Context, path string) ([]node, error) {
	at, ok := parsePath(path)
	if !ok || at.isObject() {
		return nil, gateway.ErrNotFound
	}
	s, err := t.session(ctx)
	if err != nil {
		return nil, err
	}
	if at.isRoot() {
		zones, err := s.Zones(ctx)
		nodes := make([]node, 0, len(zones))
		for _, zone := range zones {
			nodes = append(nodes, directory(zone))
		}
		return nodes, err
	}
	entries, err := s.ReadDir(ctx, at.zone, at.rest)
	nodes := make([]node, 0, len(entries))
	for _, e := range entries {
		n := directory(e.Name)
		if !e.Dir {
			n = node{name: e.Name, size: e.Size, time: e.Time}
		}
		nodes = append(nodes, n)
	}
	return nodes, err
}

// open returns the content of an object, which the caller must close.
func (t *tree) open(ctx context.Context, path string) (*gateway.Content, error) {
	at, ok := parsePath(path)
	if !ok || at.isRoot() {
		return nil, gateway.ErrNotFound
	}
	s, err := t.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, at.zone, at.rest)
}

// base is the last segment.
func (p place) base() string {
	if p.rest == "" {
		return p.zone
	}
	return p.rest[strings.LastIndexByte(p.rest, '/')+1:]
}

// directory returns the node of a directory. The gate keeps no times of directories.
func directory(name string) node { return node{name: name, dir: true, time: time.Unix(0, 0)} }

// Name, with the methods below, makes a node an fs.FileInfo, as pkg/sftp prints it.
func (n node) Name() string { return n.name }

// Size is in bytes; 0 for a directory.
func (n node) Size() int64 { return n.size }

// Mode says that everything is there to be read.
func (n node) Mode() fs.FileMode {
	if n.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// ModTime is when the object was published.
func (n node) ModTime() time.Time { return n.time }

// IsDir reports whether it is a directory.
func (n node) IsDir() bool { return n.dir }

// Sys returns nil: there is no file behind it.
func (n node) Sys() any { return nil }

// Uid is 0: nothing belongs to a user.
func (n node) Uid() uint32 { return 0 }

// Gid is 0.
func (n node) Gid() uint32 { return 0 }
