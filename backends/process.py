"""Which process this is, whether another one still lives, and what time it is."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process lives; None if that can't be seen from here.

    Args:
        process: a claim, handle, lease or ``run.json``, with what `whoami` said in it; one without it names no process.
    """
    me = whoami()
    if any(name not in process for name in me) or process["host"] != me["host"]:
        return None
    if process["boot"] != me["boot"]:
        return False  # the machine was started anew since
    if process["pid_ns"] != me["pid_ns"]:
        return None
    if me["pid_start"] is not None:
        return process["pid_start"] is not None and process_start(process["pid"]) == process["pid_start"]
    try:  # without /proc a process id is all there is
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_visible(process: Mapping[str, Any]) -> bool:
    """Return whether a process, if it lives, can be seen here under its pid.

    Another boot id under the same host name may be another machine. Snapshots of one virtual machine share the boot id and the
    namespace's number, so the host's name must agree too.

    Args:
        process: a claim, with what `whoami` said in it; a torn one names no process.
    """
    me = whoami()
    if not me["boot"] or not process.get("pid_start"):
        return False
    return all(process.get(name) == me[name] for name in ("boot", "pid_ns", "host"))


def utc(seconds: float | None = None) -> str:
    """Return a time, by default now, as RFC 3339 in UTC with milliseconds.

    Args:
        seconds: since the epoch.
    """
    if seconds is None:
        seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


def process_start(pid: int | str) -> str | None:
    """Return when a process began, in the kernel's own count; None if it is gone, or a zombie, or can't be known here.

    Source: field 22 and field 3 of ``/proc/<pid>/stat``, proc(5).
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()  # the name before it may hold anything
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else fields[19].decode()


_whoami: dict[int, dict[str, Any]] = {}


def whoami() -> dict[str, Any]:
    """Return what tells this process from all others: host, boot, pid namespace, pid and its start."""
    pid = os.getpid()
    known = _whoami.get(pid)
    if known is None:
        boot = namespace = ""
        try:
            fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
            try:
                boot = os.read(fd, 64).decode().strip()
            finally:
                os.close(fd)
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            pass  # not Linux, or a sandbox without /proc: heartbeats alone tell
        known = {
            "host": os.uname().nodename,
            "boot": boot,
            "pid_ns": namespace,
            "pid": pid,
            "pid_start": process_start("self"),
        }
        _whoami.clear()  # a fork's child doesn't need its parent's
        _whoami[pid] = known
    return known
