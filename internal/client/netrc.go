package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// maxNetrc bounds the size of a .netrc in bytes.
const maxNetrc = 1 << 20

// Netrc is a .netrc, where BitBake and wget look passwords up by host name without port: two gates on one host share an
// entry. It may be used by several processes at once.
type Netrc struct {
	path string
	wait func(context.Context, time.Duration) error
}

// NetrcLogin is what a .netrc holds about a machine.
type NetrcLogin struct {
	Login    string
	Password authn.Secret
}

// OpenNetrc returns the .netrc at path, or where the environment says: $NETRC, else .netrc in $HOME. It does not look at it.
func OpenNetrc(path string, env func(string) string) (*Netrc, error) {
	if path == "" {
		path = env("NETRC")
	}
	if path == "" {
		home := env("HOME")
		if home == "" {
			return nil, errors.New("there is no home directory to find .netrc in: set HOME or NETRC, or give --netrc FILE")
		}
		path = filepath.Join(home, ".netrc")
	}
	return &Netrc{path: path, wait: sleep}, nil
}

// Path returns where the file is, or would be.
func (n *Netrc) Path() string { return n.path }

// ExposedError says that others can read a .netrc.
type ExposedError struct{ Path string }

func (e *ExposedError) Error() string {
	return fmt.Sprintf("others can read %s, so BitBake ignores it: chmod 600 %s", e.Path, e.Path)
}

// Lookup returns the first entry of a host. No file is no entry. When others may read the file it is returned with an
// [ExposedError], since BitBake ignores such a file without a word, and Set mends it.
func (n *Netrc) Lookup(host string) (login NetrcLogin, ok bool, err error) {
	s, err := n.load()
	if err != nil {
		return NetrcLogin{}, false, fmt.Errorf("read %s: %w", n.path, err)
	}
	found := s.file.find(host)
	if len(found) == 0 {
		return NetrcLogin{}, false, nil
	}
	if s.exposed() {
		err = &ExposedError{n.path}
	}
	return NetrcLogin{found[0].login, authn.NewSecret(found[0].password)}, true, err
}

// Set gives a host one entry with this login and password, and leaves everything else in the file as it is. The file
// is there afterwards, readable by its owner alone, and whole whatever happens meanwhile. What a person should know is
// returned: that the file could be read by others, or that Python cannot read it.
func (n *Netrc) Set(ctx context.Context, host string, login NetrcLogin) (notes []string, err error) {
	for what, text := range map[string]string{"host": host, "login": login.Login, "password": login.Password.Reveal()} {
		if !isPlainWord(text) {
			return nil, fmt.Errorf("write %s: the %s has a character that not every reader of .netrc takes alike", n.path, what)
		}
	}
	return n.change(ctx, func(f *netrcText) ([]byte, error) {
		return f.with(strings.ToLower(host), login.Login, login.Password.Reveal())
	})
}

// Remove takes the entries of a host out, and leaves everything else in the file as it is.
func (n *Netrc) Remove(ctx context.Context, host string) (notes []string, err error) {
	return n.change(ctx, func(f *netrcText) ([]byte, error) { return f.without(host) })
}

// isPlainWord reports whether every reader of .netrc takes a word for what it is without quotes.
func isPlainWord(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return s != "" && s[0] != '#'
}

// change replaces the file's text while no other change is under way.
func (n *Netrc) change(ctx context.Context, edit func(*netrcText) ([]byte, error)) (notes []string, err error) {
	unlock, err := n.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	s, err := n.load()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", n.path, err)
	}
	if s.info != nil && s.owner() != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to another user: BitBake would ignore it; give another with --netrc", n.path)
	}
	text, err := edit(s.file)
	if err != nil {
		return nil, fmt.Errorf("change %s: %w", n.path, err)
	}
	if bytes.Equal(text, s.file.text) && !s.exposed() {
		return nil, nil
	}
	if err := replaceFile(s.target, text); err != nil {
		return nil, fmt.Errorf("write %s: %w", n.path, err)
	}
	if s.exposed() {
		notes = append(notes, fmt.Sprintf("others could read %s (mode %04o), so BitBake ignored it: its mode is 0600 now; "+
			"change the passwords in it that matter", n.path, s.info.Mode().Perm()))
	}
	if err := pythonFault(text); err != nil {
		notes = append(notes, fmt.Sprintf("BitBake will ignore %s, since Python cannot read all of it: %v", n.path, err))
	}
	return notes, nil
}

// netrcState is the file as it was found.
type netrcState struct {
	target string      // behind symbolic links
	info   fs.FileInfo // nil when there is none
	file   *netrcText
}

func (s *netrcState) exposed() bool { return s.info != nil && s.info.Mode().Perm()&0o077 != 0 }

// owner returns the user id that a file belongs to.
func (s *netrcState) owner() int {
	if st, ok := s.info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// load reads the file. One that is not there is empty.
func (n *Netrc) load() (*netrcState, error) {
	target, err := linkTarget(n.path)
	if err != nil {
		return nil, err
	}
	s := &netrcState{target: target, file: &netrcText{}}
	// A pipe would block and a terminal would ask: look before opening, and again at what was opened.
	if info, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(target)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s.info, err = f.Stat(); err != nil {
		return nil, err
	}
	text, err := readNetrc(f, s.info)
	if err != nil {
		return nil, err
	}
	s.file, err = parseNetrc(text)
	return s, err
}

func readNetrc(f io.Reader, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxNetrc+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxNetrc:
		return nil, fmt.Errorf("it is longer than %d bytes", maxNetrc)
	case bytes.IndexByte(text, 0) >= 0:
		return nil, errors.New("it holds a NUL byte, so it is no text")
	}
	return text, nil
}

// linkTarget follows symbolic links, so that a link stays one when the file is replaced.
func linkTarget(path string) (string, error) {
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return path, nil // what is wrong with it shows when it is opened
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("follow the symbolic link: %w", err)
	}
	return target, nil
}

// replaceFile writes a file at once, so that a reader finds the old one or the new one, and so does whoever comes after a power cut.
func replaceFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// How long one login waits for another to finish.
const (
	netrcLockTries = 100
	netrcLockPause = 100 * time.Millisecond
)

// lock keeps other changes out until unlock. The lock is on a file beside, which is removed afterwards: the .netrc itself is
// replaced, and a directory cannot be locked everywhere.
func (n *Netrc) lock(ctx context.Context) (unlock func() error, err error) {
	target, err := linkTarget(n.path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", n.path, err)
	}
	path := target + ".lock"
	for range netrcLockTries {
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", n.path, err)
		}
		if f != nil {
			return func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
		}
		if err := n.wait(ctx, netrcLockPause); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("lock %s: another program has held %s for %v; is it still at work?", n.path, path, netrcLockTries*netrcLockPause)
}

// tryLock returns the locked file, or nil when somebody else has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		// Who had the lock may have removed the file meanwhile: then this is the lock of nothing.
		ours, errOurs := f.Stat()
		there, errThere := os.Stat(path)
		if errOurs == nil && errThere == nil && os.SameFile(ours, there) {
			return f, nil
		}
	}
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
		return nil, errors.Join(err, f.Close())
	}
	return nil, f.Close()
}
