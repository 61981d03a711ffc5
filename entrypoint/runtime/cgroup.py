"""What the kernel's control group says about memory: limits, peaks, and whether the out-of-memory killer was here.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst (memory.events, memory.max, memory.peak) and cgroup-v1/memory.rst
(memory.oom_control, memory.limit_in_bytes, memory.max_usage_in_bytes).
"""

from __future__ import annotations

import os

ROOT = "/sys/fs/cgroup"
NO_LIMIT = 1 << 60  # version 1 writes "none" as the largest page-aligned 63-bit number


def _read(*parts: str) -> str:
    try:
        with open(os.path.join(*parts), "rb") as file:
            return file.read(65536).decode("ascii", "replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


def _field(text: str, name: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(name + " "):
            return _number(line[len(name) :])
    return None


class Memory:
    """The memory controller of one control group.

    Args:
        path: its directory.
        version: 1 or 2.
    """

    __slots__ = ("path", "version")

    def __init__(self, path: str, version: int) -> None:
        self.path = path
        self.version = version

    def oom_kills(self) -> int:
        """Return how many processes the out-of-memory killer has taken in this group so far."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _field(_read(self.path, name), "oom_kill") or 0

    def limit(self) -> int | None:
        """Return the limit in bytes, or None if there is none."""
        return _number(_read(self.path, "memory.max" if self.version == 2 else "memory.limit_in_bytes"))

    def current(self) -> int | None:
        """Return the bytes in use now, page cache included."""
        return _number(_read(self.path, "memory.current" if self.version == 2 else "memory.usage_in_bytes"))

    def peak(self) -> int | None:
        """Return the most bytes that were ever in use, or None where the kernel doesn't say (version 2 before Linux 5.19)."""
        return _number(_read(self.path, "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"))

    def child(self, name: str, limit: int) -> Memory | None:
        """Make a group below this one with a memory limit in bytes; None where this process may not.

        Version 2 lets only a group without processes of its own have limited children, so there it mostly is None.
        """
        path = os.path.join(self.path, name)
        try:
            os.mkdir(path)
        except OSError:
            return None
        group = Memory(path, self.version)
        try:
            if self.version == 2:
                with open(os.path.join(path, "memory.max"), "w") as file:
                    file.write(str(limit))
                swap = os.path.join(path, "memory.swap.max")
                if os.path.exists(swap):
                    with open(swap, "w") as file:
                        file.write("0")
            else:
                for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
                    if os.path.exists(os.path.join(path, name)):
                        with open(os.path.join(path, name), "w") as file:
                            file.write(str(limit))
        except OSError:
            group.remove()
            return None
        return group

    def remove(self) -> None:
        """Remove a group made by ``child``; one that still holds processes stays."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass

    @property
    def procs(self) -> str:
        """The file that takes the pids of processes to be moved into this group."""
        return os.path.join(self.path, "cgroup.procs")


def memory(root: str = ROOT, membership: str = "/proc/self/cgroup") -> Memory | None:
    """Return this process's memory group, or None where there is no such thing (macOS, the root group of version 2)."""
    paths: dict[str, str] = {}
    for line in _read(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for controller in controllers.split(","):
            paths[controller] = path
    for version, base, controller, proof in (
        (2, root, "", "memory.events"),
        (1, os.path.join(root, "memory"), "memory", "memory.oom_control"),
    ):
        if controller not in paths:
            continue
        # Inside a container the path can be the host's view while the mount shows the container's own group as its root.
        for candidate in (base + paths[controller], base):
            candidate = candidate.rstrip("/")
            if os.path.exists(os.path.join(candidate, proof)):
                return Memory(candidate, version)
    return None
