# SPDX-License-Identifier: Apache-2.0
"""URLs and entries of SRC_URI, without what is secret in them."""

import posixpath
import re

# The parameters that say what an entry names. No other is recorded: a password is none of these.
PARAMETERS = ("protocol", "module", "repo", "manifest", "package", "version", "rev", "tag", "srcrev", "branch", "name", "sha256sum",
              "vob")


def strip(url):
    """Return a clone URL without user, password, query and fragment; of a query a bare mark stays, which names nothing."""
    scheme, found, rest = url.partition("://")
    if not found:
        host, colon, path = url.partition(":")
        # An @ behind the colon: which part is the host is anybody's guess.
        return "?" if "@" in path else mark(host.rpartition("@")[2] + colon + path)
    authority, slash, path = rest.partition("/")
    return mark(scheme + "://" + authority.rpartition("@")[2] + slash + path)


def hide(text):
    """Return a text without the users and passwords of URLs in it."""
    return re.sub(r"://[^/\s]*@", "://", text)


def mark(url):
    """Cut a query and a fragment, and leave a "?" in their place."""
    at = re.search(r"[?#]", url)
    return url[:at.start()] + "?" if at else url


def entry(text):
    """Return an entry of SRC_URI without user, password, and the parameters that name nothing."""
    head, _, params = text.partition(";")
    kept = [p for p in params.split(";") if p.partition("=")[0] in PARAMETERS]
    return ";".join([strip(head)] + kept)


def resolve(parent, url):
    """Return the URL of a submodule, which .gitmodules may give relative to its parent's."""
    if not url.startswith(("./", "../")):
        return url
    scheme, found, rest = parent.partition("://")
    if found:
        authority, _, path = rest.partition("/")
        return scheme + "://" + authority + posixpath.normpath("/" + path + "/" + url)
    host, found, path = parent.partition(":")
    if found:
        return host + ":" + posixpath.normpath(path + "/" + url)
    return posixpath.normpath(parent + "/" + url)
