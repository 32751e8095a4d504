package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// DeriveOptions is what siginfo files do not say.
type DeriveOptions struct {
	// Layers are the repositories of the layers that local files (file:// entries) come from; the first that has a
	// file counts. A file that no layer has is an unresolvable source.
	Layers []Layer
	// Extra lists, by recipe, repositories that SRC_URI does not: submodules of gitsm:// entries, and the trees of
	// externalsrc recipes. A recipe with an empty list has none.
	Extra map[string][]source.Source
	// Stamps are directories with the signature files that "bitbake -S none TARGET" writes (PV-PR.do_TASK.sigdata.HASH),
	// which is tmp/stamps of a build. They stand in for siginfo files that the cache does not have: noexec tasks leave
	// none there, and those of tasks that were not run are not downloaded.
	Stamps []string
	// Records are directories that lychgate.bbclass of meta-lychgate wrote to (LYCHGATE_RECORDS). What a record says of the
	// task that a siginfo describes is added to what the siginfo says, and fills its gaps. A record takes nothing away.
	Records []string
	// RecordedOnly leaves out what no record tells of: a task counts whose record is there, or that of a task which was run after
	// it. While a build goes on this tells what is complete, and what is known of it in full.
	RecordedOnly bool
	// Progress is told how many siginfo files were read; nil for silence.
	Progress Progress
}

// Derivation says what the objects of a cache were built from.
type Derivation struct {
	Objects int // that the cache holds; with RecordedOnly, those that records tell of
	// Builds cover every object that is not in Underived, each object once. A build comes after those it used,
	// except where recipes use each other.
	Builds    []Build
	Underived []Problem // objects whose sources cannot be found out; sorted
	Notes     []Problem // what a person should know of builds that were derived; sorted
	Ignored   []Ignored
}

// Build is a group of objects of one recipe that were built from the same sources.
type Build struct {
	Recipe  string
	Objects []Object        // sorted by name
	Sources []source.Source // the direct ones, sorted; empty when the recipe has none
	// Used are the payloads of other recipes' tasks that the build used directly and the cache holds; sorted.
	Used []string
	// Recorded are the payloads that it used, directly or not, whose own sources could not be derived; sorted, and not
	// in Used. Whoever has them on record must add their sources to Inputs, which lack them.
	Recorded []string
	// Builder and Invocation are the CI job that made it, by its records; empty when they do not agree on one.
	Builder, Invocation string
	// After are the indices of the builds it used, in Derivation.Builds.
	After []int

	table  *[]source.Source // of all builds of the derivation, sorted
	inputs bits             // into the table
}

// Inputs returns the transitive sources, the direct ones included; sorted. What is not known of a build-time input is an
// unresolvable source, unless the cache holds its payload: see Recorded. The list is made anew: those of all builds
// together may be large.
func (b *Build) Inputs() []source.Source { return pick(*b.table, b.inputs) }

// pick returns the members of a set, in the order of the table.
func pick(table []source.Source, set bits) []source.Source {
	var out []source.Source
	for i := range table {
		if set.has(i) {
			out = append(out, table[i])
		}
	}
	return out
}

// Problem is something about an object or a recipe, in words.
type Problem struct {
	Recipe string `json:"recipe"`         // empty when it concerns the whole cache
	Name   string `json:"name,omitempty"` // of the object; empty when it concerns the recipe
	Reason string `json:"reason"`
}

