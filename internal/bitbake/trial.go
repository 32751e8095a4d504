package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// trial is a gate with a published cache.
type trial struct {
	w       *world
	gate    *gate
	cache   string         // directory of the cache as published
	objects []string       // names of its archives and of the siginfo files beside them
	wanted  map[string]int // archives, by recipe
	output  []byte         // of the last recipe
}

// newTrial builds once without a mirror, opens a gate, and publishes the cache.
func newTrial(ctx context.Context, w *world) (*trial, error) {
	t := &trial{w: w, cache: w.path("builds/first/sstate"), wanted: map[string]int{}}
	if err := w.home("nobody", "", ""); err != nil {
		return nil, err
	}
	r, err := w.build(ctx, order{name: "first", home: w.path("homes/nobody")})
	if err != nil {
		return nil, fmt.Errorf("first build: %w", err)
	}
	if r.exit != 0 || r.mirrors != 0 || len(r.compiled) != len(recipes()) {
		return nil, fmt.Errorf("first build: exit code %d, see %s/output:\n%s", r.exit, r.dir, strings.Join(r.errors, "\n"))
	}
	fmt.Fprintf(os.Stderr, "built %d recipes without a mirror in %.0f s\n", len(r.compiled), r.took.Seconds())
	if t.output, err = os.ReadFile(outputOf(r.dir)); err != nil {
		return nil, err
	}
	if t.objects, err = objects(t.cache, true); err != nil {
		return nil, err
	}
	for _, name := range t.objects {
		if strings.HasSuffix(name, ".tar.zst") {
			t.wanted[recipeOf(name)]++
		}
	}
	if t.gate, err = startGate(ctx, w, "gate"); err != nil {
		return nil, err
	}
	if err := errors.Join(t.gate.takeCertificates(ctx, "alice", "bob"), t.gate.push(ctx, t.cache)); err != nil {
		t.gate.stop()
		return nil, err
	}
	return t, nil
}

// outputOf is what the last recipe deploys.
func outputOf(dir string) string {
	return filepath.Join(dir, "tmp/deploy/images/qemux86-64/firmware.txt")
}

// home makes a home directory: a .netrc, an ssh_config, and git's way to the repositories.
func (w *world) home(name, netrc, sshConfig string) error {
	git := fmt.Sprintf("[url \"file://%s/\"]\n\tinsteadOf = https://git.example.com/\n[safe]\n\tdirectory = *\n", w.path("repositories"))
	return errors.Join(
		w.write("homes/"+name+"/.gitconfig", git),
		w.writeMode("homes/"+name+"/.netrc", netrc, 0o600),
		w.writeMode("homes/"+name+"/ssh_config", sshConfig, 0o600),
	)
}

// pulled is a scheme without a mirror: what the build will want is fetched before it.
const pulled = "pull"

// build is a build to try: the scheme of its mirror, and whose it is.
type build struct {
	scheme, user string
	shared       bool // ssh connections are
	away         bool // the gate is, from when BitBake has been told what is there, and before it fetches it
	client       bool // with lychgate-client.bbclass, and over https with a client certificate and nothing else
}

// cases are the builds, in order. The stranger's refused attempts come last: a gate slows down who has many.
func cases() []build {
	return []build{
		{scheme: "https", user: "alice"},
		{scheme: "https", user: "bob"},
		{scheme: pulled, user: "alice"},
		{scheme: pulled, user: "bob"},
		{scheme: "agent", user: "alice"},
		{scheme: "agent", user: "bob"},
		{scheme: "agent", user: "alice", away: true},
		{scheme: "ssh", user: "alice"},
		{scheme: "ssh", user: "bob"},
		{scheme: "ssh", user: "alice", shared: true},
		{scheme: "sftp", user: "alice"},
		{scheme: "sftp", user: "bob"},
		{scheme: "sftp", user: "alice", client: true},
		{scheme: "sftp", user: "bob", client: true},
		{scheme: "https", user: "alice", client: true},
		{scheme: "https", user: "bob", client: true},
		{scheme: "agent", user: "stranger"}, // who has no token
		{scheme: "ssh", user: "stranger"},
	}
}

func (b build) name() string {
	if b.shared {
		return b.scheme + "-" + b.user + "-shared"
	}
	if b.away {
		return b.scheme + "-" + b.user + "-away"
	}
	if b.client {
		return b.scheme + "-" + b.user + "-client"
	}
	return b.scheme + "-" + b.user
}

// reads reports whether the build's user may read what a recipe is made from.
func (b build) reads(r recipe) bool {
	return b.user == "alice" || b.user == "bob" && r.public
}

// row is a line of the table.
type row struct {
	label  string // the build's name
	result result
	same   int // objects restored, with the same bytes
	counts counts
}

