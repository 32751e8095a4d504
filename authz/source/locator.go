package source

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// reason is why an entry cannot be resolved. All of them are constants, so that none can hold what an entry held:
// user names and passwords among it.
type reason string

func (r reason) Error() string { return string(r) }

const (
	errHost    reason = "the host is empty or is not a host name"
	errUser    reason = "more than one @ before the path makes the host ambiguous"
	errPort    reason = "the port is not a number from 1 to 65535"
	errNoPath  reason = "there is no path"
	errPath    reason = "the path is too long, or holds control characters or one of % ? # ; after decoding"
	errSegment reason = "the path has an empty segment, . or .."
	errEscape  reason = "the path has a bad percent escape or an encoded slash or backslash"
	errWiki    reason = "a wiki is not its repository, and no forge can be asked about it"
)

// defaultPort returns the port that a protocol has when none is written, or "".
func defaultPort(protocol string) string {
	switch protocol {
	case "ssh", "sftp", "svn+ssh":
		return "22"
	case "http":
		return "80"
	case "https":
		return "443"
	case "git":
		return "9418"
	case "rsync":
		return "873"
	case "ftp":
		return "21"
	case "ftps":
		return "990"
	case "svn":
		return "3690"
	case "p4":
		return "1666"
	}
	return ""
}

// normalHost turns [userinfo@]host[:port] into host or host:port. The userinfo is dropped here and nowhere kept.
func normalHost(authority, defaultPort string) (string, error) {
	if at := strings.IndexByte(authority, '@'); at >= 0 {
		authority = authority[at+1:]
		if strings.IndexByte(authority, '@') >= 0 {
			return "", errUser
		}
	}
	host, port, hasPort := cutPort(authority)
	host, err := normalName(host)
	if err != nil || !hasPort || port == "" || port == defaultPort {
		return host, err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return "", errPort
	}
	return host + ":" + port, nil
}

// cutPort cuts at the colon after the host; the colons of a bracketed IPv6 address are not it.
func cutPort(s string) (host, port string, found bool) {
	if end := strings.IndexByte(s, ']'); strings.HasPrefix(s, "[") && end > 0 {
		port, found = strings.CutPrefix(s[end+1:], ":")
		if !found && port != "" {
			return "", "", false // text after the bracket: no host
		}
		return s[:end+1], port, found
	}
	return strings.Cut(s, ":")
}

// hostNames maps as browsers do (UTS 46, not transitional). Characters beyond letters, digits, '-' and '_' are refused
// by canonicalName, so STD3 rules, which would refuse '_' too, stay off.
var hostNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.CheckJoiners(true),
	idna.CheckHyphens(false), idna.StrictDomainName(false))

// normalName turns a host name or a bracketed address into the one form that [Locator] holds: A-labels in lower case,
// without the dot of the root.
func normalName(host string) (string, error) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(inner, "]") {
			return "", errHost
		}
		return "[" + addr.String() + "]", nil
	}
	if len(host) > 1024 {
		return "", errHost
	}
	ascii, err := hostNames.ToASCII(host)
	if err != nil {
		return "", errHost
	}
	ascii = strings.TrimSuffix(strings.ToLower(ascii), ".")
	if !canonicalName(ascii) {
		return "", errHost
	}
	return ascii, nil
}

// canonicalName reports whether s is a host name in lower case, or an IPv4 address of four plain decimal numbers. A name
// that ends in any other number is one of the many spellings of an address, and refused.
func canonicalName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !canonicalLabel(label) {
			return false
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		addr, err := netip.ParseAddr(s)
		return err == nil && addr.Is4()
	}
	return true
}

func canonicalLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// canonicalHost reports whether s is what normalHost returns for some authority. It asks no table of Unicode's, so that
// what was once stored stays readable when those change.
func canonicalHost(s string) bool {
	host, port, hasPort := cutPort(s)
	if n, err := strconv.ParseUint(port, 10, 16); hasPort && (err != nil || n == 0 || port[0] == '0') {
		return false
	}
	if strings.HasPrefix(host, "[") {
		name, err := normalName(host)
		return err == nil && name == host
	}
	return canonicalName(host)
}

// decodePath undoes percent-encoding, once. An encoded slash would change where segments end, an encoded backslash is
// one to some servers; both are refused, and so is every '%' that is left, by cleanPath.
func decodePath(path string) (string, error) {
	if strings.IndexByte(path, '%') < 0 {
		return path, nil
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) {
				return "", errEscape
			}
			n, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
			if c = byte(n); err != nil || c == '/' || c == '\\' {
				return "", errEscape
			}
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// cleanPath normalises a decoded path: NFC, no leading slash, every segment a real one. Case stays as it is: only a forge
// knows whether it matters there.
func cleanPath(path string) (string, error) {
	path = norm.NFC.String(strings.TrimPrefix(path, "/"))
	if path == "" {
		return "", errNoPath
	}
	if !printable(path, maxPath) || strings.ContainsAny(path, `%\?#;`) {
		return "", errPath
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", errSegment
		}
	}
	return path, nil
}

// repositoryPath is cleanPath for a git repository, which has one name with and without ".git" and a trailing slash.
func repositoryPath(path string) (string, error) {
	path = norm.NFC.String(path)
	path = strings.TrimSuffix(strings.TrimSuffix(path, "/"), ".git")
	path, err := cleanPath(path) // after ".git" is gone: "x/...git" must not become "x/.."
	if err != nil {
		return "", err
	}
	return path, checkRepository(path)
}

// checkRepository refuses the wiki beside a repository, which has readers of its own.
func checkRepository(path string) error {
	if strings.HasSuffix(strings.TrimSuffix(strings.ToLower(path), ".git"), ".wiki") {
		return errWiki
	}
	return nil
}
