package client

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// Layer says which repository the local files (file:// entries) of recipes come from.
type Layer struct {
	// PathPrefix is the layer's directory, as BitBake saw it. A siginfo mostly names a local file without its
	// directory: then the layer's directory on this machine is searched for a file of that name with the checksum that
	// the siginfo holds. An empty PathPrefix matches every file.
	PathPrefix string
	Source     source.Source
}

// layerFiles finds the layers of local files. It is not safe for concurrent use.
type layerFiles struct {
	layers []Layer
	paths  []map[string][]string // of each layer's directory: its files by base name; nil until it was walked
}

// maxLayerFiles bounds the walk through one layer.
const maxLayerFiles = 1_000_000

// find returns the source of a local file.
func (l *layerFiles) find(ctx context.Context, f provenance.FileChecksum) (source.Source, bool) {
	for i, layer := range l.layers {
		if strings.HasPrefix(f.Name, layer.PathPrefix) || l.holds(ctx, i, f) {
			return layer.Source, true
		}
	}
	return source.Source{}, false
}

// holds reports whether a layer's directory has a file of that name and checksum.
func (l *layerFiles) holds(ctx context.Context, i int, f provenance.FileChecksum) bool {
	if !filepath.IsAbs(l.layers[i].PathPrefix) || f.Sum == "" {
		return false
	}
	if l.paths == nil {
		l.paths = make([]map[string][]string, len(l.layers))
	}
	if l.paths[i] == nil {
		l.paths[i] = filesBelow(ctx, l.layers[i].PathPrefix)
	}
	return slices.ContainsFunc(l.paths[i][path.Base(f.Name)], func(name string) bool {
		sum, err := fileSum(name, len(f.Sum))
		return err == nil && sum == f.Sum
	})
}

// filesBelow lists the regular files of a layer by base name. What cannot be read is not there.
func filesBelow(ctx context.Context, dir string) map[string][]string {
	files, n := map[string][]string{}, 0
	_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil || n == maxLayerFiles:
			return fs.SkipAll
		case err != nil || entry.IsDir() && entry.Name() == ".git":
			if entry != nil && entry.IsDir() {
				return fs.SkipDir
			}
		case entry.Type().IsRegular():
			n++
			files[entry.Name()] = append(files[entry.Name()], name)
		}
		return nil
	})
	return files
}

// fileSum computes the checksum with digits hex digits that BitBake makes of a local file: MD5, or SHA-256 in recent
// releases. It tells files apart; nothing rests on its strength, for who writes the siginfo could name any file.
func fileSum(name string, digits int) (string, error) {
	var h hash.Hash
	switch digits {
	case 2 * md5.Size:
		h = md5.New()
	case 2 * sha256.Size:
		h = sha256.New()
	default:
		return "", fmt.Errorf("a checksum of %d digits", digits)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
