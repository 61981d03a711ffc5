"""Checks of the machine or container itself: user, disks, certificates, PID 1."""

from __future__ import annotations

import os
import pwd
import ssl

from backends.text import memory_in_words
from entrypoint.cli.doctor.finding import FAIL, OK, WARN, Finding, Place, read_or_empty

_GIB = 1 << 30
_MIB = 1 << 20
# Variables that name a bundle of certificate authorities for some library.
CA_FILES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


def check_user(place: Place) -> Finding:
    """Check whether the user has a home directory that can be written."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = "no name"
    who = f"uid {os.getuid()} ({name}), gid {os.getgid()}"
    home = place.environ.get("HOME", "")
    fix = "set HOME to a directory that this user may write, such as /tmp; many libraries keep caches there"
    if not home:
        return Finding("user", WARN, f"{who}, HOME is not set", fix)
    if not os.access(home, os.W_OK | os.X_OK):
        return Finding("user", WARN, f"{who}, HOME={home} cannot be written", fix)
    return Finding("user", OK, f"{who}, HOME={home} can be written")


def check_disk(place: Place) -> Finding:
    """Check the free space of the working directory, the temporary directory and a local store."""
    places = {"work": os.curdir, "tmp": place.environ.get("TMPDIR") or "/tmp"}
    if place.store is not None and "://" not in place.store:
        above = os.path.abspath(place.store)
        while not os.path.isdir(above) and above != os.path.dirname(above):
            above = os.path.dirname(above)
        places["store"] = above
    state, details, fixes = OK, [], []
    for label, path in places.items():
        try:
            stat = os.statvfs(path)
        except OSError as error:
            state = FAIL
            details.append(f"{label} {path}: {error.strerror}")
            continue
        free = stat.f_bavail * stat.f_frsize
        details.append(f"{label} {memory_in_words(free)} free")
        if free < 64 * _MIB:
            state = FAIL
        elif free < _GIB and state == OK:
            state = WARN
        if label == "tmp" and not os.access(path, os.W_OK | os.X_OK):
            state = FAIL
            details[-1] += f" but {path} cannot be written"
            fixes.append("mount a tmpfs at /tmp (docker run --tmpfs /tmp), or set TMPDIR")
    if state != OK and not fixes:
        fixes.append("free some space, or point TMPDIR and the store at a larger disk")
    return Finding("disk", state, ", ".join(details), "; ".join(fixes))


def check_shm(place: Place) -> Finding:
    """Check the size of the shared memory, of which Docker gives 64 MiB unless told otherwise."""
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return Finding("shm", WARN, "there is no /dev/shm", "mount a tmpfs there; multiprocessing needs it")
    size = stat.f_blocks * stat.f_frsize
    if size <= 64 * _MIB:
        fix = "docker run --shm-size 1g; on Kubernetes a memory-backed emptyDir; data loaders with workers need more"
        return Finding("shm", WARN, f"/dev/shm holds {memory_in_words(size)}", fix)
    return Finding("shm", OK, f"/dev/shm holds {memory_in_words(size)}")


def check_ca(place: Place) -> Finding:
    """Check the bundles of certificate authorities: those that the environment names, else the system's."""
    named = {name: place.environ[name] for name in CA_FILES if place.environ.get(name)}
    for name, path in named.items():
        try:
            ssl.create_default_context(cafile=None if os.path.isdir(path) else path, capath=path)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Finding("ca", FAIL, f"{name}={path}: {reason}", f"mount a PEM bundle there, or unset {name}")
        if not os.path.exists(path):
            return Finding("ca", FAIL, f"{name}={path}: there is nothing there", f"mount a PEM bundle there, or unset {name}")
    if named:
        by_path = {path: [name for name in named if named[name] == path] for path in dict.fromkeys(named.values())}
        return Finding("ca", OK, "; ".join(f"{path} ({', '.join(names)})" for path, names in by_path.items()))
    defaults = ssl.get_default_verify_paths()
    if defaults.cafile and os.path.isfile(defaults.cafile):
        return Finding("ca", OK, f"the system's bundle, {defaults.cafile}")
    if defaults.capath and os.path.isdir(defaults.capath) and any(os.scandir(defaults.capath)):
        return Finding("ca", OK, f"the system's directory, {defaults.capath}")
    fix = "install ca-certificates, or set SSL_CERT_FILE to a PEM bundle"
    return Finding("ca", WARN, "no bundle of certificate authorities was found", fix)


def check_root(place: Place) -> Finding:
    """Look whether the root file system is read-only."""
    read_only = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    return Finding("root", OK, f"the root file system is {'read-only' if read_only else 'writable'}")


def check_init(place: Place) -> Finding:
    """Look who is PID 1, which has to reap zombies and pass signals on."""
    if os.getpid() == 1:
        return Finding("init", OK, "this process is PID 1; it passes signals on and reaps zombies itself")
    return Finding("init", OK, f"PID 1 is {read_or_empty('/proc/1/comm') or 'unknown'}")
