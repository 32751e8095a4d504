package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pushBuild is a build that is pushed as it goes, by lychgate.bbclass.
type pushBuild struct {
	way  string
	conf string // beside LYCHGATE_PUSH
	// says is what BitBake's output must have, and how many warnings.
	says     string
	warnings int
	// during is done once objects were published and slow-native is being compiled, which lasts until then; nil for a build without it.
	during func(b *pushing) error
	exit   func(code int) bool // nil: it is 0
	away   bool                // the gate cannot be reached
	none   bool                // nothing is started
}

func (b pushBuild) name() string { return "layer-push-" + b.way }

// pushCases are the builds.
func pushCases() []pushBuild {
	const resident = "BB_SERVER_TIMEOUT = \"30\"\n"
	return []pushBuild{
		{way: "waiting", conf: "LYCHGATE_PUSH_WAIT = \"120\"\n", says: "objects pushed, see "},
		{way: "away", away: true, says: "objects pushed so far", warnings: -1},
		{way: "missing", conf: "LYCHGATE_PROGRAM = \"no-such-lychgate\"\n", says: "this build is not pushed", warnings: 1, none: true},
		{way: "interrupted", warnings: -1, during: (*pushing).interrupt, exit: func(code int) bool { return code != 0 }},
		{way: "killed", during: (*pushing).kill, exit: func(code int) bool { return code != 0 }},
		{way: "resident", conf: resident, says: "objects pushed so far", during: (*pushing).letGo},
		{way: "resident", conf: resident + "REMARK = \"# again\"\n", says: "objects pushed so far", during: (*pushing).letGo},
	}
}

// pushing is such a build under way.
type pushing struct {
	pushBuild
	l   *layerTrial
	dir string // of the build
	pid int    // of BitBake's command

	mu     sync.Mutex // guards output
	output bytes.Buffer
}

// Write takes BitBake's output.
func (b *pushing) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.output.Write(p)
}

func (b *pushing) said(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.output.String(), text)
}

func (b *pushing) path(name string) string { return filepath.Join(b.dir, name) }

// await waits until something is so.
func (b *pushing) await(ctx context.Context, what string, is func() bool) error {
	for end := time.Now().Add(3 * time.Minute); !is(); time.Sleep(100 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("%s: waited in vain for: %s", b.name(), what)
		}
	}
	return nil
}

// slowText is a recipe that is being compiled until somebody lets it go. What it uses is complete by then.
const slowText = `DEPENDS = "pair-native modules-native"
REMARK ?= ":"
do_compile() {
	${REMARK}
	while [ -e ${TOPDIR}/hold ]; do sleep 0.2; done
}
inherit native
`

// tryPush makes one build, and checks what is documented of pushing as it goes.
func (l *layerTrial) tryPush(ctx context.Context, build pushBuild) error {
	b := &pushing{pushBuild: build, l: l, dir: l.w.path("builds/" + build.name())}
	o, err := b.order()
	if err != nil {
		return err
	}
	var beside sync.WaitGroup
	var problem error
	o.started = func(pid int) {
		if b.pid = pid; b.during != nil {
			beside.Go(func() { problem = b.hold(ctx) })
		}
	}
	r, err := l.w.build(ctx, o)
	beside.Wait()
	fmt.Fprintf(os.Stderr, "%s: exit code %d, %.0f s\n", b.name(), r.exit, r.took.Seconds())
	if err := errors.Join(err, problem); err != nil {
		return err
	}
	return errors.Join(b.checkOutput(r), b.checkPushed(ctx), b.clear())
}

// order says what to build: two recipes, and the slow one if something is to happen meanwhile.
func (b *pushing) order() (order, error) {
	own, err := filepath.Abs("layers/meta-lychgate")
	if err != nil {
		return order{}, err
	}
	g := b.l.gate
	address := g.https
	if b.away {
		address = "127.0.0.1:1"
	}
	conf := fmt.Sprintf("INHERIT += \"lychgate\"\nLYCHGATE_PUSH = \"1\"\nLYCHGATE_PROGRAM = \"%s\"\n", b.l.w.o.gate) +
		fmt.Sprintf("LYCHGATE_PUSH_ARGS = \"--gate https://%s --ca %s --token-file %s --key %s\"\n", address, g.path("ca.pem"), g.path("ci.token"), g.path("ci.key"))
	o := order{
		name: b.name(), home: b.l.w.path("homes/layer"), conf: conf + b.conf, watch: b, targets: []string{"pair-native", "modules-native"},
		layers: []string{b.l.w.path("layers/meta-open"), b.l.w.path("layers/meta-closed"), b.l.w.path("layers/meta-slow"), own},
	}
	if b.during != nil {
		o.targets = []string{"slow-native"}
	}
	return o, b.l.w.write("builds/"+b.name()+"/hold", "")
}