// Derive finds out what every object of a cache was built from, by walking its siginfo files.
//
// The objects of a recipe fall into builds: tasks of the recipe that depend on each other, directly or not, told apart
// by the do_fetch they come from. A build's direct sources are what its do_fetch fetched; do_recipe_qa and its like run
// before do_fetch and depend on nothing, so they get the sources of every build of the recipe that depends on them. A task
// that works in the unpacked sources of another recipe (the gcc family) is built from that recipe's sources directly.
// Transitive sources follow the dependencies on other recipes.
//
// It returns an error only when the cache cannot be listed, a directory of stamps cannot be read or holds no signature file, a
// directory of records cannot be opened, or ctx is done.
func Derive(ctx context.Context, cache Cache, opt DeriveOptions) (*Derivation, error) {
	listing, err := cache.List(ctx)
	if err != nil {
		return nil, err
	}
	if opt.Progress == nil {
		opt.Progress = silence{}
	}
	signatures, err := openStamps(ctx, opt.Stamps)
	if err != nil {
		return nil, err
	}
	defer signatures.close()
	recorded, err := openRecords(opt.Records)
	if err != nil {
		return nil, err
	}
	defer recorded.close()
	g, err := readGraph(ctx, cache, listing.Objects, signatures, recorded, opt.Progress)
	if err != nil {
		return nil, err
	}
	d := &deriver{
		cache: cache, graph: g, layers: layerFiles{layers: opt.Layers}, extra: opt.Extra, stamps: len(opt.Stamps) > 0, recordedOnly: opt.RecordedOnly,
		index: map[source.Source]int{}, leftAt: map[int32]int{},
	}
	d.findComponents()
	d.reachFetches()
	d.spreadRecords()
	d.groupNodes(ctx)
	d.link()
	d.close()
	d.sortTable()
	out := d.result()
	out.Objects, out.Ignored = len(listing.Objects), listing.Ignored
	if opt.RecordedOnly {
		out.Objects = out.count()
	} else if len(opt.Records) > 0 && !slices.ContainsFunc(g.nodes, func(n node) bool { return n.record != nil }) {
		out.Notes = append(out.Notes, Problem{Reason: "no record is of an object of this cache"})
	}
	return out, ctx.Err()
}

// deriver is one derivation under way. Its steps run in the order of [Derive].
type deriver struct {
	cache  Cache
	graph  *graph
	layers layerFiles
	extra  map[string][]source.Source
	stamps bool // some were given

	recordedOnly bool

	component []int32           // of each node: the component's root
	facts     map[int32]*family // by root

	reach [][]int32   // of each node: the do_fetch nodes it comes from, sorted
	recs  [][]*record // of each node: the records of what it went into, itself included

	groups []group
	of     []int32 // of each node: its group, or -1
	why    []reason
	left   []int32 // nodes whose sources are left to who has their payloads on record
	leftAt map[int32]int

	table []source.Source // sources by index
	index map[source.Source]int
}

// family is what is known of a component: the tasks of one recipe that hang together.
type family struct {
	members  []int32
	fetches  []int32 // do_fetch nodes with a siginfo
	missing  bool    // a task's siginfo is not there
	external bool
	srcURI   evidence // set wins over empty
	early    []int32  // nodes that come from no do_fetch
}

// group is a build under way.
type group struct {
	nodes   []int32
	root    int32 // component
	fetches []int32
	recs    []*record
	direct  bits
	inputs  bits
	left    bits    // into deriver.left
	deps    []int32 // groups it used
	unknown []int32 // nodes it used whose sources are not known
	used    []int32 // nodes of other recipes it used
	notes   []string
}

