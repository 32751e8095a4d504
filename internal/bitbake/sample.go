package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// sampleRun is a user who asks for every object of a cache that another build left, by BitBake's fetcher. Its recipes are not there, so
// nothing is built.
type sampleRun struct {
	scheme, user string
	transitive   bool // the gate's policy asks for everything that an object was built with
}

func (s sampleRun) name() string {
	if s.transitive {
		return "sample-transitive-" + s.scheme + "-" + s.user
	}
	return "sample-" + s.scheme + "-" + s.user
}

// sampleCases are all users by all ways under both policies.
func sampleCases() (all []sampleRun) {
	for _, transitive := range []bool{false, true} {
		for _, scheme := range []string{"agent", "https", "ssh"} {
			for _, u := range sampleUsers() {
				all = append(all, sampleRun{scheme: scheme, user: u.name, transitive: transitive})
			}
		}
	}
	return all
}

// sampleGraph is what the recipes of the cache are made of.
func sampleGraph() graph {
	g := graph{
		"libfoo-native":      {sources: []string{"public/libfoo"}},
		"secret-tool-native": {sources: []string{"teamA/secret-tool"}, uses: []string{"libfoo-native"}},
		"firmware":           {sources: []string{"teamB/firmware"}, uses: []string{"secret-tool-native"}},
		"boot":               {sources: []string{"teamB/boot"}, uses: []string{"libfoo-native"}},
		"harness-all":        {uses: []string{"firmware", "boot"}}, // from nothing: nobody's
	}
	for i := range 4 {
		g[fmt.Sprintf("filler%d-native", i+1)] = made{sources: []string{fmt.Sprintf("bulk/filler%d", i+1)}}
	}
	return g
}

// sampleUsers are four with different rights: to bob all but teamA is open.
func sampleUsers() []reader {
	return []reader{
		{name: "alice", below: []string{""}},
		{name: "bob", below: []string{"public/", "bulk/", "teamB/"}},
		{name: "carol", below: []string{"public/", "bulk/"}},
		{name: "dave"},
	}
}

// trySample publishes the cache, and asks for it as each user.
func trySample(ctx context.Context, w *world, runs []sampleRun) (rows []row, err error) {
	if w.o.sample == "" {
		return nil, nil
	}
	for _, transitive := range []bool{false, true} {
		chosen := slices.DeleteFunc(slices.Clone(runs), func(s sampleRun) bool { return s.transitive != transitive })
		more, faults := trySampleUnder(ctx, w, transitive, chosen)
		rows, err = append(rows, more...), errors.Join(err, faults)
	}
	return rows, err
}

func trySampleUnder(ctx context.Context, w *world, transitive bool, runs []sampleRun) (rows []row, err error) {
	if len(runs) == 0 {
		return nil, nil
	}
	t := &sampleTrial{w: w, digests: map[string]string{}}
	if err := t.open(ctx, transitive); err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	defer t.gate.stop()
	for _, s := range runs {
		r, faults := t.try(ctx, s)
		rows, err = append(rows, r), errors.Join(err, faults)
	}
	return rows, err
}

// sampleTrial is a gate with the cache.
type sampleTrial struct {
	w       *world
	gate    *gate
	digests map[string]string // of every archive and siginfo file
	names   []string
}

// read takes down what the cache holds.
func (t *sampleTrial) read() error {
	return filepath.WalkDir(t.w.o.sample, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(t.w.o.sample, path)
		sum := sha256.Sum256(text)
		t.names, t.digests[name] = append(t.names, name), hex.EncodeToString(sum[:])
		return err
	})
}

// open publishes the cache: it is pushed to one gate, and the other, whose policy is transitive, has it as its mirror and imports it.
func (t *sampleTrial) open(ctx context.Context, transitive bool) error {
	if err := t.read(); err != nil {
		return err
	}
	s, verb := settings{transitive: transitive}, "push"
	if transitive {
		s.mirror, verb = t.w.o.sample, "import"
	}
	var err error
	if t.gate, err = openGate(ctx, t.w, "sample-"+verb, sampleUsers(), s); err != nil {
		return err
	}
	if err := t.gate.run(ctx, "ci", verb, t.w.o.sample, "--key", t.gate.path("ci.key")); err != nil {
		t.gate.stop()
		return err
	}
	fmt.Fprintf(os.Stderr, "sample: %s of %d objects is done\n", verb, len(t.names))
	return nil
}

