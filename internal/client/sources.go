package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// fetchedRevisions is the variable of a do_fetch that holds the revisions BitBake resolved, in the order of the
// entries of SRC_URI that have one.
const fetchedRevisions = "fetcher_hashes_dummyfunc"

// fetched is what one do_fetch brought in.
type fetched struct {
	sources []source.Source
	notes   []string // what a person should know, each once
}

// entry is one entry of SRC_URI, expanded as far as identity needs it.
type entry struct {
	scheme string
	text   string
	rev    string
	err    error // why it cannot be expanded
}

// fetch reads SRC_URI and the resolved revisions from the variables of a do_fetch.
// What it does not say the records of what was built from it may.
func (d *deriver) fetch(ctx context.Context, n *node, recs []*record, more func(string) (string, bool)) fetched {
	x := &expander{recipe: n.recipe, vars: n.vars, more: more}
	var out fetched
	entries, err := x.entries(n.vars["SRC_URI"])
	if err != nil {
		if !slices.ContainsFunc(recs, (*record).whole) {
			out.add(unresolvable("SRC_URI of %s needs %v", printable(n.recipe), err))
		}
		return out
	}
	if !assignRevisions(entries, n.vars[fetchedRevisions]) {
		out.note("the revisions of its repositories are unknown: there are not as many as repositories")
	}
	local, told := false, tells(recs, entries)
	for i, e := range entries {
		switch {
		case e.err != nil && told:
			// The records have it, beside all others.
		case e.err != nil:
			out.add(unresolvable("SRC_URI entry %d of %s needs %v", i+1, printable(n.recipe), e.err))
		case e.scheme == "file":
			local = true
		default:
			out.add(source.Parse(e.text, e.rev))
		}
		if e.scheme == "gitsm" && (e.err == nil || !told) {
			out.add(d.submodules(n.recipe, e, recs)...)
		}
	}
	if local && !tellsFiles(recs, entries) {
		out.add(d.local(ctx, n)...)
	}
	return out
}

func (f *fetched) add(s ...source.Source) { f.sources = append(f.sources, s...) }

func (f *fetched) note(text string) { f.notes = append(f.notes, text) }

func unresolvable(format string, args ...any) source.Source {
	return source.Source{Type: source.Unresolvable, Reason: fmt.Sprintf(format, args...)}
}

// submodules are the repositories that a gitsm:// entry pulls in, which only records and the operator know.
func (d *deriver) submodules(recipe string, e entry, recs []*record) []source.Source {
	s := source.Parse(e.text, e.rev)
	for _, r := range recs {
		if modules, ok := r.modules[s]; ok {
			return append(slices.Clone(modules), d.extra[recipe]...)
		}
	}
	if extra, ok := d.extra[recipe]; ok {
		return extra
	}
	return []source.Source{unresolvable("submodules of %s are not listed", printable(recipe))}
}

