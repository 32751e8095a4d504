package client

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/source"
)

// Bounds of a record. A real one has a few KiB.
const (
	maxRecord     = 4 << 20 // bytes
	maxRecordList = 10_000  // members of any list
	maxRecordText = 4096    // bytes of any name
	maxRecordName = 1024    // bytes of what names a job
)

// recordVersion is the layout that [parseRecord] reads.
const recordVersion = 1

// recordJSON is what lychgate.bbclass of meta-lychgate writes when a task succeeded.
type recordJSON struct {
	Version  int             `json:"version"`
	Recipe   string          `json:"recipe"`
	Task     string          `json:"task"` // with "do_"
	TaskHash string          `json:"taskhash"`
	UniHash  string          `json:"unihash"`
	Sources  []recordEntry   `json:"sources"`
	Files    []recordFile    `json:"files"`
	Layers   []recordTree    `json:"layers"`
	Tree     *recordTree     `json:"tree"` // of EXTERNALSRC
	Inputs   []recordInput   `json:"inputs"`
	CI       *recordIdentity `json:"ci"`
}

// recordEntry is an entry of SRC_URI but file://. Of one with submodules, Submodules has all, or Unknown says why not.
type recordEntry struct {
	Entry      string         `json:"entry"`
	Rev        string         `json:"rev"`
	Submodules []recordModule `json:"submodules"`
	Unknown    string         `json:"unknown"`
}

type recordModule struct {
	URL string `json:"url"`
	Rev string `json:"rev"`
}

// recordFile is a file:// entry: Layer is an index into the layers, or Unknown says why it is not known.
type recordFile struct {
	Name    string `json:"name"`
	Layer   *int   `json:"layer"`
	Unknown string `json:"unknown"`
}

// recordTree is a working copy of a repository: a layer, or the tree of an externalsrc recipe.
type recordTree struct {
	Name       string         `json:"name"` // of a layer's directory
	URL        string         `json:"url"`
	Rev        string         `json:"rev"`
	Dirty      bool           `json:"dirty"`
	Submodules []recordModule `json:"submodules"`
	Unknown    string         `json:"unknown"` // why there is no URL and no revision
}

type recordInput struct {
	Recipe  string `json:"recipe"`
	Task    string `json:"task"`
	UniHash string `json:"unihash"`
}

// recordIdentity is the CI job that a build was.
type recordIdentity struct {
	Builder string `json:"builder"`
	Run     string `json:"run"`
}

// record is what one record says, understood. It is read-only.
type record struct {
	key      taskKey
	taskHash string
	entries  []source.Source                   // those of SRC_URI but file://; sorted
	modules  map[source.Source][]source.Source // the submodules of those entries for which they are known
	lost     bool                              // the submodules of one are not
	files    []localFile
	count    int  // of the entries of SRC_URI
	external bool // the recipe is built from a tree
	tree     []source.Source
	inputs   []reference // tasks of other recipes
	own      []reference // tasks of its recipe
	ci       recordIdentity
	dirty    []string // layers and trees with changes that are not in their repositories
}

// localFile is a file:// entry and the source it comes from.
type localFile struct {
	name   string
	source source.Source
}

var errRecord = errors.New("it is no record")