// findComponents joins the tasks of a recipe that depend on each other.
func (d *deriver) findComponents() {
	nodes := d.graph.nodes
	parent := make([]int32, len(nodes))
	for i := range parent {
		parent[i] = int32(i)
	}
	find := func(i int32) int32 {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	for i := range nodes {
		for _, e := range nodes[i].deps {
			if d.graph.sameRecipe(&nodes[i], e) {
				// The smaller index is the root, so that the outcome does not depend on the order of edges.
				a, b := find(int32(i)), find(e.to)
				parent[max(a, b)] = min(a, b)
			}
		}
	}
	d.component = make([]int32, len(nodes))
	d.facts = map[int32]*family{}
	for i := range nodes {
		root := find(int32(i))
		d.component[i] = root
		if d.facts[root] == nil {
			d.facts[root] = &family{}
		}
		d.facts[root].learn(int32(i), &nodes[i])
	}
}

func (f *family) learn(i int32, n *node) {
	f.members = append(f.members, i)
	if n.problem != "" {
		f.missing = true
		return
	}
	if n.task == "fetch" {
		f.fetches = append(f.fetches, i)
	}
	f.external = f.external || n.external
	f.srcURI = max(f.srcURI, n.srcURI)
}

// readsSources reports whether a task that depends on task of another recipe works in that recipe's source tree.
func readsSources(task string) bool {
	switch task {
	case "fetch", "unpack", "patch", "preconfigure":
		return true
	}
	return false
}

// reachFetches finds the do_fetch tasks that each task comes from.
func (d *deriver) reachFetches() {
	d.reach = make([][]int32, len(d.graph.nodes))
	state := make([]uint8, len(d.graph.nodes))
	for i := range d.graph.nodes {
		d.reachFrom(int32(i), state)
	}
}

const (
	unseen uint8 = iota
	open
	done
)

// contradiction stands in reach for a task that depends on itself. No hash can, so the cache lies, and what comes
// from there cannot be told.
const contradiction = -1

func (d *deriver) reachFrom(i int32, state []uint8) {
	if state[i] != unseen {
		return
	}
	state[i] = open
	n := &d.graph.nodes[i]
	var found []int32
	if n.task == "fetch" {
		found = append(found, i)
	}
	for _, e := range n.deps {
		if !readsSources(d.graph.nodes[e.to].task) && !d.graph.sameRecipe(n, e) {
			continue
		}
		d.reachFrom(e.to, state)
		if state[e.to] == open {
			found = append(found, contradiction)
		}
		found = append(found, d.reach[e.to]...)
	}
	slices.Sort(found)
	d.reach[i] = slices.Compact(found)
	state[i] = done
}

// groupNodes makes builds of the tasks whose sources can be told.
func (d *deriver) groupNodes(ctx context.Context) {
	nodes := d.graph.nodes
	d.of = make([]int32, len(nodes))
	d.why = make([]reason, len(nodes))
	byKey := map[string]int32{}
	memo := map[int32]fetched{}
	for i := range nodes {
		d.of[i] = -1
		root := d.component[i]
		fetches, why := d.fetchesOf(int32(i))
		if why.text != "" {
			d.why[i] = why
			continue
		}
		key := fmt.Sprint(root, fetches)
		if d.gapAt(int32(i), fetches) {
			key += fmt.Sprint(source.NewSet(recordSources(d.recs[i])).ID())
		}
		at, ok := byKey[key]
		if !ok {
			at = int32(len(d.groups))
			byKey[key] = at
			d.groups = append(d.groups, group{root: root, fetches: fetches})
		}
		d.of[i] = at
		g := &d.groups[at]
		g.nodes = append(g.nodes, int32(i))
		g.recs = appendNew(g.recs, d.recs[i])
	}
	for g := range d.groups {
		d.findSources(ctx, &d.groups[g], memo)
	}
}

// fetchesOf returns the do_fetch tasks whose sources are those of node i, or why they cannot be told.
func (d *deriver) fetchesOf(i int32) ([]int32, reason) {
	n, f := &d.graph.nodes[i], d.facts[d.component[i]]
	// A do_fetch that has nothing to do is not run and leaves no siginfo: then SRC_URI is known to be empty.
	nothing := f.srcURI == empty
	switch {
	case n.problem != "" && n.record == nil:
		return nil, reason{text: n.problem}
	case len(d.reach[i]) == 0:
		f.early = append(f.early, i)
		switch {
		case len(f.fetches) > 0:
			return f.fetches, reason{}
		case len(d.recs[i]) > 0:
			return nil, reason{}
		case f.missing && !nothing && !f.external:
			return nil, d.lost(d.gap(i))
		case f.srcURI == set && !f.external:
			return nil, reason{text: "its recipe has an SRC_URI, but the siginfo of its do_fetch is not in the cache"}
		}
		return nil, reason{}
	}
	var known []int32
	for _, j := range d.reach[i] {
		if j == contradiction {
			return nil, reason{text: "the siginfo files contradict each other: a task depends on itself"}
		}
		fetch := &d.graph.nodes[j]
		if fetch.problem == "" {
			known = append(known, j)
		} else if len(d.recs[i]) > 0 {
			continue // they tell what was fetched
		} else if own := d.component[j] == d.component[i]; !own || !nothing {
			return nil, d.lost(fetch)
		}
	}
	return known, reason{}
}

// reason is why the sources of a task cannot be told.
type reason struct{ text, advice string }

// lost is the reason when the walk to do_fetch ends at n, whose signature is not there or of no use.
func (d *deriver) lost(n *node) reason {
	if n.problem != notInCache {
		return reason{text: fmt.Sprintf("%s: %s", n, n.problem)}
	}
	r := reason{text: fmt.Sprintf("the signature of %s (hash %.12s...) is not in the cache", n, n.hash)}
	r.advice = ": a noexec task leaves none; run bitbake -S none TARGET and give --stamps tmp/stamps"
	if d.stamps {
		r.advice = ", nor among the stamps: run bitbake -S none TARGET where it was built, with the same configuration"
	}
	return r
}

// gap returns the task nearest to node i, on the way to its recipe's do_fetch, that nothing was read for. Where i leads to
// none, as do_recipe_qa does, it is one of those that lead to i. The recipe must have one.
func (d *deriver) gap(i int32) *node {
	nodes := d.graph.nodes
	queue, seen := []int32{i}, map[int32]bool{i: true}
	for len(queue) > 0 {
		n := &nodes[queue[0]]
		queue = queue[1:]
		if n.problem != "" {
			return n
		}
		for _, e := range n.deps {
			if d.component[e.to] == d.component[i] && !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, e.to)
			}
		}
	}
	members := d.facts[d.component[i]].members
	return &nodes[members[slices.IndexFunc(members, func(m int32) bool { return nodes[m].problem != "" })]]
}