// local are the layer repositories of the file:// entries of a do_fetch.
func (d *deriver) local(ctx context.Context, n *node) []source.Source {
	files := slices.DeleteFunc(slices.Clone(n.files), func(f provenance.FileChecksum) bool { return f.Sum == "" })
	if len(files) == 0 {
		files = []provenance.FileChecksum{{}} // it does not say which: only a layer of all files can answer
	}
	var out []source.Source
	for _, file := range files {
		s, ok := d.layers.find(ctx, file)
		if !ok {
			s = unresolvable("local files of %s come from a layer that is not given", printable(n.recipe))
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// entries splits and expands SRC_URI. The error concerns SRC_URI as a whole.
func (x *expander) entries(value string) ([]entry, error) {
	text, removed := cutNotes(value)
	gone, err := x.removed(removed)
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, word := range braceFields(text) {
		for _, e := range x.entry(word) {
			if e.err != nil || !slices.Contains(gone, e.text) {
				out = append(out, e)
			}
		}
		if len(out) > maxEntries {
			return nil, errHuge
		}
	}
	return out, nil
}

// maxEntries bounds SRC_URI; the longest known has several hundred.
const maxEntries = 10_000

func (x *expander) removed(words []string) ([]string, error) {
	var out []string
	for _, w := range words {
		text, err := x.expand(w)
		if err != nil {
			return nil, err
		}
		out = append(out, strings.Fields(text)...)
	}
	return out, nil
}

// entry expands one word of SRC_URI, which may become several entries or none.
func (x *expander) entry(word string) []entry {
	parts := splitOutside(word, func(c byte) bool { return c == ';' })
	if len(parts) == 0 {
		return nil
	}
	head, err := x.expand(parts[0])
	if err != nil {
		scheme, _, _ := strings.Cut(parts[0], "://")
		return []entry{{scheme: strings.ToLower(scheme), err: err}}
	}
	var out []entry
	for w := range strings.FieldsSeq(head) {
		scheme, _, _ := strings.Cut(w, "://")
		out = append(out, entry{scheme: strings.ToLower(scheme), text: w})
	}
	if len(out) > 0 {
		x.parameters(&out[len(out)-1], parts[1:])
	}
	for i := range out {
		x.checksum(&out[i])
	}
	return out
}

// identifying are the parameters without which it is not known what an entry names.
var identifying = []string{"protocol", "module", "repo", "manifest", "package", "version", "rev", "tag"}

// parameters expands an entry's parameters. One that cannot be expanded is left out, unless identity hangs on it.
func (x *expander) parameters(e *entry, params []string) {
	for _, p := range params {
		name, _, _ := strings.Cut(p, "=")
		text, err := x.expand(p)
		switch {
		case err == nil:
			e.text += ";" + text
		case slices.Contains(identifying, name) || strings.Contains(name, "$"):
			e.err = err
			return
		}
	}
}

// checksum finds the checksum of a file to download: a parameter, or a flag of SRC_URI.
func (x *expander) checksum(e *entry) {
	if e.err != nil || hasRevision(e.scheme) {
		return
	}
	flag := "sha256sum"
	for p := range strings.SplitSeq(e.text, ";") {
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "sha256sum":
			e.rev = value
			return
		case "name":
			flag = value + ".sha256sum"
		}
	}
	for _, key := range []string{flag, "sha256sum"} {
		if sum, err := x.expand(x.vars["SRC_URI["+key+"]"]); err == nil && sum != "" {
			e.rev = sum
			return
		}
	}
}

// hasRevision reports whether BitBake resolves a revision for entries of this scheme.
func hasRevision(scheme string) bool {
	switch scheme {
	case "git", "gitsm", "gitannex", "gomodgit", "hg", "svn", "p4":
		return true
	}
	return false
}

// assignRevisions gives each repository its revision. It reports whether there were as many as repositories;
// if not, none is given: a wrong revision is worse than none.
func assignRevisions(entries []entry, revisions string) bool {
	var at []int
	for i := range entries {
		if hasRevision(entries[i].scheme) {
			at = append(at, i)
		}
	}
	revs := strings.Fields(revisions)
	if len(revs) != len(at) {
		return len(at) == 0
	}
	for i, rev := range revs {
		entries[at[i]].rev = rev
	}
	return true
}

var errExtraLine = errors.New("want RECIPE URL [REVISION], or RECIPE - for none")

// ParseExtra reads a file for [DeriveOptions].Extra: a line per repository, "RECIPE SRC_URI-ENTRY [REVISION]", or
// "RECIPE -" when there is none. Empty lines and lines that begin with # are skipped.
func ParseExtra(text string) (map[string][]source.Source, error) {
	extra := map[string][]source.Source{}
	line := 0
	for l := range strings.SplitSeq(text, "\n") {
		line++
		f := strings.Fields(l)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) < 2 || len(f) > 3 || f[1] == "-" && len(f) == 3 {
			return nil, fmt.Errorf("line %d: %w", line, errExtraLine)
		}
		if f[1] == "-" {
			if _, ok := extra[f[0]]; !ok {
				extra[f[0]] = nil // known, and empty
			}
			continue
		}
		s := source.Parse(f[1], strings.Join(f[2:], ""))
		if s.Type == source.Unresolvable {
			return nil, fmt.Errorf("line %d: %s", line, s.Reason)
		}
		extra[f[0]] = append(extra[f[0]], s)
	}
	return extra, nil
}
