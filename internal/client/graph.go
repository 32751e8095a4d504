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
	problem string   // why its siginfo is of no use; empty when it was read
	deps    []edge

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

// graph holds the tasks of one cache. It is built once and then only read.
type graph struct {
	nodes []node
	byKey map[taskKey]int32
}

// readGraph builds the graph from the siginfo objects of a listing.
func readGraph(ctx context.Context, cache Cache, objects []Object, progress Progress) (*graph, error) {
	g := &graph{byKey: map[taskKey]int32{}}
	for _, o := range objects {
		n := &g.nodes[g.node(taskKey{o.Ref.Recipe, o.Ref.Task, o.Ref.Hash})]
		n.objects = append(n.objects, o)
	}
	refs := make([][]reference, len(g.nodes))
	progress.Start("read", int64(len(g.nodes)), "tasks")
	defer progress.Finish()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0)) // half of them wait for the cache
	for i := range g.nodes {
		group.Go(func() error {
			refs[i] = g.nodes[i].load(ctx, cache)
			progress.Add(1)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	g.connect(refs)
	return g, nil
}

// node returns the index of the node with key k, which it makes if need be.
func (g *graph) node(k taskKey) int32 {
	i, ok := g.byKey[k]
	if !ok {
		i = int32(len(g.nodes))
		g.nodes = append(g.nodes, node{taskKey: k, problem: "its siginfo is not in the cache"})
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
		if err == nil && info.Task != "do_"+n.task {
			err = fmt.Errorf("it describes %s", printable(info.Task))
		}
		if err != nil {
			n.problem = "its siginfo is of no use: " + err.Error()
			continue
		}
		n.problem = ""
		n.keep(info)
		return references(info)
	}
	return nil
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

// connect turns references into edges. What nothing in the cache answers becomes a node without objects.
func (g *graph) connect(refs [][]reference) {
	type execution struct{ task, hash string }
	others := map[execution]int32{} // the first by name, whatever its recipe
	for i := range g.nodes {
		x := execution{g.nodes[i].task, g.nodes[i].hash}
		if j, ok := others[x]; !ok || g.nodes[i].recipe < g.nodes[j].recipe {
			others[x] = int32(i)
		}
	}
	for i := range refs {
		for _, r := range refs[i] {
			to, exact := g.byKey[taskKey(r)]
			if other, ok := others[execution{r.task, r.hash}]; !exact && ok {
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

// String names the task for a person: "zlib:do_fetch".
func (n *node) String() string { return printable(n.recipe + ":do_" + n.task) }
