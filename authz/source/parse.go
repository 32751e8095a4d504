package source

import (
	"strings"
	"unicode/utf8"
)

// maxEntry bounds an entry before anything looks at it, in octets.
const maxEntry = 4096

// Why an entry as a whole cannot be resolved, in words that say what to do where something can be done.
const (
	errLong       reason = "the entry is longer than 4096 octets"
	errOctets     reason = "the entry holds white space, control characters, a backslash or bad UTF-8"
	errUnexpanded reason = "the entry holds an unexpanded variable"
	errMarks      reason = "the entry holds ? or #, and what they add cannot be told from a credential"
	errForm       reason = "the entry is not of the form TYPE://HOST/PATH;PARAMETERS"
	errParameter  reason = "a parameter is given twice"
	errScheme     reason = "the type of the entry is unknown"
	errProtocol   reason = "the protocol of the entry is unknown"
	errLayer      reason = "file:// entry: name the layer's repository"
	errDisk       reason = "a repository on the builder's disk: name where it was cloned from"
	errShrinkwrap reason = "npmsw:// entry: list what the shrinkwrap file names"
	errManifest   reason = "repo:// entry: list the projects of the manifest"
	errLate       reason = "an @ after the host makes the host ambiguous for this type of entry"
	errModule     reason = "the entry lacks the parameter that names what to fetch"
	errBucket     reason = "the bucket's name is none, or has upper case or a port"
	errDepot      reason = "upper case before the first slash: it may be a depot's name, where case matters"
	errModulePath reason = "a module path begins with a domain name, without user or port"
	errRev        reason = "the revision is no hash, version, tag, number or checksum"
)

// Parse reads one expanded entry of SRC_URI with the revision BitBake resolved for it ("" when there is none: then the
// entry's own parameters are asked). It is total: what cannot be resolved becomes a Source of type [Unresolvable] with
// the reason, and is a denial. Neither names, passwords nor anything else of an unresolvable entry is in the result.
//
// An entry is TYPE://[USER@]HOST[:PORT]/PATH[;PARAMETER=VALUE]..., as in "Fetchers" of BitBake's manual, or an
// scp-like USER@HOST:PATH. s3:// and gs:// buckets get the host names that their operators serve them under, so that
// equal names at both stay apart; an endpoint of one's own is not to be seen in an entry. The repositories that a
// gitsm:// entry finds by itself are not in it; see [HasSubmodules].
func Parse(entry, rev string) Source {
	s, err := parseEntry(entry)
	return finish(s, rev, err)
}

// ParseClone is [Parse] for a URL as "git clone" takes it: of a layer's remote, or of a submodule. It always means a
// git repository, and there are no parameters.
func ParseClone(url, rev string) Source {
	s, err := parseClone(url)
	return finish(s, rev, err)
}

// HasSubmodules reports whether an entry may bring in further repositories that no SRC_URI names: those of its
// submodules. Whoever states the sources of an artifact must list them.
func HasSubmodules(entry string) bool {
	scheme, _, found := strings.Cut(entry, "://")
	return found && strings.EqualFold(scheme, "gitsm")
}

// finish adds the revision, that of the entry only when none is given, and turns an error into a source.
func finish(s Source, rev string, err error) Source {
	if rev != "" {
		s.Rev = rev
	}
	if err == nil && !validRev(s.Rev) {
		err = errRev
	}
	if err != nil {
		return Source{Type: Unresolvable, Reason: err.Error()}
	}
	return s
}

// entry is what the octets of an entry say, before any of it is understood.
type entry struct {
	scheme    string
	authority string // with userinfo and port
	path      string // still encoded; with its leading slash
	params    map[string]string
}

func parseEntry(text string) (Source, error) {
	if err := checkText(text); err != nil {
		return Source{}, err
	}
	body, params, _ := strings.Cut(text, ";")
	if strings.ContainsAny(body, "?#") {
		return Source{}, errMarks
	}
	scheme, rest, found := strings.Cut(body, "://")
	if !found && strings.IndexByte(body, '@') < 0 { // "file:x" and "git:x" are local to BitBake
		return Source{}, errForm
	}
	if !found {
		return parseSCP(body)
	}
	e := entry{scheme: strings.ToLower(scheme)}
	e.authority, e.path = cutAuthority(rest)
	var err error
	if e.params, err = parseParams(params); err != nil {
		return Source{}, err
	}
	s, err := e.source()
	if s.Rev == "" {
		s.Rev = e.rev()
	}
	return s, err
}

// checkText refuses what has no place anywhere in an entry.
func checkText(text string) error {
	switch {
	case len(text) > maxEntry:
		return errLong
	case !utf8.ValidString(text):
		return errOctets
	case strings.Contains(text, "${"):
		return errUnexpanded
	case strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) >= 0:
		return errOctets
	}
	return nil
}