// findSources fills in the direct sources of a group.
func (d *deriver) findSources(ctx context.Context, g *group, memo map[int32]fetched) {
	derived := map[source.Source]bool{}
	for _, i := range g.fetches {
		f, ok := memo[i]
		if !ok {
			f = d.fetch(ctx, &d.graph.nodes[i], d.recs[i], d.elsewhere(ctx, i))
			memo[i] = f
		}
		g.notes = append(g.notes, f.notes...)
		for _, s := range f.sources {
			g.direct.set(d.intern(s))
			derived[s] = true
		}
	}
	if recipe := d.graph.nodes[g.root].recipe; d.facts[g.root].external {
		for _, s := range d.externalTree(recipe, g.recs) {
			g.direct.set(d.intern(s))
		}
	}
	for _, s := range recordSources(g.recs) {
		g.direct.set(d.intern(s))
	}
	if slices.ContainsFunc(g.nodes, func(i int32) bool { return d.gapAt(i, g.fetches) }) {
		for _, r := range g.recs {
			for _, s := range r.unknown() {
				g.direct.set(d.intern(s))
			}
		}
	}
	g.notes = append(g.notes, recordNotes(g.recs, derived)...)
	for _, i := range g.nodes {
		g.notes = append(g.notes, d.graph.nodes[i].ignored...)
	}
}

func (d *deriver) externalTree(recipe string, recs []*record) []source.Source {
	if slices.ContainsFunc(recs, func(r *record) bool { return r.external }) {
		return d.extra[recipe] // beside what the record says
	}
	if extra, ok := d.extra[recipe]; ok {
		return extra
	}
	return []source.Source{unresolvable("%s is built from a directory (EXTERNALSRC) whose repository is not given", printable(recipe))}
}

// elsewhere looks a variable up in the other siginfo files of a do_fetch's recipe, in order of their names. They are read
// only when needed, and once.
func (d *deriver) elsewhere(ctx context.Context, fetch int32) func(string) (string, bool) {
	var vars map[string]string
	return func(name string) (string, bool) {
		if vars == nil {
			vars = d.siblings(ctx, fetch)
		}
		v, ok := vars[name]
		return v, ok
	}
}

// maxSiblings bounds how many siginfo files are read again for a variable that a do_fetch does not hold.
const maxSiblings = 64

