# SPDX-License-Identifier: Apache-2.0
"""What a recipe is built from, as BitBake's fetchers resolve it."""

import hashlib
import os

import bb.fetch2

from lychgate import files, git, layers, uri

MAX_DEPTH = 16  # of submodules in submodules


def read(d, known):
    """Return (sources, files) of a recipe: the entries of SRC_URI but file://, with revisions, and the file:// ones, with the
    index of the layer in known that each is from."""
    entries = (d.getVar("SRC_URI") or "").split()
    sources, local = [], []
    fetch = bb.fetch2.Fetch(entries, d) if entries else None
    for entry in entries:
        ud = fetch.ud[entry]
        if ud.type == "file":
            local.append(file(entry, fetch.localpath(entry), known))
        else:
            sources.append(source(entry, ud, d))
    return sources, local


def file(entry, path, known):
    """Describe a file:// entry that was found at path."""
    at = layers.holding(known, path) if path else None
    described = {"name": entry.partition("://")[2].partition(";")[0]}
    if at is None:
        described["unknown"] = "it lies in none of the build's layers"
    elif "unknown" in known[at]:
        described["unknown"] = "its layer: " + known[at]["unknown"]
    else:
        described["layer"] = at
    return described


def source(entry, ud, d):
    """Describe an entry of SRC_URI that is fetched."""
    described = {"entry": uri.entry(entry)}
    rev = revision(ud, d)
    if rev:
        described["rev"] = rev
    if ud.type == "gitsm":
        found = submodules(clone_url(ud), rev, d)
        if found is None:
            described["unknown"] = "the clone that holds its submodules is gone"
        else:
            described["submodules"] = found
    return described


def revision(ud, d):
    """Return the revision or checksum of an entry, or the empty string."""
    if ud.method.supports_srcrev():
        ud.setup_revisions(d)
        several = getattr(ud, "revisions", None)  # in older series an entry may have several names, and a revision for each
        if several is None:
            return str(ud.revision or "")
        return str(list(several.values())[0]) if len(several) == 1 else ""
    return getattr(ud, "sha256_expected", None) or ""


def clone_url(ud):
    """Return the URL that a git entry is cloned from, without user and password."""
    return "%s://%s%s" % (ud.proto, ud.host, ud.path)


def clone(url, d):
    """Return the directory that BitBake keeps the clone of a submodule's repository in, whether or not it is there."""
    scheme, found, rest = url.partition("://")
    if not found:
        host, colon, path = url.partition(":")
        scheme, rest = ("ssh", host + "/" + path) if colon else ("file", url)
    apart = d.createCopy()
    apart.setVar("SRCREV_lychgate", "0" * 40)  # which revision makes no difference, but BitBake asks for one
    return bb.fetch2.FetchData("git://%s;protocol=%s;nobranch=1;name=lychgate" % (rest, scheme), apart).clonedir


def submodules(url, rev, d):
    """Return [{"url", "rev"}] of all submodules of a commit, or None when one cannot be read. It is found out once for all tasks: a
    repository may have hundreds."""
    name = hashlib.sha256(("%s %s" % (url, rev)).encode("utf-8")).hexdigest()
    noted = os.path.join(d.getVar("LYCHGATE_DIR"), "submodules", name + ".json")
    found = files.read(noted)
    if found is None:
        found = below(url, rev, d, 0)
        if found is not None:
            files.write(noted, found)
    return found


def below(url, rev, d, depth):
    """Return [{"url", "rev"}] of all submodules of a commit and of theirs; None when one cannot be read."""
    directory = clone(url, d)
    if depth > MAX_DEPTH or not git.has(directory, rev):
        return None
    modules = git.submodules(directory, rev)
    if modules is None:
        return None
    found = []
    for _, module, link in modules:
        module = uri.resolve(url, module)
        found.append({"url": uri.strip(module), "rev": link})
        more = below(module, link, d, depth + 1)
        if more is None:
            return None
        found += more
    return found


def tree(d):
    """Describe the directory that an externalsrc recipe is built from, or return None."""
    directory = d.getVar("EXTERNALSRC")
    if not directory:
        return None
    if not git.tracked(directory):
        return {"unknown": "no git repository holds it"}
    state = git.describe(directory)
    if "unknown" not in state:
        # What is checked out where the submodule belongs has its own submodules; what is not is built from by nobody.
        found = git.checked_out(directory, state["rev"], MAX_DEPTH)
        if found is None:
            return {"unknown": "its submodules cannot be read"}
        state["submodules"] = [{"url": uri.strip(url), "rev": rev} for url, rev in found]
    return state
