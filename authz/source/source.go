// Package source reads what an artifact was built from: entries of SRC_URI, normalised so that one repository
// has one name, and the interned sets that thousands of artifacts share.
//
// It is pure: nothing here does I/O, and no entry is ever fetched.
package source

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

// Locator is where a source lives: the normalised host, with a port when it is not the scheme's own, and the path.
// It never holds a user name or a password.
type Locator struct{ Host, Path string }

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
