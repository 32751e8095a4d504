// Package artifact names what is asked for: zones, the sstate grammar, the parts of an artifact and its digest.
//
// It is pure: nothing here does I/O. A name is parsed once, at the door, into a [Ref]; everything behind
// the door decides on the Ref and prints names from it. No octet a client sent travels further.
package artifact

import (
	"errors"
	"fmt"
)

// ErrBadName is wrapped by every error that [Parse] returns. A door answers it like an absent artifact.
var ErrBadName = errors.New("not an artifact name")

// Kind says which grammar a name follows.
type Kind uint8

// KindSstate is an object of BitBake's shared-state cache; the only kind so far.
const KindSstate Kind = 1

// Part is one of the objects that share an artifact's name.
type Part uint8

// The parts of an sstate artifact. Each has bytes, a digest and a record of its own.
const (
	Payload Part = iota // the archive itself, .tar.zst or .tgz
	Siginfo             // the signature data beside it; many tasks have only this part
	Sig                 // a detached GPG signature; served, never given weight
)

// Suffix returns what a part's name adds to the payload's: "", ".siginfo" or ".sig".
func (p Part) Suffix() string {
	switch p {
	case Payload:
		return ""
	case Siginfo:
		return ".siginfo"
	case Sig:
		return ".sig"
	}
	return ".invalid" // in no grammar: the name of a part that does not exist names nothing
}

// String returns "payload", "siginfo" or "sig".
func (p Part) String() string {
	switch p {
	case Payload:
		return "payload"
	case Siginfo:
		return "siginfo"
	case Sig:
		return "sig"
	}
	return fmt.Sprintf("part(%d)", uint8(p))
}

// Zone is a name space of artifacts with its own writers.
type Zone struct {
	Name string // one that [ValidZoneName] accepts
	Base string // the zone that reads fall through to; empty for none
	// Review marks a zone for builds that nobody vouches for: CI of branches that nobody protects, of forks and of pull requests
	// may write there and nowhere else, and no other sort of zone may have it as its base.
	Review bool
}

// ValidZoneName reports whether s may name a zone: 1 to 63 lower-case letters, digits and '-', the first and
// the last of them no '-'. Such a name is safe in a path, a host name, a file name and a command line.
func ValidZoneName(s string) bool {
	if len(s) > 63 || !all(s, isZone) {
		return false
	}
	return s[0] != '-' && s[len(s)-1] != '-'
}

func isZone(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' || c == '-' }

// Ref names one part of one artifact in one zone. It is comparable and canonical: two Refs are equal
// exactly when they name the same object. Only [Parse] makes one.
type Ref struct {
	Zone    string
	Kind    Kind
	Path    string // canonical path within the zone, without the part's suffix
	Hash    string // the unihash, 64 lower-case hex digits
	Recipe  string // PN
	Version string // PV; may be cut short or empty, as sstate names are
	Arch    string // PKGARCH; empty for tasks like do_fetch
	Task    string // without "do_"
	Part    Part
}
