package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// stamps are the signature files that BitBake keeps beside its stamps. They hold what siginfo files do, under the same hash,
// also of tasks that leave no siginfo in a cache: noexec ones, and those that a build did not need to run.
type stamps struct {
	dirs  []*DirCache
	files map[execution][]stamp // in the order in which they were found
	count int
}

// stamp is one signature file. The zero stamp is none.
type stamp struct {
	dir  *DirCache
	name string
}

// execution names what a task did, whatever the recipe is called that refers to it.
type execution struct{ task, hash string }

// maxStamps bounds the walk through one directory; a large build leaves some 200,000 files.
const maxStamps = 2_000_000

// signatureFile is PV-PR.do_TASK.sigdata.HASH. The stamps themselves, sigbasedata and taints have other suffixes.
var signatureFile = regexp.MustCompile(`\.do_([A-Za-z0-9_]+)\.sigdata\.([0-9a-f]{64})$`)

// openStamps finds the signature files below directories. The caller closes what it returns.
func openStamps(ctx context.Context, dirs []string) (*stamps, error) {
	s := &stamps{files: map[execution][]stamp{}}
	for _, name := range dirs {
		if err := s.add(ctx, name); err != nil {
			return nil, errors.Join(fmt.Errorf("read stamps: %w", err), s.close())
		}
	}
	return s, nil
}

func (s *stamps) add(ctx context.Context, name string) error {
	dir, err := OpenDir(name)
	if err != nil {
		return err
	}
	s.dirs = append(s.dirs, dir)
	seen, before := 0, s.count
	err = fs.WalkDir(dir.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		seen++
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case seen > maxStamps:
			return fmt.Errorf("more than %d files: give the directory stamps below TMPDIR", maxStamps)
		case err != nil && name == ".":
			return err
		case err != nil && entry != nil && entry.IsDir():
			return fs.SkipDir
		case err == nil && !entry.IsDir():
			s.file(dir, name, entry)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%q: %w", name, err)
	case s.count == before:
		return fmt.Errorf("%q holds no signature file: run bitbake -S none TARGET, and give the directory stamps below TMPDIR", name)
	}
	return nil
}

// file adds one file, if it is a signature file. A symbolic link counts as what it points to, as long as that lies in the
// directory.
func (s *stamps) file(dir *DirCache, name string, entry fs.DirEntry) {
	m := signatureFile.FindStringSubmatch(entry.Name())
	if m == nil || strings.HasSuffix(m[1], "_setscene") {
		return
	}
	if entry.Type()&fs.ModeSymlink != 0 {
		if info, err := dir.root.Stat(name); err != nil || !info.Mode().IsRegular() {
			return
		}
	} else if !entry.Type().IsRegular() {
		return
	}
	x := execution{m[1], m[2]}
	s.files[x] = append(s.files[x], stamp{dir, name})
	s.count++
}

// find returns the signature file of a task, preferably one below the recipe's own directory. The hash covers what the file
// says of the task, so one of another directory says the same: recipes that share a source tree have a common one.
func (s *stamps) find(k taskKey) stamp {
	list := s.files[execution{k.task, k.hash}]
	for _, f := range list {
		if path.Base(path.Dir(f.name)) == k.recipe {
			return f
		}
	}
	if len(list) == 0 {
		return stamp{}
	}
	return list[0]
}

func (s *stamps) close() error {
	var errs []error
	for _, d := range s.dirs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
