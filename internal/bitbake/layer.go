package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// layerBuild is a trial of the layer meta-lychgate.
type layerBuild struct {
	label string
	try   func(l *layerTrial, ctx context.Context) error
}

func (b layerBuild) name() string { return b.label }

// layerCases are the trials: the same build without the class and with it, one under pseudo, and those that push meanwhile.
func layerCases() []layerBuild {
	all := []layerBuild{{"layer", (*layerTrial).tryLayer}, {"layer-pseudo", (*layerTrial).tryPseudo}}
	for _, b := range pushCases() {
		all = append(all, layerBuild{b.name(), func(l *layerTrial, ctx context.Context) error { return l.tryPush(ctx, b) }})
	}
	return all
}

// tryLayers makes the trials of the layer.
func tryLayers(ctx context.Context, w *world) error {
	builds := matching(w.o.only, layerCases())
	if len(builds) == 0 {
		return nil
	}
	l := &layerTrial{w: w, revs: map[string]string{}}
	if err := l.make(ctx); err != nil {
		return err
	}
	var err error
	if l.gate, err = startGate(ctx, w, "layer-gate"); err != nil {
		return err
	}
	defer l.gate.stop()
	for _, b := range builds {
		if faults := b.try(l, ctx); faults != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", b.name(), faults))
		}
	}
	return err
}

// traced is a recipe whose sources a siginfo does not tell in full. Each installs one file.
type traced struct {
	name, layer string
	text        string // of the recipe; ${REV:repository} is the revision of one
	sources     string // what the dry run says it is built from, without revisions; sorted
	plain       bool   // that is so without records
	public      bool   // all of it is below public/, so that bob may read what is built
}

// tracedRecipes are in part such that without the class they have an unresolvable source or cannot be pushed.
func tracedRecipes() []traced {
	return []traced{
		{
			name: "pair-native", layer: "open", plain: true, public: true, sources: "public/one public/two",
			text: `SRC_URI = "git://git.example.com/public/one.git;protocol=https;branch=main;name=one;destsuffix=one \
git://user:secret@git.example.com/public/two.git;protocol=https;branch=main;name=two;destsuffix=two"
SRCREV_one = "${REV:public/one}"
SRCREV_two = "${AUTOREV}"
SRCREV_FORMAT = "one_two"
`,
		},
		{
			name: "user-native", layer: "open", plain: true, public: true, sources: "public/one",
			text: gitEntry("public/one") + "DEPENDS = \"tree-native\"\n",
		},
		{
			name: "patched-native", layer: "open", public: true, sources: "public/meta-open public/one",
			text: gitEntry("public/one") + "SRC_URI += \"file://extra.txt file://dir\"\n",
		},
		{
			name: "closed-native", layer: "closed", sources: "public/one team/meta-closed",
			text: gitEntry("public/one") + "SRC_URI += \"file://extra.txt\"\n",
		},
		{
			name: "modules-native", layer: "open", sources: "public/parent team/child team/grandchild",
			text: strings.Replace(gitEntry("public/parent"), "git://", "gitsm://", 1),
		},
		{
			name: "computed-native", layer: "open", public: true, sources: "public/two",
			text: strings.Replace(gitEntry("public/two"), "public/two.git", "${@'pub' + 'lic'}/two.git", 1),
		},
		{
			name: "noexec-native", layer: "open", public: true, sources: "public/two",
			text: gitEntry("public/two") + "do_configure[noexec] = \"1\"\n",
		},
		{
			// It leaves no archive, but what uses it is built from its tree as well.
			name: "tree-native", layer: "open", public: true, sources: "public/tree",
			text: "inherit externalsrc\nEXTERNALSRC = \"${TREE}\"\n",
		},
	}
}

func gitEntry(repository string) string {
	return fmt.Sprintf("SRC_URI = \"git://git.example.com/%[1]s.git;protocol=https;branch=main\"\nSRCREV = \"${REV:%[1]s}\"\n", repository)
}

const tracedText = `LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
INHIBIT_DEFAULT_DEPS = "1"
do_install() {
	install -d ${D}${datadir}
	echo ${PN} >${D}${datadir}/${PN}.txt
}
`

// tryLayer makes the builds and checks what is documented of the layer.
func (l *layerTrial) tryLayer(ctx context.Context) error {
	plain, err := l.build(ctx, "layer-without", "")
	if err != nil {
		return err
	}
	recorded, err := l.build(ctx, "layer-with", "INHERIT += \"lychgate\"\n")
	if err != nil {
		return err
	}
	if err := errors.Join(sameHashes(plain.dir, recorded.dir), l.checkRecords(recorded.dir)); err != nil {
		return err
	}
	return errors.Join(l.checkPlan(ctx, recorded.dir), l.checkReaders(ctx, recorded.dir))
}

