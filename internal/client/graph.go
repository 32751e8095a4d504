package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

// taskKey names one execution of a task: the recipe (PN), the task without "do_", and the unihash in the object's name.
// Under hash equivalence the unihash is what others refer to it by, whatever the task's own hash was.
type taskKey struct{ recipe, task, hash string }

// node is one task of the graph that siginfo files describe.
type node struct {
	taskKey
	// aliases are the recipes that others know the task by. Recipes that share a source tree (the gcc family) write
	// the objects of its tasks under a common name.
	aliases []string
	objects []Object // all parts, of all copies
	stamp   stamp    // its signature file, if that was read in place of a siginfo
	problem string   // why its siginfo is of no use; empty when it was read
	deps    []edge

	taskHash string   // that its siginfo or signature file says
	record   *record  // what lychgate.bbclass recorded of it; nil when nothing is of use
	ignored  []string // what is wrong with records of it

	external bool                      // it names EXTERNALSRC
	srcURI   evidence                  // what it says of SRC_URI
	vars     map[string]string         // of a do_fetch only
	files    []provenance.FileChecksum // of a do_fetch only: the local files it read
}

type edge struct {
	recipe string // the name that the referring siginfo uses
	to     int32
}

// evidence is what a siginfo says of a variable.
type evidence uint8

const (
	silent evidence = iota
	empty
	set
)

// graph holds the tasks of one cache, and those that they refer to. It is built once and then only read.
type graph struct {
	nodes []node
	byKey map[taskKey]int32
	named map[execution]int32 // of the nodes with objects: the first by name, whatever its recipe
}

// readGraph builds the graph from the siginfo objects of a listing, and from signature files where the cache has no siginfo.
// Of those it reads what the cache leads to, and nothing else: they may stem from many builds.
func readGraph(ctx context.Context, cache Cache, objects []Object, signatures *stamps, recorded *records, progress Progress) (*graph, error) {
	g := &graph{byKey: map[taskKey]int32{}, named: map[execution]int32{}}
	for _, o := range objects {
		n := &g.nodes[g.node(taskKey{o.Ref.Recipe, o.Ref.Task, o.Ref.Hash})]
		n.objects = append(n.objects, o)
	}
	g.nameNodes()
	known := len(g.nodes)
	progress.Start("read", int64(known), "tasks")
	err := g.grow(ctx, 0, func(n *node) []reference {
		defer progress.Add(1)
		refs := n.load(ctx, cache)
		if n.problem == notInCache {
			refs = n.loadStamp(ctx, signatures)
		}
		return append(refs, n.loadRecord(recorded)...)
	})
	progress.Finish()
	// Each round reads the tasks that the round before was the first to refer to.
	for at := known; err == nil && at < len(g.nodes); at = known {
		known = len(g.nodes)
		err = g.grow(ctx, at, func(n *node) []reference {
			refs := n.loadStamp(ctx, signatures)
			return append(refs, n.loadRecord(recorded)...)
		})
	}
	return g, err
}

// nameNodes fills named.
func (g *graph) nameNodes() {
	for i := range g.nodes {
		x := execution{g.nodes[i].task, g.nodes[i].hash}
		if j, ok := g.named[x]; !ok || g.nodes[i].recipe < g.nodes[j].recipe {
			g.named[x] = int32(i)
		}
	}
}

