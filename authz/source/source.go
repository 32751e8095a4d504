// Package source reads what an artifact was built from: entries of SRC_URI, normalised so that one repository
// has one name, and the interned sets that thousands of artifacts share.
//
// It is pure: nothing here does I/O, and no entry is ever fetched. Two names for one place cost a denial; one name for
// two places would be a leak. So what is ambiguous is [Unresolvable], and upper and lower case stay apart in paths. Taken
// for one are only what servers with users and permissions take for one: the protocols of a host on their own ports, a
// repository with and without ".git", a path in ssh's scp-like form with that in its URL form, and the two ways in which
// Unicode writes one accented letter.
package source

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Type says how a source is kept, and with it what can decide about it.
type Type string

// The types of sources. The git-like ones are repositories that a forge may own; the others are decided by
// configured public patterns alone. [Unresolvable] is always a denial.
const (
	Git          Type = "git"   // git, gitsm and gitannex: a git repository
	Hg           Type = "hg"    // Mercurial
	Svn          Type = "svn"   // Subversion
	Perforce     Type = "p4"    // a Perforce depot
	ClearCase    Type = "ccrc"  // a ClearCase VOB
	HTTP         Type = "http"  // a file by http, https or ftp
	SSH          Type = "ssh"   // a file by ssh or sftp
	Bucket       Type = "s3"    // an object in s3, gs or az
	NPM          Type = "npm"   // an npm package
	Crate        Type = "crate" // a Rust crate
	GoModule     Type = "gomod" // a Go module by proxy
	Unresolvable Type = "unresolvable"
)

// located reports whether t is a type whose sources have a locator.
func (t Type) located() bool {
	switch t {
	case Git, Hg, Svn, Perforce, ClearCase, HTTP, SSH, Bucket, NPM, Crate, GoModule:
		return true
	}
	return false
}

// Locator is where a source lives: the normalised host, with a port when it is not the scheme's own, and the path,
// decoded and without a leading slash. It never holds a user name or a password.
type Locator struct{ Host, Path string }

// String returns "host/path".
func (l Locator) String() string { return l.Host + "/" + l.Path }

// Source is one entry of SRC_URI, normalised. It is comparable.
type Source struct {
	Type    Type
	Locator Locator // for Unresolvable: zero
	Rev     string  // the resolved revision or checksum; empty when not known
	// Repo is "FORGE:ID", the forge's immutable id of the repository, resolved once when the artifact was
	// published. It is empty when no configured forge owns the host.
	Repo string
	// Reason says, for Unresolvable, why; it is safe to print and holds no credential.
	Reason string
}

// String returns a form for people: "git+git.example.com/team/zlib@rev", or "unresolvable(reason)".
func (s Source) String() string {
	if s.Type == Unresolvable {
		return string(Unresolvable) + "(" + s.Reason + ")"
	}
	text := string(s.Type) + "+" + s.Locator.String()
	if s.Rev != "" {
		text += "@" + s.Rev
	}
	return text
}

const (
	maxPath = 1024 // octets of Locator.Path
	maxText = 1024 // octets of Reason and of Repo
	maxRev  = 256
)

// Check returns an error unless s is in the one form that [Parse] makes: a known type, a normalised locator for every
// type but [Unresolvable], and a reason for that one. Equal places are equal text only in that form.
func (s Source) Check() error {
	if s.Rev != "" && !validRev(s.Rev) {
		return errors.New("the revision is none")
	}
	if s.Type == Unresolvable {
		if s.Locator != (Locator{}) || s.Repo != "" || s.Reason == "" || !printable(s.Reason, maxText) {
			return errors.New("an unresolvable source has a printable reason, no locator and no repository")
		}
		return nil
	}
	switch {
	case !s.Type.located():
		return fmt.Errorf("type %.40q is unknown", string(s.Type))
	case s.Reason != "":
		return fmt.Errorf("a source of type %s has no reason", s.Type)
	case !printable(s.Repo, maxText):
		return errors.New("the repository id is not printable")
	case !canonicalHost(s.Locator.Host):
		return errors.New("the host is not normalised")
	case s.Locator.Path == "" && s.Type == GoModule: // a module may be named by its host alone
		return nil
	}
	if clean, err := cleanPath(s.Locator.Path); err != nil || clean != s.Locator.Path {
		return errors.New("the path is not normalised")
	}
	if s.Type == Git {
		return checkRepository(s.Locator.Path)
	}
	return nil
}

// printable reports whether s is UTF-8 of at most limit octets without controls, format characters or any space but
// U+0020. So it holds no tab and no line feed.
func printable(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// validRev accepts hashes, versions, tags, numbers and checksums.
func validRev(s string) bool {
	if len(s) > maxRev {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !isAlnum(r) && !strings.ContainsRune("._+-/:~^=", r)
	}) < 0
}

func isAlnum(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}