func (d *deriver) siblings(ctx context.Context, fetch int32) map[string]string {
	vars := map[string]string{}
	left := maxSiblings
	for _, i := range d.facts[d.component[fetch]].members {
		if !slices.Contains(d.reach[i], fetch) {
			continue
		}
		for _, info := range d.signatures(ctx, &d.graph.nodes[i], &left) {
			for k, v := range textVars(info.VarVals) {
				if _, ok := vars[k]; !ok {
					vars[k] = v
				}
			}
		}
	}
	return vars
}

// signatures reads again what describes a node, at most *left files, which it counts down.
func (d *deriver) signatures(ctx context.Context, n *node, left *int) []*provenance.Siginfo {
	var out []*provenance.Siginfo
	read := func(cache Cache, name string) {
		if *left == 0 {
			return
		}
		*left--
		if info, err := readSiginfo(ctx, cache, name); err == nil {
			out = append(out, info)
		}
	}
	for _, o := range n.objects {
		if o.Ref.Part == artifact.Siginfo {
			read(d.cache, o.Name)
		}
	}
	if n.stamp.dir != nil {
		read(n.stamp.dir, n.stamp.name)
	}
	return out
}

func (d *deriver) intern(s source.Source) int {
	i, ok := d.index[s]
	if !ok {
		i = len(d.table)
		d.table = append(d.table, s)
		d.index[s] = i
	}
	return i
}

// link finds what each build used.
func (d *deriver) link() {
	for g := range d.groups {
		b := &d.groups[g]
		for _, i := range b.nodes {
			d.linkNode(int32(g), i)
		}
		// What an early task used, every build of the recipe used: they all depend on it.
		for _, i := range d.facts[b.root].early {
			if d.of[i] != int32(g) {
				d.linkNode(int32(g), i)
			}
		}
		b.deps, b.unknown, b.used = unique(b.deps), unique(b.unknown), unique(b.used)
	}
}

func (d *deriver) linkNode(g, i int32) {
	b, n := &d.groups[g], &d.graph.nodes[i]
	for _, e := range n.deps {
		to := d.of[e.to]
		same := d.component[e.to] == b.root
		switch {
		case same && d.graph.nodes[e.to].task == "fetch" && d.facts[b.root].srcURI == empty:
			// It had nothing to do, and used nothing.
		case to < 0 && same && len(d.recs[e.to]) > 0:
			// What it used is among the inputs that the record of this build names.
		case to < 0:
			b.unknown = append(b.unknown, e.to)
		case same && len(d.reach[e.to]) == 0:
		case to != g:
			b.deps = append(b.deps, to)
		}
		if !same && !d.graph.sameRecipe(n, e) {
			b.used = append(b.used, e.to)
		}
	}
}

func unique(list []int32) []int32 {
	slices.Sort(list)
	return slices.Compact(list)
}

// close computes the transitive sources: over the strongly connected groups, since recipes may use each other's
// tasks even though no task uses itself.
func (d *deriver) close() {
	for g := range d.groups {
		b := &d.groups[g]
		b.inputs = b.direct.clone()
		for _, i := range b.unknown {
			if d.graph.nodes[i].hasPayload() {
				b.left.set(d.leave(i))
			} else {
				b.inputs.set(d.intern(d.unknown(i)))
			}
		}
	}
	for _, members := range components(len(d.groups), func(g int32) []int32 { return d.groups[g].deps }) {
		var all, left bits
		for _, g := range members {
			for _, from := range append([]int32{g}, d.groups[g].deps...) {
				all.add(d.groups[from].inputs)
				left.add(d.groups[from].left)
			}
		}
		for _, g := range members {
			d.groups[g].inputs, d.groups[g].left = all.clone(), left.clone()
		}
	}
}

// leave numbers a node whose sources are left to who has its payloads on record.
func (d *deriver) leave(i int32) int {
	at, ok := d.leftAt[i]
	if !ok {
		at = len(d.left)
		d.left = append(d.left, i)
		d.leftAt[i] = at
	}
	return at
}

func (d *deriver) unknown(i int32) source.Source {
	why := d.why[i].text
	if why == "" {
		why = d.graph.nodes[i].problem
	}
	return unresolvable("sources of %s are unknown: %s", &d.graph.nodes[i], why)
}