// try asks as one user, and compares with what they may have.
func (t *sampleTrial) try(ctx context.Context, s sampleRun) (row, error) {
	users := sampleUsers()
	v := view{graph: sampleGraph(), transitive: s.transitive}
	v.user = users[slices.IndexFunc(users, func(u reader) bool { return u.name == s.user })]
	r, answers, err := t.measure(ctx, v, s)
	if err == nil {
		err = t.check(v, answers, &r)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.name(), err)
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d, exit code %d, %.0f s\n", s.name(), r.result.mirrors, r.result.wanted, r.result.exit, r.result.took.Seconds())
	return r, err
}

// answer is what BitBake's fetcher says of an object.
type answer struct {
	there, digest string // yes or no; SHA-256, or "-"
}

// measure runs the fetcher over all names.
func (t *sampleTrial) measure(ctx context.Context, v view, s sampleRun) (r row, answers map[string]answer, err error) {
	r.label = s.name()
	variables, leave, err := t.equip(ctx, s)
	if err != nil {
		return r, nil, err
	}
	defer leave()
	before, err := t.gate.counts(ctx)
	if err != nil {
		return r, nil, err
	}
	_, last, err := t.gate.trail(ctx, s.user, 0)
	if err != nil {
		return r, nil, err
	}
	start := time.Now()
	if answers, r.result.exit, err = t.ask(ctx, s, variables); err != nil {
		return r, nil, err
	}
	r.result.took = time.Since(start)
	after, err := t.gate.counts(ctx)
	if err != nil {
		return r, nil, err
	}
	r.counts = after.since(before)
	events, _, err := t.gate.trail(ctx, s.user, last)
	return r, answers, errors.Join(err, checkAllowed(v, events))
}

//go:embed fetch.py
var fetcher string

// ask runs BitBake's fetcher.
func (t *sampleTrial) ask(ctx context.Context, s sampleRun, variables map[string]string) (answers map[string]answer, exit int, err error) {
	variables["SSTATE_DIR"] = t.w.path("samples/" + s.name())
	text, err := json.Marshal(variables)
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(ctx, t.w.reference.Python, "-c", fetcher, string(text))
	cmd.Stdin = strings.NewReader(strings.Join(t.names, "\n"))
	cmd.Env = append(t.w.reference.Env(), "PATH="+t.w.path("bin")+":"+os.Getenv("PATH"), "HOME="+t.w.path("homes/"+s.name()),
		"LC_ALL=en_US.UTF-8", "LOCPATH="+t.w.path("locale"), "SSL_CERT_FILE="+t.gate.path("ca.pem"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || said.Len() > 0 {
		return nil, cmd.ProcessState.ExitCode(), fmt.Errorf("the fetcher failed: %w: %s", err, said.Bytes())
	}
	answers = map[string]answer{}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) == 3 {
			answers[words[2]] = answer{there: words[0], digest: words[1]}
		}
	}
	return answers, 0, nil
}

// equip makes the home of a user, starts an agent if the way asks for one, and returns BitBake's variables.
func (t *sampleTrial) equip(ctx context.Context, s sampleRun) (variables map[string]string, leave func(), err error) {
	var netrc, sshConfig, conf string
	leave = func() {}
	switch s.scheme {
	case "agent":
		conf, leave, err = t.gate.agent(ctx, s.name(), t.gate.path(s.user+".token"), "--hash", "none")
	case "https":
		conf = t.gate.httpsMirror()
		netrc, err = t.gate.netrc(s.user)
	case "ssh":
		conf = sshMirror("ssh")
		sshConfig, err = t.gate.sshConfig(s.user)
		sshConfig += t.w.sharedConnection(s.name()) // there are some hundred questions
	}
	if err != nil {
		return nil, nil, err
	}
	variables = map[string]string{}
	for line := range strings.Lines(conf) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && !strings.HasPrefix(name, "#") {
			variables[name] = strings.Trim(value, `"`)
		}
	}
	return variables, leave, t.w.home(s.name(), netrc, sshConfig)
}

// check compares the answers with what the user may have: the archives and siginfo files of the recipes that they may read.
func (t *sampleTrial) check(v view, answers map[string]answer, r *row) (err error) {
	for _, name := range t.names {
		want := answer{there: "no", digest: "-"}
		if v.reads(recipeOf(name)) {
			want = answer{there: "yes", digest: t.digests[name]}
		}
		got := answers[name]
		if got != want {
			err = errors.Join(err, fmt.Errorf("%s: %v, want %v", name, got, want))
		}
		r.result.wanted++
		if got.there == "yes" {
			r.result.mirrors++
		} else {
			r.result.missed++
		}
		if got.digest == t.digests[name] {
			r.same++
		}
	}
	return err
}
