package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// hashBuild is a build with hash equivalence to try. Its first recipe is another than the published one, but its output is not: with a
// server that says so the other recipes come from the cache, and without one they are built again.
type hashBuild struct {
	// way is how BitBake reaches the server: directly or as the upstream of its own, and by which transport.
	way  string
	user string // who it is there
	// mirrored is whose mirror it has, empty for the published cache itself, as a directory.
	mirrored string
	early    bool // before the cache is published
	killed   bool // the gate is, in the midst of the build, and started again
}

func (b hashBuild) name() string {
	name := "hash-" + b.way + "-" + b.user
	if b.early {
		name += "-early"
	}
	if b.killed {
		name += "-killed"
	}
	return name
}

// The ways to a server.
const (
	reference    = "reference" // to BitBake's own server: what there is to gain
	alone        = "alone"     // BB_HASHSERVE = "auto" and nothing else: what there is to lose
	directLines  = "lines"     // BB_HASHSERVE = "HOST:PORT" and a login
	directSocket = "wss"
	autoLines    = "auto-lines" // BB_HASHSERVE = "auto" and BB_HASHSERVE_UPSTREAM
	autoSocket   = "auto-wss"
)

// peer reports whether the build has nothing to do with the gate.
func (b hashBuild) peer() bool { return b.way == reference || b.way == alone }

// compiles returns what is compiled: the first recipe, which is another, and what the user may not be told of. Before anything is
// published nobody is told anything.
func (b hashBuild) compiles() (list []string) {
	for _, r := range recipes() {
		told := !b.early && (b.user != "bob" || r.public) && b.user != "stranger" && b.user != "nobody"
		if r.name == "hello-native" || !told {
			list = append(list, r.name)
		}
	}
	slices.Sort(list)
	return list
}

// hashCases are the builds, in order. What a stranger is refused comes last, as ever. The strangers have the mirror of one who may read
// all: only what the server says to them decides.
func hashCases() []hashBuild {
	return []hashBuild{
		{way: reference, user: "anybody"},
		{way: alone, user: "nobody"},
		{way: directLines, user: "alice", early: true},
		{way: directLines, user: "alice", mirrored: "alice"},
		{way: directSocket, user: "alice", mirrored: "alice"},
		{way: autoLines, user: "alice", mirrored: "alice"},
		{way: autoSocket, user: "alice", mirrored: "alice"},
		{way: directLines, user: "bob", mirrored: "bob"},
		{way: directSocket, user: "bob", mirrored: "bob"},
		{way: autoSocket, user: "bob", mirrored: "bob"},
		{way: directLines, user: "ci", mirrored: "alice"},
		{way: directLines, user: "alice", killed: true},
		{way: directSocket, user: "alice", killed: true},
		{way: autoSocket, user: "alice", killed: true},
		{way: directLines, user: "nobody", mirrored: "alice"},
		{way: directSocket, user: "nobody", mirrored: "alice"},
		{way: autoSocket, user: "nobody", mirrored: "alice"},
		{way: directLines, user: "stranger", mirrored: "alice"},
		{way: directSocket, user: "stranger", mirrored: "alice"},
		{way: autoSocket, user: "stranger", mirrored: "alice"},
	}
}

// hashTrial is a gate with a hash equivalence server, and BitBake's own server.
type hashTrial struct {
	*trial
	lines, alices string          // addresses of listeners; at the second everybody is alice
	reference     string          // address of BitBake's own
	process       *server.Process // BitBake's own
	published     bool            // the cache is
}

// tryHashes makes builds with hash equivalence.
func tryHashes(ctx context.Context, w *world, cases []hashBuild) (rows []row, err error) {
	if len(cases) == 0 {
		return nil, nil
	}
	t, err := newHashTrial(w)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	for _, b := range cases {
		if err := t.equip(ctx, b); err != nil {
			return rows, err
		}
		r, faults := t.try(ctx, b)
		rows, err = append(rows, r), errors.Join(err, faults)
	}
	return rows, err
}

func newHashTrial(w *world) (*hashTrial, error) {
	t := &hashTrial{trial: &trial{w: w, cache: w.path("builds/hash-first-lines/sstate")}}
	for _, address := range []*string{&t.lines, &t.alices, &t.reference} {
		var err error
		if *address, err = loopback.Free(); err != nil {
			return nil, err
		}
	}
	return t, w.home("nobody", "", "")
}