// result puts the groups in order, and says what could not be derived.
func (d *deriver) result() *Derivation {
	out := &Derivation{}
	place := make([]int, len(d.groups)) // of each group: its place in Builds plus one
	for _, members := range components(len(d.groups), func(g int32) []int32 { return d.groups[g].deps }) {
		for _, g := range members {
			if b, ok := d.build(&d.groups[g], place); ok {
				out.Builds = append(out.Builds, b)
				place[g] = len(out.Builds)
				out.Notes = append(out.Notes, d.notes(&d.groups[g], b)...)
			}
		}
	}
	for i := range d.graph.nodes {
		if n := &d.graph.nodes[i]; d.of[i] < 0 && d.counts(int32(i)) {
			for _, o := range n.objects {
				out.Underived = append(out.Underived, Problem{n.recipe, o.Name, d.why[i].text + d.why[i].advice})
			}
		}
	}
	sortProblems(out.Underived)
	sortProblems(out.Notes)
	out.Notes = slices.Compact(out.Notes)
	return out
}

// counts reports whether the objects of node i are asked for.
func (d *deriver) counts(i int32) bool { return !d.recordedOnly || len(d.recs[i]) > 0 }

// count returns the number of objects that were asked for.
func (d *Derivation) count() int {
	n := len(d.Underived)
	for i := range d.Builds {
		n += len(d.Builds[i].Objects)
	}
	return n
}

// build finishes a group. Builds without objects in the cache are no builds to publish.
func (d *deriver) build(g *group, place []int) (Build, bool) {
	b := Build{Recipe: d.graph.nodes[g.root].recipe, Sources: pick(d.table, g.direct), table: &d.table, inputs: g.inputs}
	for _, i := range g.nodes {
		if d.counts(i) {
			b.Objects = append(b.Objects, d.graph.nodes[i].objects...)
		}
	}
	slices.SortFunc(b.Objects, func(x, y Object) int { return cmp.Compare(x.Name, y.Name) })
	if len(b.Objects) > 0 {
		b.Recipe = b.Objects[0].Ref.Recipe
	}
	for at, i := range d.left {
		if g.left.has(at) {
			b.Recorded = append(b.Recorded, d.graph.nodes[i].payloads()...)
		}
	}
	slices.Sort(b.Recorded)
	b.Builder, b.Invocation = recordedJob(g.recs)
	for _, i := range g.used {
		if at, ok := d.leftAt[i]; !ok || !g.left.has(at) {
			b.Used = append(b.Used, d.graph.nodes[i].payloads()...)
		}
	}
	slices.Sort(b.Used)
	for _, dep := range g.deps {
		if place[dep] > 0 {
			b.After = append(b.After, place[dep]-1)
		}
	}
	return b, len(b.Objects) > 0
}

// notes are what a person should know of a build that was derived.
func (d *deriver) notes(g *group, b Build) []Problem {
	var out []Problem
	note := func(text string) { out = append(out, Problem{Recipe: b.Recipe, Reason: text}) }
	for _, n := range g.notes {
		note(n)
	}
	if len(b.Sources) == 0 {
		note("no sources: recorded as such, and hidden from everyone")
	}
	for _, s := range b.Sources {
		if s.Type == source.Unresolvable {
			note("unresolvable source, hidden from everyone: " + s.Reason)
		}
	}
	for _, i := range g.unknown {
		if !d.graph.nodes[i].hasPayload() {
			note("a build-time input stays unresolved: " + d.unknown(i).Reason)
		}
	}
	return out
}

// sortTable puts the sources in order, once for all builds.
func (d *deriver) sortTable() {
	sorted := source.NewSet(d.table).Sources()
	moved := make([]int, len(d.table)) // where each source went
	for to, s := range sorted {
		moved[d.index[s]] = to
	}
	for i := range d.groups {
		g := &d.groups[i]
		g.direct, g.inputs = g.direct.renumbered(moved), g.inputs.renumbered(moved)
	}
	d.table = sorted
}

func sortProblems(list []Problem) {
	slices.SortFunc(list, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Recipe, b.Recipe), strings.Compare(a.Name, b.Name), strings.Compare(a.Reason, b.Reason))
	})
}
