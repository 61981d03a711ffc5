"""What a run left running, found by a mark in its environment that all its processes inherit."""

from __future__ import annotations

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
