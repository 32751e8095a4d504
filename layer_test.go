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
	readme, err := os.ReadFile("layers/meta-lychgate/README.md")
	if err != nil {
		t.Fatal(err)
	}
	// What yocto-check-layer looks for, and people in its place.
	for _, want := range []string{"## Table of contents", "## Dependencies", "branch: scarthgap", "## Patches", "## Maintainer", "@"} {
		if !bytes.Contains(readme, []byte(want)) {
			t.Errorf("the layer's README has no %q", want)
		}
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

// layerBitBake stands in for BitBake in tests of the layer: a bb that notes what is said, and a data store.
const layerBitBake = `
import os, sys, types

said = []
bb = types.ModuleType("bb")
for level in "note", "warn", "error", "debug":
    setattr(bb, level, lambda *args, level=level: said.append((level, args[-1])))
sys.modules["bb"] = bb

class Data(dict):
    def getVar(self, name, expand=True):
        return self.get(name)
`

// TestLayerKeepsRecords: the record of another task with the same output gets the name that lychgate push looks for next; one of the same task is
// replaced, and one that makes no sense is, too.
func TestLayerKeepsRecords(t *testing.T) {
	layerPython(t, layerBitBake+`
import lychgate
lychgate.sources = types.ModuleType("lychgate.sources") # it asks BitBake's fetchers
from lychgate import files, record

top, first, later = sys.argv[1], "1" * 64, "2" * 64
path = top + "/aa/app.do_deploy.HASH.json"
for taskhash in first, first, later:
    record.keep(path, taskhash)
    files.write(path, {"taskhash": taskhash})
assert sorted(os.listdir(top + "/aa")) == ["app.do_deploy.HASH.%s.json" % first, "app.do_deploy.HASH.json"], os.listdir(top + "/aa")
assert files.read(path[:-4] + first + ".json") == {"taskhash": first} and files.read(path) == {"taskhash": later}
for nonsense in {"taskhash": "../../x"}, {"taskhash": 1}, [], None:
    files.write(path, nonsense)
    record.keep(path, later)
assert len(os.listdir(top + "/aa")) == 2 and os.listdir(top) == ["aa"]
`, t.TempDir())
}

// TestLayerFollow: the layer starts one push for a build and tells it when the build is over; whatever is wrong is said, and raises nothing.
func TestLayerFollow(t *testing.T) {
	dir := t.TempDir()
	// What stands in for lychgate goes on until its standard input ends.
	program := `#!/bin/sh
echo "$@" >>"$TRACE"
printf '{"pid":%d,"pushed":3,"error":"'"$FAULT"'"}\n' $$ >"$4/push.lock"
cat >/dev/null
echo "$AFTER"
exit "$CODE"
`
	if err := os.WriteFile(filepath.Join(dir, "lychgate"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	layerPython(t, layerBitBake+`
import time
from lychgate import files, follow

top = sys.argv[1]

def build(name, environment={}, **more):
    values = {"PATH": top + ":" + os.environ["PATH"], "TRACE": top + "/trace", "CODE": "0", "AFTER": "", "FAULT": ""}
    values.update(environment)
    d = Data(LYCHGATE_PUSH="1", LYCHGATE_PROGRAM="lychgate", LYCHGATE_PUSH_WAIT="60", LYCHGATE_PUSH_ARGS="--zone 'a b'", TOPDIR=top,
             LYCHGATE_DIR=top + "/" + name, LYCHGATE_RECORDS=top + "/" + name + "/records", SSTATE_DIR=top + "/" + name + "/sstate",
             LYCHGATE_PUSH_LOG=top + "/" + name + "/push.log", BB_ORIGENV=Data(values))
    d.update(more)
    return d

def started():
    return open(top + "/trace").read().splitlines() if os.path.exists(top + "/trace") else []

def await_state(d):
    for _ in range(6000):
        if files.read(d["LYCHGATE_RECORDS"] + "/push.lock"):
            return
        time.sleep(0.01)
    assert False, "nothing was started"

def expect(level, *words):
    got = list(said)
    said.clear()
    assert len(got) == 1 and got[0][0] == level and all(w in got[0][1] for w in words), got

# Not wanted, and over without having begun.
for value in "0", "", "no", None:
    d = build("off", LYCHGATE_PUSH=value)
    follow.started(d)
    follow.completed(d)
assert not said and not started() and not os.path.exists(top + "/off"), (said, started())

# One, also when the build starts for two machines; told once that it is over.
d = build("one")
follow.started(d)
follow.started(d)
await_state(d)
assert started() == ["push %s --records %s --follow --quiet --zone a b" % (d["SSTATE_DIR"], d["LYCHGATE_RECORDS"])], started()
follow.completed(d)
follow.completed(d)
expect("note", "3 objects pushed, see ", "/one/push.log")

# The next build keeps the log of the one before.
follow.started(d)
follow.completed(d)
said.clear()
assert len(started()) == 2 and os.path.exists(top + "/one/push.log.1")

# It fails: the last thing it said is told, without passwords.
d = build("bad", {"CODE": "1", "AFTER": "lychgate: no https://me:s3cret@h/x"})
follow.started(d)
await_state(d)
follow.completed(d)
expect("warn", "3 objects pushed", "exit code 1", "lychgate: no https://h/x")

# Nobody waits for it unless told so.
for fault, level, words in ("", "note", "3 objects pushed so far, the others follow"), ("the gate is away", "warn", "so far, and it is tried again"):
    d = build("later" + level, {"FAULT": fault, "AFTER": "done"}, LYCHGATE_PUSH_WAIT="0")
    follow.started(d)
    await_state(d)
    process = follow._running[d["LYCHGATE_RECORDS"]]
    held, process.stdin = process.stdin, open(os.devnull, "w")  # it goes on for as long as the test wants
    follow.completed(d)
    expect(level, words, fault)
    held.close()
    process.wait()

# What cannot be started.
for what, more, words in (
    ("missing", {"LYCHGATE_PROGRAM": "no-such-program"}, "no-such-program is not to be found"),
    ("malformed", {"LYCHGATE_PUSH_ARGS": "--zone '"}, "No closing quotation"),
    ("full", {"SSTATE_DIR": "/dev/full/x"}, "Not a directory"),
):
    d = build(what, **more)
    follow.started(d)
    expect("warn", "this build is not pushed", words)
    follow.completed(d)
    assert not said, said

# A state that is no such thing, and a time to wait that is none.
d = build("odd", LYCHGATE_PUSH_WAIT="soon")
follow.started(d)
await_state(d)
follow.completed(d)
expect("warn", "cannot be told")
`, dir)
}

// TestLayerClient: the gate alone is shown the certificate, by both ways that BitBake has; what cannot be used is one warning. Which name
// goes to sftp is what it takes for a name.
func TestLayerClient(t *testing.T) {
	layerPython(t, layerBitBake+`
import ssl, threading
from lychgate import client

GATE = "https://gate.example.com:8443"
d = Data(LYCHGATE_GATE=GATE, LYCHGATE_TLS_CERT="/c", LYCHGATE_TLS_KEY="", LYCHGATE_CA="/ca", LYCHGATE_DIR=sys.argv[1])
both = {"cert": "/c", "key": "/c", "ca": "/ca"}
for url, want in (
    (GATE + "/sstate/main/x;downloadfilename=x", both), ("https://GATE.example.com:8443/x", both), ("https://me:x@gate.example.com:8443/x", both),
    ("https://gate.example.com/x", None), ("http://gate.example.com:8443/x", None), ("https://gate.example.com.evil:8443/x", None),
    ("https://gate.example.com:8443@evil/x", None), ("https://gate.example.com:port/x", None), ("sftp://gate.example.com:8443/x", None),
):
    assert client.settings(url, d) == want, (url, client.settings(url, d))
assert client.settings("https:///x", Data(LYCHGATE_GATE="")) is None and client.settings("x", Data()) is None
assert client.settings("https://h/x", Data(LYCHGATE_GATE="https://h:443/")) == {"cert": None, "key": None, "ca": None}

class UD:
    url = GATE + "/sstate/main/x"

class Other:
    url = "https://elsewhere.example.com/x"

made = []
used = []
class Context:
    def load_verify_locations(self, cafile):
        used.append(("ca", cafile))
    def load_cert_chain(self, cert, key, password):
        used.append((cert, key))
        try:
            password()
        except ValueError:
            used.append("no passphrase")

class Wget:
    def checkstatus(self, fetch, ud, d, again=True):
        ssl.create_default_context()
        return self.checkstatus(fetch, ud, d, False) if again else "asked"
    def download(self, ud, d):
        made.append(self.basecmd)
        raise RuntimeError("broken off")

ssl.create_default_context = lambda: Context()
for _ in range(2):
    client.wrap(ssl, "create_default_context", client.context)
    client.wrap(Wget, "checkstatus", client.wget_checkstatus)
    client.wrap(Wget, "download", client.wget_download)
w = Wget()
assert w.checkstatus(None, Other, d) == "asked" and not used, used
assert w.checkstatus(None, UD, d) == "asked" and used == [("ca", "/ca"), ("/c", "/c"), "no passphrase"] * 2, used
used.clear()
ssl.create_default_context()
assert not used
with client.asking(both, d):
    other = threading.Thread(target=ssl.create_default_context)
    other.start()
    other.join()
assert not used

flags = ["--certificate=/c", "--private-key=/c", "--ca-certificate=/ca"]
for before, ud, want in (
    (["wget", "--x"], UD, ["wget", "--x"] + flags), ("wget --x", UD, "wget --x " + " ".join(flags)), (["wget"], Other, ["wget"]),
):
    w.basecmd = before
    try:
        w.download(ud, d)
    except RuntimeError:
        pass
    assert made.pop() == want and w.basecmd == before, (before, want)

# A file that is not there.
class Strict(Context):
    def load_verify_locations(self, cafile):
        raise FileNotFoundError(cafile)
bad = client.context(lambda: Strict())
with client.asking(both, d):
    bad()
    bad()
assert [level for level, _ in said] == ["warn", "debug"] and "without LYCHGATE_TLS_CERT" in said[0][1], said

class URI:
    hostname, port, userinfo, path = "gate", None, "", "/main/universal/ab/sstate:a-native:x:1.0~rc1+git:r0:x:14:ab_deploy.tar.zst"

assert client.question(URI) == (["sftp", "-oBatchMode=yes", "-b", "-", "gate"], 'ls -1 "%s"\n' % URI.path)
URI.port, URI.userinfo, URI.path = 2222, "me", "/~/x"
assert client.question(URI) == (["sftp", "-oBatchMode=yes", "-b", "-", "-P", "2222", "me@gate"], 'ls -1 "x"\n')
for path in '/a"\n!touch x', "/a*", "/a b", "/[a]", "/a?", "", "/~/-l", "/\\x":
    URI.path = path
    assert client.question(URI) == (None, None), path
URI.path = "/a"
for URI.userinfo, URI.hostname in ("", "-oProxyCommand=x"), ("-oProxyCommand=x", "gate"), ("me", None):
    assert client.question(URI) == (None, None)
`, t.TempDir())
}

// TestLayerSubmodules: all submodules of a commit are found, those of submodules too, in the clones that BitBake keeps; none is better than
// some.
func TestLayerSubmodules(t *testing.T) {
	layerPython(t, layerBitBake+`
import shutil, subprocess

top = sys.argv[1]

# What BitBake resolves: a place for the clone of each URL.
class FetchData:
    def __init__(self, url, d):
        assert d.getVar("SRCREV_lychgate")
        self.clonedir = os.path.join(top, url.partition("://")[2].partition(";")[0].replace("/", "."))

fetch2 = types.ModuleType("bb.fetch2")
fetch2.FetchData = FetchData
sys.modules["bb.fetch2"] = bb.fetch2 = fetch2

class Store(Data):
    def createCopy(self):
        return Store(self)
    def setVar(self, name, value):
        self[name] = value

from lychgate import sources

def git(directory, *args):
    run = ["git", "-C", directory, "-c", "user.name=t", "-c", "user.email=t@example.com"] + list(args)
    return subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout.decode().strip()

def repository(host, modules):
    """Make the clone of a repository, and return its revision."""
    directory = os.path.join(top, host.replace("/", "."))
    os.mkdir(directory)
    git(directory, "init", "--quiet")
    text = ""
    for path, (url, rev) in modules.items():
        text += '[submodule "%s"]\n\tpath = %s\n\turl = %s\n' % (path, path, url)
        git(directory, "update-index", "--add", "--cacheinfo", "160000,%s,%s" % (rev, path))
    with open(directory + "/.gitmodules", "w") as f:
        f.write(text)
    git(directory, "add", ".gitmodules")
    git(directory, "commit", "--quiet", "--message=x")
    return git(directory, "rev-parse", "HEAD")

grand = repository("git.example.com/team/grand.git", {})
child = repository("git.example.com/team/child.git", {"inner": ("../grand.git", grand)})
other = repository("elsewhere.example.com/x.git", {})
parent = repository("git.example.com/public/parent.git", {
    "child": ("https://me:s3cret@git.example.com/team/child.git", child), "libs/other": ("ssh://git@elsewhere.example.com/x.git", other),
})
url = "https://git.example.com/public/parent.git"
want = [
    {"url": "https://git.example.com/team/child.git", "rev": child}, {"url": "https://git.example.com/team/grand.git", "rev": grand},
    {"url": "ssh://elsewhere.example.com/x.git", "rev": other},
]
# The clone is where BitBake puts it, whoever signs in there.
FetchData.__init__ = (lambda original: lambda self, url, d: original(self, url.replace("me:s3cret@", "").replace("git@", ""), d))(FetchData.__init__)

def found(name, rev=parent):
    return sources.submodules(url, rev, Store(LYCHGATE_DIR=top + "/" + name))

assert found("one") == want, found("one")
# One that is gone, or lacks the commit, and nothing is known; what was found out before is.
shutil.rmtree(top + "/git.example.com.team.grand.git")
assert found("two") is None and found("one") == want
assert found("three", "2" * 40) is None and not os.path.exists(top + "/three")

# A repository within itself has no end.
loop = os.path.join(top, "git.example.com.loop.git")
repository("git.example.com/loop.git", {})
sources.git.submodules = lambda directory, rev: [("self", "https://git.example.com/loop.git", git(loop, "rev-parse", "HEAD"))]
assert sources.submodules("https://git.example.com/loop.git", git(loop, "rev-parse", "HEAD"), Store(LYCHGATE_DIR=top + "/four")) is None
`, t.TempDir())
}
