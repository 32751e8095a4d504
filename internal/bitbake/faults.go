package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// faultBuild is a build during which something goes wrong between BitBake and the bytes, and one after it, when all is well again.
type faultBuild struct {
	scheme string // agent or https
	fault
}

func (b faultBuild) name() string { return "faults-" + b.fault.name + "-" + b.scheme }

// fault is something that goes wrong.
type fault struct {
	name   string
	toxics []toxic // what the network is like, from the beginning to the end of the build
	// before is done before the agent starts, beside when it has, strike when the build has fetched an object, heal before the build after it, leave in
	// the end.
	before, beside, strike, heal func(*faultRun, context.Context) error
	leave                        func(*faultRun) error
	flags                        func(*faultRun) []string // more of the agent's command line; nil: a token in a file
	// all is whether the agent finds every object in spite of the fault.
	all bool
	// says is what agent status says after the build, and what one line of its log says; empty: there is no warning.
	says string
	// ill is whether agent status says after the build that something is wrong now.
	ill bool
	// agentOnly is for what is the agent's own, or has BitBake wait for minutes without it.
	agentOnly bool
}

// faults are what goes wrong, in order.
func faults() []fault {
	return []fault{
		{name: "none", all: true},
		{name: "restarted", strike: (*faultRun).restart, all: true},
		{name: "killed", strike: (*faultRun).kill, says: "the gate does not answer; nothing is found until it does: "},
		{name: "revoked", strike: (*faultRun).revoke, heal: (*faultRun).signIn, ill: true, says: "the gate does not take the token: it has ended or was revoked; run lychgate login"},
		{name: "expired", strike: (*faultRun).expire, heal: (*faultRun).signIn, ill: true, says: "the gate does not take the token: it has ended or was revoked; run lychgate login"},
		{name: "renewed", strike: (*faultRun).revokeAll, flags: (*faultRun).byKey, all: true, agentOnly: true},
		{name: "slow", toxics: []toxic{{"far", "latency", map[string]int{"latency": 150, "jitter": 50}}, {"thin", "bandwidth", map[string]int{"rate": 2048}}}, all: true},
		{name: "cut", toxics: []toxic{{"short", "limit_data", map[string]int{"bytes": 1_500_000}}}, all: true},
		{name: "noisy", before: (*faultRun).makeNoise, heal: (*faultRun).wasNoisy, all: true},
		{name: "silent", strike: (*faultRun).silence, agentOnly: true, ill: true, says: "the gate does not answer; nothing is found until it does: "},
		{name: "rotten", before: (*faultRun).rot, heal: (*faultRun).rot, says: "an object is withheld; tell who runs the gate: "},
		{name: "full", before: (*faultRun).mount, heal: (*faultRun).enlarge, leave: (*faultRun).unmount, flags: (*faultRun).onSmallDisk, agentOnly: true, says: "objects cannot be fetched, since the spool's disk fails; make room there, or choose another with --spool: "},
		{name: "stalled", beside: (*faultRun).stall, heal: (*faultRun).hangUp, all: true},
	}
}

// faultCases are the builds. Those over https show what is BitBake's own: it may fail there.
func faultCases() (list []faultBuild) {
	for _, f := range faults() {
		list = append(list, faultBuild{"agent", f})
		if !f.agentOnly {
			list = append(list, faultBuild{"https", f})
		}
	}
	return list
}

// faultTrial is a gate with a published cache whose objects take a while to fetch.
type faultTrial struct {
	w      *world
	gate   *gate
	cache  string // as published
	layers []string
}

// bulk are the recipes. Each is a file of its own size that does not compress, which is its repository.
func bulk() (names []string) {
	for i := range 10 {
		names = append(names, fmt.Sprintf("bulk-%02d-native", i))
	}
	return names
}