// equip starts what a build needs and was not needed yet: a server, in which one build has reported all it did, and the cache of that
// build in the gate.
func (t *hashTrial) equip(ctx context.Context, b hashBuild) error {
	switch {
	case b.peer() && t.process == nil:
		var err error
		if t.process, err = t.w.reference.Start(ctx, t.w.dir, "reference", t.reference); err != nil {
			return err
		}
		return t.report(ctx, hashBuild{way: reference, user: "anybody"})
	case b.peer():
		return nil
	case t.gate == nil:
		if err := t.openGate(ctx); err != nil {
			return err
		}
		if err := t.report(ctx, hashBuild{way: directLines, user: "ci"}); err != nil {
			return err
		}
	}
	if b.early || t.published {
		return nil
	}
	t.published = true
	return t.gate.push(ctx, t.cache)
}

// report builds as CI does that fills a cache: what is built is reported, and then published.
func (t *hashTrial) report(ctx context.Context, b hashBuild) error {
	o := order{name: "hash-first-" + b.way, home: t.w.path("homes/nobody")}
	var err error
	if o.conf, err = t.server(b); err != nil {
		return err
	}
	r, err := t.w.build(ctx, o)
	if err == nil && (r.exit != 0 || r.traceback || len(r.warnings) > 0 || len(r.compiled) != len(recipes())) {
		err = fmt.Errorf("exit code %d, warnings %q, errors %q", r.exit, r.warnings, r.errors)
	}
	if err != nil {
		return fmt.Errorf("first build with hash equivalence, %s: %w; see %s/output (-keep)", b.way, err, r.dir)
	}
	fmt.Fprintf(os.Stderr, "built %d recipes and reported them, %s, in %.0f s\n", len(r.compiled), b.way, r.took.Seconds())
	t.output, err = os.ReadFile(outputOf(r.dir))
	return err
}

const hashListeners = `hash:
  listeners:
    - {listen: %q, zone: main}
    - {listen: %q, zone: main, principal: {forge: git.example.com, id: alice}}
zones:
  - name: main
`

