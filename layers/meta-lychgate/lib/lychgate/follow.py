# SPDX-License-Identifier: Apache-2.0
"""Pushes while the build goes on: a process of its own does it, lychgate push --follow. It ends by itself when the server does."""

import os
import shlex
import shutil
import subprocess

from lychgate import files, uri

STATE = "push.lock"  # in the directory of records; lychgate push says there how far it is

# What this server started. Nothing else would hold the pipe open that tells the process that the build goes on.
_running = {}  # by the directory of records
_left = []  # those of builds that are over, so that none stays a zombie


def started(d):
    """Start pushing, if the build is to be pushed and nothing does it yet: a build for several machines starts once for each."""
    try:
        _left[:] = [p for p in _left if p.poll() is None]
        records = d.getVar("LYCHGATE_RECORDS")
        if wanted(d) and (records not in _running or _running[records].poll() is not None):
            _running[records] = start(d, records)
    except Exception as e:
        files.warn_once(d, "this build is not pushed", e)


def wanted(d):
    """Report whether LYCHGATE_PUSH says so."""
    return (d.getVar("LYCHGATE_PUSH") or "").strip().lower() in ("1", "y", "yes", "true", "t", "on")


def start(d, records):
    """Start lychgate push, with nobody's terminal, and at the lowest priority."""
    env = environment(d)
    program = shutil.which(d.getVar("LYCHGATE_PROGRAM"), path=env.get("PATH"))
    if program is None:
        raise FileNotFoundError("%s is not to be found: install lychgate, or set LYCHGATE_PROGRAM" % d.getVar("LYCHGATE_PROGRAM"))
    nice = shutil.which("nice", path=env.get("PATH"))
    cache, log = d.getVar("SSTATE_DIR"), d.getVar("LYCHGATE_PUSH_LOG")
    for directory in records, cache, os.path.dirname(log):
        os.makedirs(directory, exist_ok=True)
    if os.path.exists(log):
        os.replace(log, log + ".1")  # the push of the build before may still write to it
    command = ([nice, "-n", "19"] if nice else []) + [program, "push", cache, "--records", records, "--follow", "--quiet"]
    with open(log, "ab") as out:
        return subprocess.Popen(command + shlex.split(d.getVar("LYCHGATE_PUSH_ARGS") or ""), stdin=subprocess.PIPE, stdout=out,
                                stderr=subprocess.STDOUT, cwd=d.getVar("TOPDIR"), env=env, start_new_session=True)


def environment(d):
    """Return the environment of who started the build: BitBake's own lacks what signs in."""
    original = d.getVar("BB_ORIGENV", False)
    if original is None:
        return dict(os.environ)
    values = ((name, original.getVar(name, False)) for name in original.keys())
    return {name: value for name, value in values if isinstance(value, str)}


def completed(d):
    """Tell that the build is over, and say how far the push is."""
    try:
        records = d.getVar("LYCHGATE_RECORDS")
        process = _running.pop(records, None)
        if process is None:
            return
        _left.append(process)
        process.stdin.close()
        try:
            process.wait(timeout=max(0.0, float(d.getVar("LYCHGATE_PUSH_WAIT") or 0)))
        except subprocess.TimeoutExpired:
            pass
        say(d, process, files.read(os.path.join(records, STATE)) or {})
    except Exception as e:
        files.warn_once(d, "how far the push is cannot be told", e)


def say(d, process, state):
    """Print one line about a push."""
    import bb

    log = d.getVar("LYCHGATE_PUSH_LOG")
    mine = state.get("pid") == process.pid
    pushed, error = (state.get("pushed", 0), state.get("error")) if mine else (0, None)
    code = process.returncode
    if code is not None and code != 0:
        bb.warn("lychgate: %d objects pushed; the push ended with exit code %d, see %s: %s" % (pushed, code, log, uri.hide(last_line(log))))
    elif code == 0:
        bb.note("lychgate: %d objects pushed, see %s" % (pushed, log))
    elif error:
        bb.warn("lychgate: %d objects pushed so far, and it is tried again; see %s: %s" % (pushed, log, uri.hide(error)))
    else:
        bb.note("lychgate: %d objects pushed so far, the others follow; see %s" % (pushed, log))


def last_line(name):
    """Return the last line of a file that says something, or the empty string."""
    try:
        with open(name, "rb") as f:
            f.seek(max(0, os.path.getsize(name) - 4096))
            lines = f.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
