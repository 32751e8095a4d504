# SPDX-License-Identifier: Apache-2.0
"""Small JSON files, and the one warning."""

import json
import os
import tempfile

from lychgate import uri


def write(path, value):
    """Write value as JSON, so that a reader sees all of it or nothing, whoever else writes the same file."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(value, f, sort_keys=True, separators=(",", ":"))
            f.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path):
    """Return what write wrote, or None."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


def warn_once(d, what, error):
    """Warn of an error, once in a build: a disk that is full is full for every task."""
    import bb

    text = "lychgate: %s: %s: %s" % (what, type(error).__name__, uri.hide(str(error)))
    mark = os.path.join(d.getVar("LYCHGATE_DIR"), "warned")
    try:
        os.makedirs(os.path.dirname(mark), exist_ok=True)
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        bb.debug(1, text)
        return
    except OSError:
        pass
    bb.warn(text + " (further ones are not shown)")


def forget_warning(d):
    """Let the next error be shown again."""
    try:
        os.unlink(os.path.join(d.getVar("LYCHGATE_DIR"), "warned"))
    except OSError:
        pass
