package forge

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

// maxStaticFile bounds the file of a [Static] forge, in bytes.
const maxStaticFile = 8 << 20

// The file of a [Static] forge. Everything in it is compared exactly, upper and lower case apart: hosts and repository
// paths as source locators print them (hosts in lower case, paths without ".git"), names and groups as written.
//
//	hosts: [git.example.com]          # the hosts whose repositories this file decides
//	users:
//	  - id: "1"                       # immutable; never given to another
//	    name: alice
//	    kind: human                   # human (the default), ci or service
//	    groups: [team-a]
//	    keys: ["ssh-ed25519 AAAA... alice@laptop"]
//	    identities:                   # who she is at identity providers: the iss and sub of their ID tokens
//	      - {issuer: "https://idp.example.com", subject: "6f1c8e52"}
//	    blocked: false
//	repos_closed: false               # true: a path that is not under repos is no repository
//	repos:
//	  - path: teamA/secret-tool
//	    id: "17"                      # survives a rename: change the path, keep the id
//	    deploy_keys: ["ssh-ed25519 AAAA... mirror"]   # nobody's: they open no door
//	access:
//	  - {repos: ["public/**"], users: ["*"]}          # "*" is every user of this file
//	  - {repos: ["teamA/*"], groups: [team-a], users: [bob]}
//
// The paths under access are patterns: [source.PathPattern].
type staticFile struct {
	Hosts       []string       `yaml:"hosts"`
	Users       []staticUser   `yaml:"users"`
	Repos       []staticRepo   `yaml:"repos"`
	ReposClosed bool           `yaml:"repos_closed"`
	Access      []staticAccess `yaml:"access"`
}

type staticUser struct {
	ID         string           `yaml:"id"`
	Name       string           `yaml:"name"`
	Kind       authn.Kind       `yaml:"kind"`
	Groups     []string         `yaml:"groups"`
	Keys       []string         `yaml:"keys"`
	Identities []staticIdentity `yaml:"identities"`
	Blocked    bool             `yaml:"blocked"`
}

// staticIdentity is a subject of an identity provider. Both are compared exactly (OpenID Connect Core 1.0, section 5.7).
type staticIdentity struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
}

type staticRepo struct {
	Path       string   `yaml:"path"`
	ID         string   `yaml:"id"`
	DeployKeys []string `yaml:"deploy_keys"`
}

type staticAccess struct {
	Repos  []string `yaml:"repos"`
	Users  []string `yaml:"users"`
	Groups []string `yaml:"groups"`
}

// FileError is one thing wrong with the file of a [Static] forge, for the person who wrote it.
type FileError = authn.FileError

// snapshot is one parsed file. It never changes.
type snapshot struct {
	sum      [sha256.Size]byte
	revision int
	origin   string
	hosts    []string
	byID     map[string]*account
	byName   map[string]*account
	byKey    map[string]*account         // by fingerprint
	byIdent  map[staticIdentity]*account // by what an identity provider calls them
	deploy   map[string]string           // fingerprints of deploy keys, with the path of a repository that has them
	repoID   map[string]string           // declared repositories: path to id
	repoPath map[string]string           // and id to path
	closed   bool
}

// account is a user with the repositories that access rules give it.
type account struct {
	user User
	may  []source.PathPattern
}

// compiler turns one file into a snapshot, or says at which line it cannot.
type compiler struct {
	name string // of the file
	root yaml.Node
	file staticFile
	snap *snapshot
}