// layerTrial is the trial under way.
type layerTrial struct {
	w    *world
	gate *gate
	revs map[string]string // of each repository
}

// make makes the repositories, layers that are repositories too, and two that are not, and the tree of externalsrc.
func (l *layerTrial) make(ctx context.Context) error {
	for _, r := range []string{"public/one", "public/two", "public/tree", "team/grandchild"} {
		if err := l.commit(ctx, "repositories/"+r+".git", r, nil); err != nil {
			return err
		}
	}
	err := errors.Join(
		l.commit(ctx, "repositories/team/child.git", "team/child", map[string]string{"inner": "../grandchild.git"}),
		l.commit(ctx, "repositories/public/parent.git", "public/parent", map[string]string{"child": "https://git.example.com/team/child.git"}),
		l.layer(ctx, "open", "public/meta-open"), l.layer(ctx, "closed", "team/meta-closed"), l.extra("slow", "slow-native", slowText), l.extra("faked", "faked", fakedText),
		l.w.home("layer", "", ""),
	)
	if err != nil {
		return err
	}
	config := l.w.path("homes/layer/.gitconfig")
	return errors.Join(
		// git does not follow a submodule's URL to a local directory unless told that it may.
		command(ctx, l.w.dir, nil, "git", "config", "--file", config, "protocol.file.allow", "always"),
		command(ctx, l.w.dir, nil, "git", "config", "--file", config, "--add", "url.file://"+l.w.path("repositories")+"/.insteadOf", "https://user@git.example.com/"),
	)
}

// layer makes a layer with its recipes; its remote has a password, which must go nowhere.
func (l *layerTrial) layer(ctx context.Context, name, repository string) error {
	dir := "layers/meta-" + name
	series, err := l.w.series()
	if err != nil {
		return err
	}
	conf := strings.NewReplacer("trial", name, "%s", series).Replace(layerConf)
	err = errors.Join(l.w.write(dir+"/conf/layer.conf", conf), l.w.write(dir+"/recipes/files/extra.txt", "from meta-"+name+"\n"),
		l.w.write(dir+"/recipes/files/dir/more.txt", "more\n"))
	for _, r := range tracedRecipes() {
		if r.layer == name {
			text := tracedText + r.text + "inherit native\n"
			for repository, rev := range l.revs {
				text = strings.ReplaceAll(text, "${REV:"+repository+"}", rev)
			}
			err = errors.Join(err, l.w.write(dir+"/recipes/"+r.name+"_1.0.bb", strings.ReplaceAll(text, "${TREE}", l.w.path("tree"))))
		}
	}
	return errors.Join(err, l.commit(ctx, dir, repository, nil),
		command(ctx, l.w.path(dir), nil, "git", "remote", "add", "origin", "https://me:secret@git.example.com/"+repository+".git"))
}

// extra makes a layer with one recipe.
func (l *layerTrial) extra(name, recipe, text string) error {
	series, err := l.w.series()
	if err != nil {
		return err
	}
	text = strings.ReplaceAll(tracedText+gitEntry("public/one")+text, "${REV:public/one}", l.revs["public/one"])
	return errors.Join(l.w.write("layers/meta-"+name+"/conf/layer.conf", strings.NewReplacer("trial", name, "%s", series).Replace(layerConf)),
		l.w.write("layers/meta-"+name+"/recipes/"+recipe+"_1.0.bb", text))
}

// commit makes a repository of a directory, with submodules: a path and a URL each.
func (l *layerTrial) commit(ctx context.Context, dir, repository string, modules map[string]string) error {
	if err := l.w.write(dir+"/content.txt", "the sources of "+repository+"\n"); err != nil {
		return err
	}
	git := func(args ...string) error {
		env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z"}
		return command(ctx, l.w.path(dir), env, "git", append([]string{"-c", "user.name=trial", "-c", "user.email=trial@example.com"}, args...)...)
	}
	err := errors.Join(git("init", "--quiet", "--initial-branch=main"), git("add", "."))
	for path, url := range modules {
		_, base, _ := strings.Cut(url, "git.example.com/")
		if base == "" {
			base = "team/" + strings.TrimPrefix(url, "../")
		}
		link := "160000," + l.revs[strings.TrimSuffix(base, ".git")] + "," + path
		err = errors.Join(err, git("config", "--file", ".gitmodules", "submodule."+path+".path", path),
			git("config", "--file", ".gitmodules", "submodule."+path+".url", url), git("add", ".gitmodules"),
			git("update-index", "--add", "--cacheinfo", link))
	}
	err = errors.Join(err, git("commit", "--quiet", "--message=Begin"))
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "git", "-C", l.w.path(dir), "rev-parse", "HEAD").Output()
	l.revs[repository] = strings.TrimSpace(string(out))
	return err
}