// cutAuthority cuts before the first slash.
func cutAuthority(s string) (authority, path string) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// parseParams reads NAME=VALUE;NAME=VALUE. BitBake takes the last of two values; here two are an ambiguity.
func parseParams(text string) (map[string]string, error) {
	params := make(map[string]string)
	for param := range strings.SplitSeq(text, ";") {
		if param == "" {
			continue
		}
		name, value, _ := strings.Cut(param, "=")
		if _, twice := params[name]; twice {
			return nil, errParameter
		}
		params[name] = value
	}
	return params, nil
}

// source understands the entry by its scheme; "Fetchers" in BitBake's manual describes each.
func (e entry) source() (Source, error) {
	switch e.scheme {
	case "git", "gitsm", "gitannex":
		return e.git()
	case "git+https", "git+http", "git+ssh": // as npm and pip write them
		return repository(strings.TrimPrefix(e.scheme, "git+"), e.authority, e.path)
	case "http", "https", "ftp", "ftps":
		return e.file(HTTP, e.scheme)
	case "ssh", "sftp":
		return e.copied(SSH)
	case "az":
		return e.file(Bucket, "https")
	case "s3":
		return e.bucket(".s3.amazonaws.com")
	case "gs":
		return e.bucket(".storage.googleapis.com")
	case "svn":
		return e.module(Svn, "module", "svn")
	case "hg":
		return e.module(Hg, "module", "http")
	case "ccrc":
		return e.module(ClearCase, "vob", "https")
	case "npm":
		return e.module(NPM, "package", "https")
	case "p4":
		return e.depot()
	case "crate":
		return e.crate()
	case "gomod":
		return e.goModule()
	case "gomodgit":
		return e.goModuleGit()
	}
	return Source{}, e.refusal()
}

// refusal says why entries of the scheme are never resolvable.
func (e entry) refusal() reason {
	switch e.scheme {
	case "file":
		return errLayer
	case "npmsw":
		return errShrinkwrap
	case "repo":
		return errManifest
	}
	return errScheme
}

// rev returns the revision or checksum that the entry itself names.
func (e entry) rev() string {
	var names []string
	switch e.scheme {
	case "npm", "gomod":
		names = []string{"version"}
	case "gomodgit":
		names = []string{"srcrev"}
	case "http", "https", "ftp", "ftps", "s3", "gs", "az", "sftp":
		names = []string{"sha256sum"}
	default:
		names = []string{"rev", "tag"}
	}
	for _, name := range names {
		if v := e.params[name]; v != "" {
			return v
		}
	}
	return ""
}

// protocol returns the protocol parameter, which must be one of those allowed, the first of which is the default.
func (e entry) protocol(allowed ...string) (string, error) {
	p, given := e.params["protocol"]
	if !given {
		return allowed[0], nil
	}
	if p == "file" {
		return "", errDisk
	}
	for _, a := range allowed {
		if p == a {
			return p, nil
		}
	}
	return "", errProtocol
}

func (e entry) git() (Source, error) {
	if e.authority == "" { // BitBake takes git:///path for a local repository
		return Source{}, errDisk
	}
	protocol, err := e.protocol("git", "https", "http", "ssh", "rsync")
	if err != nil {
		return Source{}, err
	}
	authority, path := e.authority, e.path
	if protocol == "ssh" {
		authority, path = uncolon(authority, path)
	}
	return repository(protocol, authority, path)
}

// uncolon mends git@host:team/zlib, the scp-like form that people write where a URL belongs: what looks like a port and
// is no number begins the path.
func uncolon(authority, path string) (string, string) {
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	_, after, found := cutPort(host)
	if !found || strings.Trim(after, "0123456789") == "" {
		return authority, path
	}
	return strings.TrimSuffix(authority, ":"+after), "/" + after + path
}

// repository is a git repository at an encoded path.
func repository(protocol, authority, path string) (Source, error) {
	path, err := decodePath(path)
	if err != nil {
		return Source{}, err
	}
	return rawRepository(protocol, authority, path)
}

func rawRepository(protocol, authority, path string) (Source, error) {
	host, err := normalHost(authority, defaultPort(protocol))
	if err != nil {
		return Source{}, err
	}
	path, err = repositoryPath(path)
	return Source{Type: Git, Locator: Locator{host, path}}, err
}

// parseSCP reads [USER@]HOST:PATH, where the first colon comes before any slash and after the user. Nothing in it is
// encoded or a port.
func parseSCP(text string) (Source, error) {
	user := strings.IndexByte(text, '@') + 1
	host, path, found := cutPort(text[user:])
	if !found || strings.ContainsAny(text[:user], ":/") || strings.IndexByte(host, '/') >= 0 {
		return Source{}, errForm
	}
	return rawRepository("ssh", text[:user]+host, path)
}

