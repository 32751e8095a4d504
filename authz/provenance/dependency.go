package provenance

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/source"
)

// A resolvedDependency is an in-toto ResourceDescriptor in one of three roles:
//
//	source    a direct source     uri, and its revision as digest.gitCommit, digest.sha256 or the annotation lychgate.rev
//	input     a transitive one    the same
//	artifact  a build-time input  name and digest.sha256, and perhaps the annotation lychgate.recorded
//
// An artifact's lychgate.recorded is "true" or absent: see [Dependency].
//
// A uri is SCHEME://HOST/PATH with the scheme of uriSchemes and everything but unreserved characters and "/:@+"
// percent-encoded. What could not be resolved to a repository is listed too, with uriUnresolvable and the reason. Each
// source has exactly one descriptor: another spelling of it is refused.
type dependencyJSON struct {
	Name        string          `json:"name,omitzero"`
	URI         string          `json:"uri,omitzero"`
	Digest      digestsJSON     `json:"digest,omitzero"`
	Annotations annotationsJSON `json:"annotations"`
}

type digestsJSON struct {
	GitCommit string `json:"gitCommit,omitzero"`
	SHA256    string `json:"sha256,omitzero"`
}

type annotationsJSON struct {
	Role     string `json:"lychgate.role"`
	Type     string `json:"lychgate.type,omitzero"`
	Rev      string `json:"lychgate.rev,omitzero"`
	Reason   string `json:"lychgate.reason,omitzero"`
	Recorded string `json:"lychgate.recorded,omitzero"`
}

const (
	roleSource   = "source"
	roleInput    = "input"
	roleArtifact = "artifact"

	uriUnresolvable = "lychgate:unresolvable"
	isRecorded      = "true"
)

// uriScheme returns the scheme that stands for a type of source. "git+https" and its kin name the form of the
// repository, as in SPDX, not the protocol it was fetched by.
func uriScheme(t source.Type) (string, bool) {
	switch t {
	case source.Git, source.Hg, source.Svn:
		return string(t) + "+https", true
	case source.HTTP:
		return "https", true
	case source.SSH, source.Bucket, source.Perforce, source.ClearCase, source.NPM, source.Crate, source.GoModule:
		return string(t), true
	}
	return "", false
}

// typeOfScheme undoes uriScheme.
func typeOfScheme(scheme string) (source.Type, bool) {
	t := source.Type(strings.TrimSuffix(scheme, "+https"))
	if scheme == "https" {
		t = source.HTTP
	}
	back, ok := uriScheme(t)
	return t, ok && back == scheme
}

// dependencies returns every source, input and artifact as descriptors: sorted, none twice.
func (s *Statement) dependencies() ([]dependencyJSON, error) {
	list := make([]dependencyJSON, 0, len(s.Sources)+len(s.Inputs)+len(s.Artifacts))
	for _, group := range []struct {
		role    string
		sources []source.Source
	}{{roleSource, s.Sources}, {roleInput, s.Inputs}} {
		for _, src := range group.sources {
			d, err := describe(group.role, src)
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
	}
	for _, a := range s.Artifacts {
		list = append(list, describeArtifact(a))
	}
	slices.SortFunc(list, compareDependencies)
	list = slices.CompactFunc(list, sameDependency) // of two, the first stays
	if len(list) > MaxDependencies {
		return nil, fmt.Errorf("%d dependencies, at most %d are allowed; split the statement", len(list), MaxDependencies)
	}
	return list, nil
}

func compareDependencies(a, b dependencyJSON) int {
	return cmp.Or(
		cmp.Compare(b.Annotations.Role, a.Annotations.Role), // backwards: source, input, artifact
		cmp.Compare(a.URI, b.URI),
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Digest.GitCommit, b.Digest.GitCommit),
		cmp.Compare(a.Digest.SHA256, b.Digest.SHA256),
		cmp.Compare(a.Annotations.Rev, b.Annotations.Rev),
		cmp.Compare(a.Annotations.Reason, b.Annotations.Reason),
		cmp.Compare(b.Annotations.Recorded, a.Annotations.Recorded), // backwards: recorded first
	)
}

// sameDependency reports whether a and b differ at most in being recorded.
func sameDependency(a, b dependencyJSON) bool {
	a.Annotations.Recorded, b.Annotations.Recorded = "", ""
	return a == b
}

