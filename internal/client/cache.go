package client

import (
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"sort"
	"strings"

	"github.com/lychgate/lychgate/authz/artifact"
)

// Cache is a shared-state cache to be pushed or imported. It is untrusted: its names, its files and what they say may
// be hostile. It is safe for concurrent use.
type Cache interface {
	// List finds the objects. A name that is no artifact's is reported in the Listing, not an error.
	List(ctx context.Context) (*Listing, error)
	// Open reads an object from byte off on. The name must come from List. Absent is an error that wraps
	// fs.ErrNotExist.
	Open(ctx context.Context, name string, off int64) (io.ReadCloser, error)
}

// Listing is what a [Cache] holds.
type Listing struct {
	Objects []Object  // sorted by name, each name once
	Ignored []Ignored // sorted by reason
}

// Object is one file of a cache whose name is an artifact's.
type Object struct {
	Name string // canonical, relative to the cache
	Ref  artifact.Ref
	Size int64 // bytes, -1 when the cache does not say
}

// Ignored counts what was left aside for one reason.
type Ignored struct {
	Reason  string `json:"reason"`
	Count   int    `json:"count"`
	Example string `json:"example"` // one of the names, quoted and cut short
}

// lister gathers a Listing. It is not safe for concurrent use.
type lister struct {
	objects map[string]Object
	ignored map[string]*Ignored
}

func newLister() *lister {
	return &lister{objects: map[string]Object{}, ignored: map[string]*Ignored{}}
}

// add takes one file name. It stays silent on the files that BitBake keeps beside objects.
func (l *lister) add(name string, size int64) {
	if isTransient(path.Base(name)) {
		return
	}
	// The zone does not matter to the grammar; the gate parses the name again in the zone it is written to.
	ref, err := artifact.ParseName(artifact.Zone{Name: "cache"}, name)
	switch {
	case err != nil:
		l.ignore(name, "its name is not that of an sstate object")
	case ref.Name() != name:
		l.ignore(name, "its name is not in canonical form")
	case size == 0:
		l.ignore(name, "it is empty")
	default:
		l.objects[name] = Object{Name: name, Ref: ref, Size: size}
	}
}

func (l *lister) ignore(name, reason string) {
	i := l.ignored[reason]
	if i == nil {
		i = &Ignored{Reason: reason, Example: printable(name)}
		l.ignored[reason] = i
	}
	i.Count++
	if p := printable(name); p < i.Example {
		i.Example = p // the same example however the files were found
	}
}

func (l *lister) listing() *Listing {
	out := &Listing{}
	for _, o := range l.objects {
		out.Objects = append(out.Objects, o)
	}
	sort.Slice(out.Objects, func(i, j int) bool { return out.Objects[i].Name < out.Objects[j].Name })
	for _, i := range l.ignored {
		out.Ignored = append(out.Ignored, *i)
	}
	sort.Slice(out.Ignored, func(i, j int) bool { return out.Ignored[i].Reason < out.Ignored[j].Reason })
	return out
}

// temporary matches what a writer leaves while it creates an object: the object's name and a random suffix.
var temporary = regexp.MustCompile(`\.(tgz|tar\.zst|siginfo|sig)\.[A-Za-z0-9_]{6,16}$`)

// isTransient reports whether base is a file that BitBake keeps beside objects or while it makes them.
func isTransient(base string) bool {
	switch path.Ext(base) {
	case ".done", ".lock", ".tmp":
		return true
	case ".siginfo", ".sig":
		return false
	}
	return strings.HasPrefix(base, "sigtask.") || temporary.MatchString(base)
}

// printable makes outside text fit for a terminal: quoted when it holds anything unusual, and cut short.
func printable(s string) string {
	const limit = 200
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	q := fmt.Sprintf("%+q", s)
	if q[1:len(q)-1] == s {
		return s
	}
	return q
}