// parseStatic reads the file called name with the given contents.
func parseStatic(name string, data []byte) (*snapshot, error) {
	c := &compiler{name: name, snap: &snapshot{
		sum:      sha256.Sum256(data),
		byID:     make(map[string]*account),
		byName:   make(map[string]*account),
		byKey:    make(map[string]*account),
		byIdent:  make(map[staticIdentity]*account),
		deploy:   make(map[string]string),
		repoID:   make(map[string]string),
		repoPath: make(map[string]string),
	}}
	for _, step := range []func() error{
		func() error { return c.decode(data) }, c.hosts, c.users, c.repos, c.access,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return c.snap, nil
}

func (c *compiler) decode(data []byte) error {
	if len(data) > maxStaticFile {
		return c.wrong("the file is larger than 8 MiB", "name repositories by patterns such as team/**, not one by one")
	}
	strict := yaml.NewDecoder(bytes.NewReader(data))
	strict.KnownFields(true)
	if err := strict.Decode(&c.file); errors.Is(err, io.EOF) {
		return c.wrong("the file is empty", "it needs at least hosts, users and access")
	} else if err != nil {
		return c.badYAML(err)
	}
	if err := strict.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return c.wrong("there is more than one document in the file", "remove the line --- and what follows it")
	}
	// The second reading knows the lines; it cannot refuse what the first accepted.
	return yaml.Unmarshal(data, &c.root)
}

