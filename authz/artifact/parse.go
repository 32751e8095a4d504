package artifact

import "strings"

// The grammar, parsed from the right:
//
//	path  = [ extra "/" ] HH "/" hh "/" file
//	file  = "sstate:" PN ":" TRIPLET ":" PV ":" PR ":" PKGARCH ":" VER ":" HASH "_" TASK ext part
//	ext   = ".tar.zst" / ".tgz"
//	part  = "" / ".siginfo" / ".sig"
//
// BitBake writes every octet of it from "A-Z a-z 0-9 . _ + : ~ -". HASH is 64 lower-case hex digits, of which HH and hh
// repeat the first four. VER is any number: it grows when the format of the archives changes. TRIPLET, PV and PR are
// cut short, down to nothing, in a name that would be too long. TRIPLET and PKGARCH are both empty for tasks that no
// machine's settings reach, like do_fetch. TASK is a shell or Python function's name after "do_", which no shell and no
// Python lets hold anything but letters, digits and '_'. extra is the distribution that built for the build host itself:
// "universal", "debian-12".
const (
	// maxPath bounds a path as it was sent, escapes included.
	maxPath = 2048
	// maxFile bounds a payload's file name: BitBake keeps room for ".siginfo" within 254 octets, so that every part of
	// an artifact has a name if one of them has.
	maxFile  = 254 - len(".siginfo")
	maxExtra = 254
	hashLen  = 64
)

// badName is the reason for a refusal; it holds nothing of the name refused.
type badName string

func (e badName) Error() string { return ErrBadName.Error() + ": " + string(e) }
func (e badName) Unwrap() error { return ErrBadName }

// Parse reads a percent-encoded path within zone z, as it stands in a request target after the zone's mount
// point and without a leading slash or a query. Errors wrap [ErrBadName] and hold nothing of the path.
//
// Each escape is decoded once and must then be an octet of the grammar, '/' not among them. The Ref shares the memory
// of path, or of its one decoded copy: whoever keeps a Ref for long clones its strings.
func Parse(z Zone, path string) (Ref, error) {
	if len(path) > maxPath {
		return Ref{}, badName("longer than 2048 octets")
	}
	if strings.IndexByte(path, '%') < 0 {
		return ParseName(z, path)
	}
	name, err := decode(path)
	if err != nil {
		return Ref{}, err
	}
	return parse(z, name)
}

// ParseName is [Parse] for a raw name, as SFTP paths, statements and listings hold it: nothing is percent-decoded.
func ParseName(z Zone, name string) (Ref, error) {
	if len(name) > maxPath {
		return Ref{}, badName("longer than 2048 octets")
	}
	for i := 0; i < len(name); i++ {
		if !allowed(name[i]) && name[i] != '/' {
			return Ref{}, badName("an octet outside A-Z a-z 0-9 . _ + : ~ -")
		}
	}
	return parse(z, name)
}

// Name prints the canonical name within the zone, the part's suffix included.
func (r Ref) Name() string { return r.Path + r.Part.Suffix() }

// WithPart returns the Ref of another part of the same artifact.
func (r Ref) WithPart(p Part) Ref {
	r.Part = p
	return r
}

// decode undoes percent-encoding, once. That a decoded '/' is refused makes this the same as splitting first.
func decode(path string) (string, error) {
	var room [512]byte // what names need; append moves longer ones to the heap
	b := room[:0]
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '/' {
			b = append(b, c)
			continue
		}
		if c == '%' {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return "", badName("a bad percent escape")
			}
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
		}
		if !allowed(c) {
			return "", badName("an octet outside A-Z a-z 0-9 . _ + : ~ -")
		}
		b = append(b, c)
	}
	return string(b), nil
}

// parse reads a name whose octets are all allowed ones or '/'.
func parse(z Zone, name string) (Ref, error) {
	path, part := cutPart(name)
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return Ref{}, badName("no directory")
	}
	r, err := parseFile(path[slash+1:])
	if err != nil {
		return Ref{}, err
	}
	if err := checkDir(path[:slash], r.Hash); err != nil {
		return Ref{}, err
	}
	r.Zone, r.Kind, r.Path, r.Part = z.Name, KindSstate, path, part
	return r, nil
}

// cutPart takes one part's suffix off. Suffixes do not stack: a second one is left and fails the extension.
func cutPart(name string) (string, Part) {
	if s, ok := strings.CutSuffix(name, ".siginfo"); ok {
		return s, Siginfo
	}
	if s, ok := strings.CutSuffix(name, ".sig"); ok {
		return s, Sig
	}
	return name, Payload
}

