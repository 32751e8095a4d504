# Asks a mirror for objects of a shared-state cache with BitBake's own fetcher, as a build does: first whether an object is there,
# then for its bytes. What is not there is asked for all the same.
#
#   fetch.py VARIABLES <NAMES >ANSWERS
#
# VARIABLES is JSON: BitBake's variables, of which SSTATE_MIRRORS and SSTATE_DIR must be. An answer is a line for each name:
# yes or no, the SHA-256 of the bytes or "-" if there were none, and the name.
import hashlib
import json
import os
import sys
from multiprocessing.pool import ThreadPool

import bb.data
import bb.fetch2
import bb.utils


def datastore(variables):
    d = bb.data.init()
    for name, value in variables.items():
        d.setVar(name, value)
    for name in ("HOME", "PATH"):
        d.setVar(name, os.environ[name])
    directory = d.getVar("SSTATE_DIR")
    for name in ("FILESPATH", "DL_DIR"):
        d.setVar(name, directory)
    d.setVar("PERSISTENT_DIR", directory + ".persist")
    d.setVar("BB_CACHEDIR", directory + ".persist")
    d.setVar("PREMIRRORS", d.getVar("SSTATE_MIRRORS"))
    bb.utils.mkdirhier(directory)
    bb.utils.mkdirhier(directory + ".persist")
    return d


def present(d, name):
    try:
        bb.fetch2.Fetch(["file://" + name], bb.data.createCopy(d)).checkstatus()
        return True
    except bb.fetch2.FetchError:
        return False


def digest(d, name):
    url = "file://{0};downloadfilename={0}".format(name)
    try:
        fetcher = bb.fetch2.Fetch([url], bb.data.createCopy(d), cache=False)
        fetcher.download()
        with open(fetcher.localpath(url), "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()
    except bb.fetch2.BBFetchException:
        return "-"


def main():
    d = datastore(json.loads(sys.argv[1]))
    names = sys.stdin.read().split()
    os.environ.update(bb.fetch2.get_fetcher_environment(d))
    with ThreadPool(4) as pool:
        found = pool.map(lambda name: present(d, name), names)
    for name, there in zip(names, found):
        print("yes" if there else "no", digest(d, name), name)


main()