// bulkContent is the file of a recipe, 1 to 4 MiB.
func bulkContent(name string) []byte {
	number, _ := strconv.Atoi(name[5:7]) // as bulk made it
	content := make([]byte, (1+number%4)<<20)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name)))).Read(content) // it never fails
	return content
}

const bulkText = `LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
SRC_URI = "git://git.example.com/public/%s.git;protocol=https;branch=main"
SRCREV = "%s"
INHIBIT_DEFAULT_DEPS = "1"
do_install() {
	install -D -m 0644 ${S}/content.bin ${D}${datadir}/${PN}.bin
}
inherit native
`

// tryFaults makes the builds, and prints what came of them.
func tryFaults(ctx context.Context, w *world, builds []faultBuild) (err error) {
	if len(builds) == 0 {
		return nil
	}
	t, err := newFaultTrial(ctx, w)
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	defer t.gate.stop()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "build\twanted\tfetched\twrong\tcompiled\texit\tERROR\tseconds\tthe agent says")
	for _, b := range builds {
		if ctx.Err() != nil {
			break
		}
		line, fault := t.try(ctx, b)
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w; see %s/output (-keep)", b.name(), fault, w.path("builds/"+b.name())))
		}
		fmt.Fprintln(os.Stderr, strings.ReplaceAll(line, "\t", " "), fault)
		fmt.Fprintln(table, line)
	}
	return errors.Join(err, table.Flush())
}

// newFaultTrial makes the recipes, builds them, and publishes what came of it.
func newFaultTrial(ctx context.Context, w *world) (*faultTrial, error) {
	t := &faultTrial{w: w, cache: w.path("builds/faults-first/sstate"), layers: []string{w.path("bulk-layer")}}
	series, err := w.series()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.write("bulk-layer/conf/layer.conf", fmt.Sprintf(layerConf, series)), w.home("faults-first", "", "")); err != nil {
		return nil, err
	}
	for _, name := range bulk() {
		if err := t.addBulk(ctx, name); err != nil {
			return nil, fmt.Errorf("recipe %s: %w", name, err)
		}
	}
	r, err := w.build(ctx, order{name: "faults-first", home: w.path("homes/faults-first"), layers: t.layers, targets: bulk()})
	if err != nil {
		return nil, err
	}
	if r.exit != 0 || len(r.compiled) != len(bulk()) {
		return nil, fmt.Errorf("first build: exit code %d, %d compiled, see %s/output: %q", r.exit, len(r.compiled), r.dir, r.errors)
	}
	if t.gate, err = startGate(ctx, w, "faults-gate"); err != nil {
		return nil, err
	}
	if err := t.gate.push(ctx, t.cache); err != nil {
		t.gate.stop()
		return nil, err
	}
	return t, nil
}

func (t *faultTrial) addBulk(ctx context.Context, name string) error {
	tree := "repositories/public/" + name + ".git"
	if err := t.w.write(tree+"/content.bin", string(bulkContent(name))); err != nil {
		return err
	}
	rev, err := t.w.commit(ctx, tree)
	if err != nil {
		return err
	}
	return t.w.write("bulk-layer/recipes/"+name+"_1.0.bb", fmt.Sprintf(bulkText, name, rev))
}

// faultRun is one build with a fault, and what stands around it.
type faultRun struct {
	*faultTrial
	faultBuild
	network *network

	// The user's token: its id, and where it is.
	id, tokenFile string
	// The agent, where it is asked, and what BitBake is told of it; over https there is none, and BitBake is told of the gate.
	agent         *server.Process
	control, conf string
	stalled       []net.Conn // downloads
}

