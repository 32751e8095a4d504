package lychgate_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLayer: the layer meta-lychgate carries the project's licence, and its Python is understood by the oldest one that the series it
// names run with.
func TestLayer(t *testing.T) {
	ours, err := os.ReadFile("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := os.ReadFile("layers/meta-lychgate/COPYING.Apache-2.0"); err != nil || !bytes.Equal(ours, theirs) {
		t.Errorf("the layer's licence is another: %v", err)
	}
	modules, err := filepath.Glob("layers/meta-lychgate/lib/lychgate/*.py")
	if err != nil || len(modules) == 0 {
		t.Fatalf("%d modules: %v", len(modules), err)
	}
	for _, name := range modules {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s does not name its licence", name)
		}
		layerPython(t, "import ast, sys\nast.parse(open(sys.argv[1]).read(), feature_version=(3, 8))", name)
	}
}

// layerPython runs a program that can import the layer's modules.
func layerPython(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "python3", append([]string{"-B", "-c", program}, args...)...)
	lib, err := filepath.Abs("layers/meta-lychgate/lib")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PYTHONPATH="+lib, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestLayerURLs: no user, password or token of a URL gets into a record, and a submodule's relative URL is what git makes of it.
func TestLayerURLs(t *testing.T) {
	layerPython(t, `
from lychgate import uri

def same(got, want):
    assert got == want, (got, want)

for url in "https://me:s3cret@h/a.git", "https://s3cret@h/a.git", "https://a@b:s3cret@h/a.git", "https://h/a.git?private_token=s3cret", \
        "https://h/a.git#s3cret", "ssh://s3cret@h:22/a.git", "s3cret@h:a.git", "me:s3cret@h:a.git":
    assert "s3cret" not in uri.strip(url), url
    assert "s3cret" not in uri.entry(url + ";user=s3cret;pswd=s3cret;token=s3cret"), url
same(uri.strip("git@h:a/b.git"), "h:a/b.git")
same(uri.strip("https://me:x@h:8443/a"), "https://h:8443/a")
same(uri.entry("git://me:x@h/a.git;protocol=ssh;branch=main;x=y"), "git://h/a.git;protocol=ssh;branch=main")
same(uri.hide("failed: https://me:s3cret@h/a, x@y"), "failed: https://h/a, x@y")
same(uri.resolve("https://h/team/a.git", "../b.git"), "https://h/team/b.git")
same(uri.resolve("https://h/team/a.git", "./b.git"), "https://h/team/a.git/b.git")
same(uri.resolve("https://h/team/a.git", "../../other/b.git"), "https://h/other/b.git")
same(uri.resolve("git@h:team/a.git", "../b.git"), "git@h:team/b.git")
same(uri.resolve("https://h/team/a.git", "https://x/b.git"), "https://x/b.git")
`)
}

// TestLayerGit: what the layer says of a working copy, by git itself.
func TestLayerGit(t *testing.T) {
	dir := t.TempDir()
	layerPython(t, `
import os, subprocess, sys
from lychgate import git

top = sys.argv[1]

def run(*args):
    subprocess.run(("git", "-C", top, "-c", "user.name=t", "-c", "user.email=t@example.com") + args, check=True, stdout=subprocess.DEVNULL)

assert not git.tracked(top) and "unknown" in git.describe(top)
run("init", "--quiet", "--initial-branch=main")
os.mkdir(top + "/layer")
open(top + "/layer/a", "w").close()
open(top + "/.gitmodules", "w").write('[submodule "x"]\n\tpath = x\n\turl = ../x.git\n[submodule "gone"]\n\tpath = gone\n\turl = ../gone.git\n')
assert not git.tracked(top + "/layer")
run("add", ".")
run("update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",x")
run("commit", "--quiet", "--message=x")
assert git.tracked(top + "/layer") and "unknown" in git.describe(top)
run("remote", "add", "origin", "https://me:s3cret@git.example.com/team/a.git")
rev = git.line(top, "rev-parse", "HEAD")
want = {"url": "https://git.example.com/team/a.git", "rev": rev, "dirty": False}
assert git.describe(top + "/layer") == want, git.describe(top + "/layer")
assert git.submodules(top, rev) == [("x", "../x.git", "1" * 40)]
assert git.checked_out(top, rev, 4) == [("https://me:s3cret@git.example.com/team/x.git", "1" * 40)]
assert git.has(top, rev) and not git.has(top, "2" * 40)
open(top + "/layer/b", "w").close()
assert git.describe(top + "/layer")["dirty"]
run("remote", "add", "other", "https://git.example.com/other/a.git")
run("config", "branch.main.remote", "other")
assert git.describe(top)["url"] == "https://git.example.com/other/a.git"
run("config", "--unset", "branch.main.remote")
run("remote", "rename", "origin", "upstream")
assert "unknown" in git.describe(top)
`, dir)
}
