"""What an attempt uses: so far, or at its end."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from entrypoint.runtime.cgroup import Memory
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.gpu.claim import Claim


class Meter:
    """Counts what an attempt uses, of whatever it has by now.

    Attributes:
        group: the control group that its process runs in.
        gpus: the devices that it has.
        process: the step's process.
    """

    def __init__(self) -> None:
        self.group: Memory | None = None
        self.gpus: Claim | None = None
        self.process: Process | None = None
        self._oom_before = 0

    def enter(self, group: Memory | None) -> None:
        """Count the memory of a group from now on."""
        self.group = group
        self._oom_before = group.oom_kills() if group is not None else 0

    def oom_kills(self) -> int:
        """Return how many processes the out-of-memory killer took in the group since `enter`."""
        return self.group.oom_kills() - self._oom_before if self.group is not None else 0

    def read(self) -> dict[str, Any]:
        """Return the record's ``usage``."""
        usage: dict[str, Any] = {}
        if self.group is not None:
            usage = {
                "memory": self.group.current(),
                "memory_peak": self.group.peak(),
                "memory_limit": self.group.limit(),
                "oom_kill": self.oom_kills(),
            }
        if self.process is not None:
            usage.update(_use(self.process))
        if self.gpus is not None:
            usage["gpus"] = self.gpus.usage()
        return usage


def _use(process: Process) -> dict[str, Any]:
    """Return what a process and its descendants used: at its end, or so far."""
    tree = process.tree
    if process.status is None:
        if tree is None:
            return {}
        use = {"cpu_seconds": round(tree.cpu_seconds, 3), "rss": tree.rss, "rss_peak": tree.rss_peak}
        io: tuple[int, ...] | None = tree.io
    else:
        cpu, io = process.cpu_seconds, process.io
        if tree is not None:
            more, more_io = tree.beside()
            cpu += more
            io = tuple(map(sum, zip(io, more_io, strict=True))) if io is not None else tree.io
        use = {"cpu_seconds": round(cpu, 3), "max_rss": process.max_rss}
        use["rss_peak"] = max(process.max_rss, tree.rss_peak if tree is not None else 0)
    if io is not None:
        use.update(zip(("io_read", "io_written", "disk_read", "disk_written"), io, strict=True))
    return use