// try makes one build, and says what came of it in a line of the table.
func (t *faultTrial) try(ctx context.Context, b faultBuild) (line string, err error) {
	r := &faultRun{faultTrial: t, faultBuild: b, tokenFile: t.w.path("tokens/" + b.name())}
	if r.network, err = startNetwork(ctx, t.w, t.gate.https); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.network.stop()) }()
	if b.fault.leave != nil {
		defer func() { err = errors.Join(err, b.fault.leave(r)) }()
	}
	if err := r.prepare(ctx); err != nil {
		return "", err
	}
	if r.agent != nil {
		defer r.agent.Stop()
	}
	during, err := r.during(ctx)
	if err != nil {
		return "", err
	}
	k, faults := r.account(ctx, during)
	said := ""
	switch {
	case b.scheme == "https" && b.fault.name == "rotten": // the gate does not verify again what lies in its own directory, and BitBake never does
		if k.wrong == 0 {
			faults = errors.Join(faults, errors.New("no wrong bytes came"))
		}
	case b.scheme == "https":
		if k.wrong > 0 {
			faults = errors.Join(faults, fmt.Errorf("%d objects of its cache have wrong bytes", k.wrong))
		}
	default:
		var fault error
		said, fault = r.checkAgent(ctx)
		faults = errors.Join(faults, r.checkBuild(during, k, b.all), fault)
	}
	line = fmt.Sprintf("%s\t%d\t%d\t%d\t%d of %d\t%d\t%d\t%.0f\t%s", b.name(), during.wanted, k.fetched, k.wrong, len(during.compiled), len(bulk()), during.exit, len(during.errors), during.took.Seconds(), said)
	return line, errors.Join(faults, r.after(ctx))
}

// prepare has everything stand that the build needs.
func (r *faultRun) prepare(ctx context.Context) error {
	if err := r.signIn(ctx); err != nil {
		return err
	}
	if err := r.do(ctx, r.before); err != nil {
		return err
	}
	if r.scheme == "agent" {
		if err := r.startAgent(ctx); err != nil {
			return err
		}
	} else {
		r.conf = fmt.Sprintf("SSTATE_MIRRORS = \"file://.* https://%s/sstate/main/PATH;downloadfilename=PATH\"\n", r.network.address) +
			fmt.Sprintf("SSL_CERT_FILE = \"%[1]s\"\nFETCHCMD_wget = \"wget --tries=2 --timeout=100 --ca-certificate=%[1]s\"\n", r.gate.path("ca.pem"))
	}
	toxics := r.toxics
	if r.strike != nil { // it is to come in the midst
		rate := 4096
		if r.scheme == "https" { // where every object has a connection of its own
			rate = 512
		}
		toxics = append(slices.Clone(toxics), toxic{"thin", "bandwidth", map[string]int{"rate": rate}})
	}
	return errors.Join(r.do(ctx, r.beside), r.network.poison(ctx, toxics...))
}

// do does what there is to do.
func (r *faultRun) do(ctx context.Context, what func(*faultRun, context.Context) error) error {
	if what == nil {
		return nil
	}
	return what(r, ctx)
}

// during builds, and has the fault strike.
func (r *faultRun) during(ctx context.Context) (result, error) {
	ended, struck := make(chan struct{}), make(chan error, 1)
	if r.strike == nil {
		struck <- nil
	} else {
		go func() { struck <- r.await(ctx, ended) }()
	}
	got, err := r.build(ctx, r.name())
	close(ended)
	return got, errors.Join(err, <-struck)
}