// openGate starts the quickstart, for its keys and tokens, and then its gate again with listeners for hash equivalence.
func (t *hashTrial) openGate(ctx context.Context) (err error) {
	if t.gate, err = startGate(ctx, t.w, "hashgate"); err != nil {
		return err
	}
	t.gate.stop()
	text, err := os.ReadFile(t.gate.path("lychgate.yaml"))
	if err != nil {
		return err
	}
	before, after, ok := strings.Cut(string(text), "zones:\n  - name: main\n")
	if !ok {
		return errors.New("the quickstart's configuration has no zone main")
	}
	config := before + fmt.Sprintf(hashListeners, t.lines, t.alices) + after
	if err := os.WriteFile(t.gate.path("hash.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	return t.gate.serveConfig(ctx, "hash.yaml")
}

func (t *hashTrial) stop() {
	if t.process != nil {
		t.process.Stop()
	}
	if t.gate != nil {
		t.gate.stop()
	}
}

// server is what the build's conf/local.conf says of its hash equivalence server.
func (t *hashTrial) server(b hashBuild) (string, error) {
	if b.way == alone {
		return "BB_HASHSERVE = \"auto\"\n", nil
	}
	if b.way == reference {
		return "BB_HASHSERVE = \"" + t.reference + "\"\n", nil
	}
	token, err := t.token(b.user)
	if err != nil {
		return "", err
	}
	socket := "wss://" + t.gate.https + "/hash/main"
	if token != "" {
		socket = "wss://any:" + token + "@" + t.gate.https + "/hash/main"
	}
	upstream := "BB_HASHSERVE = \"auto\"\nBB_HASHSERVE_UPSTREAM = \"" // has no login but in an address
	switch b.way {
	case directSocket:
		return "BB_HASHSERVE = \"" + socket + "\"\n", nil
	case autoSocket:
		return upstream + socket + "\"\n", nil
	case autoLines:
		return upstream + t.alices + "\"\n", nil
	}
	conf := "BB_HASHSERVE = \"" + t.lines + "\"\n"
	if token != "" {
		conf += "BB_HASHSERVE_USERNAME = \"any\"\nBB_HASHSERVE_PASSWORD = \"" + token + "\"\n"
	}
	return conf, nil
}

// token is what a user shows: a stranger a wrong one, nobody none.
func (t *hashTrial) token(user string) (string, error) {
	switch user {
	case "nobody", "anybody":
		return "", nil
	case "stranger":
		return strings.Repeat("x", 40), nil
	}
	return t.gate.token(user)
}

// slow is how long the first recipe takes in a build during which the gate is killed and started again.
const slow = 4 * time.Second

// try makes one build and compares it with what is documented: no build fails, or has an error, for what a server does not say.
func (t *hashTrial) try(ctx context.Context, b hashBuild) (row, error) {
	r := row{label: b.name()}
	o, err := t.order(b)
	if err != nil {
		return r, err
	}
	var killed chan error
	if b.killed {
		w := &watcher{wanted: []byte("hello-native-1.0-r0: task do_compile: Started"), seen: make(chan struct{})}
		o.watch = w
		killed = make(chan error, 1)
		go func() { killed <- t.killOn(ctx, w.seen) }()
	}
	r.result, err = t.w.build(ctx, o)
	if b.killed && err == nil {
		select {
		case err = <-killed:
		case <-time.After(time.Minute):
			err = errors.New("the build ended before its first recipe began")
		}
	}
	if err == nil {
		err = t.check(b, r.result)
	}
	fmt.Fprintf(os.Stderr, "%s: compiled %d of %d, exit code %d, %.0f s\n", b.name(), len(r.result.compiled), len(recipes()), r.result.exit, r.result.took.Seconds())
	if err != nil {
		err = fmt.Errorf("%s: %w; see %s/output (-keep)", b.name(), err, r.result.dir)
	}
	return r, err
}

// order is the build's configuration.
func (t *hashTrial) order(b hashBuild) (order, error) {
	o := order{name: b.name(), home: t.w.path("homes/" + b.name())}
	if t.gate != nil {
		o.ca = t.gate.path("ca.pem")
	}
	conf, err := t.server(b)
	if err != nil {
		return o, err
	}
	pause, netrc := time.Duration(0), ""
	if b.killed {
		pause = slow
	}
	// Output is the same whatever a recipe waits for.
	o.conf = conf + fmt.Sprintf("REMARK:pn-hello-native = \"sleep %.0f\"\n", pause.Seconds())
	switch {
	case b.mirrored != "":
		token, err := t.token(b.mirrored)
		if err != nil {
			return o, err
		}
		netrc = "machine 127.0.0.1 login token password " + token
		o.conf += t.gate.httpsMirror()
	case b.peer():
		o.conf += "SSTATE_MIRRORS = \"file://.* file://" + t.w.path("builds/hash-first-reference/sstate") + "/PATH\"\n"
	default:
		o.conf += "SSTATE_MIRRORS = \"file://.* file://" + t.cache + "/PATH\"\n"
	}
	return o, t.w.home(b.name(), netrc, "")
}

// check compares a build with what is documented.
func (t *hashTrial) check(b hashBuild, r result) error {
	var faults []error
	if r.exit != 0 || len(r.errors) > 0 || !r.succeeded {
		faults = append(faults, fmt.Errorf("exit code %d, errors %q", r.exit, r.errors))
	}
	log, err := os.ReadFile(filepath.Join(r.dir, "bitbake-cookerdaemon.log"))
	if r.traceback || bytes.Contains(log, []byte("Traceback (most recent call last)")) {
		faults = append(faults, errors.New("a traceback of Python"))
	}
	faults = append(faults, err)
	slices.Sort(r.compiled)
	if !b.killed && !slices.Equal(r.compiled, b.compiles()) { // with a gate that comes and goes, any or all may be built again
		faults = append(faults, fmt.Errorf("compiled %q, want %q", r.compiled, b.compiles()))
	}
	output, err := os.ReadFile(outputOf(r.dir))
	if err == nil && !bytes.Equal(output, t.output) {
		err = fmt.Errorf("the build's output is %q, want %q", output, t.output)
	}
	faults = append(faults, err)
	return errors.Join(faults...)
}

// killOn kills the gate when seen is closed, and starts it again a second later.
func (t *hashTrial) killOn(ctx context.Context, seen <-chan struct{}) error {
	select {
	case <-seen:
	case <-ctx.Done():
		return ctx.Err()
	}
	t.gate.process.Kill()
	time.Sleep(time.Second) // BitBake shall meet a gate that is away
	return t.gate.serveConfig(ctx, "hash.yaml")
}

// watcher closes seen once wanted was written to it.
type watcher struct {
	wanted []byte
	seen   chan struct{}
	once   sync.Once
	tail   []byte
}

func (w *watcher) Write(text []byte) (int, error) {
	w.tail = append(w.tail, text...)
	if bytes.Contains(w.tail, w.wanted) {
		w.once.Do(func() { close(w.seen) })
	}
	w.tail = w.tail[max(0, len(w.tail)-len(w.wanted)):]
	return len(text), nil
}
