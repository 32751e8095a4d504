package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// scaleBuild is a build of all parts from a published cache. Without hash equivalence the gate's policy asks for everything that an object
// was built with. With it the gate has the policy that it comes with, and two parts are others than the published ones, with the same
// output: who may be told so finds all the same.
type scaleBuild struct {
	scheme, user string
	equivalence  bool
}

func (b scaleBuild) name() string {
	if b.equivalence {
		return "scale-hash-" + b.scheme + "-" + b.user
	}
	return "scale-" + b.scheme + "-" + b.user
}

// scaleCases are all users by all ways, with hash equivalence and without.
func scaleCases() (all []scaleBuild) {
	for _, equivalence := range []bool{false, true} {
		for _, scheme := range []string{"agent", "https", "ssh"} {
			for _, u := range partUsers() {
				all = append(all, scaleBuild{scheme: scheme, user: u.name, equivalence: equivalence})
			}
		}
	}
	return all
}

// tryScale makes the parts, publishes them, and builds them as each user.
func tryScale(ctx context.Context, w *world, builds []scaleBuild) (rows []row, err error) {
	if len(builds) == 0 {
		return nil, nil
	}
	if err := errors.Join(w.makeParts(ctx), w.home("parts", "", "")); err != nil {
		return nil, err
	}
	for _, equivalence := range []bool{false, true} {
		chosen := slices.DeleteFunc(slices.Clone(builds), func(b scaleBuild) bool { return b.equivalence != equivalence })
		more, faults := tryScaleWith(ctx, w, equivalence, chosen)
		rows, err = append(rows, more...), errors.Join(err, faults)
	}
	return rows, err
}