// await has the fault strike once an object has been fetched.
func (r *faultRun) await(ctx context.Context, ended <-chan struct{}) error {
	for {
		if names, _ := filepath.Glob(r.w.path("builds/" + r.name() + "/sstate/*/*/*/*_populate_sysroot.tar.zst")); len(names) > 0 {
			return r.strike(r, ctx)
		}
		select {
		case <-ended:
			return errors.New("nothing was fetched before the build ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// after makes all well, and has the same agent serve a build that finds everything.
func (r *faultRun) after(ctx context.Context) error {
	if err := errors.Join(r.network.heal(ctx), r.do(ctx, r.heal)); err != nil || r.scheme != "agent" {
		return err
	}
	time.Sleep(lostPause)
	b, err := r.build(ctx, r.name()+"-after")
	if err != nil {
		return err
	}
	k, err := r.account(ctx, b)
	if err = errors.Join(err, r.checkBuild(b, k, true)); err != nil {
		return fmt.Errorf("the build after it: %w", err)
	}
	return nil
}

// lostPause is for how long, at the most, an agent does not ask a gate that it has lost.
const lostPause = 15 * time.Second

func (r *faultRun) build(ctx context.Context, name string) (result, error) {
	return r.w.build(ctx, order{name: name, home: r.w.path("homes/" + r.name()), conf: r.conf, ca: r.gate.path("ca.pem"), layers: r.layers, targets: bulk()})
}

// kept is what a build has in its cache of what it did not make by itself, in archives, and how many archives and siginfo files are wrong: what
// was fetched is to be what was published, byte by byte, and what was made, which has other bytes, is to be whole.
type kept struct{ fetched, wrong int }

// account looks through a build's cache. What its recipes came to is compared with their sources, in whichever way it was come by.
func (r *faultRun) account(ctx context.Context, b result) (k kept, err error) {
	sstate := filepath.Join(b.dir, "sstate")
	output, err := os.ReadFile(filepath.Join(b.dir, "output"))
	if err != nil {
		return k, err
	}
	names, err := objects(sstate, true)
	if err != nil {
		return k, err
	}
	for _, name := range names {
		archive := strings.TrimSuffix(name, ".siginfo")
		made := bytes.Contains(output, fmt.Appendf(nil, "NOTE: recipe %s-1.0-r0: task do_%s: Succeeded\n", recipeOf(name), taskOf(archive)))
		switch {
		case made && archive != name:
		case made && command(ctx, sstate, nil, "pzstd", "--quiet", "--test", name) != nil:
			k.wrong++
		case made:
		default:
			if _, fault := sameBytes(r.cache, sstate, []string{name}); fault != nil {
				k.wrong++
			} else if archive == name {
				k.fetched++
			}
		}
	}
	return k, r.checkContents(b)
}

// checkContents compares what the recipes came to with their sources.
func (r *faultRun) checkContents(b result) error {
	var faults []error
	for _, name := range bulk() {
		content, err := os.ReadFile(filepath.Join(b.dir, "tmp/sysroots-components/x86_64", name, "usr/share", name+".bin"))
		switch {
		case err != nil && b.exit == 0:
			faults = append(faults, err)
		case err == nil && !bytes.Equal(content, bulkContent(name)):
			faults = append(faults, fmt.Errorf("%s has other bytes", name))
		}
	}
	return errors.Join(faults...)
}

// taskOf returns the task of an archive, without "do_": "..._TASK.tar.zst" behind 64 hex digits.
func taskOf(name string) string {
	return strings.TrimSuffix(name[strings.LastIndexByte(name, ':')+1+64+1:], ".tar.zst")
}

// checkBuild compares a build with what is to come of it.
func (r *faultRun) checkBuild(b result, k kept, all bool) error {
	var faults []error
	log, err := os.ReadFile(filepath.Join(b.dir, "bitbake-cookerdaemon.log"))
	traceback := b.traceback || bytes.Contains(log, []byte("Traceback (most recent call last)"))
	if err != nil || b.exit != 0 || len(b.errors) > 0 || traceback || !b.succeeded {
		faults = append(faults, fmt.Errorf("exit code %d, a traceback: %v, errors: %q: %w", b.exit, traceback, b.errors, err))
	}
	if k.wrong > 0 {
		faults = append(faults, fmt.Errorf("%d objects of its cache have wrong bytes", k.wrong))
	}
	switch {
	case b.wanted != 3*len(bulk()):
		faults = append(faults, fmt.Errorf("%d objects wanted", b.wanted))
	case all && (b.missed > 0 || len(b.compiled) > 0):
		faults = append(faults, fmt.Errorf("%d objects fetched, %d missed, %q compiled", k.fetched, b.missed, b.compiled))
	case !all && len(b.compiled) == 0:
		faults = append(faults, errors.New("all was fetched, nothing went wrong"))
	}
	return errors.Join(faults...)
}

// checkAgent compares what the agent tells with what is to be told, and returns it.
func (r *faultRun) checkAgent(ctx context.Context) (string, error) {
	text, exit, err := r.status(ctx)
	if err != nil {
		return "", err
	}
	log, err := os.ReadFile(r.w.path(r.name() + "-agent.log"))
	if err != nil {
		return "", err
	}
	warned := regexp.MustCompile(`(?m)^.*level=WARN.*$`).FindAllString(string(log), -1)
	var faults []error
	if r.ill != (exit == 3) {
		faults = append(faults, fmt.Errorf("exit code %d of agent status", exit))
	}
	if r.says == "" {
		if len(warned) > 0 {
			faults = append(faults, fmt.Errorf("the agent warns: %q", warned))
		}
		text, err := r.size(ctx)
		return text, errors.Join(append(faults, err)...)
	}
	at := strings.Index(text, r.says)
	if at < 0 {
		return "", errors.Join(append(faults, fmt.Errorf("agent status says:\n%s", text))...)
	}
	if n := len(slices.DeleteFunc(warned, func(line string) bool { return !strings.Contains(line, r.says) })); n != 1 {
		faults = append(faults, fmt.Errorf("the agent warns of it %d times: %s", n, log))
	}
	line, _, _ := strings.Cut(text[at:], "\n")
	return line, errors.Join(faults...)
}

// startAgent starts the build's agent.
func (r *faultRun) startAgent(ctx context.Context) (err error) {
	name := r.name()
	r.control = r.w.path("agents/" + name + ".sock")
	args := []string{r.w.o.gate, "agent", "--gate", "https://" + r.network.address, "--ca", r.gate.path("ca.pem"), "--listen", "127.0.0.1:0", "--control", r.control}
	if r.flags == nil {
		args = append(args, "--token-file", r.tokenFile, "--spool", r.w.path("agents/"+name+"-spool"))
	} else {
		args = append(args, r.flags(r)...)
	}
	opened := func() bool {
		if _, _, err := r.status(ctx); err != nil {
			return false
		}
		text, err := exec.CommandContext(ctx, r.w.o.gate, "agent", "env", "--control", r.control).Output()
		r.conf = string(text)
		return err == nil
	}
	r.agent, err = server.Start(ctx, r.w.dir, name+"-agent", nil, opened, args...)
	return err
}

// status is what lychgate agent status prints, with further flags, and its exit code: 3 says that something is wrong.
func (r *faultRun) status(ctx context.Context, flags ...string) (text string, exit int, err error) {
	out, err := exec.CommandContext(ctx, r.w.o.gate, append([]string{"agent", "status", "--control", r.control}, flags...)...).Output()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 3 {
		return string(out), 3, nil
	}
	return string(out), 0, err
}

// signIn gives the user a token.
func (r *faultRun) signIn(ctx context.Context) error { return r.signInFor(ctx, time.Hour) }

func (r *faultRun) signInFor(ctx context.Context, life time.Duration) error {
	cmd := exec.CommandContext(ctx, r.w.o.gate, "token", "create", "--config", r.gate.path("lychgate.yaml"), "--user", "alice", "--ttl", life.String(), "--note", r.name(), "--json")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`(?s)"id": "([^"]+)".*"token": "([^"]+)"`).FindSubmatch(out)
	if m == nil {
		return errors.New("token create prints something else")
	}
	r.id = string(m[1])
	return errors.Join(r.w.writeMode("tokens/"+r.name(), string(m[2])+"\n", 0o600), r.w.home(r.name(), "machine 127.0.0.1 login token password "+string(m[2])+"\n", ""))
}

// restart kills the gate, and starts it again.
func (r *faultRun) restart(ctx context.Context) error { return r.killFor(ctx, 2*time.Second) }

// kill kills the gate, and starts it again when the agent has given it up.
func (r *faultRun) kill(ctx context.Context) error { return r.killFor(ctx, 25*time.Second) }

func (r *faultRun) killFor(ctx context.Context, away time.Duration) error {
	r.gate.process.Kill()
	time.Sleep(away)
	return r.gate.serve(ctx, r.gate.ready)
}

// revoke ends the user's token, as its owner does.
func (r *faultRun) revoke(ctx context.Context) error {
	return command(ctx, r.w.dir, nil, r.w.o.gate, "token", "revoke", "--gate", "https://"+r.gate.https, "--ca", r.gate.path("ca.pem"), "--token-file", r.tokenFile, r.id)
}

// revokeAll ends all tokens of the user, as an operator does.
func (r *faultRun) revokeAll(ctx context.Context) error {
	return command(ctx, r.w.dir, nil, r.w.o.gate, "token", "revoke", "--config", r.gate.path("lychgate.yaml"), "--user", "alice")
}

// expire has the user hold a token that ends in a moment.
func (r *faultRun) expire(ctx context.Context) error { return r.signInFor(ctx, time.Second) }

// byKey has the agent sign in by itself.
func (r *faultRun) byKey() []string {
	return []string{"--key", r.gate.path("alice.key"), "--audience", "https://" + r.gate.https, "--spool", r.w.path("agents/" + r.name() + "-spool")}
}

// makeNoise changes bytes of what the gate sends.
func (r *faultRun) makeNoise(context.Context) error {
	r.network.noise.every.Store(700_000)
	return nil
}

func (r *faultRun) wasNoisy(context.Context) error {
	if r.network.noise.count.Load() == 0 {
		return errors.New("no byte was changed")
	}
	return nil
}

// silence has the network swallow what the gate says.
func (r *faultRun) silence(ctx context.Context) error {
	return r.network.poison(ctx, toxic{"silent", "timeout", map[string]int{"timeout": 0}})
}

// rot changes a byte of each fourth recipe's archive where the gate keeps it. Done again, it changes it back.
func (r *faultRun) rot(context.Context) error {
	for i := 0; i < len(bulk()); i += 4 {
		name, err := r.archive(bulk()[i])
		if err != nil {
			return err
		}
		content, err := os.ReadFile(filepath.Join(r.cache, name))
		if err != nil {
			return err
		}
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		kept := r.gate.path("state/blobs/sha256/" + digest[:2] + "/" + digest)
		if content, err = os.ReadFile(kept); err != nil {
			return err
		}
		content[len(content)/2] ^= 1
		if err := os.WriteFile(kept, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// archive returns the name of a recipe's largest archive.
func (r *faultRun) archive(recipe string) (string, error) {
	names, err := filepath.Glob(filepath.Join(r.cache, "*/*/*/sstate:"+recipe+":*_populate_sysroot.tar.zst"))
	if err != nil || len(names) != 1 {
		return "", fmt.Errorf("archives of %s: %q", recipe, names)
	}
	return filepath.Rel(r.cache, names[0])
}

// smallDisk is a file system of its own.
func (r *faultRun) smallDisk() string { return r.w.path("small") }

func (r *faultRun) mount(context.Context) error {
	if err := os.MkdirAll(r.smallDisk(), 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", r.smallDisk(), "tmpfs", 0, "size=6m,mode=0700"); err != nil {
		return fmt.Errorf("mount a small file system, which takes root: %w", err)
	}
	return nil
}

func (r *faultRun) enlarge(context.Context) error {
	return syscall.Mount("tmpfs", r.smallDisk(), "tmpfs", syscall.MS_REMOUNT, "size=1g")
}

func (r *faultRun) unmount() error {
	return syscall.Unmount(r.smallDisk(), 0)
}

func (r *faultRun) onSmallDisk() []string {
	return []string{"--token-file", r.tokenFile, "--spool", filepath.Join(r.smallDisk(), "spool"), "--cache", filepath.Join(r.smallDisk(), "cache")}
}

// readers is how many downloads stall, at the agent and as many at the gate.
const readers = 60

// stall begins downloads of the largest objects, and reads half of each.
func (r *faultRun) stall(ctx context.Context) error {
	pem, err := os.ReadFile(r.gate.path("ca.pem"))
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	token, err := os.ReadFile(r.tokenFile)
	if err != nil {
		return err
	}
	auth := "Authorization: Bearer " + strings.TrimSpace(string(token)) + "\r\n"
	for i := range readers {
		name, err := r.archive(bulk()[3+i%2*4])
		if err != nil {
			return err
		}
		name = strings.NewReplacer(":", "%3A", "+", "%2B").Replace(name)
		c, err := r.dial(ctx, r.gate.https)
		if err != nil {
			return err
		}
		if err := readHalf(tls.Client(c, &tls.Config{RootCAs: trusted, ServerName: "localhost"}), "/sstate/main/"+name, auth); err != nil {
			return fmt.Errorf("stall at the gate: %w", err)
		}
		if r.agent == nil {
			continue
		}
		place := regexp.MustCompile(`http://([^/]+)/`).FindStringSubmatch(r.conf)
		if c, err = r.dial(ctx, place[1]); err != nil {
			return err
		}
		if err := readHalf(c, "/main/"+name, ""); err != nil {
			return fmt.Errorf("stall at the agent: %w", err)
		}
	}
	return nil
}

// dial makes a connection on which little comes before it is read.
func (r *faultRun) dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) }), err)
	}}).DialContext(ctx, "tcp", address)
	if err == nil {
		r.stalled = append(r.stalled, c)
	}
	return c, err
}