// build builds all traced recipes, in a directory that is called name afterwards: the hashes of what externalsrc builds depend on the
// directory of the build, so all builds have the same.
func (l *layerTrial) build(ctx context.Context, name, conf string) (result, error) {
	layers, err := filepath.Abs("layers/meta-lychgate")
	if err := errors.Join(err, l.cloneTree(ctx)); err != nil {
		return result{}, err
	}
	o := order{name: "layer", home: l.w.path("homes/layer"), conf: conf, layers: []string{l.w.path("layers/meta-open"), l.w.path("layers/meta-closed"), layers}}
	for _, r := range tracedRecipes() {
		o.targets = append(o.targets, r.name)
	}
	o.env = []string{"GITLAB_CI=true", "CI_SERVER_URL=https://gitlab.example.com", "CI_JOB_URL=https://gitlab.example.com/team/os/-/jobs/7", "CI_JOB_TOKEN=secret"}
	r, err := l.w.build(ctx, o)
	if err == nil && (r.exit != 0 || len(r.errors) > 0 || len(r.warnings) > 0 || r.traceback) {
		err = fmt.Errorf("%s: exit code %d, see %s/output (-keep): %q %q", name, r.exit, l.w.path("builds/"+name), r.errors, r.warnings)
	}
	fmt.Fprintf(os.Stderr, "%s: exit code %d, %.0f s\n", name, r.exit, r.took.Seconds())
	built := r.dir
	r.dir = l.w.path("builds/" + name)
	return r, errors.Join(err, awaitLock(built+"/bitbake.lock"), os.Rename(built, r.dir))
}

// cloneTree makes the tree of externalsrc afresh: the class leaves links to the build in it, which are part of the next build's hashes.
func (l *layerTrial) cloneTree(ctx context.Context) error {
	if err := os.RemoveAll(l.w.path("tree")); err != nil {
		return err
	}
	return errors.Join(
		command(ctx, l.w.dir, nil, "git", "clone", "--quiet", l.w.path("repositories/public/tree.git"), l.w.path("tree")),
		command(ctx, l.w.path("tree"), nil, "git", "remote", "set-url", "origin", "https://me:secret@git.example.com/public/tree.git"),
	)
}

// sameHashes compares the hashes of all tasks of two builds.
func sameHashes(one, other string) error {
	a, err := taskHashes(one)
	b, err2 := taskHashes(other)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if len(a) < 100 || !slices.Equal(a, b) {
		return fmt.Errorf("%d task hashes without the class, %d with it, and they must be the same", len(a), len(b))
	}
	fmt.Fprintf(os.Stderr, "%d task hashes, the same with the class and without\n", len(a))
	return nil
}

// taskHashes lists what a build's cache and stamps say: a name for each task and hash.
func taskHashes(build string) (names []string, err error) {
	for _, dir := range []string{"sstate", "tmp/stamps"} {
		root := filepath.Join(build, dir)
		err = errors.Join(err, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if path == root && errors.Is(err, fs.ErrNotExist) {
				return nil // a build of nothing makes no cache
			}
			if strings.HasSuffix(path, ".siginfo") || strings.Contains(path, ".sigdata.") || strings.Contains(path, ".sigbasedata.") {
				names = append(names, strings.TrimPrefix(path, build))
			}
			return err
		}))
	}
	slices.Sort(names)
	return names, err
}

// checkRecords reads what the class wrote: a record for each archive of the cache, and nothing secret in any.
func (l *layerTrial) checkRecords(build string) error {
	names, err := objects(filepath.Join(build, "sstate"), false)
	records := filepath.Join(build, "tmp/lychgate/records")
	for _, name := range names {
		file := recordOf(records, name)
		text, err2 := os.ReadFile(file)
		switch {
		case err2 != nil:
			err = errors.Join(err, err2)
		case strings.Contains(string(text), "secret@") || strings.Contains(string(text), "\"secret"):
			err = errors.Join(err, fmt.Errorf("%s holds a password", file))
		case !strings.Contains(string(text), `"run":"https://gitlab.example.com/team/os/-/jobs/7"`):
			err = errors.Join(err, fmt.Errorf("%s does not name the job", file))
		}
	}
	return err
}