// grow loads the nodes from index at on, and connects them to what they refer to, which may add nodes.
func (g *graph) grow(ctx context.Context, at int, load func(n *node) []reference) error {
	refs := make([][]reference, len(g.nodes)-at)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0)) // half of them wait for the cache
	for i := range refs {
		group.Go(func() error {
			refs[i] = load(&g.nodes[at+i])
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range refs {
		g.connect(at+i, refs[i])
	}
	return nil
}

// notInCache is the problem of a node that nothing was read for.
const notInCache = "its siginfo is not in the cache"

// node returns the index of the node with key k, which it makes if need be.
func (g *graph) node(k taskKey) int32 {
	i, ok := g.byKey[k]
	if !ok {
		i = int32(len(g.nodes))
		g.nodes = append(g.nodes, node{taskKey: k, problem: notInCache})
		g.byKey[k] = i
	}
	return i
}

// reference is an edge as a siginfo writes it.
type reference taskKey

// load reads the node's siginfo. What is wrong with it becomes the node's problem.
func (n *node) load(ctx context.Context, cache Cache) []reference {
	for _, o := range n.objects {
		if o.Ref.Part != artifact.Siginfo {
			continue
		}
		info, err := readSiginfo(ctx, cache, o.Name)
		if n.learn(info, err) {
			return references(info)
		}
	}
	return nil
}

// errEquivalent says that a signature file is not of the task that made the output known by its hash: with hash equivalence
// that may be the output of another build, from other sources.
var errEquivalent = errors.New("it describes another build, of equivalent output")

// loadStamp reads the node's signature file, if there is one.
func (n *node) loadStamp(ctx context.Context, signatures *stamps) []reference {
	f := signatures.find(n.taskKey)
	if f.dir == nil {
		return nil
	}
	info, err := readSiginfo(ctx, f.dir, f.name)
	if err == nil && info.TaskHash != n.hash {
		err = errEquivalent
	}
	if !n.learn(info, err) {
		return nil
	}
	n.stamp = f
	return references(info)
}

// loadRecord reads the node's record, if there is one of what its siginfo describes: with hash equivalence the siginfo may be of
// another build, from other sources. For a task that the cache has nothing of, as those of externalsrc recipes, the record alone
// tells.
func (n *node) loadRecord(recorded *records) []reference {
	alone := n.problem == notInCache && len(n.objects) == 0
	if n.problem != "" && !alone {
		return nil
	}
	r, problems := recorded.find(n.taskKey, n.taskHash)
	n.ignored = problems
	if alone && r != nil {
		n.record = r
		return append(slices.Clone(r.inputs), r.own...)
	}
	if r != nil && r.taskHash != n.taskHash {
		n.ignored = append(n.ignored, fmt.Sprintf("the record of do_%s is ignored: its siginfo is of another build, of equivalent output", n.task))
		r = nil
	}
	if r == nil {
		return nil
	}
	n.record = r
	return r.inputs
}

// learn takes what a siginfo or signature file says, and reports whether it is of use.
func (n *node) learn(info *provenance.Siginfo, err error) bool {
	if err == nil && info.Task != "do_"+n.task {
		err = fmt.Errorf("it describes %s", printable(info.Task))
	}
	if err != nil {
		n.problem = "its siginfo is of no use: " + err.Error()
		return false
	}
	n.problem, n.taskHash = "", info.TaskHash
	n.keep(info)
	return true
}

// keep takes from info the little that derivation needs; a cache has many siginfos and each is large.
func (n *node) keep(info *provenance.Siginfo) {
	n.external = strings.TrimSpace(info.VarVals["EXTERNALSRC"]) != ""
	if v, ok := info.VarVals["SRC_URI"]; ok {
		n.srcURI = empty
		if strings.TrimSpace(v) != "" {
			n.srcURI = set
		}
	}
	if n.task == "fetch" {
		n.vars = textVars(info.VarVals)
		n.files = info.FileChecksums
	}
}

// textVars leaves out function bodies, the bulk of a siginfo, which SRC_URI never refers to.
func textVars(all map[string]string) map[string]string {
	const longest = 32 << 10
	vars := make(map[string]string, len(all))
	for k, v := range all {
		if _, function := all[k+"[func]"]; (!function || k == fetchedRevisions) && len(v) <= longest {
			vars[k] = strings.Clone(v)
		}
	}
	return vars
}

// maxSiginfo bounds the compressed size; real ones are a few KiB. ParseSiginfo bounds what comes out of it.
const maxSiginfo = 4 << 20

func readSiginfo(ctx context.Context, cache Cache, name string) (*provenance.Siginfo, error) {
	f, err := cache.Open(ctx, name, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("it vanished")
		}
		return nil, err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxSiginfo + 1}
	info, err := provenance.ParseSiginfo(limited)
	if limited.N <= 0 {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSiginfo)
	}
	return info, err
}

// references reads runtaskdeps: "PN:do_TASK" or "mc:MC:PN:do_TASK". The multiconfig is dropped: the hash names the task
// whoever ran it.
func references(info *provenance.Siginfo) []reference {
	refs := make([]reference, 0, len(info.RunTaskDeps))
	for _, dep := range info.RunTaskDeps {
		rest := dep
		if after, ok := strings.CutPrefix(dep, "mc:"); ok {
			_, rest, _ = strings.Cut(after, ":")
		}
		recipe, task, _ := strings.Cut(rest, ":")
		refs = append(refs, reference{recipe, strings.TrimPrefix(task, "do_"), info.RunTaskHashes[dep]})
	}
	return refs
}

// connect turns the references of node i into edges. What nothing in the cache answers becomes a node without objects.
func (g *graph) connect(i int, refs []reference) {
	for _, r := range refs {
		to, exact := g.byKey[taskKey(r)]
		if other, ok := g.named[execution{r.task, r.hash}]; !exact && ok {
			to = other
			if n := &g.nodes[to]; !slices.Contains(n.aliases, r.recipe) {
				n.aliases = append(n.aliases, r.recipe)
			}
		} else if !exact {
			to = g.node(taskKey(r))
		}
		g.nodes[i].deps = append(g.nodes[i].deps, edge{r.recipe, to})
	}
}

// sameRecipe reports whether an edge from a stays within a's recipe.
func (g *graph) sameRecipe(a *node, e edge) bool {
	b := &g.nodes[e.to]
	if a.is(e.recipe) || a.is(b.recipe) {
		return true
	}
	return slices.ContainsFunc(b.aliases, a.is)
}

func (n *node) is(recipe string) bool {
	return n.recipe == recipe || slices.Contains(n.aliases, recipe)
}

// payloads returns the names of the task's archives, of all copies.
func (n *node) payloads() []string {
	var names []string
	for _, o := range n.objects {
		if o.Ref.Part == artifact.Payload {
			names = append(names, o.Name)
		}
	}
	return names
}

func (n *node) hasPayload() bool {
	return slices.ContainsFunc(n.objects, func(o Object) bool { return o.Ref.Part == artifact.Payload })
}

// String names the task for a person: "zlib:do_fetch".
func (n *node) String() string { return printable(n.recipe + ":do_" + n.task) }
