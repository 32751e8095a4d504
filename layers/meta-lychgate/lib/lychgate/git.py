# SPDX-License-Identifier: Apache-2.0
"""What git says of a directory. It is only asked what it has: nothing is fetched, locked or written."""

import os
import subprocess

from lychgate import uri

TIMEOUT = 60  # seconds; a working copy on a slow disk takes a while


def run(directory, *args):
    """Return what git prints, or None when it fails."""
    env = dict(os.environ)
    for name in [n for n in env if n.startswith("GIT_")]:
        del env[name]
    # Whose the files are is then what the file system says, and not pseudo.
    env.update(PSEUDO_UNLOAD="1", GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", LC_ALL="C")
    try:
        out = subprocess.run(["git", "-C", directory] + list(args), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.decode("utf-8", "replace") if out.returncode == 0 else None


def line(directory, *args):
    """Return the one line that git prints, or None."""
    text = run(directory, *args)
    return text.strip() if text and text.strip() else None


def remote(directory):
    """Return the URL of the repository that a working copy was cloned from: of the branch's remote, else origin's, else the only
    one's. None when it cannot be told."""
    names = (run(directory, "remote") or "").split()
    branch = line(directory, "symbolic-ref", "--quiet", "--short", "HEAD")
    wanted = branch and line(directory, "config", "--get", "branch.%s.remote" % branch)
    if wanted not in names:
        wanted = "origin" if "origin" in names else names[0] if len(names) == 1 else None
    # Not "remote get-url": that applies insteadOf, which is this host's way there and not the repository's name.
    return wanted and line(directory, "config", "--get", "remote.%s.url" % wanted)


def describe(directory):
    """Return {"url", "rev", "dirty"} of the working copy that directory is in, or {"unknown": why}. Only changes below directory
    make it dirty."""
    rev = line(directory, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if rev is None:
        return {"unknown": "it is no git working copy, or has no commit"}
    url = remote(directory)
    if url is None:
        return {"unknown": "its git repository has no remote, or several and none of them named origin"}
    status = run(directory, "status", "--porcelain", "--ignore-submodules=none", "--", ".")
    return {"url": uri.strip(url), "rev": rev, "dirty": status != ""}


def tracked(directory):
    """Report whether a git repository holds anything below directory: a build directory may lie in one that ignores it."""
    return bool(run(directory, "ls-files", "-z", "--", "."))


def checked_out(directory, rev, depth):
    """Return (url, revision) of each submodule of a working copy, and of those within what is checked out, which has the say on its
    own. None when one cannot be read."""
    top = line(directory, "rev-parse", "--show-toplevel")
    modules = submodules(top, rev) if top else None
    if modules is None or depth == 0:
        return None
    found = []
    for path, url, link in modules:
        found.append((resolve(directory, url), link))
        inner = os.path.join(top, path)
        if os.path.exists(os.path.join(inner, ".git")):
            more = checked_out(inner, line(inner, "rev-parse", "HEAD") or link, depth - 1)
            if more is None:
                return None
            found += more
    return found


def resolve(directory, url):
    """Return the URL of a submodule of the working copy at directory."""
    return uri.resolve(remote(directory) or "", url)


def has(directory, rev):
    """Report whether a directory is of a repository with a commit."""
    return os.path.isdir(directory) and run(directory, "cat-file", "-e", rev + "^{commit}") is not None


def submodules(directory, rev):
    """Return (path, url, revision) of each submodule of a commit, the URL as .gitmodules has it. None when it cannot be read."""
    listing = run(directory, "ls-tree", "-r", "-z", "--full-tree", rev)
    if listing is None:
        return None
    links = {}
    for entry in listing.split("\0"):
        head, _, path = entry.partition("\t")
        fields = head.split()
        if len(fields) >= 3 and fields[1] == "commit":
            links[path] = fields[2]
    if not links:
        return []
    config = run(directory, "config", "--blob", rev + ":.gitmodules", "-z", "--get-regexp", r"^submodule\..*\.(path|url)$")
    if config is None:
        return None
    modules = {}
    for entry in config.split("\0"):
        key, found, value = entry.partition("\n")
        if found:
            name, _, what = key.rpartition(".")
            modules.setdefault(name, {})[what] = value
    # A link that .gitmodules does not name is never fetched, and a module without a link neither.
    return sorted((m["path"], m["url"], links[m["path"]]) for m in modules.values()
                  if "url" in m and m.get("path") in links)
