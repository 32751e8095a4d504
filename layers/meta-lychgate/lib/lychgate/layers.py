# SPDX-License-Identifier: Apache-2.0
"""Which repository each layer of a build is from. Asked once, when the build starts: a layer may be large."""

import os

from lychgate import files, git


def cache(d):
    """Return the name of the file that the tasks of a build find the layers in."""
    return os.path.join(d.getVar("LYCHGATE_DIR"), "layers.json")


def directories(d):
    """Return the directories of the layers, without links, each once."""
    return list(dict.fromkeys(os.path.realpath(name) for name in (d.getVar("BBLAYERS") or "").split()))


def describe(d):
    """Return {"dir", and what git says} of each layer."""
    found = []
    for directory in directories(d):
        state = git.describe(directory) if git.tracked(directory) else {"unknown": "no git repository holds it"}
        found.append(dict(state, dir=directory))
    return found


def started(d):
    """Note the layers of the build that starts."""
    try:
        files.forget_warning(d)
        files.write(cache(d), describe(d))
    except Exception as e:
        files.warn_once(d, "the layers of this build cannot be noted", e)


def known(d):
    """Return what started noted, or find it out."""
    noted = files.read(cache(d))
    if noted is not None and [layer["dir"] for layer in noted] == directories(d):
        return noted
    return describe(d)


def holding(layers, path):
    """Return the index of the innermost layer that a file is in, or None."""
    path, best = os.path.realpath(path), None
    for i, layer in enumerate(layers):
        if path.startswith(layer["dir"] + os.sep) and (best is None or len(layer["dir"]) > len(layers[best]["dir"])):
            best = i
    return best