// recordOf is the file with the record of an object.
func recordOf(records, name string) string {
	base := strings.TrimSuffix(name[strings.LastIndex(name, ":")+1:], ".tar.zst")
	hash, task, _ := strings.Cut(base, "_")
	return filepath.Join(records, hash[:2], recipeOf(name)+".do_"+task+"."+hash+".json")
}

// checkPlan compares the sources of each recipe with what it is made of, with the records and without.
func (l *layerTrial) checkPlan(ctx context.Context, build string) error {
	with, inputs, err := l.plan(ctx, build, "--records", filepath.Join(build, "tmp/lychgate/records"))
	if err != nil {
		return err
	}
	without, _, err := l.plan(ctx, build)
	if err != nil {
		return err
	}
	if got := strings.Join(inputs["user-native"], " "); got != l.revised("public/one public/tree") {
		err = fmt.Errorf("user-native is built by inputs from %s", got)
	}
	for _, r := range tracedRecipes() {
		if got := strings.Join(with[r.name], " "); got != l.revised(r.sources) {
			err = errors.Join(err, fmt.Errorf("%s is built from %s, want %s", r.name, got, l.revised(r.sources)))
		}
		if got := strings.Join(without[r.name], " "); (got == l.revised(r.sources)) != r.plain {
			err = errors.Join(err, fmt.Errorf("without records %s is built from %s", r.name, got))
		}
	}
	return err
}

// revised adds the revisions to a list of repositories.
func (l *layerTrial) revised(list string) string {
	words := strings.Fields(list)
	for i, repository := range words {
		words[i] = "git+git.example.com/" + repository + "@" + l.revs[repository]
	}
	return strings.Join(words, " ")
}

// plan is what a dry run says each recipe is built from, directly and by its inputs. What could not be derived begins with "?".
func (l *layerTrial) plan(ctx context.Context, build string, args ...string) (direct, inputs map[string][]string, err error) {
	args = append([]string{"push", filepath.Join(build, "sstate"), "--dry-run", "--json", "--quiet"}, args...)
	out, err := exec.CommandContext(ctx, l.w.o.gate, args...).Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: not all could be derived
		return nil, nil, err
	}
	var report struct {
		Plan []struct {
			Recipe  string   `json:"recipe"`
			Sources []string `json:"sources"`
			Inputs  []string `json:"inputs"`
		} `json:"plan"`
		Underived []struct {
			Name string `json:"name"`
		} `json:"underived"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, nil, err
	}
	direct, inputs = map[string][]string{}, map[string][]string{}
	for _, b := range report.Plan {
		direct[b.Recipe] = merged(direct[b.Recipe], b.Sources)
		inputs[b.Recipe] = merged(inputs[b.Recipe], b.Inputs)
	}
	for _, u := range report.Underived {
		recipe := recipeOf(u.Name)
		direct[recipe] = append(direct[recipe], "?"+u.Name)
	}
	return direct, inputs, nil
}

// merged returns the words of both lists, sorted and each once.
func merged(one, other []string) []string {
	all := slices.Concat(one, other)
	slices.Sort(all)
	return slices.Compact(all)
}

// checkReaders publishes the build, and asks what alice and bob may have of it.
func (l *layerTrial) checkReaders(ctx context.Context, build string) error {
	names, err := objects(filepath.Join(build, "sstate"), false)
	if err != nil {
		return err
	}
	if err := l.gate.push(ctx, filepath.Join(build, "sstate"), "--records", filepath.Join(build, "tmp/lychgate/records")); err != nil {
		return err
	}
	for _, user := range []string{"alice", "bob"} {
		present, err2 := l.present(ctx, user, names)
		err = errors.Join(err, err2)
		for _, name := range names {
			i := slices.IndexFunc(tracedRecipes(), func(r traced) bool { return r.name == recipeOf(name) })
			if want := user == "alice" || tracedRecipes()[i].public; present[name] != want {
				err = errors.Join(err, fmt.Errorf("%s may read %s: %v, want %v", user, name, present[name], want))
			}
		}
	}
	return err
}

// present returns which of the objects a user may have.
func (l *layerTrial) present(ctx context.Context, user string, names []string) (map[string]bool, error) {
	cmd := exec.CommandContext(ctx, l.w.o.gate, "presence", "--gate", "https://"+l.gate.https, "--ca", l.gate.path("ca.pem"),
		"--token-file", l.gate.path(user+".token"), "-")
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: not all are there
		return nil, err
	}
	present := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "1 "); ok {
			present[strings.TrimSpace(name)] = true
		}
	}
	return present, nil
}