// parseFile reads the payload's file name.
func parseFile(file string) (Ref, error) {
	if len(file) > maxFile {
		return Ref{}, badName("a file name longer than 254 octets with every suffix")
	}
	stem, ok := strings.CutSuffix(file, ".tar.zst")
	if !ok {
		stem, ok = strings.CutSuffix(file, ".tgz")
	}
	if !ok {
		return Ref{}, badName("neither .tar.zst nor .tgz, with one of .siginfo and .sig at most")
	}
	rest, hashTask, _ := cutLast(stem)
	rest, version, _ := cutLast(rest)
	rest, arch, _ := cutLast(rest)
	rest, _, _ = cutLast(rest) // PR
	rest, pv, _ := cutLast(rest)
	rest, triplet, ok := cutLast(rest)
	if !ok {
		return Ref{}, badName("fewer than eight fields")
	}
	pn, ok := strings.CutPrefix(rest, "sstate:")
	switch {
	case !ok, strings.IndexByte(pn, ':') >= 0:
		return Ref{}, badName("not eight fields of which the first is sstate")
	case pn == "":
		return Ref{}, badName("an empty recipe name")
	case !all(version, isDigit):
		return Ref{}, badName("a format version that is no number")
	case arch == "" && triplet != "":
		return Ref{}, badName("a triplet without an architecture")
	}
	hash, task, err := cutHash(hashTask)
	return Ref{Hash: hash, Recipe: pn, Version: pv, Arch: arch, Task: task}, err
}

// cutLast cuts at the last ':'. When there is none, before is empty and so is every further cut.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// cutHash reads HASH_TASK.
func cutHash(s string) (hash, task string, err error) {
	if len(s) <= hashLen || s[hashLen] != '_' || !all(s[:hashLen], isLowerHex) {
		return "", "", badName("no hash of 64 lower-case hex digits before the task")
	}
	if !all(s[hashLen+1:], isTask) {
		return "", "", badName("no task of letters, digits and '_'")
	}
	return s[:hashLen], s[hashLen+1:], nil
}

// checkDir reads [extra/]HH/hh and compares it with the hash.
func checkDir(dir, hash string) error {
	at := len(dir) - len("HH/hh")
	if at < 0 || dir[at:at+2] != hash[:2] || dir[at+2] != '/' || dir[at+3:] != hash[2:4] {
		return badName("the directories are not the first digits of the hash")
	}
	if at == 0 {
		return nil
	}
	if dir[at-1] != '/' || !validExtra(dir[:at-1]) {
		return badName("more before the hash's directories than the name of a distribution")
	}
	return nil
}

// ParseDir reads the path of a directory within a zone, as listings name it: "", EXTRA, HH or HH/hh, or the last two behind
// EXTRA. It returns the path as it is; errors wrap [ErrBadName]. Nothing is percent-decoded.
func ParseDir(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if !all(segment, allowed) || !validExtra(segment) || i > 0 && !isPair(segment) {
			return "", badName("not a directory of the grammar")
		}
	}
	if len(segments) > 3 {
		return "", badName("more directories than the grammar has")
	}
	return path, nil
}

func isPair(s string) bool { return len(s) == 2 && isLowerHex(s[0]) && isLowerHex(s[1]) }

// validExtra refuses what could be mistaken for a hidden, parent or option-like directory.
func validExtra(s string) bool {
	return s != "" && len(s) <= maxExtra && isAlnum(s[0]) && strings.IndexByte(s, ':') < 0 && strings.IndexByte(s, '/') < 0
}

func all(s string, is func(byte) bool) bool {
	for i := 0; i < len(s); i++ {
		if !is(s[i]) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool    { return '0' <= c && c <= '9' }
func isLowerHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' }
func isHex(c byte) bool      { return isLowerHex(c) || 'A' <= c && c <= 'F' }
func isAlnum(c byte) bool    { return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isTask(c byte) bool     { return isAlnum(c) || c == '_' }

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// The octets of a segment as bits: of the low ones from 0 on, of the high ones from 64 on.
const (
	lowOctets  uint64 = (1<<10-1)<<'0' | 1<<'.' | 1<<'+' | 1<<':' | 1<<'-'
	highOctets uint64 = (1<<26-1)<<('A'-64) | (1<<26-1)<<('a'-64) | 1<<('_'-64) | 1<<('~'-64)
)

// allowed reports whether c may stand in a segment.
func allowed(c byte) bool {
	if c < 64 {
		return lowOctets>>c&1 == 1
	}
	return c < 128 && highOctets>>(c-64)&1 == 1
}