// unknownKey and atLine match what the YAML library says of a key and a place.
var (
	unknownKey = regexp.MustCompile(`^field (\S+) not found in type`)
	atLine     = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)`)
)

// badYAML says the library's first complaint in words that fit the file rather than our types.
func (c *compiler) badYAML(err error) error {
	text := err.Error()
	if list, ok := errors.AsType[*yaml.TypeError](err); ok && len(list.Errors) > 0 {
		text = list.Errors[0]
	}
	e := &FileError{File: c.name, Reason: text, Hint: "compare with the sample in the operator guide"}
	if m := atLine.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Reason = m[2]
	}
	if m := unknownKey.FindStringSubmatch(e.Reason); m != nil {
		e.Reason = fmt.Sprintf("unknown key %q", m[1])
		e.Hint = "known are hosts, users (id, name, kind, groups, keys, identities, blocked), repos (path, id, deploy_keys), repos_closed and access (repos, users, groups)"
	}
	return e
}

// wrong makes a FileError for the place that path names, keys and indexes from the root.
func (c *compiler) wrong(reason, hint string, path ...any) error {
	return &FileError{File: c.name, Line: lineOf(&c.root, path), Reason: reason, Hint: hint}
}

// lineOf follows path as far as it goes and returns the line it came to.
func lineOf(n *yaml.Node, path []any) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	line := 0
	for _, step := range path {
		next := child(n, step)
		if next == nil {
			break
		}
		n, line = next, next.Line
	}
	return line
}

func child(n *yaml.Node, step any) *yaml.Node {
	switch step := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return n.Content[step]
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

func (c *compiler) hosts() error {
	for i, host := range c.file.Hosts {
		if host == "" || host != strings.ToLower(host) || strings.ContainsAny(host, "/@\\?#* \t") {
			return c.wrong(fmt.Sprintf("%q is not a host", clip(host)), "write it as git.example.com or git.example.com:8443, in lower case", "hosts", i)
		}
		if slices.Contains(c.snap.hosts, host) {
			return c.wrong(fmt.Sprintf("host %q is listed twice", host), "remove one", "hosts", i)
		}
		c.snap.hosts = append(c.snap.hosts, host)
	}
	return nil
}

func (c *compiler) users() error {
	for i, u := range c.file.Users {
		if err := c.user(i, u); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) user(i int, u staticUser) error {
	switch {
	case u.ID == "":
		return c.wrong("a user has no id", "give it an id that is never changed or given to another", "users", i)
	case !plainName(u.Name):
		return c.wrong(fmt.Sprintf("user %q has the name %q", clip(u.ID), clip(u.Name)), "use letters, digits and . _ - @ +", "users", i, "name")
	case c.snap.byID[u.ID] != nil:
		return c.wrong(fmt.Sprintf("two users have the id %q", clip(u.ID)), "give each an id of its own", "users", i, "id")
	case c.snap.byName[u.Name] != nil:
		return c.wrong(fmt.Sprintf("two users have the name %q", u.Name), "give each a name of its own", "users", i, "name")
	}
	switch u.Kind {
	case "":
		u.Kind = authn.Human
	case authn.Human, authn.CI, authn.Service:
	default:
		return c.wrong(fmt.Sprintf("user %q has the kind %q", u.Name, clip(string(u.Kind))), "use human, ci or service", "users", i, "kind")
	}
	groups := slices.Compact(slices.Sorted(slices.Values(u.Groups)))
	a := &account{user: User{ID: u.ID, Name: u.Name, Kind: u.Kind, Groups: groups, Blocked: u.Blocked}}
	c.snap.byID[u.ID], c.snap.byName[u.Name] = a, a
	if err := c.userKeys(i, u, a); err != nil {
		return err
	}
	return c.userIdentities(i, u, a)
}

func (c *compiler) userKeys(i int, u staticUser, a *account) error {
	for j, line := range u.Keys {
		print, err := fingerprint(line)
		if err != nil {
			return c.wrong(fmt.Sprintf("a key of user %q: %v", u.Name, err), "paste the line of the .pub file, without options", "users", i, "keys", j)
		}
		if other := c.snap.byKey[print]; other != nil {
			return c.wrong(fmt.Sprintf("users %q and %q have the same key %s", other.user.Name, u.Name, print), "a key must name one user; remove it from one of them", "users", i, "keys", j)
		}
		c.snap.byKey[print] = a
	}
	return nil
}

func (c *compiler) userIdentities(i int, u staticUser, a *account) error {
	for j, identity := range u.Identities {
		if identity.Issuer == "" || identity.Subject == "" {
			return c.wrong(fmt.Sprintf("an identity of user %q is not complete", u.Name),
				"give it the issuer and the subject of the ID token (iss and sub)", "users", i, "identities", j)
		}
		if other := c.snap.byIdent[identity]; other != nil {
			return c.wrong(fmt.Sprintf("users %q and %q have the same identity %q", other.user.Name, u.Name, clip(identity.Subject)),
				"an identity must name one user; remove it from one of them", "users", i, "identities", j)
		}
		c.snap.byIdent[identity] = a
	}
	return nil
}

// plainName reports whether s can stand in "FORGE/NAME" and in a log line as it is.
func plainName(s string) bool {
	if s == "" || len(s) > 100 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-@+", c) >= 0) {
			return false
		}
	}
	return true
}

// fingerprint reads "TYPE BASE64 [COMMENT]", a line of authorized_keys (sshd(8)) without options, and returns
// "SHA256:..." as ssh-keygen -l prints it. The blob must begin with its type (RFC 4253 section 6.6).
func fingerprint(line string) (string, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return "", errors.New("want a key type and base64 text")
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(blob) < 4 {
		return "", errors.New("the second word is not a key in base64")
	}
	size := uint64(binary.BigEndian.Uint32(blob))
	if size > uint64(len(blob)-4) || string(blob[4:4+size]) != fields[0] {
		return "", fmt.Errorf("the key is not of the type %q", clip(fields[0]))
	}
	if strings.Contains(fields[0], "-cert-") {
		return "", errors.New("this is a certificate, not a key")
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
}

func (c *compiler) repos() error {
	for i, r := range c.file.Repos {
		if r.Path == "" || r.ID == "" || strings.HasPrefix(r.Path, "/") || strings.HasSuffix(r.Path, ".git") {
			return c.wrong("a repository needs a path and an id", "write the path as team/tool, without the host, a leading / or .git", "repos", i)
		}
		if _, twice := c.snap.repoID[r.Path]; twice {
			return c.wrong(fmt.Sprintf("repository %q is declared twice", clip(r.Path)), "remove one", "repos", i, "path")
		}
		if other, twice := c.snap.repoPath[r.ID]; twice {
			return c.wrong(fmt.Sprintf("repositories %q and %q have the same id %q", clip(other), clip(r.Path), clip(r.ID)), "give each an id of its own", "repos", i, "id")
		}
		c.snap.repoID[r.Path], c.snap.repoPath[r.ID] = r.ID, r.Path
		if err := c.deployKeys(i, r); err != nil {
			return err
		}
	}
	c.snap.closed = c.file.ReposClosed
	return nil
}

// deployKeys takes note of keys that must never be taken for a person's, least of all for who added them. Several
// repositories may share one.
func (c *compiler) deployKeys(i int, r staticRepo) error {
	for j, line := range r.DeployKeys {
		print, err := fingerprint(line)
		if err != nil {
			return c.wrong(fmt.Sprintf("a deploy key of repository %q: %v", clip(r.Path), err), "paste the line of the .pub file, without options", "repos", i, "deploy_keys", j)
		}
		if owner := c.snap.byKey[print]; owner != nil {
			return c.wrong(fmt.Sprintf("the deploy key %s of repository %q is also a key of user %q", print, clip(r.Path), owner.user.Name),
				"a deploy key is nobody's; remove it from the user, or from the repository if it never was one", "repos", i, "deploy_keys", j)
		}
		c.snap.deploy[print] = r.Path
	}
	return nil
}

func (c *compiler) access() error {
	for i, rule := range c.file.Access {
		if len(rule.Repos) == 0 || len(rule.Users)+len(rule.Groups) == 0 {
			return c.wrong("an access rule needs repos, and users or groups", "complete or remove it", "access", i)
		}
		patterns := make([]source.PathPattern, len(rule.Repos))
		for j, text := range rule.Repos {
			var err error
			if patterns[j], err = source.ParsePathPattern(text); err != nil {
				return c.wrong(err.Error(), "write a path such as teamA/tool, teamA/* or teamA/**", "access", i, "repos", j)
			}
		}
		if err := c.grant(i, rule, patterns); err != nil {
			return err
		}
	}
	return nil
}

// grant gives patterns to the users of rule i. An unknown user is a mistake worth stopping for; a group without
// members is not, since the last member may have left.
func (c *compiler) grant(i int, rule staticAccess, patterns []source.PathPattern) error {
	for j, name := range rule.Users {
		if name != "*" && c.snap.byName[name] == nil {
			return c.wrong(fmt.Sprintf("access names the unknown user %q", clip(name)), "add it to users, or remove it here", "access", i, "users", j)
		}
	}
	everyone := slices.Contains(rule.Users, "*")
	for _, a := range c.snap.byID {
		inGroup := func(g string) bool { return slices.Contains(a.user.Groups, g) }
		if everyone || slices.Contains(rule.Users, a.user.Name) || slices.ContainsFunc(rule.Groups, inGroup) {
			a.may = append(a.may, patterns...)
		}
	}
	return nil
}

// repo returns the id of the repository at path: the declared one, else the path itself.
func (s *snapshot) repo(path string) (id string, ok bool) {
	if id, declared := s.repoID[path]; declared {
		return id, true
	}
	// A path that is spelt like another repository's declared id would borrow its rights.
	if _, taken := s.repoPath[path]; taken || s.closed || path == "" {
		return "", false
	}
	return path, true
}

// path is the inverse of repo. A path that has been given a declared id since is no id of its own any more.
func (s *snapshot) path(id string) (path string, ok bool) {
	if path, declared := s.repoPath[id]; declared {
		return path, true
	}
	if back, ok := s.repo(id); !ok || back != id {
		return "", false
	}
	return id, true
}

// access answers one question.
func (s *snapshot) access(userID, repoID string) Access {
	a, path := s.byID[userID], ""
	if a == nil || a.user.Blocked {
		return None
	}
	path, ok := s.path(repoID)
	if !ok {
		return None
	}
	for _, p := range a.may {
		if p.Match(path) {
			return Read
		}
	}
	return None
}