func tryScaleWith(ctx context.Context, w *world, equivalence bool, builds []scaleBuild) (rows []row, err error) {
	if len(builds) == 0 {
		return nil, nil
	}
	t := &scaleTrial{w: w, name: "scale", equivalence: equivalence}
	if equivalence {
		t.name = "scale-hash"
	}
	if t.gate, err = openGate(ctx, w, t.name+"-gate", partUsers(), settings{transitive: !equivalence}); err != nil {
		return nil, err
	}
	defer t.gate.stop()
	if err := t.publish(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	for _, b := range builds {
		r, faults := t.try(ctx, b)
		rows, err = append(rows, r), errors.Join(err, faults)
	}
	return rows, err
}

// scaleTrial is a gate with the published cache of all parts.
type scaleTrial struct {
	w           *world
	name        string
	equivalence bool
	gate        *gate
	cache       string   // its directory
	objects     []string // the archives in it
}

// least is how many objects the parts must have to show anything.
const least = 150

// publish compares the hashes of all tasks, and builds all parts with the class of meta-lychgate, as CI does, and pushes what it recorded. With hash equivalence it then builds
// the changed ones, so that the gate learns of the same output.
func (t *scaleTrial) publish(ctx context.Context) (err error) {
	hashes, err := t.compareHashes(ctx)
	if err != nil {
		return err
	}
	conf, err := t.handler("ci")
	if err != nil {
		return err
	}
	if err := t.fill(ctx, conf, partTargets()); err != nil {
		return err
	}
	t.cache = t.w.path("builds/" + t.name + "-first/sstate")
	if t.objects, err = objects(t.cache, false); err != nil {
		return err
	}
	if err := t.checkObjects(hashes); err != nil {
		return err
	}
	if !t.equivalence {
		return nil
	}
	return t.fill(ctx, conf+remarks(), changedParts())
}

// checkObjects looks whether the objects are enough, and each under the hash that its task has without the class. A server that knew nothing
// had no other to tell.
func (t *scaleTrial) checkObjects(hashes []string) error {
	if len(t.objects) < least {
		return fmt.Errorf("the build has %d objects, want %d at least", len(t.objects), least)
	}
	all := strings.Join(hashes, "\n") + "\n"
	for _, name := range t.objects {
		hash, _, _ := strings.Cut(name[strings.LastIndex(name, ":")+1:], "_")
		if _, task := split(name); !strings.Contains(all, ".do_"+task+".sigdata."+hash+"\n") {
			return fmt.Errorf("without the class no task has the hash of %s", name)
		}
	}
	return nil
}

// fill builds with the class and pushes. compiled is what is built; all else is in the cache.
func (t *scaleTrial) fill(ctx context.Context, conf string, compiled []string) error {
	r, err := t.build(ctx, "first", conf, true)
	if err != nil {
		return err
	}
	slices.Sort(compiled)
	slices.Sort(r.compiled)
	if !slices.Equal(r.compiled, compiled) || len(r.warnings) > 0 {
		return fmt.Errorf("compiled %q, want %q; warnings %q", r.compiled, compiled, r.warnings)
	}
	fmt.Fprintf(os.Stderr, "%s: built %d parts in %.0f s\n", t.name, len(compiled), r.took.Seconds())
	return t.gate.push(ctx, filepath.Join(r.dir, "sstate"), "--records", filepath.Join(r.dir, "tmp/lychgate/records"))
}

// build is one of CI's, which must succeed without an error.
func (t *scaleTrial) build(ctx context.Context, name, conf string, class bool, only ...string) (result, error) {
	o := order{
		name: t.name + "-" + name, home: t.w.path("homes/parts"), conf: conf, only: only, ca: t.gate.path("ca.pem"),
		layers: []string{t.w.path("parts")}, targets: partTargets(),
	}
	o.conf += t.w.sharedSources()
	if class {
		layer, err := filepath.Abs("layers/meta-lychgate")
		if err != nil {
			return result{}, err
		}
		o.layers, o.conf = append(o.layers, layer), o.conf+"INHERIT += \"lychgate\"\n"
	}
	r, err := t.w.build(ctx, o)
	return r, errors.Join(err, sound(r), awaitLock(r.dir+"/bitbake.lock"))
}

// compareHashes has BitBake say the hashes of all tasks with the class and without, which must be the same, and returns them: names of files.
func (t *scaleTrial) compareHashes(ctx context.Context) ([]string, error) {
	conf := basicHash
	if t.equivalence {
		conf = "BB_HASHSERVE = \"auto\"\n" // a server that knows nothing
	}
	plain, err := t.build(ctx, "without", conf, false, "-S", "none")
	if err != nil {
		return nil, err
	}
	recorded, err := t.build(ctx, "with", conf, true, "-S", "none")
	if err != nil {
		return nil, err
	}
	hashes, err := taskHashes(plain.dir)
	return hashes, errors.Join(err, sameHashes(plain.dir, recorded.dir))
}

// sound is what every build must be.
func sound(r result) error {
	log, err := os.ReadFile(filepath.Join(r.dir, "bitbake-cookerdaemon.log"))
	if r.exit != 0 || len(r.errors) > 0 {
		err = errors.Join(err, fmt.Errorf("exit code %d, errors %q; see %s/output (-keep)", r.exit, r.errors, r.dir))
	}
	if r.traceback || bytes.Contains(log, []byte("Traceback (most recent call last)")) {
		err = errors.Join(err, errors.New("a traceback of Python"))
	}
	return err
}

const basicHash = "BB_SIGNATURE_HANDLER = \"OEBasicHash\"\n"

// handler is what conf/local.conf says of signatures for who is no agent's. A login for the server may be in .netrc as well.
func (t *scaleTrial) handler(user string) (string, error) {
	if !t.equivalence {
		return basicHash, nil
	}
	token, err := t.gate.token(user)
	return fmt.Sprintf("BB_HASHSERVE = %q\nBB_HASHSERVE_USERNAME = \"token\"\nBB_HASHSERVE_PASSWORD = %q\n", t.hashServer(), token), err
}

func (t *scaleTrial) hashServer() string { return "wss://" + t.gate.https + "/hash/main" }

// sharedSources has all builds fetch sources into one directory: who may not have an object has its sources by other means.
func (w *world) sharedSources() string { return fmt.Sprintf("DL_DIR = %q\n", w.path("sources")) }

// remarks makes the changed parts others than the published ones.
func remarks() (conf string) {
	for _, name := range changedParts() {
		conf += fmt.Sprintf("REMARK:pn-%s = \"true\"\n", name)
	}
	return conf
}

// view is what a user may have.
func (t *scaleTrial) view(user string) view {
	users := partUsers()
	v := view{graph: partsGraph(), transitive: !t.equivalence}
	v.user = users[slices.IndexFunc(users, func(u reader) bool { return u.name == user })]
	if t.equivalence {
		v.changed = changedParts()
	}
	return v
}

// try makes one build and compares it with what its user may have.
func (t *scaleTrial) try(ctx context.Context, b scaleBuild) (row, error) {
	r, err := t.measure(ctx, b)
	if err == nil {
		v := t.view(b.user)
		err = errors.Join(sound(r.result), t.checkCounts(v, r.result), t.checkWork(v, r.result), t.checkBytes(v, &r))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w; see %s/output (-keep)", b.name(), err, r.result.dir)
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d, exit code %d, %.0f s\n", b.name(), r.result.mirrors, r.result.wanted, r.result.exit, r.result.took.Seconds())
	return r, err
}

// measure makes one build.
func (t *scaleTrial) measure(ctx context.Context, b scaleBuild) (row, error) {
	r := row{label: b.name()}
	conf, leave, err := t.equip(ctx, b)
	if err != nil {
		return r, err
	}
	defer leave()
	conf += t.w.sharedSources()
	if t.equivalence {
		conf += remarks()
	}
	before, err := t.gate.counts(ctx)
	if err != nil {
		return r, err
	}
	_, last, err := t.gate.trail(ctx, b.user, 0)
	if err != nil {
		return r, err
	}
	o := order{
		name: b.name(), home: t.w.path("homes/" + b.name()), conf: conf, ca: t.gate.path("ca.pem"),
		layers: []string{t.w.path("parts")}, targets: partTargets(),
	}
	if r.result, err = t.w.build(ctx, o); err != nil {
		return r, err
	}
	after, err := t.gate.counts(ctx)
	if err != nil {
		return r, err
	}
	r.counts = after.since(before)
	events, _, err := t.gate.trail(ctx, b.user, last)
	return r, errors.Join(err, checkAllowed(t.view(b.user), events))
}

// equip makes the home of the build's user, starts an agent if the way asks for one, and returns lines for conf/local.conf.
func (t *scaleTrial) equip(ctx context.Context, b scaleBuild) (conf string, leave func(), err error) {
	if b.scheme == "agent" {
		if err := t.w.home(b.name(), "", ""); err != nil {
			return "", nil, err
		}
		return t.agent(ctx, b)
	}
	if b.scheme == "ssh" {
		config, err := t.gate.sshConfig(b.user)
		conf, err2 := t.handler(b.user)
		return sshMirror("ssh") + conf, func() {}, errors.Join(err, err2, t.w.home(b.name(), "", config))
	}
	netrc, err := t.gate.netrc(b.user)
	conf = t.gate.httpsMirror() + basicHash
	if t.equivalence {
		netrc += strings.Replace(netrc, "127.0.0.1", t.hashServer(), 1)
		conf = t.gate.httpsMirror() + fmt.Sprintf("BB_HASHSERVE = %q\n", t.hashServer())
	}
	return conf, func() {}, errors.Join(err, t.w.home(b.name(), netrc, ""))
}

// agent starts one for a build.
func (t *scaleTrial) agent(ctx context.Context, b scaleBuild) (conf string, leave func(), err error) {
	hash := "none"
	if t.equivalence {
		address, err := loopback.Free()
		if err != nil {
			return "", nil, err
		}
		hash = "main=" + address
	}
	conf, leave, err = t.gate.agent(ctx, b.name(), t.gate.path(b.user+".token"), "--hash", hash)
	if !t.equivalence {
		conf += basicHash
	}
	return conf, leave, err
}

// split returns the recipe and the task of an object.
func split(name string) (recipe, task string) {
	_, task, _ = strings.Cut(strings.TrimSuffix(name[strings.LastIndex(name, ":")+1:], ".tar.zst"), "_")
	return recipeOf(name), task
}

// checkCounts compares what BitBake says it found.
func (t *scaleTrial) checkCounts(v view, r result) error {
	found := 0
	for _, name := range t.objects {
		if v.finds(split(name)) {
			found++
		}
	}
	all := len(t.objects)
	if r.wanted != all || r.local != 0 || r.mirrors != found || r.missed != all-found {
		return fmt.Errorf("wanted %d local %d mirrors %d missed %d; %s may have %d of %d", r.wanted, r.local, r.mirrors, r.missed, v.user.name, found, all)
	}
	if !r.succeeded {
		return errors.New("a task failed")
	}
	return nil
}

var restored = regexp.MustCompile(`(?m)^NOTE: recipe (\S+)-[^-\s]+-r0: task do_(\S+)_setscene: Succeeded$`)

// checkWork compares what was compiled, and what was restored.
func (t *scaleTrial) checkWork(v view, r result) error {
	var compiles, fetches, got []string
	for recipe := range v.graph {
		if v.compiles(recipe) {
			compiles = append(compiles, recipe)
		}
	}
	for _, name := range t.objects {
		if recipe, task := split(name); v.fetches(recipe, task) {
			fetches = append(fetches, recipe+" "+task)
		}
	}
	output, err := os.ReadFile(filepath.Join(r.dir, "output"))
	for _, m := range restored.FindAllStringSubmatch(string(output), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	for _, list := range [][]string{compiles, fetches, got, r.compiled} {
		slices.Sort(list)
	}
	if !slices.Equal(compiles, r.compiled) {
		err = errors.Join(err, fmt.Errorf("compiled %q, want %q", r.compiled, compiles))
	}
	if !slices.Equal(fetches, got) {
		err = errors.Join(err, fmt.Errorf("restored %q, want %q", got, fetches))
	}
	return err
}

// checkBytes compares what was downloaded with what was published, and what was deployed.
func (t *scaleTrial) checkBytes(v view, r *row) error {
	var fetched []string
	for _, name := range t.objects {
		if v.fetches(split(name)) {
			fetched = append(fetched, name, name+".siginfo")
		}
	}
	var err error
	r.same, err = sameBytes(t.cache, filepath.Join(r.result.dir, "sstate"), fetched)
	if r.same != len(fetched) {
		err = errors.Join(err, fmt.Errorf("%d files were downloaded with the same bytes, want %d", r.same, len(fetched)))
	}
	var deployed []string
	for _, p := range parts() {
		deployed = append(deployed, "deployed-"+p.name+".txt")
	}
	const images = "tmp/deploy/images/qemux86-64"
	same, err2 := sameBytes(t.w.path("builds/"+t.name+"-first/"+images), filepath.Join(r.result.dir, images), deployed)
	if same != len(deployed) {
		err2 = errors.Join(err2, fmt.Errorf("%d deployed files are the same, want %d", same, len(deployed)))
	}
	return errors.Join(err, err2)
}