// parseRecord reads a record, which anybody may have written.
func parseRecord(text []byte) (*record, error) {
	var j recordJSON
	if err := json.Unmarshal(text, &j, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if j.Version != recordVersion {
		return nil, fmt.Errorf("%w of version %d, which is all that this program reads", errRecord, recordVersion)
	}
	return j.understand()
}

func (j *recordJSON) understand() (*record, error) {
	task, ok := strings.CutPrefix(j.Task, "do_")
	switch {
	case !ok || j.Recipe == "" || max(len(j.Recipe), len(j.Task)) > maxRecordText:
		return nil, fmt.Errorf("%w: it names no recipe and task", errRecord)
	case !isHash(j.TaskHash) || !isHash(j.UniHash):
		return nil, fmt.Errorf("%w: a hash has 64 digits", errRecord)
	case max(len(j.Sources), len(j.Files), len(j.Layers), len(j.Inputs)) > maxRecordList:
		return nil, fmt.Errorf("%w: it has more than %d entries", errRecord, maxRecordList)
	}
	r := &record{key: taskKey{j.Recipe, task, j.UniHash}, taskHash: j.TaskHash, modules: map[source.Source][]source.Source{}, count: len(j.Sources) + len(j.Files)}
	if err := errors.Join(r.addEntries(j.Sources), r.addFiles(j), r.addTree(j.Tree), r.addInputs(j)); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if j.CI != nil {
		if !nameable(j.CI.Builder) || !nameable(j.CI.Run) {
			return nil, fmt.Errorf("%w: the name of its job is too long, or not printable", errRecord)
		}
		r.ci = *j.CI
	}
	return r, nil
}

// nameable reports whether a statement may name it.
func nameable(text string) bool {
	return len(text) <= maxRecordName && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func isHash(text string) bool { return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == "" }

func (r *record) addEntries(list []recordEntry) error {
	for _, e := range list {
		s := source.Parse(e.Entry, e.Rev)
		r.entries = append(r.entries, s)
		if source.HasSubmodules(e.Entry) && e.Unknown == "" {
			modules, err := moduleSources(e.Submodules)
			if err != nil {
				return err
			}
			r.modules[s] = modules
		} else if len(e.Submodules) > 0 {
			return errors.New("an entry without submodules lists some")
		}
		r.lost = r.lost || e.Unknown != ""
	}
	r.entries = slices.Clone(source.NewSet(r.entries).Sources())
	return nil
}

func moduleSources(list []recordModule) ([]source.Source, error) {
	if len(list) > maxRecordList {
		return nil, fmt.Errorf("it has more than %d submodules", maxRecordList)
	}
	var out []source.Source
	for _, m := range list {
		out = append(out, source.ParseClone(m.URL, m.Rev))
	}
	return out, nil
}

func (r *record) addFiles(j *recordJSON) error {
	for _, f := range j.Files {
		s := unresolvable("local files of %s: %s", printable(j.Recipe), printable(f.Unknown))
		switch {
		case (f.Layer == nil) == (f.Unknown == ""):
			return errors.New("a local file has a layer, or the reason why not")
		case f.Layer == nil:
		case *f.Layer < 0 || *f.Layer >= len(j.Layers):
			return errors.New("a local file is of a layer that is not listed")
		default:
			layer := j.Layers[*f.Layer]
			s = layer.source("layer " + layer.Name)
			if layer.Dirty {
				r.dirty = append(r.dirty, fmt.Sprintf("layer %s has changes that its repository does not", printable(layer.Name)))
			}
		}
		r.files = append(r.files, localFile{f.Name, s})
	}
	return nil
}

// source is the repository of a working copy.
func (t *recordTree) source(what string) source.Source {
	if t.Unknown != "" || t.URL == "" {
		return unresolvable("%s: %s", printable(what), printable(t.Unknown))
	}
	return source.ParseClone(t.URL, t.Rev)
}

func (r *record) addTree(t *recordTree) error {
	if t == nil {
		return nil
	}
	modules, err := moduleSources(t.Submodules)
	r.external, r.tree = true, append(modules, t.source("the directory of "+r.key.recipe))
	if t.Dirty {
		r.dirty = append(r.dirty, "its directory (EXTERNALSRC) has changes that its repository does not")
	}
	return err
}

func (r *record) addInputs(j *recordJSON) error {
	for _, in := range j.Inputs {
		if !isHash(in.UniHash) || in.Recipe == "" || max(len(in.Recipe), len(in.Task)) > maxRecordText {
			return errors.New("an input has a recipe, a task and a hash of 64 digits")
		}
		ref := reference{in.Recipe, strings.TrimPrefix(in.Task, "do_"), in.UniHash}
		if in.Recipe != j.Recipe {
			r.inputs = append(r.inputs, ref)
		} else if taskKey(ref) != r.key {
			r.own = append(r.own, ref)
		}
	}
	return nil
}

// sources are all that the record names, save what is left to others where it is not known.
func (r *record) sources() []source.Source {
	out := slices.Clone(r.entries)
	for _, e := range r.entries {
		out = append(out, r.modules[e]...)
	}
	for _, f := range r.files {
		if f.source.Type != source.Unresolvable {
			out = append(out, f.source)
		}
	}
	return append(out, r.tree...)
}

// unknown is what the record knows to be there and not what it is: an unresolvable source for each. Where it stands in for a siginfo file nobody
// else says so.
func (r *record) unknown() []source.Source {
	var out []source.Source
	for _, f := range r.files {
		if f.source.Type == source.Unresolvable {
			out = append(out, f.source)
		}
	}
	if r.lost {
		out = append(out, unresolvable("submodules of %s are not listed", printable(r.key.recipe)))
	}
	return out
}

// whole reports whether the record knows all that it names.
func (r *record) whole() bool { return len(r.unknown()) == 0 }

// records are the directories that lychgate.bbclass wrote records to. It is safe for concurrent use.
type records struct{ dirs []*os.Root }

// openRecords opens directories of records. The caller closes what it returns.
func openRecords(dirs []string) (*records, error) {
	r := &records{}
	for _, name := range dirs {
		dir, err := os.OpenRoot(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open records: %w (LYCHGATE_RECORDS of a build with lychgate.bbclass)", err), r.close())
		}
		r.dirs = append(r.dirs, dir)
	}
	return r, nil
}

func (r *records) close() error {
	var errs []error
	for _, d := range r.dirs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// find returns the first record of a task that is of use, nil when there is none, and what is wrong with others. With hash equivalence several
// builds may have had that output: taskHash says of which the record is wanted, unless it is empty. When there is none of that, it is another's.
func (r *records) find(k taskKey, taskHash string) (found *record, problems []string) {
	if !isHash(k.hash) {
		return nil, nil
	}
	name := path.Join(k.hash[:2], fmt.Sprintf("%s.do_%s.%s", k.recipe, k.task, k.hash))
	names := []string{name + ".json"}
	if isHash(taskHash) {
		names = append(names, name+"."+taskHash+".json")
	}
	for _, dir := range r.dirs {
		for _, name := range names {
			rec, err := readRecord(dir, name)
			if err == nil && rec.key != k {
				err = errors.New("it is of another task than its name says")
			}
			switch {
			case err == nil && (taskHash == "" || rec.taskHash == taskHash):
				return rec, problems
			case err == nil:
				found = cmp.Or(found, rec)
			case !errors.Is(err, fs.ErrNotExist):
				problems = append(problems, fmt.Sprintf("the record of do_%s is ignored: %v", k.task, err))
			}
		}
	}
	return found, problems
}

func readRecord(dir *os.Root, name string) (*record, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errRecord
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(text) > maxRecord {
		err = fmt.Errorf("%w: it is larger than %d bytes", errRecord, maxRecord)
	}
	if err != nil {
		return nil, err
	}
	return parseRecord(text)
}

// spreadRecords gives the record of a task to all that went into what it made: the tasks of its recipe that it was run after, and
// the source trees that these worked in.
func (d *deriver) spreadRecords() {
	nodes := d.graph.nodes
	d.recs = make([][]*record, len(nodes))
	for i := range nodes {
		if nodes[i].record != nil {
			d.spread(int32(i), nodes[i].record)
		}
	}
}

func (d *deriver) spread(from int32, r *record) {
	todo, seen := []int32{from}, map[int32]bool{from: true}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		d.recs[i] = append(d.recs[i], r)
		n := &d.graph.nodes[i]
		for _, e := range n.deps {
			if !seen[e.to] && (readsSources(d.graph.nodes[e.to].task) || d.graph.sameRecipe(n, e)) {
				seen[e.to] = true
				todo = append(todo, e.to)
			}
		}
	}
}

// gapAt reports whether the walk to the do_fetch tasks of node i ended before one, so that records stand in for it.
func (d *deriver) gapAt(i int32, fetches []int32) bool {
	if len(d.recs[i]) == 0 {
		return false
	}
	return len(fetches) == 0 || len(d.reach[i]) > len(fetches)
}

// appendNew appends those that are not there yet.
func appendNew(list, more []*record) []*record {
	for _, r := range more {
		if !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

// recordSources are the sources that any of the records names.
func recordSources(recs []*record) []source.Source {
	var out []source.Source
	for _, r := range recs {
		out = append(out, r.sources()...)
	}
	return out
}

// recordNotes says where records and siginfo files differ, and what neither can vouch for.
func recordNotes(recs []*record, derived map[source.Source]bool) []string {
	var notes []string
	for _, r := range recs {
		notes = append(notes, r.dirty...)
	}
	named := recordSources(recs)
	for s := range derived {
		lacks := !slices.ContainsFunc(named, func(t source.Source) bool { return sameSource(s, t) })
		if len(recs) > 0 && s.Type != source.Unresolvable && lacks {
			notes = append(notes, fmt.Sprintf("the record lacks %s, which the siginfo files name; it counts", s))
		}
	}
	slices.Sort(notes)
	return slices.Compact(notes)
}

// tells reports whether one of the records has all entries of SRC_URI: as many, and each that could be expanded. What could not may
// have submodules or be a local file, so then the record must know all that it names.
func tells(recs []*record, entries []entry) bool {
	return slices.ContainsFunc(recs, func(r *record) bool {
		for _, e := range entries {
			if e.err == nil && !r.has(e) || e.err != nil && !r.whole() {
				return false
			}
		}
		return r.count >= len(entries)
	})
}

// has reports whether the record has an entry of SRC_URI.
func (r *record) has(e entry) bool {
	if e.scheme != "file" {
		return slices.ContainsFunc(r.entries, func(s source.Source) bool { return sameSource(source.Parse(e.text, e.rev), s) })
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(e.text, "file://"), ";")
	return slices.ContainsFunc(r.files, func(f localFile) bool { return f.name == name })
}

// sameSource reports whether a derived source is a recorded one, whose revision may be known where that of the derived one is not.
func sameSource(derived, recorded source.Source) bool {
	if derived.Rev == "" {
		recorded.Rev = ""
	}
	return derived == recorded
}

// tellsFiles reports whether one of the records knows the layers of all file:// entries.
func tellsFiles(recs []*record, entries []entry) bool {
	return slices.ContainsFunc(recs, func(r *record) bool {
		return tells([]*record{r}, entries) && !slices.ContainsFunc(r.files, func(f localFile) bool { return f.source.Type == source.Unresolvable })
	})
}

// recordedJob returns the CI job that records agree on.
func recordedJob(recs []*record) (builder, run string) {
	for i, r := range recs {
		if i > 0 && r.ci != recs[0].ci {
			return "", ""
		}
	}
	if len(recs) == 0 {
		return "", ""
	}
	return recs[0].ci.Builder, recs[0].ci.Run
}