func parseClone(url string) (Source, error) {
	if err := checkText(url); err != nil {
		return Source{}, err
	}
	if strings.ContainsAny(url, "?#") {
		return Source{}, errMarks
	}
	scheme, rest, found := strings.Cut(url, "://")
	if !found {
		return parseSCP(url)
	}
	switch scheme = strings.TrimPrefix(strings.ToLower(scheme), "git+"); scheme {
	case "git", "https", "http", "ssh", "rsync", "ftp", "ftps":
		authority, path := cutAuthority(rest)
		return repository(scheme, authority, path)
	case "file":
		return Source{}, errDisk
	}
	return Source{}, errScheme
}

// locator reads host and path as they stand.
func (e entry) locator(protocol string) (Locator, error) {
	host, err := normalHost(e.authority, defaultPort(protocol))
	if err != nil {
		return Locator{}, err
	}
	path, err := decodePath(e.path)
	if err != nil {
		return Locator{}, err
	}
	path, err = cleanPath(path)
	return Locator{host, path}, err
}

func (e entry) file(t Type, protocol string) (Source, error) {
	l, err := e.locator(protocol)
	return Source{Type: t, Locator: l}, err
}

// copied is for the fetchers that look for the '@' after the user name further right than a URL has it, behind slashes
// and semicolons: there the host that BitBake asks would be another one than the host read here.
func (e entry) copied(t Type) (Source, error) {
	if strings.IndexByte(e.path, '@') >= 0 {
		return Source{}, errLate
	}
	for name, value := range e.params {
		if strings.IndexByte(name, '@') >= 0 || strings.IndexByte(value, '@') >= 0 {
			return Source{}, errLate
		}
	}
	return e.file(t, e.scheme)
}

// depot reads p4://[USER[:PASSWORD]@]DEPOT/PATH. BitBake takes the server from elsewhere, so a depot stands where URLs
// have their host; some people write the server there all the same.
func (e entry) depot() (Source, error) {
	if name := e.authority[strings.IndexByte(e.authority, '@')+1:]; name != strings.ToLower(name) {
		return Source{}, errDepot
	}
	return e.copied(Perforce)
}

// bucket names the bucket as a host at the operator's domain. A bucket's name is a label or more, in lower case.
func (e entry) bucket(domain string) (Source, error) {
	if !canonicalName(e.authority) {
		return Source{}, errBucket
	}
	e.authority += domain
	return e.file(Bucket, "https")
}

// module is for entries where a parameter completes the path.
func (e entry) module(t Type, param, protocol string) (Source, error) {
	protocol, err := e.protocol(protocol, "https", "http", "ssh", "svn+ssh")
	if err != nil {
		return Source{}, err
	}
	name := strings.Trim(e.params[param], "/")
	if name == "" {
		return Source{}, errModule
	}
	path, err := decodePath(strings.TrimSuffix(e.path, "/"))
	if err != nil {
		return Source{}, err
	}
	host, err := normalHost(e.authority, defaultPort(protocol))
	if err != nil {
		return Source{}, err
	}
	path, err = cleanPath(path + "/" + name) // the parameter is not encoded: a '%' in it is refused
	return Source{Type: t, Locator: Locator{host, path}}, err
}

// crate reads crate://HOST/NAME/VERSION.
func (e entry) crate() (Source, error) {
	protocol, err := e.protocol("https", "http")
	if err != nil {
		return Source{}, err
	}
	s, err := e.file(Crate, protocol)
	if err != nil {
		return s, err
	}
	slash := strings.LastIndexByte(s.Locator.Path, '/')
	if slash < 0 {
		return Source{}, errModule
	}
	s.Rev = s.Locator.Path[slash+1:]
	s.Locator.Path = s.Locator.Path[:slash]
	return s, nil
}

// goModule reads a module path, whose first element is a domain name (go.dev/ref/mod#module-path). It may be all there is.
func (e entry) goModule() (Source, error) {
	if strings.ContainsAny(e.authority, "@:") || strings.IndexByte(e.authority, '.') < 0 {
		return Source{}, errModulePath
	}
	if e.path == "" || e.path == "/" {
		host, err := normalHost(e.authority, "")
		return Source{Type: GoModule, Locator: Locator{Host: host}}, err
	}
	return e.file(GoModule, "https")
}

// goModuleGit is a Go module fetched from its repository: that of repo=, else the one its path names.
func (e entry) goModuleGit() (Source, error) {
	protocol, err := e.protocol("https", "http", "ssh", "git")
	if err != nil {
		return Source{}, err
	}
	authority, path := e.authority, e.path
	if repo := e.params["repo"]; repo != "" {
		authority, path = cutAuthority(repo)
	}
	return repository(protocol, authority, path)
}