// readHalf asks for an object of 4 MiB, and reads 2.
func readHalf(c net.Conn, path, header string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, header); err != nil {
		return err
	}
	head := make([]byte, 2<<20)
	if _, err := io.ReadFull(c, head); err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%q: %w", head[:min(len(head), 100)], err)
	}
	return nil
}

// hangUp ends the downloads. What the agent held for them is to be freed: within two minutes, in which it keeps what was promised.
func (r *faultRun) hangUp(ctx context.Context) error {
	for _, c := range r.stalled {
		c.Close()
	}
	if r.agent == nil {
		return nil
	}
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		held, err := r.number(ctx, "bytes_spooled")
		if err != nil || held == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the agent holds %d bytes that nobody reads", held)
		}
	}
}

// What the agent may need, whatever its clients do.
const (
	mostMemory = 400 << 10 // KiB
	mostFiles  = 300
)

// size tells what the agent needs, which is to be bounded, while there are downloads that have stalled.
func (r *faultRun) size(ctx context.Context) (string, error) {
	if len(r.stalled) == 0 {
		return "", nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.agent.Pid()))
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return "", fmt.Errorf("no VmRSS in %s", status)
	}
	memory, _ := strconv.Atoi(string(m[1])) // digits
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.agent.Pid()))
	if err != nil {
		return "", err
	}
	held, err := r.number(ctx, "bytes_spooled")
	text := fmt.Sprintf("nothing, with %d downloads that stand still; it has %d MiB of memory, %d files, %d MiB on disk", readers, memory>>10, len(files), held>>20)
	if err == nil && (memory > mostMemory || len(files) > mostFiles || held == 0 || held > int64(len(bulk()))*4<<20) {
		err = errors.New("the agent says " + text)
	}
	return text, err
}

// number is a figure of the agent's status.
func (r *faultRun) number(ctx context.Context, name string) (int64, error) {
	text, _, err := r.status(ctx, "--json")
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`"` + name + `": (\d+)`).FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no %s in %s", name, text)
	}
	return strconv.ParseInt(m[1], 10, 64)
}
