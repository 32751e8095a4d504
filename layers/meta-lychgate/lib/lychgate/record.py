# SPDX-License-Identifier: Apache-2.0
"""The record of one object of the shared-state cache."""

import os
import re

from lychgate import files, layers, sources, uri

VERSION = 1


def succeeded(d):
    """Record the task that has just succeeded, if what it made is in the shared-state cache."""
    task = d.getVar("BB_RUNTASK") or ""
    if task not in (d.getVar("SSTATETASKS") or "").split():
        return
    try:
        keep(name(d, task), d.getVar("BB_TASKHASH"))
        files.write(name(d, task), describe(d, task))
    except Exception as e:
        files.warn_once(d, "%s of %s cannot be recorded" % (task, d.getVar("PN")), e)


def name(d, task):
    """Return the file of a task's record: lychgate push finds it by the name of the object."""
    unihash = d.getVar("BB_UNIHASH")
    return os.path.join(d.getVar("LYCHGATE_RECORDS"), unihash[:2], "%s.%s.%s.json" % (d.getVar("PN"), task, unihash))


def keep(path, taskhash):
    """Give the record that is there another name, if it is of another task with the same output: the archive may be that task's."""
    before = files.read(path)
    other = before.get("taskhash") if isinstance(before, dict) else None
    if isinstance(other, str) and re.fullmatch("[0-9a-f]{64}", other) and other != taskhash:
        files.write("%s.%s.json" % (path[:-len(".json")], other), before)


def describe(d, task):
    """Return the record of a task."""
    known = layers.known(d)
    entries, local = sources.read(d, known)
    record = {
        "version": VERSION, "recipe": d.getVar("PN"), "task": task, "taskhash": d.getVar("BB_TASKHASH"), "unihash": d.getVar("BB_UNIHASH"),
        "sources": entries, "files": local, "inputs": inputs(d, task),
        "layers": [dict({k: v for k, v in layer.items() if k != "dir"}, name=os.path.basename(layer["dir"])) for layer in known],
    }
    tree = sources.tree(d)
    if tree is not None:
        record["tree"] = tree
    job = ci(d)
    if job is not None:
        record["ci"] = job
    return record


def inputs(d, task):
    """Return the tasks that this one was run after: those of its recipe, and those of others that they used directly:
    [{"recipe", "task", "unihash"}]."""
    tasks = d.getVar("BB_TASKDEPDATA", False) or {}
    recipe = d.getVar("PN")
    todo = [key for key, t in tasks.items() if t[0] == recipe and t[1] == task]
    seen, found = set(todo), set()
    while todo:
        for key in tasks[todo.pop()][3]:
            if key in seen or key not in tasks:
                continue
            seen.add(key)
            pn, name, unihash = tasks[key][0], tasks[key][1], tasks[key][6]
            if pn == recipe:
                todo.append(key)
            if unihash:
                found.add((pn, name, unihash))
    return [{"recipe": pn, "task": name, "unihash": unihash} for pn, name, unihash in sorted(found)]


def ci(d):
    """Return {"builder", "run"} of the CI job that the build is, or None. The variables are public in each of them."""
    environment = d.getVar("BB_ORIGENV", False)

    def value(variable):
        return (environment and environment.getVar(variable, False)) or ""

    if value("GITLAB_CI"):
        builder, run = value("CI_SERVER_URL") + "/runner", value("CI_JOB_URL")
    elif value("GITHUB_ACTIONS"):
        server = value("GITHUB_SERVER_URL")
        builder, run = server + "/actions", "%s/%s/actions/runs/%s" % (server, value("GITHUB_REPOSITORY"), value("GITHUB_RUN_ID"))
    elif value("JENKINS_URL"):
        builder, run = value("JENKINS_URL"), value("BUILD_URL")
    else:
        return None
    return {"builder": uri.strip(builder), "run": uri.strip(run)}