// addDependencies sorts descriptors into the statement's lists.
func (s *Statement) addDependencies(list []dependencyJSON) error {
	seen := make(map[dependencyJSON]bool, len(list))
	for _, d := range list {
		key := d
		key.Annotations.Recorded = "" // recorded and not is one too many
		if seen[key] {
			return fmt.Errorf("dependency %.200q occurs twice", cmp.Or(d.URI, d.Name))
		}
		seen[key] = true
		if err := s.addDependency(d); err != nil {
			return fmt.Errorf("dependency %.200q: %w", cmp.Or(d.URI, d.Name), err)
		}
	}
	return nil
}

func (s *Statement) addDependency(d dependencyJSON) error {
	switch d.Annotations.Role {
	case roleSource, roleInput:
		src, err := d.source()
		if err != nil {
			return err
		}
		if d.Annotations.Role == roleSource {
			s.Sources = append(s.Sources, src)
		} else {
			s.Inputs = append(s.Inputs, src)
		}
	case roleArtifact:
		digest, err := parseHex(d.Digest.SHA256)
		if err != nil {
			return err
		}
		a := Dependency{d.Name, digest, d.Annotations.Recorded == isRecorded}
		if describeArtifact(a) != d {
			return errors.New("an artifact has a name, a sha256 digest, a role and whether it is recorded, and nothing else")
		}
		s.Artifacts = append(s.Artifacts, a)
	default:
		return fmt.Errorf("role %.40q is unknown", d.Annotations.Role)
	}
	return nil
}

func describeArtifact(a Dependency) dependencyJSON {
	d := dependencyJSON{
		Name: a.Name, Digest: digestsJSON{SHA256: a.Digest.Hex()}, Annotations: annotationsJSON{Role: roleArtifact},
	}
	if a.Recorded {
		d.Annotations.Recorded = isRecorded
	}
	return d
}

// describe returns the one descriptor of a source. Repo is left out.
func describe(role string, s source.Source) (dependencyJSON, error) {
	s.Repo = ""
	d := dependencyJSON{Annotations: annotationsJSON{Role: role, Reason: s.Reason}}
	if err := s.Check(); err != nil {
		return d, fmt.Errorf("source %.200q: %w", s, err)
	}
	switch {
	case s.Rev != "" && s.Type == source.Git && (isHex(s.Rev, 40) || isHex(s.Rev, 64)):
		d.Digest.GitCommit = s.Rev
	case s.Rev != "" && isFile(s.Type) && isHex(s.Rev, 64):
		d.Digest.SHA256 = s.Rev
	default:
		d.Annotations.Rev = s.Rev
	}
	if s.Type == source.Unresolvable {
		d.URI, d.Annotations.Type = uriUnresolvable, string(source.Unresolvable)
		return d, nil
	}
	scheme, _ := uriScheme(s.Type)
	d.URI = scheme + "://" + escapeURI(s.Locator.Host, ":[]") + "/" + escapeURI(s.Locator.Path, "/:@+")
	return d, nil
}

// source undoes describe. It parses generously and then asks whether the result would be described by d exactly.
func (d dependencyJSON) source() (source.Source, error) {
	s := source.Source{
		Rev:    cmp.Or(d.Digest.GitCommit, d.Digest.SHA256, d.Annotations.Rev),
		Reason: d.Annotations.Reason,
	}
	if d.URI == uriUnresolvable {
		s.Type = source.Unresolvable
	} else if err := parseURI(d.URI, &s); err != nil {
		return source.Source{}, err
	}
	back, err := describe(d.Annotations.Role, s)
	if err != nil {
		return source.Source{}, err
	}
	if back != d {
		return source.Source{}, fmt.Errorf("it is not written in its one form, with the uri %.200q", back.URI)
	}
	return s, nil
}

func parseURI(uri string, s *source.Source) error {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return fmt.Errorf("uri %.200q has no scheme", uri)
	}
	if s.Type, ok = typeOfScheme(scheme); !ok {
		return fmt.Errorf("uri %.200q has an unknown scheme", uri)
	}
	host, path, ok := strings.Cut(rest, "/")
	if !ok {
		return fmt.Errorf("uri %.200q has no path", uri)
	}
	var err error
	if s.Locator.Host, err = url.PathUnescape(host); err != nil {
		return fmt.Errorf("uri %.200q: %w", uri, err)
	}
	if s.Locator.Path, err = url.PathUnescape(path); err != nil {
		return fmt.Errorf("uri %.200q: %w", uri, err)
	}
	return nil
}

// isFile says that a source is one file, whose revision is a checksum.
func isFile(t source.Type) bool {
	return t == source.HTTP || t == source.SSH || t == source.Bucket
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// escapeURI percent-encodes every byte but the unreserved ones of RFC 3986 and those in keep.
func escapeURI(s, keep string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9',
			strings.IndexByte("-._~", c) >= 0, strings.IndexByte(keep, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}