// hold does what is to happen during the build.
func (b *pushing) hold(ctx context.Context) error {
	defer os.Remove(b.path("hold")) // a task that is left runs on otherwise
	err := b.await(ctx, "slow-native is compiled", func() bool { return b.said("recipe slow-native-1.0-r0: task do_compile: Started") })
	if err != nil {
		return err
	}
	const said, nothing = " objects pushed so far, ", " 0 objects pushed so far, 0 were there"
	if err := b.await(ctx, "objects are published while the build goes on", func() bool {
		log, _ := os.ReadFile(b.path("tmp/lychgate/push.log"))
		return strings.Contains(strings.ReplaceAll(string(log), nothing, ""), said)
	}); err != nil {
		return err
	}
	if n := b.followers(); n != 1 {
		return fmt.Errorf("%d processes push what the build makes", n)
	}
	return b.during(b)
}

// followers counts the processes that push from the build's cache.
func (b *pushing) followers() (n int) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		args := strings.Split(string(text), "\x00")
		if slices.Contains(args, "--follow") && slices.Contains(args, b.path("sstate")) {
			n++
		}
	}
	return n
}

func (b *pushing) letGo() error { return os.Remove(b.path("hold")) }

// interrupt is Ctrl-C, again and again until BitBake ends: after the first it waits for the tasks that run.
func (b *pushing) interrupt() error {
	for range 30 {
		if err := syscall.Kill(-b.pid, syscall.SIGINT); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		time.Sleep(3 * time.Second)
	}
	return errors.New("BitBake does not end")
}

// kill ends BitBake's server and its command, and lets neither do anything about it.
func (b *pushing) kill() error {
	text, err := os.ReadFile(b.path("bitbake.lock"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("bitbake.lock: %w", err)
	}
	return errors.Join(syscall.Kill(pid, syscall.SIGKILL), syscall.Kill(b.pid, syscall.SIGKILL))
}

// clear ends what outlives a server that was killed: its hash equivalence server, which holds the lock of the build directory.
func (b *pushing) clear() error {
	if b.way != "killed" {
		return nil
	}
	var err error
	names, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, name := range names {
		if target, _ := os.Readlink(name); target == b.path("bitbake.lock") {
			pid, _ := strconv.Atoi(strings.Split(name, "/")[2]) // digits, as globbed
			if problem := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(problem, syscall.ESRCH) {
				err = errors.Join(err, problem)
			}
		}
	}
	return err
}

// checkOutput looks at what BitBake said.
func (b *pushing) checkOutput(r result) error {
	wanted := b.exit
	if wanted == nil {
		wanted = func(code int) bool { return code == 0 }
	}
	var faults []error
	if !wanted(r.exit) || r.traceback || len(r.errors) > 0 && b.exit == nil {
		faults = append(faults, fmt.Errorf("exit code %d, traceback %v, errors %q", r.exit, r.traceback, r.errors))
	}
	if b.warnings >= 0 && len(r.warnings) != b.warnings {
		faults = append(faults, fmt.Errorf("warnings %q", r.warnings))
	}
	if !b.said(b.says) {
		faults = append(faults, fmt.Errorf("BitBake's output does not say %q", b.says))
	}
	return errors.Join(faults...)
}

// checkPushed waits for the push to end by itself, and asks the gate for all that the build recorded.
func (b *pushing) checkPushed(ctx context.Context) error {
	lock := b.path("tmp/lychgate/records/push.lock")
	if b.none {
		if _, err := os.Stat(lock); !errors.Is(err, os.ErrNotExist) {
			return errors.New("a push was started")
		}
		return nil
	}
	if err := errors.Join(awaitLock(lock), b.await(ctx, "the push ends", func() bool { return b.followers() == 0 })); err != nil {
		return err
	}
	log, err := os.ReadFile(b.path("tmp/lychgate/push.log"))
	if err != nil || !strings.Contains(string(log), " not derived; ") {
		return fmt.Errorf("the log has no summary: %w: %s", err, log)
	}
	if b.away {
		return nil
	}
	names, err := objects(b.path("sstate"), false)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !recorded(b.path("tmp/lychgate/records"), name) })
	present, err := b.l.present(ctx, "alice", names)
	if err != nil {
		return err
	}
	if len(names) < 6 || len(present) != len(names) {
		return fmt.Errorf("alice may read %d objects of the %d that are complete: %s", len(present), len(names), log)
	}
	return nil
}

// recorded reports whether an object has a record.
func recorded(records, name string) bool {
	_, err := os.Stat(recordOf(records, name))
	return err == nil
}
