package config

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lychgate/lychgate/authz/authn"
)

// fault is what is wrong with a value and what to do about it.
type fault struct{ reason, hint string }

// value is a scalar that reads itself. dir is the document's directory.
type value interface{ parse(text, dir string) *fault }

var (
	_ value = (*Path)(nil)
	_ value = (*Location)(nil)
	_ value = (*Secret)(nil)
	_ value = (*Size)(nil)
	_ value = (*Subject)(nil)
	_ value = (*CRL)(nil)
)

// Path is a file or directory, made absolute against the document's directory.
type Path string

func (p *Path) parse(text, dir string) *fault {
	if text == "" {
		return &fault{"an empty path", "leave the key out, or name a file"}
	}
	if strings.HasPrefix(text, "~") {
		return &fault{"'~' is not expanded", "write the whole path"}
	}
	*p = Path(absolute(text, dir))
	return nil
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// Location says where something is kept: a scheme and what it means by the rest.
type Location struct {
	Scheme string // "sqlite", "dir", "http" or "https"
	Value  string // a path for sqlite and dir; the whole URL for http and https
}

// IsZero reports whether nothing was configured.
func (l Location) IsZero() bool { return l == Location{} }

// String returns the form the document uses.
func (l Location) String() string {
	if l.IsZero() || l.Scheme == "http" || l.Scheme == "https" {
		return l.Value
	}
	return l.Scheme + ":" + l.Value
}

func (l *Location) parse(text, dir string) *fault {
	scheme, rest, ok := strings.Cut(text, ":")
	switch {
	case !ok:
		return &fault{fmt.Sprintf("%q does not say what it is", text), fmt.Sprintf("write dir:%s for a directory", text)}
	case scheme == "http" || scheme == "https":
		if reason := checkMirrorURL(text); reason != nil {
			return reason
		}
		*l = Location{scheme, strings.TrimRight(text, "/")}
	case scheme == "dir" || scheme == "sqlite":
		var p Path
		if f := p.parse(rest, dir); f != nil {
			return f
		}
		*l = Location{scheme, string(p)}
	default:
		return &fault{fmt.Sprintf("no such kind of place: %q", scheme), "known are dir:PATH, sqlite:PATH, https://HOST/PATH and http://HOST/PATH"}
	}
	return nil
}

// CRL says where a certificate revocation list is. Exactly one member is set.
type CRL struct {
	File Path
	URL  string // http or https
}

// String returns the form the document uses.
func (c CRL) String() string {
	if c.File != "" {
		return "file:" + string(c.File)
	}
	return c.URL
}

func (c *CRL) parse(text, dir string) *fault {
	const hint = "write file:PATH, https://HOST/PATH or http://HOST/PATH"
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		return c.File.parse(path, dir)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return &fault{"not a place of a revocation list", hint}
	case u.User != nil:
		return &fault{"a user or password in an address", "revocation lists are public: remove it"}
	case strings.Contains(text, "#"):
		return &fault{"an address with '#'", hint}
	}
	c.URL = text
	return nil
}

// Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}, {"B", 0}, {"", 0}}

func (s *Size) parse(text, _ string) *fault {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || strings.ContainsAny(digits, "+-") || n > math.MaxInt64>>u.shift {
			break
		}
		*s = Size(n << u.shift)
		return nil
	}
	return &fault{fmt.Sprintf("not a size: %q", text), "write a number and B, KiB, MiB, GiB or TiB, such as 64MiB"}
}

// String returns the size in the largest unit that divides it, as the document would write it.
func (s Size) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if unit := sizeUnits[u]; s != 0 && s%(1<<unit.shift) == 0 {
			return strconv.FormatInt(int64(s)>>unit.shift, 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Subject is a user or group as the document names it. Forge is empty for an actor that no forge knows; Name is
// "#ID" for a user by id.
type Subject struct{ Forge, Name string }

// String returns "FORGE/NAME".
func (s Subject) String() string { return s.Forge + "/" + s.Name }

func (s *Subject) parse(text, _ string) *fault {
	forge, name, ok := strings.Cut(text, "/")
	switch {
	case !ok:
		return &fault{fmt.Sprintf("%q does not say which forge", text), fmt.Sprintf("write FORGE/NAME or FORGE/#ID, such as git.example.com/%s", text)}
	case name == "" || name == "#":
		return &fault{fmt.Sprintf("%q names nobody", text), "write FORGE/NAME or FORGE/#ID"}
	case forge == "" && name[0] != '#':
		return &fault{fmt.Sprintf("%q names nobody: without a forge there are only ids", text), fmt.Sprintf("write FORGE%s, or /#%s", text, name)}
	}
	*s = Subject{forge, name}
	return nil
}

// Secret says where a secret is. It holds no secret itself, so it may be printed.
type Secret struct {
	Kind string // "file" or "env"; empty when none was configured
	Name string // the file's path or the variable's name
}

// IsZero reports whether none was configured.
func (s Secret) IsZero() bool { return s == Secret{} }

// String returns the reference, never the secret.
func (s Secret) String() string { return s.Kind + ":" + s.Name }

const secretHint = "put it into a file that only its owner can read and write file:PATH, or env:NAME"

// parse never repeats the text in a fault: it may be the secret itself.
func (s *Secret) parse(text, dir string) *fault {
	kind, name, _ := strings.Cut(text, ":")
	switch {
	case kind == "file" && name != "":
		var p Path
		if f := p.parse(name, dir); f != nil {
			return f
		}
		*s = Secret{"file", string(p)}
	case kind == "env" && isEnvName(name):
		*s = Secret{"env", name}
	default:
		return &fault{"a secret may not be written into this file", secretHint}
	}
	return nil
}

func isEnvName(s string) bool {
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

const maxSecret = 64 << 10

// Read fetches the secret, without the line end of a file. A file that others than its owner and group can read,
// or that its group can write, is refused; so is an empty secret.
func (s Secret) Read() (authn.Secret, error) {
	var text string
	switch s.Kind {
	case "env":
		text = os.Getenv(s.Name)
	case "file":
		b, err := readPrivate(s.Name)
		if err != nil {
			return authn.Secret{}, err
		}
		text = strings.TrimRight(string(b), "\r\n")
	default:
		return authn.Secret{}, errors.New("read secret: none was configured")
	}
	if text == "" {
		return authn.Secret{}, fmt.Errorf("read secret %s: it is empty", s)
	}
	return authn.NewSecret(text), nil
}

func readPrivate(path string) ([]byte, error) {
	f, info, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	if err := checkPrivate(info); err != nil {
		return nil, fmt.Errorf("read secret %q: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if len(b) > maxSecret {
		return nil, fmt.Errorf("read secret %q: longer than %d bytes", path, maxSecret)
	}
	return b, nil
}

// openRegular opens a file and nothing else: to open a named pipe would wait for its other end.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%q is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// checkPrivate takes 0600, 0400, 0640 and 0440: the last two are how service managers hand secrets to a group.
func checkPrivate(info os.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return fmt.Errorf("mode %04o lets others at it; run: chmod 600 %s", mode, info.Name())
	}
	return nil
}