// try makes one build and compares it with what is documented.
func (t *trial) try(ctx context.Context, b build) (row, error) {
	r, err := t.measure(ctx, b)
	if err == nil {
		err = errors.Join(t.checkCounts(b, r.result), t.checkWork(b, &r), t.checkPush(ctx, r.result))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w; see %s/output (-keep)", b.name(), err, r.result.dir)
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d, exit code %d, %.0f s\n", b.name(), r.result.mirrors, r.result.wanted, r.result.exit, r.result.took.Seconds())
	return r, err
}

// measure makes one build.
func (t *trial) measure(ctx context.Context, b build) (row, error) {
	r := row{label: b.name()}
	if err := t.equip(ctx, b); err != nil {
		return r, err
	}
	conf, leave, err := t.mirror(ctx, b)
	if err != nil {
		return r, err
	}
	defer leave()
	before, err := t.gate.counts(ctx)
	if err != nil {
		return r, err
	}
	_, last, err := t.gate.trail(ctx, b.user, 0)
	if err != nil {
		return r, err
	}
	o := order{name: b.name(), home: t.w.path("homes/" + b.name()), conf: conf}
	if b.client {
		own, err := filepath.Abs("layers/meta-lychgate")
		if err != nil {
			return r, err
		}
		o.layers = []string{t.w.path("layer"), own}
	}
	if b.scheme == pulled {
		if err := t.pull(ctx, b, o); err != nil {
			return r, err
		}
	}
	if r.result, err = t.run(ctx, b, o); err != nil || b.away {
		return r, err // a gate that was started again counts from the beginning
	}
	after, err := t.gate.counts(ctx)
	if err != nil {
		return r, err
	}
	r.counts = after.since(before)
	return r, t.checkTrail(ctx, b, last)
}

// run builds. A gate that is to be away is so until the build has ended.
func (t *trial) run(ctx context.Context, b build, o order) (result, error) {
	if !b.away {
		return t.w.build(ctx, o)
	}
	w := &watcher{wanted: []byte("Sstate summary"), seen: make(chan struct{})}
	o.watch = w
	ended, killed := make(chan struct{}), make(chan bool, 1)
	go func() {
		select {
		case <-w.seen:
			t.gate.process.Kill()
			killed <- true
		case <-ended:
			killed <- false
		}
	}()
	r, err := t.w.build(ctx, o)
	close(ended)
	if !<-killed {
		return r, errors.Join(err, errors.New("BitBake asked for nothing"))
	}
	return r, errors.Join(err, t.gate.serve(ctx, t.gate.ready))
}

// pull fetches what a build will want, as docs/bitbake.md says.
func (t *trial) pull(ctx context.Context, b build, o order) error {
	o.only = []string{"-S", "none"}
	r, err := t.w.build(ctx, o)
	if err != nil {
		return err
	}
	if r.exit != 0 || len(r.compiled) > 0 {
		return fmt.Errorf("bitbake -S none: exit code %d, compiled %q", r.exit, r.compiled)
	}
	return t.gate.pull(ctx, b.user, filepath.Join(r.dir, "sstate"), filepath.Join(r.dir, "tmp/stamps"))
}

// equip makes the home of the build's user, as docs/bitbake.md says.
func (t *trial) equip(ctx context.Context, b build) error {
	netrc := ""
	if b.scheme == "https" && !b.client {
		var err error
		if netrc, err = t.gate.netrc(b.user); err != nil {
			return err
		}
	}
	if b.user == "stranger" && b.scheme == "ssh" {
		key := t.gate.path(b.user + ".key")
		if err := command(ctx, t.w.dir, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key); err != nil {
			return err
		}
	}
	config, err := t.gate.sshConfig(b.user)
	if err != nil {
		return err
	}
	if b.shared {
		config += t.w.sharedConnection("shared")
	}
	return t.w.home(b.name(), netrc, config)
}

// mirror is what the build's conf/local.conf says of its mirror. What runs for it ends with leave.
func (t *trial) mirror(ctx context.Context, b build) (conf string, leave func(), err error) {
	switch b.scheme {
	case pulled:
		return "", func() {}, nil
	case "https":
		if b.client {
			return t.certificateMirror(b.user), func() {}, nil
		}
		return t.gate.httpsMirror(), func() {}, nil
	case "agent":
		return t.gate.agent(ctx, b.name(), t.gate.path(b.user+".token"))
	}
	conf = sshMirror(b.scheme)
	if b.client {
		conf += "INHERIT += \"lychgate-client\"\n"
	}
	return conf, func() {}, nil
}

func (t *trial) certificateMirror(user string) string {
	return fmt.Sprintf("SSTATE_MIRRORS = \"file://.* https://%s/sstate/main/PATH;downloadfilename=PATH\"\n", t.gate.https) +
		"INHERIT += \"lychgate-client\"\n" +
		fmt.Sprintf("LYCHGATE_GATE = \"https://%s\"\nLYCHGATE_CA = \"%s\"\n", t.gate.https, t.gate.path("ca.pem")) +
		fmt.Sprintf("LYCHGATE_TLS_CERT = \"%s\"\n", t.gate.path(user+".pem"))
}

// checkCounts compares what BitBake counts. By itself sftp has no way to ask whether something is there: BitBake takes all for present, and
// each download that fails is an error, though the task then runs and succeeds.
func (t *trial) checkCounts(b build, r result) error {
	var all, readable int
	for _, recipe := range recipes() {
		all += t.wanted[recipe.name]
		if b.reads(recipe) {
			readable += t.wanted[recipe.name]
		}
	}
	missed, local, exit, faulty := all-readable, 0, 0, false
	if b.scheme == pulled {
		local = readable
	}
	if b.scheme == "sftp" && missed > 0 && !b.client {
		missed, exit, faulty = 0, 1, true
	}
	var faults []error
	if r.wanted != all || r.local != local || r.missed != missed || r.mirrors != all-missed-local {
		faults = append(faults, fmt.Errorf("wanted %d local %d mirrors %d missed %d; documented is %d, %d, %d, %d",
			r.wanted, r.local, r.mirrors, r.missed, all, local, all-missed-local, missed))
	}
	if r.exit != exit || (len(r.errors) > 0) != faulty {
		faults = append(faults, fmt.Errorf("exit code %d, documented is %d; errors: %q", r.exit, exit, r.errors))
	}
	if !r.succeeded {
		faults = append(faults, errors.New("a task failed"))
	}
	return errors.Join(faults...)
}

// checkWork looks at what was built, which is what could not be had, and at what was restored.
func (t *trial) checkWork(b build, r *row) error {
	var faults []error
	var compiles, restored []string
	for _, recipe := range recipes() {
		if !b.reads(recipe) || b.away && slices.Contains(r.result.compiled, recipe.name) {
			compiles = append(compiles, recipe.name)
		}
	}
	if b.away && len(compiles) == 0 {
		faults = append(faults, errors.New("all was fetched before the gate was away"))
	}
	for _, name := range t.objects {
		if !slices.Contains(compiles, recipeOf(name)) {
			restored = append(restored, name)
		}
	}
	slices.Sort(compiles)
	slices.Sort(r.result.compiled)
	if !slices.Equal(compiles, r.result.compiled) {
		faults = append(faults, fmt.Errorf("compiled %q, want %q", r.result.compiled, compiles))
	}
	var err error
	r.same, err = sameBytes(t.cache, filepath.Join(r.result.dir, "sstate"), restored)
	if err != nil || (r.same == 0) != (len(restored) == 0) && !b.away {
		faults = append(faults, fmt.Errorf("%d objects restored: %w", r.same, err))
	}
	if output, err := os.ReadFile(outputOf(r.result.dir)); err != nil || string(output) != string(t.output) {
		faults = append(faults, fmt.Errorf("the build's output is %q, want %q: %w", output, t.output, err))
	}
	return errors.Join(faults...)
}

// checkPush publishes the build's cache, as CI does that builds through a mirror: what was restored is there already, and what was
// built is another's object by now. Neither is an error.
func (t *trial) checkPush(ctx context.Context, r result) error {
	return t.gate.push(ctx, filepath.Join(r.dir, "sstate"))
}

// checkTrail looks for a decision to give the user what they may not read.
func (t *trial) checkTrail(ctx context.Context, b build, last uint64) error {
	events, _, err := t.gate.trail(ctx, b.user, last)
	if err != nil {
		return err
	}
	allowed := 0
	for _, e := range events {
		if e.Decision.Verdict != "allow" || e.Object.Path == "" {
			continue
		}
		allowed++
		i := slices.IndexFunc(recipes(), func(r recipe) bool { return r.name == recipeOf(e.Object.Path) })
		if i < 0 || !b.reads(recipes()[i]) {
			return fmt.Errorf("%s was allowed to read %s", b.user, e.Object.Path)
		}
	}
	if (allowed > 0) != (b.user != "stranger") {
		return fmt.Errorf("%d reads of %s were allowed", allowed, b.user)
	}
	return nil
}

// writeTable prints what the builds came to.
func writeTable(w io.Writer, rows []row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "build\twanted\tmirrors\tmissed\texit\tERROR\tsame\tseconds\tat the gate")
	for _, r := range rows {
		var seen []string
		for _, what := range slices.Sorted(maps.Keys(r.counts)) {
			if n := r.counts[what]; n > 0 {
				seen = append(seen, fmt.Sprintf("%s: %d", what, n))
			}
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%s\n", r.label, r.result.wanted, r.result.mirrors, r.result.missed,
			r.result.exit, len(r.result.errors), r.same, r.result.took.Round(time.Second).Seconds(), strings.Join(seen, ", "))
	}
	return table.Flush()
}
