"""What a run left running, found by what all its processes inherit: a mark in their environment, or the test's folder."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "TEST_MARK"
"""The variable; give it to the entrypoint with a value of the test's own, such as its folder."""


def marked(value: object) -> dict[int, str]:
    """Return the command lines of the processes that carry the mark, by pid; zombies have no environment, and don't count.

    Args:
        value: the mark's value.
    """
    mark = f"{MARK}={value}".encode()
    found = {}
    for path in Path("/proc").glob("[1-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:300]
        except OSError:
            continue  # gone, or somebody else's
    return found


def mentioning(folder: Path) -> dict[int, str]:
    """Return the command lines, by pid, of the others' processes that have a path in their command line or environment.

    Args:
        folder: the path, such as the test's own.
    """
    found = {}
    for path in Path("/proc").glob("[1-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            if str(folder).encode() in command + (path / "environ").read_bytes() and int(path.name) != os.getpid():
                found[int(path.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # gone, or somebody else's
    return {pid: command for pid, command in found.items() if command}  # a zombie has none
