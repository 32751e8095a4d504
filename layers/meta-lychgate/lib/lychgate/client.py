# SPDX-License-Identifier: Apache-2.0
"""What BitBake's fetchers lack towards a gate: a client certificate for https, and a way to ask over sftp whether something is there.

BitBake's server and each of its workers read the configuration, and each teaches its own copy of the fetchers."""

import contextlib
import functools
import os
import re
import shlex
import subprocess
import threading
import urllib.parse

from lychgate import files

TIMEOUT = 100  # seconds for one question, as long as BitBake gives wget

# The settings for the connection that a thread is about to make. BitBake asks in many threads at once, and for other hosts too.
_asking = threading.local()


def install(d):
    """Teach the fetchers of this process, each once."""
    try:
        import ssl

        import bb.fetch2.sftp
        import bb.fetch2.wget
        wrap(ssl, "create_default_context", context)
        wrap(bb.fetch2.wget.Wget, "checkstatus", wget_checkstatus)
        wrap(bb.fetch2.wget.Wget, "download", wget_download)
        if "checkstatus" not in vars(bb.fetch2.sftp.SFTP):
            bb.fetch2.sftp.SFTP.checkstatus = sftp_checkstatus
    except Exception as e:
        files.warn_once(d, "the fetchers cannot be taught", e)


def wrap(owner, name, make):
    """Put make(original) in the place of a function, unless it is there already."""
    original = getattr(owner, name)
    if not hasattr(original, "lychgate"):
        wrapped = functools.wraps(original)(make(original))
        wrapped.lychgate = True
        setattr(owner, name, wrapped)


def settings(url, d):
    """Return {"cert", "key", "ca"}, files or None each, for an address of the gate's; None for any other."""
    if endpoint(url) is None or endpoint(url) != endpoint(d.getVar("LYCHGATE_GATE") or ""):
        return None
    cert = d.getVar("LYCHGATE_TLS_CERT") or None
    return {"cert": cert, "key": d.getVar("LYCHGATE_TLS_KEY") or cert, "ca": d.getVar("LYCHGATE_CA") or None}


def endpoint(url):
    """Return the host and port of an https URL, None for another."""
    try:
        parts = urllib.parse.urlsplit(url.partition(";")[0])
        return (parts.hostname, parts.port or 443) if parts.scheme.lower() == "https" and parts.hostname else None
    except ValueError:
        return None


@contextlib.contextmanager
def asking(chosen, d):
    """Have the connections that this thread makes meanwhile use some settings."""
    before = getattr(_asking, "chosen", None)
    _asking.chosen = (chosen, d) if chosen else None
    try:
        yield
    finally:
        _asking.chosen = before


def context(original):
    """Return ssl.create_default_context for threads that ask a gate. A certificate that cannot be used is not shown: that is a miss."""
    def created(*args, **kwargs):
        made = original(*args, **kwargs)
        chosen = getattr(_asking, "chosen", None)
        if chosen:
            try:
                use(made, chosen[0])
            except Exception as e:
                files.warn_once(chosen[1], "the gate is asked without LYCHGATE_TLS_CERT or LYCHGATE_CA", e)
        return made
    return created


def use(made, chosen):
    """Apply settings to a TLS context."""
    def passphrase():
        raise ValueError("the key needs a passphrase, and nobody can be asked")

    if chosen["ca"]:
        made.load_verify_locations(cafile=chosen["ca"])
    if chosen["cert"]:
        made.load_cert_chain(chosen["cert"], chosen["key"], password=passphrase)


def wget_checkstatus(original):
    """Return Wget.checkstatus, which asks by Python's own means."""
    def checkstatus(self, fetch, ud, d, *args, **kwargs):
        with asking(settings(ud.url, d), d):
            return original(self, fetch, ud, d, *args, **kwargs)
    return checkstatus


def wget_download(original):
    """Return Wget.download, which runs wget."""
    def download(self, ud, d):
        chosen = settings(ud.url, d)
        if chosen is None:
            return original(self, ud, d)
        before = self.basecmd
        more = flags(chosen)
        # Older series have a line for the shell here, newer ones its words.
        self.basecmd = before + more if isinstance(before, list) else " ".join([before] + [shlex.quote(word) for word in more])
        try:
            return original(self, ud, d)
        finally:
            self.basecmd = before
    return download


def flags(chosen):
    """Return what tells wget the settings."""
    names = {"cert": "--certificate=", "key": "--private-key=", "ca": "--ca-certificate="}
    return [flag + chosen[name] for name, flag in names.items() if chosen[name]]


def sftp_checkstatus(self, fetch, ud, d):
    """Ask a server whether a file is there. BitBake itself takes every file for present."""
    import bb.fetch2

    try:
        command, batch = question(bb.fetch2.URI(ud.url))
        if command is None:
            return True  # as BitBake says of what it cannot ask for
        bb.fetch2.check_network_access(d, " ".join(command), ud.url)
        env = dict(os.environ, PSEUDO_DISABLED="1")  # pseudo may make ssh hang
        env.update((name, value) for name, value in bb.fetch2.get_fetcher_environment(d).items() if value)
        done = subprocess.run(command, input=batch.encode("ascii"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=TIMEOUT, check=False)
    except Exception as e:  # BitBake would make an ERROR of it
        files.warn_once(d, "sftp cannot ask", e)
        return False
    return done.returncode == 0


def question(uri):
    """Return how sftp is called to ask for a file, and what it reads; None for a name that it would take for something else."""
    path = uri.path[3:] if uri.path.startswith("/~/") else uri.path
    target = (uri.userinfo + "@" if uri.userinfo else "") + (uri.hostname or "")
    if not re.fullmatch(r"[A-Za-z0-9._+:~@%=,/][A-Za-z0-9._+:~@%=,/-]*", path) or not uri.hostname or target.startswith("-"):
        return None, None
    port = ["-P", str(uri.port)] if uri.port else []
    return ["sftp", "-oBatchMode=yes", "-b", "-"] + port + [target], 'ls -1 "%s"\n' % path
