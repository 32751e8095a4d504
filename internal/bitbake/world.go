package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/hashref"
)

// recipe is a recipe of the layer. Its work is to write its sources, and those of the recipe it uses, into one file.
type recipe struct {
	name, version, repository, uses string
	public                          bool // the repository is one that bob may read
}

// recipes have names with ":" and a version with "+" or "~", objects for the build host and for all machines, and one repository
// each.
func recipes() []recipe {
	return []recipe{
		{name: "hello-native", version: "1.0", repository: "public/hello", public: true},
		{name: "greeter-native", version: "2.0~rc1", repository: "public/greeter", uses: "hello-native", public: true},
		{name: "tool-native", version: "1.0+git", repository: "team/tool", uses: "hello-native"},
		{name: "firmware", version: "2.0", repository: "team/firmware", uses: "tool-native"},
	}
}

// world is a directory with a layer, its repositories, a locale, programs in front of OpenSSH's, and the builds.
type world struct {
	o         options
	dir       string
	reference hashref.Reference
}

func newWorld(ctx context.Context, o options) (*world, error) {
	ref, err := hashref.Find(ctx, o.bitbake)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lychgate-bitbake")
	if err != nil {
		return nil, err
	}
	w := &world{o: o, dir: dir, reference: ref}
	if err := w.make(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) make(ctx context.Context) error {
	// BitBake refuses to run without this locale, which a host need not have.
	if err := os.Mkdir(w.path("locale"), 0o755); err != nil {
		return err
	}
	if err := command(ctx, w.dir, nil, "localedef", "-i", "en_US", "-f", "UTF-8", w.path("locale/en_US.UTF-8")); err != nil {
		return err
	}
	series, err := w.series()
	if err != nil {
		return err
	}
	if err := w.write("layer/conf/layer.conf", fmt.Sprintf(layerConf, series)); err != nil {
		return err
	}
	for _, r := range recipes() {
		if err := w.addRecipe(ctx, r); err != nil {
			return fmt.Errorf("recipe %s: %w", r.name, err)
		}
	}
	return errors.Join(w.wrapOpenSSH(), os.Symlink(w.reference.Python, w.path("bin/python3")))
}

var seriesNames = regexp.MustCompile(`(?m)^LAYERSERIES_CORENAMES = "([^"]*)"$`)

// series returns the names of the release that openembedded-core is: a layer must say it, and may not copy it by reference.
func (w *world) series() (string, error) {
	text, err := os.ReadFile(filepath.Join(w.o.oecore, "meta/conf/layer.conf"))
	if err != nil {
		return "", err
	}
	m := seriesNames.FindSubmatch(text)
	if m == nil {
		return "", errors.New("openembedded-core does not name its series in meta/conf/layer.conf")
	}
	return string(m[1]), nil
}

// close waits for the servers of BitBake, which outlive its command for a moment, and removes the directory.
func (w *world) close() error {
	locks, _ := filepath.Glob(w.path("builds/*/bitbake.lock"))
	for _, name := range locks {
		if err := awaitLock(name); err != nil {
			return err
		}
	}
	if w.o.keep {
		fmt.Fprintln(os.Stderr, "kept:", w.dir)
		return nil
	}
	return os.RemoveAll(w.dir)
}

// awaitLock returns when nobody holds the lock of a build directory any more.
func awaitLock(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return nil
		}
	}
	return fmt.Errorf("a BitBake server still runs: %s is locked", name)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) error {
	return w.writeMode(name, text, 0o644)
}

func (w *world) writeMode(name, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(w.path(name), []byte(text), mode)
}

// addRecipe makes a recipe and the repository of its sources.
func (w *world) addRecipe(ctx context.Context, r recipe) error {
	tree := "repositories/" + r.repository + ".git"
	if err := w.write(tree+"/content.txt", "the sources of "+r.name+"\n"); err != nil {
		return err
	}
	rev, err := w.commit(ctx, tree)
	if err != nil {
		return err
	}
	return w.write("layer/recipes/"+r.name+"_"+r.version+".bb", r.text(rev))
}

// commit makes a repository of a directory, and returns its revision.
func (w *world) commit(ctx context.Context, dir string) (string, error) {
	date := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z"}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "."},
		{"-c", "user.name=trial", "-c", "user.email=trial@example.com", "commit", "--quiet", "--message=Begin"},
	} {
		if err := command(ctx, w.path(dir), date, "git", args...); err != nil {
			return "", err
		}
	}
	rev, err := os.ReadFile(w.path(dir + "/.git/refs/heads/main"))
	return strings.TrimSpace(string(rev)), err
}

// text is the recipe's file.
func (r recipe) text(revision string) string {
	inputs := "${S}/content.txt"
	if r.uses != "" {
		inputs += " ${STAGING_DATADIR_NATIVE}/" + r.uses + ".txt"
	}
	steps := nativeSteps
	if !strings.HasSuffix(r.name, "-native") {
		steps = deploySteps
	}
	return fmt.Sprintf(recipeText, r.repository, revision, r.uses, inputs) + steps
}

const layerConf = `BBPATH .= ":${LAYERDIR}"
BBFILES += "${LAYERDIR}/recipes/*.bb"
BBFILE_COLLECTIONS += "trial"
BBFILE_PATTERN_trial = "^${LAYERDIR}/"
LAYERSERIES_COMPAT_trial = "%s"
`

const recipeText = `LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
SRC_URI = "git://git.example.com/%s.git;protocol=https;branch=main"
SRCREV = "%s"
INHIBIT_DEFAULT_DEPS = "1"
DEPENDS = "%s"
REMARK ?= ":"
do_compile() {
	${REMARK}
	cat %s >result.txt
}
`

const nativeSteps = `do_install() {
	install -D -m 0644 result.txt ${D}${datadir}/${PN}.txt
}
inherit native
`

const deploySteps = `do_deploy() {
	install -D -m 0644 result.txt ${DEPLOYDIR}/${PN}.txt
}
inherit allarch nopackages deploy
deltask do_install
deltask do_populate_sysroot
addtask deploy after do_compile before do_build
`

// buildConf is conf/local.conf: classes and tasks of openembedded-core as they are, and none of its recipes. What a host need not
// have is not asked for; sanity refuses root, as which tests run in containers.
const buildConf = `MACHINE = "qemux86-64"
CONF_VERSION = "2"
SSTATE_DIR = "${TOPDIR}/sstate"
DL_DIR = "${TOPDIR}/downloads"
INHERIT_DISTRO = "sstate license"
PACKAGE_CLASSES = ""
INHERIT:remove = "sanity"
BBMASK = "/meta/recipes-"
BBFILE_PATTERN_IGNORE_EMPTY_core = "1"
ASSUME_PROVIDED += "quilt-native patch-replacement-native virtual/fakeroot-native"
HOSTTOOLS:remove = "ar as bunzip2 bzip2 chrpath cmp cpp diff diffstat file g++ gawk gcc ld ldd make nm objcopy objdump patch ranlib readelf rpcgen strings strip"
BB_NUMBER_THREADS = "8"
BB_SERVER_TIMEOUT = "0"
`

// wrapOpenSSH puts programs of its own in front of OpenSSH's, which take the configuration beside .netrc: OpenSSH looks for
// ~/.ssh in the home that the system knows, whatever HOME says, and a test has no other account.
func (w *world) wrapOpenSSH() error {
	for _, name := range []string{"ssh", "scp", "sftp"} {
		real, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := w.writeMode("bin/"+name, "#!/bin/sh\nexec "+real+" -F \"$HOME/ssh_config\" \"$@\"\n", 0o755); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program to its end; its output is in the error.
func command(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
